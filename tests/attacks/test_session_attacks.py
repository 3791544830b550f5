"""Attacks on attested sessions, with the attacker's own code, against real processes.

The attacker owns the network and every host; TEEs keep their promises, and some rows give it a leaked TLS key as well.
Each row says what the victim answers. Where a weaker binding lets the same attack through, another row shows that it
does: that is what the binding is for.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import select
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from eaa.appraise.appraisal import SessionBinding
from eaa.appraise.result import Accepted, BindingLevel, Role
from eaa.attesters import Attester
from eaa.errors import Misuse, Reason
from eaa.evidence.quote import Quote
from eaa.evidence.tagged import TaggedEvidence, claims_report_data, encode_claims
from eaa.identity import Identity
from eaa.protocol.exchange import EvidenceReceived, Terms
from eaa.protocol.messages import Accept, Attest, Evidence, Message, Open, Opened, Reject, RejectClass
from eaa.tls.certificate import create_certificate
from eaa.tls.connection import Want
from support.attack_world import (
    CERT,
    FRESH,
    Attack,
    World,
    asked_in,
    attested,
    certified,
    fooled,
    leaf_of,
    refused,
    with_one_measurement_in_both_roles,
)
from support.flow import answer_of, evidence_of
from support.peers import DAY, Leaf, TLSSession, Wire, evidence, mallory, splice_wire, verifier_of
from support.system import Running

QUOTE_OF_2021 = x509.ObjectIdentifier("1.2.840.113741.1337.6")


# --- in the workload's place ---------------------------------------------------------------------------------------


def forwards_the_workload_s_evidence(world: World, wire: Wire) -> None:
    """End the inner session, and have the genuine workload answer the very challenge."""
    session, asked = world.inner(wire)
    workload = world.inside()
    workload.say(asked)
    session.say(workload.hear())
    world.plunder(session)


def forwards_it_with_claims_of_this_session(world: World, wire: Wire) -> None:
    """The same, with the claims put right: now they are no longer what was quoted."""
    session, asked = world.inner(wire)
    workload = world.inside()
    workload.say(asked)
    answer = workload.hear()
    assert isinstance(answer, Evidence)
    assert answer.evidence
    tagged = replace(TaggedEvidence.parse(answer.evidence), claims=encode_claims(session.claims(asked, Role.WORKLOAD)))
    session.say(Evidence(evidence=tagged.encode()))
    world.plunder(session)


def shows_the_relay_s_evidence(world: World, wire: Wire) -> None:
    """What an honest relay says of itself in this session."""
    session, asked = world.inner(wire)
    session.say(evidence(world.relay_tee, session.claims(asked, Role.RELAY)))
    world.plunder(session)


def shows_the_relay_s_evidence_as_a_workload(world: World, wire: Wire) -> None:
    """The relay's enclave quotes what its host wants, a false role for instance."""
    session, asked = world.inner(wire)
    session.say(evidence(world.relay_tee, session.claims(asked, Role.WORKLOAD)))
    world.plunder(session)


def shows_the_relay_s_certificate(world: World, wire: Wire) -> None:
    relay = Identity(world.relay_tee)
    session, _ = world.inner(wire, leaf_of(relay))
    session.say(certified(relay))
    world.plunder(session)


def has_the_workload_s_key(world: World, wire: Wire) -> None:
    """Impersonate the workload with its leaked key and its certificate's evidence, without any TEE."""
    session, _ = world.inner(wire, leaf_of(world.leaked))
    session.say(certified(world.leaked))
    world.plunder(session)


def has_the_key_and_evidence_of_another_session(world: World, wire: Wire) -> None:
    session, asked = world.inner(wire, leaf_of(world.leaked))
    earlier = session.claims(replace(asked, nonce=b"an earlier session's nonce......"), Role.WORKLOAD)
    session.say(evidence(world.workload_tee, {**earlier, "tls-exporter": bytes(32)}))
    world.plunder(session)


def has_the_key_and_evidence_with_this_nonce(world: World, wire: Wire) -> None:
    """The challenge was put to the leaked workload in another session: only the exporter is another one."""
    session, asked = world.inner(wire, leaf_of(world.leaked))
    claims = session.claims(asked, Role.WORKLOAD)
    session.say(evidence(world.workload_tee, {**claims, "tls-exporter": hashlib.sha256(b"another").digest()}))
    world.plunder(session)


