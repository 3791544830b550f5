"""Put one small mistake after another into `verify` and `appraise`, and run the tests that have to notice.

A mistake that no test notices is a survivor: either a test is missing, or the mistake changes nothing that anybody
could see. The second kind stands in survivors.toml, each with its reason; every other one fails the run, and so does
a listed one that is noticed after all.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

TESTS: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = TESTS.parent / "src" / "eaa"
SURVIVORS: Final = Path(__file__).with_name("survivors.toml")
_NOT_RUN: Final = 99
MAX_CPU_SECONDS: Final = 120
"""For one mistake: a loop without an end counts as noticed. Not by the clock: a busy machine is no test."""
MAX_SECONDS: Final = 1800
"""Wall seconds for one mistake, which may wait without an end as well."""

if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))

from mutation.mutator import Mutation, mutations  # noqa: E402 - found through the path that was just set

_VERIFY: Final = (
    "unit/test_verify_dcap.py",
    "unit/test_verify_known_mistakes.py",
    "conformance/test_matrix.py",
)
_APPRAISE: Final = (
    "unit/test_appraise_appraisal.py",
    "unit/test_appraise_policy.py",
    "unit/test_appraise_platforms.py",
    "unit/test_appraise_reports.py",
    "unit/test_appraise_reference_values.py",
    "unit/test_appraise_appraiser.py",
    "unit/test_appraise_words.py",
    "unit/test_appraise_pinning.py",
    "property/test_appraise_properties.py",
)
NOTICED_BY: Final[dict[str, tuple[str, ...]]] = {
    "verify/chain.py": ("unit/test_verify_chain.py", *_VERIFY),
    "verify/tcb.py": (
        "unit/test_verify_tcb.py",
        "unit/test_verify_behind.py",
        "unit/test_verify_next_levels.py",
        "unit/test_verify_boundaries.py",
        *_VERIFY,
    ),
    "verify/dcap.py": ("unit/test_verify_boundaries.py", "unit/test_verify_chain.py", *_VERIFY),
    "verify/documents.py": ("unit/test_verify_chain.py", *_VERIFY),
    "verify/steps.py": ("unit/test_verify_steps.py", "conformance/test_matrix.py"),
    "verify/cache.py": (
        "unit/test_verify_cache.py",
        "unit/test_verify_cache_keeps.py",
        "unit/test_verify_behind.py",
        "unit/test_verifier.py",
    ),
    "appraise/policy.py": ("unit/test_appraise_policy.py", *_APPRAISE),
    "appraise/tables.py": ("unit/test_appraise_policy.py", "unit/test_appraise_reference_values.py", *_APPRAISE),
    "appraise/reference_values.py": ("unit/test_appraise_reference_values.py", *_APPRAISE),
    "appraise/platforms.py": ("unit/test_appraise_pinning.py", *_APPRAISE),
    "appraise/floor.py": ("unit/test_appraise_platforms.py", "unit/test_appraise_words.py", *_APPRAISE),
    "appraise/result.py": ("unit/test_appraise_words.py", *_APPRAISE),
    "appraise/evidence_checks.py": ("unit/test_appraise_words.py", *_APPRAISE),
    "appraise/platform_checks.py": ("unit/test_appraise_platforms.py", *_APPRAISE),
    "appraise/report_checks.py": ("unit/test_appraise_reports.py", *_APPRAISE),
}
"""Which tests have to notice a mistake in which file, the quickest first; what is not named here, all of appraisal."""
_LOADED_BEFORE: Final = (
    *("pytest", "_pytest.python", "hypothesis", "pytest_timeout", "cbor2", "cryptography.x509", "tomllib", "asyncio"),
    *("eaa.evidence.quote", "eaa.evidence.tagged", "eaa.collateral.intel", "eaa.simulator.world"),
)
"""What no mistake concerns: loaded once, and there in every process that is forked off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One mistake, ready to be run."""

    mutation: Mutation
    tree: Callable[[], ast.Module]
    """Makes the tree that has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivor:
    """A mistake that no test can notice, and why."""

    file: str
    function: str
    kind: str
    before: str
    after: str
    reason: str
    occurrence: int | None = None
    """None: all that are alike."""

    def is_of(self, mutation: Mutation) -> bool:
        """Whether this is that mistake."""
        same = all(
            getattr(self, name) == getattr(mutation, name) for name in ("file", "function", "kind", "before", "after")
        )
        return same and self.occurrence in (None, mutation.occurrence)


def load_survivors(path: Path = SURVIVORS) -> list[Survivor]:
    """Read the list."""
    return [Survivor(**entry) for entry in tomllib.loads(path.read_text()).get("survivor", [])]


def files() -> list[str]:
    """Return the files that mistakes are put into."""
    found = [path for room in ("verify", "appraise") for path in sorted((PACKAGE / room).glob("*.py"))]
    return [path.relative_to(PACKAGE).as_posix() for path in found if path.name != "__init__.py"]


def cases(names: Sequence[str]) -> Iterator[Case]:
    """Yield every mistake of these files."""
    for name in names:
        for mutation, tree in mutations((PACKAGE / name).read_text(), file=name):
            yield Case(mutation=mutation, tree=tree)


def untouched(names: Sequence[str]) -> list[Case]:
    """Return what is no mistake: the tests of each file have to pass before one that fails says anything."""
    return [
        Case(
            mutation=Mutation(file=name, function="", kind="none", before="", after=""),
            tree=functools.partial(ast.parse, (PACKAGE / name).read_text()),
        )
        for name in names
    ]


