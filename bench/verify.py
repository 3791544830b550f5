"""How fast quotes are verified: CPU time against dcap-qvl's `verify`, memory, cores, and starting.

    python bench/verify.py                a table
    python bench/verify.py --json         the table, and one JSON object as the last line
    python bench/verify.py --write        also results.json and the tables of README.md
    python bench/verify.py --scale 0.1    a tenth of everything

README.md says what is measured, and how.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from operator import truediv
from pathlib import Path
from typing import Any, Final

from fleet import Fleet, Machine, Subject, real_subjects, write_quotes
from report import Part, Result, environment, parser, run

from eaa.appraise.policy import Policy, PolicyFile
from eaa.appraise.reference_values import ReferenceValue, ReferenceValues
from eaa.appraise.result import Attests, Role
from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import TCBStatus
from eaa.errors import EAAError
from eaa.evidence.quote import Quote
from eaa.evidence.sgx import EnclaveReport
from eaa.verifier import Verifier

try:
    import dcap_qvl
except ImportError:
    sys.exit("bench: dcap-qvl is not installed: `make bench` installs it")

ITERATIONS: Final = 400
BLOCK: Final = 10
"""Calls of one kind in a row. The kinds take turns, so that whatever else the machine does befalls them alike."""
FLEET: Final = 1_000
QUOTES_OF_ONE_MACHINE: Final = 10
FLEET_ROUNDS: Final = 5
BATCH: Final = 100_000
BATCH_PARTS: Final = 5
"""How often one core and all of them take turns, each time with another part of the batch."""
PLATFORMS: Final = 10_000
STARTS: Final = 15
_CHUNK: Final = 500
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

TARGETS: Final = {"a": 0.5, "b": 1.3, "c": 3.0, "d": 6.0, "e": 5.0, "f": 1.7}
PARSE_AND_APPRAISE_US: Final = 40
MEMORY_MIB: Final = 60
IMPORT_S: Final = 0.15
PROGRAM_S: Final = 0.30


class Source:
    """Collateral that is there already."""

    def __init__(self, collateral: Collateral) -> None:
        self.collateral = collateral

    def fetch(self, **_: object) -> Collateral:
        """Return it, whatever is asked for."""
        return self.collateral


def verifier_of(subject: Subject) -> Verifier:
    """A verifier that has seen nothing yet, and would accept this quote."""
    report = Quote.parse_prefix(subject.evidence)[0].body
    measured: dict[str, Any] = (
        {"mr_enclave": report.mr_enclave} if isinstance(report, EnclaveReport) else {"mr_td": report.mr_td}
    )
    value = ReferenceValue(
        name="app", role=Role.WORKLOAD, attests=Attests.PROCESS, trust_anchor=subject.fingerprint, **measured
    )
    statuses = tuple(status for status in TCBStatus if status is not TCBStatus.REVOKED)
    return Verifier(
        # Another record of the same bytes: that its digest is known would be a start.
        Source(replace(subject.collateral)),
        trust_anchors=subject.trust_anchors,
        policy=PolicyFile(default=Policy(allowed_tcb_statuses=statuses)),
        reference_values=ReferenceValues((value,)),
        clock=lambda: subject.now,
    )


def judging(subject: Subject, verifier: Verifier) -> Callable[[], object]:
    """Return our verification of this quote."""
    evidence = subject.evidence
    return lambda: verifier.judge(evidence, role=Role.WORKLOAD, session=None)


def independent(subject: Subject) -> Callable[[], object]:
    """Return dcap-qvl's verification of this quote."""
    collateral = dcap_qvl.QuoteCollateralV3.from_json(subject.collateral.to_json().decode())
    evidence, root, now = subject.evidence, subject.root, int(subject.now.timestamp())
    if root is None:
        return lambda: dcap_qvl.verify(evidence, collateral, now)
    return lambda: dcap_qvl.verify_with_root_ca(evidence, collateral, root, now)


