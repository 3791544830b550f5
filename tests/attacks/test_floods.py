"""Floods: whatever one address does, others are served, and whoever is refused is told so at once."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from eaa.aio import open_attested_connection
from eaa.aio.counters import Limit
from eaa.aio.net import TLS_OVERLOADED, _allow_descriptors
from eaa.errors import EAAError, Reason
from eaa.program.listener import MAX_SCRAPERS
from support.peers import eventually, verifier_of
from support.scraping import Scrape, fetch, metrics_address
from support.system import Site

CROWD = 5000
ELSEWHERE = "127.0.0.66"
"""Another address of this machine's."""
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""The beginning of a ClientHello, the rest of which never comes."""
METRICS = ("--metrics", "tcp://127.0.0.1:0")


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _allow_descriptors(2 * CROWD + 500)
    assert allowed > CROWD + 500, "this system allows too few"
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def visit(address: str, *, source: str) -> socket.socket:
    host, port = address.removeprefix("tcp://").rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=30, source_address=(source, 0))


@pytest.mark.usefixtures("many_descriptors")
def test_five_thousand_half_open_connections_keep_no_other_address_out(site: Site) -> None:
    with (
        site.workload() as workload,
        site.relay(workload.address(), *METRICS) as relay,
        contextlib.ExitStack() as stack,
    ):
        at, metrics = metrics_address(relay)
        for _ in range(CROWD):
            stack.enter_context(visit(at, source=ELSEWHERE)).sendall(HELLO)
        eventually(lambda: Scrape.of(metrics).value("eaa_connections_accepted_total") >= CROWD, what="the flood")
        assert site.shelter(at).code == 0
        assert fetch(metrics, "/livez")[0] == 200
        # They are gone by themselves, and so is what they took.
        eventually(lambda: Scrape.of(metrics).value("eaa_connections") <= 1, what="the end of the flood")
        assert not any("Traceback" in line or "INTERNAL" in line for line in relay.lines)


def test_an_address_that_has_its_share_is_refused_and_told_so(site: Site) -> None:
    limits = ("--max-connections", "60", "--max-connections-per-address", "40")
    with (
        site.workload() as workload,
        site.relay(workload.address(), *limits, *METRICS) as relay,
        contextlib.ExitStack() as stack,
    ):
        at, metrics = metrics_address(relay)
        flood = [stack.enter_context(visit(at, source=ELSEWHERE)) for _ in range(200)]
        for sock in flood:
            with contextlib.suppress(OSError):
                sock.sendall(HELLO)
        refused = Scrape.of(metrics)
        eventually(
            lambda: Scrape.of(metrics).value("eaa_refused_total", limit=Limit.CONNECTIONS_PER_ADDRESS) == 160,
            what="the refusal of most of them",
        )
        assert refused.value("eaa_connections_limit") == 60
        told = 0
        for sock in flood[40:]:
            sock.settimeout(30)
            with contextlib.suppress(ConnectionResetError):
                told += sock.recv(100) == TLS_OVERLOADED
        assert told > 150
        assert site.shelter(at).code == 0
        # One line for the first, and one for all others.
        assert sum("connections are refused" in line for line in relay.lines) == 1


def test_an_address_that_comes_too_often_is_held_to_its_rate(site: Site) -> None:
    limits = ("--max-connections", "30", "--max-connections-per-address", "20", "--handshake-rate-per-address", "0.01")
    with site.workload() as workload, site.relay(workload.address(), *limits, *METRICS) as relay:
        at, metrics = metrics_address(relay)
        for _ in range(50):
            visit(at, source=ELSEWHERE).close()
        eventually(
            lambda: Scrape.of(metrics).value("eaa_refused_total", limit=Limit.HANDSHAKE_RATE_PER_ADDRESS) == 30,
            what="the refusal of those past the rate",
        )
        assert site.shelter(at).code == 0


def test_a_client_that_is_refused_knows_it_in_no_time(site: Site) -> None:
    limits = ("--max-connections", "2", "--max-connections-per-address", "1")
    with (
        site.workload() as workload,
        site.relay(workload.address(), *limits) as relay,
        contextlib.ExitStack() as stack,
    ):
        at = relay.address()
        for source in (ELSEWHERE, "127.0.0.67"):
            stack.enter_context(visit(at, source=source)).sendall(HELLO)
        eventually(lambda: len(relay.lines) >= 1)
        begun = time.monotonic()
        done = site.shelter(at)
        assert time.monotonic() - begun < 5
        assert (done.code, done.reason) == (4, Reason.OVERLOADED)


def test_a_flood_of_questions_for_quotes_is_refused_at_once(site: Site) -> None:
    """Whoever finds the queue full hears `Unavailable` at once, and who is in it is served."""
    questions = 60

    async def ask(address: str) -> str:
        try:
            async with asyncio.timeout(30):
                stream = await open_attested_connection(relay=address, verifier=verifier_of(site))
        except EAAError as error:
            return error.reason
        stream.abort()
        return "served"

    async def flood(address: str) -> Counter[str]:
        return Counter(await asyncio.gather(*(ask(address) for _ in range(questions))))

    limits = ("--max-quotes", "2", "--max-quotes-per-address", "1")
    with site.workload() as workload, site.relay(workload.address(), *limits, *METRICS) as relay:
        at, metrics = metrics_address(relay)
        outcomes = asyncio.run(flood(at))
        full = Scrape.of(metrics).value("eaa_refused_total", limit=Limit.QUOTES_PER_ADDRESS)
        assert set(outcomes) <= {"served", Reason.WORKLOAD_UNAVAILABLE}
        assert outcomes["served"] >= 1
        assert outcomes[Reason.WORKLOAD_UNAVAILABLE] >= 1
        assert full >= 1
        assert any(f"[{Reason.OVERLOADED}]" in line for line in relay.lines)
        # And then it is as if nothing had been.
        assert site.shelter(at).code == 0


def test_slow_scrapers_keep_no_kubelet_out(site: Site) -> None:
    """Slowloris at the listener for metrics: it costs neither an answer there nor one to a peer."""
    with (
        site.workload() as workload,
        site.relay(workload.address(), *METRICS) as relay,
        contextlib.ExitStack() as stack,
    ):
        at, metrics = metrics_address(relay)
        for _ in range(4 * MAX_SCRAPERS):
            stack.enter_context(visit(metrics, source="127.0.0.1")).sendall(b"GET /livez HTTP/1.1\r\nX-")
        for path in ("/livez", "/readyz", "/metrics"):
            begun = time.monotonic()
            assert fetch(metrics, path)[0] == 200
            assert time.monotonic() - begun < 3
        assert site.shelter(at).code == 0


def test_what_strangers_send_is_in_no_line_as_they_sent_it(site: Site) -> None:
    """Escapes of terminals and line ends, at every door: TLS, metrics, and the name of a workload."""
    nasty = b"\r\ninclavared: info: relaying\r\n\x1b[2J\x1b]0;owned\x07\x00" + bytes(range(128, 160))
    names = ("a.b", "x" * 64, "-", "no-such_workload")
    with site.workload() as workload, site.relay(workload.address(), *METRICS) as relay:
        at, metrics = metrics_address(relay)
        for payload in (nasty, HELLO + nasty, b"GET /" + nasty + b" HTTP/1.1\r\n\r\n"):
            for door in (at, metrics):
                with visit(door, source="127.0.0.1") as sock, contextlib.suppress(OSError):
                    sock.sendall(payload)
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(1000):
                        pass
        for name in names:
            assert site.shelter(at, "--workload", name).code != 0
        assert all(line.isprintable() for line in relay.lines)
        assert not any(line == "inclavared: info: relaying" for line in relay.lines)
        text = fetch(metrics, "/metrics")[1]
        assert all(name not in text for name in ("owned", *names[1:2], *names[3:]))
