"""What endpoints count: handshakes by their end, verdicts by reason, and who was kept out by what."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from eaa.aio.counters import ACCEPTED, COMPLETED, COUNTERS, Layer, Limit, Side
from eaa.aio.limits import QuoteQueue
from eaa.aio.sessions import Endpoint, judge_by, judge_now_by
from eaa.appraise.result import BindingLevel, Role
from eaa.errors import EAAError, PeerMisbehaved, Reason, Unavailable
from eaa.protocol.exchange import EvidenceReceived, Terms
from support.aio_world import run, tcp_pair, until
from support.hop_world import Hop, Judgement, Somebody, accepted, endpoint, hop
from support.tls_world import NOW


async def complete(ends: Hop) -> list[Any]:
    return list(await asyncio.gather(ends.client.complete(), ends.server.complete(), return_exceptions=True))


def reasons(outcomes: list[Any]) -> list[Reason | None]:
    return [outcome.reason if isinstance(outcome, EAAError) else None for outcome in outcomes]


def test_a_handshake_counts_at_both_ends_by_how_it_ended() -> None:
    before = COUNTERS.handshakes.copy()

    async def main() -> None:
        async with hop(endpoint(None, server_side=False), endpoint(Somebody(), server_side=True)):
            pass
        one, other = tcp_pair()
        one.close()
        with pytest.raises(PeerMisbehaved) as caught:
            await endpoint(Somebody(), server_side=True).secure(other, Terms.workload_to_relay(judges=False), None)
        assert caught.value.reason is Reason.PEER_CLOSED

    run(main())
    assert COUNTERS.handshakes - before == {
        (Side.ACCEPTING, Layer.OUTER, COMPLETED): 1,
        (Side.CONNECTING, Layer.OUTER, COMPLETED): 1,
        (Side.ACCEPTING, Layer.OUTER, Reason.PEER_CLOSED): 1,
    }


def test_a_bug_of_ours_counts_as_one() -> None:
    before = COUNTERS.handshakes.copy()
    with pytest.raises(ZeroDivisionError), COUNTERS.handshake(Side.ACCEPTING, Layer.INNER):
        raise ZeroDivisionError
    with pytest.raises(asyncio.CancelledError), COUNTERS.handshake(Side.ACCEPTING, Layer.INNER):
        raise asyncio.CancelledError
    assert COUNTERS.handshakes - before == {(Side.ACCEPTING, Layer.INNER, Reason.INTERNAL): 1}


@pytest.mark.parametrize("judge_of", [judge_by, judge_now_by])
def test_a_verdict_counts_by_role_and_reason(judge_of: Any) -> None:
    shown = EvidenceReceived(evidence=b"e", report_data=bytes(64), level=BindingLevel.FRESH)

    class Verifier:
        failure: EAAError | None = None

        async def judge_async(self, *args: Any, **kwargs: Any) -> Any:
            return self.judge_now(*args, **kwargs)

        def judge_now(self, *_: Any, **__: Any) -> Any:
            if self.failure:
                raise self.failure
            return Judgement(result=accepted(shown))

    verifier = Verifier()
    before = COUNTERS.verdicts.copy()
    asyncio.run(judge_of(verifier, Role.RELAY)(shown))
    assert COUNTERS.accepted_at[Role.RELAY] > 0
    verifier.failure = Unavailable(Reason.COLLATERAL_PENDING, "not here")
    with pytest.raises(Unavailable):
        asyncio.run(judge_of(verifier, Role.RELAY)(shown))
    assert COUNTERS.verdicts - before == {(Role.RELAY, ACCEPTED): 1, (Role.RELAY, Reason.COLLATERAL_PENDING): 1}


def test_endpoints_of_one_service_share_the_queue_for_quotes() -> None:
    """Whichever of its doors a peer comes by, the platform makes one quote at a time."""
    queue = QuoteQueue(most=2, most_per_address=1)
    busy = Somebody()
    busy.may_quote.clear()
    before = COUNTERS.refused[Limit.QUOTES_PER_ADDRESS]

    def door() -> Endpoint:
        return Endpoint(busy, server_side=True, clock=lambda: NOW, quotes=queue)

    async def main() -> None:
        client = endpoint(Somebody(), server_side=False)
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(hop(client, door()))
            second = await stack.enter_async_context(hop(client, door()))
            waiting = asyncio.create_task(complete(first))
            await until(lambda: queue.waiting == 1)
            # From the same address, over another door, and answered at once.
            assert reasons(await complete(second)) == [Reason.WORKLOAD_UNAVAILABLE, Reason.OVERLOADED]
            busy.may_quote.set()
            assert reasons(await waiting) == [None, None]

    run(main())
    assert COUNTERS.refused[Limit.QUOTES_PER_ADDRESS] == before + 1


def test_a_peer_that_sends_more_than_it_may_before_its_session_begins() -> None:
    before = COUNTERS.refused[Limit.REQUEST]

    async def main() -> None:
        server = Endpoint(Somebody(), server_side=True, clock=lambda: NOW, max_request=50)
        async with hop(endpoint(Somebody(), server_side=False), server) as both:
            assert reasons(await complete(both))[1] is Reason.MESSAGE_TOO_LARGE

    run(main())
    assert COUNTERS.refused[Limit.REQUEST] == before + 1
