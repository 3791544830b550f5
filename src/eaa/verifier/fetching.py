"""What a verifier has fetched, by name: fetched once for all who wait for it, kept a while, renewed ahead of time.

There are two ways to ask:

- `get` fetches what is missing. Whoever asks for the same meanwhile waits, and is given the same answer, a failure too.
- `get_now` never waits. What is missing is refused as COLLATERAL_PENDING, and a thread of the cache's own fetches it:
  one thing at a time, each thing once, and after a failure again, later and later.

Where nobody answers who could renew it, what is kept is used on, for a day at most: see `OUTAGE`.

The thread also renews what is in use before its lifetime is over, so that nobody who asks meets the end of it. It is
started by the first that needs it; a cache of which only `get` is used has none.

Everything that happens at a certain time happens in `fetch_due`, which takes the time from the clock it was given: the
thread does nothing but call it, and wait.
"""

from __future__ import annotations

import logging
import random
import threading
import weakref
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Generic, TypeVar

from eaa.errors import EAAError, Reason, Unanswered, Unavailable

COLLATERAL_LIFETIME: Final = timedelta(hours=1)
"""How long fetched collateral is reused. Short, so that a revocation reaches us long before nextUpdate."""
OUTAGE: Final = timedelta(hours=24)
"""How long after its fetch it is used where nobody answers who could renew it, each document within its own dates."""
RENEW_AFTER: Final = COLLATERAL_LIFETIME * 3 / 4
RENEWALS_SPREAD: Final = COLLATERAL_LIFETIME / 8
"""A renewal comes up to so much before RENEW_AFTER, so that what was fetched together is not renewed together."""
FIRST_RETRY: Final = timedelta(seconds=1)
"""After a failed fetch; doubled with each further one, and shortened at random by up to a half."""
LONGEST_RETRY: Final = timedelta(minutes=1)
RETRY_ON_DEMAND: Final = timedelta(seconds=2)
"""After a failed fetch of something that somebody asks for just now: who comes once a PCCS is back shall find it so."""
SOONEST_HASTE: Final = timedelta(minutes=1)
"""What was fetched less long ago is not fetched again because somebody knows of something newer."""
MAX_PENDING: Final = 64
"""Things that are waited for, and are not there."""
FORGET_AFTER: Final = timedelta(minutes=10)
"""How long what cannot be had is tried after somebody last asked for it."""
CLOSE_TIMEOUT: Final = 5.0
"""Seconds that `close` waits for a fetch that is under way."""

_LONGEST_SLEEP: Final = timedelta(minutes=1)
"""The wall clock may be set meanwhile."""
_AT_ONCE: Final = timedelta(0)

_log = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchCounters:
    """What a cache has done so far, for metrics."""

    fetches: int = 0
    """Answers, failures too."""
    failures: int = 0
    misses: int = 0
    """How often something was not there for somebody who does not wait."""
    pending: int = 0
    """Things that are waited for just now."""
    kept: int = 0
    borne: int = 0
    """Those of them that are past their hour, and used for want of an answer."""
    last_success: datetime | None = None

    def __add__(self, other: FetchCounters) -> FetchCounters:
        """Return the counters of two caches together."""
        moments = [moment for moment in (self.last_success, other.last_success) if moment]
        return FetchCounters(
            fetches=self.fetches + other.fetches,
            failures=self.failures + other.failures,
            misses=self.misses + other.misses,
            pending=self.pending + other.pending,
            kept=self.kept + other.kept,
            borne=self.borne + other.borne,
            last_success=max(moments, default=None),
        )


@dataclass(frozen=True, slots=True)
class Kept(Generic[Value]):
    """One thing that is there."""

    value: Value
    since: datetime
    """When it came."""

    def is_fresh(self, now: datetime) -> bool:
        """Whether it may be used. A clock that was set back makes it old as well."""
        # A difference cannot overflow as a date in the year 9999 plus a lifetime would.
        return -COLLATERAL_LIFETIME < now - self.since < COLLATERAL_LIFETIME

    def is_bearable(self, now: datetime) -> bool:
        """Whether it may be used while nobody answers."""
        return -COLLATERAL_LIFETIME < now - self.since < OUTAGE


