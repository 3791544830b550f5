"""Many application bytes of one open connection, without a copy and without an exception for each record.

A relay reads and writes records by the hundred thousand. pyOpenSSL's own `recv_into` allocates for each of them,
copies what it read, and raises where nothing is there; on a core of its own that costs a fifth of all the work. Here
OpenSSL reads into, and writes from, one buffer that stays where it is.

The two functions of OpenSSL that this needs are those that pyOpenSSL itself calls, by the names under which it keeps
them. Where a release of pyOpenSSL keeps them elsewhere, its public methods do the same, only slower.
"""

from __future__ import annotations

from typing import Any

from eaa.tls.connection import MESSAGES_AT_ONCE, RECORD_SIZE, Connection, Want
from eaa.tls.engine import ENGINE as _ENGINE


class Buffer:
    """Room for one record. Who reads into it has to be done with it before anybody else does."""

    __slots__ = ("raw", "view")

    def __init__(self) -> None:
        self.raw: Any = bytearray(RECORD_SIZE) if _ENGINE is None else _ENGINE[0].new("char[]", RECORD_SIZE)
        """For OpenSSL."""
        self.view = memoryview(self.raw if _ENGINE is None else _ENGINE[0].buffer(self.raw))
        """For everybody else."""


class PublicBulk:
    """By pyOpenSSL's public methods."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def receive(self, buffer: Buffer) -> int | Want:
        """Read a record, or part of one; return how many bytes, 0 at a good end, or what reading waits for."""
        return self._connection.receive_into(buffer.view)

    def send(self, buffer: Buffer, size: int) -> int | Want:
        """Write the first `size` bytes, one or more; return how many were taken, or what writing waits for."""
        return self._connection.send(buffer.view[:size])

    def send_held(self, data: bytes) -> int | Want:
        """Do the same with bytes that were kept: of what was refused, and in the same order."""
        return self._connection.send(data)


class DirectBulk:
    """By OpenSSL's own functions."""

    __slots__ = ("_connection", "_pointer")

    def __init__(self, connection: Connection) -> None:
        self._connection: Any = connection
        # The module says why, and what is done where it is not there.
        self._pointer = self._connection._ssl._ssl  # noqa: SLF001

    def receive(self, buffer: Buffer) -> int | Want:
        """Read a record, or part of one; return how many bytes, 0 at a good end, or what reading waits for."""
        read: int = _read(self._pointer, buffer.raw, RECORD_SIZE)
        if read > 0:
            return read
        outcome = self._explain(read, 0)
        # It may be a message of TLS's own that was read, with a record behind it; but others have their turn as well.
        for _ in range(MESSAGES_AT_ONCE):
            if outcome is not Want.READ or not self._connection.may_have_stopped_short():
                break
            read = _read(self._pointer, buffer.raw, RECORD_SIZE)
            outcome = read if read > 0 else self._explain(read, 0)
        return outcome

    def send(self, buffer: Buffer, size: int) -> int | Want:
        """Write the first `size` bytes, one or more; return how many were taken, or what writing waits for."""
        written: int = _write(self._pointer, buffer.raw, size)
        return written if written > 0 else self._explain(written, None)

    def send_held(self, data: bytes) -> int | Want:
        """Do the same with bytes that were kept: of what was refused, and in the same order."""
        written: int = _write(self._pointer, data, len(data))
        return written if written > 0 else self._explain(written, None)

    def _explain(self, result: int, at_end: int | None) -> int | Want:
        error = _get_error(self._pointer, result)
        if error == _WANT_READ:
            return Want.READ
        if error == _WANT_WRITE:
            return Want.WRITE
        # pyOpenSSL turns OpenSSL's numbers into exceptions, and the connection makes those ours.
        connection = self._connection
        return connection._attempt(  # type: ignore[no-any-return]  # noqa: SLF001
            connection._ssl._raise_ssl_error,  # noqa: SLF001
            self._pointer,
            result,
            at_end=at_end,
        )


Bulk = PublicBulk | DirectBulk


if _ENGINE is not None:
    _read, _write, _get_error = _ENGINE[1].SSL_read, _ENGINE[1].SSL_write, _ENGINE[1].SSL_get_error
    _WANT_READ, _WANT_WRITE = _ENGINE[1].SSL_ERROR_WANT_READ, _ENGINE[1].SSL_ERROR_WANT_WRITE


def bulk(connection: Connection) -> Bulk:
    """Return the quickest way there is for an open connection. Raises Misuse: GATE_CLOSED."""
    connection._require_open_gate()  # noqa: SLF001  asked once, and not for each record: a gate never closes
    connection._send_off()  # noqa: SLF001  nor is there anything to wait for: it goes on by other ways
    fast = _ENGINE is not None and hasattr(connection._ssl, "_ssl")  # noqa: SLF001
    return DirectBulk(connection) if fast else PublicBulk(connection)
