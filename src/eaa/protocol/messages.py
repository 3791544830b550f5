"""The messages of eaa/2: one length, one CBOR map, nothing optional but what the table below says.

A message on the wire is a u32, big-endian, and then that many bytes of deterministic CBOR: a map with text keys, `type`
always among them. `docs/manual/protocol.md` lays every one out byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from eaa.appraise.result import BindingLevel
from eaa.errors import EAAError, MalformedInput, PeerMisbehaved, Reason, Rejection, VerificationError
from eaa.evidence import cbor
from eaa.records import quick

MAX_MESSAGE: Final = 256 * 1024
"""Bytes of one message, the length before it not counted."""
LENGTH_SIZE: Final = 4
NONCE_SIZE: Final = 32
MAX_WORKLOAD_NAME: Final = 253

EPOCH_SIGNATURE_SIZE: Final = 64
"""Bytes of an epoch's signature: ECDSA on P-256, r and s, 32 bytes each, big-endian."""
MAX_STAPLED_COLLATERAL: Final = 96 * 1024
"""Bytes of stapled collateral; real ones have about 25 KiB. A message with the largest quote has room for it."""

MESSAGE_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "attest": ("nonce", "level"),
    "evidence": ("evidence", "epoch-signature", "collateral"),
    "accept": (),
    "reject": ("class",),
    "open": ("workload",),
    "opened": (),
}
"""The keys of each message beside `type`."""
OPTIONAL_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {"evidence": ("evidence", "epoch-signature", "collateral")}
"""Keys that may be absent. The last two only stand beside the first."""

_LEVELS: Final = (BindingLevel.CERT, BindingLevel.SESSION, BindingLevel.FRESH)
_WORKLOAD_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")


class RejectClass(StrEnum):
    """What a refused peer is told: the class of the reason, never what was expected of it."""

    NO_EVIDENCE = "no-evidence"
    MALFORMED = "malformed"
    UNVERIFIABLE = "unverifiable"
    POLICY = "policy"
    UNAVAILABLE = "unavailable"
    PENDING = "pending"
    APPLICATION = "application"
    LEVEL = "level"
    PROTOCOL = "protocol"

    @classmethod
    def of(cls, error: EAAError) -> RejectClass:
        """Return the class that tells a peer about `error`, and no more than that."""
        if error.reason in _CLASSES_OF_REASONS:
            return _CLASSES_OF_REASONS[error.reason]
        match error:
            case MalformedInput():
                return cls.MALFORMED
            case VerificationError():
                return cls.UNVERIFIABLE
            case Rejection():
                return cls.POLICY
            case PeerMisbehaved():
                return cls.PROTOCOL
        return cls.UNAVAILABLE


