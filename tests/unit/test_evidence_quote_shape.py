"""Quotes that are parsed by the shape of another one: what comes out is what `Quote.parse` makes of the same bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaa.evidence.quote import BODY_TYPES, Body, BodyType, Quote, TEEType
from eaa.evidence.quote_shape import QuoteShape, name_of_enclave
from eaa.evidence.sgx import EnclaveReport
from eaa.evidence.tdx import TDReport15Extended
from support.dcap_world import World, td_report, td_report_15

REPORTS: tuple[Body, ...] = (
    World().body,
    td_report(),
    td_report_15(td_report()),
    TDReport15Extended.parse(bytes(at % 251 for at in range(885))),
)


def quoted(version: int, body: Body) -> Quote:
    """A quote of this report."""
    world = World(version=version, tee=TEEType.SGX if isinstance(body, EnclaveReport) else TEEType.TDX)
    world.body = body
    return Quote.parse(world.quote().encode())


QUOTES = {
    f"version {version}, {BODY_TYPES[type(body)].name}": quoted(version, body)
    for version, bodies in ((3, REPORTS[:1]), (4, REPORTS[:2]), (5, REPORTS))
    for body in bodies
}
every_quote = pytest.mark.parametrize("quote", QUOTES.values(), ids=QUOTES)


def shown_by(quote: Quote) -> bytes:
    assert quote.raw is not None
    return quote.raw


def another_of(quote: Quote, report_data: bytes, signature: bytes) -> bytes:
    """What the same enclave would show with other report data."""
    raw, end = shown_by(quote), len(quote.signed_bytes)
    body, first = len(raw[:end]) - quote.body.SIZE, 320 if BODY_TYPES[type(quote.body)] is BodyType.SGX_REPORT else 520
    at = body + first
    return raw[:at] + report_data + raw[at + 64 : end + 4] + signature + raw[end + 68 :]


@every_quote
@given(report_data=st.binary(min_size=64, max_size=64), signature=st.binary(min_size=64, max_size=64))
def test_a_quote_of_this_shape_is_what_the_parser_makes_of_it(
    quote: Quote, report_data: bytes, signature: bytes
) -> None:
    shape, raw = QuoteShape.of(quote, shown_by(quote)), another_of(quote, report_data, signature)
    parsed = shape.parse(raw)
    assert parsed is not None
    assert (parsed, repr(parsed), parsed.raw) == (Quote.parse(raw), repr(Quote.parse(raw)), raw)
    assert (parsed.body.report_data, parsed.signature) == (report_data, signature)
    assert parsed.encode() == raw


@every_quote
@given(data=st.data())
def test_one_other_byte_anywhere_else_is_another_shape(quote: Quote, data: st.DataObject) -> None:
    raw = shown_by(quote)
    shape = QuoteShape.of(quote, raw)
    at = data.draw(st.integers(0, len(raw) - 1))
    changed = raw[:at] + bytes([raw[at] ^ data.draw(st.integers(1, 255))]) + raw[at + 1 :]
    parsed = shape.parse(changed)
    if parsed is not None:
        assert parsed == Quote.parse(changed)
        assert changed[at] in (*parsed.body.report_data, *parsed.signature)


@every_quote
def test_nothing_shorter_or_longer_has_the_shape(quote: Quote) -> None:
    raw = shown_by(quote)
    shape = QuoteShape.of(quote, raw)
    assert [shape.parse(other) for other in (b"", raw[:-1], raw + b"\0", raw * 2)] == [None] * 4


def test_a_shape_learnt_of_a_padded_quote_has_no_padding() -> None:
    quote = QUOTES["version 4, TD_REPORT_10"]
    padded = Quote.parse(shown_by(quote) + bytes(70))
    parsed = QuoteShape.of(padded, shown_by(padded)).parse(shown_by(quote))
    assert (padded.padding, parsed) == (70, quote)


@every_quote
def test_an_enclave_is_named_by_its_report_and_its_attestation_key(quote: Quote) -> None:
    raw = shown_by(quote)
    name = name_of_enclave(raw)
    assert name.endswith(quote.attestation_key)
    assert name_of_enclave(another_of(quote, bytes(64), bytes(64))) == name
    assert len({name_of_enclave(shown_by(other)) for other in QUOTES.values()}) == len(QUOTES)


@given(
    raw=st.binary(max_size=80)
    | st.builds(lambda end: shown_by(QUOTES["version 4, TD_REPORT_10"])[:end], st.integers(0, 900))
)
def test_a_name_is_made_of_any_bytes_and_taken_for_nothing(raw: bytes) -> None:
    """It is looked up before anything was parsed."""
    name = name_of_enclave(raw)
    assert len(name) <= len(raw)
