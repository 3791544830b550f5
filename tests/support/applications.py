"""Applications behind a workload: plain servers that know nothing of TLS, each in a process of its own.

    python -m support.applications echo|digest|source|moody ADDRESS JOURNAL

`echo` sends back what comes. `digest` reads to the end and answers with what it has read, as a line of JSON. `source`
reads one line with a number and sends that many bytes of a known pattern, whoever listens. `moody` is an echo whose
first byte says when it hangs up. Each writes one line of JSON into the journal for every connection: bytes in, their
SHA-256, and how it ended: `end`, `reset`, or `hung up` where it did that itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import hashlib
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from eaa.aio.address import UnixAddress, parse_address
from support.system import Running, running

PIECE: Final = 64 * 1024
TESTS: Final = Path(__file__).parents[1]


def pattern(size: int, *, seed: int = 0) -> bytes:
    """Return bytes that say where they are: a repeated, a lost and a swapped piece all show."""
    words = (hashlib.sha256(b"%d %d" % (seed, number)).digest() for number in range((size + 31) // 32))
    return b"".join(words)[:size]


class Journal:
    """One line for each connection that has ended, one `began` line for each that has begun."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, entry: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(entry).encode() + b"\n")


class Mood(bytes, enum.Enum):
    """When a moody echo hangs up, with a reset."""

    NEVER = b"n"
    AT_ONCE = b"a"
    HALFWAY = b"h"
    """After the first piece that is not the first."""
    AT_THE_END = b"e"
    """When everything has come, in place of its own goodbye."""


class HungUp(Exception):
    """This application is in no mood to go on."""


class Application:
    """One mode of serving."""

    def __init__(self, mode: str, journal: Journal) -> None:
        self._serve = {"echo": self._echo, "digest": self._digest, "source": self._source, "moody": self._moody}[mode]
        self._journal = journal

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = Seen()
        how = "end"
        try:
            await self._serve(reader, writer, seen)
        except HungUp:
            how = "hung up"
            _reset(writer)
        except OSError:
            how = "reset"
        finally:
            self._journal.write({"bytes": seen.count, "sha256": seen.digest.hexdigest(), "how": how, "head": seen.head})
            writer.close()

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
        while data := await reader.read(PIECE):
            seen.take(data)
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def _moody(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
        mood = None
        while data := await reader.read(PIECE):
            first, mood = mood is None, mood or Mood(data[:1])
            seen.take(data)
            if mood is Mood.AT_ONCE or (mood is Mood.HALFWAY and not first):
                raise HungUp
            writer.write(data)
            await writer.drain()
        if mood is Mood.AT_THE_END:
            raise HungUp
        writer.write_eof()

    async def _digest(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
        while data := await reader.read(PIECE):
            seen.take(data)
        writer.write(json.dumps({"bytes": seen.count, "sha256": seen.digest.hexdigest()}).encode() + b"\n")
        await writer.drain()
        writer.write_eof()

    async def _source(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
        line = await reader.readline()
        seen.take(line)
        data = pattern(int(line))
        for start in range(0, len(data), PIECE):
            writer.write(data[start : start + PIECE])
            await writer.drain()
        writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Hang up with a reset."""
    sock = writer.get_extra_info("socket")
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Seen:
    """What one connection has brought."""

    def __init__(self) -> None:
        self.count = 0
        self.digest = hashlib.sha256()
        self.head = ""

    def take(self, data: bytes) -> None:
        if not self.count:
            self.head = data[:32].hex()
        self.count += len(data)
        self.digest.update(data)


async def serve(mode: str, address: str, journal: Path) -> None:
    handle = Application(mode, Journal(journal)).handle
    where = parse_address(address)
    if isinstance(where, UnixAddress):
        server = await asyncio.start_unix_server(handle, str(where.path), backlog=2048)
        name = address
    else:
        server = await asyncio.start_server(handle, where.host, where.port, backlog=2048)
        name = "tcp://{}:{}".format(*server.sockets[0].getsockname()[:2])
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    sys.stderr.write(f"listening on {name}\n")
    sys.stderr.flush()
    await stopped.wait()


@contextlib.contextmanager
def application(mode: str, folder: Path, *, listen: str = "tcp://127.0.0.1:0") -> Iterator[tuple[Running, str]]:
    """Run an application for the duration of a block; yield its process and its address."""
    command = (sys.executable, "-m", "support.applications", mode, listen, folder / "journal")
    with running(*command, env={"PYTHONPATH": str(TESTS)}) as process:
        yield process, process.address()


def journal_of(folder: Path) -> list[dict[str, Any]]:
    """Return what the application of a folder has written about the connections that have ended."""
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in (folder / "journal").read_text().splitlines()]
    return []


if __name__ == "__main__":
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    asyncio.run(serve(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
