"""The appraisal itself: verified facts against policy and reference values. All checks run; the answer lists each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeVar

from eaa.appraise.policy import Policy
from eaa.appraise.reference_values import ReferenceValue, ReferenceValues
from eaa.appraise.result import Accepted, BindingLevel, Check, Rejected, Role
from eaa.errors import Misuse, Reason
from eaa.evidence.sgx import EnclaveReport
from eaa.evidence.tdx import TDReport
from eaa.verify.dcap import VerifiedQuote
from eaa.verify.tcb import TCBStatus

MAX_REMEMBERED: Final = 512
"""Reports, and platforms, of which an Appraiser remembers what it found."""

_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionBinding:
    """What the relying party received and computed in the session in which the evidence was shown."""

    evidence: bytes
    """The quote exactly as it was received, zero padding included."""
    report_data: bytes
    """64 bytes: what evidence for this very session has to contain."""
    level: BindingLevel


def appraise(
    verified: VerifiedQuote,
    *,
    policy: Policy,
    reference_values: ReferenceValues,
    role: Role,
    session: SessionBinding | None,
    expected_report_data: bytes | None = None,
) -> Accepted | Rejected:
    """Judge verified facts.

    Args:
        verified: what `verify` established; nothing else can be appraised.
        policy: what this role's evidence must satisfy.
        reference_values: only values of `role` can be matched.
        role: the role in which the evidence appeared, from our side of the connection and never from the peer.
        session: None for a document that was shown outside any session; such a result opens no channel.
        expected_report_data: 64 bytes that a document must contain; a session brings its own.

    Checks run from what explains a refusal most to what explains it least; the first failure is the root cause.
    """
    appraiser = Appraiser(policy=policy, reference_values=reference_values, role=role)
    return appraiser.appraise(verified, session=session, expected_report_data=expected_report_data)


class PlatformFacts(NamedTuple):
    """What appraisal knows of a platform."""

    tcb_status: TCBStatus
    advisory_ids: tuple[str, ...]
    tcb_evaluation_data_number: int
    collateral_expired: tuple[tuple[str, datetime], ...]

    @classmethod
    def of(cls, verified: VerifiedQuote) -> PlatformFacts:
        """Return what is asked of a platform, and no more: it is what two platforms must share to be judged alike."""
        return cls(
            verified.tcb_status,
            verified.advisory_ids,
            verified.tcb_evaluation_data_number,
            verified.collateral_expired,
        )


@dataclass(frozen=True, slots=True)
class _Finding:
    """Checks that ran together."""

    checks: tuple[Check, ...]
    passed: bool
    """Whether all of them did."""
    value: ReferenceValue | None = None
    """What the report matched."""

    @classmethod
    def of(cls, *checks: Check, value: ReferenceValue | None = None) -> _Finding:
        return cls(checks, all(check.passed for check in checks), value)


class Appraiser:
    """Judges by one policy and one set of reference values, in one role.

    Fleets show the same few reports on platforms in the same few states, so what was found of a report and of a
    platform is remembered. A check sees only what its finding is remembered by: all of a report but its report data,
    and PlatformFacts. Threads may share an Appraiser.
    """

    def __init__(self, *, policy: Policy, reference_values: ReferenceValues, role: Role) -> None:
        self._policy = policy
        self._reference_values = reference_values
        self._role = role
        self._of_reports: dict[tuple[object, ...], _Finding] = {}
        self._of_platforms: dict[PlatformFacts, _Finding] = {}

    def appraise(
        self, verified: VerifiedQuote, *, session: SessionBinding | None, expected_report_data: bytes | None = None
    ) -> Accepted | Rejected:
        """Do what the function `appraise` does."""
        report = verified.quote.body
        evidence = verified.quote.raw or verified.quote.encode()
        if session is not None and session.evidence.rstrip(b"\0") != evidence.rstrip(b"\0"):
            raise Misuse(Reason.RESULT_FOR_OTHER_EVIDENCE, "the verified facts are not of the evidence that was shown")
        in_session = _Finding.of(
            *_report_data_check(report.report_data, session.report_data if session else expected_report_data),
            *_binding_check(session, self._policy),
        )
        # What it is comes before how it runs: without a reference value, that there is none explains everything.
        of_report = self._find_of_report(report, verified.trust_anchor)
        of_platform = self._find_of_platform(PlatformFacts.of(verified))
        shared: dict[str, Any] = {
            "role": self._role,
            "binding": session.level if session else BindingLevel.NONE,
            "evidence_digest": hashlib.sha256(session.evidence if session else evidence).digest(),
            "report_data": report.report_data,
            "checks": in_session.checks + of_report.checks + of_platform.checks,
        }
        value = of_report.value
        if value is not None and in_session.passed and of_report.passed and of_platform.passed:
            return Accepted(reference_value=value.name, attests=value.attests, **shared)
        return Rejected(**shared)

    def _find_of_report(self, report: EnclaveReport | TDReport, trust_anchor: bytes) -> _Finding:
        return _remembered(
            self._of_reports,
            (trust_anchor, *_but_report_data(report)),
            lambda _: self._judge_report(replace(report, report_data=bytes(64)), trust_anchor),
        )

    def _judge_report(self, report: EnclaveReport | TDReport, trust_anchor: bytes) -> _Finding:
        match = _match(report, self._reference_values, trust_anchor, self._role)
        return _Finding.of(
            *_reference_checks(report, match, self._role),
            _debug(report, self._policy),
            *_policy_measurement_checks(report, self._policy),
            value=match.value,
        )

    def _find_of_platform(self, facts: PlatformFacts) -> _Finding:
        return _remembered(self._of_platforms, facts, lambda facts: _Finding.of(*_tcb_checks(facts, self._policy)))


def _remembered(findings: dict[_Key, _Finding], key: _Key, find: Callable[[_Key], _Finding]) -> _Finding:
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


def reject_missing_evidence(*, role: Role) -> Rejected:
    """Return the answer to a peer that has shown no evidence at all."""
    return Rejected(
        role=role,
        binding=BindingLevel.NONE,
        evidence_digest=bytes(32),
        report_data=bytes(64),
        checks=(
            Check(
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


def measurement_of(report: EnclaveReport | TDReport) -> bytes:
    """Return the launch measurement: MRENCLAVE (32 bytes) or MRTD (48 bytes)."""
    return report.mr_enclave if isinstance(report, EnclaveReport) else report.mr_td


def identity_of(report: EnclaveReport | TDReport) -> dict[str, bytes]:
    """Return what a report says its bearer is, by the vendor's field names."""
    if isinstance(report, EnclaveReport):
        return {"mr_enclave": report.mr_enclave, "mr_signer": report.mr_signer}
    return {"mr_td": report.mr_td}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Match:
    """What the reference values say of a measurement."""

    value: ReferenceValue | None
    """A value of the right role, measurement and trust anchor."""
    reason: Reason
    """Why there is none."""
    expected: str
    hint: str


