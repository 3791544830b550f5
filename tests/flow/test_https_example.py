"""The examples, as somebody would start them: a prompt is answered by the right server, and told to no other."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import pytest

from eaa.attesters.simulated import SimulatedAttester
from eaa.identity import Identity
from support.https_memory import stranger
from support.system import COMMAND_TIMEOUT, Running, Site

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROMPT = "a prompt that is nobody else's business"


def ask(site: Site, url: str) -> subprocess.CompletedProcess[str]:
    """Run the client."""
    files = ("--trust-anchor", site.root, "--reference-values", site.values, "--collateral", site.collateral)
    command = [sys.executable, str(EXAMPLES / "openai_style_client.py"), url, PROMPT, *(str(part) for part in files)]
    return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False)


@contextmanager
def chat_server(site: Site, enclave: str) -> Iterator[str]:
    """Run the server; yield where its API begins."""
    where = ("--simulator", site.tee, "--enclave", site.image(enclave), "--port", "0")
    server = Running(sys.executable, EXAMPLES / "openai_style_server.py", *where)
    try:
        yield server.wait_for(re.compile(r"(https://\S+:\d+)"))[1] + "/v1"
    finally:
        server.stop()


def test_a_prompt_is_answered_by_the_server_that_is_expected(site: Site) -> None:
    with chat_server(site, "workload") as url:
        done = ask(site, url)
    assert (done.returncode, done.stdout) == (0, f"You said: {PROMPT}\n"), done.stderr


def test_a_refusal_says_what_was_expected_and_what_is_there(site: Site) -> None:
    with chat_server(site, "impostor") as url:
        done = ask(site, url)
    assert done.returncode == 1
    assert "MEASUREMENT_MISMATCH" in done.stderr
    assert site.mr_enclaves["workload"] in done.stderr
    assert site.mr_enclaves["impostor"] in done.stderr
    assert "hint: " in done.stderr


class Eavesdropper:
    """A server that lets everybody in, and keeps what they say, in the clear and as it came."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.heard = b""
        self.wire = b""
        self.refusals: list[str] = []
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(COMMAND_TIMEOUT)
        self.url = f"https://127.0.0.1:{self._listening.getsockname()[1]}/v1"
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(60)
        self._listening.close()

    def _listen(self) -> None:
        accepted, _ = self._listening.accept()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        end = self._context.wrap_bio(incoming, outgoing, server_side=True)
        with accepted:
            while data := self._read(accepted):
                self.wire += data
                incoming.write(data)
                self._listen_to(end)
                with suppress(ConnectionError):
                    accepted.sendall(outgoing.read())

    @staticmethod
    def _read(accepted: socket.socket) -> bytes:
        with suppress(ConnectionError):
            return accepted.recv(65536)
        return b""

    def _listen_to(self, end: ssl.SSLObject) -> None:
        try:
            end.do_handshake()
            self.heard += end.read(65536)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.refusals.append(error.reason)


@pytest.mark.parametrize("enclave", ["impostor", "none"])
def test_no_byte_of_a_prompt_leaves_before_the_verdict(enclave: str, site: Site) -> None:
    """The other end is an enclave that nobody expects, or none, and does all it can to be told the prompt."""
    attester = None if enclave == "none" else SimulatedAttester.open(site.tee, image=site.image(enclave))
    context = stranger(Identity(attester).credentials(), server_side=True)
    with Eavesdropper(context) as server:
        done = ask(site, server.url)
    assert done.returncode == 1
    assert server.heard == b""
    assert PROMPT.encode() not in server.wire
    assert server.refusals in ([], ["TLSV1_ALERT_UNKNOWN_CA"])
    # A ClientHello, an alert, and no record that could have held a request.
    assert len(server.wire) < 1000
