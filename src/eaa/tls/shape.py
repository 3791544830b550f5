"""The shape of certificates: all of their bytes but a few values, so that those of one maker are taken apart once.

A peer's leaf is read by two libraries, see `eaa.tls.leaf`. Another one that differs from it in nothing but the values
below has every tag and every length in the same place, so both would find in it what they found in the first, and these
values:

1. The serial number, positive and in its one encoding.
2. Both dates, in the form that RFC 5280 has.
3. The point of a P-256 key, uncompressed, which has to be on the curve.
4. The key identifiers, 20 bytes each.
5. The content of the evidence extension, which is nothing but bytes to other libraries. Where it is encoded as ours is,
   quote and claims are the values, and the encoding is the same in all.
6. The signature, which nobody looks at.

A value that is not like this, and any other byte, has the certificate read the long way, which knows what to say of it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from eaa import der
from eaa.errors import MalformedInput
from eaa.evidence.cbor import head_of_byte_string
from eaa.evidence.tagged import QUOTE_TAG, TaggedEvidence
from eaa.records import quick
from eaa.tls.certificate import EVIDENCE_OID, Format, RATLSCertificate, parse_time

MAX_SHAPES: Final = 64
"""Shapes that are remembered. Those of one maker have a few: signatures and serial numbers differ in size."""

_WHAT: Final = "the certificate"
_P256_HEAD: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
"""How the SubjectPublicKeyInfo of an uncompressed P-256 key begins."""
_POINT_SIZE: Final = 64
_PRIME: Final = 2**256 - 2**224 + 2**192 + 2**96 - 1
_B: Final = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
_VERSION_3: Final = 3
_FIELDS: Final = 8
"""Fields of a body with extensions: version, serial number, algorithm, issuer, validity, subject, key, extensions."""
_KEY_IDENTIFIERS: Final = {"2.5.29.14": bytes.fromhex("0414"), "2.5.29.35": bytes.fromhex("30168014")}
"""Extensions that identify a key by 20 bytes, and what stands before these."""
_KEY_IDENTIFIER_SIZE: Final = 20

_new_certificate: Final = quick(RATLSCertificate)
_new_evidence: Final = quick(TaggedEvidence)

Value = tuple[int, int]
"""Where a value begins and ends."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What certificates have in common, and where their values are."""

    layout: struct.Struct
    """Common bytes and values by turns."""
    common: tuple[bytes, ...]
    evidence: int
    """Which of all parts the evidence is, or the quote in it."""
    claims: int | None
    """Which of them the claims are; None where the evidence is one part."""
    date_tags: tuple[int, int]
    example: RATLSCertificate
    """The one that was read the long way."""

    @classmethod
    def of(cls, raw: bytes, certificate: RATLSCertificate) -> Shape | None:
        """Return the shape of a certificate that was read and found sound; None of those that are rare.

        Args:
            raw: the certificate, DER.
            certificate: what two libraries have read in it.
        """
        plain = certificate.version == _VERSION_3 and certificate.format is Format.INTEROPERABLE
        beside = certificate.legacy_quote is not None or certificate.endorsements is not None
        if not plain or beside or not certificate.spki_der.startswith(_P256_HEAD):
            return None
        (_, _, begin, end), *_ = der.spans(raw, 0, len(raw), what=_WHAT)
        body, _, signature = der.spans(raw, begin, end, what=_WHAT)
        fields = der.spans(raw, body[2], body[3], what=_WHAT)
        if len(fields) != _FIELDS:
            return None
        _, serial, _, _, validity, _, key, wrapped = fields
        dates = der.spans(raw, validity[2], validity[3], what=_WHAT)
        of_extensions, evidence = _values_of_extensions(raw, wrapped, certificate.tagged)
        point = (key[3] - _POINT_SIZE, key[3])
        # The first byte of a BIT STRING tells how many bits of the last one are none.
        values = [serial[2:], *(date[2:] for date in dates), point, *of_extensions, (signature[2] + 1, signature[3])]
        layout, common = _cut(raw, values)
        which = [2 * values.index(value) + 1 for value in evidence]
        return cls(
            layout,
            common,
            evidence=which[0],
            claims=which[1] if len(which) > 1 else None,
            date_tags=(dates[0][0], dates[1][0]),
            example=certificate,
        )

    def read(self, raw: bytes) -> RATLSCertificate | None:
        """Return a certificate of this shape and its size; None where it has another one, or a value is none."""
        parts = self.layout.unpack(raw)
        if parts[::2] != self.common:
            return None
        serial, begin, end, point = parts[1:8:2]
        if not any(serial) or not _is_on_curve(point):
            return None
        known = self.example
        try:
            return _new_certificate(
                format=known.format,
                version=known.version,
                serial_number=der.parse_uint(serial),
                subject=known.subject,
                not_before=parse_time(self.date_tags[0], begin),
                not_after=parse_time(self.date_tags[1], end),
                spki_der=_P256_HEAD + point,
                tagged=TaggedEvidence.parse_certificate_extension(parts[self.evidence])
                if self.claims is None
                else _new_evidence(tag=QUOTE_TAG, evidence=parts[self.evidence], claims=parts[self.claims]),
                extension_oids=known.extension_oids,
                unknown_critical=known.unknown_critical,
            )
        except MalformedInput:
            return None


