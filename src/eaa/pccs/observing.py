"""Whoever wants to count what happens inside: told by name, from closed sets, and never what a client said."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Is told of what operators count. Called from any thread."""

    def fetched(self, route: str, outcome: str) -> None:
        """Tell of one document that was asked of the upstream: `ok`, `missing`, `failed`, or `lied` (bad signature)."""

    def refreshed(self, failures: int) -> None:
        """Tell of a refresh that is over, and how many documents could not be had."""

    def refused(self, kind: str, reason: str) -> None:
        """Tell of something stored that was not served: which route, and the reason code."""


class Nobody:
    """Counts nothing."""

    def fetched(self, route: str, outcome: str) -> None:
        """Do nothing."""

    def refreshed(self, failures: int) -> None:
        """Do nothing."""

    def refused(self, kind: str, reason: str) -> None:
        """Do nothing."""
