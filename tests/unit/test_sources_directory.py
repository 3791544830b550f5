"""A folder of collateral: each platform gets the file that is for it, whatever the file is called."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from eaa.collateral.bundle import Collateral
from eaa.errors import EAAError, Misuse, Reason
from eaa.evidence.quote import CertificationDataType, Quote, TEEType
from eaa.simulator.platform import Platform
from eaa.simulator.quoting import QuoteLayout
from eaa.sources import PCKName, directory, open_source
from eaa.sources.directory import DirectorySource
from support.simulated import NOW, REPORT_DATA, sample_enclave


def platform(fmspc: str, **options: Any) -> Platform:
    return Platform.create(now=NOW, fmspc=bytes.fromhex(fmspc), **options)


def put(folder: Path, name: str, collateral: Collateral) -> Collateral:
    (folder / name).write_bytes(collateral.to_json())
    return collateral


@pytest.fixture(scope="module")
def machines() -> dict[str, Platform]:
    return {"one": platform("00906ed50000", ca="platform"), "two": platform("20a06f000000", ca="processor")}


def test_each_platform_gets_its_own(tmp_path: Path, machines: dict[str, Platform]) -> None:
    one, two = machines.values()
    put(tmp_path, "1.json", sgx := one.collateral(now=NOW))
    put(tmp_path, "2.json", tdx := one.collateral(now=NOW, tee=TEEType.TDX))
    put(tmp_path, "3.json", other := two.collateral(now=NOW))
    source = open_source(pccs=None, ca_file=None, file=tmp_path, environ={})
    fmspc = bytes.fromhex("00906ed50000")
    assert source.fetch(tee=TEEType.SGX, fmspc=fmspc, ca="platform") == sgx
    assert source.fetch(tee=TEEType.TDX, fmspc=fmspc, ca="platform") == tdx
    assert source.fetch(tee=TEEType.SGX, fmspc=bytes.fromhex("20a06f000000"), ca="processor") == other


@pytest.mark.parametrize(
    ("tee", "fmspc", "ca"),
    [
        (TEEType.TDX, "00906ed50000", "platform"),
        (TEEType.SGX, "00906ed50001", "platform"),
        (TEEType.SGX, "00906ed50000", "processor"),
        (0x7F, "00906ed50000", "platform"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(
    tmp_path: Path, machines: dict[str, Platform], tee: int, fmspc: str, ca: str
) -> None:
    put(tmp_path, "1.json", machines["one"].collateral(now=NOW))
    (tmp_path / "junk.json").write_text("{}")
    with pytest.raises(EAAError) as caught:
        DirectorySource(tmp_path).fetch(tee=tee, fmspc=bytes.fromhex(fmspc), ca=ca)
    assert (caught.value.reason, caught.value.exit_code) == (Reason.COLLATERAL_NOT_FOUND, 4)
    assert fmspc in caught.value.message
    assert "1 files that are none" in caught.value.message


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        pytest.param(0, 0, id="the first alone was issued"),
        pytest.param(1, 1, id="the second was issued just now"),
        pytest.param(2, 2, id="all were issued"),
        pytest.param(400, 2, id="all are over: the newest says what is wrong"),
        pytest.param(-1, 2, id="none was: the newest says what is wrong"),
    ],
)
def test_what_was_not_issued_yet_does_not_hide_what_was(
    tmp_path: Path, machines: dict[str, Platform], days: int, expected: int
) -> None:
    """An archive of collateral serves evidence of any day in it."""
    one = machines["one"]
    issued = [one.collateral(now=NOW + timedelta(days=day)) for day in range(2)]
    issued.append(one.revised(tcb_evaluation_data_number=90).collateral(now=NOW + timedelta(days=2)))
    for number, collateral in enumerate(reversed(issued)):
        put(tmp_path, f"{number}.json", collateral)
    source = DirectorySource(tmp_path, clock=lambda: NOW + timedelta(days=days))
    assert source.fetch(tee=0, fmspc=bytes.fromhex("00906ed50000"), ca="platform") == issued[expected]


def test_what_is_over_does_not_hide_what_is_current(tmp_path: Path, machines: dict[str, Platform]) -> None:
    """Intel's early updates have higher numbers and end sooner."""
    one = machines["one"]
    put(tmp_path, "early.json", one.revised(tcb_evaluation_data_number=90).collateral(now=NOW - timedelta(days=20)))
    put(tmp_path, "standard.json", standard := one.collateral(now=NOW))
    source = DirectorySource(tmp_path, clock=lambda: NOW + timedelta(days=15))
    assert source.fetch(tee=0, fmspc=bytes.fromhex("00906ed50000"), ca="platform") == standard


