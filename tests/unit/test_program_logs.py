"""What is said on stderr: a line is a line, and for machines it is an object with fields of known names."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eaa.aio import net
from eaa.aio.context import note
from eaa.errors import Misuse, PeerMisbehaved, Reason
from eaa.program import logs
from eaa.program.logs import ALWAYS, EVENTS, FIELDS, log_level_option, set_up_logging
from eaa.program.run import run as run_program
from eaa.program.run import say

LOGGER = logging.getLogger("eaa.room.part")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "manual" / "logs.md"
SOURCES = Path(__file__).resolve().parents[2] / "src" / "eaa"
NASTY = "x\nprogram: info: Remote attestation is successful.\r\x1b[31mred\x1b[0m\x00\u2028\u202e\x85\x9b2J"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    logger = logging.getLogger("eaa")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)
    logs._format = "text"


def speak(form: str, level: str = "debug") -> None:
    logs._format = form
    set_up_logging("program", level)


def fail() -> None:
    raise ZeroDivisionError("a\nb")


def records(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


# --- for machines


def test_a_record_has_what_every_record_has(capsys: pytest.CaptureFixture[str]) -> None:
    speak("json")
    LOGGER.warning("it failed: %s [%s]", "so", Reason.PEER_CLOSED)
    (record,) = records(capsys)
    assert set(ALWAYS) <= set(record)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["time"])
    assert abs(datetime.fromisoformat(record["time"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert (record["level"], record["program"], record["event"]) == ("warning", "program", "room.part")
    assert record["message"] == "it failed: so [PEER_CLOSED]"
    assert record["reason"] == "PEER_CLOSED"


def test_an_error_names_its_reason_too(capsys: pytest.CaptureFixture[str]) -> None:
    speak("json")
    LOGGER.warning("it failed: %s", PeerMisbehaved(Reason.PEER_TIMEOUT, "late"))
    LOGGER.warning("it failed", extra={"reason": Reason.OVERLOADED, "event": "x.y"})
    assert [(record["reason"], record["event"]) for record in records(capsys)] == [
        ("PEER_TIMEOUT", "room.part"),
        ("OVERLOADED", "x.y"),
    ]


def test_only_known_fields_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    speak("json")
    LOGGER.info("x", extra={"workload": "w", "count": 3, "addresses": ["a", "b"], "secret": "s", "event": "e"})
    (record,) = records(capsys)
    assert set(record) == {*ALWAYS, "workload", "count", "addresses"}
    assert (record["count"], record["addresses"]) == (3, ["a", "b"])


def test_lines_of_a_connection_say_whose_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    speak("json")

    async def handler(_: socket.socket, __: str) -> None:
        note(workload="a")
        LOGGER.info("inside")
        raise PeerMisbehaved(Reason.PEER_CLOSED, "it left")

    async def main() -> None:
        LOGGER.info("outside")
        for number in (1, 2):
            with socket.socket() as sock:
                await net._serve(handler, sock, f"peer {number}", number)

    asyncio.run(main())
    outside, *inside = records(capsys)
    assert "connection" not in outside
    assert {(record["connection"], record["peer"], record["workload"]) for record in inside} == {
        (1, "peer 1", "a"),
        (2, "peer 2", "a"),
    }
    assert [record["reason"] for record in inside if record["event"] == "connection.failed"] == ["PEER_CLOSED"] * 2


def test_what_a_program_says_itself_is_a_record_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    speak("json")
    say("program", "listening", kind="info", event="service.listening", addresses=("tcp://a:1",))
    say("program", "it failed [USAGE]", hint="do it otherwise")
    say("program", "3 in all", kind="summary")
    first, second, third = records(capsys)
    assert (first["level"], first["event"], first["addresses"]) == ("info", "service.listening", ["tcp://a:1"])
    assert (second["level"], second["hint"], second["event"]) == ("error", "do it otherwise", "program")
    assert third["level"] == "info"


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (Misuse(Reason.POLICY_INVALID, "no"), Reason.POLICY_INVALID),
        (click.UsageError("no"), Reason.USAGE),
        (ZeroDivisionError("no"), Reason.INTERNAL),
    ],
)
def test_how_a_program_ends_is_a_record_as_well(
    capsys: pytest.CaptureFixture[str], failure: Exception, reason: Reason
) -> None:
    @click.command()
    @log_level_option("info")
    def command(*, log_level: str) -> None:
        set_up_logging("program", log_level)
        raise failure

    with pytest.raises(SystemExit):
        run_program(command, "program", ["--log-format", "json"])
    (record,) = records(capsys)
    assert (record["level"], record["event"], record["reason"]) == ("error", "program.failed", reason)


# --- one line, whatever is in it


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_bug_is_one_line_that_says_where(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    speak(form)
    try:
        fail()
    except ZeroDivisionError:
        LOGGER.exception("a bug [%s]", Reason.INTERNAL)
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)["exception"] if form == "json" else line
    assert "ZeroDivisionError: a\\nb (test_program_logs.py:" in said
    assert "test_a_bug_is_one_line_that_says_where" in said


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_peer_s_words_forge_no_line_and_drive_no_terminal(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    speak(form)
    LOGGER.warning("a client asked for %s", NASTY, extra={"workload": NASTY})
    say("program", NASTY, hint=NASTY)
    said = capsys.readouterr().err
    lines = said.split("\n")
    assert len(lines) == (3 if form == "json" else 4)
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("program: info: Remote attestation") for line in lines)
    if form == "json":
        for record in map(json.loads, lines[:-1]):
            # Nor does who decodes it and prints it.
            assert all(str(value).isprintable() for value in record.values())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), st.sampled_from(["text", "json"]))
def test_whatever_is_said_is_one_printable_line(capsys: pytest.CaptureFixture[str], text: str, form: str) -> None:
    speak(form)
    LOGGER.error("%s", text, extra={"workload": text, "event": "x"})
    said = capsys.readouterr().err
    assert said.endswith("\n")
    assert said[:-1].isprintable()
    if form == "json":
        assert set(json.loads(said)) == {*ALWAYS, "workload"}


def test_nobody_fills_a_disk_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("text", "json"):
        speak(form)
        LOGGER.error("%s", "x" * 10**6, extra={"workload": "y" * 10**6})
        assert len(capsys.readouterr().err) < 3 * logs.MAX_TEXT


# --- options


def test_the_form_is_chosen_by_an_option() -> None:
    @click.command()
    @log_level_option("info")
    def command(*, log_level: str) -> None:
        set_up_logging("program", log_level)
        LOGGER.info("said")

    assert CliRunner().invoke(command, []).stderr == "program: info: said\n"
    assert json.loads(CliRunner().invoke(command, ["--log-format", "json"]).stderr)["message"] == "said"
    # The next time it is as it was.
    assert CliRunner().invoke(command, ["--log-level", "info"]).stderr == "program: info: said\n"
    assert CliRunner().invoke(command, ["--log-format", "xml"]).exit_code == 2


def test_the_manual_names_every_field() -> None:
    page = PAGE.read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.MULTILINE)
    assert dict(listed) == {**ALWAYS, **FIELDS}
    assert dict(re.findall(r"^\| `(\w+\.\w+)` \| (.+) \|$", page, re.MULTILINE)) == EVENTS


def test_every_event_is_one_that_somebody_reports() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES.rglob("*.py"))
    assert set(re.findall(r'(?:"event": |\bevent=)"([a-z_]+\.[a-z_]+)"', sources)) == set(EVENTS)
