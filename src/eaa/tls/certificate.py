"""RA-TLS certificates: a self-signed leaf that carries evidence for its own key.

Three formats are read and written. They differ in where the quote stands and in what its report data is:

- interoperable: 2.23.133.5.4.9 holds CBOR `60000([quote, claims])`; report data is SHA-256(claims), and the claim
  `pubkey-hash` names the key.
- enclave-tls v1, of 2021: 1.2.840.113741.1337.6 holds the quote; SHA-256 of the PKCS#1 RSA key.
- Gramine legacy: the same identifier, or a miswritten form of it; SHA-256 of the SubjectPublicKeyInfo.

A certificate is read by a bounded reader of our own: `cryptography` refuses certificates that call themselves version
4, as those of 2021 do, and signature algorithms with a NULL beside ECDSA, as Gramine writes. Nothing here is verified.
The certificate's own signature is not looked at, because TLS has the peer prove that it holds the key.

A certificate may carry the quote of an older format beside interoperable evidence: Gramine's do, and those that serve
both generations of C programs. `verify_unambiguous` takes such a pair only where both speak for the certificate's key
and of the same TEE, so that it makes no difference which of them a reader looks at.

Source: CCC interoperable RA-TLS; rats-tls, enclave-tls and Gramine as they write certificates; RFC 5280.
"""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from eaa import der
from eaa.errors import EAAError, MalformedInput, Misuse, Reason, Rejection, VerificationError
from eaa.evidence.quote import Quote
from eaa.evidence.tagged import (
    PUBKEY_HASH,
    REPORT_DATA_SIZE,
    Endorsements,
    TaggedEvidence,
    binding_claims,
    parse_claims,
    pubkey_hash_matches,
)

MAX_CERTIFICATE_SIZE: Final = 100 * 1024
"""Bytes; OpenSSL takes no bigger one from a peer either. It bounds what stands inside as well."""
MAX_EXTENSIONS: Final = 32
MAX_EXTENSION_SIZE: Final = 48 * 1024
"""Bytes of one extension's content. Quotes have some 5 KiB, endorsements up to 32 KiB where libcbor has padded them."""

MAX_KNOWN_CLAIMS: Final = 256

EVIDENCE_OID: Final = "2.23.133.5.4.9"
ENDORSEMENTS_OID: Final = "2.23.133.5.4.2"
LEGACY_QUOTE_OID: Final = "1.2.840.113741.1337.6"

_MISWRITTEN_LEGACY_QUOTE_OID: Final = "0.6.9.42.840.113741.1337.6"
"""Gramine puts the whole encoded identifier, tag and length included, where its content belongs."""
_UNDERSTOOD: Final = frozenset(
    {
        *(EVIDENCE_OID, ENDORSEMENTS_OID, LEGACY_QUOTE_OID, _MISWRITTEN_LEGACY_QUOTE_OID),
        *("2.5.29.14", "2.5.29.15", "2.5.29.19", "2.5.29.35", "2.5.29.37"),
    }
)
"""Extensions that may be critical: ours, and key identifiers, usages and basic constraints, which OpenSSL judges."""
_RSA_ENCRYPTION: Final = "1.2.840.113549.1.1.1"
_COMMON_NAME: Final = "2.5.4.3"
_VERSION_3, _MISNUMBERED_VERSION_3 = 2, 3
_EXPLICIT_VERSION, _ISSUER_ID, _SUBJECT_ID, _EXPLICIT_EXTENSIONS = 0xA0, 0x81, 0x82, 0xA3
_MANDATORY_FIELDS: Final = 7
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
# To some versions of Python, as to ISO 8601, there is an hour 24.
_TIMES: Final = {
    _UTC_TIME: re.compile(rb"[0-9]{6}(?!24)[0-9]{6}Z"),
    _GENERALIZED_TIME: re.compile(rb"[0-9]{8}(?!24)[0-9]{6}Z"),
}
"""How dates are written, by tag."""
_ORGANIZATION: Final = "Inclavare Containers"
_V1_UNIT: Final = "Enclave Attestation Architecture"
_V1_COMMON_NAME: Final = "Enclave TLS"
_V1_SERIAL: Final = 9527
_V1_KEY_BITS: Final = 3072
_INTEROPERABLE_COMMON_NAME: Final = "RATS-TLS"
_GRAMINE_COMMON_NAME: Final = "RATLS"


