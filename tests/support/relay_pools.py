"""Pools of a relay with scripted workloads: every channel is a real TLS connection, and a test holds its other end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from eaa.aio.stream import AttestedStream
from eaa.appraise.appraisal import SessionBinding
from eaa.appraise.result import BindingLevel, Role
from eaa.errors import EAAError
from eaa.inclavared.counters import ChannelCounters
from eaa.inclavared.judged import Judged
from eaa.inclavared.pool import Channel, Pool
from eaa.inclavared.settings import Target
from eaa.program.address import TCPAddress
from support.aio_world import stream_on, tcp_pair
from support.tls_world import NOW


@dataclass
class ScriptedVerifier:
    """Somebody who judges, as far as a pool looks at them."""

    collateral_generation: int = 0
    moment: datetime = NOW

    def now(self) -> datetime:
        return self.moment


@dataclass
class FakeAttestation:
    """What a pool knows of an attestation."""

    stream: AttestedStream


def target_of(verifier: Any, *, name: str = "web", warm: int = 2, port: int = 1) -> Target:
    """A workload as its operator describes it."""
    return Target(name=name, address=TCPAddress("127.0.0.1", port), verifier=verifier, warm_channels=warm)


def judged_by(verifier: Any, *, since: float, expires: datetime | None = None) -> Judged:
    """A judgement of a moment ago."""
    return Judged(
        role=Role.WORKLOAD,
        session=SessionBinding(evidence=b"a quote", report_data=bytes(64), level=BindingLevel.FRESH),
        by=verifier,
        generation=verifier.collateral_generation,
        since=since,
        expires=expires or NOW + timedelta(days=30),
    )


@dataclass
class ScriptedWorkload:
    """Opens channels whose other ends it keeps; may fail, or hold an opening up."""

    failures: list[EAAError] = field(default_factory=list)
    """Of the next attempts, in order."""
    down: EAAError | None = None
    """Of every attempt, for as long as it is set."""
    attempts: int = 0
    given: list[Channel] = field(default_factory=list)
    ends: list[AttestedStream] = field(default_factory=list)
    may_open: asyncio.Event = field(default_factory=asyncio.Event)
    expires: datetime | None = None

    async def __call__(self, target: Target) -> Channel:
        self.attempts += 1
        await self.may_open.wait()
        if self.failures:
            raise self.failures.pop(0)
        if self.down is not None:
            raise self.down
        verifier: Any = target.verifier
        since = asyncio.get_running_loop().time()
        judged = None if verifier is None else judged_by(verifier, since=since, expires=self.expires)
        one, other = tcp_pair()
        try:
            mine, theirs = await asyncio.gather(stream_on(one, server_side=False), stream_on(other, server_side=True))
        except BaseException:
            one.close()
            other.close()
            raise
        attestation: Any = FakeAttestation(mine)
        channel = Channel(attestation=attestation, target=target, judged=judged)
        self.given.append(channel)
        self.ends.append(theirs)
        return channel

    def end_of(self, channel: Channel) -> AttestedStream:
        """The workload's end of this channel."""
        return self.ends[self.given.index(channel)]

    def hang_up(self) -> None:
        """Close everything, as a workload that is killed."""
        for end in self.ends:
            end.abort()


@dataclass
class PoolWorld:
    """One pool, its workload and its verifier."""

    pool: Pool
    workload: ScriptedWorkload
    verifier: ScriptedVerifier
    counters: ChannelCounters


@asynccontextmanager
async def pool_world(
    *, warm: int = 2, lifetime: float = 300.0, judged: bool = True, jitter: Callable[[], float] = lambda: 0.0
) -> AsyncIterator[PoolWorld]:
    """A pool that has begun."""
    verifier, workload, counters = ScriptedVerifier(), ScriptedWorkload(), ChannelCounters()
    workload.may_open.set()
    target = target_of(verifier if judged else None, warm=warm)
    pool = Pool(target, workload, counters=counters, lifetime=lifetime, jitter=jitter)
    pool.start()
    try:
        yield PoolWorld(pool=pool, workload=workload, verifier=verifier, counters=counters)
    finally:
        pool.close()
        workload.hang_up()
        for channel in workload.given:
            channel.abort()
