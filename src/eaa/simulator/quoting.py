"""The quoting enclaves and the provisioning certification enclave in software: a report becomes a quote.

Source: Intel SGX ECDSA QuoteLib Reference, "Quote format", version 3; Intel TDX DCAP Quoting Library API, versions 4
and 5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from eaa.errors import Misuse, Reason
from eaa.evidence.ppid import PPIDCertification
from eaa.evidence.quote import (
    BODY_DESCRIPTOR_SIZE,
    ECDSA_P256,
    HEADER_SIZE,
    MAX_QE_AUTH_DATA,
    QUOTE_VERSIONS,
    Body,
    CertificationDataType,
    Quote,
    QuoteHeader,
    TEEType,
)
from eaa.evidence.sgx import EnclaveReport, SGXAttribute
from eaa.evidence.tdx import TDReport, TDReport15
from eaa.simulator.certificates import to_pem
from eaa.simulator.cpu import EnclaveIdentity, LocalReport, Processor, TargetInfo
from eaa.simulator.documents import (
    OLDEST_MODULE,
    QE_ATTRIBUTES,
    QE_MR_SIGNER,
    QE_PROD_ID,
    TD_QE_MR_SIGNER,
    TD_QE_PROD_ID,
)
from eaa.simulator.entropy import Entropy, raw_public_key, sign_raw
from eaa.simulator.faults import NO_FAULTS, Edits, Fault, Faults, Stage, apply_faults, require_stage, require_tee
from eaa.simulator.pki import other_key

QE_AUTH_DATA: Final = bytes(range(32))
"""What Intel's quoting enclave writes."""
_ENCRYPTED_PPID_SIZES: Final = {CertificationDataType.PPID_RSA_2048: 256, CertificationDataType.PPID_RSA_3072: 384}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteLayout:
    """Forms that quotes of different hosts have; the default is what Intel's software returns."""

    version: int = 3
    """3, 4 or 5; trust domains have 4 or 5, and TD reports from 1.5 on only 5."""
    certification: CertificationDataType = CertificationDataType.PCK_CHAIN
    """How much the quote says of its PCK certificate."""
    chain_terminator: bool = True
    """Whether a NUL ends the certificate chain."""
    qe_auth_data: bytes = QE_AUTH_DATA
    padding: int = 0
    """Zero bytes behind the quote, as hosts with fixed buffers leave them."""

    def __post_init__(self) -> None:
        """Refuse what no quote can be."""
        if self.version not in QUOTE_VERSIONS or len(self.qe_auth_data) > MAX_QE_AUTH_DATA or self.padding < 0:
            raise Misuse(Reason.USAGE, f"no quote has version {self.version} and this layout")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotingEnclave:
    """A quoting enclave of one platform, provisioned: that of SGX, or that of TDX."""

    tee: TEEType
    processor: Processor
    entropy: Entropy
    isv_svn: int
    pce_svn: int
    pce_id: bytes
    pck_key: ec.EllipticCurvePrivateKey = field(repr=False)
    """Held by the provisioning certification enclave."""
    chain: tuple[x509.Certificate, ...]
    """PCK certificate, PCK CA, root."""

    @property
    def identity(self) -> EnclaveIdentity:
        """What the processor knows of the quoting enclave."""
        is_sgx = self.tee is TEEType.SGX
        name = b"EAA simulated quoting enclave %d" if is_sgx else b"EAA simulated TD quoting enclave %d"
        return EnclaveIdentity(
            mr_enclave=hashlib.sha256(name % self.isv_svn).digest(),
            mr_signer=QE_MR_SIGNER if is_sgx else TD_QE_MR_SIGNER,
            attributes=QE_ATTRIBUTES,
            isv_prod_id=QE_PROD_ID if is_sgx else TD_QE_PROD_ID,
            isv_svn=self.isv_svn,
        )

    @property
    def target_info(self) -> TargetInfo:
        """For whom an enclave has to make the report that it wants quoted."""
        return self.identity.target_info

    @property
    def qe_id(self) -> bytes:
        """16 bytes that name this machine's quoting enclave."""
        return self.entropy.take(16, "QE id")

    @property
    def attestation_key(self) -> ec.EllipticCurvePrivateKey:
        """The key that signs quotes."""
        return self.entropy.key("attestation" if self.tee is TEEType.SGX else "TD attestation")

    def quote(self, report: bytes, *, layout: QuoteLayout | None = None, faults: Faults = NO_FAULTS) -> bytes:
        """Turn a local report (432 bytes, made for `target_info`) into a quote: of SGX, as `quote_body` otherwise.

        Raises:
            MalformedInput: `report` is not one.
            VerificationError: REPORT_MAC, it is not of this very platform, or was changed.
        """
        body = self.processor.verify_report(self.identity, LocalReport.parse(report))
        return self.quote_body(body, layout=layout or QuoteLayout(), faults=faults)

    def quote_body(self, body: Body, *, layout: QuoteLayout, faults: Faults = NO_FAULTS) -> bytes:
        """Turn the body of a report into a quote.

        1. Vouch for the attestation key: the QE's own report carries its hash, and the PCK signs that report.
        2. Sign header and body with the attestation key.
        3. Add the certificate chain, or what else the layout says of the PCK certificate.

        Raises:
            Misuse: a fault that is not of stage QUOTE, or a body that this version or enclave cannot quote.
        """
        faults = require_tee(require_stage(faults, Stage.QUOTE), self.tee)
        layout = apply_faults(layout, _LAYOUT_EDITS, faults)
        self._require_quotable(body, layout)
        body = apply_faults(body, _BODY_EDITS, faults)
        other = other_key(self.entropy)
        # 1.
        vouched = _OFF_CURVE if Fault.ATTESTATION_KEY_OFF_CURVE in faults else raw_public_key(self.attestation_key)
        qe_report = apply_faults(self._own_report(vouched + layout.qe_auth_data), _QE_REPORT_EDITS, faults)
        pck_key = other if Fault.QE_REPORT_SIGNED_BY_OTHER_KEY in faults else self.pck_key
        # 3, in front of 2 because a record is made in one piece.
        unsigned = Quote(
            header=apply_faults(self._header(layout.version), _HEADER_EDITS, faults),
            body=body,
            signature=bytes(64),
            attestation_key=raw_public_key(other) if Fault.FOREIGN_ATTESTATION_KEY in faults else vouched,
            qe_report=qe_report,
            qe_report_signature=sign_raw(pck_key, qe_report.encode()),
            qe_auth_data=layout.qe_auth_data,
            certification_data_type=layout.certification,
            certification_data=self._certification_data(layout, faults),
            signed_bytes=b"",
        )
        # 2.
        signed = unsigned.encode_signed_part()
        signature = sign_raw(other if faults & _FOREIGN_SIGNER else self.attestation_key, signed)
        quote = replace(unsigned, signature=signature, signed_bytes=signed)
        raw = apply_faults(quote, _QUOTE_EDITS, faults).encode()
        return apply_faults(raw, _BYTE_EDITS, faults) + bytes(layout.padding)

    def _require_quotable(self, body: Body, layout: QuoteLayout) -> None:
        is_sgx = self.tee is TEEType.SGX
        if isinstance(body, EnclaveReport) is not is_sgx:
            raise Misuse(Reason.USAGE, f"the quoting enclave of {self.tee.name} does not quote this report")
        first = 3 if is_sgx else 5 if isinstance(body, TDReport15) else 4
        if layout.version < first:
            raise Misuse(Reason.USAGE, f"this report is quoted from version {first} on, not in {layout.version}")

    def _header(self, version: int) -> QuoteHeader:
        svns = self.isv_svn.to_bytes(2, "little") + self.pce_svn.to_bytes(2, "little")
        return QuoteHeader(
            version=version,
            attestation_key_type=ECDSA_P256,
            tee_type=self.tee,
            qe_svn_and_pce_svn=svns if version == 3 else bytes(4),
            user_data=self.qe_id + bytes(4),
        )

    def _certification_data(self, layout: QuoteLayout, faults: Faults) -> bytes:
        if layout.certification is CertificationDataType.PCK_CHAIN:
            chain = to_pem(*apply_faults(self.chain, _CHAIN_EDITS, faults))
            return chain + (b"\0" if layout.chain_terminator else b"")
        if layout.certification is CertificationDataType.PCK_LEAF:
            return to_pem(self.chain[0])
        return PPIDCertification(
            kind=layout.certification,
            ppid=self._ppid(layout.certification),
            cpu_svn=self.processor.cpu_svn,
            pce_svn=self.pce_svn,
            pce_id=self.pce_id,
        ).encode()

    def _ppid(self, kind: CertificationDataType) -> bytes:
        """Return the PPID in clear, or what stands for its encryption: nobody decrypts it here."""
        if kind is CertificationDataType.PPID_PLAIN:
            return self.entropy.take(16, "PPID")
        return self.entropy.take(_ENCRYPTED_PPID_SIZES[kind], "encrypted PPID")

    def _own_report(self, vouched: bytes) -> EnclaveReport:
        """Return the QE's report over `vouched`. The PCE that signs it runs on the same processor."""
        report_data = hashlib.sha256(vouched).digest() + bytes(32)
        return self.processor.report(self.identity, target=self.target_info, report_data=report_data).body


