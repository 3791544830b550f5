"""What a service says of itself: numbers for Prometheus, and whether it lives and is ready.

Names and labels are closed sets: nothing that a peer has said is ever in an answer. `eaa.program.listener` serves it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import click

from eaa import __version__
from eaa.aio.counters import ACCEPTED, COMPLETED, COUNTERS, Layer, Limit, Side
from eaa.aio.net import Service
from eaa.appraise.result import Role
from eaa.identity import Identity
from eaa.program.address import ADDRESS
from eaa.program.exposition import Labels, Metric, Value, exposition, merge_expositions
from eaa.program.health import Health, not_holding
from eaa.program.listener import Page, serving_metrics
from eaa.verifier import FetchCounters, Verifier, wall_clock

__all__ = [
    "Health",
    "Labels",
    "Metric",
    "Observed",
    "Page",
    "Traffic",
    "Value",
    "exposition",
    "merge_expositions",
    "metrics_option",
    "service_health",
    "service_metrics",
    "serving_metrics",
]

DOCUMENTS: Final = (
    "root_certificate",
    "root_crl",
    "pck_crl_issuer_certificate",
    "pck_crl",
    "tcb_info_signing_certificate",
    "tcb_info",
    "qe_identity_signing_certificate",
    "qe_identity",
)
"""Kinds of documents, as the label has them."""
_PROCESS: Final = Path("/proc/self")


def metrics_option(function: Any) -> Any:
    """Add `--metrics`: where this service's metrics and its health are served."""
    return click.option(
        "--metrics",
        type=ADDRESS,
        metavar="ADDRESS",
        help="Serve metrics for Prometheus (/metrics) and health (/livez, /readyz) here, over plain HTTP. Off by "
        "default.",
    )(function)


class Traffic(Protocol):
    """Bytes that were moved, in both directions."""

    @property
    def forth(self) -> int:
        """From clients."""

    @property
    def back(self) -> int:
        """To clients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What of a service is observed. Functions, because a reload may change what they return."""

    identities: Callable[[], Sequence[Identity]]
    """Who it is; the first is who it is towards peers of today."""
    verifiers: Callable[[], Sequence[Verifier]] = tuple
    """Who judges for it."""
    service: Service | None = None
    """Where it listens for peers."""
    traffic: Traffic | None = None


# --- numbers


def service_metrics(observed: Observed) -> list[Metric]:
    """Return what a service that has evidence, and perhaps judges, says of itself. Times are seconds since 1970."""
    return [
        *_evidence_metrics(observed.identities),
        *_collateral_metrics(observed.verifiers),
        *_peer_metrics(),
        *([] if observed.service is None else _connection_metrics(observed.service)),
        *([] if observed.traffic is None else _traffic_metrics(observed.traffic)),
        *process_metrics(),
    ]


def _evidence_metrics(identities: Callable[[], Sequence[Identity]]) -> list[Metric]:
    def of_all(combine: Callable[[list[Any]], Any], read: Callable[[Identity], Any]) -> Callable[[], float | None]:
        def value() -> float | None:
            found = [read(identity) for identity in identities()]
            return _number(combine(found)) if found else None

        return value

    return [
        Metric(
            name="eaa_renewals_total",
            kind="counter",
            meaning="How often a certificate or an epoch was renewed.",
            read=of_all(sum, lambda identity: identity.renewals),
        ),
        Metric(
            name="eaa_renewal_failures_total",
            kind="counter",
            meaning="How often renewing a certificate or an epoch has failed.",
            read=of_all(sum, lambda identity: identity.renewal_failures),
        ),
        Metric(
            name="eaa_next_renewal_timestamp_seconds",
            kind="gauge",
            meaning="When a certificate or an epoch is renewed next, or that is tried again.",
            read=of_all(min, lambda identity: identity.next_renewal),
        ),
        Metric(
            name="eaa_certificate_expiry_timestamp_seconds",
            kind="gauge",
            meaning="When the certificate in use ends.",
            read=of_all(min, lambda identity: identity.expires),
        ),
        Metric(
            name="eaa_evidence_timestamp_seconds",
            kind="gauge",
            meaning="When the evidence in the certificate in use was made.",
            read=of_all(min, lambda identity: identity.made),
        ),
        Metric(
            name="eaa_evidence_age_seconds",
            kind="gauge",
            meaning="How old that evidence is.",
            read=of_all(max, lambda identity: (identity.now() - identity.made).total_seconds()),
        ),
    ]