def has_the_key_and_an_old_quote_under_new_claims(world: World, wire: Wire) -> None:
    session, asked = world.inner(wire, leaf_of(world.leaked))
    old = world.leaked.credentials().evidence
    assert old
    tagged = replace(old, claims=encode_claims(session.claims(asked, Role.WORKLOAD)))
    session.say(Evidence(evidence=tagged.encode()))
    world.plunder(session)


def shows_a_certificate_with_the_evidence_of_another_key(world: World, wire: Wire) -> None:
    tagged = world.leaked.credentials().evidence
    now = datetime.now(UTC)
    key = world.key.private_key
    certificate = create_certificate(key, evidence=tagged, not_before=now - DAY, not_after=now + DAY)
    session, _ = world.inner(wire, Leaf(private_key=key, certificate=certificate))
    session.say(certified(world.leaked))
    world.plunder(session)


def shows_a_certificate_of_2021(world: World, wire: Wire) -> None:
    """RSA, the quote in an extension of its own, over the key alone: the session is none of its business."""
    session, asked = world.inner(wire, certificate_of_2021(world.workload_tee))
    key = session.connection.own_spki
    assert key
    claims = session.claims(asked, Role.WORKLOAD)
    session.say(Evidence(evidence=TaggedEvidence(evidence=quote_of_2021(world), claims=encode_claims(claims)).encode()))
    world.plunder(session)


def is_tagged(tag: int) -> Attack:
    def attack(world: World, wire: Wire) -> None:
        session, asked = world.inner(wire)
        claims = encode_claims(session.claims(asked, Role.WORKLOAD))
        quote = world.workload_tee.quote(claims_report_data(claims))
        session.say(Evidence(evidence=TaggedEvidence(tag=tag, evidence=quote, claims=claims).encode()))
        world.plunder(session)

    return attack


def says_inside(*said: Message | bytes) -> Attack:
    def attack(world: World, wire: Wire) -> None:
        session, _ = world.inner(wire)
        for part in said:
            session.send(part) if isinstance(part, bytes) else session.say(part)
        world.plunder(session)

    return attack


def sends_the_challenge_back_inside(world: World, wire: Wire) -> None:
    session, asked = world.inner(wire)
    session.say(asked)
    world.plunder(session)


