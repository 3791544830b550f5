"""The first words of a session: carried until the workload answers, and said once more where the channel was dead."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from eaa.aio.relay import Limits, pump
from eaa.aio.stream import AttestedStream
from eaa.errors import PeerMisbehaved, Reason, Unavailable
from eaa.inclavared import first_words
from eaa.inclavared.first_words import MAX_FIRST_WORDS, Begun, carry_first_words
from eaa.inclavared.pool import Channel
from support.aio_world import is_waiting, run, settable_clock, stream_on, tcp_pair, until
from support.relay_pools import ScriptedVerifier, ScriptedWorkload, target_of

HELLO = b"\x16\x03\x01\x00\x05hello"


@dataclass
class Joined:
    """A client, the relay's end of its connection, and a workload with one channel open."""

    client: AttestedStream
    relay: AttestedStream
    workload: ScriptedWorkload
    channel: Channel
    limits: Limits = field(default_factory=Limits)

    async def carry(self) -> tuple[AttestedStream, int]:
        begun = await self.begin()
        return begun.workload, begun.said

    async def begin(self) -> Begun:
        stream = self.channel.attestation.stream
        return await carry_first_words(self.relay, stream, replace=self._replace, limits=self.limits)

    async def _replace(self) -> AttestedStream:
        return (await self.workload(self.channel.target)).attestation.stream

    @property
    def streams(self) -> list[AttestedStream]:
        """The relay's ends of all channels so far."""
        return [channel.attestation.stream for channel in self.workload.given]

    @property
    def socket(self) -> socket.socket:
        found = self.channel.attestation.stream.get_extra_info("socket")
        assert isinstance(found, socket.socket)
        return found


@asynccontextmanager
async def joined() -> AsyncIterator[Joined]:
    one, other = tcp_pair()
    client, relay = await asyncio.gather(stream_on(one, server_side=False), stream_on(other, server_side=True))
    workload = ScriptedWorkload()
    workload.may_open.set()
    channel = await workload(target_of(ScriptedVerifier()))
    try:
        yield Joined(client=client, relay=relay, workload=workload, channel=channel)
    finally:
        workload.hang_up()
        for stream in (client, relay, *(channel.attestation.stream for channel in workload.given)):
            stream.abort()


def test_what_both_have_said_is_there_for_who_carries_on() -> None:
    async def scenario() -> None:
        async with joined() as here:
            carrying = asyncio.create_task(here.carry())
            (end,) = here.workload.ends
            for words in (HELLO[:3], HELLO[3:]):
                await here.client.write(words)
                assert await end.readexactly(len(words)) == words
            await end.write(b"answer")
            channel, said = await carrying
            assert (channel, said) == (here.streams[0], len(HELLO))
            assert await channel.read() == b"answer"
            await here.client.write(b"more")
            assert await here.relay.read() == b"more"

    run(scenario())


@pytest.mark.parametrize("before", [True, False], ids=["before the client speaks", "after it"])
@pytest.mark.parametrize("goodbye", [True, False], ids=["with a goodbye", "without"])
def test_a_channel_that_breaks_before_its_workload_answers_is_replaced(*, before: bool, goodbye: bool) -> None:
    async def scenario() -> None:
        async with joined() as here:
            carrying = asyncio.create_task(here.carry())
            (first,) = here.workload.ends
            await here.client.write(HELLO)
            if not before:
                assert await first.readexactly(len(HELLO)) == HELLO
            if goodbye:
                await first.close()
            else:
                first.abort()
            await until(lambda: len(here.workload.ends) == 2)
            second = here.workload.ends[1]
            assert await second.readexactly(len(HELLO)) == HELLO
            await second.write(b"answer")
            channel, said = await carrying
            assert channel is here.streams[1]
            assert said == len(HELLO)
            assert here.streams[0].is_closing()

    run(scenario())


