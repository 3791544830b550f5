"""Any application: an unmodified server behind `--app`, and any client in front of `shelter connect`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from eaa.errors import Reason
from support.applications import PIECE, application, journal_of, pattern
from support.flow import NOBODY, ROOT, answer_of, evidence_of, free_port
from support.nodes import MEBIBYTE, PATIENCE, answers, connected, dial, everything, node
from support.peers import eventually
from support.system import Running, Site, run, running
from support.vectors import require


def _unread_by(address: str) -> int:
    """Return how many bytes wait in the sockets of whoever listens at an address, as the kernel counts them."""
    port = int(address.rpartition(":")[2])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[4].partition(":")[2], 16) for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01")


# --- any client, any server


@contextlib.contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """Run Python's own web server, which knows nothing of TLS, over one folder."""
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: answers(port), what="the web server")
            yield f"tcp://127.0.0.1:{port}"
        finally:
            process.terminate()


def front_page() -> list[list[str]]:
    """Return the commands of the README's block, in words."""
    text = (ROOT / "README.md").read_text()
    block = text.partition("<!-- console: any application -->\n```console\n")[2].partition("```")[0]
    return [line.removeprefix("$ ").split() for line in block.splitlines()]


def test_a_web_server_is_reached_with_curl_as_the_front_page_says(site: Site, tmp_path: Path) -> None:
    page = pattern(3 * MEBIBYTE)
    (tmp_path / "page").write_bytes(page)
    server, relay, shelter, client = front_page()
    with contextlib.ExitStack() as stack:
        app = stack.enter_context(web_server(tmp_path))
        moved = {"tcp://127.0.0.1:8080": app, "tcp://127.0.0.1:1234": f"tcp://127.0.0.1:{free_port()}"}
        moved |= {"tcp://0.0.0.0:1236": "tcp://0.0.0.0:0", "tcp://127.0.0.1:8443": "tcp://127.0.0.1:0"}
        listen = ("--listen", moved["tcp://127.0.0.1:1234"])

        def start(words: list[str], *more: str) -> Running:
            return stack.enter_context(running(*(moved.get(word, word) for word in words), *more, *site.judging))

        start(server, *listen, *site.attested("workload")).address()
        port = start(relay, *site.attested("relay")).address().rpartition(":")[2]
        moved["tcp://NODE:1236"] = f"tcp://127.0.0.1:{port}"
        local = start(shelter)
        url = client[1].replace("http://127.0.0.1:8443", local.address().replace("tcp://", "http://")) + "page"
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            assert answer.status == 200
            assert answer.read() == page
        local.wait_for("accepted: the workload matches the reference value workload")
        assert client[0] == "curl"
        require("curl", available=shutil.which("curl") is not None, how="apt-get install curl (Debian)")
        done = subprocess.run(["curl", "-sf", url], capture_output=True, timeout=PATIENCE, check=True)
        assert done.stdout == page


@pytest.mark.parametrize("place", ["tcp", "unix"])
def test_every_byte_arrives_once_and_a_half_closed_stream_is_delivered_to_its_end(
    site: Site, tmp_path: Path, place: str
) -> None:
    """The client ends first: what it sent last arrives, and the answer to it still comes back."""
    sent = pattern(5 * MEBIBYTE + 1)
    app_at, local = ("tcp://127.0.0.1:0",) * 2 if place == "tcp" else (f"unix://{tmp_path}/app", f"unix://{tmp_path}/s")
    with (
        application("digest", tmp_path, listen=app_at) as (_, app),
        node(site, app) as here,
        connected(site, here.address, listen=local) as shelter,
    ):
        address = shelter.address()
        client = dial(address) if place == "tcp" else socket.socket(socket.AF_UNIX)
        with client:
            client.settimeout(PATIENCE)
            if place == "unix":
                client.connect(address.removeprefix("unix://"))
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            answer = json.loads(everything(client))
        assert answer == {"bytes": len(sent), "sha256": hashlib.sha256(sent).hexdigest()}
        # Its end reaches the client before the application has written of it.
        eventually(lambda: len(journal_of(tmp_path)) == 1)
        assert journal_of(tmp_path)[0]["how"] == "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Echoing:
    """A node with an echo behind it, and the folder of its journal."""

    folder: Path
    address: str


