"""Ways around an attested context: bytes before the verdict, old sessions, strangers' TLS objects, library habits."""

from __future__ import annotations

import asyncio
import functools
import gc
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from eaa.errors import Misuse, Reason
from eaa.https import (
    AttestationFailed,
    AttestedContext,
    client_context,
    hypercorn_config,
    refusal_of,
    requests_adapter,
    server_context,
    uvicorn_context_factory,
)
from eaa.https.handshake import AttestedObject
from eaa.https.trust import MAX_TRUSTED
from eaa.tls.certificate import PrivateKey, RATLSCertificate
from support.https_memory import Judge, Keys, Wire, attested, load, stranger
from support.https_world import identity, verifier
from support.tls_world import make_identity

SECRET = b"a prompt that is nobody else's business"
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


async def settle() -> None:
    """Wait until the event loop has closed its connections: all peers have gone."""
    transports: Any = getattr(asyncio.get_running_loop(), "_transports", {})
    async with asyncio.timeout(30):
        while any(transport._sock is not None for transport in transports.values()):  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0.01)


# --- no application byte before the verdict


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("enclave", ["impostor", "bare"])
def test_a_server_hears_nothing_of_a_client_that_speaks_before_its_verdict(loop: str, enclave: str) -> None:
    """A TLS 1.3 client is done before the server has seen its certificate, and may send at once."""
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(100))
        writer.close()

    async def main() -> Exception | None:
        context = server_context(identity("workload"), verifier=verifier())
        async with await asyncio.start_server(hear, "127.0.0.1", 0, ssl=context) as server:
            address = server.sockets[0].getsockname()
            answer = await asyncio.to_thread(_speak_at_once, address, enclave)
            await settle()
            assert sum(context.refusals.values()) == 1
            return answer

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        answer = runner.run(main())
    assert heard == []
    assert isinstance(answer, ssl.SSLError)
    assert answer.reason == "TLSV1_ALERT_UNKNOWN_CA", "the client is told by an alert"


def _speak_at_once(address: tuple[str, int], enclave: str) -> Exception | None:
    """Connect as a stranger's client does, send before anything was answered, and read."""
    context = stranger(identity(enclave).credentials(), server_side=False)
    with socket.create_connection(address) as plain, context.wrap_socket(plain) as connection:
        connection.settimeout(30)
        try:
            connection.sendall(SECRET)
            assert connection.recv(100) == b"", "the server answered"
        except (OSError, AssertionError) as error:
            return error
    return None


@pytest.mark.parametrize("enclave", ["client", "impostor", "bare"])
def test_a_blocking_server_hears_nothing_either(enclave: str) -> None:
    """A server of threads, `http.server` for one, accepts on a socket that was wrapped before it listened."""
    context = server_context(identity("workload"), verifier=verifier())
    heard: list[bytes] = []
    refused: list[BaseException] = []

    def serve() -> None:
        try:
            connection, _ = listening.accept()
            with connection:
                heard.append(connection.recv(100))
                connection.sendall(SECRET)
        except OSError as error:
            refused.append(error)

    with context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        answer = _speak_at_once(listening.getsockname(), enclave)
        thread.join(30)
    if enclave == "client":
        assert (heard, refused) == ([SECRET], [])
        assert isinstance(answer, AssertionError)
    else:
        assert heard == []
        assert isinstance(refused[0], AttestationFailed)
        assert isinstance(answer, OSError)


@pytest.mark.parametrize("enclave", ["impostor", "bare"])
def test_a_client_sends_nothing_and_hears_nothing_before_its_verdict(enclave: str) -> None:
    """The handshake raises; a client that reads and writes without it fares no better."""
    server = stranger(identity(enclave).credentials(), server_side=True)
    client = client_context(verifier())
    acts: list[Callable[[ssl.SSLObject], object]] = [
        lambda end: end.read(100),
        lambda end: end.write(SECRET),
        lambda end: end.do_handshake(),
    ]
    for act in acts:
        wire = Wire(client, server)
        with suppress(ssl.SSLWantReadError):
            wire.client.do_handshake()
        with suppress(ssl.SSLWantReadError):
            wire.server.do_handshake()
        with pytest.raises(ssl.SSLError) as refused:
            act(wire.client)
        refusal = refusal_of(refused.value)
        assert refusal is not None
        assert refusal.reason in (Reason.MEASUREMENT_MISMATCH, Reason.NO_EVIDENCE)
        with pytest.raises(ssl.SSLError):
            act(wire.client)
        with pytest.raises(ssl.SSLError, match="alert"):
            wire.server.do_handshake()


