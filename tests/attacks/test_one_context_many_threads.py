"""Two peers whose handshakes go on at once, in two threads on one context: neither certificate stands for the other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from eaa.protocol.exchange import ALPN
from eaa.tls.connection import Connection, Want, make_context
from support.tls_world import NOW, Identity, make_identity, server_identity

THREADS = 4
HANDSHAKES = 60


def handshake(client: Connection, server: Connection) -> None:
    done = False
    while not done:
        done = all([client.handshake() is Want.NOTHING, server.handshake() is Want.NOTHING])
        for source, sink in ((client, server), (server, client)):
            if data := source.take():
                sink.feed(data)


@pytest.mark.parametrize("alpn", [(), (ALPN,)], ids=["older peers", "our own"])
def test_each_connection_has_the_certificate_of_its_own_peer(alpn: tuple[bytes, ...]) -> None:
    """OpenSSL runs without Python's lock, and asks about a certificate in the middle of that."""
    shared = make_context(
        server_side=True,
        certificate=server_identity().certificate,
        private_key=server_identity().key,
        alpn=alpn,
        demand_client_certificate=True,
    )
    together = Barrier(THREADS)

    def come_again_and_again(peer: Identity) -> list[bytes | None]:
        context = make_context(server_side=False, certificate=peer.certificate, private_key=peer.key, alpn=alpn)
        found = []
        together.wait()
        for _ in range(HANDSHAKES):
            server = Connection(shared, server_side=True, alpn=alpn, now=NOW)
            handshake(Connection(context, server_side=False, alpn=alpn, now=NOW), server)
            found.append(server.peer_spki)
        return found

    peers = [make_identity() for _ in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        for peer, found in zip(peers, pool.map(come_again_and_again, peers), strict=True):
            assert set(found) == {peer.spki}
