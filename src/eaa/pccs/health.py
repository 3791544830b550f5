"""Health, for whatever starts and restarts the service: `/healthz/live`, `/healthz/ready`, `/healthz/startup`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from eaa.pccs.places import Place
from eaa.pccs.store import Store
from eaa.pccs.wire import Request, Response, Status, json_answer

_log = logging.getLogger(__name__)


class Health:
    """Answers whether this process lives, and whether its database does."""

    def __init__(self, store: Store, *, clock: Callable[[], datetime]) -> None:
        """Answer for this store."""
        self._store = store
        self._clock = clock

    def routes(self) -> dict[str, Mapping[str, Callable[[Request, Place], Response]]]:
        """Return who answers what, by route and method."""
        return {"/live": {"GET": self.live}, "/ready": {"GET": self.ready}, "/startup": {"GET": self.startup}}

    def live(self, _request: Request, _place: Place) -> Response:
        """Answer that this process answers."""
        return json_answer({"status": "UP", "timestamp": self._timestamp()})

    def startup(self, _request: Request, _place: Place) -> Response:
        """Answer STARTED: whoever gets an answer has reached a process that is through with starting."""
        return json_answer({"status": "STARTED", "timestamp": self._timestamp()})

    def ready(self, _request: Request, _place: Place) -> Response:
        """Answer 200, or 503 where the database does not answer."""
        began = time.monotonic()
        try:
            is_ready = self._store.is_ready()
        except SQLAlchemyError as error:
            _log.error("not ready: the database fails: %s", getattr(error, "orig", error))
            is_ready = False
        if not is_ready:
            down = {"status": "DOWN", "db": "DISCONNECTED", "timestamp": self._timestamp()}
            return json_answer(down, status=Status.UNAVAILABLE)
        latency = f"{round((time.monotonic() - began) * 1000)}ms"
        return json_answer({"status": "UP", "db": "CONNECTED", "latency": latency, "timestamp": self._timestamp()})

    def _timestamp(self) -> str:
        return self._clock().isoformat(timespec="milliseconds").replace("+00:00", "Z")
