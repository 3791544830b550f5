"""The contexts behind an attested one: made together for one certificate and key, and replaced together.

Building a context takes a tenth of a millisecond or more, and OpenSSL never forgets a certificate that it was told to
trust. So contexts are shared by all connections of a generation, and the one with the trust store is replaced after
MAX_TRUSTED certificates.
"""

from __future__ import annotations

import _ssl
import contextlib
import os
import secrets
import ssl
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from eaa.errors import Misuse, Reason
from eaa.https.handshake import on_message
from eaa.tls.certificate import PrivateKey

MAX_TRUSTED: Final = 64
"""Certificates in one trust store: each takes about 14 KiB, as long as a connection is being made on that store."""

_NO_CHECK_TIME: Final = 0x200000
_IGNORE_CRITICAL: Final = 0x10
"""X509_V_FLAG_NO_CHECK_TIME and X509_V_FLAG_IGNORE_CRITICAL: dates and critical extensions are judged by us."""
_DIRECT_MATCH: Final = int(ssl.VERIFY_X509_PARTIAL_CHAIN)
"""What is in the trust store is trusted as it stands. Without it OpenSSL looks for an issuer there, by name, and takes
another peer's leaf for one: all have the same name, and not all have key identifiers."""


class Credentials(Protocol):
    """One key with its certificate."""

    @property
    def private_key(self) -> PrivateKey:
        """The TLS key."""

    @property
    def certificate(self) -> bytes:
        """DER."""


def restrict(context: ssl.SSLContext, *, judges: bool) -> None:
    """Allow TLS 1.3 and nothing that leads around a fresh handshake: no tickets, no renegotiation, no resumption."""
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED if judges else ssl.CERT_NONE
    context.verify_flags = ssl.VerifyFlags(_NO_CHECK_TIME | _IGNORE_CRITICAL | _DIRECT_MATCH)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if context.protocol is ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0


class Generation:
    """What all connections share that are made with the same certificate and key. Threads may share it."""

    def __init__(self, *, server_side: bool, judges: bool, credentials: Credentials | None, alpn: list[str]) -> None:
        """Make it. Raises Misuse where certificate and key do not belong together."""
        self._protocol = ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT
        self._judges = judges
        self._pem, self._password = (b"", b"") if credentials is None else _encrypted(credentials)
        # A server has shown its certificate by the time a connection comes here, a client has not.
        self._trusting_shows = not server_side
        self._guard = threading.Lock()
        self._trusting = self._context(shows=self._trusting_shows)
        self._trusted: set[bytes] = set()
        self.credentials = credentials
        self.greeting = self._context(shows=True)
        """The context on which every handshake begins: it trusts nobody, and has the callback."""
        self.quiet = self._context(shows=True) if server_side and judges else None
        """The same without the callback, for a server's own messages: there are twenty of them and their parts."""
        self.speak(alpn)
        if judges:
            # The same property of ssl.SSLContext turns every argument into an enumeration first: 15 us a handshake.
            descriptor: Any = vars(_ssl._SSLContext)["_msg_callback"]  # noqa: SLF001  there is no public one
            descriptor.__set__(self.greeting, on_message)

    def speak(self, alpn: list[str]) -> None:
        """Offer or take these ALPN names, the first ones first."""
        for context in filter(None, (self.greeting, self.quiet) if alpn else ()):
            context.set_alpn_protocols(alpn)

    def trust(self, certificate: bytes) -> ssl.SSLContext:
        """Return a context that trusts this leaf, DER, and perhaps others that were accepted."""
        with self._guard:
            if certificate not in self._trusted:
                if len(self._trusted) >= MAX_TRUSTED:
                    self._trusting, self._trusted = self._context(shows=self._trusting_shows), set()
                self._trusting.load_verify_locations(cadata=certificate)
                self._trusted.add(certificate)
            return self._trusting

    def _context(self, *, shows: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(self._protocol)
        restrict(context, judges=self._judges)
        if self._pem and shows:
            with _readable(self._pem) as path:
                try:
                    context.load_cert_chain(path, password=self._password)
                except ssl.SSLError as error:
                    raise Misuse(
                        Reason.USAGE, "the TLS certificate cannot be read, or its key is another one"
                    ) from error
        return context


def _encrypted(credentials: Credentials) -> tuple[bytes, bytes]:
    """Return certificate and key as OpenSSL reads them from a file, and the password of the key.

    The standard library takes keys from files only. What stands there can be read by nobody: the password is made for
    this one occasion and stays in memory.
    """
    password = secrets.token_hex(16).encode()
    key = credentials.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password))
    return ssl.DER_cert_to_PEM_cert(credentials.certificate).encode() + key, password


@contextlib.contextmanager
def _readable(content: bytes) -> Iterator[str]:
    """Give these bytes a path for as long as somebody reads it: in memory where the system can do that."""
    try:
        number = os.memfd_create("eaa-https", os.MFD_CLOEXEC)
        path = f"/proc/self/fd/{number}"
    except (AttributeError, OSError):
        number, path = tempfile.mkstemp(prefix="eaa-https-")
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
            file.flush()
            yield path
    finally:
        if not path.startswith("/proc/"):
            Path(path).unlink()
