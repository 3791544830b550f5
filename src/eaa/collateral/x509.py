"""X.509 as Intel's attestation PKI uses it: version 3, P-256, ecdsa-with-SHA256. Parsed, and still untrusted.

Everything is taken out of a certificate or CRL when it is parsed, so that later steps read plain fields and a defect
deep inside one surfaces here, as MalformedInput, and nowhere else.

Source: RFC 5280; Intel SGX PCK Certificate and Certificate Revocation List Profile Specification.
"""

from __future__ import annotations

import binascii
import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple, TypeVar, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.x509.oid import ExtensionOID

from eaa import der
from eaa.errors import MalformedInput, Reason

MAX_CERTIFICATE_SIZE: Final = 16 * 1024
"""Bytes of one certificate; Intel's have under 1300."""
MAX_CRL_SIZE: Final = 256 * 1024
"""Bytes of one CRL; Intel's have under 3000."""
MAX_PEM_SIZE: Final = 64 * 1024
"""Bytes of one PEM chain."""
MAX_CHAIN_LENGTH: Final = 8
"""Certificates of a PEM chain unless the caller says otherwise."""
MAX_SERIAL_SIZE: Final = 20
"""Bytes of a serial number (RFC 5280, 4.1.2.2)."""
SGX_EXTENSION_OID: Final = "1.2.840.113741.1.13.1"
"""Marks a PCK certificate, and holds what it says of its platform."""

_SGX_EXTENSION: Final = x509.ObjectIdentifier(SGX_EXTENSION_OID)
_ECDSA_WITH_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
_P256_SPKI_PREFIX: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_SIGNED: Final = (der.SEQUENCE, der.SEQUENCE, der.BIT_STRING)
# Version, serial, algorithm, issuer, validity, subject, key, extensions: all of them, and no unique identifiers.
_TBS_CERTIFICATE: Final = (0xA0, der.INTEGER, *(der.SEQUENCE,) * 5, 0xA3)
_TBS_CRL_BEGINS: Final = (der.INTEGER, der.SEQUENCE, der.SEQUENCE)
_VERSION_3: Final = bytes.fromhex("020102")
_CRL_VERSION_2: Final = bytes.fromhex("020101")
_CRL_EXTENSIONS: Final = 0xA0
_AUTHORITY_KEY_IDENTIFIER: Final = bytes.fromhex("0603551d23")
# The same with its value: 24 bytes that are a SEQUENCE of a key identifier of 20 bytes, and nothing else.
_PLAIN_AUTHORITY_KEY_IDENTIFIER: Final = _AUTHORITY_KEY_IDENTIFIER + bytes.fromhex("041830168014")
_COMMON_NAME: Final = bytes.fromhex("0603550403")
_TRUE: Final = bytes.fromhex("0101ff")
"""Nothing is critical where this does not occur. Extensions of CRL entries are slow to read, and there are many."""
_KEY_IDENTIFIER: Final = 0x80
_UTF8_STRING: Final = 0x0C
_PRINTABLE_STRING: Final = 0x13
_MAX_NAME_PARTS: Final = 16
_UNDERSTOOD_IF_CRITICAL: Final = frozenset({ExtensionOID.KEY_USAGE, ExtensionOID.BASIC_CONSTRAINTS})
_UNDERSTOOD_IF_CRITICAL_IN_CRL: Final = frozenset({ExtensionOID.CRL_NUMBER, ExtensionOID.AUTHORITY_KEY_IDENTIFIER})
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"
_WHITESPACE: Final = b" \t\n\r\x0b\x0c"

