"""The verdict: one form for every answer, held against its schema, and the manual says what the code does."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest

from eaa.appraise.appraisal import SessionBinding, appraise, reject_missing_evidence
from eaa.appraise.policy import OPTIONAL_TD_ATTRIBUTES, Policy, PolicyFile
from eaa.appraise.reference_values import ReferenceValue, ReferenceValues
from eaa.appraise.result import Attests, BindingLevel, Role
from eaa.collateral.intel import TCBStatus
from eaa.errors import (
    EAAError,
    MalformedInput,
    PeerMisbehaved,
    Reason,
    Rejection,
    Unavailable,
    VerificationError,
)
from eaa.program.judged import step_of_verification, verdict_of_facts, verdict_of_judgement
from eaa.program.output import SUCCESS, print_record, print_reply, print_verdict
from eaa.program.verdict import Verdict, verdict_of_error, verdict_of_nobody
from eaa.verifier import Judgement
from eaa.verify.steps import explain_failure
from support.facts import NOW, enclave_report, reference_value, td_report, verified

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
SCHEMA: Final = json.loads((DOCS / "verdict.schema.json").read_text(encoding="utf-8"))
# Whether the schema is one is asked once: that takes longer than many answers.
ALLOWED: Final = jsonschema.Draft202012Validator(SCHEMA)
MANUAL: Final = DOCS / "manual"


def judged(facts: Any = None, *values: Any, policy: Policy | None = None, role: Role = Role.WORKLOAD) -> Judgement:
    facts = facts or verified()
    session = SessionBinding(evidence=facts.quote.encode(), report_data=facts.report_data, level=BindingLevel.FRESH)
    result = appraise(
        facts, policy=policy or Policy(), reference_values=ReferenceValues(values), role=role, session=session
    )
    return Judgement(verified=facts, result=result)


def valid(verdict: Verdict) -> dict[str, Any]:
    """The JSON of a verdict, which the schema allows."""
    document: dict[str, Any] = json.loads(json.dumps(verdict.to_json()))
    ALLOWED.validate(document)
    return document


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_schema_and_the_code_name_the_same_keys() -> None:
    answer = SCHEMA["$defs"]["answer"]
    assert set(answer["properties"]) == {entry.name for entry in fields(Verdict)} - {
        "evidence",
        "facts",
        "verification",
    }
    assert set(answer["required"]) == set(answer["properties"])
    assert {status.value for status in TCBStatus if status is not TCBStatus.REVOKED} | {None} == set(
        answer["properties"]["tcb_status"]["enum"]
    )
    assert {role.value for role in Role} | {None} == set(answer["properties"]["role"]["enum"])
    assert {word.value for word in Attests} | {None} == set(answer["properties"]["attests"]["enum"])
    assert {level.label for level in BindingLevel} | {None} == set(answer["properties"]["binding"]["enum"])


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_can_stand_in_a_verdict(reason: Reason) -> None:
    assert valid(verdict_of_error(VerificationError(reason, "the facts")))["reason"] == reason.value


# --- the five answers


def test_accepted() -> None:
    verdict = verdict_of_judgement(judged(verified(), reference_value(attests=Attests.PLATFORM)))
    document = valid(verdict)
    assert verdict.exit_code == 0
    assert (document["verdict"], document["reason"], document["hint"]) == ("accepted", None, None)
    assert (document["attests"], document["reference_value"], document["binding"]) == ("platform", "app", "fresh")
    assert (document["simulated"], document["tee"], document["tcb_status"]) == (True, "sgx", "UpToDate")
    assert document["mr_enclave"] == enclave_report().mr_enclave.hex()
    assert all(check["passed"] and check["reason"] is None and check["hint"] is None for check in document["checks"])
    assert "evidence" not in document


def test_facts_are_told_in_full_and_name_no_machine() -> None:
    machine = (b"\xa1" * 16, b"\xa2" * 16, b"\xa3" * 32)
    path = (("PCK", machine[2]), *verified().certification_path[1:])
    facts = verified(ppid=machine[0], platform_instance_id=machine[1], certification_path=path)
    document = valid(verdict_of_facts(facts))
    assert (document["verdict"], document["facts"]["qe_isv_svn"]) == ("verified", facts.qe_isv_svn)
    assert document["facts"]["tcb_level"]["sgx_components"] == list(facts.tcb.current.platform.level.sgx_components)
    assert [item["name"] for item in document["facts"]["documents"]] == [name for name, _ in facts.expirations]
    told = json.dumps(document)
    assert not [one for one in machine if one.hex() in told]


def test_the_steps_of_a_verification_are_told_in_the_form_of_checks() -> None:
    error = VerificationError(Reason.CERTIFICATE_CHAIN, "two certificates")
    steps = tuple(step_of_verification(step) for step in explain_failure(error, quote=verified().quote))
    document = valid(replace(verdict_of_error(error), verification=steps))
    read, failed, *behind = document["verification"]
    assert (read["passed"], failed["passed"], failed["reason"]) == (True, False, "CERTIFICATE_CHAIN")
    assert behind
    assert all((step["passed"], step["reason"], step["actual"]) == (False, None, "not reached") for step in behind)


def test_explaining_begins_with_the_step_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    error = VerificationError(Reason.CERTIFICATE_CHAIN, "two certificates")
    steps = tuple(step_of_verification(step) for step in explain_failure(error, quote=verified().quote))
    verdict = replace(verdict_of_error(error), verification=steps)
    print_verdict(verdict, program="shelter", as_json=False, explain=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["evidence: unverifiable", " root cause", "  FAIL pck_chain: two certificates"]
    assert "  --   quote_signature: not reached" in lines


def test_rejected() -> None:
    verdict = verdict_of_judgement(judged(verified(tcb_status=TCBStatus.OUT_OF_DATE), role=Role.RELAY))
    document = valid(verdict)
    assert verdict.exit_code == 1
    assert (document["verdict"], document["reason"]) == ("rejected", "NO_REFERENCE_VALUE")
    assert (document["attests"], document["reference_value"], document["role"]) == (None, None, "relay")
    assert document["hint"]
    failed = [check["reason"] for check in document["checks"] if not check["passed"]]
    assert failed == ["NO_REFERENCE_VALUE", "TCB_STATUS_NOT_ALLOWED"]


def test_rejected_for_want_of_evidence() -> None:
    judgement = Judgement(verified=None, result=reject_missing_evidence(role=Role.WORKLOAD))
    document = valid(verdict_of_judgement(judgement))
    assert (document["verdict"], document["reason"], document["simulated"]) == ("rejected", "NO_EVIDENCE", None)
    assert not judgement.accepted


def test_unattested() -> None:
    """There was no evidence, so there is no role in which it appeared."""
    assert valid(verdict_of_nobody("server"))["role"] is None


def test_verified() -> None:
    verdict = verdict_of_facts(verified(td_report(), advisory_ids=("INTEL-SA-00615",), simulated=False))
    document = valid(verdict)
    assert verdict.exit_code == 0
    assert (document["verdict"], document["reason"], document["checks"]) == ("verified", None, [])
    assert (document["mr_td"], document["mr_enclave"]) == (td_report().mr_td.hex(), None)
    assert document["advisory_ids"] == ["INTEL-SA-00615"]
    assert document["simulated"] is False


@pytest.mark.parametrize(
    ("error", "word", "code"),
    [
        (MalformedInput(Reason.QUOTE_MALFORMED, "facts", hint="next"), "unverifiable", 3),
        (VerificationError(Reason.QUOTE_SIGNATURE, "facts"), "unverifiable", 3),
        (PeerMisbehaved(Reason.PEER_CLOSED, "facts"), "unverifiable", 3),
        (Unavailable(Reason.PCCS_UNREACHABLE, "facts"), "unavailable", 4),
        (Rejection(Reason.PEER_REJECTED_US, "facts"), "rejected", 1),
    ],
)
def test_no_judgement_was_reached(error: EAAError, word: str, code: int) -> None:
    verdict = verdict_of_error(error)
    document = valid(verdict)
    assert (document["verdict"], document["reason"], document["hint"]) == (word, error.reason.value, error.hint)
    assert verdict.exit_code == code == error.exit_code
    assert document["checks"] == []


def test_a_verdict_behind_a_relay_has_an_entry_for_each_attester() -> None:
    relay = verdict_of_judgement(judged(verified(), reference_value(role=Role.RELAY), role=Role.RELAY))
    workload = verdict_of_judgement(judged(verified(), reference_value()))
    whole = replace(workload, evidence=(relay.to_json(), workload.to_json()))
    assert [entry["role"] for entry in valid(whole)["evidence"]] == ["relay", "workload"]


def test_a_grace_that_was_used_shows() -> None:
    facts = verified(collateral_expired=(("TCB Info", NOW),))
    policy = Policy(collateral_grace=timedelta(hours=1))
    document = valid(verdict_of_judgement(judged(facts, reference_value(), policy=policy)))
    assert (document["verdict"], document["collateral_expired"]) == ("accepted", ["TCB Info"])


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "ok"},
        {"reason": "no evidence"},
        {"reason": None},
        {"attests": "process"},
        {"tcb_status": "Revoked"},
        {"mr_enclave": "AB" * 32},
        {"surprise": 1},
        {"evidence": [{}]},
        {"checks": [{"name": "x"}]},
    ],
)
def test_the_schema_refuses_what_is_no_rejection(change: dict[str, Any]) -> None:
    document = valid(verdict_of_judgement(judged()))
    with pytest.raises(jsonschema.ValidationError):
        ALLOWED.validate(document | change)


def test_the_schema_refuses_an_acceptance_with_a_failed_check() -> None:
    document = valid(verdict_of_judgement(judged(verified(), reference_value())))
    document["checks"][0] |= {"passed": False, "reason": "REPORT_DATA_MISMATCH"}
    with pytest.raises(jsonschema.ValidationError):
        ALLOWED.validate(document)


# --- in words


def test_an_acceptance_says_simulated_and_what_it_is_worth(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = verdict_of_judgement(judged(verified(), reference_value()))
    print_verdict(verdict, program="shelter", as_json=False)
    out, err = capsys.readouterr()
    assert out.startswith("accepted: ")
    for word in ("SIMULATED", "SGX", "UpToDate", enclave_report().mr_enclave.hex(), "process", "fresh"):
        assert word in out
    assert err == ""


def test_a_rejection_is_one_line_and_the_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    print_verdict(verdict_of_judgement(judged()), program="shelter", as_json=False)
    out, err = capsys.readouterr()
    assert out.startswith("rejected: ")
    assert out.endswith("[NO_REFERENCE_VALUE]\n")
    assert err.startswith("shelter: hint: ")
    assert (out.count("\n"), err.count("\n")) == (1, 1)


def test_facts_never_look_like_a_success(capsys: pytest.CaptureFixture[str]) -> None:
    print_verdict(verdict_of_facts(verified()), program="shelter", as_json=False)
    assert "successful" not in "".join(capsys.readouterr())


def test_explaining_lists_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    judgement = judged(verified(tcb_status=TCBStatus.OUT_OF_DATE, simulated=False), reference_value())
    print_verdict(verdict_of_judgement(judgement), program="shelter", as_json=False, explain=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "workload: rejected OutOfDate"
    for check in judgement.result.checks:
        mark = "ok  " if check.passed else "FAIL"
        assert any(line.startswith(f"  {mark} {check.name}: ") for line in lines)
    assert any("[TCB_STATUS_NOT_ALLOWED]" in line for line in lines)


def test_json_is_one_object_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = verdict_of_judgement(judged())
    print_verdict(verdict, program="shelter", as_json=True, explain=True)
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads(json.dumps(verdict.to_json()))
    assert (out.count("\n"), err) == (1, "")


def test_facts_are_printed_as_indented_lines(capsys: pytest.CaptureFixture[str]) -> None:
    record = {
        "a_name": "text",
        "none": None,
        "yes": True,
        "no": False,
        "number": 0,
        "empty": [],
        "list": ["a", 1],
        "inner": {"b": 1},
        "items": [{"c": 1}, {"c": 2}],
    }
    print_record(record)
    assert capsys.readouterr().out.splitlines() == [
        "a name: text",
        "none: -",
        "yes: yes",
        "no: no",
        "number: 0",
        "empty: none",
        "list: a, 1",
        "inner:",
        "  b: 1",
        "items 0:",
        "  c: 1",
        "items 1:",
        "  c: 2",
    ]


# --- the manual


def rows(page: str) -> set[str]:
    """Every name in the first column of a table of a page of the manual."""
    text = (MANUAL / page).read_text(encoding="utf-8")
    first = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    return {name for cell in first for name in re.findall(r"`([^`]+)`", cell)}


def examples(page: str) -> list[str]:
    return re.findall(r"```toml\n(.*?)```", (MANUAL / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_manual_names_every_key_and_every_check() -> None:
    keys = set(SCHEMA["$defs"]["answer"]["properties"]) | set(SCHEMA["properties"])
    assert keys | set(SCHEMA["$defs"]["check"]["properties"]) <= rows("verdict.md")
    policy = Policy(mr_enclaves=(bytes(32),), mr_signers=(bytes(32),), isv_prod_id=1, minimum_isv_svn=1)
    everything = judged(verified(), reference_value(mr_signer=bytes(32)), policy=policy)
    missing = reject_missing_evidence(role=Role.RELAY)
    assert {check.name for check in (*everything.result.checks, *missing.checks)} <= rows("verdict.md")


def test_the_manual_names_every_field_of_a_policy() -> None:
    graces = ("collateral_grace", "tcb_info_grace", "qe_identity_grace", "crl_grace")
    spelled = {"status_grace": "status_grace_days"} | {name: f"{name}_hours" for name in graces}
    known = {spelled.get(entry.name, entry.name) for entry in fields(Policy)}
    assert known | {"trust_anchors", "dangerous_mix_trust_anchors"} <= rows("policy.md")


def test_the_manual_names_every_field_of_a_reference_value() -> None:
    assert {entry.name for entry in fields(ReferenceValue)} - {"name"} <= rows("reference-values.md")


def test_the_manual_names_every_attribute_that_a_policy_may_allow() -> None:
    text = (MANUAL / "policy.md").read_text(encoding="utf-8")
    assert [name for name in OPTIONAL_TD_ATTRIBUTES if f"`{name}`" not in text] == []
    assert [status for status in TCBStatus if status != TCBStatus.REVOKED and f"`{status}`" not in text] == []


def in_words(default: object) -> set[str]:
    """How the manual spells a default."""
    match default:
        case bool():
            return {str(default).lower()}
        case BindingLevel():
            return {f"`{default.label}`"}
        case int() | timedelta():
            return {"0"}
        case (TCBStatus() as status,):
            return {f'`["{status}"]`'}
        case _:
            return {"any", "none"}


def test_the_defaults_of_the_manual_are_those_of_the_code() -> None:
    text = (MANUAL / "policy.md").read_text(encoding="utf-8")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    told = {name: row[2] for row in cells if len(row) == 4 for name in re.findall(r"`([^`]+)`", row[0])}
    for entry in fields(Policy):
        if entry.name.endswith("_grace"):
            spelled = f"{entry.name}_{'days' if entry.name == 'status_grace' else 'hours'}"
            assert told[spelled] in {"0", "none", "`collateral_grace_hours`"}, spelled
        else:
            assert told[entry.name] in in_words(entry.default), entry.name


def test_the_policies_of_the_manual_can_be_used() -> None:
    found = examples("policy.md")
    assert len(found) == 4
    for text in found:
        PolicyFile.parse(text)


def test_the_reference_values_of_the_manual_can_be_used() -> None:
    (text,) = examples("reference-values.md")
    values = ReferenceValues.parse(text)
    assert {value.name for value in values} == set(tomllib.loads(text))
    assert {value.role for value in values} == {Role.WORKLOAD, Role.RELAY}


def test_no_text_of_a_peer_looks_like_a_line_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    print_reply(f"hello\n{SUCCESS}\r\x1b[2J\u202e\n")
    assert capsys.readouterr().out == f"Server: hello\\n{SUCCESS}\\r\\x1b[2J\\u202e\n"
