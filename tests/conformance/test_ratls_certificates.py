"""Real RA-TLS certificates of other stacks: each is read, and its quote is found bound to its key, or to nothing.

What must come out was computed by other tools and stands in the `*.dump.txt` beside each certificate.
"""

from __future__ import annotations

import hashlib
import re
from typing import cast

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import crypto

from eaa.collateral.intel import QEIdentity, TCBInfo
from eaa.evidence.quote import Quote
from eaa.evidence.tagged import parse_claims
from eaa.sources.endorsements import collateral_of
from eaa.tls.certificate import Format, RATLSCertificate
from eaa.tls.leaf import read_leaf
from support.vectors import vector

CERTIFICATES = {
    "ccc-gramine": Format.INTEROPERABLE,
    "ccc-intel-sgxsdk": Format.INTEROPERABLE,
    "ccc-rats-tls": Format.INTEROPERABLE,
    "enclave-tls-nullattester": Format.NONE,
    "enclave-tls-nullattester-client": Format.NONE,
    "enclave-tls-sgx_ecdsa": Format.ENCLAVE_TLS_V1,
    "hw-enclave-tls-v1-rats-tls-cert-openssl-sample": Format.ENCLAVE_TLS_V1,
    "hw-enclave-tls-v1-rats-tls-cert-sample": Format.ENCLAVE_TLS_V1,
    "rats-tls-nullattester": Format.NONE,
    "rats-tls-nullattester-client": Format.NONE,
    "rats-tls-sgx_ecdsa": Format.INTEROPERABLE,
    "rats-tls-sgx_ecdsa-endorsements": Format.INTEROPERABLE,
    "rats-tls-sgx_ecdsa-endorsements-libcbor0.8": Format.INTEROPERABLE,
    "rats-tls-sgx_ecdsa-libcbor0.8": Format.INTEROPERABLE,
}
WITH_EVIDENCE = [name for name, format_ in CERTIFICATES.items() if format_ is not Format.NONE]


HARDWARE = [name for name in CERTIFICATES if name.startswith(("ccc-", "hw-"))]
ENDORSED = ["rats-tls-sgx_ecdsa-endorsements", "rats-tls-sgx_ecdsa-endorsements-libcbor0.8"]


def read(name: str) -> RATLSCertificate:
    return RATLSCertificate.parse(vector(f"certs-ratls/{name}.der").read_bytes())


