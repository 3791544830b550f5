"""The options by which an operator says how much of a service strangers may have."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from eaa.aio.limits import ServiceLimits

F = TypeVar("F", bound=Callable[..., Any])

_USUAL: Final = ServiceLimits()
_MOST: Final = 1_000_000
_MAX_RATE: Final = 1e6
_MAX_SECONDS: Final = 366 * 86400.0
_LEAST_REQUEST: Final = 16 * 1024
"""Bytes: evidence without collateral has about 6 KiB, and a client may send the beginning of its session ahead."""
_MOST_REQUEST: Final = 16 * 1024 * 1024


class _Number(click.FloatRange):
    """A number within bounds, and not what compares with none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if math.isnan(float(super().convert(value, param, ctx))):
            self.fail("it is not a number", param, ctx)
        return super().convert(value, param, ctx)


_SHARES: Final[dict[str, tuple[str, float, str]]] = {
    "max_connections_per_address": ("max_connections", 0.75, "three quarters of --max-connections"),
    "handshake_rate_per_address": ("handshake_rate", 0.3, "three tenths of --handshake-rate"),
    "max_quotes_per_address": ("max_quotes", 0.75, "three quarters of --max-quotes"),
}
"""What one address may have where that is not said: part of what all may have, so that it is never all of it."""
_COUNT: Final = click.IntRange(1, _MOST)
_RATE: Final = _Number(0.001, _MAX_RATE)
_SECONDS: Final = _Number(1, _MAX_SECONDS)
_OPTIONS: Final[tuple[tuple[str, click.ParamType[Any], str, str], ...]] = (
    ("max_connections", _COUNT, "N", "Connections at once."),
    (
        "max_connections_per_address",
        _COUNT,
        "N",
        "Connections at once of one IPv4 address, one IPv6 /64, or one user of a unix socket.",
    ),
    ("handshake_rate", _RATE, "N", "New connections a second, after as many at once as there may be."),
    ("handshake_rate_per_address", _RATE, "N", "New connections a second of one address."),
    ("max_quotes", _COUNT, "N", "Peers that may wait for a quote; one more is told so at once."),
    ("max_quotes_per_address", _COUNT, "N", "Peers of one address that may wait for a quote."),
    (
        "max_request",
        click.IntRange(_LEAST_REQUEST, _MOST_REQUEST),
        "BYTES",
        "What a peer may send before its session begins.",
    ),
    ("idle_timeout", _SECONDS, "SECONDS", "End a session in which no byte moves for so long."),
    (
        "max_lifetime",
        _Number(0, _MAX_SECONDS),
        "SECONDS",
        "End a session after so long in any case; 0 lets it go on for ever.",
    ),
)


def limits_options(function: F) -> F:
    """Add the options of a service's limits; the function receives them as `limits`, a `ServiceLimits`."""

    @functools.wraps(function)
    def with_limits(*args: Any, **kwargs: Any) -> Any:
        return function(*args, limits=_take(kwargs), **kwargs)

    wrapped: Any = with_limits
    for name, kind, metavar, help_ in reversed(_OPTIONS):
        flag = "--" + name.replace("_", "-")
        share = _SHARES.get(name)
        wrapped = click.option(
            flag,
            name,
            type=kind,
            default=None if share else getattr(_USUAL, name),
            show_default=share[2] if share else True,
            metavar=metavar,
            help=help_,
        )(wrapped)
    return wrapped  # type: ignore[no-any-return]


def _take(kwargs: dict[str, Any]) -> ServiceLimits:
    given = {name: kwargs.pop(name) for name, *_ in _OPTIONS}
    for name, (whole, part, _) in _SHARES.items():
        if given[name] is None:
            given[name] = type(given[whole])(given[whole] * part) or 1
    return ServiceLimits(**{**given, "max_lifetime": given["max_lifetime"] or None})
