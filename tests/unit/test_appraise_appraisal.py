"""Appraisal: every check passes and fails for its own reason, all of them run, and the first failure explains most."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import pytest

from eaa.appraise.appraisal import SessionBinding, appraise, identity_of, measurement_of, reject_missing_evidence
from eaa.appraise.policy import Policy
from eaa.appraise.reference_values import ReferenceValues
from eaa.appraise.result import Accepted, Attests, BindingLevel, Check, Rejected, Role
from eaa.collateral.intel import TCBStatus
from eaa.errors import Misuse, Reason
from eaa.verify.dcap import VerifiedQuote
from support.facts import (
    DEBUG,
    MR_ENCLAVE,
    MR_SIGNER,
    MR_TD,
    NOW,
    OTHER_ROOT,
    REPORT_DATA,
    enclave_report,
    quote_of,
    reference_value,
    td_report,
    verified,
)

FRESH = SessionBinding(evidence=quote_of(enclave_report()).encode(), report_data=REPORT_DATA, level=BindingLevel.FRESH)


def judge(
    facts: VerifiedQuote | None = None,
    *values: Any,
    policy: Policy | None = None,
    role: Role = Role.WORKLOAD,
    session: SessionBinding | None = None,
    expected_report_data: bytes | None = None,
) -> Accepted | Rejected:
    return appraise(
        facts or verified(),
        policy=policy or Policy(),
        reference_values=ReferenceValues(values),
        role=role,
        session=session,
        expected_report_data=expected_report_data,
    )


def session_of(facts: VerifiedQuote, **changes: Any) -> SessionBinding:
    given: dict[str, Any] = {
        "evidence": facts.quote.encode(),
        "report_data": facts.report_data,
        "level": BindingLevel.FRESH,
    }
    return SessionBinding(**(given | changes))


def failed(result: Accepted | Rejected) -> list[Check]:
    return [check for check in result.checks if not check.passed]


# --- the good world


def test_evidence_that_fits_is_accepted_with_the_word_of_its_value() -> None:
    result = judge(verified(), reference_value(attests=Attests.PLATFORM), session=FRESH)
    assert isinstance(result, Accepted)
    assert (result.reference_value, result.attests, result.role) == ("app", Attests.PLATFORM, Role.WORKLOAD)
    assert result.binding is BindingLevel.FRESH
    assert result.evidence_digest == hashlib.sha256(FRESH.evidence).digest()
    assert result.report_data == REPORT_DATA


def test_every_check_is_listed_in_an_acceptance_too() -> None:
    policy = Policy(mr_enclaves=(MR_ENCLAVE,), mr_signers=(MR_SIGNER,), isv_prod_id=7, minimum_isv_svn=3)
    result = judge(verified(), reference_value(mr_signer=MR_SIGNER), policy=policy, session=FRESH)
    assert isinstance(result, Accepted)
    assert [check.name for check in result.checks] == [
        *("report_data", "binding", "measurement", "reference_signer", "debug"),
        *("mr_enclave", "mr_signer", "isv_prod_id", "isv_svn"),
        *("tcb_status", "evaluation_number", "collateral_freshness"),
    ]
    assert all(check.expected and check.actual and check.clause for check in result.checks)


def test_a_document_is_bound_to_no_session() -> None:
    result = judge(verified(), reference_value())
    assert isinstance(result, Accepted)
    assert result.binding is BindingLevel.NONE
    assert {"report_data", "binding"} & {check.name for check in result.checks} == set()


def test_a_trust_domain_is_compared_by_its_mrtd() -> None:
    result = judge(verified(td_report()), reference_value(mr_enclave=None, mr_td=MR_TD))
    assert isinstance(result, Accepted)
    assert measurement_of(td_report()) == MR_TD
    assert identity_of(td_report()) == {"mr_td": MR_TD}


def test_an_enclave_is_known_by_its_measurement_and_signer() -> None:
    assert identity_of(enclave_report()) == {"mr_enclave": MR_ENCLAVE, "mr_signer": MR_SIGNER}


# --- one thing broken


@pytest.mark.parametrize(
    ("facts", "value", "policy", "reason", "name"),
    [
        pytest.param({}, None, {}, Reason.NO_REFERENCE_VALUE, "measurement", id="nothing recorded"),
        pytest.param(
            {}, {"mr_enclave": bytes(32)}, {}, Reason.MEASUREMENT_MISMATCH, "measurement", id="another measurement"
        ),
        pytest.param(
            {}, {"mr_enclave": None, "mr_td": MR_TD}, {}, Reason.MEASUREMENT_MISMATCH, "measurement", id="another TEE"
        ),
        pytest.param({}, {"role": Role.RELAY}, {}, Reason.ROLE_MISMATCH, "measurement", id="another role"),
        pytest.param(
            {}, {"trust_anchor": OTHER_ROOT}, {}, Reason.TRUST_ANCHOR_MISMATCH, "measurement", id="another root"
        ),
        pytest.param({}, {"mr_signer": bytes(32)}, {}, Reason.SIGNER_MISMATCH, "reference_signer", id="another signer"),
        pytest.param(
            {"body": {"attributes": DEBUG}}, {}, {}, Reason.DEBUG_ENCLAVE, "debug", id="an enclave under debug"
        ),
        pytest.param(
            {}, {}, {"mr_enclaves": (bytes(32),)}, Reason.MEASUREMENT_MISMATCH, "mr_enclave", id="policy measurement"
        ),
        pytest.param({}, {}, {"mr_signers": (bytes(32),)}, Reason.SIGNER_MISMATCH, "mr_signer", id="policy signer"),
        pytest.param({}, {}, {"isv_prod_id": 8}, Reason.PRODUCT_MISMATCH, "isv_prod_id", id="policy product"),
        pytest.param({}, {}, {"minimum_isv_svn": 4}, Reason.SVN_TOO_LOW, "isv_svn", id="policy SVN"),
        pytest.param(
            {"tcb_status": TCBStatus.OUT_OF_DATE}, {}, {}, Reason.TCB_STATUS_NOT_ALLOWED, "tcb_status", id="TCB status"
        ),
        pytest.param(
            {},
            {},
            {"minimum_evaluation_number": 18},
            Reason.EVALUATION_NUMBER_TOO_LOW,
            "evaluation_number",
            id="evaluation number",
        ),
        pytest.param(
            {"collateral_expired": (("TCB Info", NOW),)},
            {},
            {},
            Reason.COLLATERAL_EXPIRED,
            "collateral_freshness",
            id="expired collateral without grace",
        ),
    ],
)
def test_one_broken_thing_fails_one_check(
    facts: dict[str, Any], value: dict[str, Any] | None, policy: dict[str, Any], reason: Reason, name: str
) -> None:
    body = enclave_report(**facts.pop("body", {}))
    values = [] if value is None else [reference_value(**value)]
    result = judge(verified(body, **facts), *values, policy=Policy(**policy))
    assert isinstance(result, Rejected)
    assert [(check.reason, check.name) for check in failed(result)] == [(reason, name)]
    assert result.root_cause.reason is reason


@pytest.mark.parametrize(
    ("session", "policy", "reason"),
    [
        pytest.param({"report_data": bytes(64)}, {}, Reason.REPORT_DATA_MISMATCH, id="made for another session"),
        pytest.param({"level": BindingLevel.CERT}, {}, Reason.BINDING_TOO_WEAK, id="bound to the key only"),
        pytest.param({"level": BindingLevel.SESSION}, {}, Reason.BINDING_TOO_WEAK, id="bound to an epoch only"),
        pytest.param(
            {"level": BindingLevel.NONE},
            {"minimum_binding": BindingLevel.CERT},
            Reason.BINDING_TOO_WEAK,
            id="bound to nothing",
        ),
    ],
)
def test_a_session_has_two_checks_of_its_own(session: dict[str, Any], policy: dict[str, Any], reason: Reason) -> None:
    facts = verified()
    result = judge(facts, reference_value(), policy=Policy(**policy), session=session_of(facts, **session))
    assert isinstance(result, Rejected)
    assert [check.reason for check in failed(result)] == [reason]


@pytest.mark.parametrize("level", [BindingLevel.CERT, BindingLevel.SESSION, BindingLevel.FRESH])
def test_a_level_that_policy_allows_is_enough(level: BindingLevel) -> None:
    facts = verified()
    result = judge(
        facts, reference_value(), policy=Policy(minimum_binding=level), session=session_of(facts, level=level)
    )
    assert isinstance(result, Accepted)
    assert result.binding is level


def test_a_document_can_be_asked_for_its_report_data() -> None:
    assert isinstance(judge(verified(), reference_value(), expected_report_data=REPORT_DATA), Accepted)
    result = judge(verified(), reference_value(), expected_report_data=bytes(64))
    assert isinstance(result, Rejected)
    assert result.root_cause.reason is Reason.REPORT_DATA_MISMATCH


def test_a_session_asks_for_its_own_report_data_only() -> None:
    """A caller cannot weaken a session by naming other bytes."""
    facts = verified()
    result = judge(
        facts,
        reference_value(),
        session=session_of(facts, report_data=bytes(64)),
        expected_report_data=facts.report_data,
    )
    assert isinstance(result, Rejected)
    assert result.root_cause.reason is Reason.REPORT_DATA_MISMATCH


# --- what policy opens


@pytest.mark.parametrize(
    ("facts", "policy"),
    [
        pytest.param({"body": {"attributes": DEBUG}}, {"dangerous_accept_debug_enclaves": True}, id="debug"),
        pytest.param(
            {"tcb_status": TCBStatus.SW_HARDENING_NEEDED, "advisory_ids": ("INTEL-SA-00615",)},
            {"allowed_tcb_statuses": (TCBStatus.UP_TO_DATE, TCBStatus.SW_HARDENING_NEEDED)},
            id="TCB status",
        ),
        pytest.param({"collateral_expired": (("PCK CRL", NOW),)}, {"collateral_grace": timedelta(hours=1)}, id="grace"),
        pytest.param({}, {"minimum_evaluation_number": 17, "minimum_isv_svn": 3, "isv_prod_id": 7}, id="just enough"),
    ],
)
def test_what_policy_allows_is_accepted_and_still_told(facts: dict[str, Any], policy: dict[str, Any]) -> None:
    body = enclave_report(**facts.pop("body", {}))
    result = judge(verified(body, **facts), reference_value(), policy=Policy(**policy))
    assert isinstance(result, Accepted)
    told = {check.name: check.actual for check in result.checks}
    assert told["debug"] == ("debug" if body.is_debug else "production")
    assert told["tcb_status"].split() == [str(facts.get("tcb_status", "UpToDate")), *facts.get("advisory_ids", ())]
    assert ("PCK CRL" in told["collateral_freshness"]) == ("collateral_expired" in facts)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ({"mr_enclaves": (MR_ENCLAVE,)}, Reason.MEASUREMENT_MISMATCH),
        ({"mr_signers": (MR_SIGNER,)}, Reason.SIGNER_MISMATCH),
        ({"isv_prod_id": 0}, Reason.PRODUCT_MISMATCH),
        ({"minimum_isv_svn": 1}, Reason.SVN_TOO_LOW),
    ],
)
def test_a_trust_domain_has_none_of_an_enclave_s_fields(policy: dict[str, Any], reason: Reason) -> None:
    """A field that a policy asks for and evidence does not have is a failure, not a pass."""
    result = judge(verified(td_report()), reference_value(mr_enclave=None, mr_td=MR_TD), policy=Policy(**policy))
    assert isinstance(result, Rejected)
    assert [(check.reason, check.actual) for check in failed(result)] == [(reason, "none")]


def test_a_trust_domain_has_no_signer_that_a_value_could_ask_for() -> None:
    value = reference_value(mr_enclave=None, mr_td=MR_TD, mr_signer=MR_SIGNER)
    result = judge(verified(td_report()), value)
    assert isinstance(result, Rejected)
    assert result.root_cause.reason is Reason.SIGNER_MISMATCH


# --- which value matches


def test_two_signers_of_one_measurement_are_told_apart() -> None:
    ours = reference_value("ours", mr_signer=MR_SIGNER)
    theirs = reference_value("theirs", mr_signer=bytes(32))
    for values in ((ours, theirs), (theirs, ours)):
        result = judge(verified(), *values)
        assert isinstance(result, Accepted)
        assert result.reference_value == "ours"


def test_neither_of_two_signers_is_the_one() -> None:
    values = (reference_value("one", mr_signer=bytes(32)), reference_value("two", mr_signer=b"\x09" * 32))
    result = judge(verified(), *values)
    assert isinstance(result, Rejected)
    assert result.root_cause.reason is Reason.SIGNER_MISMATCH


def test_the_relay_s_own_evidence_is_no_workload() -> None:
    """An attested relay that answers in the workload's place shows genuine evidence of a known image: its own."""
    relay = reference_value("relay", role=Role.RELAY)
    workload = reference_value("app", mr_enclave=bytes(32))
    assert isinstance(judge(verified(), relay, workload, role=Role.RELAY), Accepted)
    result = judge(verified(), relay, workload, role=Role.WORKLOAD)
    assert isinstance(result, Rejected)
    assert result.root_cause.reason is Reason.ROLE_MISMATCH
    assert "relay" in (result.root_cause.hint or "")


