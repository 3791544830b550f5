"""Where every named field stands: in a quote, a certificate, a CRL. Written from the specifications, not from our code.

Fields are found by a walk of their own, so that a parser that reads the wrong bytes does not also choose what is
changed. Source: Intel SGX ECDSA QuoteLib Reference; Intel TDX DCAP Quoting Library API; RFC 5280.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

_HEADER: Final = (
    ("version", 2),
    ("attestation_key_type", 2),
    ("tee_type", 4),
    ("qe_svn", 2),
    ("pce_svn", 2),
    ("qe_vendor_id", 16),
    ("user_data", 20),
)
_SGX: Final = (
    ("cpu_svn", 16),
    ("misc_select", 4),
    ("reserved_20", 12),
    ("isv_ext_prod_id", 16),
    ("attributes", 16),
    ("mr_enclave", 32),
    ("reserved_96", 32),
    ("mr_signer", 32),
    ("reserved_160", 32),
    ("config_id", 64),
    ("isv_prod_id", 2),
    ("isv_svn", 2),
    ("config_svn", 2),
    ("reserved_262", 42),
    ("isv_family_id", 16),
    ("report_data", 64),
)
_TD_10: Final = (
    ("tee_tcb_svn", 16),
    ("mr_seam", 48),
    ("mr_signer_seam", 48),
    ("seam_attributes", 8),
    ("td_attributes", 8),
    ("xfam", 8),
    ("mr_td", 48),
    ("mr_config_id", 48),
    ("mr_owner", 48),
    ("mr_owner_config", 48),
    *((f"rtmr{index}", 48) for index in range(4)),
    ("report_data", 64),
)
_TD_15: Final = (*_TD_10, ("tee_tcb_svn_2", 16), ("mr_service_td", 48))
_TD_15_EXTENDED: Final = (
    *_TD_15,
    ("vm_id", 1),
    ("td_id", 32),
    ("device_info", 48),
    ("init_service_td_hash", 48),
    ("init_service_td_attributes", 8),
    ("init_cpu_svn", 16),
    ("init_tee_tcb_svn", 16),
    ("init_tee_fmspc", 12),
    ("current_service_td_hash", 48),
    ("current_service_td_attributes", 8),
)
_BODIES: Final = {1: _SGX, 2: _TD_10, 3: _TD_15, 4: _TD_15_EXTENDED}
_FAMILIES: Final = {1: "sgx", 2: "td", 3: "td", 4: "td"}
_TDX: Final = 0x81

PCK_CHAIN: Final = ("pck", "ca", "root")
SIGNER_CHAIN: Final = ("signer", "root")

_EXTENSIONS: Final = {
    "551d23": "authority_key_id",
    "551d1f": "crl_distribution",
    "551d0e": "subject_key_id",
    "551d0f": "key_usage",
    "551d13": "basic_constraints",
    "551d14": "crl_number",
    "2a864886f84d010d01": "sgx",
}
_SGX_ARC: Final = bytes.fromhex("2a864886f84d010d01")
_SGX_FIELDS: Final = {
    1: "ppid",
    2: "tcb",
    3: "pce_id",
    4: "fmspc",
    5: "type",
    6: "platform_instance_id",
    7: "configuration",
}
_SEQUENCE: Final = 0x30
_OCTETS: Final = 0x04
_OID: Final = 0x06


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A named row of bytes."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteMap:
    """The fields of one quote, in order, and where its nested lengths stand."""

    spans: tuple[Span, ...]

    def __getitem__(self, name: str) -> Span:
        return next(span for span in self.spans if span.name == name)

    @property
    def names(self) -> tuple[str, ...]:
        """Every field that has bytes."""
        return tuple(span.name for span in self.spans if span.end > span.start)


class _Walk:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0
        self.spans: list[Span] = []

    def field(self, name: str, length: int) -> int:
        """Note a field; return its bytes as a little-endian number."""
        span = Span(name=name, start=self.at, end=self.at + length)
        self.spans.append(span)
        self.at = span.end
        return int.from_bytes(self.raw[span.start : span.end], "little")

    def row(self, prefix: str, fields: tuple[tuple[str, int], ...]) -> None:
        for name, length in fields:
            self.field(f"{prefix}.{name}", length)


def map_quote(raw: bytes) -> QuoteMap:
    """Return the fields of a good quote of any version."""
    walk = _Walk(raw)
    walk.row("header", _HEADER)
    version, tee = int.from_bytes(raw[:2], "little"), int.from_bytes(raw[4:8], "little")
    kind = 2 if tee == _TDX else 1
    if version == 5:
        kind = walk.field("descriptor.type", 2)
        walk.field("descriptor.size", 4)
    walk.row(_FAMILIES[kind], _BODIES[kind])
    length = walk.field("auth.length", 4)
    end = walk.at + length
    walk.field("auth.signature", 64)
    walk.field("auth.attestation_key", 64)
    if version > 3:
        walk.field("outer.type", 2)
        walk.field("outer.size", 4)
    walk.row("qe_report", _SGX)
    walk.field("qe_report_signature", 64)
    walk.field("qe_auth.data", walk.field("qe_auth.size", 2))
    walk.field("certification.type", 2)
    walk.field("certification.data", walk.field("certification.size", 4))
    assert walk.at == end
    walk.field("padding", len(raw) - end)
    return QuoteMap(spans=tuple(walk.spans))


def resize(raw: bytes, *, certification_data: bytes) -> bytes:
    """Return the quote with other certification data and every length as it has to be."""
    fields = map_quote(raw)
    old = fields["certification.data"]
    difference = len(certification_data) - (old.end - old.start)
    new = raw[: old.start] + certification_data + raw[old.end :]
    for name in ("auth.length", "outer.size", "certification.size"):
        if name in fields.names:
            new = _add(new, fields[name], difference)
    return new


def _add(raw: bytes, span: Span, difference: int) -> bytes:
    width = span.end - span.start
    number = int.from_bytes(raw[span.start : span.end], "little") + difference
    return raw[: span.start] + (number % (1 << 8 * width)).to_bytes(width, "little") + raw[span.end :]


def lengthen(raw: bytes, *names: str, by: int) -> bytes:
    """Return the quote with these length fields changed, and nothing else."""
    fields = map_quote(raw)
    for name in names:
        raw = _add(raw, fields[name], by)
    return raw


# --- DER


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One DER element of `raw`: header from `start`, content from `begin` to `end`."""

    tag: int
    start: int
    begin: int
    end: int


