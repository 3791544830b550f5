"""The Verifier for callers: collateral is fetched once and kept a while; what failed is not; nothing is unbounded."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from eaa.appraise.appraisal import SessionBinding
from eaa.appraise.policy import Policy, PolicyFile
from eaa.appraise.reference_values import ReferenceValue, ReferenceValues
from eaa.appraise.result import Attests, BindingLevel, Role
from eaa.collateral.bundle import Collateral
from eaa.errors import MalformedInput, Misuse, Reason, Rejection, Unavailable, VerificationError
from eaa.evidence.quote import Quote
from eaa.measure.sgx import measure_sgxs
from eaa.simulator.faults import Fault
from eaa.simulator.platform import Platform
from eaa.verifier import COLLATERAL_LIFETIME, MAX_CACHED_COLLATERAL, Model, TrustAnchors, Verifier, wall_clock
from eaa.verifier.supply import Patience
from eaa.verify import dcap
from support.simulated import NOW, REPORT_DATA, sample_enclave


@pytest.fixture(scope="module")
def platform() -> Platform:
    return Platform.create(now=NOW)


@pytest.fixture(scope="module")
def evidence(platform: Platform) -> bytes:
    return platform.launch(*sample_enclave()).quote(REPORT_DATA)


@dataclass
class Source:
    """A source of collateral that counts how often it is asked."""

    platform: Platform
    asked: list[tuple[int, bytes, str]] = field(default_factory=list)
    faults: frozenset[Fault] = frozenset()
    failure: Exception | None = None

    def fetch(self, *, tee: int, fmspc: bytes, ca: str) -> Collateral:
        self.asked.append((tee, fmspc, ca))
        if self.failure is not None:
            raise self.failure
        return self.platform.collateral(now=NOW, faults=self.faults)


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def source(platform: Platform) -> Source:
    return Source(platform)


def root_of(platform: Platform) -> bytes:
    return hashlib.sha256(platform.root_der).digest()


def value_for(platform: Platform, **changes: Any) -> ReferenceValue:
    value = ReferenceValue(
        name="app",
        role=Role.WORKLOAD,
        attests=Attests.PROCESS,
        trust_anchor=root_of(platform),
        mr_enclave=measure_sgxs(sample_enclave()[0]).mr_enclave,
    )
    return replace(value, **changes)


def verifier_of(source: Source, *values: ReferenceValue, clock: Clock | None = None, **options: Any) -> Verifier:
    return Verifier(
        source,
        trust_anchors=TrustAnchors(frozenset({root_of(source.platform)})),
        reference_values=ReferenceValues(values),
        clock=clock or Clock(),
        **options,
    )


def fresh(evidence: bytes) -> SessionBinding:
    return SessionBinding(evidence=evidence, report_data=REPORT_DATA, level=BindingLevel.FRESH)


# --- judging


def test_evidence_is_fetched_for_verified_and_appraised(source: Source, platform: Platform, evidence: bytes) -> None:
    judgement = verifier_of(source, value_for(platform)).judge(evidence, role=Role.WORKLOAD, session=fresh(evidence))
    assert judgement.accepted
    assert judgement.verified is not None
    assert judgement.verified.simulated
    assert source.asked == [(0, platform.model.fmspc, platform.model.ca)]


@pytest.mark.parametrize(
    ("level", "verified"), [(BindingLevel.CERT, 1), (BindingLevel.SESSION, 1), (BindingLevel.FRESH, 3)]
)
def test_evidence_that_is_shown_in_every_handshake_is_verified_once(
    source: Source, evidence: bytes, level: BindingLevel, verified: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh evidence comes once; to keep it would only fill memory."""
    checked: list[Quote] = []
    verify_quote_signature = dcap.verify_quote_signature

    def noting(quote: Quote, key: Any) -> None:
        checked.append(quote)
        verify_quote_signature(quote, key)

    monkeypatch.setattr(dcap, "verify_quote_signature", noting)
    verifier = verifier_of(source, value_for(source.platform))
    session = SessionBinding(evidence=evidence, report_data=REPORT_DATA, level=level)
    judged = [verifier.judge(evidence, role=Role.WORKLOAD, session=session) for _ in range(3)]
    assert len(checked) == verified
    assert judged[0].result == judged[1].result == judged[2].result


def test_padding_that_an_attester_leaves_is_no_harm(source: Source, platform: Platform, evidence: bytes) -> None:
    padded = evidence + bytes(70)
    judgement = verifier_of(source, value_for(platform)).judge(padded, role=Role.WORKLOAD, session=fresh(padded))
    assert judgement.accepted


