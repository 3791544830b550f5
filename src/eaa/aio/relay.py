"""Moving raw bytes between two streams: all that a relay does once a channel is open.

Nothing here is a task. The event loop calls back where a descriptor is ready; a record is read into one buffer, which
all sessions of the loop share, and written from it at once. So an idle session costs what OpenSSL keeps of it and a
few small objects, and a busy one no switch between tasks.

A direction is in one of three states. It reads: its source is watched for bytes. It is blocked: its sink had no room,
at most one record is kept, and its source is not watched until the sink has taken that. It has ended: its source has
said goodbye, and so has this side, to the sink.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from eaa.aio.context import forget_frames
from eaa.aio.plain import PlainStream
from eaa.aio.stream import READ_SIZE, RECORDS_IN_A_ROW, AttestedStream, deadline
from eaa.errors import EAAError, PeerMisbehaved, Reason
from eaa.tls.bulk import Buffer, bulk
from eaa.tls.connection import Want

IDLE_TIMEOUT: Final = 300.0
"""Seconds without a byte in either direction after which a relayed session is closed."""
HALF_CLOSED_TIMEOUT: Final = 60.0
"""The same where one side has said goodbye: it waits for an answer at most, and its program may be gone."""
GRAIN: Final = 0.25
"""Seconds by which a session may be closed too late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a session may last, in seconds."""

    idle: float = IDLE_TIMEOUT
    """Without a byte in either direction."""
    half_closed: float = HALF_CLOSED_TIMEOUT
    """The same once one side has said goodbye. Never longer than `idle`."""
    lifetime: float | None = None
    """In all, however busy it is; None for as long as it likes."""


@dataclass(slots=True)
class Traffic:
    """Bytes of many sessions, as they move."""

    forth: int = 0
    back: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayed:
    """How a relayed session went."""

    forth: int
    """Bytes that the second stream took of the first."""
    back: int
    """Bytes that the first stream took of the second."""
    failure: EAAError | None
    """What ended it; None where both sides said goodbye."""


Stream = AttestedStream | PlainStream


class Side(Protocol):
    """How bytes get into and out of a stream, without waiting. Each method raises PeerMisbehaved."""

    early: bytes
    """What was read of it before."""

    @property
    def keeps(self) -> bool:
        """Whether it may have bytes to be read while its descriptor has none, or keep some that are to be sent."""

    def receive(self, buffer: Buffer) -> int | Want:
        """Read some; return how many bytes, 0 where the peer has said goodbye, or what reading waits for."""

    def send(self, buffer: Buffer, size: int) -> int | Want:
        """Write the first `size` bytes; return how many were taken, or what writing waits for."""

    def send_held(self, data: bytes) -> int | Want:
        """Do the same with bytes that were kept."""

    def flush(self) -> Want:
        """Send what the side keeps itself; NOTHING once that is done."""

    def finish(self) -> Want:
        """Say goodbye; NOTHING once that is done."""


async def pump(
    one: Stream,
    other: Stream,
    *,
    limits: Limits | None = None,
    traffic: Traffic | None = None,
    last: float | None = None,
) -> Relayed:
    """Move raw bytes both ways until both sides have said goodbye, and close both streams.

    A side that says goodbye is still sent what the other has for it. A side that vanishes, and what goes past a limit,
    end both. Neither stream may be used meanwhile; whoever is cancelled here, or aborts one of them, ends both.

    Args:
        one: a stream whose gate is open, or a plain one.
        other: the same.
        limits: the defaults where there are none.
        traffic: where the bytes are counted while they move: `forth` from `one` to `other`, and `back`.
        last: when the last byte was moved before, on the event loop's clock: the limits count from there, and from now
            where it is None.
    """
    limits = limits or Limits()
    session: _Session | None = None
    failure: EAAError | None = None
    finished = False
    try:
        async with deadline(limits.idle, "sending what comes before the relayed bytes"):
            await asyncio.gather(one.drain(), other.drain())
        session = _Session(one, other, limits, traffic or Traffic(), last)
        failure = await session.ended
        finished = failure is None
    except EAAError as error:
        failure = error
    finally:
        if session is not None:
            session.stop()
        # Without a goodbye after a failure: nobody shall take a stream that was torn for one that was finished.
        await asyncio.gather(*(stream.close() if finished else stream.part() for stream in (one, other)))
    forth, back = (0, 0) if session is None else session.moved
    if session is not None:
        session.let_go()
    forget_frames(failure)
    return Relayed(forth=forth, back=back, failure=failure)


class _Session:
    """Two streams and the bytes between them."""

    __slots__ = ("_ends", "_limits", "_over", "_streams", "_ways", "_wheel", "due", "ended", "last", "loop")

    def __init__(self, one: Stream, other: Stream, limits: Limits, traffic: Traffic, last: float | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[EAAError | None] = self.loop.create_future()
        self.last = self.loop.time() if last is None else last
        """When the last byte moved, on the event loop's clock."""
        self.due: int | None = None
        """Where the wheel keeps it."""
        shared = _shared(self.loop)
        self._limits = limits
        self._over = math.inf if limits.lifetime is None else self.last + limits.lifetime
        self._wheel = shared.wheel
        self._streams: tuple[Stream, ...] = (one, other)
        first, second = _End(self, one), _End(self, other)
        self._ends: tuple[_End, ...] = (first, second)
        self._ways: tuple[_Way, ...] = (
            _Way(self, first, second, shared.buffer, traffic, forth=True),
            _Way(self, second, first, shared.buffer, traffic, forth=False),
        )
        self._wheel.put(self, self._deadline())
        for way in self._ways:
            # What OpenSSL has read already no descriptor tells of.
            way.go()

    @property
    def moved(self) -> tuple[int, int]:
        """Bytes forth and back."""
        forth, back = self._ways
        return forth.moved, back.moved

    def let_go(self) -> None:
        """Hold nothing any more: else two TLS connections would wait for the garbage collector, which comes seldom."""
        self._ways = self._ends = self._streams = ()

    def closed_half(self) -> None:
        """One direction has ended."""
        if all(way.has_ended for way in self._ways):
            self.end(None)
        elif not self.ended.done():
            self._wheel.put(self, self._deadline())

    def end(self, failure: EAAError | None) -> None:
        """Move no more."""
        if not self.ended.done():
            self.stop()
            self.ended.set_result(failure)

    def abort(self) -> None:
        """Move no more, because this side closes one of the streams."""
        self.end(_aborted())

    def stop(self) -> None:
        """Watch nothing any more."""
        self._wheel.take(self)
        for end, stream in zip(self._ends, self._streams, strict=True):
            end.rest()
            stream.give_back()

    def look(self, now: float) -> None:
        """End it where it is past a limit; called when that may be so."""
        left = self._deadline() - now
        if left > 0:
            self._wheel.put(self, now + left)
        else:
            self.end(self._past_limit(now))

    @property
    def _silence(self) -> float:
        limits = self._limits
        is_half_closed = any(way.has_ended for way in self._ways)
        return min(limits.idle, limits.half_closed) if is_half_closed else limits.idle

    def _deadline(self) -> float:
        return min(self.last + self._silence, self._over)

    def _past_limit(self, now: float) -> PeerMisbehaved:
        if now >= self._over:
            return PeerMisbehaved(
                Reason.PEER_TIMEOUT,
                "the session has lasted for as long as one may",
                hint="the client connects again; --max-lifetime allows more",
            )
        return PeerMisbehaved(
            Reason.PEER_TIMEOUT,
            f"no byte has moved in either direction for {self._silence:g} seconds",
            hint="an application that is silent for longer has to send something now and then",
        )


