"""The routes: which request gets which answer from the cache. No sockets here, and no waiting but for the database.

Who answers which route stands in `reading`, `operations` and `health`. In OFFLINE mode it answers from what was
uploaded, and a miss is a miss; in LAZY mode a miss is filled from the upstream, see `eaa.pccs.filling`, in REQ mode
only when a platform reports itself. What is past its time, or does not verify, is a miss as well. An answer is rendered
once and then kept, see `eaa.pccs.rendered`; one that is aging is given, and its successor fetched in the background.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from eaa.pccs.engines import will_pass
from eaa.pccs.filling import Filler, Mode
from eaa.pccs.health import Health
from eaa.pccs.metrics import route_of
from eaa.pccs.misses import Fetch, Misses
from eaa.pccs.observing import Observer
from eaa.pccs.operations import Operations
from eaa.pccs.places import ADMIN, REFRESH, USER, Place, guard_of, place_of
from eaa.pccs.reading import Reader
from eaa.pccs.refresh import Renewals
from eaa.pccs.rendered import RenderedAnswers
from eaa.pccs.store import Store
from eaa.pccs.tokens import Token
from eaa.pccs.uploads import MAX_UPLOAD
from eaa.pccs.wire import Refusal, Request, Response, Status, cannot, finish, options, sentence, warning
from eaa.verifier import INTEL, TrustAnchors

GENERATION_INTERVAL: Final = 1.0
"""Seconds after which another process's upload is seen at the latest."""
_V3_WARNING: Final = warning(
    "PCS API version 3 is no longer available. Cached collateral downloaded from API version 3 is deprecated, "
    "will not be refreshed, and may expire. Please migrate to API version 4."
)
_ASK_UPSTREAM: Final = frozenset({("POST", "/platforms"), ("GET", REFRESH), ("POST", REFRESH), ("HEAD", REFRESH)})
_WRITES: Final = frozenset({"PUT", "POST"})
FETCHED_PEM: Final = "application/x-pem-file; charset=utf-8"
_log = logging.getLogger(__name__)
_Handler = Callable[[Request, Place], Response]


class _WouldFetch(Exception):
    """The answer takes the upstream."""


