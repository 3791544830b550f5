"""A server behind attested TLS, for anybody's application."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Protocol, Self

from eaa.aio.attestation import Attestation, Judge
from eaa.aio.client import AnyAddress, to_address
from eaa.aio.net import TLS_OVERLOADED, Service
from eaa.aio.sessions import Endpoint, Identity, Verifier, judge_now_by
from eaa.aio.stream import AttestedStream
from eaa.appraise.result import BindingLevel, Role
from eaa.errors import EAAError, PeerMisbehaved, Reason
from eaa.protocol.exchange import ALPN_INNER
from eaa.protocol.terms import MAX_EPOCH, Terms

Handler = Callable[[AttestedStream], Awaitable[None]]
"""Serves one client. The stream is closed when it returns, without a goodbye when it raises."""

logger = logging.getLogger(__name__)


class ServerVerifier(Verifier, Protocol):
    """Who judges clients."""

    def prefetch_for(self, evidence: bytes) -> None:
        """Have the collateral of this quote's platform model fetched, and return at once."""


class ServerIdentity(Identity, Protocol):
    """Who the server is, and by whose clock."""

    def now(self) -> datetime:
        """Return the present, an aware datetime."""


async def start_attested_server(
    handler: Handler,
    address: AnyAddress,
    *,
    identity: ServerIdentity,
    verifier: ServerVerifier | None = None,
    level: BindingLevel = BindingLevel.FRESH,
    minimum_level: BindingLevel = BindingLevel.CERT,
    maximum_epoch: timedelta = MAX_EPOCH,
    max_connections: int | None = None,
) -> AttestedServer:
    """Serve clients of `open_attested_connection`; return once connections are accepted.

    Args:
        handler: called in a task of its own for each client, once the client has accepted this server's evidence.
        address: where to listen, `tcp://HOST:PORT` or `unix://PATH`; port 0 lets the system choose one.
        identity: an `eaa.identity.Identity`: key, evidence and certificate, renewed in time.
        verifier: judges clients, which then have to show evidence of role `client`. It does so without waiting for a
            network: a client whose collateral is not there is told to come back. None where any client is served.
        level: how closely a client's evidence has to be bound to its session.
        minimum_level: the weakest level at which this server shows its own evidence.
        maximum_epoch: how long a client's signing key may serve at level `session`; twice that is refused.
        max_connections: connections at once; one more is refused at once. 4096 where it is left out.

    Raises:
        Unavailable: the address cannot be had, or the platform does not quote.
        Misuse: ADDRESS_INVALID.
    """
    endpoint = Endpoint(
        identity,
        server_side=True,
        clock=identity.now,
        alpn=ALPN_INNER,
        demand_client_certificate=verifier is not None,
    )
    server = AttestedServer(
        handler,
        endpoint=endpoint,
        terms=Terms.workload_to_shelter(
            judges=verifier is not None, level=level, minimum_level=minimum_level, maximum_epoch=maximum_epoch
        ),
        judge=None if verifier is None else judge_now_by(verifier, Role.CLIENT),
        service=Service(max_connections=max_connections, farewell=TLS_OVERLOADED),
    )
    # Clients tend to run on platforms like the server's own. And a platform that does not quote is found out now.
    credentials = await asyncio.to_thread(identity.credentials)
    if verifier is not None and credentials.quote is not None:
        verifier.prefetch_for(credentials.quote)
    server._start(address)  # noqa: SLF001  one module
    return server


class AttestedServer:
    """What `start_attested_server` returns; it is used as an `asyncio.Server` is."""

    def __init__(
        self, handler: Handler, *, endpoint: Endpoint, terms: Terms, judge: Judge | None, service: Service
    ) -> None:
        self._handler = handler
        self._endpoint = endpoint
        self._terms = terms
        self._judge = judge
        self._service = service
        self._names: tuple[str, ...] = ()
        self._closing: asyncio.Task[None] | None = None
        self._asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it listens, as `open_attested_connection` takes it; the port that the system chose included."""
        return self._names

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets it listens on; none once it is closed."""
        return self._service.sockets

    def is_serving(self) -> bool:
        """Tell whether it accepts connections."""
        return self._closing is None

    def close(self) -> None:
        """Accept no more. Clients that are served get a few seconds to finish; `wait_closed` waits for that."""
        if self._closing is None:
            self._asked.set_result(None)
            self._closing = asyncio.get_running_loop().create_task(self._close())

    async def wait_closed(self) -> None:
        """Wait until `close` was called and all clients are done."""
        await asyncio.wait([self._closed])

    async def serve_forever(self) -> None:
        """Serve until this is cancelled, or until `close`. Cancelling it closes the server."""
        try:
            await self._service.serve_until(self._asked)
        finally:
            self.close()
            await self.wait_closed()

    async def __aenter__(self) -> Self:
        """Return the server itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it, and wait for its clients."""
        self.close()
        await self.wait_closed()

    def _start(self, address: AnyAddress) -> None:
        self._names = tuple(self._service.listen(to_address(address), self._serve))
        self._service.start()

    async def _close(self) -> None:
        try:
            await self._service.stop()
        finally:
            self._closed.set_result(None)

    async def _serve(self, sock: socket.socket, name: str) -> None:
        attestation = await self._endpoint.secure(sock, self._terms, self._judge)
        try:
            await attestation.complete(with_first_bytes=True)
            await self._serve_application(attestation, name)
        finally:
            attestation.stream.abort()

    async def _serve_application(self, attestation: Attestation, name: str) -> None:
        stream = attestation.stream
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s: serving %s", name, _describe(attestation))
        try:
            await _at_the_client_s_expense(self._handler(stream))
        except EAAError:
            # The service says what it was, in one line.
            await stream.part()
            raise
        except Exception:
            logger.exception("%s: the application failed and its connection is closed [%s]", name, Reason.INTERNAL)
            await stream.part()
        else:
            await stream.close()


async def _at_the_client_s_expense(handling: Awaitable[None]) -> None:
    """Turn what asyncio's users raise of a client that misbehaves into what the service says in one line."""
    try:
        await handling
    except asyncio.IncompleteReadError as error:
        wanted = "a separator" if error.expected is None else f"{error.expected} bytes"
        raise PeerMisbehaved(
            Reason.PEER_CLOSED, f"the client ended after {len(error.partial)} bytes where {wanted} were due"
        ) from error
    except asyncio.LimitOverrunError as error:
        raise PeerMisbehaved(Reason.MESSAGE_TOO_LARGE, f"the client sends more than it may: {error}") from error
    except TimeoutError as error:
        raise PeerMisbehaved(Reason.PEER_TIMEOUT, "the time that the application has for a client is over") from error


def _describe(attestation: Attestation) -> str:
    peer, shown = attestation.stream.peer, f"this side's evidence shown at level {attestation.shown_level.label}"
    if peer.verdict is None:
        return f"a client that was not judged; {shown}"
    return f"a client accepted as {peer.verdict.reference_value} at level {peer.level.label}; {shown}"
