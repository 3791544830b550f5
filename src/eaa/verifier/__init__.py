"""The Verifier of RFC 9334 for callers: fetch collateral, verify, appraise.

This is the only library code that reads the wall clock, and it does so in one place: the default of `clock`.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from eaa.appraise.appraisal import Appraiser, SessionBinding, reject_missing_evidence
from eaa.appraise.floor import FloorKeeper, evaluation_numbers
from eaa.appraise.platform_checks import needs_lateness
from eaa.appraise.platforms import PinKeeper, PinKey, PlatformPins, pin_of
from eaa.appraise.policy import PolicyFile
from eaa.appraise.reference_values import ReferenceValues
from eaa.appraise.result import Accepted, BindingLevel, Check, Rejected, Role
from eaa.collateral.bundle import Collateral
from eaa.errors import MalformedInput, Misuse, Reason, Unavailable, VerificationError
from eaa.evidence.eventlog import EventLog
from eaa.evidence.quote import Quote
from eaa.records import quick
from eaa.sources import CollateralSource
from eaa.verifier.fetching import CLOSE_TIMEOUT, COLLATERAL_LIFETIME, FetchCounters
from eaa.verifier.platforms import Model
from eaa.verifier.supply import MAX_CACHED_CHAINS, MAX_CACHED_COLLATERAL, Patience, Supplied, Supply
from eaa.verify.cache import VerificationCache, at_another_time
from eaa.verify.chain import INTEL, TrustAnchors
from eaa.verify.dcap import VerifiedCollateral, VerifiedQuote

if TYPE_CHECKING:
    # Few ask for an explanation, and everybody waits for what is imported.
    from eaa.verify.steps import Step as Step

MAX_JUDGED: Final = 512
"""Judgements that are remembered: as many peers as come back with the evidence of a certificate, or of an epoch."""

_NO_GRACE: Final = timedelta(0)
_RECURRING: Final = (BindingLevel.CERT, BindingLevel.SESSION)
"""Levels whose evidence is shown in one handshake after another."""

__all__ = [
    "COLLATERAL_LIFETIME",
    "INTEL",
    "MAX_CACHED_CHAINS",
    "MAX_CACHED_COLLATERAL",
    "FetchCounters",
    "Judgement",
    "Model",
    "TrustAnchors",
    "VerifiedQuote",
    "Verifier",
    "wall_clock",
]


def wall_clock() -> datetime:
    """Return the present, UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Facts and their appraisal. `verified` is None where there was no evidence to verify."""

    verified: VerifiedQuote | None
    result: Accepted | Rejected
    stapled: bool = False
    """Whether the facts rest on collateral that the peer brought along."""

    @property
    def accepted(self) -> bool:
        """Whether every check passed."""
        return isinstance(self.result, Accepted)

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every check that ran, those that passed included."""
        return self.result.checks


