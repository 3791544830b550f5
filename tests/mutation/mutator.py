"""Small mistakes, put into a source file one at a time: a comparison negated, a check removed, a number off by one.

A mutation is named by what it changes and not by its line, so that a list of them survives edits elsewhere.
"""

from __future__ import annotations

import ast
import copy
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

_NEGATED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_BOUNDARY: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}
_QUANTIFIERS: Final = {"all": "any", "any": "all", "min": "max", "max": "min"}
_ONLY_TOLD: Final = frozenset({"hint", "repr"})
"""Arguments that people read and no code does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One mistake."""

    file: str
    """Below the package, `verify/tcb.py`."""
    function: str
    """Dotted; empty for the module's own statements."""
    kind: str
    before: str
    after: str
    occurrence: int = 0
    """Which of several that are alike, counted from 0."""
    line: int = field(default=0, compare=False)

    def __str__(self) -> str:
        again = f" (occurrence {self.occurrence})" if self.occurrence else ""
        return f"{self.file}:{self.line} {self.function} {self.kind}: {self.before}  ->  {self.after}{again}"


Change = Callable[[ast.AST], ast.AST]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A node in the tree, how to reach it, and what to put there."""

    path: tuple[tuple[str, int | None], ...]
    function: str
    kind: str
    node: ast.AST
    change: Change


def mutations(source: str, *, file: str) -> Iterator[tuple[Mutation, Callable[[], ast.Module]]]:
    """Yield every mutation of a source text, with what makes the tree that has it."""
    tree = ast.parse(source)
    alike: Counter[Mutation] = Counter()
    for place in _places(tree):
        plain = Mutation(
            file=file,
            function=place.function,
            kind=place.kind,
            before=_shown(place.node),
            after=_shown(place.change(copy.deepcopy(place.node))),
            line=_line_of(place.node),
        )
        yield replace(plain, occurrence=alike[plain]), functools.partial(_mutated, tree, place)
        alike[plain] += 1


def _mutated(tree: ast.Module, place: _Place) -> ast.Module:
    mutated = copy.deepcopy(tree)
    new = ast.copy_location(place.change(copy.deepcopy(place.node)), place.node)
    _put(mutated, place.path, new)
    return ast.fix_missing_locations(mutated)


def _line_of(node: ast.AST) -> int:
    return next((found.lineno for found in ast.walk(node) if isinstance(found, ast.expr | ast.stmt)), 0)


def _shown(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 160 else f"{text[:157]}..."


def _put(tree: ast.Module, path: tuple[tuple[str, int | None], ...], new: ast.AST) -> None:
    target: ast.AST = tree
    for name, index in path[:-1]:
        found = getattr(target, name)
        target = found if index is None else found[index]
    name, index = path[-1]
    if index is None:
        setattr(target, name, new)
    else:
        getattr(target, name)[index] = new


def _places(tree: ast.Module) -> Iterator[_Place]:
    yield from _walk(tree, (), "")


def _walk(node: ast.AST, path: tuple[tuple[str, int | None], ...], function: str) -> Iterator[_Place]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}".strip(".")
    for kind, change in _changes(node, in_function=bool(function)):
        yield _Place(path=path, function=function, kind=kind, node=node, change=change)
    for name, value in ast.iter_fields(node):
        if _is_only_told(node, name):
            continue
        if isinstance(value, ast.AST):
            yield from _walk(value, (*path, (name, None)), function)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, ast.AST):
                    yield from _walk(item, (*path, (name, index)), function)


def _is_only_told(node: ast.AST, name: str) -> bool:
    """Whether a field is text for people, or types for a checker."""
    told = isinstance(node, ast.JoinedStr) or (isinstance(node, ast.keyword) and node.arg in _ONLY_TOLD)
    return told or name in ("annotation", "returns", "decorator_list", "type_params")


def _changes(node: ast.AST, *, in_function: bool) -> Iterator[tuple[str, Change]]:
    match node:
        case ast.Compare():
            for index, operator in enumerate(node.ops):
                yield "comparison", _with_operator(index, _NEGATED[type(operator)])
                if type(operator) in _BOUNDARY:
                    yield "boundary", _with_operator(index, _BOUNDARY[type(operator)])
        case ast.Raise():
            yield "check removed", lambda _: ast.Pass()
        case ast.Expr(value=ast.Call()):
            yield "call removed", lambda _: ast.Pass()
        case ast.comprehension():
            for index in range(len(node.ifs)):
                yield "filter removed", _without_filter(index)
        case ast.If() | ast.IfExp() | ast.While() if not isinstance(node.test, ast.Compare | ast.UnaryOp | ast.BoolOp):
            yield "condition", _with_other_test
        case _:
            yield from _changes_of_values(node, in_function=in_function)


def _changes_of_values(node: ast.AST, *, in_function: bool) -> Iterator[tuple[str, Change]]:
    match node:
        case ast.BoolOp():
            yield "and or", _with_other_boolean
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "not", lambda _: copy.deepcopy(operand)
        case ast.Call(func=ast.Name(id=name)) if name in _QUANTIFIERS:
            yield "quantifier", _with_other_quantifier
        case ast.Constant(value=bool() as value) if in_function:
            yield "truth", lambda _: ast.Constant(value=not value)
        case ast.Constant(value=int() as value) if in_function:
            yield "number", lambda _: ast.Constant(value=value + 1)


def _with_operator(index: int, operator: type[ast.cmpop]) -> Change:
    def change(node: ast.AST) -> ast.AST:
        assert isinstance(node, ast.Compare)
        node.ops[index] = operator()
        return node

    return change


def _with_other_boolean(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.BoolOp)
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    return node


def _with_other_test(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.If | ast.IfExp | ast.While)
    node.test = ast.UnaryOp(op=ast.Not(), operand=node.test)
    return node


def _without_filter(index: int) -> Change:
    def change(node: ast.AST) -> ast.AST:
        assert isinstance(node, ast.comprehension)
        del node.ifs[index]
        return node

    return change


def _with_other_quantifier(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.Call)
    assert isinstance(node.func, ast.Name)
    node.func.id = _QUANTIFIERS[node.func.id]
    return node
