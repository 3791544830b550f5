"""Show mutants to this project and to dcap-qvl, and account for every answer.

`python tests/mutants/run.py --count 10000 --seed 1` prints each rule with its count and a first example. It fails where
an answer falls under `other`, or a field class had no mutant. The same count and seed make the same mutants.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Final

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mutants.judges import OtherJudge, judge_ours
from mutants.makers import makers
from mutants.rules import BOTH_ACCEPT, BOTH_REFUSE, OTHER, RULES, STATEMENTS, Outcome, classify
from mutants.subjects import subjects

MAX_OTHERS_SHOWN: Final = 40


@dataclass(slots=True, kw_only=True)
class Account:
    """What became of some mutants."""

    rules: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Of each rule the number of the first mutant, and what it was."""
    others: dict[int, str] = field(default_factory=dict)

    def add(self, number: int, rule: str, outcome: Outcome) -> None:
        """Take down one answer."""
        self.rules[rule] += 1
        self.classes[outcome.mutant.field_class] += 1
        self._note(rule, number, told(outcome))
        if rule == OTHER:
            self.others[number] = told(outcome)

    def merge(self, more: Account) -> None:
        """Take over what another process took down."""
        self.rules += more.rules
        self.classes += more.classes
        self.others |= more.others
        for rule, (number, example) in more.examples.items():
            self._note(rule, number, example)

    def _note(self, rule: str, number: int, example: str) -> None:
        if rule not in self.examples or number < self.examples[rule][0]:
            self.examples[rule] = (number, example)

    @property
    def silent(self) -> list[str]:
        """Field classes without a mutant."""
        return sorted(makers().keys() - self.classes.keys())


def told(outcome: Outcome) -> str:
    """Say what one mutant was, and what came of it."""
    mutant = outcome.mutant
    return (
        f"{mutant.field_class} of {mutant.subject.name} ({mutant.authority.name}): {mutant.what}\n"
        f"      ours: {outcome.ours}\n"
        f"      theirs: {str(outcome.theirs)[:200]}"
    )


def outcomes(numbers: range, *, seed: int) -> Iterator[tuple[int, Outcome]]:
    """Make the mutants of these numbers and ask both judges."""
    every = list(makers().items())
    other_judge = OtherJudge()
    for number in numbers:
        _, maker = every[number % len(every)]
        mutant = maker(Random(f"{seed}:{number}"))
        yield number, Outcome(mutant=mutant, ours=judge_ours(mutant.exhibit), theirs=other_judge.judge(mutant.exhibit))
    other_judge.close()


def account_for(numbers: range, *, seed: int) -> Account:
    """Make, judge and classify."""
    account = Account()
    for number, outcome in outcomes(numbers, seed=seed):
        account.add(number, classify(outcome), outcome)
    return account


def _worker(pipe: Connection, numbers: range, seed: int) -> None:
    pipe.send(account_for(numbers, seed=seed))
    pipe.close()


def account_in_parallel(count: int, *, seed: int, jobs: int) -> Account:
    """Do the same in several processes; the result does not depend on how many."""
    context = multiprocessing.get_context("spawn")
    workers = []
    for job in range(jobs):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_worker, args=(theirs, range(job, count, jobs), seed))
        process.start()
        theirs.close()
        workers.append((process, ours))
    account = Account()
    for process, pipe in workers:
        account.merge(pipe.recv())
        process.join()
    return account


def report(account: Account) -> list[str]:
    """Return what is printed."""
    lines = []
    for rule in (BOTH_ACCEPT, BOTH_REFUSE, *(rule.name for rule in RULES), OTHER):
        count = account.rules[rule]
        if not count:
            continue
        lines.append(f"{count:6}  {rule}" + (f": {STATEMENTS[rule]}" if rule in STATEMENTS else ""))
        number, example = account.examples[rule]
        lines.append(f"    #{number} {example}")
    for number, other in sorted(account.others.items())[:MAX_OTHERS_SHOWN]:
        lines.append(f"other: #{number} {other}")
    lines += [f"no mutant: {field_class}" for field_class in account.silent]
    ruled = sum(account.rules[rule.name] for rule in RULES)
    agreed = account.rules[BOTH_ACCEPT] + account.rules[BOTH_REFUSE]
    lines.append(
        f"{account.rules.total()} mutants of {len(account.classes)} field classes and {len(subjects())} subjects: "
        f"{agreed} agreed, {ruled} differ by a rule, {account.rules[OTHER]} other"
    )
    return lines


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args()
    account = account_in_parallel(chosen.count, seed=chosen.seed, jobs=chosen.jobs)
    sys.stdout.write("\n".join(report(account)) + "\n")
    return 1 if account.others or account.silent else 0


if __name__ == "__main__":
    sys.exit(main())