class Service:
    """Answers requests from a store. Thread-safe."""

    def __init__(
        self,
        store: Store,
        *,
        admin_token: Token,
        user_token: Token | None = None,
        trust_anchors: TrustAnchors = INTEL,
        mode: Mode = Mode.OFFLINE,
        filler: Filler | None = None,
        crl_hosts: frozenset[str] = frozenset(),
        observer: Observer | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        request_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        """Serve this store.

        Args:
            store: what was uploaded.
            admin_token: what an upload must carry, and whoever reads the queue or asks for a refresh.
            user_token: what a platform that reports itself must carry. Neither opens what the other does.
            trust_anchors: the roots below which anything is stored or served.
            mode: when the filler is asked.
            filler: brings documents from the upstream; every mode but OFFLINE needs one.
            crl_hosts: hosts (`host` or `host:port`, lower case) beside the vendor's whose CRLs may be asked for by
                address.
            observer: is told what is not served any more; see `eaa.pccs.observing`.
            clock: the present; documents are judged by it.
            request_id: makes a new one for each answer.
        """
        self._store = store
        self._tokens = {ADMIN: admin_token, USER: user_token or Token()}
        filler = filler if mode is not Mode.OFFLINE else None
        self._filler = filler
        self._misses = Misses(filler=filler, crl_hosts=crl_hosts) if filler and mode is Mode.LAZY else None
        self._renewals = None if self._misses is None else Renewals(self._misses.filler)
        self._clock = clock
        self._request_id = request_id
        self._kept = RenderedAnswers()
        self._looked = -GENERATION_INTERVAL
        reader = Reader(store, trust_anchors=trust_anchors, clock=clock, crl_hosts=crl_hosts, observer=observer)
        operations = Operations(store, trust_anchors=trust_anchors, mode=mode, filler=filler, clock=clock)
        self._routes = _route_table(reader, operations, Health(store, clock=clock))

    @property
    def generation(self) -> int:
        """Of the store, that all rendered answers belong to."""
        return self._kept.generation

    def look(self) -> int:
        """Forget what was rendered where somebody has stored something since; return the store's generation."""
        self._kept.renew(self._store.generation())
        self._looked = time.monotonic()
        return self._kept.generation

    def close(self) -> None:
        """Begin no other work in the background."""
        if self._renewals is not None:
            self._renewals.close()

    def weigh(self, request: Request) -> None:
        """Find out whether the tokens of a request are right, which takes long once for each; see `is_weighed`."""
        for name, token in self._tokens.items():
            token.opens(request.headers.get(name))

    def is_weighed(self, request: Request) -> bool:
        """Whether everything else here will know at once what the tokens of a request open."""
        return all(token.is_known(request.headers.get(name)) for name, token in self._tokens.items())

    def body_limit(self, request: Request) -> int:
        """Return how many bytes of this request's body are worth reading: none before the token is right."""
        place = place_of(request.path)
        if place is None or request.method not in self._routes[place.product].get(place.route, {}):
            return 0
        guard = guard_of(request, place)
        takes_body = request.method in _WRITES and place.route != REFRESH
        return MAX_UPLOAD if takes_body and guard and self._opens(guard, request) else 0

    def kept(self, request: Request) -> Response | None:
        """Return the answer, finished, where it is rendered already: without waiting for the database."""
        if time.monotonic() - self._looked >= GENERATION_INTERVAL:
            return None
        found = self._kept.get(request, now=self._clock())
        return None if found is None else self._finish(request, found)

    def attempt(self, request: Request) -> Response | None:
        """Return the answer, finished, or None where it takes the upstream, and so may take long."""
        try:
            return self._answer(request, fetches=False)
        except _WouldFetch:
            return None

    def answer(self, request: Request) -> Response:
        """Return the answer, finished: whatever goes wrong becomes one."""
        return self._answer(request, fetches=True)

    def _answer(self, request: Request, *, fetches: bool) -> Response:
        try:
            self._look_for_changes()
            response = self._kept.get(request, now=self._clock()) or self._render(request, fetches=fetches)
        except Refusal as refusal:
            level = logging.WARNING if refusal.alarms else logging.INFO
            about = {"event": "pccs.refused", "status": int(refusal.status), "route": route_of(request.path)}
            _log.log(level, "%s: %d, %s", request, refusal.status, refusal.cause, extra=about)
            response = sentence(refusal.status)
            if refusal.warning:
                response = replace(response, headers=(warning(refusal.warning), *response.headers))
        except SQLAlchemyError as error:
            # The cause, which an operator needs: locked, full, gone.
            failed = {"event": "pccs.database_failed", "route": route_of(request.path)}
            _log.error("%s: the database fails: %s", request, getattr(error, "orig", error), extra=failed)
            response = _database_failure(error)
        return self._finish(request, response)

    def _look_for_changes(self) -> None:
        """Forget what was rendered where somebody has stored something since; asked once a second."""
        if time.monotonic() - self._looked >= GENERATION_INTERVAL:
            self.look()

    def _render(self, request: Request, *, fetches: bool) -> Response:
        generation = self._kept.generation
        place = place_of(request.path)
        writes = place is not None and (request.method, place.route) in _ASK_UPSTREAM
        if writes and self._filler is not None and not fetches:
            raise _WouldFetch
        try:
            response = self._dispatch(request, place)
        except Refusal as miss:
            response = self._filled(request, place, miss, fetches=fetches)
            generation = self._kept.generation
        if request.method in _WRITES or writes:
            self._kept.renew(self._store.generation())
        if response.is_aging and self._renewals is not None and self._misses is not None:
            fetch = self._misses.fetch_of(request, place, None)
            if fetch is not None:
                self._renewals.offer(fetch)
        self._kept.put(request, response, generation=generation)
        return response

    def _filled(self, request: Request, place: Place | None, miss: Refusal, *, fetches: bool) -> Response:
        """Return the answer after what it missed was fetched. Raises Refusal, the miss itself where nothing helps."""
        fetch = None if self._misses is None else self._misses.fetch_of(request, place, miss)
        if fetch is None or self._filler is None:
            raise miss
        if not fetches:
            raise _WouldFetch from miss
        filler = self._filler
        try:
            filler.fetch(fetch.name, lambda: filler.once(fetch.name, lambda: self._fill(request, place, fetch)))
        except Refusal as refusal:
            # What was there and is over is worth telling, whatever the upstream says of it.
            raise Refusal(
                refusal.status, refusal.cause, warning=refusal.warning or miss.warning, alarms=refusal.alarms
            ) from refusal
        return _as_fetched(self._dispatch(request, place), place)

    def _fill(self, request: Request, place: Place | None, fetch: Fetch) -> None:
        """Fetch what a request misses, unless somebody has brought it since."""
        try:
            self._dispatch(request, place)
        except Refusal as miss:
            if self._misses is None or self._misses.fetch_of(request, place, miss) is None:
                raise
            fetch.work()
            self._kept.renew(self._store.generation())

    def refused(self, request: Request, status: Status) -> Response:
        """Return the answer to a request that came to nothing before or beside the routes."""
        return self._finish(request, sentence(status))

    def _finish(self, request: Request, response: Response) -> Response:
        place = place_of(request.path)
        ended = (_V3_WARNING,) if place is not None and place.api_version == 3 else ()
        headers = (("Request-ID", self._request_id()), *ended, *response.headers)
        return finish(request, replace(response, headers=headers))

    def _dispatch(self, request: Request, place: Place | None) -> Response:
        if place is None:
            return cannot(request)
        self._authorize(request, place)
        handlers = self._routes[place.product].get(place.route)
        if handlers is None:
            return cannot(request)
        handler = handlers.get("GET" if request.method == "HEAD" else request.method)
        if handler is not None:
            return handler(request, place)
        if request.method == "OPTIONS":
            return options(*handlers, *(("HEAD",) if "GET" in handlers else ()))
        return cannot(request)

    def _authorize(self, request: Request, place: Place) -> None:
        """Raise Refusal (401) where the route wants a token that the request does not carry."""
        guard = guard_of(request, place)
        if guard and not self._opens(guard, request):
            of = "administrator" if guard == ADMIN else "user"
            is_set = self._tokens[guard].is_set
            why = f"the {of} token is wrong or missing" if is_set else f"no {of} token is set"
            raise Refusal(Status.UNAUTHORIZED, why)

    def _opens(self, guard: str, request: Request) -> bool:
        return self._tokens[guard].opens(request.headers.get(guard))


def _route_table(
    reader: Reader, operations: Operations, health: Health
) -> dict[str, Mapping[str, Mapping[str, _Handler]]]:
    """Return who answers what, by product, route and method."""
    sgx: dict[str, dict[str, _Handler]] = operations.routes()
    for route, handler in reader.routes().items():
        sgx.setdefault(route, {})["GET"] = handler
    tdx = {route: {"GET": reader.routes()[route]} for route in ("/tcb", "/qe/identity")}
    return {"SGX": sgx, "TDX": tdx, "HEALTH": health.routes()}


def _as_fetched(response: Response, place: Place | None) -> Response:
    """Return an answer as the reference gives it to who had it fetched: a certificate then has a charset, just once."""
    if place is None or place.route != "/pckcert":
        return response
    headers = tuple(pair for pair in response.headers if pair[0] != "Content-Type")
    return replace(response, headers=(*headers, ("Content-Type", FETCHED_PEM)), keep_until=None)


def _database_failure(error: SQLAlchemyError) -> Response:
    """Return 503 for what may pass, a full disk for instance, and 500 for what is wrong with us."""
    if not will_pass(error):
        return sentence(Status.INTERNAL_ERROR)
    answer = sentence(Status.UNAVAILABLE)
    return replace(answer, headers=(warning("the database cannot be used at present"), *answer.headers))
