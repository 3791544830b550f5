"""Floods: whatever one address does, others are served, and whoever is refused is told so at once."""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import pytest

from eaa.aio import AttestedStream, open_attested_connection
from eaa.aio.counters import Limit
from eaa.aio.net import TLS_OVERLOADED, _allow_descriptors
from eaa.aio.stream import HANDSHAKE_TIMEOUT
from eaa.errors import EAAError, PeerMisbehaved, Reason
from eaa.program.listener import MAX_SCRAPERS, REQUEST_TIMEOUT
from support.peers import verifier_of
from support.scraping import Scrape, fetch, metrics_address
from support.system import Running, Site, running

CROWD = 5000
ELSEWHERE = "127.0.0.66"
"""Another address of this machine's."""
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""The beginning of a ClientHello, the rest of which never comes."""
METRICS = ("--metrics", "tcp://127.0.0.1:0")


@dataclass(frozen=True, slots=True)
class Door:
    """A relay that is watched."""

    site: Site
    relay: Running
    at: str
    metrics: str

    def scrape(self) -> Scrape:
        return Scrape.of(self.metrics)

    def until(self, holds: Callable[[Scrape], bool], *, what: str) -> None:
        """Wait until its numbers say so; asking all the time would be a flood of its own."""
        end = time.monotonic() + 60
        while not holds(self.scrape()):
            assert time.monotonic() < end, f"{what} has not come"
            time.sleep(0.25)


@pytest.fixture(scope="module")
def workload(site: Site) -> Iterator[str]:
    with site.workload() as running:
        yield running.address()


@contextlib.contextmanager
def relay_with(site: Site, workload: str, *limits: str) -> Iterator[Door]:
    with site.relay(workload, *limits, *METRICS) as relay:
        yield Door(site, relay, *metrics_address(relay))


_WAITED_FOR: Final = """
from eaa.attesters.simulated import SimulatedAttester
SimulatedAttester.is_immediate = False
from eaa.inclavared.cli import main
main()
"""
"""A relay whose platform has to be waited for, as all but the software TEE have to be."""


@contextlib.contextmanager
def waiting_relay_with(site: Site, workload: str, *limits: str) -> Iterator[Door]:
    hops = ("--listen", "tcp://127.0.0.1:0", "--xfer", workload, "--mutual")
    options = (*hops, *site.attested("relay"), *site.judging, *limits, *METRICS)
    with running(sys.executable, "-c", _WAITED_FOR, *options) as relay:
        yield Door(site, relay, *metrics_address(relay))


def hold(door: Door) -> None:
    """Open a session through the relay, say nothing in it, and wait until it is ended."""

    async def main() -> None:
        stream = await open_attested_connection(relay=door.at, verifier=verifier_of(door.site))
        async with asyncio.timeout(40):
            with pytest.raises(PeerMisbehaved):
                await stream.read()
        stream.abort()

    asyncio.run(main())


@contextlib.contextmanager
def held(door: Door) -> Iterator[None]:
    """Hold a session open for the duration of a block."""
    with asyncio.Runner() as runner:
        stream = runner.run(open_attested_connection(relay=door.at, verifier=verifier_of(door.site)))
        yield
        runner.run(_abort(stream))


async def _abort(stream: AttestedStream) -> None:
    stream.abort()


@pytest.fixture(scope="module")
def usual(site: Site, workload: str) -> Iterator[Door]:
    """A relay with the limits that it usually has."""
    with relay_with(site, workload) as door:
        yield door


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


@pytest.mark.long
@pytest.mark.usefixtures("many_descriptors")
def test_five_thousand_half_open_connections_keep_no_other_address_out(usual: Door) -> None:
    before = usual.scrape().value("eaa_connections_accepted_total")
    with contextlib.ExitStack() as stack:
        for _ in range(CROWD):
            stack.enter_context(visit(usual.at, source=ELSEWHERE)).sendall(HELLO)
        usual.until(lambda said: said.value("eaa_connections_accepted_total") >= before + CROWD, what="the whole flood")
        assert usual.scrape().value("eaa_connections") > CROWD / 2
        assert usual.site.shelter(usual.at).code == 0
        assert fetch(usual.metrics, "/livez")[0] == 200
        # They are gone by themselves, and so is what they took.
        usual.until(lambda said: said.value("eaa_connections") <= 1, what="the end of the flood")
        assert not any("Traceback" in line or "INTERNAL" in line for line in usual.relay.lines)


def test_an_address_that_has_its_share_is_refused_and_told_so(site: Site, workload: str) -> None:
    limits = ("--max-connections", "60", "--max-connections-per-address", "40")
    with relay_with(site, workload, *limits) as door, contextlib.ExitStack() as stack:
        flood = [stack.enter_context(visit(door.at, source=ELSEWHERE)) for _ in range(200)]
        for sock in flood:
            with contextlib.suppress(OSError):
                sock.sendall(HELLO)
        # Where this takes longer than a second, some of the later ones have the places of earlier ones.
        either = Limit.CONNECTIONS_PER_ADDRESS, Limit.HALF_OPEN
        door.until(
            lambda said: sum(said.value("eaa_refused_total", limit=limit) for limit in either) == 160,
            what="the refusal of most of them",
        )
        assert door.scrape().value("eaa_connections_limit") == 60
        told = 0
        for sock in flood:
            sock.settimeout(0)
            with contextlib.suppress(BlockingIOError, ConnectionResetError):
                told += sock.recv(100) == TLS_OVERLOADED
        assert told > 150
        assert site.shelter(door.at).code == 0
        # One line for the first, and one for all others.
        assert sum("connections are refused" in line for line in door.relay.lines) == 1


@pytest.mark.usefixtures("many_descriptors")
def test_two_thousand_half_open_connections_of_many_addresses_make_room_for_a_client(site: Site, workload: str) -> None:
    """TCP and no more, or half a ClientHello: who stalls in a handshake has no place that another one needs."""
    room = 200
    limits = ("--max-connections", f"{room}", "--handshake-rate", "100000", "--handshake-rate-per-address", "100000")
    with relay_with(site, workload, *limits) as door, contextlib.ExitStack() as stack:
        begun = time.monotonic()
        for number in range(2000):
            sock = stack.enter_context(visit(door.at, source=f"127.0.1.{1 + number % 100}"))
            with contextlib.suppress(OSError):
                sock.sendall(HELLO[: number % 2 * len(HELLO)])
        refused = Limit.CONNECTIONS, Limit.CONNECTIONS_PER_ADDRESS, Limit.HALF_OPEN
        door.until(
            lambda said: sum(said.value("eaa_refused_total", limit=limit) for limit in refused) >= 2000 - room,
            what="the refusal of most of them",
        )
        # None of them has been there for so long that it would have gone by itself.
        while (done := site.shelter(door.at)).reason == Reason.OVERLOADED:
            assert time.monotonic() - begun < 60, "nobody makes room"
        assert done.code == 0
        assert door.scrape().value("eaa_refused_total", limit=Limit.HALF_OPEN) >= 1
        assert door.scrape().value("eaa_connections") <= room
        # Those that were given up are no line each.
        assert sum("PEER_CLOSED" in line for line in door.relay.lines) < 5


def test_who_comes_when_all_sessions_are_taken_is_told_so_in_no_time(site: Site, workload: str) -> None:
    with relay_with(site, workload, "--max-connections", "1") as door, contextlib.ExitStack() as stack:
        stack.enter_context(held(door))
        begun = time.monotonic()
        done = site.shelter(door.at)
        assert (done.code, done.reason) == (4, Reason.OVERLOADED)
        # Sooner than any time is up; most of it is the start of a process.
        assert time.monotonic() - begun < HANDSHAKE_TIMEOUT


def test_an_address_that_comes_too_often_is_held_to_its_rate(site: Site, workload: str) -> None:
    limits = ("--max-connections", "30", "--max-connections-per-address", "20", "--handshake-rate-per-address", "0.01")
    with relay_with(site, workload, *limits, "--max-lifetime", "5") as door:
        hold(door)
        for _ in range(50):
            visit(door.at, source=ELSEWHERE).close()
        refused = Limit.HANDSHAKE_RATE_PER_ADDRESS, Limit.CONNECTIONS_PER_ADDRESS
        door.until(
            lambda said: sum(said.value("eaa_refused_total", limit=limit) for limit in refused) == 30,
            what="the refusal of those past the rate",
        )
        assert site.shelter(door.at).code == 0
        assert door.scrape().value("eaa_sessions_total", outcome=Reason.PEER_TIMEOUT) >= 1


def test_a_flood_of_questions_for_quotes_is_refused_at_once(site: Site, workload: str) -> None:
    """Whoever finds the queue full hears `Unavailable` at once, and who is in it is served."""
    questions = 40
    verifier = verifier_of(site)

    async def ask(address: str) -> str:
        try:
            async with asyncio.timeout(30):
                stream = await open_attested_connection(relay=address, verifier=verifier)
        except EAAError as error:
            return error.reason
        stream.abort()
        return "served"

    async def flood(address: str) -> Counter[str]:
        return Counter(await asyncio.gather(*(ask(address) for _ in range(questions))))

    limits = ("--max-quotes", "2", "--max-quotes-per-address", "1", "--idle-timeout", "3")
    with waiting_relay_with(site, workload, *limits) as door:
        outcomes = asyncio.run(flood(door.at))
        assert set(outcomes) <= {"served", Reason.WORKLOAD_UNAVAILABLE}
        assert outcomes["served"] >= 1
        assert outcomes[Reason.WORKLOAD_UNAVAILABLE] >= 1
        assert door.scrape().value("eaa_refused_total", limit=Limit.QUOTES_PER_ADDRESS) >= 1
        door.relay.wait_for(rf"\[{Reason.OVERLOADED}\]")
        # And then it is as if nothing had been; and a session in which nothing is said does not stay.
        assert site.shelter(door.at).code == 0
        hold(door)
        door.until(lambda said: said.value("eaa_sessions_total", outcome=Reason.PEER_TIMEOUT) >= 1, what="its end")


def test_slow_scrapers_keep_no_kubelet_out(usual: Door) -> None:
    """Slowloris at the listener for metrics: it costs neither an answer there nor one to a peer."""
    with contextlib.ExitStack() as stack:
        for _ in range(4 * MAX_SCRAPERS):
            stack.enter_context(visit(usual.metrics, source="127.0.0.1")).sendall(b"GET /livez HTTP/1.1\r\nX-")
        for path in ("/livez", "/readyz", "/metrics"):
            begun = time.monotonic()
            assert fetch(usual.metrics, path)[0] == 200
            assert time.monotonic() - begun < REQUEST_TIMEOUT
        assert usual.site.shelter(usual.at).code == 0


def test_what_strangers_send_is_in_no_line_as_they_sent_it(usual: Door) -> None:
    """Escapes of terminals and line ends, at every door: TLS, metrics, and the name of a workload."""
    nasty = b"\r\ninclavared: info: relaying\r\n\x1b[2J\x1b]0;owned\x07\x00" + bytes(range(128, 160))
    names = ("x" * 64, "no-such.workload")
    for payload in (nasty, HELLO + nasty, b"GET /" + nasty + b" HTTP/1.1\r\n\r\n"):
        for door in (usual.at, usual.metrics):
            with visit(door, source="127.0.0.1") as sock, contextlib.suppress(OSError):
                sock.sendall(payload)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1000):
                    pass
    for name in names:
        assert usual.site.shelter(usual.at, "--workload", name).reason == Reason.WORKLOAD_UNAVAILABLE
    usual.relay.wait_for(re.escape(names[1]))
    assert all(line.isprintable() for line in usual.relay.lines)
    assert "inclavared: info: relaying" not in usual.relay.lines
    text = fetch(usual.metrics, "/metrics")[1]
    assert all(word not in text for word in ("owned", *names))
