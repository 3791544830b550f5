"""Addresses as people write them: tcp://HOST:PORT, unix://PATH, HOST:PORT, [V6]:PORT, a path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from eaa.errors import Misuse, Reason

_MAX_UNIX_PATH = 107
"""Bytes of sun_path on Linux, less its final NUL."""
_HOST_PORT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%a-z]+)\]|(?P<host>[^\[\]:/\s]+)):(?P<port>[0-9]{1,5})")

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,252})=(.+)")


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


class AddressType(click.ParamType[Any]):
    """A click parameter that is an address."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        """Return the parsed address."""
        del param, ctx
        return value if isinstance(value, TCPAddress | UnixAddress) else parse_address(value)


class NamedAddressType(click.ParamType[Any]):
    """A click parameter that is an address, perhaps with a name in front: NAME=ADDRESS."""

    name = "named address"

    def __init__(self, default_name: str) -> None:
        self._default_name = default_name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Address]:
        """Return name and address."""
        del param, ctx
        if isinstance(value, tuple):
            return value
        named = _NAMED.fullmatch(value)
        if named:
            return named[1], parse_address(named[2])
        return self._default_name, parse_address(value)


ADDRESS = AddressType()
