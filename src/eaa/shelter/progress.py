"""Progress on stderr, only where it is a terminal; answers on stdout, whatever it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Self

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

_PAUSE: Final = 0.1
"""Seconds between two looks at the bar."""


class Progress:
    """Prints answers, with a bar below them where a person looks on."""

    def __init__(self, count: Callable[[], int | None]) -> None:
        """`count` returns the number of answers to come, None where nobody knows."""
        self._count = count
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._shown = 0
        self._last = 0.0

    def __enter__(self) -> Self:
        if sys.stderr is not None and sys.stderr.isatty():
            # Imported here: it takes longer to load than most answers take.
            from rich.console import Console  # noqa: PLC0415
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415
            from rich.progress import Progress as Bar  # noqa: PLC0415

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            # No thread that draws on its own: processes are forked while this is open.
            self._bar = Bar(
                *columns,
                console=Console(stderr=True),
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = self._bar.add_task("", total=self._count())
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, answers: list[str], *, failed: int) -> None:
        """Print answers, and tell that they were given; `failed` counts all so far that were no success."""
        self._shown += len(answers)
        text = "\n".join(answers)
        if self._bar is not None and sys.stdout is not None and sys.stdout.isatty():
            # The same terminal: answers go above the bar, and are not broken at its edge.
            _above(self._bar.console, text)
        else:
            click.echo(text)
        now = time.monotonic()
        if self._bar is not None and now - self._last >= _PAUSE:
            self._last = now
            assert self._task is not None
            told = f"{failed} failed" if failed else "all well"
            self._bar.update(self._task, completed=self._shown, description=told, refresh=True)


def _above(console: Console, answer: str) -> None:
    console.print(answer, markup=False, highlight=False, emoji=False, soft_wrap=True)
