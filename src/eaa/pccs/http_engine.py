"""The HTTP engine: granian's worker, started by us on a socket of ours; see docs/adr/0006-pccs-server.md.

The engine's usual form forks a worker for each process and shares the port between them, which leaves an orphan where
the parent is killed, and lets a second server take the same port without a word. Here it is handed a socket that is
bound and listening already, so that every failure to get the address surfaces before anything starts, and port 0
means what it means elsewhere.

Several engines may serve one socket, each with a certificate of its own: so a certificate is replaced without a
request being lost, see `Engine.retire`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from granian._granian import CallbackScheduler, RSGIWorker, SocketHolder, WorkerSignal
from granian.http import HTTP1Settings

from eaa.errors import EAAError, Misuse, Reason, Unavailable

ENGINE_VERSION: Final = "2.8"
"""Of granian: its minor versions may change what is used here; pyproject.toml names the same."""
BACKLOG: Final = 1024
MAX_CONNECTIONS: Final = 4096
MAX_HEAD: Final = 64 * 1024
"""Bytes of a request's head."""
KEEP_ALIVE: Final = 60
"""Seconds that an idle connection, or one whose head is not complete, is kept; the reference announces the same."""
MAX_PEM: Final = 256 * 1024
"""Bytes of a certificate chain or key."""
_OWN_DESCRIPTORS: Final = 64
"""Set aside for the database and everything else."""
_RUST_THREADS: Final = 1
_WAITING_THREADS: Final = 512
_PYTHON_THREADS: Final = 1
_IDLE_THREAD: Final = 30
_OLDEST_TLS: Final = "tls1.2"
_log = logging.getLogger(__name__)

