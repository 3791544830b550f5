"""Tar archives: what Python's own writer makes is read, whatever its form, and what a stranger makes is bounded."""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaa.errors import MalformedInput, Reason
from eaa.shelter import archive
from eaa.shelter.archive import Member, is_archive, members_of

FORMS: Final = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def packed(files: dict[str, bytes], *, form: int = tarfile.PAX_FORMAT, mode: str = "w") -> bytes:
    """An archive as tarfile writes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=form) as writer:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            writer.addfile(info, io.BytesIO(content))
    return out.getvalue()


def read(raw: bytes, *, keep: int = 1 << 20) -> dict[str, bytes]:
    return {member.name: member.content for member in members_of(io.BytesIO(raw), keep=keep)}


def refused(raw: bytes) -> tuple[list[Member], Reason]:
    """What was read before the defect, and its reason."""
    found: list[Member] = []
    with pytest.raises(MalformedInput) as caught:
        found.extend(members_of(io.BytesIO(raw), keep=1000))
    return found, caught.value.reason


def entry(**changes: Any) -> bytes:
    """One header, made by hand, with its checksum."""
    fields: dict[str, Any] = {"name": b"a", "size": b"00000000000\0", "kind": b"0", "magic": b"ustar\0", "prefix": b""}
    fields |= changes
    raw = bytearray(512)
    for at, name in ((0, "name"), (124, "size"), (156, "kind"), (257, "magic"), (345, "prefix")):
        raw[at : at + len(fields[name])] = fields[name]
    raw[148:156] = b" " * 8
    raw[148:156] = fields.get("checksum", b"%06o\0 " % sum(raw))
    return bytes(raw)


@pytest.mark.parametrize(
    "raw", [packed({"a": b"b"}, mode="w:bz2"), packed({"a": b"b"}, mode="w:xz"), b"PK\x03\x04" + bytes(600)]
)
def test_an_archive_of_another_form_is_told_apart_from_a_quote(raw: bytes) -> None:
    assert is_archive(raw[: archive.HEAD_SIZE])
    assert refused(raw) == ([], Reason.ARCHIVE_MALFORMED)


END: Final = bytes(1024)
FILES: Final = {"a": b"first", "folder/b": b"x" * 512, "empty": b"", "c": b"y" * 1000}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_is_read_in_its_order(form: int, mode: str) -> None:
    raw = packed(FILES, form=form, mode=mode)
    assert is_archive(raw[:512])
    assert read(raw) == FILES
    assert list(read(raw)) == list(FILES)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
@pytest.mark.parametrize("name", ["x" * 99, "x" * 100, "x" * 101, "f/" * 100 + "x" * 900, "ü" * 90, "x\udcff"])
def test_a_name_may_be_long_and_odd(form: int, name: str) -> None:
    files = {name: b"content", "next": b"and the next is not called the same"}
    assert read(packed(files, form=form)) == files


def test_a_name_of_ustar_may_have_two_parts() -> None:
    name = "folder/" * 20 + "file"
    assert list(read(packed({name: b"x"}, form=tarfile.USTAR_FORMAT))) == [name]


def test_no_more_than_was_asked_for_is_kept_of_a_file() -> None:
    first, second = members_of(io.BytesIO(packed({"long": b"z" * 5000, "b": b"1"})), keep=100)
    assert (first.size, first.content) == (5000, b"z" * 100)
    assert second.content == b"1"


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (tarfile.DIRTYPE, []),
        *((kind, ["odd"]) for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, b"V")),
    ],
)
def test_what_is_no_file_is_told_to_be_none_but_for_folders(kind: bytes, told: list[str]) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as writer:
        odd = tarfile.TarInfo("odd")
        odd.type, odd.linkname = kind, "/etc/passwd"
        writer.addfile(odd)
        info = tarfile.TarInfo("file")
        info.size = 1
        writer.addfile(info, io.BytesIO(b"1"))
    *others, file = members_of(io.BytesIO(out.getvalue()), keep=9)
    assert file == Member("file", 1, b"1")
    assert others == [Member(name, 0, b"", is_file=False) for name in told]


def test_a_folder_of_before_1988_is_told_by_its_name() -> None:
    assert read(entry(name=b"a/", magic=b"", kind=b"\0") + entry(name=b"a/b", magic=b"", kind=b"\0") + END) == {
        "a/b": b""
    }


def test_a_global_header_names_nobody() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "everybody"}) as writer:
        writer.addfile(tarfile.TarInfo("file"))
    assert list(read(out.getvalue())) == ["file"]


def test_a_header_of_before_1988_is_read_too() -> None:
    assert read(entry(magic=b"", kind=b"\0") + END) == {"a": b""}


def test_a_size_may_be_told_in_more_bits() -> None:
    big = b"\x80" + (600).to_bytes(11, "big")
    assert read(entry(size=big) + b"q" * 1024 + END) == {"a": b"q" * 600}


def pax(*records: bytes) -> bytes:
    content = b"".join(records)
    return entry(kind=b"x", size=b"%011o\0" % len(content)) + content + bytes(-len(content) % 512)


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        pytest.param(b"", 0, id="nothing"),
        pytest.param(b"ustar", 0, id="no header"),
        pytest.param(entry()[:511], 0, id="a header cut short"),
        pytest.param(entry(checksum=b"0000000\0") + END, 0, id="a checksum that is wrong"),
        pytest.param(entry(size=b"0000000000x\0") + END, 0, id="a size that is no number"),
        pytest.param(entry(size=bytes(12)) + END, 0, id="no size"),
        pytest.param(entry(size=b"00000001000\0") + b"x" * 100, 0, id="a file cut short"),
        pytest.param(entry() + entry(name=b"b"), 2, id="no end mark"),
        pytest.param(entry(size=b"\x80" + b"\xff" * 11) + END, 0, id="a file without end"),
        pytest.param(entry(size=b"\x80\0\0\0" + b"\xff" * 8) + END, 0, id="a file of exabytes"),
        pytest.param(entry(kind=b"L", size=b"77777777777\0") + END, 0, id="a name of gigabytes"),
        pytest.param(entry(kind=b"x", size=b"77777777777\0") + END, 0, id="an extended header of gigabytes"),
        pytest.param(entry(kind=b"g", size=b"77777777777\0") + END, 0, id="a global header of gigabytes"),
        pytest.param(entry(kind=b"K", size=b"77777777777\0") + END, 0, id="a link's name of gigabytes"),
        pytest.param(entry(kind=b"L", size=b"00000020000\0") + b"n" * 8192 + entry() + END, 0, id="a name of 8 KiB"),
        pytest.param(pax(b"9 size=x\n") + entry() + END, 0, id="a size in words"),
        pytest.param(pax(b"11 size=" + b"9" * 3) + entry() + END, 0, id="a record without end"),
        pytest.param(pax(b"path=x\n") + entry() + END, 0, id="a record without length"),
        pytest.param(pax(b"9 pathxx\n") + entry() + END, 0, id="a record without value"),
        pytest.param(pax(b"1 \n") + entry() + END, 0, id="a record shorter than its length"),
        pytest.param(pax(b"27 size=999999999999999999\n") + entry() + END, 0, id="a size beyond everything"),
        pytest.param(gzip.compress(entry() + END)[:-20], 0, id="gzip cut short"),
        pytest.param(gzip.compress(entry() + END)[:20] + b"\xff" * 40, 0, id="gzip of junk"),
        pytest.param(b"\x1f\x8b" + bytes(600), 0, id="no gzip at all"),
    ],
)
def test_what_is_no_archive_is_refused(raw: bytes, found: int) -> None:
    read_before, reason = refused(raw)
    assert (len(read_before), reason) == (found, Reason.ARCHIVE_MALFORMED)


def test_what_is_packed_small_and_unpacks_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file within its own limit, many times: a kilobyte of gzip is a megabyte of archive."""
    monkeypatch.setattr(archive, "MAX_ARCHIVE_SIZE", 1 << 20)
    one = entry(size=b"00000777000\0") + bytes(0o777000)
    found, reason = refused(gzip.compress(one * 100 + END))
    assert (reason, 1 <= len(found) <= 5) == (Reason.ARCHIVE_MALFORMED, True)


