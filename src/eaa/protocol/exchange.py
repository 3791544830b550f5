"""One end of one hop: who asks, who answers, who judges, and in which order.

Bytes in, events out, bytes to send out. TLS has already been negotiated; what this module needs to know of it (the
exporter and both leaf keys) are arguments. The caller makes evidence and judges it; the exchange only says for what
the evidence must be made, and that what came was made for exactly this session.

Every hop runs the same exchange, and differs in its `Terms` alone:

1. A side that judges sends `attest` before anything else, so before its own evidence.
2. The side that was asked answers with `evidence`, which may be empty.
3. The asker says `accept` or `reject`, and the other side waits for it. On a hop that ends with `open` the client says
   nothing instead: sending `open` (perhaps before it has judged) and then staying is all it has to say.
4. `open` is the client's last message and `opened` the server's last; without them, `accept` is the last one.

Every message comes at most once. Source: docs/manual/protocol.md.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from eaa.appraise.result import BindingLevel, Role
from eaa.errors import EAAError, Misuse, PeerMisbehaved, Reason, Rejection, Unavailable, VerificationError
from eaa.evidence.epoch import session_statement
from eaa.evidence.tagged import TaggedEvidence, claims_report_data
from eaa.protocol import messages
from eaa.protocol.binding import (
    ATTEST_LABEL,
    CLAIMS,
    EXPORTER_SIZE,
    SESSION_CLAIMS,
    Ends,
    encode_expected,
    expected_claims,
    verify_binding,
)
from eaa.protocol.messages import NONCE_SIZE, FrameReader, Message, RejectClass
from eaa.protocol.terms import MAX_EPOCH, Ending, Levels, Session, Terms
from eaa.records import quick

__all__ = [
    "ALPN",
    "ALPN_INNER",
    "ATTEST_LABEL",
    "CLAIMS",
    "EXPORTER_SIZE",
    "MAX_EARLY_BYTES",
    "MAX_EPOCH",
    "SESSION_CLAIMS",
    "Ending",
    "EpochSignature",
    "Event",
    "EvidenceReceived",
    "EvidenceWanted",
    "Exchange",
    "Levels",
    "OpenReceived",
    "OpenedReceived",
    "PeerAccepted",
    "Session",
    "Terms",
    "expected_claims",
]

ALPN: Final = b"eaa/2"
"""Shelter and relay, relay and workload."""
ALPN_INNER: Final = b"eaa/2-inner"
"""Shelter and workload, inside the relay's pipe. The name tells the hop: no side accepts the other's."""
MAX_REMEMBERED_EPOCHS: Final = 16
"""Epochs of this side whose encoded evidence is remembered: as many as an identity has at once."""
MAX_EARLY_BYTES: Final = 32 * 1024
"""Raw bytes that may come before a channel is open: room for one side's first flight of an inner TLS handshake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceWanted:
    """The peer asks for evidence: make a quote with this report data, then call `answer`.

    At level `cert` the certificate's own quote is the answer: its claims are the same. At level `session` it is the
    epoch's quote, and the epoch's signature of `statement`.
    """

    claims: bytes
    level: BindingLevel

    @property
    def report_data(self) -> bytes:
        """64 bytes that a quote of these claims has to contain."""
        return claims_report_data(self.claims)

    def statement(self, epoch_evidence_digest: bytes) -> bytes:
        """Return what the key of an epoch signs at level `session`; the digest is SHA-256 of its tagged evidence."""
        return session_statement(epoch_evidence_digest, self.claims)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochSignature:
    """What an answer at level `session` has beside the epoch's quote."""

    claims: bytes
    """The claims that the quote covers."""
    signature: bytes
    """64 bytes, of the statement of `EvidenceWanted`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceReceived:
    """The peer's answer; its claims are exactly those of this session. Judge it, then call `accept` or `reject`.

    At level `session` the evidence is the epoch's, and its key has signed this session; whether the key is a TEE's is
    what the quote, still unverified, has to prove.
    """

    evidence: bytes | None
    """The quote, still unverified; None where the peer has none."""
    report_data: bytes
    """64 bytes, computed by this side; the quote has to contain them. Empty where there is no evidence."""
    level: BindingLevel
    collateral: bytes | None = None
    """What the peer has stapled, unread: the vendor's documents in the JSON form of `eaa.collateral.bundle`."""

    @property
    def evidence_digest(self) -> bytes:
        """SHA-256 of the quote, as an appraisal result names it."""
        return hashlib.sha256(self.evidence or b"").digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAccepted:
    """The peer judged this side's evidence and accepts it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenReceived:
    """The client wants a channel: call `opened` once there is one, or `reject`."""

    workload: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedReceived:
    """The channel is there; raw bytes follow."""


Event = EvidenceWanted | EvidenceReceived | PeerAccepted | OpenReceived | OpenedReceived

_new_wanted: Final = quick(EvidenceWanted)
_new_received: Final = quick(EvidenceReceived)
_PEER_ACCEPTED: Final = PeerAccepted()


class Exchange:
    """The state of one end. `receive` takes bytes and answers with events; `data_to_send` hands out what to send.

    Read `wanted` bytes at a time and no raw byte is ever taken by mistake; who reads more finds it in `take_leftover`.
    After any error the exchange is over: send what `reject` and `data_to_send` give, if anything, and close.
    """

    def __init__(self, *, session: Session, terms: Terms, nonce: bytes, now: datetime) -> None:
        """Begin an exchange; where this side judges, `attest` is ready to be sent.

        Args:
            session: the TLS connection.
            terms: this side's demands.
            nonce: 32 random bytes, used for this exchange only.
            now: the present, for the dates of an epoch; an exchange takes seconds.
        """
        if now.tzinfo is None:
            raise _our_bug("the time of an exchange has no zone")
        if len(nonce) != NONCE_SIZE or len(session.exporter) != EXPORTER_SIZE:
            raise _our_bug(f"the nonce has {len(nonce)} bytes and the exporter {len(session.exporter)}")
        self._session = session
        self._terms = terms
        self._nonce = nonce
        self._now = now
        self._reader = FrameReader()
        self._outgoing = bytearray()
        self._leftover = bytearray()
        self._failed = False
        self._refused = False
        self._pending_claims: bytes | None = None
        self._epoch_wanted = False
        self._asked_by_peer = False
        self._answered = False
        self._peer_accepted = False
        self._peer_has_finished = False
        self._evidence_received = False
        self._judgeable = False
        self._accepted = False
        self._open_sent = self._open_received = False
        self._opened_sent = self._opened_received = False
        if terms.judges:
            self._send(messages.Attest(nonce=nonce, level=terms.level))

    # What goes in and out.

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the peer and return what they mean.

        Raises:
            PeerMisbehaved: MESSAGE_MALFORMED, MESSAGE_TOO_LARGE, MESSAGE_UNEXPECTED, LEVEL_NOT_OFFERED.
            MalformedInput: EVIDENCE_MALFORMED, the peer's evidence is none.
            VerificationError: CLAIMS_MISMATCH, ROLE_MISMATCH, EPOCH_SIGNATURE, the peer's evidence was made for
                something else; EPOCH_NOT_CURRENT, EPOCH_TOO_LONG, EPOCH_KEY_REUSED.
            Rejection: PEER_REJECTED_US.
            Unavailable: WORKLOAD_UNAVAILABLE, APPLICATION_UNAVAILABLE, COLLATERAL_PENDING.
        """
        if self._failed:
            raise _our_bug("an exchange that has failed was fed more bytes")
        events: list[Event] = []
        try:
            if not self._peer_has_finished:
                self._reader.push(data)
                while not self._peer_has_finished and (message := self._reader.pull()) is not None:
                    event = self._on_message(message)
                    self._peer_has_finished = self._was_its_last()
                    if event is not None:
                        events.append(event)
                data = self._reader.take_rest() if self._peer_has_finished else b""
            if data:
                self._keep(data)
        except EAAError:
            self._failed = True
            raise
        return events

    def data_to_send(self) -> bytes:
        """Hand out the bytes that are due to the peer."""
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data

    @property
    def wanted(self) -> int:
        """How many bytes to read next; 0 where the peer's messages are complete."""
        return 0 if self._failed or self._peer_has_finished else self._reader.wanted

    @property
    def finished(self) -> bool:
        """Whether raw bytes may flow, both ways, as far as the messages go. The gate has its own say."""
        if self._failed:
            return False
        terms = self._terms
        if terms.ending is Ending.OPENED:
            return self._opened_sent
        # What finishes the peer where this side has said `open` is `opened`.
        return self._peer_has_finished and (self._accepted or not terms.judges)

    def take_leftover(self) -> bytes:
        """Hand out raw bytes that came in one piece with the last message. Only when `finished`."""
        if not self.finished:
            raise _our_bug("raw bytes were asked for before the exchange was finished")
        leftover = bytes(self._leftover)
        self._leftover.clear()
        return leftover

    # What the caller decides.

    def answer(
        self, quote: bytes | None, *, epoch: EpochSignature | None = None, collateral: bytes | None = None
    ) -> None:
        """Answer `EvidenceWanted`, with evidence or with None: no evidence.

        Args:
            quote: what the TEE gave over the report data that is wanted; at level `session` the epoch's quote.
            epoch: at level `session`, the epoch's claims and its signature of this session.
            collateral: what to staple to it; a bundle of more than MAX_STAPLED_COLLATERAL bytes is left out.
        """
        if self._pending_claims is None:
            raise _our_bug("evidence was given that the peer has not asked for")
        if quote is not None and (epoch is not None) != self._epoch_wanted:
            raise _our_bug("an epoch's signature goes with level session, and with no other")
        claims, self._pending_claims = self._pending_claims, None
        self._answered = True
        if quote is None:
            self._send(messages.Evidence())
            return
        if collateral is not None and len(collateral) > messages.MAX_STAPLED_COLLATERAL:
            collateral = None
        # An epoch's evidence is the same in all of its sessions.
        tagged = _tagged_again(quote, epoch.claims) if epoch else _tagged(quote, claims)
        signature = epoch.signature if epoch else None
        self._send(messages.new_evidence(evidence=tagged, epoch=signature, collateral=collateral))

    def accept(self) -> None:
        """Accept the evidence of `EvidenceReceived`; the peer is told where this hop tells it."""
        if not self._judgeable or self._accepted:
            raise _our_bug("there is no evidence that waits for a verdict")
        self._accepted = True
        if self._terms.announces_verdict:
            self._send(messages.ACCEPT)

    def dangerously_accept_without_judging(self) -> None:
        """Answer whatever `EvidenceReceived` brought, none included, with `accept`: the operator wants no judgement."""
        if not self._evidence_received or self._accepted:
            raise _our_bug("no evidence has been answered that could be waved through")
        self._judgeable = True
        self.accept()

    def reject(self, reason_class: RejectClass) -> None:
        """End the exchange. The peer is told the class where this hop tells it anything; then close."""
        if self._terms.announces_verdict and not self.finished and not self._refused:
            self._send(messages.Reject(reason_class=reason_class))
        self._failed = self._refused = True

    @property
    def may_open(self) -> bool:
        """Whether `open` may be sent: not while a relay that has asked for this side's evidence owes its verdict.

        A side that judges asks before it shows its own evidence, so once that is here the answer is final.
        """
        return not self._asked_by_peer or self._peer_accepted

    def open(self, workload: str, *, early: bytes = b"") -> None:
        """Ask for a channel to `workload`. `early` raw bytes (an inner ClientHello) go with it, unseen by any judge.

        Where the relay judges this side, wait for `PeerAccepted` first.
        """
        if self._terms.ending is not Ending.OPEN or self._open_sent or self._failed:
            raise _our_bug("open was sent where no open is due")
        if not self.may_open:
            raise _our_bug("open was sent to a relay that has not given its verdict")
        if len(early) > MAX_EARLY_BYTES:
            raise Misuse(
                Reason.USAGE, f"{len(early)} early bytes are too many", hint=f"at most {MAX_EARLY_BYTES} go with `open`"
            )
        if not messages.is_workload_name(workload):
            raise Misuse(
                Reason.USAGE,
                f"{ascii(workload)[:40]} is no workload name",
                hint="a workload name is letters, digits and `.`, `_`, `:`, `/`, `-`, a letter or digit first",
            )
        self._open_sent = True
        self._send(messages.Open(workload=workload))
        self._outgoing += early

    def opened(self) -> None:
        """Say that the channel the client asked for is there. Raw bytes follow."""
        if not self._open_received or self._opened_sent or self._failed:
            raise _our_bug("opened was sent where no open waits")
        if self._pending_claims is not None:
            raise _our_bug("opened was sent before the evidence that the client has asked for")
        self._opened_sent = True
        self._send(messages.Opened())

    # What the peer says.

    def _on_message(self, message: Message) -> Event | None:
        match message:
            case messages.Attest():
                return self._on_attest(message)
            case messages.Evidence():
                return self._on_evidence(message)
            case messages.Accept():
                self._in_turn(
                    self._answered and self._terms.peer_announces_verdict and not self._peer_accepted, message
                )
                self._peer_accepted = True
                return _PEER_ACCEPTED
            case messages.Open():
                judged = self._accepted or not self._terms.judges
                self._in_turn(self._terms.ending is Ending.OPENED and judged, message)
                self._require_a_question()
                self._open_received = True
                return OpenReceived(workload=message.workload)
            case messages.Opened():
                shown = self._evidence_received or not self._terms.judges
                self._in_turn(self._open_sent and shown, message)
                self._opened_received = True
                return OpenedReceived()
        raise self._refusal(message.reason_class)

    def _on_attest(self, message: messages.Attest) -> Event | None:
        self._in_turn(not self._asked_by_peer and not self._evidence_received, message)
        if self._open_sent:
            raise PeerMisbehaved(
                Reason.MESSAGE_UNEXPECTED,
                f"the {self._terms.peer_role} demands evidence of this side, which has already asked for a channel",
                hint="if that relay judges its clients, start this side with evidence and --mutual",
            )
        if message.nonce == self._nonce:
            raise PeerMisbehaved(Reason.MESSAGE_UNEXPECTED, "the peer sends back this side's own nonce")
        if message.level not in CLAIMS or message.level < self._terms.minimum_level:
            raise PeerMisbehaved(
                Reason.LEVEL_NOT_OFFERED,
                f"the {self._terms.peer_role} asks for evidence at level {message.level.label}, this side gives "
                + " and ".join(level.label for level in CLAIMS if level >= self._terms.minimum_level),
            )
        self._asked_by_peer = True
        if self._session.own_spki is None:
            # Evidence is bound to a key. Without one there is nothing to show, and nobody to ask for it.
            self._answered = True
            self._send(messages.Evidence())
            return None
        claims = encode_expected(message.level, **self._ends(nonce=message.nonce, role=self._terms.own_role, own=True))
        self._pending_claims = claims
        self._epoch_wanted = message.level is BindingLevel.SESSION
        return _new_wanted(claims=claims, level=message.level)

    def _on_evidence(self, message: messages.Evidence) -> Event:
        self._in_turn(self._terms.judges and not self._evidence_received, message)
        if self._terms.ending is Ending.ACCEPT:
            # Whoever asks does so before its own evidence.
            self._require_a_question()
        self._evidence_received = True
        if message.evidence is None:
            return EvidenceReceived(evidence=None, report_data=b"", level=self._terms.level)
        if self._session.peer_spki is None:
            raise VerificationError(
                Reason.CLAIMS_MISMATCH, f"the {self._terms.peer_role} shows evidence for a TLS key it does not have"
            )
        ends = self._ends(nonce=self._nonce, role=self._terms.peer_role, own=False)
        tagged = verify_binding(message, terms=self._terms, now=self._now, **ends)
        self._judgeable = True
        return _new_received(
            evidence=tagged.evidence,
            report_data=claims_report_data(tagged.claims),
            level=self._terms.level,
            collateral=message.collateral,
        )

    def _require_a_question(self) -> None:
        """Refuse a client that goes on without this side's evidence, where the operator demands a level of it."""
        if not self._asked_by_peer and self._terms.has_to_be_asked:
            raise PeerMisbehaved(
                Reason.LEVEL_NOT_OFFERED,
                f"the {self._terms.peer_role} asks for no evidence, and is served only where it asks at level "
                f"{self._terms.minimum_level.label} or a stronger one",
                hint="let it judge this side, or lower --minimum-level",
            )

    def _ends(self, *, nonce: bytes, role: Role, own: bool) -> Ends:
        session = self._session
        return {
            "attester_spki": (session.own_spki if own else session.peer_spki) or b"",
            "other_spki": session.peer_spki if own else session.own_spki,
            "nonce": nonce,
            "exporter": session.exporter,
            "role": role,
        }

    def _refusal(self, reason_class: RejectClass) -> EAAError:
        self._refused = True
        who = self._terms.peer_role
        if reason_class is RejectClass.PENDING:
            return Unavailable(
                Reason.COLLATERAL_PENDING,
                f"the {who} is still fetching what it needs to judge this side",
                hint="try again in a moment",
            )
        if reason_class is RejectClass.APPLICATION:
            return Unavailable(
                Reason.APPLICATION_UNAVAILABLE,
                f"the application behind the {who} cannot be reached",
                hint=f"start it, and try again; the log of the {who} says what is missing",
            )
        if reason_class is RejectClass.UNAVAILABLE:
            return Unavailable(
                Reason.WORKLOAD_UNAVAILABLE,
                f"the {who} cannot serve this side now, or has no such workload",
                hint=f"check --workload, and try again; the log of the {who} says what is missing",
            )
        return Rejection(
            Reason.PEER_REJECTED_US,
            f"the {who} refused this side ({reason_class.value})",
            hint=_REFUSAL_HINTS[reason_class].format(who=who),
        )

    # Order.

    def _was_its_last(self) -> bool:
        """Tell whether the message that was just taken is the peer's last one, so that what follows is raw bytes."""
        ending = self._terms.ending
        if ending is not Ending.ACCEPT:
            return self._opened_received if ending is Ending.OPEN else self._open_received
        # Whoever judges has sent its attest before its evidence, so evidence that came first says: no verdict follows.
        shown = self._evidence_received or (not self._terms.judges and self._asked_by_peer)
        return shown and (self._peer_accepted or not self._asked_by_peer)

    def _keep(self, data: bytes) -> None:
        """Keep raw bytes that came too soon to be used, within bounds."""
        if not self.finished and self._terms.ending is Ending.ACCEPT:
            raise PeerMisbehaved(
                Reason.MESSAGE_UNEXPECTED, f"the {self._terms.peer_role} goes on before this side has given its verdict"
            )
        if len(self._leftover) + len(data) > MAX_EARLY_BYTES and not self.finished:
            raise PeerMisbehaved(
                Reason.MESSAGE_TOO_LARGE,
                f"the {self._terms.peer_role} sends more than {MAX_EARLY_BYTES} bytes before its channel is open",
            )
        self._leftover += data

    def _in_turn(self, allowed: bool, message: Message) -> None:  # noqa: FBT001 - reads as a sentence where it is used
        if not allowed:
            raise PeerMisbehaved(
                Reason.MESSAGE_UNEXPECTED,
                f"the {self._terms.peer_role} sends {type(message).__name__.lower()} where it has no place",
            )

    def _send(self, message: Message) -> None:
        self._outgoing += messages.encode(message)


def _tagged(quote: bytes, claims: bytes) -> bytes:
    return _new_tagged(evidence=quote, claims=claims).encode()


_new_tagged: Final = quick(TaggedEvidence)
_tagged_again: Final = functools.lru_cache(maxsize=MAX_REMEMBERED_EPOCHS)(_tagged)


_REFUSAL_HINTS: Final = {
    RejectClass.NO_EVIDENCE: "start this side with an attester, and with --mutual where it connects: "
    "the {who} demands evidence",
    RejectClass.MALFORMED: "the {who} could not read this side's evidence; do both run compatible versions?",
    RejectClass.UNVERIFIABLE: "the {who} could not verify this side's evidence; its log says what is wrong",
    RejectClass.POLICY: "this side's measurement or platform is not in the reference values or policy of the {who}",
    RejectClass.LEVEL: "the {who} shows its evidence at stronger levels only: ask for one, fresh is the strongest",
    RejectClass.PROTOCOL: "the {who} says that this side broke the protocol; its log says where",
}


def _our_bug(message: str) -> EAAError:
    return EAAError(Reason.INTERNAL, message)
