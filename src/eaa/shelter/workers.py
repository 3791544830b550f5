"""Work in processes: chunks of items out, chunks of outcomes back in the same order, and an end that leaves nobody."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final, Generic, Self, TypeVar

from eaa.errors import EAAError, Misuse, Reason

_In = TypeVar("_In")
_Out = TypeVar("_Out")

_END_TIMEOUT: Final = 5.0
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection


class Workers(Generic[_In, _Out]):
    """Processes that do the same work on chunks. They are forks, and know what their parent knew."""

    def __init__(self, work: Callable[[list[_In]], list[_Out]], *, count: int) -> None:
        """Start them; this process must not have threads yet."""
        # What is still to be written would else be written by each of them.
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        context = multiprocessing.get_context("fork")
        self._workers: list[_Worker] = []
        # A fork inherits handlers that are its parent's: until it has its own, signals wait.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            for _ in range(count):
                ours, theirs = context.Pipe()
                inherited = [ours, *(worker.connection for worker in self._workers)]
                process = context.Process(target=_serve, args=(work, theirs, inherited), daemon=True)
                process.start()
                theirs.close()
                self._workers.append(_Worker(process, ours))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """End them, whatever they are doing."""
        for worker in self._workers:
            worker.connection.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_END_TIMEOUT)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def map(self, chunks: Iterable[list[_In]]) -> Iterator[list[_Out]]:
        """Yield the outcomes of each chunk, in order. Raises what the work raised, of our tree; its bugs as such."""
        source = enumerate(chunks)
        idle = {worker.connection: worker for worker in self._workers}
        busy: dict[Connection, int] = {}
        done: dict[int, list[_Out]] = {}
        following, exhausted = 0, False
        while True:
            # A source may keep us waiting for long (a pipe): nothing that is finished, or about to be, waits with us.
            if idle and not exhausted and not done:
                numbered = next(source, None)
                if numbered is None:
                    exhausted = True
                else:
                    connection, _ = idle.popitem()
                    busy[connection] = numbered[0]
                    connection.send(numbered[1])
            if not busy:
                return
            may_ask = bool(idle) and not exhausted and not done
            for ready in wait(list(busy), timeout=0 if may_ask else None):
                assert isinstance(ready, Connection)
                done[busy.pop(ready)] = _received(ready)
                idle[ready] = next(worker for worker in self._workers if worker.connection is ready)
            while following in done:
                yield done.pop(following)
                following += 1


def _serve(work: Callable[[list[Any]], list[Any]], connection: Connection, inherited: list[Connection]) -> None:
    """Do what is asked until nobody asks any more."""
    # Ctrl-C reaches every process of a terminal's group; the parent decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    for other in inherited:
        other.close()
    with suppress(EOFError, OSError):
        while True:
            chunk = connection.recv()
            connection.send(_outcome(work, chunk))


def _outcome(work: Callable[[list[Any]], list[Any]], chunk: list[Any]) -> tuple[str, Any]:
    try:
        return "done", work(chunk)
    except EAAError as error:
        return "refused", (error.reason.value, error.message, error.hint)
    except Exception as error:  # noqa: BLE001  the parent says it: it has the voice
        return "failed", f"{type(error).__name__}: {error}"


def _received(connection: Connection) -> list[Any]:
    try:
        kind, content = connection.recv()
    except (EOFError, OSError) as error:
        raise RuntimeError("a worker process died") from error
    if kind == "done":
        outcomes: list[Any] = content
        return outcomes
    if kind == "refused":
        reason, message, hint = content
        raise Misuse(Reason(reason), message, hint=hint)
    raise RuntimeError(f"in a worker process: {content}")
