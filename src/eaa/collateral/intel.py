"""Intel's documents: TCB Info, QE identity, PCK certificates. Bytes to frozen records, still untrusted.

The signed bytes are kept exactly as they were served, and the record is read from those very bytes: there is no
second spelling that a signature could cover.

Source: Intel PCS API documentation ("Get TCB Info", "Get Quoting Enclave Identity"); Intel SGX PCK Certificate and
Certificate Revocation List Profile Specification.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from operator import attrgetter, itemgetter
from typing import Any, Final, Literal, TypeVar

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from eaa import der
from eaa.collateral import documents_as_issued as quickly
from eaa.collateral.as_issued import COMPONENTS, IssuedSGXExtension, read_sgx_extension
from eaa.collateral.x509 import (
    CRL,
    SGX_EXTENSION_OID,
    Certificate,
    decode_pem_text,
    parse_pem_chain,
    split_pem_chain,
)
from eaa.errors import MalformedInput, Reason
from eaa.records import filler, quick

__all__ = [
    "COMPONENTS",
    "CRL",
    "Certificate",
    "CertifiedPlatform",
    "PCKCertificate",
    "QEIdentity",
    "SVNLevel",
    "TCBInfo",
    "TCBLevel",
    "TCBStatus",
    "TDXModule",
    "TDXModuleIdentity",
    "decode_pem_text",
    "join_signed_document",
    "parse_pem_chain",
    "pck_certificate_of",
    "split_pem_chain",
    "split_signed_document",
]

MAX_SIGNED_DOCUMENT_SIZE: Final = 512 * 1024
"""Bytes of TCB Info or QE identity; Intel's have under 16 KiB."""
MAX_DOCUMENT_DEPTH: Final = 32
"""Nesting of objects and arrays; Intel's documents have 6."""
MAX_LEVELS: Final = 256
"""TCB levels of one document or module; Intel's have under 30."""
MAX_MODULE_IDENTITIES: Final = 64
MAX_ADVISORIES: Final = 256
"""Advisories of one level."""
MAX_COMPONENT_KIND: Final = 64
"""Characters of the category or type of a component; Intel's have under 30."""
MAX_LOADED_PCKS: Final = 256
MAX_KNOWN_DATES: Final = 512
"""Dates that are remembered as read: the levels of a document, and of the next document, share a few."""
PCK_CHAIN_LENGTH: Final = 3
"""PCK certificate, PCK CA, root."""

PCK_LEAF_DATA: Final = 4
"""The type of certification data that holds a PCK certificate in PEM, and no more."""
PCK_CHAIN_DATA: Final = 5
"""The type of certification data that holds a PCK chain in PEM."""

SignedMember = Literal["tcbInfo", "enclaveIdentity"]
"""The member under which a signed document stands."""

_MEMBERS: Final[dict[str, tuple[Reason, str]]] = {
    "tcbInfo": (Reason.TCB_INFO_MALFORMED, "TCB Info"),
    "enclaveIdentity": (Reason.QE_IDENTITY_MALFORMED, "the QE identity"),
}
_MAX_SGX_FIELDS: Final = 32
_SGX_ARC: Final = bytes.fromhex("2a864886f84d010d01")
_SGX_FIELD_NAMES: Final = {
    bytes((der.OBJECT_IDENTIFIER, len(_SGX_ARC) + len(arcs))) + _SGX_ARC + bytes(arcs): ".".join(map(str, arcs))
    for arcs in [(arc,) for arc in range(1, 8)] + [(2, arc) for arc in range(1, 19)] + [(7, arc) for arc in range(1, 4)]
}
"""The fields that are specified, by their OID in DER: a certificate has thirty of them."""
_NO_KINDS: Final = ("",) * COMPONENTS
_SPACE: Final = r"[ \t\r\n]*+"
_SIGNATURE_MEMBER: Final = re.compile(
    rf'{_SPACE},{_SPACE}"signature"{_SPACE}:{_SPACE}"([0-9A-Fa-f]{{128}})"{_SPACE}\}}{_SPACE}'
)
_KINDS_OF_CA: Final[tuple[tuple[str, Literal["processor", "platform"]], ...]] = (
    ("SGX PCK Processor CA", "processor"),
    ("SGX PCK Platform CA", "platform"),
)
_Chosen = TypeVar("_Chosen", bound=str)
_Record = TypeVar("_Record")
_Any = TypeVar("_Any")
_TCB_INFO_IDS: Final[dict[str, Literal["SGX", "TDX"]]] = {"SGX": "SGX", "TDX": "TDX"}
_IDENTITY_IDS: Final[dict[str, Literal["QE", "TD_QE", "QVE"]]] = {"QE": "QE", "TD_QE": "TD_QE", "QVE": "QVE"}
_SVN: Final = itemgetter("svn")
_ONLY_INT: Final = {int}
_ONLY_STR: Final = {str}
_NO_STRUCTURE: Final = bytes(octet for octet in range(256) if octet not in b'[]{}"\\')
# Joined by commas, which are in none.
_ADVISORIES: Final = re.compile(r"[A-Za-z0-9._-]{1,64}(?:,[A-Za-z0-9._-]{1,64})*")
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}T(?:[01]\d|2[0-3]):\d{2}:\d{2}Z", re.ASCII)
# A string without an end matches too: were it not to, each quote in it would be tried again, in quadratic time.
_STRING_OR_BRACKET: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


