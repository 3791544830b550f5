"""Quotes that only name their platform: its PCK certificate comes from a PCCS or a file, and is verified like any."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote as escape

import pytest

from eaa.collateral.bundle import Collateral
from eaa.errors import EAAError, MalformedInput, Reason, Unavailable, VerificationError
from eaa.evidence.quote import CertificationDataType, Quote
from eaa.simulator.platform import Platform
from eaa.simulator.quoting import QuoteLayout
from eaa.sources import PCKCertificateSource, PCKName
from eaa.sources.files import FileSource
from eaa.sources.pccs import PCCSSource
from eaa.verifier import COLLATERAL_LIFETIME, MAX_CACHED_CHAINS, TrustAnchors, Verifier
from eaa.verifier.supply import Patience
from support.pccs import NOW, platform, running_pccs, upload_body
from support.scripted_http import Reply, scripted
from support.simulated import REPORT_DATA, sample_enclave

KINDS: Final = [kind for kind in CertificationDataType if kind is not CertificationDataType.PCK_CHAIN]
PCKCERT: Final = "/sgx/certification/v4/pckcert"
CHAIN_HEADER: Final = "SGX-PCK-Certificate-Issuer-Chain"
NAME: Final = PCKName(
    qe_id=bytes(range(16)), encrypted_ppid=b"\xee" * 384, cpu_svn=bytes([14] * 16), pce_svn=13, pce_id=b"\1\0"
)


def quote_of(kind: CertificationDataType, of: Platform | None = None) -> Quote:
    layout = QuoteLayout(certification=kind)
    return Quote.parse((of or platform()).launch(*sample_enclave()).quote(REPORT_DATA, layout=layout))


def chain_of(of: Platform) -> bytes:
    chain = of.collateral(now=NOW, pck_chain=True).pck_certificate_chain
    assert chain is not None
    return chain


@dataclass
class Source:
    """A source with PCK certificates, which counts how often it is asked for one."""

    platform: Platform
    asked: list[PCKName] = field(default_factory=list)

    def fetch(self, *, tee: int, fmspc: bytes, ca: str) -> Collateral:
        assert (tee, fmspc, ca) == (0, platform().model.fmspc, platform().model.ca)
        return self.platform.collateral(now=NOW)

    def fetch_pck_chain(self, name: PCKName) -> bytes | None:
        self.asked.append(name)
        return chain_of(self.platform)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def anchors() -> TrustAnchors:
    return TrustAnchors(frozenset({hashlib.sha256(platform().root_der).digest()}))


def verifier_of(source: object, *, clock: Clock | None = None) -> Verifier:
    assert isinstance(source, PCKCertificateSource)
    return Verifier(source, trust_anchors=anchors(), clock=clock or Clock())  # type: ignore[arg-type]


# --- from a source


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_quote_without_a_chain_is_verified_with_the_sources(kind: CertificationDataType) -> None:
    source = Source(platform())
    facts = verifier_of(source).verify(quote_of(kind))
    assert (facts.tcb_status, facts.pck_certificate_from) == ("UpToDate", "collateral")
    model, name = platform().model, source.asked[0]
    assert (name.cpu_svn, name.pce_svn, name.pce_id) == (model.cpu_svn, model.pce_svn, model.pce_id)
    assert name.qe_id == platform().quoting_enclave.qe_id
    assert (name.encrypted_ppid is not None) is (kind is CertificationDataType.PPID_RSA_3072)


def test_a_quote_with_a_chain_asks_for_none() -> None:
    source = Source(platform())
    assert verifier_of(source).verify(quote_of(CertificationDataType.PCK_CHAIN)).pck_certificate_from == "quote"
    assert source.asked == []


def test_a_chain_is_fetched_once_and_kept_as_long_as_collateral() -> None:
    source, clock = Source(platform()), Clock()
    verifier = verifier_of(source, clock=clock)
    for minutes, asked in ((0, 1), (59, 1), (60, 2)):
        clock.now = NOW + timedelta(minutes=minutes)
        verifier.verify(quote_of(CertificationDataType.PPID_RSA_3072))
        assert len(source.asked) == asked
    assert timedelta(hours=1) == COLLATERAL_LIFETIME


def test_a_chain_that_fails_is_not_kept() -> None:
    """Which may be another machine's: the next quote asks again."""
    other = Platform.create(now=NOW, pki=platform().pki)
    source = Source(other)
    verifier = verifier_of(source)
    for asked in (1, 2):
        with pytest.raises(VerificationError) as caught:
            verifier.verify(quote_of(CertificationDataType.PPID_PLAIN))
        assert caught.value.reason is Reason.PCK_CERTIFICATE_MISMATCH
        assert len(source.asked) == asked


