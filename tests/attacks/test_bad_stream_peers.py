"""Peers of attested streams that stall, cheat with the order of things, or spoil the handshake, from either side.

Two servers, each in a process of its own: one of `eaa.aio.start_attested_server` that judges its clients, and
`enclave-tls-server`, which judges relays. Each row is one peer and the reason with which it is refused. After each of
them the server has said so in exactly one line, serves a good client, and holds nothing of the bad one. Then the same
towards our client, from servers of an attacker's.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from OpenSSL import SSL

from eaa.aio import attestation, open_attested_connection, stream
from eaa.aio.net import connect
from eaa.aio.sessions import Endpoint, enter_workload, judge_by
from eaa.appraise.result import BindingLevel, Role
from eaa.attesters import Attester
from eaa.errors import EAAError, Reason
from eaa.identity import Identity
from eaa.program.address import parse_address
from eaa.protocol import messages
from eaa.protocol.exchange import ALPN, ALPN_INNER, Terms
from eaa.protocol.messages import Accept, Attest, Evidence, Opened, Reject
from eaa.tls.connection import Want
from eaa.verifier import Verifier, wall_clock
from support.peers import (
    Leaf,
    Nowhere,
    Observed,
    TLSSession,
    Wire,
    attester_of,
    eventually,
    evidence,
    mallory,
    observed,
    verifier_of,
)
from support.system import Site

ATTEST = Attest(nonce=b"a" * 32, level=BindingLevel.FRESH)
PATIENCE = 5.0
"""Seconds that the impatient servers have with a peer; a good one is far quicker, on a busy machine too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server, what its peers have to speak, and what a good and a bad one bring."""

    server: Observed
    alpn: bytes
    terms: Terms
    """Of a peer."""
    attester: Attester
    """Of an enclave that the server accepts."""
    verifier: Verifier
    leaf: Leaf
    rest: list[int] = field(default_factory=list)
    """How many tasks and descriptors it has when it has nothing to do."""

    def serve_a_good_client(self) -> None:
        asyncio.run(self._visit())

    async def _visit(self) -> None:
        identity, address = Identity(self.attester), parse_address(self.server.address)
        if self.alpn == ALPN_INNER:
            async with await open_attested_connection(address, verifier=self.verifier, identity=identity) as served:
                await served.write(b"Hello")
                assert await served.read() == b"Hello"
            return
        endpoint = Endpoint(identity, server_side=False, clock=wall_clock)
        judge = judge_by(self.verifier, Role.WORKLOAD)
        outer = await endpoint.secure(await connect(address), self.terms, judge)
        await outer.complete()
        async with await enter_workload(outer.stream, judge=judge, clock=wall_clock) as served:
            await served.write(b"hello")
            assert (await served.read()).startswith(b"Hello")

    def come_to_rest(self) -> None:
        """Wait until the server holds no task and no descriptor of any peer's."""
        if not self.rest:
            self.rest.extend((self.server.tasks, self.server.descriptors))
        eventually(lambda: self.server.tasks == self.rest[0], what="an end of all tasks of peers")
        eventually(lambda: self.server.descriptors == self.rest[1], what="an end of all descriptors of peers")
        assert self.server.troubles == []

    def session(self, wire: Wire) -> TLSSession:
        """A peer after its handshake."""
        return TLSSession(wire, leaf=self.leaf, alpn=(self.alpn,)).handshake()


TARGETS = ("attested-server", "enclave-tls-server")


