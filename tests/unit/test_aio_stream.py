"""Attested streams: bytes whole and in order, good and bad ends told apart, nothing left behind by whoever gives up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any

import pytest

from eaa.aio import stream as stream_module
from eaa.aio.stream import RECORDS_IN_A_ROW, AttestedStream, _StreamLink, deadline, secure
from eaa.appraise.result import BindingLevel
from eaa.errors import EAAError, Misuse, PeerMisbehaved, Reason
from eaa.tls.connection import Want
from support.aio_world import (
    PLACES,
    Place,
    connection_on,
    is_blocked,
    is_waiting,
    read_all,
    read_exactly,
    run,
    socket_of,
    stream_on,
    streams,
    tcp_pair,
    until,
    watched,
)
from support.tls_world import client_identity, server_identity

MUCH = 3 * 1024 * 1024


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    chosen: Place = request.param
    return chosen


async def reason_of(operation: Any) -> Reason:
    with pytest.raises(EAAError) as caught:
        await operation
    return caught.value.reason


# --- bytes


def test_much_goes_both_ways_at_once_whole_and_in_order(place: Place) -> None:
    forth, back = os.urandom(MUCH), os.urandom(MUCH)

    async def main() -> None:
        async with streams(place) as (client, server):
            reading = asyncio.gather(read_exactly(server, MUCH), read_exactly(client, MUCH))
            await asyncio.gather(client.write(forth), server.write(back))
            assert list(await reading) == [forth, back]

    run(main())


def test_what_is_put_out_inside_a_stream_goes_out_in_its_order() -> None:
    """A reader may have something to send as well as a writer; in pieces of both the peer would find no record."""
    written = []

    class Outer:
        def write(self, data: bytes) -> None:
            written.append(data)

        async def drain(self) -> None:
            await asyncio.sleep(0)

    class Output:
        def __init__(self) -> None:
            self._pieces = [b"a", b"b", b"c"]

        def take(self) -> bytes:
            return self._pieces.pop(0) if self._pieces else b""

    async def main() -> None:
        outer, output = Outer(), Output()
        link = _StreamLink(outer)  # type: ignore[arg-type]
        await asyncio.gather(*(link.writable(output) for _ in range(3)))  # type: ignore[arg-type]

    run(main())
    assert written == [b"a", b"b", b"c"]


def test_nothing_is_written_at_once(place: Place) -> None:
    async def main() -> None:
        async with streams(place) as (client, server):
            await client.write(b"")
            await client.write(b"x")
            assert await server.read() == b"x"

    run(main())


def test_what_is_pushed_back_is_read_first(place: Place) -> None:
    async def main() -> None:
        async with streams(place) as (client, server):
            await client.write(b"later")
            server.push_back(b"second")
            server.push_back(b"first ")
            assert await read_exactly(server, 4) == b"firs"
            assert await read_exactly(server, 13) == b"t secondlater"

    run(main())


def test_without_waiting_a_stream_says_what_it_wants() -> None:
    async def main() -> None:
        async with streams() as (client, server):
            assert client.receive_now(10) is Want.READ
            server.push_back(b"early")
            assert server.receive_now(3) == b"ear"
            block = bytes(65536)
            while (sent := server.send_now(block)) is not Want.WRITE:
                assert isinstance(sent, int)
            reading = asyncio.create_task(read_all(client))
            await server.wait(sent)
            await server.write(block)
            await server.finish()
            await reading

    run(main())


def test_application_bytes_wait_for_the_gate() -> None:
    async def main() -> None:
        one, other = tcp_pair()
        client, server = await asyncio.gather(
            secure(connection_on(one, client_identity(), server_side=False), one), stream_on(other, server_side=True)
        )
        assert await reason_of(client.write(b"x")) is Reason.GATE_CLOSED
        assert await reason_of(client.read()) is Reason.GATE_CLOSED
        client.abort()
        server.abort()

    run(main())


@pytest.mark.parametrize("side", ["reader", "writer"])
def test_a_peer_that_is_always_ready_does_not_keep_the_loop(side: str) -> None:
    """Without a wait there is no turn for others, unless it is given to them."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> None:
        async with streams() as (client, server):
            rounds = 10 * RECORDS_IN_A_ROW
            counting = asyncio.create_task(count())
            if side == "reader":
                for _ in range(rounds):
                    assert server.send_now(b"x") == 1
                for _ in range(rounds):
                    assert await client.read(1) == b"x"
            else:
                for _ in range(rounds):
                    await client.write(b"x")
            counting.cancel()

    run(main())
    assert turns >= 9


