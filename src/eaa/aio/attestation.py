"""The attestation exchange on a stream: asks, answers, judges, and opens the gate when the terms are met."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from eaa.aio.context import handshake_is_over
from eaa.aio.counters import COUNTERS, Limit
from eaa.aio.limits import MAX_REQUEST
from eaa.aio.stream import PARTING_TIMEOUT, READ_SIZE, AttestedStream, Judgement, deadline
from eaa.appraise.result import Accepted, BindingLevel, Rejected
from eaa.errors import EAAError, PeerMisbehaved, Reason, Rejection
from eaa.protocol.exchange import (
    EpochSignature,
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
from eaa.records import quick
from eaa.tls.connection import Want

EXCHANGE_TIMEOUT: Final = 30.0
"""Seconds for an exchange; quoting on a busy TDX host takes several."""
HELD_BACK: Final = 0.005
"""Seconds for which who is asked first waits for that before it asks itself."""
HELD_BACK_WITH_QUOTE: Final = 0.025
"""Seconds for which who makes a quote keeps its own question, to send it together with its answer.

A quote that takes longer is worth a record and a wake-up at each end, and both ends then quote at once.
"""

Judge = Callable[[EvidenceReceived], Awaitable[Judgement]]
"""Judges what a peer has shown. May raise any EAAError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What this side shows to who asks."""

    quote: bytes
    """Over the report data that is wanted, or the epoch's."""
    epoch: EpochSignature | None = None
    """At level `session`."""
    collateral: bytes | None = None
    """What is stapled."""


new_answer: Final = quick(Answer)
_new_session: Final = quick(Session)

Quoter = Callable[[EvidenceWanted], Answer | Awaitable[Answer | None] | None]
"""Returns the evidence that is wanted, or None where there is no attester; or what to await for it."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """What this side brings to one hop."""

    terms: Terms
    quoter: Quoter
    judge: Judge | None
    """None where the operator wants no judgement: whatever a peer shows is then waved through."""
    now: datetime
    """The present, aware, for the dates of a peer's epoch."""
    max_request: int = MAX_REQUEST
    """Bytes that a peer may send before its session begins."""


new_hop: Final = quick(Hop)


