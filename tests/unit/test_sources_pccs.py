"""The client of a PCCS: what it asks for, what it believes, and what it says on a bad day."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest

from eaa.collateral.bundle import MAX_COLLATERAL_SIZE, Collateral
from eaa.collateral.intel import join_signed_document
from eaa.errors import EAAError, MalformedInput, Misuse, Reason, Unavailable
from eaa.sources import open_source
from eaa.sources.configured import ConfiguredSource
from eaa.sources.files import FileSource
from eaa.sources.pccs import MAX_BODY, BaseURL, PCCSSource, upload
from eaa.sources.qcnl import QCNLConfig
from support.flow import free_port
from support.pccs import NOW, platform
from support.scripted_http import Reply, Script, scripted
from support.tls_files import make_ca

FMSPC: Final = platform().model.fmspc
COLLATERAL: Final = platform().collateral(now=NOW)
CRL, TCB, IDENTITY, ROOT = (f"/sgx/certification/v4/{route}" for route in ("pckcrl", "tcb", "qe/identity", "rootcacrl"))


def chain(name: str, pem: bytes) -> tuple[str, str]:
    return name, quote(pem.decode(), safe="")


def good(collateral: Collateral = COLLATERAL) -> dict[str, Sequence[Reply]]:
    tcb = join_signed_document("tcbInfo", collateral.tcb_info, collateral.tcb_info_signature)
    identity = join_signed_document("enclaveIdentity", collateral.qe_identity, collateral.qe_identity_signature)
    return {
        CRL: [
            Reply(
                headers=(chain("SGX-PCK-CRL-Issuer-Chain", collateral.pck_crl_issuer_chain),), body=collateral.pck_crl
            )
        ],
        TCB: [Reply(headers=(chain("TCB-Info-Issuer-Chain", collateral.tcb_info_issuer_chain),), body=tcb)],
        IDENTITY: [
            Reply(
                headers=(chain("SGX-Enclave-Identity-Issuer-Chain", collateral.qe_identity_issuer_chain),),
                body=identity,
            )
        ],
        ROOT: [Reply(body=collateral.root_ca_crl.hex().encode())],
    }


def with_reply(path: str, *replies: Reply) -> dict[str, Sequence[Reply]]:
    return {**good(), path: replies}


def fetch(script: Script, *, retries: int = 0, timeout: float = 5) -> Collateral:
    source = PCCSSource(script.url, retries=retries, timeout=timeout, sleep=lambda _: None)
    return source.fetch(tee=0, fmspc=FMSPC, ca="platform")


def failure(script: Script, *, retries: int = 0, timeout: float = 5) -> EAAError:
    with pytest.raises(Unavailable) as failed:
        fetch(script, retries=retries, timeout=timeout)
    assert script.url in failed.value.message
    assert failed.value.hint
    return failed.value


# --- what is asked for


def test_four_requests_make_a_collateral() -> None:
    with scripted(good()) as script:
        assert fetch(script) == COLLATERAL
        assert script.requests == [
            f"{CRL}?ca=platform&encoding=der",
            f"{TCB}?fmspc={FMSPC.hex().upper()}&update=standard",
            f"{IDENTITY}?update=standard",
            ROOT,
        ]


def test_tdx_documents_are_asked_for_under_tdx() -> None:
    replies = good()
    replies |= {path.replace("sgx", "tdx", 1): replies.pop(path) for path in (TCB, IDENTITY)}
    with scripted(replies) as script:
        assert PCCSSource(script.url).fetch(tee=0x81, fmspc=FMSPC, ca="platform") == COLLATERAL
        assert [target.split("/")[1] for target in script.requests] == ["sgx", "tdx", "tdx", "sgx"]


def test_the_update_type_is_passed_on() -> None:
    with scripted(good()) as script:
        PCCSSource(script.url, update="early").fetch(tee=0, fmspc=FMSPC, ca="platform")
        assert [target for target in script.requests if "update=early" in target] == script.requests[1:3]


@pytest.mark.parametrize(
    ("text", "sgx", "tdx"),
    [
        ("https://h", "https://h/sgx/certification/v4/", "https://h/tdx/certification/v4/"),
        ("https://h:8081/", "https://h:8081/sgx/certification/v4/", "https://h:8081/tdx/certification/v4/"),
        ("https://h/sgx/certification/v4", "https://h/sgx/certification/v4/", "https://h/tdx/certification/v4/"),
        ("https://h/sgx/certification/v3/", "https://h/sgx/certification/v3/", "https://h/tdx/certification/v3/"),
        (
            "https://h/a/b/sgx/certification/v4/",
            "https://h/a/b/sgx/certification/v4/",
            "https://h/a/b/tdx/certification/v4/",
        ),
        ("http://[::1]:81/p/", "http://[::1]:81/p/sgx/certification/v4/", "http://[::1]:81/p/tdx/certification/v4/"),
    ],
)
def test_a_base_url_may_be_written_as_the_configuration_file_writes_it(text: str, sgx: str, tdx: str) -> None:
    base = BaseURL.parse(text)
    assert (base.of("sgx"), base.of("tdx")) == (sgx, tdx)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h:8081",
        "ftp://h/",
        "https://",
        "https://h:0/",
        "https://h:99999/",
        "https://[::1/",
        "https://u:p@h/",
        "https://h/?x",
        "https://h/#x",
        "https://h/ x",
        "https://<Region-ID>.h/",
        "https://h/\r\nX: 1",
    ],
)
def test_something_else_is_no_base_url(text: str) -> None:
    with pytest.raises(Misuse) as refused:
        PCCSSource(text)
    assert refused.value.reason is Reason.ADDRESS_INVALID


def test_intel_s_own_service_is_told_by_its_host() -> None:
    """It has no route for the root's CRL; that comes from where the root says."""
    assert BaseURL.parse("https://api.trustedservices.intel.com/sgx/certification/v4/").is_intel_pcs
    assert not BaseURL.parse("https://trustedservices.intel.com.example.org/").is_intel_pcs


