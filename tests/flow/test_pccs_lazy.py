"""The program in front of an upstream: a cold crowd, an upstream that stalls, and the way out."""

from __future__ import annotations

import contextlib
import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from support.pccs import V4, pckcert_query, platform, running_pccs, upload_document
from support.pccs_upstream import upstream_of
from support.scripted_http import Reply, scripted

FMSPC: Final = platform().model.fmspc.hex().upper()
TCB: Final = f"{V4}/tcb?fmspc={FMSPC}"
STALL: Final = 60.0
PATIENCE: Final = 90.0
"""Seconds for what must happen soon, on a busy machine."""


def test_fifty_cold_clients_get_fifty_answers_for_one_fetch_of_each_document(tmp_path: Path) -> None:
    with (
        scripted(upstream_of(platform())) as script,
        running_pccs(tmp_path, "--mode", "lazy", "--upstream", script.url) as pccs,
        ThreadPoolExecutor(50) as pool,
    ):
        target = f"{V4}/pckcert?{pckcert_query(upload_document())}"
        answers = list(pool.map(lambda _: pccs.get(target).status, range(50)))
        assert answers == [200] * 50
        # The certificates, the root's CRL and the CA's, and four times TCB Info: early and standard, SGX and TDX.
        assert len(script.requests) == len(set(script.requests)) == 7


def test_an_upstream_that_stalls_holds_up_neither_other_clients_nor_the_end(tmp_path: Path) -> None:
    replies = upstream_of(platform())
    replies[f"{V4}/qe/identity"] = [Reply(stalls=STALL)]
    with (
        scripted(replies) as script,
        running_pccs(tmp_path, "--mode", "LAZY", "--upstream", script.url) as pccs,
        ThreadPoolExecutor(20) as pool,
    ):
        assert pccs.get(TCB).status == 200
        waiting = [pool.submit(_ask_in_vain, pccs.port) for _ in range(20)]
        deadline = time.monotonic() + PATIENCE
        while not any("qe/identity" in target for target in script.requests):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert pccs.get(TCB).status == 200
        assert pccs.get("/healthz/ready").status == 200
        began = time.monotonic()
        assert pccs.stop() == 143
        assert time.monotonic() - began < STALL / 2
        for future in waiting:
            future.result()


def _ask_in_vain(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", f"{V4}/qe/identity")
        connection.getresponse()
    connection.close()
