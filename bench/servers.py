"""The servers whose handshakes are measured, each in a process of its own: ours, and a C server beside them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import logging
import multiprocessing
import os
import select
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection as PipeEnd
from pathlib import Path
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from eaa.aio.address import TCPAddress
from eaa.aio.legacy import secure_by_certificate
from eaa.aio.net import BACKLOG, Service, accept
from eaa.aio.server import start_attested_server
from eaa.aio.sessions import Endpoint, judge_now_by
from eaa.aio.stream import AttestedStream
from eaa.appraise.appraisal import SessionBinding
from eaa.appraise.policy import Policy, PolicyFile
from eaa.appraise.reference_values import ReferenceValue, ReferenceValues
from eaa.appraise.result import Accepted, Attests, BindingLevel, Role
from eaa.attesters import Attester
from eaa.attesters.simulated import SimulatedAttester
from eaa.collateral.bundle import Collateral
from eaa.evidence.quote import Quote
from eaa.evidence.tagged import REPORT_DATA_SIZE
from eaa.https import server_context
from eaa.identity import Credentials, Identity
from eaa.program.loop import loop_factory
from eaa.simulator.images import sample_image
from eaa.simulator.platform import Platform
from eaa.tls.connection import Connection, Want, make_context
from eaa.verifier import TrustAnchors, Verifier

GREETING: Final = b"x"
"""What a server sends once it has accepted its client: so a client that reads it knows that it was judged."""
HOST: Final = "127.0.0.1"
PATIENCE: Final = 30.0
"""Seconds for a server to start."""
NGINX: Final = ("nginx", "/usr/sbin/nginx")
MODULES: Final = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules")
HOW_TO_GET_NGINX: Final = (
    "bench: there is no C server to compare with: nginx with its stream module is wanted "
    "(Debian, Ubuntu: apt-get install nginx-light libnginx-mod-stream)"
)
_MOST: Final = 16 * 1024
"""Bytes of a quote; simulated ones have a third of that."""
_NOBODY: Final = "nobody"
_STARTING: Final = multiprocessing.get_context("spawn")
"""How processes are started: as programs, with a memory of their own and not a copy of the benchmark's."""
_PROCESS_CLOCK: Final = 2
"""Which of a process's clocks: CPU time in user and system mode (CPUCLOCK_SCHED)."""


class Source:
    """Collateral that is there already."""

    is_local = True

    def __init__(self, collateral: Collateral) -> None:
        self.collateral = collateral

    def fetch(self, **_: object) -> Collateral:
        """Return it, whatever is asked for."""
        return self.collateral


class World:
    """One simulated machine, where both ends run, and who believes it."""

    def __init__(self, kept: Mapping[str, bytes] | None = None, *, now: datetime | None = None) -> None:
        """Make the machine, or the same one in another process."""
        self.now = now or datetime.now(UTC).replace(microsecond=0)
        self._platform = Platform.create(now=self.now) if kept is None else Platform.from_files(kept)
        self.attester = SimulatedAttester(self._platform.launch(*sample_image("sample", now=self.now)))
        self._collateral = self._platform.collateral(now=self.now)

    def __reduce__(self) -> tuple[Callable[[], World], tuple[()]]:
        """Tell a process that is started how to have the same machine."""
        return functools.partial(World, self._platform.to_files(), now=self.now), ()

    def identity(self) -> Identity:
        """Another key, with evidence and a certificate."""
        return Identity(self.attester)

    def verifier(self) -> Verifier:
        """Who accepts this machine in both roles, at every level."""
        anchors = TrustAnchors.from_pem(self._platform.root_pem)
        (anchor,) = anchors.fingerprints
        measured: Any = Quote.parse(self.attester.quote(bytes(64))).body
        values = [
            ReferenceValue(
                name=role.value,
                role=role,
                attests=Attests.PROCESS,
                trust_anchor=anchor,
                mr_enclave=measured.mr_enclave,
            )
            for role in (Role.WORKLOAD, Role.CLIENT)
        ]
        return Verifier(
            Source(self._collateral),
            trust_anchors=anchors,
            policy=PolicyFile(default=Policy(minimum_binding=BindingLevel.CERT)),
            reference_values=ReferenceValues(tuple(values)),
        )


@dataclass(slots=True)
class Server:
    """A process that serves clients."""

    port: int
    pid: int

    def cpu_us(self) -> float:
        """Return the CPU time that the process has used so far, all of its threads, µs."""
        # The clock of another process: see clock_getcpuclockid(3).
        return time.clock_gettime_ns(~self.pid << 3 | _PROCESS_CLOCK) / 1000


