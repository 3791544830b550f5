"""`eaa.https` from inside: who is judged how, what is shared, what is renewed, what the caller gets to know."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import ssl
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaa.appraise.policy import PolicyFile
from eaa.appraise.result import Accepted, BindingLevel, Role
from eaa.collateral.bundle import Collateral
from eaa.errors import EAAError, MalformedInput, Misuse, Reason, Rejection, Unavailable, VerificationError
from eaa.evidence.tagged import Endorsements
from eaa.https import (
    AttestationFailed,
    AttestedContext,
    Peer,
    client_context,
    peer_of,
    refusal_of,
    selftest,
    server_context,
    trust,
)
from eaa.https import (
    context as context_module,
)
from eaa.https.handshake import Handshake, leaf_of
from eaa.identity import Credentials
from eaa.sources.endorsements import VERSION, members_of
from eaa.tls.certificate import create_certificate
from support.https_memory import Keys, Wire, attested, stranger
from support.https_peers import serving
from support.https_world import Source, identity, new_identity, new_verifier, platform, verifier

PATIENCE = 60


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def refusal(wire: Wire, side: str) -> AttestationFailed:
    """Why that side refused the other."""
    failure = wire.handshake().outcome.get(side)
    assert isinstance(failure, AttestationFailed), failure
    return failure


# --- who is judged how


def test_both_ends_know_each_other_after_the_handshake() -> None:
    client = client_context(verifier(), identity=identity("client"))
    wire = Wire(client, server_context(identity("workload"), verifier=verifier()))
    ends: list[Any] = [wire.client, wire.server]
    assert [end.peer for end in ends] == [None, None]
    assert wire.handshake().connected
    assert [end.peer.verdict.reference_value for end in ends] == ["workload", "client"]
    assert [end.peer.level for end in ends] == [BindingLevel.CERT, BindingLevel.CERT]
    assert ends[0].peer.facts.simulated
    assert ends[0].peer.certificate.spki_der == identity("workload").credentials().spki_der


def test_the_peer_is_found_in_what_libraries_hand_out() -> None:
    """httpx hands out the object under the socket, asyncio the one that was wrapped."""
    context = client_context(verifier())
    with serving("uvicorn-asyncio", server_context(identity("workload"))) as served:
        with httpx.Client(verify=context, trust_env=False) as client:
            answer = client.get(served.url)
        assert peer_of(answer) is None, "the connection is closed, and its socket gone"
        with httpx.Client(verify=context, trust_env=False) as client:
            assert _workload(peer_of(client.get(served.url)))
        asyncio.run(_look_at_peers(served.url, context))
    assert peer_of(object()) is None
    assert peer_of(None) is None


def _workload(peer: Peer | None) -> bool:
    return peer is not None and peer.verdict.reference_value == "workload"


async def _look_at_peers(url: str, context: AttestedContext) -> None:
    async with httpx.AsyncClient(verify=context, trust_env=False) as client:
        assert _workload(peer_of(await client.get(url)))
    host, port = url.removeprefix("https://").rstrip("/").split(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    assert _workload(peer_of(writer))
    assert _workload(peer_of(writer.transport))
    writer.close()
    await writer.wait_closed()


def test_a_role_is_this_sides_word() -> None:
    """A workload that connects as a client is no client, and the other way round."""
    server = server_context(identity("workload"), verifier=verifier())
    wire = Wire(client_context(verifier(), identity=identity("workload")), server)
    assert refusal(wire, "server").reason is Reason.ROLE_MISMATCH
    peers = server_context(identity("workload"), verifier=verifier(), role=Role.WORKLOAD)
    assert Wire(client_context(verifier(), identity=identity("workload")), peers).handshake().connected


def test_the_strict_policy_wants_more_than_a_certificate_can_prove() -> None:
    strict = new_verifier(policy=PolicyFile())
    strict.judge(identity("workload").credentials().quote, role=Role.WORKLOAD, session=None)
    failure = refusal(Wire(client_context(strict), server_context(identity("workload"))), "client")
    assert failure.reason is Reason.BINDING_TOO_WEAK
    assert [check.name for check in failure.failed_checks] == ["binding"]
    assert len(failure.checks) > 1


def test_a_server_without_a_verifier_asks_nobody() -> None:
    wire = Wire(client_context(verifier()), server_context(identity("workload")))
    assert wire.handshake().connected
    assert wire.server.getpeercert(binary_form=True) is None


def test_names_in_a_certificate_are_not_handed_out_as_if_somebody_vouched_for_them() -> None:
    """An empty dictionary, as the standard library has it of a certificate that it did not validate; and the DER."""
    keys = Keys.create()
    wire = Wire(attested(Keys.create(), server_side=False), attested(keys, server_side=True)).handshake()
    assert wire.connected
    assert wire.client.getpeercert() == {}
    assert wire.client.getpeercert(binary_form=True) == keys.certificate


def shown_by(keys: Keys) -> AttestationFailed:
    """Why a server with these keys is refused."""
    return refusal(Wire(client_context(verifier()), stranger(keys, server_side=True)), "client")


def remade(
    *, start: timedelta = -timedelta(hours=1), end: timedelta = timedelta(hours=1), other_key: bool = False
) -> Keys:
    """The workload's certificate with other dates, or its evidence under another key."""
    credentials = identity("workload").credentials()
    key = Keys.create().private_key if other_key else credentials.private_key
    now = datetime.now(UTC)
    made = create_certificate(key, evidence=credentials.evidence, not_before=now + start, not_after=now + end)
    return Keys(key, made)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (lambda: remade(end=-timedelta(minutes=1)), Reason.CERTIFICATE_EXPIRED),
        (lambda: remade(start=timedelta(minutes=30)), Reason.CERTIFICATE_NOT_YET_VALID),
        (lambda: remade(other_key=True), Reason.CLAIMS_MISMATCH),
    ],
)
def test_a_certificate_is_judged_like_its_evidence(keys: Callable[[], Keys], reason: Reason) -> None:
    assert shown_by(keys()).reason is reason


