"""The quotes that `shelter verify` was given: files, folders, archives, and standard input."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast

from eaa.errors import MalformedInput, Misuse, Reason, Unavailable
from eaa.evidence.quote import MAX_QUOTE_SIZE
from eaa.program.files import read_bytes
from eaa.shelter.archive import HEAD_SIZE, Rewound, is_archive, members_of

MAX_FILES: Final = 1_000_000
"""Files of all folders together."""
STANDARD_INPUT: Final = "-"
_KEEP: Final = MAX_QUOTE_SIZE + 1
"""Bytes that are read of one quote: one more than it may have, so that parsing says that it is too long."""


class Item(NamedTuple):
    """One quote, still unread where it lies in a file of its own."""

    name: str
    """For people and answers: printable, whatever its file is called."""
    path: str | None = None
    content: bytes | None = None
    problem: tuple[str, str, str | None] | None = None
    """Reason, sentence and hint, where there is nothing to read."""

    def read(self) -> bytes:
        """Return the quote's bytes. Raises EAAError."""
        if self.problem is not None:
            reason, message, hint = self.problem
            failure = Unavailable if reason == Reason.FILE_UNREADABLE else MalformedInput
            raise failure(Reason(reason), message, hint=hint)
        if self.content is not None:
            return self.content
        assert self.path is not None
        try:
            with open(self.path, "rb") as file:  # noqa: PTH123  a name that is no UTF-8 is a path all the same
                return file.read(_KEEP)
        except OSError as error:
            # One file of many: the others have their answers.
            raise Unavailable(
                Reason.FILE_UNREADABLE, f"it cannot be read: {error.strerror}", hint="check its permissions"
            ) from error


@dataclass(slots=True, kw_only=True)
class Given:
    """What the arguments name."""

    arguments: tuple[Path, ...]
    include: tuple[str, ...] = ()
    """Patterns of file names; of folders and archives only what fits one of them is taken."""
    _head: bytes | None = None
    """The first bytes of standard input, once they were looked at."""

    def is_one_quote(self) -> bool:
        """Whether one file, or standard input, is given, and is no archive: then there is one answer, and no sum-up."""
        if len(self.arguments) != 1:
            return False
        (path,) = self.arguments
        head = self._head_of_input() if str(path) == STANDARD_INPUT else head_of(path)
        return not is_archive(head) and not path.is_dir()

    def read_one(self) -> bytes:
        """Return the one quote. Raises Misuse where it cannot be read."""
        (path,) = self.arguments
        if str(path) != STANDARD_INPUT:
            return read_bytes(path, what="the quote")
        head = self._head_of_input()
        return head + standard_input().read(_KEEP - len(head))

    def require_there(self) -> None:
        """Refuse, before any work, what is not there, and standard input twice. Raises Misuse."""
        for path in self.arguments:
            if str(path) != STANDARD_INPUT and not path.exists():
                raise Misuse(
                    Reason.FILE_UNREADABLE,
                    f"the quote {path} cannot be read: No such file or directory",
                    hint="check the path and its permissions",
                )
        if [str(path) for path in self.arguments].count(STANDARD_INPUT) > 1:
            raise Misuse(Reason.USAGE, "standard input can be read once only")

    def items(self) -> Iterator[Item]:
        """Yield every quote, in the order of the arguments and of names within a folder."""
        for path in self.arguments:
            if str(path) == STANDARD_INPUT:
                yield from self._items_in(self._head_of_input(), standard_input(), STANDARD_INPUT)
            elif path.is_dir():
                yield from (_item_below(name) for name in files_below(path) if self._fits(name))
            else:
                yield from self._items_of(path)

    def count(self) -> int | None:
        """Return how many quotes there are, None where only reading an archive tells."""
        total = 0
        for path in self.arguments:
            if str(path) == STANDARD_INPUT or is_archive(head_of(path)):
                return None
            total += sum(map(self._fits, files_below(path))) if path.is_dir() else 1
        return total

    def _fits(self, name: str) -> bool:
        return not self.include or any(fnmatchcase(os.path.basename(name), one) for one in self.include)  # noqa: PTH119

    def _items_of(self, path: Path) -> Iterator[Item]:
        name = str(path)
        if not is_archive(head_of(path)):
            yield Item(printable(name), name)
            return
        try:
            with path.open("rb") as stream:
                yield from self._items_in(stream.read(HEAD_SIZE), stream, name)
        except OSError as error:
            yield _spoiled(name, Reason.FILE_UNREADABLE, f"the archive cannot be read: {error.strerror}")

    def _head_of_input(self) -> bytes:
        if self._head is None:
            self._head = standard_input().read(HEAD_SIZE)
        return self._head

    def _items_in(self, head: bytes, stream: BinaryIO, name: str) -> Iterator[Item]:
        if not is_archive(head):
            yield Item(printable(name), content=head + stream.read(_KEEP - len(head)))
            return
        try:
            for member in members_of(cast("BinaryIO", Rewound(head, stream)), keep=_KEEP):
                if self._fits(member.name):
                    whole = f"{name}:{member.name}"
                    yield Item(printable(whole), content=member.content) if member.is_file else _no_file(whole)
        except MalformedInput as error:
            yield _spoiled(name, error.reason, error.message, error.hint)


