"""Child processes of the demonstration: started as an operator would, and never left behind."""

from __future__ import annotations

import contextlib
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
from typing import Final, NoReturn

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


@contextlib.contextmanager
def workplace() -> Iterator[tuple[Path, Children]]:
    """Yield a temporary folder and its processes. Afterwards neither is there any more, whatever happened."""
    folder = Path(tempfile.mkdtemp(prefix="eaa-demo-"))
    children = Children(folder)
    previous = signal.signal(signal.SIGHUP, lambda *_: _terminate())
    try:
        yield folder, children
    finally:
        # A second Ctrl-C must not end the clean-up half way.
        ignored = {number: signal.signal(number, signal.SIG_IGN) for number in _STOPPING}
        children.stop_all()
        shutil.rmtree(folder, ignore_errors=True)
        for number, handler in ignored.items():
            signal.signal(number, handler)
        signal.signal(signal.SIGHUP, previous)


def _terminate() -> NoReturn:
    raise Terminated


class Children:
    """All service processes of one demonstration, in its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._services: list[Service] = []

    def stop_all(self) -> None:
        """End every service: all are asked first, so that they end side by side."""
        for service in self._services:
            service.ask_to_stop()
        for service in self._services:
            service.stop()
        self._services.clear()

    def start(self, command: list[str]) -> Service:
        """Start a service."""
        service = Service(command, self._folder)
        self._services.append(service)
        return service


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return its exit code and output, stderr after stdout."""
    process = subprocess.Popen(  # noqa: S603  our own programs
        _resolved(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=COMMAND_TIMEOUT)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def _resolved(command: list[str]) -> list[str]:
    """Take our programs from beside this interpreter: the demonstration runs what it was installed with."""
    program, *arguments = command
    if program in PROGRAMS:
        program = str(Path(sys.executable).parent / program)
    return [program, *arguments]
