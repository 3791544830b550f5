"""The published attacks on attested TLS, for real: what each does where nothing stops it, and the Reason where it ends.

Genuine processes of a genuine node, and the attacker's own code between them. Every row of the two tables below is
also a row of docs/manual/attacks.md, which is made from them.
"""

from __future__ import annotations

import ast
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from eaa.appraise.result import BindingLevel, Role
from eaa.errors import EAAError, Reason
from eaa.evidence.epoch import session_statement, sign_statement
from eaa.evidence.tagged import TaggedEvidence, encode_claims
from eaa.identity import Epoch, Identity
from eaa.protocol.exchange import ALPN_INNER, Terms
from eaa.protocol.messages import Attest, Evidence, Message
from support.attack_page import PAGE, Elsewhere, Published, render
from support.attack_world import (
    CERT,
    FRESH,
    HELLO,
    LEVELS,
    SESSION,
    World,
    answers_of,
    asked_in,
    attested,
    certified,
    epoch_of,
    fooled,
    leaf_of,
    refused,
    with_one_measurement_in_both_roles,
)
from support.flow import answer_of
from support.peers import TLSSession, Wire, attester_of, evidence, splice_wire
from support.system import Site

LONG_AGO = timedelta(minutes=20)
"""Longer than any epoch of a relying party that asks for five minutes may be over."""


# --- what honest ends do --------------------------------------------------------------------------------------------


def signed(epoch: Epoch, claims: dict[str, bytes]) -> Evidence:
    """The answer at level session that the key of an epoch gives."""
    statement = session_statement(epoch.digest, encode_claims(claims))
    return Evidence(evidence=epoch.evidence.encode(), epoch=epoch.sign(statement))


def serve_honestly(identity: Identity, wire: Wire) -> None:
    """Be a genuine workload to one client, through the production exchange."""
    with contextlib.suppress(EAAError, EOFError, OSError):
        session = TLSSession(wire, leaf=leaf_of(identity), alpn=(ALPN_INNER,), server_side=True).handshake()
        session.exchange(Terms.workload_to_shelter(), answers_of(identity, Role.WORKLOAD))
        said = b""
        while HELLO not in said and (data := session.receive()):
            said += data
        session.send(b"Thank you")
        session.goodbye()


@contextlib.contextmanager
def the_genuine_machine(identity: Identity) -> Iterator[Wire]:
    """A connection to the workload whose key has leaked: on it the key's owner still keeps every promise."""
    ours, theirs = socket.socketpair()
    serving = threading.Thread(target=serve_honestly, args=(identity, Wire(theirs)))
    serving.start()
    try:
        yield Wire(ours)
    finally:
        ours.close()
        serving.join()
        theirs.close()


def answer_from(identity: Identity, asked: Attest) -> Message:
    """Put a challenge to the genuine machine, in a session of the attacker's own."""
    with the_genuine_machine(identity) as wire:
        session = TLSSession(wire, alpn=(ALPN_INNER,)).handshake()
        session.say(asked)
        return session.hear()


def impersonate(world: World, wire: Wire, identity: Identity, answer: Callable[[TLSSession, Attest], Message]) -> None:
    """End the victim's inner session with a leaked TLS key, answer so, and take what comes."""
    session, asked = world.inner(wire, leaf_of(identity))
    session.say(answer(session, asked))
    world.plunder(session)


# --- the attacks ----------------------------------------------------------------------------------------------------


def replays_evidence(world: World, wire: Wire) -> None:
    """Show what the machine answered to an earlier challenge, of the attacker's, before its key had leaked."""

    def recorded(_: TLSSession, asked: Attest) -> Message:
        return answer_from(world.leaked, replace(asked, nonce=b"the challenge of an earlier day."))

    impersonate(world, wire, world.leaked, recorded)


def relays_the_challenge(world: World, wire: Wire) -> None:
    """Put the victim's very challenge to the genuine machine, in another session, and show its answer."""
    impersonate(world, wire, world.leaked, lambda _, asked: answer_from(world.leaked, asked))


