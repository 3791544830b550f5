"""What a service says of itself: every number, in a format that Prometheus's own reader takes."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from eaa.aio.counters import ACCEPTED, COUNTERS, Layer, Limit, Side
from eaa.aio.net import Service
from eaa.appraise.result import Role
from eaa.errors import Reason, Unavailable
from eaa.identity import CERTIFICATE_LIFETIME, EPOCH_LIFETIME, Identity
from eaa.program import metrics
from eaa.program.exposition import Metric, exposition, merge_expositions
from eaa.program.health import BEAT, MAX_PAUSE, Heartbeat
from eaa.program.listener import health_metrics
from eaa.program.metrics import DOCUMENTS, Observed, service_health, service_metrics
from eaa.simulator.platform import Platform
from eaa.verifier.fetching import FetchCounters
from support.simulated import NOW, sample_enclave

PAGE = Path(__file__).resolve().parents[2] / "docs" / "manual" / "metrics.md"
GOOD = Metric(name="eaa_answer_total", kind="counter", meaning="An answer.", read=lambda: 42)


class Traffic:
    forth, back = 3, 4


class Verifier:
    """Somebody who judges, as far as metrics look."""

    def __init__(self) -> None:
        self.counters = FetchCounters(fetches=3, failures=1, misses=2, pending=1, kept=2)
        self.ends: dict[str, Any] = {}

    def collateral_expirations(self) -> dict[str, Any]:
        return self.ends


def everything(verifier: Any = None, *identities: Identity) -> list[Metric]:
    judges = () if verifier is None else (verifier,)
    observed = Observed(identities=lambda: identities, verifiers=lambda: judges, service=Service(), traffic=Traffic())
    return [*service_metrics(observed), *health_metrics(service_health(observed), Heartbeat())]


def said(known: list[Metric]) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """What a scraper reads of these numbers, by name and labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(exposition(known)):
        for sample in family.samples:
            assert sample.name not in found or tuple(sample.labels.items()) not in found[sample.name]
            found.setdefault(sample.name, {})[tuple(sample.labels.items())] = sample.value
    return found


# --- the format


def test_numbers_are_said_in_prometheus_s_format() -> None:
    nothing_yet = Metric(name="eaa_later_seconds", kind="gauge", meaning="Not yet.", read=lambda: None)
    none_so_far = Metric(name="eaa_none_seconds", kind="gauge", meaning="None so far.", read=dict)
    time = Metric(name="eaa_time_seconds", kind="gauge", meaning="A time.", read=lambda: 1780314000.25)
    both = Metric(
        name="eaa_both",
        kind="gauge",
        meaning="Two.",
        read=lambda: {(("side", "a"), ("of", "x")): 1, (("side", "b"),): 2},
    )
    assert exposition([GOOD, nothing_yet, none_so_far, time, both]) == (
        "# HELP eaa_answer_total An answer.\n"
        "# TYPE eaa_answer_total counter\n"
        "eaa_answer_total 42\n"
        "# HELP eaa_none_seconds None so far.\n"
        "# TYPE eaa_none_seconds gauge\n"
        "# HELP eaa_time_seconds A time.\n"
        "# TYPE eaa_time_seconds gauge\n"
        "eaa_time_seconds 1780314000.25\n"
        "# HELP eaa_both Two.\n"
        "# TYPE eaa_both gauge\n"
        'eaa_both{side="a",of="x"} 1\n'
        'eaa_both{side="b"} 2\n'
    )


@given(st.text(), st.text())
def test_no_text_breaks_out_of_its_place(value: str, meaning: str) -> None:
    """Labels come from closed sets; were one ever to hold anything else, it would still be one label."""
    metric = Metric(name="eaa_x", kind="gauge", meaning=meaning, read=lambda: {(("a", value),): 1})
    text = exposition([metric])
    assert len(re.findall(r"^eaa_x", text, re.MULTILINE)) == 1
    assert text.count("\n") == 3
    if "\r" not in value + meaning and not set(value + meaning) & set("\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"):
        (family,) = text_string_to_metric_families(text)
        assert family.samples[0].labels == {"a": value}