def test_no_evidence_is_a_rejection_without_any_fetch(source: Source, platform: Platform) -> None:
    judgement = verifier_of(source, value_for(platform)).judge(None, role=Role.WORKLOAD, session=None)
    assert not judgement.accepted
    assert [check.name for check in judgement.checks if not check.passed] == ["evidence"]
    assert judgement.verified is None
    assert source.asked == []


def test_a_caller_on_an_event_loop_is_answered_from_another_thread(
    platform: Platform, evidence: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    source = Source(platform)
    fetch = source.fetch

    def noting(**model: Any) -> Collateral:
        threads.append(threading.current_thread())
        return fetch(**model)

    monkeypatch.setattr(source, "fetch", noting)
    verifier = verifier_of(source, value_for(platform))
    judgement = asyncio.run(verifier.judge_async(evidence, role=Role.WORKLOAD, session=fresh(evidence)))
    assert judgement.accepted
    assert threads != [threading.current_thread()]


def test_without_any_value_nothing_is_accepted(source: Source, evidence: bytes) -> None:
    judgement = verifier_of(source).judge(evidence, role=Role.WORKLOAD, session=fresh(evidence))
    assert not judgement.accepted
    assert [check.reason for check in judgement.result.checks if not check.passed] == [Reason.NO_REFERENCE_VALUE]


def test_a_role_without_a_value_is_refused_at_the_start(source: Source, platform: Platform) -> None:
    verifier = verifier_of(source, value_for(platform))
    verifier.require_values_for(Role.WORKLOAD)
    with pytest.raises(Misuse) as caught:
        verifier.require_values_for(Role.RELAY)
    assert caught.value.reason is Reason.NO_VALUE_FOR_ROLE
    assert "--role relay" in (caught.value.hint or "")


def test_another_set_of_values_changes_the_answer_and_nothing_else(
    source: Source, platform: Platform, evidence: bytes
) -> None:
    verifier = verifier_of(source, policy=PolicyFile(default=Policy(minimum_binding=BindingLevel.CERT)))
    other = verifier.with_reference_values(ReferenceValues((value_for(platform),)))
    at_cert = SessionBinding(evidence=evidence, report_data=REPORT_DATA, level=BindingLevel.CERT)
    assert not verifier.judge(evidence, role=Role.WORKLOAD, session=at_cert).accepted
    assert other.judge(evidence, role=Role.WORKLOAD, session=at_cert).accepted


def test_another_policy_changes_the_answer_and_shares_what_was_fetched(
    source: Source, platform: Platform, evidence: bytes
) -> None:
    verifier = verifier_of(source, value_for(platform))
    at_cert = SessionBinding(evidence=evidence, report_data=REPORT_DATA, level=BindingLevel.CERT)
    lenient = PolicyFile(default=Policy(minimum_binding=BindingLevel.CERT))
    other = verifier.with_judgement_by(policy=lenient, reference_values=ReferenceValues((value_for(platform),)))
    for _ in range(2):
        # One after the other: what the one has judged is nothing to the other.
        assert not verifier.judge(evidence, role=Role.WORKLOAD, session=at_cert).accepted
        assert other.judge(evidence, role=Role.WORKLOAD, session=at_cert).accepted
    assert len(source.asked) == 1
    assert other.trust_anchors == verifier.trust_anchors


def test_the_vendor_s_root_is_the_only_one_trusted_by_default(source: Source, evidence: bytes) -> None:
    with pytest.raises(VerificationError) as caught:
        Verifier(source, clock=Clock()).judge(evidence, role=Role.WORKLOAD, session=None)
    assert caught.value.reason is Reason.ROOT_UNTRUSTED


@pytest.mark.parametrize("role", [Role.WORKLOAD, Role.RELAY])
def test_the_grace_of_the_role_counts(source: Source, evidence: bytes, role: Role) -> None:
    policy = PolicyFile(by_role={Role.RELAY: Policy(collateral_grace=timedelta(days=2))})
    verifier = verifier_of(source, clock=Clock(NOW + timedelta(days=31)), policy=policy)
    if role is Role.RELAY:
        assert verifier.verify(Quote.parse(evidence), role=role).collateral_expired
    else:
        with pytest.raises(VerificationError) as caught:
            verifier.verify(Quote.parse(evidence), role=role)
        assert caught.value.reason in (Reason.TCB_INFO_EXPIRED, Reason.CRL_EXPIRED, Reason.QE_IDENTITY_EXPIRED)


# --- explaining


def failures(verifier: Verifier, evidence: bytes, **options: Any) -> list[tuple[str, Reason | None]]:
    steps = verifier.explain(evidence, **options)
    assert steps[0].name == "quote"
    return [(step.name, step.reason) for step in steps if step.reason]


def test_an_explanation_ends_where_verification_does(source: Source, evidence: bytes) -> None:
    verifier = verifier_of(source)
    assert failures(verifier, evidence) == []
    changed = bytearray(evidence)
    changed[100] ^= 1
    assert failures(verifier, bytes(changed)) == [("quote_signature", Reason.QUOTE_SIGNATURE)]
    assert failures(verifier, b"junk") == [("quote", Reason.QUOTE_VERSION_UNSUPPORTED)]
    assert failures(Verifier(source, clock=Clock()), evidence) == [("trust_anchor", Reason.ROOT_UNTRUSTED)]
    source.failure = Unavailable(Reason.PCCS_UNREACHABLE, "nobody is there")
    assert failures(verifier_of(source), evidence) == [("collateral", Reason.PCCS_UNREACHABLE)]


def test_an_explanation_has_the_grace_of_its_role(source: Source, evidence: bytes) -> None:
    policy = PolicyFile(by_role={Role.RELAY: Policy(collateral_grace=timedelta(days=2))})
    verifier = verifier_of(source, clock=Clock(NOW + timedelta(days=31)), policy=policy)
    assert failures(verifier, evidence, role=Role.RELAY) == []
    assert len(failures(verifier, evidence, role=Role.WORKLOAD)) == 1


def test_the_wall_clock_is_aware() -> None:
    assert abs(wall_clock() - datetime.now(UTC)) < timedelta(seconds=10)


# --- keeping collateral


def test_collateral_is_kept_for_its_lifetime(source: Source, evidence: bytes) -> None:
    clock = Clock()
    verifier = verifier_of(source, clock=clock)
    quote = Quote.parse(evidence)
    for ago in (timedelta(0), timedelta(minutes=1), COLLATERAL_LIFETIME - timedelta(microseconds=1)):
        clock.now = NOW + ago
        verifier.verify(quote)
    assert len(source.asked) == 1
    clock.now = NOW + COLLATERAL_LIFETIME
    verifier.verify(quote)
    assert len(source.asked) == 2


def test_a_clock_at_the_end_of_time_is_no_fault_of_ours(source: Source, evidence: bytes) -> None:
    verifier = verifier_of(source, clock=Clock(datetime.max.replace(tzinfo=UTC)))
    with pytest.raises(VerificationError):
        verifier.verify(Quote.parse(evidence))


def test_another_platform_model_has_collateral_of_its_own(source: Source, platform: Platform, evidence: bytes) -> None:
    other = Platform.create(now=NOW, pki=platform.pki, fmspc=bytes.fromhex("112233445566"), ca="processor")
    verifier = verifier_of(source)
    verifier.verify(Quote.parse(evidence))
    source.platform = other
    verifier.verify(Quote.parse(other.launch(*sample_enclave()).quote(REPORT_DATA)))
    assert [model[1] for model in source.asked] == [platform.model.fmspc, other.model.fmspc]


def test_collateral_that_did_not_verify_is_asked_for_again(source: Source, evidence: bytes) -> None:
    """What was kept may be at fault, and may have been replaced since."""
    verifier = verifier_of(source)
    source.faults = frozenset({Fault.TCB_INFO_SIGNED_BY_OTHER_KEY})
    quote = Quote.parse(evidence)
    with pytest.raises(VerificationError):
        verifier.verify(quote)
    source.faults = frozenset()
    verifier.verify(quote)
    verifier.verify(quote)
    assert len(source.asked) == 2


def test_a_failed_fetch_is_not_kept(source: Source, evidence: bytes) -> None:
    verifier = verifier_of(source)
    source.failure = Unavailable(Reason.PCCS_UNREACHABLE, "no answer")
    with pytest.raises(Unavailable):
        verifier.verify(Quote.parse(evidence))
    source.failure = None
    verifier.verify(Quote.parse(evidence))
    assert len(source.asked) == 2


def test_many_at_once_fetch_once(source: Source, evidence: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first waits for the source; all others wait for the first."""
    quote = Quote.parse(evidence)
    verifier = verifier_of(source)
    entered, leave = threading.Event(), threading.Event()
    fetch = source.fetch

    def slow(**model: Any) -> Collateral:
        entered.set()
        assert leave.wait(20)
        return fetch(**model)

    monkeypatch.setattr(source, "fetch", slow)
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(verifier.verify(quote))) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert entered.wait(20)
    leave.set()
    for thread in threads:
        thread.join(20)
    assert len(results) == 8
    assert len(source.asked) == 1


def test_models_that_strangers_name_do_not_fill_the_memory(
    source: Source, platform: Platform, evidence: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model stands in the quote and is the peer's word until the quote is verified."""
    verifier = verifier_of(source, clock=(clock := Clock()))
    collateral = platform.collateral(now=NOW)
    monkeypatch.setattr(source, "fetch", lambda **_: collateral)
    names = [Model(0, number.to_bytes(6, "big"), "platform") for number in range(MAX_CACHED_COLLATERAL + 10)]
    supply = verifier._supply
    for seconds, name in enumerate(names):
        clock.now = NOW + timedelta(seconds=seconds)
        supply._missing(name, Quote.parse(evidence), None, Patience.WAIT)
    assert verifier.counters.kept == MAX_CACHED_COLLATERAL
    # The oldest went first.
    assert [name for name in names if supply._models.find(name, clock.now)] == names[10:]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.CERTIFICATION_DATA_PPID, Reason.PCK_CERTIFICATE_MISSING),
        (Fault.CERTIFICATION_DATA_UNKNOWN, Reason.CERTIFICATION_DATA_UNSUPPORTED),
        (Fault.TRAILING_BYTES, Reason.QUOTE_TRAILING_BYTES),
        (Fault.UNKNOWN_VERSION, Reason.QUOTE_VERSION_UNSUPPORTED),
    ],
)
def test_what_names_no_platform_is_not_fetched_for(
    source: Source, platform: Platform, fault: Fault, reason: Reason
) -> None:
    odd = platform.launch(*sample_enclave()).quote(REPORT_DATA, faults=frozenset({fault}))
    with pytest.raises((MalformedInput, VerificationError)) as caught:
        verifier_of(source).judge(odd, role=Role.WORKLOAD, session=None)
    assert caught.value.reason is reason
    assert source.asked == []


