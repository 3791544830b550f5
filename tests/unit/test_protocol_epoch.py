"""Level session: one good world, and everything that can be wrong with an epoch or its signature, one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from eaa.appraise.result import BindingLevel, Role
from eaa.errors import EAAError, MalformedInput, Reason, VerificationError
from eaa.evidence.epoch import (
    EPOCH_CLAIMS,
    SESSION_KEY_SIZE,
    EpochClaims,
    encode_session_key,
    is_same_key,
    is_signed_by,
    session_statement,
    sign_statement,
)
from eaa.evidence.tagged import (
    TaggedEvidence,
    claims_report_data,
    encode_claims,
    parse_claims,
    pubkey_hash_claim,
)
from eaa.protocol import binding, messages
from eaa.protocol.exchange import CLAIMS, SESSION_CLAIMS, EvidenceReceived, EvidenceWanted, Exchange, expected_claims
from support.epochs import EPOCH_QUOTE, NOW, SECOND, MadeEpoch
from support.exchange_world import (
    CLIENT_KEY,
    CLIENT_NONCE,
    EXPORTER,
    HOPS,
    SERVER_KEY,
    SERVER_NONCE,
    client_of,
    client_session,
    server_of,
)

HOP = HOPS["shelter-workload"].at(BindingLevel.SESSION)
GOOD = MadeEpoch.of(SERVER_KEY, Role.WORKLOAD)
SESSION = expected_claims(
    BindingLevel.SESSION,
    attester_spki=SERVER_KEY,
    other_spki=CLIENT_KEY,
    nonce=CLIENT_NONCE,
    exporter=EXPORTER,
    role=Role.WORKLOAD,
)
PRIVATE = ec.generate_private_key(ec.SECP256R1())
PUBLIC = encode_session_key(PRIVATE.public_key())


def answer(epoch: MadeEpoch, *, session: Mapping[str, bytes] = SESSION, digest: bytes | None = None) -> bytes:
    """The message of a workload in that epoch that signs that session."""
    signature = epoch.sign(session_statement(digest or epoch.digest, encode_claims(session)))
    return messages.encode(messages.Evidence(evidence=epoch.evidence, epoch=signature))


def with_claims(claims: Mapping[str, bytes]) -> bytes:
    """An answer whose epoch's evidence has these claims, whatever they are, well signed by the good key."""
    evidence = TaggedEvidence(evidence=EPOCH_QUOTE, claims=encode_claims(claims)).encode()
    digest = hashlib.sha256(evidence).digest()
    signature = GOOD.sign(session_statement(digest, encode_claims(SESSION)))
    return messages.encode(messages.Evidence(evidence=evidence, epoch=signature))


def judge(message: bytes, **terms: Any) -> EvidenceReceived:
    """What Shelter makes of an answer."""
    exchange = client_of(replace(HOP, client=replace(HOP.client, **terms)))
    try:
        (event,) = exchange.receive(message)
    except EAAError:
        assert not exchange.finished
        assert exchange.wanted == 0
        with pytest.raises(EAAError):
            exchange.accept()
        raise
    assert isinstance(event, EvidenceReceived)
    return event


def refusal(message: bytes, **terms: Any) -> EAAError:
    with pytest.raises(EAAError) as caught:
        judge(message, **terms)
    return caught.value


# --- the good world


def test_the_good_world_is_good() -> None:
    received = judge(answer(GOOD))
    assert received.evidence == EPOCH_QUOTE
    assert received.report_data == claims_report_data(GOOD.claims)
    assert received.level is BindingLevel.SESSION


def test_what_is_signed_is_what_fresh_evidence_would_claim() -> None:
    assert tuple(SESSION) == SESSION_CLAIMS == CLAIMS[BindingLevel.FRESH]
    assert parse_claims(GOOD.claims, tolerant=False).keys() == set(CLAIMS[BindingLevel.SESSION])


def test_the_claims_of_an_epoch_come_back_as_they_were() -> None:
    assert EpochClaims.from_claims(parse_claims(GOOD.claims, tolerant=False)) == GOOD.said
    assert set(EPOCH_CLAIMS) == {"label", "pubkey-hash", "session-key", "role", "not-before", "not-after"}


@pytest.mark.parametrize("offset", [-60, 0, 240])
def test_an_epoch_holds_from_its_first_to_its_last_second(offset: int) -> None:
    exchange = _at(NOW + timedelta(seconds=offset))
    (event,) = exchange.receive(answer(GOOD))
    assert isinstance(event, EvidenceReceived)


