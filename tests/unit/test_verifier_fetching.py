"""What is fetched: once for all who wait, later and later after failures, ahead of its end, and within bounds.

The clock is the test's. `fetch_due` is what the thread does; where a test is about the thread, it waits for events.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from eaa.errors import Misuse, Reason, Unanswered, Unavailable
from eaa.verifier import fetching
from eaa.verifier.fetching import (
    COLLATERAL_LIFETIME,
    FIRST_RETRY,
    FORGET_AFTER,
    LONGEST_RETRY,
    MAX_PENDING,
    OUTAGE,
    RENEW_AFTER,
    RENEWALS_SPREAD,
    RETRY_ON_DEMAND,
    SOONEST_HASTE,
    FetchCache,
    FetchCounters,
)

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MOMENT = timedelta(microseconds=1)
DOWN = Unavailable(Reason.PCCS_UNREACHABLE, "no answer", hint="start it")
PATIENCE = 30.0


@dataclass
class Clock:
    """A clock that a test sets."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> None:
        self.now += by


@dataclass
class Source:
    """Something to fetch from, which counts, fails and waits as it is told."""

    failure: BaseException | None = None
    asked: list[str] = field(default_factory=list)
    entered: threading.Event = field(default_factory=threading.Event)
    may_answer: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()

    def fetch(self, key: str = "a") -> str:
        self.asked.append(key)
        self.entered.set()
        assert self.may_answer.wait(PATIENCE)
        if self.failure is not None:
            raise self.failure
        return f"{key}{len(self.asked)}"

    def of(self, key: str) -> Callable[[], str]:
        return lambda: self.fetch(key)


@dataclass
class World:
    """A cache whose thread never runs: what it would do happens in `fetch_due`."""

    clock: Clock
    source: Source
    cache: FetchCache[str, str]
    replaced: list[str]
    vetted: list[str]
    unfit: set[str]

    def get_now(self, key: str = "a") -> str:
        return self.cache.get_now(key, self.source.of(key))

    def refused(self, key: str = "a") -> Unavailable:
        with pytest.raises(Unavailable) as caught:
            self.get_now(key)
        return caught.value


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A cache without a thread, and without chance."""
    made = make_world()
    monkeypatch.setattr(made.cache, "start", lambda: None)
    return made


def make_world(*, jitter: float = 0.0, maximum: int = 8) -> World:
    clock, source = Clock(), Source()
    replaced: list[str] = []
    vetted: list[str] = []
    unfit: set[str] = set()

    def vet(value: str) -> None:
        vetted.append(value)
        if value in unfit:
            raise Misuse(Reason.USAGE, f"{value} is unfit")

    cache: FetchCache[str, str] = FetchCache(
        what=lambda key: f"thing {key}",
        maximum=maximum,
        clock=clock,
        vet=vet,
        replaced=replaced.append,
        jitter=lambda: jitter,
    )
    return World(clock, source, cache, replaced, vetted, unfit)


# --- whoever waits


def test_what_was_fetched_is_kept_for_its_lifetime(world: World) -> None:
    for ago, value in ((timedelta(0), "a1"), (COLLATERAL_LIFETIME - MOMENT, "a1"), (COLLATERAL_LIFETIME, "a2")):
        world.clock.now = NOW + ago
        assert world.cache.get("a", world.source.fetch) == value


def test_a_clock_that_was_set_back_makes_it_old(world: World) -> None:
    """Or what was fetched in a wrong future would be good until then."""
    world.cache.get("a", world.source.fetch)
    world.clock.advance(-COLLATERAL_LIFETIME)
    assert world.cache.get("a", world.source.fetch) == "a2"


def test_a_failure_is_not_kept(world: World) -> None:
    world.source.failure = DOWN
    for _ in range(2):
        with pytest.raises(Unavailable):
            world.cache.get("a", world.source.fetch)
    assert len(world.source.asked) == 2
    world.source.failure = None
    assert world.cache.get("a", world.source.fetch) == "a3"


@pytest.mark.parametrize("failure", [None, DOWN, ValueError("our bug")])
def test_one_answer_is_given_to_all_who_waited_for_it(world: World, failure: Exception | None) -> None:
    """A failure too: a crowd that waits for one model does not knock at a dead PCCS one after the other."""
    world.source.failure = failure
    world.source.may_answer.clear()
    answers: list[object] = []

    def ask() -> None:
        try:
            answers.append(world.cache.get("a", world.source.fetch))
        except Exception as error:  # noqa: BLE001  compared below
            answers.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    flight = world.cache._flights["a"] if world.source.entered.wait(PATIENCE) else None
    assert flight is not None
    wait_until(lambda: flight.answer is not None and len(flight.answer._condition._waiters) == 7)  # type: ignore[attr-defined]
    world.source.may_answer.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert world.source.asked == ["a"]
    assert answers == [failure or "a1"] * 8


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that nothing announces."""
    pause = threading.Event()
    for _ in range(int(PATIENCE * 200)):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it never came about")


