"""The exchange of 2021, byte for byte."""

from __future__ import annotations

import json

import pytest

from eaa.errors import PeerMisbehaved, Reason
from eaa.protocol.legacy import (
    GET_ENCLAVE_INFO,
    GREETING,
    HELLO,
    MAX_LEGACY_GREETING,
    MAX_LEGACY_REQUEST,
    NO_WORKLOAD_REPLY,
    OTHER_REPLY,
    RATS_TLS_GREETING,
    RATS_TLS_SERVER_GREETING,
    VERDICTD_ECHO,
    VERDICTD_TEXT,
    LegacyRequest,
    answer_greeting,
    encode_enclave_info,
    encode_workload_reply,
    parse_greeting_reply,
    parse_legacy_request,
    parse_verdictd_echo,
)

MR_ENCLAVE = bytes(range(32))
MR_SIGNER = bytes(range(32, 64))


def test_the_request_of_shelter_is_25_bytes() -> None:
    assert GET_ENCLAVE_INFO == b'{"type":"GETENCLAVEINFO"}'
    assert len(GET_ENCLAVE_INFO) == 25


def test_the_fixed_texts() -> None:
    assert len(HELLO) == 21
    assert len(GREETING) == 34
    assert OTHER_REPLY == b"hello from inclavared!\n"
    assert NO_WORKLOAD_REPLY == b"reply from inclavared!\n"


@pytest.mark.parametrize(
    ("raw", "request_"),
    [
        (GET_ENCLAVE_INFO, LegacyRequest.ENCLAVE_INFO),
        (b' { "x": 1, "type" : "GETENCLAVEINFO" }\n', LegacyRequest.ENCLAVE_INFO),
        (b'{"type":"getenclaveinfo"}', LegacyRequest.OTHER),
        (b'{"msgtype":"GETENCLAVEINFO"}', LegacyRequest.OTHER),
        (b"[]", LegacyRequest.OTHER),
        (b'"GETENCLAVEINFO"', LegacyRequest.OTHER),
        (HELLO, LegacyRequest.HELLO),
        (GREETING.encode(), LegacyRequest.GREETING),
    ],
)
def test_what_a_client_of_2021_asks(raw: bytes, request_: LegacyRequest) -> None:
    assert parse_legacy_request(raw) is request_


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", Reason.MESSAGE_MALFORMED),
        (b"{", Reason.MESSAGE_MALFORMED),
        (b"\xff\xfe", Reason.MESSAGE_MALFORMED),
        (b'{"type":NaN}', Reason.MESSAGE_MALFORMED),
        (b"[" * MAX_LEGACY_REQUEST, Reason.MESSAGE_MALFORMED),
        (GET_ENCLAVE_INFO + b"\0", Reason.MESSAGE_MALFORMED),
        (b" " * MAX_LEGACY_REQUEST + b"1", Reason.MESSAGE_TOO_LARGE),
    ],
)
def test_what_the_original_drops(raw: bytes, reason: Reason) -> None:
    with pytest.raises(PeerMisbehaved) as caught:
        parse_legacy_request(raw)
    assert caught.value.reason is reason


def test_the_answer_of_inclavared() -> None:
    """Keys sorted, no spaces, no newline at the end, `msgtype` and not `type`."""
    assert encode_enclave_info(mr_enclave=MR_ENCLAVE, mr_signer=MR_SIGNER) == (
        b'{"id":"123456","message":"Hello and welcome to Enclave TLS!\\n",'
        b'"mrenclave":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",'
        b'"mrsigner":"202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f",'
        b'"msgtype":"ENCLAVEINFO","version":1}'
    )


def test_the_message_is_escaped_as_serde_json_does() -> None:
    answer = encode_enclave_info(mr_enclave=MR_ENCLAVE, mr_signer=MR_SIGNER, message='ä"\\\b\f\n\r\t\x1b\x7f')
    assert '"message":"ä\\"\\\\\\b\\f\\n\\r\\t\\u001b\x7f",'.encode() in answer


