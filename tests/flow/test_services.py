"""How services start and stop: the addresses they take, those they leave alone, and the codes they end with."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from eaa.aio.net import connect
from eaa.aio.sessions import Endpoint
from eaa.aio.stream import AttestedStream
from eaa.errors import Reason
from eaa.program.address import parse_address
from eaa.protocol.exchange import Terms
from eaa.verifier import wall_clock
from support.system import Done, Running, Site, run, running
from support.traces import Place

PROGRAMS: Final = ("enclave-tls-server", "inclavared")
CODES: Final = {signal.SIGTERM: 143, signal.SIGINT: 130}
GRACE: Final = 1
"""Seconds that what is live gets."""
SOON: Final = GRACE + 30
"""Seconds: the machine may be busy."""


def command(site: Site, program: str, address: str) -> tuple[str, ...]:
    """A service that needs nobody else."""
    images = {"enclave-tls-server": "workload", "inclavared": "relay"}
    return (program, "--listen", address, *site.attested(images[program]), *site.judging)


def assert_refused(done: Done, reason: Reason) -> None:
    assert (done.code, done.reason) == (4, reason), done


# --- ending


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_signal_ends_a_service_with_its_code(site: Site, program: str, number: signal.Signals) -> None:
    with running(*command(site, program, "tcp://127.0.0.1:0"), "--grace", "600") as service:
        service.address()
        # Nobody is connected, so there is nothing to wait for.
        assert service.stop(number) == CODES[number]


def test_idle_connections_do_not_keep_a_service_from_ending(site: Site) -> None:
    """One that says nothing at all, and one in the middle of a relayed session that says nothing any more."""
    grace = ("--grace", f"{GRACE}")
    with site.workload(*grace) as workload, site.relay(workload.address(), *grace) as relay, ExitStack() as stack:
        for address in (_said(workload), relay.address()):
            stack.enter_context(socket.create_connection(_host_port(address)))
        stop_after = asyncio.run(_stopped_with_an_idle_session(_said(relay), workload, relay))
    assert stop_after == (130, 143)


async def _stopped_with_an_idle_session(address: str, workload: Running, relay: Running) -> tuple[int, int]:
    stream = await _idle_session(address)
    try:
        for service, number in ((workload, signal.SIGINT), (relay, signal.SIGTERM)):
            service.process.send_signal(number)
        codes = [await asyncio.to_thread(service.process.wait, SOON) for service in (workload, relay)]
        return codes[0], codes[1]
    finally:
        stream.abort()


async def _idle_session(address: str) -> AttestedStream:
    """Open a channel through a relay and leave it at that."""
    endpoint = Endpoint(None, server_side=False, clock=wall_clock)
    attestation = await endpoint.secure(
        await connect(parse_address(address)), Terms.shelter_to_relay(judges=False), None
    )
    await attestation.open("default")
    return attestation.stream


def _said(service: Running) -> str:
    """The address that was announced, also after it has been waited for."""
    (line,) = [line for line in service.lines if "listening on" in line]
    return line.split("listening on ")[1].split(",")[0]


def _host_port(address: str) -> tuple[str, int]:
    host, port = address.removeprefix("tcp://").rsplit(":", 1)
    return host, int(port)


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_ends_shelter_in_the_middle_of_a_visit(site: Site, tmp_path: Path, number: signal.Signals) -> None:
    """Whoever stalls at the other end: Ctrl-C ends it, and nothing that looks like an answer is said."""
    with socket.create_server(("127.0.0.1", 0)) as stalling:
        address = f"tcp://127.0.0.1:{stalling.getsockname()[1]}"
        visit = ("shelter", "remoteattestation", "--addr", address, *site.judging)
        with Place(tmp_path).running(*visit) as stage:
            sock, _ = stalling.accept()
            with sock:
                # It has said hello, so the handshake is on.
                assert sock.recv(1)
                stage.process.send_signal(number)
                assert stage.finish() == CODES[number]
            assert stage.said == []


# --- unix sockets


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "service.sock"


def stale(path: Path) -> None:
    """Leave a socket behind as a killed service does."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.fixture
