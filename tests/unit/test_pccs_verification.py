"""Nothing unverified is stored, nothing unverified or expired is served: one good upload, one thing broken per row."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest

from eaa.pccs.reading import WARN_BEFORE
from eaa.pccs.service import Service
from eaa.pccs.survey import survey
from eaa.pccs.tables import chains, documents, pck_certs, platform_tcbs, platforms
from eaa.pccs.wire import Response
from eaa.simulator.pki import SimulatedPKI
from eaa.simulator.platform import Platform
from eaa.verifier import INTEL, TrustAnchors
from support.pccs import (
    NOW,
    TDX,
    V4,
    anchors,
    encode,
    get,
    pckcert_query,
    platform,
    put,
    service,
    upload_body,
    upload_document,
    with_tdx,
)

FMSPC: Final = platform().model.fmspc.hex().upper()
TCB: Final = f"{V4}/tcb?fmspc={FMSPC}"
Break = Callable[[dict[str, Any]], None]


def collaterals(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["collaterals"]
    return found


def flipped(digits: str) -> str:
    """The same hex with its last bit changed: a signature's, wherever one ends a document."""
    return digits[:-1] + f"{int(digits[-1], 16) ^ 1:x}"


def sgx(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = collaterals(document)["tcbinfos"][0]["sgx_tcbinfo"]
    return found


def forge_tcb_info(document: dict[str, Any]) -> None:
    sgx(document)["tcbInfo"]["tcbLevels"][0]["tcbStatus"] = "OutOfDate"


def forge_tdx_tcb_info(document: dict[str, Any]) -> None:
    collaterals(with_tdx(document))["tcbinfos"][0]["tdx_tcbinfo"]["signature"] = "11" * 64


def forge(member: str) -> Break:
    def broken(document: dict[str, Any]) -> None:
        identity = json.loads(collaterals(document)[member])
        identity["signature"] = flipped(identity["signature"])
        collaterals(document)[member] = json.dumps(identity, separators=(",", ":"))

    return broken


def forge_crl(member: str) -> Break:
    def broken(document: dict[str, Any]) -> None:
        holder = collaterals(document) if member == "rootcacrl" else collaterals(document)["pckcacrl"]
        holder[member] = flipped(holder[member])

    return broken


def swap_crls(document: dict[str, Any]) -> None:
    crls = collaterals(document)["pckcacrl"]
    crls["processorCrl"], crls["platformCrl"] = crls["platformCrl"], crls["processorCrl"]


def foreign_pck(document: dict[str, Any]) -> None:
    stranger = Platform.create(now=NOW, pki=SimulatedPKI.create(now=NOW, seed=bytes(32)))
    chain = quote(stranger.pck_pem.decode(), safe="")
    collaterals(document)["pck_certs"][0]["certs"][0]["cert"] = chain


def pck_ca_signs(document: dict[str, Any]) -> None:
    """The chain of a PCK CA in place of the signer's: its key signs certificates, and no TCB Info."""
    named = collaterals(document)["certificates"]
    named["TCB-Info-Issuer-Chain"] = named["SGX-PCK-Certificate-Issuer-Chain"]["PLATFORM"]


def root_alone(document: dict[str, Any]) -> None:
    named = collaterals(document)["certificates"]["SGX-PCK-Certificate-Issuer-Chain"]
    begin = "-----BEGIN%20CERTIFICATE-----"
    named["PROCESSOR"] = begin + named["PROCESSOR"].rsplit(begin, 1)[1]


def without(member: str) -> Break:
    def broken(document: dict[str, Any]) -> None:
        del collaterals(document)[member]

    return broken


def older_by(days: int) -> Break:
    def broken(document: dict[str, Any]) -> None:
        document.clear()
        document |= json.loads(platform().platform_collaterals(now=NOW - timedelta(days=days)))

    return broken


def newer(document: dict[str, Any]) -> None:
    document.clear()
    document |= json.loads(platform().platform_collaterals(now=NOW + timedelta(hours=2)))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (forge_tcb_info, "TCB_INFO_SIGNATURE"),
        (forge_tdx_tcb_info, "TCB_INFO_SIGNATURE"),
        (forge("qeidentity"), "QE_IDENTITY_SIGNATURE"),
        (forge("tdqeidentity"), "QE_IDENTITY_SIGNATURE"),
        (forge("qveidentity"), "QE_IDENTITY_SIGNATURE"),
        (forge_crl("rootcacrl"), "CRL_SIGNATURE"),
        (forge_crl("processorCrl"), "CRL_SIGNATURE"),
        (swap_crls, "CRL_ISSUER"),
        (foreign_pck, "CERTIFICATE_SIGNATURE|CERTIFICATE_CHAIN"),
        (pck_ca_signs, "CERTIFICATE_ROLE"),
        (root_alone, "CERTIFICATE_CHAIN"),
        (without("rootcacrl"), "without the root's CRL"),
        (without("pckcacrl"), "CRL of the PLATFORM CA was never uploaded"),
        (older_by(31), "CRL_EXPIRED"),
        (newer, "CRL_NOT_YET_VALID"),
    ],
)
def test_a_broken_document_is_not_stored_and_the_log_names_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: Break, reason: str
) -> None:
    caplog.set_level(logging.INFO, logger="eaa")
    document = upload_document()
    broken(document)
    with service(tmp_path) as served:
        response = put(served, encode(document))
        assert (response.status, response.body) == (460, b"The integrity of the data can't be verified.")
        assert any(each in caplog.text for each in reason.split("|")), caplog.text
        assert get(served, TCB).status == 404


