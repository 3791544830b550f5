"""The run with very many platforms in small: the whole of it is `make platforms`."""

from __future__ import annotations

from pathlib import Path

from scale.run import run


def test_some_thousand_platforms_are_taken_over_and_each_is_found(tmp_path: Path) -> None:
    figures = run(2000, tmp_path)
    assert (figures.imported.platforms, figures.imported.refused) == (2000, [])
    assert figures.statuses == {200}
    # A platform has a certificate of 1.3 kB and 384 bytes of encrypted PPID; keys, pages half full and the log are
    # the rest.
    assert figures.bytes_stored / figures.count < 8000
    assert figures.resident < 200 * 2**20
