"""Both ends of a hop in one event loop: endpoints with identities that a test makes up, and judges that it chooses."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from eaa.aio.attestation import Attestation, Judge
from eaa.aio.sessions import Endpoint
from eaa.appraise.result import Accepted, Attests, BindingLevel, Check, Rejected, Role
from eaa.errors import Reason
from eaa.evidence.tagged import TaggedEvidence, claims_report_data
from eaa.protocol.exchange import EvidenceReceived, Terms
from support.aio_world import tcp_pair
from support.epochs import MadeEpoch
from support.tls_world import NOW, evidence_for, make_identity

QUOTE = b"a quote"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A key, its certificate, and the evidence in it."""

    private_key: ec.EllipticCurvePrivateKey
    certificate: bytes
    evidence: TaggedEvidence | None

    @property
    def quote(self) -> bytes | None:
        return self.evidence.evidence if self.evidence else None

    @classmethod
    def create(cls) -> Credentials:
        identity = make_identity()
        assert isinstance(identity.key, ec.EllipticCurvePrivateKey)
        return cls(private_key=identity.key, certificate=identity.certificate, evidence=evidence_for(identity.key))


class Somebody:
    """An identity whose credentials change when a test says so, and which quotes when a test lets it."""

    def __init__(self, *, quote: bytes | Exception | None = QUOTE) -> None:
        self.current = Credentials.create()
        self.failure: Exception | None = None
        self.asked: list[bytes] = []
        self.epochs: dict[tuple[str, bytes], MadeEpoch] = {}
        self.stapled: bytes | None = None
        self.is_immediate = False
        self.may_quote = threading.Event()
        self.may_quote.set()
        self._quote = quote

    def credentials(self) -> Credentials:
        if self.failure:
            raise self.failure
        return self.current

    def credentials_at_hand(self) -> Credentials | None:
        return None

    def quote_at_hand(self, report_data: bytes) -> bytes | None:
        return self.quote(report_data) if self.is_immediate else None

    def epoch_at_hand(self, role: str, credentials: Credentials) -> MadeEpoch | None:
        return self.epochs.get((role, credentials.certificate))

    def epoch(self, role: str, credentials: Credentials) -> MadeEpoch | None:
        made = MadeEpoch.of(spki_of(credentials.private_key), Role(role))
        quote = self.quote(claims_report_data(made.claims))
        if quote is None:
            return None
        return self.epochs.setdefault((role, credentials.certificate), replace(made, quote=quote))

    def collateral(self) -> bytes | None:
        return self.stapled

    def quote(self, report_data: bytes) -> bytes | None:
        self.asked.append(report_data)
        assert self.may_quote.wait(60)
        if isinstance(self._quote, Exception):
            raise self._quote
        return self._quote


def spki_of(private_key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public key of a TLS key, as claims name it."""
    return private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a judge answers."""

    result: Accepted | Rejected


def accepted(shown: EvidenceReceived, **changes: object) -> Accepted:
    """An acceptance of exactly what was shown, but for the changes."""
    fields: dict[str, object] = {
        "role": Role.WORKLOAD,
        "binding": shown.level,
        "evidence_digest": hashlib.sha256(shown.evidence or b"").digest(),
        "report_data": shown.report_data,
        "checks": (),
        "reference_value": "workload",
        "attests": Attests.PROCESS,
    }
    return Accepted(**{**fields, **changes})  # type: ignore[arg-type]


def rejected(shown: EvidenceReceived) -> Rejected:
    """A rejection of what was shown."""
    check = Check(
        name="measurement",
        passed=False,
        reason=Reason.MEASUREMENT_MISMATCH,
        expected="one",
        actual="another",
        clause="a test",
        hint="look at the test",
    )
    return Rejected(
        role=Role.WORKLOAD,
        binding=shown.level,
        evidence_digest=shown.evidence_digest,
        report_data=shown.report_data,
        checks=(check,),
    )


def judge_that(answer: Callable[[EvidenceReceived], Accepted | Rejected]) -> Judge:
    """A judge that answers so, and may raise."""

    async def judge(shown: EvidenceReceived) -> Judgement:
        return Judgement(result=answer(shown))

    return judge


ACCEPTING = judge_that(accepted)


def endpoint(identity: Somebody | None, *, server_side: bool, demand: bool = False) -> Endpoint:
    """One side, whose clock stands still."""
    return Endpoint(identity, server_side=server_side, clock=lambda: NOW, demand_client_certificate=demand)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """Both ends after the handshake, ready for the exchange."""

    client: Attestation
    server: Attestation


@asynccontextmanager
async def hop(
    client: Endpoint,
    server: Endpoint,
    *,
    judge: Judge = ACCEPTING,
    judge_of_clients: Judge | None = None,
    level: BindingLevel = BindingLevel.FRESH,
) -> AsyncIterator[Hop]:
    """A relay's channel to a workload."""
    one, other = tcp_pair()
    client_terms = Terms.relay_to_workload(level=level)
    server_terms = Terms.workload_to_relay(judges=judge_of_clients is not None)
    asking, answering = await asyncio.gather(
        client.secure(one, client_terms, judge), server.secure(other, server_terms, judge_of_clients)
    )
    try:
        yield Hop(client=asking, server=answering)
    finally:
        asking.stream.abort()
        answering.stream.abort()