def passes(subject: Subject) -> bool:
    """Whether both verifiers establish facts of this quote."""
    try:
        independent(subject)()
        verifier_of(subject).judge(subject.evidence, role=Role.WORKLOAD, session=None)
    except (ValueError, EAAError):
        return False
    return True


def cpu_us(act: Callable[[], object]) -> float:
    """Return the CPU time of one call in this thread, µs."""
    begin = time.thread_time_ns()
    act()
    return (time.thread_time_ns() - begin) / 1000


# --- a to d: one quote, with more and more of what it needs established before


def measure_stages(subject: Subject, n: int) -> Iterator[Result]:
    """Yield a to d, and parsing and appraising, for one quote."""
    names = ("qvl", "a", "b", "c", "d", "parse and appraise")
    times: dict[str, list[float]] = {name: [] for name in names}
    verifier = verifier_of(subject)
    verified = verifier.verify(Quote.parse(subject.evidence))
    prepared: dict[str, Callable[[], Callable[[], object]]] = {
        "qvl": lambda: theirs,
        "a": lambda: judging(subject, verifier_of(subject)),
        "b": lambda: judging(subject, without(verifier, "platforms", "attestation_keys")),
        "c": lambda: judging(subject, without(verifier, "attestation_keys")),
        "d": lambda: judging(subject, verifier),
        "parse and appraise": lambda: parsing_and_appraising,
    }
    theirs = independent(subject)

    def parsing_and_appraising() -> None:
        Quote.parse(subject.evidence)
        verifier.appraise(verified, role=Role.WORKLOAD, session=None)

    for _ in range(0, n, BLOCK):
        for name in names:
            times[name].append(statistics.median(cpu_us(prepared[name]()) for _ in range(BLOCK)))
    titles = {"a": "cold", "b": "collateral cached", "c": "PCK chain cached", "d": "attestation key cached"}
    for name, title in titles.items():
        yield ratio(name, title, subject.name, n, times["qvl"], times[name])
    yield Result(
        id="parse",
        what="parsing and appraising in b to f",
        subject=subject.name,
        n=n,
        value=round(statistics.median(times["parse and appraise"]), 2),
        unit="µs",
        target=PARSE_AND_APPRAISE_US,
        at_least=False,
    )


def without(verifier: Verifier, *stores: str) -> Verifier:
    """Take out of a verifier what it remembers of these kinds."""
    for store in stores:
        getattr(verifier._verified, f"_{store}").drop(lambda _: True)  # noqa: SLF001  no user needs this
    return verifier


def ratio(letter: str, what: str, subject: str, n: int, theirs: list[float], ours: list[float]) -> Result:
    """Return how many times as fast ours is, of times taken side by side.

    The machine may be a third slower a second later, and both with it: what is compared has to be of one moment.
    """
    return Result(
        id=letter,
        what=what,
        subject=subject,
        n=n,
        value=round(statistics.median(map(truediv, theirs, ours)), 3),
        unit="x",
        target=TARGETS[letter],
        at_least=True,
        theirs_us=round(statistics.median(theirs), 1),
        ours_us=round(statistics.median(ours), 1),
    )


# --- e: a fleet


def measure_fleet(fleet: Fleet, machines: list[Machine]) -> Result:
    """Return e: ours of all quotes, first ones and later ones as many as there are of each; theirs of every tenth."""
    evidence = [
        (number, machine.quote(nonce))
        for number, machine in enumerate(machines)
        for nonce in range(QUOTES_OF_ONE_MACHINE)
    ]
    random.Random(1).shuffle(evidence)  # noqa: S311  the same order each time
    quote = evidence[0][1]
    subject = Subject(name="fleet", evidence=quote, collateral=fleet.collateral, root=fleet.root, now=fleet.now)
    sides = [_of_fleet(subject, evidence) for _ in range(FLEET_ROUNDS)]
    theirs, ours = [list(side) for side in zip(*sides, strict=True)]
    what = f"fleet: {len(machines):,} machines, {QUOTES_OF_ONE_MACHINE} quotes each"
    return ratio("e", what, "simulated SGX v3", len(evidence), theirs, ours)