_CLASSES_OF_REASONS: Final = {
    Reason.NO_EVIDENCE: RejectClass.NO_EVIDENCE,
    Reason.COLLATERAL_PENDING: RejectClass.PENDING,
    Reason.APPLICATION_UNAVAILABLE: RejectClass.APPLICATION,
    Reason.LEVEL_NOT_OFFERED: RejectClass.LEVEL,
}
"""Reasons that say more than the type of their error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attest:
    """Show your evidence, for this nonce, at this level."""

    nonce: bytes
    """32 random bytes of the asker."""
    level: BindingLevel

    def _fields(self) -> dict[str, object]:
        return {"type": "attest", "nonce": self.nonce, "level": self.level.label}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The answer to `attest`."""

    evidence: bytes | None = None
    """Tagged evidence (`eaa.evidence.tagged`), of the epoch at level `session`; None where this side has none."""
    epoch: bytes | None = None
    """At level `session`, the epoch key's signature of this session, EPOCH_SIGNATURE_SIZE bytes; else None."""
    collateral: bytes | None = None
    """Stapled collateral: the JSON form of `eaa.collateral.bundle`, unread. None where nothing is stapled."""

    def _fields(self) -> dict[str, object]:
        shown = {"evidence": self.evidence, "epoch-signature": self.epoch, "collateral": self.collateral}
        return {"type": "evidence"} | {name: value for name, value in shown.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """The sender judged the receiver's evidence, and accepts it."""

    def _fields(self) -> dict[str, object]:
        return {"type": "accept"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """The sender refuses to go on."""

    reason_class: RejectClass

    def _fields(self) -> dict[str, object]:
        return {"type": "reject", "class": self.reason_class.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Connect this channel to a workload."""

    workload: str
    """1 to 253 letters, digits, `.`, `_`, `:`, `/`, `-`; a letter or digit first."""

    def _fields(self) -> dict[str, object]:
        return {"type": "open", "workload": self.workload}


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The channel is connected; what follows is the workload's bytes."""

    def _fields(self) -> dict[str, object]:
        return {"type": "opened"}


Message = Attest | Evidence | Accept | Reject | Open | Opened

ACCEPT: Final = Accept()
_new_attest: Final = quick(Attest)
new_evidence: Final = quick(Evidence)


def encode(message: Message) -> bytes:
    """Return the message as it goes over the wire, its length in front."""
    if (known := _CONSTANT.get(type(message))) is not None:
        return known
    if isinstance(message, Attest) and len(message.nonce) == NONCE_SIZE:
        return _ATTEST_STARTS[message.level] + message.nonce
    pieces = _encode_evidence(message) if isinstance(message, Evidence) else [cbor.encode(message._fields())]
    size = sum(map(len, pieces))
    if size > MAX_MESSAGE:
        raise EAAError(Reason.INTERNAL, f"a message of {size} bytes was built, the protocol allows {MAX_MESSAGE}")
    return b"".join((size.to_bytes(LENGTH_SIZE, "big"), *pieces))


def decode(body: bytes) -> Message:
    """Decode one message, without its length.

    Raises:
        PeerMisbehaved: MESSAGE_MALFORMED.
    """
    # Every message has one encoding, so one that is short enough to compare need not be taken apart.
    if len(body) <= _LONGEST_ATTEST:
        if level := _ATTEST_LEVELS.get(body[:-NONCE_SIZE]):
            return _new_attest(nonce=body[-NONCE_SIZE:], level=level)
        if (known := _KNOWN.get(body)) is not None:
            return known
    elif body.startswith(_EVIDENCE_HEAD, 1) and (evidence := _split_evidence(body)):
        return evidence
    try:
        fields = cbor.decode(body, what="the peer's message")
    except MalformedInput as error:
        raise PeerMisbehaved(
            Reason.MESSAGE_MALFORMED, f"the peer sent what is no message of eaa/2: {error.message}"
        ) from error
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        raise _malformed("it is not a map with text keys")
    kind = fields.pop("type", None)
    if not isinstance(kind, str) or kind not in MESSAGE_FIELDS:
        raise _malformed(f"its type is {_shown(kind)}")
    unknown = sorted(fields.keys() - set(MESSAGE_FIELDS[kind]))
    missing = sorted(set(MESSAGE_FIELDS[kind]) - set(OPTIONAL_FIELDS.get(kind, ())) - fields.keys())
    if unknown or missing:
        keys = ", ".join(_shown(key) for key in unknown or missing)
        raise _malformed(f"{kind} {'has unknown' if unknown else 'lacks the'} keys {keys}")
    return _DECODERS[kind](fields)


class FrameReader:
    """Cuts a stream into messages. What is buffered never exceeds one message and the caller's last chunk."""

    def __init__(self) -> None:
        # What came in one piece with its message, as nearly all does, is copied once, and the rest is added to it.
        self._buffer: bytes | bytearray = b""
        self._at = 0

    def push(self, data: bytes) -> None:
        """Take bytes from the stream. Raises PeerMisbehaved (MESSAGE_TOO_LARGE) once a length says too much."""
        if self._at == len(self._buffer):
            self._buffer, self._at = data, 0
        else:
            if self._at or isinstance(self._buffer, bytes):
                self._buffer, self._at = bytearray(self._buffer[self._at :]), 0
            self._buffer += data
        self._body_size()

    def pull(self) -> Message | None:
        """Return the next whole message, None while it is incomplete. Raises as `decode` and `push`."""
        buffer, begin = self._buffer, self._at + LENGTH_SIZE
        if len(buffer) < begin:
            return None
        end = begin + (self._body_size() or 0)
        if len(buffer) < end:
            return None
        if end == len(buffer):
            self._buffer, self._at = b"", 0
        else:
            self._at = end
        return decode(bytes(buffer[begin:end]))

    def feed(self, data: bytes) -> list[Message]:
        """Take bytes and return every message they complete. Raises as `push` and `pull`."""
        self.push(data)
        return list(iter(self.pull, None))

    @property
    def wanted(self) -> int:
        """How many bytes complete the next length or message: who reads no more never reads past a message."""
        size = self._body_size()
        return (LENGTH_SIZE if size is None else LENGTH_SIZE + size) - self.buffered

    @property
    def buffered(self) -> int:
        """Bytes taken and not yet given back as a message."""
        return len(self._buffer) - self._at

    def take_rest(self) -> bytes:
        """Give back what is buffered, unread: the stream has turned from messages to raw bytes."""
        rest = bytes(self._buffer[self._at :])
        self._buffer, self._at = b"", 0
        return rest

    def _body_size(self) -> int | None:
        length = self._buffer[self._at : self._at + LENGTH_SIZE]
        if len(length) < LENGTH_SIZE:
            return None
        size = int.from_bytes(length, "big")
        if size > MAX_MESSAGE:
            raise PeerMisbehaved(
                Reason.MESSAGE_TOO_LARGE,
                f"the peer announces a message of {size} bytes, at most {MAX_MESSAGE} are allowed",
                hint="a peer that speaks another protocol on this port looks the same",
            )
        return size


def is_workload_name(name: str) -> bool:
    """Tell whether `open` may carry this name."""
    return len(name) <= MAX_WORKLOAD_NAME and _WORKLOAD_NAME.fullmatch(name) is not None


def _attest(fields: Mapping[str, Any]) -> Attest:
    nonce = fields["nonce"]
    if not isinstance(nonce, bytes) or len(nonce) != NONCE_SIZE:
        raise _malformed(f"the nonce of attest is not a byte string of {NONCE_SIZE} bytes")
    return Attest(nonce=nonce, level=_level(fields["level"]))


def _evidence(fields: Mapping[str, Any]) -> Evidence:
    for name, value in fields.items():
        if not isinstance(value, bytes):
            raise _malformed(f"the {name} of evidence is not a byte string")
    if fields and "evidence" not in fields:
        raise _malformed(f"evidence has {', '.join(sorted(fields))} and no evidence")
    signature, collateral = fields.get("epoch-signature"), fields.get("collateral", b"")
    if signature is not None and len(signature) != EPOCH_SIGNATURE_SIZE:
        raise _malformed(f"the epoch-signature has {len(signature)} bytes, not {EPOCH_SIGNATURE_SIZE}")
    if len(collateral) > MAX_STAPLED_COLLATERAL:
        raise _malformed(f"the stapled collateral has {len(collateral)} bytes, at most {MAX_STAPLED_COLLATERAL}")
    return Evidence(evidence=fields.get("evidence"), epoch=signature, collateral=fields.get("collateral"))


def _reject(fields: Mapping[str, Any]) -> Reject:
    for known in RejectClass:
        if fields["class"] == known.value:
            return Reject(reason_class=known)
    raise _malformed(f"reject names the class {_shown(fields['class'])}")


def _open(fields: Mapping[str, Any]) -> Open:
    workload = fields["workload"]
    if not isinstance(workload, str) or not is_workload_name(workload):
        raise _malformed(f"open names the workload {_shown(workload)}")
    return Open(workload=workload)


_DECODERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Message]]] = {
    "attest": _attest,
    "evidence": _evidence,
    "accept": lambda _: Accept(),
    "reject": _reject,
    "open": _open,
    "opened": lambda _: Opened(),
}