@pytest.mark.parametrize("enclave", ["impostor", "bare"])
def test_reading_without_a_handshake_is_judged_as_well(enclave: str) -> None:
    """OpenSSL does the handshake when it is asked to read: without `do_handshake`, nothing gets through either."""
    server = server_context(identity("workload"), verifier=verifier())
    wire = Wire(stranger(identity(enclave).credentials(), server_side=False), server)
    for _ in range(4):
        with suppress(ssl.SSLWantReadError):
            wire.client.write(SECRET)
        with suppress(ssl.SSLWantReadError):
            with pytest.raises(ssl.SSLError) as refused:
                wire.server.read(100)
            if not isinstance(refused.value, ssl.SSLWantReadError):
                break
    assert refusal_of(refused.value) is not None
    assert wire.server.peer is None  # type: ignore[attr-defined]


# --- trust of another day, another connection, another session


def test_a_certificate_that_was_accepted_is_judged_again() -> None:
    """OpenSSL still trusts it; that is worth nothing."""
    judge = Judge()
    client, server = attested(Keys.create(), server_side=False), attested(Keys.create(), server_side=True, judge=judge)
    assert Wire(client, server).handshake().connected
    judge.accepts = False
    wire = Wire(client, server).handshake()
    assert isinstance(wire.outcome["server"], AttestationFailed)
    assert wire.outcome["server"].reason is Reason.MEASUREMENT_MISMATCH
    judge.accepts = True
    assert Wire(client, server).handshake().connected


def test_contexts_on_which_handshakes_begin_trust_nobody() -> None:
    server = attested(Keys.create(), server_side=True)
    for _ in range(3):
        assert Wire(attested(Keys.create(), server_side=False), server).handshake().connected
    assert server.cert_store_stats()["x509"] == 0
    assert server._generation.greeting.cert_store_stats()["x509"] == 0
    assert server._generation.quiet is not None
    assert server._generation.quiet.cert_store_stats()["x509"] == 0
    assert server._generation._trusting.cert_store_stats()["x509"] == 3


def test_who_is_not_listened_to_is_not_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server has no callback while it writes. Had it none when the certificate comes, it would trust nobody."""
    monkeypatch.setattr(AttestedObject, "_has_written", False)
    wire = Wire(attested(Keys.create(), server_side=False), attested(Keys.create(), server_side=True)).handshake()
    assert isinstance(wire.outcome["server"], ssl.SSLError)
    assert wire.server.peer is None  # type: ignore[attr-defined]


def test_no_session_is_ever_resumed() -> None:
    """No ticket is given, none is taken, and a context that resumes elsewhere does not here."""
    client, server = stranger(Keys.create(), server_side=False), attested(Keys.create(), server_side=True)
    first = Wire(client, server).handshake()
    assert first.connected
    first.server.write(b"tickets come with the first bytes")
    assert first.client.read(100)
    assert first.client.session is not None
    assert not first.client.session.has_ticket
    second = Wire(client, server, session=first.client.session).handshake()
    assert second.connected
    assert not second.client.session_reused
    assert not second.server.session_reused


def test_a_client_takes_no_session() -> None:
    """A server that hands out tickets would be glad to be let in by one, without a certificate."""
    ticketing = stranger(Keys.create(), server_side=True)
    ordinary = stranger(None, server_side=False)
    wire = Wire(ordinary, ticketing).handshake()
    wire.server.write(b"tickets come with the first bytes")
    assert wire.client.read(100)
    session = wire.client.session
    assert session is not None
    assert session.has_ticket
    ours = client_context(verifier())
    with pytest.raises((Misuse, ValueError)):
        Wire(ours, ticketing, session=session)
    with pytest.raises(Misuse):
        Wire(ours, ticketing).client.session = session


@pytest.mark.long
def test_two_thousand_clients_leave_nothing_behind() -> None:
    """OpenSSL keeps each certificate that it was told to trust: about 14 KiB, and longer look-ups."""
    server = attested(Keys.create(), server_side=True)
    client, keys = stranger(None, server_side=False), Keys.create()
    serial = RATLSCertificate.parse(keys.certificate).serial_number
    old = serial.to_bytes((serial.bit_length() + 8) // 8)
    assert keys.certificate.count(old) == 1

    def meet(numbers: range) -> int:
        for number in numbers:
            # Another certificate of the same key; nobody looks at the signature that it has made of itself.
            load(client, Keys(keys.private_key, keys.certificate.replace(old, old[:-2] + number.to_bytes(2))))
            assert Wire(client, server).handshake().connected
        assert server._generation._trusting.cert_store_stats()["x509"] <= MAX_TRUSTED
        gc.collect()
        return _resident_kib()

    # With all of them in one trust store it would be 20 MiB more.
    before = meet(range(500))
    assert meet(range(500, 2000)) - before < 4096
    judge = server._judge
    assert isinstance(judge, Judge)
    assert len(set(judge.seen)) == 2000


def _resident_kib() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


# --- TLS objects that somebody else makes


def around(context: AttestedContext, *arguments: Any, **options: Any) -> Any:
    """What a TLS object is that takes OpenSSL's structure out of the context, with none of our methods."""
    return ssl.SSLContext._wrap_bio(context, *arguments, **options)  # type: ignore[attr-defined]


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_tls_object_made_around_the_context_lets_nobody_in(side: str) -> None:
    client, server = attested(Keys.create(), server_side=False), attested(Keys.create(), server_side=True)
    wire = Wire(client, server)
    ends = {"client": wire.client, "server": wire.server}
    incoming, outgoing = (wire.to_client, wire.to_server) if side == "client" else (wire.to_server, wire.to_client)
    ends[side] = around(client if side == "client" else server, incoming, outgoing, server_side=side == "server")
    outcome: dict[str, ssl.SSLError | None] = {}
    for _ in range(4):
        for name, end in ends.items():
            with suppress(ssl.SSLWantReadError):
                try:
                    end.do_handshake()
                    outcome[name] = None
                except ssl.SSLError as error:
                    outcome[name] = error
                    if isinstance(error, ssl.SSLWantReadError):
                        raise
    assert isinstance(outcome[side], ssl.SSLError)
    with pytest.raises(ssl.SSLError):
        ends[side].read(1)


