"""What policy asks of a report: of enclaves and domains, how they run and what they were launched with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from eaa.appraise.policy import OPTIONAL_TD_ATTRIBUTES, Policy
from eaa.appraise.result import Check, new_check
from eaa.errors import Reason
from eaa.evidence.sgx import EnclaveReport, SGXAttribute
from eaa.evidence.tdx import TDAttribute, TDReport, TDReport15

Report = EnclaveReport | TDReport

_NONE: Final = "none"
"""What a check says of a field that this kind of evidence does not have; it fails."""


@dataclass(frozen=True, slots=True)
class _Constraint:
    """A list of digests in a policy, and the field of a report that must be one of them."""

    field: str
    """Of the report; the check has its name."""
    policy: str
    reason: Reason
    hint: str | None = None


_REBUILT: Final = "another build, or another boot chain, than the policy names"
_CONFIGURED: Final = "its owner or host launched it with another configuration than the policy names"
_KSS: Final = "read the enclave's identity as its signer set it; it needs key separation and sharing (KSS)"
_CONSTRAINTS: Final = (
    _Constraint("mr_enclave", "mr_enclaves", Reason.MEASUREMENT_MISMATCH, _REBUILT),
    _Constraint("mr_signer", "mr_signers", Reason.SIGNER_MISMATCH, "somebody else signed this enclave"),
    _Constraint("isv_ext_prod_id", "isv_ext_prod_ids", Reason.PRODUCT_MISMATCH, _KSS),
    _Constraint("isv_family_id", "isv_family_ids", Reason.PRODUCT_MISMATCH, _KSS),
    _Constraint("config_id", "config_ids", Reason.CONFIGURATION_MISMATCH, _CONFIGURED),
    _Constraint("mr_td", "mr_tds", Reason.MEASUREMENT_MISMATCH, _REBUILT),
    *(_Constraint(name, name, Reason.MEASUREMENT_MISMATCH, _REBUILT) for name in ("rtmr0", "rtmr1", "rtmr2", "rtmr3")),
    _Constraint("mr_config_id", "mr_config_ids", Reason.CONFIGURATION_MISMATCH, _CONFIGURED),
    _Constraint("mr_owner", "mr_owners", Reason.CONFIGURATION_MISMATCH, _CONFIGURED),
    _Constraint("mr_owner_config", "mr_owner_configs", Reason.CONFIGURATION_MISMATCH, _CONFIGURED),
    _Constraint("mr_seam", "mr_seams", Reason.TDX_MODULE_NOT_ALLOWED, "the host runs another TDX module"),
    _Constraint("xfam", "xfams", Reason.CONFIGURATION_MISMATCH, _CONFIGURED),
)
_OF_KSS: Final = frozenset({"isv_ext_prod_id", "isv_family_id", "config_id", "config_svn"})
_OF_TUD: Final = 0xFF
_SEPT_VE_DISABLE: Final = int(TDAttribute.SEPT_VE_DISABLE)
"""All that nearly every domain is launched with."""
_NO_DOMAIN: Final = bytes(48)
_SERVICE_DOMAINS: Final = ("mr_service_td", "init_service_td_hash", "current_service_td_hash")
_ATTRIBUTE_NAMES: Final = {int(TDAttribute[name]): name for name in ("SEPT_VE_DISABLE", *OPTIONAL_TD_ATTRIBUTES)}
_ATTRIBUTE_HINTS: Final = {
    "MIGRATABLE": "a migration domain can move it, memory and all, to another machine: pin that one too",
}


class ReportQuestions:
    """What a policy asks of reports. What depends on it alone is worked out once."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        # What it says of nearly every report that is accepted.
        self._of_production_enclave = (_debug(policy, 0),)
        self._of_usual_domain = _domain_checks(policy, _SEPT_VE_DISABLE, [], told=True)
        self._named = _questions_named_by(policy)

    def ask(self, report: Report) -> tuple[Check, ...]:
        """Return the checks of how it runs, then those of what the policy names."""
        how_it_runs = self._ask_domain(report) if isinstance(report, TDReport) else self._ask_enclave(report)
        return (*how_it_runs, *[question(report) for question in self._named])

    def _ask_enclave(self, report: EnclaveReport) -> tuple[Check, ...]:
        return (_debug(self._policy, TDAttribute.DEBUG),) if report.is_debug else self._of_production_enclave

    def _ask_domain(self, report: TDReport) -> tuple[Check, ...]:
        attributes = int.from_bytes(report.td_attributes, "little")
        bound = [digest for name in _SERVICE_DOMAINS if (digest := getattr(report, name, _NO_DOMAIN)) != _NO_DOMAIN]
        if attributes == _SEPT_VE_DISABLE and not bound:
            return self._of_usual_domain
        # Version 1.0 cannot tell. That matters where a domain that can be migrated would be accepted; others are not
        # bound.
        may_be_bound = report.is_migratable and "MIGRATABLE" in self._policy.allowed_td_attributes
        told = isinstance(report, TDReport15) or not may_be_bound
        return _domain_checks(self._policy, attributes, bound, told=told)


def _questions_named_by(policy: Policy) -> list[Callable[[Report], Check]]:
    """Return what is asked only where a policy names it."""
    questions: list[Callable[[Report], Check]] = [
        partial(_allowed_digest, row, allowed, " or ".join(digest.hex() for digest in allowed))
        for row in _CONSTRAINTS
        if (allowed := getattr(policy, row.policy))
    ]
    if policy.isv_prod_id is not None:
        questions.append(partial(_product, policy.isv_prod_id))
    for name, minimum in (("isv_svn", policy.minimum_isv_svn), ("config_svn", policy.minimum_config_svn)):
        if minimum:
            questions.append(partial(_minimum, name, minimum))
    return questions


