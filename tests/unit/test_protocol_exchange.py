"""The attest exchange: every hop runs it to its end, and every other order of messages is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from eaa.appraise.result import BindingLevel, Role
from eaa.errors import EAAError, Misuse, PeerMisbehaved, Reason, Rejection, Unavailable
from eaa.evidence.tagged import TaggedEvidence, parse_claims, pubkey_hash_claim
from eaa.protocol import messages
from eaa.protocol.exchange import (
    CLAIMS,
    MAX_EARLY_BYTES,
    Ending,
    EvidenceReceived,
    EvidenceWanted,
    Exchange,
    OpenedReceived,
    OpenReceived,
    PeerAccepted,
    Terms,
)
from eaa.protocol.messages import RejectClass
from support.epochs import EPOCH_QUOTE, NOW, MadeEpoch
from support.exchange_world import (
    CLIENT_KEY,
    CLIENT_NONCE,
    EXPORTER,
    HOPS,
    LEVELS,
    QUOTE,
    SERVER_KEY,
    SERVER_NONCE,
    End,
    Ends,
    client_of,
    client_session,
    events_of,
    run,
    server_of,
    server_session,
)

ATTEST = messages.encode(messages.Attest(nonce=b"n" * 32, level=BindingLevel.FRESH))
ACCEPT = messages.encode(messages.Accept())
OPEN = messages.encode(messages.Open(workload="workload"))
OPENED = messages.encode(messages.Opened())
NO_EVIDENCE = messages.encode(messages.Evidence())


def reason_of(operation: Callable[[], object]) -> Reason:
    with pytest.raises(EAAError) as caught:
        operation()
    return caught.value.reason


def both(hop: str, level: BindingLevel = BindingLevel.FRESH) -> tuple[End, End]:
    ends = HOPS[hop].at(level)
    return End(client_of(ends), opens=ends.client.ending is Ending.OPEN), End(server_of(ends))


# --- every hop, to its end


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("hop", HOPS)
def test_a_hop_runs_to_its_end(hop: str, level: BindingLevel) -> None:
    client, server = both(hop, level)
    run(client, server)
    assert client.exchange.finished
    assert server.exchange.finished
    assert client.exchange.take_leftover() == server.exchange.take_leftover() == b""
    assert client.exchange.wanted == server.exchange.wanted == 0


@pytest.mark.parametrize(
    ("hop", "client_events", "server_events"),
    [
        ("shelter-relay", [EvidenceReceived, OpenedReceived], [EvidenceWanted, OpenReceived]),
        ("shelter-relay-unjudged", [OpenedReceived], [OpenReceived]),
        (
            "shelter-relay-mutual",
            [EvidenceWanted, EvidenceReceived, PeerAccepted, OpenedReceived],
            [EvidenceWanted, EvidenceReceived, OpenReceived],
        ),
        ("relay-workload", [EvidenceReceived], [EvidenceWanted, PeerAccepted]),
        (
            "relay-workload-mutual",
            [EvidenceWanted, EvidenceReceived, PeerAccepted],
            [EvidenceWanted, EvidenceReceived, PeerAccepted],
        ),
        ("shelter-workload", [EvidenceReceived], [EvidenceWanted, PeerAccepted]),
    ],
)
def test_who_learns_what_on_a_hop(hop: str, client_events: list[type], server_events: list[type]) -> None:
    client, server = both(hop)
    run(client, server)
    assert sorted(events_of(client), key=str) == sorted(client_events, key=str)
    assert sorted(events_of(server), key=str) == sorted(server_events, key=str)


def test_what_is_asked_for_is_what_the_judge_is_given() -> None:
    client, server = both("shelter-workload")
    run(client, server)
    (wanted,) = [event for event in server.events if isinstance(event, EvidenceWanted)]
    (received,) = [event for event in client.events if isinstance(event, EvidenceReceived)]
    assert received.evidence == QUOTE
    assert received.report_data == wanted.report_data == hashlib.sha256(wanted.claims).digest() + bytes(32)
    assert received.evidence_digest == hashlib.sha256(QUOTE).digest()
    assert received.level is wanted.level is BindingLevel.FRESH


def test_the_claims_at_level_fresh_are_these() -> None:
    """design: every claim, its key and its value."""
    client, server = both("relay-workload-mutual")
    run(client, server)
    (of_client,) = [event for event in client.events if isinstance(event, EvidenceWanted)]
    (of_server,) = [event for event in server.events if isinstance(event, EvidenceWanted)]
    assert parse_claims(of_server.claims, tolerant=False) == {
        "label": b"eaa/2 attest",
        "pubkey-hash": pubkey_hash_claim(SERVER_KEY),
        "peer": pubkey_hash_claim(CLIENT_KEY),
        "nonce": CLIENT_NONCE,
        "tls-exporter": EXPORTER,
        "role": b"workload",
    }
    assert parse_claims(of_client.claims, tolerant=False) == {
        "label": b"eaa/2 attest",
        "pubkey-hash": pubkey_hash_claim(CLIENT_KEY),
        "peer": pubkey_hash_claim(SERVER_KEY),
        "nonce": SERVER_NONCE,
        "tls-exporter": EXPORTER,
        "role": b"relay",
    }


def test_the_claims_at_level_cert_are_the_certificate_s() -> None:
    client, server = both("shelter-workload", BindingLevel.CERT)
    run(client, server)
    (wanted,) = [event for event in server.events if isinstance(event, EvidenceWanted)]
    assert parse_claims(wanted.claims, tolerant=False) == {"pubkey-hash": pubkey_hash_claim(SERVER_KEY)}


def test_at_level_session_the_claims_of_fresh_are_signed_and_the_evidence_is_the_epoch_s() -> None:
    """design: "eaa/2 session", SHA-256 of the epoch's evidence, and the same claims map as at level fresh."""
    client, server = both("relay-workload", BindingLevel.SESSION)
    fresh = Ends.at(HOPS["relay-workload"], BindingLevel.FRESH)
    (asked,) = server_of(fresh).receive(client_of(fresh).data_to_send())
    run(client, server)
    (wanted,) = [event for event in server.events if isinstance(event, EvidenceWanted)]
    (received,) = [event for event in client.events if isinstance(event, EvidenceReceived)]
    assert isinstance(asked, EvidenceWanted)
    assert wanted.claims == asked.claims
    assert wanted.statement(b"d" * 32) == b"eaa/2 session" + b"d" * 32 + asked.claims
    assert (received.evidence, received.level) == (EPOCH_QUOTE, BindingLevel.SESSION)
    assert received.report_data not in (wanted.report_data, b"")


