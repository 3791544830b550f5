"""Every HTTP client that we name with every server that we name, both sides attested, good and bad.

One row is one client, one server and one kind of evidence: good on both sides; from an enclave that nobody expects; and
none at all. A bad row is tried in both directions, the server's evidence first and then the client's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from eaa.errors import Reason
from eaa.https import AttestedContext, client_context, refusal_of, server_context
from support.https_peers import ANSWER, CLIENTS, SERVERS, Served, serving
from support.https_world import identity, verifier

PROMPT = b"a prompt that is nobody else's business"
EVIDENCE = {
    "good-evidence": ("client", None),
    "refused-policy": ("impostor", Reason.MEASUREMENT_MISMATCH),
    "no-evidence": ("bare", Reason.NO_EVIDENCE),
}
"""Whose identity a bad side shows, and why it is refused."""

Start = Callable[[str, str], Served]


@functools.cache
def client_with(enclave: str) -> AttestedContext:
    return client_context(verifier(), identity=identity(enclave))


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Start a server once for all rows that need it."""
    with ExitStack() as running:

        @functools.cache
        def start(server: str, enclave: str) -> Served:
            return running.enter_context(serving(server, server_context(identity(enclave), verifier=verifier())))

        yield start


@pytest.mark.parametrize("evidence", EVIDENCE)
@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("client", CLIENTS)
def test_pair(client: str, server: str, evidence: str, start: Start) -> None:
    enclave, reason = EVIDENCE[evidence]
    good_server = start(server, "workload")
    heard = len(good_server.app.heard)
    if reason is None:
        assert CLIENTS[client](good_server.url, client_with(enclave), PROMPT) == ANSWER
        assert good_server.app.heard[heard:] == [PROMPT]
        return

    bad_server = start(server, enclave)
    with pytest.raises(Exception) as refused:  # noqa: PT011  each library has its own
        CLIENTS[client](bad_server.url, client_with("client"), PROMPT)
    refusal = refusal_of(refused.value)
    assert refusal is not None, refused.value
    assert refusal.reason is reason
    assert refusal.hint
    assert [check.reason for check in refusal.failed_checks] == [reason]
    assert bad_server.app.heard == []

    refusals = good_server.context.refusals[reason]
    with pytest.raises(Exception) as closed:  # noqa: PT011  each library has its own
        CLIENTS[client](good_server.url, client_with(enclave), PROMPT)
    assert good_server.context.refusals[reason] == refusals + 1
    assert good_server.app.heard[heard:] == []
    refusal = refusal_of(closed.value)
    assert refusal is not None
    assert refusal.reason is Reason.PEER_REJECTED_US
