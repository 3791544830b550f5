"""`--legacy`: the sample greeting, between our own programs and with plain TLS peers, byte for byte.

The C programs themselves are run elsewhere; docs/manual/interoperability.md says what was measured. Here plain TLS,
which anybody speaks, stands for nobody: it holds the bytes that the specification gives.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from eaa.errors import Reason
from eaa.evidence.quote import Quote
from eaa.tls.certificate import Format, RATLSCertificate, create_certificate
from support.flow import answer_of
from support.plain_tls import VERSIONS, ServerOnce, ask
from support.system import Running, Site, run, running
from support.tls_world import HOUR

GREETING: Final = b"Hello and welcome to Enclave TLS!\n"
RATS_TLS_GREETING: Final = b"\x1b[91mHello and welcome to RATS-TLS!\x1b[0m\n"
HELLO: Final = b"hello from inclavared"
SUCCESS: Final = "Remote attestation is successful."
NOWHERE: Final = ("--pccs", "https://127.0.0.1:9/")
"""A PCCS that is not there."""


@contextmanager
def sample_server(site: Site, *options: str, enclave: str = "workload") -> Iterator[Running]:
    command = ("enclave-tls-server", "--legacy", "--listen", "tcp://127.0.0.1:0", *site.attested(enclave))
    with running(*command, *options) as server:
        yield server


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[str]:
    with sample_server(site) as server:
        yield server.address()


# --- the server


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("said", [GREETING, RATS_TLS_GREETING, b"x", bytes(255)], ids=["2021", "rats-tls", "x", "255"])
def test_a_sample_client_gets_back_what_it_sent(server: str, said: bytes, version: ssl.TLSVersion) -> None:
    assert ask(server, said, version=version)[0] == said


def test_a_relay_of_2021_is_told_measurements(site: Site, server: str) -> None:
    sigstruct = (site.tee / "workload.sigstruct").read_bytes()
    mr_signer = hashlib.sha256(sigstruct[128:512]).digest()
    answer, _ = ask(server, HELLO)
    assert answer == bytes.fromhex(site.mr_enclaves["workload"]) + mr_signer + GREETING
    assert len(answer) == 98


def test_the_certificate_is_read_by_both_generations(server: str) -> None:
    """One RSA key, one quote over its claims, and one over its PKCS#1 form."""
    _, raw = ask(server, b"x")
    certificate = RATLSCertificate.parse(raw)
    certificate.verify_binding()
    certificate.verify_unambiguous()
    key = load_der_public_key(certificate.spki_der)
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 3072
    assert certificate.evidence is not None
    assert Quote.parse(certificate.evidence).body.report_data == certificate.expected_report_data
    assert certificate.legacy_quote is not None


@pytest.mark.parametrize(
    ("name", "format_", "kind"),
    [
        ("interoperable", Format.INTEROPERABLE, ec.EllipticCurvePublicKey),
        ("enclave-tls-v1", Format.ENCLAVE_TLS_V1, rsa.RSAPublicKey),
        ("gramine", Format.GRAMINE_LEGACY, ec.EllipticCurvePublicKey),
    ],
)
def test_a_certificate_of_one_format_on_request(site: Site, name: str, format_: Format, kind: type) -> None:
    with sample_server(site, "--legacy-certificate", name) as server:
        address = server.address()
        _, raw = ask(address, b"x")
        certificate = RATLSCertificate.parse(raw)
        assert certificate.format is format_
        assert isinstance(load_der_public_key(certificate.spki_der), kind)
        assert certificate.evidence is not None
        assert Quote.parse(certificate.evidence).body.report_data == certificate.expected_report_data
        done = run("enclave-tls-client", "--legacy", "--addr", address, *site.judging)
        assert (done.code, SUCCESS in done.stdout) == (0, True), done


def test_a_greeting_that_is_too_long_ends_its_connection_only(site: Site) -> None:
    with sample_server(site) as server:
        address = server.address()
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            assert ask(address, bytes(256))[0] == b""
        server.wait_for(Reason.MESSAGE_TOO_LARGE)
        assert ask(address, b"x")[0] == b"x"


def test_without_evidence_a_relay_of_2021_is_told_nothing() -> None:
    with running("enclave-tls-server", "--legacy", "-p", "0", "-a", "nullattester") as server:
        answer, raw = ask(server.address(), HELLO)
        assert answer == HELLO
        assert RATLSCertificate.parse(raw).format is Format.NONE


# --- our client and our server