class Format(Enum):
    """How a certificate carries evidence."""

    INTEROPERABLE = "interoperable RA-TLS"
    ENCLAVE_TLS_V1 = "enclave-tls v1 (2021)"
    GRAMINE_LEGACY = "Gramine, legacy"
    NONE = "no evidence"


@dataclass(frozen=True, slots=True, kw_only=True)
class RATLSCertificate:
    """One self-signed certificate, read but not verified."""

    format: Format
    version: int
    """As people count: 3, or 4 for certificates that misnumber it."""
    serial_number: int
    subject: str
    """The common name of the subject; empty where there is none."""
    not_before: datetime
    not_after: datetime
    spki_der: bytes = field(repr=False)
    """The SubjectPublicKeyInfo, exactly as it stands."""
    tagged: TaggedEvidence | None = field(default=None, repr=False)
    """The interoperable evidence."""
    legacy_quote: bytes | None = field(default=None, repr=False)
    """The quote of the two older formats; some certificates carry it beside interoperable evidence."""
    endorsements: Endorsements | None = field(default=None, repr=False)
    extension_oids: tuple[str, ...] = ()
    unknown_critical: tuple[str, ...] = ()
    """Critical extensions nobody here understands: a relying party has to refuse such a certificate."""

    @classmethod
    def parse(cls, raw: bytes) -> RATLSCertificate:
        """Read one DER certificate.

        Raises:
            MalformedInput: DER_MALFORMED, CERTIFICATE_MALFORMED, EVIDENCE_MALFORMED, TEE_TYPE_UNSUPPORTED.
        """
        if len(raw) > MAX_CERTIFICATE_SIZE:
            raise _malformed(f"a certificate of {len(raw)} bytes, at most {MAX_CERTIFICATE_SIZE} are allowed")
        body = _tbs_certificate(raw)
        not_before, not_after = _validity(body.validity)
        extensions = _extensions(body.extensions)
        content = {oid: value for oid, _, value in extensions}
        tagged = content.get(EVIDENCE_OID)
        endorsements = content.get(ENDORSEMENTS_OID)
        subject = _common_name(body.subject)
        return cls(
            format=_format(content, subject=subject, spki_der=body.spki.raw),
            version=body.version,
            serial_number=der.parse_uint(body.serial.content),
            subject=subject,
            not_before=not_before,
            not_after=not_after,
            spki_der=body.spki.raw,
            tagged=None if tagged is None else TaggedEvidence.parse_certificate_extension(tagged),
            legacy_quote=content.get(LEGACY_QUOTE_OID, content.get(_MISWRITTEN_LEGACY_QUOTE_OID)),
            endorsements=None if endorsements is None else Endorsements.parse(endorsements),
            extension_oids=tuple(content),
            unknown_critical=tuple(oid for oid, critical, _ in extensions if critical and oid not in _UNDERSTOOD),
        )

    @property
    def has_evidence(self) -> bool:
        """Whether there is evidence of a kind that is read here."""
        return self.format is not Format.NONE

    @property
    def evidence(self) -> bytes | None:
        """The quote of the format, None where there is none."""
        return self.tagged.evidence if self.tagged is not None else self.legacy_quote

    @property
    def claims(self) -> bytes | None:
        """The claims as they are hashed; only the interoperable format has them."""
        return None if self.tagged is None else self.tagged.claims

    @property
    def expected_report_data(self) -> bytes | None:
        """The 64 bytes that the quote has to contain to speak for this certificate's key, None without evidence."""
        match self.format:
            case Format.INTEROPERABLE:
                return None if self.tagged is None else self.tagged.report_data
            case Format.ENCLAVE_TLS_V1 | Format.GRAMINE_LEGACY:
                return legacy_report_data(self.spki_der, format=self.format)
        return None

    def verify_binding(self) -> None:
        """Verify that the claims name this certificate's key. That the quote covers them is for whoever judges it.

        Claims of other stacks that are not known here are left alone.

        Raises:
            Rejection: NO_EVIDENCE.
            VerificationError: CLAIMS_MISMATCH.
            MalformedInput: EVIDENCE_MALFORMED.
        """
        if not self.has_evidence:
            raise Rejection(
                Reason.NO_EVIDENCE,
                "the certificate carries no evidence",
                hint="the peer has to run with an attester; a null attester proves nothing",
            )
        # What ours write is compared, and taken apart only where it is something else.
        if self.tagged is None or self.tagged.claims == binding_claims(self.spki_der):
            return
        named = _key_named(self.tagged.claims, self.spki_der)
        if not named:
            raise VerificationError(
                Reason.CLAIMS_MISMATCH,
                "the evidence in the certificate names no key" if named is None else "the evidence names another key",
                hint="evidence copied from another certificate looks like this",
            )

    def verify_unambiguous(self) -> None:
        """Verify that evidence in two formats at once says the same whichever of them is looked at.

        Both quotes have to be bound to this certificate's key, and to be of the same TEE in every field but report
        data. Which is genuine is for whoever judges; the interoperable one is judged here.

        Raises:
            VerificationError: EVIDENCE_AMBIGUOUS.
        """
        if self.tagged is None or self.legacy_quote is None:
            return
        try:
            judged, _ = Quote.parse_prefix(self.tagged.evidence)
            other, _ = Quote.parse_prefix(self.legacy_quote)
        except MalformedInput as error:
            raise _ambiguous("one of which cannot be read") from error
        if other.body.report_data not in _legacy_bindings(self.spki_der):
            raise _ambiguous("and the older one speaks for another key")
        if replace(other.body, report_data=judged.body.report_data) != judged.body:
            raise _ambiguous("of two different TEEs")

    def verify_dates(self, *, now: datetime, early: timedelta = timedelta(0)) -> None:
        """Verify that `now` is within the validity.

        Args:
            now: aware.
            early: how far in the future its beginning may lie, for peers that make certificates as they are needed
                and by clocks of their own.

        Raises:
            VerificationError: CERTIFICATE_EXPIRED, CERTIFICATE_NOT_YET_VALID.
        """
        if now < self.not_before - early:
            raise VerificationError(
                Reason.CERTIFICATE_NOT_YET_VALID,
                f"the peer's certificate is valid from {self.not_before:%Y-%m-%dT%H:%MZ}, now is {now:%Y-%m-%dT%H:%MZ}",
                hint="check the clocks of both machines",
            )
        if now > self.not_after:
            raise VerificationError(
                Reason.CERTIFICATE_EXPIRED,
                f"the peer's certificate expired at {self.not_after:%Y-%m-%dT%H:%MZ}, now is {now:%Y-%m-%dT%H:%MZ}",
                hint="check this machine's clock; else the peer has not renewed its certificate",
            )