def splices_two_victims(world: World, wire: Wire) -> None:
    """Two sessions with two victims, both under the leaked key: what is due in one is shown in the other."""

    def made_for_the_other_victim(_: TLSSession, asked: Attest) -> Message:
        ours, theirs = socket.socketpair()
        with contextlib.closing(ours), contextlib.closing(theirs):
            other: list[TLSSession] = []
            victim = threading.Thread(
                target=lambda: other.append(TLSSession(Wire(theirs), alpn=(ALPN_INNER,)).handshake())
            )
            victim.start()
            session = TLSSession(
                Wire(ours), leaf=leaf_of(world.leaked), alpn=(ALPN_INNER,), server_side=True
            ).handshake()
            victim.join()
            return answer_at(world, session, asked)

    impersonate(world, wire, world.leaked, made_for_the_other_victim)


def answer_at(world: World, session: TLSSession, asked: Attest) -> Evidence:
    """What the leaked workload's TEE answers to a challenge in one session."""
    if asked.level is CERT:
        return certified(world.leaked)
    claims = session.claims(asked, Role.WORKLOAD)
    if asked.level is FRESH:
        return evidence(world.workload_tee, claims)
    return signed(epoch_of(world.leaked, Role.WORKLOAD), claims)


def has_a_key_and_an_epoch_that_is_over(world: World, wire: Wire) -> None:
    """Both keys of the machine have leaked, and meanwhile the epoch has ended."""
    past = Identity(attester_of(world.site, "workload"), clock=lambda: datetime.now(UTC) - LONG_AGO)
    epoch = epoch_of(past, Role.WORKLOAD)

    def stale(session: TLSSession, asked: Attest) -> Message:
        return certified(past) if asked.level is CERT else signed(epoch, session.claims(asked, Role.WORKLOAD))

    impersonate(world, wire, past, stale)


def has_a_key_and_a_live_epoch(world: World, wire: Wire) -> None:
    """Both keys of the machine have leaked while its epoch lasts."""
    epoch = epoch_of(world.leaked, Role.WORKLOAD)

    def live(session: TLSSession, asked: Attest) -> Message:
        return signed(epoch, session.claims(asked, Role.WORKLOAD))

    impersonate(world, wire, world.leaked, live)


def has_the_epoch_of_a_machine_and_no_key(world: World, wire: Wire) -> None:
    """The signing key of a live epoch alone, beside a TLS key of the attacker's own."""
    epoch = epoch_of(world.leaked, Role.WORKLOAD)
    session, asked = world.inner(wire)
    session.say(signed(epoch, session.claims(asked, Role.WORKLOAD)))
    world.plunder(session)


def answers_at_a_lower_level(world: World, wire: Wire) -> None:
    """Whatever is asked for, show the evidence of the certificate."""
    impersonate(world, wire, world.leaked, lambda _, __: certified(world.leaked))


def answers_with_an_epoch(world: World, wire: Wire) -> None:
    """Asked for evidence of this session, show that of an epoch, signed for this session, without its signature."""

    def unsigned(session: TLSSession, asked: Attest) -> Message:
        return replace(signed(epoch_of(world.leaked, Role.WORKLOAD), session.claims(asked, Role.WORKLOAD)), epoch=None)

    impersonate(world, wire, world.leaked, unsigned)


def signs_with_the_tls_key(world: World, wire: Wire) -> None:
    """Show the epoch of the genuine machine, the session signed by the key that has leaked: the wrong one."""
    stolen = world.leaked.credentials().private_key
    assert isinstance(stolen, ec.EllipticCurvePrivateKey)

    def crossed(session: TLSSession, asked: Attest) -> Message:
        if asked.level is CERT:
            return certified(world.leaked)
        epoch = epoch_of(world.leaked, Role.WORKLOAD)
        statement = session_statement(epoch.digest, encode_claims(session.claims(asked, Role.WORKLOAD)))
        return Evidence(evidence=epoch.evidence.encode(), epoch=sign_statement(stolen, statement))

    impersonate(world, wire, world.leaked, crossed)


def shows_a_session_as_an_epoch(world: World, wire: Wire) -> None:
    """Evidence that the TEE made for a session, at the level where an epoch's is due."""

    def mislabelled(session: TLSSession, asked: Attest) -> Message:
        if asked.level is CERT:
            return certified(world.leaked)
        made = evidence(world.workload_tee, session.claims(asked, Role.WORKLOAD))
        return replace(made, epoch=bytes(63) + b"\1")

    impersonate(world, wire, world.leaked, mislabelled)


