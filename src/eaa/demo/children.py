"""Child processes of the demonstration: started as an operator would, and never left behind."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from eaa.demo.script import PROGRAMS
from eaa.errors import Reason, Unavailable
from eaa.program.run import Terminated

READY_TIMEOUT: Final = 20.0
"""Seconds in which a service has to announce itself, on a slow and busy machine."""
COMMAND_TIMEOUT: Final = 60.0
STOP_TIMEOUT: Final = 3.0
_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ANNOUNCED = re.compile(r"listening on (\S+)")


class Service:
    """One service process, its stderr read to the end so that it never blocks on it."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.name = command[0]
        # A session of its own: Ctrl-C reaches the demonstration, which then stops its children in order.
        self._process = subprocess.Popen(  # noqa: S603  our own programs
            _resolved(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_until_ready(self) -> str:
        """Return the address the service announces. Raises Unavailable when it ends or stalls instead."""
        while True:
            try:
                line = self._lines.get(timeout=READY_TIMEOUT)
            except queue.Empty:
                line = None
            if line is None:
                raise Unavailable(
                    Reason.CONNECTION_FAILED,
                    f"{self.name} did not start: {' / '.join(self._said[-3:]) or 'it said nothing'}",
                    hint="run the command by hand (`eaa demo --print-commands`) to see what is wrong",
                )
            if found := _ANNOUNCED.search(line):
                return found[1].rstrip(",/")

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Wait for the end, and enforce it."""
        self.ask_to_stop()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(STOP_TIMEOUT)
        if self._process.stderr:
            self._process.stderr.close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line.rstrip())
            del self._said[:-20]
            self._lines.put(line)
        self._lines.put(None)


class Interruptions:
    """SIGINT, SIGTERM and SIGHUP of the demonstration: each may end it, and none may tear what it does in one piece.

    Outside `held` the first signal raises at once, inside it when the block is over. After that, and during clean-up,
    signals are ignored: a second Ctrl-C must not leave half of everything behind.
    """

    def __init__(self) -> None:
        self._holding = False
        self._over = False
        self._arrived: int | None = None
        self._previous: dict[int, Any] = {}

    def take_over(self) -> None:
        """Handle the signals from now on; one that is ignored (`nohup`) stays ignored."""
        for number in _STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._arrive)

    def ignore(self) -> None:
        """Raise no more."""
        self._over = True

    def give_back(self) -> None:
        """Leave the signals to whoever had them before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let a block come to its end before a signal does anything."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._arrived is not None:
            self._raise(self._arrived)

    def _arrive(self, number: int, _frame: object) -> None:
        if self._holding:
            self._arrived = self._arrived or number
        else:
            self._raise(number)

    def _raise(self, number: int) -> None:
        if self._over:
            return
        self._over = True
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated


@contextlib.contextmanager
def workplace() -> Iterator[Children]:
    """Yield what runs processes in a temporary folder. Afterwards nothing of it is left, whatever happened."""
    interruptions = Interruptions()
    interruptions.take_over()
    children = Children(interruptions)
    try:
        children.move_in()
        yield children
    finally:
        interruptions.ignore()
        children.stop_all()
        interruptions.give_back()


class Children:
    """All processes of one demonstration, and the folder they work in."""

    def __init__(self, interruptions: Interruptions) -> None:
        self._interruptions = interruptions
        self._folder: Path | None = None
        self._services: list[Service] = []
        self._command: subprocess.Popen[str] | None = None

    def move_in(self) -> None:
        """Make the folder."""
        with self._interruptions.held():
            self._folder = Path(tempfile.mkdtemp(prefix="eaa-demo-"))

    def stop_all(self) -> None:
        """End every process, and remove the folder: services are all asked first, so that they end side by side."""
        if self._command is not None:
            _kill_session(self._command)
        for service in self._services:
            service.ask_to_stop()
        for service in self._services:
            service.stop()
        self._services.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def start(self, command: list[str]) -> Service:
        """Start a service."""
        assert self._folder is not None
        with self._interruptions.held():
            service = Service(command, self._folder)
            self._services.append(service)
        return service

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and return its exit code and output, stderr after stdout."""
        with self._interruptions.held():
            process = self._command = subprocess.Popen(  # noqa: S603  our own programs
                _resolved(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=self._folder,
                start_new_session=True,
            )
        try:
            stdout, stderr = process.communicate(timeout=COMMAND_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise Unavailable(
                Reason.CONNECTION_FAILED,
                f"{command[0]} did not end within {COMMAND_TIMEOUT:g} seconds",
                hint="this machine may be overloaded; try again, or by hand (`eaa demo --print-commands`)",
            ) from error
        self._command = None
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def _kill_session(process: subprocess.Popen[str]) -> None:
    """End a command that is still running, and what it has started: the token is made by a pipeline of a shell."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _resolved(command: list[str]) -> list[str]:
    """Take our programs from beside this interpreter: the demonstration runs what it was installed with."""
    program, *arguments = command
    if program in PROGRAMS:
        program = str(Path(sys.executable).parent / program)
    return [program, *arguments]
