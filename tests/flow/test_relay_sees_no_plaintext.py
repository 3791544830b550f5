"""A relay moves bytes it cannot read, and cannot change without being noticed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from eaa.errors import Reason
from support.flow import answer_of, evidence_of
from support.system import Running, Site, running

# What a relay moves comes out of `receive` of what `bulk` returns for a connection, and is written from that buffer.
# The first words of each side it `read`s. Only bytes that came too early would get past it, and would be missed: both
# directions have to begin with a handshake.
TAPPED: Final = """
import os, sys
from eaa.aio import relay
from eaa.aio.stream import AttestedStream

folder, flip, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
del sys.argv[1:4]
untapped, read = relay.bulk, AttestedStream.read
state = {"seen": 0, "flipped": False}

class Tap:
    def __init__(self, connection):
        self.direction = "to-workload" if connection._server_side else "to-shelter"

    def tap(self, data):
        if self.direction == flip and not state["flipped"] and state["seen"] + len(data) > at:
            place = at - state["seen"]
            data[place] ^= 1
            state["flipped"] = True
        if self.direction == flip:
            state["seen"] += len(data)
        with open(os.path.join(folder, self.direction), "ab") as file:
            file.write(data)

class Tapped(Tap):
    def __init__(self, connection):
        super().__init__(connection)
        self.way = untapped(connection)
        self.send, self.send_held = self.way.send, self.way.send_held

    def receive(self, buffer):
        count = self.way.receive(buffer)
        if isinstance(count, int):
            self.tap(buffer.view[:count])
        return count

async def tapped_read(stream, *size):
    data = bytearray(await read(stream, *size))
    Tap(stream.connection).tap(data)
    return bytes(data)

AttestedStream.read = tapped_read
relay.bulk = Tapped
from eaa.inclavared.cli import main
main()
"""

UP: Final = "to-workload"
DOWN: Final = "to-shelter"
HANDSHAKE_RECORD: Final = b"\x16\x03"
ALPN_INNER: Final = b"eaa/2-inner"


@contextmanager
def tapped_relay(site: Site, folder: Path, *, flip: str = "nowhere", at: int = 0) -> Iterator[Running]:
    """An Inclavared with everything it relays in files, and with one bit flipped on the way where that is wanted."""
    with site.workload() as workload:
        hops = ("--listen", "tcp://127.0.0.1:0", "--xfer", workload.address(), "--mutual")
        options = (*hops, *site.attested("relay"), *site.judging)
        with running(sys.executable, "-c", TAPPED, folder, flip, str(at), *options) as relay:
            yield relay


def test_a_relay_sees_no_plaintext(site: Site, tmp_path: Path) -> None:
    with tapped_relay(site, tmp_path) as relay:
        done = site.shelter(relay.address())
    assert done.code == 0, done
    up, down = (tmp_path / UP).read_bytes(), (tmp_path / DOWN).read_bytes()
    # The tap is where it should be: both directions begin with a TLS handshake, whose first message says the protocol.
    assert up.startswith(HANDSHAKE_RECORD)
    assert down.startswith(HANDSHAKE_RECORD)
    assert ALPN_INNER in up
    # A quote alone has more than four kilobytes.
    assert len(down) > 4096
    for secret in _what_was_said(site):
        assert secret not in up
        assert secret not in down


def _what_was_said(site: Site) -> list[bytes]:
    """Request, greeting, the messages of the exchange, and what identifies the workload, raw and as text."""
    sigstruct = (site.tee / "workload.sigstruct").read_bytes()
    root = site.root.read_bytes()
    said = [b"hello from shelter", b"Hello and welcome", b"eaa/2 attest", b"tls-exporter", b"pubkey-hash", b"nonce"]
    measured = [sigstruct[960:992], sigstruct[960:992].hex().encode(), sigstruct[128:160]]
    return [*said, *measured, root.splitlines()[1]]


@pytest.mark.parametrize(
    ("direction", "at"),
    [(UP, 60), (DOWN, 60), (DOWN, 1500), (UP, 600), (DOWN, -200)],
    ids=["client hello", "server hello", "evidence in the certificate", "client's last flight", "near the end"],
)
def test_a_relay_that_changes_a_bit_breaks_the_session(site: Site, tmp_path: Path, direction: str, at: int) -> None:
    if at < 0:
        at += _length_of_a_session(site, tmp_path, direction)
    with tapped_relay(site, tmp_path, flip=direction, at=at) as relay:
        address = relay.address()
        done = site.shelter(address, "--json")
        answer = answer_of(done)
        assert (done.code, answer["verdict"]) == (3, "unverifiable"), answer
        assert answer["reason"] in {Reason.TLS_HANDSHAKE, Reason.TLS_RECORD, Reason.PEER_CLOSED}
        assert evidence_of(answer, "relay")["verdict"] == "accepted"
        # One bit once: the next session of the same relay is whole again.
        assert site.shelter(address).code == 0


def _length_of_a_session(site: Site, folder: Path, direction: str) -> int:
    with tapped_relay(site, folder) as relay:
        assert site.shelter(relay.address()).code == 0
    length = (folder / direction).stat().st_size
    (folder / direction).unlink()
    return length