def field_of(report: Report, name: str) -> bytes | int | None:
    """Return a field of a report, None where this kind of report does not have it."""
    if name in _OF_KSS and isinstance(report, EnclaveReport) and not report.flags & SGXAttribute.KSS:
        # Reserved bytes then, which nobody chose.
        return None
    value: bytes | int | None = getattr(report, name, None)
    return value


def _domain_checks(policy: Policy, attributes: int, bound: list[bytes], *, told: bool) -> tuple[Check, ...]:
    """Return the checks of a domain: of its TDATTRIBUTES, u64, and of the service domains that are bound to it."""
    return (
        _debug(policy, attributes & _OF_TUD),
        _sept_ve(policy, attributes),
        _td_attributes(policy, attributes),
        _service_domains(policy, bound, told=told),
    )


def _debug(policy: Policy, tud_bits: int) -> Check:
    """Return the check of the lowest byte of a domain's attributes, or of an enclave that is under debug as well."""
    return new_check(
        name="debug",
        passed=not tud_bits or policy.dangerous_accept_debug_enclaves,
        reason=Reason.DEBUG_ENCLAVE,
        expected="not under debug" if not policy.dangerous_accept_debug_enclaves else "anything",
        actual=("debug" if tud_bits == TDAttribute.DEBUG else f"TUD attributes {tud_bits:#04x}")
        if tud_bits
        else "production",
        clause="policy dangerous_accept_debug_enclaves",
        hint="its host can read everything inside; sign and launch it for production",
    )


def _sept_ve(policy: Policy, attributes: int) -> Check:
    disabled = bool(attributes & _SEPT_VE_DISABLE)
    return new_check(
        name="sept_ve_disable",
        passed=disabled or policy.dangerous_accept_sept_ve,
        reason=Reason.TD_ATTRIBUTE_MISSING,
        expected="SEPT_VE_DISABLE" if not policy.dangerous_accept_sept_ve else "anything",
        actual="SEPT_VE_DISABLE" if disabled else "no SEPT_VE_DISABLE",
        clause="policy dangerous_accept_sept_ve",
        hint="its host can make it fault wherever it takes memory away; launch the domain with this attribute",
    )


def _td_attributes(policy: Policy, attributes: int) -> Check:
    allowed = ("SEPT_VE_DISABLE", *policy.allowed_td_attributes)
    shown = _names_of(attributes & ~_OF_TUD)
    surplus = [name for name in shown if name not in allowed]
    hints = [_ATTRIBUTE_HINTS[name] for name in surplus if name in _ATTRIBUTE_HINTS]
    return new_check(
        name="td_attributes",
        passed=not surplus,
        reason=Reason.TD_ATTRIBUTE_NOT_ALLOWED,
        expected=f"nothing beside {', '.join(allowed)}",
        actual=", ".join(shown) or _NONE,
        clause="policy allowed_td_attributes",
        hint=(hints or ["the host chose these at launch; launch it without them, or allow them by name"])[0],
    )


def _names_of(bits: int) -> list[str]:
    """Return attributes by name; a bit without one is never allowed, for no policy can name it."""
    return [_ATTRIBUTE_NAMES.get(1 << bit, f"bit {bit}") for bit in range(bits.bit_length()) if bits >> bit & 1]


def _service_domains(policy: Policy, bound: list[bytes], *, told: bool) -> Check:
    named = " or ".join(digest.hex() for digest in policy.mr_service_tds)
    return new_check(
        name="service_td",
        passed=told and all(digest in policy.mr_service_tds for digest in bound),
        reason=Reason.SERVICE_TD_NOT_ALLOWED,
        expected=f"{_NONE} but {named}" if named else _NONE,
        actual=", ".join(dict.fromkeys(digest.hex() for digest in bound))
        or (_NONE if told else "not told by a TD report 1.0 of a domain that can be migrated"),
        clause="policy mr_service_tds",
        hint="another domain, for migration for instance, has access to this one: name its hash if you trust it",
    )


def _allowed_digest(row: _Constraint, allowed: tuple[bytes, ...], expected: str, report: Report) -> Check:
    value = field_of(report, row.field)
    return new_check(
        name=row.field,
        passed=value in allowed,
        reason=row.reason,
        expected=expected,
        actual=value.hex() if isinstance(value, bytes) else _NONE,
        clause=f"policy {row.policy}",
        hint=row.hint,
    )


def _product(product: int, report: Report) -> Check:
    value = field_of(report, "isv_prod_id")
    return new_check(
        name="isv_prod_id",
        passed=value == product,
        reason=Reason.PRODUCT_MISMATCH,
        expected=str(product),
        actual=_NONE if value is None else str(value),
        clause="policy isv_prod_id",
        hint="another product of its signer",
    )


def _minimum(name: str, minimum: int, report: Report) -> Check:
    value = field_of(report, name)
    return new_check(
        name=name,
        passed=isinstance(value, int) and value >= minimum,
        reason=Reason.SVN_TOO_LOW,
        expected=f"{minimum} or higher",
        actual=_NONE if value is None else str(value),
        clause=f"policy minimum_{name}",
        hint="an older build with the same signer; update it",
    )
