"""A bounded reader of fixed layouts: every length is checked before a byte is taken."""

from __future__ import annotations

import struct
from typing import Any

from eaa.errors import MalformedInput, Reason


class Reader:
    """Takes fields from the front of `raw`; running out of bytes is MalformedInput with the given reason."""

    __slots__ = ("_at", "_raw", "_reason", "_size", "_what")

    def __init__(self, raw: bytes, *, what: str, reason: Reason) -> None:
        self._raw = raw
        self._size = len(raw)
        self._at = 0
        self._what = what
        self._reason = reason

    @property
    def remaining(self) -> int:
        """Bytes not taken yet."""
        return self._size - self._at

    def take(self, length: int, field: str) -> bytes:
        """Return the next `length` bytes, the named field."""
        at, end = self._at, self._at + length
        if end > self._size:
            raise MalformedInput(
                self._reason,
                f"{self._what} ends inside {field}: {length} bytes expected at offset {at}, {self._size - at} there",
                hint="the input was cut off or is something else; fetch it again",
            )
        self._at = end
        return self._raw[at:end]

    def unpack(self, layout: struct.Struct, fields: str) -> tuple[Any, ...]:
        """Return the next fields, named together, of a fixed layout."""
        return layout.unpack(self.take(layout.size, fields))

    def uint(self, length: int, field: str) -> int:
        """Return the next `length` bytes as an unsigned little-endian integer."""
        return int.from_bytes(self.take(length, field), "little")

    def sized(self, size_length: int, maximum: int, field: str) -> bytes:
        """Return a field preceded by its own little-endian length, refusing more than `maximum` bytes."""
        return self.bounded(self.uint(size_length, field), maximum, field)

    def bounded(self, length: int, maximum: int, field: str) -> bytes:
        """Return the next `length` bytes, a length that the input declares, refusing more than `maximum`."""
        if length > maximum:
            raise MalformedInput(
                self._reason,
                f"{self._what} declares {length} bytes of {field}, at most {maximum} are allowed",
            )
        return self.take(length, field)

    def end(self) -> None:
        """Refuse bytes that are left over."""
        if self.remaining:
            raise MalformedInput(self._reason, f"{self._what} goes on after its last field, bytes: {self.remaining}")
