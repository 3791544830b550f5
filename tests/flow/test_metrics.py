"""Metrics, health and logs of real services: there where an operator wants them, and as the manual says."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from eaa.aio.counters import ACCEPTED, COMPLETED, Limit
from eaa.errors import Reason
from eaa.program.logs import ALWAYS, FIELDS
from support.peers import eventually
from support.scraping import Scrape, fetch, metrics_address, records
from support.system import Running, Site, run, running

ROOT = Path(__file__).parents[2]
DOOR = ("--metrics", "tcp://127.0.0.1:0")
_SERIES = re.compile(r"\b(?:eaa|process)_\w+")


class Node:
    """A workload and its relay, both watched; the relay knows another workload that is not there."""

    def __init__(self, workload: Running, relay: Running, *, at: str, metrics: tuple[str, str]) -> None:
        self.workload, self.relay, self.at = workload, relay, at
        self.of_workload, self.of_relay = metrics


@contextmanager
def node(site: Site, *options: str) -> Iterator[Node]:
    with site.workload(*DOOR, *options) as workload:
        inside, of_workload = metrics_address(workload)
        with site.relay(inside, "--xfer", "gone=tcp://127.0.0.1:1", *DOOR, *options) as relay:
            at, of_relay = metrics_address(relay)
            yield Node(workload, relay, at=at, metrics=(of_workload, of_relay))


@pytest.fixture(scope="module")
def watched(site: Site) -> Iterator[Node]:
    with node(site) as both:
        assert site.shelter(both.at).code == 0
        assert site.shelter(both.at, "--workload", "gone").reason == Reason.WORKLOAD_UNAVAILABLE
        # The client knows of its end first.
        eventually(lambda: Scrape.of(both.of_relay).value("eaa_sessions_total") >= 1, what="the end of a session")
        yield both


def documented() -> set[str]:
    page = (ROOT / "docs" / "manual" / "metrics.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))


def delivered() -> set[str]:
    """What our rules and our dashboard name."""
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
    texts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    texts.append((ROOT / "deploy" / "grafana" / "eaa-services.json").read_text())
    return {name for text in texts for name in _SERIES.findall(text)}


@pytest.fixture(scope="module")
def several(site: Site) -> Iterator[Scrape]:
    """What a relay of two processes says."""
    with site.relay("tcp://127.0.0.1:1", "--workers", "2", "--warm-channels", "0", *DOOR) as relay:
        _, at = metrics_address(relay)
        found: list[Scrape] = []

        def both_answer() -> bool:
            found.append(Scrape.of(at))
            infos = found[-1].samples.get("eaa_build_info", {})
            return found[-1].value("eaa_workers_ready") == len({dict(labels).get("worker") for labels in infos}) == 2

        eventually(both_answer, what="an answer of both")
        yield found[-1]


def test_several_processes_speak_as_one(several: Scrape) -> None:
    for name in ("eaa_build_info", "eaa_connections", "eaa_event_loop_lag_seconds", "process_resident_memory_bytes"):
        assert {dict(labels)["worker"] for labels in several.samples[name]} == {"1", "2"}
    # Each has its share of what one would allow.
    assert several.value("eaa_connections_limit", worker="1") == several.value("eaa_connections_limit", worker="2")
    assert several.value("eaa_workers") == several.value("eaa_workers_ready") == 2


def test_the_manual_lists_what_is_there_and_rules_ask_for_nothing_else(watched: Node, several: Scrape) -> None:
    workload, relay = Scrape.of(watched.of_workload), Scrape.of(watched.of_relay)
    there = set(workload.kinds) | set(relay.kinds) | set(several.kinds)
    assert there == documented()
    assert delivered() <= there


def test_what_has_happened_shows_at_both_ends(watched: Node) -> None:
    relay, workload = Scrape.of(watched.of_relay), Scrape.of(watched.of_workload)
    for said, judged in ((relay, "workload"), (workload, "relay")):
        assert said.value("eaa_verdicts_total", role=judged, reason=ACCEPTED) >= 1
        ago = time.time() - said.value("eaa_last_accepted_verdict_timestamp_seconds", role=judged)
        assert -1 < ago < 300
        assert said.value("eaa_handshakes_total", side="accepting", layer="outer", outcome=COMPLETED) >= 1
        assert said.value("eaa_connections_accepted_total") >= 1
        assert said.value("eaa_connections_limit") >= 8
        assert said.value("eaa_evidence_timestamp_seconds") < said.value("eaa_certificate_expiry_timestamp_seconds")
        assert said.value("eaa_collateral_expiry_timestamp_seconds", document="tcb_info") > time.time()
        assert said.value("eaa_build_info") == said.value("eaa_ready") == 1
        assert {dict(labels)["limit"] for labels in said.samples["eaa_refused_total"]} == set(Limit)
    assert workload.value("eaa_handshakes_total", layer="inner", outcome=COMPLETED) >= 1
    assert relay.value("eaa_relayed_bytes_total", direction="from_clients") > 0
    assert relay.value("eaa_relayed_bytes_total", direction="to_clients") > 0


def test_health_is_asked_for_on_the_same_listener(watched: Node) -> None:
    for at in (watched.of_relay, watched.of_workload):
        for path in ("/livez", "/readyz", "/healthz/live", "/healthz/ready"):
            assert fetch(at, path) == (200, "ok\n")
        assert fetch(at, "/nothing")[0] == 404
    # Never on the port for peers.
    host = watched.at.removeprefix("tcp://")
    with pytest.raises(OSError, match=r".*"):
        fetch(host, "/metrics")


def test_who_cannot_judge_yet_is_alive_and_not_ready(site: Site) -> None:
    """Nobody answers where its collateral is to come from."""
    judging = ("--trust-anchor", str(site.root), "--reference-values", str(site.values), "--pccs", "http://127.0.0.1:1")
    command = ("enclave-tls-server", "--listen", "tcp://127.0.0.1:0", "--mutual", *site.attested("workload"))
    with running(*command, *judging, *DOOR) as service:
        _, at = metrics_address(service)
        assert fetch(at, "/livez")[0] == 200
        status, body = fetch(at, "/readyz")
        assert (status, body.split(": ")[1]) == (503, "collateral\n")
        assert Scrape.of(at).value("eaa_ready") == 0
        eventually(lambda: Scrape.of(at).value("eaa_collateral_fetch_failures_total") > 0, what="a failure")


def test_who_asks_once_serves_no_metrics(site: Site) -> None:
    done = run("inclavared", "--connect", "tcp://127.0.0.1:1", *DOOR, *site.judging)
    assert (done.code, done.reason) == (2, Reason.USAGE)


def test_everything_is_json_where_that_is_asked_for(site: Site) -> None:
    """From the first line to the last, a session and a peer that is none included."""
    with node(site, "--log-format", "json") as both:
        assert site.shelter(both.at).code == 0
        eventually(lambda: any("session.ended" in line for line in both.relay.lines), what="the end of a session")
        both.relay.stop()
        both.workload.stop()
        for service, program in ((both.relay, "inclavared"), (both.workload, "enclave-tls-server")):
            said = records(service.lines)
            assert {record["program"] for record in said} == {program}
            for record in said:
                assert set(ALWAYS) <= set(record)
                assert set(record) <= {*ALWAYS, *FIELDS}
        opened, ended = (
            next(record for record in records(both.relay.lines) if record["event"] == event)
            for event in ("session.opened", "session.ended")
        )
    assert opened["connection"] == ended["connection"]
    assert opened["peer"] == ended["peer"]
    assert opened["workload"] == "default"
    levels = {name: opened[name] for name in ("relay_level", "client_level", "workload_level", "channel_level")}
    assert levels == {
        "relay_level": "fresh",
        "client_level": "none",
        "workload_level": "fresh",
        "channel_level": "fresh",
    }
    assert ended["bytes_from_client"] > 0
    assert ended["bytes_to_client"] > 0


def test_the_collateral_cache_speaks_json_as_well(tmp_path: Path) -> None:
    command = ("eaa-pccs", "serve", "--plain-http", "--listen", "127.0.0.1:0", "--db", tmp_path / "pccs.sqlite")
    with running(*command, "--log-format", "json") as service:
        at = re.findall(r"http://([\d.:]+)/", service.wait_for("service.listening").string)[0]
        assert fetch(at, "/sgx/certification/v4/tcb?fmspc=%0a%1b[31m")[0] == 400
        assert fetch(at, "/nothing%0a%1b[31m")[0] == 404
        service.stop()
        said = records(service.lines)
    assert {record["program"] for record in said} == {"eaa-pccs"}
    assert all(set(ALWAYS) <= set(record) <= {*ALWAYS, *FIELDS} for record in said)


def test_a_failure_to_start_is_json_too(site: Site) -> None:
    done = run("inclavared", "--listen", "tcp://127.0.0.1:0", "--log-format", "json", "--reference-values", "/none")
    (record,) = records(done.stderr.splitlines())
    assert (record["level"], record["reason"], record["event"]) == ("error", done.reason, "program.failed")
    assert json.loads(done.stderr)["hint"]
