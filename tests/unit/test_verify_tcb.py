"""TCB levels and their convergence, against Intel's own table."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest

from eaa.collateral.intel import QEIdentity, SVNLevel, TCBInfo, TCBStatus
from eaa.errors import MalformedInput, Reason, VerificationError
from eaa.evidence.quote import TEEType
from eaa.verify.tcb import (
    Shortfall,
    TCBEvaluation,
    TCBFacts,
    compare_with_launch,
    converge,
    evaluate_tcb,
    match_platform_level,
    match_svn_level,
    select_tdx_module,
)
from support.dcap_world import compact, module_fields, qe_identity, tcb_info

UP, OLD, REVOKED = TCBStatus.UP_TO_DATE, TCBStatus.OUT_OF_DATE, TCBStatus.REVOKED
SW, CONFIG = TCBStatus.SW_HARDENING_NEEDED, TCBStatus.CONFIGURATION_NEEDED
BOTH, OLD_CONFIG = TCBStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED, TCBStatus.OUT_OF_DATE_CONFIGURATION_NEEDED

FIVES = (5,) * 16
TDX_FIVES = bytes((5, 1, *(5,) * 14))


def sgx_info(**changes: Any) -> TCBInfo:
    return TCBInfo.parse(compact(tcb_info(TEEType.SGX) | changes))


def tdx_info(**changes: Any) -> TCBInfo:
    return TCBInfo.parse(compact(tcb_info(TEEType.TDX) | changes))


def level(svn: int | list[int], status: str = "UpToDate", *, tdx: list[int] | None = None, pce: int = 11) -> Any:
    components = [svn] * 16 if isinstance(svn, int) else svn
    tcb: dict[str, Any] = {"sgxtcbcomponents": [{"svn": item} for item in components], "pcesvn": pce}
    if tdx is not None:
        tcb["tdxtcbcomponents"] = [{"svn": item} for item in tdx]
    return {"tcb": tcb, "tcbDate": "2024-01-01T00:00:00Z", "tcbStatus": status}


def status_of(info: TCBInfo, components: tuple[int, ...], *, pce_svn: int = 13, tdx: bytes | None = None) -> str:
    found = match_platform_level(info, tcb_components=components, pce_svn=pce_svn, tee_tcb_svn=tdx)
    return found.tcb_status


def refused(*args: Any, **keywords: Any) -> Reason:
    with pytest.raises(VerificationError) as caught:
        status_of(*args, **keywords)
    return caught.value.reason


# --- the platform's level


@pytest.mark.parametrize(("svn", "expected"), [(9, UP), (5, UP), (4, OLD), (3, REVOKED), (2, REVOKED)])
def test_the_highest_level_that_is_reached_counts(svn: int, expected: TCBStatus) -> None:
    assert status_of(sgx_info(), (svn,) * 16) == expected


def test_below_all_levels_is_not_supported() -> None:
    assert refused(sgx_info(), (1,) * 16) is Reason.TCB_NOT_SUPPORTED


def test_no_levels_at_all_is_not_supported() -> None:
    assert refused(sgx_info(tcbLevels=[]), FIVES) is Reason.TCB_NOT_SUPPORTED


@pytest.mark.parametrize("index", range(16))
def test_every_component_counts(index: int) -> None:
    lowered = tuple(4 if position == index else 9 for position in range(16))
    assert status_of(sgx_info(), lowered) == OLD


def test_a_high_component_does_not_make_up_for_a_low_one() -> None:
    """Component by component, never as one long number."""
    assert status_of(sgx_info(), (255, 4, *(5,) * 14)) == OLD
    assert status_of(sgx_info(), (4, *(255,) * 15)) == OLD


@pytest.mark.parametrize(("pce_svn", "expected"), [(10, OLD), (11, UP), (12, UP)])
def test_the_pce_counts(pce_svn: int, expected: TCBStatus) -> None:
    info = sgx_info(tcbLevels=[level(5), level(4, "OutOfDate", pce=10)])
    assert status_of(info, FIVES, pce_svn=pce_svn) == expected


def test_a_pce_below_all_levels_is_not_supported() -> None:
    assert refused(sgx_info(), FIVES, pce_svn=10) is Reason.TCB_NOT_SUPPORTED


@pytest.mark.parametrize("reverse", [False, True])
def test_the_documents_order_does_not_matter(*, reverse: bool) -> None:
    levels = tcb_info(TEEType.SGX)["tcbLevels"]
    info = sgx_info(tcbLevels=levels[::-1] if reverse else levels)
    assert status_of(info, FIVES) == UP
    assert status_of(info, (4,) * 16) == OLD


def test_levels_are_ordered_by_pce_where_components_are_equal() -> None:
    info = sgx_info(tcbLevels=[level(5, "OutOfDate", pce=5), level(5, "UpToDate", pce=13)])
    assert status_of(info, FIVES, pce_svn=13) == UP
    assert status_of(info, FIVES, pce_svn=12) == OLD


def test_levels_are_ordered_by_tdx_components_last() -> None:
    low, high = [0, 0, *[1] * 14], [0, 0, *[5] * 14]
    info = tdx_info(tcbLevels=[level(5, "OutOfDate", tdx=low), level(5, "UpToDate", tdx=high)])
    assert status_of(info, FIVES, tdx=TDX_FIVES) == UP
    assert status_of(info, FIVES, tdx=bytes((5, 1, *(4,) * 14))) == OLD


@pytest.mark.parametrize("index", range(2, 16))
def test_every_tdx_component_from_2_counts(index: int) -> None:
    lowered = bytearray(TDX_FIVES)
    lowered[index] = 4
    assert status_of(tdx_info(), FIVES, tdx=bytes(lowered)) == OLD


def test_with_a_module_version_components_0_and_1_are_the_modules_business() -> None:
    info = tdx_info(tcbLevels=[level(5, tdx=[9, 9, *[5] * 14])])
    assert status_of(info, FIVES, tdx=TDX_FIVES) == UP


@pytest.mark.parametrize("index", [0, 1])
def test_without_a_module_version_components_0_and_1_count(index: int) -> None:
    wanted = [0] * 16
    wanted[index] = 1
    info = tdx_info(tcbLevels=[level(5, tdx=wanted), level(4, "OutOfDate", tdx=[0] * 16)])
    assert status_of(info, FIVES, tdx=bytes(16)) == OLD
    assert status_of(info, FIVES, tdx=bytes((1, 0, *(0,) * 14))) == (UP if index == 0 else OLD)


def test_a_document_for_sgx_has_no_level_for_a_domain() -> None:
    assert refused(sgx_info(), FIVES, tdx=TDX_FIVES) is Reason.TCB_NOT_SUPPORTED


# --- levels of one SVN


def svn_levels(*pairs: tuple[int, TCBStatus]) -> tuple[SVNLevel, ...]:
    date = datetime(2024, 1, 1, tzinfo=UTC)
    return tuple(SVNLevel(isv_svn=svn, tcb_date=date, tcb_status=status, advisory_ids=()) for svn, status in pairs)


@pytest.mark.parametrize(("svn", "expected"), [(9, UP), (8, UP), (7, OLD), (5, OLD), (4, REVOKED), (1, REVOKED)])
def test_the_highest_svn_that_is_reached_counts(svn: int, expected: TCBStatus) -> None:
    levels = svn_levels((5, OLD), (8, UP), (1, REVOKED))
    assert match_svn_level(levels, svn=svn, what="quoting enclave").tcb_status is expected


@pytest.mark.parametrize("levels", [(), svn_levels((5, UP))])
def test_an_svn_below_all_levels_is_not_supported(levels: tuple[SVNLevel, ...]) -> None:
    with pytest.raises(VerificationError) as caught:
        match_svn_level(levels, svn=4, what="quoting enclave")
    assert caught.value.reason is Reason.TCB_NOT_SUPPORTED


@pytest.mark.parametrize("status", sorted(set(TCBStatus) - {UP, OLD, REVOKED}))
def test_a_module_level_with_a_platforms_status_is_not_supported(status: TCBStatus) -> None:
    """And a lower level does not step in for it."""
    with pytest.raises(VerificationError) as caught:
        match_svn_level(svn_levels((5, status), (4, UP)), svn=5, what="TDX module")
    assert caught.value.reason is Reason.TCB_NOT_SUPPORTED


# --- the TDX module


@pytest.mark.parametrize("major", [1, 3])
def test_a_module_is_selected_by_its_major_version(major: int) -> None:
    module = select_tdx_module(tdx_info(), tee_tcb_svn=bytes((5, major, *(0,) * 14)))
    assert getattr(module, "id", None) == f"TDX_{major:02X}"


def test_a_module_without_a_version_is_the_one_of_the_document() -> None:
    info = tdx_info(tdxModule=module_fields() | {"mrsigner": "11" * 48})
    assert select_tdx_module(info, tee_tcb_svn=bytes(16)) is info.tdx_module


@pytest.mark.parametrize(("major", "spelling"), [(10, "TDX_0A"), (10, "TDX_0a"), (171, "tdx_ab")])
def test_module_names_are_hex(major: int, spelling: str) -> None:
    identity = {"id": spelling, **module_fields(), "tcbLevels": []}
    info = tdx_info(tdxModuleIdentities=[identity])
    assert getattr(select_tdx_module(info, tee_tcb_svn=bytes((0, major))), "id", None) == f"TDX_{major:02X}"


@pytest.mark.parametrize("identities", [None, [], [{"id": "TDX_02", **module_fields(), "tcbLevels": []}]])
def test_an_unknown_module_is_a_mismatch(identities: list[Any] | None) -> None:
    document = tcb_info(TEEType.TDX)
    del document["tdxModuleIdentities"]
    if identities is not None:
        document["tdxModuleIdentities"] = identities
    with pytest.raises(VerificationError) as caught:
        select_tdx_module(TCBInfo.parse(compact(document)), tee_tcb_svn=TDX_FIVES)
    assert caught.value.reason is Reason.TDX_MODULE_MISMATCH


def test_an_identity_of_version_0_is_never_selected() -> None:
    identity = {"id": "TDX_00", **module_fields(), "tcbLevels": []}
    with pytest.raises(VerificationError) as caught:
        select_tdx_module(sgx_info(tdxModuleIdentities=[identity]), tee_tcb_svn=bytes(16))
    assert caught.value.reason is Reason.TDX_MODULE_MISMATCH


# --- convergence

CONVERGENCE = {UP: OLD, SW: OLD, CONFIG: OLD_CONFIG, BOTH: OLD_CONFIG, OLD: OLD, OLD_CONFIG: OLD_CONFIG}


@pytest.mark.parametrize(("platform", "expected"), CONVERGENCE.items())
def test_a_component_out_of_date_is_intels_table(platform: TCBStatus, expected: TCBStatus) -> None:
    """Not the worse of the two: ConfigurationNeeded with an old component keeps its configuration."""
    assert converge(platform, {"quoting enclave": OLD}) is expected
    assert converge(platform, {"quoting enclave": UP, "TDX module": OLD}) is expected
    assert converge(platform, {"quoting enclave": OLD, "TDX module": UP}) is expected


@pytest.mark.parametrize("platform", CONVERGENCE)
def test_components_up_to_date_change_nothing(platform: TCBStatus) -> None:
    assert converge(platform, {}) is platform
    assert converge(platform, {"quoting enclave": UP, "TDX module": UP}) is platform


@pytest.mark.parametrize(
    ("platform", "enclave", "module"),
    [
        (*statuses,)
        for statuses in product([*CONVERGENCE, REVOKED], [UP, OLD, REVOKED], [UP, OLD, REVOKED])
        if REVOKED in statuses
    ],
)
def test_anything_revoked_is_an_error(platform: TCBStatus, enclave: TCBStatus, module: TCBStatus) -> None:
    with pytest.raises(VerificationError) as caught:
        converge(platform, {"quoting enclave": enclave, "TDX module": module})
    assert caught.value.reason is Reason.TCB_REVOKED


# --- all together


def evaluate(info: TCBInfo, *, qe_svn: int = 5, tdx: bytes | None = None, svn: int = 5) -> TCBEvaluation:
    return evaluate_tcb(
        info,
        QEIdentity.parse(compact(qe_identity(TEEType.SGX))),
        tcb_components=(svn,) * 16,
        pce_svn=13,
        qe_isv_svn=qe_svn,
        tee_tcb_svn=tdx,
    )


def test_date_is_the_oldest_and_advisories_are_all() -> None:
    document = tcb_info(TEEType.TDX)
    document["tcbLevels"][0] |= {"advisoryIDs": ["INTEL-SA-00009", "INTEL-SA-00001"]}
    document["tdxModuleIdentities"][1]["tcbLevels"][1]["advisoryIDs"] = ["INTEL-SA-00005"]
    info = TCBInfo.parse(compact(document))
    result = evaluate(info, qe_svn=4, tdx=bytes((4, 1, *(5,) * 14)))
    assert result.tcb_status is OLD
    assert result.tcb_date == datetime(2024, 3, 13, tzinfo=UTC)
    assert result.advisory_ids == ("INTEL-SA-00001", "INTEL-SA-00005", "INTEL-SA-00009")


def test_a_good_tcb_has_no_advisories() -> None:
    result = evaluate(tdx_info(), tdx=TDX_FIVES)
    assert (result.tcb_status, result.advisory_ids) == (UP, ())
    assert result.tcb_date == datetime(2026, 2, 11, tzinfo=UTC)


def test_a_module_without_a_version_has_no_level_of_its_own() -> None:
    info = tdx_info(tcbLevels=[level(5, tdx=[0] * 16)])
    assert evaluate(info, tdx=bytes(16)).tcb_status is UP


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        pytest.param({"svn": 3}, Reason.TCB_REVOKED, id="platform revoked"),
        pytest.param({"svn": 1}, Reason.TCB_NOT_SUPPORTED, id="platform below all"),
        pytest.param({"qe_svn": 3}, Reason.TCB_REVOKED, id="quoting enclave revoked"),
        pytest.param({"qe_svn": 1}, Reason.TCB_NOT_SUPPORTED, id="quoting enclave below all"),
        pytest.param({"tdx": bytes((3, 1, *(5,) * 14))}, Reason.TCB_REVOKED, id="module revoked"),
        pytest.param({"tdx": bytes((1, 1, *(5,) * 14))}, Reason.TCB_NOT_SUPPORTED, id="module below all"),
        pytest.param({"tdx": bytes((5, 2, *(5,) * 14))}, Reason.TDX_MODULE_MISMATCH, id="module unknown"),
    ],
)
def test_what_ends_an_evaluation(keywords: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(VerificationError) as caught:
        evaluate(tdx_info(), **{"tdx": TDX_FIVES, **keywords})
    assert caught.value.reason is reason


# --- what a better status asks for


def with_kinds(document: dict[str, Any]) -> dict[str, Any]:
    for item in document["tcbLevels"]:
        item["tcb"]["sgxtcbcomponents"][2] |= {"category": "OS/VMM", "type": "TXT SINIT"}
        item["tcb"]["sgxtcbcomponents"][3] |= {"category": "BIOS"}
        item["tcb"]["tdxtcbcomponents"][2] |= {"category": "OS/VMM", "type": "TDX Late Microcode Update"}
    return document


def test_each_component_that_is_short_is_named_with_its_kind() -> None:
    info = TCBInfo.parse(compact(with_kinds(tcb_info(TEEType.TDX))))
    components = (5, 5, 4, 4, *(5,) * 12)
    result = evaluate_tcb(
        info,
        QEIdentity.parse(compact(qe_identity(TEEType.TDX))),
        tcb_components=components,
        pce_svn=13,
        qe_isv_svn=4,
        tee_tcb_svn=bytes((4, 1, 4, *(5,) * 13)),
    )
    assert (result.platform.level.tcb_status, result.platform.next_level) == (OLD, info.tcb_levels[0])
    assert result.shortfalls == (
        Shortfall(component="SGX component 3 (OS/VMM, TXT SINIT)", actual=4, needed=5),
        Shortfall(component="SGX component 4 (BIOS)", actual=4, needed=5),
        Shortfall(component="TDX component 3 (OS/VMM, TDX Late Microcode Update)", actual=4, needed=5),
        Shortfall(component="quoting enclave", actual=4, needed=5),
        Shortfall(component="TDX module", actual=4, needed=5),
    )
    assert str(result.shortfalls[-1]) == "TDX module is 4, 5 is needed"


def test_the_modules_own_components_are_none_of_the_platforms_shortfalls() -> None:
    info = tdx_info(tcbLevels=[level(5, tdx=[9, 9, *[6] * 14]), level(4, "OutOfDate", tdx=[0] * 16)])
    found = evaluate(info, tdx=TDX_FIVES).platform.shortfalls
    assert [item.component for item in found] == [f"TDX component {number}" for number in range(3, 17)]


def test_the_pce_can_be_what_is_short() -> None:
    info = sgx_info(tcbLevels=[level(5, pce=14), level(5, "OutOfDate", pce=5)])
    assert evaluate(info).platform.shortfalls == (Shortfall(component="PCE", actual=13, needed=14),)


def test_the_next_level_is_the_nearest_that_is_better() -> None:
    """Not the best, and none that is higher and no better."""
    levels = [level(9), level(8, "SWHardeningNeeded"), level(7, "OutOfDate"), level(5, "OutOfDate")]
    info = sgx_info(tcbLevels=levels)
    assert evaluate(info).platform.next_level == info.tcb_levels[1]


@pytest.mark.parametrize(
    "levels",
    [
        pytest.param([level(5)], id="there is no other"),
        pytest.param([level(9, "OutOfDate"), level(5, "ConfigurationNeeded")], id="the one above is worse"),
        pytest.param([level(5, "ConfigurationNeeded"), level(4)], id="a better one is below"),
    ],
)
def test_where_updates_lead_to_nothing_better_there_is_no_next_level(levels: list[Any]) -> None:
    match = evaluate(sgx_info(tcbLevels=levels)).platform
    assert (match.next_level, match.shortfalls) == (None, ())


def test_a_refusal_names_what_is_short_even_for_the_lowest_level() -> None:
    with pytest.raises(VerificationError) as caught:
        evaluate(tdx_info(), svn=1, tdx=TDX_FIVES)
    assert "SGX component 1 is 1, 2 is needed" in caught.value.message
    assert "and more" in caught.value.message
    with pytest.raises(VerificationError) as caught:
        status_of(sgx_info(), FIVES, pce_svn=10)
    assert caught.value.message.endswith("PCE is 10, 11 is needed")


@pytest.mark.parametrize(("short", "ends"), [(1, "is needed"), (4, "is needed"), (5, ", and more")])
def test_a_refusal_names_four_shortfalls_and_says_where_there_are_more(short: int, ends: str) -> None:
    with pytest.raises(VerificationError) as caught:
        status_of(sgx_info(tcbLevels=[level(5)]), (4,) * short + (5,) * (16 - short))
    assert caught.value.message.endswith(ends)
    assert caught.value.message.count("is 4, 5 is needed") == min(short, 4)


# --- launch and present

WITH_LAUNCH = [UP, SW, CONFIG, BOTH, OLD, OLD_CONFIG]


def evaluation_of(status: TCBStatus) -> TCBEvaluation:
    """An evaluation of a module that is up to date or not, on a platform of that status."""
    levels = [level(5, status, tdx=[0, 0, *[5] * 14])]
    return evaluate(tdx_info(tcbLevels=levels), tdx=TDX_FIVES)


def facts_of(launch: TCBStatus, current: TCBStatus) -> TCBFacts:
    return compare_with_launch(evaluation_of(launch), evaluation_of(current))


@pytest.mark.parametrize("current", WITH_LAUNCH)
@pytest.mark.parametrize("launch", [UP, SW, CONFIG, BOTH])
def test_a_launch_that_was_not_too_old_is_what_counts(launch: TCBStatus, current: TCBStatus) -> None:
    assert facts_of(launch, current).tcb_status is launch


@pytest.mark.parametrize("current", [OLD, OLD_CONFIG])
@pytest.mark.parametrize("launch", [OLD, OLD_CONFIG])
def test_launched_too_old_and_still_too_old_is_the_launchs_status(launch: TCBStatus, current: TCBStatus) -> None:
    assert facts_of(launch, current).tcb_status is launch


@pytest.mark.parametrize(
    ("launch", "current", "expected"),
    [
        (OLD, UP, "TDRelaunchAdvised"),
        (OLD, SW, "TDRelaunchAdvised"),
        (OLD, CONFIG, "TDRelaunchAdvisedConfigurationNeeded"),
        (OLD, BOTH, "TDRelaunchAdvisedConfigurationNeeded"),
        (OLD_CONFIG, UP, "TDRelaunchAdvisedConfigurationNeeded"),
        (OLD_CONFIG, SW, "TDRelaunchAdvisedConfigurationNeeded"),
        (OLD_CONFIG, CONFIG, "TDRelaunchAdvisedConfigurationNeeded"),
        (OLD_CONFIG, BOTH, "TDRelaunchAdvisedConfigurationNeeded"),
    ],
)
def test_launched_too_old_and_updated_since_is_intels_advice(
    launch: TCBStatus, current: TCBStatus, expected: str
) -> None:
    assert facts_of(launch, current).tcb_status == expected


def test_no_level_has_the_status_of_a_domain() -> None:
    """A document that says so is malformed: the advice follows from two evaluations, and from nothing else."""
    for status in ("TDRelaunchAdvised", "TDRelaunchAdvisedConfigurationNeeded"):
        with pytest.raises(MalformedInput) as caught:
            tdx_info(tcbLevels=[level(5, status, tdx=[0] * 16)])
        assert caught.value.reason is Reason.TCB_INFO_MALFORMED


@pytest.mark.parametrize("kind", [{"category": 7}, {"type": None}, {"type": "x" * 65}, {"category": "a\nb"}])
def test_the_kind_of_a_component_is_a_short_text(kind: dict[str, Any]) -> None:
    document = tcb_info(TEEType.SGX)
    document["tcbLevels"][0]["tcb"]["sgxtcbcomponents"][0] |= kind
    with pytest.raises(MalformedInput) as caught:
        TCBInfo.parse(compact(document))
    assert caught.value.reason is Reason.TCB_INFO_MALFORMED