# --- as asyncio's streams


def test_what_is_written_without_waiting_arrives_in_order(place: Place) -> None:
    """Much more than there is room for, from two tasks at once, and closed at once."""
    blocks = [os.urandom(200_000) for _ in range(10)]

    async def main() -> None:
        async with streams(place) as (client, server):
            for block in blocks[:5]:
                client.write(block)
            client.writelines(blocks[5:])
            client.close()
            assert await read_all(server) == b"".join(blocks)

    run(main())


def test_draining_waits_for_a_peer_that_reads_slowly() -> None:
    async def main() -> None:
        async with streams() as (client, server):
            client.write(bytes(2 * MUCH))
            drained = asyncio.create_task(client.drain())
            await until(lambda: is_blocked(client))
            assert not drained.done()
            await read_exactly(server, 2 * MUCH)
            await drained

    run(main())


@pytest.mark.parametrize("after", ["finish", "close", "abort"])
def test_after_the_goodbye_nothing_is_written(after: str, place: Place) -> None:
    expected = {"finish": Reason.USAGE, "close": Reason.USAGE, "abort": Reason.USAGE}

    async def main() -> None:
        async with streams(place) as (client, server):
            ended: Any = getattr(client, after)()
            if after == "finish":
                await ended
            # As a method that only buffers it raises nothing.
            client.write(b"x")
            assert await reason_of(client.write(b"x")) is expected[after]
            if after == "finish":
                await server.write(b"y")
                assert await client.read() == b"y"

    run(main())


def test_who_writes_to_a_peer_that_has_gone_hears_of_it_when_draining() -> None:
    async def main() -> None:
        async with streams() as (client, server):
            server.abort()

            async def write_on() -> None:
                while True:
                    client.write(bytes(65536))
                    await client.drain()

            assert await reason_of(write_on()) is Reason.PEER_CLOSED
            client.write(b"x")
            with pytest.raises(PeerMisbehaved):
                await client.drain()

    run(main())


def test_so_many_bytes_or_none(place: Place) -> None:
    async def main() -> None:
        async with streams(place) as (client, server):
            await client.write(b"12345678")
            assert await server.readexactly(0) == b""
            assert await server.readexactly(3) == b"123"
            reading = asyncio.create_task(server.readexactly(7))
            await until(lambda: is_waiting(server) if place == "socket" else True)
            reading.cancel()
            await asyncio.wait([reading])
            await client.finish()
            with pytest.raises(asyncio.IncompleteReadError) as caught:
                await server.readexactly(7)
            assert (caught.value.partial, caught.value.expected) == (b"45678", 7)
            assert await server.read() == b""
            for size in (0, -1):
                with pytest.raises(ValueError, match="cannot be read"):
                    await server.read(size)
            with pytest.raises(ValueError, match="cannot be read"):
                await server.readexactly(-1)

    run(main())


def test_lines_and_separators(place: Place) -> None:
    async def main() -> None:
        async with streams(place) as (client, server):
            await client.write(b"one\ntwo\nthree--")
            assert await server.readline() == b"one\n"
            assert await server.read(1) == b"t"
            assert await server.readuntil(b"-" * 2) == b"wo\nthree--"
            await client.write(b"four\nfive\nsix")
            await client.finish()
            assert [line async for line in server] == [b"four\n", b"five\n", b"six"]
            with pytest.raises(asyncio.IncompleteReadError):
                await server.readuntil()
            with pytest.raises(ValueError, match="at least one byte"):
                await server.readuntil(b"")

    run(main())


def test_a_line_without_an_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAX_LINE", 1000)

    async def main() -> None:
        async with streams() as (client, server):
            await client.write(b"x" * 1001 + b"\n")
            with pytest.raises(asyncio.LimitOverrunError) as caught:
                await server.readline()
            assert await server.readexactly(caught.value.consumed) == b"x" * 1001 + b"\n"

    run(main())


