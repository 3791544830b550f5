"""Quotes of Intel's TEEs, and the reports inside them."""

from __future__ import annotations

from typing import Final

from eaa.collateral.intel import parse_pem_chain
from eaa.errors import EAAError, MalformedInput
from eaa.evidence.ppid import PPID_SIZES, PPIDCertification
from eaa.evidence.quote import (
    BODY_DESCRIPTOR_SIZE,
    HEADER_SIZE,
    INTEL_QE_VENDOR_ID,
    QUOTE_VERSIONS,
    BodyType,
    CertificationDataType,
    Quote,
    TEEType,
)
from eaa.evidence.sgx import EnclaveReport, SGXAttribute
from eaa.evidence.tdx import TDAttribute, TDReport, TDReport15, TDReport15Extended
from eaa.shelter.inspect.certificates import certificate_facts
from eaa.shelter.inspect.result import Facts, Inspection

_KEY_TYPES: Final = {2: "ECDSA P-256", 3: "ECDSA P-384"}
_CERTIFICATION: Final[dict[int, str]] = {
    CertificationDataType.PPID_PLAIN: "platform id, in clear",
    CertificationDataType.PPID_RSA_2048: "platform id, encrypted with RSA-2048",
    CertificationDataType.PPID_RSA_3072: "platform id, encrypted with RSA-3072",
    CertificationDataType.PCK_LEAF: "PCK certificate",
    CertificationDataType.PCK_CHAIN: "PCK certificate chain",
}
_KSS_FIELDS: Final = ("isv_ext_prod_id", "isv_family_id", "config_id", "config_svn")

_BODIES: Final[dict[int, tuple[str, type[EnclaveReport | TDReport]]]] = {
    BodyType.SGX_REPORT: ("SGX enclave report", EnclaveReport),
    BodyType.TD_REPORT_10: ("TD report 1.0", TDReport),
    BodyType.TD_REPORT_15: ("TD report 1.5", TDReport15),
    BodyType.TD_REPORT_15_EXTENDED: ("TD report 1.5, extended", TDReport15Extended),
}
"""What is quoted, by its number in a version 5 quote."""


def inspect_quote(raw: bytes) -> Inspection | None:
    """Explain a quote of version 3, 4 or 5."""
    if not _looks_like_a_quote(raw):
        return None
    facts = _header_facts(raw)
    try:
        quote, trailing = Quote.parse_prefix(raw)
    except MalformedInput as error:
        return Inspection(format="quote", facts=facts | _front_facts(raw), problem=error)
    return Inspection(format="quote", facts=facts | quote_facts(quote, trailing))


def quote_facts(quote: Quote, trailing: bytes = b"") -> Facts:
    """Return what a quote says, with what stands behind it."""
    return {
        "version": quote.header.version,
        "tee": quote.header.tee_type.name.lower(),
        "body_type": _BODIES[quote.body_type][0],
        "padding": quote.padding,
        "trailing_bytes": 0 if quote.padding else len(trailing),
        "report": report_facts(quote.body),
        "quoting_enclave": {
            **report_facts(quote.qe_report),
            "authentication_data_size": len(quote.qe_auth_data),
        },
        "certification_data": _certification_facts(quote.certification_data_type, quote.certification_data),
    }


def report_facts(report: EnclaveReport | TDReport) -> Facts:
    """Return what a report says."""
    return _enclave_facts(report) if isinstance(report, EnclaveReport) else _domain_facts(report)


def _looks_like_a_quote(raw: bytes) -> bool:
    """Whether version, key type and vendor stand where they do in a quote; two of the three are enough."""
    if len(raw) < HEADER_SIZE or int.from_bytes(raw[:2], "little") not in QUOTE_VERSIONS:
        return False
    known_key = int.from_bytes(raw[2:4], "little") in _KEY_TYPES
    known_tee = int.from_bytes(raw[4:8], "little") in tuple(TEEType)
    return raw[12:28] == INTEL_QE_VENDOR_ID or (known_key and known_tee)


