"""The Verifier of RFC 9334 for callers: fetch collateral, verify, appraise.

This is the only library code that reads the wall clock, and it does so in one place: the default of `clock`.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from eaa.appraise.appraisal import Appraiser, SessionBinding, reject_missing_evidence
from eaa.appraise.floor import FloorKeeper, evaluation_numbers
from eaa.appraise.platforms import PinKeeper, PinKey, pin_of
from eaa.appraise.policy import PolicyFile
from eaa.appraise.reference_values import ReferenceValues
from eaa.appraise.result import Accepted, Rejected, Role
from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import PCKCertificate, pck_certificate_of
from eaa.errors import Misuse, Reason, VerificationError
from eaa.evidence.eventlog import EventLog
from eaa.evidence.ppid import PPID_SIZES, PPIDCertification
from eaa.evidence.quote import CertificationDataType, Quote, TEEType
from eaa.sources import CollateralSource, PCKCertificateSource, PCKName
from eaa.verify.cache import VerificationCache
from eaa.verify.chain import INTEL, TrustAnchors
from eaa.verify.dcap import VerifiedQuote

COLLATERAL_LIFETIME: Final = timedelta(hours=1)
"""How long fetched collateral is reused. Short, so that a revocation reaches us long before nextUpdate."""
MAX_CACHED_COLLATERAL: Final = 256
MAX_CACHED_CHAINS: Final = 1024
"""PCK certificate chains of quotes that do not carry their own."""
_LOCKS: Final = 32

_Model = tuple[int, bytes, str]
"""TEE type, FMSPC and CA: what decides which collateral is needed."""

__all__ = ["COLLATERAL_LIFETIME", "INTEL", "Judgement", "TrustAnchors", "VerifiedQuote", "Verifier", "wall_clock"]


def wall_clock() -> datetime:
    """Return the present, UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Facts and their appraisal. `verified` is None where there was no evidence to verify."""

    verified: VerifiedQuote | None
    result: Accepted | Rejected

    @property
    def accepted(self) -> bool:
        """Whether every check passed."""
        return isinstance(self.result, Accepted)


@dataclass(frozen=True, slots=True)
class _Cached:
    collateral: Collateral
    since: datetime


@dataclass(frozen=True, slots=True)
class _CachedChain:
    chain: bytes | None
    since: datetime


class Verifier:
    """Judges evidence by one set of trust anchors, one policy and one set of reference values.

    Thread-safe. Collateral is cached by platform model for COLLATERAL_LIFETIME; concurrent misses for the same model
    fetch once. What verification establishes of collateral, platforms and attestation keys is remembered, see
    `eaa.verify.cache`.
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
        """
        self._source = source
        self._floor = floor
        self._pins = pins
        self._policy = policy or PolicyFile()
        self._clock = clock
        self._verified = VerificationCache(trust_anchors, guard=threading.Lock())
        self._cache: dict[_Model, _Cached] = {}
        self._chains: dict[bytes, _CachedChain] = {}
        self._guard = threading.Lock()
        # A fixed number of locks: the model in an unverified quote is the peer's word and must not grow anything.
        self._fetching = tuple(threading.Lock() for _ in range(_LOCKS))
        self._reference_values = reference_values or ReferenceValues()
        self._appraisers = _appraisers(self._policy, self._reference_values)

    def require_values_for(self, role: Role) -> None:
        """Raise Misuse where no reference value of this role is there: nothing could ever be accepted."""
        if not self._reference_values.of_role(role):
            raise Misuse(
                Reason.NO_VALUE_FOR_ROLE,
                f"there is no reference value of role {role}, so no {role} could be accepted",
                hint=f"`shelter record NAME --role {role} --image FILE` records one; --reference-values names the file",
            )

    def with_reference_values(self, reference_values: ReferenceValues) -> Verifier:
        """Return a verifier that differs in its reference values only. The two share what is fetched and verified.

        It pins no platform: its values are those of a moment, under names that mean nothing later.
        """
        other = copy.copy(self)
        appraisers = _appraisers(self._policy, reference_values)
        vars(other).update(_reference_values=reference_values, _appraisers=appraisers, _pins=None)
        return other

    def verify(self, quote: Quote, *, role: Role = Role.WORKLOAD) -> VerifiedQuote:
        """Establish the facts of one quote, fetching collateral for its platform. Raises EAAError."""
        now = self._clock()
        chain = self._pck_chain_for(quote, now)
        model, pck = self._model_of(quote, chain)
        collateral = self._collateral_for(model, now)
        if chain is not None and chain != collateral.pck_certificate_chain:
            collateral = replace(collateral, pck_certificate_chain=chain)
        grace = self._policy.for_role(role).longest_grace
        try:
            return self._verified.verify_quote(quote, collateral, now=now, grace=grace, known=pck)
        except VerificationError:
            # The fault may lie in what we kept, which may have been replaced since: ask again next time.
            self._forget(model, quote)
            raise

    def judge(
        self,
        evidence: bytes | None,
        *,
        role: Role,
        session: SessionBinding | None,
        expected_report_data: bytes | None = None,
    ) -> Judgement:
        """Verify and appraise the evidence of a peer.

        Args:
            evidence: the quote as received, or None where the peer has shown none.
            role: the role in which it appeared.
            session: what this session's evidence has to contain; None for a document.
            expected_report_data: 64 bytes that a document has to contain; a session brings its own.

        Raises:
            MalformedInput, VerificationError: the evidence is not genuine.
            Unavailable: its collateral could not be had.
        """
        if evidence is None:
            return Judgement(verified=None, result=reject_missing_evidence(role=role))
        verified = self.verify(Quote.parse(evidence), role=role)
        return self.appraise(verified, role=role, session=session, expected_report_data=expected_report_data)

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
        appraise = functools.partial(
            self._appraisers[role].appraise,
            verified,
            session=session,
            expected_report_data=expected_report_data,
            event_log=event_log,
            floor=None if self._floor is None else self._floor.raise_to(evaluation_numbers(verified)),
        )
        if self._pins is None:
            return Judgement(verified=verified, result=appraise())
        pins = self._pins.read()
        result = appraise(pins=pins)
        # Only what passes every other check is pinned. Whoever else saw the value meanwhile was first: judge again.
        if isinstance(result, Accepted):
            key: PinKey = verified.trust_anchor, role, result.reference_value
            if key not in pins.pins:
                result = appraise(pins=self._pins.pin(key, pin_of(verified)))
        return Judgement(verified=verified, result=result)

    async def judge_async(
        self,
        evidence: bytes | None,
        *,
        role: Role,
        session: SessionBinding | None,
        expected_report_data: bytes | None = None,
    ) -> Judgement:
        """Do what `judge` does on a worker thread: fetching collateral must not hold up an event loop."""
        import asyncio  # noqa: PLC0415  a tenth of what `shelter verify` takes, which has no loop

        return await asyncio.to_thread(
            self.judge, evidence, role=role, session=session, expected_report_data=expected_report_data
        )

    def _model_of(self, quote: Quote, chain: bytes | None) -> tuple[_Model, PCKCertificate | None]:
        """Return the model, and the PCK certificate that told it, still unverified, where one had to be read."""
        # A platform that was verified before is known by its bytes: its certificate need not be read again.
        known, pck = self._verified.model_of(quote, pck_certificate_chain=chain), None
        if known is None:
            pck = _read_pck_certificate(quote, chain)
            known = pck.fmspc, pck.ca
        return (int(quote.header.tee_type), *known), pck

    def _pck_chain_for(self, quote: Quote, now: datetime) -> bytes | None:
        """Return the PCK certificate chain of a quote that does not carry one; None for all others."""
        if quote.certification_data_type not in _WITHOUT_CHAIN or not isinstance(self._source, PCKCertificateSource):
            return None
        key = _chain_key(quote)
        cached = self._chains.get(key)
        if cached is None or now - cached.since >= COLLATERAL_LIFETIME:
            cached = _CachedChain(self._source.fetch_pck_chain(_pck_name(quote)), now)
            with self._guard:
                if len(self._chains) >= MAX_CACHED_CHAINS:
                    del self._chains[min(self._chains, key=lambda known: self._chains[known].since)]
                self._chains[key] = cached
        return cached.chain

    def _collateral_for(self, model: _Model, now: datetime) -> Collateral:
        with self._fetching[hash(model) % _LOCKS]:
            cached = self._cache.get(model)
            # A difference cannot overflow as a date in the year 9999 plus a lifetime would.
            if cached is None or now - cached.since >= COLLATERAL_LIFETIME:
                tee, fmspc, ca = model
                fetched = self._source.fetch(tee=TEEType(tee), fmspc=fmspc, ca=ca)
                if cached is not None and cached.collateral != fetched:
                    self._verified.forget(cached.collateral)
                cached = _Cached(fetched, now)
                self._remember(model, cached)
        return cached.collateral

    def _remember(self, model: _Model, cached: _Cached) -> None:
        with self._guard:
            if len(self._cache) >= MAX_CACHED_COLLATERAL:
                del self._cache[min(self._cache, key=lambda known: self._cache[known].since)]
            self._cache[model] = cached

    def _forget(self, model: _Model, quote: Quote) -> None:
        with self._guard:
            self._cache.pop(model, None)
            if self._chains:
                self._chains.pop(_chain_key(quote), None)


def _appraisers(policy: PolicyFile, reference_values: ReferenceValues) -> dict[Role, Appraiser]:
    return {
        role: Appraiser(policy=policy.for_role(role), reference_values=reference_values, role=role) for role in Role
    }


_WITHOUT_CHAIN: Final = frozenset({*PPID_SIZES, CertificationDataType.PCK_LEAF})
_RSA_3072: Final = CertificationDataType.PPID_RSA_3072


def _read_pck_certificate(quote: Quote, chain: bytes | None) -> PCKCertificate:
    if quote.certification_data_type in PPID_SIZES:
        if chain is None:
            raise VerificationError(
                Reason.PCK_CERTIFICATE_MISSING,
                "the quote names its platform without its PCK certificate (certification data of type "
                f"{quote.certification_data_type}), and the source of collateral has none",
                hint="name a PCCS that knows the platform, or let the quoting host put the chain into its quotes",
            )
        return pck_certificate_of(chain)
    return pck_certificate_of(quote.certification_data, certification_data_type=quote.certification_data_type)


def _chain_key(quote: Quote) -> bytes:
    kind = b"%d:" % quote.certification_data_type
    return hashlib.sha256(kind + quote.header.user_data + quote.certification_data).digest()


def _pck_name(quote: Quote) -> PCKName:
    """Return what the quote says of its PCK certificate, unverified. Raises MalformedInput."""
    kind, data = quote.certification_data_type, quote.certification_data
    named = (
        PPIDCertification.parse(data, kind=kind)
        if kind in PPID_SIZES
        else pck_certificate_of(data, certification_data_type=kind)
    )
    return PCKName(
        qe_id=quote.header.user_data[:16],
        encrypted_ppid=named.ppid if kind == _RSA_3072 else None,
        cpu_svn=named.cpu_svn,
        pce_svn=named.pce_svn,
        pce_id=named.pce_id,
    )
