"""Peers of running servers that do exactly what a test tells them, well or badly.

Blocking and simple: a carrier is a socket, or a TLS session over another carrier. The TLS sessions are ours in the
memory form; whoever wants to send bytes that TLS would never send, writes to the carrier.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from eaa.aio.net import connect
from eaa.aio.sessions import Endpoint, enter_workload, judge_by
from eaa.appraise.policy import PolicyFile
from eaa.appraise.reference_values import ReferenceValues
from eaa.appraise.result import Role
from eaa.attesters import Attester, open_attester
from eaa.errors import EAAError, Reason
from eaa.evidence.tagged import TaggedEvidence, claims_report_data, encode_claims
from eaa.program.address import UnixAddress, parse_address
from eaa.program.files import read_trust_anchor
from eaa.protocol import messages
from eaa.protocol.exchange import (
    ALPN,
    EpochSignature,
    Event,
    EvidenceReceived,
    EvidenceWanted,
    Exchange,
    OpenReceived,
    Session,
    Terms,
    expected_claims,
)
from eaa.protocol.messages import Attest, Evidence, FrameReader, Message
from eaa.sources import CollateralSource
from eaa.sources.files import FileSource
from eaa.tls.certificate import PrivateKey, create_certificate
from eaa.tls.connection import Connection, Want, make_context
from eaa.verifier import Judgement, TrustAnchors, Verifier, wall_clock
from support.system import Running, Site, running

PATIENCE = 60.0
"""Seconds for what must happen soon, on a busy machine."""
DAY = timedelta(days=1)


def eventually(condition: Callable[[], bool], *, what: str = "it") -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} has not happened in {PATIENCE:g} seconds"
        time.sleep(0.01)


# --- carriers -----------------------------------------------------------------------------------------------------


class Carrier(Protocol):
    """Carries bytes both ways."""

    def send(self, data: bytes) -> None: ...

    def receive(self) -> bytes:
        """Return some bytes, b"" at the end, however it came about."""


class Nowhere:
    """For who only wants to know what would be sent."""

    def send(self, data: bytes) -> None: ...

    def receive(self) -> bytes:
        return b""


class Wire:
    """A connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.name = None if sock.family == socket.AF_UNIX else "{}:{}".format(*sock.getsockname()[:2])
        """How the server calls this peer; None for a unix socket."""

    @classmethod
    def to(cls, address: str) -> Wire:
        target = parse_address(address)
        if isinstance(target, UnixAddress):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(PATIENCE)
            sock.connect(str(target.path))
        else:
            sock = socket.create_connection((target.host, target.port), timeout=PATIENCE)
        return cls(sock)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self) -> bytes:
        try:
            return self.sock.recv(65536)
        except ConnectionError:
            return b""

    def drain(self) -> bytes:
        """Return everything until the other side hangs up."""
        return b"".join(iter(self.receive, b""))

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Hang up with a reset."""
        if self.sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class ByteByByte:
    """A carrier that sends every byte on its own."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        if wire.sock.family != socket.AF_UNIX:
            wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes) -> None:
        for octet in data:
            self._wire.send(bytes([octet]))

    def receive(self) -> bytes:
        return self._wire.receive()


# --- who somebody is ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A key and its certificate."""

    private_key: PrivateKey
    certificate: bytes

    @classmethod
    def create(cls, *, start: timedelta = -DAY, end: timedelta = DAY) -> Leaf:
        """A key without evidence; dates relative to now."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        certificate = create_certificate(key, evidence=None, not_before=now + start, not_after=now + end)
        return cls(private_key=key, certificate=certificate)


def attester_of(site: Site, enclave: str) -> Attester:
    """The attester of one of a site's images."""
    attester = open_attester("sgx_sim", simulator=site.tee, enclave=site.image(enclave))
    assert attester is not None
    return attester


def verifier_of(site: Site, *, policy: PolicyFile | None = None, source: CollateralSource | None = None) -> Verifier:
    """A verifier as a program makes it of `site.judging`."""
    return Verifier(
        source or FileSource(site.collateral),
        trust_anchors=TrustAnchors(frozenset({read_trust_anchor(site.root)})),
        policy=policy,
        reference_values=ReferenceValues.parse(site.values.read_text()),
    )


# --- sessions -----------------------------------------------------------------------------------------------------

Quoter = Callable[[EvidenceWanted], "bytes | tuple[bytes, EpochSignature] | None"]
"""What a TEE answers: a quote, at level session with the signature of its epoch."""
_T = TypeVar("_T")


