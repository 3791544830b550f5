"""Peers of 2021: served on an address of their own with verified values, and never taken for peers of today.

The programs of 2021 themselves are run elsewhere; docs/manual/interoperability.md says what was measured. Here plain
TLS holds the bytes that the specification gives, and stands for nobody.
"""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from eaa.errors import Reason
from eaa.evidence.quote import Quote
from eaa.tls.certificate import Format, RATLSCertificate
from support.flow import answer_of, free_port
from support.plain_tls import VERSIONS, ServerOnce, ask
from support.system import Running, Site, run, running
from support.tls_world import HOUR, make_identity

ENCLAVE_INFO: Final = b'{"type":"GETENCLAVEINFO"}'
OTHER_REPLY: Final = b"hello from inclavared!\n"
NO_WORKLOAD_REPLY: Final = b"reply from inclavared!\n"
GREETING: Final = "Hello and welcome to Enclave TLS!\n"


def answer_to(request: bytes, address: str, *, version: ssl.TLSVersion = VERSIONS[1]) -> bytes:
    """Every byte that comes back for one request."""
    return ask(address, request, version=version)[0]


@dataclass(frozen=True, slots=True)
class Node:
    """A relay with both addresses."""

    main: str
    legacy: str
    relay: Running


@contextmanager
def legacy_node(site: Site, *options: str) -> Iterator[Node]:
    listen = ("--listen", "tcp://127.0.0.1:0", "--legacy-listen", "tcp://127.0.0.1:0", "--mutual")
    with running("inclavared", *listen, *options, *site.attested("relay"), *site.judging) as relay:
        said = relay.wait_for(r"listening on (\S+), (\S+) \(legacy\)")
        yield Node(said[1], said[2], relay)


@pytest.fixture(scope="module")
def node(site: Site) -> Iterator[Node]:
    with site.workload() as workload, legacy_node(site, "--xfer", workload.address()) as node:
        yield node


# --- a client of 2021


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_the_request_of_2021_gets_its_answer_byte_for_byte(site: Site, node: Node, version: ssl.TLSVersion) -> None:
    sigstruct = (site.tee / "workload.sigstruct").read_bytes()
    mr_enclave, mr_signer = sigstruct[960:992].hex(), hashlib.sha256(sigstruct[128:512]).hexdigest()
    assert (
        answer_to(ENCLAVE_INFO, node.legacy, version=version)
        == (
            '{"id":"123456","message":"Hello and welcome to Enclave TLS!\\n",'
            f'"mrenclave":"{mr_enclave}","mrsigner":"{mr_signer}","msgtype":"ENCLAVEINFO","version":1}}'
        ).encode()
    )


@pytest.mark.parametrize(
    "request_bytes",
    [b"{}", b"[]", b"null", b'"text"', b"12", b'{"type":"GETKEY"}', b'{"msgtype":"GETENCLAVEINFO"}'],
    ids=bytes.decode,
)
def test_other_json_is_greeted(node: Node, request_bytes: bytes) -> None:
    assert answer_to(request_bytes, node.legacy) == OTHER_REPLY


@pytest.mark.parametrize(
    "request_bytes",
    [b"junk", b"\x00\xff", b'{"type":', b"GET / HTTP/1.1\r\n\r\n", b"hello from inclavared", GREETING.encode()],
    ids=["junk", "binary", "cut off", "http", "meant for a workload", "meant for a sample server"],
)
def test_what_is_no_json_is_dropped(node: Node, request_bytes: bytes) -> None:
    """And the next client is served as if nothing had been."""
    assert answer_to(request_bytes, node.legacy) == b""
    assert answer_to(b"{}", node.legacy) == OTHER_REPLY


def test_without_a_workload_there_is_another_text(site: Site) -> None:
    with legacy_node(site) as node:
        assert answer_to(ENCLAVE_INFO, node.legacy) == NO_WORKLOAD_REPLY


def test_each_answer_is_logged_as_legacy(node: Node) -> None:
    answer_to(ENCLAVE_INFO, node.legacy)
    node.relay.wait_for("warning: .*legacy")