def _number(value: float | datetime) -> float:
    return value.timestamp() if isinstance(value, datetime) else float(value)


def _collateral_metrics(verifiers: Callable[[], Sequence[Verifier]]) -> list[Metric]:
    def total(read: Callable[[FetchCounters], float]) -> Callable[[], float | None]:
        return lambda: sum(read(verifier.counters) for verifier in verifiers()) if verifiers() else None

    def last_success() -> float | None:
        moments = [verifier.counters.last_success for verifier in verifiers()]
        return max((moment.timestamp() for moment in moments if moment), default=None)

    sums: tuple[tuple[str, Literal["counter", "gauge"], str, Callable[[FetchCounters], float]], ...] = (
        ("fetches_total", "counter", "How often collateral was asked for, failures included.", lambda c: c.fetches),
        ("fetch_failures_total", "counter", "How often it could not be had.", lambda c: c.failures),
        (
            "misses_total",
            "counter",
            "How often a peer was told to come back because it was not here.",
            lambda c: c.misses,
        ),
        ("models", "gauge", "Platform models and platforms whose documents are kept.", lambda c: c.kept),
        ("pending_models", "gauge", "Those that are waited for.", lambda c: c.pending),
        (
            "outage_models",
            "gauge",
            "Those that are used past their hour because nobody answers who could renew them.",
            lambda c: c.borne,
        ),
    )
    return [
        *(
            Metric(name=f"eaa_collateral_{name}", kind=kind, meaning=meaning, read=total(read))
            for name, kind, meaning, read in sums
        ),
        Metric(
            name="eaa_collateral_last_success_timestamp_seconds",
            kind="gauge",
            meaning="When collateral was last had.",
            read=last_success,
        ),
        Metric(
            name="eaa_collateral_expiry_timestamp_seconds",
            kind="gauge",
            meaning="When the first document of a kind ends, of all collateral that is kept.",
            read=lambda: _ends(verifiers()) if verifiers() else None,
        ),
    ]


def _ends(verifiers: Sequence[Verifier]) -> dict[Labels, float]:
    first: dict[Labels, float] = {}
    for verifier in verifiers:
        for name, end in verifier.collateral_expirations().items():
            kind = name.lower().replace(" ", "_")
            if kind in DOCUMENTS:
                labels = (("document", kind),)
                first[labels] = min(end.timestamp(), first.get(labels, end.timestamp()))
    return first


def _peer_metrics() -> list[Metric]:
    def handshakes() -> dict[Labels, float]:
        begun = {(side, layer, COMPLETED): 0 for side in Side for layer in Layer}
        return {
            (("side", side), ("layer", layer), ("outcome", str(outcome))): count
            for (side, layer, outcome), count in sorted({**begun, **COUNTERS.handshakes}.items())
        }

    def verdicts() -> dict[Labels, float]:
        begun = {(role, ACCEPTED): 0 for role in Role}
        return {
            (("role", role), ("reason", str(reason))): count
            for (role, reason), count in sorted({**begun, **COUNTERS.verdicts}.items())
        }

    def sessions() -> dict[Labels, float]:
        counts = {COMPLETED: 0, **COUNTERS.sessions}
        return {(("outcome", str(outcome)),): count for outcome, count in sorted(counts.items())}

    return [
        Metric(
            name="eaa_handshakes_total",
            kind="counter",
            meaning="TLS handshakes by who began, on a socket or inside another connection, and how they ended.",
            read=handshakes,
        ),
        Metric(
            name="eaa_verdicts_total",
            kind="counter",
            meaning="Verdicts on peers by role and reason, ACCEPTED where they were good.",
            read=verdicts,
        ),
        Metric(
            name="eaa_last_accepted_verdict_timestamp_seconds",
            kind="gauge",
            meaning="When evidence of a peer was last accepted, by role.",
            read=_AcceptedAt(),
        ),
        Metric(
            name="eaa_sessions_total",
            kind="counter",
            meaning="Sessions that have ended, by how.",
            read=sessions,
        ),
        Metric(
            name="eaa_refused_total",
            kind="counter",
            meaning="Peers that were refused by a limit.",
            read=lambda: {(("limit", limit),): COUNTERS.refused[limit] for limit in Limit},
        ),
    ]


