"""Appraisal policy: what a relying party accepts. Every default is the strict one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import Any, Final

from eaa.appraise.result import BindingLevel, Role
from eaa.appraise.tables import Table, load_toml
from eaa.errors import Misuse, Reason
from eaa.verify.tcb import TCBStatus

__all__ = ["MAX_GRACE", "Policy", "PolicyFile", "TCBStatus", "parse_grace", "parse_statuses"]

MAX_GRACE: Final = timedelta(days=30)
"""Intel's own period between two issues of a document: a longer grace would be no freshness at all."""

_ACCEPTABLE: Final = tuple(status for status in TCBStatus if status is not TCBStatus.REVOKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is asked of the evidence of one role, beside matching a reference value."""

    allowed_tcb_statuses: tuple[TCBStatus, ...] = (TCBStatus.UP_TO_DATE,)
    minimum_evaluation_number: int = 0
    """The lowest tcbEvaluationDataNumber of TCB Info and QE identity."""
    collateral_grace: timedelta = timedelta(0)
    """How long past its nextUpdate a TCB Info, QE identity or CRL may still be used."""
    minimum_binding: BindingLevel = BindingLevel.FRESH
    mr_enclaves: tuple[bytes, ...] = ()
    """Allowed measurements, 32 bytes each; empty leaves it to the reference values."""
    mr_signers: tuple[bytes, ...] = ()
    """Allowed signers, 32 bytes each; empty means any signer of a recorded measurement."""
    isv_prod_id: int | None = None
    minimum_isv_svn: int = 0
    dangerous_accept_debug_enclaves: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFile:
    """A policy file: one policy for all roles, changed by a table for each role, and the trust anchors."""

    default: Policy = Policy()
    by_role: Mapping[Role, Policy] = field(default_factory=dict)
    trust_anchors: tuple[str, ...] = ()
    """Paths of PEM files, as written; relative ones are meant relative to the policy file."""
    dangerous_mix_trust_anchors: bool = False

    def for_role(self, role: Role) -> Policy:
        """Return the policy by which a peer of this role is judged."""
        return self.by_role.get(role, self.default)

    def also_accept(self, statuses: tuple[TCBStatus, ...]) -> PolicyFile:
        """Return this file with these TCB statuses accepted in every role beside those it accepts already."""
        by_role = {role: self.for_role(role) for role in Role}
        widened = {
            role: replace(policy, allowed_tcb_statuses=tuple(dict.fromkeys((*policy.allowed_tcb_statuses, *statuses))))
            for role, policy in by_role.items()
        }
        return replace(self, by_role=widened)

    def override(self, changes: Mapping[str, Any], *, roles: tuple[Role, ...] = tuple(Role)) -> PolicyFile:
        """Return this file with the fields that flags of a command line set, for the given roles."""
        known = {entry.name for entry in fields(Policy)}
        chosen = {name: value for name, value in changes.items() if name in known and value is not None}
        by_role = {role: self.for_role(role) for role in Role}
        by_role.update({role: replace(by_role[role], **chosen) for role in roles})
        return replace(self, by_role=by_role)

    @classmethod
    def parse(cls, text: str) -> PolicyFile:
        """Parse a policy file (TOML, documented in docs/manual/policy.md).

        Raises:
            Misuse: POLICY_INVALID; an empty file too, because it would look like a policy and ask for nothing new.
        """
        document = load_toml(text, what="the policy file", reason=Reason.POLICY_INVALID)
        if not document:
            raise Misuse(
                Reason.POLICY_INVALID,
                "the policy file is empty",
                hint="leave --policy out for the strict defaults, or write what you want to allow",
            )
        top = Table(document, where="the policy file", reason=Reason.POLICY_INVALID)
        role_tables = {role: top.take(role.value, dict) for role in Role}
        anchors = top.texts("trust_anchors") or ()
        mix = bool(top.take("dangerous_mix_trust_anchors", bool, default=False))
        default = _policy_from(top, base=Policy())
        by_role = {
            role: _policy_from(
                Table(table, where=f"the policy file, [{role.value}]", reason=Reason.POLICY_INVALID), base=default
            )
            for role, table in role_tables.items()
            if table is not None
        }
        return cls(default=default, by_role=by_role, trust_anchors=anchors, dangerous_mix_trust_anchors=mix)


def parse_statuses(words: tuple[str, ...]) -> tuple[TCBStatus, ...]:
    """Return the statuses of these words. ValueError for one that is unknown or can never be accepted."""
    known = {status.value: status for status in _ACCEPTABLE}
    wrong = [word for word in words if word not in known]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: not one of {', '.join(known)}")
    return tuple(known[word] for word in words)


def parse_grace(hours: int) -> timedelta:
    """Return a grace of so many hours. ValueError outside 0 to 30 days."""
    if not 0 <= hours <= MAX_GRACE // timedelta(hours=1):
        raise ValueError(f"a grace of {hours} hours is outside 0 to {MAX_GRACE // timedelta(hours=1)}")
    return timedelta(hours=hours)


def _policy_from(table: Table, *, base: Policy) -> Policy:
    """Return `base` with the fields of this table; the table must hold nothing else."""
    changes: dict[str, Any] = {}
    try:
        if (words := table.texts("allowed_tcb_statuses")) is not None:
            changes["allowed_tcb_statuses"] = parse_statuses(words)
        if (hours := table.take("collateral_grace_hours", int)) is not None:
            changes["collateral_grace"] = parse_grace(hours)
    except ValueError as error:
        raise table.wrong(str(error)) from error
    for name in ("mr_enclaves", "mr_signers"):
        if (texts := table.texts(name)) is not None:
            changes[name] = tuple(table.digest(text, name, 32) for text in texts)
    for name, maximum in _NUMBERS.items():
        if (number := table.number(name, maximum)) is not None:
            changes[name] = number
    levels = [level.label for level in BindingLevel if level is not BindingLevel.NONE]
    if (level := table.one_of("minimum_binding", _binding, levels)) is not None:
        changes["minimum_binding"] = level
    debug = "dangerous_accept_debug_enclaves"
    changes[debug] = table.take(debug, bool, default=base.dangerous_accept_debug_enclaves)
    table.finish()
    return replace(base, **changes)


_NUMBERS: Final = {"minimum_evaluation_number": 10_000, "isv_prod_id": 0xFFFF, "minimum_isv_svn": 0xFFFF}


def _binding(word: str) -> BindingLevel:
    level = BindingLevel.from_label(word)
    if level is BindingLevel.NONE or word != level.label:
        raise ValueError(word)
    return level
