"""A certificate is replaced while requests go on: every one of them is answered, on old connections and on new ones."""

from __future__ import annotations

import http.client
import signal
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Self

import pytest

from eaa.pccs.certificates import LEAF_LIFE, own_certificate
from support.pccs import NOW, V4, RunningPCCS, platform, running_pccs, upload_body
from support.tls_files import make_ca

PATH = f"{V4}/tcb?fmspc={platform().model.fmspc.hex().upper()}"
PATIENCE = 60.0


def served_certificate(pccs: RunningPCCS) -> bytes:
    """The leaf that a new connection gets, DER."""
    pem = ssl.get_server_certificate(("127.0.0.1", pccs.port), timeout=PATIENCE)
    return ssl.PEM_cert_to_DER_cert(pem)


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@dataclass(slots=True)
class Clients:
    """Some that keep their connection for as long as the service does, and some that make a new one each time."""

    port: int
    stopped: threading.Event = field(default_factory=threading.Event)
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        self.threads = [
            threading.Thread(target=self._ask, kwargs={"keeps": keeps}) for keeps in (True, True, True, False)
        ]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(PATIENCE)

    def _ask(self, *, keeps: bool) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE, context=context)
        while not self.stopped.is_set():
            try:
                connection.request("GET", PATH)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                with self.guard:
                    self.failures.append(repr(error))
                connection.close()
                continue
            with self.guard:
                self.answered += 1
                if answer.status != 200 or b"tcbInfo" not in body:
                    self.failures.append(f"status {answer.status}")
            if not keeps:
                connection.close()
        connection.close()

    def ask_more(self, count: int) -> None:
        """Wait until so many more requests were answered."""
        target = self.answered + count
        until(lambda: self.answered >= target or bool(self.failures), "requests are answered")


def certificate_served_after(pccs: RunningPCCS, seen: list[bytes]) -> bytes:
    """Wait for one that is not among these. For a moment both answer, so that the next to be asked may show the old."""
    shown: list[bytes] = []

    def is_new() -> bool:
        shown.append(served_certificate(pccs))
        return shown[-1] not in seen

    until(is_new, "the new certificate is served")
    return shown[-1]


def test_no_request_is_lost_when_an_operators_certificate_is_replaced(tmp_path: Path) -> None:
    files = []
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        files.append(make_ca(tmp_path / name))
    cert, key = tmp_path / "served.pem", tmp_path / "served.key"

    def put_in_place(number: int) -> None:
        # One after the other, as tools do it: in between they do not fit.
        for source, target in ((files[number].chain, cert), (files[number].key, key)):
            fresh = target.with_suffix(".new")
            fresh.write_bytes(source.read_bytes())
            fresh.chmod(0o600)
            fresh.replace(target)

    put_in_place(0)
    with running_pccs(tmp_path, "--tls-cert", str(cert), "--tls-key", str(key)) as pccs:
        context = ssl._create_unverified_context()
        headers = {"admin-token": pccs.token_file.read_text().strip(), "content-type": "application/json"}
        put = pccs.request("PUT", f"{V4}/platformcollateral", body=upload_body(), headers=headers, context=context)
        assert put.status == 200
        seen = [served_certificate(pccs)]
        with Clients(pccs.port) as clients:
            clients.ask_more(50)
            for number in (1, 2):
                put_in_place(number)
                pccs.process.send_signal(signal.SIGHUP)
                seen.append(certificate_served_after(pccs, seen))
                clients.ask_more(200)
        assert clients.failures == []
        assert pccs.stop() == 143


def test_without_a_signal_new_files_are_noticed(tmp_path: Path) -> None:
    own_certificate(tmp_path / "tls", names=("localhost", "127.0.0.1", "::1"), now=NOW - LEAF_LIFE + timedelta(days=60))
    with running_pccs(tmp_path, "--tls-dir", str(tmp_path / "tls")) as pccs:
        before = served_certificate(pccs)
        own_certificate(tmp_path / "tls", names=("localhost", "127.0.0.1", "::1", "another"), now=NOW)
        until(lambda: served_certificate(pccs) != before, "the new certificate is served")


def test_files_that_do_not_go_together_are_not_taken(tmp_path: Path) -> None:
    with running_pccs(tmp_path, "--tls-dir", str(tmp_path / "tls")) as pccs:
        before = served_certificate(pccs)
        other = own_certificate(tmp_path / "other", names=("localhost",), now=NOW)
        (tmp_path / "tls" / "server.key").write_bytes(other.key.read_bytes())
        pccs.process.send_signal(signal.SIGHUP)
        until(lambda: "the certificate is not replaced" in pccs.said(), "the log says so")
        assert "[FILE_UNREADABLE]" in pccs.said()
        assert served_certificate(pccs) == before


@pytest.mark.parametrize("arguments", [("--plain-http",), ()])
def test_a_hangup_never_ends_the_service(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    tls = () if arguments else ("--tls-dir", str(tmp_path / "tls"))
    with running_pccs(tmp_path, *tls) as pccs:
        pccs.process.send_signal(signal.SIGHUP)
        context = ssl._create_unverified_context() if tls else None
        assert pccs.request("GET", "/healthz/live", context=context).status == 200
        assert pccs.stop() == 143
