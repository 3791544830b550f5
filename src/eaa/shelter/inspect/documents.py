"""Collateral: TCB Info, QE identity, revocation lists, and the file that holds one platform model's set of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from cryptography import x509

from eaa.collateral.bundle import MAX_COLLATERAL_SIZE, Collateral
from eaa.collateral.intel import (
    QEIdentity,
    SignedMember,
    SVNLevel,
    TCBInfo,
    TCBLevel,
    TDXModule,
    parse_pem_chain,
    split_signed_document,
)
from eaa.errors import EAAError, MalformedInput, Reason
from eaa.evidence.tagged import Endorsements
from eaa.shelter.inspect.certificates import (
    LIBRARY_ERRORS,
    certificate_facts,
    first_line,
    signed_body,
    without_warnings,
)
from eaa.shelter.inspect.pem import from_hex, pem_blocks
from eaa.shelter.inspect.result import Facts, Inspection, moment

MAX_LISTED_SERIALS: Final = 1000
"""Revoked serial numbers of one list that are told."""
_COLLATERAL_MEMBERS: Final = frozenset({"tcb_info", "qe_identity", "pck_crl", "root_ca_crl"})
_FORMATS: Final[dict[SignedMember, str]] = {"tcbInfo": "tcb-info", "enclaveIdentity": "qe-identity"}
_BODIES: Final[dict[SignedMember, frozenset[str]]] = {
    "tcbInfo": frozenset({"fmspc", "tcbLevels"}),
    "enclaveIdentity": frozenset({"mrsigner", "tcbLevels"}),
}
_CHAINS: Final = ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain")


def inspect_document(raw: bytes) -> Inspection | None:
    """Explain a JSON document of Intel's, or a collateral file."""
    members = json_members(raw)
    if members is None:
        return None
    # Two of the four are enough to know what a damaged file was meant to be.
    if len(_COLLATERAL_MEMBERS & members) > 1:
        return _inspect_collateral(raw)
    for member in _FORMATS:
        if member in members:
            return _inspect_document(raw, member, read=_served_facts)
    for member, names in _BODIES.items():
        if names <= members:
            # The inner object alone, as some tools store it: there is no signature beside it.
            return _inspect_document(raw, member, read=_body_facts)
    return None


def json_members(raw: bytes) -> frozenset[str] | None:
    """Return the names of a JSON object's members, or None where `raw` is no JSON object."""
    if raw.lstrip()[:1] != b"{" or len(raw) > MAX_COLLATERAL_SIZE:
        return None
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return frozenset(document) if isinstance(document, dict) else None


# --- signed documents


def _inspect_document(raw: bytes, member: SignedMember, *, read: Callable[[bytes, SignedMember], Facts]) -> Inspection:
    try:
        return Inspection(format=_FORMATS[member], facts=read(raw, member))
    except EAAError as error:
        return Inspection(format=_FORMATS[member], facts={"size": len(raw)}, problem=error)


def _served_facts(raw: bytes, member: SignedMember) -> Facts:
    body, signature = split_signed_document(raw, member)
    return _body_facts(body, member) | {"signature": signature.hex()}


def _body_facts(body: bytes, member: SignedMember) -> Facts:
    return tcb_info_facts(TCBInfo.parse(body)) if member == "tcbInfo" else qe_identity_facts(QEIdentity.parse(body))


def tcb_info_facts(info: TCBInfo) -> Facts:
    """Return what a TCB Info says."""
    facts: Facts = {
        "id": info.id,
        "version": info.version,
        "fmspc": info.fmspc.hex(),
        "pce_id": info.pce_id.hex(),
        "issue_date": moment(info.issue_date),
        "next_update": moment(info.next_update),
        "tcb_evaluation_data_number": info.tcb_evaluation_data_number,
    }
    if info.tdx_module is not None:
        facts["tdx_module"] = _module_facts(info.tdx_module)
        facts["tdx_module_identities"] = [
            {"id": identity.id, **_module_facts(identity), "levels": [_svn_facts(item) for item in identity.tcb_levels]}
            for identity in info.tdx_module_identities
        ]
    return facts | {"levels": [_level_facts(level) for level in info.tcb_levels]}


def qe_identity_facts(identity: QEIdentity) -> Facts:
    """Return what a QE identity says."""
    return {
        "id": identity.id,
        "version": identity.version,
        "issue_date": moment(identity.issue_date),
        "next_update": moment(identity.next_update),
        "tcb_evaluation_data_number": identity.tcb_evaluation_data_number,
        "mr_signer": identity.mr_signer.hex(),
        "isv_prod_id": identity.isv_prod_id,
        "attributes": identity.attributes.hex(),
        "attributes_mask": identity.attributes_mask.hex(),
        "misc_select": identity.misc_select.hex(),
        "misc_select_mask": identity.misc_select_mask.hex(),
        "levels": [_svn_facts(level) for level in identity.tcb_levels],
    }


def _module_facts(module: TDXModule) -> Facts:
    return {
        "mr_signer": module.mr_signer.hex(),
        "attributes": module.attributes.hex(),
        "attributes_mask": module.attributes_mask.hex(),
    }


def _level_facts(level: TCBLevel) -> Facts:
    facts = _status_facts(level) | {"pce_svn": level.pce_svn, "sgx_components": bytes(level.sgx_components).hex()}
    if level.tdx_components is not None:
        facts["tdx_components"] = bytes(level.tdx_components).hex()
    return facts


