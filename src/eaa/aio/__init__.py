"""asyncio around `tls.connection` and `protocol.exchange`: owns sockets, waits for readiness, moves bytes.

Nothing here decides. The judge and the identity are passed in; the gate in `tls.connection` opens only for what the
judge accepted.

The names below are the library's. They are imported when they are first used: command lines take addresses from this
room, and shall not load an event loop and OpenSSL for them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from eaa.aio.address import TCPAddress, UnixAddress
    from eaa.aio.client import open_attested_connection
    from eaa.aio.server import AttestedServer, start_attested_server
    from eaa.aio.stream import AttestedStream, Peer

__all__ = [
    "AttestedServer",
    "AttestedStream",
    "Peer",
    "TCPAddress",
    "UnixAddress",
    "open_attested_connection",
    "start_attested_server",
]

_HOMES: Final = {
    "AttestedServer": "server",
    "AttestedStream": "stream",
    "Peer": "stream",
    "TCPAddress": "address",
    "UnixAddress": "address",
    "open_attested_connection": "client",
    "start_attested_server": "server",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
