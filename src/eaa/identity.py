"""Who a program is on a connection: a TLS key, the evidence for it, the certificate that carries both.

The private key is made here and never leaves memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from eaa.attesters import Attester
from eaa.errors import MalformedInput, Reason, Unavailable
from eaa.evidence.quote import Quote
from eaa.evidence.tagged import QUOTE_TAG, TaggedEvidence, encode_claims, pubkey_hash_claim
from eaa.tls.certificate import create_certificate

CERTIFICATE_LIFETIME: Final = timedelta(hours=24)
RENEW_AFTER: Final = CERTIFICATE_LIFETIME / 2
RETRY_RENEWAL: Final = timedelta(minutes=1)
"""How long after a failed renewal the next one is tried: quoting is slow, and callers would wait for it each time."""
CLOCK_TOLERANCE: Final = timedelta(hours=1)
"""How far notBefore lies in the past, as rats-tls peers do it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """One key with its certificate. `evidence` is None for a program that has no attester."""

    private_key: ec.EllipticCurvePrivateKey
    spki_der: bytes
    certificate: bytes
    """DER."""
    evidence: TaggedEvidence | None
    made: datetime

    @property
    def quote(self) -> bytes | None:
        """The quote that the certificate carries."""
        return None if self.evidence is None else self.evidence.evidence


class Identity:
    """The credentials of one program, renewed before their certificate expires, and fresh evidence on demand.

    Thread-safe: quoting is slow and serial on real hosts, so one quote is made at a time.
    """

    def __init__(self, attester: Attester | None, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._attester = attester
        self._clock = clock
        self._quoting = threading.Lock()
        self._renewing = threading.Lock()
        self._credentials = self._make()
        self._renew_at = self._credentials.made + RENEW_AFTER

    @property
    def has_evidence(self) -> bool:
        """Whether there is an attester behind this identity."""
        return self._attester is not None

    def credentials(self) -> Credentials:
        """Return the current credentials, making new ones when half of their life is over.

        Where the platform does not quote just then, or another caller is waiting for its quote, the current ones serve
        on until they expire.

        Raises:
            Unavailable: QUOTE_UNAVAILABLE, and the current ones have expired.
        """
        now = self._clock()
        expired = now >= self._credentials.made + CERTIFICATE_LIFETIME
        if now >= self._renew_at and self._renewing.acquire(blocking=expired):
            try:
                # Another caller may have been quicker.
                if self._clock() >= self._renew_at:
                    self._renew()
            finally:
                self._renewing.release()
        return self._credentials

    def _renew(self) -> None:
        now = self._clock()
        expires = self._credentials.made + CERTIFICATE_LIFETIME
        try:
            self._credentials = self._make()
            self._renew_at = self._credentials.made + RENEW_AFTER
        except Unavailable:
            if now >= expires:
                raise
            self._renew_at = min(now + RETRY_RENEWAL, expires)

    def quote(self, report_data: bytes) -> bytes | None:
        """Return a quote over these 64 bytes, or None where there is no attester.

        Raises:
            Unavailable: QUOTE_UNAVAILABLE when the platform does not answer, or answers for other report data.
        """
        if self._attester is None:
            return None
        with self._quoting:
            quote = self._attester.quote(report_data)
        return _checked(quote, report_data)

    def _make(self) -> Credentials:
        now = self._clock()
        key = ec.generate_private_key(ec.SECP256R1())
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        claims = encode_claims({"pubkey-hash": pubkey_hash_claim(spki)})
        evidence = TaggedEvidence(tag=QUOTE_TAG, evidence=b"", claims=claims)
        quote = self.quote(evidence.report_data)
        tagged = None if quote is None else TaggedEvidence(tag=QUOTE_TAG, evidence=quote, claims=claims)
        certificate = create_certificate(
            key, evidence=tagged, not_before=now - CLOCK_TOLERANCE, not_after=now + CERTIFICATE_LIFETIME
        )
        return Credentials(private_key=key, spki_der=spki, certificate=certificate, evidence=tagged, made=now)


def _checked(quote: bytes, report_data: bytes) -> bytes:
    """Refuse a stale or foreign quote: some drivers drop a request silently and serve the one before."""
    try:
        parsed = Quote.parse(quote)
    except MalformedInput as error:
        raise Unavailable(
            Reason.QUOTE_UNAVAILABLE,
            f"the attester returned something that is no quote: {error.message}",
            hint="check the platform's quoting service",
        ) from error
    if parsed.body.report_data != report_data:
        raise Unavailable(
            Reason.QUOTE_UNAVAILABLE,
            "the attester returned a quote for other report data than it was asked for",
            hint="another process may be using the same quoting interface; try again",
        )
    return quote
