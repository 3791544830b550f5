"""The documents say what the programs do: commands, help texts, links and the change log are compared with the code.

A block that a test reads stands behind a comment that names it:

    <!-- help: shelter verify -->       the block is `$ shelter verify --help` and all that it prints
    <!-- command: test -->              the block's `$ …` line is the command that runs the tests
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import pytest

import eaa

ROOT: Final = Path(__file__).resolve().parents[2]
DOCUMENTS: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

MARKER: Final = re.compile(r"^<!-- (?P<kind>help|command): (?P<subject>[^>]+?) -->$")
FENCE: Final = re.compile(r"^(?P<fence>`{3,}|~{3,})(?P<language>\S*)")
LINK: Final = re.compile(r"(?<!\\)\[(?:[^\]\[]|\[[^\]]*\])*\]\((?P<target>[^()\s]+)(?:\s+\"[^\"]*\")?\)")
HEADING: Final = re.compile(r"^#{1,6}\s+(?P<title>.+?)\s*#*$")
CODE: Final = re.compile(r"`[^`]*`")

RELEASE: Final = re.compile(r"^## \[(?P<version>[^\]]+)\](?: - (?P<date>\d{4}-\d{2}-\d{2}))?$")
KINDS_OF_CHANGE: Final = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block behind a marker."""

    path: Path
    kind: str
    subject: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}: {self.subject}"


def blocks_of(path: Path) -> Iterator[Block]:
    """Every marked block; a marker without a block right behind it yields an empty one."""
    lines = iter(path.read_text(encoding="utf-8").splitlines())
    for line in lines:
        marker = MARKER.match(line)
        if marker is None:
            continue
        fence = FENCE.match(next((text for text in lines if text.strip()), ""))
        body: list[str] = []
        if fence is not None:
            for text in lines:
                if text.strip() == fence["fence"]:
                    break
                body.append(text)
        yield Block(
            path=path,
            kind=marker["kind"],
            subject=marker["subject"],
            language=fence["language"] if fence is not None else "",
            text="\n".join(body),
        )


def prose_of(path: Path) -> Iterator[str]:
    """The lines outside of fenced blocks."""
    closing = None
    for line in path.read_text(encoding="utf-8").splitlines():
        fence = FENCE.match(line.strip())
        if closing is None and fence is not None:
            closing = fence["fence"]
        elif closing is not None:
            closing = None if line.strip() == closing else closing
        else:
            yield line


def links_of(path: Path) -> Iterator[str]:
    for line in prose_of(path):
        yield from (match["target"] for match in LINK.finditer(CODE.sub("", line)))


def anchors_of(path: Path) -> set[str]:
    """The names under which the headings of a document can be linked to."""
    anchors: set[str] = set()
    for line in prose_of(path):
        heading = HEADING.match(line)
        if heading is not None:
            words = re.sub(r"[^\w\- ]", "", heading["title"].replace("`", "").lower())
            anchors.add(words.strip().replace(" ", "-"))
    return anchors


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


MARKED: Final = [block for path in DOCUMENTS for block in blocks_of(path)]
HELP: Final = [block for block in MARKED if block.kind == "help"]


# --- commands and help texts


@pytest.mark.parametrize("block", HELP, ids=str)
def test_a_help_block_is_what_the_program_prints(block: Block) -> None:
    program, *subcommands = block.subject.split()
    finished = subprocess.run(
        [Path(sys.executable).with_name(program), *subcommands, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
    )
    assert block.language == "console"
    assert block.text.rstrip() == f"$ {block.subject} --help\n{finished.stdout}".rstrip()


def test_the_help_of_every_program_is_in_the_documents() -> None:
    assert set(PROJECT["scripts"]) - {block.subject for block in HELP} == set()


def commands_of(subject: str) -> list[str]:
    """The commands of the README's block of that name."""
    blocks = [
        block for block in MARKED if (block.path, block.kind, block.subject) == (ROOT / "README.md", "command", subject)
    ]
    return [line.removeprefix("$ ") for block in blocks for line in block.text.splitlines() if line.startswith("$ ")]


@pytest.mark.parametrize("subject", ["demo", "test"])
def test_the_readme_has_one_command_for_each_main_job(subject: str) -> None:
    assert commands_of(subject) == [f"make {subject}"]


def test_the_build_runs_the_test_command_of_the_readme() -> None:
    build = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line.partition(" | ")[0] for line in build if line.startswith("make test")] == commands_of("test")


# --- links


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    broken = []
    for link in links_of(path):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        target, _, anchor = unquote(link).partition("#")
        file = (path.parent / target).resolve() if target else path
        inside = file.is_relative_to(ROOT) and file.exists()
        if not inside or (anchor and file.suffix == ".md" and anchor not in anchors_of(file)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("folder", ["adr", "manual"])
def test_every_document_is_in_the_index_of_its_folder(folder: str) -> None:
    index = ROOT / "docs" / folder / "README.md"
    listed = {(index.parent / link.partition("#")[0]).resolve() for link in links_of(index)}
    assert {path.name for path in index.parent.glob("*.md")} - {path.name for path in listed} <= {"README.md"}


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "adr").glob("[0-9]*.md")), ids=name_of)
def test_a_decision_record_has_its_number_and_its_parts(path: Path) -> None:
    headings = [line for line in prose_of(path) if line.startswith("#")]
    assert headings[0].startswith(f"# {int(path.name[:4])}. ")
    assert [title for title in headings if title.startswith("## ")] == ["## Context", "## Decision", "## Consequences"]


# --- change log


def releases() -> list[re.Match[str]]:
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    sections = [line for line in lines if line.startswith("## ")]
    matches = [match for line in sections if (match := RELEASE.match(line))]
    assert len(matches) == len(sections), sections
    return matches


def test_the_change_log_has_the_form_of_keep_a_changelog() -> None:
    first, *others = releases()
    assert (first["version"], first["date"]) == ("Unreleased", None)
    assert all(release["date"] for release in others)
    dates = [release["date"] for release in others]
    assert dates == sorted(dates, reverse=True)
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= KINDS_OF_CHANGE


def test_the_newest_release_is_the_version_of_the_project() -> None:
    assert releases()[1]["version"] == PROJECT["version"] == eaa.__version__
