"""The sample greeting with peers of 2021 and of rats-tls, both sides of it. They are judged by their certificates."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Final

import click
from click.core import ParameterSource

from eaa.aio.attestation import Judge
from eaa.aio.legacy import secure_by_certificate
from eaa.aio.limits import ServiceLimits
from eaa.aio.net import TLS_OVERLOADED, Service, connect
from eaa.aio.sessions import Endpoint, judge_by, judge_now_by
from eaa.aio.stream import AttestedStream, deadline
from eaa.aio.stream import Judgement as StreamJudgement
from eaa.aio.workers import with_workers
from eaa.appraise.result import BindingLevel, Role
from eaa.attesters import Attester
from eaa.collateral.bundle import Collateral
from eaa.errors import EAAError, Misuse, PeerMisbehaved, Reason, Unavailable
from eaa.evidence.quote import Quote
from eaa.evidence.sgx import EnclaveReport
from eaa.evidence.tagged import Endorsements
from eaa.identity import LegacyIdentity
from eaa.program.address import Address
from eaa.program.loop import run_service
from eaa.program.options import Judging
from eaa.program.run import say
from eaa.protocol.exchange import EvidenceReceived
from eaa.protocol.legacy import (
    GREETING,
    MAX_LEGACY_GREETING,
    VERDICTD_ECHO,
    answer_greeting,
    parse_greeting_reply,
    parse_verdictd_echo,
)
from eaa.sources import CollateralSource
from eaa.sources.endorsements import VERSION, fetch_for, members_of, stapled_collateral
from eaa.tls.certificate import Format, RATLSCertificate
from eaa.verifier import Judgement, wall_clock

GREETING_TIMEOUT: Final = 30.0
"""Seconds in which a greeting has to be sent, and answered."""
PENDING_PAUSE: Final = 0.1
"""Seconds after which collateral that is being fetched is looked for again."""
CERTIFICATES: Final[dict[str, Format | None]] = {
    "both": None,
    "interoperable": Format.INTEROPERABLE,
    "enclave-tls-v1": Format.ENCLAVE_TLS_V1,
    "gramine": Format.GRAMINE_LEGACY,
}
"""What `--legacy-certificate` takes. C programs do not say which they read before they have the certificate."""
_OF_TODAY: Final = (
    *("level", "maximum_epoch", "minimum_level", "epoch", "metrics", "app", "grace", "check_config"),
    *(entry.name for entry in fields(ServiceLimits)),
)
_OF_LEGACY: Final = ("legacy_certificate",)

logger = logging.getLogger(__name__)


def legacy_options(function: Callable[..., object]) -> Callable[..., object]:
    """Add `--legacy` and `--legacy-certificate`."""
    certificate = click.option(
        "--legacy-certificate",
        type=click.Choice(list(CERTIFICATES)),
        default="both",
        show_default=True,
        help="With --legacy: the format of this side's certificate. `both` is read by enclave-tls and by rats-tls.",
    )
    legacy = click.option(
        "--legacy",
        is_flag=True,
        help="Exchange the sample greeting with C programs, enclave-tls of 2021 or rats-tls, in place of today's "
        "protocol. What they show binds their key and no session.",
    )
    return legacy(certificate(function))


def refuse_options_of_the_other(*, legacy: bool) -> None:
    """Refuse options that this protocol has no use for, where they were given: nothing is ever ignored.

    Raises:
        Misuse: USAGE.
    """
    context = click.get_current_context()
    for name in _OF_TODAY if legacy else _OF_LEGACY:
        if context.get_parameter_source(name) not in (None, ParameterSource.DEFAULT):
            option = f"--{name.replace('_', '-')}"
            raise Misuse(
                Reason.USAGE,
                f"{option} means nothing {'with' if legacy else 'without'} --legacy",
                hint="certificates bind a key and no session; what that is worth is for --minimum-binding to say"
                if legacy
                else f"leave {option} out, or say --legacy where the peer is a C program",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacySide:
    """What one side of the greeting is made of. `judge` is None where it takes its peers as they come."""

    identity: LegacyIdentity | None
    judge: Judge | None
    demands_certificate: bool
    """Servers: whether a client has to show one, as with --mutual."""
    dangerous_accept_no_evidence: bool

    def keep_renewed(self) -> None:
        """Renew this side's certificate ahead of time until `close`."""
        if self.identity is not None:
            self.identity.keep_renewed()

    def close(self) -> None:
        """End what `keep_renewed` has begun."""
        if self.identity is not None:
            self.identity.close()

    def endpoint(self, *, server_side: bool) -> Endpoint:
        """Return the endpoint, which has no protocol name."""
        return Endpoint(
            self.identity,
            server_side=server_side,
            clock=wall_clock,
            alpn=None,
            demand_client_certificate=server_side and self.demands_certificate,
        )


