"""An attested stream: a TLS connection on a socket or inside another stream, waited for by asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self, TypeVar

from eaa.appraise.result import Accepted, BindingLevel, Rejected
from eaa.errors import EAAError, Misuse, PeerMisbehaved, Reason
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
STALLED: Final = 10.0
"""Seconds without any progress after which a stream that is being closed gives up what it still had to send."""
MAX_LINE: Final = 64 * 1024
"""Bytes that `readuntil` and `readline` look through, as asyncio's streams do."""
_SEND_SIZE: Final = 4 * READ_SIZE
"""Bytes that OpenSSL is shown at once; it takes a record of them."""

_T = TypeVar("_T")
Data = bytes | bytearray | memoryview


class Judgement(Protocol):
    """What a judge answers: an appraisal result, perhaps with facts beside it."""

    @property
    def result(self) -> Accepted | Rejected:
        """The appraisal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end, and how that is known."""

    verdict: Accepted | None
    """What made this side accept the peer, with every check; None where this side judges nobody."""
    facts: Any
    """What was verified of its evidence: a `VerifiedQuote`, where the judge is a `Verifier`. None without a verdict."""
    level: BindingLevel
    """How closely its evidence is bound to this session; NONE without a verdict."""
    certificate: bytes | None
    """Its leaf, DER; None where it showed none. Without a verdict it is nothing but a key."""


class _Readiness:
    """One direction of a socket: who waits for it, and whether the event loop watches it."""

    def __init__(self, sock: socket.socket, watch: Callable[..., object], unwatch: Callable[[int], object]) -> None:
        self._socket = sock
        # Python's own loop spells out in words every socket that it does not watch yet, and a number in no time.
        self._number = sock.fileno()
        self._watch = watch
        self._unwatch = unwatch
        self._is_watched = False
        self._waiting: list[tuple[asyncio.Future[Any], Callable[[], Any]]] = []

    async def wait(self) -> None:
        await self.attempt(lambda: None)

    async def attempt(self, operation: Callable[[], _T | Want]) -> _T | Want:
        """Repeat an operation whenever the socket is ready, until it wants no more of that; return what it says.

        Nobody's turn is waited for between two attempts.
        """
        if self._socket.fileno() < 0:
            raise _closed_here()
        future: asyncio.Future[_T | Want] = asyncio.get_running_loop().create_future()
        waiter = future, operation
        if not self._is_watched:
            self._watch(self._number, self._look)
            self._is_watched = True
        self._waiting.append(waiter)
        try:
            return await future
        finally:
            self._leave(waiter)

    def _look(self) -> None:
        for waiter in tuple(self._waiting):
            future, operation = waiter
            if future.done():
                continue
            try:
                outcome = operation()
            except Exception as error:  # noqa: BLE001  it is raised where the future is awaited
                self._leave(waiter)
                future.set_exception(error)
            else:
                if outcome is not Want.READ:
                    self._leave(waiter)
                    future.set_result(outcome)

    def _leave(self, waiter: tuple[asyncio.Future[Any], Callable[[], Any]]) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
            if not self._waiting:
                self.release()

    def close(self) -> None:
        """Wake who waits with an error. Comes before the socket is closed: its number may be reused at once."""
        self.release()
        waiting, self._waiting = self._waiting, []
        for future, _ in waiting:
            if not future.done():
                future.set_exception(_closed_here())

    def release(self) -> None:
        """Let somebody else watch the socket. Who waits here later watches it again."""
        if self._is_watched:
            self._is_watched = False
            self._unwatch(self._number)


