"""The workload inside a library OS: one process that makes no other, and a few threads, all there from the start."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eaa.workload.service import MAX_THREADS
from support import library_os
from support.applications import TESTS, application, pattern
from support.flow import filled_pccs
from support.system import Running, Site, running

pytestmark = pytest.mark.skipif(not library_os.is_supported(), reason="no system-call numbers for this machine")

ENVIRONMENT = {"PYTHONPATH": str(TESTS)}
SESSIONS = 24
AT_ONCE = 12
PATIENCE = 60.0


def threads_of(process: int) -> int:
    return len(list(Path(f"/proc/{process}/task").iterdir()))


@contextlib.contextmanager
def workload_in_library_os(site: Site, *options: str, pccs: str | None = None) -> Iterator[Running]:
    program = (sys.executable, "-m", "support.library_os", "enclave-tls-server")
    judging = [*site.judging]
    if pccs is not None:
        place = judging.index("--collateral")
        judging[place : place + 2] = ["--pccs", pccs]
    hops = ("--listen", "tcp://127.0.0.1:0", "--mutual", *site.attested("workload"))
    with running(*program, *hops, *judging, *options, env=ENVIRONMENT) as workload:
        yield workload


def exchange(address: str, number: int) -> bool:
    """Open a session of its own through `shelter connect`, and send something there and back."""
    host, _, port = address.removeprefix("tcp://").partition(":")
    sent = pattern(100_000, seed=number)
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b"")) == sent


def test_an_application_is_served_by_one_process_whose_threads_do_not_grow(site: Site, tmp_path: Path) -> None:
    connect = ("shelter", "connect", "--listen", "tcp://127.0.0.1:0", *site.judging)
    with (
        application("echo", tmp_path) as (_, app),
        workload_in_library_os(site, "--app", app) as workload,
        site.relay(workload.address()) as relay,
        running(*connect, "--addr", relay.address()) as shelter,
        ThreadPoolExecutor(AT_ONCE) as clients,
    ):
        address, process = shelter.address(), workload.process.pid
        from_the_start = threads_of(process)
        assert exchange(address, 0)
        counted = set()
        for came_back in clients.map(lambda number: exchange(address, number), range(SESSIONS)):
            assert came_back
            counted.add(threads_of(process))
        workload.process.send_signal(signal.SIGHUP)
        workload.wait_for("reloaded")
        assert exchange(address, 1)
        counted.add(threads_of(process))
        assert counted == {from_the_start}
        assert from_the_start <= MAX_THREADS
        assert "uvloop" not in Path(f"/proc/{process}/maps").read_text()
        assert workload.stop(signal.SIGTERM) == 143


def test_the_greeting_is_served_in_a_library_os_too_with_collateral_from_a_pccs(site: Site, tmp_path: Path) -> None:
    with (
        filled_pccs(site, tmp_path) as pccs,
        workload_in_library_os(site, pccs=pccs) as workload,
        site.relay(workload.address()) as relay,
    ):
        address = relay.address()
        from_the_start = threads_of(workload.process.pid)
        done = site.shelter(address)
        assert done.code == 0, done
        assert threads_of(workload.process.pid) == from_the_start == MAX_THREADS


@pytest.mark.parametrize(
    ("what", "killed"),
    [
        ("import os; os.fork()", True),
        ("import os; os.execv('/bin/true', ['true'])", True),
        ("import subprocess; subprocess.run(['/bin/true'])", True),
        ("import os; os.posix_spawn('/bin/true', ['true'], {})", True),
        ("import threading; t = threading.Thread(target=print); t.start(); t.join()", False),
    ],
    ids=["fork", "exec", "subprocess", "spawn", "thread"],
)
def test_what_no_library_os_offers_is_killed_by_the_filter(what: str, killed: bool) -> None:  # noqa: FBT001  a row
    """The filter of the tests above does what they rely on."""
    code = f"from support import library_os; library_os.enter(); {what}"
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == (-signal.SIGSYS if killed else 0), done
