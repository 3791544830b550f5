"""The manual's page about attested HTTP: its examples run as they stand."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path
from typing import Any, Final

import pytest

from eaa.appraise.result import Role
from eaa.attesters.simulated import SimulatedAttester
from eaa.verifier import TrustAnchors
from support.https_peers import ANSWER, Application
from support.system import Site

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "manual" / "https.md"
BLOCKS: Final = dict(
    re.findall(r"<!-- python: ([a-z ]+) -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
)


def test_every_example_is_run_here() -> None:
    assert list(BLOCKS) == ["client", "server", "refusal"]
    assert PAGE.read_text(encoding="utf-8").count("```python") == len(BLOCKS)


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the examples define, one after the other as a reader meets them."""
    found: dict[str, Any] = {}
    for source in BLOCKS.values():
        exec(compile(source, str(PAGE), "exec"), found)
    return found


@pytest.mark.parametrize(("enclave", "why"), [("workload", []), ("impostor", ["MEASUREMENT_MISMATCH", "measurement"])])
def test_the_examples_do_what_is_said_of_them(names: dict[str, Any], site: Site, enclave: str, why: list[str]) -> None:
    verifier = names["open_verifier"](site.folder, TrustAnchors.from_pem(site.root.read_bytes()))
    verifier.require_values_for(Role.WORKLOAD)
    app = Application()
    attester = SimulatedAttester.open(site.tee, image=site.image(enclave))
    server = names["make_server"](app, attester, None, 0)
    serving = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    serving.start()
    try:
        url = f"https://127.0.0.1:{_port(server)}/"
        found = names["why_not"](url, verifier)
        assert [*found[:1], *found[2:]] == why
        assert app.heard == ([b"a question"] if enclave == "workload" else [])
        if enclave == "workload":
            assert names["ask"](url, verifier, "again").encode() == ANSWER
    finally:
        server.should_exit = True
        serving.join(60)


def _port(server: Any) -> int:
    started = threading.Event()
    while not server.started:
        started.wait(0.01)
    port: int = server.servers[0].sockets[0].getsockname()[1]
    return port
