"""The evaluation floor as a file that any number of programs share."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from eaa.appraise.floor import EvaluationFloor, FloorKey
from eaa.program.files import locked, read_text_if_there, stamp_of, write_whole


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
            if self._read != stamp_of(self._path):
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
                self._floor, self._read = raised, stamp_of(self._path)

    def _reload(self) -> None:
        stamp = stamp_of(self._path)
        text = read_text_if_there(self._path, what="the evaluation-floor file")
        # What this program has seen stays seen, even where somebody removed the file meanwhile.
        if text is not None:
            self._floor = EvaluationFloor.parse(text).raised_by(self._floor.numbers)
        self._read = stamp