def _match(report: EnclaveReport | TDReport, values: ReferenceValues, trust_anchor: bytes, role: Role) -> _Match:
    measurement = measurement_of(report)
    candidates = values.of_role(role)
    same = [value for value in values if value.measurement == measurement]
    in_role = [value for value in same if value.role is role]
    exact = [value for value in in_role if value.trust_anchor == trust_anchor]
    expected = (
        " or ".join(f"{value.measurement.hex()} ({value.name})" for value in candidates)
        or f"a recorded value of role {role}, and there is none"
    )
    record = f"if this is what you built and expect, `shelter record NAME --role {role}` records it"
    if exact:
        # Two values may share a measurement and differ in signer; the one that fits wins.
        fitting = [value for value in exact if _signer_fits(report, value)]
        return _Match(value=(fitting or exact)[0], reason=Reason.MEASUREMENT_MISMATCH, expected=expected, hint=record)
    if in_role:
        return _Match(
            value=None,
            reason=Reason.TRUST_ANCHOR_MISMATCH,
            expected=" or ".join(f"{value.trust_anchor.hex()} ({value.name})" for value in in_role),
            hint="the measurement is known, but was recorded under another root; simulated and real are never mixed",
        )
    if same:
        return _Match(
            value=None,
            reason=Reason.ROLE_MISMATCH,
            expected=expected,
            hint=f"this measurement is recorded as {same[0].role} ({same[0].name}), not as {role}: "
            "somebody shows evidence of one part of the system as another's",
        )
    if not candidates:
        return _Match(value=None, reason=Reason.NO_REFERENCE_VALUE, expected=expected, hint=record)
    return _Match(value=None, reason=Reason.MEASUREMENT_MISMATCH, expected=expected, hint=record)


def _signer_fits(report: EnclaveReport | TDReport, value: ReferenceValue) -> bool:
    return value.mr_signer is None or (isinstance(report, EnclaveReport) and report.mr_signer == value.mr_signer)


def _report_data_check(actual: bytes, expected: bytes | None) -> list[Check]:
    if expected is None:
        return []
    return [
        Check(
            name="report_data",
            passed=actual == expected,
            reason=Reason.REPORT_DATA_MISMATCH,
            expected=expected.hex(),
            actual=actual.hex(),
            clause="the evidence must contain exactly these 64 bytes, which name the key and the session",
            hint="the evidence was made for another key or session: a replay, or somebody in between",
        )
    ]


def _binding_check(session: SessionBinding | None, policy: Policy) -> list[Check]:
    if session is None:
        return []
    return [
        Check(
            name="binding",
            passed=session.level >= policy.minimum_binding,
            reason=Reason.BINDING_TOO_WEAK,
            expected=f"{policy.minimum_binding.label} or stronger",
            actual=session.level.label,
            clause="policy minimum_binding",
            hint="ask the peer for a stronger level, or lower minimum_binding knowingly",
        )
    ]


