"""sgx_default_qcnl.conf in both of its forms: every key, its default, and every way to get it wrong."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from eaa.errors import Misuse, Reason
from eaa.sources.qcnl import (
    DEFAULT_QCNL_PATH,
    MAX_QCNL_SIZE,
    QCNLConfig,
    default_qcnl_path,
    load_qcnl,
    parse_qcnl,
)

URL = "https://pccs.example.org:8081/sgx/certification/v4/"
OTHER = "https://collateral.example.org/sgx/certification/v4/"

JSON = """// shipped by a distribution
{
  // where it is
  "pccs_url": "https://pccs.example.org:8081/sgx/certification/v4/" // the // in this string is no comment
  ,"use_secure_cert": false
  /* several
     lines */
  ,"collateral_service": "https://collateral.example.org/sgx/certification/v4/"
  ,"tcb_update_type": "Early"
  ,"pccs_api_version": "3.1"
  ,"retry_times": 6
  ,"retry_delay": 10
  ,"local_pck_url": "http://localhost:8081/sgx/certification/v4/"
  ,"pck_cache_expire_hours": 168
  ,"verify_collateral_cache_expire_hours": 0.5
  ,"local_cache_only": true
  ,"custom_request_options": {"get_cert": {"headers": {"head1": "value1"}, "params": {"a": "1", "b": "2"}}}
  ,"a key of tomorrow": []
}
"""
LEGACY = """# PCCS server address
PCCS_URL = https://pccs.example.org:8081/sgx/certification/v4/

