"""One TLS connection with a gate: handshake, then control bytes, and application bytes only once the gate is open.

One class in two forms. Given a non-blocking socket, OpenSSL reads and writes its descriptor; given none, bytes go in
by `feed` and out by `take`. Neither form ever waits: an operation that cannot go on says what it wants instead.

1. `handshake` until it wants nothing. The peer's certificate may be any self-signed leaf within its dates: who the
   peer is, its evidence tells later.
2. `send_control` and `receive_control` carry the messages of the attest exchange.
3. `expect` names the evidence that this peer has shown, and `accept` takes an `Accepted` made for exactly that. A side
   that judges nobody calls `admit_unattested_peer`.
4. Then, and only then, `send` and `receive` carry application bytes.

TLS 1.3 for everything that has an ALPN name. No session is ever resumed: nothing is cached and no ticket can be
redeemed. (OpenSSL sends two tickets after a handshake even so, and pyOpenSSL has no way to stop it. They are numbers
of sessions that nobody keeps.) There is no early data and no renegotiation.

A context belongs to one thread: pyOpenSSL keeps what a callback raised on the context.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol, TypeVar, cast

from cryptography import x509
from OpenSSL import SSL, crypto

from eaa.appraise.result import Accepted, BindingLevel
from eaa.errors import EAAError, MalformedInput, Misuse, PeerMisbehaved, Reason, Unavailable, VerificationError
from eaa.tls.certificate import PrivateKey, RATLSCertificate
from eaa.tls.engine import Want as Want  # noqa: PLC0414  what the methods of a connection answer
from eaa.tls.engine import calls_on, found_nothing_to_read, have_chosen, have_judged, read_one_at_a_time
from eaa.tls.leaf import read_leaf

EXPORTER_LABEL: Final = b"EXPORTER-Channel-Binding"
EXPORTER_SIZE: Final = 32
MAX_CONTROL_BYTES: Final = 1024 * 1024
"""Bytes that `receive_control` hands out in all: a few messages of the exchange, and no way around the gate."""
RECORD_SIZE: Final = 16 * 1024
"""The most that one read returns; a TLS record holds no more."""
MESSAGES_AT_ONCE: Final = 16
"""Messages of TLS's own after the handshake, tickets and new keys, that are read before others have their turn."""
LEGACY_CLOCK_TOLERANCE: Final = timedelta(minutes=5)
"""How far in the future the certificate of a peer of 2021 may begin: it is made for the connection, by their clock."""

_IPPROTO_TCP, _TCP_CORK = 6, 3
"""Of Linux: to send nothing of what is written until that is taken back, or for 0.2 seconds (tcp(7))."""
_SELF_SIGNED_LEAF: Final = SSL.X509VerificationCodes.ERR_DEPTH_ZERO_SELF_SIGNED_CERT
_OK: Final = SSL.X509VerificationCodes.OK
_DATES: Final = (
    SSL.X509VerificationCodes.ERR_CERT_NOT_YET_VALID,
    SSL.X509VerificationCodes.ERR_CERT_HAS_EXPIRED,
    SSL.X509VerificationCodes.ERR_ERROR_IN_CERT_NOT_BEFORE_FIELD,
    SSL.X509VerificationCodes.ERR_ERROR_IN_CERT_NOT_AFTER_FIELD,
)
"""What OpenSSL finds wrong with a certificate's dates."""
_FOR_US: Final = frozenset({_OK, _SELF_SIGNED_LEAF, *_DATES})
"""What we judge, of what OpenSSL asks."""
_OF_DATES: Final = (Reason.CERTIFICATE_EXPIRED, Reason.CERTIFICATE_NOT_YET_VALID)
"""What we do."""

_NOT_EARLY: Final = timedelta(0)

T = TypeVar("T")


