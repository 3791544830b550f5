"""Answers that are ready to leave: given on the engine's own thread, before anything else is looked at.

Nine of ten requests are for a document that was asked for a moment ago. Its answer is kept here as it leaves, for the
very path and query that asked. It cannot outlive its document, because it carries the moment up to which it may be
given; nor a change of the store, because it belongs to a generation, and is not given where nobody has looked for a
newer one lately.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from eaa.pccs.http_engine import KEEP_ALIVE
from eaa.pccs.wire import Request, Response

MAX_READY: Final = 4096
"""Answers; each has a few KiB, shared with those that were rendered."""
MAX_KEY: Final = 2048
"""Characters of path and query of an answer that is kept."""
LOOKED_WITHIN: Final = 3.0
"""Seconds: a newer generation of the store is found every second, and where nobody looks any more nothing is given."""
_REQUEST_ID: Final = "request-id"
KEPT_OPEN: Final = (("connection", "keep-alive"), ("keep-alive", f"timeout={KEEP_ALIVE}"))
CLOSING: Final = (("connection", "close"),)


class Generations(Protocol):
    """Knows of which generation the store is."""

    @property
    def generation(self) -> int:
        """Of the store, as far as is known."""
        ...


def new_request_id() -> str:
    """Return 32 hex digits in the form of a random UUID: a name, and no secret."""
    bits = random.getrandbits(128)
    return f"{bits & ~(0xF << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62:032x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """One answer as it leaves, but for its Request-ID and what it says of the connection."""

    headers: list[tuple[str, str]]
    body: bytes = field(repr=False)
    ends: float
    """Seconds since 1970: from then on it is not given."""
    generation: int
    route: str
    """For counting."""


class HotAnswers:
    """Answers by path and query. `give` is called on the engine's thread, everything else on the event loop."""

    def __init__(self, service: Generations, *, clock: Callable[[], float] = time.time) -> None:
        """Begin without answers.

        Args:
            service: tells the generation of the store.
            clock: the present, in seconds since 1970.
        """
        self._service = service
        self._clock = clock
        self._answers: dict[tuple[str, str], _Ready] = {}
        self._looked = -LOOKED_WITHIN
        self.given: Counter[str] = Counter()
        """How many were given, by route."""
        self.was_asked = False
        """Whether anybody has asked since this was last set to False."""

    def looked(self) -> None:
        """Take notice of that somebody has just looked whether the store has changed."""
        self._looked = time.monotonic()

    def give(self, scope: Any, protocol: Any, *, is_closing: bool) -> bool:
        """Answer a request, if its answer is ready; with `is_closing`, its connection ends with it."""
        self.was_asked = True
        if scope.method != "GET":
            return False
        found = self._answers.get((scope.path, scope.query_string))
        if (
            found is None
            or found.generation != self._service.generation
            or self._clock() >= found.ends
            or time.monotonic() - self._looked > LOOKED_WITHIN
        ):
            return False
        sent = scope.headers
        if "if-none-match" in sent or "content-length" in sent or "transfer-encoding" in sent:
            return False
        closes = is_closing or scope.http_version != "1.1" or "close" in sent.get("connection", "").lower()
        more = (CLOSING if is_closing else ()) if closes else KEPT_OPEN
        protocol.response_bytes(200, [(_REQUEST_ID, new_request_id()), *found.headers, *more], found.body)
        self.given[found.route] += 1
        return True

    def keep(self, request: Request, response: Response, *, generation: int, route: str) -> None:
        """Keep an answer that was found while the store was of this generation, if it may be given again."""
        is_whole = request.method == "GET" and response.status == 200 and response.keep_until is not None
        if not is_whole or len(request.path) + len(request.query) > MAX_KEY or generation != self._service.generation:
            return
        assert response.keep_until is not None
        headers = [(name.lower(), value) for name, value in response.headers]
        self._answers[request.path, request.query] = _Ready(
            headers=[*(pair for pair in headers if pair[0] != _REQUEST_ID), ("server", "eaa-pccs")],
            body=response.body,
            ends=response.keep_until.timestamp(),
            generation=generation,
            route=route,
        )
        if len(self._answers) > MAX_READY:
            del self._answers[next(iter(self._answers))]

    def sweep(self) -> None:
        """Let go of what will not be given any more."""
        now, generation = self._clock(), self._service.generation
        kept = {
            key: ready for key, ready in self._answers.items() if ready.generation == generation and now < ready.ends
        }
        if len(kept) < len(self._answers):
            self._answers = kept
