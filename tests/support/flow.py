"""What tests of whole systems share: answers held against their schema, a PCCS with a site's collateral, free ports."""

from __future__ import annotations

import contextlib
import functools
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema

from support.system import Done, Site, run, running

ROOT = Path(__file__).resolve().parents[2]
NOBODY = "tcp://127.0.0.1:1"
"""An address where nothing ever listens: tcpmux, a port that only root could take."""


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
    """Return a TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def has_ipv6() -> bool:
    """Whether this machine's loopback speaks IPv6."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False
