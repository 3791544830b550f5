"""The routes: which request gets which answer from the cache. No sockets here, and no waiting but for the database.

In OFFLINE mode it answers from what was uploaded, and a miss is a miss; in LAZY mode a miss is filled from the
upstream, see `eaa.pccs.filling`, in REQ mode only when a platform reports itself. What is past its time, or does not
verify, is a miss as well. An answer is rendered once and then kept, see `eaa.pccs.rendered`.
"""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, TypeVar
from urllib.parse import unquote_to_bytes

from sqlalchemy.exc import SQLAlchemyError

from eaa.collateral.intel import PCKCertificate
from eaa.collateral.x509 import parse_pem_chain
from eaa.errors import EAAError
from eaa.pccs import query
from eaa.pccs.filling import Filler, Mode
from eaa.pccs.policies import AppraisalPolicy
from eaa.pccs.registration import Registration, Waiting
from eaa.pccs.rendered import RenderedAnswers
from eaa.pccs.selection import Candidate, Levels, SelectionError, select
from eaa.pccs.store import Document, Platform, Store
from eaa.pccs.tokens import Token
from eaa.pccs.uploads import MAX_UPLOAD, RawTCB, UploadedDocument, parse_upload
from eaa.pccs.verification import Vouched, told, verify_upload
from eaa.pccs.wire import (
    HTML,
    JSON,
    Refusal,
    Request,
    Response,
    Status,
    cannot,
    finish,
    json_answer,
    options,
    sentence,
    warning,
)
from eaa.verifier import INTEL, TrustAnchors
from eaa.verifier.documents import VerifiedDocument