@pytest.fixture(scope="module")
def echoing(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Echoing]:
    folder = tmp_path_factory.mktemp("echoing")
    with application("echo", folder) as (_, app), node(site, app) as here:
        yield Echoing(folder=folder, address=here.address)


def test_each_local_connection_has_a_session_and_a_connection_of_its_own(site: Site, echoing: Echoing) -> None:
    with (
        connected(site, echoing.address, "--level", "session", "--minimum-binding", "session") as shelter,
        contextlib.ExitStack() as stack,
    ):
        address = shelter.address()
        clients = [stack.enter_context(dial(address)) for _ in range(12)]
        for number, client in enumerate(clients):
            client.sendall(b"number %02d" % number)
        for number, client in enumerate(clients):
            assert client.recv(16) == b"number %02d" % number
            client.shutdown(socket.SHUT_WR)
            assert client.recv(16) == b""
        # Others use this application as well, and theirs may end at any time.
        ours = {(b"number %02d" % number).hex() for number in range(len(clients))}

        def entries() -> list[str]:
            return [entry["head"] for entry in journal_of(echoing.folder) if entry["head"] in ours]

        eventually(lambda: len(entries()) >= len(clients))
        assert sorted(entries()) == sorted(ours)
        assert {entry["bytes"] for entry in journal_of(echoing.folder) if entry["head"] in ours} == {len("number 00")}


# --- refusals


def _say_and_hear(client: socket.socket, said: bytes) -> bytes:
    client.sendall(said)
    return everything(client)


def test_nothing_reaches_the_application_of_a_refused_workload(site: Site, tmp_path: Path) -> None:
    """The local client is reset, which nobody takes for an answer, and is told why on Shelter's side."""
    with (
        application("echo", tmp_path) as (_, app),
        site.workload("--app", app, enclave="impostor") as workload,
        site.relay(workload.address(), "--verifier", "nullverifier", "--dangerous-accept-no-evidence") as relay,
        running(
            "shelter", "connect", "--listen", "tcp://127.0.0.1:0", "--addr", relay.address(), *site.judging
        ) as shelter,
    ):
        # Whichever of the two comes after the reset is told of it, and only that one.
        with dial(shelter.address()) as client, pytest.raises(ConnectionResetError):
            _say_and_hear(client, b"a secret")
        shelter.wait_for(r"warning: .*\[MEASUREMENT_MISMATCH\]")
        eventually(lambda: len(journal_of(tmp_path)) == 1)
        assert journal_of(tmp_path)[0]["bytes"] == 0


def test_nothing_is_sent_to_a_refused_relay(site: Site, tmp_path: Path) -> None:
    with (
        application("echo", tmp_path) as (_, app),
        site.workload("--app", app, "--verifier", "nullverifier", "--dangerous-accept-no-evidence") as workload,
        site.relay(workload.address(), enclave="impostor") as relay,
        connected(site, relay.address(), "--json") as shelter,
    ):
        with dial(shelter.address()) as client, pytest.raises(ConnectionResetError):
            everything(client)
        shelter.wait_for(rf"warning: .*\[{Reason.MEASUREMENT_MISMATCH}\]")
        assert journal_of(tmp_path) == []


