"""The attestation exchange on a stream: asks, answers, judges, and opens the gate when the terms are met."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from eaa.aio.stream import PARTING_TIMEOUT, AttestedStream, Judgement, deadline
from eaa.appraise.result import Accepted, Rejected
from eaa.errors import EAAError, Rejection
from eaa.protocol.exchange import (
    Event,
    EvidenceReceived,
    EvidenceWanted,
    Exchange,
    OpenedReceived,
    OpenReceived,
    PeerAccepted,
    Session,
    Terms,
)
from eaa.protocol.messages import NONCE_SIZE, RejectClass

EXCHANGE_TIMEOUT: Final = 30.0
"""Seconds for an exchange; quoting on a busy TDX host takes several."""

Judge = Callable[[EvidenceReceived], Awaitable[Judgement]]
"""Judges what a peer has shown. May raise any EAAError."""
Quoter = Callable[[EvidenceWanted], Awaitable[bytes | None]]
"""Returns a quote over the report data that is wanted, or None where there is no attester."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """What this side brings to one hop."""

    terms: Terms
    quoter: Quoter
    judge: Judge | None
    """None where the operator wants no judgement: whatever a peer shows is then waved through."""


class Attestation:
    """Runs the exchange on one stream and opens its gate when, and only when, the terms are met."""

    def __init__(self, stream: AttestedStream, hop: Hop) -> None:
        connection = stream.connection
        session = Session(exporter=connection.exporter(), own_spki=connection.own_spki, peer_spki=connection.peer_spki)
        self._stream = stream
        self._hop = hop
        self._workload: str | None = None
        self._exchange = Exchange(session=session, terms=hop.terms, nonce=secrets.token_bytes(NONCE_SIZE))

    @property
    def stream(self) -> AttestedStream:
        """The stream this exchange runs on."""
        return self._stream

    async def open(self, workload: str) -> None:
        """Client of a relay: ask for a channel in one flight with `attest`, then judge, then wait for the channel."""
        if not self._hop.terms.judges or self._stream.connection.own_spki is None:
            self._exchange.open(workload)
            await self._run_until(lambda: self._exchange.finished)
        else:
            # With a certificate of our own the relay may judge us; then open has to wait for its verdict.
            await self._run_until(lambda: self._stream.judgement is not None and self._exchange.may_open)
            self._exchange.open(workload)
            await self._run_until(lambda: self._exchange.finished)
        self._enter()

    async def judge_only(self) -> None:
        """Client of a relay: judge it, and ask for nothing."""
        await self._run_until(lambda: self._stream.judgement is not None)

    async def wait_for_open(self) -> str:
        """Relay: answer and judge until the client asks for a channel; return the workload's name."""
        await self._run_until(lambda: self._workload is not None)
        # A name is never empty: the message codec refuses one.
        return self._workload or ""

    async def opened(self) -> None:
        """Relay: say that the channel is there."""
        self._exchange.opened()
        async with deadline(EXCHANGE_TIMEOUT, "opening the channel"):
            await self._flush()
        self._enter()

    async def complete(self) -> None:
        """Either end of a hop without `open`: run until both verdicts are known."""
        await self._run_until(lambda: self._exchange.finished)
        self._enter()

    async def reject(self, error: EAAError) -> None:
        """Tell the peer the class of what went wrong, where this hop tells it anything, and close the stream."""
        self._exchange.reject(RejectClass.of(error))
        with contextlib.suppress(EAAError, OSError):
            async with asyncio.timeout(PARTING_TIMEOUT):
                await self._flush()
        await self._stream.part()

    async def _run_until(self, done: Callable[[], bool]) -> None:
        try:
            async with deadline(EXCHANGE_TIMEOUT, "the attestation exchange"):
                await self._flush()
                while not done():
                    data = await self._stream._receive_control(self._exchange.wanted)  # noqa: SLF001  one module
                    for event in self._exchange.receive(data):
                        await self._on(event)
                    await self._flush()
        except EAAError as error:
            await self.reject(error)
            raise

    async def _on(self, event: Event) -> None:
        match event:
            case EvidenceWanted():
                self._exchange.answer(await self._hop.quoter(event))
            case EvidenceReceived():
                await self._judge(event)
            case OpenReceived(workload=workload):
                self._workload = workload
            case PeerAccepted() | OpenedReceived():
                pass

    async def _judge(self, shown: EvidenceReceived) -> None:
        if self._hop.judge is None:
            self._exchange.dangerously_accept_without_judging()
            return
        judgement = await self._hop.judge(shown)
        self._stream.judgement = judgement
        match judgement.result:
            case Accepted() as result:
                self._stream.connection.expect(shown.evidence_digest, shown.report_data)
                self._stream.connection.accept(result)
                self._stream.level = shown.level
                self._exchange.accept()
            case Rejected(root_cause=cause) as rejected:
                raise Rejection(
                    cause.reason,
                    f"the {rejected.role}'s evidence fails the check {cause.name}: "
                    f"expected {cause.expected}, it is {cause.actual}",
                    hint=cause.hint,
                    result=judgement,
                )

    async def _flush(self) -> None:
        if data := self._exchange.data_to_send():
            await self._stream._send_control(data)  # noqa: SLF001  one module

    def _enter(self) -> None:
        """Turn the stream over to raw bytes: the exchange is finished."""
        if self._hop.judge is None:
            self._stream.connection.admit_unattested_peer()
        self._stream.push_back(self._exchange.take_leftover())
