"""The relay: shows its own evidence, judges the workload, opens channels, and then only moves bytes."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from eaa.aio.attestation import Attestation, Judge
from eaa.aio.client import patiently
from eaa.aio.net import Service, connect
from eaa.aio.relay import Relayed, pump
from eaa.aio.sessions import Endpoint, enter_workload, inner_endpoint, judge_by, judge_now_by
from eaa.aio.stream import deadline
from eaa.aio.workers import with_workers
from eaa.appraise.result import Role
from eaa.errors import EAAError, Reason, Unavailable
from eaa.identity import Identity
from eaa.inclavared.legacy import answer_legacy
from eaa.program.address import Address
from eaa.program.judged import verdict_of_judgement, verdict_of_refusal
from eaa.program.loop import run_service
from eaa.program.metrics import service_metrics, serving_metrics
from eaa.program.options import Binding
from eaa.program.output import print_reply, print_verdict
from eaa.program.run import say
from eaa.protocol.exchange import Levels, Terms
from eaa.protocol.legacy import HELLO
from eaa.verifier import Judgement, Verifier, wall_clock

PROGRAM: Final = "inclavared"
DEFAULT_WORKLOAD: Final = "default"
"""The name of the only workload of a relay with a single --xfer."""
GREETING_TIMEOUT: Final = 30.0
"""Seconds in which a workload's application has to answer a greeting."""
MAX_GREETING: Final = 255
"""Bytes of that answer."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """What a relay is made of. `verifier` is None where it takes workloads as they come."""

    upstream: Endpoint
    """Towards Shelter."""
    downstream: Endpoint
    """Towards the workload."""
    inner: Endpoint
    """Inside a channel, where this side asks the workload itself."""
    legacy: Endpoint | None
    """Towards clients of 2021: no protocol name, so TLS 1.2 is spoken too; and a certificate that they can read."""
    identities: tuple[Identity, ...]
    """Those to be kept renewed."""
    verifier: Verifier | None
    attest_clients: bool
    binding: Binding

    @classmethod
    def create(
        cls,
        *,
        identity: Identity,
        verifier: Verifier | None,
        legacy_identity: Identity | None = None,
        mutual: bool = True,
        attest_clients: bool = False,
        binding: Binding | None = None,
    ) -> Relay:
        """Make the endpoints."""
        return cls(
            upstream=Endpoint(identity, server_side=True, clock=wall_clock, demand_client_certificate=attest_clients),
            # Without --mutual the workload sees a key and no evidence, as in the reference system.
            downstream=Endpoint(identity if mutual else Identity(None), server_side=False, clock=wall_clock),
            inner=inner_endpoint(wall_clock),
            legacy=None
            if legacy_identity is None
            else Endpoint(legacy_identity, server_side=True, clock=wall_clock, alpn=None),
            identities=(identity,) if legacy_identity is None else (identity, legacy_identity),
            verifier=verifier,
            attest_clients=attest_clients,
            binding=binding or Binding(),
        )

    @property
    def judge_of_clients(self) -> Judge | None:
        """The judge of Shelter, where one was asked for. Any stranger may ask, so it never waits for a network."""
        return judge_now_by(self.verifier, Role.CLIENT) if self.verifier and self.attest_clients else None

    @property
    def levels(self) -> Levels:
        """What is asked of every peer, and what this side's own evidence is shown at."""
        binding = self.binding
        return {
            "level": binding.level,
            "minimum_level": binding.minimum_level,
            "maximum_epoch": binding.maximum_epoch,
        }

    async def open_channel(self, workload: Address) -> Attestation:
        """Do what `channel` does on a client's behalf, who is not told what its relay thinks of the workload.

        Raises:
            Unavailable: WORKLOAD_UNAVAILABLE, whatever kept the channel from opening; the log has the cause.
        """
        try:
            return await self.channel(workload)
        except EAAError as error:
            logger.warning("workload %s: %s [%s]", workload, error.message, error.reason)
            raise Unavailable(
                Reason.WORKLOAD_UNAVAILABLE,
                f"no channel to the workload at {workload}: {error.message}",
                hint=error.hint,
            ) from error

    async def channel(self, workload: Address) -> Attestation:
        """Return a mutually attested channel to the workload, ready for one inner session. Raises EAAError.

        A workload that is still fetching the collateral of this relay is tried again for a few seconds.
        """
        return await patiently(lambda: self._channel(workload))

    async def _channel(self, workload: Address) -> Attestation:
        sock = await connect(workload)
        judge = judge_by(self.verifier, Role.WORKLOAD) if self.verifier else None
        channel = await self.downstream.secure(sock, Terms.relay_to_workload(**self.levels), judge)
        try:
            await channel.complete()
        except BaseException:
            channel.stream.abort()
            raise
        return channel


