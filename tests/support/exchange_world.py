"""Both ends of every hop without TLS: what TLS would say of the session is made up, and can be made up differently."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from eaa.appraise.result import BindingLevel
from eaa.evidence.tagged import TaggedEvidence
from eaa.protocol import messages
from eaa.protocol.exchange import (
    Event,
    EvidenceReceived,
    EvidenceWanted,
    Exchange,
    OpenedReceived,
    OpenReceived,
    PeerAccepted,
    Session,
    Terms,
)
from support.epochs import NOW, MadeEpoch

EXPORTER = bytes(range(32))
CLIENT_KEY = b"the client's SubjectPublicKeyInfo"
SERVER_KEY = b"the server's SubjectPublicKeyInfo"
CLIENT_NONCE = b"c" * 32
SERVER_NONCE = b"s" * 32
QUOTE = b"a quote that the TEE gave"

LEVELS = (BindingLevel.CERT, BindingLevel.SESSION, BindingLevel.FRESH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """The terms of both ends of one hop."""

    client: Terms
    server: Terms

    def at(self, level: BindingLevel) -> Ends:
        return Ends(client=replace(self.client, level=level), server=replace(self.server, level=level))


HOPS: dict[str, Ends] = {
    "shelter-relay": Ends(client=Terms.shelter_to_relay(judges=True), server=Terms.relay_to_shelter(judges=False)),
    "shelter-relay-unjudged": Ends(
        client=Terms.shelter_to_relay(judges=False), server=Terms.relay_to_shelter(judges=False)
    ),
    "shelter-relay-mutual": Ends(
        client=Terms.shelter_to_relay(judges=True), server=Terms.relay_to_shelter(judges=True)
    ),
    "relay-workload": Ends(client=Terms.relay_to_workload(), server=Terms.workload_to_relay(judges=False)),
    "relay-workload-mutual": Ends(client=Terms.relay_to_workload(), server=Terms.workload_to_relay(judges=True)),
    "shelter-workload": Ends(client=Terms.shelter_to_workload(), server=Terms.workload_to_shelter()),
}


def client_session(**changes: Any) -> Session:
    return replace(Session(exporter=EXPORTER, own_spki=CLIENT_KEY, peer_spki=SERVER_KEY), **changes)


def server_session(**changes: Any) -> Session:
    return replace(Session(exporter=EXPORTER, own_spki=SERVER_KEY, peer_spki=CLIENT_KEY), **changes)


def client_of(ends: Ends, *, session: Session | None = None) -> Exchange:
    return Exchange(session=session or client_session(), terms=ends.client, nonce=CLIENT_NONCE, now=NOW)


def server_of(ends: Ends, *, session: Session | None = None) -> Exchange:
    return Exchange(session=session or server_session(), terms=ends.server, nonce=SERVER_NONCE, now=NOW)


class End:
    """A caller of an exchange who answers everything and accepts everything, and keeps a diary."""

    def __init__(self, exchange: Exchange, *, opens: bool = False, quote: bytes | None = QUOTE) -> None:
        self.exchange = exchange
        self.events: list[Event] = []
        self._wants_to_open = opens
        self._quote = quote

    def receive(self, data: bytes) -> None:
        for event in self.exchange.receive(data):
            self.on_event(event)

    def on_event(self, event: Event) -> None:
        self.events.append(event)
        match event:
            case EvidenceWanted():
                self.answer(event)
            case EvidenceReceived():
                self.exchange.accept()
            case OpenReceived():
                self.exchange.opened()
            case PeerAccepted() | OpenedReceived():
                pass

    def answer(self, wanted: EvidenceWanted) -> None:
        """Show what is asked for, at any level."""
        if wanted.level is not BindingLevel.SESSION or self._quote is None:
            self.exchange.answer(self._quote)
            return
        epoch = MadeEpoch.of(self.exchange._session.own_spki or b"", self.exchange._terms.own_role)
        self.exchange.answer(epoch.quote, epoch=epoch.answer(wanted))

    def go_on(self) -> None:
        """Open once everything else is said."""
        if self._wants_to_open and not self.exchange.finished:
            self._wants_to_open = False
            self.exchange.open("workload")


def run(client: End, server: End, *, rounds: int = 6) -> None:
    """Carry messages both ways until nobody has anything left to say."""
    for _ in range(rounds):
        for source, sink in ((client, server), (server, client)):
            data = source.exchange.data_to_send()
            if data:
                sink.receive(data)
    client.go_on()
    for _ in range(2):
        for source, sink in ((client, server), (server, client)):
            data = source.exchange.data_to_send()
            if data:
                sink.receive(data)


def evidence_message(*, claims: bytes, quote: bytes = QUOTE) -> bytes:
    tagged = TaggedEvidence(evidence=quote, claims=claims).encode()
    return messages.encode(messages.Evidence(evidence=tagged))


def events_of(end: End) -> list[type]:
    return [type(event) for event in end.events]
