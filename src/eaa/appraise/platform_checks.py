"""What policy asks of a platform, and of the documents that speak for it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

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
        return cls(
            verified.tcb_status,
            verified.advisory_ids,
            verified.launch_advisory_ids,
            verified.tcb_evaluation_data_number,
            verified.dynamic_platform,
            verified.cached_keys,
            verified.smt_enabled,
        )


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


def platform_checks(platform: PlatformFacts, policy: Policy, lateness: Lateness | None = None) -> list[Check]:
    """Return the checks of the platform; `lateness` is given where `needs_lateness` says so."""
    return [
        _status(platform, policy, lateness),
        *_advisories(platform, policy),
        *_configuration(platform, policy),
        new_check(
            name="evaluation_number",
            passed=platform.tcb_evaluation_data_number >= policy.minimum_evaluation_number,
            reason=Reason.EVALUATION_NUMBER_TOO_LOW,
            expected=f"{policy.minimum_evaluation_number} or higher",
            actual=str(platform.tcb_evaluation_data_number),
            clause="policy minimum_evaluation_number",
            hint="the collateral is older than you allow; refresh the PCCS",
        ),
        _freshness(policy, lateness),
    ]


def _status(platform: PlatformFacts, policy: Policy, lateness: Lateness | None) -> Check:
    grace = dict(policy.status_grace)
    allowed = platform.tcb_status in policy.allowed_tcb_statuses
    expected = " or ".join(policy.allowed_tcb_statuses)
    expected += "".join(f", or {status} for {limit.days} days" for status, limit in policy.status_grace)
    late = "" if allowed or lateness is None else _late(lateness)
    return new_check(
        name="tcb_status",
        passed=allowed or _within_grace(grace.get(platform.tcb_status), lateness),
        reason=Reason.TCB_STATUS_NOT_ALLOWED,
        expected=expected,
        actual=" ".join((platform.tcb_status, *platform.advisory_ids)) + late,
        clause="policy allowed_tcb_statuses" + (", status_grace_days" if grace else ""),
        hint="update the machine's firmware and software, or accept this status knowingly",
    )


def _within_grace(grace: timedelta | None, lateness: Lateness | None) -> bool:
    if grace is None or lateness is None or lateness.behind_since is None:
        return False
    # A difference cannot overflow, as a date in the year 9999 and a grace would.
    return lateness.verified_at - lateness.behind_since <= grace


def _late(lateness: Lateness) -> str:
    since = f", behind since {lateness.behind_since:%Y-%m-%d}" if lateness.behind_since else ""
    return since + "".join(f"; {shortfall}" for shortfall in lateness.shortfalls)


def _advisories(platform: PlatformFacts, policy: Policy) -> list[Check]:
    if policy.allowed_advisories is None and not policy.denied_advisories:
        return []
    # Those of the launch too: what an outdated module did to a domain then stays done.
    found = tuple(sorted({one.upper() for one in (*platform.advisory_ids, *platform.launch_advisory_ids)}))
    lists = (
        ("denied_advisories", policy.denied_advisories, [one for one in found if one in policy.denied_advisories]),
        (
            "allowed_advisories",
            policy.allowed_advisories,
            [one for one in found if one not in (policy.allowed_advisories or ())],
        ),
    )
    return [
        new_check(
            name=name,
            passed=not wrong,
            reason=Reason.ADVISORY_NOT_ALLOWED,
            expected=("none of " if name.startswith("denied") else "nothing but ") + (", ".join(listed) or "none"),
            actual=", ".join(found) or "none",
            clause=f"policy {name}",
            hint=f"{', '.join(wrong)} applies to this platform: mitigate it, or change the list knowingly",
        )
        for name, listed, wrong in lists
        if listed is not None and (listed or name == "allowed_advisories")
    ]


def _configuration(platform: PlatformFacts, policy: Policy) -> list[Check]:
    rows = (
        ("dynamic_platform", policy.refuse_dynamic_platform, platform.dynamic_platform),
        ("cached_keys", policy.refuse_cached_keys, platform.cached_keys),
        ("smt", policy.refuse_smt, platform.smt_enabled),
    )
    words = {True: "yes", False: "no", None: "its PCK certificate does not tell"}
    return [
        new_check(
            name=name,
            passed=value is False,
            reason=Reason.PLATFORM_NOT_ALLOWED,
            expected="no",
            actual=words[value],
            clause=f"policy refuse_{name}",
            hint="the platform was set up and registered this way; use another one, or change the policy knowingly",
        )
        for name, refused, value in rows
        if refused
    ]


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