def _of_fleet(subject: Subject, evidence: list[tuple[int, bytes]]) -> tuple[float, float]:
    """Return what one quote takes them, and a verifier that has seen none of the fleet, µs."""
    verifier, seen = verifier_of(subject), set[int]()
    first: list[float] = []
    later: list[float] = []
    theirs: list[float] = []
    for number, quote in evidence:
        shown = replace(subject, evidence=quote)
        (later if number in seen else first).append(cpu_us(judging(shown, verifier)))
        seen.add(number)
        if len(first) + len(later) > len(theirs) * QUOTES_OF_ONE_MACHINE:
            theirs.append(cpu_us(independent(shown)))
    ours = sum(statistics.median(times) * len(times) for times in (first, later)) / len(evidence)
    return statistics.median(theirs), ours


# --- f: a batch


def measure_batch(fleet: Fleet, machines: list[Machine], count: int) -> Iterator[Result]:
    """Yield f: how much faster all cores are than one."""
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="eaa-bench-") as folder:
        paths = [str(path) for path in write_quotes(Path(folder), machines, count)]
        subject = Subject(
            name="batch",
            evidence=machines[0].evidence,
            collateral=fleet.collateral,
            root=fleet.root,
            now=fleet.now,
        )
        parts = [paths[number::BATCH_PARTS] for number in range(BATCH_PARTS)]
        times = [[judge_batch(subject, part, workers=workers) for workers in (1, cores)] for part in parts]
    rate = count / BATCH_PARTS / statistics.median(together for _, together in times)
    yield Result(
        id="f",
        what=f"batch from files, {cores} cores against one ({rate:,.0f} quotes a second)",
        subject="simulated SGX v3",
        n=count,
        value=round(statistics.median(alone / together for alone, together in times), 3),
        unit="x",
        target=TARGETS["f"],
        at_least=True,
    )


def judge_batch(subject: Subject, paths: list[str], *, workers: int) -> float:
    """Judge files in so many processes; return the seconds it took, processes started and all."""
    chunks = [paths[at : at + _CHUNK] for at in range(0, len(paths), _CHUNK)]
    begin = time.perf_counter()
    with ProcessPoolExecutor(workers, initializer=_begin_worker, initargs=(subject,)) as pool:
        judged = sum(pool.map(_judge_files, chunks))
    if judged != len(paths):
        sys.exit("bench: not every quote of the batch was accepted")
    return time.perf_counter() - begin


_worker: dict[str, Verifier] = {}


def _begin_worker(subject: Subject) -> None:
    _worker["verifier"] = verifier_of(subject)


def _judge_files(paths: list[str]) -> int:
    verifier = _worker["verifier"]
    return sum(verifier.judge(Path(path).read_bytes(), role=Role.WORKLOAD, session=None).accepted for path in paths)


# --- memory


def measure_memory(fleet: Fleet, count: int) -> Result:
    """Return how much a process grows by remembering so many platforms."""
    with tempfile.TemporaryDirectory(prefix="eaa-bench-") as folder:
        quotes = Path(folder, "quotes")
        with quotes.open("wb") as file:
            for machine in fleet.machines(count + 1):
                file.write(len(machine.evidence).to_bytes(4, "big") + machine.evidence)
        Path(folder, "collateral.json").write_bytes(fleet.collateral.to_json())
        Path(folder, "root.der").write_bytes(fleet.root)
        arguments = [sys.executable, __file__, "--grow", folder, fleet.now.isoformat()]
        grown = json.loads(subprocess.run(arguments, check=True, capture_output=True).stdout)  # noqa: S603
    return Result(
        id="memory",
        what=f"{grown['platforms']:,} platforms remembered",
        subject="simulated SGX v3",
        n=1,
        value=round(grown["bytes"] / 2**20, 1),
        unit="MiB",
        target=MEMORY_MIB,
        at_least=False,
    )