@pytest.mark.parametrize(
    ("broken", "cause"),
    [
        (lambda document: collaterals(document)["tcbinfos"][0].update(fmspc="00" * 6), "never|no SGX TCB Info"),
        (lambda document: document["collaterals"].update(qeidentity=document["collaterals"]["tdqeidentity"]), "TD_QE"),
        (lambda document: document["collaterals"].update(qveidentity="{}"), "MALFORMED"),
    ],
)
def test_what_lies_in_the_wrong_place_or_cannot_be_read_is_a_bad_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: Break, cause: str
) -> None:
    caplog.set_level(logging.INFO, logger="eaa")
    document = upload_document()
    broken(document)
    with service(tmp_path) as served:
        assert put(served, encode(document)).status == 400
    assert any(each in caplog.text for each in cause.split("|")), caplog.text


def test_tcb_info_of_one_model_cannot_be_kept_as_another_s(tmp_path: Path) -> None:
    document = upload_document()
    document["platforms"], collaterals(document)["pck_certs"] = [], []
    collaterals(document)["tcbinfos"][0]["fmspc"] = "00" * 6
    with service(tmp_path) as served:
        assert put(served, encode(document)).status == 400


def test_a_root_that_nobody_named_is_not_trusted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="eaa")
    with service(tmp_path, trust_anchors=INTEL) as served:
        assert put(served, upload_body()).status == 460
    assert "ROOT_UNTRUSTED" in caplog.text


def test_a_revoked_pck_certificate_is_not_stored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="eaa")
    document = upload_document()
    serial = platform().pck_certificate.serial_number
    crl = platform().pki.pck_crl(ca="platform", now=NOW - timedelta(hours=1), revoked=(serial,)).issue()
    collaterals(document)["pckcacrl"]["platformCrl"] = crl.hex()
    with service(tmp_path) as served:
        assert put(served, encode(document)).status == 460
    assert "CERTIFICATE_REVOKED" in caplog.text


def test_a_later_upload_may_rest_on_chains_and_crls_that_are_there(tmp_path: Path) -> None:
    document = upload_document()
    for member in ("rootcacrl", "pckcacrl"):
        del collaterals(document)[member]
    with service(tmp_path, uploads=(upload_body(),)) as served:
        assert put(served, encode(document)).status == 200


# --- serving