def test_a_measurement_recorded_in_both_roles_counts_in_both() -> None:
    values = (reference_value("r", role=Role.RELAY), reference_value("w"))
    for role, name in ((Role.RELAY, "r"), (Role.WORKLOAD, "w")):
        result = judge(verified(), *values, role=role)
        assert isinstance(result, Accepted)
        assert result.reference_value == name


def test_a_value_of_another_root_does_not_hide_the_right_one() -> None:
    simulated, real = reference_value("simulated", trust_anchor=OTHER_ROOT), reference_value("real")
    result = judge(verified(), simulated, real)
    assert isinstance(result, Accepted)
    assert result.reference_value == "real"


def test_the_only_value_of_another_role_leaves_this_role_without_any() -> None:
    """Nothing is recorded as workload: that there is no value is the reason, not that a measurement differs."""
    result = judge(verified(), reference_value(role=Role.RELAY, mr_enclave=bytes(32)))
    assert isinstance(result, Rejected)
    assert result.root_cause.reason is Reason.NO_REFERENCE_VALUE


# --- all checks run


def test_one_answer_lists_every_mismatch() -> None:
    facts = verified(
        enclave_report(attributes=DEBUG, isv_svn=0),
        tcb_status=TCBStatus.OUT_OF_DATE,
        tcb_evaluation_data_number=1,
        collateral_expired=(("TCB Info", NOW),),
    )
    policy = Policy(
        mr_enclaves=(bytes(32),),
        mr_signers=(bytes(32),),
        isv_prod_id=8,
        minimum_isv_svn=1,
        minimum_evaluation_number=2,
    )
    session = session_of(facts, report_data=bytes(64), level=BindingLevel.CERT)
    result = judge(facts, reference_value(mr_signer=bytes(32)), policy=policy, session=session)
    assert isinstance(result, Rejected)
    # From what explains a refusal most to what explains it least.
    assert [check.reason for check in failed(result)] == [
        Reason.REPORT_DATA_MISMATCH,
        Reason.BINDING_TOO_WEAK,
        Reason.SIGNER_MISMATCH,
        Reason.DEBUG_ENCLAVE,
        Reason.MEASUREMENT_MISMATCH,
        Reason.SIGNER_MISMATCH,
        Reason.PRODUCT_MISMATCH,
        Reason.SVN_TOO_LOW,
        Reason.TCB_STATUS_NOT_ALLOWED,
        Reason.EVALUATION_NUMBER_TOO_LOW,
        Reason.COLLATERAL_EXPIRED,
    ]
    assert result.root_cause.reason is Reason.REPORT_DATA_MISMATCH


