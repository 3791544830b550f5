"""Tokens: kept as slow, salted hashes, so that whoever reads a hash has not got the token.

A token is hashed once when it is offered for the first time; then it is known by a keyed digest that lives and dies
with this process, so that the slow hash costs an operator nothing, and each guess a stranger makes much.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from eaa.errors import Misuse, Reason

MAX_OFFERED: Final = 1024
"""Characters of a token that are looked at."""
MAX_REMEMBERED: Final = 1024
"""Tokens that were offered lately, right or wrong."""
SCRYPT_N: Final = 2**14
SCRYPT_R: Final = 8
SCRYPT_P: Final = 1
_MEMORY: Final = 64 * 1024 * 1024
_SALT: Final = 16
_DIGEST: Final = 32
_SCRYPT: Final = re.compile(
    r"scrypt\$(\d{1,7})\$(\d{1,2})\$(\d{1,2})\$([A-Za-z0-9+/=]{4,100})\$([A-Za-z0-9+/=]{4,100})"
)
_SHA512: Final = re.compile(r"sha512\$([0-9a-fA-F]{128})")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hash:
    """A hash, and how it was made."""

    digest: bytes = field(repr=False)
    salt: bytes | None = field(repr=False)
    """None for SHA-512 without salt, as Intel's service keeps it."""
    n: int = SCRYPT_N
    r: int = SCRYPT_R
    p: int = SCRYPT_P

    def fits(self, token: str) -> bool:
        """Whether it is this token's; takes long."""
        if self.salt is None:
            return hmac.compare_digest(hashlib.sha512(token.encode()).digest(), self.digest)
        made = hashlib.scrypt(
            token.encode(), salt=self.salt, n=self.n, r=self.r, p=self.p, maxmem=_MEMORY, dklen=len(self.digest)
        )
        return hmac.compare_digest(made, self.digest)


class Token:
    """A token that opens something. Without a hash, no token opens anything. Thread-safe."""

    def __init__(self, kept: _Hash | None = None) -> None:
        """Keep a hash, or none."""
        self._kept = kept
        self._key = secrets.token_bytes(32)
        self._seen: OrderedDict[bytes, bool] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def of(cls, token: str) -> Token:
        """Return what these characters open: a token, or the line that `eaa-pccs hash-token` printed of one.

        Raises:
            Misuse: FILE_UNREADABLE, it begins like a hash and is none.
        """
        if token.startswith(("scrypt$", "sha512$")):
            return cls(_parse(token))
        salt = secrets.token_bytes(_SALT)
        made = _Hash(digest=_scrypt(token, salt), salt=salt)
        return cls(made)

    @property
    def is_set(self) -> bool:
        """Whether any token opens it."""
        return self._kept is not None

    def is_known(self, offered: str | None) -> bool:
        """Whether `opens` answers at once."""
        if self._kept is None or not offered or len(offered) > MAX_OFFERED:
            return True
        with self._lock:
            return self._name(offered) in self._seen

    def opens(self, offered: str | None) -> bool:
        """Whether this is the token. Slow for one that was never offered before."""
        if self._kept is None or not offered or len(offered) > MAX_OFFERED:
            return False
        name = self._name(offered)
        with self._lock:
            known = self._seen.get(name)
        if known is None:
            known = self._kept.fits(offered)
            with self._lock:
                self._seen[name] = known
                if len(self._seen) > MAX_REMEMBERED:
                    self._seen.popitem(last=False)
        return known

    def _name(self, offered: str) -> bytes:
        return hmac.digest(self._key, offered.encode("utf-8", "surrogateescape"), "sha256")


def hash_token(token: str) -> str:
    """Return a token's hash as one line: `scrypt$N$r$p$salt$digest`, the last two in base64."""
    salt = secrets.token_bytes(_SALT)
    parts = (base64.b64encode(part).decode() for part in (salt, _scrypt(token, salt)))
    return "$".join(("scrypt", str(SCRYPT_N), str(SCRYPT_R), str(SCRYPT_P), *parts))


def _scrypt(token: str, salt: bytes) -> bytes:
    return hashlib.scrypt(token.encode(), salt=salt, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P, maxmem=_MEMORY, dklen=_DIGEST)


def _parse(line: str) -> _Hash:
    plain = _SHA512.fullmatch(line)
    if plain:
        return _Hash(digest=bytes.fromhex(plain[1]), salt=None)
    match = _SCRYPT.fullmatch(line)
    if match is None:
        raise _no_hash("it is cut off, or of another kind")
    n, r, p = int(match[1]), int(match[2]), int(match[3])
    try:
        made = _Hash(
            digest=base64.b64decode(match[5], validate=True),
            salt=base64.b64decode(match[4], validate=True),
            n=n,
            r=r,
            p=p,
        )
        # Weaker parameters than ours are refused, and those that no machine could pay for.
        if n < SCRYPT_N or len(made.digest) < _DIGEST or len(made.salt or b"") < _SALT:
            raise _no_hash("its parameters are weaker than those of hash-token")
        made.fits("")
    except (ValueError, binascii.Error) as error:
        raise _no_hash(str(error)) from error
    return made


def _no_hash(why: str) -> Misuse:
    return Misuse(
        Reason.FILE_UNREADABLE,
        f"a token file holds a hash that cannot be used: {why}",
        hint="`eaa-pccs hash-token FILE` makes one of a token",
    )
