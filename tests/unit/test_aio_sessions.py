"""Endpoints: current credentials on every connection, and quotes that hold up nobody but who asked for them."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

import pytest

from eaa.aio import sessions
from eaa.aio.attestation import Answer
from eaa.aio.limits import QuoteQueue
from eaa.aio.sessions import Endpoint, enter_workload, judge_by, judge_now_by
from eaa.aio.together import Origin
from eaa.appraise.result import BindingLevel, Role
from eaa.errors import EAAError, Reason, Rejection, Unavailable
from eaa.identity import CERTIFICATE_LIFETIME, Identity
from eaa.protocol.exchange import ALPN_INNER, EvidenceReceived, EvidenceWanted, Terms
from eaa.simulator.platform import Enclave, Platform
from eaa.tls.connection import make_context
from support.aio_world import run, tcp_pair, until
from support.hop_world import ACCEPTING, Credentials, Hop, Judgement, Somebody, accepted, endpoint, hop
from support.simulated import NOW as LAUNCHED
from support.simulated import sample_enclave
from support.tls_world import NOW


async def complete(ends: Hop) -> None:
    await asyncio.gather(ends.client.complete(), ends.server.complete())


def reason_of(error: object) -> Reason:
    assert isinstance(error, EAAError)
    return error.reason


# --- credentials


def test_both_ends_show_the_credentials_they_have() -> None:
    relay, workload = Somebody(), Somebody()

    async def main() -> None:
        ends = endpoint(relay, server_side=False), endpoint(workload, server_side=True, demand=True)
        async with hop(*ends) as both:
            assert both.client.stream.connection.peer_certificate == workload.current.certificate
            assert both.server.stream.connection.peer_certificate == relay.current.certificate
            await complete(both)
            await both.client.stream.write(b"request")
            assert await both.server.stream.read() == b"request"

    run(main())


def test_new_credentials_are_shown_from_the_next_connection_on() -> None:
    workload = Somebody()
    before = workload.current

    async def main() -> None:
        ends = endpoint(Somebody(), server_side=False), endpoint(workload, server_side=True)
        async with hop(*ends) as old:
            workload.current = Credentials.create()
            async with hop(*ends) as new:
                assert old.client.stream.connection.peer_certificate == before.certificate
                assert new.client.stream.connection.peer_certificate == workload.current.certificate
                # The old connection goes on with what it began with.
                await complete(old)
                await complete(new)

    run(main())


def test_connections_with_the_same_credentials_share_a_context() -> None:
    workload = Somebody()

    async def main() -> None:
        server: Any = endpoint(workload, server_side=True)
        contexts = []
        for credentials in (workload.current, workload.current, Credentials.create()):
            workload.current = credentials
            async with hop(endpoint(None, server_side=False), server):
                contexts.append(server._context)
        assert contexts[0] is contexts[1] is not contexts[2]

    run(main())


def test_an_identity_that_has_no_credentials_costs_one_connection() -> None:
    workload = Somebody()
    workload.failure = Unavailable(Reason.QUOTE_UNAVAILABLE, "the platform does not quote")

    async def main() -> None:
        server = endpoint(workload, server_side=True)
        one, other = tcp_pair()
        with pytest.raises(Unavailable):
            await server.secure(other, Terms.workload_to_relay(judges=False), None)
        assert other.fileno() == -1
        one.close()
        workload.failure = None
        async with hop(endpoint(None, server_side=False), server) as both:
            await complete(both)

    run(main())


# --- quotes


def test_a_slow_quote_delays_who_asked_for_it_and_nobody_else() -> None:
    workload = Somebody()

    async def main() -> None:
        ends = endpoint(Somebody(), server_side=False), endpoint(workload, server_side=True)
        async with hop(*ends) as slow:
            workload.may_quote.clear()
            waiting = asyncio.create_task(complete(slow))
            await until(lambda: bool(workload.asked))
            async with hop(*ends, level=BindingLevel.CERT) as quick:
                await complete(quick)
                await quick.client.stream.write(b"x")
                assert await quick.server.stream.read() == b"x"
            assert not waiting.done()
            workload.may_quote.set()
            await waiting

    run(main())


def test_one_more_than_may_wait_for_a_quote_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_WAITING_QUOTES", 2)
    workload = Somebody()
    workload.may_quote.clear()

    async def main() -> None:
        ends = endpoint(Somebody(), server_side=False), endpoint(workload, server_side=True)
        async with AsyncExitStack() as stack:
            first, second, third = [await stack.enter_async_context(hop(*ends)) for _ in range(3)]
            waiting = [asyncio.create_task(complete(ends)) for ends in (first, second)]
            server: Any = ends[1]
            await until(lambda: server._desk._queue.waiting == 2)
            at_client, at_server = await asyncio.gather(
                third.client.complete(), third.server.complete(), return_exceptions=True
            )
            assert reason_of(at_server) is Reason.OVERLOADED
            # The peer is told to try again, and not how busy this host is.
            assert reason_of(at_client) is Reason.WORKLOAD_UNAVAILABLE
            workload.may_quote.set()
            await asyncio.gather(*waiting)
            assert server._desk._queue.waiting == 0

    run(main())


def test_quotes_are_made_one_at_a_time_and_none_for_who_has_gone() -> None:
    workload = Somebody()
    workload.may_quote.clear()

    async def main() -> None:
        ends = endpoint(Somebody(), server_side=False), endpoint(workload, server_side=True)
        async with AsyncExitStack() as stack:
            first, second, third = [await stack.enter_async_context(hop(*ends)) for _ in range(3)]
            tasks = [asyncio.create_task(complete(ends)) for ends in (first, second, third)]
            server: Any = ends[1]
            await until(lambda: server._desk._queue.waiting == 3 and bool(workload.asked))
            assert len(workload.asked) == 1
            tasks[1].cancel()
            await asyncio.wait([tasks[1]])
            await until(lambda: server._desk._queue.waiting == 2)
            workload.may_quote.set()
            await asyncio.gather(tasks[0], tasks[2])

    run(main())
    assert len(workload.asked) == 2


def test_a_platform_that_does_not_quote_is_said_to_the_peer_by_its_class() -> None:
    broken = Somebody(quote=Unavailable(Reason.QUOTE_UNAVAILABLE, "the quoting enclave does not answer"))

    async def main() -> None:
        async with hop(endpoint(Somebody(), server_side=False), endpoint(broken, server_side=True)) as both:
            at_client, at_server = await asyncio.gather(
                both.client.complete(), both.server.complete(), return_exceptions=True
            )
            assert reason_of(at_server) is Reason.QUOTE_UNAVAILABLE
            assert reason_of(at_client) is Reason.WORKLOAD_UNAVAILABLE

    run(main())


def test_a_slow_renewal_delays_one_connection_and_the_others_show_what_is_still_valid() -> None:
    """A real identity: half of a certificate's life is over, and the platform takes its time over the next quote."""
    attester = SlowAttester(Platform.create(now=LAUNCHED).launch(*sample_enclave()))
    time = NOW
    identity = Identity(attester, clock=lambda: time)
    old = identity.credentials().certificate

    def clock() -> datetime:
        return time

    async def main() -> None:
        nonlocal time
        server = Endpoint(identity, server_side=True, clock=clock)
        client = Endpoint(None, server_side=False, clock=clock)
        time = NOW + CERTIFICATE_LIFETIME / 2 + timedelta(seconds=1)
        attester.may_quote.clear()
        one, other = tcp_pair()
        delayed = asyncio.gather(
            client.secure(one, Terms.relay_to_workload(), ACCEPTING),
            server.secure(other, Terms.workload_to_relay(judges=False), None),
        )
        await until(lambda: attester.asked == 2)
        async with hop(client, server) as quick:
            assert quick.client.stream.connection.peer_certificate == old
        assert not delayed.done()
        attester.may_quote.set()
        renewed, serving = await delayed
        assert renewed.stream.connection.peer_certificate == identity.credentials().certificate != old
        renewed.stream.abort()
        serving.stream.abort()

    run(main())


