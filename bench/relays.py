"""The relays that are measured, each a process with one worker on one core: ours, and Debian's beside it."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from servers import Server, find_nginx, free_port, unprivileged, write_pem

from eaa.appraise.reference_values import ReferenceValue
from eaa.appraise.result import Attests, Role
from eaa.attesters.simulated import SimulatedAttester
from eaa.evidence.quote import Quote
from eaa.identity import Identity
from eaa.simulator.images import create_signer_key, sample_image
from eaa.simulator.platform import Platform
from eaa.verifier import TrustAnchors

HOST: Final = "127.0.0.1"
PATIENCE: Final = 30.0
"""Seconds for a relay to start."""
LOAD_CORE, RELAY_CORE = sorted(os.sched_getaffinity(0))[:2] if len(os.sched_getaffinity(0)) > 1 else (0, 0)
"""The load generator's core, and the relays'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A simulated machine as files, for the relay that we start, and an identity on it for the workload."""

    folder: Path
    workload: Identity

    @classmethod
    def create(cls, folder: Path) -> Site:
        """Make it."""
        now, key = datetime.now(UTC), create_signer_key()
        platform = Platform.create(now=now)
        tee = folder / "tee"
        tee.mkdir(mode=0o700)
        for name, content in platform.to_files().items():
            (tee / name).write_bytes(content)
        (folder / "collateral.json").write_bytes(platform.collateral(now=now).to_json())
        image, sigstruct = sample_image("relay", now=now, signer_key=key)
        (tee / "relay.sgxs").write_bytes(image)
        (tee / "relay.sigstruct").write_bytes(sigstruct)
        attester = SimulatedAttester(platform.launch(*sample_image("workload", now=now, signer_key=key)))
        (anchor,) = TrustAnchors.from_pem(platform.root_pem).fingerprints
        measured: Any = Quote.parse(attester.quote(bytes(64))).body
        value = ReferenceValue(
            name="workload",
            role=Role.WORKLOAD,
            attests=Attests.PROCESS,
            trust_anchor=anchor,
            mr_enclave=measured.mr_enclave,
        )
        (folder / "values.toml").write_text(value.encode(), encoding="utf-8")
        return cls(folder=folder, workload=Identity(attester))

    @property
    def options(self) -> list[str]:
        """Those of a relay that shows evidence of its own, and judges the workload's."""
        named = {
            "--attester": "sgx_sim",
            "--simulator": "tee",
            "--enclave": "tee/relay.sgxs",
            "--trust-anchor": "tee/root.pem",
            "--reference-values": "values.toml",
            "--collateral": "collateral.json",
            "--level": "session",
            "--minimum-binding": "session",
        }
        return [word for pair in named.items() for word in pair]


@dataclass(slots=True)
class RelayProcess(Server):
    """A relay."""

    def pss(self) -> float:
        """Return its share of the machine's memory, MiB: pages of its own, and its part of those it shares."""
        return self._status("smaps_rollup", "Pss")

    def rss(self) -> float:
        """Return the pages that it has in memory, MiB."""
        return self._status("status", "VmRSS")

    def _status(self, file: str, field: str) -> float:
        text = Path(f"/proc/{self.pid}/{file}").read_text(encoding="ascii")
        found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
        assert found is not None
        return int(found[1]) / 1024


Start = Callable[[Site, int], contextlib.AbstractContextManager[RelayProcess]]
"""Starts a relay to the workload at a port, for the duration of a block."""


@contextlib.contextmanager
def inclavared(site: Site, workload: int) -> Iterator[RelayProcess]:
    """Run our relay."""
    program = Path(sys.executable).parent / "inclavared"
    port = free_port()
    hops = ["--listen", f"tcp://{HOST}:{port}", "--xfer", f"tcp://{HOST}:{workload}", "--mutual"]
    limits = [
        word
        for name in (
            "--max-connections",
            "--max-connections-per-address",
            "--handshake-rate",
            "--handshake-rate-per-address",
        )
        for word in (name, "100000")
    ]
    command = [str(program), *hops, *site.options, *limits, "--log-level", "error"]
    with _started(command, site.folder, port, user=None) as relay:
        yield relay


@contextlib.contextmanager
def nginx(site: Site, workload: int) -> Iterator[RelayProcess]:
    """Run nginx's stream module."""
    program, module = find_nginx()
    with _configured(site, workload, _NGINX, module=module) as (folder, port):
        command = [program, "-e", "stderr", "-p", str(folder), "-c", str(folder / "configuration")]
        with _started(command, folder, port, user=unprivileged(folder)) as relay:
            yield relay


