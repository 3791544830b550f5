"""The collateral that one piece of evidence is verified with: from a source, from what was kept, or from the peer."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Final, NamedTuple

from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import PCKCertificate, pck_certificate_of
from eaa.errors import EAAError, MalformedInput, Unavailable, VerificationError
from eaa.evidence.quote import Quote
from eaa.sources import CollateralSource, LocalSource, PCKCertificateSource, PCKName
from eaa.verifier.fetching import CLOSE_TIMEOUT, FetchCache, FetchCounters
from eaa.verifier.intake import Intake
from eaa.verifier.platforms import WITHOUT_CHAIN, Model, chain_key, pck_name, read_pck_certificate, verify_descent
from eaa.verifier.stapled import MAX_STAPLED_SIZE, Staple, marks_of, parse_staple, verify_staple
from eaa.verify.cache import VerificationCache
from eaa.verify.dcap import VerifiedCollateral

MAX_CACHED_COLLATERAL: Final = 256
MAX_CACHED_CHAINS: Final = 1024
"""PCK certificate chains of quotes that do not carry their own."""

_log = logging.getLogger(__name__)


class Patience(Enum):
    """What becomes of whoever asks for something that is not here."""

    WAIT = "until it is fetched"
    NOW = "refused, and it is fetched for the next time"


class Supplied(NamedTuple):
    """What one piece of evidence is to be verified with."""

    collateral: Collateral
    pck: PCKCertificate | None
    """The PCK certificate of the evidence, unverified, where it had to be read to find the collateral."""
    model: Model
    stapled: bool
    """Whether the peer brought it."""


class Supply:
    """Collateral and PCK chains of one verifier. Thread-safe."""

    def __init__(
        self,
        source: CollateralSource,
        *,
        verified: VerificationCache,
        clock: Callable[[], datetime],
        grace: timedelta,
        accept_stapled: bool,
    ) -> None:
        """Make an empty one.

        Args:
            source: where collateral comes from.
            verified: what was verified before, by the same trust anchors as all that comes.
            clock: the present, an aware datetime.
            grace: the longest time that collateral may be used past its nextUpdate, by any policy.
            accept_stapled: whether a peer's collateral may serve where there is nothing to compare it with.
        """
        self._intake = Intake(source, verified=verified, clock=clock, grace=grace)
        self._chain_source = source if isinstance(source, PCKCertificateSource) else None
        self._is_local = isinstance(source, LocalSource) and source.is_local
        self._verified = verified
        self._clock = clock
        self._grace = grace
        self._accept_stapled = accept_stapled
        self._models: FetchCache[Model, Collateral] = FetchCache(
            what=lambda model: f"the collateral of {model}",
            maximum=MAX_CACHED_COLLATERAL,
            clock=clock,
            vet=self._intake.vet,
            replaced=self._intake.replaced,
        )
        self._chains: FetchCache[bytes, bytes | None] = FetchCache(
            what=lambda _: "the PCK certificate of a platform whose quotes do not carry it",
            maximum=MAX_CACHED_CHAINS,
            clock=clock,
        )
        self._own: tuple[bytes, Model] | None = None
        self._json: tuple[Collateral, bytes] | None = None

    @property
    def generation(self) -> int:
        """How often collateral that was kept has been replaced."""
        return self._intake.generation

    # --- for one piece of evidence

    def collateral_for(
        self,
        quote: Quote,
        *,
        now: datetime,
        patience: Patience,
        stapled: bytes | None = None,
        admits: Callable[[VerifiedCollateral], bool],
    ) -> Supplied:
        """Return the collateral for a quote, unverified unless the peer brought it.

        Args:
            quote: the quote, unverified.
            now: the present.
            patience: whether a fetch may be waited for.
            stapled: what the peer has brought along, a collateral file.
            admits: whether a policy would take such collateral; asked of a peer's only.

        Raises:
            Unavailable: COLLATERAL_PENDING, OVERLOADED, or what kept it from being fetched.
            MalformedInput, VerificationError: the quote names no platform, or none that a trusted vendor has certified.
        """
        chain = self._chain_for(quote, now, patience)
        model, pck = self._model_of(quote, chain)
        kept = self._models.find(model, now)
        own = kept.value if kept is not None else self._missing(model, quote, chain, patience)
        if stapled is not None:
            known = own if isinstance(own, Collateral) else None
            # A peer's word stands in for what cannot be fetched, and not for what will be here in a moment.
            if known is not None or patience is Patience.WAIT or self._models.failure(model) is not None:
                brought = self._usable(stapled, model=model, own=known, now=now, admits=admits)
                if brought is not None:
                    return Supplied(_with_chain(brought, chain), pck, model, stapled=True)
        if isinstance(own, Unavailable):
            raise own
        return Supplied(_with_chain(own, chain), pck, model, stapled=False)

    def kept(self, model: Model, now: datetime) -> Collateral | None:
        """Return what is kept for a model and may be used, the same object until it is renewed."""
        found = self._models.find(model, now)
        return None if found is None else found.value

    def reconsider(self, quote: Quote, supplied: Supplied) -> None:
        """Take note that a quote did not verify: the fault may lie in what was kept, and be mended since.

        Where a thread renews what is kept, sound collateral stays until then: a stranger's bad quote must not make the
        next peer wait.
        """
        if supplied.stapled:
            return
        key = chain_key(quote)
        if not self._models.renews or not self._intake.is_sound(supplied.collateral):
            self._models.forget(supplied.model)
            self._chains.forget(key)
        else:
            self._models.hasten(supplied.model)
            self._chains.hasten(key)

    def _model_of(self, quote: Quote, chain: bytes | None) -> tuple[Model, PCKCertificate | None]:
        # A platform that was verified before is known by its bytes: its certificate need not be read again.
        known, pck = self._verified.model_of(quote, pck_certificate_chain=chain), None
        if known is None:
            pck = read_pck_certificate(quote, chain)
            known = pck.fmspc, pck.ca
        return Model(int(quote.header.tee_type), *known), pck

    def _missing(self, model: Model, quote: Quote, chain: bytes | None, patience: Patience) -> Collateral | Unavailable:
        """Fetch collateral, or have it fetched; return it, or why it is not there."""
        fetch = functools.partial(self._intake.fetch, model)
        try:
            if patience is Patience.WAIT or self._is_local:
                return self._models.get(model, fetch)
            verify_descent(quote, chain, self._verified.trust_anchors)
            return self._models.get_now(model, fetch)
        except Unavailable as error:
            return error

    def _usable(
        self,
        stapled: bytes,
        *,
        model: Model,
        own: Collateral | None,
        now: datetime,
        admits: Callable[[VerifiedCollateral], bool],
    ) -> Collateral | None:
        """Return what a peer has stapled, if it verifies and nothing in it is behind what was verified before."""
        try:
            collateral = parse_staple(stapled)
            # What most peers bring is what we have.
            if own is not None and collateral.digest == own.digest:
                return None
            staple = verify_staple(collateral, model=model, cache=self._verified, now=now)
        except (MalformedInput, VerificationError) as error:
            _log.info("stapled collateral is not used: %s [%s]", error.message, error.reason)
            return None
        if fault := self._fault_of(staple, admits):
            _log.info("stapled collateral for %s is not used: %s", model, fault)
            return None
        self._intake.marks.raise_to(staple.marks)
        if own is not None:
            if not self._is_newer(staple, own, now):
                return None
            self._models.hasten(model)
        _log.info("stapled collateral for %s is used", model)
        return collateral

    def _fault_of(self, staple: Staple, admits: Callable[[VerifiedCollateral], bool]) -> str | None:
        if behind := self._intake.marks.behind(staple.marks):
            return f"its {' and '.join(behind)} is older than what was seen"
        if not self._accept_stapled and (unknown := self._intake.marks.unknown(staple.marks)):
            return f"there is no {' and '.join(unknown)} to compare it with"
        return None if admits(staple.documents) else "its evaluation numbers are lower than the policy's, or the floor"

    def _is_newer(self, staple: Staple, own: Collateral, now: datetime) -> bool:
        """Whether a staple that is behind in nothing is ahead in something of what was fetched."""
        try:
            return staple.marks != marks_of(self._verified.verify_collateral(own, now=now, grace=self._grace))
        except (MalformedInput, VerificationError):
            return True

    # --- PCK certificates of quotes that do not carry them

    def _chain_for(self, quote: Quote, now: datetime, patience: Patience) -> bytes | None:
        """Return the PCK certificate chain of a quote that does not carry one; None for all others."""
        if self._chain_source is None or quote.certification_data_type not in WITHOUT_CHAIN:
            return None
        key = chain_key(quote)
        kept = self._chains.find(key, now)
        if kept is not None:
            return kept.value
        name = pck_name(quote)
        if patience is Patience.WAIT or self._is_local:
            return self._chains.get(key, functools.partial(self._chain_source.fetch_pck_chain, name))
        return self._chains.get_now(key, functools.partial(self._fetch_chain, name, int(quote.header.tee_type)))

    def _fetch_chain(self, name: PCKName, tee: int, *, pinned: bool = False) -> bytes | None:
        """Fetch a PCK chain, and have the collateral fetched that will be asked for next."""
        assert self._chain_source is not None
        chain = self._chain_source.fetch_pck_chain(name)
        if chain is not None:
            pck = pck_certificate_of(chain)
            model = Model(tee, pck.fmspc, pck.ca)
            self._models.prefetch(model, functools.partial(self._intake.fetch, model), pinned=pinned)
        return chain

    # --- ahead of time

    def prefetch(self, models: Iterable[Model]) -> None:
        """Have the collateral of these models fetched, and keep it fresh for ever. Waits for nothing."""
        if not self._is_local:
            for model in models:
                self._models.prefetch(Model(*model), functools.partial(self._intake.fetch, Model(*model)), pinned=True)

    def prefetch_for(self, quote: Quote) -> None:
        """Do so for the platform of this quote, if a trusted vendor has certified it."""
        if self._is_local:
            return
        if self._chain_source is not None and quote.certification_data_type in WITHOUT_CHAIN:
            fetch = functools.partial(self._fetch_chain, pck_name(quote), int(quote.header.tee_type), pinned=True)
            self._chains.prefetch(chain_key(quote), fetch, pinned=True)
            return
        try:
            verify_descent(quote, None, self._verified.trust_anchors)
        except VerificationError as error:
            _log.info("no collateral is fetched for this machine: %s [%s]", error.message, error.reason)
        else:
            self.prefetch([self._model_of(quote, None)[0]])

    def json_for(self, raw: bytes) -> bytes | None:
        """Return the collateral that is kept for a quote's platform as a file; the same object until it is renewed."""
        try:
            if self._own is None or self._own[0] != raw:
                quote = Quote.parse(raw)
                chain = self._chain_for(quote, self._clock(), Patience.NOW)
                self._own = raw, self._model_of(quote, chain)[0]
            model = self._own[1]
            kept = self._models.find(model, self._clock())
            if kept is None and not self._is_local:
                return None
            collateral = kept.value if kept else self._models.get(model, functools.partial(self._intake.fetch, model))
        except EAAError:
            return None
        if self._json is None or self._json[0] is not collateral:
            self._json = collateral, collateral.to_json()
        return self._json[1] if len(self._json[1]) <= MAX_STAPLED_SIZE else None

    def start(self) -> None:
        """Renew what is in use ahead of its lifetime, from now on."""
        if not self._is_local:
            self._models.start()
            self._chains.start()

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Fetch nothing ahead of time any more; wait for fetches that are under way, for so many seconds each."""
        self._models.close(timeout)
        self._chains.close(timeout)

    def expirations(self) -> dict[str, datetime]:
        """Return when the first document of each kind ends, of all that is kept and was sound when it came."""
        return self._intake.expirations(self._models.values())

    @property
    def counters(self) -> FetchCounters:
        """What was fetched so far."""
        return self._models.counters + self._chains.counters


def _with_chain(collateral: Collateral, chain: bytes | None) -> Collateral:
    if chain is None or chain == collateral.pck_certificate_chain:
        return collateral
    return replace(collateral, pck_certificate_chain=chain)