@functools.lru_cache(maxsize=MAX_KNOWN_CLAIMS)
def _key_named(claims: bytes, spki_der: bytes) -> bool | None:
    """Whether claims name this key; None where they name none. A peer that comes back brings the same claims."""
    claim = parse_claims(claims, tolerant=True).get(PUBKEY_HASH)
    return None if claim is None else pubkey_hash_matches(claim, spki_der)


PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def legacy_report_data(spki_der: bytes, *, format: Format) -> bytes:  # noqa: A002  the word of everybody who asks
    """Return the 64 bytes of report data of a quote that stands alone, in one of the two older formats.

    Args:
        spki_der: the SubjectPublicKeyInfo of the certificate's key.
        format: ENCLAVE_TLS_V1, for RSA keys only, or GRAMINE_LEGACY.

    Raises:
        Misuse: USAGE, another format, or a key of which the format has no hash.
        MalformedInput: DER_MALFORMED.
    """
    if format is Format.GRAMINE_LEGACY:
        return _hashed(spki_der)
    key = _pkcs1_key(spki_der) if format is Format.ENCLAVE_TLS_V1 else None
    if key is None:
        raise Misuse(Reason.USAGE, f"no quote of the format {format.value} stands for this key")
    return _hashed(key)


def create_certificate(
    private_key: PrivateKey,
    *,
    evidence: TaggedEvidence | bytes | None,
    not_before: datetime,
    not_after: datetime,
    endorsements: Endorsements | None = None,
    format: Format = Format.INTEROPERABLE,  # noqa: A002  the word of everybody who asks
    legacy_quote: bytes | None = None,
) -> bytes:
    """Return a self-signed certificate, DER.

    Args:
        private_key: P-256 is what every peer of the interoperable format takes, others work; RSA-3072 for
            ENCLAVE_TLS_V1.
        evidence: tagged evidence whose claims name this key, or for the two older formats a quote over
            `legacy_report_data`; None makes a certificate that attests nothing.
        not_before: aware; set it an hour back, for clocks disagree.
        not_after: aware.
        endorsements: collateral to carry along, in the interoperable format.
        format: how to carry the evidence.
        legacy_quote: a quote over `legacy_report_data` that stands beside interoperable evidence, for peers of 2021.

    Raises:
        Misuse: USAGE, the evidence or the key is not of the format.
    """
    _require_writable(private_key, evidence, endorsements=endorsements, legacy_quote=legacy_quote, asked=format)
    builder = _builder(private_key, asked=format).not_valid_before(not_before).not_valid_after(not_after)
    contents: list[tuple[str, bytes | None]] = [
        (EVIDENCE_OID, evidence.encode() if isinstance(evidence, TaggedEvidence) else None),
        (ENDORSEMENTS_OID, None if endorsements is None else endorsements.encode()),
        (LEGACY_QUOTE_OID, evidence if isinstance(evidence, bytes) else legacy_quote),
    ]
    # DICE would have them critical, but then every peer that does not know them would refuse the handshake.
    for oid, content in contents:
        if content is not None:
            extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), content)
            builder = builder.add_extension(extension, critical=False)
    certificate = builder.sign(private_key, hashes.SHA256()).public_bytes(Encoding.DER)
    largest = max((len(content) for _, content in contents if content is not None), default=0)
    if len(certificate) > MAX_CERTIFICATE_SIZE or largest > MAX_EXTENSION_SIZE:
        raise EAAError(Reason.INTERNAL, f"a certificate of {len(certificate)} bytes was made, too big for any peer")
    return certificate