def test_what_several_processes_say_is_one_text() -> None:
    metric = Metric(
        name="eaa_both", kind="counter", meaning="Two.", read=lambda: {(("side", "a"),): 1, (("side", "}b 2"),): 2}
    )
    none_so_far = Metric(name="eaa_none_seconds", kind="gauge", meaning="None so far.", read=dict)
    text = exposition([GOOD, metric, none_so_far])
    merged = merge_expositions({"1": text, "2": text.replace("42", "43")}, label="worker")
    families = {family.name: family.samples for family in text_string_to_metric_families(merged)}
    assert [(s.labels, s.value) for s in families["eaa_answer"]] == [({"worker": "1"}, 42), ({"worker": "2"}, 43)]
    assert [s.labels for s in families["eaa_both"]] == [
        {"worker": worker, "side": side} for worker in "12" for side in ("a", "}b 2")
    ]
    assert merged.count("# TYPE") == merged.count("# HELP") == 3


def test_prometheus_finds_no_fault_with_it(tmp_path: Path) -> None:
    """Its own tool, where it is installed (apt-get install prometheus); its parser is in every other test."""
    tool = shutil.which("promtool")
    if tool is None:
        return
    done = subprocess.run(
        [tool, "check", "metrics"],
        input=exposition(everything(Verifier())),
        text=True,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


# --- names


def test_names_follow_the_conventions() -> None:
    for metric in everything(Verifier()):
        assert metric.name.startswith(("eaa_", "process_"))
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.meaning.endswith(".")
        assert not metric.name.endswith(("_ms", "_minutes", "_kb"))


def test_the_manual_names_every_metric_and_no_other_of_these() -> None:
    page = PAGE.read_text(encoding="utf-8")
    known = {(metric.name, metric.kind) for metric in everything(Verifier())}
    listed = set(re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE))
    assert known <= listed
    for number in (CERTIFICATE_LIFETIME.total_seconds() / 3600, EPOCH_LIFETIME.total_seconds(), MAX_PAUSE):
        assert f"{number:g} " in page


# --- what they say


def test_labels_are_of_closed_sets() -> None:
    COUNTERS.handshakes[Side.ACCEPTING, Layer.OUTER, Reason.TLS_HANDSHAKE] += 1
    COUNTERS.verdicts[Role.WORKLOAD, Reason.MEASUREMENT_MISMATCH] += 1
    COUNTERS.sessions[Reason.PEER_CLOSED] += 1
    verifier = Verifier()
    verifier.ends = {"TCB Info": NOW, "a peer's word": NOW}
    closed: dict[str, set[Any]] = {
        "side": set(Side),
        "layer": set(Layer),
        "role": set(Role),
        "limit": set(Limit),
        "document": set(DOCUMENTS),
        "direction": {"from_clients", "to_clients"},
        "reason": {ACCEPTED, *Reason},
        "outcome": {"completed", *Reason},
    }
    seen = set()
    for name, samples in said(everything(verifier)).items():
        for labels in samples:
            for label, value in labels:
                if name != "eaa_build_info":
                    assert value in closed[label], (name, label, value)
                    seen.add(label)
    assert seen == set(closed)


def test_renewals_and_their_failures_show() -> None:
    enclave = Platform.create(now=NOW).launch(*sample_enclave())

    class Attester:
        name, tee, broken = "sgx_sim", "sgx", False

        def quote(self, report_data: bytes) -> bytes:
            if self.broken:
                raise Unavailable(Reason.QUOTE_UNAVAILABLE, "busy")
            return enclave.quote(report_data)

    attester, time = Attester(), NOW
    identities = [Identity(attester, clock=lambda: time), Identity(attester, clock=lambda: time)]

    def numbers() -> dict[str, float]:
        wanted = ("eaa_renew", "eaa_next", "eaa_certificate", "eaa_evidence")
        known = said(everything(None, *identities))
        return {name: samples[()] for name, samples in known.items() if name.startswith(wanted)}

    end = NOW + CERTIFICATE_LIFETIME
    assert numbers() == {
        "eaa_renewals_total": 0,
        "eaa_renewal_failures_total": 0,
        "eaa_next_renewal_timestamp_seconds": (NOW + CERTIFICATE_LIFETIME / 2).timestamp(),
        "eaa_certificate_expiry_timestamp_seconds": end.timestamp(),
        "eaa_evidence_timestamp_seconds": NOW.timestamp(),
        "eaa_evidence_age_seconds": 0,
    }
    attester.broken, time = True, NOW + CERTIFICATE_LIFETIME / 2
    for identity in identities:
        identity.renew_due()
    later = numbers()
    assert later["eaa_renewal_failures_total"] == 2
    assert later["eaa_next_renewal_timestamp_seconds"] == (time + timedelta(seconds=1)).timestamp()
    assert later["eaa_evidence_age_seconds"] == CERTIFICATE_LIFETIME.total_seconds() / 2
    attester.broken, time = False, time + timedelta(seconds=1)
    for identity in identities:
        identity.renew_due()
    assert numbers()["eaa_renewals_total"] == 2
    assert numbers()["eaa_evidence_timestamp_seconds"] == time.timestamp()


