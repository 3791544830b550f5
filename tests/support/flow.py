"""What tests of whole systems share: answers held against their schema, a PCCS with a site's collateral, free ports."""

from __future__ import annotations

import contextlib
import functools
import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema

from support.system import Done, Site, run, running

ROOT = Path(__file__).resolve().parents[2]
NOBODY = "tcp://127.0.0.1:1"
"""An address where nothing ever listens: tcpmux, a port that only root could take."""
_EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST_PORT, _LAST_PORT = 10_000, 65_535
_held: list[socket.socket] = []
"""One for each port that `free_port` gave away."""


@functools.cache
def _schema() -> Any:
    document = json.loads((ROOT / "docs" / "verdict.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


def answer_of(done: Done) -> dict[str, Any]:
    """Return the one answer of a `--json` command, after holding it against the schema."""
    answer = done.answer
    _schema().validate(answer)
    return answer


def evidence_of(answer: dict[str, Any], role: str) -> dict[str, Any]:
    """Return the answer about one attester of several."""
    (entry,) = [entry for entry in answer["evidence"] if entry["role"] == role]
    found: dict[str, Any] = entry
    return found


@contextlib.contextmanager
def filled_pccs(site: Site, folder: Path, *, port: int = 0) -> Iterator[str]:
    """Run eaa-pccs, upload the site's collateral into it with `eaa-pccs upload`, and yield its URL."""
    token, body = folder / "token", folder / "upload.json"
    token.touch(mode=0o600)
    token.write_text("an administrator's token for tests\n")
    assert run("eaa", "simulator", "collateral", site.tee, "--output", body).code == 0
    serve = (
        "serve",
        "--plain-http",
        "--listen",
        f"127.0.0.1:{port}",
        "--db",
        folder / "pccs.sqlite",
        "--admin-token-file",
        token,
    )
    with running("eaa-pccs", *serve, "--trust-anchor", site.tee / "root.pem") as service:
        url = service.address()
        uploaded = run("eaa-pccs", "upload", body, "--url", url, "--admin-token-file", token)
        assert uploaded.code == 0, uploaded
        yield url


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is this process's until it ends.

    It is none of those that the system gives away: they come and go by the hundred, servers' and clients' alike, and
    whoever connects to one of them where nobody listens may even be given that one himself, and so find somebody.
    """
    begin, end = _FIRST_PORT, _first_ephemeral_port()
    for port in random.SystemRandom().sample(range(begin, end), end - begin):
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            # A name that no other process can have meanwhile, and that is gone with this one.
            held = socket.socket(socket.AF_UNIX)
            _held.append(held)
            held.bind(f"\0eaa test port {port}")
            return port
    raise AssertionError(f"no port from {begin} to {end} is free")


def _first_ephemeral_port() -> int:
    first = int(_EPHEMERAL_PORTS.read_text(encoding="ascii").split()[0])
    return first if first > _FIRST_PORT else _LAST_PORT + 1


def has_ipv6() -> bool:
    """Whether this machine's loopback speaks IPv6."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False
