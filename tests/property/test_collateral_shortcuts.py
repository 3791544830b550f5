"""Where there is a quick reading beside a thorough one, the two tell the same, whatever somebody puts there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eaa.collateral import as_issued, intel, x509
from eaa.errors import MalformedInput
from eaa.evidence.quote import Quote
from eaa.simulator.images import create_signer_key, sample_image
from eaa.simulator.pki import SimulatedPKI
from eaa.simulator.platform import Platform
from support.dcap_world import tlv
from support.vectors import ROOT

NOW: Final = datetime(2026, 6, 1, tzinfo=UTC)


def flipped(raw: bytes, data: st.DataObject) -> bytes:
    """Return the bytes with up to two of them changed."""
    flips = data.draw(st.dictionaries(st.integers(0, max(0, len(raw) - 1)), st.integers(0, 255), max_size=2))
    return bytes(flips.get(at, octet) for at, octet in enumerate(raw))


# --- the SGX extension of a PCK certificate

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
    return b"".join(fields)


def told(read: Callable[[bytes], Any], raw: bytes) -> Any:
    """Return what is read, or why it is not."""
    try:
        return read(raw)
    except MalformedInput as error:
        return error.reason


def sgx_field(number: int, tag: int, content: bytes) -> bytes:
    return tlv(0x30, tlv(0x06, SGX_ARC + bytes((number,))) + tlv(tag, content))


CAS: Final = ("platform", "processor")
CONFIGURATION: Final = b"".join(
    tlv(0x30, tlv(0x06, SGX_ARC + bytes((7, number))) + tlv(0x01, flag))
    for number, flag in enumerate((b"\xff", b"\0", b"\xff"), 1)
)


def sgx_extension(tcb: bytes, *, ca: str) -> bytes:
    fields = [sgx_field(1, 4, bytes(16)), sgx_field(2, 0x30, tcb), sgx_field(3, 4, bytes(2)), sgx_field(4, 4, bytes(6))]
    fields.append(sgx_field(5, 0x0A, b"\x01"))
    if ca == "platform":
        fields += [sgx_field(6, 4, bytes(16)), sgx_field(7, 0x30, CONFIGURATION)]
    return tlv(0x30, b"".join(fields))


@given(tcbs(), st.sampled_from(CAS), st.data())
def test_the_quick_reading_of_an_sgx_extension_is_the_thorough_one(tcb: bytes, ca: str, data: st.DataObject) -> None:
    raw = flipped(sgx_extension(tcb, ca=ca), data)
    thorough = told(intel._walk_through_extension, raw)
    assert as_issued.read_sgx_extension(raw) in (None, thorough)


@pytest.mark.parametrize("ca", CAS)
def test_sgx_extensions_as_issued_take_the_quick_way(ca: str) -> None:
    components = [b"\x05"] * 15 + [b"\x00\xff"]
    fields = [tcb_field(number, 0x02, content) for number, content in enumerate(components, 1)]
    tcb = b"".join((*fields, tcb_field(17, 0x02, b"\x0d"), tcb_field(18, 0x04, b"\x05" * 15 + b"\xff")))
    raw = sgx_extension(tcb, ca=ca)
    read = as_issued.read_sgx_extension(raw)
    assert read is not None
    assert read == intel._walk_through_extension(raw)
    assert (read.components, read.pce_svn, read.cpu_svn) == (b"\x05" * 15 + b"\xff", 13, b"\x05" * 15 + b"\xff")
    assert read.flags == ((True, False, True) if ca == "platform" else (None, None, None))


# --- certificates

FIELDS: Final = [item.name for item in fields(x509.Certificate) if item.name != "public_key"]


def fields_of(certificate: object) -> object:
    """Return all fields; of records alone, only the DER is compared."""
    return [getattr(certificate, name) for name in FIELDS] if isinstance(certificate, x509.Certificate) else certificate


@functools.cache
def certificates() -> list[bytes]:
    """A PCK certificate, its CA, the root, and who signs TCB Info: simulated ones, and Intel's where they are."""
    platform = Platform.create(now=NOW, pki=SimulatedPKI.create(now=NOW))
    collateral = platform.collateral(now=NOW)
    enclave = platform.launch(*sample_image("sample", now=NOW, signer_key=create_signer_key()))
    quote = Quote.parse(enclave.quote(bytes(64)))
    real = [path.read_bytes() for path in sorted((ROOT / "certs").glob("*.pem"))]
    chains = [quote.certification_data, collateral.tcb_info_issuer_chain, *real]
    return list(dict.fromkeys(der for chain in chains for der in x509.parse_pem_chain(chain)))


@given(st.data())
@settings(max_examples=400)
def test_the_quick_reading_of_a_certificate_is_the_thorough_one(data: st.DataObject) -> None:
    raw = flipped(data.draw(st.sampled_from(certificates())), data)
    assert fields_of(told(x509.Certificate.parse, raw)) == fields_of(told(x509.Certificate._walk, raw))


@pytest.mark.parametrize("what", ["dates", "lengths", "extensions", "the head"])
def test_each_byte_of_a_certificate_is_read_as_the_thorough_way_reads_it(what: str) -> None:
    raw = certificates()[0]
    spki = raw.index(bytes.fromhex("3059301306"))
    dates = raw.index(bytes.fromhex("301e170d"))
    places = {"the head": range(dates), "dates": range(dates, dates + 32), "lengths": range(spki - 4, spki + 28)}
    for at in places.get(what, range(spki + 91, len(raw) - 60)):
        for octet in (0x00, 0x30, 0x80, 0xFF, raw[at] ^ 0x01):
            spoiled = raw[:at] + bytes((octet,)) + raw[at + 1 :]
            assert fields_of(told(x509.Certificate.parse, spoiled)) == fields_of(told(x509.Certificate._walk, spoiled))


def test_certificates_as_issued_take_the_quick_way() -> None:
    read = [as_issued.read_certificate(raw) for raw in certificates()]
    # But one whose serial happens to be shorter than almost all are.
    assert len(read) - len(list(filter(None, read))) <= 1


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
    raw = flipped(entries, data)
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