@dataclass(slots=True)
class _Entry(Generic[Value]):
    """One thing, there or waited for."""

    fetch: Callable[[], Value]
    asked: datetime
    """When somebody last wanted it."""
    kept: Kept[Value] | None = None
    tried: datetime | None = None
    """When it was last fetched, or tried to; None where that should happen at once."""
    wait: timedelta = _AT_ONCE
    """How long after that the next fetch is due."""
    failures: int = 0
    """In a row."""
    failure: EAAError | None = None
    pinned: bool = False
    """Whether it is renewed and tried for as long as the process lives."""
    borne: bool = False
    """Whether it was said that it is used for want of an answer."""

    def usable(self, now: datetime) -> Kept[Value] | None:
        """Return what may be used: what is fresh, or bearable where the last attempt to renew it found nobody."""
        kept = self.kept
        if kept is None or kept.is_fresh(now):
            return kept
        return kept if isinstance(self.failure, Unanswered) and kept.is_bearable(now) else None

    def is_wanted(self, now: datetime) -> bool:
        """Whether the thread goes on with it: what was not used since it came is not renewed."""
        if self.pinned or self.tried is None:
            return True
        if self.kept is None:
            return now - self.asked < FORGET_AFTER
        return self.asked > self.kept.since and now - self.asked < COLLATERAL_LIFETIME

    def due_in(self, now: datetime) -> timedelta:
        """Return how long until the next fetch."""
        return _AT_ONCE if self.tried is None else self.wait - abs(now - self.tried)


@dataclass(slots=True)
class _Flight(Generic[Value]):
    """A fetch that is under way."""

    answer: Future[Value] | None = None
    """Made by the first who waits for it: most often nobody does."""


