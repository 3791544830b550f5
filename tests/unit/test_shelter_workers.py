"""Work in processes: every outcome once and in order, a failure that is told, and nobody left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from eaa.errors import Misuse, Reason
from eaa.shelter.workers import Workers, cores


def chunks(count: int) -> Iterator[list[int]]:
    for number in range(count):
        yield [number, number + 1000]


def doubled(chunk: list[int]) -> list[int]:
    return [2 * number for number in chunk]


def uneven(chunk: list[int]) -> list[int]:
    """The first of every five takes longest."""
    time.sleep(0.02 if chunk[0] % 5 == 0 else 0)
    return doubled(chunk)


def pids_of(workers: Workers[int, int]) -> list[int]:
    return [worker.process.pid or 0 for worker in workers._workers]


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("work", [doubled, uneven])
def test_outcomes_come_in_the_order_of_what_was_given(count: int, work: object) -> None:
    assert callable(work)
    with Workers[int, int](work, count=count) as workers:
        assert list(workers.map(chunks(30))) == [doubled(chunk) for chunk in chunks(30)]
        pids = pids_of(workers)
    assert all(is_gone(pid) for pid in pids)


def test_nothing_to_do_is_done_at_once() -> None:
    with Workers[int, int](doubled, count=2) as workers:
        assert list(workers.map(iter([]))) == []


def test_what_is_to_be_done_is_asked_for_only_when_somebody_can_do_it() -> None:
    """An archive of gigabytes is not read into memory while the first of its files takes its time."""
    asked = 0

    def counted() -> Iterator[list[int]]:
        nonlocal asked
        for chunk in chunks(1000):
            asked += 1
            yield chunk

    with Workers[int, int](doubled, count=2) as workers:
        outcomes = workers.map(counted())
        next(outcomes)
        assert asked <= 2 + 1
        assert sum(1 for _ in outcomes) == 999


def refusing(chunk: list[int]) -> list[int]:
    if chunk[0] == 3:
        raise Misuse(Reason.POLICY_INVALID, "the facts", hint="the next step")
    return doubled(chunk)


def failing(chunk: list[int]) -> list[int]:
    return [1 // 0 for _ in chunk]


def dying(chunk: list[int]) -> list[int]:
    if chunk[0] == 3:
        os._exit(9)
    return doubled(chunk)


def test_misuse_is_misuse_wherever_it_was_found() -> None:
    with Workers[int, int](refusing, count=2) as workers, pytest.raises(Misuse) as caught:
        list(workers.map(chunks(9)))
    assert (caught.value.reason, caught.value.hint) == (Reason.POLICY_INVALID, "the next step")


@pytest.mark.parametrize(("work", "said"), [(failing, "ZeroDivisionError"), (dying, "died")])
def test_a_bug_and_a_death_are_told_and_never_waited_for(work: object, said: str) -> None:
    assert callable(work)
    with Workers[int, int](work, count=2) as workers, pytest.raises(RuntimeError, match=said):
        list(workers.map(chunks(9)))


def sleeping(chunk: list[int]) -> list[int]:
    time.sleep(60)
    return chunk


def _interrupted(outcomes: Iterator[list[int]]) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    next(outcomes)


def test_who_is_in_the_middle_of_something_ends_too() -> None:
    before = time.monotonic()
    with Workers[int, int](sleeping, count=2) as workers:
        pids = pids_of(workers)
        outcomes = workers.map(chunks(2))
        previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                _interrupted(outcomes)
        finally:
            signal.signal(signal.SIGALRM, previous)
    assert time.monotonic() - before < 30
    assert all(is_gone(pid) for pid in pids)


def test_processors_are_those_that_we_may_use() -> None:
    assert cores() == len(os.sched_getaffinity(0))
