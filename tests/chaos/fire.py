"""A node under fire, in real processes: crowds, stalled readers, killed workloads, full disks, clocks that jump.

    make fire

In every test what arrives is counted and hashed: nothing lost, nothing delivered twice, nothing before a verdict. It is
not part of the suite, whose minutes are few; the build runs it by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from eaa.aio import AttestedStream, open_attested_connection
from eaa.appraise.policy import PolicyFile
from eaa.appraise.result import BindingLevel
from eaa.errors import Reason
from eaa.program.loop import loop_factory
from eaa.simulator.platform import Platform
from support.applications import PIECE, application, journal_of, pattern
from support.flow import filled_pccs, free_port
from support.nodes import (
    MEBIBYTE,
    PATIENCE,
    connected,
    descriptors,
    dial,
    everything,
    node,
    processor_time,
    reset,
    resident,
)
from support.peers import eventually, verifier_of
from support.shifted import Shift
from support.system import BIN, Running, Site, run

CROWD = 5000
HANDSHAKES_AT_ONCE = 64


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def there_and_back(address: str, data: bytes) -> bool:
    """Send bytes to an echo and read them back, both at once; tell whether they are the same."""
    with dial(address) as client:
        sending = threading.Thread(target=_send_all, args=(client, data))
        sending.start()
        received = everything(client)
        sending.join()
    return sha256(received) == sha256(data)


def _send_all(client: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)


def until_it_breaks(client: socket.socket) -> tuple[bytes, type[OSError] | None]:
    """Return what comes until the end, and what kind of an end it is; None for a good one."""
    pieces = []
    try:
        while data := client.recv(MEBIBYTE):
            pieces.append(data)
    except OSError as error:
        return b"".join(pieces), type(error)
    return b"".join(pieces), None


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert before[1] >= 3 * CROWD, "this system allows too few descriptors"
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


# --- crowds and stalled readers


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("many_descriptors")
def test_five_thousand_sessions_at_once_through_one_relay(site: Site, tmp_path: Path) -> None:
    """All of them are open at the same time, all are used twice, and nothing is left of them."""
    with application("echo", tmp_path) as (_, app), node(site, app) as here:
        relay = here.relay.process.pid
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            before = descriptors(relay)
            runner.run(_crowd(site, here.address, relay))
        eventually(lambda: descriptors(relay) <= before + 4, what="an end of all sessions")
        eventually(lambda: len(journal_of(tmp_path)) == CROWD, what="an end of all of the application's connections")
        assert {entry["bytes"] for entry in journal_of(tmp_path)} == {2 * 8}
        troubles = [line for line in (*here.relay.lines, *here.workload.lines) if "INTERNAL" in line or "OVERL" in line]
        assert troubles == []


async def _crowd(site: Site, address: str, relay: int) -> None:
    verifier = verifier_of(site, policy=PolicyFile.parse('minimum_binding = "session"\n'))
    turns = asyncio.Semaphore(HANDSHAKES_AT_ONCE)

    async def join() -> AttestedStream:
        async with turns:
            return await open_attested_connection(relay=address, verifier=verifier, level=BindingLevel.SESSION)

    async def ask(stream: AttestedStream, number: int) -> bytes:
        await stream.write(number.to_bytes(8, "big"))
        return await stream.readexactly(8)

    streams = await asyncio.gather(*(join() for _ in range(CROWD)))
    try:
        # Every one of them is there: two descriptors each at the relay.
        assert descriptors(relay) > 2 * CROWD
        for turn in range(2):
            answers = await asyncio.gather(*(ask(stream, turn + at) for at, stream in enumerate(streams)))
            assert [int.from_bytes(answer, "big") - turn for answer in answers] == list(range(CROWD))
    finally:
        await asyncio.gather(*(stream.close() for stream in streams))


def test_a_slow_reader_holds_up_nobody_and_loses_nothing(site: Site, tmp_path: Path) -> None:
    """Somebody who asks for much and reads nothing costs the relay less than 5 MiB, and the others no time."""
    size, quick = 96 * MEBIBYTE, 4 * MEBIBYTE
    with (
        application("source", tmp_path) as (_, app),
        node(site, app) as here,
        connected(site, here.address) as shelter,
        ThreadPoolExecutor(8) as pool,
    ):
        address = shelter.address()

        def fetch(_: int) -> str:
            with dial(address) as client:
                client.sendall(b"%d\n" % quick)
                return sha256(everything(client))

        # What is allocated once is there before anything is measured, for as many at once as there will be.
        assert set(pool.map(fetch, range(16))) == {sha256(pattern(quick))}
        process = here.relay.process.pid
        with dial(address) as slow:
            before, began = resident(process), time.monotonic()
            slow.sendall(b"%d\n" % size)
            assert set(pool.map(fetch, range(16))) == {sha256(pattern(quick))}
            assert time.monotonic() - began < PATIENCE
            assert resident(process) - before < 5 * MEBIBYTE
            # It has been stalled all the while, and now gets everything.
            assert sha256(everything(slow)) == sha256(pattern(size))


# --- those who vanish


def test_a_workload_that_is_killed_in_a_transfer_is_a_reset_and_its_return_is_noticed(
    site: Site, tmp_path: Path
) -> None:
    """What came until then is the beginning of what was sent; requests in between are refused quickly."""
    size = 64 * MEBIBYTE
    listen = f"unix://{tmp_path}/workload"
    command = ("enclave-tls-server", "--listen", listen, "--mutual", *site.attested("workload"), *site.judging)
    with application("source", tmp_path) as (_, app), contextlib.ExitStack() as stack:
        workload = Running(*command, "--app", app)
        stack.callback(workload.stop)
        workload.address()
        relay = stack.enter_context(site.relay(listen))
        address = relay.address()
        shelter = stack.enter_context(connected(site, address))
        local = shelter.address()
        with dial(local) as client:
            client.sendall(b"%d\n" % size)
            received = client.recv(MEBIBYTE)
            workload.process.kill()
            rest, how = until_it_breaks(client)
            received += rest
            assert how is ConnectionResetError
            assert 0 < len(received) < size
            assert sha256(received) == sha256(pattern(size)[: len(received)])
        began = time.monotonic()
        done = site.shelter(address, "--no-greeting", "--json")
        assert (done.code, done.answer["reason"]) == (4, Reason.WORKLOAD_UNAVAILABLE), done
        assert time.monotonic() - began < PATIENCE / 4
        again = Running(*command, "--app", app)
        stack.callback(again.stop)
        again.address()
        eventually(lambda: site.shelter(address, "--no-greeting").code == 0, what="the workload's return")
        with dial(local) as client:
            client.sendall(b"%d\n" % MEBIBYTE)
            assert sha256(everything(client)) == sha256(pattern(MEBIBYTE))


def test_half_closed_streams_are_delivered_to_the_last_byte_in_both_directions(site: Site, tmp_path: Path) -> None:
    sizes = [1, PIECE - 1, PIECE, PIECE + 1, 3 * MEBIBYTE + 7]
    with (
        application("digest", tmp_path) as (_, app),
        node(site, app) as here,
        connected(site, here.address) as shelter,
    ):
        address = shelter.address()
        for size in sizes:
            with dial(address) as client:
                client.sendall(pattern(size))
                client.shutdown(socket.SHUT_WR)
                answer = everything(client)
            assert f'"bytes": {size}, "sha256": "{sha256(pattern(size))}"' in answer.decode()


# --- what runs out


def test_a_relay_without_descriptors_neither_spins_nor_forgets_and_recovers(site: Site, tmp_path: Path) -> None:
    with application("echo", tmp_path) as (_, app), node(site, app) as here, connected(site, here.address) as shelter:
        local, process = shelter.address(), here.relay.process.pid
        with dial(local) as living:
            living.sendall(b"before")
            assert living.recv(64) == b"before"
            limits = resource.prlimit(process, resource.RLIMIT_NOFILE)
            # As many as it has, and a few: the next ones find none.
            resource.prlimit(process, resource.RLIMIT_NOFILE, (descriptors(process) + 4, limits[1]))
            flood = [dial(here.address) for _ in range(64)]
            here.relay.wait_for(Reason.OVERLOADED)
            used, began = processor_time(process), time.monotonic()
            living.sendall(b"meanwhile")
            assert living.recv(64) == b"meanwhile"
            time.sleep(2)
            # Accepting is tried again ten times a second, and costs next to nothing.
            assert processor_time(process) - used < 0.25 * (time.monotonic() - began)
            for sock in flood:
                reset(sock)
            resource.prlimit(process, resource.RLIMIT_NOFILE, limits)
            eventually(lambda: site.shelter(here.address, "--no-greeting").code == 0, what="a session after the flood")
            living.shutdown(socket.SHUT_WR)
            assert everything(living) == b""


def test_a_full_disk_refuses_what_must_be_remembered_and_is_forgotten_once_there_is_room(
    site: Site, tmp_path: Path
) -> None:
    """Pins and the evaluation floor are written before anybody is accepted by them; the old files stay whole."""
    pins, floor = tmp_path / "pins.toml", tmp_path / "floor.toml"
    state = ("--pin-platforms", str(pins), "--evaluation-floor", str(floor))
    with (
        application("echo", tmp_path) as (_, app),
        node(site, app) as here,
        connected(site, here.address, *state) as shelter,
    ):
        local, process = shelter.address(), shelter.process.pid
        limits = resource.prlimit(process, resource.RLIMIT_FSIZE)
        # No file of this process may get any bytes: Linux answers EFBIG as it would ENOSPC.
        resource.prlimit(process, resource.RLIMIT_FSIZE, (0, limits[1]))
        with dial(local) as client, pytest.raises(ConnectionResetError):
            everything(client)
        shelter.wait_for(r"warning: .*unavailable")
        assert not pins.exists()
        assert not floor.exists()
        assert journal_of(tmp_path) == [] or {entry["bytes"] for entry in journal_of(tmp_path)} == {0}
        resource.prlimit(process, resource.RLIMIT_FSIZE, limits)
        assert there_and_back(local, pattern(MEBIBYTE))
        assert pins.stat().st_size > 0
        assert floor.stat().st_size > 0


def test_a_log_on_a_full_disk_keeps_nobody_from_being_served_and_goes_on_once_there_is_room(
    site: Site, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    workload, relay = f"unix://{tmp_path}/workload", f"unix://{tmp_path}/relay"
    with application("echo", tmp_path) as (_, app), contextlib.ExitStack() as stack:
        file = stack.enter_context(log.open("ab"))
        processes = []
        for program, *options in (
            ("enclave-tls-server", "--listen", workload, "--app", app, *site.attested("workload")),
            ("inclavared", "--listen", relay, "--xfer", workload, *site.attested("relay")),
        ):
            # No file of these processes may get any bytes: Linux answers EFBIG as it would ENOSPC.
            limited = ("prlimit", "--fsize=0:unlimited", BIN / program)
            command = [str(part) for part in (*limited, "--mutual", *options, *site.judging)]
            process = subprocess.Popen(command, stderr=file, stdout=file, stdin=subprocess.DEVNULL)
            stack.callback(process.wait, PATIENCE)
            stack.callback(process.terminate)
            processes.append(process.pid)
            eventually((tmp_path / options[1].rpartition("/")[2]).exists, what=program)
        eventually(lambda: site.shelter(relay, "--no-greeting").code == 0)
        with connected(site, relay) as shelter:
            local = shelter.address()
            assert there_and_back(local, pattern(MEBIBYTE))
            assert log.read_bytes() == b""
            for pid in processes:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert there_and_back(local, pattern(MEBIBYTE))
        said = re.compile(b"(inclavared|enclave-tls-server): info: .*done: ")
        eventually(lambda: len(set(said.findall(log.read_bytes()))) == 2, what="a line of each")


# --- time


def collateral_at(site: Site, path: Path, ahead: timedelta) -> Path:
    """Write the vendor's collateral as it will be."""
    from datetime import UTC, datetime  # noqa: PLC0415  nowhere else does this file read a clock of its own

    platform = Platform.from_files({entry.name: entry.read_bytes() for entry in site.tee.iterdir() if entry.is_file()})
    path.write_bytes(platform.collateral(now=datetime.now(UTC) + ahead).to_json())
    return path


