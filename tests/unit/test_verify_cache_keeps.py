"""What a cache of verification keeps and drops, entry by entry: bounds, order, and both ends of a validity."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import pytest

from eaa.collateral.bundle import Collateral
from eaa.collateral.x509 import Certificate
from eaa.errors import Misuse
from eaa.evidence.quote import TEEType
from eaa.verify import cache as cache_room
from eaa.verify.cache import VerificationCache, _Store, _Validity
from support.cache_world import MINUTE, NOW, Machine, Vendor

SECOND: Final = timedelta(seconds=1)
BEGINS: Final = NOW - MINUTE
"""When the documents of `collateral` were issued."""


@pytest.fixture
def vendor() -> Vendor:
    return Vendor("A")


@pytest.fixture
def collateral(vendor: Vendor) -> Collateral:
    return vendor.publish(TEEType.SGX, now=NOW)


@pytest.fixture
def cache(vendor: Vendor) -> VerificationCache:
    return VerificationCache(vendor.anchors)


def base_of(cache: VerificationCache) -> Any:
    """The one collateral that is kept."""
    (entry,) = cache._collaterals._entries.values()
    return entry


# --- a store


VALIDITY: Final = _Validity(BEGINS, NOW + MINUTE)


@dataclass(frozen=True)
class Entry:
    name: str
    collateral: bytes = b"c"
    validity: _Validity = VALIDITY


def store_of(*names: str, maximum: int = 2) -> _Store[Entry]:
    store: _Store[Entry] = _Store(maximum, nullcontext())
    for name in names:
        store.keep(name.encode(), Entry(name), now=NOW)
    return store


def kept(store: _Store[Entry]) -> list[str]:
    return [entry.name for entry in store._entries.values()]


def test_what_is_kept_again_is_the_latest() -> None:
    """Two threads that establish the same at once keep it twice."""
    assert kept(store_of("a", "b", "a", "c")) == ["a", "c"]


def test_what_was_used_last_stays_longest() -> None:
    store = store_of("a", "b")
    assert store.find(b"a", collateral=b"c", now=NOW) == Entry("a")
    store.keep(b"c", Entry("c"), now=NOW)
    assert kept(store) == ["a", "c"]


@pytest.mark.parametrize(
    ("at", "is_kept"),
    [
        (BEGINS - SECOND, False),
        (BEGINS, True),
        (NOW + MINUTE, True),
        (NOW + MINUTE + SECOND, False),
    ],
)
def test_both_ends_of_a_validity_are_in_it(at: Any, is_kept: bool) -> None:  # noqa: FBT001
    store: _Store[Entry] = _Store(2, nullcontext())
    store.keep(b"a", Entry("a"), now=at)
    assert kept(store) == (["a"] if is_kept else [])
    full = store_of("a")
    assert (full.find(b"a", collateral=b"c", now=at) is not None) == is_kept


def test_what_is_over_or_rests_on_something_else_falls_when_it_is_looked_for() -> None:
    for changes in ({"collateral": b"d"}, {"now": NOW + 2 * MINUTE}):
        store = store_of("a", "b")
        asked: dict[str, Any] = {"collateral": b"c", "now": NOW, **changes}
        assert store.find(b"a", **asked) is None
        assert kept(store) == ["b"]


# --- in use


def test_what_was_issued_this_second_is_kept(cache: VerificationCache, vendor: Vendor, collateral: Collateral) -> None:
    cache.verify_quote(Machine(vendor, 1).quote(), collateral, now=BEGINS)
    assert cache.sizes["attestation_keys"] == 1


def test_no_more_ca_certificates_are_kept_than_may_be(
    cache: VerificationCache, vendor: Vendor, collateral: Collateral, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_room, "MAX_PCK_CAS", 1)
    for renewed in (False, True, False):
        for number in range(2):
            cache.verify_quote(Machine(vendor, number, under_renewed_ca=renewed).quote(), collateral, now=NOW)
    (only,) = base_of(cache).pck_cas
    assert only.serial_number == vendor.ca_serial(renewed=False)


def test_a_ca_certificate_is_parsed_once_and_no_leaf_is_kept_with_it(
    cache: VerificationCache, vendor: Vendor, collateral: Collateral, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.verify_collateral(collateral, now=NOW)
    before = set(base_of(cache).certificates)
    parsed: list[bytes] = []
    parse = Certificate.parse

    def counting(raw: bytes) -> Certificate:
        parsed.append(raw)
        return parse(raw)

    monkeypatch.setattr(Certificate, "parse", counting)
    machines = [Machine(vendor, number, under_renewed_ca=True) for number in range(3)]
    for machine in machines:
        cache.verify_quote(machine.quote(), collateral, now=NOW)
    (added,) = set(base_of(cache).certificates) - before
    ca = base_of(cache).certificates[added]
    assert ca.serial_number == vendor.ca_serial(renewed=True)
    assert parsed.count(ca.der) == 1
    assert [parsed.count(machine.certificate.der()) for machine in machines] == [1, 1, 1]


def test_a_time_without_a_zone_is_misuse_for_a_collateral_that_is_known(
    cache: VerificationCache, collateral: Collateral
) -> None:
    cache.verify_collateral(collateral, now=NOW)
    with pytest.raises(Misuse):
        cache.verify_collateral(collateral, now=NOW.replace(tzinfo=None))
    with pytest.raises(Misuse):
        cache.verify_collateral(collateral, now=NOW, grace=-SECOND)


def test_no_more_levels_are_kept_than_may_be(
    cache: VerificationCache, vendor: Vendor, collateral: Collateral, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_room, "MAX_LEVELS", 1)
    for number in range(3):
        cache.verify_quote(Machine(vendor, number, svn=4 + number).quote(), collateral, now=NOW)
    assert len(base_of(cache).levels) == 1


def test_a_collateral_makes_room_when_it_is_over_and_not_before(cache: VerificationCache, vendor: Vendor) -> None:
    first = vendor.publish(TEEType.SGX, now=NOW, days=1)
    cache.verify_collateral(first, now=NOW)
    over = min(entry.validity.ends for entry in cache._collaterals._entries.values())
    cache.verify_collateral(vendor.publish(TEEType.SGX, now=over), now=over)
    assert cache.sizes["collaterals"] == 2
    cache.verify_collateral(vendor.publish(TEEType.SGX, now=over + SECOND), now=over + SECOND)
    assert cache.sizes["collaterals"] == 2
    assert first.digest not in cache._collaterals._entries