def test_two_things_are_fetched_side_by_side(world: World) -> None:
    """Waiting for one platform model holds up no other."""
    world.source.may_answer.clear()
    thread = threading.Thread(target=world.cache.get, args=("a", world.source.of("a")))
    thread.start()
    assert world.source.entered.wait(PATIENCE)
    assert world.cache.get("b", lambda: "at once") == "at once"
    world.source.may_answer.set()
    thread.join(PATIENCE)


def test_without_anybody_in_a_hurry_there_is_no_thread() -> None:
    made = make_world()
    made.cache.get("a", made.source.fetch)
    made.clock.advance(RENEW_AFTER)
    made.cache.get("a", made.source.fetch)
    assert not made.cache.renews
    assert made.source.asked == ["a"]


# --- whoever does not wait


def test_what_is_not_here_is_refused_and_fetched_once(world: World) -> None:
    for _ in range(5):
        refusal = world.refused()
        assert (refusal.reason, refusal.exit_code) == (Reason.COLLATERAL_PENDING, 4)
        assert "try again" in (refusal.hint or "")
    assert world.source.asked == []
    world.cache.fetch_due()
    assert world.source.asked == ["a"]
    assert world.get_now() == "a1"


def test_after_a_failure_it_is_tried_again_later_and_later(world: World) -> None:
    world.source.failure = DOWN
    world.cache.prefetch("a", world.source.of("a"), pinned=True)
    waits = []
    for _ in range(9):
        wait = world.cache.fetch_due()
        assert wait is not None
        waits.append(wait)
        world.clock.advance(wait - MOMENT)
        asked = len(world.source.asked)
        world.cache.fetch_due()
        assert len(world.source.asked) == asked, "not before its time"
        world.clock.advance(MOMENT)
    assert waits == [min(FIRST_RETRY * 2**number, LONGEST_RETRY) for number in range(9)]
    world.source.failure = None
    world.cache.fetch_due()
    assert world.get_now() == "a10"


def test_whoever_asks_has_it_tried_soon_but_strangers_cannot_have_it_tried_at_once(world: World) -> None:
    """Who comes when the source is back does not wait for the end of a long pause."""
    world.source.failure = DOWN
    world.cache.prefetch("a", world.source.of("a"), pinned=True)
    for _ in range(9):
        world.clock.advance(world.cache.fetch_due() or SECOND)
    world.cache.fetch_due()
    asked = len(world.source.asked)
    for _ in range(50):
        world.refused()
        world.cache.fetch_due()
    assert len(world.source.asked) == asked
    world.source.failure = None
    world.clock.advance(RETRY_ON_DEMAND)
    world.cache.fetch_due()
    assert world.get_now().startswith("a")


def test_whoever_is_refused_after_a_failure_is_told_what_failed(world: World) -> None:
    world.source.failure = DOWN
    world.refused()
    world.cache.fetch_due()
    refusal = world.refused()
    assert refusal.reason is Reason.COLLATERAL_PENDING
    assert Reason.PCCS_UNREACHABLE in refusal.message
    assert (refusal.hint or "").startswith("start it")


def test_retries_are_spread_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_world(jitter=0.5)
    monkeypatch.setattr(made.cache, "start", lambda: None)
    made.source.failure = DOWN
    made.refused()
    assert made.cache.fetch_due() == FIRST_RETRY * 0.75