class ClockNode:
    """A workload and its relay by a clock that is set, both judging with a PCCS's collateral or with a file's."""

    def __init__(self, site: Site, folder: Path, *judging: str) -> None:
        self.site = site
        self.shift = Shift(folder / "clock")
        self.folder = folder
        self._judging = (*judging, "--trust-anchor", str(site.root), "--reference-values", str(site.values))
        self.relay_address = ""

    @contextlib.contextmanager
    def running(self, app: str) -> Iterator[Running]:
        hops = ("--listen", "tcp://127.0.0.1:0", "--mutual")
        server = (*hops, "--app", app, *self.site.attested("workload"), *self._judging)
        with self.shift.running("enclave-tls-server", *server) as workload:
            client = (*hops, "--xfer", workload.address(), *self.site.attested("relay"), *self._judging)
            with self.shift.running("inclavared", *client) as relay:
                self.relay_address = relay.address()
                yield relay

    def visit(self, collateral: Path) -> tuple[int, str | None]:
        """Attest the node as Shelter does, by the same clock and with collateral of its own."""
        command = (sys.executable, "-m", "support.shifted", str(self.shift.path), "shelter", "remoteattestation")
        judging = ("--collateral", str(collateral), *self._judging[-4:])
        done = subprocess.run(
            [*command, "--addr", self.relay_address, "--no-greeting", *judging],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        found = [word for word in done.stdout.split() if word.startswith("[") and word.endswith("]")]
        return done.returncode, found[0].strip("[]") if found else None


EXPIRED = (
    *(Reason.TCB_INFO_EXPIRED, Reason.QE_IDENTITY_EXPIRED, Reason.CRL_EXPIRED, Reason.COLLATERAL_EXPIRED),
    *(Reason.COLLATERAL_PENDING, Reason.PCCS_UNREACHABLE),
)


def test_a_pccs_may_be_down_for_as_long_as_what_it_gave_is_good_and_no_longer(site: Site, tmp_path: Path) -> None:
    """It is used on for a day where nobody answers who could renew it, within its documents' own dates."""
    port = free_port()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with contextlib.ExitStack() as stack:
        _, app = stack.enter_context(application("echo", tmp_path))
        with filled_pccs(site, tmp_path / "first", port=port) as pccs:
            here = ClockNode(site, tmp_path, "--pccs", pccs)
            relay = stack.enter_context(here.running(app))
            eventually(lambda: here.visit(site.collateral)[0] == 0, what="collateral")
        # Nobody answers at the PCCS's address from here on.
        for hours in (0.9, 1.1, 20):
            here.shift.to(timedelta(hours=hours))
            # More often than there are channels ready that were judged before.
            for _ in range(3):
                assert here.visit(site.collateral) == (0, None), (hours, relay.lines[-3:])
        relay.wait_for("is used on, until")
        here.shift.to(timedelta(hours=25))
        eventually(lambda: here.visit(site.collateral) == (4, Reason.WORKLOAD_UNAVAILABLE), what="a refusal")
        with filled_pccs(site, tmp_path / "second", port=port):
            eventually(lambda: here.visit(site.collateral) == (0, None), what="an acceptance by new collateral")
        ahead = timedelta(days=60)
        here.shift.to(ahead)
        future = collateral_at(site, tmp_path / "future.json", ahead)
        eventually(lambda: here.visit(future) == (4, Reason.WORKLOAD_UNAVAILABLE), what="a refusal")
        assert any(f"[{reason}]" in line for line in relay.lines[-20:] for reason in EXPIRED)


def test_clocks_that_jump_cost_nothing_but_what_is_out_of_its_dates(site: Site, tmp_path: Path) -> None:
    with application("echo", tmp_path) as (_, app):
        here = ClockNode(site, tmp_path, "--collateral", str(site.collateral))
        with here.running(app), connected(site, here.relay_address) as shelter, dial(shelter.address()) as living:

            def still_there(what: bytes) -> bool:
                living.sendall(what)
                return living.recv(64) == what

            assert still_there(b"before")
            # An hour ahead, back again, and a little behind.
            for minutes in (60, 0, -10):
                here.shift.to(timedelta(minutes=minutes))
                assert here.visit(site.collateral) == (0, None), minutes
                assert still_there(b"after %d" % minutes)
            here.shift.to(timedelta(days=-400))
            code, reason = here.visit(site.collateral)
            assert code in (1, 3, 4), reason
            assert "NOT_YET_VALID" in str(reason) or reason == Reason.WORKLOAD_UNAVAILABLE
            here.shift.to(timedelta(0))
            eventually(lambda: here.visit(site.collateral) == (0, None), what="an acceptance by the right clock")


# --- operators


def workload_levels(relay: Running) -> list[str]:
    """At which level the relay has had the workload attested, session by session; `none` where nobody judged it."""
    said = re.compile(r"relaying; .* the client \w+, the workload (\w+)")
    return [found[1] for line in relay.lines if (found := said.search(line))]


def test_a_reload_under_load_disturbs_no_session(site: Site, tmp_path: Path) -> None:
    """Good and bad configurations in turn while bytes flow: every byte arrives, and a bad file changes nothing.

    Nor is there a moment between two of them in which a workload is not judged, or nobody is there to judge it.
    """
    policy = tmp_path / "policy.toml"
    sizes = (2 * MEBIBYTE, 100)
    good = ['minimum_binding = "fresh"\n', 'minimum_binding = "session"\n']
    policy.write_text(good[0])
    stop = threading.Event()
    results: list[bool] = []
    with (
        application("echo", tmp_path) as (_, app),
        node(site, app, at_relay=("--policy", str(policy))) as here,
        connected(site, here.address) as shelter,
    ):
        address = shelter.address()

        def load(number: int) -> None:
            while not stop.is_set():
                # Long ones that live through reloads, and short ones, of which many begin in between.
                results.append(there_and_back(address, pattern(sizes[number % 2], seed=number)))

        threads = [threading.Thread(target=load, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        try:
            for number, text in zip(range(24), itertools.cycle([*good, "this is no policy"]), strict=False):
                policy.write_text(text)
                here.relay.process.send_signal(signal.SIGHUP)
                wanted = "nothing is reloaded" if text not in good else "reloaded"
                assert wanted in here.relay.wait_for(r".*(reloaded|nothing is reloaded).*").group(), number
                # The short ones of now have begun after it.
                enough = len(results) + len(threads)
                eventually(lambda enough=enough: len(results) >= enough, what="more sessions")  # type: ignore[misc]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert len(results) >= len(threads)
        assert all(results)
        eventually(lambda: len(workload_levels(here.relay)) == len(results), what="a line of each session")
        assert set(workload_levels(here.relay)) <= {BindingLevel.SESSION.label, BindingLevel.FRESH.label}
        assert not any(f"[{Reason.WORKLOAD_UNAVAILABLE}]" in line for line in (*here.relay.lines, *shelter.lines))
        assert run("shelter", "remoteattestation", "--addr", here.address, "--no-greeting", *site.judging).code == 0
        eventually(lambda: sum(entry["bytes"] in sizes for entry in journal_of(tmp_path)) >= len(results))
        assert sum(entry["bytes"] in sizes for entry in journal_of(tmp_path)) == len(results)
