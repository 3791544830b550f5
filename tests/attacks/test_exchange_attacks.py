"""What an attacker can do to the exchange with genuine evidence of somebody else: nothing.

The good world is evidence made for exactly this session; each row changes one thing. Lessons of the bounded model: the
exporter and the key carry the weight, the rest is a second layer, and each is tested as if it stood alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from eaa.appraise.result import BindingLevel, Role
from eaa.errors import EAAError, Reason, VerificationError
from eaa.evidence.tagged import PUBKEY_HASH, encode_claims, pubkey_hash_claim
from eaa.protocol import messages
from eaa.protocol.exchange import EvidenceReceived, EvidenceWanted, Exchange, Terms, expected_claims
from support.epochs import NOW
from support.exchange_world import (
    CLIENT_KEY,
    CLIENT_NONCE,
    EXPORTER,
    HOPS,
    QUOTE,
    SERVER_KEY,
    SERVER_NONCE,
    End,
    client_of,
    client_session,
    evidence_message,
    run,
    server_of,
)

GOOD = expected_claims(
    BindingLevel.FRESH,
    attester_spki=SERVER_KEY,
    other_spki=CLIENT_KEY,
    nonce=CLIENT_NONCE,
    exporter=EXPORTER,
    role=Role.WORKLOAD,
)
AT_CERT = {PUBKEY_HASH: pubkey_hash_claim(SERVER_KEY)}


def judge(level: BindingLevel = BindingLevel.FRESH) -> Exchange:
    """Shelter's end of an inner session, waiting for the workload's evidence."""
    return client_of(HOPS["shelter-workload"].at(level))


def refusal(message: bytes, level: BindingLevel = BindingLevel.FRESH) -> EAAError:
    exchange = judge(level)
    with pytest.raises(EAAError) as caught:
        exchange.receive(message)
    assert not exchange.finished
    assert exchange.wanted == 0
    with pytest.raises(EAAError):
        exchange.accept()
    return caught.value


def test_the_good_world_is_good() -> None:
    (event,) = judge().receive(evidence_message(claims=encode_claims(GOOD)))
    assert isinstance(event, EvidenceReceived)
    (event,) = judge(BindingLevel.CERT).receive(evidence_message(claims=encode_claims(AT_CERT)))
    assert isinstance(event, EvidenceReceived)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"label": b"eaa/2 epoch"}, Reason.CLAIMS_MISMATCH),
        ({"label": b"eaa/2 attest "}, Reason.CLAIMS_MISMATCH),
        ({PUBKEY_HASH: pubkey_hash_claim(b"the attacker's key")}, Reason.CLAIMS_MISMATCH),
        ({PUBKEY_HASH: pubkey_hash_claim(CLIENT_KEY)}, Reason.CLAIMS_MISMATCH),
        ({PUBKEY_HASH: pubkey_hash_claim(SERVER_KEY) + b"\0"}, Reason.CLAIMS_MISMATCH),
        ({"peer": b""}, Reason.CLAIMS_MISMATCH),
        ({"peer": pubkey_hash_claim(b"the attacker's key")}, Reason.CLAIMS_MISMATCH),
        ({"nonce": SERVER_NONCE}, Reason.CLAIMS_MISMATCH),
        ({"nonce": CLIENT_NONCE[:-1]}, Reason.CLAIMS_MISMATCH),
        ({"tls-exporter": bytes(32)}, Reason.CLAIMS_MISMATCH),
        ({"tls-exporter": b""}, Reason.CLAIMS_MISMATCH),
        ({"role": b"relay"}, Reason.ROLE_MISMATCH),
        ({"role": b"client"}, Reason.ROLE_MISMATCH),
        ({"role": b"workload\0"}, Reason.ROLE_MISMATCH),
        ({"role": b"relay", "tls-exporter": bytes(32)}, Reason.CLAIMS_MISMATCH),
    ],
)
def test_evidence_with_one_claim_swapped(changes: dict[str, bytes], reason: Reason) -> None:
    error = refusal(evidence_message(claims=encode_claims({**GOOD, **changes})))
    assert isinstance(error, VerificationError)
    assert error.reason is reason
    assert error.hint is not None


@pytest.mark.parametrize("name", GOOD)
def test_evidence_with_one_claim_missing(name: str) -> None:
    claims = {key: value for key, value in GOOD.items() if key != name}
    assert refusal(evidence_message(claims=encode_claims(claims))).reason is Reason.CLAIMS_MISMATCH


@pytest.mark.parametrize("name", ["session-key", "not-before", "key_0", ""])
def test_evidence_with_a_claim_too_many(name: str) -> None:
    claims = {**GOOD, name: b"value"}
    assert refusal(evidence_message(claims=encode_claims(claims))).reason is Reason.CLAIMS_MISMATCH


def test_evidence_of_one_level_at_the_other() -> None:
    """A certificate's evidence is public and says nothing of a session; a session's says more than that."""
    assert refusal(evidence_message(claims=encode_claims(AT_CERT))).reason is Reason.CLAIMS_MISMATCH
    fresh = evidence_message(claims=encode_claims(GOOD))
    assert refusal(fresh, BindingLevel.CERT).reason is Reason.CLAIMS_MISMATCH


def test_a_certificate_s_evidence_of_another_stack_is_none_of_ours() -> None:
    """rats-tls adds claims of its own; in the exchange of eaa/2 nobody does."""
    claims = encode_claims({**AT_CERT, "key_0": b"value_0\0"})
    assert refusal(evidence_message(claims=claims), BindingLevel.CERT).reason is Reason.CLAIMS_MISMATCH


def test_evidence_for_a_key_of_a_peer_that_has_none() -> None:
    exchange = client_of(HOPS["shelter-workload"], session=client_session(peer_spki=None))
    with pytest.raises(VerificationError) as caught:
        exchange.receive(evidence_message(claims=encode_claims(GOOD)))
    assert caught.value.reason is Reason.CLAIMS_MISMATCH


@pytest.mark.parametrize("claims", [b"", b"\xa0\x00", b"\x80", b"\xa1\x01\x41x", b"\xa1\x61a\x01"])
def test_claims_that_are_no_claims(claims: bytes) -> None:
    assert refusal(evidence_message(claims=claims)).reason is Reason.EVIDENCE_MALFORMED


def test_padding_is_for_other_people_s_certificates_and_not_for_the_exchange() -> None:
    padded = encode_claims(GOOD) + bytes(16)
    assert refusal(evidence_message(claims=padded)).reason is Reason.EVIDENCE_MALFORMED


# --- relaying, reflecting, replaying


def _relayed(*, session_changes: dict[str, Any], terms: Terms | None = None) -> Reason:
    """The attacker passes Shelter's challenge on to a genuine workload, in another session, and brings the answer."""
    shelter = judge()
    genuine_session = replace(client_session(own_spki=SERVER_KEY, peer_spki=CLIENT_KEY), **session_changes)
    genuine = Exchange(
        session=genuine_session, terms=terms or HOPS["shelter-workload"].server, nonce=SERVER_NONCE, now=NOW
    )
    (wanted,) = genuine.receive(shelter.data_to_send())
    assert isinstance(wanted, EvidenceWanted)
    genuine.answer(QUOTE)
    with pytest.raises(EAAError) as caught:
        shelter.receive(genuine.data_to_send())
    return caught.value.reason


