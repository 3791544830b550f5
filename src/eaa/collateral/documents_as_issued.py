"""TCB Info and QE identities as Intel issues them, read in one go.

Intel's documents are one line of JSON, whose members stand in one order and are spelled without a space. An expression
takes them apart sooner than their objects are built and walked through, and leaves behind none of the hundreds of small
ones. As in `eaa.collateral.as_issued`, what is not spelled to the letter as here is nothing to this room: it answers
None, and `eaa.collateral.intel` reads the document member by member, and knows what is wrong with it.

Every character of a document is matched, so that nothing in it is left unread: no member stands twice, and nothing is
nested deeper. Dates and statuses are handed on as texts of the right form, for their reader to say whether they exist.

Source: Intel PCS API documentation ("Get TCB Info" version 3, "Get Quoting Enclave Identity" version 2).
"""

from __future__ import annotations

import functools
import re
from typing import Final, NamedTuple

from eaa.collateral.as_issued import COMPONENTS

MAX_KNOWN_COMPONENTS: Final = 1024
"""Components that are remembered as read: levels and documents share most, and there are few different ones."""
_MAX_SIZE: Final = 64 * 1024
"""Bytes; Intel's documents have under 16 KiB."""
_MAX_PARTS: Final = 64
"""Levels of one document or module, and modules; Intel's have under 30."""
_MAX_SVN: Final = 0xFFFF

_DATE: Final = r'"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)"'
_SVN: Final = r"(0|[1-9]\d{0,4}+)"
_NUMBER: Final = r"(0|[1-9]\d{0,8}+)"
_KIND: Final = r'"([ !#-\[\]-~]{1,64}+)"'


def _hex(size: int) -> str:
    return rf'"([0-9A-Fa-f]{{{2 * size}}}+)"'


_STATUS: Final = (
    rf'"tcbDate":{_DATE},"tcbStatus":"(\w++)"'
    r'(?:,"advisoryIDs":\[(?:"([A-Za-z0-9._-]{1,64}+(?:","[A-Za-z0-9._-]{1,64}+){0,63}+)")?\])?\}'
)
_SVN_LEVEL: Final = re.compile(rf'\{{"tcb":\{{"isvsvn":{_SVN}\}},{_STATUS}', re.ASCII)
_PLATFORM_LEVEL: Final = re.compile(
    r'\{"tcb":\{"sgxtcbcomponents":\[\{"svn":([^\[\]]++)\],'
    rf'"pcesvn":{_SVN}(?:,"tdxtcbcomponents":\[\{{"svn":([^\[\]]++)\])?\}},{_STATUS}',
    re.ASCII,
)
_COMPONENT: Final = re.compile(rf'(\d++)(?:,"category":{_KIND})?(?:,"type":{_KIND})?', re.ASCII)
_NO_KINDS: Final = ("",) * COMPONENTS
_OCTETS: Final = {str(octet): octet for octet in range(256)}
_MODULE: Final = rf'"mrsigner":{_hex(48)},"attributes":{_hex(8)},"attributesMask":{_hex(8)}'
_SEVERAL: Final = r"((?:[^\[\]]++|\[[^\[\]]*+\])*+)"
_IDENTITY_OF_MODULE: Final = re.compile(rf'\{{"id":"(\w{{1,64}}+)",{_MODULE},"tcbLevels":\[{_SEVERAL}\]\}}', re.ASCII)
_DATES: Final = rf'"issueDate":{_DATE},"nextUpdate":{_DATE}'
_TCB_INFO_BEGINS: Final = re.compile(
    rf'\{{"id":"(SGX|TDX)","version":3,{_DATES},"fmspc":{_hex(6)},"pceId":{_hex(2)},"tcbType":0,'
    rf'"tcbEvaluationDataNumber":{_NUMBER},'
    rf'(?:"tdxModule":\{{{_MODULE}\}},(?:"tdxModuleIdentities":\[(.*)\],)?)?"tcbLevels":\[',
    re.ASCII,
)
_QE_IDENTITY_BEGINS: Final = re.compile(
    rf'\{{"id":"(\w++)","version":2,{_DATES},"tcbEvaluationDataNumber":{_NUMBER},'
    rf'"miscselect":{_hex(4)},"miscselectMask":{_hex(4)},"attributes":{_hex(16)},"attributesMask":{_hex(16)},'
    rf'"mrsigner":{_hex(32)},"isvprodid":{_SVN},"tcbLevels":\[',
    re.ASCII,
)


Level = tuple[int, str, str, tuple[str, ...]]
"""SVN, date (YYYY-MM-DDTHH:MM:SSZ, of digits), status, advisories."""
PlatformLevel = tuple[tuple[int, ...], int, "tuple[int, ...] | None", str, str, tuple[str, ...]]
"""16 SVNs of SGX components, PCESVN, 16 SVNs of TDX components in a document for TDX; then as above."""
Module = tuple[bytes, bytes, bytes]
"""MRSIGNER, attributes, and the mask of these."""


class IssuedTCBInfo(NamedTuple):
    """TCB Info of version 3."""

    id: str
    """`SGX` or `TDX`."""
    issue_date: str
    next_update: str
    fmspc: bytes
    pce_id: bytes
    tcb_evaluation_data_number: int
    tdx_module: Module | None
    tdx_module_identities: list[tuple[str, Module, list[Level]]]
    tcb_levels: list[PlatformLevel]
    sgx_component_kinds: tuple[str, ...]
    """16 texts, of every level."""
    tdx_component_kinds: tuple[str, ...]