class FetchCache(Generic[Key, Value]):
    """Values by key, each fetched by a function that may take long and raise EAAError. Thread-safe."""

    def __init__(
        self,
        *,
        what: Callable[[Key], str],
        maximum: int,
        clock: Callable[[], datetime],
        vet: Callable[[Value], object] = lambda _: None,
        replaced: Callable[[Value], object] = lambda _: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Make an empty one.

        Args:
            what: names one thing, for people.
            maximum: how many are kept; the oldest makes room.
            clock: the present, an aware datetime.
            vet: raises EAAError for a value that the thread shall not take in place of what there is.
            replaced: is told a value in whose place another one has come.
            jitter: from 0 up to 1.
        """
        self._what = what
        self._maximum = maximum
        self._clock = clock
        self._vet = vet
        self._replaced = replaced
        self._jitter = jitter
        self._entries: dict[Key, _Entry[Value]] = {}
        self._flights: dict[Key, _Flight[Value]] = {}
        self._guard = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._fetches = self._failures = self._misses = 0
        self._last_success: datetime | None = None
        # Nobody who forgets to close it keeps a thread.
        weakref.finalize(self, self._wake.set).atexit = False

    @property
    def counters(self) -> FetchCounters:
        """What was done so far."""
        now = self._clock()
        with self._guard:
            there = sum(entry.kept is not None for entry in self._entries.values())
            return FetchCounters(
                fetches=self._fetches,
                failures=self._failures,
                misses=self._misses,
                pending=len(self._entries) - there,
                kept=there,
                borne=sum(entry.borne and entry.usable(now) is not None for entry in self._entries.values()),
                last_success=self._last_success,
            )

    def values(self) -> list[Value]:
        """Return all that is there, whether it is still fresh or not."""
        with self._guard:
            return [entry.kept.value for entry in self._entries.values() if entry.kept is not None]

    # --- asking

    def find(self, key: Key, now: datetime) -> Kept[Value] | None:
        """Return what is there and may be used, or None. Waits for nothing, not even for a lock."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        kept = entry.usable(now)
        if kept is not None:
            entry.asked = now
        return kept

    def get(self, key: Key, fetch: Callable[[], Value]) -> Value:
        """Return what there is, or fetch it. Whoever asks meanwhile is given the same answer.

        Raises:
            EAAError: what `fetch` raised, for this caller or for the one that was waited for.
        """
        with self._guard:
            now = self._clock()
            found = self.find(key, now)
            if found is not None and not self._is_overdue(key, found, now):
                return found.value
            flight = self._flights.get(key)
            leads = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight()
            elif flight.answer is None:
                flight.answer = Future()
        try:
            if leads:
                return self._fly(key, fetch, flight)
            assert flight.answer is not None
            return flight.answer.result()
        except Unanswered:
            found = self.find(key, self._clock())
            if found is None:
                raise
            return found.value

    def _is_overdue(self, key: Key, found: Kept[Value], now: datetime) -> bool:
        """Whether what is only borne has to be tried again by who asks, because there is no thread that does."""
        return not found.is_fresh(now) and self._thread is None and self._entries[key].due_in(now) <= _AT_ONCE

    def get_now(self, key: Key, fetch: Callable[[], Value]) -> Value:
        """Return what there is; have what is missing fetched.

        Raises:
            Unavailable: COLLATERAL_PENDING; OVERLOADED where too much is waited for already.
        """
        found = self.find(key, self._clock())
        if found is not None:
            return found.value
        with self._guard:
            entry = self._want(key, fetch)
            entry.wait = min(entry.wait, RETRY_ON_DEMAND)
            self._misses += 1
        self._wake_up()
        raise self._pending(key, entry.failure)

    def prefetch(self, key: Key, fetch: Callable[[], Value], *, pinned: bool = False) -> None:
        """Have it fetched if it is not there. With `pinned`, it stays and is renewed for ever.

        Raises:
            Unavailable: OVERLOADED, where more would be pinned than are kept, or too much is waited for already.
        """
        with self._guard:
            self._want(key, fetch, pinned=pinned)
        self._wake_up()

    def hasten(self, key: Key) -> None:
        """Renew it soon, where a thread renews anything at all: somebody has seen something newer, or doubts it."""
        with self._guard:
            entry, now = self._entries.get(key), self._clock()
            if self._thread is None or entry is None or entry.tried is None or entry.failures:
                return
            if abs(now - entry.tried) < SOONEST_HASTE:
                return
            entry.wait = _AT_ONCE
        self._wake.set()

    def forget(self, key: Key) -> None:
        """Drop a value that turned out to be bad."""
        with self._guard:
            entry = self._entries.pop(key, None)
            if entry is not None and entry.pinned:
                self._entries[key] = _Entry(fetch=entry.fetch, asked=entry.asked, pinned=True)
        self._wake.set()

    def failure(self, key: Key) -> EAAError | None:
        """Return why the last attempt at this failed; None where it did not, or there was none."""
        entry = self._entries.get(key)
        return None if entry is None else entry.failure

    @property
    def renews(self) -> bool:
        """Whether there is a thread that renews what is kept."""
        return self._thread is not None

    # --- the thread

    def start(self) -> None:
        """Start the thread, if it does not run."""
        with self._guard:
            # After a fork the thread is the parent's.
            if self._closed or (self._thread is not None and self._thread.is_alive()):
                return
            arguments = (weakref.ref(self), self._wake)
            self._thread = threading.Thread(target=_keep_fetching, args=arguments, name="collateral", daemon=True)
            self._thread.start()

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Fetch nothing any more on the thread, and wait for it to end, for so many seconds at most."""
        self._closed = True
        self._wake.set()
        with self._guard:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(timeout)

    def fetch_due(self) -> timedelta | None:
        """Fetch what is due, one after the other, what was never tried first.

        Returns:
            How long until the next is due; None where nothing will be.
        """
        while (due := self._next_due()) is not None and not self._closed:
            self._attempt(*due)
        now = self._clock()
        with self._guard:
            waits = [
                entry.due_in(now)
                for key, entry in self._entries.items()
                if key not in self._flights and entry.is_wanted(now)
            ]
        return max(_AT_ONCE, min(waits)) if waits else None

    def _next_due(self) -> tuple[Key, _Entry[Value], _Flight[Value]] | None:
        now = self._clock()
        with self._guard:
            self._drop_unwanted(now)
            due = [
                (entry.tried is not None, entry.due_in(now), key)
                for key, entry in self._entries.items()
                if key not in self._flights and entry.is_wanted(now) and entry.due_in(now) <= _AT_ONCE
            ]
            if not due:
                return None
            key = min(due, key=lambda item: item[:2])[2]
            flight = self._flights[key] = _Flight()
            return key, self._entries[key], flight

    def _attempt(self, key: Key, entry: _Entry[Value], flight: _Flight[Value]) -> None:
        def fetch() -> Value:
            value = entry.fetch()
            self._vet(value)
            return value

        failed_before = entry.failures
        try:
            self._fly(key, fetch, flight)
        except EAAError as error:
            level = logging.INFO if failed_before else logging.WARNING
            failed = {"event": "collateral.fetch_failed"}
            _log.log(level, "%s: %s [%s]", self._what(key), error.message, error.reason, extra=failed)
        except Exception:  # noqa: BLE001  logged, and the next thing is fetched
            # Our bug, and no reason to leave everybody waiting.
            _log.exception("%s could not be fetched", self._what(key))
        else:
            after = f" after {failed_before} failures" if failed_before else ""
            _log.info("%s is here%s", self._what(key), after, extra={"event": "collateral.fetched"})

    # --- inside

    def _fly(self, key: Key, fetch: Callable[[], Value], flight: _Flight[Value]) -> Value:
        try:
            value = fetch()
        except BaseException as error:
            self._note_failure(key, error)
            self._land(key)
            if flight.answer is not None:
                flight.answer.set_exception(error)
            raise
        old = self._store(key, value, fetch)
        self._land(key)
        # Since it has landed, nobody waits for it anew.
        if flight.answer is not None:
            flight.answer.set_result(value)
        if old is not None and old.value != value:
            self._replaced(old.value)
        return value

    def _land(self, key: Key) -> None:
        with self._guard:
            self._flights.pop(key, None)

    def _store(self, key: Key, value: Value, fetch: Callable[[], Value]) -> Kept[Value] | None:
        """Keep a value; return the one in whose place it comes."""
        now = self._clock()
        with self._guard:
            self._fetches += 1
            self._last_success = now
            entry = self._entries.get(key)
            if entry is None:
                self._make_room()
                entry = self._entries[key] = _Entry(fetch=fetch, asked=now)
            old, entry.kept = entry.kept, Kept(value, now)
            entry.tried = now
            entry.wait = RENEW_AFTER - RENEWALS_SPREAD * self._jitter()
            entry.failures, entry.failure, entry.borne = 0, None, False
        return old

    def _note_failure(self, key: Key, error: BaseException) -> None:
        now = self._clock()
        with self._guard:
            self._fetches += 1
            self._failures += 1
            entry = self._entries.get(key)
            if entry is None:
                return
            wait = FIRST_RETRY * 2 ** min(entry.failures, 16)
            entry.failures += 1
            entry.failure = error if isinstance(error, EAAError) else EAAError(Reason.INTERNAL, f"it failed: {error!r}")
            entry.tried, entry.wait = now, min(wait, LONGEST_RETRY) * (1 - self._jitter() / 2)
            kept = entry.usable(now)
            begins = kept is not None and not kept.is_fresh(now) and not entry.borne
            entry.borne = entry.borne or begins
        if begins and kept is not None:
            _log.warning(
                "%s of %s is used on, until %s at most, because nobody answers who could renew it: %s [%s]",
                self._what(key),
                _said(kept.since),
                _said(kept.since + OUTAGE),
                entry.failure and entry.failure.message,
                entry.failure and entry.failure.reason,
                extra={"event": "collateral.used_on"},
            )

    def _want(self, key: Key, fetch: Callable[[], Value], *, pinned: bool = False) -> _Entry[Value]:
        entry, now = self._entries.get(key), self._clock()
        if pinned and not (entry and entry.pinned):
            self._make_room_for_pinned()
        elif entry is None:
            self._make_room_for_pending()
        if entry is None:
            entry = self._entries[key] = _Entry(fetch=fetch, asked=now)
        entry.asked, entry.pinned = now, entry.pinned or pinned
        return entry

    def _make_room(self) -> None:
        there = [(entry.pinned, entry.kept.since, key) for key, entry in self._entries.items() if entry.kept]
        if len(there) >= self._maximum:
            del self._entries[min(there, key=lambda item: item[:2])[2]]

    def _make_room_for_pinned(self) -> None:
        """Raise Unavailable (OVERLOADED) where there is none: what an operator named takes no stranger's place."""
        pinned = sum(entry.pinned for entry in self._entries.values())
        if pinned >= self._maximum:
            raise Unavailable(
                Reason.OVERLOADED, f"{pinned} platforms are fetched for ahead of time, and no more can be kept"
            )

    def _make_room_for_pending(self) -> None:
        """Let what could not be had make room for what may be. Raises Unavailable (OVERLOADED)."""
        entries = self._entries.items()
        waiting = {key: entry.failures for key, entry in entries if entry.kept is None and not entry.pinned}
        if len(waiting) < MAX_PENDING:
            return
        key = max(waiting, key=lambda key: waiting[key])
        if not waiting[key]:
            raise Unavailable(
                Reason.OVERLOADED,
                f"{len(waiting)} platforms wait for their collateral",
                hint="try again later; the PCCS answers more slowly than it is asked",
            )
        del self._entries[key]

    def _drop_unwanted(self, now: datetime) -> None:
        self._entries = {
            key: entry
            for key, entry in self._entries.items()
            if entry.is_wanted(now) or entry.usable(now) is not None or key in self._flights
        }

    def _wake_up(self) -> None:
        self.start()
        self._wake.set()

    def _pending(self, key: Key, failure: EAAError | None) -> Unavailable:
        if failure is None:
            return Unavailable(
                Reason.COLLATERAL_PENDING,
                f"{self._what(key)} is not here yet, and is being fetched",
                hint="try again in a moment; nobody's handshake waits for a network",
            )
        return Unavailable(
            Reason.COLLATERAL_PENDING,
            f"{self._what(key)} could not be had so far: {failure.message} [{failure.reason}]",
            hint=f"{failure.hint + '; ' if failure.hint else ''}it is fetched again by itself, then try again",
        )


def _said(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _keep_fetching(cache: weakref.ref[FetchCache[Key, Value]], wake: threading.Event) -> None:
    """Fetch what is due until the cache is closed or gone."""
    while True:
        wake.clear()
        target = cache()
        if target is None or target._closed:  # noqa: SLF001  one module
            return
        wait = target.fetch_due()
        # While it sleeps it keeps nothing alive.
        del target
        wake.wait(_LONGEST_SLEEP.total_seconds() if wait is None else min(wait, _LONGEST_SLEEP).total_seconds())
