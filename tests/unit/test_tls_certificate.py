"""RA-TLS certificates: the one format we write, the three we read, and DER that is none of them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID, NameOID

from eaa.errors import EAAError, MalformedInput, Reason, Rejection, VerificationError
from eaa.evidence.tagged import PUBKEY_HASH, TaggedEvidence, encode_claims, pubkey_hash_claim
from eaa.tls.certificate import (
    ENDORSEMENTS_OID,
    EVIDENCE_OID,
    LEGACY_QUOTE_OID,
    MAX_CERTIFICATE_SIZE,
    MAX_EXTENSIONS,
    Format,
    PrivateKey,
    RATLSCertificate,
    create_certificate,
)
from support.tls_world import ENDORSEMENTS, HOUR, NOW, evidence_for, spki_of

KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
MISWRITTEN = "0.6.9.42.840.113741.1337.6"


def written(key: PrivateKey = KEY, **changes: object) -> bytes:
    arguments: dict[str, object] = {"evidence": evidence_for(key), "not_before": NOW - HOUR, "not_after": NOW + HOUR}
    return create_certificate(key, **{**arguments, **changes})  # type: ignore[arg-type]


def foreign(
    *extensions: tuple[str, bytes], key: PrivateKey = KEY, name: str | None = "Enclave TLS", critical: bool = False
) -> bytes:
    """A certificate of another stack: these extensions, raw, in this order."""
    attributes = [] if name is None else [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Somebody"), *attributes])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .serial_number(9527)
        .not_valid_before(NOW - HOUR)
        .not_valid_after(NOW + HOUR)
        .public_key(key.public_key())
    )
    for oid, content in extensions:
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), content), critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def refused(raw: bytes) -> Reason:
    with pytest.raises(MalformedInput) as caught:
        RATLSCertificate.parse(raw)
    return caught.value.reason


# --- the format that is written


def test_what_is_written_is_read_back() -> None:
    evidence = evidence_for(KEY)
    read = RATLSCertificate.parse(written(endorsements=ENDORSEMENTS))
    assert read.format is Format.INTEROPERABLE
    assert read.version == 3
    assert read.has_evidence
    assert read.tagged == evidence
    assert read.evidence == evidence.evidence
    assert read.claims == evidence.claims
    assert read.expected_report_data == evidence.report_data
    assert read.endorsements == ENDORSEMENTS
    assert read.spki_der == spki_of(KEY)
    assert (read.not_before, read.not_after) == (NOW - HOUR, NOW + HOUR)
    assert read.unknown_critical == ()
    read.verify_binding()
    read.verify_dates(now=NOW)


def test_what_is_written_is_what_rats_tls_peers_expect() -> None:
    certificate = x509.load_der_x509_certificate(written(endorsements=ENDORSEMENTS))
    assert certificate.version is x509.Version.v3
    assert certificate.subject == certificate.issuer
    assert certificate.subject.rfc4514_string() == "CN=RATS-TLS,O=Inclavare Containers"
    assert [extension.oid.dotted_string for extension in certificate.extensions] == [
        ExtensionOID.BASIC_CONSTRAINTS.dotted_string,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER.dotted_string,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER.dotted_string,
        EVIDENCE_OID,
        ENDORSEMENTS_OID,
    ]
    assert not any(extension.critical for extension in certificate.extensions)
    certificate.verify_directly_issued_by(certificate)
    raw = certificate.extensions[3].value
    assert isinstance(raw, x509.UnrecognizedExtension)
    assert raw.value == evidence_for(KEY).encode()


def test_every_certificate_has_a_serial_of_its_own() -> None:
    assert RATLSCertificate.parse(written()).serial_number != RATLSCertificate.parse(written()).serial_number


def test_a_certificate_without_evidence_attests_nothing() -> None:
    read = RATLSCertificate.parse(written(evidence=None))
    assert read.format is Format.NONE
    assert not read.has_evidence
    assert read.evidence is None
    assert read.claims is None
    assert read.expected_report_data is None
    assert read.endorsements is None
    with pytest.raises(Rejection) as caught:
        read.verify_binding()
    assert caught.value.reason is Reason.NO_EVIDENCE


def test_an_rsa_key_works_too() -> None:
    read = RATLSCertificate.parse(written(RSA_KEY))
    assert read.spki_der == spki_of(RSA_KEY)
    read.verify_binding()


def test_a_certificate_too_big_for_any_peer_is_not_made() -> None:
    with pytest.raises(EAAError) as caught:
        written(evidence=TaggedEvidence(evidence=bytes(MAX_CERTIFICATE_SIZE), claims=b""))
    assert caught.value.reason is Reason.INTERNAL


# --- binding to the key


@pytest.mark.parametrize(
    "claims",
    [
        {PUBKEY_HASH: pubkey_hash_claim(b"another key")},
        {PUBKEY_HASH: b""},
        {PUBKEY_HASH: hashlib.sha256(spki_of(KEY)).digest()},
        {"nonce": b"x"},
        {},
    ],
)
def test_evidence_for_another_key_is_refused(claims: dict[str, bytes]) -> None:
    evidence = TaggedEvidence(evidence=b"quote", claims=encode_claims(claims))
    with pytest.raises(VerificationError) as caught:
        RATLSCertificate.parse(written(evidence=evidence)).verify_binding()
    assert caught.value.reason is Reason.CLAIMS_MISMATCH


def test_claims_of_others_are_left_alone() -> None:
    claims = {PUBKEY_HASH: pubkey_hash_claim(spki_of(KEY)), "key_0": b"value_0\0", "nonce": b"n"}
    RATLSCertificate.parse(
        written(evidence=TaggedEvidence(evidence=b"quote", claims=encode_claims(claims)))
    ).verify_binding()


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (NOW - HOUR - timedelta(seconds=1), Reason.CERTIFICATE_NOT_YET_VALID),
        (NOW + HOUR + timedelta(seconds=1), Reason.CERTIFICATE_EXPIRED),
    ],
)
def test_dates_are_judged_by_the_time_given(now: datetime, reason: Reason) -> None:
    read = RATLSCertificate.parse(written())
    with pytest.raises(VerificationError) as caught:
        read.verify_dates(now=now)
    assert caught.value.reason is reason
    read.verify_dates(now=NOW - HOUR)
    read.verify_dates(now=NOW + HOUR)


# --- the older formats


def test_enclave_tls_v1_hashes_the_pkcs1_key() -> None:
    read = RATLSCertificate.parse(foreign((LEGACY_QUOTE_OID, b"quote"), key=RSA_KEY))
    pkcs1 = RSA_KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    assert read.format is Format.ENCLAVE_TLS_V1
    assert read.evidence == read.legacy_quote == b"quote"
    assert read.claims is None
    assert read.expected_report_data == hashlib.sha256(pkcs1).digest() + bytes(32)
    read.verify_binding()


@pytest.mark.parametrize(
    ("oid", "key", "name"),
    [
        (LEGACY_QUOTE_OID, RSA_KEY, "RATLS"),
        (LEGACY_QUOTE_OID, RSA_KEY, None),
        (LEGACY_QUOTE_OID, KEY, "Enclave TLS"),
        (MISWRITTEN, RSA_KEY, "Enclave TLS"),
        (MISWRITTEN, KEY, "RATLS"),
    ],
)
def test_gramine_hashes_the_spki(oid: str, key: PrivateKey, name: str | None) -> None:
    read = RATLSCertificate.parse(foreign((oid, b"quote"), key=key, name=name))
    assert read.format is Format.GRAMINE_LEGACY
    assert read.evidence == b"quote"
    assert read.expected_report_data == hashlib.sha256(spki_of(key)).digest() + bytes(32)


def test_where_both_stand_the_interoperable_one_counts() -> None:
    evidence = evidence_for(KEY)
    read = RATLSCertificate.parse(foreign((MISWRITTEN, b"other quote"), (EVIDENCE_OID, evidence.encode())))
    assert read.format is Format.INTEROPERABLE
    assert read.evidence == evidence.evidence
    assert read.legacy_quote == b"other quote"
    assert read.expected_report_data == evidence.report_data


def test_other_evidence_of_2021_is_no_evidence_here() -> None:
    """EPID and local reports: a reader that does not know them must not take their bearer for attested."""
    for tail in (2, 3, 4, 5, 8, 14, 20, 22, 24):
        read = RATLSCertificate.parse(foreign((f"1.2.840.113741.1337.{tail}", b"evidence")))
        assert read.format is Format.NONE


# --- extensions


@pytest.mark.parametrize(
    "oids",
    [(MISWRITTEN, LEGACY_QUOTE_OID), (LEGACY_QUOTE_OID, MISWRITTEN)],
)
def test_one_meaning_under_two_identifiers_is_twice_the_same_extension(oids: tuple[str, str]) -> None:
    assert refused(foreign(*((oid, b"quote") for oid in oids))) is Reason.CERTIFICATE_MALFORMED


@pytest.mark.parametrize("oid", [EVIDENCE_OID, ENDORSEMENTS_OID, LEGACY_QUOTE_OID, "1.2.3.5"])
def test_the_same_extension_twice_is_refused(oid: str) -> None:
    """Which would be judged, and which trusted? `cryptography` will not write it: bytes are changed."""
    content = evidence_for(KEY).encode()
    arcs = oid.split(".")
    almost = ".".join([*arcs[:-1], str(int(arcs[-1]) + 1)])
    raw = foreign((oid, content), (almost, content))
    changed = raw.replace(_oid_content(almost), _oid_content(oid))
    assert changed != raw
    assert refused(changed) is Reason.CERTIFICATE_MALFORMED


def _oid_content(oid: str) -> bytes:
    first, second, *rest = (int(arc) for arc in oid.split("."))
    content = b"".join(_base128(arc) for arc in (40 * first + second, *rest))
    return bytes([6, len(content)]) + content


def _base128(number: int) -> bytes:
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.insert(0, number & 0x7F | 0x80)
    return bytes(digits)


def test_critical_extensions_that_nobody_knows_are_named() -> None:
    read = RATLSCertificate.parse(foreign(("1.2.3.4", b"x"), (LEGACY_QUOTE_OID, b"q"), critical=True))
    assert read.unknown_critical == ("1.2.3.4",)
    assert "1.2.3.4" in read.extension_oids


def test_too_many_extensions_are_refused() -> None:
    many = [(f"1.2.3.{number}", b"x") for number in range(MAX_EXTENSIONS + 1)]
    assert refused(foreign(*many)) is Reason.DER_MALFORMED
    RATLSCertificate.parse(foreign(*many[1:]))


@pytest.mark.parametrize("content", [b"", b"\xa0", b"\xd9\xea\x60\x80"])
def test_evidence_that_is_none_is_malformed_and_not_absent(content: bytes) -> None:
    assert refused(foreign((EVIDENCE_OID, content))) is Reason.EVIDENCE_MALFORMED
    evidence = (EVIDENCE_OID, evidence_for(KEY).encode())
    assert refused(foreign(evidence, (ENDORSEMENTS_OID, content))) is Reason.EVIDENCE_MALFORMED


# --- bytes that are no certificate


def _replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(raw: bytes) -> bytes:
        assert old in raw
        return raw.replace(old, new, 1)

    return change


def _instead(raw: bytes) -> Callable[[bytes], bytes]:
    return lambda _: raw


def _utc(moment: datetime) -> bytes:
    return moment.strftime("%y%m%d%H%M%SZ").encode()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_instead(b""), Reason.DER_MALFORMED),
        (lambda raw: raw + b"\0", Reason.DER_MALFORMED),
        (lambda raw: raw[:-1], Reason.DER_MALFORMED),
        (lambda raw: b"\x31" + raw[1:], Reason.DER_MALFORMED),
        (_instead(bytes(MAX_CERTIFICATE_SIZE + 1)), Reason.CERTIFICATE_MALFORMED),
        (_instead(b"-----BEGIN CERTIFICATE-----"), Reason.DER_MALFORMED),
        (_instead(b"\x30\x00"), Reason.CERTIFICATE_MALFORMED),
        (_instead(b"\x30\x07\x30\x00\x30\x00\x03\x01\x00"), Reason.CERTIFICATE_MALFORMED),
        (_instead(b"\x30\x0c\x30\x05\xa0\x03\x02\x01\x02\x30\x00\x03\x01\x00"), Reason.CERTIFICATE_MALFORMED),
        (_replaced(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x01"), Reason.CERTIFICATE_MALFORMED),
        (_replaced(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x04"), Reason.CERTIFICATE_MALFORMED),
        (_replaced(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x04\x01\x02"), Reason.DER_MALFORMED),
        (_replaced(_utc(NOW - HOUR), b"260601110000+"), Reason.CERTIFICATE_MALFORMED),
        (_replaced(_utc(NOW - HOUR), b"261301110000Z"), Reason.CERTIFICATE_MALFORMED),
        (_replaced(_utc(NOW - HOUR), b"26060111000\xb2Z"), Reason.CERTIFICATE_MALFORMED),
        (_replaced(b"\x17\x0d" + _utc(NOW - HOUR), b"\x16\x0d" + _utc(NOW - HOUR)), Reason.CERTIFICATE_MALFORMED),
        (_replaced(b"\x17\x0d" + _utc(NOW - HOUR), b"\x18\x0d" + _utc(NOW - HOUR)), Reason.CERTIFICATE_MALFORMED),
        (
            _replaced(b"\x06\x06\x67\x81\x05", b"\x04\x06\x67\x81\x05"),
            Reason.CERTIFICATE_MALFORMED,
        ),
    ],
)
def test_what_is_no_certificate(change: Callable[[bytes], bytes], reason: Reason) -> None:
    assert refused(change(written())) is reason


def _element(tag: int, content: bytes) -> bytes:
    return bytes([tag, len(content)]) + content


@pytest.mark.parametrize(
    ("validity", "after"),
    [
        (b"", b""),
        (_element(0x17, _utc(NOW)), b""),
        (_element(0x17, _utc(NOW)) * 2, b"\xa4\x00"),
        (_element(0x17, _utc(NOW)) * 2, b"\xa3\x02\x30\x00" * 2),
        (_element(0x17, _utc(NOW)) * 2, b"\x82\x00\x81\x00"),
    ],
)
def test_a_body_with_a_field_too_few_or_too_many(validity: bytes, after: bytes) -> None:
    sequence = functools.partial(_element, 0x30)
    spki = sequence(sequence(_element(6, b"\x2a\x03")))
    body = b"\xa0\x03\x02\x01\x02\x02\x01\x01" + sequence(b"") * 2 + sequence(validity) + sequence(b"") + spki

    def certificate(body: bytes) -> bytes:
        return sequence(sequence(body) + sequence(b"") + _element(3, b"\0"))

    assert refused(certificate(body + after)) is Reason.CERTIFICATE_MALFORMED
    good = body.replace(
        sequence(validity) + sequence(b"") + spki, sequence(_element(0x17, _utc(NOW)) * 2) + sequence(b"") + spki
    )
    assert RATLSCertificate.parse(certificate(good + b"\x81\x00\xa3\x02\x30\x00")).format is Format.NONE


def test_a_legacy_quote_is_bounded() -> None:
    quote = bytes(MAX_CERTIFICATE_SIZE - 100)
    assert refused(foreign((LEGACY_QUOTE_OID, quote))) is Reason.CERTIFICATE_MALFORMED


def test_a_certificate_may_misnumber_its_version_as_those_of_2021_do() -> None:
    raw = written().replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x03", 1)
    assert RATLSCertificate.parse(raw).version == 4


def test_both_ways_to_write_a_date() -> None:
    read = RATLSCertificate.parse(
        written(not_before=datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC), not_after=datetime(2051, 1, 1, tzinfo=UTC))
    )
    assert read.not_before == datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert read.not_after == datetime(2051, 1, 1, tzinfo=UTC)
