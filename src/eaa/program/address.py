"""Addresses as parameters of a command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import click

from eaa.aio.address import Address, TCPAddress, UnixAddress, parse_address

__all__ = [
    "ADDRESS",
    "Address",
    "AddressType",
    "NamedAddressType",
    "NamedPathType",
    "TCPAddress",
    "UnixAddress",
    "parse_address",
]

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
"""What names a workload."""
_NAMED: Final = re.compile(rf"({NAME.pattern})=(.+)")


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


class NamedPathType(click.ParamType[Any]):
    """A click parameter that is the path of a file, with a name in front: NAME=FILE."""

    name = "named file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:
        """Return name and path."""
        if isinstance(value, tuple):
            return value
        named = _NAMED.fullmatch(value)
        if named is None:
            self.fail(f"{value!r} is not NAME=FILE", param, ctx)
        return named[1], Path(named[2])

    def relocate(self, value: str, base: Path) -> str:
        """Return the value with its path made relative to `base`."""
        name, _, path = value.partition("=")
        return f"{name}={base / path}"


ADDRESS = AddressType()
