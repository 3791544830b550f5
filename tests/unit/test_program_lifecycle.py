"""The life of a service: what signals do, and what the service manager is told."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from eaa.aio.net import Service
from eaa.program.address import TCPAddress
from eaa.program.lifecycle import Reload, live
from eaa.program.notify import Notifier
from support.aio_world import until


class Manager:
    """A service manager that listens."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(0)

    def heard(self) -> list[dict[str, str]]:
        """What was said since it was last asked."""
        said = []
        while True:
            try:
                said.append(dict(line.split("=", 1) for line in self.socket.recv(4096).decode().splitlines()))
            except BlockingIOError:
                return said


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.socket.close()


def notifier(manager: Manager, **more: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": manager.socket.getsockname(), **more})


# --- what is said


def test_each_thing_is_said_in_one_datagram(manager: Manager) -> None:
    telling = notifier(manager)
    telling.ready("Serving")
    telling.reloading()
    telling.alive()
    telling.stopping()
    ready, reloading, alive, stopping = manager.heard()
    assert ready == {"READY": "1", "STATUS": "Serving"}
    assert reloading.keys() == {"RELOADING", "MONOTONIC_USEC"}
    assert (alive, stopping["STOPPING"]) == ({"WATCHDOG": "1"}, "1")


def test_an_abstract_socket_is_found() -> None:
    manager = Manager(f"\0eaa-{os.getpid()}")
    Notifier({"NOTIFY_SOCKET": f"@eaa-{os.getpid()}"}).ready()
    assert manager.heard()[0]["READY"] == "1"
    manager.socket.close()


@pytest.mark.parametrize("named", ["", "relative", "vsock:2:1234"])
def test_where_nobody_listens_nothing_is_said(named: str, caplog: pytest.LogCaptureFixture) -> None:
    telling = Notifier({"NOTIFY_SOCKET": named, "WATCHDOG_USEC": "1000000"})
    telling.ready()
    assert telling.watchdog_interval is None
    assert caplog.records == []


def test_a_manager_that_is_gone_or_does_not_read_stops_nobody(
    manager: Manager, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "eaa"):
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
        telling = notifier(manager)
        for _ in range(10_000):
            telling.alive()
    assert "cannot be told" in caplog.text


@pytest.mark.parametrize(
    ("variables", "interval"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({}, None),
    ],
)
def test_signs_of_life_come_twice_as_often_as_they_are_wanted(
    manager: Manager, variables: dict[str, str], interval: float | None
) -> None:
    assert notifier(manager, **variables).watchdog_interval == interval


# --- what signals do


class Life:
    """A service in this process, whose signals are this process's."""

    def __init__(self, telling: Notifier, *, grace: float = 60.0) -> None:
        self.service = Service()
        self.telling = telling
        self.grace = grace
        self.reloads = 0
        self.may_reload = asyncio.Event()
        self.may_reload.set()
        self.fails = False
        self.stopped = False
        self.announced = False
        self.serving = 0

    async def reload(self) -> None:
        await self.may_reload.wait()
        self.reloads += 1
        if self.fails:
            raise ZeroDivisionError

    async def handle(self, _sock: socket.socket, _peer: str) -> None:
        self.serving += 1
        try:
            await asyncio.sleep(3600)
        finally:
            self.serving -= 1

    async def begin(self, on_reload: Reload | None = None) -> asyncio.Task[int]:
        self.names = self.service.listen(TCPAddress("127.0.0.1", 0), self.handle)
        task = asyncio.create_task(
            live(
                self.service,
                announce=lambda: setattr(self, "announced", True),
                grace=lambda: self.grace,
                on_reload=on_reload,
                on_stop=lambda: setattr(self, "stopped", True),
                notifier=self.telling,
            )
        )
        await until(lambda: self.announced)
        return task

    async def connected(self) -> socket.socket:
        host, port = self.names[0].removeprefix("tcp://").rsplit(":", 1)
        before = self.serving
        sock = await asyncio.to_thread(socket.create_connection, (host, int(port)))
        await until(lambda: self.serving == before + 1)
        return sock


def kill(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_drains_and_the_second_ends_it_at_once(manager: Manager, number: signal.Signals) -> None:
    async def main() -> None:
        life = Life(notifier(manager))
        task = await life.begin()
        with await life.connected():
            kill(number)
            await until(lambda: life.stopped)
            assert life.serving == 1
            kill(signal.SIGTERM)
            assert await task == 128 + number
            assert life.serving == 0

    asyncio.run(main())
    assert [next(iter(said)) for said in manager.heard()] == ["READY", "STOPPING"]


def test_the_grace_is_that_of_the_moment_in_which_it_is_told_to_stop(manager: Manager) -> None:
    async def main() -> None:
        life = Life(notifier(manager))
        task = await life.begin()
        with await life.connected():
            life.grace = 0.0
            kill(signal.SIGTERM)
            assert await task == 143

    asyncio.run(main())


def test_reloads_come_one_at_a_time_and_many_requests_are_one_more(manager: Manager) -> None:
    async def main() -> None:
        life = Life(notifier(manager))
        task = await life.begin(life.reload)
        life.may_reload.clear()
        kill(signal.SIGHUP)
        await until(lambda: any("RELOADING" in said for said in manager.heard()))
        for _ in range(20):
            kill(signal.SIGHUP)
        await asyncio.sleep(0.05)
        assert life.reloads == 0
        life.may_reload.set()
        await until(lambda: life.reloads == 2)
        kill(signal.SIGTERM)
        assert await task == 143
        assert life.reloads == 2

    asyncio.run(main())
    assert [next(iter(said)) for said in manager.heard()] == ["READY", "RELOADING", "READY", "STOPPING"]


def test_a_reload_that_fails_by_a_bug_of_ours_is_logged_and_the_next_one_works(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        life = Life(notifier(manager))
        task = await life.begin(life.reload)
        life.fails = True
        kill(signal.SIGHUP)
        await until(lambda: life.reloads == 1)
        life.fails = False
        kill(signal.SIGHUP)
        await until(lambda: life.reloads == 2)
        kill(signal.SIGTERM)
        assert await task == 143

    asyncio.run(main())
    assert "a bug of ours ended a reload" in caplog.text


def test_a_manager_that_asks_for_it_is_shown_that_the_loop_turns(manager: Manager) -> None:
    async def main() -> None:
        life = Life(notifier(manager, WATCHDOG_USEC="20000"))
        task = await life.begin()
        seen = 0
        while seen < 3:
            seen += sum("WATCHDOG" in said for said in manager.heard())
            await asyncio.sleep(0.01)
        kill(signal.SIGTERM)
        assert await task == 143

    asyncio.run(main())
