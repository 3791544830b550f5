"""The workload's side: attested outer channels from the relay, and in each one session of a client that judges it."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass
from typing import Any, Final

from eaa.aio.attestation import Attestation
from eaa.aio.limits import QuoteQueue, ServiceLimits
from eaa.aio.net import TLS_OVERLOADED, Service
from eaa.aio.sessions import Endpoint, judge_now_by
from eaa.aio.stream import READ_SIZE, AttestedStream, deadline
from eaa.aio.workers import with_workers
from eaa.appraise.result import Role
from eaa.errors import PeerMisbehaved, Reason
from eaa.identity import Identity
from eaa.program.address import Address
from eaa.program.lifecycle import live
from eaa.program.metrics import Observed, service_health, service_metrics, serving_metrics
from eaa.program.options import Binding
from eaa.program.run import say
from eaa.protocol.exchange import ALPN_INNER, Terms
from eaa.verifier import Verifier, wall_clock
from eaa.workload.application import Application, said_of_this_side

WORKERS: Final = 2
"""Threads for what may take long, beside those that quote and renew."""
MAX_THREADS: Final = 12
"""Of this process, whatever it serves: its main thread, WORKERS, one that renews its certificate, two that fetch
collateral from a PCCS, and for each of both hops one that quotes and two that wait for a certificate. A library OS sets
room for them aside before it starts, so all are there from the beginning."""
CHANNEL_PATIENCE: Final = 900.0
"""Seconds for which a relay may keep a channel ready that nobody uses."""
PROGRAM: Final = "enclave-tls-server"

logger = logging.getLogger(__name__)


class Workload:
    """Serves channels of relays. `verifier` is None where the relay is taken as it comes."""

    def __init__(
        self,
        identity: Identity,
        verifier: Verifier | None,
        *,
        binding: Binding,
        application: Application,
        limits: ServiceLimits | None = None,
    ) -> None:
        limits = limits or ServiceLimits()
        # One queue: it is one platform that makes all quotes.
        queue: Any = {"quotes": QuoteQueue.of(limits), "max_request": limits.max_request, "clock": wall_clock}
        self._outer = Endpoint(identity, server_side=True, demand_client_certificate=True, **queue)
        self._inner = Endpoint(identity, server_side=True, alpn=ALPN_INNER, **queue)
        # Any stranger may connect, so a verdict never waits for a network.
        self._judge = None if verifier is None else judge_now_by(verifier, Role.RELAY)
        self._terms = Terms.workload_to_relay(
            judges=self._judge is not None,
            level=binding.level,
            minimum_level=binding.minimum_level,
            maximum_epoch=binding.maximum_epoch,
        )
        self._inner_terms = Terms.workload_to_shelter(minimum_level=binding.minimum_level)
        self._application = application

    def start_threads(self) -> None:
        """Start every thread that sessions will need; see MAX_THREADS."""
        self._outer.start_threads()
        self._inner.start_threads()

    async def handle(self, sock: socket.socket, peer: str) -> None:
        """Serve one channel: the relay's exchange, then one inner session, then the application."""
        channel = await self._outer.secure(sock, self._terms, self._judge)
        try:
            await channel.complete()
            logger.info("%s: channel open: %s, %s", peer, self._said_of_relay(channel), said_of_this_side(channel))
            try:
                await _wait_for_client(channel.stream)
            except PeerMisbehaved as error:
                # Not a warning: relays replace the channels that they keep ready.
                logger.info("%s: the channel ended unused: %s [%s]", peer, error.message, error.reason)
                return
            inner = await self._inner.secure_inside(channel.stream, self._inner_terms, None)
            await self._application.serve(inner, peer)
        finally:
            channel.stream.abort()

    def _said_of_relay(self, channel: Attestation) -> str:
        return f"relay accepted at level {channel.stream.level.label}" if self._judge else "relay not judged"


async def _wait_for_client(channel: AttestedStream) -> None:
    """Wait for the first byte of a client's session; relays keep channels ready. Raises PeerMisbehaved: none came."""
    async with deadline(CHANNEL_PATIENCE, "waiting for a client in this channel"):
        first = await channel.read(READ_SIZE)
    if not first:
        raise PeerMisbehaved(Reason.PEER_CLOSED, "the relay has no use for this channel any more")
    channel.push_back(first)


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How a workload serves, from the command line."""

    address: Address
    metrics: Address | None
    binding: Binding
    application: Application
    limits: ServiceLimits
    grace: float
    """Seconds that live sessions get to finish when it is told to stop."""


def serve(serving: Serving, *, identity: Identity, verifier: Verifier | None) -> int:
    """Serve until told to stop; return the exit code. Raises Unavailable where the address cannot be had."""
    if not identity.has_evidence:
        logger.warning("nullattester: clients that ask for evidence will refuse this server")
    # Python's own event loop, whatever is installed: this program has to live inside a library OS.
    return asyncio.run(with_workers(_serve(serving, identity, verifier), size=WORKERS))


async def _serve(serving: Serving, identity: Identity, verifier: Verifier | None) -> int:
    workload = Workload(
        identity, verifier, binding=serving.binding, application=serving.application, limits=serving.limits
    )
    service = Service(limits=serving.limits, farewell=TLS_OVERLOADED)
    names = service.listen(serving.address, workload.handle)
    workload.start_threads()
    if verifier is not None:
        verifier.start_refreshing()
    identity.keep_renewed()
    observed = Observed(
        identities=lambda: (identity,),
        verifiers=lambda: () if verifier is None else (verifier,),
        service=service,
        traffic=serving.application.traffic,
    )
    health = service_health(observed)
    try:
        async with serving_metrics(serving.metrics, service_metrics(observed), health=health) as more:
            return await live(service, announce=lambda: _say_listening(names + more), grace=serving.grace)
    finally:
        service.close()
        identity.close()
        if verifier is not None:
            verifier.close(timeout=0)


def _say_listening(names: list[str]) -> None:
    say(PROGRAM, f"listening on {', '.join(names)}", kind="info", event="service.listening", addresses=names)