def test_an_acceptance_for_something_else_opens_nothing() -> None:
    class Confused:
        now = staticmethod(lambda: datetime.now(UTC))

        def judge_now(self, *arguments: Any, **options: Any) -> Any:
            judgement = verifier().judge_now(*arguments, **options)
            assert isinstance(judgement.result, Accepted)
            return replace(judgement, result=replace(judgement.result, report_data=bytes(64)))

    failure = refusal(Wire(client_context(Confused()), server_context(identity("workload"))), "client")
    assert failure.reason is Reason.RESULT_FOR_OTHER_EVIDENCE


def test_a_verifier_that_breaks_lets_nobody_in() -> None:
    class Broken:
        def now(self) -> datetime:
            raise ZeroDivisionError

        def judge_now(self, *_arguments: Any, **_options: Any) -> Any:
            raise ZeroDivisionError

    failure = refusal(Wire(client_context(Broken()), server_context(identity("workload"))), "client")
    assert failure.reason is Reason.INTERNAL
    assert isinstance(failure.error.__cause__, ZeroDivisionError)


class Counting:
    """A verifier that counts what it is asked, and whose clock a test sets."""

    def __init__(self) -> None:
        self.asked = 0
        self.ahead = timedelta(0)
        self.accepts = True

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def judge_now(self, evidence: bytes | None, **options: Any) -> Any:
        self.asked += 1
        return verifier().judge_now(evidence if self.accepts else None, **options)


def test_an_acceptance_serves_again_for_a_second_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monotonic = [1000.0]
    monkeypatch.setattr("eaa.https.judging.monotonic", lambda: monotonic[0])
    fixed = datetime.now(UTC)
    counting = Counting()
    monkeypatch.setattr(counting, "now", lambda: fixed + counting.ahead)
    client, server = client_context(counting), server_context(identity("workload"))

    def asked() -> int:
        before = counting.asked
        Wire(client, server).handshake()
        return counting.asked - before

    assert [asked(), asked()] == [1, 0]
    counting.ahead = timedelta(seconds=1)
    assert [asked(), asked()] == [1, 0]
    counting.ahead = timedelta(0)
    assert asked() == 1, "the clock was set back"
    monotonic[0] += 1.0
    assert asked() == 1, "the clock stands still"
    counting.ahead = timedelta(days=2)
    assert refusal(Wire(client, server), "client").reason is Reason.CERTIFICATE_EXPIRED


def test_a_refusal_is_not_remembered() -> None:
    counting = Counting()
    counting.accepts = False
    client, server = client_context(counting), server_context(identity("workload"))
    for _ in range(3):
        assert refusal(Wire(client, server), "client").reason is Reason.NO_EVIDENCE
    counting.accepts = True
    assert Wire(client, server).handshake().connected
    assert counting.asked == 4