def test_renewal_drops_no_connection_and_makes_one_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty connections over two lives of a certificate and ten epochs; the first of them stays in use throughout."""
    attester = SlowAttester(Platform.create(now=LAUNCHED).launch(*sample_enclave()))
    time = NOW
    made: list[bytes | None] = []

    def counting(**options: Any) -> Any:
        if options["server_side"]:
            made.append(options["certificate"])
        return make_context(**options)

    monkeypatch.setattr(sessions, "make_context", counting)

    def clock() -> datetime:
        return time

    identity = Identity(attester, clock=clock, lifetime=timedelta(minutes=20))

    async def say(ends: Hop) -> None:
        await ends.client.stream.write(b"x")
        assert await ends.server.stream.read() == b"x"

    async def main() -> None:
        nonlocal time
        server = Endpoint(identity, server_side=True, clock=clock)
        client = Endpoint(None, server_side=False, clock=clock)
        async with hop(client, server, level=BindingLevel.SESSION) as first:
            await complete(first)
            for _ in range(20):
                time += timedelta(minutes=2)
                async with hop(client, server, level=BindingLevel.SESSION) as later:
                    await complete(later)
                    await say(later)
                await say(first)

    run(main())
    assert len(made) == len(set(made)) == 5
    # One quote a certificate, one an epoch: less than one a connection, however they fall.
    assert attester.asked <= 5 + 15
    assert identity.renewal_failures == 0


class SlowAttester:
    """A software TEE that quotes when it may."""

    name = "sgx_sim"
    tee = "sgx"

    def __init__(self, enclave: Enclave) -> None:
        self._enclave = enclave
        self.asked = 0
        self.may_quote = threading.Event()
        self.may_quote.set()

    def quote(self, report_data: bytes) -> bytes:
        self.asked += 1
        assert self.may_quote.wait(30)
        return self._enclave.quote(report_data)


# --- quotes at hand


class Computing(Somebody):
    """One whose quotes are but a computation."""

    def __init__(self, **quote: Any) -> None:
        super().__init__(**quote)
        self.is_immediate = True
        self.threads: set[str] = set()

    def quote(self, report_data: bytes) -> bytes | None:
        self.threads.add(threading.current_thread().name)
        return super().quote(report_data)


@pytest.mark.parametrize("failure", [None, Unavailable(Reason.QUOTE_UNAVAILABLE, "busy")])
def test_a_quote_that_is_but_a_computation_is_made_where_it_is_wanted(failure: Exception | None) -> None:
    """In no other thread, and in nobody's queue: one that is full keeps out who has to wait, and nobody else."""
    workload = Computing() if failure is None else Computing(quote=failure)

    async def main() -> None:
        full = QuoteQueue(most=0, most_per_address=0)
        served = Endpoint(workload, server_side=True, clock=lambda: NOW, quotes=full)
        ends = endpoint(Somebody(), server_side=False), served
        async with hop(*ends, level=BindingLevel.FRESH) as both:
            outcome = await asyncio.gather(both.client.complete(), both.server.complete(), return_exceptions=True)
            if failure is None:
                assert not any(outcome)
                assert both.server.shown_level is BindingLevel.FRESH
            else:
                reasons = [reason_of(error) for error in outcome]
                assert reasons == [Reason.WORKLOAD_UNAVAILABLE, Reason.QUOTE_UNAVAILABLE]

    run(main())
    assert workload.threads == {threading.current_thread().name}


