"""Since when a platform is behind: the first update that it missed, and never the newest one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from eaa.collateral.intel import SVNLevel, TCBLevel, TCBStatus
from eaa.verify.tcb import SVNMatch, TCBEvaluation
from support.facts import tcb_facts

UP = TCBStatus.UP_TO_DATE
OUT = TCBStatus.OUT_OF_DATE
HARDEN = TCBStatus.SW_HARDENING_NEEDED
CONFIGURE = TCBStatus.CONFIGURATION_NEEDED


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def platform_at(svn: int, *levels: tuple[int, str, TCBStatus]) -> TCBEvaluation:
    """A platform whose first component has this SVN, among levels of (SVN, date, status)."""
    evaluation = tcb_facts().current
    made = tuple(
        TCBLevel(
            sgx_components=(wanted, *(0,) * 15),
            pce_svn=0,
            tdx_components=None,
            tcb_date=day(date),
            tcb_status=status,
            advisory_ids=(),
        )
        for wanted, date, status in levels
    )
    level = next(level for level in made if level.sgx_components[0] == svn)
    info = replace(evaluation.platform.tcb_info, tcb_levels=made)
    return replace(
        evaluation,
        tcb_status=level.tcb_status,
        platform=replace(evaluation.platform, level=level, tcb_info=info),
    )


def enclave_at(svn: int, *levels: tuple[int, str, TCBStatus]) -> SVNMatch:
    made = tuple(
        SVNLevel(isv_svn=wanted, tcb_date=day(date), tcb_status=status, advisory_ids=())
        for wanted, date, status in levels
    )
    level = next(level for level in made if level.isv_svn == svn)
    return SVNMatch(what="quoting enclave", svn=svn, level=level, levels=made)


@pytest.mark.parametrize(
    ("svn", "levels", "since"),
    [
        pytest.param(9, [(9, "2026-03-01", UP)], None, id="nothing above"),
        pytest.param(5, [(9, "2026-03-01", UP), (5, "2025-08-01", OUT)], "2026-03-01", id="one update missed"),
        pytest.param(
            3,
            [(9, "2026-03-01", UP), (5, "2025-08-01", OUT), (3, "2024-01-01", OUT)],
            "2025-08-01",
            id="two updates missed: since the first",
        ),
        pytest.param(
            3,
            [(9, "2026-03-01", UP), (5, "2024-01-01", OUT), (3, "2024-01-01", OUT)],
            "2026-03-01",
            id="a level of the same day and status is no update",
        ),
        pytest.param(
            5, [(9, "2026-03-01", UP), (5, "2026-03-01", HARDEN)], "2026-03-01", id="of the same day, but better"
        ),
        pytest.param(5, [(5, "2026-03-01", CONFIGURE)], None, id="no update leads out of it"),
        pytest.param(5, [(9, "2024-01-01", UP), (5, "2026-03-01", OUT)], None, id="above, but older"),
    ],
)
def test_a_platform_is_behind_since_the_first_level_it_missed(
    svn: int, levels: list[tuple[int, str, TCBStatus]], since: str | None
) -> None:
    evaluation = platform_at(svn, *levels)
    assert evaluation.platform.behind_since == (since and day(since))
    assert enclave_at(svn, *levels).behind_since == (since and day(since))
    facts = replace(tcb_facts(), launch=evaluation, current=evaluation)
    assert facts.behind_since == (since and day(since))


def test_the_earliest_of_all_that_is_behind_counts() -> None:
    platform = platform_at(5, (9, "2026-03-01", UP), (5, "2025-08-01", OUT))
    enclave = enclave_at(4, (6, "2025-02-01", UP), (4, "2024-01-01", OUT))
    assert replace(platform, quoting_enclave=enclave).behind_since == day("2025-02-01")


def test_what_is_up_to_date_is_not_behind_whatever_stands_above_it() -> None:
    enclave = enclave_at(6, (7, "2027-01-01", UP), (6, "2025-02-01", UP))
    platform = platform_at(5, (9, "2026-03-01", UP), (5, "2025-08-01", OUT))
    assert replace(platform, quoting_enclave=enclave).behind_since == day("2026-03-01")


def test_where_one_part_cannot_tell_nothing_is_told() -> None:
    """Else a platform that needs another configuration would get the grace of its quoting enclave."""
    platform = platform_at(5, (5, "2025-08-01", CONFIGURE))
    enclave = enclave_at(4, (6, "2025-02-01", UP), (4, "2024-01-01", OUT))
    assert replace(platform, quoting_enclave=enclave).behind_since is None


def test_a_domain_that_was_launched_too_early_is_behind_since_then() -> None:
    launch = platform_at(5, (9, "2026-03-01", UP), (5, "2025-08-01", OUT))
    current = platform_at(9, (9, "2026-03-01", UP), (5, "2025-08-01", OUT))
    assert replace(tcb_facts(), launch=launch, current=current).behind_since == day("2026-03-01")
    assert replace(tcb_facts(), launch=current, current=current).behind_since is None
