"""Checks of one piece of evidence that no other shares: its session, its event log, and the numbers seen before."""

from __future__ import annotations

from dataclasses import dataclass

from eaa.appraise.floor import EvaluationFloor, evaluation_numbers
from eaa.appraise.policy import Policy
from eaa.appraise.result import BindingLevel, Check, new_check
from eaa.errors import Reason
from eaa.evidence.eventlog import RTMRS, EventLog
from eaa.evidence.sgx import EnclaveReport
from eaa.evidence.tdx import TDReport
from eaa.verify.dcap import VerifiedQuote


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionBinding:
    """What the relying party received and computed in the session in which the evidence was shown."""

    evidence: bytes
    """The quote exactly as it was received, zero padding included."""
    report_data: bytes
    """64 bytes: what evidence for this very session has to contain."""
    level: BindingLevel


def report_data_check(actual: bytes, expected: bytes) -> Check:
    """Return the check that evidence was made for this key and session."""
    passed, named = actual == expected, expected.hex()
    return new_check(
        name="report_data",
        passed=passed,
        reason=Reason.REPORT_DATA_MISMATCH,
        expected=named,
        actual=named if passed else actual.hex(),
        clause="the evidence must contain exactly these 64 bytes, which name the key and the session",
        hint="the evidence was made for another key or session: a replay, or somebody in between",
    )


def binding_check(level: BindingLevel, policy: Policy) -> Check:
    """Return the check of how closely evidence is tied to its session."""
    return new_check(
        name="binding",
        passed=level >= policy.minimum_binding,
        reason=Reason.BINDING_TOO_WEAK,
        expected=f"{policy.minimum_binding.label} or stronger",
        actual=level.label,
        clause="policy minimum_binding",
        hint="ask the peer for a stronger level (--level), or lower the minimum knowingly (--minimum-binding)",
    )


def event_log_checks(report: EnclaveReport | TDReport, event_log: EventLog) -> list[Check]:
    """Return a check for each register: does replaying the log give what the quote says?"""
    replayed = event_log.replay()
    shown = [getattr(report, f"rtmr{number}", None) for number in range(RTMRS)]
    return [
        new_check(
            name=f"event_log_rtmr{number}",
            passed=value == replayed[number],
            reason=Reason.EVENT_LOG_MISMATCH,
            expected="none: an enclave has no run-time registers" if value is None else value.hex(),
            actual=replayed[number].hex(),
            clause=f"replaying the event log must give RTMR{number} of the quote",
            hint="the log is another boot's, incomplete or changed: trust nothing that it says",
        )
        for number, value in enumerate(shown)
    ]


def floor_check(verified: VerifiedQuote, floor: EvaluationFloor) -> Check:
    """Return the check that no document is older than one of its kind that was seen before."""
    numbers = evaluation_numbers(verified)
    seen = {key: floor.numbers.get(key, 0) for key in numbers}
    return new_check(
        name="evaluation_floor",
        passed=all(number >= seen[key] for key, number in numbers.items()),
        reason=Reason.EVALUATION_NUMBER_TOO_LOW,
        expected=", ".join(f"{document} {number} or higher" for (_, document), number in seen.items()),
        actual=", ".join(f"{document} {number}" for (_, document), number in numbers.items()),
        clause="no evaluation number lower than one that was seen before under this trust anchor",
        hint="somebody serves collateral that Intel has replaced since: refresh the PCCS",
    )
