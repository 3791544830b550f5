"""Search the model: every state of a cell, in processes of their own, each search under a time limit.

`explore` is for tests. As a program this file is the process it starts: a job (JSON) on standard input, answers (a line
of JSON each) on standard output. Maude reports an equation that it cannot read on standard error and goes on without
it, which silently changes the model; so whatever stands there is a failure.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).resolve().parent
SOURCES: Final = (FOLDER / "exchange.maude", FOLDER / "world.maude")
MODULE: Final = "GOALS"
MAX_SECONDS: Final = 60
"""For one search; the longest takes a few."""
MAX_STATES: Final = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One question: which goals fail, at these levels, when this has leaked, with these checks left out?"""

    outer: str
    """Level between Shelter and relay and between relay and workload."""
    inner: str
    """Level of Shelter's session with the workload."""
    leaks: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def term(self) -> str:
        """Return the world in which it begins, as the model spells it."""
        parts = (
            self.outer,
            self.inner,
            " ".join(self.leaks) or "no-leaks",
            " ".join(self.options) or "usual",
            " ".join(f"({check})" for check in self.without) or "all-checks",
        )
        return f"begin(setting({', '.join(parts)}))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a search found."""

    failing: str
    """The digits of the goals that fail somewhere, in order."""
    finished: bool
    """Whether an honest run can finish."""
    states: int
    traces: dict[str, list[str]]
    """For each such goal a shortest way to where it fails: the rules, and the connections that they made."""


class ModelError(Exception):
    """The model could not be searched, or not as it is written."""


def explore(cells: Sequence[Cell], *, seconds: int = MAX_SECONDS, more_source: str = "") -> dict[Cell, Outcome]:
    """Search every cell, on all cores unless the tests already are.

    Args:
        cells: what to search.
        seconds: the limit of each search.
        more_source: Maude source to read behind the model's.

    Raises:
        ModelError: a warning of the tool, a search past its limit, a term that the model does not have.
    """
    workers = 1 if "PYTEST_XDIST_WORKER" in os.environ else os.cpu_count() or 1
    shares = [share for share in (cells[start::workers] for start in range(workers)) if share]

    def answers(share: Sequence[Cell]) -> list[Outcome]:
        job = {"cells": [asdict(cell) for cell in share], "seconds": seconds, "more_source": more_source}
        return [Outcome(**answer) for answer in _run(job, seconds=seconds * len(share) + MAX_SECONDS)]

    with ThreadPoolExecutor(max_workers=workers) as pool:
        found = list(pool.map(answers, shares))
    return {
        cell: outcome
        for share, part in zip(shares, found, strict=True)
        for cell, outcome in zip(share, part, strict=True)
    }


def vocabulary() -> dict[str, Any]:
    """Return what the model has in common with the code, and the names of its checks, as Maude has read them."""
    (words,) = _run({"vocabulary": True}, seconds=MAX_SECONDS)
    return dict(words)


def _run(job: dict[str, Any], *, seconds: int) -> list[dict[str, Any]]:
    finished = subprocess.run(
        [sys.executable, __file__], input=json.dumps(job), capture_output=True, text=True, timeout=seconds, check=False
    )
    if finished.returncode == -signal.SIGALRM:
        raise ModelError(f"a search took longer than {job['seconds']} s")
    if finished.stderr or finished.returncode:
        raise ModelError(f"Maude ended with {finished.returncode} and said: {finished.stderr}")
    return [json.loads(line) for line in finished.stdout.splitlines()]


# From here on the process that searches.


def main() -> None:
    """Do the job on standard input."""
    job = json.load(sys.stdin)
    model = Model(more_source=job.get("more_source", ""))
    if "vocabulary" in job:
        print(json.dumps(model.vocabulary()))
        return
    for cell in job["cells"]:
        signal.alarm(job["seconds"])
        print(json.dumps(asdict(model.search(Cell(**cell)))), flush=True)
        signal.alarm(0)


