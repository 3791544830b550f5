"""Properties of the codecs and of the exchange: whatever arrives, however it is cut, errors are ours and bounded."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eaa.appraise.result import BindingLevel
from eaa.errors import EAAError, MalformedInput, PeerMisbehaved
from eaa.evidence.tagged import Endorsements, TaggedEvidence, encode_claims, parse_claims
from eaa.protocol.exchange import EvidenceReceived
from eaa.protocol.legacy import encode_enclave_info, parse_legacy_request
from eaa.protocol.messages import (
    EPOCH_SIGNATURE_SIZE,
    MAX_WORKLOAD_NAME,
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
from eaa.tls.certificate import RATLSCertificate
from support.exchange_world import HOPS, LEVELS, End, client_of, run, server_of
from support.tls_world import server_identity

NAME_START = "abcXYZ019"
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Attest,
        nonce=st.binary(min_size=32, max_size=32),
        level=st.sampled_from([BindingLevel.CERT, BindingLevel.SESSION, BindingLevel.FRESH]),
    ),
    st.just(Evidence()),
    st.builds(
        Evidence,
        evidence=st.binary(max_size=400),
        epoch=st.none() | st.binary(min_size=EPOCH_SIGNATURE_SIZE, max_size=EPOCH_SIGNATURE_SIZE),
        collateral=st.none() | st.binary(max_size=40),
    ),
    st.builds(Accept),
    st.builds(Reject, reason_class=st.sampled_from(RejectClass)),
    st.builds(
        Open,
        workload=st.text(alphabet=NAME_START + "._:/-", max_size=MAX_WORKLOAD_NAME - 1).map(lambda tail: "w" + tail),
    ),
    st.builds(Opened),
)
claims = st.dictionaries(st.text(max_size=30), st.binary(max_size=60), max_size=12)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(messages, max_size=5), st.lists(st.integers(min_value=0), max_size=20))
def test_messages_come_out_the_same_however_the_stream_is_cut(sent: list[Message], cuts: list[int]) -> None:
    reader = FrameReader()
    received: list[Message] = []
    for piece in pieces(b"".join(encode(message) for message in sent), cuts):
        received += reader.feed(piece)
    assert received == sent
    assert reader.buffered == 0


@given(messages)
def test_a_message_has_one_encoding(message: Message) -> None:
    body = encode(message)[4:]
    assert decode(body) == message
    assert cbor2.dumps(cbor2.loads(body), canonical=True) == body


@given(messages, st.data())
def test_a_strict_prefix_of_a_message_is_none(message: Message, data: st.DataObject) -> None:
    body = encode(message)[4:]
    cut = data.draw(st.integers(min_value=0, max_value=len(body) - 1))
    with pytest.raises(PeerMisbehaved):
        decode(body[:cut])


PARSERS: tuple[Callable[[bytes], object], ...] = (
    decode,
    TaggedEvidence.parse,
    TaggedEvidence.parse_certificate_extension,
    Endorsements.parse,
    RATLSCertificate.parse,
    parse_legacy_request,
    lambda raw: parse_claims(raw, tolerant=True),
    lambda raw: FrameReader().feed(raw),
)


def read_by_all(raw: bytes) -> None:
    """Nothing but a record or one of our errors comes out."""
    for parse in PARSERS:
        with contextlib.suppress(MalformedInput, PeerMisbehaved):
            parse(raw)


@given(st.binary(max_size=200))
@example(b"\xd8\x23\x61(")
@example(b"\xd8\x1c\x81\xd8\x1d\x00")
@example(b"\xc2\x58\x20" + bytes(32))
def test_no_bytes_get_more_out_of_the_codecs_than_a_record_or_our_error(raw: bytes) -> None:
    read_by_all(raw)


@given(st.recursive(st.integers() | st.binary() | st.text() | st.booleans() | st.none() | st.floats(), st.lists))
def test_no_cbor_gets_more_out_of_the_codecs_than_a_record_or_our_error(value: object) -> None:
    for wrapped in (value, {"type": value}, cbor2.CBORTag(60000, value)):
        read_by_all(cbor2.dumps(wrapped))


@given(st.binary(max_size=300), claims)
def test_tagged_evidence_comes_back_as_it_was(evidence: bytes, named: dict[str, bytes]) -> None:
    tagged = TaggedEvidence(evidence=evidence, claims=encode_claims(named))
    assert TaggedEvidence.parse(tagged.encode()) == tagged
    assert TaggedEvidence.parse_certificate_extension(tagged.encode() + b"\x55" * 7) == tagged
    assert parse_claims(tagged.claims, tolerant=False) == named


@given(st.binary(max_size=100), claims, st.data())
def test_a_strict_prefix_of_tagged_evidence_is_malformed(
    evidence: bytes, named: dict[str, bytes], data: st.DataObject
) -> None:
    raw = TaggedEvidence(evidence=evidence, claims=encode_claims(named)).encode()
    cut = data.draw(st.integers(min_value=0, max_value=len(raw) - 1))
    for parse in (TaggedEvidence.parse, TaggedEvidence.parse_certificate_extension):
        with pytest.raises(MalformedInput):
            parse(raw[:cut])


@given(st.data())
def test_a_strict_prefix_of_a_certificate_is_malformed(data: st.DataObject) -> None:
    raw = server_identity().certificate
    cut = data.draw(st.integers(min_value=0, max_value=len(raw) - 1))
    with pytest.raises(MalformedInput):
        RATLSCertificate.parse(raw[:cut])


@given(st.data())
def test_a_certificate_with_a_byte_changed_is_read_or_malformed_and_nothing_else(data: st.DataObject) -> None:
    raw = bytearray(server_identity().certificate)
    raw[data.draw(st.integers(min_value=0, max_value=len(raw) - 1))] = data.draw(
        st.integers(min_value=0, max_value=255)
    )
    try:
        read = RATLSCertificate.parse(bytes(raw))
        assert read.expected_report_data is None or len(read.expected_report_data) == 64
    except MalformedInput:
        pass


@given(
    st.sampled_from(sorted(HOPS)),
    st.sampled_from(LEVELS),
    st.sampled_from(["client", "server"]),
    st.lists(messages, max_size=6),
)
def test_no_row_of_messages_finishes_an_exchange_without_a_verdict(
    hop: str, level: BindingLevel, side: str, row: list[Message]
) -> None:
    """An end that judges is never finished unless its caller has accepted, whatever the peer says."""
    ends = HOPS[hop].at(level)
    exchange = (client_of if side == "client" else server_of)(ends)
    terms = ends.client if side == "client" else ends.server
    try:
        for message in row:
            exchange.receive(encode(message))
    except EAAError:
        assert not exchange.finished
    assert not (terms.judges and exchange.finished)


@given(
    st.sampled_from(sorted(HOPS)),
    st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(min_value=0), st.binary(max_size=3)), max_size=12),
    st.sampled_from(LEVELS),
)
def test_whatever_is_done_to_the_frames_of_an_exchange_it_is_refused_or_finished(
    hop: str, script: list[tuple[bool, bool, int, bytes]], level: BindingLevel
) -> None:
    """Frames of honest ends, dropped, repeated, reordered or changed: nobody who judges finishes without evidence."""
    ends = HOPS[hop].at(level)
    client, server = End(client_of(ends), opens="shelter-relay" in hop), End(server_of(ends))
    recorded = [client.exchange.data_to_send(), server.exchange.data_to_send()]
    for to_client, changed, which, junk in script:
        end = client if to_client else server
        frame = recorded[which % len(recorded)]
        if changed and frame:
            at = which % len(frame)
            frame = frame[:at] + junk + frame[at + 1 :]
        try:
            end.receive(frame)
        except EAAError:
            assert not end.exchange.finished
            return
        recorded.append(end.exchange.data_to_send())
    for end, terms in ((client, ends.client), (server, ends.server)):
        judged = [event for event in end.events if isinstance(event, EvidenceReceived)]
        assert not (end.exchange.finished and terms.judges and not judged)


@given(st.sampled_from(sorted(HOPS)), st.lists(st.integers(min_value=0), max_size=30), st.sampled_from(LEVELS))
def test_an_exchange_ends_the_same_however_its_bytes_are_cut(hop: str, cuts: list[int], level: BindingLevel) -> None:
    ends = HOPS[hop].at(level)
    client, server = End(client_of(ends), opens="shelter-relay" in hop), End(server_of(ends))

    class Chopped(End):
        def receive(self, data: bytes) -> None:
            for piece in pieces(data, cuts):
                super().receive(piece)

    chopped_client = Chopped(client.exchange, opens="shelter-relay" in hop)
    chopped_server = Chopped(server.exchange)
    run(chopped_client, chopped_server)
    assert client.exchange.finished
    assert server.exchange.finished


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.text(max_size=40))
def test_the_legacy_answer_is_always_one_line_of_sorted_json(mr_enclave: bytes, mr_signer: bytes, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    raw = encode_enclave_info(mr_enclave=mr_enclave, mr_signer=mr_signer, message=text)
    assert b"\n" not in raw
    names = [b'"id":', b'"message":', b'"mrenclave":', b'"mrsigner":', b'"msgtype":', b'"version":']
    positions = [raw.rindex(name) for name in names]
    assert positions[0] == 1
    assert positions[2:] == sorted(positions[2:])
