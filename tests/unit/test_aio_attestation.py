"""The exchange on a stream: the gate opens for exactly what was accepted, and every other end is told to both sides."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from eaa.aio import attestation, stream
from eaa.aio.attestation import Answer, Attestation, Judge
from eaa.appraise.result import Accepted, BindingLevel, Rejected
from eaa.errors import EAAError, MalformedInput, Misuse, Reason, Rejection, Unavailable, VerificationError
from eaa.protocol.exchange import EvidenceReceived, EvidenceWanted, Terms
from eaa.protocol.messages import Attest, Evidence, FrameReader
from support.aio_world import PATIENCE, is_waiting, run, socket_of, tcp_pair, until
from support.hop_world import ACCEPTING, QUOTE, Hop, Somebody, accepted, endpoint, hop, judge_that, rejected

Outcome = tuple[object, object]


async def both(ends: Hop) -> Outcome:
    """What became of the client and of the server."""
    client, server = await asyncio.gather(ends.client.complete(), ends.server.complete(), return_exceptions=True)
    return client, server


async def client_and_relay() -> tuple[Attestation, Attestation]:
    """Two that judge nobody, after their handshake."""
    one, other = tcp_pair()
    client, relay = await asyncio.gather(
        endpoint(None, server_side=False).secure(one, Terms.shelter_to_relay(judges=False), None),
        endpoint(Somebody(), server_side=True).secure(other, Terms.relay_to_shelter(judges=False), None),
    )
    return client, relay


def reasons(outcome: Outcome) -> tuple[Reason | None, ...]:
    return tuple(error.reason if isinstance(error, EAAError) else None for error in outcome)


def judged(judge: Judge, **options: Any) -> Outcome:
    """A channel between a relay that judges so and a good workload."""

    async def main() -> Outcome:
        ends = endpoint(Somebody(), server_side=False), endpoint(Somebody(), server_side=True)
        async with hop(*ends, judge=judge, **options) as made:
            outcome = await both(made)
            if outcome != (None, None):
                for end in (made.client, made.server):
                    with pytest.raises(EAAError):
                        await end.stream.write(b"application")
            return outcome

    return run(main())


def test_the_gate_opens_for_what_was_accepted() -> None:
    async def main() -> None:
        ends = endpoint(Somebody(), server_side=False), endpoint(Somebody(), server_side=True, demand=True)
        async with hop(*ends, judge_of_clients=ACCEPTING) as made:
            assert await both(made) == (None, None)
            for end in (made.client, made.server):
                judgement = end.stream.judgement
                assert judgement is not None
                assert isinstance(judgement.result, Accepted)
                assert end.stream.level is BindingLevel.FRESH
            await made.server.stream.write(b"x")
            assert await made.client.stream.read() == b"x"

    run(main())


def test_a_rejection_carries_the_judgement_and_the_peer_hears_its_class() -> None:
    client, server = judged(judge_that(rejected))
    assert isinstance(client, Rejection)
    assert client.reason is Reason.MEASUREMENT_MISMATCH
    assert client.hint == "look at the test"
    judgement: Any = client.result
    assert isinstance(judgement.result, Rejected)
    assert isinstance(server, Rejection)
    assert server.reason is Reason.PEER_REJECTED_US
    assert "(policy)" in server.message
    assert "another" not in server.message


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MalformedInput(Reason.QUOTE_MALFORMED, "no quote"), "(malformed)"),
        (VerificationError(Reason.QUOTE_SIGNATURE, "forged"), "(unverifiable)"),
        (Rejection(Reason.NO_EVIDENCE, "none"), "(no-evidence)"),
        (Unavailable(Reason.PCCS_UNREACHABLE, "no PCCS"), "cannot serve this side now"),
    ],
)
def test_whatever_a_judge_raises_is_raised_here_and_told_there_by_its_class(error: EAAError, told: str) -> None:
    def judge(_: EvidenceReceived) -> Accepted:
        raise error

    client, server = judged(judge_that(judge))
    assert client is error
    assert isinstance(server, EAAError)
    assert told in server.message


@pytest.mark.parametrize(
    "changes",
    [
        {"evidence_digest": bytes(32)},
        {"report_data": bytes(64)},
        {"binding": BindingLevel.NONE},
    ],
    ids=["of-other-evidence", "of-another-session", "of-a-document"],
)
def test_an_acceptance_of_something_else_opens_nothing(changes: dict[str, object]) -> None:
    """A judge that mixes up its answers: the connection itself refuses."""
    client, server = judged(judge_that(lambda shown: accepted(shown, **changes)))
    assert isinstance(client, Misuse)
    assert client.reason is Reason.RESULT_FOR_OTHER_EVIDENCE
    assert isinstance(server, EAAError)


def test_a_bug_in_a_judge_is_no_acceptance() -> None:
    def judge(_: EvidenceReceived) -> Accepted:
        raise ZeroDivisionError

    async def main() -> None:
        ends = endpoint(Somebody(), server_side=False), endpoint(Somebody(), server_side=True)
        async with hop(*ends, judge=judge_that(judge)) as made:
            serving = asyncio.create_task(made.server.complete())
            with pytest.raises(ZeroDivisionError):
                await made.client.complete()
            with pytest.raises(EAAError):
                await made.client.stream.read()
            made.client.stream.abort()
            await asyncio.wait([serving])
            assert isinstance(serving.exception(), EAAError)

    run(main())


def test_where_the_operator_wants_no_judgement_everything_is_waved_through() -> None:
    async def main() -> None:
        ends = endpoint(Somebody(quote=None), server_side=False), endpoint(Somebody(), server_side=True)
        one, other = tcp_pair()
        client, server = await asyncio.gather(
            ends[0].secure(one, Terms.relay_to_workload(), None),
            ends[1].secure(other, Terms.workload_to_relay(judges=True), None),
        )
        await asyncio.gather(client.complete(), server.complete())
        assert client.stream.judgement is server.stream.judgement is None
        assert client.stream.level is BindingLevel.NONE
        await client.stream.write(b"x")
        assert await server.stream.read() == b"x"
        client.stream.abort()
        server.stream.abort()

    run(main())


def test_evidence_of_the_certificate_is_no_quote_of_the_moment() -> None:
    """At level cert nothing is quoted: what the certificate carries is the answer."""
    workload = Somebody(quote=b"never asked for")
    seen: list[EvidenceReceived] = []

    def judge(shown: EvidenceReceived) -> Accepted:
        seen.append(shown)
        return accepted(shown)

    async def main() -> None:
        ends = endpoint(Somebody(), server_side=False), endpoint(workload, server_side=True)
        async with hop(*ends, judge=judge_that(judge), level=BindingLevel.CERT) as made:
            assert await both(made) == (None, None)

    run(main())
    assert workload.asked == []
    assert [(shown.evidence, shown.level) for shown in seen] == [(QUOTE, BindingLevel.CERT)]


# --- peers that stall or leave


def test_a_peer_that_never_answers_is_given_up_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attestation, "EXCHANGE_TIMEOUT", 0.05)
    monkeypatch.setattr(stream, "PARTING_TIMEOUT", 0.05)

    async def main() -> None:
        ends = endpoint(Somebody(), server_side=False), endpoint(Somebody(), server_side=True)
        async with hop(*ends) as made:
            with pytest.raises(EAAError) as caught:
                await made.client.complete()
            assert caught.value.reason is Reason.PEER_TIMEOUT
            assert socket_of(made.client.stream).fileno() == -1
            # The other end is given all the time it needs.
            monkeypatch.setattr(attestation, "EXCHANGE_TIMEOUT", PATIENCE)
            with pytest.raises(EAAError) as heard:
                await made.server.complete()
            assert heard.value.reason is Reason.PEER_REJECTED_US

    run(main())


def test_a_client_that_takes_nothing_does_not_hold_its_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the message that its channel is open."""

    async def main() -> None:
        client, relay = await client_and_relay()
        client._exchange.open("default")
        await client._flush()
        assert await relay.wait_for_open() == "default"
        sending: Any = relay.stream
        sending._send_control = lambda _: asyncio.Event().wait()
        monkeypatch.setattr(attestation, "EXCHANGE_TIMEOUT", 0.05)
        with pytest.raises(EAAError) as caught:
            await relay.opened()
        assert caught.value.reason is Reason.PEER_TIMEOUT
        client.stream.abort()
        relay.stream.abort()

    run(main())