class _AcceptedAt:
    """Turns moments of the monotonic clock into dates, each once: a date that is scraped twice has to be the same."""

    def __init__(self) -> None:
        self._dates: dict[Role, tuple[float, float]] = {}

    def __call__(self) -> Value:
        for role, moment in COUNTERS.accepted_at.items():
            if self._dates.get(role, (None, 0.0))[0] != moment:
                self._dates[role] = moment, wall_clock().timestamp() - (time.monotonic() - moment)
        return {(("role", role),): date for role, (_, date) in sorted(self._dates.items())}


def _connection_metrics(service: Service) -> list[Metric]:
    return [
        Metric(
            name="eaa_connections",
            kind="gauge",
            meaning="Connections that are being served.",
            read=lambda: service.live,
        ),
        Metric(
            name="eaa_connections_limit",
            kind="gauge",
            meaning="How many there may be at once.",
            read=lambda: service.max_connections,
        ),
        Metric(
            name="eaa_connections_accepted_total",
            kind="counter",
            meaning="Connections that were served, those included that still are.",
            read=lambda: service.accepted,
        ),
    ]


def _traffic_metrics(traffic: Traffic) -> list[Metric]:
    return [
        Metric(
            name="eaa_relayed_bytes_total",
            kind="counter",
            meaning="Application bytes that were carried, from clients or to them.",
            read=lambda: {
                (("direction", "from_clients"),): traffic.forth,
                (("direction", "to_clients"),): traffic.back,
            },
        )
    ]


def process_metrics() -> list[Metric]:
    """Return what any service says of its process, under the names that Prometheus's own libraries use."""
    return [
        Metric(
            name="eaa_build_info",
            kind="gauge",
            meaning="Always 1; the version is in the label.",
            read=lambda: {(("version", __version__),): 1},
        ),
        Metric(
            name="process_start_time_seconds",
            kind="gauge",
            meaning="When the process was started.",
            read=_started,
        ),
        Metric(
            name="process_cpu_seconds_total",
            kind="counter",
            meaning="Processor time that it has used.",
            read=lambda: sum(os.times()[:2]),
        ),
        Metric(
            name="process_resident_memory_bytes",
            kind="gauge",
            meaning="Memory that it has.",
            read=_resident,
        ),
        Metric(
            name="process_open_fds",
            kind="gauge",
            meaning="File descriptors that it has open.",
            read=_open_descriptors,
        ),
        Metric(
            name="process_max_fds",
            kind="gauge",
            meaning="File descriptors that it may have open.",
            read=_allowed_descriptors,
        ),
    ]


_IMPORTED: Final = time.monotonic()


def _started() -> float:
    # A system without /proc has no better moment.
    with contextlib.suppress(OSError, ValueError, IndexError):
        ticks = int((_PROCESS / "stat").read_text().rpartition(")")[2].split()[19])
        return _booted() + ticks / os.sysconf("SC_CLK_TCK")
    return wall_clock().timestamp() - (time.monotonic() - _IMPORTED)


def _booted() -> float:
    lines = Path("/proc/stat").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("btime ")))


def _resident() -> float | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((_PROCESS / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def _open_descriptors() -> float | None:
    with contextlib.suppress(OSError):
        return len(list((_PROCESS / "fd").iterdir())) - 1
    return None


def _allowed_descriptors() -> float | None:
    import resource  # noqa: PLC0415  a library OS may have none of it, and needs it for nothing else

    with contextlib.suppress(OSError, ValueError):
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None


# --- health


def service_health(observed: Observed, **conditions: Callable[[], bool]) -> Health:
    """Return the health of a service.

    Args:
        observed: it is ready when its service accepts connections, its evidence is valid and, where it judges anybody
            by evidence of its own kind, the collateral of its own platform is here.
        conditions: what else has to hold for it to be ready, by names of a closed set.
    """

    def has_evidence() -> bool:
        return all(identity.now() < identity.expires for identity in observed.identities())

    def has_collateral() -> bool:
        own = next((identity for identity in observed.identities() if identity.has_evidence), None)
        # Without evidence it has no platform that could be known.
        return own is None or not observed.verifiers() or own.collateral() is not None

    holding: dict[str, Callable[[], bool]] = {"evidence": has_evidence, "collateral": has_collateral, **conditions}
    if observed.service is not None:
        service = observed.service
        holding = {"listening": lambda: service.is_accepting, **holding}
    return Health(ready=not_holding(holding))
