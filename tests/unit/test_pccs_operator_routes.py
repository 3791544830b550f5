"""The routes beside reading and uploading: the queue of platforms, refresh, appraisal policies, health."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from eaa.pccs.service import Service
from eaa.pccs.wire import Response
from support.pccs import (
    TOKEN,
    USER_TOKEN,
    V3,
    V4,
    encode,
    get,
    platform,
    send,
    service,
    upload_body,
    upload_document,
)

FMSPC: Final = platform().model.fmspc.hex().upper()
REPORTED: Final = {
    "enc_ppid": "AB" * 384,
    "pce_id": "0000",
    "cpu_svn": "0f" * 16,
    "pce_svn": "0d00",
    "qe_id": "ab" * 16,
    "platform_manifest": "",
}
"""As Intel's retrieval tool writes it."""
QUEUED: Final = {
    "enc_ppid": "ab" * 384,
    "platform_manifest": "",
    "qe_id": "AB" * 16,
    "pce_id": "0000",
    "cpu_svn": "0F" * 16,
    "pce_svn": "0D00",
}
SGX_CLASS: Final = "3123ec35-8d38-4ea5-87a5-d6c48b567570"
TD_QE_CLASS: Final = "3769258c-75e6-4bc7-8d72-d2b0e224cad2"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Service]:
    with service(tmp_path, uploads=(upload_body(),)) as running:
        yield running


def report(served: Service, value: Any, *, target: str = f"{V4}/platforms", token: str = USER_TOKEN) -> Response:
    return send(served, "POST", target, value, user_token=token)


def queue(served: Service, source: str = "", *, method: str = "GET") -> Response:
    return get(served, f"{V4}/platforms{source}", method=method, admin_token=TOKEN)


# --- the queue


def test_a_platform_that_reports_itself_waits_until_it_is_taken(served: Service) -> None:
    response = report(served, REPORTED)
    assert (response.status, response.body) == (200, b"Operation successful.")
    taken = queue(served)
    assert json.loads(taken.body) == [QUEUED]
    assert list(json.loads(taken.body)[0]) == list(QUEUED)
    assert dict(taken.headers)["platform-count"] == "1"
    assert dict(taken.headers)["Content-Type"] == "application/json; charset=utf-8"
    assert (queue(served).body, dict(queue(served).headers)["platform-count"]) == (b"[]", "0")
    report(served, REPORTED)
    assert json.loads(queue(served, "?source=reg").body) == [QUEUED]
    assert queue(served, "?source=reg_na").body == b"[]"


def test_a_head_takes_nothing(served: Service) -> None:
    report(served, REPORTED)
    assert queue(served, method="HEAD").status == 200
    assert json.loads(queue(served).body) == [QUEUED]


def test_a_platform_that_is_cached_does_not_wait(served: Service) -> None:
    entry = upload_document()["platforms"][0]
    assert report(served, entry).status == 200
    assert queue(served).body == b"[]"
    assert report(served, {**entry, "cpu_svn": "ff" * 16}).status == 200
    assert len(json.loads(queue(served).body)) == 1


def test_a_manifest_says_all_that_the_rest_would(served: Service) -> None:
    report(served, {**REPORTED, "platform_manifest": "F0" * 100})
    (waiting,) = json.loads(queue(served).body)
    assert waiting == {**QUEUED, "cpu_svn": "", "pce_svn": "", "enc_ppid": "", "platform_manifest": "f0" * 100}
    assert report(served, {"qe_id": "q", "pce_id": "0000", "platform_manifest": "00"}).status == 200


@pytest.mark.parametrize(
    "broken",
    [
        {**REPORTED, "qe_id": ""},
        {**REPORTED, "qe_id": "q" * 261},
        {**REPORTED, "pce_id": "00"},
        {**REPORTED, "cpu_svn": ""},
        {**REPORTED, "enc_ppid": "00"},
        {**REPORTED, "platform_manifest": 1},
        {name: value for name, value in REPORTED.items() if name != "qe_id"},
        {name: value for name, value in REPORTED.items() if name != "enc_ppid"},
        [],
        b"{",
        b"",
        b'{"qe_id":"a","qe_id":"b","pce_id":"0000","platform_manifest":"00"}',
    ],
)
def test_a_report_that_is_incomplete_is_refused(served: Service, broken: Any) -> None:
    assert report(served, broken).status == 400
    assert queue(served).body == b"[]"


@pytest.mark.parametrize(
    ("manifest", "kept"), [("ABCD", "abcd"), ("abc", "ab"), ("zz", ""), ('ab","pceid":"x', "ab"), ("ab cd", "ab")]
)
def test_a_manifest_is_kept_up_to_where_it_is_no_hex(served: Service, manifest: str, kept: str) -> None:
    """It is written into a request upstream: nothing else may come with it."""
    assert report(served, {"qe_id": "q", "pce_id": "0000", "platform_manifest": manifest}).status == 200
    (waiting,) = json.loads(queue(served).body)
    assert waiting["platform_manifest"] == kept


