"""Two ends of a TLS connection in one process: keys, certificates, and both forms of `tls.connection`."""

from __future__ import annotations

import contextlib
import functools
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from eaa.evidence.tagged import PUBKEY_HASH, Endorsements, TaggedEvidence, encode_claims, pubkey_hash_claim
from eaa.protocol.exchange import ALPN
from eaa.tls import engine
from eaa.tls.certificate import PrivateKey, create_certificate
from eaa.tls.connection import Connection, Want, make_context

PATIENCE = 60.0
_ESTABLISHED = 1
NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
ENDORSEMENTS = Endorsements(
    version=0x00010003,
    tcb_info=b"{}",
    tcb_info_issuer_chain=b"-",
    pck_crl=b"\x30\x00",
    root_ca_crl=b"\x30\x00",
    pck_crl_issuer_chain=b"-",
    qe_identity=b"{}",
    qe_identity_issuer_chain=b"-",
)
"""The least that endorsements can be; no verifier would take them."""
Form = Literal["memory", "socket", "tcp", "public"]
FORMS: tuple[Form, ...] = ("memory", "socket", "tcp", "public")
"""In memory; on sockets, of one machine or TCP's; in memory by nothing but pyOpenSSL's public methods."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A TLS key and a certificate for it."""

    key: PrivateKey
    certificate: bytes

    @property
    def spki(self) -> bytes:
        return spki_of(self.key)


