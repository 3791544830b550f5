"""How answers are printed: one JSON object a line, or lines for people on stdout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import click

from eaa.errors import EAAError, Misuse
from eaa.program.verdict import ACCEPTED, Verdict, verdict_of_error

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


def print_record(record: dict[str, Any]) -> None:
    """Print nested facts as indented `name: value` lines."""
    for line in record_lines(record):
        click.echo(line)


def record_lines(record: dict[str, Any], *, indent: int = 0) -> Iterator[str]:
    """Yield nested facts as indented `name: value` lines."""
    for name, value in record.items():
        prefix = "  " * indent + name.replace("_", " ")
        match value:
            case dict():
                yield f"{prefix}:"
                yield from record_lines(value, indent=indent + 1)
            case list() | tuple() if value and isinstance(value[0], dict):
                for number, item in enumerate(value):
                    yield f"{prefix} {number}:"
                    yield from record_lines(item, indent=indent + 1)
            case list() | tuple():
                yield f"{prefix}: {', '.join(str(item) for item in value) or 'none'}"
            case None:
                yield f"{prefix}: -"
            case bool():
                yield f"{prefix}: {'yes' if value else 'no'}"
            case _:
                yield f"{prefix}: {value}"


def print_verdict(verdict: Verdict, *, program: str, as_json: bool, explain: bool = False) -> None:
    """Print a verdict: the answer on stdout, what is wrong and what to do next on stderr."""
    if as_json:
        print_json(verdict.to_json())
        return
    if explain:
        click.echo("\n".join(explanation_lines(verdict)))
    # The answer itself belongs on stdout, so that a pipe sees it; the way out of it is for people.
    click.echo(answer_line(verdict))
    if verdict.hint and verdict.verdict != ACCEPTED:
        click.echo(f"{program}: hint: {verdict.hint}", err=True)


def print_reply(text: str) -> None:
    """Print what a peer's application has said, on one line, with nothing in it that a terminal would act upon.

    Who was accepted may still pass on what others have typed, and no text of a peer's may look like a line of ours.
    """
    shown = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in text.rstrip())
    click.echo(f"Server: {''.join(shown)}")


def answer_line(verdict: Verdict) -> str:
    """Return a verdict as one line for people."""
    if verdict.reason is None:
        return f"{verdict.verdict}: {verdict.message}{_facts_line(verdict)}"
    return f"{verdict.verdict}: {verdict.message} [{verdict.reason}]"


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


_KINDS: Final = (
    ("session", ("report_data", "binding", "evidence")),
    ("how it runs", ("debug", "sept_ve_disable", "td_attributes", "service_td")),
    ("event log", ("event_log",)),
    ("machine", ("platform", "pinned_platform")),
    ("platform", ("tcb_status", "allowed_advisories", "denied_advisories", "dynamic_platform", "cached_keys", "smt")),
    ("documents", ("evaluation_number", "collateral_freshness", "evaluation_floor")),
)
"""What a check is about, by the beginning of its name; every other is about what the evidence is of."""


def explanation_lines(verdict: Verdict) -> list[str]:
    """Return the tree of checks: for each attester the root cause, then every check with expected, clause, remedy."""
    return [line for entry in verdict.evidence or (verdict.to_json(),) for line in _entry_lines(entry)]


def _entry_lines(entry: dict[str, Any]) -> list[str]:
    lines = [f"{entry.get('role') or 'evidence'}: {entry['verdict']} {_marks(entry)}".rstrip()]
    steps = entry.get("verification") or ()
    failed = [check for check in (*steps, *entry["checks"]) if check["reason"]]
    if failed:
        lines += [" root cause", *_check_lines(failed[0])]
    elif entry["reason"]:
        lines += [" root cause", f"  FAIL {entry['reason']}: {entry['message']}"]
        lines += [f"       remedy:   {entry['hint']}"] if entry["hint"] else []
    if entry["shortfalls"]:
        lines += [" falls short of the next TCB level", *(f"  {shortfall}" for shortfall in entry["shortfalls"])]
    if steps:
        lines += [" verification", *(line for step in steps for line in _check_lines(step))]
    kind = None
    for check in entry["checks"]:
        before, kind = kind, _kind_of(check["name"])
        lines += [f" {kind}"] if kind != before else []
        lines += _check_lines(check)
    return [*lines, *_lines_of_facts(entry.get("facts") or {})]


def _lines_of_facts(facts: dict[str, Any]) -> list[str]:
    return [" facts", *(f"  {line}" for line in record_lines(facts))] if facts else []


def _kind_of(name: str) -> str:
    return next((kind for kind, names in _KINDS if name.startswith(names)), "what it is")


def _check_lines(check: dict[str, Any]) -> list[str]:
    mark = "ok  " if check["passed"] else "FAIL" if check["reason"] else "--  "
    lines = [
        f"  {mark} {check['name']}: {check['actual']}",
        f"       expected: {check['expected']}",
        f"       clause:   {check['clause']}" + (f" [{check['reason']}]" if check["reason"] else ""),
    ]
    return [*lines, f"       remedy:   {check['hint']}"] if check["hint"] else lines


def _marks(entry: dict[str, Any]) -> str:
    marks = ["SIMULATED" if entry["simulated"] else "", entry["tcb_status"] or "", " ".join(entry["advisory_ids"])]
    return " ".join(mark for mark in marks if mark)