def test_a_platform_that_is_known_by_a_manifest_need_not_repeat_it(tmp_path: Path) -> None:
    document = upload_document()
    entry = document["platforms"][0]
    entry["platform_manifest"] = "F0" * 100
    with service(tmp_path, uploads=(encode(document),)) as served:
        assert report(served, {**entry, "cpu_svn": "ff" * 16, "platform_manifest": ""}).status == 200
        (waiting,) = json.loads(queue(served).body)
        assert (waiting["platform_manifest"], waiting["cpu_svn"]) == ("f0" * 100, "FF" * 16)


@pytest.mark.parametrize("qe_id", ["\ud800", "a\0b"])
def test_what_is_no_text_is_refused(served: Service, qe_id: str) -> None:
    """JSON can spell half a character, which has no bytes, and NUL, which some databases do not take."""
    assert report(served, {**REPORTED, "qe_id": qe_id}).status == 400
    assert report(served, {**REPORTED, "qe_id": "\U0001f600"}).status == 200


RAW: Final = json.dumps(REPORTED).encode()


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        pytest.param("identity", RAW, 200, id="as it is"),
        pytest.param("gzip", gzip.compress(RAW), 200, id="gzip"),
        pytest.param("GZIP", gzip.compress(RAW), 200, id="in capitals"),
        pytest.param("deflate", zlib.compress(RAW), 200, id="deflate"),
        pytest.param("gzip", RAW, 400, id="no gzip"),
        pytest.param("gzip", gzip.compress(RAW)[:-9], 400, id="cut short"),
        pytest.param("gzip", gzip.compress(b" " * 3_000_000), 413, id="much out of little"),
        pytest.param("br", RAW, 500, id="another way"),
        pytest.param("x", RAW, 500, id="no way"),
    ],
)
def test_a_compressed_body_is_inflated_and_bounded(served: Service, encoding: str, body: bytes, status: int) -> None:
    answer = send(served, "POST", f"{V4}/platforms", body, user_token=USER_TOKEN, content_encoding=encoding)
    assert answer.status == status


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json; charset=UTF-8", 200),
        ('application/json; charset="utf-8"', 200),
        ("application/JSON;x=1", 200),
        ("application/json; charset=utf-16", 400),
        ("application/json; charset=latin1", 500),
        ("application/vnd.api+json", 400),
        ("text/plain", 400),
        ("json", 400),
        ("", 400),
    ],
)
def test_a_body_has_to_say_that_it_is_json(served: Service, kind: str, status: int) -> None:
    answer = send(served, "POST", f"{V4}/platforms", RAW, user_token=USER_TOKEN, content_type=kind)
    assert answer.status == status


@pytest.mark.parametrize(("update", "status"), [("early", 200), ("ALL", 200), ("Standard", 200), ("x", 400)])
def test_a_report_may_name_which_updates_are_wanted(served: Service, update: str, status: int) -> None:
    assert report(served, REPORTED, target=f"{V4}/platforms?update={update}").status == status


def test_members_that_tools_add_are_left_alone(served: Service) -> None:
    assert report(served, {**REPORTED, "pckid_filename": "x.csv"}).status == 200


def test_each_token_opens_its_own_route_only(served: Service) -> None:
    assert report(served, REPORTED, token="wrong").status == 401
    assert send(served, "POST", f"{V4}/platforms", REPORTED, admin_token=TOKEN).status == 401
    assert get(served, f"{V4}/platforms", user_token=USER_TOKEN).status == 401
    assert get(served, f"{V4}/platforms", method="HEAD").status == 401
    assert get(served, f"{V4}/platforms", method="OPTIONS").body == b"POST,GET,HEAD"


@pytest.mark.parametrize("source", [f"[{FMSPC}]", f"[ {FMSPC.lower()},000000000000 ]", "[]"])
def test_cached_platforms_are_listed_by_model(served: Service, source: str) -> None:
    entry = upload_document()["platforms"][0]
    response = queue(served, f"?source={source.replace(' ', '%20')}")
    expected = {name: value.upper() for name, value in entry.items()}
    assert json.loads(response.body) == [expected]
    assert dict(response.headers)["platform-count"] == "1"


def test_platforms_of_another_model_are_not(served: Service) -> None:
    assert queue(served, "?source=[000000000000]").body == b"[]"


@pytest.mark.parametrize("source", ["x", "[", "[x]", "]", f"{FMSPC}", f"[{FMSPC},%20{FMSPC}]", f"[{FMSPC},]"])
def test_a_source_is_a_queue_or_a_list(served: Service, source: str) -> None:
    assert queue(served, f"?source={source}").status == 400


# --- refresh


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "target", ["/refresh", f"/refresh?type=certs&fmspc={FMSPC}", "/refresh?type=certs&fmspc=all", "/refresh/"]
)
def test_nothing_is_refreshed_offline(served: Service, method: str, target: str) -> None:
    response = get(served, V4 + target, method=method, admin_token=TOKEN)
    assert (response.status, response.body) == (503, b"Server is currently unable to process the request.")


