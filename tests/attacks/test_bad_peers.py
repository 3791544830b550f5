"""A bad peer costs its own connection and nothing else, whatever it does and wherever it stops.

Real servers, on TCP and on unix sockets. Each row is one peer and the reason with which the server ends its connection.
After each of them: the server has said so in exactly one line, serves the next good client, and holds no descriptor and
no task of the bad one.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from eaa.aio.net import _allow_descriptors
from eaa.appraise.result import BindingLevel
from eaa.attesters import Attester
from eaa.errors import EAAError, Reason
from eaa.protocol import messages
from eaa.protocol.exchange import ALPN, ALPN_INNER, EvidenceReceived, Terms
from eaa.protocol.messages import MAX_MESSAGE, Accept, Attest, Evidence, Message, Open, Opened, Reject, RejectClass
from eaa.tls.connection import Want
from eaa.verifier import Verifier
from support.peers import (
    DAY,
    ByteByByte,
    Leaf,
    Nowhere,
    Observed,
    TLSSession,
    Wire,
    attest,
    attester_of,
    eventually,
    observed,
    verifier_of,
)
from support.system import Site
from support.tls_world import odd_certificate

ATTEST = Attest(nonce=b"a" * 32, level=BindingLevel.FRESH)
OPEN = Open(workload="default")
MEGABYTE = 1024 * 1024
JUNK = random.Random(5).randbytes(1000)
"""Random, and the same in every run: one in some thousands looks like the beginning of something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A workload and its relay, and what a client and a relay of ours have."""

    workload: Observed
    relay: Observed
    verifier: Verifier
    attester: Attester
    """Of the recorded relay image."""
    impostor: Attester
    leaf: Leaf
    rest: list[int] = field(default_factory=list)
    """What both servers hold when they have nothing to do."""

    def attest(self) -> None:
        """A good client is served, whole."""
        judgement, greeting = asyncio.run(attest(self.relay.address, self.verifier))
        assert judgement.accepted
        assert greeting.startswith(b"Hello")

    def come_to_rest(self) -> None:
        """Wait until both servers hold no descriptor and no task of any peer's."""
        servers = (self.workload, self.relay)
        # One that waits to accept, one that serves it; a relay has one more, which watches over its sessions.
        eventually(lambda: [server.tasks for server in servers] == [2, 3], what="an end of all tasks of peers")
        if not self.rest:
            self.rest.extend(server.descriptors for server in servers)
        # The last one is closed a moment after its task.
        eventually(lambda: [server.descriptors for server in servers] == self.rest, what="an end of all descriptors")
        assert [server.troubles for server in servers] == [[], []]


@contextlib.contextmanager
def running_node(site: Site, at_workload: str, at_relay: str, *, patience: float | None = None) -> Iterator[Node]:
    server = ("enclave-tls-server", "--listen", at_workload, "--mutual", *site.attested("workload"), *site.judging)
    with observed(*server, patience=patience) as workload:
        # What is told apart here is what each peer leaves behind, so nothing is kept ready beside.
        hops = ("--listen", at_relay, "--xfer", workload.address, "--mutual", "--warm-channels", "0")
        idle = () if patience is None else ("--idle-timeout", str(patience))
        with observed("inclavared", *hops, *idle, *site.attested("relay"), *site.judging, patience=patience) as relay:
            node = Node(
                workload=workload,
                relay=relay,
                verifier=verifier_of(site),
                attester=attester_of(site, "relay"),
                impostor=attester_of(site, "impostor"),
                leaf=Leaf.create(),
            )
            node.attest()
            node.come_to_rest()
            yield node


