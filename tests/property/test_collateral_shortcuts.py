"""Where there is a quick reading beside a thorough one, the two tell the same, whatever somebody puts there."""

from __future__ import annotations

from typing import Final

from hypothesis import example, given
from hypothesis import strategies as st

from eaa.collateral import intel, x509
from eaa.errors import MalformedInput
from support.dcap_world import tlv

CN: Final = bytes.fromhex("0603550403")
OTHERS: Final = (bytes.fromhex("060355040a"), bytes.fromhex("0603550406"), bytes.fromhex("06022a03"), b"\x06\x01\x2a")

# Texts of every length, and such as look like a common name of their own.
decoys = st.builds(lambda text: tlv(0x31, tlv(0x30, CN + tlv(0x0C, text))), st.binary(max_size=8))
texts = st.one_of(st.binary(max_size=20), decoys, st.integers(100, 300).map(lambda size: b"x" * size), st.just(CN))
attributes = st.builds(
    lambda oid, tag, text: tlv(0x30, oid + tlv(tag, text)),
    st.sampled_from([CN, CN, *OTHERS]),
    st.sampled_from([0x0C, 0x13, 0x1E]),
    texts,
)
parts = st.lists(attributes, min_size=1, max_size=2).map(lambda items: tlv(0x31, b"".join(items)))
names = st.lists(parts, max_size=5).map(lambda items: tlv(0x30, b"".join(items)))


def one_part(text: bytes) -> bytes:
    return tlv(0x31, tlv(0x30, CN + tlv(0x0C, text)))


@given(names)
@example(tlv(0x30, one_part(b"Intel SGX Root CA")))
@example(tlv(0x30, one_part(b"x" * 118)))
@example(tlv(0x30, one_part(b"x" * 119)))
@example(tlv(0x30, one_part(b"a") + one_part(b"b")))
@example(tlv(0x30, b""))
# 0x31 bytes, spelled in two bytes of length: read one byte too early, the length is the tag of a SET.
@example(tlv(0x30, b"".join(one_part(b"a" * size) for size in (100, 100, 73))))
def test_the_quick_reading_of_a_name_is_the_thorough_one(name: bytes) -> None:
    try:
        thorough: str | None = x509._walk_to_common_name(name)
    except MalformedInput:
        thorough = None
    try:
        quick: str | None = x509._common_name(name)
    except MalformedInput:
        quick = None
    assert quick == thorough


@given(names, st.data())
def test_the_quick_reading_stays_inside_of_what_it_is_given(name: bytes, data: st.DataObject) -> None:
    """The library refuses such names before; even so, nothing but our own error may come of one."""
    cut = name[: data.draw(st.integers(2, len(name)))]
    x509._plain_common_name(cut)


def test_plain_names_take_the_quick_way() -> None:
    name = tlv(0x30, tlv(0x31, tlv(0x30, OTHERS[0] + tlv(0x13, b"Intel Corporation"))) + one_part(b"Intel SGX Root CA"))
    plain = x509._plain_common_name(name)
    assert plain is not None
    assert plain.content == b"Intel SGX Root CA"


# --- the TCB in a PCK certificate

SGX_ARC: Final = bytes.fromhex("2a864886f84d010d01")
# Of each length that a DER INTEGER of a component can have, and some that it must not have.
pce_svns = st.sampled_from([b"\x0d", b"\x00\x80", b"\x12\x34", b"\x00\xff\xff", b"\x8d"])
svns = st.sampled_from([b"\x00", b"\x05", b"\x7f", b"\x00\x80", b"\x00\xff", b"\x80", b"\x00\x7f", b"\x01\x00", b""])


def tcb_field(number: int, tag: int, content: bytes) -> bytes:
    return tlv(0x30, tlv(0x06, SGX_ARC + bytes((2, number))) + tlv(tag, content))


@st.composite
def tcbs(draw: st.DrawFn) -> bytes:
    """A TCB as Intel spells it, but for a few of its fields."""
    components = draw(st.lists(st.sampled_from([b"\x00", b"\x05", b"\x00\xff"]), min_size=16, max_size=16))
    for at, odd in draw(st.dictionaries(st.integers(0, 15), svns, max_size=2)).items():
        components[at] = odd
    fields = [tcb_field(number, 0x02, content) for number, content in enumerate(components, 1)]
    fields.append(
        tcb_field(17, 0x02, draw(st.sampled_from([b"\x0d", b"\x00\x80", b"\x12\x34", b"\x00\xff\xff", b"\x8d"])))
    )
    fields.append(tcb_field(18, 0x04, bytes(content[-1] if content else 0 for content in components)))
    swaps = draw(st.lists(st.tuples(st.integers(0, 17), st.integers(0, 17)), max_size=1))
    for one, other in swaps:
        fields[one], fields[other] = fields[other], fields[one]
    whole = b"".join(fields)
    flips = draw(st.dictionaries(st.integers(0, len(whole) - 1), st.integers(0, 255), max_size=1))
    return bytes(flips.get(at, octet) for at, octet in enumerate(whole))


@given(tcbs())
def test_the_quick_reading_of_a_tcb_is_the_thorough_one(tcb: bytes) -> None:
    try:
        thorough: object = intel._walk_through_tcb(tcb)
    except MalformedInput as error:
        thorough = error.reason
    try:
        quick: object = intel._read_tcb(tcb)
    except MalformedInput as error:
        quick = error.reason
    assert quick == thorough


def test_tcbs_as_issued_take_the_quick_way() -> None:
    components = [b"\x05"] * 15 + [b"\x00\xff"]
    fields = [tcb_field(number, 0x02, content) for number, content in enumerate(components, 1)]
    tcb = b"".join((*fields, tcb_field(17, 0x02, b"\x0d"), tcb_field(18, 0x04, b"\x05" * 15 + b"\xff")))
    assert intel._TCB_AS_ISSUED.fullmatch(tcb)
    assert intel._read_tcb(tcb) == (b"\x05" * 15 + b"\xff", 13, b"\x05" * 15 + b"\xff")
