"""A server of `eaa.aio` in a process of its own: it judges its clients, and sends back what comes.

python -m support.attested_server SITE ADDRESS
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from eaa.aio import AttestedStream, start_attested_server
from eaa.aio.net import _allow_descriptors
from eaa.identity import Identity
from eaa.program.logs import set_up_logging
from support.peers import attester_of, verifier_of
from support.system import Site


async def echo(stream: AttestedStream) -> None:
    """Send back what comes."""
    while data := await stream.read():
        await stream.write(data)


async def serve(site: Site, address: str) -> None:
    """Serve until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    identity, verifier = Identity(attester_of(site, "workload")), verifier_of(site)
    async with await start_attested_server(echo, address, identity=identity, verifier=verifier) as server:
        sys.stderr.write(f"listening on {', '.join(server.addresses)}\n")
        await stopped.wait()
    verifier.close()


def main() -> None:
    """Serve the site at the address that the command line names."""
    folder, address = sys.argv[1:]
    set_up_logging("attested-server", "info")
    _allow_descriptors()
    asyncio.run(serve(Site(folder=Path(folder), mr_enclaves={}), address))


if __name__ == "__main__":
    main()
