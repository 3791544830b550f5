"""What a command line and its configuration file ask of a relay, and what becomes of it when its files are opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from eaa.aio.limits import ServiceLimits
from eaa.appraise.result import Role
from eaa.appraise.tables import Table
from eaa.errors import Misuse, Reason
from eaa.inclavared.settings import (
    DEFAULT_WORKLOAD,
    MAX_WARM_CHANNELS,
    OnBadVerdict,
    Settings,
    Target,
)
from eaa.program.address import NAME, Address, parse_address
from eaa.program.config import ConfigTables, unknown_key
from eaa.program.options import Attesting, Binding, Judging
from eaa.program.reload import refuse_changes
from eaa.verifier import TrustAnchors, Verifier

FIELDS: Final = ("address", "policy", "reference_values", "warm_channels", "on_bad_verdict")
"""What a table [workload.NAME] may hold; docs/manual/operating.md explains each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Where a relay can be reached; at least one of the first two."""

    listen: Address | None
    """By Shelter."""
    legacy: Address | None
    """By clients of 2021."""
    metrics: Address | None
    """By Prometheus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadWish:
    """One workload as asked for. What is None is as for all workloads."""

    address: Address
    policy: Path | None = None
    reference_values: Path | None = None
    warm_channels: int | None = None
    on_bad_verdict: OnBadVerdict | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """What only a restart can change."""

    doors: Doors
    mutual: bool
    attest_clients: bool
    attesting: Attesting
    limits: ServiceLimits
    workers: int
    log_level: str


_NAMES: Final = {
    "doors": "listen, legacy-listen or metrics",
    "attesting": "the attester or its enclave",
    "limits": "a limit",
}
"""What operators know the fields of `Fixed` by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """All that was asked for; nothing is opened yet."""

    fixed: Fixed
    judging: Judging
    binding: Binding
    workloads: Mapping[str, WorkloadWish] = field(default_factory=dict)
    default: str = DEFAULT_WORKLOAD
    warm_channels: int
    judgement_lifetime: float
    on_bad_verdict: OnBadVerdict
    grace: float

    @property
    def judged_roles(self) -> tuple[Role, ...]:
        """The roles in which peers are judged."""
        roles = ((Role.WORKLOAD, self.workloads), (Role.CLIENT, self.fixed.attest_clients))
        return tuple(role for role, judged in roles if judged)

    def judging_of(self, workload: WorkloadWish) -> Judging:
        """Return how one workload is judged."""
        policy, values = workload.policy, workload.reference_values
        return replace(
            self.judging,
            policy=self.judging.policy if policy is None else policy,
            reference_values=self.judging.reference_values if values is None else values,
        )

    def plan(self) -> dict[str, Any]:
        """Return what would run, for `--check-config`."""
        fixed, judging = self.fixed, self.judging
        return {
            "listen": _text(fixed.doors.listen),
            "legacy-listen": _text(fixed.doors.legacy),
            "metrics": _text(fixed.doors.metrics),
            "workers": fixed.workers,
            "attester": fixed.attesting.attester or "sgx_ecdsa",
            "mutual": fixed.mutual,
            "attest-clients": fixed.attest_clients,
            "judges": not judging.judges_nobody,
            "policy": _text(judging.policy),
            "reference-values": _text(judging.reference_values),
            "trust-anchors": [str(path) for path in judging.trust_anchors] or ["those of the policy, or Intel's"],
            "collateral": _text(judging.collateral or judging.pccs) or "sgx_default_qcnl.conf",
            "level": self.binding.level.label,
            "minimum-level": self.binding.minimum_level.label,
            "judgement-lifetime": self.judgement_lifetime,
            "grace": self.grace,
            "default-workload": self.default,
            "workloads": {name: self._plan_of(workload) for name, workload in self.workloads.items()},
        }

    def _plan_of(self, workload: WorkloadWish) -> dict[str, Any]:
        judging = self.judging_of(workload)
        return {
            "address": str(workload.address),
            "policy": _text(judging.policy),
            "reference-values": _text(judging.reference_values),
            "warm-channels": self._warm_channels(workload),
            "on-bad-verdict": str(workload.on_bad_verdict or self.on_bad_verdict),
        }

    def _warm_channels(self, workload: WorkloadWish) -> int:
        return self.warm_channels if workload.warm_channels is None else workload.warm_channels


def _text(value: object) -> str | None:
    return None if value is None else str(value)


# --- from options and tables


def wished_workloads(
    addresses: Iterable[tuple[str, Address]],
    policies: Iterable[tuple[str, Path]],
    values: Iterable[tuple[str, Path]],
    tables: ConfigTables,
) -> dict[str, WorkloadWish]:
    """Return the workloads that flags and tables name together; flags win. Raises Misuse."""
    wishes = {name: _wish_of(name, table, tables) for name, table in tables.of("workload").items()}
    named = _once("--xfer", addresses)
    for name, address in named.items():
        wishes[name] = {**wishes.get(name, {}), "address": address}
    for option, files, key in (
        ("--workload-policy", policies, "policy"),
        ("--workload-reference-values", values, "reference_values"),
    ):
        for name, path in _once(option, files).items():
            if name not in wishes:
                raise Misuse(
                    Reason.USAGE, f"{option} names the workload {name}, which is not configured", hint="see --xfer"
                )
            wishes[name][key] = path
    for name, wish in wishes.items():
        if "address" not in wish:
            raise Misuse(
                Reason.CONFIG_INVALID,
                f"the workload {name} has no address",
                hint=f'write address = "tcp://HOST:PORT" below [workload.{name}], or say --xfer {name}=ADDRESS',
            )
    return {name: WorkloadWish(**wish) for name, wish in wishes.items()}


def _once(option: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for name, value in pairs:
        if name in named:
            raise Misuse(Reason.USAGE, f"{option} names a workload twice", hint="give each its own NAME=…")
        named[name] = value
    return named


def _wish_of(name: str, values: Mapping[str, Any], tables: ConfigTables) -> dict[str, Any]:
    where = f"the configuration file {tables.path}, [workload.{name}]"
    if not NAME.fullmatch(name):
        raise Misuse(
            Reason.CONFIG_INVALID, f"{where}: {name!r} is no name of a workload", hint="letters, digits, . _ -"
        )
    fields = {key.replace("-", "_"): value for key, value in values.items()}
    for key in fields:
        if key not in FIELDS:
            raise unknown_key(where, key, [field.replace("_", "-") for field in FIELDS])
    table = Table(fields, where=where, reason=Reason.CONFIG_INVALID)
    address = table.take("address", str)
    policy, reference_values = table.take("policy", str), table.take("reference_values", str)
    wish = {
        "address": None if address is None else parse_address(address),
        "policy": None if policy is None else tables.located(policy),
        "reference_values": None if reference_values is None else tables.located(reference_values),
        "warm_channels": table.number("warm_channels", MAX_WARM_CHANNELS),
        "on_bad_verdict": table.one_of("on_bad_verdict", OnBadVerdict, list(OnBadVerdict)),
    }
    table.finish()
    return {key: value for key, value in wish.items() if value is not None}


def default_among(workloads: Mapping[str, WorkloadWish], named: str | None) -> str:
    """Return which workload is meant by a client that names none. Raises Misuse."""
    if named is None:
        only = next(iter(workloads)) if len(workloads) == 1 else DEFAULT_WORKLOAD
        return DEFAULT_WORKLOAD if DEFAULT_WORKLOAD in workloads else only
    if named not in workloads:
        raise Misuse(
            Reason.USAGE,
            f"--default-workload {named} is not configured",
            hint=f"workloads are {', '.join(workloads) or 'not there at all: see --xfer'}",
        )
    return named


# --- opening


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A wish with all its files read: what a relay goes by."""

    wish: Wish
    settings: Settings
    verifier: Verifier | None
    """That of the policy for all; None where nobody is judged."""
    families: Mapping[TrustAnchors, Verifier]
    """Verifiers that share what they fetch and verify with all others of the same trust anchors."""

    @classmethod
    def of(cls, wish: Wish, *, former: Opened | None = None) -> Self:
        """Read the files of a wish.

        Args:
            wish: what was asked for.
            former: what it takes the place of. Collateral that it has fetched is kept where it comes from the same
                PCCS; what comes from files is read anew. Whatever nobody can be accepted by any more is no mistake
                then: an operator may take the last reference value away.

        Raises:
            Misuse: a file cannot be read or does not say what it should.
            Unavailable: a file is locked by another program.
        """
        if former is not None:
            refuse_changes(former.wish.fixed, wish.fixed, names=_NAMES)
        judging = wish.judging
        judging.require_known_verifier()
        if judging.judges_nobody:
            return cls(wish=wish, settings=_settings(wish, {}, None), verifier=None, families={})
        roles = wish.judged_roles if former is None else ()
        shelf = _Verifiers(former if former and _same_source(former.wish.judging, judging) else None)
        verifier = shelf.get(judging)
        workloads = {name: shelf.get(wish.judging_of(workload)) for name, workload in wish.workloads.items()}
        for role in roles:
            for judge in workloads.values() if role is Role.WORKLOAD else (verifier,):
                judge.require_values_for(role)
                judge.require_level_for(role, wish.binding.level)
        return cls(
            wish=wish,
            settings=_settings(wish, workloads, verifier if wish.fixed.attest_clients else None),
            verifier=verifier,
            families=shelf.families,
        )


