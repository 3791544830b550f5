"""Several processes that serve the same addresses: `--workers N`.

A supervisor starts the same command line N times and serves nobody itself. Nothing is forked: a worker is a process of
its own from its first instruction, so no key, no thread and no lock is ever in two of them. Each makes its own TLS key
and its own evidence for it.

- A TCP port is bound once, without listening, and so is this service's while it lives; each worker listens on it with
  SO_REUSEPORT, and the system spreads connections over them by a hash of both addresses. A worker that dies takes its
  own backlog with it and nothing else: from that moment the system asks the others.
- A unix socket listens in the supervisor and is inherited: whichever worker is awake first accepts, which shares less
  evenly. Connections that wait while a worker dies are accepted by another one.
- A worker that dies is started again, each time after a longer pause; one that runs for a while begins anew with the
  shortest. One that cannot even start ends the whole service, with its exit code: its command line is wrong.
- SIGTERM and SIGINT are passed on, and the supervisor ends when all workers have drained. SIGHUP is passed on.
- A worker whose supervisor is gone drains and ends by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import click

from eaa.aio.address import Address, TCPAddress, UnixAddress, parse_address, unavailable_from_os_error
from eaa.aio.net import Handler, Service, bind, bound_name
from eaa.aio.together import Board, new_board
from eaa.program.exposition import Metric, exposition, merge_expositions
from eaa.program.health import Health, Heartbeat
from eaa.program.listener import health_metrics, serving_metrics
from eaa.program.notify import Notifier
from eaa.program.run import say

MAX_WORKERS: Final = 64
VARIABLE: Final = "EAA_WORKER"
"""The environment variable by which a supervisor tells a worker what it is."""
MAX_MESSAGE: Final = 1024 * 1024
"""Bytes of one message between the two: all of a worker's metrics."""
PATIENCE: Final = 2.0
"""Seconds for a worker to answer with its metrics; what one does not say is left out."""
LIFE_SIGN: Final = 1.0
"""Seconds between two signs of life of a worker."""
SILENCE: Final = 10.0
"""Seconds without one after which a worker counts as not ready."""
FIRST_PAUSE: Final = 0.1
"""Seconds until a worker that has died is started again; each further death doubles them."""
LONGEST_PAUSE: Final = 10.0
STEADY: Final = 30.0
"""Seconds after which a worker counts as one that runs."""
OVERTIME: Final = 10.0
"""Seconds past its grace after which a worker that was told to end is killed."""
_ENDS: Final = (signal.SIGTERM, signal.SIGINT)

logger = logging.getLogger(__name__)


def workers_option(function: Any) -> Any:
    """Add `--workers`: how many processes serve."""
    return click.option(
        "--workers",
        type=click.IntRange(1, MAX_WORKERS),
        default=1,
        show_default=True,
        metavar="N",
        help="Serve with so many processes, one for each core that may be used.",
    )(function)


# --- in a worker