class TLSSession:
    """One end of a TLS session that judges nobody; a carrier for another one inside it."""

    def __init__(
        self,
        carrier: Carrier,
        *,
        leaf: Leaf | None = None,
        alpn: tuple[bytes, ...] = (ALPN,),
        server_side: bool = False,
    ) -> None:
        context = make_context(
            server_side=server_side,
            certificate=leaf.certificate if leaf else None,
            private_key=leaf.private_key if leaf else None,
            alpn=alpn,
        )
        self.carrier = carrier
        self.connection = Connection(context, server_side=server_side, alpn=alpn, now=datetime.now(UTC))
        self._early = b""
        self._reader = FrameReader()

    def handshake(self) -> TLSSession:
        while (want := self._flushed(self.connection.handshake)) is not Want.NOTHING:
            assert want is Want.READ
            self.connection.feed(self.carrier.receive())
        self.connection.admit_unattested_peer()
        return self

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            sent = self._flushed(lambda part=view: self.connection.send(part))  # type: ignore[misc]
            assert isinstance(sent, int)
            view = view[sent:]

    def receive(self) -> bytes:
        if self._early:
            data, self._early = self._early, b""
            return data
        try:
            while isinstance(got := self._flushed(lambda: self.connection.receive(65536)), Want):
                self.connection.feed(self.carrier.receive())
        except EAAError:
            return b""
        return got

    def arrived(self) -> bytes | None:
        """Read from the carrier once; return what that brought, None at the end."""
        self.connection.feed(self.carrier.receive())
        data = b""
        with contextlib.suppress(EAAError):
            while isinstance(got := self._flushed(lambda: self.connection.receive(65536)), bytes) and got:
                data += got
            if got is Want.READ:
                return data
        return data or None

    def say(self, *said: Message) -> None:
        self.send(b"".join(messages.encode(message) for message in said))

    def hear(self) -> Message:
        """Return the next message. Raises EOFError where the other side has hung up."""
        while (message := self._reader.pull()) is None:
            self._reader.push(self._received())
        return message

    def hear_all(self) -> list[Message]:
        """Return every message until the other side hangs up."""
        heard = []
        with contextlib.suppress(EOFError):
            while True:
                heard.append(self.hear())
        return heard

    def goodbye(self) -> None:
        self._flushed(self.connection.shutdown)

    def exchange(
        self,
        terms: Terms,
        quoter: Quoter = lambda _: None,
        *,
        until: Callable[[Event], bool] = lambda _: False,
        opens: str | None = None,
    ) -> list[Event]:
        """Run an exchange until it is finished, or an event that is waited for; whatever is shown is waved through."""
        connection = self.connection
        session = Session(exporter=connection.exporter(), own_spki=connection.own_spki, peer_spki=connection.peer_spki)
        exchange = Exchange(session=session, terms=terms, nonce=b"n" * 32, now=datetime.now(UTC))
        if opens:
            exchange.open(opens)
        seen: list[Event] = []
        while not exchange.finished and not any(until(event) for event in seen):
            self.send(exchange.data_to_send())
            for event in exchange.receive(self._received()):
                seen.append(event)
                if isinstance(event, EvidenceWanted):
                    shown = quoter(event)
                    quote, epoch = shown if isinstance(shown, tuple) else (shown, None)
                    exchange.answer(quote, epoch=epoch)
                elif isinstance(event, EvidenceReceived):
                    exchange.dangerously_accept_without_judging()
                elif isinstance(event, OpenReceived):
                    exchange.opened()
        self.send(exchange.data_to_send())
        if exchange.finished:
            self._early = exchange.take_leftover()
        return seen

    def claims(self, asked: Attest, role: Role) -> dict[str, bytes]:
        """What evidence of this side has to claim in this session."""
        connection = self.connection
        assert connection.own_spki
        return expected_claims(
            asked.level,
            attester_spki=connection.own_spki,
            other_spki=connection.peer_spki,
            nonce=asked.nonce,
            exporter=connection.exporter(),
            role=role,
        )

    def _received(self) -> bytes:
        data = self.receive()
        if not data:
            raise EOFError
        return data

    def _flushed(self, operation: Callable[[], _T]) -> _T:
        try:
            return operation()
        finally:
            if data := self.connection.take():
                with contextlib.suppress(ConnectionError):
                    self.carrier.send(data)


def splice_wire(wire: Wire, session: TLSSession) -> None:
    """Carry bytes both ways until one side ends, on one thread: two may not use one OpenSSL session at once."""
    assert isinstance(session.carrier, Wire)
    while True:
        for sock in select.select([wire.sock, session.carrier.sock], [], [])[0]:
            data, sink = (wire.receive() or None, session) if sock is wire.sock else (session.arrived(), wire)
            if data is None:
                return
            sink.send(data)