class _Verifiers:
    """Makes verifiers, of which those that believe the same roots share what they fetch."""

    def __init__(self, former: Opened | None) -> None:
        self.families: dict[TrustAnchors, Verifier] = {} if former is None else dict(former.families)
        self._made: dict[tuple[Path | None, Path | None], Verifier] = {}

    def get(self, judging: Judging) -> Verifier:
        key = (judging.policy, judging.reference_values)
        if key not in self._made:
            self._made[key] = self._make(judging)
        return self._made[key]

    def _make(self, judging: Judging) -> Verifier:
        policy = judging.policy_file(Role.WORKLOAD)
        anchors = judging.anchors(policy)
        if anchors not in self.families:
            self.families[anchors] = judging.open(flags_for=Role.WORKLOAD)
            return self.families[anchors]
        return self.families[anchors].with_judgement_by(
            policy=policy, reference_values=judging.values(), floor=judging.floor(), pins=judging.pins()
        )


def _same_source(one: Judging, other: Judging) -> bool:
    """Whether collateral comes from the same PCCS; files, and what another file names, are always read anew."""
    return one.pccs is not None and all(
        getattr(one, name) == getattr(other, name)
        for name in ("pccs", "pccs_ca", "collateral", "accept_stapled_collateral")
    )


def _settings(wish: Wish, verifiers: Mapping[str, Verifier], clients: Verifier | None) -> Settings:
    return Settings(
        targets={
            name: Target(
                name=name,
                address=workload.address,
                verifier=verifiers.get(name),
                on_bad_verdict=workload.on_bad_verdict or wish.on_bad_verdict,
                warm_channels=wish.warm_channels if workload.warm_channels is None else workload.warm_channels,
            )
            for name, workload in wish.workloads.items()
        },
        default=wish.default,
        clients_verifier=clients,
        binding=wish.binding,
        judgement_lifetime=wish.judgement_lifetime,
        grace=wish.grace,
    )
