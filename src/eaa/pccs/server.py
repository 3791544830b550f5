"""The service on the wire: engines on a socket, requests carried to `Service` and answers back.

A request whose answer is ready gets it on the engine's own thread, see `eaa.pccs.hot`. Any other comes to the event
loop, which hands to threads what waits for the database, for the upstream or for a slow hash. A certificate that was
replaced is taken by a new engine on the same socket, while the old one goes on with the connections that it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from granian._granian import RSGIProtocolClosed, RSGIProtocolError
from sqlalchemy.exc import SQLAlchemyError

from eaa.pccs.hot import CLOSING, KEPT_OPEN, HotAnswers
from eaa.pccs.http_engine import KEEP_ALIVE, Engine, TLSFiles, bind, engine_failure
from eaa.pccs.metrics import route_of
from eaa.pccs.openapi import OPENAPI, described
from eaa.pccs.service import Service
from eaa.pccs.wire import Request, Response, Status, named_headers
from eaa.program.loop import run_service

__all__ = ["Background", "TLSFiles", "base_url", "bind", "leave_if_engine_lingers", "serve"]

BODY_TIMEOUT: Final = 15.0
"""Seconds for the body of one request."""
MAX_DRAINED: Final = 64 * 1024
"""Bytes of a body nobody wants which are read and thrown away, so that the connection can be kept."""
MAX_DISCARDED: Final = 8 * 1024 * 1024
"""Bytes of a body that is announced as too long which are read and thrown away."""
DRAIN_TIMEOUT: Final = 0.7
"""Seconds that requests in progress get when the service is stopped."""
START_TIMEOUT: Final = 10.0
LOOK_INTERVAL: Final = 1.0
"""Seconds after which another process's upload is seen at the latest."""
SWEEP_EVERY: Final = 60
"""Looks after which answers that are never given any more are let go of."""
RETIRED_FOR: Final = KEEP_ALIVE + 15.0
"""Seconds after which an engine whose certificate was replaced is stopped: no connection is idle for longer."""
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

Background = Callable[["Serving"], contextlib.AbstractAsyncContextManager[Any]]
"""What runs beside the service for as long as it serves: a listener for operators, a look at the certificate."""


def serve(
    service: Service,
    listener: socket.socket,
    *,
    tls: TLSFiles | None,
    ready: Callable[[str], None],
    leaving: Callable[[], None] = lambda: None,
    beside: Background | None = None,
) -> signal.Signals:
    """Serve until SIGTERM or SIGINT, let requests in progress finish, and return which signal it was.

    Args:
        service: what answers.
        listener: bound and listening.
        tls: serve https with these, or plain http.
        ready: called with the base URL once a request has been answered there.
        leaving: called when it begins to end.
        beside: runs for as long; what it raises before it is entered ends the service.

    Raises:
        Unavailable: the engine does not start.
    """
    if tls is not None:
        tls.require_usable()
    return run_service(_serve(service, listener, tls, ready, leaving, beside))


async def _serve(
    service: Service,
    listener: socket.socket,
    tls: TLSFiles | None,
    ready: Callable[[str], None],
    leaving: Callable[[], None],
    beside: Background | None,
) -> signal.Signals:
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[signal.Signals] = loop.create_future()

    def stop(received: signal.Signals) -> None:
        if not stopped.done():
            stopped.set_result(received)

    for handled in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(handled, stop, handled)
    fetching = ThreadPoolExecutor(max_workers=FETCHERS, thread_name_prefix=_FETCH)
    async with contextlib.AsyncExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="answer"))
        serving = Serving(listener, _Application(service, pool, fetching))
        if beside is not None:
            await stack.enter_async_context(beside(serving))
        try:
            serving.start(tls)
            looking = loop.create_task(serving.look())
            starting = loop.create_task(_first_answer(listener, is_tls=tls is not None))
            await _any_of(serving.ended, starting, stopped)
            if starting.done() and not stopped.done():
                starting.result()
                ready(base_url(listener, is_tls=tls is not None))
                await _any_of(serving.ended, stopped)
            if not stopped.done():
                raise engine_failure("it stopped by itself")
            looking.cancel()
        finally:
            starting.cancel()
            leaving()
            listener.close()
            await serving.drain()
            fetching.shutdown(wait=False, cancel_futures=True)
    return stopped.result()