def noticing(file: str) -> list[str]:
    """Return the test files that have to notice, each once, those that exist."""
    wanted = dict.fromkeys(NOTICED_BY.get(file, _APPRAISE))
    return [str(TESTS / name) for name in wanted if (TESTS / name).is_file()]


# --- one mistake in a process of its own


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module from a tree that was changed."""

    def __init__(self, name: str, path: str, tree: ast.Module) -> None:
        super().__init__(name, path)
        self._code: CodeType = compile(tree, path, "exec")

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - the name is importlib's
        return self._code


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, case: Case) -> None:
        self._name = f"eaa.{case.mutation.file.removesuffix('.py').replace('/', '.')}"
        self._path = str(PACKAGE / case.mutation.file)
        self._tree = case.tree()

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        loader = _Loader(fullname, self._path, self._tree)
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader)


def run_case(case: Case) -> int:
    """Fork off a process that has the mistake and runs the tests; return its process id."""
    child = os.fork()
    if child:
        return child
    # Whatever happens below, this process must never return into the loop of its parent.
    try:
        os._exit(_run_tests(case))
    finally:
        os._exit(_NOT_RUN)


def _run_tests(case: Case) -> int:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    signal.alarm(MAX_SECONDS)
    signal.setitimer(signal.ITIMER_PROF, MAX_CPU_SECONDS)
    sys.meta_path.insert(0, _Finder(case))
    pytest: Any = importlib.import_module("pytest")
    plugins = [f"no:{name}" for name in ("cacheprovider", "xdist", "cov", "anyio")]
    options = [
        "-x",
        "-q",
        "--no-header",
        "--tb=no",
        "--assert=plain",
        *(part for name in plugins for part in ("-p", name)),
    ]
    # Loaded before the runner is, on purpose.
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    # Most mistakes are noticed by the first file. Collecting the others takes longer than running it.
    first, *others = noticing(case.mutation.file)
    groups = [[first], others] if others else [[first]]
    codes = (int(pytest.main([*options, f"--rootdir={TESTS.parent}", *group])) for group in groups)
    return next((code for code in codes if code), 0)


def survivors_of(found: Sequence[Case], *, jobs: int) -> Iterator[tuple[Case, bool]]:
    """Run every case; yield each with whether it survived."""
    waiting, running = list(reversed(found)), dict[int, Case]()
    while waiting or running:
        while waiting and len(running) < jobs:
            case = waiting.pop()
            running[run_case(case)] = case
        child, status = os.wait()
        yield running.pop(child), status == 0


# --- the account


def account(results: Sequence[tuple[Case, bool]], listed: Sequence[Survivor]) -> tuple[list[str], list[str]]:
    """Return the survivors that are not listed, and what is listed but was noticed."""
    unlisted = [
        str(case.mutation)
        for case, survived in results
        if survived and not any(entry.is_of(case.mutation) for entry in listed)
    ]
    noticed = [
        str(case.mutation)
        for case, survived in results
        if not survived and any(entry.is_of(case.mutation) for entry in listed)
    ]
    return unlisted, noticed


def _prepare() -> None:
    for name in _LOADED_BEFORE:
        importlib.import_module(name)
    assert not [name for name in sys.modules if name.startswith(("eaa.verify", "eaa.appraise"))]
    # The same examples of every property each time.
    os.environ["CI"] = "true"
    # Options that somebody set for a run around this one: coverage, for instance, which is switched off here.
    os.environ.pop("PYTEST_ADDOPTS", None)


def _show_progress(done: int, total: int, survived: int, since: float) -> None:
    if sys.stderr.isatty() or done % 50 == 0 or done == total:
        spent = time.monotonic() - since
        sys.stderr.write(f"{done} of {total}, {survived} survived, {spent:.0f} s\n")


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", help="verify/tcb.py for instance; all where none is named")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="run the mistakes whose description holds this text")
    parser.add_argument("--list", action="store_true", help="print them, and run nothing")
    chosen = parser.parse_args()
    found = [case for case in cases(chosen.files or files()) if chosen.only in str(case.mutation)]
    if chosen.list:
        sys.stdout.write("".join(f"{case.mutation}\n" for case in found))
        return 0
    _prepare()
    broken = [
        case.mutation.file
        for case, passed in survivors_of(untouched(chosen.files or files()), jobs=chosen.jobs)
        if not passed
    ]
    if broken:
        sys.stderr.write(f"the tests of {', '.join(sorted(broken))} fail without any mistake\n")
        return 2
    results: list[tuple[Case, bool]] = []
    since = time.monotonic()
    for case, survived in survivors_of(found, jobs=chosen.jobs):
        results.append((case, survived))
        if survived:
            sys.stdout.write(f"survived: {case.mutation}\n")
            sys.stdout.flush()
        _show_progress(len(results), len(found), sum(lived for _, lived in results), since)
    unlisted, noticed = account(results, load_survivors())
    sys.stdout.write("".join(f"no test notices: {line}\n" for line in unlisted))
    sys.stdout.write("".join(f"listed, and yet a test notices: {line}\n" for line in noticed))
    lived = sum(survived for _, survived in results)
    sys.stdout.write(
        f"{len(results)} mistakes: {len(results) - lived} noticed, {lived - len(unlisted)} survive with a reason, "
        f"{len(unlisted)} without\n"
    )
    return 1 if unlisted or noticed else 0


if __name__ == "__main__":
    sys.exit(main())
