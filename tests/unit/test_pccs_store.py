"""The database: whose file it is, what one upload leaves, and that PKIs and documents do not mix."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from eaa.errors import Misuse, Reason, Unavailable
from eaa.pccs import engines
from eaa.pccs.records import Document, DocumentKey, Kind
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


def tcb_info(store: Store) -> Document | None:
    """Of the first PKI that has it."""
    key = DocumentKey(kind=Kind.TCB_INFO, name=FMSPC, tee="SGX", api_version=4, update_type="STANDARD")
    return next(iter(store.find(key)), None)


def root_crl(store: Store) -> bytes | None:
    """Of the first PKI that has one."""
    return next((each.body for each in store.find(DocumentKey(kind=Kind.ROOT_CRL, name=""))), None)


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
    kept = tcb_info(first)
    first.close()
    second = Store.open(path)
    assert tcb_info(second) == kept is not None
    second.close()


def test_two_processes_may_share_a_file(tmp_path: Path) -> None:
    writer, reader = Store.open(tmp_path / "pccs.sqlite"), Store.open(tmp_path / "pccs.sqlite")
    assert root_crl(reader) is None
    writer.apply(uploaded(), now=NOW)
    assert root_crl(reader) == uploaded().root_crl
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
        connection.execute("UPDATE alembic_version SET version_num = '1000'")
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
from eaa.pccs.records import Document, DocumentKey, Kind
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
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    monkeypatch.setattr(engines, "BUSY_TIMEOUT", 0.05)
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
    assert root_crl(store) is None
    assert store.find(DocumentKey(kind=Kind.PCK_CRL, name="PLATFORM")) == ()
    assert store.platforms(qe_id=document["platforms"][0]["qe_id"].upper(), pce_id="0000") == ()


def test_a_platform_s_certificates_replace_those_that_were_there(store: Store) -> None:
    upload = uploaded()
    machine = upload.platforms[0]
    older = replace(machine.certificates[0], tcbm="00" * 18)
    store.apply(replace(upload, platforms=(replace(machine, certificates=(older,)),)), now=NOW)
    store.apply(upload, now=NOW)
    (known,) = store.platforms(qe_id=machine.qe_id, pce_id=machine.pce_id)
    assert set(store.pck_certificates(known)) == {machine.certificates[0].tcbm}
    assert store.tcbm(known, machine.raw_tcbs[0]) == machine.certificates[0].tcbm


def test_a_new_upload_chooses_again_for_every_tcb_that_was_ever_reported(store: Store) -> None:
    upload = uploaded()
    machine = upload.platforms[0]
    reported = RawTCB(cpu_svn="FF" * 16, pce_svn="FFFF")
    store.apply(replace(upload, platforms=(replace(machine, raw_tcbs=(reported,)),)), now=NOW)
    renewed = replace(machine.certificates[0], tcbm="AB" * 18)
    store.apply(replace(upload, platforms=(replace(machine, certificates=(renewed,)),)), now=NOW)
    (known,) = store.platforms(qe_id=machine.qe_id, pce_id=machine.pce_id)
    assert store.tcbm(known, reported) == "AB" * 18


def test_certificates_of_a_platform_that_is_not_listed_make_it_no_platform(store: Store) -> None:
    document = upload_document()
    qe_id = document["platforms"].pop()["qe_id"]
    store.apply(parse_upload(encode(document), api_version=4), now=NOW)
    assert store.platforms(qe_id=qe_id.upper(), pce_id="0000") == ()


def test_a_document_keeps_the_chain_it_came_with(store: Store) -> None:
    """A rotated signing certificate must not appear as the issuer of what its predecessor signed."""
    first = uploaded()
    store.apply(first, now=NOW)
    rotated = {**first.chains, TCB_INFO: first.chains["PLATFORM"]}
    store.apply(replace(first, tcb_infos=(), chains=rotated), now=NOW)
    found = tcb_info(store)
    assert found is not None
    assert found.chain == first.chains[TCB_INFO]


def test_a_document_without_a_chain_is_served_with_the_latest(store: Store) -> None:
    upload = uploaded()
    store.apply(replace(upload, tcb_infos=()), now=NOW)
    store.apply(replace(upload, chains={}, root=None), now=NOW)
    found = tcb_info(store)
    assert found is not None
    assert found.chain == upload.chains[TCB_INFO]


def test_a_document_whose_chain_nobody_knows_is_not_served(store: Store) -> None:
    upload = uploaded()
    only_pck = {ca: upload.chains[ca] for ca in ("PROCESSOR", "PLATFORM")}
    store.apply(replace(upload, chains=only_pck), now=NOW)
    assert tcb_info(store) is None


def test_an_upload_that_names_no_pki_needs_one_that_is_there(store: Store) -> None:
    with pytest.raises(Refusal) as refused:
        store.apply(replace(uploaded(), chains={}, root=None), now=NOW)
    assert refused.value.status is Status.INVALID_REQUEST


def test_two_pkis_lie_side_by_side_and_the_latest_upload_s_comes_first(store: Store) -> None:
    ours, theirs = uploaded(), of_another_pki()
    assert store.apply(ours, now=NOW).replaces is None
    stored = store.apply(theirs, now=NOW)
    assert (stored.root, stored.replaces) == (theirs.root, ours.root)
    assert [each.body for each in store.find(DocumentKey(kind=Kind.ROOT_CRL, name=""))] == [
        theirs.root_crl,
        ours.root_crl,
    ]
    assert store.chain(name="PLATFORM", root=str(theirs.root)) == theirs.chains["PLATFORM"]
    assert [pki.root for pki in store.pkis() if pki.is_default] == [theirs.root]
    assert store.apply(ours, now=NOW).replaces == theirs.root
    assert root_crl(store) == ours.root_crl


def test_what_is_fetched_makes_its_pki_the_default_only_where_there_is_none(store: Store) -> None:
    ours, theirs = uploaded(), of_another_pki()
    store.apply(ours, now=NOW, becomes_default=False)
    assert store.pkis()[0].root == ours.root
    store.apply(ours, now=NOW)
    assert store.apply(theirs, now=NOW, becomes_default=False).replaces is None
    assert [pki.root for pki in store.pkis()] == [ours.root, theirs.root]


def test_each_document_is_vouched_for_by_its_own_pki(store: Store) -> None:
    ours, theirs = uploaded(), replace(of_another_pki(), root_crl=None, tcb_infos=(), platforms=())
    store.apply(ours, now=NOW)
    store.apply(theirs, now=NOW)
    assert store.supplement().root_crl is None
    found = tcb_info(store)
    assert found is not None
    assert (found.root, found.chain) == (ours.root, ours.chains[TCB_INFO])


def older(upload: Upload, **members: object) -> Upload:
    """The same with another number or date in TCB Info; the store does not verify."""
    (document,) = upload.tcb_infos
    whole = json.loads(document.text)
    whole["tcbInfo"].update(members)
    return replace(upload, tcb_infos=(replace(document, text=json.dumps(whole).encode()),))


@pytest.mark.parametrize(
    ("members", "is_kept_out"),
    [
        ({"tcbEvaluationDataNumber": 1}, True),
        ({"issueDate": "2001-01-01T00:00:00Z"}, True),
        ({"tcbEvaluationDataNumber": 1, "issueDate": "2099-01-01T00:00:00Z"}, True),
        ({"tcbEvaluationDataNumber": 99, "issueDate": "2001-01-01T00:00:00Z"}, True),
        ({"tcbEvaluationDataNumber": 99, "issueDate": "2099-01-01T00:00:00Z"}, False),
    ],
)
def test_an_older_document_never_takes_the_place_of_a_newer_one(
    store: Store, members: dict[str, object], *, is_kept_out: bool
) -> None:
    store.apply(uploaded(), now=NOW)
    before = tcb_info(store)
    stored = store.apply(older(uploaded(), **members), now=NOW)
    assert stored.kept_newer == is_kept_out
    assert (tcb_info(store) == before) == is_kept_out


def test_the_same_document_again_is_no_older_one(store: Store) -> None:
    assert store.apply(uploaded(), now=NOW).kept_newer == 0
    assert store.apply(uploaded(), now=NOW).kept_newer == 0


def test_platforms_are_shown_by_model_and_a_salted_hash(store: Store, tmp_path: Path) -> None:
    store.apply(uploaded(), now=NOW)
    (entry,) = store.fleet()
    assert (entry.fmspc, entry.ca, len(entry.pseudonym)) == (FMSPC, "PLATFORM", 16)
    assert store.fleet() == (entry,)
    assert store.fleet_size() == {(entry.root, FMSPC): 1}
    other = Store.open(tmp_path / "other.sqlite")
    other.apply(uploaded(), now=NOW)
    assert other.fleet()[0].pseudonym != entry.pseudonym
    other.close()


def test_what_is_taken_out_whole_is_what_went_in(store: Store, tmp_path: Path) -> None:
    store.apply(uploaded(), now=NOW)
    (pki,) = store.pkis()
    copy = Store.open(tmp_path / "copy.sqlite")
    for each in store.contents(pki.root):
        copy.apply(each, now=NOW)
    assert copy.catalogue() == store.catalogue()
    machine = uploaded().platforms[0]
    (known,) = copy.platforms(qe_id=machine.qe_id, pce_id=machine.pce_id)
    assert copy.pck_certificates(known) == {each.tcbm: each.pem for each in machine.certificates}
    assert copy.cached_platforms(()) == store.cached_platforms(())
    copy.close()


def test_a_piece_of_work_has_one_owner_until_it_is_given_back_or_its_time_is_over(store: Store) -> None:
    later = NOW + timedelta(seconds=10)
    assert store.lease("x", "one", now=NOW, until=later)
    assert store.lease("x", "one", now=NOW, until=later)
    assert not store.lease("x", "two", now=NOW, until=later)
    assert store.is_leased("x", now=NOW)
    store.release("x", "two")
    assert store.is_leased("x", now=NOW)
    store.release("x", "one")
    assert store.lease("x", "two", now=NOW, until=later)
    assert store.lease("x", "one", now=later, until=later + timedelta(seconds=1))