class TCBStatus(StrEnum):
    """What Intel says of a TCB, in Intel's spelling, from the best to the worst."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    """Of a domain and never of a level: it was launched under a TCB that is out of date, and runs under a better."""
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"
    """Of a domain and never of a level."""
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"


LEVEL_STATUSES: Final = tuple(
    status
    for status in TCBStatus
    if status not in (TCBStatus.TD_RELAUNCH_ADVISED, TCBStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED)
)
"""What a level of TCB Info can say."""
_STATUS_OF_WORD: Final = {status.value: status for status in LEVEL_STATUSES}
_ENCLAVE_STATUSES: Final = frozenset({TCBStatus.UP_TO_DATE, TCBStatus.OUT_OF_DATE, TCBStatus.REVOKED})


@dataclass(frozen=True, slots=True, kw_only=True)
class TCBLevel:
    """One level of a platform's TCB."""

    sgx_components: tuple[int, ...]
    """16 SVNs; compare component by component."""
    pce_svn: int
    tdx_components: tuple[int, ...] | None
    """16 SVNs; None in a document for SGX."""
    tcb_date: datetime
    tcb_status: TCBStatus
    advisory_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SVNLevel:
    """One level of a quoting enclave or a TDX module."""

    isv_svn: int
    tcb_date: datetime
    tcb_status: TCBStatus
    advisory_ids: tuple[str, ...]


_new_level: Final = quick(TCBLevel)
_new_svn_level: Final = quick(SVNLevel)
_OF_STATUS: Final = ("tcb_date", "tcb_status", "advisory_ids")
_fill_level: Final = filler(TCBLevel, ("sgx_components", "pce_svn", "tdx_components", *_OF_STATUS))
_fill_svn_level: Final = filler(SVNLevel, ("isv_svn", *_OF_STATUS))


@dataclass(frozen=True, slots=True, kw_only=True)
class TDXModule:
    """What a TDX module must be."""

    mr_signer: bytes
    """48 bytes."""
    attributes: bytes
    """8 bytes."""
    attributes_mask: bytes
    """8 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TDXModuleIdentity(TDXModule):
    """What the TDX modules of one major version must be, and their levels."""

    id: str
    """"TDX_" and the major version, two hex digits."""
    tcb_levels: tuple[SVNLevel, ...]
    """In the document's order."""


_new_module: Final = quick(TDXModule)
_new_module_identity: Final = quick(TDXModuleIdentity)
_OF_MODULE: Final = ("mr_signer", "attributes", "attributes_mask")
_fill_module: Final = filler(TDXModule, _OF_MODULE)
_fill_module_identity: Final = filler(TDXModuleIdentity, ("id", "tcb_levels", *_OF_MODULE))


