"""Machines by name, as an operator meets them: flags, policy file, the file of pins, and what a verdict says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from eaa.errors import Reason
from support.flow import answer_of
from support.machines import another_machine, platform_of, ppid_of
from support.system import Done, Site, run

REPORT_DATA: Final = bytes(64)


@pytest.fixture(scope="module")
def other(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another machine of the site's vendor."""
    return another_machine(site, tmp_path_factory.mktemp("machines") / "other")


@pytest.fixture(scope="module")
def quotes(site: Site, other: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A quote of the same enclave on each machine."""
    folder = tmp_path_factory.mktemp("quotes")
    image = site.image("workload")
    for name, tee in (("here", site.tee), ("there", other)):
        enclave = platform_of(tee).launch(image.read_bytes(), image.with_suffix(".sigstruct").read_bytes())
        (folder / name).write_bytes(enclave.quote(REPORT_DATA))
    return {name: folder / name for name in ("here", "there")}


def verify(site: Site, *options: str | Path) -> Done:
    return run("shelter", "verify", *site.judging, *options)


def test_a_policy_file_lists_machines(site: Site, quotes: dict[str, Path], tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(f'[workload]\nplatforms = ["{ppid_of(site.tee)}", "chip:{"c" * 128}"]\n')
    assert verify(site, quotes["here"], "--policy", policy).code == 0
    done = verify(site, quotes["there"], "--policy", policy, "--json")
    assert answer_of(done)["reason"] == Reason.PLATFORM_NOT_PINNED
    # The table is of the workload: no other role is asked for a machine.
    assert answer_of(verify(site, quotes["there"], "--policy", policy, "--role", "relay", "--json"))["reason"] == (
        Reason.ROLE_MISMATCH
    )


def test_a_flag_stands_over_the_file(site: Site, quotes: dict[str, Path], other: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(f'platforms = ["{ppid_of(site.tee)}"]\n')
    assert verify(site, quotes["there"], "--policy", policy, "--platform", ppid_of(other)).code == 0


def test_a_chip_names_no_machine_of_intel_s(site: Site, quotes: dict[str, Path]) -> None:
    assert verify(site, quotes["here"], "--platform", f"chip:{'c' * 128}").code == 1


@pytest.mark.parametrize("text", ["ppid:12", "serial:1", "", f"ppid:{'0' * 32}"])
def test_what_is_no_machine_is_misuse(site: Site, quotes: dict[str, Path], text: str) -> None:
    done = verify(site, quotes["here"], "--platform", text)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.startswith("shelter: error: ")


def test_explain_names_both_machines_and_the_remedy(site: Site, quotes: dict[str, Path], other: Path) -> None:
    done = verify(site, quotes["there"], "--platform", ppid_of(site.tee), "--explain")
    assert done.code == 1
    root_cause, _, rest = done.stdout.partition(" what it is\n")
    assert f"  FAIL platform: {ppid_of(other)} instance:" in root_cause
    assert f"       expected: {ppid_of(site.tee)}\n" in root_cause
    assert "       clause:   policy platforms [PLATFORM_NOT_PINNED]\n" in root_cause
    assert " machine\n  FAIL platform: " in rest


def test_the_first_machine_is_warned_of_and_held(site: Site, quotes: dict[str, Path], tmp_path: Path) -> None:
    pins = tmp_path / "state" / "pins.json"
    first = verify(site, quotes["here"], "--pin-platforms", pins)
    assert first.code == 0
    assert first.stderr.startswith("shelter: warning: the reference value workload (role workload) was seen for the")
    assert verify(site, quotes["here"], "--pin-platforms", pins).stderr == ""
    done = verify(site, quotes["there"], "--pin-platforms", pins, "--json")
    answer = answer_of(done)
    assert (done.code, answer["reason"]) == (1, Reason.PLATFORM_NOT_PINNED)
    assert "remove its pin" in answer["hint"]
    # As the hint says.
    document = json.loads(pins.read_text())
    document["pins"] = []
    pins.write_text(json.dumps(document))
    assert verify(site, quotes["there"], "--pin-platforms", pins).code == 0


def test_refused_evidence_is_not_pinned(site: Site, quotes: dict[str, Path], tmp_path: Path) -> None:
    pins = tmp_path / "pins.json"
    assert verify(site, quotes["there"], "--pin-platforms", pins, "--minimum-evaluation-number", "10000").code == 1
    assert not pins.exists()


def test_many_quotes_agree_on_the_first(site: Site, quotes: dict[str, Path], tmp_path: Path) -> None:
    """However many processes share the work."""
    folder = tmp_path / "quotes"
    folder.mkdir()
    for number in range(6):
        name = "here" if number % 2 else "there"
        (folder / f"{number}-{name}").write_bytes(quotes[name].read_bytes())
    done = verify(site, folder, "--pin-platforms", tmp_path / "pins.json", "--json", "--jobs", "2")
    accepted = {
        Path(answer["file"]).name[2:]
        for answer in map(json.loads, done.stdout.splitlines())
        if answer["verdict"] == "accepted"
    }
    assert done.code == 1
    assert len(accepted) == 1
    assert done.stderr.count("shelter: warning: ") == 1


def test_a_file_of_something_else_is_misuse(site: Site, quotes: dict[str, Path], tmp_path: Path) -> None:
    """And never taken for one without pins."""
    floor = tmp_path / "floor.json"
    assert verify(site, quotes["here"], "--evaluation-floor", floor).code == 0
    done = verify(site, quotes["here"], "--pin-platforms", floor)
    assert (done.code, done.stdout) == (2, "")
    assert "the platform-pin file is none that this release wrote" in done.stderr


def test_recording_pins_nothing(site: Site, quotes: dict[str, Path], tmp_path: Path) -> None:
    """A value that is being recorded has no machine yet; the first judgement by it finds one."""
    values, pins = tmp_path / "values.toml", tmp_path / "pins.json"
    judging = ("--trust-anchor", site.root, "--collateral", site.collateral, "--reference-values", values)
    expect = ("--expect", site.mr_enclaves["workload"])
    recorded = run(
        "shelter",
        "record",
        "app",
        "--role",
        "workload",
        "--from-quote",
        quotes["here"],
        *expect,
        *judging,
        "--pin-platforms",
        pins,
    )
    assert recorded.code == 0, recorded
    assert not pins.exists()
    assert run("shelter", "verify", quotes["here"], *judging, "--pin-platforms", pins).code == 0
    assert pins.exists()


def test_a_vendor_has_as_many_machines_as_one_likes(tmp_path: Path) -> None:
    """So that diversion can be tried by hand."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert run("eaa", "simulator", "create", first).code == 0
    assert run("eaa", "simulator", "create", second, "--vendor-of", first).code == 0
    assert (first / "root.pem").read_bytes() == (second / "root.pem").read_bytes()
    assert ppid_of(first) != ppid_of(second)
    done = run("eaa", "simulator", "create", tmp_path / "third", "--vendor-of", tmp_path / "nowhere")
    assert (done.code, done.reason) == (2, Reason.FILE_UNREADABLE)
    assert not (tmp_path / "third").exists()