def test_collateral_shows_where_somebody_judges() -> None:
    assert not any(name.startswith("eaa_collateral") for name in said(everything()))
    verifier = Verifier()
    numbers = said(everything(verifier))
    assert numbers["eaa_collateral_fetches_total"] == {(): 3}
    assert numbers["eaa_collateral_fetch_failures_total"] == {(): 1}
    assert numbers["eaa_collateral_misses_total"] == {(): 2}
    assert "eaa_collateral_last_success_timestamp_seconds" not in numbers
    verifier.counters = FetchCounters(last_success=NOW)
    verifier.ends = {"TCB Info": NOW + timedelta(days=1), "root CRL": NOW + timedelta(days=2)}
    numbers = said(everything(verifier))
    assert numbers["eaa_collateral_last_success_timestamp_seconds"] == {(): NOW.timestamp()}
    assert numbers["eaa_collateral_expiry_timestamp_seconds"] == {
        (("document", "tcb_info"),): (NOW + timedelta(days=1)).timestamp(),
        (("document", "root_crl"),): (NOW + timedelta(days=2)).timestamp(),
    }


def test_a_good_verdict_has_a_date_that_does_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(COUNTERS, "accepted_at", {})
    known = everything()
    assert "eaa_last_accepted_verdict_timestamp_seconds" not in said(known)
    COUNTERS.accepted(Role.RELAY)
    first = said(known)["eaa_last_accepted_verdict_timestamp_seconds"]
    assert first == {(("role", "relay"),): pytest.approx(time.time(), abs=60)}
    assert said(known)["eaa_last_accepted_verdict_timestamp_seconds"] == first


def test_a_process_says_what_it_uses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    numbers = said(everything())
    assert 0 < time.time() - numbers["process_start_time_seconds"][()] < 86400
    assert numbers["process_resident_memory_bytes"][()] > 2**20
    assert 0 < numbers["process_open_fds"][()] < numbers["process_max_fds"][()]
    # A library OS may have no /proc.
    monkeypatch.setattr(metrics, "_PROCESS", tmp_path)
    numbers = said(everything())
    assert "process_open_fds" not in numbers
    assert 0 < time.time() - numbers["process_start_time_seconds"][()] < 86400


# --- health


class Who:
    """An identity, as far as health looks."""

    def __init__(self) -> None:
        self.time, self.expires, self.has_evidence = NOW, NOW + timedelta(hours=1), True
        self.kept: bytes | None = b"collateral"

    def now(self) -> Any:
        return self.time

    def collateral(self) -> bytes | None:
        return self.kept


def test_ready_is_who_listens_and_can_show_evidence_and_judge() -> None:
    who: Any = Who()
    judges: list[Any] = [Verifier()]
    warm = True
    observed = Observed(identities=lambda: [who], verifiers=lambda: judges)
    health = service_health(observed, channels=lambda: warm)
    assert list(health.ready()) == []
    who.time = who.expires
    assert list(health.ready()) == ["evidence"]
    who.time, who.kept = NOW, None
    assert list(health.ready()) == ["collateral"]
    # Who has no evidence has no platform whose collateral could be there, and who judges nobody needs none.
    who.has_evidence = False
    assert list(health.ready()) == []
    who.has_evidence, judges[:] = True, []
    assert list(health.ready()) == []
    warm = False
    assert list(health.ready()) == ["channels"]
    assert list(service_health(Observed(identities=list, service=Service())).ready()) == ["listening"]


def test_a_loop_that_stands_still_is_dead_and_its_lag_shows() -> None:
    now = 100.0
    heartbeat = Heartbeat(clock=lambda: now)
    assert (heartbeat.is_alive, heartbeat.lag) == (True, 0)
    now += BEAT + 2
    heartbeat.beat()
    assert (heartbeat.is_alive, heartbeat.lag) == (True, 2)
    now += BEAT
    heartbeat.beat()
    assert heartbeat.lag == 0
    now += MAX_PAUSE + 0.1
    assert not heartbeat.is_alive
    assert heartbeat.lag == pytest.approx(MAX_PAUSE + 0.1 - BEAT)