@dataclass(frozen=True, slots=True, kw_only=True)
class TCBInfo:
    """TCB Info of one platform model: version 2 (SGX only) or 3."""

    body: bytes = field(repr=False)
    """The exact bytes that the signature covers."""
    id: Literal["SGX", "TDX"]
    """Version 2 has no such member and is for SGX."""
    version: int
    issue_date: datetime
    next_update: datetime
    fmspc: bytes
    """6 bytes."""
    pce_id: bytes
    """2 bytes."""
    tcb_evaluation_data_number: int
    tdx_module: TDXModule | None
    tdx_module_identities: tuple[TDXModuleIdentity, ...]
    tcb_levels: tuple[TCBLevel, ...]
    """In the document's order, which is no part of the contract."""
    sgx_component_kinds: tuple[str, ...] = field(default=_NO_KINDS, repr=False)
    """16 texts: what has that SVN, `BIOS, Early Microcode Update` for instance; empty where the document is silent."""
    tdx_component_kinds: tuple[str, ...] = field(default=_NO_KINDS, repr=False)
    """16 texts."""

    @classmethod
    def parse(cls, body: bytes) -> TCBInfo:
        """Parse the exact signed JSON object. Raises MalformedInput (TCB_INFO_MALFORMED)."""
        issued = quickly.read_tcb_info(body)
        if issued is not None:
            try:
                return _tcb_info_as_issued(body, issued)
            except (KeyError, ValueError):
                # What is wrong, and what is wrong first, is found on the way through all of its members.
                pass
        return cls._walk(body)

    @classmethod
    def _walk(cls, body: bytes) -> TCBInfo:
        """Parse one in whatever spelling its members come."""
        return _read(body, cls._of, what="TCB Info", reason=Reason.TCB_INFO_MALFORMED)

    @classmethod
    def _of(cls, body: bytes, members: _Members) -> TCBInfo:
        version = members.uint("version", maximum=0xFFFF)
        if version not in (2, 3):
            raise members.bad(f"has version {version}; 2 and 3 are known")
        kind = members.choice("id", _TCB_INFO_IDS) if version == 3 else "SGX"
        tcb_type = members.uint("tcbType", maximum=0xFFFF)
        if tcb_type != 0:
            raise members.bad(f"has tcbType {tcb_type}; only 0 is defined")
        levels = members.children("tcbLevels", maximum=MAX_LEVELS)
        return _new_tcb_info(
            body=body,
            id=kind,
            version=version,
            issue_date=members.date("issueDate"),
            next_update=members.date("nextUpdate"),
            fmspc=members.hex("fmspc", length=6),
            pce_id=members.hex("pceId", length=2),
            tcb_evaluation_data_number=members.uint("tcbEvaluationDataNumber", maximum=0xFFFFFFFF),
            tdx_module=_new_module(**_module_fields(members.child("tdxModule"))) if kind == "TDX" else None,
            tdx_module_identities=_module_identities(members) if kind == "TDX" else (),
            tcb_levels=_platform_levels(members, levels, version=version, kind=kind),
            sgx_component_kinds=_component_kinds(levels, "sgxtcbcomponents") if version == 3 else _NO_KINDS,
            tdx_component_kinds=_component_kinds(levels, "tdxtcbcomponents") if kind == "TDX" else _NO_KINDS,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QEIdentity:
    """Identity of a quoting enclave, version 2."""

    body: bytes = field(repr=False)
    """The exact bytes that the signature covers."""
    id: Literal["QE", "TD_QE", "QVE"]
    version: int
    issue_date: datetime
    next_update: datetime
    tcb_evaluation_data_number: int
    misc_select: bytes
    """4 bytes in memory order, as in the report."""
    misc_select_mask: bytes
    """4 bytes."""
    attributes: bytes
    """16 bytes."""
    attributes_mask: bytes
    """16 bytes."""
    mr_signer: bytes
    """32 bytes."""
    isv_prod_id: int
    tcb_levels: tuple[SVNLevel, ...]
    """In the document's order, which is no part of the contract."""

    @classmethod
    def parse(cls, body: bytes) -> QEIdentity:
        """Parse the exact signed JSON object. Raises MalformedInput (QE_IDENTITY_MALFORMED)."""
        issued = quickly.read_qe_identity(body)
        if issued is not None:
            try:
                return _qe_identity_as_issued(body, issued)
            except (KeyError, ValueError):
                pass
        return cls._walk(body)

    @classmethod
    def _walk(cls, body: bytes) -> QEIdentity:
        """Parse one in whatever spelling its members come."""
        return _read(body, cls._of, what="the QE identity", reason=Reason.QE_IDENTITY_MALFORMED)

    @classmethod
    def _of(cls, body: bytes, members: _Members) -> QEIdentity:
        version = members.uint("version", maximum=0xFFFF)
        if version != 2:
            raise members.bad(f"has version {version}; only 2 is known")
        kind = members.choice("id", _IDENTITY_IDS)
        levels = _svn_levels(members)
        if not {level.tcb_status for level in levels} <= _ENCLAVE_STATUSES:
            raise members.bad("gives a level a status that enclaves do not have")
        return _new_qe_identity(
            body=body,
            id=kind,
            version=version,
            issue_date=members.date("issueDate"),
            next_update=members.date("nextUpdate"),
            tcb_evaluation_data_number=members.uint("tcbEvaluationDataNumber", maximum=0xFFFFFFFF),
            misc_select=members.hex("miscselect", length=4),
            misc_select_mask=members.hex("miscselectMask", length=4),
            attributes=members.hex("attributes", length=16),
            attributes_mask=members.hex("attributesMask", length=16),
            mr_signer=members.hex("mrsigner", length=32),
            isv_prod_id=members.uint("isvprodid", maximum=0xFFFF),
            tcb_levels=levels,
        )


_new_tcb_info: Final = quick(TCBInfo)
_new_qe_identity: Final = quick(QEIdentity)


def _tcb_info_as_issued(body: bytes, issued: quickly.IssuedTCBInfo) -> TCBInfo:
    """Return TCB Info of what was read at once. Raises KeyError or ValueError where it has to be read otherwise."""
    return _new_tcb_info(
        body=body,
        id=_TCB_INFO_IDS[issued.id],
        version=3,
        issue_date=_parse_date(issued.issue_date),
        next_update=_parse_date(issued.next_update),
        fmspc=issued.fmspc,
        pce_id=issued.pce_id,
        tcb_evaluation_data_number=issued.tcb_evaluation_data_number,
        tdx_module=issued.tdx_module and _fill_module(issued.tdx_module),
        tdx_module_identities=_distinct(
            tuple(
                [
                    _fill_module_identity((name.upper(), _levels_as_issued(levels), *module))
                    for name, module, levels in issued.tdx_module_identities
                ]
            ),
            by=attrgetter("id"),
        ),
        tcb_levels=_distinct(
            tuple(
                [
                    _fill_level((*tcb, _parse_date(date), _STATUS_OF_WORD[status], advisories))
                    for *tcb, date, status, advisories in issued.tcb_levels
                ]
            ),
            by=attrgetter("sgx_components", "pce_svn", "tdx_components"),
        ),
        sgx_component_kinds=issued.sgx_component_kinds,
        tdx_component_kinds=issued.tdx_component_kinds,
    )


def _qe_identity_as_issued(body: bytes, issued: quickly.IssuedQEIdentity) -> QEIdentity:
    """Return the QE identity of what was read at once. Raises as `_tcb_info_as_issued`."""
    levels = _levels_as_issued(issued.tcb_levels)
    if not {level.tcb_status for level in levels} <= _ENCLAVE_STATUSES:
        raise ValueError("a status that enclaves do not have")
    return _new_qe_identity(
        body=body,
        id=_IDENTITY_IDS[issued.id],
        version=2,
        issue_date=_parse_date(issued.issue_date),
        next_update=_parse_date(issued.next_update),
        tcb_evaluation_data_number=issued.tcb_evaluation_data_number,
        misc_select=issued.misc_select,
        misc_select_mask=issued.misc_select_mask,
        attributes=issued.attributes,
        attributes_mask=issued.attributes_mask,
        mr_signer=issued.mr_signer,
        isv_prod_id=issued.isv_prod_id,
        tcb_levels=levels,
    )


def _levels_as_issued(levels: list[quickly.Level]) -> tuple[SVNLevel, ...]:
    made = [
        _fill_svn_level((svn, _parse_date(date), _STATUS_OF_WORD[status], advisories))
        for svn, date, status, advisories in levels
    ]
    return _distinct(tuple(made), by=attrgetter("isv_svn"))


def _distinct(records: tuple[_Any, ...], *, by: Callable[[_Any], object]) -> tuple[_Any, ...]:
    """Return the records. Raises ValueError where two of them are alike."""
    if len(set(map(by, records))) != len(records):
        raise ValueError("two that are alike")
    return records


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedPlatform:
    """What a PCK certificate says of its platform; without the certificate, so that thousands can be remembered."""

    ca: Literal["processor", "platform"]
    """Which PCK CA issued it, by the issuer's common name; it decides which CRL speaks for it."""
    spki: bytes = field(repr=False)
    """The PCK, SubjectPublicKeyInfo in DER."""
    ppid: bytes = field(repr=False)
    """16 bytes. Identifies one machine: never to be logged or shown."""
    pce_svn: int
    cpu_svn: bytes
    """16 bytes, one SVN a component."""
    pce_id: bytes
    """2 bytes."""
    fmspc: bytes
    """6 bytes."""
    sgx_type: int
    """0 standard, 1 scalable, 2 scalable with integrity."""
    platform_instance_id: bytes | None = field(repr=False)
    """16 bytes; Platform CA only."""
    dynamic_platform: bool | None
    cached_keys: bool | None
    smt_enabled: bool | None

    @property
    def tcb_components(self) -> tuple[int, ...]:
        """16 SVNs; compare component by component."""
        return tuple(self.cpu_svn)

    @property
    def public_key(self) -> EllipticCurvePublicKey:
        """The PCK."""
        return _load_pck(self.spki)


@functools.lru_cache(maxsize=MAX_LOADED_PCKS)
def _load_pck(spki: bytes) -> EllipticCurvePublicKey:
    """Load a key. Only the last few are remembered: loaded, a key takes ten times the room of its bytes."""
    key = load_der_public_key(spki)
    assert isinstance(key, EllipticCurvePublicKey)
    return key


_OF_PLATFORM: Final = tuple(item.name for item in fields(CertifiedPlatform))
_read_platform: Final = attrgetter(*_OF_PLATFORM)
_fill_platform: Final = filler(CertifiedPlatform, _OF_PLATFORM)


@dataclass(frozen=True, slots=True, kw_only=True)
class PCKCertificate(CertifiedPlatform):
    """A PCK certificate, with what its SGX extension says of the platform."""

    record: Certificate = field(repr=False)
    """The certificate, taken apart."""

    @property
    def public_key(self) -> EllipticCurvePublicKey:
        """The PCK."""
        return self.record.public_key

    @property
    def platform(self) -> CertifiedPlatform:
        """What is said of the platform, alone."""
        return _fill_platform(_read_platform(self))

    @classmethod
    def parse(cls, raw: bytes) -> PCKCertificate:
        """Parse one DER certificate that carries the SGX extension. Raises MalformedInput, as `from_certificate`."""
        return cls.from_certificate(Certificate.parse(raw))

    @classmethod
    def from_certificate(cls, certificate: Certificate) -> PCKCertificate:
        """Read the SGX extension of a certificate.

        Raises:
            MalformedInput: SGX_EXTENSION_MALFORMED or DER_MALFORMED; CERTIFICATE_MALFORMED where no PCK CA issued it.
        """
        if certificate.sgx_extension is None:
            raise _bad_extension("the certificate carries no SGX extension, so it is no PCK certificate")
        said = read_sgx_extension(certificate.sgx_extension) or _walk_through_extension(certificate.sgx_extension)
        # Intel issues both with the same value; a certificate where they differ would have two TCBs.
        if said.components != said.cpu_svn:
            raise _bad_extension("the SVN components of the SGX extension differ from its CPUSVN")
        dynamic, cached, smt = said.flags
        return _new_pck(
            record=certificate,
            spki=certificate.spki,
            ca=_kind_of_ca(certificate.issuer_common_name),
            ppid=said.ppid,
            pce_svn=said.pce_svn,
            cpu_svn=said.cpu_svn,
            pce_id=said.pce_id,
            fmspc=said.fmspc,
            sgx_type=said.sgx_type,
            platform_instance_id=said.platform_instance_id,
            dynamic_platform=dynamic,
            cached_keys=cached,
            smt_enabled=smt,
        )


_new_pck: Final = quick(PCKCertificate)


def pck_certificate_of(certification_data: bytes, *, certification_data_type: int = PCK_CHAIN_DATA) -> PCKCertificate:
    """Return the PCK certificate inside a quote's certification data, unverified: to know what collateral to fetch.

    Raises:
        MalformedInput: CERTIFICATION_DATA_UNSUPPORTED for data without a certificate; else as PCKCertificate.parse.
    """
    if certification_data_type not in (PCK_LEAF_DATA, PCK_CHAIN_DATA):
        raise MalformedInput(
            Reason.CERTIFICATION_DATA_UNSUPPORTED,
            f"the quote carries certification data of type {certification_data_type}, which holds no PCK certificate",
            hint="configure the quoting host so that it puts the PCK certificate chain into its quotes",
        )
    maximum = PCK_CHAIN_LENGTH if certification_data_type == PCK_CHAIN_DATA else 1
    first, *others = split_pem_chain(certification_data, maximum=maximum)
    certificate = Certificate.parse(decode_pem_text(first))
    # Nearly always it is the first; the order is not part of the contract.
    for other in others if certificate.sgx_extension is None else ():
        certificate = Certificate.parse(decode_pem_text(other))
        if certificate.sgx_extension is not None:
            break
    return PCKCertificate.from_certificate(certificate)


def split_signed_document(raw: bytes, member: SignedMember) -> tuple[bytes, bytes]:
    """Take apart `{"tcbInfo":{...},"signature":"hex"}`, as a PCS or PCCS serves it.

    Returns the exact bytes of the inner object, and the 64 bytes r||s.

    Raises:
        MalformedInput: TCB_INFO_MALFORMED or QE_IDENTITY_MALFORMED, by `member`.
    """
    reason, what = _MEMBERS[member]
    text = _decode(raw, what=what, reason=reason)
    opening = re.compile(rf'{_SPACE}\{{{_SPACE}"{member}"{_SPACE}:{_SPACE}(?=\{{)').match(text)
    if opening is None:
        raise MalformedInput(reason, f"{what} does not begin with the member {member}, an object")
    end = _end_of_object(text, opening.end(), what=what, reason=reason)
    closing = _SIGNATURE_MEMBER.fullmatch(text, end)
    if closing is None:
        raise MalformedInput(reason, f"{what} is not followed by a signature of 64 bytes in hex, and nothing else")
    return text[opening.end() : end].encode(), bytes.fromhex(closing[1])


def join_signed_document(member: SignedMember, body: bytes, signature: bytes) -> bytes:
    """Return the document that `split_signed_document` takes apart, in the compact form in which Intel serves it."""
    return b'{"%b":%b,"signature":"%b"}' % (member.encode(), body, signature.hex().encode())


class _Document:
    """A JSON document that is being read."""

    __slots__ = ("members_read", "reason", "what")

    def __init__(self, *, what: str, reason: Reason, members_read: int) -> None:
        self.what = what
        self.reason = reason
        self.members_read = members_read
        """How many members its objects have, as far as they were looked into: each is counted once, see `_read`."""


class _Members:
    """The members of one JSON object, each read as the one type that it may have."""

    __slots__ = ("_document", "_members", "_name", "_parent")

    def __init__(self, members: dict[str, Any], document: _Document, name: str = "", parent: _Members | None = None):
        self._members = members
        self._document = document
        self._name = name
        self._parent = parent

    @property
    def what(self) -> str:
        """What these members are of; spelled out only when an error has to name it."""
        return self._document.what if self._parent is None else f"{self._name} of {self._parent.what}"

    def bad(self, message: str) -> MalformedInput:
        return MalformedInput(self._document.reason, f"{self.what} {message}")

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def uint(self, name: str, *, maximum: int) -> int:
        value = self._members.get(name)
        # To Python, JSON's true is a number as well.
        if type(value) is not int or not 0 <= value <= maximum:
            raise self.bad(f"lacks {name}, a whole number from 0 to {maximum}")
        return value

    def text(self, name: str) -> str:
        value = self._members.get(name)
        if type(value) is not str:
            raise self.bad(f"lacks the text {name}")
        return value

    def choice(self, name: str, choices: Mapping[str, _Chosen]) -> _Chosen:
        value = self.text(name)
        if value not in choices:
            raise self.bad(f"has {name} {value[:40]!r}, known are {', '.join(choices)}")
        return choices[value]

    def hex(self, name: str, *, length: int) -> bytes:
        value = self.text(name)
        # fromhex alone would skip over whitespace.
        if len(value) == 2 * length and value.isalnum():
            try:
                return bytes.fromhex(value)
            except ValueError:
                pass
        raise self.bad(f"lacks {name}, {length} bytes in hex")

    def date(self, name: str) -> datetime:
        try:
            return _parse_date(self.text(name))
        except ValueError as error:
            raise self.bad(f"has a {name} that is no date of the form YYYY-MM-DDTHH:MM:SSZ") from error

    def child(self, name: str, *, again: bool = False) -> _Members:
        """Return an object; `again` where it was looked into before."""
        return self._nested(name, self._members.get(name), again=again)

    def children(self, name: str, *, maximum: int) -> list[_Members]:
        return [self._nested(name, item) for item in self.items(name, maximum=maximum)]

    def items(self, name: str, *, maximum: int) -> list[Any]:
        value = self._members.get(name)
        if type(value) is not list or len(value) > maximum:
            raise self.bad(f"lacks {name}, a list of at most {maximum}")
        return value

    def components(self, name: str) -> tuple[int, ...]:
        """Return the SVNs of 16 components."""
        items = self.items(name, maximum=COMPONENTS)
        # A document has hundreds of these, and rarely is one bad: the slow way only says which.
        try:
            svns = tuple(map(_SVN, items))
            bytes(svns)
        except (KeyError, TypeError, ValueError):
            svns = ()
        if len(svns) != COMPONENTS or set(map(type, svns)) != _ONLY_INT:
            each = [self._nested(name, item).uint("svn", maximum=0xFF) for item in items]
            raise self.bad(f"has {len(each)} {name}, {COMPONENTS} are specified")
        self._document.members_read += sum(map(len, items))
        return svns

    def _nested(self, name: str, value: object, *, again: bool = False) -> _Members:
        if type(value) is not dict:
            raise self.bad(f"lacks {name}, an object")
        if not again:
            self._document.members_read += len(value)
        return _Members(value, self._document, name, self)


@functools.lru_cache(maxsize=MAX_KNOWN_DATES)
def _parse_date(text: str) -> datetime:
    """Return a date, or raise ValueError."""
    # The library alone would take other spellings.
    if not _DATE.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not of the form YYYY-MM-DDTHH:MM:SSZ")
    return datetime.fromisoformat(text)


class _SGXFields:
    """A SEQUENCE of {OID, value} under the arc of the SGX extension, by the rest of their OID."""

    def __init__(self, fields: dict[str, der.Element]) -> None:
        self._fields = fields

    @classmethod
    def read(cls, content: bytes) -> _SGXFields:
        what = "the SGX extension"
        fields: dict[str, der.Element] = {}
        for tag, _, begin, end in der.spans(content, 0, len(content), what=what, maximum=_MAX_SGX_FIELDS):
            pair = der.spans(content, begin, end, what="a field of the SGX extension")
            if tag != der.SEQUENCE or len(pair) != 2:
                raise _bad_extension("a field of the SGX extension is not an object identifier and a value")
            (_, at, first, after), (kind, start, value, last) = pair
            name = _SGX_FIELD_NAMES.get(content[at:after]) or _sgx_name(content[at:after], content[first:after])
            if name in fields:
                raise _bad_extension(f"the SGX extension has its field .{name} twice")
            fields[name] = der.Element(kind, content[value:last], content[start:last])
        return cls(fields)

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def content(self, name: str, tag: int) -> bytes:
        if name not in self._fields:
            raise _bad_extension(f"the SGX extension lacks its field .{name}")
        if self._fields[name].tag != tag:
            raise _bad_extension(f"field .{name} of the SGX extension has another type than specified")
        return self._fields[name].content

    def octets(self, name: str, length: int) -> bytes:
        value = self.content(name, der.OCTET_STRING)
        if len(value) != length:
            raise _bad_extension(f"field .{name} of the SGX extension has {len(value)} bytes, {length} are specified")
        return value

    def uint(self, name: str, *, maximum: int, tag: int = der.INTEGER) -> int:
        value = der.parse_uint(self.content(name, tag))
        if value > maximum:
            raise _bad_extension(f"field .{name} of the SGX extension is {value}, at most {maximum} is specified")
        return value

    def flag(self, name: str) -> bool | None:
        return der.parse_boolean(self.content(name, der.BOOLEAN)) if name in self else None


def _sgx_name(oid: bytes, content: bytes) -> str:
    """Return what follows the arc of the SGX extension in the name of a field that is not specified, dotted."""
    dotted = der.parse_oid(content) if oid[0] == der.OBJECT_IDENTIFIER else ""
    name = dotted.removeprefix(f"{SGX_EXTENSION_OID}.")
    if name == dotted:
        raise _bad_extension(f"the SGX extension has a field {dotted}, which is none of its own")
    return name


def _walk_through_extension(raw: bytes) -> IssuedSGXExtension:
    """Do what `read_sgx_extension` does in whatever order and spelling the fields come, or say what is wrong."""
    whole = der.read_only(raw, tag=der.SEQUENCE, what="the SGX extension")
    extension = _SGXFields.read(whole.content)
    tcb = _SGXFields.read(extension.content("2", der.SEQUENCE))
    configuration = _SGXFields.read(extension.content("7", der.SEQUENCE) if "7" in extension else b"")
    return IssuedSGXExtension(
        components=bytes([tcb.uint(f"2.{index}", maximum=0xFF) for index in range(1, COMPONENTS + 1)]),
        pce_svn=tcb.uint("2.17", maximum=0xFFFF),
        cpu_svn=tcb.octets("2.18", COMPONENTS),
        ppid=extension.octets("1", 16),
        pce_id=extension.octets("3", 2),
        fmspc=extension.octets("4", 6),
        sgx_type=extension.uint("5", maximum=2, tag=der.ENUMERATED),
        platform_instance_id=extension.octets("6", 16) if "6" in extension else None,
        flags=tuple([configuration.flag(name) for name in ("7.1", "7.2", "7.3")]),
    )


def _decode(raw: bytes, *, what: str, reason: Reason) -> str:
    """Return the text of a document that is neither too long nor too deep to be parsed."""
    if len(raw) > MAX_SIGNED_DOCUMENT_SIZE:
        raise MalformedInput(reason, f"{what} has {len(raw)} bytes, the limit is {MAX_SIGNED_DOCUMENT_SIZE}")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedInput(reason, f"{what} is not UTF-8") from error
    if _is_deep(raw, text):
        raise MalformedInput(reason, f"{what} is nested more than {MAX_DOCUMENT_DEPTH} deep")
    return text


def _is_deep(raw: bytes, text: str) -> bool:
    """Whether brackets outside of strings are nested more than MAX_DOCUMENT_DEPTH deep."""
    # Most documents have no escapes, and no brackets inside of strings: all strings are then pairs of quotes in what
    # is left here, and taking the innermost pairs of brackets away, again and again, leaves nothing.
    left = raw.translate(None, _NO_STRUCTURE).replace(b'""', b"")
    for _ in range(MAX_DOCUMENT_DEPTH):
        left = left.replace(b"{}", b"").replace(b"[]", b"")
        if not left:
            return False
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(found[0], 0)
        if depth > MAX_DOCUMENT_DEPTH:
            return True
    return False


def _read(body: bytes, make: Callable[[bytes, _Members], _Record], *, what: str, reason: Reason) -> _Record:
    """Make a record of one JSON object: nothing before or behind it, no name twice, no NaN."""
    text = _decode(body, what=what, reason=reason)
    try:
        members = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise MalformedInput(reason, f"{what} is not JSON, or something follows it") from error
    if type(members) is not dict:
        raise MalformedInput(reason, f"{what} is not a JSON object")
    document = _Document(what=what, reason=reason, members_read=len(members))
    record = make(body, _Members(members, document))
    if not _has_no_more_than(document.members_read, text) and _names_twice(text):
        raise MalformedInput(reason, f"{what} names a member twice")
    return record


def _has_no_more_than(members: int, text: str) -> bool:
    """Whether a document has so many members at most, so that all were seen and none hides behind another's name.

    Where no space stands before a colon, each member shows as a quote and a colon. So do a few texts, and some
    documents have such spaces: False means nothing.
    """
    # Most have no space at all, and to look for one character takes a tenth of the time.
    is_spaced = "\n" in text or "\t" in text or "\r" in text or (" " in text and " :" in text)
    return not is_spaced and text.count('":') <= members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _refuse_twice(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name stands twice")


def _names_twice(text: str) -> bool:
    """Whether any object of a document, which is JSON, has two members of one name."""
    try:
        _STRICT_DECODER.decode(text)
    except ValueError:
        return True
    return False


def _end_of_object(text: str, start: int, *, what: str, reason: Reason) -> int:
    """Return where the JSON object that begins at `start` ends."""
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(text, start):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(found[0], 0)
        if depth <= 0:
            return found.end()
    raise MalformedInput(reason, f"{what} has no end")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)
_STRICT_DECODER: Final = json.JSONDecoder(object_pairs_hook=_refuse_twice)


def _svn_levels(members: _Members) -> tuple[SVNLevel, ...]:
    levels = tuple(
        [
            _new_svn_level(
                isv_svn=level.child("tcb").uint("isvsvn", maximum=0xFFFF),
                tcb_date=level.date("tcbDate"),
                tcb_status=level.choice("tcbStatus", _STATUS_OF_WORD),
                advisory_ids=_advisories(level),
            )
            for level in members.children("tcbLevels", maximum=MAX_LEVELS)
        ]
    )
    if len({level.isv_svn for level in levels}) != len(levels):
        raise members.bad("has two levels of one SVN")
    return levels


def _platform_levels(members: _Members, items: list[_Members], *, version: int, kind: str) -> tuple[TCBLevel, ...]:
    levels = []
    for level in items:
        tcb = level.child("tcb")
        levels.append(
            _new_level(
                sgx_components=_components_v2(tcb) if version == 2 else tcb.components("sgxtcbcomponents"),
                pce_svn=tcb.uint("pcesvn", maximum=0xFFFF),
                tdx_components=tcb.components("tdxtcbcomponents") if kind == "TDX" else None,
                tcb_date=level.date("tcbDate"),
                tcb_status=level.choice("tcbStatus", _STATUS_OF_WORD),
                advisory_ids=_advisories(level),
            )
        )
    if len({(level.sgx_components, level.pce_svn, level.tdx_components) for level in levels}) != len(levels):
        raise members.bad("has two levels of one TCB")
    return tuple(levels)


def _component_kinds(levels: list[_Members], name: str) -> tuple[str, ...]:
    """Return what kind each component is of. Levels do not differ in that, so the first one speaks for all."""
    if not levels:
        return _NO_KINDS
    tcb = levels[0].child("tcb", again=True)
    components = tcb.items(name, maximum=COMPONENTS)
    if max(map(len, components)) == 1:
        return _NO_KINDS
    words = [component.get(name, "") for component in components for name in ("category", "type")]
    if {type(word) for word in words} != _ONLY_STR or max(map(len, words)) > MAX_COMPONENT_KIND:
        raise tcb.bad("has a component of a kind that is no text, or too long")
    if not "".join(words).isprintable():
        raise tcb.bad("has a component of a kind that cannot be printed")
    pairs = zip(words[::2], words[1::2], strict=True)
    return tuple([f"{category}, {kind}" if category and kind else category or kind for category, kind in pairs])


def _components_v2(tcb: _Members) -> tuple[int, ...]:
    return tuple(tcb.uint(f"sgxtcbcomp{index:02}svn", maximum=0xFF) for index in range(1, COMPONENTS + 1))


def _advisories(level: _Members) -> tuple[str, ...]:
    if "advisoryIDs" not in level:
        return ()
    advisories = level.items("advisoryIDs", maximum=MAX_ADVISORIES)
    if not advisories:
        return ()
    try:
        joined = ",".join(advisories)
    except TypeError as error:
        raise level.bad("has something else than texts in advisoryIDs") from error
    if not _ADVISORIES.fullmatch(joined):
        raise level.bad("names an advisory in a form that none has")
    return tuple(advisories)


def _module_fields(members: _Members) -> dict[str, bytes]:
    return {
        "mr_signer": members.hex("mrsigner", length=48),
        "attributes": members.hex("attributes", length=8),
        "attributes_mask": members.hex("attributesMask", length=8),
    }


def _module_identities(members: _Members) -> tuple[TDXModuleIdentity, ...]:
    if "tdxModuleIdentities" not in members:
        return ()
    identities = tuple(
        _new_module_identity(id=item.text("id").upper(), tcb_levels=_svn_levels(item), **_module_fields(item))
        for item in members.children("tdxModuleIdentities", maximum=MAX_MODULE_IDENTITIES)
    )
    if len({identity.id for identity in identities}) != len(identities):
        raise members.bad("has two identities for one TDX module")
    return identities


def _kind_of_ca(issuer_common_name: str) -> Literal["processor", "platform"]:
    for phrase, kind in _KINDS_OF_CA:
        if phrase in issuer_common_name:
            return kind
    raise MalformedInput(
        Reason.CERTIFICATE_MALFORMED, f"{issuer_common_name!r} issued the certificate; that is no PCK CA"
    )


def _bad_extension(message: str) -> MalformedInput:
    return MalformedInput(Reason.SGX_EXTENSION_MALFORMED, message)
