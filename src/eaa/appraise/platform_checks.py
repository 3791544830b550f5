"""What policy asks of a platform, and of the documents that speak for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from operator import attrgetter
from typing import Any, Final, NamedTuple

from eaa.appraise.policy import Policy
from eaa.appraise.result import Check, new_check
from eaa.errors import Reason
from eaa.verify.dcap import VerifiedQuote
from eaa.verify.tcb import TCBStatus


class PlatformFacts(NamedTuple):
    """What most appraisals know of a platform: what two platforms must share to be judged alike."""

    tcb_status: TCBStatus
    advisory_ids: tuple[str, ...]
    launch_advisory_ids: tuple[str, ...]
    tcb_evaluation_data_number: int
    dynamic_platform: bool | None
    cached_keys: bool | None
    smt_enabled: bool | None

    @classmethod
    def of(cls, verified: VerifiedQuote) -> PlatformFacts:
        """Return what is asked of a platform that is current, and no more."""
        return tuple.__new__(cls, _facts_of(verified))


_facts_of: Final[Callable[[VerifiedQuote], tuple[Any, ...]]] = attrgetter(*PlatformFacts._fields)


class Lateness(NamedTuple):
    """What else there is to know of a platform whose status or documents are not what policy plainly allows."""

    verified_at: datetime
    behind_since: datetime | None
    shortfalls: tuple[str, ...]
    collateral_expired: tuple[tuple[str, datetime], ...]

    @classmethod
    def of(cls, verified: VerifiedQuote) -> Lateness:
        """Return when these facts held, and since when the platform is behind."""
        return cls(
            verified.verified_at,
            verified.tcb.behind_since,
            tuple(str(shortfall) for shortfall in verified.shortfalls),
            verified.collateral_expired,
        )


def needs_lateness(verified: VerifiedQuote, policy: Policy) -> bool:
    """Whether judging this platform takes more than PlatformFacts."""
    return bool(verified.collateral_expired) or verified.tcb_status not in policy.allowed_tcb_statuses


def depends_on_time(verified: VerifiedQuote, policy: Policy) -> bool:
    """Whether the same platform is judged otherwise an hour later."""
    return bool(verified.collateral_expired) or any(status is verified.tcb_status for status, _ in policy.status_grace)


class PlatformQuestions:
    """What a policy asks of platforms and their documents. What depends on it alone is worked out once."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._grace = dict(policy.status_grace)
        self._statuses = " or ".join(policy.allowed_tcb_statuses)
        self._statuses += "".join(f", or {status} for {limit.days} days" for status, limit in policy.status_grace)
        self._status_clause = "policy allowed_tcb_statuses" + (", status_grace_days" if policy.status_grace else "")
        self._evaluation_numbers = f"{policy.minimum_evaluation_number} or higher"
        self._of_current_documents = _freshness(policy, None)
        self._named = _questions_named_by(policy)

    def ask(self, platform: PlatformFacts, lateness: Lateness | None = None) -> tuple[Check, ...]:
        """Return the checks of the platform; `lateness` is given where `needs_lateness` says so."""
        are_late = lateness is not None and lateness.collateral_expired
        return (
            self._ask_of_status(platform, lateness),
            *[question(platform) for question in self._named],
            new_check(
                name="evaluation_number",
                passed=platform.tcb_evaluation_data_number >= self._policy.minimum_evaluation_number,
                reason=Reason.EVALUATION_NUMBER_TOO_LOW,
                expected=self._evaluation_numbers,
                actual=str(platform.tcb_evaluation_data_number),
                clause="policy minimum_evaluation_number",
                hint="the collateral is older than you allow; refresh the PCCS",
            ),
            _freshness(self._policy, lateness) if are_late else self._of_current_documents,
        )

    def _ask_of_status(self, platform: PlatformFacts, lateness: Lateness | None) -> Check:
        allowed = platform.tcb_status in self._policy.allowed_tcb_statuses
        late = "" if allowed or lateness is None else _late(lateness)
        return new_check(
            name="tcb_status",
            passed=allowed or _within_grace(self._grace.get(platform.tcb_status), lateness),
            reason=Reason.TCB_STATUS_NOT_ALLOWED,
            expected=self._statuses,
            actual=" ".join((platform.tcb_status, *platform.advisory_ids)) + late,
            clause=self._status_clause,
            hint="update the machine's firmware and software, or accept this status knowingly",
        )


