"""What every attester does with the bytes a platform returned: trim them, and make sure they answer the question."""

from __future__ import annotations

from eaa.errors import MalformedInput, Reason, Unavailable
from eaa.evidence.quote import Quote

REPORT_DATA_SIZE = 64
"""Bytes."""


def require_report_data(report_data: bytes) -> None:
    """Raise ValueError unless there are exactly 64 bytes: a caller's bug, and padding would change their meaning."""
    if len(report_data) != REPORT_DATA_SIZE:
        raise ValueError(f"report data has {REPORT_DATA_SIZE} bytes, {len(report_data)} were given")


def finished_quote(raw: bytes, *, report_data: bytes, source: str) -> bytes:
    """Return the quote at the start of `raw`, without the rest of the buffer it came in.

    Raises:
        Unavailable: QUOTE_UNAVAILABLE. It is no quote, or one for other report data: some interfaces drop a request
            silently and serve the answer to the one before.
    """
    try:
        quote, trailing = Quote.parse_prefix(raw)
    except MalformedInput as error:
        raise Unavailable(
            Reason.QUOTE_UNAVAILABLE,
            f"{source} returned something that is no quote: {error.message}",
            hint="check the platform's quoting service",
        ) from error
    if quote.body.report_data != report_data:
        raise Unavailable(
            Reason.QUOTE_UNAVAILABLE,
            f"{source} returned a quote for other report data than it was asked for",
            hint="something else in this enclave may be using the same interface; try again",
        )
    return raw[: len(raw) - len(trailing)]
