"""Where there is a quick reading beside a thorough one, the two tell the same, whatever somebody puts there."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eaa.collateral import as_issued, documents_as_issued, intel, x509
from eaa.collateral.bundle import Collateral
from eaa.errors import MalformedInput
from eaa.evidence.quote import Quote
from eaa.simulator.documents import compact, qe_identity, tcb_info, td_qe_identity, tdx_tcb_info
from eaa.simulator.images import sample_image
from eaa.simulator.model import PlatformModel
from eaa.simulator.pki import SimulatedPKI
from eaa.simulator.platform import Platform
from support.dcap_world import tlv
from support.simulated import SEED, signer_key
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
    platform = Platform.create(now=NOW, seed=SEED)
    collateral = platform.collateral(now=NOW)
    enclave = platform.launch(*sample_image("sample", now=NOW, signer_key=signer_key()))
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


# --- CRLs

CRL_FIELDS: Final = [item.name for item in fields(x509.CRL)]


@functools.cache
def crls() -> list[bytes]:
    """Both CRLs of a simulated platform as they are, and lists of one and of many revoked certificates; Intel's too."""
    pki = SimulatedPKI.create(now=NOW, seed=SEED)
    collateral = Platform.create(now=NOW, pki=pki, seed=SEED).collateral(now=NOW)
    serials = tuple((1 << 158) + number for number in range(20))
    longer = [pki.pck_crl(ca="platform", now=NOW, revoked=serials[:count]).issue() for count in (1, 3, 20)]
    real = [path.read_bytes() for path in sorted((ROOT / "cases").glob("*.collateral.json"))]
    issued = [crl for raw in real for each in [Collateral.from_json(raw)] for crl in (each.root_ca_crl, each.pck_crl)]
    return list(dict.fromkeys([collateral.root_ca_crl, collateral.pck_crl, *longer, *issued]))


def all_of(crl: object) -> object:
    """Return all fields; of records alone, only the DER is compared."""
    return [getattr(crl, name) for name in CRL_FIELDS] if isinstance(crl, x509.CRL) else crl


@given(st.data())
@settings(max_examples=300)
def test_the_quick_reading_of_a_crl_is_the_thorough_one(data: st.DataObject) -> None:
    raw = flipped(data.draw(st.sampled_from(crls())), data)
    assert all_of(told(x509.CRL.parse, raw)) == all_of(told(x509.CRL._walk, raw))


@pytest.mark.parametrize("number", range(4))
def test_each_byte_of_a_crl_is_read_as_the_thorough_way_reads_it(number: int) -> None:
    crl = crls()[number]
    for at in range(len(crl) - 60):
        for octet in (0x00, 0x17, 0x30, 0x80, 0x82, crl[at] ^ 0x01):
            spoiled = crl[:at] + bytes((octet,)) + crl[at + 1 :]
            assert all_of(told(x509.CRL.parse, spoiled)) == all_of(told(x509.CRL._walk, spoiled))


def test_crls_as_issued_take_the_quick_way() -> None:
    assert None not in [as_issued.read_crl(raw) for raw in crls()]


# --- TCB Info and QE identities


@functools.cache
def documents() -> list[tuple[type[intel.TCBInfo | intel.QEIdentity], bytes]]:
    """What a simulator issues, which is spelled as Intel's are."""
    model = PlatformModel()
    infos = [(intel.TCBInfo, compact(make(model, issued=NOW))) for make in (tcb_info, tdx_tcb_info)]
    identities = [(intel.QEIdentity, compact(make(model, issued=NOW))) for make in (qe_identity, td_qe_identity)]
    return [*infos, *identities]


def read_quickly(kind: type, raw: bytes) -> object:
    read = documents_as_issued.read_tcb_info if kind is intel.TCBInfo else documents_as_issued.read_qe_identity
    return read(raw)


FRAGMENTS: Final = [
    *(bytes((octet,)) for octet in b'"\\{}[],: \n\0\xff'),
    *b"\xc3\xa9 0 00 -1 1e1 256 65536 true null 2 ,1 [] {}".split(),
    *b'"x":1, "svn":0, {"svn":0}, "advisoryIDs":[], "TDX" "UpToDate" "Unknown" "INTEL-SA-00001", ""'.split(),
    *b'"2026-02-30T00:00:00Z" "2026-02-11T24:00:00Z"'.split(),
]


