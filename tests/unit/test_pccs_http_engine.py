"""The HTTP engine is of the version whose private module is used, or the program says so."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from eaa.errors import Reason
from eaa.pccs.http_engine import ENGINE_VERSION, engine_failure, is_known_version

ROOT = Path(__file__).resolve().parents[2]


def test_the_version_is_the_one_that_the_distribution_asks_for() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (asked,) = [each for each in extras["pccs"] if each.startswith("granian")]
    major, minor = map(int, ENGINE_VERSION.split("."))
    assert asked == f"granian>={major}.{minor},<{major}.{minor + 1}"
    assert is_known_version()


@pytest.mark.parametrize(("version", "reason"), [("2.8.7", Reason.CONNECTION_FAILED), ("2.80.0", Reason.USAGE)])
def test_an_engine_of_another_version_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, version: str, reason: Reason
) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: version)
    error = engine_failure("no such argument")
    assert error.reason is reason
    assert "no such argument" in error.message
