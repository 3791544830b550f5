"""What a TLS connection asks of OpenSSL: by pyOpenSSL's own way into it, or by its public methods where there is none.

The public methods raise where a step has to wait, make an object of each certificate, and look every connection up by
its number: in a handshake, where all code is cold, that is a twentieth of the time. Where a release of pyOpenSSL keeps
OpenSSL elsewhere everything works even so, but for two things: it is slower, and a peer that sends new keys without end
is read for as long as it does.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, Protocol

from OpenSSL import SSL, crypto

_WANTED: Final = (
    *("SSL_do_handshake", "SSL_read", "SSL_peek", "SSL_write", "SSL_shutdown", "SSL_version"),
    *("SSL_get_error", "SSL_ERROR_WANT_READ", "SSL_ERROR_WANT_WRITE", "SSL_clear_mode", "SSL_MODE_AUTO_RETRY"),
    *("SSL_get_peer_cert_chain", "sk_X509_num", "SSL_CTX_set_verify", "i2d_X509_bio", "BIO_new", "BIO_s_mem"),
    *("BIO_get_mem_data", "BIO_free", "X509_STORE_CTX_get_current_cert", "X509_STORE_CTX_get_error"),
    *("X509_STORE_CTX_get_error_depth", "X509_STORE_CTX_set_error", "X509_V_OK"),
    *("SSL_CTX_set_alpn_select_cb", "SSL_TLSEXT_ERR_OK", "SSL_TLSEXT_ERR_ALERT_FATAL"),
)
_PEEK: Final = 2
"""MSG_PEEK: look, and leave it where it is."""
MAX_KNOWN_OFFERS: Final = 16
"""Lists of protocols that are remembered as read: all clients of one kind offer the same."""


class Want(Enum):
    """What an operation that could not go on is waiting for."""

    NOTHING = "nothing"
    READ = "bytes from the peer"
    WRITE = "room for bytes to the peer"


def _find() -> tuple[Any, Any] | None:
    try:
        from OpenSSL._util import ffi, lib  # noqa: PLC0415  see the module
    except ImportError:
        return None
    has_all = all(hasattr(lib, name) for name in _WANTED) and hasattr(SSL.Connection, "_raise_ssl_error")
    return (ffi, lib) if has_all else None


ENGINE: Final = _find()
"""cffi's functions, and OpenSSL's; None where they are not to be had."""


class PublicCalls:
    """One connection, by pyOpenSSL's public methods. What has to wait raises."""

    __slots__ = ("_connection",)

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection

    def shake_hands(self) -> Want:
        """Go on with the handshake; Want.NOTHING once it is done."""
        self._connection.do_handshake()
        return Want.NOTHING

    def read(self, size: int) -> bytes | Want:
        """Return up to `size` bytes of the peer."""
        return self._connection.recv(size)

    def peek(self) -> bool | Want:
        """Tell that there are bytes of the peer, and leave them there."""
        return bool(self._connection.recv(1, _PEEK))

    def write(self, data: bytes | memoryview) -> int | Want:
        """Send these bytes, and return how many were taken."""
        return self._connection.send(data)

    def say_goodbye(self) -> Want:
        """Send close_notify. What it waits for after that is the peer's."""
        self._connection.shutdown()
        return Want.NOTHING

    def is_tls_1_3(self) -> bool:
        """Tell whether that is what both ends speak."""
        return self._connection.get_protocol_version() == SSL.TLS1_3_VERSION

    def count_peer_certificates(self) -> int:
        """Return how many the peer has sent."""
        return len(self._connection.get_peer_cert_chain(as_cryptography=False) or ())


