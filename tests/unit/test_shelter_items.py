"""What `shelter verify` was given: files, folders and archives become quotes with names that can be printed."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from eaa.errors import EAAError, Misuse, Reason, Unavailable
from eaa.evidence.quote import MAX_QUOTE_SIZE
from eaa.shelter import items
from eaa.shelter.items import Given, Item, printable


def given(*paths: Path | str, include: tuple[str, ...] = ()) -> Given:
    return Given(arguments=tuple(Path(path) for path in paths), include=include)


def contents(found: Given) -> list[tuple[str, bytes]]:
    return [(item.name, item.read()) for item in found.items()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "quotes"
    for name in ("b", "a", "sub/c", "sub/.hidden", ".git/x", "sub/deep/d.quote"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def tar_of(path: Path, *names: str, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as writer:  # type: ignore[call-overload]
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            writer.addfile(info, io.BytesIO(name.encode()))
    return path


@pytest.fixture
def standard_input(monkeypatch: pytest.MonkeyPatch) -> Any:
    class Stream:
        buffer = io.BytesIO()

    monkeypatch.setattr("sys.stdin", Stream)
    return Stream


def test_a_folder_is_all_files_below_it_in_the_order_of_their_names(folder: Path) -> None:
    found = given(folder)
    assert contents(found) == [(f"{folder}/{name}", name.encode()) for name in ("a", "b", "sub/c", "sub/deep/d.quote")]
    assert found.count() == 4
    assert not found.is_one_quote()


def outcome(item: Item) -> tuple[str, bytes | Reason]:
    """A file's content, or the reason why there is none, which is always one that says: not now."""
    try:
        return Path(item.name).name, item.read()
    except Unavailable as error:
        return Path(item.name).name, error.reason


def test_links_to_files_are_files_and_links_to_folders_are_not_followed(folder: Path) -> None:
    """A loop of folders would have no end; a mounted secret is a folder of links to files."""
    (folder / "link").symlink_to(folder / "a")
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "broken").symlink_to(folder / "nothing")
    assert [outcome(item) for item in given(folder).items()] == [
        ("a", b"a"),
        ("b", b"b"),
        ("broken", Reason.FILE_UNREADABLE),
        ("link", b"a"),
        ("c", b"sub/c"),
        ("loop", Reason.FILE_UNREADABLE),
        ("d.quote", b"sub/deep/d.quote"),
    ]
    assert given(folder).count() == 7


