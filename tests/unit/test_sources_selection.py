"""The best PCK certificate for a raw TCB, rule by rule."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from eaa.sources.selection import TCB, Candidate, Levels, SelectionError, select

FMSPC, PCE_ID = "00606A000000", "0000"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The fields of a PCK certificate that selection reads."""

    tcb_components: tuple[int, ...]
    pce_svn: int = 10
    pce_id: bytes = bytes.fromhex(PCE_ID)
    fmspc: bytes = bytes.fromhex(FMSPC)
    ppid: bytes = bytes(16)


def components(*leading: int) -> tuple[int, ...]:
    return (*leading, *(0,) * (16 - len(leading)))


def certificate(name: str, *leading: int, **fields: Any) -> Candidate:
    stand_in: Any = Certificate(tcb_components=components(*leading), **fields)
    return Candidate(tcbm=name, pem=name, certificate=stand_in)


def tcb(*leading: int, pce_svn: int = 10) -> TCB:
    return TCB(components(*leading), pce_svn)


def levels(*of: TCB, **changed: Any) -> Levels:
    fields: dict[str, Any] = {"fmspc": FMSPC, "pce_id": PCE_ID, "tcb_type": 0, "levels": of, **changed}
    return Levels(**fields)


LEVELS = levels(tcb(5, 5), tcb(3, 3), tcb(1, 1))


def choose(raw: TCB, *candidates: Candidate, by: Levels = LEVELS) -> str:
    return select(raw, candidates, pce_id=PCE_ID, levels=by).tcbm


def test_the_highest_level_that_the_platform_has_reached_wins() -> None:
    old, middle, new = certificate("old", 1, 1), certificate("middle", 3, 3), certificate("new", 5, 5)
    assert choose(tcb(5, 5), old, middle, new) == "new"
    assert choose(tcb(4, 4), old, middle, new) == "middle"
    assert choose(tcb(9, 2), old, middle, new) == "old"


def test_inside_a_level_the_highest_certificate_comes_first() -> None:
    assert choose(tcb(9, 9), certificate("lower", 3, 3), certificate("higher", 4, 4)) == "higher"
    assert choose(tcb(9, 9), certificate("higher", 4, 4), certificate("lower", 3, 3)) == "higher"


def test_of_two_equal_certificates_the_later_one_is_taken() -> None:
    assert choose(tcb(9, 9), certificate("first", 3, 3), certificate("second", 3, 3)) == "second"


def test_the_order_of_the_levels_in_the_document_does_not_matter() -> None:
    shuffled = levels(tcb(1, 1), tcb(5, 5), tcb(3, 3))
    assert choose(tcb(9, 9), certificate("old", 1, 1), certificate("new", 5, 5), by=shuffled) == "new"


def test_levels_that_cannot_be_compared_keep_their_order() -> None:
    crossed = levels(tcb(2, 1), tcb(1, 2))
    assert (
        choose(tcb(9, 9), certificate("second level", 1, 2), certificate("first level", 2, 1), by=crossed)
        == "first level"
    )


def test_a_certificate_below_every_level_is_the_last_resort() -> None:
    below = certificate("below", 0, 1)
    assert choose(tcb(9, 9), below, certificate("level", 1, 1)) == "level"
    assert choose(tcb(0, 9), below, certificate("level", 1, 1)) == "below"


def test_the_pce_svn_counts_like_a_component() -> None:
    assert (
        choose(tcb(5, 5, pce_svn=9), certificate("needs 10", 5, 5), certificate("needs 9", 1, 1, pce_svn=9))
        == "needs 9"
    )


def test_a_raw_pce_svn_is_little_endian() -> None:
    assert TCB.raw("00" * 16, "0a01") == TCB(components(), 0x010A)


def test_a_platform_below_all_of_its_certificates_gets_none() -> None:
    with pytest.raises(SelectionError):
        choose(tcb(0, 9), certificate("level", 1, 1))


@pytest.mark.parametrize(
    ("candidate", "by"),
    [
        (certificate("other PCE", 1, 1, pce_id=b"\0\1"), LEVELS),
        (certificate("other model", 1, 1, fmspc=bytes(6)), LEVELS),
        (certificate("other machine", 1, 1, ppid=b"\1" * 16), LEVELS),
        (certificate("good", 1, 1), levels(tcb(1, 1), tcb_type=1)),
        (certificate("good", 1, 1), levels(tcb(1, 1), pce_id="0001")),
        (certificate("good", 1, 1), levels(tcb(1, 1), fmspc="000000000000")),
    ],
)
def test_documents_that_do_not_belong_together_select_nothing(candidate: Candidate, by: Levels) -> None:
    with pytest.raises(SelectionError):
        choose(tcb(9, 9), certificate("first", 1, 1), candidate, by=by)


def tcb_info(**changed: Any) -> dict[str, Any]:
    level = {"tcb": {"sgxtcbcomponents": [{"svn": 1}] * 16, "pcesvn": 7}}
    return {"fmspc": FMSPC.lower(), "pceId": PCE_ID, "tcbType": 0, "tcbLevels": [level], **changed}


def test_levels_are_read_from_tcb_info() -> None:
    read = Levels.parse(json.dumps({"tcbInfo": tcb_info(), "signature": "00"}).encode())
    assert read == levels(TCB((1,) * 16, 7))


def level_with(**changed: Any) -> list[dict[str, Any]]:
    return [{"tcb": {"sgxtcbcomponents": [{"svn": 1}] * 16, "pcesvn": 7, **changed}}]


@pytest.mark.parametrize(
    "broken",
    [
        tcb_info(tcbLevels=[]),
        tcb_info(tcbLevels=level_with() * 257),
        tcb_info(tcbLevels=level_with(pcesvn=-1)),
        tcb_info(tcbLevels=level_with(pcesvn=None)),
        tcb_info(tcbLevels=level_with(pcesvn=True)),
        tcb_info(tcbLevels=level_with(sgxtcbcomponents=[{"svn": 1}] * 15)),
        tcb_info(tcbLevels=level_with(sgxtcbcomponents=[{}] * 16)),
        tcb_info(tcbLevels=[{"tcb": {"sgxtcbcomp01svn": 1, "pcesvn": 7}}]),
        tcb_info(tcbLevels=None),
        tcb_info(fmspc=None),
    ],
)
def test_tcb_info_that_selection_cannot_use_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(SelectionError):
        Levels.of(broken)


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"tcbInfo":1}', b"[" * 100_000])
def test_something_that_is_no_tcb_info_is_refused(document: bytes) -> None:
    with pytest.raises(SelectionError):
        Levels.parse(document)