async def _any_of(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


class Serving:
    """The engines on one socket: the present one, and those that only finish what they have begun."""

    def __init__(self, listener: socket.socket, application: _Application) -> None:
        self._listener = listener
        self._application = application
        self._lanes: list[_Lane] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Is done where the present engine ends though nobody told it to."""

    @property
    def answered(self) -> Counter[tuple[str, int]]:
        """How many requests were answered, by route and status."""
        return self._application.answered

    def start(self, tls: TLSFiles | None) -> None:
        """Serve with this certificate from now on; connections that are there keep theirs until they end.

        Raises:
            Misuse: FILE_UNREADABLE; the present certificate is served on.
            Unavailable: the engine does not start.
        """
        lane = _Lane(engine=Engine(self._listener, tls), application=self._application)
        lane.engine.start(lane.answer_at_once, lane)
        former, self._lanes = self._lanes[-1:], [*self._lanes, lane]
        lane.engine.ended.add_done_callback(lambda _: self._left(lane))
        for old in former:
            old.is_closing = True
            old.engine.retire()
            asyncio.get_running_loop().call_later(RETIRED_FOR, old.engine.finish)

    def _left(self, lane: _Lane) -> None:
        self._lanes = [each for each in self._lanes if each is not lane]
        if not self._lanes and not self.ended.done():
            self.ended.set_result(None)

    async def look(self) -> None:
        """Look every second whether the store has changed, for as long as anybody asks."""
        for number in range(sys.maxsize):
            await self._application.look()
            if number % SWEEP_EVERY == 0:
                self._application.hot.sweep()
            await asyncio.sleep(LOOK_INTERVAL)

    async def drain(self) -> None:
        """Let requests in progress come to their end, for a while."""
        engines = [lane.engine for lane in self._lanes]
        for engine in engines:
            engine.finish()
        if not engines:
            return
        ended = asyncio.ensure_future(asyncio.wait({engine.ended for engine in engines}))
        idle = asyncio.create_task(self._application.idle())
        await asyncio.wait({ended, idle}, timeout=DRAIN_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        # Idle, or out of patience: what was answered last may still be on its way out.
        await asyncio.wait({ended}, timeout=_LINGER)
        ended.cancel()


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
        raise engine_failure(str(error) or "no answer in time") from error
    if not answer.startswith(b"HTTP/1.1 "):
        raise engine_failure("it closes connections without an answer")


class _Lane:
    """One engine, and what its connections have in common."""

    def __init__(self, *, engine: Engine, application: _Application) -> None:
        self.engine = engine
        self.is_closing = False
        """Whether each answer is the last of its connection."""
        self._application = application

    def answer_at_once(self, scope: Any, protocol: Any) -> bool:
        """Answer a request whose answer is ready."""
        return self._application.hot.give(scope, protocol, is_closing=self.is_closing)

    async def __call__(self, scope: Any, protocol: Any) -> None:
        """Answer any other."""
        answered = await self._application.answer(scope, protocol)
        if answered is not None:
            _send(protocol, *answered, scope.http_version, is_closing=self.is_closing)


class _Application:
    """Carries requests from the engine to the service and answers back."""

    def __init__(self, service: Service, pool: ThreadPoolExecutor, fetching: ThreadPoolExecutor) -> None:
        self.hot = HotAnswers(service)
        self._service = service
        self._pool = pool
        self._fetching = fetching
        self._scales = ThreadPoolExecutor(max_workers=1, thread_name_prefix="token")
        self._weighing = 0
        self._in_progress = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._answered: Counter[tuple[str, int]] = Counter()

    @property
    def answered(self) -> Counter[tuple[str, int]]:
        """How many requests were answered, by route and status."""
        return self._answered + Counter({(route, 200): count for route, count in self.hot.given.copy().items()})

    async def idle(self) -> None:
        """Return once no request is in progress."""
        await self._is_idle.wait()

    async def look(self) -> None:
        """Look whether the store has changed, if anybody has asked since the last look."""
        if not self.hot.was_asked:
            return
        self.hot.was_asked = False
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._service.look)
        except SQLAlchemyError as error:
            # Whoever asks gets no ready answer then, and the answer that he gets says so.
            _log.error("the database fails: %s", getattr(error, "orig", error))
        else:
            self.hot.looked()

    async def answer(self, scope: Any, protocol: Any) -> tuple[Request, Response] | None:
        """Return the answer to one request; None where the client went away."""
        request = Request(
            method=scope.method,
            path=scope.path,
            query=scope.query_string,
            headers=named_headers(scope.headers.items()),
        )
        self._in_progress += 1
        self._is_idle.clear()
        try:
            request, response = await self._respond(request, protocol)
        except TimeoutError:
            response = Response(status=_REQUEST_TIMEOUT, headers=(("Connection", "close"), ("Content-Length", "0")))
        except (RSGIProtocolClosed, RSGIProtocolError):
            _log.debug("%s: the client went away", request)
            return None
        except Exception:  # noqa: BLE001  a bug of ours costs this request, and is logged as what it is
            _log.exception("%s: an error of ours", request)
            response = self._service.refused(request, Status.INTERNAL_ERROR)
        finally:
            self._in_progress -= 1
            if not self._in_progress:
                self._is_idle.set()
        self._answered[route_of(request.path), response.status] += 1
        return request, response

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

    async def _respond(self, request: Request, protocol: Any) -> tuple[Request, Response]:
        """Return the request, with its body where that was read, and the answer."""
        if request.path == OPENAPI:
            return request, described(request)
        kept = self._service.kept(request)
        if kept is not None:
            self._keep(request, kept, self._service.generation)
            return request, kept
        if not self._service.is_weighed(request) and not await self._weigh(request):
            return request, self._service.refused(request, Status.UNAVAILABLE)
        limit = self._service.body_limit(request)
        if limit:
            async with asyncio.timeout(BODY_TIMEOUT):
                body = await _read_body(request, protocol, limit)
            if body is None:
                return _as_read(request, limit), self._service.refused(request, Status.CONTENT_TOO_LARGE)
            request = replace(request, body=body)
        elif 0 < _announced(request) <= MAX_DRAINED:
            # Read and thrown away: otherwise the engine would end the connection, which the reference keeps.
            async with asyncio.timeout(BODY_TIMEOUT):
                await _discard_body(protocol)
            request = _as_read(request, MAX_DRAINED)
        loop = asyncio.get_running_loop()
        generation = self._service.generation
        response = await loop.run_in_executor(self._pool, self._service.attempt, request)
        if response is None:
            # Whoever waits for the upstream keeps nobody waiting whose answer is here.
            response = await loop.run_in_executor(self._fetching, self._service.answer, request)
        self._keep(request, response, generation)
        return request, response

    def _keep(self, request: Request, response: Response, generation: int) -> None:
        self.hot.keep(request, response, generation=generation, route=route_of(request.path))


async def _read_body(request: Request, protocol: Any, limit: int) -> bytes | None:
    """Return the body, or None where it is longer than the limit."""
    if _announced(request) > limit:
        await _discard_body(protocol)
        return None
    body = bytearray()
    async for chunk in protocol:
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)


def _announced(request: Request) -> int:
    """Return how many bytes of body a request announces; 0 where it does not say."""
    text = request.headers.get("content-length", "0").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0


def _as_read(request: Request, limit: int) -> Request:
    """Return a request whose body was thrown away as one without a body, unless it was too long even for that."""
    was_read = limit < _announced(request) <= MAX_DISCARDED or _announced(request) <= MAX_DRAINED
    return replace(request, headers={**request.headers, "content-length": "0"}) if was_read else request


async def _discard_body(protocol: Any) -> None:
    """Let a body that is too long come to its end: who still sends would see a broken pipe and never our answer."""
    size = 0
    async for chunk in protocol:
        size += len(chunk)
        if size > MAX_DISCARDED:
            return


def _send(protocol: Any, request: Request, response: Response, http_version: str, *, is_closing: bool) -> None:
    headers = [(name.lower(), value) for name, value in response.headers]
    # The engine would put its own name here.
    headers.append(("server", "eaa-pccs"))
    # Where a body was not read, the engine ends the connection, and says so by itself.
    closes = "close" in request.headers.get("connection", "").lower() or _has_unread_body(request)
    if is_closing:
        headers += CLOSING
    elif http_version == "1.1" and not closes and response.status != _REQUEST_TIMEOUT:
        headers += KEPT_OPEN
    if response.body:
        protocol.response_bytes(response.status, headers, response.body)
    else:
        protocol.response_empty(response.status, headers)


def _has_unread_body(request: Request) -> bool:
    announced = request.headers.get("content-length", "0").strip() not in ("", "0")
    return not request.body and (announced or "transfer-encoding" in request.headers)


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