@pytest.fixture(scope="module", params=["tcp", "unix"])
def node(request: pytest.FixtureRequest, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    unix = (f"unix://{folder}/workload", f"unix://{folder}/relay")
    with running_node(site, *(unix if request.param == "unix" else ("127.0.0.1:0",) * 2)) as running:
        yield running


Act = Callable[[Node, Wire], None]


def endure(node: Node, server: Observed, act: Act, reason: Reason) -> None:
    """Let a bad peer act, and hold everything that is promised of what follows."""
    mark = len(server.lines)
    wire = Wire.to(server.address)
    try:
        act(node, wire)
    finally:
        wire.close()
    assert server.reason(wire.name, since=mark) is reason, server.lines[mark:]
    node.attest()
    node.come_to_rest()
    assert server.reasons(wire.name, since=mark) == [reason], server.lines[mark:]


# --- what a peer may do before its first message ------------------------------------------------------------------


def leaves(_node: Node, _wire: Wire) -> None:
    """At once."""


def resets(_node: Node, wire: Wire) -> None:
    wire.reset()


def sends(data: bytes) -> Act:
    def act(_: Node, wire: Wire) -> None:
        wire.send(data)
        wire.drain()

    return act


def leaves_in_its_client_hello(node: Node, wire: Wire) -> None:
    wire.send(client_hello(node)[:-1])


def leaves_after_its_client_hello(node: Node, wire: Wire) -> None:
    wire.send(client_hello(node))
    wire.receive()


def client_hello(node: Node) -> bytes:
    connection = TLSSession(Nowhere(), leaf=node.leaf).connection
    assert connection.handshake() is Want.READ
    return connection.take()


def offers(*alpn: bytes) -> Act:
    def act(node: Node, wire: Wire) -> None:
        with contextlib.suppress(EAAError):
            TLSSession(wire, leaf=node.leaf, alpn=alpn).handshake().hear_all()

    return act


def knows_tls_1_2_only(_: Node, wire: Wire) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        context.wrap_socket(wire.sock)


def shows(leaf: Callable[[], Leaf]) -> Act:
    def act(_: Node, wire: Wire) -> None:
        assert TLSSession(wire, leaf=leaf()).handshake().hear_all() == []

    return act


def issued_by_an_authority() -> Leaf:
    key, authority = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    return Leaf(private_key=key, certificate=odd_certificate(key, issuer="An authority", signer=authority))


BEFORE_THE_FIRST_MESSAGE: list[tuple[str, Act, Reason]] = [
    ("leaves-at-once", leaves, Reason.PEER_CLOSED),
    ("resets-at-once", resets, Reason.PEER_CLOSED),
    ("random-bytes", sends(JUNK), Reason.TLS_HANDSHAKE),
    ("a-megabyte-of-zeros", sends(bytes(MEGABYTE)), Reason.TLS_HANDSHAKE),
    ("plain-http", sends(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n"), Reason.TLS_HANDSHAKE),
    ("legacy-json-in-the-clear", sends(b'{"type":"GETENCLAVEINFO"}'), Reason.TLS_HANDSHAKE),
    ("ssh", sends(b"SSH-2.0-OpenSSH_9.2p1\r\n"), Reason.TLS_HANDSHAKE),
    ("record-too-long", sends(b"\x16\x03\x01\xff\xff" + bytes(300)), Reason.TLS_HANDSHAKE),
    ("tls-1.2-only", knows_tls_1_2_only, Reason.TLS_HANDSHAKE),
    ("leaves-in-its-client-hello", leaves_in_its_client_hello, Reason.PEER_CLOSED),
    ("leaves-after-its-client-hello", leaves_after_its_client_hello, Reason.PEER_CLOSED),
    ("alpn-of-the-inner-session", offers(ALPN_INNER), Reason.TLS_HANDSHAKE),
    ("alpn-of-the-web", offers(b"h2", b"http/1.1"), Reason.TLS_HANDSHAKE),
    ("no-alpn", offers(), Reason.PEER_IS_LEGACY),
    ("certificate-expired", shows(lambda: Leaf.create(start=-2 * DAY, end=-DAY)), Reason.CERTIFICATE_EXPIRED),
    ("certificate-of-tomorrow", shows(lambda: Leaf.create(start=DAY, end=2 * DAY)), Reason.CERTIFICATE_NOT_YET_VALID),
    ("certificate-of-an-authority", shows(issued_by_an_authority), Reason.CERTIFICATE_CHAIN),
]


# --- messages that no server takes ---------------------------------------------------------------------------------


Stage = Callable[[Node, Wire], TLSSession]


def client(_: Node, wire: Wire) -> TLSSession:
    """A client of the relay, after its handshake."""
    return TLSSession(wire).handshake()


def peer(node: Node, wire: Wire) -> TLSSession:
    """A peer of the workload, after its handshake."""
    return TLSSession(wire, leaf=node.leaf).handshake()


def says(*said: Message | bytes, hears: tuple[type, ...] = ()) -> Callable[[TLSSession], None]:
    """Say this, and hear no more than that before the server hangs up."""
    data = b"".join(part if isinstance(part, bytes) else messages.encode(part) for part in said)

    def act(session: TLSSession) -> None:
        session.send(data)
        assert {type(message) for message in session.hear_all()} <= {Attest, Reject, *hears}

    return act


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def ends_well(session: TLSSession) -> None:
    session.goodbye()


def ends_badly(_: TLSSession) -> None:
    """Without a goodbye."""


def leaves_in_a_message(session: TLSSession) -> None:
    session.send(messages.encode(ATTEST)[:-1])


def garbles_a_record(session: TLSSession) -> None:
    session.say(ATTEST)
    session.carrier.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    session.hear_all()


def asks_and_leaves(session: TLSSession) -> None:
    """The answer meets nobody."""
    session.say(ATTEST)
    while not isinstance(session.hear(), Evidence):
        pass


DEEP = b"\x81" * (MAX_MESSAGE - 1) + b"\x00"

AS_FIRST_MESSAGES: list[tuple[str, Callable[[TLSSession], None], Reason]] = [
    ("goodbye", ends_well, Reason.PEER_CLOSED),
    ("nothing", ends_badly, Reason.PEER_CLOSED),
    ("half-a-message", leaves_in_a_message, Reason.PEER_CLOSED),
    ("attest-and-gone", asks_and_leaves, Reason.PEER_CLOSED),
    ("garbled-record", garbles_a_record, Reason.TLS_RECORD),
    ("length-of-256-KiB-and-one", says((MAX_MESSAGE + 1).to_bytes(4, "big")), Reason.MESSAGE_TOO_LARGE),
    ("length-of-4-GiB", says(b"\xff\xff\xff\xff"), Reason.MESSAGE_TOO_LARGE),
    ("http-inside-tls", says(b"GET / HTTP/1.1\r\n\r\n"), Reason.MESSAGE_TOO_LARGE),
    ("empty-message", says(frame(b"")), Reason.MESSAGE_MALFORMED),
    ("json", says(frame(b'{"type":"GETENCLAVEINFO"}')), Reason.MESSAGE_MALFORMED),
    ("nesting-256-Ki-deep", says(frame(DEEP)), Reason.MESSAGE_MALFORMED),
    ("random-message", says(frame(JUNK)), Reason.MESSAGE_MALFORMED),
    ("a-megabyte-of-zeros", says(bytes(MEGABYTE)), Reason.MESSAGE_MALFORMED),
    ("two-attests", says(ATTEST, replace(ATTEST, nonce=b"b" * 32), hears=(Evidence,)), Reason.MESSAGE_UNEXPECTED),
    ("accept", says(Accept()), Reason.MESSAGE_UNEXPECTED),
    ("opened", says(Opened()), Reason.MESSAGE_UNEXPECTED),
    ("reject", says(Reject(reason_class=RejectClass.POLICY)), Reason.PEER_REJECTED_US),
    ("reject-after-evidence", says(ATTEST, Reject(reason_class=RejectClass.POLICY), hears=(Evidence,)),
     Reason.PEER_REJECTED_US),
]  # fmt: skip


def staged(stage: Stage, act: Callable[[TLSSession], None]) -> Act:
    return lambda node, wire: act(stage(node, wire))


# --- a client of the relay -----------------------------------------------------------------------------------------


def opened(node: Node, wire: Wire) -> TLSSession:
    """A client whose channel to the workload is open."""
    session = client(node, wire)
    session.exchange(Terms.shelter_to_relay(judges=True), opens="default")
    return session


def leaves_in_the_inner_handshake(session: TLSSession) -> None:
    inner = TLSSession(session, alpn=(ALPN_INNER,)).connection
    assert inner.handshake() is Want.READ
    session.send(inner.take())
    session.receive()


OF_THE_RELAY: list[tuple[str, Act, Reason]] = [
    ("evidence-unasked", staged(client, says(Evidence())), Reason.MESSAGE_UNEXPECTED),
    ("unknown-workload", staged(client, says(ATTEST, Open(workload="other"), hears=(Evidence,))),
     Reason.WORKLOAD_UNAVAILABLE),
    ("unknown-workload-unjudged", staged(client, says(Open(workload="other"))), Reason.WORKLOAD_UNAVAILABLE),
    ("no-workload-name", staged(client, says(frame(b"\xa2dtypedopenhworkload`"))), Reason.MESSAGE_MALFORMED),
    ("gone-after-opened", staged(opened, ends_badly), Reason.PEER_CLOSED),
    ("gone-in-the-inner-handshake", staged(opened, leaves_in_the_inner_handshake), Reason.PEER_CLOSED),
    ("garbled-record-in-an-open-channel",
     staged(opened, lambda session: session.carrier.send(b"\x17\x03\x03\x00\x20" + bytes(32))), Reason.TLS_RECORD),
]  # fmt: skip


# --- a peer of the workload ----------------------------------------------------------------------------------------


def channel(node: Node, wire: Wire) -> TLSSession:
    """A relay that the workload has accepted, with an open channel."""
    session = peer(node, wire)
    session.exchange(Terms.relay_to_workload(), lambda wanted: node.attester.quote(wanted.report_data))
    return session


def has_no_certificate(_: Node, wire: Wire) -> None:
    assert TLSSession(wire).handshake().hear_all() == []


def is_an_impostor(node: Node, wire: Wire) -> None:
    session = peer(node, wire)
    with pytest.raises(EAAError) as refused:
        session.exchange(Terms.relay_to_workload(), lambda wanted: node.impostor.quote(wanted.report_data))
    assert refused.value.reason is Reason.PEER_REJECTED_US


def has_no_evidence(node: Node, wire: Wire) -> None:
    session = peer(node, wire)
    with pytest.raises(EAAError):
        session.exchange(Terms.relay_to_workload())


def leaves_before_the_verdict(node: Node, wire: Wire) -> None:
    """Everything that the workload has to say is on its way to nobody."""
    peer(node, wire).exchange(
        Terms.relay_to_workload(),
        lambda wanted: node.attester.quote(wanted.report_data),
        until=lambda event: isinstance(event, EvidenceReceived),
    )


def inner(session: TLSSession) -> TLSSession:
    return TLSSession(session, alpn=(ALPN_INNER,)).handshake()


def speaks_the_outer_protocol_inside(session: TLSSession) -> None:
    with pytest.raises(EAAError):
        TLSSession(session, alpn=(ALPN,)).handshake()


def refuses_the_workload(session: TLSSession) -> None:
    inside = inner(session)
    inside.say(ATTEST, Reject(reason_class=RejectClass.POLICY))
    inside.hear_all()


def asks_for_a_channel_inside(session: TLSSession) -> None:
    inside = inner(session)
    inside.say(OPEN)
    assert [type(message) for message in inside.hear_all()] == [Reject]


def leaves_before_a_request(session: TLSSession) -> None:
    inside = inner(session)
    inside.exchange(Terms.shelter_to_workload())


def inside(act: Callable[[TLSSession], None]) -> Act:
    return staged(channel, act)


OF_THE_WORKLOAD: list[tuple[str, Act, Reason]] = [
    ("no-certificate", has_no_certificate, Reason.TLS_HANDSHAKE),
    ("no-evidence", has_no_evidence, Reason.NO_EVIDENCE),
    ("another-measurement", is_an_impostor, Reason.MEASUREMENT_MISMATCH),
    ("gone-before-the-verdict", leaves_before_the_verdict, Reason.PEER_CLOSED),
    ("open-to-a-workload", staged(peer, says(OPEN)), Reason.MESSAGE_UNEXPECTED),
    ("junk-as-evidence", staged(peer, says(ATTEST, Evidence(evidence=b"junk"), hears=(Evidence,))),
     Reason.EVIDENCE_MALFORMED),
    ("a-quarter-megabyte-as-evidence",
     staged(peer, says(Evidence(evidence=bytes(MAX_MESSAGE - 64)))), Reason.EVIDENCE_MALFORMED),
    ("gone-from-its-channel", inside(ends_badly), Reason.PEER_CLOSED),
    ("goodbye-in-its-channel", inside(ends_well), Reason.PEER_CLOSED),
    ("junk-in-its-channel", inside(lambda session: session.send(JUNK)), Reason.TLS_HANDSHAKE),
    ("another-message-in-its-channel", inside(says(ATTEST)), Reason.TLS_HANDSHAKE),
    ("gone-in-the-inner-handshake", inside(leaves_in_the_inner_handshake), Reason.PEER_CLOSED),
    ("outer-protocol-inside", inside(speaks_the_outer_protocol_inside), Reason.TLS_HANDSHAKE),
    ("refuses-the-workload", inside(refuses_the_workload), Reason.PEER_REJECTED_US),
    ("open-inside", inside(asks_for_a_channel_inside), Reason.MESSAGE_UNEXPECTED),
]  # fmt: skip


def rows(*tables: list[tuple[str, Act, Reason]]) -> list[object]:
    return [pytest.param(act, reason, id=name) for table in tables for name, act, reason in table]


def after_handshake(stage: Stage) -> list[tuple[str, Act, Reason]]:
    return [(name, staged(stage, act), reason) for name, act, reason in AS_FIRST_MESSAGES]


@pytest.mark.parametrize(("act", "reason"), rows(BEFORE_THE_FIRST_MESSAGE, after_handshake(client), OF_THE_RELAY))
def test_a_bad_client_costs_a_relay_one_connection(node: Node, act: Act, reason: Reason) -> None:
    endure(node, node.relay, act, reason)


@pytest.mark.parametrize(("act", "reason"), rows(BEFORE_THE_FIRST_MESSAGE, after_handshake(peer), OF_THE_WORKLOAD))
def test_a_bad_relay_costs_a_workload_one_connection(node: Node, act: Act, reason: Reason) -> None:
    endure(node, node.workload, act, reason)


# --- peers that stall ----------------------------------------------------------------------------------------------

PATIENCE = 5.0
"""Seconds that the servers of this part have with a peer; a good one is far quicker, on a busy machine too."""
FLOCK = 5
"""Peers of each kind at once."""

Stall = Callable[[Node, Wire], object]


def stops_in_its_client_hello(node: Node, wire: Wire) -> None:
    wire.send(client_hello(node)[:100])


def stops_in_a_message(stage: Stage) -> Stall:
    def act(node: Node, wire: Wire) -> TLSSession:
        session = stage(node, wire)
        session.send(messages.encode(ATTEST)[:20])
        return session

    return act


def asks_and_then_says_nothing(node: Node, wire: Wire) -> TLSSession:
    session = client(node, wire)
    session.say(ATTEST)
    return session


def stops_in_the_inner_handshake(node: Node, wire: Wire) -> TLSSession:
    session = channel(node, wire)
    connection = TLSSession(Nowhere(), alpn=(ALPN_INNER,)).connection
    connection.handshake()
    session.send(connection.take()[:100])
    return session


def never_asks_for_the_greeting(node: Node, wire: Wire) -> TLSSession:
    inside = inner(channel(node, wire))
    inside.exchange(Terms.shelter_to_workload())
    return inside


STALLS_AT_THE_WORKLOAD: dict[str, Stall] = {
    "never asks for the greeting": never_asks_for_the_greeting,
    "never attests inside": lambda node, wire: inner(channel(node, wire)),
    "stops in the inner handshake": stops_in_the_inner_handshake,
    "never begins the inner session": channel,
    "never answers attest": peer,
    "stops in a message": stops_in_a_message(peer),
    "stops in its client hello": stops_in_its_client_hello,
    "says nothing": leaves,
}
STALLS_AT_THE_RELAY: dict[str, Stall] = {
    "never uses its channel": opened,
    "never opens": asks_and_then_says_nothing,
    "stops after its handshake": client,
    "stops in a message": stops_in_a_message(client),
    "stops in its client hello": stops_in_its_client_hello,
    "says nothing": leaves,
}


@pytest.fixture(scope="module")
def impatient(site: Site) -> Iterator[Node]:
    with running_node(site, "127.0.0.1:0", "127.0.0.1:0", patience=PATIENCE) as running:
        yield running


def test_peers_that_stall_are_waited_for_by_nobody_else(impatient: Node) -> None:
    """Some of every kind, all at once, and a good client among them."""
    stalling: list[tuple[str, Observed, Wire]] = []
    kept: list[object] = []
    for server, stalls in ((impatient.workload, STALLS_AT_THE_WORKLOAD), (impatient.relay, STALLS_AT_THE_RELAY)):
        for kind, stall in stalls.items():
            for _ in range(FLOCK):
                wire = Wire.to(server.address)
                kept.append(stall(impatient, wire))
                stalling.append((kind, server, wire))
    impatient.attest()
    for kind, server, wire in stalling:
        assert server.reason(wire.name) is Reason.PEER_TIMEOUT, kind
        wire.close()
    impatient.attest()
    impatient.come_to_rest()
    for kind, server, wire in stalling:
        assert server.reasons(wire.name) == [Reason.PEER_TIMEOUT], kind


def test_a_drop_now_and_then_does_not_stretch_a_server_s_patience(impatient: Node) -> None:
    """The time is for the whole handshake, not for the next byte."""
    server, mark = impatient.relay, len(impatient.relay.lines)
    hello = client_hello(impatient)
    wire = Wire.to(server.address)
    for octet in hello:
        if server.reasons(wire.name, since=mark):
            break
        # It may have hung up a moment before what it says of that is read.
        with contextlib.suppress(ConnectionError):
            wire.send(bytes([octet]))
        time.sleep(0.01)
    assert server.reason(wire.name, since=mark) is Reason.PEER_TIMEOUT
    wire.close()


# --- peers that are odd, and peers that are many -------------------------------------------------------------------


def test_a_client_that_sends_byte_by_byte_is_served(node: Node) -> None:
    """Every message, TLS record and handshake in the smallest pieces there are."""
    wire = Wire.to(node.relay.address)
    session = TLSSession(ByteByByte(wire)).handshake()
    session.exchange(Terms.shelter_to_relay(judges=True), opens="default")
    inside = inner(session)
    inside.exchange(Terms.shelter_to_workload())
    inside.send(b"hello")
    assert inside.receive().startswith(b"Hello")
    wire.close()


def test_two_thousand_connections_at_once(node: Node) -> None:
    """Most of them idle, some of them clients in earnest: those are all served."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    _allow_descriptors()
    crowd = [Wire.to(server.address) for server in (node.relay, node.workload) for _ in range(1000)]

    async def all_at_once() -> list[bool]:
        visits = await asyncio.gather(*(attest(node.relay.address, node.verifier) for _ in range(20)))
        return [judgement.accepted for judgement, _ in visits]

    assert asyncio.run(all_at_once()) == [True] * 20
    for wire in crowd:
        wire.close()
    node.come_to_rest()
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_endless_bytes_before_a_channel_is_open_are_not_taken(site: Site) -> None:
    """The workload takes connections and says nothing: the relay waits for it, and takes a first flight and no more."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        at = f"127.0.0.1:{silent.getsockname()[1]}"
        hops = ("--listen", "127.0.0.1:0", "--xfer", at, "--mutual", "--warm-channels", "0")
        with observed("inclavared", *hops, *site.attested("relay"), *site.judging, patience=PATIENCE) as relay:
            wire = Wire.to(relay.address)
            session = TLSSession(wire).handshake()
            session.say(ATTEST, OPEN)
            accepted, memory = silent.accept()[0], relay.memory
            sent = 0
            # It ends where the relay hangs up.
            with contextlib.suppress(ConnectionError):
                while sent < 64 * MEGABYTE:
                    session.connection.send(bytes(MEGABYTE))
                    sent += wire.sock.send(session.connection.take())
            assert sent < 64 * MEGABYTE
            assert relay.memory - memory < 16 * MEGABYTE
            assert relay.reason(wire.name) is Reason.MESSAGE_TOO_LARGE
            accepted.close()
            wire.close()