def _at(now: Any) -> Exchange:
    return Exchange(session=client_session(), terms=HOP.client, nonce=CLIENT_NONCE, now=now)


# --- the epoch


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"label": b"eaa/2 attest"}, Reason.CLAIMS_MISMATCH),
        ({"label": b"eaa/2 session"}, Reason.CLAIMS_MISMATCH),
        ({"label": b""}, Reason.CLAIMS_MISMATCH),
        ({"pubkey_hash": pubkey_hash_claim(b"the attacker's key")}, Reason.CLAIMS_MISMATCH),
        ({"pubkey_hash": pubkey_hash_claim(CLIENT_KEY)}, Reason.CLAIMS_MISMATCH),
        ({"pubkey_hash": pubkey_hash_claim(SERVER_KEY) + b"\0"}, Reason.CLAIMS_MISMATCH),
        ({"pubkey_hash": b""}, Reason.CLAIMS_MISMATCH),
        ({"role": b"relay"}, Reason.ROLE_MISMATCH),
        ({"role": b"client"}, Reason.ROLE_MISMATCH),
        ({"role": b"workload\0"}, Reason.ROLE_MISMATCH),
        ({"not_before": SECOND + 1}, Reason.EPOCH_NOT_CURRENT),
        ({"not_after": SECOND - 1}, Reason.EPOCH_NOT_CURRENT),
        ({"not_before": SECOND + 240, "not_after": SECOND - 60}, Reason.EPOCH_NOT_CURRENT),
        ({"not_before": 2**64 - 1, "not_after": 2**64 - 1}, Reason.EPOCH_NOT_CURRENT),
        ({"not_before": 0, "not_after": 0}, Reason.EPOCH_NOT_CURRENT),
        ({"not_after": SECOND - 60 + 601}, Reason.EPOCH_TOO_LONG),
        ({"not_before": 0}, Reason.EPOCH_TOO_LONG),
        ({"not_after": 2**64 - 1}, Reason.EPOCH_TOO_LONG),
        ({"session_key": GOOD.said.session_key[:-1]}, Reason.EVIDENCE_MALFORMED),
        ({"session_key": GOOD.said.session_key + b"\0"}, Reason.EVIDENCE_MALFORMED),
        ({"session_key": b""}, Reason.EVIDENCE_MALFORMED),
        ({"session_key": bytes(SESSION_KEY_SIZE)}, Reason.EVIDENCE_MALFORMED),
        ({"session_key": PUBLIC[:-64] + bytes(64)}, Reason.EVIDENCE_MALFORMED),
        ({"session_key": PUBLIC}, Reason.EPOCH_SIGNATURE),
    ],
)
def test_an_epoch_with_one_thing_wrong(changes: dict[str, Any], reason: Reason) -> None:
    epoch = replace(GOOD, said=replace(GOOD.said, **changes))
    error = refusal(answer(epoch))
    assert error.reason is reason
    assert isinstance(error, MalformedInput if reason is Reason.EVIDENCE_MALFORMED else VerificationError)


@pytest.mark.parametrize("name", EPOCH_CLAIMS)
def test_an_epoch_with_one_claim_missing(name: str) -> None:
    claims = parse_claims(GOOD.claims, tolerant=False)
    del claims[name]
    assert refusal(with_claims(claims)).reason is Reason.CLAIMS_MISMATCH


@pytest.mark.parametrize("name", ["peer", "nonce", "tls-exporter", "key_0", ""])
def test_an_epoch_with_a_claim_too_many(name: str) -> None:
    claims = {**parse_claims(GOOD.claims, tolerant=False), name: b"value"}
    assert refusal(with_claims(claims)).reason is Reason.CLAIMS_MISMATCH


@pytest.mark.parametrize("name", ["not-before", "not-after"])
@pytest.mark.parametrize("size", [0, 7, 9, 16])
def test_a_date_is_eight_bytes(name: str, size: int) -> None:
    claims = {**parse_claims(GOOD.claims, tolerant=False), name: SECOND.to_bytes(16, "big")[16 - size :]}
    assert refusal(with_claims(claims)).reason is Reason.EVIDENCE_MALFORMED