WARN_BEFORE: Final = timedelta(days=7)
"""How long before its end an answer begins to carry a warning. It refuses nothing: vendors' CRLs last a month."""
GENERATION_INTERVAL: Final = 1.0
"""Seconds after which another process's upload is seen at the latest."""
_V3_WARNING: Final = warning(
    "PCS API version 3 is no longer available. Cached collateral downloaded from API version 3 is deprecated, "
    "will not be refreshed, and may expire. Please migrate to API version 4."
)
_HEALTH: Final = re.compile(r"/healthz(?P<rest>/.*)?", re.IGNORECASE)
_MOUNT: Final = re.compile(r"/(?P<product>sgx|tdx)/certification/v(?P<version>3|4)(?P<rest>/.*)?", re.IGNORECASE)
_UPLOAD: Final = "/platformcollateral"
_REFRESH: Final = "/refresh"
_ADMIN: Final = "admin-token"
_USER: Final = "user-token"
_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where in the service a path leads."""

    product: str
    """SGX, TDX or HEALTH."""
    api_version: int
    route: str
    """What follows the mount, in lower case and without a final slash."""


_Handler = Callable[[Request, _Place], Response]
_ASK_UPSTREAM: Final = frozenset({("POST", "/platforms"), ("GET", _REFRESH), ("POST", _REFRESH), ("HEAD", _REFRESH)})


_Fetch = tuple[Hashable, Callable[[], None]]
"""A name for something that is missing, and what would bring it."""
_Fetcher = Callable[[Filler, Mapping[str, str], _Place, Refusal], _Fetch | None]


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
            clock: the present; documents are judged by it.
            request_id: makes a new one for each answer.
        """
        self._store = store
        self._tokens = {_ADMIN: admin_token, _USER: user_token or Token()}
        self._trust_anchors = trust_anchors
        self._mode = mode
        self._filler = filler if mode is not Mode.OFFLINE else None
        self._clock = clock
        self._request_id = request_id
        self._kept = RenderedAnswers()
        self._looked = -GENERATION_INTERVAL
        self._routes = self._route_table()

    def _route_table(self) -> dict[str, Mapping[str, Mapping[str, _Handler]]]:
        """Return who answers what, by product, route and method."""
        read = {
            "/pckcert": self._pckcert,
            "/pckcrl": self._pckcrl,
            "/tcb": self._tcb,
            "/qe/identity": self._qe_identity,
            "/qve/identity": self._qve_identity,
            "/rootcacrl": self._rootcacrl,
            "/crl": self._crl,
        }
        written: dict[str, Mapping[str, _Handler]] = {
            "/platforms": {"POST": self._register, "GET": self._platforms},
            _UPLOAD: {"PUT": self._upload},
            _REFRESH: {"POST": self._refresh, "GET": self._refresh},
            "/appraisalpolicy": {"PUT": self._put_policy, "GET": self._policies},
        }
        return {
            "SGX": {**{route: {"GET": handler} for route, handler in read.items()}, **written},
            "TDX": {"/tcb": {"GET": self._tcb}, "/qe/identity": {"GET": self._qe_identity}},
            "HEALTH": {
                "/live": {"GET": self._live},
                "/ready": {"GET": self._ready},
                "/startup": {"GET": self._startup},
            },
        }

    def weigh(self, request: Request) -> None:
        """Find out whether the tokens of a request are right, which takes long once for each; see `is_weighed`."""
        for name, token in self._tokens.items():
            token.opens(request.headers.get(name))

    def is_weighed(self, request: Request) -> bool:
        """Whether everything else here will know at once what the tokens of a request open."""
        return all(token.is_known(request.headers.get(name)) for name, token in self._tokens.items())

    def body_limit(self, request: Request) -> int:
        """Return how many bytes of this request's body are worth reading: none before the token is right."""
        place = _place(request.path)
        if place is None or request.method not in self._routes[place.product].get(place.route, {}):
            return 0
        guard = _guard(request, place)
        takes_body = request.method in ("PUT", "POST") and place.route != _REFRESH
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
            _log.log(level, "%s: %d, %s", request, refusal.status, refusal.cause)
            response = sentence(refusal.status)
            if refusal.warning:
                response = replace(response, headers=(warning(refusal.warning), *response.headers))
        except SQLAlchemyError as error:
            # The cause, which an operator needs: locked, full, gone.
            _log.error("%s: the database fails: %s", request, getattr(error, "orig", error))
            response = sentence(Status.INTERNAL_ERROR)
        return self._finish(request, response)

    def _look_for_changes(self) -> None:
        """Forget what was rendered where somebody has stored something since; asked once a second."""
        now = time.monotonic()
        if now - self._looked >= GENERATION_INTERVAL:
            self._kept.renew(self._store.generation())
            self._looked = now

    def _render(self, request: Request, *, fetches: bool) -> Response:
        generation = self._kept.generation
        place = _place(request.path)
        writes = place is not None and (request.method, place.route) in _ASK_UPSTREAM
        if writes and self._filler is not None and not fetches:
            raise _WouldFetch
        try:
            response = self._dispatch(request)
        except Refusal as miss:
            fetch = self._fetch(request, miss)
            if fetch is None or self._filler is None:
                raise
            if not fetches:
                raise _WouldFetch from miss
            key, fill = fetch
            self._filler.once(key, lambda: self._fill(request, fill))
            response = self._dispatch(request)
        self._kept.put(request, response, generation=generation)
        return response

    def _fill(self, request: Request, fill: Callable[[], None]) -> None:
        """Fetch what a request misses, unless somebody has brought it since."""
        try:
            self._dispatch(request)
        except Refusal as miss:
            if self._fetch(request, miss) is None:
                raise
            fill()
            self._kept.renew(self._store.generation())

    def _fetch(self, request: Request, miss: Refusal) -> _Fetch | None:
        """Return what would bring what a request misses, with a name for it; None where nothing would."""
        place = _place(request.path)
        is_read = request.method in ("GET", "HEAD") and miss.status in (Status.NO_CACHE_DATA, Status.PLATFORM_UNKNOWN)
        if self._mode is not Mode.LAZY or self._filler is None or place is None or not is_read:
            return None
        fetcher = _FETCHERS.get(place.route)
        return None if fetcher is None else fetcher(self._filler, request.parameters(), place, miss)

    def refused(self, request: Request, status: Status) -> Response:
        """Return the answer to a request that came to nothing before or beside the routes."""
        return self._finish(request, sentence(status))

    def _finish(self, request: Request, response: Response) -> Response:
        place = _place(request.path)
        ended = (_V3_WARNING,) if place is not None and place.api_version == 3 else ()
        headers = (("Request-ID", self._request_id()), *ended, *response.headers)
        return finish(request, replace(response, headers=headers))

    def _dispatch(self, request: Request) -> Response:
        place = _place(request.path)
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

    def _authorize(self, request: Request, place: _Place) -> None:
        """Raise Refusal (401) where the route wants a token that the request does not carry."""
        guard = _guard(request, place)
        if guard and not self._opens(guard, request):
            of = "administrator" if guard == _ADMIN else "user"
            is_set = self._tokens[guard].is_set
            why = f"the {of} token is wrong or missing" if is_set else f"no {of} token is set"
            raise Refusal(Status.UNAUTHORIZED, why)

    def _opens(self, guard: str, request: Request) -> bool:
        return self._tokens[guard].opens(request.headers.get(guard))

    # --- reading

    def _pckcert(self, request: Request, _place: _Place) -> Response:
        parameters = request.parameters()
        qe_id = query.qe_id(parameters)
        raw = RawTCB(
            cpu_svn=query.hex_parameter(parameters, "cpusvn", 32), pce_svn=query.hex_parameter(parameters, "pcesvn", 4)
        )
        pce_id = query.hex_parameter(parameters, "pceid", 4)
        if "encrypted_ppid" in parameters:
            query.hex_parameter(parameters, "encrypted_ppid", query.ENCRYPTED_PPID_DIGITS)
        platform = self._store.platform(qe_id=qe_id, pce_id=pce_id)
        if platform is None:
            raise Refusal(Status.PLATFORM_UNKNOWN, "this platform was never uploaded")
        tcbm, pem = self._certificate(platform, raw)
        headers = (
            ("SGX-TCBm", tcbm),
            ("SGX-FMSPC", platform.fmspc),
            ("SGX-PCK-Certificate-CA-Type", platform.ca),
            ("SGX-PCK-Certificate-Issuer-Chain", _found(self._store.chain(name=platform.ca), "the CA's issuer chain")),
            ("Content-Type", "application/x-pem-file"),
        )
        (der,) = parse_pem_chain(pem.encode(), maximum=1)
        return self._current(
            Response(status=Status.OK, headers=headers, body=pem.encode()),
            f"the PCK certificate of a platform of FMSPC {platform.fmspc}",
            lambda vouched: vouched.pck(der, ca=vouched.ca(platform.ca)),
        )

    def _current(self, response: Response, what: str, verify: Callable[[Vouched], VerifiedDocument]) -> Response:
        """Return an answer with the moment up to which it may be kept, and with a warning when its end is near.

        Raises:
            Refusal: 404, what would be served does not verify, or is past its time. Clients know that status as "no
                data", and do not ask again at once, as they would for 503.
        """
        now = self._clock()
        try:
            verified = verify(Vouched.under(self._store.supplement(), trust_anchors=self._trust_anchors))
        except Refusal as refusal:
            raise Refusal(Status.NO_CACHE_DATA, f"{what} cannot be verified: {refusal.cause}", alarms=True) from refusal
        except EAAError as error:
            raise Refusal(Status.NO_CACHE_DATA, f"{what} does not verify: {told(error)}", alarms=True) from error
        try:
            verified.require_current(now=now)
        except EAAError as error:
            raise Refusal(
                Status.NO_CACHE_DATA, f"{what} is not served: {told(error)}", warning=error.message, alarms=True
            ) from error
        warn_from = verified.expires - WARN_BEFORE
        if now < warn_from:
            return replace(response, keep_until=warn_from)
        note = warning(f"{what} expires at {verified.expires:%Y-%m-%dT%H:%M:%SZ}")
        return replace(response, headers=(note, *response.headers), keep_until=verified.expires)

    def _certificate(self, platform: Platform, raw: RawTCB) -> tuple[str, str]:
        """Return TCBm and PEM of the certificate for a raw TCB: the one chosen before, or the best there is."""
        certificates = self._store.pck_certificates(platform)
        known = self._store.tcbm(platform, raw)
        if known in certificates:
            return known, certificates[known]
        candidates = [
            Candidate(tcbm=tcbm, pem=pem, certificate=PCKCertificate.parse(parse_pem_chain(pem.encode(), maximum=1)[0]))
            for tcbm, pem in certificates.items()
        ]
        try:
            chosen = select(raw.tcb, candidates, pce_id=platform.pce_id, levels=self._levels(platform))
        except SelectionError as error:
            raise Refusal(Status.NO_CACHE_DATA, f"no PCK certificate fits: {error}") from error
        return chosen.tcbm, chosen.pem

    def _levels(self, platform: Platform) -> Levels:
        """Return the SGX TCB levels of the platform's model, the early ones where there are any."""
        for update in ("EARLY", "STANDARD"):
            found = self._store.tcb_info(fmspc=platform.fmspc, tee="SGX", api_version=4, update=update)
            if found is not None:
                return Levels.parse(found.body)
        raise Refusal(Status.NO_CACHE_DATA, f"there is no TCB Info for FMSPC {platform.fmspc}")

    def _pckcrl(self, request: Request, _place: _Place) -> Response:
        parameters = request.parameters()
        ca = query.certificate_authority(parameters)
        found = _found(self._store.pck_crl(ca=ca), f"the CRL of the {ca} CA")
        is_der = parameters.get("encoding", "").upper() == "DER"
        headers = (
            ("SGX-PCK-CRL-Issuer-Chain", found.chain),
            # Hex under the label of PEM: clients rely on it, whatever encoding they asked for.
            ("Content-Type", "application/pkix-crl" if is_der else "application/x-pem-file; charset=utf-8"),
        )
        body = found.body if is_der else found.body.hex().encode()
        response = Response(status=Status.OK, headers=headers, body=body)
        chain = unquote_to_bytes(found.chain)
        return self._current(
            response, f"the CRL of the {ca} CA", lambda vouched: vouched.pck_crl(found.body, chain=chain)
        )

    def _tcb(self, request: Request, place: _Place) -> Response:
        parameters = request.parameters()
        fmspc = query.hex_parameter(parameters, "fmspc", 12)
        update = query.update_type(parameters)
        number = query.evaluation_number(parameters)
        what = f"{place.product} TCB Info for FMSPC {fmspc}"
        updates = (update,) if number is None else query.UPDATES
        if number is not None:
            what += f" with evaluation number {number}"
        stored = (
            self._store.tcb_info(fmspc=fmspc, tee=place.product, api_version=place.api_version, update=each)
            for each in updates
        )
        found = _found(next((each for each in stored if each and _has_number(each.body, number)), None), what)
        kept_as = UploadedDocument(name=fmspc, tee=place.product, update=update, text=found.body)
        name = "SGX-TCB-Info-Issuer-Chain" if place.api_version == 3 else "TCB-Info-Issuer-Chain"
        chain = unquote_to_bytes(found.chain)
        return self._current(
            _json(found, chain_name=name), what, lambda vouched: vouched.tcb_info(kept_as, chain=chain)
        )

    def _qe_identity(self, request: Request, place: _Place) -> Response:
        return self._identity("QE" if place.product == "SGX" else "TD_QE", request, place)

    def _qve_identity(self, request: Request, place: _Place) -> Response:
        return self._identity("QVE", request, place)

    def _identity(self, name: str, request: Request, place: _Place) -> Response:
        update = query.update_type(request.parameters())
        what = f"the {name} identity"
        found = _found(self._store.identity(name=name, api_version=place.api_version, update=update), what)
        kept_as = UploadedDocument(name=name, tee=place.product, update=update, text=found.body)
        chain = unquote_to_bytes(found.chain)
        return self._current(
            _json(found, chain_name="SGX-Enclave-Identity-Issuer-Chain"),
            what,
            lambda vouched: vouched.identity(kept_as, chain=chain),
        )

    def _rootcacrl(self, _request: Request, _place: _Place) -> Response:
        crl = _found(self._store.root_crl(), "the root's CRL")
        # Hex under the label of DER, for clients older than the route `crl`.
        headers = (("Content-Type", "application/pkix-crl; charset=utf-8"),)
        response = Response(status=Status.OK, headers=headers, body=crl.hex().encode())
        return self._current(response, "the root's CRL", lambda vouched: vouched.root_crl(crl))

    def _crl(self, request: Request, _place: _Place) -> Response:
        uri = query.crl_uri(request.parameters())
        crl = self._store.crl(uri=uri)
        if crl is None and not query.is_intel_crl(uri):
            raise Refusal(Status.INVALID_REQUEST, "the uri is neither Intel's nor that of an uploaded CRL")
        headers = (("Content-Type", "application/pkix-crl"),)
        body = _found(crl, "that CRL")
        response = Response(status=Status.OK, headers=headers, body=body)
        return self._current(response, "the root's CRL", lambda vouched: vouched.root_crl(body))

    def _policies(self, request: Request, _place: _Place) -> Response:
        fmspc = query.hex_parameter(request.parameters(), "fmspc", 12)
        found = self._store.policies(fmspc=fmspc)
        if not found:
            raise Refusal(Status.NO_CACHE_DATA, f"there is no default appraisal policy for FMSPC {fmspc}")
        return Response(status=Status.OK, headers=(("Content-Type", HTML),), body=",".join(found).encode())

    # --- health

    def _live(self, _request: Request, _place: _Place) -> Response:
        return json_answer({"status": "UP", "timestamp": self._timestamp()})

    def _startup(self, _request: Request, _place: _Place) -> Response:
        # Whoever gets an answer from this process has reached one that is through with starting.
        return json_answer({"status": "STARTED", "timestamp": self._timestamp()})

    def _ready(self, _request: Request, _place: _Place) -> Response:
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

    # --- the queue

    def _register(self, request: Request, _place: _Place) -> Response:
        update = query.update_type(request.parameters(), may_be=query.ALL_UPDATES)
        registration = Registration.parse(_json_body(request))
        if not self._store.is_cached(registration):
            self._provision(registration)
        if self._filler is not None:
            self._filler.complete(query.UPDATES if update == "ALL" else (update,))
        return sentence(Status.OK)

    def _provision(self, registration: Registration) -> None:
        """Queue a platform, or fetch its certificates, or both: a queue that a fetch fails to empty tells of it."""
        waits = self._mode is not Mode.LAZY
        if waits:
            self._store.register(registration, state=Waiting.NEW, now=self._clock())
        if self._filler is not None:
            work = partial(self._filler.platform, registration, raises_queue=waits)
            self._filler.once(("platform", registration.qe_id, registration.pce_id), work)
            if waits:
                self._store.register(registration, state=Waiting.TAKEN, now=self._clock())

    def _platforms(self, request: Request, _place: _Place) -> Response:
        """Answer who waits, and take them from the queue; or, with a list of models, which platforms are cached."""
        source = request.parameters().get("source") or "reg"
        if source in ("reg", "reg_na"):
            state = Waiting.NEW if source == "reg" else Waiting.NOT_AVAILABLE
            # The reference empties the queue for a HEAD too, whose body nobody gets.
            found = self._store.registered(state=state, take=request.method == "GET")
        else:
            found = self._store.cached_platforms(query.fmspc_list(source))
        return json_answer(found, headers=(("platform-count", str(len(found))),))

    # --- writing

    def _refresh(self, request: Request, _place: _Place) -> Response:
        parameters = request.parameters()
        kind = parameters.get("type")
        if kind and kind != "certs":
            raise Refusal(Status.INVALID_REQUEST, "the type of a refresh is certs, or none")
        fmspcs = query.models(parameters) if kind else ()
        if self._filler is None:
            raise Refusal(Status.UNAVAILABLE, "nothing is refreshed in OFFLINE mode")
        refresh = partial(self._filler.refresh_platforms, fmspcs) if kind else self._filler.refresh
        failures = self._filler.once(("refresh", kind, fmspcs), refresh)
        self._kept.renew(self._store.generation())
        if failures:
            raise Refusal(Status.UNAVAILABLE, f"{failures} documents could not be refreshed", alarms=True)
        return sentence(Status.OK)

    def _put_policy(self, request: Request, _place: _Place) -> Response:
        policy = AppraisalPolicy.parse(_json_body(request))
        self._store.put_policy(policy, now=self._clock())
        return Response(status=Status.OK, headers=(("Content-Type", HTML),), body=policy.id.encode())

    def _upload(self, request: Request, place: _Place) -> Response:
        body = _json_body(request)
        now = self._clock()
        upload = parse_upload(body, api_version=place.api_version)
        known = self._store.supplement(upload.root)
        verify_upload(upload, known, trust_anchors=self._trust_anchors, now=now)
        stored = self._store.apply(upload, now=now)
        self._kept.renew(self._store.generation())
        _log.info(
            "stored %d platforms, %d TCB Infos and %d identities of the PKI with root %s",
            stored.platforms,
            stored.tcb_infos,
            stored.identities,
            stored.root,
        )
        if stored.replaces:
            _log.warning("the PKI with root %s is served from now on, no longer %s", stored.root, stored.replaces)
        return sentence(Status.OK)


