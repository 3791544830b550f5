"""One request to a collateral service, and all that can be learned from it: for diagnosis, not for verification."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from eaa.errors import Reason, Unavailable
from eaa.sources.deadline import Deadline
from eaa.sources.pccs import MAX_BODY, BaseURL

TIMEOUT: Final = 10.0
"""Seconds for one request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What came back."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case."""
    body: bytes = field(repr=False)
    certificate: bytes | None = field(repr=False)
    """The server's own, DER; None for plain http."""
    tls_version: str | None


def tls_context(ca_file: Path | None, *, verify: bool) -> ssl.SSLContext:
    """Return a client's context. Raises OSError or ssl.SSLError where the CA file cannot be used."""
    context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def probe(base: BaseURL, target: str, *, context: ssl.SSLContext | None, timeout: float = TIMEOUT) -> Probed:
    """Send one GET.

    Args:
        base: the service.
        target: path and query below its root, `/sgx/certification/v4/rootcacrl` for instance.
        context: for https.
        timeout: seconds, from connecting to the last byte.

    Raises:
        Unavailable: PCCS_UNREACHABLE; the cause is the OSError or ssl.SSLError.
    """
    parts = urlsplit(base.root)
    with Deadline(timeout) as deadline:
        connection = _connection(parts.scheme, parts.hostname or "", parts.port, context, timeout)
        try:
            connection.connect()
            sock: socket.socket = connection.sock
            deadline.watch(sock)
            connection.request("GET", f"{parts.path}{target}", headers={"accept": "*/*"})
            response = connection.getresponse()
            body = response.read(MAX_BODY + 1)
            is_tls = isinstance(sock, ssl.SSLSocket)
            return Probed(
                status=response.status,
                headers={name.lower(): value for name, value in response.getheaders()},
                body=body[:MAX_BODY],
                certificate=sock.getpeercert(binary_form=True) if is_tls else None,  # type: ignore[attr-defined]
                tls_version=sock.version() if is_tls else None,  # type: ignore[attr-defined]
            )
        except (OSError, http.client.HTTPException) as error:
            why = "no answer in time" if deadline.expired else _sentence(error)
            raise Unavailable(Reason.PCCS_UNREACHABLE, why) from error
        finally:
            with contextlib.suppress(OSError):
                connection.close()


def _connection(
    scheme: str, host: str, port: int | None, context: ssl.SSLContext | None, timeout: float
) -> http.client.HTTPConnection:
    if scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
    return http.client.HTTPConnection(host, port, timeout=timeout)


def _sentence(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