class IssuedQEIdentity(NamedTuple):
    """A QE identity of version 2."""

    id: str
    issue_date: str
    next_update: str
    tcb_evaluation_data_number: int
    misc_select: bytes
    misc_select_mask: bytes
    attributes: bytes
    attributes_mask: bytes
    mr_signer: bytes
    isv_prod_id: int
    tcb_levels: list[Level]


def read_tcb_info(raw: bytes) -> IssuedTCBInfo | None:
    """Return what TCB Info says; None where it is not spelled as Intel's is."""
    try:
        begins, rows = _rows(_PLATFORM_LEVEL, _text(raw), end="]}")
        kind, issued, update, fmspc, pce_id, number, *module, identities = _groups(_TCB_INFO_BEGINS, begins)
        sgx, sgx_kinds = _components([row[0] for row in rows])
        tdx, tdx_kinds = _components([row[2] for row in rows]) if kind == "TDX" else ([None] * len(rows), _NO_KINDS)
        if kind == "SGX" and (module[0] or any(row[2] for row in rows)):
            return None
        return IssuedTCBInfo(
            kind,
            issued,
            update,
            bytes.fromhex(fmspc),
            bytes.fromhex(pce_id),
            int(number),
            _module(module) if kind == "TDX" else None,
            _identities(identities) if identities else [],
            [
                (svns, _svn(pce_svn), domain_svns, date, status, _advisories(advisories))
                for svns, domain_svns, (_, pce_svn, _, date, status, advisories) in zip(sgx, tdx, rows, strict=True)
            ],
            sgx_kinds,
            tdx_kinds,
        )
    except _SpelledOtherwise:
        return None


def read_qe_identity(raw: bytes) -> IssuedQEIdentity | None:
    """Return what a QE identity says; None where it is not spelled as Intel's are."""
    try:
        begins, rows = _rows(_SVN_LEVEL, _text(raw), end="]}")
        kind, issued, update, number, *digests, product = _groups(_QE_IDENTITY_BEGINS, begins)
        select, select_mask, attributes, attributes_mask, signer = map(bytes.fromhex, digests)
        return IssuedQEIdentity(
            kind,
            issued,
            update,
            int(number),
            select,
            select_mask,
            attributes,
            attributes_mask,
            signer,
            _svn(product),
            _levels(rows),
        )
    except _SpelledOtherwise:
        return None


class _SpelledOtherwise(Exception):
    """This is not as Intel issues it."""


def _text(raw: bytes) -> str:
    if len(raw) > _MAX_SIZE or not raw.isascii():
        raise _SpelledOtherwise
    return raw.decode("ascii")


def _groups(pattern: re.Pattern[str], text: str) -> tuple[str, ...]:
    found = pattern.fullmatch(text)
    if found is None:
        raise _SpelledOtherwise
    return found.groups()


def _rows(pattern: re.Pattern[str], text: str, *, end: str) -> tuple[str, list[tuple[str, ...]]]:
    """Return what stands before the first object of a list, and of each object the groups of `pattern`.

    There is at least one, a comma is all that stands between two of them, and `end` behind the last.
    """
    begins, *parts = pattern.split(text)
    stride = pattern.groups + 1
    between = parts[pattern.groups :: stride]
    count = len(between)
    if not 0 < count <= _MAX_PARTS or between != [*[","] * (count - 1), end]:
        raise _SpelledOtherwise
    return begins, list(zip(*[parts[column::stride] for column in range(pattern.groups)], strict=True))


def _levels(rows: list[tuple[str, ...]]) -> list[Level]:
    return [(_svn(svn), date, status, _advisories(advisories)) for svn, date, status, advisories in rows]


def _identities(text: str) -> list[tuple[str, Module, list[Level]]]:
    begins, rows = _rows(_IDENTITY_OF_MODULE, text, end="")
    if begins:
        raise _SpelledOtherwise
    found = []
    for name, *module, levels in rows:
        before, inner = _rows(_SVN_LEVEL, levels, end="")
        if before:
            raise _SpelledOtherwise
        found.append((name, _module(module), _levels(inner)))
    return found


def _module(digests: list[str]) -> Module:
    if None in digests:
        raise _SpelledOtherwise
    signer, attributes, mask = map(bytes.fromhex, digests)
    return signer, attributes, mask


def _svn(digits: str) -> int:
    svn = int(digits)
    if svn > _MAX_SVN:
        raise _SpelledOtherwise
    return svn


def _advisories(text: str | None) -> tuple[str, ...]:
    return tuple(text.split('","')) if text else ()


def _components(lists: list[str]) -> tuple[list[tuple[int, ...]], tuple[str, ...]]:
    """Return the SVNs of each list of components, and of what kinds they all are."""
    svns, kinds = [], set()
    for text in lists:
        if not text or text[-1] != "}":
            raise _SpelledOtherwise
        pairs = list(map(_read_component, text[:-1].split('},{"svn":')))
        if len(pairs) != COMPONENTS:
            raise _SpelledOtherwise
        of_level, of_kinds = zip(*pairs, strict=True)
        svns.append(of_level)
        kinds.add(of_kinds)
    if len(kinds) != 1:
        raise _SpelledOtherwise
    return svns, kinds.pop()


@functools.lru_cache(maxsize=MAX_KNOWN_COMPONENTS)
def _read_component(text: str) -> tuple[int, str]:
    """Return the SVN of a component, and of what kind it is, of what stands behind the name of its SVN."""
    svn, category, kind = _groups(_COMPONENT, text)
    octet = _OCTETS.get(svn)
    if octet is None:
        raise _SpelledOtherwise
    return octet, f"{category}, {kind}" if category and kind else category or kind or ""
