"""What a relay has done so far: plain numbers for metrics. Names of workloads are the operator's, reasons ours."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from eaa.program.reload import Reloads


@dataclass(slots=True)
class ChannelCounters:
    """Of the channels to one workload."""

    ready: int = 0
    """Warm channels that wait for a client."""
    handed_out: int = 0
    """Warm channels that a client was given."""
    opened: int = 0
    """Channels that were attested, warm ones and others."""
    failures: int = 0
    """Channels that could not be opened."""
    discarded: Counter[str] = field(default_factory=Counter)
    """Warm channels that were closed unused, by why: closed, aged, expired, collateral, reload, stopping;
    and `dead`, which a client was given but the workload has answered nothing on."""
    unavailable_since: datetime | None = None
    """Since when no channel could be opened; None while one can."""


@dataclass(slots=True)
class RelayCounters:
    """Of one process."""

    sessions: int = 0
    """Sessions that were relayed, those included that still are."""
    live: int = 0
    cut: Counter[str] = field(default_factory=Counter)
    """Live sessions that a bad verdict has ended, by reason code."""
    reappraisals: Counter[str] = field(default_factory=Counter)
    """Verdicts on live sessions, by outcome: accepted, a reason code, or `pending` where there was none."""
    last_good_verdict: datetime | None = None
    """When a workload was last accepted, at the beginning of a channel or again later."""
    reloads: Reloads = field(default_factory=Reloads)
    channels: dict[str, ChannelCounters] = field(default_factory=dict)
    """By workload."""

    def of(self, workload: str) -> ChannelCounters:
        """Return the counters of one workload's channels."""
        return self.channels.setdefault(workload, ChannelCounters())
