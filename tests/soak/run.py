"""Many thousands of mutually attested connections, one after the other and some at once: does anything pile up?

    python tests/soak/run.py --count 20000

Every connection is a TLS handshake, evidence both ways, verified and appraised, an echo and two goodbyes; the levels of
binding take turns. Clients and server get another key, certificate and quote all the time, so that whatever is kept of
peers is full when the resident memory of both processes is taken, after a quarter of the connections. At the end it is
taken again; the two may differ by 2 MiB.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import itertools
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from eaa.aio import open_attested_connection  # noqa: E402  after the path
from eaa.appraise.result import BindingLevel  # noqa: E402
from eaa.identity import Identity  # noqa: E402
from eaa.program.loop import loop_factory  # noqa: E402
from soak.server import ANY_LEVEL  # noqa: E402
from support.peers import attester_of, verifier_of  # noqa: E402
from support.system import Site, running  # noqa: E402

AT_ONCE: Final = 16
"""Connections at a time."""
CONNECTIONS_OF_A_KEY: Final = 50
"""After so many, the clients have a new key, certificate and quote, and so has the server."""
KEYS_TO_FILL: Final = 600
"""As many in the first quarter: more than anything here remembers peers. The rest must not remember any more."""
M_ARENA_MAX: Final = -8
"""glibc's name for how many heaps a process may have. Each of our many identities of clients quotes on a thread of its
own, and without a limit what is measured is heaps of threads that came and went."""
LIMIT: Final = 2 * 1024 * 1024
"""Bytes that resident memory may grow after the first quarter."""
LEVELS: Final = (BindingLevel.CERT, BindingLevel.SESSION, BindingLevel.FRESH)


@dataclass(slots=True)
class Figures:
    """What a run has shown."""

    count: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    server: list[int] = field(default_factory=list)
    """Resident bytes of the server after a quarter, and at the end."""
    clients: list[int] = field(default_factory=list)
    """The same of the clients' process."""

    @property
    def grown(self) -> int:
        """How many bytes the process that grew most has grown."""
        return max(self.server[-1] - self.server[0], self.clients[-1] - self.clients[0])

    def __str__(self) -> str:
        rss = "; ".join(
            f"{name} RSS {taken[0] / 2**20:.1f} MiB after {self.count // 4}, {taken[-1] / 2**20:.1f} MiB at the end"
            for name, taken in (("server", self.server), ("clients", self.clients))
        )
        speed = f"{self.count} handshakes in {self.seconds:.0f} s, {len(self.failures)} failures"
        return f"{speed}; {rss}; grown by {self.grown / 2**20:.2f} MiB, limit {LIMIT / 2**20:g}"


def resident(process: int) -> int:
    """Return the resident memory of a process in bytes."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return 1024 * int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])


@contextmanager
def serving(site: Site, folder: Path) -> Iterator[tuple[str, int]]:
    """Run the server; yield its address and process."""
    # A unix socket: twenty thousand connections would leave as many TCP ports waiting, and there are few more.
    address = f"unix://{folder}/socket"
    env = {"PYTHONPATH": str(ROOT / "tests")}
    with running(sys.executable, str(ROOT / "tests" / "soak" / "server.py"), site.folder, address, env=env) as server:
        yield server.address(), server.process.pid


class Clients:
    """All the clients of a run."""

    def __init__(self, site: Site, address: str, server: int, quarter: int) -> None:
        self._server = server
        self._quarter = quarter
        self._filling = max(1, quarter // KEYS_TO_FILL)
        self._attester = attester_of(site, "client")
        self._verifier = verifier_of(site, policy=ANY_LEVEL)
        self._address = address
        self._identity = Identity(self._attester)
        self.failures: list[str] = []

    async def connect(self, number: int) -> None:
        """Make one connection, and use it."""
        if number % (self._filling if number < self._quarter else CONNECTIONS_OF_A_KEY) == 0:
            self._identity = await asyncio.to_thread(Identity, self._attester)
            os.kill(self._server, signal.SIGUSR1)
        level = LEVELS[number % len(LEVELS)]
        async with await open_attested_connection(
            self._address, verifier=self._verifier, identity=self._identity, level=level
        ) as stream:
            await stream.write(b"%d" % number)
            if await stream.read() != b"%d" % number or stream.peer.level is not level:
                raise ValueError("another answer")

    async def connect_in_turn(self, numbers: Iterator[int]) -> None:
        """Connect until there are no more numbers."""
        for number in numbers:
            try:
                await self.connect(number)
            except Exception as error:  # noqa: BLE001  counted, and told at the end
                self.failures.append(repr(error))


async def soak(site: Site, address: str, server: int, count: int) -> Figures:
    """Make so many connections."""
    figures = Figures(count=count)
    clients = Clients(site, address, server, count // 4)
    began = time.monotonic()
    numbers = iter(range(count))
    for part in (count // 4, count - count // 4):
        some = itertools.islice(numbers, part)
        await asyncio.gather(*(clients.connect_in_turn(some) for _ in range(AT_ONCE)))
        # Garbage of the clients' that waits for its turn says nothing of a leak; the server gets no such help.
        gc.collect()
        figures.server.append(resident(server))
        figures.clients.append(resident(os.getpid()))
    figures.seconds = time.monotonic() - began
    figures.failures = clients.failures
    return figures


def run(count: int) -> Figures:
    """Make a site, serve it, and soak the server."""
    with tempfile.TemporaryDirectory(prefix="eaa-soak-") as folder:
        site = Site.create(Path(folder))
        with (
            serving(site, Path(folder)) as (address, server),
            asyncio.Runner(loop_factory=loop_factory()) as runner,
        ):
            return runner.run(soak(site, address, server, count))


def main() -> int:
    """Return 0 where nothing failed and nothing has grown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=20_000, help="connections in all")
    ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)
    figures = run(parser.parse_args().count)
    for failure in figures.failures[:10]:
        print(f"soak: {failure}")
    good = not figures.failures and figures.grown < LIMIT
    print(f"soak: {figures}: {'passed' if good else 'FAILED'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
