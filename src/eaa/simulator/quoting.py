"""The quoting enclave and the provisioning certification enclave in software: a local report becomes a quote.

Source: Intel SGX ECDSA QuoteLib Reference, "Quote format", version 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from eaa.errors import Misuse, Reason
from eaa.evidence.quote import (
    ECDSA_P256,
    HEADER_SIZE,
    MAX_QE_AUTH_DATA,
    CertificationDataType,
    Quote,
    QuoteHeader,
    TEEType,
)
from eaa.evidence.sgx import REPORT_SIZE, EnclaveReport, SGXAttribute
from eaa.simulator.certificates import to_pem
from eaa.simulator.cpu import EnclaveIdentity, LocalReport, Processor, TargetInfo
from eaa.simulator.documents import QE_ATTRIBUTES, QE_MR_SIGNER, QE_PROD_ID
from eaa.simulator.entropy import Entropy, raw_public_key, sign_raw
from eaa.simulator.faults import NO_FAULTS, Edits, Fault, Faults, Stage, apply_faults, require_stage
from eaa.simulator.pki import other_key

QE_AUTH_DATA: Final = bytes(range(32))
"""What Intel's quoting enclave writes."""
_QUOTE_VERSIONS: Final = (3, 4)
_AUTH_LENGTH_AT: Final = HEADER_SIZE + REPORT_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteLayout:
    """Forms that quotes of different hosts have; the default is what Intel's software returns."""

    version: int = 3
    """3, or 4."""
    chain_terminator: bool = True
    """Whether a NUL ends the certificate chain."""
    qe_auth_data: bytes = QE_AUTH_DATA
    padding: int = 0
    """Zero bytes behind the quote, as hosts with fixed buffers leave them."""

    def __post_init__(self) -> None:
        """Refuse what no quote can be."""
        if self.version not in _QUOTE_VERSIONS or len(self.qe_auth_data) > MAX_QE_AUTH_DATA or self.padding < 0:
            raise Misuse(Reason.USAGE, f"no quote has version {self.version} and this layout")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotingEnclave:
    """The quoting enclave of one platform, provisioned."""

    processor: Processor
    entropy: Entropy
    isv_svn: int
    pce_svn: int
    pck_key: ec.EllipticCurvePrivateKey = field(repr=False)
    """Held by the provisioning certification enclave."""
    chain: tuple[x509.Certificate, ...]
    """PCK certificate, PCK CA, root."""

    @property
    def identity(self) -> EnclaveIdentity:
        """What the processor knows of the quoting enclave."""
        return EnclaveIdentity(
            mr_enclave=hashlib.sha256(b"EAA simulated quoting enclave %d" % self.isv_svn).digest(),
            mr_signer=QE_MR_SIGNER,
            attributes=QE_ATTRIBUTES,
            isv_prod_id=QE_PROD_ID,
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
        return self.entropy.key("attestation")

    def quote(self, report: bytes, *, layout: QuoteLayout | None = None, faults: Faults = NO_FAULTS) -> bytes:
        """Turn a local report (432 bytes, made for `target_info`) into a quote.

        1. Verify the report's MAC: only reports of this very platform are quoted.
        2. Vouch for the attestation key: the QE's own report carries its hash, and the PCK signs that report.
        3. Sign header and report with the attestation key.
        4. Add the certificate chain.

        Raises:
            MalformedInput: `report` is not one.
            VerificationError: REPORT_MAC.
            Misuse: a fault that is not of stage QUOTE.
        """
        faults = require_stage(faults, Stage.QUOTE)
        layout = apply_faults(layout or QuoteLayout(), _LAYOUT_EDITS, faults)
        other = other_key(self.entropy)
        # 1.
        body = self.processor.verify_report(self.identity, LocalReport.parse(report))
        # 2.
        vouched = _OFF_CURVE if Fault.ATTESTATION_KEY_OFF_CURVE in faults else raw_public_key(self.attestation_key)
        qe_report = apply_faults(self._own_report(vouched + layout.qe_auth_data), _QE_REPORT_EDITS, faults)
        pck_key = other if Fault.QE_REPORT_SIGNED_BY_OTHER_KEY in faults else self.pck_key
        # 3.
        header = apply_faults(self._header(layout.version), _HEADER_EDITS, faults)
        signed = header.encode() + body.encode()
        shown = raw_public_key(other) if Fault.FOREIGN_ATTESTATION_KEY in faults else vouched
        signing_key = other if faults & _FOREIGN_SIGNER else self.attestation_key
        # 4.
        chain = to_pem(*apply_faults(self.chain, _CHAIN_EDITS, faults))
        quote = Quote(
            header=header,
            body=body,
            signature=sign_raw(signing_key, signed),
            attestation_key=shown,
            qe_report=qe_report,
            qe_report_signature=sign_raw(pck_key, qe_report.encode()),
            qe_auth_data=layout.qe_auth_data,
            certification_data_type=CertificationDataType.PCK_CHAIN,
            certification_data=chain + (b"\0" if layout.chain_terminator else b""),
            signed_bytes=signed,
        )
        raw = apply_faults(quote, _QUOTE_EDITS, faults).encode()
        return apply_faults(raw, _BYTE_EDITS, faults) + bytes(layout.padding)

    def _header(self, version: int) -> QuoteHeader:
        svns = self.isv_svn.to_bytes(2, "little") + self.pce_svn.to_bytes(2, "little")
        return QuoteHeader(
            version=version,
            attestation_key_type=ECDSA_P256,
            tee_type=TEEType.SGX,
            qe_svn_and_pce_svn=svns if version == 3 else bytes(4),
            user_data=self.qe_id + bytes(4),
        )

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


def _auth_length_plus(difference: int) -> Callable[[bytes], bytes]:
    def edit(raw: bytes) -> bytes:
        length = int.from_bytes(raw[_AUTH_LENGTH_AT : _AUTH_LENGTH_AT + 4], "little") + difference
        return raw[:_AUTH_LENGTH_AT] + (length % (1 << 32)).to_bytes(4, "little") + raw[_AUTH_LENGTH_AT + 4 :]

    return edit


def _with_debug(report: EnclaveReport) -> EnclaveReport:
    attributes = bytes([report.attributes[0] | SGXAttribute.DEBUG]) + report.attributes[1:]
    return replace(report, attributes=attributes)


def _qe_report_altered(quote: Quote) -> Quote:
    return replace(quote, qe_report=replace(quote.qe_report, mr_enclave=_flip(quote.qe_report.mr_enclave, 0)))


def _leaf_only(quote: Quote) -> Quote:
    leaf = b"".join(quote.certification_data.partition(_PEM_END)[:2])
    return replace(quote, certification_data_type=CertificationDataType.PCK_LEAF, certification_data=leaf)


def _ppid_only(quote: Quote) -> Quote:
    plain = bytes(range(16)) + quote.body.cpu_svn + bytes(4) if isinstance(quote.body, EnclaveReport) else b""
    return replace(quote, certification_data_type=CertificationDataType.PPID_PLAIN, certification_data=plain)


_PEM_END: Final = b"-----END CERTIFICATE-----\n"
_LAYOUT_EDITS: Final[Edits[QuoteLayout]] = {
    Fault.HARMLESS_NO_CHAIN_TERMINATOR: lambda layout: replace(layout, chain_terminator=False),
    Fault.HARMLESS_EMPTY_QE_AUTH_DATA: lambda layout: replace(layout, qe_auth_data=b""),
    Fault.HARMLESS_LONG_QE_AUTH_DATA: lambda layout: replace(layout, qe_auth_data=bytes(range(64))),
    Fault.HARMLESS_TRAILING_ZEROS: lambda layout: replace(layout, padding=70),
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
    Fault.CHAIN_REVERSED: lambda chain: chain[::-1],
}
# After the signatures.
_QUOTE_EDITS: Final[Edits[Quote]] = {
    Fault.FLIP_QUOTE_SIGNATURE: lambda quote: replace(quote, signature=_flip(quote.signature, 63)),
    Fault.ZERO_QUOTE_SIGNATURE: lambda quote: replace(quote, signature=bytes(64)),
    Fault.QE_REPORT_ALTERED: _qe_report_altered,
    Fault.QE_AUTH_DATA_ALTERED: lambda quote: replace(quote, qe_auth_data=_flip(quote.qe_auth_data, 0)),
    Fault.CERTIFICATION_DATA_PPID: _ppid_only,
    Fault.CERTIFICATION_DATA_LEAF_ONLY: _leaf_only,
    Fault.CERTIFICATION_DATA_UNKNOWN: lambda quote: replace(quote, certification_data_type=7),
    Fault.CHAIN_JUNK: lambda quote: replace(quote, certification_data=b"junk"),
}
_BYTE_EDITS: Final[Edits[bytes]] = {
    Fault.REPORT_ALTERED: lambda raw: _flip(raw, HEADER_SIZE + 64),  # MRENCLAVE
    Fault.HEADER_ALTERED: lambda raw: _flip(raw, 28),  # the user data
    Fault.UNKNOWN_VERSION: _put(0, "0900"),
    Fault.UNKNOWN_ATTESTATION_KEY_TYPE: _put(2, "0300"),
    Fault.UNKNOWN_TEE_TYPE: _put(4, "07000000"),
    Fault.TDX_IN_VERSION_3: _put(4, "81000000"),
    Fault.UNKNOWN_QE_VENDOR: _put(12, "00" * 16),
    Fault.AUTH_DATA_TOO_SHORT: _auth_length_plus(-1),
    Fault.AUTH_DATA_TOO_LONG: _auth_length_plus(1),
    Fault.AUTH_DATA_HUGE: _put(_AUTH_LENGTH_AT, "ffffffff"),
    Fault.AUTH_DATA_SLACK: lambda raw: _auth_length_plus(1)(raw) + b"\x01",
    Fault.TRAILING_BYTES: lambda raw: raw + b"\x01" * 16,
}
