"""Certificates and CRLs in which one byte or two are others: what no library would write is refused while reading."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from eaa.collateral import x509
from eaa.collateral.x509 import CRL, Certificate
from eaa.errors import MalformedInput, Reason
from support.dcap_world import World


@pytest.fixture
def world() -> World:
    return World()


def replaced(raw: bytes, old: str, new: str) -> bytes:
    """The first place where these bytes stand, changed; as long as before."""
    before, after = bytes.fromhex(old), bytes.fromhex(new)
    assert before in raw
    assert len(before) == len(after)
    return raw.replace(before, after, 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("301e170d", "301e171c", id="a validity of one date"),
        pytest.param("301e170d", "301e040d", id="a date that is an octet string"),
        pytest.param("5a170d", "2b170d", id="a date that does not end in Z"),
        pytest.param("170d3230", "180d3230", id="a date with a century and too few digits"),
        pytest.param("060355040a", "040355040a", id="an attribute without a type"),
        pytest.param("060355040a0c", "060355040a16", id="a text of another alphabet"),
        pytest.param("0603551d0f0101ff", "0603551d0f0201ff", id="an extension that is critical by a number"),
    ],
)
def test_a_certificate_that_is_spelled_otherwise_is_refused(world: World, old: str, new: str) -> None:
    with pytest.raises(MalformedInput) as caught:
        Certificate.parse(replaced(world.pck.der(), old, new))
    assert caught.value.reason is Reason.CERTIFICATE_MALFORMED


def test_a_part_of_a_name_is_a_set(world: World) -> None:
    raw = world.pck.der()
    at = raw.index(bytes.fromhex("0603550403")) - 4
    assert raw[at] == 0x31
    with pytest.raises(MalformedInput) as caught:
        Certificate.parse(raw[:at] + b"\x30" + raw[at + 1 :])
    assert caught.value.reason is Reason.CERTIFICATE_MALFORMED


def test_dates_from_2050_on_have_their_century(world: World) -> None:
    world.pck.not_after = datetime(2055, 1, 1, tzinfo=UTC)
    raw = world.pck.der()
    assert Certificate.parse(raw).not_after == world.pck.not_after
    with pytest.raises(MalformedInput) as caught:
        Certificate.parse(raw.replace(b"\x18\x0f2055", b"\x18\x0f2045"))
    assert caught.value.reason is Reason.CERTIFICATE_MALFORMED


def test_an_entry_of_a_crl_has_a_serial_number_and_a_date(world: World) -> None:
    raw = world.pck_crl.der()
    # 4711, which the list names.
    assert raw.count(bytes.fromhex("02021267")) == 1
    with pytest.raises(MalformedInput) as caught:
        CRL.parse(raw.replace(bytes.fromhex("02021267"), bytes.fromhex("04021267")))
    assert caught.value.reason is Reason.CRL_MALFORMED


@pytest.mark.parametrize(
    ("read", "value"),
    [
        pytest.param(x509._read_subject_key_id, "0301ff", id="a key identifier that is a string of bits"),
        pytest.param(x509._read_constraints, "300401ff0201", id="constraints with an end too early"),
        pytest.param(x509._read_key_usage, "03020781", id="a use beyond the bits that are used"),
        pytest.param(x509._read_key_usage, "0302", id="uses without a bit"),
        pytest.param(x509._read_crl_number, "0215" + "01" * 21, id="a number of a CRL of 21 bytes"),
    ],
)
def test_an_extension_says_what_it_may_say(read: Callable[[bytes], object], value: str) -> None:
    with pytest.raises(MalformedInput):
        read(bytes.fromhex(value))


def test_an_extension_that_says_it_is_not_critical_is_spelled_otherwise() -> None:
    with pytest.raises(ValueError, match="not critical"):
        x509._read_extension(bytes.fromhex("300d0603551d0f0101000403020780"))


def test_long_distribution_points_are_read_by_the_library() -> None:
    assert not x509._is_plain_uri(bytes(10))
    assert not x509._is_plain_uri(bytes(200))
