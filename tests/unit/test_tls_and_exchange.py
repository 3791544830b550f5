"""The exchange on real TLS: every hop over both forms, and a relay in the middle that is caught by the exporter."""

from __future__ import annotations

import os

import pytest

from eaa.errors import Reason, VerificationError
from eaa.protocol.exchange import Ending, Exchange, Session, Terms
from eaa.tls.connection import Connection
from support.exchange_world import HOPS, End
from support.tls_world import FORMS, NOW, Form, Identity, Wire, client_identity, make_identity, server_identity, wire


def exchange_on(connection: Connection, terms: Terms) -> Exchange:
    session = Session(exporter=connection.exporter(), own_spki=connection.own_spki, peer_spki=connection.peer_spki)
    return Exchange(session=session, terms=terms, nonce=os.urandom(32), now=NOW)


def converse(pair: Wire, client: End, server: End) -> None:
    """Carry messages over TLS, each end reading only as much as its exchange wants."""
    for _ in range(8):
        for end, connection in ((client, pair.client), (server, pair.server)):
            data = end.exchange.data_to_send()
            while data:
                sent = connection.send_control(data)
                assert isinstance(sent, int)
                data = data[sent:]
            pair.carry()
            while end.exchange.wanted and isinstance(got := connection.receive_control(end.exchange.wanted), bytes):
                end.receive(got)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("identity", [None, client_identity()], ids=["anonymous", "with a certificate"])
@pytest.mark.parametrize("hop", HOPS)
def test_a_hop_over_tls(form: Form, hop: str, identity: Identity | None) -> None:
    ends = HOPS[hop]
    if ends.server.judges and identity is None:
        identity = client_identity()
    with wire(form, client=identity, demand=ends.server.judges) as pair:
        pair.handshake()
        client = End(exchange_on(pair.client, ends.client))
        server = End(exchange_on(pair.server, ends.server))
        converse(pair, client, server)
        if ends.client.ending is Ending.OPEN:
            client.exchange.open("workload")
            converse(pair, client, server)
        assert client.exchange.finished
        assert server.exchange.finished


@pytest.mark.parametrize("form", FORMS)
def test_a_man_in_the_middle_with_the_workload_s_own_key_is_caught(form: Form) -> None:
    """He ends both sessions with leaked keys and passes every message on: only the exporters differ."""
    ends = HOPS["shelter-workload"]
    with wire(form, client=client_identity()) as front, wire(form, client=client_identity()) as back:
        front.handshake()
        back.handshake()
        assert front.client.peer_spki == back.client.peer_spki == server_identity().spki
        shelter = exchange_on(front.client, ends.client)
        workload = End(exchange_on(back.server, ends.server))
        workload.receive(shelter.data_to_send())
        with pytest.raises(VerificationError) as caught:
            shelter.receive(workload.exchange.data_to_send())
        assert caught.value.reason is Reason.CLAIMS_MISMATCH
        assert "tls-exporter" in caught.value.message


@pytest.mark.parametrize("form", FORMS)
def test_evidence_of_another_certificate_of_the_same_machine_is_refused(form: Form) -> None:
    ends = HOPS["shelter-workload"]
    with wire(form) as front, wire(form, server=make_identity()) as back:
        front.handshake()
        back.handshake()
        shelter = exchange_on(front.client, ends.client)
        workload = End(exchange_on(back.server, ends.server))
        workload.receive(shelter.data_to_send())
        with pytest.raises(VerificationError) as caught:
            shelter.receive(workload.exchange.data_to_send())
        assert caught.value.reason is Reason.CLAIMS_MISMATCH