@pytest.mark.parametrize("parameters", ["type=x", "type=certs", "type=certs&fmspc=00", "type=certs&fmspc=[00]"])
def test_a_refresh_of_something_else_is_a_bad_request(served: Service, parameters: str) -> None:
    assert get(served, f"{V4}/refresh?{parameters}", admin_token=TOKEN).status == 400


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "OPTIONS"])
@pytest.mark.parametrize("path", ["/refresh", "/refresh/x"])
def test_refresh_and_all_below_it_need_the_token(served: Service, method: str, path: str) -> None:
    assert get(served, V4 + path, method=method).status == 401


# --- appraisal policies


def token_of(*classes: str) -> str:
    inner = json.dumps({"policy_array": [{"environment": {"class_id": name}} for name in classes]})
    payload = base64.urlsafe_b64encode(json.dumps({"policy_payload": inner}).encode()).decode().rstrip("=")
    return f"header.{payload}.signature"


def put_policy(served: Service, text: str, **changed: Any) -> Response:
    value = {"is_default": True, "fmspc": FMSPC.lower(), "policy": text, **changed}
    return send(served, "PUT", f"{V4}/appraisalpolicy", value, admin_token=TOKEN)


def test_a_default_policy_is_handed_out_and_replaced(served: Service) -> None:
    assert get(served, f"{V4}/appraisalpolicy?fmspc={FMSPC}").status == 404
    policy = token_of(TD_QE_CLASS, SGX_CLASS.upper())
    response = put_policy(served, policy)
    assert (response.status, response.body.decode()) == (200, hashlib.sha384(policy.encode()).hexdigest())
    handed = get(served, f"{V3}/appraisalpolicy?fmspc={FMSPC.lower()}")
    assert (handed.status, handed.body.decode()) == (200, policy)
    assert dict(handed.headers)["Content-Type"] == "text/html; charset=utf-8"
    newer = token_of(SGX_CLASS, SGX_CLASS)
    assert put_policy(served, newer, is_default=False).status == 200
    assert get(served, f"{V4}/appraisalpolicy?fmspc={FMSPC}").body.decode() == policy
    assert put_policy(served, newer).status == 200
    assert get(served, f"{V4}/appraisalpolicy?fmspc={FMSPC}").body.decode() == newer


@pytest.mark.parametrize(
    "policy", [token_of(), token_of(TD_QE_CLASS), token_of("0" * 36), "no dots", "a.b.c", "a.e30.c", "a..c", ""]
)
def test_a_policy_that_is_for_nothing_known_is_refused(served: Service, policy: str) -> None:
    assert put_policy(served, policy).status == 400


@pytest.mark.parametrize("changed", [{"is_default": 1}, {"fmspc": "00"}, {"policy": None}, {"is_default": None}])
def test_each_member_of_a_policy_is_checked(served: Service, changed: dict[str, Any]) -> None:
    assert put_policy(served, token_of(SGX_CLASS), **changed).status == 400


def test_a_policy_is_put_with_the_token_and_read_without(served: Service) -> None:
    assert send(served, "PUT", f"{V4}/appraisalpolicy", {}).status == 401
    assert get(served, f"{V4}/appraisalpolicy", method="OPTIONS").body == b"PUT,GET,HEAD"
    assert get(served, f"{V4}/appraisalpolicy?fmspc=00").status == 400


# --- health


@pytest.mark.parametrize(
    ("path", "status"), [("/healthz/live", "UP"), ("/Healthz/Ready/", "UP"), ("/healthz/startup", "STARTED")]
)
def test_a_healthy_service_says_so(served: Service, path: str, status: str) -> None:
    response = get(served, path)
    answer = json.loads(response.body)
    assert (response.status, answer["status"]) == (200, status)
    assert answer["timestamp"].endswith("Z")
    assert dict(response.headers)["Content-Type"] == "application/json; charset=utf-8"


def test_readiness_names_the_database(served: Service) -> None:
    answer = json.loads(get(served, "/healthz/ready").body)
    assert list(answer) == ["status", "db", "latency", "timestamp"]
    assert answer["db"] == "CONNECTED"
    assert answer["latency"].endswith("ms")


def test_a_database_that_is_gone_is_not_ready_but_the_process_lives(served: Service, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "pccs.sqlite")
    with connection:
        connection.execute("DROP TABLE alembic_version")
    connection.close()
    response = get(served, "/healthz/ready")
    answer = json.loads(response.body)
    assert (response.status, answer["status"], answer["db"]) == (503, "DOWN", "DISCONNECTED")
    assert get(served, "/healthz/live").status == 200


@pytest.mark.parametrize("path", ["/healthz", "/healthz/", "/healthz/x", "/healthzlive"])
def test_there_are_no_other_health_routes(served: Service, path: str) -> None:
    assert get(served, path).status == 404
