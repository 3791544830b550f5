"""The soak run in small: the whole of it is `make soak`."""

from __future__ import annotations

from soak.run import LEVELS, run


def test_some_dozen_connections_at_every_level_all_succeed() -> None:
    figures = run(40 * len(LEVELS))
    assert figures.failures == []
    assert len(figures.server) == len(figures.clients) == 2
    # What is cached on the way is still growing: the limit of the long run holds after five thousand.
    assert figures.grown < 16 * 1024 * 1024
    assert "120 handshakes" in str(figures)
