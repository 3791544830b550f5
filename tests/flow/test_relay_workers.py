"""Several processes on one port: they share what comes, and the death of one is nobody's trouble."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from eaa.aio import open_attested_connection
from eaa.aio.net import TLS_OVERLOADED
from eaa.errors import EAAError, Reason
from support.peers import verifier_of
from support.system import Running, Site, run

PATIENCE = 60.0
HANDSHAKES = 200
METRICS = "tcp://127.0.0.1:0"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.create(tmp_path_factory.mktemp("site"))


@contextmanager
def served(site: Site, *options: str, listen: str = "tcp://127.0.0.1:0") -> Iterator[Running]:
    """A relay of two workers, and a workload."""
    with (
        site.workload() as workload,
        site.relay(workload.address(), "--workers", "2", "--warm-channels", "1", *options, listen=listen) as relay,
    ):
        yield relay


def address_of(relay: Running) -> str:
    found = relay.wait_for(r"listening on (.+); 2 workers")[1].split(", ")
    return found[0]


def metrics_of(relay: Running) -> tuple[str, str]:
    """Wait until it listens; return where, and where its metrics are."""
    listening, metrics = relay.wait_for(r"listening on (\S+), (\S+) \(metrics\); 2 workers").groups()
    return listening, metrics.replace("tcp://", "http://")


def children_of(relay: Running) -> list[int]:
    pid = relay.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"still waiting for {what}"
        time.sleep(0.05)


def served_by(metrics: str) -> Counter[str]:
    """How many connections each worker has accepted."""
    with urllib.request.urlopen(f"{metrics}/metrics", timeout=PATIENCE) as answer:
        text = answer.read().decode()
    pattern = r'^eaa_connections_accepted_total\{worker="(\d+)"\} (\d+)$'
    return Counter({worker: int(count) for worker, count in re.findall(pattern, text, re.MULTILINE)})


def is_ready(metrics: str) -> bool:
    try:
        with urllib.request.urlopen(f"{metrics}/readyz", timeout=PATIENCE) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False


def knock(listening: str) -> None:
    """Connect, and see a worker hang up: a handshake of nonsense is refused by the one that accepted it."""
    host, _, port = listening.removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        sock.settimeout(PATIENCE)
        while sock.recv(100):
            pass


def test_two_workers_share_what_comes_and_survive_the_death_of_one(site: Site) -> None:
    with served(site, "--metrics", METRICS) as relay:
        listening, metrics = metrics_of(relay)
        until(lambda: is_ready(metrics), "all workers to be ready")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(knock, [listening] * HANDSHAKES))
        shares = served_by(metrics)
        assert set(shares) == {"1", "2"}
        # Each connection goes to either with the same chance: 4 standard deviations are 28 of 200.
        assert sum(shares.values()) >= HANDSHAKES
        assert all(share > HANDSHAKES / 2 - 30 for share in shares.values()), shares

        before = children_of(relay)
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        until(lambda: not is_running(before[0]), "its end")
        # Whoever comes now is served by the other one, and soon by two again.
        for _ in range(3):
            done = site.shelter(listening, "--json")
            assert done.code == 0, done
        relay.wait_for(r"worker \d \(process \d+\) was ended by SIGKILL; another one takes its place")
        until(lambda: len(set(children_of(relay)) - {before[0]}) == 2, "another worker")
        until(lambda: is_ready(metrics), "all workers to be ready again")
        assert before[1] in children_of(relay)
        assert relay.stop() == 128 + signal.SIGTERM
        assert not any(is_running(pid) for pid in before)


@pytest.mark.long
def test_a_worker_that_is_killed_in_a_burst_takes_its_own_sessions_with_it_and_no_others(site: Site) -> None:
    """A thousand attested sessions, a hundred at a time; the one worker dies with a third of them done."""
    burst, at_once = 1000, 100
    outcomes: Counter[str] = Counter()
    verifier = verifier_of(site)

    async def visit(address: str, victim: int, turn: asyncio.Semaphore) -> None:
        async with turn, asyncio.timeout(60):
            try:
                stream = await open_attested_connection(relay=address, verifier=verifier)
            except EAAError as error:
                outcomes[error.reason] += 1
            else:
                outcomes["served"] += 1
                stream.abort()
                if outcomes["served"] == burst // 3:
                    os.kill(victim, signal.SIGKILL)

    async def main(address: str, victim: int) -> None:
        turn = asyncio.Semaphore(at_once)
        async with asyncio.TaskGroup() as visits:
            for _ in range(burst):
                visits.create_task(visit(address, victim, turn))

    with served(site, "--metrics", METRICS) as relay:
        listening, metrics = metrics_of(relay)
        until(lambda: is_ready(metrics), "all workers to be ready")
        asyncio.run(main(listening, children_of(relay)[0]))
        assert outcomes.total() == burst
        # Those who were being served by it or waited for it, which is about half of a hundred.
        assert outcomes["served"] >= burst - at_once
        assert set(outcomes) <= {"served", Reason.PEER_CLOSED, Reason.CONNECTION_FAILED, Reason.TLS_HANDSHAKE}
        until(lambda: is_ready(metrics), "all workers to be ready again")
        assert site.shelter(listening).code == 0


def test_limits_are_those_of_the_service_and_not_of_each_worker(site: Site) -> None:
    """Twenty places are twenty, whichever worker has them; what a worker had that was killed is free again."""
    places, extra = 20, 30
    limits = ("--max-connections", str(places), "--max-connections-per-address", str(places))
    rates = ("--handshake-rate", "100000", "--handshake-rate-per-address", "100000")
    with served(site, *limits, *rates, "--metrics", METRICS) as relay, ExitStack() as stack:
        listening, metrics = metrics_of(relay)
        until(lambda: is_ready(metrics), "all workers to be ready")
        for _ in range(places):
            stack.enter_context(connected(listening))
        until(lambda: sum(sample(metrics, "eaa_connections").values()) == places, "all places to be taken")
        assert sum(sample(metrics, "eaa_connections_limit").values()) == places
        # What has said nothing for a second makes room in the worker that has it; nobody else does.
        refused = sum(is_refused(listening) for _ in range(extra))
        made_room = sum(sample(metrics, "eaa_refused_total", limit="half_open").values())
        assert made_room <= extra - refused
        assert sum(sample(metrics, "eaa_connections").values()) <= places
        victim = children_of(relay)[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(set(children_of(relay)) - {victim}) == 2, "another worker")
        until(lambda: is_ready(metrics), "all workers to be ready again")
        assert sum(sample(metrics, "eaa_connections").values()) < places
        assert site.shelter(listening).code == 0


def connected(listening: str) -> socket.socket:
    host, _, port = listening.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), PATIENCE)


def is_refused(listening: str) -> bool:
    """Whether whoever comes hears at once that there is no room."""
    with connected(listening) as sock:
        sock.settimeout(PATIENCE)
        # No TLS at all, so that who is let in is not there for long.
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return sock.recv(100) == TLS_OVERLOADED


def sample(metrics: str, name: str, **labels: str) -> dict[str, float]:
    """One number of each worker."""
    with urllib.request.urlopen(f"{metrics}/metrics", timeout=PATIENCE) as answer:
        text = answer.read().decode()
    found = re.findall(rf"^{name}\{{([^}}]*)\}} (\S+)$", text, re.MULTILINE)
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return {written: float(value) for written, value in found if all(part in written for part in wanted)}


def test_each_worker_has_a_key_and_evidence_of_its_own(site: Site) -> None:
    with served(site) as relay:
        host, _, port = address_of(relay).removeprefix("tcp://").rpartition(":")
        # That 24 connections in a row go to the same worker happens once in eight million times.
        leaves = {leaf_of(host, int(port)) for _ in range(24)}
        assert len(leaves) == 2


def leaf_of(host: str, port: int) -> bytes:
    """The certificate of whoever accepts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["eaa/2"])
    with socket.create_connection((host, port), PATIENCE) as sock, context.wrap_socket(sock) as secured:
        leaf = secured.getpeercert(binary_form=True)
    assert leaf is not None
    return leaf


