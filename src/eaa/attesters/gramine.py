"""Evidence inside Gramine, through its pseudo-files under /dev/attestation.

Source: Gramine's documentation "Attestation and Secret Provisioning", and libos/src/fs/dev/attestation.c.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

from eaa.attesters.quoted import finished_quote, require_report_data
from eaa.errors import Reason, Unavailable
from eaa.evidence.quote import MAX_QUOTE_SIZE

_MAX_TYPE: Final = 64
"""Bytes of attestation_type; the longest known word has four letters."""


class GramineAttester:
    """Quotes of the Gramine enclave this process runs in.

    The pseudo-files are one state for the whole process and not safe for threads: one lock covers writing the report
    data and reading the quote.
    """

    name = "gramine"
    tee = "sgx"

    def __init__(self, base: Path) -> None:
        """Use the pseudo-files under `base`, /dev/attestation in Gramine. Nothing is read yet."""
        self._base = base
        self._lock = threading.Lock()

    def absence(self) -> str | None:
        """Return why no DCAP quote can be had here, or None when it can."""
        path = self._base / "attestation_type"
        try:
            with path.open("rb") as file:
                kind = file.read(_MAX_TYPE).decode("ascii", "replace").strip()
        except OSError as error:
            return f"Gramine's {path}: {error.strerror}"
        return None if kind == "dcap" else f"Gramine's {path} says {kind!r}, not 'dcap'"

    def quote(self, report_data: bytes) -> bytes:
        """Return a quote over these 64 bytes. Raises Unavailable (QUOTE_UNAVAILABLE)."""
        require_report_data(report_data)
        try:
            with self._lock:
                self._write_report_data(report_data)
                raw = self._read_quote()
        except OSError as error:
            # Gramine makes the quote when the file is opened, so that its failures look like those of open.
            raise Unavailable(
                Reason.QUOTE_UNAVAILABLE,
                f"Gramine gives no quote ({error.filename or self._base}): {error.strerror}",
                hint="check the host's AESM service and its quote provider, and sgx.remote_attestation in the manifest",
            ) from error
        return finished_quote(raw, report_data=report_data, source="Gramine")

    def _write_report_data(self, report_data: bytes) -> None:
        # Every write replaces the whole value and pads it with zeros: exactly one unbuffered write will do.
        descriptor = os.open(self._base / "user_report_data", os.O_WRONLY)
        try:
            written = os.write(descriptor, report_data)
        finally:
            os.close(descriptor)
        if written != len(report_data):
            raise Unavailable(
                Reason.QUOTE_UNAVAILABLE, f"Gramine took {written} of {len(report_data)} bytes of report data"
            )

    def _read_quote(self) -> bytes:
        # The content is a snapshot made by open: a file kept open would serve an old quote for ever.
        with (self._base / "quote").open("rb", buffering=0) as file:
            chunks = bytearray()
            while len(chunks) <= MAX_QUOTE_SIZE:
                chunk = file.read(MAX_QUOTE_SIZE + 1 - len(chunks))
                if not chunk:
                    break
                chunks += chunk
        return bytes(chunks)