def _require_writable(
    key: PrivateKey,
    evidence: TaggedEvidence | bytes | None,
    *,
    endorsements: Endorsements | None,
    legacy_quote: bytes | None,
    asked: Format,
) -> None:
    """Refuse what a format has no place for: a peer would read something else than was meant."""
    interoperable = asked in (Format.INTEROPERABLE, Format.NONE)
    if asked is Format.NONE and evidence is not None:
        fault = "a certificate without evidence was to carry evidence"
    elif evidence is not None and isinstance(evidence, TaggedEvidence) is not interoperable:
        fault = f"evidence of another kind was to go into a certificate of the format {asked.value}"
    elif not interoperable and endorsements is not None:
        fault = f"the format {asked.value} has no place for endorsements"
    elif legacy_quote is not None and (asked is not Format.INTEROPERABLE or evidence is None):
        fault = "a second quote was to stand beside no interoperable evidence"
    elif asked is Format.ENCLAVE_TLS_V1 and not (isinstance(key, rsa.RSAPrivateKey) and key.key_size == _V1_KEY_BITS):
        fault = f"the format {asked.value} knows RSA keys of {_V1_KEY_BITS} bits only"
    else:
        return
    raise Misuse(Reason.USAGE, fault)


def _builder(private_key: PrivateKey, *, asked: Format) -> x509.CertificateBuilder:
    """Return what certificates of a format have in common: names, serial number, key and its identifiers."""
    public_key = private_key.public_key()
    is_v1 = asked is Format.ENCLAVE_TLS_V1
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION)]
    if is_v1:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, _V1_UNIT))
    attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, _COMMON_NAMES.get(asked, _INTEROPERABLE_COMMON_NAME)))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(attributes))
        .issuer_name(x509.Name(attributes))
        # A serial of its own for every certificate: some TLS stacks refuse two with one issuer and serial.
        .serial_number(_V1_SERIAL if is_v1 else x509.random_serial_number())
        .public_key(public_key)
    )
    if is_v1:
        # Those of 2021 have no extension but the quote, and readers of 2021 have seen no others.
        return builder
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public_key), critical=False)
    )


