"""An Appraiser remembers what it found, and nobody can tell: it answers as a fresh appraisal would, in any order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any, Final

import pytest

from eaa.appraise import appraisal
from eaa.appraise.appraisal import Appraiser, SessionBinding, appraise
from eaa.appraise.policy import Policy
from eaa.appraise.reference_checks import ReferenceQuestions
from eaa.appraise.reference_values import ReferenceValues
from eaa.appraise.report_checks import ReportQuestions
from eaa.appraise.result import Accepted, BindingLevel, Check, Role
from eaa.collateral.intel import TCBStatus
from eaa.errors import Misuse, Reason
from eaa.evidence.sgx import EnclaveReport
from eaa.evidence.tdx import TDReport
from eaa.verify.dcap import VerifiedQuote
from support.facts import DEBUG, MR_TD, NOW, OTHER_ROOT, enclave_report, reference_value, td_report, verified

REPORTS: Final[dict[str, EnclaveReport | TDReport]] = {
    "enclave": enclave_report(),
    "enclave, other report data": enclave_report(report_data=bytes(64)),
    "enclave, other measurement": enclave_report(mr_enclave=bytes(32)),
    "enclave, other signer": enclave_report(mr_signer=bytes(32)),
    "enclave under debug": enclave_report(attributes=DEBUG),
    "enclave, other product": enclave_report(isv_prod_id=8),
    "enclave, other version": enclave_report(isv_svn=2),
    "domain": td_report(),
    "domain, other report data": td_report(report_data=bytes(64)),
    "domain, other measurement": td_report(mr_td=bytes(48)),
    "domain without SEPT_VE_DISABLE": td_report(td_attributes=bytes(8)),
    "domain under debug": td_report(td_attributes=b"\x01" + bytes(7)),
}
FACTS: Final[dict[str, dict[str, Any]]] = {
    "good": {},
    "other root": {"trust_anchor": OTHER_ROOT},
    "out of date": {"tcb_status": TCBStatus.OUT_OF_DATE, "advisory_ids": ("INTEL-SA-00001",)},
    "other advisories": {"tcb_status": TCBStatus.OUT_OF_DATE, "advisory_ids": ("INTEL-SA-00002",)},
    "advisories of the launch": {"launch_advisory_ids": ("INTEL-SA-00001",)},
    "threads": {"smt_enabled": True},
    "no threads": {"smt_enabled": False},
    "packages and keys": {"dynamic_platform": False, "cached_keys": False},
    "old collateral": {"tcb_evaluation_data_number": 16},
    "expired collateral": {"collateral_expired": (("TCB Info", NOW - timedelta(hours=1)),)},
}
VALUES: Final = ReferenceValues((reference_value(), reference_value("td", mr_enclave=None, mr_td=MR_TD)))
POLICIES: Final = {
    "strict": Policy(minimum_evaluation_number=17),
    "lax": Policy(
        allowed_tcb_statuses=(TCBStatus.UP_TO_DATE, TCBStatus.OUT_OF_DATE),
        collateral_grace=timedelta(days=1),
        minimum_binding=BindingLevel.CERT,
        dangerous_accept_debug_enclaves=True,
    ),
    "about the platform": Policy(
        denied_advisories=("INTEL-SA-00001",),
        refuse_smt=True,
        status_grace=((TCBStatus.OUT_OF_DATE, timedelta(days=9)),),
        allowed_td_attributes=("PKS",),
    ),
    "about the enclave": Policy(mr_signers=(enclave_report().mr_signer,), isv_prod_id=7, minimum_isv_svn=3),
}


def every_quote() -> Iterator[VerifiedQuote]:
    for report, facts in itertools.product(REPORTS.values(), FACTS.values()):
        yield verified(report, **facts)


def sessions_of(quote: VerifiedQuote) -> tuple[SessionBinding | None, ...]:
    evidence = quote.quote.encode()
    return (
        None,
        SessionBinding(evidence=evidence, report_data=quote.report_data, level=BindingLevel.FRESH),
        SessionBinding(evidence=evidence, report_data=quote.report_data, level=BindingLevel.CERT),
        SessionBinding(evidence=evidence, report_data=bytes(63) + b"\x01", level=BindingLevel.FRESH),
    )


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("role", list(Role))
def test_what_is_remembered_changes_no_answer(policy: Policy, role: Role) -> None:
    shared = Appraiser(policy=policy, reference_values=VALUES, role=role)
    for quote in (*every_quote(), *reversed(list(every_quote()))):
        for session in sessions_of(quote):
            fresh = appraise(quote, policy=policy, reference_values=VALUES, role=role, session=session)
            assert shared.appraise(quote, session=session) == fresh


def test_an_expected_report_data_is_asked_for_each_time() -> None:
    appraiser = Appraiser(policy=Policy(), reference_values=VALUES, role=Role.WORKLOAD)
    quote = verified()
    expected = [quote.report_data, bytes(64), None, quote.report_data]
    answers = [appraiser.appraise(quote, session=None, expected_report_data=data) for data in expected]
    assert [isinstance(answer, Accepted) for answer in answers] == [True, False, True, True]


def test_evidence_of_another_quote_is_misuse_each_time() -> None:
    appraiser = Appraiser(policy=Policy(), reference_values=VALUES, role=Role.WORKLOAD)
    quote = verified()
    session = SessionBinding(evidence=b"another quote", report_data=quote.report_data, level=BindingLevel.FRESH)
    for _ in range(2):
        with pytest.raises(Misuse) as caught:
            appraiser.appraise(quote, session=session)
        assert caught.value.reason is Reason.RESULT_FOR_OTHER_EVIDENCE


@pytest.mark.parametrize("questions", [ReferenceQuestions, ReportQuestions])
@pytest.mark.parametrize("report", [enclave_report(), td_report()])
def test_checks_of_a_report_never_see_its_report_data(
    monkeypatch: pytest.MonkeyPatch, questions: type, report: EnclaveReport | TDReport
) -> None:
    """Findings are remembered by the rest of the report: a check that looked would answer for another quote."""
    seen: list[EnclaveReport | TDReport] = []
    ask = questions.ask  # type: ignore[attr-defined]

    def noting(self: object, report: EnclaveReport | TDReport, *rest: Any) -> Any:
        seen.append(report)
        return ask(self, report, *rest)

    monkeypatch.setattr(questions, "ask", noting)
    appraise(verified(report), policy=Policy(), reference_values=VALUES, role=Role.WORKLOAD, session=None)
    assert seen == [replace(report, report_data=bytes(64))]


def test_alike_reports_are_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = count_reports(monkeypatch)
    appraiser = Appraiser(policy=Policy(), reference_values=VALUES, role=Role.WORKLOAD)
    for number in range(5):
        appraiser.appraise(verified(enclave_report(report_data=bytes([number]) * 64)), session=None)
    assert len(judged) == 1


def test_two_reports_by_turns_are_judged_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = count_reports(monkeypatch)
    appraiser = Appraiser(policy=Policy(), reference_values=VALUES, role=Role.WORKLOAD)
    for _ in range(3):
        for number in range(2):
            appraiser.appraise(verified(enclave_report(isv_svn=number)), session=None)
    assert len(judged) == 2


def count_reports(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return the list that each report is added to when it is judged."""
    judged: list[object] = []
    ask = ReportQuestions.ask

    def counting(self: ReportQuestions, report: EnclaveReport | TDReport) -> tuple[Check, ...]:
        judged.append(report)
        return ask(self, report)

    monkeypatch.setattr(ReportQuestions, "ask", counting)
    return judged


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appraisal, "MAX_REMEMBERED", 4)
    appraiser = Appraiser(policy=Policy(), reference_values=VALUES, role=Role.WORKLOAD)
    for number in range(20):
        quote = verified(enclave_report(isv_svn=number), tcb_evaluation_data_number=number)
        fresh = appraise(quote, policy=Policy(), reference_values=VALUES, role=Role.WORKLOAD, session=None)
        assert appraiser.appraise(quote, session=None) == fresh
        assert len(appraiser._of_reports) <= 4
        assert len(appraiser._of_platforms) <= 4


def bound(quote: VerifiedQuote, level: BindingLevel) -> SessionBinding:
    return SessionBinding(evidence=quote.quote.encode(), report_data=quote.report_data, level=level)


def test_what_has_changed_of_a_platform_is_judged_anew() -> None:
    appraiser = Appraiser(policy=POLICIES["lax"], reference_values=VALUES, role=Role.WORKLOAD)
    changes: tuple[dict[str, Any], ...] = ({}, {"tcb_status": TCBStatus.REVOKED}, {"trust_anchor": OTHER_ROOT})
    accepted = []
    for change in (*changes, *changes):
        quote = verified(enclave_report(), **change)
        accepted.append(isinstance(appraiser.appraise(quote, session=bound(quote, BindingLevel.CERT)), Accepted))
    assert accepted == [True, False, False] * 2


def test_another_kind_of_report_with_the_same_fields_is_another_report() -> None:
    class Newer(TDReport):
        __slots__ = ()

    old = td_report()
    new = Newer(**{name: getattr(old, name) for name in (item.name for item in fields(TDReport))})
    assert appraisal._but_report_data(old) != appraisal._but_report_data(new)
    assert appraisal._but_report_data(old) == appraisal._but_report_data(replace(old, report_data=bytes(64)))
