"""The certificate that is served, and its replacement while requests go on.

A certificate of an operator's is watched: whoever renews it puts new files in place, and may say so with SIGHUP. One of
our own is renewed here when its end is near. Files that do not go together, or cannot be read, are not taken: the one
that is there is served on, and the log says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

from cryptography import x509

from eaa.errors import EAAError
from eaa.pccs.certificates import own_certificate
from eaa.pccs.http_engine import MAX_PEM, TLSFiles
from eaa.program.files import stamp_of

WATCH_INTERVAL: Final = 5.0
"""Seconds between two looks at the files."""
RENEWAL_INTERVAL: Final = 3600.0
"""Seconds between two looks whether a certificate of our own is to be renewed."""
_log = logging.getLogger(__name__)

Stamp = tuple[tuple[int, ...] | None, ...]


class Certificate(Protocol):
    """A certificate with its key, in files."""

    @property
    def files(self) -> TLSFiles:
        """Where they lie."""
        ...

    def renew(self) -> None:
        """Put a new one in place where that is due. Raises Misuse."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenCertificate:
    """An operator's, who renews it."""

    certificate: Path
    key: Path

    @property
    def files(self) -> TLSFiles:
        """Where they lie."""
        return TLSFiles(certificate=self.certificate, key=self.key)

    def renew(self) -> None:
        """Do nothing."""


@dataclass(slots=True, kw_only=True)
class OwnCertificate:
    """One of our own: made where it is missing, and renewed by us."""

    folder: Path
    names: tuple[str, ...]
    """By which clients call the service."""
    clock: Callable[[], datetime]
    files: TLSFiles = field(init=False)

    def __post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Put a new one in place where that is due. Raises Misuse (FILE_UNREADABLE)."""
        own = own_certificate(self.folder, names=self.names, now=self.clock())
        self.files = TLSFiles(certificate=own.certificate, key=own.key)
        if own.made:
            _log.info(
                "a TLS certificate for %s was made; clients trust %s",
                ", ".join(self.names),
                own.ca,
                extra={"event": "pccs.certificate_made"},
            )


def expiry_of(files: TLSFiles) -> datetime | None:
    """Return when the leaf in these files ends; None where it cannot be read."""
    try:
        with files.certificate.open("rb") as stream:
            return x509.load_pem_x509_certificate(stream.read(MAX_PEM)).not_valid_after_utc
    except (OSError, ValueError):
        return None


@contextlib.asynccontextmanager
async def watching(serving: Any, certificate: Certificate | None) -> AsyncIterator[None]:
    """Have a replaced certificate served, for the duration of a block.

    Args:
        serving: is started anew with a new certificate, see `eaa.pccs.server.Serving`.
        certificate: what is served; None for plain http, of which there is nothing to watch.
    """
    loop = asyncio.get_running_loop()
    called = asyncio.Event()
    # Always: unhandled, the signal would end the service.
    loop.add_signal_handler(signal.SIGHUP, called.set)
    if certificate is None:
        yield
        return
    task = loop.create_task(_watch(serving, certificate, called))
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _watch(serving: Any, certificate: Certificate, called: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    served, renewed = _stamp(certificate.files), loop.time()
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WATCH_INTERVAL):
                await called.wait()
        is_told, now = called.is_set(), loop.time()
        called.clear()
        try:
            if is_told or now - renewed > RENEWAL_INTERVAL:
                renewed = now
                await asyncio.to_thread(certificate.renew)
            found = _stamp(certificate.files)
            if found == served and not is_told:
                continue
            served = found
            serving.start(certificate.files)
        except EAAError as error:
            _log.error(
                "the certificate is not replaced: %s [%s]",
                error.message,
                error.reason,
                extra={"event": "pccs.certificate_kept"},
            )
        else:
            end = expiry_of(certificate.files)
            _log.info(
                "the TLS certificate was replaced; the new one ends at %s",
                end and f"{end:%Y-%m-%dT%H:%M:%SZ}",
                extra={"event": "pccs.certificate_replaced"},
            )


def _stamp(files: TLSFiles) -> Stamp:
    return tuple(stamp_of(path) for path in (files.certificate, files.key))
