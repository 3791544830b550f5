"""The workload's side: attested outer channels from the relay, and in each one session of a client that judges it."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final

from eaa.aio.attestation import Attestation
from eaa.aio.net import Service
from eaa.aio.sessions import Endpoint, judge_now_by
from eaa.aio.workers import with_workers
from eaa.appraise.result import Role
from eaa.identity import Identity
from eaa.program.address import Address
from eaa.program.metrics import service_metrics, serving_metrics
from eaa.program.options import Binding
from eaa.program.run import say
from eaa.protocol.exchange import ALPN_INNER, Terms
from eaa.verifier import Verifier, wall_clock
from eaa.workload.application import Application, said_of_this_side

WORKERS: Final = 2
"""Threads for what may take long, beside those that quote and renew: a library OS has room for few, and never more."""
PROGRAM: Final = "enclave-tls-server"

logger = logging.getLogger(__name__)


class Workload:
    """Serves channels of relays. `verifier` is None where the relay is taken as it comes."""

    def __init__(
        self, identity: Identity, verifier: Verifier | None, *, binding: Binding, application: Application
    ) -> None:
        self._outer = Endpoint(identity, server_side=True, clock=wall_clock, demand_client_certificate=True)
        self._inner = Endpoint(identity, server_side=True, clock=wall_clock, alpn=ALPN_INNER)
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

    async def handle(self, sock: socket.socket, peer: str) -> None:
        """Serve one channel: the relay's exchange, then one inner session, then the application."""
        channel = await self._outer.secure(sock, self._terms, self._judge)
        try:
            await channel.complete()
            logger.info("%s: channel open: %s, %s", peer, self._said_of_relay(channel), said_of_this_side(channel))
            inner = await self._inner.secure_inside(channel.stream, self._inner_terms, None)
            await self._application.serve(inner, peer)
        finally:
            channel.stream.abort()

    def _said_of_relay(self, channel: Attestation) -> str:
        return f"relay accepted at level {channel.stream.level.label}" if self._judge else "relay not judged"


def serve(
    address: Address,
    *,
    identity: Identity,
    verifier: Verifier | None,
    binding: Binding,
    application: Application,
    metrics: Address | None = None,
) -> int:
    """Serve until told to stop; return the exit code. Raises Unavailable where the address cannot be had."""
    if not identity.has_evidence:
        logger.warning("nullattester: clients that ask for evidence will refuse this server")
    workload = Workload(identity, verifier, binding=binding, application=application)
    # Python's own event loop, whatever is installed: this program has to live inside a library OS.
    return asyncio.run(with_workers(_serve(address, metrics, workload, identity, verifier), size=WORKERS))


async def _serve(
    address: Address, metrics: Address | None, workload: Workload, identity: Identity, verifier: Verifier | None
) -> int:
    service = Service()
    names = service.listen(address, workload.handle)
    identity.keep_renewed()
    try:
        async with serving_metrics(metrics, service_metrics((identity,), verifier)) as more:
            return await service.run(lambda: say(PROGRAM, f"listening on {', '.join(names + more)}", kind="info"))
    finally:
        service.close()
        identity.close()
        if verifier is not None:
            verifier.close(timeout=0)
