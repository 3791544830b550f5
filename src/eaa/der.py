"""A bounded reader of DER: one element at a time, never deeper than the caller asks.

Definite lengths and single-byte tags only, each in its one legal encoding. There is no recursion: who wants what is
inside an element calls again with its content, so nesting costs nothing.

Source: ITU-T X.690, "Distinguished encoding rules".
"""

from __future__ import annotations

import functools
from typing import Final, NamedTuple

from eaa.errors import MalformedInput, Reason

MAX_ELEMENTS: Final = 256
"""Elements that `read_all` returns unless the caller says otherwise."""
MAX_OID_SIZE: Final = 64
"""Bytes of an object identifier's content."""
MAX_KNOWN_OIDS: Final = 256
"""Identifiers that are remembered as read: the same few stand in every certificate."""
MAX_INTEGER_SIZE: Final = 1025
"""Bytes of an integer's content: room for an RSA-8192 modulus."""

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
ENUMERATED: Final = 0x0A
SEQUENCE: Final = 0x30
SET: Final = 0x31

_MAX_LENGTH_OCTETS: Final = 4


class Element(NamedTuple):
    """One tag-length-value element.

    A named tuple, for a certificate has a hundred elements and a dataclass takes three times as long to make.
    """

    tag: int
    """The identifier octet as it stands, class and constructed bits included: a SEQUENCE is 0x30."""
    content: bytes
    raw: bytes
    """Header and content."""


_new_element: Final = tuple.__new__
"""Half of the time to make an Element goes into the function that NamedTuple writes for it."""


Span = tuple[int, int, int, int]
"""One element by where it is: its tag, and the offsets of its header, its content and its end."""


def spans(
    raw: bytes, begin: int, end: int, *, what: str, maximum: int = MAX_ELEMENTS, then_more: bool = False
) -> list[Span]:
    """Find the elements that stand in a row in `raw[begin:end]`, at most `maximum` of them.

    Nothing is copied: who takes a certificate apart asks again for what is inside an element. With `then_more`,
    whatever follows the first `maximum` is left alone.

    Raises:
        MalformedInput: DER_MALFORMED, naming `what`.
    """
    found: list[Span] = []
    at = begin
    while at < end:
        if len(found) == maximum:
            if then_more:
                break
            raise _malformed(f"{what} has more than {maximum} elements")
        content = at + 2
        if content > end:
            raise _malformed(f"{what} ends where a DER element should begin")
        tag, length = raw[at], raw[at + 1]
        if tag & 0x1F == 0x1F:
            raise _malformed(f"{what} holds a DER tag of more than one byte")
        if length >= 0x80:
            octets = length & 0x7F
            length = _read_long_length(raw, content, end, octets, what=what)
            content += octets
        after = content + length
        if after > end:
            raise _malformed(f"{what} declares {length} bytes of content, {end - content} are there")
        found.append((tag, at, content, after))
        at = after
    return found


def only_span(raw: bytes, begin: int, end: int, *, tag: int, what: str) -> Span:
    """Find the one element, of the given tag, that `raw[begin:end]` is. Raises as `spans`."""
    found = spans(raw, begin, end, what=what, maximum=1)
    if not found or found[0][0] != tag:
        raise _malformed(f"{what} is not one DER element of tag {tag:#04x}")
    return found[0]


def read_one(raw: bytes, *, what: str) -> tuple[Element, bytes]:
    """Read the element at the start of `raw`; return it and the bytes that follow it.

    Raises:
        MalformedInput: DER_MALFORMED, naming `what`.
    """
    if not raw:
        raise _malformed(f"{what} ends where a DER element should begin")
    tag, at, content, end = spans(raw, 0, len(raw), what=what, maximum=1, then_more=True)[0]
    return _new_element(Element, (tag, raw[content:end], raw[at:end])), raw[end:]


def read_only(raw: bytes, *, tag: int, what: str) -> Element:
    """Read `raw` as exactly one element of the given tag, nothing behind it. Raises as `read_one`."""
    element, rest = read_one(raw, what=what)
    if rest:
        raise _malformed(f"{len(rest)} bytes follow the end of {what}")
    return expect(element, tag=tag, what=what)


def read_all(raw: bytes, *, what: str, maximum: int = MAX_ELEMENTS) -> list[Element]:
    """Read `raw` as a row of elements, at most `maximum` of them. Raises as `read_one`."""
    return [
        _new_element(Element, (tag, raw[content:end], raw[at:end]))
        for tag, at, content, end in spans(raw, 0, len(raw), what=what, maximum=maximum)
    ]


def expect(element: Element, *, tag: int, what: str) -> Element:
    """Return `element` if it has the given tag. Raises MalformedInput (DER_MALFORMED)."""
    if element.tag != tag:
        raise _malformed(f"{what} has DER tag {element.tag:#04x}, {tag:#04x} is expected")
    return element


@functools.lru_cache(maxsize=MAX_KNOWN_OIDS)
def parse_oid(content: bytes) -> str:
    """Return the content of an OBJECT IDENTIFIER in dotted form. Raises MalformedInput (DER_MALFORMED)."""
    if not 1 <= len(content) <= MAX_OID_SIZE:
        raise _malformed(f"an object identifier has {len(content)} bytes, 1 to {MAX_OID_SIZE} are allowed")
    if content[-1] & 0x80:
        raise _malformed("an object identifier ends inside a number")
    arcs: list[int] = []
    arc, at_start = 0, True
    for octet in content:
        if at_start and octet == 0x80:
            raise _malformed("an object identifier has a number with leading zeros")
        arc = arc << 7 | octet & 0x7F
        at_start = not octet & 0x80
        if at_start:
            arcs.append(arc)
            arc = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(str(number) for number in (first, arcs[0] - 40 * first, *arcs[1:]))


def parse_uint(content: bytes) -> int:
    """Return the content of a non-negative INTEGER or ENUMERATED. Raises MalformedInput (DER_MALFORMED)."""
    if not 1 <= len(content) <= MAX_INTEGER_SIZE:
        raise _malformed(f"an integer has {len(content)} bytes, 1 to {MAX_INTEGER_SIZE} are allowed")
    if content[0] & 0x80:
        raise _malformed("an integer is negative where none may be")
    if len(content) > 1 and content[0] == 0 and not content[1] & 0x80:
        raise _malformed("an integer has leading zeros")
    return int.from_bytes(content, "big")


def parse_boolean(content: bytes) -> bool:
    """Return the content of a BOOLEAN, 00 or FF. Raises MalformedInput (DER_MALFORMED)."""
    if content not in (b"\x00", b"\xff"):
        raise _malformed(f"a boolean has the content {content[:4].hex()}, 00 or ff is expected")
    return content == b"\xff"


def _read_long_length(raw: bytes, at: int, end: int, octets: int, *, what: str) -> int:
    """Return a length that is spelled in `octets` bytes of its own."""
    if octets == 0:
        raise _malformed(f"{what} uses an indefinite length")
    if octets > _MAX_LENGTH_OCTETS:
        raise _malformed(f"{what} declares a length of {octets} bytes, at most {_MAX_LENGTH_OCTETS} are allowed")
    if end < at + octets:
        raise _malformed(f"{what} ends inside a DER length")
    length = int.from_bytes(raw[at : at + octets], "big")
    if length < 0x80 or length >> 8 * (octets - 1) == 0:
        raise _malformed(f"{what} spells a length in more bytes than it needs")
    return length


def _malformed(message: str) -> MalformedInput:
    return MalformedInput(Reason.DER_MALFORMED, message)
