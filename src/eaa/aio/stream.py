"""An attested stream: a TLS connection on a socket or inside another stream, waited for by asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol, TypeVar

from eaa.appraise.result import Accepted, BindingLevel, Rejected
from eaa.errors import EAAError, PeerMisbehaved, Reason
from eaa.tls.connection import Connection, Want

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds for a TLS handshake."""
PARTING_TIMEOUT: Final = 1.0
"""Seconds that a peer gets to read our last words and to hang up; then we do."""
MAX_UNREAD: Final = 1024 * 1024
"""Bytes of a peer that are read and dropped while it gets our last words."""
READ_SIZE: Final = 16 * 1024
"""Bytes of one TLS record."""
RECORDS_IN_A_ROW: Final = 16
"""TLS operations on one stream before other tasks have their turn: no peer keeps the loop by being always ready."""

_T = TypeVar("_T")


class Judgement(Protocol):
    """What a judge answers: an appraisal result, perhaps with facts beside it."""

    @property
    def result(self) -> Accepted | Rejected:
        """The appraisal."""


class _Readiness:
    """One direction of a socket: who waits for it, and whether the event loop watches it."""

    def __init__(
        self, sock: socket.socket, watch: Callable[..., object], unwatch: Callable[[socket.socket], object]
    ) -> None:
        self._socket = sock
        self._watch = watch
        self._unwatch = unwatch
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        if self._socket.fileno() < 0:
            raise _closed_here()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._waiting:
            self._watch(self._socket, self._wake)
        self._waiting.append(future)
        try:
            await future
        finally:
            if future in self._waiting:
                self._waiting.remove(future)
                self._rest()

    def close(self) -> None:
        """Wake who waits with an error. Comes before the socket is closed: its number may be reused at once."""
        for future in self._take():
            future.set_exception(_closed_here())

    def _wake(self) -> None:
        for future in self._take():
            future.set_result(None)

    def _take(self) -> list[asyncio.Future[None]]:
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._rest()
        return [future for future in waiting if not future.done()]

    def _rest(self) -> None:
        if not self._waiting:
            self._unwatch(self._socket)


