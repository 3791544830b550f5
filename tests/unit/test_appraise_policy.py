"""Policy files: strict defaults, every field read as the one type it has, and nothing unknown let through."""

from __future__ import annotations

import time
from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest

from eaa.appraise.platforms import PlatformID, PlatformIDKind
from eaa.appraise.policy import MAX_GRACE, Policy, PolicyFile, parse_grace, parse_statuses
from eaa.appraise.result import BindingLevel, Role
from eaa.collateral.intel import TCBStatus
from eaa.errors import Misuse, Reason

EVERYTHING = f"""
platforms = ["ppid:{"12" * 16}", "instance:{"AB" * 16}", "chip:{"14" * 64}"]
allowed_tcb_statuses = ["UpToDate", "SWHardeningNeeded"]
minimum_evaluation_number = 17
collateral_grace_hours = 48
minimum_binding = "cert"
mr_enclaves = ["{"01" * 32}"]
mr_signers = ["{"02" * 32}", "{"03" * 32}"]
isv_prod_id = 7
minimum_isv_svn = 2
isv_ext_prod_ids = ["{"04" * 16}"]
isv_family_ids = ["{"05" * 16}"]
config_ids = ["{"06" * 64}"]
minimum_config_svn = 4
mr_tds = ["{"07" * 48}"]
rtmr0 = ["{"08" * 48}"]
rtmr1 = ["{"09" * 48}"]
rtmr2 = ["{"0a" * 48}"]
rtmr3 = ["{"0b" * 48}"]
mr_config_ids = ["{"0c" * 48}"]
mr_owners = ["{"0d" * 48}"]
mr_owner_configs = ["{"0e" * 48}"]
mr_seams = ["{"0f" * 48}"]
mr_service_tds = ["{"10" * 48}"]
xfams = ["{"11" * 8}"]
allowed_td_attributes = ["PKS", "MIGRATABLE"]
dangerous_accept_sept_ve = true
status_grace_days = {{ OutOfDate = 30, SWHardeningNeeded = 365 }}
allowed_advisories = ["INTEL-SA-00615"]
denied_advisories = ["INTEL-SA-00828"]
refuse_dynamic_platform = true
refuse_cached_keys = true
refuse_smt = true
tcb_info_grace_hours = 1
qe_identity_grace_hours = 2
crl_grace_hours = 0
dangerous_accept_debug_enclaves = true
trust_anchors = ["sim/root.pem"]
dangerous_mix_trust_anchors = true
"""


def test_every_default_is_the_strict_one() -> None:
    policy = PolicyFile().for_role(Role.WORKLOAD)
    assert policy == Policy(
        allowed_tcb_statuses=(TCBStatus.UP_TO_DATE,),
        minimum_evaluation_number=0,
        collateral_grace=timedelta(0),
        minimum_binding=BindingLevel.FRESH,
        mr_enclaves=(),
        mr_signers=(),
        isv_prod_id=None,
        minimum_isv_svn=0,
        dangerous_accept_debug_enclaves=False,
        platforms=(),
        status_grace=(),
        allowed_advisories=None,
        denied_advisories=(),
        refuse_dynamic_platform=False,
        refuse_cached_keys=False,
        refuse_smt=False,
        tcb_info_grace=None,
        qe_identity_grace=None,
        crl_grace=None,
        isv_ext_prod_ids=(),
        isv_family_ids=(),
        config_ids=(),
        minimum_config_svn=0,
        mr_tds=(),
        rtmr0=(),
        rtmr1=(),
        rtmr2=(),
        rtmr3=(),
        mr_config_ids=(),
        mr_owners=(),
        mr_owner_configs=(),
        mr_seams=(),
        mr_service_tds=(),
        xfams=(),
        allowed_td_attributes=(),
        dangerous_accept_sept_ve=False,
    )


def test_whatever_opens_a_door_is_named_for_its_danger_or_lists_what_it_lets_in() -> None:
    """No field of a policy is true by default, and none that is left out allows more than UpToDate."""
    assert [entry.name for entry in fields(Policy) if entry.default is True] == []


