"""Certificates for every input: what is written is read back, and what is read means the same to OpenSSL."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given, settings
from hypothesis import strategies as st
from OpenSSL import crypto

from eaa.errors import MalformedInput, VerificationError
from eaa.evidence.tagged import (
    PUBKEY_HASH,
    Endorsements,
    TaggedEvidence,
    encode_claims,
    parse_claims,
    pubkey_hash_claim,
)
from eaa.tls.certificate import Format, PrivateKey, RATLSCertificate, create_certificate, legacy_report_data
from eaa.tls.leaf import read_leaf
from support import odd_certificates as odd
from support.tls_world import NOW, spki_of

P = int(
    "ecc58a72fc3a3e1a73752eb74ec7be5f1854eebfae179b0747c7b8578236b4ff363e8449a7c7e374e23a2d465486353e"
    "a6b34d20466b0de289df64ab75f052c39a934a76cc640dda7c644a739cadca662a817715d34580e35982c95168895ea7"
    "4cbe459dcf00dd5ef1f93b7092e20b91ac722c19fd8adc6be02185f7368f631819f7aeb1b46fc919ff9cae671427f266"
    "b88b89cb24aa2c2923899c797cb4003761fa63dc1241d2ff9ee0ee4c5f078d556f24167190abe7f434dce711a28d1c43",
    16,
)
Q = int(
    "baf1acc68701579780c35707acb825e7bb73babddc99213f71eb500d927881e694c4987ab9a51b6a59f182acd8bcb025"
    "35aeb324435e2ad0ad55c52edf5614d33b21d0fb0b571281915d1fca1e637171e6ba45402b33b543a0af9d69c8a04460"
    "5d7e2075fadb5098a4d072a698f687f298fe19645abb9ef83d09f9dc5cbc22dc021560564ef49b391613621011d4693c"
    "8a96587ce34ba3762bb0c068cb59a10c118e75725bec44697bbb16e16efba70625e70e75403b4a9dc36201ef7139933b",
    16,
)
"""The primes of an RSA key that is the same in every run, as all is that small changes are tried on."""


def rsa_of(p: int, q: int) -> rsa.RSAPrivateKey:
    exponent = pow(65537, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPublicNumbers(65537, p * q)
    return rsa.RSAPrivateNumbers(
        p, q, exponent, exponent % (p - 1), exponent % (q - 1), pow(q, -1, p), numbers
    ).private_key()


KEYS: dict[str, PrivateKey] = {
    "P-256": ec.derive_private_key(3, ec.SECP256R1()),
    "P-384": ec.derive_private_key(3, ec.SECP384R1()),
    "RSA": rsa_of(P, Q),
}
EXAMPLES = 60
"""Each is a signature or two."""

keys = st.sampled_from(sorted(KEYS)).map(KEYS.__getitem__)
moments = st.datetimes(datetime(1951, 1, 1), datetime(2100, 1, 1)).map(  # noqa: DTZ001  hypothesis adds no zone itself
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)
quotes = st.binary(min_size=1, max_size=9000)
claims = st.dictionaries(
    st.text(max_size=12).filter(lambda name: name != PUBKEY_HASH), st.binary(max_size=80), max_size=5
)
crls = st.binary(max_size=900).map(lambda content: b"\x30" + content)
texts = st.binary(min_size=1, max_size=900).filter(lambda text: text[-1:] != b"\0" and text[:1] != b"\x30")
endorsements = st.builds(
    Endorsements,
    version=st.integers(0, 2**32 - 1),
    tcb_info=texts,
    tcb_info_issuer_chain=texts,
    pck_crl=crls,
    root_ca_crl=crls,
    pck_crl_issuer_chain=texts,
    qe_identity=texts,
    qe_identity_issuer_chain=texts,
    creation_datetime=st.none() | texts,
)


@settings(max_examples=EXAMPLES)
@given(keys, quotes, claims, st.none() | endorsements, moments, st.none() | quotes)
def test_the_interoperable_format_is_read_back(
    key: PrivateKey,
    quote: bytes,
    custom: dict[str, bytes],
    carried: Endorsements | None,
    start: datetime,
    second: bytes | None,
) -> None:
    named = {PUBKEY_HASH: pubkey_hash_claim(spki_of(key)), **custom}
    evidence = TaggedEvidence(evidence=quote, claims=encode_claims(named))
    end = start + timedelta(days=1)
    raw = create_certificate(
        key, evidence=evidence, not_before=start, not_after=end, endorsements=carried, legacy_quote=second
    )
    read = RATLSCertificate.parse(raw)
    assert (read.format, read.tagged, read.endorsements) == (Format.INTEROPERABLE, evidence, carried)
    assert (read.legacy_quote, read.spki_der) == (second, spki_of(key))
    assert (read.not_before, read.not_after) == (start, end)
    assert read.expected_report_data == hashlib.sha256(evidence.claims).digest() + bytes(32)
    assert parse_claims(evidence.claims, tolerant=True) == named
    read.verify_binding()


@settings(max_examples=EXAMPLES)
@given(keys, quotes, st.sampled_from([Format.ENCLAVE_TLS_V1, Format.GRAMINE_LEGACY]), moments)
def test_the_older_formats_are_read_back(key: PrivateKey, quote: bytes, format_: Format, start: datetime) -> None:
    if format_ is Format.ENCLAVE_TLS_V1:
        key = KEYS["RSA"]
    end = start + timedelta(days=3650)
    raw = create_certificate(key, evidence=quote, not_before=start, not_after=end, format=format_)
    read = RATLSCertificate.parse(raw)
    assert (read.format, read.evidence, read.tagged, read.endorsements) == (format_, quote, None, None)
    assert (read.spki_der, read.not_before, read.not_after) == (spki_of(key), start, end)
    assert read.expected_report_data == legacy_report_data(spki_of(key), format=format_)


# --- the same to OpenSSL


P256, RSA = KEYS["P-256"], KEYS["RSA"]
GOOD = [
    odd.numbered(odd.plain(P256), P256),
    odd.numbered(odd.plain(RSA, evidence=b"quote", format=Format.ENCLAVE_TLS_V1), RSA),
    odd.numbered(odd.two_formats(P256), P256),
    odd.numbered(odd.plain(P256), P256, lambda fields: odd.version_4(odd.null_beside_ecdsa(fields))),
]
"""Small changes of these are tried; signatures are nobody's business here."""