def test_workers_share_a_unix_socket(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"
    with served(site, listen=f"unix://{path}") as relay:
        assert address_of(relay) == f"unix://{path}"
        for _ in range(2):
            assert site.shelter(f"unix://{path}").code == 0
        victim = children_of(relay)[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: not is_running(victim), "its end")
        for _ in range(2):
            assert site.shelter(f"unix://{path}").code == 0
        assert relay.stop() == 128 + signal.SIGTERM
    assert not path.exists()


def test_workers_end_where_their_supervisor_is_killed(site: Site) -> None:
    with served(site) as relay:
        address_of(relay)
        orphans = children_of(relay)
        relay.stop(signal.SIGKILL)
        until(lambda: not any(is_running(pid) for pid in orphans), "the workers to end")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_port_that_somebody_has_is_refused_at_once(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        done = run("inclavared", "--workers", "2", "--listen", listen, "--xfer", "tcp://127.0.0.1:9", "--mutual",
                   *site.attested("relay"), *site.judging)  # fmt: skip
    assert done.code == 4
    assert done.reason == "ADDRESS_IN_USE"


def test_two_services_of_workers_do_not_share_a_port(site: Site) -> None:
    with served(site) as relay:
        listening = address_of(relay)
        done = run("inclavared", "--workers", "2", "--listen", listening, "--xfer", "tcp://127.0.0.1:9", "--mutual",
                   *site.attested("relay"), *site.judging)  # fmt: skip
        assert done.code == 4
        assert done.reason == "ADDRESS_IN_USE"


def test_workers_that_cannot_start_end_the_service_with_their_own_words(site: Site, tmp_path: Path) -> None:
    """Here the software TEE's folder is gone, which only who wants evidence of it finds out."""
    done = run("inclavared", "--workers", "2", "--listen", "tcp://127.0.0.1:0", "--xfer", "tcp://127.0.0.1:9",
               "--mutual", "--attester", "sgx_sim", "--simulator", str(tmp_path), "--enclave",
               str(site.image("relay")), *site.judging)  # fmt: skip
    assert done.code in {2, 3, 4}
    assert done.stderr.count("inclavared: error:") >= 1


def test_sighup_reaches_every_worker(site: Site) -> None:
    with served(site) as relay:
        address_of(relay)
        relay.process.send_signal(signal.SIGHUP)
        for _ in range(2):
            relay.wait_for("reloaded: workloads are default")
        assert all(is_running(pid) for pid in children_of(relay))