def test_the_number_of_files_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    found, reason = refused(entry() * 4 + END)
    assert (len(found), reason) == (3, Reason.ARCHIVE_MALFORMED)


@pytest.mark.parametrize("head", [b"", b"\x03\0\x02\0", b"{}", bytes(512), b"ustar"])
def test_other_files_are_no_archives(head: bytes) -> None:
    assert not is_archive(head)


class Dripping(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, raw: bytes) -> None:
        self._raw = io.BytesIO(raw)

    def read(self, size: int = -1) -> bytes:
        return self._raw.read(min(size, 7) if size > 0 else size)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_slow_pipe_is_read_to_its_end(mode: str) -> None:
    stream: Any = Dripping(packed(FILES, mode=mode))
    assert {member.name: member.content for member in members_of(stream, keep=9999)} == FILES


@given(st.binary(max_size=3000))
def test_any_bytes_are_an_archive_or_refused(raw: bytes) -> None:
    with contextlib.suppress(MalformedInput):
        list(members_of(io.BytesIO(raw), keep=100))


@given(st.dictionaries(st.text("abcü/", min_size=1, max_size=200), st.binary(max_size=1500), max_size=5), st.data())
def test_a_changed_archive_is_an_archive_or_refused(files: dict[str, bytes], data: st.DataObject) -> None:
    raw = bytearray(packed(files))
    for _ in range(3):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedInput):
        list(members_of(io.BytesIO(bytes(raw)), keep=100))
