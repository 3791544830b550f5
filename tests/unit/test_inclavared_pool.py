"""Warm channels: each carries one session, and none is handed out whose workload may be other than it was judged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import SimpleNamespace

import pytest

from eaa.errors import EAAError, PeerMisbehaved, Reason, Rejection, Unavailable
from eaa.inclavared import pool as pool_module
from eaa.inclavared.channels import Channels
from eaa.inclavared.counters import RelayCounters
from eaa.inclavared.pool import LONGEST_PAUSE, Channel
from eaa.inclavared.settings import Settings
from support.aio_world import run, settable_clock, until
from support.relay_pools import PoolWorld, ScriptedVerifier, ScriptedWorkload, pool_world, target_of
from support.tls_world import NOW

DOWN = Unavailable(Reason.CONNECTION_FAILED, "nobody listens there")
TORN = PeerMisbehaved(Reason.PEER_CLOSED, "the workload has closed the connection")
BAD = Rejection(Reason.MEASUREMENT_MISMATCH, "the workload is another one")


def in_world(test: Callable[[PoolWorld], Awaitable[None]], **options: object) -> None:
    """Run a test with a pool that has filled itself."""

    async def main() -> None:
        async with pool_world(**options) as world:  # type: ignore[arg-type]
            await until(lambda: world.pool.ready == world.pool.target.pool_size)
            await test(world)

    run(main())


async def carries(world: PoolWorld, channel: Channel) -> bool:
    """Whether bytes go through a channel, from the first one on."""
    await channel.attestation.stream.write(b"hello")
    return await world.workload.end_of(channel).read() == b"hello"


def judge_of(channel: Channel) -> object:
    """Who has judged the workload of a channel."""
    assert channel.judged is not None
    return channel.judged.by


async def refusal(take: Awaitable[Channel]) -> EAAError:
    with pytest.raises(Unavailable) as caught:
        await take
    assert caught.value.reason is Reason.WORKLOAD_UNAVAILABLE
    return caught.value


# --- good days


def test_a_channel_is_ready_before_anybody_asks_and_another_one_after() -> None:
    async def test(world: PoolWorld) -> None:
        before = world.workload.attempts
        assert before == 2
        channel = await world.pool.take()
        # Nothing was opened for it.
        assert channel in world.workload.given[:before]
        assert await carries(world, channel)
        await until(lambda: world.pool.ready == 2)
        assert world.workload.attempts == before + 1
        assert (world.counters.handed_out, world.counters.opened, world.counters.ready) == (1, 3, 2)

    in_world(test)


def test_no_channel_is_ever_handed_out_twice() -> None:
    async def test(world: PoolWorld) -> None:
        taken = [await world.pool.take() for _ in range(8)]
        assert len({id(channel) for channel in taken}) == 8
        at_once = await asyncio.gather(*(world.pool.take() for _ in range(8)))
        assert len({id(channel) for channel in (*taken, *at_once)}) == 16
        assert all([await carries(world, channel) for channel in at_once])

    in_world(test)


def test_without_warm_channels_each_is_opened_when_it_is_asked_for() -> None:
    async def test(world: PoolWorld) -> None:
        assert world.workload.attempts == 0
        assert await carries(world, await world.pool.take())
        assert (world.workload.attempts, world.pool.ready) == (1, 0)

    in_world(test, warm=0)


def test_of_a_workload_that_nobody_judges_nothing_is_kept() -> None:
    async def test(world: PoolWorld) -> None:
        assert (world.pool.ready, world.workload.attempts) == (0, 0)
        assert await carries(world, await world.pool.take())

    in_world(test, judged=False)


# --- what makes a warm channel useless


async def close(world: PoolWorld) -> None:
    for end in world.workload.ends:
        end.abort()


async def speak(world: PoolWorld) -> None:
    for end in world.workload.ends:
        await end.write(b"!")


async def say_goodbye(world: PoolWorld) -> None:
    for end in world.workload.ends:
        await end.finish()


async def renew_collateral(world: PoolWorld) -> None:
    world.verifier.collateral_generation += 1


async def reload(world: PoolWorld) -> None:
    world.pool.retarget(target_of(ScriptedVerifier()), lifetime=300)


async def let_documents_end(world: PoolWorld) -> None:
    world.verifier.moment = NOW + timedelta(days=31)
    world.workload.expires = NOW + timedelta(days=60)


async def shorten_the_lifetime(world: PoolWorld) -> None:
    world.pool.retarget(target_of(world.verifier), lifetime=300)


USELESS = [
    (close, "closed"),
    (speak, "closed"),
    (say_goodbye, "closed"),
    (renew_collateral, "collateral"),
    (reload, "reload"),
    (shorten_the_lifetime, "reload"),
    (let_documents_end, "expired"),
]


@pytest.mark.parametrize(("change", "reason"), USELESS, ids=lambda case: getattr(case, "__name__", case))
def test_a_warm_channel_is_not_handed_out_after(change: Callable[[PoolWorld], Awaitable[None]], reason: str) -> None:
    async def test(world: PoolWorld) -> None:
        old = list(world.workload.given)
        await change(world)
        channel = await world.pool.take()
        assert channel not in old
        assert await carries(world, channel)
        world.pool.sweep()
        await until(lambda: world.pool.ready == 2)
        assert world.counters.discarded[reason] == 2
        # They are closed, and not merely forgotten.
        await until(lambda: all(each.attestation.stream.is_closing() for each in old))

    in_world(test)


def test_a_warm_channel_whose_judgement_is_too_old_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: PoolWorld) -> None:
        (old,) = world.workload.given
        world.pool.sweep()
        assert world.counters.discarded == {}
        settable_clock()(30.0)
        monkeypatch.setattr(pool_module, "time", SimpleNamespace(monotonic=asyncio.get_running_loop().time))
        channel = await world.pool.take()
        assert channel is not old
        assert world.counters.discarded["aged"] == 1

    in_world(test, warm=1, lifetime=30.0)


def test_a_dead_channel_is_replaced_before_anybody_asks() -> None:
    async def test(world: PoolWorld) -> None:
        old = list(world.workload.given)
        await close(world)
        await until(lambda: world.counters.discarded["closed"] == 2 and world.pool.ready == 2)
        assert await world.pool.take() not in old

    in_world(test)


def test_what_was_judged_by_the_settings_of_before_is_not_handed_out_even_if_it_comes_later() -> None:
    """The reload falls into the opening of a channel, a client's and the pool's own."""

    async def test(world: PoolWorld) -> None:
        world.workload.may_open.clear()
        taking = asyncio.create_task(world.pool.take())
        await until(lambda: world.workload.attempts == 1)
        verifier = ScriptedVerifier()
        world.pool.retarget(target_of(verifier, warm=0), lifetime=300)
        world.workload.may_open.set()
        channel = await taking
        assert channel.target is world.pool.target
        assert judge_of(channel) is verifier
        assert world.workload.given[0].attestation.stream.is_closing()

    in_world(test, warm=0)


def test_what_failed_by_the_settings_of_before_is_no_outage_today() -> None:
    async def test(world: PoolWorld) -> None:
        world.workload.may_open.clear()
        world.workload.failures = [BAD]
        taking = asyncio.create_task(world.pool.take())
        await until(lambda: world.workload.attempts == 1)
        world.pool.retarget(target_of(ScriptedVerifier(), warm=0), lifetime=300)
        world.workload.may_open.set()
        assert await carries(world, await taking)
        assert world.pool.outage is None

    in_world(test, warm=0)


def test_who_leaves_while_a_channel_is_taken_leaves_none_behind() -> None:
    async def test(world: PoolWorld) -> None:
        (only,) = world.workload.given
        taking = asyncio.create_task(world.pool.take())
        await asyncio.sleep(0)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        await until(lambda: only.attestation.stream.is_closing() or world.pool.ready == 1)
        assert await world.pool.take() is not only

    in_world(test, warm=1)


def test_a_workload_that_hangs_up_on_every_warm_channel_is_not_bothered_all_the_time() -> None:
    async def test(world: PoolWorld) -> None:
        for _ in range(2):
            await until(lambda: world.pool.ready == 1)
            attempts = world.workload.attempts
            await close(world)
            await until(lambda: world.pool.ready == 0)
            assert world.workload.attempts == attempts
        # A client is served at once even so.
        assert await carries(world, await world.pool.take())

    in_world(test, warm=1)


# --- bad days


def test_an_outage_is_told_at_once_with_its_cause_its_beginning_and_the_next_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "FIRST_PAUSE", 30.0)
    monkeypatch.setattr(pool_module, "LONGEST_PAUSE", 30.0)
    monkeypatch.setattr(pool_module, "DEMAND_PAUSE", 30.0)

    async def test(world: PoolWorld) -> None:
        world.workload.down = DOWN
        await close(world)
        await refusal(world.pool.take())
        attempts = world.workload.attempts
        for _ in range(50):
            error = await refusal(world.pool.take())
        assert world.workload.attempts == attempts
        assert world.counters.unavailable_since is not None
        assert f"since {world.counters.unavailable_since:%Y-%m-%dT%H:%M}" in error.message
        assert "[CONNECTION_FAILED]" in error.message
        assert "next attempt" in error.message

    in_world(test)


@pytest.mark.parametrize("warm", [0, 2])
def test_a_workload_that_comes_back_is_found(warm: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(pool_module, "LONGEST_PAUSE", 0.02)

    async def test(world: PoolWorld) -> None:
        world.workload.down = DOWN
        await close(world)
        while world.pool.outage is None:
            await asyncio.gather(world.pool.take(), return_exceptions=True)
        world.workload.down = None
        while world.pool.outage is not None:
            await asyncio.sleep(0.01)
            if warm == 0:
                await asyncio.gather(world.pool.take(), return_exceptions=True)
        assert world.counters.unavailable_since is None  # type: ignore[unreachable]  # another task has changed it
        assert await carries(world, await world.pool.take())
        await until(lambda: world.pool.ready == warm)

    in_world(test, warm=warm)


def test_pauses_grow_up_to_a_limit_and_differ_from_node_to_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(pool_module, "LONGEST_PAUSE", 0.004)
    pauses: list[float] = []

    async def test(world: PoolWorld) -> None:
        world.workload.down = DOWN
        await close(world)
        while len(pauses) < 5:
            outage = world.pool.outage
            if outage is not None and len(pauses) < outage.failures:
                pauses.append(outage.pause)
            await asyncio.sleep(0)

    in_world(test, jitter=lambda: 0.5)
    assert pauses == pytest.approx([0.00075, 0.0015, 0.003, 0.003, 0.003])
    assert LONGEST_PAUSE <= 10


def test_a_channel_that_is_torn_while_it_is_opened_is_opened_once_more() -> None:
    async def test(world: PoolWorld) -> None:
        world.workload.failures = [TORN]
        assert await carries(world, await world.pool.take())
        assert world.workload.attempts == 2
        world.workload.failures = [TORN, TORN]
        assert "[PEER_CLOSED]" in (await refusal(world.pool.take())).message

    in_world(test, warm=0)


def test_a_workload_that_is_refused_is_not_asked_twice_and_is_out_of_reach_then() -> None:
    async def test(world: PoolWorld) -> None:
        world.workload.down = BAD
        assert "[MEASUREMENT_MISMATCH]" in (await refusal(world.pool.take())).message
        assert world.workload.attempts == 1
        assert world.pool.outage is not None

    in_world(test, warm=0)


def test_what_is_wrong_on_this_side_is_no_outage() -> None:
    async def test(world: PoolWorld) -> None:
        world.workload.failures = [Unavailable(Reason.OVERLOADED, "quotes are waited for")]
        await refusal(world.pool.take())
        assert world.pool.outage is None
        assert await carries(world, await world.pool.take())

    in_world(test, warm=0)


def test_many_who_fail_together_make_one_pause() -> None:
    async def test(world: PoolWorld) -> None:
        world.workload.may_open.clear()
        world.workload.down = DOWN
        together = [asyncio.create_task(world.pool.take()) for _ in range(20)]
        await until(lambda: world.workload.attempts == 20)
        world.workload.may_open.set()
        await asyncio.gather(*together, return_exceptions=True)
        assert world.pool.outage is not None
        assert world.pool.outage.failures == 1

    in_world(test, warm=0)


def test_a_reload_ends_an_outage_that_it_may_have_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "FIRST_PAUSE", 30.0)
    monkeypatch.setattr(pool_module, "LONGEST_PAUSE", 30.0)

    async def test(world: PoolWorld) -> None:
        world.workload.down = BAD
        await close(world)
        await refusal(world.pool.take())
        world.workload.down = None
        world.pool.retarget(target_of(ScriptedVerifier()), lifetime=300)
        assert await carries(world, await world.pool.take())
        await until(lambda: world.pool.ready == 2)

    in_world(test)


# --- many workloads


def test_a_channel_that_was_judged_for_one_workload_is_never_another_one_s() -> None:
    async def main() -> None:
        opener, counters = ScriptedWorkload(), RelayCounters()
        opener.may_open.set()
        lenient, strict = ScriptedVerifier(), ScriptedVerifier()
        targets = {
            "lenient": target_of(lenient, name="lenient", port=1),
            # The same place even: what differs is by whose policy it was judged.
            "strict": target_of(strict, name="strict", port=1),
        }
        channels = Channels(opener, counters)  # type: ignore[arg-type]
        channels.apply(Settings(targets=targets))
        await until(lambda: [counters.of(name).ready for name in targets] == [2, 2])
        for _ in range(5):
            for name, verifier in (("lenient", lenient), ("strict", strict)):
                channel = await channels.take(targets[name])
                assert channel.target is targets[name]
                assert judge_of(channel) is verifier
        # One that is configured no more has nothing ready any more.
        channels.apply(Settings(targets={"strict": targets["strict"]}))
        assert set(counters.channels) == {"strict"}
        channels.close()
        opener.hang_up()
        for channel in opener.given:
            channel.abort()

    run(main())
