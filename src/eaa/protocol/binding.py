"""What ties evidence to a session, at each level, and how the relying party sees that it does.

Source: docs/manual/protocol.md, "Evidence and its claims".
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypedDict, Unpack

from eaa.appraise.result import BindingLevel, Role
from eaa.errors import MalformedInput, Reason, VerificationError
from eaa.evidence import cbor
from eaa.evidence.epoch import EPOCH_CLAIMS, EPOCH_LABEL, EpochClaims, is_same_key, is_signed_by, session_statement
from eaa.evidence.tagged import PUBKEY_HASH, TaggedEvidence, encode_claims, parse_claims, pubkey_hash_claim
from eaa.protocol import messages
from eaa.protocol.terms import Terms

EXPORTER_SIZE: Final = 32
ATTEST_LABEL: Final = b"eaa/2 attest"
"""The claim `label` of what was made for one session."""
SESSION_CLAIMS: Final = ("label", PUBKEY_HASH, "peer", "nonce", "tls-exporter", "role")
"""What names one session. At level `fresh` these are the claims of the evidence; at `session` the epoch's key signs
them."""
CLAIMS: Final[Mapping[BindingLevel, tuple[str, ...]]] = {
    BindingLevel.CERT: (PUBKEY_HASH,),
    BindingLevel.SESSION: EPOCH_CLAIMS,
    BindingLevel.FRESH: SESSION_CLAIMS,
}
"""The claims that evidence has at each level: all of these and no others."""
MAX_REMEMBERED_EPOCHS: Final = 256
"""Epochs' evidence of which it is remembered what it says."""
MAX_REMEMBERED_EPOCH: Final = 16 * 1024
"""Bytes of one; real ones have 5 KiB."""


MAX_KNOWN_ENDS: Final = 256
"""Pairs of ends whose claims are remembered, but for what is new in each session."""


class Ends(TypedDict):
    """One session, and one of its ends, whose evidence it is."""

    attester_spki: bytes
    """Key of the side whose evidence it is, DER SubjectPublicKeyInfo."""
    other_spki: bytes | None
    """Key of the other end's certificate, None where it has none."""
    nonce: bytes
    """The asker's 32 bytes."""
    exporter: bytes
    """32 bytes of the session."""
    role: Role
    """The attester's."""


def expected_claims(level: BindingLevel, **ends: Unpack[Ends]) -> dict[str, bytes]:
    """Return the claims that name one session: of the evidence, and at level `session` of the signed statement.

    Args:
        level: any but `none`.
        ends: the session, and whose evidence it is.
    """
    # Exporter and role carry the weight, and at level cert the key: the bounded model of this exchange (tests/model)
    # finds an attack without them. Label, peer, nonce and, beside an exporter, the key are a second layer.
    if level is BindingLevel.CERT:
        return {PUBKEY_HASH: pubkey_hash_claim(ends["attester_spki"])}
    other_spki = ends["other_spki"]
    return {
        "label": ATTEST_LABEL,
        PUBKEY_HASH: pubkey_hash_claim(ends["attester_spki"]),
        "peer": b"" if other_spki is None else pubkey_hash_claim(other_spki),
        "nonce": ends["nonce"],
        "tls-exporter": ends["exporter"],
        "role": ends["role"].encode(),
    }


def encode_expected(level: BindingLevel, **ends: Unpack[Ends]) -> bytes:
    """Return `expected_claims`, encoded; two ends that meet again need only what is new between them."""
    if level is BindingLevel.CERT:
        return encode_claims(expected_claims(level, **ends))
    begin, middle, end = _around(ends["attester_spki"], ends["other_spki"], ends["role"])
    return b"".join((begin, ends["nonce"], middle, ends["exporter"], end))


@functools.lru_cache(maxsize=MAX_KNOWN_ENDS)
def _around(attester_spki: bytes, other_spki: bytes | None, role: Role) -> tuple[bytes, ...]:
    """Return the claims of all sessions of two ends, around what is new in each: nonce, and then exporter."""
    claims = expected_claims(
        BindingLevel.FRESH,
        attester_spki=attester_spki,
        other_spki=other_spki,
        nonce=bytes(messages.NONCE_SIZE),
        exporter=bytes(EXPORTER_SIZE),
        role=role,
    )
    return cbor.around_byte_strings(claims, "nonce", "tls-exporter")