@pytest.mark.parametrize("mutual", [(), ("--mutual",)], ids=["one-way", "mutual"])
def test_our_own_programs_greet_each_other(site: Site, mutual: tuple[str, ...]) -> None:
    with sample_server(site, *mutual, *site.judging) as server:
        showing = (*mutual, *site.attested("relay")) if mutual else ()
        done = run("enclave-tls-client", "--legacy", "--addr", server.address(), *site.judging, *showing)
        assert done.code == 0, done
        assert "binding cert" in done.stdout
        assert f"Server: {GREETING.decode().strip()}\n{SUCCESS}\n" in done.stdout
        server.wait_for(f"legacy peer, {'accepted, binding cert' if mutual else 'not judged'}")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("-a", "nullattester"), Reason.NO_EVIDENCE),
        (None, Reason.MEASUREMENT_MISMATCH),
    ],
    ids=["no-evidence", "impostor"],
)
def test_a_client_that_is_not_accepted_gets_no_greeting(
    site: Site, options: tuple[str, ...] | None, reason: Reason
) -> None:
    with sample_server(site, "--mutual", *site.judging) as server:
        showing = site.attested("impostor") if options is None else options
        done = run("enclave-tls-client", "--legacy", "--addr", server.address(), *site.judging, "--mutual", *showing)
        assert (done.code, done.reason) == (3, Reason.PEER_CLOSED), done
        assert SUCCESS not in done.stdout
        # The greeting has no word for a refusal. Whoever was refused has to be told where it is said.
        assert "cannot say why, but its log may" in done.stdout + done.stderr
        server.wait_for(reason)


@pytest.mark.parametrize(("enclave", "reason"), [("impostor", Reason.MEASUREMENT_MISMATCH), (None, Reason.NO_EVIDENCE)])
def test_a_server_that_is_not_accepted_is_not_greeted(site: Site, enclave: str | None, reason: Reason) -> None:
    showing = ("--attester", "nullattester") if enclave is None else site.attested(enclave)
    with running("enclave-tls-server", "--legacy", "-p", "0", *showing) as server:
        done = run("enclave-tls-client", "--legacy", "--addr", server.address(), *site.judging)
        assert (done.code, done.reason) == (1, reason), done
        assert "Server:" not in done.stdout


def test_a_stronger_binding_than_a_certificate_has_is_refused_where_it_is_asked_for(site: Site, server: str) -> None:
    done = run("enclave-tls-client", "--legacy", "--addr", server, *site.judging, "--minimum-binding", "fresh")
    assert (done.code, done.reason) == (1, Reason.BINDING_TOO_WEAK)


# --- peers without evidence


DANGER: Final = "--dangerous-accept-no-evidence"


@pytest.fixture(scope="module")
def nobody() -> Iterator[str]:
    """A server without evidence."""
    with running("enclave-tls-server", "--legacy", "-p", "0", "-a", "nullattester") as server:
        yield server.address()


@pytest.mark.parametrize("options", [(DANGER,), (DANGER, "--verifier", "nullverifier")], ids=["judging", "null"])
def test_a_server_without_evidence_is_taken_where_the_operator_says_so(nobody: str, options: tuple[str, ...]) -> None:
    """It is no success, and never looks like one. Nothing is needed to judge by."""
    done = run("enclave-tls-client", "--legacy", "--addr", nobody, *options)
    assert done.code == 0, done
    assert done.stdout.startswith("unattested: ")
    assert SUCCESS not in done.stdout
    assert "Server: Hello" in done.stdout
    answer = answer_of(run("enclave-tls-client", "--legacy", "--addr", nobody, *options, "--json"))
    assert (answer["verdict"], answer["reason"], answer["checks"]) == ("unattested", None, [])


def test_evidence_is_judged_even_where_none_would_do(site: Site, server: str) -> None:
    """Otherwise an impostor had it easier with evidence than without."""
    with sample_server(site, enclave="impostor") as impostor:
        done = run("enclave-tls-client", "--legacy", "--addr", impostor.address(), *site.judging, DANGER)
        assert (done.code, done.reason) == (1, Reason.MEASUREMENT_MISMATCH)
    done = run("enclave-tls-client", "--legacy", "--addr", server, DANGER)
    assert (done.code, done.reason) == (4, Reason.COLLATERAL_NOT_FOUND)


def test_the_danger_is_named_or_the_null_verifier_is_refused(nobody: str) -> None:
    done = run("enclave-tls-client", "--legacy", "--addr", nobody, "--verifier", "nullverifier")
    assert (done.code, done.reason) == (2, Reason.USAGE)


