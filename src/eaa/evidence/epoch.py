"""An epoch: a short time for which a TEE vouches for a signing key, and the sessions that this key signs.

One quote an epoch covers the claims below; the key then signs each session in which the attester is asked. It is never
a TLS key: who steals that one cannot sign, and who steals this one can only until the epoch is over.

Source: docs/manual/protocol.md, "Evidence and its claims".
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from eaa.errors import MalformedInput, Reason
from eaa.evidence.tagged import PUBKEY_HASH, encode_claims

EPOCH_LABEL: Final = b"eaa/2 epoch"
"""The claim `label` of an epoch's evidence."""
STATEMENT_LABEL: Final = b"eaa/2 session"
"""What every signed statement begins with."""
EPOCH_CLAIMS: Final = ("label", PUBKEY_HASH, "session-key", "role", "not-before", "not-after")
"""The claims that an epoch's evidence has: all of these and no others."""
SIGNATURE_SIZE: Final = 64
TIME_SIZE: Final = 8
DIGEST_SIZE: Final = 32
MAX_KNOWN_KEYS: Final = 256
"""Session keys that are kept ready: each signs all sessions of its epoch."""

_CURVE: Final = ec.SECP256R1()
_ALGORITHM: Final = ec.ECDSA(hashes.SHA256())
_SPKI_HEAD: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
"""How the one encoding begins that a session key may have: P-256, the point uncompressed."""
SESSION_KEY_SIZE: Final = len(_SPKI_HEAD) + 64


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochClaims:
    """What the quote of an epoch covers."""

    label: bytes = EPOCH_LABEL
    pubkey_hash: bytes
    """The claim `pubkey-hash` of the TLS key beside which the session key may be used."""
    session_key: bytes
    """DER SubjectPublicKeyInfo, P-256, 91 bytes."""
    role: bytes
    not_before: int
    """Seconds since 1970, UTC, by the attester's clock; the second itself is in the epoch."""
    not_after: int
    """The same."""

    @classmethod
    def from_claims(cls, claims: Mapping[str, bytes]) -> EpochClaims:
        """Read claims that have exactly the names EPOCH_CLAIMS.

        Raises:
            MalformedInput: EVIDENCE_MALFORMED, a date is no u64 or the session key none of ours.
        """
        key = claims["session-key"]
        if len(key) != SESSION_KEY_SIZE or not key.startswith(_SPKI_HEAD):
            raise _malformed("the claim session-key is no uncompressed P-256 key")
        for name in ("not-before", "not-after"):
            if len(claims[name]) != TIME_SIZE:
                raise _malformed(f"the claim {name} has {len(claims[name])} bytes, not {TIME_SIZE}")
        return cls(
            label=claims["label"],
            pubkey_hash=claims[PUBKEY_HASH],
            session_key=key,
            role=claims["role"],
            not_before=int.from_bytes(claims["not-before"], "big"),
            not_after=int.from_bytes(claims["not-after"], "big"),
        )

    def encode(self) -> bytes:
        """Return the claims as the report data covers them."""
        return encode_claims(
            {
                "label": self.label,
                PUBKEY_HASH: self.pubkey_hash,
                "session-key": self.session_key,
                "role": self.role,
                "not-before": self.not_before.to_bytes(TIME_SIZE, "big"),
                "not-after": self.not_after.to_bytes(TIME_SIZE, "big"),
            }
        )


def session_statement(evidence_digest: bytes, claims: bytes) -> bytes:
    """Return what a session key signs: "eaa/2 session", then 32 bytes that name the epoch, then the session's claims.

    Args:
        evidence_digest: SHA-256 of the epoch's tagged evidence, as it is sent.
        claims: the CBOR map of claims that evidence made for this session would have.
    """
    return STATEMENT_LABEL + evidence_digest + claims


def encode_session_key(public_key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a P-256 key as the claim `session-key` has it."""
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sign_statement(private_key: ec.EllipticCurvePrivateKey, statement: bytes) -> bytes:
    """Return the signature, 64 bytes: ECDSA with SHA-256, r and s, big-endian."""
    r, s = decode_dss_signature(private_key.sign(statement, _ALGORITHM))
    return r.to_bytes(SIGNATURE_SIZE // 2, "big") + s.to_bytes(SIGNATURE_SIZE // 2, "big")


def is_signed_by(session_key: bytes, signature: bytes, statement: bytes) -> bool:
    """Tell whether this is the session key's signature of the statement, 64 bytes.

    Raises:
        MalformedInput: EVIDENCE_MALFORMED, the session key is no point of the curve.
    """
    half = SIGNATURE_SIZE // 2
    if len(signature) != SIGNATURE_SIZE:
        return False
    encoded = encode_dss_signature(int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))
    try:
        _load(session_key).verify(encoded, statement, _ALGORITHM)
    except InvalidSignature:
        return False
    return True


def is_same_key(session_key: bytes, spki_der: bytes) -> bool:
    """Tell whether a session key is this TLS key, however the latter is encoded."""
    if session_key == spki_der:
        return True
    if len(spki_der) == SESSION_KEY_SIZE and spki_der.startswith(_SPKI_HEAD):
        return False
    try:
        other = load_der_public_key(spki_der)
    except (ValueError, UnsupportedAlgorithm):
        # A key that cannot be read signs nothing.
        return False
    return isinstance(other, ec.EllipticCurvePublicKey) and other == _load(session_key)


@functools.lru_cache(maxsize=MAX_KNOWN_KEYS)
def _load(session_key: bytes) -> ec.EllipticCurvePublicKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, session_key[len(_SPKI_HEAD) - 1 :])
    except ValueError as error:
        raise _malformed("the claim session-key is no point of P-256") from error


def _malformed(message: str) -> MalformedInput:
    return MalformedInput(Reason.EVIDENCE_MALFORMED, message)
