"""A peer's leaf in a handshake: read by us, read again by another library, and refused where the two differ.

OpenSSL takes the key of a certificate for the handshake, and we take the bytes that the peer's evidence has to name. A
certificate that means one thing to the one and another thing to the other would let a peer prove one key and attest
another. So what counts is read twice: key, serial number, dates, name, and which extensions there are.

`cryptography` refuses two mistakes that are known of other stacks: certificates that call themselves version 4, and a
NULL beside ECDSA. These two, and no others, are put right in the copy that it reads.
"""

from __future__ import annotations

import functools
import re
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from eaa import der
from eaa.errors import MalformedInput, Reason
from eaa.tls.certificate import RATLSCertificate
from eaa.tls.shape import Shapes

MAX_KNOWN_LEAVES: Final = 256
"""Certificates that are remembered as read, so that a peer that comes back is read once."""

_SHAPES: Final = Shapes()
"""Of certificates that both have read alike: another one of the same shape is taken apart once."""
_MISNUMBERED: Final = 4
_VERSION_FIELD: Final = bytes.fromhex("a003020102")
_NULL: Final = bytes.fromhex("0500")
_ECDSA: Final = "1.2.840.10045.4.3."
"""ecdsa-with-SHA224 and the others; none of them has parameters (RFC 5758, 3.2)."""
_ECDSA_WITH_NULL: Final = re.compile(
    re.escape(bytes.fromhex("06082a8648ce3d0403")) + b"." + re.escape(_NULL), re.DOTALL
)
"""An identifier of these algorithms with a NULL behind it. Where it stands nowhere, no algorithm has the mistake."""
_COMMON_NAME_SIZE: Final = 64
_REFUSALS: Final = (
    *(ValueError, TypeError, UnsupportedAlgorithm),
    *(x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
    # Where a program turns warnings into errors: of a name or number that breaks the profile of RFC 5280.
    UserWarning,
)
"""What `cryptography` raises of certificates that it cannot read."""


def read_leaf(raw: bytes, *, now: datetime, early: timedelta = timedelta(0)) -> RATLSCertificate:
    """Read the certificate that a peer presents in a handshake, DER.

    Whether its evidence is genuine, or there at all, is not looked at here.

    Args:
        raw: the certificate.
        now: aware.
        early: how far in the future its beginning may lie, as `verify_dates` has it.

    Raises:
        MalformedInput: DER_MALFORMED, CERTIFICATE_MALFORMED, CERTIFICATE_AMBIGUOUS, EVIDENCE_MALFORMED,
            TEE_TYPE_UNSUPPORTED.
        VerificationError: EVIDENCE_AMBIGUOUS, CERTIFICATE_EXPIRED, CERTIFICATE_NOT_YET_VALID.
    """
    certificate = _read(raw)
    certificate.verify_dates(now=now, early=early)
    return certificate


@functools.lru_cache(maxsize=MAX_KNOWN_LEAVES)
def _read(raw: bytes) -> RATLSCertificate:
    """Do everything that is not of the moment. Failures are not remembered."""
    return _SHAPES.read(raw) or _read_twice(raw)


def _read_twice(raw: bytes) -> RATLSCertificate:
    certificate = RATLSCertificate.parse(raw)
    if certificate.unknown_critical:
        raise MalformedInput(
            Reason.CERTIFICATE_MALFORMED,
            f"the peer's certificate has critical extensions not known here: {certificate.unknown_critical}",
        )
    if certificate.serial_number == 0:
        # `cryptography` warns today and will refuse tomorrow, so that the two readings would differ.
        raise MalformedInput(
            Reason.CERTIFICATE_MALFORMED,
            "the peer's certificate has the serial number 0",
            hint="RFC 5280 wants a positive one",
        )
    verify_read_alike(certificate, raw)
    certificate.verify_unambiguous()
    _SHAPES.learn(raw, certificate)
    return certificate


def verify_read_alike(certificate: RATLSCertificate, raw: bytes) -> None:
    """Verify that another library reads in a certificate what was read here.

    Args:
        certificate: what was read here.
        raw: the same certificate, DER.

    Raises:
        MalformedInput: CERTIFICATE_AMBIGUOUS.
    """
    try:
        read = _read_by_another(raw, certificate)
    except _REFUSALS as error:
        raise _ambiguous(f"can be read here but not by another library: {error}") from error
    ours = {
        "serial number": certificate.serial_number,
        "dates": (certificate.not_before, certificate.not_after),
        "common name": certificate.subject,
        "public key": certificate.spki_der,
        "extensions": certificate.extension_oids,
    }
    if differing := [name for name, value in ours.items() if read[name] != value]:
        raise _ambiguous(f"is read in two ways: {', '.join(differing)}")


def _read_by_another(raw: bytes, certificate: RATLSCertificate) -> dict[str, object]:
    other = x509.load_der_x509_certificate(_mistakes_put_right(raw, certificate))
    names = other.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return {
        "serial number": other.serial_number,
        "dates": (other.not_valid_before_utc, other.not_valid_after_utc),
        "common name": str(names[0].value)[:_COMMON_NAME_SIZE] if names else "",
        # Written anew from what was understood: another encoding of the same key would be hashed to something else.
        "public key": other.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "extensions": tuple(extension.oid.dotted_string for extension in other.extensions),
    }


def _mistakes_put_right(raw: bytes, certificate: RATLSCertificate) -> bytes:
    """Return the certificate with the two known mistakes put right; as it is where it has neither."""
    if certificate.version != _MISNUMBERED and not _ECDSA_WITH_NULL.search(raw):
        return raw
    body, algorithm, signature = _parts(der.read_only(raw, tag=der.SEQUENCE, what="the certificate"), maximum=3)
    right = _without_null(algorithm)
    if certificate.version != _MISNUMBERED and right == algorithm.raw:
        return raw
    version, serial, inner, *rest = _parts(body, maximum=10)
    numbered = _VERSION_FIELD if certificate.version == _MISNUMBERED else version.raw
    fields = [numbered, serial.raw, _without_null(inner), *(element.raw for element in rest)]
    return _sequence(_sequence(*fields), right, signature.raw)


def _parts(element: der.Element, *, maximum: int) -> list[der.Element]:
    return der.read_all(element.content, what="the certificate", maximum=maximum)


def _without_null(algorithm: der.Element) -> bytes:
    identifier, *parameters = _parts(algorithm, maximum=2)
    if not der.parse_oid(identifier.content).startswith(_ECDSA) or [part.raw for part in parameters] != [_NULL]:
        return algorithm.raw
    return _sequence(identifier.raw)


def _sequence(*parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes([der.SEQUENCE, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([der.SEQUENCE, 0x80 | len(octets)]) + octets + content


def _ambiguous(what: str) -> MalformedInput:
    return MalformedInput(
        Reason.CERTIFICATE_AMBIGUOUS,
        f"the peer's certificate {what}",
        hint="one that means one thing to TLS and another to whoever judges evidence looks like this",
    )