_KNOWN: Final[Mapping[bytes, Message]] = {
    cbor.encode(message._fields()): message for message in (ACCEPT, Opened(), Evidence())
}
"""The messages without content, by their encodings."""
_CONSTANT: Final[Mapping[type[Message], bytes]] = {
    type(message): len(body).to_bytes(LENGTH_SIZE, "big") + body
    for body, message in _KNOWN.items()
    if not isinstance(message, Evidence)
}


# The nonce is the last member of an attest, so all that goes before it is the same in each of a level.
_ATTEST_HEADS: Final[Mapping[BindingLevel, bytes]] = {
    level: cbor.encode(Attest(nonce=bytes(NONCE_SIZE), level=level)._fields())[:-NONCE_SIZE] for level in _LEVELS
}
_ATTEST_LEVELS: Final[Mapping[bytes, BindingLevel]] = {head: level for level, head in _ATTEST_HEADS.items()}
_LONGEST_ATTEST: Final = max(len(head) for head in _ATTEST_LEVELS) + NONCE_SIZE
_ATTEST_STARTS: Final[Mapping[BindingLevel, bytes]] = {
    level: (len(head) + NONCE_SIZE).to_bytes(LENGTH_SIZE, "big") + head for level, head in _ATTEST_HEADS.items()
}


