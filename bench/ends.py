"""Both ends of relayed connections, for all relays alike: TLS in memory, so that what is timed is the relay's work.

What is sent is encrypted before the clock starts, and what arrives is counted and thrown away by the kernel. A load
generator that encrypted and decrypted while it is timed would do the same work as the relay, and be measured with it.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self, TypeVar

from eaa.appraise.result import BindingLevel
from eaa.errors import EAAError
from eaa.identity import Identity
from eaa.protocol.exchange import (
    ALPN,
    EpochSignature,
    EvidenceReceived,
    EvidenceWanted,
    Exchange,
    Session,
    Terms,
)
from eaa.protocol.messages import NONCE_SIZE
from eaa.tls.connection import Connection, Want, make_context

HOST: Final = "127.0.0.1"
PATIENCE: Final = 30.0
"""Seconds for one step of a handshake."""
LEVEL: Final = BindingLevel.SESSION
RECORD: Final = 16 * 1024
OVERHEAD: Final = 22
"""Bytes that TLS 1.3 adds to a record."""
_TAG: Final = 8
"""Bytes by which a client is known at the other end."""
_CHUNK: Final = 1024 * 1024

_T = TypeVar("_T")


class End:
    """One end of a connection: a socket, and TLS that never touches it by itself."""

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        """Do the handshake."""
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._connection = connection
        self._early = b""
        self._do(connection.handshake)
        self._flush()

    def attest(self, terms: Terms, identity: Identity, *, opens: bool) -> None:
        """Run the exchange; whatever the peer shows is waved through, for only the relay is measured."""
        connection = self._connection
        session = Session(exporter=connection.exporter(), own_spki=connection.own_spki, peer_spki=connection.peer_spki)
        exchange = Exchange(session=session, terms=terms, nonce=_nonce(), now=datetime.now(UTC))
        if opens:
            exchange.open("default")
        while not exchange.finished:
            self._say(exchange.data_to_send())
            for event in exchange.receive(self._do(lambda: connection.receive_control(RECORD))):
                match event:
                    case EvidenceWanted():
                        _show(exchange, event, identity)
                    case EvidenceReceived():
                        exchange.dangerously_accept_without_judging()
        self._say(exchange.data_to_send())
        self._early = exchange.take_leftover()

    def admit(self) -> Self:
        """Let application bytes flow."""
        self._connection.admit_unattested_peer()
        return self

    def seal(self, data: bytes) -> bytes:
        """Return these bytes as they have to be sent."""
        view = memoryview(data)
        while view:
            view = view[self._do(lambda part=view: self._connection.send(part[:RECORD])) :]  # type: ignore[misc]
        return self._connection.take()

    def send(self, data: bytes) -> None:
        """Seal and send."""
        self.sock.sendall(self.seal(data))

    def read(self, size: int) -> bytes:
        """Return exactly this many bytes of what the peer has sealed."""
        data, self._early = self._early, b""
        while len(data) < size:
            piece = self._do(lambda: self._connection.receive(RECORD))
            if not piece:
                raise EOFError
            data += piece
        data, self._early = data[:size], data[size:]
        return data

    @property
    def has_more(self) -> bool:
        """Whether there is something to read that came in one piece with something else."""
        return bool(self._early) or self._connection.has_more()

    def close(self) -> None:
        """Hang up."""
        self.sock.close()

    def _say(self, data: bytes) -> None:
        if data:
            self._do(lambda: self._connection.send_control(data))
            self._flush()

    def _do(self, step: Callable[[], _T | Want]) -> _T:
        while (outcome := step()) is Want.READ:
            self._flush()
            self._connection.feed(self.sock.recv(_CHUNK))
        return outcome  # type: ignore[return-value]

    def _flush(self) -> None:
        if data := self._connection.take():
            self.sock.sendall(data)


_nonces: Final = itertools.count(1)


def _nonce() -> bytes:
    return next(_nonces).to_bytes(NONCE_SIZE, "big")


def _show(exchange: Exchange, wanted: EvidenceWanted, identity: Identity) -> None:
    epoch = identity.epoch("workload", identity.credentials())
    assert epoch is not None
    signature = epoch.sign(wanted.statement(epoch.digest))
    exchange.answer(epoch.quote, epoch=EpochSignature(claims=epoch.claims, signature=signature))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Both ends of one relayed connection."""

    client: End
    workload: End

    def close(self) -> None:
        """Hang up on both sides."""
        self.client.close()
        self.workload.close()