@contextlib.contextmanager
def running_target(kind: str, site: Site, *, patience: float | None = None) -> Iterator[Target]:
    inside = kind == "attested-server"
    command = (
        ("support.attested_server", str(site.folder), "tcp://127.0.0.1:0")
        if inside
        else (kind, "--listen", "127.0.0.1:0", "--mutual", *site.attested("workload"), *site.judging)
    )
    with observed(*command, patience=patience) as server:
        target = Target(
            server=server,
            alpn=ALPN_INNER if inside else ALPN,
            terms=Terms.shelter_to_workload() if inside else Terms.relay_to_workload(),
            attester=attester_of(site, "client" if inside else "relay"),
            verifier=verifier_of(site),
            leaf=Leaf.create(),
        )
        eventually(lambda: server.tasks == 2, what="a server at rest")
        target.serve_a_good_client()
        eventually(lambda: server.tasks == 2, what="a server at rest")
        target.come_to_rest()
        yield target


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest, site: Site) -> Iterator[Target]:
    with running_target(request.param, site) as running:
        yield running


# --- peers that do the wrong thing ---------------------------------------------------------------------------------

Act = Callable[[Target, Wire], None]


def client_hello(target: Target) -> bytes:
    connection = TLSSession(Nowhere(), leaf=target.leaf, alpn=(target.alpn,)).connection
    assert connection.handshake() is Want.READ
    return connection.take()


def alert(level: int, description: int) -> bytes:
    return bytes([21, 3, 3, 0, 2, level, description])


def sends(*parts: bytes | str) -> Act:
    """Send these instead of a handshake; "hello" stands for a good ClientHello, "wait" for the server's answer."""

    def act(target: Target, wire: Wire) -> None:
        for part in parts:
            if part == "wait":
                assert wire.receive()
            else:
                wire.send(client_hello(target) if isinstance(part, str) else part)
        wire.drain()

    return act


def offers_early_data(target: Target, wire: Wire) -> None:
    """A ClientHello with the extension `early_data`, and then a request that could be replayed."""
    wire.send(with_extension(client_hello(target), b"\x00\x2a\x00\x00"))
    record = b"\x17\x03\x03\x40\x00" + bytes(16384)
    with contextlib.suppress(ConnectionError):
        wire.send(2 * record)
    wire.drain()


def with_extension(hello: bytes, extension: bytes) -> bytes:
    """Return this ClientHello, one record, with one more extension in front of the others."""
    body = hello[9:]
    at = 2 + 32
    at += 1 + body[at]
    at += 2 + int.from_bytes(body[at : at + 2], "big")
    at += 1 + body[at]
    size = int.from_bytes(body[at : at + 2], "big") + len(extension)
    body = body[:at] + size.to_bytes(2, "big") + extension + body[at + 2 :]
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return hello[:3] + len(message).to_bytes(2, "big") + message


def sends_records_before_its_handshake_is_finished(target: Target, wire: Wire) -> None:
    """What is encrypted comes before the keys for it."""
    wire.send(client_hello(target) + b"\x17\x03\x03\x00\x40" + bytes(64))
    wire.drain()


def begins_again(target: Target, wire: Wire) -> None:
    """A second ClientHello where the end of the first handshake is due: TLS 1.3 has no renegotiation."""
    wire.send(client_hello(target))
    assert wire.receive()
    wire.send(client_hello(target))
    wire.drain()


def shows_itself_and_goes_on(target: Target, wire: Wire) -> None:
    """Evidence that will be accepted, and application bytes that do not wait for that."""
    session = target.session(wire)
    asked = session.hear()
    assert isinstance(asked, Attest)
    shown = evidence(target.attester, session.claims(asked, target.terms.own_role))
    session.send(messages.encode(shown) + b"GET /secret HTTP/1.1\r\n\r\n")
    assert [type(message) for message in session.hear_all()] == [Reject]


def asks_and_goes_on(target: Target, wire: Wire) -> None:
    """It judges nobody, and takes the server's evidence for an answer to a request."""
    session = target.session(wire)
    session.send(messages.encode(ATTEST) + b"GET / HTTP/1.1\r\n\r\n")
    session.hear_all()


def says(*said: messages.Message) -> Act:
    def act(target: Target, wire: Wire) -> None:
        session = target.session(wire)
        session.say(*said)
        session.hear_all()

    return act


