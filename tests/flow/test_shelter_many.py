"""`shelter verify` of many quotes, as a real process: folders, archives, standard input, one line each, one sum-up."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest

from eaa.evidence.quote import TEEType
from eaa.simulator.platform import Platform
from eaa.simulator.tdx import TrustDomain
from support.ccel import BOOT, REGISTERS
from support.flow import ROOT, answer_of
from support.system import BIN, Done, Site, run

COUNT: Final = 200
"""More than are answered without processes."""
REPORT_DATA: Final = bytes(range(64))
ALLOWED: Final = jsonschema.Draft202012Validator(json.loads((ROOT / "docs" / "verdict.schema.json").read_text()))


@dataclass(frozen=True, slots=True)
class Fleet:
    """Quotes of one machine in a folder: most are good, some are of an enclave nobody recorded, one is damaged."""

    site: Site
    folder: Path

    @property
    def judging(self) -> tuple[str, ...]:
        return self.site.judging


@pytest.fixture(scope="module")
def fleet(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    folder = tmp_path_factory.mktemp("fleet") / "quotes"
    folder.mkdir()
    machine = Platform.from_files({path.name: path.read_bytes() for path in site.tee.iterdir()})
    enclaves = {
        name: machine.launch(site.image(name).read_bytes(), site.image(name).with_suffix(".sigstruct").read_bytes())
        for name in ("workload", "impostor")
    }
    for number in range(COUNT):
        raw = enclaves["impostor" if number % 50 == 7 else "workload"].quote(number.to_bytes(64, "big"))
        if number == 9:
            raw = raw[:500] + bytes([raw[500] ^ 1]) + raw[501:]
        (folder / f"{number:03}.quote").write_bytes(raw)
    return Fleet(site, folder)


def verify(*options: str | Path, **more: Any) -> Done:
    return run("shelter", "verify", *options, **more)


def answers(done: Done) -> list[dict[str, Any]]:
    """The object of each line, held against the schema, which wants a file's name now."""
    found: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    for answer in found[:3] + found[-3:]:
        ALLOWED.validate(answer)
    assert all(next(iter(answer)) == "file" for answer in found)
    return found


def test_a_folder_gets_an_answer_for_each_file_in_order(fleet: Fleet) -> None:
    done = verify(fleet.folder, *fleet.judging, "--json", "--jobs", "2")
    found = answers(done)
    assert [answer["file"] for answer in found] == [f"{fleet.folder}/{number:03}.quote" for number in range(COUNT)]
    verdicts = {Path(answer["file"]).stem: answer["verdict"] for answer in found if answer["verdict"] != "accepted"}
    assert verdicts == dict.fromkeys(("007", "057", "107", "157"), "rejected") | {"009": "unverifiable"}
    assert done.code == 3, "the worst of all"


def test_the_sum_up_names_each_root_cause_with_its_first_file_and_remedy(fleet: Fleet) -> None:
    done = verify(fleet.folder, *fleet.judging)
    lines = done.stderr.splitlines()
    assert re.fullmatch(
        rf"shelter: summary: {COUNT} quotes in [0-9.]+ s: 195 accepted, 4 rejected, 1 unverifiable", lines[0]
    )
    assert lines[1] == f"shelter: summary: 4 [MEASUREMENT_MISMATCH], first {fleet.folder}/007.quote"
    assert lines[2].startswith("shelter: hint: if this is what you built")
    assert lines[3].startswith("shelter: summary: 1 [")
    assert lines[3].endswith(f"first {fleet.folder}/009.quote")
    assert len(done.stdout.splitlines()) == COUNT


