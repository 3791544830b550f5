"""A node with an application behind it, and local clients that reach it by `shelter connect`."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.system import Running, Site, running

PATIENCE = 60.0
MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What runs there."""

    relay: Running
    workload: Running
    address: str
    """The relay's."""


@contextlib.contextmanager
def node(
    site: Site, app: str, *options: str, at_relay: tuple[str, ...] = (), listen: str = "tcp://127.0.0.1:0"
) -> Iterator[Node]:
    """Run a workload in front of an application, and its relay."""
    with (
        site.workload("--app", app, *options, listen=listen) as workload,
        site.relay(workload.address(), *at_relay) as relay,
    ):
        yield Node(relay=relay, workload=workload, address=relay.address())


@contextlib.contextmanager
def connected(site: Site, relay: str, *options: str, listen: str = "tcp://127.0.0.1:0") -> Iterator[Running]:
    """Run `shelter connect` in a block."""
    with running("shelter", "connect", "--listen", listen, "--addr", relay, *site.judging, *options) as shelter:
        yield shelter


def dial(address: str) -> socket.socket:
    """Connect to `tcp://HOST:PORT`, and wait PATIENCE at most for anything from there."""
    host, _, port = address.removeprefix("tcp://").partition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def everything(sock: socket.socket) -> bytes:
    """Read to the end. Raises ConnectionResetError where it is no good one."""
    return b"".join(iter(lambda: sock.recv(65536), b""))


def reset(sock: socket.socket) -> None:
    """Hang up with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def answers(port: int) -> bool:
    """Whether anybody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- what a process holds


def descriptors(process: int) -> int:
    """How many descriptors it has open."""
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def resident(process: int) -> int:
    """Its resident memory, bytes."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return 1024 * int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])


def processor_time(process: int) -> float:
    """Seconds of processor time so far, user's and system's."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
