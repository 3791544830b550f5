"""The tests by their names, for pages that name them."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).resolve().parents[1]


@functools.cache
def texts_by_test() -> dict[str, str]:
    """Every test function that pytest finds, and the text of the files that have one of this name."""
    found: dict[str, str] = {}
    for path in TESTS.rglob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        # Test functions stand at the top of a file: looking into each expression takes seconds.
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found[node.name] = found.get(node.name, "") + text
    return found
