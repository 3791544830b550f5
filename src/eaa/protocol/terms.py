"""What one side of one hop demands and offers: the only thing in which the hops differ.

Source: docs/manual/protocol.md, "Where it runs".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Final, TypedDict, Unpack

from eaa.appraise.result import BindingLevel, Role
from eaa.errors import Misuse, Reason

MAX_EPOCH: Final = timedelta(seconds=300)
"""How long an epoch lasts unless the relying party says otherwise; it refuses one that spans more than twice that."""


class Ending(Enum):
    """How a hop's messages end and its raw bytes begin."""

    ACCEPT = "after the verdicts"
    OPEN = "this side sends open and waits for opened"
    OPENED = "this side waits for open and sends opened"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What the exchange has to know of the TLS connection it runs on."""

    exporter: bytes
    """32 bytes, label `EXPORTER-Channel-Binding`, empty context."""
    own_spki: bytes | None
    """DER SubjectPublicKeyInfo of this side's certificate, None where it sent none."""
    peer_spki: bytes | None
    """The same of the peer's."""


class Levels(TypedDict, total=False):
    """What may be said of levels in each of the forms of `Terms`; see there."""

    level: BindingLevel
    minimum_level: BindingLevel
    maximum_epoch: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one side of one hop demands and offers."""

    own_role: Role
    """The role this side's evidence claims."""
    peer_role: Role
    """The role the peer's evidence has to claim; also names the peer in messages to people."""
    judges: bool
    """Whether this side asks for evidence. A side that asks decides; the other waits for it."""
    ending: Ending
    level: BindingLevel = BindingLevel.FRESH
    """What this side asks for."""
    minimum_level: BindingLevel = BindingLevel.CERT
    """The weakest level at which this side shows its own evidence. A server that wants more than `cert`, which its
    certificate shows to anybody, serves no client that asks for nothing."""
    maximum_epoch: timedelta = MAX_EPOCH
    """How long this side lets a peer's epoch last. For clocks' sake one is refused that spans more than twice that."""

    def __post_init__(self) -> None:
        """Refuse levels that no exchange can run at."""
        for level in (self.level, self.minimum_level):
            if level is BindingLevel.NONE:
                raise Misuse(
                    Reason.NOT_IMPLEMENTED_VALUE,
                    f"the binding level {level.label} binds nothing",
                    hint=f"choose one of {', '.join(known.label for known in BindingLevel if known)}",
                )

    @property
    def is_asked_first(self) -> bool:
        """Whether the peer, if it is one of ours, asks for evidence before it hears anything."""
        return self.own_role is Role.WORKLOAD and self.ending is Ending.ACCEPT

    @property
    def has_to_be_asked(self) -> bool:
        """Whether the peer may not go on without having asked for this side's evidence."""
        serves = self.ending is Ending.OPENED or self.own_role is Role.WORKLOAD
        return serves and self.minimum_level > BindingLevel.CERT

    @property
    def announces_verdict(self) -> bool:
        """Whether this side tells the peer its verdict."""
        return self.ending is not Ending.OPEN

    @property
    def peer_announces_verdict(self) -> bool:
        """Whether the peer, if it asks, will say `accept`."""
        return self.ending is not Ending.OPENED

    @classmethod
    def shelter_to_relay(cls, *, judges: bool, **levels: Unpack[Levels]) -> Terms:
        """Shelter's end of its connection with a relay."""
        return cls(own_role=Role.CLIENT, peer_role=Role.RELAY, judges=judges, ending=Ending.OPEN, **levels)

    @classmethod
    def relay_to_shelter(cls, *, judges: bool, **levels: Unpack[Levels]) -> Terms:
        """A relay's end of a connection from Shelter."""
        return cls(own_role=Role.RELAY, peer_role=Role.CLIENT, judges=judges, ending=Ending.OPENED, **levels)

    @classmethod
    def relay_to_workload(cls, **levels: Unpack[Levels]) -> Terms:
        """A relay's end of a channel to a workload. The relay always judges."""
        return cls(own_role=Role.RELAY, peer_role=Role.WORKLOAD, judges=True, ending=Ending.ACCEPT, **levels)

    @classmethod
    def workload_to_relay(cls, *, judges: bool, **levels: Unpack[Levels]) -> Terms:
        """A workload's end of a channel from a relay."""
        return cls(own_role=Role.WORKLOAD, peer_role=Role.RELAY, judges=judges, ending=Ending.ACCEPT, **levels)

    @classmethod
    def shelter_to_workload(cls, **levels: Unpack[Levels]) -> Terms:
        """Shelter's end of its inner session. Shelter always judges."""
        return cls(own_role=Role.CLIENT, peer_role=Role.WORKLOAD, judges=True, ending=Ending.ACCEPT, **levels)

    @classmethod
    def workload_to_shelter(cls, *, judges: bool = False, **levels: Unpack[Levels]) -> Terms:
        """A workload's end of an inner session. Ours serves any client: the client judges."""
        return cls(own_role=Role.WORKLOAD, peer_role=Role.CLIENT, judges=judges, ending=Ending.ACCEPT, **levels)
