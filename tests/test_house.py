"""The house rules: who may import whom, what a pure room never touches, and how every file has to look.

The rooms and their reasons are in CONTRIBUTING.md and docs/adr/; this file is what holds them.
"""

from __future__ import annotations

import ast
import functools
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = ROOT / "src" / "eaa"

PURE: Final = (
    "errors",
    "der",
    "records",
    "evidence",
    "collateral",
    "measure",
    "verify",
    "appraise",
    "tls",
    "protocol",
    "simulator",
)
"""Rooms above the line: no sockets, no wall clock, no environment, no files."""

PROGRAMS: Final = ("shelter", "inclavared", "workload", "pccs", "demo")
_PROGRAM_PARTS: Final = frozenset(
    {
        *("errors", "der", "records", "evidence", "collateral", "measure", "appraise", "tls", "protocol", "simulator"),
        *("attesters", "sources", "verifier", "identity", "aio", "https", "program"),
    }
)
"""What a program may take: everything but `verify`, which only `verifier` composes, and the other programs."""

MAY_IMPORT: Final[dict[str, frozenset[str]]] = {
    "errors": frozenset(),
    "der": frozenset({"errors"}),
    "records": frozenset(),
    "evidence": frozenset({"errors", "der", "records"}),
    "collateral": frozenset({"errors", "der", "records"}),
    "measure": frozenset({"errors", "der"}),
    "verify": frozenset({"errors", "der", "records", "evidence", "collateral"}),
    "appraise": frozenset({"errors", "der", "records", "evidence", "verify"}),
    "tls": frozenset({"errors", "der", "records", "evidence", "appraise.result"}),
    "protocol": frozenset({"errors", "der", "records", "evidence", "appraise.result"}),
    "simulator": frozenset({"errors", "der", "evidence", "collateral", "measure"}),
    "attesters": frozenset({"errors", "evidence"}),
    "sources": frozenset({"errors", "collateral"}),
    "verifier": frozenset({"errors", "records", "evidence", "collateral", "verify", "appraise", "sources"}),
    "identity": frozenset({"errors", "evidence", "tls", "attesters"}),
    "aio": frozenset({"errors", "records", "appraise", "tls", "protocol"}),
    "https": frozenset({"errors", "appraise", "tls", "sources.endorsements"}),
    "program": frozenset({"errors", "appraise", "sources", "attesters", "verifier", "identity", "aio"}),
    **dict.fromkeys(PROGRAMS, _PROGRAM_PARTS),
}
"""Room -> the rooms, or single modules of a room, that it may import besides itself."""

ALSO_MAY_IMPORT: Final[dict[str, frozenset[str]]] = {
    "attesters/simulated.py": frozenset({"simulator"}),
}
"""The one file that joins two rooms which are otherwise strangers."""

THIRD_PARTY: Final[dict[str, frozenset[str]]] = {
    **dict.fromkeys(PURE, frozenset({"cryptography", "cbor2"})),
    "errors": frozenset(),
    "der": frozenset(),
    "records": frozenset(),
    "tls": frozenset({"cryptography", "cbor2", "OpenSSL"}),
    "attesters": frozenset({"cryptography"}),
    "sources": frozenset({"cryptography", "urllib3"}),
    "verifier": frozenset({"cryptography"}),
    "identity": frozenset({"cryptography"}),
    "aio": frozenset({"OpenSSL", "uvloop"}),
    "https": frozenset({"cryptography", "hypercorn", "requests"}),
    "program": frozenset({"click", "rich", "uvloop", "cryptography"}),
    **dict.fromkeys(PROGRAMS, frozenset({"click", "rich", "cryptography"})),
    "pccs": frozenset({"click", "rich", "cryptography", "granian", "sqlalchemy", "alembic", "urllib3", "uvloop"}),
}
"""Room -> the distributions' packages it may import. Only `pccs` uses what the extra of that name installs.

`https` imports two libraries inside the functions that serve them, and works without."""