def test_a_peer_that_leaves_in_the_middle() -> None:
    async def main() -> None:
        ends = endpoint(Somebody(), server_side=False), endpoint(Somebody(), server_side=True)
        async with hop(*ends) as made:
            waiting = asyncio.create_task(made.client.complete())
            await until(lambda: not made.client._exchange.data_to_send())
            made.server.stream.abort()
            await asyncio.wait([waiting])
            error = waiting.exception()
            assert isinstance(error, EAAError)
            assert error.reason is Reason.PEER_CLOSED

    run(main())


def test_an_exchange_that_is_given_up_opens_nothing() -> None:
    async def main() -> None:
        workload = Somebody()
        workload.may_quote.clear()
        ends = endpoint(Somebody(), server_side=False), endpoint(workload, server_side=True)
        async with hop(*ends) as made:
            tasks = [asyncio.create_task(end.complete()) for end in (made.client, made.server)]
            await until(lambda: bool(workload.asked))
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for end in (made.client, made.server):
                with pytest.raises(Misuse) as caught:
                    await end.stream.read()
                assert caught.value.reason is Reason.GATE_CLOSED
            workload.may_quote.set()

    run(main())


def test_a_refused_peer_hears_the_class_whatever_it_has_sent_on() -> None:
    """Whoever pipelines is refused while its bytes are on their way; what it is told must not be lost to a reset."""

    async def main() -> None:
        client, relay = await client_and_relay()
        client._exchange.open("nowhere", early=bytes(30_000))
        await client._flush()
        assert await relay.wait_for_open() == "nowhere"
        error = Unavailable(Reason.WORKLOAD_UNAVAILABLE, "there is no such workload")
        refusing = asyncio.create_task(relay.reject(error))
        with pytest.raises(Unavailable) as caught:
            await client._run_until(lambda: client._exchange.finished)
        assert caught.value.reason is Reason.WORKLOAD_UNAVAILABLE
        await refusing

    run(main())


