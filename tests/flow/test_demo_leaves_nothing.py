"""However a demonstration ends, nothing of it is left: no process, no socket that listens, no file."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Final

import pytest

from support.traces import PATIENCE, Place

TITLES: Final = (
    "1. ",
    "2. ",
    "3. ",
    "4. ",
    "5. ",
    "6. ",
    "Attack 1:",
    "Attack 2:",
    "Attack 3:",
    "Attack 4:",
)
INTERRUPTED: Final = 130
TERMINATED: Final = 143
CODES: Final = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED, signal.SIGHUP: TERMINATED}

# Ctrl-C at every step; the other two signals are handled in the same place, and have the worst moments below as well.
INTERRUPTIONS: Final = [
    *((title, signal.SIGINT) for title in TITLES),
    ("2. ", signal.SIGTERM),
    ("3. ", signal.SIGHUP),
    ("4. ", signal.SIGTERM),
]
OFTEN: Final = {("1. ", signal.SIGINT), ("4. ", signal.SIGTERM), ("3. ", signal.SIGHUP), ("Attack 2:", signal.SIGINT)}
"""Those that `make test` tries as well."""

KILLED: Final = (
    ("1. ", ("eaa", "create")),
    ("1. ", ("eaa-pccs", "serve")),
    ("2. ", ("eaa-pccs", "upload")),
    ("3. ", ("shelter", "measure")),
    ("4. ", ("enclave-tls-server",)),
    ("5. ", ("shelter", "remoteattestation")),
    ("6. ", ("inclavared", "nullverifier")),
    ("Attack 4:", ("inclavared", "nullverifier")),
)
"""At which step, and which child dies: one that the demonstration needs."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def assert_nothing_left(place: Place) -> None:
    assert place.traces() == ({}, set(), [])


def test_a_demonstration_that_is_through_leaves_nothing(place: Place) -> None:
    """While it runs it is seen, so that the search would find what is left; and it survives whom it has done with."""
    with place.running("eaa", "demo") as stage:
        stage.wait_for_line("6. ")
        processes, listening, files = place.traces()
        commands = " ".join(processes.values())
        assert all(name in commands for name in ("eaa-pccs", "enclave-tls-server", "inclavared"))
        # The PCCS, the workload and the relay.
        assert len(listening) >= 3
        assert files
        _kill(stage.wait_for_child(("enclave-tls-server", "--port")))
        assert stage.finish() == 0, stage.said
        assert_nothing_left(place)


@pytest.mark.parametrize(
    ("title", "number"),
    [
        pytest.param(title, number, marks=() if (title, number) in OFTEN else pytest.mark.long)
        for title, number in INTERRUPTIONS
    ],
    ids=[f"{t.strip()} {n.name}" for t, n in INTERRUPTIONS],
)
def test_an_interrupted_demonstration_leaves_nothing(place: Place, title: str, number: signal.Signals) -> None:
    with place.running("eaa", "demo") as stage:
        stage.wait_for_line(title)
        stage.process.send_signal(number)
        # Impatience must not help: the second one comes while the first is being obeyed.
        stage.process.send_signal(number)
        assert stage.finish() == CODES[number], stage.said
        assert_nothing_left(place)


@pytest.mark.parametrize(
    ("title", "words"),
    [pytest.param(*kill, marks=pytest.mark.long if place % 2 else ()) for place, kill in enumerate(KILLED)],
    ids=[f"{title.strip()} {words[-1]}" for title, words in KILLED],
)
def test_a_demonstration_whose_child_is_killed_leaves_nothing(place: Place, title: str, words: tuple[str, ...]) -> None:
    with place.running("eaa", "demo") as stage:
        stage.wait_for_line(title)
        _kill(stage.wait_for_child(words))
        # Neither a signal's code nor a bug of ours: the demonstration itself says what went wrong.
        assert stage.finish() in (1, 4), stage.said
        assert_nothing_left(place)


def _kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)


def test_a_demonstration_nobody_reads_any_more_leaves_nothing(place: Place) -> None:
    """`eaa demo | head -1`"""
    with place.running("eaa", "demo") as stage:
        stage.wait_for_line("1. ")
        assert stage.process.stdout is not None
        stage.process.stdout.close()
        assert stage.process.wait(PATIENCE) != 0
        assert_nothing_left(place)


_IN_THE_MIDDLE_OF_A_START: Final = """
import os, signal, subprocess, sys
import eaa.demo.children as children

class Interrupted(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        # The child runs, and nobody but this line knows of it yet.
        os.kill(os.getpid(), signal.{number})

children.subprocess.Popen = Interrupted
from eaa.demo.cli import main
sys.argv = ["eaa", "demo"]
main()
"""
_IN_THE_MIDDLE_OF_THE_FOLDER: Final = """
import os, signal, sys, tempfile
make = tempfile.mkdtemp

def interrupted(*arguments, **options):
    made = make(*arguments, **options)
    os.kill(os.getpid(), signal.{number})
    return made

tempfile.mkdtemp = interrupted
from eaa.demo.cli import main
sys.argv = ["eaa", "demo"]
main()
"""


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("script", [_IN_THE_MIDDLE_OF_A_START, _IN_THE_MIDDLE_OF_THE_FOLDER], ids=["start", "folder"])
def test_a_signal_in_the_worst_moment_leaves_nothing(place: Place, script: str, number: signal.Signals) -> None:
    with place.running(sys.executable, "-c", script.format(number=number.name)) as stage:
        assert stage.finish() == CODES[number], stage.said
        assert_nothing_left(place)
