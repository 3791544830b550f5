"""Records that are made quickly are the records themselves."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace
from typing import Any

import pytest

from eaa.records import filler, quick


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    x: int
    y: int = 2
    marks: list[int] = field(default_factory=list)
    secret: bytes | None = field(default=None, init=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPoint(Point):
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    x: int

    def __post_init__(self) -> None:
        raise ValueError(self.x)


new_point = quick(Point)
fill_named = filler(NamedPoint, ("name", "secret", "marks", "y", "x"))


def test_a_quick_record_is_the_record() -> None:
    made = new_point(x=1)
    assert type(made) is Point
    assert made == Point(x=1)
    assert repr(made) == repr(Point(x=1))
    assert made.marks is not new_point(x=1).marks
    assert made.secret is None
    assert replace(made, y=3) == Point(x=1, y=3)
    assert copy.copy(made) == pickle.loads(pickle.dumps(made)) == made


def test_a_quick_record_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        new_point(x=1).x = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        fill_named(("a", None, [], 2, 1)).name = "b"  # type: ignore[misc]


@pytest.mark.parametrize("values", [{}, {"x": 1, "z": 2}, {"x": 1, "secret": b""}])
def test_a_quick_record_takes_the_keywords_of_the_record(values: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        new_point(**values)
    with pytest.raises(TypeError):
        Point(**values)


def test_what_acts_when_it_is_made_is_not_made_quickly() -> None:
    with pytest.raises(TypeError, match="quickly"):
        quick(Checked)


def test_a_quick_record_may_inherit() -> None:
    made = quick(NamedPoint)(x=1, name="a")
    assert type(made) is NamedPoint
    assert made == NamedPoint(x=1, name="a")
    with pytest.raises(FrozenInstanceError):
        made.x = 2  # type: ignore[misc]


def test_a_filled_record_is_the_record() -> None:
    assert fill_named(("a", None, [4], 3, 1)) == NamedPoint(x=1, y=3, marks=[4], name="a")
    with pytest.raises(TypeError):
        filler(NamedPoint, ("name", "x"))
    with pytest.raises(ValueError, match="not enough values"):
        fill_named(("a", None))
