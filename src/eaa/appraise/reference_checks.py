"""What reference values ask of a report: that its measurement is one of theirs, and that it matches all they pin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from eaa.appraise.reference_values import ReferenceValue, ReferenceValues
from eaa.appraise.report_checks import Report, field_of
from eaa.appraise.result import Check, Role, new_check
from eaa.errors import Reason
from eaa.evidence.sgx import EnclaveReport

MAX_LISTED: Final = 8
"""Reference values that one check names."""

_PIN_CHECKS: Final = {"mr_signer": "reference_signer"}
_PIN_REASONS: Final = {
    "mr_signer": Reason.SIGNER_MISMATCH,
    "mr_seam": Reason.TDX_MODULE_NOT_ALLOWED,
    **dict.fromkeys(("mr_config_id", "mr_owner", "mr_owner_config"), Reason.CONFIGURATION_MISMATCH),
}


def measurement_of(report: Report) -> bytes:
    """Return the launch measurement: MRENCLAVE (32 bytes) or MRTD (48 bytes)."""
    return report.mr_enclave if isinstance(report, EnclaveReport) else report.mr_td


class _Words(NamedTuple):
    """What the check of a measurement says beside the measurement."""

    reason: Reason
    expected: str
    hint: str


class _Recorded(NamedTuple):
    """A value of the role, and what it pins."""

    value: ReferenceValue
    pins: dict[str, bytes]


class ReferenceQuestions:
    """What reference values ask of evidence in one role. What depends on them alone is worked out once."""

    def __init__(self, values: ReferenceValues, role: Role) -> None:
        self._values = values
        self._role = role
        self._of_role = values.of_role(role)
        self._clause = f"reference values of role {role}"
        self._words = _Words(
            Reason.MEASUREMENT_MISMATCH,
            _listed(self._of_role, lambda value: f"{value.measurement.hex()} ({value.name})")
            or f"a recorded value of role {role}, and there is none",
            f"if this is what you built and expect, `shelter record NAME --role {role}` records it",
        )
        self._recorded: dict[tuple[bytes, bytes], list[_Recorded]] = {}
        for value in self._of_role:
            alike = self._recorded.setdefault((value.measurement, value.trust_anchor), [])
            alike.append(_Recorded(value, value.pins))

    def ask(self, report: Report, trust_anchor: bytes) -> tuple[ReferenceValue | None, tuple[Check, ...]]:
        """Return the value of this measurement under this trust anchor, if there is one, and the checks."""
        measurement = measurement_of(report)
        alike = self._recorded.get((measurement, trust_anchor))
        if alike is None:
            return None, (self._measurement_check(measurement, self._why_unknown(measurement), passed=False),)
        value, pins = alike[0] if len(alike) == 1 else _best(alike, report)
        return value, (
            self._measurement_check(measurement, self._words, passed=True),
            *[self._pin_check(report, value, name, digest) for name, digest in pins.items()],
        )

    def _measurement_check(self, measurement: bytes, words: _Words, *, passed: bool) -> Check:
        return new_check(
            name="measurement",
            passed=passed,
            reason=words.reason,
            expected=words.expected,
            actual=measurement.hex(),
            clause=self._clause,
            hint=words.hint,
        )

    def _pin_check(self, report: Report, value: ReferenceValue, name: str, digest: bytes) -> Check:
        shown = field_of(report, name)
        return new_check(
            name=_PIN_CHECKS.get(name, f"reference_{name}"),
            passed=shown == digest,
            reason=_PIN_REASONS.get(name, Reason.MEASUREMENT_MISMATCH),
            expected=digest.hex(),
            actual=shown.hex() if isinstance(shown, bytes) else "none",
            clause=f"reference value {value.name}, {name}",
            hint=self._words.hint,
        )

    def _why_unknown(self, measurement: bytes) -> _Words:
        same = [value for value in self._values if value.measurement == measurement]
        in_role = [value for value in same if value.role is self._role]
        if in_role:
            return _Words(
                Reason.TRUST_ANCHOR_MISMATCH,
                _listed(in_role, lambda value: f"{value.trust_anchor.hex()} ({value.name})"),
                "the measurement is known, but was recorded under another root; simulated and real are never mixed",
            )
        if same:
            return self._words._replace(
                reason=Reason.ROLE_MISMATCH,
                hint=f"this measurement is recorded as {same[0].role} ({same[0].name}), not as {self._role}: "
                "somebody shows evidence of one part of the system as another's",
            )
        return self._words if self._of_role else self._words._replace(reason=Reason.NO_REFERENCE_VALUE)


def _listed(values: Sequence[ReferenceValue], tell: Callable[[ReferenceValue], str]) -> str:
    """Return the first few of what may be thousands."""
    more = [f"{len(values) - MAX_LISTED} more"] if len(values) > MAX_LISTED else []
    return " or ".join([*map(tell, values[:MAX_LISTED]), *more])


def _best(alike: list[_Recorded], report: Report) -> _Recorded:
    """Values may share a measurement and differ in signer or registers; the one that fits best counts."""
    return min(alike, key=lambda one: sum(field_of(report, name) != digest for name, digest in one.pins.items()))
