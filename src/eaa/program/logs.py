"""Logs: one line an event on stderr, reason codes and measurements, never keys, tokens, payloads or raw quotes.

There are two forms: lines for people, and one JSON object a line for machines (`--log-format json`). What peers say
gets into messages, a workload's name for instance, so control characters are escaped in both: a line is a line.

Who logs names what a machine may want to know as `extra`, by the names of FIELDS:

    logger.info("%s: relaying", peer, extra={"event": "session.opened", "workload": name})
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import click

from eaa.errors import EAAError, Reason

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
FORMATS: Final = ("text", "json")
MAX_TEXT: Final = 4096
"""Characters of one message or field; what is longer is cut."""
MAX_FRAMES: Final = 12
"""Lines of our code that are named where a bug is logged, the innermost ones."""

ALWAYS: Final = {
    "time": "when, RFC 3339, UTC, to the millisecond",
    "level": "debug, info, warning, error or critical",
    "program": "who says it",
    "pid": "in which process",
    "event": "what happened, a stable name of ours; where there is none, the part of the program that says it",
    "message": "the same for people",
}
"""Fields of every record, and their meaning."""
FIELDS: Final = {
    "reason": "the reason code, where something failed or was refused",
    "hint": "what to do next",
    "connection": "the number of the connection that this is about, counted from 1 in each process",
    "peer": "its other end: address and port, or the process of a unix peer",
    "workload": "the name of a workload",
    "relay_level": "the binding level at which a relay's evidence was shown",
    "client_level": "the binding level that a client's evidence reached, none where it was not judged",
    "workload_level": "the binding level that a workload's evidence reached, none where it was not judged",
    "channel_level": "the binding level at which a relay's evidence was shown to the workload",
    "bytes_from_client": "application bytes that a session carried from the client",
    "bytes_to_client": "and to it",
    "seconds": "how long something took",
    "limit": "the limit that a peer was refused by",
    "origin": "the address, network or user that a limit counted",
    "count": "how many there were since the last such record",
    "addresses": "where the service listens",
    "workers": "how many processes serve",
    "worker": "which of them this is about",
    "status": "the status of an HTTP answer",
    "route": "the kind of an HTTP request",
    "document": "a kind of document",
    "exception": "a bug of ours: its type, text and the innermost lines, on one line",
}
"""Further fields, there where they mean something, and their meaning."""

EVENTS: Final = {
    "service.listening": "it serves, at `addresses`",
    "service.limited": "the system allows less than its limits promise",
    "service.draining": "it was told to stop, accepts no more, and lets sessions finish",
    "service.reloaded": "a new configuration is in use",
    "service.reload_failed": "a new configuration was refused, and the one before goes on",
    "program.failed": "it ends, for `reason`",
    "worker.ended": "one of several processes has ended, and another takes its place",
    "connection.failed": "a connection has ended otherwise than it should, for `reason`",
    "connections.refused": "a `limit` keeps peers out; `count` of them since the last such record",
    "accept.failed": "the system has nothing left to accept connections with",
    "accept.resumed": "it has again",
    "session.opened": "application bytes may flow; the levels reached on each hop",
    "session.ended": "and what has flown, with `reason` where it did not end well",
    "session.bad_verdict": "evidence behind a live session is not accepted any more",
    "workload.available": "channels to a workload can be opened again",
    "workload.unavailable": "no channel to a workload can be opened",
    "evidence.renewed": "a certificate or an epoch was renewed after failures",
    "evidence.renewal_failed": "it could not be",
    "collateral.fetched": "the documents of a platform model are here",
    "collateral.fetch_failed": "they could not be had",
    "collateral.used_on": "those that are kept serve past their hour, because nobody answers who could renew them",
    "pccs.refused": "a request did not get what it asks for: its `route`, the `status`, the cause",
    "pccs.database_failed": "the database did not answer",
    "pccs.not_refreshed": "a document could not be fetched anew, and the one that is stored goes on",
    "pccs.certificate_made": "a TLS certificate of our own was made or renewed",
    "pccs.certificate_replaced": "a new TLS certificate is served",
    "pccs.certificate_kept": "a new TLS certificate could not be used, and the one before goes on, for `reason`",
}
"""Events by name. A record that is none of them names the part of the program that says it."""

_format = FORMATS[0]
"""How this process speaks: one for all of it, like the stream it speaks on."""


def set_up_logging(program: str, level: str) -> None:
    """Send the package's log lines to stderr, in the form that `--log-format` has chosen."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JSON(program) if speaks_json() else _Text(program))
    logger = logging.getLogger("eaa")
    logger.handlers[:] = [handler]
    logger.setLevel(LEVELS[level])
    logger.propagate = False


