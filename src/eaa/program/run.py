"""How every program starts, fails and ends: one place for exit codes and voices."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from typing import NoReturn, TextIO

import click

from eaa.errors import EAAError, Misuse, Reason, Unavailable
from eaa.program import logs

EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM
EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE
_CANNOT_WRITE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What writing an answer into a file may fail with; files that we write for others have errors of their own."""


_LEVELS = {"summary": "info", "hint": "info"}
"""Levels of what is said under other names."""


class Terminated(BaseException):
    """SIGTERM arrived; raised in the main thread so that clean-up runs."""


def say(program: str, message: str, *, kind: str = "error", hint: str | None = None, **fields: object) -> None:
    """Speak on stderr as `program: kind: message`, with the hint on a line of its own; or in one JSON object.

    Both are one line each, whatever a peer, or a file, has put into them.
    """
    try:
        if logs.speaks_json():
            click.echo(logs.record_of(program, _LEVELS.get(kind, kind), message, hint=hint, **fields), err=True)
            return
        message, hint = logs.escaped(message), hint and logs.escaped(hint)
        click.echo(f"{program}: {kind}: {message}", err=True)
        if hint:
            click.echo(f"{program}: hint: {hint}", err=True)
    except OSError as error:
        # Nobody can be told that nobody can be told; the exit code still says how it ended. But a disk that is full may
        # have room again.
        if error.errno not in _CANNOT_WRITE:
            _silence(sys.stderr)


def run(command: click.Command, name: str, arguments: list[str] | None = None) -> NoReturn:
    """Run a command line and exit with the code of design section 6: the exception's type decides."""
    previous = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        code = _run(command, name, arguments)
    finally:
        signal.signal(signal.SIGTERM, previous)
    _flush_and_exit(name, code)


def _run(command: click.Command, name: str, arguments: list[str] | None) -> int:
    try:
        outcome = _invoke(command, name, arguments)
    except BaseException as error:  # noqa: BLE001  the last resort: every end of a program has its exit code
        return _exit_code(name, error)
    return outcome if isinstance(outcome, int) else 0


def _invoke(command: click.Command, name: str, arguments: list[str] | None) -> object:
    """Do what click's own `main` does, which would make exit code 1 of a broken pipe: our "rejected"."""
    if f"_{name}_complete".replace("-", "_").upper() in os.environ:
        return command.main(args=arguments, prog_name=name, standalone_mode=False)
    with command.make_context(name, list(sys.argv[1:] if arguments is None else arguments)) as context:
        return command.invoke(context)


def _exit_code(name: str, error: BaseException) -> int:
    """Say what has to be said about how a command ended, and return its exit code."""
    match error:
        case click.exceptions.Exit():
            code = error.exit_code
        case KeyboardInterrupt() | click.Abort():
            code = EXIT_INTERRUPTED
        case Terminated():
            code = EXIT_TERMINATED
        case click.ClickException():
            code = _report_usage(name, error)
        case EAAError():
            say(name, f"{error.message} [{error.reason}]", hint=error.hint, reason=error.reason, event="program.failed")
            code = error.exit_code
        case BrokenPipeError():
            # The reader of our answer went away (`shelter … | head`). An answer that nobody got is never a success.
            _silence(sys.stdout)
            code = EXIT_BROKEN_PIPE
        case OSError() if error.errno in _CANNOT_WRITE:
            code = _report_full(name, error)
        case SystemExit() | GeneratorExit():
            raise error
        case _:
            code = _report_bug(name, error)
    return code


def _report_usage(name: str, error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return Misuse.exit_code
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else name
    # Where it offers a choice it writes a list, over several lines.
    message = " ".join(error.format_message().split()).rstrip(".")
    say(
        name,
        f"{message} [{Reason.USAGE}]",
        hint=f"`{path} --help` lists the options",
        reason=Reason.USAGE,
        event="program.failed",
    )
    return Misuse.exit_code


def _report_bug(name: str, error: BaseException) -> int:
    say(
        name,
        f"{type(error).__name__}: {error} [{Reason.INTERNAL}]",
        hint="this is a bug of ours; run again with EAA_TRACEBACK=1 and report what it prints",
        reason=Reason.INTERNAL,
        event="program.failed",
    )
    if os.environ.get("EAA_TRACEBACK") == "1":
        traceback.print_exception(error)
    return EXIT_INTERNAL


def _raise_terminated(_signal: int, _frame: object) -> None:
    raise Terminated


def _flush_and_exit(name: str, code: int) -> NoReturn:
    try:
        # There is none where the caller closed it (`shelter … >&-`).
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout)
        code = EXIT_BROKEN_PIPE
    except OSError as error:
        code = _report_full(name, error)
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:
        _silence(sys.stderr)
    sys.exit(code)


def _report_full(name: str, error: OSError) -> int:
    """Say that the answer could not be written: like one that nobody read, it is no success."""
    _silence(sys.stdout)
    say(
        name,
        f"the answer cannot be written: {error.strerror} [{Reason.OUTPUT_FAILED}]",
        hint="make room where standard output goes to",
        reason=Reason.OUTPUT_FAILED,
        event="program.failed",
    )
    return Unavailable.exit_code


def _silence(stream: TextIO | None) -> None:
    """Let what is still to be written to a broken stream go nowhere, or Python would fail on it when it ends."""
    if stream is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
