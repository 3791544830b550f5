"""What is about to be recorded is not known yet: it is judged as if it were, and everything else has to hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from eaa.appraise.appraisal import measurement_of
from eaa.appraise.reference_values import ReferenceValue, ReferenceValues
from eaa.appraise.result import Attests, BindingLevel, Role
from eaa.errors import Reason
from eaa.evidence.sgx import EnclaveReport
from eaa.program.options import Judging
from eaa.verifier import Judgement, VerifiedQuote

_MAY_BE_UNKNOWN: Final = frozenset(
    {Reason.NO_REFERENCE_VALUE, Reason.MEASUREMENT_MISMATCH, Reason.TRUST_ANCHOR_MISMATCH}
)
_OF_DOMAINS: Final = ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_config_id", "mr_owner", "mr_owner_config")
"""What a value of a domain records. Not the TDX module: it changes with every update of the host."""


def strictly(judging: Judging) -> Judging:
    """Return how to judge what is about to be recorded: whatever the policy says, not under debug, and fresh."""
    strict: dict[str, Any] = {"dangerous_accept_debug_enclaves": False, "minimum_binding": BindingLevel.FRESH}
    return replace(judging, all_roles=judging.all_roles | strict)


def may_be_new(judgement: Judgement) -> bool:
    """Whether nothing but that it is not recorded may be what is wrong with this evidence."""
    if judgement.verified is None:
        return False
    unknown = {
        check.reason
        for check in judgement.result.checks
        # Another boot of a firmware that is known is new; another signer of code that is known is not.
        if not check.passed and (check.name == "measurement" or check.name.startswith("reference_rtmr"))
    }
    return bool(unknown & _MAY_BE_UNKNOWN)


def as_if_recorded(verified: VerifiedQuote, role: Role) -> ReferenceValues:
    """Return values under which these facts are judged as if they were known, so that all else that is wrong shows."""
    measurement = measurement_of(verified.quote.body)
    is_enclave = isinstance(verified.quote.body, EnclaveReport)
    value = ReferenceValue(
        name="seen-now",
        role=role,
        attests=Attests.PLATFORM,
        trust_anchor=verified.trust_anchor,
        mr_enclave=measurement if is_enclave else None,
        mr_td=None if is_enclave else measurement,
    )
    return ReferenceValues((value,))


def recordable(verified: VerifiedQuote) -> dict[str, bytes]:
    """Return what a reference value says of this evidence, by its fields; the measurement comes first."""
    report = verified.quote.body
    names = ("mr_enclave", "mr_signer") if isinstance(report, EnclaveReport) else _OF_DOMAINS
    return {name: getattr(report, name) for name in names}
