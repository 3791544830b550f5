"""Parts of a JSON text exactly as they were written: what a signature covers must not pass through a parser.

A document inside an upload keeps its bytes when they verify as they stand. Tools that fetched it may have laid it out
anew, with spaces that were never signed; then the spaces go, and nothing else changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from eaa.collateral.intel import SignedMember, split_signed_document
from eaa.collateral.x509 import Certificate
from eaa.errors import MalformedInput

_SPACES: Final = re.compile(r"[ \t\r\n]*")
_STRING_OR_SPACES: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[ \t\r\n]++')
_DECODER: Final = json.JSONDecoder()


def members(text: str, start: int = 0) -> dict[str, tuple[int, int]]:
    """Return where each member's value of the object at `start` begins and ends. The text must be valid JSON."""
    found: dict[str, tuple[int, int]] = {}
    at = _skip(text, start) + 1
    while text[(at := _skip(text, at))] != "}":
        name, at = _DECODER.raw_decode(text, at)
        begin = _skip(text, _skip(text, at) + 1)
        _, end = _DECODER.raw_decode(text, begin)
        found[name] = (begin, end)
        at = _after(text, end)
    return found


def elements(text: str, start: int) -> Iterator[int]:
    """Yield where each element of the array at `start` begins. The text must be valid JSON."""
    at = _skip(text, start) + 1
    while text[(at := _skip(text, at))] != "]":
        yield at
        _, end = _DECODER.raw_decode(text, at)
        at = _after(text, end)


def _skip(text: str, at: int) -> int:
    match = _SPACES.match(text, at)
    return match.end() if match else at


def _after(text: str, end: int) -> int:
    """Return the place behind a value and the comma that may follow it."""
    at = _skip(text, end)
    return at + 1 if text[at] == "," else at


def compact(text: str) -> str:
    """Return the JSON text without the spaces between its tokens; every token stays as it was written."""
    return _STRING_OR_SPACES.sub(lambda match: match[0] if match[0].startswith('"') else "", text)


def as_signed(text: str, member: SignedMember, signer: Certificate | None) -> bytes:
    """Return a signed document as its signer wrote it, as far as that can be known."""
    if signer is not None and _verifies(text, member, signer):
        return text.encode()
    return compact(text).encode()


def _verifies(text: str, member: SignedMember, signer: Certificate) -> bool:
    """Whether the signature covers the document as it stands. Says nothing of whether the signer can be trusted."""
    try:
        body, signature = split_signed_document(text.encode(), member)
    except MalformedInput:
        return False
    encoded = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    try:
        signer.public_key.verify(encoded, body, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
