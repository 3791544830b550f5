"""The pump: whole both ways, never faster than the slower side, and ended by whoever ends it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import os
import select
import socket
import struct
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from OpenSSL import SSL

from eaa.aio import relay as module
from eaa.aio.plain import PlainStream
from eaa.aio.relay import Limits, Relayed, Traffic, pump
from eaa.aio.stream import AttestedStream
from eaa.errors import EAAError, Misuse, Reason
from eaa.tls import bulk as bulk_module
from eaa.tls import engine
from eaa.tls.bulk import Buffer, DirectBulk, PublicBulk, bulk
from eaa.tls.connection import Want
from support.aio_world import (
    PATIENCE,
    Place,
    connection_on,
    is_blocked,
    read_all,
    read_exactly,
    run,
    settable_clock,
    socket_of,
    streams,
    tcp_pair,
    until,
    watches,
)

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
async def relaying(early: bytes = b"", place: Place = "socket", **options: Any) -> AsyncIterator[Relay]:
    async with streams(place) as (client, upstream), streams() as (downstream, workload):
        upstream.push_back(early)
        pumping = asyncio.create_task(pump(upstream, downstream, **options))
        yield Relay(client=client, upstream=upstream, downstream=downstream, workload=workload, pumping=pumping)
        client.abort()
        workload.abort()
        await asyncio.wait([pumping])


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
            await until(lambda: is_blocked(relay.client) and watches(relay.downstream) == "read and write")
            assert watches(relay.upstream) == "nothing"
            assert not writing.done()
            assert await read_exactly(relay.workload, len(data)) == data
            await writing

    run(main())


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


LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.SelectorEventLoop]
if importlib.util.find_spec("uvloop"):
    LOOPS.append(importlib.import_module("uvloop").new_event_loop)


@pytest.mark.parametrize("new_loop", LOOPS)
@pytest.mark.parametrize("who", ["client", "workload"])
@pytest.mark.parametrize("size", [0, 1, 20_000])
def test_a_reset_right_behind_some_bytes_ends_both(
    new_loop: Callable[[], asyncio.AbstractEventLoop], who: str, size: int
) -> None:
    """uvloop tells of a reset once, and of nothing after it: who leaves bytes unread then waits for ever."""

    async def main() -> None:
        async with asyncio.timeout(PATIENCE), relaying() as relay:
            leaving = relay.client if who == "client" else relay.workload
            await leaving.write(bytes(size))
            socket_of(leaving).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            leaving.abort()
            staying = relay.workload if who == "client" else relay.client
            with pytest.raises(EAAError):
                await read_exactly(staying, size + 1)
            staying.abort()
            relayed = await relay.pumping
            assert relayed.failure is not None

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def test_a_plain_side_tells_of_a_reset_as_often_as_it_is_asked() -> None:
    near, far = tcp_pair()
    plain = PlainStream(near)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    assert select.select([near], [], [], PATIENCE)[0]
    for _ in range(2):
        with pytest.raises(EAAError) as caught:
            plain.send_now(b"x")
        assert caught.value.reason is Reason.PEER_CLOSED
        with pytest.raises(EAAError) as caught:
            plain.receive_into(memoryview(bytearray(1)))
        assert caught.value.reason is Reason.PEER_CLOSED
    plain.abort()


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
        async with relaying(limits=Limits(idle=0.05)) as relay:
            for stream in (relay.client, relay.workload):
                assert await failure_of(stream.read()) is Reason.PEER_CLOSED
                stream.abort()
            relayed = await relay.pumping
            assert relayed.failure is not None
            assert relayed.failure.reason is Reason.PEER_TIMEOUT

    run(main())


@pytest.mark.parametrize("limits", [Limits(idle=60.0), Limits(lifetime=60.0)], ids=["idle", "lifetime"])
def test_silence_before_the_pump_counts(limits: Limits) -> None:
    """A session's time begins with the session: what was waited before its bytes are moved is part of it."""

    async def main() -> None:
        last = asyncio.get_running_loop().time() - 61.0
        async with relaying(limits=limits, last=last) as relay:
            relayed = await relay.pumping
            assert relayed.failure is not None
            assert relayed.failure.reason is Reason.PEER_TIMEOUT

    run(main())


def test_the_time_of_silence_begins_anew_with_every_byte() -> None:
    async def main() -> None:
        put_forward, loop = settable_clock(), asyncio.get_running_loop()
        async with relaying(limits=Limits(idle=8.0)) as relay:
            for _ in range(4):
                put_forward(6.0)
                last = loop.time()
                await relay.client.write(b".")
                assert await read_exactly(relay.workload, 1) == b"."
            put_forward(6.0)
            # Who looks at the clock has had his turns, and more.
            await asyncio.sleep(0.01)
            assert not relay.pumping.done()
            put_forward(2.0)
            relayed = await relay.pumping
            assert relayed.failure is not None
            assert relayed.failure.reason is Reason.PEER_TIMEOUT
            assert loop.time() - last >= 8.0

    run(main())