def _questions_named_by(policy: Policy) -> list[Callable[[PlatformFacts], Check]]:
    """Return what is asked only where a policy names it."""
    questions: list[Callable[[PlatformFacts], Check]] = []
    if policy.denied_advisories:
        questions.append(partial(_denied_advisories, policy.denied_advisories))
    if policy.allowed_advisories is not None:
        questions.append(partial(_allowed_advisories, policy.allowed_advisories))
    configurations = (
        ("dynamic_platform", policy.refuse_dynamic_platform, "dynamic_platform"),
        ("cached_keys", policy.refuse_cached_keys, "cached_keys"),
        ("smt", policy.refuse_smt, "smt_enabled"),
    )
    questions += [partial(_configuration, name, field) for name, refused, field in configurations if refused]
    return questions


def _within_grace(grace: timedelta | None, lateness: Lateness | None) -> bool:
    if grace is None or lateness is None or lateness.behind_since is None:
        return False
    # A difference cannot overflow, as a date in the year 9999 and a grace would.
    return lateness.verified_at - lateness.behind_since <= grace


def _late(lateness: Lateness) -> str:
    since = f", behind since {lateness.behind_since:%Y-%m-%d}" if lateness.behind_since else ""
    return since + "".join(f"; {shortfall}" for shortfall in lateness.shortfalls)


def _denied_advisories(denied: tuple[str, ...], platform: PlatformFacts) -> Check:
    found = _advisories_of(platform)
    wrong = [one for one in found if one in denied]
    return _advisory_check("denied_advisories", f"none of {', '.join(denied)}", found, wrong)


def _allowed_advisories(allowed: tuple[str, ...], platform: PlatformFacts) -> Check:
    found = _advisories_of(platform)
    wrong = [one for one in found if one not in allowed]
    return _advisory_check("allowed_advisories", f"nothing but {', '.join(allowed) or 'none'}", found, wrong)


def _advisories_of(platform: PlatformFacts) -> list[str]:
    # Those of the launch too: what an outdated module did to a domain then stays done.
    return sorted({one.upper() for one in (*platform.advisory_ids, *platform.launch_advisory_ids)})


def _advisory_check(name: str, expected: str, found: list[str], wrong: list[str]) -> Check:
    return new_check(
        name=name,
        passed=not wrong,
        reason=Reason.ADVISORY_NOT_ALLOWED,
        expected=expected,
        actual=", ".join(found) or "none",
        clause=f"policy {name}",
        hint=f"{', '.join(wrong)} applies to this platform: mitigate it, or change the list knowingly",
    )


def _configuration(name: str, field: str, platform: PlatformFacts) -> Check:
    value: bool | None = getattr(platform, field)
    words = {True: "yes", False: "no", None: "its PCK certificate does not tell"}
    return new_check(
        name=name,
        passed=value is False,
        reason=Reason.PLATFORM_NOT_ALLOWED,
        expected="no",
        actual=words[value],
        clause=f"policy refuse_{name}",
        hint="the platform was set up and registered this way; use another one, or change the policy knowingly",
    )


def _freshness(policy: Policy, lateness: Lateness | None) -> Check:
    expired = lateness.collateral_expired if lateness else ()
    # Past the longest grace a document does not get this far: verification refuses it.
    passed = all(
        policy.grace_of(name) and lateness and lateness.verified_at - when <= policy.grace_of(name)
        for name, when in expired
    )
    limits = {name: policy.grace_of(name) for name in ("TCB Info", "QE identity", "CRL")}
    told = {f"{limit} past its nextUpdate" for limit in limits.values()}
    return new_check(
        name="collateral_freshness",
        passed=passed,
        reason=Reason.COLLATERAL_EXPIRED,
        expected=f"no document more than {told.pop()}"
        if len(told) == 1
        else "no more past nextUpdate than " + ", ".join(f"{limit} for {name}" for name, limit in limits.items()),
        actual=", ".join(f"{name} at {when:%Y-%m-%dT%H:%MZ}" for name, when in expired) or "all current",
        clause="policy collateral_grace_hours" + ("" if len(set(limits.values())) == 1 else " and those for documents"),
        hint="refresh the PCCS's cache, or check this machine's clock",
    )