def certificate_of_2021(attester: Attester) -> Leaf:
    """A leaf as enclave-tls makes it."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Enclave TLS")])
    now = datetime.now(UTC)
    quote = x509.UnrecognizedExtension(QUOTE_OF_2021, attester.quote(pkcs1_digest() + bytes(32)))
    certificate = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=rsa_key().public_key())
        .serial_number(1)
        .not_valid_before(now - DAY)
        .not_valid_after(now + 3650 * DAY)
        .add_extension(quote, critical=False)
        .sign(rsa_key(), hashes.SHA256())
    )
    return Leaf(private_key=rsa_key(), certificate=certificate.public_bytes(serialization.Encoding.DER))


@functools.cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 3072)


def pkcs1_digest() -> bytes:
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.PKCS1
    return hashlib.sha256(rsa_key().public_key().public_bytes(encoding, form)).digest()


def quote_of_2021(world: World) -> bytes:
    return world.workload_tee.quote(pkcs1_digest() + bytes(32))


IN_THE_WORKLOAD_S_PLACE: list[tuple[Attack, BindingLevel, Reason | None]] = [
    (forwards_the_workload_s_evidence, FRESH, Reason.CLAIMS_MISMATCH),
    (forwards_the_workload_s_evidence, CERT, Reason.CLAIMS_MISMATCH),
    (forwards_it_with_claims_of_this_session, FRESH, Reason.REPORT_DATA_MISMATCH),
    (forwards_it_with_claims_of_this_session, CERT, Reason.REPORT_DATA_MISMATCH),
    (shows_the_relay_s_evidence, FRESH, Reason.ROLE_MISMATCH),
    (shows_the_relay_s_evidence_as_a_workload, FRESH, Reason.ROLE_MISMATCH),
    (shows_the_relay_s_certificate, CERT, Reason.ROLE_MISMATCH),
    (has_the_workload_s_key, FRESH, Reason.CLAIMS_MISMATCH),
    (has_the_workload_s_key, CERT, None),
    (has_the_key_and_evidence_of_another_session, FRESH, Reason.CLAIMS_MISMATCH),
    (has_the_key_and_evidence_with_this_nonce, FRESH, Reason.CLAIMS_MISMATCH),
    (has_the_key_and_an_old_quote_under_new_claims, FRESH, Reason.REPORT_DATA_MISMATCH),
    (shows_a_certificate_with_the_evidence_of_another_key, CERT, Reason.CLAIMS_MISMATCH),
    (shows_a_certificate_of_2021, FRESH, Reason.REPORT_DATA_MISMATCH),
    (shows_a_certificate_of_2021, CERT, Reason.REPORT_DATA_MISMATCH),
    (is_tagged(60001), FRESH, Reason.TEE_TYPE_UNSUPPORTED),
    (is_tagged(0x1A7504), FRESH, Reason.TEE_TYPE_UNSUPPORTED),
    (is_tagged(60003), FRESH, Reason.EVIDENCE_MALFORMED),
    (says_inside(Accept()), FRESH, Reason.MESSAGE_UNEXPECTED),
    (says_inside(Opened()), FRESH, Reason.MESSAGE_UNEXPECTED),
    (says_inside(Evidence()), FRESH, Reason.NO_EVIDENCE),
    (says_inside(b"Hello and welcome to Enclave TLS!\n"), FRESH, Reason.MESSAGE_TOO_LARGE),
    (sends_the_challenge_back_inside, FRESH, Reason.MESSAGE_UNEXPECTED),
]


def named(rows: list[tuple[Attack, BindingLevel, Reason | None]]) -> list[object]:
    def name(attack: Attack) -> str:
        return getattr(attack, "__qualname__", "").partition(".")[0].replace("_", "-")

    return [pytest.param(*row, id=f"{name(row[0])}-{row[1].label}-{row[2]}") for row in rows]


@pytest.mark.parametrize(("attack", "level", "reason"), named(IN_THE_WORKLOAD_S_PLACE))
def test_an_attacker_in_the_workload_s_place(
    world: World, attack: Attack, level: BindingLevel, reason: Reason | None
) -> None:
    """The relay is what it should be; the session that should end in the workload ends at the attacker's."""
    done = attested(world, attack, level)
    if reason is None:
        fooled(world, done)
    else:
        answer = refused(world, done, reason)
        assert evidence_of(answer, "relay")["verdict"] == "accepted"


def test_a_relay_of_the_workload_s_own_measurement_is_told_by_its_role(world: World, tmp_path: Path) -> None:
    """One program in both parts of the system: the measurement tells nothing, the role that it claims does."""
    values = with_one_measurement_in_both_roles(world.site, tmp_path)
    done = attested(world, shows_the_relay_s_evidence, FRESH, "--reference-values", str(values))
    refused(world, done, Reason.ROLE_MISMATCH)
    # Evidence of a key says nothing of roles.
    fooled(world, attested(world, shows_the_relay_s_certificate, CERT, "--reference-values", str(values)))


# --- in the relay's place ------------------------------------------------------------------------------------------


def forwards_the_relay_s_evidence(world: World, wire: Wire) -> None:
    """Between client and relay, with a key of its own: have the genuine relay answer the very challenge."""
    session = world.outer(wire)
    relay = TLSSession(world.dial(world.relay)).handshake()
    relay.say(asked_in(session))
    session.say(relay.hear())
    session.hear_all()


def forwards_the_workload_s_evidence_as_a_relay_s(world: World, wire: Wire) -> None:
    """A workload answers relays' challenges on its own port."""
    session = world.outer(wire)
    workload = TLSSession(world.dial(world.workload), leaf=world.key).handshake()
    workload.say(asked_in(session))
    answers = [message for message in (workload.hear(), workload.hear()) if isinstance(message, Evidence)]
    session.say(*answers)
    session.hear_all()