def make_legacy_identity(
    attester: Attester | None, *, certificate: str, endorsed_by: CollateralSource | None
) -> LegacyIdentity:
    """Make a key and a certificate of the named kind.

    Raises:
        Unavailable: the attester does not answer.
        Misuse: USAGE, endorsements have no place in such a certificate.
    """
    format_ = CERTIFICATES[certificate]
    if endorsed_by is not None and format_ not in (None, Format.INTEROPERABLE):
        raise Misuse(
            Reason.USAGE,
            f"a certificate of the format {certificate} has no place for endorsements",
            hint="leave out -e, or ask for --legacy-certificate interoperable",
        )
    endorse = None if endorsed_by is None else Endorsing(endorsed_by)
    return LegacyIdentity(attester, format=format_, endorse=endorse, clock=wall_clock)


def judging_by_certificate(judging: Judging) -> Judging:
    """Return the judging of peers that know no binding but `cert`, where the operator has not named one."""
    if judging.policy is not None or judging.all_roles["minimum_binding"] is not None:
        return judging
    return replace(judging, all_roles={**judging.all_roles, "minimum_binding": BindingLevel.CERT})


def open_legacy_judge(judging: Judging, role: Role, *, serving: bool) -> Judge | None:
    """Return who judges peers of 2021 in a role; None where the operator has chosen, loudly, to judge nobody.

    `serving` tells who is asked by strangers: it must not go out to the network for them.

    Who takes peers without evidence may have neither reference values nor a source of collateral: then a peer that
    does show evidence is refused. Raises Misuse.
    """
    judging.require_known_verifier()
    if judging.judges_nobody:
        return None
    judging = judging_by_certificate(judging)
    roles: tuple[Role, ...] = (role,)
    if judging.dangerous_accept_no_evidence:
        roles = ()
        try:
            judging.source()
        except Misuse as error:
            return _unable(error)
    verifier = judging.open(*roles, flags_for=role)
    return _patient(judge_now_by(verifier, role)) if serving else judge_by(verifier, role)


def _patient(judge: Judge) -> Judge:
    """Return a judge that waits for collateral which is being fetched: a C program that is refused does not come back.

    Nothing else waits for it, and the judgement of a certificate has a deadline.
    """

    async def judge_later(shown: EvidenceReceived) -> StreamJudgement:
        while True:
            try:
                return await judge(shown)
            except Unavailable as error:
                if error.reason is not Reason.COLLATERAL_PENDING:
                    raise
            await asyncio.sleep(PENDING_PAUSE)

    return judge_later


def _unable(error: Misuse) -> Judge:
    """Return the judge of evidence where nothing is there to judge it by."""

    async def judge(_shown: EvidenceReceived) -> Judgement:
        raise Unavailable(Reason.COLLATERAL_NOT_FOUND, f"the peer shows evidence, but {error.message}", hint=error.hint)

    return judge


class Endorsing:
    """Finds the endorsements of a quote. Without them a certificate is as good: whoever verifies it can fetch them."""

    def __init__(self, source: CollateralSource) -> None:
        self._source = source

    def __call__(self, quote: bytes) -> Endorsements | None:
        """Return the endorsements of the platform of this quote, or None where they cannot be had."""
        try:
            parsed = Quote.parse(quote)
            collateral = fetch_for(
                self._source,
                tee=int(parsed.header.tee_type),
                certification_data=parsed.certification_data,
                kind=parsed.certification_data_type,
            )
        except EAAError as error:
            logger.warning("the certificate carries no endorsements: %s [%s]", error.message, error.reason)
            return None
        return endorsements_of(collateral)


