"""What operators read of a running service, on a listener of its own: a status page, metrics, health.

All that is stored is looked at and verified now and then, apart from requests; pages and numbers are of the last look.
Only a page of more platforms is read when it is asked for: a part of an index.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from eaa.aio.address import Address
from eaa.pccs.census import Census
from eaa.pccs.http_engine import TLSFiles
from eaa.pccs.metrics import Observer, certificate_metrics, pck_certificate_metrics, request_metrics, survey_metrics
from eaa.pccs.rotation import expiry_of
from eaa.pccs.status import FLEET_PAGE, FleetPage, no_page, page_number, status_page
from eaa.pccs.store import PlatformKey, Store
from eaa.pccs.survey import Survey, survey
from eaa.program.exposition import Metric
from eaa.program.health import Health
from eaa.program.listener import Page, serving_metrics
from eaa.program.metrics import process_metrics
from eaa.verifier import TrustAnchors

LOOK_INTERVAL: Final = 5.0
"""Seconds between two questions whether the store has changed."""
SURVEY_INTERVAL: Final = 60.0
"""Seconds after which it is looked at again, changed or not: documents come of age."""
SHARE: Final = 20
"""A look that takes long is followed by a pause of so many times as long: a million platforms take seconds."""
DATABASE: Final = "database"
"""What is not fine where the database does not answer."""
_log = logging.getLogger(__name__)


class Admin:
    """What an operator may read."""

    def __init__(
        self, store: Store, *, trust_anchors: TrustAnchors, observer: Observer, clock: Callable[[], datetime]
    ) -> None:
        """Tell of this store.

        Args:
            store: what is served.
            trust_anchors: the roots below which it is.
            observer: what has counted fetches.
            clock: the present, aware.
        """
        self._store = store
        self._trust_anchors = trust_anchors
        self._observer = observer
        self._clock = clock
        self._survey: Survey | None = None
        self._census: Census | None = None
        self._starts: tuple[PlatformKey, ...] = ()
        self._rendered = status_page(None, None)
        self._paging = asyncio.Lock()
        self._is_ready = False

    @contextlib.asynccontextmanager
    async def serving(
        self, address: Address | None, serving: Any, tls: Callable[[], TLSFiles | None]
    ) -> AsyncIterator[None]:
        """Serve it for the duration of a block, if an address is named.

        Args:
            address: where.
            serving: counts answers, see `eaa.pccs.server.Serving`.
            tls: returns the certificate that is served.

        Raises:
            Unavailable: the address cannot be had.
        """
        if address is None:
            yield
            return
        health = Health(ready=lambda: () if self._is_ready else (DATABASE,))
        async with serving_metrics(
            address, self._metrics(serving, tls), health=health, pages={"/": self.page}
        ) as names:
            looking = asyncio.get_running_loop().create_task(self._look())
            _log.info("the status page, metrics and health are at %s", ", ".join(names))
            try:
                yield
            finally:
                looking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await looking

    async def page(self, query: str) -> Page:
        """Return the status page, or the platforms of the page that a query names; whoever asks waits for one other."""
        found, number = self._survey, page_number(query)
        if number == 1 or (number and found is None):
            return self._rendered
        if number is None or found is None or number > len(self._starts):
            return no_page("404 Not Found", f"There is no such page: platforms=1 to {max(1, len(self._starts))} are.")
        async with self._paging:
            return await asyncio.to_thread(self._fleet_page, found, number)

    def _fleet_page(self, found: Survey, number: int) -> Page:
        try:
            return status_page(found, self._fleet(number))
        except SQLAlchemyError as error:
            _log.error("the database fails: %s", getattr(error, "orig", error))
            return no_page("503 Service Unavailable", "The database does not answer.")

    def _fleet(self, number: int) -> FleetPage:
        """Return what is between two places of the last count, so that what came since pushes nothing off its page."""
        starts = self._starts
        since = starts[number - 1] if 1 < number <= len(starts) else None
        until = starts[number] if number < len(starts) else None
        platforms = self._store.fleet(since=since, until=until)
        return FleetPage(number=number, pages=max(1, len(starts)), platforms=platforms)

    def _metrics(self, serving: Any, tls: Callable[[], TLSFiles | None]) -> list[Metric]:
        def expiry() -> datetime | None:
            files = tls()
            return None if files is None else expiry_of(files)

        return [
            *survey_metrics(lambda: self._survey),
            *pck_certificate_metrics(lambda: self._survey),
            *request_metrics(lambda: serving.answered),
            *self._observer.metrics(),
            *certificate_metrics(expiry),
            *process_metrics(),
        ]

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        surveyed: int | None = None
        rests_until = due = loop.time()
        while True:
            try:
                generation = await asyncio.to_thread(self._store.generation)
                self._is_ready = True
                began = loop.time()
                if began >= rests_until and (generation != surveyed or began >= due):
                    await asyncio.to_thread(self._take_survey, is_changed=generation != surveyed)
                    surveyed = generation
                    rests_until = loop.time() + SHARE * (loop.time() - began)
                    due = began + SURVEY_INTERVAL
            except SQLAlchemyError as error:
                self._is_ready = False
                _log.error("the database fails: %s", getattr(error, "orig", error))
            except Exception:  # noqa: BLE001  a bug of ours costs this look and not all that follow
                _log.exception("an error of ours")
            await asyncio.sleep(LOOK_INTERVAL)

    def _take_survey(self, *, is_changed: bool) -> None:
        if is_changed or self._census is None:
            self._census = Census.take(self._store)
            self._starts = self._store.fleet_starts(page=FLEET_PAGE)
        found = survey(self._store, trust_anchors=self._trust_anchors, now=self._clock(), census=self._census)
        self._rendered = status_page(found, self._fleet(1))
        self._survey = found
