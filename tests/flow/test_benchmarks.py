"""The benchmarks run, at a tiny scale: nothing here is timed, but they cannot rot, and what they wrote is in step."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from support.vectors import require

ROOT: Final = Path(__file__).resolve().parents[2]
BENCH: Final = ROOT / "bench"
TARGETS: Final = {
    "verify": {"a", "b", "c", "d", "e", "f", "parse", "memory", "import", "program"},
    "handshake": {
        *("known", "new", "https", "session", "session shown", "fresh", "fresh shown"),
        *("fresh of a device", "fresh of a device, shown"),
    },
    "pccs": {"c64", "c1", "rate", "new", "start", "memory"},
    "relay": {
        "one stream",
        "64 streams",
        "CPU, one stream",
        "CPU, 64 streams",
        "ping-pong",
        "memory",
        "memory beside nginx",
        "linear",
        "stopped",
    },
}
"""Rows that have a target."""

NGINX: Final = {"nginx": "nginx-light libnginx-mod-stream"}
OTHERS: Final = {
    "handshake": NGINX,
    "pccs": {"wrk": "wrk", "ab": "apache2-utils"},
    "relay": {**NGINX, "haproxy": "haproxy", "stunnel4": "stunnel4"},
}
"""What a benchmark compares with, and how to get it."""


def run(name: str) -> tuple[str, dict[str, Any]]:
    """Run a benchmark; return its table, and the object in its last line."""
    command = [sys.executable, str(BENCH / f"{name}.py"), "--scale", "0.001", "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    document: dict[str, Any] = json.loads(last)
    return "\n".join(table), document


def is_difference(result: dict[str, Any]) -> bool:
    """Whether a value may be anything at this scale: one of times, or of memory, of which a few may need no more."""
    return result["unit"] in ("µs", "MiB") or result["id"] in ("memory beside nginx", "linear")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long) for name in sorted(TARGETS)])
def test_a_benchmark_measures_all_that_it_promises(name: str) -> None:
    for program, package in OTHERS.get(name, {}).items():
        here = shutil.which(program, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin") is not None
        require(program, available=here, how=f"apt-get install {package}")
    table, document = run(name)
    results = document["results"]
    assert {result["id"] for result in results if result["target"] is not None} == TARGETS[name]
    assert [result["id"] for result in results if result["value"] <= 0 and not is_difference(result)] == []
    assert table.count("MISSED") == len(document["missed"]) == sum(not result["met"] for result in results)
    assert document["environment"]["Python"] == sys.version.split()[0]


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_the_tables_are_those_of_the_results(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    report: Any = importlib.import_module("report")
    document = json.loads(report.RESULTS.read_text(encoding="utf-8"))[name]
    for path in (report.DETAILS, report.FRONT_PAGE):
        assert report.with_table(path, report.Part(name), document) == path.read_text(encoding="utf-8")
    assert {result.id for result in report.results_of(document)} >= TARGETS[name]
