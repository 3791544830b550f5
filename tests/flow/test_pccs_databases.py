"""The program on each of its databases, on good days and bad: shared, killed, full, gone, and of an older version."""

from __future__ import annotations

import contextlib
import http.client
import json
import resource
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from eaa.errors import Misuse, Reason
from eaa.pccs import engines, migrations, tables
from eaa.pccs.admission import admit
from eaa.pccs.census import Census
from eaa.pccs.records import Kind
from eaa.pccs.store import Store
from eaa.pccs.uploads import parse_upload
from support.pccs import (
    NOW,
    V4,
    RunningPCCS,
    anchors,
    pckcert_query,
    platform,
    running_pccs,
    upload_body,
    upload_document,
)
from support.pccs_upstream import upstream_of
from support.postgres import Cluster, cluster
from support.scripted_http import scripted

FMSPC: Final = platform().model.fmspc.hex().upper()
TCB: Final = f"{V4}/tcb?fmspc={FMSPC}"
PCKCERT: Final = f"{V4}/pckcert?{pckcert_query(upload_document())}"
Where = engines.Where


@pytest.fixture(scope="module")
def postgres() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return tmp_path / "pccs.sqlite"
    running: Cluster = request.getfixturevalue("postgres")
    return running.new_database()


def start(stack: ExitStack, folder: Path, where: Where, *arguments: str) -> RunningPCCS:
    folder.mkdir(exist_ok=True)
    return stack.enter_context(running_pccs(folder, "--db", str(where), *arguments))


def wait_until(condition: Callable[[], bool], *, patience: float = 90) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def revision(step: int) -> bytes:
    """An upload that is newer than that of any smaller step."""
    number = platform().model.tcb_evaluation_data_number + step
    return platform().revised(tcb_evaluation_data_number=number).platform_collaterals(now=NOW)


def number(pccs: RunningPCCS) -> int:
    found: int = json.loads(pccs.get(TCB).body)["tcbInfo"]["tcbEvaluationDataNumber"]
    return found


def test_what_is_stored_is_served_and_is_there_after_a_restart(tmp_path: Path, where: Where) -> None:
    with ExitStack() as stack:
        pccs = start(stack, tmp_path, where)
        assert pccs.put(upload_body()).status == 200
        before = [pccs.get(target) for target in (TCB, PCKCERT, f"{V4}/rootcacrl")]
        assert [answer.status for answer in before] == [200] * 3
        assert pccs.stop() == 143
    with ExitStack() as stack:
        again = start(stack, tmp_path, where)
        assert [again.get(target).body for target in (TCB, PCKCERT, f"{V4}/rootcacrl")] == [
            answer.body for answer in before
        ]


def test_two_processes_share_one_database(tmp_path: Path, where: Where) -> None:
    with ExitStack() as stack:
        one, other = (start(stack, tmp_path / name, where) for name in ("one", "other"))
        assert one.put(revision(0)).status == 200
        wait_until(lambda: other.get(TCB).status == 200)
        before = number(other)
        assert one.put(revision(1)).status == 200
        wait_until(lambda: number(other) == before + 1)
        bodies = [revision(step) for step in range(2, 6)]
        with ThreadPoolExecutor(8) as pool:
            statuses = pool.map(lambda index: (one, other)[index % 2].put(bodies[index % 4]).status, range(16))
        assert set(statuses) == {200}
        # Whatever came last, nothing older is left in the place of the newest.
        wait_until(lambda: number(one) == number(other) == before + 5)


def test_two_processes_that_start_at_once_make_one_schema(where: Where) -> None:
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: Store.open(where), range(4)))
    assert all(store.is_ready() for store in stores)
    for store in stores:
        store.close()


def test_a_cold_crowd_at_two_processes_gets_its_answers_for_one_fetch_of_each_document(
    tmp_path: Path, where: Where
) -> None:
    with scripted(upstream_of(platform())) as script, ExitStack() as stack, ThreadPoolExecutor(50) as pool:
        options = ("--mode", "lazy", "--upstream", script.url)
        both = [start(stack, tmp_path / name, where, *options) for name in ("one", "other")]
        statuses = list(pool.map(lambda index: both[index % 2].get(PCKCERT).status, range(50)))
        assert statuses == [200] * 50
        assert len(script.requests) == len(set(script.requests)) == 7


