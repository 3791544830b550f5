"""Certificates that no builder makes: taken apart, changed, put together again, and signed by their own key."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from eaa import der
from eaa.errors import Reason
from eaa.evidence.tagged import PUBKEY_HASH, TaggedEvidence, claims_report_data, encode_claims, pubkey_hash_claim
from eaa.tls.certificate import (
    EVIDENCE_OID,
    LEGACY_QUOTE_OID,
    Format,
    PrivateKey,
    create_certificate,
    legacy_report_data,
)
from support.dcap_world import World
from support.tls_world import HOUR, NOW, spki_of

Fields = dict[str, bytes]
"""The elements of a certificate's body, each with its header."""

_NAMES = ("version", "serial", "algorithm", "issuer", "validity", "subject", "spki", "extensions")
ECDSA_SHA256 = bytes.fromhex("06082a8648ce3d040302")
NULL = bytes.fromhex("0500")


def element(tag: int, *parts: bytes) -> bytes:
    """One DER element."""
    content = b"".join(parts)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    octets = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def changed(raw: bytes, key: PrivateKey, change: Callable[[Fields], Fields]) -> bytes:
    """A certificate with other fields, signed anew by its key: nothing of it is wrong but what was changed."""
    body, algorithm, _ = der.read_all(der.read_only(raw, tag=der.SEQUENCE, what="it").content, what="it")
    fields = dict(zip(_NAMES, (part.raw for part in der.read_all(body.content, what="it")), strict=False))
    algorithm_before = fields["algorithm"]
    fields = change(fields)
    outer = algorithm.raw if fields["algorithm"] == algorithm_before else fields["algorithm"]
    tbs = element(der.SEQUENCE, *(fields[name] for name in _NAMES if name in fields))
    return element(der.SEQUENCE, tbs, outer, element(der.BIT_STRING, b"\0", _sign(key, tbs)))


def numbered(raw: bytes, key: PrivateKey, change: Callable[[Fields], Fields] = dict) -> bytes:
    """The certificate, changed, with a serial number that is the same in every run, and with a P-256 key all of it."""
    serial = element(der.INTEGER, bytes(range(0x40, 0x54)))
    return changed(raw, key, lambda fields: {**change(fields), "serial": serial})


def _sign(key: PrivateKey, message: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))


def extension(oid: str, content: bytes, *, critical: bool = False) -> bytes:
    """One extension, DER."""
    mark = element(der.BOOLEAN, b"\xff") if critical else b""
    return element(der.SEQUENCE, encoded_oid(oid), mark, element(der.OCTET_STRING, content))


def encoded_oid(oid: str) -> bytes:
    """An object identifier, DER."""
    first, second, *rest = (int(arc) for arc in oid.split("."))
    content = b"".join(_base128(arc) for arc in (40 * first + second, *rest))
    return element(der.OBJECT_IDENTIFIER, content)


def _base128(number: int) -> bytes:
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.insert(0, number & 0x7F | 0x80)
    return bytes(digits)


def with_extensions(*extensions: bytes) -> Callable[[Fields], Fields]:
    """These extensions and no others."""
    return lambda fields: {**fields, "extensions": element(0xA3, element(der.SEQUENCE, *extensions))}


def compressed_point(key: ec.EllipticCurvePrivateKey) -> Callable[[Fields], Fields]:
    """The same key, its point in the short form: readers that hash what they have understood hash something else."""
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    algorithm = der.read_all(der.read_only(spki_of(key), tag=der.SEQUENCE, what="it").content, what="it")[0].raw
    spki = element(der.SEQUENCE, algorithm, element(der.BIT_STRING, b"\0", point))
    return lambda fields: {**fields, "spki": spki}


def version_4(fields: Fields) -> Fields:
    """As enclave-tls of 2021 numbers it."""
    return {**fields, "version": bytes.fromhex("a003020103")}


def null_beside_ecdsa(fields: Fields) -> Fields:
    """As Gramine writes the signature algorithm."""
    return {**fields, "algorithm": element(der.SEQUENCE, ECDSA_SHA256, NULL)}


def quote_over(report_data: bytes, **body: Any) -> bytes:
    """A quote in good shape over some report data. Its signature is another's."""
    quote = World().quote()
    return replace(quote, body=replace(quote.body, report_data=report_data, **body)).encode()


def tagged_for(key: PrivateKey, quote: Callable[[bytes], bytes] = quote_over) -> TaggedEvidence:
    """Evidence for a key, with a quote over its claims."""
    claims = encode_claims({PUBKEY_HASH: pubkey_hash_claim(spki_of(key))})
    return TaggedEvidence(evidence=quote(claims_report_data(claims)), claims=claims)


def plain(key: PrivateKey, *, now: datetime = NOW, **arguments: Any) -> bytes:
    """A certificate of `create_certificate` around `now`."""
    dates = {"not_before": now - HOUR, "not_after": now + timedelta(days=1)}
    return create_certificate(key, **{"evidence": tagged_for(key), **dates, **arguments})


