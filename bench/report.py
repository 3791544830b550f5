"""How results are told: a table on the terminal, one JSON object, and the tables of README.md."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).resolve().parent
RESULTS: Final = FOLDER / "results.json"
README: Final = FOLDER / "README.md"
BEGIN: Final = "<!-- results: written by `make bench` -->"
END: Final = "<!-- end of results -->"

_HEADINGS: Final = ("", "measured", "of", "n", "dcap-qvl", "ours", "result", "target", "")


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
    target: float
    at_least: bool
    """Whether the value must reach the target; else it must not pass it."""
    dcap_qvl_us: float | None = None
    """Median CPU time of dcap-qvl's verify on the same quote in the same run, µs."""
    ours_us: float | None = None
    """CPU time of ours, µs."""

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.value >= self.target if self.at_least else self.value <= self.target

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of a table."""
        times = (_microseconds(self.dcap_qvl_us), _microseconds(self.ours_us))
        bound = f"{'≥' if self.at_least else '≤'} {_number(self.target)}"
        result = f"{_number(self.value)} {self.unit}".rstrip()
        return (self.id, self.what, self.subject, f"{self.n:,}", *times, result, bound, "" if self.met else "MISSED")


def summary(results: Iterable[Result], environment: dict[str, Any]) -> dict[str, Any]:
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


def table(results: Iterable[Result]) -> str:
    """Return a table for a terminal."""
    rows = [_HEADINGS, *(result.cells for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def markdown(document: dict[str, Any]) -> str:
    """Return the part of README.md that a run writes."""
    rows = [_HEADINGS, tuple("---" for _ in _HEADINGS), *(result.cells for result in results_of(document))]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    said = ", ".join(f"{name} {value}" for name, value in document["environment"].items())
    return "\n".join((BEGIN, "", *lines, "", f"Measured with {said}.", "", END))


def write(document: dict[str, Any]) -> None:
    """Write results.json, and the tables of README.md from it."""
    RESULTS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    README.write_text(with_tables(README.read_text(encoding="utf-8"), document), encoding="utf-8")


def with_tables(text: str, document: dict[str, Any]) -> str:
    """Return the text of README.md with the tables of this summary."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + markdown(document) + after


def _microseconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f} µs"


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