def dumped(name: str, pattern: str) -> str:
    """The first match in the dump beside a certificate."""
    found = re.search(pattern, vector(f"certs-ratls/{name}.dump.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, pattern
    return found[1]


def test_every_certificate_that_is_there_is_in_the_table() -> None:
    assert {path.stem for path in vector("certs-ratls").glob("*.der")} == set(CERTIFICATES)


@pytest.mark.parametrize(("name", "format_"), CERTIFICATES.items())
def test_a_certificate_is_of_its_format(name: str, format_: Format) -> None:
    certificate = read(name)
    assert certificate.format is format_
    assert certificate.unknown_critical == ()
    assert certificate.not_before < certificate.not_after
    assert certificate.has_evidence is (format_ is not Format.NONE)


@pytest.mark.parametrize("name", WITH_EVIDENCE)
def test_the_quote_inside_is_bound_to_the_certificate_s_key(name: str) -> None:
    certificate = read(name)
    certificate.verify_binding()
    assert certificate.evidence is not None
    quote = Quote.parse(certificate.evidence)
    assert quote.body.report_data == certificate.expected_report_data


@pytest.mark.parametrize("name", WITH_EVIDENCE)
def test_report_data_is_what_other_tools_have_computed(name: str) -> None:
    expected = bytes.fromhex(dumped(name, r"report_data ([0-9a-f]{128})$"))
    assert read(name).expected_report_data == expected


@pytest.mark.parametrize("name", [name for name in WITH_EVIDENCE if CERTIFICATES[name] is Format.INTEROPERABLE])
def test_claims_are_what_other_tools_have_read(name: str) -> None:
    claims = read(name).claims
    assert claims is not None
    assert claims.hex().startswith(dumped(name, r"^claims ([0-9a-f]+)")[:64])
    assert hashlib.sha256(claims).hexdigest() == dumped(name, r"^sha256\(claims\) ([0-9a-f]{64})$")
    entries = int(dumped(name, r"^map\[(\d+)\]"))
    assert len(parse_claims(claims, tolerant=True)) == entries


@pytest.mark.parametrize("name", ["rats-tls-sgx_ecdsa-libcbor0.8", "rats-tls-sgx_ecdsa-endorsements-libcbor0.8"])
def test_padding_garbage_is_hashed_and_not_read(name: str) -> None:
    """libcbor 0.8 leaves heap in the claims; the quote covers it, so it must stay where it is."""
    certificate = read(name)
    claims = certificate.claims
    assert claims is not None
    assert len(claims) == 128
    parsed = parse_claims(claims, tolerant=True)
    assert len(parsed["pubkey-hash"]) == 64
    assert parsed["key_0"] == b"value_0\0"


@pytest.mark.parametrize("name", ENDORSED)
def test_endorsements_are_read_in_open_enclave_s_order(name: str) -> None:
    endorsements = read(name).endorsements
    assert endorsements is not None
    assert endorsements.version == 0x00010003
    assert endorsements.tcb_info.startswith(b'{"tcbInfo":')
    assert endorsements.qe_identity.startswith(b'{"enclaveIdentity":')
    assert endorsements.pck_crl[:1] == endorsements.root_ca_crl[:1] == b"\x30"
    for chain in (
        endorsements.tcb_info_issuer_chain,
        endorsements.pck_crl_issuer_chain,
        endorsements.qe_identity_issuer_chain,
    ):
        assert chain.startswith(b"-----BEGIN CERTIFICATE-----")
        assert not chain.endswith(b"\0")


@pytest.mark.parametrize("name", ENDORSED)
def test_endorsements_become_collateral(name: str) -> None:
    endorsements = read(name).endorsements
    assert endorsements is not None
    collateral = collateral_of(endorsements)
    assert TCBInfo.parse(collateral.tcb_info).fmspc
    assert QEIdentity.parse(collateral.qe_identity).mr_signer
    assert collateral.pck_crl == endorsements.pck_crl


# --- keys, by OpenSSL's reading of them


def key_of(name: str) -> rsa.RSAPublicKey:
    """The key that TLS would prove; OpenSSL reads certificates of every version."""
    certificate = crypto.load_certificate(crypto.FILETYPE_ASN1, vector(f"certs-ratls/{name}.der").read_bytes())
    # Some are EC keys, which encode alike.
    return cast("rsa.RSAPublicKey", certificate.get_pubkey().to_cryptography_key())


@pytest.mark.parametrize("name", CERTIFICATES)
def test_the_key_is_the_one_that_openssl_reads(name: str) -> None:
    spki = key_of(name).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert read(name).spki_der == spki


@pytest.mark.parametrize("name", [name for name in HARDWARE if CERTIFICATES[name] is Format.INTEROPERABLE])
def test_hardware_has_signed_claims_that_name_the_key(name: str) -> None:
    certificate = read(name)
    spki = key_of(name).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert certificate.tagged is not None
    claims = certificate.tagged.claims
    algorithm, digest = cbor2.loads(cbor2.loads(claims)["pubkey-hash"])
    hashes = {1: hashlib.sha256, 7: hashlib.sha384, 8: hashlib.sha512}
    assert digest == hashes[algorithm](spki).digest()
    report_data = Quote.parse(certificate.tagged.evidence).body.report_data
    assert report_data == hashlib.sha256(claims).digest() + bytes(32)


@pytest.mark.parametrize("name", [name for name in HARDWARE if CERTIFICATES[name] is Format.ENCLAVE_TLS_V1])
def test_hardware_of_2021_has_signed_the_pkcs1_key(name: str) -> None:
    certificate = read(name)
    pkcs1 = key_of(name).public_bytes(Encoding.DER, PublicFormat.PKCS1)
    assert len(pkcs1) == 398
    assert certificate.evidence is not None
    assert Quote.parse(certificate.evidence).body.report_data == hashlib.sha256(pkcs1).digest() + bytes(32)


@pytest.mark.parametrize("name", CERTIFICATES)
def test_each_would_pass_a_handshake_on_its_day(name: str) -> None:
    """Version 4, NULL parameters, padding and all: two libraries read the same, and two formats agree."""
    certificate = read(name)
    assert read_leaf(vector(f"certs-ratls/{name}.der").read_bytes(), now=certificate.not_before) == certificate


def test_gramine_s_certificate_carries_both_quotes_and_each_is_bound_its_own_way() -> None:
    certificate = read("ccc-gramine")
    assert certificate.legacy_quote is not None
    legacy = Quote.parse(certificate.legacy_quote).body.report_data
    assert legacy == hashlib.sha256(certificate.spki_der).digest() + bytes(32)
    assert legacy != certificate.expected_report_data


@pytest.mark.parametrize("name", [name for name in CERTIFICATES if name.startswith("enclave-tls")])
def test_certificates_of_2021_say_version_4(name: str) -> None:
    assert read(name).version == 4
