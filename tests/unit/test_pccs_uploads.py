"""PUT /platformcollateral: one good upload, one thing broken in each row."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes

from eaa.pccs.schema import UPLOAD_V4, violations
from eaa.pccs.uploads import IDENTITY, MAX_ENCODED_CHAIN, TCB_INFO, parse_upload
from eaa.pccs.wire import Refusal, Status
from eaa.simulator.pki import SimulatedPKI
from eaa.simulator.platform import Platform
from support.pccs import NOW, encode, platform, signed, upload_body, upload_document, with_tdx

Break = Callable[[dict[str, Any]], object]


def refused(document: dict[str, Any] | bytes, api_version: int = 4) -> Status:
    body = document if isinstance(document, bytes) else encode(document)
    with pytest.raises(Refusal) as refusal:
        parse_upload(body, api_version=api_version)
    return refusal.value.status


def test_a_good_upload_is_read_whole() -> None:
    upload = parse_upload(upload_body(), api_version=4)
    (machine,) = upload.platforms
    assert machine.fmspc == platform().model.fmspc.hex().upper()
    assert (machine.ca, machine.is_listed, len(machine.certificates), len(machine.raw_tcbs)) == ("PLATFORM", True, 1, 1)
    assert machine.best(machine.raw_tcbs[0]) is machine.certificates[0]
    assert [(info.name, info.tee, info.update) for info in upload.tcb_infos] == [(machine.fmspc, "SGX", "STANDARD")]
    assert {(found.name, found.tee) for found in upload.identities} == {("QE", "SGX"), ("QVE", "SGX"), ("TD_QE", "TDX")}
    assert set(upload.pck_crls) == {"PROCESSOR", "PLATFORM"}
    assert set(upload.chains) == {"PROCESSOR", "PLATFORM", TCB_INFO, IDENTITY}
    assert upload.root_crl is not None
    assert upload.root_crl_uri == "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"


def test_the_pki_is_named_by_its_root() -> None:
    root = parse_upload(upload_body(), api_version=4).root
    assert root == platform().pki.trust_anchor.fingerprint(hashes.SHA256()).hex()


def test_identifiers_are_kept_in_upper_case() -> None:
    document = upload_document()
    document["platforms"][0]["qe_id"] = "Abc"
    document["collaterals"]["pck_certs"][0]["qe_id"] = "aBC"
    (machine,) = parse_upload(encode(document), api_version=4).platforms
    assert (machine.qe_id, machine.is_listed) == ("ABC", True)


def test_tdx_and_early_documents_are_told_apart() -> None:
    document = with_tdx(upload_document())
    entry = document["collaterals"]["tcbinfos"][0]
    entry["sgx_tcbinfo_early"] = entry["sgx_tcbinfo"]
    entry["tdx_tcbinfo_early"] = entry["tdx_tcbinfo"]
    document["collaterals"]["qeidentity_early"] = document["collaterals"]["qeidentity"]
    upload = parse_upload(encode(document), api_version=4)
    kinds = {(info.tee, info.update) for info in upload.tcb_infos}
    assert kinds == {("SGX", "STANDARD"), ("SGX", "EARLY"), ("TDX", "STANDARD"), ("TDX", "EARLY")}
    assert ("QE", "EARLY") in {(found.name, found.update) for found in upload.identities}


def test_tcb_info_is_cut_out_of_the_body_as_it_was_signed() -> None:
    """Numbers and escapes that a parser would write differently, signed like that, survive."""
    entry = upload_document()["collaterals"]["tcbinfos"][0]
    inner = json.dumps(entry["sgx_tcbinfo"]["tcbInfo"]).replace('"tcbType": 0', '"tcbType": 0.0e0')
    original = signed("tcbInfo", inner)
    body = upload_body().decode()
    served = encode(entry["sgx_tcbinfo"]).decode()
    assert body.count(served) == 1
    (info,) = parse_upload(body.replace(served, original).encode(), api_version=4).tcb_infos
    assert info.text == original.encode()


def test_an_upload_that_was_laid_out_anew_gives_the_same_documents() -> None:
    """Intel's administration tool writes `json.dump(…)`, with a space behind each comma and colon."""
    laid_out = json.dumps(upload_document(), indent=1).encode()
    ours, theirs = parse_upload(upload_body(), api_version=4), parse_upload(laid_out, api_version=4)
    assert [info.text for info in theirs.tcb_infos] == [info.text for info in ours.tcb_infos]
    assert [found.text for found in theirs.identities] == [found.text for found in ours.identities]


