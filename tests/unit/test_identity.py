"""Who a program is: a key made here, evidence for it, and a certificate that is renewed in time."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from eaa.attesters.simulated import SimulatedAttester
from eaa.errors import Reason, Unavailable
from eaa.evidence.epoch import EPOCH_LABEL, EpochClaims, is_signed_by
from eaa.evidence.quote import Quote
from eaa.evidence.tagged import PUBKEY_HASH, claims_report_data, parse_claims, pubkey_hash_claim, pubkey_hash_matches
from eaa.identity import (
    CERTIFICATE_LIFETIME,
    CLOCK_TOLERANCE,
    EPOCH_LIFETIME,
    EPOCH_TOLERANCE,
    MAX_EPOCHS,
    RETRY_FIRST,
    RETRY_MOST,
    Credentials,
    Identity,
)
from eaa.simulator.platform import Enclave, Platform
from eaa.tls.certificate import Format, RATLSCertificate
from support.simulated import NOW, REPORT_DATA, sample_enclave

RENEW_AFTER = CERTIFICATE_LIFETIME / 2
RENEW_EPOCH_AFTER = EPOCH_LIFETIME * 0.8
SECOND = timedelta(seconds=1)
BUSY = Unavailable(Reason.QUOTE_UNAVAILABLE, "busy")


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
        self.is_immediate = False
        self.may_quote = threading.Event()
        self.may_quote.set()

    def quote(self, report_data: bytes) -> bytes:
        self.asked.append(report_data)
        assert self.may_quote.wait(30)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer if self.answer is not None else self.enclave.quote(report_data)


class Clock:
    def __init__(self) -> None:
        self.now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def attester(enclave: Enclave) -> Attester:
    return Attester(enclave)


@pytest.fixture
def clock() -> Clock:
    return Clock()


Renewals = Callable[[], list[threading.Thread]]


@pytest.fixture
def renewals() -> Renewals:
    """The threads of this test that renew. What other tests keep for their module may have one as well."""
    before = set(threading.enumerate())
    return lambda: [thread for thread in set(threading.enumerate()) - before if thread.name == "renewal"]


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
    clock.now += RETRY_FIRST
    assert identity.credentials() is not first


@pytest.mark.parametrize("ahead", [True, False], ids=["renewed by a thread", "renewed when asked"])
def test_whatever_an_attester_raises_is_a_failed_renewal(
    attester: Attester, clock: Clock, renewals: Renewals, *, ahead: bool
) -> None:
    """It may be anybody's. What is still valid serves on."""
    identity = Identity(attester, clock=clock)
    first = identity.credentials()
    attester.answer = OSError("no device")
    clock.now = NOW + RENEW_AFTER
    if ahead:
        identity.keep_renewed()
        eventually(lambda: identity.renewal_failures == 1)
        identity.close()
        eventually(lambda: not renewals())
    assert identity.credentials() is first
    assert identity.renewal_failures == 1
    assert identity.next_renewal == clock.now + RETRY_FIRST
    with pytest.raises(Unavailable, match="OSError: no device") as caught:
        identity.quote(bytes(64))
    assert caught.value.reason is Reason.QUOTE_UNAVAILABLE


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


