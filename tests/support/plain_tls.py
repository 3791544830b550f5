"""TLS of the standard library, which speaks to anybody: what strangers and C programs look like on the wire."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from eaa.tls.certificate import PrivateKey

PATIENCE: Final = 60.0
VERSIONS: Final = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


def client_context(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A client that believes any certificate and offers no protocol name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    return context


def load(context: ssl.SSLContext, certificate: bytes, key: PrivateKey, folder: Path) -> None:
    """Let a context show this certificate, DER, whatever it is."""
    (folder / "cert.pem").write_text(ssl.DER_cert_to_PEM_cert(certificate))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")


def ask(address: str, said: bytes, *, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> tuple[bytes, bytes]:
    """What a server answers, up to its goodbye, and its certificate, DER."""
    host, port = address.removeprefix("tcp://").rsplit(":", 1)
    answer = b""
    with (
        socket.create_connection((host, int(port)), timeout=PATIENCE) as sock,
        client_context(version).wrap_socket(sock) as stream,
    ):
        certificate = stream.getpeercert(binary_form=True)
        stream.sendall(said)
        while data := stream.recv(4096):
            answer += data
    assert certificate is not None
    return answer, certificate


class ServerOnce:
    """A server that shows a certificate to one client, and serves it as it is told."""

    def __init__(
        self,
        folder: Path,
        serve: Callable[[ssl.SSLSocket], None],
        *,
        certificate: bytes,
        key: PrivateKey,
    ) -> None:
        self._serve = serve
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load(self._context, certificate, key, folder)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self.port: int = self._listener.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.shaken_hands = False

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Serve meanwhile, in a thread."""
        thread = threading.Thread(target=self._serve_one)
        thread.start()
        try:
            yield
        finally:
            thread.join(PATIENCE)
            self._listener.close()
        assert not thread.is_alive()

    def _serve_one(self) -> None:
        # As the C programs: no goodbye of TLS's, the socket is closed.
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            sock, _ = self._listener.accept()
            sock.settimeout(PATIENCE)
            with sock, self._context.wrap_socket(sock, server_side=True) as stream:
                self.shaken_hands = True
                self._serve(stream)
