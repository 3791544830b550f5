"""What the service counts, and how it is told to Prometheus: closed sets of names and labels, and absolute times.

Nothing that a client has said is ever a label: a path that is no route of ours is `other`.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final

from eaa.errors import Reason
from eaa.program.exposition import Labels, Metric

if TYPE_CHECKING:
    from eaa.pccs.survey import Survey

ROUTES: Final = (
    "pckcert",
    "pckcrl",
    "tcb",
    "qe/identity",
    "qve/identity",
    "rootcacrl",
    "crl",
    "platforms",
    "platformcollateral",
    "refresh",
    "appraisalpolicy",
    "health",
    "openapi",
    "other",
)
"""What a request may be counted as."""
_MOUNTED: Final = re.compile(
    r"(?:/pki/[0-9a-f]{8,64})?/(?:sgx|tdx)/certification/v[34]/(?P<route>[a-z/]{1,20}?)/?", re.IGNORECASE
)


def route_of(path: str) -> str:
    """Return as what a request for this path is counted: one of ROUTES."""
    match = _MOUNTED.fullmatch(path)
    if match is not None:
        route = match["route"].lower()
        return route if route in ROUTES[:11] else "other"
    if path.lower().startswith("/healthz"):
        return "health"
    return "openapi" if path == "/openapi.json" else "other"


OUTCOMES: Final = ("ok", "missing", "failed", "lied")
"""What a fetch from the upstream may come to: lied is that it did not verify."""


class Observer:
    """Counts what the service does with its upstream. Thread-safe."""

    def __init__(self, *, clock: Callable[[], datetime]) -> None:
        """Begin at nothing; `clock` gives the present, aware."""
        self._clock = clock
        self._lock = threading.Lock()
        self._fetches: Counter[tuple[str, str]] = Counter()
        self._refused: Counter[tuple[str, str]] = Counter()
        self._refreshes: Counter[str] = Counter()
        self._refreshed: datetime | None = None

    def fetched(self, route: str, outcome: str) -> None:
        """Count a fetch from the upstream."""
        with self._lock:
            self._fetches[route if route in ROUTES else "other", outcome if outcome in OUTCOMES else "failed"] += 1

    def refused(self, kind: str, reason: str) -> None:
        """Count a document that was asked for, is stored, and was not served."""
        with self._lock:
            self._refused[kind if kind in ROUTES else "other", reason if reason in Reason.__members__ else "OTHER"] += 1

    def refreshed(self, failures: int) -> None:
        """Count a refresh of everything that is stored."""
        with self._lock:
            self._refreshes["failed" if failures else "ok"] += 1
            if not failures:
                self._refreshed = self._clock()

    def metrics(self) -> list[Metric]:
        """Return what was counted."""
        return [
            Metric(
                name="eaa_pccs_upstream_fetches_total",
                kind="counter",
                meaning="Fetches from the upstream.",
                read=lambda: self._labelled(("route", "outcome"), self._fetches),
            ),
            Metric(
                name="eaa_pccs_refused_documents_total",
                kind="counter",
                meaning="Answers that were refused because what is stored does not verify, or is past its end.",
                read=lambda: self._labelled(("route", "reason"), self._refused),
            ),
            Metric(
                name="eaa_pccs_refreshes_total",
                kind="counter",
                meaning="Refreshes of everything that is stored; failed is that some of it could not be had.",
                read=lambda: {(("result", name),): float(self._refreshes[name]) for name in ("ok", "failed")},
            ),
            Metric(
                name="eaa_pccs_last_refresh_success_timestamp_seconds",
                kind="gauge",
                meaning="When everything that is stored was last refreshed by this process.",
                read=lambda: None if self._refreshed is None else self._refreshed.timestamp(),
            ),
        ]

    def _labelled(self, names: tuple[str, ...], counted: Counter[tuple[str, str]]) -> Mapping[Labels, float]:
        with self._lock:
            return {tuple(zip(names, key, strict=True)): float(count) for key, count in counted.items()}


def request_metrics(answered: Callable[[], Counter[tuple[str, int]]]) -> list[Metric]:
    """Return how many requests were answered, by route and status."""
    return [
        Metric(
            name="eaa_pccs_requests_total",
            kind="counter",
            meaning="Requests that were answered.",
            read=lambda: {
                (("route", route), ("status", str(status))): float(count)
                for (route, status), count in sorted(answered().items())
            },
        )
    ]


def certificate_metrics(expiry: Callable[[], datetime | None]) -> list[Metric]:
    """Return when the TLS certificate ends."""

    def read() -> float | None:
        end = expiry()
        return None if end is None else end.timestamp()

    return [
        Metric(
            name="eaa_pccs_tls_certificate_expiry_timestamp_seconds",
            kind="gauge",
            meaning="When the certificate that is served ends.",
            read=read,
        )
    ]


def survey_metrics(survey: Callable[[], Survey | None]) -> list[Metric]:
    """Return what is cached, as of the last look."""
    from eaa.pccs.survey import KINDS, State  # noqa: PLC0415  needs the database, and counting requests does not

    def expiries() -> Mapping[Labels, float]:
        found = survey()
        ends: dict[Labels, float] = {}
        for entry in found.entries if found else ():
            label = (("document", entry.kind),)
            ends[label] = min(ends.get(label, float("inf")), entry.ends.timestamp())
        return ends

    def states() -> Mapping[Labels, float]:
        found = survey()
        counted = Counter((entry.kind, entry.state) for entry in found.entries) if found else Counter()
        return {
            (("document", kind), ("state", state.name.lower())): float(counted[kind, state])
            for kind in KINDS
            for state in State
        }

    def of_survey(read: Callable[[Survey], float]) -> Callable[[], float | None]:
        def value() -> float | None:
            found = survey()
            return None if found is None else read(found)

        return value

    return [
        Metric(
            name="eaa_pccs_document_expiry_timestamp_seconds",
            kind="gauge",
            meaning="Until when the document of this kind that ends first may be served, with all that vouches for it.",
            read=expiries,
        ),
        Metric(
            name="eaa_pccs_documents",
            kind="gauge",
            meaning="Documents that are stored; refused are those that do not verify, and are not served.",
            read=states,
        ),
        Metric(
            name="eaa_pccs_platforms",
            kind="gauge",
            meaning="Platforms whose certificates are stored.",
            read=of_survey(lambda found: float(sum(found.platforms.values()))),
        ),
        Metric(
            name="eaa_pccs_platforms_falling",
            kind="gauge",
            meaning="TCBs of platforms that the next TCB recovery gives another status, as far as it is cached.",
            read=of_survey(lambda found: float(sum(each.falling for each in found.forecasts))),
        ),
        Metric(
            name="eaa_pccs_survey_timestamp_seconds",
            kind="gauge",
            meaning="When all that is stored was last looked at and verified.",
            read=of_survey(lambda found: found.at.timestamp()),
        ),
    ]


def pck_certificate_metrics(survey: Callable[[], Survey | None]) -> list[Metric]:
    """Return how many PCK certificates are cached and until when, as of the last look."""

    def count() -> float | None:
        found = survey()
        return None if found is None else float(sum(each.count for each in found.certificates.values()))

    def first_end() -> float | None:
        found = survey()
        ends = [each.ends.timestamp() for each in found.certificates.values() if each.ends] if found else []
        return min(ends, default=None)

    return [
        Metric(
            name="eaa_pccs_pck_certificates",
            kind="gauge",
            meaning="PCK certificates that are stored.",
            read=count,
        ),
        Metric(
            name="eaa_pccs_pck_certificate_expiry_timestamp_seconds",
            kind="gauge",
            meaning="When the PCK certificate ends that ends first, of 100,000 that are read at most.",
            read=first_end,
        ),
    ]