class _SocketLink:
    """Waits for a non-blocking socket; the TLS object reads and writes the file descriptor itself."""

    def __init__(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._socket = sock
        self._reading = _Readiness(sock, loop.add_reader, loop.remove_reader)
        self._writing = _Readiness(sock, loop.add_writer, loop.remove_writer)

    async def readable(self, _connection: Connection) -> None:
        await self._reading.wait()

    async def writable(self, _connection: Connection) -> None:
        await self._writing.wait()

    async def flush(self, _connection: Connection) -> None:
        """Do nothing: bytes are on the socket already."""

    async def part(self) -> None:
        """Send no more, and drop what the peer still sends until it hangs up.

        Closing a socket over unread bytes resets the connection, and a reset takes from the peer what it has not read.
        """
        dropped = 0
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while dropped < MAX_UNREAD:
                await self._reading.wait()
                data = self._socket.recv(READ_SIZE)
                if not data:
                    return
                dropped += len(data)

    def close(self) -> None:
        self._reading.close()
        self._writing.close()
        self._socket.close()


class _StreamLink:
    """Carries a TLS connection inside another attested stream: Shelter's own session through the relay."""

    def __init__(self, outer: AttestedStream) -> None:
        self._outer = outer
        self._flushing = asyncio.Lock()

    async def readable(self, connection: Connection) -> None:
        connection.feed(await self._outer.read(READ_SIZE))

    async def writable(self, connection: Connection) -> None:
        await self.flush(connection)

    async def flush(self, connection: Connection) -> None:
        # A reader and a writer may both come here: what OpenSSL put out first has to go first.
        async with self._flushing:
            while data := connection.take():
                await self._outer.write(data)

    async def part(self) -> None:
        await self._outer.close()

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
        self._in_a_row = 0
        self._finished = False
        self._closed = False
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
        return await self._step(lambda: self.receive_now(size))

    async def write(self, data: bytes | memoryview) -> None:
        """Write all of these application bytes; returns when the transport has taken them."""
        view = memoryview(data)
        while view:
            sent = await self._step(lambda part=view: self.send_now(part))  # type: ignore[misc]
            view = view[sent:]

    def push_back(self, data: bytes) -> None:
        """Put bytes in front of what is read next: raw bytes that came in one piece with a message."""
        self._early = data + self._early

    # The same without waiting, for who moves many bytes: what cannot go on says what it wants, `wait` waits for it.

    def receive_now(self, size: int) -> bytes | Want:
        """Return application bytes that are there, b"" at the end, or what reading waits for. Raises PeerMisbehaved."""
        self._require_open()
        if self._early:
            data, self._early = self._early[:size], self._early[size:]
            return data
        return self._connection.receive(size)

    def send_now(self, data: bytes | memoryview) -> int | Want:
        """Send what there is room for; return how many bytes, or what sending waits for. Raises PeerMisbehaved."""
        self._require_open()
        return self._connection.send(data)

    async def wait(self, want: Want) -> None:
        """Send off what OpenSSL holds, and wait for what an operation wants."""
        self._in_a_row = 0
        await self._flush()
        if want is Want.READ:
            await self._link.readable(self._connection)
        elif want is Want.WRITE:
            await self._link.writable(self._connection)

    # Ends.

    async def finish(self) -> None:
        """Say that this side sends no more (close_notify). It may go on reading. Raises PeerMisbehaved."""
        if self._finished:
            return
        self._require_open()
        # What comes after close_notify is the peer's, which need not be waited for here.
        while self._connection.shutdown() is Want.WRITE:
            await self.wait(Want.WRITE)
            self._require_open()
        self._finished = True
        await self._flush()

    async def close(self) -> None:
        """Say goodbye, let the peer read that and whatever came before, and close. Takes PARTING_TIMEOUT at most."""
        await self._leave(self.finish)

    async def part(self) -> None:
        """Close without a goodbye, but let the peer read our last words: an alert, or a message of the exchange."""
        await self._leave(self._flush)

    def abort(self) -> None:
        """Close at once."""
        self._closed = True
        self._link.close()

    async def _leave(self, last_words: Callable[[], Awaitable[None]]) -> None:
        try:
            with contextlib.suppress(EAAError, OSError):
                async with asyncio.timeout(PARTING_TIMEOUT):
                    await last_words()
                    await self._link.part()
        finally:
            self.abort()

    def _require_open(self) -> None:
        # OpenSSL knows the socket by its number, which may be another connection's as soon as it is closed.
        if self._closed:
            raise _closed_here()

    # For this room.

    async def _flush(self) -> None:
        await self._link.flush(self._connection)

    async def _handshake(self) -> None:
        async with deadline(HANDSHAKE_TIMEOUT, "the TLS handshake"):
            await self._step(self._connection.handshake)

    async def _send_control(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            sent = await self._step(lambda part=view: self._connection.send_control(part))  # type: ignore[misc]
            view = view[sent:]

    async def _receive_control(self, size: int) -> bytes:
        return await self._step(lambda: self._connection.receive_control(size))

    async def _step(self, operation: Callable[[], _T | Want]) -> _T:
        """Repeat one TLS operation until it neither wants to read nor to write."""
        while True:
            if self._in_a_row >= RECORDS_IN_A_ROW:
                self._in_a_row = 0
                await asyncio.sleep(0)
            self._in_a_row += 1
            self._require_open()
            outcome = operation()
            if outcome is Want.READ or outcome is Want.WRITE:
                await self.wait(outcome)
                continue
            await self._flush()
            return outcome  # type: ignore[return-value]


async def secure(connection: Connection, sock: socket.socket) -> AttestedStream:
    """Run the TLS handshake on a connected, non-blocking socket. The socket is closed on failure."""
    return await _handshaken(AttestedStream(connection, _SocketLink(sock)))


async def secure_inside(connection: Connection, outer: AttestedStream) -> AttestedStream:
    """Run a TLS handshake inside an attested stream: the session that ends in the workload. `outer` ends with it."""
    return await _handshaken(AttestedStream(connection, _StreamLink(outer)))


async def _handshaken(stream: AttestedStream) -> AttestedStream:
    try:
        await stream._handshake()  # noqa: SLF001  one module
    except EAAError:
        # OpenSSL has put an alert out that explains the failure.
        await stream.part()
        raise
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


def _closed_here() -> PeerMisbehaved:
    return PeerMisbehaved(Reason.PEER_CLOSED, "this side has closed the connection")