# --- who begins


async def listening_relay(level: BindingLevel, attester: Somebody | None = None) -> tuple[Attestation, Attestation]:
    """A relay's end that does nothing by itself, and a workload that judges it."""
    one, other = tcp_pair()
    relay, workload = await asyncio.gather(
        endpoint(Somebody(), server_side=False).secure(one, Terms.relay_to_workload(level=level), ACCEPTING),
        endpoint(attester or Somebody(), server_side=True, demand=True).secure(
            other, Terms.workload_to_relay(judges=True, level=level), ACCEPTING
        ),
    )
    return relay, workload


@pytest.mark.parametrize("level", [BindingLevel.CERT, BindingLevel.SESSION])
def test_a_workload_answers_and_asks_in_one_piece(level: BindingLevel) -> None:
    """One write less for each channel, and nobody waits: nothing has to be made for the answer."""

    async def main() -> None:
        relay, workload = await listening_relay(level)
        serving = asyncio.create_task(workload.complete())
        await relay._flush()
        first = await relay.stream._receive_control(64 * 1024)
        assert [type(message) for message in FrameReader().feed(first)] == [Attest, Evidence]
        relay.stream.abort()
        await asyncio.wait([serving])
        assert isinstance(serving.exception(), EAAError)
        workload.stream.abort()

    run(main())


@pytest.mark.parametrize("quick", [True, False])
def test_a_workload_that_waits_for_its_quote_asks_meanwhile(quick: bool) -> None:  # noqa: FBT001
    """At level fresh both ends quote, and at the same time. A quote that is there at once goes with the question."""

    async def main() -> None:
        attester = Somebody()
        if not quick:
            attester.may_quote.clear()
        relay, workload = await listening_relay(BindingLevel.FRESH, attester)
        if quick:
            workload._hop = replace(workload._hop, quoter=at_once)
        serving = asyncio.create_task(workload.complete())
        await relay._flush()
        first = await relay.stream._receive_control(64 * 1024)
        assert [type(message) for message in FrameReader().feed(first)] == [Attest, Evidence][: 2 if quick else 1]
        attester.may_quote.set()
        relay.stream.abort()
        await asyncio.wait([serving])
        assert isinstance(serving.exception(), EAAError)
        workload.stream.abort()

    run(main())


async def at_once(_: EvidenceWanted) -> Answer:
    return Answer(quote=QUOTE)


def test_a_relay_that_waits_to_be_asked_is_asked() -> None:
    async def main() -> None:
        relay, workload = await listening_relay(BindingLevel.SESSION)
        serving = asyncio.create_task(workload.complete())
        asked = await relay.stream._receive_control(64 * 1024)
        assert [type(message) for message in FrameReader().feed(asked)] == [Attest]
        relay.stream.abort()
        await asyncio.wait([serving])
        assert isinstance(serving.exception(), EAAError)
        workload.stream.abort()

    run(main())


# --- relays that judge their clients


