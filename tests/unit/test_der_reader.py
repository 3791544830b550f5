"""DER: one legal spelling of everything, and every length checked before a byte is taken."""

from __future__ import annotations

import pytest

from eaa import der
from eaa.errors import MalformedInput, Reason


def long_form(length: int) -> bytes:
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((0x80 | len(octets),)) + octets


def test_read_one_returns_the_element_and_what_follows() -> None:
    element, rest = der.read_one(b"\x04\x03abc\x05\x00", what="a test")
    assert (element.tag, element.content, element.raw, rest) == (0x04, b"abc", b"\x04\x03abc", b"\x05\x00")


@pytest.mark.parametrize("length", [0x80, 0xFF, 0x100, 0xFFFF, 0x10000])
def test_read_one_takes_long_lengths(length: int) -> None:
    element, rest = der.read_one(b"\x04" + long_form(length) + bytes(length), what="a test")
    assert (len(element.content), rest) == (length, b"")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x30", id="a tag without a length"),
        pytest.param(b"\x04\x02a", id="cut content"),
        pytest.param(b"\x04\x82\x01", id="cut length"),
        pytest.param(b"\x30\x80\x00\x00", id="indefinite length"),
        pytest.param(b"\x04\x81\x01a", id="long form of a short length"),
        pytest.param(b"\x04\x82\x00\x80" + bytes(0x80), id="length with leading zeros"),
        pytest.param(b"\x04\x84\xff\xff\xff\xff", id="4 GiB declared, nothing there"),
        pytest.param(b"\x04\x85\x01\x00\x00\x00\x00", id="length of five bytes"),
        pytest.param(b"\x04\xff" + bytes(127), id="reserved length form"),
        pytest.param(b"\x1f\x81\x01\x00", id="tag of more than one byte"),
    ],
)
def test_read_one_refuses(raw: bytes) -> None:
    with pytest.raises(MalformedInput) as caught:
        der.read_one(raw, what="a test")
    assert caught.value.reason is Reason.DER_MALFORMED


def test_read_only_wants_one_element_of_its_tag() -> None:
    assert der.read_only(b"\x30\x02\x05\x00", tag=der.SEQUENCE, what="a test").content == b"\x05\x00"
    with pytest.raises(MalformedInput, match="follow"):
        der.read_only(b"\x30\x00\x00", tag=der.SEQUENCE, what="a test")
    with pytest.raises(MalformedInput, match="tag"):
        der.read_only(b"\x31\x00", tag=der.SEQUENCE, what="a test")


def test_read_all_is_bounded() -> None:
    row = b"\x05\x00" * 5
    assert len(der.read_all(row, what="a test", maximum=5)) == 5
    with pytest.raises(MalformedInput) as caught:
        der.read_all(row, what="a test", maximum=4)
    assert caught.value.reason is Reason.DER_MALFORMED


def test_nesting_costs_nothing() -> None:
    """A hundred kilobytes of opening brackets are one element to who reads one element."""
    nested = b"\x05\x00"
    for _ in range(20_000):
        header = bytes((len(nested),)) if len(nested) < 0x80 else long_form(len(nested))
        nested = b"\x30" + header + nested
        if len(nested) > 100_000:
            break
    assert der.read_only(nested, tag=der.SEQUENCE, what="a test").raw == nested


@pytest.mark.parametrize(
    ("content", "dotted"),
    [
        ("2a864886f84d010d01", "1.2.840.113741.1.13.1"),
        ("678105050409", "2.23.133.5.4.9"),
        ("550403", "2.5.4.3"),
        ("00", "0.0"),
        ("27", "0.39"),
        ("28", "1.0"),
        ("8837", "2.999"),
    ],
)
def test_parse_oid(content: str, dotted: str) -> None:
    assert der.parse_oid(bytes.fromhex(content)) == dotted


@pytest.mark.parametrize("content", [b"", b"\x80\x01", b"\x2a\x80\x01", b"\x2a\x86", b"\x2a" * 65])
def test_parse_oid_refuses(content: bytes) -> None:
    with pytest.raises(MalformedInput) as caught:
        der.parse_oid(content)
    assert caught.value.reason is Reason.DER_MALFORMED


@pytest.mark.parametrize(("content", "number"), [(b"\x00", 0), (b"\x7f", 127), (b"\x00\x80", 128), (b"\x01\x00", 256)])
def test_parse_uint(content: bytes, number: int) -> None:
    assert der.parse_uint(content) == number


@pytest.mark.parametrize("content", [b"", b"\x80", b"\xff\xff", b"\x00\x7f", b"\x01" * 1026])
def test_parse_uint_refuses(content: bytes) -> None:
    with pytest.raises(MalformedInput) as caught:
        der.parse_uint(content)
    assert caught.value.reason is Reason.DER_MALFORMED


def test_parse_boolean_knows_two_spellings() -> None:
    assert der.parse_boolean(b"\xff") is True
    assert der.parse_boolean(b"\x00") is False
    for content in (b"", b"\x01", b"\xff\xff"):
        with pytest.raises(MalformedInput) as caught:
            der.parse_boolean(content)
        assert caught.value.reason is Reason.DER_MALFORMED


def test_spans_tell_where_elements_are() -> None:
    raw = b"junk" + b"\x04\x02ab" + b"\x30\x81\x80" + bytes(128) + b"more"
    found = der.spans(raw, 4, len(raw) - 4, what="a test")
    assert found == [(0x04, 4, 6, 8), (0x30, 8, 11, 139)]
    assert der.only_span(raw, 4, 8, tag=der.OCTET_STRING, what="a test") == found[0]


@pytest.mark.parametrize(
    ("begin", "end", "tag"),
    [
        pytest.param(0, 0, der.OCTET_STRING, id="nothing"),
        pytest.param(0, 4, der.SEQUENCE, id="another tag"),
        pytest.param(0, 8, der.OCTET_STRING, id="two elements"),
        pytest.param(0, 3, der.OCTET_STRING, id="an end inside of it"),
        pytest.param(0, 1, der.OCTET_STRING, id="an end inside of its header"),
    ],
)
def test_the_only_element_is_the_only_one(begin: int, end: int, tag: int) -> None:
    """Also where more bytes follow the end: an element never reaches beyond what it stands in."""
    with pytest.raises(MalformedInput) as caught:
        der.only_span(b"\x04\x02ab\x04\x02cd", begin, end, tag=tag, what="a test")
    assert caught.value.reason is Reason.DER_MALFORMED


def test_a_long_length_does_not_reach_beyond_the_end() -> None:
    raw = b"\x04\x82\x00\x80" + bytes(128)
    with pytest.raises(MalformedInput, match="inside a DER length"):
        der.spans(raw, 0, 3, what="a test")


def test_spans_are_bounded_and_may_leave_the_rest_alone() -> None:
    row = b"\x05\x00" * 5 + b"\xff"
    assert len(der.spans(row, 0, len(row), what="a test", maximum=5, then_more=True)) == 5
    with pytest.raises(MalformedInput, match="more than 5"):
        der.spans(row, 0, len(row), what="a test", maximum=5)