def test_an_application_that_is_down_is_named_quickly_to_the_client_and_in_the_log(site: Site) -> None:
    with node(site, NOBODY) as here:
        done = site.shelter(here.address, "--json")
        answer = answer_of(done)
        assert (done.code, answer["verdict"], answer["reason"]) == (4, "unavailable", "APPLICATION_UNAVAILABLE")
        assert evidence_of(answer, "relay")["verdict"] == "accepted"
        here.workload.wait_for(r"\[APPLICATION_UNAVAILABLE\]")
        with connected(site, here.address) as shelter:
            with dial(shelter.address()) as client, pytest.raises(ConnectionResetError):
                everything(client)
            shelter.wait_for(rf"warning: .*\[{Reason.APPLICATION_UNAVAILABLE}\]")


def test_a_node_that_is_down_is_named(site: Site) -> None:
    with connected(site, NOBODY) as shelter:
        with dial(shelter.address()) as client, pytest.raises(ConnectionResetError):
            everything(client)
        shelter.wait_for(rf"warning: .*\[{Reason.CONNECTION_FAILED}\]")


def test_an_application_that_breaks_off_is_a_reset_for_the_client(site: Site, tmp_path: Path) -> None:
    with (
        application("echo", tmp_path) as (process, app),
        node(site, app) as here,
        connected(site, here.address) as shelter,
        dial(shelter.address()) as client,
    ):
        client.sendall(b"half an answer")
        assert client.recv(64) == b"half an answer"
        # Bytes that were sent and never read: the system resets the connection of whoever dies over them.
        process.process.send_signal(signal.SIGSTOP)
        client.sendall(pattern(PIECE))
        eventually(lambda: _unread_by(app) > 0, what="bytes that wait for the application")
        process.process.kill()
        with pytest.raises(ConnectionResetError):
            everything(client)


def test_an_idle_session_is_closed_and_said_to_be(site: Site, tmp_path: Path) -> None:
    with (
        application("echo", tmp_path) as (_, app),
        node(site, app, "--idle-timeout", "3") as here,
        connected(site, here.address) as shelter,
        dial(shelter.address()) as client,
    ):
        client.sendall(b"hello")
        assert client.recv(64) == b"hello"
        with pytest.raises(ConnectionResetError):
            everything(client)
        here.workload.wait_for(rf"\[{Reason.PEER_TIMEOUT}\]")


# --- the greeting, and what is refused


def test_remote_attestation_sends_an_application_nothing_where_it_is_told_so(site: Site, tmp_path: Path) -> None:
    with application("digest", tmp_path) as (_, app), node(site, app) as here:
        silent = site.shelter(here.address, "--no-greeting")
        assert silent.code == 0, silent
        assert "Server:" not in silent.stdout
        assert "Remote attestation is successful." in silent.stdout
        eventually(lambda: len(journal_of(tmp_path)) == 1)
        assert journal_of(tmp_path)[0]["bytes"] == 0
        # With the greeting it is ended, so that no server waits for the rest of a request.
        greeted = site.shelter(here.address)
        assert greeted.code == 0, greeted
        assert '"bytes": 18' in greeted.stdout


def test_a_local_port_that_other_machines_reach_has_to_be_asked_for(site: Site) -> None:
    done = run("shelter", "connect", "--listen", "tcp://0.0.0.0:0", "--addr", NOBODY, *site.judging)
    assert (done.code, done.reason) == (2, Reason.USAGE), done
    danger = "--dangerous-listen-beyond-this-machine"
    with connected(site, NOBODY, danger, listen="tcp://0.0.0.0:0") as shelter:
        assert shelter.address().startswith("tcp://0.0.0.0:")


# --- the end of a service


def test_shelter_connect_drains_when_it_is_told_to_stop(site: Site, echoing: Echoing) -> None:
    with connected(site, echoing.address) as shelter:
        address = shelter.address()
        with dial(address) as client:
            client.sendall(b"before")
            assert client.recv(64) == b"before"
            shelter.process.terminate()
            eventually(lambda: not answers(int(address.rpartition(":")[2])))
            client.sendall(b"and after")
            assert client.recv(64) == b"and after"
            client.shutdown(socket.SHUT_WR)
            assert everything(client) == b""
        assert shelter.process.wait(PATIENCE) == 143
