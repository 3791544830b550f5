"""Small changes of bytes and texts: one bit, a byte, a digit, a member of a JSON object."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from mutants.layout import Span


def flip(raw: bytes, span: Span, rng: Random) -> tuple[bytes, str]:
    """Change something within `span`; return the new bytes, and what was done."""
    at = rng.randrange(span.start, span.end)
    if rng.random() < 0.75:
        bit = rng.randrange(8)
        return raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :], f"bit {bit} of byte {at - span.start} flipped"
    if rng.random() < 0.5:
        value = (raw[at] + rng.randrange(1, 256)) % 256
        return raw[:at] + bytes([value]) + raw[at + 1 :], f"byte {at - span.start} set to {value:#04x}"
    filler = rng.choice([b"\0", b"\xff"])
    new = filler * (span.end - span.start)
    if new == raw[span.start : span.end]:
        new = bytes(octet ^ 0xFF for octet in new)
    return raw[: span.start] + new + raw[span.end :], f"filled with {new[0]:#04x}"


def cut(raw: bytes, at: int) -> bytes:
    """Return `raw` up to `at`."""
    return raw[:at]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A value of a JSON text, or the name of a member."""

    path: str
    """Names joined by dots; the numbers of list items left out."""
    span: Span


_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\s\[\]{}:,"]+')


def leaves(text: str) -> tuple[list[Leaf], list[Leaf]]:
    """Return values and member names of a JSON text that is known to be good, in order."""
    values: list[Leaf] = []
    names: list[Leaf] = []
    path: list[str] = []
    kinds: list[str] = []
    name, expects_name = "", False
    for token in _TOKEN.finditer(text):
        what = token[0]
        if what in "{[":
            path.append("" if kinds and kinds[-1] == "[" else name)
            kinds.append(what)
            expects_name = what == "{"
        elif what in "}]":
            name = path.pop()
            kinds.pop()
        elif what == ",":
            expects_name = kinds[-1] == "{"
        elif what == ":":
            expects_name = False
        else:
            shown = what.strip('"')
            steps = [step for step in (*path, *([] if kinds[-1] == "[" else [shown if expects_name else name])) if step]
            inside = 1 if what[0] == '"' else 0
            span = Span(name=".".join(steps), start=token.start() + inside, end=token.end() - inside)
            (names if expects_name else values).append(Leaf(path=span.name, span=span))
            name = shown if expects_name else name
    return [leaf for leaf in values if leaf.span.end > leaf.span.start], names


_ALPHABETS: Final = ("0123456789", "0123456789ABCDEF", "0123456789abcdef", "abcdefghijklmnopqrstuvwxyz")


def respell(text: str, span: Span, rng: Random) -> tuple[str, str]:
    """Change one character within `span`, to one of the same kind most of the time."""
    at = rng.randrange(span.start, span.end)
    old = text[at]
    alike = next((alphabet for alphabet in _ALPHABETS if old in alphabet), "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    choices = alike if rng.random() < 0.8 else "\x00 \"\\{}[]:,.-+eE'\u00e9"
    new = rng.choice([character for character in choices if character != old])
    return text[:at] + new + text[at + 1 :], f"character {at - span.start} {old!r} became {new!r}"


Respelling = Callable[[bytes, Random], bytes]


def spaced(text: bytes, rng: Random) -> bytes:
    """Add whitespace where JSON allows some."""
    at = rng.choice([match.end() for match in re.finditer(rb"[{,:\[]", text)])
    return text[:at] + rng.choice([b" ", b"\n", b"\t", b"\r\n"]) + text[at:]


def named_twice(text: bytes, rng: Random) -> bytes:
    """Put a member in front of itself, with its own value or another one."""
    members = list(re.finditer(rb'"([A-Za-z]+)":("[^"]*"|[0-9]+)', text))
    member = rng.choice(members)
    value = member[2] if rng.random() < 0.5 else b'"x"' if member[2][:1] == b'"' else b"0"
    return text[: member.start()] + b'"%b":%b,' % (member[1], value) + text[member.start() :]


def escaped(text: bytes, rng: Random) -> bytes:
    """Spell a letter of a string as an escape."""
    letters = [match.start(1) for match in re.finditer(rb'"[^"]*?([A-Za-z])[^"]*"', text)]
    at = rng.choice(letters)
    return text[:at] + b"\\u%04x" % text[at] + text[at + 1 :]


def numbered_otherwise(text: bytes, rng: Random) -> bytes:
    """Spell a number in another way."""
    numbers = list(re.finditer(rb"(?<=:)[0-9]+(?=[,}])", text))
    number = rng.choice(numbers)
    forms: list[Callable[[bytes], bytes]] = [
        lambda digits: digits + b".0",
        lambda digits: digits + b"e0",
        lambda digits: b"0" + digits,
        lambda digits: b'"' + digits + b'"',
        lambda digits: b"+" + digits,
        lambda digits: b"-" + digits,
        lambda digits: digits + b"0" * 40,
        lambda _: b"null",
        lambda _: b"true",
        lambda _: b"NaN",
        lambda _: b"[]",
    ]
    return text[: number.start()] + rng.choice(forms)(number[0]) + text[number.end() :]


def followed(text: bytes, rng: Random) -> bytes:
    """Put something behind the document."""
    return text + rng.choice([b" ", b"\n", b"XYZ", b"{}", b"\0", b",", b"}", b"//"])


def preceded(text: bytes, rng: Random) -> bytes:
    """Put something before the document."""
    return rng.choice([b" ", b"\n", b"\xef\xbb\xbf", b"[", b"\0", b"null"]) + text


def recased(text: bytes, rng: Random) -> bytes:
    """Turn a letter of a hex value to the other case."""
    letters = [match.start(1) for match in re.finditer(rb'"[0-9A-Fa-f]*?([A-Fa-f])[0-9A-Fa-f]*"', text)]
    at = rng.choice(letters)
    return text[:at] + text[at : at + 1].swapcase() + text[at + 1 :]


def deepened(text: bytes, rng: Random) -> bytes:
    """Add a member that is nested deep."""
    depth = rng.choice([8, 31, 33, 130, 5000])
    return text[:-1] + b',"deep":' + b"[" * depth + b"]" * depth + b"}"


def enriched(text: bytes, rng: Random) -> bytes:
    """Add a member that nobody knows."""
    return text[:-1] + b',"later":' + rng.choice([b"1", b'"x"', b"null", b"{}"]) + b"}"


RESPELLINGS: Final[dict[str, Respelling]] = {
    "spaced": spaced,
    "named_twice": named_twice,
    "escaped": escaped,
    "numbered_otherwise": numbered_otherwise,
    "followed": followed,
    "preceded": preceded,
    "recased": recased,
    "deepened": deepened,
    "enriched": enriched,
}