class Descriptor(Protocol):
    """A connected, non-blocking socket. It stays the caller's: nothing here closes it."""

    def fileno(self) -> int:
        """Return the file descriptor."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        """Set an option of the socket. Raises OSError."""


class _Cork:
    """Holds back what OpenSSL writes piece by piece, so that it goes out, and wakes the peer, in one."""

    __slots__ = ("_sock", "is_in")

    def __init__(self, sock: Descriptor) -> None:
        self._sock: Descriptor | None = sock
        self.is_in = False

    def put_in(self) -> None:
        """Hold back what is written from now on."""
        if self._sock is not None and not self.is_in:
            try:
                self._sock.setsockopt(_IPPROTO_TCP, _TCP_CORK, 1)
            except OSError:
                # Sockets that are not of TCP have none.
                self._sock = None
            else:
                self.is_in = True

    def pull(self) -> None:
        """Send what was held back."""
        if self._sock is not None and self.is_in:
            self.is_in = False
            try:
                self._sock.setsockopt(_IPPROTO_TCP, _TCP_CORK, 0)
            except OSError:
                self._sock = None


class _Leaf:
    """What is learnt of the peer's certificate in the middle of the handshake, and of the protocol."""

    __slots__ = ("_now", "_tells_protocol", "agreed", "bug", "certificate", "der", "refusal", "self_signed")

    def __init__(self, *, now: datetime, tells_protocol: Callable[[], bytes] | None) -> None:
        self._now = now
        self._tells_protocol = tells_protocol
        self.self_signed = False
        self.der: bytes | None = None
        self.certificate: RATLSCertificate | None = None
        self.refusal: EAAError | None = None
        self.bug: Exception | None = None
        self.agreed = b""

    def judge(self, error: int, depth: int, encoded: Callable[[], bytes]) -> bool:
        """Say whether the handshake goes on. OpenSSL asks to forgive error 18, then errors of dates, and at the end.

        The error to which it is told no decides the alert, and to a no at the end it sends `internal_error`. So the
        certificate is read at the first question; but a wrong date has an alert of its own, at the second.
        """
        if depth != 0 or error not in _FOR_US:
            self.refusal = VerificationError(
                Reason.CERTIFICATE_CHAIN,
                f"the peer's certificate is not one self-signed certificate: {_verify_error(error)} at depth {depth}",
                hint="an ordinary web server or a proxy that ends TLS looks like this",
            )
            return False
        if error == _SELF_SIGNED_LEAF:
            self.self_signed = True
            read = self._read(encoded())
            return read or (self.refusal is not None and self.refusal.reason in _OF_DATES)
        # By the time that we are given, and with our tolerance; OpenSSL's opinion decides nothing but the alert.
        return self.self_signed and self.refusal is None

    def _read(self, der: bytes) -> bool:
        names_a_protocol = self._tells_protocol is not None and (self.agreed or self._tells_protocol())
        # Where a name had to be agreed on the peer will be refused for what it is, and not for its clock.
        early = _NOT_EARLY if names_a_protocol else LEGACY_CLOCK_TOLERANCE
        try:
            self.certificate = read_leaf(der, now=self._now, early=early)
        except EAAError as error:
            self.refusal = error
            return False
        self.der = der
        return True


_JUDGING: Final[ContextVar[_Leaf | None]] = ContextVar("judging", default=None)
"""Of the connection whose handshake this thread goes on with; another thread may do so on the same context."""
_FORGOTTEN: Final = _Leaf(now=datetime.min.replace(tzinfo=UTC), tells_protocol=None)
"""Of peers whose certificate nobody needs any more. None can come later: nothing here allows for it."""


class Context(SSL.Context):
    """What connections of one kind share, see `make_context`."""

    def __init__(self, method: int) -> None:
        super().__init__(method)
        self.kept: list[object] = []
        """What OpenSSL calls."""
        self.own_spki: bytes | None = None
        self._second: int | None = None

    def set_time(self, now: datetime) -> None:
        """Give OpenSSL the time, or it takes the wall clock's. It is the context's, and decides nothing but alerts."""
        second = int(now.timestamp())
        if second != self._second:
            cast("crypto.X509Store", self.get_cert_store()).set_time(now.astimezone(UTC))
            self._second = second


