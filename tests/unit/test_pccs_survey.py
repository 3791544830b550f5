"""What is cached, for whom, until when, and what the next TCB recovery changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from eaa.errors import Reason
from eaa.pccs.admission import admit
from eaa.pccs.census import Census
from eaa.pccs.forecast import NO_LEVEL, compare, fall, levels_of, place
from eaa.pccs.store import Store
from eaa.pccs.survey import KINDS, State, survey
from eaa.pccs.uploads import parse_upload
from eaa.verifier import INTEL
from support.pccs import NOW, anchors, encode, platform, signed, upload_document, with_tdx

FMSPC = platform().model.fmspc.hex().upper()
TCBM = (platform().model.cpu_svn.hex() + platform().model.pce_svn.to_bytes(2, "little").hex()).upper()


def with_early(document: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The upload with early TCB Info that differs in this."""
    entry = document["collaterals"]["tcbinfos"][0]
    inner = json.loads(json.dumps(entry["sgx_tcbinfo"]["tcbInfo"]))
    inner["tcbEvaluationDataNumber"] += 1
    change(inner)
    entry["sgx_tcbinfo_early"] = json.loads(signed("tcbInfo", json.dumps(inner, separators=(",", ":"))))
    return document


def raise_the_best(inner: dict[str, Any]) -> None:
    best, *rest = inner["tcbLevels"]
    higher = json.loads(json.dumps(best))
    higher["tcb"]["sgxtcbcomponents"][2]["svn"] += 3
    higher["tcbDate"] = "2026-11-01T00:00:00Z"
    best["tcbStatus"], best["advisoryIDs"] = "OutOfDate", ["INTEL-SA-99999"]
    inner["tcbLevels"] = [higher, best, *rest]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "pccs.sqlite")
    document = with_tdx(with_early(upload_document(), raise_the_best))
    admit(parse_upload(encode(document), api_version=4), opened, trust_anchors=anchors(), now=NOW)
    yield opened
    opened.close()


def test_every_document_is_listed_with_its_end(store: Store) -> None:
    found = survey(store, trust_anchors=anchors(), now=NOW)
    assert {entry.state for entry in found.entries} == {State.VALID}
    assert {entry.kind for entry in found.entries} <= set(KINDS)
    assert {entry.kind for entry in found.entries} >= {"sgx_tcb_info", "tdx_tcb_info", "qe_identity", "root_crl"}
    assert found.troubles == ()
    assert found.platforms == {(found.default_root, FMSPC): 1}
    for entry in found.entries:
        assert entry.issued <= NOW < entry.ends
        assert 0 < entry.days_left(NOW) <= (entry.ends - NOW).days


@pytest.mark.parametrize(
    ("later", "state"),
    [(timedelta(days=27), State.ENDS_SOON), (timedelta(days=31), State.EXPIRED)],
)
def test_what_ends_is_a_trouble(store: Store, later: timedelta, state: State) -> None:
    found = survey(store, trust_anchors=anchors(), now=NOW + later)
    (info, *_) = [entry for entry in found.entries if entry.kind == "sgx_tcb_info"]
    assert info.state is state
    assert info.reason is (Reason.COLLATERAL_ENDS_SOON if state is State.ENDS_SOON else Reason.TCB_INFO_EXPIRED)
    assert info in found.troubles


def test_what_does_not_verify_is_refused(store: Store) -> None:
    found = survey(store, trust_anchors=INTEL, now=NOW)
    assert {entry.state for entry in found.entries} == {State.REFUSED}
    assert all(entry.reason and entry.why for entry in found.entries)


def test_the_forecast_says_who_falls_and_what_is_short(store: Store) -> None:
    (forecast,) = survey(store, trust_anchors=anchors(), now=NOW).forecasts
    assert (forecast.name, forecast.tee, forecast.next_number) == (FMSPC, "SGX", forecast.number + 1)
    (one,) = forecast.platforms
    assert (one.count, one.tcbm, one.before, one.after) == (1, TCBM, "UpToDate", "OutOfDate")
    own = platform().model.cpu_svn[2]
    assert one.short == (f"component 3 is {own}, {own + 3} is wanted",)
    assert one.raised_by == "2026-11-01"
    assert forecast.falling == 1
    assert [(change.before, change.after) for change in forecast.changes] == [
        (None, "UpToDate"),
        ("UpToDate", "OutOfDate"),
    ]
    assert forecast.changes[1].advisories == ("INTEL-SA-99999",)


def test_an_early_document_of_the_same_number_is_no_forecast(tmp_path: Path) -> None:
    def same(inner: dict[str, Any]) -> None:
        inner["tcbEvaluationDataNumber"] -= 1

    opened = Store.open(tmp_path / "pccs.sqlite")
    upload = parse_upload(encode(with_early(upload_document(), same)), api_version=4)
    admit(upload, opened, trust_anchors=anchors(), now=NOW)
    assert survey(opened, trust_anchors=anchors(), now=NOW).forecasts == ()
    opened.close()


def test_platforms_are_placed_as_verifiers_place_them() -> None:
    def level(svn: int, status: str) -> dict[str, Any]:
        components = [{"svn": svn}] * 16
        return {"tcb": {"sgxtcbcomponents": components, "pcesvn": svn}, "tcbStatus": status, "tcbDate": "2020-01-01"}

    document = {"tcbInfo": {"tcbEvaluationDataNumber": 3, "tcbLevels": [level(5, "UpToDate"), level(2, "OutOfDate")]}}
    number, levels = levels_of(json.dumps(document).encode())
    assert number == 3
    for svn, status in ((6, "UpToDate"), (5, "UpToDate"), (4, "OutOfDate"), (2, "OutOfDate"), (1, None)):
        found = place(f"{svn:02x}" * 16 + f"{svn:02x}00", levels)
        assert (found and found.status) == status
    low_pce = place("05" * 16 + "0300", levels)
    assert low_pce is not None
    assert low_pce.status == "OutOfDate"
    assert fall("01" * 16 + "0100", 7, levels, levels).after == NO_LEVEL
    assert compare(levels, levels) == ()


def test_a_census_is_taken_once_for_as_long_as_nothing_changes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack on an operator's patience: a million platforms counted anew each minute."""
    census = Census.take(store)
    whole = survey(store, trust_anchors=anchors(), now=NOW)
    for name in ("fleet_size", "fleet_tcbs", "certificate_counts", "certificates"):
        monkeypatch.setattr(store, name, None)
    assert survey(store, trust_anchors=anchors(), now=NOW, census=census) == whole