class Ends:
    """Makes both ends of relayed connections: those of the exchange for our relay, plain mutual TLS for the others."""

    def __init__(self, identity: Identity, *, attested: bool) -> None:
        """Listen as a workload."""
        credentials = identity.credentials()
        self._identity = identity
        self._attested = attested
        self._alpn = (ALPN,) if attested else ()
        self._contexts = {
            server_side: make_context(
                server_side=server_side,
                certificate=credentials.certificate,
                private_key=credentials.private_key,
                alpn=self._alpn,
                demand_client_certificate=server_side,
            )
            for server_side in (True, False)
        }
        self._listener = socket.create_server((HOST, 0), backlog=2048)
        self._numbers = itertools.count(1)
        self._met: dict[int, End] = {}
        self._meeting = threading.Condition()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Where the workload listens."""
        return int(self._listener.getsockname()[1])

    def connect(self, port: int) -> Pair:
        """Connect through the relay that listens there."""
        client = self._end(socket.create_connection((HOST, port), PATIENCE), server_side=False)
        if self._attested:
            client.attest(Terms.shelter_to_relay(judges=True, level=LEVEL), self._identity, opens=True)
        number = next(self._numbers)
        client.admit().send(number.to_bytes(_TAG, "big"))
        with self._meeting:
            if not self._meeting.wait_for(lambda: number in self._met, PATIENCE):
                raise TimeoutError("what a client sends does not come out of the relay")
            return Pair(client=client, workload=self._met.pop(number))

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()

    def _end(self, sock: socket.socket, *, server_side: bool) -> End:
        context = self._contexts[server_side]
        return End(sock, Connection(context, server_side=server_side, alpn=self._alpn, now=datetime.now(UTC)))

    def _accept(self) -> None:
        """Take connections of the relay, and find out whose they are once they say so: it may have some in stock."""
        silent: dict[int, End] = {}
        with select.epoll() as ready:
            ready.register(self._listener, select.EPOLLIN)
            while True:
                for number, _ in ready.poll():
                    if number == self._listener.fileno():
                        with contextlib.suppress(EAAError, OSError):
                            end = self._take()
                            if end.has_more:
                                self._introduce(end)
                            else:
                                silent[end.sock.fileno()] = end
                                ready.register(end.sock, select.EPOLLIN)
                    elif number in silent:
                        end = silent.pop(number)
                        ready.unregister(number)
                        self._introduce(end)
                    else:
                        return

    def _take(self) -> End:
        sock, _ = self._listener.accept()
        end = self._end(sock, server_side=True)
        if self._attested:
            end.attest(Terms.workload_to_relay(judges=True, level=LEVEL), self._identity, opens=False)
        return end.admit()

    def _introduce(self, end: End) -> None:
        with contextlib.suppress(EAAError, OSError, EOFError):
            number = int.from_bytes(end.read(_TAG), "big")
            with self._meeting:
                self._met[number] = end
                self._meeting.notify_all()


# --- what is timed


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Bytes that went through a relay."""

    seconds: float
    busy: float
    """The share of that time in which the load generator had something to do."""


def transfer(pairs: list[Pair], size: int) -> Transfer:
    """Send `size` bytes from clients to workloads, the same share on each connection."""
    share = size // len(pairs)
    block = bytes(min(share, 64 * RECORD))
    sealed = [memoryview(b"".join(_sealed(pair.client, block, share))) for pair in pairs]
    expected = size + size // RECORD * OVERHEAD
    _discard(pairs)
    with select.epoll() as ready:
        sending = {
            pair.client.sock.fileno(): (pair.client.sock, data) for pair, data in zip(pairs, sealed, strict=True)
        }
        taking = {pair.workload.sock.fileno(): pair.workload.sock for pair in pairs}
        for number in sending:
            ready.register(number, select.EPOLLOUT)
        for number in taking:
            ready.register(number, select.EPOLLIN)
        for sock in (*taking.values(), *(sock for sock, _ in sending.values())):
            sock.settimeout(0)
        waste = bytearray(_CHUNK)
        begin, begin_busy = time.perf_counter(), time.process_time()
        while expected > 0:
            for number, _ in ready.poll():
                if number in taking:
                    # The kernel counts the bytes, and copies none of them (tcp(7), MSG_TRUNC).
                    expected -= taking[number].recv_into(waste, _CHUNK, socket.MSG_TRUNC)
                    continue
                sock, data = sending[number]
                data = data[sock.send(data[:_CHUNK]) :]
                sending[number] = (sock, data)
                if not data:
                    ready.unregister(number)
        seconds = time.perf_counter() - begin
        busy = time.process_time() - begin_busy
    for sock in (*taking.values(), *(sock for sock, _ in sending.values())):
        sock.settimeout(PATIENCE)
    return Transfer(seconds=seconds, busy=busy / seconds)


def _sealed(end: End, block: bytes, size: int) -> Iterator[bytes]:
    while size > 0:
        yield end.seal(block[:size])
        size -= len(block)


def _discard(pairs: list[Pair]) -> None:
    """Throw away what relays still had to deliver of an earlier transfer, whose records were smaller than ours."""
    waste = bytearray(_CHUNK)
    socks = [pair.workload.sock for pair in pairs]
    while found := select.select(socks, [], [], 0.05)[0]:
        for sock in found:
            sock.recv_into(waste, _CHUNK, socket.MSG_TRUNC)


def ping_pong(pair: Pair, *, times: int, size: int) -> list[float]:
    """Send a message and its answer, one after the other; return how long each took, seconds."""
    message = bytes(size)
    there = [pair.client.seal(message) for _ in range(times)]
    back = [pair.workload.seal(message) for _ in range(times)]
    _discard([pair])
    waste = bytearray(2 * size)
    took = []
    for question, answer in zip(there, back, strict=True):
        begin = time.perf_counter()
        pair.client.sock.sendall(question)
        _take(pair.workload.sock, waste, len(question))
        pair.workload.sock.sendall(answer)
        _take(pair.client.sock, waste, len(answer))
        took.append(time.perf_counter() - begin)
    return took


def _take(sock: socket.socket, waste: bytearray, size: int) -> None:
    while size > 0:
        size -= sock.recv_into(waste)


def fill(pair: Pair) -> int:
    """Send to a workload that reads nothing until nobody takes any more; return how many bytes went out."""
    sealed = pair.client.seal(bytes(64 * RECORD))
    sent = 0
    while select.select([], [pair.client.sock], [], 1.0)[1]:
        view = memoryview(sealed)
        pair.client.sock.settimeout(1.0)
        while view:
            try:
                size = pair.client.sock.send(view)
            except TimeoutError:
                return sent
            sent += size
            view = view[size:]
        sealed = pair.client.seal(bytes(64 * RECORD))
    return sent
