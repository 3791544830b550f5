"""What a relay was told: everything that a reload may change, in one frozen record that is replaced as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from eaa.errors import Reason, Unavailable
from eaa.program.address import Address
from eaa.program.options import Binding
from eaa.protocol.exchange import Levels
from eaa.verifier import Verifier

DEFAULT_WORKLOAD: Final = "default"
"""What a client asks for that names no workload, and the name of the only workload of a relay with a single --xfer."""
WARM_CHANNELS: Final = 2
MAX_WARM_CHANNELS: Final = 64
JUDGEMENT_LIFETIME: Final = 300
"""Seconds for which a judgement of a workload is relied upon without being made again."""


class OnBadVerdict(StrEnum):
    """What becomes of live sessions whose workload is not acceptable any more."""

    CUT = "cut"
    """They end at once, without a goodbye."""
    DRAIN = "drain"
    """They may finish within the grace, and are cut then. No new one begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One workload as its operator describes it."""

    name: str
    address: Address
    verifier: Verifier | None
    """Who judges it; None where it is taken as it comes."""
    on_bad_verdict: OnBadVerdict = OnBadVerdict.CUT
    warm_channels: int = WARM_CHANNELS
    """How many attested channels are kept ready."""

    @property
    def pool_size(self) -> int:
        """How many channels are kept ready; none of a workload that nobody judges, whom no channel proves anything."""
        return 0 if self.verifier is None else self.warm_channels

    def __str__(self) -> str:
        """Return name and address, for people."""
        return f"{self.name} at {self.address}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a reload may change. Where it stands in a connection it stays what it was when that began."""

    targets: Mapping[str, Target] = field(default_factory=dict)
    default: str = DEFAULT_WORKLOAD
    """Which of them is meant by a client that names none."""
    clients_verifier: Verifier | None = None
    """Who judges clients; None where they are served as they come."""
    binding: Binding = field(default_factory=Binding)
    judgement_lifetime: float = JUDGEMENT_LIFETIME
    """Seconds. Older warm channels are replaced, and live sessions are judged again."""
    grace: float = 5.0
    """Seconds that live sessions get to finish when they are drained."""

    @property
    def levels(self) -> Levels:
        """What is asked of every peer, and what this side's own evidence is shown at."""
        binding = self.binding
        return {
            "level": binding.level,
            "minimum_level": binding.minimum_level,
            "maximum_epoch": binding.maximum_epoch,
        }

    def target(self, asked: str) -> Target:
        """Return the workload that a client asks for. Raises Unavailable: WORKLOAD_UNAVAILABLE."""
        target = self.find(asked)
        if target is None:
            raise Unavailable(
                Reason.WORKLOAD_UNAVAILABLE,
                f"a client asked for the workload {asked}, which is not configured here",
                hint="--xfer NAME=ADDRESS names one; without a name it is `default`",
            )
        return target

    def find(self, asked: str) -> Target | None:
        """Return the workload that a client asks for, or None."""
        return self.targets.get(self.default if asked == DEFAULT_WORKLOAD else asked)