def keep_apart() -> None:
    """Leave one core to the servers, where there are several: whoever calls this, and its threads, use the others."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, set(cores) - {_core_of_servers()})


def _move_to_core_of_servers(pid: int) -> None:
    os.sched_setaffinity(pid, {_core_of_servers()})


def _core_of_servers() -> int:
    return (os.cpu_count() or 1) - 1


def write_pem(path: Path, credentials: Credentials) -> Path:
    """Write a certificate and its key into one file, for OpenSSL."""
    key = credentials.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(ssl.DER_cert_to_PEM_cert(credentials.certificate).encode() + key)
    return path


# --- ours


Main = Callable[["World", Callable[[int], None]], Coroutine[Any, Any, None]]
"""Serves clients, having told the port on which it listens."""


async def serve_engine(world: World, listening: Callable[[int], None]) -> None:
    """Judge clients by their certificates, on the TLS engine of our programs with nothing around it but epoll."""
    verifier, credentials = warm(world), world.identity().credentials()
    context = make_context(
        server_side=True,
        certificate=credentials.certificate,
        private_key=credentials.private_key,
        alpn=(),
        demand_client_certificate=True,
    )
    with socket.create_server((HOST, 0), backlog=BACKLOG) as listener, select.epoll() as ready:
        ready.register(listener, select.EPOLLIN)
        listening(listener.getsockname()[1])
        served: dict[int, tuple[socket.socket, Connection]] = {}
        while True:
            for number, _ in ready.poll():
                if number == listener.fileno():
                    sock, _address = accept(listener)
                    served[sock.fileno()] = (
                        sock,
                        Connection(context, server_side=True, alpn=(), now=datetime.now(UTC), sock=sock),
                    )
                    ready.register(sock, select.EPOLLIN)
                elif served[number][1].handshake() is Want.NOTHING:
                    sock, connection = served.pop(number)
                    admit_by_certificate(connection, verifier)
                    connection.send(GREETING)
                    connection.shutdown()
                    sock.close()


def admit_by_certificate(connection: Connection, verifier: Verifier) -> None:
    """Judge a client by the evidence in its certificate, and open the gate."""
    peer = connection.peer
    assert peer is not None
    evidence, report_data = peer.evidence, peer.expected_report_data
    assert evidence is not None
    assert report_data is not None
    peer.verify_binding()
    session = SessionBinding(evidence=evidence, report_data=report_data, level=BindingLevel.CERT)
    result = verifier.judge_now(evidence, role=Role.CLIENT, session=session).result
    assert isinstance(result, Accepted)
    connection.expect(hashlib.sha256(evidence).digest(), report_data)
    connection.accept(result)


async def serve_asyncio(world: World, listening: Callable[[int], None]) -> None:
    """Judge clients by their certificates, as `enclave-tls-server` does: the same engine under asyncio."""
    identity, judge = world.identity(), judge_now_by(warm(world), Role.CLIENT)
    endpoint = Endpoint(identity, server_side=True, clock=identity.now, alpn=None, demand_client_certificate=True)

    async def serve(sock: socket.socket, _peer: str) -> None:
        stream = await secure_by_certificate(endpoint, sock, judge, stapled=lambda _: None)
        await greet(stream)
        await stream.close()

    await _serve_with(serve, listening)


async def serve_https(world: World, listening: Callable[[int], None]) -> None:
    """Judge clients inside of the handshake, with the context that is made for other people's HTTP libraries."""
    context = server_context(world.identity(), verifier=warm(world))

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING)
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0, ssl=context)
    listening(server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


class Quotes(Attester, Protocol):
    """An attester that tells what its quotes take in the process of the server."""

    def spent_us(self) -> float:
        """Return how much CPU time of those who asked went into their quotes so far, µs."""

    def close(self) -> None:
        """Quote no more."""


class _Quotes:
    """What both have in common."""

    name = SimulatedAttester.name
    tee = SimulatedAttester.tee
    is_immediate = SimulatedAttester.is_immediate

    def __init__(self, world: World) -> None:
        self._world = world
        self._spent = _STARTING.RawValue("d", 0.0)

    def quote(self, report_data: bytes) -> bytes:
        """Return a quote."""
        begin = time.thread_time_ns()
        quote = self._quote(report_data)
        # An identity asks for one quote at a time.
        self._spent.value += (time.thread_time_ns() - begin) / 1000
        return quote

    def _quote(self, report_data: bytes) -> bytes:
        raise NotImplementedError

    def spent_us(self) -> float:
        """Return how much CPU time of those who asked went into quotes so far, µs."""
        return float(self._spent.value)


class QuotesHere(_Quotes):
    """The software TEE of our programs, which makes its quotes in the process of the server."""

    def _quote(self, report_data: bytes) -> bytes:
        return self._world.attester.quote(report_data)

    def close(self) -> None:
        """Do nothing."""


class QuotesOfDevice(_Quotes):
    """An attester whose quotes are made in a process of its own, as those of a real platform are made by a device.

    What asking for them takes in the process of the server is told apart: it is a part of the quote.
    """

    is_immediate = False

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._asking, answering = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self._device = _STARTING.Process(target=_quote_for, args=(answering, world), daemon=True)
        self._device.start()
        answering.close()

    def __getstate__(self) -> dict[str, object]:
        """Leave the device to whoever has started it."""
        return {name: value for name, value in vars(self).items() if name != "_device"}

    def _quote(self, report_data: bytes) -> bytes:
        self._asking.send(report_data)
        return self._asking.recv(_MOST)

    def close(self) -> None:
        """End the process."""
        self._device.terminate()
        self._device.join()
        self._asking.close()


def _quote_for(asked: socket.socket, world: World) -> None:
    while report_data := asked.recv(REPORT_DATA_SIZE):
        asked.send(world.attester.quote(report_data))


async def _serve_exchange(
    world: World, listening: Callable[[int], None], *, level: BindingLevel, attester: Attester, judges: bool
) -> None:
    server = await start_attested_server(
        greet,
        TCPAddress(HOST, 0),
        identity=Identity(attester),
        verifier=warm(world) if judges else None,
        level=level,
    )
    listening(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def serve_exchange(level: BindingLevel, attester: Attester, *, judges: bool = True) -> Main:
    """Return a server that shows evidence after the handshake, and asks its clients for theirs at this level."""
    return functools.partial(_serve_exchange, level=level, attester=attester, judges=judges)


async def serve_unjudged(world: World, listening: Callable[[int], None]) -> None:
    """Take clients as they come, under asyncio: what showing evidence is compared with."""
    identity = world.identity()
    endpoint = Endpoint(identity, server_side=True, clock=identity.now, alpn=None, demand_client_certificate=True)

    async def serve(sock: socket.socket, _peer: str) -> None:
        stream = await endpoint.secure_unattested(sock)
        await greet(stream)
        await stream.close()

    await _serve_with(serve, listening)


async def _serve_with(
    handler: Callable[[socket.socket, str], Awaitable[None]], listening: Callable[[int], None]
) -> None:
    service = Service()
    service.listen(TCPAddress(HOST, 0), handler)
    service.start()
    listening(service.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


async def greet(stream: AttestedStream) -> None:
    """Say that the client was accepted."""
    await stream.write(GREETING)


def warm(world: World) -> Verifier:
    """Return a verifier that knows the machine."""
    verifier = world.verifier()
    verifier.judge(world.attester.quote(bytes(64)), role=Role.CLIENT, session=None)
    return verifier


@contextlib.contextmanager
def ours(main: Main, world: World) -> Iterator[Server]:
    """Run one of the above as a program of its own, as it is in production, and as the C server is."""
    receiving, sending = _STARTING.Pipe(duplex=False)
    process = _STARTING.Process(target=_run, args=(main, world, sending), daemon=True)
    process.start()
    sending.close()
    try:
        if not receiving.poll(PATIENCE):
            sys.exit("bench: a server of ours does not start")
        assert process.pid is not None
        yield Server(receiving.recv(), process.pid)
    finally:
        process.terminate()
        process.join()
        receiving.close()


def _run(main: Main, world: World, telling: PipeEnd) -> None:
    _move_to_core_of_servers(0)
    logging.disable()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main(world, telling.send))


# --- a C server


@contextlib.contextmanager
def nginx(world: World) -> Iterator[Server]:
    """Run nginx as a server of plain mutual TLS: it asks for a certificate, takes whichever comes, and greets."""
    program, module = find_nginx()
    with tempfile.TemporaryDirectory(prefix="eaa-bench-") as name:
        folder, port = Path(name), free_port()
        pem = write_pem(folder / "server.pem", world.identity().credentials())
        configuration = folder / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(module=module, folder=folder, address=f"{HOST}:{port}", pem=pem), encoding="ascii"
        )
        user = unprivileged(folder)
        command = [program, "-e", "stderr", "-p", name, "-c", str(configuration)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, user=user)  # noqa: S603
        try:
            _wait_until_it_listens(process, port)
            _move_to_core_of_servers(process.pid)
            yield Server(port, process.pid)
        finally:
            process.terminate()
            process.communicate()


def find_nginx() -> tuple[str, Path]:
    """Return nginx and its stream module; end where they are not there."""
    program = next(filter(None, map(shutil.which, NGINX)), None)
    modules = (Path(folder, "ngx_stream_module.so") for folder in MODULES)
    module = next((path for path in modules if path.is_file()), None)
    if program is None or module is None:
        sys.exit(HOW_TO_GET_NGINX)
    return program, module


_CONFIGURATION: Final = """
load_module {module};
daemon off;
master_process off;
pid {folder}/nginx.pid;
events {{ worker_connections 256; }}
stream {{
    server {{
        listen {address} ssl;
        ssl_certificate {pem};
        ssl_certificate_key {pem};
        ssl_protocols TLSv1.3;
        ssl_verify_client optional_no_ca;
        ssl_session_cache off;
        ssl_session_tickets off;
        return x;
    }}
}}
"""


def unprivileged(folder: Path) -> str | None:
    """Return whom to run a server as where this is root, and give them the folder; else None."""
    if os.geteuid() != 0:
        return None
    for path in (folder, *folder.iterdir()):
        shutil.chown(path, user=_NOBODY)
    return _NOBODY


def free_port() -> int:
    """Return a port at which nobody listens."""
    with socket.create_server((HOST, 0)) as listening:
        return int(listening.getsockname()[1])


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=PATIENCE):
            return
        time.sleep(0.01)
    process.kill()
    sys.exit(f"bench: nginx does not start: {process.communicate()[1].decode(errors='replace')}")