@pytest.mark.parametrize(("span", "maximum"), [(601, 300), (61, 30), (3, 1)])
def test_an_epoch_may_span_twice_the_verifier_s_maximum_and_no_second_more(span: int, maximum: int) -> None:
    terms = {"maximum_epoch": timedelta(seconds=maximum)}
    begin = SECOND - 1
    longest = MadeEpoch.of(SERVER_KEY, Role.WORKLOAD, not_before=begin, not_after=begin + span - 1)
    assert judge(answer(longest), **terms).evidence == EPOCH_QUOTE
    longer = MadeEpoch.of(SERVER_KEY, Role.WORKLOAD, not_before=begin, not_after=begin + span)
    assert refusal(answer(longer), **terms).reason is Reason.EPOCH_TOO_LONG


@pytest.mark.parametrize("seconds", [-61, 241])
def test_an_epoch_is_judged_by_the_verifier_s_clock(seconds: int) -> None:
    with pytest.raises(VerificationError) as caught:
        _at(NOW + timedelta(seconds=seconds)).receive(answer(GOOD))
    assert caught.value.reason is Reason.EPOCH_NOT_CURRENT


# --- the session key


@pytest.mark.parametrize("form", [PublicFormat.UncompressedPoint, PublicFormat.CompressedPoint])
def test_a_session_key_that_is_the_tls_key_is_refused_however_that_is_encoded(form: PublicFormat) -> None:
    """The same point, compressed in the certificate, is the same key."""
    spki = PUBLIC
    if form is PublicFormat.CompressedPoint:
        point = PRIVATE.public_key().public_bytes(Encoding.X962, form)
        spki = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point
    epoch = MadeEpoch.of(spki, Role.WORKLOAD)
    epoch = replace(epoch, private_key=PRIVATE, said=replace(epoch.said, session_key=PUBLIC))
    exchange = client_of(HOP, session=client_session(peer_spki=spki))
    session = {**SESSION, "pubkey-hash": pubkey_hash_claim(spki)}
    with pytest.raises(VerificationError) as caught:
        exchange.receive(answer(epoch, session=session))
    assert caught.value.reason is Reason.EPOCH_KEY_REUSED


def test_keys_are_compared_as_keys() -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    assert is_same_key(PUBLIC, PUBLIC)
    assert not is_same_key(PUBLIC, GOOD.said.session_key)
    assert not is_same_key(PUBLIC, other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    assert not is_same_key(PUBLIC, b"no key at all")


# --- the signature


@pytest.mark.parametrize(
    "changes",
    [
        {"label": b"eaa/2 epoch"},
        {"label": b"eaa/2 session"},
        {"pubkey-hash": pubkey_hash_claim(CLIENT_KEY)},
        {"peer": b""},
        {"peer": pubkey_hash_claim(b"the attacker's key")},
        {"nonce": SERVER_NONCE},
        {"tls-exporter": bytes(32)},
        {"role": b"relay"},
        {"key_0": b"one too many"},
    ],
)
def test_a_signature_of_another_session_is_none_of_this_one(changes: dict[str, bytes]) -> None:
    assert refusal(answer(GOOD, session={**SESSION, **changes})).reason is Reason.EPOCH_SIGNATURE


@pytest.mark.parametrize("name", SESSION_CLAIMS)
def test_a_signature_of_fewer_claims_is_none(name: str) -> None:
    session = {key: value for key, value in SESSION.items() if key != name}
    assert refusal(answer(GOOD, session=session)).reason is Reason.EPOCH_SIGNATURE


def test_a_signature_names_its_epoch() -> None:
    """Signed by the right key for the right session, beside another quote for the same key."""
    assert refusal(answer(GOOD, digest=bytes(32))).reason is Reason.EPOCH_SIGNATURE
    other = replace(GOOD, quote=b"another quote")
    assert refusal(answer(GOOD, digest=other.digest)).reason is Reason.EPOCH_SIGNATURE


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: bytes(64),
        lambda _: b"\xff" * 64,
        lambda signature: signature[32:] + signature[:32],
        lambda signature: signature[:32] + bytes(32),
        lambda signature: bytes([signature[0] ^ 1]) + signature[1:],
        lambda signature: signature[:-1] + bytes([signature[-1] ^ 1]),
        lambda _: sign_statement(PRIVATE, b"whatever"),
    ],
)
def test_a_signature_with_one_thing_wrong(spoil: Callable[[bytes], bytes]) -> None:
    signature = GOOD.sign(session_statement(GOOD.digest, encode_claims(SESSION)))
    message = messages.encode(messages.Evidence(evidence=GOOD.evidence, epoch=spoil(signature)))
    assert refusal(message).reason is Reason.EPOCH_SIGNATURE