def grow(folder: Path, now: datetime) -> None:
    """Verify every quote of a folder; print by how much that made this process grow."""
    evidence = _quotes_in(folder / "quotes")
    subject = Subject(
        name="memory",
        evidence=next(evidence),
        collateral=Collateral.from_json((folder / "collateral.json").read_bytes()),
        root=(folder / "root.der").read_bytes(),
        now=now,
    )
    verifier = verifier_of(subject)
    verifier.judge(subject.evidence, role=Role.WORKLOAD, session=None)
    before = _resident()
    for quote in evidence:
        verifier.judge(quote, role=Role.WORKLOAD, session=None)
    grown = _resident() - before
    kept = verifier._verified.sizes["platforms"]  # noqa: SLF001  no user needs this
    sys.stdout.write(json.dumps({"bytes": grown, "platforms": kept}))


def _quotes_in(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while head := file.read(4):
            yield file.read(int.from_bytes(head, "big"))


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE


# --- starting


def measure_starts(fleet: Fleet, n: int) -> Iterator[Result]:
    """Yield how long importing, and verifying one quote from the command line, takes: wall time of a whole process."""
    yield started("import", "python -c 'import eaa'", [sys.executable, "-c", "import eaa"], n, IMPORT_S)
    with tempfile.TemporaryDirectory(prefix="eaa-bench-") as folder:
        names = {"quote": next(fleet.machines(1)).evidence, "collateral.json": fleet.collateral.to_json()}
        for name, content in (names | {"root.pem": fleet.root_pem}).items():
            Path(folder, name).write_bytes(content)
        shelter = str(Path(sys.executable).with_name("shelter"))
        options = ["--collateral", f"{folder}/collateral.json", "--trust-anchor", f"{folder}/root.pem"]
        values = ["--reference-values", f"{folder}/none.toml"]
        Path(folder, "none.toml").write_text("", encoding="utf-8")
        command = [shelter, "verify", f"{folder}/quote", *options, *values]
        yield started("program", "shelter verify, one quote", command, n, PROGRAM_S)


def started(name: str, what: str, command: list[str], n: int, target: float) -> Result:
    """Return the median wall time of a process."""
    times = []
    for _ in range(n):
        begin = time.perf_counter()
        done = subprocess.run(command, check=False, capture_output=True)  # noqa: S603
        times.append(time.perf_counter() - begin)
        # 1: established, and then rejected for want of a reference value.
        if done.returncode not in (0, 1):
            sys.exit(f"bench: {what} failed: {done.stderr.decode()}")
    return Result(
        id=name,
        what=what,
        subject="a process",
        n=n,
        value=round(statistics.median(times), 3),
        unit="s",
        target=target,
        at_least=False,
    )


# --- all of it


def measure(scale: float) -> Iterator[Result]:
    """Yield every result, `scale` times as many of everything as the targets are stated for."""

    def count(full: int, least: int) -> int:
        return max(least, round(full * scale))

    fleet = Fleet(now=datetime.now(UTC).replace(microsecond=0))
    # What the benchmark itself holds is no part of what a collection in the middle of a verification should walk.
    gc.collect()
    gc.freeze()
    for subject in (*real_subjects(passes=passes), *fleet.subjects()):
        yield from measure_stages(subject, count(ITERATIONS, BLOCK))
    machines = list(fleet.machines(count(FLEET, 10)))
    yield measure_fleet(fleet, machines)
    yield from measure_batch(fleet, machines, count(BATCH, 200))
    yield measure_memory(fleet, count(PLATFORMS, 100))
    yield from measure_starts(fleet, count(STARTS, 3))


def main() -> None:
    """Measure, and tell."""
    made = parser("Measure verification against dcap-qvl.")
    made.add_argument("--grow", nargs=2, metavar=("FOLDER", "TIME"), help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.grow:
        grow(Path(options.grow[0]), datetime.fromisoformat(options.grow[1]))
        return
    versions = {name: metadata.version(name) for name in ("cryptography", "dcap-qvl")}
    run(Part.VERIFY, options, measure, lambda: environment(**versions))


if __name__ == "__main__":
    main()
