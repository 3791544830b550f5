"""What Intel's operators' tools send, as they send it: pccsadmin, the PCK ID retrieval tool, and scripts with curl."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from support.pccs import TOKEN, USER_TOKEN, V4, Answer, RunningPCCS, encode, platform, running_pccs, upload_document
from support.pccs_transcript import QUEUED, QUEUED_MANIFEST, TOOL_REPORT
from support.pccs_upstream import upstream_of
from support.scripted_http import Script, scripted
from support.vectors import require

FMSPC: Final = platform().model.fmspc.hex().upper()
AGENT: Final = {"User-Agent": "pccsadmin/0.1"}


def user_token(folder: Path) -> tuple[str, str]:
    """The option."""
    path = folder / "user"
    path.touch(mode=0o600)
    path.write_text(USER_TOKEN)
    return "--user-token-file", str(path)


@pytest.fixture(scope="module")
def pccs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPCCS]:
    folder = tmp_path_factory.mktemp("pccs")
    with running_pccs(folder, *user_token(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def lazy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningPCCS, Script]]:
    folder = tmp_path_factory.mktemp("lazy")
    with (
        scripted(upstream_of(platform())) as script,
        running_pccs(folder, *user_token(folder), "--mode", "LAZY", "--upstream", script.url) as running,
    ):
        yield running, script


def admin(pccs: RunningPCCS, method: str, target: str, body: bytes | None = None) -> Answer:
    """As pccsadmin sends it."""
    headers = {**AGENT, "admin-token": TOKEN}
    if body is not None:
        headers["Content-Type"] = "application/json"
    return pccs.request(method, f"{V4}/{target}", body=body, headers=headers)


def report(pccs: RunningPCCS, body: str, update: str = "") -> Answer:
    """As the PCK ID retrieval tool sends it."""
    headers = {"Content-Type": "application/json", "user-token": USER_TOKEN}
    return pccs.request("POST", f"{V4}/platforms{update}", body=body.encode(), headers=headers)


def test_platforms_report_themselves_are_listed_provisioned_and_listed_as_cached(pccs: RunningPCCS) -> None:
    assert report(pccs, TOOL_REPORT, "?update=all").body == b"Operation successful."
    without_enclave = '{"pce_id": "0000" ,"qe_id": "' + "ef" * 16 + '" ,"platform_manifest": "' + "AB" * 100 + '" }'
    assert report(pccs, without_enclave).status == 200
    listed = admin(pccs, "GET", "platforms?source=reg")
    assert listed.headers["platform-count"] == "2"
    assert sorted(json.loads(listed.body), key=str) == sorted((QUEUED, QUEUED_MANIFEST), key=str)
    document = upload_document()
    # `pcsclient collect` leaves its own notes in what it hands on.
    document["platforms"][0]["pckid_filename"] = "host1.csv"
    assert admin(pccs, "PUT", "platformcollateral", encode(document)).body == b"Operation successful."
    for source in ("[]", f"[{FMSPC}]", f"[{FMSPC},00906ED50000]"):
        (cached,) = json.loads(admin(pccs, "GET", f"platforms?source={source}").body)
        assert cached["qe_id"] == document["platforms"][0]["qe_id"].upper()


def test_collateral_as_its_client_writes_it_to_a_file_is_taken(pccs: RunningPCCS) -> None:
    """Laid out with spaces and line ends that nobody signed."""
    body = json.dumps(upload_document(), indent=4).encode()
    assert admin(pccs, "PUT", "platformcollateral", body).status == 200
    served = pccs.get(f"{V4}/tcb?fmspc={FMSPC}").body
    info: dict[str, Any] = upload_document()["collaterals"]["tcbinfos"][0]["sgx_tcbinfo"]
    assert served == encode(info)


@pytest.mark.parametrize(
    "target",
    [
        "refresh",
        # What the tool makes of `-f all`.
        "refresh?type=certs&fmspc=",
        "refresh?type=certs&fmspc=all",
        f"refresh?type=certs&fmspc={FMSPC}",
        f"refresh?type=certs&fmspc={FMSPC}%2C00906ED50000",
        f"refresh?type=certs&fmspc=%5B{FMSPC}%2C+00906ED50000%5D",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_each_form_of_its_refresh_is_understood(lazy: tuple[RunningPCCS, Script], target: str, method: str) -> None:
    pccs, script = lazy
    assert report(pccs, json.dumps(upload_document()["platforms"][0])).status == 200
    script.requests.clear()
    assert admin(pccs, method, target).body == b"Operation successful."
    assert script.requests


def test_curl_gets_what_it_asks_for(pccs: RunningPCCS, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    require("curl", available=curl is not None, how="apt-get install curl")
    file = tmp_path / "platform_collaterals.json"
    file.write_bytes(encode(upload_document()))
    base = f"{pccs.url.rstrip('/')}{V4}"

    def ask(*arguments: str) -> str:
        command = [str(curl), "--silent", "--show-error", "--fail", "--insecure", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout

    header = ("-H", f"admin-token: {TOKEN}", "-H", "Content-Type: application/json")
    assert ask("-X", "PUT", *header, "-d", f"@{file}", f"{base}/platformcollateral") == "Operation successful."
    assert ask(f"{base}/rootcacrl") == upload_document()["collaterals"]["rootcacrl"].lower()
    assert "Content-Type: application/json" in ask("-I", f"{base}/qe/identity").replace("content-type", "Content-Type")
    assert ask("-G", f"{base}/tcb", "--data-urlencode", f"fmspc={FMSPC}").startswith('{"tcbInfo":')
    # 2 MB is what a body may have; curl asks before it sends that much.
    large = tmp_path / "large.json"
    large.write_bytes(encode({**upload_document(), "notes": "x" * (1536 * 1024)}))
    assert ask("-X", "PUT", *header, "-d", f"@{large}", f"{base}/platformcollateral") == "Operation successful."
