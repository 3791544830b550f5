"""The TLS connection and its gate. One suite over both forms: memory BIOs, and the caller's non-blocking socket."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any, Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL, crypto

from eaa.aio.net import TLS_OVERLOADED
from eaa.appraise.result import Accepted, Attests, BindingLevel, Rejected, Role
from eaa.errors import EAAError, MalformedInput, Misuse, PeerMisbehaved, Reason, Unavailable, VerificationError
from eaa.protocol.exchange import ALPN, ALPN_INNER
from eaa.tls import connection as connection_module
from eaa.tls.bulk import bulk
from eaa.tls.connection import MAX_CONTROL_BYTES, Connection, Context, Want, make_context
from support.tls_world import (
    FORMS,
    HOUR,
    NOW,
    Form,
    Identity,
    Wire,
    client_identity,
    make_identity,
    odd_certificate,
    read_control,
    send_all,
    server_identity,
    tcp_pair,
    wire,
)

DIGEST = hashlib.sha256(b"a quote").digest()
REPORT_DATA = bytes(range(64))
ACCEPTED = Accepted(
    role=Role.WORKLOAD,
    binding=BindingLevel.FRESH,
    evidence_digest=DIGEST,
    report_data=REPORT_DATA,
    checks=(),
    reference_value="workload",
    attests=Attests.PROCESS,
)


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    chosen: Form = request.param
    return chosen


@pytest.fixture
def pair(form: Form) -> Iterator[Wire]:
    """Both sides have a certificate, and the handshake is done."""
    with wire(form, client=client_identity(), demand=True) as made:
        made.handshake()
        yield made


@pytest.fixture
def tcp() -> Iterator[Wire]:
    """Both sides have a certificate, and have said nothing."""
    with wire("tcp", client=client_identity(), demand=True) as made:
        yield made


def open_gates(pair: Wire) -> None:
    pair.client.expect(DIGEST, REPORT_DATA)
    pair.client.accept(ACCEPTED)
    pair.server.admit_unattested_peer()


def reason_of(operation: Callable[[], object]) -> Reason:
    with pytest.raises(EAAError) as caught:
        operation()
    return caught.value.reason


# --- the handshake


def test_both_sides_learn_the_other_s_certificate_and_the_same_exporter(pair: Wire) -> None:
    assert pair.client.peer_certificate == server_identity().certificate
    assert pair.server.peer_certificate == client_identity().certificate
    assert pair.client.peer_spki == pair.server.own_spki == server_identity().spki
    assert pair.server.peer_spki == pair.client.own_spki == client_identity().spki
    assert pair.client.exporter() == pair.server.exporter()
    assert len(pair.client.exporter()) == 32
    peer = pair.client.peer
    assert peer is not None
    assert peer.evidence == b"a quote"


def test_what_is_exported_depends_on_label_and_context(pair: Wire) -> None:
    values = {pair.client.export(label, 16, context) for label in (b"one", b"two") for context in (b"", b"x")}
    assert len(values) == 4
    assert pair.client.export(b"one", 16, b"x") == pair.server.export(b"one", 16, b"x")


def test_every_session_has_its_own_exporter(form: Form) -> None:
    values = set()
    for _ in range(2):
        with wire(form) as pair:
            pair.handshake()
            values.add(pair.client.exporter())
    assert len(values) == 2


def test_a_client_without_a_certificate_is_served_where_none_is_demanded(form: Form) -> None:
    with wire(form) as pair:
        pair.handshake()
        assert pair.server.peer_certificate is None
        assert pair.server.peer_spki is None
        assert pair.client.own_spki is None


def test_a_client_that_has_a_certificate_sends_it_even_where_none_is_demanded(form: Form) -> None:
    """Both ends must agree on the claim `peer`, and a client cannot tell whether its certificate was wanted."""
    with wire(form, client=client_identity()) as pair:
        pair.handshake()
        assert pair.server.peer_spki == pair.client.own_spki


def test_a_handshake_that_is_done_stays_done(pair: Wire) -> None:
    assert pair.client.handshake() is Want.NOTHING


def test_tls_1_3_is_what_eaa_2_speaks(pair: Wire) -> None:
    assert pair.client._ssl.get_protocol_version_name() == "TLSv1.3"


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        (NOW - 2 * HOUR, NOW - HOUR, Reason.CERTIFICATE_EXPIRED),
        (NOW + HOUR, NOW + 2 * HOUR, Reason.CERTIFICATE_NOT_YET_VALID),
    ],
)
def test_a_certificate_outside_its_dates_is_refused_by_the_time_we_are_given(
    form: Form, start: Any, end: Any, reason: Reason
) -> None:
    with wire(form, server=make_identity(start=start, end=end)) as pair:
        error = pair.outcome(pair.client)
        assert isinstance(error, VerificationError)
        assert error.reason is reason
        assert pair.client.peer_certificate is None


def test_the_wall_clock_has_no_say_about_dates(form: Form) -> None:
    long_ago = NOW.replace(year=1999)
    with wire(form, server=make_identity(start=long_ago - HOUR, end=long_ago + HOUR), now=long_ago) as pair:
        pair.handshake()


def _issued_by_another() -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    authority = ec.generate_private_key(ec.SECP256R1())
    return Identity(key=key, certificate=odd_certificate(key, issuer="An authority", signer=authority))


def _signed_by_another_in_its_own_name() -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    return Identity(key=key, certificate=odd_certificate(key, signer=ec.generate_private_key(ec.SECP256R1())))


@pytest.mark.parametrize("side", ["client", "server"])
def test_only_a_leaf_that_names_itself_as_its_issuer_is_taken(form: Form, side: str) -> None:
    odd, ordinary = _issued_by_another(), client_identity()
    client, server = (odd, ordinary) if side == "client" else (ordinary, odd)
    with wire(form, demand=True, client=client, server=server) as pair:
        judge = pair.server if side == "client" else pair.client
        error = pair.outcome(judge)
        assert isinstance(error, VerificationError)
        assert error.reason is Reason.CERTIFICATE_CHAIN


@pytest.mark.parametrize("side", ["client", "server"])
def test_who_has_signed_a_leaf_means_nothing(form: Form, side: Literal["server", "client"]) -> None:
    """The handshake proves that the peer holds the key, and whoever holds it could sign the leaf anew."""
    with wire(form, demand=True, **{"client": client_identity(), side: _signed_by_another_in_its_own_name()}) as pair:  # type: ignore[arg-type]
        pair.handshake()


def test_more_than_one_certificate_is_refused(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    original = connection_module._use_identity

    def with_a_second(context: Context, certificate: bytes, key: Any) -> None:
        original(context, certificate, key)
        context.add_extra_chain_cert(x509.load_der_x509_certificate(client_identity().certificate))

    monkeypatch.setattr(connection_module, "_use_identity", with_a_second)
    with wire(form) as pair:
        error = pair.outcome(pair.client)
        assert isinstance(error, VerificationError)
        assert error.reason is Reason.CERTIFICATE_CHAIN


def test_evidence_in_a_critical_extension_is_taken_as_dice_asks(form: Form) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    identity = Identity(key=key, certificate=odd_certificate(key, critical_oid="2.23.133.5.4.9"))
    with wire(form, server=identity) as pair:
        pair.handshake()


def test_an_unknown_critical_extension_is_refused(form: Form) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    with wire(form, server=Identity(key=key, certificate=odd_certificate(key, critical_oid="1.2.3.4"))) as pair:
        error = pair.outcome(pair.client)
        assert isinstance(error, MalformedInput)
        assert error.reason is Reason.CERTIFICATE_MALFORMED


def _with_an_unknown_critical_extension() -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    return Identity(key=key, certificate=odd_certificate(key, critical_oid="1.2.3.4"))


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize(
    ("make", "alert"),
    [
        (lambda: make_identity(start=NOW - 2 * HOUR, end=NOW - HOUR), "alert certificate expired"),
        (lambda: make_identity(start=NOW + HOUR, end=NOW + 2 * HOUR), "alert bad certificate"),
        (_with_an_unknown_critical_extension, "alert unknown ca"),
        (_issued_by_another, "alert unknown ca"),
    ],
)
def test_a_refused_side_is_told_why_by_an_alert(
    form: Form, make: Callable[[], Identity], alert: str, side: Literal["server", "client"]
) -> None:
    with wire(form, **{side: make()}) as pair:  # type: ignore[arg-type]
        error = pair.outcome(pair.server if side == "server" else pair.client)
        assert isinstance(error, PeerMisbehaved)
        assert error.reason is Reason.TLS_HANDSHAKE
        assert alert in error.message
        assert error.hint is not None


def test_a_client_that_sends_no_certificate_where_one_is_demanded(form: Form) -> None:
    with wire(form, demand=True) as pair:
        error = pair.outcome(pair.server)
        assert isinstance(error, PeerMisbehaved)
        assert error.reason is Reason.TLS_HANDSHAKE


def test_that_client_learns_it_though_its_own_handshake_has_succeeded(form: Form) -> None:
    """A TLS 1.3 client is done before the server has judged it; the alert comes where it waits for an answer."""
    with wire(form, demand=True) as pair:
        error = pair.outcome(pair.client)
        assert isinstance(error, PeerMisbehaved)
        assert error.reason is Reason.TLS_HANDSHAKE
        assert error.hint is not None
        assert "--mutual" in error.hint


def test_a_client_that_a_service_has_no_room_for_may_come_again() -> None:
    """It is the only alert that means no fault of either side; nothing else is believed of it."""
    context = make_context(server_side=False, certificate=None, private_key=None, alpn=(ALPN,))
    client = Connection(context, server_side=False, alpn=(ALPN,), now=NOW)
    assert client.handshake() is Want.READ
    client.feed(TLS_OVERLOADED)
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            client.handshake()
        assert caught.value.reason is Reason.OVERLOADED


# --- ALPN


def test_a_client_refuses_a_server_that_selects_no_protocol(form: Form) -> None:
    with wire(form, server_alpn=()) as pair:
        error = pair.outcome(pair.client)
        assert isinstance(error, PeerMisbehaved)
        assert error.reason is Reason.PEER_IS_LEGACY


def test_a_server_of_2021_is_refused_for_what_it_is_and_not_for_a_certificate_of_this_minute(form: Form) -> None:
    """It makes one for every connection, by its own clock."""
    just_made = make_identity(start=NOW + HOUR / 60)
    with wire(form, server=just_made, server_alpn=()) as pair:
        error = pair.outcome(pair.client)
        assert isinstance(error, PeerMisbehaved)
        assert error.reason is Reason.PEER_IS_LEGACY
    with wire(form, server=just_made, server_alpn=(), client_alpn=()) as pair:
        assert pair.outcome(pair.client) is None
    with wire(form, server=just_made) as pair:
        error = pair.outcome(pair.client)
        assert isinstance(error, VerificationError)
        assert error.reason is Reason.CERTIFICATE_NOT_YET_VALID


def test_a_server_refuses_a_client_that_offers_no_protocol(form: Form) -> None:
    with wire(form, client_alpn=()) as pair:
        error = pair.outcome(pair.server)
        assert isinstance(error, PeerMisbehaved)
        assert error.reason is Reason.PEER_IS_LEGACY


@pytest.mark.parametrize("offered", [(b"h2",), (ALPN_INNER,), (b"eaa/3", b"http/1.1")])
def test_neither_side_takes_another_protocol(form: Form, offered: tuple[bytes, ...]) -> None:
    for judge in ("client", "server"):
        with wire(form, client_alpn=offered) as pair:
            error = pair.outcome(getattr(pair, judge))
            assert isinstance(error, PeerMisbehaved), judge
            assert error.reason is Reason.TLS_HANDSHAKE


def test_outer_and_inner_protocol_are_strangers(form: Form) -> None:
    with wire(form, client_alpn=(ALPN,), server_alpn=(ALPN_INNER,)) as pair:
        assert isinstance(pair.outcome(pair.client), PeerMisbehaved)
    with wire(form, client_alpn=(ALPN_INNER,), server_alpn=(ALPN_INNER,)) as pair:
        pair.handshake()


def test_without_protocol_names_peers_of_2021_are_served(form: Form) -> None:
    with wire(form, client_alpn=(), server_alpn=()) as pair:
        pair.handshake()


# --- no resumption


def test_the_clock_of_a_peer_of_2021_may_be_a_little_ahead_and_no_other_s(form: Form) -> None:
    """Its certificate is made for the connection. OpenSSL has an opinion of dates too, which does not count."""
    for begins, alpn, reason in (
        (HOUR / 15, (), None),
        (HOUR / 10, (), Reason.CERTIFICATE_NOT_YET_VALID),
        (HOUR / 15, (ALPN,), Reason.CERTIFICATE_NOT_YET_VALID),
    ):
        server = make_identity(start=NOW + begins, end=NOW + HOUR)
        with wire(form, server=server, client_alpn=alpn, server_alpn=alpn) as pair:
            error = pair.outcome(pair.client)
            assert getattr(error, "reason", None) is reason


def test_a_session_cannot_be_resumed() -> None:
    """Tickets are sent by OpenSSL whatever we say, but nobody can redeem one: the certificate is shown again."""
    identity = server_identity()
    server = make_context(server_side=True, certificate=identity.certificate, private_key=identity.key, alpn=(ALPN,))
    client = make_context(server_side=False, certificate=None, private_key=None, alpn=(ALPN,))
    session = None
    for _ in range(2):
        pair = Wire(
            client=Connection(client, server_side=False, alpn=(ALPN,), now=NOW),
            server=Connection(server, server_side=True, alpn=(ALPN,), now=NOW),
            sockets=None,
        )
        if session is not None:
            pair.client._ssl.set_session(session)
        pair.handshake()
        pair.carry()
        assert pair.client.receive_control(1) is Want.READ
        assert pair.client.peer_certificate == identity.certificate
        session = pair.client._ssl.get_session()
        assert session is not None


# --- the gate


def test_before_the_handshake_nothing_can_be_done(form: Form) -> None:
    with wire(form) as pair:
        for operation in (
            lambda: pair.client.send_control(b"x"),
            lambda: pair.client.receive_control(1),
            pair.client.exporter,
            lambda: pair.client.expect(DIGEST, REPORT_DATA),
            lambda: pair.client.accept(ACCEPTED),
            pair.client.admit_unattested_peer,
            lambda: pair.client.send(b"x"),
        ):
            assert reason_of(operation) is Reason.GATE_CLOSED
        assert pair.client.shutdown() is Want.NOTHING


def test_no_application_byte_passes_a_closed_gate(pair: Wire) -> None:
    send_all(pair, pair.server.send_control, b"bytes that wait at the client")
    for end in pair.ends:
        assert reason_of(partial(end.send, b"x")) is Reason.GATE_CLOSED
        assert reason_of(partial(end.receive, 10)) is Reason.GATE_CLOSED
        assert reason_of(partial(end.receive_into, bytearray(10))) is Reason.GATE_CLOSED
    assert pair.carry() == 0


def test_an_accepted_for_this_peer_opens_the_gate(pair: Wire) -> None:
    open_gates(pair)
    send_all(pair, pair.client.send, b"application")
    buffer = bytearray(64)
    assert pair.server.receive_into(buffer) == 11
    assert buffer[:11] == b"application"
    send_all(pair, pair.server.send, b"answer")
    assert pair.client.receive(64) == b"answer"


@pytest.mark.parametrize(
    "result",
    [
        replace(ACCEPTED, evidence_digest=hashlib.sha256(b"another quote").digest()),
        replace(ACCEPTED, report_data=bytes(64)),
    ],
)
def test_an_accepted_for_another_peer_opens_nothing(pair: Wire, result: Accepted) -> None:
    pair.client.expect(DIGEST, REPORT_DATA)
    assert reason_of(lambda: pair.client.accept(result)) is Reason.RESULT_FOR_OTHER_EVIDENCE
    assert reason_of(lambda: pair.client.send(b"x")) is Reason.GATE_CLOSED


def test_an_accepted_document_opens_nothing(pair: Wire) -> None:
    """`shelter verify` accepts a file: genuine, known, bound to no session. Whoever has it may show it anywhere."""
    pair.client.expect(DIGEST, REPORT_DATA)
    document = replace(ACCEPTED, binding=BindingLevel.NONE)
    assert reason_of(lambda: pair.client.accept(document)) is Reason.RESULT_FOR_OTHER_EVIDENCE
    assert reason_of(lambda: pair.client.send(b"x")) is Reason.GATE_CLOSED


def test_an_accepted_opens_nothing_before_this_peer_has_shown_evidence(pair: Wire) -> None:
    assert reason_of(lambda: pair.client.accept(ACCEPTED)) is Reason.RESULT_FOR_OTHER_EVIDENCE


def test_a_rejected_opens_nothing(pair: Wire) -> None:
    rejected = Rejected(
        role=Role.WORKLOAD, binding=BindingLevel.FRESH, evidence_digest=DIGEST, report_data=REPORT_DATA, checks=()
    )
    pair.client.expect(DIGEST, REPORT_DATA)
    wrong: Any = rejected
    assert reason_of(lambda: pair.client.accept(wrong)) is Reason.GATE_CLOSED


def test_evidence_that_waits_for_a_verdict_cannot_be_admitted_unjudged(pair: Wire) -> None:
    pair.client.expect(DIGEST, REPORT_DATA)
    assert reason_of(pair.client.admit_unattested_peer) is Reason.GATE_CLOSED


def test_control_bytes_are_read_by_the_count_and_leave_the_rest_where_it_is(pair: Wire) -> None:
    """Who reads only what the exchange wants never holds an application byte before the gate is open."""
    send_all(pair, pair.server.send_control, b"message")
    pair.server.admit_unattested_peer()
    send_all(pair, pair.server.send, b"application")
    assert read_control(pair, pair.client, 7) == b"message"
    pair.client.expect(DIGEST, REPORT_DATA)
    pair.client.accept(ACCEPTED)
    assert pair.client.receive(100) == b"application"


def test_control_bytes_are_no_way_around_the_gate(pair: Wire) -> None:
    chunk = bytes(64 * 1024)

    def flood() -> None:
        for _ in range(2 * MAX_CONTROL_BYTES // len(chunk)):
            send_all(pair, pair.server.send_control, chunk)
            while pair.client.receive_control(len(chunk)) is not Want.READ:
                pass

    assert reason_of(flood) is Reason.MESSAGE_TOO_LARGE


# --- moving bytes


def test_nothing_to_read_is_said_and_not_waited_for(pair: Wire) -> None:
    open_gates(pair)
    assert pair.client.receive_control(10) is Want.READ
    assert pair.client.receive(10) is Want.READ
    assert pair.client.receive_into(bytearray(10)) is Want.READ


def test_sending_nothing_is_done_at_once(pair: Wire) -> None:
    open_gates(pair)
    assert pair.client.send(b"") == 0
    assert pair.client.send_control(b"") == 0


def test_much_data_arrives_whole_whatever_the_buffers_are(pair: Wire) -> None:
    """Back-pressure: a full transport is Want.WRITE, the rest is sent again from another buffer, nothing is lost."""
    open_gates(pair)
    data = os.urandom(3 * 1024 * 1024)
    to_send, received, waited = memoryview(data), bytearray(), False
    buffer = bytearray(65536)
    while len(received) < len(data):
        while to_send and (sent := pair.client.send(bytes(to_send[:100_000]))) is not Want.WRITE:
            assert isinstance(sent, int)
            to_send = to_send[sent:]
        waited = waited or bool(to_send)
        pair.carry()
        while isinstance(got := pair.server.receive_into(buffer), int):
            received += buffer[:got]
    assert received == data
    assert waited == (pair.sockets is not None)


def test_a_conversation_arriving_byte_by_byte() -> None:
    """In the smallest pieces that the memory form can be given; a socket has pieces of its own choice."""
    with wire("memory", client=client_identity(), demand=True) as pair:
        for _ in range(12):
            for source, sink in (pair.ends, pair.ends[::-1]):
                source.handshake()
                for octet in source.take():
                    sink.feed(bytes([octet]))
                    sink.handshake()
        assert pair.client.handshake() is pair.server.handshake() is Want.NOTHING


# --- the ends of connections


def test_a_goodbye_ends_application_bytes_well_and_one_way(pair: Wire) -> None:
    open_gates(pair)
    send_all(pair, pair.client.send, b"last")
    assert pair.client.shutdown() is Want.NOTHING
    pair.carry()
    assert pair.server.receive(10) == b"last"
    assert pair.server.receive(10) == b""
    assert pair.server.receive_into(bytearray(4)) == 0
    send_all(pair, pair.server.send, b"answer")
    assert pair.client.receive(10) == b"answer"


def test_a_goodbye_may_be_said_twice(pair: Wire) -> None:
    for _ in range(2):
        assert pair.client.shutdown() is Want.NOTHING


def test_a_goodbye_waits_for_room_like_everything_else() -> None:
    with wire("socket") as pair:
        pair.handshake()
        open_gates(pair)
        while pair.client.send(bytes(16384)) is not Want.WRITE:
            pass
        assert pair.client.shutdown() is Want.WRITE


def test_a_goodbye_in_the_middle_of_the_handshake(form: Form) -> None:
    with wire(form) as pair:
        assert pair.client.handshake() is Want.READ
        pair.inject(pair.client, b"\x15\x03\x03\x00\x02\x01\x00")
        for _ in range(2):
            assert reason_of(pair.client.handshake) is Reason.PEER_CLOSED


def test_questions_and_answers_of_an_exchange(pair: Wire) -> None:
    for _ in range(2):
        send_all(pair, pair.client.send_control, b"question")
        assert read_control(pair, pair.server, 8) == b"question"
        send_all(pair, pair.server.send_control, b"answer")
        assert read_control(pair, pair.client, 6) == b"answer"


def test_a_goodbye_before_the_exchange_is_done_is_a_peer_that_closed(pair: Wire) -> None:
    pair.server.shutdown()
    pair.carry()
    assert reason_of(lambda: pair.client.receive_control(4)) is Reason.PEER_CLOSED


def test_a_connection_cut_off_in_the_middle_is_no_good_end(pair: Wire) -> None:
    """Truncation: without close_notify, somebody else may have ended the stream."""
    open_gates(pair)
    pair.hang_up(pair.client)
    assert reason_of(lambda: pair.server.receive(10)) is Reason.PEER_CLOSED


@pytest.mark.parametrize("steps", range(5))
def test_a_peer_that_hangs_up_anywhere_in_the_handshake(form: Form, steps: int) -> None:
    for leaver in ("client", "server"):
        with wire(form, client=client_identity(), demand=True) as pair:
            turns = [end for _ in range(3) for end in pair.ends][:steps]
            for end in turns:
                end.handshake()
                pair.carry()
            leaving, staying = (pair.client, pair.server) if leaver == "client" else (pair.server, pair.client)
            pair.hang_up(leaving)

            def go_on(staying: Connection = staying) -> None:
                for _ in range(4):
                    if staying.handshake() is Want.NOTHING:
                        staying.receive_control(1)

            assert reason_of(go_on) is Reason.PEER_CLOSED, leaver


def test_writing_to_a_peer_that_is_gone(pair: Wire) -> None:
    open_gates(pair)
    pair.hang_up(pair.server)

    def write() -> None:
        for _ in range(4):
            pair.client.send(bytes(16384))
        pair.client.receive(1)

    assert reason_of(write) is Reason.PEER_CLOSED


def test_an_alert_is_heard_even_where_writing_would_fail() -> None:
    """A server that refused and left: the client's next write would fail, and the alert says why."""
    with wire("socket", demand=True) as pair:
        assert pair.sockets is not None
        pair.client.handshake()
        pair.server.handshake()
        assert pair.client.handshake() is Want.NOTHING
        assert reason_of(pair.server.handshake) is Reason.TLS_HANDSHAKE
        pair.sockets[1].close()
        assert reason_of(lambda: pair.client.send_control(b"x" * 10)) is Reason.TLS_HANDSHAKE