class Model:
    """The modules as Maude has read them."""

    def __init__(self, *, more_source: str = "") -> None:
        """Read the sources. What Maude does not like it says on standard error, for the parent to see."""
        import maude  # noqa: PLC0415 - only in a process of its own: it writes to standard error, and cannot be stopped

        self._maude = maude
        maude.init()
        for source in SOURCES:
            maude.load(str(source))
        if more_source:
            maude.input(more_source)
        self._module = maude.getModule(MODULE)
        (self._goals_of,) = (symbol for symbol in self._module.getSymbols() if str(symbol) == "goals")

    def search(self, cell: Cell) -> Outcome:
        """Visit every state that can be reached in a cell."""
        graph = self._maude.RewriteGraph(self._parse(cell.term()))
        seen: dict[str, int] = {}
        number = 0
        while number < graph.getNrStates():
            for goal in self._goals(graph.getStateTerm(number)):
                seen.setdefault(goal, number)
            successor = 0
            while graph.getNextState(number, successor) != -1:
                successor += 1
            number += 1
            if number > MAX_STATES:
                raise ModelError(f"{cell} has more than {MAX_STATES} states")
        return Outcome(
            failing="".join(sorted(goal.removeprefix("G") for goal in seen if goal != "honest-run")),
            finished="honest-run" in seen,
            states=number,
            traces={goal: list(_trace(graph, state)) for goal, state in sorted(seen.items())},
        )

    def vocabulary(self) -> dict[str, Any]:
        """Return claims, labels, ALPN names, roles and checks."""
        claims = {
            "certificate": self._claims("cert-claims(any)"),
            "statement": self._claims("attest-claims(any, any, any, any, any)"),
            "epoch": self._claims("epoch-claims(any, any, any, any, any)"),
        }
        of_layers = {"certificate": "certificate", "epoch": "epoch", "outer": "statement", "inner": "statement"}
        _, signature = self._parse("in-epoch(quote(own-root, any-image, end), no-key, end)").arguments()
        _, prefix, *_ = signature.arguments()
        return {
            "claims": claims,
            "signature_prefix": json.loads(str(prefix)),
            "alpn": {hop: self._text(f"alpn({hop})") for hop in self._constants("Hop")},
            "roles": {
                hop: [self._text(f"role-of({side}, {hop})") for side in ("client", "server")]
                for hop in self._constants("Hop")
            },
            "checks": self._constants("Check")
            + [f"{layer} / {name}" for layer in self._constants("Layer") for name in claims[of_layers[layer]]],
        }

    def _parse(self, text: str) -> Any:
        term = self._module.parseTerm(text)
        if term is None:
            raise ModelError(f"the model has no term {text}")
        term.reduce()
        return term

    def _goals(self, world: Any) -> list[str]:
        goals = self._goals_of(world)
        goals.reduce()
        return [] if str(goals) == "no-goals" else str(goals).split()

    def _text(self, term: str) -> str:
        return str(json.loads(str(self._parse(term))))

    def _constants(self, sort: str) -> list[str]:
        return [
            str(symbol)
            for symbol in self._module.getSymbols()
            # A variable is a symbol too, with the name of its sort.
            if symbol.arity() == 0
            and str(symbol) != sort
            and any(
                [str(range_) for range_ in declared.getDomainAndRange()] == [sort]
                for declared in symbol.getOpDeclarations()
            )
        ]

    def _claims(self, text: str) -> dict[str, str | None]:
        """Name and, where the model fixes it, value of each claim."""
        claims: dict[str, str | None] = {}
        term = self._parse(text)
        while str(term) != "end":
            claim, term = term.arguments()
            name, value = map(str, claim.arguments())
            claims[name] = json.loads(value) if value.startswith('"') else None
        return claims


def _trace(graph: Any, state: int) -> Iterator[str]:
    """Yield the steps to a state, the first one first."""
    parent = graph.getStateParent(state)
    if parent == -1:
        return
    yield from _trace(graph, parent)
    made = _links(graph.getStateTerm(state)) - _links(graph.getStateTerm(parent))
    yield " ".join([f"{graph.getRule(parent, state).getLabel()}:", *sorted(made)])


def _links(world: Any) -> set[str]:
    _, facts = world.arguments()
    return {text for fact in facts.arguments() if (text := str(fact)).startswith(("link(", "broken("))}


if __name__ == "__main__":
    main()
