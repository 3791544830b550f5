"""Logs: one line an event on stderr, reason codes and measurements, never keys, tokens, payloads or raw quotes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

LEVELS: Final = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "off": logging.CRITICAL + 1,
}
"""The reference programs' level names."""


def set_up_logging(program: str, level: str) -> None:
    """Send the package's log lines to stderr as `program: level: message`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(program))
    logger = logging.getLogger("eaa")
    logger.handlers[:] = [handler]
    logger.setLevel(LEVELS[level])
    logger.propagate = False


class _Formatter(logging.Formatter):
    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        return f"{self._program}: {record.levelname.lower()}: {record.getMessage()}"


def log_level_option(default: str, *names: str) -> Callable[[F], F]:
    """Return the option `--log-level` with its default."""
    return click.option(
        *(names or ("--log-level",)),
        "log_level",
        type=click.Choice(list(LEVELS), case_sensitive=False),
        default=default,
        show_default=True,
        help="How much is said on stderr.",
    )