def test_a_file_can_say_everything() -> None:
    parsed = PolicyFile.parse(EVERYTHING)
    assert parsed.for_role(Role.RELAY) == Policy(
        platforms=(
            PlatformID(PlatformIDKind.PPID, b"\x12" * 16),
            PlatformID(PlatformIDKind.INSTANCE, b"\xab" * 16),
            PlatformID(PlatformIDKind.CHIP, b"\x14" * 64),
        ),
        allowed_tcb_statuses=(TCBStatus.UP_TO_DATE, TCBStatus.SW_HARDENING_NEEDED),
        minimum_evaluation_number=17,
        collateral_grace=timedelta(hours=48),
        minimum_binding=BindingLevel.CERT,
        mr_enclaves=(b"\x01" * 32,),
        mr_signers=(b"\x02" * 32, b"\x03" * 32),
        isv_prod_id=7,
        minimum_isv_svn=2,
        dangerous_accept_debug_enclaves=True,
        status_grace=(
            (TCBStatus.OUT_OF_DATE, timedelta(days=30)),
            (TCBStatus.SW_HARDENING_NEEDED, timedelta(days=365)),
        ),
        allowed_advisories=("INTEL-SA-00615",),
        denied_advisories=("INTEL-SA-00828",),
        refuse_dynamic_platform=True,
        refuse_cached_keys=True,
        refuse_smt=True,
        tcb_info_grace=timedelta(hours=1),
        qe_identity_grace=timedelta(hours=2),
        crl_grace=timedelta(0),
        isv_ext_prod_ids=(b"\x04" * 16,),
        isv_family_ids=(b"\x05" * 16,),
        config_ids=(b"\x06" * 64,),
        minimum_config_svn=4,
        mr_tds=(b"\x07" * 48,),
        rtmr0=(b"\x08" * 48,),
        rtmr1=(b"\x09" * 48,),
        rtmr2=(b"\x0a" * 48,),
        rtmr3=(b"\x0b" * 48,),
        mr_config_ids=(b"\x0c" * 48,),
        mr_owners=(b"\x0d" * 48,),
        mr_owner_configs=(b"\x0e" * 48,),
        mr_seams=(b"\x0f" * 48,),
        mr_service_tds=(b"\x10" * 48,),
        xfams=(b"\x11" * 8,),
        allowed_td_attributes=("PKS", "MIGRATABLE"),
        dangerous_accept_sept_ve=True,
    )
    assert all(getattr(parsed.default, entry.name) != entry.default for entry in fields(Policy)), "nothing was left out"
    assert parsed.trust_anchors == ("sim/root.pem",)
    assert parsed.dangerous_mix_trust_anchors


def test_a_table_of_a_role_changes_the_common_policy_for_that_role() -> None:
    parsed = PolicyFile.parse('minimum_isv_svn = 2\nminimum_binding = "cert"\n[workload]\nminimum_binding = "fresh"\n')
    assert parsed.for_role(Role.WORKLOAD) == Policy(minimum_isv_svn=2, minimum_binding=BindingLevel.FRESH)
    assert parsed.for_role(Role.RELAY) == Policy(minimum_isv_svn=2, minimum_binding=BindingLevel.CERT)