def puts_new_claims_on_an_old_quote(world: World, wire: Wire) -> None:
    """The claims that are expected, on a quote that was made for others."""

    def relabelled(session: TLSSession, asked: Attest) -> Message:
        old = world.leaked.credentials().evidence
        assert old
        if asked.level is CERT:
            return certified(world.leaked)
        claims = encode_claims(session.claims(asked, Role.WORKLOAD))
        return Evidence(evidence=TaggedEvidence(evidence=old.evidence, claims=claims).encode())

    impersonate(world, wire, world.leaked, relabelled)


def shows_the_relay_as_workload(world: World, wire: Wire) -> None:
    """A genuine relay's evidence where the workload's is due, with the relay's own, leaked TLS key."""
    relay = Identity(world.relay_tee)

    def as_a_relay(session: TLSSession, asked: Attest) -> Message:
        if asked.level is CERT:
            return certified(relay)
        claims = session.claims(asked, Role.RELAY)
        return (
            evidence(world.relay_tee, claims) if asked.level is FRESH else signed(epoch_of(relay, Role.RELAY), claims)
        )

    impersonate(world, wire, relay, as_a_relay)


def shows_a_workload_as_relay(world: World, wire: Wire) -> None:
    """The reverse, on the outer hop: a genuine workload's evidence where the relay's is due."""
    session = world.outer(wire, leaf_of(world.leaked))
    session.say(answer_at(world, session, asked_in(session)))
    session.hear_all()


def reflects_the_challenge(world: World, wire: Wire) -> None:
    """Send the victim's own message back."""
    session, asked = world.inner(wire, leaf_of(world.leaked))
    session.say(asked)
    world.plunder(session)


KEY = "the workload's TLS key"
RELAY_ATTACKS = "published as relay and diversion attacks on RA-TLS, CVE-2026-33697"
PUBLISHED: tuple[Published, ...] = (
    Published(
        attack=replays_evidence,
        title="Evidence replay",
        leaked=KEY,
        succeeds=CERT,
        stopped=((SESSION, Reason.EPOCH_SIGNATURE), (FRESH, Reason.CLAIMS_MISMATCH)),
        published=RELAY_ATTACKS,
    ),
    Published(
        attack=relays_the_challenge,
        title="Relay with a leaked TLS key",
        leaked=KEY,
        succeeds=CERT,
        stopped=((SESSION, Reason.EPOCH_SIGNATURE), (FRESH, Reason.CLAIMS_MISMATCH)),
        published=RELAY_ATTACKS,
    ),
    Published(
        attack=splices_two_victims,
        title="Splice of two sessions",
        leaked=KEY,
        succeeds=CERT,
        stopped=((SESSION, Reason.EPOCH_SIGNATURE), (FRESH, Reason.CLAIMS_MISMATCH)),
    ),
    Published(
        attack=has_a_key_and_an_epoch_that_is_over,
        title="A leaked epoch key after its epoch",
        leaked=f"{KEY} and the key of an epoch that is over",
        succeeds=CERT,
        stopped=((SESSION, Reason.EPOCH_NOT_CURRENT), (FRESH, Reason.CLAIMS_MISMATCH)),
    ),
    Published(
        attack=has_a_key_and_a_live_epoch,
        title="A leaked epoch key while its epoch lasts",
        leaked=f"{KEY} and the key of its live epoch",
        succeeds=SESSION,
        stopped=((FRESH, Reason.CLAIMS_MISMATCH),),
    ),
    Published(
        attack=has_the_epoch_of_a_machine_and_no_key,
        title="A leaked epoch key without the TLS key",
        leaked="the key of a live epoch",
        succeeds=None,
        stopped=((CERT, Reason.CLAIMS_MISMATCH), (SESSION, Reason.CLAIMS_MISMATCH), (FRESH, Reason.CLAIMS_MISMATCH)),
    ),
    Published(
        attack=reflects_the_challenge,
        title="Reflection of a peer's own messages",
        leaked=KEY,
        succeeds=None,
        stopped=(
            (CERT, Reason.MESSAGE_UNEXPECTED),
            (SESSION, Reason.MESSAGE_UNEXPECTED),
            (FRESH, Reason.MESSAGE_UNEXPECTED),
        ),
    ),
    Published(
        attack=answers_at_a_lower_level,
        title="Downgrade to the certificate's evidence",
        leaked=KEY,
        succeeds=CERT,
        stopped=((SESSION, Reason.CLAIMS_MISMATCH), (FRESH, Reason.CLAIMS_MISMATCH)),
    ),
    Published(
        attack=answers_with_an_epoch,
        title="Downgrade to an epoch without a signature",
        leaked=KEY,
        succeeds=None,
        stopped=((CERT, Reason.CLAIMS_MISMATCH), (SESSION, Reason.EPOCH_SIGNATURE), (FRESH, Reason.CLAIMS_MISMATCH)),
    ),
    Published(
        attack=signs_with_the_tls_key,
        title="Cross-protocol use of a signature",
        leaked=KEY,
        succeeds=CERT,
        stopped=((SESSION, Reason.EPOCH_SIGNATURE), (FRESH, Reason.CLAIMS_MISMATCH)),
    ),
    Published(
        attack=shows_a_session_as_an_epoch,
        title="Claims of one label offered under another",
        leaked=KEY,
        succeeds=CERT,
        stopped=((SESSION, Reason.CLAIMS_MISMATCH), (FRESH, Reason.CLAIMS_MISMATCH)),
    ),
    Published(
        attack=puts_new_claims_on_an_old_quote,
        title="New claims on an old quote",
        leaked=KEY,
        succeeds=CERT,
        stopped=((SESSION, Reason.CLAIMS_MISMATCH), (FRESH, Reason.REPORT_DATA_MISMATCH)),
    ),
    Published(
        attack=shows_the_relay_as_workload,
        title="Relay evidence as workload evidence",
        leaked="the relay's TLS key",
        succeeds=CERT,
        stopped=((SESSION, Reason.ROLE_MISMATCH), (FRESH, Reason.ROLE_MISMATCH)),
        one_measurement=True,
    ),
)