def test_a_signature_without_its_label_is_none() -> None:
    """What another protocol made of the same claims is never taken for a statement of ours."""
    bare = GOOD.sign(encode_claims(SESSION))
    assert refusal(messages.encode(messages.Evidence(evidence=GOOD.evidence, epoch=bare))).reason is (
        Reason.EPOCH_SIGNATURE
    )


def test_an_epoch_without_a_signature_is_refused() -> None:
    assert refusal(messages.encode(messages.Evidence(evidence=GOOD.evidence))).reason is Reason.EPOCH_SIGNATURE


def test_only_64_bytes_are_a_signature() -> None:
    assert not is_signed_by(PUBLIC, sign_statement(PRIVATE, b"x") + b"\0", b"x")
    assert is_signed_by(PUBLIC, sign_statement(PRIVATE, b"x"), b"x")


# --- out of its level


@pytest.mark.parametrize("level", [BindingLevel.CERT, BindingLevel.FRESH])
def test_an_epoch_is_no_evidence_of_another_level(level: BindingLevel) -> None:
    exchange = client_of(HOPS["shelter-workload"].at(level))
    with pytest.raises(VerificationError) as caught:
        exchange.receive(answer(GOOD))
    assert caught.value.reason is Reason.CLAIMS_MISMATCH


@pytest.mark.parametrize("level", [BindingLevel.CERT, BindingLevel.FRESH])
def test_evidence_of_another_level_is_no_epoch(level: BindingLevel) -> None:
    """Not even with a signature of the right session beside it."""
    claims = {name: SESSION[name] for name in CLAIMS[level]}
    assert refusal(with_claims(claims)).reason is Reason.CLAIMS_MISMATCH


@pytest.mark.parametrize("level", [BindingLevel.CERT, BindingLevel.FRESH])
def test_a_signature_beside_evidence_that_needs_none_is_refused(level: BindingLevel) -> None:
    exchange = client_of(HOPS["shelter-workload"].at(level))
    evidence = TaggedEvidence(
        evidence=EPOCH_QUOTE, claims=encode_claims({name: SESSION[name] for name in CLAIMS[level]})
    )
    message = messages.Evidence(evidence=evidence.encode(), epoch=bytes(64))
    with pytest.raises(VerificationError) as caught:
        exchange.receive(messages.encode(message))
    assert caught.value.reason is Reason.CLAIMS_MISMATCH


# --- both ends


def test_an_epoch_serves_many_sessions_and_a_signature_one() -> None:
    signatures = set()
    for nonce in (b"1" * 32, b"2" * 32):
        client = Exchange(session=client_session(), terms=HOP.client, nonce=nonce, now=NOW)
        server = server_of(HOP)
        (wanted,) = server.receive(client.data_to_send())
        assert isinstance(wanted, EvidenceWanted)
        server.answer(GOOD.quote, epoch=GOOD.answer(wanted))
        sent = server.data_to_send()
        signatures.add(sent)
        (event,) = client.receive(sent)
        assert isinstance(event, EvidenceReceived)
    assert len(signatures) == 2


# --- what is remembered of an epoch


def test_what_is_remembered_of_epochs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what the bytes say, and never a verdict: forgetting it changes nothing but the time it takes."""
    remembered: dict[bytes, Any] = {}
    monkeypatch.setattr(binding, "_EPOCHS", remembered)
    monkeypatch.setattr(binding, "MAX_REMEMBERED_EPOCHS", 2)
    epochs = [replace(GOOD, quote=bytes([number])) for number in range(4)]
    for epoch in [*epochs, *epochs]:
        assert judge(answer(epoch)).evidence == epoch.quote
        assert len(remembered) <= 2
    large = replace(GOOD, quote=bytes(binding.MAX_REMEMBERED_EPOCH))
    assert judge(answer(large)).evidence == large.quote
    assert large.digest not in remembered


def test_an_epoch_that_is_remembered_is_judged_anew() -> None:
    """Its dates, and whose it is, depend on when and where it is shown."""
    assert judge(answer(GOOD)).evidence == EPOCH_QUOTE
    with pytest.raises(VerificationError) as caught:
        _at(NOW + timedelta(minutes=10)).receive(answer(GOOD))
    assert caught.value.reason is Reason.EPOCH_NOT_CURRENT
    other = client_of(HOP, session=client_session(peer_spki=b"the attacker's key"))
    with pytest.raises(VerificationError) as caught:
        other.receive(answer(GOOD))
    assert caught.value.reason is Reason.CLAIMS_MISMATCH