@st.composite
def edited(draw: st.DrawFn) -> tuple[Any, bytes]:
    """A document in which up to two pieces were put in, or in the place of what stood there."""
    kind, raw = draw(st.sampled_from(documents()))
    for _ in range(draw(st.integers(0, 2))):
        # Numbers, texts and the borders between members, so that most of what comes out is still JSON.
        places = draw(st.sampled_from([rb"\d+", rb'"[^"]*"', rb"[\[{,:]", rb"[\]}]", rb"."]))
        found = draw(st.sampled_from(list(re.finditer(places, raw))))
        piece = draw(st.sampled_from(FRAGMENTS))
        keeps = draw(st.sampled_from([b"", found[0]]))
        raw = raw[: found.start()] + keeps + piece + raw[found.end() :]
    return kind, raw


@given(edited())
@settings(max_examples=600)
def test_the_quick_reading_of_a_document_is_the_thorough_one(document: tuple[Any, bytes]) -> None:
    kind, raw = document
    assert told(kind.parse, raw) == told(kind._walk, raw)


@given(st.data())
@settings(max_examples=300)
def test_a_changed_byte_of_a_document_is_read_as_the_thorough_way_reads_it(data: st.DataObject) -> None:
    kind, raw = data.draw(st.sampled_from(documents()))
    spoiled = flipped(raw, data)
    assert told(kind.parse, spoiled) == told(kind._walk, spoiled)


def moved(document: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the document with this member as its last."""
    return {**{key: value for key, value in document.items() if key != name}, name: document[name]}


@pytest.mark.parametrize(
    "change",
    [
        lambda levels: levels[:1] * 2,
        lambda levels: levels * 300,
        lambda _: [],
        lambda levels: [{**levels[0], "advisoryIDs": []}, *levels[1:]],
        lambda levels: [{**levels[0], "advisoryIDs": ["A" * 65]}, *levels[1:]],
        lambda levels: [{**levels[0], "advisoryIDs": [f"A-{number}" for number in range(65)]}, *levels[1:]],
        lambda levels: [{**levels[0], "advisoryIDs": [f"A-{number}" for number in range(257)]}, *levels[1:]],
        lambda levels: [{**levels[0], "advisoryIDs": ["A", "A"]}, *levels[1:]],
        lambda levels: [moved(levels[0], "tcb"), *levels[1:]],
        lambda levels: [{**levels[0], "tcbStatus": "TDRelaunchAdvised"}, *levels[1:]],
        lambda levels: [{**levels[0], "more": 1}, *levels[1:]],
    ],
)
@pytest.mark.parametrize("number", range(4))
def test_levels_in_any_shape_are_read_as_the_thorough_way_reads_them(
    number: int, change: Callable[[list[Any]], list[Any]]
) -> None:
    kind, raw = documents()[number]
    document = json.loads(raw)
    changed = compact({**document, "tcbLevels": change(document["tcbLevels"])})
    assert told(kind.parse, changed) == told(kind._walk, changed)


def test_components_of_any_kind_are_read_as_the_thorough_way_reads_them() -> None:
    kind, raw = documents()[1]
    for before, after in (
        (b'"type":"Early Microcode Update"', b'"type":""'),
        (b'"category":"BIOS",', b""),
        (b'"category":"BIOS"', b'"category":"%b"' % (b"k" * 64)),
        (b'"category":"BIOS"', b'"category":"%b"' % (b"k" * 65)),
        (b'"type":"TDX Module"', b'"type":"a\\"b"'),
        (b'"svn":', b'"svn":1'),
        (b'"svn":', b'"svn":0'),
    ):
        for count in (1, 2, -1):
            changed = raw.replace(before, after, count)
            assert changed != raw
            assert told(kind.parse, changed) == told(kind._walk, changed)


def test_documents_as_issued_take_the_quick_way() -> None:
    real = [
        (kind, body)
        for path in sorted((ROOT / "cases").glob("*.collateral.json"))
        for collateral in [Collateral.from_json(path.read_bytes())]
        for kind, body in ((intel.TCBInfo, collateral.tcb_info), (intel.QEIdentity, collateral.qe_identity))
        # TCB Info of version 2 is issued no more.
        if b'"id"' in body
    ]
    for kind, raw in [*documents(), *real]:
        assert read_quickly(kind, raw) is not None
        assert kind.parse(raw) == kind._walk(raw)
