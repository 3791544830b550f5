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
    eventually(lambda: workers._idle._count == 1)
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


def test_a_call_is_answered_in_the_loop_and_its_failure_is_raised_there() -> None:
    workers = Workers(1, "called")

    async def main() -> None:
        assert await workers.call(lambda: threading.current_thread().name) == "called-1"
        with pytest.raises(ZeroDivisionError):
            await workers.call(lambda: 1 // 0)

    asyncio.run(main())
    workers.shutdown()


def test_a_call_that_nobody_waits_for_any_more_is_not_made() -> None:
    workers = Workers(1, "left")
    release, made = threading.Event(), list[int]()

    async def main() -> None:
        first = workers.call(lambda: release.wait(30))
        left = workers.call(lambda: made.append(1))
        left.cancel()
        release.set()
        assert await first
        await workers.call(lambda: None)

    asyncio.run(main())
    assert not made
    workers.shutdown()


def test_a_caller_who_has_left_while_it_was_made_hears_nothing() -> None:
    workers = Workers(1, "gone")
    begun, release = threading.Event(), threading.Event()

    def call() -> bool:
        begun.set()
        return release.wait(30)

    async def main() -> None:
        gone = workers.call(call)
        await asyncio.to_thread(begun.wait, 30)
        gone.cancel()
        release.set()
        assert await workers.call(lambda: True)
        assert gone.cancelled()

    asyncio.run(main())
    workers.shutdown()


def test_a_loop_that_has_ended_is_told_nothing() -> None:
    workers = Workers(1, "late")
    release = threading.Event()

    async def leave() -> None:
        workers.call(lambda: release.wait(30))

    asyncio.run(leave())
    release.set()
    assert workers.submit(int).result() == 0
    workers.shutdown()
