"""The routes that change something: platforms that report themselves, uploads, refreshes, appraisal policies."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from email.message import Message
from functools import partial
from typing import Final

from eaa.pccs import query
from eaa.pccs.admission import admit
from eaa.pccs.filling import Filler, Mode
from eaa.pccs.places import REFRESH, UPLOAD, Place
from eaa.pccs.policies import AppraisalPolicy
from eaa.pccs.registration import Registration, Waiting
from eaa.pccs.store import Store
from eaa.pccs.uploads import MAX_UPLOAD, parse_upload
from eaa.pccs.wire import HTML, Refusal, Request, Response, Status, json_answer, sentence
from eaa.verifier import TrustAnchors

_GZIP_OR_ZLIB: Final = zlib.MAX_WBITS + 32
_log = logging.getLogger(__name__)


class Operations:
    """Answers the routes that change something; whoever may is decided before."""

    def __init__(
        self,
        store: Store,
        *,
        trust_anchors: TrustAnchors,
        mode: Mode,
        filler: Filler | None,
        clock: Callable[[], datetime],
    ) -> None:
        """Change this store; see `eaa.pccs.service.Service`."""
        self._store = store
        self._trust_anchors = trust_anchors
        self._mode = mode
        self._filler = filler
        self._clock = clock

    def routes(self) -> dict[str, dict[str, Callable[[Request, Place], Response]]]:
        """Return who answers what, by route and method."""
        return {
            "/platforms": {"POST": self.register, "GET": self.platforms},
            UPLOAD: {"PUT": self.upload},
            REFRESH: {"POST": self.refresh, "GET": self.refresh},
            "/appraisalpolicy": {"PUT": self.put_policy},
        }

    # --- the queue

    def register(self, request: Request, _place: Place) -> Response:
        """Take note of a platform that reports itself, and fetch what it and its verifiers need."""
        update = query.update_type(request.parameters(), may_be=query.ALL_UPDATES)
        registration = Registration.parse(_json_body(request))
        if not self._store.is_cached(registration):
            # One that was once known by its manifest still is.
            manifest = registration.platform_manifest or self._store.manifest_of(registration)
            self._provision(replace(registration, platform_manifest=manifest))
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
            self._filler.once(registration.fetch_name, work)
            if waits:
                self._store.register(registration, state=Waiting.TAKEN, now=self._clock())

    def platforms(self, request: Request, _place: Place) -> Response:
        """Answer who waits, and take them from the queue; or, with a list of models, which platforms are cached."""
        source = request.parameters().get("source") or "reg"
        if source in ("reg", "reg_na"):
            state = Waiting.NEW if source == "reg" else Waiting.NOT_AVAILABLE
            # The reference empties the queue for a HEAD too, whose body nobody gets.
            found = self._store.registered(state=state, take=request.method == "GET")
        else:
            found = self._store.cached_platforms(query.fmspc_list(source))
        return json_answer(found, headers=(("platform-count", str(len(found))),))

    # --- documents

    def refresh(self, request: Request, _place: Place) -> Response:
        """Fetch anew whatever is stored, or with `type=certs` the certificates of platforms of some models."""
        parameters = request.parameters()
        kind = parameters.get("type")
        if kind and kind != "certs":
            raise Refusal(Status.INVALID_REQUEST, "the type of a refresh is certs, or none")
        fmspcs = query.models(parameters) if kind else ()
        if self._filler is None:
            raise Refusal(Status.UNAVAILABLE, "nothing is refreshed in OFFLINE mode")
        work = partial(self._filler.refresh_platforms, fmspcs) if kind else self._filler.refresh
        failures = self._filler.once(f"refresh/{kind}/{','.join(fmspcs)}", work)
        if failures:
            raise Refusal(Status.UNAVAILABLE, f"{failures} documents could not be refreshed", alarms=True)
        return sentence(Status.OK)

    def upload(self, request: Request, place: Place) -> Response:
        """Verify and store everything of a body as Intel's tools write it."""
        upload = parse_upload(_json_body(request), api_version=place.api_version)
        stored = admit(upload, self._store, trust_anchors=self._trust_anchors, now=self._clock())
        _log.info(
            "stored %d platforms, %d TCB Infos and %d identities of the PKI with root %s",
            stored.platforms,
            stored.tcb_infos,
            stored.identities,
            stored.root,
        )
        if stored.replaces:
            _log.warning("the PKI with root %s is the default from now on, no longer %s", stored.root, stored.replaces)
        return sentence(Status.OK)

    def put_policy(self, request: Request, _place: Place) -> Response:
        """Keep an appraisal policy, and answer with its id."""
        policy = AppraisalPolicy.parse(_json_body(request))
        self._store.put_policy(policy, now=self._clock())
        return Response(status=Status.OK, headers=(("Content-Type", HTML),), body=policy.id.encode())


def _json_body(request: Request) -> bytes:
    """Return the body of a request that says it is JSON, inflated.

    Raises:
        Refusal: 400, it is of another type or broken; 413; 500, as in the reference, for a charset or an encoding that
            is none of its own.
    """
    said = Message()
    said["content-type"] = request.headers.get("content-type", "")
    kind, charset = said.get_content_type(), str(said.get_param("charset", "utf-8")).lower()
    if "content-type" not in request.headers or kind != "application/json":
        raise Refusal(Status.INVALID_REQUEST, f"the body is of type {kind}, not application/json")
    if charset != "utf-8":
        is_known = charset.startswith("utf-")
        raise Refusal(Status.INVALID_REQUEST if is_known else Status.INTERNAL_ERROR, f"the body is in {charset}")
    return _inflated(request.body, request.headers.get("content-encoding", "identity").lower())


def _inflated(body: bytes, encoding: str) -> bytes:
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "deflate"):
        raise Refusal(Status.INTERNAL_ERROR, f"the body is encoded as {encoding}")
    inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        found = inflater.decompress(body, MAX_UPLOAD + 1)
    except zlib.error as error:
        raise Refusal(Status.INVALID_REQUEST, f"the body cannot be inflated: {error}") from error
    if len(found) > MAX_UPLOAD:
        raise Refusal(Status.CONTENT_TOO_LARGE, "the body inflates to more than may be sent")
    if not inflater.eof:
        raise Refusal(Status.INVALID_REQUEST, "the body ends before its end")
    return found
