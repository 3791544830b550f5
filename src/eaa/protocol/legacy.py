"""The exchange of 2021, byte for byte: one request and one answer over TLS, no length in front of either.

It proves nothing to whoever believes it: the answer's measurements are only what a relay says. It is spoken on an
address of its own, and only with values from evidence that our verifier accepted.

The sample programs of enclave-tls and of rats-tls exchange a greeting in the same way. What they have shown of
themselves stands in their certificates; the greeting proves nothing either.

Source: inclavare-containers of July 2021: shelter, inclavared and the enclave-tls samples as they behave; rats-tls
0.6.4: its samples.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import Final

from eaa.errors import PeerMisbehaved, Reason

MAX_LEGACY_REQUEST: Final = 512
"""Bytes; inclavared reads no more."""
MEASUREMENT_SIZE: Final = 32

GET_ENCLAVE_INFO: Final = b'{"type":"GETENCLAVEINFO"}'
"""What shelter sends to inclavared."""
HELLO: Final = b"hello from inclavared"
"""What inclavared sends to the workload."""
OTHER_REPLY: Final = b"hello from inclavared!\n"
"""inclavared's answer to any other JSON."""
NO_WORKLOAD_REPLY: Final = b"reply from inclavared!\n"
"""inclavared's answer where it has no workload."""
GREETING: Final = "Hello and welcome to Enclave TLS!\n"
"""What the sample client sends, and what the workload puts behind its measurements."""
RATS_TLS_GREETING: Final = "\033[91mHello and welcome to RATS-TLS!\033[0m\n"
"""What the sample client of rats-tls sends, in red, and wants back."""
RATS_TLS_SERVER_GREETING: Final = "\033[94mHello and welcome to RATS-TLS!\033[0m\n"
"""What its sample server puts behind its measurements, in blue, where it runs in an enclave."""
VERDICTD_TEXT: Final = "Hello and welcome to RATS-TLS!\n"
VERDICTD_ECHO: Final = b'{ "command": "echo", "data": "Hello and welcome to RATS-TLS!\\n" }'
"""What the sample client sends to a Verdictd server, which answers with the bare data."""
ENCLAVE_ID: Final = "123456"
MAX_LEGACY_GREETING: Final = 255
"""Bytes of a greeting, and of the answer to one; the samples use no more of what they receive."""


class LegacyRequest(Enum):
    """What a client of 2021 asks."""

    ENCLAVE_INFO = "the measurements of the workload"
    OTHER = "some other JSON"
    HELLO = "inclavared's greeting to a workload"
    GREETING = "a sample client's greeting"


def parse_legacy_request(raw: bytes) -> LegacyRequest:
    """Tell what one request asks.

    Raises:
        PeerMisbehaved: MESSAGE_TOO_LARGE; MESSAGE_MALFORMED where the original drops the connection.
    """
    if len(raw) > MAX_LEGACY_REQUEST:
        raise PeerMisbehaved(
            Reason.MESSAGE_TOO_LARGE, f"a request of {len(raw)} bytes, at most {MAX_LEGACY_REQUEST} are allowed"
        )
    if raw == HELLO:
        return LegacyRequest.HELLO
    if raw == GREETING.encode():
        return LegacyRequest.GREETING
    try:
        document = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise PeerMisbehaved(
            Reason.MESSAGE_MALFORMED,
            f"{len(raw)} bytes that are no request of 2021",
            hint="peers of today belong on the other address: this one answers the legacy exchange only",
        ) from error
    if isinstance(document, dict) and document.get("type") == "GETENCLAVEINFO":
        return LegacyRequest.ENCLAVE_INFO
    return LegacyRequest.OTHER


def encode_enclave_info(*, mr_enclave: bytes, mr_signer: bytes, message: str = GREETING) -> bytes:
    """Return inclavared's answer to ENCLAVE_INFO: JSON, keys sorted, no spaces, no final newline.

    Args:
        mr_enclave: 32 bytes, from accepted evidence.
        mr_signer: 32 bytes, from the same.
        message: what the workload's text is.
    """
    _measurements(mr_enclave, mr_signer)
    answer = {
        "id": ENCLAVE_ID,
        "message": message,
        "mrenclave": mr_enclave.hex(),
        "mrsigner": mr_signer.hex(),
        "msgtype": "ENCLAVEINFO",
        "version": 1,
    }
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def encode_workload_reply(*, mr_enclave: bytes, mr_signer: bytes, text: bytes = GREETING.encode()) -> bytes:
    """Return the workload's answer to HELLO: both measurements raw, then the text."""
    _measurements(mr_enclave, mr_signer)
    return mr_enclave + mr_signer + text


def answer_greeting(raw: bytes, *, measurements: tuple[bytes, bytes] | None) -> bytes:
    """Return a sample server's answer to what it was sent.

    The samples send back what they receive, and their clients want just that. inclavared's greeting is another matter:
    it wants to be told measurements.

    Args:
        raw: what the client sent, at most MAX_LEGACY_GREETING bytes.
        measurements: MRENCLAVE and MRSIGNER of this server's own evidence, None where it has none.

    Raises:
        PeerMisbehaved: MESSAGE_TOO_LARGE.
    """
    if len(raw) > MAX_LEGACY_GREETING:
        raise PeerMisbehaved(
            Reason.MESSAGE_TOO_LARGE, f"a greeting of {len(raw)} bytes, at most {MAX_LEGACY_GREETING} are allowed"
        )
    if raw != HELLO or measurements is None:
        return raw
    return encode_workload_reply(mr_enclave=measurements[0], mr_signer=measurements[1])


def parse_greeting_reply(raw: bytes, *, sent: bytes) -> str:
    """Return the text of a sample server's answer: what was sent, or two measurements and a sample's greeting.

    The measurements are what the peer has typed, and are dropped: what it is, its certificate has shown.

    Raises:
        PeerMisbehaved: MESSAGE_MALFORMED.
    """
    text = raw[2 * MEASUREMENT_SIZE :].removesuffix(b"\0") if len(raw) >= 2 * MEASUREMENT_SIZE else raw
    if raw != sent and text not in _GREETINGS:
        raise PeerMisbehaved(
            Reason.MESSAGE_MALFORMED,
            f"the server's answer of {len(raw)} bytes is no sample server's",
            hint="the address is another program's; without --legacy this one speaks the exchange of today",
        )
    return (sent if raw == sent else text).decode()


def parse_verdictd_echo(raw: bytes) -> str:
    """Return the text that a Verdictd server sends back. Raises PeerMisbehaved (MESSAGE_MALFORMED)."""
    if raw != VERDICTD_TEXT.encode():
        raise PeerMisbehaved(
            Reason.MESSAGE_MALFORMED,
            f"the server's answer of {len(raw)} bytes is not the text that it was to echo",
            hint="-E is for Verdictd servers; leave it out for a sample server",
        )
    return VERDICTD_TEXT


_GREETINGS: Final = frozenset(text.encode() for text in (GREETING, RATS_TLS_GREETING, RATS_TLS_SERVER_GREETING))


def _measurements(*measurements: bytes) -> None:
    if any(len(measurement) != MEASUREMENT_SIZE for measurement in measurements):
        raise ValueError(f"a measurement has {MEASUREMENT_SIZE} bytes")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