def test_goodbye_to_a_peer_that_is_gone_is_no_error(pair: Wire) -> None:
    pair.hang_up(pair.server)
    assert pair.client.shutdown() is Want.NOTHING
    assert reason_of(lambda: pair.client.receive_control(1)) is Reason.PEER_CLOSED
    assert pair.client.shutdown() is Want.NOTHING


def test_a_side_can_tell_whether_the_peer_has_said_more_than_was_read(pair: Wire) -> None:
    assert not pair.server.has_more()
    send_all(pair, pair.client.send_control, b"message and more")
    assert read_control(pair, pair.server, 7) == b"message"
    assert pair.server.has_more()
    assert read_control(pair, pair.server, 9) == b" and more"
    assert not pair.server.has_more()
    pair.client.shutdown()
    pair.carry()
    assert not pair.server.has_more()


def test_an_alert_that_has_no_name_is_an_alert_even_so(form: Form) -> None:
    with wire(form) as pair:
        pair.client.handshake()
        pair.carry()
        pair.server.handshake()
        pair.inject(pair.server, b"\x15\x03\x03\x00\x02\x03\xff")
        assert reason_of(pair.server.handshake) is Reason.TLS_HANDSHAKE


def test_a_dead_connection_keeps_saying_why(pair: Wire) -> None:
    assert pair.client.failure is None
    pair.hang_up(pair.server)
    for _ in range(2):
        assert reason_of(lambda: pair.client.receive_control(1)) is Reason.PEER_CLOSED
    assert reason_of(pair.client.exporter) is Reason.PEER_CLOSED
    assert reason_of(lambda: pair.client.accept(ACCEPTED)) is Reason.PEER_CLOSED
    assert pair.client.failure is not None


