"""The life of a service between its start and its end: signals, reloads, draining, and what the manager is told.

| signal | does |
|---|---|
| SIGTERM, SIGINT | accept no more, let live connections finish within the grace, then end them |
| the same once more | end them at once |
| SIGHUP | read the configuration again, where the service can |
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

import click

from eaa.aio.net import DRAIN, Service
from eaa.program.notify import Notifier

F = TypeVar("F", bound=Callable[..., Any])

MAX_GRACE: Final = 3600.0
"""Seconds: whoever drains for longer wants no end at all."""
_ENDS: Final = (signal.SIGTERM, signal.SIGINT)

logger = logging.getLogger(__name__)

Reload = Callable[[], Awaitable[None]]


def grace_option(function: F) -> F:
    """Add `--grace`: how long live connections may go on when the service is told to stop."""
    return click.option(
        "--grace",
        type=click.FloatRange(0, MAX_GRACE),
        default=DRAIN,
        show_default=True,
        metavar="SECONDS",
        help="When told to stop: how long live connections may take to finish. Told once more, it ends at once.",
    )(function)


async def live(
    service: Service,
    *,
    announce: Callable[[], None],
    grace: float | Callable[[], float] = DRAIN,
    on_reload: Reload | None = None,
    on_stop: Callable[[], None] | None = None,
    notifier: Notifier | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        service: what listens already.
        announce: is called once everything really listens.
        grace: seconds that live connections get to finish; a function where a reload may change it.
        on_reload: is awaited for each SIGHUP, one at a time; several that come meanwhile are one more. None where there
            is nothing to read again: SIGHUP then does what it does to any process.
        on_stop: is called when draining begins.
        notifier: who tells the service manager; by $NOTIFY_SOCKET where it is left out.

    Returns:
        The exit code: 143 after SIGTERM, 130 after SIGINT.
    """
    notifier = notifier or Notifier()
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()
    hurry: asyncio.Future[None] = loop.create_future()
    for number in _ENDS:
        loop.add_signal_handler(number, _end, number, stopped, hurry)
    service.start()
    try:
        # Whoever is told that it serves may have it reload at once.
        async with _reloading(on_reload, notifier), showing_life(notifier):
            announce()
            notifier.ready("Serving")
            return await service.serve_until(stopped)
    finally:
        notifier.stopping()
        if on_stop is not None:
            on_stop()
        await service.stop(grace=grace() if callable(grace) else grace, hurry=hurry)


def _end(number: signal.Signals, stopped: asyncio.Future[int], hurry: asyncio.Future[None]) -> None:
    if not stopped.done():
        logger.info("%s: accepting no more, draining", number.name, extra={"event": "service.draining"})
        stopped.set_result(128 + number)
    elif not hurry.done():
        logger.warning("%s again: ending at once", number.name)
        hurry.set_result(None)


@contextlib.asynccontextmanager
async def _reloading(reload: Reload | None, notifier: Notifier) -> AsyncIterator[None]:
    """Reload for each SIGHUP for the duration of a block."""
    if reload is None:
        yield
        return
    loop = asyncio.get_running_loop()
    reloads = _Reloads(reload, notifier)
    loop.add_signal_handler(signal.SIGHUP, reloads.ask)
    try:
        yield
    finally:
        # Who is about to end has nothing to read again, and a late SIGHUP must not end it in the middle of that.
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        await reloads.end()


class _Reloads:
    """Reloads one at a time; however often it is asked meanwhile, there is one more after it."""

    def __init__(self, reload: Reload, notifier: Notifier) -> None:
        self._reload = reload
        self._notifier = notifier
        self._asked = False
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        self._asked = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._asked:
            self._asked = False
            self._notifier.reloading()
            try:
                await self._reload()
            except Exception:
                logger.exception("a bug of ours ended a reload; what there was before goes on")
            self._notifier.ready("Serving")


@contextlib.asynccontextmanager
async def showing_life(notifier: Notifier) -> AsyncIterator[None]:
    """Tell a manager that asks for it, for the duration of a block, that the event loop turns."""
    interval = notifier.watchdog_interval
    if interval is None:
        yield
        return

    async def show() -> None:
        while True:
            notifier.alive()
            await asyncio.sleep(interval)

    task = asyncio.create_task(show())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
