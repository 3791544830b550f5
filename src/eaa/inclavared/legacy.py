"""Answering clients of 2021: the JSON exchange, with values that our verifier accepted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from eaa.aio.stream import AttestedStream, deadline
from eaa.appraise.appraisal import identity_of
from eaa.errors import PeerMisbehaved, Reason, VerificationError
from eaa.protocol.legacy import (
    MAX_LEGACY_REQUEST,
    NO_WORKLOAD_REPLY,
    OTHER_REPLY,
    LegacyRequest,
    encode_enclave_info,
    parse_legacy_request,
)
from eaa.verifier import Judgement

REQUEST_TIMEOUT: Final = 10.0
"""Seconds in which a legacy client has to ask."""

Inquiry = Callable[[], Awaitable[tuple[Judgement, str]]]
"""Attests the workload and returns what was judged and its greeting."""


async def answer_legacy(stream: AttestedStream, inquire: Inquiry | None) -> None:
    """Read one request and answer it. Raises PeerMisbehaved for one that the original drops as well."""
    async with deadline(REQUEST_TIMEOUT, "the request of a client of 2021"):
        request = parse_legacy_request(await stream.read(MAX_LEGACY_REQUEST))
    if request in (LegacyRequest.HELLO, LegacyRequest.GREETING):
        # No JSON, so the original drops the connection.
        raise PeerMisbehaved(
            Reason.MESSAGE_MALFORMED,
            "a greeting that a workload would answer",
            hint="this is the address of a relay; the sample client belongs on the workload's",
        )
    await stream.write(await _reply(request, inquire))


async def _reply(request: LegacyRequest, inquire: Inquiry | None) -> bytes:
    if inquire is None:
        return NO_WORKLOAD_REPLY
    if request is not LegacyRequest.ENCLAVE_INFO:
        return OTHER_REPLY
    judgement, greeting = await inquire()
    assert judgement.verified is not None
    identity = identity_of(judgement.verified.quote.body)
    if "mr_enclave" not in identity:
        raise VerificationError(
            Reason.TEE_TYPE_UNSUPPORTED, "the exchange of 2021 has no field for the measurement of a trust domain"
        )
    return encode_enclave_info(mr_enclave=identity["mr_enclave"], mr_signer=identity["mr_signer"], message=greeting)
