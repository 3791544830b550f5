"""What attesting adds to a TLS handshake: CPU time of servers, ours against a C server doing plain mutual TLS.

    python bench/handshake.py                a table
    python bench/handshake.py --json         the table, and one JSON object as the last line
    python bench/handshake.py --write        also results.json and the tables of README.md
    python bench/handshake.py --scale 0.1    a tenth of everything

README.md says what is measured, and how.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from operator import sub, truediv
from pathlib import Path
from typing import Final

from report import Part, Result, environment, parser, run
from servers import (
    GREETING,
    HOST,
    Quotes,
    QuotesHere,
    QuotesOfDevice,
    Server,
    World,
    find_nginx,
    keep_apart,
    nginx,
    ours,
    serve_asyncio,
    serve_engine,
    serve_exchange,
    serve_https,
    serve_unjudged,
    write_pem,
)

from eaa.aio.address import TCPAddress
from eaa.aio.client import open_attested_connection
from eaa.aio.net import connect as connect_to
from eaa.aio.sessions import Endpoint
from eaa.aio.stream import AttestedStream
from eaa.appraise.result import BindingLevel

STARTS: Final = 3
"""How often all servers are started anew, so that no one process, and no one moment, decides."""
ROUNDS: Final = 8
"""After each start, beside one for getting warm."""
BLOCK: Final = 40
"""Handshakes with one server in a row. The servers take turns, so that whatever else the machine does befalls all."""
AT_ONCE: Final = 8
"""Clients at once."""

MOST: Final = {"known": 1.15, "new": 1.35, "https": 1.45}
"""How many times the C server's CPU time a handshake of ours may take."""
MOST_ADDED: Final = {
    "session": 350,
    "session shown": 350,
    "fresh": 400,
    "fresh shown": 400,
    "fresh of a device": 400,
    "fresh of a device, shown": 400,
}
"""µs that a level may add, beside the quote."""


# --- clients


Connect = Callable[[Server], None]
"""Connects to a server BLOCK times, AT_ONCE at once."""


class Clients:
    """Clients with certificates of one machine: one that comes again and again, and others that are new each time."""

    def __init__(self, world: World, folder: Path, *, new: int) -> None:
        """Make them, `new` new ones."""
        self._known = _client(world, folder)
        self._new = iter([_client(world, folder) for _ in range(new)])
        self._pool = ThreadPoolExecutor(AT_ONCE)

    def known(self, server: Server) -> None:
        """Connect with the certificate that the server has seen before."""
        self._connect(server, [self._known] * BLOCK)

    def new(self, server: Server) -> None:
        """Connect with certificates that no server has seen."""
        self._connect(server, list(itertools.islice(self._new, BLOCK)))

    def _connect(self, server: Server, contexts: list[ssl.SSLContext]) -> None:
        for _ in self._pool.map(functools.partial(_shake_hands, server), contexts):
            pass


def _client(world: World, folder: Path) -> ssl.SSLContext:
    """Return a client of plain mutual TLS. It does not judge: only what servers do is measured."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(write_pem(folder / "client.pem", world.identity().credentials()))
    return context


def _shake_hands(server: Server, context: ssl.SSLContext) -> None:
    with socket.create_connection((HOST, server.port)) as plain, context.wrap_socket(plain) as secured:
        if secured.recv(len(GREETING)) != GREETING:
            sys.exit("bench: a server has refused its client")


def attesting(world: World, level: BindingLevel) -> Connect:
    """Return clients that show evidence after the handshake, and ask the server for it."""
    verifier, identity = world.verifier(), world.identity()

    async def connect(server: Server) -> AttestedStream:
        address = (HOST, server.port)
        return await open_attested_connection(address, verifier=verifier, identity=identity, level=level)

    return _greeted(connect)


def by_certificate(world: World) -> Connect:
    """Return clients of the same TLS engine that do neither: what they cost is what an exchange is added to."""
    identity = world.identity()
    endpoint = Endpoint(identity, server_side=False, clock=identity.now, alpn=None)

    async def connect(server: Server) -> AttestedStream:
        sock = await connect_to(TCPAddress(HOST, server.port))
        return await endpoint.secure_unattested(sock)

    return _greeted(connect)


def _greeted(connect: Callable[[Server], Awaitable[AttestedStream]]) -> Connect:
    loop = asyncio.new_event_loop()

    async def visit(server: Server) -> None:
        async with await connect(server) as stream:
            if await stream.read() != GREETING:
                sys.exit("bench: a server has refused its client")

    async def visit_all(server: Server) -> None:
        for _ in range(BLOCK // AT_ONCE):
            await asyncio.gather(*(visit(server) for _ in range(AT_ONCE)))

    return lambda server: loop.run_until_complete(visit_all(server))


# --- measuring


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of handshake."""

    name: str
    server: Server
    connect: Connect
    attester: Quotes | None = None
    """Whose quotes are no part of what is measured."""

    def cpu_us(self) -> float:
        """Return the CPU time of the server so far, without its quotes, µs."""
        return self.server.cpu_us() - (0.0 if self.attester is None else self.attester.spent_us())


def measure(scale: float) -> Iterator[Result]:
    """Yield every result, `scale` times as many rounds as the targets are stated for."""
    keep_apart()
    rounds, world = max(1, round(ROUNDS * scale)), World()
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="eaa-bench-") as folder:
        clients = Clients(world, Path(folder), new=STARTS * 3 * (rounds + 1) * BLOCK)
        for _ in range(STARTS):
            for name, measured in _times_after_a_start(world, clients, rounds).items():
                times.setdefault(name, []).extend(measured)
    yield from _results(times, n=STARTS * rounds * BLOCK)


