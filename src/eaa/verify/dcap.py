"""Verification of an Intel DCAP quote: evidence, collateral, trust anchors and a time to facts, or an error.

There is one way through, and no option that skips a step. What a step establishes comes back as a record that the
next step takes, so that none can be left out by accident either.

Source: the order of Intel's own verifier (`sgx_qve_verify_quote` and the four calls of the quote verification
library below it); the letters in comments are the order inside its fourth call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import permutations
from typing import Final, Generic, Literal, TypeVar, cast

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import (
    PCK_CHAIN_LENGTH,
    CertifiedPlatform,
    PCKCertificate,
    QEIdentity,
    TCBInfo,
    TCBStatus,
    decode_pem_text,
    parse_pem_chain,
    split_pem_chain,
)
from eaa.collateral.x509 import CRL, P256_SPKI_PREFIX, Certificate
from eaa.errors import MalformedInput, Misuse, Reason, VerificationError
from eaa.evidence.ppid import PPID_SIZES, PPIDCertification
from eaa.evidence.quote import CertificationDataType, Quote, TEEType
from eaa.evidence.sgx import EnclaveReport
from eaa.evidence.tdx import TDReport, TDReport15
from eaa.records import quick
from eaa.verify.chain import (
    INTEL,
    INTEL_ROOTS,
    PCK,
    PCK_CA,
    TCB_SIGNER,
    TrustAnchors,
    Window,
    certificate_window,
    crl_window,
    pin_root,
    raw_signature_is_valid,
    verify_dates,
    verify_issued,
    verify_not_revoked,
    verify_role,
)
from eaa.verify.documents import (
    identity_window,
    require_issuer_chain,
    require_same_root,
    tcb_info_window,
    verify_identity_signature,
    verify_issuer,
    verify_pck_crl,
    verify_root_crl,
    verify_tcb_info_signature,
)
from eaa.verify.tcb import Shortfall, TCBFacts, compare_with_launch, evaluate_tcb, select_tdx_module

__all__ = [
    "INTEL",
    "INTEL_ROOTS",
    "PCKChain",
    "RevocationLists",
    "TrustAnchors",
    "Verified",
    "VerifiedCollateral",
    "VerifiedPlatform",
    "VerifiedQuote",
    "certify_platform",
    "establish_facts",
    "evaluate_quote",
    "parse_attestation_key",
    "parse_pck_chain",
    "refuse_bad_time",
    "tcb_inputs",
    "verify_attestation_key",
    "verify_certification_data",
    "verify_collateral",
    "verify_evidence",
    "verify_pck_ca",
    "verify_pck_chain",
    "verify_qe",
    "verify_qe_identity",
    "verify_qe_report",
    "verify_quote",
    "verify_quote_signature",
    "verify_revocation_lists",
    "verify_tcb_info",
    "verify_tcb_info_fits",
    "verify_tdx_module",
]

_WITHOUT_CHAIN: Final = frozenset({*PPID_SIZES, CertificationDataType.PCK_LEAF})
_NO_GRACE: Final = timedelta(0)
_NOT_GENUINE: Final = "it was changed after it was made, or was never made by this platform: trust nothing that it says"
_FOREIGN_MODULE: Final = "this is no TDX module of Intel's: trust nothing that the domain says"

Origin = Literal["quote", "collateral"]
"""Where a PCK certificate chain came from."""
Known = dict[bytes, Certificate]
"""Certificates that were parsed before, by their PEM text, still untrusted. Chains repeat what other chains hold.