def test_few_quotes_are_made_in_a_turn_of_the_event_loop_and_the_others_in_the_turns_that_follow() -> None:
    """A flood of questions holds nobody up for longer than those take, and those who wait have their limits."""
    most = sessions.QUOTES_IN_A_TURN

    async def main() -> None:
        workload, turn = Computing(), 0
        made: list[int] = []
        desk = sessions._Desk(workload, QuoteQueue(most=2 * most, most_per_address=2 * most))
        wanted = EvidenceWanted(claims=b"", level=BindingLevel.FRESH)

        def next_turn() -> None:
            nonlocal turn
            turn += 1
            asyncio.get_running_loop().call_soon(next_turn)

        async def ask() -> Answer | None:
            here = Origin("ipv4", "192.0.2.1")
            answer = desk.answer(wanted, role=Role.WORKLOAD, credentials=workload.current, origin=lambda: here)
            answer = answer if isinstance(answer, Answer) or answer is None else await answer
            made.append(turn)
            return answer

        next_turn()
        asking = [asyncio.create_task(ask()) for _ in range(3 * most + 1)]
        await asyncio.sleep(0)
        # Who has given up takes nobody's place.
        asking[most + 1].cancel()
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert [reason_of(one) for one in outcomes if isinstance(one, Unavailable)] == [Reason.OVERLOADED]
        assert isinstance(outcomes[-1], Unavailable)
        assert sum(isinstance(one, Answer) for one in outcomes) == len(made) == 3 * most - 1
        assert [made.count(number) for number in sorted(set(made))] == [most, most, most - 1]
        assert workload.threads == {threading.current_thread().name}

    run(main())


