"""Evidence with its claims, as a certificate or a message carries it: CBOR `60000([quote, claims])`.

The report data of the quote is the SHA-256 of the claims bytes exactly as they stand, so the claims are whatever the
attester wanted to bind. Endorsements, which may stand beside it in a certificate, are here too.

Two ways to read: strict, for what peers of our own protocol send, and tolerant, for certificates of other stacks. The
tolerant one takes the first CBOR item and ignores what follows: rats-tls built with libcbor before 0.10 pads its
strings with whatever its heap held.

Source: CCC interoperable RA-TLS; TCG DICE Attestation Architecture, "tagged evidence"; rats-tls for the endorsements.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import cbor2

from eaa.errors import MalformedInput, Reason
from eaa.evidence import cbor
from eaa.evidence.quote import MAX_QUOTE_SIZE
from eaa.records import quick

QUOTE_TAG: Final = 60000
"""An Intel quote, of an SGX enclave or a trust domain."""
PUBKEY_HASH: Final = "pubkey-hash"
"""The claim that names the TLS key: CBOR [hash algorithm, hash of the SubjectPublicKeyInfo]."""

MAX_KNOWN_KEYS: Final = 256
"""Keys whose claim is remembered: this side's own stands in every exchange, a peer's several times in one."""
MAX_CLAIMS_SIZE: Final = 16 * 1024
MAX_TAGGED_EVIDENCE_SIZE: Final = MAX_QUOTE_SIZE + MAX_CLAIMS_SIZE + 64
MAX_ENDORSEMENTS_SIZE: Final = 48 * 1024
REPORT_DATA_SIZE: Final = 64

_OTHER_TAGS: Final = {
    60001: "a TDX report or SGX type 2 report",
    60002: "an SGX report for local attestation",
    0x1A7504: "an AMD SEV-SNP report",
    0x1A7505: "AMD SEV evidence",
    0x1A7506: "Hygon CSV evidence",
}
_KNOWN_TAGS: Final = frozenset({QUOTE_TAG, *_OTHER_TAGS})
_SHA256: Final = 1
_HASHES: Final = {_SHA256: hashlib.sha256, 7: hashlib.sha384, 8: hashlib.sha512}
"""IANA "Named Information Hash Algorithm" numbers that certificates use."""
_PUBKEY_HASH_HEAD: Final = b"\x82\x01\x58\x20"
"""CBOR [1, 32 bytes] up to the bytes."""
_TAGGED_HEAD: Final = cbor2.dumps(cbor2.CBORTag(QUOTE_TAG, [b"", b""]))[:-2]
"""The tag and the head of the array that follows it."""
_BINDING_HEAD: Final = cbor.encode({PUBKEY_HASH: _PUBKEY_HASH_HEAD + bytes(32)})[:-32]
"""The claims that name a key and nothing else, up to the hash of the key."""
_ENDORSEMENT_FIELDS: Final = (
    "tcb_info",
    "tcb_info_issuer_chain",
    "pck_crl",
    "root_ca_crl",
    "pck_crl_issuer_chain",
    "qe_identity",
    "qe_identity_issuer_chain",
    "creation_datetime",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedEvidence:
    """One piece of evidence and the claims its report data covers."""

    tag: int = QUOTE_TAG
    evidence: bytes
    """The quote, as the TEE gave it."""
    claims: bytes
    """The CBOR map of claims, byte for byte as it is hashed; padding that the sender left in it included."""

    @classmethod
    def parse(cls, raw: bytes) -> TaggedEvidence:
        """Parse what a peer of our own protocol sends: exactly one item, deterministic.

        Raises:
            MalformedInput: EVIDENCE_MALFORMED; TEE_TYPE_UNSUPPORTED for evidence of a kind that is not read here.
        """
        _within(raw, MAX_TAGGED_EVIDENCE_SIZE, "the tagged evidence")
        return cls._split(raw) or cls._from_item(cbor.decode(raw, what="the tagged evidence", tags=_KNOWN_TAGS))

    @classmethod
    def parse_certificate_extension(cls, raw: bytes) -> TaggedEvidence:
        """Parse a certificate's evidence extension; bytes behind the first CBOR item are ignored. Raises as `parse`."""
        _within(raw, MAX_TAGGED_EVIDENCE_SIZE, "the evidence extension")
        if found := cls._split(raw):
            return found
        item, _ = cbor.decode_first(raw, what="the evidence extension", tags=_KNOWN_TAGS)
        return cls._from_item(item)

    @staticmethod
    def _split(raw: bytes) -> TaggedEvidence | None:
        """Return what stands in the one deterministic encoding of a quote of ordinary size; None of anything else.

        It is what all but a few peers send, and has nothing in it that a reader of all of CBOR is needed for.
        """
        if not raw.startswith(_TAGGED_HEAD):
            return None
        at, middle = cbor.byte_string_at(raw, len(_TAGGED_HEAD))
        begin, end = cbor.byte_string_at(raw, middle)
        if end != len(raw) or end - begin > MAX_CLAIMS_SIZE:
            return None
        return _new_evidence(tag=QUOTE_TAG, evidence=raw[at:middle], claims=raw[begin:end])

    @classmethod
    def _from_item(cls, item: Any) -> TaggedEvidence:
        if not isinstance(item, cbor2.CBORTag):
            raise _malformed("the evidence has no CBOR tag that says what it is")
        if item.tag != QUOTE_TAG:
            raise MalformedInput(
                Reason.TEE_TYPE_UNSUPPORTED,
                f"the evidence is {_OTHER_TAGS[item.tag]} (CBOR tag {item.tag}); only Intel quotes are read",
            )
        match item.value:
            case (bytes() as evidence, bytes() as claims):
                _within(evidence, MAX_QUOTE_SIZE, "the quote")
                _within(claims, MAX_CLAIMS_SIZE, "the claims")
                return cls(tag=item.tag, evidence=evidence, claims=claims)
        raise _malformed("the evidence is not an array of two byte strings, evidence and claims")

    def encode(self) -> bytes:
        """Return the deterministic encoding."""
        if self.tag == QUOTE_TAG:
            evidence, claims = self.evidence, self.claims
            head = cbor.head_of_byte_string
            return b"".join((_TAGGED_HEAD, head(len(evidence)), evidence, head(len(claims)), claims))
        return cbor.encode(cbor2.CBORTag(self.tag, [self.evidence, self.claims]))

    @property
    def report_data(self) -> bytes:
        """The 64 bytes that the evidence has to contain."""
        return claims_report_data(self.claims)