def standard_input() -> BinaryIO:
    """Return standard input. Raises Misuse where the caller closed it."""
    if sys.stdin is None:
        raise Misuse(Reason.FILE_UNREADABLE, "standard input cannot be read: it is closed")
    return sys.stdin.buffer


def head_of(path: Path) -> bytes:
    """Return the first bytes of a file, by which an archive is known; none where it cannot be read."""
    try:
        # Opening a pipe would wait for its other end, and reading it would eat what is in it.
        if not stat.S_ISREG(path.stat().st_mode):
            return b""
        with path.open("rb") as file:
            return file.read(HEAD_SIZE)
    except OSError:
        return b""


def files_below(folder: Path) -> Iterator[str]:
    """Yield the paths of all that is below a folder and is no folder, sorted, hidden ones left out.

    Links to folders are not followed, and are among them.
    """
    count = 0
    for where, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        linked = [name for name in folders if os.path.islink(os.path.join(where, name))]  # noqa: PTH114, PTH118
        for name in sorted((*names, *linked)):
            if name.startswith("."):
                continue
            count += 1
            if count > MAX_FILES:
                raise Misuse(Reason.USAGE, f"{folder} holds more than {MAX_FILES} files", hint="verify it in parts")
            yield os.path.join(where, name)  # noqa: PTH118  a million of these


def _item_below(path: str) -> Item:
    """Return what stands in a folder; reading a pipe would wait for ever, and a link to a folder may be a loop."""
    is_there = os.path.exists(path)  # noqa: PTH110  a million of these
    return Item(printable(path), path) if os.path.isfile(path) or not is_there else _no_file(path)  # noqa: PTH113


def _refuse(error: OSError) -> Any:
    raise Misuse(
        Reason.FILE_UNREADABLE,
        f"the folder {error.filename} cannot be read: {error.strerror}",
        hint="check its permissions; a folder that is left out would be quotes that nobody looked at",
    ) from error


def printable(name: str) -> str:
    """Return a file's name with everything escaped that a terminal or a JSON reader would stumble over."""
    if name.isprintable():
        return name
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in name)


def _no_file(name: str) -> Item:
    return _spoiled(
        name,
        Reason.FILE_UNREADABLE,
        "it is a link, a pipe or a device, and no file",
        "name what a link leads to, or leave it out with --include",
    )


def _spoiled(name: str, reason: Reason, message: str, hint: str | None = None) -> Item:
    return Item(printable(name), problem=(reason.value, message, hint))
