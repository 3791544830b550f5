"""Attested TLS for other people's HTTP libraries: an `ssl.SSLContext` that judges evidence inside the handshake.

A context of `client_context` refuses a server before a byte of a request is sent, one of `server_context` a client
before the application hears of it. Clients: httpx, aiohttp, urllib3, requests, urllib. Servers: uvicorn, hypercorn,
aiohttp.web. The evidence is the one in the peer's certificate, so it is bound at level `cert`; `eaa.aio` does better
where both ends are ours. See docs/manual/https.md.

Importing this package runs a self-test of a few milliseconds, and raises Misuse, TLS_SELF_TEST_FAILED, where this
Python's `ssl` does not do what the package rests on.
"""

from eaa.https import selftest
from eaa.https.context import AttestedContext, client_context, server_context
from eaa.https.handshake import peer_of
from eaa.https.judging import Peer
from eaa.https.libraries import hypercorn_config, requests_adapter, uvicorn_context_factory
from eaa.https.refusal import AttestationFailed, refusal_of

__all__ = [
    "AttestationFailed",
    "AttestedContext",
    "Peer",
    "client_context",
    "hypercorn_config",
    "peer_of",
    "refusal_of",
    "requests_adapter",
    "server_context",
    "uvicorn_context_factory",
]

selftest.run()
