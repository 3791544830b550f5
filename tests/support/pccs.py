"""A PCCS for tests: the program as a process over loopback, the service without a socket, and what goes into it."""

from __future__ import annotations

import functools
import hashlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from eaa.collateral.intel import join_signed_document
from eaa.evidence.quote import TEEType
from eaa.pccs.service import Service
from eaa.pccs.store import Store
from eaa.pccs.tokens import Token
from eaa.pccs.wire import Request, Response
from eaa.simulator.platform import Platform
from eaa.verifier import TrustAnchors
from support.simulated import SEED, sample_enclave

NOW: Final = datetime.now(UTC).replace(microsecond=0)
"""The program judges dates by the real clock, so that its documents are of the present."""
TOKEN: Final = "an administrator's token for tests"
USER_TOKEN: Final = "a user's token for tests"
V4: Final = "/sgx/certification/v4"
V3: Final = "/sgx/certification/v3"
TDX: Final = "/tdx/certification/v4"
ANNOUNCED: Final = "eaa-pccs: listening on "
START_TIMEOUT: Final = 90.0
REQUEST_TIMEOUT: Final = 60.0
"""Seconds for an answer, or its end, on a busy machine."""
PROGRAM: Final = (sys.executable, "-c", "from eaa.pccs.cli import main; main()")


# --- what goes into it


@functools.cache
def platform(ca: str = "platform") -> Platform:
    """A machine whose keys are the same in every run."""
    return Platform.create(now=NOW, seed=SEED, ca="processor" if ca == "processor" else "platform")


@functools.cache
def quote(ca: str = "platform") -> bytes:
    """A quote of that machine, over counting bytes."""
    return platform(ca).launch(*sample_enclave()).quote(bytes(range(64)))


@functools.cache
def upload_body(ca: str = "platform") -> bytes:
    """The upload of that machine's collateral, compact JSON."""
    return platform(ca).platform_collaterals(now=NOW)


def upload_document(ca: str = "platform") -> dict[str, Any]:
    """The same, parsed anew each time: tests break it."""
    document: dict[str, Any] = json.loads(upload_body(ca))
    return document


def encode(document: Mapping[str, Any]) -> bytes:
    """A document as compact JSON, in which the simulator's signatures hold."""
    return json.dumps(document, separators=(",", ":")).encode()


def signed(member: str, body: str, ca: str = "platform") -> str:
    """A document of the simulator's vendor around exactly this text."""
    key = platform(ca).pki.tcb_signer.key
    r, s = decode_dss_signature(key.sign(body.encode(), ec.ECDSA(hashes.SHA256())))
    return f'{{"{member}":{body},"signature":"{r:064x}{s:064x}"}}'


def with_tdx(document: dict[str, Any]) -> dict[str, Any]:
    """The upload with TDX TCB Info beside the SGX one."""
    collateral = platform().collateral(now=NOW, tee=TEEType.TDX)
    whole = join_signed_document("tcbInfo", collateral.tcb_info, collateral.tcb_info_signature)
    document["collaterals"]["tcbinfos"][0]["tdx_tcbinfo"] = json.loads(whole)
    return document


def anchors(*others: Platform) -> TrustAnchors:
    """The roots of the machines above, and of others."""
    return TrustAnchors(frozenset(hashlib.sha256(each.root_der).digest() for each in (platform(), *others)))


def root_file(folder: Path) -> Path:
    """The root of the machines above as a file."""
    path = folder / "root.pem"
    path.write_bytes(platform().root_pem)
    return path


def pckcert_query(document: Mapping[str, Any], **changed: str) -> str:
    """The parameters with which the platform of an upload asks for its certificate."""
    entry = document["platforms"][0]
    parameters = {
        "qeid": entry["qe_id"],
        "encrypted_ppid": entry["enc_ppid"],
        "cpusvn": entry["cpu_svn"],
        "pcesvn": entry["pce_svn"],
        "pceid": entry["pce_id"],
    }
    return "&".join(f"{name}={value}" for name, value in {**parameters, **changed}.items())


# --- the service without a socket


@functools.cache
def opened_by(token: str) -> Token:
    """What a token opens: hashed once a run, as a service hashes it once in its life, and slowly on purpose."""
    return Token.of(token)