def test_both_ends_and_nobody_else_know_what_is_exported(place: Place) -> None:
    async def main() -> None:
        async with streams(place) as (client, server):
            assert client.export("EXPERIMENTAL-label", 48) == server.export(b"EXPERIMENTAL-label", 48)
            assert len({client.export(label, 32, context) for label in "ab" for context in (b"", b"x")}) == 4
            assert client.export("EXPORTER-Channel-Binding", 32) == server.connection.exporter()
            assert client.get_extra_info("peername") == server.get_extra_info("sockname")
            assert client.get_extra_info("cipher", "unknown") == "unknown"
            client.abort()
            assert client.get_extra_info("peername") is None

    run(main())


def test_a_peer_that_nobody_judged_is_a_key_and_no_more() -> None:
    async def main() -> None:
        async with streams() as (client, server):
            assert (server.peer.verdict, server.peer.facts, server.peer.level) == (None, None, BindingLevel.NONE)
            assert server.peer.certificate == client_identity().certificate
            assert client.relay is None
        async with streams("inside") as (client, _):
            assert client.relay is not None
            assert client.relay.certificate == client.peer.certificate == server_identity().certificate

    run(main())


def test_a_block_closes_its_stream_and_says_goodbye_only_where_it_ended_well(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "PARTING_TIMEOUT", 0.05)

    async def fail(stream: AttestedStream) -> None:
        async with stream:
            await stream.write(b"half of it")
            raise ZeroDivisionError

    async def main() -> None:
        async with streams(place) as (client, server):
            async with server:
                server.write(b"all of it")
                server.close()
                server.close()
            assert await read_all(client) == b"all of it"
        async with streams(place) as (client, server):
            reading = asyncio.create_task(read_all(client))
            with pytest.raises(ZeroDivisionError):
                await fail(server)
            assert await reason_of(reading) is Reason.PEER_CLOSED

    run(main())


# --- ends


def test_a_goodbye_ends_one_way_and_leaves_the_other_open(place: Place) -> None:
    async def main() -> None:
        async with streams(place) as (client, server):
            await client.write(b"question")
            await client.finish()
            await client.finish()
            assert await read_all(server) == b"question"
            await server.write(b"answer")
            await server.finish()
            assert await read_all(client) == b"answer"

    run(main())


def test_a_goodbye_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with streams() as (client, server):
            shutdown = client.connection.shutdown
            full = iter([Want.WRITE])
            monkeypatch.setattr(client.connection, "shutdown", lambda: next(full, None) or shutdown())
            await client.finish()
            assert await read_all(server) == b""

    run(main())


def test_a_goodbye_in_the_middle_of_a_record_is_none() -> None:
    """A write that was given up leaves a record torn, and a torn stream must not look like a finished one."""

    async def main() -> None:
        async with streams() as (client, server):
            while client.send_now(bytes(65536)) is not Want.WRITE:
                pass
            closing = asyncio.ensure_future(client.close())
            assert await reason_of(read_all(server)) is Reason.PEER_CLOSED
            server.abort()
            await closing

    run(main())


def test_a_peer_that_vanishes_is_no_good_end(place: Place) -> None:
    async def main() -> None:
        async with streams(place) as (client, server):
            client.abort()
            assert await reason_of(server.read()) is Reason.PEER_CLOSED

    run(main())


def test_closing_lets_the_peer_read_all_that_came_before(place: Place) -> None:
    """The peer has sent bytes that nobody reads: closing over them would reset the connection under its hands."""
    last_words = os.urandom(400_000)

    async def main() -> None:
        async with streams(place) as (client, server):
            socket_of(client).setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
            socket_of(server).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(last_words))
            await client.write(bytes(100_000))
            await server.write(last_words)
            closing = asyncio.ensure_future(server.close())
            assert await read_all(client) == last_words
            client.abort()
            await closing

    run(main())


@pytest.mark.parametrize("leave", [AttestedStream.close, AttestedStream.part])
def test_a_peer_that_does_not_hang_up_is_not_waited_for_long(
    place: Place, leave: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "PARTING_TIMEOUT", 0.05)

    async def main() -> None:
        async with streams(place) as (client, server):
            await leave(server)
            assert socket_of(server).fileno() == -1
            assert socket_of(client).fileno() != -1

    run(main())


