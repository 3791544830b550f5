"""Sessions as the programs use them: each hop of `docs/manual/protocol.md` in one call."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Final, Protocol, Unpack

from eaa.aio.attestation import Answer, Attestation, Hop, Judge, Quoter, new_answer, new_hop
from eaa.aio.context import handshake_is_over
from eaa.aio.counters import COUNTERS, Layer, Side
from eaa.aio.limits import MAX_REQUEST, QuoteQueue, origin_of
from eaa.aio.stream import AttestedStream, Judgement, secure, secure_inside
from eaa.aio.together import Origin
from eaa.aio.workers import Workers
from eaa.appraise.appraisal import SessionBinding
from eaa.appraise.result import Accepted, BindingLevel, Rejected, Role
from eaa.errors import EAAError
from eaa.protocol.exchange import ALPN, ALPN_INNER, EpochSignature, EvidenceReceived, EvidenceWanted, Levels, Terms
from eaa.records import quick
from eaa.tls.certificate import PrivateKey
from eaa.tls.connection import Connection, Context, make_context

MAX_WAITING_QUOTES: Final = 256
"""Peers that wait for a quote, of whatever address, where no queue is given; one more is told so at once."""
QUOTES_IN_A_TURN: Final = 4
"""Quotes that are but a computation and are made in one turn of the event loop: they hold everybody else up."""

_new_binding: Final = quick(SessionBinding)
_new_signature: Final = quick(EpochSignature)


class Credentials(Protocol):
    """One key with its certificate."""

    @property
    def private_key(self) -> PrivateKey:
        """The TLS key."""

    @property
    def certificate(self) -> bytes:
        """DER."""

    @property
    def quote(self) -> bytes | None:
        """The quote that the certificate carries."""


class Epoch(Protocol):
    """A signing key that a quote vouches for, for a few minutes."""

    @property
    def quote(self) -> bytes:
        """The quote."""

    @property
    def claims(self) -> bytes:
        """The claims that the quote covers."""

    @property
    def digest(self) -> bytes:
        """SHA-256 of both, as signed statements name it."""

    def sign(self, statement: bytes) -> bytes:
        """Return the signature of a statement, 64 bytes."""


class Identity(Protocol):
    """Who this program is. `eaa.identity.Identity` is one."""

    def credentials(self) -> Credentials:
        """Return the current credentials; they may change between two calls. May take long."""

    def credentials_at_hand(self) -> Credentials | None:
        """Return them where that takes no time, else None."""

    def quote(self, report_data: bytes) -> bytes | None:
        """Return a quote over 64 bytes, or None where there is no attester. May take long."""

    def quote_at_hand(self, report_data: bytes) -> bytes | None:
        """Return it where that takes no time, else None."""

    def epoch(self, role: str, credentials: Any) -> Epoch | None:
        """Return the epoch of these credentials in that role, or None where there is no attester. May take long."""

    def epoch_at_hand(self, role: str, credentials: Any) -> Epoch | None:
        """Return it where that takes no time, else None."""

    def collateral(self) -> bytes | None:
        """Return at once what is to be stapled to evidence, if there is anything."""


class Verifier(Protocol):
    """Who judges. `eaa.verifier.Verifier` is one."""

    async def judge_async(
        self, evidence: bytes | None, *, role: Role, session: SessionBinding | None, stapled: bytes | None = None
    ) -> Judgement:
        """Verify and appraise, fetching what is missing."""

    def judge_now(
        self, evidence: bytes | None, *, role: Role, session: SessionBinding | None, stapled: bytes | None = None
    ) -> Judgement:
        """Do the same with what is there. Raises Unavailable (COLLATERAL_PENDING) where something is missing."""


def judge_by(verifier: Verifier, role: Role) -> Judge:
    """Return a judge of peers of one role who fetches collateral that is missing: for who connects to somebody."""

    async def judge(shown: EvidenceReceived) -> Judgement:
        try:
            judgement = await verifier.judge_async(
                shown.evidence, role=role, session=_binding_of(shown), stapled=shown.collateral
            )
        except EAAError as error:
            COUNTERS.not_accepted(role, error.reason)
            raise
        return _counted(judgement, role)

    return judge


def judge_now_by(verifier: Verifier, role: Role) -> Judge:
    """Return a judge of peers of one role who never touches the network: for servers, where any stranger may ask.

    A peer whose collateral is missing is refused as COLLATERAL_PENDING, and may try again once it has been fetched.
    """

    async def judge(shown: EvidenceReceived) -> Judgement:
        try:
            judgement = verifier.judge_now(
                shown.evidence, role=role, session=_binding_of(shown), stapled=shown.collateral
            )
        except EAAError as error:
            COUNTERS.not_accepted(role, error.reason)
            raise
        return _counted(judgement, role)

    return judge


def _counted(judgement: Judgement, role: Role) -> Judgement:
    """Count a verdict, and return it."""
    match judgement.result:
        case Accepted():
            COUNTERS.accepted(role)
        case Rejected(root_cause=cause):
            COUNTERS.not_accepted(role, cause.reason)
    return judgement


def _binding_of(shown: EvidenceReceived) -> SessionBinding | None:
    if shown.evidence is None:
        return None
    return _new_binding(evidence=shown.evidence, report_data=shown.report_data, level=shown.level)


class _Desk:
    """Asks an identity without holding up the event loop, nor one question by another.

    A quote takes milliseconds on one host and seconds on the next, and platforms make one at a time.
    """

    def __init__(self, identity: Identity, queue: QuoteQueue) -> None:
        self._identity = identity
        self._queue = queue
        self._turns = _Turns(QUOTES_IN_A_TURN)
        self._quoting = Workers(1, "quoting")
        # While one caller waits for new credentials, the others go on with those there are.
        self._keeping = Workers(2, "credentials")

    def start_threads(self) -> None:
        """Start what would be started when it is needed."""
        self._quoting.start_all()
        self._keeping.start_all()

    async def credentials(self) -> Credentials:
        at_hand = self._identity.credentials_at_hand()
        if at_hand is not None:
            return at_hand
        return await asyncio.get_running_loop().run_in_executor(self._keeping, self._identity.credentials)

    def answer(
        self, wanted: EvidenceWanted, *, role: Role, credentials: Credentials, origin: Callable[[], Origin]
    ) -> Answer | Awaitable[Answer | None] | None:
        """Return what shows this identity in that role, or what to await where it has to be waited for.

        The credentials are those of the connection, which need not be the current ones any more. `origin` tells whom
        its peer counts for where a quote has to be waited for.

        Raises:
            Unavailable: QUOTE_UNAVAILABLE; awaiting it also OVERLOADED, at once.
        """
        if wanted.level is BindingLevel.CERT:
            return self._shown(credentials.quote)
        if wanted.level is BindingLevel.FRESH:
            quote = self._quote_at_hand(wanted.report_data)
            return self._quoted(wanted, origin) if quote is None else self._shown(quote)
        epoch = self._identity.epoch_at_hand(role, credentials)
        if epoch is None:
            return self._in_new_epoch(wanted, role, credentials, origin)
        return self._signed(wanted, epoch)

    def _quote_at_hand(self, report_data: bytes) -> bytes | None:
        """Return a quote that is but a computation, QUOTES_IN_A_TURN of the event loop at most.

        Of those who ask at the same time the others wait in the queue, whose limits hold.
        """
        if self._turns.are_taken:
            return None
        quote = self._identity.quote_at_hand(report_data)
        if quote is not None:
            self._turns.take()
        return quote

    async def _quoted(self, wanted: EvidenceWanted, origin: Callable[[], Origin]) -> Answer | None:
        with self._queue.place(origin()):
            quote = None
            if self._turns.are_taken:
                # A thread would ask for the same computation, and have to be waited for as well.
                await self._turns.wait()
                quote = self._identity.quote_at_hand(wanted.report_data)
            if quote is None:
                quote = await self._quoting.call(lambda: self._identity.quote(wanted.report_data))
        return self._shown(quote)

    async def _in_new_epoch(
        self, wanted: EvidenceWanted, role: Role, credentials: Credentials, origin: Callable[[], Origin]
    ) -> Answer | None:
        with self._queue.place(origin()):
            # Whoever gives up waiting leaves the queue, so that no quote is made for nobody.
            epoch = await self._quoting.call(lambda: self._identity.epoch(role, credentials))
        return None if epoch is None else self._signed(wanted, epoch)

    def _signed(self, wanted: EvidenceWanted, epoch: Epoch) -> Answer:
        signature = _new_signature(claims=epoch.claims, signature=epoch.sign(wanted.statement(epoch.digest)))
        return new_answer(quote=epoch.quote, epoch=signature, collateral=self._identity.collateral())

    def _shown(self, quote: bytes | None) -> Answer | None:
        return None if quote is None else new_answer(quote=quote, collateral=self._identity.collateral())


class _Turns:
    """Lets a few do something in one turn of the event loop, and the others in those that follow, as they came."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def are_taken(self) -> bool:
        """Whether this turn is over for who comes now."""
        return self._taken >= self._size

    def take(self) -> None:
        """Do something in this turn."""
        if not self._taken:
            asyncio.get_running_loop().call_soon(self._begin)
        self._taken += 1

    async def wait(self) -> None:
        """Wait for a turn, and take it."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _begin(self) -> None:
        self._taken = 0
        while self._waiting and not self.are_taken:
            turn = self._waiting.popleft()
            # Whoever has given up waiting takes nobody's place.
            if not turn.done():
                self.take()
                turn.set_result(None)


class Endpoint:
    """One side of one kind of hop: makes TLS connections with the current credentials, one context for each of them."""

    def __init__(
        self,
        identity: Identity | None,
        *,
        server_side: bool,
        clock: Callable[[], datetime],
        alpn: bytes | None = ALPN,
        demand_client_certificate: bool = False,
        quotes: QuoteQueue | None = None,
        max_request: int = MAX_REQUEST,
    ) -> None:
        """Make one.

        Args:
            identity: who this side is; None where it has no key.
            server_side: whether it accepts connections.
            clock: the present, an aware datetime.
            alpn: the protocol's name on this kind of hop; None for peers of 2021.
            demand_client_certificate: whether a peer has to show one.
            quotes: where peers wait for quotes, shared by all endpoints of a service; one of its own where left out.
            max_request: bytes that a peer may send before its session begins.
        """
        if quotes is None:
            quotes = QuoteQueue(most=MAX_WAITING_QUOTES, most_per_address=MAX_WAITING_QUOTES)
        self._desk = None if identity is None else _Desk(identity, quotes)
        self._max_request = max_request
        self._server_side = server_side
        self._clock = clock
        # Without a name it is an endpoint for peers of 2021.
        self._alpn = () if alpn is None else (alpn,)
        self._demand_client_certificate = demand_client_certificate
        self._context: Context | None = None
        self._credentials: Credentials | None = None

    def start_threads(self) -> None:
        """Start the threads of this endpoint now and not when they are needed: for where there can be no more later."""
        if self._desk is not None:
            self._desk.start_threads()

    async def secure(self, sock: socket.socket, hop_terms: Terms, judge: Judge | None) -> Attestation:
        """Handshake on a socket and be ready for the exchange. The socket is closed on failure."""
        # Who asks first does so in one piece with what ends the handshake: the peer finds both in one look.
        stream, credentials = await self._secure(sock, goes_on=hop_terms.judges and not hop_terms.is_asked_first)
        return Attestation(stream, self._hop(hop_terms, judge, credentials, lambda: origin_of(sock)))

    async def secure_unattested(self, sock: socket.socket) -> AttestedStream:
        """Handshake with a peer that will be told something and believed nothing. The socket is closed on failure."""
        stream = await self.handshake(sock)
        stream.connection.admit_unattested_peer()
        return stream

    async def handshake(self, sock: socket.socket) -> AttestedStream:
        """Handshake, and leave the gate closed: for peers whose certificate is all they show. See `eaa.aio.legacy`."""
        stream, _ = await self._secure(sock, goes_on=False)
        handshake_is_over()
        return stream

    async def _secure(self, sock: socket.socket, *, goes_on: bool) -> tuple[AttestedStream, Credentials | None]:
        try:
            connection, credentials = await self._connection(sock)
        except BaseException:
            sock.close()
            raise
        with self._counted(Layer.OUTER):
            return await secure(connection, sock, goes_on=goes_on), credentials

    async def secure_inside(self, outer: AttestedStream, hop_terms: Terms, judge: Judge | None) -> Attestation:
        """Handshake inside an attested stream and be ready for the exchange."""
        connection, credentials = await self._connection(None)
        with self._counted(Layer.INNER):
            stream = await secure_inside(connection, outer)
        sock = outer.get_extra_info("socket")
        return Attestation(stream, self._hop(hop_terms, judge, credentials, lambda: origin_of(sock)))

    def _counted(self, layer: Layer) -> AbstractContextManager[None]:
        return COUNTERS.handshake(Side.ACCEPTING if self._server_side else Side.CONNECTING, layer)

    async def _connection(self, sock: socket.socket | None) -> tuple[Connection, Credentials | None]:
        credentials = None if self._desk is None else await self._desk.credentials()
        if self._context is None or credentials is not self._credentials:
            self._context = make_context(
                server_side=self._server_side,
                certificate=None if credentials is None else credentials.certificate,
                private_key=None if credentials is None else credentials.private_key,
                alpn=self._alpn,
                demand_client_certificate=self._demand_client_certificate,
            )
            self._credentials = credentials
        connection = Connection(
            self._context, server_side=self._server_side, sock=sock, alpn=self._alpn, now=self._clock()
        )
        return connection, credentials

    def _hop(
        self, terms: Terms, judge: Judge | None, credentials: Credentials | None, origin: Callable[[], Origin]
    ) -> Hop:
        quoter: Quoter = _no_answer
        if self._desk is not None and credentials is not None:
            quoter = functools.partial(self._desk.answer, role=terms.own_role, credentials=credentials, origin=origin)
        return new_hop(terms=terms, quoter=quoter, judge=judge, now=self._clock(), max_request=self._max_request)


def _no_answer(_: EvidenceWanted) -> None:
    """Say that there is nothing to show."""


def inner_endpoint(clock: Callable[[], datetime], *, identity: Identity | None = None) -> Endpoint:
    """Return a client's end of sessions that end in a workload."""
    return Endpoint(identity, server_side=False, clock=clock, alpn=ALPN_INNER)


async def enter_workload(
    outer: AttestedStream,
    *,
    judge: Judge,
    clock: Callable[[], datetime],
    identity: Identity | None = None,
    endpoint: Endpoint | None = None,
    **levels: Unpack[Levels],
) -> AttestedStream:
    """Client: open the session that ends in the workload, inside an open channel, and judge the workload.

    Args:
        outer: the open channel; it ends with the session.
        judge: who judges the workload.
        clock: the present, an aware datetime.
        identity: who this side is, for a workload that asks for evidence itself.
        endpoint: an `inner_endpoint`, for who enters more than once: it has its TLS context already.
        levels: the binding that is asked for, and what else `Terms` says of it.

    Raises:
        Rejection: the workload's evidence was refused, or it refused us.
        EAAError: it could not be verified, or the peer misbehaved.
    """
    endpoint = endpoint or inner_endpoint(clock, identity=identity)
    inner = await endpoint.secure_inside(outer, Terms.shelter_to_workload(**levels), judge)
    await inner.complete()
    return inner.stream
