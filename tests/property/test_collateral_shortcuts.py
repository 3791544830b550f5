"""Where there is a quick reading beside a thorough one, the two tell the same, whatever somebody puts there."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st

from eaa.collateral import intel, x509
from eaa.errors import MalformedInput
from support.dcap_world import tlv

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


# --- the entries of a CRL

serials = st.one_of(
    st.integers(1, (1 << 159) - 1),
    st.integers(1 << 152, (1 << 159) - 1),
    st.sampled_from([0, 1, 0x7F, 0x80, (1 << 159) - 1, 1 << 159, (1 << 160) - 1, 1 << 160]),
)
dates = st.sampled_from(
    [b"250619100033Z", b"490101000000Z", b"500229000000Z", b"250230000000Z", b"2506191000330", b"Z"]
)
REASON: Final = bytes.fromhex("300c300a0603551d1504030a0101")
reasons = st.sampled_from([REASON, REASON, REASON, b"", REASON[:-1] + b"\x0b", b"\x30\x00", REASON + REASON])


def entry(serial: int, date: bytes, reason: bytes) -> bytes:
    content = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    return tlv(0x30, tlv(0x02, content) + tlv(0x17, date) + reason)


@given(st.lists(st.builds(entry, serials, dates, reasons), max_size=4).map(b"".join), st.data())
def test_the_quick_reading_of_entries_is_the_thorough_one(entries: bytes, data: st.DataObject) -> None:
    flips = data.draw(st.dictionaries(st.integers(0, max(0, len(entries) - 1)), st.integers(0, 255), max_size=1))
    raw = bytes(flips.get(at, octet) for at, octet in enumerate(entries))
    span = (0x30, 0, 0, len(raw))
    try:
        thorough: Any = x509._walk_through_entries(raw, span)
    except MalformedInput:
        thorough = None
    try:
        quick: Any = x509._read_entries(raw, span)
    except MalformedInput:
        quick = None
    assert quick == thorough


def test_entries_as_issued_take_the_quick_way() -> None:
    raw = b"".join(entry(serial, b"250619100033Z", REASON) for serial in (1 << 158, 1 << 159))
    assert not any(x509._ENTRY_AS_ISSUED.split(raw)[::3])