def test_a_challenge_relayed_into_another_session_fails_by_the_exporter_alone() -> None:
    """Even where the attacker holds both TLS keys, so that every key is the expected one."""
    assert _relayed(session_changes={"exporter": bytes(32)}) is Reason.CLAIMS_MISMATCH


def test_a_challenge_relayed_to_another_workload_fails_by_its_key() -> None:
    assert _relayed(session_changes={"own_spki": b"another workload's key"}) is Reason.CLAIMS_MISMATCH


def test_a_challenge_relayed_over_the_attacker_s_own_connection_fails_by_the_peer() -> None:
    assert _relayed(session_changes={"peer_spki": b"the attacker's key"}) is Reason.CLAIMS_MISMATCH


def test_the_relay_s_own_evidence_shown_as_the_workload_s_fails_by_its_role() -> None:
    """A relay that ends the inner session itself: everything is right but what it is."""
    assert _relayed(session_changes={}, terms=Terms.relay_to_shelter(judges=False)) is Reason.ROLE_MISMATCH


def test_evidence_recorded_earlier_does_not_answer_a_new_nonce() -> None:
    client, server = End(judge()), End(server_of(HOPS["shelter-workload"]))
    server.receive(client.exchange.data_to_send())
    recorded = server.exchange.data_to_send()
    client.receive(recorded)
    again = Exchange(session=client_session(), terms=Terms.shelter_to_workload(), nonce=b"2" * 32, now=NOW)
    with pytest.raises(VerificationError) as caught:
        again.receive(recorded)
    assert caught.value.reason is Reason.CLAIMS_MISMATCH


def test_our_own_challenge_sent_back_to_us_is_refused() -> None:
    """Reflection, where both ends judge: the attacker would have us answer our own question."""
    for ends in (HOPS["relay-workload-mutual"], HOPS["shelter-relay-mutual"]):
        for exchange in (client_of(ends), server_of(ends)):
            with pytest.raises(EAAError) as caught:
                exchange.receive(exchange.data_to_send())
            assert caught.value.reason is Reason.MESSAGE_UNEXPECTED


def test_our_own_evidence_sent_back_to_us_is_refused() -> None:
    """Even with the nonce changed to ours by another session: it names our key, and our role."""
    end = client_of(HOPS["relay-workload-mutual"])
    claims = expected_claims(
        BindingLevel.FRESH,
        attester_spki=CLIENT_KEY,
        other_spki=SERVER_KEY,
        nonce=CLIENT_NONCE,
        exporter=EXPORTER,
        role=Role.RELAY,
    )
    with pytest.raises(VerificationError) as caught:
        end.receive(evidence_message(claims=encode_claims(claims)))
    assert caught.value.reason is Reason.CLAIMS_MISMATCH


def test_a_verdict_cannot_be_had_by_saying_so() -> None:
    """`accept` from the judged side proves nothing and opens nothing."""
    shelter = judge()
    with pytest.raises(EAAError) as caught:
        shelter.receive(messages.encode(messages.Accept()))
    assert caught.value.reason is Reason.MESSAGE_UNEXPECTED
    assert not shelter.finished


def test_what_the_peer_sees_of_a_refusal_is_its_class_and_nothing_expected() -> None:
    shelter = judge()
    shelter.data_to_send()
    with pytest.raises(VerificationError) as caught:
        shelter.receive(evidence_message(claims=encode_claims({**GOOD, "role": b"relay"})))
    shelter.reject(messages.RejectClass.of(caught.value))
    sent = shelter.data_to_send()
    assert sent == messages.encode(messages.Reject(reason_class=messages.RejectClass.UNVERIFIABLE))
    assert b"workload" not in sent


def test_honest_ends_agree_whatever_hop() -> None:
    """The oracle of this file: with nobody between them, every hop comes to its end."""
    for hop, ends in HOPS.items():
        client, server = End(client_of(ends), opens="shelter-relay" in hop), End(server_of(ends))
        run(client, server)
        assert client.exchange.finished, hop
        assert server.exchange.finished, hop