def test_intel_s_service_is_not_asked_for_the_root_s_crl(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted({**good(), "/IntelSGXRootCA.der": [Reply(body=COLLATERAL.root_ca_crl)]}) as script:
        monkeypatch.setattr(BaseURL, "is_intel_pcs", True)
        monkeypatch.setattr("eaa.sources.pccs.INTEL_ROOT_CRL_URL", f"{script.url}/IntelSGXRootCA.der")
        assert fetch(script) == COLLATERAL
        assert ROOT not in script.requests


# --- what is understood


@pytest.mark.parametrize("path", [CRL, ROOT])
@pytest.mark.parametrize("written", [bytes.hex, lambda der: der.hex().upper() + "\n"])
def test_a_crl_may_come_as_hex(path: str, written: object) -> None:
    (reply,) = good()[path]
    der = COLLATERAL.pck_crl if path == CRL else COLLATERAL.root_ca_crl
    assert callable(written)
    with scripted(with_reply(path, Reply(headers=reply.headers, body=written(der).encode()))) as script:
        assert fetch(script) == COLLATERAL


def test_the_root_s_crl_may_come_as_der() -> None:
    with scripted(with_reply(ROOT, Reply(body=COLLATERAL.root_ca_crl))) as script:
        assert fetch(script) == COLLATERAL


def test_header_names_may_be_written_in_any_case_and_those_of_version_3_are_known() -> None:
    (reply,) = good()[TCB]
    old = (("sgx-tcb-INFO-issuer-chain", reply.headers[0][1]),)
    with scripted(with_reply(TCB, Reply(headers=old, body=reply.body))) as script:
        assert fetch(script) == COLLATERAL


# --- what goes wrong


@pytest.mark.parametrize("path", [CRL, TCB, IDENTITY, ROOT])
@pytest.mark.parametrize("status", [404, 461])
def test_a_miss_is_told_from_a_failure(path: str, status: int) -> None:
    with scripted(with_reply(path, Reply(status=status, body=b"No cache data for this platform."))) as script:
        assert failure(script).reason is Reason.COLLATERAL_NOT_FOUND


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=500, body=b"Internal server error occurred."),
        Reply(status=301, headers=(("Location", "https://example.org/"),)),
        Reply(status=200, body=b""),
        Reply(status=200, body=b"<html>a proxy's page</html>"),
        Reply(status=200, body=b"x" * (MAX_BODY + 1)),
    ],
)
@pytest.mark.parametrize("path", [CRL, TCB, IDENTITY, ROOT])
def test_another_answer_than_the_protocol_s_is_an_error_of_the_pccs(path: str, reply: Reply) -> None:
    with scripted(with_reply(path, reply)) as script:
        assert failure(script).reason is Reason.PCCS_ERROR


@pytest.mark.parametrize("path", [CRL, TCB, IDENTITY, ROOT])
@pytest.mark.parametrize("body", [b"", b"junk", b"7b7d", b"{}", b"[", b'{"signature":"00"}'])
def test_a_body_that_is_not_the_document_is_one_too(path: str, body: bytes) -> None:
    with scripted(with_reply(path, Reply(headers=good()[path][0].headers, body=body))) as script:
        assert failure(script).reason is Reason.PCCS_ERROR


