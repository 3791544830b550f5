"""What policy asks of reports: how domains and enclaves run, what they were launched with, and what their log says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest

from eaa.appraise.appraisal import appraise
from eaa.appraise.policy import OPTIONAL_TD_ATTRIBUTES, Policy
from eaa.appraise.reference_values import ReferenceValue, ReferenceValues
from eaa.appraise.result import Accepted, Check, Rejected, Role
from eaa.errors import Reason
from eaa.evidence.eventlog import EventLog
from eaa.evidence.sgx import EnclaveReport
from eaa.evidence.tdx import TDAttribute, TDReport, TDReport15, TDReport15Extended
from support.ccel import BOOT, REGISTERS
from support.facts import MR_TD, enclave_report, reference_value, td_report, verified

SEPT: Final = TDAttribute.SEPT_VE_DISABLE
ONE: Final = b"\x11" * 48
DOMAIN_VALUE: Final = reference_value("domain", mr_enclave=None, mr_td=MR_TD)
KSS: Final = bytes.fromhex("85000000000000000300000000000000")


def judge(
    body: EnclaveReport | TDReport, by: Policy | None = None, *values: ReferenceValue, **more: Any
) -> Accepted | Rejected:
    return appraise(
        verified(body),
        policy=by or Policy(),
        reference_values=ReferenceValues(values or (reference_value(), DOMAIN_VALUE)),
        role=Role.WORKLOAD,
        session=None,
        **more,
    )


def policy(**fields: Any) -> Policy:
    return Policy(**fields)


def value(**changes: Any) -> ReferenceValue:
    return replace(DOMAIN_VALUE, **changes)


def failed(result: Accepted | Rejected) -> list[tuple[str, Reason]]:
    return [(check.name, check.reason) for check in result.checks if not check.passed]


def check_of(result: Accepted | Rejected, name: str) -> Check:
    return next(check for check in result.checks if check.name == name)


def domain(bits: int = SEPT, **changes: Any) -> TDReport:
    return td_report(td_attributes=int(bits).to_bytes(8, "little"), **changes)


def domain_15(bits: int = SEPT, *, mr_service_td: bytes = bytes(48)) -> TDReport15:
    old = domain(bits)
    fields = {name: getattr(old, name) for name, _ in TDReport.LAYOUT}
    return TDReport15(**fields, tee_tcb_svn_2=bytes(16), mr_service_td=mr_service_td)


def domain_15_extended(**changes: Any) -> TDReport15Extended:
    raw = domain_15().encode() + bytes(TDReport15Extended.SIZE - TDReport15.SIZE)
    return replace(TDReport15Extended.parse(raw), **changes)


# --- attributes of domains


def test_a_domain_as_it_should_be_passes_every_check() -> None:
    result = judge(domain())
    assert isinstance(result, Accepted)
    names = [check.name for check in result.checks]
    assert names[:5] == ["measurement", "debug", "sept_ve_disable", "td_attributes", "service_td"]


@pytest.mark.parametrize("bit", range(8))
def test_every_bit_of_the_untrusted_group_is_debug(bit: int) -> None:
    result = judge(domain(SEPT | 1 << bit))
    assert failed(result) == [("debug", Reason.DEBUG_ENCLAVE)]
    assert check_of(result, "debug").actual == ("debug" if bit == 0 else f"TUD attributes {1 << bit:#04x}")
    assert isinstance(judge(domain(SEPT | 1 << bit), Policy(dangerous_accept_debug_enclaves=True)), Accepted)


def test_a_domain_whose_host_can_make_it_fault_is_refused() -> None:
    assert failed(judge(domain(0))) == [("sept_ve_disable", Reason.TD_ATTRIBUTE_MISSING)]
    assert isinstance(judge(domain(0), Policy(dangerous_accept_sept_ve=True)), Accepted)


@pytest.mark.parametrize("name", OPTIONAL_TD_ATTRIBUTES)
def test_what_the_host_chose_beside_is_refused_unless_it_is_named(name: str) -> None:
    report = domain_15(SEPT | TDAttribute[name])
    result = judge(report)
    assert failed(result) == [("td_attributes", Reason.TD_ATTRIBUTE_NOT_ALLOWED)]
    assert name in check_of(result, "td_attributes").actual
    assert isinstance(judge(report, Policy(allowed_td_attributes=(name,))), Accepted)
    other = next(one for one in OPTIONAL_TD_ATTRIBUTES if one != name)
    assert failed(judge(report, Policy(allowed_td_attributes=(other,)))) == failed(result)


@pytest.mark.parametrize("bit", [8, 15, 17, 26, 32, 61])
def test_a_bit_without_a_name_can_be_allowed_by_nobody(bit: int) -> None:
    result = judge(domain(SEPT | 1 << bit), Policy(allowed_td_attributes=OPTIONAL_TD_ATTRIBUTES))
    assert failed(result) == [("td_attributes", Reason.TD_ATTRIBUTE_NOT_ALLOWED)]
    assert f"bit {bit}" in check_of(result, "td_attributes").actual


def test_the_names_are_those_of_every_bit_that_has_no_field_of_its_own() -> None:
    assert {TDAttribute[name] for name in OPTIONAL_TD_ATTRIBUTES} == set(TDAttribute) - {TDAttribute.DEBUG, SEPT}


def test_an_enclave_has_none_of_these_checks() -> None:
    names = {check.name for check in judge(enclave_report()).checks}
    assert names & {"sept_ve_disable", "td_attributes", "service_td"} == set()


# --- service domains


def test_a_service_domain_is_refused_unless_it_is_named() -> None:
    bound = domain_15(mr_service_td=ONE)
    assert failed(judge(bound)) == [("service_td", Reason.SERVICE_TD_NOT_ALLOWED)]
    assert failed(judge(bound, Policy(mr_service_tds=(bytes(47) + b"\x01",)))) == failed(judge(bound))
    assert isinstance(judge(bound, Policy(mr_service_tds=(ONE,))), Accepted)
    assert isinstance(judge(domain_15(), Policy(mr_service_tds=(ONE,))), Accepted), "none is always allowed"


@pytest.mark.parametrize("field", ["mr_service_td", "init_service_td_hash", "current_service_td_hash"])
def test_an_extended_report_names_service_domains_in_three_places(field: str) -> None:
    report = domain_15_extended(**{field: ONE})
    assert failed(judge(report)) == [("service_td", Reason.SERVICE_TD_NOT_ALLOWED)]
    assert isinstance(judge(report, Policy(mr_service_tds=(ONE,))), Accepted)
    assert isinstance(judge(domain_15_extended()), Accepted)


def test_a_report_that_cannot_tell_is_believed_only_where_nothing_can_be_bound() -> None:
    """A TD report 1.0 has no field for it."""
    allowed = Policy(allowed_td_attributes=("MIGRATABLE",), mr_service_tds=(ONE,))
    assert failed(judge(domain(SEPT | TDAttribute.MIGRATABLE), allowed)) == [
        ("service_td", Reason.SERVICE_TD_NOT_ALLOWED)
    ]
    assert isinstance(judge(domain_15(SEPT | TDAttribute.MIGRATABLE), allowed), Accepted)
    assert isinstance(judge(domain(), allowed), Accepted)


# --- what a policy names

OF_DOMAINS: Final = {
    "mr_td": ("mr_tds", Reason.MEASUREMENT_MISMATCH),
    **{name: (name, Reason.MEASUREMENT_MISMATCH) for name in ("rtmr0", "rtmr1", "rtmr2", "rtmr3")},
    "mr_config_id": ("mr_config_ids", Reason.CONFIGURATION_MISMATCH),
    "mr_owner": ("mr_owners", Reason.CONFIGURATION_MISMATCH),
    "mr_owner_config": ("mr_owner_configs", Reason.CONFIGURATION_MISMATCH),
    "mr_seam": ("mr_seams", Reason.TDX_MODULE_NOT_ALLOWED),
    "xfam": ("xfams", Reason.CONFIGURATION_MISMATCH),
}
OF_KSS: Final = {
    "isv_ext_prod_id": ("isv_ext_prod_ids", 16, Reason.PRODUCT_MISMATCH),
    "isv_family_id": ("isv_family_ids", 16, Reason.PRODUCT_MISMATCH),
    "config_id": ("config_ids", 64, Reason.CONFIGURATION_MISMATCH),
}


@pytest.mark.parametrize("field", OF_DOMAINS)
def test_a_field_of_a_domain_must_be_one_that_the_policy_names(field: str) -> None:
    policy_field, reason = OF_DOMAINS[field]
    actual = getattr(td_report(), field)
    others = (b"\x77" * len(actual), b"\x78" * len(actual))
    assert failed(judge(td_report(), policy(**{policy_field: others}))) == [(field, reason)]
    accepted = judge(td_report(), policy(**{policy_field: (*others, actual)}))
    assert isinstance(accepted, Accepted)
    assert check_of(accepted, field).clause == f"policy {policy_field}"


@pytest.mark.parametrize("field", OF_DOMAINS)
def test_an_enclave_has_no_field_of_a_domain(field: str) -> None:
    policy_field, reason = OF_DOMAINS[field]
    result = judge(enclave_report(), policy(**{policy_field: (bytes(48),)}))
    assert failed(result) == [(field, reason)]
    assert check_of(result, field).actual == "none"


@pytest.mark.parametrize("field", OF_KSS)
def test_a_field_of_kss_must_be_one_that_the_policy_names(field: str) -> None:
    policy_field, size, reason = OF_KSS[field]
    report = enclave_report(attributes=KSS, **{field: b"\x55" * size})
    assert isinstance(judge(report, policy(**{policy_field: (b"\x55" * size,)})), Accepted)
    assert failed(judge(report, policy(**{policy_field: (b"\x56" * size,)}))) == [(field, reason)]


@pytest.mark.parametrize("field", OF_KSS)
@pytest.mark.parametrize("report", [enclave_report(), td_report()], ids=["without KSS", "a domain"])
def test_who_has_no_kss_has_none_of_its_fields(field: str, report: EnclaveReport | TDReport) -> None:
    """Not even where the policy names zero, which is what the reserved bytes hold."""
    policy_field, size, reason = OF_KSS[field]
    result = judge(report, policy(**{policy_field: (bytes(size),)}))
    assert failed(result) == [(field, reason)]
    assert check_of(result, field).actual == "none"


@pytest.mark.parametrize(
    ("report", "passes"),
    [
        (enclave_report(attributes=KSS, config_svn=3), True),
        (enclave_report(attributes=KSS, config_svn=4), True),
        (enclave_report(attributes=KSS, config_svn=2), False),
        (enclave_report(config_svn=9), False),
        (td_report(), False),
    ],
)
def test_a_configuration_has_a_lowest_version(report: EnclaveReport | TDReport, passes: bool) -> None:  # noqa: FBT001
    result = judge(report, Policy(minimum_config_svn=3))
    assert failed(result) == ([] if passes else [("config_svn", Reason.SVN_TOO_LOW)])


# --- what a reference value pins


@pytest.mark.parametrize("field", [field for field in OF_DOMAINS if field not in ("mr_td", "xfam")])
def test_what_a_value_of_a_domain_pins_must_match(field: str) -> None:
    _, reason = OF_DOMAINS[field]
    assert isinstance(judge(td_report(), None, value(**{field: bytes(48)})), Accepted)
    result = judge(td_report(), None, value(**{field: ONE}))
    assert failed(result) == [(f"reference_{field}", reason)]


def test_of_two_boots_of_one_firmware_the_one_that_fits_counts() -> None:
    """MRTD is that of the firmware; which kernel was booted, only the registers tell."""
    old = value(name="old", rtmr1=ONE, rtmr2=ONE)
    new = value(name="new", rtmr1=bytes(48), rtmr2=bytes(48))
    for values in ((old, new), (new, old)):
        result = judge(td_report(), None, *values)
        assert isinstance(result, Accepted)
        assert result.reference_value == "new"


def test_where_none_fits_the_nearest_explains() -> None:
    far = value(name="far", rtmr0=ONE, rtmr1=ONE)
    near = value(name="near", rtmr0=bytes(48), rtmr1=ONE)
    result = judge(td_report(), None, far, near)
    assert failed(result) == [("reference_rtmr1", Reason.MEASUREMENT_MISMATCH)]
    assert check_of(result, "reference_rtmr1").clause == "reference value near, rtmr1"


def test_a_check_names_the_first_of_thousands_of_values() -> None:
    values = [reference_value(f"v{number}", mr_enclave=number.to_bytes(32, "big")) for number in range(4000)]
    check = check_of(judge(enclave_report(), None, *values), "measurement")
    assert "(v7)" in check.expected
    assert check.expected.endswith(" or 3992 more")
    assert len(check.expected) < 1000


# --- event logs

BOOTED: Final = dict(zip(("rtmr0", "rtmr1", "rtmr2", "rtmr3"), REGISTERS, strict=True))


def test_a_log_that_replays_to_the_registers_is_accepted() -> None:
    result = judge(td_report(**BOOTED), event_log=EventLog.parse(BOOT))
    assert isinstance(result, Accepted)
    assert [check.name for check in result.checks if check.name.startswith("event_log")] == [
        f"event_log_rtmr{number}" for number in range(4)
    ]


@pytest.mark.parametrize("number", range(4))
def test_a_log_that_replays_to_another_register_is_refused(number: int) -> None:
    report = td_report(**(BOOTED | {f"rtmr{number}": ONE}))
    result = judge(report, event_log=EventLog.parse(BOOT))
    assert failed(result) == [(f"event_log_rtmr{number}", Reason.EVENT_LOG_MISMATCH)]
    check = check_of(result, f"event_log_rtmr{number}")
    assert (check.expected, check.actual) == (ONE.hex(), REGISTERS[number].hex())


def test_an_enclave_has_no_registers_that_a_log_could_explain() -> None:
    result = judge(enclave_report(), event_log=EventLog.parse(BOOT))
    assert [reason for _, reason in failed(result)] == [Reason.EVENT_LOG_MISMATCH] * 4


def test_what_was_found_with_one_log_says_nothing_of_another() -> None:
    """Findings about reports are remembered; a log is not part of the report."""
    report = td_report(**BOOTED)
    assert isinstance(judge(report), Accepted)
    assert isinstance(judge(report, event_log=EventLog(events=())), Rejected)
    assert isinstance(judge(report, event_log=EventLog.parse(BOOT)), Accepted)