def test_an_acceptance_serves_only_the_verifier_and_role_that_gave_it() -> None:
    """What is remembered belongs to one context."""
    server = server_context(identity("client"))
    assert Wire(client_context(verifier(), role=Role.CLIENT), server).handshake().connected
    assert refusal(Wire(client_context(verifier()), server), "client").reason is Reason.ROLE_MISMATCH


# --- no network inside a handshake


def test_collateral_that_is_missing_is_fetched_elsewhere() -> None:
    """The first handshake is refused for now; it has waited for nobody."""
    threads: list[threading.Thread] = []
    may_go_on = threading.Event()

    class Slow(Source):
        def fetch(self, **model: object) -> Collateral:
            threads.append(threading.current_thread())
            assert may_go_on.wait(PATIENCE)
            return super().fetch(**model)

    new = new_verifier(Slow())
    client, server = client_context(new), server_context(identity("workload"))
    try:
        for _ in range(3):
            failure = refusal(Wire(client, server), "client")
            assert failure.reason is Reason.COLLATERAL_PENDING
            assert isinstance(failure.error, Unavailable)
        may_go_on.set()
        until(lambda: Wire(client, server).handshake().connected)
        assert threading.current_thread() not in threads
        assert len(threads) == 1
    finally:
        may_go_on.set()
        new.close()


def test_collateral_that_a_certificate_carries_is_used_where_there_is_none() -> None:
    """It is the vendor's word, whoever carries it; it is read once fetching has failed."""
    source = Source()
    source.fails = True
    new = new_verifier(source, accept_stapled_collateral=True)
    credentials = identity("workload").credentials()
    now = datetime.now(UTC)
    carried = create_certificate(
        credentials.private_key,
        evidence=credentials.evidence,
        not_before=now - timedelta(hours=1),
        not_after=now + timedelta(hours=1),
        endorsements=Endorsements(version=VERSION, **members_of(platform().collateral(now=now))),
    )
    try:
        client = client_context(new)
        server = stranger(Keys(credentials.private_key, carried), server_side=True)
        until(lambda: Wire(client, server).handshake().connected)
    finally:
        new.close()


# --- what is shared, and what is renewed


def test_no_context_is_built_for_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_context(verifier(), identity=identity("client"))
    server = server_context(identity("workload"), verifier=verifier())
    built: list[object] = []
    monkeypatch.setattr(trust, "restrict", lambda context, **_: built.append(context))
    for _ in range(20):
        assert Wire(client, server).handshake().connected
    assert built == []


def leaf_seen(client: ssl.SSLContext, server: ssl.SSLContext) -> bytes | None:
    """The server's leaf, as a client sees it."""
    wire = Wire(client, server).handshake()
    assert wire.connected
    return wire.client.getpeercert(binary_form=True)


class Renewing:
    """An identity whose credentials change when a test says so."""

    def __init__(self) -> None:
        self.current = identity("workload").credentials()
        self.fails = False

    def credentials(self) -> Credentials:
        if self.fails:
            raise Unavailable(Reason.QUOTE_UNAVAILABLE, "a test took the TEE away")
        return self.current


def test_new_credentials_are_shown_to_new_connections_and_old_ones_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_module, "RENEWAL_POLL", 0.01)
    renewing = Renewing()
    client, server = client_context(verifier()), server_context(renewing)
    old = Wire(client, server).handshake()
    assert old.connected
    renewing.current = new_identity("workload").credentials()
    until(lambda: leaf_seen(client, server) == renewing.current.certificate)
    old.server.write(b"still here")
    assert old.client.read(100) == b"still here"


def test_credentials_that_cannot_be_had_leave_those_there_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(context_module, "RENEWAL_POLL", 0.01)
    caplog.set_level(logging.WARNING, "eaa.https")
    renewing = Renewing()
    client, server = client_context(verifier()), server_context(renewing)
    renewing.fails = True
    assert leaf_seen(client, server) == renewing.current.certificate
    until(lambda: "QUOTE_UNAVAILABLE" in caplog.text)
    assert leaf_seen(client, server) == renewing.current.certificate
    renewing.fails, renewing.current = False, new_identity("workload").credentials()
    until(lambda: leaf_seen(client, server) == renewing.current.certificate)


