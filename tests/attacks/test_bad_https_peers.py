"""Bad clients of HTTP servers that attest: each is refused with its reason, in one line, and the next one is served.

Every server that we name, each in an event loop of its own. The peers are TLS of the standard library, which sends
whatever certificate it is given, and bytes.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from eaa.errors import Reason
from eaa.https import client_context, server_context
from support import odd_certificates as odd
from support.https_peers import ANSWER, CLIENTS, SERVERS, Served, serving
from support.https_world import identity, verifier
from support.plain_tls import PATIENCE, VERSIONS, load
from support.plain_tls import client_context as stranger

KEY = ec.generate_private_key(ec.SECP256R1())
REQUEST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi"
Visit = Callable[[int], str]
"""Visits a port, and says by which alert it was sent away; nothing where it got none."""


@pytest.fixture(scope="module", params=SERVERS)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with serving(request.param, server_context(identity("workload"), verifier=verifier())) as server:
        yield server


def shows(certificate: bytes | None, folder: Path, *, version: ssl.TLSVersion = VERSIONS[1]) -> Visit:
    def visit(port: int) -> str:
        context = stranger(version)
        if certificate is not None:
            load(context, certificate, KEY, folder)
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
            try:
                with context.wrap_socket(sock) as stream:
                    stream.sendall(REQUEST)
                    assert stream.recv(1) == b""
            except (ssl.SSLError, ConnectionError) as error:
                return getattr(error, "reason", None) or ""
        return ""

    return visit


def sends(*parts: bytes) -> Visit:
    def visit(port: int) -> str:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock,
            contextlib.suppress(ConnectionError),
        ):
            for part in parts:
                sock.sendall(part)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
        return ""

    return visit


def refuses_the_server(port: int) -> str:
    """A client of ours that wants another enclave."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock, pytest.raises(ssl.SSLError):
        ssl.create_default_context().wrap_socket(sock, server_hostname="localhost")
    return ""


def client_hello(version: ssl.TLSVersion = VERSIONS[1]) -> bytes:
    context, sent = stranger(version), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent).do_handshake()
    return sent.read()


WITHOUT_A_CERTIFICATE: dict[str, tuple[Visit, Reason]] = {
    "http": (sends(REQUEST), Reason.TLS_HANDSHAKE),
    "junk": (sends(b"\x16\x03\x01\xff\xff" + bytes(1000)), Reason.TLS_HANDSHAKE),
    "an-alert-instead-of-a-hello": (sends(b"\x15\x03\x03\x00\x02\x02\x28"), Reason.TLS_HANDSHAKE),
    "an-alert-mid-handshake": (sends(client_hello(), b"\x15\x03\x03\x00\x02\x02\x28"), Reason.TLS_HANDSHAKE),
    "records-before-keys": (sends(client_hello(), b"\x17\x03\x03\x00\x40" + bytes(64)), Reason.TLS_HANDSHAKE),
    "a-second-hello": (sends(client_hello(), client_hello()), Reason.TLS_HANDSHAKE),
    "a-client-of-the-web": (refuses_the_server, Reason.PEER_REJECTED_US),
}


def endure(served: Served, visit: Visit, reason: Reason, caplog: pytest.LogCaptureFixture) -> str:
    """Let a bad client visit; return what it was told."""
    before = served.context.refusals.copy()
    heard = len(served.app.heard)
    port = int(served.url.rsplit(":", 1)[1].strip("/"))
    told = visit(port)
    deadline = time.monotonic() + PATIENCE
    while served.context.refusals == before:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert CLIENTS["httpx"](served.url, client_context(verifier(), identity=identity("client")), b"hi") == ANSWER
    assert served.app.heard[heard:] == [b"hi"]
    assert served.context.refusals - before == {reason: 1}
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1, said
    assert f": {reason}: " in said[0]
    return told


@pytest.mark.parametrize("name", odd.ODD)
def test_an_odd_certificate_is_refused(
    served: Served, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, reason = odd.ODD[name]
    told = endure(served, shows(make(KEY, datetime.now(UTC)), tmp_path), reason, caplog)
    assert told == "TLSV1_ALERT_UNKNOWN_CA"


@pytest.mark.parametrize("name", WITHOUT_A_CERTIFICATE)
def test_a_client_that_is_none_is_refused(served: Served, name: str, caplog: pytest.LogCaptureFixture) -> None:
    visit, reason = WITHOUT_A_CERTIFICATE[name]
    endure(served, visit, reason, caplog)


def test_a_client_that_speaks_no_tls_1_3_is_told_so(
    served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    visit = shows(None, tmp_path, version=VERSIONS[0])
    assert endure(served, visit, Reason.TLS_HANDSHAKE, caplog) == "TLSV1_ALERT_PROTOCOL_VERSION"