class _End:
    """One of the two streams, and what the event loop watches of its descriptor."""

    __slots__ = ("_descriptor", "_loop", "_reads", "_waiting", "side")

    def __init__(self, session: _Session, stream: Stream) -> None:
        self._loop = session.loop
        self._descriptor = stream.take_over(session.abort)
        self._reads = False
        self._waiting: tuple[Callable[[], None], ...] = ()
        self.side: Side = _side_of(stream)

    def watch(self, readable: Callable[[], None]) -> None:
        """Call this whenever there is something to read."""
        if not self._reads:
            self._reads = True
            self._loop.add_reader(self._descriptor, readable)

    def look_away(self) -> None:
        """Call that no more."""
        if self._reads:
            self._reads = False
            self._loop.remove_reader(self._descriptor)

    def when_writable(self, then: Callable[[], None]) -> None:
        """Call this once, when there is room."""
        if not self._waiting:
            self._loop.add_writer(self._descriptor, self._writable)
        # Both directions may wait for one descriptor: a reader too, whose peer wants new keys.
        self._waiting = (*self._waiting, then)

    def rest(self) -> None:
        """Call nothing any more."""
        self.look_away()
        if self._waiting:
            self._waiting = ()
            self._loop.remove_writer(self._descriptor)

    def _writable(self) -> None:
        waiting, self._waiting = self._waiting, ()
        self._loop.remove_writer(self._descriptor)
        for then in waiting:
            then()


