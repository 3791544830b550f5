"""What the cache of collateral costs: processor time of an answer, answers a second, start, memory.

    python bench/pccs.py                a table
    python bench/pccs.py --json         the table, and one JSON object as the last line
    python bench/pccs.py --write        also results.json and the tables of README.md
    python bench/pccs.py --scale 0.1    a tenth of everything

README.md says what is measured, and how.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final

from report import Part, Result, environment, parser, run

from eaa.pccs.store import Store
from eaa.pccs.uploads import parse_upload
from eaa.simulator.platform import Platform

HOST: Final = "127.0.0.1"
PATIENCE: Final = 30.0
"""Seconds for the service to start."""
KEEP_ALIVE_SECONDS: Final = 3.0
ROUNDS: Final = 3
CONNECTIONS: Final = 3000
"""New TLS connections of one round."""
STARTS: Final = 9
PLATFORMS: Final = 10_000
SETTLED: Final = 0.5
"""Seconds after which what a round has left behind is done."""
MOST_US: Final = {64: 80.0, 1: 220.0}
"""Processor time of an answer, by connections."""
LEAST_RATE: Final = 12_000
LEAST_NEW_RATE: Final = 620
MOST_START: Final = 0.9
"""Seconds."""
MOST_MIB: Final = 120.0
_MIB: Final = 1024 * 1024
_TICK: Final = os.sysconf("SC_CLK_TCK")
_SUBJECT: Final = "https, P-256, one process"
_HOW_TO: Final = "bench: {} is missing (Debian, Ubuntu: apt-get install wrk apache2-utils)"
_REQUESTS: Final = re.compile(r"(\d+) requests in ([0-9.]+)(m?s|m)")
_COMPLETE: Final = re.compile(r"^Complete requests:\s+(\d+)", re.MULTILINE)
_FAILED: Final = re.compile(r"^Failed requests:\s+(\d+)", re.MULTILINE)
_RATE: Final = re.compile(r"^Requests per second:\s+([0-9.]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A folder with a database of one platform's collateral, and what it is served under."""

    folder: Path
    platform: Platform

    @classmethod
    def create(cls, folder: Path) -> World:
        """Make it."""
        platform = Platform.create(now=datetime.now(UTC).replace(microsecond=0))
        (folder / "root.pem").write_bytes(platform.root_pem)
        world = cls(folder=folder, platform=platform)
        world.fill(1)
        return world

    def fill(self, platforms: int) -> None:
        """Store so many platforms: this one's certificate under other names."""
        now = datetime.now(UTC)
        upload = parse_upload(self.platform.platform_collaterals(now=now.replace(microsecond=0)), api_version=4)
        (one,) = upload.platforms
        many = tuple(replace(one, qe_id=f"{number:032X}") for number in range(platforms))
        store = Store.open(self.folder / "pccs.sqlite")
        try:
            store.apply(replace(upload, platforms=many), now=now)
        finally:
            store.close()

    @property
    def tcb(self) -> str:
        """The path of TCB Info."""
        return f"/sgx/certification/v4/tcb?fmspc={self.platform.model.fmspc.hex().upper()}"

    def pckcert(self, number: int) -> str:
        """The path of a platform's certificate."""
        (one,) = parse_upload(
            self.platform.platform_collaterals(now=datetime.now(UTC).replace(microsecond=0)), api_version=4
        ).platforms
        (raw,) = one.raw_tcbs[:1]
        return (
            f"/sgx/certification/v4/pckcert?qeid={number:032X}&cpusvn={raw.cpu_svn}&pcesvn={raw.pce_svn}"
            f"&pceid={one.pce_id}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The program as a process."""

    process: subprocess.Popen[bytes]
    url: str
    took: float
    """Seconds from its start to its first answer."""

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rsplit(":", 1)[1].rstrip("/"))

    def cpu_us(self) -> float:
        """Processor time of the process so far, µs."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK * 1_000_000

    def pss(self) -> float:
        """Memory of the process, what it shares counted by its part, MiB; it has no children."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        (kib,) = [int(line.split()[1]) for line in lines if line.startswith("Pss:")]
        return kib * 1024 / _MIB


def _unverified() -> ssl.SSLContext:
    """Return a client's context that takes any server: only what servers do is measured."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextlib.contextmanager
def running(world: World) -> Iterator[Running]:
    """Start the program; it is gone afterwards."""
    log = world.folder / "log"
    options = ["--listen", f"{HOST}:0", "--db", str(world.folder / "pccs.sqlite"), "--log-level", "error"]
    options += ["--tls-dir", str(world.folder / "tls"), "--trust-anchor", str(world.folder / "root.pem")]
    began = time.monotonic()
    with log.open("wb") as stream:
        command = [sys.executable, "-c", "from eaa.pccs.cli import main; main()", "serve", *options]
        process = subprocess.Popen(command, stdout=stream, stderr=stream)  # noqa: S603
    try:
        url = _announced(process, log)
        _get(url, world.tcb)
        yield Running(process=process, url=url, took=time.monotonic() - began)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def _announced(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines():
            if line.startswith("eaa-pccs: listening on "):
                return line.removeprefix("eaa-pccs: listening on ")
        time.sleep(0.005)
    sys.exit(f"bench: the service does not start: {log.read_text(encoding='utf-8')}")


def _get(url: str, path: str) -> None:
    host, port = url.removeprefix("https://").rstrip("/").rsplit(":", 1)
    connection = http.client.HTTPSConnection(host, int(port), context=_unverified(), timeout=PATIENCE)
    connection.request("GET", path)
    answer = connection.getresponse()
    if answer.status != 200:
        sys.exit(f"bench: {path} was answered {answer.status}")
    answer.read()
    connection.close()


# --- measuring


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one round came to."""

    requests: int
    rate: float
    """Requests a second."""
    cpu_us: float
    """Of the service, for one request."""


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        sys.exit(_HOW_TO.format(name))
    return found