class _SocketLink:
    """Waits for a non-blocking socket; the TLS object reads and writes the file descriptor itself."""

    __slots__ = ("_loop", "_on_close", "_reads", "_writes", "socket")

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self.socket = sock
        # Made for who waits: a relay's sessions are thousands, and wait by other means.
        self._reads: _Readiness | None = None
        self._writes: _Readiness | None = None
        self._on_close: Callable[[], None] | None = None

    @property
    def _reading(self) -> _Readiness:
        if self._reads is None:
            self._reads = _Readiness(self.socket, self._loop.add_reader, self._loop.remove_reader)
        return self._reads

    @property
    def _writing(self) -> _Readiness:
        if self._writes is None:
            self._writes = _Readiness(self.socket, self._loop.add_writer, self._loop.remove_writer)
        return self._writes

    def take_over(self, on_close: Callable[[], None]) -> int:
        """Return the descriptor to who watches it from now on, and is told before it is closed."""
        for readiness in (self._reads, self._writes):
            if readiness is not None:
                readiness.release()
        self._reads = self._writes = None
        self._on_close = on_close
        return self.socket.fileno()

    def give_back(self) -> None:
        """Take the descriptor back: whoever watched it does so no longer."""
        self._on_close = None

    async def readable(self, _connection: Connection) -> None:
        await self._reading.wait()

    async def writable(self, _connection: Connection) -> None:
        await self._writing.wait()

    async def attempt(self, operation: Callable[[], _T | Want]) -> _T | Want:
        return await self._reading.attempt(operation)

    def pull(self, _connection: Connection) -> None:
        """Do nothing: OpenSSL looks into the socket itself."""

    def may_have_more(self, connection: Connection) -> bool:
        """Tell whether there is anything that a TLS object could find; looking for it in vain takes it longer."""
        if not connection.has_read_ahead():
            try:
                self.socket.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return False
            except OSError:
                # OpenSSL will find the same, and say what it is.
                return True
        return True

    def push(self, _connection: Connection) -> None:
        """Do nothing: bytes are on the socket already."""

    async def drain(self) -> None:
        """Do nothing: the stream waits for the socket itself."""

    async def part(self) -> None:
        """Send no more, and drop what the peer still sends until it hangs up.

        Closing a socket over unread bytes resets the connection, and a reset takes from the peer what it has not read.
        """
        dropped = 0
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
            while dropped < MAX_UNREAD:
                try:
                    data = self.socket.recv(READ_SIZE)
                except BlockingIOError:
                    await self._reading.wait()
                    continue
                if not data:
                    return
                dropped += len(data)

    def close(self) -> None:
        if self._on_close is not None:
            self._on_close()
        for readiness in (self._reads, self._writes):
            if readiness is not None:
                readiness.close()
        self.socket.close()


class _StreamLink:
    """Carries a TLS connection inside another attested stream: Shelter's own session through the relay."""

    def __init__(self, outer: AttestedStream) -> None:
        self.outer = outer

    @property
    def socket(self) -> socket.socket:
        return self.outer._link.socket  # noqa: SLF001  one module

    async def readable(self, connection: Connection) -> None:
        connection.feed(await self.outer.read(READ_SIZE))

    async def writable(self, connection: Connection) -> None:
        self.push(connection)
        await self.drain()

    def pull(self, connection: Connection) -> None:
        data = self.outer.receive_now(READ_SIZE)
        if isinstance(data, bytes):
            connection.feed(data)

    def may_have_more(self, _connection: Connection) -> bool:
        return True

    def push(self, connection: Connection) -> None:
        if data := connection.take():
            self.outer.write(data)

    def take_over(self, on_close: Callable[[], None]) -> int:
        return self.outer._link.take_over(on_close)  # noqa: SLF001  one module

    def give_back(self) -> None:
        self.outer._link.give_back()  # noqa: SLF001  one module

    async def drain(self) -> None:
        await self.outer.drain()

    async def part(self) -> None:
        await self.outer.close()

    def close(self) -> None:
        self.outer.abort()


_Link = _SocketLink | _StreamLink


class _Pending:
    """What a call has begun, and goes on by itself. Await it to wait for it, or to hear how it failed."""

    __slots__ = ("_wait",)

    def __init__(self, wait: Callable[[], Awaitable[None]]) -> None:
        self._wait = wait

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()