def make_context(
    *,
    server_side: bool,
    certificate: bytes | None,
    private_key: PrivateKey | None,
    alpn: tuple[bytes, ...],
    demand_client_certificate: bool = False,
) -> Context:
    """Return what connections of one kind share. Making one takes about a millisecond: reuse it.

    Args:
        server_side: whether it is for accepting connections.
        certificate: this side's leaf, DER; a server needs one.
        private_key: its key.
        alpn: the protocol names that are spoken. None at all is for peers of 2021: TLS 1.2 is good enough then.
        demand_client_certificate: servers only; a client that sends none is refused. Without it, servers that have an
            ALPN name still ask for one.

    Raises:
        Misuse: USAGE, a server without a certificate, or a certificate and a key that do not belong together.
    """
    context = Context(SSL.TLS_SERVER_METHOD if server_side else SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION if alpn else SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    # The store is empty and stays so. DICE asks for critical evidence extensions, which OpenSSL does not know;
    # `unknown_critical` judges instead.
    flags = crypto.X509StoreFlags
    store = cast("crypto.X509Store", context.get_cert_store())
    store.set_flags(flags.IGNORE_CRITICAL)
    if not server_side or demand_client_certificate:
        mode = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        context.kept.append(have_judged(context, mode, _JUDGING.get))
    elif alpn:
        # Asked for but not demanded: so a client that has a certificate always sends it, and both ends agree on what
        # the claim `peer` has to be. A client cannot ask OpenSSL whether its certificate was wanted.
        context.kept.append(have_judged(context, SSL.VERIFY_PEER, _JUDGING.get))
    if certificate is not None and private_key is not None:
        _use_identity(context, certificate, private_key)
    elif server_side:
        raise Misuse(Reason.USAGE, "a TLS server needs a certificate and its key")
    if server_side and alpn:
        context.kept.append(have_chosen(context, alpn, functools.partial(_choose_protocol, alpn)))
    elif alpn:
        context.set_alpn_protos(list(alpn))
    return context


def _use_identity(context: Context, certificate: bytes, private_key: PrivateKey) -> None:
    try:
        own_spki = _spki_of(certificate)
        context.use_certificate(x509.load_der_x509_certificate(certificate))
        context.use_privatekey(private_key)
        context.check_privatekey()
    except (MalformedInput, ValueError, SSL.Error) as error:
        # Malformed is what a peer sends. This one is the caller's own.
        raise Misuse(Reason.USAGE, "the TLS certificate cannot be read, or its key is another one") from error
    context.own_spki = own_spki


def _choose_protocol(spoken: tuple[bytes, ...], offered: tuple[bytes, ...]) -> bytes | None:
    leaf = _JUDGING.get()
    if leaf is None:
        return None
    for name in spoken:
        if name in offered:
            leaf.agreed = name
            return name
    leaf.refusal = _no_protocol(spoken, offered)
    return None


class Connection:
    """One connection, this side of it. See the module for the order in which its methods are meant to be called.

    Every method may raise PeerMisbehaved: TLS_HANDSHAKE or TLS_RECORD (with what OpenSSL says), PEER_CLOSED; once one
    has, the connection is dead and raises the same again. In the memory form, `take` may still hold an alert for the
    peer.
    """

    def __init__(
        self,
        context: Context,
        *,
        server_side: bool,
        alpn: tuple[bytes, ...],
        now: datetime,
        sock: Descriptor | None = None,
    ) -> None:
        """Begin a connection; nothing is sent or read yet.

        Args:
            context: of `make_context`, with the same `server_side` and `alpn`.
            server_side: whether this side accepts.
            alpn: the names of which one has to be agreed on; empty for peers of 2021.
            now: aware; within the dates of the peer's certificate.
            sock: a connected non-blocking socket, or None for the memory form.
        """
        self._server_side = server_side
        self._alpn = alpn
        context.set_time(now)
        self._own_spki = context.own_spki
        descriptor: Any = None if sock is None else sock.fileno()
        self._ssl = SSL.Connection(context, descriptor)
        self._calls = calls_on(self._ssl)
        self._leaf = _Leaf(now=now, tells_protocol=self._ssl.get_alpn_proto_negotiated if alpn else None)
        self._cork = None if sock is None else _Cork(sock)
        # What was fed is bounded; what a socket brings is not.
        self._one_at_a_time = sock is not None and read_one_at_a_time(self._ssl)
        if server_side:
            self._ssl.set_accept_state()
        else:
            self._ssl.set_connect_state()
        self._established = False
        self._failure: EAAError | None = None
        self._expected: tuple[bytes, bytes] | None = None
        self._gate_open = False
        self._control_bytes = 0

    # TLS.

    def handshake(self, *, goes_on: bool = False) -> Want:
        """Go on with the handshake; Want.NOTHING once it is done.

        Args:
            goes_on: whether this side writes as soon as it is done: what ends the handshake then goes out with that.

        Raises:
            PeerMisbehaved: TLS_HANDSHAKE, PEER_CLOSED; PEER_IS_LEGACY where the peer knows no ALPN.
            Unavailable: OVERLOADED, the peer says that it has no room.
            VerificationError: CERTIFICATE_CHAIN, CERTIFICATE_EXPIRED, CERTIFICATE_NOT_YET_VALID.
            MalformedInput: the peer's certificate cannot be read.
        """
        if self._established:
            return Want.NOTHING
        cork = self._cork
        if cork is not None:
            cork.put_in()
        judging = _JUDGING.set(self._leaf)
        try:
            # One that wants to read has found nothing there: only reads stop short, see `may_have_stopped_short`.
            outcome = self._attempt_once(self._calls.shake_hands, (), None)
            if outcome is Want.NOTHING:
                self._conclude_handshake()
                self._established = True
        finally:
            _JUDGING.reset(judging)
            if cork is not None and not (self._established and (goes_on or self._may_wait_for_more())):
                cork.pull()
        return outcome

    def feed(self, data: bytes) -> None:
        """Memory form: take bytes from the peer; b"" says that there will be no more."""
        if data:
            self._ssl.bio_write(data)
        else:
            self._ssl.bio_shutdown()

    def take(self) -> bytes:
        """Memory form: hand out the bytes that are due to the peer, also after an error."""
        pieces: list[bytes] = []
        try:
            while True:
                pieces.append(self._ssl.bio_read(4 * RECORD_SIZE))
        except SSL.WantReadError:
            return b"".join(pieces)

    def shutdown(self) -> Want:
        """Say that this side will send no more (close_notify). The peer may go on sending."""
        if self._failure is not None or not self._established:
            return Want.NOTHING
        return self._say_goodbye()

    @property
    def peer_certificate(self) -> bytes | None:
        """The peer's leaf, DER; None before the handshake has it and where the peer sent none."""
        return self._leaf.der

    @property
    def peer(self) -> RATLSCertificate | None:
        """The same, read."""
        return self._leaf.certificate

    @property
    def peer_spki(self) -> bytes | None:
        """The peer's SubjectPublicKeyInfo, DER."""
        return None if self._leaf.certificate is None else self._leaf.certificate.spki_der

    @property
    def own_spki(self) -> bytes | None:
        """This side's SubjectPublicKeyInfo, None where it has no certificate; servers of eaa/2 always ask."""
        return self._own_spki

    def exporter(self) -> bytes:
        """Return the 32 bytes that name this session: RFC 9266, with an empty context."""
        return self.export(EXPORTER_LABEL, EXPORTER_SIZE, b"")

    def export(self, label: bytes, size: int, context: bytes) -> bytes:
        """Return keying material of this session for a label: RFC 8446, section 7.5."""
        self._require_established()
        return self._ssl.export_keying_material(label, size, context)

    @property
    def failure(self) -> EAAError | None:
        """What this connection has died of; None while it lives."""
        return self._failure

    # Control bytes: the exchange, before the gate is open and after.

    def send_control(self, data: bytes | memoryview) -> int | Want:
        """Send bytes of the exchange; return how many were taken, or what sending waits for."""
        self._require_established()
        if not self._control_bytes and not self._server_side:
            # A server that refused this side's certificate has sent an alert and gone. Writing first would fail, and
            # after that OpenSSL reads no more: listen first.
            self._attempt(self._calls.peek, at_end=False)
        return self._write(data)

    def receive_control(self, size: int) -> bytes | Want:
        """Return up to `size` bytes of the exchange. Ask for as many as the exchange wants, not more.

        Raises:
            PeerMisbehaved: PEER_CLOSED where the peer ended the connection; MESSAGE_TOO_LARGE past MAX_CONTROL_BYTES.
        """
        self._require_established()
        data = self._read(size)
        if data == b"":
            raise self._fail(_closed("before the exchange was finished"))
        if isinstance(data, bytes):
            self._control_bytes += len(data)
            if self._control_bytes > MAX_CONTROL_BYTES:
                raise self._fail(
                    PeerMisbehaved(
                        Reason.MESSAGE_TOO_LARGE, f"the peer sent more than {MAX_CONTROL_BYTES} bytes of messages"
                    )
                )
        return data

    def has_more(self) -> bool:
        """Tell whether the peer has sent bytes that nobody has read. Raises PeerMisbehaved where it has gone badly."""
        self._require_established()
        return self._attempt(self._calls.peek, at_end=False) is True

    def has_read_ahead(self) -> bool:
        """Tell whether bytes of the peer are here that need not be waited for."""
        return self._ssl.pending() > 0

    # The gate.

    def expect(self, evidence_digest: bytes, report_data: bytes) -> None:
        """Name what this peer has shown: SHA-256 of its evidence, and the report data that evidence must contain."""
        self._require_established()
        self._expected = (evidence_digest, report_data)

    def accept(self, result: Accepted) -> None:
        """Open the gate for a peer that was judged.

        Raises:
            Misuse: RESULT_FOR_OTHER_EVIDENCE unless `result` was made for the evidence and report data of `expect`,
                and in a session, not for a document; GATE_CLOSED unless it is an `Accepted` at all.
        """
        self._require_established()
        if not isinstance(result, Accepted):
            raise Misuse(Reason.GATE_CLOSED, f"a {type(result).__name__} opens no connection")
        if self._expected is None or self._expected != (result.evidence_digest, result.report_data):
            raise Misuse(
                Reason.RESULT_FOR_OTHER_EVIDENCE,
                "the appraisal result was made for other evidence than this peer's, or for another session",
            )
        if result.binding is BindingLevel.NONE:
            raise Misuse(
                Reason.RESULT_FOR_OTHER_EVIDENCE,
                "the appraisal result was made for a document: it says nothing of who is at the other end",
            )
        self._gate_open = True

    def admit_unattested_peer(self) -> None:
        """Open the gate on a side that judges nobody. Refused where evidence is waiting for a verdict."""
        self._require_established()
        if self._expected is not None:
            raise Misuse(Reason.GATE_CLOSED, "this peer has shown evidence; it is for a verdict to admit it")
        self._gate_open = True

    # Application bytes.

    def send(self, data: bytes | memoryview) -> int | Want:
        """Send application bytes; return how many were taken, or what sending waits for. Raises Misuse: GATE_CLOSED."""
        self._require_open_gate()
        return self._write(data)

    def receive(self, size: int) -> bytes | Want:
        """Return up to `size` application bytes, b"" where the peer ended well. Raises Misuse: GATE_CLOSED."""
        self._require_open_gate()
        return self._read(size)

    def receive_into(self, buffer: bytearray | memoryview) -> int | Want:
        """Receive application bytes into `buffer`; return how many, 0 at a good end. Raises Misuse: GATE_CLOSED."""
        self._require_open_gate()
        return self._attempt(self._ssl.recv_into, buffer, min(len(buffer), RECORD_SIZE), at_end=0)

    def forget_peer(self) -> None:
        """Keep the peer's certificate no longer; `peer`, `peer_certificate` and `peer_spki` are None from now on."""
        self._require_open_gate()
        self._leaf = _FORGOTTEN
        self._expected = None

    def may_have_stopped_short(self) -> bool:
        """Tell whether what has just wanted to read did so after a message of TLS's own, with more behind it."""
        return self._one_at_a_time and not found_nothing_to_read()

    # How it is done.

    def _conclude_handshake(self) -> None:
        """Check what OpenSSL leaves to us: the agreed protocol, and that the peer sent one certificate only."""
        agreed = (self._leaf.agreed or self._ssl.get_alpn_proto_negotiated()) if self._alpn else b""
        certificates = self._calls.count_peer_certificates()
        failure: EAAError | None = None
        if self._alpn and agreed not in self._alpn:
            failure = _legacy(self._alpn, server_side=self._server_side)
        elif certificates > 1:
            failure = VerificationError(
                Reason.CERTIFICATE_CHAIN, f"the peer sent {certificates} certificates, one is expected"
            )
        if failure is not None:
            # The handshake is over, so there is no alert left to send but the goodbye.
            self._say_goodbye()
            raise self._fail(failure)

    def _say_goodbye(self) -> Want:
        try:
            outcome = self._calls.say_goodbye()
        except SSL.WantReadError:
            outcome = Want.READ
        except SSL.WantWriteError:
            outcome = Want.WRITE
        except SSL.Error:
            # The peer is gone already, which is no news to someone who says goodbye.
            _empty_error_queue()
            outcome = Want.NOTHING
        self._send_off()
        # What would be read has been said before: only the peer's own goodbye is due, and nobody waits for that.
        return Want.WRITE if outcome is Want.WRITE else Want.NOTHING

    def _may_wait_for_more(self) -> bool:
        """Whether what ended the handshake may go out with what is written next: the tickets of TLS 1.3.

        Whatever else ends a handshake the peer waits for.
        """
        return self._server_side and (bool(self._alpn) or self._calls.is_tls_1_3())

    def _send_off(self) -> None:
        if self._cork is not None:
            self._cork.pull()

    def _write(self, data: bytes | memoryview) -> int | Want:
        if not len(data):
            return 0
        sent = self._attempt(self._calls.write, data)
        self._send_off()
        return sent

    def _read(self, size: int) -> bytes | Want:
        return self._attempt(self._calls.read, min(size, RECORD_SIZE), at_end=b"")

    def _attempt(self, operation: Callable[..., T | Want], *arguments: Any, at_end: T | None = None) -> T | Want:
        """Run one operation of OpenSSL's; its failures become ours, once and for all.

        `at_end` is what it returns where the peer has said that no more will come; without it, that is a failure.
        """
        outcome = self._attempt_once(operation, arguments, at_end)
        for _ in range(MESSAGES_AT_ONCE):
            if outcome is not Want.READ or not self.may_have_stopped_short():
                break
            outcome = self._attempt_once(operation, arguments, at_end)
        return outcome

    def _attempt_once(
        self, operation: Callable[..., T | Want], arguments: tuple[Any, ...], at_end: T | None
    ) -> T | Want:
        if self._failure is not None:
            raise self._failure
        try:
            return operation(*arguments)
        except SSL.WantReadError:
            return Want.READ
        except SSL.WantWriteError:
            return Want.WRITE
        except SSL.ZeroReturnError as error:
            if at_end is not None:
                return at_end
            failure: EAAError = _closed("where an answer was due")
            failure.__cause__ = error
        except SSL.SysCallError as error:
            _empty_error_queue()
            failure = _closed("without saying goodbye")
            failure.__cause__ = error
        except SSL.Error as error:
            if self._leaf.bug is not None:
                raise self._leaf.bug from error
            failure = self._leaf.refusal or self._tls_failure(error)
            failure.__cause__ = error
        raise self._fail(failure)

    def _tls_failure(self, error: SSL.Error) -> PeerMisbehaved | Unavailable:
        # A TLS 1.3 client's handshake succeeds before the server has judged it, so a refusal comes in later. Until
        # the peer's first message is here, every failure is one of the handshake.
        in_handshake = not self._gate_open and not self._control_bytes
        return _tls_failure(error, Reason.TLS_HANDSHAKE if in_handshake else Reason.TLS_RECORD)

    def _fail(self, failure: EAAError) -> EAAError:
        self._failure = failure
        # OpenSSL may have written an alert.
        self._send_off()
        return failure

    def _require_established(self) -> None:
        if self._failure is not None:
            raise self._failure
        if not self._established:
            raise Misuse(Reason.GATE_CLOSED, "the TLS handshake is not finished")

    def _require_open_gate(self) -> None:
        if not self._gate_open:
            raise Misuse(Reason.GATE_CLOSED, "application bytes were to flow before the peer was accepted")


@functools.lru_cache(maxsize=8)
def _spki_of(certificate: bytes) -> bytes:
    return RATLSCertificate.parse(certificate).spki_der


_SENTENCES: Final = (
    ("http request", "the peer speaks plain HTTP on a TLS port", None),
    (
        "certificate required",
        "the peer demands a TLS client certificate, and this side has none",
        "give this side an identity (--mutual)",
    ),
    (
        "did not return a certificate",
        "the client sent no certificate, and this side demands one",
        "give the client an identity (--mutual)",
    ),
    (
        "alert no application protocol",
        "the peer speaks another protocol than this side offers",
        "check the address: the outer and the inner protocol, and the legacy one, have addresses of their own",
    ),
    (
        "protocol version",
        "the peer offers no TLS version that this side takes",
        "a peer of 2021 is reached at the legacy address only",
    ),
    ("unsupported protocol", "the peer offers no TLS version that this side takes", None),
    ("wrong version number", "what the peer sends is not TLS", "check the port"),
    ("packet length too long", "what the peer sends is not TLS", "check the port"),
    ("alert certificate expired", "the peer says that this side's certificate has expired", "check both clocks"),
    ("alert bad certificate", "the peer refuses this side's certificate", "the peer's log says why"),
    ("alert certificate unknown", "the peer refuses this side's certificate", "the peer's log says why"),
    (
        "alert unknown ca",
        "the peer does not trust this side's certificate",
        "the peer's log says why; one that trusts only certificates of an authority is no peer of this kind",
    ),
    ("excessive message size", "the peer sends a certificate or message that is too big", None),
    ("bad record mac", "a record was changed on its way", "something between the two sides alters bytes"),
)
"""What OpenSSL says, in part, what it means, and what to do."""


def _empty_error_queue() -> None:
    """Forget what OpenSSL still holds of a failed system call; pyOpenSSL leaves it in the thread's queue of errors.

    OpenSSL asks for an empty queue before every operation (SSL_get_error(3)), whichever connection it is on.
    """
    with contextlib.suppress(crypto.Error):
        crypto.load_certificate(crypto.FILETYPE_ASN1, b"")


def _tls_failure(error: SSL.Error, reason: Reason) -> PeerMisbehaved | Unavailable:
    entries = error.args[0] if error.args else []
    if not entries:
        # OpenSSL says nothing where a connection is used on after it has broken.
        return _closed("earlier")
    # An alert with a number that nobody has given a name has none in OpenSSL either.
    said = "; ".join(str(entry[-1]) for entry in entries)
    # What our own services say to who comes when there is no room; no word of it is protected, or believed further.
    if reason is Reason.TLS_HANDSHAKE and "alert user cancelled" in said:
        return Unavailable(
            Reason.OVERLOADED, f"the peer has no room for this connection ({said})", hint="try again later"
        )
    for part, sentence, hint in _SENTENCES:
        if part in said:
            return PeerMisbehaved(reason, f"{sentence} ({said})", hint=hint)
    return PeerMisbehaved(
        reason,
        f"TLS failed: {said or 'no reason given'}",
        hint="check that the address is one of this system's programs",
    )


def _closed(when: str) -> PeerMisbehaved:
    return PeerMisbehaved(
        Reason.PEER_CLOSED,
        f"the peer closed the connection {when}",
        hint="the log of the peer says why, unless something between the two sides has ended it",
    )


def _no_protocol(spoken: tuple[bytes, ...], offered: tuple[bytes, ...]) -> PeerMisbehaved:
    return PeerMisbehaved(
        Reason.TLS_HANDSHAKE,
        f"the client offers {ascii(offered)[:80]}, this side speaks {_names(spoken)}",
        hint="outer and inner sessions have different protocol names, and neither side takes the other's",
    )


def _legacy(spoken: tuple[bytes, ...], *, server_side: bool) -> PeerMisbehaved:
    who = "client offers" if server_side else "server agrees to"
    return PeerMisbehaved(
        Reason.PEER_IS_LEGACY,
        f"the {who} no protocol name; this side speaks {_names(spoken)} only",
        hint="C programs have addresses of their own: inclavared --legacy-listen, enclave-tls-server --legacy"
        if server_side
        else "the server may be a C program, which enclave-tls-client --legacy greets, or none of this system at all",
    )


def _names(alpn: tuple[bytes, ...]) -> str:
    return ", ".join(name.decode("ascii", errors="replace") for name in alpn)


def _verify_error(error: int) -> str:
    """Name OpenSSL's number of a verification error."""
    known = {
        2: "its issuer is not there",
        7: "its own signature is wrong",
        19: "a self-signed certificate stands above it",
        20: "somebody else issued it",
        21: "somebody else issued it",
        26: "it is not meant for this use",
        66: "its key is too weak",
        68: "its signature algorithm is too weak",
    }
    return known.get(error, f"OpenSSL's error {error}")
