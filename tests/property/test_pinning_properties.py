"""Pins of machines: whatever is seen in whatever order, the first stays, and what was kept reads back."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from eaa.appraise.appraisal import appraise
from eaa.appraise.platforms import ID_SIZES, Pin, PinKey, PlatformID, PlatformIDKind, PlatformPins, platform_ids
from eaa.appraise.policy import Policy
from eaa.appraise.reference_values import ReferenceValues
from eaa.appraise.result import Accepted, Role
from eaa.errors import Misuse
from eaa.verify.dcap import VerifiedQuote
from support.facts import NOW, ROOT, reference_value, verified

KEY: Final[PinKey] = (ROOT, Role.WORKLOAD, "app")
VALUES: Final = ReferenceValues((reference_value(),))


@st.composite
def ids(draw: st.DrawFn) -> PlatformID:
    kind = draw(st.sampled_from(PlatformIDKind))
    size = ID_SIZES[kind]
    return PlatformID(kind, draw(st.binary(min_size=size, max_size=size).filter(any)))


moments = st.datetimes(datetime(2000, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda when: when.replace(microsecond=0)
)
pins = st.builds(Pin, ids=st.lists(ids(), min_size=1, max_size=3).map(tuple), since=moments)
keys = st.tuples(st.binary(min_size=32, max_size=32), st.sampled_from(Role), st.text("abc", max_size=2))


@given(ids())
def test_an_id_reads_back(one: PlatformID) -> None:
    assert PlatformID.parse(str(one)) == one


@given(st.text(max_size=60) | st.from_regex(r"(ppid|instance|chip):[0-9a-fA-F]{30,34}", fullmatch=True))
def test_any_text_is_an_id_of_its_size_or_none(text: str) -> None:
    try:
        one = PlatformID.parse(text)
    except ValueError:
        return
    assert len(one.value) == ID_SIZES[one.kind]
    assert any(one.value)
    assert str(one) == text.lower()


@given(st.dictionaries(keys, pins, max_size=6))
def test_whatever_was_kept_reads_back(kept: Mapping[PinKey, Pin]) -> None:
    assert PlatformPins.parse(PlatformPins(kept).encode()).pins == kept


@given(st.text(max_size=200))
def test_any_text_is_pins_or_misuse(text: str) -> None:
    with contextlib.suppress(Misuse):
        assert PlatformPins.parse(text) == PlatformPins()


@given(st.lists(st.tuples(st.sampled_from(Role), pins), max_size=12))
def test_the_first_stays_whatever_comes_later(seen: list[tuple[Role, Pin]]) -> None:
    kept, first = PlatformPins(), dict[PinKey, Pin]()
    for role, pin in seen:
        key = (ROOT, role, "app")
        first.setdefault(key, pin)
        kept = kept.with_first(key, pin)
        assert kept.pins == first


machines = st.builds(
    lambda ppid, instance: verified(ppid=ppid, platform_instance_id=instance),
    st.sampled_from([bytes(16), b"\1" + bytes(15), b"\2" * 16]),
    st.sampled_from([None, bytes(16), b"\3" * 16, b"\4" * 16]),
)


@given(machines, st.lists(st.sampled_from([b"\1" + bytes(15), b"\2" * 16, b"\3" * 16]), min_size=1, max_size=3))
def test_a_listed_machine_is_one_that_shares_an_id_with_the_list(facts: VerifiedQuote, values: list[bytes]) -> None:
    """Whatever else is said of it."""
    kinds = (PlatformIDKind.PPID, PlatformIDKind.INSTANCE)
    allowed = tuple(PlatformID(kind, value) for value in values for kind in kinds)
    result = appraise(
        facts,
        policy=Policy(platforms=allowed),
        reference_values=VALUES,
        role=Role.WORKLOAD,
        session=None,
    )
    shared = set(platform_ids(facts)) & set(allowed)
    assert isinstance(result, Accepted) == bool(shared)


@given(machines, machines)
def test_a_pinned_machine_is_held_to_every_id_it_had(first: VerifiedQuote, later: VerifiedQuote) -> None:
    here = platform_ids(first)
    there = platform_ids(later)
    kept = PlatformPins({KEY: Pin(ids=here, since=NOW)} if here else {})
    result = appraise(
        later,
        policy=Policy(),
        reference_values=VALUES,
        role=Role.WORKLOAD,
        session=None,
        pins=kept,
    )
    assert isinstance(result, Accepted) == (bool(there) and set(here) <= set(there))