def test_members_of_others_may_stand_anywhere() -> None:
    document = upload_document()
    document["platforms"][0]["pckid_filename"] = "node1.csv"
    document["collaterals"]["comment"] = {"by": "an operator"}
    assert parse_upload(encode(document), api_version=4).platforms


def test_a_manifest_may_be_null_and_a_number_may_be_written_as_a_fraction() -> None:
    document = upload_document()
    document["platforms"][0]["platform_manifest"] = None
    document["collaterals"]["tcbinfos"][0]["sgx_tcbinfo"]["tcbInfo"]["version"] = 3.0
    assert parse_upload(encode(document), api_version=4).platforms[0].platform_manifest == ""


def test_chains_may_be_missing() -> None:
    document = upload_document()
    document["collaterals"]["certificates"] = {"SGX-PCK-Certificate-Issuer-Chain": {}}
    upload = parse_upload(encode(document), api_version=4)
    assert (upload.root, upload.chains) == (None, {})


def test_one_signer_s_chain_serves_both_kinds_of_documents() -> None:
    document = upload_document()
    chain = document["collaterals"]["certificates"].pop("TCB-Info-Issuer-Chain")
    assert parse_upload(encode(document), api_version=4).chains[TCB_INFO] == chain


def member(document: dict[str, Any], *path: str | int) -> Any:
    for step in path:
        document = document[step]  # type: ignore[index]
    return document


def change(*path: str | int, to: Any) -> Break:
    return lambda document: member(document, *path[:-1]).__setitem__(path[-1], to)


def drop(*path: str | int) -> Break:
    return lambda document: member(document, *path[:-1]).__delitem__(path[-1])


C = "collaterals"
CERT = (C, "pck_certs", 0, "certs", 0)
INFO = (C, "tcbinfos", 0, "sgx_tcbinfo")
CHAINS = (C, "certificates")
NOT_A_CHAIN = "-----BEGIN%20CERTIFICATE-----%0AAAAA%0A-----END%20CERTIFICATE-----%0A"


@pytest.mark.parametrize(
    "broken",
    [
        drop("platforms"),
        drop(C),
        change("platforms", to={}),
        drop("platforms", 0, "qe_id"),
        change("platforms", 0, "qe_id", to=""),
        change("platforms", 0, "qe_id", to="x" * 261),
        change("platforms", 0, "pce_id", to="00000"),
        change("platforms", 0, "cpu_svn", to="00"),
        change("platforms", 0, "pce_svn", to="GG00"),
        change("platforms", 0, "enc_ppid", to="00" * 383),
        change("platforms", 0, "platform_manifest", to=1),
        drop(C, "version"),
        change(C, "version", to=3),
        change(C, "version", to=True),
        drop(C, "pck_certs"),
        drop(C, "tcbinfos"),
        drop(C, "certificates"),
        drop(*CHAINS, "SGX-PCK-Certificate-Issuer-Chain"),
        drop(C, "pck_certs", 0, "enc_ppid"),
        change(C, "pck_certs", 0, "certs", to=[]),
        drop(*CERT, "tcb"),
        change(*CERT, "tcb", "sgxtcbcomp01svn", to=256),
        change(*CERT, "tcb", "sgxtcbcomp16svn", to="1"),
        change(*CERT, "tcb", "pcesvn", to=65536),
        change(*CERT, "tcbm", to="00" * 17),
        change(*CERT, "cert", to="no certificate"),
        change(*CERT, "cert", to="%FF%FE"),
        change(*CERT, "cert", to=NOT_A_CHAIN),
        drop(C, "tcbinfos", 0, "fmspc"),
        change(*INFO, "tcbInfo", "id", to="TDX"),
        change(*INFO, "tcbInfo", "fmspc", to="00"),
        change(*INFO, "tcbInfo", "issueDate", to="yesterday"),
        change(*INFO, "tcbInfo", "nextUpdate", to="2026-02-30T00:00:00Z"),
        change(*INFO, "tcbInfo", "tcbType", to="0"),
        change(*INFO, "tcbInfo", "tcbType", to=0.5),
        change(*INFO, "tcbInfo", "tcbLevels", 0, "tcb", to={}),
        drop(*INFO, "signature"),
        change(C, "tcbinfos", 0, "fmspc", to="00" * 6),
        change(C, "qeidentity", to={}),
        change(C, "qeidentity_early", to={}),
        change(C, "pckcacrl", "platformCrl", to="not hex"),
        change(C, "pckcacrl", "platformCrl", to="3000"),
        change(C, "rootcacrl", to="00"),
        change(*CHAINS, "TCB-Info-Issuer-Chain", to="-----BEGIN CERTIFICATE-----"),
        change(*CHAINS, "TCB-Info-Issuer-Chain", to=NOT_A_CHAIN),
        change(*CHAINS, "TCB-Info-Issuer-Chain", to=NOT_A_CHAIN + "\r\nX-Header: 1"),
        change(*CHAINS, "TCB-Info-Issuer-Chain", to=NOT_A_CHAIN * (MAX_ENCODED_CHAIN // 60)),
        change(*CHAINS, "SGX-PCK-Certificate-Issuer-Chain", "PROCESSOR", to=1),
    ],
)
def test_an_upload_with_one_thing_broken_is_refused(broken: Break) -> None:
    document = upload_document()
    broken(document)
    assert refused(document) is Status.INVALID_REQUEST


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"platforms":NaN}',
        b"[" * 100_000,
        upload_body()[:-1],
        upload_body().replace(b'"pce_id"', b'"qe_id"', 1),
    ],
)
def test_something_that_is_no_upload_is_refused(body: bytes) -> None:
    assert refused(body) is Status.INVALID_REQUEST