def evidence(attester: Attester, claims: Mapping[str, bytes]) -> Evidence:
    """Evidence of an enclave that makes a quote over whatever it is told."""
    encoded = encode_claims(claims)
    quote = attester.quote(claims_report_data(encoded))
    return Evidence(evidence=TaggedEvidence(evidence=quote, claims=encoded).encode())


@contextlib.contextmanager
def mallory(act: Callable[[Wire], None]) -> Iterator[str]:
    """Run a server of the attacker's; yield its address. Each connection is for `act`, one after the other.

    That the victim hangs up is what the attacker has to live with; anything else that goes wrong fails the test.
    """
    failures: list[BaseException] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listening.accept()
                sock.settimeout(PATIENCE)
                with contextlib.closing(sock):
                    try:
                        act(Wire(sock))
                    except (EAAError, EOFError, ConnectionError):
                        pass
                    except BaseException as error:  # noqa: BLE001  told to the test
                        failures.append(error)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield "tcp://{}:{}".format(*listening.getsockname())
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)
    if failures:
        raise failures[0]


# --- servers ------------------------------------------------------------------------------------------------------


class Observed:
    """A running service, what it has said of whom, and what it holds."""

    def __init__(self, service: Running) -> None:
        self.service = service
        self.address = service.address()

    @property
    def lines(self) -> list[str]:
        return self.service.lines

    def reasons(self, peer: str | None, *, since: int = 0) -> list[Reason]:
        """The reasons with which it has ended what it had to do with this peer."""
        about = f" {peer}: " if peer else f" (process {os.getpid()}): "
        found = [re.findall(r"\[([A-Z_]+)\]$", line) for line in self.lines[since:] if about in line]
        return [Reason(code) for codes in found for code in codes]

    def reason(self, peer: str | None, *, since: int = 0) -> Reason:
        """Wait until it has given one."""
        eventually(lambda: bool(self.reasons(peer, since=since)), what=f"a reason for {peer} in {self.lines[since:]}")
        return self.reasons(peer, since=since)[0]

    @property
    def descriptors(self) -> int:
        """How many files it has open."""
        return len(list(Path(f"/proc/{self.service.process.pid}/fd").iterdir()))

    @property
    def tasks(self) -> int:
        """How many tasks live in it."""
        mark = len(self.lines)
        self.service.process.send_signal(signal.SIGUSR1)
        eventually(lambda: bool(self._counts(mark)), what="an answer to SIGUSR1")
        return self._counts(mark)[-1]

    @property
    def memory(self) -> int:
        """Its resident memory in bytes."""
        status = Path(f"/proc/{self.service.process.pid}/status").read_text()
        return 1024 * int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])

    def _counts(self, mark: int) -> list[int]:
        return [int(line.split()[1]) for line in self.lines[mark:] if line.startswith("tasks: ")]

    @property
    def troubles(self) -> list[str]:
        """What no peer may ever bring a server to say."""
        bad = re.compile(r"Traceback|Warning|INTERNAL|never (retrieved|awaited)|Exception")
        return [line for line in self.lines if bad.search(line)]


@contextlib.contextmanager
def observed(*command: str | Path, patience: float | None = None) -> Iterator[Observed]:
    """Run a service under observation."""
    env = {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONWARNINGS": "always"}
    if patience is not None:
        env["EAA_TEST_PATIENCE"] = str(patience)
    with running(sys.executable, "-m", "support.observed", *command, env=env) as service:
        yield Observed(service)


# --- good clients -------------------------------------------------------------------------------------------------


async def attest(address: str, verifier: Verifier) -> tuple[Judgement, bytes]:
    """Attest a node as `shelter remoteattestation` does; return the workload's judgement and its greeting."""
    endpoint = Endpoint(None, server_side=False, clock=wall_clock)
    sock = await connect(parse_address(address))
    relay = await endpoint.secure(sock, Terms.shelter_to_relay(judges=True), judge_by(verifier, Role.RELAY))
    try:
        await relay.open("default")
        workload = await enter_workload(relay.stream, judge=judge_by(verifier, Role.WORKLOAD), clock=wall_clock)
        await workload.write(b"hello")
        greeting = await workload.read(1024)
        await workload.close()
    finally:
        relay.stream.abort()
    assert isinstance(workload.judgement, Judgement)
    return workload.judgement, greeting
