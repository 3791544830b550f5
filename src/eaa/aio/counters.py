"""What this process has done with its peers, counted for metrics.

There is one set of counters a process, as there is one set of logs: whoever handshakes or judges counts, and whoever
serves metrics reads. What is counted by are closed sets, ours and never a peer's words.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Final

from eaa.appraise.result import Role
from eaa.errors import EAAError, Reason

COMPLETED: Final = "completed"
"""The outcome of a handshake that succeeded; every other outcome is a reason code."""
ACCEPTED: Final = "ACCEPTED"
"""In place of a reason where a verdict was good."""


class Side(StrEnum):
    """Who began a connection."""

    ACCEPTING = "accepting"
    CONNECTING = "connecting"


class Layer(StrEnum):
    """Whether a TLS connection is on a socket or inside another one."""

    OUTER = "outer"
    INNER = "inner"


class Limit(StrEnum):
    """What a peer was refused by; the names are those of the options."""

    CONNECTIONS = "connections"
    CONNECTIONS_PER_ADDRESS = "connections_per_address"
    HANDSHAKE_RATE = "handshake_rate"
    HANDSHAKE_RATE_PER_ADDRESS = "handshake_rate_per_address"
    HALF_OPEN = "half_open"
    DESCRIPTORS = "descriptors"
    QUOTES = "quotes"
    QUOTES_PER_ADDRESS = "quotes_per_address"
    REQUEST = "request"


class Counters:
    """Numbers that only grow, and when a verdict was last good."""

    def __init__(self) -> None:
        self.handshakes: Counter[tuple[Side, Layer, str]] = Counter()
        """By who began, where, and how they ended: COMPLETED or a reason code."""
        self.verdicts: Counter[tuple[Role, str]] = Counter()
        """By the role in which the evidence appeared, and ACCEPTED or a reason code."""
        self.sessions: Counter[str] = Counter()
        """Sessions that were carried to their end, by COMPLETED or the code of what ended them."""
        self.refused: Counter[Limit] = Counter()
        """Peers that a limit has kept out."""
        self.accepted_at: dict[Role, float] = {}
        """When evidence was last accepted in each role, on the monotonic clock."""

    def handshake(self, side: Side, layer: Layer) -> AbstractContextManager[None]:
        """Count a handshake by how it ends. One that this side gives up, at its end for instance, is not counted."""
        return _Counted(self.handshakes, side, layer)

    def accepted(self, role: Role) -> None:
        """Count a good verdict."""
        self.verdicts[role, ACCEPTED] += 1
        self.accepted_at[role] = time.monotonic()

    def not_accepted(self, role: Role, reason: Reason) -> None:
        """Count evidence that was refused, or could not be judged."""
        self.verdicts[role, reason] += 1


class _Counted:
    """A handshake that goes on."""

    __slots__ = ("_handshakes", "_layer", "_side")

    def __init__(self, handshakes: Counter[tuple[Side, Layer, str]], side: Side, layer: Layer) -> None:
        self._handshakes = handshakes
        self._side = side
        self._layer = layer

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Count it."""
        if error is None:
            outcome = COMPLETED
        elif isinstance(error, EAAError):
            outcome = error.reason
        elif isinstance(error, Exception):
            outcome = Reason.INTERNAL
        else:
            return
        self._handshakes[self._side, self._layer, outcome] += 1


COUNTERS: Final = Counters()
"""This process's."""
