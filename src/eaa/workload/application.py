"""The application behind attested TLS: an unmodified server in the same TEE, or the reference greeting."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass, field
from typing import Final, Protocol

from eaa.aio.attestation import Attestation
from eaa.aio.counters import COMPLETED, COUNTERS
from eaa.aio.net import connect
from eaa.aio.plain import PlainStream
from eaa.aio.relay import Limits, Relayed, Traffic, pump
from eaa.aio.stream import AttestedStream, deadline
from eaa.errors import EAAError, Reason, Unavailable
from eaa.program.address import Address
from eaa.protocol.legacy import GREETING

MAX_REQUEST: Final = 255
"""Bytes of a request to the greeting application, as in the reference server."""
APPLICATION_TIMEOUT: Final = 30.0
"""Seconds in which the greeting has to be asked for."""
CONNECT_TIMEOUT: Final = 3.0
"""Seconds for an application to take a connection: it runs on the same machine."""

logger = logging.getLogger(__name__)


class Application(Protocol):
    """What a client that has accepted this workload talks to."""

    @property
    def traffic(self) -> Traffic | None:
        """Bytes of all sessions, where they are counted."""

    async def serve(self, session: Attestation, peer: str) -> None:
        """Run the exchange of an inner session to its end, then serve its client. Raises EAAError."""


class Greeting:
    """Answers one request with the reference greeting."""

    traffic: Traffic | None = None
    """Not worth a number."""

    async def serve(self, session: Attestation, peer: str) -> None:
        """Run the exchange, and greet."""
        await session.complete()
        log_acceptance(session, peer)
        await greet(session.stream)
        await session.stream.close()


async def greet(stream: AttestedStream) -> None:
    """Answer one request with the reference greeting."""
    async with deadline(APPLICATION_TIMEOUT, "the greeting application"):
        if await stream.read(MAX_REQUEST):
            await stream.write(GREETING.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarding:
    """An unmodified server, reached over plain TCP or a unix socket; each session gets a connection of its own."""

    address: Address
    limits: Limits = field(default_factory=Limits)
    """How long a session may last."""
    traffic: Traffic = field(default_factory=Traffic)
    """Bytes of all sessions; `forth` is to the application."""

    async def serve(self, session: Attestation, peer: str) -> None:
        """Run the exchange, and move raw bytes until both sides have said goodbye.

        The application is connected to before this workload shows its evidence, because nothing but the exchange can
        tell a client that there is none: after the verdict every byte is the application's. It is sent nothing before
        the client has given its verdict.

        Raises:
            Unavailable: APPLICATION_UNAVAILABLE, which the client is told too.
            EAAError: the exchange failed.
        """
        try:
            sock = await self._reach()
        except EAAError as error:
            await session.reject(error)
            raise
        try:
            await session.complete()
            log_acceptance(session, peer)
            if _has_hung_up(sock):
                # A verdict may take as long as its collateral, and applications have time limits of their own.
                sock.close()
                sock = await self._reach()
            relayed = await pump(session.stream, PlainStream(sock), limits=self.limits, traffic=self.traffic)
            COUNTERS.sessions[COMPLETED if relayed.failure is None else relayed.failure.reason] += 1
            _report(peer, relayed)
        finally:
            sock.close()

    async def _reach(self) -> socket.socket:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                return await connect(self.address)
        except (EAAError, TimeoutError) as error:
            why = error.message if isinstance(error, EAAError) else f"no answer in {CONNECT_TIMEOUT:g} seconds"
            raise Unavailable(
                Reason.APPLICATION_UNAVAILABLE,
                f"the application at {self.address} takes no connection: {why}",
                hint="start it; --app says where it has to listen",
            ) from error


def log_acceptance(session: Attestation, peer: str) -> None:
    """Say that a client has accepted this workload, and at which binding."""
    logger.info("%s: a client accepts this workload: %s", peer, said_of_this_side(session))


def said_of_this_side(attestation: Attestation) -> str:
    """Return at which binding this workload's evidence was shown."""
    return f"this workload's evidence shown at level {attestation.shown_level.label}"


def _has_hung_up(sock: socket.socket) -> bool:
    """Tell whether the application has closed a connection on which it was sent nothing."""
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _report(peer: str, relayed: Relayed) -> None:
    amount = f"{relayed.forth} bytes to the application, {relayed.back} back"
    if relayed.failure is None:
        logger.info("%s: done: %s", peer, amount)
    else:
        # Not a warning: clients go away, and applications close connections as they like.
        logger.info("%s: ended after %s: %s [%s]", peer, amount, relayed.failure.message, relayed.failure.reason)