ACTS: list[tuple[str, Act, Reason]] = [
    ("fatal-alert-instead-of-a-hello", sends(alert(2, 40)), Reason.TLS_HANDSHAKE),
    ("fatal-alert-mid-handshake", sends("hello", "wait", alert(2, 40)), Reason.TLS_HANDSHAKE),
    ("internal-error-mid-handshake", sends("hello", "wait", alert(2, 80)), Reason.TLS_HANDSHAKE),
    ("goodbye-mid-handshake", sends("hello", "wait", alert(1, 0)), Reason.PEER_CLOSED),
    ("warnings-mid-handshake", sends("hello", "wait", 10 * alert(1, 90)), Reason.TLS_HANDSHAKE),
    ("alert-that-is-none-mid-handshake", sends("hello", "wait", alert(3, 255)), Reason.TLS_HANDSHAKE),
    ("early-data", offers_early_data, Reason.TLS_HANDSHAKE),
    ("records-before-keys", sends_records_before_its_handshake_is_finished, Reason.TLS_HANDSHAKE),
    ("second-hello", begins_again, Reason.TLS_HANDSHAKE),
    ("goes-on-with-its-evidence", shows_itself_and_goes_on, Reason.MESSAGE_UNEXPECTED),
    ("goes-on-before-it-has-shown-anything", asks_and_goes_on, Reason.MESSAGE_TOO_LARGE),
    ("accepts-what-it-has-not-seen", says(Accept()), Reason.MESSAGE_UNEXPECTED),
    ("says-that-a-channel-is-open", says(Opened()), Reason.MESSAGE_UNEXPECTED),
]


def endure(target: Target, act: Act, reason: Reason) -> None:
    """Let a bad peer act, and hold everything that is promised of what follows."""
    server, mark = target.server, len(target.server.lines)
    wire = Wire.to(server.address)
    try:
        act(target, wire)
    finally:
        wire.close()
    assert server.reason(wire.name, since=mark) is reason, server.lines[mark:]
    target.serve_a_good_client()
    target.come_to_rest()
    assert server.reasons(wire.name, since=mark) == [reason], server.lines[mark:]


@pytest.mark.parametrize(("act", "reason"), [pytest.param(*row[1:], id=row[0]) for row in ACTS])
def test_a_bad_peer_costs_a_server_one_connection(target: Target, act: Act, reason: Reason) -> None:
    endure(target, act, reason)


# --- peers that stall ----------------------------------------------------------------------------------------------

Stall = Callable[[Target, Wire], object]


def is_half_open(_target: Target, _wire: Wire) -> None:
    """A connection, and nobody there."""


def is_half_open_in_its_handshake(target: Target, wire: Wire) -> None:
    wire.send(client_hello(target)[:100])


def is_half_open_after_its_hello(target: Target, wire: Wire) -> None:
    wire.send(client_hello(target))


def never_shows_evidence(target: Target, wire: Wire) -> TLSSession:
    return target.session(wire)


def keeps_its_verdict(target: Target, wire: Wire) -> TLSSession:
    """Evidence shown and accepted, evidence seen, and no word of what it thinks of it."""
    session = target.session(wire)
    session.say(ATTEST)
    heard: set[type] = set()
    while heard != {Attest, Evidence, Accept}:
        message = session.hear()
        heard.add(type(message))
        if isinstance(message, Attest):
            session.say(evidence(target.attester, session.claims(message, target.terms.own_role)))
    return session


STALLS: dict[str, Stall] = {
    "half open": is_half_open,
    "half open in its handshake": is_half_open_in_its_handshake,
    "half open after its hello": is_half_open_after_its_hello,
    "never shows evidence": never_shows_evidence,
    "keeps its verdict": keeps_its_verdict,
}
FLOCK = 4