@pytest.mark.parametrize(
    ("enclave", "reason"),
    [("impostor", Reason.MEASUREMENT_MISMATCH), (None, Reason.NO_EVIDENCE)],
)
def test_a_workload_that_is_not_accepted_gives_no_values(site: Site, enclave: str | None, reason: Reason) -> None:
    """What is answered comes from evidence that was accepted just now, and from nowhere else."""
    attested = site.attested(enclave) if enclave else ("--attester", "nullattester")
    with (
        running("enclave-tls-server", "--port", "0", *attested) as workload,
        legacy_node(site, "--xfer", workload.address()) as node,
    ):
        assert answer_to(ENCLAVE_INFO, node.legacy) == b""
        node.relay.wait_for(reason)


def test_values_are_those_of_the_workload_that_is_there_now(site: Site) -> None:
    """Nothing is remembered of a workload that was accepted before."""
    # Another one listens there later: nobody else may be given the port meanwhile.
    with site.workload(listen=f"tcp://127.0.0.1:{free_port()}") as workload:
        address = workload.address()
        with legacy_node(site, "--xfer", address) as node:
            assert json.loads(answer_to(ENCLAVE_INFO, node.legacy))["mrenclave"] == site.mr_enclaves["workload"]
            workload.stop()
            assert answer_to(ENCLAVE_INFO, node.legacy) == b""
            with site.workload(enclave="impostor", listen=address) as impostor:
                impostor.address()
                assert answer_to(ENCLAVE_INFO, node.legacy) == b""


def test_the_certificate_at_that_address_is_one_of_2021(node: Node) -> None:
    """An RSA key, and a quote over its PKCS#1 form: what shelter of 2021 hashes and compares."""
    host, port = node.legacy.removeprefix("tcp://").rsplit(":", 1)
    certificate = RATLSCertificate.parse(ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, int(port)))))
    assert (certificate.format, certificate.subject) == (Format.ENCLAVE_TLS_V1, "Enclave TLS")
    key = load_der_public_key(certificate.spki_der)
    assert isinstance(key, rsa.RSAPublicKey)
    pkcs1 = key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    assert certificate.evidence is not None
    assert Quote.parse(certificate.evidence).body.report_data == hashlib.sha256(pkcs1).digest() + bytes(32)


# --- a client of 2021 at the door of today


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("request_bytes", [ENCLAVE_INFO, GREETING.encode()], ids=["relay", "sample"])
def test_the_exchange_of_2021_is_not_spoken_at_the_main_address(
    site: Site, node: Node, version: ssl.TLSVersion, request_bytes: bytes
) -> None:
    try:
        answer = answer_to(request_bytes, node.main, version=version)
    except (ssl.SSLError, ConnectionError):
        answer = b""
    assert answer == b""
    assert site.shelter(node.main).code == 0


# --- a client of today at the door of 2021


def test_our_shelter_does_not_speak_the_exchange_of_2021(site: Site, node: Node) -> None:
    done = site.shelter(node.legacy, "--json")
    answer = answer_of(done)
    assert (done.code, answer["verdict"], answer["reason"]) == (3, "unverifiable", Reason.PEER_IS_LEGACY)
    assert answer["evidence"] == []


def test_our_relay_and_sample_client_do_not_speak_it_either(site: Site, node: Node) -> None:
    client = run("enclave-tls-client", "--addr", node.legacy, *site.judging)
    assert (client.code, client.reason) == (3, Reason.PEER_IS_LEGACY)
    asked = run("inclavared", "--connect", node.legacy, *site.attested("relay"), *site.judging)
    assert (asked.code, asked.reason) == (3, Reason.PEER_IS_LEGACY)


def test_our_shelter_says_not_a_word_to_a_server_of_2021(site: Site, tmp_path: Path) -> None:
    """It never sends the JSON: neither to be told something nor to tell who it is."""
    now = datetime.now(UTC)
    identity = make_identity(start=now - HOUR, end=now + HOUR)
    received = b""

    def keep(stream: ssl.SSLSocket) -> None:
        nonlocal received
        while data := stream.recv(4096):
            received += data

    server = ServerOnce(tmp_path, keep, certificate=identity.certificate, key=identity.key)
    with server.serving():
        done = site.shelter(server.address)
    assert server.shaken_hands
    assert received == b""
    assert (done.code, done.reason) == (3, Reason.PEER_IS_LEGACY)