def openssl_s_view(raw: bytes) -> tuple[object, ...] | None:
    """What OpenSSL reads; None where it reads nothing, which ends the handshake before anybody asks us."""
    try:
        seen = crypto.load_certificate(crypto.FILETYPE_ASN1, raw)
    except crypto.Error:
        return None
    key = cast("ec.EllipticCurvePublicKey", seen.get_pubkey().to_cryptography_key())
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    dates = tuple(
        datetime.strptime((moment or b"").decode(), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
        for moment in (seen.get_notBefore(), seen.get_notAfter())
    )
    return seen.get_serial_number(), spki, dates, seen.get_extension_count()


@settings(max_examples=400)
@given(st.sampled_from(range(4)), st.lists(st.tuples(st.integers(0), st.integers(1, 255)), min_size=1, max_size=3))
@example(0, [])
@example(3, [])
def test_what_is_accepted_means_the_same_to_openssl(which: int, flips: list[tuple[int, int]]) -> None:
    """OpenSSL takes the key of the handshake; we take the one that evidence has to name."""
    raw = GOOD[which]
    changed = bytearray(raw)
    # Anywhere but in the evidence, where most bytes are: the first and the last hundreds.
    places = [*range(min(400, len(raw))), *range(len(raw) - 200, len(raw))]
    for place, flip in flips:
        changed[places[place % len(places)]] ^= flip
    try:
        read = read_leaf(bytes(changed), now=NOW)
    except (MalformedInput, VerificationError):
        return
    ours = (read.serial_number, read.spki_der, (read.not_before, read.not_after), len(read.extension_oids))
    assert openssl_s_view(bytes(changed)) in (ours, None)
    assert flips or openssl_s_view(raw) == ours


@pytest.mark.parametrize("raw", GOOD)
def test_every_beginning_of_a_certificate_is_refused(raw: bytes) -> None:
    for size in range(0, len(raw), 7):
        with pytest.raises(MalformedInput):
            read_leaf(raw[:size], now=NOW)
