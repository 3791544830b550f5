"""Every key of sgx_default_qcnl.conf, in both of its forms, does what it does to Intel's library."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from urllib.parse import quote

import pytest

from eaa.errors import Misuse, Reason, Unavailable
from eaa.sources import PCKName
from eaa.sources.configured import ConfiguredSource
from eaa.sources.pccs import INTEL_ROOT_CRL_URL
from eaa.sources.qcnl import parse_qcnl
from support.pccs import NOW, platform
from support.scripted_http import Reply, Script, scripted
from support.scripted_pccs import CRL, ROOT_CRL, served

FMSPC = platform().model.fmspc
COLLATERAL = platform().collateral(now=NOW)
PCKCERT = "/sgx/certification/v4/pckcert"
CRL_ROUTE = "/sgx/certification/v4/crl"
NAME = PCKName(qe_id=bytes(16), encrypted_ppid=b"\1" * 384, cpu_svn=bytes(16), pce_svn=13, pce_id=b"\0\0")
CHAIN = platform().collateral(now=NOW, pck_chain=True).pck_certificate_chain or b""
END = b"-----END CERTIFICATE-----\n"
PEM, *ISSUERS = [part + END for part in CHAIN.split(END) if part]
FORMS = ("json", "legacy")


def replies() -> dict[str, Sequence[Reply]]:
    chain = quote(b"".join(ISSUERS).decode(), safe="")
    pck = Reply(headers=(("SGX-PCK-Certificate-Issuer-Chain", chain),), body=PEM)
    return {**served(COLLATERAL), PCKCERT: (pck,), CRL_ROUTE: (Reply(body=COLLATERAL.root_ca_crl),)}


def hex_crls() -> dict[str, Sequence[Reply]]:
    (crl,) = served(COLLATERAL)[CRL]
    return {**replies(), CRL: (replace(crl, body=crl.body.hex().encode()),)}


@contextmanager
def service(answers: dict[str, Sequence[Reply]] | None = None) -> Iterator[Script]:
    with scripted(answers or replies()) as script:
        yield script


def source(form: str, url: str, **keys: object) -> ConfiguredSource:
    """What a file with these keys, written in this form, makes."""
    keys = {"pccs_url": f"{url}/sgx/certification/v4/", **keys}
    if form == "json":
        text = "// a comment\n" + json.dumps(keys)
    else:
        words = {True: "TRUE", False: "FALSE"}
        lines = (
            f"{key.upper()}={words.get(value, value) if isinstance(value, bool) else value}"
            for key, value in keys.items()
        )
        text = "# a comment\n" + "\n".join(lines) + "\n"
    return ConfiguredSource(parse_qcnl(text, name="test"), sleep=lambda _: None)


def fetch(made: ConfiguredSource, tee: int = 0) -> None:
    assert made.fetch(tee=tee, fmspc=FMSPC, ca="platform") == COLLATERAL


@pytest.mark.parametrize("form", FORMS)
def test_pccs_url_serves_everything(form: str) -> None:
    with service() as script:
        made = source(form, script.url)
        fetch(made)
        assert made.fetch_pck_chain(NAME) == PEM + b"".join(ISSUERS)
        assert script.requests[-1].startswith(f"{PCKCERT}?qeid=")


@pytest.mark.parametrize("form", FORMS)
def test_collateral_service_serves_everything_but_pck_certificates(form: str) -> None:
    with service() as one, service() as other:
        made = source(form, one.url, collateral_service=f"{other.url}/sgx/certification/v4/")
        fetch(made)
        made.fetch_pck_chain(NAME)
        assert [request.partition("?")[0] for request in one.requests] == [PCKCERT]
        assert len(other.requests) == 4
        assert made.base_url.root == other.url


@pytest.mark.parametrize("form", FORMS)
def test_local_pck_url_is_asked_first(form: str) -> None:
    with service() as near, service() as far:
        made = source(form, far.url, local_pck_url=f"{near.url}/sgx/certification/v4/")
        made.fetch_pck_chain(NAME)
        assert (len(near.requests), len(far.requests)) == (1, 0)
        near.replies[PCKCERT] = (Reply(status=404, body=b"none"),)
        made.fetch_pck_chain(NAME)
        assert (len(near.requests), len(far.requests)) == (2, 1)


@pytest.mark.parametrize("form", FORMS)
def test_without_a_version_crls_are_asked_for_in_hex(form: str) -> None:
    """The requests of Intel's library, spec section 7(b)."""
    for keys in ({}, {"pccs_api_version": "3.0"}):
        with service(hex_crls()) as script:
            fetch(source(form, script.url, **keys))
            model = FMSPC.hex().upper()
            assert script.requests == [
                f"{CRL}?ca=platform",
                f"/sgx/certification/v4/tcb?fmspc={model}&update=standard",
                "/sgx/certification/v4/qe/identity?update=standard",
                ROOT_CRL,
            ]