@pytest.mark.parametrize(("asked", "with_epoch"), [(BindingLevel.SESSION, False), (BindingLevel.FRESH, True)])
def test_an_epoch_s_signature_goes_with_level_session_alone(asked: BindingLevel, with_epoch: bool) -> None:  # noqa: FBT001
    server = server_of(HOPS["relay-workload"])
    (wanted,) = server.receive(messages.encode(messages.Attest(nonce=b"n" * 32, level=asked)))
    assert isinstance(wanted, EvidenceWanted)
    epoch = MadeEpoch.of(SERVER_KEY, Role.WORKLOAD).answer(wanted) if with_epoch else None
    assert reason_of(lambda: server.answer(QUOTE, epoch=epoch)) is Reason.INTERNAL


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_stapled_reaches_the_judge_unread(level: BindingLevel) -> None:
    client, server = both("shelter-workload", level)
    (wanted,) = server.exchange.receive(client.exchange.data_to_send())
    assert isinstance(wanted, EvidenceWanted)
    epoch = MadeEpoch.of(SERVER_KEY, Role.WORKLOAD).answer(wanted) if level is BindingLevel.SESSION else None
    server.exchange.answer(EPOCH_QUOTE, epoch=epoch, collateral=b"not even JSON")
    client.receive(server.exchange.data_to_send())
    (received,) = client.events
    assert isinstance(received, EvidenceReceived)
    assert received.collateral == b"not even JSON"


