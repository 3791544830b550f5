"""Addresses as people write them: tcp://HOST:PORT, unix://PATH, HOST:PORT, [V6]:PORT, a path."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eaa.errors import EAAError, Misuse, Reason, Unavailable

_MAX_UNIX_PATH: Final = 107
"""Bytes of sun_path on Linux, less its final NUL."""
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_HOST_PORT: Final = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%a-z]+)\]|(?P<host>[^\[\]:/\s]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class TCPAddress:
    """A host (name, IPv4 or IPv6) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A unix socket's path."""

    path: Path

    def __str__(self) -> str:
        return f"unix://{self.path}"


Address = TCPAddress | UnixAddress


def parse_address(text: str) -> Address:
    """Return the address. Raises Misuse (ADDRESS_INVALID)."""
    if text.startswith("unix://"):
        return _unix(text.removeprefix("unix://"), text)
    match = _HOST_PORT.fullmatch(text.removeprefix("tcp://"))
    if match:
        port = int(match["port"])
        if port > 0xFFFF:
            raise _invalid(text, f"there is no port {port}")
        return TCPAddress(match["v6"] or match["host"], port)
    if "/" in text and "://" not in text:
        # The reference programs take a bare path for a unix socket.
        return _unix(text, text)
    raise _invalid(text, "it is neither HOST:PORT nor a socket's path")


def _unix(path: str, text: str) -> UnixAddress:
    if not path:
        raise _invalid(text, "the path is missing")
    if len(path.encode()) > _MAX_UNIX_PATH:
        raise _invalid(text, f"a unix socket's path has at most {_MAX_UNIX_PATH} bytes")
    return UnixAddress(Path(path))


def _invalid(text: str, why: str) -> Misuse:
    return Misuse(
        Reason.ADDRESS_INVALID,
        f"{text!r} is no address: {why}",
        hint="write tcp://HOST:PORT (IPv6 in brackets) or unix://PATH",
    )


def unavailable_from_os_error(error: OSError, *, doing: str) -> EAAError:
    """Translate what the operating system said into our tree; `doing` starts the sentence."""
    detail = error.strerror or str(error)
    if error.errno == errno.EADDRINUSE:
        return Unavailable(
            Reason.ADDRESS_IN_USE,
            f"{doing}: the address is in use",
            hint="stop what listens there (`ss -ltnp` names it), or choose another address",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Unavailable(
            Reason.PERMISSION_DENIED,
            f"{doing}: {detail}",
            hint="ports below 1024, other users' folders and system folders need rights; choose another or grant them",
        )
    if error.errno in _EXHAUSTED:
        return Unavailable(
            Reason.OVERLOADED,
            f"{doing}: {detail}",
            hint="this program has as many files and connections open as it may; try again, or raise its limits",
        )
    return Unavailable(Reason.CONNECTION_FAILED, f"{doing}: {detail}", hint="check the address and what runs there")
