"""Channels to all workloads of a relay: opened and attested both ways, pooled by workload."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from eaa.aio.address import unavailable_from_os_error
from eaa.aio.client import patiently
from eaa.aio.net import connect
from eaa.aio.sessions import Endpoint, judge_by
from eaa.appraise.result import Role
from eaa.errors import Reason, Unavailable
from eaa.inclavared.counters import RelayCounters
from eaa.inclavared.judged import Witness
from eaa.inclavared.pool import Channel, Pool
from eaa.inclavared.settings import Settings, Target
from eaa.protocol.exchange import Terms
from eaa.verifier import wall_clock

_KEEP_ALIVE: Final = (
    (socket.SO_KEEPALIVE, socket.SOL_SOCKET, 1),
    (socket.TCP_KEEPIDLE, socket.IPPROTO_TCP, 30),
    (socket.TCP_KEEPINTVL, socket.IPPROTO_TCP, 10),
    (socket.TCP_KEEPCNT, socket.IPPROTO_TCP, 3),
)
"""A workload whose machine is gone says nothing; after a minute of that its warm channels are given up."""


class Opener:
    """Opens channels."""

    def __init__(self, downstream: Endpoint, settings: Callable[[], Settings], counters: RelayCounters) -> None:
        self._downstream = downstream
        self._settings = settings
        self._counters = counters

    async def __call__(self, target: Target) -> Channel:
        """Return a mutually attested channel to a workload, ready for one inner session. Raises EAAError.

        A workload that is still fetching the collateral of this relay is tried again for a few seconds.
        """
        return await patiently(lambda: self._open(target))

    async def _open(self, target: Target) -> Channel:
        witness = _witness(target)
        terms = Terms.relay_to_workload(**self._settings().levels)
        try:
            attestation = await self._downstream.secure(await _connected(target), terms, witness)
            try:
                await attestation.complete()
            except BaseException:
                attestation.stream.abort()
                raise
        except OSError as error:
            # No descriptor is left, for instance.
            raise unavailable_from_os_error(error, doing=f"{target.address} cannot be reached") from error
        if witness is not None:
            self._counters.last_good_verdict = wall_clock()
        return Channel(attestation=attestation, target=target, judged=None if witness is None else witness.judged)


def _witness(target: Target) -> Witness | None:
    if target.verifier is None:
        return None
    return Witness(judge_by(target.verifier, Role.WORKLOAD), verifier=target.verifier, role=Role.WORKLOAD)


async def _connected(target: Target) -> socket.socket:
    sock = await connect(target.address)
    try:
        if sock.family != socket.AF_UNIX:
            for option, level, value in _KEEP_ALIVE:
                sock.setsockopt(level, option, value)
    except BaseException:
        sock.close()
        raise
    return sock


class Channels:
    """The pools of all workloads."""

    def __init__(self, opener: Opener, counters: RelayCounters) -> None:
        self._opener = opener
        self._counters = counters
        self._pools: dict[str, Pool] = {}
        self._stopped = False

    def apply(self, settings: Settings) -> None:
        """Keep channels ready as these settings have it, from now on."""
        for name in [name for name in self._pools if name not in settings.targets]:
            self._pools.pop(name).close()
            self._counters.channels.pop(name, None)
        for name, target in settings.targets.items():
            pool = self._pools.get(name)
            if pool is not None:
                pool.retarget(target, lifetime=settings.judgement_lifetime)
                continue
            self._pools[name] = pool = Pool(
                target, self._opener, counters=self._counters.of(name), lifetime=settings.judgement_lifetime
            )
            if self._stopped:
                pool.close()
            pool.start()

    async def take(self, target: Target) -> Channel:
        """Return a channel for one session with this workload. Raises Unavailable: WORKLOAD_UNAVAILABLE."""
        return await self._pool(target.name).take()

    async def replace(self, workload: str) -> Channel:
        """Return a new channel in place of one that was dead when it was used. Raises as `take`.

        Others that were kept ready may be dead like it.
        """
        return await self._pool(workload).replace()

    def _pool(self, workload: str) -> Pool:
        pool = self._pools.get(workload)
        if pool is None:
            # A reload came in between.
            raise Unavailable(Reason.WORKLOAD_UNAVAILABLE, f"the workload {workload} is configured no more")
        return pool

    def sweep(self) -> None:
        """Close warm channels that may not be handed out any more."""
        for pool in self._pools.values():
            pool.sweep()

    @property
    def are_reachable(self) -> bool:
        """Whether any workload can be reached, as far as is known; true where none is configured."""
        return not self._pools or any(pool.outage is None for pool in self._pools.values())

    def close(self) -> None:
        """Keep nothing ready any more. Sessions that are still to begin are given new channels."""
        self._stopped = True
        for pool in self._pools.values():
            pool.close()
