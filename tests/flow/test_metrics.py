"""Metrics of real services: there where an operator wants them, and nowhere else."""

from __future__ import annotations

import re
import urllib.request

from eaa.errors import Reason
from support.system import Running, Site, run


def scrape(service: Running) -> dict[str, float]:
    """The numbers of a service that has been told to say them."""
    (at,) = re.findall(r"tcp://(\S+) \(metrics\)", service.wait_for(r"listening on .* \(metrics\)")[0])
    with urllib.request.urlopen(f"http://{at}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if not line.startswith("#")}


def test_relay_and_workload_say_when_they_renew_what_and_how_often_that_failed(site: Site) -> None:
    door = ("--metrics", "tcp://127.0.0.1:0")
    with site.workload(*door) as workload, site.relay("tcp://127.0.0.1:1", *door) as relay:
        for service in (workload, relay):
            said = scrape(service)
            assert said["eaa_renewal_failures_total"] == 0
            assert 0 < said["eaa_next_renewal_timestamp_seconds"] < said["eaa_certificate_expiry_timestamp_seconds"]
            assert "eaa_collateral_fetches_total" in said


def test_who_asks_once_serves_no_metrics(site: Site) -> None:
    done = run("inclavared", "--connect", "tcp://127.0.0.1:1", "--metrics", "tcp://127.0.0.1:0", *site.judging)
    assert (done.code, done.reason) == (2, Reason.USAGE)
