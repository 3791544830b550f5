"""Work that many want at once is done once: in this process, and among all that share one database."""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from eaa.pccs.store import Store
from eaa.pccs.tables import MAX_LEASE
from eaa.pccs.wire import Refusal, Status

MAX_WAIT: Final = 120.0
"""Seconds that a client waits for a fetch which another one began."""
LEASE: Final = timedelta(seconds=15)
"""How long others wait for a process that has begun a fetch and may be gone."""
RENEW_LEASE: Final = 4.0
"""Seconds after which a process that still fetches says so."""
NEGATIVE: Final = 5.0
"""Seconds for which the upstream is not asked again for what it has not."""
MAX_NEGATIVE: Final = 10_000
"""Names that are remembered as missing upstream."""
_FIRST_LOOK: Final = 0.02
_LAST_LOOK: Final = 0.25
_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(slots=True)
class Flights:
    """Work in progress by what it is for: whoever asks for the same waits for it and shares its outcome."""

    _futures: dict[str, Future[Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, name: str, work: Callable[[], T]) -> T:
        """Return what `work` returns, or raise what it raises, done once for all who ask at the time.

        Raises:
            Refusal: 502, whoever does it has taken too long.
        """
        with self._lock:
            future = self._futures.get(name)
            is_first = future is None
            if future is None:
                future = self._futures[name] = Future()
        if not is_first:
            shared: T = _outcome(future)
            return shared
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._futures[name]
        done: T = future.result()
        return done


def _outcome(future: Future[T]) -> T:
    try:
        return future.result(timeout=MAX_WAIT)
    except TimeoutError as error:
        raise Refusal(Status.BAD_GATEWAY, f"the upstream has taken longer than {MAX_WAIT:.0f} s") from error


class SharedFlights:
    """The same among all processes on one database, by leases in it. Thread-safe."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], datetime],
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Take leases from this store."""
        self._store = store
        self._clock = clock
        self._sleep = sleep
        self._flights = Flights()
        self._owner = secrets.token_hex(16)

    def run(self, name: str, work: Callable[[], T]) -> T:
        """Return what `work` returns, done once at a time; whoever had to wait for another process does it after that.

        So `work` has to look again whether there is anything left to do.
        """
        return self._flights.run(name, lambda: self._leased(name, work))

    def _leased(self, name: str, work: Callable[[], T]) -> T:
        if len(name) > MAX_LEASE:
            name = hashlib.sha256(name.encode()).hexdigest()
        self._wait_for(name)
        done = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(name, done), name="lease", daemon=True)
        renewing.start()
        try:
            return work()
        finally:
            done.set()
            renewing.join()
            self._store.release(name, self._owner)

    def _renew(self, name: str, done: threading.Event) -> None:
        """Keep a lease for as long as its work lasts: a slow upstream is no reason to ask it twice."""
        while not done.wait(RENEW_LEASE):
            try:
                self.take(name, length=LEASE)
            except SQLAlchemyError as error:
                _log.warning("a fetch that lasts may be repeated: %s", getattr(error, "orig", error))

    def _wait_for(self, name: str) -> None:
        deadline = time.monotonic() + MAX_WAIT
        pause = _FIRST_LOOK
        while not self.take(name, length=LEASE):
            while self._store.is_leased(name, now=self._clock()):
                if time.monotonic() > deadline:
                    return
                self._sleep(pause)
                pause = min(pause * 1.5, _LAST_LOOK)

    def take(self, name: str, *, length: timedelta) -> bool:
        """Take a piece of work for so long; False where another process has it."""
        now = self._clock()
        return self._store.lease(name, self._owner, now=now, until=now + length)


@dataclass(slots=True)
class Missing:
    """What the upstream had not when it was asked a moment ago. Thread-safe."""

    _until: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str) -> None:
        """Remember it for a while."""
        with self._lock:
            if len(self._until) >= MAX_NEGATIVE:
                self._until.clear()
            self._until[name] = time.monotonic() + NEGATIVE

    def __contains__(self, name: str) -> bool:
        """Whether it was missing a moment ago."""
        with self._lock:
            until = self._until.get(name)
            if until is not None and time.monotonic() >= until:
                del self._until[name]
                until = None
            return until is not None
