"""Moving raw bytes between two attested streams: all that a relay does once a channel is open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from eaa.aio.stream import READ_SIZE, RECORDS_IN_A_ROW, AttestedStream
from eaa.errors import EAAError, PeerMisbehaved, Reason
from eaa.tls.connection import Want

IDLE_TIMEOUT: Final = 300.0
"""Seconds without a byte in either direction after which a relayed session is closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayed:
    """How a relayed session went."""

    forth: int
    """Bytes that the second stream took of the first."""
    back: int
    """Bytes that the first stream took of the second."""
    failure: EAAError | None
    """What ended it; None where both sides said goodbye."""


async def pump(one: AttestedStream, other: AttestedStream, *, idle_timeout: float = IDLE_TIMEOUT) -> Relayed:
    """Move raw bytes both ways until both sides have said goodbye, and close both streams.

    A side that says goodbye is still sent what the other has for it. A side that vanishes, and `idle_timeout` seconds
    without a byte in either direction, end both.
    """
    activity = _Activity()
    forth, back = _Direction(one, other), _Direction(other, one)
    moving = {asyncio.create_task(direction.run(activity.touch)) for direction in (forth, back)}
    guard = asyncio.create_task(activity.until_idle(idle_timeout))
    failure: EAAError | None = None
    try:
        await _until_done(moving, guard)
    except EAAError as error:
        failure = error
    finally:
        for task in (*moving, guard):
            task.cancel()
        await asyncio.gather(*moving, guard, return_exceptions=True)
        # Without a goodbye after a failure: nobody shall take a stream that was torn for one that was finished.
        await asyncio.gather(*(stream.part() if failure else stream.close() for stream in (one, other)))
    return Relayed(forth=forth.moved, back=back.moved, failure=failure)


async def _until_done(moving: set[asyncio.Task[None]], guard: asyncio.Task[None]) -> None:
    """Wait for all that moves; raise what the first failure of any task is."""
    pending = set(moving)
    while pending:
        done, _ = await asyncio.wait({*pending, guard}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        pending -= done


class _Activity:
    """When the last byte moved, on the event loop's clock."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.touch()

    def touch(self) -> None:
        self._last = self._loop.time()

    async def until_idle(self, seconds: float) -> None:
        """Raise PeerMisbehaved (PEER_TIMEOUT) when nothing has moved for so long."""
        left = seconds
        # Not a poll: it sleeps for as long as nothing can be due, which is once or twice for an idle connection.
        while left > 0:
            await asyncio.sleep(left)
            left = self._last + seconds - self._loop.time()
        raise PeerMisbehaved(
            Reason.PEER_TIMEOUT,
            f"no byte has moved in either direction for {seconds:g} seconds",
            hint="an application that is silent for longer has to send something now and then",
        )


class _Direction:
    """Bytes from one stream to another. At most one record is held, and only while the sink has no room for it."""

    def __init__(self, source: AttestedStream, sink: AttestedStream) -> None:
        self._source = source
        self._sink = sink
        self._held = memoryview(b"")
        self._ended = False
        self.moved = 0

    async def run(self, touch: Callable[[], None]) -> None:
        """Move bytes until the source says goodbye, and pass that on. Raises PeerMisbehaved."""
        while not self._ended:
            before = self.moved
            stream, want = self._move()
            if self.moved != before:
                touch()
            await self._sink.wait(Want.NOTHING)
            if want is Want.NOTHING:
                # The others have their turn.
                await asyncio.sleep(0)
            else:
                await stream.wait(want)
        await self._sink.finish()

    def _move(self) -> tuple[AttestedStream, Want]:
        """Move some records; return which stream has to be waited for. No task switch lies between two of them."""
        for _ in range(RECORDS_IN_A_ROW):
            while self._held:
                sent = self._sink.send_now(self._held)
                if isinstance(sent, Want):
                    return self._sink, sent
                self._held = self._held[sent:]
                self.moved += sent
            data = self._source.receive_now(READ_SIZE)
            if isinstance(data, Want):
                return self._source, data
            if not data:
                self._ended = True
                break
            self._held = memoryview(data)
        return self._source, Want.NOTHING