@pytest.mark.parametrize("text", ["", "\n", "# nothing but words\n"])
def test_an_empty_policy_is_an_error_and_not_a_pass(text: str) -> None:
    with pytest.raises(Misuse) as caught:
        PolicyFile.parse(text)
    assert caught.value.reason is Reason.POLICY_INVALID
    assert "--policy" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("minimum_svn = 3", id="unknown field"),
        pytest.param("[workload]\nmr_encalves = []", id="unknown field of a role"),
        pytest.param("[relais]\nisv_prod_id = 1", id="unknown role"),
        pytest.param("workload = 1", id="a role that is no table"),
        pytest.param("[workload]\ntrust_anchors = ['x']", id="trust anchors of one role"),
        pytest.param("[workload]\ndangerous_mix_trust_anchors = true", id="mixing for one role"),
        pytest.param("allowed_tcb_statuses = 'UpToDate'", id="statuses that are no list"),
        pytest.param("allowed_tcb_statuses = []", id="no status at all"),
        pytest.param("allowed_tcb_statuses = [1]", id="a status that is no text"),
        pytest.param("allowed_tcb_statuses = ['uptodate']", id="a status in another spelling"),
        pytest.param("allowed_tcb_statuses = ['UpToDate', 'Revoked']", id="Revoked"),
        pytest.param("minimum_evaluation_number = -1", id="negative number"),
        pytest.param("minimum_evaluation_number = 10001", id="too large a number"),
        pytest.param("minimum_evaluation_number = 1.0", id="a fraction"),
        pytest.param("minimum_evaluation_number = true", id="true for a number"),
        pytest.param("isv_prod_id = 65536", id="too large a product"),
        pytest.param("minimum_isv_svn = '1'", id="a number in quotes"),
        pytest.param("collateral_grace_hours = -1", id="negative grace"),
        pytest.param("collateral_grace_hours = 721", id="grace of more than 30 days"),
        pytest.param("collateral_grace_hours = 9223372036854775807", id="grace beyond any calendar"),
        pytest.param("minimum_binding = 'none'", id="no binding at all"),
        pytest.param("minimum_binding = 'Fresh'", id="a level in another spelling"),
        pytest.param("minimum_binding = 'strong'", id="an unknown level"),
        pytest.param("minimum_binding = 3", id="a level as a number"),
        pytest.param("mr_enclaves = []", id="no measurement at all"),
        pytest.param("mr_enclaves = ['00']", id="a short measurement"),
        pytest.param(f"mr_enclaves = ['{'0' * 96}']", id="a measurement of a trust domain"),
        pytest.param(f"mr_signers = ['{'g' * 64}']", id="a signer that is no hex"),
        pytest.param("dangerous_accept_debug_enclaves = 1", id="1 for true"),
        pytest.param("dangerous_accept_debug_enclaves = 'yes'", id="yes for true"),
        pytest.param("trust_anchors = []", id="no trust anchor at all"),
        pytest.param("allowed_td_attributes = []", id="no attribute, in so many words"),
        pytest.param("allowed_td_attributes = ['DEBUG']", id="debug by another name"),
        pytest.param("allowed_td_attributes = ['SEPT_VE_DISABLE']", id="an attribute that is demanded"),
        pytest.param("allowed_td_attributes = ['bit 8']", id="a bit without a name"),
        pytest.param("status_grace_days = 30", id="a grace for no status"),
        pytest.param("status_grace_days = { Revoked = 30 }", id="a grace for Revoked"),
        pytest.param("status_grace_days = { OutOfDate = 0 }", id="a grace of nothing"),
        pytest.param("status_grace_days = { OutOfDate = 366 }", id="a grace of more than a year"),
        pytest.param("status_grace_days = { OutOfDate = true }", id="true for days"),
        pytest.param("status_grace_days = { OutOfDate = 1.5 }", id="a fraction of a day"),
        pytest.param("denied_advisories = []", id="no advisory denied, in so many words"),
        pytest.param("denied_advisories = ['intel-sa-00615']", id="an advisory in another spelling"),
        pytest.param("allowed_advisories = ['']", id="an advisory without a name"),
        pytest.param("allowed_advisories = 'INTEL-SA-00615'", id="advisories that are no list"),
        pytest.param("crl_grace_hours = 721", id="a grace of more than 30 days for CRLs"),
        pytest.param("refuse_smt = 1", id="1 for a refusal"),
        pytest.param(f"xfams = ['{'0' * 14}']", id="a short set of features"),
        pytest.param(f"config_ids = ['{'0' * 64}']", id="half a configuration id"),
        pytest.param("platforms = []", id="no platform at all"),
        pytest.param("platforms = 'ppid:'", id="platforms that are no list"),
        pytest.param(f"platforms = ['{'1' * 32}']", id="a platform without a kind"),
        pytest.param(f"platforms = ['PPID:{'1' * 32}']", id="a kind in another spelling"),
        pytest.param(f"platforms = ['ppid:{'1' * 30}']", id="a short PPID"),
        pytest.param(f"platforms = ['chip:{'1' * 32}']", id="a chip as short as a PPID"),
        pytest.param(f"platforms = ['ppid:{'1' * 29} 11']", id="a PPID with a space in it"),
        pytest.param(f"platforms = ['ppid:{'0' * 32}']", id="a PPID of zeros"),
        pytest.param("isv_prod_id = 1\nisv_prod_id = 2", id="a field twice"),
        pytest.param("isv_prod_id =", id="no TOML"),
        pytest.param("isv_prod_id = " + "9" * 5000, id="a number of thousands of digits"),
        pytest.param("a = " + "[" * 10_000, id="nested without end"),
        pytest.param("# " + "x" * (1 << 20), id="too long"),
    ],
)
def test_a_mistake_in_a_policy_is_refused_and_never_ignored(line: str) -> None:
    with pytest.raises(Misuse) as caught:
        PolicyFile.parse(line)
    assert caught.value.reason is Reason.POLICY_INVALID


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("a" + ".a" * 200_000 + " = 1", id="a bare key"),
        pytest.param("[" + "a." * 200_000, id="a table without an end"),
        pytest.param("'a'.\"b\" . c." * 50_000 + "d = 1", id="quoted keys"),
    ],
)
def test_a_key_of_many_parts_is_refused_before_it_takes_memory(line: str) -> None:
    before = time.process_time()
    with pytest.raises(Misuse) as caught:
        PolicyFile.parse(line)
    assert caught.value.reason is Reason.POLICY_INVALID
    assert time.process_time() - before < 5


