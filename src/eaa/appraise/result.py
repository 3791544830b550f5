"""What an appraisal answers: Accepted or Rejected, with every check that ran (RFC 9334: Attestation Result)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from eaa.errors import Reason
from eaa.records import quick


class Role(StrEnum):
    """In which part of the system a peer shows its evidence."""

    WORKLOAD = "workload"
    RELAY = "relay"
    CLIENT = "client"


class Attests(StrEnum):
    """What accepted evidence speaks for: the very process at the other end, or only its platform."""

    PROCESS = "process"
    PLATFORM = "platform"


class BindingLevel(IntEnum):
    """How closely evidence is tied to the session in which it is used; a higher number is stronger."""

    NONE = 0
    CERT = 1
    SESSION = 2
    FRESH = 3

    @property
    def label(self) -> str:
        """The name on the wire and in answers."""
        return self.name.lower()

    @classmethod
    def from_label(cls, label: str) -> BindingLevel:
        """Return the level of that name; ValueError where there is none."""
        try:
            return cls[label.upper()]
        except KeyError:
            raise ValueError(label) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question asked of the evidence."""

    name: str
    """Stable, snake_case."""
    passed: bool
    reason: Reason
    """The code that a failure of this check has."""
    expected: str
    actual: str
    clause: str
    """The policy field, reference value or specification that asks for it."""
    hint: str | None = None


new_check: Final = quick(Check)
"""Makes one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppraisalResult:
    """What both answers share. `evidence_digest` and `report_data` say for exactly which evidence it was made."""

    role: Role
    binding: BindingLevel
    evidence_digest: bytes
    """SHA-256 of the evidence bytes (the quote)."""
    report_data: bytes
    """64 bytes, what the relying party computed and the evidence contains."""
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted(AppraisalResult):
    """Every check passed. Only this opens a channel, and only to the peer it was made for."""

    reference_value: str
    """The name of the value that matched."""
    attests: Attests


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected(AppraisalResult):
    """At least one check failed."""

    @property
    def root_cause(self) -> Check:
        """The first check that failed; checks run from what explains most to what explains least."""
        return next(check for check in self.checks if not check.passed)
