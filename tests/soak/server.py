"""The server of the soak run, in a process of its own: whoever shows evidence is echoed, or just anybody.

python tests/soak/server.py SITE ADDRESS [anybody]
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any, Final

from eaa.aio import AttestedStream, start_attested_server
from eaa.aio.net import _allow_descriptors
from eaa.appraise.policy import PolicyFile
from eaa.attesters import Attester
from eaa.identity import Identity
from eaa.program.loop import loop_factory
from support.peers import attester_of, verifier_of
from support.system import Site

ANY_LEVEL: Final = PolicyFile.parse('minimum_binding = "cert"\n')


class Renewed:
    """An identity that is replaced on demand: another key, certificate and quote, and another TLS context with them."""

    def __init__(self, attester: Attester) -> None:
        self._attester = attester
        self._current = Identity(attester)

    def renew(self) -> None:
        """Replace it."""
        self._current = Identity(self._attester)

    def __getattr__(self, name: str) -> Any:
        """Be the current one."""
        return getattr(self._current, name)


async def echo(stream: AttestedStream) -> None:
    """Send back what comes."""
    while data := await stream.read():
        await stream.write(data)


async def serve(site: Site, address: str, *, anybody: bool) -> None:
    """Serve until SIGTERM; SIGUSR1 asks for another identity."""
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    identity: Any = Renewed(attester_of(site, "workload"))
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    loop.add_signal_handler(signal.SIGUSR1, identity.renew)
    verifier = None if anybody else verifier_of(site, policy=ANY_LEVEL)
    async with await start_attested_server(echo, address, identity=identity, verifier=verifier) as server:
        sys.stderr.write(f"listening on {', '.join(server.addresses)}\n")
        await stopped.wait()
    if verifier is not None:
        verifier.close()


if __name__ == "__main__":
    folder, where, *whom = sys.argv[1:]
    _allow_descriptors()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(Site(folder=Path(folder), mr_enclaves={}), where, anybody=bool(whom)))