def test_what_nobody_asks_for_any_more_is_given_up(world: World) -> None:
    world.source.failure = DOWN
    world.refused()
    world.cache.fetch_due()
    world.clock.advance(FORGET_AFTER)
    assert world.cache.fetch_due() is None
    assert world.cache.counters.pending == 0
    assert world.source.asked == ["a"]


def test_what_is_pinned_is_never_given_up(world: World) -> None:
    world.source.failure = DOWN
    world.cache.prefetch("a", world.source.of("a"), pinned=True)
    for _ in range(3):
        world.cache.fetch_due()
        world.clock.advance(10 * FORGET_AFTER)
    world.source.failure = None
    world.cache.fetch_due()
    assert world.get_now() == "a4"


def test_a_bug_of_ours_stops_nothing(world: World) -> None:
    world.source.failure = ValueError("our bug")
    world.refused("a")
    world.refused("b")
    world.cache.fetch_due()
    assert world.source.asked == ["a", "b"]
    assert Reason.INTERNAL in world.refused("a").message


def test_what_is_unfit_does_not_take_the_place_of_what_is_there(world: World) -> None:
    world.refused()
    world.cache.fetch_due()
    world.clock.advance(RENEW_AFTER)
    assert world.get_now() == "a1"
    world.unfit.add("a2")
    world.cache.fetch_due()
    assert world.get_now() == "a1"
    assert world.cache.counters.failures == 1
    world.clock.advance(FIRST_RETRY)
    world.cache.fetch_due()
    assert world.get_now() == "a3"


# --- renewal


def test_what_is_in_use_is_renewed_before_its_end(world: World) -> None:
    """For hours on end, and whoever asks never meets the end of it."""
    world.refused()
    world.cache.fetch_due()
    for _ in range(600):
        world.clock.advance(timedelta(minutes=1))
        assert world.get_now().startswith("a")
        world.cache.fetch_due()
    renewals = len(world.source.asked) - 1
    assert renewals == timedelta(minutes=600) // RENEW_AFTER


def test_renewals_are_spread_so_that_a_fleet_does_not_come_at_once() -> None:
    waits = set()
    for jitter in (0.0, 0.5, 0.999):
        made = make_world(jitter=jitter)
        made.cache.start = lambda: None  # type: ignore[method-assign]
        made.refused()
        made.cache.fetch_due()
        made.clock.advance(MOMENT)
        made.get_now()
        wait = made.cache.fetch_due()
        assert wait is not None
        waits.add(wait)
        assert RENEW_AFTER - RENEWALS_SPREAD <= wait + MOMENT <= RENEW_AFTER < COLLATERAL_LIFETIME
    assert len(waits) == 3


def test_what_nobody_used_is_not_renewed_and_dropped(world: World) -> None:
    world.cache.get("a", world.source.fetch)
    world.clock.advance(RENEW_AFTER)
    assert world.cache.fetch_due() is None
    world.clock.advance(COLLATERAL_LIFETIME)
    world.cache.fetch_due()
    assert world.cache.counters.kept == 0
    assert world.source.asked == ["a"]


def test_what_is_only_prefetched_is_not_renewed_unless_it_is_used(world: World) -> None:
    world.cache.prefetch("a", world.source.of("a"))
    world.cache.fetch_due()
    world.clock.advance(COLLATERAL_LIFETIME)
    assert world.cache.fetch_due() is None
    assert world.source.asked == ["a"]


def test_what_is_pinned_is_renewed_whether_it_is_used_or_not(world: World) -> None:
    world.cache.prefetch("a", world.source.of("a"), pinned=True)
    for _ in range(4):
        world.cache.fetch_due()
        world.clock.advance(RENEW_AFTER)
    assert len(world.source.asked) == 4


def test_a_source_that_is_down_for_less_than_the_rest_of_a_lifetime_is_not_noticed(world: World) -> None:
    world.refused()
    world.cache.fetch_due()
    world.source.failure = DOWN
    while world.clock.now < NOW + COLLATERAL_LIFETIME - LONGEST_RETRY:
        world.clock.advance(timedelta(seconds=30))
        assert world.get_now() == "a1"
        world.cache.fetch_due()
    world.source.failure = None
    world.clock.advance(LONGEST_RETRY - MOMENT)
    world.cache.fetch_due()
    world.clock.advance(timedelta(seconds=30))
    assert world.get_now() != "a1"


