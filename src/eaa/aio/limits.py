"""How much of a service strangers may have: connections, handshakes and quotes, for each address and in all.

No address is ever given everything: what one may have is less than there is, so that a flood from one keeps no other
out. Many clients may share an address, behind a kube-proxy or a NAT, so that an address may have most of it.
"""

from __future__ import annotations

import functools
import ipaddress
import math
import socket
import struct
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from eaa.aio.counters import COUNTERS, Limit
from eaa.aio.together import Board, Origin, OwnTally, Rate, Tally
from eaa.errors import Reason, Unavailable

MAX_ORIGINS: Final = 16384
"""Origins whose rates are remembered; the one that was quiet for longest makes room."""
MAX_KNOWN_HOSTS: Final = 1024
"""Addresses of which it is remembered whom they count for: one is asked after several times for each connection."""
MAX_REQUEST: Final = 512 * 1024
"""Bytes that a peer may send before its session begins: its evidence with collateral, and what it sends ahead."""
STALLED_AFTER: Final = 1.0
"""Seconds for a handshake after which it makes room for another connection, where there is no other room."""
UNLIMITED: Final = math.inf
_DAY: Final = 86400.0
_INTERNET: Final = frozenset({int(socket.AF_INET), int(socket.AF_INET6)})
_CREDENTIALS: Final = struct.Struct("iII")
"""Linux's struct ucred: process, user, group."""


def origin_of(sock: socket.socket) -> Origin:
    """Return whom a connection counts for. Whoever cannot be told apart shares one origin."""
    # The number itself: what Python's sockets add to it is a name for it, looked up each time.
    family = super(socket.socket, sock).family
    try:
        if family in _INTERNET:
            return origin_of_host(sock.getpeername()[0])
        if family == socket.AF_UNIX:
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            return Origin("uid", str(_CREDENTIALS.unpack(credentials)[1]))
    except OSError:
        pass
    return Origin("unknown", "")


@functools.lru_cache(maxsize=MAX_KNOWN_HOSTS)
def origin_of_host(host: str) -> Origin:
    """Return whom an address counts for. A household of IPv6 has a /64, and any address in it for the asking."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return Origin("unknown", "")
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return Origin("ipv6", str(ipaddress.IPv6Address(int(address) >> 64 << 64)))
        address = address.ipv4_mapped
    return Origin("ipv4", str(address))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """What strangers may have of one service. The names are those of its options."""

    max_connections: int = 8192
    """At once."""
    max_connections_per_address: int = 6144
    handshake_rate: float = 1000.0
    """New connections a second. As many as may be there at once may come at once: a crowd that reconnects."""
    handshake_rate_per_address: float = 300.0
    max_quotes: int = 256
    """Peers that wait for a quote."""
    max_quotes_per_address: int = 192
    max_request: int = MAX_REQUEST
    """Bytes of one peer before its session begins."""
    idle_timeout: float = 300.0
    """Seconds without a byte in either direction after which a session ends."""
    max_lifetime: float | None = _DAY
    """Seconds after which a session ends in any case; None where it may go on for ever."""

    @classmethod
    def of_connections(cls, most: int) -> Self:
        """Return limits of their number alone, for who serves one's own programs."""
        return cls(
            max_connections=most,
            max_connections_per_address=most,
            handshake_rate=UNLIMITED,
            handshake_rate_per_address=UNLIMITED,
        )


