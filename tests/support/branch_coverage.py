"""The share of branches that a run took, from its .coverage file: `python tests/support/branch_coverage.py MINIMUM`.

coverage.py's own minimum is of lines and branches together, in which many lines hide few branches.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import coverage


def branch_totals() -> tuple[int, int]:
    """Branches taken, and branches there are, in the rooms that [tool.coverage.run] names."""
    measured = coverage.Coverage()
    measured.load()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        measured.json_report(outfile=str(report))
        totals = json.loads(report.read_text(encoding="utf-8"))["totals"]
    return totals["covered_branches"], totals["num_branches"]


def main(minimum: float) -> int:
    """Print the share; 1 where it is under the minimum, in percent, or where there is nothing to measure."""
    taken, there = branch_totals()
    share = 100 * taken / there if there else 0.0
    print(f"branches of the pure rooms: {share:.1f} % of {there} taken, at least {minimum:g} % are asked for")
    return 0 if share >= minimum else 1


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
