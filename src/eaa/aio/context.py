"""What is known of the connection that a task serves: whose it is, for its log lines, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final, Protocol


class Beginner(Protocol):
    """A connection whose peer has not finished its handshake."""

    has_left: bool
    """Whether it was given up for another one."""

    def leave(self) -> None:
        """Note that it has."""


_BEGINNER: Final[ContextVar[Beginner | None]] = ContextVar("beginner", default=None)
_NOTHING: Final[Mapping[str, object]] = {}
_KNOWN: Final[ContextVar[Mapping[str, object]]] = ContextVar("known", default=_NOTHING)


def note(**fields: object) -> None:
    """Add fields to every line that this task, and the tasks it starts from now on, log. Names as in `logs.FIELDS`."""
    _KNOWN.set({**_KNOWN.get(), **fields})


def known() -> Mapping[str, object]:
    """Return what was noted."""
    return _KNOWN.get()


def serve_beginner(beginner: Beginner) -> None:
    """Note whose handshake this task waits for."""
    _BEGINNER.set(beginner)


def handshake_is_over() -> None:
    """Note that the peer that this task serves has finished its handshake, if it serves one."""
    if (beginner := _BEGINNER.get()) is not None:
        beginner.leave()


def was_given_up() -> bool:
    """Tell whether the connection that this task serves was ended to make room for another one."""
    beginner = _BEGINNER.get()
    return beginner is not None and beginner.has_left


def forget_frames(error: BaseException | None) -> None:
    """Let go of where an error came from, once it was told.

    A stream keeps what has ended it, and that the frames it went through, and these the stream: it would all wait for
    the garbage collector, which comes seldom, and finds hundreds of TLS connections then.
    """
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
