"""Where metrics and health are served: a listener of its own, which shares no port, and no limit, with peers.

It is off unless an operator names its address, and takes nothing but short requests, for a short time each.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, Final

from eaa.aio.address import Address
from eaa.aio.limits import origin_of
from eaa.aio.net import Service
from eaa.aio.together import Origin
from eaa.program.exposition import Metric, exposition
from eaa.program.health import EVENT_LOOP, Health, Heartbeat

MAX_REQUEST: Final = 8 * 1024
"""Bytes of a request, headers included."""
MAX_UNREAD: Final = 64 * 1024
"""Bytes past that which are dropped while the answer is on its way."""
REQUEST_TIMEOUT: Final = 5.0
"""Seconds for a request and its answer."""
MAX_SCRAPERS: Final = 16
"""Connections at once. One more takes the place of the one that has taken longest."""
MAX_SCRAPERS_ACCEPTED: Final = 64
"""Connections at once, those included that are about to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Something else to be read on this listener."""

    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    status: str = "200 OK"


Texts = Callable[[], Awaitable[str]]
"""Returns an exposition that has to be waited for, as that of several processes."""
Pages = Mapping[str, Callable[[str], Awaitable[Page]]]
"""By path, what takes the query of a request, as it came and without its question mark, and returns the page."""
_TEXT: Final = "text/plain; charset=utf-8"
_LIVE: Final = ("/livez", "/healthz/live")
_READY: Final = ("/readyz", "/healthz/ready")


@contextlib.asynccontextmanager
async def serving_metrics(
    address: Address | None,
    metrics: Sequence[Metric] | Texts,
    *,
    health: Health | None = None,
    pages: Pages | None = None,
) -> AsyncIterator[list[str]]:
    """Serve metrics for the duration of a block, if an address is named; yield the names that it is bound to.

    Args:
        address: where; None serves nothing.
        metrics: the numbers, or what returns all of the text.
        health: what is asked at /livez and /readyz, or /healthz/live and /healthz/ready. Left out, it is always fine.
        pages: what else there is, by path.

    Raises:
        Unavailable: the address cannot be had.
    """
    if address is None:
        yield []
        return
    heartbeat = Heartbeat()
    health = _with_heartbeat(health or Health(), heartbeat)
    texts = metrics if callable(metrics) else _texts([*metrics, *health_metrics(health, heartbeat)])
    # A service of its own, so that a flood of peers does not hide what it does.
    service = Service(max_connections=MAX_SCRAPERS_ACCEPTED)
    names = service.listen(address, _Scraped(texts, health, pages or {}).handle)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(service.stop, grace=0)
        await stack.enter_async_context(heartbeat.beating())
        service.start()
        yield [f"{name} (metrics)" for name in names]


def _with_heartbeat(health: Health, heartbeat: Heartbeat) -> Health:
    return replace(health, live=lambda: [*health.live(), *([] if heartbeat.is_alive else [EVENT_LOOP])])


def _texts(metrics: Sequence[Metric]) -> Texts:
    async def text() -> str:
        return exposition(metrics)

    return text


def health_metrics(health: Health, heartbeat: Heartbeat) -> list[Metric]:
    """Return the numbers that go with health."""
    return [
        Metric(
            name="eaa_ready",
            kind="gauge",
            meaning="1 where it is ready, 0 where it is not.",
            read=lambda: int(not health.ready()),
        ),
        Metric(
            name="eaa_event_loop_lag_seconds",
            kind="gauge",
            meaning="How late the event loop has come to something that was due.",
            read=lambda: heartbeat.lag,
        ),
    ]


class _Scraped:
    """Answers whoever asks, and lets no slow one keep out the others."""

    def __init__(self, texts: Texts, health: Health, pages: Pages) -> None:
        self._texts = texts
        self._health = health
        self._pages = pages
        self._asking: dict[asyncio.Task[Any], Origin] = {}

    async def handle(self, sock: socket.socket, _peer: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._asking[task] = origin_of(sock)
        try:
            self._make_room()
            # A scraper that stalls hears nothing, and one that hangs up needs to hear nothing: it costs its connection.
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(REQUEST_TIMEOUT):
                    await self._answer(sock)
        finally:
            self._asking.pop(task, None)

    def _make_room(self) -> None:
        """End who has taken longest, of the address that has most: a kubelet's question is over in no time."""
        while len(self._asking) > MAX_SCRAPERS:
            origins = list(self._asking.values())
            most = max(set(origins), key=origins.count)
            oldest = next(task for task, origin in self._asking.items() if origin == most)
            del self._asking[oldest]
            oldest.cancel()

    async def _answer(self, sock: socket.socket) -> None:
        request = await _read_request(sock)
        await asyncio.get_running_loop().sock_sendall(sock, await self._response(request))
        await _part(sock)

    async def _response(self, request: bytes) -> bytes:
        head, *headers = request.split(b"\r\n")
        words = head.split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response("400 Bad Request", "this is no request of HTTP/1\n")
        path, _, query = words[1].decode("latin-1").partition("?")
        if path not in self._paths():
            return _response("404 Not Found", f"here are {', '.join(self._paths())}\n")
        if words[0] != b"GET":
            return _response("405 Method Not Allowed", "it can be read, and nothing else\n", (("Allow", "GET"),))
        return await self._document(path, query, headers)

    async def _document(self, path: str, query: str, headers: list[bytes]) -> bytes:
        if path == "/metrics":
            return _response("200 OK", await self._texts(), kind=_metrics_type(headers))
        if path in self._pages:
            page = await self._pages[path](query)
            return _response(page.status, page.body, page.headers, kind=page.content_type)
        wrong = self._health.live() if path in _LIVE else self._health.ready()
        if wrong:
            return _response("503 Service Unavailable", f"not yet, or not any more: {', '.join(wrong)}\n")
        return _response("200 OK", "ok\n")

    def _paths(self) -> tuple[str, ...]:
        return ("/metrics", *_LIVE, *_READY, *self._pages)