@pytest.mark.parametrize("moment", [0.05])
def test_what_is_killed_while_it_writes_leaves_whole_uploads(tmp_path: Path, where: Where, moment: float) -> None:
    bodies = [revision(step) for step in range(6)]
    with ExitStack() as stack:
        pccs = start(stack, tmp_path, where)
        assert pccs.put(bodies[0]).status == 200
        writing = threading.Thread(target=_write_until_gone, args=(pccs, bodies))
        writing.start()
        time.sleep(moment)
        pccs.process.kill()
        pccs.process.wait()
        writing.join()
    store = Store.open(where)
    documents = store.catalogue()
    store.close()
    numbers = {each.number for each in documents if each.key.kind in (Kind.TCB_INFO, Kind.IDENTITY)}
    assert len(documents) == 7
    assert len(numbers) == 1
    with ExitStack() as stack:
        again = start(stack, tmp_path, where)
        assert {again.get(target).status for target in (TCB, PCKCERT, f"{V4}/qe/identity", f"{V4}/rootcacrl")} == {200}


def _write_until_gone(pccs: RunningPCCS, bodies: list[bytes]) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        for index in range(1000):
            pccs.put(bodies[min(index, len(bodies) - 1)])


def test_a_disk_that_is_full_refuses_uploads_keeps_answering_and_recovers(tmp_path: Path) -> None:
    with ExitStack() as stack:
        pccs = start(stack, tmp_path, tmp_path / "pccs.sqlite")
        assert pccs.put(revision(0)).status == 200
        before = number(pccs)
        _limit_files(pccs, 8 * 1024)
        refused = pccs.put(revision(1))
        assert (refused.status, refused.body) == (503, b"Server is currently unable to process the request.")
        assert "database" in refused.headers["warning"]
        assert [pccs.get(target).status for target in (TCB, PCKCERT, f"{V4}/qe/identity")] == [200] * 3
        assert number(pccs) == before
        _limit_files(pccs, resource.RLIM_INFINITY)
        assert pccs.put(revision(1)).status == 200
        assert number(pccs) == before + 1
        assert "the database fails" in pccs.said()


