"""Certificates in each of the three formats, as they are written; and in two of them at once."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from eaa.errors import EAAError, Misuse, Reason, VerificationError
from eaa.tls.certificate import (
    ENDORSEMENTS_OID,
    EVIDENCE_OID,
    LEGACY_QUOTE_OID,
    MAX_EXTENSION_SIZE,
    Format,
    PrivateKey,
    RATLSCertificate,
    legacy_report_data,
)
from support.odd_certificates import plain, quote_over, tagged_for, two_formats
from support.tls_world import ENDORSEMENTS, HOUR, NOW, spki_of

KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=3072)


def pkcs1(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)


# --- enclave-tls v1


def test_enclave_tls_v1_is_written_as_the_programs_of_2021_write_it() -> None:
    """But for the version number, which they get wrong: 2 is what means version 3."""
    quote = quote_over(legacy_report_data(spki_of(RSA_KEY), format=Format.ENCLAVE_TLS_V1))
    raw = plain(RSA_KEY, evidence=quote, format=Format.ENCLAVE_TLS_V1)
    certificate = x509.load_der_x509_certificate(raw)
    names = [(attribute.rfc4514_attribute_name, attribute.value) for attribute in certificate.subject]
    assert names == [
        ("O", "Inclavare Containers"),
        ("OU", "Enclave Attestation Architecture"),
        ("CN", "Enclave TLS"),
    ]
    assert certificate.issuer == certificate.subject
    assert certificate.serial_number == 9527
    assert certificate.signature_algorithm_oid.dotted_string == "1.2.840.113549.1.1.11"
    assert len(pkcs1(RSA_KEY)) == 398
    (only,) = certificate.extensions
    assert (only.oid.dotted_string, only.critical) == (LEGACY_QUOTE_OID, False)
    assert isinstance(only.value, x509.UnrecognizedExtension)
    assert only.value.value == quote


def test_enclave_tls_v1_is_read_back_with_its_quote_over_the_pkcs1_key() -> None:
    expected = hashlib.sha256(pkcs1(RSA_KEY)).digest() + bytes(32)
    quote = quote_over(expected)
    read = RATLSCertificate.parse(plain(RSA_KEY, evidence=quote, format=Format.ENCLAVE_TLS_V1))
    assert (read.format, read.evidence, read.claims) == (Format.ENCLAVE_TLS_V1, quote, None)
    assert read.expected_report_data == expected
    read.verify_binding()
    read.verify_unambiguous()


def test_a_null_attester_of_2021_has_no_extensions_at_all() -> None:
    raw = plain(RSA_KEY, evidence=None, format=Format.ENCLAVE_TLS_V1)
    assert list(x509.load_der_x509_certificate(raw).extensions) == []
    assert RATLSCertificate.parse(raw).format is Format.NONE


# --- Gramine, legacy


@pytest.mark.parametrize("key", [KEY, RSA_KEY], ids=["P-256", "RSA"])
def test_gramine_s_legacy_format_is_read_back_with_its_quote_over_the_spki(key: PrivateKey) -> None:
    expected = hashlib.sha256(spki_of(key)).digest() + bytes(32)
    assert legacy_report_data(spki_of(key), format=Format.GRAMINE_LEGACY) == expected
    quote = quote_over(expected)
    read = RATLSCertificate.parse(plain(key, evidence=quote, format=Format.GRAMINE_LEGACY))
    assert (read.format, read.evidence, read.subject) == (Format.GRAMINE_LEGACY, quote, "RATLS")
    assert read.expected_report_data == expected
    read.verify_binding()


# --- what a format has no place for


@pytest.mark.parametrize(
    ("key", "arguments"),
    [
        (KEY, {"evidence": b"quote"}),
        (KEY, {"evidence": b"quote", "format": Format.NONE}),
        (KEY, {"evidence": tagged_for(KEY), "format": Format.NONE}),
        (KEY, {"evidence": tagged_for(KEY), "format": Format.GRAMINE_LEGACY}),
        (RSA_KEY, {"evidence": tagged_for(RSA_KEY), "format": Format.ENCLAVE_TLS_V1}),
        (KEY, {"evidence": b"quote", "format": Format.ENCLAVE_TLS_V1}),
        (
            rsa.generate_private_key(public_exponent=65537, key_size=2048),
            {"evidence": None, "format": Format.ENCLAVE_TLS_V1},
        ),
        (RSA_KEY, {"evidence": b"q", "format": Format.ENCLAVE_TLS_V1, "endorsements": ENDORSEMENTS}),
        (RSA_KEY, {"evidence": b"q", "format": Format.ENCLAVE_TLS_V1, "legacy_quote": b"q"}),
        (KEY, {"evidence": None, "legacy_quote": b"quote"}),
    ],
)
def test_what_no_peer_could_read_is_not_written(key: PrivateKey, arguments: dict[str, Any]) -> None:
    with pytest.raises(Misuse) as caught:
        plain(key, **arguments)
    assert caught.value.reason is Reason.USAGE


def test_an_extension_too_big_for_any_reader_is_not_written() -> None:
    with pytest.raises(EAAError) as caught:
        plain(KEY, evidence=bytes(MAX_EXTENSION_SIZE + 1), format=Format.GRAMINE_LEGACY)
    assert caught.value.reason is Reason.INTERNAL


@pytest.mark.parametrize("format_", [Format.ENCLAVE_TLS_V1, Format.INTEROPERABLE, Format.NONE])
def test_report_data_stands_for_keys_that_the_format_knows(format_: Format) -> None:
    with pytest.raises(Misuse) as caught:
        legacy_report_data(spki_of(KEY), format=format_)
    assert caught.value.reason is Reason.USAGE


# --- two formats at once


@pytest.mark.parametrize("key", [KEY, RSA_KEY], ids=["P-256", "RSA"])
def test_two_formats_that_say_the_same_are_read_as_the_interoperable_one(key: PrivateKey) -> None:
    read = RATLSCertificate.parse(two_formats(key))
    assert read.format is Format.INTEROPERABLE
    assert set(read.extension_oids) >= {EVIDENCE_OID, LEGACY_QUOTE_OID}
    assert ENDORSEMENTS_OID not in read.extension_oids
    assert read.legacy_quote not in (None, read.evidence)
    read.verify_binding()
    read.verify_unambiguous()


@pytest.mark.parametrize(
    "difference",
    [
        {"mr_enclave": bytes(32)},
        {"mr_signer": bytes(32)},
        {"isv_svn": 9},
        {"attributes": b"\x07" + bytes(15)},
        {"cpu_svn": bytes(16)},
        {"speaks_for": ec.generate_private_key(ec.SECP256R1())},
    ],
    ids=lambda difference: next(iter(difference)),
)
def test_two_formats_that_differ_are_refused(difference: dict[str, Any]) -> None:
    """One peer would judge the one, and another peer the other."""
    with pytest.raises(VerificationError) as caught:
        RATLSCertificate.parse(two_formats(KEY, **difference)).verify_unambiguous()
    assert caught.value.reason is Reason.EVIDENCE_AMBIGUOUS


def test_a_second_quote_that_is_none_is_refused() -> None:
    with pytest.raises(VerificationError) as caught:
        RATLSCertificate.parse(plain(KEY, legacy_quote=b"something")).verify_unambiguous()
    assert caught.value.reason is Reason.EVIDENCE_AMBIGUOUS


def test_dates_may_begin_a_little_late_where_that_is_allowed() -> None:
    read = RATLSCertificate.parse(plain(KEY))
    with pytest.raises(VerificationError) as caught:
        read.verify_dates(now=NOW - 2 * HOUR)
    assert caught.value.reason is Reason.CERTIFICATE_NOT_YET_VALID
    read.verify_dates(now=NOW - 2 * HOUR, early=HOUR)
