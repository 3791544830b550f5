"""A TLS certificate of our own: made on the first start, renewed at a later one when its end is near.

There is a CA and a leaf, since some clients refuse a certificate that signs itself even where they are told to trust
it. The CA vouches for this service only, and clients are given `ca.pem`.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from eaa.errors import Misuse, Reason
from eaa.program.files import locked

CA_FILE: Final = "ca.pem"
CA_KEY_FILE: Final = "ca.key"
CERTIFICATE_FILE: Final = "server.pem"
KEY_FILE: Final = "server.key"
CA_LIFE: Final = timedelta(days=3650)
LEAF_LIFE: Final = timedelta(days=365)
RENEW_BEFORE: Final = timedelta(days=30)
_BEGUN: Final = timedelta(days=1)
"""Certificates begin this long ago, for clients whose clocks are behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnFiles:
    """Where a certificate of our own lies."""

    certificate: Path
    key: Path
    ca: Path
    made: bool
    """Whether it was made, or renewed, just now."""


def own_certificate(folder: Path, *, names: Sequence[str], now: datetime) -> OwnFiles:
    """Return the certificate in a folder, made or renewed where that is due.

    Args:
        folder: made with mode 0700 where it is missing; keys in it have mode 0600.
        names: host names and addresses by which clients call the service.
        now: aware.

    Raises:
        Misuse: FILE_UNREADABLE, the folder cannot be used.
        Unavailable: FILE_LOCKED, PERMISSION_DENIED.
    """
    files = [folder / name for name in (CERTIFICATE_FILE, KEY_FILE, CA_FILE)]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = _is_wanting(folder, names, now) and _issue_once(folder, names, now)
    except (OSError, ValueError, TypeError) as error:
        raise Misuse(
            Reason.FILE_UNREADABLE,
            f"the certificate in {folder} can neither be used nor made: {error}",
            hint="name a folder of your own; removed files are made anew, and clients then need the new ca.pem",
        ) from error
    return OwnFiles(certificate=files[0], key=files[1], ca=files[2], made=made)


def _is_wanting(folder: Path, names: Sequence[str], now: datetime) -> bool:
    """Whether there is no certificate, or its time has come."""
    there = all((folder / name).exists() for name in (CERTIFICATE_FILE, KEY_FILE, CA_FILE, CA_KEY_FILE))
    return not there or _is_due(folder, names, now)


def _issue_once(folder: Path, names: Sequence[str], now: datetime) -> bool:
    """Make one, unless another process has done so by now: each would make a CA, of which clients trust one."""
    with locked(folder / CERTIFICATE_FILE):
        is_wanting = _is_wanting(folder, names, now)
        if is_wanting:
            _issue(folder, names, now)
    return is_wanting


def _is_due(folder: Path, names: Sequence[str], now: datetime) -> bool:
    leaf = x509.load_pem_x509_certificate((folder / CERTIFICATE_FILE).read_bytes())
    named = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return now > leaf.not_valid_after_utc - RENEW_BEFORE or not {*map(_name, names)} <= {*named}


def _issue(folder: Path, names: Sequence[str], now: datetime) -> None:
    """Make a leaf, and the CA where there is none or its own end is near."""
    ca, ca_key = _ca(folder, now)
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = (
        _builder("eaa-pccs", ca.subject, key, now, LEAF_LIFE)
        .add_extension(x509.SubjectAlternativeName([*map(_name, names)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write(folder / KEY_FILE, _pem(key), mode=0o600)
    _write(folder / CERTIFICATE_FILE, _certificate_pem(leaf) + _certificate_pem(ca), mode=0o644)


def _ca(folder: Path, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate, key_file = folder / CA_FILE, folder / CA_KEY_FILE
    if certificate.exists() and key_file.exists():
        kept = x509.load_pem_x509_certificate(certificate.read_bytes())
        kept_key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        if isinstance(kept_key, ec.EllipticCurvePrivateKey) and now + LEAF_LIFE < kept.not_valid_after_utc:
            return kept, kept_key
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "eaa-pccs CA")])
    usage = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    )
    made = (
        _builder("eaa-pccs CA", name, key, now, CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )
    _write(key_file, _pem(key), mode=0o600)
    _write(certificate, _certificate_pem(made), mode=0o644)
    return made, key


def _builder(
    common_name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEGUN)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, content: bytes, *, mode: int) -> None:
    """Put a file in place whole, with this mode from its first byte on."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(content)
    fresh.replace(path)
