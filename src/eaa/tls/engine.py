"""pyOpenSSL's own way into OpenSSL, for what its public methods cannot do, or not as quickly.

Where a release of pyOpenSSL keeps it elsewhere there is none, and everything works even so, but for two things: `bulk`
is slower, and a peer that sends new keys without end is read for as long as it does.
"""

from __future__ import annotations

import errno
from typing import Any, Final

from OpenSSL import SSL

_WANTED: Final = (
    *("SSL_read", "SSL_write", "SSL_get_error", "SSL_ERROR_WANT_READ", "SSL_ERROR_WANT_WRITE"),
    *("SSL_clear_mode", "SSL_MODE_AUTO_RETRY"),
)


def _find() -> tuple[Any, Any] | None:
    try:
        from OpenSSL._util import ffi, lib  # noqa: PLC0415  see the module
    except ImportError:
        return None
    has_all = all(hasattr(lib, name) for name in _WANTED) and hasattr(SSL.Connection, "_raise_ssl_error")
    return (ffi, lib) if has_all else None


ENGINE: Final = _find()
"""cffi's functions, and OpenSSL's; None where they are not to be had."""


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