_new_judgement: Final = quick(Judgement)
_Asked = tuple[bytes, Role, BindingLevel, bytes]
"""Evidence, the role in which it appeared, its binding and the report data that it has to contain."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """What was said of evidence that comes again, and all that it rests on but the evidence."""

    judgement: Judgement
    model: Model
    collateral: Collateral
    stapled: bytes | None
    """What the peer brought along, and was not used."""
    begins: datetime
    ends: datetime
    """Every document is valid from the one to the other."""


class Verifier:
    """Judges evidence by one set of trust anchors, one policy and one set of reference values.

    Thread-safe. Collateral is cached by platform model for COLLATERAL_LIFETIME; concurrent misses for the same model
    fetch once, and share a failure. What verification establishes of collateral, platforms and attestation keys is
    remembered, see `eaa.verify.cache`.
    """

    def __init__(
        self,
        source: CollateralSource,
        *,
        trust_anchors: TrustAnchors = INTEL,
        policy: PolicyFile | None = None,
        reference_values: ReferenceValues | None = None,
        clock: Callable[[], datetime] = wall_clock,
        floor: FloorKeeper | None = None,
        pins: PinKeeper | None = None,
        accept_stapled_collateral: bool = False,
    ) -> None:
        """Make one.

        Args:
            source: where collateral comes from.
            trust_anchors: the roots to believe.
            policy: what evidence must satisfy; the strict defaults where it is left out.
            reference_values: what evidence must match; without any, nothing is accepted.
            clock: the present, an aware datetime.
            floor: who remembers evaluation numbers, so that a lower one is refused.
            pins: who remembers on which machine each reference value was first accepted, so that another is refused.
            accept_stapled_collateral: let a peer's collateral serve where there is nothing to compare it with and none
                can be fetched; it may be as old as its dates allow.
        """
        self._floor = floor
        self._pins = pins
        self._policy = policy or PolicyFile()
        self._clock = clock
        self._verified = VerificationCache(trust_anchors, guard=threading.Lock())
        self._graces = {role: self._policy.for_role(role).longest_grace for role in Role}
        self._supply = Supply(
            source,
            verified=self._verified,
            clock=clock,
            grace=max(self._graces.values()),
            accept_stapled=accept_stapled_collateral,
        )
        self._reference_values = reference_values or ReferenceValues()
        self._appraisers = _appraisers(self._policy, self._reference_values)
        self._judged: dict[_Asked, _Judged] = {}

    def now(self) -> datetime:
        """Return the present as this verifier's clock has it."""
        return self._clock()

    def accepts_role(self, role: Role) -> bool:
        """Whether there is any reference value of this role: without one, nothing could ever be accepted."""
        return bool(self._reference_values.of_role(role))

    def require_values_for(self, role: Role) -> None:
        """Raise Misuse where no reference value of this role is there: nothing could ever be accepted."""
        if not self.accepts_role(role):
            raise Misuse(
                Reason.NO_VALUE_FOR_ROLE,
                f"there is no reference value of role {role}, so no {role} could be accepted",
                hint=f"`shelter record NAME --role {role} --image FILE` records one; --reference-values names the file",
            )

    def require_level_for(self, role: Role, level: BindingLevel) -> None:
        """Raise Misuse where evidence of this role, asked for at this level, could never be accepted."""
        least = self._policy.for_role(role).minimum_binding
        if level < least:
            raise Misuse(
                Reason.BINDING_TOO_WEAK,
                f"evidence is asked for at level {level.label}, and the policy accepts none of a {role} below "
                f"{least.label}",
                hint=f"ask for --level {least.label}, or lower minimum_binding (--minimum-binding)",
            )

    def with_reference_values(self, reference_values: ReferenceValues) -> Verifier:
        """Return a verifier that differs in its reference values only. The two share what is fetched and verified.

        It pins no platform: its values are those of a moment, under names that mean nothing later.
        """
        other = copy.copy(self)
        appraisers = _appraisers(self._policy, reference_values)
        vars(other).update(_reference_values=reference_values, _appraisers=appraisers, _pins=None, _judged={})
        return other

    def with_judgement_by(
        self,
        *,
        policy: PolicyFile,
        reference_values: ReferenceValues,
        floor: FloorKeeper | None = None,
        pins: PinKeeper | None = None,
    ) -> Verifier:
        """Return a verifier that judges otherwise. The two share trust anchors, and what is fetched and verified."""
        other = copy.copy(self)
        vars(other).update(
            _policy=policy,
            _graces={role: policy.for_role(role).longest_grace for role in Role},
            _reference_values=reference_values,
            _appraisers=_appraisers(policy, reference_values),
            _floor=floor,
            _pins=pins,
            _judged={},
        )
        return other

    @property
    def trust_anchors(self) -> TrustAnchors:
        """The roots that it believes."""
        return self._verified.trust_anchors

    @property
    def collateral_generation(self) -> int:
        """Grows whenever collateral is replaced: what was judged at another generation may be judged otherwise now."""
        return self._supply.generation

    def verify(self, quote: Quote, *, role: Role = Role.WORKLOAD, stapled: bytes | None = None) -> VerifiedQuote:
        """Establish the facts of one quote, fetching collateral for its platform. Raises EAAError."""
        return self._establish(quote, role=role, patience=Patience.WAIT, stapled=stapled, recurs=False)[0]

    def explain(self, evidence: bytes, *, role: Role = Role.WORKLOAD) -> tuple[Step, ...]:
        """Return every step of the verification of one quote, for people. What `verify` says of it, that holds.

        Args:
            evidence: the quote as received.
            role: the role in which it appeared; its policy may have a grace.
        """
        from eaa.verify.steps import explain_failure, explain_verification  # noqa: PLC0415  as above

        now, quote = self._clock(), None
        try:
            quote = Quote.parse(evidence)
            supplied = self._supply.collateral_for(quote, now=now, patience=Patience.WAIT, admits=lambda _: False)
        except (MalformedInput, VerificationError, Unavailable) as error:
            return explain_failure(error, quote=quote)
        return explain_verification(
            quote, supplied.collateral, trust_anchors=self.trust_anchors, now=now, grace=self._graces[role]
        )

    def _establish(
        self, quote: Quote, *, role: Role, patience: Patience, stapled: bytes | None, recurs: bool
    ) -> tuple[VerifiedQuote, Supplied]:
        """Return the facts, and the collateral that they rest on."""
        now = self._clock()
        supplied = self._supply.collateral_for(
            quote, now=now, patience=patience, stapled=stapled, admits=lambda brought: self._admits(brought, role=role)
        )
        # A grace is for those who cannot fetch, not for those who staple.
        grace = _NO_GRACE if supplied.stapled else self._graces[role]
        try:
            verified = self._verified.verify_quote(
                quote, supplied.collateral, now=now, grace=grace, known=supplied.pck, recurs=recurs
            )
        except VerificationError:
            self._supply.reconsider(quote, supplied)
            raise
        return verified, supplied

    def _admits(self, documents: VerifiedCollateral, *, role: Role) -> bool:
        """Whether evaluation numbers would pass: what policy or floor refuse is not taken from a peer to begin with."""
        info, identity = documents.tcb_info, documents.qe_identity
        numbers = {"tcb-info": info.tcb_evaluation_data_number, "qe-identity": identity.tcb_evaluation_data_number}
        floor = {} if self._floor is None else self._floor.raise_to({}).numbers
        anchor, lowest = documents.lists.root.fingerprint, self._policy.for_role(role).minimum_evaluation_number
        return all(
            number >= max(lowest, floor.get((anchor, f"{info.id.lower()}-{kind}"), 0))
            for kind, number in numbers.items()
        )

    def judge(
        self,
        evidence: bytes | None,
        *,
        role: Role,
        session: SessionBinding | None,
        expected_report_data: bytes | None = None,
        stapled: bytes | None = None,
    ) -> Judgement:
        """Verify and appraise the evidence of a peer. Waits for collateral that has to be fetched.

        Args:
            evidence: the quote as received, or None where the peer has shown none.
            role: the role in which it appeared.
            session: what this session's evidence has to contain; None for a document.
            expected_report_data: 64 bytes that a document has to contain; a session brings its own.
            stapled: the collateral file that the peer has sent along. It is verified like any other, and used where
                everything in it is at least as new as what was seen before; otherwise it is as if it had not come.

        Raises:
            MalformedInput, VerificationError: the evidence is not genuine.
            Unavailable: its collateral could not be had.
        """
        return self._judge(
            evidence,
            role=role,
            session=session,
            expected_report_data=expected_report_data,
            stapled=stapled,
            patience=Patience.WAIT,
        )

    def judge_now(
        self,
        evidence: bytes | None,
        *,
        role: Role,
        session: SessionBinding | None,
        expected_report_data: bytes | None = None,
        stapled: bytes | None = None,
    ) -> Judgement:
        """Do what `judge` does, without ever waiting for a network: for handshakes, and for event loops.

        Collateral that is not here is fetched on a thread, once for all who ask, and then kept fresh; see `prefetch`.

        Raises:
            MalformedInput, VerificationError: as `judge`.
            Unavailable: COLLATERAL_PENDING, it is being fetched: whoever tries again in a moment will be judged.
                OVERLOADED, too many models are waited for.
        """
        return self._judge(
            evidence,
            role=role,
            session=session,
            expected_report_data=expected_report_data,
            stapled=stapled,
            patience=Patience.NOW,
        )

    def _judge(
        self,
        evidence: bytes | None,
        *,
        role: Role,
        session: SessionBinding | None,
        expected_report_data: bytes | None,
        stapled: bytes | None,
        patience: Patience,
    ) -> Judgement:
        if evidence is None:
            return Judgement(verified=None, result=reject_missing_evidence(role=role))
        # A peer shows the evidence of its certificate, and of its epoch, again and again; any other only once.
        if session is not None and session.level in _RECURRING and session.evidence == evidence:
            return self._judge_again(evidence, role=role, session=session, stapled=stapled, patience=patience)
        quote = self._verified.parse(evidence)
        verified, supplied = self._establish(quote, role=role, patience=patience, stapled=stapled, recurs=False)
        judgement = self.appraise(verified, role=role, session=session, expected_report_data=expected_report_data)
        return replace(judgement, stapled=True) if supplied.stapled else judgement

    def _judge_again(
        self, evidence: bytes, *, role: Role, session: SessionBinding, stapled: bytes | None, patience: Patience
    ) -> Judgement:
        """Judge evidence that comes again, or recall what was said of it while all that this rests on is the same."""
        asked: _Asked = evidence, role, session.level, session.report_data
        if recalled := self._recall(asked, stapled):
            return recalled
        # What a floor or pins say may be otherwise in a moment: then nothing but the facts is remembered.
        of_the_moment = self._floor is not None or self._pins is not None
        quote = self._verified.recall(evidence) if of_the_moment else self._verified.parse(evidence)
        verified, supplied = self._establish(quote, role=role, patience=patience, stapled=stapled, recurs=of_the_moment)
        judgement = self.appraise(verified, role=role, session=session)
        if supplied.stapled:
            return replace(judgement, stapled=True)
        # And so is what is said of a platform that is behind, or of a document in its grace.
        if not of_the_moment and not needs_lateness(verified, self._policy.for_role(role)):
            self._remember(asked, judgement, verified, supplied, stapled)
        return judgement

    def _recall(self, asked: _Asked, stapled: bytes | None) -> Judgement | None:
        found = self._judged.get(asked)
        if found is None or found.stapled != stapled:
            return None
        now = self._clock()
        if not found.begins <= now <= found.ends or self._supply.kept(found.model, now) is not found.collateral:
            return None
        known = found.judgement.verified
        return Judgement(
            verified=None if known is None else at_another_time(known, now=now), result=found.judgement.result
        )

    def _remember(
        self, asked: _Asked, judgement: Judgement, verified: VerifiedQuote, supplied: Supplied, stapled: bytes | None
    ) -> None:
        # Each step is one operation on the dictionary: threads at worst judge twice.
        if len(self._judged) >= MAX_JUDGED:
            self._judged.clear()
        begins = max(map(itemgetter(1), verified.issued))
        self._judged[asked] = _Judged(
            judgement, supplied.model, supplied.collateral, stapled, begins, verified.earliest_expiration
        )

    def appraise(
        self,
        verified: VerifiedQuote,
        *,
        role: Role,
        session: SessionBinding | None,
        expected_report_data: bytes | None = None,
        event_log: EventLog | None = None,
    ) -> Judgement:
        """Appraise facts that were established before."""
        floor = None if self._floor is None else self._floor.raise_to(evaluation_numbers(verified))

        def appraise(pins: PlatformPins | None) -> Accepted | Rejected:
            return self._appraisers[role].appraise(
                verified,
                session=session,
                expected_report_data=expected_report_data,
                event_log=event_log,
                floor=floor,
                pins=pins,
            )

        pins = None if self._pins is None else self._pins.read()
        result = appraise(pins)
        # Only what passes every other check is pinned. Whoever else saw the value meanwhile was first: judge again.
        if self._pins is not None and pins is not None and isinstance(result, Accepted):
            key: PinKey = verified.trust_anchor, role, result.reference_value
            if key not in pins.pins:
                result = appraise(self._pins.pin(key, pin_of(verified)))
        return _new_judgement(verified=verified, result=result)

    async def judge_async(
        self,
        evidence: bytes | None,
        *,
        role: Role,
        session: SessionBinding | None,
        expected_report_data: bytes | None = None,
        stapled: bytes | None = None,
    ) -> Judgement:
        """Do what `judge` does on a worker thread: fetching collateral must not hold up an event loop."""
        import asyncio  # noqa: PLC0415  a tenth of what `shelter verify` takes, which has no loop

        return await asyncio.to_thread(
            self.judge,
            evidence,
            role=role,
            session=session,
            expected_report_data=expected_report_data,
            stapled=stapled,
        )

    # --- collateral ahead of time

    def prefetch(self, models: Iterable[Model]) -> None:
        """Have the collateral of these platform models fetched, and keep it fresh until `close`. Waits for nothing.

        Raises:
            Unavailable: OVERLOADED, they are too many.
        """
        self._supply.prefetch(models)

    def prefetch_for(self, evidence: bytes) -> None:
        """Do so for the platform of this quote, a server's own for instance: its peers tend to be like it.

        Raises:
            MalformedInput: it is no quote.
        """
        self._supply.prefetch_for(Quote.parse(evidence))

    def start_refreshing(self) -> None:
        """Renew collateral that is in use ahead of COLLATERAL_LIFETIME, on a thread.

        `prefetch` and the first miss of `judge_now` start it as well.
        """
        self._supply.start()

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """End the thread. A fetch that is under way is waited for, for some `timeout` seconds, and not interrupted."""
        self._supply.close(timeout)

    def collateral_json(self, evidence: bytes) -> bytes | None:
        """Return the collateral file of this quote's platform, to be stapled to it: None where none is kept just now.

        Never waits and never raises. The same object is returned until the collateral is renewed.
        """
        return self._supply.json_for(evidence)

    def collateral_expirations(self) -> dict[str, datetime]:
        """Return when the first document of each kind ends, of all collateral that is kept: names as in verdicts."""
        return self._supply.expirations()

    @property
    def counters(self) -> FetchCounters:
        """What was fetched so far, for metrics."""
        return self._supply.counters


def _appraisers(policy: PolicyFile, reference_values: ReferenceValues) -> dict[Role, Appraiser]:
    return {
        role: Appraiser(policy=policy.for_role(role), reference_values=reference_values, role=role) for role in Role
    }
