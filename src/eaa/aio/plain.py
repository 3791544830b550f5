"""A plain socket with the face of an attested stream, for the pump."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable

from eaa.errors import PeerMisbehaved, Reason
from eaa.tls.connection import Want

_AT_ONCE = struct.pack("ii", 1, 0)
"""Linux's struct linger: closing resets the connection."""


class PlainStream:
    """A connected, non-blocking socket.

    The end of what its peer sends is a goodbye. It has no word for another end but a reset: that is how its peer
    learns that what it has read is not all.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Take the socket: it is closed here."""
        self._socket = sock
        self._on_close: Callable[[], None] | None = None
        # The system tells of a reset once, whoever asks first. After that it would tell of a good end.
        self._failure: PeerMisbehaved | None = None

    def take_over(self, on_close: Callable[[], None]) -> int:
        """Return the descriptor to who watches it from now on, and is told before it is closed."""
        self._on_close = on_close
        return self._socket.fileno()

    def give_back(self) -> None:
        """Take it back: whoever watched it does so no longer."""
        self._on_close = None

    def take_early(self) -> bytes:
        """Hand out what was read already: nothing."""
        return b""

    def receive_into(self, buffer: memoryview) -> int | Want:
        """Read; return how many bytes, 0 at the end, or what reading waits for. Raises PeerMisbehaved."""
        if self._failure is not None:
            raise self._failure
        try:
            return self._socket.recv_into(buffer)
        except BlockingIOError:
            return Want.READ
        except OSError as error:
            self._failure = _broken(error)
            raise self._failure from error

    def send_now(self, data: bytes | memoryview) -> int | Want:
        """Write; return how many bytes were taken, or what writing waits for. Raises PeerMisbehaved."""
        if self._failure is not None:
            raise self._failure
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return Want.WRITE
        except OSError as error:
            self._failure = _broken(error)
            raise self._failure from error

    def finish(self) -> None:
        """Say that this side sends no more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    async def drain(self) -> None:
        """Do nothing: what was written is on the socket."""

    async def close(self) -> None:
        """Close it, once everything was said."""
        self.abort()

    async def part(self) -> None:
        """Close it so that its peer learns that this was not all."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.abort()

    def abort(self) -> None:
        """Close it at once."""
        if self._on_close is not None:
            self._on_close()
        self._socket.close()


def _broken(error: OSError) -> PeerMisbehaved:
    return PeerMisbehaved(Reason.PEER_CLOSED, f"the plain side broke: {error.strerror}")
