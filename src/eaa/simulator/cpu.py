"""The processor in software: EINIT decides what may be launched, EREPORT says what was, and only it knows the keys.

Layouts: Intel SDM vol. 3D, "TARGETINFO", "REPORT", "EINIT", "EREPORT". The real derivation of report keys cannot be
observed; ours is another function of exactly the same inputs, so that a report for another target, another platform
or another owner epoch fails here as it would there.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from eaa.errors import MalformedInput, Misuse, Reason, VerificationError
from eaa.evidence.layout import Reader
from eaa.evidence.sgx import REPORT_SIZE, EnclaveReport, SGXAttribute
from eaa.measure.sgx import measure_image
from eaa.measure.sigstruct import SIGSTRUCT
from eaa.simulator.entropy import Entropy

TARGET_INFO_SIZE: Final = 512
LOCAL_REPORT_SIZE: Final = 432
REPORT_DATA_SIZE: Final = 64
_XFRM_ALWAYS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetInfo:
    """For which enclave a report is made: TARGETINFO, 512 bytes."""

    mr_enclave: bytes
    """32 bytes."""
    attributes: bytes
    """16 bytes."""
    misc_select: int = 0
    """u32."""
    config_svn: int = 0
    """u16, KSS only."""
    config_id: bytes = bytes(64)
    """64 bytes, KSS only."""

    @classmethod
    def parse(cls, raw: bytes) -> TargetInfo:
        """Raise MalformedInput unless `raw` is one TARGETINFO with every reserved byte zero, as EREPORT demands."""
        reader = Reader(raw, what="the TARGETINFO", reason=Reason.EVIDENCE_MALFORMED)
        mr_enclave = reader.take(32, "MRENCLAVE")
        attributes = reader.take(16, "ATTRIBUTES")
        reserved = reader.take(2, "the CET attributes")
        config_svn = reader.uint(2, "CONFIGSVN")
        misc_select = reader.uint(4, "MISCSELECT")
        reserved += reader.take(8, "reserved bytes")
        config_id = reader.take(64, "CONFIGID")
        reserved += reader.take(384, "reserved bytes")
        reader.end()
        if any(reserved):
            raise MalformedInput(Reason.EVIDENCE_MALFORMED, "the TARGETINFO has reserved bytes that are not zero")
        return cls(
            mr_enclave=mr_enclave,
            attributes=attributes,
            misc_select=misc_select,
            config_svn=config_svn,
            config_id=config_id,
        )

    def encode(self) -> bytes:
        """Return the 512 bytes of this TARGETINFO."""
        head = self.mr_enclave + self.attributes + bytes(2) + self.config_svn.to_bytes(2, "little")
        return (head + self.misc_select.to_bytes(4, "little") + bytes(8) + self.config_id).ljust(
            TARGET_INFO_SIZE, b"\0"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalReport:
    """What EREPORT writes: a report body and the MAC that only its target can check, 432 bytes."""

    body: EnclaveReport
    key_id: bytes
    """32 bytes."""
    mac: bytes
    """16 bytes, AES-128-CMAC over the 384 bytes of the body."""

    @classmethod
    def parse(cls, raw: bytes) -> LocalReport:
        """Raise MalformedInput unless `raw` is exactly one report."""
        reader = Reader(raw, what="the report", reason=Reason.EVIDENCE_MALFORMED)
        body = EnclaveReport.parse(reader.take(REPORT_SIZE, "the report body"))
        key_id = reader.take(32, "the key id")
        mac = reader.take(16, "the MAC")
        reader.end()
        return cls(body=body, key_id=key_id, mac=mac)

    def encode(self) -> bytes:
        """Return the 432 bytes of this report."""
        return self.body.encode() + self.key_id + self.mac


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveIdentity:
    """What the processor keeps of a launched enclave (SECS)."""

    mr_enclave: bytes
    mr_signer: bytes
    attributes: bytes
    """16 bytes, INIT set."""
    misc_select: int = 0
    isv_prod_id: int = 0
    isv_svn: int = 0
    isv_family_id: bytes = bytes(16)
    isv_ext_prod_id: bytes = bytes(16)

    @property
    def target_info(self) -> TargetInfo:
        """What a report for this enclave is targeted at."""
        return TargetInfo(mr_enclave=self.mr_enclave, attributes=self.attributes, misc_select=self.misc_select)


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """One processor between two resets."""

    cpu_svn: bytes
    """16 bytes."""
    secret: bytes = field(repr=False)
    """32 bytes that never leave it."""
    owner_epoch: bytes = field(repr=False)
    """16 bytes; another owner epoch makes other keys."""
    key_id: bytes = field(repr=False)
    """32 bytes, random at each reset."""

    @classmethod
    def create(cls, entropy: Entropy, *, cpu_svn: bytes) -> Processor:
        """Return the processor of this world."""
        return cls(
            cpu_svn=cpu_svn,
            secret=entropy.take(32, "processor secret"),
            owner_epoch=entropy.take(16, "owner epoch"),
            key_id=entropy.take(32, "report key id"),
        )

    def launch(
        self, image: bytes, sigstruct: bytes, *, attributes: bytes | None = None, misc_select: int | None = None
    ) -> EnclaveIdentity:
        """Create, fill and initialise an enclave.

        1. Build it with ATTRIBUTES and MISCSELECT as given, else as the SIGSTRUCT has them.
        2. EINIT: the SIGSTRUCT is signed, and its reserved bytes are zero.
        3. EINIT: what was built measures to ENCLAVEHASH.
        4. EINIT: ATTRIBUTES and MISCSELECT agree with the SIGSTRUCT under its masks.

        Raises:
            MalformedInput: image or SIGSTRUCT is not what it claims to be.
            VerificationError: SIGSTRUCT_SIGNATURE, or ENCLAVE_LAUNCH for everything else that EINIT refuses.
        """
        # 1.
        signed = SIGSTRUCT.parse(sigstruct)
        attributes = signed.attributes if attributes is None else attributes
        misc_select = signed.misc_select if misc_select is None else misc_select
        _require_attributes(attributes)
        xfrm = int.from_bytes(attributes[8:], "little")
        measurement = measure_image(image, xfrm=xfrm, misc_select=misc_select)

        # 2.
        signed.verify_signature()
        if not signed.reserved_is_zero:
            raise _refused("the SIGSTRUCT has reserved bytes that are not zero")

        # 3.
        if measurement.mr_enclave != signed.enclave_hash:
            measured, expected = measurement.mr_enclave.hex(), signed.enclave_hash.hex()
            raise _refused(f"the image measures to {measured}, the SIGSTRUCT is for {expected}")

        # 4.
        _require_agreement(signed, attributes, misc_select)
        return _initialised(signed, attributes, misc_select)

    def report(self, enclave: EnclaveIdentity, *, target: TargetInfo, report_data: bytes) -> LocalReport:
        """EREPORT, executed in `enclave`, for `target`; `report_data` has 64 bytes."""
        if len(report_data) != REPORT_DATA_SIZE:
            raise Misuse(Reason.USAGE, f"report data has {REPORT_DATA_SIZE} bytes, {len(report_data)} were given")
        body = EnclaveReport(
            cpu_svn=self.cpu_svn,
            misc_select=enclave.misc_select,
            isv_ext_prod_id=enclave.isv_ext_prod_id,
            attributes=enclave.attributes,
            mr_enclave=enclave.mr_enclave,
            mr_signer=enclave.mr_signer,
            isv_prod_id=enclave.isv_prod_id,
            isv_svn=enclave.isv_svn,
            isv_family_id=enclave.isv_family_id,
            report_data=report_data,
        )
        mac = _cmac(self._report_key(target, self.key_id), body.encode())
        return LocalReport(body=body, key_id=self.key_id, mac=mac)

    def verify_report(self, enclave: EnclaveIdentity, report: LocalReport) -> EnclaveReport:
        """Return the body of a report made for `enclave` on this processor.

        Raises:
            VerificationError: REPORT_MAC.
        """
        expected = _cmac(self._report_key(enclave.target_info, report.key_id), report.body.encode())
        if not hmac.compare_digest(expected, report.mac):
            raise VerificationError(
                Reason.REPORT_MAC,
                "the local report's MAC does not verify: it was made for another enclave or platform, or changed",
                hint="a report has to be made for the TARGETINFO of the enclave that checks it",
            )
        return report.body

    def _report_key(self, target: TargetInfo, key_id: bytes) -> bytes:
        """Return the 16-byte report key: only the target of the report can ask the processor for it."""
        inputs = b"".join((b"report key", target.encode(), key_id, self.cpu_svn, self.owner_epoch))
        return hmac.digest(self.secret, inputs, hashlib.sha256)[:16]


def _initialised(signed: SIGSTRUCT, attributes: bytes, misc_select: int) -> EnclaveIdentity:
    flags = int.from_bytes(attributes[:8], "little") | SGXAttribute.INIT
    separated = bool(flags & SGXAttribute.KSS)
    return EnclaveIdentity(
        mr_enclave=signed.enclave_hash,
        mr_signer=signed.mr_signer,
        attributes=flags.to_bytes(8, "little") + attributes[8:],
        misc_select=misc_select,
        isv_prod_id=signed.isv_prod_id,
        isv_svn=signed.isv_svn,
        isv_family_id=signed.isv_family_id if separated else bytes(16),
        isv_ext_prod_id=signed.isv_ext_prod_id if separated else bytes(16),
    )


def _require_attributes(attributes: bytes) -> None:
    if len(attributes) != 16:
        raise Misuse(Reason.USAGE, f"ATTRIBUTES has 16 bytes, {len(attributes)} were given")
    if attributes[0] & SGXAttribute.INIT:
        raise _refused("INIT is set before EINIT has run")
    if attributes[8] & _XFRM_ALWAYS != _XFRM_ALWAYS:
        raise _refused("XFRM lacks x87 or SSE state, which no enclave can do without")


def _require_agreement(signed: SIGSTRUCT, attributes: bytes, misc_select: int) -> None:
    mask = int.from_bytes(signed.attributes_mask, "little")
    differing = (int.from_bytes(attributes, "little") ^ int.from_bytes(signed.attributes, "little")) & mask
    if differing:
        raise _refused(f"ATTRIBUTES differ from the SIGSTRUCT in bits {differing:#x}, on which its signer insists")
    differing = (misc_select ^ signed.misc_select) & signed.misc_mask
    if differing:
        raise _refused(f"MISCSELECT differs from the SIGSTRUCT in bits {differing:#x}, on which its signer insists")


def _refused(message: str) -> VerificationError:
    return VerificationError(
        Reason.ENCLAVE_LAUNCH, f"the enclave is not launched: {message}", hint="sign this very image again"
    )


def _cmac(key: bytes, message: bytes) -> bytes:
    mac = CMAC(AES(key))
    mac.update(message)
    return mac.finalize()