@pytest.fixture(scope="module", params=TARGETS)
def impatient(request: pytest.FixtureRequest, site: Site) -> Iterator[Target]:
    with running_target(request.param, site, patience=PATIENCE) as running:
        yield running


class Dripping:
    """A peer that sends a byte now and then: the time is for the whole step, not for the next byte."""

    def __init__(self, send: Callable[[bytes], None], drops: bytes) -> None:
        self._send = send
        self._drops = iter(drops)

    def drip(self) -> None:
        with contextlib.suppress(ConnectionError, EAAError, StopIteration):
            self._send(bytes([next(self._drops)]))


def drips_its_hello(target: Target, wire: Wire) -> Dripping:
    return Dripping(wire.send, client_hello(target))


def drips_its_messages(target: Target, wire: Wire) -> Dripping:
    return Dripping(target.session(wire).send, 10 * messages.encode(ATTEST))


STALLS |= {"drips its hello": drips_its_hello, "drips its messages": drips_its_messages}


def test_peers_that_stall_are_refused_in_time_and_hold_up_nobody(impatient: Target) -> None:
    """Some of every kind, all at once, and a good client among them. A verdict that comes late meets nobody."""
    server, mark = impatient.server, len(impatient.server.lines)
    stalling: list[tuple[str, Wire, object]] = []
    for kind, stall in STALLS.items():
        for _ in range(FLOCK):
            wire = Wire.to(server.address)
            stalling.append((kind, wire, stall(impatient, wire)))
    impatient.serve_a_good_client()
    while not all(server.reasons(wire.name, since=mark) for _, wire, kept in stalling if isinstance(kept, Dripping)):
        for _, _, kept in stalling:
            if isinstance(kept, Dripping):
                kept.drip()
        time.sleep(PATIENCE / 60)
    for kind, wire, _ in stalling:
        assert server.reason(wire.name, since=mark) is Reason.PEER_TIMEOUT, kind
    for kind, wire, kept in stalling:
        if kind == "keeps its verdict":
            assert isinstance(kept, TLSSession)
            with contextlib.suppress(ConnectionError):
                kept.say(Accept())
            assert not [message for message in kept.hear_all() if isinstance(message, Accept | Evidence)]
        wire.close()
    impatient.serve_a_good_client()
    impatient.come_to_rest()
    for kind, wire, _ in stalling:
        assert server.reasons(wire.name, since=mark) == [Reason.PEER_TIMEOUT], kind


# --- renegotiation: TLS 1.2 is spoken on the address for peers of 2021 only ------------------------------------------


def test_who_renegotiates_in_tls_1_2_is_refused(site: Site) -> None:
    with site.workload() as workload:
        hops = ("--legacy-listen", "127.0.0.1:0", "--xfer", workload.address(), "--mutual")
        with observed("inclavared", *hops, *site.attested("relay"), *site.judging) as relay:
            wire = Wire.to(relay.address)
            context = SSL.Context(SSL.TLS_CLIENT_METHOD)
            context.set_max_proto_version(SSL.TLS1_2_VERSION)
            wire.sock.settimeout(None)
            client = SSL.Connection(context, wire.sock)
            client.set_connect_state()
            client.do_handshake()
            assert client.renegotiate()
            with pytest.raises(SSL.Error, match="no renegotiation"):
                client.do_handshake()
            assert relay.reason(wire.name) is Reason.TLS_RECORD
            wire.close()
            assert relay.reasons(wire.name) == [Reason.TLS_RECORD]


# --- servers of an attacker's ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Trap:
    """What an attacker's server has: a genuine workload that does as it is told, and a key."""

    attester: Attester
    leaf: Leaf

    def accept(self, wire: Wire, **options: object) -> TLSSession:
        """The server's side after its handshake."""
        options = {"alpn": (ALPN_INNER,), **options}
        return TLSSession(wire, leaf=self.leaf, server_side=True, **options).handshake()  # type: ignore[arg-type]

    def answer(self, session: TLSSession) -> Evidence:
        asked = session.hear()
        assert isinstance(asked, Attest)
        return evidence(self.attester, session.claims(asked, Role.WORKLOAD))


