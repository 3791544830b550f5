"""The HTTP engine: granian, embedded, one process from start to end; see docs/adr/0006-pccs-server.md.

The engine's usual form forks a worker for each process and shares the port between them, which leaves an orphan where
the parent is killed, and lets a second server take the same port without a word. Here it is handed a socket that is
bound and listening already, so that every failure to get the address surfaces before anything starts, and port 0
means what it means elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from granian._granian import RSGIProtocolClosed, RSGIProtocolError, SocketHolder
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.server.embed import Server as EmbeddedServer

from eaa.errors import Misuse, Reason, Unavailable
from eaa.pccs.service import Service
from eaa.pccs.wire import Request, Response, Status
from eaa.program.loop import run_service

BACKLOG: Final = 1024
MAX_CONNECTIONS: Final = 4096
MAX_HEAD: Final = 64 * 1024
"""Bytes of a request's head."""
KEEP_ALIVE: Final = 60
"""Seconds that an idle connection, or one whose head is not complete, is kept; the reference announces the same."""
BODY_TIMEOUT: Final = 15.0
"""Seconds for the body of one request."""
MAX_DISCARDED: Final = 8 * 1024 * 1024
"""Bytes of a body that is announced as too long which are read and thrown away."""
DRAIN_TIMEOUT: Final = 0.7
"""Seconds that requests in progress get when the service is stopped."""
START_TIMEOUT: Final = 10.0
_OWN_DESCRIPTORS: Final = 64
"""Set aside for the database and everything else."""
_LINGER: Final = 0.1
_FETCH: Final = "fetch"
_REQUEST_TIMEOUT: Final = 408
FETCHERS: Final = 64
"""Threads that wait for the upstream; each of many clients that miss the same document takes one."""
MAX_WEIGHING: Final = 32
"""Requests whose tokens wait to be hashed; past it they are answered 503."""
WORKERS: Final = 4
"""Threads that answer requests; SQLite reads take well under a millisecond."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSFiles:
    """A certificate chain and its key, PEM."""

    certificate: Path
    key: Path

    def require_usable(self) -> None:
        """Raise Misuse (FILE_UNREADABLE) unless the engine will be able to use them; it never asks for a password."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key, password=lambda: b"")
        except (OSError, ssl.SSLError, ValueError) as error:
            detail = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise Misuse(
                Reason.FILE_UNREADABLE,
                f"the TLS certificate {self.certificate} with key {self.key} cannot be used: {detail}",
                hint="give a PEM certificate chain and its own PEM key, not encrypted and readable by this user",
            ) from error


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


def serve(
    service: Service, listener: socket.socket, *, tls: TLSFiles | None, ready: Callable[[str], None]
) -> signal.Signals:
    """Serve until SIGTERM or SIGINT, let requests in progress finish, and return which signal it was.

    Args:
        service: what answers.
        listener: bound and listening.
        tls: serve https with these, or plain http.
        ready: called with the base URL once a request has been answered there.

    Raises:
        Unavailable: the engine does not start.
    """
    if tls is not None:
        tls.require_usable()
    return run_service(_serve(service, listener, tls, ready))


