"""The appraisal itself: verified facts against policy and reference values. All checks run; the answer lists each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final, TypeVar

from eaa.appraise.evidence_checks import (
    SessionBinding,
    binding_check,
    event_log_checks,
    floor_check,
    report_data_check,
)
from eaa.appraise.floor import EvaluationFloor
from eaa.appraise.platform_checks import Lateness, PlatformFacts, PlatformQuestions, depends_on_time, needs_lateness
from eaa.appraise.platforms import PlatformPins, allowed_platform_check, pinned_platform_check
from eaa.appraise.policy import Policy
from eaa.appraise.reference_checks import MAX_LISTED, ReferenceQuestions, measurement_of
from eaa.appraise.reference_values import ReferenceValue, ReferenceValues
from eaa.appraise.report_checks import ReportQuestions
from eaa.appraise.result import Accepted, BindingLevel, Check, Rejected, Role, new_check
from eaa.errors import Misuse, Reason
from eaa.evidence.eventlog import EventLog
from eaa.evidence.sgx import EnclaveReport
from eaa.evidence.tdx import TDReport
from eaa.records import filler, quick
from eaa.verify.dcap import VerifiedQuote
from eaa.verify.tcb import TCBFacts

__all__ = [
    "MAX_LISTED",
    "MAX_REMEMBERED",
    "Appraiser",
    "PlatformFacts",
    "SessionBinding",
    "appraise",
    "identity_of",
    "measurement_of",
    "registers_of",
    "reject_missing_evidence",
    "surroundings_of",
]

MAX_REMEMBERED: Final = 512
"""Reports, and platforms, of which an Appraiser remembers what it found."""


_OfReport = tuple[ReferenceValue | None, tuple[Check, ...]]
"""The reference value that a report matches, and the checks."""
_Key = TypeVar("_Key")
_Found = TypeVar("_Found")


def appraise(  # noqa: PLR0913  all that a judgement may rest on, by keyword
    verified: VerifiedQuote,
    *,
    policy: Policy,
    reference_values: ReferenceValues,
    role: Role,
    session: SessionBinding | None,
    expected_report_data: bytes | None = None,
    event_log: EventLog | None = None,
    floor: EvaluationFloor | None = None,
    pins: PlatformPins | None = None,
) -> Accepted | Rejected:
    """Judge verified facts.

    Args:
        verified: what `verify` established; nothing else can be appraised.
        policy: what this role's evidence must satisfy.
        reference_values: only values of `role` can be matched.
        role: the role in which the evidence appeared, from our side of the connection and never from the peer.
        session: None for a document that was shown outside any session; such a result opens no channel.
        expected_report_data: 64 bytes that a document must contain; a session brings its own.
        event_log: what a domain says was measured into its registers; replaying it must give them.
        floor: evaluation numbers that were seen; a document with a lower one is refused.
        pins: the machines on which reference values were seen first; another machine is refused.

    Checks run from what explains a refusal most to what explains it least; the first failure is the root cause.
    """
    appraiser = Appraiser(policy=policy, reference_values=reference_values, role=role)
    return appraiser.appraise(
        verified,
        session=session,
        expected_report_data=expected_report_data,
        event_log=event_log,
        floor=floor,
        pins=pins,
    )


_new_accepted: Final = quick(Accepted)
_passed: Final = attrgetter("passed")
_NO_REPORT_DATA: Final = bytes(64)


class Appraiser:
    """Judges by one policy and one set of reference values, in one role.

    Fleets show the same few reports on platforms in the same few states, so what was found of a report and of a
    platform is remembered. A check sees only what its finding is remembered by: all of a report but its report data,
    and PlatformFacts. Threads may share an Appraiser.
    """

    def __init__(self, *, policy: Policy, reference_values: ReferenceValues, role: Role) -> None:
        self._policy = policy
        self._role = role
        self._reference_questions = ReferenceQuestions(reference_values, role)
        self._report_questions = ReportQuestions(policy)
        self._platform_questions = PlatformQuestions(policy)
        self._of_levels: dict[BindingLevel, Check] = {}
        self._of_reports: dict[tuple[object, ...], _OfReport] = {}
        self._of_platforms: dict[PlatformFacts, tuple[Check, ...]] = {}
        # With the facts themselves, so that no other object gets their identity meanwhile.
        self._of_late_platforms: dict[tuple[int, PlatformFacts], tuple[TCBFacts, tuple[Check, ...]]] = {}

    def appraise(
        self,
        verified: VerifiedQuote,
        *,
        session: SessionBinding | None,
        expected_report_data: bytes | None = None,
        event_log: EventLog | None = None,
        floor: EvaluationFloor | None = None,
        pins: PlatformPins | None = None,
    ) -> Accepted | Rejected:
        """Do what the function `appraise` does."""
        evidence, report = _evidence_of(verified, session), verified.quote.body
        # What is asked of this piece of evidence alone, where anybody asks.
        expected = expected_report_data if session is None else session.report_data
        of_session = [] if expected is None else [report_data_check(report.report_data, expected)]
        if session is not None:
            of_session.append(_remembered(self._of_levels, session.level, self._ask_of_level))
        of_log = [] if event_log is None else event_log_checks(report, event_log)
        of_floor = [] if floor is None else [floor_check(verified, floor)]
        # What it is comes before how it runs: without a reference value, that there is none explains everything.
        value, of_report = self._find_of_report(report, verified.trust_anchor)
        allowed = self._policy.platforms
        of_machine = [allowed_platform_check(verified, allowed)] if allowed else []
        if pins is not None and value is not None:
            key = (verified.trust_anchor, self._role, value.name)
            of_machine.append(pinned_platform_check(verified, pins, key))
        of_platform = self._find_of_platform(verified)
        checks = (*of_session, *of_report, *of_log, *of_machine, *of_platform, *of_floor)
        shared: dict[str, Any] = {
            "role": self._role,
            "binding": session.level if session else BindingLevel.NONE,
            "evidence_digest": hashlib.sha256(evidence).digest(),
            "report_data": report.report_data,
            "checks": checks,
        }
        if value is not None and all(map(_passed, checks)):
            return _new_accepted(reference_value=value.name, attests=value.attests, **shared)
        return Rejected(**shared)

    def _ask_of_level(self, level: BindingLevel) -> Check:
        return binding_check(level, self._policy)

    def _find_of_report(self, report: EnclaveReport | TDReport, trust_anchor: bytes) -> _OfReport:
        return _remembered(self._of_reports, (trust_anchor, *_but_report_data(report)), self._judge_report)

    def _judge_report(self, key: tuple[Any, ...]) -> _OfReport:
        trust_anchor, kind, *values = key
        report = _without_report_data(kind, values)
        value, of_value = self._reference_questions.ask(report, trust_anchor)
        return value, (*of_value, *self._report_questions.ask(report))

    def _find_of_platform(self, verified: VerifiedQuote) -> tuple[Check, ...]:
        facts = PlatformFacts.of(verified)
        if not needs_lateness(verified, self._policy):
            return _remembered(self._of_platforms, facts, self._platform_questions.ask)
        if depends_on_time(verified, self._policy):
            return self._platform_questions.ask(facts, Lateness.of(verified))
        # By identity: a fleet's verifier works out the TCB of a platform once, and comparing is more than judging.
        _, finding = _remembered(
            self._of_late_platforms,
            (id(verified.tcb), facts),
            lambda _: (verified.tcb, self._platform_questions.ask(facts, Lateness.of(verified))),
        )
        return finding


def _evidence_of(verified: VerifiedQuote, session: SessionBinding | None) -> bytes:
    """Return the evidence as it was shown. Raises Misuse where other evidence was verified."""
    evidence = verified.quote.raw or verified.quote.encode()
    if session is None or session.evidence is evidence:
        return evidence
    if session.evidence.rstrip(b"\0") != evidence.rstrip(b"\0"):
        raise Misuse(Reason.RESULT_FOR_OTHER_EVIDENCE, "the verified facts are not of the evidence that was shown")
    return session.evidence


def _remembered(findings: dict[_Key, _Found], key: _Key, find: Callable[[_Key], _Found]) -> _Found:
    """Return the finding of that key. Each step is one operation on the dictionary: threads at worst find twice."""
    finding = findings.get(key)
    if finding is None:
        if len(findings) >= MAX_REMEMBERED:
            findings.clear()
        finding = findings[key] = find(key)
    return finding


def _but_report_data(report: EnclaveReport | TDReport) -> tuple[object, ...]:
    """Return the type of a report and all its fields but the report data."""
    kind = type(report)
    if kind not in _READERS:
        _READERS[kind] = attrgetter("__class__", *(item.name for item in fields(kind) if item.name != "report_data"))
    found: tuple[object, ...] = _READERS[kind](report)
    return found


_READERS: Final[dict[type, Callable[[object], Any]]] = {}


def _without_report_data(kind: type[EnclaveReport | TDReport], values: list[object]) -> EnclaveReport | TDReport:
    """Return the report of what `_but_report_data` returned; its report data are zeros."""
    if kind not in _WRITERS:
        names = [item.name for item in fields(kind) if item.name != "report_data"]
        _WRITERS[kind] = filler(kind, [*names, "report_data"])
    made: EnclaveReport | TDReport = _WRITERS[kind]((*values, _NO_REPORT_DATA))
    return made


_WRITERS: Final[dict[type, Callable[[Iterable[object]], Any]]] = {}


def reject_missing_evidence(*, role: Role) -> Rejected:
    """Return the answer to a peer that has shown no evidence at all."""
    return Rejected(
        role=role,
        binding=BindingLevel.NONE,
        evidence_digest=bytes(32),
        report_data=bytes(64),
        checks=(
            new_check(
                name="evidence",
                passed=False,
                reason=Reason.NO_EVIDENCE,
                expected=f"evidence of a {role} from a TEE",
                actual="none",
                clause="a peer without evidence is never accepted",
                hint="start the peer with an attester (`--attester`), inside a TEE",
            ),
        ),
    )


def identity_of(report: EnclaveReport | TDReport) -> dict[str, bytes]:
    """Return what a report says its bearer is, by the vendor's field names."""
    if isinstance(report, EnclaveReport):
        return {"mr_enclave": report.mr_enclave, "mr_signer": report.mr_signer}
    return {"mr_td": report.mr_td}


def registers_of(report: EnclaveReport | TDReport) -> tuple[bytes, ...]:
    """Return RTMR0 to RTMR3 of a domain, 48 bytes each; none for an enclave."""
    return (report.rtmr0, report.rtmr1, report.rtmr2, report.rtmr3) if isinstance(report, TDReport) else ()


def surroundings_of(report: EnclaveReport | TDReport) -> dict[str, bytes]:
    """Return what a host chose for a domain, module and attributes, by the vendor's names; none for an enclave."""
    return {"mr_seam": report.mr_seam, "td_attributes": report.td_attributes} if isinstance(report, TDReport) else {}
