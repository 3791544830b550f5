"""The certificate that C programs of either generation read: its key, its quotes, and what goes with them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from eaa.evidence.quote import Quote
from eaa.evidence.tagged import Endorsements
from eaa.identity import CERTIFICATE_LIFETIME, CLOCK_TOLERANCE, LegacyIdentity
from eaa.simulator.platform import Platform
from eaa.sources.endorsements import VERSION, members_of
from eaa.tls.certificate import Format, RATLSCertificate, legacy_report_data
from support.dcap_world import World
from support.simulated import NOW, sample_enclave

ENDORSEMENTS = Endorsements(version=VERSION, **members_of(World().collateral()))


class Attester:
    """A software TEE that counts what it is asked."""

    name = "sgx_sim"
    tee = "sgx"

    def __init__(self) -> None:
        self._enclave = Platform.create(now=NOW).launch(*sample_enclave())
        self.asked: list[bytes] = []

    def quote(self, report_data: bytes) -> bytes:
        self.asked.append(report_data)
        return self._enclave.quote(report_data)


@pytest.fixture(scope="module")
def attester() -> Attester:
    return Attester()


def read(identity: LegacyIdentity) -> RATLSCertificate:
    certificate = RATLSCertificate.parse(identity.credentials().certificate)
    certificate.verify_binding()
    certificate.verify_unambiguous()
    if certificate.evidence is not None:
        assert Quote.parse(certificate.evidence).body.report_data == certificate.expected_report_data
    return certificate


def test_one_certificate_for_both_generations(attester: Attester) -> None:
    identity = LegacyIdentity(attester, clock=lambda: NOW)
    certificate, credentials = read(identity), identity.credentials()
    assert isinstance(credentials.private_key, rsa.RSAPrivateKey)
    assert certificate.format is Format.INTEROPERABLE
    assert certificate.legacy_quote is not None
    old = Quote.parse(certificate.legacy_quote).body.report_data
    assert old == legacy_report_data(certificate.spki_der, format=Format.ENCLAVE_TLS_V1)
    assert credentials.quote == identity.shown_quote == certificate.evidence
    assert (certificate.not_before, certificate.not_after) == (NOW - CLOCK_TOLERANCE, NOW + CERTIFICATE_LIFETIME)


@pytest.mark.parametrize(
    ("format_", "kind"),
    [
        (Format.INTEROPERABLE, ec.EllipticCurvePrivateKey),
        (Format.ENCLAVE_TLS_V1, rsa.RSAPrivateKey),
        (Format.GRAMINE_LEGACY, ec.EllipticCurvePrivateKey),
    ],
)
def test_one_format_where_one_is_asked_for(attester: Attester, format_: Format, kind: type) -> None:
    attester.asked.clear()
    identity = LegacyIdentity(attester, format=format_, clock=lambda: NOW)
    certificate = read(identity)
    assert certificate.format is format_
    assert isinstance(identity.credentials().private_key, kind)
    assert identity.shown_quote == certificate.evidence
    assert len(attester.asked) == 1


@pytest.mark.parametrize("format_", [None, Format.INTEROPERABLE, Format.ENCLAVE_TLS_V1])
def test_without_an_attester_there_is_a_key_and_no_evidence(format_: Format | None) -> None:
    identity = LegacyIdentity(None, format=format_, clock=lambda: NOW)
    certificate = RATLSCertificate.parse(identity.credentials().certificate)
    assert certificate.format is Format.NONE
    assert identity.shown_quote is None


def test_endorsements_are_asked_for_with_each_certificate(attester: Attester) -> None:
    clock, quotes = [NOW], []

    def endorse(quote: bytes) -> Endorsements:
        quotes.append(quote)
        return ENDORSEMENTS

    identity = LegacyIdentity(attester, format=Format.INTEROPERABLE, endorse=endorse, clock=lambda: clock[0])
    first = read(identity)
    assert first.endorsements == Endorsements.parse(ENDORSEMENTS.encode())
    clock[0] = NOW + CERTIFICATE_LIFETIME / 2 + timedelta(seconds=1)
    second = read(identity)
    assert second.spki_der != first.spki_der
    assert quotes == [first.evidence, second.evidence]


def test_a_certificate_without_endorsements_is_as_good(attester: Attester) -> None:
    identity = LegacyIdentity(attester, format=Format.INTEROPERABLE, endorse=lambda _: None, clock=lambda: NOW)
    assert read(identity).endorsements is None