async def _serve(
    service: Service, listener: socket.socket, tls: TLSFiles | None, ready: Callable[[str], None]
) -> signal.Signals:
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[signal.Signals] = loop.create_future()

    def stop(received: signal.Signals) -> None:
        if not stopped.done():
            stopped.set_result(received)

    for handled in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(handled, stop, handled)
    fetching = ThreadPoolExecutor(max_workers=FETCHERS, thread_name_prefix=_FETCH)
    with ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="answer") as pool:
        application = _Application(service, pool, fetching)
        engine = _Engine(application, listener, tls)
        running = loop.create_task(engine.serve())
        starting = loop.create_task(_first_answer(listener, is_tls=tls is not None))
        try:
            await asyncio.wait({running, starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done() and not stopped.done():
                starting.result()
                ready(base_url(listener, is_tls=tls is not None))
                await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not stopped.done():
                raise _engine_failure("it stopped by itself")
        finally:
            starting.cancel()
            listener.close()
            await _drain(engine, application, running)
            fetching.shutdown(wait=False, cancel_futures=True)
    return stopped.result()


async def _drain(engine: _Engine, application: _Application, running: asyncio.Task[None]) -> None:
    """Let requests in progress come to their end, for a while."""
    engine.finish()
    idle = asyncio.create_task(application.idle())
    await asyncio.wait({running, idle}, timeout=DRAIN_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
    idle.cancel()
    # Idle, or out of patience: what was answered last may still be on its way out.
    await asyncio.wait({running}, timeout=_LINGER)


def _engine_failure(why: str) -> Unavailable:
    return Unavailable(
        Reason.CONNECTION_FAILED,
        f"the HTTP engine does not serve: {why}",
        hint="what it printed before this line says more; check the TLS files, if there are any",
    )


def base_url(listener: socket.socket, *, is_tls: bool) -> str:
    """Return the URL at which this socket is reached."""
    host, port = listener.getsockname()[:2]
    return f"{'https' if is_tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}/"


async def _first_answer(listener: socket.socket, *, is_tls: bool) -> None:
    """Return once a request to our own address is answered: then, and not before, the service is ready."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  compared with, not bound to
    context = ssl.create_default_context() if is_tls else None
    if context is not None:
        # It is our own key that answers; clients verify it, we only want to know that it does.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(START_TIMEOUT):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            try:
                writer.write(b"OPTIONS / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answer = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        raise _engine_failure(str(error) or "no answer in time") from error
    if not answer.startswith(b"HTTP/1.1 "):
        raise _engine_failure("it closes connections without an answer")


class _Engine(EmbeddedServer):
    """The library's in-process server, on a socket of ours."""

    def __init__(self, application: _Application, listener: socket.socket, tls: TLSFiles | None) -> None:
        super().__init__(
            application,
            interface=Interfaces.RSGI,
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(header_read_timeout=KEEP_ALIVE * 1000, max_buffer_size=MAX_HEAD),
            websockets=False,
            backlog=BACKLOG,
            backpressure=_connections_allowed(),
            log_enabled=False,
            ssl_cert=None if tls is None else tls.certificate,
            ssl_key=None if tls is None else tls.key,
            ssl_protocol_min=SSLProtocols.tls12,
        )
        self._listener = listener

    def _init_shared_socket(self) -> None:
        # The one step that is replaced: the library would bind here, with SO_REUSEPORT.
        make_holder: Any = SocketHolder  # its stub leaves out the arguments: descriptor, whether unix, backlog
        # The engine closes the descriptor that it is given: it gets one of its own.
        holder = make_holder(os.dup(self._listener.fileno()), False, BACKLOG)  # noqa: FBT003  the library's own signature
        vars(self).update(_ssp=None, _shd=holder, _sfd=holder.get_fd())

    def finish(self) -> None:
        """Stop accepting, and let requests in progress come to their end."""
        self.stop()  # type: ignore[no-untyped-call]


def _connections_allowed() -> int:
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


class _Application:
    """Carries requests from the engine to the service and answers back."""

    def __init__(self, service: Service, pool: ThreadPoolExecutor, fetching: ThreadPoolExecutor) -> None:
        self._service = service
        self._pool = pool
        self._fetching = fetching
        self._scales = ThreadPoolExecutor(max_workers=1, thread_name_prefix="token")
        self._weighing = 0
        self._in_progress = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def idle(self) -> None:
        """Return once no request is in progress."""
        await self._is_idle.wait()

    async def __call__(self, scope: Any, protocol: Any) -> None:
        """Answer one request (the engine's RSGI interface)."""
        request = Request(
            method=scope.method,
            path=scope.path,
            query=scope.query_string,
            headers={name.lower(): value for name, value in scope.headers.items()},
        )
        self._in_progress += 1
        self._is_idle.clear()
        try:
            response = await self._respond(request, protocol)
        except TimeoutError:
            response = Response(status=_REQUEST_TIMEOUT, headers=(("Connection", "close"), ("Content-Length", "0")))
        except (RSGIProtocolClosed, RSGIProtocolError):
            _log.debug("%s: the client went away", request)
            return
        except Exception:  # noqa: BLE001  a bug of ours costs this request, and is logged as what it is
            _log.exception("%s: an error of ours", request)
            response = self._service.refused(request, Status.INTERNAL_ERROR)
        finally:
            self._in_progress -= 1
            if not self._in_progress:
                self._is_idle.set()
        _send(protocol, request, scope.http_version, response)

    async def _weigh(self, request: Request) -> bool:
        """Have the tokens of a request hashed, slowly and one at a time; too many guesses are not even hashed."""
        if self._weighing >= MAX_WEIGHING:
            return False
        self._weighing += 1
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._scales, self._service.weigh, request)
        finally:
            self._weighing -= 1
        return True

    async def _respond(self, request: Request, protocol: Any) -> Response:
        kept = self._service.kept(request)
        if kept is not None:
            return kept
        if not self._service.is_weighed(request) and not await self._weigh(request):
            return self._service.refused(request, Status.UNAVAILABLE)
        limit = self._service.body_limit(request)
        if limit:
            async with asyncio.timeout(BODY_TIMEOUT):
                body = await _read_body(request, protocol, limit)
            if body is None:
                return self._service.refused(request, Status.CONTENT_TOO_LARGE)
            request = replace(request, body=body)
        loop = asyncio.get_running_loop()
        response = await loop.run_in_executor(self._pool, self._service.attempt, request)
        if response is None:
            # Whoever waits for the upstream keeps nobody waiting whose answer is here.
            response = await loop.run_in_executor(self._fetching, self._service.answer, request)
        return response


async def _read_body(request: Request, protocol: Any, limit: int) -> bytes | None:
    """Return the body, or None where it is longer than the limit."""
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit:
        await _discard_body(protocol)
        return None
    body = bytearray()
    async for chunk in protocol:
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)


async def _discard_body(protocol: Any) -> None:
    """Let a body that is too long come to its end: who still sends would see a broken pipe and never our answer."""
    size = 0
    async for chunk in protocol:
        size += len(chunk)
        if size > MAX_DISCARDED:
            return


def _send(protocol: Any, request: Request, http_version: str, response: Response) -> None:
    headers = [(name.lower(), value) for name, value in response.headers]
    # The engine would put its own name here.
    headers.append(("server", "eaa-pccs"))
    is_closing = "close" in request.headers.get("connection", "").lower()
    if http_version == "1.1" and not is_closing and response.status != _REQUEST_TIMEOUT:
        headers += [("connection", "keep-alive"), ("keep-alive", f"timeout={KEEP_ALIVE}")]
    if response.body:
        protocol.response_bytes(response.status, headers, response.body)
    else:
        protocol.response_empty(response.status, headers)


def leave_if_engine_lingers(code: int) -> None:
    """Exit at once, with this code, where the engine's own threads do not end within a moment.

    They belong to requests that no client ever finishes, and must not outlive the interpreter: they would touch it
    while it is being taken down. Everything of ours has to be closed before this is called.
    """
    deadline = time.monotonic() + _LINGER
    while (_foreign_threads() or _fetching_threads()) and time.monotonic() < deadline:
        time.sleep(0.002)
    if _foreign_threads() or _fetching_threads():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _fetching_threads() -> int:
    """Return how many threads still wait for the upstream; nobody waits for them any more."""
    return sum(thread.name.startswith(_FETCH) for thread in threading.enumerate())


def _foreign_threads() -> int:
    """Return how many threads of this process are not Python's."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) - threading.active_count() if tasks.is_dir() else 1