def speaks_json() -> bool:
    """Whether whatever is said on stderr has to be a JSON object."""
    return _format == "json"


def record_of(program: str, level: str, message: str, **fields: object) -> str:
    """Return one record as a line of JSON; fields are of FIELDS, or `event`."""
    return _line(program, level, datetime.now(UTC), str(fields.pop("event", None) or "program"), message, fields)


def escaped(text: str) -> str:
    """Return a text with nothing in it that a terminal, or a reader of lines, would act upon."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class _Text(logging.Formatter):
    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        said = _cut(record.getMessage())
        if bug := _exception_of(record):
            said = f"{said}: {bug}"
        return f"{self._program}: {record.levelname.lower()}: {escaped(said)}"


class _JSON(logging.Formatter):
    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        fields = {**_known(), **{name: vars(record)[name] for name in FIELDS if name in vars(record)}}
        fields.setdefault("reason", _reason_of(record))
        fields.setdefault("exception", _exception_of(record))
        event = getattr(record, "event", None) or record.name.removeprefix("eaa.")
        return _line(self._program, record.levelname.lower(), moment, event, record.getMessage(), fields)


def _known() -> Mapping[str, object]:
    """Return what is known of the connection that this is about. Who has no event loop has none, and loads none."""
    context = sys.modules.get("eaa.aio.context")
    return {} if context is None else context.known()


def _line(program: str, level: str, moment: datetime, event: str, message: str, fields: Mapping[str, object]) -> str:
    always = {
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": level,
        "program": program,
        "pid": os.getpid(),
        "event": event,
        "message": escaped(_cut(message)),
    }
    further = {name: _plain(value) for name, value in fields.items() if name in FIELDS and value is not None}
    # JSON escapes what is not ASCII, line separators of Unicode included.
    return json.dumps({**always, **further})


def _plain(value: object) -> object:
    match value:
        case bool() | int() | float():
            return value
        case list() | tuple() | set() | frozenset():
            return [_plain(each) for each in value]
    return escaped(_cut(str(value)))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"


def _reason_of(record: logging.LogRecord) -> Reason | None:
    """Return the reason code among what a message is made of: most messages end in one."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    for argument in reversed(arguments):
        if isinstance(argument, Reason):
            return argument
        if isinstance(argument, EAAError):
            return argument.reason
    return None


def _exception_of(record: logging.LogRecord) -> str | None:
    """Return an exception on one line: what it is, and where, innermost last."""
    if not record.exc_info or record.exc_info[1] is None:
        return None
    error, trace = record.exc_info[1], record.exc_info[2]
    return f"{type(error).__name__}: {error} ({_places_of(trace)})"


def _places_of(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)[-MAX_FRAMES:]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))


def log_level_option(default: str, *names: str) -> Callable[[F], F]:
    """Return the options `--log-level`, with its default, and `--log-format`, of which `set_up_logging` knows."""

    def decorate(function: F) -> F:
        with_format = click.option(
            "--log-format",
            type=click.Choice(FORMATS, case_sensitive=False),
            default=FORMATS[0],
            show_default=True,
            expose_value=False,
            callback=_choose_format,
            help="How it is said: lines for people, or one JSON object a line.",
        )(function)
        return click.option(
            *(names or ("--log-level",)),
            "log_level",
            type=click.Choice(list(LEVELS), case_sensitive=False),
            default=default,
            show_default=True,
            help="How much is said on stderr.",
        )(with_format)

    return decorate


def _choose_format(_context: click.Context, _parameter: click.Parameter, value: str) -> None:
    global _format  # noqa: PLW0603  stderr is the process's, and so is how it speaks there
    _format = value