@pytest.mark.parametrize(
    "words", [b"GET / HTTP/1.1\r\n\r\n", HELLO * (MAX_FIRST_WORDS // 5)], ids=["other", "too much"]
)
def test_nothing_but_the_beginning_of_a_handshake_is_said_twice(words: bytes) -> None:
    """Whoever makes a workload hang up costs one channel, and not two."""

    async def scenario() -> None:
        async with joined() as here:
            carrying = asyncio.create_task(here.carry())
            await here.client.write(words)
            channel, said = await carrying
            here.workload.ends[0].abort()
            assert (said > 0) == words.startswith(HELLO)
            assert channel is here.streams[0]
            assert here.workload.attempts == 1

    run(scenario())


def test_it_is_replaced_once() -> None:
    async def scenario() -> None:
        async with joined() as here:
            carrying = asyncio.create_task(here.carry())
            await here.client.write(HELLO)
            for number in range(2):
                await until(lambda wanted=number + 1: len(here.workload.ends) == wanted)  # type: ignore[misc]
                await here.workload.ends[number].close()
            channel, _ = await carrying
            assert here.workload.attempts == 2
            assert await channel.read() == b""

    run(scenario())


def test_where_none_can_be_had_the_client_loses_its_session() -> None:
    async def scenario() -> None:
        async with joined() as here:
            here.workload.down = Unavailable(Reason.CONNECTION_FAILED, "nobody is there")
            await here.client.write(HELLO)
            here.workload.ends[0].abort()
            with pytest.raises(Unavailable) as caught:
                await here.carry()
            assert caught.value.reason is Reason.CONNECTION_FAILED

    run(scenario())


@pytest.mark.parametrize("client", ["goes", "says goodbye", "is silent"])
def test_who_carries_on_hears_of_a_client_that_says_nothing(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_words, "PATIENCE", 0.05)

    async def scenario() -> None:
        async with joined() as here:
            if client == "goes":
                here.client.abort()
            elif client == "says goodbye":
                await here.client.finish()
            assert await here.carry() == (here.streams[0], 0)
            if client == "goes":
                with pytest.raises(PeerMisbehaved) as caught:
                    await here.relay.read()
                assert caught.value.reason is Reason.PEER_CLOSED
            elif client == "says goodbye":
                assert await here.relay.read() == b""
            else:
                await here.client.write(b"at last")
                assert await here.relay.read() == b"at last"

    run(scenario())


@pytest.mark.parametrize("limits", [Limits(idle=0.05), Limits(lifetime=0.05)], ids=["idle", "lifetime"])
def test_who_opens_and_never_speaks_is_held_for_no_longer_than_who_falls_silent(limits: Limits) -> None:
    """The attack: clients that open and say nothing keep their channels for ten seconds more than the operator gave."""

    async def scenario() -> None:
        async with joined() as here:
            here.limits = limits
            opened = asyncio.get_running_loop().time()
            begun = await here.begin()
            # Far less than PATIENCE, however busy the machine is.
            assert asyncio.get_running_loop().time() - opened < first_words.PATIENCE / 2
            # It is the opening, and neither a word nor the end of the waiting.
            assert opened <= begun.last <= asyncio.get_running_loop().time() - 0.049
            relayed = await pump(here.relay, begun.workload, limits=limits, last=begun.last)
            assert relayed.failure is not None
            assert relayed.failure.reason is Reason.PEER_TIMEOUT

    run(scenario())


def test_a_client_s_last_word_is_where_its_silence_begins() -> None:
    async def scenario() -> None:
        put_forward, loop = settable_clock(), asyncio.get_running_loop()
        async with joined() as here:
            carrying = asyncio.create_task(here.begin())
            await until(lambda: is_waiting(here.relay))
            put_forward(first_words.PATIENCE / 2)
            spoke = loop.time()
            await here.client.write(HELLO)
            assert await here.workload.ends[0].readexactly(len(HELLO)) == HELLO
            # Its workload is waited for in vain.
            put_forward(first_words.PATIENCE)
            begun = await carrying
            assert spoke <= begun.last <= loop.time() - first_words.PATIENCE

    run(scenario())


def test_a_workload_that_takes_its_time_keeps_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_words, "PATIENCE", 0.5)

    async def scenario() -> None:
        async with joined() as here:
            await here.client.write(HELLO)
            assert await here.carry() == (here.streams[0], len(HELLO))
            await here.workload.ends[0].write(b"answer")
            assert await here.streams[0].read() == b"answer"

    run(scenario())


def test_the_system_gives_up_a_host_that_acknowledges_nothing_and_no_slow_reader_later() -> None:
    """TCP_USER_TIMEOUT, tcp(7): later it would end a session whose workload reads nothing for a while."""

    async def scenario() -> None:
        async with joined() as here:
            carrying = asyncio.create_task(here.carry())
            await here.client.write(HELLO)
            await here.workload.ends[0].readexactly(len(HELLO))
            assert here.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 3000
            await here.workload.ends[0].write(b"answer")
            await carrying
            assert here.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0

    run(scenario())