def _guard(request: Request, place: _Place) -> str | None:
    """Return which token a request must carry. Two routes are closed with all below them, whatever the method."""
    if place.product != "SGX":
        return None
    if any(place.route == route or place.route.startswith(route + "/") for route in (_UPLOAD, _REFRESH)):
        return _ADMIN
    guards = {
        ("GET", "/platforms"): _ADMIN,
        ("HEAD", "/platforms"): _ADMIN,
        ("POST", "/platforms"): _USER,
        ("PUT", "/appraisalpolicy"): _ADMIN,
    }
    return guards.get((request.method, place.route))


def _json_body(request: Request) -> bytes:
    """Return the body of a request that says it is JSON. Raises Refusal (400)."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(Status.INVALID_REQUEST, f"the body is of type {kind or 'unknown'}, not application/json")
    return request.body


def _fetch_tcb_info(filler: Filler, parameters: Mapping[str, str], place: _Place, _miss: Refusal) -> _Fetch | None:
    _refuse_ended_version(place)
    if "tcbEvaluationDataNumber" in parameters:
        return None
    what = {
        "tee": place.product,
        "fmspc": query.hex_parameter(parameters, "fmspc", 12),
        "update": query.update_type(parameters),
    }
    return ("tcb", *what.values()), partial(filler.tcb_info, **what)


def _fetch_identity(filler: Filler, parameters: Mapping[str, str], place: _Place, _miss: Refusal) -> _Fetch | None:
    _refuse_ended_version(place)
    quoting = "QE" if place.product == "SGX" else "TD_QE"
    what = {"name": "QVE" if place.route == "/qve/identity" else quoting, "update": query.update_type(parameters)}
    return ("identity", *what.values()), partial(filler.identity, **what)


def _refuse_ended_version(place: _Place) -> None:
    if place.api_version == 3:
        raise Refusal(Status.VERSION_ENDED, "version 3 of the vendor's API has ended")


def _fetch_pck_crl(filler: Filler, parameters: Mapping[str, str], _place: _Place, _miss: Refusal) -> _Fetch | None:
    ca = query.certificate_authority(parameters)
    return ("pckcrl", ca), partial(filler.pck_crl, ca=ca)


def _fetch_root_crl(filler: Filler, parameters: Mapping[str, str], place: _Place, _miss: Refusal) -> _Fetch | None:
    if place.route == "/rootcacrl":
        return "rootcacrl", filler.root_crl
    uri = query.crl_uri(parameters)
    return (("crl", uri), partial(filler.root_crl, uri=uri)) if query.is_intel_root_crl(uri) else None


def _fetch_platform(filler: Filler, parameters: Mapping[str, str], _place: _Place, miss: Refusal) -> _Fetch | None:
    if miss.status is not Status.PLATFORM_UNKNOWN:
        return None
    platform = _asking(parameters)
    return ("platform", platform.qe_id, platform.pce_id), partial(filler.platform, platform)


_FETCHERS: Final[Mapping[str, _Fetcher]] = {
    "/pckcert": _fetch_platform,
    "/pckcrl": _fetch_pck_crl,
    "/tcb": _fetch_tcb_info,
    "/qe/identity": _fetch_identity,
    "/qve/identity": _fetch_identity,
    "/rootcacrl": _fetch_root_crl,
    "/crl": _fetch_root_crl,
}


def _asking(parameters: Mapping[str, str]) -> Registration:
    """Return the platform that asks for its certificate, as if it had reported itself."""
    return Registration(
        qe_id=query.qe_id(parameters),
        pce_id=query.hex_parameter(parameters, "pceid", 4),
        cpu_svn=query.hex_parameter(parameters, "cpusvn", 32),
        pce_svn=query.hex_parameter(parameters, "pcesvn", 4),
        enc_ppid=parameters.get("encrypted_ppid", "").lower(),
        platform_manifest="",
    )


def _has_number(document: bytes, number: int | None) -> bool:
    """Whether TCB Info has this evaluation number; any will do where none is asked for."""
    return number is None or json.loads(document)["tcbInfo"].get("tcbEvaluationDataNumber") == number


def _place(path: str) -> _Place | None:
    health = _HEALTH.fullmatch(path)
    if health is not None:
        return _Place(product="HEALTH", api_version=0, route=(health["rest"] or "").lower().removesuffix("/"))
    match = _MOUNT.fullmatch(path)
    if match is None or (match["product"].upper(), match["version"]) == ("TDX", "3"):
        return None
    route = (match["rest"] or "/").lower()
    return _Place(
        product=match["product"].upper(),
        api_version=int(match["version"]),
        route=route.removesuffix("/"),
    )


def _found(value: T | None, what: str) -> T:
    if value is None:
        raise Refusal(Status.NO_CACHE_DATA, f"{what} was never uploaded")
    return value


def _json(document: Document, *, chain_name: str) -> Response:
    headers = ((chain_name, document.chain), ("Content-Type", JSON))
    return Response(status=Status.OK, headers=headers, body=document.body)
