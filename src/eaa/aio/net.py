"""Sockets for addresses: listening and connecting, with errors that say what to do."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import signal
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from eaa.aio.address import Address, TCPAddress, UnixAddress, unavailable_from_os_error
from eaa.errors import EAAError, Reason, Unavailable

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for one address to answer."""
BACKLOG_PAUSE: Final = 0.01
"""Seconds after which a full unix socket is tried again."""
BACKLOG: Final = 2048
"""Connections that the system keeps until they are accepted; it has a maximum of its own."""
MAX_CONNECTIONS: Final = 4096
"""Connections served at once; one more is closed at once, so that a flood costs its sender and not the others."""
DESCRIPTORS: Final = 3 * MAX_CONNECTIONS
"""Descriptors that a service asks the system for: a relayed connection has two, and there are files beside."""
ACCEPT_PAUSE: Final = 0.1
"""Seconds after which accepting is tried again where the system has nothing left to accept with."""
DRAIN: Final = 5.0
"""Seconds that live connections get to finish when a service is told to stop."""

_CREDENTIALS: Final = struct.Struct("iII")
"""Linux's struct ucred: process, user, group."""

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


# --- connecting ---------------------------------------------------------------------------------------------------


async def connect(address: Address) -> socket.socket:
    """Return a connected, non-blocking socket. Tries every address a name resolves to; never another one.

    Raises:
        Unavailable: ADDRESS_UNRESOLVED, CONNECTION_FAILED or PERMISSION_DENIED.
    """
    failure: OSError | None = None
    for family, target in await _targets(address):
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)  # noqa: FBT003  the standard library's signature
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await _connect(sock, target)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            _no_delay(sock)
            return sock
    assert failure is not None
    if isinstance(failure, TimeoutError):
        failure = OSError(errno.ETIMEDOUT, f"no answer in {CONNECT_TIMEOUT:g} seconds")
    raise unavailable_from_os_error(failure, doing=f"{address} cannot be reached") from failure


async def _connect(sock: socket.socket, target: tuple[str, int] | str) -> None:
    if sock.family != socket.AF_UNIX:
        await asyncio.get_running_loop().sock_connect(sock, target)
        return
    # A full backlog is EAGAIN on a unix socket, and nothing says when there is room. asyncio would take it for a
    # connection that is being made, and then for one that is there.
    while True:
        try:
            sock.connect(target)
        except BlockingIOError:
            await asyncio.sleep(BACKLOG_PAUSE)
        else:
            return


async def _targets(address: Address) -> list[tuple[socket.AddressFamily, tuple[str, int] | str]]:
    if isinstance(address, UnixAddress):
        return [(socket.AF_UNIX, str(address.path))]
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise Unavailable(
            Reason.ADDRESS_UNRESOLVED,
            f"the name {address.host} does not resolve: {getattr(error, 'strerror', None) or error}",
            hint="check the spelling and this machine's name service",
        ) from error
    return [(family, target) for family, _, _, _, target in found]  # type: ignore[misc]


def _no_delay(sock: socket.socket) -> None:
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


# --- listening ----------------------------------------------------------------------------------------------------


def bind(address: Address) -> list[socket.socket]:
    """Return listening, non-blocking sockets for every address a name stands for.

    Raises:
        Unavailable: ADDRESS_IN_USE, PERMISSION_DENIED, ADDRESS_UNRESOLVED or CONNECTION_FAILED.
    """
    try:
        if isinstance(address, UnixAddress):
            return [_bind_unix(address.path)]
        return _bind_tcp(address)
    except socket.gaierror as error:
        raise Unavailable(
            Reason.ADDRESS_UNRESOLVED,
            f"the name {address} does not resolve: {error.strerror}",
            hint="check the spelling",
        ) from error
    except OSError as error:
        raise unavailable_from_os_error(error, doing=f"cannot listen on {address}") from error


def _bind_tcp(address: TCPAddress) -> list[socket.socket]:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listening: list[socket.socket] = []
    try:
        for family, kind, protocol, _, target in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            listening.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(target)
            sock.listen(BACKLOG)
            sock.setblocking(False)  # noqa: FBT003  the standard library's signature
    except BaseException:
        for sock in listening:
            sock.close()
        raise
    return listening


