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

from eaa.evidence.quote import BODY_DESCRIPTOR_SIZE, BODY_TYPES, ECDSA_P256, HEADER_SIZE, Body, Quote, TEEType
from eaa.evidence.sgx import EnclaveReport
from eaa.evidence.tdx import TDReport
from eaa.records import filler

_REPORT_DATA_SIZE: Final = 64
_SIZE_AND_SIGNATURE: Final = (4, 64)
"""What stands between that which is signed and the attestation key."""
_ATTESTATION_KEY_SIZE: Final = 64
_KIND: Final = slice(8)
"""Version, attestation key type, and kind of TEE."""
_DESCRIPTOR: Final = slice(HEADER_SIZE, HEADER_SIZE + BODY_DESCRIPTOR_SIZE)


class _Copier:
    """Makes records of one class that have most values in common."""

    def __init__(self, kind: type[Any], *, but: tuple[str, ...]) -> None:
        common = [item.name for item in fields(kind) if item.name not in but]
        self.common_of: Callable[[object], tuple[object, ...]] = attrgetter(*common)
        self.make: Callable[[Iterable[object]], Any] = filler(kind, [*common, *but])
        """Takes the common values, and then those of the fields that were named."""


_QUOTES: Final = _Copier(Quote, but=("body", "signature", "padding", "signed_bytes", "raw"))
_BODIES: Final = {body: _Copier(body, but=("report_data",)) for body in BODY_TYPES}


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the parts of a quote begin."""

    report_data: int
    authentication_data: int

    @classmethod
    def of(cls, body: type[Body], *, version: int) -> Self:
        begin = HEADER_SIZE + (BODY_DESCRIPTOR_SIZE if version == _DESCRIBES_BODY else 0)
        # The report data are the end of the reports that the newer kinds continue.
        first = EnclaveReport if body is EnclaveReport else TDReport
        return cls(begin + first.SIZE - _REPORT_DATA_SIZE, begin + body.SIZE)


_DESCRIBES_BODY: Final = 5
"""The version that says of what kind its body is."""


def _all_places() -> dict[bytes, _Places]:
    """Return the places by what tells them: kind, and where there is one, the descriptor of the body."""
    found: dict[bytes, _Places] = {}
    for body, number in BODY_TYPES.items():
        tee = TEEType.SGX if body is EnclaveReport else TEEType.TDX
        for version in (3, 4, _DESCRIBES_BODY):
            kind = struct.pack("<H H I", version, ECDSA_P256, tee)
            if version == _DESCRIBES_BODY:
                found[kind + struct.pack("<H I", number, body.SIZE)] = _Places.of(body, version=version)
            elif body is EnclaveReport or (body is TDReport and version == 4):
                found[kind] = _Places.of(body, version=version)
    return found


_PLACES: Final = _all_places()


def name_of_enclave(raw: bytes) -> bytes:
    """Return what tells the quotes of one enclave on one machine from all others; nothing of bytes that are no quote.

    That is everything in front of the report data, and the attestation key. Nothing of it was verified.
    """
    places = _PLACES.get(raw[_KIND]) or _PLACES.get(raw[_KIND] + raw[_DESCRIPTOR])
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
        places = _Places.of(body, version=quote.header.version)
        size, signature = _SIZE_AND_SIGNATURE
        between = places.authentication_data + size - places.report_data - _REPORT_DATA_SIZE
        behind = len(raw) - places.authentication_data - size - signature
        layout = struct.Struct(f"{places.report_data}s {_REPORT_DATA_SIZE}s {between}s {signature}s {behind}s")
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