class AttestedStream:
    """A TLS connection whose application bytes flow only after its gate has opened.

    It is used as asyncio's streams are, reader and writer in one. Reading and writing may run in two tasks at once. A
    task that is cancelled loses nothing: what it would have read is read by the next one, and what it has written is
    sent. As an asynchronous context manager it is closed at the end, without a goodbye where an exception ended it.
    """

    def __init__(self, connection: Connection, link: _Link) -> None:
        self._connection = connection
        self._link = link
        self._early = b""
        self._in_a_row = 0
        self._ahead = b""
        self._outgoing = bytearray()
        self._sending: asyncio.Task[None] | None = None
        self._unsent: BaseException | None = None
        self._closing: asyncio.Task[None] | None = None
        self._finished = False
        self._closed = False
        self.judgement: Judgement | None = None
        """What the judge said of the peer; None where the peer was not judged."""
        self.level = BindingLevel.NONE
        """The binding that the peer's evidence reached."""

    # Who is there.

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        result = None if self.judgement is None else self.judgement.result
        verdict = result if isinstance(result, Accepted) else None
        return Peer(
            verdict=verdict,
            facts=None if verdict is None else getattr(self.judgement, "verified", None),
            level=self.level,
            certificate=self._connection.peer_certificate,
        )

    @property
    def relay(self) -> Peer | None:
        """Who forwards the bytes of this session and cannot read them; None where nobody does."""
        return self._link.outer.peer if isinstance(self._link, _StreamLink) else None

    @property
    def connection(self) -> Connection:
        """The TLS state machine, for its certificates and exporter."""
        return self._connection

    def export(self, label: bytes | str, size: int, context: bytes = b"") -> bytes:
        """Return `size` bytes that only the two ends of this session can know, for this label (RFC 8446, 7.5)."""
        return self._connection.export(label.encode() if isinstance(label, str) else label, size, context)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what asyncio's streams tell under this name: `peername`, `sockname`, `socket`; or else `default`."""
        with contextlib.suppress(OSError):
            match name:
                case "peername":
                    return self._link.socket.getpeername()
                case "sockname":
                    return self._link.socket.getsockname()
                case "socket":
                    return self._link.socket
        return default

    # Reading.

    async def read(self, size: int = READ_SIZE) -> bytes:
        """Return up to `size` application bytes as soon as there are any, b"" at a good end. Raises PeerMisbehaved.

        Without a size it does not read to the end, as asyncio's does: the peer would say how much that is.
        """
        return await self._step(lambda: self.receive_now(size))

    async def readexactly(self, size: int) -> bytes:
        """Return this many bytes. Raises PeerMisbehaved; asyncio.IncompleteReadError at a good end before that."""
        if size < 0:
            raise ValueError(f"{size} bytes cannot be read")
        return await self._read_until(lambda got: size if len(got) >= size else None, size)

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        """Return bytes up to and with the separator.

        Raises:
            asyncio.IncompleteReadError: the peer ended well before.
            asyncio.LimitOverrunError: no separator in MAX_LINE bytes, which can still be read.
            PeerMisbehaved: the connection broke.
        """
        if not separator:
            raise ValueError("a separator has at least one byte")
        searched = 0

        def end(got: bytearray) -> int | None:
            nonlocal searched
            found = got.find(separator, max(searched - len(separator), 0))
            searched = len(got)
            if (len(got) if found < 0 else found) > MAX_LINE:
                raise asyncio.LimitOverrunError(f"no separator in {MAX_LINE} bytes", len(got))
            return None if found < 0 else found + len(separator)

        return await self._read_until(end, None)

    async def readline(self) -> bytes:
        """Return a line with its end, or what there is of one where the peer ends well. Raises as `readuntil`."""
        try:
            return await self.readuntil(b"\n")
        except asyncio.IncompleteReadError as incomplete:
            return incomplete.partial

    def __aiter__(self) -> Self:
        """Iterate over lines."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next line."""
        if line := await self.readline():
            return line
        raise StopAsyncIteration

    async def _read_until(self, end: Callable[[bytearray], int | None], expected: int | None) -> bytes:
        """Read until `end` says how many of the bytes are wanted; whatever else was read stays to be read."""
        got = bytearray()
        kept = True
        try:
            while (size := end(got)) is None:
                data = await self.read(READ_SIZE if expected is None else expected - len(got))
                if not data:
                    kept = False
                    raise asyncio.IncompleteReadError(bytes(got), expected)
                got += data
            taken = bytes(got[:size])
            del got[:size]
            return taken
        finally:
            if got and kept:
                self.push_back(bytes(got))

    def push_back(self, data: bytes) -> None:
        """Put bytes in front of what is read next: raw bytes that came in one piece with a message."""
        self._early = data + self._early

    # Writing.

    def write(self, data: Data) -> Awaitable[None]:
        """Write all of these application bytes, some of them later; they are taken now, in order, in one piece.

        Await what this returns, or `drain`, so as not to write faster than the peer reads, and to hear of failures.
        """
        failure = self._cannot_write()
        if failure is None:
            if self._ahead:
                data, self._ahead = b"".join((self._ahead, data)), b""
            try:
                self._outgoing += self._send_some(memoryview(data).cast("B"))
            except EAAError as error:
                failure = error
            if self._outgoing and self._sending is None:
                self._sending = asyncio.get_running_loop().create_task(self._send_on())
                self._sending.add_done_callback(self._has_sent)

        async def wait() -> None:
            if failure is not None:
                raise failure
            await self.drain()

        return _Pending(wait)

    def writelines(self, lines: Iterable[Data]) -> Awaitable[None]:
        """Write these one after the other."""
        return self.write(b"".join(lines))

    async def drain(self) -> None:
        """Wait until the system has taken all that was written. Raises PeerMisbehaved where it cannot be sent."""
        self._go_ahead()
        while self._sending is not None:
            # Who is cancelled here gives up waiting; the bytes are sent even so.
            await _end_of(self._sending)
        await self._give_way()
        self._require_open()
        if failure := self._connection.failure or self._unsent:
            raise failure
        await self._link.drain()

    def _cannot_write(self) -> BaseException | None:
        if self._closed:
            return _used_after_close()
        if self._finished or self._closing is not None:
            return Misuse(Reason.USAGE, "this side has said that it sends no more")
        return self._connection.failure or self._unsent

    def _send_some(self, view: memoryview) -> memoryview:
        """Send what there is room for, and return the rest. Raises PeerMisbehaved, or Misuse: GATE_CLOSED."""
        for _ in range(0 if self._outgoing else RECORDS_IN_A_ROW):
            sent = self._connection.send(view[:_SEND_SIZE]) if view else Want.WRITE
            if isinstance(sent, Want):
                break
            self._in_a_row += 1
            view = view[sent:]
        self._link.push(self._connection)
        return view

    async def _send_on(self) -> None:
        while self._outgoing:
            # A copy: more may be written while this waits for room, and nobody may look into what grows.
            sent = await self._step(lambda: self._connection.send(memoryview(self._outgoing[:_SEND_SIZE])))
            del self._outgoing[:sent]

    def _has_sent(self, sending: asyncio.Task[None]) -> None:
        self._sending = None
        self._unsent = asyncio.CancelledError() if sending.cancelled() else sending.exception()
        if self._unsent is not None:
            self._outgoing.clear()

    # The same without waiting, for who moves many bytes: what cannot go on says what it wants, `wait` waits for it.

    def receive_now(self, size: int) -> bytes | Want:
        """Return application bytes that are there, b"" at the end, or what reading waits for. Raises PeerMisbehaved."""
        if size <= 0:
            raise ValueError(f"{size} bytes cannot be read")
        self._require_open()
        if self._early:
            data, self._early = self._early[:size], self._early[size:]
            return data
        return self._connection.receive(size)

    def send_now(self, data: bytes | memoryview) -> int | Want:
        """Send what there is room for; return how many bytes, or what sending waits for. Raises PeerMisbehaved.

        Not to be mixed with `write`, whose bytes may still be on their way.
        """
        self._require_open()
        self._go_ahead()
        return self._connection.send(data)

    async def wait(self, want: Want) -> None:
        """Send off what OpenSSL holds, and wait for what an operation wants."""
        self._in_a_row = 0
        self._link.push(self._connection)
        if want is Want.READ:
            await self._link.readable(self._connection)
        elif want is Want.WRITE:
            await self._link.writable(self._connection)

    # Ends.

    async def finish(self) -> None:
        """Send what was written, then say that this side sends no more (close_notify). It may go on reading.

        Raises:
            PeerMisbehaved: it cannot be sent.
        """
        if self._finished:
            return
        await self.drain()
        # What comes after close_notify is the peer's, which need not be waited for here.
        while self._connection.shutdown() is Want.WRITE:
            await self.wait(Want.WRITE)
            self._require_open()
        self._finished = True
        self._link.push(self._connection)

    def close(self) -> Awaitable[None]:
        """Send what was written, say goodbye, let the peer read that, and close. Await it, or `wait_closed`.

        It ends by itself: after STALLED seconds in which the peer took nothing, and PARTING_TIMEOUT in which it did not
        hang up. Any number of calls is as good as one.
        """
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        return _Pending(self.wait_closed)

    async def wait_closed(self) -> None:
        """Wait until a stream is closed on which `close` or `abort` was called."""
        if self._closing is not None:
            await _end_of(self._closing)

    def is_closing(self) -> bool:
        """Tell whether this side has closed the stream, or is about to."""
        return self._closed or self._closing is not None

    async def part(self) -> None:
        """Close without a goodbye, but let the peer read our last words: an alert, or a message of the exchange."""
        await self._leave(self._send_last)

    def abort(self) -> None:
        """Close at once."""
        self._closed = True
        self._link.close()

    async def __aenter__(self) -> Self:
        """Return the stream itself."""
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        """Close it. Nobody shall take a stream that an exception has torn for one that was finished."""
        await (self.close() if kind is None else self.part())

    async def _close(self) -> None:
        try:
            while self._sending is not None:
                left = len(self._outgoing)
                await asyncio.wait([self._sending], timeout=STALLED)
                if self._sending is not None and len(self._outgoing) == left:
                    return
            await self._leave(self.finish)
        finally:
            self.abort()

    async def _leave(self, last_words: Callable[[], Awaitable[None]]) -> None:
        try:
            with contextlib.suppress(EAAError, OSError):
                async with deadline(PARTING_TIMEOUT, "a goodbye"):
                    await last_words()
                    await self._link.part()
        finally:
            self.abort()

    async def _send_last(self) -> None:
        self._go_ahead()
        self._link.push(self._connection)
        await self._link.drain()

    def _require_open(self) -> None:
        # OpenSSL knows the socket by its number, which may be another connection's as soon as it is closed.
        if self._closed:
            raise _used_after_close()

    # For the pump, which watches the descriptor itself, and calls neither of the above meanwhile.

    def settle(self) -> None:
        """Forget what was needed to judge the peer: its evidence, the verdict, its certificate.

        A relayed session may be idle for hours, and there are thousands of them. What is left of `peer` is its level.
        """
        self.judgement = None
        self._connection.forget_peer()

    def take_over(self, on_close: Callable[[], None]) -> int:
        """Return the descriptor under this stream to who watches it from now on, and is told before it is closed."""
        self._require_open()
        return self._link.take_over(on_close)

    def give_back(self) -> None:
        """Take it back: whoever watched it does so no longer."""
        self._link.give_back()

    def take_early(self) -> bytes:
        """Hand out what was put in front of what is read next."""
        early, self._early = self._early, b""
        return early

    @property
    def outer(self) -> AttestedStream | None:
        """The stream in which this one is carried; None where it has a socket of its own."""
        return self._link.outer if isinstance(self._link, _StreamLink) else None

    # For this room.

    async def _handshake(self, *, goes_on: bool) -> None:
        async with deadline(HANDSHAKE_TIMEOUT, "the TLS handshake"):
            await self._attempt(lambda: self._connection.handshake(goes_on=goes_on))

    def _send_control_now(self, data: bytes | memoryview) -> int:
        """Send what there is room for, and return how much that was. Raises PeerMisbehaved."""
        self._require_open()
        sent = self._connection.send_control(data) if data else 0
        self._link.push(self._connection)
        return sent if isinstance(sent, int) else 0

    def _send_ahead(self, data: bytes) -> None:
        """Send the last bytes of the exchange with what is written first, or without it in a moment."""
        if data:
            self._ahead = data
            asyncio.get_running_loop().call_soon(self._go_ahead)

    def _go_ahead(self) -> None:
        if self._ahead:
            self.write(b"")

    async def _send_control(self, data: bytes) -> None:
        view = memoryview(data)[self._send_control_now(data) :]
        while view:
            sent = await self._step(lambda part=view: self._connection.send_control(part))  # type: ignore[misc]
            view = view[sent:]
        await self._link.drain()

    def _receive_control_now(self, size: int) -> bytes | Want:
        """Receive bytes of the exchange that are here. Raises PeerMisbehaved."""
        self._require_open()
        return self._connection.receive_control(size)

    def _receive_control(self, size: int, *, cancellable: bool = True, later: bool = False) -> Awaitable[bytes]:
        """Receive bytes of the exchange, now or, where none can be there yet, once there are some.

        Who is cancelled has read nothing, unless it is said that nobody will be.
        """
        if cancellable:
            return self._step(lambda: self._connection.receive_control(size))
        return self._attempt(lambda: self._connection.receive_control(size), later=later)

    def _has_more(self) -> bool:
        """Tell, without waiting, whether the peer has sent more than was read. Raises PeerMisbehaved."""
        self._require_open()
        self._link.pull(self._connection)
        return self._link.may_have_more(self._connection) and self._connection.has_more()

    async def _give_way(self) -> None:
        if self._in_a_row >= RECORDS_IN_A_ROW:
            self._in_a_row = 0
            await asyncio.sleep(0)

    async def _attempt(self, operation: Callable[[], _T | Want], *, later: bool = False) -> _T:
        """Do what `_step` does, with fewer turns of the event loop. Who is cancelled loses what was read meanwhile."""
        self._require_open()
        link = self._link if isinstance(self._link, _SocketLink) else None
        # What OpenSSL has read already no socket will tell of.
        waits = later and link is not None and not self._connection.has_read_ahead()
        outcome = Want.READ if waits else operation()
        if outcome is Want.READ and link is not None:
            outcome = await link.attempt(operation)
        if outcome is Want.READ or outcome is Want.WRITE:
            await self.wait(outcome)
            return await self._step(operation)
        self._link.push(self._connection)
        return outcome  # type: ignore[return-value]

    async def _step(self, operation: Callable[[], _T | Want]) -> _T:
        """Repeat one TLS operation until it neither wants to read nor to write.

        Between an operation that has succeeded and the return nothing is waited for: who is cancelled has read nothing.
        """
        while True:
            if self._in_a_row >= RECORDS_IN_A_ROW:
                await self._give_way()
            self._in_a_row += 1
            self._require_open()
            outcome = operation()
            if outcome is Want.READ or outcome is Want.WRITE:
                await self.wait(outcome)
                continue
            self._link.push(self._connection)
            return outcome  # type: ignore[return-value]