@contextmanager
def service(
    folder: Path,
    *,
    token: str | None = TOKEN,
    uploads: tuple[bytes, ...] = (),
    trust_anchors: TrustAnchors | None = None,
    clock: Callable[[], datetime] = lambda: NOW,
) -> Iterator[Service]:
    """A service over a new database, with these uploads stored."""
    store = Store.open(folder / "pccs.sqlite")
    try:
        served = Service(
            store,
            admin_token=Token() if token is None else opened_by(token),
            user_token=Token() if token is None else opened_by(USER_TOKEN),
            trust_anchors=trust_anchors or anchors(),
            clock=clock,
        )
        for body in uploads:
            response = put(served, body)
            assert response.status == 200, response.body
        yield served
    finally:
        store.close()


def get(served: Service, target: str, *, method: str = "GET", **headers: str) -> Response:
    """The answer to a request without a body."""
    path, _, query = target.partition("?")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return served.answer(Request(method=method, path=path, query=query, headers=named))


def put(served: Service, body: bytes, *, base: str = V4, **headers: str) -> Response:
    """The answer to an upload."""
    named = {"admin-token": TOKEN, "content-type": "application/json"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    return served.answer(Request(method="PUT", path=f"{base}/platformcollateral", headers=named, body=body))


def send(served: Service, method: str, target: str, value: Any, **headers: str) -> Response:
    """The answer to a request with a JSON body."""
    path, _, query = target.partition("?")
    named = {"content-type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return served.answer(Request(method=method, path=path, query=query, headers=named, body=body))


# --- the program


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back over the wire. Header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True, kw_only=True)
class RunningPCCS:
    """The program as a process."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str = field(default="")
    token_file: Path

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def request(
        self,
        method: str,
        target: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> Answer:
        """One request on a connection of its own."""
        if self.url.startswith("https"):
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=REQUEST_TIMEOUT, context=context
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_TIMEOUT)
        try:
            connection.request(method, target, body=body, headers=dict(headers or {}))
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(status=response.status, headers=named, body=response.read())
        finally:
            connection.close()

    def get(self, target: str, **headers: str) -> Answer:
        return self.request("GET", target, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def put(self, body: bytes, *, base: str = V4, headers: Mapping[str, str] | None = None) -> Answer:
        named = {"admin-token": TOKEN, "content-type": "application/json", **(headers or {})}
        return self.request("PUT", f"{base}/platformcollateral", body=body, headers=named)

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> int:
        """Stop it and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        return self.process.wait(timeout=REQUEST_TIMEOUT)

    def said(self) -> str:
        return self.log.read_text()


@contextmanager
def running_pccs(folder: Path, *arguments: str, token: str | None = TOKEN) -> Iterator[RunningPCCS]:
    """Start the program on a free port with a database in `folder`; it is gone afterwards, whatever happens."""
    token_file = folder / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(f"{token or TOKEN}\n")
    options = ["--listen", "127.0.0.1:0", "--db", str(folder / "pccs.sqlite")]
    options += ["--trust-anchor", str(root_file(folder))]
    if token is not None:
        options += ["--admin-token-file", str(token_file)]
    if not any(argument.startswith("--tls-") for argument in arguments):
        options += ["--plain-http"]
    log = folder / "pccs.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*PROGRAM, *options, *arguments], stdout=stream, stderr=stream, env=environment(folder)
        )
    try:
        pccs = RunningPCCS(process=process, log=log, token_file=token_file)
        pccs.url = _announced(pccs)
        yield pccs
    finally:
        process.kill()
        process.wait()


_INHERITED: Final = ("PATH", "HOME", "LANG", "PYTHONPATH", "RES_OPTIONS")


def environment(folder: Path) -> dict[str, str]:
    """The environment of a program that must not see this machine's own configuration."""
    kept = {name: value for name, value in os.environ.items() if name in _INHERITED}
    return {**kept, "XDG_DATA_HOME": str(folder / "data"), "XDG_CONFIG_HOME": str(folder / "config")}


def _announced(pccs: RunningPCCS) -> str:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        for line in pccs.said().splitlines(keepends=True):
            if line.startswith(ANNOUNCED) and line.endswith("\n"):
                return line.removeprefix(ANNOUNCED).rstrip()
        if pccs.process.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError(f"eaa-pccs did not start: {pccs.said()}")
