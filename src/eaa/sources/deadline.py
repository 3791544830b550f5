"""One deadline for a whole request, from connecting to the last byte.

urllib3's own timeout is one for each read: a server that sends a byte now and then, of a TLS handshake or of a header,
never meets it, and would hold a thread for as long as it likes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from typing import Any, ClassVar, Self

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class Deadline:
    """Ends what the connections that are made within it are busy with; for one thread at a time."""

    _of_thread: ClassVar = threading.local()

    def __init__(self, seconds: float) -> None:
        self.expired = False
        """Whether it has passed: then no answer that came is whole."""
        self._handles: list[socket.socket] = []
        self._guard = threading.Lock()
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True

    @classmethod
    def current(cls) -> Deadline | None:
        """Return the deadline of this thread."""
        deadline: Deadline | None = getattr(cls._of_thread, "deadline", None)
        return deadline

    def watch(self, sock: socket.socket) -> None:
        """Put a connection under this deadline."""
        # A descriptor of our own: the TLS layer takes the socket's away and replaces it.
        handle = socket.socket(fileno=os.dup(sock.fileno()))
        with self._guard:
            self._handles.append(handle)
            if self.expired:
                self._hang_up()

    def __enter__(self) -> Self:
        self._of_thread.deadline = self
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._of_thread.deadline = None
        with self._guard:
            for handle in self._handles:
                handle.close()
            self._handles.clear()

    def _expire(self) -> None:
        with self._guard:
            self.expired = True
            self._hang_up()

    def _hang_up(self) -> None:
        for handle in self._handles:
            with contextlib.suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)


def _watched(sock: socket.socket) -> socket.socket:
    if deadline := Deadline.current():
        deadline.watch(sock)
    return sock


class _PlainConnection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _watched(super()._new_conn())

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            # Made for an earlier request, under its deadline.
            _watched(self.sock)
        super().putrequest(method, url, *args, **kwargs)


class _TLSConnection(_PlainConnection, HTTPSConnection):
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


def watched_pool(context: ssl.SSLContext | None) -> urllib3.PoolManager:
    """Return a pool whose connections are under the deadline of the thread that makes them."""
    pool = urllib3.PoolManager(ssl_context=context, maxsize=4)
    pool.pool_classes_by_scheme = {"http": _PlainPool, "https": _TLSPool}
    return pool
