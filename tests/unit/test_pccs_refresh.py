"""When to refresh: intervals, and cron expressions as the reference takes them."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from eaa.errors import Misuse, Reason
from eaa.pccs.filling import Filler
from eaa.pccs.misses import Fetch
from eaa.pccs.refresh import Refresher, Renewals, Schedule

MONDAY = datetime(2026, 11, 23, 12, 34, 56, 789, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90m", "2026-11-23 14:04:56"),
        ("24h", "2026-11-24 12:34:56"),
        ("7d", "2026-11-30 12:34:56"),
        ("0 0 1 * * *", "2026-11-24 01:00:00"),
        ("0 1 * * *", "2026-11-24 01:00:00"),
        ("*/15 * * * *", "2026-11-23 12:45:00"),
        ("59 * * * * *", "2026-11-23 12:34:59"),
        ("0 30 12 * * *", "2026-11-24 12:30:00"),
        ("0 0 0 29 2 *", "2028-02-29 00:00:00"),
        ("0 0 3 * * 1-5", "2026-11-24 03:00:00"),
        ("0 0 3 * * 7", "2026-11-29 03:00:00"),
        ("0 0 3 1,15 * *", "2026-12-01 03:00:00"),
        # Where both are given, either day will do, as everywhere with cron.
        ("0 0 3 13 * 5", "2026-11-27 03:00:00"),
        ("0 0 12,13 23 11 *", "2026-11-23 13:00:00"),
    ],
)
def test_the_next_moment(text: str, expected: str) -> None:
    moment = Schedule.parse(text).next_after(MONDAY)
    assert moment.replace(microsecond=0) == datetime.fromisoformat(f"{expected}+00:00")
    assert moment > MONDAY


@pytest.mark.parametrize(
    "text",
    [
        *("", "0h", "31d", "1s", "24", "h", "-1h", "1h 2h", "* * * *", "* * * * * * *", "60 * * * *", "* 24 * * *"),
        *(
            "* * 0 * *",
            "* * 32 * *",
            "* * * 13 *",
            "* * * * 8",
            "5-1 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "1- * * * *",
        ),
        # A day that never comes.
        *("0 0 30 2 *", "* " * 5 + "*" * 300),
    ],
)
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(Misuse) as refused:
        Schedule.parse(text)
    assert refused.value.reason is Reason.USAGE


class Countdown:
    """In place of a filler: counts, and fails at first."""

    def __init__(self, *, turns: list[bool]) -> None:
        self.turns = turns
        self.refreshed = threading.Semaphore(0)
        self.count = 0

    def takes_turn(self, _name: str, *, length: timedelta) -> bool:
        assert length > timedelta(0)
        return self.turns.pop(0) if self.turns else True

    def refresh(self) -> int:
        self.count += 1
        self.refreshed.release()
        if self.count == 1:
            raise RuntimeError("the first one fails")
        return 0

    def once(self, _name: str, work: Any) -> Any:
        return work()


def test_a_refresh_that_fails_is_followed_by_the_next_and_another_s_turn_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    filler = Countdown(turns=[False, True, True])
    schedule = Schedule(every=timedelta(milliseconds=5))
    refresher = Refresher(cast("Filler", filler), schedule=schedule)
    assert filler.refreshed.acquire(timeout=60)
    assert filler.refreshed.acquire(timeout=60)
    refresher.close()
    assert "the refresh failed" in caplog.text
    assert filler.turns == []


def test_renewals_that_are_over_begin_nothing() -> None:
    renewals = Renewals(cast("Filler", Countdown(turns=[])))
    renewals.close()
    renewals.offer(Fetch(name="tcb", work=lambda: pytest.fail("nothing is fetched any more")))
