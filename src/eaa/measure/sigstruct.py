"""SIGSTRUCT: the signer's statement of which enclave may be launched, and how.

Source: Intel SDM vol. 3D, "Enclave Signature Structure (SIGSTRUCT)".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from eaa.errors import MalformedInput, Misuse, Reason, VerificationError

SIGSTRUCT_SIZE: Final = 1808
MODULUS_SIZE: Final = 384
EXPONENT: Final = 3
"""The only public exponent that EINIT accepts."""
INTEL_VENDOR: Final = 0x8086
DEBUG_SIGSTRUCT: Final = 1 << 31
"""Bit of `header_type`: signed as a debug enclave. Informative; the attributes decide."""

_HEADER_1: Final = bytes.fromhex("06000000e100000000000100")
_HEADER_2: Final = bytes.fromhex("01010000600000006000000001000000")
_ATTRIBUTE_DEBUG: Final = 0x02

# (field, length); integers are little-endian.
_LAYOUT: Final = (
    ("_header_1", 12),
    ("header_type", 4),
    ("vendor", 4),
    ("raw_date", 4),
    ("_header_2", 16),
    ("software_defined", 4),
    ("reserved_44", 84),
    ("modulus", MODULUS_SIZE),
    ("_exponent", 4),
    ("signature", MODULUS_SIZE),
    ("misc_select", 4),
    ("misc_mask", 4),
    ("cet_attributes", 1),
    ("cet_attributes_mask", 1),
    ("reserved_910", 2),
    ("isv_family_id", 16),
    ("attributes", 16),
    ("attributes_mask", 16),
    ("enclave_hash", 32),
    ("reserved_992", 16),
    ("isv_ext_prod_id", 16),
    ("isv_prod_id", 2),
    ("isv_svn", 2),
    ("reserved_1028", 12),
    ("q1", MODULUS_SIZE),
    ("q2", MODULUS_SIZE),
)
_INTEGERS: Final = frozenset(
    {
        "header_type", "vendor", "raw_date", "software_defined", "misc_select", "misc_mask",
        "cet_attributes", "cet_attributes_mask", "isv_prod_id", "isv_svn", "_exponent",
    }
)  # fmt: skip
_CONSTANTS: Final = {
    "_header_1": _HEADER_1,
    "_header_2": _HEADER_2,
    "_exponent": EXPONENT.to_bytes(4, "little"),
}


def bcd_date(day: date) -> int:
    """Return the DATE word of `day`: the eight digits yyyymmdd, one a nibble."""
    return int(f"{day:%Y%m%d}", 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class SIGSTRUCT:
    """An enclave signature structure, 1808 bytes.

    `parse` and `encode` are exact, reserved bytes included. Nothing is verified before `verify_signature`.
    """

    header_type: int = 0
    """u32; bit 31 marks a debug signature."""
    vendor: int = 0
    """u32, 0 or 0x8086 (Intel)."""
    raw_date: int
    """u32 as it stands; see `build_date` and `bcd_date`. Files exist whose date is no BCD."""
    software_defined: int = 0
    """u32."""
    modulus: bytes = field(default=bytes(MODULUS_SIZE), repr=False)
    """384 bytes, little-endian."""
    signature: bytes = field(default=bytes(MODULUS_SIZE), repr=False)
    """384 bytes, little-endian."""
    misc_select: int = 0
    """u32."""
    misc_mask: int = 0
    """u32: the bits of MISCSELECT that the signer insists on."""
    cet_attributes: int = 0
    """u8."""
    cet_attributes_mask: int = 0
    """u8."""
    isv_family_id: bytes = bytes(16)
    """16 bytes, KSS only."""
    attributes: bytes
    """16 bytes: u64 flags, then u64 XFRM."""
    attributes_mask: bytes
    """16 bytes: the bits of ATTRIBUTES that the signer insists on."""
    enclave_hash: bytes
    """32 bytes, the MRENCLAVE that may be launched."""
    isv_ext_prod_id: bytes = bytes(16)
    """16 bytes, KSS only."""
    isv_prod_id: int = 0
    """u16."""
    isv_svn: int = 0
    """u16."""
    q1: bytes = field(default=bytes(MODULUS_SIZE), repr=False)
    """384 bytes, little-endian: floor(S^2 / N)."""
    q2: bytes = field(default=bytes(MODULUS_SIZE), repr=False)
    """384 bytes, little-endian: floor(S * (S^2 - Q1 * N) / N)."""
    reserved_44: bytes = field(default=bytes(84), repr=False)
    reserved_910: bytes = field(default=bytes(2), repr=False)
    reserved_992: bytes = field(default=bytes(16), repr=False)
    reserved_1028: bytes = field(default=bytes(12), repr=False)

    @classmethod
    def parse(cls, raw: bytes) -> SIGSTRUCT:
        """Raise MalformedInput (SIGSTRUCT_MALFORMED) unless `raw` is exactly one SIGSTRUCT."""
        if len(raw) != SIGSTRUCT_SIZE:
            raise _malformed(f"a SIGSTRUCT has {SIGSTRUCT_SIZE} bytes, {len(raw)} were given")
        values: dict[str, Any] = {}
        at = 0
        for name, length in _LAYOUT:
            taken = raw[at : at + length]
            at += length
            if name in _CONSTANTS:
                _require_constant(name, taken)
            else:
                values[name] = int.from_bytes(taken, "little") if name in _INTEGERS else taken
        return cls(**values)

    def encode(self) -> bytes:
        """Return the 1808 bytes of this SIGSTRUCT."""
        return b"".join(self._encoded(name, length) for name, length in _LAYOUT)

    def _encoded(self, name: str, length: int) -> bytes:
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        value = getattr(self, name)
        encoded: bytes = value.to_bytes(length, "little") if name in _INTEGERS else value
        return encoded

    @property
    def signed_bytes(self) -> bytes:
        """The 256 bytes that the signature covers: the header, and what is said of the enclave."""
        encoded = self.encode()
        return encoded[:128] + encoded[900:1028]

    @property
    def mr_signer(self) -> bytes:
        """32 bytes: SHA-256 of the little-endian modulus."""
        return hashlib.sha256(self.modulus).digest()

    @property
    def xfrm(self) -> int:
        """The XFRM half of the attributes."""
        return int.from_bytes(self.attributes[8:], "little")

    @property
    def is_debug(self) -> bool:
        """Whether the signer asks for the DEBUG attribute."""
        return bool(self.attributes[0] & _ATTRIBUTE_DEBUG)

    @property
    def reserved_is_zero(self) -> bool:
        """Whether every reserved byte is zero, as EINIT demands."""
        reserved = (self.reserved_44, self.reserved_910, self.reserved_992, self.reserved_1028)
        return not any(part.strip(b"\0") for part in reserved)

    @property
    def build_date(self) -> date | None:
        """The date of signing, or None where DATE is no calendar date in BCD."""
        digits = f"{self.raw_date:08x}"
        try:
            return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
        except ValueError:
            return None

    def sign(self, signer_key: rsa.RSAPrivateKey) -> SIGSTRUCT:
        """Return this SIGSTRUCT with modulus, signature, q1 and q2 of `signer_key` (RSA-3072, exponent 3).

        Raises:
            Misuse: the key is of another kind, or the date is not BCD: such a file is accepted, never written.
        """
        numbers = signer_key.public_key().public_numbers()
        if signer_key.key_size != MODULUS_SIZE * 8 or numbers.e != EXPONENT:
            raise Misuse(
                Reason.USAGE,
                f"an enclave is signed with RSA-3072 and exponent 3, this key has {signer_key.key_size} bits "
                f"and exponent {numbers.e}",
            )
        if self.build_date is None:
            raise Misuse(Reason.USAGE, f"the SIGSTRUCT date {self.raw_date:#010x} is no date in BCD")
        unsigned = replace(self, modulus=_little(numbers.n))
        signature = int.from_bytes(signer_key.sign(unsigned.signed_bytes, padding.PKCS1v15(), SHA256()), "big")
        q1, q2 = _quotients(signature, numbers.n)
        return replace(unsigned, signature=_little(signature), q1=_little(q1), q2=_little(q2))

    def verify_signature(self) -> None:
        """Raise VerificationError (SIGSTRUCT_SIGNATURE) unless signature, q1 and q2 are right for the modulus.

        It says that the holder of the modulus signed, not who that is: compare `mr_signer` with a reference value.
        """
        modulus = int.from_bytes(self.modulus, "little")
        signature = int.from_bytes(self.signature, "little")
        try:
            public_key = rsa.RSAPublicNumbers(EXPONENT, modulus).public_key()
            public_key.verify(self.signature[::-1], self.signed_bytes, padding.PKCS1v15(), SHA256())
        except (InvalidSignature, ValueError) as error:
            raise _bad_signature("its RSA signature does not verify under its own modulus") from error
        if (_little(signature), self.q1, self.q2) != (self.signature, *map(_little, _quotients(signature, modulus))):
            raise _bad_signature("Q1 or Q2 is not the quotient of its signature and modulus")


def _malformed(message: str) -> MalformedInput:
    return MalformedInput(
        Reason.SIGSTRUCT_MALFORMED, message, hint="a SIGSTRUCT is what the enclave's signing tool wrote, 1808 bytes"
    )


def _bad_signature(message: str) -> VerificationError:
    return VerificationError(
        Reason.SIGSTRUCT_SIGNATURE, f"the SIGSTRUCT is not genuine: {message}", hint="sign the enclave again"
    )


def _require_constant(name: str, taken: bytes) -> None:
    if taken != _CONSTANTS[name]:
        what = "public exponent" if name == "_exponent" else "header"
        raise _malformed(f"the input is no SIGSTRUCT: its {what} reads {taken.hex()}, not {_CONSTANTS[name].hex()}")


def _little(number: int) -> bytes:
    return number.to_bytes(MODULUS_SIZE, "little")


def _quotients(signature: int, modulus: int) -> tuple[int, int]:
    """Return Q1 and Q2, which spare the processor two long divisions when it cubes the signature."""
    square = signature * signature
    q1 = square // modulus
    return q1, signature * (square - q1 * modulus) // modulus
