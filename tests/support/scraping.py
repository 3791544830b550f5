"""Reading what a real service says of itself: metrics by a strict reader, health, and JSON logs."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from support.system import Running

Labels = frozenset[tuple[str, str]]


def metrics_address(service: Running) -> tuple[str, str]:
    """Return where a service listens, and where its metrics are (host and port), once it does."""
    line = service.wait_for(r".*listening on .* \(metrics\).*")[0]
    first, at = re.search(r"listening on ([^\s,]+)", line), re.search(r"tcp://([^\s,\"]+) \(metrics\)", line)
    assert first
    assert at
    return first[1], at[1]


def fetch(at: str, path: str) -> tuple[int, str]:
    """Return status and body."""
    try:
        with urllib.request.urlopen(f"http://{at}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


class Scrape:
    """One answer, read as Prometheus reads it; a fault in the format fails the test."""

    def __init__(self, text: str) -> None:
        self.kinds: dict[str, str] = {}
        self.samples: dict[str, dict[Labels, float]] = {}
        for family in text_string_to_metric_families(text):
            name = family.name + ("_total" if family.type == "counter" else "")
            assert name not in self.kinds
            self.kinds[name] = family.type
            for sample in family.samples:
                labels = frozenset(sample.labels.items())
                assert labels not in self.samples.setdefault(sample.name, {})
                self.samples[sample.name][labels] = sample.value

    @classmethod
    def of(cls, at: str) -> Scrape:
        """Ask a service."""
        status, text = fetch(at, "/metrics")
        assert status == 200
        return cls(text)

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples that have these labels."""
        return sum(value for found, value in self.samples.get(name, {}).items() if frozenset(labels.items()) <= found)


def records(lines: Iterable[str]) -> list[Mapping[str, Any]]:
    """Return log lines as records; one that is no JSON object fails the test."""
    found = [json.loads(line) for line in lines]
    assert all(isinstance(record, dict) for record in found)
    return found
