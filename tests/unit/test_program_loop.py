"""Services run on uvloop where it is installed, and on Python's own loop where it is not."""

from __future__ import annotations

import asyncio
import sys

import pytest

from eaa.program.loop import loop_factory, run_service


async def _kind_of_loop() -> str:
    return type(asyncio.get_running_loop()).__module__


def test_a_service_takes_uvloop_where_it_is_installed() -> None:
    pytest.importorskip("uvloop")
    assert run_service(_kind_of_loop()).startswith("uvloop")


def test_a_service_takes_pythons_loop_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop_factory() is None
    assert run_service(_kind_of_loop()).startswith("asyncio")
