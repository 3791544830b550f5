"""Pins of platforms as a file: the first stays, whoever shares it, and it is never taken for empty."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path
from typing import Final

import pytest

from eaa.appraise.platforms import Pin, PinKey, PlatformID, PlatformIDKind, PlatformPins
from eaa.appraise.result import Role
from eaa.errors import Misuse, Reason, Unavailable
from eaa.program import pins
from eaa.program.files import write_whole
from eaa.program.pins import PinFile
from support.facts import NOW

KEY: Final[PinKey] = (b"\x0a" * 32, Role.WORKLOAD, "app")
OTHER: Final[PinKey] = (b"\x0a" * 32, Role.RELAY, "app")


def machine(number: int) -> Pin:
    return Pin(ids=(PlatformID(PlatformIDKind.PPID, number.to_bytes(16, "big")),), since=NOW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "pins.json"


def opened(path: Path) -> tuple[PinFile, list[str]]:
    warnings: list[str] = []
    return PinFile(path, warn=warnings.append), warnings


def stored(path: Path) -> dict[PinKey, Pin]:
    return dict(PlatformPins.parse(path.read_text()).pins)


def test_the_first_machine_makes_the_file_and_is_told(path: Path) -> None:
    keeper, warnings = opened(path)
    assert not path.exists()
    assert keeper.pin(KEY, machine(1)).pins == {KEY: machine(1)}
    assert stored(path) == {KEY: machine(1)}
    assert path.stat().st_mode & 0o777 == 0o600
    (warning,) = warnings
    assert "reference value app (role workload)" in warning
    assert f"ppid:{1:032x}" in warning


def test_a_second_machine_changes_nothing_and_is_not_told(path: Path) -> None:
    keeper, warnings = opened(path)
    keeper.pin(KEY, machine(1))
    before = path.stat()
    assert keeper.pin(KEY, machine(2)).pins == {KEY: machine(1)}
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(warnings) == 1


def test_it_outlives_its_program(path: Path) -> None:
    opened(path)[0].pin(KEY, machine(1))
    assert opened(path)[0].read().pins == {KEY: machine(1)}


def test_what_another_program_has_seen_holds_at_once(path: Path) -> None:
    (ours, _), (theirs, told) = opened(path), opened(path)
    ours.pin(KEY, machine(1))
    assert theirs.read().pins == {KEY: machine(1)}
    theirs.pin(OTHER, machine(2))
    assert ours.read().pins == {KEY: machine(1), OTHER: machine(2)}
    assert len(told) == 1


def test_of_two_that_see_a_first_machine_at_once_one_wins(path: Path) -> None:
    """The second has read before the first wrote."""
    (ours, _), (theirs, told) = opened(path), opened(path)
    assert theirs.read().pins == {}
    ours.pin(KEY, machine(1))
    assert theirs.pin(KEY, machine(2)).pins == {KEY: machine(1)}
    assert told == []


def test_a_pin_that_its_owner_removed_is_gone(path: Path) -> None:
    keeper, _ = opened(path)
    keeper.pin(KEY, machine(1))
    write_whole(path, PlatformPins().encode().encode())
    assert keeper.read().pins == {}


def test_a_file_that_was_removed_is_not_forgotten_by_who_read_it(path: Path) -> None:
    keeper, _ = opened(path)
    keeper.pin(KEY, machine(1))
    path.unlink()
    assert keeper.read().pins == {KEY: machine(1)}


@pytest.mark.parametrize("content", ["", "{}", "junk"])
def test_a_file_that_is_none_is_refused_from_the_beginning(path: Path, content: str) -> None:
    write_whole(path, content.encode())
    with pytest.raises(Misuse) as caught:
        opened(path)
    assert caught.value.reason is Reason.PLATFORM_PINS_INVALID


def test_a_file_that_was_spoiled_meanwhile_is_refused_too(path: Path) -> None:
    keeper, _ = opened(path)
    keeper.pin(KEY, machine(1))
    write_whole(path, b"{}")
    for act in (keeper.read, lambda: keeper.pin(OTHER, machine(1))):
        with pytest.raises(Misuse) as caught:
            act()
        assert caught.value.reason is Reason.PLATFORM_PINS_INVALID


def test_a_full_file_takes_no_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "MAX_PINS", 1)
    keeper, warnings = opened(path)
    keeper.pin(KEY, machine(1))
    with pytest.raises(Unavailable) as caught:
        keeper.pin(OTHER, machine(1))
    assert caught.value.reason is Reason.OVERLOADED
    assert stored(path) == keeper.read().pins == {KEY: machine(1)}
    assert len(warnings) == 1


def test_a_pin_that_cannot_be_kept_is_no_pin(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    keeper, warnings = opened(tmp_path / "pins.json")
    keeper._path = tmp_path / "file" / "pins.json"
    with pytest.raises(Unavailable) as caught:
        keeper.pin(KEY, machine(1))
    assert caught.value.reason is Reason.PERMISSION_DENIED
    assert warnings == []


def pin_in_turn(path: Path, number: int) -> None:
    keeper, _ = opened(path)
    for value in range(20):
        keeper.pin((b"\x0a" * 32, Role.WORKLOAD, f"v{value}"), machine(number))


def test_processes_share_one_and_agree(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=pin_in_turn, args=(path, number)) for number in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(stored(path)) == 20
    assert set(stored(path).values()) <= {machine(1), machine(2)}


def test_threads_share_one_and_agree(path: Path) -> None:
    keeper, warnings = opened(path)
    threads = [threading.Thread(target=keeper.pin, args=(KEY, machine(number))) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stored(path)) == len(warnings) == 1
