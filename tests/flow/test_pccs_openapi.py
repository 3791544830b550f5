"""The description that the service publishes: it is of what is served, and schemathesis finds no answer beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from eaa.pccs.openapi import ROUTES, V3, V4, description
from support.pccs import TOKEN, USER_TOKEN, RunningPCCS, platform, running_pccs, service, upload_body

FMSPC = platform().model.fmspc.hex().upper()
EXAMPLES = 6
"""For each of some thirty operations, and each way of making requests."""
DESCRIBED = schemathesis.openapi.from_dict(json.loads(description()))
DESCRIBED.config.phases.update(phases=["fuzzing"])
# An upload's body takes long to make up: of those there are fewer.
UPLOADS = "platformcollateral$"
FEWER = 3
QUIET = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def pccs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPCCS]:
    folder = tmp_path_factory.mktemp("described")
    user = folder / "user-token"
    user.touch(mode=0o600)
    user.write_text(USER_TOKEN)
    with running_pccs(folder, "--user-token-file", str(user), "--log-level", "error") as running:
        assert running.put(upload_body()).status == 200
        yield running


def test_it_is_published(pccs: RunningPCCS) -> None:
    answer = pccs.get("/openapi.json")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert answer.body == description()
    assert pccs.get("/openapi.json", if_none_match=answer.headers["etag"]).status == 304
    assert pccs.request("HEAD", "/openapi.json").body == b""
    assert pccs.request("POST", "/openapi.json").status == 404


def test_it_describes_what_is_served_and_nothing_else(tmp_path: Path) -> None:
    with service(tmp_path) as served:
        table = served._routes
    known = {
        (path, method.lower())
        for product, mounts in {"SGX": (V4, V3), "TDX": (V4.replace("sgx", "tdx"),), "HEALTH": ("/healthz",)}.items()
        for mount in mounts
        for route, methods in table[product].items()
        for method in methods
        for path in (mount + route,)
    }
    assert {(route.path, route.method) for route in ROUTES} == known


@DESCRIBED.exclude(path_regex=UPLOADS).parametrize()
@settings(QUIET, max_examples=EXAMPLES)
def test_every_answer_is_one_that_is_described(case: Any, pccs: RunningPCCS) -> None:
    """Requests as the description allows them, and others; statuses, content types and bodies have to be in it."""
    _ask(case, pccs)


@DESCRIBED.include(path_regex=UPLOADS).parametrize()
@settings(QUIET, max_examples=FEWER)
def test_every_answer_to_an_upload_is_one_that_is_described(case: Any, pccs: RunningPCCS) -> None:
    _ask(case, pccs)


def _ask(case: Any, pccs: RunningPCCS) -> None:
    token = {"admin-token": TOKEN, "user-token": USER_TOKEN}
    response = case.call(base_url=pccs.url.rstrip("/"), headers=token, timeout=60)
    operation = case.operation.definition.raw
    if case.method.lower() != case.operation.method.lower():
        return
    described = operation["responses"].get(str(response.status_code))
    assert described is not None, (case.method, case.path, response.status_code, response.text[:200])
    kinds = set(described["content"])
    assert response.headers["content-type"][0].partition(";")[0] in kinds
    if response.status_code == 200 and "application/json" in kinds:
        json.loads(response.content)
    if response.status_code >= 500:
        # OFFLINE, so that a refresh is refused; nothing else may fail.
        assert (case.path.rpartition("/")[2], response.status_code) == ("refresh", 503)


def test_what_is_asked_for_as_described_is_there(pccs: RunningPCCS) -> None:
    described = json.loads(description())["paths"]
    for path, query in (("tcb", f"fmspc={FMSPC}"), ("qe/identity", ""), ("pckcrl", "ca=platform"), ("rootcacrl", "")):
        answer = pccs.get(f"{V4}/{path}?{query}")
        assert answer.status == 200
        said = described[f"{V4}/{path}"]["get"]["responses"]["200"]
        assert answer.headers["content-type"].partition(";")[0] in said["content"]
        assert {name.lower() for name in said.get("headers", {})} <= set(answer.headers)


def test_patterns_match_whole() -> None:
    upload = json.loads(description())["paths"][f"{V4}/platformcollateral"]["put"]["requestBody"]
    inner = upload["content"]["application/json"]["schema"]["properties"]["platforms"]["items"]["properties"]
    assert not re.search(inner["pce_id"]["pattern"], "00000")
    assert re.search(inner["pce_id"]["pattern"], "0a0B")
