"""eaa-pccs as operators run it: started, spoken to over the wire, stopped, killed; real processes over loopback."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from eaa.pccs.server import BODY_TIMEOUT
from eaa.simulator.pki import SimulatedPKI
from eaa.simulator.platform import Platform
from support.pccs import (
    NOW,
    PROGRAM,
    REQUEST_TIMEOUT,
    TOKEN,
    V4,
    RunningPCCS,
    encode,
    environment,
    pckcert_query,
    platform,
    running_pccs,
    upload_body,
    upload_document,
)
from support.tls_files import TLSFiles, make_ca

FMSPC = platform().model.fmspc.hex().upper()
TCB = f"{V4}/tcb?fmspc={FMSPC}"


@pytest.fixture(scope="module")
def pccs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPCCS]:
    with running_pccs(tmp_path_factory.mktemp("pccs")) as running:
        assert running.put(upload_body()).status == 200
        yield running


def run(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """The program run to its end."""
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=REQUEST_TIMEOUT, check=False, env=environment(folder)
    )


def one_line(outcome: subprocess.CompletedProcess[str], reason: str) -> bool:
    """Whether stderr is one error with this reason, and at most a hint behind it."""
    first, *rest = [line for line in outcome.stderr.splitlines() if not line.startswith("eaa-pccs: warning: ")]
    is_error = first.startswith("eaa-pccs: error: ") and first.endswith(f"[{reason}]")
    return is_error and (rest == [] or (len(rest) == 1 and rest[0].startswith("eaa-pccs: hint: ")))


# --- over the wire


def test_headers_that_clients_look_for_survive_the_engine(pccs: RunningPCCS) -> None:
    answer = pccs.get(TCB)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["tcb-info-issuer-chain"].startswith("-----BEGIN%20CERTIFICATE-----%0A")
    assert (answer.headers["connection"], answer.headers["keep-alive"]) == ("keep-alive", "timeout=60")
    assert len(answer.headers["request-id"]) == 32
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["server"] == "eaa-pccs"
    assert not {"x-powered-by", "cache-control", "transfer-encoding"} & set(answer.headers)


READS: Final = (
    TCB,
    f"{V4}/qe/identity",
    f"{V4}/qve/identity",
    f"{V4}/pckcrl?ca=platform",
    f"{V4}/pckcrl?ca=platform&encoding=der",
    f"{V4}/rootcacrl",
    f"{V4}/pckcert?{pckcert_query(upload_document())}",
)


@pytest.mark.parametrize("target", READS)
def test_an_answer_that_is_ready_is_the_answer_that_was_rendered(pccs: RunningPCCS, target: str) -> None:
    """What comes from the engine's own thread differs from what is rendered in its Request-ID and in nothing else."""
    pccs.get(target)
    ready, again = pccs.get(target), pccs.get(target)
    rendered = pccs.get(f"{target}{'&' if '?' in target else '?'}other=1")
    each = [{**answer.headers, "date": "", "request-id": ""} for answer in (ready, again, rendered)]
    assert each[0] == each[1] == each[2]
    assert ready.body == again.body == rendered.body
    assert len({answer.headers["request-id"] for answer in (ready, again, rendered)}) == 3


def test_head_options_and_conditions_survive_it_too(pccs: RunningPCCS) -> None:
    full = pccs.get(TCB)
    head = pccs.request("HEAD", TCB)
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(full.body)))
    assert pccs.get(TCB, if_none_match=full.headers["etag"]).status == 304
    options = pccs.request("OPTIONS", TCB)
    assert (options.status, options.headers["allow"], options.body) == (200, "GET,HEAD", b"GET,HEAD")


def test_statuses_of_its_own_survive_it_too(pccs: RunningPCCS) -> None:
    unknown = f"{V4}/pckcert?qeid=00&cpusvn={'00' * 16}&pcesvn=0000&pceid=0000"
    assert pccs.get(unknown).status == 461
    assert pccs.put(encode(two_roots())).status == 460


def two_roots() -> dict[str, object]:
    document = upload_document()
    other = Platform.create(now=NOW, pki=SimulatedPKI.create(now=NOW, seed=bytes(32)))
    foreign = json.loads(other.platform_collaterals(now=NOW))["collaterals"]["certificates"]
    name = "TCB-Info-Issuer-Chain"
    document["collaterals"]["certificates"][name] = foreign[name]
    return document


def test_an_encoded_path_is_shown_as_it_was_asked_for(pccs: RunningPCCS) -> None:
    answer = pccs.get("/a%20b/%3Cscript%3E?x=1")
    assert answer.status == 404
    assert b"<pre>Cannot GET /a%20b/%3Cscript%3E</pre>" in answer.body


