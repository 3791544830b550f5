"""The workload's side: attested outer channels from the relay, and in each one session of a client that judges it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

from eaa.aio.attestation import Attestation, Judge
from eaa.aio.context import forget_frames
from eaa.aio.limits import QuoteQueue
from eaa.aio.net import TLS_OVERLOADED, Service
from eaa.aio.sessions import Endpoint, judge_now_by
from eaa.aio.stream import READ_SIZE, AttestedStream, deadline
from eaa.aio.workers import with_workers
from eaa.appraise.result import Role
from eaa.errors import Misuse, PeerMisbehaved, Reason
from eaa.identity import Identity
from eaa.program.lifecycle import live
from eaa.program.metrics import Observed, service_health, service_metrics, serving_metrics
from eaa.program.reload import Reload, Reloads
from eaa.program.run import say
from eaa.protocol.exchange import ALPN_INNER, Terms
from eaa.verifier import wall_clock
from eaa.workload.application import Application, said_of_this_side
from eaa.workload.wish import Opened, Wish

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
    """Serves channels of relays."""

    def __init__(self, identity: Identity, opened: Opened, *, application: Application) -> None:
        """Make the endpoints.

        Args:
            identity: who it is.
            opened: what it goes by, until `adopt`.
            application: what it stands in front of.
        """
        limits = opened.wish.fixed.limits
        # One queue: it is one platform that makes all quotes.
        queue: Any = {"quotes": QuoteQueue.of(limits), "max_request": limits.max_request, "clock": wall_clock}
        self._outer = Endpoint(identity, server_side=True, demand_client_certificate=True, **queue)
        self._inner = Endpoint(identity, server_side=True, alpn=ALPN_INNER, **queue)
        self._application = application
        self._waiting: set[AttestedStream] = set()
        self._goes_by = _Terms.of(opened)
        self.opened = opened
        """What it goes by just now."""

    def adopt(self, opened: Opened) -> str:
        """Go by other settings from now on, and return what is worth saying of them.

        Channels that relays keep ready are closed: whoever is still acceptable opens others at once. Sessions go on,
        which rest on their client's verdict, and a relay reads nothing of them.
        """
        self.opened = opened
        self._goes_by = _Terms.of(opened)
        for channel in list(self._waiting):
            channel.abort()
        if opened.verifier is None:
            return "relays are taken as they come"
        if not opened.verifier.accepts_role(Role.RELAY):
            logger.warning("no reference value is left for relays, so none is accepted")
        return "relays are judged anew"

    def start_threads(self) -> None:
        """Start every thread that sessions will need; see MAX_THREADS."""
        self._outer.start_threads()
        self._inner.start_threads()

    async def handle(self, sock: socket.socket, peer: str) -> None:
        """Serve one channel: the relay's exchange, then one inner session, then the application."""
        terms = self._goes_by
        channel = await self._outer.secure(sock, terms.outer, terms.judge)
        try:
            await channel.complete()
            logger.info("%s: channel open: %s, %s", peer, terms.said_of(channel), said_of_this_side(channel))
            try:
                await self._wait_for_client(channel.stream, terms)
            except PeerMisbehaved as error:
                # Not a warning: relays replace the channels that they keep ready.
                logger.info("%s: the channel ended unused: %s [%s]", peer, error.message, error.reason)
                forget_frames(error)
                return
            inner = await self._inner.secure_inside(channel.stream, terms.inner, None)
            await self._application.serve(inner, peer)
        finally:
            channel.stream.abort()

    async def _wait_for_client(self, channel: AttestedStream, terms: _Terms) -> None:
        """Wait for the first byte of a client: relays keep channels ready. Raises PeerMisbehaved: none came."""
        if terms is not self._goes_by:
            raise PeerMisbehaved(Reason.PEER_CLOSED, "the relay was judged by settings that were replaced meanwhile")
        self._waiting.add(channel)
        try:
            async with deadline(CHANNEL_PATIENCE, "waiting for a client in this channel"):
                first = await channel.read(READ_SIZE)
        finally:
            self._waiting.discard(channel)
        if not first:
            raise PeerMisbehaved(Reason.PEER_CLOSED, "the relay has no use for this channel any more")
        channel.push_back(first)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Terms:
    """What a channel goes by from its beginning to its end."""

    judge: Judge | None
    outer: Terms
    inner: Terms

    @classmethod
    def of(cls, opened: Opened) -> Self:
        binding, verifier = opened.wish.binding, opened.verifier
        return cls(
            # Any stranger may connect, so a verdict never waits for a network.
            judge=None if verifier is None else judge_now_by(verifier, Role.RELAY),
            outer=Terms.workload_to_relay(
                judges=verifier is not None,
                level=binding.level,
                minimum_level=binding.minimum_level,
                maximum_epoch=binding.maximum_epoch,
            ),
            inner=Terms.workload_to_shelter(minimum_level=binding.minimum_level),
        )

    def said_of(self, relay: Attestation) -> str:
        return f"relay accepted at level {relay.stream.level.label}" if self.judge else "relay not judged"


def serve(opened: Opened, application: Application, *, identity: Identity, read_again: Callable[[], Any]) -> int:
    """Serve until told to stop; return the exit code. Raises Unavailable where the address cannot be had."""
    if not identity.has_evidence:
        logger.warning("nullattester: clients that ask for evidence will refuse this server")
    # Python's own event loop, whatever is installed: this program has to live inside a library OS.
    return asyncio.run(with_workers(_serve(opened, application, identity, read_again), size=WORKERS))


async def _serve(opened: Opened, application: Application, identity: Identity, read_again: Callable[[], Any]) -> int:
    workload = Workload(identity, opened, application=application)
    fixed, verifier = opened.wish.fixed, opened.verifier
    service = Service(limits=fixed.limits, farewell=TLS_OVERLOADED)
    names = service.listen(fixed.address, workload.handle)
    workload.start_threads()
    if verifier is not None:
        verifier.start_refreshing()
    identity.keep_renewed()
    observed = Observed(
        identities=lambda: (identity,),
        # Those of after a reload share what it fetches.
        verifiers=lambda: () if verifier is None else (verifier,),
        service=service,
        traffic=application.traffic,
    )
    reloads = Reloads()
    metrics = [*service_metrics(observed), *reloads.metrics()]
    try:
        async with serving_metrics(fixed.metrics, metrics, health=service_health(observed)) as more:
            return await live(
                service,
                announce=lambda: _say_listening(names + more),
                grace=lambda: workload.opened.wish.grace,
                on_reload=Reload(reloads, read=lambda: _read(workload, read_again), adopt=workload.adopt),
            )
    finally:
        service.close()
        identity.close()
        if verifier is not None:
            verifier.close(timeout=0)


def _read(workload: Workload, read_again: Callable[[], Any]) -> Opened:
    """Return what the files say now. Raises EAAError."""
    wish = read_again()
    if not isinstance(wish, Wish):
        raise Misuse(Reason.USAGE, "the command line asks for something else than before")
    return Opened.of(wish, former=workload.opened)


def _say_listening(names: list[str]) -> None:
    say(PROGRAM, f"listening on {', '.join(names)}", kind="info", event="service.listening", addresses=names)
