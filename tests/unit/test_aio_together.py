"""Limits of a service that several processes serve: they count together, and forget whom a dead one had."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaa.aio.counters import Limit
from eaa.aio.limits import UNLIMITED, Gate, QuoteQueue, ServiceLimits
from eaa.aio.together import Board, Origin, OwnTally, new_board
from eaa.errors import Unavailable

WORKERS = 3
ORIGINS = tuple(Origin("ipv4", f"192.0.2.{number}") for number in range(1, 6))
HERE, THERE, *_ = ORIGINS


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = new_board(WORKERS)
    yield descriptor
    os.close(descriptor)


def boards(memory: int) -> list[Board]:
    """That of each worker."""
    return [Board(memory, number=number, count=WORKERS) for number in range(1, WORKERS + 1)]


def gates(memory: int, clock: Time | None = None, **changes: float) -> list[Gate]:
    usual: dict[str, float] = {
        "max_connections": 10,
        "max_connections_per_address": 6,
        "handshake_rate": UNLIMITED,
        "handshake_rate_per_address": UNLIMITED,
    }
    limits = ServiceLimits(**{**usual, **changes})  # type: ignore[arg-type]
    return [Gate(limits, refused=Counter(), clock=clock or Time(), board=board) for board in boards(memory)]


def test_one_process_forgets_addresses_that_have_left() -> None:
    tally = OwnTally()
    for origin in ORIGINS * 2:
        tally.add(origin)
    assert (tally.total, tally.of(HERE), len(tally)) == (10, 2, 5)
    for origin in ORIGINS * 2:
        tally.remove(origin)
    assert (tally.total, tally.of(HERE), len(tally)) == (0, 0, 0)


def test_connections_are_limited_for_all_workers_together_however_they_are_spread(memory: int) -> None:
    one, other, third = gates(memory)
    assert [one.enter(HERE) for _ in range(5)] == [None] * 5
    assert [other.enter(HERE) for _ in range(3)] == [None] + [Limit.CONNECTIONS_PER_ADDRESS] * 2
    assert [third.enter(THERE) for _ in range(5)] == [None] * 4 + [Limit.CONNECTIONS]
    assert [gate.live for gate in (one, other, third)] == [5, 1, 4]
    one.leave(HERE)
    assert other.enter(THERE) is None
    assert one.enter(HERE) is Limit.CONNECTIONS
    # Each tells its share, so that the sum is what the operator has said, or hardly more.
    assert [gate.most for gate in (one, other, third)] == [4, 4, 4]


def test_nobody_counts_whom_a_worker_had_that_has_died(memory: int) -> None:
    one, other, _ = gates(memory)
    for _ in range(6):
        assert one.enter(HERE) is None
    assert other.enter(HERE) is Limit.CONNECTIONS_PER_ADDRESS
    Board(memory, number=0, count=WORKERS).clear(1)
    assert [other.enter(HERE) for _ in range(7)] == [None] * 6 + [Limit.CONNECTIONS_PER_ADDRESS]
    # The next one in its place begins with none.
    (successor, *_) = gates(memory)
    assert successor.enter(THERE) is None


def test_rates_are_those_of_all_workers_together(memory: int) -> None:
    time = Time()
    one, other, third = gates(memory, time, handshake_rate=4, handshake_rate_per_address=2)

    def visit(gate: Gate, origin: Origin) -> Limit | None:
        limit = gate.enter(origin)
        if limit is None:
            gate.leave(origin)
        return limit

    crowd = [visit(gate, HERE) for gate in (one, other, third) for _ in range(3)]
    assert crowd == [None] * 6 + [Limit.HANDSHAKE_RATE_PER_ADDRESS] * 3
    assert [visit(gate, THERE) for gate in (one, other, third, one, other)] == [None] * 4 + [Limit.HANDSHAKE_RATE]
    time.now += 1
    assert [visit(gate, HERE) for gate in (third, one, other)] == [None] * 2 + [Limit.HANDSHAKE_RATE_PER_ADDRESS]
    assert [visit(gate, THERE) for gate in (third, one, other)] == [None] * 2 + [Limit.HANDSHAKE_RATE]


def test_workers_have_one_queue_for_quotes(memory: int) -> None:
    one, other, _ = (QuoteQueue(most=3, most_per_address=2, board=board) for board in boards(memory))
    with one.place(HERE), other.place(HERE):
        with pytest.raises(Unavailable), one.place(HERE):
            pass
        with other.place(THERE), pytest.raises(Unavailable), one.place(ORIGINS[2]):
            pass
        assert one.waiting == other.waiting == 2
    with one.place(HERE):
        assert other.waiting == 1


@given(st.lists(st.tuples(st.integers(0, WORKERS - 1), st.sampled_from(ORIGINS), st.booleans()), max_size=60))
def test_what_is_counted_together_is_never_too_low_and_adds_up(steps: list[tuple[int, Origin, bool]]) -> None:
    memory = new_board(WORKERS)
    try:
        tallies = [board.connections() for board in boards(memory)]
    finally:
        os.close(memory)
    there: Counter[tuple[int, Origin]] = Counter()
    for worker, origin, comes in steps:
        if comes:
            tallies[worker].add(origin)
            there[worker, origin] += 1
        elif there[worker, origin]:
            tallies[worker].remove(origin)
            there[worker, origin] -= 1
    for tally in tallies:
        assert tally.total == there.total()
        for origin in ORIGINS:
            assert tally.of(origin) >= sum(there[worker, origin] for worker in range(WORKERS))


def test_which_addresses_share_a_cell_nobody_outside_can_tell(memory: int) -> None:
    (board, *_) = boards(memory)
    other_memory = new_board(WORKERS)
    try:
        (other, *_) = boards(other_memory)
    finally:
        os.close(other_memory)
    assert [board.cells_of(origin) for origin in ORIGINS] != [other.cells_of(origin) for origin in ORIGINS]