def test_a_body_past_the_limit_is_refused(pccs: RunningPCCS) -> None:
    limit = 2 * 1024 * 1024
    assert pccs.put(b" " * (limit + 1)).status == 413
    assert pccs.put(b" " * limit).status == 400


def test_a_body_past_the_limit_is_refused_when_its_length_is_not_announced(pccs: RunningPCCS) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", pccs.port), timeout=REQUEST_TIMEOUT) as client:
        client.sendall(
            f"PUT {V4}/platformcollateral HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            f"Content-Type: application/json\r\nadmin-token: {TOKEN}\r\n\r\n".encode()
        )
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(33):
                client.sendall(chunk)
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_body_is_not_read_before_the_token_is_right(pccs: RunningPCCS) -> None:
    """A stranger cannot make the service hold megabytes, nor wait for them."""
    with socket.create_connection(("127.0.0.1", pccs.port), timeout=REQUEST_TIMEOUT) as client:
        client.sendall(
            f"PUT {V4}/platformcollateral HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n"
            "Content-Type: application/json\r\nadmin-token: wrong\r\n\r\n".encode()
        )
        assert client.recv(4096).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0" * 1000,
    ],
)
def test_junk_costs_its_own_connection_and_nothing_else(pccs: RunningPCCS, junk: bytes) -> None:
    client = socket.create_connection(("127.0.0.1", pccs.port), timeout=REQUEST_TIMEOUT)
    with client, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.sendall(junk)
        with contextlib.suppress(OSError):
            # It may have hung up already.
            client.shutdown(socket.SHUT_WR)
        answer = client.recv(4096)
        assert not answer or answer.startswith(b"HTTP/1.1 4")
    assert pccs.get(TCB).status == 200


def test_a_service_out_of_descriptors_recovers(tmp_path: Path) -> None:
    with running_pccs(tmp_path) as running:
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (40, 40))
        with contextlib.ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=REQUEST_TIMEOUT))
            time.sleep(0.2)
        assert running.get(f"{V4}/rootcacrl").status == 404


def test_clients_that_stall_keep_nobody_waiting(pccs: RunningPCCS) -> None:
    with contextlib.ExitStack() as stack:
        for begin in (b"", b"GET / HT", f"PUT {V4}/platformcollateral HTTP/1.1\r\nContent-Length: 9\r\n".encode()):
            for _ in range(40):
                client = stack.enter_context(
                    socket.create_connection(("127.0.0.1", pccs.port), timeout=REQUEST_TIMEOUT)
                )
                client.sendall(begin)
        started = time.monotonic()
        assert pccs.get(TCB).status == 200
        # Before any of them is out of time.
        assert time.monotonic() - started < BODY_TIMEOUT


# --- its life


def test_it_is_one_process_and_leaves_none_behind_when_it_is_killed(tmp_path: Path) -> None:
    with running_pccs(tmp_path) as running:
        children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text()
        assert children == ""
        running.process.kill()
        running.process.wait()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", running.port), timeout=REQUEST_TIMEOUT)


@pytest.mark.parametrize(("with_signal", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_it_stops_soon_whatever_its_clients_do(tmp_path: Path, with_signal: signal.Signals, code: int) -> None:
    with running_pccs(tmp_path) as running, contextlib.ExitStack() as stack:
        for begin in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=REQUEST_TIMEOUT))
            client.sendall(begin)
        # One more, in the middle of its upload.
        client = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=REQUEST_TIMEOUT))
        client.sendall(
            f"PUT {V4}/platformcollateral HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n"
            f"Content-Type: application/json\r\nadmin-token: {TOKEN}\r\n\r\n{{".encode()
        )
        time.sleep(0.2)
        started = time.monotonic()
        assert running.stop(with_signal) == code
        # Each of them would have had more.
        assert time.monotonic() - started < BODY_TIMEOUT
        said = running.said()
        assert "Traceback" not in said
        assert "panicked" not in said


def test_what_it_was_given_is_there_when_it_starts_again(tmp_path: Path) -> None:
    with running_pccs(tmp_path) as first:
        first.put(upload_body())
        body = first.get(TCB).body
        # Not stopped: killed.
    with running_pccs(tmp_path) as second:
        assert second.get(TCB).body == body


PATIENT: Final = (
    sys.executable,
    "-c",
    "from eaa.pccs import cli, server; server.DRAIN_TIMEOUT = server._LINGER = 60.0; cli.main()",
)
"""The program with more time for what is in progress than a busy machine takes for it."""


def test_an_answer_in_progress_is_finished_before_it_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.pccs.PROGRAM", PATIENT)
    with running_pccs(tmp_path) as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=REQUEST_TIMEOUT) as client:
            body = upload_body()
            client.sendall(
                f"PUT {V4}/platformcollateral HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
                "Expect: 100-continue\r\n"
                f"Content-Type: application/json\r\nadmin-token: {TOKEN}\r\n\r\n".encode()
            )
            # It reads on, so it is in the middle of this request.
            assert client.recv(4096).startswith(b"HTTP/1.1 100 ")
            client.sendall(body[:-1])
            running.process.terminate()
            wait_until(lambda: not is_served(running.port))
            assert running.process.poll() is None
            client.sendall(body[-1:])
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert running.process.wait(timeout=REQUEST_TIMEOUT) == 143


