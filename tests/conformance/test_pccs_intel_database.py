"""The database of Intel's own service, taken over: its schema as its migrations leave it, verified row by row."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from eaa.errors import Misuse, Reason
from eaa.pccs.importing import import_intel_sqlite, is_intel_database
from eaa.pccs.records import Carried
from eaa.pccs.registration import Waiting
from eaa.pccs.store import Store
from eaa.pccs.wire import Response
from eaa.simulator.pki import SimulatedPKI
from eaa.simulator.platform import Platform
from eaa.verifier import INTEL
from support.intel_database import put, write
from support.pccs import (
    NOW,
    TDX,
    V4,
    anchors,
    encode,
    get,
    pckcert_query,
    platform,
    service,
    upload_body,
    upload_document,
    with_tdx,
)
from support.pccs_transcript import QUEUED, REPORT, policy_id, policy_text

FMSPC: Final = platform().model.fmspc.hex().upper()
READS: Final = (
    f"{V4}/pckcert?{pckcert_query(upload_document())}",
    f"{V4}/pckcrl?ca=platform",
    f"{V4}/pckcrl?ca=processor&encoding=der",
    f"{V4}/tcb?fmspc={FMSPC}",
    f"{TDX}/tcb?fmspc={FMSPC}",
    f"{V4}/qe/identity",
    f"{V4}/qve/identity",
    f"{TDX}/qe/identity",
    f"{V4}/rootcacrl",
    f"{V4}/crl?uri=https://certificates.trustedservices.intel.com/IntelSGXRootCA.der",
)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """An Intel database with one platform."""
    connection = write(tmp_path / "pckcache.db", document=with_tdx(upload_document()))
    yield connection
    connection.close()


def taken_over(folder: Path, source: sqlite3.Connection, *, days: int = 0) -> tuple[Carried, Store]:
    source.commit()
    store = Store.open(folder / "pccs.sqlite")
    now = NOW + timedelta(days=days)
    return import_intel_sqlite(folder / "pckcache.db", store, trust_anchors=anchors(), now=now), store


def shown(response: Response) -> tuple[int, bytes, dict[str, str]]:
    return response.status, response.body, {name: value for name, value in response.headers if name != "Request-ID"}


def test_what_is_taken_over_is_served_as_what_was_uploaded(tmp_path: Path, source: sqlite3.Connection) -> None:
    done, store = taken_over(tmp_path, source)
    store.close()
    assert (done.platforms, done.documents, done.refused) == (1, 8, [])
    (tmp_path / "uploaded").mkdir()
    body = encode(with_tdx(upload_document()))
    with service(tmp_path) as ours, service(tmp_path / "uploaded", uploads=(body,)) as uploaded:
        for target in READS:
            answer = shown(get(ours, target))
            assert answer == shown(get(uploaded, target))
            assert answer[0] == 200


def test_the_file_itself_is_not_changed(tmp_path: Path, source: sqlite3.Connection) -> None:
    source.commit()
    before = (tmp_path / "pckcache.db").read_bytes()
    taken_over(tmp_path, source)[1].close()
    assert (tmp_path / "pckcache.db").read_bytes() == before
    assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} == {"pckcache.db", "pccs.sqlite"}


def test_who_still_waits_and_policies_come_along(tmp_path: Path, source: sqlite3.Connection) -> None:
    waiting = [QUEUED[name] for name in ("qe_id", "pce_id", "cpu_svn", "pce_svn")]
    put(source, "platforms_registered", *waiting, bytes.fromhex(REPORT["enc_ppid"]), None, 0)
    put(source, "platforms_registered", "AA" * 16, *waiting[1:], bytes.fromhex(REPORT["enc_ppid"]), None, 9)
    put(source, "appraisal_policies", policy_id().decode(), 0, policy_text().decode(), 1, FMSPC)
    done, store = taken_over(tmp_path, source)
    assert (done.registrations, done.policies, done.refused) == (1, 1, [])
    assert store.registered(state=Waiting.NEW, take=False) == [QUEUED]
    assert store.policies(fmspc=FMSPC) == [policy_text().decode()]
    store.close()


@pytest.mark.parametrize(
    ("statement", "documents", "platforms"),
    [
        ("UPDATE fmspc_tcbs SET tcbinfo = CAST(replace(CAST(tcbinfo AS TEXT), 'UpToDate', 'Revoked') AS BLOB)", 6, 0),
        ("UPDATE enclave_identities SET identity = x'7b7d' WHERE id = 1", 7, 1),
        ("UPDATE pck_cert SET pck_cert = CAST('no certificate' AS BLOB)", 8, 0),
        ("UPDATE pck_cert SET tcbm = 'FF' || substr(tcbm, 3)", 8, 0),
        ("UPDATE platforms SET fmspc = '000000000000'", 8, 0),
        ("UPDATE pcs_certificates SET cert = x'00' WHERE id = 3", 3, 0),
        ("UPDATE pcs_certificates SET crl = NULL WHERE id = 1", 0, 0),
    ],
)
def test_what_does_not_hold_is_left_out_and_named(
    tmp_path: Path, source: sqlite3.Connection, statement: str, documents: int, platforms: int
) -> None:
    source.execute(statement)
    done, store = taken_over(tmp_path, source)
    assert (done.documents, done.platforms) == (documents, platforms)
    assert done.refused
    store.close()


@pytest.mark.parametrize(
    ("statement", "documents", "platforms"),
    [
        ("INSERT INTO platforms SELECT 'AB', pce_id, NULL, NULL, NULL, NULL, '', '' FROM platforms", 8, 1),
        ("INSERT INTO platforms SELECT NULL, NULL, NULL, NULL, fmspc, ca, '', '' FROM platforms", 8, 1),
        ("INSERT INTO platforms SELECT 17, 3, 4, 5, 6, 7, '', '' FROM platforms", 8, 1),
        ("INSERT INTO platforms SELECT x'ff00', pce_id, NULL, NULL, x'ff', x'fe', '', '' FROM platforms", 8, 1),
        (
            "INSERT INTO platforms SELECT CAST(x'ff' AS TEXT), pce_id, NULL, NULL, fmspc, ca, '', '' FROM platforms",
            8,
            1,
        ),
        ("UPDATE platforms SET enc_ppid = zeroblob(3000000)", 8, 1),
        ("UPDATE platforms SET enc_ppid = 'no hex', platform_manifest = x'00'", 8, 1),
        ("UPDATE platform_tcbs SET cpu_svn = NULL", 8, 1),
        ("UPDATE platform_tcbs SET cpu_svn = 'zz', pce_svn = 5", 8, 1),
        ("UPDATE pck_cert SET tcbm = NULL", 8, 0),
        ("UPDATE pck_cert SET pck_cert = NULL", 8, 0),
        ("DELETE FROM pck_cert", 8, 0),
        ("UPDATE fmspc_tcbs SET fmspc = NULL WHERE type = 0", 7, 0),
        ("UPDATE fmspc_tcbs SET update_type = NULL, version = NULL WHERE type = 0", 7, 0),
        ("UPDATE fmspc_tcbs SET update_type = 'weekly', version = 77, type = 9 WHERE type = 0", 7, 0),
        ("UPDATE fmspc_tcbs SET tcbinfo = zeroblob(3000000) WHERE type = 0", 7, 0),
        ("UPDATE enclave_identities SET identity = NULL, update_type = 5", 5, 1),
        ("UPDATE enclave_identities SET id = 9 WHERE id = 1", 7, 1),
        ("UPDATE pck_crl SET pck_crl = 'abc', ca = NULL WHERE ca = 'PROCESSOR'", 7, 1),
        ("UPDATE pck_crl SET pck_crl = 'abc' WHERE ca = 'PROCESSOR'", 7, 1),
        ("UPDATE pck_crl SET pck_crl = x'3000' WHERE ca = 'PLATFORM'", 7, 0),
        ("UPDATE pcs_certificates SET cert = x'00' WHERE id = 2", 7, 1),
        ("ALTER TABLE platforms_registered DROP COLUMN enc_ppid", 8, 1),
        ("INSERT INTO platforms_registered VALUES (NULL, 1, x'ff', 'x', NULL, NULL, 0, '', '')", 8, 1),
        ("INSERT INTO appraisal_policies VALUES (NULL, NULL, x'ff', NULL, NULL, '', '')", 8, 1),
        ("UPDATE crl_cache SET cdp_url = NULL", 8, 1),
    ],
)
def test_an_odd_row_costs_itself_and_nothing_else(
    tmp_path: Path, source: sqlite3.Connection, statement: str, documents: int, platforms: int
) -> None:
    source.execute(statement)
    done, store = taken_over(tmp_path, source)
    assert (done.documents, done.platforms) == (documents, platforms), done.refused
    store.close()


def test_a_database_that_was_forgotten_brings_nothing_that_is_over(tmp_path: Path, source: sqlite3.Connection) -> None:
    done, store = taken_over(tmp_path, source, days=400)
    assert (done.documents, done.platforms) == (0, 0)
    assert store.catalogue() == ()
    store.close()


def test_a_root_that_nobody_trusts_brings_nothing(tmp_path: Path, source: sqlite3.Connection) -> None:
    store = Store.open(tmp_path / "pccs.sqlite")
    done = import_intel_sqlite(tmp_path / "pckcache.db", store, trust_anchors=INTEL, now=NOW)
    assert (done.documents, done.platforms) == (0, 0)
    # Each of the four chains, and nothing below them.
    assert len(done.refused) == 4
    store.close()


def test_what_is_newer_here_stays(tmp_path: Path, source: sqlite3.Connection) -> None:
    number = platform().model.tcb_evaluation_data_number + 1
    newer = platform().revised(tcb_evaluation_data_number=number).platform_collaterals(now=NOW)
    with service(tmp_path, uploads=(newer,)) as ours:
        before = get(ours, f"{V4}/tcb?fmspc={FMSPC}").body
    done, store = taken_over(tmp_path, source)
    assert done.kept_newer >= 4
    store.close()
    with service(tmp_path) as ours:
        assert get(ours, f"{V4}/tcb?fmspc={FMSPC}").body == before


def test_it_lies_beside_another_pki(tmp_path: Path, source: sqlite3.Connection) -> None:
    other = Platform.create(now=NOW, pki=SimulatedPKI.create(now=NOW, seed=bytes(32)))
    with service(tmp_path, uploads=(other.platform_collaterals(now=NOW),), trust_anchors=anchors(other)):
        pass
    done, store = taken_over(tmp_path, source)
    assert (done.platforms, len(store.pkis())) == (1, 2)
    store.close()


def no_file(path: Path) -> None:
    """There is none."""


def a_text(path: Path) -> None:
    path.write_text("This is no database.")


def ours(path: Path) -> None:
    Store.open(path).close()


def an_empty_one(path: Path) -> None:
    sqlite3.connect(path).close()


@pytest.mark.parametrize("prepare", [no_file, a_text, ours, an_empty_one])
def test_what_is_no_such_database_is_refused(tmp_path: Path, prepare: Callable[[Path], None]) -> None:
    path = tmp_path / "other.db"
    prepare(path)
    if path.exists():
        assert not is_intel_database(path)
    store = Store.open(tmp_path / "pccs.sqlite")
    with pytest.raises(Misuse) as refused:
        import_intel_sqlite(path, store, trust_anchors=anchors(), now=NOW)
    assert refused.value.reason is Reason.FILE_UNREADABLE
    store.close()


def test_an_upload_is_no_such_database(tmp_path: Path) -> None:
    path = tmp_path / "platform_collaterals.json"
    path.write_bytes(upload_body())
    assert not is_intel_database(path)