@pytest.mark.parametrize("path", [CRL, TCB, IDENTITY])
@pytest.mark.parametrize("value", [None, "", "no certificate", "%FF-----BEGIN CERTIFICATE-----", "A" * 65_000])
def test_an_answer_without_its_chain_is_an_error_of_the_pccs(path: str, value: str | None) -> None:
    (reply,) = good()[path]
    headers = () if value is None else ((reply.headers[0][0], value),)
    with scripted(with_reply(path, Reply(headers=headers, body=reply.body))) as script:
        assert failure(script).reason is Reason.PCCS_ERROR


def test_what_a_server_says_is_fit_for_one_line_of_a_log() -> None:
    reply = Reply(status=500, body=b"\x1b[31mred\x00\r\n" + b"x" * 5000)
    with scripted(with_reply(CRL, reply)) as script:
        message = failure(script).message
    assert message.isprintable()
    assert len(message) < 500


def test_a_dead_line_is_told_as_such() -> None:
    port = free_port()
    source = PCCSSource(f"http://127.0.0.1:{port}/", retries=0)
    with pytest.raises(Unavailable) as failed:
        source.fetch(tee=0, fmspc=FMSPC, ca="platform")
    assert failed.value.reason is Reason.PCCS_UNREACHABLE
    assert f"http://127.0.0.1:{port}/" in failed.value.message
    assert "refused" in failed.value.message


def test_a_host_that_nobody_knows_is_told_as_such() -> None:
    source = PCCSSource("http://no-such-host.invalid/", retries=0)
    with pytest.raises(Unavailable) as failed:
        source.fetch(tee=0, fmspc=FMSPC, ca="platform")
    assert failed.value.reason is Reason.PCCS_UNREACHABLE


@pytest.mark.parametrize(
    "reply",
    [
        Reply(stalls=60, body=b"x"),
        Reply(trickles=0.1, body=b"x" * 600),
        Reply(hangs_up=True),
        Reply(body=b"x", announces=100),
    ],
)
def test_a_server_that_does_not_finish_is_given_up(reply: Reply) -> None:
    started = time.monotonic()
    with scripted(with_reply(CRL, reply)) as script:
        assert failure(script, timeout=0.3).reason is Reason.PCCS_UNREACHABLE
    assert time.monotonic() - started < 30


# --- trying again


@pytest.mark.parametrize("passing", [Reply(status=503, body=b"busy"), Reply(hangs_up=True)])
def test_what_passes_is_tried_again(passing: Reply) -> None:
    with scripted(with_reply(CRL, passing, passing, *good()[CRL])) as script:
        assert fetch(script, retries=2) == COLLATERAL
        assert len(script.requests) == 6


def test_there_is_an_end_to_trying() -> None:
    with scripted(with_reply(CRL, Reply(status=503, body=b"busy"))) as script:
        assert failure(script, retries=2).reason is Reason.PCCS_ERROR
        assert len(script.requests) == 3


@pytest.mark.parametrize("status", [400, 404, 429, 500, 502])
def test_nothing_else_is_tried_again(status: int) -> None:
    """As Intel's own library does."""
    with scripted(with_reply(CRL, Reply(status=status, body=b"no"))) as script:
        failure(script, retries=5)
        assert len(script.requests) == 1


@pytest.mark.parametrize(("delay", "waits"), [(0, [1, 2, 4]), (7, [7, 7, 7])])
def test_the_configured_delay_lies_between(delay: int, waits: list[float]) -> None:
    waited: list[float] = []
    with scripted(with_reply(CRL, Reply(status=503, body=b"busy"))) as script:
        config = QCNLConfig(collateral_service=script.url, retry_times=3, retry_delay=delay)
        with pytest.raises(Unavailable):
            ConfiguredSource(config, sleep=waited.append).fetch(tee=0, fmspc=FMSPC, ca="platform")
    assert waited == waits


# --- TLS


def test_a_server_is_verified_by_the_ca_that_was_named(tmp_path: Path) -> None:
    files = make_ca(tmp_path)
    with scripted(good(), tls=(files.chain, files.key)) as script:
        source = PCCSSource(script.url, ca_file=files.ca, retries=0)
        assert source.fetch(tee=0, fmspc=FMSPC, ca="platform") == COLLATERAL
        with pytest.raises(Unavailable) as failed:
            PCCSSource(script.url, retries=0).fetch(tee=0, fmspc=FMSPC, ca="platform")
        assert failed.value.reason is Reason.PCCS_UNREACHABLE
        assert failed.value.hint is not None
        assert "--pccs-ca" in failed.value.hint