def opening(judge_of_clients: Judge, client_judge: Judge = ACCEPTING, **client: Any) -> tuple[object, object]:
    async def main() -> tuple[object, object]:
        one, other = tcp_pair()
        asking, relay = await asyncio.gather(
            endpoint(Somebody(**client), server_side=False).secure(
                one, Terms.shelter_to_relay(judges=True), client_judge
            ),
            endpoint(Somebody(), server_side=True, demand=True).secure(
                other, Terms.relay_to_shelter(judges=True), judge_of_clients
            ),
        )

        async def serve() -> str:
            name = await relay.wait_for_open()
            await relay.opened()
            return name

        outcome = await asyncio.gather(asking.open("default"), serve(), return_exceptions=True)
        asking.stream.abort()
        relay.stream.abort()
        return outcome[0], outcome[1]

    return run(main())


def test_a_judging_relay_opens_after_its_verdict() -> None:
    assert opening(ACCEPTING) == (None, "default")


def test_a_judging_relay_s_no_reaches_the_client_instead_of_a_channel() -> None:
    assert reasons(opening(judge_that(rejected))) == (Reason.PEER_REJECTED_US, Reason.MEASUREMENT_MISMATCH)


@pytest.mark.parametrize("judge", [ACCEPTING, judge_that(rejected)], ids=["relay-accepts", "relay-rejects"])
def test_a_client_that_refuses_its_relay_asks_for_nothing(judge: Judge) -> None:
    client, relay = opening(judge, judge_that(rejected))
    assert isinstance(client, Rejection)
    assert client.reason in (Reason.MEASUREMENT_MISMATCH, Reason.PEER_REJECTED_US)
    assert isinstance(relay, EAAError)


@pytest.mark.parametrize("goodbye", ["close", "abort"])
def test_a_client_that_leaves_while_its_channel_opens_is_noticed_at_once(goodbye: str) -> None:
    async def main() -> None:
        asking, relay = await client_and_relay()
        asking._exchange.open("default")
        await asking._flush()
        assert await relay.wait_for_open() == "default"
        given_up = asyncio.Event()

        async def never() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                given_up.set()

        opening = asyncio.create_task(relay.until_open(never()))
        await until(lambda: is_waiting(relay.stream))
        if goodbye == "close":
            await asking.stream.close()
        else:
            asking.stream.abort()
        with pytest.raises(EAAError) as caught:
            await opening
        assert caught.value.reason is Reason.PEER_CLOSED
        assert given_up.is_set()
        relay.stream.abort()

    run(main())


def test_what_a_client_sends_while_its_channel_opens_is_kept_within_bounds_and_in_order() -> None:
    async def main() -> None:
        asking, relay = await client_and_relay()
        asking._exchange.open("default", early=b"first ")
        await asking._flush()
        assert await relay.wait_for_open() == "default"
        may_open = asyncio.Event()

        async def channel() -> str:
            await may_open.wait()
            return "channel"

        opening = asyncio.create_task(relay.until_open(channel()))
        await asking.stream._send_control(b"second ")
        await until(lambda: bytes(relay._exchange._leftover) == b"first second ")
        may_open.set()
        assert await opening == "channel"
        await relay.opened()
        await asking.stream._send_control(b"third")
        received = b""
        while not received.endswith(b"third"):
            received += await relay.stream.read()
        assert received == b"first second third"
        again = asyncio.create_task(relay.until_open(channel()))
        assert await again == "channel"
        asking.stream.abort()
        relay.stream.abort()

    run(main())


def test_a_channel_that_cannot_be_opened_is_what_the_relay_hears() -> None:
    async def main() -> None:
        asking, relay = await client_and_relay()
        asking._exchange.open("default")
        await asking._flush()
        assert await relay.wait_for_open() == "default"

        async def broken() -> None:
            raise Unavailable(Reason.WORKLOAD_UNAVAILABLE, "nobody is there")

        with pytest.raises(Unavailable):
            await relay.until_open(broken())
        asking.stream.abort()
        relay.stream.abort()

    run(main())


def test_a_client_may_judge_and_ask_for_nothing() -> None:
    async def main() -> None:
        one, other = tcp_pair()
        asking, relay = await asyncio.gather(
            endpoint(None, server_side=False).secure(one, Terms.shelter_to_relay(judges=True), ACCEPTING),
            endpoint(Somebody(), server_side=True).secure(other, Terms.relay_to_shelter(judges=False), None),
        )
        serving = asyncio.create_task(relay.wait_for_open())
        await asking.judge_only()
        assert asking.stream.judgement is not None
        await asking.stream.close()
        await asyncio.wait([serving])
        error = serving.exception()
        assert isinstance(error, EAAError)
        assert error.reason is Reason.PEER_CLOSED
        relay.stream.abort()

    run(main())
