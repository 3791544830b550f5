"""The relay: shows its own evidence, judges the workload, opens channels, and then only moves bytes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from eaa.aio.attestation import Attestation, Judge
from eaa.aio.context import note
from eaa.aio.counters import COMPLETED, COUNTERS
from eaa.aio.limits import QuoteQueue
from eaa.aio.net import TLS_OVERLOADED, Service
from eaa.aio.relay import Limits, Relayed, Traffic, pump
from eaa.aio.sessions import Endpoint, enter_workload, inner_endpoint, judge_by, judge_now_by
from eaa.aio.stream import AttestedStream, deadline
from eaa.aio.together import Board
from eaa.aio.workers import with_workers
from eaa.appraise.result import Role
from eaa.errors import EAAError, Misuse, Reason
from eaa.identity import Identity
from eaa.inclavared.channels import Channels, Opener
from eaa.inclavared.counters import RelayCounters
from eaa.inclavared.first_words import carry_first_words
from eaa.inclavared.judged import Witness
from eaa.inclavared.legacy import answer_legacy
from eaa.inclavared.live import LiveSessions, Session
from eaa.inclavared.metrics import relay_metrics
from eaa.inclavared.pool import Channel
from eaa.inclavared.settings import DEFAULT_WORKLOAD, Settings, Target
from eaa.inclavared.wish import Opened, Wish
from eaa.program.judged import verdict_of_judgement, verdict_of_refusal
from eaa.program.lifecycle import live
from eaa.program.loop import run_service
from eaa.program.metrics import Observed, service_health, service_metrics
from eaa.program.output import print_reply, print_verdict
from eaa.program.reload import Reload
from eaa.program.run import say
from eaa.program.workers import telling, this_worker
from eaa.protocol.exchange import Terms
from eaa.protocol.legacy import HELLO
from eaa.verifier import Judgement, Verifier, wall_clock

PROGRAM: Final = "inclavared"
GREETING_TIMEOUT: Final = 30.0
"""Seconds in which a workload's application has to answer a greeting."""
MAX_GREETING: Final = 255
"""Bytes of that answer."""

logger = logging.getLogger(__name__)

ReadAgain = Callable[[], Any]
"""Reads command line and files again, and returns the Wish. Raises EAAError."""


class Relay:
    """What a relay is made of. Its settings are replaced as a whole, in between two steps of the event loop."""

    def __init__(self, opened: Opened, *, identity: Identity, legacy_identity: Identity | None = None) -> None:
        """Make the endpoints.

        Args:
            opened: what it goes by, until `adopt`.
            identity: who it is.
            legacy_identity: who it is to clients of 2021, whose certificate is another; None where it serves none.
        """
        fixed = opened.wish.fixed
        self._opened = opened
        self._first = opened
        self.counters = RelayCounters()
        self.identities = (identity,) if legacy_identity is None else (identity, legacy_identity)
        limits = fixed.limits
        # One queue: it is one platform that makes all quotes.
        quotes = QuoteQueue.of(limits, board=_board())
        queue: Any = {"quotes": quotes, "max_request": limits.max_request, "clock": wall_clock}
        self.limits = Limits(idle=limits.idle_timeout, lifetime=limits.max_lifetime)
        self.traffic = Traffic()
        self.upstream = Endpoint(identity, server_side=True, demand_client_certificate=fixed.attest_clients, **queue)
        # Without --mutual the workload sees a key and no evidence, as in the reference system.
        self.downstream = Endpoint(identity if fixed.mutual else Identity(None), server_side=False, **queue)
        self.inner = inner_endpoint(wall_clock)
        self.legacy = None
        if legacy_identity is not None:
            # Clients of 2021 offer no protocol name, so TLS 1.2 is spoken to them too.
            self.legacy = Endpoint(legacy_identity, server_side=True, alpn=None, **queue)
        self.opener = Opener(self.downstream, lambda: self.settings, self.counters)
        self.channels = Channels(self.opener, self.counters)
        self.live = LiveSessions(lambda: self.settings, self.counters)

    @property
    def settings(self) -> Settings:
        """What it goes by just now."""
        return self._opened.settings

    @property
    def opened(self) -> Opened:
        """The wish behind its settings, with all that was opened for it."""
        return self._opened

    @property
    def verifiers(self) -> list[Verifier]:
        """Those that fetch collateral."""
        # The first ones keep this machine's own collateral, which is stapled to its evidence.
        return list(dict.fromkeys((*self._first.families.values(), *self._opened.families.values())))

    async def pump(self, client: AttestedStream, workload: AttestedStream, *, last: float) -> Relayed:
        """Move bytes until both sides have said goodbye, or one of them is gone; `last` is when one moved before."""
        workload.settle()
        relayed = await pump(client, workload, limits=self.limits, traffic=self.traffic, last=last)
        COUNTERS.sessions[COMPLETED if relayed.failure is None else relayed.failure.reason] += 1
        return relayed

    def adopt(self, opened: Opened) -> None:
        """Go by other settings from now on. Channels and sessions that they do not accept end."""
        before = self.verifiers
        self._opened = opened
        self.channels.apply(opened.settings)
        self.live.ask()
        for verifier in before:
            if verifier not in self.verifiers:
                verifier.close(timeout=0)

    def close(self) -> None:
        """End what runs in the background."""
        for identity in self.identities:
            identity.close()
        for verifier in self.verifiers:
            verifier.close(timeout=0)