class _Way:
    """One direction. At most one record is held, and only while the sink has no room for it."""

    __slots__ = (
        "_buffer",
        "_forth",
        "_held",
        "_session",
        "_sink",
        "_source",
        "_traffic",
        "has_ended",
        "is_over",
        "moved",
    )

    def __init__(
        self, session: _Session, source: _End, sink: _End, buffer: Buffer, traffic: Traffic, *, forth: bool
    ) -> None:
        self._session = session
        self._source = source
        self._sink = sink
        self._buffer = buffer
        self._traffic = traffic
        self._forth = forth
        self._held = source.side.early
        self.is_over = False
        """Whether the source has said goodbye."""
        self.has_ended = False
        """Whether the sink has been told."""
        self.moved = 0

    def go(self) -> None:
        """Move what can be moved, and arrange to be called again. The event loop calls this."""
        before = self.moved
        try:
            if not self._session.ended.done() and not self.has_ended and self._clear():
                self._move()
        except EAAError as error:
            self._session.end(error)
        if size := self.moved - before:
            self._session.last = self._session.loop.time()
            if self._forth:
                self._traffic.forth += size
            else:
                self._traffic.back += size

    def _clear(self) -> bool:
        """Send what is held; return whether the way is free."""
        sink = self._sink.side
        while self._held:
            sent = sink.send_held(self._held)
            if isinstance(sent, Want):
                self._block(self._sink, sent)
                return False
            self.moved += sent
            self._held = self._held[sent:]
        if sink.keeps and (want := sink.flush()) is not Want.NOTHING:
            self._block(self._sink, want)
            return False
        return not self.is_over or self._finish()

    def _move(self) -> None:
        source, sink, buffer = self._source.side, self._sink.side, self._buffer
        receive, send = source.receive, sink.send
        for _ in range(RECORDS_IN_A_ROW):
            got = receive(buffer)
            if isinstance(got, Want):
                self._wait(got)
                return
            if not got:
                self.is_over = True
                self._finish()
                return
            sent = send(buffer, got)
            if sent != got:
                self._hold(got, sent)
                return
            self.moved += got
            if sink.keeps and (want := sink.flush()) is not Want.NOTHING:
                self._block(self._sink, want)
                return
        # Others have their turn. That a descriptor is ready is not to be relied on twice: uvloop stops watching one
        # whose peer has reset the connection, bytes before the reset or not, and says so once.
        self._source.watch(self.go)
        self._session.loop.call_soon(self.go)

    def _hold(self, got: int, sent: int | Want) -> None:
        taken = 0 if isinstance(sent, Want) else sent
        self.moved += taken
        self._held = bytes(self._buffer.view[taken:got])
        self._block(self._sink, Want.WRITE if taken else sent)

    def _wait(self, want: Want) -> None:
        if want is Want.READ:
            self._source.watch(self.go)
        else:
            self._block(self._source, want)

    def _block(self, end: _End, want: int | Want) -> None:
        """Read no more until there is room."""
        self._source.look_away()
        if want is not Want.WRITE:
            raise PeerMisbehaved(Reason.TLS_RECORD, "the peer wants another handshake, which TLS 1.3 does not have")
        end.when_writable(self.go)

    def _finish(self) -> bool:
        """Pass a goodbye on. Always returns False: there is nothing more to move."""
        self._source.look_away()
        want = self._sink.side.finish()
        if want is Want.NOTHING:
            self.has_ended = True
            self._session.closed_half()
        else:
            self._block(self._sink, want)
        return False


# --- how bytes get into and out of streams


class _TLSSide:
    """TLS on a socket: OpenSSL reads and writes the descriptor itself, and keeps nothing of it back."""

    __slots__ = ("_bulk", "_connection", "early")
    keeps: Final = False

    def __init__(self, stream: AttestedStream) -> None:
        self._connection = stream.connection
        self._bulk = bulk(stream.connection)
        self.early = stream.take_early()

    # Bound when they are asked for, which is once for many records: an idle session keeps none of them.

    @property
    def receive(self) -> Callable[[Buffer], int | Want]:
        return self._bulk.receive

    @property
    def send(self) -> Callable[[Buffer, int], int | Want]:
        return self._bulk.send

    @property
    def send_held(self) -> Callable[[bytes], int | Want]:
        return self._bulk.send_held

    def flush(self) -> Want:
        return Want.NOTHING

    def finish(self) -> Want:
        return self._connection.shutdown()