def _metrics_type(headers: list[bytes]) -> str:
    """Return the content type that a scraper asked for; what we say is the same in both versions."""
    for header in headers:
        name, _, value = header.partition(b":")
        if name.strip().lower() != b"accept":
            continue
        for wanted in value.lower().replace(b" ", b"").split(b","):
            kind, *parameters = wanted.split(b";")
            if kind == b"text/plain" and b"version=1.0.0" in parameters:
                return "text/plain; version=1.0.0; charset=utf-8; escaping=underscores"
    return "text/plain; version=0.0.4; charset=utf-8"


async def _read_request(sock: socket.socket) -> bytes:
    """Return what came up to the end of the headers, MAX_REQUEST bytes at most."""
    request = b""
    while b"\r\n\r\n" not in request and len(request) < MAX_REQUEST:
        data = await asyncio.get_running_loop().sock_recv(sock, MAX_REQUEST - len(request))
        if not data:
            break
        request += data
    return request if b"\r\n\r\n" in request else b""


async def _part(sock: socket.socket) -> None:
    """Say no more, and drop what still comes: closing over unread bytes would take the answer from who sent them."""
    sock.shutdown(socket.SHUT_WR)
    dropped = 0
    while dropped < MAX_UNREAD and (data := await asyncio.get_running_loop().sock_recv(sock, MAX_REQUEST)):
        dropped += len(data)


def _response(status: str, body: str | bytes, more: Sequence[tuple[str, str]] = (), *, kind: str = _TEXT) -> bytes:
    raw = body.encode() if isinstance(body, str) else body
    headers = (
        ("Content-Type", kind),
        ("Content-Length", str(len(raw))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        *more,
        ("Connection", "close"),
    )
    head = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + raw
