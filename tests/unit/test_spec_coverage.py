"""The page that goes from clause to function to reason to test: complete, true, and what `make docs` writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from eaa.errors import Reason
from support.named_tests import texts_by_test
from support.oracle_matrix import ROWS
from support.spec_coverage import PAGE, ROOT, Clause, clauses, defined, reasons_of, render

CLAUSES: Final = [pytest.param(clause, id=f"{clause.text} ({clause.function})") for clause in clauses()]
ROOMS: Final = ("verify/chain.py", "verify/dcap.py", "verify/tcb.py", "collateral/*.py")
RECORDS: Final = ("evidence/quote.py", "evidence/sgx.py", "evidence/tdx.py", "evidence/ppid.py", "evidence/layout.py")
NAMED: Final = re.compile(r"\bReason\.([A-Z][A-Z0-9_]*)\b")
TEXTS: Final = {row.text: row for row in ROWS}


def files_of_verification() -> list[Path]:
    return [path for pattern in (*ROOMS, *RECORDS) for path in (ROOT / "src" / "eaa").glob(pattern)]


def test_the_page_is_the_one_that_make_docs_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == render()


@pytest.mark.parametrize("clause", CLAUSES)
def test_a_clause_is_held_by_a_function_that_gives_its_reasons(clause: Clause) -> None:
    _, definition = defined(clause.function)
    assert definition, f"there is no eaa.{clause.function}"
    assert {reason.name for reason in clause.reasons} <= reasons_of(clause.function)


@pytest.mark.parametrize("clause", CLAUSES)
def test_a_clause_is_held_by_tests_that_exist(clause: Clause) -> None:
    assert clause.rows or clause.tests
    assert set(clause.rows) <= set(TEXTS)
    assert set(clause.tests) <= texts_by_test().keys()


@pytest.mark.parametrize("clause", CLAUSES)
def test_a_reason_of_a_clause_is_provoked_by_what_holds_it(clause: Clause) -> None:
    given = {answer for text in clause.rows for answer in (TEXTS[text].ours, TEXTS[text].appraisal)}
    named = {name for test in clause.tests for name in NAMED.findall(texts_by_test()[test])}
    for reason in clause.reasons:
        assert reason in given or reason.name in named, reason


def test_every_row_of_the_matrix_stands_under_a_clause() -> None:
    assert {text for clause in clauses() for text in clause.rows} == set(TEXTS)


def test_every_reason_of_verification_stands_under_a_clause() -> None:
    given = {name for path in files_of_verification() for name in NAMED.findall(path.read_text(encoding="utf-8"))}
    covered = {reason.name for clause in clauses() for reason in clause.reasons}
    assert given - covered == set()
    assert covered <= set(Reason.__members__)
