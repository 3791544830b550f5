"""Reason codes and exit codes are API: spelled right, given by the code, held by a test, one exit code a type."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

import eaa
from eaa.errors import (
    EAAError,
    MalformedInput,
    Misuse,
    PeerMisbehaved,
    Reason,
    Rejection,
    Unavailable,
    VerificationError,
)

ROOT: Final = Path(__file__).resolve().parents[2]

EXIT_CODES: Final[dict[type[EAAError], int]] = {
    EAAError: 70,
    Rejection: 1,
    Misuse: 2,
    MalformedInput: 3,
    VerificationError: 3,
    PeerMisbehaved: 3,
    Unavailable: 4,
}
"""Exception type -> exit code, as the documents promise it."""

NAMED: Final = re.compile(r"\bReason\.([A-Z][A-Z0-9_]*)\b")
PRINTED: Final = re.compile(r"[\"'\[]([A-Z][A-Z0-9_]*)[\"'\]]")
"""A code as a program prints it, in an answer of `--json` or at the end of an error line."""


@functools.cache
def named_in_source() -> frozenset[str]:
    """The codes that the code itself names, other than where they are defined."""
    return found(NAMED, (path for path in (ROOT / "src").rglob("*.py") if path.name != "errors.py"))


@functools.cache
def named_in_tests() -> frozenset[str]:
    return found(NAMED, other_tests())


@functools.cache
def printed_in_tests() -> frozenset[str]:
    return found(PRINTED, other_tests())


def other_tests() -> list[Path]:
    return [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__).resolve()]


def found(pattern: re.Pattern[str], paths: Iterable[Path]) -> frozenset[str]:
    return frozenset(name for path in paths for name in pattern.findall(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_spelled_as_it_is_named(reason: Reason) -> None:
    assert reason.value == reason.name
    assert re.fullmatch(r"[A-Z]+(_[A-Z0-9]+)*", reason.value)


def test_every_reason_is_given_by_the_code() -> None:
    """A code that nothing gives is a promise that nobody keeps."""
    never_given = set(Reason.__members__) - named_in_source()
    assert not never_given, sorted(never_given)


def test_every_reason_is_provoked_by_a_test() -> None:
    never_provoked = set(Reason.__members__) - named_in_tests() - printed_in_tests()
    assert not never_provoked, sorted(never_provoked)


def test_every_named_reason_exists() -> None:
    """`Reason.X` in a place that is never reached would otherwise wait for its first user."""
    assert (named_in_source() | named_in_tests()) - set(Reason.__members__) == set()


def test_no_reason_is_an_alias_of_another() -> None:
    assert [value for value, count in Counter(Reason.__members__.values()).items() if count > 1] == []


@pytest.mark.parametrize(("kind", "code"), EXIT_CODES.items())
def test_an_exception_type_has_its_exit_code(kind: type[EAAError], code: int) -> None:
    error = kind(Reason.INTERNAL, "the sentence", hint="the next step")
    assert error.exit_code == code
    assert (error.reason, error.message, error.hint) == (Reason.INTERNAL, "the sentence", "the next step")


def test_every_exception_of_ours_leads_to_an_exit_code_of_the_table() -> None:
    """A new type below one of these inherits its code; one beside them would be a new voice."""
    for module in pkgutil.walk_packages(eaa.__path__, "eaa."):
        importlib.import_module(module.name)
    strangers = [kind for kind in descendants(EAAError) if not (kind in EXIT_CODES or has_the_code_of_its_kind(kind))]
    assert strangers == []


def has_the_code_of_its_kind(kind: type[EAAError]) -> bool:
    nearest = next(base for base in kind.__mro__ if base in EXIT_CODES)
    return nearest is not EAAError and kind.exit_code == EXIT_CODES[nearest]


def descendants(kind: type[EAAError]) -> set[type[EAAError]]:
    return {kind}.union(*(descendants(child) for child in kind.__subclasses__()))