def is_served(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_serve_may_be_left_out_or_said(tmp_path: Path) -> None:
    outcome = run("serve", "--listen", "127.0.0.1:99999", folder=tmp_path)
    assert outcome.returncode == 2
    assert one_line(outcome, "ADDRESS_INVALID")


# --- what can be wrong when it starts


def test_a_port_that_is_taken_is_named(pccs: RunningPCCS, tmp_path: Path) -> None:
    outcome = run("--listen", f"127.0.0.1:{pccs.port}", "--db", tmp_path / "db", folder=tmp_path)
    assert (outcome.returncode, outcome.stdout) == (4, "")
    assert one_line(outcome, "ADDRESS_IN_USE")
    assert pccs.get(TCB).status == 200


def test_an_address_that_is_not_ours_is_named(tmp_path: Path) -> None:
    outcome = run("--listen", "192.0.2.1:0", "--db", tmp_path / "db", folder=tmp_path)
    assert outcome.returncode == 4
    assert one_line(outcome, "CONNECTION_FAILED")


def test_a_host_that_nobody_knows_is_named(tmp_path: Path) -> None:
    outcome = run("--listen", "no-such-host.invalid:0", "--db", tmp_path / "db", folder=tmp_path)
    assert outcome.returncode == 4
    assert one_line(outcome, "ADDRESS_UNRESOLVED")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--listen", "unix:///tmp/pccs.sock"), "ADDRESS_INVALID"),
        (("--listen", "nonsense"), "ADDRESS_INVALID"),
        (("--admin-token-file", "missing"), "FILE_UNREADABLE"),
        (("--admin-token-file", "empty"), "FILE_UNREADABLE"),
        (("--admin-token-file", "two-lines"), "FILE_UNREADABLE"),
        (("--admin-token-file", "long"), "FILE_UNREADABLE"),
        (("--tls-cert", "empty"), "USAGE"),
        (("--tls-cert", "empty", "--tls-key", "empty"), "FILE_UNREADABLE"),
        (("--tls-cert", "missing", "--tls-key", "missing"), "FILE_UNREADABLE"),
        (("--db", "two-lines"), "DATABASE_INVALID"),
        (("--nonsense",), "USAGE"),
        (("nonsense",), "USAGE"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(tmp_path: Path, arguments: tuple[str, ...], reason: str) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "two-lines").write_text("one and something\ntwo\n")
    (tmp_path / "long").write_text("x" * 2000)
    command = [*PROGRAM, "--listen", "127.0.0.1:0"] if arguments[0].startswith("--") else [*PROGRAM]
    outcome = subprocess.run(
        [*command, *arguments],
        capture_output=True, text=True, timeout=REQUEST_TIMEOUT, check=False, cwd=tmp_path, env=environment(tmp_path),
    )  # fmt: skip
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert one_line(outcome, reason), outcome.stderr


def test_without_a_token_it_says_so_and_uploads_are_refused(tmp_path: Path) -> None:
    with running_pccs(tmp_path, token=None) as running:
        assert "no administrator token is set" in running.said()
        assert running.put(upload_body()).status == 401


def test_a_token_file_may_hold_a_hash(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text(TOKEN)
    (tmp_path / "plain").chmod(0o600)
    line = run("hash-token", tmp_path / "plain", folder=tmp_path).stdout.strip()
    assert line.startswith("scrypt$")
    with running_pccs(tmp_path, token=line) as running:
        assert running.put(upload_body()).status == 200
        assert running.put(upload_body(), headers={"admin-token": "wrong"}).status == 401
        assert running.put(upload_body(), headers={"admin-token": line}).status == 401


def test_many_guesses_hold_up_nobody(tmp_path: Path) -> None:
    with running_pccs(tmp_path) as running, ThreadPoolExecutor(60) as pool:
        assert running.put(upload_body()).status == 200
        guesses = pool.map(
            lambda number: running.put(b"{}", headers={"admin-token": f"guess {number}"}).status, range(120)
        )
        began = time.monotonic()
        assert running.get(TCB).status == 200
        assert time.monotonic() - began < BODY_TIMEOUT
        assert set(guesses) <= {401, 503}
        assert running.put(upload_body()).status == 200


def test_a_token_that_others_can_read_or_guess_is_warned_of(tmp_path: Path) -> None:
    with running_pccs(tmp_path, token="guess") as running:
        assert "can guess" in running.said()
    (tmp_path / "token").chmod(0o644)
    with running_pccs(tmp_path) as running:
        assert "is readable by others" in running.said()


def test_the_database_lies_in_the_user_s_data_folder_by_default(tmp_path: Path) -> None:
    with running_pccs(tmp_path, "--db", str(tmp_path / "named.sqlite")):
        assert (tmp_path / "named.sqlite").exists()
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*PROGRAM, "--listen", "127.0.0.1:0"], stdout=stream, stderr=stream, env=environment(tmp_path)
        )
    try:
        wait_until(lambda: "listening on" in log.read_text())
        assert (tmp_path / "data" / "eaa" / "pccs.sqlite").stat().st_mode & 0o777 == 0o600
    finally:
        process.kill()
        process.wait()