def _values_of_extensions(
    raw: bytes, wrapped: der.Span, tagged: TaggedEvidence | None
) -> tuple[list[Value], list[Value]]:
    """Return where the values of extensions are, and which of them are the evidence."""
    values: list[Value] = []
    evidence: list[Value] = []
    (_, _, begin, end), *_ = der.spans(raw, wrapped[2], wrapped[3], what=_WHAT)
    for _, _, first, last in der.spans(raw, begin, end, what=_WHAT):
        identifier, *_, content = der.spans(raw, first, last, what=_WHAT)
        oid, (at, after) = der.parse_oid(raw[identifier[2] : identifier[3]]), content[2:]
        before = _KEY_IDENTIFIERS.get(oid, b"")
        if oid == EVIDENCE_OID:
            evidence = _values_of_evidence(raw, (at, after), tagged)
            values += evidence
        elif before and raw.startswith(before, at) and after - at == len(before) + _KEY_IDENTIFIER_SIZE:
            values.append((at + len(before), after))
    return values, evidence


def _values_of_evidence(raw: bytes, whole: Value, tagged: TaggedEvidence | None) -> list[Value]:
    """Return where quote and claims are; the whole where they are not encoded as ours are, or are padded."""
    begin, end = whole
    if tagged is None or tagged.tag != QUOTE_TAG or tagged.encode() != raw[begin:end]:
        return [whole]
    claims = end - len(tagged.claims)
    quote = claims - len(head_of_byte_string(len(tagged.claims)))
    return [(quote - len(tagged.evidence), quote), (claims, end)]


def _cut(raw: bytes, values: list[Value]) -> tuple[struct.Struct, tuple[bytes, ...]]:
    """Return how to tell values from what is between them, and what that is here."""
    sizes, at = [], 0
    for begin, end in values:
        sizes += [begin - at, end - begin]
        at = end
    layout = struct.Struct("".join(f"{size}s" for size in (*sizes, len(raw) - at)))
    return layout, layout.unpack(raw)[::2]


def _is_on_curve(point: bytes) -> bool:
    """Whether these are the coordinates of a point of P-256: other libraries refuse whatever else is there."""
    x, y = int.from_bytes(point[:32], "big"), int.from_bytes(point[32:], "big")
    return x < _PRIME and y < _PRIME and (y * y - (x * x - 3) * x - _B) % _PRIME == 0


class Shapes:
    """The shapes that were seen. Threads may share it: each step is one operation on a dictionary."""

    def __init__(self) -> None:
        self._of_size: dict[int, tuple[Shape, ...]] = {}

    def read(self, raw: bytes) -> RATLSCertificate | None:
        """Return a certificate, DER, of a shape that was learnt; None where it has to be read the long way."""
        for shape in self._of_size.get(len(raw), ()):
            certificate = shape.read(raw)
            if certificate is not None:
                return certificate
        return None

    def learn(self, raw: bytes, certificate: RATLSCertificate) -> None:
        """Remember the shape of a certificate that two libraries have read alike."""
        shape = Shape.of(raw, certificate)
        if shape is None:
            return
        known = self._of_size.get(len(raw), ())
        if sum(map(len, list(self._of_size.values()))) >= MAX_SHAPES:
            self._of_size.clear()
            known = ()
        self._of_size[len(raw)] = (*known, shape)
