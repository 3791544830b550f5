"""The mutator makes the mistakes that it says, the list of survivors is true, and a mistake in our code is noticed.

`make mutation` makes every mistake; here stands what makes its answer worth something.
"""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from mutation import run
from mutation.mutator import Mutation, mutations
from mutation.run import Case, Survivor, account, cases, files, load_survivors, noticing


def changed(source: str) -> list[tuple[str, str]]:
    """Kind and new text of every mutation of a function with this body."""
    text = "def f(a, b, c):\n" + textwrap.indent(textwrap.dedent(source), "    ")
    found = []
    for mutation, make in mutations(text, file="x.py"):
        tree = make()
        assert mutation.function == "f"
        assert ast.unparse(tree) != ast.unparse(ast.parse(text))
        compile(tree, "x.py", "exec")
        found.append((mutation.kind, ast.unparse(tree).partition("\n")[2].strip()))
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("return a == b", [("comparison", "return a != b")]),
        ("return a is None", [("comparison", "return a is not None")]),
        ("return a not in b", [("comparison", "return a in b")]),
        ("return a < b", [("comparison", "return a >= b"), ("boundary", "return a <= b")]),
        ("return a and b", [("and or", "return a or b")]),
        ("return not a", [("not", "return a")]),
        ("return a[1]", [("number", "return a[2]")]),
        ("return True", [("truth", "return False")]),
        ("return all(a)", [("quantifier", "return any(a)")]),
        ("return min(a)", [("quantifier", "return max(a)")]),
        ("return [x for x in a if b(x)]", [("filter removed", "return [x for x in a]")]),
        ("verify(a)", [("call removed", "pass")]),
        ("return b if a else c", [("condition", "return b if not a else c")]),
        ("raise KeyError(a)", [("check removed", "pass")]),
        ("x: list[int] = a", []),
        ('"""A text, 1 < 2."""', []),
        ("return f'{a:>3} {1 + 1}'", []),
        ("return b(hint='x' if a else None, repr=False)", []),
    ],
)
def test_each_kind_of_mistake_is_made(source: str, expected: list[tuple[str, str]]) -> None:
    assert changed(source) == expected


def test_a_chain_of_comparisons_is_changed_link_by_link() -> None:
    assert [text for _, text in changed("return 0 < a <= b")] == [
        "return 0 >= a <= b",
        "return 0 <= a <= b",
        "return 0 < a > b",
        "return 0 < a < b",
        "return 1 < a <= b",
    ]


def test_mistakes_that_look_alike_are_counted() -> None:
    source = "class C:\n    def f(self, a):\n        if a == 1: return 7\n        if a == 1: return 8\n"
    found = [mutation for mutation, _ in mutations(source, file="x.py") if mutation.kind == "comparison"]
    assert [(item.function, item.occurrence, item.line) for item in found] == [("C.f", 0, 3), ("C.f", 1, 4)]
    assert "(occurrence 1)" in str(found[1])


def test_a_name_does_not_depend_on_the_line() -> None:
    source = "def f(a):\n    return a == 1\n"
    (first, *_), (later, *_) = (list(mutations(text, file="x.py")) for text in (source, "\n\n" + source))
    assert first[0] == later[0]
    assert first[0].line != later[0].line


def test_every_file_of_both_rooms_is_changed() -> None:
    count = Counter(case.mutation.file for case in cases(files()))
    assert {"verify/chain.py", "verify/dcap.py", "verify/tcb.py", "appraise/appraisal.py", "appraise/policy.py"} <= set(
        count
    )
    assert count.total() > 500
    assert {case.mutation.kind for case in cases(files())} >= {
        "comparison",
        "boundary",
        "check removed",
        "call removed",
    }


def test_every_file_has_tests_that_exist() -> None:
    for name in files():
        assert noticing(name)
    named = {test for group in run.NOTICED_BY.values() for test in group}
    assert [test for test in sorted(named) if not (run.TESTS / test).is_file()] == []


# --- the list


def test_every_survivor_is_a_mistake_that_can_be_made_and_has_a_reason() -> None:
    possible = [case.mutation for case in cases(files())]
    for survivor in load_survivors():
        assert any(survivor.is_of(mutation) for mutation in possible), survivor
        assert len(survivor.reason) > 20, survivor


def test_no_survivor_is_listed_twice() -> None:
    listed = [dataclasses.replace(survivor, reason="") for survivor in load_survivors()]
    assert [survivor for survivor in listed if listed.count(survivor) > 1] == []


MUTATION = Mutation(file="verify/x.py", function="f", kind="comparison", before="a == b", after="a != b")
CASE = Case(mutation=MUTATION, tree=lambda: ast.Module(body=[], type_ignores=[]))
LISTED = Survivor(file="verify/x.py", function="f", kind="comparison", before="a == b", after="a != b", reason="-")


@pytest.mark.parametrize(
    ("survived", "listed", "unlisted", "noticed"),
    [
        (True, [LISTED], 0, 0),
        (True, [], 1, 0),
        (True, [dataclasses.replace(LISTED, occurrence=1)], 1, 0),
        (False, [], 0, 0),
        (False, [LISTED], 0, 1),
    ],
)
def test_the_account(survived: bool, listed: list[Survivor], unlisted: int, noticed: int) -> None:  # noqa: FBT001
    assert tuple(map(len, account([(CASE, survived)], listed))) == (unlisted, noticed)


def test_the_list_is_toml(tmp_path: Path) -> None:
    path = tmp_path / "survivors.toml"
    fields = dataclasses.asdict(LISTED)
    path.write_text(
        "[[survivor]]\n" + "".join(f"{name} = {value!r}\n" for name, value in fields.items() if value is not None)
    )
    assert load_survivors(path) == [LISTED]


# --- for real


ONE_MISTAKE = """
import sys
sys.path.insert(0, sys.argv[1])
from mutation import run
run.NOTICED_BY["verify/tcb.py"] = ("unit/test_verify_tcb.py",)
run._prepare()
mistakes = [case for case in run.cases(["verify/tcb.py"]) if case.mutation.function == "match_svn_level"]
found = run.survivors_of([*run.untouched(["verify/tcb.py"]), mistakes[0]], jobs=2)
print(sorted((case.mutation.kind, survived) for case, survived in found))
"""


def test_a_mistake_is_noticed_and_none_is_not() -> None:
    """In a process of its own, as the command does it: this one has loaded the rooms already."""
    command = [sys.executable, "-c", ONE_MISTAKE, str(run.TESTS)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert finished.stdout == "[('none', True), ('truth', False)]\n"
