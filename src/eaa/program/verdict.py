"""The answer of every command that judges: one verdict, as a JSON object with stable keys and as lines for people.

docs/verdict.schema.json is the contract of the JSON form; a test holds every program's output against it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from eaa.appraise.appraisal import identity_of
from eaa.appraise.result import Accepted, Check, Rejected
from eaa.errors import EAAError, Rejection, Unavailable
from eaa.verifier import Judgement, VerifiedQuote

ACCEPTED = "accepted"
REJECTED = "rejected"
VERIFIED = "verified"
UNVERIFIABLE = "unverifiable"
UNAVAILABLE = "unavailable"

_WORDS = {ACCEPTED: 0, VERIFIED: 0, REJECTED: 1, UNVERIFIABLE: 3, UNAVAILABLE: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One answer. Fields that are not known are null; the keys are always all there."""

    verdict: str
    """accepted, rejected, verified (facts only), unverifiable or unavailable."""
    reason: str | None = None
    """The code of the root cause, null on success."""
    message: str
    hint: str | None = None
    role: str | None = None
    simulated: bool | None = None
    attests: str | None = None
    binding: str | None = None
    tee: str | None = None
    tcb_status: str | None = None
    tcb_date: str | None = None
    advisory_ids: tuple[str, ...] = ()
    launch_advisory_ids: tuple[str, ...] = ()
    mr_enclave: str | None = None
    mr_signer: str | None = None
    mr_td: str | None = None
    reference_value: str | None = None
    trust_anchor: str | None = None
    tcb_evaluation_data_number: int | None = None
    earliest_expiration: str | None = None
    collateral_expired: tuple[str, ...] = ()
    padding: int | None = None
    checks: tuple[dict[str, Any], ...] = ()
    evidence: tuple[dict[str, Any], ...] | None = field(default=None)
    """One entry for each attester that was judged on the way; null for a single piece of evidence."""

    @property
    def exit_code(self) -> int:
        """The exit code that belongs to this answer."""
        return _WORDS[self.verdict]

    def to_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints; `evidence` is only there where there was a relay."""
        document = asdict(self)
        if self.evidence is None:
            del document["evidence"]
        return document


def verdict_of_judgement(judgement: Judgement) -> Verdict:
    """Return the answer for evidence that was verified and appraised, or was missing."""
    result = judgement.result
    facts = _facts(judgement.verified) if judgement.verified else {}
    shared = {
        "role": result.role.value,
        "binding": result.binding.label,
        "checks": tuple(_check(check) for check in result.checks),
        **facts,
    }
    match result:
        case Accepted():
            return Verdict(
                verdict=ACCEPTED,
                message=f"the {result.role} matches the reference value {result.reference_value}",
                attests=result.attests.value,
                reference_value=result.reference_value,
                **shared,
            )
        case Rejected(root_cause=cause):
            return Verdict(
                verdict=REJECTED,
                reason=cause.reason.value,
                message=sentence(cause, result.role),
                hint=cause.hint,
                **shared,
            )
    raise AssertionError(result)


def verdict_of_facts(verified: VerifiedQuote) -> Verdict:
    """Return the answer that states facts and judges nothing."""
    return Verdict(
        verdict=VERIFIED,
        message="the evidence is genuine; nothing was judged",
        hint="give --reference-values to have it appraised",
        **_facts(verified),
    )


def verdict_of_error(error: EAAError) -> Verdict:
    """Return the answer where no judgement was reached."""
    word = UNVERIFIABLE
    if isinstance(error, Rejection):
        word = REJECTED
    elif isinstance(error, Unavailable):
        word = UNAVAILABLE
    return Verdict(verdict=word, reason=error.reason.value, message=error.message, hint=error.hint)


def sentence(check: Check, role: str) -> str:
    """Return a failed check as one sentence."""
    return f"the {role}'s evidence fails the check {check.name}: expected {check.expected}, it is {check.actual}"


def _check(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "passed": check.passed,
        "reason": None if check.passed else check.reason.value,
        "expected": check.expected,
        "actual": check.actual,
        "clause": check.clause,
        "hint": None if check.passed else check.hint,
    }


def _facts(verified: VerifiedQuote) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "simulated": verified.simulated,
        "tee": verified.tee.name.lower(),
        "tcb_status": verified.tcb_status.value,
        "tcb_date": f"{verified.tcb_date:%Y-%m-%dT%H:%M:%SZ}",
        "advisory_ids": verified.advisory_ids,
        "launch_advisory_ids": verified.launch_advisory_ids,
        "trust_anchor": verified.trust_anchor.hex(),
        "tcb_evaluation_data_number": verified.tcb_evaluation_data_number,
        "earliest_expiration": f"{verified.earliest_expiration:%Y-%m-%dT%H:%M:%SZ}",
        "collateral_expired": tuple(name for name, _ in verified.collateral_expired),
        "padding": verified.padding,
    }
    identity = identity_of(verified.quote.body)
    return facts | {name: digest.hex() for name, digest in identity.items()}