class Fast(asyncio.SelectorEventLoop):
    """An event loop that makes its own TLS objects, as a patch of transports would."""

    def _make_ssl_transport(self, rawsock: Any, protocol: Any, sslcontext: Any, *arguments: Any, **options: Any) -> Any:
        class Disguised(ssl.SSLContext):
            def wrap_bio(self, incoming: Any, outgoing: Any, **wrapping: Any) -> Any:  # type: ignore[override]
                return around(sslcontext, incoming, outgoing, **wrapping)

        disguised = Disguised(ssl.PROTOCOL_TLS_SERVER if options.get("server_side") else ssl.PROTOCOL_TLS_CLIENT)
        return super()._make_ssl_transport(rawsock, protocol, disguised, *arguments, **options)  # type: ignore[misc]


class FastPolicy(asyncio.DefaultEventLoopPolicy):
    _loop_factory = Fast


@pytest.fixture
def _patched_policy() -> Any:
    asyncio.set_event_loop_policy(FastPolicy())
    yield
    asyncio.set_event_loop_policy(None)


CONTEXTS: dict[str, Callable[[], AttestedContext]] = {
    "client": lambda: client_context(verifier()),
    "server": lambda: server_context(identity("workload")),
}


@pytest.mark.usefixtures("_patched_policy")
@pytest.mark.parametrize("make", CONTEXTS)
def test_nothing_starts_under_a_policy_whose_loops_make_their_own_tls_objects(make: str) -> None:
    with pytest.raises(Misuse) as refused:
        CONTEXTS[make]()
    assert refused.value.reason is Reason.EVENT_LOOP_BYPASSES_TLS


@pytest.mark.parametrize("make", CONTEXTS)
def test_nothing_starts_in_a_loop_that_makes_its_own_tls_objects(make: str) -> None:
    async def main() -> None:
        CONTEXTS[make]()

    with asyncio.Runner(loop_factory=Fast) as runner, pytest.raises(Misuse) as refused:
        runner.run(main())
    assert refused.value.reason is Reason.EVENT_LOOP_BYPASSES_TLS


@pytest.mark.parametrize(
    "ask",
    [
        lambda context: uvicorn_context_factory(context)(None, None),
        lambda context: hypercorn_config(context).create_ssl_context(),
    ],
    ids=["uvicorn", "hypercorn"],
)
def test_a_server_that_starts_such_a_loop_later_does_not_start(ask: Callable[[AttestedContext], object]) -> None:
    """The context was made before there was a loop; the helpers look again in the one that the server has started."""
    context = server_context(identity("workload"))

    async def main() -> object:
        return ask(context)

    for new_loop in LOOPS.values():
        with asyncio.Runner(loop_factory=new_loop) as runner:
            assert runner.run(main()) is context
    with asyncio.Runner(loop_factory=Fast) as runner, pytest.raises(Misuse) as refused:
        runner.run(main())
    assert refused.value.reason is Reason.EVENT_LOOP_BYPASSES_TLS


