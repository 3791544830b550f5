"""Certificates and CRLs of exactly the shape that Intel issues for SGX.

Names, validity, extensions and their order, serial numbers and key identifiers follow Intel's; the Organization says
that no hardware is behind them.

Source: Intel SGX PCK Certificate and CRL Profile Specification; the order and the identifiers from issued ones.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID, ObjectIdentifier

from eaa.errors import Misuse, Reason
from eaa.simulator.entropy import MAX_KNOWN, Entropy
from eaa.simulator.sgx_extension import SGX_EXTENSION_OID

ORGANIZATION: Final = "SIMULATED Intel Corporation (no hardware)"
ROOT_NAME: Final = "Intel SGX Root CA"
PROCESSOR_CA_NAME: Final = "Intel SGX PCK Processor CA"
PLATFORM_CA_NAME: Final = "Intel SGX PCK Platform CA"
TCB_SIGNING_NAME: Final = "Intel SGX TCB Signing"
PCK_NAME: Final = "Intel SGX PCK Certificate"
ROOT_CRL_URL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
PCK_CRL_URL: Final = "https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca={ca}&encoding=der"
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
SERIAL_BITS: Final = 159
"""Intel's serial numbers have 160 bits, of which the library that writes certificates allows one less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateSpec:
    """Everything that goes into one certificate, before it is signed."""

    common_name: str
    public_key: ec.EllipticCurvePublicKey
    issuer_name: str
    signing_key: ec.EllipticCurvePrivateKey = field(repr=False)
    authority_key_id: bytes | None
    serial: int
    not_before: datetime
    not_after: datetime
    is_ca: bool
    path_length: int | None = None
    signs_certificates: bool
    """Key usage: certificate and CRL signing, or digital signature and non-repudiation."""
    crl_url: str = ROOT_CRL_URL
    sgx_extension: bytes | None = None
    """DER."""

    def issue(self) -> x509.Certificate:
        """Return the signed certificate."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(self.common_name))
            .issuer_name(name(self.issuer_name))
            .public_key(self.public_key)
            .serial_number(self.serial)
            .not_valid_before(self.not_before)
            .not_valid_after(self.not_after)
        )
        if self.authority_key_id is not None:
            identifier = x509.AuthorityKeyIdentifier(self.authority_key_id, None, None)
            builder = builder.add_extension(identifier, critical=False)
        builder = (
            builder.add_extension(_distribution_point(self.crl_url), critical=False)
            .add_extension(x509.SubjectKeyIdentifier(key_id(self.public_key)), critical=False)
            .add_extension(_key_usage(ca=self.signs_certificates), critical=True)
            .add_extension(x509.BasicConstraints(ca=self.is_ca, path_length=self.path_length), critical=True)
        )
        if self.sgx_extension is not None:
            oid = ObjectIdentifier(SGX_EXTENSION_OID)
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, self.sgx_extension), critical=False)
        return builder.sign(self.signing_key, SHA256(), ecdsa_deterministic=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class CRLSpec:
    """Everything that goes into one CRL, before it is signed."""

    issuer_name: str
    signing_key: ec.EllipticCurvePrivateKey = field(repr=False)
    authority_key_id: bytes | None
    this_update: datetime
    next_update: datetime
    number: int | None = 1
    revoked: tuple[int, ...] = ()
    """Serial numbers."""

    def issue(self) -> bytes:
        """Return the signed CRL, DER."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(name(self.issuer_name))
            .last_update(self.this_update)
            .next_update(self.next_update)
        )
        if self.number is not None:
            builder = builder.add_extension(x509.CRLNumber(self.number), critical=False)
        if self.authority_key_id is not None:
            identifier = x509.AuthorityKeyIdentifier(self.authority_key_id, None, None)
            builder = builder.add_extension(identifier, critical=False)
        for serial in self.revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(self.this_update).build()
            builder = builder.add_revoked_certificate(entry)
        signed = builder.sign(self.signing_key, SHA256(), ecdsa_deterministic=True)
        return signed.public_bytes(serialization.Encoding.DER)


def name(common_name: str) -> x509.Name:
    """Return the distinguished name of Intel's form, with the Organization that marks a simulation."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Santa Clara"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "CA"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
        ]
    )


def key_id(public_key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the 20 bytes by which Intel names a key: SHA-1 of the whole SubjectPublicKeyInfo.

    RFC 5280 suggests the bits of the key alone, which is what the library would do.
    """
    spki = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha1(spki, usedforsecurity=False).digest()


def certifiable_key(entropy: Entropy, key_name: str) -> tuple[ec.EllipticCurvePrivateKey, int]:
    """Return a key whose identifier is usable as a serial number, and that number: Intel's CAs have them equal."""
    attempt = 0
    while True:
        key = entropy.key(f"{key_name} {attempt}")
        serial = int.from_bytes(key_id(key.public_key()), "big")
        if 0 < serial < 1 << SERIAL_BITS:
            return key, serial
        attempt += 1


@functools.lru_cache(maxsize=MAX_KNOWN)
def to_pem(*certificates: x509.Certificate) -> bytes:
    """Return a PEM chain in the given order."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def to_header(*certificates: x509.Certificate) -> str:
    """Return a chain as Intel's service puts it into a header: PEM with every reserved character escaped."""
    return "".join(chr(octet) if octet in _UNRESERVED else f"%{octet:02X}" for octet in to_pem(*certificates))


def to_der(certificate: x509.Certificate) -> bytes:
    """Return the certificate's DER."""
    return certificate.public_bytes(serialization.Encoding.DER)


def whole_second(now: datetime) -> datetime:
    """Return `now` in UTC without its fraction; raise Misuse for a time without a zone."""
    if now.tzinfo is None:
        raise Misuse(Reason.USAGE, f"the time {now.isoformat()} has no zone; give an aware datetime")
    return now.astimezone(UTC).replace(microsecond=0)


def years_after(start: datetime, years: int) -> datetime:
    """Return the same day and time `years` later, 28 February where there is no 29th."""
    try:
        return start.replace(year=start.year + years)
    except ValueError:
        return (start - timedelta(days=1)).replace(year=start.year + years)


def _distribution_point(url: str) -> x509.CRLDistributionPoints:
    location = [x509.UniformResourceIdentifier(url)]
    return x509.CRLDistributionPoints([x509.DistributionPoint(location, None, None, None)])


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=not ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
