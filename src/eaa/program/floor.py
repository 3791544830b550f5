"""The evaluation floor as a file that any number of programs share."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from eaa.appraise.floor import EvaluationFloor, FloorKey
from eaa.program.files import locked, read_text_if_there, write_whole


class FloorFile:
    """Keeps a floor in a file. Threads and processes may share it; it is read again whenever another one wrote it."""

    def __init__(self, path: Path) -> None:
        """Read the file, which need not be there yet. Raises Misuse."""
        self._path = path
        self._guard = threading.Lock()
        self._floor = EvaluationFloor()
        self._read: tuple[int, ...] | None = None
        self._reload()

    def raise_to(self, numbers: Mapping[FloorKey, int]) -> EvaluationFloor:
        """Return the floor after these numbers were seen; it is in the file when this returns.

        Raises:
            Misuse: the file can no longer be read.
            Unavailable: it cannot be written, or somebody holds its lock.
        """
        with self._guard:
            if self._read != self._stamp():
                self._reload()
            if self._floor.raised_by(numbers) is not self._floor:
                self._raise(numbers)
            return self._floor

    def _raise(self, numbers: Mapping[FloorKey, int]) -> None:
        with locked(self._path):
            self._reload()
            raised = self._floor.raised_by(numbers)
            if raised is not self._floor:
                write_whole(self._path, raised.encode().encode())
                self._floor, self._read = raised, self._stamp()

    def _reload(self) -> None:
        stamp = self._stamp()
        text = read_text_if_there(self._path, what="the evaluation-floor file")
        # What this program has seen stays seen, even where somebody removed the file meanwhile.
        if text is not None:
            self._floor = EvaluationFloor.parse(text).raised_by(self._floor.numbers)
        self._read = stamp

    def _stamp(self) -> tuple[int, ...] | None:
        """Return what tells one state of the file from another; it is replaced whole, so that its inode changes."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size