def shows_a_workload_as_relay(role: Role) -> Attack:
    """The enclave of a workload, quoting this role."""

    def attack(world: World, wire: Wire) -> None:
        session = world.outer(wire)
        session.say(evidence(world.workload_tee, session.claims(asked_in(session), role)))
        session.hear_all()

    return attack


def shows_the_workload_s_certificate_as_a_relay_s(world: World, wire: Wire) -> None:
    session = world.outer(wire, leaf_of(world.leaked))
    session.say(certified(world.leaked))
    session.hear_all()


def has_the_relay_s_key(world: World, wire: Wire) -> None:
    """And its certificate, but no TEE. What follows is relayed to the genuine workload, as a relay does."""
    relay = Identity(world.relay_tee)
    session = world.outer(wire, leaf_of(relay))
    session.say(certified(relay))
    assert isinstance(session.hear(), Attest)
    session.hear()
    session.say(Opened())
    splice(session, world.channel())


def splice(one: TLSSession, other: TLSSession) -> None:
    """Relay one inner session until somebody hangs up."""
    way = {one.carrier: (one, other), other.carrier: (other, one)}
    wires = {wire.sock: wire for wire in way if isinstance(wire, Wire)}
    while True:
        for sock in select.select(list(wires), [], [])[0]:
            source, sink = way[wires[sock]]
            data = source.arrived()
            if data is None:
                return
            sink.send(data)


def says(*said: Message) -> Attack:
    def attack(world: World, wire: Wire) -> None:
        session = world.outer(wire)
        session.say(*said)
        session.hear_all()

    return attack


def sends_the_challenge_back(world: World, wire: Wire) -> None:
    session = world.outer(wire)
    session.say(asked_in(session))
    session.hear_all()


def knows_no_protocol_name(world: World, wire: Wire) -> None:
    """A server of 2021, or somebody who wants to be taken for one."""
    TLSSession(wire, leaf=certificate_of_2021(world.workload_tee), alpn=(), server_side=True).handshake().hear_all()


def knows_tls_1_2_only(world: World, wire: Wire) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    load(context, world.key)
    with contextlib.suppress(ssl.SSLError):
        context.wrap_socket(wire.sock, server_side=True)


def load(context: ssl.SSLContext, leaf: Leaf) -> None:
    """The standard library takes keys from files only."""
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "leaf.pem")
        key = leaf.private_key.private_bytes(*form)
        path.write_bytes(key + ssl.DER_cert_to_PEM_cert(leaf.certificate).encode())
        context.load_cert_chain(path)


def strips_the_protocol_name(world: World, wire: Wire) -> None:
    """On the wire, without any key: the client's offer of eaa/2 becomes an extension that nobody knows."""
    relay = world.dial(world.relay)
    hello = wire.receive()
    offer = b"\x00\x10\x00\x08\x00\x06\x05eaa/2"
    assert offer in hello
    relay.send(hello.replace(offer, b"\xfa\xfa" + offer[2:]))
    wire.send(relay.receive())
    while data := wire.receive():
        relay.send(data)


def leads_the_outer_session_into_the_inner(world: World, wire: Wire) -> None:
    """Without any key: the client's connection ends in the workload, where the inner session belongs."""
    splice_wire(wire, world.channel())


def leads_the_inner_session_to_the_outer(world: World, wire: Wire) -> None:
    """The inner session ends at the workload's own port, which serves relays."""
    splice_wire(world.dial(world.workload), world.accepted_relay(wire))