# What the library raises on bytes it does not like; it has no common base.
_LIBRARY_ERRORS: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One certificate, taken apart. Two are equal when their DER is."""

    der: bytes = field(repr=False)
    fingerprint: bytes = field(compare=False)
    """SHA-256 of the DER, 32 bytes."""
    parsed: x509.Certificate = field(compare=False, repr=False)
    """The library's view, for what no later step of verification needs."""
    common_name: str = field(compare=False)
    """The one CN of the subject."""
    issuer_common_name: str = field(compare=False)
    subject: bytes = field(compare=False, repr=False)
    """The Name as it stands, DER; compare bytes with bytes."""
    issuer: bytes = field(compare=False, repr=False)
    """The Name as it stands, DER."""
    serial_number: int = field(compare=False)
    """Positive, at most 160 bits. Intel has issued different certificates with one serial: never a cache key."""
    not_before: datetime = field(compare=False)
    not_after: datetime = field(compare=False)
    public_key: EllipticCurvePublicKey = field(compare=False, repr=False)
    """On P-256."""
    spki: bytes = field(compare=False, repr=False)
    """SubjectPublicKeyInfo, DER."""
    subject_key_id: bytes | None = field(compare=False)
    authority_key_id: bytes | None = field(compare=False)
    is_ca: bool | None = field(compare=False)
    """None where there is no basicConstraints extension."""
    path_length: int | None = field(compare=False)
    key_usage: frozenset[str] | None = field(compare=False)
    """Those of digitalSignature, keyCertSign and cRLSign that are set; None where there is no keyUsage extension."""
    sgx_extension: bytes | None = field(compare=False, repr=False)
    """The content of the SGX extension, still DER; None on every certificate that is no PCK certificate."""
    tbs_bytes: bytes = field(compare=False, repr=False)
    """What the issuer signed."""
    signature: bytes = field(compare=False, repr=False)
    """DER, ECDSA over SHA-256."""

    @classmethod
    def parse(cls, raw: bytes) -> Certificate:
        """Parse one DER certificate.

        Raises:
            MalformedInput: CERTIFICATE_MALFORMED or DER_MALFORMED; `raw` is not one certificate of Intel's profile.
        """
        _limit(raw, maximum=MAX_CERTIFICATE_SIZE, what="certificate", reason=Reason.CERTIFICATE_MALFORMED)
        frame = _read_frame(raw)
        try:
            return cls._from_library(raw, frame)
        except _LIBRARY_ERRORS as error:
            raise _bad_certificate(f"the certificate cannot be read: {error}") from error

    @classmethod
    def _from_library(cls, raw: bytes, frame: _Frame) -> Certificate:
        certificate = x509.load_der_x509_certificate(raw)
        extensions, sgx_extension = _read_extensions(certificate.extensions)
        constraints = _extension(extensions, x509.BasicConstraints)
        subject_key_id = _extension(extensions, x509.SubjectKeyIdentifier)
        authority = _extension(extensions, x509.AuthorityKeyIdentifier)
        return cls(
            der=raw,
            fingerprint=hashlib.sha256(raw).digest(),
            parsed=certificate,
            common_name=_common_name(frame.subject),
            issuer_common_name=_common_name(frame.issuer),
            subject=frame.subject,
            issuer=frame.issuer,
            serial_number=certificate.serial_number,
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            # The frame has fixed the algorithm and the curve.
            public_key=cast("EllipticCurvePublicKey", certificate.public_key()),
            spki=frame.spki,
            subject_key_id=None if subject_key_id is None else subject_key_id.digest,
            authority_key_id=None if authority is None else authority.key_identifier,
            is_ca=None if constraints is None else constraints.ca,
            path_length=None if constraints is None else constraints.path_length,
            key_usage=_key_usage(_extension(extensions, x509.KeyUsage)),
            sgx_extension=sgx_extension,
            tbs_bytes=frame.tbs,
            signature=certificate.signature,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CRL:
    """One certificate revocation list, taken apart. Every serial it lists is revoked, whatever the reason given."""

    der: bytes = field(repr=False)
    issuer: bytes = field(compare=False, repr=False)
    """The Name as it stands, DER."""
    number: int = field(compare=False)
    authority_key_id: bytes = field(compare=False)
    this_update: datetime = field(compare=False)
    next_update: datetime = field(compare=False)
    revoked_serials: frozenset[int] = field(compare=False, repr=False)
    tbs_bytes: bytes = field(compare=False, repr=False)
    signature: bytes = field(compare=False, repr=False)
    """DER, ECDSA over SHA-256."""

    @classmethod
    def parse(cls, raw: bytes) -> CRL:
        """Parse one DER CRL.

        Raises:
            MalformedInput: CRL_MALFORMED or DER_MALFORMED; `raw` is not one complete CRL of Intel's profile.
        """
        if not raw:
            raise _bad_crl("the CRL is empty", hint="a CRL that revokes nothing still has a signature: fetch it again")
        _limit(raw, maximum=MAX_CRL_SIZE, what="CRL", reason=Reason.CRL_MALFORMED)
        tbs, issuer = _read_crl_frame(raw)
        try:
            return cls._from_library(raw, tbs=tbs, issuer=issuer)
        except _LIBRARY_ERRORS as error:
            raise _bad_crl(f"the CRL cannot be read: {error}") from error

    @classmethod
    def _from_library(cls, raw: bytes, *, tbs: bytes, issuer: bytes) -> CRL:
        crl = x509.load_der_x509_crl(raw)
        # An unknown critical extension may say that the list is partial, or speaks for another issuer (RFC 5280, 5.2).
        unknown = {item.oid for item in crl.extensions if item.critical} - _UNDERSTOOD_IF_CRITICAL_IN_CRL
        if unknown or (_TRUE in tbs and _has_critical_entries(crl)):
            raise _bad_crl("the CRL has a critical extension that is not understood")
        extensions = {type(item.value): item.value for item in crl.extensions}
        number = _extension(extensions, x509.CRLNumber)
        authority = _extension(extensions, x509.AuthorityKeyIdentifier)
        if number is None or authority is None or authority.key_identifier is None:
            raise _bad_crl("the CRL lacks its number or its authority key identifier")
        if crl.next_update_utc is None:
            raise _bad_crl("the CRL does not say when the next one comes")
        return cls(
            der=raw,
            issuer=issuer,
            number=number.crl_number,
            authority_key_id=authority.key_identifier,
            this_update=crl.last_update_utc,
            next_update=crl.next_update_utc,
            revoked_serials=frozenset([entry.serial_number for entry in crl]),
            tbs_bytes=tbs,
            signature=crl.signature,
        )

    def lists(self, certificate: Certificate) -> bool:
        """Whether this list revokes `certificate`. It speaks only for what its own issuer issued."""
        return certificate.serial_number in self.revoked_serials


def _has_critical_entries(crl: x509.CertificateRevocationList) -> bool:
    return any(item.critical for entry in crl for item in entry.extensions)


def parse_pem_chain(pem: bytes, *, maximum: int = MAX_CHAIN_LENGTH) -> tuple[bytes, ...]:
    """Return the DER of each certificate of a PEM chain, in order; at least one, at most `maximum`.

    Whitespace between certificates and zero bytes at the end are legal (quotes carry a C string), nothing else is.

    Raises:
        MalformedInput: CERTIFICATE_MALFORMED.
    """
    return tuple([decode_pem_text(text) for text in split_pem_chain(pem, maximum=maximum)])


def split_pem_chain(pem: bytes, *, maximum: int = MAX_CHAIN_LENGTH) -> list[bytes]:
    """Return the text of each certificate of a PEM chain, for `decode_pem_text`. Raises as `parse_pem_chain`."""
    _limit(pem, maximum=MAX_PEM_SIZE, what="PEM chain", reason=Reason.CERTIFICATE_MALFORMED)
    before, *blocks = pem.rstrip(b"\0").split(_BEGIN)
    if before.strip() or not blocks:
        raise _bad_certificate("the certificate chain is not PEM")
    if len(blocks) > maximum:
        raise _bad_certificate(f"the chain has {len(blocks)} certificates, at most {maximum} are allowed")
    return [_pem_text(block) for block in blocks]


def _pem_text(block: bytes) -> bytes:
    text, end, behind = block.partition(_END)
    if not end or behind.strip():
        raise _bad_certificate("the PEM chain is cut off or holds something else than certificates")
    return text


def decode_pem_text(text: bytes) -> bytes:
    """Return the DER of a certificate whose base64 text this is. Raises as `parse_pem_chain`."""
    try:
        return binascii.a2b_base64(text.translate(None, _WHITESPACE), strict_mode=True)
    except ValueError as error:
        raise _bad_certificate("a certificate of the PEM chain is not base64") from error


class _Frame(NamedTuple):
    """Parts of a certificate as they stand, DER."""

    tbs: bytes
    issuer: bytes
    subject: bytes
    spki: bytes


def _read_frame(raw: bytes) -> _Frame:
    """Return the parts of a certificate, having checked what the library reads too loosely."""
    tbs = _signed_part(raw, what="certificate", reason=Reason.CERTIFICATE_MALFORMED)
    fields = _fields(tbs, _TBS_CERTIFICATE, reason=Reason.CERTIFICATE_MALFORMED)
    version, serial, algorithm, issuer, _, subject, spki, extensions = fields
    if version.content != _VERSION_3:
        raise _bad_certificate("the certificate is not of version 3")
    if not 0 < der.parse_uint(serial.content) < 1 << 8 * MAX_SERIAL_SIZE:
        raise _bad_certificate("the certificate's serial number is zero or too long")
    if algorithm.raw != _ECDSA_WITH_SHA256:
        raise _bad_certificate("the certificate does not name ecdsa-with-SHA256 twice")
    if not spki.raw.startswith(_P256_SPKI_PREFIX):
        raise _bad_certificate("the certificate's key is not an uncompressed point on P-256")
    _require_plain_authority(extensions.content, reason=Reason.CERTIFICATE_MALFORMED)
    return _Frame(tbs.raw, issuer.raw, subject.raw, spki.raw)


def _read_crl_frame(raw: bytes) -> tuple[bytes, bytes]:
    """Return what is signed and the issuer as they stand, having checked version and algorithms."""
    tbs = _signed_part(raw, what="CRL", reason=Reason.CRL_MALFORMED)
    version, algorithm, issuer, *more = _fields(tbs, _TBS_CRL_BEGINS, reason=Reason.CRL_MALFORMED, more=True)
    if version.raw != _CRL_VERSION_2:
        raise _bad_crl("the CRL is not of version 2")
    if algorithm.raw != _ECDSA_WITH_SHA256:
        raise _bad_crl("the CRL does not name ecdsa-with-SHA256 twice")
    for field_of_crl in more:
        if field_of_crl.tag == _CRL_EXTENSIONS:
            _require_plain_authority(field_of_crl.content, reason=Reason.CRL_MALFORMED)
    return tbs.raw, issuer.raw


def _signed_part(raw: bytes, *, what: str, reason: Reason) -> der.Element:
    """Return what is signed, having checked what is not: there is one legal spelling of that as well."""
    outer = der.read_only(raw, tag=der.SEQUENCE, what=f"the {what}")
    tbs, algorithm, signature = _fields(outer, _SIGNED, reason=reason)
    if algorithm.raw != _ECDSA_WITH_SHA256:
        raise MalformedInput(reason, f"the {what} is not signed with ecdsa-with-SHA256")
    # The library does not look at the count of unused bits; nothing signs it.
    if not signature.content.startswith(b"\0"):
        raise MalformedInput(reason, f"the signature of the {what} is not a whole number of bytes")
    return tbs


def _require_plain_authority(extensions: bytes, *, reason: Reason) -> None:
    """Refuse an authority key identifier that is more than an identifier: the library warns aloud of odd ones."""
    if extensions.count(_AUTHORITY_KEY_IDENTIFIER) == extensions.count(_PLAIN_AUTHORITY_KEY_IDENTIFIER):
        return
    whole = der.read_only(extensions, tag=der.SEQUENCE, what="the extensions")
    for item in der.read_all(whole.content, what="the extensions"):
        if item.content.startswith(_AUTHORITY_KEY_IDENTIFIER):
            parts = der.read_all(item.content, what="an extension", maximum=3)
            identifier = der.read_only(parts[-1].content, tag=der.SEQUENCE, what="an authority key identifier")
            _fields(identifier, (_KEY_IDENTIFIER,), reason=reason)


def _fields(sequence: der.Element, tags: tuple[int, ...], *, reason: Reason, more: bool = False) -> list[der.Element]:
    """Return the fields of `sequence`, which must have these tags in this order; `more` may follow."""
    fields = der.read_all(sequence.content, what="a signed structure")
    if tuple([item.tag for item in fields[: len(tags)]]) != tags or (len(fields) > len(tags) and not more):
        raise MalformedInput(reason, "a signed structure is not built of the fields that it must have")
    return fields


def _common_name(name: bytes) -> str:
    """Return the only CN of a Name, which the library has let pass."""
    plain = _plain_common_name(name)
    return _walk_to_common_name(name) if plain is None else _text(plain)


def _plain_common_name(name: bytes) -> der.Element | None:
    """Return the only CN of a Name that is spelled as nearly all are; None where that takes a closer look.

    Plain is a row of parts, each with one attribute, of lengths under 128: whatever is not shaped like that all the
    way to the end is not judged here.
    """
    found = None
    # The header has two bytes, and three of a Name that is longer than 127.
    at, end = 2 + (name[1] == 0x81), len(name)
    if name[1] > 0x81:
        return None
    while at + 4 < end:
        size = name[at + 1]
        begin, after = at + 4, at + 2 + size
        if name[at] != der.SET or size > 0x7F or name[at + 2] != der.SEQUENCE or name[at + 3] != size - 2:
            return None
        if name.startswith(_COMMON_NAME, begin):
            if found is not None or size < 9 or after > end or name[at + 10] != size - 9:
                return None
            found = der.Element(name[at + 9], name[at + 11 : after], name[at + 9 : after])
        at = after
    return found if at == end else None


def _walk_to_common_name(name: bytes) -> str:
    """Return the only CN of a Name; none or two would let two readers see different names."""
    found: list[str] = []
    parts = der.read_only(name, tag=der.SEQUENCE, what="a name").content
    for part in der.read_all(parts, what="a name", maximum=_MAX_NAME_PARTS):
        attributes = der.expect(part, tag=der.SET, what="a part of a name").content
        # The library has read every attribute, whatever its type; only this one means something to us.
        if _COMMON_NAME in attributes:
            found += _common_names(attributes)
    if len(found) != 1:
        raise _bad_certificate(f"a name has {len(found)} common names, exactly one is expected")
    return found[0]


def _common_names(attributes: bytes) -> list[str]:
    """Return the CNs among the attributes of one part of a Name; a part has one attribute, as a rule."""
    contents = [
        der.expect(attribute, tag=der.SEQUENCE, what="an attribute of a name").content
        for attribute in der.read_all(attributes, what="a part of a name", maximum=_MAX_NAME_PARTS)
    ]
    return [
        _text(der.read_all(content, what="an attribute of a name", maximum=2)[-1])
        for content in contents
        if content.startswith(_COMMON_NAME)
    ]


def _text(value: der.Element) -> str:
    if value.tag not in (_UTF8_STRING, _PRINTABLE_STRING):
        raise _bad_certificate("a common name is neither a UTF8String nor a PrintableString")
    try:
        text = value.content.decode()
    except UnicodeDecodeError as error:
        raise _bad_certificate("a common name is not UTF-8") from error
    if not text.isprintable():
        raise _bad_certificate("a common name holds characters that cannot be printed")
    return text


_Value = TypeVar("_Value", bound=x509.ExtensionType)
_Extensions = dict[type[x509.ExtensionType], x509.ExtensionType]
"""Each under its own type."""


def _extension(extensions: _Extensions, kind: type[_Value]) -> _Value | None:
    return cast("_Value | None", extensions.get(kind))


def _read_extensions(extensions: x509.Extensions) -> tuple[_Extensions, bytes | None]:
    """Return the extensions that the library knows, by their kind, and the content of the SGX extension."""
    known: _Extensions = {}
    sgx_extension = None
    for item in extensions:
        oid, value = item.oid, item.value
        if item.critical and oid not in _UNDERSTOOD_IF_CRITICAL:
            raise _bad_certificate(f"the certificate has a critical extension {oid.dotted_string}, not understood")
        if type(value) is not x509.UnrecognizedExtension:
            known[type(value)] = value
        elif oid == _SGX_EXTENSION:
            sgx_extension = value.value
    return known, sgx_extension


def _key_usage(usage: x509.KeyUsage | None) -> frozenset[str] | None:
    if usage is None:
        return None
    flags = (
        ("digitalSignature", usage.digital_signature),
        ("keyCertSign", usage.key_cert_sign),
        ("cRLSign", usage.crl_sign),
    )
    return frozenset([name for name, is_set in flags if is_set])


def _limit(raw: bytes, *, maximum: int, what: str, reason: Reason) -> None:
    if len(raw) > maximum:
        raise MalformedInput(reason, f"{len(raw)} bytes are too many for a {what}, the limit is {maximum}")


def _bad_certificate(message: str) -> MalformedInput:
    return MalformedInput(Reason.CERTIFICATE_MALFORMED, message)


def _bad_crl(message: str, *, hint: str | None = None) -> MalformedInput:
    return MalformedInput(Reason.CRL_MALFORMED, message, hint=hint)
