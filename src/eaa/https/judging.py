"""One peer's certificate in, who the peer is out; or an EAAError. No input or output happens here."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, Final, Protocol, TypeVar

from eaa.appraise.appraisal import SessionBinding
from eaa.appraise.result import Accepted, BindingLevel, Rejected, Role
from eaa.errors import Misuse, Reason, Rejection, Unavailable
from eaa.sources.endorsements import stapled_collateral
from eaa.tls.certificate import RATLSCertificate
from eaa.tls.leaf import MAX_KNOWN_LEAVES, read_leaf

VERDICT_LIFETIME: Final = timedelta(seconds=1)
"""How long an acceptance serves the same certificate again: clients open several connections at a time.

At level `cert` nothing in a verdict is of one connection, and a connection itself lives longer than that.
"""

_T = TypeVar("_T")
_log: Final = logging.getLogger("eaa.https")


class Judgement(Protocol):
    """What a verifier answers."""

    @property
    def result(self) -> Accepted | Rejected:
        """The appraisal."""


class Verifier(Protocol):
    """Who judges peers; `eaa.verifier.Verifier` is one."""

    def now(self) -> datetime:
        """Return the present, aware."""

    def judge_now(
        self, evidence: bytes | None, *, role: Role, session: SessionBinding | None, stapled: bytes | None = None
    ) -> Judgement:
        """Verify and appraise without any network: a miss raises Unavailable with COLLATERAL_PENDING."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end: an accepted peer."""

    certificate: RATLSCertificate
    verdict: Accepted
    facts: Any = field(repr=False)
    """What verification established: `eaa.verifier.VerifiedQuote` where `eaa.verifier.Verifier` judged."""

    @property
    def level(self) -> BindingLevel:
        """How closely the evidence is tied to this connection: `cert` is all that a certificate can do."""
        return self.verdict.binding


PeerJudge = Callable[[bytes | None], Peer]
"""Takes a leaf certificate, DER, or None where the peer sent none. Raises EAAError unless the peer is accepted."""


def judge_by(verifier: Verifier, role: Role) -> PeerJudge:
    """Return the judge of peers that appear in this role."""
    verdicts: OrderedDict[bytes, _Verdict] = OrderedDict()

    def judge(der: bytes | None) -> Peer:
        now = verifier.now()
        verdict = None if der is None else verdicts.get(der)
        if verdict is not None and verdict.holds(now):
            verdict.peer.certificate.verify_dates(now=now)
            return verdict.peer
        shown = None if der is None else _read(der, now)
        if der is None or shown is None:
            raise _rejection(verifier.judge_now(None, role=role, session=None))
        judgement = _judge(verifier, shown, role=role)
        accepted, facts = _accepted(judgement, shown), getattr(judgement, "verified", None)
        peer = Peer(certificate=shown.certificate, verdict=accepted, facts=facts)
        _remember(verdicts, der, _Verdict(peer, now, monotonic()))
        _log.info("accepted a %s as %s at level %s", role, accepted.reference_value, accepted.binding.label)
        return peer

    return judge


@dataclass(frozen=True, slots=True)
class _Verdict:
    """An acceptance, and when it was given by both clocks."""

    peer: Peer
    given: datetime
    given_monotonic: float

    def holds(self, now: datetime) -> bool:
        """Whether it is as good as new. Somebody may have set the one clock, and a test may have stopped it."""
        by_clock = timedelta(0) <= now - self.given < VERDICT_LIFETIME
        return by_clock and monotonic() - self.given_monotonic < VERDICT_LIFETIME.total_seconds()


@dataclass(frozen=True, slots=True)
class _Shown:
    """A certificate with evidence that names its key."""

    certificate: RATLSCertificate
    session: SessionBinding
    evidence_digest: bytes


_known: Final[OrderedDict[bytes, _Shown]] = OrderedDict()
"""What was read before, by the exact bytes. Dates are not of the bytes alone, and judgements are not either."""


def _read(der: bytes, now: datetime) -> _Shown | None:
    """Return what a leaf shows, None where it shows no evidence. Raises EAAError."""
    shown = _known.get(der)
    if shown is not None:
        shown.certificate.verify_dates(now=now)
        return shown
    certificate = read_leaf(der, now=now)
    evidence, report_data = certificate.evidence, certificate.expected_report_data
    if evidence is None or report_data is None:
        return None
    certificate.verify_binding()
    session = SessionBinding(evidence=evidence, report_data=report_data, level=BindingLevel.CERT)
    shown = _Shown(certificate, session, hashlib.sha256(evidence).digest())
    _remember(_known, der, shown)
    return shown


def _remember(known: OrderedDict[bytes, _T], der: bytes, what: _T) -> None:
    """Remember it for these bytes. Each step is one operation: threads at worst drop one more than they need to."""
    known[der] = what
    while len(known) > MAX_KNOWN_LEAVES:
        with contextlib.suppress(KeyError):
            known.popitem(last=False)


def _judge(verifier: Verifier, shown: _Shown, *, role: Role) -> Judgement:
    """Judge with the collateral that is there; only where there is none, with what the certificate brings along."""
    try:
        return verifier.judge_now(shown.session.evidence, role=role, session=shown.session)
    except Unavailable:
        if shown.certificate.endorsements is None:
            raise
        stapled = stapled_collateral(shown.certificate.endorsements)
        return verifier.judge_now(shown.session.evidence, role=role, session=shown.session, stapled=stapled)


def _accepted(judgement: Judgement, shown: _Shown) -> Accepted:
    """Return the acceptance, if it is one and was made for exactly this."""
    result = judgement.result
    if not isinstance(result, Accepted):
        raise _rejection(judgement)
    wanted = (shown.evidence_digest, shown.session.report_data, BindingLevel.CERT)
    if (result.evidence_digest, result.report_data, result.binding) != wanted:
        raise Misuse(
            Reason.RESULT_FOR_OTHER_EVIDENCE,
            "the appraisal result was made for other evidence than this peer's, or for another session",
        )
    return result


def _rejection(judgement: Judgement) -> Rejection:
    if not isinstance(judgement.result, Rejected):
        return Rejection(Reason.NO_EVIDENCE, "the peer shows no evidence", hint="no verdict can change that")
    cause = judgement.result.root_cause
    return Rejection(
        cause.reason,
        f"the {judgement.result.role}'s evidence fails the check {cause.name}: "
        f"expected {cause.expected}, it is {cause.actual}",
        hint=cause.hint,
        result=judgement,
    )