def _debug(report: EnclaveReport | TDReport, policy: Policy) -> Check:
    return Check(
        name="debug",
        passed=not report.is_debug or policy.dangerous_accept_debug_enclaves,
        reason=Reason.DEBUG_ENCLAVE,
        expected="not under debug" if not policy.dangerous_accept_debug_enclaves else "anything",
        actual="debug" if report.is_debug else "production",
        clause="policy dangerous_accept_debug_enclaves",
        hint="its host can read everything inside; sign and launch it for production",
    )


def _reference_checks(report: EnclaveReport | TDReport, match: _Match, role: Role) -> list[Check]:
    value = match.value
    checks = [
        Check(
            name="measurement",
            passed=value is not None,
            reason=match.reason,
            expected=match.expected,
            actual=measurement_of(report).hex(),
            clause=f"reference values of role {role}",
            hint=match.hint,
        )
    ]
    if value is not None and value.mr_signer is not None:
        checks.append(
            Check(
                name="reference_signer",
                passed=_signer_fits(report, value),
                reason=Reason.SIGNER_MISMATCH,
                expected=value.mr_signer.hex(),
                actual=report.mr_signer.hex() if isinstance(report, EnclaveReport) else "none",
                clause=f"reference value {value.name}, mr_signer",
            )
        )
    return checks


def _policy_measurement_checks(report: EnclaveReport | TDReport, policy: Policy) -> list[Check]:
    """Constrain SGX identity fields where policy names them; a TD report has none of them, which fails."""
    sgx = report if isinstance(report, EnclaveReport) else None
    checks: list[Check] = []
    digests = (
        ("mr_enclave", policy.mr_enclaves, sgx and sgx.mr_enclave, Reason.MEASUREMENT_MISMATCH),
        ("mr_signer", policy.mr_signers, sgx and sgx.mr_signer, Reason.SIGNER_MISMATCH),
    )
    for name, allowed, digest, reason in digests:
        if allowed:
            checks.append(
                Check(
                    name=name,
                    passed=digest in allowed,
                    reason=reason,
                    expected=" or ".join(item.hex() for item in allowed),
                    actual=digest.hex() if digest else "none",
                    clause=f"policy {name}s",
                )
            )
    if policy.isv_prod_id is not None:
        checks.append(
            Check(
                name="isv_prod_id",
                passed=sgx is not None and sgx.isv_prod_id == policy.isv_prod_id,
                reason=Reason.PRODUCT_MISMATCH,
                expected=str(policy.isv_prod_id),
                actual=str(sgx.isv_prod_id) if sgx else "none",
                clause="policy isv_prod_id",
            )
        )
    if policy.minimum_isv_svn:
        checks.append(
            Check(
                name="isv_svn",
                passed=sgx is not None and sgx.isv_svn >= policy.minimum_isv_svn,
                reason=Reason.SVN_TOO_LOW,
                expected=f"{policy.minimum_isv_svn} or higher",
                actual=str(sgx.isv_svn) if sgx else "none",
                clause="policy minimum_isv_svn",
                hint="an older build with the same signer; update it",
            )
        )
    return checks


def _tcb_checks(platform: PlatformFacts, policy: Policy) -> list[Check]:
    expired = ", ".join(f"{name} at {when:%Y-%m-%dT%H:%MZ}" for name, when in platform.collateral_expired)
    return [
        Check(
            name="tcb_status",
            passed=platform.tcb_status in policy.allowed_tcb_statuses,
            reason=Reason.TCB_STATUS_NOT_ALLOWED,
            expected=" or ".join(policy.allowed_tcb_statuses),
            actual=" ".join((platform.tcb_status, *platform.advisory_ids)),
            clause="policy allowed_tcb_statuses",
            hint="update the machine's firmware and software, or accept this status knowingly",
        ),
        Check(
            name="evaluation_number",
            passed=platform.tcb_evaluation_data_number >= policy.minimum_evaluation_number,
            reason=Reason.EVALUATION_NUMBER_TOO_LOW,
            expected=f"{policy.minimum_evaluation_number} or higher",
            actual=str(platform.tcb_evaluation_data_number),
            clause="policy minimum_evaluation_number",
            hint="the collateral is older than you allow; refresh the PCCS",
        ),
        Check(
            name="collateral_freshness",
            # Past its grace a document does not get this far: verification refuses it.
            passed=not platform.collateral_expired or bool(policy.collateral_grace),
            reason=Reason.COLLATERAL_EXPIRED,
            expected=f"no document more than {policy.collateral_grace} past its nextUpdate",
            actual=expired or "all current",
            clause="policy collateral_grace_hours",
        ),
    ]
