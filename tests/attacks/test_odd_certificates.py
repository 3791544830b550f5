"""Certificates made to be misread, sent to real servers in real handshakes.

The peer is the TLS of the standard library, which sends whatever certificate it is given. Each row is one certificate
and the reason with which a server refuses it. The server says so in one line and serves the next good peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from eaa.aio.workers import with_workers
from eaa.errors import EAAError, Reason
from eaa.evidence.tagged import TaggedEvidence
from eaa.program.address import TCPAddress
from eaa.protocol.exchange import ALPN
from eaa.protocol.legacy import GREETING
from eaa.tls.certificate import Format, legacy_report_data
from eaa.workload.legacy import LegacySide, visit_legacy
from support import odd_certificates as odd
from support.peers import Observed, attester_of, observed
from support.plain_tls import PATIENCE, VERSIONS, ServerOnce, client_context, load
from support.system import Site
from support.tls_world import spki_of

KEY: Final = ec.generate_private_key(ec.SECP256R1())
HELLO: Final = GREETING.encode()


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A server that demands certificates, and what its peers have to speak."""

    server: Observed
    alpn: bytes | None
    good: Callable[[], bytes]
    """A certificate that it takes, for KEY."""
    folder: Path
    marks: dict[str, int] = field(default_factory=dict)
    """How much the log had when each peer came: the system gives a port of one to another, some time."""

    def visit(self, certificate: bytes, *, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> tuple[str, bytes]:
        """Handshake with a certificate and say hello; return what the log calls this peer, and the answer."""
        context = client_context(version)
        load(context, certificate, KEY, self.folder)
        if self.alpn:
            context.set_alpn_protocols([self.alpn.decode()])
        host, port = self.server.address.removeprefix("tcp://").rsplit(":", 1)
        answer, mark = b"", len(self.server.lines)
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
            name = "{}:{}".format(*sock.getsockname())
            self.marks[name] = mark
            with contextlib.suppress(ssl.SSLError, ConnectionError), context.wrap_socket(sock) as stream:
                stream.sendall(HELLO)
                answer = stream.recv(255)
        return name, answer

    def reason(self, who: str) -> Reason:
        """Wait until the server has given one."""
        return self.server.reason(who, since=self.marks[who])

    def reasons(self, who: str) -> list[Reason]:
        return self.server.reasons(who, since=self.marks[who])


@pytest.fixture(scope="module")
def today(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """What speaks today's protocol: a peer that has shaken hands is asked for evidence."""
    command = ("enclave-tls-server", "--listen", "127.0.0.1:0", "--mutual", *site.attested("workload"), *site.judging)
    with observed(*command) as server:
        yield Door(
            server=server,
            alpn=ALPN,
            good=lambda: odd.plain(KEY, now=now(), evidence=None),
            folder=tmp_path_factory.mktemp("today"),
        )


@pytest.fixture(scope="module")
def legacy(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """What serves C programs: a peer that is accepted gets its greeting back."""
    attester = attester_of(site, "relay")

    def good() -> bytes:
        quote = attester.quote(legacy_report_data(spki_of(KEY), format=Format.GRAMINE_LEGACY))
        return odd.plain(KEY, now=now(), evidence=quote, format=Format.GRAMINE_LEGACY)

    command = ("enclave-tls-server", "--legacy", "--listen", "127.0.0.1:0", "--mutual")
    with observed(*command, *site.attested("workload"), *site.judging) as server:
        yield Door(server=server, alpn=None, good=good, folder=tmp_path_factory.mktemp("legacy"))


@pytest.mark.parametrize("name", odd.ODD)
def test_a_relay_with_an_odd_certificate_is_refused_by_a_workload_of_today(today: Door, name: str) -> None:
    make, reason = odd.ODD[name]
    who, answer = today.visit(make(KEY, now()))
    assert answer == b""
    assert today.reason(who) is reason
    _, answer = today.visit(today.good())
    assert answer != b""
    assert today.reasons(who) == [reason]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("name", odd.ODD)
def test_a_c_program_with_an_odd_certificate_is_refused(legacy: Door, name: str, version: ssl.TLSVersion) -> None:
    make, reason = odd.ODD[name]
    who, answer = legacy.visit(make(KEY, now()), version=version)
    assert answer == b""
    assert legacy.reason(who) is reason
    _, answer = legacy.visit(legacy.good(), version=version)
    assert answer == HELLO
    assert legacy.reasons(who) == [reason]


# --- servers with odd certificates, towards our client


@pytest.mark.parametrize("name", odd.ODD)
def test_a_server_with_an_odd_certificate_is_not_greeted(name: str, tmp_path: Path) -> None:
    """Not even by a client that judges nobody."""
    make, reason = odd.ODD[name]
    nobody = LegacySide(identity=None, judge=None, demands_certificate=False, dangerous_accept_no_evidence=True)
    server = ServerOnce(
        tmp_path, lambda stream: stream.sendall(stream.recv(255)), certificate=make(KEY, now()), key=KEY
    )
    with server.serving(), pytest.raises(EAAError) as caught:
        asyncio.run(with_workers(visit_legacy(TCPAddress("127.0.0.1", server.port), nobody)))
    assert caught.value.reason is reason


# --- evidence that is another's


def test_evidence_of_another_key_is_refused(legacy: Door, site: Site) -> None:
    """A certificate of an attacker's with the evidence of a genuine relay in it."""
    genuine = ec.generate_private_key(ec.SECP256R1())
    attester = attester_of(site, "relay")
    tagged = odd.tagged_for(genuine, attester.quote)
    who, answer = legacy.visit(odd.plain(KEY, now=now(), evidence=tagged))
    assert (answer, legacy.reason(who)) == (b"", Reason.CLAIMS_MISMATCH)
    claims = odd.tagged_for(KEY).claims
    spliced = TaggedEvidence(evidence=tagged.evidence, claims=claims)
    who, answer = legacy.visit(odd.plain(KEY, now=now(), evidence=spliced))
    assert (answer, legacy.reason(who)) == (b"", Reason.REPORT_DATA_MISMATCH)


def test_a_quote_of_another_key_is_refused_in_an_older_format(legacy: Door, site: Site) -> None:
    genuine = ec.generate_private_key(ec.SECP256R1())
    quote = attester_of(site, "relay").quote(legacy_report_data(spki_of(genuine), format=Format.GRAMINE_LEGACY))
    who, answer = legacy.visit(odd.plain(KEY, now=now(), evidence=quote, format=Format.GRAMINE_LEGACY))
    assert (answer, legacy.reason(who)) == (b"", Reason.REPORT_DATA_MISMATCH)


def test_no_evidence_is_refused_and_an_impostor_too(legacy: Door, site: Site) -> None:
    who, answer = legacy.visit(odd.plain(KEY, now=now(), evidence=None))
    assert (answer, legacy.reason(who)) == (b"", Reason.NO_EVIDENCE)
    tagged = odd.tagged_for(KEY, attester_of(site, "impostor").quote)
    who, answer = legacy.visit(odd.plain(KEY, now=now(), evidence=tagged))
    assert (answer, legacy.reason(who)) == (b"", Reason.MEASUREMENT_MISMATCH)
