"""How results are told: a table on the terminal, one JSON object, and the tables of both README.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).resolve().parent
RESULTS: Final = FOLDER / "results.json"
DETAILS: Final = FOLDER / "README.md"
FRONT_PAGE: Final = FOLDER.parent / "README.md"
"""Has of each kind of result the worst only."""
END: Final = "<!-- end of results -->"


class Part(StrEnum):
    """What one run measures: a member of results.json and a table, each."""

    VERIFY = "verify"
    HANDSHAKE = "handshake"
    PCCS = "pccs"
    RELAY = "relay"

    @property
    def begin(self) -> str:
        """What stands in a README.md before its table."""
        return f"<!-- results: bench/{self.value}.py -->"


_THEIRS: Final = {Part.VERIFY: "dcap-qvl", Part.HANDSHAKE: "nginx", Part.PCCS: "theirs", Part.RELAY: "theirs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One thing that was measured."""

    id: str
    """The letter of the target, or its name."""
    what: str
    subject: str
    n: int
    """How many times it was measured."""
    value: float
    unit: str
    target: float | None
    at_least: bool = False
    """Whether the value must reach the target; else it must not pass it."""
    theirs_us: float | None = None
    """CPU time of what ours is compared with, in the same run, µs: dcap-qvl's verify, or a handshake of nginx."""
    ours_us: float | None = None
    """CPU time of ours, µs."""
    theirs: str = ""
    """What was measured of theirs, where that is no CPU time: the median, and the least and the most."""
    ours: str = ""
    """The same of ours."""

    @property
    def met(self) -> bool:
        """Whether the target is met; always, where there is none."""
        return self.margin >= 1

    @property
    def margin(self) -> float:
        """How many times better than its target it is."""
        if self.target is None:
            return 1
        return self.value / self.target if self.at_least else self.target / max(self.value, 1e-9)

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of a table."""
        times = (self.theirs or _microseconds(self.theirs_us), self.ours or _microseconds(self.ours_us))
        bound = "" if self.target is None else f"{'≥' if self.at_least else '≤'} {_number(self.target)}"
        result = f"{_number(self.value)} {self.unit}".rstrip()
        return (self.id, self.what, self.subject, f"{self.n:,}", *times, result, bound, "" if self.met else "MISSED")


def environment(**more: str) -> dict[str, str]:
    """Return what every result depends on: the day, the machine and its load, versions."""
    return {
        "taken on": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "load average at the end": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
        **more,
    }


def _processor() -> str:
    """Return the processor's name, or the architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def summary(results: Iterable[Result], environment: dict[str, str]) -> dict[str, Any]:
    """Return everything as one JSON object."""
    listed = list(results)
    return {
        "environment": environment,
        "results": [asdict(result) | {"met": result.met} for result in listed],
        "missed": [f"{result.id} ({result.subject})" for result in listed if not result.met],
    }


def results_of(document: dict[str, Any]) -> list[Result]:
    """Return the results in a summary."""
    rows: list[dict[str, Any]] = document["results"]
    return [Result(**{name: value for name, value in row.items() if name != "met"}) for row in rows]


def table(part: Part, results: Iterable[Result]) -> str:
    """Return a table for a terminal."""
    rows = [_headings(part), *(result.cells for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def worst_of(results: Iterable[Result]) -> list[Result]:
    """Return of each kind the result that is nearest to missing its target, or furthest past it."""
    worst: dict[str, Result] = {}
    for result in results:
        if result.id not in worst or result.margin < worst[result.id].margin:
            worst[result.id] = result
    return list(worst.values())


def markdown(part: Part, document: dict[str, Any], results: list[Result]) -> str:
    """Return the part of a README.md that a run writes."""
    headings = _headings(part)
    rows = [headings, tuple("---" for _ in headings), *(result.cells for result in results)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    said = ", ".join(f"{name} {value}" for name, value in document["environment"].items())
    return "\n".join((part.begin, "", *lines, "", f"`python bench/{part.value}.py`: {said}.", "", END))


def write(part: Part, document: dict[str, Any]) -> None:
    """Write a part of results.json, and the tables of both README.md from it."""
    written = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    written[part.value] = document
    RESULTS.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for path in (DETAILS, FRONT_PAGE):
        path.write_text(with_table(path, part, document), encoding="utf-8")


def with_table(path: Path, part: Part, document: dict[str, Any]) -> str:
    """Return the text of a README.md with the table of this summary."""
    results = results_of(document)
    before, _, rest = path.read_text(encoding="utf-8").partition(part.begin)
    _, _, after = rest.partition(END)
    return before + markdown(part, document, worst_of(results) if path == FRONT_PAGE else results) + after


def parser(description: str) -> argparse.ArgumentParser:
    """Return what a benchmark can be told."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    made.add_argument("--write", action="store_true", help="write results.json and the tables of README.md")
    made.add_argument("--scale", type=float, default=1.0, help="so many times as much of everything")
    return made


def run(
    part: Part,
    options: argparse.Namespace,
    measure: Callable[[float], Iterator[Result]],
    environment: Callable[[], dict[str, str]],
) -> None:
    """Measure, and tell."""
    results = []
    for result in measure(options.scale):
        sys.stderr.write(f"bench: {' '.join(filter(None, result.cells))}\n")
        results.append(result)
    document = summary(results, environment())
    print(table(part, results))
    if options.write:
        write(part, document)
    if options.json:
        print(json.dumps(document, ensure_ascii=False))


def _headings(part: Part) -> tuple[str, ...]:
    return ("", "measured", "of", "n", _THEIRS[part], "ours", "result", "target", "")


def _microseconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f} µs"


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
