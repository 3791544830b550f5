"""Reading fields of a TOML table strictly: a wrong type, a wrong value or an unknown name is an error."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from typing import Any, Final, TypeVar

from eaa.errors import EAAError, Misuse, Reason

_T = TypeVar("_T")

MAX_FILE_SIZE: Final = 1024 * 1024
"""Characters of a policy or reference-value file."""
MAX_KEY_PARTS: Final = 16
"""Names of one dotted key, `a.b.c`. The parser keeps every beginning of a key, which takes memory by the square."""

_LONG_KEY: Final = re.compile(
    rf"""(?<![\w."'-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{MAX_KEY_PARTS}}}""", re.ASCII
)


def load_toml(text: str, *, what: str, reason: Reason) -> dict[str, Any]:
    """Return the document, or raise Misuse that names the line."""
    if len(text) > MAX_FILE_SIZE:
        raise Misuse(reason, f"{what} has {len(text)} characters, the limit is {MAX_FILE_SIZE}")
    if _LONG_KEY.search(text):
        raise Misuse(reason, f"{what} has a dotted key of more than {MAX_KEY_PARTS} parts")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Not only TOMLDecodeError: a number of thousands of digits is refused by Python itself.
        raise Misuse(reason, f"{what} is not TOML: {error}", hint="correct the file at that place") from error


class Table:
    """Takes known fields out of one table; `finish` refuses what is left."""

    def __init__(self, values: dict[str, Any], *, where: str, reason: Reason) -> None:
        self._left = dict(values)
        self._where = where
        self._reason = reason

    def wrong(self, message: str, hint: str | None = None) -> EAAError:
        """Return the Misuse for this table."""
        return Misuse(self._reason, f"{self._where}: {message}", hint=hint)

    def take(self, name: str, kind: type, default: Any = None) -> Any:
        """Return the field, or the default where it is absent."""
        if name not in self._left:
            return default
        value = self._left.pop(name)
        # bool is an int in Python, not in anybody's policy.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.wrong(f"{name} must be {_KINDS[kind]}")
        return value

    def texts(self, name: str, *, may_be_empty: bool = False) -> tuple[str, ...] | None:
        """Return a list of strings, or None where it is absent. An empty list is refused: it would accept nothing."""
        values = self.take(name, list)
        if values is None:
            return None
        if not (values or may_be_empty) or not all(isinstance(value, str) for value in values):
            raise self.wrong(f"{name} must be a list of {'strings' if may_be_empty else 'at least one string'}")
        return tuple(values)

    def known(self, word: str, choices: tuple[str, ...]) -> str:
        """Return the word, one of the choices."""
        if word not in choices:
            raise self.wrong(f"{word!r} is not one of {', '.join(choices)}")
        return word

    def digest(self, text: str, name: str, *sizes: int) -> bytes:
        """Return the bytes of a hex string of one of these sizes."""
        try:
            digest = bytes.fromhex(text)
        except ValueError:
            digest = b""
        if len(digest) not in sizes:
            wanted = " or ".join(str(size * 2) for size in sizes)
            raise self.wrong(f"{name} must be {wanted} hex digits")
        return digest

    def number(self, name: str, maximum: int) -> int | None:
        """Return an integer from 0 to `maximum`, or None where it is absent."""
        value: int | None = self.take(name, int)
        if value is not None and not 0 <= value <= maximum:
            raise self.wrong(f"{name} must be from 0 to {maximum}")
        return value

    def one_of(self, name: str, parse: Callable[[str], _T], choices: list[str]) -> _T | None:
        """Return the parsed word, or None where it is absent."""
        word = self.take(name, str)
        if word is None:
            return None
        try:
            return parse(word)
        except ValueError:
            raise self.wrong(f"{name} is {word!r}; it must be one of {', '.join(choices)}") from None

    def finish(self) -> None:
        """Refuse the fields that nobody took."""
        if self._left:
            names = ", ".join(sorted(self._left))
            raise self.wrong(
                f"unknown: {names}", hint="an unknown field would be a check that never runs; see the manual"
            )


_KINDS = {str: "a string", int: "a whole number", bool: "true or false", list: "a list", dict: "a table"}
