"""What relaying costs: ours beside nginx's stream module, haproxy and stunnel, TLS to TLS, mutual on both legs.

    python bench/relay.py                a table
    python bench/relay.py --json         the table, and one JSON object as the last line
    python bench/relay.py --write        also results.json and the tables of README.md
    python bench/relay.py --scale 0.1    a tenth of everything

README.md says what is measured, and how.
"""

from __future__ import annotations

import contextlib
import os
import resource
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Final

from ends import Ends, Pair, fill, ping_pong, transfer
from relays import LOAD_CORE, RELAYS, RelayProcess, Site, most_connections, versions
from report import Part, Result, environment, parser, run

ROUNDS: Final = 5
"""The relays take turns in each, so that whatever else the machine does befalls all of them."""
STREAMS: Final = 64
BYTES: Final = 400_000_000
"""Of one transfer."""
PINGS: Final = 2000
PING_SIZE: Final = 1024
IDLE: Final = 1000
MANY_IDLE: Final = 10_000
SETTLED: Final = 0.5
"""MiB by which a process may still grow or shrink within a second when its memory is read."""
CHECKED: Final = 4_000_000
"""Bytes that are sent both ways and compared before anything is measured."""

OTHERS: Final = ("nginx", "haproxy", "stunnel")
MIB_PER_1000: Final = 95


@dataclass(slots=True)
class Measured:
    """What was measured of one relay, a number a round."""

    throughput: dict[str, list[float]] = field(default_factory=lambda: {"one stream": [], "64 streams": []})
    """MB/s."""
    cpu: dict[str, list[float]] = field(default_factory=lambda: {"one stream": [], "64 streams": []})
    """Seconds for each GB."""
    latency: list[float] = field(default_factory=list)
    """µs, the median of a round."""
    busy: list[float] = field(default_factory=list)
    """The share of the time in which the load generator was busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Both ends for each kind of relay."""

    site: Site
    attested: Ends
    plain: Ends

    def of(self, name: str) -> Ends:
        """Return those for one relay."""
        return self.attested if name == "ours" else self.plain