@contextlib.contextmanager
def haproxy(site: Site, workload: int) -> Iterator[RelayProcess]:
    """Run haproxy in TCP mode."""
    program = find("haproxy", "haproxy")
    with _configured(site, workload, _HAPROXY, most=most_connections()) as (folder, port):
        command = [program, "-db", "-q", "-f", str(folder / "configuration")]
        with _started(command, folder, port, user=unprivileged(folder)) as relay:
            yield relay


@contextlib.contextmanager
def stunnel(site: Site, workload: int) -> Iterator[RelayProcess]:
    """Run stunnel: a server of TLS, and a client of TLS behind it in the same process."""
    program = find("stunnel4", "stunnel4")
    with _configured(site, workload, _STUNNEL, middle=free_port()) as (folder, port):
        command = [program, str(folder / "configuration")]
        with _started(command, folder, port, user=unprivileged(folder)) as relay:
            yield relay


RELAYS: Final[dict[str, Start]] = {"ours": inclavared, "nginx": nginx, "haproxy": haproxy, "stunnel": stunnel}


def most_connections() -> int:
    """Return how many connections one process may relay: each has two descriptors, and some are for other things."""
    return (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 200) // 2


def find(name: str, package: str) -> str:
    """Return the path of a program; end where it is not there."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        sys.exit(f"bench: there is no {name} to compare with (Debian, Ubuntu: apt-get install {package})")
    return path


def versions() -> dict[str, str]:
    """Return the versions of the relays of others."""
    return {
        "nginx": _said([find_nginx()[0], "-v"], r"nginx/([\d.]+)"),
        "haproxy": _said([find("haproxy", "haproxy"), "-v"], r"version ([\d.]+)"),
        "stunnel": _said([find("stunnel4", "stunnel4"), "-version"], r"stunnel ([\d.]+)"),
    }


def _said(command: list[str], pattern: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    found = re.search(pattern, done.stdout + done.stderr)
    return "unknown" if found is None else found[1]


@contextlib.contextmanager
def _configured(site: Site, workload: int, template: str, **more: object) -> Iterator[tuple[Path, int]]:
    with tempfile.TemporaryDirectory(prefix="eaa-bench-") as name:
        folder, port = Path(name), free_port()
        pem = write_pem(folder / "both.pem", site.workload.credentials())
        text = template.format(folder=folder, port=port, workload=workload, host=HOST, pem=pem, **more)
        (folder / "configuration").write_text(text, encoding="ascii")
        yield folder, port


@contextlib.contextmanager
def _started(command: list[str], folder: Path, port: int, *, user: str | None) -> Iterator[RelayProcess]:
    before = os.sched_getaffinity(0)
    # A process and all of its threads begin on the core of who has started them.
    os.sched_setaffinity(0, {RELAY_CORE})
    try:
        process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, user=user)  # noqa: S603
    finally:
        os.sched_setaffinity(0, before)
    try:
        _wait_until_it_listens(command[0], process, port)
        yield RelayProcess(port, process.pid)
    finally:
        process.kill()
        process.communicate()


def _wait_until_it_listens(name: str, process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=PATIENCE):
            return
        time.sleep(0.01)
    process.kill()
    sys.exit(f"bench: {name} does not start: {process.communicate()[1].decode(errors='replace')}")


_NGINX: Final = """
load_module {module};
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr crit;
worker_rlimit_nofile 20000;
events {{ worker_connections 16384; }}
stream {{
    server {{
        listen {host}:{port} ssl backlog=2048;
        ssl_certificate {pem};
        ssl_certificate_key {pem};
        ssl_protocols TLSv1.3;
        ssl_verify_client optional_no_ca;
        ssl_session_cache off;
        ssl_session_tickets off;
        proxy_pass {host}:{workload};
        proxy_ssl on;
        proxy_ssl_certificate {pem};
        proxy_ssl_certificate_key {pem};
        proxy_ssl_protocols TLSv1.3;
        proxy_ssl_session_reuse off;
        proxy_timeout 1h;
    }}
}}
"""

_HAPROXY: Final = """
global
    nbthread 1
    maxconn {most}
    tune.ssl.cachesize 0
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen relay
    bind {host}:{port} backlog 2048 ssl crt {pem} ca-file {pem} verify required crt-ignore-err all ca-ignore-err all ssl-min-ver TLSv1.3 no-tls-tickets
    server workload {host}:{workload} ssl crt {pem} verify none no-ssl-reuse ssl-min-ver TLSv1.3
"""  # noqa: E501  one line is one setting

_STUNNEL: Final = """
foreground = yes
pid =
syslog = no
debug = err
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
sslVersion = TLSv1.3
sessionCacheSize = 1

[front]
accept = {host}:{port}
connect = {host}:{middle}
cert = {pem}
CAfile = {pem}
verifyPeer = yes
TIMEOUTidle = 3600

[back]
client = yes
accept = {host}:{middle}
connect = {host}:{workload}
cert = {pem}
TIMEOUTidle = 3600
"""