_new_evidence: Final = quick(TaggedEvidence)


def claims_report_data(claims: bytes) -> bytes:
    """Return the 64 bytes of report data that cover `claims`: their SHA-256, then zeros."""
    return hashlib.sha256(claims).digest().ljust(REPORT_DATA_SIZE, b"\0")


def encode_claims(claims: Mapping[str, bytes]) -> bytes:
    """Return the deterministic CBOR map of `claims`."""
    return cbor.map_of_byte_strings(claims)


def parse_claims(raw: bytes, *, tolerant: bool) -> dict[str, bytes]:
    """Parse a map of claims: text keys, byte-string values.

    Args:
        raw: the claims bytes.
        tolerant: take any order of keys and ignore bytes behind the map, as other stacks send them.

    Raises:
        MalformedInput: EVIDENCE_MALFORMED.
    """
    _within(raw, MAX_CLAIMS_SIZE, "the claims")
    if tolerant:
        item, _ = cbor.decode_first(raw, what="the claims")
    else:
        item = cbor.decode(raw, what="the claims")
    if not isinstance(item, Mapping):
        raise _malformed("the claims are not a CBOR map")
    for name, value in item.items():
        if not isinstance(name, str) or not isinstance(value, bytes):
            raise _malformed(f"the claim {name!r} is not a text key with a byte string")
    return dict(item)