@pytest.mark.parametrize("reason", [None, Reason.PCK_CERTIFICATE_MISSING])
def test_a_leaf_alone_names_its_platform_and_the_collateral_has_to_bring_the_chain(
    source: Source, platform: Platform, evidence: bytes, monkeypatch: pytest.MonkeyPatch, reason: Reason | None
) -> None:
    chain = None if reason else Quote.parse(evidence).certification_data
    collateral = replace(platform.collateral(now=NOW), pck_certificate_chain=chain)
    monkeypatch.setattr(source, "fetch", lambda **_: collateral)
    leaf_only = frozenset({Fault.CERTIFICATION_DATA_LEAF_ONLY})
    quote = Quote.parse(platform.launch(*sample_enclave()).quote(REPORT_DATA, faults=leaf_only))
    verifier = verifier_of(source)
    for _ in range(2):
        if reason is None:
            assert verifier.verify(quote).pck_certificate_from == "collateral"
        else:
            with pytest.raises(VerificationError) as caught:
                verifier.verify(quote)
            assert caught.value.reason is reason


@pytest.mark.parametrize("junk", [b"", b"junk", bytes(5000), b"\x03\x00\x02\x00" + bytes(5000)])
def test_junk_is_malformed_and_costs_no_fetch(source: Source, junk: bytes) -> None:
    with pytest.raises(MalformedInput):
        verifier_of(source).judge(junk, role=Role.WORKLOAD, session=None)
    assert source.asked == []


def test_a_chain_of_junk_costs_no_fetch(source: Source, evidence: bytes) -> None:
    quote = replace(Quote.parse(evidence), certification_data=b"-----BEGIN CERTIFICATE-----\n")
    with pytest.raises(MalformedInput):
        verifier_of(source).verify(quote)
    assert source.asked == []


def test_a_result_for_other_evidence_is_never_made(source: Source, platform: Platform, evidence: bytes) -> None:
    other = platform.launch(*sample_enclave()).quote(bytes(64))
    verifier = verifier_of(source, value_for(platform))
    with pytest.raises(Misuse) as caught:
        verifier.judge(other, role=Role.WORKLOAD, session=fresh(evidence))
    assert caught.value.reason is Reason.RESULT_FOR_OTHER_EVIDENCE
    assert not isinstance(caught.value, Rejection)
