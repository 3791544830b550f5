"""What a command line and its configuration file ask of a workload, and what a reload may change of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from eaa.aio.limits import ServiceLimits
from eaa.appraise.result import Role
from eaa.errors import Misuse, Reason
from eaa.program.address import Address
from eaa.program.options import Attesting, Binding, Judging
from eaa.program.reload import refuse_changes
from eaa.verifier import Verifier

_NAMES: Final = {
    "address": "listen, ip or port",
    "attesting": "the attester or its enclave",
    "limits": "a limit",
    "source": "verifier, trust-anchor, pccs, pccs-ca or collateral",
}
"""What operators know the fields of `Fixed` by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """What only a restart can change: a library OS has room for so many threads, and collateral needs some."""

    address: Address
    app: Address | None
    metrics: Address | None
    mutual: bool
    attesting: Attesting
    limits: ServiceLimits
    log_level: str
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Whether anybody is judged, and where collateral comes from."""

    verifier: str | None
    pccs: str | None
    pccs_ca: Path | None
    collateral: Path | None
    trust_anchors: tuple[Path, ...]

    @classmethod
    def of(cls, judging: Judging) -> Self:
        """Take it out of the options."""
        return cls(**{name: getattr(judging, name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """All that was asked for; nothing is opened yet."""

    fixed: Fixed
    judging: Judging
    binding: Binding
    grace: float
    """Seconds that live sessions get to finish when it is told to stop."""

    @property
    def judges(self) -> bool:
        """Whether relays are judged."""
        return self.fixed.mutual and not self.judging.judges_nobody

    def plan(self) -> dict[str, Any]:
        """Return what would run, for `--check-config`."""
        fixed, judging = self.fixed, self.judging
        return {
            "listen": str(fixed.address),
            "app": "the reference greeting" if fixed.app is None else str(fixed.app),
            "metrics": _text(fixed.metrics),
            "attester": fixed.attesting.attester or "sgx_ecdsa",
            "mutual": fixed.mutual,
            "judges-relays": self.judges,
            "policy": _text(judging.policy),
            "reference-values": _text(judging.reference_values),
            "trust-anchors": [str(path) for path in judging.trust_anchors] or ["those of the policy, or Intel's"],
            "collateral": _text(judging.collateral or judging.pccs) or "sgx_default_qcnl.conf",
            "level": self.binding.level.label,
            "minimum-level": self.binding.minimum_level.label,
            "grace": self.grace,
        }


def _text(value: object) -> str | None:
    return None if value is None else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A wish with all its files read: what a workload goes by."""

    wish: Wish
    verifier: Verifier | None
    """Who judges relays; None where they are taken as they come."""

    @classmethod
    def of(cls, wish: Wish, *, former: Opened | None = None) -> Self:
        """Read the files of a wish.

        Args:
            wish: what was asked for.
            former: what it takes the place of, whose collateral is kept. Whatever nobody can be accepted by any more is
                no mistake then: an operator may take the last reference value away.

        Raises:
            Misuse: a file cannot be read or does not say what it should.
            Unavailable: a file is locked by another program.
        """
        if former is not None:
            refuse_changes(former.wish.fixed, wish.fixed, names=_NAMES)
        if not wish.judges:
            return cls(wish=wish, verifier=None)
        judging = wish.judging
        if former is None or former.verifier is None:
            return cls(wish=wish, verifier=judging.open(Role.RELAY, flags_for=Role.RELAY, level=wish.binding.level))
        policy = judging.policy_file(Role.RELAY)
        if judging.anchors(policy) != former.verifier.trust_anchors:
            raise Misuse(
                Reason.CONFIG_INVALID,
                "the policy's trust anchors cannot change while the service runs",
                hint="restart it, or take the change back",
            )
        again = former.verifier.with_judgement_by(
            policy=policy, reference_values=judging.values(), floor=judging.floor(), pins=judging.pins()
        )
        return cls(wish=wish, verifier=again)