def _measured(server: Running, command: list[str]) -> tuple[str, float]:
    """Run a load generator; return what it printed and how much processor time the service took, µs."""
    begin = server.cpu_us()
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return done.stdout, server.cpu_us() - begin


def keep_alive(server: Running, path: str, *, connections: int, seconds: float) -> Load:
    """Ask over connections that stay."""
    url = server.url.rstrip("/") + path
    command = [_tool("wrk"), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", url]
    said, cpu = _measured(server, command)
    counted = _REQUESTS.search(said)
    if counted is None or "Non-2xx" in said or "Socket errors" in said:
        sys.exit(f"bench: {' '.join(command)}: {said}")
    requests, took = int(counted[1]), float(counted[2]) * {"s": 1, "ms": 0.001, "m": 60}[counted[3]]
    return Load(requests=requests, rate=requests / took, cpu_us=cpu / requests)


def new_connections(server: Running, path: str, *, count: int) -> Load:
    """Ask over a new TLS connection each, as Intel's library does."""
    command = [_tool("ab"), "-q", "-c4", f"-n{count}", server.url.rstrip("/") + path]
    said, cpu = _measured(server, command)
    complete, failed, rate = (pattern.search(said) for pattern in (_COMPLETE, _FAILED, _RATE))
    if complete is None or failed is None or rate is None or int(failed[1]) or "Non-2xx" in said:
        sys.exit(f"bench: {' '.join(command)}: {said}")
    return Load(requests=int(complete[1]), rate=float(rate[1]), cpu_us=cpu / int(complete[1]))


def measure(scale: float) -> Iterator[Result]:
    """Yield every result, over `scale` times as long rounds as the targets are stated for."""
    with tempfile.TemporaryDirectory(prefix="eaa-bench-") as name:
        world = World.create(Path(name))
        with running(world) as server:
            yield from _loads(server, world.tcb, scale)
        yield _starts(world, max(1, round(STARTS * min(scale, 1))))
        yield _memory(world, max(100, round(PLATFORMS * min(1, 2 * scale))))


def _loads(server: Running, path: str, scale: float) -> Iterator[Result]:
    seconds = KEEP_ALIVE_SECONDS * scale
    keep_alive(server, path, connections=64, seconds=1)
    kept: dict[int, list[Load]] = {64: [], 1: []}
    new = []
    for _ in range(ROUNDS if scale >= 0.1 else 1):
        for connections, loads in kept.items():
            loads.append(keep_alive(server, path, connections=connections, seconds=seconds))
            time.sleep(SETTLED)
        new.append(new_connections(server, path, count=max(100, round(CONNECTIONS * scale))))
        time.sleep(SETTLED)
    for connections, loads in kept.items():
        cpu = statistics.median(load.cpu_us for load in loads)
        yield _result(
            f"c{connections}",
            f"processor time of an answer, keep-alive, connections: {connections}",
            sum(load.requests for load in loads),
            cpu,
            "µs",
            MOST_US[connections],
            ours_us=round(cpu, 1),
        )
    rate = statistics.median(load.rate for load in kept[64])
    requests = sum(load.requests for load in kept[64])
    yield _result("rate", "answers a second, keep-alive, connections: 64", requests, rate, "/s", LEAST_RATE, least=True)
    rate, cpu = statistics.median(load.rate for load in new), statistics.median(load.cpu_us for load in new)
    what = "answers a second, a new TLS connection each, 4 at once"
    requests = sum(load.requests for load in new)
    yield _result("new", what, requests, rate, "/s", LEAST_NEW_RATE, least=True, ours_us=round(cpu, 1))


def _starts(world: World, count: int) -> Result:
    took = []
    for _ in range(count):
        with running(world) as server:
            took.append(server.took)
    return _result("start", "from start to first answer", count, statistics.median(took), "s", MOST_START)


def _memory(world: World, platforms: int) -> Result:
    """Return the memory of a service that has been asked for the certificate of every platform."""
    world.fill(platforms)
    begin, _, end = world.pckcert(0).partition(f"{0:032X}")
    with running(world) as server:
        connection = http.client.HTTPSConnection(HOST, server.port, context=_unverified(), timeout=PATIENCE)
        for number in range(platforms):
            connection.request("GET", f"{begin}{number:032X}{end}")
            answer = connection.getresponse()
            if answer.status != 200 or not answer.read():
                sys.exit(f"bench: the certificate of platform {number} was answered {answer.status}")
        connection.close()
        pss = server.pss()
    return _result("memory", f"memory (PSS), {platforms:,} platforms cached, each asked for", 1, pss, "MiB", MOST_MIB)


def _result(
    name: str,
    what: str,
    count: int,
    value: float,
    unit: str,
    target: float,
    *,
    least: bool = False,
    ours_us: float | None = None,
) -> Result:
    digits = 2 if value < 10 else 0
    return Result(
        id=name,
        what=what,
        subject=_SUBJECT,
        n=count,
        value=round(value, digits),
        unit=unit,
        target=target,
        at_least=least,
        ours_us=ours_us,
    )


def versions() -> dict[str, str]:
    """Return what else a result depends on."""
    names = ("granian", "SQLAlchemy", "uvloop")
    installed = {distribution.name for distribution in metadata.distributions()}
    return {name: metadata.version(name) for name in names if name in installed}


def main() -> None:
    """Measure, and tell."""
    options = parser("Measure the cache of collateral.").parse_args()
    for tool in ("wrk", "ab"):
        _tool(tool)
    run(Part.PCCS, options, measure, lambda: environment(**versions()))


if __name__ == "__main__":
    main()