def test_what_is_too_much_to_be_stapled_is_left_out() -> None:
    client, server = both("shelter-workload")
    server.exchange.receive(client.exchange.data_to_send())
    server.exchange.answer(QUOTE, collateral=bytes(messages.MAX_STAPLED_COLLATERAL + 1))
    client.receive(server.exchange.data_to_send())
    (received,) = client.events
    assert isinstance(received, EvidenceReceived)
    assert (received.evidence, received.collateral) == (QUOTE, None)


def test_peer_is_empty_where_the_other_end_has_no_certificate() -> None:
    ends = HOPS["shelter-relay"]
    client = End(client_of(ends, session=client_session(own_spki=None)), opens=True)
    server = End(server_of(ends, session=server_session(peer_spki=None)))
    run(client, server)
    (wanted,) = [event for event in server.events if isinstance(event, EvidenceWanted)]
    assert parse_claims(wanted.claims, tolerant=False)["peer"] == b""
    assert client.exchange.finished


@pytest.mark.parametrize(
    ("terms", "own", "peer", "ending"),
    [
        (Terms.shelter_to_relay(judges=True), Role.CLIENT, Role.RELAY, Ending.OPEN),
        (Terms.relay_to_shelter(judges=True), Role.RELAY, Role.CLIENT, Ending.OPENED),
        (Terms.relay_to_workload(), Role.RELAY, Role.WORKLOAD, Ending.ACCEPT),
        (Terms.workload_to_relay(judges=True), Role.WORKLOAD, Role.RELAY, Ending.ACCEPT),
        (Terms.shelter_to_workload(), Role.CLIENT, Role.WORKLOAD, Ending.ACCEPT),
        (Terms.workload_to_shelter(), Role.WORKLOAD, Role.CLIENT, Ending.ACCEPT),
    ],
)
def test_the_terms_of_each_end(terms: Terms, own: Role, peer: Role, ending: Ending) -> None:
    assert (terms.own_role, terms.peer_role, terms.ending) == (own, peer, ending)
    assert terms.level is BindingLevel.FRESH


# --- pipelining, and bytes that are not messages


def test_shelter_sends_attest_open_and_its_client_hello_in_one_go() -> None:
    ends = HOPS["shelter-relay"]
    client, server = client_of(ends), server_of(ends)
    client.open("workload", early=b"inner ClientHello")
    (asked, opening) = server.receive(client.data_to_send())
    assert isinstance(asked, EvidenceWanted)
    assert isinstance(opening, OpenReceived)
    assert server.wanted == 0
    server.answer(QUOTE)
    server.opened()
    assert server.take_leftover() == b"inner ClientHello"
    (shown, opened) = client.receive(server.data_to_send() + b"inner ServerHello")
    assert isinstance(shown, EvidenceReceived)
    assert isinstance(opened, OpenedReceived)
    assert not client.finished
    client.accept()
    assert client.data_to_send() == b""
    assert client.take_leftover() == b"inner ServerHello"


def test_who_reads_what_is_wanted_never_reads_a_raw_byte() -> None:
    ends = HOPS["shelter-relay"]
    client, server = client_of(ends), server_of(ends)
    client.open("workload", early=b"inner ClientHello")
    stream = client.data_to_send()
    while server.wanted:
        piece, stream = stream[: server.wanted], stream[server.wanted :]
        for event in server.receive(piece):
            if isinstance(event, EvidenceWanted):
                server.answer(QUOTE)
    assert stream == b"inner ClientHello"


def test_early_bytes_are_bounded_at_both_ends() -> None:
    ends = HOPS["shelter-relay"]
    assert reason_of(lambda: client_of(ends).open("w", early=bytes(MAX_EARLY_BYTES + 1))) is Reason.USAGE
    server = server_of(ends)
    server.receive(ATTEST + OPEN + bytes(MAX_EARLY_BYTES))
    assert reason_of(lambda: server.receive(b"x")) is Reason.MESSAGE_TOO_LARGE


def test_what_follows_an_accept_is_the_application_s() -> None:
    client, server = both("shelter-workload")
    server.receive(client.exchange.data_to_send())
    client.receive(server.exchange.data_to_send())
    server.receive(client.exchange.data_to_send() + b"application")
    assert server.exchange.take_leftover() == b"application"
    assert server.exchange.receive(b" and more") == []
    assert server.exchange.take_leftover() == b" and more"