def test_a_peer_that_sends_on_and_on_is_not_listened_to_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAX_UNREAD", 100_000)

    async def main() -> None:
        async with streams() as (client, server):
            flood = asyncio.ensure_future(client.write(bytes(8 * MUCH)))
            await server.close()
            assert await reason_of(flood) is Reason.PEER_CLOSED

    run(main())


def test_closing_what_is_closed_is_nothing(place: Place) -> None:
    async def main() -> None:
        async with streams(place) as (client, _):
            client.abort()
            await client.close()
            await client.part()
            client.abort()

    run(main())


def test_whoever_waits_on_a_stream_that_is_closed_here_is_told() -> None:
    """As an error, not as a cancellation that nobody asked for."""

    async def main() -> None:
        async with streams() as (client, _):
            reading = asyncio.create_task(client.read())
            await until(lambda: is_waiting(client))
            client.abort()
            assert await reason_of(reading) is Reason.PEER_CLOSED

    run(main())


def test_a_descriptor_that_is_closed_under_a_reader_can_be_used_again() -> None:
    """The loop must have forgotten a number before somebody else gets it."""

    async def main() -> None:
        async with streams() as (client, _):
            number = socket_of(client).fileno()
            reading = asyncio.create_task(client.read())
            await until(lambda: is_waiting(client))
            client.abort()
            async with contextlib.AsyncExitStack() as stack:
                one, other = tcp_pair()
                while number not in (one.fileno(), other.fileno()):
                    stack.callback(one.close)
                    stack.callback(other.close)
                    assert number > max(one.fileno(), other.fileno()), "somebody else has it"
                    one, other = tcp_pair()
            asked, answered = await asyncio.gather(
                stream_on(one, server_side=False), stream_on(other, server_side=True)
            )
            await asked.write(b"x")
            assert await answered.read() == b"x"
            asked.abort()
            answered.abort()
            assert await reason_of(reading) is Reason.PEER_CLOSED

    run(main())


def test_a_stream_that_is_closed_here_touches_its_descriptor_no_more(place: Place) -> None:
    """OpenSSL holds a number, and the number may be another connection's by now."""

    async def main() -> None:
        async with streams(place) as (client, server):
            client.push_back(b"early")
            client.abort()
            for operation in (client.read(), client.write(b"x"), client.finish(), client._receive_control(1)):
                assert await reason_of(operation) is Reason.USAGE
            with pytest.raises(Misuse):
                client.send_now(b"x")
            with pytest.raises(Misuse):
                client.receive_now(1)
            server.abort()

    run(main())


def test_the_last_words_of_an_exchange_go_in_one_record_with_what_is_written_first(place: Place) -> None:
    async def main() -> None:
        async with streams(place) as (client, server):
            server._send_ahead(b"accept ")
            server.write(b"and hello")
            assert await client.read() == b"accept and hello"

    run(main())


@pytest.mark.parametrize("end", ["nothing", "drain", "finish", "part"])
def test_they_are_sent_without_it_as_well(place: Place, end: str) -> None:
    async def main() -> None:
        async with streams(place) as (client, server):
            server._send_ahead(b"accept")
            if end != "nothing":
                await getattr(server, end)()
            assert await read_exactly(client, 6) == b"accept"

    run(main())


# --- cancellation and time


def test_a_read_that_is_given_up_loses_nothing(place: Place) -> None:
    async def main() -> None:
        async with streams(place) as (client, server):
            reading = asyncio.create_task(client.read())
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert not watched()
            await server.write(b"still here")
            assert await read_exactly(client, 10) == b"still here"

    run(main())


def test_a_write_that_is_given_up_arrives_whole_even_so(place: Place) -> None:
    """What was written is sent; given up is the waiting for it. A stream is never left with half a record."""

    async def main() -> None:
        async with streams(place) as (client, server):
            writing = asyncio.ensure_future(client.write(bytes(2 * MUCH)))
            await until(lambda: bool(client._outgoing or client.relay))
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
            client.write(b"the end")
            reading = asyncio.create_task(read_exactly(server, 2 * MUCH + 7))
            await client.drain()
            assert await reading == bytes(2 * MUCH) + b"the end"

    run(main())