def measure(scale: float) -> Iterator[Result]:
    """Yield every result, `scale` times as much of everything as the targets are stated for."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with tempfile.TemporaryDirectory(prefix="eaa-bench-") as folder, _on_core(LOAD_CORE):
        site = Site.create(Path(folder))
        load = Load(site=site, attested=Ends(site.workload, attested=True), plain=Ends(site.workload, attested=False))
        yield from _speeds(load, scale)
        yield from _memories(load, scale)


@contextlib.contextmanager
def _on_core(core: int) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# --- speed


def _speeds(load: Load, scale: float) -> Iterator[Result]:
    rounds, streams = max(1, round(ROUNDS * min(1, 5 * scale))), max(2, round(STREAMS * min(1, 10 * scale)))
    size, pings = max(2_000_000, round(BYTES * scale)), max(20, round(PINGS * scale))
    measured = {name: Measured() for name in RELAYS}
    with contextlib.ExitStack() as stack:
        relays = {name: stack.enter_context(start(load.site, load.of(name).port)) for name, start in RELAYS.items()}
        pairs = {name: [load.of(name).connect(relay.port) for _ in range(streams)] for name, relay in relays.items()}
        for pair in (each[0] for each in pairs.values()):
            _check(pair, min(CHECKED, size))
        for _ in range(rounds):
            for name, relay in relays.items():
                one = measured[name]
                for kind, used in (("one stream", pairs[name][:1]), ("64 streams", pairs[name])):
                    begin = relay.cpu_us()
                    went = transfer(used, size)
                    one.throughput[kind].append(size / 1e6 / went.seconds)
                    one.cpu[kind].append((relay.cpu_us() - begin) / 1e6 / (size / 1e9))
                    one.busy.append(went.busy)
                one.latency.append(1e6 * statistics.median(ping_pong(pairs[name][0], times=pings, size=PING_SIZE)))
    yield from _speed_results(measured, rounds)


def _check(pair: Pair, size: int) -> None:
    """Let a relay prove that it relays: what is timed later is counted only, and not looked at."""
    data = os.urandom(size // 2)
    for sender, taker in ((pair.client, pair.workload), (pair.workload, pair.client)):
        for begin in range(0, len(data), 65536):
            part = data[begin : begin + 65536]
            sender.send(part)
            if taker.read(len(part)) != part:
                sys.exit("bench: a relay has changed what it relays")


def _speed_results(measured: dict[str, Measured], rounds: int) -> Iterator[Result]:
    for kind, target in (("one stream", 1.0), ("64 streams", 0.9)):
        throughput = {name: one.throughput[kind] for name, one in measured.items()}
        yield from _ratios(
            Result(
                id=kind, what="throughput", subject=kind, n=rounds, value=0, unit="MB/s", target=target, at_least=True
            ),
            throughput,
        )
    for kind in ("one stream", "64 streams"):
        cpu = {name: one.cpu[kind] for name, one in measured.items()}
        asked = Result(
            id=f"CPU, {kind}", what="CPU time for each GB", subject=kind, n=rounds, value=0, unit="s/GB", target=1.05
        )
        yield from _ratios(asked, cpu)
    latency = {name: one.latency for name, one in measured.items()}
    asked = Result(
        id="ping-pong", what="1 KiB there and back, p50", subject="one stream", n=rounds, value=0, unit="µs", target=1.1
    )
    yield from _ratios(asked, latency)
    busiest = max(max(one.busy) for one in measured.values())
    yield Result(
        id="load",
        what="how busy the load generator was at most",
        subject="its own core",
        n=rounds,
        value=round(100 * busiest),
        unit="%",
        target=None,
    )


def _ratios(asked: Result, values: dict[str, list[float]]) -> Iterator[Result]:
    """Compare our median with each of the others'. The targets are nginx's; the others stand beside it."""
    ours = values["ours"]
    for name in OTHERS:
        theirs = values[name]
        yield replace(
            asked,
            id=asked.id if name == "nginx" else f"{asked.id}, {name}",
            subject=f"{asked.subject}, beside {name}",
            value=round(statistics.median(ours) / statistics.median(theirs), 3),
            unit="x",
            target=asked.target if name == "nginx" else None,
            theirs=_spread(theirs, asked.unit),
            ours=_spread(ours, asked.unit),
        )


def _spread(values: list[float], unit: str) -> str:
    digits = 2 if max(values) < 10 else 0
    middle, least, most = (f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} {unit} ({least} to {most})"


# --- memory


def _memories(load: Load, scale: float) -> Iterator[Result]:
    count = max(20, round(IDLE * scale))
    of_1000 = {name: _idle(load, name, [count])[0] for name in RELAYS}
    many = min(round(MANY_IDLE * scale), most_connections())
    some, most = _idle(load, "ours", [max(20, many // 4), max(40, many)])
    yield Result(
        id="memory",
        what="idle relayed connections, MiB for 1,000",
        subject="PSS, proportional",
        n=count,
        value=round(of_1000["ours"].per_1000, 1),
        unit="MiB",
        target=MIB_PER_1000,
        theirs=", ".join(f"{name} {of_1000[name].per_1000:.0f}" for name in OTHERS),
        ours=f"{of_1000['ours'].per_1000:.1f} MiB beside {of_1000['ours'].base:.0f} MiB without any",
    )
    yield Result(
        id="memory beside nginx",
        what="the same",
        subject="beside nginx",
        n=count,
        value=round(of_1000["ours"].per_1000 / of_1000["nginx"].per_1000, 3),
        unit="x",
        target=1.0,
        theirs=f"{of_1000['nginx'].per_1000:.1f} MiB",
        ours=f"{of_1000['ours'].per_1000:.1f} MiB",
    )
    yield Result(
        id="linear",
        what=f"the same with {most.count:,}, as many as {resource.getrlimit(resource.RLIMIT_NOFILE)[1]:,} descriptors "
        f"allow, against {some.count:,}",
        subject="each thousand",
        n=most.count,
        value=round(most.per_1000 / some.per_1000, 3),
        unit="x",
        target=1.1,
        theirs=f"{some.per_1000:.1f} MiB",
        ours=f"{most.per_1000:.1f} MiB",
    )
    grown = {name: _stopped(load, name) for name in ("nginx", "ours")}
    yield Result(
        id="stopped",
        what="growth while a receiver has stopped",
        subject="RSS, one stream",
        n=1,
        value=round(max(0.01, grown["ours"]), 2),
        unit="MiB",
        target=5,
        theirs=f"{grown['nginx']:.2f} MiB",
        ours=f"{grown['ours']:.2f} MiB",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """The memory of a relay with so many idle connections."""

    count: int
    base: float
    """MiB before there were any."""
    grown: float
    """MiB that they took."""

    @property
    def per_1000(self) -> float:
        """MiB for a thousand connections."""
        return self.grown / self.count * 1000


def _idle(load: Load, name: str, counts: list[int]) -> list[Idle]:
    """Open connections through a relay that has just been started, and let them be."""
    ends, found = load.of(name), []
    pairs: list[Pair] = []
    with contextlib.closing(_Pairs(pairs)), RELAYS[name](load.site, ends.port) as relay:
        # The first connections load what no further one does.
        for pair in [ends.connect(relay.port) for _ in range(8)]:
            pair.close()
        base = _settled(relay)
        for count in counts:
            pairs += [ends.connect(relay.port) for _ in range(count - len(pairs))]
            found.append(Idle(count=count, base=base, grown=_settled(relay) - base))
    return found


class _Pairs:
    def __init__(self, pairs: list[Pair]) -> None:
        self._pairs = pairs

    def close(self) -> None:
        for pair in self._pairs:
            pair.close()


def _settled(relay: RelayProcess) -> float:
    """Return the memory of a relay once it does not change any more, MiB."""
    before = relay.pss()
    while True:
        time.sleep(1)
        now = relay.pss()
        if abs(now - before) < SETTLED:
            return now
        before = now


def _stopped(load: Load, name: str) -> float:
    """Return by how much a relay grows, MiB, when one side sends all it can and the other reads nothing."""
    ends = load.of(name)
    with RELAYS[name](load.site, ends.port) as relay:
        pair = ends.connect(relay.port)
        _check(pair, 1_000_000)
        before = relay.rss()
        fill(pair)
        grown = relay.rss() - before
        pair.close()
    return grown


def main() -> None:
    """Measure, and tell."""
    options = parser("Measure relays beside each other.").parse_args()
    names = ("cryptography", "pyOpenSSL", "uvloop")
    installed = {distribution.name: distribution.version for distribution in metadata.distributions()}
    run(
        Part.RELAY,
        options,
        measure,
        lambda: environment(
            **versions(),
            **{"OpenSSL of Python": ssl.OPENSSL_VERSION.split()[1]},
            **{name: installed[name] for name in names if name in installed},
        ),
    )


if __name__ == "__main__":
    main()