def test_raw_bytes_are_not_handed_out_before_the_end() -> None:
    server = server_of(HOPS["shelter-relay"])
    server.receive(OPEN + b"early")
    assert reason_of(server.take_leftover) is Reason.INTERNAL


# --- refusals


LATER = {
    RejectClass.UNAVAILABLE: Reason.WORKLOAD_UNAVAILABLE,
    RejectClass.PENDING: Reason.COLLATERAL_PENDING,
    RejectClass.APPLICATION: Reason.APPLICATION_UNAVAILABLE,
}
"""Refusals that are no verdict."""


@pytest.mark.parametrize("reason_class", [member for member in RejectClass if member not in LATER])
def test_a_refusal_by_the_peer_names_whose_and_why(reason_class: RejectClass) -> None:
    client = client_of(HOPS["shelter-relay"])
    with pytest.raises(Rejection) as caught:
        client.receive(messages.encode(messages.Reject(reason_class=reason_class)))
    assert caught.value.reason is Reason.PEER_REJECTED_US
    assert "relay" in caught.value.message
    assert reason_class.value in caught.value.message
    assert caught.value.hint is not None
    assert "relay" in caught.value.hint or "measurement" in caught.value.hint


@pytest.mark.parametrize(("reason_class", "reason"), LATER.items())
def test_what_is_not_there_yet_is_unavailable_and_may_be_tried_again(reason_class: RejectClass, reason: Reason) -> None:
    client = client_of(HOPS["shelter-relay"])
    client.open("workload")
    with pytest.raises(Unavailable) as caught:
        client.receive(messages.encode(messages.Reject(reason_class=reason_class)))
    assert caught.value.reason is reason
    assert RejectClass.of(caught.value) is reason_class


def test_no_evidence_is_an_event_and_the_caller_s_to_reject() -> None:
    client, server = both("shelter-workload")
    server._quote = None
    server.receive(client.exchange.data_to_send())
    (event,) = client.exchange.receive(server.exchange.data_to_send())
    assert event == EvidenceReceived(evidence=None, report_data=b"", level=BindingLevel.FRESH)
    assert reason_of(client.exchange.accept) is Reason.INTERNAL
    client.exchange.reject(RejectClass.NO_EVIDENCE)
    with pytest.raises(Rejection):
        server.receive(client.exchange.data_to_send())


def test_a_side_without_a_certificate_answers_that_it_has_no_evidence() -> None:
    """A client that was not told that the relay judges it: the refusal names what is missing."""
    ends = HOPS["shelter-relay-mutual"]
    client = client_of(ends, session=client_session(own_spki=None))
    server = server_of(ends, session=server_session(peer_spki=None))
    assert client.receive(server.data_to_send()) == []
    (_, event) = server.receive(client.data_to_send())
    assert isinstance(event, EvidenceReceived)
    assert event.evidence is None


def test_a_verdict_is_announced_where_the_hop_announces_it() -> None:
    """Shelter tells a relay nothing: it closes."""
    for hop, told in (("shelter-relay", False), ("relay-workload", True), ("shelter-workload", True)):
        client = client_of(HOPS[hop])
        client.data_to_send()
        client.reject(RejectClass.POLICY)
        assert bool(client.data_to_send()) is told, hop


def test_after_a_refusal_nothing_more_is_said_or_read() -> None:
    server = server_of(HOPS["relay-workload"])
    server.reject(RejectClass.POLICY)
    assert server.data_to_send() == messages.encode(messages.Reject(reason_class=RejectClass.POLICY))
    server.reject(RejectClass.POLICY)
    assert server.data_to_send() == b""
    assert server.wanted == 0
    assert not server.finished
    assert reason_of(lambda: server.receive(ATTEST)) is Reason.INTERNAL


def test_a_peer_that_refused_is_not_refused_in_return() -> None:
    server = server_of(HOPS["relay-workload-mutual"])
    server.data_to_send()
    with pytest.raises(Rejection) as caught:
        server.receive(messages.encode(messages.Reject(reason_class=RejectClass.POLICY)))
    server.reject(RejectClass.of(caught.value))
    assert server.data_to_send() == b""


