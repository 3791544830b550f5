"""Everything is verified before it is stored, and again before it is served; see `eaa.verifier.documents`.

Nobody has to believe this cache: clients verify for themselves. What is verified here spares them documents that they
would have to refuse, and tells the operator at once which one is bad, instead of each of the clients later.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import unquote_to_bytes

from eaa.collateral.x509 import Certificate, parse_pem_chain
from eaa.errors import EAAError, MalformedInput, VerificationError
from eaa.pccs.records import Document, Kind, Supplement
from eaa.pccs.uploads import CAS, IDENTITY, TCB_INFO, Upload, UploadedDocument
from eaa.pccs.wire import Refusal, Status
from eaa.sources.selection import Candidate
from eaa.verifier import TrustAnchors
from eaa.verifier.documents import (
    VerifiedCA,
    VerifiedDocument,
    VerifiedRoot,
    verify_ca_chain,
    verify_identity,
    verify_pck_certificate,
    verify_pck_crl,
    verify_root_crl,
    verify_signer_chain,
    verify_tcb_info,
)

_TEES: Final = {"QE": "SGX", "QVE": "SGX", "TD_QE": "TDX"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Vouched:
    """One PKI's documents, each verified under the same root and the CRLs that are known."""

    supplement: Supplement
    root: VerifiedRoot
    trust_anchors: TrustAnchors

    @classmethod
    def under(cls, supplement: Supplement, *, trust_anchors: TrustAnchors) -> Vouched:
        """Verify the root that the chains end in, and its CRL.

        Raises:
            VerificationError, MalformedInput: they do not hold.
            Refusal: 460, there is no chain or no CRL to verify with.
        """
        chain = next(iter(supplement.chains.values()), None)
        if chain is None or supplement.root_crl is None:
            missing = "an issuer chain" if chain is None else "the root's CRL"
            raise Refusal(Status.INTEGRITY_ERROR, f"nothing can be verified without {missing}")
        root = Certificate.parse(parse_pem_chain(unquote_to_bytes(chain))[-1])
        verified = verify_root_crl(root, supplement.root_crl, trust_anchors=trust_anchors)
        return cls(supplement=supplement, root=verified, trust_anchors=trust_anchors)

    def root_crl(self, crl: bytes) -> VerifiedRoot:
        """Verify a CRL of the root which need not be the one that vouches."""
        return verify_root_crl(self.root.root, crl, trust_anchors=self.trust_anchors)

    def chain(self, name: str) -> bytes:
        """Return a chain, PEM. Raises Refusal (460) where there is none."""
        encoded = self.supplement.chains.get(name)
        if encoded is None:
            raise Refusal(Status.INTEGRITY_ERROR, f"the issuer chain {name} was never uploaded")
        return unquote_to_bytes(encoded)

    def ca(self, name: str) -> VerifiedCA:
        """Verify the PCK CA PROCESSOR or PLATFORM and its CRL."""
        crl = self.supplement.pck_crls.get(name)
        if crl is None:
            raise Refusal(Status.INTEGRITY_ERROR, f"the CRL of the {name} CA was never uploaded")
        return self.pck_crl(crl, chain=self.chain(name))

    def pck_crl(self, crl: bytes, *, chain: bytes) -> VerifiedCA:
        """Verify the CRL of a PCK CA under its chain."""
        return verify_pck_crl(crl, chain, root=self.root)

    def pck(self, candidate: Candidate, *, ca: VerifiedCA) -> VerifiedDocument:
        """Verify a PCK certificate, and that the TCBm it is kept under is its own."""
        verified = verify_pck_certificate(candidate.certificate.record.der, ca=ca, root=self.root)
        _require_place(candidate.tcbm == candidate.own_tcbm, f"TCBm {candidate.tcbm}", (candidate.own_tcbm,))
        return verified

    def tcb_info(self, document: UploadedDocument, *, chain: bytes) -> VerifiedDocument:
        """Verify TCB Info, and that it is of the model and TEE under which it is kept."""
        verified = verify_tcb_info(document.text, chain, root=self.root)
        said = (verified.tcb_info.fmspc.hex().upper(), verified.tcb_info.id)
        _require_place(said == (document.name, document.tee), f"TCB Info for {document.name}", said)
        return verified

    def identity(self, document: UploadedDocument, *, chain: bytes) -> VerifiedDocument:
        """Verify an identity, and that it is of the enclave under whose name it is kept."""
        verified = verify_identity(document.text, chain, root=self.root)
        said = (verified.identity.id, _TEES[verified.identity.id])
        _require_place(said == (document.name, document.tee), f"the {document.name} identity", said)
        return verified

    def document(self, document: Document) -> VerifiedDocument:
        """Verify a document that is kept, under the chain it is kept with, and that it is what it is kept as."""
        key = document.key
        chain = unquote_to_bytes(document.chain or "")
        tee = "TDX" if key.name == "TD_QE" else key.tee or "SGX"
        kept_as = UploadedDocument(name=key.name, tee=tee, update=key.update_type, text=document.body)
        match key.kind:
            case Kind.TCB_INFO:
                return self.tcb_info(kept_as, chain=chain)
            case Kind.IDENTITY:
                return self.identity(kept_as, chain=chain)
            case Kind.PCK_CRL:
                return self.pck_crl(document.body, chain=chain)
            case Kind.ROOT_CRL:
                return self.root_crl(document.body)


