"""SIGSTRUCT: every field in its place, and a signature that covers what it should."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from eaa.errors import MalformedInput, Misuse, Reason, VerificationError
from eaa.measure.sigstruct import SIGSTRUCT, bcd_date
from support.simulated import sample_enclave, signer_key

ALL = b"\xff" * 16


@pytest.fixture(scope="module")
def signed() -> SIGSTRUCT:
    return SIGSTRUCT(
        header_type=1 << 31,
        vendor=0,
        raw_date=bcd_date(date(2026, 11, 23)),
        software_defined=7,
        misc_select=1,
        misc_mask=0xFFFFFFFE,
        cet_attributes=2,
        cet_attributes_mask=3,
        isv_family_id=b"F" * 16,
        attributes=b"A" * 16,
        attributes_mask=b"M" * 16,
        enclave_hash=b"H" * 32,
        isv_ext_prod_id=b"E" * 16,
        isv_prod_id=0x1234,
        isv_svn=0x5678,
    ).sign(signer_key())


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        (0, "06000000e100000000000100"),
        (12, "00000080"),
        (16, "00000000"),
        (20, "23112620"),
        (24, "01010000600000006000000001000000"),
        (40, "07000000"),
        (44, "00" * 84),
        (512, "03000000"),
        (900, "01000000feffffff"),
        (908, "0203" + "0000"),
        (912, "46" * 16),
        (928, "41" * 16),
        (944, "4d" * 16),
        (960, "48" * 32),
        (992, "00" * 16),
        (1008, "45" * 16),
        (1024, "34127856"),
        (1028, "00" * 12),
    ],
)
def test_each_field_lies_where_the_processor_looks(signed: SIGSTRUCT, offset: int, expected: str) -> None:
    raw = signed.encode()
    assert len(raw) == 1808
    assert raw[offset : offset + len(expected) // 2].hex() == expected


def test_the_signature_is_rsa_over_header_and_body(signed: SIGSTRUCT) -> None:
    """RSA-3072 with exponent 3, by hand: the cube of the signature ends in the digest of bytes 0-127 and 900-1027."""
    raw = signed.encode()
    modulus, signature = (int.from_bytes(raw[at : at + 384], "little") for at in (128, 516))
    padded = pow(signature, 3, modulus).to_bytes(384, "big")
    assert padded.startswith(b"\x00\x01\xff\xff")
    assert padded.endswith(b"\x00\x30\x31" + padded[-49:])
    assert padded.endswith(hashlib.sha256(raw[:128] + raw[900:1028]).digest())
    assert modulus == signer_key().public_key().public_numbers().n


def test_q1_and_q2_spare_the_processor_its_divisions(signed: SIGSTRUCT) -> None:
    modulus, s, q1, q2 = (
        int.from_bytes(field, "little") for field in (signed.modulus, signed.signature, signed.q1, signed.q2)
    )
    assert q1 == s * s // modulus
    assert q2 == s * (s * s - q1 * modulus) // modulus
    assert s**3 - q1 * s * modulus - q2 * modulus == pow(s, 3, modulus)


def test_mr_signer_is_the_hash_of_the_little_endian_modulus(signed: SIGSTRUCT) -> None:
    assert signed.mr_signer == hashlib.sha256(signed.encode()[128:512]).digest()


def test_what_was_signed_verifies_and_survives_a_round_trip(signed: SIGSTRUCT) -> None:
    signed.verify_signature()
    assert SIGSTRUCT.parse(signed.encode()) == signed


@pytest.mark.parametrize("offset", [12, 16, 20, 40, 44, 127, 128, 516, 900, 912, 928, 944, 960, 1024, 1026, 1040, 1424])
def test_one_changed_byte_is_noticed(signed: SIGSTRUCT, offset: int) -> None:
    raw = bytearray(signed.encode())
    raw[offset] ^= 1
    with pytest.raises(VerificationError) as caught:
        SIGSTRUCT.parse(bytes(raw)).verify_signature()
    assert caught.value.reason is Reason.SIGSTRUCT_SIGNATURE


@pytest.mark.parametrize("modulus", [bytes(384), b"\x02" + bytes(383), b"\x03" + bytes(383)])
def test_a_modulus_that_is_none_verifies_nothing(signed: SIGSTRUCT, modulus: bytes) -> None:
    with pytest.raises(VerificationError) as caught:
        replace(signed, modulus=modulus).verify_signature()
    assert caught.value.reason is Reason.SIGSTRUCT_SIGNATURE


@pytest.mark.parametrize("offset", [0, 11, 24, 39, 512, 515])
def test_what_has_another_header_or_exponent_is_no_sigstruct(signed: SIGSTRUCT, offset: int) -> None:
    raw = bytearray(signed.encode())
    raw[offset] ^= 1
    with pytest.raises(MalformedInput) as caught:
        SIGSTRUCT.parse(bytes(raw))
    assert caught.value.reason is Reason.SIGSTRUCT_MALFORMED


@pytest.mark.parametrize("length", [0, 1807, 1809])
def test_what_has_another_length_is_no_sigstruct(length: int) -> None:
    with pytest.raises(MalformedInput) as caught:
        SIGSTRUCT.parse(sample_enclave()[1].ljust(2000, b"\0")[:length])
    assert caught.value.reason is Reason.SIGSTRUCT_MALFORMED


@pytest.mark.parametrize(("bits", "exponent"), [(3072, 65537), (2048, 3)])
def test_only_the_processors_kind_of_key_signs(signed: SIGSTRUCT, bits: int, exponent: int) -> None:
    key = rsa.generate_private_key(public_exponent=exponent, key_size=bits)
    with pytest.raises(Misuse) as caught:
        signed.sign(key)
    assert caught.value.reason is Reason.USAGE


@pytest.mark.parametrize(
    ("raw_date", "expected"),
    [
        (0x20261123, date(2026, 11, 23)),
        (0x20240229, date(2024, 2, 29)),
        (0x20230229, None),
        (0x20261301, None),
        (0x2026110A, None),
        (0x070A07E3, None),
        (0, None),
    ],
)
def test_a_date_is_eight_decimal_digits_in_nibbles(raw_date: int, expected: date | None) -> None:
    sigstruct = SIGSTRUCT(raw_date=raw_date, attributes=bytes(16), attributes_mask=ALL, enclave_hash=bytes(32))
    assert sigstruct.build_date == expected
    if expected is not None:
        assert bcd_date(expected) == raw_date


@pytest.mark.parametrize("name", ["reserved_44", "reserved_910", "reserved_992", "reserved_1028"])
def test_reserved_bytes_are_kept_and_told(signed: SIGSTRUCT, name: str) -> None:
    assert signed.reserved_is_zero
    reserved: dict[str, Any] = {name: b"\1" * len(getattr(signed, name))}
    odd = replace(signed, **reserved)
    assert not odd.reserved_is_zero
    assert SIGSTRUCT.parse(odd.encode()) == odd


def test_attributes_are_read_as_flags_and_xfrm() -> None:
    _, raw = sample_enclave("debugged", debug=True)
    sigstruct = SIGSTRUCT.parse(raw)
    assert (sigstruct.is_debug, sigstruct.xfrm) == (True, 3)
    assert not SIGSTRUCT.parse(sample_enclave()[1]).is_debug
