"""SIGSTRUCTs and enclave images; AMD's reports, which are only recognised."""

from __future__ import annotations

from typing import Final

from eaa.errors import EAAError, MalformedInput, Reason, VerificationError
from eaa.measure.sgx import identify_image, measure_image
from eaa.measure.sigstruct import DEBUG_SIGSTRUCT, INTEL_VENDOR, SIGSTRUCT
from eaa.shelter.inspect.quotes import attribute_names
from eaa.shelter.inspect.result import Facts, Inspection

_SIGSTRUCT_HEADER: Final = bytes.fromhex("06000000e100000000000100")
_SNP_REPORT_SIZE: Final = 1184
_SNP_VERSIONS: Final = (2, 3, 4, 5)
_ECDSA_P384: Final = 1
_SNP_DEBUG: Final = 1 << 19
_HCL_MAGIC: Final = b"HCLA"
_HCL_REPORT: Final = slice(32, 32 + _SNP_REPORT_SIZE)
_NOT_YET: Final = "recognised; AMD SEV-SNP is not supported yet"


def inspect_sigstruct(raw: bytes) -> Inspection | None:
    """Explain a SIGSTRUCT, and say whether its own signature holds: that takes no trust in anybody."""
    if not raw.startswith(_SIGSTRUCT_HEADER):
        return None
    try:
        sigstruct = SIGSTRUCT.parse(raw)
    except MalformedInput as error:
        return Inspection(format="sigstruct", facts={"size": len(raw)}, problem=error)
    return Inspection(format="sigstruct", facts=sigstruct_facts(sigstruct))


def sigstruct_facts(sigstruct: SIGSTRUCT) -> Facts:
    """Return what a SIGSTRUCT says."""
    facts: Facts = {
        "mr_enclave": sigstruct.enclave_hash.hex(),
        "mr_signer": sigstruct.mr_signer.hex(),
        "signature_holds": _holds(sigstruct),
        "isv_prod_id": sigstruct.isv_prod_id,
        "isv_svn": sigstruct.isv_svn,
        "debug": sigstruct.is_debug,
        "signed_as_debug": bool(sigstruct.header_type & DEBUG_SIGSTRUCT),
        "attributes": attribute_names(sigstruct.attributes),
        "attributes_mask": sigstruct.attributes_mask.hex(),
        "xfrm": f"{sigstruct.xfrm:#x}",
        "misc_select": f"{sigstruct.misc_select:#x}",
        "misc_mask": f"{sigstruct.misc_mask:#x}",
        "vendor": "Intel" if sigstruct.vendor == INTEL_VENDOR else f"{sigstruct.vendor:#x}",
        "date": sigstruct.build_date.isoformat() if sigstruct.build_date else None,
        "raw_date": f"{sigstruct.raw_date:08x}",
        "software_defined": sigstruct.software_defined,
        "reserved_bytes_are_zero": sigstruct.reserved_is_zero,
    }
    for name in ("isv_ext_prod_id", "isv_family_id"):
        if any(value := getattr(sigstruct, name)):
            facts[name] = value.hex()
    return facts


def _holds(sigstruct: SIGSTRUCT) -> bool:
    try:
        sigstruct.verify_signature()
    except VerificationError:
        return False
    return True


def inspect_image(raw: bytes) -> Inspection | None:
    """Explain an enclave image: what it measures to, and on what that depends."""
    try:
        image_format = identify_image(raw)
    except MalformedInput:
        return None
    facts: Facts = {"image_format": image_format.value, "size": len(raw)}
    try:
        measurement = measure_image(raw)
    except EAAError as error:
        return Inspection(format="enclave-image", facts=facts, problem=error)
    facts["mr_enclave"] = measurement.mr_enclave.hex()
    for name in ("enclave_size", "pages", "ssa_frame_size", "offset"):
        facts[name] = getattr(measurement, name)
    for name in ("xfrm", "misc_select", "mmap_min_addr"):
        if (assumed := getattr(measurement, name)) is not None:
            facts[f"assumed_{name}"] = f"{assumed:#x}"
    return Inspection(format="enclave-image", facts=facts)


def inspect_snp_report(raw: bytes) -> Inspection | None:
    """Recognise an AMD SEV-SNP report, alone or in the report of Azure's paravisor. The chip's own id is not shown."""
    if raw.startswith(_HCL_MAGIC) and _is_snp(raw[_HCL_REPORT]):
        return Inspection(
            format="snp-report", facts={"container": "Azure paravisor (HCL) report", **_snp_facts(raw[_HCL_REPORT])}
        )
    return Inspection(format="snp-report", facts=_snp_facts(raw)) if _is_snp(raw) else None


def _is_snp(raw: bytes) -> bool:
    version, algorithm = int.from_bytes(raw[:4], "little"), int.from_bytes(raw[0x34:0x38], "little")
    return len(raw) == _SNP_REPORT_SIZE and version in _SNP_VERSIONS and algorithm == _ECDSA_P384


def _snp_facts(raw: bytes) -> Facts:
    policy = int.from_bytes(raw[0x08:0x10], "little")
    return {
        "support": _NOT_YET,
        "version": int.from_bytes(raw[:4], "little"),
        "guest_svn": int.from_bytes(raw[0x04:0x08], "little"),
        "vmpl": int.from_bytes(raw[0x30:0x34], "little"),
        "measurement": raw[0x90:0xC0].hex(),
        "report_data": raw[0x50:0x90].hex(),
        "host_data": raw[0xC0:0xE0].hex(),
        "policy": f"{policy:#x}",
        "debug": bool(policy & _SNP_DEBUG),
        "reported_tcb": f"{int.from_bytes(raw[0x180:0x188], 'little'):#018x}",
    }


def unknown_executable(raw: bytes) -> MalformedInput | None:
    """Return what is to be said of an ELF file, which is close to an enclave image but has no measurement by itself."""
    if raw[:4] != b"\x7fELF":
        return None
    return MalformedInput(
        Reason.UNKNOWN_FORMAT,
        "the file is an ELF file; what it measures to as an enclave is decided by the SDK that loads it",
        hint="give the SGXS page stream or the SIGSTRUCT that the SDK's signing tool wrote",
    )
