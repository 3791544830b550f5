"""Hangs up in the middle of things: resets the connection that a program speaks on, at one step of the protocol.

    python -m chaos.gremlin SEED JOURNAL PROGRAM [OPTION ...]

runs a service as it is, but for a share of its connections that are reset: each at a step of its own, those that were
hit least first. The journal gets one line for each. It sleeps until SIGUSR2 wakes it, and again after the next; SIGUSR1
tells the tasks, as `support.observed` does.

A step is seen where every byte of the exchange goes through: in the connections of `eaa.tls.connection`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import re
import signal
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from eaa.aio.net import Service
from eaa.tls.connection import Connection, Want

OUTER, INNER = "outer", "inner"
DOOMED_SHARE: Final = 0.4
_MESSAGE: Final = re.compile(rb"\x64type[\x60-\x77](attest|evidence|accept|open(?:ed)?|reject)")

_LIBC: Final = ctypes.CDLL(None, use_errno=True)

STEPS_OF_WORKLOAD: Final = (
    "outer connected",
    "outer handshake begun",
    "outer handshake done",
    "outer hears attest",
    "outer sends attest",
    "outer sends evidence",
    "outer hears evidence",
    "outer hears accept",
    "outer sends accept",
    "inner connected",
    "inner handshake begun",
    "inner handshake done",
    "inner hears attest",
    "inner sends evidence",
    "inner hears accept",
)
"""What a workload with --mutual goes through, in its words."""
STEPS_OF_CLIENT: Final = (
    "outer connected",
    "outer handshake begun",
    "outer handshake done",
    "outer sends attest",
    "outer sends open",
    "outer hears evidence",
    "outer hears opened",
    "inner connected",
    "inner handshake begun",
    "inner handshake done",
    "inner sends attest",
    "inner hears evidence",
    "inner sends accept",
)
"""What Shelter goes through before its first byte."""

armed: ContextVar[Armed | None] = ContextVar("armed", default=None)
"""What is to happen to the connection of this task."""


class Armed:
    """A reset that waits for its step."""

    def __init__(self, step: str, note: Callable[[str], None], is_off: Callable[[], bool] = lambda: False) -> None:
        self.step = step
        self._is_off = is_off
        self.sock: socket.socket | None = None
        self._note = note
        self._fired = False

    def reach(self, step: str) -> None:
        """Reset the connection if this is the step."""
        if step == self.step and not self._fired and self.sock is not None and not self._is_off():
            self._fired = True
            self._note(step)
            reset(self.sock)


def reset(sock: socket.socket) -> None:
    """Reset a TCP connection as its peer would see a host that has lost power, and leave the descriptor alone."""
    # Linux, connect(2): an address of the family AF_UNSPEC dissolves the association.
    nowhere = struct.pack("H14x", socket.AF_UNSPEC)
    if _LIBC.connect(sock.fileno(), nowhere, len(nowhere)) != 0:
        raise OSError(ctypes.get_errno(), "the connection cannot be reset")


def install(arm: Callable[[], Armed | None] | None = None) -> None:
    """Watch every connection of this process. `arm` says what happens to each new one; else `armed` is set already."""
    begin, handshake = Connection.__init__, Connection.handshake
    send, receive = Connection.send_control, Connection.receive_control

    def hop(connection: Connection) -> str:
        return INNER if connection.__dict__.get("_gremlin_inner") else OUTER

    def watched_begin(connection: Any, *args: Any, sock: Any = None, **kwargs: Any) -> None:
        begin(connection, *args, sock=sock, **kwargs)
        connection._gremlin_inner = sock is None
        if sock is not None:
            if arm is not None:
                armed.set(arm())
            if (waiting := armed.get()) is not None:
                waiting.sock = sock
        _reach(f"{hop(connection)} connected")

    def watched_handshake(connection: Connection, **options: bool) -> Want:
        outcome = handshake(connection, **options)
        # A peer may be so quick that the first call is the last one.
        _reach(f"{hop(connection)} handshake begun")
        if outcome is Want.NOTHING:
            _reach(f"{hop(connection)} handshake done")
        return outcome

    def watched_send(connection: Connection, data: Any) -> Any:
        sent = send(connection, data)
        if isinstance(sent, int):
            _reach_messages(f"{hop(connection)} sends", bytes(data[:sent]))
        return sent

    def watched_receive(connection: Connection, size: int) -> Any:
        data = receive(connection, size)
        if isinstance(data, bytes):
            _reach_messages(f"{hop(connection)} hears", data)
        return data

    Connection.__init__ = watched_begin  # type: ignore[method-assign, assignment]
    Connection.handshake = watched_handshake  # type: ignore[method-assign, assignment]
    Connection.send_control = watched_send  # type: ignore[method-assign, assignment]
    Connection.receive_control = watched_receive  # type: ignore[method-assign, assignment]


def _reach(step: str) -> None:
    if (waiting := armed.get()) is not None:
        waiting.reach(step)


def _reach_messages(what: str, data: bytes) -> None:
    for found in _MESSAGE.findall(data):
        _reach(f"{what} {found.decode()}")


class Gremlin:
    """Chooses which connections of a service are reset, and where."""

    def __init__(self, seed: int, journal: str) -> None:
        self._random = random.Random(seed)
        self._hits = Counter(dict.fromkeys(STEPS_OF_WORKLOAD, 0))
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._calm = True

    def arm(self) -> Armed | None:
        if self._calm or self._random.random() >= DOOMED_SHARE:
            return None
        least = min(self._hits.values())
        # One of those that were hit least, or any other: the last ones are reached by few.
        steps = [step for step, hits in self._hits.items() if hits <= least + 1]
        # One that a relay keeps ready may be used only after this went to sleep.
        return Armed(self._random.choice(steps), self._note, lambda: self._calm)

    def turn(self) -> None:
        self._calm = not self._calm
        sys.stderr.write(f"gremlin: {'calm' if self._calm else 'awake'}\n")

    def _note(self, step: str) -> None:
        self._hits[step] += 1
        os.write(self._journal, step.encode() + b"\n")


def main() -> None:
    """Run a service with a gremlin in it."""
    from support import observed  # noqa: PLC0415  only here: it brings the programs along

    seed, journal = sys.argv[1:3]
    del sys.argv[1:3]
    gremlin = Gremlin(int(seed), journal)
    install(gremlin.arm)
    start = Service.start

    def start_with_a_gremlin(service: Service) -> None:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, gremlin.turn)
        start(service)

    Service.start = start_with_a_gremlin  # type: ignore[method-assign, assignment]
    observed._start = start_with_a_gremlin  # type: ignore[assignment]
    observed.main()


if __name__ == "__main__":
    main()
