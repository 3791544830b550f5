"""Worker threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref

import pytest

from eaa.aio.workers import Workers, with_workers
from support.peers import eventually


def threads_of(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{name}-")]


def test_work_is_done_and_its_failures_are_raised() -> None:
    workers = Workers(2, "done")
    assert workers.submit(divmod, 7, 2).result() == (3, 1)
    assert workers.submit(int, "11", base=2).result() == 3
    with pytest.raises(ZeroDivisionError):
        workers.submit(divmod, 7, 0).result()
    workers.shutdown()


def test_threads_are_started_as_they_are_needed_and_no_more_than_allowed() -> None:
    workers = Workers(2, "few")
    assert workers.submit(int).result() == 0
    eventually(lambda: workers._idle._value == 1)
    assert workers.submit(int).result() == 0
    assert len(threads_of("few")) == 1
    release = threading.Event()
    waiting = [workers.submit(release.wait, 30) for _ in range(4)]
    assert len(threads_of("few")) == 2
    release.set()
    assert [future.result() for future in waiting] == [True] * 4
    workers.shutdown()
    eventually(lambda: not threads_of("few"))


def test_work_that_is_taken_back_in_time_is_not_done() -> None:
    workers = Workers(1, "taken-back")
    release = threading.Event()
    done: list[int] = []
    first = workers.submit(release.wait, 30)
    second = workers.submit(done.append, 2)
    assert second.cancel()
    release.set()
    workers.submit(done.append, 3).result()
    assert first.result()
    assert done == [3]
    workers.shutdown()


def test_nobody_works_for_who_has_sent_them_home() -> None:
    workers = Workers(1, "home")
    workers.shutdown()
    workers.shutdown()
    with pytest.raises(RuntimeError):
        workers.submit(int)


def test_workers_that_nobody_knows_any_more_go_home() -> None:
    workers = Workers(3, "forgotten")
    assert workers.submit(int).result() == 0
    known = weakref.ref(workers)
    del workers
    gc.collect()
    assert known() is None
    eventually(lambda: not threads_of("forgotten"))


def test_a_thread_that_waits_for_work_keeps_nothing_of_the_last() -> None:
    class Result: ...

    workers = Workers(1, "clean")
    kept = weakref.ref(workers.submit(Result).result())
    workers.submit(int).result()
    eventually(lambda: gc.collect() >= 0 and kept() is None)
    workers.shutdown()


def test_a_loop_ends_without_waiting_for_its_threads() -> None:
    release = threading.Event()

    async def main() -> str:
        waiting = asyncio.create_task(asyncio.to_thread(release.wait, 30))
        await asyncio.sleep(0)
        waiting.cancel()
        return await asyncio.to_thread(lambda: threading.current_thread().name)

    assert asyncio.run(with_workers(main())).startswith("worker-")
    assert not release.is_set()
    release.set()


STUCK = """
import asyncio, threading
from eaa.aio.workers import with_workers

async def main():
    started = threading.Event()
    asyncio.get_running_loop().run_in_executor(None, lambda: (started.set(), threading.Event().wait()))
    await asyncio.to_thread(started.wait)

asyncio.run(with_workers(main()))
"""


def test_a_program_ends_while_a_thread_of_its_waits_for_ever() -> None:
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
