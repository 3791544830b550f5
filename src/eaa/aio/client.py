"""Connecting to attested servers: one call from an address to a stream whose peer has been judged."""

from __future__ import annotations

import asyncio
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final, Protocol, TypeVar

from eaa.aio.address import Address, TCPAddress, UnixAddress, parse_address
from eaa.aio.attestation import Attestation
from eaa.aio.net import connect
from eaa.aio.sessions import Endpoint, Identity, Verifier, judge_by
from eaa.aio.stream import AttestedStream, deadline
from eaa.appraise.result import BindingLevel, Role
from eaa.errors import Misuse, Reason, Unavailable
from eaa.protocol.exchange import ALPN, ALPN_INNER
from eaa.protocol.terms import MAX_EPOCH, Levels, Terms

DEFAULT_WORKLOAD: Final = "default"
"""What a relay calls its only workload."""
RETRY_PAUSES: Final = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds between attempts at a peer that is still fetching the collateral for this side's evidence."""
MAX_ENDPOINTS: Final = 16
"""Combinations of verifier and identity whose TLS contexts are kept, for each event loop."""

_T = TypeVar("_T")
AnyAddress = Address | str | tuple[str, int]
"""As `tcp://HOST:PORT`, `unix://PATH`, `HOST:PORT`, a path, or host and port."""


class ClientVerifier(Verifier, Protocol):
    """Who judges, and by whose clock."""

    def now(self) -> datetime:
        """Return the present, an aware datetime."""


async def open_attested_connection(
    address: AnyAddress | None = None,
    *,
    verifier: ClientVerifier,
    identity: Identity | None = None,
    level: BindingLevel = BindingLevel.FRESH,
    maximum_epoch: timedelta = MAX_EPOCH,
    relay: AnyAddress | None = None,
    workload: str = DEFAULT_WORKLOAD,
    timeout: float | None = None,  # noqa: ASYNC109  as one of the reasons; `asyncio.timeout` around the call works too
) -> AttestedStream:
    """Connect, judge the peer, and return a stream on which application bytes may flow.

    Args:
        address: a server of `start_attested_server`; or else `relay`.
        verifier: an `eaa.verifier.Verifier`. It judges the server in role `workload` and the relay in role `relay`.
        identity: this side's own evidence, role `client`, for servers that ask for it.
        level: how closely evidence has to be bound to this session.
        maximum_epoch: how long a signing key may serve at level `session`; twice that is refused, for clocks' sake.
        relay: an Inclavared that leads to the workload. It is judged too, and cannot read what is said to the workload.
        workload: what the relay calls the workload.
        timeout: seconds for all of it. Each step has a limit of its own.

    Raises:
        Rejection: the peer's evidence was refused (`result` has every check), or the peer refuses this side.
        MalformedInput, VerificationError: the peer's evidence is not genuine, or not of this session.
        PeerMisbehaved: the peer is none of ours, stalled (PEER_TIMEOUT), or went away.
        Unavailable: nobody is there, or collateral could not be had.
        Misuse: both an address and a relay were named, or none.
    """
    if (address is None) == (relay is None):
        raise Misuse(Reason.USAGE, "name either the address of a server or a relay that leads to one")
    visit = _Visit(verifier, identity, {"level": level, "maximum_epoch": maximum_epoch})

    async def attempt() -> AttestedStream:
        if address is not None:
            return await visit.server(to_address(address))
        assert relay is not None
        return await visit.workload_behind(to_address(relay), workload)

    async with deadline(timeout, "connecting and attesting"):
        return await patiently(attempt)


async def patiently(attempt: Callable[[], Awaitable[_T]]) -> _T:
    """Repeat an attempt while the peer says that it is still fetching the collateral for this side's evidence."""
    for pause in RETRY_PAUSES:
        try:
            return await attempt()
        except Unavailable as error:
            if error.reason is not Reason.COLLATERAL_PENDING:
                raise
        await asyncio.sleep(pause)
    return await attempt()


def to_address(address: AnyAddress) -> Address:
    """Return what an address means, however it is given. Raises Misuse: ADDRESS_INVALID."""
    match address:
        case TCPAddress() | UnixAddress():
            return address
        case str():
            return parse_address(address)
        case (str(host), int(port)):
            return TCPAddress(host, port)
    raise Misuse(Reason.ADDRESS_INVALID, f"{address!r} is no address", hint="write tcp://HOST:PORT or unix://PATH")


class _Visit:
    """Who visits, whom they believe, and how strictly."""

    def __init__(self, verifier: ClientVerifier, identity: Identity | None, levels: Levels) -> None:
        self._verifier = verifier
        self._identity = identity
        self._levels = levels

    async def server(self, address: Address) -> AttestedStream:
        terms = Terms.shelter_to_workload(**self._levels)
        sock = await connect(address)
        attestation = await self._endpoint(ALPN_INNER).secure(sock, terms, judge_by(self._verifier, Role.WORKLOAD))
        return await _enter(attestation, attestation.complete)

    async def workload_behind(self, relay: Address, name: str) -> AttestedStream:
        terms = Terms.shelter_to_relay(judges=True, **self._levels)
        sock = await connect(relay)
        attestation = await self._endpoint(ALPN).secure(sock, terms, judge_by(self._verifier, Role.RELAY))
        outer = await _enter(attestation, lambda: attestation.open(name))
        terms = Terms.shelter_to_workload(**self._levels)
        try:
            inner = await self._endpoint(ALPN_INNER).secure_inside(
                outer, terms, judge_by(self._verifier, Role.WORKLOAD)
            )
        except BaseException:
            outer.abort()
            raise
        return await _enter(inner, inner.complete)

    def _endpoint(self, alpn: bytes) -> Endpoint:
        return _endpoint_of(self._verifier, self._identity, alpn)


async def _enter(attestation: Attestation, exchange: Callable[[], Awaitable[None]]) -> AttestedStream:
    try:
        await exchange()
    except BaseException:
        attestation.stream.abort()
        raise
    return attestation.stream


class _Endpoints:
    """Endpoints, and with them TLS contexts, of those who connected last.

    Making a context for each connection would cost as much as its handshake. What an entry is found by is kept alive in
    it, so that no number is ever another object's.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, int, bytes], tuple[object, object, Endpoint]] = OrderedDict()

    def get(self, verifier: ClientVerifier, identity: Identity | None, alpn: bytes) -> Endpoint:
        key = (id(verifier), id(identity), alpn)
        if key not in self._kept:
            endpoint = Endpoint(identity, server_side=False, clock=verifier.now, alpn=alpn)
            self._kept[key] = (verifier, identity, endpoint)
            while len(self._kept) > MAX_ENDPOINTS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key][2]


_endpoints: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Endpoints] = weakref.WeakKeyDictionary()
"""A context belongs to one thread, as an event loop does."""


def _endpoint_of(verifier: ClientVerifier, identity: Identity | None, alpn: bytes) -> Endpoint:
    return _endpoints.setdefault(asyncio.get_running_loop(), _Endpoints()).get(verifier, identity, alpn)
