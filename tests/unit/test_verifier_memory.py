"""What a Verifier has said of evidence that comes again: recalled while all that it rests on is the same, no longer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest

from eaa import verifier as verifier_module
from eaa.appraise.appraisal import SessionBinding
from eaa.appraise.floor import EvaluationFloor
from eaa.appraise.platforms import PlatformPins
from eaa.appraise.policy import Policy, PolicyFile
from eaa.appraise.reference_values import ReferenceValue, ReferenceValues
from eaa.appraise.result import Attests, BindingLevel, Role
from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import TCBStatus
from eaa.errors import EAAError, Reason
from eaa.measure.sgx import measure_sgxs
from eaa.simulator.faults import Fault
from eaa.simulator.platform import Platform
from eaa.verifier import COLLATERAL_LIFETIME, TrustAnchors, Verifier
from support.simulated import NOW, REPORT_DATA, sample_enclave

CERT, SESSION, FRESH = BindingLevel.CERT, BindingLevel.SESSION, BindingLevel.FRESH
PLATFORM = Platform.create(now=NOW)
ENCLAVE = PLATFORM.launch(*sample_enclave())
EVIDENCE = ENCLAVE.quote(REPORT_DATA)


@dataclass
class World:
    """A verifier, and all that its judgements depend on, to be changed."""

    is_local = True
    now: datetime = NOW
    faults: frozenset[Fault] = frozenset()
    appraised: list[object] = field(default_factory=list)

    def fetch(self, **_: Any) -> Collateral:
        return PLATFORM.collateral(now=NOW, faults=self.faults)

    def clock(self) -> datetime:
        return self.now

    def verifier(self, **options: Any) -> Verifier:
        root = hashlib.sha256(PLATFORM.root_der).digest()
        values = [
            ReferenceValue(
                name=role.value,
                role=role,
                attests=Attests.PROCESS,
                trust_anchor=root,
                mr_enclave=measure_sgxs(sample_enclave()[0]).mr_enclave,
            )
            for role in (Role.WORKLOAD, Role.CLIENT)
        ]
        options = {"policy": PolicyFile(default=Policy(minimum_binding=CERT))} | options
        return Verifier(
            self,
            trust_anchors=TrustAnchors(frozenset({root})),
            reference_values=ReferenceValues(tuple(values)),
            clock=self.clock,
            **options,
        )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    appraise = Verifier.appraise

    def noting(self: Verifier, verified: Any, **options: Any) -> Any:
        world.appraised.append(verified)
        return appraise(self, verified, **options)

    monkeypatch.setattr(Verifier, "appraise", noting)
    return world


class Keeper:
    """A floor, and pins, that are kept nowhere."""

    def raise_to(self, _numbers: object) -> EvaluationFloor:
        return EvaluationFloor()

    def read(self) -> PlatformPins:
        return PlatformPins()

    def pin(self, *_: object) -> PlatformPins:
        return PlatformPins()


def judge(verifier: Verifier, evidence: bytes = EVIDENCE, *, level: BindingLevel = CERT, **options: Any) -> Any:
    options = {"role": Role.WORKLOAD, "report_data": REPORT_DATA} | options
    session = SessionBinding(evidence=evidence, report_data=options.pop("report_data"), level=level)
    return verifier.judge_now(evidence, session=session, **options)


def judgements(world: World) -> int:
    return len(world.appraised)


@pytest.mark.parametrize(("level", "times"), [(CERT, 1), (SESSION, 1), (FRESH, 3)])
def test_evidence_that_comes_again_is_judged_once(world: World, level: BindingLevel, times: int) -> None:
    verifier = world.verifier()
    answers = [judge(verifier, level=level) for _ in range(3)]
    assert judgements(world) == times
    assert answers[0] == answers[1] == answers[2]
    assert answers[0].accepted


def test_a_refusal_is_recalled_as_well(world: World) -> None:
    verifier = world.verifier()
    answers = [judge(verifier, report_data=bytes(64)) for _ in range(2)]
    assert judgements(world) == 1
    assert not answers[0].accepted
    assert answers[0] == answers[1]


def test_facts_are_of_the_time_for_which_they_hold(world: World) -> None:
    verifier = world.verifier()
    first = judge(verifier)
    world.now += timedelta(minutes=7)
    again = judge(verifier)
    assert (first.verified.verified_at, again.verified.verified_at) == (NOW, world.now)
    assert judgements(world) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"evidence": ENCLAVE.quote(bytes(64))},
        {"role": Role.CLIENT},
        {"level": SESSION},
        {"report_data": bytes(64)},
        {"stapled": b"{}"},
    ],
    ids=["evidence", "role", "level", "report data", "what is stapled"],
)
def test_whatever_is_asked_otherwise_is_judged_anew(world: World, change: dict[str, Any]) -> None:
    verifier = world.verifier()
    judge(verifier)
    judge(verifier, **change)
    assert judgements(world) == 2


def test_the_same_staple_is_looked_at_once(world: World) -> None:
    verifier = world.verifier()
    staple = PLATFORM.collateral(now=NOW).to_json()
    for _ in range(3):
        judge(verifier, stapled=staple)
    assert judgements(world) == 1


def test_other_collateral_has_everything_judged_anew(world: World) -> None:
    """A CRL that revokes the platform counts as soon as it is here."""
    verifier = world.verifier()
    assert judge(verifier).accepted
    world.faults = frozenset({Fault.LEAF_REVOKED})
    world.now += COLLATERAL_LIFETIME
    with pytest.raises(EAAError) as caught:
        judge(verifier)
    assert caught.value.reason is Reason.CERTIFICATE_REVOKED


def test_past_the_first_date_nothing_is_recalled(world: World) -> None:
    verifier = world.verifier()
    end = judge(verifier).verified.earliest_expiration
    world.now = end + timedelta(seconds=1)
    with pytest.raises(EAAError):
        judge(verifier)


@pytest.mark.parametrize("keeper", ["floor", "pins"])
def test_what_others_change_meanwhile_is_asked_each_time(world: World, keeper: str) -> None:
    verifier = world.verifier(**{keeper: Keeper()})
    for _ in range(2):
        assert judge(verifier).accepted
    assert judgements(world) == 2


def test_a_platform_that_is_behind_is_judged_by_the_time(world: World) -> None:
    others = (TCBStatus.SW_HARDENING_NEEDED,)
    verifier = world.verifier(policy=PolicyFile(default=Policy(minimum_binding=CERT, allowed_tcb_statuses=others)))
    for _ in range(2):
        assert not judge(verifier).accepted
    assert judgements(world) == 2


def test_no_judgement_is_recalled_by_another_verifier(world: World) -> None:
    verifier = world.verifier()
    assert judge(verifier).accepted
    strict = PolicyFile(default=Policy(minimum_binding=FRESH))
    others = [
        verifier.with_reference_values(ReferenceValues()),
        verifier.with_judgement_by(policy=strict, reference_values=ReferenceValues()),
    ]
    assert not any(judge(other).accepted for other in others)


def test_what_is_remembered_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier_module, "MAX_JUDGED", 3)
    verifier = world.verifier()
    for number in range(8):
        report_data = bytes([number]) * 64
        judge(verifier, ENCLAVE.quote(report_data), report_data=report_data)
        assert len(verifier._judged) <= 3