def options_of(world: World, attack: Published, folder: Path) -> tuple[str, ...]:
    if not attack.one_measurement:
        return ()
    return ("--reference-values", str(with_one_measurement_in_both_roles(world.site, folder)))


def named(attack: Published) -> str:
    return attack.title.replace(" ", "-").lower()


@pytest.mark.parametrize("attack", PUBLISHED, ids=named)
def test_a_published_attack(world: World, attack: Published, tmp_path: Path) -> None:
    options = options_of(world, attack, tmp_path)
    if attack.succeeds is not None:
        fooled(world, attested(world, attack.attack, attack.succeeds, *options))
        world.loot.clear()
    for level, reason in attack.stopped:
        refused(world, attested(world, attack.attack, level, *options), reason)


@pytest.mark.parametrize("level", list(LEVELS), ids=lambda level: level.label)
def test_the_genuine_machine_is_what_the_attacker_pretends_to_be(world: World, level: BindingLevel) -> None:
    """Whoever relays TLS itself, and not evidence, is no attacker: the session ends in the genuine machine."""

    def carries_bytes(_: World, wire: Wire) -> None:
        outer = world.accepted_relay(wire)
        with the_genuine_machine(world.leaked) as machine:
            splice_wire(machine, outer)

    done = attested(world, carries_bytes, level)
    assert (answer_of(done)["verdict"], done.code) == ("accepted", 0), done


@pytest.mark.parametrize(
    ("level", "reason"),
    [(SESSION, Reason.ROLE_MISMATCH), (FRESH, Reason.ROLE_MISMATCH), (CERT, Reason.ROLE_MISMATCH)],
    ids=lambda value: getattr(value, "label", str(value)),
)
def test_a_workload_s_evidence_is_no_relay_s(world: World, level: BindingLevel, reason: Reason) -> None:
    refused(world, attested(world, shows_a_workload_as_relay, level), reason)


# --- a relay that swaps workloads ---------------------------------------------------------------------------------