def test_a_platform_whose_model_has_no_tcb_info_in_the_upload_is_refused() -> None:
    document = upload_document()
    document[C]["tcbinfos"] = []
    assert refused(document) is Status.INVALID_REQUEST


def test_a_platform_below_all_of_its_certificates_is_refused() -> None:
    document = upload_document()
    document["platforms"][0]["cpu_svn"] = "00" * 16
    with pytest.raises(Refusal) as refusal:
        parse_upload(encode(document), api_version=4)
    assert refusal.value.status is Status.INVALID_REQUEST


@pytest.mark.parametrize("name", ["TCB-Info-Issuer-Chain", "SGX-Enclave-Identity-Issuer-Chain"])
def test_chains_of_two_roots_are_an_integrity_error(name: str) -> None:
    document = upload_document()
    other = Platform.create(now=NOW, pki=SimulatedPKI.create(now=NOW, seed=bytes(32)))
    foreign = json.loads(other.platform_collaterals(now=NOW))
    document[C]["certificates"][name] = foreign[C]["certificates"][name]
    assert refused(document) is Status.INTEGRITY_ERROR


def v3_document() -> dict[str, Any]:
    """An upload as tools of API version 3 made it."""
    document = upload_document()
    document["platforms"], document[C]["pck_certs"] = [], []
    del document[C]["version"]
    inner = copy.deepcopy(document[C]["tcbinfos"][0].pop("sgx_tcbinfo"))
    for level in inner["tcbInfo"]["tcbLevels"]:
        level["tcb"] = {**{f"sgxtcbcomp{index:02d}svn": 1 for index in range(1, 17)}, "pcesvn": 1}
    document[C]["tcbinfos"][0]["tcbinfo"] = inner
    chains = document[C]["certificates"]
    chains["SGX-TCB-Info-Issuer-Chain"] = chains.pop("TCB-Info-Issuer-Chain")
    return document


def test_an_upload_of_version_3_has_its_own_names() -> None:
    upload = parse_upload(encode(v3_document()), api_version=3)
    assert (upload.api_version, len(upload.tcb_infos), TCB_INFO in upload.chains) == (3, 1, True)
    assert refused(v3_document(), api_version=4) is Status.INVALID_REQUEST


def test_a_level_of_version_3_is_bounded() -> None:
    document = v3_document()
    document[C]["tcbinfos"][0]["tcbinfo"]["tcbInfo"]["tcbLevels"][0]["tcb"]["sgxtcbcomp01svn"] = 256
    assert refused(document, api_version=3) is Status.INVALID_REQUEST


def test_what_is_wrong_is_named_by_its_place() -> None:
    document = upload_document()
    document["platforms"][0]["pce_id"] = "0"
    assert next(violations(document, UPLOAD_V4)).startswith("the upload.platforms[0].pce_id ")