class Upstream:
    """Serves Shelter: one exchange, one `open`, one channel."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def handle(self, sock: socket.socket, peer: str) -> None:
        """Serve one connection of Shelter's."""
        client, workload, session = await self._join(sock, peer)
        # From here on nothing is kept but two streams and what it takes to judge their ends again: sessions may be
        # idle for hours, and there are thousands of them.
        try:
            with self._relay.live.entered(session):
                begun = await carry_first_words(
                    client, workload, replace=lambda: self._replace(session), limits=self._relay.limits
                )
                workload, session.said = begun.workload, begun.said
                self._relay.traffic.forth += session.said
                _report(session, await self._relay.pump(client, workload, last=begun.last))
        except asyncio.CancelledError:
            if session.verdict is None:
                raise
            # A bad verdict has cut it, and has been logged. Nobody else wants this task to end.
            session.task.uncancel()
        finally:
            workload.abort()
            client.abort()

    async def _join(self, sock: socket.socket, peer: str) -> tuple[AttestedStream, AttestedStream, Session]:
        """Attest both hops; return the client's stream, the workload's, and the session that joins them."""
        settings = self._relay.settings
        judge = _judge_of_clients(settings)
        terms = Terms.relay_to_shelter(judges=judge is not None, **settings.levels)
        client = await self._relay.upstream.secure(sock, terms, judge)
        try:
            channel = await self._open(client, await client.wait_for_open())
            try:
                await client.opened()
            except BaseException:
                channel.abort()
                raise
        except BaseException:
            client.stream.abort()
            raise
        task = asyncio.current_task()
        assert task is not None
        judged = (channel.judged, judge and judge.judged)
        session = Session(
            peer=peer, workload=channel.target.name, judged=tuple(each for each in judged if each), task=task
        )
        _announce(session, client, channel.attestation)
        streams = client.stream, channel.attestation.stream
        for stream in streams:
            stream.settle()
        return *streams, session

    async def _replace(self, session: Session) -> AttestedStream:
        """Return another channel for a session that has just begun. Raises EAAError."""
        channel = await self._relay.channels.replace(session.workload)
        others = (judged for judged in session.judged if judged.role is not Role.WORKLOAD)
        session.judged = tuple(each for each in (channel.judged, *others) if each)
        return channel.attestation.stream

    async def _open(self, client: Attestation, name: str) -> Channel:
        try:
            # By the settings of now: they may have changed while this client was attested.
            target = self._relay.settings.target(name)
            note(workload=target.name)
            return await client.until_open(self._relay.channels.take(target))
        except EAAError as error:
            await client.reject(error)
            raise


def _judge_of_clients(settings: Settings) -> Witness | None:
    """Return the judge of Shelter, where one was asked for. Any stranger may ask, so it never waits for a network."""
    verifier = settings.clients_verifier
    if verifier is None:
        return None
    return Witness(judge_now_by(verifier, Role.CLIENT), verifier=verifier, role=Role.CLIENT)


def _announce(session: Session, client: Attestation, channel: Attestation) -> None:
    """Log at which binding each end of each hop was attested."""
    hops = {
        "relay_level": ("this relay to the client", client.shown_level),
        "client_level": ("the client", client.stream.level),
        "workload_level": ("the workload", channel.stream.level),
        "channel_level": ("this relay to the workload", channel.shown_level),
    }
    logger.info(
        "%s: relaying; attested at level: %s",
        session.peer,
        ", ".join(f"{who} {level.label}" for who, level in hops.values()),
        extra={
            "event": "session.opened",
            "workload": session.workload,
            **{name: level.label for name, (_, level) in hops.items()},
        },
    )


def _report(session: Session, relayed: Relayed) -> None:
    forth, failure = session.said + relayed.forth, relayed.failure
    amount = f"{forth} bytes to the workload, {relayed.back} back"
    fields = {
        "event": "session.ended",
        "workload": session.workload,
        "bytes_from_client": forth,
        "bytes_to_client": relayed.back,
    }
    if failure is None:
        logger.info("%s: done: %s", session.peer, amount, extra=fields)
    else:
        # Not a warning: clients go away, those that refuse the workload at once.
        logger.info("%s: ended after %s: %s [%s]", session.peer, amount, failure.message, failure.reason, extra=fields)


