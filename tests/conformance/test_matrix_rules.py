"""What holds of the whole oracle matrix: it is complete, and ours is never the most lenient of the three."""

from __future__ import annotations

import re
from typing import Final

import pytest

from eaa.collateral.intel import TCBStatus
from eaa.errors import Reason
from support.oracle_matrix import ROWS, Row
from support.vectors import ROOT as VECTORS
from support.vectors import require

MEASURED: Final = VECTORS.parent / "spec" / "dcap-oracle-matrix.md"


INTEL_STATUSES: Final = {
    "OK": TCBStatus.UP_TO_DATE,
    "TCB_OUT_OF_DATE": TCBStatus.OUT_OF_DATE,
    "TCB_SW_HARDENING_NEEDED": TCBStatus.SW_HARDENING_NEEDED,
    "TCB_CONFIGURATION_NEEDED": TCBStatus.CONFIGURATION_NEEDED,
    "TCB_CONFIGURATION_AND_SW_HARDENING_NEEDED": TCBStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    "TCB_OUT_OF_DATE_CONFIGURATION_NEEDED": TCBStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    "TCB_TD_RELAUNCH_ADVISED": TCBStatus.TD_RELAUNCH_ADVISED,
    "TCB_TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED": TCBStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
}
"""Every answer of Intel's that is no refusal."""


def test_the_matrix_has_130_rows_and_no_two_are_one() -> None:
    assert len({row.text for row in ROWS}) == len(ROWS) == 130


def test_the_rows_are_those_that_were_measured() -> None:
    require("the measured matrix", available=MEASURED.is_file(), how=f"it is expected at {MEASURED}")
    lines = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", MEASURED.read_text(encoding="utf-8"), re.MULTILINE)[1:]
    assert [row.text for row in ROWS] == [text for text, _, _ in lines]
    assert {row.text: row.intel for row in ROWS} == {text: intel for text, intel, _ in lines}
    for row, (_, _, other) in zip(ROWS, lines, strict=True):
        is_status = row.dcap_qvl in tuple(TCBStatus)
        assert (row.dcap_qvl == other.split()[0]) if is_status else (other.startswith("ERR ") and row.dcap_qvl in other)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.text) for row in ROWS])
def test_ours_accepts_nothing_that_intels_refuses(row: Row) -> None:
    if isinstance(row.ours, TCBStatus):
        assert row.ours is INTEL_STATUSES[row.intel]
    else:
        assert isinstance(row.ours, Reason)


def test_a_refusal_of_what_both_others_accept_says_why() -> None:
    accepted = {row.text for row in ROWS if row.intel in INTEL_STATUSES and row.dcap_qvl in tuple(TCBStatus)}
    alone = {row.text for row in ROWS if row.text in accepted and isinstance(row.ours, Reason)}
    assert alone == {row.text for row in ROWS if row.why}
    assert len(alone) == 4
