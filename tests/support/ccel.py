"""Event logs for tests, byte by byte as the TCG's profile has them; nothing here comes from the parser."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

SHA384 = 0x000C
SHA256 = 0x000B
NO_ACTION = 3
SEPARATOR = 4


def header(algorithms: Sequence[tuple[int, int]] = ((SHA384, 48),), *, vendor: bytes = b"") -> bytes:
    """The first event: TCG 1.2 in form, and the specification's name and algorithms in what it says."""
    content = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(algorithms))
    content += b"".join(struct.pack("<HH", *algorithm) for algorithm in algorithms)
    content += bytes([len(vendor)]) + vendor
    return struct.pack("<II20sI", 0, NO_ACTION, bytes(20), len(content)) + content


def event(
    register: int, data: bytes, *, kind: int = SEPARATOR, digests: Sequence[tuple[int, bytes]] | None = None
) -> bytes:
    """One event of the newer form; its digest is that of its data unless others are given."""
    if digests is None:
        digests = ((SHA384, hashlib.sha384(data).digest()),)
    written = b"".join(struct.pack("<H", algorithm) + digest for algorithm, digest in digests)
    return struct.pack("<III", register, kind, len(digests)) + written + struct.pack("<I", len(data)) + data


def extended(*data: bytes) -> bytes:
    """What a register holds after these were measured into it."""
    register = bytes(48)
    for one in data:
        register = hashlib.sha384(register + hashlib.sha384(one).digest()).digest()
    return register


BOOT = (
    header()
    + event(0, b"the specification again", kind=NO_ACTION)
    + event(1, b"firmware configuration")
    + event(1, bytes(4))
    + event(2, b"boot loader")
    + event(3, b"kernel command line")
    + event(3, b"initial file system")
)
"""A log of a boot that measured into the first three registers."""
REGISTERS = (
    extended(b"firmware configuration", bytes(4)),
    extended(b"boot loader"),
    extended(b"kernel command line", b"initial file system"),
    bytes(48),
)
"""What the registers hold after it."""
