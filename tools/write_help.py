"""Write what the programs say of themselves into the documents: every block behind a marker that a test compares.

<!-- help: shelter verify -->    becomes `$ shelter verify --help` and its output, 80 columns wide
<!-- demo: by hand -->           becomes the output of `eaa demo --print-commands`
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
_BLOCK = re.compile(
    r"(?P<marker><!-- (?:help: (?P<help>[^>]+?)|(?P<demo>demo: by hand)) -->\n```\S*\n)(?P<text>.*?)(?P<end>\n```)",
    re.DOTALL,
)


def said(*command: str) -> str:
    """Return what one of our programs prints on stdout."""
    program, *arguments = command
    done = subprocess.run(  # noqa: S603  our own programs
        [str(BIN / program), *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    return done.stdout.rstrip()


def _filled(block: re.Match[str]) -> str:
    if block["demo"]:
        text = said("eaa", "demo", "--print-commands")
    else:
        text = f"$ {block['help']} --help\n{said(*block['help'].split(), '--help')}"
    return block["marker"] + text + block["end"]


def main() -> None:
    """Rewrite README and every page below docs/ whose blocks are not what the programs say."""
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        before = page.read_text(encoding="utf-8")
        after = _BLOCK.sub(_filled, before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"wrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