def _bind_unix(path: Path) -> socket.socket:
    """Bind a unix socket, mode 0600, over nothing or over a socket nobody listens on; nothing else is unlinked."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode) or _is_alive(path):
            raise OSError(errno.EADDRINUSE, "something is there")
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        sock.bind(str(path))
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(before)
    sock.listen(BACKLOG)
    sock.setblocking(False)  # noqa: FBT003  the standard library's signature
    return sock


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            # Not ours to judge (permissions, a full backlog): leave it alone.
            return True
        return True


def bound_name(sock: socket.socket) -> str:
    """Return the address a socket really listens on, the port chosen by the system included."""
    if sock.family == socket.AF_UNIX:
        return str(UnixAddress(Path(sock.getsockname())))
    host, port, *_ = sock.getsockname()
    return str(TCPAddress(host, port))


# --- serving ------------------------------------------------------------------------------------------------------

Handler = Callable[[socket.socket, str], Awaitable[None]]
"""Serves one accepted connection; the second argument names the peer for logs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listener:
    sock: socket.socket
    handler: Handler
    path: _BoundPath | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _BoundPath:
    """The path of a unix socket as it was bound: what lies there later may be somebody else's."""

    path: Path
    device: int
    inode: int

    @classmethod
    def of(cls, sock: socket.socket) -> _BoundPath | None:
        if sock.family != socket.AF_UNIX:
            return None
        path = Path(sock.getsockname())
        status = path.lstat()
        return cls(path=path, device=status.st_dev, inode=status.st_ino)

    def unlink(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            status = self.path.lstat()
            if (status.st_dev, status.st_ino) == (self.device, self.inode):
                self.path.unlink()


class Service:
    """Accepts on some sockets and serves each connection in a task of its own until told to stop.

    A bad peer costs its own connection: whatever its handler raises is logged and nothing else.
    """

    def __init__(self, *, max_connections: int | None = None) -> None:
        self._max_connections = MAX_CONNECTIONS if max_connections is None else max_connections
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: list[asyncio.Task[None]] = []
        self._listeners: list[_Listener] = []
        self._accepted = 0
        self._refused = 0

    def listen(self, address: Address, handler: Handler) -> list[str]:
        """Bind an address; return the names it is bound to.

        Raises:
            Unavailable: it cannot be had. Those that were bound before are given back: a service has all or none.
        """
        try:
            sockets = bind(address)
        except BaseException:
            self.close()
            raise
        self._listeners.extend(_Listener(sock=sock, handler=handler, path=_BoundPath.of(sock)) for sock in sockets)
        return [bound_name(sock) for sock in sockets]

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets that it listens on; none once it is closed."""
        return tuple(listener.sock for listener in self._listeners)

    async def run(self, announce: Callable[[], None]) -> int:
        """Serve until SIGTERM or SIGINT, then drain. `announce` is called once everything really listens.

        Returns:
            The exit code: 143 after SIGTERM, 130 after SIGINT.
        """
        _allow_descriptors()
        loop = asyncio.get_running_loop()
        stopped: asyncio.Future[int] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _settle, stopped, 128 + number)
        self.start()
        announce()
        try:
            return await self.serve_until(stopped)
        finally:
            await self.stop()

    def start(self) -> None:
        """Begin to accept, in the event loop that runs."""
        self._accepting = [asyncio.create_task(self._accept(listener)) for listener in self._listeners]

    async def serve_until(self, stopped: asyncio.Future[_T]) -> _T:
        """Wait until `stopped` is done, and return its result."""
        ends: list[asyncio.Future[Any]] = [stopped, *self._accepting]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not stopped.done():
            for task in self._accepting:
                if task.done():
                    # It never ends by itself: a bug of ours, and better no service than one that has gone deaf.
                    task.result()
        return stopped.result()

    async def stop(self) -> None:
        """Accept no more, give live connections DRAIN seconds to finish, and end those that have not."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self.close()
        await self._drain()

    def close(self) -> None:
        """Close the listening sockets; a unix socket's path goes with it."""
        for listener in self._listeners:
            listener.sock.close()
            if listener.path:
                listener.path.unlink()
        self._listeners.clear()

    async def _accept(self, listener: _Listener) -> None:
        failing = False
        while True:
            try:
                sock, peer = await asyncio.get_running_loop().sock_accept(listener.sock)
            except OSError as error:
                # Out of descriptors or memory: what is served goes on, and accepting is tried again.
                if not failing:
                    logger.error("cannot accept: %s [%s]", error.strerror, Reason.OVERLOADED)  # noqa: TRY400  one line
                failing = True
                await asyncio.sleep(ACCEPT_PAUSE)
                continue
            failing = False
            if len(self._tasks) < self._max_connections:
                self._accepted += 1
                self._start(listener.handler, sock, _peer_name(sock, peer, self._accepted))
            else:
                self._refuse(sock)

    def _start(self, handler: Handler, sock: socket.socket, peer: str) -> None:
        if self._refused:
            logger.warning("%d connections were refused [%s]", self._refused, Reason.OVERLOADED)
            self._refused = 0
        task = asyncio.create_task(_serve(handler, sock, peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _refuse(self, sock: socket.socket) -> None:
        if not self._refused:
            # One line for a flood, not one for each of its connections.
            logger.warning("connections are refused: %d are being served [%s]", len(self._tasks), Reason.OVERLOADED)
        self._refused += 1
        sock.close()

    async def _drain(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DRAIN)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _allow_descriptors() -> None:
    """Raise the soft limit of open files, which is 1024 on most systems, as far as we may and have use for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(handler: Handler, sock: socket.socket, peer: str) -> None:
    try:
        _no_delay(sock)
        await handler(sock, peer)
    except EAAError as error:
        logger.warning("%s: %s [%s]", peer, "; ".join(filter(None, (error.message, error.hint))), error.reason)
    except OSError as error:
        logger.warning("%s: %s [%s]", peer, error.strerror or error, Reason.PEER_CLOSED)
    except Exception:
        logger.exception("%s: a bug of ours ended this connection [%s]", peer, Reason.INTERNAL)
    finally:
        sock.close()


def _peer_name(sock: socket.socket, peer: object, number: int) -> str:
    """Return what tells peers apart in a log: address and port, or a number and the process of a unix peer."""
    match peer:
        case (str(host), int(port), *_):
            return str(TCPAddress(host, port)).removeprefix("tcp://")
    with contextlib.suppress(OSError):
        process, _, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        return f"unix peer {number} (process {process})"
    return f"unix peer {number}"


def _settle(future: asyncio.Future[int], code: int) -> None:
    if not future.done():
        future.set_result(code)