def test_a_side_that_has_said_goodbye_is_waited_for_less_long() -> None:
    """Today's limit of silence would keep a session for minutes whose client has only closed half of it and gone."""

    async def main() -> None:
        async with relaying(limits=Limits(idle=300.0, half_closed=0.05)) as relay:
            await relay.client.write(b"question")
            await asyncio.sleep(0.4)
            assert not relay.pumping.done()
            await relay.client.finish()
            assert await read_all(relay.workload) == b"question"
            relayed = await relay.pumping
            assert relayed.failure is not None
            assert relayed.failure.reason is Reason.PEER_TIMEOUT
            assert relayed.forth == 8

    run(main())


def test_a_session_that_is_never_silent_ends_at_its_lifetime() -> None:
    async def main() -> None:
        async with relaying(limits=Limits(lifetime=0.5)) as relay:
            while not relay.pumping.done():
                with contextlib.suppress(EAAError):
                    await relay.client.write(b"x")
                await asyncio.sleep(0.01)
            failure = relay.pumping.result().failure
            assert failure is not None
            assert failure.reason is Reason.PEER_TIMEOUT
            assert "lasted" in failure.message

    run(main())


def test_bytes_are_counted_while_they_move() -> None:
    traffic = Traffic()

    async def main() -> None:
        async with relaying(traffic=traffic) as relay:
            await relay.client.write(b"12345")
            await relay.workload.write(b"123")
            await read_exactly(relay.client, 3)
            await read_exactly(relay.workload, 5)
            assert traffic == Traffic(forth=5, back=3)

    run(main())


def test_a_pump_that_is_stopped_tears_both_and_leaves_no_task() -> None:
    """Cutting a session because of a verdict is no good end of it: neither side hears a goodbye."""

    async def main() -> None:
        async with relaying() as relay:
            await until(lambda: watches(relay.upstream) == watches(relay.downstream) == "read")
            relay.pumping.cancel()
            for stream in (relay.client, relay.workload):
                assert await failure_of(stream.read()) is Reason.PEER_CLOSED
                stream.abort()
            await asyncio.wait([relay.pumping])
            assert relay.pumping.cancelled()

    run(main())


@pytest.mark.parametrize("who", ["upstream", "downstream"])
def test_a_stream_that_is_aborted_under_a_pump_ends_it_and_is_watched_no_more(who: str) -> None:
    """Its descriptor's number may be somebody else's at once."""

    async def main() -> None:
        async with relaying() as relay:
            await until(lambda: watches(relay.upstream) == "read")
            getattr(relay, who).abort()
            relayed = await relay.pumping
            assert relayed.failure is not None
            assert relayed.failure.reason is Reason.PEER_CLOSED

    run(main())


def test_an_idle_session_is_no_task_and_one_timer_serves_all() -> None:
    async def main() -> None:
        async with relaying() as one, relaying() as other:
            await until(lambda: watches(one.downstream) == watches(other.downstream) == "read")
            await until(lambda: len(asyncio.all_tasks()) == 3)  # this one, and who waits for each of the pumps
            assert sum(not timer.cancelled() for timer in asyncio.get_running_loop()._scheduled) <= 2  # type: ignore[attr-defined]

    run(main())


def test_two_sides_that_are_always_ready_do_not_keep_the_loop() -> None:
    """While one session moves all it can, another one's single byte passes."""
    block = bytes(MEGABYTE)

    async def main() -> None:
        async with relaying() as busy, relaying() as other:

            async def flood() -> None:
                while True:
                    await busy.client.write(block)

            async def swallow() -> None:
                while True:
                    await busy.workload.read()

            tasks = [asyncio.create_task(flood()), asyncio.create_task(swallow())]
            for _ in range(20):
                await other.client.write(b"?")
                assert await read_exactly(other.workload, 1) == b"?"
                await other.workload.write(b"!")
                assert await read_exactly(other.client, 1) == b"!"
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    run(main())


def test_a_session_inside_of_another_is_pumped_as_well() -> None:
    forth, back = os.urandom(3 * MEGABYTE), os.urandom(2 * MEGABYTE)

    async def main() -> None:
        async with relaying(early=b"first ", place="inside") as relay:
            writing = asyncio.ensure_future(relay.client.write(forth))
            answering = asyncio.ensure_future(relay.workload.write(back))
            reading = asyncio.create_task(read_exactly(relay.client, len(back)))
            assert await read_exactly(relay.workload, 6 + len(forth)) == b"first " + forth
            assert await reading == back
            await writing
            await answering
            await relay.client.finish()
            assert await read_all(relay.workload) == b""
            await relay.workload.write(b"last")
            await relay.workload.finish()
            assert await read_all(relay.client) == b"last"
            relay.client.abort()
            relay.workload.abort()
            assert (await relay.pumping).failure is None

    run(main())


