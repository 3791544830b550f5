"""A genuine node of real processes, and an attacker who owns everything around it.

The attacker owns the network and every host; TEEs keep their promises, but a key may have leaked out of one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from eaa.appraise.result import BindingLevel, Role
from eaa.attesters import Attester
from eaa.errors import Reason
from eaa.identity import Epoch, Identity
from eaa.protocol.exchange import ALPN_INNER, EpochSignature, EvidenceWanted, Terms
from eaa.protocol.messages import Attest, Evidence
from support.flow import answer_of
from support.peers import Leaf, Quoter, TLSSession, Wire, mallory
from support.system import Done, Site

HELLO = b"hello from shelter"
"""What Shelter says to a workload it has accepted: what attackers are after."""
CERT, SESSION, FRESH = BindingLevel.CERT, BindingLevel.SESSION, BindingLevel.FRESH
LEVELS = {
    level: ("--level", level.label, "--minimum-binding", level.label) if level is not FRESH else ()
    for level in (CERT, SESSION, FRESH)
}
"""What Shelter is told, for it to ask for a level; left alone it asks for the strongest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A genuine node, and what the attacker has."""

    site: Site
    workload: str
    relay: str
    relay_tee: Attester
    """A genuine relay's enclave. Its host is the attacker's, who has it quote whatever he likes."""
    workload_tee: Attester
    """The same of a workload."""
    key: Leaf
    """A TLS key of the attacker's."""
    leaked: Identity
    """A genuine workload, whose TLS key has leaked."""
    own_relay: Identity
    """A genuine relay on a host of the attacker's: it keeps its promises to Shelter, and he has all that it relays."""
    loot: list[bytes] = field(default_factory=list)
    """What the victim said to the attacker in the inner session."""
    dialled: list[Wire] = field(default_factory=list)

    def dial(self, address: str) -> Wire:
        """Connect to a part of the genuine node."""
        self.dialled.append(Wire.to(address))
        return self.dialled[-1]

    # The genuine node.

    def channel(self) -> TLSSession:
        """A channel to the genuine workload, with the genuine evidence of a relay."""
        session = TLSSession(self.dial(self.workload), leaf=self.key).handshake()
        session.exchange(Terms.relay_to_workload(), quotes_of(self.relay_tee))
        return session

    def inside(self) -> TLSSession:
        """A session that ends in the genuine workload."""
        return TLSSession(self.channel(), alpn=(ALPN_INNER,)).handshake()

    # The attacker's stand-ins.

    def outer(self, wire: Wire, leaf: Leaf | None = None) -> TLSSession:
        """What a client of the attacker's relay meets, after the handshake."""
        return TLSSession(wire, leaf=leaf or self.key, server_side=True).handshake()

    def accepted_relay(self, wire: Wire) -> TLSSession:
        """The same with the channel opened: this part of the node is what it should be."""
        session = self.outer(wire, leaf_of(self.own_relay))
        session.exchange(Terms.relay_to_shelter(judges=False), answers_of(self.own_relay, Role.RELAY))
        return session

    def inner(self, wire: Wire, leaf: Leaf | None = None) -> tuple[TLSSession, Attest]:
        """The inner session, which ends at the attacker's, and what is asked of the workload in it."""
        outer = self.accepted_relay(wire)
        session = TLSSession(outer, leaf=leaf or self.key, alpn=(ALPN_INNER,), server_side=True).handshake()
        return session, asked_in(session)

    def plunder(self, session: TLSSession) -> None:
        """Take what the victim says next, and be polite."""
        said = b""
        while HELLO not in said and (data := session.receive()):
            said += data
        self.loot.append(said)
        if HELLO in said:
            session.send(b"Thank you")
            session.goodbye()


def quotes_of(attester: Attester) -> Callable[[EvidenceWanted], bytes]:
    """A TEE that quotes what its host, the attacker, wants: enough at levels cert and fresh."""
    return lambda wanted: attester.quote(wanted.report_data)


def answers_of(identity: Identity, role: Role) -> Quoter:
    """What a program that keeps its promises answers, at any level."""

    def answer(wanted: EvidenceWanted) -> bytes | tuple[bytes, EpochSignature] | None:
        if wanted.level is CERT:
            return identity.credentials().quote
        if wanted.level is FRESH:
            return identity.quote(wanted.report_data)
        epoch = epoch_of(identity, role)
        signature = epoch.sign(wanted.statement(epoch.digest))
        return epoch.quote, EpochSignature(claims=epoch.claims, signature=signature)

    return answer


def epoch_of(identity: Identity, role: Role) -> Epoch:
    """The live epoch of an identity that has an attester."""
    epoch = identity.epoch(role)
    assert epoch
    return epoch


def asked_in(session: TLSSession) -> Attest:
    asked = session.hear()
    assert isinstance(asked, Attest)
    return asked


def leaf_of(identity: Identity) -> Leaf:
    """The TLS key of an identity, which is supposed to stay in its TEE."""
    credentials = identity.credentials()
    return Leaf(private_key=credentials.private_key, certificate=credentials.certificate)


def certified(identity: Identity) -> Evidence:
    """The evidence that an identity's certificate carries: anybody who has seen the certificate has it."""
    tagged = identity.credentials().evidence
    assert tagged
    return Evidence(evidence=tagged.encode())


Attack = Callable[[World, Wire], None]


def attested(world: World, attack: Attack, level: BindingLevel, *options: str) -> Done:
    """Let Shelter attest a node that is the attacker's."""
    with mallory(functools.partial(attack, world)) as address:
        return world.site.shelter(address, "--json", *LEVELS[level], *options)


def refused(world: World, done: Done, reason: Reason) -> dict[str, object]:
    answer = answer_of(done)
    assert (answer["reason"], done.code != 0) == (reason, True), answer
    assert answer["verdict"] != "accepted"
    assert not any(HELLO in said for said in world.loot)
    return answer


def fooled(world: World, done: Done) -> None:
    answer = answer_of(done)
    assert (answer["verdict"], done.code) == ("accepted", 0), answer
    assert any(HELLO in said for said in world.loot)


def with_one_measurement_in_both_roles(site: Site, folder: Path) -> Path:
    path = folder / "values.toml"
    path.write_text(site.values.read_text().replace(site.mr_enclaves["workload"], site.mr_enclaves["relay"]))
    return path