@functools.lru_cache(maxsize=MAX_KNOWN_KEYS)
def pubkey_hash_claim(spki_der: bytes) -> bytes:
    """Return the value of the claim `pubkey-hash` for a key: CBOR [1, SHA-256(SubjectPublicKeyInfo)]."""
    return _PUBKEY_HASH_HEAD + hashlib.sha256(spki_der).digest()


def binding_claims(spki_der: bytes) -> bytes:
    """Return the claims of a certificate's evidence, encoded: `pubkey-hash` of this key, and nothing else."""
    return _BINDING_HEAD + hashlib.sha256(spki_der).digest()


def pubkey_hash_matches(claim: bytes, spki_der: bytes) -> bool:
    """Tell whether a certificate's claim `pubkey-hash` names this key; padding behind it is ignored.

    SHA-256, SHA-384 and SHA-512 are known. A claim that is no such array, or of another algorithm, matches nothing.
    """
    try:
        item, _ = cbor.decode_first(claim, what="the claim pubkey-hash")
    except MalformedInput:
        return False
    match item:
        case (int() as algorithm, bytes() as digest) if algorithm in _HASHES:
            return digest == _HASHES[algorithm](spki_der).digest()
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Endorsements:
    """Intel collateral that a certificate carries along, in the order of Open Enclave. It is the vendor's word, signed.

    Chains are PEM. With `version` 3.1 the CRLs are DER, with 3.0 hexadecimal DER, with 1.0 PEM.
    """

    version: int
    """u32 of Intel's collateral structure: low half major, high half minor, so 0x00010003 is 3.1."""
    tcb_info: bytes
    tcb_info_issuer_chain: bytes
    pck_crl: bytes
    root_ca_crl: bytes
    pck_crl_issuer_chain: bytes
    qe_identity: bytes
    qe_identity_issuer_chain: bytes
    creation_datetime: bytes | None = None

    @classmethod
    def parse(cls, raw: bytes) -> Endorsements:
        """Parse a certificate's endorsements extension; bytes behind the first item, and final NULs, are dropped.

        Raises:
            MalformedInput: EVIDENCE_MALFORMED.
        """
        _within(raw, MAX_ENDORSEMENTS_SIZE, "the endorsements")
        item, _ = cbor.decode_first(raw, what="the endorsements", tags=frozenset({QUOTE_TAG}))
        if not isinstance(item, cbor2.CBORTag):
            raise _malformed("the endorsements have no CBOR tag that says what they are")
        match item.value:
            case (int() as version, *members) if (
                7 <= len(members) <= 8 and version < 1 << 32 and all(isinstance(member, bytes) for member in members)
            ):
                texts = (_without_final_nul(member) for member in members)
                return cls(version=version, **dict(zip(_ENDORSEMENT_FIELDS, texts, strict=False)))
        raise _malformed("the endorsements are not an array of a version and seven or eight byte strings")

    def encode(self) -> bytes:
        """Return the extension's content. The version always takes four bytes: rats-tls reads no other form."""
        values = [getattr(self, name) for name in _ENDORSEMENT_FIELDS]
        members = [value for value in values if value is not None]
        head = b"\xd9" + QUOTE_TAG.to_bytes(2, "big") + bytes([0x80 | (1 + len(members))])
        return head + b"\x1a" + self.version.to_bytes(4, "big") + b"".join(cbor.encode(member) for member in members)


def _without_final_nul(member: bytes) -> bytes:
    """Text members are C strings in Intel's structure, and some senders count the final NUL; DER keeps every byte."""
    return member if member[:1] == b"\x30" else member.rstrip(b"\0")


def _within(raw: bytes, maximum: int, what: str) -> None:
    if len(raw) > maximum:
        raise _malformed(f"{what} has {len(raw)} bytes, at most {maximum} are allowed")


def _malformed(message: str) -> MalformedInput:
    return MalformedInput(Reason.EVIDENCE_MALFORMED, message)
