"""Other people's HTTP servers and clients, given our context: four servers in threads, six ways to ask."""

from __future__ import annotations

import asyncio
import socket
import threading
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import aiohttp
import aiohttp.web
import httpx
import hypercorn.asyncio
import requests
import urllib3
import uvicorn
import uvloop

from eaa.https import AttestedContext, hypercorn_config, requests_adapter, uvicorn_context_factory

TIMEOUT: Final = 60
"""Seconds for one request, on a busy machine."""
ANSWER: Final = b"an answer"


@dataclass
class Application:
    """Remembers what reached it."""

    heard: list[bytes] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]) -> None:
        """Serve one request, as ASGI has it."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.heard.append(body)
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(ANSWER)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": ANSWER})

    async def handle(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        """Serve one request, as aiohttp has it."""
        self.heard.append(await request.read())
        return aiohttp.web.Response(body=ANSWER)


async def _live(receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


# --- servers: each serves until it is told to stop

Serve = Callable[[Application, AttestedContext, socket.socket, asyncio.Event], Awaitable[None]]


async def _uvicorn(app: Application, context: AttestedContext, listening: socket.socket, stop: asyncio.Event) -> None:
    config = uvicorn.Config(
        app, ssl_context_factory=uvicorn_context_factory(context), log_level="error", ws="none", lifespan="off"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    await stop.wait()
    server.should_exit = True
    await serving


async def _hypercorn(app: Application, context: AttestedContext, listening: socket.socket, stop: asyncio.Event) -> None:
    config = hypercorn_config(context)
    config.bind = [f"fd://{listening.detach()}"]
    config.loglevel, config.graceful_timeout = "ERROR", 0.1
    await hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait)


async def _aiohttp(app: Application, context: AttestedContext, listening: socket.socket, stop: asyncio.Event) -> None:
    web = aiohttp.web.Application()
    web.router.add_post("/", app.handle)
    runner = aiohttp.web.AppRunner(web, shutdown_timeout=0.1)
    await runner.setup()
    await aiohttp.web.SockSite(runner, listening, ssl_context=context).start()
    await stop.wait()
    await runner.cleanup()


SERVERS: Final[dict[str, tuple[Serve, Callable[[], asyncio.AbstractEventLoop]]]] = {
    "uvicorn-asyncio": (_uvicorn, asyncio.new_event_loop),
    "uvicorn-uvloop": (_uvicorn, uvloop.new_event_loop),
    "hypercorn": (_hypercorn, asyncio.new_event_loop),
    "aiohttp.web": (_aiohttp, asyncio.new_event_loop),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server that is running."""

    url: str
    app: Application
    context: AttestedContext


async def _hang_up() -> None:
    """Close connections whose handshake was never finished: no server knows of them."""
    transports: Any = getattr(asyncio.get_running_loop(), "_transports", {})
    # One may just have been accepted, and has no transport yet.
    for _ in range(5):
        await asyncio.sleep(0)
        for transport in list(transports.values()):
            transport.abort()


@contextmanager
def serving(name: str, context: AttestedContext) -> Iterator[Served]:
    """Run a server in a thread of its own."""
    serve, new_loop = SERVERS[name]
    app = Application()
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"https://127.0.0.1:{listening.getsockname()[1]}/"
    loop, stop = new_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(app, context, listening, stop),), daemon=True)
    thread.start()
    try:
        yield Served(url=url, app=app, context=context)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(TIMEOUT)
        assert not thread.is_alive()
        loop.run_until_complete(_hang_up())
        loop.close()
        listening.close()


# --- clients: each posts a body and returns the answer


def _httpx_sync(url: str, context: AttestedContext, body: bytes) -> bytes:
    with httpx.Client(verify=context, timeout=TIMEOUT, trust_env=False) as client:
        return client.post(url, content=body).content


async def _httpx_async(url: str, context: AttestedContext, body: bytes) -> bytes:
    async with httpx.AsyncClient(verify=context, timeout=TIMEOUT, trust_env=False) as client:
        return (await client.post(url, content=body)).content


async def _aiohttp_client(url: str, context: AttestedContext, body: bytes) -> bytes:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.post(url, data=body, ssl=context) as answer:
        return await answer.read()


def _urllib3(url: str, context: AttestedContext, body: bytes) -> bytes:
    with urllib3.PoolManager(ssl_context=context, assert_hostname=False, retries=False) as pool:
        return pool.request("POST", url, body=body, timeout=TIMEOUT).data


def _requests(url: str, context: AttestedContext, body: bytes) -> bytes:
    with requests.Session() as session:
        session.trust_env = False
        session.mount("https://", requests_adapter(context))
        return session.post(url, data=body, timeout=TIMEOUT).content


def _urllib(url: str, context: AttestedContext, body: bytes) -> bytes:
    with urllib.request.urlopen(url, data=body, context=context, timeout=TIMEOUT) as answer:
        content: bytes = answer.read()
    return content


def _in_a_loop(
    ask: Callable[[str, AttestedContext, bytes], Awaitable[bytes]], url: str, context: AttestedContext, body: bytes
) -> bytes:
    async def main() -> bytes:
        return await ask(url, context, body)

    return asyncio.run(main())


Ask = Callable[[str, AttestedContext, bytes], bytes]

CLIENTS: Final[dict[str, Ask]] = {
    "httpx": _httpx_sync,
    "httpx-async": partial(_in_a_loop, _httpx_async),
    "aiohttp": partial(_in_a_loop, _aiohttp_client),
    "urllib3": _urllib3,
    "requests": _requests,
    "urllib": _urllib,
}
