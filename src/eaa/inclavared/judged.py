"""Judgements that are kept, so that they can be made again: what was accepted once need not be acceptable for ever."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from eaa.aio.attestation import Judge
from eaa.aio.stream import Judgement as StreamJudgement
from eaa.appraise.appraisal import SessionBinding
from eaa.appraise.result import Accepted, BindingLevel, Rejected, Role
from eaa.errors import Reason, Rejection, Unavailable, VerificationError
from eaa.protocol.exchange import EvidenceReceived
from eaa.verifier import Judgement, Verifier

MAX_SHARED: Final = 256
"""Pieces of evidence that are known to recur, and of which one copy serves all sessions."""
_RECURRING: Final = (BindingLevel.CERT, BindingLevel.SESSION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Evidence that was accepted, with all it takes to judge it again.

    What bound it to its session is kept and compared again as it was; the quote proves today what it proved then, but
    the platform's standing, the reference values and the policy may be others.
    """

    role: Role
    session: SessionBinding
    """The evidence as it was received, and the report data of its session."""
    by: Verifier
    generation: int
    """Of the verifier's collateral when it was judged."""
    since: float
    """When it was last judged, on the monotonic clock."""
    expires: datetime
    """When the first of the documents behind it ends that had not ended when it was judged."""

    def is_due(self, verifier: Verifier, *, lifetime: float, monotonic: float, now: datetime) -> str | None:
        """Return why it has to be judged again, a word of ours, or None.

        Args:
            verifier: who judges this role now.
            lifetime: seconds for which a judgement is relied upon.
            monotonic: the monotonic clock's present.
            now: the wall clock's.
        """
        if self.by is not verifier:
            return "reload"
        if self.generation != verifier.collateral_generation:
            return "collateral"
        if monotonic - self.since >= lifetime:
            return "aged"
        return "expired" if now >= self.expires else None


class Witness:
    """A judge that remembers what it has accepted."""

    def __init__(self, judge: Judge, *, verifier: Verifier, role: Role) -> None:
        self._judge = judge
        self._verifier = verifier
        self._role = role
        self.judged: Judged | None = None

    async def __call__(self, shown: EvidenceReceived) -> StreamJudgement:
        """Judge as the judge does. Raises what it raises."""
        generation = self._verifier.collateral_generation
        judgement = await self._judge(shown)
        if isinstance(judgement, Judgement) and isinstance(judgement.result, Accepted) and shown.evidence is not None:
            session = SessionBinding(
                evidence=_shared(shown.evidence, shown.level), report_data=shown.report_data, level=shown.level
            )
            self.judged = _judged(judgement, session=session, role=self._role, by=self._verifier, generation=generation)
        return judgement


def judge_again(judged: Judged, verifier: Verifier) -> Judged:
    """Judge evidence of a live session again, by what `verifier` knows and wants now. Never waits for a network.

    Raises:
        EAAError: it is not acceptable any more.
        Unavailable: nobody can tell just now, because collateral is missing. The old judgement stands, until the
            documents that it rests on have ended.
    """
    generation = verifier.collateral_generation
    try:
        judgement = verifier.judge_now(judged.session.evidence, role=judged.role, session=judged.session)
    except Unavailable:
        # What a new verifier has no collateral for yet the old one may have: the facts are the same, and it is they
        # that new reference values and a new policy have to accept.
        if judged.by is verifier:
            raise
        facts = judged.by.judge_now(judged.session.evidence, role=judged.role, session=judged.session).verified
        assert facts is not None
        _require_accepted(verifier.appraise(facts, role=judged.role, session=judged.session))
        raise
    _require_accepted(judgement)
    return _judged(judgement, session=judged.session, role=judged.role, by=verifier, generation=generation)


def outlives(judged: Judged, error: Unavailable, *, now: datetime) -> None:
    """Raise VerificationError where a judgement that could not be made again rests on documents that have ended."""
    if now >= judged.expires:
        raise VerificationError(
            Reason.COLLATERAL_EXPIRED,
            f"the collateral of the {judged.role}'s judgement ended at {judged.expires:%Y-%m-%dT%H:%M:%SZ}, and no "
            f"other can be had: {error.message}",
            hint=error.hint,
        ) from error


_copies: OrderedDict[bytes, bytes] = OrderedDict()


def _shared(evidence: bytes, level: BindingLevel) -> bytes:
    """Return the same bytes, for sessions of one epoch or one certificate in one place of memory."""
    if level not in _RECURRING:
        return evidence
    kept = _copies.setdefault(evidence, evidence)
    _copies.move_to_end(kept)
    if len(_copies) > MAX_SHARED:
        _copies.popitem(last=False)
    return kept


def _judged(judgement: Judgement, *, session: SessionBinding, role: Role, by: Verifier, generation: int) -> Judged:
    verified = judgement.verified
    assert verified is not None
    now = by.now()
    expires = verified.earliest_expiration
    return Judged(
        role=role,
        session=session,
        by=by,
        generation=generation,
        since=time.monotonic(),
        # Under a policy with a grace documents may have ended already; nothing changes then until they are renewed.
        expires=expires if expires > now else datetime.max.replace(tzinfo=now.tzinfo),
    )


def _require_accepted(judgement: Judgement) -> None:
    match judgement.result:
        case Rejected(root_cause=cause) as rejected:
            raise Rejection(
                cause.reason,
                f"the {rejected.role}'s evidence fails the check {cause.name}: "
                f"expected {cause.expected}, it is {cause.actual}",
                hint=cause.hint,
                result=judgement,
            )
