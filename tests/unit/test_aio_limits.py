"""Who may have how much of a service: by address, by network, by user, and in all."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from eaa.aio import limits as module
from eaa.aio.counters import COUNTERS, Limit
from eaa.aio.limits import UNLIMITED, Beginners, Gate, QuoteQueue, ServiceLimits, origin_of, origin_of_host
from eaa.aio.together import Origin
from eaa.errors import Reason, Unavailable

HERE, THERE = Origin("ipv4", "192.0.2.1"), Origin("ipv4", "192.0.2.2")


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def limits(**changes: float) -> ServiceLimits:
    usual = {"max_connections": 10, "max_connections_per_address": 6}
    rates = {"handshake_rate": UNLIMITED, "handshake_rate_per_address": UNLIMITED}
    return ServiceLimits(**{**usual, **rates, **changes})  # type: ignore[arg-type]


# --- whom a connection counts for


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("192.0.2.1", Origin("ipv4", "192.0.2.1")),
        ("2001:db8:1:2:3:4:5:6", Origin("ipv6", "2001:db8:1:2::")),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", Origin("ipv6", "2001:db8:1:2::")),
        ("2001:db8:1:3::1", Origin("ipv6", "2001:db8:1:3::")),
        ("fe80::1%eth0", Origin("ipv6", "fe80::")),
        # The same host, whichever socket it came by.
        ("::ffff:192.0.2.1", Origin("ipv4", "192.0.2.1")),
        ("nonsense", Origin("unknown", "")),
    ],
)
def test_an_address_counts_alone_and_a_network_of_ipv6_as_one(host: str, origin: Origin) -> None:
    assert origin_of_host(host) == origin


def test_a_peer_of_a_unix_socket_counts_for_its_user() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert origin_of(one) == Origin("uid", str(os.getuid()))


def test_who_has_gone_counts_for_nobody() -> None:
    with socket.socket() as sock:
        assert origin_of(sock) == Origin("unknown", "")


# --- connections


def test_one_address_never_has_all_connections() -> None:
    gate = Gate(limits())
    entered = [gate.enter(HERE) for _ in range(20)]
    assert entered == [None] * 6 + [Limit.CONNECTIONS_PER_ADDRESS] * 14
    assert [gate.enter(THERE) for _ in range(5)] == [None] * 4 + [Limit.CONNECTIONS]
    gate.leave(HERE)
    assert gate.enter(THERE) is None
    assert gate.live == 10


def test_default_limits_leave_room_for_others() -> None:
    usual = ServiceLimits()
    assert usual.max_connections_per_address < usual.max_connections
    assert usual.handshake_rate_per_address < usual.handshake_rate
    assert usual.max_quotes_per_address < usual.max_quotes
    # Five thousand at once is a crowd that a relay has to bear, and all of them may come through one proxy.
    assert usual.max_connections_per_address > 5000


def test_a_crowd_that_reconnects_is_served_and_then_it_goes_slowly() -> None:
    time = Time()
    gate = Gate(limits(handshake_rate_per_address=2), clock=time)

    def visit() -> Limit | None:
        limit = gate.enter(HERE)
        if limit is None:
            gate.leave(HERE)
        return limit

    assert [visit() for _ in range(8)] == [None] * 6 + [Limit.HANDSHAKE_RATE_PER_ADDRESS] * 2
    time.now += 1
    assert [visit() for _ in range(3)] == [None, None, Limit.HANDSHAKE_RATE_PER_ADDRESS]
    time.now += 3600
    assert [visit() for _ in range(7)] == [None] * 6 + [Limit.HANDSHAKE_RATE_PER_ADDRESS]


def test_who_is_refused_takes_nothing_from_others() -> None:
    """The flood of one address uses up its own tokens, and not those of all."""
    time = Time()
    gate = Gate(limits(handshake_rate=1, handshake_rate_per_address=0.1), clock=time)

    def visit(origin: Origin) -> Limit | None:
        limit = gate.enter(origin)
        if limit is None:
            gate.leave(origin)
        return limit

    flood = [visit(HERE) for _ in range(1000)]
    assert flood.count(None) == 6
    assert [visit(THERE) for _ in range(5)] == [None] * 4 + [Limit.HANDSHAKE_RATE]


def test_what_is_remembered_of_strangers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ORIGINS", 100)
    time = Time()
    gate = Gate(limits(max_connections=10**6), clock=time)
    for number in range(1000):
        origin = Origin("ipv4", str(number))
        assert gate.enter(origin) is None
        gate.leave(origin)
    remembered = gate._of_each
    assert isinstance(remembered, module._OwnRate)
    assert len(remembered._full_at) == 100
    assert gate._there.total == 0


# --- handshakes that do not go on


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    made = [socket.socketpair() for _ in range(3)]
    for ours, _ in made:
        ours.settimeout(0)
    yield made
    for pair in made:
        for sock in pair:
            sock.close()


def test_the_oldest_handshake_is_stalled_once_its_peer_has_said_nothing_for_a_second(
    pairs: list[tuple[socket.socket, socket.socket]],
) -> None:
    time = Time()
    beginners = Beginners(time)
    first, second, third = (
        beginners.add(ours, origin) for (ours, _), origin in zip(pairs, (HERE, THERE, HERE), strict=True)
    )
    assert beginners.stalled() is None
    time.now += module.STALLED_AFTER
    assert beginners.stalled() is first
    assert beginners.stalled(THERE) is second
    assert beginners.stalled(Origin("ipv4", "192.0.2.3")) is None
    first.leave()
    first.leave()
    assert beginners.stalled() is second
    assert beginners.stalled(HERE) is third
    for one in (second, third):
        one.leave()
    assert beginners.stalled() is None
    assert (len(beginners), beginners._of) == (0, {})


def test_in_a_crowd_whose_bytes_nobody_has_read_yet_nobody_is_stalled(
    pairs: list[tuple[socket.socket, socket.socket]],
) -> None:
    time = Time()
    beginners = Beginners(time)
    (ours, theirs), *_ = pairs
    beginner = beginners.add(ours, HERE)
    theirs.send(b"hello")
    time.now += 3600
    assert beginners.stalled() is None
    ours.recv(5)
    assert beginners.stalled() is beginner
    theirs.close()
    assert beginners.stalled() is beginner
    ours.close()
    assert beginners.stalled() is beginner


def test_who_stalls_makes_room_before_anybody_is_refused() -> None:
    gate = Gate(limits())
    asked: list[Origin | None] = []

    def make_room(origin: Origin | None) -> bool:
        asked.append(origin)
        gate.leave(HERE)
        return True

    for _ in range(6):
        assert gate.enter(HERE, make_room=make_room) is None
    assert asked == []
    assert gate.enter(HERE, make_room=make_room) is None
    assert asked == [HERE]
    for _ in range(4):
        assert gate.enter(THERE, make_room=make_room) is None
    assert gate.enter(THERE, make_room=make_room) is None
    assert asked == [HERE, None]
    assert gate.live == 10


def test_refusals_are_counted_by_what_they_are_for() -> None:
    before = COUNTERS.refused[Limit.CONNECTIONS]
    gate = Gate(limits(max_connections=0))
    assert gate.enter(HERE) is Limit.CONNECTIONS
    assert COUNTERS.refused[Limit.CONNECTIONS] == before + 1


# --- quotes


def test_one_address_never_has_the_whole_queue_for_quotes() -> None:
    queue = QuoteQueue(most=3, most_per_address=2)
    with queue.place(HERE), queue.place(HERE):
        with pytest.raises(Unavailable) as caught, queue.place(HERE):
            pass
        assert caught.value.reason is Reason.OVERLOADED
        with queue.place(THERE):
            before = COUNTERS.refused[Limit.QUOTES]
            with pytest.raises(Unavailable) as caught, queue.place(Origin("uid", "0")):
                pass
            assert caught.value.reason is Reason.OVERLOADED
            assert COUNTERS.refused[Limit.QUOTES] == before + 1
        with queue.place(THERE):
            assert queue.waiting == 3
    assert queue.waiting == 0


def test_who_gives_up_leaves_the_queue() -> None:
    queue = QuoteQueue(most=1, most_per_address=1)
    with pytest.raises(ZeroDivisionError), queue.place(HERE):
        raise ZeroDivisionError
    with queue.place(HERE):
        pass
