"""Where the real evidence lies: EAA_VECTORS, or ../shared/vectors beside the project."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

_BESIDE = Path(__file__).resolve().parents[3] / "shared" / "vectors"
ROOT = Path(os.environ.get("EAA_VECTORS", _BESIDE))
AVAILABLE = (ROOT / "cases.json").is_file()


def require(what: str, *, available: bool, how: str) -> None:
    """Skip the running test where `what` is missing; fail instead under EAA_REQUIRE_ALL=1."""
    if available:
        return
    message = f"{what} is not here: {how}"
    if os.environ.get("EAA_REQUIRE_ALL") == "1":
        pytest.fail(message)
    pytest.skip(message)


def vector(name: str) -> Path:
    """Return the path of one vector file or folder."""
    require("the folder of vectors", available=AVAILABLE, how="set EAA_VECTORS to it")
    return ROOT / name


def cases() -> list[dict[str, Any]]:
    """Return the golden cases; none where the vectors are absent, so that collecting tests never fails."""
    if not AVAILABLE:
        return []
    loaded: list[dict[str, Any]] = json.loads((ROOT / "cases.json").read_text())
    return loaded
