"""What operators read of a running service: the status page in a browser, metrics, health; and `eaa-pccs check`."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import sqlite3
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from eaa.pccs.store import Store
from eaa.pccs.uploads import parse_upload
from support.pccs import (
    NOW,
    PROGRAM,
    V4,
    RunningPCCS,
    environment,
    platform,
    root_file,
    running_pccs,
    upload_body,
    upload_document,
)

ROOT = Path(__file__).resolve().parents[2]
FMSPC = platform().model.fmspc.hex().upper()
HOW_TO = "Chromium is not installed: `apt-get install chromium` (Debian)"
ADMIN = re.compile(r"the status page, metrics and health are at (?:tcp://)?127\.0\.0\.1:(\d+)")


def admin_port(pccs: RunningPCCS) -> int:
    """Where the administrator's listener is, as the log says."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = ADMIN.search(pccs.said())
        if found:
            return int(found[1])
        time.sleep(0.02)
    raise AssertionError(pccs.said())


def ask(port: int, path: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read().decode()
    finally:
        connection.close()


def until_told(port: int, path: str, text: str) -> str:
    """Ask until the answer has this in it: what is stored is looked at now and then."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        body = ask(port, path)[2]
        if text in body:
            return body
        time.sleep(0.1)
    raise AssertionError(body)


@pytest.fixture(scope="module")
def pccs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningPCCS, int]]:
    folder = tmp_path_factory.mktemp("admin")
    with running_pccs(
        folder, "--tls-dir", str(folder / "tls"), "--admin", "127.0.0.1:0", "--log-level", "info"
    ) as running:
        port = admin_port(running)
        context = ssl._create_unverified_context()
        token = running.token_file.read_text().strip()
        headers = {"admin-token": token, "content-type": "application/json"}
        put = running.request("PUT", f"{V4}/platformcollateral", body=upload_body(), headers=headers, context=context)
        assert put.status == 200
        assert running.request("GET", f"{V4}/tcb?fmspc={FMSPC}", context=context).status == 200
        assert running.request("GET", f"{V4}/tcb?fmspc={FMSPC}", context=context).status == 200
        assert running.request("GET", f"{V4}/x{FMSPC}", context=context).status == 404
        until_told(port, "/", FMSPC)
        yield running, port


def secrets() -> list[str]:
    """What would single a machine out."""
    document = upload_document()
    entry = document["platforms"][0]
    return [
        entry["qe_id"],
        entry["enc_ppid"][:64],
        document["collaterals"]["pck_certs"][0]["certs"][0]["cert"][100:140],
    ]


def test_the_page_shows_every_document_and_platforms_by_pseudonym(pccs: tuple[RunningPCCS, int]) -> None:
    status, headers, page = ask(pccs[1], "/")
    assert status == 200
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
    for what in (f"SGX TCB Info of {FMSPC}", "QE identity", "CRL of the root", "CRL of the PLATFORM CA"):
        assert f"<td>{what}</td>" in page
    assert re.search(r"<td>PLATFORM</td><td><code>[0-9a-f]{16}</code></td>", page)
    assert "<script" not in page
    assert not re.search(r"(?:src|href|url\()\s*=?", page)
    assert not [secret for secret in secrets() if secret.lower() in page.lower()]


def test_nothing_can_be_written_there(pccs: tuple[RunningPCCS, int]) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert ask(pccs[1], "/", method)[0] == 405
    assert ask(pccs[1], f"{V4}/tcb?fmspc={FMSPC}")[0] == 404


def test_metrics_have_absolute_times_and_closed_sets_of_labels(pccs: tuple[RunningPCCS, int]) -> None:
    text = until_told(pccs[1], "/metrics", 'eaa_pccs_requests_total{route="tcb",status="200"}')
    ends = re.search(r'eaa_pccs_document_expiry_timestamp_seconds\{document="sgx_tcb_info"\} (\d+)', text)
    assert ends is not None
    assert time.time() + 20 * 86400 < int(ends[1]) < time.time() + 40 * 86400
    assert int(re.findall(r'eaa_pccs_requests_total\{route="tcb",status="200"\} (\d+)', text)[0]) >= 2
    assert 'eaa_pccs_requests_total{route="other",status="404"} ' in text
    assert 'eaa_pccs_documents{document="sgx_tcb_info",state="valid"} 1' in text
    assert "eaa_pccs_platforms 1" in text
    assert "eaa_pccs_pck_certificates 1" in text
    assert re.search(r"^eaa_pccs_pck_certificate_expiry_timestamp_seconds \d{10}", text, re.MULTILINE)
    assert "eaa_pccs_tls_certificate_expiry_timestamp_seconds 1" in text
    assert FMSPC not in text
    assert not [secret for secret in secrets() if secret.lower() in text.lower()]


def test_every_alert_is_about_a_metric_that_is_there(pccs: tuple[RunningPCCS, int]) -> None:
    text = ask(pccs[1], "/metrics")[2]
    rules = (ROOT / "deploy" / "prometheus" / "pccs-alerts.yml").read_text()
    named = set(re.findall(r"\beaa_pccs_[a-z_]+", "".join(re.findall(r"expr: (.*)", rules))))
    known = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert named <= known, named - known
    manual = (ROOT / "docs" / "manual" / "pccs.md").read_text()
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in manual.splitlines()
        if line.startswith("#")
    }
    assert set(re.findall(r"runbook_url: docs/manual/pccs.md#(\S+)", rules)) <= anchors


def test_health_is_there_too(pccs: tuple[RunningPCCS, int]) -> None:
    assert ask(pccs[1], "/healthz/live")[0] == 200
    assert ask(pccs[1], "/healthz/ready")[0] == 200


def rendered(port: int, path: str, folder: Path) -> str:
    """What Debian's Chromium, headless, makes of a page, of which the policy blocks nothing."""
    chromium = shutil.which("chromium")
    if chromium is None:
        if os.environ.get("EAA_REQUIRE_ALL"):
            pytest.fail(HOW_TO)
        pytest.skip(HOW_TO)
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr",
        "--virtual-time-budget=2000",
        "--dump-dom",
        f"http://127.0.0.1:{port}{path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert "Content Security Policy" not in done.stderr
    return done.stdout


def test_a_browser_renders_it_without_a_complaint(pccs: tuple[RunningPCCS, int], tmp_path: Path) -> None:
    page = rendered(pccs[1], "/", tmp_path)
    assert f"<td>SGX TCB Info of {FMSPC}</td>" in page
    assert re.search(r'id="summary">All \d+ documents are valid\.', page)


def fill(folder: Path, names: list[str]) -> None:
    """Put platforms into the database of a service that is to be started."""
    upload = parse_upload(upload_body(), api_version=4)
    store = Store.open(folder / "pccs.sqlite")
    store.apply(replace(upload, platforms=()), now=NOW)
    (pki,) = store.pkis()
    store.close()
    row = {"pce_id": "0000", "fmspc": FMSPC, "ca": "PLATFORM", "manifest": MANIFEST, "ppid": PPID, "root": pki.root}
    with contextlib.closing(sqlite3.connect(folder / "pccs.sqlite")) as connection, connection:
        connection.executemany(
            "INSERT INTO platforms (qe_id, pce_id, fmspc, ca, enc_ppid, platform_manifest, root, updated)"
            " VALUES (:qe_id, :pce_id, :fmspc, :ca, :ppid, :manifest, :root, 0)",
            [{"qe_id": name, **row} for name in names],
        )


PPID = bytes(range(0x40, 0x60)) * 12
MANIFEST = bytes(range(0x60, 0x80)) * 4


def test_every_platform_can_be_reached_by_following_links(tmp_path: Path) -> None:
    names = [hashlib.sha256(str(number).encode()).hexdigest()[:32].upper() for number in range(2_345)]
    fill(tmp_path, names)
    with running_pccs(tmp_path, "--admin", "127.0.0.1:0", "--log-level", "info") as running:
        port = admin_port(running)
        until_told(port, "/", "Page 1 of 3, of 2,345 platforms")
        met, path, told = [], "/", ""
        while path:
            status, headers, page = ask(port, path)
            assert (status, headers["x-content-type-options"]) == (200, "nosniff")
            met += re.findall(r"<code>([0-9a-f]{16})</code></td></tr>", page)
            told += page.upper()
            following = re.search(r'<a href="(\?platforms=\d+)">next</a>', page)
            path = f"/{following[1]}" if following else ""
        assert len(met) == len(set(met)) == len(names)
        assert not [name for name in (*names, PPID.hex().upper(), MANIFEST.hex().upper()) if name in told]
        assert ask(port, "/?platforms=4")[0] == 404
        assert "Page 2 of 3, of 2,345 platforms" in rendered(port, "/?platforms=2", tmp_path)


def check(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, "check", "--db", str(folder / "pccs.sqlite"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment(folder))


def test_check_says_what_is_cached_and_how_long(tmp_path: Path) -> None:
    trusted = ("--trust-anchor", root_file(tmp_path))
    empty = check(tmp_path, *trusted, "--json")
    assert (empty.returncode, json.loads(empty.stdout)["reason"]) == (4, "COLLATERAL_NOT_FOUND")
    with running_pccs(tmp_path) as pccs:
        assert pccs.put(upload_body()).status == 200
        fine = check(tmp_path, *trusted, "--json")
    assert fine.returncode == 0, fine.stderr
    answer = json.loads(fine.stdout)
    assert answer["reason"] is None
    (model,) = answer["models"]
    assert (model["root"], model["fmspc"], model["platforms"]) == (answer["default_root"], FMSPC, 1)
    assert (model["certificates"], model["certificates_read"]) == (1, 1)
    assert 2000 < model["days_left"] < 3000
    (info,) = [entry for entry in answer["documents"] if entry["kind"] == "sgx_tcb_info"]
    assert (info["name"], info["state"], info["update"]) == (FMSPC, "valid", "standard")
    assert 20 < info["days_left"] <= 30
    assert not [secret for secret in secrets() if secret.lower() in fine.stdout.lower()]
    soon = check(tmp_path, *trusted, "--within", "60", "--json")
    assert (soon.returncode, json.loads(soon.stdout)["reason"]) == (3, "COLLATERAL_ENDS_SOON")
    untrusted = check(tmp_path)
    assert untrusted.returncode == 3
    assert "REFUSED" in untrusted.stdout
