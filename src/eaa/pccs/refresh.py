"""Renewing what is stored before it is over: on a schedule, and ahead of time when somebody reads it.

A schedule is an interval (`24h`, `30m`, `1d`) or a cron expression of five fields, or six with seconds first, in UTC:
`0 0 1 * * *` is one o'clock every night, the reference's own.
"""

from __future__ import annotations

import logging
import random
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from eaa.errors import Misuse, Reason
from eaa.pccs.filling import Filler
from eaa.pccs.misses import Fetch
from eaa.pccs.wire import Refusal

MIN_INTERVAL: Final = timedelta(minutes=1)
MAX_INTERVAL: Final = timedelta(days=30)
MAX_EXPRESSION: Final = 200
"""Characters."""
RENEWERS: Final = 2
"""Threads that renew documents ahead of time."""
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}
_INTERVAL: Final = re.compile(r"([1-9][0-9]{0,4})([mhd])")
_FIELDS: Final = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
"""From and to, of seconds, minutes, hours, days, months and weekdays."""
_PART: Final = re.compile(r"(?:\*|(\d{1,2})(?:-(\d{1,2}))?)(?:/(\d{1,2}))?")
_HORIZON: Final = timedelta(days=366 * 5)
_SETTLE: Final = timedelta(minutes=10)
"""How long a process that refreshes keeps others on the same database from doing the same."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When to refresh."""

    every: timedelta | None = None
    cron: tuple[frozenset[int], ...] = ()
    """Of seconds, minutes, hours, days, months and weekdays (0 is Sunday), those that fit."""
    any_day: bool = True
    """Whether the expression says `*` for days or for weekdays: then both have to fit, and otherwise one."""

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read an interval or a cron expression. Raises Misuse (USAGE)."""
        text = text.strip()
        match = _INTERVAL.fullmatch(text)
        if match is not None:
            every = timedelta(**{_UNITS[match[2]]: int(match[1])})
            if not MIN_INTERVAL <= every <= MAX_INTERVAL:
                raise _invalid(text)
            return cls(every=every)
        fields = text[:MAX_EXPRESSION].split()
        if len(fields) == len(_FIELDS) - 1:
            fields = ["0", *fields]
        if len(fields) != len(_FIELDS):
            raise _invalid(text)
        cron = [_field(field, low, high, text) for field, (low, high) in zip(fields, _FIELDS, strict=True)]
        cron[5] = frozenset(day % 7 for day in cron[5])
        schedule = cls(cron=tuple(cron), any_day="*" in (fields[3], fields[5]))
        schedule.next_after(datetime(2024, 1, 1, tzinfo=UTC), expression=text)
        return schedule

    def next_after(self, now: datetime, *, expression: str = "") -> datetime:
        """Return the first moment after `now` that fits. Raises Misuse (USAGE) where there is none for years."""
        if self.every is not None:
            return now + self.every
        seconds, minutes, hours, _, _, _ = self.cron
        moment = (now + timedelta(seconds=1)).replace(microsecond=0)
        end = now + _HORIZON
        while moment < end:
            if not self._fits_day(moment):
                moment = (moment + timedelta(days=1)).replace(hour=0, minute=0, second=0)
            elif moment.hour not in hours:
                moment = (moment + timedelta(hours=1)).replace(minute=0, second=0)
            elif moment.minute not in minutes:
                moment = (moment + timedelta(minutes=1)).replace(second=0)
            elif moment.second not in seconds:
                moment += timedelta(seconds=1)
            else:
                return moment
        raise _invalid(expression)

    def _fits_day(self, moment: datetime) -> bool:
        _, _, _, days, months, weekdays = self.cron
        fits = (moment.day in days, (moment.weekday() + 1) % 7 in weekdays)
        return moment.month in months and (all(fits) if self.any_day else any(fits))


def _field(text: str, low: int, high: int, expression: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise _invalid(expression)
        step = int(match[3] or 1)
        first = low if match[1] is None else int(match[1])
        last = int(match[2]) if match[2] else (high if match[1] is None or match[3] else first)
        if not low <= first <= last <= high or step < 1:
            raise _invalid(expression)
        found.update(range(first, last + 1, step))
    return frozenset(found)


def _invalid(text: str) -> Misuse:
    return Misuse(
        Reason.USAGE,
        f"{text[:MAX_EXPRESSION]!r} is no schedule",
        hint="an interval from 1m to 30d (24h), or a cron expression in UTC of five fields, or six with seconds first",
    )


class Refresher:
    """A thread that refreshes the store on a schedule until it is closed; whoever reads waits for none of it."""

    def __init__(
        self, filler: Filler, *, schedule: Schedule, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """Start it. An interval is kept give or take a tenth: not all caches at once."""
        self._filler = filler
        self._schedule = schedule
        self._clock = clock
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="refresh", daemon=True).start()

    def close(self) -> None:
        """Begin no other refresh."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self._pause()):
            try:
                # Of several processes on one database, the first one does it.
                if self._filler.takes_turn("scheduled refresh", length=_SETTLE):
                    failures = self._filler.refresh()
                    _log.log(logging.WARNING if failures else logging.INFO, "refreshed, but for %d documents", failures)
            except Exception:  # noqa: BLE001  the next one may do better, and operators read of this one
                _log.exception("the refresh failed")

    def _pause(self) -> float:
        now = self._clock()
        seconds = (self._schedule.next_after(now) - now).total_seconds()
        spread = random.uniform(0.9, 1.1) if self._schedule.every else 1.0  # noqa: S311  spreads load
        return seconds * spread


class Renewals:
    """Fetches ahead of time what readers were given and will soon be over; no reader waits. Thread-safe."""

    def __init__(self, filler: Filler) -> None:
        """Fetch with this filler, a few documents at once."""
        self._filler = filler
        self._pool = ThreadPoolExecutor(max_workers=RENEWERS, thread_name_prefix="fetch-ahead")
        self._in_progress: set[str] = set()
        self._lock = threading.Lock()

    def offer(self, fetch: Fetch) -> None:
        """Begin to renew a document, unless that is going on."""
        with self._lock:
            if fetch.name in self._in_progress:
                return
            self._in_progress.add(fetch.name)
        try:
            self._pool.submit(self._renew, fetch)
        except RuntimeError:
            # The service is being stopped.
            self._done(fetch)

    def _renew(self, fetch: Fetch) -> None:
        try:
            self._filler.observed(fetch.name, lambda: self._filler.once(fetch.name, fetch.work))
            _log.info("renewed ahead of time: %s", fetch.name.partition("/")[0])
        except Refusal as refusal:
            _log.warning("not renewed, and still served: %s", refusal.cause)
        except Exception:  # noqa: BLE001  nobody waits for it who could be told
            _log.exception("a renewal failed")
        finally:
            self._done(fetch)

    def _done(self, fetch: Fetch) -> None:
        with self._lock:
            self._in_progress.discard(fetch.name)

    def close(self) -> None:
        """Begin no other renewal."""
        self._pool.shutdown(wait=False, cancel_futures=True)