IN_THE_RELAY_S_PLACE: list[tuple[Attack, BindingLevel, Reason | None]] = [
    (forwards_the_relay_s_evidence, FRESH, Reason.CLAIMS_MISMATCH),
    (forwards_the_relay_s_evidence, CERT, Reason.CLAIMS_MISMATCH),
    (forwards_the_workload_s_evidence_as_a_relay_s, FRESH, Reason.CLAIMS_MISMATCH),
    (shows_a_workload_as_relay(Role.WORKLOAD), FRESH, Reason.ROLE_MISMATCH),
    (shows_a_workload_as_relay(Role.RELAY), FRESH, Reason.ROLE_MISMATCH),
    (shows_the_workload_s_certificate_as_a_relay_s, CERT, Reason.ROLE_MISMATCH),
    (has_the_relay_s_key, FRESH, Reason.CLAIMS_MISMATCH),
    (has_the_relay_s_key, CERT, None),
    (says(Opened()), FRESH, Reason.MESSAGE_UNEXPECTED),
    (says(Accept()), FRESH, Reason.MESSAGE_UNEXPECTED),
    (says(Evidence()), FRESH, Reason.NO_EVIDENCE),
    (says(Evidence(), Opened()), FRESH, Reason.NO_EVIDENCE),
    (sends_the_challenge_back, FRESH, Reason.MESSAGE_UNEXPECTED),
    (knows_no_protocol_name, FRESH, Reason.PEER_IS_LEGACY),
    (knows_no_protocol_name, CERT, Reason.PEER_IS_LEGACY),
    (knows_tls_1_2_only, FRESH, Reason.TLS_HANDSHAKE),
    (strips_the_protocol_name, FRESH, Reason.TLS_HANDSHAKE),
    (leads_the_outer_session_into_the_inner, FRESH, Reason.TLS_HANDSHAKE),
    (leads_the_inner_session_to_the_outer, FRESH, Reason.TLS_HANDSHAKE),
]


@pytest.mark.parametrize(("attack", "level", "reason"), named(IN_THE_RELAY_S_PLACE))
def test_an_attacker_in_the_relay_s_place(
    world: World, attack: Attack, level: BindingLevel, reason: Reason | None
) -> None:
    done = attested(world, attack, level)
    if reason is None:
        # The workload is genuine all the same: Shelter judged it by its own evidence, in a session that ends there.
        answer = answer_of(done)
        assert answer["verdict"] == "accepted", answer
    else:
        refused(world, done, reason)


# --- against the workload and the relay ----------------------------------------------------------------------------


def refusal_of_a_relay(world: World, claims: Callable[[TLSSession, Attest], Message]) -> Message:
    """Play a relay that answers the workload's challenge so; return the workload's last word."""
    session = TLSSession(world.dial(world.workload), leaf=world.key).handshake()
    asked = asked_in(session)
    session.say(claims(session, asked))
    (answer,) = session.hear_all()
    return answer


def relays_to_another_relay(world: World, _: TLSSession, asked: Attest) -> Message:
    relay = TLSSession(world.dial(world.relay)).handshake()
    relay.say(asked)
    return relay.hear()


def reflects_it_at_another_connection(world: World, _: TLSSession, asked: Attest) -> Message:
    """The workload answers its own challenge, where somebody else seems to ask it."""
    second = TLSSession(world.dial(world.workload), leaf=world.key).handshake()
    second.say(asked)
    return next(message for message in (second.hear(), second.hear()) if isinstance(message, Evidence))


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        (relays_to_another_relay, RejectClass.UNVERIFIABLE),
        (reflects_it_at_another_connection, RejectClass.UNVERIFIABLE),
        (lambda _, __, asked: asked, RejectClass.PROTOCOL),
        (lambda world, session, asked: evidence(world.workload_tee, session.claims(asked, Role.RELAY)),
         RejectClass.POLICY),
        (lambda world, session, asked: evidence(world.relay_tee, session.claims(asked, Role.WORKLOAD)),
         RejectClass.UNVERIFIABLE),
        (lambda world, _, __: certified(Identity(world.relay_tee)), RejectClass.UNVERIFIABLE),
    ],
    ids=["relayed", "reflected", "sent-back", "a-workload-s", "in-another-role", "of-a-certificate"],
)  # fmt: skip
def test_an_attacker_in_the_relay_s_place_gets_no_channel(
    world: World, answer: Callable[[World, TLSSession, Attest], Message], refusal: RejectClass
) -> None:
    """The workload demands a relay's evidence of its own session, and says no more of a refusal than its class."""
    said = refusal_of_a_relay(world, functools.partial(answer, world))
    assert said == Reject(reason_class=refusal)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ("forwarded", Reason.CLAIMS_MISMATCH),
        ("reflected", Reason.CLAIMS_MISMATCH),
        ("the relay's own", Reason.ROLE_MISMATCH),
    ],
)
def test_an_attacker_in_the_workload_s_place_gets_no_channel_of_a_relay(
    world: World, answers: str, reason: Reason
) -> None:
    """The relay judges the workload for itself: it spends no client's bytes on somebody without evidence."""

    def attack(wire: Wire) -> None:
        session = world.outer(wire)
        asked = asked_in(session)
        if answers == "forwarded":
            victim = TLSSession(world.dial(world.workload), leaf=world.key).handshake()
        else:
            victim = TLSSession(world.dial(relay.address())).handshake()
        if answers == "the relay's own":
            session.say(evidence(world.relay_tee, session.claims(asked, Role.WORKLOAD)))
        else:
            victim.say(asked)
            session.say(next(said for said in iter(victim.hear, None) if isinstance(said, Evidence)))
        session.hear_all()

    # Without channels kept ready: the relay shall come to the attacker when a client has asked, and not before.
    with mallory(attack) as address, world.site.relay(address, "--warm-channels", "0") as service:
        relay = Announced(service)
        client = TLSSession(world.dial(relay.address())).handshake()
        client.say(Open(workload="default"))
        assert client.hear_all() == [Reject(reason_class=RejectClass.UNAVAILABLE)]
        service.wait_for(rf"workload default at {address}: .*\[{reason}\]")
        for wire in world.dialled:
            # The relay would wait for them a while when it is stopped.
            wire.close()