OUTSIDE_WORLD: Final = frozenset(
    {
        *("asyncio", "concurrent", "multiprocessing", "queue", "sched", "signal", "subprocess", "threading", "_thread"),
        *("ftplib", "http", "select", "selectors", "smtplib", "socket", "socketserver", "ssl", "urllib", "xmlrpc"),
        *("builtins.open", "fileinput", "glob", "os.open", "pathlib", "shutil", "sqlite3", "tempfile"),
        *(
            "time",
            "datetime.datetime.now",
            "datetime.datetime.utcnow",
            "datetime.datetime.today",
            "datetime.date.today",
        ),
        *("os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv", "os.getpid", "platform", "locale"),
        *("importlib", "builtins.__import__", "builtins.exec", "builtins.eval", "builtins.input", "builtins.print"),
    }
)
"""Names, and everything under them, that no pure room mentions. Randomness is not among them: keys need it."""

WRITES_FUNCTIONS: Final[dict[str, frozenset[str]]] = {"records.py": frozenset({"builtins.exec"})}
"""The one file that writes functions, as `dataclasses` does: of the names of our own fields, when we are imported."""

WALL_CLOCK: Final = frozenset(
    {
        *("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today"),
        *("time.time", "time.time_ns", "time.gmtime", "time.localtime", "time.ctime", "time.clock_gettime"),
    }
)
"""Reads of the wall clock; monotonic time is free below the line."""
WITHOUT_WALL_CLOCK: Final = ("attesters", "sources", "aio", "https")
"""Library rooms below the line that take `now` as an argument; `verifier` and `identity` read it."""

NEVER_LOADED: Final = ("asyncio", "sqlite3", "subprocess", "urllib3")
"""What importing a pure room does not pull in, neither itself nor through a library."""

MAX_FUNCTION_LINES: Final = 60
MAX_CORE_DEPENDENCIES: Final = 6
MAX_CORE_PACKAGES: Final = 16