def test_a_loop_of_ones_own_is_fine_where_its_tls_is_asyncios() -> None:
    class Own(asyncio.SelectorEventLoop):
        def time(self) -> float:
            return super().time()

    async def main() -> None:
        client_context(verifier())

    with asyncio.Runner(loop_factory=Own) as runner:
        runner.run(main())


def _patch_method(patch: pytest.MonkeyPatch) -> None:
    original = asyncio.BaseEventLoop.create_connection

    @functools.wraps(original)
    async def fast(*arguments: Any, **options: Any) -> Any:
        return await original(*arguments, **options)

    patch.setattr(asyncio.BaseEventLoop, "create_connection", fast)


def _patch_ssl(kind: str) -> Callable[[pytest.MonkeyPatch], None]:
    """As gevent and eventlet do, after our contexts were made from the class that is replaced."""

    def patch_it(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(ssl, kind, type(kind, (getattr(ssl, kind),), {"__module__": "green.ssl"}))

    return patch_it


def _patch_protocol(patch: pytest.MonkeyPatch) -> None:
    fast = type("SSLProtocol", (asyncio.sslproto.SSLProtocol,), {})  # type: ignore[attr-defined]
    patch.setattr(asyncio.sslproto, "SSLProtocol", fast)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "patch_it",
    [_patch_method, _patch_protocol, *map(_patch_ssl, ("SSLContext", "SSLObject", "SSLSocket"))],
    ids=["a-method-of-loops", "asyncio-s-tls", "contexts", "objects", "sockets"],
)
@pytest.mark.parametrize("make", CONTEXTS)
def test_nothing_starts_where_the_standard_library_was_patched(
    patch_it: Callable[[pytest.MonkeyPatch], None], make: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the patch wears the name of what it replaces, as `functools.wraps` makes it."""
    patch_it(monkeypatch)
    with pytest.raises(Misuse) as refused:
        CONTEXTS[make]()
    assert refused.value.reason is Reason.EVENT_LOOP_BYPASSES_TLS


def test_a_loop_that_is_patched_later_connects_to_nobody() -> None:
    """The context is there already, so nobody can be told. Nothing gets through all the same."""
    heard: list[bytes] = []
    client, server = client_context(verifier(), identity=identity("client")), server_context(identity("workload"))

    async def hear(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(100))

    async def main() -> None:
        async with await asyncio.start_server(hear, "127.0.0.1", 0, ssl=server) as listening:
            address = listening.sockets[0].getsockname()
            with pytest.raises((ssl.SSLError, OSError)):
                await asyncio.open_connection(*address, ssl=client)
            await settle()

    with asyncio.Runner(loop_factory=Fast) as runner:
        runner.run(main())
    assert heard == []


# --- what a peer can send instead


def test_a_client_without_a_certificate_is_one_without_evidence() -> None:
    server = server_context(identity("workload"), verifier=verifier())
    wire = Wire(stranger(None, server_side=False), server).handshake()
    assert isinstance(wire.outcome["server"], AttestationFailed)
    assert wire.outcome["server"].reason is Reason.NO_EVIDENCE


def test_tls_1_2_is_not_spoken() -> None:
    server = server_context(identity("workload"), verifier=verifier())
    old = stranger(identity("client").credentials(), server_side=False, tls_1_2=True)
    wire = Wire(old, server).handshake()
    assert isinstance(wire.outcome["server"], ssl.SSLError)


def test_one_certificate_is_shown_and_no_chain() -> None:
    server = server_context(identity("workload"), verifier=verifier())
    context = stranger(None, server_side=False)
    load(context, identity("client").credentials(), make_identity().certificate)
    wire = Wire(context, server).handshake()
    assert isinstance(wire.outcome["server"], AttestationFailed)
    assert wire.outcome["server"].reason is Reason.CERTIFICATE_CHAIN


def test_a_leaf_that_tls_cannot_take_is_explained() -> None:
    """Its evidence may be good; it says of itself that it is for something else."""
    keys = Keys.create()
    odd = _certificate(keys.private_key, usage=ExtendedKeyUsageOID.CODE_SIGNING)
    wire = Wire(stranger(Keys(keys.private_key, odd), server_side=False), attested(Keys.create(), server_side=True))
    assert isinstance(wire.handshake().outcome["server"], AttestationFailed)
    assert wire.outcome["server"].reason is Reason.CERTIFICATE_CHAIN  # type: ignore[union-attr]


def test_certificates_of_one_name_are_not_taken_for_each_others_issuers() -> None:
    """C programs write no key identifiers, and all the same name: OpenSSL would find the wrong one among them."""
    server = attested(Keys.create(), server_side=True)
    for _ in range(5):
        key = Keys.create().private_key
        assert Wire(stranger(Keys(key, _certificate(key)), server_side=False), server).handshake().connected
    assert server._generation._trusting.cert_store_stats()["x509"] == 5


def _certificate(key: PrivateKey, *, usage: x509.ObjectIdentifier | None = None) -> bytes:
    """A certificate with next to nothing in it."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "RATS-TLS")])
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=datetime(2020, 1, 1, tzinfo=UTC),
        not_valid_after=datetime(2050, 1, 1, tzinfo=UTC),
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


# --- what libraries and their users do to a context


def test_requests_without_verification_is_refused() -> None:
    """Whoever writes `verify=False` is told that it cannot be had; not a byte is sent."""
    with socket.create_server(("127.0.0.1", 0)) as listening, requests.Session() as session:
        session.mount("https://", requests_adapter(client_context(verifier())))
        with pytest.raises(Misuse):
            session.post(f"https://127.0.0.1:{listening.getsockname()[1]}/", data=SECRET, verify=False, timeout=30)
        gc.collect()
        accepted, _ = listening.accept()
        with accepted:
            accepted.settimeout(30)
            assert accepted.recv(1) == b""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("verify_mode", ssl.CERT_NONE),
        ("verify_mode", ssl.CERT_OPTIONAL),
        ("verify_flags", ssl.VERIFY_DEFAULT),
        ("check_hostname", True),
        ("minimum_version", ssl.TLSVersion.TLSv1_2),
        ("maximum_version", ssl.TLSVersion.TLSv1_2),
        ("options", ssl.OP_ALL),
        ("keylog_filename", "/dev/null"),
        ("post_handshake_auth", True),
        ("sni_callback", lambda *_: None),
    ],
)
def test_what_security_rests_on_cannot_be_changed(name: str, value: object) -> None:
    context = client_context(verifier())
    before = getattr(context, name)
    with pytest.raises(Misuse):
        setattr(context, name, value)
    assert getattr(context, name) == before
    setattr(context, name, before)


