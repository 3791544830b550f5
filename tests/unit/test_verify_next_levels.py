"""Which level an update would lead to: the nearest one above with a better status, and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from eaa.collateral.intel import SVNLevel, TCBLevel, TCBStatus
from eaa.verify.tcb import PlatformMatch, SVNMatch
from support.facts import tcb_facts

UP: Final = TCBStatus.UP_TO_DATE
HARDEN: Final = TCBStatus.SW_HARDENING_NEEDED
OUT: Final = TCBStatus.OUT_OF_DATE
DATE: Final = datetime(2025, 1, 1, tzinfo=UTC)

Levels = dict[int, TCBStatus]


def enclave(own: int, levels: Levels) -> SVNMatch:
    made = {
        svn: SVNLevel(isv_svn=svn, tcb_date=DATE, tcb_status=status, advisory_ids=()) for svn, status in levels.items()
    }
    return SVNMatch(what="quoting enclave", svn=own, level=made[own], levels=tuple(made.values()))


def platform(own: int, levels: Levels) -> PlatformMatch:
    match = tcb_facts().current.platform
    made = {
        svn: TCBLevel(
            sgx_components=(svn,) * 16,
            pce_svn=11,
            tdx_components=None,
            tcb_date=DATE,
            tcb_status=status,
            advisory_ids=(),
        )
        for svn, status in levels.items()
    }
    info = replace(match.tcb_info, tcb_levels=tuple(made.values()))
    return replace(match, level=made[own], tcb_info=info, tcb_components=(own,) * 16, pce_svn=11, tee_tcb_svn=None)


CASES: Final = [
    pytest.param(5, {8: UP, 5: OUT}, 8, id="the one above"),
    pytest.param(5, {9: UP, 8: UP, 5: OUT}, 8, id="the nearest of two"),
    pytest.param(5, {8: UP, 9: UP, 5: OUT}, 8, id="in whatever order they stand"),
    pytest.param(5, {8: UP, 7: OUT, 5: OUT}, 8, id="not one with the same status"),
    pytest.param(5, {8: HARDEN, 9: UP, 5: OUT}, 8, id="a better one, if not the best"),
    pytest.param(5, {9: OUT, 5: HARDEN}, None, id="not a worse one"),
    pytest.param(5, {5: OUT, 3: UP}, None, id="not one below"),
    pytest.param(5, {5: UP, 3: OUT}, None, id="none above"),
    pytest.param(5, {9: UP, 5: UP}, None, id="nothing to gain"),
]


@pytest.mark.parametrize(("own", "levels", "expected"), CASES)
def test_the_next_level_of_an_enclave(own: int, levels: Levels, expected: int | None) -> None:
    match = enclave(own, levels)
    assert (match.next_level.isv_svn if match.next_level else None) == expected
    assert [shortfall.needed for shortfall in match.shortfalls] == ([] if expected is None else [expected])


@pytest.mark.parametrize(("own", "levels", "expected"), CASES)
def test_the_next_level_of_a_platform(own: int, levels: Levels, expected: int | None) -> None:
    match = platform(own, levels)
    assert (match.next_level.sgx_components[0] if match.next_level else None) == expected
    needed = [] if expected is None else [expected] * 16
    assert [shortfall.needed for shortfall in match.shortfalls] == needed


@pytest.mark.parametrize("match", [enclave, platform])
def test_a_later_date_of_a_level_below_is_no_update_that_was_missed(
    match: Callable[[int, Levels], SVNMatch | PlatformMatch],
) -> None:
    found = match(5, {5: OUT, 3: OUT})
    below = replace(_levels_of(found)[1], tcb_date=DATE + timedelta(days=1))
    later = _with_levels(found, (found.level, below))
    assert later.behind_since is None


def _levels_of(match: SVNMatch | PlatformMatch) -> tuple[SVNLevel | TCBLevel, ...]:
    return match.levels if isinstance(match, SVNMatch) else match.tcb_info.tcb_levels


def _with_levels(match: SVNMatch | PlatformMatch, levels: tuple[Any, ...]) -> SVNMatch | PlatformMatch:
    if isinstance(match, SVNMatch):
        return replace(match, levels=levels)
    return replace(match, tcb_info=replace(match.tcb_info, tcb_levels=levels))
