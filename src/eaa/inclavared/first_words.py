"""The beginning of a session: a channel may have died without a word since it was opened, and only use shows that.

What a client says first is kept until the workload answers, and that is no more than the beginning of a handshake: TLS
1.3 has nothing of the application's in it, and nobody can send any before the workload has answered. So where a channel
breaks before that, another one is opened and the same is said there, once. Whatever got through the first time is a
handshake that nobody goes on with.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from eaa.aio.context import forget_frames
from eaa.aio.relay import Limits
from eaa.aio.stream import AttestedStream
from eaa.errors import EAAError

MAX_FIRST_WORDS: Final = 16 * 1024
"""Bytes of a client that are kept until the workload answers. A ClientHello has less than 2 KiB."""
PATIENCE: Final = 10.0
"""Seconds for a client's first words, and for their answer, which is as long as anybody waits for a handshake. Never
longer than a session may be idle, or last."""
DEAD_AFTER: Final = 3.0
"""Seconds for the workload's system, not the workload, to acknowledge them: one that is gone says nothing at all."""
_HANDSHAKE: Final = b"\x16\x03"
"""How a TLS handshake begins. Nothing else is said twice: whoever hangs up on that is in his right."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A session that has begun."""

    workload: AttestedStream
    """The channel that it goes on in."""
    said: int
    """Bytes that the channel was sent."""
    last: float
    """When the last of them moved, or the session was opened where none has, on the event loop's clock."""


async def carry_first_words(
    client: AttestedStream,
    workload: AttestedStream,
    *,
    replace: Callable[[], Awaitable[AttestedStream]],
    limits: Limits,
) -> Begun:
    """Carry what a client says first to the workload until that answers; replace a channel that breaks before, once.

    Both streams may be pumped then: what was read of one and not yet sent to the other is read again, and whatever is
    wrong with either shows again. The pump has to go on with the silence that there was, so that a client has its idle
    time once.

    Args:
        client: whom the channel was opened for.
        workload: the channel. It is closed where it is replaced.
        replace: opens another one. Raises EAAError.
        limits: of the session.

    Raises:
        EAAError: there is no other channel.
    """
    words = _Words(patience=min(PATIENCE, limits.idle, limits.lifetime or PATIENCE))
    if not await _is_handshake(client, words.patience):
        return words.begun(workload)
    if await _is_dead(client, workload, words):
        logger.info("a channel was dead when it was used, another one takes its place")
        client.push_back(bytes(words.said))
        words.said.clear()
        workload.abort()
        workload = await replace()
        try:
            await _is_dead(client, workload, words)
        except BaseException:
            workload.abort()
            raise
    return words.begun(workload)


def _time() -> float:
    return asyncio.get_running_loop().time()


@dataclass(slots=True, kw_only=True)
class _Words:
    """What a client has said so far."""

    patience: float
    """Seconds for the next word."""
    said: bytearray = field(default_factory=bytearray)
    last: float = field(default_factory=_time)

    def add(self, words: bytes) -> None:
        self.said += words
        self.last = _time()

    def begun(self, workload: AttestedStream) -> Begun:
        return Begun(workload=workload, said=len(self.said), last=self.last)


async def _is_handshake(client: AttestedStream, patience: float) -> bool:
    """Wait for a client's first words. Nobody waits here who is idle: it takes less memory to be pumped."""
    with contextlib.suppress(EAAError, TimeoutError):
        async with asyncio.timeout(patience):
            words = await client.read()
        client.push_back(words)
        return words.startswith(_HANDSHAKE)
    return False


async def _is_dead(client: AttestedStream, workload: AttestedStream, words: _Words) -> bool:
    """Carry words to a channel until its workload answers or it breaks; return whether it broke."""
    answering = asyncio.ensure_future(workload.read())
    speaking = asyncio.ensure_future(client.read())
    try:
        with _impatient(workload):
            while len(words.said) < MAX_FIRST_WORDS:
                await asyncio.wait([answering, speaking], timeout=words.patience, return_when=asyncio.FIRST_COMPLETED)
                if answering.done() or not _has_said(speaking):
                    break
                words.add(speaking.result())
                # Whether that has failed the other direction tells.
                workload.write(speaking.result())
                speaking = asyncio.ensure_future(client.read())
    finally:
        is_dead = await _read_again(answering, workload) is False
        await _read_again(speaking, client)
    return is_dead


def _has_said(speaking: asyncio.Future[bytes]) -> bool:
    return speaking.done() and speaking.exception() is None and bool(speaking.result())


async def _read_again(reading: asyncio.Future[bytes], stream: AttestedStream) -> bool | None:
    """Let what was read be read again; return whether there was anything, None where nothing has come so far."""
    reading.cancel()
    await asyncio.wait([reading])
    if reading.cancelled():
        return None
    if reading.exception() is not None or not reading.result():
        # The next one who reads is told the same.
        forget_frames(reading.exception())
        return False
    stream.push_back(reading.result())
    return True


@contextlib.contextmanager
def _impatient(stream: AttestedStream) -> Iterator[None]:
    """Have the system give a connection up, for the duration of a block, whose other end acknowledges nothing."""
    sock = stream.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX:
        yield
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * DEAD_AFTER))
    try:
        yield
    finally:
        # From here on a peer may take its time: the system would give up a slow reader too.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)