class DirectCalls:
    """One connection, by OpenSSL's own functions. What has to wait says so; other failures raise as pyOpenSSL's do."""

    __slots__ = ("_connection", "_pointer")

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._pointer = connection._ssl  # noqa: SLF001  see the module

    def shake_hands(self) -> Want:
        """Go on with the handshake; Want.NOTHING once it is done."""
        done: int = _lib.SSL_do_handshake(self._pointer)
        return Want.NOTHING if done > 0 else self._explain(done)

    def read(self, size: int) -> bytes | Want:
        """Return up to `size` bytes of the peer."""
        buffer = _allocate("char[]", size)
        read: int = _lib.SSL_read(self._pointer, buffer, size)
        if read <= 0:
            return self._explain(read)
        data: bytes = _ffi.unpack(buffer, read)
        return data

    def peek(self) -> bool | Want:
        """Tell that there are bytes of the peer, and leave them there."""
        seen: int = _lib.SSL_peek(self._pointer, _ffi.new("char[]", 1), 1)
        return True if seen > 0 else self._explain(seen)

    def write(self, data: bytes | memoryview) -> int | Want:
        """Send these bytes, and return how many were taken."""
        written: int
        if isinstance(data, bytes):
            written = _lib.SSL_write(self._pointer, data, len(data))
        else:
            # Let go of at once: a view that waits with a traceback for the garbage collector crashes it.
            with _ffi.from_buffer(data) as buffer:
                written = _lib.SSL_write(self._pointer, buffer, len(buffer))
        return written if written > 0 else self._explain(written)

    def say_goodbye(self) -> Want:
        """Send close_notify. What it waits for after that is the peer's."""
        said: int = _lib.SSL_shutdown(self._pointer)
        return Want.NOTHING if said >= 0 else self._explain(said)

    def is_tls_1_3(self) -> bool:
        """Tell whether that is what both ends speak."""
        return bool(_lib.SSL_version(self._pointer) == SSL.TLS1_3_VERSION)

    def count_peer_certificates(self) -> int:
        """Return how many the peer has sent."""
        chain = _lib.SSL_get_peer_cert_chain(self._pointer)
        return 0 if chain == _ffi.NULL else int(_lib.sk_X509_num(chain))

    def _explain(self, result: int) -> Want:
        error = _lib.SSL_get_error(self._pointer, result)
        if error == _WANT_READ:
            return Want.READ
        if error == _WANT_WRITE:
            return Want.WRITE
        # pyOpenSSL turns OpenSSL's numbers into exceptions.
        self._connection._raise_ssl_error(self._pointer, result)  # noqa: SLF001  see the module
        raise AssertionError(f"OpenSSL has failed with {error} and does not say why")


Calls = PublicCalls | DirectCalls

if ENGINE is not None:
    _ffi, _lib = ENGINE
    # OpenSSL fills what is allocated here.
    _allocate = _ffi.new_allocator(should_clear_after_alloc=False)
    _WANT_READ, _WANT_WRITE = _lib.SSL_ERROR_WANT_READ, _lib.SSL_ERROR_WANT_WRITE


def calls_on(connection: SSL.Connection) -> Calls:
    """Return the quickest way there is."""
    fast = ENGINE is not None and hasattr(connection, "_ssl")
    return DirectCalls(connection) if fast else PublicCalls(connection)


class Judge(Protocol):
    """Who is asked of a peer's certificate in the middle of a handshake."""

    bug: Exception | None
    """What went wrong with it, which no peer has to answer for."""

    def judge(self, error: int, depth: int, encoded: Callable[[], bytes]) -> bool:
        """Say whether the handshake goes on, of OpenSSL's number of a mistake and the certificate that has it, DER."""


def have_judged(context: SSL.Context, mode: int, judge_now: Callable[[], Judge | None]) -> object:
    """Have certificates of peers judged by whom `judge_now` returns; keep what this returns for as long as the context.

    OpenSSL asks in the thread that goes on with a handshake, and others may do so on the same context at that moment.
    """
    if ENGINE is None or not hasattr(context, "_context"):
        context.set_verify(
            mode, lambda _ssl, certificate, error, depth, _ok: _ask(judge_now(), error, depth, certificate)
        )
        return None

    def answer(_ok: int, store: Any) -> int:
        error, depth = _lib.X509_STORE_CTX_get_error(store), _lib.X509_STORE_CTX_get_error_depth(store)
        judge = judge_now()
        if judge is None:
            return 0
        try:
            good = judge.judge(error, depth, lambda: _encoded(store))
        except Exception as bug:  # noqa: BLE001  nothing can be raised through OpenSSL
            good, judge.bug = False, bug
        if good:
            _lib.X509_STORE_CTX_set_error(store, _lib.X509_V_OK)
        return int(good)

    callback = _ffi.callback("int (*)(int, X509_STORE_CTX *)", answer, error=0)
    _lib.SSL_CTX_set_verify(context._context, mode, callback)  # noqa: SLF001  see the module
    kept: object = callback
    return kept


