"""Certificates as they are kept: DER where anybody would write the same PEM around it, and PEM otherwise."""

from __future__ import annotations

import ssl
from typing import Final

_DER: Final = b"\x30"


def packed(pem: str) -> bytes:
    """Return the shortest bytes from which exactly this PEM can be made again."""
    try:
        der = ssl.PEM_cert_to_DER_cert(pem)
    except ValueError:
        return pem.encode()
    return der if ssl.DER_cert_to_PEM_cert(der) == pem and der.startswith(_DER) else pem.encode()


def unpacked(kept: bytes) -> str:
    """Return the PEM again; of bytes that are neither, text that is none."""
    raw = as_bytes(kept)
    return ssl.DER_cert_to_PEM_cert(raw) if raw.startswith(_DER) else raw.decode("ascii", "replace")


def as_bytes(kept: object) -> bytes:
    """Return bytes that are kept; where somebody else has written text, or a number, those of its text."""
    return bytes(kept) if isinstance(kept, bytes | bytearray | memoryview) else str(kept).encode("utf-8", "replace")