def test_processes_change_no_answer(fleet: Fleet) -> None:
    one, many = (verify(fleet.folder, *fleet.judging, "--jobs", jobs) for jobs in ("1", "3"))
    assert (one.code, one.stdout) == (many.code, many.stdout)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_is_verified_without_being_unpacked(fleet: Fleet, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "quotes.tar"
    with tarfile.open(path, mode) as writer:  # type: ignore[call-overload]
        writer.add(fleet.folder, arcname="q")
    before = set(tmp_path.iterdir())
    done = verify(path, *fleet.judging, "--json")
    assert done.code == 3
    assert [answer["file"] for answer in answers(done)][:2] == [f"{path}:q/000.quote", f"{path}:q/001.quote"]
    assert set(tmp_path.iterdir()) == before


def test_standard_input_is_a_quote_or_an_archive(fleet: Fleet, tmp_path: Path) -> None:
    def piped(raw: bytes) -> subprocess.CompletedProcess[bytes]:
        command = [str(BIN / "shelter"), "verify", "-", *fleet.judging, "--json"]
        return subprocess.run(command, input=raw, capture_output=True, timeout=60, check=False)

    one = piped((fleet.folder / "000.quote").read_bytes())
    assert (one.returncode, one.stderr) == (0, b"")
    assert "file" not in json.loads(one.stdout), "one quote, one answer, as from a file"
    path = tmp_path / "two.tar.gz"
    with tarfile.open(path, "w:gz") as writer:
        for number in ("000", "007"):
            writer.add(fleet.folder / f"{number}.quote", arcname=number)
    two = piped(path.read_bytes())
    assert two.returncode == 1
    assert [json.loads(line)["file"] for line in two.stdout.splitlines()] == ["-:000", "-:007"]


def test_one_file_gets_one_answer_as_ever(fleet: Fleet) -> None:
    done = verify(fleet.folder / "000.quote", *fleet.judging)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.startswith("accepted: the workload matches")
    assert "file" not in answer_of(verify(fleet.folder / "000.quote", *fleet.judging, "--json"))


def test_files_that_are_no_quotes_are_answered_and_never_passed_over(fleet: Fleet, tmp_path: Path) -> None:
    shutil.copy(fleet.folder / "000.quote", tmp_path / "a.quote")
    (tmp_path / "b.txt").write_text("notes")
    (tmp_path / ".hidden").write_text("hidden")
    done = verify(tmp_path, *fleet.judging, "--json")
    assert [(answer["verdict"], answer["reason"]) for answer in answers(done)] == [
        ("accepted", None),
        ("unverifiable", "QUOTE_VERSION_UNSUPPORTED"),
    ]
    only = verify(tmp_path, *fleet.judging, "--include", "*.quote", "--json")
    assert (only.code, len(answers(only))) == (0, 1)


@pytest.mark.parametrize("options", [(), ("--include", "*.quote")])
def test_that_there_was_nothing_is_no_success(site: Site, tmp_path: Path, options: tuple[str, ...]) -> None:
    if options:
        (tmp_path / "other").write_text("x")
    done = verify(tmp_path, *site.judging, *options)
    assert (done.code, done.reason, done.stdout) == (2, "USAGE", "")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("absent",), "FILE_UNREADABLE"),
        (("--event-log", "x"), "USAGE"),
        (("--jobs", "0"), "USAGE"),
        (("--policy", "absent"), "FILE_UNREADABLE"),
    ],
)
def test_a_wrong_question_gets_no_answers(fleet: Fleet, options: tuple[str, ...], reason: str) -> None:
    done = verify(fleet.folder, *fleet.judging, *options)
    assert (done.code, done.reason, done.stdout) == (2, reason, "")


def test_a_file_that_speaks_to_the_terminal_is_printed_harmlessly(fleet: Fleet, tmp_path: Path) -> None:
    for name in ("\x1b[31m", "a\nb", os.fsdecode(b"\xff")):
        shutil.copy(fleet.folder / "000.quote", tmp_path / name)
    done = verify(tmp_path, *fleet.judging)
    assert done.code == 0
    assert len(done.stdout.splitlines()) == 3
    assert "\x1b" not in done.stdout
    assert len(answers(verify(tmp_path, *fleet.judging, "--json"))) == 3


def test_explaining_comes_below_each_answer(fleet: Fleet) -> None:
    done = verify(fleet.folder / "000.quote", fleet.folder / "007.quote", *fleet.judging, "--explain")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{fleet.folder}/000.quote: accepted")
    at = lines.index(next(line for line in lines if line.startswith(f"{fleet.folder}/007.quote: rejected")))
    assert lines[at + 1 : at + 3] == ["  workload: rejected SIMULATED UpToDate", "   root cause"]
    assert lines[at + 3].startswith("    FAIL measurement: ")


