"""Channels to one workload: some kept ready, one for each session, none handed out whose judgement may be stale.

A warm channel is closed and replaced as soon as one of these is so, and never handed out after that:

- the workload has closed it, or has spoken on it, which is not its turn;
- its judgement is older than the settings allow, or a document behind it has ended;
- the collateral in use is other than it was when the workload was judged;
- the settings by which the workload was judged are not those of today.

While no channel can be opened it is tried again after longer and longer pauses, and clients hear at once that the
workload is unavailable.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from eaa.aio.attestation import Attestation
from eaa.aio.context import forget_frames
from eaa.errors import EAAError, PeerMisbehaved, Reason, Unavailable
from eaa.inclavared.counters import ChannelCounters
from eaa.inclavared.judged import Judged
from eaa.inclavared.settings import Target
from eaa.tls.connection import Want
from eaa.verifier import wall_clock

FIRST_PAUSE: Final = 0.2
"""Seconds after a channel that could not be opened; doubled with each further one, less up to a half at random."""
LONGEST_PAUSE: Final = 10.0
DEMAND_PAUSE: Final = 1.0
"""Seconds after which a client that asks is reason enough to try again, whatever pause was due."""
QUICK: Final = 2.0
"""Seconds that such a client waits for the outcome. The pool itself has more patience."""
_TORN: Final = frozenset({Reason.PEER_CLOSED, Reason.TLS_RECORD})
"""What a channel fails with that was cut off while it was opened: once more is worth it, and nothing was lost."""
YOUNG: Final = 1.0
"""Seconds. A warm channel that is of no use before it is so old is replaced after a pause, as a failure is."""
_OURS: Final = frozenset({Reason.OVERLOADED, Reason.QUOTE_UNAVAILABLE})
"""What says nothing of the workload."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A channel that is attested both ways and carries one inner session."""

    attestation: Attestation
    target: Target
    """What the operator said of the workload when it was judged."""
    judged: Judged | None
    """None where nobody judges this workload."""

    def abort(self) -> None:
        """Close it at once."""
        self.attestation.stream.abort()


Opener = Callable[[Target], Awaitable[Channel]]
"""Opens a channel. Raises EAAError."""