class _InnerSide:
    """TLS inside of another stream, the session that ends in the workload: records go through that stream."""

    __slots__ = ("_bulk", "_connection", "_outer", "_sealed", "early")
    keeps: Final = True

    def __init__(self, stream: AttestedStream, outer: AttestedStream) -> None:
        self._connection = stream.connection
        self._outer = outer
        self._bulk = bulk(stream.connection)
        self._sealed = memoryview(b"")
        self.early = stream.take_early()

    def receive(self, buffer: Buffer) -> int | Want:
        while (got := self._bulk.receive(buffer)) is Want.READ:
            data = self._outer.receive_now(READ_SIZE)
            if isinstance(data, Want):
                return data
            self._connection.feed(data)
        return got

    def send(self, buffer: Buffer, size: int) -> int | Want:
        return self._bulk.send(buffer, size)

    def send_held(self, data: bytes) -> int | Want:
        return self._bulk.send_held(data)

    def flush(self) -> Want:
        while True:
            self._sealed = self._sealed or memoryview(self._connection.take())
            if not self._sealed:
                return Want.NOTHING
            sent = self._outer.send_now(self._sealed)
            if isinstance(sent, Want):
                return sent
            self._sealed = self._sealed[sent:]

    def finish(self) -> Want:
        self._connection.shutdown()
        return self.flush()


class _PlainSide:
    """A plain socket. The end of what it sends is its goodbye."""

    __slots__ = ("_stream", "early")
    keeps: Final = False

    def __init__(self, stream: PlainStream) -> None:
        self._stream = stream
        self.early = stream.take_early()

    def receive(self, buffer: Buffer) -> int | Want:
        return self._stream.receive_into(buffer.view)

    def send(self, buffer: Buffer, size: int) -> int | Want:
        return self._stream.send_now(buffer.view[:size])

    def send_held(self, data: bytes) -> int | Want:
        return self._stream.send_now(data)

    def flush(self) -> Want:
        return Want.NOTHING

    def finish(self) -> Want:
        self._stream.finish()
        return Want.NOTHING


def _side_of(stream: Stream) -> Side:
    if isinstance(stream, PlainStream):
        return _PlainSide(stream)
    return _TLSSide(stream) if stream.outer is None else _InnerSide(stream, stream.outer)


def _aborted() -> PeerMisbehaved:
    return PeerMisbehaved(Reason.PEER_CLOSED, "this side has closed the connection")


# --- what all sessions of one event loop share


class _Wheel:
    """Looks at sessions when they may be past a limit: one timer for all of them, and none where there are none."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._slots: dict[int, set[_Session]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def put(self, session: _Session, when: float) -> None:
        """Have it looked at then, and not when it was to be before."""
        due = int(when / GRAIN) + 1
        if due != session.due:
            self.take(session)
            session.due = due
            self._slots.setdefault(due, set()).add(session)
            self._wind(due)

    def take(self, session: _Session) -> None:
        """Look at it no more."""
        if session.due is not None and (slot := self._slots.get(session.due)):
            slot.discard(session)
            if not slot:
                del self._slots[session.due]
        session.due = None

    def _wind(self, due: int) -> None:
        loop = self._loop()
        if loop is None or (self._timer is not None and self._timer.when() <= due * GRAIN):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(due * GRAIN, self._turn)

    def _turn(self) -> None:
        loop = self._loop()
        if loop is None:
            return
        self._timer = None
        now = loop.time()
        for due in [due for due in self._slots if due * GRAIN <= now]:
            for session in self._slots.pop(due):
                session.due = None
                session.look(now)
        if self._slots:
            self._wind(min(self._slots))


@dataclass(slots=True, weakref_slot=True)
class _Shared:
    buffer: Buffer
    wheel: _Wheel


_OF_LOOPS: Final[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared]] = weakref.WeakKeyDictionary()
"""OpenSSL lets other threads run while it works, and each of them has a loop of its own if any."""


def _shared(loop: asyncio.AbstractEventLoop) -> _Shared:
    shared = _OF_LOOPS.get(loop)
    if shared is None:
        shared = _OF_LOOPS[loop] = _Shared(buffer=Buffer(), wheel=_Wheel(loop))
    return shared