# What makes up nearly all of an exchange is one byte string, or two, behind what is the same in all of them.
_EVIDENCE_HEAD: Final = cbor.encode("type") + cbor.encode("evidence") + cbor.encode("evidence")
"""How the map begins, behind its size, where there is evidence."""
_COLLATERAL_KEY: Final = cbor.encode("collateral")
_SIGNATURE_KEY: Final = cbor.encode("epoch-signature")
_MAP_OF_2: Final = 0xA2


def _encode_evidence(message: Evidence) -> list[bytes]:
    """Return the message in pieces, the long ones not copied."""
    if message.evidence is None:
        return [cbor.encode(message._fields())]
    members = _MAP_OF_2
    pieces = [b"", _EVIDENCE_HEAD, cbor.head_of_byte_string(len(message.evidence)), message.evidence]
    # In the order of deterministic CBOR: shorter keys first.
    for key, content in ((_COLLATERAL_KEY, message.collateral), (_SIGNATURE_KEY, message.epoch)):
        if content is not None:
            pieces += (key, cbor.head_of_byte_string(len(content)), content)
            members += 1
    pieces[0] = bytes((members,))
    return pieces


def _split_evidence(body: bytes) -> Evidence | None:
    """Read what has evidence of an ordinary size, in its one encoding; None of anything else."""
    begin, at = cbor.byte_string_at(body, 1 + len(_EVIDENCE_HEAD))
    members, found = _MAP_OF_2, [body[begin:at]]
    for key in (_COLLATERAL_KEY, _SIGNATURE_KEY):
        if at > 0 and body.startswith(key, at):
            start, at = cbor.byte_string_at(body, at + len(key))
            found.append(body[start:at])
            members += 1
        else:
            found.append(b"")
    evidence, collateral, signature = found
    fits = len(collateral) <= MAX_STAPLED_COLLATERAL and len(signature) in (0, EPOCH_SIGNATURE_SIZE)
    if at != len(body) or members != body[0] or not fits:
        return None
    return new_evidence(evidence=evidence, epoch=signature or None, collateral=collateral or None)


def _level(label: object) -> BindingLevel:
    for level in _LEVELS:
        if label == level.label:
            return level
    raise _malformed(f"attest asks for the level {_shown(label)}")


def _shown(value: object) -> str:
    """A peer's value for a log line: short, and without control characters."""
    return ascii(value)[:40]


def _malformed(message: str) -> PeerMisbehaved:
    return PeerMisbehaved(Reason.MESSAGE_MALFORMED, f"the peer sent what is no message of eaa/2: {message}")