def two_formats(key: PrivateKey, *, now: datetime = NOW, speaks_for: PrivateKey | None = None, **body: Any) -> bytes:
    """Evidence in two formats at once; the older one may speak for another key, or be of another enclave."""
    kind = Format.ENCLAVE_TLS_V1 if isinstance(key, rsa.RSAPrivateKey) else Format.GRAMINE_LEGACY
    other = quote_over(legacy_report_data(spki_of(speaks_for or key), format=kind), **body)
    return plain(key, now=now, legacy_quote=other)


def nested(depth: int) -> bytes:
    """Arrays in arrays, a byte each."""
    return b"\x81" * depth + b"\x80"


BOMBS: dict[str, bytes] = {
    "deep-arrays": nested(40_000),
    "an-array-of-2-to-the-63": b"\xd9\xea\x60\x9b\x7f" + b"\xff" * 7,
    "a-string-of-2-to-the-63": b"\xd9\xea\x60\x82\x5b\x7f" + b"\xff" * 7,
    "a-map-of-2-to-the-32": b"\xd9\xea\x60\xbb" + (1 << 32).to_bytes(8, "big"),
    "forty-thousand-items": b"\xd9\xea\x60\x99\x9c\x40" + bytes(40_000),
    "tags-in-tags": b"\xd9\xea\x60" * 10_000 + b"\x80",
    "an-endless-string": b"\xd9\xea\x60\x82\x5f" + b"\x41a" * 10_000,
    "gzip-of-a-megabyte": gzip.compress(bytes(1 << 20)),
}
"""Contents of an evidence extension that are small, and large for those who believe them."""


def bombed(key: PrivateKey, content: bytes, *, now: datetime = NOW, oid: str = EVIDENCE_OID) -> bytes:
    """A certificate whose evidence is this."""
    return changed(plain(key, now=now, evidence=None), key, with_extensions(extension(oid, content)))


def duplicated(key: PrivateKey, *, now: datetime = NOW, oid: str = EVIDENCE_OID) -> bytes:
    """The same extension twice, each in good shape."""
    contents = tagged_for(key).encode(), tagged_for(key, lambda data: quote_over(data, isv_svn=7)).encode()
    return changed(plain(key, now=now), key, with_extensions(*(extension(oid, content) for content in contents)))


def crowded(key: PrivateKey, count: int, *, now: datetime = NOW) -> bytes:
    """Many small extensions."""
    some = (extension(f"1.2.3.{number}", b"x") for number in range(count))
    return changed(plain(key, now=now), key, with_extensions(extension(EVIDENCE_OID, tagged_for(key).encode()), *some))


def padded(key: PrivateKey, size: int, *, now: datetime = NOW, oid: str = "1.2.3.4") -> bytes:
    """One large extension."""
    return bombed(key, bytes(size), now=now, oid=oid)


def critical(key: PrivateKey, *, now: datetime = NOW) -> bytes:
    """A critical extension that nobody knows."""
    return changed(plain(key, now=now), key, with_extensions(extension("1.2.3.4", b"x", critical=True)))


def compressed(key: ec.EllipticCurvePrivateKey, *, now: datetime = NOW) -> bytes:
    """A key that is hashed in two ways."""
    return changed(plain(key, now=now), key, compressed_point(key))


def _for_two_keys(key: PrivateKey, *, now: datetime) -> bytes:
    return two_formats(key, now=now, speaks_for=ec.generate_private_key(ec.SECP256R1()))


Make = Callable[[ec.EllipticCurvePrivateKey, datetime], bytes]


def _made(make: Callable[..., bytes], *arguments: Any, **options: Any) -> Make:
    return lambda key, now: make(key, *arguments, now=now, **options)


ODD: Final[dict[str, tuple[Make, Reason]]] = {
    "an-extension-of-60000-bytes": (_made(padded, 60_000), Reason.CERTIFICATE_MALFORMED),
    "evidence-of-60000-bytes": (_made(padded, 60_000, oid=EVIDENCE_OID), Reason.CERTIFICATE_MALFORMED),
    "a-quote-of-2021-of-60000-bytes": (_made(padded, 60_000, oid=LEGACY_QUOTE_OID), Reason.CERTIFICATE_MALFORMED),
    "five-thousand-extensions": (_made(crowded, 5000), Reason.DER_MALFORMED),
    "evidence-twice": (_made(duplicated), Reason.CERTIFICATE_MALFORMED),
    "an-identifier-twice": (_made(duplicated, oid="1.2.3.4"), Reason.CERTIFICATE_MALFORMED),
    "read-in-two-ways": (_made(compressed), Reason.CERTIFICATE_AMBIGUOUS),
    "two-formats-two-enclaves": (_made(two_formats, mr_enclave=bytes(32)), Reason.EVIDENCE_AMBIGUOUS),
    "two-formats-two-keys": (_made(_for_two_keys), Reason.EVIDENCE_AMBIGUOUS),
    "critical-and-unknown": (_made(critical), Reason.CERTIFICATE_MALFORMED),
    **{f"bomb-{name}": (_made(bombed, content), Reason.EVIDENCE_MALFORMED) for name, content in BOMBS.items()},
}
"""Certificates that every server of ours refuses in a handshake, and why."""