def _header_facts(raw: bytes) -> Facts:
    version, key_type = int.from_bytes(raw[:2], "little"), int.from_bytes(raw[2:4], "little")
    tee = int.from_bytes(raw[4:8], "little")
    names = {int(known): known.name.lower() for known in TEEType}
    return {
        "size": len(raw),
        "version": version,
        "tee": names.get(tee, f"unknown ({tee:#x})"),
        "attestation_key_type": _KEY_TYPES.get(key_type, f"unknown ({key_type})"),
        "qe_vendor_id": raw[12:28].hex(),
    }


def _front_facts(raw: bytes) -> Facts:
    """Return the body's facts where only what stands behind it cannot be read."""
    version, tee = int.from_bytes(raw[:2], "little"), int.from_bytes(raw[4:8], "little")
    at = HEADER_SIZE
    kind: int = BodyType.TD_REPORT_10 if tee == TEEType.TDX else BodyType.SGX_REPORT
    if version == 5:
        at += BODY_DESCRIPTOR_SIZE
        kind = int.from_bytes(raw[HEADER_SIZE : HEADER_SIZE + 2], "little")
    if kind not in _BODIES or tee not in tuple(TEEType):
        return {"body_type": f"unknown ({kind})"} if version == 5 else {}
    name, body = _BODIES[kind]
    content = raw[at : at + body.SIZE]
    return {"body_type": name} | ({"report": report_facts(body.parse(content))} if len(content) == body.SIZE else {})


def _enclave_facts(report: EnclaveReport) -> Facts:
    facts: Facts = {
        "mr_enclave": report.mr_enclave.hex(),
        "mr_signer": report.mr_signer.hex(),
        "isv_prod_id": report.isv_prod_id,
        "isv_svn": report.isv_svn,
        "debug": report.is_debug,
        "attributes": attribute_names(report.attributes),
        "xfrm": f"{int.from_bytes(report.attributes[8:], 'little'):#x}",
        "misc_select": f"{report.misc_select:#x}",
        "cpu_svn": report.cpu_svn.hex(),
        "report_data": report.report_data.hex(),
    }
    for name in _KSS_FIELDS:
        value = getattr(report, name)
        if value != 0 and value != bytes(16) and value != bytes(64):
            facts[name] = value if isinstance(value, int) else value.hex()
    return facts


def _domain_facts(report: TDReport) -> Facts:
    first = ("mr_td", "mr_config_id", "mr_owner", "mr_owner_config", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
    facts: Facts = {name: getattr(report, name).hex() for name in first}
    facts["debug"] = report.is_debug
    facts["attributes"] = _bit_names(report.td_attributes, {int(bit): str(bit.name) for bit in TDAttribute})
    facts.update({name: getattr(report, name).hex() for name, _ in report.LAYOUT if name not in first})
    return facts


def attribute_names(attributes: bytes) -> list[str]:
    """Return the flags that are set in 16 bytes of ATTRIBUTES, unknown ones as their bit."""
    return _bit_names(attributes[:8], {int(flag): str(flag.name) for flag in SGXAttribute})


def _bit_names(flags: bytes, known: dict[int, str]) -> list[str]:
    bits = int.from_bytes(flags, "little")
    return [known.get(1 << bit, f"bit {bit}") for bit in range(bits.bit_length()) if bits >> bit & 1]


def _certification_facts(kind: int, data: bytes) -> Facts:
    """Return what says who vouches for the quoting enclave. The platform's own id is never shown."""
    facts: Facts = {"type": kind, "content": _CERTIFICATION.get(kind, "unknown"), "size": len(data)}
    if kind in (CertificationDataType.PCK_LEAF, CertificationDataType.PCK_CHAIN):
        facts.update(_chain_facts(data))
    elif kind in PPID_SIZES:
        facts.update(_ppid_facts(data, kind))
    return facts


def _ppid_facts(data: bytes, kind: int) -> Facts:
    """Return what stands beside the platform's id, which is not shown, encrypted or not."""
    try:
        named = PPIDCertification.parse(data, kind=kind)
    except MalformedInput as error:
        return {"unreadable": error.message}
    return {"cpu_svn": named.cpu_svn.hex(), "pce_svn": named.pce_svn, "pce_id": named.pce_id.hex()}


def _chain_facts(pem: bytes) -> Facts:
    try:
        return {"certificates": [certificate_facts(content) for content in parse_pem_chain(pem)]}
    except EAAError as error:
        return {"unreadable": error.message}
