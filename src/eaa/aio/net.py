"""Sockets for addresses: listening and connecting, with errors that say what to do."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import logging
import os
import resource
import signal
import socket
import stat
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from eaa.aio.address import Address, TCPAddress, UnixAddress, unavailable_from_os_error
from eaa.aio.context import forget_frames, note, serve_beginner, was_given_up
from eaa.aio.counters import COUNTERS, Limit
from eaa.aio.limits import Beginners, Gate, HalfOpen, ServiceLimits, origin_of
from eaa.aio.together import Board, Origin
from eaa.errors import EAAError, Reason, Unavailable

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for one address to answer."""
BACKLOG_PAUSE: Final = 0.01
"""Seconds after which a full unix socket is tried again."""
BACKLOG: Final = 2048
"""Connections that the system keeps until they are accepted; it has a maximum of its own."""
MAX_CONNECTIONS: Final = 4096
"""Connections that a library's server serves at once; one more is closed at once, so that a flood costs its sender."""
DESCRIPTORS: Final = 3 * MAX_CONNECTIONS
"""Descriptors that a service asks the system for at least."""
DESCRIPTORS_EACH: Final = 2
"""Descriptors of a connection that is carried on to somebody else."""
DESCRIPTORS_KEPT: Final = 48
"""Descriptors that connections never get: for files, fetches, the listeners and the answers on them."""
ACCEPT_PAUSE: Final = 0.1
"""Seconds after which accepting is tried again where the system has nothing left to accept with."""
ACCEPT_PATIENCE: Final = 1.0
"""Seconds of that after which those who wait to be accepted are refused: it will not pass in a moment."""
ACCEPTS_IN_A_ROW: Final = 16
"""Connections that are accepted before those that are served have their turn, however many come at once."""
REFUSALS_IN_A_ROW: Final = 64
"""Connections that are refused so between two pauses."""
REFUSALS_SAID_EVERY: Final = 10.0
"""Seconds between two log lines about connections that were refused."""
PARTING_TIMEOUT: Final = 1.0
"""Seconds in which a peer that was refused may take note of it."""
MAX_PARTING: Final = 256
"""Peers that get this time at once."""
MAX_UNREAD: Final = 64 * 1024
"""Bytes of a peer that are read, and dropped, while it is refused."""
TLS_OVERLOADED: Final = bytes.fromhex("1503030002025a")
"""A fatal alert in a record of its own: user_canceled, "for some reason unrelated to a protocol failure".

TLS has none that says "later". Source: RFC 8446, 5.1, 6 and 6.1.
"""
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
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise unavailable_from_os_error(error, doing=f"{address} cannot be reached") from error
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
    """Have what is written sent at once; what a socket that listens accepts inherits it."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


# --- listening ----------------------------------------------------------------------------------------------------


def bind(address: Address, *, reuse_port: bool = False) -> list[socket.socket]:
    """Return listening, non-blocking sockets for every address a name stands for.

    Args:
        address: where to listen.
        reuse_port: let other sockets of this user listen on the same port, and share its connections evenly.

    Raises:
        Unavailable: ADDRESS_IN_USE, PERMISSION_DENIED, ADDRESS_UNRESOLVED or CONNECTION_FAILED.
    """
    try:
        if isinstance(address, UnixAddress):
            return [_bind_unix(address.path)]
        return _bind_tcp(address, reuse_port=reuse_port)
    except socket.gaierror as error:
        raise Unavailable(
            Reason.ADDRESS_UNRESOLVED,
            f"the name {address} does not resolve: {error.strerror}",
            hint="check the spelling",
        ) from error
    except OSError as error:
        raise unavailable_from_os_error(error, doing=f"cannot listen on {address}") from error


def _bind_tcp(address: TCPAddress, *, reuse_port: bool) -> list[socket.socket]:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listening: list[socket.socket] = []
    try:
        for family, kind, protocol, _, target in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            listening.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            _no_delay(sock)
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


@dataclass(slots=True, kw_only=True)
class _Listener:
    sock: socket.socket
    handler: Handler
    path: _BoundPath | None
    failing_since: float | None = None
    """By the event loop's clock; None while accepting works."""


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

    A bad peer costs its own connection: whatever its handler raises is logged and nothing else. Nobody has more of the
    service than its limits say, and whoever is refused is told so at once.
    """

    def __init__(
        self,
        *,
        limits: ServiceLimits | None = None,
        max_connections: int | None = None,
        farewell: bytes = b"",
        board: Board | None = None,
    ) -> None:
        """Make one that listens nowhere yet.

        Args:
            limits: what strangers may have of it.
            max_connections: in place of limits, how many may be there at once, MAX_CONNECTIONS where both are left out.
            farewell: what is sent to who is refused, a few bytes, TLS_OVERLOADED for instance.
            board: where several processes count together that share these limits.
        """
        most = MAX_CONNECTIONS if max_connections is None else max_connections
        self._limits = ServiceLimits.of_connections(most) if limits is None else limits
        # Who serves inside somebody else's program leaves that program's limits alone.
        self._is_whole_program = limits is not None
        refused: Counter[Limit] = COUNTERS.refused if limits is not None else Counter()
        self._gate = Gate(self._limits, refused=refused, board=board)
        self._beginners = Beginners()
        self._farewell = farewell
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: list[asyncio.Task[None]] = []
        self._parting: set[asyncio.Task[None]] = set()
        self._listeners: list[_Listener] = []
        self._spare: int | None = None
        self._accepted = 0
        self._refusals = _Refusals()

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

    def adopt(self, sockets: list[socket.socket], handler: Handler) -> list[str]:
        """Serve on sockets that listen already; return their names. The path of a unix socket stays whose it is."""
        for sock in sockets:
            sock.setblocking(False)  # noqa: FBT003  the standard library's signature
            _no_delay(sock)
            self._listeners.append(_Listener(sock=sock, handler=handler, path=None))
        return [bound_name(sock) for sock in sockets]

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets that it listens on; none once it is closed."""
        return tuple(listener.sock for listener in self._listeners)

    @property
    def live(self) -> int:
        """Connections that it serves."""
        return self._gate.live

    @property
    def max_connections(self) -> int:
        """Connections that it serves at once, as the system allows it."""
        return self._gate.most

    @property
    def accepted(self) -> int:
        """Connections that it has served, those included."""
        return self._accepted

    @property
    def is_accepting(self) -> bool:
        """Whether it listens and takes connections."""
        return bool(self._listeners) and any(not task.done() for task in self._accepting)

    async def run(self, announce: Callable[[], None]) -> int:
        """Serve until SIGTERM or SIGINT, then drain. `announce` is called once everything really listens.

        Returns:
            The exit code: 143 after SIGTERM, 130 after SIGINT.
        """
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
        if self._is_whole_program:
            self._use_descriptors()
        self._keep_spare()
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

    async def stop(self, *, grace: float | None = None, hurry: asyncio.Future[None] | None = None) -> None:
        """Accept no more, give live connections `grace` seconds to finish, and end those that have not.

        Args:
            grace: DRAIN where it is left out.
            hurry: once it is done, connections get no more time.
        """
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self.close()
        await self._drain(DRAIN if grace is None else grace, hurry)

    def close(self) -> None:
        """Close the listening sockets; a unix socket's path goes with it."""
        for listener in self._listeners:
            listener.sock.close()
            if listener.path:
                listener.path.unlink()
        self._listeners.clear()
        self._refusals.close()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    async def _accept(self, listener: _Listener) -> None:
        """Accept whoever comes. It ends by being cancelled, or by a bug of ours."""
        loop = asyncio.get_running_loop()
        while True:
            failed: asyncio.Future[OSError] = loop.create_future()
            # Watched all the time, and without a turn of this task for who comes.
            loop.add_reader(listener.sock, self._accept_some, listener, failed)
            try:
                error = await failed
            finally:
                loop.remove_reader(listener.sock)
            # Out of descriptors or memory: what is served goes on, and accepting is tried again.
            now = loop.time()
            if listener.failing_since is None:
                listener.failing_since = now
                logger.error(
                    "cannot accept: %s [%s]",
                    error.strerror,
                    Reason.OVERLOADED,
                    extra={"event": "accept.failed", "limit": Limit.DESCRIPTORS},
                )
            if now - listener.failing_since >= ACCEPT_PATIENCE:
                self._refuse_with_spare(listener)
            await asyncio.sleep(ACCEPT_PAUSE)

    def _accept_some(self, listener: _Listener, failed: asyncio.Future[OSError]) -> None:
        if failed.done():
            return
        try:
            for _ in range(ACCEPTS_IN_A_ROW):
                if not self._accept_one(listener):
                    break
        except OSError as error:
            failed.set_result(error)
        except Exception as bug:  # noqa: BLE001  it is raised where the future is awaited
            failed.set_exception(bug)

    def _accept_one(self, listener: _Listener) -> bool:
        """Serve or refuse the next one who waits; return whether there was any. Raises OSError."""
        try:
            sock, peer = accept(listener.sock)
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionAbortedError:
            # It was gone before it was accepted.
            return True
        if listener.failing_since is not None:
            logger.info("accepting again", extra={"event": "accept.resumed"})
            listener.failing_since = None
        origin = origin_of(sock)
        limit = self._gate.enter(origin, make_room=self._make_room)
        if limit is None:
            self._accepted += 1
            self._start(listener.handler, sock, _peer_name(sock, peer, self._accepted), origin)
        else:
            self._refuse(sock, limit, origin)
        return True

    def _start(self, handler: Handler, sock: socket.socket, peer: str, origin: Origin) -> None:
        beginner = self._beginners.add(sock, origin)
        context = contextvars.copy_context()
        context.run(serve_beginner, beginner)
        task = asyncio.get_running_loop().create_task(_serve(handler, sock, peer, self._accepted), context=context)
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._ended(task, beginner))

    def _ended(self, task: asyncio.Task[None], beginner: HalfOpen) -> None:
        # A task that is cancelled before its first turn has done nothing at all.
        beginner.sock.close()
        beginner.leave()
        self._tasks.discard(task)
        if not beginner.has_left:
            self._gate.leave(beginner.origin)

    def _make_room(self, origin: Origin | None) -> bool:
        """End the connection, of an address or of all, whose peer has stalled in its handshake for longest, if any."""
        stalled = self._beginners.stalled(origin)
        if stalled is None:
            return False
        stalled.leave()
        stalled.has_left = True
        self._gate.leave(stalled.origin)
        COUNTERS.refused[Limit.HALF_OPEN] += 1
        self._refusals.add(Limit.HALF_OPEN, stalled.origin)
        # Its handler finds the peer gone, and ends.
        with contextlib.suppress(OSError):
            stalled.sock.send(self._farewell)
        with contextlib.suppress(OSError):
            stalled.sock.shutdown(socket.SHUT_RDWR)
        return True

    def _refuse(self, sock: socket.socket, limit: Limit, origin: Origin) -> None:
        self._refusals.add(limit, origin)
        if self._say_farewell(sock) or len(self._parting) >= MAX_PARTING:
            sock.close()
            return
        task = asyncio.create_task(_part(sock))
        self._parting.add(task)
        task.add_done_callback(lambda task: self._parted(task, sock))

    def _parted(self, task: asyncio.Task[None], sock: socket.socket) -> None:
        sock.close()
        self._parting.discard(task)

    def _say_farewell(self, sock: socket.socket) -> bool:
        """Say no, as far as that takes no time; return whether the socket may be closed without taking it back.

        Closing a socket over unread bytes, or before they come, resets the connection: the peer may not hear a thing.
        """
        with contextlib.suppress(OSError):
            if not self._farewell:
                return True
            sock.setblocking(False)  # noqa: FBT003  the standard library's signature
            sock.send(self._farewell)
            sock.shutdown(socket.SHUT_WR)
            try:
                sock.recv(MAX_UNREAD)
            except BlockingIOError:
                return False
        return True

    def _keep_spare(self) -> None:
        with contextlib.suppress(OSError):
            if self._spare is None:
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _refuse_with_spare(self, listener: _Listener) -> None:
        """Where there is no descriptor left, tell those who wait with the one that was kept for this."""
        if self._spare is None:
            return
        os.close(self._spare)
        self._spare = None
        with contextlib.suppress(OSError):
            for _ in range(REFUSALS_IN_A_ROW):
                sock, _ = listener.sock.accept()
                COUNTERS.refused[Limit.DESCRIPTORS] += 1
                self._refusals.add(Limit.DESCRIPTORS, origin_of(sock))
                self._say_farewell(sock)
                sock.close()
        self._keep_spare()

    def _use_descriptors(self) -> None:
        """Have the system allow what the limits promise, or promise less."""
        allowed = _allow_descriptors(DESCRIPTORS_EACH * self._limits.max_connections + DESCRIPTORS_KEPT)
        room = max(1, (allowed - DESCRIPTORS_KEPT) // DESCRIPTORS_EACH)
        if room < self._limits.max_connections:
            self._gate.room = room
            logger.warning(
                "this system allows %d open files, which is enough for %d connections at once and not for %d",
                allowed,
                room,
                self._limits.max_connections,
                extra={"event": "service.limited", "limit": Limit.DESCRIPTORS},
            )

    async def _drain(self, grace: float, hurry: asyncio.Future[None] | None) -> None:
        if self._tasks:
            finished = asyncio.ensure_future(asyncio.wait(self._tasks))
            ends: list[asyncio.Future[Any]] = [finished] if hurry is None else [finished, hurry]
            await asyncio.wait(ends, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            finished.cancel()
        for task in (*self._tasks, *self._parting):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._parting, return_exceptions=True)


class _Refusals:
    """Says that connections are refused: at once, and then one line for all that follow in some seconds."""

    def __init__(self) -> None:
        self._counts: Counter[Limit] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, limit: Limit, origin: Origin) -> None:
        if self._timer is None:
            logger.warning(
                "connections are refused, the first from %s: limit %s [%s]",
                origin.value or origin.kind,
                limit,
                Reason.OVERLOADED,
                extra={"event": "connections.refused", "limit": limit, "origin": origin.value or origin.kind},
            )
            self._begin()
        else:
            self._counts[limit] += 1

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._tell()
            self._timer = None

    def _begin(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(REFUSALS_SAID_EVERY, self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        if self._counts:
            self._tell()
            self._begin()

    def _tell(self) -> None:
        counts, self._counts = self._counts, Counter()
        for limit, count in counts.items():
            logger.warning(
                "%d more connections were refused: limit %s [%s]",
                count,
                limit,
                Reason.OVERLOADED,
                extra={"event": "connections.refused", "limit": limit, "count": count},
            )


def accept(listening: socket.socket) -> tuple[socket.socket, Any]:
    """Return the next connection, non-blocking, and who it is of. Raises OSError, BlockingIOError where nobody waits.

    Args:
        listening: of TCP, or a unix socket of the same type.
    """
    # `socket.accept` turns numbers into enumerations, and these into numbers again, which takes longer than to accept.
    listener: Any = listening
    number, peer = listener._accept()  # noqa: SLF001  what the public method calls
    sock = socket.socket(type=socket.SOCK_STREAM, proto=0, fileno=number)
    sock.setblocking(False)  # noqa: FBT003  the standard library's signature
    return sock, peer


async def _part(sock: socket.socket) -> None:
    """Drop what a peer that was refused still sends until it hangs up, for a moment."""
    dropped = 0
    with contextlib.suppress(OSError):
        async with asyncio.timeout(PARTING_TIMEOUT):
            while dropped < MAX_UNREAD and (data := await asyncio.get_running_loop().sock_recv(sock, MAX_UNREAD)):
                dropped += len(data)


def _allow_descriptors(wanted: int = DESCRIPTORS) -> int:
    """Raise the soft limit of open files, which is 1024 on most systems, as far as we may and have use for.

    Returns:
        What it is then. A system that knows no such limit, a library OS for instance, allows what is wanted.
    """
    wanted = max(wanted, DESCRIPTORS)
    with contextlib.suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            return wanted
        target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft >= target:
            return soft
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            return target
        return soft
    return wanted


async def _serve(handler: Handler, sock: socket.socket, peer: str, number: int) -> None:
    note(connection=number, peer=peer)
    try:
        await handler(sock, peer)
    except EAAError as error:
        message = "; ".join(filter(None, (error.message, error.hint)))
        # Those that were given up are said all together.
        level = logging.DEBUG if was_given_up() else logging.WARNING
        logger.log(level, "%s: %s [%s]", peer, message, error.reason, extra={"event": "connection.failed"})
        forget_frames(error)
    except OSError as error:
        what = error.strerror or error
        logger.warning("%s: %s [%s]", peer, what, Reason.PEER_CLOSED, extra={"event": "connection.failed"})
    except Exception:
        logger.exception(
            "%s: a bug of ours ended this connection [%s]",
            peer,
            Reason.INTERNAL,
            extra={"event": "connection.failed"},
        )
    finally:
        sock.close()


def _peer_name(sock: socket.socket, peer: object, number: int) -> str:
    """Return what tells peers apart in a log: address and port, or a number and the process of a unix peer."""
    match peer:
        case (str(host), int(port), *_):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with contextlib.suppress(OSError):
        process, _, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        return f"unix peer {number} (process {process})"
    return f"unix peer {number}"


def _settle(future: asyncio.Future[_T], result: _T) -> None:
    if not future.done():
        future.set_result(result)
