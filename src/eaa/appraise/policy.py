"""Appraisal policy: what a relying party accepts. Every default is the strict one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import Any, Final

from eaa.appraise.platforms import PlatformID
from eaa.appraise.result import BindingLevel, Role
from eaa.appraise.tables import Table, load_toml
from eaa.errors import Misuse, Reason
from eaa.evidence.tdx import TDAttribute
from eaa.verify.tcb import TCBStatus

__all__ = [
    "MAX_GRACE",
    "MAX_STATUS_GRACE",
    "OPTIONAL_TD_ATTRIBUTES",
    "Policy",
    "PolicyFile",
    "TCBStatus",
    "parse_grace",
    "parse_statuses",
]

MAX_GRACE: Final = timedelta(days=30)
"""Intel's own period between two issues of a document: a longer grace would be no freshness at all."""
MAX_STATUS_GRACE: Final = timedelta(days=365)
"""Who needs more than a year for an update does not intend to make it; the status can be accepted by name."""
OPTIONAL_TD_ATTRIBUTES: Final = tuple(
    str(bit.name) for bit in TDAttribute if bit not in (TDAttribute.DEBUG, TDAttribute.SEPT_VE_DISABLE)
)
"""Attributes that a policy may allow by name; the other two have fields of their own."""

_ACCEPTABLE: Final = tuple(status for status in TCBStatus if status is not TCBStatus.REVOKED)
_ADVISORY: Final = re.compile(r"[A-Z0-9][A-Z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is asked of the evidence of one role, beside matching a reference value.

    Where a tuple of digests is empty, the field is left to the reference values.
    """

    # The platform.
    platforms: tuple[PlatformID, ...] = ()
    """The only machines that are accepted; any, where this is empty."""
    allowed_tcb_statuses: tuple[TCBStatus, ...] = (TCBStatus.UP_TO_DATE,)
    status_grace: tuple[tuple[TCBStatus, timedelta], ...] = ()
    """Statuses that are accepted for so long after the platform fell behind, see `TCBFacts.behind_since`."""
    allowed_advisories: tuple[str, ...] | None = None
    """The only advisories that may apply to the platform; None for any that its status allows."""
    denied_advisories: tuple[str, ...] = ()
    """Advisories that must not apply, whatever else is allowed."""
    refuse_dynamic_platform: bool = False
    """Refuse machines to which packages can be added, and those whose certificate does not tell."""
    refuse_cached_keys: bool = False
    """Refuse machines whose keys Intel keeps, and those whose certificate does not tell."""
    refuse_smt: bool = False
    """Refuse machines with simultaneous multithreading, and those whose certificate does not tell."""

    # The documents that speak for it.
    minimum_evaluation_number: int = 0
    """The lowest tcbEvaluationDataNumber of TCB Info and QE identity."""
    collateral_grace: timedelta = timedelta(0)
    """How long past its nextUpdate a TCB Info, QE identity or CRL may still be used."""
    tcb_info_grace: timedelta | None = None
    """The same for TCB Info alone; this and the next two in place of `collateral_grace` where they are given."""
    qe_identity_grace: timedelta | None = None
    crl_grace: timedelta | None = None

    # The session.
    minimum_binding: BindingLevel = BindingLevel.FRESH

    # Enclaves.
    mr_enclaves: tuple[bytes, ...] = ()
    """Allowed measurements, 32 bytes each."""
    mr_signers: tuple[bytes, ...] = ()
    """Allowed signers, 32 bytes each."""
    isv_prod_id: int | None = None
    minimum_isv_svn: int = 0
    isv_ext_prod_ids: tuple[bytes, ...] = ()
    """16 bytes each; this and the next three are of enclaves with key separation and sharing (KSS)."""
    isv_family_ids: tuple[bytes, ...] = ()
    """16 bytes each."""
    config_ids: tuple[bytes, ...] = ()
    """64 bytes each."""
    minimum_config_svn: int = 0

    # Trust domains.
    mr_tds: tuple[bytes, ...] = ()
    """Allowed measurements of a domain's initial memory, 48 bytes each, as all that follow."""
    rtmr0: tuple[bytes, ...] = ()
    rtmr1: tuple[bytes, ...] = ()
    rtmr2: tuple[bytes, ...] = ()
    rtmr3: tuple[bytes, ...] = ()
    mr_config_ids: tuple[bytes, ...] = ()
    mr_owners: tuple[bytes, ...] = ()
    mr_owner_configs: tuple[bytes, ...] = ()
    mr_seams: tuple[bytes, ...] = ()
    """Allowed TDX modules."""
    mr_service_tds: tuple[bytes, ...] = ()
    """Service domains that may be bound to a domain; none are, where this is empty."""
    xfams: tuple[bytes, ...] = ()
    """Allowed sets of extended features, 8 bytes each."""
    allowed_td_attributes: tuple[str, ...] = ()
    """Names of OPTIONAL_TD_ATTRIBUTES. The host chooses attributes, and no measurement covers them."""
    dangerous_accept_sept_ve: bool = False
    """Accept domains without SEPT_VE_DISABLE: their host can make them fault wherever it likes."""

    dangerous_accept_debug_enclaves: bool = False

    @property
    def longest_grace(self) -> timedelta:
        """How long past its date any document may be used: what verification is told, before appraisal is exact."""
        return max(self.grace_of(name) for name in ("TCB Info", "QE identity", "CRL"))

    def grace_of(self, document: str) -> timedelta:
        """Return how long past its date the document of this name may be used; verification gives it the name."""
        graces = {"TCB Info": self.tcb_info_grace, "QE identity": self.qe_identity_grace}
        grace = graces.get(document, self.crl_grace)
        return self.collateral_grace if grace is None else grace


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


_DIGESTS: Final = {
    "mr_enclaves": 32,
    "mr_signers": 32,
    "isv_ext_prod_ids": 16,
    "isv_family_ids": 16,
    "config_ids": 64,
    "mr_tds": 48,
    "rtmr0": 48,
    "rtmr1": 48,
    "rtmr2": 48,
    "rtmr3": 48,
    "mr_config_ids": 48,
    "mr_owners": 48,
    "mr_owner_configs": 48,
    "mr_seams": 48,
    "mr_service_tds": 48,
    "xfams": 8,
}
"""Lists of hex, and how many bytes each of their digests has."""
_NUMBERS: Final = {
    "minimum_evaluation_number": 10_000,
    "isv_prod_id": 0xFFFF,
    "minimum_isv_svn": 0xFFFF,
    "minimum_config_svn": 0xFFFF,
}
_GRACES: Final = ("collateral_grace", "tcb_info_grace", "qe_identity_grace", "crl_grace")
_FLAGS: Final = (
    *("refuse_dynamic_platform", "refuse_cached_keys", "refuse_smt"),
    *("dangerous_accept_sept_ve", "dangerous_accept_debug_enclaves"),
)


def _policy_from(table: Table, *, base: Policy) -> Policy:
    """Return `base` with the fields of this table; the table must hold nothing else."""
    changes = _platform_fields(table)
    for name, size in _DIGESTS.items():
        if (texts := table.texts(name)) is not None:
            changes[name] = tuple(table.digest(text, name, size) for text in texts)
    for name, maximum in _NUMBERS.items():
        if (number := table.number(name, maximum)) is not None:
            changes[name] = number
    levels = [level.label for level in BindingLevel if level is not BindingLevel.NONE]
    if (level := table.one_of("minimum_binding", _binding, levels)) is not None:
        changes["minimum_binding"] = level
    if (names := table.texts("allowed_td_attributes")) is not None:
        changes["allowed_td_attributes"] = tuple(table.known(name, OPTIONAL_TD_ATTRIBUTES) for name in names)
    for name in _FLAGS:
        changes[name] = table.take(name, bool, default=getattr(base, name))
    table.finish()
    return replace(base, **changes)


def _platform_fields(table: Table) -> dict[str, Any]:
    """Take what is asked of the platform and its documents."""
    changes: dict[str, Any] = {}
    try:
        if (texts := table.texts("platforms")) is not None:
            changes["platforms"] = tuple(PlatformID.parse(text) for text in texts)
        if (words := table.texts("allowed_tcb_statuses")) is not None:
            changes["allowed_tcb_statuses"] = parse_statuses(words)
        for name in _GRACES:
            if (hours := table.take(f"{name}_hours", int)) is not None:
                changes[name] = parse_grace(hours)
        if (days := table.take("status_grace_days", dict)) is not None:
            changes["status_grace"] = tuple(_status_grace(table, status, number) for status, number in days.items())
    except ValueError as error:
        raise table.wrong(str(error)) from error
    # An empty list of allowed advisories says something: that none may apply.
    if (ids := table.texts("allowed_advisories", may_be_empty=True)) is not None:
        changes["allowed_advisories"] = _advisories(table, ids)
    if (ids := table.texts("denied_advisories")) is not None:
        changes["denied_advisories"] = _advisories(table, ids)
    return changes


def _status_grace(table: Table, status: str, days: object) -> tuple[TCBStatus, timedelta]:
    maximum = MAX_STATUS_GRACE.days
    if not isinstance(days, int) or isinstance(days, bool) or not 1 <= days <= maximum:
        raise table.wrong(f"status_grace_days: {status} must be a whole number of days from 1 to {maximum}")
    return parse_statuses((status,))[0], timedelta(days=days)


def _advisories(table: Table, ids: tuple[str, ...]) -> tuple[str, ...]:
    wrong = [text for text in ids if not _ADVISORY.fullmatch(text)]
    if wrong:
        raise table.wrong(f"{wrong[0]!r} is no advisory", hint="write it as Intel does, INTEL-SA-00615 for instance")
    return ids


def _binding(word: str) -> BindingLevel:
    level = BindingLevel.from_label(word)
    if level is BindingLevel.NONE or word != level.label:
        raise ValueError(word)
    return level