def test_a_finished_exchange_has_no_message_left_to_send() -> None:
    """A reject now would be read as the application's bytes."""
    client, server = both("shelter-workload")
    run(client, server)
    client.exchange.reject(RejectClass.PROTOCOL)
    assert client.exchange.data_to_send() == b""


@pytest.mark.parametrize("quote", [None, QUOTE])
def test_an_operator_may_wave_a_peer_through_by_a_name_that_says_what_it_is(quote: bytes | None) -> None:
    client, server = both("shelter-workload")
    server._quote = quote
    assert reason_of(client.exchange.dangerously_accept_without_judging) is Reason.INTERNAL
    server.receive(client.exchange.data_to_send())
    client.exchange.receive(server.exchange.data_to_send())
    client.exchange.dangerously_accept_without_judging()
    server.receive(client.exchange.data_to_send())
    assert client.exchange.finished
    assert server.exchange.finished
    assert reason_of(client.exchange.dangerously_accept_without_judging) is Reason.INTERNAL


# --- levels


@pytest.mark.parametrize(
    ("asked", "minimum"),
    [
        (BindingLevel.CERT, BindingLevel.SESSION),
        (BindingLevel.CERT, BindingLevel.FRESH),
        (BindingLevel.SESSION, BindingLevel.FRESH),
    ],
)
def test_a_question_below_our_own_minimum_is_refused(asked: BindingLevel, minimum: BindingLevel) -> None:
    ends = HOPS["shelter-workload"]
    server = server_of(Ends(client=ends.client, server=replace(ends.server, minimum_level=minimum)))
    attest = messages.encode(messages.Attest(nonce=b"n" * 32, level=asked))
    with pytest.raises(PeerMisbehaved) as caught:
        server.receive(attest)
    assert caught.value.reason is Reason.LEVEL_NOT_OFFERED
    server.reject(RejectClass.of(caught.value))
    assert server.data_to_send() == messages.encode(messages.Reject(reason_class=RejectClass.LEVEL))


@pytest.mark.parametrize("minimum", LEVELS)
def test_a_question_at_our_own_minimum_or_above_is_answered(minimum: BindingLevel) -> None:
    for asked in LEVELS:
        if asked >= minimum:
            ends = HOPS["shelter-workload"].at(asked)
            server = End(server_of(Ends(client=ends.client, server=replace(ends.server, minimum_level=minimum))))
            client = End(client_of(ends))
            run(client, server)
            assert client.exchange.finished


@pytest.mark.parametrize("minimum", LEVELS)
def test_a_relay_that_demands_a_level_serves_no_client_that_asks_for_nothing(minimum: BindingLevel) -> None:
    """At level cert the certificate has shown the evidence to whoever connects."""
    ends = HOPS["shelter-relay-unjudged"]
    server = server_of(Ends(client=ends.client, server=replace(ends.server, minimum_level=minimum)))
    client = client_of(ends)
    client.open("workload")
    if minimum is BindingLevel.CERT:
        assert server.receive(client.data_to_send()) == [OpenReceived(workload="workload")]
        return
    with pytest.raises(PeerMisbehaved) as caught:
        server.receive(client.data_to_send())
    assert caught.value.reason is Reason.LEVEL_NOT_OFFERED
    server.reject(RejectClass.of(caught.value))
    with pytest.raises(Rejection) as refused:
        client.receive(server.data_to_send())
    assert refused.value.reason is Reason.PEER_REJECTED_US


def test_a_workload_that_demands_a_level_serves_no_client_that_shows_and_asks_for_nothing() -> None:
    ends = HOPS["relay-workload-mutual"]
    server = server_of(
        Ends(client=ends.client, server=replace(ends.server, minimum_level=BindingLevel.SESSION)),
    )
    with pytest.raises(PeerMisbehaved) as caught:
        server.receive(messages.encode(messages.Evidence()))
    assert caught.value.reason is Reason.LEVEL_NOT_OFFERED