def node_at(raw: bytes, at: int) -> Node:
    """Return the element at `at`; the bytes are known to be good."""
    length, begin = raw[at + 1], at + 2
    if length & 0x80:
        octets = length & 0x7F
        length, begin = int.from_bytes(raw[begin : begin + octets], "big"), begin + octets
    return Node(tag=raw[at], start=at, begin=begin, end=begin + length)


def children(raw: bytes, node: Node) -> list[Node]:
    """Return the elements inside one."""
    found, at = [], node.begin
    while at < node.end:
        found.append(node_at(raw, at))
        at = found[-1].end
    return found


def map_certificate(der: bytes) -> tuple[Span, ...]:
    """Return the named fields of a certificate; `framing` is one octet of a tag or length somewhere."""
    tbs, algorithm, signature = children(der, node_at(der, 0))
    version, serial, tbs_algorithm, issuer, validity, subject, spki, extensions = children(der, tbs)
    not_before, not_after = children(der, validity)
    named = {
        "version": version,
        "serial": serial,
        "tbs_algorithm": tbs_algorithm,
        "issuer": issuer,
        "not_before": not_before,
        "not_after": not_after,
        "subject": subject,
        "spki": spki,
        "algorithm": algorithm,
        "signature": signature,
    }
    spans = [Span(name=name, start=node.begin, end=node.end) for name, node in named.items()]
    return (*spans, *_map_extensions(der, extensions), *_framing(der, tbs, extensions, signature))


def map_crl(der: bytes) -> tuple[Span, ...]:
    """Return the named fields of a CRL."""
    tbs, algorithm, signature = children(der, node_at(der, 0))
    version, tbs_algorithm, issuer, this_update, next_update, *rest = children(der, tbs)
    named = {
        "version": version,
        "tbs_algorithm": tbs_algorithm,
        "issuer": issuer,
        "this_update": this_update,
        "next_update": next_update,
        "algorithm": algorithm,
        "signature": signature,
    }
    if rest and rest[0].tag == _SEQUENCE:
        named["revoked"] = rest[0]
    spans = [Span(name=name, start=node.begin, end=node.end) for name, node in named.items()]
    return (*spans, *_map_extensions(der, rest[-1]), *_framing(der, tbs, rest[-1], signature))


def _framing(der: bytes, *nodes: Node) -> list[Span]:
    """Tags and lengths: of the whole, and of each of these."""
    whole = node_at(der, 0)
    return [Span(name="framing", start=node.start, end=node.begin) for node in (whole, *nodes)]


def _map_extensions(der: bytes, wrapper: Node) -> list[Span]:
    spans = []
    for item in children(der, children(der, wrapper)[0]):
        oid, *_, octets = children(der, item)
        name = _EXTENSIONS.get(der[oid.begin : oid.end].hex())
        if name == "sgx":
            spans += _map_sgx(der, node_at(der, octets.begin))
        elif name is not None:
            spans.append(Span(name=name, start=octets.begin, end=octets.end))
        spans.append(Span(name="extension_oid", start=oid.begin, end=oid.end))
    return spans


def _map_sgx(der: bytes, sequence: Node) -> list[Span]:
    spans = []
    for pair in children(der, sequence):
        oid, value = children(der, pair)
        name = _SGX_FIELDS[der[oid.end - 1]]
        spans.append(Span(name=f"sgx.{name}", start=value.begin, end=value.end))
        if name == "tcb":
            rows = [children(der, row) for row in children(der, value)]
            by_number = {der[number.end - 1]: content for number, content in rows}
            spans.append(Span(name="sgx.component", start=by_number[1].begin, end=by_number[1].end))
            spans.append(Span(name="sgx.pce_svn", start=by_number[17].begin, end=by_number[17].end))
            spans.append(Span(name="sgx.cpu_svn", start=by_number[18].begin, end=by_number[18].end))
    return spans


# --- PEM

_BLOCK: Final = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----\n?", re.DOTALL)


def ders_of(pem: bytes) -> list[bytes]:
    """Return the DER of each certificate of a PEM chain."""
    return [base64.b64decode(block) for block in _BLOCK.findall(pem)]


def pem_of(*ders: bytes) -> bytes:
    """Return a PEM chain."""
    return b"".join(
        b"-----BEGIN CERTIFICATE-----\n"
        + b"".join(base64.b64encode(der[at : at + 48]) + b"\n" for at in range(0, len(der), 48))
        + b"-----END CERTIFICATE-----\n"
        for der in ders
    )