class _OwnRate:
    """A token bucket for each origin, kept as the one moment at which it would be full again."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._interval = 1 / per_second
        self._depth = (burst - 1) * self._interval
        self._full_at: OrderedDict[Origin | None, float] = OrderedDict()

    def take(self, origin: Origin | None, now: float) -> bool:
        """Take a token, if there is one."""
        full_at = max(self._full_at.get(origin, now), now)
        if full_at - now > self._depth:
            return False
        self._full_at[origin] = full_at + self._interval
        self._full_at.move_to_end(origin)
        if len(self._full_at) > MAX_ORIGINS:
            self._full_at.popitem(last=False)
        return True


def _nobody_leaves(_: Origin | None) -> bool:
    return False


class Gate:
    """Who may connect, by one service's limits."""

    def __init__(
        self,
        limits: ServiceLimits,
        *,
        refused: Counter[Limit] = COUNTERS.refused,
        clock: Callable[[], float] = time.monotonic,
        board: Board | None = None,
    ) -> None:
        """Make one.

        Args:
            limits: of the service, however many processes it has.
            refused: where those are counted that are kept out.
            clock: monotonic, seconds.
            board: where several processes count together; None where this is the only one.
        """
        self._limits = limits
        self._refused = refused
        self._clock = clock
        self._processes = 1 if board is None else board.count
        self._there: Tally = OwnTally() if board is None else board.connections()
        rate, burst = limits.handshake_rate, limits.max_connections
        self._of_all: Rate = _OwnRate(rate, burst) if board is None else board.rate_of_all(rate, burst)
        rate, burst = limits.handshake_rate_per_address, limits.max_connections_per_address
        self._of_each: Rate = _OwnRate(rate, burst) if board is None else board.rate_of_each(rate, burst)
        self.live = 0
        """Connections of this process."""
        self.room = limits.max_connections
        """Connections that this process may have at once: as many as all, or fewer for want of descriptors."""

    @property
    def most(self) -> int:
        """This process's share of how many connections there may be at once."""
        return min(self.room, -(-self._limits.max_connections // self._processes))

    def enter(self, origin: Origin, *, make_room: Callable[[Origin | None], bool] = _nobody_leaves) -> Limit | None:
        """Let somebody in, who has to `leave` again, or return what keeps them out.

        Args:
            origin: who it is.
            make_room: where an address, or the whole service for None, has as many as it may, has somebody leave who
                is of no use there, and tells whether anybody did.
        """
        # First counted and then looked at: so of two processes that have the last place to give, each sees the other.
        self.live += 1
        self._there.add(origin)
        limit = self._refusal(origin, make_room)
        if limit is not None:
            self.leave(origin)
            self._refused[limit] += 1
        return limit

    def leave(self, origin: Origin) -> None:
        """Note that a connection has ended."""
        self.live -= 1
        self._there.remove(origin)

    def _refusal(self, origin: Origin, make_room: Callable[[Origin | None], bool]) -> Limit | None:
        # An address that is over its own limits takes nothing of what there is for all.
        if self._there.of(origin) > self._limits.max_connections_per_address and not make_room(origin):
            return Limit.CONNECTIONS_PER_ADDRESS
        is_full = self.live > self.room or self._there.total > self._limits.max_connections
        if is_full and not make_room(None):
            return Limit.CONNECTIONS
        now = self._clock()
        if not self._of_each.take(origin, now):
            return Limit.HANDSHAKE_RATE_PER_ADDRESS
        return None if self._of_all.take(None, now) else Limit.HANDSHAKE_RATE


class HalfOpen:
    """A connection that was accepted, and whose peer has not finished its handshake."""

    __slots__ = ("_among", "has_left", "origin", "since", "sock")

    def __init__(self, among: Beginners, sock: socket.socket, origin: Origin, since: float) -> None:
        self._among = among
        self.sock = sock
        self.origin = origin
        self.since = since
        self.has_left = False
        """Whether it was given up for another one."""

    def leave(self) -> None:
        """Note that it is half open no more. Once more does no harm."""
        self._among.remove(self)

    def is_waited_for(self) -> bool:
        """Tell whether its peer owes the next word: in a crowd it may be this side that has not come to read it."""
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            # It is gone, which its handler has yet to find out.
            return True


class Beginners:
    """Connections that are half open, in the order in which they came."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._all: OrderedDict[HalfOpen, None] = OrderedDict()
        self._of: dict[Origin, OrderedDict[HalfOpen, None]] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._all)

    def add(self, sock: socket.socket, origin: Origin) -> HalfOpen:
        """Note a connection that was accepted."""
        one = HalfOpen(self, sock, origin, self._clock())
        self._all[one] = None
        self._of.setdefault(origin, OrderedDict())[one] = None
        return one

    def remove(self, one: HalfOpen) -> None:
        """Have it in here no more, if it is."""
        if one in self._all:
            del self._all[one]
            del self._of[one.origin][one]
            if not self._of[one.origin]:
                del self._of[one.origin]

    def stalled(self, origin: Origin | None = None) -> HalfOpen | None:
        """Return the one that has taken longest, of an address or of all, if it is its peer that takes so long."""
        oldest = next(iter(self._all if origin is None else self._of.get(origin, ())), None)
        if oldest is None or self._clock() - oldest.since < STALLED_AFTER or not oldest.is_waited_for():
            return None
        return oldest


class QuoteQueue:
    """Who waits for a quote of one platform, which makes one at a time."""

    def __init__(self, *, most: int, most_per_address: int, board: Board | None = None) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._there: Tally = OwnTally() if board is None else board.quotes()

    @classmethod
    def of(cls, limits: ServiceLimits, *, board: Board | None = None) -> Self:
        """Return the queue of a service with these limits, which several processes share where there is a board."""
        return cls(most=limits.max_quotes, most_per_address=limits.max_quotes_per_address, board=board)

    @property
    def waiting(self) -> int:
        """Peers in it."""
        return self._there.total

    def place(self, origin: Origin) -> _Place:
        """Return a place in it for the duration of a block.

        To enter raises Unavailable (OVERLOADED) at once where it is full.
        """
        return _Place(self, origin)

    def enter(self, origin: Origin) -> None:
        """Take a place, which has to be given back with `leave`. Raises Unavailable (OVERLOADED) where it is full."""
        self._there.add(origin)
        refusal = self._refusal(origin)
        if refusal is not None:
            self._there.remove(origin)
            raise refusal

    def leave(self, origin: Origin) -> None:
        """Give a place back."""
        self._there.remove(origin)

    def _refusal(self, origin: Origin) -> Unavailable | None:
        if self._there.total > self._most:
            return _full(Limit.QUOTES, f"{self._most} quotes are being waited for, which is what may be")
        if self._there.of(origin) > self._most_per_address:
            return _full(
                Limit.QUOTES_PER_ADDRESS,
                f"one address waits for {self._most_per_address} quotes, which is its part",
            )
        return None


class _Place:
    """One place in a queue."""

    __slots__ = ("_origin", "_queue")

    def __init__(self, queue: QuoteQueue, origin: Origin) -> None:
        self._queue = queue
        self._origin = origin

    def __enter__(self) -> None:
        self._queue.enter(self._origin)

    def __exit__(self, *_: object) -> None:
        self._queue.leave(self._origin)


def _full(limit: Limit, message: str) -> Unavailable:
    COUNTERS.refused[limit] += 1
    return Unavailable(
        Reason.OVERLOADED,
        message,
        hint="try again later; this host makes quotes more slowly than they are asked for",
    )