# --- level session


def test_one_quote_serves_many_sessions_each_with_a_signature_of_its_own() -> None:
    workload = Somebody()
    seen: list[EvidenceReceived] = []

    async def judge(shown: EvidenceReceived) -> Any:
        seen.append(shown)
        return await ACCEPTING(shown)

    async def main() -> None:
        ends = endpoint(Somebody(), server_side=False), endpoint(workload, server_side=True)
        for _ in range(3):
            async with hop(*ends, judge=judge, level=BindingLevel.SESSION) as both:
                await complete(both)
                assert both.client.stream.level is both.server.shown_level is BindingLevel.SESSION
                assert both.server.stream.level is both.client.shown_level is BindingLevel.NONE

    run(main())
    assert len(workload.asked) == 1
    assert len({(shown.evidence, shown.report_data, shown.level) for shown in seen}) == 1


def test_the_epoch_of_a_connection_is_of_its_own_tls_key_whatever_was_renewed_since() -> None:
    workload = Somebody()

    async def main() -> None:
        ends = endpoint(Somebody(), server_side=False), endpoint(workload, server_side=True)
        async with hop(*ends, level=BindingLevel.SESSION) as both:
            workload.current = Credentials.create()
            await complete(both)

    run(main())
    assert len(workload.epochs) == 1


def test_who_has_no_attester_has_no_epoch() -> None:
    async def main() -> None:
        ends = endpoint(Somebody(), server_side=False), endpoint(Somebody(quote=None), server_side=True)
        async with hop(*ends, judge=no_evidence, level=BindingLevel.SESSION) as both:
            outcome = await asyncio.gather(both.client.complete(), both.server.complete(), return_exceptions=True)
            assert [reason_of(error) for error in outcome] == [Reason.NO_EVIDENCE, Reason.PEER_REJECTED_US]
            assert both.server.shown_level is BindingLevel.NONE

    run(main())


async def no_evidence(shown: EvidenceReceived) -> Any:
    assert shown.evidence is None
    raise Rejection(Reason.NO_EVIDENCE, "none")


def test_what_is_over_is_over_by_the_clock_of_who_judges() -> None:
    async def main() -> None:
        asking = Endpoint(None, server_side=False, clock=lambda: NOW + timedelta(minutes=10))
        async with hop(asking, endpoint(Somebody(), server_side=True), level=BindingLevel.SESSION) as both:
            outcome = await asyncio.gather(both.client.complete(), both.server.complete(), return_exceptions=True)
            assert [reason_of(error) for error in outcome] == [Reason.EPOCH_NOT_CURRENT, Reason.PEER_REJECTED_US]

    run(main())


@pytest.mark.parametrize("level", [BindingLevel.CERT, BindingLevel.SESSION, BindingLevel.FRESH])
def test_what_an_identity_staples_reaches_the_verifier(level: BindingLevel) -> None:
    workload = Somebody()
    workload.stapled = b"collateral"
    verifier = Recorder()

    async def main() -> None:
        ends = endpoint(Somebody(), server_side=False), endpoint(workload, server_side=True)
        for judge in (judge_by(verifier, Role.WORKLOAD), judge_now_by(verifier, Role.WORKLOAD)):
            async with hop(*ends, judge=judge, level=level) as both:
                await complete(both)

    run(main())
    assert verifier.seen == [("async", level, b"collateral"), ("now", level, b"collateral")]