def verify_binding(message: messages.Evidence, *, terms: Terms, now: datetime, **ends: Unpack[Ends]) -> TaggedEvidence:
    """Establish that evidence was made for one session, as far as that can be without verifying its quote.

    Args:
        message: the peer's answer, with evidence.
        terms: the relying party's.
        now: the present, for the dates of an epoch.
        ends: the session, and the peer as the attester.

    Returns:
        The evidence. Its quote has to contain the report data of its claims, which is for the judge to see.

    Raises:
        MalformedInput: EVIDENCE_MALFORMED.
        VerificationError: CLAIMS_MISMATCH, ROLE_MISMATCH, EPOCH_SIGNATURE, it was made for something else;
            EPOCH_NOT_CURRENT, EPOCH_TOO_LONG, EPOCH_KEY_REUSED.
    """
    raw = message.evidence or b""
    if terms.level is BindingLevel.SESSION:
        return _verify_session(raw, message.epoch, terms=terms, now=now, **ends)
    tagged = TaggedEvidence.parse(raw)
    # There is one encoding of the claims that are due. What else came is read, to say what is wrong with it.
    if message.epoch is None and tagged.claims == encode_expected(terms.level, **ends):
        return tagged
    claims = parse_claims(tagged.claims, tolerant=False)
    if message.epoch is not None:
        raise _not_signed(
            terms, f"shows an epoch's signature at level {terms.level.label}", reason=Reason.CLAIMS_MISMATCH
        )
    _compare_claims(claims, expected_claims(terms.level, **ends), terms)
    return tagged


@dataclass(frozen=True, slots=True, kw_only=True)
class _Epoch:
    """An epoch's evidence, read and not verified."""

    tagged: TaggedEvidence
    claims: Mapping[str, bytes]
    stated: EpochClaims | None
    """The same in figures; None where they are not those of an epoch."""


def _read_epoch(raw: bytes, digest: bytes) -> _Epoch:
    """Read an epoch's evidence. Raises MalformedInput.

    Every session of an epoch brings the same bytes, so what they say is remembered. That is no verdict: it is what
    reading them again would give, whoever they are from.
    """
    found = _EPOCHS.get(digest)
    if found is None:
        tagged = TaggedEvidence.parse(raw)
        claims = parse_claims(tagged.claims, tolerant=False)
        found = _Epoch(tagged=tagged, claims=claims, stated=_read_stated(claims))
        if len(raw) <= MAX_REMEMBERED_EPOCH:
            if len(_EPOCHS) >= MAX_REMEMBERED_EPOCHS:
                _EPOCHS.clear()
            _EPOCHS[digest] = found
    return found


def _read_stated(claims: Mapping[str, bytes]) -> EpochClaims | None:
    with contextlib.suppress(MalformedInput):
        return EpochClaims.from_claims(claims) if claims.keys() == set(EPOCH_CLAIMS) else None
    return None


_EPOCHS: Final[dict[bytes, _Epoch]] = {}


def _verify_session(
    raw: bytes, signature: bytes | None, *, terms: Terms, now: datetime, **ends: Unpack[Ends]
) -> TaggedEvidence:
    """Establish that the evidence is of an epoch of the peer's, and that its key has signed this session."""
    digest = hashlib.sha256(raw).digest()
    read = _read_epoch(raw, digest)
    epoch = _verify_epoch(read, terms=terms, peer_spki=ends["attester_spki"], now=now)
    if signature is None:
        raise _not_signed(terms, "shows the evidence of an epoch without its signature")
    if not is_signed_by(epoch.session_key, signature, session_statement(digest, encode_expected(terms.level, **ends))):
        raise _not_signed(terms, "shows an epoch whose key has not signed this session")
    return read.tagged


