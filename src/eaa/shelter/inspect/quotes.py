"""Quotes of Intel's TEEs, and the reports inside them."""

from __future__ import annotations

from typing import Final

from eaa.collateral.intel import parse_pem_chain
from eaa.errors import EAAError, MalformedInput, Reason
from eaa.evidence.layout import Reader
from eaa.evidence.quote import (
    HEADER_SIZE,
    INTEL_QE_VENDOR_ID,
    MAX_QUOTE_SIZE,
    CertificationDataType,
    Quote,
    TEEType,
)
from eaa.evidence.sgx import REPORT_SIZE, EnclaveReport, SGXAttribute
from eaa.evidence.tdx import TD_REPORT_10_SIZE, TDReport
from eaa.shelter.inspect.certificates import certificate_facts
from eaa.shelter.inspect.result import Facts, Inspection

_VERSIONS: Final = (3, 4, 5)
_KEY_TYPES: Final = {2: "ECDSA P-256", 3: "ECDSA P-384"}
_CERTIFICATION: Final[dict[int, str]] = {
    CertificationDataType.PPID_PLAIN: "platform id, in clear",
    CertificationDataType.PPID_RSA_2048: "platform id, encrypted with RSA-2048",
    CertificationDataType.PPID_RSA_3072: "platform id, encrypted with RSA-3072",
    CertificationDataType.PCK_LEAF: "PCK certificate",
    CertificationDataType.PCK_CHAIN: "PCK certificate chain",
}
_KSS_FIELDS: Final = ("isv_ext_prod_id", "isv_family_id", "config_id", "config_svn")

_BODY_TYPES: Final = {
    1: ("SGX enclave report", REPORT_SIZE),
    2: ("TD report 1.0", TD_REPORT_10_SIZE),
    3: ("TD report 1.5", 648),
    4: ("TD report 1.5, extended", 885),
}
"""Body types of a version 5 quote, each with its size."""
_NOT_YET: Final = "recognised; not verified by this release"


def inspect_quote(raw: bytes) -> Inspection | None:
    """Explain a quote of version 3, 4 or 5."""
    if not _looks_like_a_quote(raw):
        return None
    facts = _header_facts(raw)
    if facts["version"] == 5:
        return _inspect_version_5(raw, facts)
    try:
        quote, trailing = Quote.parse_prefix(raw)
    except MalformedInput as error:
        return Inspection(format="quote", facts=facts, problem=error)
    return Inspection(format="quote", facts=facts | quote_facts(quote, trailing))


def quote_facts(quote: Quote, trailing: bytes = b"") -> Facts:
    """Return what a quote says, with what stands behind it."""
    return {
        "version": quote.header.version,
        "tee": quote.header.tee_type.name.lower(),
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
    if len(raw) < HEADER_SIZE or int.from_bytes(raw[:2], "little") not in _VERSIONS:
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


def _inspect_version_5(raw: bytes, facts: Facts) -> Inspection:
    """Explain as much of a version 5 quote as its body tells; what signs it is not taken apart."""
    facts = facts | {"support": _NOT_YET}
    reader = Reader(raw[HEADER_SIZE : HEADER_SIZE + MAX_QUOTE_SIZE], what="the quote", reason=Reason.QUOTE_MALFORMED)
    try:
        body_type = reader.uint(2, "the body's type")
        body = reader.sized(4, MAX_QUOTE_SIZE, "the body")
        facts["body_type"] = _BODY_TYPES.get(body_type, (f"unknown ({body_type})", 0))[0]
        if body_type in _BODY_TYPES and len(body) == _BODY_TYPES[body_type][1]:
            facts["report"] = _version_5_body(body_type, body)
        authentication = reader.sized(4, MAX_QUOTE_SIZE, "the authentication data")
    except MalformedInput as error:
        return Inspection(format="quote", facts=facts, problem=error)
    trailing = reader.take(reader.remaining, "what follows")
    padding = 0 if trailing.strip(b"\0") else len(trailing)
    facts |= {"authentication_data_size": len(authentication), "padding": padding}
    facts["trailing_bytes"] = len(trailing) - padding
    return Inspection(format="quote", facts=facts)


def _version_5_body(body_type: int, body: bytes) -> Facts:
    if body_type == 1:
        return _enclave_facts(EnclaveReport.parse(body))
    facts = _domain_facts(TDReport.parse(body[:TD_REPORT_10_SIZE]))
    if body_type > 2:
        facts["tee_tcb_svn_2"] = body[584:600].hex()
        facts["mr_service_td"] = body[600:648].hex()
    return facts


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
    names = ("mr_td", "mr_config_id", "mr_owner", "mr_owner_config", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
    more = ("td_attributes", "xfam", "tee_tcb_svn", "mr_seam", "mr_signer_seam", "seam_attributes", "report_data")
    facts: Facts = {name: getattr(report, name).hex() for name in names}
    facts["debug"] = report.is_debug
    facts.update({name: getattr(report, name).hex() for name in more})
    return facts


def attribute_names(attributes: bytes) -> list[str]:
    """Return the flags that are set in 16 bytes of ATTRIBUTES, unknown ones as their bit."""
    flags = int.from_bytes(attributes[:8], "little")
    known = {int(flag): str(flag.name) for flag in SGXAttribute}
    return [known.get(1 << bit, f"bit {bit}") for bit in range(flags.bit_length()) if flags >> bit & 1]


def _certification_facts(kind: int, data: bytes) -> Facts:
    """Return what says who vouches for the quoting enclave. The platform's own id is never shown."""
    facts: Facts = {"type": kind, "content": _CERTIFICATION.get(kind, "unknown"), "size": len(data)}
    if kind in (CertificationDataType.PCK_LEAF, CertificationDataType.PCK_CHAIN):
        facts.update(_chain_facts(data))
    return facts


def _chain_facts(pem: bytes) -> Facts:
    try:
        return {"certificates": [certificate_facts(content) for content in parse_pem_chain(pem)]}
    except EAAError as error:
        return {"unreadable": error.message}
