"""A peer that sends new keys without end: whoever reads them is kept busy, and has others to serve."""

from __future__ import annotations

import array
import contextlib
import fcntl
import socket
import termios
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from OpenSSL import SSL

from eaa.protocol.exchange import ALPN
from eaa.tls.bulk import Buffer, DirectBulk, PublicBulk
from eaa.tls.connection import MESSAGES_AT_ONCE, Connection, Want, make_context
from support.tls_records import Sender, note_secrets
from support.tls_world import NOW, server_identity

FLOOD = 1500
RECORD = 27
"""Bytes of a KeyUpdate."""


@dataclass(frozen=True, slots=True)
class Attacked:
    """A server on a socket, past its handshake, and a client that writes records by hand."""

    server: Connection
    ours: socket.socket
    theirs: socket.socket
    sender: Sender

    @property
    def unread(self) -> int:
        """Bytes that the system still keeps for the server."""
        size = array.array("i", [0])
        fcntl.ioctl(self.ours, termios.FIONREAD, size)
        return size[0]


@pytest.fixture
def attacked() -> Iterator[Attacked]:
    identity, context = server_identity(), SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_alpn_protos([ALPN])
    context.set_cipher_list(b"DEFAULT")
    secrets = note_secrets(context)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for sock in (ours, theirs):
            sock.settimeout(0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024 * 1024)
        serving = make_context(
            server_side=True, certificate=identity.certificate, private_key=identity.key, alpn=(ALPN,)
        )
        server = Connection(serving, server_side=True, alpn=(ALPN,), now=NOW, sock=ours)
        client = SSL.Connection(context, theirs)
        client.set_connect_state()
        for _ in range(8):
            with contextlib.suppress(SSL.WantReadError):
                client.do_handshake()
            server.handshake()
        assert client.get_cipher_name() == "TLS_AES_256_GCM_SHA384"
        yield Attacked(server, ours, theirs, Sender(secrets["CLIENT_TRAFFIC_SECRET_0"]))


Read = Callable[[], bytes | int | Want]


def by_the_exchange(attacked: Attacked) -> Read:
    return lambda: attacked.server.receive_control(100)


def by_the_pump(attacked: Attacked) -> Read:
    attacked.server.admit_unattested_peer()
    way, buffer = DirectBulk(attacked.server), Buffer()
    return lambda: got if isinstance(got := way.receive(buffer), Want) else bytes(buffer.view[:got])


def by_the_pump_without_ways_of_its_own(attacked: Attacked) -> Read:
    attacked.server.admit_unattested_peer()
    way, buffer = PublicBulk(attacked.server), Buffer()
    return lambda: got if isinstance(got := way.receive(buffer), Want) else bytes(buffer.view[:got])


WAYS = [by_the_exchange, by_the_pump, by_the_pump_without_ways_of_its_own]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_one_read_takes_few_of_them_and_what_is_behind_them_is_read_later(
    attacked: Attacked, way: Callable[[Attacked], Read]
) -> None:
    read = way(attacked)
    attacked.theirs.sendall(attacked.sender.key_updates(FLOOD) + attacked.sender.application(b"at last"))
    turns = 0
    while (got := read()) is Want.READ:
        taken, turns = FLOOD * RECORD - attacked.unread, turns + 1
        assert taken <= turns * (MESSAGES_AT_ONCE + 1) * RECORD
    assert got == b"at last"
    assert turns >= FLOOD // (MESSAGES_AT_ONCE + 1)
    assert attacked.unread == 0
    assert read() is Want.READ


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_few_are_no_reason_to_wait_for_what_is_there(attacked: Attacked, way: Callable[[Attacked], Read]) -> None:
    """A descriptor whose peer has reset it tells only once that there is something to read."""
    read = way(attacked)
    attacked.theirs.sendall(attacked.sender.key_updates(MESSAGES_AT_ONCE // 2) + attacked.sender.application(b"data"))
    assert read() == b"data"