def test_a_session_inside_of_another_stops_for_a_side_that_takes_nothing() -> None:
    data = os.urandom(24 * MEGABYTE)

    async def main() -> None:
        async with relaying(place="inside") as relay:
            writing = asyncio.ensure_future(relay.client.write(data))
            await until(lambda: watches(relay.downstream) == "read and write")
            assert not writing.done()
            assert await read_exactly(relay.workload, len(data)) == data
            await writing

    run(main())


def test_a_plain_application_is_pumped_and_told_a_good_end_from_a_bad_one() -> None:
    async def talk(*, torn: bool) -> None:
        near, far = tcp_pair()
        loop = asyncio.get_running_loop()
        async with streams() as (client, server):
            pumping = asyncio.create_task(pump(server, PlainStream(near)))
            data = os.urandom(3 * MEGABYTE)
            writing = asyncio.ensure_future(client.write(data))
            got = b""
            while len(got) < len(data):
                got += await loop.sock_recv(far, MEGABYTE)
            assert got == data
            await writing
            if torn:
                client.abort()
                with pytest.raises(ConnectionResetError):
                    await loop.sock_recv(far, 1)
            else:
                await client.finish()
                assert await loop.sock_recv(far, 1) == b""
                await loop.sock_sendall(far, b"bye")
                far.shutdown(socket.SHUT_WR)
                assert await read_all(client) == b"bye"
                client.abort()
            relayed = await pumping
            assert (relayed.failure is not None) is torn
            far.close()

    run(talk(torn=False))
    run(talk(torn=True))


def test_a_side_that_has_to_write_before_it_can_read_is_waited_for() -> None:
    """A peer that wants new keys wants an answer, while this side reads (RFC 8446, 4.6.3)."""

    async def main() -> None:
        source, sink = Scripted([Want.WRITE, 3, 0], room=[]), Scripted([0], room=[3])
        session = scripted_session(source, sink)
        assert await session.ended is None
        assert source.asked == 3
        assert session.moved == (3, 0)

    run(main())


@pytest.mark.parametrize("room", [[1, 1, 1], [Want.WRITE, 3], [2, Want.WRITE, 1], [Want.WRITE, Want.WRITE, 1, 2]])
def test_what_a_sink_takes_in_pieces_arrives_once_and_in_order(room: list[int | Want]) -> None:
    async def main() -> None:
        source, sink = Scripted([3, 0], room=[]), Scripted([0], room=room)
        session = scripted_session(source, sink)
        assert await session.ended is None
        assert b"".join(sink.taken) == b"abc"
        assert session.moved == (3, 0)

    run(main())


def test_a_goodbye_waits_for_what_is_held_and_for_room() -> None:
    async def main() -> None:
        source, sink = (
            Scripted([3, 0], room=[]),
            Scripted([0], room=[Want.WRITE, 3], farewells=[Want.WRITE, Want.NOTHING]),
        )
        session = scripted_session(source, sink)
        assert await session.ended is None
        assert sink.said == ["abc", "goodbye refused", "goodbye"]

    run(main())


def test_a_peer_that_wants_a_handshake_while_it_is_sent_to_is_refused() -> None:
    async def main() -> None:
        session = scripted_session(Scripted([3], room=[]), Scripted([Want.READ], room=[Want.READ]))
        failure = await session.ended
        assert failure is not None
        assert failure.reason is Reason.TLS_RECORD

    run(main())


class Scripted:
    """A side whose every answer is written down: what reading gives, and how much there is room for."""

    keeps = False
    early = b""

    def __init__(self, gives: list[int | Want], *, room: list[int | Want], farewells: list[Want] | None = None) -> None:
        self._gives = gives
        self._room = room
        self._farewells = farewells or [Want.NOTHING]
        self.asked = 0
        self.taken: list[bytes] = []
        self.said: list[str] = []

    def receive(self, buffer: Buffer) -> int | Want:
        self.asked += 1
        got = self._gives.pop(0)
        if isinstance(got, int):
            buffer.view[:got] = b"abcdefgh"[:got]
        return got

    def send(self, buffer: Buffer, size: int) -> int | Want:
        return self.send_held(bytes(buffer.view[:size]))

    def send_held(self, data: bytes) -> int | Want:
        room = self._room.pop(0)
        if isinstance(room, int):
            self.taken.append(data[:room])
            self.said.append(data[:room].decode())
        return room

    def flush(self) -> Want:
        return Want.NOTHING

    def finish(self) -> Want:
        want = self._farewells.pop(0)
        self.said.append("goodbye" if want is Want.NOTHING else "goodbye refused")
        return want


