"""Moving raw bytes between two attested streams: all that a relay does once a channel is open."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from eaa.aio.stream import AttestedStream
from eaa.errors import PeerMisbehaved

IDLE_TIMEOUT: Final = 300.0
"""Seconds without a byte in either direction after which a relayed connection is closed."""
PUMP_SIZE: Final = 64 * 1024


class _Activity:
    """When the last byte moved, on the event loop's clock."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.touch()

    def touch(self) -> None:
        self._last = self._loop.time()

    async def until_idle(self, seconds: float) -> None:
        left = seconds
        # Not a poll: it sleeps for as long as nothing can be due, which is once or twice for an idle connection.
        while left > 0:
            await asyncio.sleep(left)
            left = self._last + seconds - self._loop.time()


async def pump(one: AttestedStream, other: AttestedStream, *, idle_timeout: float = IDLE_TIMEOUT) -> None:
    """Move raw bytes both ways until either side ends or nothing moves for `idle_timeout` seconds; close both."""
    activity = _Activity()
    tasks = [
        asyncio.create_task(_pump(one, other, activity)),
        asyncio.create_task(_pump(other, one, activity)),
        asyncio.create_task(activity.until_idle(idle_timeout)),
    ]
    try:
        # What was read before an end has been written by then: `_pump` writes before it reads on.
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(one.close(), other.close())


async def _pump(source: AttestedStream, sink: AttestedStream, activity: _Activity) -> None:
    # A peer that goes away ends its connection, and that is all that it ends.
    with contextlib.suppress(PeerMisbehaved, OSError):
        while data := await source.read(PUMP_SIZE):
            activity.touch()
            await sink.write(data)
            activity.touch()