class Worker:
    """What a worker knows of its supervisor."""

    def __init__(
        self, number: int, count: int, control: socket.socket, addresses: Mapping[str, Any], board: Board | None = None
    ) -> None:
        """Take what the supervisor has said; see `this_worker`."""
        self.board = board
        """Where all workers count whom they serve: limits are those of the service."""
        self.number = number
        """From 1."""
        self.count = count
        """Workers in all."""
        self._control = control
        self._addresses = addresses
        self._health: Callable[[], Sequence[str]] = tuple
        self._metrics: Callable[[], str] = str
        control.setblocking(False)  # noqa: FBT003  the standard library's signature

    def listening(self, service: Service) -> Callable[[Address, Handler], list[str]]:
        """Return what a worker calls in place of `service.listen`."""
        return lambda address, handler: service.adopt(self.sockets(address), handler)

    def sockets(self, address: Address) -> list[socket.socket]:
        """Return sockets that listen there, for this worker alone. Raises Unavailable."""
        listening: list[socket.socket] = []
        for entry in self._addresses[str(address)]:
            if isinstance(entry, int):
                listening.append(socket.socket(fileno=os.dup(entry)))
            else:
                listening += bind(parse_address(entry), reuse_port=True)
        return listening

    @contextlib.asynccontextmanager
    async def serving(self, metrics: Callable[[], str], health: Health) -> AsyncIterator[None]:
        """Answer the supervisor for the duration of a block, and end this process where there is none any more."""
        self._metrics, self._health = metrics, health.ready
        loop = asyncio.get_running_loop()
        loop.add_reader(self._control.fileno(), self._hear)
        signs = asyncio.create_task(self._show_life())
        try:
            yield
        finally:
            signs.cancel()
            await asyncio.gather(signs, return_exceptions=True)
            loop.remove_reader(self._control.fileno())

    def ready(self) -> None:
        """Say that this worker serves."""
        self._say({"ready": True, "missing": list(self._health())})

    async def _show_life(self) -> None:
        while True:
            await asyncio.sleep(LIFE_SIGN)
            self._say({"missing": list(self._health())})

    def _hear(self) -> None:
        try:
            said = self._control.recv(MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if said:
            self._say({"metrics": self._metrics()})
        else:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            logger.error("the supervisor is gone: worker %d drains and ends", self.number)
            os.kill(os.getpid(), signal.SIGTERM)

    def _say(self, message: dict[str, Any]) -> None:
        # Who is not heard now is asked again; and where nobody is left, `_hear` finds out.
        with contextlib.suppress(OSError):
            self._control.send(json.dumps(message).encode())


@functools.cache
def this_worker() -> Worker | None:
    """Return what this process is to its supervisor; None where it has none."""
    told = os.environ.pop(VARIABLE, None)
    if told is None:
        return None
    said = json.loads(told)
    control = socket.socket(fileno=said["control"])
    os.set_inheritable(control.fileno(), False)  # noqa: FBT003  the standard library's signature
    board = Board(said["board"], number=said["number"], count=said["count"])
    os.close(said["board"])
    return Worker(said["number"], said["count"], control, said["addresses"], board)


@contextlib.asynccontextmanager
async def telling(
    worker: Worker | None, address: Address | None, metrics: Sequence[Metric], health: Health
) -> AsyncIterator[list[str]]:
    """Tell, for the duration of a block, how a service is: a worker its supervisor, any other process who asks.

    Yields the names at which it is asked. Raises Unavailable where the address cannot be had.
    """
    if worker is None:
        async with serving_metrics(address, metrics, health=health) as names:
            yield names
    else:
        heartbeat = Heartbeat()
        told = [*metrics, *health_metrics(health, heartbeat)]
        async with heartbeat.beating(), worker.serving(lambda: exposition(told), health):
            yield []


# --- the supervisor


def supervise(
    count: int,
    *,
    program: str,
    addresses: Sequence[Address],
    metrics: Address | None = None,
    grace: float = 5.0,
) -> int:
    """Run this command line in `count` workers until told to stop.

    Args:
        count: how many, 1 to MAX_WORKERS.
        program: its name, for what it says.
        addresses: where the workers serve.
        metrics: where their metrics are served, all in one, each sample with the label `worker`.
        grace: seconds that workers take to drain.

    Returns:
        143 after SIGTERM, 130 after SIGINT; the exit code of a worker that could not start.

    Raises:
        Unavailable: an address cannot be had.
    """
    with ExitStack() as stack:
        ports = Ports(stack, addresses)
        command = [sys.executable, *sys.orig_argv[1:]]
        return asyncio.run(Supervisor(count, program=program, ports=ports, command=command, grace=grace).run(metrics))


class Ports:
    """Addresses that belong to a supervisor, and how its workers get at them."""

    def __init__(self, stack: ExitStack, addresses: Sequence[Address]) -> None:
        """Take the addresses until the stack is closed. Raises Unavailable."""
        self.names: list[str] = []
        self.told: dict[str, list[str | int]] = {}
        self.inherited: list[int] = []
        for address in addresses:
            told = self._listen(stack, address) if isinstance(address, UnixAddress) else self._hold(stack, address)
            self.told[str(address)] = told

    def _listen(self, stack: ExitStack, address: UnixAddress) -> list[str | int]:
        (sock,) = bind(address)
        status = address.path.lstat()
        stack.callback(_unlink, address, (status.st_dev, status.st_ino))
        stack.callback(sock.close)
        self.names.append(bound_name(sock))
        self.inherited.append(sock.fileno())
        return [sock.fileno()]

    def _hold(self, stack: ExitStack, address: TCPAddress) -> list[str | int]:
        # Somebody who serves there with SO_REUSEPORT too would share these connections, unless asked like this.
        probes = bind(address)
        names: list[str | int] = []
        for probe in probes:
            target = probe.getsockname()
            names.append(bound_name(probe))
            probe.close()
            sock = socket.socket(probe.family, socket.SOCK_STREAM)
            stack.callback(sock.close)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind(target)
            except OSError as error:
                raise unavailable_from_os_error(error, doing=f"cannot listen on {address}") from error
        self.names += map(str, names)
        return names


def _unlink(address: UnixAddress, known: tuple[int, int]) -> None:
    """Remove a unix socket's path, unless something else lies there by now."""
    with contextlib.suppress(FileNotFoundError):
        status = address.path.lstat()
        if (status.st_dev, status.st_ino) == known:
            address.path.unlink()


@dataclass(slots=True, eq=False)
class _Place:
    """One worker's place, whoever is in it."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    control: socket.socket | None = None
    started: float = 0.0
    heard: float = 0.0
    """When it last gave a sign of life, on the monotonic clock."""
    is_ready: bool = False
    missing: list[str] = field(default_factory=list)
    """What it says is not fine."""
    pause: float = FIRST_PAUSE
    restarts: int = 0
    owes_reload: bool = False
    answer: asyncio.Future[str] | None = None

    @property
    def is_fine(self) -> bool:
        """Whether it serves."""
        return self.is_ready and not self.missing and time.monotonic() - self.heard < SILENCE

    def say(self, message: dict[str, Any]) -> None:
        if self.control is not None:
            with contextlib.suppress(OSError):
                self.control.send(json.dumps(message).encode())

    def signal(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)


class Supervisor:
    """Keeps workers running."""

    def __init__(self, count: int, *, program: str, ports: Ports, command: Sequence[str], grace: float) -> None:
        """See `supervise`; `command` is what a worker is started with."""
        self._program = program
        self._ports = ports
        self._command = list(command)
        self._grace = grace
        self._places = [_Place(number) for number in range(1, count + 1)]
        self._board_memory = new_board(count)
        self._board = Board(self._board_memory, number=0, count=count)
        self._notifier = Notifier()
        self._was_ready = False
        self._failed: int | None = None
        """The exit code of a worker that could not start."""
        self._stopping = 0
        """The signal by which this was told to end."""
        self._changed = asyncio.Event()

    async def run(self, metrics: Address | None) -> int:
        """Run the workers until told to stop. Returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in _ENDS:
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            async with serving_metrics(metrics, self._texts, health=Health(ready=self._missing)) as more:
                for place in self._places:
                    self._start(place)
                await self._serve(more)
                await self._drain()
        finally:
            for place in self._places:
                if place.process is not None:
                    place.process.kill()
                    self._bury(place)
            os.close(self._board_memory)
        return self._failed if self._failed is not None else 128 + self._stopping

    async def _serve(self, more: Sequence[str]) -> None:
        """Wait until told to stop, or a worker could not even start."""
        interval = self._notifier.watchdog_interval
        while not self._stopping and self._failed is None:
            self._changed.clear()
            if not self._was_ready and all(place.is_ready for place in self._places):
                self._was_ready = True
                names = ", ".join([*self._ports.names, *more])
                text = f"listening on {names}; {len(self._places)} workers"
                say(self._program, text, kind="info", event="service.listening", addresses=self._ports.names)
                self._notifier.ready("Serving")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._changed.wait()
            if interval is not None:
                self._notifier.alive()

    async def _drain(self) -> None:
        """Wait until all workers have ended."""
        self._notifier.stopping()
        for place in self._places:
            place.signal(self._stopping or signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace + OVERTIME):
                while any(place.process is not None for place in self._places):
                    self._changed.clear()
                    await self._changed.wait()

    def _end(self, number: int) -> None:
        if self._stopping:
            # Told once more: the workers know what that means.
            for place in self._places:
                place.signal(number)
        self._stopping = number
        self._changed.set()

    def _reload(self) -> None:
        self._notifier.reloading()
        for place in self._places:
            # One that is just starting would die of the signal, and may have read what was there before.
            place.owes_reload = not place.is_ready
            if place.is_ready:
                place.signal(signal.SIGHUP)
        self._notifier.ready("Serving")

    # One worker.

    def _start(self, place: _Place) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)  # noqa: FBT003  the standard library's signature
        told = {
            "number": place.number,
            "count": len(self._places),
            "control": theirs.fileno(),
            "addresses": self._ports.told,
            "board": self._board_memory,
        }
        try:
            place.process = subprocess.Popen(  # noqa: S603  our own command line
                self._command,
                env={**_environment(), VARIABLE: json.dumps(told)},
                pass_fds=(theirs.fileno(), self._board_memory, *self._ports.inherited),
                # A terminal's ^C goes to the supervisor alone, which passes it on once.
                process_group=0,
            )
        except OSError as error:
            ours.close()
            logger.error("worker %d cannot be started: %s", place.number, error.strerror)  # noqa: TRY400  one line
            self._again(place)
            return
        finally:
            theirs.close()
        place.control = ours
        place.started = place.heard = time.monotonic()
        asyncio.get_running_loop().add_reader(ours.fileno(), self._hear, place)

    def _hear(self, place: _Place) -> None:
        assert place.control is not None
        try:
            said = place.control.recv(MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            self._mourn(place)
            return
        message = json.loads(said)
        place.heard = time.monotonic()
        place.missing = message.get("missing", place.missing)
        if "metrics" in message and place.answer is not None and not place.answer.done():
            place.answer.set_result(message["metrics"])
        if message.get("ready"):
            place.is_ready = True
            if place.owes_reload:
                place.owes_reload = False
                place.signal(signal.SIGHUP)
            self._changed.set()

    def _mourn(self, place: _Place) -> None:
        """A worker has ended, or is about to: it holds the other end of this socket and nobody else does."""
        assert place.process is not None
        pid, was_ready = place.process.pid, place.is_ready
        code = self._bury(place)
        self._changed.set()
        if self._stopping or self._failed is not None:
            return
        if not was_ready and not self._was_ready and code > 0:
            self._failed = code
            return
        if time.monotonic() - place.started > STEADY:
            place.pause = FIRST_PAUSE
        logger.error(
            "worker %d (process %d) %s; another one takes its place in %g seconds",
            place.number,
            pid,
            f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}",
            place.pause,
            extra={"event": "worker.ended", "worker": place.number},
        )
        self._again(place)

    def _bury(self, place: _Place) -> int:
        assert place.process is not None
        if place.control is not None:
            asyncio.get_running_loop().remove_reader(place.control.fileno())
            place.control.close()
        code = place.process.wait()
        self._board.clear(place.number)
        place.process = place.control = None
        place.is_ready = False
        if place.answer is not None and not place.answer.done():
            place.answer.set_result("")
        return code

    def _again(self, place: _Place) -> None:
        place.restarts += 1
        asyncio.get_running_loop().call_later(place.pause, self._restart, place)
        place.pause = min(2 * place.pause, LONGEST_PAUSE)

    def _restart(self, place: _Place) -> None:
        if not self._stopping and self._failed is None:
            self._start(place)

    # What it tells.

    def _missing(self) -> list[str]:
        """Return what is not fine: a worker that is not there, or what the workers themselves say."""
        if self._stopping:
            return ["listening"]
        absent = [] if all(place.is_ready for place in self._places) else ["workers"]
        silent = ["workers"] if any(place.is_ready and not _is_heard(place) for place in self._places) else []
        return list(dict.fromkeys([*absent, *silent, *(word for place in self._places for word in place.missing)]))

    async def _texts(self) -> str:
        texts = await asyncio.gather(*(self._ask(place) for place in self._places))
        named = {str(place.number): text for place, text in zip(self._places, texts, strict=True) if text}
        return merge_expositions(named, label="worker") + exposition(self._metrics())

    async def _ask(self, place: _Place) -> str:
        """Return a worker's metrics, nothing where it does not answer."""
        if not place.is_ready:
            return ""
        if place.answer is None or place.answer.done():
            place.answer = asyncio.get_running_loop().create_future()
            place.say({"metrics": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                return await asyncio.shield(place.answer)
        return ""

    def _metrics(self) -> list[Metric]:
        return [
            Metric(
                name="eaa_workers",
                kind="gauge",
                meaning="Processes that are to serve.",
                read=lambda: len(self._places),
            ),
            Metric(
                name="eaa_workers_ready",
                kind="gauge",
                meaning="Processes that serve.",
                read=lambda: sum(place.is_fine for place in self._places),
            ),
            Metric(
                name="eaa_worker_restarts_total",
                kind="counter",
                meaning="How often a process was started in place of one that had ended.",
                read=lambda: sum(place.restarts for place in self._places),
            ),
        ]


def _is_heard(place: _Place) -> bool:
    return time.monotonic() - place.heard < SILENCE


def _environment() -> dict[str, str]:
    """Return the environment for workers: only the supervisor speaks with the service manager."""
    apart = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
    return {name: value for name, value in os.environ.items() if name not in apart}
