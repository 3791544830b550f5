"""Tar archives of many small files, plain or gzip: read in one pass, within bounds, and never unpacked to disk.

Python's own reader takes the sizes in an archive for true; here every one of them has a limit that is checked before
a byte is read, and what is unpacked from gzip has one too.

Source: POSIX.1-2001 "ustar Interchange Format" and "pax Interchange Format"; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from eaa.errors import MalformedInput, Reason

MAX_ARCHIVE_SIZE: Final = 8 * 1024 * 1024 * 1024
"""Bytes of a whole archive, unpacked from gzip."""
MAX_MEMBERS: Final = 1_000_000
MAX_NAME: Final = 4096
"""Bytes of a member's name."""
MAX_EXTENDED_HEADER: Final = 64 * 1024
"""Bytes of the records that stand before a member for what its own header cannot say."""
_BLOCK: Final = 512
_SKIP: Final = 256 * 1024
_MAGIC: Final = slice(257, 262)
_GZIP: Final = b"\x1f\x8b"
_OTHER_FORMS: Final = {
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
}
"""How other archives begin, which are told apart from a damaged quote and not read."""
_REGULAR: Final = (b"0", b"\0", b"7")
_FOLDER: Final = b"5"
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"
HEAD_SIZE: Final = _BLOCK
"""Bytes by which an archive is known."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive."""

    name: str
    """As the archive says; bytes that are no UTF-8 are kept as surrogates."""
    size: int
    content: bytes
    """The first bytes of it, as many as were asked for."""
    is_file: bool = True
    """False for links, devices and pipes, and for whatever writers have invented beside files and folders."""


def is_archive(head: bytes) -> bool:
    """Whether a file that begins with these HEAD_SIZE bytes is an archive, or packed as one."""
    return head.startswith((_GZIP, *_OTHER_FORMS)) or head[_MAGIC] == b"ustar"


def members_of(stream: BinaryIO, *, keep: int) -> Iterator[Member]:
    """Yield what is in an archive in its order, the first `keep` bytes of each file. Folders are left out.

    Raises:
        MalformedInput: ARCHIVE_MALFORMED; members before the defect have been yielded.
        OSError: the stream cannot be read.
    """
    reader = _Reader(stream)
    name: bytes | None = None
    size: int | None = None
    count = 0
    while (header := reader.block()) is not None:
        _verify_checksum(header)
        kind, length = header[156:157], _number(header[124:136])
        if kind in (_LONG_NAME, _PAX):
            records = reader.content(length, keep=_bounded(length, MAX_EXTENDED_HEADER))
            if kind == _LONG_NAME:
                name = records.rstrip(b"\0")
            else:
                given = _pax_records(records)
                name, size = given.get(b"path", name), _decimal(given[b"size"]) if b"size" in given else size
            continue
        if kind in (_PAX_GLOBAL, _LONG_LINK):
            reader.content(_bounded(length, MAX_EXTENDED_HEADER), keep=0)
            continue
        count += 1
        if count > MAX_MEMBERS:
            raise _malformed(f"it holds more than {MAX_MEMBERS} files")
        length = length if size is None else size
        is_regular = kind in _REGULAR
        content = reader.content(length if is_regular or kind not in _WITHOUT_CONTENT else 0, keep=keep)
        told = _text(_name(header) if name is None else name)
        # Writers of before 1988 know no folders, only names that end like one.
        if kind != _FOLDER and not (is_regular and told.endswith("/")):
            yield Member(told, length, content) if is_regular else Member(told, 0, b"", is_file=False)
        name = size = None


_WITHOUT_CONTENT: Final = (b"1", b"2", b"3", b"4", b"5", b"6")
"""Links, devices and folders: their size field says nothing about what follows."""


class _Reader:
    """Takes blocks from a stream, unpacking gzip, and counts them."""

    def __init__(self, stream: BinaryIO) -> None:
        head = stream.read(_BLOCK)
        for begin, form in _OTHER_FORMS.items():
            if head.startswith(begin):
                raise _malformed(f"it is packed with {form}")
        self._stream: BinaryIO | gzip.GzipFile = Rewound(head, stream)  # type: ignore[assignment]
        if head.startswith(_GZIP):
            self._stream = gzip.GzipFile(fileobj=self._stream, mode="rb")
        self._taken = 0

    def block(self) -> bytes | None:
        """Return the next header, None at the end of the archive."""
        block = self._read(_BLOCK)
        # Without its end mark it was cut off, and nobody knows how many files are missing.
        if len(block) != _BLOCK:
            raise _malformed("it ends before its end mark")
        return block if block.strip(b"\0") else None

    def content(self, length: int, *, keep: int) -> bytes:
        """Take a member's bytes with what fills their last block, and return the first `keep` of them."""
        if length > MAX_ARCHIVE_SIZE:
            raise _malformed(f"it holds a file of {length} bytes")
        kept = self._read(min(length, keep))
        left = -length % _BLOCK + length - len(kept)
        while left > 0:
            skipped = len(self._read(min(left, _SKIP)))
            if not skipped:
                raise _malformed("it ends inside a file")
            left -= skipped
        return kept

    def _read(self, size: int) -> bytes:
        self._taken += size
        if self._taken > MAX_ARCHIVE_SIZE:
            raise _malformed(f"it holds more than {MAX_ARCHIVE_SIZE} bytes")
        parts: list[bytes] = []
        try:
            while size > 0 and (part := self._stream.read(size)):
                parts.append(part)
                size -= len(part)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise _malformed("what is packed in it is damaged") from error
        return b"".join(parts)


class Rewound:
    """A binary stream whose first bytes were read to look at them."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head = head
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        if self._head:
            head, self._head = self._head[:size], self._head[size:]
            return head
        return self._stream.read(size)


def _verify_checksum(header: bytes) -> None:
    told = _number(header[148:156])
    if told != sum(header) - sum(header[148:156]) + 8 * 0x20:
        raise _malformed("a header's checksum is wrong")


def _number(field: bytes) -> int:
    """Return an octal number, or one of more bits as GNU tar writes it."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if len(digits.strip(b"01234567")) or not digits:
        raise _malformed("a number in a header is none")
    return int(digits, 8)


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 15:
        raise _malformed("a size in a header is none")
    return int(text)


def _name(header: bytes) -> bytes:
    name, prefix = header[:100].split(b"\0")[0], header[345:500].split(b"\0")[0]
    # The older GNU form has other things where ustar has the prefix.
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _pax_records(raw: bytes) -> dict[bytes, bytes]:
    """Return `length key=value` records."""
    records: dict[bytes, bytes] = {}
    while raw:
        length, space, _ = raw.partition(b" ")
        size = _decimal(length[:16])
        record = raw[len(length) + 1 : size]
        key, equals, value = record.partition(b"=")
        if not space or not equals or raw[size - 1 : size] != b"\n" or size <= len(length) + 2:
            raise _malformed("a record of an extended header is none")
        records[key] = value[:-1]
        raw = raw[size:]
    return records


def _bounded(length: int, maximum: int) -> int:
    if length > maximum:
        raise _malformed(f"an extended header has {length} bytes, the limit is {maximum}")
    return length


def _text(name: bytes) -> str:
    if len(name) > MAX_NAME:
        raise _malformed(f"a name has {len(name)} bytes, the limit is {MAX_NAME}")
    return name.decode(errors="surrogateescape")


def _malformed(what: str) -> MalformedInput:
    return MalformedInput(
        Reason.ARCHIVE_MALFORMED,
        f"the archive cannot be read: {what}",
        hint="it must be a tar archive, plain or packed with gzip",
    )
