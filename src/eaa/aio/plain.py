"""A plain socket with the face of an attested stream, for the pump."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from eaa.aio.stream import _Readiness
from eaa.errors import PeerMisbehaved, Reason
from eaa.tls.connection import Want


class PlainStream:
    """A connected, non-blocking socket."""

    def __init__(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._socket = sock
        self._reading = _Readiness(sock, loop.add_reader, loop.remove_reader)
        self._writing = _Readiness(sock, loop.add_writer, loop.remove_writer)

    def receive_now(self, size: int) -> bytes | Want:
        try:
            return self._socket.recv(size)
        except BlockingIOError:
            return Want.READ
        except OSError as error:
            raise PeerMisbehaved(Reason.PEER_CLOSED, f"the plain side broke: {error.strerror}") from error

    def send_now(self, data: bytes | memoryview) -> int | Want:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return Want.WRITE
        except OSError as error:
            raise PeerMisbehaved(Reason.PEER_CLOSED, f"the plain side broke: {error.strerror}") from error

    async def wait(self, want: Want) -> None:
        if want is Want.READ:
            await self._reading.wait()
        elif want is Want.WRITE:
            await self._writing.wait()

    async def finish(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        self.abort()

    async def part(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def abort(self) -> None:
        self._reading.close()
        self._writing.close()
        self._socket.close()