# --- faults -------------------------------------------------------------------------------------------------------

_Chain = tuple[x509.Certificate, ...]

_OFF_CURVE: Final = (bytes(31) + b"\x01") * 2
_FOREIGN_SIGNER: Final = frozenset({Fault.QUOTE_SIGNED_BY_OTHER_KEY, Fault.FOREIGN_ATTESTATION_KEY})


def _flip(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes(octet ^ 1 for octet in raw[at : at + 1]) + raw[at + 1 :]


def _put(at: int, replacement: str) -> Callable[[bytes], bytes]:
    new = bytes.fromhex(replacement)
    return lambda raw: raw[:at] + new + raw[at + len(new) :]


def _body_at(raw: bytes) -> int:
    return HEADER_SIZE + (BODY_DESCRIPTOR_SIZE if raw[0] == 5 else 0)


def _auth_at(raw: bytes) -> int:
    """Return where the length of the authentication data stands."""
    if raw[0] == 5:
        return _body_at(raw) + int.from_bytes(raw[HEADER_SIZE + 2 : HEADER_SIZE + 6], "little")
    return HEADER_SIZE + (TDReport.SIZE if raw[4] == TEEType.TDX else EnclaveReport.SIZE)


def _outer_at(raw: bytes) -> int:
    """Return where the type of the outer certification data stands, from version 4 on."""
    return _auth_at(raw) + 4 + 64 + 64


def _u32_plus(place: Callable[[bytes], int], difference: int) -> Callable[[bytes], bytes]:
    def edit(raw: bytes) -> bytes:
        at = place(raw)
        number = int.from_bytes(raw[at : at + 4], "little") + difference
        return raw[:at] + (number % (1 << 32)).to_bytes(4, "little") + raw[at + 4 :]

    return edit


def _measurement_flipped(raw: bytes) -> bytes:
    # MRENCLAVE, or MRTD.
    return _flip(raw, _body_at(raw) + (136 if raw[4] == TEEType.TDX else 64))


def _with_debug(report: EnclaveReport) -> EnclaveReport:
    attributes = bytes([report.attributes[0] | SGXAttribute.DEBUG]) + report.attributes[1:]
    return replace(report, attributes=attributes)


def _qe_report_altered(quote: Quote) -> Quote:
    return replace(quote, qe_report=replace(quote.qe_report, mr_enclave=_flip(quote.qe_report.mr_enclave, 0)))


def _td(edit: Callable[[TDReport], TDReport]) -> Callable[[Body], Body]:
    return lambda body: edit(body) if isinstance(body, TDReport) else body


def _td_15(edit: Callable[[TDReport15], TDReport15]) -> Callable[[Body], Body]:
    return lambda body: edit(body) if isinstance(body, TDReport15) else body


def _svn(svn: bytes, *, minor: int | None = None, major: int | None = None) -> bytes:
    return bytes((svn[0] if minor is None else minor, svn[1] if major is None else major)) + svn[2:]


def _module_at(minor: int) -> Callable[[Body], Body]:
    """Let a module of another SVN run the domain, at its launch and now."""
    both = _td_15(lambda report: replace(report, tee_tcb_svn_2=_svn(report.tee_tcb_svn_2, minor=minor)))
    launch = _launched_at(minor)
    return lambda body: launch(both(body))


def _launched_at(minor: int) -> Callable[[Body], Body]:
    return _td(lambda report: replace(report, tee_tcb_svn=_svn(report.tee_tcb_svn, minor=minor)))


def _now_at(minor: int) -> Callable[[Body], Body]:
    return _td_15(lambda report: replace(report, tee_tcb_svn_2=_svn(report.tee_tcb_svn_2, minor=minor)))


_LAYOUT_EDITS: Final[Edits[QuoteLayout]] = {
    Fault.HARMLESS_NO_CHAIN_TERMINATOR: lambda layout: replace(layout, chain_terminator=False),
    Fault.HARMLESS_EMPTY_QE_AUTH_DATA: lambda layout: replace(layout, qe_auth_data=b""),
    Fault.HARMLESS_LONG_QE_AUTH_DATA: lambda layout: replace(layout, qe_auth_data=bytes(range(64))),
    Fault.HARMLESS_TRAILING_ZEROS: lambda layout: replace(layout, padding=70),
    Fault.CERTIFICATION_DATA_PPID: lambda layout: replace(layout, certification=CertificationDataType.PPID_PLAIN),
    Fault.CERTIFICATION_DATA_LEAF_ONLY: lambda layout: replace(layout, certification=CertificationDataType.PCK_LEAF),
    Fault.OUTER_CERTIFICATION_TYPE: lambda layout: replace(layout, version=max(layout.version, 4)),
    Fault.OUTER_CERTIFICATION_TOO_LONG: lambda layout: replace(layout, version=max(layout.version, 4)),
    Fault.UNKNOWN_BODY_TYPE: lambda layout: replace(layout, version=5),
}
_BODY_EDITS: Final[Edits[Body]] = {
    Fault.TD_SEAM_SIGNER: _td(lambda report: replace(report, mr_signer_seam=b"\x01" * 48)),
    Fault.TD_SEAM_ATTRIBUTES: _td(lambda report: replace(report, seam_attributes=b"\x01" + bytes(7))),
    Fault.TD_MODULE_UNKNOWN: _td(lambda report: replace(report, tee_tcb_svn=_svn(report.tee_tcb_svn, major=2))),
    Fault.TD_MODULE_BELOW_ALL: _module_at(OLDEST_MODULE - 1),
    Fault.TD_CURRENT_MODULE_BELOW_ALL: _now_at(OLDEST_MODULE - 1),
    Fault.OUTDATED_TD_MODULE: _module_at(OLDEST_MODULE),
    Fault.RELAUNCH_TD_MODULE: _launched_at(OLDEST_MODULE),
    Fault.HARMLESS_TD_CURRENT_MODULE_OLD: _now_at(OLDEST_MODULE),
    Fault.HARMLESS_TD_CURRENT_MODULE_ZERO: _td_15(lambda report: replace(report, tee_tcb_svn_2=bytes(16))),
}
_HEADER_EDITS: Final[Edits[QuoteHeader]] = {
    Fault.HARMLESS_HEADER_SVNS: lambda header: replace(header, qe_svn_and_pce_svn=b"\xff\xff\xff\xff"),
}
_QE_REPORT_EDITS: Final[Edits[EnclaveReport]] = {
    Fault.QE_REPORT_DATA_TAIL: lambda report: replace(report, report_data=report.report_data[:63] + b"\x01"),
    Fault.QE_MR_SIGNER: lambda report: replace(report, mr_signer=_flip(report.mr_signer, 0)),
    Fault.QE_PROD_ID: lambda report: replace(report, isv_prod_id=9),
    Fault.QE_MISC_SELECT: lambda report: replace(report, misc_select=1),
    Fault.QE_DEBUG: _with_debug,
    Fault.QE_SVN_BELOW_ALL: lambda report: replace(report, isv_svn=0),
}
_CHAIN_EDITS: Final[Edits[_Chain]] = {
    Fault.CHAIN_WITHOUT_ROOT: lambda chain: chain[:2],
    Fault.CHAIN_WITHOUT_CA: lambda chain: (chain[0], chain[-1]),
    Fault.CHAIN_WITH_EXTRA: lambda chain: (*chain, chain[-1]),
    Fault.HARMLESS_CHAIN_REVERSED: lambda chain: chain[::-1],
}
# After the signatures.
_QUOTE_EDITS: Final[Edits[Quote]] = {
    Fault.FLIP_QUOTE_SIGNATURE: lambda quote: replace(quote, signature=_flip(quote.signature, 63)),
    Fault.ZERO_QUOTE_SIGNATURE: lambda quote: replace(quote, signature=bytes(64)),
    Fault.QE_REPORT_ALTERED: _qe_report_altered,
    Fault.QE_AUTH_DATA_ALTERED: lambda quote: replace(quote, qe_auth_data=_flip(quote.qe_auth_data, 0)),
    Fault.CERTIFICATION_DATA_UNKNOWN: lambda quote: replace(quote, certification_data_type=7),
    Fault.CHAIN_JUNK: lambda quote: replace(quote, certification_data=b"junk"),
}
_BYTE_EDITS: Final[Edits[bytes]] = {
    Fault.REPORT_ALTERED: _measurement_flipped,
    Fault.HEADER_ALTERED: lambda raw: _flip(raw, 28),  # the user data
    Fault.UNKNOWN_VERSION: _put(0, "0900"),
    Fault.UNKNOWN_ATTESTATION_KEY_TYPE: _put(2, "0300"),
    Fault.UNKNOWN_TEE_TYPE: _put(4, "07000000"),
    Fault.TDX_IN_VERSION_3: _put(4, "81000000"),
    Fault.UNKNOWN_QE_VENDOR: _put(12, "00" * 16),
    Fault.TD_IN_VERSION_3: _put(0, "0300"),
    Fault.UNKNOWN_BODY_TYPE: _put(HEADER_SIZE, "0900"),
    Fault.OUTER_CERTIFICATION_TYPE: lambda raw: _put(_outer_at(raw), "0500")(raw),
    Fault.OUTER_CERTIFICATION_TOO_LONG: _u32_plus(lambda raw: _outer_at(raw) + 2, 1),
    Fault.AUTH_DATA_TOO_SHORT: _u32_plus(_auth_at, -1),
    Fault.AUTH_DATA_TOO_LONG: _u32_plus(_auth_at, 1),
    Fault.AUTH_DATA_HUGE: lambda raw: _put(_auth_at(raw), "ffffffff")(raw),
    Fault.AUTH_DATA_SLACK: lambda raw: _u32_plus(_auth_at, 1)(raw) + b"\x01",
    Fault.TRAILING_BYTES: lambda raw: raw + b"\x01" * 16,
}
