"""Collateral across an air gap, as operators carry it: fetched or exported here, imported and served there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from eaa.collateral.bundle import Collateral
from support.pccs import NOW, PROGRAM, V4, environment, platform, quote, root_file, running_pccs, upload_body

FMSPC = platform().model.fmspc.hex().upper()


def run(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment(folder))


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    key = ed25519.Ed25519PrivateKey.generate()
    private, public = tmp_path / "bundle.key", tmp_path / "bundle.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_bundle_crosses_the_gap(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    (here := tmp_path / "here").mkdir()
    (there := tmp_path / "there").mkdir()
    bundle, again = tmp_path / "bundle.tar", tmp_path / "again.tar"
    path = f"{V4}/tcb?fmspc={FMSPC}"
    with running_pccs(here) as pccs:
        assert pccs.put(upload_body()).status == 200
        served = pccs.get(path)
        for file in (bundle, again):
            exported = run(here, "export", file, "--db", here / "pccs.sqlite", "--key", private)
            assert exported.returncode == 0, exported.stderr
    assert bundle.read_bytes() == again.read_bytes()
    assert bundle.stat().st_mode & 0o777 == 0o600
    with running_pccs(there) as pccs:
        assert pccs.get(path).status == 404
        options = ("--db", there / "pccs.sqlite", "--trust-anchor", root_file(there), "--json")
        unsigned = run(there, "import", bundle, *options)
        assert (unsigned.returncode, json.loads(unsigned.stdout)["reason"]) == (2, "USAGE")
        untrusted = run(there, "import", bundle, "--db", there / "pccs.sqlite", "--key", public, "--json")
        assert (untrusted.returncode, json.loads(untrusted.stdout)["stored"]) == (3, False)
        imported = run(there, "import", bundle, "--key", public, *options)
        assert imported.returncode == 0, imported.stderr
        answer = json.loads(imported.stdout)
        assert (answer["stored"], answer["platforms"], answer["refused"]) == (True, 1, [])
    with running_pccs(there) as pccs:
        assert pccs.get(path).body == served.body


@pytest.mark.parametrize("by", ["--fmspc", "--from-quote"])
def test_what_is_fetched_is_a_bundle_or_a_folder_for_shelter(tmp_path: Path, keys: tuple[Path, Path], by: str) -> None:
    private, public = keys
    (there := tmp_path / "there").mkdir()
    (tmp_path / "quote").write_bytes(quote())
    wanted = (by, FMSPC if by == "--fmspc" else tmp_path / "quote")
    with running_pccs(tmp_path) as pccs:
        assert pccs.put(upload_body()).status == 200
        options = (*wanted, "--upstream", pccs.url, "--trust-anchor", root_file(tmp_path), "--json")
        whole = run(tmp_path, "fetch", tmp_path / "bundle.tar", *options, "--key", private)
        single = run(tmp_path, "fetch", tmp_path / "folder", *options)
        unknown = run(tmp_path, "fetch", tmp_path / "other", "--fmspc", "00" * 6, *options[2:])
    assert (whole.returncode, single.returncode) == (0, 0), whole.stderr + single.stderr
    assert (unknown.returncode, json.loads(unknown.stdout)["reason"]) == (4, "COLLATERAL_NOT_FOUND")
    (file,) = [name for name in json.loads(single.stdout)["files"] if "-platform-" in name]
    assert Collateral.from_json(Path(file).read_bytes()) == platform().collateral(now=NOW)
    into = ("--db", there / "pccs.sqlite", "--trust-anchor", root_file(there), "--key", public, "--json")
    imported = run(there, "import", tmp_path / "bundle.tar", *into)
    assert (imported.returncode, json.loads(imported.stdout)["refused"]) == (0, [])


def test_intels_form_is_exported_uploaded_and_imported(tmp_path: Path) -> None:
    (there := tmp_path / "there").mkdir()
    file = tmp_path / "platform_collaterals.json"
    with running_pccs(tmp_path) as pccs:
        assert pccs.put(upload_body()).status == 200
        assert run(tmp_path, "export", file, "--format", "intel", "--db", tmp_path / "pccs.sqlite").returncode == 0
        upload = run(tmp_path, "upload", file, "--url", pccs.url, "--admin-token-file", pccs.token_file)
        assert upload.returncode == 0, upload.stderr
    options = ("--db", there / "pccs.sqlite", "--trust-anchor", root_file(there))
    imported = run(there, "import", file, *options)
    assert imported.returncode == 0, imported.stderr
    assert "1 platforms" in imported.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("export", "file"), 2, "USAGE"),
        (("export", "file", "--format", "intel", "--key", "key"), 2, "USAGE"),
        (("export", "file", "--format", "intel"), 2, "COLLATERAL_NOT_FOUND"),
        (("export", "file", "--key", "missing"), 2, "COLLATERAL_NOT_FOUND"),
        (("import", "missing"), 2, "FILE_UNREADABLE"),
        (("import", "/dev/null"), 3, "COLLATERAL_MALFORMED"),
        (("fetch", "file"), 2, "USAGE"),
        (("fetch", "file", "--fmspc", "xyz"), 2, "USAGE"),
        (("fetch", "file", "--fmspc", "00906ED50000", "--upstream", "http://127.0.0.1:1/"), 4, "PCCS_ERROR"),
    ],
)
def test_a_mistake_is_one_line_and_one_answer(
    tmp_path: Path, arguments: tuple[str, ...], code: int, reason: str
) -> None:
    done = run(tmp_path, *arguments, "--json")
    assert (done.returncode, json.loads(done.stdout)["reason"]) == (code, reason)
    assert f"[{reason}]" in done.stderr
