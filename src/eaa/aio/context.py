"""What is known of the connection that a task serves, for its log lines: each of them says whose it is."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final

_NOTHING: Final[Mapping[str, object]] = {}
_KNOWN: Final[ContextVar[Mapping[str, object]]] = ContextVar("known", default=_NOTHING)


def note(**fields: object) -> None:
    """Add fields to every line that this task, and the tasks it starts from now on, log. Names as in `logs.FIELDS`."""
    _KNOWN.set({**_KNOWN.get(), **fields})


def known() -> Mapping[str, object]:
    """Return what was noted."""
    return _KNOWN.get()
