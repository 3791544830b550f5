"""How every program starts, fails and ends: one place for exit codes and voices."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from typing import NoReturn

import click

from eaa.errors import EAAError, Misuse, Reason, Unavailable

EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM


class Terminated(BaseException):
    """SIGTERM arrived; raised in the main thread so that clean-up runs."""


def say(program: str, message: str, *, kind: str = "error", hint: str | None = None) -> None:
    """Speak on stderr as `program: kind: message`, with the hint on a line of its own."""
    click.echo(f"{program}: {kind}: {message}", err=True)
    if hint:
        click.echo(f"{program}: hint: {hint}", err=True)


def run(command: click.Command, name: str, arguments: list[str] | None = None) -> NoReturn:
    """Run a command line and exit with the code of design section 6: the exception's type decides."""
    previous = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        code = _run(command, name, arguments)
    finally:
        signal.signal(signal.SIGTERM, previous)
    _flush_and_exit(code)


def _run(command: click.Command, name: str, arguments: list[str] | None) -> int:
    try:
        outcome = command.main(args=arguments, prog_name=name, standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        return _report_usage(name, error)
    except EAAError as error:
        say(name, f"{error.message} [{error.reason}]", hint=error.hint)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except Terminated:
        return EXIT_TERMINATED
    except BrokenPipeError:
        # The reader of our answer went away (`shelter … | head`); there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001  the last resort: our bug must look like our bug
        return _report_bug(name, error)
    return outcome if isinstance(outcome, int) else 0


def _report_usage(name: str, error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else name
    say(name, f"{error.format_message().rstrip('.')} [{Reason.USAGE}]", hint=f"`{path} --help` lists the options")
    return Misuse.exit_code


def _report_bug(name: str, error: Exception) -> int:
    say(
        name,
        f"{type(error).__name__}: {error} [{Reason.INTERNAL}]",
        hint="this is a bug of ours; run again with EAA_TRACEBACK=1 and report what it prints",
    )
    if os.environ.get("EAA_TRACEBACK") == "1":
        traceback.print_exception(error)
    return EXIT_INTERNAL


def _raise_terminated(_signal: int, _frame: object) -> None:
    raise Terminated


def _flush_and_exit(code: int) -> NoReturn:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def unavailable_from_os_error(error: OSError, *, doing: str) -> EAAError:
    """Translate what the operating system said into our tree; `doing` starts the sentence."""
    detail = error.strerror or str(error)
    if error.errno == errno.EADDRINUSE:
        return Unavailable(
            Reason.ADDRESS_IN_USE,
            f"{doing}: the address is in use",
            hint="stop what listens there (`ss -ltnp` names it), or choose another address",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return Unavailable(
            Reason.PERMISSION_DENIED,
            f"{doing}: permission denied",
            hint="ports below 1024 and other users' folders need rights; choose another or grant them",
        )
    return Unavailable(Reason.CONNECTION_FAILED, f"{doing}: {detail}", hint="check the address and what runs there")
