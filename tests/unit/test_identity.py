"""Who a program is: a key made here, evidence for it, and a certificate that is renewed in time."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from eaa.errors import Reason, Unavailable
from eaa.evidence.quote import Quote
from eaa.evidence.tagged import PUBKEY_HASH, parse_claims, pubkey_hash_matches
from eaa.identity import CERTIFICATE_LIFETIME, CLOCK_TOLERANCE, RENEW_AFTER, RETRY_RENEWAL, Identity
from eaa.simulator.platform import Enclave, Platform
from eaa.tls.certificate import Format, RATLSCertificate
from support.simulated import NOW, REPORT_DATA, sample_enclave


@pytest.fixture(scope="module")
def enclave() -> Enclave:
    return Platform.create(now=NOW).launch(*sample_enclave())


class Attester:
    """A software TEE that a test can break."""

    name = "sgx_sim"
    tee = "sgx"

    def __init__(self, enclave: Enclave) -> None:
        self.enclave = enclave
        self.asked: list[bytes] = []
        self.answer: bytes | Exception | None = None

    def quote(self, report_data: bytes) -> bytes:
        self.asked.append(report_data)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer if self.answer is not None else self.enclave.quote(report_data)


class Clock:
    def __init__(self) -> None:
        self.now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def attester(enclave: Enclave) -> Attester:
    return Attester(enclave)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_certificate_carries_evidence_for_its_own_key(attester: Attester, clock: Clock) -> None:
    credentials = Identity(attester, clock=clock).credentials()
    certificate = RATLSCertificate.parse(credentials.certificate)
    assert certificate.format is Format.INTEROPERABLE
    assert certificate.spki_der == credentials.spki_der
    public_key = credentials.private_key.public_key()
    assert public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == credentials.spki_der
    assert credentials.quote is not None
    assert Quote.parse(credentials.quote).body.report_data == certificate.expected_report_data
    assert certificate.evidence == credentials.quote
    certificate.verify_binding()
    assert certificate.claims is not None
    claims = parse_claims(certificate.claims, tolerant=False)
    assert list(claims) == [PUBKEY_HASH]
    assert pubkey_hash_matches(claims[PUBKEY_HASH], credentials.spki_der)


def test_the_certificate_allows_for_clocks_that_disagree(attester: Attester, clock: Clock) -> None:
    certificate = RATLSCertificate.parse(Identity(attester, clock=clock).credentials().certificate)
    assert certificate.not_before == NOW - CLOCK_TOLERANCE
    assert certificate.not_after == NOW + CERTIFICATE_LIFETIME


def test_without_an_attester_there_is_a_key_and_no_evidence(clock: Clock) -> None:
    identity = Identity(None, clock=clock)
    credentials = identity.credentials()
    assert not identity.has_evidence
    assert (credentials.evidence, credentials.quote, identity.quote(REPORT_DATA)) == (None, None, None)
    assert RATLSCertificate.parse(credentials.certificate).format is Format.NONE


def test_two_identities_share_nothing(attester: Attester, clock: Clock) -> None:
    first, second = (Identity(attester, clock=clock).credentials() for _ in range(2))
    assert first.spki_der != second.spki_der
    assert first.quote != second.quote


def test_fresh_evidence_is_for_what_was_asked(attester: Attester, clock: Clock) -> None:
    identity = Identity(attester, clock=clock)
    quote = identity.quote(REPORT_DATA)
    assert identity.has_evidence
    assert quote is not None
    assert Quote.parse(quote).body.report_data == REPORT_DATA


# --- renewing


def test_credentials_serve_for_half_of_their_life(attester: Attester, clock: Clock) -> None:
    identity = Identity(attester, clock=clock)
    first = identity.credentials()
    clock.now = NOW + RENEW_AFTER - timedelta(microseconds=1)
    assert identity.credentials() is first
    clock.now = NOW + RENEW_AFTER
    second = identity.credentials()
    assert second.spki_der != first.spki_der
    assert second.made == clock.now
    clock.now += RENEW_AFTER - timedelta(microseconds=1)
    assert identity.credentials() is second
    assert len(attester.asked) == 2


def test_a_platform_that_does_not_quote_for_a_while_costs_nothing(attester: Attester, clock: Clock) -> None:
    identity = Identity(attester, clock=clock)
    first = identity.credentials()
    attester.answer = Unavailable(Reason.QUOTE_UNAVAILABLE, "busy")
    clock.now = NOW + RENEW_AFTER
    assert identity.credentials() is first
    # Nobody waits for the platform again right away.
    assert identity.credentials() is first
    assert len(attester.asked) == 2
    attester.answer = None
    clock.now += RETRY_RENEWAL
    assert identity.credentials() is not first


def test_expired_credentials_are_never_shown(attester: Attester, clock: Clock) -> None:
    identity = Identity(attester, clock=clock)
    attester.answer = Unavailable(Reason.QUOTE_UNAVAILABLE, "busy")
    clock.now = NOW + CERTIFICATE_LIFETIME
    with pytest.raises(Unavailable) as caught:
        identity.credentials()
    assert caught.value.reason is Reason.QUOTE_UNAVAILABLE


def test_a_failed_renewal_does_not_outlive_the_certificate(attester: Attester, clock: Clock) -> None:
    """A retry that would come after the end comes at the end."""
    identity = Identity(attester, clock=clock)
    attester.answer = Unavailable(Reason.QUOTE_UNAVAILABLE, "busy")
    clock.now = NOW + CERTIFICATE_LIFETIME - timedelta(seconds=1)
    identity.credentials()
    clock.now = NOW + CERTIFICATE_LIFETIME
    with pytest.raises(Unavailable):
        identity.credentials()


def test_a_program_whose_platform_does_not_quote_does_not_start(attester: Attester, clock: Clock) -> None:
    attester.answer = Unavailable(Reason.QUOTE_UNAVAILABLE, "busy")
    with pytest.raises(Unavailable):
        Identity(attester, clock=clock)


# --- odd platforms


@pytest.mark.parametrize("answer", [b"", b"junk", bytes(4096)])
def test_what_is_no_quote_is_not_passed_on(attester: Attester, clock: Clock, answer: bytes) -> None:
    identity = Identity(attester, clock=clock)
    attester.answer = answer
    with pytest.raises(Unavailable) as caught:
        identity.quote(REPORT_DATA)
    assert caught.value.reason is Reason.QUOTE_UNAVAILABLE


def test_a_stale_quote_is_not_passed_on(attester: Attester, clock: Clock, enclave: Enclave) -> None:
    """Some drivers drop a request silently and serve the quote before."""
    identity = Identity(attester, clock=clock)
    attester.answer = enclave.quote(bytes(64))
    with pytest.raises(Unavailable) as caught:
        identity.quote(REPORT_DATA)
    assert caught.value.reason is Reason.QUOTE_UNAVAILABLE


def test_one_quote_is_made_at_a_time(attester: Attester, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = Identity(attester, clock=clock)
    make, busy, most = attester.quote, threading.Semaphore(1), threading.Event()

    def watched(report_data: bytes) -> bytes:
        if not busy.acquire(blocking=False):
            most.set()
        try:
            return make(report_data)
        finally:
            busy.release()

    monkeypatch.setattr(attester, "quote", watched)
    quotes: list[Any] = []
    threads = [
        threading.Thread(target=lambda number=number: quotes.append(identity.quote(bytes([number]) * 64)))
        for number in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(set(quotes)) == 6
    assert not most.is_set()
