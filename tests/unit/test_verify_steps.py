"""Verification told step by step: the way of `verify_quote`, what was there on it, and where it ended."""

from __future__ import annotations

from datetime import timedelta

import pytest

from eaa.errors import MalformedInput, Reason, Unavailable
from eaa.evidence.quote import TEEType
from eaa.verify.steps import Step, explain_failure, explain_verification
from support.dcap_world import NOW, World

EVERY = [
    *("quote", "collateral", "pck_chain", "trust_anchor", "revocation_lists", "pck_certificate", "pck_dates"),
    *("tcb_info", "tcb_info_dates", "qe_identity", "qe_identity_dates", "tcb_info_fits", "certification_data"),
    *("tdx_module", "qe_report", "attestation_key", "quoting_enclave", "quote_signature", "tcb_level"),
]


def told(world: World) -> tuple[Step, ...]:
    return explain_verification(world.quote(), world.collateral(), trust_anchors=world.trust_anchors, now=NOW)


def names(steps: tuple[Step, ...]) -> list[str]:
    return [step.name for step in steps]


def test_every_step_of_a_good_quote_passes_in_its_order() -> None:
    steps = told(World(tee=TEEType.TDX, version=4))
    assert names(steps) == EVERY
    assert all(step.passed and step.reason is None and step.hint is None for step in steps)
    assert all(step.expected and step.actual and step.clause.startswith("DCAP verification, step ") for step in steps)
    assert steps[-1].actual.startswith("UpToDate, of ")


def test_dates_are_told_by_what_ends_first() -> None:
    world = World()
    world.pck_crl.next_update = NOW + timedelta(minutes=1)
    (dates,) = [step for step in told(world) if step.name == "pck_dates"]
    assert dates.actual == f"until {world.pck_crl.next_update:%Y-%m-%dT%H:%MZ} (PCK CRL)"


def test_an_enclave_has_no_tdx_module() -> None:
    assert names(told(World())) == [name for name in EVERY if name != "tdx_module"]


def test_behind_the_step_that_failed_none_was_reached() -> None:
    world = World()
    world.quote_signed_by = "pck"
    *before, failed, last = told(world)
    assert all(step.passed for step in before)
    assert (failed.name, failed.passed, failed.reason) == ("quote_signature", False, Reason.QUOTE_SIGNATURE)
    assert (last.name, last.passed, last.reason, last.actual) == ("tcb_level", False, None, "not reached")


def test_what_failed_has_a_remedy_even_where_the_error_names_none() -> None:
    world = World()
    world.qe_report_signed_by = "attestation"
    (failed,) = [step for step in told(world) if step.reason]
    assert (failed.name, failed.reason) == ("qe_report", Reason.QE_REPORT_SIGNATURE)
    assert failed.hint is not None
    assert "trust nothing" in failed.hint


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (MalformedInput(Reason.QUOTE_MALFORMED, "cut off"), "quote"),
        (MalformedInput(Reason.CERTIFICATE_MALFORMED, "no PEM"), "pck_chain"),
        (Unavailable(Reason.COLLATERAL_NOT_FOUND, "nobody has any", hint="ask another"), "collateral"),
    ],
)
def test_verification_that_did_not_begin_is_told_too(error: MalformedInput | Unavailable, name: str) -> None:
    before = [] if name == "quote" else ["quote"]
    steps = explain_failure(error, quote=World().quote() if before else None)
    (failed,) = [step for step in steps if step.reason]
    assert (failed.name, failed.reason, failed.actual) == (name, error.reason, error.message)
    assert failed.hint
    behind = names(steps)[names(steps).index(name) + 1 :]
    assert behind == EVERY[EVERY.index(name) + 1 :]
    assert names(steps)[: -len(behind) - 1] == before
