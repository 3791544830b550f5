"""Pins of platforms as a file that any number of programs share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from eaa.appraise.platforms import MAX_PINS, Pin, PinKey, PlatformPins
from eaa.errors import Reason, Unavailable
from eaa.program.files import locked, read_text_if_there, stamp_of, write_whole


class PinFile:
    """Keeps pins in a file. Threads and processes may share it; it is read again whenever another one wrote it."""

    def __init__(self, path: Path, *, warn: Callable[[str], None]) -> None:
        """Read the file, which need not be there yet.

        Args:
            path: of the file.
            warn: is told of each machine that was trusted because it was the first, in one sentence.

        Raises:
            Misuse: the file cannot be read.
        """
        self._path = path
        self._warn = warn
        self._guard = threading.Lock()
        self._pins = PlatformPins()
        self._read: tuple[int, ...] | None = None
        self._reload()

    def read(self) -> PlatformPins:
        """Return the pins as they are now. Raises Misuse where the file can no longer be read."""
        with self._guard:
            if self._read != stamp_of(self._path):
                self._reload()
            return self._pins

    def pin(self, key: PinKey, pin: Pin) -> PlatformPins:
        """Keep this pin unless there is one for that key by now; what is returned is in the file.

        Raises:
            Misuse: the file can no longer be read.
            Unavailable: it cannot be written, it is full, or somebody holds its lock.
        """
        with self._guard, locked(self._path):
            self._reload()
            pinned = self._pins.with_first(key, pin)
            if pinned is not self._pins:
                self._write(pinned)
                self._warn(
                    f"the reference value {key[2]} (role {key[1]}) was seen for the first time, on the machine "
                    f"{' '.join(map(str, pin.ids))}; it is trusted there from now on, and nowhere else"
                )
            return self._pins

    def _write(self, pinned: PlatformPins) -> None:
        if len(pinned.pins) > MAX_PINS:
            raise Unavailable(
                Reason.OVERLOADED,
                f"the platform-pin file {self._path} holds {MAX_PINS} pins, and no more",
                hint="remove those of reference values that are no longer used",
            )
        write_whole(self._path, pinned.encode().encode())
        self._pins, self._read = pinned, stamp_of(self._path)

    def _reload(self) -> None:
        stamp = stamp_of(self._path)
        text = read_text_if_there(self._path, what="the platform-pin file")
        if text is not None:
            # Whole as it is: a pin that its owner removed is gone.
            self._pins = PlatformPins.parse(text)
        self._read = stamp