class Announced:
    """A service whose address has been waited for once."""

    def __init__(self, service: Running) -> None:
        self._address = service.address()

    def address(self) -> str:
        return self._address


# --- with what somebody else accepted ------------------------------------------------------------------------------


def judged_session(world: World) -> tuple[TLSSession, EvidenceReceived, Accepted]:
    """A session with the genuine relay, what it showed there, and a good verdict on that."""
    session = TLSSession(world.dial(world.relay))
    while session._flushed(session.connection.handshake) is Want.READ:
        session.connection.feed(session.carrier.receive())
    session.connection.admit_unattested_peer()
    (shown,) = [
        event
        for event in session.exchange(
            Terms.shelter_to_relay(judges=True), until=lambda event: isinstance(event, EvidenceReceived)
        )
        if isinstance(event, EvidenceReceived)
    ]
    assert shown.evidence
    binding = SessionBinding(evidence=shown.evidence, report_data=shown.report_data, level=shown.level)
    judgement = verifier_of(world.site).judge(shown.evidence, role=Role.RELAY, session=binding)
    assert isinstance(judgement.result, Accepted)
    return session, shown, judgement.result


def test_a_verdict_opens_the_connection_it_was_given_on_and_no_other(world: World) -> None:
    """Both evidence genuine, both relays the same one, both verdicts good: and still each is for its own session."""
    (one, shown, verdict), (other, shown_there, verdict_there) = judged_session(world), judged_session(world)
    one.connection.expect(shown.evidence_digest, shown.report_data)
    other.connection.expect(shown_there.evidence_digest, shown_there.report_data)
    for connection, wrong in ((one.connection, verdict_there), (other.connection, verdict)):
        with pytest.raises(Misuse) as caught:
            connection.accept(wrong)
        assert caught.value.reason is Reason.RESULT_FOR_OTHER_EVIDENCE
    one.connection.accept(verdict)
    other.connection.accept(verdict_there)


def test_a_verdict_on_a_document_opens_no_connection(world: World) -> None:
    """The very same evidence, saved and verified as a file, with the report data that is expected."""
    session, shown, _ = judged_session(world)
    assert shown.evidence
    verifier = verifier_of(world.site)
    verified = verifier.verify(Quote.parse(shown.evidence), role=Role.RELAY)
    document = verifier.appraise(verified, role=Role.RELAY, session=None, expected_report_data=shown.report_data)
    assert isinstance(document.result, Accepted)
    session.connection.expect(shown.evidence_digest, shown.report_data)
    with pytest.raises(Misuse) as caught:
        session.connection.accept(document.result)
    assert caught.value.reason is Reason.RESULT_FOR_OTHER_EVIDENCE
