"""Whether a service lives, and whether it is ready: what a kubelet or a load balancer asks of it.

It lives while its event loop turns. It is ready when it listens, has evidence of its own that is valid, and, where it
judges anybody, has the collateral of its own platform: its peers tend to run on platforms like it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

MAX_PAUSE: Final = 10.0
"""Seconds for which the event loop may be busy with one thing and still count as alive."""
BEAT: Final = 0.5
"""Seconds between two beats."""
EVENT_LOOP: Final = "event_loop"
"""What is not fine where it is the loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What is asked of a service. Each returns what is not fine, in words of a closed set; nothing where all is."""

    live: Callable[[], Sequence[str]] = tuple
    ready: Callable[[], Sequence[str]] = tuple


class Heartbeat:
    """Notes that the event loop turns, and how late it was."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Make one that has just beaten; `clock` is monotonic, seconds."""
        self._clock = clock
        self._last = clock()
        self._late = 0.0

    def beat(self) -> None:
        """Note that the loop turns."""
        now = self._clock()
        self._late = max(0.0, now - self._last - BEAT)
        self._last = now

    @property
    def lag(self) -> float:
        """Seconds by which the last beat was late, or the next one already is."""
        return max(self._late, self._clock() - self._last - BEAT, 0.0)

    @property
    def is_alive(self) -> bool:
        """Whether it has beaten of late."""
        return self._clock() - self._last <= MAX_PAUSE

    @contextlib.asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Beat for the duration of a block."""
        self.beat()

        async def beat() -> None:
            while True:
                await asyncio.sleep(BEAT)
                self.beat()

        task = asyncio.create_task(beat())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def not_holding(conditions: dict[str, Callable[[], bool]]) -> Callable[[], Sequence[str]]:
    """Return what names the conditions that do not hold."""
    return lambda: [name for name, holds in conditions.items() if not holds()]