def test_a_client_without_evidence_is_served_where_the_operator_says_so(site: Site) -> None:
    with sample_server(site, "--mutual", DANGER, *site.judging) as server:
        showing = ("--mutual", "--attester", "nullattester")
        done = run("enclave-tls-client", "--legacy", "--addr", server.address(), *site.judging, *showing)
        assert done.code == 0, done
        server.wait_for("shows no evidence and is taken as it is")


# --- endorsements


def test_endorsements_are_stapled_and_consumed(site: Site) -> None:
    """The client has no collateral but what comes in the certificate; without it there is no verdict.

    It takes that from a peer on first sight only because it was told to: older collateral might suit the peer better.
    """
    verifying = site.judging[:-2]
    told = "--accept-stapled-collateral"
    with sample_server(site, "-e", "--collateral", str(site.collateral)) as server:
        address = server.address()
        carried = RATLSCertificate.parse(ask(address, b"x")[1]).endorsements
        assert carried is not None
        assert (carried.version, carried.pck_crl[:1]) == (0x00010003, b"\x30")
        done = run("enclave-tls-client", "--legacy", "--addr", address, *verifying, *NOWHERE, told)
        assert (done.code, SUCCESS in done.stdout) == (0, True), done
        done = run("enclave-tls-client", "--legacy", "--addr", address, *verifying, *NOWHERE)
        assert (done.code, done.reason) == (4, Reason.PCCS_UNREACHABLE)


def test_a_server_without_collateral_to_staple_serves_without(site: Site) -> None:
    with sample_server(site, "-e", *NOWHERE) as server:
        server.wait_for(Reason.PCCS_UNREACHABLE)
        assert RATLSCertificate.parse(ask(server.address(), b"x")[1]).endorsements is None


def test_older_formats_have_no_place_for_endorsements(site: Site) -> None:
    command = ("enclave-tls-server", "--legacy", "-e", "--legacy-certificate", "gramine", *site.attested("workload"))
    done = run(*command, "--collateral", str(site.collateral))
    assert (done.code, done.reason) == (2, Reason.USAGE)


# --- servers that are none


class Answering(ServerOnce):
    """A server with a certificate without evidence that answers one greeting with some bytes."""

    def __init__(self, folder: Path, answer: bytes) -> None:
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        certificate = create_certificate(key, evidence=None, not_before=now - HOUR, not_after=now + HOUR)
        super().__init__(folder, self._answer, certificate=certificate, key=key)
        self._said = answer
        self.heard = b""

    def _answer(self, stream: ssl.SSLSocket) -> None:
        self.heard = stream.recv(4096)
        stream.sendall(self._said)
        stream.recv(4096)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (bytes(64) + b"\x1b[94mHello and welcome to RATS-TLS!\x1b[0m\n", 0),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", 3),
    ],
    ids=["occlum", "http"],
)
def test_what_a_sample_server_may_answer(tmp_path: Path, answer: bytes, code: int) -> None:
    server = Answering(tmp_path, answer)
    with server.serving():
        done = run("enclave-tls-client", "--legacy", "--addr", server.address, DANGER)
    assert server.heard == GREETING
    assert done.code == code, done
    assert code == 0 or done.reason == Reason.MESSAGE_MALFORMED


# --- options that belong together


@pytest.mark.parametrize(
    "options",
    [
        ("--legacy", "--level", "session"),
        ("--legacy", "--minimum-level", "fresh"),
        ("--legacy", "--epoch", "60"),
        ("--legacy-certificate", "gramine"),
        ("-e",),
        ("--legacy", "-v", "nullverifier"),
        ("--legacy", "-v", "something"),
        ("--legacy", "-a", "something"),
    ],
    ids=" ".join,
)
def test_no_option_is_ignored(options: tuple[str, ...]) -> None:
    attester = () if "-a" in options else ("-a", "nullattester")
    done = run("enclave-tls-server", "-p", "0", *attester, *options)
    assert (done.code, done.reason in (Reason.USAGE, Reason.NOT_IMPLEMENTED_VALUE)) == (2, True), done


# --- Verdictd


def test_a_verdictd_server_is_asked_for_an_echo(tmp_path: Path) -> None:
    text = b"Hello and welcome to RATS-TLS!\n"
    server = Answering(tmp_path, text)
    with server.serving():
        done = run("enclave-tls-client", "--legacy", "-E", "--addr", server.address, DANGER)
    assert json.loads(server.heard) == {"command": "echo", "data": text.decode()}
    assert (done.code, "Server: Hello" in done.stdout) == (0, True), done