class Clock:
    """The present, as a test wants it."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> Any:
        return self.now


EXPIRES: Final = NOW + timedelta(days=30) - timedelta(hours=1)
READS: Final = (
    TCB,
    f"{V4}/qe/identity",
    f"{V4}/qve/identity",
    f"{TDX}/qe/identity",
    f"{V4}/pckcrl?ca=platform",
    f"{V4}/pckcrl?ca=processor&encoding=der",
)


def warning_of(response: Response) -> str | None:
    return dict(response.headers).get("Warning")


@pytest.mark.parametrize("target", READS)
def test_nothing_is_served_past_its_time_and_a_warning_comes_before(tmp_path: Path, target: str) -> None:
    """Rendered answers are kept between the requests, and do not outlive their documents all the same."""
    clock = Clock()
    with service(tmp_path, uploads=(upload_body(),), clock=clock) as served:
        assert warning_of(get(served, target)) is None
        clock.now = EXPIRES - WARN_BEFORE - timedelta(seconds=1)
        assert warning_of(get(served, target)) is None
        clock.now = EXPIRES - WARN_BEFORE
        said = warning_of(get(served, target))
        assert said is not None
        assert f"expires at {EXPIRES:%Y-%m-%dT%H:%M:%SZ}" in said
        clock.now = EXPIRES
        assert get(served, target).status == 200
        clock.now = EXPIRES + timedelta(seconds=1)
        late = get(served, target)
        assert (late.status, late.body) == (404, b"No cache data for this platform.")
        assert "expired at" in (warning_of(late) or "")


def test_a_document_from_before_its_time_is_not_served_either(tmp_path: Path) -> None:
    clock = Clock()
    with service(tmp_path, uploads=(upload_body(),), clock=clock) as served:
        clock.now = NOW - timedelta(hours=2)
        assert get(served, TCB).status == 404


def test_a_fresh_upload_ends_the_silence(tmp_path: Path) -> None:
    clock = Clock()
    with service(tmp_path, uploads=(upload_body(),), clock=clock) as served:
        clock.now = EXPIRES + timedelta(days=1)
        assert get(served, TCB).status == 404
        assert put(served, platform().platform_collaterals(now=clock.now)).status == 200
        assert get(served, TCB).status == 200


def tamper(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(folder / "pccs.sqlite")
    with connection:
        connection.execute(statement)
    connection.close()


def replaced(old: str, new: str) -> str:
    return f"CAST(replace(CAST(document AS TEXT), '\"{old}\"', '\"{new}\"') AS BLOB)"


def kept(kind: str) -> str:
    return f"SELECT document FROM documents WHERE kind = '{kind}' LIMIT 1"


@pytest.mark.parametrize(
    ("statement", "target"),
    [
        (f"UPDATE documents SET document = {replaced('UpToDate', 'OutOfDate')} WHERE kind = 'TCB_INFO'", TCB),
        (f"UPDATE documents SET document = {replaced('QE', 'QX')} WHERE kind = 'IDENTITY'", READS[1]),
        (f"UPDATE documents SET document = ({kept('ROOT_CRL')}) WHERE kind = 'PCK_CRL'", READS[4]),
        (f"UPDATE documents SET document = ({kept('PCK_CRL')}) WHERE kind = 'ROOT_CRL'", f"{V4}/rootcacrl"),
        (f"UPDATE documents SET document = ({kept('PCK_CRL')}) WHERE kind = 'ROOT_CRL'", "CRL"),
        ("UPDATE pck_certs SET certificate = CAST(substr(certificate, 1, 999) || x'00' AS BLOB)", "PCK"),
        # As whoever types it at SQLite's prompt would have it: the value is text then, and no longer bytes.
        ("UPDATE documents SET document = replace(document, 'UpToDate', 'OutOfDate') WHERE kind = 'TCB_INFO'", TCB),
        ("UPDATE pck_certs SET certificate = 'no certificate'", "PCK"),
        ("UPDATE platforms SET fmspc = 'FFFFFFFFFFFF'", "PCK"),
    ],
)
def test_what_was_changed_in_the_database_is_not_served(tmp_path: Path, statement: str, target: str) -> None:
    target = {
        "PCK": f"{V4}/pckcert?{pckcert_query(upload_document())}",
        "CRL": f"{V4}/crl?uri={collaterals(upload_document())['rootcacrl_cdp']}",
    }.get(target, target)
    with service(tmp_path, uploads=(upload_body(),)) as served:
        tamper(tmp_path, statement)
        assert get(served, target).status == 404


ODD_VALUES = ("NULL", "'text'")


def test_no_value_in_any_column_is_an_error_of_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Attack: whoever can write the database writes nonsense. It costs what it stands for, and nothing else."""
    with service(tmp_path, uploads=(upload_body(),)):
        pass
    whole = tmp_path / "whole"
    (tmp_path / "pccs.sqlite").rename(whole)
    targets = (*READS, f"{V4}/rootcacrl", f"{V4}/pckcert?{pckcert_query(upload_document())}")
    tables = (chains, documents, pck_certs, platform_tcbs, platforms)
    changes = [(table.name, column.name, value) for table in tables for column in table.c for value in ODD_VALUES]
    for table, column, value in changes:
        shutil.copy(whole, tmp_path / "pccs.sqlite")
        with contextlib.suppress(sqlite3.IntegrityError):
            tamper(tmp_path, f"UPDATE {table} SET {column} = {value}")
        with service(tmp_path, token=None) as served:
            found = {get(served, target).status for target in targets}
            assert found <= {200, 404, 461}, (table, column, value)
            store = served._store
            survey(store, trust_anchors=anchors(), now=NOW)
            store.fleet()
            for pki in store.pkis():
                list(store.contents(pki.root))
        for path in tmp_path.glob("pccs.sqlite*"):
            path.unlink()
    assert not [record for record in caplog.records if record.exc_info]


