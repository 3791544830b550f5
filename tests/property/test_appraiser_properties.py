"""Whatever an Appraiser works out when it is made, and whatever it judged before: it answers as a fresh one would."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st

from eaa.appraise.appraisal import Appraiser, appraise, measurement_of
from eaa.appraise.policy import OPTIONAL_TD_ATTRIBUTES, Policy
from eaa.appraise.reference_values import ReferenceValue, ReferenceValues
from eaa.appraise.result import Accepted, Attests, Check, Rejected, Role
from eaa.collateral.intel import TCBStatus
from eaa.evidence.tdx import TDAttribute, TDReport, TDReport15
from eaa.verify.dcap import VerifiedQuote
from support.facts import DEBUG, NOW, OTHER_ROOT, PRODUCTION, ROOT, enclave_report, td_report, verified

KSS: Final = b"\x85" + PRODUCTION[1:]
STATUSES: Final = (TCBStatus.UP_TO_DATE, TCBStatus.SW_HARDENING_NEEDED, TCBStatus.OUT_OF_DATE)
ADVISORIES: Final = ("INTEL-SA-00001", "INTEL-SA-00002")
EXPIRED: Final = (("TCB Info", NOW - timedelta(hours=2)), ("CRL", NOW - timedelta(hours=30)))


BITS: Final = (
    *(TDAttribute.SEPT_VE_DISABLE, TDAttribute.SEPT_VE_DISABLE | TDAttribute.MIGRATABLE),
    *(TDAttribute.PKS, TDAttribute.DEBUG, TDAttribute.SEPT_VE_DISABLE | 2, 1 << 61),
)


def digests(size: int) -> tuple[bytes, ...]:
    """Few, so that they meet."""
    return bytes(size), b"\x01" * size, b"\x02" * size


def domain_15(old: TDReport, mr_service_td: bytes) -> TDReport15:
    fields = {name: getattr(old, name) for name, _ in TDReport.LAYOUT}
    return TDReport15(**fields, tee_tcb_svn_2=bytes(16), mr_service_td=mr_service_td)


ENCLAVES: Final = tuple(
    enclave_report(attributes=attributes, mr_enclave=measurement, mr_signer=signer, config_id=config, isv_svn=svn)
    for attributes, measurement, signer, config, svn in itertools.product(
        (PRODUCTION, KSS, DEBUG), digests(32), digests(32), digests(64), (2, 4)
    )
)
DOMAINS: Final = tuple(
    td_report(td_attributes=int(bits).to_bytes(8, "little"), mr_td=measurement, rtmr0=register, mr_seam=module)
    for bits, measurement, register, module in itertools.product(BITS, digests(48), digests(48), digests(48))
)
DOMAINS_15: Final = tuple(domain_15(old, bound) for old, bound in itertools.product(DOMAINS[::3], digests(48)))
VALUES: Final = tuple(
    ReferenceValue(name=f"value-{number}", role=role, attests=Attests.PROCESS, trust_anchor=anchor, **held)
    for number, (role, anchor, held) in enumerate(
        itertools.product(
            Role,
            (ROOT, OTHER_ROOT),
            [
                *(
                    {"mr_enclave": measurement, "mr_signer": signer}
                    for measurement, signer in itertools.product(digests(32)[1:], (None, *digests(32)))
                ),
                *(
                    {"mr_td": measurement, "rtmr0": register, "mr_seam": module}
                    for measurement, register, module in itertools.product(
                        digests(48)[1:], (None, *digests(48)[1:]), (None, *digests(48)[1:])
                    )
                ),
            ],
        )
    )
)


def some(each: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(each, max_size=2, unique=True).map(tuple)


hours = st.sampled_from([0, 1, 48]).map(lambda number: timedelta(hours=number))
policies = st.builds(
    Policy,
    allowed_tcb_statuses=st.lists(st.sampled_from(STATUSES), min_size=1, max_size=3, unique=True).map(tuple),
    status_grace=some(st.tuples(st.sampled_from(STATUSES), hours)),
    allowed_advisories=st.none() | some(st.sampled_from(ADVISORIES)),
    denied_advisories=some(st.sampled_from(ADVISORIES)),
    refuse_smt=st.booleans(),
    minimum_evaluation_number=st.integers(16, 18),
    collateral_grace=hours,
    crl_grace=st.none() | hours,
    mr_signers=some(st.sampled_from(digests(32))),
    config_ids=some(st.sampled_from(digests(64))),
    isv_prod_id=st.none() | st.integers(6, 7),
    minimum_isv_svn=st.integers(0, 4),
    mr_tds=some(st.sampled_from(digests(48))),
    mr_service_tds=some(st.sampled_from(digests(48))),
    allowed_td_attributes=some(st.sampled_from(OPTIONAL_TD_ATTRIBUTES)),
    dangerous_accept_sept_ve=st.booleans(),
    dangerous_accept_debug_enclaves=st.booleans(),
)
facts = st.fixed_dictionaries(
    {
        "tcb_status": st.sampled_from(STATUSES),
        "advisory_ids": some(st.sampled_from(ADVISORIES)),
        "smt_enabled": st.none() | st.booleans(),
        "tcb_evaluation_data_number": st.integers(16, 18),
        "trust_anchor": st.sampled_from([ROOT, OTHER_ROOT]),
        "collateral_expired": st.sampled_from([(), (), EXPIRED]),
    }
)


reports = st.sampled_from(ENCLAVES) | st.sampled_from(DOMAINS) | st.sampled_from(DOMAINS_15)
quotes = st.builds(lambda report, changes: verified(report, **changes), reports, facts)
recorded_values = st.lists(st.sampled_from(VALUES), max_size=40, unique_by=id).map(tuple).map(ReferenceValues)


@given(policies, recorded_values, st.sampled_from(Role), st.lists(quotes, min_size=1, max_size=3))
def test_what_was_judged_before_changes_no_answer(
    policy: Policy, recorded: ReferenceValues, role: Role, shown: Sequence[VerifiedQuote]
) -> None:
    shared = Appraiser(policy=policy, reference_values=recorded, role=role)
    for quote in (*shown, *reversed(shown)):
        fresh = appraise(quote, policy=policy, reference_values=recorded, role=role, session=None)
        assert shared.appraise(quote, session=None) == fresh
        assert isinstance(fresh, Accepted) == all(check.passed for check in fresh.checks)


@given(recorded_values, st.sampled_from(Role), quotes)
def test_a_value_is_matched_in_its_role_under_its_anchor_with_the_fewest_unlike_pins(
    recorded: ReferenceValues, role: Role, quote: VerifiedQuote
) -> None:
    def unlike(one: ReferenceValue) -> int:
        return sum(getattr(quote.body, name, None) != digest for name, digest in one.pins.items())

    known_by = role, measurement_of(quote.body), quote.trust_anchor
    alike = [one for one in recorded if (one.role, one.measurement, one.trust_anchor) == known_by]
    checks = of_reference(appraise(quote, policy=Policy(), reference_values=recorded, role=role, session=None))
    assert checks[0].passed == bool(alike)
    if alike:
        best = min(alike, key=unlike)
        assert [check.clause for check in checks[1:]] == [f"reference value {best.name}, {name}" for name in best.pins]
        assert [check.passed for check in checks[1:]].count(False) == unlike(best)


def of_reference(result: Accepted | Rejected) -> list[Check]:
    return [check for check in result.checks if check.clause.startswith("reference value")]


@given(policies, st.sampled_from(DOMAINS_15))
def test_each_check_of_a_domain_tells_of_what_it_is_about_and_no_more(policy: Policy, report: TDReport15) -> None:
    """The answers that nearly every domain gets are there before it is seen: they are those of each part alone."""
    usual = td_report()
    same_attributes = td_report(td_attributes=report.td_attributes)
    same_service = domain_15(usual, report.mr_service_td)
    whole = told(policy, report)
    for name in ("debug", "sept_ve_disable", "td_attributes"):
        assert whole[name] == told(policy, same_attributes)[name]
    assert whole["service_td"] == told(policy, same_service)["service_td"]


@given(policies, st.sampled_from(STATUSES))
def test_documents_that_are_current_are_told_alike_of_every_platform(policy: Policy, status: TCBStatus) -> None:
    current = told(policy, td_report())["collateral_freshness"]
    assert current.passed
    assert told(policy, td_report(), tcb_status=status)["collateral_freshness"] == current


def told(policy: Policy, report: TDReport, **changes: Any) -> dict[str, Check]:
    """Each check of how this domain and its platform are, by name."""
    result = appraise(
        verified(report, **changes),
        policy=policy,
        reference_values=ReferenceValues(),
        role=Role.WORKLOAD,
        session=None,
    )
    return {check.name: check for check in result.checks}
