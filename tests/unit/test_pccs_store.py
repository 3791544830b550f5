"""The database: whose file it is, what one upload leaves, and that PKIs and documents do not mix."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from eaa.errors import Misuse, Reason, Unavailable
from eaa.pccs import store as store_module
from eaa.pccs.store import Store
from eaa.pccs.uploads import TCB_INFO, RawTCB, Upload, parse_upload
from eaa.pccs.wire import Refusal, Status
from eaa.simulator.pki import SimulatedPKI
from eaa.simulator.platform import Platform
from support.pccs import NOW, encode, platform, upload_body, upload_document

FMSPC = platform().model.fmspc.hex().upper()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "folder" / "pccs.sqlite")
    yield opened
    opened.close()


def uploaded(ca: str = "platform") -> Upload:
    return parse_upload(upload_body(ca), api_version=4)


def of_another_pki() -> Upload:
    other = Platform.create(now=NOW, pki=SimulatedPKI.create(now=NOW, seed=bytes(32)))
    return parse_upload(other.platform_collaterals(now=NOW), api_version=4)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- the file


def test_the_file_and_its_folder_are_the_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "pccs.sqlite"
    before = os.umask(0)
    try:
        opened = Store.open(path)
        opened.apply(uploaded(), now=NOW)
        modes = {file.name: mode(file) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    opened.close()
    assert mode(path.parent) == 0o700
    assert modes
    assert set(modes.values()) == {0o600}


def test_what_is_stored_is_there_after_opening_again(tmp_path: Path) -> None:
    path = tmp_path / "pccs.sqlite"
    first = Store.open(path)
    first.apply(uploaded(), now=NOW)
    kept = first.tcb_info(fmspc=FMSPC, tee="SGX", api_version=4, update="STANDARD")
    first.close()
    second = Store.open(path)
    assert second.tcb_info(fmspc=FMSPC, tee="SGX", api_version=4, update="STANDARD") == kept is not None
    second.close()


def test_two_processes_may_share_a_file(tmp_path: Path) -> None:
    writer, reader = Store.open(tmp_path / "pccs.sqlite"), Store.open(tmp_path / "pccs.sqlite")
    assert reader.root_crl() is None
    writer.apply(uploaded(), now=NOW)
    assert reader.root_crl() == uploaded().root_crl
    writer.close()
    reader.close()


def foreign_text(path: Path) -> None:
    path.write_text("This is no database. " * 100)


def foreign_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE pcs_version (id INTEGER)")
    connection.close()


def database_of_tomorrow(path: Path) -> None:
    Store.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE schema_info SET version = 1000")
    connection.close()


@pytest.mark.parametrize("prepare", [foreign_text, foreign_database, database_of_tomorrow])
def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path, prepare: object) -> None:
    path = tmp_path / "pccs.sqlite"
    assert callable(prepare)
    prepare(path)
    before = path.read_bytes()
    with pytest.raises(Misuse) as refused:
        Store.open(path)
    assert refused.value.reason is Reason.DATABASE_INVALID
    assert path.read_bytes()[100:] == before[100:]


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(Misuse) as refused:
        Store.open(tmp_path)
    assert refused.value.reason is Reason.DATABASE_INVALID


OPEN = """
import os
import sys
from pathlib import Path
from eaa.errors import EAAError
from eaa.pccs.store import Store
target, warm_up = map(Path, sys.argv[1:])
Store.open(warm_up).close()
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    Store.open(target)
except EAAError as error:
    print(error.reason)
