"""The pump: whole both ways, never faster than the slower side, and ended by whoever ends it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import pytest

from eaa.aio.relay import Relayed, _Activity, _Direction, pump
from eaa.aio.stream import AttestedStream
from eaa.errors import EAAError, PeerMisbehaved, Reason
from eaa.tls.connection import Want
from support.aio_world import is_blocked, is_waiting, read_all, read_exactly, run, streams, until, watched

MEGABYTE = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """A client and a workload, and between them a pump."""

    client: AttestedStream
    upstream: AttestedStream
    downstream: AttestedStream
    workload: AttestedStream
    pumping: asyncio.Task[Relayed]


@asynccontextmanager
async def relaying(early: bytes = b"", **options: Any) -> AsyncIterator[Relay]:
    async with streams() as (client, upstream), streams() as (downstream, workload):
        upstream.push_back(early)
        pumping = asyncio.create_task(pump(upstream, downstream, **options))
        yield Relay(client=client, upstream=upstream, downstream=downstream, workload=workload, pumping=pumping)
        client.abort()
        workload.abort()
        await asyncio.wait([pumping])
        assert not watched()


async def failure_of(operation: Any) -> Reason:
    with pytest.raises(EAAError) as caught:
        await operation
    return caught.value.reason


def test_much_goes_both_ways_at_once() -> None:
    forth, back = os.urandom(3 * MEGABYTE), os.urandom(2 * MEGABYTE)

    async def talk(stream: AttestedStream, said: bytes) -> bytes:
        reading = asyncio.create_task(read_all(stream))
        await stream.write(said)
        await stream.finish()
        return await reading

    async def main() -> None:
        async with relaying() as relay:
            heard = await asyncio.gather(talk(relay.client, forth), talk(relay.workload, back))
            assert list(heard) == [back, forth]
            relay.client.abort()
            relay.workload.abort()
            assert await relay.pumping == Relayed(forth=len(forth), back=len(back), failure=None)

    run(main())


def test_bytes_that_came_before_the_channel_are_relayed_first() -> None:
    async def main() -> None:
        async with relaying(early=b"client hello, ") as relay:
            await relay.client.write(b"more")
            assert await read_exactly(relay.workload, 18) == b"client hello, more"

    run(main())


def test_a_side_that_takes_nothing_stops_the_other_and_costs_one_record() -> None:
    """Back-pressure: the sender waits, nothing piles up here, and all is there once the receiver goes on."""
    data = os.urandom(32 * MEGABYTE)

    async def main() -> None:
        async with relaying() as relay:
            writing = asyncio.ensure_future(relay.client.write(data))
            # What the kernel buffers of both connections hold is gone; then everybody waits for the workload.
            await until(lambda: is_blocked(relay.client) and is_blocked(relay.downstream))
            assert not is_waiting(relay.upstream)
            assert not writing.done()
            assert await read_exactly(relay.workload, len(data)) == data
            await writing

    run(main())


def test_what_is_held_for_a_full_side_is_one_record_at_most() -> None:
    source, sink = Always(bytes(16384)), Always(b"", full=True)
    direction = _Direction(source, sink)  # type: ignore[arg-type]
    for _ in range(3):
        blocked, want = direction._move()
        assert (blocked, want) == (cast("object", sink), Want.WRITE)
    assert len(direction._held) == 16384
    assert source.given == 1


def test_a_goodbye_is_passed_on_and_leaves_the_way_back_open() -> None:
    async def main() -> None:
        async with relaying() as relay:
            await relay.client.write(b"question")
            await relay.client.finish()
            assert await read_all(relay.workload) == b"question"
            await relay.workload.write(b"answer")
            assert await read_exactly(relay.client, 6) == b"answer"
            await relay.workload.finish()
            assert await read_all(relay.client) == b""
            relay.client.abort()
            relay.workload.abort()
            assert (await relay.pumping).failure is None

    run(main())


@pytest.mark.parametrize("who", ["client", "workload"])
def test_a_side_that_vanishes_ends_both_and_is_no_good_end_for_the_other(who: str) -> None:
    async def main() -> None:
        async with relaying() as relay:
            leaving, staying = relay.client, relay.workload
            if who == "workload":
                leaving, staying = staying, leaving
            await leaving.write(b"unfinished")
            assert await read_exactly(staying, 10) == b"unfinished"
            leaving.abort()
            assert await failure_of(staying.read()) is Reason.PEER_CLOSED
            staying.abort()
            relayed = await relay.pumping
            assert relayed.failure is not None
            assert relayed.failure.reason is Reason.PEER_CLOSED
            assert sorted((relayed.forth, relayed.back)) == [0, 10]

    run(main())


def test_what_was_sent_before_a_side_vanished_still_arrives() -> None:
    data = os.urandom(8 * MEGABYTE)

    async def main() -> None:
        async with relaying() as relay:
            writing = asyncio.ensure_future(relay.client.write(data))
            reading = asyncio.create_task(read_exactly(relay.workload, len(data)))
            await writing
            relay.client.abort()
            assert await reading == data
            relay.workload.abort()

    run(main())


def test_a_garbled_record_ends_both() -> None:
    async def main() -> None:
        async with relaying() as relay:
            link: Any = relay.client._link
            link.socket.send(b"\x17\x03\x03\x00\x20" + bytes(32))
            assert await failure_of(relay.workload.read()) is Reason.PEER_CLOSED
            relay.client.abort()
            relay.workload.abort()
            relayed = await relay.pumping
            assert relayed.failure is not None
            assert relayed.failure.reason is Reason.TLS_RECORD

    run(main())


def test_silence_ends_both_after_a_while() -> None:
    async def main() -> None:
        async with relaying(idle_timeout=0.05) as relay:
            for stream in (relay.client, relay.workload):
                assert await failure_of(stream.read()) is Reason.PEER_CLOSED
                stream.abort()
            relayed = await relay.pumping
            assert relayed.failure is not None
            assert relayed.failure.reason is Reason.PEER_TIMEOUT

    run(main())


def test_the_time_of_silence_begins_anew_with_every_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock of the test's own: bytes at 3, 6 and 9 seconds, so that 5 seconds of silence are over at 14."""
    clock = 0.0
    due = [3.0, 6.0, 9.0]

    class Loop:
        def time(self) -> float:
            return clock

    async def sleep(seconds: float) -> None:
        nonlocal clock
        end = clock + seconds
        while due and due[0] <= end:
            clock = due.pop(0)
            activity.touch()
        clock = end

    monkeypatch.setattr(asyncio, "get_running_loop", Loop)
    activity = _Activity()
    monkeypatch.undo()
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(PeerMisbehaved) as caught:
        activity.until_idle(5.0).send(None)
    assert caught.value.reason is Reason.PEER_TIMEOUT
    assert clock == 14.0