class Recorder:
    """A verifier that accepts, and remembers what it was given and how."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, BindingLevel, bytes | None]] = []

    async def judge_async(self, evidence: bytes | None, **given: Any) -> Any:
        return self._judge("async", evidence, **given)

    def judge_now(self, evidence: bytes | None, **given: Any) -> Any:
        return self._judge("now", evidence, **given)

    def _judge(self, how: str, evidence: bytes | None, *, role: Role, session: Any, stapled: bytes | None) -> Any:
        assert role is Role.WORKLOAD
        assert evidence == session.evidence
        self.seen.append((how, session.level, stapled))
        shown = EvidenceReceived(evidence=evidence, report_data=session.report_data, level=session.level)
        return Judgement(result=accepted(shown))


def test_a_verifier_that_still_fetches_is_said_to_the_peer_as_such() -> None:
    class Fetching(Recorder):
        def judge_now(self, *_: Any, **__: Any) -> Any:
            raise Unavailable(Reason.COLLATERAL_PENDING, "collateral is being fetched")

    async def main() -> None:
        ends = endpoint(Somebody(), server_side=False), endpoint(Somebody(), server_side=True)
        async with hop(*ends, judge=judge_now_by(Fetching(), Role.WORKLOAD)) as both:
            outcome = await asyncio.gather(both.client.complete(), both.server.complete(), return_exceptions=True)
            assert [reason_of(error) for error in outcome] == [Reason.COLLATERAL_PENDING] * 2
            assert all(isinstance(error, Unavailable) for error in outcome)

    run(main())


# --- kinds of peers


@pytest.mark.parametrize("workload", [Somebody(quote=None), None], ids=["no-attester", "no-identity"])
def test_who_has_no_evidence_says_so(workload: Somebody | None) -> None:
    """The judge hears of it, and not the exchange."""
    shown = []

    async def judge(received: Any) -> Any:
        shown.append(received)
        raise Rejection(Reason.NO_EVIDENCE, "none")

    async def main() -> None:
        ends = endpoint(workload, server_side=False), endpoint(Somebody(), server_side=True)
        async with hop(*ends, judge_of_clients=judge) as both:
            outcome = await asyncio.gather(both.client.complete(), both.server.complete(), return_exceptions=True)
            assert [reason_of(error) for error in outcome] == [Reason.PEER_REJECTED_US, Reason.NO_EVIDENCE]

    run(main())
    assert [received.evidence for received in shown] == [None]


def test_a_peer_of_2021_is_told_things_and_believed_nothing() -> None:
    async def main() -> None:
        one, other = tcp_pair()
        server = Endpoint(Somebody(), server_side=True, clock=lambda: NOW, alpn=None)
        client = Endpoint(None, server_side=False, clock=lambda: NOW, alpn=None)
        asking, answering = await asyncio.gather(client.secure_unattested(one), server.secure_unattested(other))
        await asking.write(b"x")
        assert await answering.read() == b"x"
        assert answering.judgement is None
        asking.abort()
        answering.abort()

    run(main())


def test_the_inner_session_is_judged_and_ends_with_its_channel() -> None:
    workload = Somebody()

    async def main() -> None:
        ends = endpoint(Somebody(), server_side=False), endpoint(workload, server_side=True)
        inside = Endpoint(workload, server_side=True, clock=lambda: NOW, alpn=ALPN_INNER)
        async with hop(*ends) as both:
            await complete(both)

            async def serve() -> None:
                attestation = await inside.secure_inside(both.server.stream, Terms.workload_to_shelter(), None)
                await attestation.complete()
                assert await attestation.stream.read() == b"hello"
                await attestation.stream.close()

            serving = asyncio.create_task(serve())
            stream = await enter_workload(both.client.stream, judge=ACCEPTING, clock=lambda: NOW)
            assert stream.level is BindingLevel.FRESH
            await stream.write(b"hello")
            assert await stream.read() == b""
            await stream.close()
            await serving
            link: Any = both.client.stream._link
            found: socket.socket = link.socket
            assert found.fileno() == -1

    run(main())
