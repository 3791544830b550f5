"""A quote that was parsed keeps its bytes; one that was put together or changed has none to show."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest

from eaa.errors import MalformedInput, Reason
from eaa.evidence.quote import Quote
from eaa.verify.dcap import parse_pck_chain
from support.dcap_world import World


@pytest.fixture(scope="module")
def made() -> Quote:
    return World().quote()


def test_a_parsed_quote_keeps_its_bytes_without_what_follows(made: Quote) -> None:
    raw = made.encode()
    assert made.raw is None
    assert Quote.parse(raw).raw == raw
    assert Quote.parse(raw + bytes(70)).raw == raw
    assert Quote.parse_prefix(raw + b"claims")[0].raw == raw


def test_the_bytes_are_no_part_of_what_makes_two_quotes_equal(made: Quote) -> None:
    parsed = Quote.parse(made.encode())
    assert parsed == made
    assert hash(parsed) == hash(made)
    assert "raw" not in repr(parsed)


def test_no_constructor_takes_the_bytes(made: Quote) -> None:
    changes: dict[str, Any] = {"raw": b"other bytes"}
    with pytest.raises((TypeError, ValueError)):
        replace(made, **changes)


def test_a_changed_quote_has_lost_its_bytes(made: Quote) -> None:
    parsed = Quote.parse(made.encode())
    changed = replace(parsed, body=replace(parsed.body, report_data=bytes(64)))
    assert changed.raw is None
    with pytest.raises(MalformedInput) as caught:
        parse_pck_chain(changed)
    assert caught.value.reason is Reason.QUOTE_MALFORMED


def test_a_quote_travels_between_processes_with_its_bytes(made: Quote) -> None:
    parsed = Quote.parse(made.encode())
    travelled = pickle.loads(pickle.dumps(parsed))
    assert (travelled, travelled.raw) == (parsed, parsed.raw)
