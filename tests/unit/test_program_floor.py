"""The evaluation floor as a file: it only rises, whoever shares it, and is never taken for empty."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path
from typing import Final

import pytest

from eaa.appraise.floor import EvaluationFloor
from eaa.errors import Misuse, Reason, Unavailable
from eaa.program.files import locked, write_whole
from eaa.program.floor import FloorFile

ANCHOR: Final = b"\x0a" * 32
INFO: Final = (ANCHOR, "sgx-tcb-info")
IDENTITY: Final = (ANCHOR, "sgx-qe-identity")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "floor.json"


def stored(path: Path) -> dict[tuple[bytes, str], int]:
    return dict(EvaluationFloor.parse(path.read_text()).numbers)


def test_the_first_numbers_make_the_file(path: Path) -> None:
    floor = FloorFile(path)
    assert not path.exists()
    assert floor.raise_to({INFO: 17, IDENTITY: 16}).numbers == {INFO: 17, IDENTITY: 16}
    assert stored(path) == {INFO: 17, IDENTITY: 16}
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_lower_number_changes_nothing_and_writes_nothing(path: Path) -> None:
    floor = FloorFile(path)
    floor.raise_to({INFO: 17})
    before = path.stat()
    assert floor.raise_to({INFO: 16}).numbers == {INFO: 17}
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_it_outlives_its_program(path: Path) -> None:
    FloorFile(path).raise_to({INFO: 17})
    assert FloorFile(path).raise_to({INFO: 3}).numbers == {INFO: 17}


def test_what_another_program_has_seen_counts_at_once(path: Path) -> None:
    ours, theirs = FloorFile(path), FloorFile(path)
    ours.raise_to({INFO: 17})
    assert theirs.raise_to({INFO: 16}).numbers == {INFO: 17}
    theirs.raise_to({IDENTITY: 20})
    assert ours.raise_to({INFO: 1}).numbers == {INFO: 17, IDENTITY: 20}


def test_what_was_seen_stays_seen_where_somebody_removes_the_file(path: Path) -> None:
    floor = FloorFile(path)
    floor.raise_to({INFO: 17})
    path.unlink()
    assert floor.raise_to({INFO: 3}).numbers == {INFO: 17}
    floor.raise_to({IDENTITY: 1})
    assert stored(path) == {INFO: 17, IDENTITY: 1}


@pytest.mark.parametrize("content", ["", "{}", "junk"])
def test_a_file_that_is_none_is_refused_from_the_beginning(path: Path, content: str) -> None:
    write_whole(path, content.encode())
    with pytest.raises(Misuse) as caught:
        FloorFile(path)
    assert caught.value.reason is Reason.EVALUATION_FLOOR_INVALID


def test_a_file_that_was_spoiled_meanwhile_is_refused_too(path: Path) -> None:
    floor = FloorFile(path)
    floor.raise_to({INFO: 17})
    write_whole(path, b"{}")
    with pytest.raises(Misuse) as caught:
        floor.raise_to({INFO: 18})
    assert caught.value.reason is Reason.EVALUATION_FLOOR_INVALID


def test_numbers_that_cannot_be_kept_are_no_floor(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    floor = FloorFile(tmp_path / "floor.json")
    floor._path = tmp_path / "file" / "floor.json"
    with pytest.raises(Unavailable) as caught:
        floor.raise_to({INFO: 17})
    assert caught.value.reason is Reason.PERMISSION_DENIED


def raise_in_turn(path: Path, start: int) -> None:
    floor = FloorFile(path)
    for number in range(start, 40, 2):
        floor.raise_to({INFO: number, (ANCHOR, f"document-{number}"): number})


def test_processes_share_one_and_lose_nothing(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=raise_in_turn, args=(path, start)) for start in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert stored(path) == {INFO: 39} | {(ANCHOR, f"document-{number}"): number for number in range(40)}


def test_threads_share_one_and_lose_nothing(path: Path) -> None:
    floor = FloorFile(path)
    threads = [threading.Thread(target=floor.raise_to, args=({(ANCHOR, f"d{number}"): number},)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stored(path) == {(ANCHOR, f"d{number}"): number for number in range(9)}


# --- the lock


def test_a_lock_that_somebody_holds_is_waited_for_and_then_named(path: Path) -> None:
    with locked(path), pytest.raises(Unavailable) as caught, locked(path, timeout=0.05):
        pass
    assert caught.value.reason is Reason.FILE_LOCKED
    with locked(path, timeout=0.05):
        assert not path.exists()


def test_a_lock_is_never_taken_through_a_link(path: Path, tmp_path: Path) -> None:
    """Else whoever can write into the folder could have any file of ours made."""
    path.parent.mkdir()
    elsewhere = tmp_path / "elsewhere"
    path.with_name(f".{path.name}.lock").symlink_to(elsewhere)
    with pytest.raises(Unavailable) as caught, locked(path):
        pass
    assert caught.value.reason is Reason.PERMISSION_DENIED
    assert not elsewhere.exists()


def test_a_lock_ends_with_its_holder(path: Path) -> None:
    context = multiprocessing.get_context("fork")

    def hold() -> None:
        with locked(path):
            os._exit(9)

    holder = context.Process(target=hold)
    holder.start()
    holder.join(30)
    with locked(path, timeout=1):
        assert holder.exitcode == 9