class Upstream:
    """Serves Shelter: one exchange, one `open`, one channel."""

    def __init__(self, relay: Relay, workloads: Mapping[str, Address]) -> None:
        self._relay = relay
        self._workloads = workloads

    async def handle(self, sock: socket.socket, peer: str) -> None:
        """Serve one connection of Shelter's."""
        judge = self._relay.judge_of_clients
        terms = Terms.relay_to_shelter(judges=judge is not None, **self._relay.levels)
        client = await self._relay.upstream.secure(sock, terms, judge)
        try:
            channel = await self._open(client, await client.wait_for_open())
            try:
                await client.opened()
                logger.info("%s: relaying; %s", peer, _levels_of(client, channel))
                _report(peer, await pump(client.stream, channel.stream))
            finally:
                channel.stream.abort()
        finally:
            client.stream.abort()

    async def _open(self, client: Attestation, name: str) -> Attestation:
        try:
            workload = self._workloads.get(name)
            if workload is None:
                raise Unavailable(
                    Reason.WORKLOAD_UNAVAILABLE,
                    f"a client asked for the workload {name}, which is not configured here",
                    hint="--xfer NAME=ADDRESS names one; without a name it is `default`",
                )
            return await client.until_open(self._relay.open_channel(workload))
        except EAAError as error:
            await client.reject(error)
            raise


def _levels_of(client: Attestation, channel: Attestation) -> str:
    """Return at which binding each end of each hop was attested."""
    hops = {
        "this relay to the client": client.shown_level,
        "the client": client.stream.level,
        "the workload": channel.stream.level,
        "this relay to the workload": channel.shown_level,
    }
    return "attested at level: " + ", ".join(f"{who} {level.label}" for who, level in hops.items())


def _report(peer: str, relayed: Relayed) -> None:
    amount = f"{relayed.forth} bytes to the workload, {relayed.back} back"
    if relayed.failure is None:
        logger.info("%s: done: %s", peer, amount)
    else:
        # Not a warning: clients go away, those that refuse the workload at once.
        logger.info("%s: ended after %s: %s [%s]", peer, amount, relayed.failure.message, relayed.failure.reason)


class Legacy:
    """Serves clients of 2021 with values from evidence that was verified just now."""

    def __init__(self, relay: Relay, workload: Address | None) -> None:
        assert relay.legacy is not None
        self._relay = relay
        self._endpoint = relay.legacy
        self._workload = workload

    async def handle(self, sock: socket.socket, peer: str) -> None:
        """Serve one connection of a client of 2021."""
        stream = await self._endpoint.secure_unattested(sock)
        try:
            await answer_legacy(stream, self._enclave_info if self._workload else None)
            logger.warning("%s: answered a legacy client; its answer is bound to no session", peer)
            await stream.close()
        finally:
            stream.abort()

    async def _enclave_info(self) -> tuple[Judgement, str]:
        assert self._workload is not None
        return await ask_workload(self._relay, self._workload)


async def ask_workload(relay: Relay, workload: Address) -> tuple[Judgement, str]:
    """Attest the workload end to end as a client would, and return the judgement and its greeting."""
    assert relay.verifier is not None
    judge = judge_by(relay.verifier, Role.WORKLOAD)
    channel = (await relay.channel(workload)).stream
    try:
        inner = await enter_workload(channel, judge=judge, clock=wall_clock, endpoint=relay.inner, **relay.levels)
        async with deadline(GREETING_TIMEOUT, "the workload's answer to a greeting"):
            await inner.write(HELLO)
            greeting = await inner.read(MAX_GREETING)
        await inner.close()
    finally:
        channel.abort()
    judgement = inner.judgement
    assert isinstance(judgement, Judgement)
    return judgement, greeting.decode(errors="replace")


def fetch_once(relay: Relay, workload: Address, *, as_json: bool) -> int:
    """Attest the workload once, print the verdict, and return its exit code."""
    try:
        judgement, greeting = asyncio.run(with_workers(ask_workload(relay, workload)))
        verdict = verdict_of_judgement(judgement)
    except EAAError as error:
        verdict, greeting = verdict_of_refusal(error), ""
    print_verdict(verdict, program=PROGRAM, as_json=as_json)
    if greeting and not as_json:
        print_reply(greeting)
    return verdict.exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Where a relay can be reached; at least one of the first two."""

    listen: Address | None
    """By Shelter."""
    legacy: Address | None
    """By clients of 2021."""
    metrics: Address | None
    """By Prometheus."""


def serve(relay: Relay, doors: Doors, workloads: Mapping[str, Address]) -> int:
    """Serve until told to stop; return the exit code. Raises Unavailable where an address cannot be had."""
    return run_service(with_workers(_serve(relay, doors, workloads)))


async def _serve(relay: Relay, doors: Doors, workloads: Mapping[str, Address]) -> int:
    service = Service()
    names = [] if doors.listen is None else service.listen(doors.listen, Upstream(relay, workloads).handle)
    if doors.legacy is not None:
        handler = Legacy(relay, workloads.get(DEFAULT_WORKLOAD)).handle
        names += [f"{name} (legacy)" for name in service.listen(doors.legacy, handler)]
    for identity in relay.identities:
        identity.keep_renewed()
    try:
        async with serving_metrics(doors.metrics, service_metrics(relay.identities, relay.verifier)) as more:
            return await service.run(lambda: say(PROGRAM, f"listening on {', '.join(names + more)}", kind="info"))
    finally:
        service.close()
        for identity in relay.identities:
            identity.close()
        if relay.verifier is not None:
            relay.verifier.close(timeout=0)
