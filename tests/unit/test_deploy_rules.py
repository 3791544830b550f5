"""What is delivered for those who watch: rules and dashboards that name only what is there, and say what to do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = sorted((ROOT / "deploy" / "prometheus").glob("*.yml"))
DASHBOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
PAGES = ("metrics.md", "pccs.md")
_SERIES = re.compile(r"\b(?:eaa|process)_\w+")


def alerts(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


ALERTS = [(path, rule) for path in RULES for rule in alerts(path)]


def expressions(node: Any) -> Iterator[str]:
    """Every query of a dashboard, wherever it is."""
    if isinstance(node, dict):
        if isinstance(node.get("expr"), str):
            yield node["expr"]
        for value in node.values():
            yield from expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value)


def documented() -> set[str]:
    pages = [(ROOT / "docs" / "manual" / name).read_text(encoding="utf-8") for name in PAGES]
    return {name for page in pages for name in re.findall(r"^\| `(\w+)(?:\{[^`]*\})?` \|", page, re.MULTILINE)}


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def parse(query: str) -> None:
    promql_parser.parse(query.replace("$__rate_interval", "5m").replace("$__range", "1h"))


def test_there_is_something_to_look_at() -> None:
    assert RULES
    assert DASHBOARDS


@pytest.mark.parametrize(("path", "rule"), ALERTS, ids=[rule["alert"] for _, rule in ALERTS])
def test_an_alert_says_how_bad_it_is_what_it_is_and_what_to_do(path: Path, rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    annotations = rule["annotations"]
    assert {"summary", "description", "runbook_url"} <= set(annotations)
    assert "\n" not in annotations["summary"]
    page, _, anchor = annotations["runbook_url"].partition("#")
    assert anchor in anchors(ROOT / page), f"{path.name}: {rule['alert']}"
    parse(rule["expr"])
    names = set(_SERIES.findall(rule["expr"]))
    assert names
    assert names <= documented()


def test_alerts_have_names_of_their_own() -> None:
    names = [rule["alert"] for _, rule in ALERTS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_a_dashboard_asks_only_for_what_is_there(path: Path) -> None:
    board = json.loads(path.read_text())
    queries = list(expressions(board))
    assert len(queries) > 5
    for query in queries:
        parse(query)
        assert set(_SERIES.findall(query)) <= documented(), query
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert all(panel["title"] and panel["targets"] for panel in panels)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_every_section_of_the_runbook_is_for_an_alert() -> None:
    wanted = {rule["annotations"]["runbook_url"].partition("#")[2] for _, rule in ALERTS}
    assert anchors(ROOT / "docs" / "manual" / "runbook.md") - {"runbook"} <= wanted


def test_prometheus_takes_the_rules() -> None:
    """Its own tool, where it is installed (apt-get install prometheus); its grammar is in every other test."""
    tool = shutil.which("promtool")
    if tool is None:
        return
    done = subprocess.run([tool, "check", "rules", *map(str, RULES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
