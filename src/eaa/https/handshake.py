"""One connection's handshake: the peer's certificate is judged in the middle of it, before OpenSSL does.

OpenSSL hands every handshake message to a callback before it looks at it. Ours waits for the peer's Certificate:

1. Until then the connection stands on a context whose trust store is empty. OpenSSL refuses whatever comes. Only
   while a server writes its own messages, before which no Certificate can come, is there no callback.
2. The callback takes the leaf out of the message and has it judged. Where that raises, nothing changes, see 1.
3. An accepted leaf is put into the trust store of another context, and the connection moves there. OpenSSL then finds
   it trusted, and goes on to CertificateVerify: the peer has to prove that it holds the key.
4. After the handshake the leaf that OpenSSL has must be the one that was judged in this handshake. The connection moves
   on to a context without callback and trust store.

So a certificate that was accepted before, or on another connection, is worth nothing by itself, and if the callback is
never called nobody is let in.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable
from typing import Any, Final

from eaa.errors import EAAError, MalformedInput, Misuse, PeerMisbehaved, Reason, Rejection, VerificationError
from eaa.https.judging import Peer, PeerJudge
from eaa.https.refusal import AttestationFailed
from eaa.tls.certificate import MAX_CERTIFICATE_SIZE

TLS_1_3: Final = 0x0304
_HANDSHAKE: Final = 22
_CERTIFICATE: Final = 11
_HEADER: Final = 4
"""Bytes of a handshake message before its content: type and length."""
MAX_KNOWN_MESSAGES: Final = 64
"""Messages that are remembered as read: a peer that comes back sends the same."""


class Handshake:
    """What is known of one connection's peer, and what is to become of the connection."""

    __slots__ = (
        *("_idle", "_judge", "_note", "_trust"),
        *("certificate", "concluded", "peer", "quiet", "refusal", "tells_peer"),
    )

    def __init__(
        self,
        *,
        tells_peer: bool,
        judge: PeerJudge | None,
        trust: Callable[[bytes], ssl.SSLContext],
        note: Callable[[EAAError], None],
        idle: ssl.SSLContext,
        quiet: ssl.SSLContext | None = None,
    ) -> None:
        """Begin.

        Args:
            tells_peer: whether a refused peer is to get its alert even from an event loop that drops it, and whatever
                fails is a refusal; for servers, whose handshakes nobody has called who would hear of them.
            judge: who judges the peer; None where nobody is asked for evidence.
            trust: returns a context that trusts this leaf.
            note: is told of a refusal, once.
            idle: the context of a connection whose handshake is over.
            quiet: a context without the callback, for as long as this side has not written; None where that may be
                when the peer's certificate comes.
        """
        self.tells_peer = tells_peer
        self.concluded = False
        self.certificate: bytes | None = None
        self.peer: Peer | None = None
        self.refusal: EAAError | None = None
        self._judge = judge
        self._trust = trust
        self._note = note
        self._idle = idle
        self.quiet = quiet

    def on_certificate(self, ssl_object: Any, version: int, message: bytes) -> None:
        """Judge the peer's Certificate message, and let OpenSSL trust what was accepted. Raises EAAError."""
        try:
            certificate, peer = self._judge_message(version, message)
            context = self._trust(certificate)
        except Exception as error:
            refusal = error if isinstance(error, EAAError) else _our_bug(error)
            self._refuse(refusal)
            if refusal is error:
                raise
            raise refusal from error
        self.certificate, self.peer = certificate, peer
        ssl_object.context = context

    def _judge_message(self, version: int, message: bytes) -> tuple[bytes, Peer]:
        if self.certificate is not None or self._judge is None:
            raise PeerMisbehaved(Reason.TLS_HANDSHAKE, "the peer sends a certificate that nobody asked for")
        if version != TLS_1_3:
            raise PeerMisbehaved(
                Reason.TLS_HANDSHAKE, "the peer does not speak TLS 1.3", hint="update the peer's TLS library"
            )
        certificate = leaf_of(message)
        peer = self._judge(certificate)
        if certificate is None:
            raise Rejection(Reason.NO_EVIDENCE, "the peer has no certificate")
        return certificate, peer

    def conclude(self, ssl_object: Any) -> None:
        """Make sure, after the handshake, that OpenSSL's peer is the one that was judged. Raises AttestationFailed."""
        if self._judge is not None:
            judged = self.refusal is None and self.certificate is not None and not ssl_object.session_reused
            if not judged or ssl_object.getpeercert(True) != self.certificate:  # noqa: FBT003  its signature: as DER
                raise self.failure()
        ssl_object.context = self._idle
        self.concluded = True

    def failure(self) -> AttestationFailed:
        """Return the refusal as the handshake raises it."""
        refusal = self.refusal
        if refusal is None:
            refusal = PeerMisbehaved(Reason.TLS_HANDSHAKE, "this peer's certificate was not judged in this handshake")
            self._refuse(refusal)
        return AttestationFailed(refusal)

    def explained(self, error: ssl.SSLError) -> ssl.SSLError:
        """Return what OpenSSL's failure comes from, where that is known."""
        if self.refusal is None and self.certificate is not None and isinstance(error, ssl.SSLCertVerificationError):
            self._refuse(
                VerificationError(
                    Reason.CERTIFICATE_CHAIN,
                    f"TLS cannot take the peer's certificate: {error.verify_message}",
                    hint="its evidence is good; the peer has to make its certificate in another way",
                )
            )
        if self.refusal is None:
            explained = _explained(error)
            if not self.tells_peer:
                return explained
            self._refuse(explained.error if isinstance(explained, AttestationFailed) else _broken_off(error))
        return self.failure()

    def _refuse(self, refusal: EAAError) -> None:
        self.refusal, self.peer = refusal, None
        self._note(refusal)


