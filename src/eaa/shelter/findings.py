"""What `shelter doctor` says: one line for each thing that it looked at, and a remedy for each that is not well."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from eaa.errors import EAAError


class Status(StrEnum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    status: Status
    message: str
    remedy: str | None = None
    error: EAAError | None = field(default=None, repr=False)
    """Where it failed: decides the exit code."""

    def to_json(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        reason = None if self.error is None else str(self.error.reason)
        return {
            "name": self.name,
            "status": str(self.status),
            "reason": reason,
            "message": self.message,
            "remedy": self.remedy,
        }


def well(name: str, message: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(name=name, status=Status.OK, message=message)


def odd(name: str, message: str, remedy: str) -> Finding:
    """Return that something works, and should not be like that."""
    return Finding(name=name, status=Status.WARNING, message=message, remedy=remedy)


def failed(name: str, error: EAAError) -> Finding:
    """Return that something does not work; the remedy is the error's hint."""
    return Finding(
        name=name, status=Status.FAILED, message=f"{error.message} [{error.reason}]", remedy=error.hint, error=error
    )