"""


@pytest.mark.parametrize("target", ["folder/pccs.sqlite", "readable.sqlite", "private.sqlite"])
def test_what_this_user_may_not_write_to_is_named_as_such(tmp_path: Path, target: str) -> None:
    """Permissions do not bind root: then somebody else tries."""
    Store.open(tmp_path / "readable.sqlite").close()
    (tmp_path / "readable.sqlite").chmod(0o444)
    Store.open(tmp_path / "private.sqlite").close()
    (tmp_path / "private.sqlite").chmod(0o000)
    (tmp_path / "folder").mkdir(mode=0o555)
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    command = [sys.executable, "-c", OPEN, str(tmp_path / target), str(tmp_path / "another.sqlite")]
    outcome = subprocess.run(command, capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == Reason.PERMISSION_DENIED


def test_a_database_that_another_process_holds_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pccs.sqlite"
    Store.open(path).close()
    monkeypatch.setattr(store_module, "BUSY_TIMEOUT", 0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable) as refused:
        Store.open(path)
    holder.close()
    assert refused.value.reason is Reason.DATABASE_UNAVAILABLE


# --- uploads


def test_an_upload_is_stored_whole_or_not_at_all(store: Store) -> None:
    document = upload_document()
    document["platforms"][0]["cpu_svn"] = "00" * 16
    with pytest.raises(Refusal) as refused:
        store.apply(parse_upload(encode(document), api_version=4), now=NOW)
    assert refused.value.status is Status.INVALID_REQUEST
    assert store.root_crl() is None
    assert store.pck_crl(ca="PLATFORM") is None
    assert store.platform(qe_id=document["platforms"][0]["qe_id"].upper(), pce_id="0000") is None


def test_a_platform_s_certificates_replace_those_that_were_there(store: Store) -> None:
    upload = uploaded()
    machine = upload.platforms[0]
    older = replace(machine.certificates[0], tcbm="00" * 18)
    store.apply(replace(upload, platforms=(replace(machine, certificates=(older,)),)), now=NOW)
    store.apply(upload, now=NOW)
    known = store.platform(qe_id=machine.qe_id, pce_id=machine.pce_id)
    assert known is not None
    assert set(store.pck_certificates(known)) == {machine.certificates[0].tcbm}
    assert store.tcbm(known, machine.raw_tcbs[0]) == machine.certificates[0].tcbm


def test_a_new_upload_chooses_again_for_every_tcb_that_was_ever_reported(store: Store) -> None:
    upload = uploaded()
    machine = upload.platforms[0]
    reported = RawTCB(cpu_svn="FF" * 16, pce_svn="FFFF")
    store.apply(replace(upload, platforms=(replace(machine, raw_tcbs=(reported,)),)), now=NOW)
    renewed = replace(machine.certificates[0], tcbm="AB" * 18)
    store.apply(replace(upload, platforms=(replace(machine, certificates=(renewed,)),)), now=NOW)
    known = store.platform(qe_id=machine.qe_id, pce_id=machine.pce_id)
    assert known is not None
    assert store.tcbm(known, reported) == "AB" * 18


def test_certificates_of_a_platform_that_is_not_listed_make_it_no_platform(store: Store) -> None:
    document = upload_document()
    qe_id = document["platforms"].pop()["qe_id"]
    store.apply(parse_upload(encode(document), api_version=4), now=NOW)
    assert store.platform(qe_id=qe_id.upper(), pce_id="0000") is None


def test_a_document_keeps_the_chain_it_came_with(store: Store) -> None:
    """A rotated signing certificate must not appear as the issuer of what its predecessor signed."""
    first = uploaded()
    store.apply(first, now=NOW)
    rotated = {**first.chains, TCB_INFO: first.chains["PLATFORM"]}
    store.apply(replace(first, tcb_infos=(), chains=rotated), now=NOW)
    found = store.tcb_info(fmspc=FMSPC, tee="SGX", api_version=4, update="STANDARD")
    assert found is not None
    assert found.chain == first.chains[TCB_INFO]


def test_a_document_without_a_chain_is_served_with_the_latest(store: Store) -> None:
    upload = uploaded()
    store.apply(replace(upload, tcb_infos=()), now=NOW)
    store.apply(replace(upload, chains={}, root=None), now=NOW)
    found = store.tcb_info(fmspc=FMSPC, tee="SGX", api_version=4, update="STANDARD")
    assert found is not None
    assert found.chain == upload.chains[TCB_INFO]


def test_a_document_whose_chain_nobody_knows_is_not_served(store: Store) -> None:
    upload = uploaded()
    only_pck = {ca: upload.chains[ca] for ca in ("PROCESSOR", "PLATFORM")}
    store.apply(replace(upload, chains=only_pck), now=NOW)
    assert store.tcb_info(fmspc=FMSPC, tee="SGX", api_version=4, update="STANDARD") is None


def test_an_upload_that_names_no_pki_needs_one_that_is_there(store: Store) -> None:
    with pytest.raises(Refusal) as refused:
        store.apply(replace(uploaded(), chains={}, root=None), now=NOW)
    assert refused.value.status is Status.INVALID_REQUEST


def test_two_pkis_lie_side_by_side_and_the_latest_is_served(store: Store) -> None:
    ours, theirs = uploaded(), of_another_pki()
    assert store.apply(ours, now=NOW).replaces is None
    stored = store.apply(theirs, now=NOW)
    assert (stored.root, stored.replaces) == (theirs.root, ours.root)
    assert store.root_crl() == theirs.root_crl
    assert store.chain(name="PLATFORM") == theirs.chains["PLATFORM"]
    assert store.apply(ours, now=NOW).replaces == theirs.root
    assert store.root_crl() == ours.root_crl


def test_what_one_pki_lacks_does_not_come_from_another(store: Store) -> None:
    store.apply(uploaded(), now=NOW)
    store.apply(replace(of_another_pki(), root_crl=None, tcb_infos=(), platforms=()), now=NOW)
    assert store.root_crl() is None
    assert store.tcb_info(fmspc=FMSPC, tee="SGX", api_version=4, update="STANDARD") is None