def test_a_relay_that_swaps_workloads(site: Site, tmp_path: Path) -> None:
    """Both workloads are genuine and expected somewhere; the relay's host leads one's clients to the other."""
    values = tmp_path / "values.toml"
    workload, other = site.mr_enclaves["workload"], site.mr_enclaves["impostor"]
    recorded = site.values.read_text()
    section = recorded[recorded.index("[workload]") : recorded.index("[relay]")]
    values.write_text(recorded + section.replace("[workload]", "[billing]").replace(workload, other))
    knows_both = ("--reference-values", str(values), "--json")
    meant = ("--mr-enclave", workload)
    # What the relay judges by is its host's configuration.
    with (
        site.workload(enclave="impostor") as swapped,
        site.relay(swapped.address(), "--reference-values", str(values)) as relay,
    ):
        address = relay.address()
        assert answer_of(site.shelter(address, *knows_both))["verdict"] == "accepted"
        done = site.shelter(address, *knows_both, *meant)
        assert (done.code, answer_of(done)["reason"]) == (1, Reason.MEASUREMENT_MISMATCH)


# --- attacks that have a test of their own -------------------------------------------------------------------------


ELSEWHERE: tuple[Elsewhere, ...] = (
    Elsewhere(
        title="Diversion to another genuine machine",
        leaked="nothing",
        succeeds="cert, session and fresh: its evidence is genuine",
        stopped="`--platform ID` and `--pin-platforms FILE`: PLATFORM_NOT_PINNED",
        shown_by=("attacks/test_diversion.py::test_a_listed_machine_is_not_replaced_by_another_one",),
    ),
    Elsewhere(
        title="Stapled old collateral",
        leaked="nothing; the machine is revoked or out of date",
        succeeds="a verifier that believes what a peer brings",
        stopped="the verifier's own, newer collateral: CERTIFICATE_REVOKED, TCB_STATUS_NOT_ALLOWED",
        shown_by=("attacks/test_stapled_old_collateral.py",),
    ),
    Elsewhere(
        title="Downgrade to a server of 2021",
        leaked="nothing",
        succeeds="no level; a client of ours speaks eaa/2 or nothing",
        stopped="the protocol's name: PEER_IS_LEGACY, TLS_HANDSHAKE",
        shown_by=("attacks/test_session_attacks.py::test_an_attacker_in_the_relay_s_place",),
    ),
    Elsewhere(
        title="A verdict used on another connection",
        leaked="nothing",
        succeeds="no level",
        stopped="the connection itself: RESULT_FOR_OTHER_EVIDENCE",
        shown_by=("attacks/test_session_attacks.py::test_a_verdict_opens_the_connection_it_was_given_on_and_no_other",),
    ),
    Elsewhere(
        title="A relay that swaps workloads",
        leaked="nothing; the relay's host configures it",
        succeeds="cert, session and fresh, where the verifier would accept either workload",
        stopped="`--mr-enclave HEX`, or reference values of one workload alone: MEASUREMENT_MISMATCH",
        shown_by=("attacks/test_published_attacks.py::test_a_relay_that_swaps_workloads",),
    ),
    Elsewhere(
        title="A relay that logs what it relays",
        leaked="nothing; the relay's host reads along",
        succeeds="nothing to read: the inner session ends in the workload",
        stopped="the inner TLS session: no plaintext in any byte it relays",
        shown_by=("flow/test_relay_sees_no_plaintext.py::test_a_relay_sees_no_plaintext",),
    ),
    Elsewhere(
        title="A reflected exchange between relay and workload",
        leaked="nothing",
        succeeds="no level",
        stopped="claims of the attester's own key: CLAIMS_MISMATCH, unverifiable",
        shown_by=(
            "attacks/test_session_attacks.py::test_an_attacker_in_the_relay_s_place_gets_no_channel",
            "attacks/test_session_attacks.py::test_an_attacker_in_the_workload_s_place_gets_no_channel_of_a_relay",
        ),
    ),
)


@pytest.mark.parametrize("row", ELSEWHERE, ids=lambda row: row.title.replace(" ", "-").lower())
def test_what_is_shown_elsewhere_is_there(row: Elsewhere) -> None:
    for place in row.shown_by:
        path, _, function = place.partition("::")
        tree = ast.parse((Path(__file__).parents[1] / path).read_text(encoding="utf-8"))
        functions = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        assert function in functions if function else any(name.startswith("test_") for name in functions)


def test_the_manual_tells_what_is_shown_here() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(PUBLISHED, ELSEWHERE), "run `make docs`"
