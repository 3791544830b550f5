"""How a program ends: the type of the error decides, the voice is always the same, a signal is told from a failure."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import click
import pytest

from eaa.aio.address import unavailable_from_os_error
from eaa.errors import (
    EAAError,
    MalformedInput,
    Misuse,
    PeerMisbehaved,
    Reason,
    Rejection,
    Unavailable,
    VerificationError,
)
from eaa.program.run import run, say

SCRIPT: Final = """
import signal, sys, time
import click
from eaa.program.run import run

@click.group()
def cli(): pass

@cli.command()
@click.option("--marker", type=click.Path())
def wait(marker):
    try:
        print("waiting", flush=True)
        time.sleep(60)
    finally:
        open(marker, "w").close()

@cli.command()
def talk():
    for _ in range(100_000):
        click.echo("x" * 100)

@cli.command()
def buffered():
    sys.stdout.write("x")

@cli.command()
@click.argument("number", type=int)
def count(number):
    click.echo(number)

run(cli, "prog")
"""


def ended(act: object, *arguments: str) -> int:
    """The exit code with which a command ends that does `act`."""

    @click.command()
    def command() -> object:
        if isinstance(act, BaseException):
            raise act
        return act

    with pytest.raises(SystemExit) as caught:
        run(command, "prog", list(arguments))
    code = caught.value.code
    assert isinstance(code, int)
    return code


@pytest.mark.parametrize("outcome", [None, 0, 1, 3])
def test_a_command_may_name_its_exit_code(outcome: int | None) -> None:
    assert ended(outcome) == (outcome or 0)


@pytest.mark.parametrize(
    ("kind", "code"),
    [(Rejection, 1), (Misuse, 2), (MalformedInput, 3), (VerificationError, 3), (PeerMisbehaved, 3), (Unavailable, 4)],
)
def test_an_error_is_said_in_two_lines_and_decides_the_exit_code(
    kind: type[EAAError], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(kind(Reason.INTERNAL, "the facts", hint="the next step")) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "prog: error: the facts [INTERNAL]\nprog: hint: the next step\n"


def test_an_error_without_a_next_step_has_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    ended(Misuse(Reason.USAGE, "the facts"))
    assert capsys.readouterr().err == "prog: error: the facts [USAGE]\n"


def test_our_bug_looks_like_our_bug(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(ZeroDivisionError("by zero")) == 70
    err = capsys.readouterr().err
    assert err.startswith("prog: error: ZeroDivisionError: by zero [INTERNAL]\nprog: hint: ")
    assert "Traceback" not in err
    monkeypatch.setenv("EAA_TRACEBACK", "1")
    assert ended(ZeroDivisionError("by zero")) == 70
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stop", "code"), [(KeyboardInterrupt(), 130), (click.Abort(), 130), (click.exceptions.Exit(5), 5)]
)
def test_being_stopped_needs_no_words(stop: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(stop) == code
    assert capsys.readouterr().err == ""


def test_wrong_usage_is_misuse_and_names_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(None, "--nonsense") == 2
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("prog: error: ")
    assert err[0].endswith(" [USAGE]")
    assert err[1] == "prog: hint: `prog --help` lists the options"


def test_help_is_a_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(None, "--help") == 0
    assert "--help" in capsys.readouterr().out


def test_the_handler_of_sigterm_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    ended(None)
    assert signal.getsignal(signal.SIGTERM) is before


# --- real processes


@pytest.fixture
def script(tmp_path: Path) -> list[str]:
    path = tmp_path / "prog.py"
    path.write_text(SCRIPT)
    return [sys.executable, str(path)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_program_after_its_clean_up(
    script: list[str], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    marker = tmp_path / "cleaned up"
    with subprocess.Popen(
        [*script, "wait", "--marker", str(marker)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, b"")
    assert marker.exists()


def test_an_answer_that_nobody_reads_is_no_success(script: list[str]) -> None:
    """0 would be an acceptance, and 1 a rejection, of which nobody has read a word."""
    with subprocess.Popen([*script, "talk"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_an_answer_that_is_lost_at_the_very_end_is_no_success_either(script: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with (
        os.fdopen(writer, "wb") as nobody,
        subprocess.Popen([*script, "buffered"], stdout=nobody, stderr=subprocess.PIPE) as process,
    ):
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_a_program_can_be_run_without_any_output(script: list[str]) -> None:
    finished = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *script, "count", "3"], check=False, timeout=60)
    assert finished.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["count", "x"], "prog count"), (["nonsense"], "prog"), (["count"], "prog count"), (["--nonsense"], "prog")],
)
def test_the_command_that_was_meant_is_named(script: list[str], arguments: list[str], named: str) -> None:
    finished = subprocess.run([*script, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.splitlines()[1] == f"prog: hint: `{named} --help` lists the options"


def test_no_command_at_all_gets_the_list_of_commands(script: list[str]) -> None:
    finished = subprocess.run(script, capture_output=True, text=True, check=False, timeout=60)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert "Commands:" in finished.stderr
    assert "error" not in finished.stderr


def test_a_shell_can_complete_the_commands(script: list[str]) -> None:
    finished = subprocess.run(
        script, capture_output=True, text=True, check=False, timeout=60, env={"_PROG_COMPLETE": "bash_source"}
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "complete" in finished.stdout


# --- words for the operating system's errors


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EADDRINUSE, Reason.ADDRESS_IN_USE),
        (errno.EACCES, Reason.PERMISSION_DENIED),
        (errno.EPERM, Reason.PERMISSION_DENIED),
        (errno.EROFS, Reason.PERMISSION_DENIED),
        (errno.ECONNREFUSED, Reason.CONNECTION_FAILED),
        (errno.ENETUNREACH, Reason.CONNECTION_FAILED),
    ],
)
def test_an_error_of_the_system_becomes_one_of_ours(number: int, reason: Reason) -> None:
    error = unavailable_from_os_error(OSError(number, "what it says"), doing="listening on tcp://x:1")
    assert isinstance(error, Unavailable)
    assert error.reason is reason
    assert error.message.startswith("listening on tcp://x:1: ")
    assert error.hint


def test_an_error_without_a_number_keeps_its_words() -> None:
    assert "odd" in unavailable_from_os_error(OSError("odd"), doing="reading").message


def test_programs_speak_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("shelter", "so", kind="note", hint="this way")
    assert capsys.readouterr() == ("", "shelter: note: so\nshelter: hint: this way\n")


# --- where nobody can be told


@pytest.mark.parametrize("arguments", [("talk",), ("buffered",), ("count", "7"), ("--help",)])
def test_an_answer_for_which_there_is_no_room_is_no_bug_and_no_success(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
        assert done.returncode == 4
        assert done.stderr.startswith(
            "prog: error: the answer cannot be written: No space left on device [OUTPUT_FAILED]"
        )
        mute = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], stdout=full, stderr=full, check=False)
    assert mute.returncode == 4


def test_an_error_that_cannot_be_said_still_has_its_exit_code() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", SCRIPT, "count", "x"], stderr=full, check=False)
    assert done.returncode == 2