def _limit_files(pccs: RunningPCCS, size: int) -> None:
    """Let the process write no file beyond this size, which is how a full disk looks to it."""
    resource.prlimit(pccs.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_server_that_is_down_is_told_and_comes_back_by_itself(tmp_path: Path, postgres: Cluster) -> None:
    with ExitStack() as stack:
        pccs = start(stack, tmp_path, postgres.new_database())
        assert pccs.put(upload_body()).status == 200
        assert pccs.get("/healthz/ready").status == 200
        postgres.stop()
        try:
            assert pccs.get("/healthz/ready").status == 503
            assert pccs.get("/healthz/live").status == 200
            assert pccs.put(upload_body()).status == 503
        finally:
            postgres.start()
        wait_until(lambda: pccs.get("/healthz/ready").status == 200)
        assert pccs.put(upload_body()).status == 200
        assert pccs.get(TCB).status == 200


# --- from version to version


def test_pages_of_platforms_have_each_of_them_once(where: Where) -> None:
    """Also of names that a language sorts otherwise than their bytes."""
    upload = parse_upload(upload_body(), api_version=4)
    (one,) = upload.platforms
    many = tuple(replace(one, qe_id=f"{'-_~aA'[number % 5]}{number}") for number in range(23))
    store = Store.open(where)
    try:
        store.apply(replace(upload, platforms=many), now=NOW)
        starts = store.fleet_starts(page=5)
        pages = [store.fleet(since=each, until=end) for each, end in pairwise((*starts, None))]
        assert [len(page) for page in pages] == [5, 5, 5, 5, 3]
        assert len({entry.pseudonym for page in pages for entry in page}) == len(many)
        (certificates,) = Census.take(store).certificates.values()
        assert (certificates.count, certificates.read) == (len(many), len(many))
    finally:
        store.close()


def test_the_steps_lead_to_the_tables_that_the_program_knows(where: Where) -> None:
    engine = engines.open_engine(where)
    with engines.writing(engine) as connection:
        migrations.upgrade(connection, "")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
    assert migrations.prepare(engine, where) == (migrations.LATEST, migrations.LATEST)
    engine.dispose()


def first_version(where: Where) -> None:
    """A database as the first version left it, with one upload in it."""
    engine = engines.open_engine(where)
    upload = parse_upload(upload_body(), api_version=4)
    (machine,) = upload.platforms
    own: dict[str, Any] = {"root": upload.root, "updated": 1}
    key = {"qe_id": machine.qe_id, "pce_id": machine.pce_id, **own}
    best = machine.certificates[0]
    (tcb_info,) = upload.tcb_infos
    with engines.writing(engine) as connection:
        migrations.upgrade(connection, "", to="0001")
        connection.execute(sa.text("DROP TABLE alembic_version"))
        made = sa.MetaData()
        made.reflect(connection)

        def put(table: str, **values: object) -> None:
            connection.execute(made.tables[table].insert().values(**values))

        put("schema_info", version=1)
        put("pkis", root=upload.root, uploads=1, updated=1)
        put(
            "platforms",
            **key,
            fmspc=machine.fmspc,
            ca=machine.ca,
            enc_ppid=machine.enc_ppid,
            platform_manifest=machine.platform_manifest,
        )
        put("pck_certs", **key, tcbm=best.tcbm, pem=best.pem)
        raw = machine.raw_tcbs[0]
        put("platform_tcbs", **key, cpu_svn=raw.cpu_svn, pce_svn=raw.pce_svn, tcbm=best.tcbm)
        versioned = {"api_version": 4, "update_type": "STANDARD", **own}
        put("tcb_infos", fmspc=FMSPC, tee="SGX", **versioned, document=tcb_info.text, chain=upload.chains["TCB_INFO"])
        for each in upload.identities:
            put("identities", name=each.name, **versioned, document=each.text, chain=upload.chains["IDENTITY"])
        for name, chain in upload.chains.items():
            put("chains", name=name, chain=chain, **own)
        for ca, crl in upload.pck_crls.items():
            put("pck_crls", ca=ca, document=crl, chain=upload.chains[ca], **own)
        put("root_crls", crl=upload.root_crl, **own)
        put("crls", uri=upload.root_crl_uri, crl=upload.root_crl, **own)
    engine.dispose()


def test_a_database_of_the_first_version_is_brought_up_with_all_that_is_in_it(where: Where, tmp_path: Path) -> None:
    first_version(where)
    assert migrations.migrate(where) == ("0001", migrations.LATEST)
    assert migrations.migrate(where) == (migrations.LATEST, migrations.LATEST)
    fresh = Store.open(tmp_path / "fresh.sqlite")
    admit(parse_upload(upload_body(), api_version=4), fresh, trust_anchors=anchors(), now=NOW)
    brought = Store.open(where)
    assert brought.catalogue() == fresh.catalogue()
    assert brought.cached_platforms(()) == fresh.cached_platforms(())
    machine = parse_upload(upload_body(), api_version=4).platforms[0]
    (one,) = brought.platforms(qe_id=machine.qe_id, pce_id=machine.pce_id)
    assert brought.pck_certificates(one) == {each.tcbm: each.pem for each in machine.certificates}
    assert brought.crl_addresses(one.root) == fresh.crl_addresses(one.root)
    later = NOW + timedelta(hours=1)
    assert admit(parse_upload(upload_body(), api_version=4), brought, trust_anchors=anchors(), now=later).platforms == 1
    brought.close()
    fresh.close()


@pytest.mark.parametrize("version", ["0003", "zzzz"])
def test_a_database_of_a_later_version_is_left_alone(where: Where, version: str) -> None:
    Store.open(where).close()
    engine = engines.open_engine(where)
    with engines.writing(engine) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :version"), {"version": version})
    engine.dispose()
    with pytest.raises(Misuse) as refused:
        Store.open(where)
    assert refused.value.reason is Reason.DATABASE_INVALID