class Attestation:
    """Runs the exchange on one stream and opens its gate when, and only when, the terms are met."""

    def __init__(self, stream: AttestedStream, hop: Hop) -> None:
        connection = stream.connection
        session = _new_session(
            exporter=connection.exporter(), own_spki=connection.own_spki, peer_spki=connection.peer_spki
        )
        self._stream = stream
        self._hop = hop
        self._workload: str | None = None
        self._exchange = Exchange(session=session, terms=hop.terms, nonce=os.urandom(NONCE_SIZE), now=hop.now)
        self.shown_level = BindingLevel.NONE
        """The binding at which this side has shown its own evidence; none where nobody asked, or there is none."""
        self._received = 0
        self._outgoing = bytearray()
        self._holds_back = hop.terms.judges and hop.terms.is_asked_first

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

    async def until_open(self, opening: Coroutine[Any, Any, _T]) -> _T:
        """Relay: wait for the channel, and give it up where the client leaves meanwhile.

        Raises:
            PeerMisbehaved: PEER_CLOSED, the client has left; MESSAGE_TOO_LARGE, it sends more than is kept for it.
        """
        channel = asyncio.create_task(opening)
        listening = asyncio.create_task(self._keep_early_bytes())
        try:
            await asyncio.wait((channel, listening), return_when=asyncio.FIRST_COMPLETED)
            if not channel.done():
                listening.result()
            return channel.result()
        finally:
            for task in (channel, listening):
                task.cancel()
            outcomes = await asyncio.gather(channel, listening, return_exceptions=True)
            del outcomes

    async def _keep_early_bytes(self) -> None:
        """Take what the client sends before its channel is open. Never returns. Raises PeerMisbehaved."""
        while True:
            self._exchange.receive(await self._receive())

    async def opened(self) -> None:
        """Relay: say that the channel is there."""
        self._exchange.opened()
        async with deadline(EXCHANGE_TIMEOUT, "opening the channel"):
            await self._flush()
        self._enter()

    async def complete(self, *, with_first_bytes: bool = False) -> None:
        """Either end of a hop without `open`: run until both verdicts are known.

        With the first bytes that the application writes at once, the last message goes in one record.
        """
        await self._run_until(lambda: self._exchange.finished, last_words=not with_first_bytes)
        self._enter()

    async def reject(self, error: EAAError) -> None:
        """Tell the peer the class of what went wrong, where this hop tells it anything, and close the stream."""
        self._exchange.reject(RejectClass.of(error))
        with contextlib.suppress(EAAError, OSError):
            async with asyncio.timeout(PARTING_TIMEOUT):
                await self._flush()
        await self._stream.part()

    async def _run_until(self, done: Callable[[], bool], *, last_words: bool = True) -> None:
        try:
            async with deadline(EXCHANGE_TIMEOUT, "the attestation exchange"):
                while not done():
                    await self._hear()
                if last_words:
                    await self._flush()
        except EAAError as error:
            await self.reject(error)
            raise

    async def _hear(self) -> None:
        """Say what is due, and take what the peer says next.

        A peer that asks at once gets its answer and this side's question in one piece. One that waits to be asked is
        asked after a little while: nothing obliges it to begin.
        """
        if self._holds_back:
            data = await self._first_bytes()
        else:
            # Who has just been told something has not answered yet.
            data = await self._receive(cancellable=False, later=await self._flush())
        for event in self._exchange.receive(data):
            self._holds_back = False
            match event:
                case EvidenceWanted():
                    await self._answer(event)
                case EvidenceReceived():
                    await self._judge(event)
                case OpenReceived(workload=workload):
                    self._workload = workload
                case PeerAccepted() | OpenedReceived():
                    pass

    async def _first_bytes(self) -> bytes:
        # They tend to come together with what has ended the handshake.
        data = self._stream._receive_control_now(READ_SIZE)  # noqa: SLF001  one module
        if not isinstance(data, Want):
            return self._received_now(data)
        asking = asyncio.get_running_loop().call_later(HELD_BACK, self._ask_meanwhile)
        try:
            return await self._receive(cancellable=False, later=True)
        finally:
            asking.cancel()

    def _ask_meanwhile(self) -> None:
        """Say what is due, as far as there is room for it; the rest goes with what is said next."""
        self._holds_back = False
        self._outgoing += self._exchange.data_to_send()
        # Whoever waits for the peer hears of it.
        with contextlib.suppress(EAAError):
            del self._outgoing[: self._stream._send_control_now(bytes(self._outgoing))]  # noqa: SLF001  one module

    async def _receive(self, *, cancellable: bool = True, later: bool = False) -> bytes:
        # As much as there is, and not message by message: what follows the last one is kept for the stream.
        return self._received_now(
            await self._stream._receive_control(READ_SIZE, cancellable=cancellable, later=later)  # noqa: SLF001  one module
        )

    def _received_now(self, data: bytes) -> bytes:
        """Count what was received, and return it. Raises PeerMisbehaved."""
        if not self._received:
            handshake_is_over()
        self._received += len(data)
        if self._received > self._hop.max_request:
            COUNTERS.refused[Limit.REQUEST] += 1
            raise PeerMisbehaved(
                Reason.MESSAGE_TOO_LARGE,
                f"the {self._hop.terms.peer_role} has sent {self._received} bytes before its session began, "
                f"at most {self._hop.max_request} are allowed",
            )
        return data

    async def _answer(self, wanted: EvidenceWanted) -> None:
        answer = self._hop.quoter(wanted)
        if answer is not None and not isinstance(answer, Answer):
            answer = await (self._quote(answer) if wanted.level is BindingLevel.FRESH else answer)
        if answer is None:
            self._exchange.answer(None)
            return
        self._exchange.answer(answer.quote, epoch=answer.epoch, collateral=answer.collateral)
        self.shown_level = wanted.level

    async def _quote(self, quote: Awaitable[Answer | None]) -> Answer | None:
        """Have a quote made; where that takes its time, ask the peer meanwhile, so that both ends quote at once."""
        asking = asyncio.get_running_loop().call_later(HELD_BACK_WITH_QUOTE, self._ask_meanwhile)
        try:
            return await quote
        finally:
            asking.cancel()

    async def _judge(self, shown: EvidenceReceived) -> None:
        if self._hop.judge is None:
            self._exchange.dangerously_accept_without_judging()
            return
        await admit(self._stream, shown, self._hop.judge)
        self._refuse_haste()
        self._exchange.accept()

    def _refuse_haste(self) -> None:
        """Refuse a peer that goes on while it has to wait for this side's verdict. Raises PeerMisbehaved.

        What came in one piece with its last message the exchange has refused; this is what has come since.
        """
        terms = self._hop.terms
        if terms.announces_verdict and not self._exchange.wanted and self._stream._has_more():  # noqa: SLF001  one module
            raise PeerMisbehaved(
                Reason.MESSAGE_UNEXPECTED, f"the {terms.peer_role} goes on before this side has given its verdict"
            )

    async def _flush(self) -> bool:
        """Say what is due, and return whether there was anything."""
        outgoing = self._take_outgoing()
        if outgoing:
            await self._stream._send_control(outgoing)  # noqa: SLF001  one module
        return bool(outgoing)

    def _take_outgoing(self) -> bytes:
        outgoing = self._exchange.data_to_send()
        if self._outgoing:
            outgoing = bytes(self._outgoing) + outgoing
            self._outgoing.clear()
        return outgoing

    def _enter(self) -> None:
        """Turn the stream over to raw bytes: the exchange is finished."""
        if self._hop.judge is None:
            self._stream.connection.admit_unattested_peer()
        if leftover := self._exchange.take_leftover():
            self._stream.push_back(leftover)
        self._stream._send_ahead(self._take_outgoing())  # noqa: SLF001  one module


async def admit(stream: AttestedStream, shown: EvidenceReceived, judge: Judge) -> None:
    """Judge what a peer has shown on a stream, and open its gate where that is accepted. Raises EAAError."""
    judgement = await judge(shown)
    stream.judgement = judgement
    match judgement.result:
        case Accepted() as result:
            stream.connection.expect(shown.evidence_digest, shown.report_data)
            stream.connection.accept(result)
            stream.level = shown.level
        case Rejected(root_cause=cause) as rejected:
            raise Rejection(
                cause.reason,
                f"the {rejected.role}'s evidence fails the check {cause.name}: "
                f"expected {cause.expected}, it is {cause.actual}",
                hint=cause.hint,
                result=judgement,
            )
