"""X.509 certificates of Intel's PKI and of anybody else: what each says of itself."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from eaa import der
from eaa.collateral.intel import PCKCertificate
from eaa.collateral.x509 import SGX_EXTENSION_OID
from eaa.errors import EAAError, MalformedInput
from eaa.shelter.inspect.pem import pem_blocks
from eaa.shelter.inspect.result import Facts, moment

LIBRARY_ERRORS: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises on bytes that it does not like; it has no common base."""
_SGX_TYPES: Final = {0: "standard", 1: "scalable", 2: "scalable with integrity"}


def signed_body(raw: bytes) -> bytes | None:
    """Return the content of what is signed, if `raw` is one signed DER structure: a certificate, a CRL, a request."""
    try:
        outer = der.read_only(raw, tag=der.SEQUENCE, what="the file")
        parts = der.read_all(outer.content, what="the file", maximum=3)
    except MalformedInput:
        return None
    signed = [part.tag for part in parts] == [der.SEQUENCE, der.SEQUENCE, der.BIT_STRING]
    return parts[0].content if signed else None


def is_certificate(raw: bytes) -> bool:
    """Whether `raw` is built like a certificate: what is signed begins with an explicit version."""
    body = signed_body(raw)
    return body is not None and body[:1] == b"\xa0"


def certificates_of(raw: bytes) -> list[bytes]:
    """Return the certificates of a file, DER each: the file itself, or its PEM blocks of that label."""
    if is_certificate(raw):
        return [raw]
    return [block.content for block in pem_blocks(raw) if block.label in ("CERTIFICATE", "TRUSTED CERTIFICATE")]


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep the library from warning of odd serial numbers and names; here they are facts like any other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def certificate_facts(content: bytes) -> Facts:
    """Return what a certificate (DER) says of itself; `unreadable` is among the facts where that is little."""
    try:
        with without_warnings():
            return _library_facts(x509.load_der_x509_certificate(content)) | _platform_facts(content)
    except LIBRARY_ERRORS as error:
        return {
            "sha256": hashlib.sha256(content).hexdigest(),
            "unreadable": f"the certificate cannot be read: {first_line(error)}",
        }


def _library_facts(parsed: x509.Certificate) -> Facts:
    facts: Facts = {
        "subject": parsed.subject.rfc4514_string(),
        "issuer": parsed.issuer.rfc4514_string(),
        "serial_number": f"{parsed.serial_number:x}",
        "not_before": moment(parsed.not_valid_before_utc),
        "not_after": moment(parsed.not_valid_after_utc),
        "key": key_name(parsed.public_key()),
        "sha256": parsed.fingerprint(hashes.SHA256()).hex(),
    }
    constraints = [item.value for item in parsed.extensions if isinstance(item.value, x509.BasicConstraints)]
    facts["is_ca"] = bool(constraints and constraints[0].ca)
    return facts


def _platform_facts(content: bytes) -> Facts:
    """Return what a PCK certificate adds, nothing for any other."""
    parsed = x509.load_der_x509_certificate(content)
    if not any(item.oid.dotted_string == SGX_EXTENSION_OID for item in parsed.extensions):
        return {}
    try:
        return {"platform": pck_facts(PCKCertificate.parse(content))}
    except EAAError as error:
        return {"platform": {"unreadable": error.message}}


def pck_facts(pck: PCKCertificate) -> Facts:
    """Return what a PCK certificate says of its platform, but for the ids that single out one machine."""
    return {
        "fmspc": pck.fmspc.hex(),
        "pce_id": pck.pce_id.hex(),
        "ca": pck.ca,
        "cpu_svn": pck.cpu_svn.hex(),
        "pce_svn": pck.pce_svn,
        "sgx_type": _SGX_TYPES[pck.sgx_type],
        "dynamic_platform": pck.dynamic_platform,
        "cached_keys": pck.cached_keys,
        "smt_enabled": pck.smt_enabled,
    }


def key_name(key: object) -> str:
    """Return the kind of a public key in words."""
    match key:
        case ec.EllipticCurvePublicKey(curve=curve):
            return f"EC {curve.name}"
        case rsa.RSAPublicKey(key_size=size):
            return f"RSA {size}"
    return type(key).__name__.removesuffix("PublicKey")


def spki_key_name(spki: bytes) -> str:
    """Return the kind of a key, given its SubjectPublicKeyInfo."""
    try:
        return key_name(load_der_public_key(spki))
    except LIBRARY_ERRORS:
        return "unknown"


def first_line(error: Exception) -> str:
    """Return the first line of what a library says, which may run over many."""
    return (str(error).splitlines() or [type(error).__name__])[0]