def wait_until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + REQUEST_TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- https


@pytest.fixture(scope="module")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> TLSFiles:
    return make_ca(tmp_path_factory.mktemp("tls"))


def test_https_speaks_tls_1_2_and_1_3_and_nothing_older(tmp_path: Path, tls_files: TLSFiles) -> None:
    with running_pccs(tmp_path, *tls_files.options) as running:
        assert running.url.startswith("https://127.0.0.1:")
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = tls_files.client_context()
            context.minimum_version = context.maximum_version = version
            answer = running.request("GET", f"{V4}/rootcacrl", context=context)
            assert answer.status == 404
        assert running.stop() == 143


def test_it_makes_a_certificate_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    with running_pccs(tmp_path, "--tls-dir", str(folder)) as running:
        ca = (folder / "ca.pem").read_text()
        context = ssl.create_default_context(cadata=ca)
        assert running.request("GET", "/healthz/live", context=context).status == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            running.request("GET", "/healthz/live", context=ssl.create_default_context())
    with running_pccs(tmp_path, "--tls-dir", str(folder)) as running:
        assert running.request("GET", "/healthz/live", context=context).status == 200
    assert (folder / "ca.pem").read_text() == ca


def test_the_upload_command_verifies_the_server(tmp_path: Path, tls_files: TLSFiles) -> None:
    file = tmp_path / "upload.json"
    file.write_bytes(upload_body())
    with running_pccs(tmp_path, *tls_files.options) as running:
        common = ("upload", file, "--url", running.url, "--admin-token-file", running.token_file)
        untrusted = run(*common, folder=tmp_path)
        assert untrusted.returncode == 4
        assert one_line(untrusted, "PCCS_UNREACHABLE")
        assert run(*common, "--ca", tls_files.ca, folder=tmp_path).returncode == 0


def test_a_key_that_needs_a_password_is_refused_and_nobody_is_asked(tmp_path: Path, tls_files: TLSFiles) -> None:
    options = replace(tls_files, key=tls_files.locked_key).options
    outcome = run(*options, "--listen", "127.0.0.1:0", folder=tmp_path)
    assert outcome.returncode == 2
    assert one_line(outcome, "FILE_UNREADABLE")


# --- upload


def test_upload_stores_a_file_in_a_pccs(pccs: RunningPCCS, tmp_path: Path) -> None:
    file = tmp_path / "platform_collaterals.json"
    file.write_text(json.dumps(upload_document()))
    common = ("upload", file, "--url", pccs.url, "--admin-token-file", pccs.token_file)
    outcome = run(*common, folder=tmp_path)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert str(file) in outcome.stdout
    as_json = json.loads(run(*common, "--json", folder=tmp_path).stdout)
    assert as_json == {
        "stored": True, "reason": None, "message": f"{file} is stored at {pccs.url}", "hint": None
    }  # fmt: skip


def test_upload_says_what_is_wrong(pccs: RunningPCCS, tmp_path: Path) -> None:
    good, bad, wrong_token = tmp_path / "good", tmp_path / "bad", tmp_path / "wrong"
    good.write_bytes(upload_body())
    bad.write_text("{}")
    wrong_token.write_text("another token than theirs")
    nowhere = "http://127.0.0.1:1/"
    cases = [
        ((bad, pccs.url, pccs.token_file), 3, "COLLATERAL_MALFORMED"),
        ((good, pccs.url, wrong_token), 4, "PERMISSION_DENIED"),
        ((good, nowhere, pccs.token_file), 4, "PCCS_UNREACHABLE"),
        ((good, "ftp://x/", pccs.token_file), 2, "ADDRESS_INVALID"),
        ((tmp_path / "missing", pccs.url, pccs.token_file), 2, "FILE_UNREADABLE"),
    ]
    for (file, url, token), code, reason in cases:
        outcome = run("upload", file, "--url", url, "--admin-token-file", token, "--json", folder=tmp_path)
        assert outcome.returncode == code, outcome.stderr
        answer = json.loads(outcome.stdout)
        assert (answer["stored"], answer["reason"]) == (False, reason)
        assert reason in outcome.stderr