def on_message(
    connection: Any, direction: str, version: int, content_type: int, message_type: int, data: bytes
) -> None:
    """Look at one message of a handshake; the peer's Certificate is the one that counts."""
    if message_type == _CERTIFICATE and content_type == _HANDSHAKE and direction == "read":
        if not isinstance(connection, AttestedObject | AttestedSocket) or connection._handshake is None:  # noqa: SLF001
            raise Misuse(Reason.EVENT_LOOP_BYPASSES_TLS, "somebody else made the TLS object of this connection")
        connection._handshake.on_certificate(connection._sslobj, version, data)  # noqa: SLF001


@functools.lru_cache(maxsize=MAX_KNOWN_MESSAGES)
def leaf_of(message: bytes) -> bytes | None:
    """Return the one certificate of a TLS 1.3 Certificate message, DER; None where it holds none.

    Source: RFC 8446, section 4.4.2.

    Raises:
        MalformedInput: CERTIFICATE_MALFORMED.
        VerificationError: CERTIFICATE_CHAIN where there is more than one.
    """
    # Each of these stands behind its length: the message, a context, the entries, a certificate, its extensions.
    size = len(message)
    at = _HEADER + 1 + message[_HEADER] if size > _HEADER else size
    first = at + 3
    if int.from_bytes(message[1:_HEADER]) != size - _HEADER or int.from_bytes(message[at:first]) != size - first:
        raise _malformed()
    if first == size:
        return None
    begin = first + 3
    end = begin + int.from_bytes(message[first:begin])
    second = end + 2 + int.from_bytes(message[end : end + 2])
    if second < size:
        raise VerificationError(
            Reason.CERTIFICATE_CHAIN,
            "the peer sends more than one certificate, one that is self-signed is expected",
            hint="an ordinary web server or a proxy that ends TLS looks like this",
        )
    if second > size or not 0 < end - begin <= MAX_CERTIFICATE_SIZE:
        raise _malformed()
    return message[begin:end]


def _forbidden(_connection: object, _value: object) -> None:
    raise Misuse(Reason.USAGE, "neither context nor session of an attested connection can be replaced")


