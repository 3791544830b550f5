"""Attacks on the cache by whoever may upload: what was signed once and is over, repeated; and PKIs that are mixed."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from eaa.pccs.service import Service
from eaa.simulator.pki import SimulatedPKI
from eaa.simulator.platform import Platform
from support.pccs import (
    NOW,
    TDX,
    TOKEN,
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
)

FMSPC: Final = platform().model.fmspc.hex().upper()
TCB: Final = f"{V4}/tcb?fmspc={FMSPC}"
PCKCERT: Final = f"{V4}/pckcert?{pckcert_query(upload_document())}"


def later(days: int = 1) -> bytes:
    """The same machine's collateral, published later."""
    return platform().platform_collaterals(now=NOW + timedelta(days=days))


@pytest.mark.parametrize(
    "target",
    [
        TCB,
        f"{V4}/qe/identity",
        f"{V4}/qve/identity",
        f"{TDX}/qe/identity",
        f"{V4}/rootcacrl",
        f"{V4}/pckcrl?ca=platform",
    ],
)
def test_what_is_older_never_comes_back(tmp_path: Path, target: str) -> None:
    clock: list[datetime] = [NOW]
    with service(tmp_path, clock=lambda: clock[0]) as served:
        assert put(served, upload_body()).status == 200
        clock[0] += timedelta(days=1)
        assert put(served, later()).status == 200
        newer = get(served, target)
        assert put(served, upload_body()).status == 200
        assert get(served, target).body == newer.body
        assert newer.status == 200


def revoking(document: dict[str, Any]) -> dict[str, Any]:
    """The upload with a CRL in which the machine's own certificate is listed."""
    certificate = platform().pck_certificate.serial_number
    crl = platform().pki.pck_crl(ca="platform", now=NOW + timedelta(hours=1), revoked=(certificate,)).issue()
    document["collaterals"]["pckcacrl"]["platformCrl"] = crl.hex()
    return document


def test_a_certificate_that_was_revoked_is_not_brought_back_with_an_older_crl(tmp_path: Path) -> None:
    clock: list[datetime] = [NOW]
    with service(tmp_path, uploads=(upload_body(),), clock=lambda: clock[0]) as served:
        assert get(served, PCKCERT).status == 200
        clock[0] += timedelta(hours=2)
        document = revoking(upload_document())
        # Only the CRL: the certificate itself would not be taken with it.
        document["platforms"], document["collaterals"]["pck_certs"] = [], []
        assert put(served, encode(document)).status == 200
        assert get(served, PCKCERT).status == 404
        # The whole of the older upload is refused: what vouches is the newer CRL.
        assert put(served, upload_body()).status == 460
        assert get(served, PCKCERT).status == 404


def test_a_certificate_is_not_taken_under_a_tcb_that_is_not_its_own(tmp_path: Path) -> None:
    document = upload_document()
    certificate = document["collaterals"]["pck_certs"][0]["certs"][0]
    certificate["tcbm"] = "FF" * 16 + certificate["tcbm"][32:]
    with service(tmp_path) as served:
        assert put(served, encode(document)).status == 400
        assert get(served, PCKCERT).status == 461


# --- several PKIs


def other(**options: Any) -> Platform:
    return Platform.create(now=NOW, pki=SimulatedPKI.create(now=NOW, seed=bytes(32)), **options)


def fmspc_of(machine: Platform) -> str:
    return machine.model.fmspc.hex().upper()


def test_each_platform_and_model_is_answered_from_its_own_pki(tmp_path: Path) -> None:
    theirs = other(fmspc=bytes.fromhex("00906ED50000"))
    body = theirs.platform_collaterals(now=NOW)
    trusted = anchors(theirs)
    for uploads in ((upload_body(), body), (body, upload_body())):
        folder = tmp_path / str(uploads[0] is body)
        folder.mkdir()
        with service(folder, uploads=uploads, trust_anchors=trusted) as served:
            for document in (upload_document(), json.loads(body)):
                answer = get(served, f"{V4}/pckcert?{pckcert_query(document)}")
                chains = document["collaterals"]["certificates"]
                headers = dict(answer.headers)
                assert answer.status == 200
                assert (
                    headers["SGX-PCK-Certificate-Issuer-Chain"]
                    == (chains["SGX-PCK-Certificate-Issuer-Chain"]["PLATFORM"])
                )
                info = document["collaterals"]["tcbinfos"][0]
                answer = get(served, f"{V4}/tcb?fmspc={info['fmspc']}")
                assert answer.body == encode(info["sgx_tcbinfo"])
                assert dict(answer.headers)["TCB-Info-Issuer-Chain"] == chains["TCB-Info-Issuer-Chain"]


def test_a_base_url_may_name_a_pki(tmp_path: Path) -> None:
    theirs = other()
    body = theirs.platform_collaterals(now=NOW)
    with service(tmp_path, uploads=(upload_body(), body), trust_anchors=anchors(theirs)) as served:
        for document in (upload_document(), json.loads(body)):
            machine = platform() if document == upload_document() else theirs
            base = f"/pki/{root_of(machine)[:16].upper()}"
            assert get(served, f"{base}{V4}/qe/identity").body == document["collaterals"]["qeidentity"].encode()
            assert get(served, f"{base}{TCB}").body == encode(document["collaterals"]["tcbinfos"][0]["sgx_tcbinfo"])
            assert get(served, f"{base}{V4}/rootcacrl").body == document["collaterals"]["rootcacrl"].lower().encode()
        assert get(served, f"/pki/{'00' * 8}{TCB}").status == 404
        assert b"Cannot GET" in get(served, f"/pki/xyz{TCB}").body


def root_of(machine: Platform) -> str:
    return hashlib.sha256(machine.root_der).hexdigest()


def test_a_pki_that_is_trusted_no_longer_gives_way_to_one_that_is(tmp_path: Path) -> None:
    theirs = other()
    body = theirs.platform_collaterals(now=NOW)
    with service(tmp_path, uploads=(upload_body(), body), trust_anchors=anchors(theirs)) as served:
        assert get(served, f"{V4}/qe/identity").body == json.loads(body)["collaterals"]["qeidentity"].encode()
    with service(tmp_path) as served:
        expected = upload_document()["collaterals"]["qeidentity"].encode()
        assert get(served, f"{V4}/qe/identity").body == expected
        assert get(served, TCB).status == 200


def test_what_is_asked_for_makes_no_platform_grow_without_end(tmp_path: Path) -> None:
    with service(tmp_path, uploads=(upload_body(),)) as served:
        for index in range(40):
            query = pckcert_query(upload_document(), cpusvn="ff" * 15 + f"{index + 100:02x}")
            assert get(served, f"{V4}/pckcert?{query}").status == 200
        assert len(cached(served)) == 16


def cached(served: Service) -> list[Any]:
    found: list[Any] = json.loads(get(served, f"{V4}/platforms?source=[]", admin_token=TOKEN).body)
    return found