class Ready:
    """A stream with a descriptor that is always ready for both."""

    def __init__(self, side: Scripted) -> None:
        self.side = side
        self.near, self._far = tcp_pair()
        self._far.send(b"something")

    def take_over(self, _on_close: Any) -> int:
        return self.near.fileno()

    def give_back(self) -> None:
        self.near.close()
        self._far.close()


def scripted_session(one: Scripted, other: Scripted) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_side_of", lambda stream: stream.side)
        return module._Session(Ready(one), Ready(other), Limits(), Traffic())  # type: ignore[arg-type]


# --- the way into OpenSSL


@pytest.mark.parametrize("kind", [DirectBulk, PublicBulk])
def test_both_ways_into_openssl_say_the_same(kind: type[DirectBulk | PublicBulk]) -> None:
    async def main() -> None:
        async with streams() as (client, server):
            out, into, buffer = kind(client.connection), kind(server.connection), Buffer()
            assert into.receive(buffer) is Want.READ
            buffer.view[:5] = b"hello"
            assert out.send(buffer, 5) == 5
            assert out.send_held(b" there") == 6
            await until(lambda: into_has(into, buffer, b"hello"))
            await until(lambda: into_has(into, buffer, b" there"))
            while (sent := out.send(buffer, len(buffer.view))) is not Want.WRITE:
                assert sent == len(buffer.view)
            assert out.send_held(bytes(buffer.view)) is Want.WRITE

    run(main())


def into_has(into: DirectBulk | PublicBulk, buffer: Buffer, expected: bytes) -> bool:
    got = into.receive(buffer)
    if got is Want.READ:
        return False
    assert got == len(expected)
    assert bytes(buffer.view[:got]) == expected
    return True


@pytest.mark.parametrize("kind", [DirectBulk, PublicBulk])
@pytest.mark.parametrize("ending", ["goodbye", "gone", "garbled"])
def test_both_ways_into_openssl_end_the_same(kind: type[DirectBulk | PublicBulk], ending: str) -> None:
    async def main() -> None:
        async with streams() as (client, server):
            into, buffer = kind(server.connection), Buffer()
            match ending:
                case "goodbye":
                    await client.finish()
                case "gone":
                    client.abort()
                case "garbled":
                    socket_of(client).send(b"\x17\x03\x03\x00\x20" + bytes(32))
            await until(lambda: came(into, buffer) is not Want.READ)
            expected = {"goodbye": 0, "gone": Reason.PEER_CLOSED, "garbled": Reason.TLS_RECORD}[ending]
            assert came(into, buffer) == expected
            if ending != "goodbye":
                # Once dead, always dead.
                assert came(into, buffer) == expected

    run(main())


def came(into: DirectBulk | PublicBulk, buffer: Buffer) -> int | Want | Reason:
    try:
        return into.receive(buffer)
    except EAAError as error:
        return error.reason


def test_the_gate_is_asked_before_there_is_a_way_into_openssl() -> None:
    connection = connection_on(None, None, server_side=False)
    with pytest.raises(Misuse) as caught:
        bulk(connection)
    assert caught.value.reason is Reason.GATE_CLOSED


def test_without_what_pyopenssl_keeps_to_itself_its_public_methods_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(engine.ENGINE, tuple), "this release of pyOpenSSL has another inside: adapt tls/engine.py"
    monkeypatch.delattr(SSL.Connection, "_raise_ssl_error")
    assert engine._find() is None
    monkeypatch.undo()
    monkeypatch.setattr(bulk_module, "_ENGINE", None)

    async def main() -> None:
        async with relaying() as relay:
            await relay.client.write(b"hello")
            assert await read_exactly(relay.workload, 5) == b"hello"

    run(main())


# --- what is left


@pytest.mark.parametrize("ending", ["said goodbye", "torn", "silent"])
def test_nothing_of_a_session_waits_for_the_garbage_collector(ending: str) -> None:
    """It comes seldom: the connections of hundreds of sessions that had ended were kept until it did."""

    async def a_session() -> list[weakref.ref[socket.socket]]:
        async with relaying(limits=Limits(idle=0.05) if ending == "silent" else None) as relay:
            if ending == "said goodbye":
                await asyncio.gather(relay.client.close(), relay.workload.close())
            elif ending == "torn":
                relay.client.abort()
            assert ((await relay.pumping).failure is None) == (ending == "said goodbye")
            return [weakref.ref(socket_of(stream)) for stream in (relay.upstream, relay.downstream)]

    async def main() -> None:
        sockets = await asyncio.create_task(a_session())
        await until(lambda: not any(sock() for sock in sockets))

    gc.collect()
    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()
