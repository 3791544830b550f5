"""Collateral as it comes in: from its source, verified, and remembered for how new it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final

from eaa.collateral.bundle import Collateral
from eaa.errors import EAAError
from eaa.sources import CollateralSource
from eaa.verifier.platforms import Model
from eaa.verifier.stapled import HighWaterMarks, marks_of
from eaa.verify.cache import VerificationCache

MAX_NOTED: Final = 256
"""Collaterals whose dates are remembered."""


class Intake:
    """What comes from one source. Thread-safe.

    It does not know who keeps what it fetches: those who keep it know this, and one who let go of a verifier has let go
    of everything, with no circle left for the garbage collector.
    """

    def __init__(
        self, source: CollateralSource, *, verified: VerificationCache, clock: Callable[[], datetime], grace: timedelta
    ) -> None:
        """Make one.

        Args:
            source: where collateral comes from.
            verified: what was verified before, by the same trust anchors as all that comes.
            clock: the present, an aware datetime.
            grace: the longest time that collateral may be used past its nextUpdate, by any policy.
        """
        self._source = source
        self._verified = verified
        self._clock = clock
        self._grace = grace
        self._expirations: dict[bytes, tuple[tuple[str, datetime], ...]] = {}
        self.marks = HighWaterMarks()
        """How new everything was that came."""
        self.generation = 0
        """How often collateral that was kept has been replaced."""

    def fetch(self, model: Model) -> Collateral:
        """Return the collateral of a model, unverified. Raises EAAError."""
        collateral = self._source.fetch(tee=model.tee, fmspc=model.fmspc, ca=model.ca)
        # What does not verify is found out when it is used, with the reason that comes first.
        with contextlib.suppress(EAAError):
            self.vet(collateral)
        return collateral

    def vet(self, collateral: Collateral) -> None:
        """Verify collateral, and remember how new it is. Raises MalformedInput, VerificationError."""
        documents = self._verified.verify_collateral(collateral, now=self._clock(), grace=self._grace)
        self.marks.raise_to(marks_of(documents))
        while len(self._expirations) >= MAX_NOTED:
            self._expirations.pop(next(iter(self._expirations)), None)
        self._expirations[collateral.digest] = documents.expirations

    def is_sound(self, collateral: Collateral) -> bool:
        """Whether collateral verifies now."""
        try:
            self.vet(collateral)
        except EAAError:
            return False
        return True

    def replaced(self, before: Collateral) -> None:
        """Let go of what there was before, now that something else is in its place."""
        self._verified.forget(before)
        self.generation += 1

    def expirations(self, collaterals: Iterable[Collateral]) -> dict[str, datetime]:
        """Return when the first document of each kind ends, of those collaterals that were sound when they came."""
        first: dict[str, datetime] = {}
        for collateral in collaterals:
            for name, end in self._expirations.get(collateral.digest, ()):
                first[name] = min(end, first.get(name, end))
        return first