class Legacy:
    """Serves clients of 2021 with values from evidence that was verified just now."""

    def __init__(self, relay: Relay) -> None:
        assert relay.legacy is not None
        self._relay = relay
        self._endpoint = relay.legacy

    async def handle(self, sock: socket.socket, peer: str) -> None:
        """Serve one connection of a client of 2021."""
        target = self._relay.settings.find(DEFAULT_WORKLOAD)
        stream = await self._endpoint.secure_unattested(sock)
        try:
            await answer_legacy(stream, None if target is None else lambda: ask_workload(self._relay, target))
            logger.warning("%s: answered a legacy client; its answer is bound to no session", peer)
            await stream.close()
        finally:
            stream.abort()


async def ask_workload(relay: Relay, target: Target) -> tuple[Judgement, str]:
    """Attest the workload end to end as a client would, and return the judgement and its greeting."""
    assert target.verifier is not None
    judge: Judge = judge_by(target.verifier, Role.WORKLOAD)
    channel = (await relay.opener(target)).attestation.stream
    try:
        levels = relay.settings.levels
        inner = await enter_workload(channel, judge=judge, clock=wall_clock, endpoint=relay.inner, **levels)
        async with deadline(GREETING_TIMEOUT, "the workload's answer to a greeting"):
            await inner.write(HELLO)
            greeting = await inner.read(MAX_GREETING)
        await inner.close()
    finally:
        channel.abort()
    judgement = inner.judgement
    assert isinstance(judgement, Judgement)
    return judgement, greeting.decode(errors="replace")


def fetch_once(relay: Relay, target: Target, *, as_json: bool) -> int:
    """Attest the workload once, print the verdict, and return its exit code."""
    try:
        judgement, greeting = asyncio.run(with_workers(ask_workload(relay, target)))
        verdict = verdict_of_judgement(judgement)
    except EAAError as error:
        verdict, greeting = verdict_of_refusal(error), ""
    print_verdict(verdict, program=PROGRAM, as_json=as_json)
    if greeting and not as_json:
        print_reply(greeting)
    return verdict.exit_code


def _board() -> Board | None:
    """Return where the processes of this relay count together, None where it has only one."""
    worker = this_worker()
    return None if worker is None else worker.board


def serve(relay: Relay, read_again: ReadAgain) -> int:
    """Serve until told to stop; return the exit code. Raises Unavailable where an address cannot be had."""
    return run_service(with_workers(_serve(relay, read_again)))


async def _serve(relay: Relay, read_again: ReadAgain) -> int:
    worker = this_worker()
    service = Service(limits=relay.opened.wish.fixed.limits, farewell=TLS_OVERLOADED, board=_board())
    doors = relay.opened.wish.fixed.doors
    listen = service.listen if worker is None else worker.listening(service)
    names = [] if doors.listen is None else listen(doors.listen, Upstream(relay).handle)
    if doors.legacy is not None:
        names += [f"{name} (legacy)" for name in listen(doors.legacy, Legacy(relay).handle)]
    for identity in relay.identities:
        identity.keep_renewed()
    observed = Observed(
        identities=lambda: relay.identities,
        verifiers=lambda: relay.verifiers,
        service=service,
        traffic=relay.traffic,
    )
    metrics = [*service_metrics(observed), *relay_metrics(relay.counters)]
    health = service_health(observed, workload=lambda: relay.channels.are_reachable)
    try:
        async with telling(worker, doors.metrics, metrics, health) as more, _watching(relay):
            return await live(
                service,
                announce=worker.ready if worker is not None else functools.partial(_say_listening, names + more),
                grace=lambda: relay.settings.grace,
                on_reload=Reload(
                    relay.counters.reloads,
                    read=functools.partial(_read, relay, read_again),
                    adopt=functools.partial(_adopt, relay),
                ),
                on_stop=relay.channels.close,
            )
    finally:
        service.close()
        relay.close()


def _say_listening(names: list[str]) -> None:
    say(PROGRAM, f"listening on {', '.join(names)}", kind="info", event="service.listening", addresses=names)


@contextlib.asynccontextmanager
async def _watching(relay: Relay) -> AsyncIterator[None]:
    """Keep channels ready and an eye on live sessions for the duration of a block."""
    relay.channels.apply(relay.settings)
    watch = asyncio.create_task(relay.live.watch(relay.channels.sweep))
    try:
        yield
    finally:
        relay.channels.close()
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


def _read(relay: Relay, read_again: ReadAgain) -> Opened:
    """Return what the files say now. Raises EAAError."""
    wish = read_again()
    if not isinstance(wish, Wish):
        raise Misuse(Reason.USAGE, "the command line asks for something else than before")
    return Opened.of(wish, former=relay.opened)


def _adopt(relay: Relay, opened: Opened) -> str:
    relay.adopt(opened)
    for target in opened.settings.targets.values():
        if target.verifier is not None and not target.verifier.accepts_role(Role.WORKLOAD):
            logger.warning("workload %s: no reference value is left, so nothing is accepted there", target)
    return f"workloads are {', '.join(opened.wish.workloads) or 'none'}"
