"""A relay does no work for a client that has left: the channel that it was opening is given up at once."""

from __future__ import annotations

import socket

import pytest

from eaa.errors import Reason
from eaa.protocol import messages
from support.aio_world import PATIENCE
from support.peers import TLSSession, Wire, observed
from support.system import Site


@pytest.mark.parametrize("goodbye", ["close_notify", "nothing", "reset"])
def test_a_client_that_leaves_takes_the_opening_of_its_channel_with_it(site: Site, goodbye: str) -> None:
    """The workload takes the connection and says nothing, so that the channel would be waited for for long."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        at = f"127.0.0.1:{silent.getsockname()[1]}"
        # The channel shall be this client's and not one kept ready.
        hops = ("--listen", "127.0.0.1:0", "--xfer", at, "--mutual", "--warm-channels", "0")
        with observed("inclavared", *hops, *site.attested("relay"), *site.judging) as relay:
            wire = Wire.to(relay.address)
            session = TLSSession(wire).handshake()
            session.say(messages.Open(workload="default"))
            channel = silent.accept()[0]
            channel.settimeout(PATIENCE)
            if goodbye == "close_notify":
                session.goodbye()
            if goodbye == "reset":
                wire.reset()
            else:
                wire.close()
            # The relay hangs up on the workload as well, long before its timeouts.
            while channel.recv(4096):
                pass
            channel.close()
            assert relay.reason(wire.name) is Reason.PEER_CLOSED
            assert not relay.troubles