def test_what_would_wait_for_ever_is_not_read_and_not_passed_over(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert outcome(list(given(folder).items())[2]) == ("pipe", Reason.FILE_UNREADABLE)
    assert [Path(item.name).name for item in given(folder, include=("[ab]",)).items()] == ["a", "b"]


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_what_is_no_file_in_an_archive_is_not_passed_over(tmp_path: Path, kind: bytes) -> None:
    """Whoever packs a folder in which two names are one file gets a link for the second."""
    with tarfile.open(path := tmp_path / "x.tar", "w") as writer:
        for name, type_ in (("folder", tarfile.DIRTYPE), ("other", kind)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = type_, "first"
            writer.addfile(info)
    (item,) = given(path).items()
    assert outcome(item) == ("x.tar:other", Reason.FILE_UNREADABLE)


def test_of_folders_and_archives_only_what_fits_a_pattern_is_taken(folder: Path, tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "x.tar", "one.quote", "two.json", "deep/three.quote")
    found = given(folder, archive, folder / "a", include=("*.quote", "c"))
    assert [name.rpartition("/")[2] for name, _ in contents(found)] == [
        "c",
        "d.quote",
        "x.tar:one.quote",
        "three.quote",
        "a",
    ]
    assert given(folder, folder / "b", include=("*.quote",)).count() == 2


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_is_all_files_in_it(tmp_path: Path, mode: str) -> None:
    path = tar_of(tmp_path / "any name", "x", "folder/y", mode=mode)
    found = given(path)
    assert contents(found) == [(f"{path}:x", b"x"), (f"{path}:folder/y", b"folder/y")]
    assert found.count() is None
    assert not found.is_one_quote()


def test_an_archive_that_is_damaged_is_one_more_item_that_says_so(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "x.tar", "one", "two")
    path.write_bytes(path.read_bytes()[:1536])
    (tmp_path / "after").write_bytes(b"after")
    first, spoiled, after = given(path, tmp_path / "after").items()
    assert first.read() == b"one"
    with pytest.raises(EAAError) as caught:
        spoiled.read()
    assert (caught.value.reason, spoiled.name) == (Reason.ARCHIVE_MALFORMED, str(path))
    assert after.read() == b"after"


def test_archives_inside_of_folders_and_archives_are_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    inner = tar_of(folder / "inner.tar", "one")
    ((name, content),) = contents(given(folder))
    assert (name, content) == (str(inner), inner.read_bytes())


def test_one_file_is_one_quote_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(b"no archive")
    found = given(path)
    assert found.is_one_quote()
    assert found.read_one() == b"no archive"
    assert not given(path, path).is_one_quote()


@pytest.mark.parametrize("size", [0, 3, 511, 512, 513, 5000])
def test_standard_input_is_a_quote(standard_input: Any, size: int) -> None:
    standard_input.buffer = io.BytesIO(b"q" * size)
    found = given("-")
    assert found.is_one_quote()
    assert found.read_one() == b"q" * size


def test_standard_input_is_an_archive(standard_input: Any, tmp_path: Path) -> None:
    standard_input.buffer = io.BytesIO(tar_of(tmp_path / "x", "one", "two").read_bytes())
    found = given("-")
    assert not found.is_one_quote()
    assert contents(found) == [("-:one", b"one"), ("-:two", b"two")]


def test_standard_input_is_one_of_several(standard_input: Any, folder: Path) -> None:
    standard_input.buffer = io.BytesIO(b"q" * 700)
    assert contents(given(folder / "a", "-")) == [(f"{folder}/a", b"a"), ("-", b"q" * 700)]


def test_standard_input_that_is_closed_is_misuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(Misuse) as caught:
        given("-").is_one_quote()
    assert caught.value.reason is Reason.FILE_UNREADABLE


@pytest.mark.parametrize("paths", [("absent",), (".", "absent"), ("-", "-")])
def test_what_is_not_there_is_said_before_any_work(paths: tuple[str, ...]) -> None:
    with pytest.raises(Misuse):
        given(*paths).require_there()


def test_a_file_that_went_away_costs_its_own_answer_only(tmp_path: Path) -> None:
    with pytest.raises(EAAError) as caught:
        Item("x", str(tmp_path / "absent")).read()
    assert (caught.value.reason, caught.value.exit_code) == (Reason.FILE_UNREADABLE, 4)


def test_no_more_of_a_file_is_read_than_a_quote_may_have(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(bytes(MAX_QUOTE_SIZE + 1000))
    assert len(Item("x", str(path)).read()) == MAX_QUOTE_SIZE + 1


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_cannot_be_read_is_never_passed_over(folder: Path) -> None:
    (folder / "sub").chmod(0)
    try:
        with pytest.raises(Misuse) as caught:
            list(given(folder).items())
    finally:
        (folder / "sub").chmod(0o700)
    assert caught.value.reason is Reason.FILE_UNREADABLE


def test_the_number_of_files_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "MAX_FILES", 3)
    with pytest.raises(Misuse) as caught:
        list(given(folder).items())
    assert caught.value.reason is Reason.USAGE


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a b/ü.quote", "a b/ü.quote"),
        ("a\nb", "a\\nb"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\udcff", "\\udcff"),
        ("\u202e", "\\u202e"),
    ],
)
def test_a_name_cannot_speak_to_the_terminal(name: str, told: str) -> None:
    assert printable(name) == told
    printable(name).encode()


def test_a_file_whose_name_is_no_text_is_read_all_the_same(folder: Path) -> None:
    (folder / os.fsdecode(b"\xff\n")).write_bytes(b"odd")
    assert (f"{folder}/\\udcff\\n", b"odd") in contents(given(folder))
