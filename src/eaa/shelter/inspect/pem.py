"""Text around bytes: PEM blocks, and bytes written as hex digits or in base64."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

from eaa.evidence.quote import INTEL_QE_VENDOR_ID, MAX_QUOTE_SIZE

MAX_BLOCKS: Final = 32
"""PEM blocks of one file that are explained."""
_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----([A-Za-z0-9+/=\s]*)-----END \1-----")
_HEX: Final = re.compile(rb"(?:0x)?[0-9A-Fa-f\s]*")
_SHORTEST_HEX: Final = 32
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_\s-]*={0,2}\s*")
_SHORTEST_BASE64: Final = 256
"""Characters; a word of some other language is shorter."""


_VENDOR: Final = slice(12, 28)
"""Where a quote names the vendor of its quoting enclave."""


@dataclass(frozen=True, slots=True)
class PEMBlock:
    """One block: its label, CERTIFICATE for instance, and its bytes."""

    label: str
    content: bytes


def pem_blocks(raw: bytes) -> list[PEMBlock]:
    """Return the PEM blocks of a text, at most MAX_BLOCKS; what stands around them is left out.

    Binary files have none: a quote carries PEM inside, and is no less a quote for it.
    """
    blocks: list[PEMBlock] = []
    if not _is_text(raw):
        return blocks
    for match in _BLOCK.finditer(raw):
        try:
            blocks.append(PEMBlock(match[1].decode(), base64.b64decode(b"".join(match[2].split()), validate=True)))
        except ValueError:
            continue
        if len(blocks) == MAX_BLOCKS:
            break
    return blocks


def _is_text(raw: bytes) -> bool:
    try:
        return "\0" not in raw.decode()
    except UnicodeDecodeError:
        return False


def from_hex(raw: bytes) -> bytes | None:
    """Return the bytes that a file of hex digits spells, or None for any other file. A PCCS serves CRLs like that."""
    if len(raw) < _SHORTEST_HEX or not _HEX.fullmatch(raw):
        return None
    try:
        return bytes.fromhex(raw.decode().strip().removeprefix("0x"))
    except ValueError:
        return None


def from_base64(raw: bytes) -> bytes | None:
    """Return the bytes that a file spells in base64, of either alphabet, or None for any other file."""
    if len(raw) < _SHORTEST_BASE64 or not _BASE64.fullmatch(raw):
        return None
    text = b"".join(raw.split()).rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        return None


def quote_from_text(raw: bytes) -> bytes:
    """Return the quote that a file spells in hex digits or base64; any other file as it is.

    A quote is never text: its second byte is zero.
    """
    if len(raw) > MAX_QUOTE_SIZE:
        return raw
    spelled = (from_hex(raw), from_base64(raw))
    return next((found for found in spelled if found and found[_VENDOR] == INTEL_QE_VENDOR_ID), raw)