def test_authorities_that_a_library_loads_are_trusted_by_nobody() -> None:
    """requests loads those of the web into every context; the server here is trusted by exactly that."""
    keys = Keys.create()
    context = client_context(verifier())
    context.load_verify_locations(cadata=keys.certificate)
    context.load_default_certs()
    context.set_default_verify_paths()
    # And if a library should find a way around that:
    ssl.SSLContext.load_verify_locations(context, cadata=keys.certificate)
    wire = Wire(context, stranger(keys, server_side=True)).handshake()
    assert isinstance(wire.outcome["client"], AttestationFailed)


@pytest.mark.parametrize(
    "change",
    [
        lambda context: context.load_cert_chain("/dev/null"),
        lambda context: context.set_servername_callback(lambda *_: None),
        lambda context: context.set_psk_client_callback(lambda _hint: (None, b"key")),
        lambda context: context.set_psk_server_callback(lambda _identity: b"key"),
    ],
)
def test_ways_around_a_certificate_are_closed(change: Callable[[AttestedContext], object]) -> None:
    with pytest.raises(Misuse):
        change(client_context(verifier()))


def test_the_context_of_a_connection_cannot_be_replaced() -> None:
    wire = Wire(client_context(verifier()), stranger(Keys.create(), server_side=True))
    with pytest.raises(Misuse):
        wire.client.context = stranger(None, server_side=False)


def test_threads_share_a_context() -> None:
    """Each handshake is judged for itself, however many run at once."""
    judge = Judge()
    server = attested(Keys.create(), server_side=True, judge=judge)
    results: list[bool] = []

    def meet() -> None:
        results.extend(
            Wire(stranger(Keys.create(), server_side=False), server).handshake().connected for _ in range(25)
        )

    threads = [threading.Thread(target=meet) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 100
    assert len(set(judge.seen)) == 100
