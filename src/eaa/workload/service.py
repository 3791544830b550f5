"""The workload's side: attested outer channels from the relay, and in each one session of a client that judges it."""

from __future__ import annotations

import logging
import socket
from typing import Final

from eaa.aio.net import Service
from eaa.aio.sessions import Endpoint, judge_by
from eaa.aio.stream import AttestedStream, deadline
from eaa.aio.workers import with_workers
from eaa.appraise.result import BindingLevel, Role
from eaa.attesters import Attester
from eaa.identity import Identity
from eaa.program.address import Address
from eaa.program.loop import run_service
from eaa.program.run import say
from eaa.protocol.exchange import ALPN_INNER, Terms
from eaa.protocol.legacy import GREETING
from eaa.verifier import Verifier, wall_clock

MAX_REQUEST: Final = 255
"""Bytes of a request to the greeting application, as in the reference server."""
APPLICATION_TIMEOUT: Final = 30.0
"""Seconds in which the greeting has to be asked for."""
PROGRAM: Final = "enclave-tls-server"

logger = logging.getLogger(__name__)


class Workload:
    """Serves channels of relays. `verifier` is None where the relay is taken as it comes."""

    def __init__(
        self, identity: Identity, verifier: Verifier | None, *, level: BindingLevel = BindingLevel.FRESH
    ) -> None:
        self._outer = Endpoint(identity, server_side=True, clock=wall_clock, demand_client_certificate=True)
        self._inner = Endpoint(identity, server_side=True, clock=wall_clock, alpn=ALPN_INNER)
        self._judge = None if verifier is None else judge_by(verifier, Role.RELAY)
        self._terms = Terms.workload_to_relay(judges=self._judge is not None, level=level)

    async def handle(self, sock: socket.socket, peer: str) -> None:
        """Serve one channel: the relay's exchange, then one inner session, then the application."""
        channel = await self._outer.secure(sock, self._terms, self._judge)
        try:
            await channel.complete()
            logger.info("%s: channel open, relay %s", peer, "accepted" if self._judge else "not judged")
            inner = await self._inner.secure_inside(channel.stream, Terms.workload_to_shelter(), None)
            await inner.complete()
            logger.info("%s: a client was shown this workload's evidence and accepts it", peer)
            await greet(inner.stream)
            await inner.stream.close()
        finally:
            channel.stream.abort()


async def greet(stream: AttestedStream) -> None:
    """Answer one request with the reference greeting."""
    async with deadline(APPLICATION_TIMEOUT, "the greeting application"):
        if await stream.read(MAX_REQUEST):
            await stream.write(GREETING.encode())


def serve(
    address: Address,
    *,
    attester: Attester | None,
    verifier: Verifier | None,
    level: BindingLevel = BindingLevel.FRESH,
) -> int:
    """Serve until told to stop; return the exit code. Raises Unavailable where the address cannot be had."""
    if attester is None:
        logger.warning("nullattester: clients that ask for evidence will refuse this server")
    return run_service(with_workers(_serve(address, attester, verifier, level)))


async def _serve(address: Address, attester: Attester | None, verifier: Verifier | None, level: BindingLevel) -> int:
    service = Service()
    names = service.listen(address, Workload(Identity(attester), verifier, level=level).handle)
    return await service.run(lambda: say(PROGRAM, f"listening on {', '.join(names)}", kind="info"))