FILES: Final = sorted(PACKAGE.rglob("*.py"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """A module or one of its members, named by its full name in one line of a file."""

    name: str
    line: int


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    """The room a file belongs to; "" for the package's own `__init__.py`."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def files_of(room: str) -> list[Path]:
    return [path for path in FILES if room_of(path) == room]


def present(rooms: tuple[str, ...]) -> list[str]:
    return [room for room in rooms if files_of(room)]


def module_name(path: Path) -> str:
    parts = ("eaa", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[Mention]:
    """Every import of a file, wherever it stands: late imports and those for type checkers count as well."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (Mention(name=alias.name, line=node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = absolute(node, path)
            yield from (Mention(name=f"{source}.{alias.name}", line=node.lineno) for alias in node.names)


def absolute(node: ast.ImportFrom, path: Path) -> str:
    if not node.level:
        return node.module or ""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def mentions_of(path: Path) -> Iterator[Mention]:
    """Every import, and every dotted name whose first part is an import or a builtin, by its full name."""
    yield from imports_of(path)
    known = local_names(path)
    for node in ast.walk(tree_of(path)):
        dotted = dotted_name(node)
        if dotted is None:
            continue
        first, _, rest = dotted.partition(".")
        full = known.get(first, f"builtins.{first}")
        yield Mention(name=f"{full}.{rest}" if rest else full, line=getattr(node, "lineno", 0))


def local_names(path: Path) -> dict[str, str]:
    """What each imported local name stands for: `dt` -> `datetime.datetime`."""
    names: dict[str, str] = {}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            source = absolute(node, path)
            names.update({alias.asname or alias.name: f"{source}.{alias.name}" for alias in node.names})
    return names


def dotted_name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted_name(node.value)
        return None if base is None else f"{base}.{node.attr}"
    return None


def falls_under(name: str, names: frozenset[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:count]) in names for count in range(1, len(parts) + 1))


def ours(mention: Mention) -> bool:
    return mention.name == "eaa" or mention.name.startswith("eaa.")


def at(path: Path, mention: Mention) -> str:
    return f"{relative(path)}:{mention.line} {mention.name}"


# --- rooms


def test_every_file_is_in_a_room_of_the_table() -> None:
    """A new room is a decision: it gets a row, and the row a reason."""
    assert {room_of(path) for path in FILES} - {""} <= MAY_IMPORT.keys()


@pytest.mark.parametrize("room", present(tuple(MAY_IMPORT)))
def test_a_room_imports_only_the_rooms_of_its_row(room: str) -> None:
    strangers = []
    for path in files_of(room):
        # `eaa.__version__` is the one name of the package itself that others read.
        allowed = MAY_IMPORT[room] | ALSO_MAY_IMPORT.get(relative(path), frozenset()) | {room, "__version__"}
        strangers += [
            at(path, mention)
            for mention in imports_of(path)
            if ours(mention) and not falls_under(mention.name.removeprefix("eaa."), allowed)
        ]
    assert strangers == []


@pytest.mark.parametrize("room", present(tuple(MAY_IMPORT)))
def test_a_room_imports_only_the_libraries_of_its_row(room: str) -> None:
    known = frozenset(sys.stdlib_module_names) | THIRD_PARTY[room] | {"eaa"}
    strangers = [
        at(path, mention)
        for path in files_of(room)
        for mention in imports_of(path)
        if not falls_under(mention.name, known)
    ]
    assert strangers == []


@pytest.mark.parametrize("room", present(PURE))
def test_a_pure_room_never_touches_the_outside_world(room: str) -> None:
    touched = {
        at(path, mention)
        for path in files_of(room)
        for mention in mentions_of(path)
        if falls_under(mention.name, OUTSIDE_WORLD - WRITES_FUNCTIONS.get(relative(path), frozenset()))
    }
    assert touched == set()


@pytest.mark.parametrize("room", present(WITHOUT_WALL_CLOCK))
def test_library_rooms_are_told_the_time(room: str) -> None:
    """`verifier` and `identity` read the wall clock, and the programs; whoever else judges a date is given `now`."""
    reads = {
        at(path, mention)
        for path in files_of(room)
        for mention in mentions_of(path)
        if falls_under(mention.name, WALL_CLOCK)
    }
    assert reads == set()


@pytest.mark.parametrize(
    "source",
    [
        "import socket",
        "import asyncio.subprocess",
        "from threading import Lock",
        "from concurrent.futures import Future",
        "def late():\n    import subprocess",
        "import os\nhome = os.environ['HOME']",
        "from os import getenv as look",
        "import time as clock\nclock.time()",
        "import datetime as d\nd.datetime.now(d.UTC)",
        "from datetime import datetime as dt, UTC\ndt.now(UTC)",
        "from datetime import date\nfield = date.today",
        "open('/etc/hosts')",
        "from pathlib import Path",
        "import importlib\nimportlib.import_module('socket')",
    ],
)
def test_the_scan_sees_the_outside_world_however_it_is_spelled(source: str, tmp_path: Path) -> None:
    path = tmp_path / "room.py"
    path.write_text(source)
    assert any(falls_under(mention.name, OUTSIDE_WORLD) for mention in mentions_of(path))


@pytest.mark.parametrize(
    "source",
    [
        "import os\nnonce = os.urandom(32)",
        "import secrets\nnonce = secrets.token_bytes(32)",
        "from datetime import datetime, timedelta\nthen = datetime.fromisoformat(text) + timedelta(days=1)",
        "def verify(quote, *, now):\n    return quote.expires < now",
        "frame.open(platform.now)",
    ],
)
def test_the_scan_leaves_randomness_and_given_time_alone(source: str, tmp_path: Path) -> None:
    path = tmp_path / "room.py"
    path.write_text(source)
    assert not any(falls_under(mention.name, OUTSIDE_WORLD) for mention in mentions_of(path))


@pytest.mark.parametrize(
    "source",
    [
        "import eaa.verify",
        "from eaa import verify",
        "from eaa.verify.dcap import verify_quote",
        "import eaa.verify as v",
    ],
)
def test_the_scan_sees_an_import_of_ours_however_it_is_spelled(source: str, tmp_path: Path) -> None:
    path = tmp_path / "cli.py"
    path.write_text(source)
    assert [falls_under(mention.name, frozenset({"eaa.verify"})) for mention in imports_of(path)] == [True]


def loaded_after(statements: str) -> list[str]:
    """Names of the modules that a fresh interpreter has loaded because of these statements."""
    report = "print(json.dumps(sorted(set(sys.modules) - before)))"
    script = f"import json, sys\nbefore = set(sys.modules)\n{statements}\n{report}"
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded: list[str] = json.loads(finished.stdout)
    return loaded


@pytest.mark.parametrize("room", present(PURE))
def test_importing_a_pure_room_loads_no_event_loop_process_client_or_database(room: str) -> None:
    loaded = loaded_after("\n".join(f"import {module_name(path)}" for path in files_of(room)))
    assert [name for name in loaded if falls_under(name, frozenset(NEVER_LOADED))] == []


def test_importing_the_package_alone_imports_only_the_standard_library() -> None:
    loaded = loaded_after("import eaa")
    assert [name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names | {"eaa"}] == []


# --- how a file looks


def public_definitions(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """The module, and its classes, functions and methods whose whole name is public."""
    pending: list[tuple[str, ast.AST]] = [(module_name(path), tree_of(path))]
    while pending:
        name, node = pending.pop()
        yield name, node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        pending += [
            (f"{name}.{child.name}", child)
            for child in ast.iter_child_nodes(node)
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and not child.name.startswith("_")
            and not says_nothing_new(child)
        ]


def says_nothing_new(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Setters and overloads share the words of the definition they belong to."""
    names = {(dotted_name(item) or "").rpartition(".")[2] for item in node.decorator_list}
    return bool(names & {"setter", "deleter", "overload"})


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_everything_public_has_a_docstring(path: Path) -> None:
    silent = [
        name
        for name, node in public_definitions(path)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not ast.get_docstring(node)
    ]
    assert silent == []


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_function_is_longer_than_a_screen(path: Path) -> None:
    long = [
        f"{node.name}: {(node.end_lineno or 0) - node.lineno + 1} lines"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


# --- what the project carries


def tracked_files() -> list[Path]:
    """Every file git knows; without git or outside a clone, every file of the source folders."""
    git = shutil.which("git")
    if git is not None and (ROOT / ".git").exists():
        listed = subprocess.run([git, "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=True).stdout
        return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]
    folders = (".ci", "bench", "deploy", "docs", "src", "tests")
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [path for path in (*ROOT.iterdir(), *inside) if path.is_file() and "__pycache__" not in path.parts]


ONE_MACHINES_OWN: Final = re.compile(
    # Put together from pieces, so that this file does not name what it looks for.
    "|".join(
        [
            r"(?<![\w.])/" + "work/",
            r"(?<![\w.])/" + "root/",
            r"(?<![\w.])/" + "opt/" + "(?:wheels|pypi)",
            r"(?<![\w.])/" + "(?:home|Users)" + "/[a-z]",
            "pypi" + r"\.org",
            "python" + r"hosted\.org",
        ]
    )
)


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    """What stands in the project is true on every machine."""
    named = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked_files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if ONE_MACHINES_OWN.search(line)
    ]
    assert named == []


def core_requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(line) for line in project["dependencies"]]


def test_the_core_has_at_most_six_direct_dependencies() -> None:
    assert len(core_requirements()) <= MAX_CORE_DEPENDENCIES


def test_the_core_installs_at_most_sixteen_packages() -> None:
    """Counted over what is installed here, markers and extras as pip would take them, the project itself included."""
    counted = {"inclavare-eaa"}
    pending = core_requirements()
    while pending:
        requirement = pending.pop()
        name = requirement.name.lower().replace("_", "-")
        if name in counted or not (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            continue
        counted.add(name)
        pending += [Requirement(line) for line in metadata.requires(requirement.name) or ()]
    assert len(counted) <= MAX_CORE_PACKAGES, sorted(counted)


def test_every_core_dependency_is_justified() -> None:
    record = (ROOT / "docs" / "adr" / "0005-dependencies.md").read_text(encoding="utf-8")
    assert [item.name for item in core_requirements() if f"`{item.name}`" not in record] == []


# --- one table, said three times


def test_the_table_of_the_contributors_is_this_one() -> None:
    """`may import` of CONTRIBUTING.md, row by row; the words after a semicolon are for single files."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .+? \| ([^|]+) \|$", text, re.MULTILINE)
    written = {room: {name for name in rule.partition(";")[0].strip(" -").split(", ") if name} for room, rule in rows}
    assert written == {room: set(rule) for room, rule in MAY_IMPORT.items() if room not in PROGRAMS}


def test_coverage_counts_the_pure_rooms() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    counted = {name.removeprefix("eaa.") for name in tool["coverage"]["run"]["source_pkgs"]}
    assert counted == set(PURE)
