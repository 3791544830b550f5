"""What a service says of itself to Prometheus, and to whoever knocks at that door."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from eaa.aio.address import parse_address
from eaa.errors import Reason, Unavailable
from eaa.identity import CERTIFICATE_LIFETIME, EPOCH_LIFETIME, Identity
from eaa.program import metrics
from eaa.program.metrics import MAX_REQUEST, Metric, exposition, service_metrics, serving_metrics
from eaa.simulator.platform import Platform
from support.aio_world import run
from support.simulated import NOW, sample_enclave

ANSWER = 42
GOOD = [Metric(name="eaa_answer_total", kind="counter", meaning="An answer.", read=lambda: ANSWER)]


def asked(request: bytes) -> bytes:
    """What comes back for these bytes."""

    async def main() -> bytes:
        async with serving_metrics(parse_address("tcp://127.0.0.1:0"), GOOD) as names:
            (port,) = re.findall(r"tcp://127\.0\.0\.1:(\d+) \(metrics\)", names[0])
            reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
            writer.write(request)
            await writer.drain()
            answer = await reader.read()
            writer.close()
            return answer

    return run(main())


def test_numbers_are_said_in_prometheus_s_format() -> None:
    nothing_yet = Metric(name="eaa_later_seconds", kind="gauge", meaning="Not yet.", read=lambda: None)
    time = Metric(name="eaa_time_seconds", kind="gauge", meaning="A time.", read=lambda: 1780314000.25)
    assert exposition([*GOOD, nothing_yet, time]) == (
        "# HELP eaa_answer_total An answer.\n"
        "# TYPE eaa_answer_total counter\n"
        "eaa_answer_total 42\n"
        "# HELP eaa_time_seconds A time.\n"
        "# TYPE eaa_time_seconds gauge\n"
        "eaa_time_seconds 1780314000.25\n"
    )


def test_a_scraper_gets_them() -> None:
    for target in (b"/metrics", b"/metrics?name[]=x"):
        head, _, body = asked(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
        assert f"Content-Length: {len(body)}".encode() in head
        assert b"eaa_answer_total 42\n" in body


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics/../x HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"405"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"GET  /metrics HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/2\r\n\r\n", b"400"),
        (b"\x16\x03\x01" + bytes(200) + b"\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * MAX_REQUEST, b"400"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_anything_else_is_told_what_is_there(request_: bytes, status: bytes) -> None:
    answer = asked(request_)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"eaa_answer_total" not in answer


def test_a_scraper_that_stalls_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "REQUEST_TIMEOUT", 0.05)
    assert asked(b"GET /metrics HTTP/1.1\r\n") == b""


def test_the_manual_names_every_metric_and_no_other() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "manual" / "metrics.md").read_text(encoding="utf-8")
    verifier: Any = object()
    known = {(metric.name, metric.kind) for metric in service_metrics([], verifier)}
    assert set(re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE)) == known
    for number in (CERTIFICATE_LIFETIME.total_seconds() / 3600, EPOCH_LIFETIME.total_seconds()):
        assert f"{number:g} " in page


def test_no_address_is_no_listener() -> None:
    async def main() -> None:
        async with serving_metrics(None, GOOD) as names:
            assert names == []

    run(main())


def test_an_address_that_cannot_be_had_is_named() -> None:
    async def main() -> None:
        async with serving_metrics(parse_address("tcp://127.0.0.1:0"), GOOD) as names:
            taken = names[0].split()[0]
            with pytest.raises(Unavailable) as caught:
                async with serving_metrics(parse_address(taken), GOOD):
                    pass
            assert caught.value.reason is Reason.ADDRESS_IN_USE

    run(main())


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

    def said() -> dict[str, float]:
        lines = exposition(service_metrics(identities, None)).splitlines()
        return {line.split()[0]: float(line.split()[1]) for line in lines if not line.startswith("#")}

    end = NOW + CERTIFICATE_LIFETIME
    assert said() == {
        "eaa_renewal_failures_total": 0,
        "eaa_next_renewal_timestamp_seconds": (NOW + CERTIFICATE_LIFETIME / 2).timestamp(),
        "eaa_certificate_expiry_timestamp_seconds": end.timestamp(),
    }
    attester.broken, time = True, NOW + CERTIFICATE_LIFETIME / 2
    for identity in identities:
        identity.renew_due()
    assert said() == {
        "eaa_renewal_failures_total": 2,
        "eaa_next_renewal_timestamp_seconds": (time + timedelta(seconds=1)).timestamp(),
        "eaa_certificate_expiry_timestamp_seconds": end.timestamp(),
    }


def test_collateral_shows_where_somebody_judges() -> None:
    class Counters:
        fetches, failures, last_success = 3, 1, None

    class Verifier:
        counters = Counters()

    verifier: Any = Verifier()
    identity = Identity(None, clock=lambda: NOW)
    text = exposition(service_metrics([identity], verifier))
    assert "eaa_collateral_fetches_total 3\n" in text
    assert "eaa_collateral_fetch_failures_total 1\n" in text
    assert "last_success" not in text
    verifier.counters.last_success = NOW
    text = exposition(service_metrics([identity], verifier))
    assert f"eaa_collateral_last_success_timestamp_seconds {NOW.timestamp():.15g}\n" in text