By its DER, which no text is, stands a root that was verified to be one when it was named as a trust anchor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedQuote:
    """The facts that a quote and its collateral establish. Whether they are good enough is appraisal."""

    quote: Quote = field(repr=False)
    tee: TEEType
    tcb_status: TCBStatus
    """Never Revoked: that is an error."""
    advisory_ids: tuple[str, ...]
    """Sorted; of the TCB that runs now."""
    launch_advisory_ids: tuple[str, ...]
    """Sorted; of the TCB under which the domain was launched. The same, where a quote tells only one TCB."""
    tcb_date: datetime
    """The oldest date of the TCB levels that matched."""
    tcb: TCBFacts = field(repr=False)
    """The levels that matched, of the TCB at launch and of the one that runs now, and what the next ones ask for."""
    fmspc: bytes
    """6 bytes."""
    pce_id: bytes
    """2 bytes."""
    ppid: bytes = field(repr=False)
    """16 bytes. Identifies one machine: never to be logged or shown."""
    platform_instance_id: bytes | None = field(repr=False)
    """16 bytes; only of platforms that the Platform CA certifies."""
    cpu_svn: bytes
    """16 bytes, of the PCK certificate."""
    pce_svn: int
    """Of the PCK certificate."""
    sgx_type: int
    """0 standard, 1 scalable, 2 scalable with integrity."""
    dynamic_platform: bool | None
    """Whether packages can be added to the machine; this and the next two only of the Platform CA, None elsewhere."""
    cached_keys: bool | None
    """Whether Intel keeps the machine's keys."""
    smt_enabled: bool | None
    """Whether simultaneous multithreading is on."""
    ca: Literal["processor", "platform"]
    pck_certificate_from: Origin
    """`collateral` where the quote only names the platform (certification data of types 1 to 4)."""
    certification_path: tuple[tuple[str, bytes], ...] = field(repr=False)
    """Common name and SHA-256 of the PCK certificate, the PCK CA and the root. The first identifies one machine."""
    trust_anchor: bytes
    """SHA-256 of the root under which everything was verified, 32 bytes."""
    simulated: bool
    """Whether that root is none of the vendor's, whatever its certificates say of themselves."""
    tcb_evaluation_data_number: int
    """The lower of the two below."""
    tcb_info_evaluation_number: int
    qe_identity_evaluation_number: int
    qe_isv_svn: int
    """The version of the quoting enclave; the rest of its report is `quoting_enclave`."""
    root_crl_number: int
    pck_crl_number: int
    issued: tuple[tuple[str, datetime], ...]
    """Every document that was used, and its first valid second; several may have one name."""
    earliest_expiration: datetime
    """When the first of `expirations` comes."""
    expirations: tuple[tuple[str, datetime], ...]
    """Every document that was used, and its last valid second; several may have one name."""
    collateral_expired: tuple[tuple[str, datetime], ...]
    """Those of them that are past, and were accepted only for the grace period."""
    verified_at: datetime
    """The time for which all of this was established; whoever judges it judges it as of then."""

    @property
    def body(self) -> EnclaveReport | TDReport:
        """The report that was quoted."""
        return self.quote.body

    @property
    def report_data(self) -> bytes:
        """The 64 bytes that the attester chose."""
        return self.quote.body.report_data

    @property
    def quoting_enclave(self) -> EnclaveReport:
        """The report of the enclave that made the quote."""
        return self.quote.qe_report

    @property
    def shortfalls(self) -> tuple[Shortfall, ...]:
        """Every SVN that an update would have to raise for a better status of the TCB that runs now."""
        return self.tcb.current.shortfalls

    @property
    def padding(self) -> int:
        """Zero bytes that followed the quote and were left out."""
        return self.quote.padding

    @property
    def certification_data_type(self) -> int:
        """See CertificationDataType."""
        return self.quote.certification_data_type


@dataclass(frozen=True, slots=True, kw_only=True)
class PCKChain:
    """The certificates that speak for a quote's platform: parsed, and still untrusted."""

    pck: Certificate
    ca: Certificate
    root: Certificate
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationLists:
    """Both CRLs, verified under one root."""

    root: Certificate
    root_crl: CRL
    pck_ca: Certificate
    """Who issued `pck_crl`, and must have issued the PCK certificate."""
    pck_crl: CRL
    windows: tuple[Window, ...] = field(repr=False)


