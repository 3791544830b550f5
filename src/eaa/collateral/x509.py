"""X.509 as Intel's attestation PKI uses it: version 3, P-256, ecdsa-with-SHA256. Parsed, and still untrusted.

Everything is taken out of a certificate or CRL when it is parsed, so that later steps read plain fields and a defect
deep inside one surfaces here, as MalformedInput, and nowhere else.

Each is read once, by the bounded reader of `eaa.der`, field by field as Intel's profile has it; of the library come
public keys. What the profile does not have, but other certificates do, is for the library to read and to refuse.

Source: RFC 5280; Intel SGX PCK Certificate and Certificate Revocation List Profile Specification.
"""

from __future__ import annotations

import binascii
import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from eaa import der
from eaa.collateral.as_issued import P256_KEY, IssuedCertificate, IssuedCRL, read_certificate, read_crl
from eaa.errors import MalformedInput, Reason
from eaa.records import quick

MAX_CERTIFICATE_SIZE: Final = 16 * 1024
"""Bytes of one certificate; Intel's have under 1300."""
MAX_CRL_SIZE: Final = 256 * 1024
"""Bytes of one CRL; Intel's have under 3500."""
MAX_REVOKED: Final = 16 * 1024
"""Entries of one CRL; Intel's have under 100."""
MAX_PEM_SIZE: Final = 64 * 1024
"""Bytes of one PEM chain."""
MAX_CHAIN_LENGTH: Final = 8
"""Certificates of a PEM chain unless the caller says otherwise."""
MAX_SERIAL_SIZE: Final = 20
"""Bytes of a serial number (RFC 5280, 4.1.2.2)."""
MAX_CRL_NUMBER_SIZE: Final = 20
"""Bytes of the number of a CRL (RFC 5280, 5.2.3)."""
MAX_KNOWN_NAMES: Final = 64
"""Names that are remembered as read: Intel's certificates share six."""
MAX_KNOWN_EXTENSIONS: Final = 256
"""Extensions that are remembered as read: most of a certificate's stand in every other certificate as well."""
SGX_EXTENSION_OID: Final = "1.2.840.113741.1.13.1"
"""Marks a PCK certificate, and holds what it says of its platform."""
P256_SPKI_PREFIX: Final = bytes.fromhex(P256_KEY)
"""What stands before the 64 bytes of both coordinates in the SubjectPublicKeyInfo of a key on P-256."""

_ECDSA_WITH_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
_TIME_SIZE: Final = 15
"""YYYYMMDDHHMMSSZ."""
_LAST_HOUR: Final = "23"
"""Where `datetime` would take midnight as the end of a day."""
_TRUE: Final = b"\xff"
_SIGNED: Final = (der.SEQUENCE, der.SEQUENCE, der.BIT_STRING)
# Version, serial, algorithm, issuer, validity, subject, key, extensions: all of them, and no unique identifiers.
_TBS_CERTIFICATE: Final = (0xA0, der.INTEGER, *(der.SEQUENCE,) * 5, 0xA3)
_TBS_CRL_BEGINS: Final = [der.INTEGER, der.SEQUENCE, der.SEQUENCE]
_VERSION_3: Final = bytes.fromhex("a003020102")
_CRL_VERSION_2: Final = bytes.fromhex("020101")
_CRL_EXTENSIONS: Final = 0xA0
_MIN_CRL_FIELDS: Final = 6
"""Those above, two dates and extensions."""
_PLAIN_EXTENSION: Final = (der.OBJECT_IDENTIFIER, der.OCTET_STRING)
_CRITICAL_EXTENSION: Final = (der.OBJECT_IDENTIFIER, der.BOOLEAN, der.OCTET_STRING)
_MAX_EXTENSIONS: Final = 32
_MAX_SHORT: Final = 0x7F
"""The longest content whose length is told in one byte."""
_COMMON_NAME: Final = bytes.fromhex("550403")
_UTF8_STRING: Final = 0x0C
_PRINTABLE_STRING: Final = 0x13
_MAX_NAME_PARTS: Final = 16
_PRINTABLE: Final = re.compile(rb"[A-Za-z0-9 '()+,\-./:=?]*")
# Extensions by the content of their object identifiers.
_SUBJECT_KEY_ID: Final = bytes.fromhex("551d0e")
_KEY_USAGE: Final = bytes.fromhex("551d0f")
_BASIC_CONSTRAINTS: Final = bytes.fromhex("551d13")
_CRL_NUMBER: Final = bytes.fromhex("551d14")
_DISTRIBUTION_POINTS: Final = bytes.fromhex("551d1f")
_AUTHORITY_KEY_ID: Final = bytes.fromhex("551d23")
_SGX_EXTENSION: Final = bytes.fromhex("2a864886f84d010d01")
# What basicConstraints say.
_NO_CA: Final = bytes.fromhex("3000")
_CA: Final = bytes.fromhex("30030101ff")
_CA_WITH_PATH: Final = bytes.fromhex("30060101ff0201")
_KEY_IDENTIFIER: Final = 0x80
# X.509 counts bits from the left.
_SIGNS: Final = frozenset({"digitalSignature"})
_SIGNS_CERTIFICATES: Final = frozenset({"keyCertSign", "cRLSign"})
_USAGES: Final = ((0x80, "digitalSignature"), (0x04, "keyCertSign"), (0x02, "cRLSign"))
# An entry as Intel spells it: the serial in 20 bytes, or in 21 for the sign, a date, and a reason that is not critical.
_ENTRY_AS_ISSUED: Final = re.compile(
    rb"\x30(?:\x33(?=\x02\x14[\x01-\x7f])|\x34(?=\x02\x15\x00[\x80-\xff]))\x02.((?<=\x14).{20}|(?<=\x15).{21})"
    rb"\x17\x0d(\d{6}(?:[01]\d|2[0-3])\d{4})Z\x30\x0c\x30\x0a\x06\x03\x55\x1d\x15\x04\x03\x0a\x01[\x00-\x0a]",
    re.DOTALL,
)
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


