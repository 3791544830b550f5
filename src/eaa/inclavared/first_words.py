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
from typing import Final

from eaa.aio.stream import AttestedStream
from eaa.errors import EAAError

MAX_FIRST_WORDS: Final = 16 * 1024
"""Bytes of a client that are kept until the workload answers. A ClientHello has less than 2 KiB."""
PATIENCE: Final = 10.0
"""Seconds for a client's first words, and for their answer, which is as long as anybody waits for a handshake."""
DEAD_AFTER: Final = 3.0
"""Seconds for the workload's system, not the workload, to acknowledge them: one that is gone says nothing at all."""
_HANDSHAKE: Final = b"\x16\x03"
"""How a TLS handshake begins. Nothing else is said twice: whoever hangs up on that is in his right."""

logger = logging.getLogger(__name__)


async def carry_first_words(
    client: AttestedStream, workload: AttestedStream, *, replace: Callable[[], Awaitable[AttestedStream]]
) -> tuple[AttestedStream, int]:
    """Carry what a client says first to the workload until that answers; replace a channel that breaks before, once.

    Both streams may be pumped then: what was read of one and not yet sent to the other is read again, and whatever is
    wrong with either shows again.

    Args:
        client: whom the channel was opened for.
        workload: the channel. It is closed where it is replaced.
        replace: opens another one. Raises EAAError.

    Returns:
        The channel that the session goes on in, and how many bytes it was sent.

    Raises:
        EAAError: there is no other channel.
    """
    if not await _is_handshake(client):
        return workload, 0
    said = bytearray()
    if await _is_dead(client, workload, said):
        logger.info("a channel was dead when it was used, another one takes its place")
        client.push_back(bytes(said))
        said.clear()
        workload.abort()
        workload = await replace()
        try:
            await _is_dead(client, workload, said)
        except BaseException:
            workload.abort()
            raise
    return workload, len(said)


async def _is_handshake(client: AttestedStream) -> bool:
    """Wait for a client's first words. Nobody waits here who is idle: it takes less memory to be pumped."""
    with contextlib.suppress(EAAError, TimeoutError):
        async with asyncio.timeout(PATIENCE):
            words = await client.read()
        client.push_back(words)
        return words.startswith(_HANDSHAKE)
    return False


async def _is_dead(client: AttestedStream, workload: AttestedStream, said: bytearray) -> bool:
    """Carry bytes to a channel until its workload answers or it breaks; return whether it broke.

    What it was sent is put into `said`.
    """
    answering = asyncio.ensure_future(workload.read())
    speaking = asyncio.ensure_future(client.read())
    try:
        with _impatient(workload):
            while len(said) < MAX_FIRST_WORDS:
                await asyncio.wait([answering, speaking], timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
                if answering.done() or not _has_said(speaking):
                    break
                words = speaking.result()
                said += words
                # Whether that has failed the other direction tells.
                workload.write(words)
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