# --- junk


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        bytes(64),
        b"\x16\x03\x01\xff\xff" + bytes(200),
        b'{"type":"GETENCLAVEINFO"}',
        Random(256).randbytes(256),
    ],
    ids=["http", "ssh", "zeros", "record-too-long", "legacy-json-in-the-clear", "random"],
)
def test_junk_on_the_port(form: Form, junk: bytes) -> None:
    with wire(form) as pair:
        pair.inject(pair.server, junk)
        assert reason_of(pair.server.handshake) is Reason.TLS_HANDSHAKE


def test_junk_costs_nobody_else_anything(form: Form) -> None:
    """OpenSSL's error queue and pyOpenSSL's callbacks are shared: what one peer did must not surface at another."""
    with wire(form) as good, wire(form, client_alpn=(b"h2",)) as bad:
        good.client.handshake()
        good.carry()
        pair_error = bad.outcome(bad.server)
        assert isinstance(pair_error, PeerMisbehaved)
        good.handshake()


def test_a_peer_that_hung_up_costs_nobody_else_anything(form: Form) -> None:
    """pyOpenSSL leaves a failed system call in OpenSSL's queue, where another connection may find it."""
    with wire(form) as good, wire(form) as bad:
        for pair in (good, bad):
            pair.handshake()
        bad.hang_up(bad.server)
        for operation in (lambda: bad.client.send_control(bytes(10)), lambda: bad.client.receive_control(1)):
            with contextlib.suppress(PeerMisbehaved):
                operation()
        send_all(good, good.server.send_control, b"well")
        assert read_control(good, good.client, 4) == b"well"
        good.hang_up(good.server)
        assert reason_of(partial(good.client.receive_control, 1)) is Reason.PEER_CLOSED