def test_a_client_that_shows_its_evidence_at_a_level_need_not_be_asked() -> None:
    """Whether a server judges its clients is the server's business."""
    ends = HOPS["relay-workload"]
    demanding = Ends(client=replace(ends.client, minimum_level=BindingLevel.FRESH), server=ends.server)
    client, server = End(client_of(demanding)), End(server_of(demanding))
    run(client, server)
    assert client.exchange.finished


@pytest.mark.parametrize("field", ["level", "minimum_level"])
def test_terms_at_a_level_that_binds_nothing_are_misuse(field: str) -> None:
    terms = Terms.shelter_to_workload()
    with pytest.raises(Misuse) as caught:
        replace(terms, **{field: BindingLevel.NONE})  # type: ignore[arg-type]
    assert caught.value.reason is Reason.NOT_IMPLEMENTED_VALUE


def test_every_level_has_its_claims() -> None:
    assert set(CLAIMS) == set(LEVELS)


# --- order


def _after(hop: str, side: str, received: bytes) -> Exchange:
    """An end of a hop that has already received `received`, has answered and judged nothing."""
    exchange = (client_of if side == "client" else server_of)(HOPS[hop])
    if received:
        exchange.receive(received)
    return exchange


@pytest.mark.parametrize(
    ("hop", "side", "before", "message"),
    [
        ("shelter-relay", "server", ATTEST, ATTEST),
        ("shelter-relay", "server", b"", NO_EVIDENCE),
        ("shelter-relay", "server", ATTEST, ACCEPT),
        ("shelter-relay", "server", b"", OPENED),
        ("shelter-relay-mutual", "server", ATTEST, OPEN),
        ("shelter-relay-mutual", "server", ATTEST + NO_EVIDENCE, OPEN),
        ("shelter-relay-mutual", "server", NO_EVIDENCE, ATTEST),
        ("shelter-relay-mutual", "server", NO_EVIDENCE, NO_EVIDENCE),
        ("shelter-relay", "client", b"", OPENED),
        ("shelter-relay", "client", b"", OPEN),
        ("shelter-relay", "client", NO_EVIDENCE, OPENED),
        ("shelter-relay", "client", b"", ACCEPT),
        ("shelter-relay", "client", NO_EVIDENCE, ATTEST),
        ("relay-workload", "server", b"", OPEN),
        ("relay-workload", "server", b"", ACCEPT),
        ("relay-workload", "server", ATTEST, ACCEPT),
        ("relay-workload", "server", ATTEST, ATTEST),
        ("relay-workload", "server", b"", NO_EVIDENCE),
        ("relay-workload", "client", b"", OPENED),
        ("relay-workload", "client", b"", ACCEPT),
        ("relay-workload", "client", NO_EVIDENCE, ATTEST),
        ("relay-workload", "client", NO_EVIDENCE, NO_EVIDENCE),
        ("relay-workload", "client", NO_EVIDENCE, b"application"),
        ("shelter-workload", "client", NO_EVIDENCE, ACCEPT),
        ("shelter-workload", "server", b"", OPEN),
    ],
)
def test_a_message_out_of_turn_is_refused(hop: str, side: str, before: bytes, message: bytes) -> None:
    exchange = _after(hop, side, before)
    assert reason_of(lambda: exchange.receive(message)) is Reason.MESSAGE_UNEXPECTED
    assert not exchange.finished


def test_a_second_accept_is_refused() -> None:
    server = server_of(HOPS["relay-workload-mutual"])
    server.receive(ATTEST)
    server.answer(QUOTE)
    server.receive(ACCEPT)
    assert reason_of(lambda: server.receive(ACCEPT)) is Reason.MESSAGE_UNEXPECTED


def test_open_takes_no_channel_before_the_verdict_of_a_relay_that_judges() -> None:
    client, server = both("shelter-relay-mutual")
    server.receive(client.exchange.data_to_send())
    assert OpenReceived not in events_of(server)
    assert reason_of(lambda: server.receive(OPEN)) is Reason.MESSAGE_UNEXPECTED


