"""What a relay says of its channels, its sessions and its reloads, beside what every service says.

Labels are the operator's names of workloads and words of ours; nothing that a peer has said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from eaa.inclavared.counters import ChannelCounters, RelayCounters
from eaa.program.exposition import Labels, Metric


def relay_metrics(counters: RelayCounters) -> list[Metric]:
    """Return the numbers of one relay."""
    return [*_channel_metrics(counters), *_session_metrics(counters), *counters.reloads.metrics()]


def _channel_metrics(counters: RelayCounters) -> list[Metric]:
    def by_workload(read: Callable[[ChannelCounters], float | None]) -> Callable[[], Mapping[Labels, float]]:
        def read_all() -> Mapping[Labels, float]:
            values = {name: read(each) for name, each in counters.channels.items()}
            return {(("workload", name),): value for name, value in values.items() if value is not None}

        return read_all

    def discarded() -> Mapping[Labels, float]:
        return {
            (("workload", name), ("why", why)): count
            for name, each in counters.channels.items()
            for why, count in each.discarded.items()
        }

    return [
        Metric(
            name="eaa_channels_ready",
            kind="gauge",
            meaning="Warm channels that wait for a client.",
            read=by_workload(lambda each: each.ready),
        ),
        Metric(
            name="eaa_channels_handed_out_total",
            kind="counter",
            meaning="Sessions that began on a warm channel.",
            read=by_workload(lambda each: each.handed_out),
        ),
        Metric(
            name="eaa_channels_opened_total",
            kind="counter",
            meaning="Channels that were opened and attested, warm ones and others.",
            read=by_workload(lambda each: each.opened),
        ),
        Metric(
            name="eaa_channel_failures_total",
            kind="counter",
            meaning="Channels that could not be opened.",
            read=by_workload(lambda each: each.failures),
        ),
        Metric(
            name="eaa_channels_discarded_total",
            kind="counter",
            meaning="Channels that served nobody: closed by the workload, aged, expired, collateral, reload, dead.",
            read=discarded,
        ),
        Metric(
            name="eaa_workload_unavailable_since_timestamp_seconds",
            kind="gauge",
            meaning="Since when no channel to this workload can be opened; absent while one can.",
            read=by_workload(lambda each: _timestamp(each.unavailable_since)),
        ),
    ]


def _session_metrics(counters: RelayCounters) -> list[Metric]:
    return [
        Metric(
            name="eaa_relayed_sessions",
            kind="gauge",
            meaning="Sessions that are being relayed.",
            read=lambda: counters.live,
        ),
        Metric(
            name="eaa_sessions_cut_total",
            kind="counter",
            meaning="Live sessions that a bad verdict has ended, by its reason.",
            read=lambda: {(("reason", reason),): count for reason, count in counters.cut.items()},
        ),
        Metric(
            name="eaa_reappraisals_total",
            kind="counter",
            meaning="Verdicts on live sessions, by outcome: accepted, pending, or a reason.",
            read=lambda: {(("outcome", outcome),): count for outcome, count in counters.reappraisals.items()},
        ),
        Metric(
            name="eaa_workload_last_good_verdict_timestamp_seconds",
            kind="gauge",
            meaning="When a workload was last accepted; absent until then.",
            read=lambda: _timestamp(counters.last_good_verdict),
        ),
    ]


def _timestamp(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