def test_what_could_not_be_renewed_is_refused_when_it_is_over(world: World) -> None:
    """Fail closed: a revocation must arrive, or nobody is judged."""
    world.refused()
    world.cache.fetch_due()
    world.source.failure = DOWN
    world.clock.advance(COLLATERAL_LIFETIME - MOMENT)
    assert world.get_now() == "a1"
    world.cache.fetch_due()
    world.clock.advance(MOMENT)
    assert world.refused().reason is Reason.COLLATERAL_PENDING


SILENT = Unanswered(Reason.PCCS_UNREACHABLE, "no answer", hint="start it")


@pytest.mark.parametrize("waits", [False, True], ids=["now", "waiting"])
def test_what_nobody_could_renew_is_used_on_for_a_day_and_no_longer(
    world: World,
    waits: bool,  # noqa: FBT001  a row
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A revocation arrives within an hour, or within a day where nobody can be asked."""

    def ask() -> str:
        if waits:
            return world.cache.get("a", world.source.fetch)
        world.cache.fetch_due()
        return world.get_now()

    if not waits:
        world.refused()
    assert ask() == "a1"
    world.clock.advance(MOMENT)
    assert ask() == "a1"
    world.source.failure = SILENT
    for ago in (COLLATERAL_LIFETIME, 2 * COLLATERAL_LIFETIME, OUTAGE - MOMENT):
        world.clock.now = NOW + ago
        assert ask() == "a1"
        assert world.cache.counters.borne == 1
    assert sum("is used on" in line and "PCCS_UNREACHABLE" in line for line in caplog.messages) == 1
    world.clock.now = NOW + OUTAGE
    assert world.cache.counters.borne == 0
    with pytest.raises(Unavailable):
        ask()
    world.source.failure = None
    world.clock.advance(LONGEST_RETRY)
    assert ask() != "a1"


def test_an_answer_that_is_no_renewal_ends_what_was_used_on(world: World) -> None:
    world.refused()
    world.cache.fetch_due()
    world.clock.advance(MOMENT)
    assert world.get_now() == "a1"
    world.source.failure = SILENT
    world.clock.now = NOW + COLLATERAL_LIFETIME
    world.cache.fetch_due()
    assert world.get_now() == "a1"
    world.source.failure = Unavailable(Reason.COLLATERAL_NOT_FOUND, "it has none")
    world.clock.advance(LONGEST_RETRY)
    world.cache.fetch_due()
    assert world.refused().reason is Reason.COLLATERAL_PENDING


def test_who_asks_without_a_thread_asks_again_now_and_then_while_nobody_answers(world: World) -> None:
    world.cache.get("a", world.source.fetch)
    world.source.failure = SILENT
    world.clock.advance(COLLATERAL_LIFETIME)
    for _ in range(3):
        assert world.cache.get("a", world.source.fetch) == "a1"
    assert len(world.source.asked) == 2
    world.source.failure = None
    world.clock.advance(LONGEST_RETRY)
    assert world.cache.get("a", world.source.fetch) == "a3"


def test_what_is_replaced_is_told_and_what_stays_the_same_is_not(world: World) -> None:
    world.cache.get("a", world.source.fetch)
    world.clock.advance(COLLATERAL_LIFETIME)
    world.cache.get("a", lambda: "a1")
    assert world.replaced == []
    world.clock.advance(COLLATERAL_LIFETIME)
    world.cache.get("a", lambda: "other")
    assert world.replaced == ["a1"]


# --- doubts


def test_haste_renews_soon_but_not_at_every_call(world: World) -> None:
    world.cache.prefetch("a", world.source.of("a"), pinned=True)
    world.cache.fetch_due()
    world.cache._thread = threading.current_thread()
    world.clock.advance(SOONEST_HASTE - MOMENT)
    world.cache.hasten("a")
    world.cache.fetch_due()
    assert world.source.asked == ["a"]
    world.clock.advance(MOMENT)
    world.cache.hasten("a")
    world.cache.fetch_due()
    assert world.source.asked == ["a", "a"]


def test_haste_does_not_shorten_what_a_failure_earned(world: World) -> None:
    world.cache.prefetch("a", world.source.of("a"), pinned=True)
    world.cache._thread = threading.current_thread()
    world.source.failure = DOWN
    for _ in range(10):
        world.clock.advance(world.cache.fetch_due() or timedelta(0))
    asked = len(world.source.asked)
    world.clock.advance(-MOMENT)
    world.cache.hasten("a")
    world.cache.hasten("never heard of")
    world.cache.fetch_due()
    assert len(world.source.asked) == asked


@pytest.mark.parametrize("pinned", [True, False])
def test_what_was_forgotten_is_fetched_anew(world: World, *, pinned: bool) -> None:
    world.cache.prefetch("a", world.source.of("a"), pinned=pinned)
    world.cache.fetch_due()
    world.cache.forget("a")
    world.cache.forget("never heard of")
    assert world.refused().reason is Reason.COLLATERAL_PENDING
    world.cache.fetch_due()
    assert world.get_now() == "a2"
    world.clock.advance(COLLATERAL_LIFETIME)
    world.cache.fetch_due()
    assert (len(world.source.asked) == 3) is pinned, "what was pinned still is"


# --- bounds


def test_more_than_so_many_are_not_waited_for(world: World) -> None:
    for number in range(MAX_PENDING):
        assert world.refused(str(number)).reason is Reason.COLLATERAL_PENDING
    assert world.refused("one too many").reason is Reason.OVERLOADED
    assert world.refused("0").reason is Reason.COLLATERAL_PENDING
    assert world.cache.counters.pending == MAX_PENDING


def test_what_could_not_be_had_makes_room_for_what_was_never_tried(world: World) -> None:
    """Names that strangers made up do not keep a genuine platform out."""
    world.source.failure = DOWN
    for number in range(MAX_PENDING):
        world.refused(str(number))
    world.cache.fetch_due()
    world.source.failure = None
    assert world.refused("genuine").reason is Reason.COLLATERAL_PENDING
    world.cache.fetch_due()
    assert world.get_now("genuine").startswith("genuine")


def test_what_an_operator_names_takes_no_stranger_s_place_and_has_a_bound_of_its_own(world: World) -> None:
    for number in range(8):
        world.cache.prefetch(f"own {number}", world.source.of("own"), pinned=True)
    world.cache.prefetch("own 0", world.source.of("own"), pinned=True)
    with pytest.raises(Unavailable) as caught:
        world.cache.prefetch("own 8", world.source.of("own"), pinned=True)
    assert caught.value.reason is Reason.OVERLOADED
    for number in range(MAX_PENDING):
        assert world.refused(str(number)).reason is Reason.COLLATERAL_PENDING
    assert world.refused("one too many").reason is Reason.OVERLOADED


def test_what_was_never_tried_is_fetched_first(world: World) -> None:
    world.source.failure = DOWN
    world.refused("old")
    world.cache.fetch_due()
    world.clock.advance(LONGEST_RETRY)
    world.refused("new")
    world.cache.fetch_due()
    assert world.source.asked == ["old", "new", "old"]


def test_the_thread_sleeps_until_the_first_of_all_is_due(world: World) -> None:
    world.cache.prefetch("kept", world.source.of("kept"), pinned=True)
    world.cache.fetch_due()
    world.source.failure = DOWN
    world.cache.prefetch("failing", world.source.of("failing"), pinned=True)
    assert world.cache.fetch_due() == FIRST_RETRY


def test_the_log_warns_once_and_tells_when_it_is_over(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="eaa.verifier.fetching")
    world.cache.prefetch("a", world.source.of("a"), pinned=True)
    for failure in (DOWN, DOWN, ValueError("our bug"), None):
        world.source.failure = failure
        world.clock.advance(world.cache.fetch_due() or SECOND)
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [
        ("WARNING", "thing a: no answer [PCCS_UNREACHABLE]"),
        ("INFO", "thing a: no answer [PCCS_UNREACHABLE]"),
        ("ERROR", "thing a could not be fetched"),
        ("INFO", "thing a is here after 3 failures"),
    ]


def test_the_oldest_makes_room_and_what_is_pinned_is_not_it(world: World) -> None:
    world.cache.prefetch("pinned", world.source.of("pinned"), pinned=True)
    world.cache.fetch_due()
    for number in range(20):
        world.clock.advance(SECOND)
        world.cache.get(str(number), world.source.of(str(number)))
    now = world.clock.now
    assert world.cache.counters.kept == 8
    assert world.cache.find("pinned", now)
    assert [world.cache.find(str(number), now) is not None for number in (0, 12, 13, 19)] == [False, False, True, True]


# --- metrics


def test_counters_tell_what_happened(world: World) -> None:
    assert world.cache.counters == FetchCounters()
    world.refused("a")
    world.refused("b")
    world.cache.fetch_due()
    world.source.failure = DOWN
    world.clock.advance(SECOND)
    world.refused("c")
    world.refused("c")
    world.cache.fetch_due()
    assert world.cache.counters == FetchCounters(fetches=3, failures=1, misses=4, pending=1, kept=2, last_success=NOW)


def test_counters_of_two_caches_are_added() -> None:
    later = FetchCounters(fetches=2, failures=1, misses=3, pending=4, kept=5, borne=6, last_success=NOW + SECOND)
    assert FetchCounters(fetches=1, last_success=NOW) + later == FetchCounters(
        fetches=3, failures=1, misses=3, pending=4, kept=5, borne=6, last_success=NOW + SECOND
    )
    assert (FetchCounters() + FetchCounters()).last_success is None


# --- the thread


def test_the_thread_fetches_what_was_missed() -> None:
    made = make_world()
    try:
        made.refused()
        wait_until(lambda: made.cache.counters.kept == 1)
        assert made.get_now() == "a1"
    finally:
        made.cache.close()


def test_the_thread_does_what_it_is_told_at_once() -> None:
    """Not when it would have woken up by itself, a minute later."""
    made = make_world()
    try:
        made.cache.prefetch("a", made.source.of("a"), pinned=True)
        wait_until(lambda: made.cache.counters.fetches == 1)
        made.clock.advance(SOONEST_HASTE)
        made.cache.hasten("a")
        wait_until(lambda: made.cache.counters.fetches == 2)
        made.cache.forget("a")
        wait_until(lambda: made.cache.counters.fetches == 3)
        assert made.cache.find("a", made.clock.now)
    finally:
        made.cache.close()


def test_whoever_waits_joins_what_the_thread_fetches() -> None:
    made = make_world()
    made.source.may_answer.clear()
    try:
        made.refused()
        assert made.source.entered.wait(PATIENCE)
        answers: list[str] = []
        waiting = threading.Thread(target=lambda: answers.append(made.cache.get("a", lambda: "another")))
        waiting.start()
        made.source.may_answer.set()
        waiting.join(PATIENCE)
        assert answers == ["a1"]
    finally:
        made.cache.close()


def test_the_thread_goes_on_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FIRST_RETRY", MOMENT)
    made = make_world()
    made.source.failure = DOWN
    try:
        made.refused()
        wait_until(lambda: made.cache.counters.failures > 0)
        made.source.failure = None
        made.clock.advance(LONGEST_RETRY)
        made.refused("b")
        wait_until(lambda: made.cache.counters.kept == 2)
    finally:
        made.cache.close()


def test_closing_ends_the_thread_and_nothing_is_fetched_afterwards() -> None:
    made = make_world()
    made.cache.start()
    thread = made.cache._thread
    assert thread is not None
    made.cache.close()
    assert not thread.is_alive()
    made.cache.close()
    assert made.refused().reason is Reason.COLLATERAL_PENDING
    assert not made.cache.renews
    assert made.source.asked == []


def test_closing_does_not_wait_for_ever_for_a_source_that_stalls() -> None:
    made = make_world()
    made.source.may_answer.clear()
    made.refused()
    assert made.source.entered.wait(PATIENCE)
    thread = made.cache._thread
    made.cache.close(timeout=0)
    assert thread is not None
    assert thread.daemon
    made.source.may_answer.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_cache_that_is_forgotten_keeps_no_thread() -> None:
    made = make_world()
    made.cache.start()
    thread = made.cache._thread
    gone = weakref.ref(made.cache)
    assert thread is not None
    del made
    wait_until(lambda: gc.collect() >= 0 and gone() is None)
    thread.join(PATIENCE)
    assert not thread.is_alive()
