"""The messages of eaa/2: their exact bytes, and every way of not being one."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaa.appraise.result import BindingLevel
from eaa.errors import (
    EAAError,
    MalformedInput,
    Misuse,
    PeerMisbehaved,
    Reason,
    Rejection,
    Unavailable,
    VerificationError,
)
from eaa.evidence import cbor
from eaa.protocol import messages
from eaa.protocol.messages import (
    EPOCH_SIGNATURE_SIZE,
    LENGTH_SIZE,
    MAX_MESSAGE,
    MAX_STAPLED_COLLATERAL,
    MAX_WORKLOAD_NAME,
    MESSAGE_FIELDS,
    OPTIONAL_FIELDS,
    Accept,
    Attest,
    Evidence,
    FrameReader,
    Message,
    Open,
    Opened,
    Reject,
    RejectClass,
    decode,
    encode,
)

NONCE = bytes(range(32))
EVERY_MESSAGE: tuple[Message, ...] = (
    Attest(nonce=NONCE, level=BindingLevel.CERT),
    Attest(nonce=NONCE, level=BindingLevel.SESSION),
    Attest(nonce=NONCE, level=BindingLevel.FRESH),
    Evidence(evidence=b"tagged"),
    Evidence(evidence=b"tagged", epoch=bytes(EPOCH_SIGNATURE_SIZE)),
    Evidence(evidence=b"tagged", collateral=b"{}"),
    Evidence(evidence=b"tagged", epoch=bytes(EPOCH_SIGNATURE_SIZE), collateral=bytes(MAX_STAPLED_COLLATERAL)),
    Evidence(),
    Accept(),
    *(Reject(reason_class=member) for member in RejectClass),
    Open(workload="default/web-1.example:443"),
    Opened(),
)


def refused(body: bytes) -> Reason:
    with pytest.raises(PeerMisbehaved) as caught:
        decode(body)
    return caught.value.reason


def body_of(fields: object) -> bytes:
    return cbor2.dumps(fields, canonical=True)


# --- exact bytes


@pytest.mark.parametrize(
    ("message", "body"),
    [
        (
            Attest(nonce=NONCE, level=BindingLevel.FRESH),
            b"\xa3\x64type\x66attest\x65level\x65fresh\x65nonce\x58\x20" + NONCE,
        ),
        (Evidence(evidence=b"xyz"), b"\xa2\x64type\x68evidence\x68evidence\x43xyz"),
        (Evidence(), b"\xa1\x64type\x68evidence"),
        (Accept(), b"\xa1\x64type\x66accept"),
        (Reject(reason_class=RejectClass.POLICY), b"\xa2\x64type\x66reject\x65class\x66policy"),
        (Open(workload="web"), b"\xa2\x64type\x64open\x68workload\x63web"),
        (Opened(), b"\xa1\x64type\x66opened"),
    ],
)
def test_a_message_is_these_bytes(message: Message, body: bytes) -> None:
    assert encode(message) == len(body).to_bytes(4, "big") + body
    assert decode(body) == message


@pytest.mark.parametrize("message", EVERY_MESSAGE)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    assert decode(encode(message)[LENGTH_SIZE:]) == message


def test_the_tables_cover_the_messages() -> None:
    types = {cbor2.loads(encode(message)[LENGTH_SIZE:])["type"] for message in EVERY_MESSAGE}
    assert types == set(MESSAGE_FIELDS)
    assert OPTIONAL_FIELDS.keys() <= MESSAGE_FIELDS.keys()


# --- CBOR that is refused


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "nothing"),
        (b"\xa1\x64type\x66accept\x00", "trailing byte"),
        (b"\xa1\x64type\x66accep", "cut off"),
        (b"\xbf\x64type\x66accept\xff", "indefinite map"),
        (b"\xa1\x64type\x7f\x66accept\xff", "indefinite string"),
        (b"\xb8\x01\x64type\x66accept", "map head longer than due"),
        (b"\xa1\x78\x04type\x66accept", "string head longer than due"),
        (b"\xa2\x68workload\x63web\x64type\x64open", "keys out of order"),
        (b"\xa2\x64type\x66accept\x64type\x66accept", "duplicate key"),
        (b"\xa1\x64type\xfb\x3f\xf0\x00\x00\x00\x00\x00\x00", "float"),
        (b"\xa1\x64type\xf5", "true"),
        (b"\xa1\x64type\xf6", "null"),
        (b"\xa1\x64type\x20", "negative integer"),
        (b"\xa1\x64type\xc0\x6a2020-01-01", "tag"),
        (b"\xd9\xd9\xf7\xa1\x64type\x66accept", "self-described"),
        (b"\xa1\x64type\xd8\x24\x61(", "a tag that would build an e-mail"),
        (b"\xa1\x64type\x62\xff\xff", "text that is not UTF-8"),
        (b"\xa1\x44type\x66accept", "byte-string key"),
        (b"\xa1\x01\x66accept", "integer key"),
        (b"\x66accept", "no map"),
        (b"\x81\x66accept", "array"),
        (b"\x81" * 1000 + b"\x00", "nesting"),
        (b"\xa1\x64type" + b"\x81" * 20 + b"\x00", "nesting inside"),
        (b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff", "array of 2**64"),
        (b"\xbb\x7f\xff\xff\xff\xff\xff\xff\xff", "map of 2**63"),
        (b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff", "string of 2**63"),
        (b"\x1c", "reserved head"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_deterministic_cbor_of_our_kind(body: bytes, what: str) -> None:
    assert refused(body) is Reason.MESSAGE_MALFORMED, what


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"type": "greet"},
        {"type": 1},
        {"type": b"accept"},
        {"type": ["accept"]},
        {"type": "accept", "more": 1},
        {"type": "opened", "workload": "web"},
        {"type": "attest", "nonce": NONCE},
        {"type": "attest", "level": "fresh"},
        {"type": "attest", "nonce": NONCE[1:], "level": "fresh"},
        {"type": "attest", "nonce": NONCE.hex(), "level": "fresh"},
        {"type": "attest", "nonce": NONCE, "level": "none"},
        {"type": "attest", "nonce": NONCE, "level": "FRESH"},
        {"type": "attest", "nonce": NONCE, "level": 3},
        {"type": "attest", "nonce": NONCE, "level": ["fresh"]},
        {"type": "evidence", "evidence": "text"},
        {"type": "evidence", "evidence": {}},
        {"type": "evidence", "epoch-signature": bytes(EPOCH_SIGNATURE_SIZE)},
        {"type": "evidence", "collateral": b"{}"},
        {"type": "evidence", "evidence": b"x", "epoch-signature": bytes(EPOCH_SIGNATURE_SIZE - 1)},
        {"type": "evidence", "evidence": b"x", "epoch-signature": bytes(EPOCH_SIGNATURE_SIZE + 1)},
        {"type": "evidence", "evidence": b"x", "epoch-signature": "x" * EPOCH_SIGNATURE_SIZE},
        {"type": "evidence", "evidence": b"x", "collateral": "{}"},
        {"type": "evidence", "evidence": b"x", "collateral": bytes(MAX_STAPLED_COLLATERAL + 1)},
        {"type": "reject"},
        {"type": "reject", "class": "because"},
        {"type": "reject", "class": ["policy"]},
        {"type": "open"},
        {"type": "open", "workload": ""},
        {"type": "open", "workload": b"web"},
        {"type": "open", "workload": "x" * (MAX_WORKLOAD_NAME + 1)},
        {"type": "open", "workload": "two words"},
        {"type": "open", "workload": "line\nbreak"},
        {"type": "open", "workload": "../x"},
    ],
    ids=lambda fields: str(fields)[:80],
)
def test_a_map_that_is_no_message(fields: dict[str, object]) -> None:
    assert refused(body_of(fields)) is Reason.MESSAGE_MALFORMED


def test_a_peer_s_bytes_reach_a_person_without_control_characters() -> None:
    with pytest.raises(PeerMisbehaved) as caught:
        decode(body_of({"type": "\x1b[31m" + "x" * 1000}))
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 200


# --- frames


def test_an_oversized_message_is_refused_by_its_length_alone() -> None:
    """Before a byte of it is buffered."""
    reader = FrameReader()
    with pytest.raises(PeerMisbehaved) as caught:
        reader.push((MAX_MESSAGE + 1).to_bytes(4, "big"))
    assert caught.value.reason is Reason.MESSAGE_TOO_LARGE
    assert reader.buffered == LENGTH_SIZE


def test_an_oversized_second_message_is_refused_too() -> None:
    reader = FrameReader()
    reader.push(encode(Accept()) + b"\xff\xff\xff\xff")
    assert reader.pull() == Accept()
    with pytest.raises(PeerMisbehaved) as caught:
        reader.pull()
    assert caught.value.reason is Reason.MESSAGE_TOO_LARGE


def test_the_biggest_message_passes() -> None:
    size = MAX_MESSAGE - len(encode(Evidence(evidence=bytes(70000)))) + LENGTH_SIZE + 70000
    message = Evidence(evidence=bytes(size))
    assert len(encode(message)) == LENGTH_SIZE + MAX_MESSAGE
    assert FrameReader().feed(encode(message)) == [message]
    with pytest.raises(EAAError) as caught:
        encode(Evidence(evidence=bytes(size + 1)))
    assert caught.value.reason is Reason.INTERNAL


def test_an_empty_message_is_none() -> None:
    with pytest.raises(PeerMisbehaved) as caught:
        FrameReader().feed(bytes(LENGTH_SIZE))
    assert caught.value.reason is Reason.MESSAGE_MALFORMED


def test_a_legacy_request_or_http_on_the_wrong_port_is_no_frame() -> None:
    for junk in (b'{"type":"GETENCLAVEINFO"}', b"GET / HTTP/1.1\r\n\r\n", b"hello from inclavared"):
        with pytest.raises(PeerMisbehaved) as caught:
            FrameReader().feed(junk)
        assert caught.value.reason is Reason.MESSAGE_TOO_LARGE


def test_wanted_counts_down_to_a_whole_message() -> None:
    reader = FrameReader()
    raw = encode(Open(workload="web"))
    assert reader.wanted == LENGTH_SIZE
    reader.push(raw[:1])
    assert reader.wanted == LENGTH_SIZE - 1
    reader.push(raw[1:5])
    assert reader.wanted == len(raw) - 5
    reader.push(raw[5:])
    assert reader.pull() == Open(workload="web")
    assert reader.wanted == LENGTH_SIZE


def test_the_rest_of_a_stream_is_given_back() -> None:
    reader = FrameReader()
    reader.push(encode(Opened()) + b"raw")
    assert reader.pull() == Opened()
    assert reader.take_rest() == b"raw"
    assert reader.buffered == 0


# --- reject classes


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Rejection(Reason.NO_EVIDENCE, "x"), RejectClass.NO_EVIDENCE),
        (Rejection(Reason.MEASUREMENT_MISMATCH, "x"), RejectClass.POLICY),
        (MalformedInput(Reason.QUOTE_MALFORMED, "x"), RejectClass.MALFORMED),
        (VerificationError(Reason.QUOTE_SIGNATURE, "x"), RejectClass.UNVERIFIABLE),
        (PeerMisbehaved(Reason.MESSAGE_UNEXPECTED, "x"), RejectClass.PROTOCOL),
        (PeerMisbehaved(Reason.LEVEL_NOT_OFFERED, "x"), RejectClass.LEVEL),
        (Unavailable(Reason.PCCS_UNREACHABLE, "x"), RejectClass.UNAVAILABLE),
        (Misuse(Reason.USAGE, "x"), RejectClass.UNAVAILABLE),
        (EAAError(Reason.INTERNAL, "x"), RejectClass.UNAVAILABLE),
    ],
)
def test_a_peer_is_told_the_class_of_a_reason(error: EAAError, told: RejectClass) -> None:
    assert RejectClass.of(error) is told


# --- evidence, which is encoded and taken apart without cbor2


@pytest.mark.parametrize("signature", [None, bytes(EPOCH_SIGNATURE_SIZE)])
@pytest.mark.parametrize("collateral", [None, b"", bytes(23), bytes(24), bytes(70_000)])
@pytest.mark.parametrize("size", [0, 23, 24, 255, 256, 65_535, 65_536])
def test_evidence_of_every_size_is_encoded_as_cbor2_does(
    size: int, collateral: bytes | None, signature: bytes | None
) -> None:
    message = Evidence(evidence=bytes(size), epoch=signature, collateral=collateral)
    body = encode(message)[LENGTH_SIZE:]
    assert body == cbor.encode(message._fields())
    assert decode(body) == message


@given(st.data())
def test_evidence_that_is_split_at_once_is_what_is_decoded(data: st.DataObject) -> None:
    """Whatever is changed in it: nothing is taken that the whole way would refuse, or read otherwise."""
    signature = data.draw(st.sampled_from([None, bytes(EPOCH_SIGNATURE_SIZE)]))
    collateral = data.draw(st.sampled_from([None, bytes(40)]))
    raw = bytearray(encode(Evidence(evidence=bytes(40), epoch=signature, collateral=collateral))[LENGTH_SIZE:])
    for _ in range(data.draw(st.integers(1, 2))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    body = bytes(raw)
    found = messages._split_evidence(body) if body.startswith(messages._EVIDENCE_HEAD, 1) else None
    if found is not None:
        assert cbor.encode(found._fields()) == body