@pytest.mark.parametrize("late", ["tcb_info", "qe_identity", "pck_crl", "root_ca_crl"])
def test_a_collateral_is_there_when_all_of_it_is(tmp_path: Path, machines: dict[str, Platform], late: str) -> None:
    one = machines["one"]
    put(tmp_path, "1.json", old := one.collateral(now=NOW))
    newer = one.collateral(now=NOW + timedelta(days=1))
    mixed = replace(old, **{name: getattr(newer, name) for name in (late, f"{late}_signature") if hasattr(newer, name)})
    put(tmp_path, "2.json", mixed)
    source = DirectorySource(tmp_path, clock=lambda: NOW)
    assert source.fetch(tee=0, fmspc=bytes.fromhex("00906ed50000"), ca="platform") == old


@pytest.mark.parametrize("names", [("a.json", "b.json"), ("b.json", "a.json")])
def test_of_two_for_one_platform_the_newer_counts(
    tmp_path: Path, machines: dict[str, Platform], names: tuple[str, str]
) -> None:
    one = machines["one"]
    put(tmp_path, names[0], one.collateral(now=NOW))
    later = put(tmp_path, names[1], one.collateral(now=NOW + timedelta(days=1)))
    found = DirectorySource(tmp_path).fetch(tee=0, fmspc=bytes.fromhex("00906ed50000"), ca="platform")
    assert found == later


def test_a_higher_evaluation_number_counts_more_than_a_later_date(
    tmp_path: Path, machines: dict[str, Platform]
) -> None:
    one = machines["one"]
    later = put(tmp_path, "a.json", one.collateral(now=NOW + timedelta(days=9)))
    document = json.loads(one.collateral(now=NOW).tcb_info)
    document["tcbEvaluationDataNumber"] += 1
    higher = put(tmp_path, "b.json", replace(later, tcb_info=json.dumps(document).encode()))
    found = DirectorySource(tmp_path).fetch(tee=0, fmspc=bytes.fromhex("00906ed50000"), ca="platform")
    assert found == higher


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"{" * 5000])
def test_what_is_no_collateral_is_left_alone(tmp_path: Path, machines: dict[str, Platform], content: bytes) -> None:
    put(tmp_path, "good.json", machines["one"].collateral(now=NOW))
    (tmp_path / "bad.json").write_bytes(content)
    (tmp_path / "notes.txt").write_bytes(content)
    (tmp_path / "folder.json").mkdir()
    assert DirectorySource(tmp_path).fetch(tee=0, fmspc=bytes.fromhex("00906ed50000"), ca="platform")


def test_collateral_of_another_issuer_s_list_is_none(tmp_path: Path, machines: dict[str, Platform]) -> None:
    collateral = machines["one"].collateral(now=NOW)
    put(tmp_path, "a.json", replace(collateral, pck_crl_issuer_chain=collateral.tcb_info_issuer_chain))
    with pytest.raises(EAAError) as caught:
        DirectorySource(tmp_path).fetch(tee=0, fmspc=bytes.fromhex("00906ed50000"), ca="platform")
    assert caught.value.reason is Reason.COLLATERAL_NOT_FOUND


def name_of(machine: Platform) -> PCKName:
    layout = QuoteLayout(version=3, certification=CertificationDataType.PCK_LEAF)
    quote = Quote.parse(machine.launch(*sample_enclave()).quote(REPORT_DATA, layout=layout))
    model = machine.model
    return PCKName(
        qe_id=quote.header.user_data[:16],
        encrypted_ppid=None,
        cpu_svn=model.cpu_svn,
        pce_svn=model.pce_svn,
        pce_id=bytes(2),
    )


def test_the_chain_of_a_platform_is_found_where_only_one_file_can_have_it(
    tmp_path: Path, machines: dict[str, Platform]
) -> None:
    one = machines["one"]
    with_chain = put(tmp_path, "a.json", one.collateral(now=NOW, pck_chain=True))
    name = name_of(one)
    assert DirectorySource(tmp_path).fetch_pck_chain(name) == with_chain.pck_certificate_chain
    assert DirectorySource(tmp_path).fetch_pck_chain(replace(name, pce_svn=0)) is None
    put(tmp_path, "b.json", one.collateral(now=NOW + timedelta(days=1), pck_chain=True))
    assert DirectorySource(tmp_path).fetch_pck_chain(name) is None, "it could be either"


def test_the_number_of_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "MAX_FILES", 2)
    for number in range(3):
        (tmp_path / f"{number}.json").touch()
    with pytest.raises(Misuse) as caught:
        DirectorySource(tmp_path)
    assert caught.value.reason is Reason.FILE_UNREADABLE


def test_a_folder_that_went_away_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(Misuse) as caught:
        DirectorySource(tmp_path / "absent")
    assert caught.value.reason is Reason.FILE_UNREADABLE
