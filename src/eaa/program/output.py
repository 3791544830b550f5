"""How answers are printed: one JSON object a line, or lines for people on stdout."""

from __future__ import annotations

import json
from typing import Any

import click

from eaa.errors import EAAError, Misuse
from eaa.program.verdict import ACCEPTED, VERIFIED, Verdict, verdict_of_error

SUCCESS = "Remote attestation is successful."


def json_option(function: Any) -> Any:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON object on one line.")(
        function
    )


def print_json(document: dict[str, Any]) -> None:
    """Print one object on one line."""
    click.echo(json.dumps(document, separators=(",", ":"), ensure_ascii=False))


def print_failure(error: EAAError, *, as_json: bool) -> int:
    """Print a failure in the form that `--json` promises, and return its exit code.

    Raises:
        EAAError: the same one, where people read; and Misuse, which is no answer but a wrong question.
    """
    if not as_json or isinstance(error, Misuse):
        raise error
    verdict = verdict_of_error(error)
    print_json(verdict.to_json())
    return verdict.exit_code


def print_record(record: dict[str, Any], *, indent: int = 0) -> None:
    """Print nested facts as indented `name: value` lines."""
    for name, value in record.items():
        prefix = "  " * indent + name.replace("_", " ")
        match value:
            case dict():
                click.echo(f"{prefix}:")
                print_record(value, indent=indent + 1)
            case list() | tuple() if value and isinstance(value[0], dict):
                for number, item in enumerate(value):
                    click.echo(f"{prefix} {number}:")
                    print_record(item, indent=indent + 1)
            case list() | tuple():
                click.echo(f"{prefix}: {', '.join(str(item) for item in value) or 'none'}")
            case None:
                click.echo(f"{prefix}: -")
            case bool():
                click.echo(f"{prefix}: {'yes' if value else 'no'}")
            case _:
                click.echo(f"{prefix}: {value}")


def print_verdict(verdict: Verdict, *, program: str, as_json: bool, explain: bool = False) -> None:
    """Print a verdict: the answer on stdout, what is wrong and what to do next on stderr."""
    if as_json:
        print_json(verdict.to_json())
        return
    if explain:
        _print_checks(verdict)
    if verdict.verdict not in (ACCEPTED, VERIFIED):
        # The answer itself belongs on stdout, so that a pipe sees it; the way out of it is for people.
        click.echo(f"{verdict.verdict}: {verdict.message} [{verdict.reason}]")
        if verdict.hint:
            click.echo(f"{program}: hint: {verdict.hint}", err=True)
        return
    click.echo(f"{verdict.verdict}: {verdict.message}{_facts_line(verdict)}")
    if verdict.verdict == VERIFIED and verdict.hint:
        click.echo(f"{program}: hint: {verdict.hint}", err=True)


def _facts_line(verdict: Verdict) -> str:
    measurement = verdict.mr_enclave or verdict.mr_td
    facts = [
        "SIMULATED" if verdict.simulated else None,
        verdict.tee and verdict.tee.upper(),
        verdict.tcb_status,
        " ".join(verdict.advisory_ids) or None,
        measurement and f"measurement {measurement}",
        verdict.attests and f"attests the {verdict.attests}",
        verdict.binding and verdict.binding != "none" and f"binding {verdict.binding}",
    ]
    told = [str(fact) for fact in facts if fact]
    return f" ({', '.join(told)})" if told else ""


def _print_checks(verdict: Verdict) -> None:
    for entry in verdict.evidence or (verdict.to_json(),):
        title = f"{entry.get('role') or 'evidence'}: {entry['verdict']}"
        click.echo(f"{title} {_marks(entry)}".rstrip())
        for check in entry["checks"]:
            click.echo(f"  {'ok  ' if check['passed'] else 'FAIL'} {check['name']}: {check['actual']}")
            if not check["passed"]:
                click.echo(f"       expected: {check['expected']}")
                click.echo(f"       clause:   {check['clause']} [{check['reason']}]")
                if check["hint"]:
                    click.echo(f"       remedy:   {check['hint']}")


def _marks(entry: dict[str, Any]) -> str:
    marks = ["SIMULATED" if entry["simulated"] else "", entry["tcb_status"] or "", " ".join(entry["advisory_ids"])]
    return " ".join(mark for mark in marks if mark)
