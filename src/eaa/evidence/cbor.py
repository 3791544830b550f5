"""The small part of CBOR that evidence and messages are made of, read from bytes that nobody vouches for.

cbor2 decodes all of CBOR, and from a stranger's tags would build dates, regular expressions and e-mail messages. So
the heads of an item are walked first, without building anything: only unsigned integers, strings, arrays, maps and the
tags the caller names pass, only definite lengths that the input really holds, and only so many of them. What passed is
decoded by cbor2.

Source: RFC 8949; its section 4.2.1 is what "deterministic" means here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Final

import cbor2

from eaa.errors import MalformedInput, Reason

MAX_ITEMS: Final = 64
"""Data items, nested ones included, in one input."""
MAX_KNOWN_MAPS: Final = 64
"""Sets of keys whose order is remembered."""
MAX_DEPTH: Final = 4
"""Containers and tags inside one another."""

_ONE_BYTE_LENGTH, _TWO_BYTE_LENGTH = 0x58, 0x59
"""How the head of a byte string begins that spells its length in one byte, or in two."""
_UNSIGNED, _BYTES, _TEXT, _ARRAY, _MAP, _TAG = 0, 2, 3, 4, 5, 6


def encode(value: object) -> bytes:
    """Return the deterministic encoding of `value`."""
    return cbor2.dumps(value, canonical=True)


def byte_string(content: bytes) -> bytes:
    """Return the deterministic encoding of a byte string."""
    return head_of_byte_string(len(content)) + content


def head_of_byte_string(size: int) -> bytes:
    """Return what stands before the content of a byte string in its deterministic encoding."""
    if size < _LONG:
        return _SHORT_HEADS[size]
    return bytes((_TWO_BYTE_LENGTH, size >> 8, size & 0xFF)) if size < 1 << 16 else _head(_BYTES, size)


def map_of_byte_strings(values: Mapping[str, bytes]) -> bytes:
    """Return the deterministic encoding of a map of text keys and byte strings; cbor2 takes three times as long."""
    pieces: list[bytes] = []
    for name, key in _in_order(tuple(values)):
        content = values[name]
        size = len(content)
        pieces += (key, _SHORT_HEADS[size] if size < _LONG else _head(_BYTES, size), content)
    return b"".join(pieces) or _head(_MAP, 0)


def around_byte_strings(values: Mapping[str, bytes], *blanks: str) -> tuple[bytes, ...]:
    """Return the same encoding, cut where the contents of `blanks` would stand, in the order of the map.

    For maps in which nothing else is new each time: their encoding is one piece, one content, the next piece and so on.
    Of a blank's value only the size matters. The map is not empty.
    """
    pieces = [b""]
    for name, key in _in_order(tuple(values)):
        content = values[name]
        pieces[-1] += key + head_of_byte_string(len(content))
        if name in blanks:
            pieces.append(b"")
        else:
            pieces[-1] += content
    return tuple(pieces)


@functools.lru_cache(maxsize=MAX_KNOWN_MAPS)
def _in_order(names: tuple[str, ...]) -> tuple[tuple[str, bytes], ...]:
    """Return the keys of a map and their encodings, shorter ones first; the head of the map stands before the first."""
    encoded = sorted(((name, encode(name)) for name in names), key=lambda key: (len(key[1]), key[1]))
    return tuple((name, key if at else _head(_MAP, len(names)) + key) for at, (name, key) in enumerate(encoded))


def _head(major: int, argument: int) -> bytes:
    """Return the shortest head of an item."""
    if argument < 24:
        return bytes((major << 5 | argument,))
    for size in range(4):
        if argument < 1 << (8 << size):
            return bytes((major << 5 | 24 + size,)) + argument.to_bytes(1 << size, "big")
    raise _malformed(f"a CBOR item of {argument} bytes or members was to be written")


_LONG: Final = 256
_SHORT_HEADS: Final = tuple(_head(_BYTES, size) for size in range(_LONG))
"""Heads of byte strings of up to 255 bytes: nearly all that a claim is."""


def decode(raw: bytes, *, what: str, tags: frozenset[int] = frozenset()) -> Any:
    """Decode `raw`, which must be exactly one item in its one deterministic encoding.

    Raises:
        MalformedInput: EVIDENCE_MALFORMED, naming `what`.
    """
    value, rest = decode_first(raw, what=what, tags=tags)
    if rest:
        raise _malformed(f"{len(rest)} bytes follow the end of {what}")
    if encode(value) != raw:
        raise _malformed(
            f"{what} is not in deterministic CBOR: map keys out of order, or a number in more bytes than due"
        )
    return value


def decode_first(raw: bytes, *, what: str, tags: frozenset[int] = frozenset()) -> tuple[Any, bytes]:
    """Decode the item at the start of `raw`; return it and the bytes that follow it, unjudged. Raises as `decode`."""
    end = _item_size(raw, what=what, tags=tags)
    try:
        value = cbor2.loads(
            raw[:end],
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except cbor2.CBORDecodeError as error:
        raise _malformed(f"{what} is not the CBOR that is expected: {error}") from error
    return value, raw[end:]


def byte_string_at(raw: bytes, at: int) -> tuple[int, int]:
    """Return where the content of a byte string begins and ends whose head is at `at`; nowhere (-1, -1) if none is.

    Only those of 24 to 65,535 bytes are found, with a head of the shortest form, and all of it in `raw`.
    """
    head = raw[at : at + 3]
    if len(head) == 3 and at >= 0:
        if head[0] == _ONE_BYTE_LENGTH and head[1] >= 24:
            begin, end = at + 2, at + 2 + head[1]
        elif head[0] == _TWO_BYTE_LENGTH and head[1]:
            begin = at + 3
            end = begin + (head[1] << 8 | head[2])
        else:
            return -1, -1
        if end <= len(raw):
            return begin, end
    return -1, -1


def _item_size(raw: bytes, *, what: str, tags: frozenset[int]) -> int:
    """Return the size of the first item of `raw`, having looked at every head inside it."""
    at, pending, items = 0, 1, 0
    while pending:
        items += 1
        if items + pending > MAX_ITEMS + 1:
            raise _malformed(f"{what} has more than {MAX_ITEMS} CBOR items")
        major, argument, at = _read_head(raw, at, what=what)
        pending -= 1
        if major in (_BYTES, _TEXT):
            if argument > len(raw) - at:
                raise _malformed(f"{what} declares a string of {argument} bytes, {len(raw) - at} are there")
            at += argument
        elif major in (_ARRAY, _MAP):
            pending += argument * (2 if major == _MAP else 1)
        elif major == _TAG and argument in tags:
            pending += 1
        elif major != _UNSIGNED:
            raise _malformed(f"{what} holds CBOR of a kind that has no place in it (major type {major})")
    return at


def _read_head(raw: bytes, at: int, *, what: str) -> tuple[int, int, int]:
    """Return major type, argument and the offset behind the head at offset `at`."""
    if at >= len(raw):
        raise _malformed(f"{what} ends where a CBOR item should begin")
    major, info = raw[at] >> 5, raw[at] & 0x1F
    at += 1
    if info < 24:
        return major, info, at
    if info > 27:
        raise _malformed(f"{what} uses an indefinite length or a reserved CBOR head")
    size = 1 << (info - 24)
    if size > len(raw) - at:
        raise _malformed(f"{what} ends inside a CBOR head")
    return major, int.from_bytes(raw[at : at + size], "big"), at + size


def _malformed(message: str) -> MalformedInput:
    return MalformedInput(Reason.EVIDENCE_MALFORMED, message)
