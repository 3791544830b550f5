"""Whom a cache has certificates of, and until when: counted when the store has changed, and not at each look."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509

from eaa.pccs.store import Store

MAX_CERTIFICATES_READ: Final = 100_000
"""Certificates whose end is read for one census, one after the other: that takes a second, and a million would ten."""
_DER: Final = b"\x30"

Model = tuple[str, str]
"""A root and an FMSPC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """The PCK certificates of one model."""

    count: int
    read: int
    """How many of them `ends` is of."""
    ends: datetime | None
    """When the one that ends first does; None where none can be read."""

    def days_left(self, now: datetime) -> int | None:
        """How many whole days all of those that were read have; negative past an end."""
        return None if self.ends is None else math.floor((self.ends - now) / timedelta(days=1))


NO_CERTIFICATES: Final = Certificates(count=0, read=0, ends=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """Counting a million platforms takes seconds."""

    platforms: Mapping[Model, int]
    """How many there are."""
    certificates: Mapping[Model, Certificates]
    tcbms: Mapping[str, Mapping[str, Mapping[str, int]]]
    """How many TCBs, by root, FMSPC and TCBm."""

    @classmethod
    def take(cls, store: Store) -> Census:
        """Count those of a store."""
        return cls(
            platforms=store.fleet_size(),
            certificates=dict(_certificates(store)),
            tcbms={pki.root: store.fleet_tcbs(pki.root) for pki in store.pkis()},
        )


def _certificates(store: Store) -> Iterator[tuple[Model, Certificates]]:
    """Read every model's share of what may be read; small models come first, and leave the rest to the others."""
    counted = sorted(store.certificate_counts().items(), key=lambda item: (item[1], item[0]))
    left = MAX_CERTIFICATES_READ
    for index, (model, count) in enumerate(counted):
        share = min(count, left // (len(counted) - index))
        left -= share
        root, fmspc = model
        ends = [_end(each) for each in store.certificates(root, fmspc, limit=share)]
        known = [end for end in ends if end is not None]
        yield model, Certificates(count=count, read=len(known), ends=min(known, default=None))


def _end(kept: bytes) -> datetime | None:
    """Return when a certificate ends, by the library: nothing else of it is wanted. None of what is none."""
    try:
        load = x509.load_der_x509_certificate if kept.startswith(_DER) else x509.load_pem_x509_certificate
        return load(kept).not_valid_after_utc
    except ValueError:
        return None
