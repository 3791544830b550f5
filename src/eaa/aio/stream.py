"""An attested stream: a TLS connection on a socket or inside another stream, waited for by asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol, TypeVar

from eaa.appraise.result import Accepted, BindingLevel, Rejected
from eaa.errors import EAAError, PeerMisbehaved, Reason
from eaa.tls.connection import Connection, Want

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds for a TLS handshake."""
READ_SIZE: Final = 16 * 1024
"""Bytes of one TLS record."""

_T = TypeVar("_T")


class Judgement(Protocol):
    """What a judge answers: an appraisal result, perhaps with facts beside it."""

    @property
    def result(self) -> Accepted | Rejected:
        """The appraisal."""


class _SocketLink:
    """Waits for a non-blocking socket; the TLS object reads and writes the file descriptor itself."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._readers: set[asyncio.Future[None]] = set()
        self._writers: set[asyncio.Future[None]] = set()

    async def readable(self, _connection: Connection) -> None:
        await self._wait(self._readers, self._loop.add_reader, self._loop.remove_reader)

    async def writable(self, _connection: Connection) -> None:
        await self._wait(self._writers, self._loop.add_writer, self._loop.remove_writer)

    async def flush(self, _connection: Connection) -> None:
        """Do nothing: bytes are on the socket already."""

    def close(self) -> None:
        for future in (*self._readers, *self._writers):
            future.cancel()
        self._socket.close()

    async def _wait(
        self,
        waiting: set[asyncio.Future[None]],
        add: Callable[..., None],
        remove: Callable[[socket.socket], object],
    ) -> None:
        if self._socket.fileno() < 0:
            raise PeerMisbehaved(Reason.PEER_CLOSED, "the connection is closed")
        future: asyncio.Future[None] = self._loop.create_future()
        waiting.add(future)
        add(self._socket, _wake, waiting)
        try:
            await future
        finally:
            waiting.discard(future)
            if not waiting and self._socket.fileno() >= 0:
                remove(self._socket)


def _wake(waiting: set[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)


class _StreamLink:
    """Carries a TLS connection inside another attested stream: Shelter's own session through the relay."""

    def __init__(self, outer: AttestedStream) -> None:
        self._outer = outer

    async def readable(self, connection: Connection) -> None:
        connection.feed(await self._outer.read(READ_SIZE))

    async def writable(self, connection: Connection) -> None:
        await self.flush(connection)

    async def flush(self, connection: Connection) -> None:
        while data := connection.take():
            await self._outer.write(data)

    def close(self) -> None:
        self._outer.abort()


_Link = _SocketLink | _StreamLink


class AttestedStream:
    """A TLS connection whose application bytes flow only after its gate has opened.

    Reading and writing may run in two tasks at once, each of them in one.
    """

    def __init__(self, connection: Connection, link: _Link) -> None:
        self._connection = connection
        self._link = link
        self._early = b""
        self.judgement: Judgement | None = None
        """What the judge said of the peer; None where the peer was not judged."""
        self.level = BindingLevel.NONE
        """The binding that the peer's evidence reached."""

    @property
    def connection(self) -> Connection:
        """The TLS state machine, for its certificates and exporter."""
        return self._connection

    async def read(self, size: int = READ_SIZE) -> bytes:
        """Return up to `size` application bytes, b"" at the end. Raises PeerMisbehaved."""
        if self._early:
            data, self._early = self._early[:size], self._early[size:]
            return data
        return await self._step(lambda: self._connection.receive(size))

    async def write(self, data: bytes | memoryview) -> None:
        """Write all of these application bytes; returns when the transport has taken them."""
        view = memoryview(data)
        while view:
            sent = await self._step(lambda part=view: self._connection.send(part))  # type: ignore[misc]
            view = view[sent:]

    def push_back(self, data: bytes) -> None:
        """Put bytes in front of what is read next: raw bytes that came in one piece with a message."""
        self._early = data + self._early

    async def close(self) -> None:
        """Say goodbye (close_notify) where the peer still listens, and close."""
        with contextlib.suppress(EAAError, OSError, TimeoutError):
            async with asyncio.timeout(1):
                self._connection.shutdown()
                await self._link.flush(self._connection)
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._link.close()

    async def _handshake(self) -> None:
        async with deadline(HANDSHAKE_TIMEOUT, "the TLS handshake"):
            await self._step(self._connection.handshake)

    async def _send_control(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            sent = await self._step(lambda part=view: self._connection.send_control(part))  # type: ignore[misc]
            view = view[sent:]

    async def _receive_control(self, size: int) -> bytes:
        data = await self._step(lambda: self._connection.receive_control(size))
        if not data:
            raise PeerMisbehaved(
                Reason.PEER_CLOSED,
                "the peer closed the connection in the middle of the exchange",
                hint="its log says why; a peer that refuses this side may close without a word",
            )
        return data

    async def _step(self, operation: Callable[[], _T | Want]) -> _T:
        """Repeat one TLS operation until it neither wants to read nor to write."""
        while True:
            try:
                outcome = operation()
            except EAAError:
                # An alert that explains the failure may be waiting to go out.
                with contextlib.suppress(EAAError, OSError):
                    await self._link.flush(self._connection)
                raise
            await self._link.flush(self._connection)
            if outcome is Want.READ:
                await self._link.readable(self._connection)
            elif outcome is Want.WRITE:
                await self._link.writable(self._connection)
            else:
                return outcome  # type: ignore[return-value]


async def secure(connection: Connection, sock: socket.socket) -> AttestedStream:
    """Run the TLS handshake on a connected, non-blocking socket. The socket is closed on failure."""
    return await _handshaken(AttestedStream(connection, _SocketLink(sock)))


async def secure_inside(connection: Connection, outer: AttestedStream) -> AttestedStream:
    """Run a TLS handshake inside an attested stream: the session that ends in the workload."""
    return await _handshaken(AttestedStream(connection, _StreamLink(outer)))


async def _handshaken(stream: AttestedStream) -> AttestedStream:
    try:
        await stream._handshake()  # noqa: SLF001  one module
    except BaseException:
        stream.abort()
        raise
    return stream


@contextlib.asynccontextmanager
async def deadline(seconds: float, what: str) -> AsyncIterator[None]:
    """Bound a step in time. Raises PeerMisbehaved (PEER_TIMEOUT) naming the step."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise PeerMisbehaved(
            Reason.PEER_TIMEOUT,
            f"{what} did not finish in {seconds:g} seconds",
            hint="the peer stalls or is overloaded; check what runs at that address",
        ) from error
