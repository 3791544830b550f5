"""The fuzz targets, run a little: each parser parses or refuses as it documents, in bounded time and memory.

`make fuzz-smoke` and `make fuzz` run the same targets with atheris and for longer.
"""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any, BinaryIO, Final

import pytest

import eaa
from eaa.errors import MalformedInput, Reason
from fuzz import run
from fuzz.loop import MAX_INPUT, MAX_SECONDS, Finding, examine, inputs, mutate
from fuzz.targets import TARGETS, Target, call

ITERATIONS: Final = 300
_PARSES: Final = re.compile(
    r"(parse|from_json|from_pem|from_files|from_claims|from_hex|from_base64|decode|identify|measure|split_signed|feed|load_toml"
    r"|inspect|pem_blocks|read_leaf)(_\w+)?"
)
NO_STRANGERS_BYTES: Final = {
    "eaa.aio.address.parse_address": "an option of a command line",
    "eaa.demo.script.Setting.measure": "the demonstration's own commands",
    "eaa.pccs.cli._DefaultServe.parse_args": "a command line",
    "eaa.pccs.refresh.Schedule.parse": "an option of a command line",
    "eaa.program.config.ConfiguredCommand.parse_args": "a command line",
    "eaa.program.options.parse_digest": "an option of a command line",
    "eaa.shelter.images.measure_file": "a path; measure_image reads what is there",
    "eaa.shelter.verification.parse_time": "an option of a command line",
    "eaa.appraise.policy.parse_grace": "a number that a policy file held",
    "eaa.appraise.policy.parse_statuses": "words that a policy file held; PolicyFile.parse calls it",
    "eaa.tls.certificate.parse_time": "a date of a certificate, whose own targets come through here",
    "eaa.tls.connection.Connection.feed": "OpenSSL reads these bytes; the flow and attack tests send it junk",
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_a_parser_parses_or_refuses_as_it_documents(target: Target) -> None:
    found = [
        examine(target, data) for data in islice(inputs(target, Random(zlib.crc32(target.name.encode()))), ITERATIONS)
    ]
    assert [finding for finding in found if finding] == []


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_a_target_takes_a_seed_to_its_end(target: Target) -> None:
    """Else a fuzzer would only ever see the first check."""
    assert any(call(target, seed) for seed in target.seeds())
    assert all(len(seed) <= MAX_INPUT for seed in target.seeds())


# --- what costs a careless parser most

MEBI: Final = 1 << 20
SIZES: Final = (60_000, 250_000)
"""Bytes, below the limits of most parsers: what is refused for its size alone would show nothing."""
MAX_PEAK: Final = 40 * MEBI
"""Bytes; JSON of 500 KiB that is nothing but numbers takes 16 of these as Python objects."""


def filled(front: bytes, repeated: bytes, back: bytes = b"") -> Callable[[int], bytes]:
    return lambda size: front + repeated * ((size - len(front) - len(back)) // len(repeated)) + back


COSTLY: Final[dict[str, Callable[[int], bytes]]] = {
    "arrays in arrays": filled(b"", b"["),
    "objects in objects": filled(b"", b'{"a":'),
    "arrays in the document": filled(b'{"tcbInfo":', b"["),
    "a string that never ends": filled(b'{"', b"\\"),
    "quotation marks": filled(b'{"', b'"'),
    "quotation marks and escapes": filled(b"{", b'"\\'),
    "one name many times": filled(b"{", b'"a":1,', b'"a":1}'),
    "many names": lambda size: b"{" + b",".join(b'"%d":1' % number for number in range(size // 10)) + b"}",
    "many tables": lambda size: b"".join(b"[a%d]\n" % number for number in range(size // 8)),
    "a document of spaces": filled(b'{"tcbInfo"', b" ", b"}"),
    "a signature of spaces": filled(b'{"tcbInfo":{}', b" ", b","),
    "a long number": filled(b'{"version":', b"9", b"}"),
    "numbers": filled(b'{"tcbLevels":[', b"1,", b"1]}"),
    "comments that never end": filled(b"{", b"/* "),
    "comments": filled(b"{", b"/**/"),
    "slashes": filled(b"{", b"/"),
    "tables in tables": filled(b"[", b"a."),
    "equal signs": filled(b"", b"a="),
    "lines": filled(b"", b"A=1\n"),
    "dotted keys": filled(b"a", b".a", b"=1"),
    "DER in DER": filled(b"\x30\x83\x0f\xff\xfb", b"\x30\x80"),
    "a row of DER": filled(b"", b"\x05\x00"),
    "a length of four gigabytes": filled(b"\x30\x84\xff\xff\xff\xff", b"\0"),
    "CBOR in CBOR": filled(b"", b"\x81"),
    "a map of four billion": filled(b"\xba\xff\xff\xff\xff", b"\0"),
    "a frame of four gigabytes": filled(b"\xff\xff\xff\xff", b"\0"),
    "empty frames": filled(b"", b"\0\0\0\0"),
    "certificates without an end": filled(b"", b"-----BEGIN CERTIFICATE-----\n"),
    "a certificate of one line": filled(b"-----BEGIN CERTIFICATE-----\n", b"A", b"\n-----END CERTIFICATE-----\n"),
    "dashes": filled(b"", b"-"),
    "white space": filled(b"", b" "),
    "zeros": filled(b"", b"\0"),
    "hex digits": filled(b"", b"00"),
    "a quote of four gigabytes": filled(
        bytes.fromhex("030002000000000000000000939a7233f79c4ca9940a0db3957f0607") + bytes(404), b"\xff"
    ),
}


@pytest.mark.parametrize("costly", COSTLY)
@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_what_is_costly_is_refused_before_work_is_done(target: Target, costly: str) -> None:
    for size in SIZES:
        finding, peak = examine_memory(target, COSTLY[costly](size))
        assert finding is None, size
        assert peak < MAX_PEAK, size


def examine_memory(target: Target, data: bytes) -> tuple[Finding | None, int]:
    """Run one input; return what is wrong with that, and the bytes that it took at most."""
    tracemalloc.start()
    try:
        return examine(target, data), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- no parser without a target


def modules() -> Iterator[ModuleType]:
    """Every module of the package, however deep; a file's name is enough to be one."""
    folder = Path(eaa.__path__[0])
    for path in sorted(folder.rglob("*.py")):
        if path.name != "__main__.py":
            parts = path.relative_to(folder.parent).with_suffix("").parts
            yield importlib.import_module(".".join(parts[:-1] if path.name == "__init__.py" else parts))


def classes_of(owner: object) -> Iterator[type]:
    """Every class of a module, and those that stand in classes of ours."""
    for _, item in inspect.getmembers(owner, inspect.isclass):
        if item.__module__.startswith("eaa."):
            yield item
            yield from (inner for inner in classes_of(item) if inner is not item)


def public_parsers() -> dict[str, Callable[..., object]]:
    """Every public function and method whose name says that it reads something, by its full name."""
    found: dict[str, Callable[..., object]] = {}
    for module in modules():
        for owner in (module, *classes_of(module)):
            for name, item in inspect.getmembers(owner, callable):
                if str(getattr(item, "__module__", "")).startswith("eaa.") and (_PARSES.fullmatch(name) or reads(item)):
                    found[full_name(item)] = item
    return found


def reads(item: Callable[..., object]) -> bool:
    """Whether a function takes a stream of bytes, whatever its name."""
    if not inspect.isfunction(item) or item.__name__.startswith("_"):
        return False
    return any(kind == "BinaryIO" for name, kind in item.__annotations__.items() if name != "return")


def full_name(parser: Callable[..., Any]) -> str:
    return f"{parser.__module__}.{parser.__qualname__}"


def test_every_public_parser_has_a_target() -> None:
    covered = {full_name(parser) for target in TARGETS.values() for parser in target.parsers}
    found = public_parsers()
    assert sorted(found.keys() - covered - NO_STRANGERS_BYTES.keys()) == []
    assert found.keys() >= NO_STRANGERS_BYTES.keys(), "an exception that is none any more"
    assert len(found) > 40


def test_a_new_parser_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, or by what it takes; wherever it stands, and however deep."""

    def parse_event_log(raw: bytes) -> None:
        """As it would stand in a room."""

    def entries(stream: BinaryIO) -> None:
        """The same."""

    class Outer:
        class Inner:
            @classmethod
            def parse(cls, raw: bytes) -> None:
                """Behind two names."""

    Outer.__module__ = Outer.Inner.__module__ = Outer.Inner.parse.__func__.__module__ = "eaa.records"  # type: ignore[attr-defined]
    for place, item in (
        ("evidence.layout", parse_event_log),
        ("shelter.items", entries),
        ("shelter.inspect.quotes", parse_event_log),
        ("records", Outer),
    ):
        module = importlib.import_module(f"eaa.{place}")
        item.__module__ = module.__name__
        with monkeypatch.context() as patch:
            patch.setattr(module, item.__name__, item, raising=False)
            assert any(item.__name__ in name for name in public_parsers()), place


@pytest.mark.parametrize(
    "parser",
    [
        *("evidence.quote.Quote.parse", "evidence.eventlog.EventLog.parse", "evidence.tagged.Endorsements.parse"),
        *("shelter.archive.members_of", "collateral.x509.CRL.parse", "sources.qcnl.parse_qcnl"),
        *("protocol.messages.FrameReader.feed", "appraise.platforms.PlatformPins.parse", "tls.leaf.read_leaf"),
    ],
)
def test_what_strangers_send_is_among_them(parser: str) -> None:
    assert f"eaa.{parser}" in public_parsers()


# --- the loop itself


def planted(run_it: Callable[[bytes], None]) -> Target:
    return Target(name="planted", run=run_it, seeds=lambda: [b"abc", b"xyz"], parsers=())


def test_the_loop_finds_what_is_not_documented() -> None:
    def fails_on_long(data: bytes) -> None:
        if len(data) > 3:
            raise KeyError(len(data))
        raise MalformedInput(Reason.EVIDENCE_MALFORMED, "too short")

    target = planted(fails_on_long)
    findings = [examine(target, data) for data in islice(inputs(target, Random(1)), 100)]
    assert any(finding and finding.problem.startswith("KeyError") for finding in findings)
    assert examine(target, b"abc") is None


def test_the_loop_finds_what_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, MAX_SECONDS + 1])
    monkeypatch.setattr(time, "process_time", lambda: next(ticks))
    finding = examine(planted(lambda _: None), b"abc")
    assert finding is not None
    assert "3 bytes" in finding.problem


def test_the_loop_finds_a_recursion_without_an_end() -> None:
    def recurse(data: bytes) -> None:
        recurse(data)

    finding = examine(planted(recurse), b"")
    assert finding is not None
    assert finding.problem == "RecursionError"


def test_inputs_begin_with_the_seeds_and_then_change_them_the_same_way_each_time() -> None:
    target = planted(lambda _: None)
    first, again = (list(islice(inputs(target, Random(5)), 50)) for _ in range(2))
    assert first == again
    assert first[:3] == [b"", b"abc", b"xyz"]
    assert len(set(first)) > 40
    assert all(len(data) <= MAX_INPUT for data in first)
    assert mutate(bytes(MAX_INPUT + 9), [b"x"], Random(1))[MAX_INPUT:] == b""


# --- the runner


def test_the_runner_prints_how_often_each_target_ran(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fake(name: str, seconds: int) -> run.Result:
        return run.Result(name=name, executions=70, exit_code=0 if name == "der" else 77, output="its bytes")

    monkeypatch.setattr(run, "run_target", fake)
    assert run.run_targets(["der"], seconds=1, jobs=1) == 0
    assert "70  der\n1 targets, 1 s each" in capsys.readouterr().out
    assert run.run_targets(["der", "crl"], seconds=1, jobs=2) == 1
    assert "crl  FAILED\nits bytes" in capsys.readouterr().out


def test_the_runner_runs_a_target_in_a_process_of_its_own() -> None:
    result = run.run_target("der", 1)
    assert result.exit_code == 0, result.output
    assert result.executions > 100


def test_the_runner_needs_no_atheris(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.fuzz_at_random("crl", 1) == 0
    assert re.search(r"executed \d{2,}", capsys.readouterr().err)


def test_the_runner_names_the_targets_that_it_knows() -> None:
    command = [sys.executable, run.__file__, "nothing-of-that-name"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert "no target nothing-of-that-name; there are quote, " in finished.stderr
