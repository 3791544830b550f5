"""One peer's certificate in, who the peer is out; or an EAAError. No input or output happens here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from eaa.appraise.appraisal import SessionBinding
from eaa.appraise.result import Accepted, BindingLevel, Rejected, Role
from eaa.errors import Misuse, Reason, Rejection, Unavailable
from eaa.sources.endorsements import stapled_collateral
from eaa.tls.certificate import RATLSCertificate
from eaa.tls.leaf import read_leaf


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

    def judge(der: bytes | None) -> Peer:
        certificate = None if der is None else read_leaf(der, now=verifier.now())
        if certificate is None or certificate.evidence is None or certificate.expected_report_data is None:
            raise _rejection(verifier.judge_now(None, role=role, session=None))
        certificate.verify_binding()
        evidence, report_data = certificate.evidence, certificate.expected_report_data
        session = SessionBinding(evidence=evidence, report_data=report_data, level=BindingLevel.CERT)
        judgement = _judge(verifier, certificate, role=role, session=session)
        verdict = _accepted(judgement, evidence, report_data)
        return Peer(certificate=certificate, verdict=verdict, facts=getattr(judgement, "verified", None))

    return judge


def _judge(verifier: Verifier, certificate: RATLSCertificate, *, role: Role, session: SessionBinding) -> Judgement:
    """Judge with the collateral that is there; only where there is none, with what the certificate brings along."""
    try:
        return verifier.judge_now(session.evidence, role=role, session=session)
    except Unavailable:
        if certificate.endorsements is None:
            raise
        stapled = stapled_collateral(certificate.endorsements)
        return verifier.judge_now(session.evidence, role=role, session=session, stapled=stapled)


def _accepted(judgement: Judgement, evidence: bytes, report_data: bytes) -> Accepted:
    """Return the acceptance, if it is one and was made for exactly this."""
    if not isinstance(judgement.result, Accepted):
        raise _rejection(judgement)
    shown = (hashlib.sha256(evidence).digest(), report_data, BindingLevel.CERT)
    if (judgement.result.evidence_digest, judgement.result.report_data, judgement.result.binding) != shown:
        raise Misuse(
            Reason.RESULT_FOR_OTHER_EVIDENCE,
            "the appraisal result was made for other evidence than this peer's, or for another session",
        )
    return judgement.result


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