Play = Callable[[Trap, Wire], None]


def replies(data: bytes) -> Play:
    def play(_: Trap, wire: Wire) -> None:
        wire.receive()
        wire.send(data)
        wire.drain()

    return play


def answers_before_the_verdict(trap: Trap, wire: Wire) -> None:
    session = trap.accept(wire)
    session.send(messages.encode(trap.answer(session)) + b"HTTP/1.1 200 OK\r\n\r\n")
    session.hear_all()


def accepts_unasked(trap: Trap, wire: Wire) -> None:
    session = trap.accept(wire)
    session.say(Accept())
    session.hear_all()


def asks_and_keeps_its_verdict(trap: Trap, wire: Wire) -> None:
    session = trap.accept(wire)
    session.say(ATTEST)
    session.say(trap.answer(session))
    session.hear_all()


def says_nothing(_: Trap, wire: Wire) -> None:
    wire.drain()


def is_silent(trap: Trap, wire: Wire) -> None:
    trap.accept(wire).hear_all()


def says_goodbye(trap: Trap, wire: Wire) -> None:
    session = trap.accept(wire)
    session.hear()
    session.goodbye()
    wire.drain()


def speaks_the_outer_protocol(trap: Trap, wire: Wire) -> None:
    trap.accept(wire, alpn=(ALPN,)).hear_all()


def drips(trap: Trap, wire: Wire) -> None:
    session = trap.accept(wire)
    for octet in messages.encode(trap.answer(session))[:60]:
        session.send(bytes([octet]))
        time.sleep(0.05)


PLAYS: list[tuple[str, Play, Reason]] = [
    ("fatal-alert", replies(alert(2, 40)), Reason.TLS_HANDSHAKE),
    ("warnings", replies(10 * alert(1, 90)), Reason.TLS_HANDSHAKE),
    ("goodbye-mid-handshake", replies(alert(1, 0)), Reason.PEER_CLOSED),
    ("http", replies(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Reason.TLS_HANDSHAKE),
    ("another-protocol", speaks_the_outer_protocol, Reason.TLS_HANDSHAKE),
    ("answers-before-the-verdict", answers_before_the_verdict, Reason.MESSAGE_UNEXPECTED),
    ("accepts-unasked", accepts_unasked, Reason.MESSAGE_UNEXPECTED),
    ("goodbye-instead-of-evidence", says_goodbye, Reason.PEER_CLOSED),
    ("silent", is_silent, Reason.PEER_TIMEOUT),
    ("half-open", says_nothing, Reason.PEER_TIMEOUT),
    ("byte-by-byte", drips, Reason.PEER_TIMEOUT),
    ("keeps-its-verdict", asks_and_keeps_its_verdict, Reason.PEER_TIMEOUT),
]


@pytest.mark.parametrize(("play", "reason"), [pytest.param(*row[1:], id=row[0]) for row in PLAYS])
def test_a_bad_server_gets_no_application_byte(
    site: Site, play: Play, reason: Reason, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason is Reason.PEER_TIMEOUT:
        monkeypatch.setattr(stream, "HANDSHAKE_TIMEOUT", 1.0)
        monkeypatch.setattr(attestation, "EXCHANGE_TIMEOUT", 1.0)
    trap = Trap(attester=attester_of(site, "workload"), leaf=Leaf.create())
    identity = Identity(attester_of(site, "client"))
    with mallory(lambda wire: play(trap, wire)) as address, pytest.raises(EAAError) as caught:
        asyncio.run(_open(address, verifier_of(site), identity))
    assert caught.value.reason is reason, caught.value


async def _open(address: str, verifier: Verifier, identity: Identity) -> None:
    await open_attested_connection(address, verifier=verifier, identity=identity)