def test_verification_is_given_up_only_where_the_configuration_says_so_and_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = make_ca(tmp_path)
    with scripted(good(), tls=(files.chain, files.key)) as script:
        source = ConfiguredSource(QCNLConfig(collateral_service=script.url, use_secure_cert=False))
        assert source.fetch(tee=0, fmspc=FMSPC, ca="platform") == COLLATERAL
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "NOT verified" in caplog.text


def test_https_to_a_plain_server_is_told_as_such() -> None:
    with scripted(good()) as script:
        source = PCCSSource(script.url.replace("http:", "https:"), retries=0)
        with pytest.raises(Unavailable) as failed:
            source.fetch(tee=0, fmspc=FMSPC, ca="platform")
    assert failed.value.reason is Reason.PCCS_UNREACHABLE
    assert failed.value.hint is not None
    assert "http://" in failed.value.hint


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_file_that_cannot_be_used_is_misuse(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Misuse) as refused:
        PCCSSource("https://h/", ca_file=path)
    assert refused.value.reason is Reason.FILE_UNREADABLE


# --- uploading

UPLOAD = "/sgx/certification/v4/platformcollateral"


def test_an_upload_sends_the_body_as_it_is_with_the_token() -> None:
    with scripted({UPLOAD: [Reply(body=b"Operation successful.")]}) as script:
        upload(script.url, b'{ "as": "it is" }', "a token")
    assert script.bodies == [b'{ "as": "it is" }']
    assert script.headers[0]["admin-token"] == "a token"
    assert script.headers[0]["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (401, Unavailable, Reason.PERMISSION_DENIED),
        (400, MalformedInput, Reason.COLLATERAL_MALFORMED),
        (413, MalformedInput, Reason.COLLATERAL_MALFORMED),
        (460, MalformedInput, Reason.COLLATERAL_MALFORMED),
        (404, Unavailable, Reason.PCCS_ERROR),
        (503, Unavailable, Reason.PCCS_ERROR),
    ],
)
def test_an_upload_that_is_refused_says_who_has_to_act(status: int, kind: type[EAAError], reason: Reason) -> None:
    with scripted({UPLOAD: [Reply(status=status, body=b"no")]}) as script, pytest.raises(kind) as refused:
        upload(script.url, b"{}", "a token")
    assert refused.value.reason is reason
    assert "a token" not in refused.value.message
    assert len(script.requests) == 1


# --- which source


def write_collateral(folder: Path) -> Path:
    path = folder / "collateral.json"
    path.write_bytes(COLLATERAL.to_json())
    return path


def test_a_file_serves_what_it_holds(tmp_path: Path) -> None:
    source = open_source(pccs=None, ca_file=None, file=write_collateral(tmp_path), environ={})
    assert source.fetch(tee=0, fmspc=bytes(6), ca="processor") == COLLATERAL


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        (None, Misuse, Reason.FILE_UNREADABLE),
        (b"{}", MalformedInput, Reason.COLLATERAL_MALFORMED),
        (b" " * (MAX_COLLATERAL_SIZE + 1), MalformedInput, Reason.COLLATERAL_MALFORMED),
    ],
)
def test_a_file_that_holds_none_is_found_out_at_once(
    tmp_path: Path, content: bytes | None, kind: type[EAAError], reason: Reason
) -> None:
    path = tmp_path / "collateral.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(kind) as refused:
        FileSource(path)
    assert refused.value.reason is reason


def test_a_pccs_that_was_named_is_the_one_that_is_asked() -> None:
    with scripted(good()) as script:
        source = open_source(pccs=script.url, ca_file=None, file=None, environ={"QCNL_CONF_PATH": "/nowhere"})
        assert source.fetch(tee=0, fmspc=FMSPC, ca="platform") == COLLATERAL


def test_otherwise_it_is_the_one_of_the_configuration_file(tmp_path: Path) -> None:
    path = tmp_path / "qcnl.conf"
    with scripted(good()) as script:
        path.write_text(json.dumps({"pccs_url": f"{script.url}/sgx/certification/v4/"}))
        source = open_source(pccs=None, ca_file=None, file=None, environ={"QCNL_CONF_PATH": str(path)})
        assert source.fetch(tee=0, fmspc=FMSPC, ca="platform") == COLLATERAL


def test_there_is_no_other_source_to_fall_back_to(tmp_path: Path) -> None:
    environ = {"QCNL_CONF_PATH": str(tmp_path / "missing")}
    with pytest.raises(Misuse) as refused:
        open_source(pccs=None, ca_file=None, file=None, environ=environ)
    assert refused.value.reason is Reason.FILE_UNREADABLE
    with pytest.raises(Misuse) as refused:
        open_source(pccs="https://h/", ca_file=None, file=write_collateral(tmp_path), environ={})
    assert refused.value.reason is Reason.USAGE
