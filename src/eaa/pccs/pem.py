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
    """Return the PEM again."""
    return ssl.DER_cert_to_PEM_cert(kept) if kept.startswith(_DER) else kept.decode()