_COMMON_NAMES: Final = {Format.ENCLAVE_TLS_V1: _V1_COMMON_NAME, Format.GRAMINE_LEGACY: _GRAMINE_COMMON_NAME}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body:
    """The fields of a TBSCertificate."""

    version: int
    serial: der.Element
    validity: der.Element
    subject: der.Element
    spki: der.Element
    extensions: bytes


def _tbs_certificate(raw: bytes) -> _Body:
    """Take a certificate apart, one level deep."""
    outer = der.read_only(raw, tag=der.SEQUENCE, what="the certificate")
    parts = der.read_all(outer.content, what="the certificate", maximum=3)
    if [part.tag for part in parts] != [der.SEQUENCE, der.SEQUENCE, der.BIT_STRING]:
        raise _malformed("a certificate is its body, an algorithm and a signature; this is something else")
    fields = der.read_all(parts[0].content, what="the certificate's body", maximum=10)
    if not fields or fields[0].tag != _EXPLICIT_VERSION:
        raise _malformed("the certificate is of version 1, which can carry no evidence")
    if len(fields) < _MANDATORY_FIELDS:
        raise _malformed(f"the certificate's body has {len(fields)} fields, {_MANDATORY_FIELDS} are the least")
    version, serial, _algorithm, _issuer, validity, subject, spki, *rest = fields
    for element, tag, what in (
        (serial, der.INTEGER, "the serial number"),
        (validity, der.SEQUENCE, "the validity"),
        (subject, der.SEQUENCE, "the subject"),
        (spki, der.SEQUENCE, "the public key"),
    ):
        der.expect(element, tag=tag, what=what)
    return _Body(
        version=_version(version),
        serial=serial,
        validity=validity,
        subject=subject,
        spki=spki,
        extensions=_explicit_extensions(rest),
    )


def _version(element: der.Element) -> int:
    number = der.parse_uint(der.read_only(element.content, tag=der.INTEGER, what="the certificate's version").content)
    if number not in (_VERSION_3, _MISNUMBERED_VERSION_3):
        raise _malformed(f"the certificate's version number is {number}; 2 (version 3) is expected, and 3 tolerated")
    return number + 1


def _explicit_extensions(rest: list[der.Element]) -> bytes:
    """Return the content of the extensions field, nothing where it is absent."""
    tags = [element.tag for element in rest]
    if tags != sorted(set(tags)) or not set(tags) <= {_ISSUER_ID, _SUBJECT_ID, _EXPLICIT_EXTENSIONS}:
        raise _malformed("fields that no certificate has follow the certificate's public key")
    if _EXPLICIT_EXTENSIONS not in tags:
        return b""
    return der.read_only(rest[-1].content, tag=der.SEQUENCE, what="the certificate's extensions").content


def _extensions(raw: bytes) -> list[tuple[str, bool, bytes]]:
    """Return identifier, criticality and content of every extension; each may stand there once."""
    found: list[tuple[str, bool, bytes]] = []
    for element in der.read_all(raw, what="the certificate's extensions", maximum=MAX_EXTENSIONS):
        der.expect(element, tag=der.SEQUENCE, what="an extension")
        parts = der.read_all(element.content, what="an extension", maximum=3)
        tags = [part.tag for part in parts]
        if tags not in (
            [der.OBJECT_IDENTIFIER, der.OCTET_STRING],
            [der.OBJECT_IDENTIFIER, der.BOOLEAN, der.OCTET_STRING],
        ):
            raise _malformed("an extension of the certificate is no identifier with a content")
        if len(parts[-1].content) > MAX_EXTENSION_SIZE:
            raise _malformed(
                f"an extension of {len(parts[-1].content)} bytes, at most {MAX_EXTENSION_SIZE} are allowed"
            )
        critical = len(parts) == 3 and der.parse_boolean(parts[1].content)
        found.append((der.parse_oid(parts[0].content), critical, parts[-1].content))
    meanings = [LEGACY_QUOTE_OID if oid == _MISWRITTEN_LEGACY_QUOTE_OID else oid for oid, _, _ in found]
    if len(set(meanings)) != len(meanings):
        raise _malformed("the certificate has the same extension twice")
    return found


