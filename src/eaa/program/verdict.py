"""The answer of every command that judges: one verdict, as a JSON object with stable keys and as lines for people.

docs/verdict.schema.json is the contract of the JSON form; a test holds every program's output against it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Final

from eaa.errors import EAAError, MalformedInput, PeerMisbehaved, Rejection, Unavailable, VerificationError

ACCEPTED = "accepted"
REJECTED = "rejected"
VERIFIED = "verified"
UNVERIFIABLE = "unverifiable"
UNAVAILABLE = "unavailable"
UNATTESTED = "unattested"

_WORDS_OF_ERRORS = (
    (Rejection, REJECTED),
    (Unavailable, UNAVAILABLE),
    ((MalformedInput, VerificationError, PeerMisbehaved), UNVERIFIABLE),
)
_WORDS = {ACCEPTED: 0, VERIFIED: 0, UNATTESTED: 0, REJECTED: 1, UNVERIFIABLE: 3, UNAVAILABLE: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One answer. Fields that are not known are null; the keys are always all there."""

    verdict: str
    """accepted, rejected, verified (facts only), unverifiable, unavailable, or unattested (judged by nobody)."""
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
    rtmrs: tuple[str, ...] = ()
    mr_seam: str | None = None
    td_attributes: str | None = None
    reference_value: str | None = None
    trust_anchor: str | None = None
    fmspc: str | None = None
    dynamic_platform: bool | None = None
    cached_keys: bool | None = None
    smt_enabled: bool | None = None
    shortfalls: tuple[str, ...] = ()
    tcb_evaluation_data_number: int | None = None
    earliest_expiration: str | None = None
    collateral_expired: tuple[str, ...] = ()
    padding: int | None = None
    checks: tuple[dict[str, Any], ...] = ()
    evidence: tuple[dict[str, Any], ...] | None = field(default=None)
    """One entry for each attester that was judged on the way; null for a single piece of evidence."""
    facts: dict[str, Any] | None = None
    """What else is known of evidence that was verified and not judged; null for every other answer."""
    verification: tuple[dict[str, Any], ...] | None = None
    """Every step of the verification, where that was asked for."""

    @property
    def exit_code(self) -> int:
        """The exit code that belongs to this answer."""
        return _WORDS[self.verdict]

    def to_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints; what is not of every answer is only there where there is any."""
        found = {name: getattr(self, name) for name in _KEYS}
        return {name: value for name, value in found.items() if value is not None or name not in _NOW_AND_THEN}


_KEYS: Final = tuple(entry.name for entry in fields(Verdict))
_NOW_AND_THEN: Final = ("evidence", "facts", "verification")


def verdict_of_error(error: EAAError) -> Verdict:
    """Return the answer where no judgement was reached. Raises Misuse and bugs of ours: they answer nothing."""
    word = next((word for kinds, word in _WORDS_OF_ERRORS if isinstance(error, kinds)), None)
    if word is None:
        raise error
    return Verdict(verdict=word, reason=error.reason.value, message=error.message, hint=error.hint)


def verdict_of_nobody(who: str) -> Verdict:
    """Return the answer where the operator has chosen, loudly, to take a peer as it comes. It is no acceptance."""
    return Verdict(verdict=UNATTESTED, message=f"the {who} was judged by nobody: it may be anything")