def _verify_epoch(read: _Epoch, *, terms: Terms, peer_spki: bytes, now: datetime) -> EpochClaims:
    """Establish that the key in an epoch's claims may sign for the peer, now.

    1. The claims are those of an epoch, of the peer's own TLS key and in its role: without the key, whoever stole any
       live epoch could show it beside a certificate of his own. The statement has the same two, by computation.
    2. The session key is not the TLS key, or one theft would take both.
    3. The epoch is short and not over.
    """
    epoch, pubkey_hash, role = read.stated, pubkey_hash_claim(peer_spki), terms.peer_role.encode()
    if epoch is None or (epoch.label, epoch.pubkey_hash, epoch.role) != (EPOCH_LABEL, pubkey_hash, role):
        bound = {"label": EPOCH_LABEL, PUBKEY_HASH: pubkey_hash, "role": role}
        _compare_claims(read.claims, bound, terms, names=EPOCH_CLAIMS)
        # They have the names and values that are due, so it is how one of the others is written.
        epoch = EpochClaims.from_claims(read.claims)
    if is_same_key(epoch.session_key, peer_spki):
        raise VerificationError(
            Reason.EPOCH_KEY_REUSED,
            f"the {terms.peer_role} signs its sessions with its TLS key",
            hint="an epoch needs a signing key of its own, or whoever steals one has both",
        )
    _verify_dates(epoch, terms, now=now)
    return epoch


_RELAYED: Final = (
    "evidence made for another connection or another purpose proves nothing here: someone may be relaying it"
)


def _compare_claims(
    claims: Mapping[str, bytes],
    expected: Mapping[str, bytes],
    terms: Terms,
    *,
    names: tuple[str, ...] | None = None,
) -> None:
    """Refuse claims unless they have exactly these names, by default those that are expected, and the expected values.

    Raises:
        VerificationError: CLAIMS_MISMATCH or ROLE_MISMATCH.
    """
    due = set(names or expected)
    if claims.keys() == due and all(claims[name] == value for name, value in expected.items()):
        return
    where = f"the evidence of the {terms.peer_role}"
    for problem, wrong in (("unknown", claims.keys() - due), ("missing", due - claims.keys())):
        if wrong:
            raise VerificationError(
                Reason.CLAIMS_MISMATCH,
                f"{where} has {problem} claims at level {terms.level.label}: {ascii(sorted(wrong))[:80]}",
                hint=_RELAYED,
            )
    for name, value in expected.items():
        if claims[name] != value:
            reason = Reason.ROLE_MISMATCH if name == "role" else Reason.CLAIMS_MISMATCH
            raise VerificationError(
                reason,
                f"{where} claims {name} {_shown(name, claims[name])}, this session's is {_shown(name, value)}",
                hint=_RELAYED,
            )


def _verify_dates(epoch: EpochClaims, terms: Terms, *, now: datetime) -> None:
    """Refuse an epoch that is not now or too long. Raises VerificationError."""
    who = terms.peer_role
    span, most = epoch.not_after - epoch.not_before, 2 * terms.maximum_epoch.total_seconds()
    if span > most:
        raise VerificationError(
            Reason.EPOCH_TOO_LONG,
            f"the epoch of the {who} spans {span} seconds, at most {most:g} are accepted",
            hint="a key that lives long may have been stolen long ago; let the attester make shorter epochs",
        )
    present = now.timestamp()
    if not epoch.not_before <= present <= epoch.not_after:
        when = "is over" if epoch.not_after < present else "has not begun"
        raise VerificationError(
            Reason.EPOCH_NOT_CURRENT,
            f"the epoch of the {who} {when}: it is {epoch.not_before} to {epoch.not_after}, the time is {present:.0f}",
            hint="somebody shows an old epoch, or the two clocks disagree; level fresh depends on no clock",
        )


def _not_signed(terms: Terms, what: str, *, reason: Reason = Reason.EPOCH_SIGNATURE) -> VerificationError:
    return VerificationError(reason, f"the {terms.peer_role} {what}", hint=_RELAYED)


def _shown(name: str, value: bytes) -> str:
    """Show a claim to people: text where it is text."""
    return ascii(value.decode("latin-1"))[:40] if name in ("label", "role") else value.hex()[:80] or "(empty)"
