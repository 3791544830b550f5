"""What a program leaves on a machine: processes, sockets that listen, and files, found by a mark in its environment."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from support.system import BIN

PATIENCE = 180.0
"""Seconds to wait for what must happen soon, on a busy machine."""
_PROC = Path("/proc")
_LISTEN = "0A"
_ACCEPTING = 0x10000


@dataclass(frozen=True, slots=True)
class Place:
    """A machine of its own, as far as a program can tell: its temporary files and its home lie in one folder."""

    folder: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        for name in ("tmp", "home", "cwd"):
            (self.folder / name).mkdir()

    @property
    def environment(self) -> dict[str, str]:
        """For programs that are started here; their children inherit it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("EAA_", "XDG_"))}
        ours = {"EAA_TEST_MARK": self.mark, "TMPDIR": str(self.folder / "tmp"), "HOME": str(self.folder / "home")}
        return {**kept, **ours, "PYTHONUNBUFFERED": "1"}

    def processes(self) -> dict[int, str]:
        """Return the command lines of all processes that carry the mark, by process id."""
        found = {}
        for folder in _PROC.iterdir():
            with suppress(OSError, ValueError):
                if f"EAA_TEST_MARK={self.mark}".encode() in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def listening(self) -> set[str]:
        """Return the listening sockets of those processes, TCP and unix."""
        inodes = {inode for process in self.processes() for inode in _socket_inodes(process)}
        return _listening_tcp(inodes) | _listening_unix(inodes)

    def files(self) -> list[Path]:
        """Return everything that lies in the folder beside what was there at the beginning."""
        return sorted(path for path in self.folder.rglob("*") if path.parent != self.folder)

    def traces(self) -> tuple[dict[int, str], set[str], list[Path]]:
        """Return processes, sockets and files."""
        return self.processes(), self.listening(), self.files()

    def _start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
            cwd=self.folder / "cwd",
        )

    @contextmanager
    def running(self, *command: str) -> Iterator[Stage]:
        """Start one of our programs here; whatever is left of it is ended after the block."""
        # A test run in the background ignores SIGINT, and what is ignored is inherited.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            process = self._start(command)
        finally:
            signal.signal(signal.SIGINT, before)
        try:
            yield Stage(place=self, process=process)
        finally:
            for left in (process.pid, *self.processes()):
                with suppress(ProcessLookupError):
                    os.kill(left, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@dataclass(slots=True, kw_only=True)
class Stage:
    """A running program and what it has said so far, stdout and stderr together."""

    place: Place
    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    def wait_for_line(self, start: str) -> str:
        """Read on until a line that begins so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if line.startswith(start):
                return line
        raise AssertionError(f"it ended without saying {start!r}: {''.join(self.said)}")

    def wait_for_child(self, words: Sequence[str]) -> int:
        """Return the process id of a child whose command line has all of these words, once there is one."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for process, command in self.place.processes().items():
                named = {word.rpartition("/")[2] for word in command.split()}
                if process != self.process.pid and set(words) <= named:
                    return process
            assert self.process.poll() is None, self.said
            time.sleep(0.005)
        raise AssertionError(f"no child of {words}: {self.place.processes()}")

    def finish(self) -> int:
        """Read to the end, and return the exit code."""
        assert self.process.stdout is not None
        self.said += list(self.process.stdout)
        return self.process.wait(PATIENCE)


def _socket_inodes(process: int) -> Iterator[str]:
    with suppress(OSError):
        for descriptor in (_PROC / str(process) / "fd").iterdir():
            with suppress(OSError):
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    yield target.removeprefix("socket:[").rstrip("]")


def _listening_tcp(inodes: set[str]) -> set[str]:
    found = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                _, local, _, state, *rest = line.split()
                if state == _LISTEN and rest[5] in inodes:
                    found.add(f"{table} {local}")
    return found


def _listening_unix(inodes: set[str]) -> set[str]:
    found = set()
    for line in (_PROC / "net" / "unix").read_text().splitlines()[1:]:
        _, _, _, flags, _, _, inode, *path = line.split()
        if int(flags, 16) & _ACCEPTING and inode in inodes:
            found.add(f"unix {' '.join(path)}")
    return found