USE_SECURE_CERT=FALSE
COLLATERAL_SERVICE=https://collateral.example.org/sgx/certification/v4/
PCCS_API_VERSION=3.1
RETRY_TIMES=6
RETRY_DELAY=10
LOCAL_PCK_URL=http://localhost:8081/sgx/certification/v4/
PCK_CACHE_EXPIRE_HOURS=168
VERIFY_COLLATERAL_CACHE_EXPIRE_HOURS=24
LOCAL_CACHE_ONLY=true
A_KEY_OF_TOMORROW=1
"""


def parse(text: str) -> QCNLConfig:
    return parse_qcnl(text, name="qcnl.conf")


def test_the_json_form_says_everything() -> None:
    assert parse(JSON) == QCNLConfig(
        pccs_url=URL,
        use_secure_cert=False,
        collateral_service=OTHER,
        tcb_update_type="early",
        pccs_api_version="3.1",
        retry_times=6,
        retry_delay=10,
        local_pck_url="http://localhost:8081/sgx/certification/v4/",
        pck_cache_expire_hours=168,
        verify_collateral_cache_expire_hours=0.5,
        local_cache_only=True,
        get_cert_headers=(("head1", "value1"),),
        get_cert_params=(("a", "1"), ("b", "2")),
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"pccs_url": ' + "/* " * 80_000, id="comments without an end"),
        pytest.param('{"pccs_url": ' + '"\\\\' * 60_000, id="strings without an end"),
        pytest.param("{" + ",".join(f'"{number}":1' for number in range(20_000)) + ",", id="many members"),
        pytest.param(" " * (MAX_QCNL_SIZE + 1), id="too long"),
    ],
)
def test_a_file_that_would_keep_a_parser_busy_is_refused_at_once(text: str) -> None:
    before = time.process_time()
    with pytest.raises(Misuse) as caught:
        parse(text)
    assert caught.value.reason is Reason.QCNL_INVALID
    assert time.process_time() - before < 5


def test_what_follows_a_comment_without_an_end_is_no_comment() -> None:
    with pytest.raises(Misuse) as caught:
        parse('{"retry_times": 1} /* more')
    assert caught.value.reason is Reason.QCNL_INVALID


def test_the_older_form_says_what_it_can() -> None:
    assert parse(LEGACY) == QCNLConfig(
        pccs_url=URL,
        use_secure_cert=False,
        collateral_service=OTHER,
        pccs_api_version="3.1",
        retry_times=6,
        retry_delay=10,
        local_pck_url="http://localhost:8081/sgx/certification/v4/",
        pck_cache_expire_hours=168,
        verify_collateral_cache_expire_hours=24,
        local_cache_only=True,
    )


@pytest.mark.parametrize("text", ["{}", "", "# nothing but a comment\n", "\n\n"])
def test_what_is_not_said_has_the_library_s_default(text: str) -> None:
    assert parse(text) == QCNLConfig()
    assert QCNLConfig().pccs_url == "https://localhost:8081/sgx/certification/v4/"


@pytest.mark.parametrize("text", [f'{{"pccs_url": "{URL}"}}', f"PCCS_URL={URL}"])
def test_collateral_comes_from_the_pccs_unless_it_is_said_otherwise(text: str) -> None:
    assert parse(text).collateral_service == URL


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "qcnl.conf"
    path.write_text(JSON, encoding="utf-8-sig")
    assert load_qcnl(path) == parse(JSON)


def test_a_cache_time_is_cut_down_to_ninety_days() -> None:
    assert parse('{"pck_cache_expire_hours": 1e9}').pck_cache_expire_hours == 2160
    assert parse("PCK_CACHE_EXPIRE_HOURS=9999").pck_cache_expire_hours == 2160


def test_an_empty_local_url_is_none() -> None:
    assert parse('{"local_pck_url": ""}').local_pck_url is None
    assert parse("LOCAL_PCK_URL=").local_pck_url is None


def test_the_older_form_names_its_keys_in_upper_case_only() -> None:
    assert parse("pccs_url=https://pccs.example.org/") == QCNLConfig()


# --- what is wrong with it


def refused(text: str) -> Misuse:
    with pytest.raises(Misuse) as refusal:
        parse(text)
    assert refusal.value.reason is Reason.QCNL_INVALID
    assert refusal.value.hint
    return refusal.value


@pytest.mark.parametrize(
    "text",
    [
        '{"pccs_url": "https://api.<Region-ID>.example.org/sgx/certification/v4/"}',
        "PCCS_URL=https://sgx-dcap-server.<Region-ID>.example.org/sgx/certification/v4/",
        '{"collateral_service": "https://<Region-ID>.example.org/"}',
    ],
)
def test_a_placeholder_that_nobody_filled_in_is_refused(text: str) -> None:
    assert "Region-ID" in refused(text).message


def test_a_missing_comma_is_found_where_it_is_missing() -> None:
    """There is no falling back to the older form, and from there to an address that nobody meant."""
    text = '// a comment\n{\n  "pccs_url": "https://pccs.example.org/"\n  "use_secure_cert": true\n}\n'
    error = refused(text)
    assert "line 4, column 3" in error.message
    assert error.hint is not None
    assert "comma" in error.hint


def test_comments_do_not_move_an_error() -> None:
    assert "line 3, column 17" in refused('{ /* a\n b */ // c\n "retry_times": ,}').message


@pytest.mark.parametrize(
    "text",
    [
        '{"pccs_url": "ftp://pccs.example.org/"}',
        '{"pccs_url": "pccs.example.org"}',
        '{"pccs_url": 1}',
        '{"pccs_url": ""}',
        '{"pccs_url": "https://[::1/"}',
        '{"retry_times": ' + "1" * 5000 + "}",
        '{"use_secure_cert": "false"}',
        '{"use_secure_cert": 0}',
        '{"tcb_update_type": "late"}',
        '{"tcb_update_type": 1}',
        '{"pccs_api_version": "3.2"}',
        '{"pccs_api_version": 3.1}',
        '{"retry_times": "6"}',
        '{"retry_times": -1}',
        '{"retry_times": 101}',
        '{"retry_times": true}',
        '{"retry_delay": 1.5}',
        '{"pck_cache_expire_hours": -1}',
        '{"pck_cache_expire_hours": NaN}',
        '{"pck_cache_expire_hours": "168"}',
        '{"local_cache_only": "true"}',
        '{"custom_request_options": []}',
        '{"custom_request_options": {"get_cert": 1}}',
        '{"custom_request_options": {"get_cert": {"params": {"a": 1}}}}',
        '{"retry_times": 1, "retry_times": 2}',
        '{"a": ' + "[" * 100_000,
        "{",
        "{} {}",
        "[]",
        "no configuration at all",
        "PCCS_URL https://pccs.example.org/",
        "PCCS_URL=pccs.example.org",
        "USE_SECURE_CERT=no",
        "RETRY_TIMES=six",
        "RETRY_TIMES=-1",
        "RETRY_TIMES=",
        "RETRY_TIMES=" + "9" * 5000,
        "PCK_CACHE_EXPIRE_HOURS=a week",
        "LOCAL_CACHE_ONLY=1",
    ],
)
def test_a_value_that_is_not_what_its_key_takes_is_refused(text: str) -> None:
    assert "qcnl.conf" in refused(text).message


def test_a_line_of_the_older_form_that_says_nothing_is_named() -> None:
    assert "line 3" in refused("# one\nPCCS_URL=https://pccs.example.org/\nretry six times\n").message


# --- the file


def test_the_file_is_found_through_the_environment_or_in_its_place() -> None:
    assert default_qcnl_path({}) == DEFAULT_QCNL_PATH == Path("/etc/sgx_default_qcnl.conf")
    assert default_qcnl_path({"QCNL_CONF_PATH": ""}) == DEFAULT_QCNL_PATH
    assert default_qcnl_path({"QCNL_CONF_PATH": "/tmp/qcnl.conf"}) == Path("/tmp/qcnl.conf")


def test_a_file_that_is_not_there_is_no_default(tmp_path: Path) -> None:
    with pytest.raises(Misuse) as refusal:
        load_qcnl(tmp_path / "missing")
    assert refusal.value.reason is Reason.FILE_UNREADABLE
    assert refusal.value.hint is not None
    assert "--pccs" in refusal.value.hint


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b" " * (MAX_QCNL_SIZE + 1)])
def test_a_file_that_is_no_text_of_sensible_length_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "qcnl.conf"
    path.write_bytes(content)
    with pytest.raises(Misuse) as refusal:
        load_qcnl(path)
    assert refusal.value.reason is Reason.QCNL_INVALID
