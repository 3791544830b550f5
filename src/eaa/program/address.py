"""Addresses as parameters of a command line."""

from __future__ import annotations

import re
from typing import Any, Final

import click

from eaa.aio.address import Address, TCPAddress, UnixAddress, parse_address

__all__ = ["ADDRESS", "Address", "AddressType", "NamedAddressType", "TCPAddress", "UnixAddress", "parse_address"]

_NAMED: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,252})=(.+)")


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