def test_an_empty_list_of_allowed_advisories_allows_none() -> None:
    assert PolicyFile.parse("allowed_advisories = []").default.allowed_advisories == ()


# --- flags over a file


def test_flags_change_what_they_name_and_nothing_else() -> None:
    parsed = PolicyFile.parse("isv_prod_id = 7\n[relay]\nminimum_isv_svn = 2\n")
    changed = parsed.override({"minimum_binding": BindingLevel.CERT, "isv_prod_id": None})
    assert changed.for_role(Role.WORKLOAD) == Policy(isv_prod_id=7, minimum_binding=BindingLevel.CERT)
    assert changed.for_role(Role.RELAY) == Policy(isv_prod_id=7, minimum_isv_svn=2, minimum_binding=BindingLevel.CERT)


def test_flags_can_be_for_one_role() -> None:
    changed = PolicyFile().override({"isv_prod_id": 9}, roles=(Role.WORKLOAD,))
    assert changed.for_role(Role.WORKLOAD).isv_prod_id == 9
    assert changed.for_role(Role.RELAY) == Policy()


def test_statuses_that_are_accepted_too_come_on_top() -> None:
    parsed = PolicyFile.parse('[relay]\nallowed_tcb_statuses = ["OutOfDate"]\n')
    widened = parsed.also_accept((TCBStatus.SW_HARDENING_NEEDED, TCBStatus.UP_TO_DATE))
    assert widened.for_role(Role.WORKLOAD).allowed_tcb_statuses == (
        TCBStatus.UP_TO_DATE,
        TCBStatus.SW_HARDENING_NEEDED,
    )
    assert widened.for_role(Role.RELAY).allowed_tcb_statuses == (
        TCBStatus.OUT_OF_DATE,
        TCBStatus.SW_HARDENING_NEEDED,
        TCBStatus.UP_TO_DATE,
    )
    assert parsed.for_role(Role.WORKLOAD) == Policy()


@pytest.mark.parametrize(("hours", "grace"), [(0, timedelta(0)), (1, timedelta(hours=1)), (720, MAX_GRACE)])
def test_a_grace_has_an_end(hours: int, grace: timedelta) -> None:
    assert parse_grace(hours) == grace


@pytest.mark.parametrize("hours", [-1, 721, 1 << 62])
def test_a_grace_outside_of_it_is_refused(hours: int) -> None:
    with pytest.raises(ValueError, match="outside 0 to 720"):
        parse_grace(hours)


@pytest.mark.parametrize("status", [status for status in TCBStatus if status is not TCBStatus.REVOKED])
def test_every_status_but_revoked_can_be_accepted(status: TCBStatus) -> None:
    assert parse_statuses((status.value,)) == (status,)


@pytest.mark.parametrize("words", [("Revoked",), ("UpToDate", "outofdate"), ("",)])
def test_an_unknown_status_is_refused_by_name(words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="not one of UpToDate"):
        parse_statuses(words)


def test_policies_are_values() -> None:
    """Two programs with the same policy agree; nobody can change one in place."""
    first: Any = Policy()
    assert first == Policy()
    with pytest.raises(AttributeError):
        first.minimum_isv_svn = 1