def test_the_answer_of_the_workload_is_98_bytes() -> None:
    answer = encode_workload_reply(mr_enclave=MR_ENCLAVE, mr_signer=MR_SIGNER)
    assert answer == MR_ENCLAVE + MR_SIGNER + b"Hello and welcome to Enclave TLS!\n"
    assert len(answer) == 98


@pytest.mark.parametrize(("mr_enclave", "mr_signer"), [(b"", MR_SIGNER), (MR_ENCLAVE, MR_SIGNER + b"\0")])
def test_measurements_have_their_length(mr_enclave: bytes, mr_signer: bytes) -> None:
    with pytest.raises(ValueError, match="32"):
        encode_enclave_info(mr_enclave=mr_enclave, mr_signer=mr_signer)


# --- the samples' greeting


def test_the_greeting_of_rats_tls_is_40_bytes_in_red_and_blue() -> None:
    assert len(RATS_TLS_GREETING) == len(RATS_TLS_SERVER_GREETING) == 40
    assert RATS_TLS_GREETING.replace("91", "94") == RATS_TLS_SERVER_GREETING


@pytest.mark.parametrize("said", [GREETING.encode(), RATS_TLS_GREETING.encode(), b"", b"\0", bytes(255)])
@pytest.mark.parametrize("measurements", [None, (MR_ENCLAVE, MR_SIGNER)])
def test_a_greeting_is_sent_back(said: bytes, measurements: tuple[bytes, bytes] | None) -> None:
    assert answer_greeting(said, measurements=measurements) == said


def test_the_relay_s_greeting_is_answered_with_measurements_where_there_are_some() -> None:
    assert answer_greeting(HELLO, measurements=(MR_ENCLAVE, MR_SIGNER)) == MR_ENCLAVE + MR_SIGNER + GREETING.encode()
    assert answer_greeting(HELLO, measurements=None) == HELLO


def test_a_greeting_is_bounded() -> None:
    with pytest.raises(PeerMisbehaved) as caught:
        answer_greeting(bytes(MAX_LEGACY_GREETING + 1), measurements=None)
    assert caught.value.reason is Reason.MESSAGE_TOO_LARGE


@pytest.mark.parametrize("text", [GREETING, RATS_TLS_GREETING, RATS_TLS_SERVER_GREETING])
@pytest.mark.parametrize(("before", "after"), [(b"", b""), (bytes(64), b""), (bytes(64), b"\0")])
def test_the_samples_answers_are_taken(text: str, before: bytes, after: bytes) -> None:
    """From a host, from Occlum, and from the runtime's skeleton, which sends the final NUL too."""
    assert parse_greeting_reply(before + text.encode() + after, sent=GREETING.encode()) == text


@pytest.mark.parametrize("reply", [b"", b"welcome", bytes(64), bytes(98), bytes(63) + GREETING.encode(), b"\xff" * 255])
def test_an_answer_of_no_sample_is_refused(reply: bytes) -> None:
    with pytest.raises(PeerMisbehaved) as caught:
        parse_greeting_reply(reply, sent=GREETING.encode())
    assert caught.value.reason is Reason.MESSAGE_MALFORMED


def test_a_verdictd_server_echoes_the_bare_text() -> None:
    assert json.loads(VERDICTD_ECHO) == {"command": "echo", "data": VERDICTD_TEXT}
    assert parse_verdictd_echo(VERDICTD_TEXT.encode()) == VERDICTD_TEXT


@pytest.mark.parametrize("reply", [b"", VERDICTD_ECHO, RATS_TLS_GREETING.encode(), VERDICTD_TEXT.encode() + b"\0"])
def test_what_a_verdictd_server_would_not_say_is_refused(reply: bytes) -> None:
    with pytest.raises(PeerMisbehaved) as caught:
        parse_verdictd_echo(reply)
    assert caught.value.reason is Reason.MESSAGE_MALFORMED
