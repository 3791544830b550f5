"""Many quotes: an answer for each in the order in which they were given, on all processors, and a sum-up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final, NamedTuple

from eaa.errors import EAAError, Misuse, Reason
from eaa.program.output import answer_line, explanation_lines
from eaa.program.run import say
from eaa.program.verdict import Verdict, verdict_of_error
from eaa.shelter.items import Item
from eaa.shelter.progress import Progress
from eaa.shelter.workers import Workers, cores

__all__ = ["Batch", "Outcome", "cores"]

CHUNK: Final = 64
"""Quotes that a process is given at once."""
MAX_CAUSES: Final = 10
"""Root causes that a sum-up names."""


class Outcome(NamedTuple):
    """The answer about one quote, as it is printed."""

    name: str
    verdict: str
    exit_code: int
    reason: str | None
    hint: str | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """How many quotes are answered."""

    as_json: bool
    explain: bool
    jobs: int

    def run(self, items: Iterator[Item], answer: Callable[[bytes], Verdict], *, count: Callable[[], int | None]) -> int:
        """Print every answer and the sum-up; return the exit code of the worst.

        Args:
            items: the quotes.
            answer: what is said of a quote's bytes; it raises Misuse only.
            count: how many there are, None where nobody knows; asked only where a person looks on.

        Raises:
            Misuse: there is no quote at all, or the question itself is wrong.
        """
        tally = _Tally()
        try:
            with Progress(count) as progress, closing(self._outcomes(items, answer)) as answered:
                for outcomes in answered:
                    tally.add(outcomes)
                    progress.show([outcome.text for outcome in outcomes], failed=tally.failed)
        except KeyboardInterrupt:
            tally.say(interrupted=True)
            raise
        tally.require_any()
        tally.say()
        return tally.worst

    def _outcomes(self, items: Iterator[Item], answer: Callable[[bytes], Verdict]) -> Generator[list[Outcome]]:
        first = list(islice(items, CHUNK))
        if self.jobs == 1 or len(first) < CHUNK:
            yield from ([self._judge(item, answer)] for item in chain(first, items))
            return

        def judge_all(chunk: list[Item]) -> list[Outcome]:
            return [self._judge(item, answer) for item in chunk]

        with Workers(judge_all, count=self.jobs) as workers:
            yield from workers.map(_chunks(first, items))

    def _judge(self, item: Item, answer: Callable[[bytes], Verdict]) -> Outcome:
        try:
            verdict = answer(item.read())
        except EAAError as error:
            if isinstance(error, Misuse):
                raise
            verdict = verdict_of_error(error)
        return Outcome(
            item.name, verdict.verdict, verdict.exit_code, verdict.reason, verdict.hint, self._text(item.name, verdict)
        )

    def _text(self, name: str, verdict: Verdict) -> str:
        if self.as_json:
            return json.dumps({"file": name, **verdict.to_json()}, separators=(",", ":"), ensure_ascii=False)
        lines = [f"{name}: {answer_line(verdict)}"]
        if self.explain:
            lines += [f"  {line}" for line in explanation_lines(verdict)]
        return "\n".join(lines)


def _chunks(first: list[Item], rest: Iterator[Item]) -> Iterator[list[Item]]:
    chunk = first
    while chunk:
        yield chunk
        chunk = list(islice(rest, CHUNK))


@dataclass(slots=True)
class _Cause:
    count: int
    first: str
    hint: str | None


@dataclass(slots=True)
class _Tally:
    """Counts answers and their root causes."""

    since: float = field(default_factory=time.monotonic)
    verdicts: dict[str, int] = field(default_factory=dict)
    causes: dict[str, _Cause] = field(default_factory=dict)
    worst: int = 0

    @property
    def count(self) -> int:
        return sum(self.verdicts.values())

    @property
    def failed(self) -> int:
        return sum(cause.count for cause in self.causes.values())

    def add(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            self.verdicts[outcome.verdict] = self.verdicts.get(outcome.verdict, 0) + 1
            self.worst = max(self.worst, outcome.exit_code)
            if outcome.reason is not None:
                cause = self.causes.setdefault(outcome.reason, _Cause(0, outcome.name, outcome.hint))
                cause.count += 1

    def require_any(self) -> None:
        """Refuse to call it a success that nothing was looked at."""
        if not self.count:
            raise Misuse(
                Reason.USAGE,
                "there is no file in what was given",
                hint="hidden files are left out, and with --include all that fit no pattern",
            )

    def say(self, *, interrupted: bool = False) -> None:
        """Sum up on stderr: the counts, then each root cause, the most frequent first, with its first file."""
        counts = ", ".join(f"{number} {word}" for word, number in self.verdicts.items()) or "none answered"
        quotes = "1 quote" if self.count == 1 else f"{self.count} quotes"
        took = f"{time.monotonic() - self.since:.1f} s"
        say("shelter", f"{quotes} in {took}{', interrupted' if interrupted else ''}: {counts}", kind="summary")
        causes = sorted(self.causes.items(), key=lambda cause: -cause[1].count)
        for reason, cause in causes[:MAX_CAUSES]:
            say("shelter", f"{cause.count} [{reason}], first {cause.first}", kind="summary", hint=cause.hint)
        if len(causes) > MAX_CAUSES:
            say("shelter", f"and {len(causes) - MAX_CAUSES} other root causes", kind="summary")
