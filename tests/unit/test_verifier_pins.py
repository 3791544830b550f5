"""A Verifier that pins machines: only what it accepts is pinned, and of two at once the first holds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eaa.appraise.platforms import Pin, PinKey, PlatformPins, pin_of
from eaa.appraise.policy import Policy, PolicyFile
from eaa.appraise.reference_values import ReferenceValue, ReferenceValues
from eaa.appraise.result import Attests, Role
from eaa.collateral.bundle import Collateral
from eaa.errors import Reason, Unavailable
from eaa.evidence.quote import Quote
from eaa.measure.sgx import measure_sgxs
from eaa.program.pins import PinFile
from eaa.simulator.platform import Platform
from eaa.verifier import Judgement, TrustAnchors, Verifier
from support.simulated import NOW, REPORT_DATA, sample_enclave


@pytest.fixture(scope="module")
def machines() -> tuple[Platform, Platform]:
    """Two of one vendor and model."""
    first = Platform.create(now=NOW)
    return first, Platform.create(now=NOW, pki=first.pki)


class Source:
    """Collateral of a vendor."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def fetch(self, **_: Any) -> Collateral:
        return self._platform.collateral(now=NOW)


def quote_on(machine: Platform) -> bytes:
    return machine.launch(*sample_enclave()).quote(REPORT_DATA)


def values_for(machine: Platform, name: str = "app") -> ReferenceValues:
    value = ReferenceValue(
        name=name,
        role=Role.WORKLOAD,
        attests=Attests.PROCESS,
        trust_anchor=hashlib.sha256(machine.root_der).digest(),
        mr_enclave=measure_sgxs(sample_enclave()[0]).mr_enclave,
    )
    return ReferenceValues((value,))


def verifier_of(machine: Platform, pins: Any, **options: Any) -> Verifier:
    anchors = TrustAnchors(frozenset({hashlib.sha256(machine.root_der).digest()}))
    given: dict[str, Any] = {"reference_values": values_for(machine), **options}
    return Verifier(Source(machine), trust_anchors=anchors, clock=lambda: NOW, pins=pins, **given)


def judged(verifier: Verifier, machine: Platform) -> Judgement:
    return verifier.judge(quote_on(machine), role=Role.WORKLOAD, session=None)


def refusals(judgement: Judgement) -> list[Reason]:
    return [check.reason for check in judgement.result.checks if not check.passed]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pins.json"


@pytest.fixture
def kept(path: Path) -> Callable[[], PinFile]:
    return lambda: PinFile(path, warn=lambda _: None)


def test_the_first_machine_holds_and_another_is_refused(
    machines: tuple[Platform, Platform], kept: Callable[[], PinFile]
) -> None:
    first, second = machines
    verifier = verifier_of(first, kept())
    assert judged(verifier, first).accepted
    assert refusals(judged(verifier, second)) == [Reason.PLATFORM_NOT_PINNED]
    assert judged(verifier, first).accepted
    assert refusals(judged(verifier_of(first, kept()), second)) == [Reason.PLATFORM_NOT_PINNED]


def test_without_pins_any_machine_is_as_good(machines: tuple[Platform, Platform]) -> None:
    verifier = verifier_of(machines[0], None)
    assert [judged(verifier, machine).accepted for machine in machines] == [True, True]


def test_what_is_refused_pins_nothing(
    machines: tuple[Platform, Platform], kept: Callable[[], PinFile], path: Path
) -> None:
    """Else whoever comes first with evidence that nobody accepts would lock the owner's machine out."""
    first, second = machines
    strict = verifier_of(first, kept(), policy=PolicyFile(default=Policy(minimum_evaluation_number=10_000)))
    assert refusals(judged(strict, second)) == [Reason.EVALUATION_NUMBER_TOO_LOW]
    assert not path.exists()
    assert judged(verifier_of(first, kept()), first).accepted


def test_of_two_at_once_the_first_holds(machines: tuple[Platform, Platform]) -> None:
    """The other was read as the first, and is judged again when its pin comes too late."""
    first, second = machines

    class Late:
        """A file in which another program pins the first machine between our reading and our writing."""

        def read(self) -> PlatformPins:
            return PlatformPins()

        def pin(self, key: PinKey, pin: Pin) -> PlatformPins:
            theirs = pin_of(verifier_of(first, None).verify(Quote.parse(quote_on(first))))
            return PlatformPins().with_first(key, theirs).with_first(key, pin)

    assert refusals(judged(verifier_of(first, Late()), second)) == [Reason.PLATFORM_NOT_PINNED]
    assert judged(verifier_of(first, Late()), first).accepted


def test_a_file_that_fails_is_no_acceptance(machines: tuple[Platform, Platform]) -> None:
    class Broken:
        def read(self) -> PlatformPins:
            return PlatformPins()

        def pin(self, _key: PinKey, _pin: Pin) -> PlatformPins:
            raise Unavailable(Reason.PERMISSION_DENIED, "cannot be kept")

    with pytest.raises(Unavailable):
        judged(verifier_of(machines[0], Broken()), machines[0])


def test_values_of_a_moment_pin_nothing(
    machines: tuple[Platform, Platform], kept: Callable[[], PinFile], path: Path
) -> None:
    """`shelter record` judges what it is about to record under a name that means nothing later."""
    first, second = machines
    verifier = verifier_of(first, kept())
    for machine in (first, second):
        assert judged(verifier.with_reference_values(values_for(first, "seen-now")), machine).accepted
    assert not path.exists()