# --- collateral of many platforms


def test_each_quote_finds_the_collateral_of_its_platform(tmp_path: Path) -> None:
    """Two models under one vendor would need one root; here each machine has its own, and both are trusted."""
    now = datetime.now(UTC)
    anchors: list[str] = []
    for fmspc in ("00906ed50000", "20a06f000000"):
        machine = Platform.create(now=now, fmspc=bytes.fromhex(fmspc))
        (tmp_path / "collateral").mkdir(exist_ok=True)
        (tmp_path / "collateral" / f"{fmspc}.json").write_bytes(machine.collateral(now=now, tee=TEEType.TDX).to_json())
        (tmp_path / f"{fmspc}.pem").write_bytes(machine.root_pem)
        (tmp_path / "quotes").mkdir(exist_ok=True)
        (tmp_path / "quotes" / fmspc).write_bytes(TrustDomain(platform=machine).quote(REPORT_DATA))
        anchors += ["--trust-anchor", str(tmp_path / f"{fmspc}.pem")]
    collateral = tmp_path / "collateral"
    done = verify(tmp_path / "quotes", *anchors, "--collateral", collateral, "--facts", "--json")
    assert done.code == 0, done
    assert {answer["fmspc"] for answer in answers(done)} == {"00906ed50000", "20a06f000000"}
    next(collateral.iterdir()).unlink()
    missing = verify(tmp_path / "quotes", *anchors, "--collateral", collateral, "--facts", "--json")
    assert missing.code == 4
    assert {answer["reason"] for answer in answers(missing)} == {None, "COLLATERAL_NOT_FOUND"}


# --- an end in the middle