def endorsements_of(collateral: Collateral) -> Endorsements:
    """Return a collateral as a certificate carries it."""
    return Endorsements(version=VERSION, **members_of(collateral))


def _stapled(certificate: RATLSCertificate) -> bytes | None:
    return None if certificate.endorsements is None else stapled_collateral(certificate.endorsements)


# --- the server


class LegacyWorkload:
    """Serves sample clients: one greeting each."""

    def __init__(self, side: LegacySide) -> None:
        self._side = side
        self._endpoint = side.endpoint(server_side=True)

    async def handle(self, sock: socket.socket, peer: str) -> None:
        """Serve one connection."""
        stream = await secure_by_certificate(
            self._endpoint,
            sock,
            self._side.judge,
            stapled=_stapled,
            dangerous_accept_no_evidence=self._side.dangerous_accept_no_evidence,
        )
        try:
            async with deadline(GREETING_TIMEOUT, "the greeting"):
                if greeting := await stream.read(MAX_LEGACY_GREETING + 1):
                    await stream.write(answer_greeting(greeting, measurements=self._measurements()))
            logger.warning("%s: legacy peer, %s, binding %s", peer, _standing(stream), stream.level.label)
            await stream.close()
        finally:
            stream.abort()

    def _measurements(self) -> tuple[bytes, bytes] | None:
        quote = None if self._side.identity is None else self._side.identity.shown_quote
        report = None if quote is None else Quote.parse(quote).body
        return (report.mr_enclave, report.mr_signer) if isinstance(report, EnclaveReport) else None


def _standing(stream: AttestedStream) -> str:
    return "accepted" if stream.level is not BindingLevel.NONE else "not judged"


def serve_legacy(address: Address, side: LegacySide) -> int:
    """Serve sample clients until told to stop; return the exit code."""
    return run_service(with_workers(_serve(address, side)))


async def _serve(address: Address, side: LegacySide) -> int:
    service = Service(limits=ServiceLimits(), farewell=TLS_OVERLOADED)
    names = service.listen(address, LegacyWorkload(side).handle)
    side.keep_renewed()
    try:
        return await service.run(
            lambda: say("enclave-tls-server", f"listening on {', '.join(names)} (legacy)", kind="info")
        )
    finally:
        side.close()


# --- the client


async def visit_legacy(address: Address, side: LegacySide, *, verdictd: bool = False) -> tuple[Judgement | None, str]:
    """Judge a sample server by its certificate and greet it; or a Verdictd server, and have it echo a text.

    Returns:
        The judgement, None where the server was taken as it came, and its greeting.

    Raises:
        EAAError: it was refused, or is no sample server.
    """
    stream = await secure_by_certificate(
        side.endpoint(server_side=False),
        await connect(address),
        side.judge,
        stapled=_stapled,
        dangerous_accept_no_evidence=side.dangerous_accept_no_evidence,
    )
    try:
        async with deadline(GREETING_TIMEOUT, "the server's answer to a greeting"):
            said = VERDICTD_ECHO if verdictd else GREETING.encode()
            await stream.write(said)
            heard = await _hear(stream)
        reply = parse_verdictd_echo(heard) if verdictd else parse_greeting_reply(heard, sent=said)
        await stream.close()
    finally:
        stream.abort()
    judgement = stream.judgement
    assert judgement is None or isinstance(judgement, Judgement)
    return judgement, reply


async def _hear(stream: AttestedStream) -> bytes:
    try:
        return await stream.read()
    except PeerMisbehaved as error:
        if error.reason is not Reason.PEER_CLOSED:
            raise
        # Whoever judges a certificate does so after the handshake, and the greeting has no message for a refusal.
        raise PeerMisbehaved(
            Reason.PEER_CLOSED,
            "the server closed the connection in place of an answer to the greeting",
            hint="that is how a server of this kind refuses a client; it cannot say why, but its log may: does it "
            "demand evidence (--mutual, --attester), and does it accept this side's?",
        ) from error
