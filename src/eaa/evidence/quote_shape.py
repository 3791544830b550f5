"""The shape of quotes: all of their bytes but report data and signature, so that those of one enclave are parsed once.

An enclave, or a trust domain, that asks its machine for one quote after another gets the same bytes each time, but for
the report data, which it chose, and the signature of the attestation key. `Quote.parse` asks nothing of either: they
are 64 bytes each, whatever stands there. So a quote that has every other byte in common with one that was parsed is
parsed by putting these two in their place.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Final, Self

from eaa.evidence.quote import BODY_TYPES, REPORT_DATA_SIZE, Body, Places, Quote, places_in
from eaa.records import filler

_SIZE_AND_SIGNATURE: Final = (4, 64)
"""What stands between that which is signed and the attestation key."""
_ATTESTATION_KEY_SIZE: Final = 64


class _Copier:
    """Makes records of one class that have most values in common."""

    def __init__(self, kind: type[Any], *, but: tuple[str, ...]) -> None:
        common = [item.name for item in fields(kind) if item.name not in but]
        self.common_of: Callable[[object], tuple[object, ...]] = attrgetter(*common)
        self.make: Callable[[Iterable[object]], Any] = filler(kind, [*common, *but])
        """Takes the common values, and then those of the fields that were named."""


_QUOTES: Final = _Copier(Quote, but=("body", "signature", "padding", "signed_bytes", "raw"))
_BODIES: Final = {body: _Copier(body, but=("report_data",)) for body in BODY_TYPES}


def name_of_enclave(raw: bytes) -> bytes:
    """Return what tells the quotes of one enclave on one machine from all others; nothing of bytes that are no quote.

    That is everything in front of the report data, and the attestation key. Nothing of it was verified.
    """
    places = places_in(raw)
    if places is None:
        return b""
    key = places.authentication_data + sum(_SIZE_AND_SIGNATURE)
    return raw[: places.report_data] + raw[key : key + _ATTESTATION_KEY_SIZE]


@dataclass(frozen=True, slots=True)
class QuoteShape:
    """What the quotes of one enclave on one machine have in common, and where the rest is."""

    layout: struct.Struct
    """In front of the report data; report data; up to the signature; signature; and what is behind it."""
    common: tuple[bytes, bytes, bytes]
    signed_size: int
    body: type[Body]
    of_quote: tuple[object, ...]
    """Values that all these quotes share."""
    of_body: tuple[object, ...]
    """Values that their bodies share."""

    @classmethod
    def of(cls, quote: Quote, raw: bytes) -> Self:
        """Return the shape of a quote.

        Args:
            quote: one that was parsed.
            raw: its `raw`.
        """
        body = type(quote.body)
        places = Places.of(body, version=quote.header.version)
        size, signature = _SIZE_AND_SIGNATURE
        between = places.authentication_data + size - places.report_data - REPORT_DATA_SIZE
        behind = len(raw) - places.authentication_data - size - signature
        layout = struct.Struct(f"{places.report_data}s {REPORT_DATA_SIZE}s {between}s {signature}s {behind}s")
        front, _, middle, _, back = layout.unpack(raw)
        return cls(
            layout=layout,
            common=(front, middle, back),
            signed_size=places.authentication_data,
            body=body,
            of_quote=_QUOTES.common_of(quote),
            of_body=_BODIES[body].common_of(quote.body),
        )

    def parse(self, raw: bytes) -> Quote | None:
        """Return what `Quote.parse` makes of these bytes, if they have this shape; None otherwise."""
        if len(raw) != self.layout.size:
            return None
        front, report_data, middle, signature, back = self.layout.unpack(raw)
        if (front, middle, back) != self.common:
            return None
        body = _BODIES[self.body].make((*self.of_body, report_data))
        # As long as the quote is, there is no padding.
        quote: Quote = _QUOTES.make((*self.of_quote, body, signature, 0, raw[: self.signed_size], raw))
        return quote
