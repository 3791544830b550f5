"""Attested streams in one event loop: both ends on a TCP connection, or inside another session."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar

from eaa.aio.stream import AttestedStream, secure, secure_inside
from eaa.protocol.exchange import ALPN, ALPN_INNER
from eaa.tls.connection import Connection, make_context
from support.tls_world import NOW, Identity, client_identity, server_identity

PATIENCE = 60.0
"""Seconds for what must happen soon, on a busy machine."""
Place = Literal["socket", "inside"]
PLACES: tuple[Place, ...] = ("socket", "inside")
T = TypeVar("T")


def run(main: Awaitable[T]) -> T:
    """Run a test in an event loop of its own, and let none of its tasks survive it."""

    async def bounded() -> T:
        async with asyncio.timeout(PATIENCE):
            result = await main
        await until(lambda: len(asyncio.all_tasks()) == 1)
        return result

    return asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    """Let everybody else run until a condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  nobody announces these conditions
            await asyncio.sleep(0)


def settable_clock() -> Callable[[float], None]:
    """Return what puts the clock of the running loop (asyncio's own) ahead by some seconds.

    Whoever waits for a time is not kept waiting, and a busy machine does not let it pass unasked. The sum has to stay
    within PATIENCE.
    """
    loop: Any = asyncio.get_running_loop()
    true_time, ahead = loop.time, 0.0

    def put_forward(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    loop.time = lambda: true_time() + ahead
    return put_forward


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two non-blocking ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        one = socket.create_connection(listening.getsockname())
        other, _ = listening.accept()
    for end in (one, other):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.settimeout(0)
    return one, other


def connection_on(
    sock: socket.socket | None, identity: Identity | None, *, server_side: bool, alpn: bytes = ALPN
) -> Connection:
    """One end, before its handshake."""
    context = make_context(
        server_side=server_side,
        certificate=identity.certificate if identity else None,
        private_key=identity.key if identity else None,
        alpn=(alpn,),
    )
    return Connection(context, server_side=server_side, alpn=(alpn,), now=NOW, sock=sock)


async def stream_on(sock: socket.socket, *, server_side: bool) -> AttestedStream:
    """One end after its handshake, its gate open."""
    identity = server_identity() if server_side else client_identity()
    stream = await secure(connection_on(sock, identity, server_side=server_side), sock)
    stream.connection.admit_unattested_peer()
    return stream


async def stream_inside(outer: AttestedStream, *, server_side: bool) -> AttestedStream:
    """One end of a session inside another, its gate open."""
    identity = server_identity() if server_side else None
    stream = await secure_inside(connection_on(None, identity, server_side=server_side, alpn=ALPN_INNER), outer)
    stream.connection.admit_unattested_peer()
    return stream


@asynccontextmanager
async def streams(place: Place = "socket") -> AsyncIterator[tuple[AttestedStream, AttestedStream]]:
    """A client and a server whose gates are open."""
    one, other = tcp_pair()
    numbers = {one.fileno(), other.fileno()}
    client, server = await asyncio.gather(stream_on(one, server_side=False), stream_on(other, server_side=True))
    if place == "inside":
        client, server = await asyncio.gather(
            stream_inside(client, server_side=False), stream_inside(server, server_side=True)
        )
    try:
        yield client, server
    finally:
        client.abort()
        server.abort()
        assert numbers.isdisjoint(key.fd for key in watched())


def watched() -> list[Any]:
    """The sockets that the event loop still watches, its own aside."""
    running = asyncio.get_running_loop()
    if not isinstance(running, asyncio.SelectorEventLoop):
        # Other loops do not tell.
        return []
    loop: Any = running
    return [key for key in loop._selector.get_map().values() if key.fileobj != loop._ssock.fileno()]


async def read_all(stream: AttestedStream) -> bytes:
    """Read to the good end."""
    pieces = []
    while data := await stream.read():
        pieces.append(data)
    return b"".join(pieces)


async def read_exactly(stream: AttestedStream, size: int) -> bytes:
    """Read this many bytes."""
    data = bytearray()
    while len(data) < size:
        got = await stream.read(size - len(data))
        assert got, "the stream has ended"
        data += got
    return bytes(data)


def socket_of(stream: AttestedStream) -> socket.socket:
    """The socket under a stream, however deep it lies."""
    found = stream.get_extra_info("socket")
    assert isinstance(found, socket.socket)
    return found


def is_blocked(stream: AttestedStream) -> bool:
    """Whether a task waits for room to write on this stream's socket."""
    link: Any = stream._link
    return bool(link._writing._waiting)


def is_waiting(stream: AttestedStream) -> bool:
    """Whether a task waits for bytes on this stream's socket."""
    link: Any = stream._link
    return bool(link._reading._waiting)


def watches(stream: AttestedStream) -> str:
    """What the event loop watches of this stream's socket: nothing, read, write, or read and write."""
    number = socket_of(stream).fileno()
    events = next((key.events for key in watched() if key.fd == number), 0)
    return " and ".join(name for name, bit in (("read", 1), ("write", 2)) if events & bit) or "nothing"
