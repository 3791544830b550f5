"""What checks say: `expected` and `actual` are what an operator acts on, so that a wrong word is a wrong answer."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from eaa.appraise.appraisal import (
    MAX_LISTED,
    Appraiser,
    appraise,
    registers_of,
    reject_missing_evidence,
    surroundings_of,
)
from eaa.appraise.floor import MAX_FLOOR_SIZE, MAX_FLOORS, MAX_NUMBER, EvaluationFloor
from eaa.appraise.policy import Policy, PolicyFile
from eaa.appraise.reference_values import MAX_VALUES, ReferenceValues, append_value
from eaa.appraise.result import Accepted, BindingLevel, Check, Rejected, Role
from eaa.appraise.tables import MAX_FILE_SIZE
from eaa.collateral.intel import TCBStatus
from eaa.errors import Misuse
from eaa.evidence.sgx import EnclaveReport
from eaa.evidence.tdx import TDAttribute, TDReport, TDReport15
from eaa.verify.dcap import VerifiedQuote
from support.facts import (
    DEBUG,
    MR_ENCLAVE,
    MR_TD,
    NOW,
    ROOT,
    SEPT_VE_DISABLE,
    enclave_report,
    reference_value,
    tcb_facts,
    td_report,
    verified,
)

VALUES: Final = ReferenceValues((reference_value(), reference_value("domain", mr_enclave=None, mr_td=MR_TD)))
HOUR: Final = timedelta(hours=1)
OUT: Final = TCBStatus.OUT_OF_DATE


def judge(facts: VerifiedQuote, policy: Policy | None = None, **more: Any) -> Accepted | Rejected:
    return appraise(facts, policy=policy or Policy(), reference_values=VALUES, role=Role.WORKLOAD, session=None, **more)


def said(result: Accepted | Rejected, name: str) -> tuple[str, str]:
    """What was expected by a check of this name, and what it found."""
    check: Check = next(check for check in result.checks if check.name == name)
    return check.expected, check.actual


def domain(bits: int = TDAttribute.SEPT_VE_DISABLE, **changes: Any) -> TDReport:
    return td_report(td_attributes=int(bits).to_bytes(8, "little"), **changes)


def domain_15(mr_service_td: bytes) -> TDReport15:
    fields = {name: getattr(domain(), name) for name, _ in TDReport.LAYOUT}
    return TDReport15(**fields, tee_tcb_svn_2=bytes(16), mr_service_td=mr_service_td)


# --- how it runs


@pytest.mark.parametrize(
    ("report", "accept", "words"),
    [
        (enclave_report(), False, ("not under debug", "production")),
        (enclave_report(), True, ("anything", "production")),
        (enclave_report(attributes=DEBUG), False, ("not under debug", "debug")),
        (enclave_report(attributes=DEBUG), True, ("anything", "debug")),
        (domain(), False, ("not under debug", "production")),
        (domain(TDAttribute.SEPT_VE_DISABLE | 1), False, ("not under debug", "debug")),
        (domain(TDAttribute.SEPT_VE_DISABLE | 2), False, ("not under debug", "TUD attributes 0x02")),
    ],
)
def test_debug(report: EnclaveReport | TDReport, accept: bool, words: tuple[str, str]) -> None:  # noqa: FBT001
    assert said(judge(verified(report), Policy(dangerous_accept_debug_enclaves=accept)), "debug") == words


@pytest.mark.parametrize(
    ("bits", "accept", "words"),
    [
        (TDAttribute.SEPT_VE_DISABLE, False, ("SEPT_VE_DISABLE", "SEPT_VE_DISABLE")),
        (0, False, ("SEPT_VE_DISABLE", "no SEPT_VE_DISABLE")),
        (0, True, ("anything", "no SEPT_VE_DISABLE")),
    ],
)
def test_sept_ve_disable(bits: int, accept: bool, words: tuple[str, str]) -> None:  # noqa: FBT001
    assert said(judge(verified(domain(bits)), Policy(dangerous_accept_sept_ve=accept)), "sept_ve_disable") == words


def test_td_attributes() -> None:
    pks = domain(TDAttribute.SEPT_VE_DISABLE | TDAttribute.PKS | 1 << 61)
    assert said(judge(verified(pks)), "td_attributes") == (
        "nothing beside SEPT_VE_DISABLE",
        "SEPT_VE_DISABLE, PKS, bit 61",
    )
    allowed = Policy(allowed_td_attributes=("PKS", "LASS"))
    assert said(judge(verified(domain(0)), allowed), "td_attributes") == (
        "nothing beside SEPT_VE_DISABLE, PKS, LASS",
        "none",
    )


@pytest.mark.parametrize(
    ("report", "named", "words"),
    [
        (domain(), (), ("none", "none")),
        (domain_15(bytes(48)), (b"\x01" * 48,), (f"none but {'01' * 48}", "none")),
        (domain_15(b"\x02" * 48), (), ("none", "02" * 48)),
        (domain_15(b"\x02" * 48), (b"\x01" * 48, b"\x03" * 48), (f"none but {'01' * 48} or {'03' * 48}", "02" * 48)),
    ],
)
def test_service_domains(report: TDReport, named: tuple[bytes, ...], words: tuple[str, str]) -> None:
    assert said(judge(verified(report), Policy(mr_service_tds=named)), "service_td") == words


def test_a_report_that_cannot_tell_of_service_domains_says_so() -> None:
    report = domain(TDAttribute.SEPT_VE_DISABLE | TDAttribute.MIGRATABLE)
    result = judge(verified(report), Policy(allowed_td_attributes=("MIGRATABLE",)))
    assert said(result, "service_td") == ("none", "not told by a TD report 1.0 of a domain that can be migrated")


def test_what_the_host_can_move_has_a_hint_of_its_own() -> None:
    def hint(*names: str) -> str | None:
        bits = sum((TDAttribute[name] for name in names), TDAttribute.SEPT_VE_DISABLE)
        checks = judge(verified(domain_15(bytes(48)), quote=verified(domain(bits)).quote)).checks
        return next(check.hint for check in checks if check.name == "td_attributes")

    assert "migration domain" in str(hint("MIGRATABLE"))
    assert "migration domain" in str(hint("PKS", "MIGRATABLE"))
    assert "the host chose these" in str(hint("PKS"))


# --- the platform and its documents


def behind(**changes: Any) -> VerifiedQuote:
    """A platform that missed one update on the first of November."""
    facts = tcb_facts()
    level = facts.current.platform.level
    above = replace(level, sgx_components=(2, *level.sgx_components[1:]), tcb_date=datetime(2026, 11, 1, tzinfo=UTC))
    own = replace(level, tcb_date=datetime(2026, 1, 1, tzinfo=UTC), tcb_status=OUT)
    platform = replace(facts.current.platform, level=own)
    platform = replace(platform, tcb_info=replace(platform.tcb_info, tcb_levels=(above, own)))
    current = replace(facts.current, tcb_status=OUT, platform=platform)
    tcb = replace(facts, tcb_status=OUT, current=current, launch=current)
    return verified(**{"tcb_status": OUT, "tcb": tcb, **changes})


def test_a_status_that_is_refused_says_since_when_and_by_how_much() -> None:
    assert said(judge(behind()), "tcb_status") == (
        "UpToDate",
        "OutOfDate, behind since 2026-11-01; SGX component 1 is 0, 2 is needed",
    )


def test_a_status_that_is_accepted_says_no_more_than_its_name() -> None:
    """Also where the documents are late, for which the same is worked out."""
    policy = Policy(allowed_tcb_statuses=(TCBStatus.UP_TO_DATE, OUT), collateral_grace=2 * HOUR)
    for late in ((), (("TCB Info", NOW - HOUR),)):
        result = judge(behind(collateral_expired=late), policy)
        assert isinstance(result, Accepted)
        assert said(result, "tcb_status") == ("UpToDate or OutOfDate", "OutOfDate")


def test_a_grace_of_one_status_among_several_is_not_remembered_as_running() -> None:
    grace = ((TCBStatus.CONFIGURATION_NEEDED, timedelta(days=9)), (OUT, timedelta(days=30)))
    appraiser = Appraiser(policy=Policy(status_grace=grace), reference_values=VALUES, role=Role.WORKLOAD)
    early = behind(verified_at=datetime(2026, 11, 2, tzinfo=UTC))
    late = replace(early, verified_at=datetime(2026, 12, 30, tzinfo=UTC))
    assert [isinstance(appraiser.appraise(facts, session=None), Accepted) for facts in (early, late)] == [True, False]


@pytest.mark.parametrize(
    ("graces", "expected", "clause"),
    [
        ({}, "no document more than 0:00:00 past its nextUpdate", "policy collateral_grace_hours"),
        (
            {"collateral_grace": 2 * HOUR},
            "no document more than 2:00:00 past its nextUpdate",
            "policy collateral_grace_hours",
        ),
        (
            {"collateral_grace": 2 * HOUR, "crl_grace": HOUR},
            "no more past nextUpdate than 2:00:00 for TCB Info, 2:00:00 for QE identity, 1:00:00 for CRL",
            "policy collateral_grace_hours and those for documents",
        ),
        (
            {"tcb_info_grace": 2 * HOUR, "qe_identity_grace": HOUR},
            "no more past nextUpdate than 2:00:00 for TCB Info, 1:00:00 for QE identity, 0:00:00 for CRL",
            "policy collateral_grace_hours and those for documents",
        ),
    ],
)
def test_freshness(graces: dict[str, Any], expected: str, clause: str) -> None:
    checks = judge(verified(), Policy(**graces)).checks
    check = next(check for check in checks if check.name == "collateral_freshness")
    assert (check.expected, check.actual, check.clause) == (expected, "all current", clause)


def test_a_late_document_is_named_with_its_date() -> None:
    late = (("TCB Info", NOW - HOUR), ("root CRL", NOW))
    result = judge(verified(collateral_expired=late), Policy(collateral_grace=HOUR))
    assert said(result, "collateral_freshness")[1] == "TCB Info at 2026-11-23T11:00Z, root CRL at 2026-11-23T12:00Z"


def test_the_floor() -> None:
    floor = EvaluationFloor({(ROOT, "sgx-qe-identity"): 16})
    result = judge(verified(tcb_info_evaluation_number=18), floor=floor)
    assert said(result, "evaluation_floor") == (
        "sgx-tcb-info 0 or higher, sgx-qe-identity 16 or higher",
        "sgx-tcb-info 18, sgx-qe-identity 17",
    )


# --- who it is


def test_who_shows_nothing_is_answered_with_zeros_of_the_right_length() -> None:
    result = reject_missing_evidence(role=Role.RELAY)
    assert (result.evidence_digest, result.report_data) == (bytes(32), bytes(64))
    assert said(result, "evidence") == ("evidence of a relay from a TEE", "none")


def test_registers_and_surroundings_are_those_of_a_domain() -> None:
    registers = {f"rtmr{number}": bytes([number]) * 48 for number in range(4)}
    report = td_report(**registers, mr_seam=b"\x05" * 48)
    assert registers_of(report) == tuple(registers.values())
    assert surroundings_of(report) == {"mr_seam": b"\x05" * 48, "td_attributes": SEPT_VE_DISABLE}
    assert registers_of(enclave_report()) == ()
    assert surroundings_of(enclave_report()) == {}


@pytest.mark.parametrize(("count", "more"), [(1, 0), (MAX_LISTED, 0), (MAX_LISTED + 1, 1)])
def test_as_many_values_are_named_as_fit(count: int, more: int) -> None:
    values = [reference_value(f"v{number}", mr_enclave=number.to_bytes(32, "big")) for number in range(count)]
    result = appraise(
        verified(), policy=Policy(), reference_values=ReferenceValues(tuple(values)), role=Role.WORKLOAD, session=None
    )
    expected, _ = said(result, "measurement")
    assert expected.count("(v") == min(count, MAX_LISTED)
    assert expected.endswith(f" or {more} more") == bool(more)


# --- names and numbers


def test_levels_are_ordered_and_numbered_for_good() -> None:
    assert {level.label: level.value for level in BindingLevel} == {"none": 0, "cert": 1, "session": 2, "fresh": 3}


def test_two_roots_are_mixed_only_where_somebody_says_so() -> None:
    assert PolicyFile().dangerous_mix_trust_anchors is False
    assert PolicyFile.parse("isv_prod_id = 1").dangerous_mix_trust_anchors is False


@pytest.mark.parametrize("number", [0, 0xFFFF])
def test_both_ends_of_a_range_are_in_it(number: int) -> None:
    assert PolicyFile.parse(f"isv_prod_id = {number}").default.isv_prod_id == number


@pytest.mark.parametrize("days", [1, 365])
def test_both_ends_of_a_grace_are_in_it(days: int) -> None:
    policy = PolicyFile.parse(f"status_grace_days = {{ OutOfDate = {days} }}").default
    assert policy.status_grace == ((OUT, timedelta(days=days)),)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("minimum_binding = 'weak'", "minimum_binding is 'weak'; it must be one of cert, session, fresh"),
        ("mr_enclaves = ['00']", "mr_enclaves must be 64 hex digits"),
        ("isv_prod_id = 65536", "isv_prod_id must be from 0 to 65535"),
        ("status_grace_days = { OutOfDate = 0 }", "OutOfDate must be a whole number of days from 1 to 365"),
    ],
)
def test_what_a_policy_file_may_say_is_told(text: str, told: str) -> None:
    with pytest.raises(Misuse) as caught:
        PolicyFile.parse(text)
    assert caught.value.message.endswith(told)


# --- limits are limits, and what is just within them is read


def test_a_policy_as_long_as_may_be_is_read() -> None:
    text = "isv_prod_id = 1\n#"
    assert PolicyFile.parse(text.ljust(MAX_FILE_SIZE, "x")).default.isv_prod_id == 1
    with pytest.raises(Misuse) as caught:
        PolicyFile.parse(text.ljust(MAX_FILE_SIZE + 1, "x"))
    assert "the limit is" in caught.value.message


def values_of(count: int) -> str:
    fields = f'role="relay"\nattests="process"\ntrust_anchor="{ROOT.hex()}"\nmr_enclave="{MR_ENCLAVE.hex()}"\n'
    return "".join(f"[v{number}]\n{fields}" for number in range(count))


def test_as_many_values_as_may_be_are_read() -> None:
    assert len(ReferenceValues.parse(values_of(MAX_VALUES)).values) == MAX_VALUES
    with pytest.raises(Misuse) as caught:
        ReferenceValues.parse(values_of(MAX_VALUES + 1))
    assert f"holds {MAX_VALUES + 1} values" in caught.value.message


def test_a_value_written_in_one_line_survives_that_the_next_is_replaced() -> None:
    value = reference_value("inline")
    pairs = [line for line in value.encode().splitlines()[1:] if line]
    text = f"inline = {{ {', '.join(pairs)} }}\n\n" + reference_value("old").encode()
    new = reference_value("old", mr_enclave=bytes(32))
    assert tuple(ReferenceValues.parse(append_value(text, new, replace=True))) == (value, new)


def floor_of(count: int) -> EvaluationFloor:
    return EvaluationFloor({(number.to_bytes(32, "big"), "sgx-tcb-info"): MAX_NUMBER for number in range(count)})


def test_as_many_floors_as_may_be_are_read() -> None:
    assert EvaluationFloor.parse(floor_of(MAX_FLOORS).encode()) == floor_of(MAX_FLOORS)
    with pytest.raises(Misuse) as caught:
        EvaluationFloor.parse(floor_of(MAX_FLOORS + 1).encode())
    assert f"at most {MAX_FLOORS}" in caught.value.message


def test_a_floor_as_long_as_may_be_is_read() -> None:
    text = floor_of(1).encode()
    assert EvaluationFloor.parse(text.ljust(MAX_FLOOR_SIZE)) == floor_of(1)
    with pytest.raises(Misuse) as caught:
        EvaluationFloor.parse(text.ljust(MAX_FLOOR_SIZE + 1))
    assert "the limit is" in caught.value.message


def test_a_number_beyond_32_bits_is_no_floor() -> None:
    text = floor_of(1).encode()
    with pytest.raises(Misuse):
        EvaluationFloor.parse(text.replace(str(MAX_NUMBER), str(MAX_NUMBER + 1)))


def test_a_floor_is_written_for_people() -> None:
    assert EvaluationFloor({(ROOT, "sgx-tcb-info"): 17}).encode().splitlines() == [
        "{",
        ' "format": "eaa-evaluation-floor-1",',
        ' "floors": [',
        "  {",
        f'   "trust_anchor": "{ROOT.hex()}",',
        '   "document": "sgx-tcb-info",',
        '   "number": 17',
        "  }",
        " ]",
        "}",
    ]


def test_pins_are_listed_where_they_are() -> None:
    """Where the signer that a value names is missing from a domain, it is said to be missing."""
    value = reference_value("d", mr_enclave=None, mr_td=MR_TD, mr_signer=bytes(32))
    result = appraise(
        verified(td_report()),
        policy=Policy(),
        reference_values=ReferenceValues((value,)),
        role=Role.WORKLOAD,
        session=None,
    )
    assert said(result, "reference_signer") == ("00" * 32, "none")
