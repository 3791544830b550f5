"""Sessions through a real relay that go on for as long as a test wants: Shelter's side, without Shelter."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eaa.aio.client import open_attested_connection
from eaa.aio.stream import AttestedStream
from eaa.appraise.policy import PolicyFile
from eaa.appraise.reference_values import ReferenceValues
from eaa.sources.files import FileSource
from eaa.verifier import TrustAnchors, Verifier
from support.system import Site


class EchoApplication:
    """An application on loopback that sends back what it is sent, for `--app`."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._stopped = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        host, port = self._listening.getsockname()
        return f"tcp://{host}:{port}"

    def close(self) -> None:
        self._stopped.set()
        self._listening.close()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=_echo, args=(sock,), daemon=True).start()


def _echo(sock: socket.socket) -> None:
    with sock:
        try:
            while data := sock.recv(65536):
                sock.sendall(data)
        except OSError:
            return


@contextmanager
def echo_application() -> Iterator[str]:
    """Run one for the duration of a block; yield its address."""
    application = EchoApplication()
    try:
        yield application.address
    finally:
        application.close()


def verifier_at(site: Site, values: Path | None = None) -> Verifier:
    """A verifier that judges as Shelter would at this site."""
    text = (values or site.values).read_text()
    return Verifier(
        FileSource(site.collateral),
        trust_anchors=TrustAnchors.from_pem(site.root.read_bytes()),
        reference_values=ReferenceValues.parse(text),
        policy=PolicyFile(),
    )


async def session(site_verifier: Verifier, relay: str, workload: str = "default") -> AttestedStream:
    """Open a session with the workload behind a relay; it is open until somebody ends it."""
    return await open_attested_connection(relay=relay, workload=workload, verifier=site_verifier)


async def echoes(stream: AttestedStream, text: bytes = b"hello") -> bool:
    """Whether the application behind a session answers."""
    await stream.write(text)
    return await stream.readexactly(len(text)) == text


async def how_it_ends(stream: AttestedStream, *, within: float = 60.0) -> bytes | Exception:
    """Wait for the end of a session: b"" is a good one."""
    try:
        async with asyncio.timeout(within):
            return await stream.read()
    except Exception as error:  # noqa: BLE001  it is told apart by the test
        return error


def metrics_at(address: str) -> dict[str, float]:
    """What a service says of itself, by name and labels."""
    host, port = address.removeprefix("tcp://").rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