def test_a_process_that_lost_its_threads_watches_again() -> None:
    """As after a fork."""
    server = server_context(identity("workload"))
    Wire(client_context(verifier()), server)
    first = server._watch
    assert first is not None
    assert first.is_alive()
    Wire(client_context(verifier()), server)
    assert server._watch is first
    server._watched_in = 0
    Wire(client_context(verifier()), server)
    assert server._watch is not first
    assert server._watch.is_alive()


def test_a_context_that_nobody_needs_is_gone_with_its_thread() -> None:
    server = attested(Keys.create(), server_side=True)
    assert Wire(attested(Keys.create(), server_side=False), server).handshake().connected
    thread, reference = server._watch, weakref.ref(server)
    assert thread is not None
    del server
    gc.collect()
    assert reference() is None
    until(lambda: not thread.is_alive())


def test_keys_are_read_without_memory_files_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every system has them, enclaves do not; what lies on a disk then is encrypted, and gone at once."""

    def refuse(*_: object) -> int:
        raise OSError

    monkeypatch.setattr("os.memfd_create", refuse)
    assert Wire(client_context(verifier()), server_context(new_identity("workload"))).handshake().connected


def test_a_key_of_another_certificate_is_a_mistake() -> None:
    with pytest.raises(Misuse):
        attested(Keys(Keys.create().private_key, Keys.create().certificate), server_side=True)


@pytest.mark.parametrize("first", ["names first", "context first"])
def test_protocols_that_libraries_ask_for_are_agreed_on(first: str) -> None:
    client, server = client_context(verifier()), server_context(identity("workload"))
    for context in (client, server):
        context.set_alpn_protocols(["h2", "http/1.1"])
    if first == "names first":
        server._find_credentials = new_identity("workload").credentials
        server.renew()
    wire = Wire(client, server).handshake()
    assert wire.connected
    assert wire.client.selected_alpn_protocol() == "h2"


# --- what the caller gets to know


def test_refusals_are_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "eaa.https")
    server = server_context(identity("workload"), verifier=verifier())
    for enclave in ("impostor", "bare", "impostor"):
        refusal(Wire(client_context(verifier(), identity=identity(enclave)), server), "server")
    assert server.refusals == {Reason.MEASUREMENT_MISMATCH: 2, Reason.NO_EVIDENCE: 1}
    assert len(caplog.records) == 3


def test_each_end_logs_whom_it_has_accepted_and_at_what_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "eaa.https")
    server = server_context(identity("workload"), verifier=verifier())
    assert Wire(client_context(verifier(), identity=identity("client")), server).handshake().connected
    assert sorted(caplog.messages) == [f"accepted a {role} as {role} at level cert" for role in ("client", "workload")]


def test_a_client_that_was_refused_is_told_when_it_reads() -> None:
    server = server_context(identity("workload"), verifier=verifier())
    wire = Wire(client_context(verifier(), identity=identity("impostor")), server).handshake()
    assert wire.outcome["client"] is None
    with pytest.raises(AttestationFailed) as refused:
        wire.client.read(1)
    assert refused.value.reason is Reason.PEER_REJECTED_US
    assert refused.value.hint


def _raised_in_turn() -> BaseException:
    try:
        try:
            raise AttestationFailed(Rejection(Reason.NO_EVIDENCE, "none"))
        except ssl.SSLError as error:
            raise OSError("a library's word for it") from error
    except OSError:
        return _raised()


def _raised() -> BaseException:
    try:
        _raise()
    except RuntimeError as error:
        return error
    raise AssertionError


def _raise() -> None:
    raise RuntimeError("another one's")


FAILED = AttestationFailed(VerificationError(Reason.NO_EVIDENCE, "none"))


@pytest.mark.parametrize(
    "error",
    [
        FAILED,
        VerificationError(Reason.NO_EVIDENCE, "none"),
        _raised_in_turn(),
        OSError(FAILED),
        ExceptionGroup("several at once", [ValueError(), OSError(FAILED)]),
    ],
    ids=["itself", "of ours", "cause and context", "argument", "group"],
)
def test_a_refusal_is_found_in_what_a_library_raises(error: BaseException) -> None:
    found = refusal_of(error)
    assert found is not None
    assert found.reason is Reason.NO_EVIDENCE
    assert isinstance(found.error, EAAError)
    assert found.checks == ()


def test_where_nothing_was_refused_nothing_is_found() -> None:
    error = OSError("the network")
    error.__context__ = ValueError(error)
    assert refusal_of(error) is None


def test_an_exception_says_it_all_in_one_line() -> None:
    text = str(AttestationFailed(Unavailable(Reason.COLLATERAL_PENDING, "not here yet", hint="try again")))
    assert "COLLATERAL_PENDING: not here yet (hint: try again)" in text


# --- the self-test


def test_importing_loads_no_event_loop_and_no_library() -> None:
    script = "import json, sys, eaa.https; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"asyncio", "requests", "hypercorn", "httpx", "uvicorn", "aiohttp", "urllib3"}


def test_importing_the_package_runs_no_self_test() -> None:
    script = "import sys, eaa, eaa.errors; print('ssl' in sys.modules or 'eaa.https' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


PATCHES = {
    "handshakes do nothing": "ssl.SSLObject.do_handshake = lambda self: None",
    "handshakes on sockets do nothing": "ssl.SSLSocket.do_handshake = lambda self, block=False: None",
    "sockets cannot be wrapped": "ssl.SSLSocket.getpeername = lambda self: 1 / 0",
    "sockets of somebody else": "ssl.SSLSocket = type('SSLSocket', (ssl.SSLSocket,), {'__module__': 'green.ssl'})",
    "contexts of somebody else": "ssl.SSLContext = type('SSLContext', (ssl.SSLContext,), {'__module__': 'green.ssl'})",
    "everybody is trusted": "ssl.SSLContext.verify_mode = property(lambda self: 0, lambda self, value: None)",
    "another wrapper": "ssl.SSLContext.wrap_bio = "
    "lambda self, i, o, server_side=False, server_hostname=None, session=None: "
    "ssl.SSLObject._create(i, o, server_side, server_hostname, context=ssl.SSLContext(self.protocol))",
}


@pytest.mark.parametrize("patch", PATCHES)
def test_a_patched_ssl_module_is_refused_at_import(patch: str) -> None:
    attempt = "try:\n import eaa.https\nexcept Misuse as error:\n print(error.reason)"
    script = f"import ssl\nfrom eaa.errors import Misuse\n{PATCHES[patch]}\n{attempt}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{Reason.TLS_SELF_TEST_FAILED}\n"


def _never_called(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(AttestedContext, "_wrap_bio")


def _accepts_what_is_refused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Handshake, "on_certificate", _trusting)


def _trusting(self: Any, ssl_object: Any, _version: int, message: bytes) -> None:
    self.certificate = leaf_of(message)
    ssl_object.context = self._trust(self.certificate)


@pytest.mark.parametrize("change", [_never_called, _accepts_what_is_refused])
def test_what_does_not_behave_does_not_start(
    change: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    selftest.run()
    change(monkeypatch)
    with pytest.raises(Misuse) as refused:
        selftest.run()
    assert refused.value.reason is Reason.TLS_SELF_TEST_FAILED


# --- the Certificate message


def message_of(*certificates: bytes, context: bytes = b"") -> bytes:
    """A Certificate message of TLS 1.3."""
    entries = b"".join(len(der).to_bytes(3) + der + b"\0\0" for der in certificates)
    content = bytes([len(context)]) + context + len(entries).to_bytes(3) + entries
    return b"\x0b" + len(content).to_bytes(3) + content


@given(st.binary(min_size=1, max_size=300), st.binary(max_size=20))
def test_a_leaf_is_taken_out_of_its_message(certificate: bytes, context: bytes) -> None:
    message = message_of(certificate, context=context)
    assert leaf_of(message) == certificate
    assert leaf_of(message_of(context=context)) is None


@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_cut_message_is_none(certificate: bytes, data: st.DataObject) -> None:
    message = message_of(certificate)
    cut = data.draw(st.integers(0, len(message) - 1))
    with pytest.raises(MalformedInput):
        leaf_of(message[:cut])
    with pytest.raises(MalformedInput):
        leaf_of(message + b"\0")


@given(st.binary(max_size=200))
def test_any_message_is_read_or_refused(data: bytes) -> None:
    with suppress(MalformedInput, VerificationError):
        leaf_of(b"\x0b" + len(data).to_bytes(3) + data)


def test_an_empty_certificate_is_none() -> None:
    with pytest.raises(MalformedInput):
        leaf_of(message_of(b""))
