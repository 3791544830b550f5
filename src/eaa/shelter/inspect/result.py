"""What is told of one file, and the small words that several formats share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from eaa.errors import EAAError

Facts = dict[str, Any]
"""What a file says, as JSON has it: texts, numbers, true, false, null, lists, and objects in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """One file, explained. Nothing in it was judged."""

    format: str
    """Stable, lower case with hyphens."""
    facts: Facts = field(default_factory=dict)
    problem: EAAError | None = None
    """Why not all of it could be read; the facts are then those in front of that place."""


Inspector = Callable[[bytes], Inspection | None]
"""Explains what is of its family, and returns None for everything else."""


def moment(when: datetime) -> str:
    """Return a time as every answer of ours spells it."""
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def printable(value: Any) -> Any:
    """Return the facts with every character escaped that a terminal would act upon: files are written by strangers."""
    match value:
        case str():
            return "".join(char if char.isprintable() else _escaped(char) for char in value)
        case dict():
            return {printable(name): printable(item) for name, item in value.items()}
        case list() | tuple():
            return [printable(item) for item in value]
    return value


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