def _require_place(fits: bool, place: str, said: tuple[str, ...]) -> None:  # noqa: FBT001  a condition, as in assert
    if not fits:
        raise Refusal(Status.INVALID_REQUEST, f"what stands as {place} is {' '.join(said)}")


def verify_upload(upload: Upload, stored: Supplement, *, trust_anchors: TrustAnchors, now: datetime) -> None:
    """Verify everything of an upload with its own chains and CRLs, or with those stored where it brings none.

    1. The root and its CRL.
    2. Every chain, then the CRLs of the PCK CAs.
    3. PCK certificates, TCB Info, identities.
    4. Each is valid at `now`, chains and CRLs included.

    Raises:
        Refusal: 460, a signature, a chain, revocation or a date says no; 400, a document cannot be read or lies in the
            wrong place. The cause names the document and the reason code.
    """
    if upload.is_empty:
        return
    # 1.
    with _refusing("the root"):
        # Of the CRL that is stored and the one that comes, the newer vouches: an old one brings nobody back.
        vouched = Vouched.under(stored.with_upload(upload), trust_anchors=trust_anchors)
        vouched.root.require_current(now=now)
        if upload.root_crl is not None:
            vouched.root_crl(upload.root_crl).require_current(now=now)
    # 2.
    for name in upload.chains:
        verify_chain = verify_ca_chain if name in CAS else verify_signer_chain
        with _refusing(f"the chain {name}"):
            verify_chain(vouched.chain(name), root=vouched.root).require_current(now=now)
    cas = {}
    for name in sorted({*upload.pck_crls, *(platform.ca for platform in upload.platforms)}):
        with _refusing(f"the CRL of the {name} CA"):
            cas[name] = vouched.ca(name)
            cas[name].require_current(now=now)
            if name in upload.pck_crls:
                vouched.pck_crl(upload.pck_crls[name], chain=vouched.chain(name)).require_current(now=now)
    # 3. and 4.
    for platform in upload.platforms:
        with _refusing(f"a PCK certificate of FMSPC {platform.fmspc}"):
            for candidate in platform.certificates:
                vouched.pck(candidate, ca=cas[platform.ca]).require_current(now=now)
    for document in upload.tcb_infos:
        with _refusing(f"{document.tee} TCB Info for {document.name}, {document.update}"):
            vouched.tcb_info(document, chain=vouched.chain(TCB_INFO)).require_current(now=now)
    for document in upload.identities:
        with _refusing(f"the {document.name} identity, {document.update}"):
            vouched.identity(document, chain=vouched.chain(IDENTITY)).require_current(now=now)


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turn what verification raises into a Refusal that says of which document."""
    try:
        yield
    except MalformedInput as error:
        raise Refusal(Status.INVALID_REQUEST, f"{what}: {told(error)}") from error
    except VerificationError as error:
        raise Refusal(Status.INTEGRITY_ERROR, f"{what}: {told(error)}") from error


def told(error: EAAError) -> str:
    """Return message and reason code of an error, for one line of the log."""
    return f"{error.message} [{error.reason}]"
