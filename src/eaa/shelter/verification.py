"""`shelter verify`: quotes from files, against collateral from files or a PCCS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import click

from eaa.appraise.result import Role
from eaa.errors import EAAError, MalformedInput, Misuse, Reason
from eaa.evidence.eventlog import MAX_EVENT_LOG_SIZE, EventLog
from eaa.evidence.quote import Quote
from eaa.program.files import read_bytes
from eaa.program.judged import step_of_verification, verdict_of_facts, verdict_of_judgement
from eaa.program.options import Judging, judging_options, parse_digest
from eaa.program.output import json_option, print_verdict
from eaa.program.verdict import Verdict, verdict_of_error
from eaa.shelter.items import Given
from eaa.verifier import Verifier, wall_clock


@click.command("verify")
@click.argument("quotes", metavar="QUOTE...", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
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
@click.option(
    "--event-log",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also demand that replaying this log (CCEL) gives the registers of the one QUOTE, a trust domain's.",
)
@click.option("--trim-trailing", is_flag=True, help="Leave out bytes after a quote's end; they are not part of it.")
@click.option(
    "--include", multiple=True, metavar="PATTERN", help="Of folders and archives, only files of such names; repeatable."
)
@click.option(
    "--jobs", type=click.IntRange(1, 1024), metavar="N", help="Processes for many quotes. Default: one a core."
)
@click.option("--explain", is_flag=True, help="Print the root cause, then every step and check with what it asks for.")
@json_option
def verify_command(
    *,
    quotes: tuple[Path, ...],
    judging: Judging,
    at: str | None,
    facts: bool,
    role: str,
    report_data: str | None,
    event_log: Path | None,
    trim_trailing: bool,
    include: tuple[str, ...],
    jobs: int | None,
    explain: bool,
    as_json: bool,
) -> int:
    """Verify each QUOTE against the vendor's root, and appraise it.

    A QUOTE is a file (bytes, hex digits or base64), a folder with all files below it, a tar archive (plain or gzip), or
    - for standard input, which is a quote or an archive. One quote gets one answer; more get one line each, a sum-up on
    stderr, and the exit code of the worst.
    """
    given = Given(arguments=quotes, include=include)
    if facts and (report_data is not None or event_log is not None):
        option = "--report-data" if report_data is not None else "--event-log"
        raise Misuse(Reason.USAGE, f"--facts judges nothing, so {option} would go unread", hint="leave one out")
    expected = None if report_data is None else _report_data(report_data)
    now = wall_clock() if at is None else parse_time(at)
    given.require_there()
    one = given.is_one_quote()
    if event_log is not None and not one:
        raise Misuse(Reason.USAGE, "--event-log is that of one quote", hint="verify that quote alone")
    raw = given.read_one() if one else b""
    log = None if event_log is None else read_bytes(event_log, what="the event log", maximum=MAX_EVENT_LOG_SIZE + 1)
    asked = _Question(
        role=Role(role), facts=facts, expected=expected, event_log=log, trim_trailing=trim_trailing, explain=explain
    )
    opened = _opened(judging, Role(role), lambda: now)
    if one:
        verdict = opened if isinstance(opened, Verdict) else asked.answer(opened, raw)
        print_verdict(verdict, program="shelter", as_json=as_json, explain=explain)
        return verdict.exit_code
    # Imported here: one quote needs no processes.
    from eaa.shelter.batch import Batch, cores  # noqa: PLC0415

    batch = Batch(as_json=as_json, explain=explain, jobs=jobs or cores())
    return batch.run(
        given.items(),
        lambda raw: opened if isinstance(opened, Verdict) else asked.answer(opened, raw),
        count=given.count,
    )


def _opened(judging: Judging, role: Role, clock: Callable[[], datetime]) -> Verifier | Verdict:
    """Return the verifier, or the answer to everything where there can be none. Raises Misuse."""
    try:
        return judging.open(flags_for=role, clock=clock)
    except EAAError as error:
        if isinstance(error, Misuse):
            raise
        return verdict_of_error(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What is asked of every quote."""

    role: Role
    facts: bool
    expected: bytes | None
    event_log: bytes | None
    trim_trailing: bool
    explain: bool

    def answer(self, verifier: Verifier, raw: bytes) -> Verdict:
        """Return the answer about one quote. Raises Misuse only."""
        # A quote is never text: its second byte is zero.
        if raw[1:2] != b"\0":
            from eaa.shelter.inspect.pem import quote_from_text  # noqa: PLC0415  few quotes are

            raw = quote_from_text(raw)
        try:
            quote = Quote.parse_prefix(raw)[0] if self.trim_trailing else Quote.parse(raw)
        except MalformedInput as error:
            verdict, evidence = verdict_of_error(error), raw
        else:
            verdict, evidence = self._answer(verifier, quote), quote.raw or raw
        if not self.explain:
            return verdict
        steps = verifier.explain(evidence, role=self.role)
        return replace(verdict, verification=tuple(step_of_verification(step) for step in steps))

    def _answer(self, verifier: Verifier, quote: Quote) -> Verdict:
        try:
            event_log = None if self.event_log is None else EventLog.parse(self.event_log)
            verified = verifier.verify(quote, role=self.role)
            if self.facts:
                return verdict_of_facts(verified)
            judgement = verifier.appraise(
                verified, role=self.role, session=None, expected_report_data=self.expected, event_log=event_log
            )
            return verdict_of_judgement(judgement)
        except EAAError as error:
            if isinstance(error, Misuse):
                raise
            return verdict_of_error(error)


def parse_time(text: str) -> datetime:
    """Return the time an operator wrote; without an offset it is UTC. Raises Misuse."""
    try:
        parsed = datetime.fromisoformat(text)
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Misuse(Reason.USAGE, f"{text!r} is no time", hint="write it as 2026-03-01T12:00:00Z") from error


def _report_data(text: str) -> bytes:
    size = 64 if len(text) == 128 else 32
    return parse_digest("--report-data", text, size).ljust(64, b"\0")
