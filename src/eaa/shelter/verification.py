"""`shelter verify`: one quote from a file, against collateral from a file or a PCCS."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from eaa.appraise.result import Role
from eaa.errors import EAAError, Misuse, Reason
from eaa.evidence.quote import Quote
from eaa.program.files import read_bytes
from eaa.program.judged import verdict_of_facts, verdict_of_judgement
from eaa.program.options import Judging, judging_options, parse_digest
from eaa.program.output import json_option, print_verdict
from eaa.program.verdict import Verdict, verdict_of_error
from eaa.verifier import Verifier, wall_clock


@click.command("verify")
@click.argument("quote", type=click.Path(path_type=Path))
@judging_options()
@click.option("--at", metavar="TIME", help="Judge dates as of this time (ISO 8601, UTC). Default: now.")
@click.option("--facts", is_flag=True, help="Stop at the facts: state what is genuine, judge nothing.")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.WORKLOAD.value,
    show_default=True,
    help="Compare with reference values of this role.",
)
@click.option("--report-data", metavar="HEX", help="Also demand these 64 bytes (or their first 32, the rest zero).")
@click.option("--trim-trailing", is_flag=True, help="Leave out bytes after the quote's end; they are not part of it.")
@click.option("--explain", is_flag=True, help="Print every check.")
@json_option
def verify_command(
    *,
    quote: Path,
    judging: Judging,
    at: str | None,
    facts: bool,
    role: str,
    report_data: str | None,
    trim_trailing: bool,
    explain: bool,
    as_json: bool,
) -> int:
    """Verify a QUOTE from a file against the vendor's root, and appraise it."""
    if facts and report_data is not None:
        raise Misuse(Reason.USAGE, "--facts judges nothing, so --report-data would go unread", hint="leave one out")
    expected = None if report_data is None else _report_data(report_data)
    now = wall_clock() if at is None else parse_time(at)
    raw = read_bytes(quote, what="the quote")
    try:
        verifier = judging.open(flags_for=Role(role), clock=lambda: now)
        parsed = _parse(raw, trim_trailing=trim_trailing)
        verdict = _answer(verifier, parsed, role=Role(role), facts=facts, expected=expected)
    except EAAError as error:
        if isinstance(error, Misuse):
            raise
        verdict = verdict_of_error(error)
    print_verdict(verdict, program="shelter", as_json=as_json, explain=explain)
    return verdict.exit_code


def parse_time(text: str) -> datetime:
    """Return the time an operator wrote; without an offset it is UTC. Raises Misuse."""
    try:
        parsed = datetime.fromisoformat(text)
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Misuse(Reason.USAGE, f"{text!r} is no time", hint="write it as 2026-03-01T12:00:00Z") from error


def _parse(raw: bytes, *, trim_trailing: bool) -> Quote:
    return Quote.parse_prefix(raw)[0] if trim_trailing else Quote.parse(raw)


def _answer(verifier: Verifier, quote: Quote, *, role: Role, facts: bool, expected: bytes | None) -> Verdict:
    verified = verifier.verify(quote, role=role)
    if facts:
        return verdict_of_facts(verified)
    judgement = verifier.appraise(verified, role=role, session=None, expected_report_data=expected)
    return verdict_of_judgement(judgement)


def _report_data(text: str) -> bytes:
    size = 64 if len(text) == 128 else 32
    return parse_digest("--report-data", text, size).ljust(64, b"\0")