def _svn_facts(level: SVNLevel) -> Facts:
    return _status_facts(level) | {"isv_svn": level.isv_svn}


def _status_facts(level: TCBLevel | SVNLevel) -> Facts:
    return {
        "tcb_status": level.tcb_status.value,
        "tcb_date": moment(level.tcb_date),
        "advisory_ids": list(level.advisory_ids),
    }


# --- revocation lists


def inspect_crl(raw: bytes) -> Inspection | None:
    """Explain a revocation list, DER or PEM."""
    blocks = [block.content for block in pem_blocks(raw) if block.label == "X509 CRL"]
    content = blocks[0] if blocks else raw
    body = signed_body(content)
    # A CRL begins with its version or, where it is of version 1, with an algorithm; a certificate does with neither.
    if body is None or body[:1] not in (b"\x02", b"\x30"):
        return None
    try:
        return Inspection(format="crl", facts=crl_facts(content))
    except MalformedInput as error:
        return Inspection(format="crl", problem=error) if blocks else None


def crl_facts(content: bytes) -> Facts:
    """Return what a CRL (DER) says. Raises MalformedInput (CRL_MALFORMED) where the library cannot read it."""
    try:
        with without_warnings():
            return _crl_facts(x509.load_der_x509_crl(content))
    except LIBRARY_ERRORS as error:
        raise MalformedInput(Reason.CRL_MALFORMED, f"the CRL cannot be read: {first_line(error)}") from error


def _crl_facts(crl: x509.CertificateRevocationList) -> Facts:
    numbers = [item.value.crl_number for item in crl.extensions if isinstance(item.value, x509.CRLNumber)]
    return {
        "issuer": crl.issuer.rfc4514_string(),
        "crl_number": numbers[0] if numbers else None,
        "this_update": moment(crl.last_update_utc),
        "next_update": moment(crl.next_update_utc) if crl.next_update_utc else None,
        "revoked": len(crl),
        "revoked_serial_numbers": [f"{entry.serial_number:x}" for entry in islice(crl, MAX_LISTED_SERIALS)],
    }


# --- sets


def _inspect_collateral(raw: bytes) -> Inspection:
    try:
        collateral = Collateral.from_json(raw)
    except MalformedInput as error:
        return Inspection(format="collateral", facts={"size": len(raw)}, problem=error)
    return Inspection(format="collateral", facts=collateral_facts(collateral))


def collateral_facts(collateral: Collateral) -> Facts:
    """Return what a set of collateral says: each document, and when each expires, the first one first."""
    facts: Facts = {
        "tcb_info": _or_unreadable(_body_facts, collateral.tcb_info, "tcbInfo"),
        "qe_identity": _or_unreadable(_body_facts, collateral.qe_identity, "enclaveIdentity"),
        "root_ca_crl": _or_unreadable(crl_facts, collateral.root_ca_crl),
        "pck_crl": _or_unreadable(crl_facts, collateral.pck_crl),
        **{name: _or_unreadable(chain_facts, getattr(collateral, name)) for name in _CHAINS},
    }
    if collateral.pck_certificate_chain is not None:
        facts["pck_certificate_chain"] = _or_unreadable(chain_facts, collateral.pck_certificate_chain)
    return _with_expirations(facts)


def endorsement_facts(endorsements: Endorsements) -> Facts:
    """Return what the collateral inside a certificate says."""
    facts: Facts = {
        "tcb_info": _or_unreadable(_served_facts, endorsements.tcb_info, "tcbInfo"),
        "qe_identity": _or_unreadable(_served_facts, endorsements.qe_identity, "enclaveIdentity"),
        "root_ca_crl": _or_unreadable(crl_facts, _crl_bytes(endorsements.root_ca_crl)),
        "pck_crl": _or_unreadable(crl_facts, _crl_bytes(endorsements.pck_crl)),
        **{name: _or_unreadable(chain_facts, getattr(endorsements, name)) for name in _CHAINS},
    }
    version = f"{endorsements.version & 0xFFFF}.{endorsements.version >> 16}"
    return {"version": version, **_with_expirations(facts)}


def chain_facts(pem: bytes) -> Facts:
    """Return what the certificates of a PEM chain say. Raises MalformedInput (CERTIFICATE_MALFORMED)."""
    return {"certificates": [certificate_facts(content) for content in parse_pem_chain(pem)]}


def _crl_bytes(raw: bytes) -> bytes:
    """Return the DER of a CRL that is stored as DER, PEM or hex: the version of the collateral structure decides."""
    blocks = pem_blocks(raw)
    return blocks[0].content if blocks else from_hex(raw) or raw


def _or_unreadable(read: Callable[..., Facts], *arguments: object) -> Facts:
    """Return the facts, or why there are none: one damaged document does not hide the others."""
    try:
        return read(*arguments)
    except EAAError as error:
        return {"unreadable": error.message}


def _with_expirations(facts: Facts) -> Facts:
    ends = sorted((at, name) for name, document in facts.items() for at in _ends(document))
    return {
        "earliest_expiration": ends[0][0] if ends else None,
        "expirations": [{"document": name, "at": at} for at, name in ends],
        **facts,
    }


def _ends(document: Facts) -> Iterator[str]:
    if document.get("next_update"):
        yield document["next_update"]
    for certificate in document.get("certificates", ()):
        if "not_after" in certificate:
            yield certificate["not_after"]