def test_a_client_that_has_opened_too_soon_is_told_what_to_do() -> None:
    client = client_of(HOPS["shelter-relay-mutual"])
    client.open("workload")
    with pytest.raises(PeerMisbehaved) as caught:
        client.receive(ATTEST)
    assert caught.value.reason is Reason.MESSAGE_UNEXPECTED
    assert caught.value.hint is not None
    assert "--mutual" in caught.value.hint


def test_a_peer_that_goes_on_before_the_verdict_is_refused() -> None:
    client, server = both("shelter-workload")
    server.receive(client.exchange.data_to_send())
    evidence = server.exchange.data_to_send()
    assert reason_of(lambda: client.exchange.receive(evidence + b"application")) is Reason.MESSAGE_UNEXPECTED


# --- callers that err


@pytest.mark.parametrize(
    ("hop", "side", "call"),
    [
        ("shelter-relay", "server", lambda exchange: exchange.answer(QUOTE)),
        ("shelter-relay", "server", lambda exchange: exchange.opened()),
        ("shelter-relay", "server", lambda exchange: exchange.open("workload")),
        ("shelter-relay", "client", lambda exchange: exchange.accept()),
        ("shelter-relay", "client", lambda exchange: exchange.opened()),
        ("relay-workload", "client", lambda exchange: exchange.open("workload")),
    ],
)
def test_a_call_out_of_turn_is_our_bug(hop: str, side: str, call: Callable[[Exchange], None]) -> None:
    exchange = _after(hop, side, b"")
    assert reason_of(lambda: call(exchange)) is Reason.INTERNAL


def test_open_waits_for_the_verdict_of_a_relay_that_asked() -> None:
    client = _after("shelter-relay-mutual", "client", ATTEST)
    assert reason_of(lambda: client.open("workload")) is Reason.INTERNAL


def test_opened_waits_for_the_evidence_that_was_asked_for() -> None:
    server = _after("shelter-relay", "server", ATTEST + OPEN)
    assert reason_of(server.opened) is Reason.INTERNAL
    server.answer(QUOTE)
    server.opened()
    assert reason_of(server.opened) is Reason.INTERNAL


def test_open_is_sent_once() -> None:
    client = client_of(HOPS["shelter-relay"])
    client.open("workload")
    assert reason_of(lambda: client.open("workload")) is Reason.INTERNAL


@pytest.mark.parametrize("name", ["", "-x", "a b", "a\n", "x" * 254, "ä"])
def test_a_workload_name_is_plain(name: str) -> None:
    assert reason_of(lambda: client_of(HOPS["shelter-relay"]).open(name)) is Reason.USAGE


def test_a_verdict_is_given_once() -> None:
    client, server = both("shelter-workload")
    run(client, server)
    assert reason_of(client.exchange.accept) is Reason.INTERNAL


@pytest.mark.parametrize(("nonce", "exporter"), [(b"short", EXPORTER), (CLIENT_NONCE, b"short")])
def test_nonce_and_exporter_have_their_lengths(nonce: bytes, exporter: bytes) -> None:
    session = client_session(exporter=exporter)
    terms = Terms.shelter_to_workload()
    assert reason_of(lambda: Exchange(session=session, terms=terms, nonce=nonce, now=NOW)) is Reason.INTERNAL


def test_the_time_of_an_exchange_has_a_zone() -> None:
    terms, naive = Terms.shelter_to_workload(), NOW.replace(tzinfo=None)
    assert (
        reason_of(lambda: Exchange(session=client_session(), terms=terms, nonce=CLIENT_NONCE, now=naive))
        is Reason.INTERNAL
    )


def test_the_evidence_of_an_answer_is_tagged_with_the_claims_asked_for() -> None:
    server = server_of(HOPS["relay-workload"])
    (wanted,) = server.receive(ATTEST)
    assert isinstance(wanted, EvidenceWanted)
    server.answer(QUOTE)
    message = messages.decode(server.data_to_send()[messages.LENGTH_SIZE :])
    assert isinstance(message, messages.Evidence)
    assert message.evidence is not None
    assert TaggedEvidence.parse(message.evidence) == TaggedEvidence(evidence=QUOTE, claims=wanted.claims)