def test_a_changed_record_is_named_for_what_it_is(pair: Wire) -> None:
    open_gates(pair)
    pair.inject(pair.server, b"\x17\x03\x03\x00\x20" + bytes(32))
    assert reason_of(lambda: pair.server.receive(10)) is Reason.TLS_RECORD


def test_a_peer_older_than_tls_1_3(form: Form) -> None:
    with wire(form) as pair:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        old = SSL.Connection(context, None)
        old.set_connect_state()
        with pytest.raises(SSL.WantReadError):
            old.do_handshake()
        pair.inject(pair.server, old.bio_read(65536))
        assert reason_of(pair.server.handshake) is Reason.TLS_HANDSHAKE


# --- contexts


def test_a_context_refuses_a_key_that_is_not_the_certificate_s() -> None:
    with pytest.raises(Misuse) as caught:
        make_context(
            server_side=True,
            certificate=server_identity().certificate,
            private_key=client_identity().key,
            alpn=(ALPN,),
        )
    assert caught.value.reason is Reason.USAGE


@pytest.mark.parametrize("certificate", [None, b"no certificate"])
def test_a_server_needs_a_certificate(certificate: bytes | None) -> None:
    with pytest.raises(Misuse) as caught:
        make_context(server_side=True, certificate=certificate, private_key=server_identity().key, alpn=(ALPN,))
    assert caught.value.reason is Reason.USAGE