def spki_of(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def evidence_for(key: PrivateKey, quote: bytes = b"a quote") -> TaggedEvidence:
    """Evidence as a certificate has it; whether the quote is one is none of TLS's business."""
    return TaggedEvidence(evidence=quote, claims=encode_claims({PUBKEY_HASH: pubkey_hash_claim(spki_of(key))}))


def make_identity(*, start: datetime = NOW - HOUR, end: datetime = NOW + HOUR) -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = create_certificate(key, evidence=evidence_for(key), not_before=start, not_after=end)
    return Identity(key=key, certificate=certificate)


@functools.cache
def server_identity() -> Identity:
    return make_identity()


@functools.cache
def client_identity() -> Identity:
    return make_identity()


def odd_certificate(
    key: ec.EllipticCurvePrivateKey,
    *,
    issuer: str = "RATS-TLS",
    signer: ec.EllipticCurvePrivateKey | None = None,
    critical_oid: str | None = None,
) -> bytes:
    """A certificate that `create_certificate` would not make."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name("RATS-TLS"))
        .issuer_name(_name(issuer))
        .serial_number(1)
        .not_valid_before(NOW - HOUR)
        .not_valid_after(NOW + HOUR)
        .public_key(key.public_key())
    )
    if critical_oid is not None:
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(critical_oid), evidence_for(key).encode())
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(signer or key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


@dataclass(slots=True, kw_only=True)
class Wire:
    """Two connections, and whatever carries bytes between them."""

    client: Connection
    server: Connection
    sockets: tuple[socket.socket, socket.socket] | None

    @property
    def ends(self) -> tuple[Connection, Connection]:
        return self.client, self.server

    def carry(self) -> int:
        """Move what each end has to say to the other; return how many bytes that were (memory form only)."""
        if self.sockets is not None:
            self._wait_for_delivery()
            return 0
        moved = 0
        for source, sink in (self.ends, self.ends[::-1]):
            data = source.take()
            moved += len(data)
            if data:
                sink.feed(data)
        return moved

    def hang_up(self, end: Connection) -> None:
        """Let the transport under one end vanish, without a goodbye."""
        other = self.server if end is self.client else self.client
        if self.sockets is None:
            other.feed(b"")
            return
        leaving, staying = self.sockets if end is self.client else self.sockets[::-1]
        leaving.close()
        assert select.select([staying], [], [], PATIENCE)[0]
        if staying.family != socket.AF_UNIX:
            _until(lambda: _tcp_info(staying).state != _ESTABLISHED)

    def inject(self, end: Connection, data: bytes) -> None:
        """Let bytes arrive at `end` that the other end has not sent."""
        if self.sockets is None:
            end.feed(data)
        else:
            self.sockets[1 if end is self.client else 0].sendall(data)
            self._wait_for_delivery()

    def _wait_for_delivery(self) -> None:
        """Wait until what one end has sent is there for the other to read: TCP does not promise it at once."""
        assert self.sockets is not None
        for source, sink in (self.sockets, self.sockets[::-1]):
            if source.family == socket.AF_UNIX or -1 in (source.fileno(), sink.fileno()):
                continue
            _until(lambda source=source, sink=sink: _tcp_info(source).sent <= _tcp_info(sink).received)  # type: ignore[misc]

    def handshake(self, *, rounds: int = 8) -> None:
        """Drive both ends until both are done; an error at either is raised, its alert delivered first."""
        for _ in range(rounds):
            wants = []
            for end in self.ends:
                try:
                    wants.append(end.handshake())
                finally:
                    self.carry()
            if all(want is Want.NOTHING for want in wants):
                return
        raise AssertionError("the handshake hangs")

    def outcome(self, end: Connection, *, rounds: int = 8) -> Exception | None:
        """Drive both ends; return what the handshake ended with at `end`, whatever became of the other."""
        for _ in range(rounds):
            for one in self.ends:
                try:
                    want = one.handshake()
                    if want is Want.NOTHING:
                        one.receive_control(1)
                except Exception as error:  # noqa: BLE001 - the test looks at it
                    if one is end:
                        self.carry()
                        return error
                self.carry()
        return None


@contextlib.contextmanager
def wire(
    form: Form,
    *,
    client: Identity | None = None,
    server: Identity | None = None,
    demand: bool = False,
    client_alpn: tuple[bytes, ...] = (ALPN,),
    server_alpn: tuple[bytes, ...] = (ALPN,),
    now: datetime = NOW,
) -> Iterator[Wire]:
    """Two connections that have not begun their handshake."""
    with contextlib.ExitStack() as stack:
        if form == "public":
            stack.enter_context(mock.patch.object(engine, "ENGINE", None))
        yield stack.enter_context(
            _wire(form, client, server or server_identity(), demand=demand, alpn=(client_alpn, server_alpn), now=now)
        )


@contextlib.contextmanager
def _wire(
    form: Form,
    client: Identity | None,
    server: Identity,
    *,
    demand: bool,
    alpn: tuple[tuple[bytes, ...], tuple[bytes, ...]],
    now: datetime,
) -> Iterator[Wire]:
    client_alpn, server_alpn = alpn
    contexts = (
        make_context(
            server_side=False,
            certificate=client.certificate if client else None,
            private_key=client.key if client else None,
            alpn=client_alpn,
        ),
        make_context(
            server_side=True,
            certificate=server.certificate,
            private_key=server.key,
            alpn=server_alpn,
            demand_client_certificate=demand,
        ),
    )
    sockets = {"socket": socket.socketpair, "tcp": tcp_pair}.get(form, lambda: None)()
    for end in sockets or ():
        end.settimeout(0)
    try:
        yield Wire(
            client=Connection(
                contexts[0], server_side=False, alpn=client_alpn, now=now, sock=sockets[0] if sockets else None
            ),
            server=Connection(
                contexts[1], server_side=True, alpn=server_alpn, now=now, sock=sockets[1] if sockets else None
            ),
            sockets=sockets,
        )
    finally:
        for end in sockets or ():
            end.close()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection, which sends what it is given at once, as those of our programs do."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    for end in (one, other):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    return one, other


@dataclass(frozen=True, slots=True)
class _TCPInfo:
    """What Linux says of a connection (tcp(7), TCP_INFO), in part."""

    state: int
    sent: int
    """Bytes, without those of its queue."""
    received: int


def _tcp_info(sock: socket.socket) -> _TCPInfo:
    raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    (received,) = struct.unpack_from("Q", raw, 128)
    sent, again = struct.unpack_from("QQ", raw, 200)
    return _TCPInfo(raw[0], sent - again, received)


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.0005)


def send_all(wire_: Wire, send: Callable[[bytes], int | Want], data: bytes) -> None:
    """Send every byte of `data`, carrying as needed; the reader has to be able to hold it."""
    while data:
        sent = send(data)
        wire_.carry()
        assert isinstance(sent, int), sent
        data = data[sent:]


def read_control(wire_: Wire, end: Connection, size: int) -> bytes:
    """Read exactly `size` control bytes that are already on their way."""
    data = b""
    while len(data) < size:
        wire_.carry()
        got = end.receive_control(size - len(data))
        assert isinstance(got, bytes), got
        data += got
    return data