def test_without_any_value_that_is_the_root_cause() -> None:
    facts = verified(enclave_report(attributes=DEBUG), tcb_status=TCBStatus.OUT_OF_DATE)
    result = judge(facts)
    assert isinstance(result, Rejected)
    assert result.root_cause.reason is Reason.NO_REFERENCE_VALUE
    assert len(failed(result)) == 3


# --- for exactly this evidence


def test_facts_of_other_evidence_are_no_answer_to_a_session() -> None:
    other = verified(enclave_report(isv_svn=9))
    with pytest.raises(Misuse) as caught:
        judge(verified(), reference_value(), session=session_of(other))
    assert caught.value.reason is Reason.RESULT_FOR_OTHER_EVIDENCE


def test_an_answer_names_the_evidence_as_it_was_received() -> None:
    """Padding included: the connection compares the digest with the bytes that arrived."""
    facts = verified()
    padded = session_of(facts, evidence=facts.quote.encode() + bytes(70))
    result = judge(facts, reference_value(), session=padded)
    assert isinstance(result, Accepted)
    assert result.evidence_digest == hashlib.sha256(padded.evidence).digest()


@pytest.mark.parametrize("role", Role)
def test_no_evidence_is_a_rejection(role: Role) -> None:
    result = reject_missing_evidence(role=role)
    assert result.root_cause.reason is Reason.NO_EVIDENCE
    assert (result.role, result.binding) == (role, BindingLevel.NONE)


@pytest.mark.parametrize("level", BindingLevel)
def test_a_binding_level_has_one_name(level: BindingLevel) -> None:
    assert BindingLevel.from_label(level.label) is level
    assert level.label == level.name.lower()


def test_an_unknown_binding_level_is_no_level() -> None:
    with pytest.raises(ValueError, match="strongest"):
        BindingLevel.from_label("strongest")
