"""Two thousand attested connections at once: all of them open, all of them used, all of them gone afterwards."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from eaa.aio import AttestedStream, open_attested_connection
from eaa.aio.net import DESCRIPTORS, _allow_descriptors
from eaa.appraise.policy import PolicyFile
from eaa.appraise.result import BindingLevel
from eaa.program.loop import loop_factory
from support.peers import eventually, verifier_of
from support.system import Site, running

CROWD = 2000
HANDSHAKES_AT_ONCE = 100
PATIENCE = 240.0
SERVER = Path(__file__).parents[1] / "soak" / "server.py"


def descriptors(process: int) -> int:
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


class Crowd:
    """Clients of one server that share a verifier."""

    def __init__(self, site: Site, address: str) -> None:
        self._verifier = verifier_of(site, policy=PolicyFile.parse('minimum_binding = "session"\n'))
        self._address = address
        self._turns = asyncio.Semaphore(HANDSHAKES_AT_ONCE)

    async def join(self) -> AttestedStream:
        async with self._turns:
            return await open_attested_connection(self._address, verifier=self._verifier, level=BindingLevel.SESSION)

    @asynccontextmanager
    async def gathered(self) -> AsyncIterator[list[AttestedStream]]:
        async with AsyncExitStack() as stack:
            streams = await asyncio.gather(*(self.join() for _ in range(CROWD)))
            for stream in streams:
                stack.callback(stream.abort)
            yield streams


async def ask(stream: AttestedStream, number: int) -> bool:
    await stream.write(b"%d" % number)
    return await stream.read() == b"%d" % number


async def crowd(site: Site, address: str, server: int) -> None:
    async with asyncio.timeout(PATIENCE), Crowd(site, address).gathered() as streams:
        # Every one of them is there, at both ends.
        assert descriptors(server) > CROWD
        assert descriptors(os.getpid()) > CROWD
        assert {stream.peer.level for stream in streams} == {BindingLevel.SESSION}
        for _ in range(2):
            answers = await asyncio.gather(*(ask(stream, number) for number, stream in enumerate(streams)))
            assert all(answers)


@pytest.mark.timeout(300)
def test_two_thousand_connections_at_once(site: Site) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    _allow_descriptors()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(CROWD + 100, DESCRIPTORS), "this system allows too few"
    try:
        command = (str(SERVER), site.folder, "tcp://127.0.0.1:0", "anybody")
        env = {"PYTHONPATH": str(SERVER.parents[1])}
        with running(sys.executable, *command, env=env) as server:
            address, process = server.address(), server.process.pid
            before = descriptors(process)
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(crowd(site, address, process))
            eventually(lambda: descriptors(process) <= before + 2, what="an end of all connections")
            assert [line for line in server.lines if "Traceback" in line or "INTERNAL" in line] == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