Choose = Callable[[tuple[bytes, ...]], bytes | None]
"""Returns which of a client's protocols is spoken; None where none is, which ends the handshake with an alert."""


def have_chosen(context: SSL.Context, spoken: tuple[bytes, ...], choose: Choose) -> object:
    """Have one of these protocols chosen by ALPN; keep what this returns for as long as the context.

    OpenSSL asks in the thread that goes on with a handshake, as `have_judged` has it.
    """
    if ENGINE is None or not hasattr(context, "_context"):

        def answer_with_name(_ssl: SSL.Connection, offered: list[bytes]) -> bytes:
            if (chosen := choose(tuple(offered))) is None:
                raise SSL.Error([])
            return chosen

        context.set_alpn_select_callback(answer_with_name)
        return None
    # OpenSSL is told where a name is, and looks there when this has returned.
    names = {name: _ffi.new("unsigned char[]", name) for name in spoken}

    def answer(_ssl: Any, name: Any, size: Any, offered: Any, length: int, _argument: Any) -> int:
        chosen = choose(_names_in(_ffi.buffer(offered, length)[:]))
        if chosen is None:
            fatal: int = _lib.SSL_TLSEXT_ERR_ALERT_FATAL
            return fatal
        name[0], size[0] = names[chosen], len(chosen)
        good: int = _lib.SSL_TLSEXT_ERR_OK
        return good

    signature = "int (*)(SSL *, unsigned char **, unsigned char *, const unsigned char *, unsigned int, void *)"
    callback = _ffi.callback(signature, answer, error=_lib.SSL_TLSEXT_ERR_ALERT_FATAL)
    _lib.SSL_CTX_set_alpn_select_cb(context._context, callback, _ffi.NULL)  # noqa: SLF001  see the module
    return names, callback


@functools.lru_cache(maxsize=MAX_KNOWN_OFFERS)
def _names_in(offered: bytes) -> tuple[bytes, ...]:
    """Return the names of a list, each of them behind its length; OpenSSL hands on none that is cut off."""
    names = []
    while offered:
        end = 1 + offered[0]
        names.append(offered[1:end])
        offered = offered[end:]
    return tuple(names)


def _ask(judge: Judge | None, error: int, depth: int, certificate: crypto.X509) -> bool:
    return judge is not None and judge.judge(
        error, depth, lambda: crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
    )


def _encoded(store: Any) -> bytes:
    """Return the certificate that OpenSSL asks about, DER."""
    memory = _lib.BIO_new(_lib.BIO_s_mem())
    if memory == _ffi.NULL:
        raise MemoryError
    try:
        content = _ffi.new("char **")
        if _lib.i2d_X509_bio(memory, _lib.X509_STORE_CTX_get_current_cert(store)) != 1:
            raise MemoryError
        data: bytes = _ffi.unpack(content[0], size) if (size := _lib.BIO_get_mem_data(memory, content)) else b""
        return data
    finally:
        _lib.BIO_free(memory)


def read_one_at_a_time(connection: SSL.Connection) -> bool:
    """Have a read return after each message that is no application data; tell whether that can be had.

    pyOpenSSL has OpenSSL go on to the next one. Messages after the handshake, new keys above all, may be sent without
    end, and 27 bytes of them keep this side busy for 12 µs: one read would not return as long as a peer likes.
    """
    pointer = getattr(connection, "_ssl", None)
    if ENGINE is None or pointer is None:
        return False
    ENGINE[1].SSL_clear_mode(pointer, ENGINE[1].SSL_MODE_AUTO_RETRY)
    return True


def found_nothing_to_read() -> bool:
    """Tell whether a read that has to wait found its socket empty; it may have taken a message, and stopped there."""
    return ENGINE is None or ENGINE[0].errno == errno.EAGAIN