Answerer = Callable[[Any, Any], bool]
"""Takes the scope and the protocol of a request (the engine's RSGI interface) and answers it at once, or does not."""
Application = Callable[[Any, Any], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSFiles:
    """A certificate chain and its key, PEM."""

    certificate: Path
    key: Path

    def require_usable(self) -> None:
        """Raise Misuse (FILE_UNREADABLE) unless the engine will be able to use them; it never asks for a password."""
        with _snapshot(self):
            pass


@contextmanager
def _snapshot(files: TLSFiles) -> Iterator[tuple[str, str]]:
    """Read both files once, see that they go together, and yield paths under which exactly these bytes are found."""
    try:
        with contextlib.ExitStack() as stack:
            paths = [stack.enter_context(_in_memory(path)) for path in (files.certificate, files.key)]
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate, key = paths
            context.load_cert_chain(certificate, key, password=lambda: b"")
            yield certificate, key
    except (OSError, ssl.SSLError, ValueError) as error:
        detail = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Misuse(
            Reason.FILE_UNREADABLE,
            f"the TLS certificate {files.certificate} with key {files.key} cannot be used: {detail}",
            hint="give a PEM certificate chain and its own PEM key, not encrypted and readable by this user",
        ) from error


@contextmanager
def _in_memory(path: Path) -> Iterator[str]:
    """Yield a path to a copy of a file that is in no file system: what is written meanwhile does not matter."""
    with path.open("rb") as stream:
        content = stream.read(MAX_PEM + 1)
    if len(content) > MAX_PEM:
        raise ValueError(f"{path} has more than {MAX_PEM} bytes")
    copy = os.memfd_create("eaa-pccs", os.MFD_CLOEXEC)
    try:
        os.write(copy, content)
        yield f"/proc/self/fd/{copy}"
    finally:
        os.close(copy)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens at this address.

    Raises:
        OSError: what the operating system says, a port that is taken for instance.
        Unavailable: ADDRESS_UNRESOLVED.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise Unavailable(
            Reason.ADDRESS_UNRESOLVED,
            f"the host name {host} is not known: {error.strerror}",
            hint="check the spelling and this machine's name service, or give a number",
        ) from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # Not SO_REUSEPORT, with which two servers would share a port and nobody would be told.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)  # noqa: FBT003  the library's own signature
    except BaseException:
        listener.close()
        raise
    return listener


def is_known_version() -> bool:
    """Whether the engine is of the version that this file was written for: we make classes of its private module."""
    return metadata.version("granian").startswith(f"{ENGINE_VERSION}.")


def engine_failure(why: str) -> EAAError:
    """Return what is raised where the engine does not do its work."""
    if not is_known_version():
        return Misuse(
            Reason.USAGE,
            f"the HTTP engine does not serve: granian {metadata.version('granian')} is installed, and {ENGINE_VERSION} "
            f"is wanted ({why})",
            hint="`pip install 'inclavare-eaa[pccs]'` installs the version that goes with this program",
        )
    return Unavailable(
        Reason.CONNECTION_FAILED,
        f"the HTTP engine does not serve: {why}",
        hint="what it printed before this line says more; check the TLS files, if there are any",
    )


class Engine:
    """One engine on a listening socket, with one certificate."""

    def __init__(self, listener: socket.socket, tls: TLSFiles | None) -> None:
        """Prepare it; `start` begins to accept.

        Args:
            listener: bound and listening; the engine works on a copy of its descriptor.
            tls: serve https with these, or plain http.
        """
        self._tls = tls
        # The engine closes the descriptor that it is given: it gets one of its own.
        self._descriptor = os.dup(listener.fileno())
        self._signal = WorkerSignal()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Is done once it has come to its end."""

    def start(self, answer_at_once: Answerer, application: Application) -> None:
        """Accept connections.

        Args:
            answer_at_once: is asked first, on the engine's own Python thread, and must not wait for anything.
            application: answers what that does not, on the event loop.

        Raises:
            Misuse: FILE_UNREADABLE, the certificate or its key.
            Unavailable: it does not start.
        """
        _quieten()
        loop = asyncio.get_running_loop()
        self._signal.add_cb(lambda: _in_loop(loop, self._end))
        scheduler = _Scheduler(loop, answer_at_once, application)
        try:
            with contextlib.ExitStack() as stack:
                tls = (False, None, None) if self._tls is None else (True, *stack.enter_context(_snapshot(self._tls)))
                self._worker(*tls).serve_async(scheduler, loop, self._signal)
        except Misuse:
            raise
        except BaseException as error:
            # What the engine cannot use is a panic, which is no Exception.
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise engine_failure(str(error)) from error

    def _worker(self, has_tls: bool, certificate: str | None, key: str | None) -> Any:  # noqa: FBT001  the engine's own
        make_holder: Any = SocketHolder  # the stubs leave out arguments: descriptor, whether unix, backlog
        make_worker: Any = RSGIWorker
        settings = HTTP1Settings(header_read_timeout=KEEP_ALIVE * 1000, max_buffer_size=MAX_HEAD)
        return make_worker(
            1,
            (None, make_holder(self._descriptor, False, BACKLOG)),  # noqa: FBT003  the library's own signature
            None,
            threads=_RUST_THREADS,
            blocking_threads=_WAITING_THREADS,
            py_threads=_PYTHON_THREADS,
            py_threads_idle_timeout=_IDLE_THREAD,
            backpressure=connections_allowed(),
            http_mode="1",
            http1_opts=settings,
            http2_opts=None,
            websockets_enabled=False,
            static_files=None,
            ssl_enabled=has_tls,
            ssl_cert=certificate,
            ssl_key=key,
            ssl_key_password=None,
            ssl_protocol_min=_OLDEST_TLS,
            ssl_ca=None,
            ssl_crl=[],
            ssl_client_verify=False,
        )

    def retire(self) -> None:
        """Accept no more connections, and go on with those that are there.

        The engine itself knows only to stop, which closes idle connections while a request may be on its way in one.
        So its descriptor is made to mean another socket, to which nobody ever connects.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as nobody:
            nobody.bind(("127.0.0.1", 0))
            nobody.listen(1)
            nobody.setblocking(False)  # noqa: FBT003  the library's own signature
            os.dup2(nobody.fileno(), self._descriptor, inheritable=False)

    def finish(self) -> None:
        """Stop accepting, and let requests in progress come to their end."""
        self._signal.set()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class _Scheduler(CallbackScheduler):
    """Is given each request by the engine, on a thread of the engine's that runs Python."""

    def __new__(cls, loop: asyncio.AbstractEventLoop, answer_at_once: Answerer, application: Application) -> Any:
        """Make it: what the engine would call by itself is never used."""
        del answer_at_once
        make: Any = super().__new__
        return make(cls, loop, application, None, None, None)

    def __init__(self, loop: asyncio.AbstractEventLoop, answer_at_once: Answerer, application: Application) -> None:
        super().__init__()

        async def handle(watcher: Any) -> None:
            try:
                await application(watcher.scope, watcher.proto)
            except BaseException as error:  # noqa: BLE001  the engine answers 500, and is told why
                watcher.err(error)
            else:
                watcher.done()

        def begin(watcher: Any) -> None:
            watcher.taskref(loop.create_task(handle(watcher)))

        def schedule(watcher: Any) -> None:
            # Nothing may be raised to who calls this.
            try:
                if not answer_at_once(watcher.scope, watcher.proto):
                    _in_loop(loop, begin, watcher)
            except Exception:  # noqa: BLE001  a bug of ours costs this request
                _log.exception("an error of ours")

        self._schedule_fn = schedule


def _in_loop(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *arguments: Any) -> None:
    """Call something in the event loop; it may be closed by now, and then nobody waits for it any more."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *arguments)


def _quieten() -> None:
    """Keep the engine from speaking for itself: what has to be said is said by us."""
    logging.getLogger("_granian").setLevel(logging.CRITICAL + 1)


def connections_allowed() -> int:
    """Return how many connections may be open at once, having asked for as many descriptors as we may have.

    Past it, new ones wait in the kernel's queue; out of descriptors, nothing else of ours could open a file either.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + _OWN_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    allowed = wanted if soft == resource.RLIM_INFINITY else min(wanted, soft)
    return max(allowed - _OWN_DESCRIPTORS, 1)