@pytest.mark.parametrize("form", FORMS)
def test_version_3_1_asks_for_der_and_for_the_root_s_crl_by_its_address(form: str) -> None:
    with service() as script:
        fetch(source(form, script.url, pccs_api_version="3.1"))
        assert script.requests[0] == f"{CRL}?ca=platform&encoding=der"
        assert script.requests[-1] == f"{CRL_ROUTE}?uri={INTEL_ROOT_CRL_URL}"


def test_tcb_update_type_is_passed_on() -> None:
    with service() as script:
        fetch(source("json", script.url, tcb_update_type="early"))
        assert [request for request in script.requests if "update=early" in request] == script.requests[1:3]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("times", "requests"), [(0, 1), (3, 4)])
def test_retry_times_are_as_many(form: str, times: int, requests: int) -> None:
    with service({**replies(), CRL: (Reply(status=503, body=b"busy"),)}) as script:
        with pytest.raises(Unavailable):
            source(form, script.url, retry_times=times, retry_delay=1).fetch(tee=0, fmspc=FMSPC, ca="platform")
        assert len(script.requests) == requests


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("key", "asks"), [("verify_collateral_cache_expire_hours", "collateral"), ("pck_cache_expire_hours", "pck")]
)
def test_answers_are_kept_for_so_many_hours(form: str, key: str, asks: str) -> None:
    for hours, expected in ((0, (1, 2, 3)), (2, (1, 1, 2))):
        with service() as script:
            made = source(form, script.url, **{key: hours})
            for moment, count in zip((0, 7199, 7201), expected, strict=True):
                made._kept_collateral._clock = made._kept_chains._clock = partial(float, moment)
                if asks == "pck":
                    made.fetch_pck_chain(NAME)
                else:
                    fetch(made)
                assert len(script.requests) == count * (1 if asks == "pck" else 4)


@pytest.mark.parametrize("form", FORMS)
def test_local_cache_only_asks_nobody_for_pck_certificates(form: str) -> None:
    with service() as script:
        made = source(form, script.url, local_cache_only=True)
        with pytest.raises(Unavailable) as caught:
            made.fetch_pck_chain(NAME)
        assert caught.value.reason is Reason.COLLATERAL_NOT_FOUND
        assert script.requests == []
        fetch(made)


def test_custom_request_options_go_along_with_pck_requests_alone() -> None:
    options = {"get_cert": {"headers": {"X-Region": "here"}, "params": {"tcbm": "latest", "a b": "c&d"}}}
    with service() as script:
        made = source("json", script.url, custom_request_options=options)
        made.fetch_pck_chain(NAME)
        assert script.requests[0].endswith("&tcbm=latest&a%20b=c%26d")
        assert script.headers[0]["x-region"] == "here"
        fetch(made)
        assert not [request for request in script.requests[1:] if "tcbm" in request]
        assert "x-region" not in script.headers[1]


@pytest.mark.parametrize("form", FORMS)
def test_use_secure_cert_is_loud_where_it_is_false(form: str, caplog: pytest.LogCaptureFixture) -> None:
    source(form, "https://127.0.0.1:1", use_secure_cert=True)
    assert not caplog.records
    source(form, "https://127.0.0.1:1", use_secure_cert=False)
    assert "NOT verified" in caplog.text


def test_tdx_documents_are_asked_for_under_tdx() -> None:
    with service() as script, pytest.raises(Unavailable):
        source("json", script.url).fetch(tee=0x81, fmspc=FMSPC, ca="platform")
    assert script.requests[1].startswith("/tdx/certification/v4/tcb?")


def test_a_failure_never_tells_the_machine() -> None:
    with service({PCKCERT: (Reply(status=500, body=b"no"),)}) as script, pytest.raises(Unavailable) as caught:
        source("json", script.url).fetch_pck_chain(NAME)
    assert "01" * 8 not in caught.value.message


def test_a_placeholder_is_misuse() -> None:
    with pytest.raises(Misuse):
        parse_qcnl('{"pccs_url": "https://sgx-dcap-server.<Region-ID>.aliyuncs.com/"}', name="test")