async def secure(connection: Connection, sock: socket.socket, *, goes_on: bool = False) -> AttestedStream:
    """Run the TLS handshake on a connected, non-blocking socket. The socket is closed on failure.

    Args:
        connection: nothing was sent on it yet.
        sock: its socket.
        goes_on: whether this side writes first, and at once.
    """
    return await _handshaken(AttestedStream(connection, _SocketLink(sock)), goes_on=goes_on)


async def secure_inside(connection: Connection, outer: AttestedStream) -> AttestedStream:
    """Run a TLS handshake inside an attested stream: the session that ends in the workload. `outer` ends with it."""
    return await _handshaken(AttestedStream(connection, _StreamLink(outer)), goes_on=False)


async def _handshaken(stream: AttestedStream, *, goes_on: bool) -> AttestedStream:
    try:
        await stream._handshake(goes_on=goes_on)  # noqa: SLF001  one module
    except EAAError:
        # OpenSSL has put an alert out that explains the failure.
        await stream.part()
        raise
    except BaseException:
        stream.abort()
        raise
    return stream


class deadline:  # noqa: N801  used as a function is, as `asyncio.timeout`
    """Bound a step in time, or not where there are no seconds. Raises PeerMisbehaved (PEER_TIMEOUT) naming the step."""

    __slots__ = ("_cancelled_before", "_has_expired", "_seconds", "_task", "_timer", "_what")

    def __init__(self, seconds: float | None, what: str) -> None:
        self._seconds = seconds
        self._what = what
        self._timer: asyncio.TimerHandle | None = None
        self._has_expired = False

    async def __aenter__(self) -> None:
        if self._seconds is not None:
            task = asyncio.current_task()
            assert task is not None
            self._task = task
            self._cancelled_before = task.cancelling()
            self._timer = task.get_loop().call_later(self._seconds, self._expire)

    def _expire(self) -> None:
        self._has_expired = True
        self._task.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # Somebody else may have cancelled the task as well: then it is they who are heard.
        if self._has_expired and self._task.uncancel() <= self._cancelled_before and kind is asyncio.CancelledError:
            raise PeerMisbehaved(
                Reason.PEER_TIMEOUT,
                f"{self._what} did not finish in {self._seconds:g} seconds",
                hint="the peer stalls or is overloaded; check what runs at that address",
            ) from error


async def _end_of(task: asyncio.Task[None]) -> None:
    """Wait until a task has ended, and who was told of it first. Who is cancelled here leaves it alone."""
    ended: asyncio.Future[None] = task.get_loop().create_future()

    def tell(_: object) -> None:
        if not ended.done():
            ended.set_result(None)

    task.add_done_callback(tell)
    await ended


def _closed_here() -> PeerMisbehaved:
    return PeerMisbehaved(Reason.PEER_CLOSED, "this side has closed the connection")


def _used_after_close() -> Misuse:
    return Misuse(Reason.USAGE, "this side has closed the stream", hint="read and write before `close` or `abort`")