@pytest.fixture
def endless(fleet: Fleet, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A verification that has begun and waits for more on standard input, with its processes, in a group of its own."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as writer:
        writer.add(fleet.folder, arcname="q")
    raw = path.read_bytes()
    command = [str(BIN / "shelter"), "verify", "-", *fleet.judging, "--jobs", "2"]
    # Where the tests run in a shell's background Ctrl-C is ignored, and would be by what they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    signal.signal(signal.SIGINT, before)
    assert process.stdin is not None
    process.stdin.write(raw[: 3 * len(raw) // 4])
    process.stdin.flush()
    yield process
    process.kill()
    process.communicate()


def processes_of(session: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_is_interrupted_ends_at_once_and_leaves_nobody(
    endless: subprocess.Popen[bytes], number: signal.Signals, code: int
) -> None:
    assert endless.stdout is not None
    assert b": accepted" in endless.stdout.readline()
    assert len(processes_of(endless.pid)) == 3
    os.killpg(endless.pid, number)
    _, err = endless.communicate(timeout=30)
    assert endless.returncode == code
    assert b"Traceback" not in err
    assert (b"interrupted" in err) == (number is signal.SIGINT)
    end = time.monotonic() + 60
    while processes_of(endless.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert processes_of(endless.pid) == []


def read_terminal(terminal: int) -> bytes:
    """Read what a terminal shows until the last who writes there is gone, which Linux tells as an error."""
    shown = b""
    try:
        while part := os.read(terminal, 65536):
            shown += part
    except OSError:
        pass
    finally:
        os.close(terminal)
    return shown


@pytest.mark.parametrize("answers_too", [False, True], ids=["stderr", "both"])
def test_a_person_who_looks_on_sees_how_far_it_is(fleet: Fleet, answers_too: bool) -> None:  # noqa: FBT001
    terminal, inside = pty.openpty()
    command = [str(BIN / "shelter"), "verify", str(fleet.folder), *fleet.judging]
    stdout = inside if answers_too else subprocess.PIPE
    process = subprocess.Popen(
        command, stdout=stdout, stderr=inside, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    )
    os.close(inside)
    with ThreadPoolExecutor(1) as pool:
        # A terminal keeps few bytes: whoever writes there waits until they are read.
        showing = pool.submit(read_terminal, terminal)
        out = b""
        if process.stdout is not None:
            with process.stdout as stream:
                out = stream.read()
        shown = showing.result()
    assert process.wait(60) == 3
    assert f"/{COUNT}".encode() in shown
    assert b"summary" in shown
    answered = (shown if answers_too else out).replace(b"\r", b"")
    assert len(re.findall(rb"\.quote: (?:accepted|rejected|unverifiable): ", answered)) == COUNT
    assert not re.search(rb"\x1b", out)


# --- event logs and the floor


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated domain that booted, with its log."""
    folder = tmp_path_factory.mktemp("booted")
    now = datetime.now(UTC)
    machine = Platform.create(now=now)
    domain = TrustDomain(platform=machine, rtmrs=REGISTERS)
    (folder / "quote").write_bytes(domain.quote(REPORT_DATA))
    (folder / "ccel").write_bytes(BOOT + bytes(4096))
    (folder / "root.pem").write_bytes(machine.root_pem)
    (folder / "collateral.json").write_bytes(machine.collateral(now=now, tee=TEEType.TDX).to_json())
    options = ("--trust-anchor", folder / "root.pem", "--reference-values", folder / "values.toml")
    assert run("shelter", "record", "d", "--role", "workload", "--mrtd", domain.mr_td.hex(), *options).code == 0
    return folder


def verify_booted(booted: Path, *options: str | Path) -> Done:
    paths = {"--trust-anchor": "root.pem", "--reference-values": "values.toml", "--collateral": "collateral.json"}
    named = [part for option, name in paths.items() for part in (option, booted / name)]
    return verify(booted / "quote", *named, *options)


def test_an_event_log_is_compared_with_the_registers(booted: Path, tmp_path: Path) -> None:
    answer = answer_of(verify_booted(booted, "--event-log", booted / "ccel", "--json"))
    assert answer["verdict"] == "accepted"
    assert answer["rtmrs"] == [register.hex() for register in REGISTERS]
    damaged = tmp_path / "damaged"
    for content in (BOOT[:-10], b"junk"):
        damaged.write_bytes(content)
        done = verify_booted(booted, "--event-log", damaged, "--json")
        assert (done.code, answer_of(done)["reason"]) == (3, "EVENT_LOG_MALFORMED")


def test_an_event_log_of_another_boot_is_refused(booted: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    changed.write_bytes(BOOT.replace(b"boot loader", b"boot L0ader"))
    good = answer_of(verify_booted(booted, "--event-log", changed, "--json"))
    assert good["verdict"] == "accepted", "what an event says of itself is covered by nothing"
    shorter = tmp_path / "shorter"
    shorter.write_bytes(BOOT[: len(BOOT) - (4 * 4 + 2 + 48 + len(b"initial file system"))])
    done = verify_booted(booted, "--event-log", shorter, "--explain")
    assert (done.code, done.reason) == (1, "EVENT_LOG_MISMATCH")
    lines = done.stdout.splitlines()
    assert lines[1] == " root cause"
    assert lines[2].startswith("  FAIL event_log_rtmr2: ")


def test_the_highest_evaluation_number_is_remembered(booted: Path, tmp_path: Path) -> None:
    floor = tmp_path / "floor.json"
    assert answer_of(verify_booted(booted, "--evaluation-floor", floor, "--json"))["verdict"] == "accepted"
    state = json.loads(floor.read_text())
    assert {entry["document"] for entry in state["floors"]} == {"tdx-tcb-info", "tdx-qe-identity"}
    state["floors"][0]["number"] += 1
    floor.write_text(json.dumps(state))
    refused = answer_of(verify_booted(booted, "--evaluation-floor", floor, "--json"))
    assert (refused["verdict"], refused["reason"]) == ("rejected", "EVALUATION_NUMBER_TOO_LOW")
    assert [check["name"] for check in refused["checks"] if not check["passed"]] == ["evaluation_floor"]
    floor.write_text("{}")
    broken = verify_booted(booted, "--evaluation-floor", floor)
    assert (broken.code, broken.reason) == (2, "EVALUATION_FLOOR_INVALID")
