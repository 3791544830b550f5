"""Numbers in Prometheus's text format.

Names and labels are closed sets of ours: nothing that a peer has said is ever in an answer. Names follow the
conventions of OpenMetrics: counters end in `_total`, units are seconds and bytes, times are seconds since 1970.

Source: the Prometheus text exposition format, versions 0.0.4 and 1.0.0, which differ in nothing that is used here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

Labels = tuple[tuple[str, str], ...]
"""Names and values."""
Value = float | Mapping[Labels, float] | None

_SAMPLE: Final = re.compile(r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number, or one for each combination of labels."""

    name: str
    kind: Literal["counter", "gauge"]
    meaning: str
    read: Callable[[], Value]
    """Returns the number, or one for each combination of labels, of which there may be none yet. None leaves it out."""


def exposition(metrics: Iterable[Metric]) -> str:
    """Return the numbers in Prometheus's text format."""
    lines = []
    for metric in metrics:
        value = metric.read()
        if value is not None:
            samples = value if isinstance(value, Mapping) else {(): value}
            lines += [f"# HELP {metric.name} {_escape_help(metric.meaning)}", f"# TYPE {metric.name} {metric.kind}"]
            lines += [f"{metric.name}{_shown(labels)} {number:.15g}" for labels, number in samples.items()]
    return "".join(line + "\n" for line in lines)


def merge_expositions(texts: Mapping[str, str], *, label: str) -> str:
    """Return what several processes say as one text, each sample with the name of its process under `label`."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for process, text in texts.items():
        for line in text.splitlines():
            if line.startswith("#"):
                name = line.split(" ", 3)[2]
                kept = heads.setdefault(name, [])
                if line not in kept and len(kept) < 2:
                    kept.append(line)
            elif found := _SAMPLE.fullmatch(line):
                own = f'{label}="{_escape(process)}"'
                inside = ",".join(filter(None, (own, found["labels"])))
                samples.setdefault(found["name"], []).append(f"{found['name']}{{{inside}}} {found['value']}")
    names = dict.fromkeys((*heads, *samples))
    lines = [line for name in names for line in (*heads.get(name, ()), *samples.get(name, ()))]
    return "".join(line + "\n" for line in lines)


def _shown(labels: Labels) -> str:
    inside = ",".join(f'{name}="{_escape(value)}"' for name, value in labels)
    return f"{{{inside}}}" if inside else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