class _Attested:
    """What both kinds of connection have in common."""

    _handshake: Handshake | None = None
    """None where Python's own TLS object was not made as we expect it: then no peer is ever trusted."""
    _sslobj: Any

    @property
    def peer(self) -> Peer | None:
        """Who is at the other end; None before the handshake is done, and where this side asks nobody."""
        return self._handshake.peer if self._handshake is not None and self._handshake.concluded else None

    def getpeercert(self, binary_form: bool = False) -> Any:  # noqa: FBT001, FBT002  its signature
        """Return the peer's certificate, DER, or for an accepted peer no fields of it: nobody vouches for its names.

        It is as with certificates that the standard library has not validated. Event loops ask for the fields of each.
        """
        if not binary_form and self.peer is not None:
            return {}
        return super().getpeercert(binary_form)  # type: ignore[misc]

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002  the standard library's name
        """Read application bytes. Raises AttestationFailed where the peer says that it refuses this side."""
        try:
            return super().read(len, buffer)  # type: ignore[misc]
        except ssl.SSLError as error:
            if error.reason not in _REFUSING_ALERTS:
                raise
            raise _explained(error) from error

    def _shake_hands(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if self._handshake is None or self._handshake.refusal is None:
                raise
            raise self._handshake.failure() from self._handshake.refusal
        except EAAError as error:
            # The callback refused a certificate that OpenSSL would have taken: it must not happen, and changes nothing.
            raise AttestationFailed(error) from error
        except ssl.SSLError as error:
            explained = error if self._handshake is None else self._handshake.explained(error)
            if explained is error:
                raise
            raise explained from explained.__cause__
        if self._handshake is not None:
            self._handshake.conclude(self._sslobj)


class AttestedObject(_Attested, ssl.SSLObject):
    """A connection without a socket: asyncio, uvloop, aiohttp and anyio use this one."""

    _parting: AttestationFailed | None = None
    _outgoing: ssl.MemoryBIO | None = None
    """Where OpenSSL writes to; None where Python's own TLS object was not made as we expect it."""

    def do_handshake(self) -> None:
        """Go on with the handshake. Raises AttestationFailed, ssl.SSLError, ssl.SSLWantReadError."""
        if self._parting is not None:
            raise self._parting
        try:
            self._shake_hands(self._step)
        except AttestationFailed as failure:
            if self._handshake is None or not self._handshake.tells_peer or not self._has_written:
                raise
            # Event loops drop the alert that OpenSSL has written when a handshake fails, and the client would never
            # know why. They send it where a connection wants to read on; what comes then ends the handshake.
            self._parting = failure
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "a refused peer is being told") from None

    def _step(self) -> None:
        handshake = self._handshake
        if handshake is None or handshake.quiet is None:
            super().do_handshake()
            return
        listening = self._sslobj.context
        self._sslobj.context = handshake.quiet
        try:
            super().do_handshake()
        finally:
            self._sslobj.context = listening
            if self._has_written:
                handshake.quiet = None

    @property
    def _has_written(self) -> bool:
        return self._outgoing is not None and self._outgoing.pending > 0

    context = property(lambda self: self._sslobj.context, _forbidden)
    session = property(lambda _self: None, _forbidden)


class AttestedSocket(_Attested, ssl.SSLSocket):
    """A connection on a socket: httpx, urllib3, requests and urllib use this one."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002  its signature
        """Do the handshake. Raises AttestationFailed, ssl.SSLError, OSError."""
        self._shake_hands(functools.partial(super().do_handshake, block))

    context = property(lambda self: self._context, _forbidden)
    session = property(lambda _self: None, _forbidden)


def peer_of(connection: Any) -> Peer | None:
    """Return who is at the other end of a connection; None where nobody was judged, or it is none of ours.

    Args:
        connection: a TLS object or socket; whatever has `get_extra_info` (a transport, a stream writer); a response of
            httpx.
    """
    extensions = getattr(connection, "extensions", None)
    if isinstance(extensions, dict):
        connection = extensions.get("network_stream")
    if hasattr(connection, "get_extra_info"):
        connection = connection.get_extra_info("ssl_object")
    # httpx hands out the object under a socket of ours; that knows whose it is.
    connection = getattr(connection, "owner", None) or connection
    return connection.peer if isinstance(connection, _Attested) else None


_REFUSING_ALERTS: Final = {
    "TLSV1_ALERT_UNKNOWN_CA": "does not accept this side's evidence",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "demands a certificate with evidence, and this side has none",
    "SSLV3_ALERT_BAD_CERTIFICATE": "does not accept this side's certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "does not accept this side's certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "says that this side's certificate has expired",
    "TLSV1_ALERT_ACCESS_DENIED": "does not accept this side's certificate",
}
"""Alerts of a peer that refuses this side, by OpenSSL's name, and what they say."""


def _explained(error: ssl.SSLError) -> ssl.SSLError:
    said = _REFUSING_ALERTS.get(error.reason)
    if said is None:
        return error
    return AttestationFailed(
        Rejection(Reason.PEER_REJECTED_US, f"the peer {said} ({error.reason})", hint="the peer's log says why")
    )


def _broken_off(error: ssl.SSLError) -> PeerMisbehaved:
    """Return what a server has to say of a handshake that came to no verdict."""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        refusal = PeerMisbehaved(Reason.PEER_CLOSED, "the client closed the connection before the handshake was over")
    else:
        refusal = PeerMisbehaved(
            Reason.TLS_HANDSHAKE,
            f"the TLS handshake failed: {error.reason or error}",
            hint="the client has to speak TLS 1.3 to this port, through nothing that ends TLS",
        )
    refusal.__cause__ = error
    return refusal


def _malformed() -> MalformedInput:
    return MalformedInput(Reason.CERTIFICATE_MALFORMED, "the peer's Certificate message is not what TLS 1.3 says")


def _our_bug(error: Exception) -> EAAError:
    bug = EAAError(Reason.INTERNAL, f"judging the peer failed with {type(error).__name__}")
    bug.__cause__ = error
    return bug
