"""Servers whose PCCS is down when they start: whoever comes is told to come again, and once it is up, he is served.

Real processes, none of which is ever restarted.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from eaa.errors import Reason
from support.flow import answer_of, filled_pccs, free_port
from support.system import READY_TIMEOUT, Running, Site, running


def has_tried_in_vain(server: Running) -> None:
    """Wait until a server's own first attempt has failed: whoever comes earlier is not told yet what is missing."""
    server.wait_for(rf"\[{Reason.PCCS_UNREACHABLE}\]$")


def answer_in_the_end(site: Site, node: str, *options: str) -> dict[str, Any]:
    """The answer to a client that comes again as long as it is told to.

    What was tried a moment ago is not tried again for whoever asks: one who comes in that moment has come too early.
    """
    told_to_come_again = {Reason.COLLATERAL_PENDING, Reason.WORKLOAD_UNAVAILABLE}
    end = time.monotonic() + READY_TIMEOUT
    while (answer := answer_of(site.shelter(node, "--json", *options)))["reason"] in told_to_come_again:
        assert time.monotonic() < end, answer
    return answer


def test_a_relay_judges_its_clients_as_soon_as_its_pccs_is_there(site: Site, tmp_path: Path) -> None:
    port = free_port()
    trusting = ("--trust-anchor", str(site.root), "--reference-values", str(site.values))
    client = ("--mutual", *site.attested("client"))
    command = ("--mutual", "--attest-clients", *site.attested("relay"), *trusting, "--pccs", f"http://127.0.0.1:{port}")
    with site.workload() as workload:
        hops = ("inclavared", "--listen", "tcp://127.0.0.1:0", "--xfer", workload.address())
        with running(*hops, *command) as relay:
            address = relay.address()
            has_tried_in_vain(relay)
            early = site.shelter(address, "--json", *client)
            answer = answer_of(early)
            assert (early.code, answer["reason"]) == (4, Reason.COLLATERAL_PENDING), early
            assert "again" in answer["hint"]
            # Its operator reads what is missing, and why.
            said = relay.wait_for(rf"PCCS_UNREACHABLE.*\[{Reason.COLLATERAL_PENDING}\]")
            assert str(port) in said.string
            with filled_pccs(site, tmp_path, port=port):
                assert answer_in_the_end(site, address, *client)["verdict"] == "accepted"


def test_a_workload_judges_its_relays_as_soon_as_its_pccs_is_there(site: Site, tmp_path: Path) -> None:
    port = free_port()
    trusting = ("--trust-anchor", str(site.root), "--reference-values", str(site.values))
    listen = ("enclave-tls-server", "--listen", "tcp://127.0.0.1:0", "--mutual", *site.attested("workload"))
    with (
        running(*listen, *trusting, "--pccs", f"http://127.0.0.1:{port}") as workload,
        site.relay(workload.address()) as relay,
    ):
        address = relay.address()
        has_tried_in_vain(workload)
        early = answer_of(site.shelter(address, "--json"))
        assert early["verdict"] == "unavailable"
        relay.wait_for(Reason.COLLATERAL_PENDING.value)
        workload.wait_for(rf"PCCS_UNREACHABLE.*\[{Reason.COLLATERAL_PENDING}\]")
        with filled_pccs(site, tmp_path, port=port):
            assert answer_in_the_end(site, address)["verdict"] == "accepted"


def test_where_a_pccs_is_there_from_the_beginning_nobody_notices_anything(site: Site, tmp_path: Path) -> None:
    """A server fetches for its own platform's model before it is asked."""
    trusting = ("--trust-anchor", str(site.root), "--reference-values", str(site.values))
    listen = ("--listen", "tcp://127.0.0.1:0", "--mutual")
    with (
        contextlib.ExitStack() as stack,
        filled_pccs(site, tmp_path) as url,
        running("enclave-tls-server", *listen, *site.attested("workload"), *trusting, "--pccs", url) as workload,
    ):
        # Nobody has asked yet: no relay is there.
        to = ("--xfer", workload.address())
        workload.wait_for("the collateral of .* is here")
        relay = stack.enter_context(
            running("inclavared", *listen, *to, *site.attested("relay"), *trusting, "--pccs", url)
        )
        address = relay.address()
        assert site.shelter(address).code == 0
        assert not any(Reason.COLLATERAL_PENDING in line for line in (*workload.lines, *relay.lines))
