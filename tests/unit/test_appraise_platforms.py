"""What policy asks of a platform and its documents: status and grace, advisories, set-up, freshness, the floor."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from eaa.appraise.appraisal import Appraiser, appraise
from eaa.appraise.floor import EvaluationFloor, evaluation_numbers
from eaa.appraise.policy import Policy
from eaa.appraise.reference_values import ReferenceValues
from eaa.appraise.result import Accepted, Check, Rejected, Role
from eaa.collateral.intel import TCBLevel, TCBStatus
from eaa.errors import Misuse, Reason
from eaa.verify.dcap import VerifiedQuote
from eaa.verify.tcb import TCBFacts
from support.facts import MR_TD, NOW, OTHER_ROOT, ROOT, reference_value, tcb_facts, td_report, verified

UPDATE: Final = datetime(2026, 11, 1, tzinfo=UTC)
"""The day of the update that the platform below has missed."""
VALUES: Final = ReferenceValues((reference_value(), reference_value("domain", mr_enclave=None, mr_td=MR_TD)))
OUT: Final = TCBStatus.OUT_OF_DATE


def judge(facts: VerifiedQuote, policy: Policy | None = None, **more: Any) -> Accepted | Rejected:
    return appraise(facts, policy=policy or Policy(), reference_values=VALUES, role=Role.WORKLOAD, session=None, **more)


def policy(**fields: Any) -> Policy:
    return Policy(**fields)


def failed(result: Accepted | Rejected) -> list[tuple[str, Reason]]:
    return [(check.name, check.reason) for check in result.checks if not check.passed]


def check_of(result: Accepted | Rejected, name: str) -> Check:
    return next(check for check in result.checks if check.name == name)


def behind(status: TCBStatus = OUT, **changes: Any) -> VerifiedQuote:
    """The facts of a platform that has missed one update, in its first component."""
    level = tcb_facts().current.platform.level
    above = replace(level, sgx_components=(2, *level.sgx_components[1:]), tcb_date=UPDATE)
    own = replace(level, tcb_date=UPDATE - timedelta(days=200), tcb_status=status)
    return verified(tcb_status=status, tcb=facts_at(own, above, own), **changes)


def facts_at(level: TCBLevel, *levels: TCBLevel) -> TCBFacts:
    old = tcb_facts()
    info = replace(old.current.platform.tcb_info, tcb_levels=levels)
    evaluation = replace(
        old.current,
        tcb_status=level.tcb_status,
        platform=replace(old.current.platform, level=level, tcb_info=info),
    )
    return replace(old, tcb_status=level.tcb_status, current=evaluation, launch=evaluation)


# --- a grace for a status


def days(number: int) -> timedelta:
    return timedelta(days=number)


@pytest.mark.parametrize(
    ("grace", "at", "passes"),
    [
        pytest.param(((OUT, days(30)),), UPDATE + days(30), True, id="on the last day"),
        pytest.param(
            ((OUT, days(30)),),
            UPDATE
            + days(
                30,
            )
            + timedelta(seconds=1),
            False,
            id="a second later",
        ),
        pytest.param(((OUT, days(30)),), UPDATE - days(1), True, id="before the update"),
        pytest.param((), UPDATE, False, id="none"),
        pytest.param(((TCBStatus.CONFIGURATION_NEEDED, days(300)),), UPDATE, False, id="for another status"),
        pytest.param(
            ((TCBStatus.CONFIGURATION_NEEDED, days(300)), (OUT, days(1))), UPDATE + days(1), True, id="each its own"
        ),
        pytest.param(((OUT, days(365)),), datetime.max.replace(tzinfo=UTC), False, id="at the end of the calendar"),
    ],
)
def test_a_status_can_have_a_grace_from_the_update_on(
    grace: tuple[tuple[TCBStatus, timedelta], ...],
    at: datetime,
    passes: bool,  # noqa: FBT001
) -> None:
    result = judge(behind(verified_at=at), Policy(status_grace=grace))
    assert failed(result) == ([] if passes else [("tcb_status", Reason.TCB_STATUS_NOT_ALLOWED)])
    actual = check_of(result, "tcb_status").actual
    assert actual == "OutOfDate, behind since 2026-11-01; SGX component 1 is 0, 2 is needed"


def test_where_nobody_knows_since_when_there_is_no_grace() -> None:
    """A status that no update leads out of; counting from nowhere would be counting for ever."""
    level = replace(tcb_facts().current.platform.level, tcb_status=TCBStatus.CONFIGURATION_NEEDED)
    facts = verified(tcb_status=TCBStatus.CONFIGURATION_NEEDED, tcb=facts_at(level, level))
    result = judge(facts, Policy(status_grace=((TCBStatus.CONFIGURATION_NEEDED, days(365)),)))
    assert failed(result) == [("tcb_status", Reason.TCB_STATUS_NOT_ALLOWED)]


def test_what_an_expired_grace_says_is_told() -> None:
    check = check_of(judge(behind(), Policy(status_grace=((OUT, days(7)),))), "tcb_status")
    assert check.expected == "UpToDate, or OutOfDate for 7 days"
    assert check.clause == "policy allowed_tcb_statuses, status_grace_days"


def test_a_grace_that_ran_out_is_not_remembered_as_running() -> None:
    appraiser = Appraiser(policy=Policy(status_grace=((OUT, days(30)),)), reference_values=VALUES, role=Role.WORKLOAD)
    early, late = behind(verified_at=UPDATE), behind(verified_at=UPDATE + days(31))
    late = replace(late, tcb=early.tcb)
    answers = [isinstance(appraiser.appraise(facts, session=None), Accepted) for facts in (early, late, early, late)]
    assert answers == [True, False, True, False]


# --- advisories


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        pytest.param({}, [], id="any"),
        pytest.param({"denied_advisories": ("INTEL-SA-00003",)}, [], id="another one denied"),
        pytest.param({"denied_advisories": ("INTEL-SA-00001",)}, ["denied_advisories"], id="one denied"),
        pytest.param({"denied_advisories": ("INTEL-SA-00002",)}, ["denied_advisories"], id="that of the launch denied"),
        pytest.param({"allowed_advisories": ("INTEL-SA-00001", "INTEL-SA-00002")}, [], id="both allowed"),
        pytest.param({"allowed_advisories": ("INTEL-SA-00001",)}, ["allowed_advisories"], id="one allowed of two"),
        pytest.param({"allowed_advisories": ()}, ["allowed_advisories"], id="none allowed"),
        pytest.param(
            {"allowed_advisories": ("INTEL-SA-00001", "INTEL-SA-00002"), "denied_advisories": ("INTEL-SA-00001",)},
            ["denied_advisories"],
            id="allowed and denied",
        ),
    ],
)
def test_advisories_are_allowed_and_denied_by_name(fields: dict[str, Any], wrong: list[str]) -> None:
    facts = verified(advisory_ids=("INTEL-SA-00001",), launch_advisory_ids=("INTEL-SA-00001", "INTEL-SA-00002"))
    assert failed(judge(facts, policy(**fields))) == [(name, Reason.ADVISORY_NOT_ALLOWED) for name in wrong]


def test_a_platform_without_advisories_passes_the_emptiest_list() -> None:
    result = judge(verified(), Policy(allowed_advisories=()))
    assert isinstance(result, Accepted)
    check = check_of(result, "allowed_advisories")
    assert (check.expected, check.actual) == ("nothing but none", "none")


# --- how the platform was set up


@pytest.mark.parametrize(
    ("name", "fact"),
    [("dynamic_platform", "dynamic_platform"), ("cached_keys", "cached_keys"), ("smt", "smt_enabled")],
)
def test_how_a_platform_was_set_up_can_be_refused(name: str, fact: str) -> None:
    """A certificate that does not tell is no promise."""
    strict = policy(**{f"refuse_{name}": True})
    yes, no, untold = ({fact: value} for value in (True, False, None))
    assert isinstance(judge(verified(None, **yes)), Accepted)
    assert isinstance(judge(verified(None, **no), strict), Accepted)
    assert failed(judge(verified(None, **yes), strict)) == [(name, Reason.PLATFORM_NOT_ALLOWED)]
    assert failed(judge(verified(None, **untold), strict)) == [(name, Reason.PLATFORM_NOT_ALLOWED)]


# --- a grace for a document


@pytest.mark.parametrize(
    ("fields", "document", "hours", "passes"),
    [
        pytest.param({"collateral_grace": 24}, "TCB Info", 24, True, id="common"),
        pytest.param({"collateral_grace": 24}, "TCB Info", 25, False, id="longer than common"),
        pytest.param({"tcb_info_grace": 24}, "TCB Info", 24, True, id="TCB Info"),
        pytest.param({"tcb_info_grace": 24}, "QE identity", 1, False, id="of TCB Info, for QE identity"),
        pytest.param({"tcb_info_grace": 24}, "PCK CRL", 1, False, id="of TCB Info, for a CRL"),
        pytest.param({"qe_identity_grace": 24}, "QE identity", 24, True, id="QE identity"),
        pytest.param({"crl_grace": 24}, "PCK CRL", 24, True, id="PCK CRL"),
        pytest.param({"crl_grace": 24}, "root CRL", 24, True, id="root CRL"),
        pytest.param({"crl_grace": 24}, "TCB Info", 1, False, id="of CRLs, for TCB Info"),
        pytest.param({"collateral_grace": 24, "crl_grace": 0}, "root CRL", 1, False, id="none for CRLs"),
        pytest.param(
            {"collateral_grace": 24, "crl_grace": 0}, "TCB Info", 1, True, id="none for CRLs, common for rest"
        ),
    ],
)
def test_each_kind_of_document_can_have_its_own_grace(
    fields: dict[str, int],
    document: str,
    hours: int,
    passes: bool,  # noqa: FBT001
) -> None:
    asked = policy(**{name: timedelta(hours=number) for name, number in fields.items()})
    facts = verified(collateral_expired=((document, NOW - timedelta(hours=hours)),))
    result = judge(facts, asked)
    assert failed(result) == ([] if passes else [("collateral_freshness", Reason.COLLATERAL_EXPIRED)])
    assert document in check_of(result, "collateral_freshness").actual


def test_verification_is_told_the_longest_grace_and_appraisal_is_exact() -> None:
    asked = Policy(collateral_grace=timedelta(hours=2), crl_grace=timedelta(hours=9), tcb_info_grace=timedelta(0))
    assert asked.longest_grace == timedelta(hours=9)
    assert Policy().longest_grace == timedelta(0)
    both = (("TCB Info", NOW - timedelta(hours=1)), ("PCK CRL", NOW - timedelta(hours=8)))
    assert failed(judge(verified(collateral_expired=both), asked)) == [
        ("collateral_freshness", Reason.COLLATERAL_EXPIRED)
    ]


# --- a floor that only rises

SGX_INFO: Final = (ROOT, "sgx-tcb-info")
SGX_IDENTITY: Final = (ROOT, "sgx-qe-identity")


@pytest.mark.parametrize(
    ("numbers", "passes"),
    [
        pytest.param({}, True, id="nothing seen"),
        pytest.param({SGX_INFO: 17, SGX_IDENTITY: 17}, True, id="the same seen"),
        pytest.param({SGX_INFO: 16}, True, id="a lower one seen"),
        pytest.param({SGX_INFO: 18}, False, id="a later TCB Info seen"),
        pytest.param({SGX_IDENTITY: 18}, False, id="a later QE identity seen"),
        pytest.param({(ROOT, "tdx-tcb-info"): 18}, True, id="a later one for domains seen"),
        pytest.param({(OTHER_ROOT, "sgx-tcb-info"): 18}, True, id="a later one under another root seen"),
    ],
)
def test_a_document_older_than_one_that_was_seen_is_refused(
    numbers: dict[tuple[bytes, str], int],
    passes: bool,  # noqa: FBT001
) -> None:
    result = judge(verified(), floor=EvaluationFloor(numbers))
    assert failed(result) == ([] if passes else [("evaluation_floor", Reason.EVALUATION_NUMBER_TOO_LOW)])


def test_the_numbers_are_those_of_the_two_documents() -> None:
    facts = verified(td_report(), tcb_info_evaluation_number=20, qe_identity_evaluation_number=19)
    assert evaluation_numbers(facts) == {(ROOT, "tdx-tcb-info"): 20, (ROOT, "tdx-qe-identity"): 19}


def test_a_floor_only_rises() -> None:
    floor = EvaluationFloor({SGX_INFO: 17})
    raised = floor.raised_by({SGX_INFO: 16, SGX_IDENTITY: 5}).raised_by({SGX_INFO: 18}).raised_by({SGX_IDENTITY: 4})
    assert raised.numbers == {SGX_INFO: 18, SGX_IDENTITY: 5}
    assert floor.raised_by({SGX_INFO: 17}) is floor


def test_a_floor_reads_back() -> None:
    floor = EvaluationFloor({SGX_INFO: 17, (OTHER_ROOT, "tdx-tcb-info"): 0})
    assert EvaluationFloor.parse(floor.encode()) == floor
    assert EvaluationFloor.parse(EvaluationFloor().encode()) == EvaluationFloor()


ENTRY: Final = '{"trust_anchor": "' + "00" * 32 + '", "document": "sgx-tcb-info", "number": 1}'


def floors(*entries: str) -> str:
    return '{"format": "eaa-evaluation-floor-1", "floors": [' + ",".join(entries) + "]}"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("[]", id="a list"),
        pytest.param("{}", id="no format"),
        pytest.param('{"format": "eaa-evaluation-floor-2", "floors": []}', id="another release's"),
        pytest.param('{"format": "eaa-evaluation-floor-1", "floors": {}}', id="no list"),
        pytest.param(floors(*[ENTRY] * 1025), id="too many"),
        pytest.param(floors(ENTRY, ENTRY), id="twice"),
        pytest.param(floors("{}"), id="an empty entry"),
        pytest.param(floors("1"), id="no entry"),
        pytest.param(floors(ENTRY.replace("00", "0", 1)), id="a short anchor"),
        pytest.param(floors(ENTRY.replace("1}", "-1}")), id="a negative number"),
        pytest.param(floors(ENTRY.replace("1}", "true}")), id="true for a number"),
        pytest.param(floors(ENTRY.replace("1}", '"1"}')), id="a number in quotes"),
        pytest.param(floors(ENTRY.replace('"sgx-tcb-info"', "1")), id="a document that is no text"),
        pytest.param("[" * 100_000, id="nested without end"),
        pytest.param(" " * (1 << 20), id="too long"),
    ],
)
def test_a_floor_that_cannot_be_read_is_never_taken_for_none(text: str) -> None:
    with pytest.raises(Misuse) as caught:
        EvaluationFloor.parse(text)
    assert caught.value.reason is Reason.EVALUATION_FLOOR_INVALID
