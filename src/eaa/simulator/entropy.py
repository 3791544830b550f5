"""Everything random in a simulated world, from one seed: the same seed makes the same world, byte for byte."""

from __future__ import annotations

import functools
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from eaa.errors import Misuse, Reason

SEED_SIZE: Final = 32
MAX_KNOWN: Final = 1024
"""Values, keys and signatures that are remembered: a machine uses the same few for each of its quotes."""
P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True, slots=True, kw_only=True)
class Entropy:
    """Named random values of one world."""

    seed: bytes = field(repr=False)
    """32 secret bytes: whoever has them has every key of this world."""

    @classmethod
    def create(cls, seed: bytes | None = None) -> Entropy:
        """Return the entropy of `seed`, or of a new secret seed."""
        if seed is None:
            return cls(seed=secrets.token_bytes(SEED_SIZE))
        if len(seed) != SEED_SIZE:
            raise Misuse(Reason.SIMULATOR_INVALID, f"a seed has {SEED_SIZE} bytes, {len(seed)} were given")
        return cls(seed=seed)

    def take(self, length: int, name: str) -> bytes:
        """Return the `length` bytes of this name; names are independent of each other and of the order of use."""
        return _take(self.seed, length, name)

    def key(self, name: str) -> ec.EllipticCurvePrivateKey:
        """Return the P-256 key of this name."""
        return _key(self.seed, name)


@functools.lru_cache(maxsize=MAX_KNOWN)
def _take(seed: bytes, length: int, name: str) -> bytes:
    blocks = (
        hmac.digest(seed, block.to_bytes(4, "big") + name.encode(), hashlib.sha256) for block in range(-(-length // 32))
    )
    return b"".join(blocks)[:length]


@functools.lru_cache(maxsize=MAX_KNOWN)
def _key(seed: bytes, name: str) -> ec.EllipticCurvePrivateKey:
    # 16 spare bytes make the bias of the reduction negligible.
    scalar = int.from_bytes(_take(seed, 48, f"key: {name}"), "big") % (P256_ORDER - 1) + 1
    return ec.derive_private_key(scalar, ec.SECP256R1())


@functools.lru_cache(maxsize=MAX_KNOWN)
def sign_raw(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """Return the 64 bytes r||s over SHA-256 of `message`, with the nonce of RFC 6979."""
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(SHA256(), deterministic_signing=True)))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


@functools.lru_cache(maxsize=MAX_KNOWN)
def raw_public_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the 64 bytes x||y of the public half."""
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
