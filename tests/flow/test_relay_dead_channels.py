"""A channel that died without a word before a client used it: another one takes its place, and nothing comes twice."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from support.applications import application, journal_of, pattern
from support.nodes import MEBIBYTE, connected, dial, everything, reset
from support.peers import eventually
from support.system import Site, run


class Road:
    """What lies between a relay and its workload. It carries bytes, and may be washed away under what is on it."""

    def __init__(self, workload: str) -> None:
        host, _, port = workload.removeprefix("tcp://").rpartition(":")
        self._workload = (host, int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = "tcp://{}:{}".format(*self._listening.getsockname())
        self.opened = 0
        self.broken = 0
        self.over = 0
        """On how many of them nothing more comes from the relay."""
        self._doomed = 0
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def doom(self) -> None:
        """From here on whatever is open now breaks when the relay says the next thing on it, and not before."""
        self._doomed = self.opened

    def doom_all(self) -> None:
        """The same of all that is still to come: nobody who is asked ever answers."""
        self._doomed = 1 << 30

    def close(self) -> None:
        """Let nobody in any more, and nobody on."""
        for sock in (self._listening, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                relay, _ = self._listening.accept()
                workload = socket.create_connection(self._workload)
                self._sockets += [relay, workload]
                self.opened += 1
                out = (relay, workload, self.opened)
                threading.Thread(target=self._carry_out, args=out, daemon=True).start()
                threading.Thread(target=self._carry_back, args=(workload, relay), daemon=True).start()

    def _carry_out(self, relay: socket.socket, workload: socket.socket, number: int) -> None:
        """What the relay says."""
        with contextlib.suppress(OSError):
            while data := relay.recv(65536):
                if number <= self._doomed:
                    self.broken += 1
                    # As a host does that has been restarted: it knows of no connection.
                    reset(relay)
                    break
                workload.sendall(data)
            else:
                workload.shutdown(socket.SHUT_WR)
        self.over += 1

    def _carry_back(self, workload: socket.socket, relay: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := workload.recv(65536):
                relay.sendall(data)
            relay.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def road_to(workload: str) -> Iterator[Road]:
    road = Road(workload)
    try:
        yield road
    finally:
        road.close()


def test_a_channel_that_was_dead_when_it_was_used_is_replaced_and_nobody_notices(site: Site, tmp_path: Path) -> None:
    sent = pattern(MEBIBYTE)
    with (
        application("echo", tmp_path) as (_, app),
        site.workload("--app", app) as workload,
        road_to(workload.address()) as road,
        site.relay(road.address) as relay,
        connected(site, relay.address()) as shelter,
    ):
        local = shelter.address()
        for turn in range(1, 4):
            # Two that are warm; and after each round the one that took another's place, and a new warm one.
            for _ in range(2):
                workload.wait_for("channel open")
            road.doom()
            broken = road.broken
            with dial(local) as client:
                sending = threading.Thread(target=lambda at=client: (at.sendall(sent), at.shutdown(socket.SHUT_WR)))
                sending.start()
                assert everything(client) == sent
                sending.join()
            relay.wait_for("another one takes its place")
            relay.wait_for("done: .* bytes to the workload")
            assert road.broken == broken + 1
            # The dead one, and the one of the session: its goodbye is nothing that another one could break on.
            eventually(lambda over=2 * turn: road.over == over, what="an end of what the relay says")  # type: ignore[misc]
        eventually(lambda: len(journal_of(tmp_path)) == 3, what="an end of the application's connections")
        assert [entry["bytes"] for entry in journal_of(tmp_path)] == [len(sent)] * 3


def test_it_is_replaced_once_and_no_more(site: Site, tmp_path: Path) -> None:
    with (
        application("echo", tmp_path) as (_, app),
        site.workload("--app", app) as workload,
        road_to(workload.address()) as road,
        site.relay(road.address) as relay,
    ):
        address = relay.address()
        for _ in range(2):
            workload.wait_for("channel open")
        road.doom_all()
        done = run("shelter", "remoteattestation", "--addr", address, *site.judging)
        assert done.code in (3, 4), done
        assert len([line for line in relay.lines if "takes its place" in line]) <= 1
        assert journal_of(tmp_path) == []
