"""Every route, without a socket: headers, encodings, content types, sentences and status codes."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from eaa.pccs.service import Service
from eaa.pccs.tokens import Token
from eaa.pccs.wire import SENTENCES, Request, Response, Status
from eaa.simulator.pki import SimulatedPKI
from eaa.simulator.platform import Platform
from support.pccs import (
    NOW,
    TDX,
    TOKEN,
    V3,
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

FMSPC = platform().model.fmspc.hex().upper()
ROOT_CRL_URI = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
JSON = "application/json; charset=utf-8"
HTML = "text/html; charset=utf-8"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return with_tdx(upload_document())


@pytest.fixture(scope="module")
def served(document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("pccs"), uploads=(encode(document),)) as running:
        yield running


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Service]:
    with service(tmp_path) as running:
        yield running


def headers(response: Response) -> dict[str, str]:
    return dict(response.headers)


def chains(document: dict[str, Any]) -> dict[str, Any]:
    named: dict[str, Any] = document["collaterals"]["certificates"]
    return named


# --- what is served


def test_tcb_info_comes_with_its_chain(served: Service, document: dict[str, Any]) -> None:
    response = get(served, f"{V4}/tcb?fmspc={FMSPC}")
    assert response.status == 200
    assert response.body == encode(document["collaterals"]["tcbinfos"][0]["sgx_tcbinfo"])
    assert headers(response)["Content-Type"] == JSON
    assert headers(response)["TCB-Info-Issuer-Chain"] == chains(document)["TCB-Info-Issuer-Chain"]


def test_tdx_tcb_info_lies_under_its_own_path(served: Service, document: dict[str, Any]) -> None:
    response = get(served, f"{TDX}/tcb?fmspc={FMSPC}&update=standard")
    assert response.body == encode(document["collaterals"]["tcbinfos"][0]["tdx_tcbinfo"])
    assert headers(response)["TCB-Info-Issuer-Chain"] == chains(document)["TCB-Info-Issuer-Chain"]


@pytest.mark.parametrize(
    ("target", "member"),
    [
        (f"{V4}/qe/identity", "qeidentity"),
        (f"{V4}/qve/identity", "qveidentity"),
        (f"{TDX}/qe/identity", "tdqeidentity"),
        (f"{V4}/qe/identity?update=STANDARD", "qeidentity"),
    ],
)
def test_identities_come_verbatim(served: Service, document: dict[str, Any], target: str, member: str) -> None:
    response = get(served, target)
    assert (response.status, response.body.decode()) == (200, document["collaterals"][member])
    assert headers(response)["Content-Type"] == JSON
    chain = chains(document)["SGX-Enclave-Identity-Issuer-Chain"]
    assert headers(response)["SGX-Enclave-Identity-Issuer-Chain"] == chain


@pytest.mark.parametrize("ca", ["processor", "platform", "PLATFORM"])
@pytest.mark.parametrize(
    ("encoding", "kind"),
    [
        ("", "application/x-pem-file; charset=utf-8"),
        ("&encoding=pem", "application/x-pem-file; charset=utf-8"),
        ("&encoding=der", "application/pkix-crl"),
        ("&encoding=DER", "application/pkix-crl"),
    ],
)
def test_a_pck_crl_is_hex_unless_der_is_asked_for(
    served: Service, document: dict[str, Any], ca: str, encoding: str, kind: str
) -> None:
    response = get(served, f"{V4}/pckcrl?ca={ca}{encoding}")
    stored = document["collaterals"]["pckcacrl"][f"{ca.lower()}Crl"]
    assert response.body == (bytes.fromhex(stored) if kind == "application/pkix-crl" else stored.encode())
    assert headers(response)["Content-Type"] == kind
    chain = chains(document)["SGX-PCK-Certificate-Issuer-Chain"][ca.upper()]
    assert headers(response)["SGX-PCK-CRL-Issuer-Chain"] == chain


@pytest.mark.parametrize("base", [V3, V4])
def test_the_root_s_crl_is_hex_under_the_label_of_der(served: Service, document: dict[str, Any], base: str) -> None:
    response = get(served, f"{base}/rootcacrl")
    assert response.body.decode() == document["collaterals"]["rootcacrl"]
    assert headers(response)["Content-Type"] == "application/pkix-crl; charset=utf-8"


@pytest.mark.parametrize(
    "uri", [ROOT_CRL_URI, "https%3A%2F%2Fcertificates.trustedservices.intel.com%2FIntelSGXRootCA.der"]
)
def test_a_crl_is_found_by_its_address_as_der(served: Service, document: dict[str, Any], uri: str) -> None:
    response = get(served, f"{V4}/crl?uri={uri}")
    assert response.body.hex() == document["collaterals"]["rootcacrl"]
    assert headers(response)["Content-Type"] == "application/pkix-crl"


def test_a_pck_certificate_comes_with_what_was_chosen(served: Service, document: dict[str, Any]) -> None:
    response = get(served, f"{V4}/pckcert?{pckcert_query(document)}")
    (certificate,) = document["collaterals"]["pck_certs"][0]["certs"]
    assert (response.status, response.body.decode()) == (200, unquote(certificate["cert"]))
    named = headers(response)
    assert named["SGX-TCBm"] == certificate["tcbm"].upper()
    assert named["SGX-FMSPC"] == FMSPC
    assert named["SGX-PCK-Certificate-CA-Type"] == "PLATFORM"
    assert named["SGX-PCK-Certificate-Issuer-Chain"] == chains(document)["SGX-PCK-Certificate-Issuer-Chain"]["PLATFORM"]
    assert named["Content-Type"] == "application/x-pem-file"


def test_a_pck_certificate_is_chosen_for_a_tcb_that_was_never_reported(
    served: Service, document: dict[str, Any]
) -> None:
    newer = pckcert_query(document, cpusvn="ff" * 16, pcesvn="ffff")
    assert get(served, f"{V4}/pckcert?{newer}").body == get(served, f"{V4}/pckcert?{pckcert_query(document)}").body


def test_a_platform_below_all_of_its_certificates_gets_none(served: Service, document: dict[str, Any]) -> None:
    response = get(served, f"{V4}/pckcert?{pckcert_query(document, cpusvn='00' * 16)}")
    assert (response.status, response.body) == (404, b"No cache data for this platform.")


def test_the_encrypted_ppid_may_be_missing(served: Service, document: dict[str, Any]) -> None:
    query = re.sub("&encrypted_ppid=[^&]*", "", pckcert_query(document))
    assert get(served, f"{V4}/pckcert?{query}").status == 200


def test_chains_are_percent_encoded_pem_with_the_root_last(served: Service) -> None:
    chain = headers(get(served, f"{V4}/qe/identity"))["SGX-Enclave-Identity-Issuer-Chain"]
    assert set(re.findall("%..", chain)) <= {"%20", "%0A", "%2B", "%2F", "%3D"}
    assert unquote(chain).endswith(platform().root_pem.decode().strip() + "\n")


# --- misses and mistakes


@pytest.mark.parametrize(
    "target",
    [
        f"{V4}/tcb?fmspc=000000000000",
        f"{V4}/tcb?fmspc={FMSPC}&update=early",
        f"{V4}/qe/identity?update=early",
        f"{V3}/tcb?fmspc={FMSPC}",
        f"{V3}/qe/identity",
        f"{V4}/crl?uri=https://certificates.trustedservices.intel.com/IntelSGXRootCA.crl",
    ],
)
def test_what_was_never_uploaded_is_a_miss(served: Service, target: str) -> None:
    response = get(served, target)
    assert (response.status, response.body) == (404, b"No cache data for this platform.")
    assert headers(response)["Content-Type"] == HTML


@pytest.mark.parametrize(
    "target",
    [f"{V4}/rootcacrl", f"{V4}/pckcrl?ca=platform", f"{V4}/crl?uri={ROOT_CRL_URI}", f"{TDX}/qe/identity"],
)
def test_an_empty_cache_misses_everything(empty: Service, target: str) -> None:
    assert get(empty, target).status == 404


@pytest.mark.parametrize("changed", [{"qeid": "00"}, {"pceid": "0001"}])
def test_an_unknown_platform_has_its_own_status(
    served: Service, document: dict[str, Any], changed: dict[str, str]
) -> None:
    response = get(served, f"{V4}/pckcert?{pckcert_query(document, **changed)}")
    assert (response.status, response.body) == (461, b"The platform was not found in the cache.")


@pytest.mark.parametrize(
    "target",
    [
        f"{V4}/tcb",
        f"{V4}/tcb?fmspc=00",
        f"{V4}/tcb?fmspc={FMSPC}&update=all",
        f"{V4}/qe/identity?update=",
        f"{V4}/pckcrl",
        f"{V4}/pckcrl?ca=root",
        f"{V4}/crl",
        f"{V4}/crl?uri=https://example.org/crl",
        f"{V4}/pckcert",
    ],
)
def test_a_wrong_parameter_is_refused(served: Service, target: str) -> None:
    response = get(served, target)
    assert (response.status, response.body) == (400, b"Invalid request parameters.")


@pytest.mark.parametrize(
    "changed",
    [
        {"qeid": ""},
        {"qeid": "q" * 261},
        {"cpusvn": "00"},
        {"pcesvn": "00"},
        {"pceid": "00"},
        {"encrypted_ppid": ""},
        {"encrypted_ppid": "00"},
        {"encrypted_ppid": "G" * 768},
    ],
)
def test_each_parameter_of_pckcert_is_checked(
    served: Service, document: dict[str, Any], changed: dict[str, str]
) -> None:
    assert get(served, f"{V4}/pckcert?{pckcert_query(document, **changed)}").status == 400


def test_the_first_value_of_a_repeated_parameter_counts(served: Service) -> None:
    assert get(served, f"{V4}/tcb?fmspc={FMSPC}&fmspc=00").status == 200
    assert get(served, f"{V4}/tcb?fmspc=00&fmspc={FMSPC}").status == 400


def test_other_parameters_are_ignored(served: Service) -> None:
    assert get(served, f"{V4}/tcb?fmspc={FMSPC}&customParameter=abc").status == 200


@pytest.mark.parametrize(("offset", "status"), [(0, 200), (1, 404), (-1, 404)])
def test_tcb_info_may_be_asked_for_by_its_evaluation_number(served: Service, offset: int, status: int) -> None:
    number = platform().model.tcb_evaluation_data_number + offset
    response = get(served, f"{V4}/tcb?fmspc={FMSPC}&tcbEvaluationDataNumber={number}")
    assert response.status == status
    if status == 200:
        assert response.body == get(served, f"{V4}/tcb?fmspc={FMSPC}").body


@pytest.mark.parametrize("number", ["x", "-1", "1" * 11, "1.5"])
def test_an_evaluation_number_is_a_number(served: Service, number: str) -> None:
    assert get(served, f"{V4}/tcb?fmspc={FMSPC}&tcbEvaluationDataNumber={number}").status == 400


def test_an_empty_evaluation_number_is_none(served: Service) -> None:
    assert get(served, f"{V4}/tcb?fmspc={FMSPC}&tcbEvaluationDataNumber=").status == 200


# --- paths and methods


@pytest.mark.parametrize(
    "path", [f"{V4}/qe/identity", f"{V4}/qe/identity/", f"{V4}/QE/Identity", "/SGX/Certification/V4/qe/identity"]
)
def test_paths_are_matched_in_any_case_and_with_a_final_slash(served: Service, path: str) -> None:
    assert get(served, path).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/",
        V4,
        f"{V4}/",
        f"{V4}/pckcerts",
        f"{V4}/fmspcs",
        f"{V4}/tcb/x",
        f"{V4}/tcb//",
        "/sgx/certification/v5/tcb",
        "/sgx/certification/v4x/tcb",
        "/tdx/certification/v3/tcb",
        f"{TDX}/pckcrl",
        f"{TDX}/qve/identity",
        f"{TDX}/platformcollateral",
    ],
)
def test_other_paths_get_express_s_page(served: Service, path: str) -> None:
    response = get(served, f"{path}?fmspc={FMSPC}")
    assert response.status == 404
    assert f"<pre>Cannot GET {path}</pre>".encode() in response.body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_other_methods_get_it_too(served: Service, method: str) -> None:
    response = get(served, f"{V4}/rootcacrl", method=method)
    assert response.status == 404
    assert f"Cannot {method} {V4}/rootcacrl".encode() in response.body


@pytest.mark.parametrize(
    "target",
    [f"{V4}/rootcacrl", f"{V4}/tcb?fmspc={FMSPC}", f"{V4}/pckcrl?ca=platform&encoding=der", f"{V4}/tcb?fmspc=00", "/"],
)
def test_head_answers_as_get_without_the_body(served: Service, target: str) -> None:
    full, head = get(served, target), get(served, target, method="HEAD")
    assert (head.status, head.body) == (full.status, b"")
    assert headers(head) | {"Request-ID": ""} == headers(full) | {"Request-ID": ""} or target == "/"


def test_options_names_the_methods(served: Service) -> None:
    response = get(served, f"{V4}/tcb", method="OPTIONS")
    assert (response.status, response.body, headers(response)["Allow"]) == (200, b"GET,HEAD", "GET,HEAD")
    assert get(served, "/nowhere", method="OPTIONS").status == 404


def test_a_client_that_has_the_answer_gets_304(served: Service) -> None:
    target = f"{V4}/tcb?fmspc={FMSPC}"
    tag = headers(get(served, target))["ETag"]
    assert tag.startswith('W/"')
    response = get(served, target, if_none_match=tag)
    assert (response.status, response.body) == (304, b"")
    assert "TCB-Info-Issuer-Chain" in headers(response)


def test_each_answer_has_a_request_id_of_its_own(served: Service) -> None:
    ids = {
        headers(get(served, target))["Request-ID"]
        for target in (f"{V4}/rootcacrl", f"{V4}/rootcacrl", "/", f"{V4}/tcb")
    }
    assert len(ids) == 4
    assert all(re.fullmatch("[0-9a-f]{32}", request_id) for request_id in ids)


def test_a_client_s_own_request_id_is_not_echoed(served: Service) -> None:
    """The reference means to and never does."""
    assert headers(get(served, f"{V4}/rootcacrl", request_id="f" * 32))["Request-ID"] != "f" * 32


@pytest.mark.parametrize(
    "target", [f"{V3}/rootcacrl", f"{V3}/tcb?fmspc=00", f"{V3}/nowhere", f"{V3}/platformcollateral"]
)
def test_version_3_warns_of_its_end(served: Service, target: str) -> None:
    assert headers(get(served, target))["Warning"].startswith('299 - "PCS API version 3 is no longer available.')
    assert "Warning" not in headers(get(served, target.replace("v3", "v4")))


# --- writing


def test_an_upload_is_answered_with_one_sentence(empty: Service) -> None:
    response = put(empty, upload_body())
    assert (response.status, response.body) == (200, b"Operation successful.")
    assert headers(response)["Content-Type"] == HTML
    assert get(empty, f"{V4}/rootcacrl").status == 200


def test_an_upload_may_be_laid_out_as_people_like(empty: Service) -> None:
    assert put(empty, json.dumps(upload_document(), indent=2).encode()).status == 200
    assert get(empty, f"{V4}/tcb?fmspc={FMSPC}").body == encode(
        upload_document()["collaterals"]["tcbinfos"][0]["sgx_tcbinfo"]
    )


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + " ", TOKEN.upper()])
def test_an_upload_needs_the_token(empty: Service, token: str) -> None:
    response = put(empty, upload_body(), admin_token=token)
    assert (response.status, response.body) == (401, b"Authentication failed.")
    assert get(empty, f"{V4}/rootcacrl").status == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS", "DELETE"])
@pytest.mark.parametrize("path", ["/platformcollateral", "/PlatformCollateral/", "/platformcollateral/x"])
def test_nothing_at_or_below_the_upload_route_answers_without_the_token(empty: Service, method: str, path: str) -> None:
    assert get(empty, V4 + path, method=method).status == 401
    assert get(empty, V4 + path, method=method, admin_token=TOKEN).status != 401


def test_without_a_token_set_nothing_opens_it_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="eaa")
    with service(tmp_path, token=None) as closed:
        for token in ("", TOKEN, "\0" * 32):
            assert put(closed, upload_body(), admin_token=token).status == 401
    assert "no administrator token is set" in caplog.text


def test_a_token_is_compared_by_its_digest() -> None:
    assert TOKEN not in repr(Token.of(TOKEN))
    assert Token.of(TOKEN).opens(TOKEN)
    assert not Token.of(TOKEN).opens(None)
    assert not Token().opens("")
    assert not Token().opens(None)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_an_upload_is_json_by_its_label_too(empty: Service, kind: str) -> None:
    assert put(empty, upload_body(), content_type=kind).status == 400


def test_the_label_may_name_a_character_set(empty: Service) -> None:
    assert put(empty, upload_body(), content_type="Application/JSON; charset=utf-8").status == 200


def test_a_broken_upload_changes_nothing(served: Service) -> None:
    before = get(served, f"{V4}/tcb?fmspc={FMSPC}").body
    document = upload_document()
    document["platforms"][0]["cpu_svn"] = "00" * 16
    assert put(served, encode(document)).status == 400
    assert get(served, f"{V4}/tcb?fmspc={FMSPC}").body == before


def test_the_limit_of_a_body_is_none_before_the_token_is_right(served: Service) -> None:
    path = f"{V4}/platformcollateral"
    assert served.body_limit(Request(method="PUT", path=path, headers={"admin-token": TOKEN})) == 2 * 1024 * 1024
    assert served.body_limit(Request(method="PUT", path=path, headers={"admin-token": "wrong"})) == 0
    assert served.body_limit(Request(method="GET", path=path, headers={"admin-token": TOKEN})) == 0
    assert served.body_limit(Request(method="PUT", path="/", headers={"admin-token": TOKEN})) == 0


def test_the_log_names_what_is_wrong_with_an_upload(empty: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="eaa")
    document = upload_document()
    document["collaterals"]["tcbinfos"][0]["sgx_tcbinfo"]["tcbInfo"]["fmspc"] = "xyz"
    put(empty, encode(document))
    assert "collaterals.tcbinfos[0].sgx_tcbinfo.tcbInfo.fmspc" in caplog.text


def test_the_log_tells_no_secrets(empty: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="eaa")
    put(empty, upload_body())
    get(empty, f"{V4}/pckcert?{pckcert_query(upload_document(), pceid='0001')}")
    entry = upload_document()["platforms"][0]
    for secret in (TOKEN, entry["qe_id"], entry["enc_ppid"]):
        assert secret.lower() not in caplog.text.lower()


def test_a_change_of_the_pki_that_is_served_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = Platform.create(now=NOW, pki=SimulatedPKI.create(now=NOW, seed=bytes(32)))
    with service(tmp_path, uploads=(upload_body(),), trust_anchors=anchors(other)) as served:
        caplog.clear()
        assert put(served, other.platform_collaterals(now=NOW)).status == 200
        assert "is the default from now on" in caplog.text


def test_a_database_that_fails_is_our_fault_and_the_log_says_how(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with service(tmp_path, uploads=(upload_body(),)) as served:
        with sqlite3.connect(tmp_path / "pccs.sqlite") as connection:
            connection.execute("DROP TABLE documents")
        connection.close()
        response = get(served, f"{V4}/rootcacrl")
    assert (response.status, response.body.decode()) == (500, SENTENCES[Status.INTERNAL_ERROR])
    assert "no such table: documents" in caplog.text
