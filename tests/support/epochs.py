"""Epochs made by hand, so that each part of one can be wrong alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from eaa.appraise.result import Role
from eaa.evidence.epoch import EpochClaims, encode_session_key, sign_statement
from eaa.evidence.tagged import TaggedEvidence, pubkey_hash_claim
from eaa.protocol.exchange import EpochSignature, EvidenceWanted

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
SECOND = int(NOW.timestamp())
EPOCH_QUOTE = b"a quote that the TEE gave for an epoch"


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeEpoch:
    """A signing key, and what is said of it."""

    private_key: ec.EllipticCurvePrivateKey
    said: EpochClaims
    quote: bytes = EPOCH_QUOTE

    @classmethod
    def of(cls, spki: bytes, role: Role, **changes: Any) -> MadeEpoch:
        """An epoch of that TLS key, begun a minute ago, with four to go; the changes are to its claims."""
        private_key = ec.generate_private_key(ec.SECP256R1())
        said = EpochClaims(
            pubkey_hash=pubkey_hash_claim(spki),
            session_key=encode_session_key(private_key.public_key()),
            role=role.value.encode(),
            not_before=SECOND - 60,
            not_after=SECOND + 240,
        )
        return cls(private_key=private_key, said=replace(said, **changes))

    @property
    def claims(self) -> bytes:
        return self.said.encode()

    @property
    def evidence(self) -> bytes:
        return TaggedEvidence(evidence=self.quote, claims=self.claims).encode()

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.evidence).digest()

    def sign(self, statement: bytes) -> bytes:
        return sign_statement(self.private_key, statement)

    def answer(self, wanted: EvidenceWanted) -> EpochSignature:
        """What goes with the quote."""
        return EpochSignature(claims=self.claims, signature=self.sign(wanted.statement(self.digest)))