def _times_after_a_start(world: World, clients: Clients, rounds: int) -> dict[str, list[float]]:
    """Start a server of each kind, and return what handshakes of that kind take of its CPU time, µs."""
    with contextlib.ExitStack() as stack:
        start = stack.enter_context
        plain = start(nginx(world))
        engine, under_asyncio, https = [
            start(ours(serve, world)) for serve in (serve_engine, serve_asyncio, serve_https)
        ]
        unjudged = start(ours(serve_unjudged, world))
        kinds = (
            Kind(name="plain", server=plain, connect=clients.known),
            Kind(name="known", server=engine, connect=clients.known),
            Kind(name="new", server=engine, connect=clients.new),
            Kind(name="asyncio", server=under_asyncio, connect=clients.known),
            Kind(name="asyncio new", server=under_asyncio, connect=clients.new),
            Kind(name="https", server=https, connect=clients.known),
            Kind(name="https new", server=https, connect=clients.new),
            Kind(name="judged", server=under_asyncio, connect=by_certificate(world)),
            Kind(name="unjudged", server=unjudged, connect=by_certificate(world)),
            *(start(_exchange(name, world, QuotesHere(world))) for name in _EXCHANGES),
            *(start(_exchange(name, world, QuotesOfDevice(world))) for name in _EXCHANGES_OF_DEVICE),
        )
        return _times_of(kinds, rounds)


_EXCHANGES: Final = ("session", "session shown", "fresh", "fresh shown")
_EXCHANGES_OF_DEVICE: Final = ("fresh of a device", "fresh of a device, shown")


@contextlib.contextmanager
def _exchange(name: str, world: World, attester: Quotes) -> Iterator[Kind]:
    """Run a server whose clients ask it for evidence at the level of this name, and which asks them if it judges."""
    level = BindingLevel.from_label(name.partition(" ")[0])
    with (
        contextlib.closing(attester),
        ours(serve_exchange(level, attester, judges=not name.endswith("shown")), world) as server,
    ):
        yield Kind(name=name, server=server, connect=attesting(world, level), attester=attester)


def _times_of(kinds: tuple[Kind, ...], rounds: int) -> dict[str, list[float]]:
    """Return the CPU time of the server for each kind of handshake, µs, the mean of each block."""
    times: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    for number in range(rounds + 1):
        for kind in kinds:
            begin = kind.cpu_us()
            kind.connect(kind.server)
            # The first round is for getting warm.
            if number:
                times[kind.name].append((kind.cpu_us() - begin) / BLOCK)
    return times


def _results(times: dict[str, list[float]], *, n: int) -> Iterator[Result]:
    """Yield what handshakes take, block by block beside what the same round of another kind took.

    The machine may be a third slower a second later, and all kinds with it: what is compared has to be of one moment.
    """
    medians = {name: statistics.median(measured) for name, measured in times.items()}
    whats = {
        "known": "our TLS engine, a certificate verified before",
        "new": "our TLS engine, new evidence of a known machine",
        "https": "the context for HTTP libraries, a certificate verified before",
        "https new": "the context for HTTP libraries, new evidence of a known machine",
        "asyncio": "our TLS engine in a stream of asyncio, a certificate verified before",
        "asyncio new": "our TLS engine in a stream of asyncio, new evidence of a known machine",
    }
    for name, what in whats.items():
        yield Result(
            id=name,
            what=what,
            subject="P-256, mutual, TLS 1.3",
            n=n,
            value=round(statistics.median(map(truediv, times[name], times["plain"])), 3),
            unit="x",
            target=MOST.get(name),
            theirs_us=round(medians["plain"], 1),
            ours_us=round(medians[name], 1),
        )
    for name, (what, beside) in _ADDED.items():
        yield Result(
            id=name,
            what=what,
            subject="P-256, mutual, TLS 1.3",
            n=n,
            value=round(statistics.median(map(sub, times[name], times[beside]))),
            unit="µs",
            target=MOST_ADDED.get(name),
            ours_us=round(medians[name], 1),
        )


_ADDED: Final = {
    "session": ("what level session adds, both ends asking and judging", "judged"),
    "session shown": ("what level session adds to a server that judges nobody", "unjudged"),
    "fresh": ("what level fresh adds beside the quote, both ends asking and judging", "judged"),
    "fresh shown": ("what level fresh adds beside the quote to a server that judges nobody", "unjudged"),
    "fresh of a device": ("fresh, where the quote has to be waited for in a thread", "judged"),
    "fresh of a device, shown": (
        "fresh shown, where the quote has to be waited for in a thread",
        "unjudged",
    ),
}
"""What it is, and which kind of handshake it is added to."""


def versions() -> dict[str, str]:
    """Return what else a result depends on."""
    said = subprocess.run([find_nginx()[0], "-v"], check=True, capture_output=True, text=True).stderr  # noqa: S603
    names = ("cryptography", "pyOpenSSL", "uvloop")
    installed = {distribution.name for distribution in metadata.distributions()}
    return {
        "nginx": said.strip().rpartition("/")[2],
        "OpenSSL of Python": ssl.OPENSSL_VERSION.split()[1],
        **{name: metadata.version(name) for name in names if name in installed},
    }


def main() -> None:
    """Measure, and tell."""
    options = parser("Measure attested handshakes against a C server.").parse_args()
    run(Part.HANDSHAKE, options, measure, lambda: environment(**versions()))


if __name__ == "__main__":
    main()