class _Warm:
    """A channel that waits for a client, and is watched meanwhile."""

    def __init__(self, channel: Channel, wake: Callable[[], object]) -> None:
        self.channel = channel
        self.since = time.monotonic()
        # A byte or an end: either makes it useless. Who cancels a read has lost nothing.
        self._watch = asyncio.ensure_future(channel.attestation.stream.read(1))
        self._watch.add_done_callback(self._has_ended)
        self._wake = wake

    def _has_ended(self, watch: asyncio.Future[bytes]) -> None:
        if not watch.cancelled():
            # How it has ended makes no difference, and nobody else asks.
            watch.exception()
        self._wake()

    @property
    def is_dead(self) -> bool:
        return self._watch.done()

    async def release(self) -> bool:
        """Stop watching; return whether the channel is as good as it was."""
        self._watch.cancel()
        await asyncio.wait([self._watch])
        if not self._watch.cancelled():
            return False
        with contextlib.suppress(EAAError):
            # What has come since the event loop last looked.
            return self.channel.attestation.stream.receive_now(1) is Want.READ
        return False

    def close(self) -> None:
        self._watch.cancel()
        self.channel.attestation.stream.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A time in which no channel could be opened."""

    since: datetime
    error: EAAError
    """Of the last attempt."""
    failures: int
    tried: float
    """When the last attempt ended, on the monotonic clock."""
    pause: float
    """Seconds after that until the pool tries again."""

    def refusal(self, target: Target, *, now: float) -> Unavailable:
        """Return what a client is refused with."""
        wait = max(0.0, self.tried + self.pause - now)
        return Unavailable(
            Reason.WORKLOAD_UNAVAILABLE,
            f"the workload {target} has been unavailable since {self.since:%Y-%m-%dT%H:%M:%SZ}: "
            f"{self.error.message} [{self.error.reason}]; the next attempt is in {wait:.1f} seconds",
            hint=self.error.hint,
        )


class Pool:
    """The channels to one workload."""

    def __init__(
        self,
        target: Target,
        opener: Opener,
        *,
        counters: ChannelCounters,
        lifetime: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Make an empty one.

        Args:
            target: the workload.
            opener: opens a channel to it.
            counters: are kept up to date.
            lifetime: seconds for which a judgement is relied upon.
            jitter: from 0 up to 1.
        """
        self._target = target
        self._opener = opener
        self._counters = counters
        self._lifetime = lifetime
        self._jitter = jitter
        self._warm: deque[_Warm] = deque()
        self._outage: Outage | None = None
        self._trying = False
        self._deaths = 0
        self._not_before = 0.0
        self._wake = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def target(self) -> Target:
        """The workload, as the operator describes it now."""
        return self._target

    @property
    def outage(self) -> Outage | None:
        """Since when and why no channel can be opened; None where one can, as far as is known."""
        return self._outage

    @property
    def ready(self) -> int:
        """How many channels wait for a client."""
        return len(self._warm)

    # --- for clients

    async def take(self) -> Channel:
        """Return a channel that is fit for a session: a warm one, or a new one. It is the caller's to close.

        Raises:
            Unavailable: WORKLOAD_UNAVAILABLE, whatever kept the channel from opening; the log has the cause.
        """
        while self._warm:
            warm = self._warm.popleft()
            self._note_ready()
            if reason := await self._fault_of(warm):
                self._discard(warm, reason)
                continue
            self._counters.handed_out += 1
            self._deaths = 0
            return warm.channel
        return await self._open_for_client()

    async def replace(self) -> Channel:
        """Return a new channel for a client whose first one was dead when it was used. Raises as `take`."""
        self._counters.discarded["dead"] += 1
        return await self._open_for_client()

    async def _fault_of(self, warm: _Warm) -> str | None:
        """Stop watching a warm channel, and return why it must not be handed out, or None."""
        try:
            alive = await warm.release()
        except BaseException:
            # Whoever asked for it has left meanwhile.
            warm.close()
            raise
        return self._staleness(warm) if alive else "closed"

    async def _open_for_client(self) -> Channel:
        now = time.monotonic()
        outage = self._outage
        if outage is None:
            return await self._open(attempts=2)
        if self._trying or now < outage.tried + min(outage.pause, DEMAND_PAUSE):
            raise outage.refusal(self._target, now=now)
        try:
            # A pool of warm channels has patience, a client need not have any.
            async with asyncio.timeout(QUICK if self._target.pool_size else None):
                return await self._open(attempts=1)
        except TimeoutError:
            raise (self._outage or outage).refusal(self._target, now=time.monotonic()) from None

    # --- opening

    async def _open(self, *, attempts: int) -> Channel:
        """Return a new channel, judged by the settings of this moment. Raises Unavailable."""
        target, began = self._target, time.monotonic()
        self._trying = True
        try:
            channel = await self._attempt(target, attempts)
        except EAAError as error:
            if self._target is not target:
                # What failed was asked for by the settings of before, and says nothing of those of today.
                return await self._open(attempts=attempts)
            self._note_failure(error, began)
            raise Unavailable(
                Reason.WORKLOAD_UNAVAILABLE,
                f"no channel to the workload {target}: {error.message} [{error.reason}]",
                hint=error.hint,
            ) from error
        finally:
            self._trying = False
        self._note_success()
        if self._target is target:
            return channel
        # A reload came in between: what was judged by the settings of before is not handed out.
        channel.abort()
        return await self._open(attempts=attempts)

    async def _attempt(self, target: Target, attempts: int) -> Channel:
        for _ in range(attempts - 1):
            try:
                return await self._opener(target)
            except PeerMisbehaved as error:
                if error.reason not in _TORN:
                    raise
                forget_frames(error)
        return await self._opener(target)

    def _note_success(self) -> None:
        self._counters.opened += 1
        if self._outage is not None:
            logger.info(
                "workload %s: available again, after %s",
                self._target,
                _duration(wall_clock() - self._outage.since),
                extra={"event": "workload.available", "workload": self._target.name},
            )
        self._outage = self._counters.unavailable_since = None

    def _note_failure(self, error: EAAError, began: float) -> None:
        self._counters.failures += 1
        before = self._outage
        if before is not None and began < before.tried:
            # Of many that have failed together only one makes the pause longer.
            return
        if error.reason in _OURS:
            logger.warning("workload %s: %s [%s]", self._target, error.message, error.reason)
            return
        # One line for an outage, and one for each new cause, not one for each attempt.
        level = logging.WARNING if before is None or before.error.reason is not error.reason else logging.DEBUG
        logger.log(
            level,
            "workload %s: %s [%s]",
            self._target,
            error.message,
            error.reason,
            extra={"event": "workload.unavailable", "workload": self._target.name},
        )
        failures = before.failures + 1 if before else 1
        self._outage = Outage(
            since=before.since if before else wall_clock(),
            error=error,
            failures=failures,
            tried=time.monotonic(),
            pause=self._pause(failures),
        )
        self._counters.unavailable_since = self._outage.since
        self._wake.set()

    def _pause(self, failures: int) -> float:
        return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 16)) * (1 - self._jitter() / 2)

    # --- keeping some ready

    def start(self) -> None:
        """Begin to keep channels ready, in the event loop that runs, if any are to be kept."""
        if self._keeper is None and self._target.pool_size and not self._closed:
            self._keeper = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            self._wake.clear()
            self.sweep()
            try:
                wait = await self._fill() if len(self._warm) < self._target.pool_size else None
            except Exception:
                logger.exception("workload %s: a bug of ours kept a channel from being opened", self._target)
                wait = LONGEST_PAUSE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()

    async def _fill(self) -> float | None:
        """Open one channel if it is time for it; return after how many seconds to look again, None for never."""
        outage, now = self._outage, time.monotonic()
        due = self._not_before if outage is None else outage.tried + outage.pause
        if now < due:
            return due - now
        if outage is not None and self._trying:
            return FIRST_PAUSE
        with contextlib.suppress(Unavailable):
            self._add(await self._open(attempts=2 if outage is None else 1))
        # What went wrong on this side is no outage, and no reason to try without a pause.
        return FIRST_PAUSE

    def _add(self, channel: Channel) -> None:
        self._warm.append(_Warm(channel, self._wake.set))
        self._note_ready()

    def sweep(self) -> None:
        """Close the warm channels that may not be handed out any more, and have them replaced."""
        for warm in list(self._warm):
            if reason := "closed" if warm.is_dead else self._staleness(warm):
                self._warm.remove(warm)
                self._note_ready()
                self._discard(warm, reason)

    def _staleness(self, warm: _Warm) -> str | None:
        channel, target = warm.channel, self._target
        if channel.target is not target or target.verifier is None or channel.judged is None:
            return "reload"
        return channel.judged.is_due(
            target.verifier, lifetime=self._lifetime, monotonic=time.monotonic(), now=target.verifier.now()
        )

    def _discard(self, warm: _Warm, reason: str) -> None:
        if reason not in ("reload", "stopping"):
            self._note_death(warm)
        self._counters.discarded[reason] += 1
        logger.debug("workload %s: a warm channel is closed unused: %s", self._target, reason)
        warm.close()
        self._wake.set()

    def _note_death(self, warm: _Warm) -> None:
        now = time.monotonic()
        self._deaths = self._deaths + 1 if now - warm.since < YOUNG else 0
        if self._deaths:
            self._not_before = now + self._pause(self._deaths)

    def _note_ready(self) -> None:
        self._counters.ready = len(self._warm)
        self._wake.set()

    # --- changes and the end

    def retarget(self, target: Target, *, lifetime: float) -> None:
        """Go on with other settings. Channels that were judged by those of before are closed, and never handed out."""
        self._target = target
        self._lifetime = lifetime
        # Other settings may mend what has failed, and break what has not.
        self._outage = self._counters.unavailable_since = None
        self._deaths, self._not_before = 0, 0.0
        self.sweep()
        self._wake.set()
        self.start()

    def close(self) -> None:
        """Keep nothing ready any more. Who still asks is given new channels."""
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
        while self._warm:
            self._discard(self._warm.popleft(), "stopping")
        self._note_ready()


def _duration(time: object) -> str:
    return str(time).split(".", maxsplit=1)[0]
