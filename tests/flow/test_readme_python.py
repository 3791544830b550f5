"""The README's Python example runs as it stands."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from support.vectors import vector

README = Path(__file__).resolve().parents[2] / "README.md"
BLOCK = re.compile(r"<!-- python: verify -->\n```python\n(.*?)```", re.DOTALL)


def test_the_example_states_the_facts_of_a_real_quote(tmp_path: Path) -> None:
    """Ten lines verify a real quote, and print what Intel's own verifier says of it."""
    found = BLOCK.search(README.read_text())
    assert found
    shutil.copy(vector("dcap-qvl/sgx_quote"), tmp_path / "quote.bin")
    shutil.copy(
        vector("cases/dcap-qvl__sgx_quote__tcb2025-06-19_ev17_v3.collateral.json"), tmp_path / "collateral.json"
    )
    done = subprocess.run(
        [sys.executable, "-c", found[1]], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "ConfigurationAndSWHardeningNeeded INTEL-SA-00289, INTEL-SA-00615\n"
