"""Quotes: every strict prefix is malformed and nothing else, and parsing loses nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaa.collateral.bundle import Collateral
from eaa.errors import EAAError, MalformedInput, Reason, VerificationError
from eaa.evidence import quote
from eaa.evidence.quote import HEADER_SIZE, MAX_QUOTE_SIZE, Quote, QuoteHeader, TEEType
from eaa.evidence.sgx import EnclaveReport
from eaa.evidence.tdx import TDReport
from eaa.verify.dcap import INTEL, verify_quote
from support.dcap_world import World
from support.vectors import cases, vector

WORLDS = [(TEEType.SGX, 3), (TEEType.SGX, 4), (TEEType.TDX, 4)]
REAL = [case for case in cases() if case["expect"]["tcb_status"] is not None]


@functools.cache
def made(tee: TEEType, version: int) -> bytes:
    return World(tee=tee, version=version).quote().encode()


def real(name: str) -> bytes:
    """One real quote, without what follows it."""
    quote, _ = Quote.parse_prefix(vector(name).read_bytes())
    return quote.encode()


def assert_every_strict_prefix_is_malformed(raw: bytes) -> None:
    for length in range(len(raw)):
        with pytest.raises(MalformedInput) as caught:
            Quote.parse(raw[:length])
        assert caught.value.reason in (Reason.QUOTE_MALFORMED, Reason.QUOTE_VERSION_UNSUPPORTED)


@pytest.mark.parametrize(("tee", "version"), WORLDS)
def test_every_strict_prefix_of_a_quote_is_malformed(tee: TEEType, version: int) -> None:
    assert_every_strict_prefix_is_malformed(made(tee, version))


@pytest.mark.parametrize("name", ["automata/quotev3.bin", "dcap-qvl/tdx_quote"])
def test_every_strict_prefix_of_a_real_quote_is_malformed(name: str) -> None:
    assert_every_strict_prefix_is_malformed(real(name))


@pytest.mark.parametrize(("tee", "version"), WORLDS)
@given(data=st.data())
def test_the_quick_reading_of_authentication_data_is_the_thorough_one(
    tee: TEEType, version: int, data: st.DataObject
) -> None:
    """Where all sizes fit at once, walking through them finds the same; sizes are what is changed."""
    raw = bytearray(made(tee, version))
    at = HEADER_SIZE + (EnclaveReport.SIZE if tee is TEEType.SGX else TDReport.SIZE)
    begin = at + 4 + 64 + 64 + (6 if version > 3 else 0) + EnclaveReport.SIZE + 64
    certification = begin + 2 + int.from_bytes(raw[begin : begin + 2], "little")
    sizes = [*range(at, at + 4), *range(at + 132, at + 138), begin, begin + 1, *range(certification, certification + 6)]
    for place, octet in data.draw(st.dictionaries(st.sampled_from(sizes), st.integers(0, 255), max_size=3)).items():
        raw[place] = octet
    shown = bytes(raw) + data.draw(st.binary(max_size=40))
    split = quote._split_authentication_data(shown, at, version=version)
    if split is not None:
        end, *fields = split
        assert int.from_bytes(shown[at : at + 4], "little") == end - at - 4
        assert tuple(fields) == quote._parse_authentication_data(shown[at + 4 : end], version=version)


@pytest.mark.parametrize(("tee", "version"), WORLDS)
def test_authentication_data_of_sound_quotes_takes_the_quick_way(tee: TEEType, version: int) -> None:
    raw = made(tee, version)
    at = HEADER_SIZE + (EnclaveReport.SIZE if tee is TEEType.SGX else TDReport.SIZE)
    assert quote._split_authentication_data(raw, at, version=version) is not None


def said_by(reader: Callable[[bytes], bytes], raw: bytes) -> bytes | Reason:
    try:
        return reader(raw)
    except MalformedInput as error:
        return error.reason


@given(
    world=st.sampled_from(WORLDS),
    at=st.sampled_from([0, 1, 2, 4, 12, 300, 430, 432, 434, 630, 632, 634]),
    change=st.binary(max_size=4),
    data=st.data(),
)
def test_report_data_are_read_in_their_place_as_the_thorough_way_reads_them(
    world: tuple[TEEType, int], at: int, change: bytes, data: st.DataObject
) -> None:
    raw = made(*world)
    cut = data.draw(st.one_of(st.just(len(raw)), st.integers(0, len(raw))))
    shown = (raw[:at] + change + raw[at + len(change) :])[:cut]

    def thoroughly(raw: bytes) -> bytes:
        _, body, reader = quote._parse_signed_part(raw)
        reader.sized(4, MAX_QUOTE_SIZE, "the authentication data")
        return body.report_data

    assert said_by(quote.read_report_data, shown) == said_by(thoroughly, shown)


@given(raw=st.binary(max_size=2000))
def test_junk_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedInput):
        Quote.parse(raw)


@given(world=st.sampled_from(WORLDS), at=st.integers(0, 1100), change=st.binary(min_size=1, max_size=8), data=st.data())
def test_a_changed_quote_parses_or_is_malformed(
    world: tuple[TEEType, int], at: int, change: bytes, data: st.DataObject
) -> None:
    """Lengths, types and versions are all in the first kilobyte; whatever stands there, nothing else is raised."""
    raw = made(*world)
    cut = data.draw(st.integers(at, len(raw)))
    changed = (raw[:at] + change + raw[at + len(change) :])[: max(cut, at)]
    try:
        quote = Quote.parse(changed)
    except MalformedInput:
        return
    assert quote.encode() + bytes(quote.padding) == changed


@given(
    header=st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE),
)
def test_a_header_of_any_bytes_parses_or_is_malformed(header: bytes) -> None:
    with contextlib.suppress(MalformedInput):
        assert QuoteHeader.parse(header).encode() == header


@given(raw=st.binary(min_size=384, max_size=384))
def test_an_enclave_report_keeps_every_byte(raw: bytes) -> None:
    assert EnclaveReport.parse(raw).encode() == raw


@given(raw=st.binary(min_size=584, max_size=584))
def test_a_td_report_keeps_every_byte(raw: bytes) -> None:
    assert TDReport.parse(raw).encode() == raw


@given(
    world=st.sampled_from(WORLDS),
    auth_data=st.binary(max_size=100),
    certification_data=st.binary(max_size=100),
    kind=st.integers(0, 0xFFFF),
    padding=st.integers(0, 100),
)
def test_parse_and_encode_are_inverse(
    world: tuple[TEEType, int], auth_data: bytes, certification_data: bytes, kind: int, padding: int
) -> None:
    quote = dataclasses.replace(
        Quote.parse(made(*world)),
        qe_auth_data=auth_data,
        certification_data=certification_data,
        certification_data_type=kind,
        padding=padding,
    )
    assert Quote.parse(quote.encode() + bytes(padding)) == quote


@given(world=st.sampled_from(WORLDS), trailing=st.binary(min_size=1, max_size=50))
def test_what_follows_a_quote_is_zeros_or_refused(world: tuple[TEEType, int], trailing: bytes) -> None:
    raw = made(*world)
    quote, rest = Quote.parse_prefix(raw + trailing)
    assert (quote.encode(), rest) == (raw, trailing)
    if trailing.strip(b"\0"):
        with pytest.raises(MalformedInput) as caught:
            Quote.parse(raw + trailing)
        assert caught.value.reason is Reason.QUOTE_TRAILING_BYTES
    else:
        assert Quote.parse(raw + trailing).padding == len(trailing)


def test_an_oversized_quote_is_refused_unread() -> None:
    with pytest.raises(MalformedInput) as caught:
        Quote.parse(made(TEEType.SGX, 3) + bytes(MAX_QUOTE_SIZE))
    assert caught.value.reason is Reason.QUOTE_MALFORMED


@given(index=st.integers(0, max(len(REAL) - 1, 0)), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_bit_of_a_real_quote_can_be_changed(index: int, where: float, bit: int) -> None:
    """Everything in a quote is signed or bound. Only the spelling of PEM around a certificate is free."""
    vector("cases.json")
    case = REAL[index]
    raw = bytearray(real(case["quote"]))
    raw[int(where * len(raw))] ^= 1 << bit
    collateral = Collateral.from_json(vector(case["collateral"]).read_bytes())
    now = datetime.fromisoformat(case["at"])
    before = verify_quote(Quote.parse(real(case["quote"])), collateral, trust_anchors=INTEL, now=now)
    try:
        after = verify_quote(Quote.parse(bytes(raw)), collateral, trust_anchors=INTEL, now=now)
    except (MalformedInput, VerificationError):
        return
    assert after.quote.signed_bytes == before.quote.signed_bytes
    assert dataclasses.replace(after, quote=before.quote) == before


@given(data=st.binary(max_size=300), kind=st.integers(0, 8))
def test_certification_data_of_any_bytes_is_refused(data: bytes, kind: int) -> None:
    world = World()
    quote = dataclasses.replace(
        Quote.parse(made(TEEType.SGX, 3)), certification_data=data, certification_data_type=kind
    )
    with pytest.raises(EAAError) as caught:
        verify_quote(quote, GOOD_COLLATERAL, trust_anchors=world.trust_anchors, now=world.now)
    assert caught.value.exit_code == 3


GOOD_COLLATERAL = World().collateral()
