"""Run a program by a clock that a test sets: the system's, and as many seconds later as a file says.

    python -m support.shifted FILE PROGRAM [OPTION ...]

The file may be written at any time, so the clock jumps in a running process. What judges and makes dates follows it;
timeouts are counted by the monotonic clock, which nobody can set.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from pathlib import Path

from eaa import verifier
from eaa.identity import Identity, LegacyIdentity
from support.system import Running, running


class Shift:
    """How many seconds a clock is ahead, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.to(timedelta(0))

    def to(self, ahead: timedelta) -> datetime:
        """Set the clock; return what it says now."""
        there = self.path.with_suffix(".new")
        there.write_text(str(ahead.total_seconds()))
        there.replace(self.path)
        return datetime.now(UTC) + ahead

    @contextmanager
    def running(self, program: str, *options: str | Path) -> Iterator[Running]:
        """Run a program by this clock in a block."""
        env = {"PYTHONPATH": str(Path(__file__).parents[1])}
        with running(sys.executable, "-m", "support.shifted", self.path, program, *options, env=env) as process:
            yield process


def follow(path: Path) -> None:
    """Have every clock of this process follow the file."""

    def shifted() -> datetime:
        return datetime.now(UTC) + _ahead()  # type: ignore[name-defined, no-any-return]  # noqa: F821  see below

    # The function is a default argument in many places, so it is kept and what it does is replaced.
    verifier._ahead = lambda: timedelta(seconds=float(path.read_text()))  # type: ignore[attr-defined]
    verifier.wall_clock.__code__ = shifted.__code__
    # A timeout by the wrong clock shows as well.
    unshifted = time.time
    time.time = lambda: unshifted() + verifier._ahead().total_seconds()  # type: ignore[attr-defined]
    for kind in (Identity, LegacyIdentity):
        defaults = kind.__init__.__kwdefaults__
        assert defaults is not None
        defaults["clock"] = verifier.wall_clock


def main() -> None:
    path, program = sys.argv[1:3]
    del sys.argv[1:3]
    follow(Path(path))
    (entry,) = entry_points(group="console_scripts", name=program)
    entry.load()()


if __name__ == "__main__":
    main()