def test_a_wake_up_without_bytes_is_no_activity() -> None:
    touched = []

    async def main() -> None:
        silent = Always(b"", waits=True)
        direction = _Direction(silent, silent)  # type: ignore[arg-type]
        running = asyncio.create_task(direction.run(lambda: touched.append(1)))
        await until(lambda: silent.waited > 3)
        running.cancel()

    run(main())
    assert touched == []


def test_a_pump_that_is_stopped_closes_both_and_leaves_no_task() -> None:
    async def main() -> None:
        async with relaying() as relay:
            await until(lambda: is_waiting(relay.upstream) and is_waiting(relay.downstream))
            relay.client.abort()
            relay.workload.abort()
            relay.pumping.cancel()
            await asyncio.wait([relay.pumping])
            assert relay.pumping.cancelled()

    run(main())


def test_two_sides_that_are_always_ready_do_not_keep_the_loop() -> None:
    turns = 0

    async def main() -> None:
        nonlocal turns
        endless = _Direction(Always(b"x"), Always(b""))  # type: ignore[arg-type]
        pumping = asyncio.create_task(endless.run(lambda: None))
        for _ in range(10):
            turns += 1
            await asyncio.sleep(0)
        assert endless.moved > 0
        pumping.cancel()

    run(main())
    assert turns == 10


class Always:
    """A stream that always has the same to say, and always or never room."""

    def __init__(self, data: bytes, *, full: bool = False, waits: bool = False) -> None:
        self._data = data
        self._full = full
        self._waits = waits
        self.given = 0
        self.waited = 0

    def receive_now(self, _size: int) -> bytes | Want:
        self.given += 1
        return Want.READ if self._waits else self._data

    def send_now(self, data: memoryview) -> int | Want:
        return Want.WRITE if self._full else len(data)

    async def wait(self, want: Want) -> None:
        if want is not Want.NOTHING:
            self.waited += 1
            await asyncio.sleep(0)
