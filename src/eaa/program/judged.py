"""From judgements and facts to the one answer. Apart from `verdict`, which needs no verifier to be imported."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from eaa.appraise.appraisal import identity_of, registers_of, surroundings_of
from eaa.appraise.result import Accepted, Check, Rejected
from eaa.errors import EAAError, Rejection
from eaa.program.verdict import ACCEPTED, REJECTED, VERIFIED, Verdict, verdict_of_error
from eaa.verifier import Judgement, VerifiedQuote

if TYPE_CHECKING:
    from eaa.verifier import Step


def verdict_of_judgement(judgement: Judgement) -> Verdict:
    """Return the answer for evidence that was verified and appraised, or was missing."""
    result = judgement.result
    facts = _facts(judgement.verified) if judgement.verified else {}
    shared = {
        "role": result.role.value,
        "binding": result.binding.label,
        "checks": tuple(_check(check) for check in result.checks),
        **facts,
    }
    match result:
        case Accepted():
            return Verdict(
                verdict=ACCEPTED,
                message=f"the {result.role} matches the reference value {result.reference_value}",
                attests=result.attests.value,
                reference_value=result.reference_value,
                **shared,
            )
        case Rejected(root_cause=cause):
            return Verdict(
                verdict=REJECTED,
                reason=cause.reason.value,
                message=sentence(cause, result.role),
                hint=cause.hint,
                **shared,
            )
    raise AssertionError(result)


def verdict_of_refusal(error: EAAError) -> Verdict:
    """Return the answer where a session ended in this error: the judgement in full where it was ours."""
    if isinstance(error, Rejection) and isinstance(error.result, Judgement):
        return verdict_of_judgement(error.result)
    return verdict_of_error(error)


def verdict_of_facts(verified: VerifiedQuote) -> Verdict:
    """Return the answer that states facts and judges nothing."""
    return Verdict(
        verdict=VERIFIED,
        message="the evidence is genuine; nothing was judged",
        hint="give --reference-values to have it appraised",
        facts=_more_facts(verified),
        **_facts(verified),
    )


def step_of_verification(step: Step) -> dict[str, Any]:
    """Return a step of the verification in the form of a check; one that was not reached has no reason."""
    return {
        "name": step.name,
        "passed": step.passed,
        "reason": step.reason and step.reason.value,
        "expected": step.expected,
        "actual": step.actual,
        "clause": step.clause,
        "hint": step.hint,
    }


def sentence(check: Check, role: str) -> str:
    """Return a failed check as one sentence."""
    return f"the {role}'s evidence fails the check {check.name}: expected {check.expected}, it is {check.actual}"


def _check(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "passed": check.passed,
        "reason": None if check.passed else check.reason.value,
        "expected": check.expected,
        "actual": check.actual,
        "clause": check.clause,
        "hint": None if check.passed else check.hint,
    }


def _facts(verified: VerifiedQuote) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "simulated": verified.simulated,
        "tee": verified.tee.name.lower(),
        "tcb_status": verified.tcb_status.value,
        "tcb_date": _time(verified.tcb_date),
        "advisory_ids": verified.advisory_ids,
        "launch_advisory_ids": verified.launch_advisory_ids,
        "trust_anchor": verified.trust_anchor.hex(),
        "fmspc": verified.fmspc.hex(),
        "dynamic_platform": verified.dynamic_platform,
        "cached_keys": verified.cached_keys,
        "smt_enabled": verified.smt_enabled,
        # What is up to date falls short of nothing, and looking for it takes longer than all the rest.
        "shortfalls": ()
        if verified.tcb_status == "UpToDate"
        else tuple(str(shortfall) for shortfall in verified.shortfalls),
        "tcb_evaluation_data_number": verified.tcb_evaluation_data_number,
        "earliest_expiration": _time(verified.earliest_expiration),
        "collateral_expired": tuple(name for name, _ in verified.collateral_expired),
        "padding": verified.padding,
    }
    report = verified.quote.body
    said = identity_of(report) | surroundings_of(report)
    return (
        facts
        | {name: value.hex() for name, value in said.items()}
        | {"rtmrs": tuple(register.hex() for register in registers_of(report))}
    )


def _more_facts(verified: VerifiedQuote) -> dict[str, Any]:
    """Return what a policy may want beside; nothing that identifies one machine."""
    level = verified.tcb.current.platform.level
    _, *authorities = verified.certification_path
    return {
        "version": verified.quote.header.version,
        "report_data": verified.report_data.hex(),
        "tcb_level": {
            "tcb_status": level.tcb_status.value,
            "tcb_date": _time(level.tcb_date),
            "sgx_components": level.sgx_components,
            "tdx_components": level.tdx_components,
            "pce_svn": level.pce_svn,
        },
        "pce_id": verified.pce_id.hex(),
        "pce_svn": verified.pce_svn,
        "cpu_svn": verified.cpu_svn.hex(),
        "sgx_type": verified.sgx_type,
        "qe_isv_svn": verified.qe_isv_svn,
        "tcb_info_evaluation_number": verified.tcb_info_evaluation_number,
        "qe_identity_evaluation_number": verified.qe_identity_evaluation_number,
        "root_crl_number": verified.root_crl_number,
        "pck_crl_number": verified.pck_crl_number,
        "certification_data_type": verified.certification_data_type,
        "pck_certificate_from": verified.pck_certificate_from,
        "certification_path": [{"name": name, "sha256": digest.hex()} for name, digest in authorities],
        "documents": [
            {"name": name, "valid_from": _time(begin), "valid_until": _time(end)}
            for (name, begin), (_, end) in zip(verified.issued, verified.expirations, strict=True)
        ],
    }


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