def test_failed_renewals_are_counted_logged_and_tried_again_after_longer_and_longer(
    attester: Attester, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    identity = Identity(attester, clock=clock)
    assert (identity.renewals, identity.made) == (0, NOW)
    attester.answer = BUSY
    clock.now = NOW + RENEW_AFTER
    pauses = []
    for count in range(1, 10):
        identity.renew_due()
        assert identity.renewal_failures == count
        pauses.append(identity.next_renewal - clock.now)
        clock.now = identity.next_renewal - timedelta(microseconds=1)
        identity.renew_due()
        assert identity.renewal_failures == count
        clock.now = identity.next_renewal
    assert pauses == [min(RETRY_FIRST * 2**doubled, RETRY_MOST) for doubled in range(9)]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 9
    assert all("busy" in line and Reason.QUOTE_UNAVAILABLE in line for line in caplog.messages)
    attester.answer = None
    identity.renew_due()
    assert identity.next_renewal == clock.now + RENEW_AFTER
    assert identity.renewal_failures == 9
    assert (identity.renewals, identity.made) == (1, clock.now)


def test_nobody_waits_for_a_platform_that_has_just_failed_even_if_nothing_is_left(
    attester: Attester, clock: Clock
) -> None:
    identity = Identity(attester, clock=clock)
    attester.answer = BUSY
    clock.now = NOW + CERTIFICATE_LIFETIME
    with pytest.raises(Unavailable):
        identity.credentials()
    asked = len(attester.asked)
    with pytest.raises(Unavailable) as caught:
        identity.credentials()
    assert caught.value.reason is Reason.QUOTE_UNAVAILABLE
    assert "busy" in caught.value.message
    assert len(attester.asked) == asked
    attester.answer = None
    clock.now += RETRY_FIRST
    assert identity.credentials().made == clock.now


def test_credentials_are_at_hand_unless_they_have_to_be_made(attester: Attester, clock: Clock) -> None:
    identity = Identity(attester, clock=clock)
    first = identity.credentials()
    assert identity.credentials_at_hand() is first
    clock.now = NOW + RENEW_AFTER
    assert identity.credentials_at_hand() is None
    second = identity.credentials()
    assert identity.credentials_at_hand() is second is not first


def test_a_thread_renews_what_is_due_and_connections_go_on_with_what_there_is(
    attester: Attester, clock: Clock, renewals: Renewals
) -> None:
    identity = Identity(attester, clock=clock)
    first = identity.credentials()
    identity.keep_renewed()
    try:
        attester.may_quote.clear()
        clock.now = NOW + RENEW_AFTER
        identity._renewer.wake()  # type: ignore[union-attr]
        eventually(lambda: len(attester.asked) == 2)
        # The thread is waiting for its quote; nobody else is.
        assert identity.credentials_at_hand() is first
        assert identity.credentials() is first
        attester.may_quote.set()
        eventually(lambda: identity.credentials_at_hand() is not first)
        assert identity.next_renewal == clock.now + RENEW_AFTER
    finally:
        attester.may_quote.set()
        identity.close()
    eventually(lambda: not renewals())


def test_a_bug_does_not_end_the_renewing(
    attester: Attester,
    clock: Clock,
    renewals: Renewals,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    identity = Identity(attester, clock=clock)
    monkeypatch.setattr("eaa.identity.create_certificate", lambda *_, **__: 1 // 0)
    clock.now = NOW + RENEW_AFTER
    identity.keep_renewed()
    try:
        eventually(lambda: any(Reason.INTERNAL in line for line in caplog.messages))
        monkeypatch.undo()
        identity._renewer.wake()  # type: ignore[union-attr]
        eventually(lambda: identity.next_renewal == clock.now + RENEW_AFTER)
    finally:
        identity.close()
    eventually(lambda: not renewals())


def test_without_an_attester_there_is_no_thread(clock: Clock, renewals: Renewals) -> None:
    identity = Identity(None, clock=clock)
    identity.keep_renewed()
    assert not renewals()
    identity.close()


# --- epochs


def epoch_of(identity: Identity, role: str = "workload", credentials: Credentials | None = None) -> Any:
    epoch = identity.epoch(role, credentials)
    assert epoch is not None
    return epoch


def test_the_quote_of_an_epoch_covers_its_key_its_role_its_dates_and_the_tls_key(
    attester: Attester, clock: Clock
) -> None:
    identity = Identity(attester, clock=clock)
    epoch, credentials = epoch_of(identity), identity.credentials()
    said = EpochClaims.from_claims(parse_claims(epoch.claims, tolerant=False))
    assert Quote.parse(epoch.quote).body.report_data == epoch.evidence.report_data == claims_report_data(epoch.claims)
    assert said.label == EPOCH_LABEL
    assert said.pubkey_hash == pubkey_hash_claim(credentials.spki_der)
    assert said.role == b"workload"
    assert (said.not_before, said.not_after) == (
        int((NOW - EPOCH_TOLERANCE).timestamp()),
        int((NOW + EPOCH_LIFETIME).timestamp()),
    )
    assert is_signed_by(said.session_key, epoch.sign(b"statement"), b"statement")
    assert epoch.digest == hashlib.sha256(epoch.evidence.encode()).digest()


@pytest.mark.parametrize("seconds", [10, 60, 300, 3600])
def test_a_verifier_that_lets_epochs_last_as_long_takes_them(attester: Attester, clock: Clock, seconds: int) -> None:
    lifetime = timedelta(seconds=seconds)
    epoch = epoch_of(Identity(attester, clock=clock, epoch_lifetime=lifetime))
    said = EpochClaims.from_claims(parse_claims(epoch.claims, tolerant=False))
    assert said.not_before < int(NOW.timestamp()) < said.not_after
    assert seconds < said.not_after - said.not_before <= 2 * seconds


def test_the_key_of_an_epoch_is_no_tls_key_and_shown_nowhere(attester: Attester, clock: Clock) -> None:
    identity = Identity(attester, clock=clock)
    epoch, credentials = epoch_of(identity), identity.credentials()
    said = EpochClaims.from_claims(parse_claims(epoch.claims, tolerant=False))
    assert said.session_key != credentials.spki_der
    assert "private" not in repr(epoch)


# --- quotes at hand


def test_a_platform_that_has_to_be_waited_for_has_no_quote_at_hand(attester: Attester, clock: Clock) -> None:
    identity = Identity(attester, clock=clock)
    asked = len(attester.asked)
    assert identity.quote_at_hand(bytes(64)) is None
    assert len(attester.asked) == asked


def test_who_has_no_attester_has_no_quote_at_hand(clock: Clock) -> None:
    assert Identity(None, clock=clock).quote_at_hand(bytes(64)) is None


def test_one_that_only_computes_is_asked_at_once_and_checked_like_any_other(attester: Attester, clock: Clock) -> None:
    attester.is_immediate = True
    identity = Identity(attester, clock=clock)
    wanted = bytes(range(64))
    quote = identity.quote_at_hand(wanted)
    assert quote is not None
    assert Quote.parse(quote).body.report_data == wanted
    attester.answer = quote
    with pytest.raises(Unavailable) as caught:
        identity.quote_at_hand(bytes(64))
    assert caught.value.reason is Reason.QUOTE_UNAVAILABLE
    attester.answer = RuntimeError("broken")
    with pytest.raises(Unavailable) as caught:
        identity.quote_at_hand(bytes(64))
    assert caught.value.reason is Reason.QUOTE_UNAVAILABLE
    attester.answer = None
    assert identity.quote_at_hand(wanted) is not None


def test_nobody_waits_for_a_quote_at_hand_while_another_one_is_made(attester: Attester, clock: Clock) -> None:
    attester.is_immediate = True
    identity = Identity(attester, clock=clock)
    attester.may_quote.clear()
    asked = len(attester.asked)
    other = threading.Thread(target=identity.quote, args=(bytes(64),))
    other.start()
    eventually(lambda: len(attester.asked) > asked)
    assert identity.quote_at_hand(bytes(64)) is None
    attester.may_quote.set()
    other.join()
    assert identity.quote_at_hand(bytes(64)) is not None


def test_the_software_tee_only_computes(enclave: Enclave) -> None:
    assert SimulatedAttester(enclave).is_immediate


def test_one_quote_serves_an_epoch(attester: Attester, clock: Clock) -> None:
    identity = Identity(attester, clock=clock)
    credentials = identity.credentials()
    assert identity.epoch_at_hand("workload", credentials) is None
    first: Any = epoch_of(identity)
    clock.now = NOW + RENEW_EPOCH_AFTER - timedelta(microseconds=1)
    assert epoch_of(identity) is first
    assert identity.epoch_at_hand("workload", credentials) == first
    assert len(attester.asked) == 2
    clock.now = NOW + RENEW_EPOCH_AFTER
    assert identity.epoch_at_hand("workload", credentials) is None
    second: Any = epoch_of(identity)
    assert second is not first
    assert second.claims != first.claims
    assert len(attester.asked) == 3


def test_roles_and_tls_keys_have_epochs_of_their_own(attester: Attester, clock: Clock) -> None:
    identity = Identity(attester, clock=clock)
    old = identity.credentials()
    epochs: list[Any] = [epoch_of(identity, "relay"), epoch_of(identity, "client")]
    clock.now = NOW + RENEW_AFTER
    new = identity.credentials()
    epochs += [epoch_of(identity, "relay"), epoch_of(identity, "relay", old)]
    said = [EpochClaims.from_claims(parse_claims(epoch.claims, tolerant=False)) for epoch in epochs]
    assert [claims.role for claims in said] == [b"relay", b"client", b"relay", b"relay"]
    hashes = [pubkey_hash_claim(credentials.spki_der) for credentials in (old, old, new, old)]
    assert [claims.pubkey_hash for claims in said] == hashes
    assert len({claims.session_key for claims in said}) == 4


def test_an_epoch_serves_on_while_the_platform_does_not_quote_and_not_after_its_end(
    attester: Attester, clock: Clock
) -> None:
    identity = Identity(attester, clock=clock)
    first = epoch_of(identity)
    attester.answer = BUSY
    clock.now = NOW + RENEW_EPOCH_AFTER
    assert epoch_of(identity) is first
    assert identity.renewal_failures == 1
    clock.now = NOW + EPOCH_LIFETIME
    with pytest.raises(Unavailable) as caught:
        identity.epoch("workload")
    assert caught.value.reason is Reason.QUOTE_UNAVAILABLE


def test_an_epoch_that_is_used_is_renewed_ahead_and_another_is_let_go(attester: Attester, clock: Clock) -> None:
    """No quote is made for who does not ask at level session any more; failures stay counted."""
    identity = Identity(attester, clock=clock)
    first = epoch_of(identity)
    clock.now = NOW + RENEW_EPOCH_AFTER
    identity.renew_due()
    second: Any = identity.epoch_at_hand("workload", identity.credentials())
    assert second is not None
    assert second is not first
    attester.answer = BUSY
    clock.now += RENEW_EPOCH_AFTER
    identity.renew_due()
    assert identity.renewal_failures == 1
    attester.answer = None
    clock.now = identity.next_renewal
    identity.renew_due()
    clock.now += RENEW_EPOCH_AFTER
    asked = len(attester.asked)
    identity.renew_due()
    assert len(attester.asked) == asked
    assert identity.next_renewal == NOW + RENEW_AFTER
    assert identity.renewal_failures == 1


def test_an_epoch_that_somebody_waits_for_is_not_let_go(attester: Attester, clock: Clock) -> None:
    """The thread that renews may look while the first quote is being made: nobody could have used it yet."""
    identity = Identity(attester, clock=clock)
    attester.may_quote.clear()
    made: list[Any] = []
    asking = threading.Thread(target=lambda: made.append(identity.epoch("workload")))
    asking.start()
    eventually(lambda: len(attester.asked) == 2)
    renewing = threading.Thread(target=identity.renew_due)
    renewing.start()
    # It waits for the quote, or has wrongly finished: then the epoch that is made next is another one.
    renewing.join(0.2)
    attester.may_quote.set()
    asking.join(30)
    renewing.join(30)
    assert [epoch_of(identity)] == made
    assert len(attester.asked) == 2


def test_epochs_are_bounded(attester: Attester, clock: Clock) -> None:
    identity = Identity(attester, clock=clock)
    first = epoch_of(identity, "role 0")
    for number in range(1, MAX_EPOCHS):
        epoch_of(identity, f"role {number}")
    assert epoch_of(identity, "role 0") is first
    epoch_of(identity, "one more")
    assert epoch_of(identity, "role 0") is not first


def test_without_an_attester_there_is_no_epoch(clock: Clock) -> None:
    identity = Identity(None, clock=clock)
    assert identity.epoch("workload") is None
    assert identity.epoch_at_hand("workload", identity.credentials()) is None


def test_lifetimes_are_what_they_are_said_to_be(attester: Attester, clock: Clock) -> None:
    identity = Identity(attester, clock=clock, lifetime=10 * SECOND, epoch_lifetime=5 * SECOND)
    assert RATLSCertificate.parse(identity.credentials().certificate).not_after == NOW + 10 * SECOND
    epoch_of(identity)
    assert identity.next_renewal == NOW + 4 * SECOND


def test_what_is_stapled_is_what_is_there(attester: Attester, clock: Clock) -> None:
    assert Identity(attester, clock=clock).collateral() is None
    assert Identity(attester, clock=clock, collateral=lambda: b"{}").collateral() == b"{}"


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
