"""Threads for what may take long elsewhere, a quote or collateral, and which nobody has to wait for at the end.

The standard library's pools are joined when a program ends. A platform or a PCCS that does not answer would then keep a
service from stopping for as long as it likes.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Final, ParamSpec, TypeVar

MAX_WORKERS: Final = 32
"""Threads for judging: all of them may be waiting for a PCCS."""

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Job = tuple["Future[Any] | _Call", Callable[[], Any]]


async def with_workers(main: Coroutine[Any, Any, _T], *, size: int = MAX_WORKERS) -> _T:
    """Run `main` so that the loop can end when it ends, whatever `asyncio.to_thread` still waits for."""
    workers = Workers(size, "worker")
    if size != MAX_WORKERS:
        # Who says how many there may be wants to know how many there are.
        workers.start_all()
    asyncio.get_running_loop().set_default_executor(workers)
    return await main


class Workers(ThreadPoolExecutor):
    """A pool of daemon threads, started as they are needed. It is never waited for."""

    def __init__(self, size: int, name: str) -> None:
        # What asyncio takes as its default executor has to be of this class; none of its threads is ever started.
        super().__init__(max_workers=size, thread_name_prefix=name)
        self._size = size
        self._name = name
        self._started = 0
        self._starting = threading.Lock()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._idle = _Idle()
        self._stop = weakref.finalize(self, _dismiss, self._jobs, size)
        self._stop.atexit = False

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Have a thread call `fn`. Raises RuntimeError after `shutdown`."""
        if not self._stop.alive:
            raise RuntimeError("the workers were sent home")
        future: Future[_T] = Future()
        self._put((future, functools.partial(fn, *args, **kwargs)))
        return future

    def call(self, fn: Callable[[], _T]) -> asyncio.Future[_T]:
        """Have a thread call `fn`; await the answer, or cancel it. `run_in_executor` takes three times as long."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        self._put((_Call(loop, future), fn))
        return future

    def _put(self, job: _Job) -> None:
        self._jobs.put(job)
        with self._starting:
            if not self._idle.take() and self._started < self._size:
                self._start()

    def start_all(self) -> None:
        """Start every thread now: for a place that has room for so many, and none for one more later."""
        with self._starting:
            while self._started < self._size:
                self._start()
                self._idle.release()

    def _start(self) -> None:
        self._started += 1
        name = f"{self._name}-{self._started}"
        threading.Thread(target=_work, args=(self._jobs, self._idle), name=name, daemon=True).start()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  its signature
        """Take no more work, and send each thread home when it has finished what it does. Waits for none."""
        del wait, cancel_futures
        self._stop()


class _Call:
    """What a thread sees of who waits in an event loop."""

    __slots__ = ("_future", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any]) -> None:
        self._loop = loop
        self._future = future

    def set_running_or_notify_cancel(self) -> bool:
        return not self._future.cancelled()

    def set_result(self, result: object) -> None:
        self._tell(self._future.set_result, result)

    def set_exception(self, error: BaseException) -> None:
        self._tell(self._future.set_exception, error)

    def _tell(self, settle: Callable[[Any], None], outcome: object) -> None:
        try:
            self._loop.call_soon_threadsafe(self._settle, settle, outcome)
        except RuntimeError:
            # A loop that is closed has nobody waiting.
            return

    def _settle(self, settle: Callable[[Any], None], outcome: object) -> None:
        if not self._future.done():
            settle(outcome)


class _Idle:
    """How many threads wait for work. A semaphore that nobody waits for, in a fifth of its time."""

    def __init__(self) -> None:
        self._count = 0
        self._guard = threading.Lock()

    def take(self) -> bool:
        """Count one less, if there is any."""
        with self._guard:
            if not self._count:
                return False
            self._count -= 1
            return True

    def release(self) -> None:
        """Count one more."""
        with self._guard:
            self._count += 1


def _work(jobs: SimpleQueue[_Job | None], idle: _Idle) -> None:
    while (job := jobs.get()) is not None:
        future, call = job
        if future.set_running_or_notify_cancel():
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001  it is raised where the future is awaited
                future.set_exception(error)
            else:
                future.set_result(result)
        # A thread that waits for work keeps nothing of the last one alive.
        del job, future, call
        idle.release()


def _dismiss(jobs: SimpleQueue[_Job | None], threads: int) -> None:
    for _ in range(threads):
        jobs.put(None)