def neighbour(path: Path) -> Iterator[socket.socket]:
    """Somebody else who listens there."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        yield sock


def is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_unix_socket_is_for_its_owner_and_goes_with_its_service(
    site: Site, path: Path, program: str, number: signal.Signals
) -> None:
    with running(*command(site, program, f"unix://{path}")) as service:
        assert service.address() == f"unix://{path}"
        mode = path.lstat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        assert service.stop(number) == CODES[number]
    assert not os.path.lexists(path)


def test_a_socket_that_refuses_connections_is_replaced(site: Site, path: Path) -> None:
    stale(path)
    assert not is_served(path)
    with running(*command(site, "inclavared", f"unix://{path}")) as service:
        service.address()
        assert is_served(path)
        # A service that is killed leaves such a socket too, and can be started again.
        service.process.kill()
        service.process.wait()
        assert os.path.lexists(path)
    with running(*command(site, "inclavared", f"unix://{path}")) as service:
        service.address()
        assert is_served(path)


def _regular_file(path: Path) -> None:
    path.write_text("somebody's work")


def _folder(path: Path) -> None:
    path.mkdir()


def _link_to_a_file(path: Path) -> None:
    path.with_name("target").write_text("somebody's work")
    path.symlink_to("target")


def _link_to_a_stale_socket(path: Path) -> None:
    stale(path.with_name("target"))
    path.symlink_to("target")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    "there", [_regular_file, _folder, _link_to_a_file, _link_to_a_stale_socket, _pipe], ids=lambda make: make.__name__
)
def test_anything_else_at_the_path_is_left_alone(site: Site, path: Path, there: object) -> None:
    assert callable(there)
    there(path)
    before = _inventory(path.parent)
    assert_refused(run(*command(site, "enclave-tls-server", f"unix://{path}")), Reason.ADDRESS_IN_USE)
    assert _inventory(path.parent) == before


def _inventory(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Everything in a folder: which file it is, of what kind, and what it says."""
    return {
        path.name: (
            path.lstat().st_ino,
            path.lstat().st_mode,
            path.read_text() if stat.S_ISREG(path.lstat().st_mode) else "",
        )
        for path in folder.iterdir()
    }


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_socket_somebody_listens_on_is_left_alone(
    site: Site, path: Path, neighbour: socket.socket, program: str
) -> None:
    before = path.lstat()
    assert_refused(run(*command(site, program, f"unix://{path}")), Reason.ADDRESS_IN_USE)
    assert path.lstat().st_ino == before.st_ino
    assert is_served(path)


def test_what_lies_at_the_path_by_the_end_may_be_somebody_elses(site: Site, path: Path) -> None:
    with running(*command(site, "inclavared", f"unix://{path}")) as service:
        service.address()
        path.unlink()
        _regular_file(path)
        assert service.stop() == 143
    assert path.read_text() == "somebody's work"


# --- addresses that cannot be had


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_taken_port_is_named(site: Site, program: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        assert_refused(run(*command(site, program, address)), Reason.ADDRESS_IN_USE)


def test_a_second_service_does_not_share_a_port(site: Site) -> None:
    with running(*command(site, "inclavared", "tcp://127.0.0.1:0")) as service:
        assert_refused(run(*command(site, "inclavared", service.address())), Reason.ADDRESS_IN_USE)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_missing_permission_is_named(site: Site, program: str) -> None:
    """Nobody may make files there, not even root."""
    assert_refused(run(*command(site, program, "unix:///sys/service.sock")), Reason.PERMISSION_DENIED)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("tcp://192.0.2.1:0", Reason.CONNECTION_FAILED),
        ("tcp://no-such-host.invalid:0", Reason.ADDRESS_UNRESOLVED),
        ("unix:///nonexistent/folder/service.sock", Reason.CONNECTION_FAILED),
    ],
)
def test_an_address_that_is_not_ours_is_named(site: Site, address: str, reason: Reason) -> None:
    assert_refused(run(*command(site, "inclavared", address)), reason)


def test_a_service_that_gets_only_one_of_its_addresses_gives_it_back(site: Site, path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        legacy = ("--legacy-listen", f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        assert_refused(run(*command(site, "inclavared", f"unix://{path}"), *legacy), Reason.ADDRESS_IN_USE)
    assert not os.path.lexists(path)
