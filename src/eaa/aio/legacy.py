"""Peers of 2021 and of rats-tls: all that they show of themselves is their certificate.

It binds evidence to the TLS key and to nothing of the session: level `cert`, at best. There is no exchange after the
handshake, and no word of a verdict: who is refused sees the connection end.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Final

from eaa.aio.attestation import Judge, admit
from eaa.aio.sessions import Endpoint
from eaa.aio.stream import AttestedStream, deadline
from eaa.appraise.result import BindingLevel
from eaa.errors import EAAError
from eaa.protocol.exchange import EvidenceReceived
from eaa.tls.certificate import RATLSCertificate

JUDGING_TIMEOUT: Final = 30.0
"""Seconds for a judgement; a client may have to fetch collateral first."""

Stapled = Callable[[RATLSCertificate], bytes | None]
"""Returns the collateral that a certificate carries, in the form in which an answer to `attest` staples it."""

logger = logging.getLogger(__name__)


async def secure_by_certificate(
    endpoint: Endpoint,
    sock: socket.socket,
    judge: Judge | None,
    *,
    stapled: Stapled,
    dangerous_accept_no_evidence: bool = False,
) -> AttestedStream:
    """Handshake on a socket, judge the peer by its certificate, and open the gate. The socket is closed on failure.

    Args:
        endpoint: one without a protocol name.
        sock: connected and non-blocking.
        judge: who judges; None where this side takes its peers as they come.
        stapled: how to read endorsements.
        dangerous_accept_no_evidence: take a peer without evidence; one that has some is judged even so.

    Raises:
        Rejection: NO_EVIDENCE, or what the judge found.
        VerificationError: CLAIMS_MISMATCH and the like.
        EAAError: the handshake or the judgement failed.
    """
    stream = await endpoint.handshake(sock)
    try:
        async with deadline(JUDGING_TIMEOUT, "the judgement of a certificate"):
            await _admit(stream, judge, stapled=stapled, dangerous_accept_no_evidence=dangerous_accept_no_evidence)
    except EAAError:
        await stream.part()
        raise
    except BaseException:
        stream.abort()
        raise
    return stream


async def _admit(
    stream: AttestedStream, judge: Judge | None, *, stapled: Stapled, dangerous_accept_no_evidence: bool
) -> None:
    certificate = stream.connection.peer
    shows_evidence = certificate is not None and certificate.has_evidence
    if judge is None or (dangerous_accept_no_evidence and not shows_evidence):
        if judge is not None:
            logger.warning("the peer shows no evidence and is taken as it is, as the operator said")
        stream.connection.admit_unattested_peer()
        return
    await admit(stream, _shown(certificate, stapled), judge)


def _shown(certificate: RATLSCertificate | None, stapled: Stapled) -> EvidenceReceived:
    """Return what the certificate shows, its claims verified to name its key."""
    report_data = None if certificate is None else certificate.expected_report_data
    if certificate is None or report_data is None:
        return EvidenceReceived(evidence=None, report_data=b"", level=BindingLevel.CERT)
    certificate.verify_binding()
    return EvidenceReceived(
        evidence=certificate.evidence,
        report_data=report_data,
        level=BindingLevel.CERT,
        collateral=stapled(certificate),
    )
