"""The chaos run in small: the whole of it is `make chaos`."""

from __future__ import annotations

from chaos.run import FINAL_TRANSFER, STEPS, run


def test_some_dozen_rounds_leave_nothing_behind() -> None:
    figures = run(40, seed=7)
    assert figures.failures == []
    assert sum(figures.hits.values()) > len(STEPS) // 2
    assert figures.whole > 0
    printed = "\n".join(figures.lines())
    assert f"final transfer of {FINAL_TRANSFER} bytes and back: SHA-256 {figures.digest}" in printed
    assert all(f"resets: {step}: " in printed for step in STEPS)