def _format(content: dict[str, bytes], *, subject: str, spki_der: bytes) -> Format:
    """Tell the format. The two older ones share an identifier: the 2021 one is RSA and always has the same name."""
    quote = content.get(LEGACY_QUOTE_OID, content.get(_MISWRITTEN_LEGACY_QUOTE_OID))
    if EVIDENCE_OID in content:
        return Format.INTEROPERABLE
    if quote is None:
        return Format.NONE
    is_v1 = LEGACY_QUOTE_OID in content and subject == _V1_COMMON_NAME and _pkcs1_key(spki_der) is not None
    return Format.ENCLAVE_TLS_V1 if is_v1 else Format.GRAMINE_LEGACY


def _legacy_bindings(spki_der: bytes) -> tuple[bytes, ...]:
    """Return the report data that a quote of the older formats may have to speak for a key."""
    pkcs1 = _pkcs1_key(spki_der)
    return (_hashed(spki_der),) if pkcs1 is None else (_hashed(spki_der), _hashed(pkcs1))


def _pkcs1_key(spki_der: bytes) -> bytes | None:
    """Return the PKCS#1 RSAPublicKey inside, None where the key is not RSA."""
    spki = der.read_only(spki_der, tag=der.SEQUENCE, what="the public key")
    algorithm, rest = der.read_one(spki.content, what="the public key")
    identifier, _ = der.read_one(algorithm.content, what="the key's algorithm")
    der.expect(identifier, tag=der.OBJECT_IDENTIFIER, what="the key's algorithm")
    if der.parse_oid(identifier.content) != _RSA_ENCRYPTION:
        return None
    bits = der.read_only(rest, tag=der.BIT_STRING, what="the public key")
    return bits.content[1:]


def _common_name(subject: der.Element) -> str:
    """Return the first common name of a name, empty where it has none or it is no text."""
    for relative in der.read_all(subject.content, what="the subject", maximum=16):
        attribute, _ = der.read_one(relative.content, what="the subject")
        parts = der.read_all(attribute.content, what="the subject", maximum=2)
        if len(parts) == 2 and der.parse_oid(parts[0].content) == _COMMON_NAME:
            return parts[1].content.decode("utf-8", errors="replace")[:64]
    return ""


def _validity(element: der.Element) -> tuple[datetime, datetime]:
    times = der.read_all(element.content, what="the validity", maximum=2)
    if len(times) != 2:
        raise _malformed("the certificate's validity is not two dates")
    return parse_time(times[0].tag, times[0].content), parse_time(times[1].tag, times[1].content)


def parse_time(tag: int, content: bytes) -> datetime:
    """Read a UTCTime or GeneralizedTime in the one form that RFC 5280 allows. Raises MalformedInput."""
    written = _TIMES.get(tag)
    if written is None or not written.fullmatch(content):
        raise _malformed("a date of the certificate is not written as RFC 5280 has it")
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    try:
        # strptime takes ten times as long, and there are two dates in every handshake.
        return datetime.fromisoformat(f"{text[:8]}T{text[8:]}")
    except ValueError as error:
        raise _malformed("a date of the certificate is no date") from error


def _hashed(data: bytes) -> bytes:
    return hashlib.sha256(data).digest().ljust(REPORT_DATA_SIZE, b"\0")


def _malformed(message: str) -> MalformedInput:
    return MalformedInput(Reason.CERTIFICATE_MALFORMED, message)


def _ambiguous(what: str) -> VerificationError:
    return VerificationError(
        Reason.EVIDENCE_AMBIGUOUS,
        f"the certificate carries evidence in two formats, {what}",
        hint="a peer that shows one thing to some and another to others looks like this",
    )