class _Kind(NamedTuple):
    """What is read."""

    what: str
    reason: Reason
    profile: frozenset[bytes]
    """Extensions that we read ourselves."""
    understood: frozenset[bytes]
    """Those of them that may be critical."""
    load: Callable[[bytes], x509.Certificate | x509.CertificateRevocationList]
    """The library's reader, for other extensions."""

    def bad(self, message: str, *, hint: str | None = None) -> MalformedInput:
        return MalformedInput(self.reason, message, hint=hint)


_A_CERTIFICATE: Final = _Kind(
    what="certificate",
    reason=Reason.CERTIFICATE_MALFORMED,
    profile=frozenset(
        (_SUBJECT_KEY_ID, _KEY_USAGE, _BASIC_CONSTRAINTS, _DISTRIBUTION_POINTS, _AUTHORITY_KEY_ID, _SGX_EXTENSION)
    ),
    understood=frozenset((_KEY_USAGE, _BASIC_CONSTRAINTS)),
    load=x509.load_der_x509_certificate,
)
_A_CRL: Final = _Kind(
    what="CRL",
    reason=Reason.CRL_MALFORMED,
    profile=frozenset((_CRL_NUMBER, _AUTHORITY_KEY_ID)),
    understood=frozenset((_CRL_NUMBER, _AUTHORITY_KEY_ID)),
    load=x509.load_der_x509_crl,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One certificate, taken apart. Two are equal when their DER is."""

    der: bytes = field(repr=False)
    fingerprint: bytes = field(compare=False)
    """SHA-256 of the DER, 32 bytes."""
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
        parts = read_certificate(raw)
        if parts is not None:
            try:
                return _put_together(raw, parts)
            except (MalformedInput, ValueError):
                # What is wrong, and what is wrong first, is found on the way through all of its elements.
                pass
        return cls._walk(raw)

    @classmethod
    def _walk(cls, raw: bytes) -> Certificate:
        """Parse one in whatever spelling its elements come."""
        kind = _A_CERTIFICATE
        _limit(raw, maximum=MAX_CERTIFICATE_SIZE, kind=kind)
        tbs, signature = _read_signed(raw, kind)
        fields = _row(raw, tbs, _TBS_CERTIFICATE, kind)
        version, _, algorithm, issuer, _, subject, spki, _ = [raw[at:end] for _, at, _, end in fields]
        if version != _VERSION_3:
            raise kind.bad("the certificate is not of version 3")
        if algorithm != _ECDSA_WITH_SHA256:
            raise kind.bad("the certificate does not name ecdsa-with-SHA256 twice")
        _, serial, _, _, validity, _, _, extensions = fields
        not_before, not_after = _read_validity(raw, validity, kind)
        found = _read_extensions(raw, extensions, kind)
        is_ca, path_length = _read_constraints(found.get(_BASIC_CONSTRAINTS))
        certificate = _new_certificate(
            der=raw,
            fingerprint=hashlib.sha256(raw).digest(),
            common_name=_common_name(subject),
            issuer_common_name=_common_name(issuer),
            subject=subject,
            issuer=issuer,
            serial_number=int.from_bytes(_read_serial(raw, serial, kind), "big"),
            not_before=not_before,
            not_after=not_after,
            public_key=_load_key(spki),
            spki=spki,
            subject_key_id=_read_subject_key_id(found.get(_SUBJECT_KEY_ID)),
            authority_key_id=_read_authority_key_id(found.get(_AUTHORITY_KEY_ID), kind),
            is_ca=is_ca,
            path_length=path_length,
            key_usage=_read_key_usage(found.get(_KEY_USAGE)),
            sgx_extension=found.get(_SGX_EXTENSION),
            tbs_bytes=raw[tbs[1] : tbs[3]],
            signature=signature,
        )
        _let_library_read_others(raw, found, kind)
        return certificate


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
    revoked: frozenset[bytes] = field(compare=False, repr=False)
    """Serials, each as the content of its INTEGER in DER."""
    tbs_bytes: bytes = field(compare=False, repr=False)
    signature: bytes = field(compare=False, repr=False)
    """DER, ECDSA over SHA-256."""

    @classmethod
    def parse(cls, raw: bytes) -> CRL:
        """Parse one DER CRL.

        Raises:
            MalformedInput: CRL_MALFORMED or DER_MALFORMED; `raw` is not one complete CRL of Intel's profile.
        """
        parts = read_crl(raw)
        if parts is not None:
            try:
                return _put_crl_together(raw, parts)
            except (MalformedInput, ValueError):
                # As of a certificate.
                pass
        return cls._walk(raw)

    @classmethod
    def _walk(cls, raw: bytes) -> CRL:
        """Parse one in whatever spelling its elements come."""
        kind = _A_CRL
        if not raw:
            raise kind.bad("the CRL is empty", hint="a CRL that revokes nothing still has a signature: fetch it again")
        _limit(raw, maximum=MAX_CRL_SIZE, kind=kind)
        tbs, signature = _read_signed(raw, kind)
        issuer, (this_update, next_update), entries, extensions = _read_fields_of_crl(raw, tbs)
        found = _read_extensions(raw, extensions, kind)
        authority_key_id = _read_authority_key_id(found.get(_AUTHORITY_KEY_ID), kind)
        if authority_key_id is None or _CRL_NUMBER not in found:
            raise kind.bad("the CRL lacks its number or its authority key identifier")
        crl = _new_crl(
            der=raw,
            issuer=issuer,
            number=_read_crl_number(found[_CRL_NUMBER]),
            authority_key_id=authority_key_id,
            this_update=this_update,
            next_update=next_update,
            revoked=frozenset() if entries is None else _read_entries(raw, entries),
            tbs_bytes=raw[tbs[1] : tbs[3]],
            signature=signature,
        )
        _let_library_read_others(raw, found, kind)
        return crl

    @property
    def revoked_serials(self) -> frozenset[int]:
        """Every serial that is listed."""
        return frozenset([int.from_bytes(serial, "big") for serial in self.revoked])

    def lists(self, certificate: Certificate) -> bool:
        """Whether this list revokes `certificate`. It speaks only for what its own issuer issued."""
        serial = certificate.serial_number
        return serial.to_bytes(serial.bit_length() // 8 + 1, "big") in self.revoked


_new_certificate: Final = quick(Certificate)
_new_crl: Final = quick(CRL)


def _put_together(raw: bytes, parts: IssuedCertificate) -> Certificate:
    """Return the certificate of these parts. Raises MalformedInput or ValueError where it is to be read otherwise."""
    oid, is_critical, points = _read_extension(parts.distribution_points)
    if oid != _DISTRIBUTION_POINTS or is_critical or not _is_plain_uri(points):
        raise ValueError("distribution points that the library has to read")
    return _new_certificate(
        der=raw,
        fingerprint=hashlib.sha256(raw).digest(),
        common_name=_common_name(parts.subject),
        issuer_common_name=_common_name(parts.issuer),
        subject=parts.subject,
        issuer=parts.issuer,
        serial_number=int.from_bytes(parts.serial, "big"),
        not_before=_date_of(parts.not_before),
        not_after=_date_of(parts.not_after),
        public_key=_load_key(parts.spki),
        spki=parts.spki,
        subject_key_id=parts.subject_key_id,
        authority_key_id=parts.authority_key_id,
        is_ca=parts.path_length is not None,
        path_length=parts.path_length,
        key_usage=_SIGNS_CERTIFICATES if parts.signs_certificates else _SIGNS,
        sgx_extension=parts.sgx_extension,
        tbs_bytes=parts.tbs_bytes,
        signature=parts.signature,
    )


def _put_crl_together(raw: bytes, parts: IssuedCRL) -> CRL:
    """Return the CRL of these parts. Raises as `_put_together`."""
    # As where it is read element by element: it must have one.
    _common_name(parts.issuer)
    entries = parts.entries
    return _new_crl(
        der=raw,
        issuer=parts.issuer,
        number=parts.number,
        authority_key_id=parts.authority_key_id,
        this_update=_date_of(parts.this_update),
        next_update=_date_of(parts.next_update),
        revoked=frozenset() if entries is None else _read_entries(entries, (der.SEQUENCE, 0, 0, len(entries))),
        tbs_bytes=parts.tbs_bytes,
        signature=parts.signature,
    )


def _date_of(digits: bytes) -> datetime:
    """Return the date of a UTCTime, without its Z, whose hour is known to be one. Raises ValueError."""
    century = "20" if digits < b"5" else "19"
    return datetime.fromisoformat(f"{century}{digits[:6].decode()}T{digits[6:].decode()}Z")


def parse_pem_chain(pem: bytes, *, maximum: int = MAX_CHAIN_LENGTH) -> tuple[bytes, ...]:
    """Return the DER of each certificate of a PEM chain, in order; at least one, at most `maximum`.

    Whitespace between certificates and zero bytes at the end are legal (quotes carry a C string), nothing else is.

    Raises:
        MalformedInput: CERTIFICATE_MALFORMED.
    """
    return tuple([decode_pem_text(text) for text in split_pem_chain(pem, maximum=maximum)])


def split_pem_chain(pem: bytes, *, maximum: int = MAX_CHAIN_LENGTH) -> list[bytes]:
    """Return the text of each certificate of a PEM chain, for `decode_pem_text`. Raises as `parse_pem_chain`."""
    _limit(pem, maximum=MAX_PEM_SIZE, kind=_A_CERTIFICATE, what="PEM chain")
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


# --- parts of a certificate or CRL


def _row(raw: bytes, within: der.Span, tags: tuple[int, ...], kind: _Kind) -> list[der.Span]:
    """Return the elements inside of one, which must have these tags in this order."""
    found = der.spans(raw, within[2], within[3], what=f"the {kind.what}")
    if tuple([item[0] for item in found]) != tags:
        raise kind.bad(f"the {kind.what} is not built of the fields that it must have")
    return found


def _read_signed(raw: bytes, kind: _Kind) -> tuple[der.Span, bytes]:
    """Return what is signed, and the signature, having checked what is not: there is one legal spelling of that too."""
    outer = der.only_span(raw, 0, len(raw), tag=der.SEQUENCE, what=f"the {kind.what}")
    tbs, algorithm, signature = _row(raw, outer, _SIGNED, kind)
    if raw[algorithm[1] : algorithm[3]] != _ECDSA_WITH_SHA256:
        raise kind.bad(f"the {kind.what} is not signed with ecdsa-with-SHA256")
    # The first byte counts the bits that are not used.
    if not raw.startswith(b"\0", signature[2], signature[3]):
        raise kind.bad(f"the signature of the {kind.what} is not a whole number of bytes")
    return tbs, raw[signature[2] + 1 : signature[3]]


def _read_serial(raw: bytes, serial: der.Span, kind: _Kind) -> bytes:
    """Return the content of the INTEGER of a serial number."""
    content = raw[serial[2] : serial[3]]
    if not 0 < der.parse_uint(content) < 1 << 8 * MAX_SERIAL_SIZE:
        raise kind.bad("a serial number is zero or too long")
    return content


def _load_key(spki: bytes) -> EllipticCurvePublicKey:
    if not spki.startswith(P256_SPKI_PREFIX):
        raise _bad_certificate("the certificate's key is not an uncompressed point on P-256")
    try:
        # The prefix has fixed the algorithm and the curve.
        return cast("EllipticCurvePublicKey", load_der_public_key(spki))
    except ValueError as error:
        raise _bad_certificate("the certificate's key is no point on P-256") from error


def _read_validity(raw: bytes, validity: der.Span, kind: _Kind) -> list[datetime]:
    times = der.spans(raw, validity[2], validity[3], what="a validity")
    if len(times) != 2:
        raise kind.bad("a validity does not have two dates")
    return [_read_time(raw, time, kind) for time in times]


def _read_time(raw: bytes, time: der.Span, kind: _Kind) -> datetime:
    """Return a date, which RFC 5280 (4.1.2.5) spells in one way: the years before 2050 without their century."""
    tag, _, begin, end = time
    text = raw[begin:end]
    if tag == _UTC_TIME:
        text = (b"20" if text < b"5" else b"19") + text
    elif tag != _GENERALIZED_TIME or text < b"2050":
        raise kind.bad(f"a date of the {kind.what} is neither a UTCTime nor a GeneralizedTime from 2050 on")
    digits = text[:-1].decode("ascii", "replace")
    if len(text) != _TIME_SIZE or text[-1:] != b"Z" or not digits.isdecimal() or digits[8:10] > _LAST_HOUR:
        raise kind.bad(f"a date of the {kind.what} is not told to the second, in UTC")
    try:
        return datetime.fromisoformat(f"{digits[:8]}T{digits[8:]}Z")
    except ValueError as error:
        raise kind.bad(f"the {kind.what} names a day or an hour that does not exist") from error


def _read_extensions(raw: bytes, wrapped: der.Span, kind: _Kind) -> dict[bytes, bytes]:
    """Return what each extension says, by the content of its object identifier."""
    what = f"the extensions of the {kind.what}"
    _, _, begin, end = der.only_span(raw, wrapped[2], wrapped[3], tag=der.SEQUENCE, what=what)
    found: dict[bytes, bytes] = {}
    for _, at, _, after in der.spans(raw, begin, end, what=what, maximum=_MAX_EXTENSIONS):
        try:
            oid, is_critical, value = _read_extension(raw[at:after])
        except ValueError as error:
            raise kind.bad(f"an extension of the {kind.what} is {error}") from error
        # One that is not understood may say that a list is partial, or speaks for another issuer (RFC 5280, 5.2).
        if is_critical and oid not in kind.understood:
            raise kind.bad(f"the {kind.what} has a critical extension {der.parse_oid(oid)}, which is not understood")
        if oid in found:
            raise kind.bad(f"the {kind.what} has an extension twice")
        found[oid] = value
    return found


@functools.lru_cache(maxsize=MAX_KNOWN_EXTENSIONS)
def _read_extension(raw: bytes) -> tuple[bytes, bool, bytes]:
    """Return the object identifier of an extension, whether it is critical, and what it says. Raises ValueError too."""
    whole = der.only_span(raw, 0, len(raw), tag=der.SEQUENCE, what="an extension")
    parts = der.spans(raw, whole[2], whole[3], what="an extension")
    tags = tuple([part[0] for part in parts])
    if tags not in (_PLAIN_EXTENSION, _CRITICAL_EXTENSION):
        raise ValueError("not built of the fields that it must have")
    oid, *flag, value = [raw[begin:end] for _, _, begin, end in parts]
    der.parse_oid(oid)
    if flag and flag != [_TRUE]:
        raise ValueError("told to be not critical, where nothing is to be told")
    return oid, bool(flag), value


def _let_library_read_others(raw: bytes, found: dict[bytes, bytes], kind: _Kind) -> None:
    """Refuse what the library refuses in extensions that mean nothing to us: of the rest it must not warn aloud."""
    if found.keys() <= kind.profile and _is_plain_uri(found.get(_DISTRIBUTION_POINTS)):
        return
    try:
        kind.load(raw).extensions  # noqa: B018  it is read when it is asked for
    except _LIBRARY_ERRORS as error:
        raise kind.bad(f"the {kind.what} cannot be read: {error}") from error


# --- what an extension says. DER has one spelling for everything, so that to compare bytes is to read them


def _is_plain_uri(value: bytes | None) -> bool:
    """Whether distribution points are one URI, as Intel's are: a SEQUENCE of a SEQUENCE of [0] of [0] of [6]."""
    if value is None:
        return True
    size = len(value)
    if not 10 < size <= _MAX_SHORT:
        return False
    spelled = (der.SEQUENCE, size - 2, der.SEQUENCE, size - 4, 0xA0, size - 6, 0xA0, size - 8, 0x86, size - 10)
    return value.startswith(bytes(spelled)) and value[10:].isascii()


def _read_subject_key_id(value: bytes | None) -> bytes | None:
    if value is None:
        return None
    if not 2 < len(value) <= _MAX_SHORT or value[:2] != bytes((der.OCTET_STRING, len(value) - 2)):
        raise _A_CERTIFICATE.bad("a subject key identifier is not an octet string")
    return value[2:]


def _read_authority_key_id(value: bytes | None, kind: _Kind) -> bytes | None:
    """Return the key identifier; an issuer that is named in other ways as well is not of the profile."""
    if value is None:
        return None
    size = len(value)
    if not 4 < size <= _MAX_SHORT or value[:4] != bytes((der.SEQUENCE, size - 2, _KEY_IDENTIFIER, size - 4)):
        raise kind.bad("an authority key identifier is not a key identifier, and nothing else")
    return value[4:]


def _read_constraints(value: bytes | None) -> tuple[bool | None, int | None]:
    """Return whether it is a CA, and its path length."""
    if value is None:
        return None, None
    if value in (_NO_CA, _CA):
        return value == _CA, None
    if value[:-1] != _CA_WITH_PATH or value[-1] > _MAX_SHORT:
        raise _A_CERTIFICATE.bad("basicConstraints say something else than CA or not, and a path length")
    return True, value[-1]


def _read_key_usage(value: bytes | None) -> frozenset[str] | None:
    if value is None:
        return None
    bits = value[3:]
    # Bits that are not used are zero, and there are fewer than eight of them.
    unused = value[2] if len(value) in (4, 5) and value[:2] == bytes((der.BIT_STRING, len(bits) + 1)) else 8
    if unused > 7 or bits[-1] & ((1 << unused) - 1):
        raise _A_CERTIFICATE.bad("keyUsage is not a string of bits")
    return frozenset([name for bit, name in _USAGES if bits[0] & bit])


def _read_crl_number(value: bytes) -> int:
    number = der.only_span(value, 0, len(value), tag=der.INTEGER, what="a CRL number")
    if number[3] - number[2] > MAX_CRL_NUMBER_SIZE:
        raise _A_CRL.bad(f"the number of the CRL has more than {MAX_CRL_NUMBER_SIZE} bytes")
    return der.parse_uint(value[number[2] : number[3]])


# --- names


@functools.lru_cache(maxsize=MAX_KNOWN_NAMES)
def _common_name(name: bytes) -> str:
    """Return the only CN of a Name (DER); none or two would let two readers see different names.

    A Name is a row of parts, and each of them one attribute: a type and a text.
    """
    whole = der.only_span(name, 0, len(name), tag=der.SEQUENCE, what="a name")
    parts = der.spans(name, whole[2], whole[3], what="a name", maximum=_MAX_NAME_PARTS)
    attributes = [_read_attribute(name, part) for part in parts]
    found = [text for kind, text in attributes if kind == _COMMON_NAME]
    if len(found) != 1:
        raise _bad_certificate(f"a name has {len(found)} common names, exactly one is expected")
    return found[0]


def _read_attribute(name: bytes, part: der.Span) -> tuple[bytes, str]:
    """Return the type of the one attribute of a part of a Name, and its text."""
    if part[0] != der.SET:
        raise _bad_certificate("a name is not a row of parts")
    attribute = der.only_span(name, part[2], part[3], tag=der.SEQUENCE, what="a part of a name")
    fields = der.spans(name, attribute[2], attribute[3], what="an attribute of a name")
    if len(fields) != 2 or fields[0][0] != der.OBJECT_IDENTIFIER:
        raise _bad_certificate("an attribute of a name is not a type and a value")
    (_, _, begin, end), (tag, _, text, after) = fields
    der.parse_oid(name[begin:end])
    return name[begin:end], _read_text(tag, name[text:after])


def _read_text(tag: int, content: bytes) -> str:
    if tag not in (_UTF8_STRING, _PRINTABLE_STRING):
        raise _bad_certificate("a part of a name is neither a UTF8String nor a PrintableString")
    if tag == _PRINTABLE_STRING and not _PRINTABLE.fullmatch(content):
        raise _bad_certificate("a PrintableString holds characters that are in none")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise _bad_certificate("a part of a name is not UTF-8") from error
    if not text.isprintable():
        raise _bad_certificate("a part of a name holds characters that cannot be printed")
    return text


# --- what only a CRL has


def _read_fields_of_crl(raw: bytes, tbs: der.Span) -> tuple[bytes, list[datetime], der.Span | None, der.Span]:
    """Return issuer, both dates, entries where there are any, and extensions."""
    kind = _A_CRL
    fields = der.spans(raw, tbs[2], tbs[3], what="the CRL")
    tags = [item[0] for item in fields]
    if tags[:3] != _TBS_CRL_BEGINS or tags[-1] != _CRL_EXTENSIONS or tags[5:-1] not in ([], [der.SEQUENCE]):
        raise kind.bad("the CRL is not built of the fields that it must have")
    version, algorithm, issuer = [raw[at:end] for _, at, _, end in fields[:3]]
    if version != _CRL_VERSION_2:
        raise kind.bad("the CRL is not of version 2")
    if algorithm != _ECDSA_WITH_SHA256:
        raise kind.bad("the CRL does not name ecdsa-with-SHA256 twice")
    if len(tags) < _MIN_CRL_FIELDS or tags[4] not in (_UTC_TIME, _GENERALIZED_TIME):
        raise kind.bad("the CRL does not say when the next one comes")
    # It is compared with that of a certificate, which has one: anything else would be refused later.
    _common_name(issuer)
    return issuer, [_read_time(raw, time, kind) for time in fields[3:5]], (*fields[5:-1], None)[0], fields[-1]


def _read_entries(raw: bytes, entries: der.Span) -> frozenset[bytes]:
    """Return the serials that a CRL lists, each the content of an INTEGER."""
    try:
        return _entries_as_issued(raw[entries[2] : entries[3]])
    except ValueError:
        return _walk_through_entries(raw, entries)


def _entries_as_issued(entries: bytes) -> frozenset[bytes]:
    """Do what `_read_entries` does. Raises ValueError where the entries are not spelled as Intel's are."""
    spelled = _ENTRY_AS_ISSUED.split(entries)
    # Between the entries that are spelled as all are, nothing is left over.
    if any(spelled[::3]):
        raise ValueError("entries that are to be read otherwise")
    for date in set(spelled[2::3]):
        _date_of(date)
    return frozenset(spelled[1::3])


def _walk_through_entries(raw: bytes, entries: der.Span) -> frozenset[bytes]:
    """Do what `_read_entries` does in whatever spelling the entries come."""
    kind, what = _A_CRL, "the entries of the CRL"
    found = set()
    for entry in der.spans(raw, entries[2], entries[3], what=what, maximum=MAX_REVOKED):
        fields = der.spans(raw, entry[2], entry[3], what=what)
        tags = [entry[0], *[item[0] for item in fields]]
        if tags[:2] != [der.SEQUENCE, der.INTEGER] or len(tags) < 3 or tags[3:] not in ([], [der.SEQUENCE]):
            raise kind.bad("an entry of the CRL is not built of the fields that it must have")
        _read_time(raw, fields[1], kind)
        if len(fields) == 3:
            _read_extensions(raw, (0, 0, fields[2][1], fields[2][3]), kind)
        found.add(_read_serial(raw, fields[0], kind))
    return frozenset(found)


def _limit(raw: bytes, *, maximum: int, kind: _Kind, what: str = "") -> None:
    if len(raw) > maximum:
        raise kind.bad(f"{len(raw)} bytes are too many for a {what or kind.what}, the limit is {maximum}")


def _bad_certificate(message: str) -> MalformedInput:
    return _A_CERTIFICATE.bad(message)