def test_what_was_stored_under_a_root_that_is_no_longer_trusted_is_not_served(tmp_path: Path) -> None:
    with service(tmp_path, uploads=(upload_body(),)) as served:
        assert get(served, TCB).status == 200
    with service(tmp_path, trust_anchors=TrustAnchors(frozenset({bytes(32)}))) as served:
        assert get(served, TCB).status == 404


# --- what is kept


def served_from_memory(served: Service, folder: Path, target: str) -> bool:
    """Whether an answer survives the loss of its table."""
    tamper(folder, "DELETE FROM documents")
    return get(served, target).status == 200


def test_an_answer_is_rendered_once(tmp_path: Path) -> None:
    with service(tmp_path, uploads=(upload_body(),)) as served:
        first = get(served, TCB)
        assert served_from_memory(served, tmp_path, TCB)
        again = get(served, TCB)
        assert again.body == first.body
        assert dict(again.headers)["Request-ID"] != dict(first.headers)["Request-ID"]
        assert get(served, TCB, method="HEAD").body == b""
        assert get(served, TCB, if_none_match=dict(first.headers)["ETag"]).status == 304
        assert get(served, TCB, method="POST").status == 404
        assert get(served, f"{TCB}&update=early").status == 404


def test_an_upload_replaces_what_was_kept(tmp_path: Path) -> None:
    with service(tmp_path, uploads=(upload_body(),)) as served:
        before = get(served, TCB).body
        revised = platform().revised(tcb_evaluation_data_number=platform().model.tcb_evaluation_data_number + 1)
        assert put(served, revised.platform_collaterals(now=NOW)).status == 200
        assert get(served, TCB).body != before


def test_an_upload_through_another_process_replaces_it_within_a_second(tmp_path: Path) -> None:
    revised = platform().revised(tcb_evaluation_data_number=platform().model.tcb_evaluation_data_number + 1)
    with service(tmp_path, uploads=(upload_body(),)) as first, service(tmp_path) as second:
        before = get(first, TCB).body
        assert put(second, revised.platform_collaterals(now=NOW)).status == 200
        first._looked -= 1.0  # a second later
        assert get(first, TCB).body != before


def test_misses_are_not_kept(tmp_path: Path) -> None:
    with service(tmp_path) as empty:
        assert get(empty, TCB).status == 404
        assert put(empty, upload_body()).status == 200
        assert get(empty, TCB).status == 200
