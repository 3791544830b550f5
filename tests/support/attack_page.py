"""The page about published attacks, made from the parameters of the tests that run them.

`python -m support.attack_page` (in tests/) writes docs/manual/attacks.md; a test compares the two.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eaa.appraise.result import BindingLevel
from eaa.errors import Reason
from support.attack_world import Attack

TESTS: Final = Path(__file__).resolve().parents[1]
PAGE: Final = TESTS.parent / "docs" / "manual" / "attacks.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One attack in the workload's place, the weakest level that lets it through, and what stops it."""

    attack: Attack
    title: str
    leaked: str
    """What the attacker has beside the network and every host."""
    succeeds: BindingLevel | None
    """Shelter asks for this level and is fooled; None where no level lets it through."""
    stopped: tuple[tuple[BindingLevel, Reason], ...]
    published: str = ""
    one_measurement: bool = False
    """Whether relay and workload are the same image, so that no measurement tells them apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """An attack that needs a world of its own."""

    title: str
    leaked: str
    succeeds: str
    stopped: str
    shown_by: tuple[str, ...]
    """Files of tests/ and functions there, each holding success and refusal."""


def render(published: Sequence[Published], elsewhere: Sequence[Elsewhere]) -> str:
    """The page."""
    lines = [
        "# Attacks",
        "",
        "The published attacks on attested TLS, and some that were not, each run for real: a genuine node of real",
        "processes, and the attacker's own code around it. Each test holds two things: that the attack works at the",
        "level below the one that claims to stop it, where there is one, and the reason with which that level refuses.",
        "",
        "Written by `make docs` from the parameters of",
        "[`tests/attacks/test_published_attacks.py`](../../tests/attacks/test_published_attacks.py), which compares",
        "them with this page. What the levels are, and what each claim does, stands in [Protocol](protocol.md); what a",
        "search of all an attacker can do has found, in [A model of the exchange](model.md).",
        "",
        "In every row the attacker owns the network and all hosts. What leaked out of a TEE is said; an extracted",
        "quoting key is in no row, because against it no level helps: name the machines that you mean (`--platform`).",
        "",
        "## In the workload's place",
        "",
        "| attack | what the attacker does | what leaked | works at | refused at |",
        "|---|---|---|---|---|",
        *[_published(attack) for attack in published],
        "",
        "\\* Where relay and workload share one measurement. Where they do not, the measurement tells them apart too.",
        "",
        *[f"{attack.title}: {attack.published}." for attack in published if attack.published],
        "",
        "## In other places",
        "",
        "| attack | what leaked | works at | what stops it | shown by |",
        "|---|---|---|---|---|",
        *[_elsewhere(attack) for attack in elsewhere],
        "",
    ]
    return "\n".join(lines)


def _published(row: Published) -> str:
    title = row.title + ("\\*" if row.one_measurement else "")
    does = " ".join((row.attack.__doc__ or "").split())
    works = "no level" if row.succeeds is None else f"`{row.succeeds.label}`"
    refused = ", ".join(f"`{level.label}` `{reason.value}`" for level, reason in row.stopped)
    return f"| {title} | {does} | {row.leaked} | {works} | {refused} |"


def _elsewhere(row: Elsewhere) -> str:
    shown = ", ".join(f"`{place}`" for place in row.shown_by)
    return f"| {row.title} | {row.leaked} | {row.succeeds} | {row.stopped} | {shown} |"


def main() -> None:
    """Write the page."""
    sys.path.insert(0, str(TESTS / "attacks"))
    tests = importlib.import_module("test_published_attacks")
    PAGE.write_text(render(tests.PUBLISHED, tests.ELSEWHERE), encoding="utf-8")


if __name__ == "__main__":
    # Under its own name, so that the records are those that the tests have made.
    importlib.import_module("support.attack_page").main()