def test_certificates_of_2021_that_misnumber_their_version_pass_the_handshake(form: Form) -> None:
    """`cryptography` refuses version 4; the connection never asks it about a peer's certificate."""
    identity = make_identity()
    renumbered = identity.certificate.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x03", 1)
    assert renumbered != identity.certificate
    leaf = connection_module._Leaf(now=NOW, tells_protocol=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = crypto.load_certificate(crypto.FILETYPE_ASN1, renumbered)
    encoded = functools.partial(crypto.dump_certificate, crypto.FILETYPE_ASN1, loaded)
    assert leaf.judge(18, 0, encoded)
    assert leaf.judge(0, 0, encoded)
    assert leaf.certificate is not None
    assert leaf.certificate.version == 4


# --- flights


def test_what_a_side_says_in_its_handshake_goes_out_in_one_piece(tcp: Wire) -> None:
    """OpenSSL writes it by 4 KiB, and each piece would wake the peer."""
    assert tcp.sockets is not None
    at_client, at_server = tcp.sockets
    tcp.client.handshake()
    tcp.carry()
    assert tcp.server.handshake() is Want.READ
    tcp.carry()
    flight = at_client.recv(65536, socket.MSG_PEEK)
    assert tcp.client.handshake() is Want.NOTHING, "all of it was there"
    tcp.carry()
    assert len(flight) > 512
    assert at_server.recv(65536, socket.MSG_PEEK), "what a client says last is not held back"


def test_the_last_words_of_who_goes_on_at_once_go_with_what_is_said_next(tcp: Wire) -> None:
    """So the peer finds both in one look."""
    assert tcp.sockets is not None
    at_server = tcp.sockets[1]
    tcp.client.handshake(goes_on=True)
    tcp.carry()
    assert tcp.server.handshake() is Want.READ
    tcp.carry()
    assert tcp.client.handshake(goes_on=True) is Want.NOTHING
    tcp.carry()
    with pytest.raises(BlockingIOError):
        at_server.recv(1, socket.MSG_PEEK)
    assert tcp.client.send_control(b"hello") == 5
    tcp.carry()
    assert at_server.recv(1, socket.MSG_PEEK)
    assert tcp.server.handshake() is Want.NOTHING
    assert tcp.server.receive_control(10) == b"hello"


def test_tickets_go_with_the_first_bytes_that_a_server_writes(tcp: Wire) -> None:
    """Nobody waits for them: they can be redeemed nowhere."""
    assert tcp.sockets is not None
    tcp.handshake()
    with pytest.raises(BlockingIOError):
        tcp.sockets[0].recv(1, socket.MSG_PEEK)
    assert tcp.server.send_control(b"hello") == 5
    tcp.carry()
    assert len(tcp.sockets[0].recv(65536, socket.MSG_PEEK)) > 5 + 2 * 22
    assert tcp.client.receive_control(10) == b"hello"
    # And from then on nothing is held back.
    assert tcp.server.send_control(b"again") == 5
    tcp.carry()
    assert tcp.client.receive_control(10) == b"again"


@pytest.mark.parametrize("leaving", [Connection.shutdown, bulk])
def test_they_wait_for_nothing_else(tcp: Wire, leaving: Callable[[Connection], object]) -> None:
    assert tcp.sockets is not None
    tcp.handshake()
    open_gates(tcp)
    leaving(tcp.server)
    tcp.carry()
    assert tcp.sockets[0].recv(1, socket.MSG_PEEK)


def test_the_last_words_of_an_older_handshake_are_waited_for() -> None:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    serving = make_context(
        server_side=True, certificate=server_identity().certificate, private_key=server_identity().key, alpn=()
    )
    at_client, at_server = tcp_pair()
    with at_client, at_server:
        at_client.settimeout(0)
        at_server.settimeout(0)
        client = SSL.Connection(context, at_client)
        client.set_connect_state()
        server = Connection(serving, server_side=True, alpn=(), now=NOW, sock=at_server)
        for _ in range(2):
            with pytest.raises(SSL.WantReadError):
                client.do_handshake()
            outcome = server.handshake()
        assert outcome is Want.NOTHING
        client.do_handshake()


# --- our own mistakes


def test_a_bug_in_the_middle_of_a_handshake_is_no_fault_of_the_peer(
    form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(connection_module, "read_leaf", read)
    with wire(form) as pair:
        assert isinstance(pair.outcome(pair.client), ZeroDivisionError)