def test_a_timeout_around_any_wait_is_a_timeout_and_the_stream_goes_on(place: Place) -> None:
    async def main() -> None:
        async with streams(place) as (client, server):
            client.write(bytes(2 * MUCH))
            waits = (client.drain, client.finish, server.readline, client.read, lambda: client.readexactly(5))
            for wait in (waits[0], waits[1], waits[3], waits[4]):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await wait()
            assert await read_exactly(server, 2 * MUCH) == bytes(2 * MUCH)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await server.readline()
            await client.write(b"line\n")
            await client.finish()
            assert await server.readline() == b"line\n"
            await server.write(b"12345")
            assert await client.readexactly(5) == b"12345"

    run(main())


def test_a_close_that_is_not_waited_for_goes_on_by_itself(place: Place) -> None:
    async def main() -> None:
        async with streams(place) as (client, server):
            client.write(bytes(2 * MUCH))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await client.close()
            assert client.is_closing()
            assert await reason_of(client.write(b"more")) is Reason.USAGE
            assert await read_all(server) == bytes(2 * MUCH)
            server.close()
            await server.wait_closed()
            await client.wait_closed()
            assert not watched()

    run(main())


def test_a_peer_that_takes_nothing_is_not_waited_for_for_ever(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "STALLED", 0.05)
    monkeypatch.setattr(stream_module, "PARTING_TIMEOUT", 0.05)

    async def main() -> None:
        async with streams(place) as (client, server):
            client.write(bytes(4 * MUCH))
            await client.close()
            assert socket_of(client).fileno() == -1
            # What was torn does not look finished.
            assert await reason_of(read_all(server)) is Reason.PEER_CLOSED

    run(main())


def test_one_of_two_that_wait_may_give_up() -> None:
    async def main() -> None:
        async with streams() as (client, server):
            link: Any = client._link
            waiting = [asyncio.create_task(link._reading.wait()) for _ in range(2)]
            await until(lambda: len(link._reading._waiting) == 2)
            waiting[0].cancel()
            await until(waiting[0].done)
            await server.write(b"x")
            await waiting[1]

    run(main())


def test_a_handshake_that_stalls_ends_and_closes_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "HANDSHAKE_TIMEOUT", 0.05)
    monkeypatch.setattr(stream_module, "PARTING_TIMEOUT", 0.05)

    async def main() -> None:
        one, other = tcp_pair()
        connection = connection_on(one, server_identity(), server_side=True)
        assert await reason_of(secure(connection, one)) is Reason.PEER_TIMEOUT
        assert one.fileno() == -1
        assert not watched()
        other.close()

    run(main())


def test_a_handshake_that_is_given_up_closes_the_socket() -> None:
    async def main() -> None:
        one, other = tcp_pair()
        securing = asyncio.create_task(secure(connection_on(one, server_identity(), server_side=True), one))
        await until(lambda: bool(watched()))
        securing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await securing
        assert one.fileno() == -1
        assert not watched()
        other.close()

    run(main())


def test_a_refused_client_hears_why_whatever_it_has_sent_on() -> None:
    """An alert is on its way; the client's bytes that nobody reads must not turn it into a reset."""

    async def main() -> None:
        one, other = tcp_pair()
        client = connection_on(one, client_identity(), server_side=False, alpn=b"h2")
        assert client.handshake() is Want.READ
        one.send(bytes(60_000))
        server = asyncio.create_task(secure(connection_on(other, server_identity(), server_side=True), other))
        error = await asyncio.gather(secure(client, one), return_exceptions=True)
        assert isinstance(error[0], PeerMisbehaved)
        assert "alert no application protocol" in error[0].message
        assert await reason_of(server) is Reason.TLS_HANDSHAKE

    run(main())


def test_a_deadline_names_what_has_not_finished() -> None:
    async def main() -> None:
        async with deadline(0.01, "a step"):
            await asyncio.Event().wait()

    with pytest.raises(PeerMisbehaved) as caught:
        run(main())
    assert caught.value.reason is Reason.PEER_TIMEOUT
    assert "a step" in caught.value.message


def test_a_timeout_that_is_not_the_step_s_own_stays_what_it_is() -> None:
    """An outer `asyncio.timeout`, or a step that has none."""

    async def main() -> None:
        for seconds in (None, 60.0):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), deadline(seconds, "a step"):
                    await asyncio.Event().wait()
            with pytest.raises(TimeoutError):
                async with deadline(seconds, "a step"):
                    raise TimeoutError

    run(main())
