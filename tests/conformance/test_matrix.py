"""The oracle matrix: each of its worlds gets the answer that its row says, from us and from an independent verifier."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import dcap_qvl
import pytest

from eaa.appraise.appraisal import appraise
from eaa.appraise.policy import Policy
from eaa.appraise.reference_values import ReferenceValues
from eaa.appraise.result import Role
from eaa.collateral.intel import TCBStatus
from eaa.errors import EAAError, MalformedInput, Reason
from eaa.evidence.quote import Quote
from eaa.verify.chain import TrustAnchors
from eaa.verify.dcap import VerifiedQuote, verify_quote
from eaa.verify.steps import Step, explain_failure, explain_verification
from support.oracle_matrix import ROWS, AnyWorld, Row


def anchors_of(world: AnyWorld) -> TrustAnchors:
    return TrustAnchors(frozenset({hashlib.sha256(world.trust_anchor).digest()}))


def verify(world: AnyWorld) -> VerifiedQuote:
    return verify_quote(Quote.parse(world.quote), world.collateral, trust_anchors=anchors_of(world), now=world.now)


def explain(world: AnyWorld) -> tuple[Step, ...]:
    try:
        quote = Quote.parse(world.quote)
    except MalformedInput as error:
        return explain_failure(error)
    return explain_verification(quote, world.collateral, trust_anchors=anchors_of(world), now=world.now)


def ask_dcap_qvl(world: AnyWorld) -> tuple[str, frozenset[str]]:
    """Its status and advisories, or its error and none. It was asked without a PCK chain beside the quote's own."""
    asked = replace(world.collateral, pck_certificate_chain=None)
    collateral = dcap_qvl.QuoteCollateralV3.from_json(asked.to_json().decode())
    try:
        report = dcap_qvl.verify_with_root_ca(world.quote, collateral, world.trust_anchor, int(world.now.timestamp()))
    except ValueError as error:
        return str(error), frozenset()
    return report.status, frozenset(report.advisory_ids)


def failed_checks(verified: VerifiedQuote) -> set[Reason]:
    """What a policy of defaults has against it, besides that nobody recorded it and its status."""
    result = appraise(verified, policy=Policy(), reference_values=ReferenceValues(), role=Role.WORKLOAD, session=None)
    expected = {Reason.NO_REFERENCE_VALUE, Reason.TCB_STATUS_NOT_ALLOWED}
    return {check.reason for check in result.checks if not check.passed} - expected


@pytest.mark.parametrize("row", [pytest.param(row, id=row.text) for row in ROWS])
def test_matrix(row: Row) -> None:
    world = row.make()
    answer, advisories = ask_dcap_qvl(world)
    is_status = row.dcap_qvl in tuple(TCBStatus)
    # Told step by step, it ends the same way.
    reasons = [step.reason for step in explain(world) if step.reason]
    assert reasons == ([] if isinstance(row.ours, TCBStatus) else [row.ours])
    assert answer == row.dcap_qvl if is_status else row.dcap_qvl in answer
    if isinstance(row.ours, TCBStatus):
        verified = verify(world)
        assert verified.tcb_status is row.ours
        assert failed_checks(verified) == ({row.appraisal} if row.appraisal else set())
        if is_status:
            # It tells those of the launch only.
            assert advisories == set(verified.launch_advisory_ids)
    else:
        with pytest.raises(EAAError) as caught:
            verify(world)
        assert (caught.value.reason, caught.value.exit_code) == (row.ours, 3)