def test_what_is_kept_of_strangers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    source, clock = Source(platform()), Clock()
    monkeypatch.setattr(source, "fetch_pck_chain", lambda _: b"")
    verifier = verifier_of(source, clock=clock)
    quote = quote_of(CertificationDataType.PPID_PLAIN)
    for number in range(MAX_CACHED_CHAINS + 5):
        clock.now = NOW + timedelta(microseconds=number)
        named = replace(quote, certification_data=number.to_bytes(16, "big") + quote.certification_data[16:])
        verifier._supply._chain_for(named, clock.now, Patience.WAIT)
    assert verifier._supply._chains.counters.kept == MAX_CACHED_CHAINS


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_certification_data_that_names_nothing_is_not_asked_for(kind: CertificationDataType) -> None:
    source = Source(platform())
    quote = replace(quote_of(kind), certification_data=b"junk")
    with pytest.raises(MalformedInput):
        verifier_of(source).verify(quote)
    assert source.asked == []


# --- from a file


def file_source(folder: Path, *, pck_chain: bool) -> FileSource:
    path = folder / "collateral.json"
    path.write_bytes(platform().collateral(now=NOW, pck_chain=pck_chain).to_json())
    return FileSource(path)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_collateral_file_may_hold_the_chain(kind: CertificationDataType, tmp_path: Path) -> None:
    assert (
        verifier_of(file_source(tmp_path, pck_chain=True)).verify(quote_of(kind)).pck_certificate_from == "collateral"
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_collateral_file_without_a_chain_says_what_is_missing(kind: CertificationDataType, tmp_path: Path) -> None:
    with pytest.raises(VerificationError) as caught:
        verifier_of(file_source(tmp_path, pck_chain=False)).verify(quote_of(kind))
    assert caught.value.reason is Reason.PCK_CERTIFICATE_MISSING


# --- from a PCCS


def reply() -> Reply:
    leaf, end, issuers = chain_of(platform()).partition(b"-----END CERTIFICATE-----\n")
    return Reply(headers=((CHAIN_HEADER, escape(issuers.decode(), safe="")),), body=leaf + end)


def test_a_pccs_is_asked_as_intels_library_asks() -> None:
    with scripted({PCKCERT: [reply()]}) as script:
        assert PCCSSource(script.url).fetch_pck_chain(NAME) == chain_of(platform())
        qe_id, cpu_svn = "000102030405060708090A0B0C0D0E0F", "0E" * 16
        query = f"qeid={qe_id}&encrypted_ppid={'EE' * 384}&cpusvn={cpu_svn}&pcesvn=0D00&pceid=0100"
        assert script.requests == [f"{PCKCERT}?{query}"]


def test_what_a_quote_does_not_tell_is_not_asked() -> None:
    with scripted({PCKCERT: [reply()]}) as script:
        PCCSSource(script.url).fetch_pck_chain(replace(NAME, encrypted_ppid=None))
        assert "encrypted_ppid" not in script.requests[0]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(Reply(status=404), Reason.COLLATERAL_NOT_FOUND, id="404"),
        pytest.param(Reply(status=461), Reason.COLLATERAL_NOT_FOUND, id="461"),
        pytest.param(Reply(status=500), Reason.PCCS_ERROR, id="500"),
        pytest.param(Reply(body=b"junk"), Reason.PCCS_ERROR, id="no PEM"),
        pytest.param(replace(reply(), headers=()), Reason.PCCS_ERROR, id="no issuers"),
        pytest.param(replace(reply(), body=reply().body * 2), Reason.PCCS_ERROR, id="two certificates"),
    ],
)
def test_what_a_pccs_fails_to_answer_is_told_without_naming_the_machine(answer: Reply, reason: Reason) -> None:
    with scripted({PCKCERT: [answer]}) as script, pytest.raises(Unavailable) as failed:
        PCCSSource(script.url, retries=0).fetch_pck_chain(NAME)
    assert failed.value.reason is reason
    assert PCKCERT in failed.value.message
    assert "EE" * 8 not in failed.value.message
    assert "qeid" not in failed.value.message
    assert repr(NAME.qe_id) not in repr(NAME)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_our_own_pccs_serves_what_such_a_quote_needs(kind: CertificationDataType, tmp_path: Path) -> None:
    with running_pccs(tmp_path) as pccs:
        assert pccs.put(upload_body()).status == 200
        facts = verifier_of(PCCSSource(pccs.url)).verify(quote_of(kind))
        assert facts.pck_certificate_from == "collateral"
        stranger = Platform.create(now=NOW, pki=platform().pki)
        with pytest.raises(EAAError) as caught:
            verifier_of(PCCSSource(pccs.url)).verify(quote_of(kind, stranger))
        assert caught.value.reason is Reason.COLLATERAL_NOT_FOUND