Document = TypeVar("Document", PCKCertificate, TCBInfo, QEIdentity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified(Generic[Document]):
    """A document whose chain, role, revocation and signature hold, and when all that it rests on is valid."""

    document: Document
    windows: tuple[Window, ...] = field(repr=False)
    signer: Certificate = field(repr=False)
    """Who signed it, under the root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedCollateral:
    """A whole collateral, verified under one root; good for every quote of its platform model."""

    lists: RevocationLists
    tcb_info: TCBInfo
    qe_identity: QEIdentity
    windows: tuple[Window, ...] = field(repr=False)
    issued: tuple[tuple[str, datetime], ...]
    """Every document in it, and its first valid second."""
    expirations: tuple[tuple[str, datetime], ...]
    """Every document in it, and its last valid second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedPlatform:
    """A platform whose PCK certificate is verified, with what the facts of its quotes say of that certificate."""

    platform: CertifiedPlatform
    origin: Origin
    certification_path: tuple[tuple[str, bytes], ...] = field(repr=False)
    """Common name and SHA-256 of the PCK certificate, the PCK CA and the root."""
    issued: tuple[tuple[str, datetime], ...]
    expirations: tuple[tuple[str, datetime], ...]


_new_quote: Final = quick(VerifiedQuote)
_new_chain: Final = quick(PCKChain)
_new_lists: Final = quick(RevocationLists)
_new_verified: Final = quick(Verified)
_new_collateral: Final = quick(VerifiedCollateral)
_new_platform: Final = quick(VerifiedPlatform)


def verify_quote(
    quote: Quote,
    collateral: Collateral,
    *,
    trust_anchors: TrustAnchors,
    now: datetime,
    grace: timedelta = _NO_GRACE,
) -> VerifiedQuote:
    """Establish the facts that `quote` proves at `now`, an aware datetime.

    The steps, in Intel's order:

    1. A PCK chain of three certificates: the quote's own (certification data of type 5), or else the collateral's.
    2. The root of that chain is a trust anchor, by fingerprint. Every other chain must end in the very same root.
    3. CRLs: issuer chain, issuer, key identifier, signature, of the root and of the PCK CA.
    4. PCK chain: roles, issuance, and none of its certificates revoked; the PCK CRL speaks for this very CA.
       Dates of all certificates and CRLs so far.
    5. TCB Info: signer's role, issuance and revocation; signature over the exact bytes; dates.
    6. QE identity: the same.
    7. The quote itself, see `verify_evidence`, down to its TCB status.

    Args:
        quote: as parsed; nothing in it is trusted.
        collateral: as served; nothing in it is trusted.
        trust_anchors: the roots to believe.
        now: the time at which everything must be valid, both ends of each validity included.
        grace: how long TCB Info, QE identity and CRLs may be used past their nextUpdate. Certificates have none.

    Raises:
        MalformedInput: something is not what it claims to be.
        VerificationError: a signature, chain, role, revocation, date or identity says no; TCB_REVOKED and
            TCB_NOT_SUPPORTED too. Every other TCB status is a fact.
        Misuse: `now` is naive or `grace` is negative.
    """
    refuse_bad_time(now, grace)
    known = _roots_of(trust_anchors)
    # 1.
    chain = parse_pck_chain(quote, pck_certificate_chain=collateral.pck_certificate_chain, known=known)
    # 2.
    pin_root(chain.root, trust_anchors)
    # 3.
    lists = verify_revocation_lists(collateral, root=chain.root, known=known)
    # 4.
    pck = verify_pck_chain(chain, lists)
    verify_dates((*lists.windows, *pck.windows), now=now, grace=grace)
    # 5.
    tcb_info = verify_tcb_info(collateral, lists, known=known)
    verify_dates(tcb_info.windows, now=now, grace=grace)
    # 6.
    qe_identity = verify_qe_identity(collateral, lists, tcb_info=tcb_info, known=known)
    verify_dates(qe_identity.windows, now=now, grace=grace)
    # 7.
    documents = _collect(lists, tcb_info, qe_identity)
    tcb = verify_evidence(quote, pck.document, documents.tcb_info, documents.qe_identity)
    return establish_facts(quote, certify_platform(chain, pck), documents, tcb, now=now)


def verify_collateral(
    collateral: Collateral,
    *,
    trust_anchors: TrustAnchors,
    now: datetime,
    grace: timedelta = _NO_GRACE,
    known: Known | None = None,
) -> VerifiedCollateral:
    """Steps 2, 3, 5 and 6 of `verify_quote`, for a collateral without a quote. Raises the same.

    The certificates of its chains are added to `known`.
    """
    refuse_bad_time(now, grace)
    known = {} if known is None else known
    known.update(_roots_of(trust_anchors))
    pck_ca, root = _parse_issuer_chain(collateral.pck_crl_issuer_chain, what="PCK CRL", known=known)
    pin_root(root, trust_anchors)
    lists = _verify_revocation_lists(collateral, pck_ca=pck_ca, root=root, known=known)
    verify_dates(lists.windows, now=now, grace=grace)
    tcb_info = verify_tcb_info(collateral, lists, known=known)
    verify_dates(tcb_info.windows, now=now, grace=grace)
    qe_identity = verify_qe_identity(collateral, lists, tcb_info=tcb_info, known=known)
    verify_dates(qe_identity.windows, now=now, grace=grace)
    return _collect(lists, tcb_info, qe_identity)


def parse_pck_chain(
    quote: Quote,
    *,
    pck_certificate_chain: bytes | None = None,
    known: Known | None = None,
    known_pck: Certificate | None = None,
) -> PCKChain:
    """Step 1: find the PCK chain of a quote, untrusted.

    Args:
        quote: the quote.
        pck_certificate_chain: PEM, from the collateral. It speaks for quotes that carry no chain of their own
            (certification data of types 1 to 4), and is left alone for those that do.
        known: certificates that were parsed before; where they recur, byte for byte, they are not parsed again. The
            chain's are added.
        known_pck: the same, for what may be the PCK certificate.

    Raises:
        MalformedInput: the quote's record contradicts its signed bytes, or certification data of an unknown type.
        VerificationError: PCK_CERTIFICATE_MISSING; CERTIFICATE_CHAIN, not three certificates.
    """
    # The signature covers bytes, facts are read from the record: a record that was put together by hand may lie.
    if quote.raw is None and quote.encode_signed_part() != quote.signed_bytes:
        raise MalformedInput(
            Reason.QUOTE_MALFORMED,
            "header and body of the quote are not what its signature covers",
            hint="read the quote from its bytes",
        )
    kind = quote.certification_data_type
    if kind == CertificationDataType.PCK_CHAIN:
        return _parse_pck_chain(quote.certification_data, origin="quote", known=known, known_pck=known_pck)
    if kind not in _WITHOUT_CHAIN:
        raise MalformedInput(
            Reason.CERTIFICATION_DATA_UNSUPPORTED,
            f"the quote carries certification data of type {kind}; types 1 to 5 can be verified",
            hint="configure the quoting host so that it puts the PCK certificate chain into its quotes",
        )
    if pck_certificate_chain is None:
        raise VerificationError(
            Reason.PCK_CERTIFICATE_MISSING,
            f"the quote names its platform without the chain of its PCK certificate (certification data of type {kind})"
            ", and the collateral has none",
            hint="fetch it from a PCCS that knows the platform, or let the quoting host put the chain into its quotes",
        )
    return _parse_pck_chain(pck_certificate_chain, origin="collateral", known=known, known_pck=known_pck)


def _parse_pck_chain(pem: bytes, *, origin: Origin, known: Known | None, known_pck: Certificate | None) -> PCKChain:
    texts = split_pem_chain(pem)
    if len(texts) != PCK_CHAIN_LENGTH:
        raise VerificationError(
            Reason.CERTIFICATE_CHAIN,
            f"the {origin}'s PCK chain has {len(texts)} certificates; PCK certificate, PCK CA and root make "
            f"{PCK_CHAIN_LENGTH}",
            hint="configure the quoting host so that it puts all three into its quotes",
        )
    known = {} if known is None else known
    if known_pck is not None and decode_pem_text(texts[0]) == known_pck.der:
        known[texts[0]] = known_pck
    pck, ca, root = _in_order([_parse_certificate(text, known) for text in texts])
    return _new_chain(pck=pck, ca=ca, root=root, origin=origin)


def _in_order(chain: list[Certificate]) -> Sequence[Certificate]:
    """Return PCK certificate, PCK CA and root of a chain in whatever order; as it is where names lead to none.

    Names say where to look, as they do for Intel's verifier, and no more: who may do what is verified afterwards.
    """
    for pck, ca, root in permutations(chain):
        if pck.issuer == ca.subject and ca.issuer == root.subject == root.issuer:
            return pck, ca, root
    return chain


def verify_revocation_lists(
    collateral: Collateral, *, root: Certificate, known: Known | None = None
) -> RevocationLists:
    """Step 3: verify root CRL and PCK CRL under `root`, which the caller has pinned. No dates.

    Args:
        collateral: as served.
        root: the root that the caller has pinned.
        known: certificates that were parsed before, as in `parse_pck_chain`.

    Raises:
        MalformedInput, VerificationError: as `verify_quote`.
    """
    pck_ca = _parse_issuer(collateral.pck_crl_issuer_chain, root=root, what="PCK CRL", known=known)
    return _verify_revocation_lists(collateral, pck_ca=pck_ca, root=root, known={} if known is None else known)


def _verify_revocation_lists(
    collateral: Collateral, *, pck_ca: Certificate, root: Certificate, known: Known
) -> RevocationLists:
    """Do what `verify_revocation_lists` does, with the issuer of the PCK CRL that was found under this very root."""
    is_anchor = known.get(root.der) is root
    root_crl = verify_root_crl(collateral.root_ca_crl, root=root, is_verified=is_anchor)
    verify_issuer(pck_ca, PCK_CA, root=root, root_crl=root_crl)
    pck_crl = verify_pck_crl(collateral.pck_crl, ca=pck_ca)
    return _new_lists(
        root=root,
        root_crl=root_crl,
        pck_ca=pck_ca,
        pck_crl=pck_crl,
        windows=(
            certificate_window(root, name="root certificate"),
            crl_window(root_crl, name="root CRL"),
            certificate_window(pck_ca, name="PCK CRL issuer certificate"),
            crl_window(pck_crl, name="PCK CRL"),
        ),
    )


def verify_pck_chain(
    chain: PCKChain,
    lists: RevocationLists,
    *,
    verified_cas: Collection[Certificate] = (),
    known: PCKCertificate | None = None,
) -> Verified[PCKCertificate]:
    """Step 4: verify the PCK certificate under the root of `lists`. No dates.

    Args:
        chain: the chain that speaks for the platform.
        lists: what step 3 established.
        verified_cas: PCK CAs that `verify_pck_ca` let pass under the very same `lists`.
        known: a PCK certificate that was parsed before; where it is that of the chain, byte for byte, its SGX extension
            is not parsed again.

    Raises:
        MalformedInput, VerificationError: as `verify_quote`.
    """
    require_same_root(chain.root, lists.root, what="quote")
    if chain.ca not in verified_cas:
        verify_pck_ca(chain.ca, lists)
    verify_role(chain.pck, PCK)
    verify_issued(chain.pck, issuer=chain.ca)
    verify_not_revoked(chain.pck, crl=lists.pck_crl)
    return _new_verified(
        document=known if known and known.record == chain.pck else PCKCertificate.from_certificate(chain.pck),
        signer=chain.ca,
        windows=(
            certificate_window(chain.ca, name="PCK CA certificate"),
            certificate_window(chain.pck, name="PCK certificate"),
        ),
    )


def verify_pck_ca(ca: Certificate, lists: RevocationLists) -> None:
    """The part of step 4 that is about the PCK CA. Raises VerificationError, as `verify_quote`."""
    # Byte for byte the issuer of the PCK CRL: step 3 has verified it in this very role.
    if ca == lists.pck_ca:
        return
    verify_issuer(ca, PCK_CA, root=lists.root, root_crl=lists.root_crl)
    # Intel has issued several certificates for one CA key: name and key must be the same, the bytes need not.
    if (ca.subject, ca.spki) != (lists.pck_ca.subject, lists.pck_ca.spki):
        raise VerificationError(
            Reason.CRL_ISSUER,
            f"the PCK CRL is by {lists.pck_ca.common_name!r}, the PCK certificate by {ca.common_name!r}",
            hint="each PCK CA has its own CRL: fetch that of the CA which issued the PCK certificate",
        )


def certify_platform(
    chain: PCKChain, verified: Verified[PCKCertificate], *, platform: CertifiedPlatform | None = None
) -> VerifiedPlatform:
    """Return what steps 1 and 4 have established of a platform; `platform` replaces the document where it is given."""
    return _new_platform(
        platform=platform or verified.document,
        origin=chain.origin,
        certification_path=tuple([(item.common_name, item.fingerprint) for item in (chain.pck, chain.ca, chain.root)]),
        issued=_issued(verified.windows),
        expirations=_expirations(verified.windows),
    )


def verify_tcb_info(collateral: Collateral, lists: RevocationLists, *, known: Known | None = None) -> Verified[TCBInfo]:
    """Step 5: verify TCB Info under the root of `lists`. No dates.

    Args:
        collateral: as served.
        lists: what step 3 established.
        known: certificates that were parsed before, as in `parse_pck_chain`.

    Raises:
        MalformedInput, VerificationError: as `verify_quote`.
    """
    signer = _parse_issuer(collateral.tcb_info_issuer_chain, root=lists.root, what="TCB Info", known=known)
    verify_issuer(signer, TCB_SIGNER, root=lists.root, root_crl=lists.root_crl)
    info = verify_tcb_info_signature(collateral.tcb_info, collateral.tcb_info_signature, signer=signer)
    windows = (certificate_window(signer, name="TCB Info signing certificate"), tcb_info_window(info))
    return _new_verified(document=info, windows=windows, signer=signer)


def verify_qe_identity(
    collateral: Collateral,
    lists: RevocationLists,
    *,
    tcb_info: Verified[TCBInfo],
    known: Known | None = None,
) -> Verified[QEIdentity]:
    """Step 6: verify the QE identity under the root of `lists`. No dates.

    Args:
        collateral: as served.
        lists: what step 3 established.
        tcb_info: what step 5 established of this collateral, under the very same `lists`. Intel signs both documents
            with one certificate, and where it recurs, byte for byte, it is not verified again.
        known: certificates that were parsed before, as in `parse_pck_chain`.

    Raises:
        MalformedInput, VerificationError: as `verify_quote`.
    """
    if collateral.qe_identity_issuer_chain == collateral.tcb_info_issuer_chain:
        signer = tcb_info.signer
    else:
        signer = _parse_issuer(collateral.qe_identity_issuer_chain, root=lists.root, what="QE identity", known=known)
    if signer != tcb_info.signer:
        verify_issuer(signer, TCB_SIGNER, root=lists.root, root_crl=lists.root_crl)
    identity = verify_identity_signature(collateral.qe_identity, collateral.qe_identity_signature, signer=signer)
    windows = (certificate_window(signer, name="QE identity signing certificate"), identity_window(identity))
    return _new_verified(document=identity, windows=windows, signer=signer)


def verify_evidence(quote: Quote, pck: PCKCertificate, tcb_info: TCBInfo, qe_identity: QEIdentity) -> TCBFacts:
    """Step 7: verify the quote with documents that are themselves verified.

    e, f, g. TCB Info is for this kind of TEE, this FMSPC and this PCE.
    h. The quote's certification data is, or names, this very PCK certificate.
    i. For TDX: the module is one that TCB Info knows, with the signer and attributes it must have.
    j. The PCK signed the report of the quoting enclave (QE).
    k. That report binds the attestation key, and nothing else.
    l, m. The QE is the one that the QE identity describes.
    n. The attestation key signed header and body of the quote.
    o. TCB levels, their convergence, the TCB status.

    Raises:
        MalformedInput, VerificationError: as `verify_quote`.
    """
    # e, f, g. The letters before these are parsing, and what step 4 did.
    verify_tcb_info_fits(quote.header.tee_type, pck, tcb_info)
    # h.
    verify_certification_data(quote, pck)
    # i.
    if isinstance(quote.body, TDReport):
        verify_tdx_module(quote.body, tcb_info)
    # j.
    verify_qe_report(quote, pck)
    # k.
    verify_attestation_key(quote)
    # l, m.
    verify_qe(quote.qe_report, quote.header.tee_type, qe_identity)
    # n.
    verify_quote_signature(quote, parse_attestation_key(quote))
    # o.
    return evaluate_quote(quote, pck, tcb_info, qe_identity)


def verify_tcb_info_fits(tee: TEEType, pck: CertifiedPlatform, tcb_info: TCBInfo) -> None:
    """Step 7 e, f, g. Raises VerificationError (TCB_INFO_MISMATCH)."""
    wanted = {"kind of TEE": tee.name, "FMSPC": pck.fmspc.hex(), "PCE-ID": pck.pce_id.hex()}
    given = {"kind of TEE": tcb_info.id, "FMSPC": tcb_info.fmspc.hex(), "PCE-ID": tcb_info.pce_id.hex()}
    for what, value in wanted.items():
        if given[what] != value:
            raise VerificationError(
                Reason.TCB_INFO_MISMATCH,
                f"TCB Info is for {what} {given[what]}, the quote is from {value}",
                hint="fetch the TCB Info of this platform",
            )


def verify_certification_data(quote: Quote, pck: PCKCertificate) -> None:
    """Step 7 h: whatever the quote says of its PCK certificate is true of this one.

    Raises:
        MalformedInput: the certification data is not what its type says.
        VerificationError: PCK_CERTIFICATE_MISMATCH.
    """
    kind = quote.certification_data_type
    if kind == CertificationDataType.PCK_LEAF:
        if parse_pem_chain(quote.certification_data, maximum=1) != (pck.record.der,):
            raise _pck_mismatch("certificate")
    elif kind in PPID_SIZES:
        named = PPIDCertification.parse(quote.certification_data, kind=kind)
        # An encrypted PPID cannot be compared; that this PCK signed the QE's report is what binds it, in j.
        if named.plain_ppid not in (None, pck.ppid):
            raise _pck_mismatch("PPID")
        if named.cpu_svn != pck.cpu_svn:
            raise _pck_mismatch("CPUSVN")
        if named.pce_svn != pck.pce_svn:
            raise _pck_mismatch("PCE SVN")
        if named.pce_id != pck.pce_id:
            raise _pck_mismatch("PCE-ID")


def _pck_mismatch(what: str) -> VerificationError:
    return VerificationError(
        Reason.PCK_CERTIFICATE_MISMATCH,
        f"the quote names another {what} than that of the PCK certificate in the collateral",
        hint="fetch the PCK certificate for this quote's platform and TCB",
    )


def verify_tdx_module(report: TDReport, tcb_info: TCBInfo) -> None:
    """Step 7 i. Raises VerificationError (TDX_MODULE_MISMATCH)."""
    module = select_tdx_module(tcb_info, tee_tcb_svn=report.tee_tcb_svn)
    if report.mr_signer_seam != module.mr_signer:
        raise VerificationError(
            Reason.TDX_MODULE_MISMATCH,
            f"the TDX module's signer is {report.mr_signer_seam.hex()}; TCB Info asks for {module.mr_signer.hex()}",
            hint=_FOREIGN_MODULE,
        )
    # Intel's verifier wants zero and what the document says; a document that says anything else fits no module.
    if any(report.seam_attributes) or report.seam_attributes != module.attributes:
        raise VerificationError(
            Reason.TDX_MODULE_MISMATCH,
            f"the TDX module's attributes are {report.seam_attributes.hex()}; none may be set, and TCB Info asks for "
            f"{module.attributes.hex()}",
            hint=_FOREIGN_MODULE,
        )


def verify_qe_report(quote: Quote, pck: CertifiedPlatform) -> None:
    """Step 7 j. Raises VerificationError (QE_REPORT_SIGNATURE)."""
    if not raw_signature_is_valid(quote.qe_report_signature, quote.qe_report.encode(), pck.public_key):
        raise VerificationError(
            Reason.QE_REPORT_SIGNATURE,
            "the report of the quoting enclave is not signed by this PCK certificate's key",
            hint=_NOT_GENUINE,
        )


def verify_attestation_key(quote: Quote) -> None:
    """Step 7 k. Raises VerificationError (QE_REPORT_BINDING)."""
    digest = hashlib.sha256(quote.attestation_key + quote.qe_auth_data).digest()
    # All 64 bytes: a quoting enclave that puts something behind the digest is not the one we know.
    if quote.qe_report.report_data != digest + bytes(32):
        raise VerificationError(
            Reason.QE_REPORT_BINDING,
            "the report of the quoting enclave does not vouch for the quote's attestation key",
            hint=_NOT_GENUINE,
        )


def verify_qe(report: EnclaveReport, tee: TEEType, identity: QEIdentity) -> None:
    """Step 7 l, m. Raises VerificationError (QE_IDENTITY_MISMATCH)."""
    wanted = "TD_QE" if tee is TEEType.TDX else "QE"
    if identity.id != wanted:
        raise VerificationError(
            Reason.QE_IDENTITY_MISMATCH,
            f"the QE identity is for {identity.id}, the quote needs {wanted}",
            hint="fetch the QE identity for this kind of quote: SGX and TDX differ",
        )
    misc_select = report.misc_select.to_bytes(4, "little")
    if _masked(misc_select, identity.misc_select_mask) != identity.misc_select:
        raise _qe_mismatch("MISCSELECT", misc_select.hex(), identity.misc_select.hex())
    # The mask covers DEBUG, so that a quoting enclave under debug does not pass.
    if _masked(report.attributes, identity.attributes_mask) != identity.attributes:
        raise _qe_mismatch("set of attributes", report.attributes.hex(), identity.attributes.hex())
    if report.mr_signer != identity.mr_signer:
        raise _qe_mismatch("signer", report.mr_signer.hex(), identity.mr_signer.hex())
    if report.isv_prod_id != identity.isv_prod_id:
        raise _qe_mismatch("product", report.isv_prod_id, identity.isv_prod_id)


def _qe_mismatch(what: str, actual: object, expected: object) -> VerificationError:
    return VerificationError(
        Reason.QE_IDENTITY_MISMATCH,
        f"the quoting enclave's {what} is {actual}; its identity asks for {expected}",
        hint="this is not the quoting enclave that Intel describes: trust nothing that its quotes say",
    )


def _masked(value: bytes, mask: bytes) -> bytes:
    if len(value) != len(mask):
        raise ValueError(f"{len(value)} bytes cannot be masked by {len(mask)}")
    return (int.from_bytes(value, "big") & int.from_bytes(mask, "big")).to_bytes(len(value), "big")


def parse_attestation_key(quote: Quote) -> EllipticCurvePublicKey:
    """Return the key that must have signed the quote. Raises MalformedInput where it is no point on the curve."""
    try:
        # As those of certificates are: the one way into the library is warm by now.
        return cast("EllipticCurvePublicKey", load_der_public_key(P256_SPKI_PREFIX + quote.attestation_key))
    except ValueError as error:
        raise MalformedInput(
            Reason.QUOTE_MALFORMED, "the quote's attestation key is no point on P-256", hint=_NOT_GENUINE
        ) from error


def verify_quote_signature(quote: Quote, attestation_key: EllipticCurvePublicKey) -> None:
    """Step 7 n. Raises VerificationError (QUOTE_SIGNATURE)."""
    if not raw_signature_is_valid(quote.signature, quote.signed_bytes, attestation_key):
        raise VerificationError(
            Reason.QUOTE_SIGNATURE,
            "the quote is not signed by its attestation key",
            hint=_NOT_GENUINE,
        )


def evaluate_quote(quote: Quote, pck: CertifiedPlatform, tcb_info: TCBInfo, qe_identity: QEIdentity) -> TCBFacts:
    """Step 7 o: evaluate the TCB under which the quoted code was launched, and the one that runs now.

    Raises:
        VerificationError: TCB_NOT_SUPPORTED, TCB_REVOKED, TDX_MODULE_MISMATCH; of either of the two.
    """
    evaluate = partial(
        evaluate_tcb,
        tcb_info,
        qe_identity,
        tcb_components=pck.tcb_components,
        pce_svn=pck.pce_svn,
        qe_isv_svn=quote.qe_report.isv_svn,
    )
    report = quote.body
    launch = evaluate(tee_tcb_svn=report.tee_tcb_svn if isinstance(report, TDReport) else None)
    # Only from TD report 1.5 on does a report tell the two apart.
    current = evaluate(tee_tcb_svn=report.tee_tcb_svn_2) if isinstance(report, TDReport15) else launch
    return compare_with_launch(launch, current)


def tcb_inputs(quote: Quote) -> tuple[bytes | None, ...]:
    """Return all that steps 7 i and o read of the quoted body."""
    report = quote.body
    if not isinstance(report, TDReport):
        return ()
    current = report.tee_tcb_svn_2 if isinstance(report, TDReport15) else None
    return report.mr_signer_seam, report.seam_attributes, report.tee_tcb_svn, current


def establish_facts(
    quote: Quote, verified: VerifiedPlatform, collateral: VerifiedCollateral, tcb: TCBFacts, *, now: datetime
) -> VerifiedQuote:
    """Put together what the steps have established."""
    pck, lists = verified.platform, collateral.lists
    numbers = (collateral.tcb_info.tcb_evaluation_data_number, collateral.qe_identity.tcb_evaluation_data_number)
    expirations = verified.expirations + collateral.expirations
    earliest = min([moment for _, moment in expirations])
    return _new_quote(
        quote=quote,
        tee=quote.header.tee_type,
        tcb_status=tcb.tcb_status,
        advisory_ids=tcb.advisory_ids,
        launch_advisory_ids=tcb.launch_advisory_ids,
        tcb_date=tcb.tcb_date,
        tcb=tcb,
        fmspc=pck.fmspc,
        pce_id=pck.pce_id,
        ppid=pck.ppid,
        platform_instance_id=pck.platform_instance_id,
        cpu_svn=pck.cpu_svn,
        pce_svn=pck.pce_svn,
        sgx_type=pck.sgx_type,
        dynamic_platform=pck.dynamic_platform,
        cached_keys=pck.cached_keys,
        smt_enabled=pck.smt_enabled,
        ca=pck.ca,
        pck_certificate_from=verified.origin,
        certification_path=verified.certification_path,
        trust_anchor=lists.root.fingerprint,
        simulated=not TrustAnchors.is_vendor(lists.root.fingerprint),
        tcb_evaluation_data_number=min(numbers),
        tcb_info_evaluation_number=numbers[0],
        qe_identity_evaluation_number=numbers[1],
        qe_isv_svn=quote.qe_report.isv_svn,
        root_crl_number=lists.root_crl.number,
        pck_crl_number=lists.pck_crl.number,
        issued=verified.issued + collateral.issued,
        earliest_expiration=earliest,
        expirations=expirations,
        collateral_expired=tuple([item for item in expirations if item[1] < now]),
        verified_at=now,
    )


def _roots_of(trust_anchors: TrustAnchors) -> Known:
    return {root.der: root for root in trust_anchors.roots}


def _parse_issuer_chain(pem: bytes, *, what: str, known: Known | None = None) -> tuple[Certificate, Certificate]:
    texts = split_pem_chain(pem)
    require_issuer_chain(len(texts), what=what)
    known = {} if known is None else known
    return _parse_certificate(texts[0], known), _parse_certificate(texts[1], known)


def _parse_certificate(text: bytes, known: Known) -> Certificate:
    """Parse the certificate of a PEM text, unless it was parsed before."""
    certificate = known.get(text) or _vendor_roots.get(text)
    if certificate is None:
        raw = decode_pem_text(text)
        certificate = known.get(raw) or Certificate.parse(raw)
        if certificate.fingerprint in INTEL_ROOTS and len(_vendor_roots) < _MAX_VENDOR_ROOTS:
            _vendor_roots[text] = certificate
    known[text] = certificate
    return certificate


_MAX_VENDOR_ROOTS: Final = 16
_vendor_roots: Final[Known] = {}
"""Vendors' roots are known to the last bit: what they say is read once a process. Whether one is trusted is another
question, which every verifier asks of its own anchors."""


def _parse_issuer(pem: bytes, *, root: Certificate, what: str, known: Known | None = None) -> Certificate:
    """Return the first certificate of an issuer chain that ends in the very root that is pinned."""
    issuer, its_root = _parse_issuer_chain(pem, what=what, known=known)
    require_same_root(its_root, root, what=what)
    return issuer


def refuse_bad_time(now: datetime, grace: timedelta) -> None:
    """Raise Misuse where `now` is naive or `grace` is negative."""
    if now.utcoffset() is None:
        raise Misuse(Reason.USAGE, "the time to verify at has no time zone")
    if grace < _NO_GRACE:
        raise Misuse(Reason.USAGE, "a grace period cannot be negative")


def _collect(
    lists: RevocationLists, tcb_info: Verified[TCBInfo], qe_identity: Verified[QEIdentity]
) -> VerifiedCollateral:
    windows = (*lists.windows, *tcb_info.windows, *qe_identity.windows)
    return _new_collateral(
        lists=lists,
        tcb_info=tcb_info.document,
        qe_identity=qe_identity.document,
        windows=windows,
        issued=_issued(windows),
        expirations=_expirations(windows),
    )


def _issued(windows: tuple[Window, ...]) -> tuple[tuple[str, datetime], ...]:
    return tuple([(window.name, window.not_before) for window in windows])


def _expirations(windows: tuple[Window, ...]) -> tuple[tuple[str, datetime], ...]:
    return tuple([(window.name, window.not_after) for window in windows])
