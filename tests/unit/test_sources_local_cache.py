"""`local_cache_only`: the files that Intel's own tool makes of a platform, read as Intel's library reads them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from eaa.collateral.intel import PCKCertificate
from eaa.collateral.x509 import parse_pem_chain
from eaa.errors import Reason, Unavailable
from eaa.sources import PCKName, open_source
from eaa.sources.local_cache import ANY_PLATFORM, MAX_CACHE_FILE, default_cache_folder, read_pck_chain
from support.pccs import platform, upload_document

DOCUMENT: Final = upload_document()
ENTRY: Final = DOCUMENT["platforms"][0]
CERTS: Final = DOCUMENT["collaterals"]["pck_certs"][0]["certs"]
TCB_INFO: Final = json.dumps(DOCUMENT["collaterals"]["tcbinfos"][0]["sgx_tcbinfo"])
CHAIN: Final = DOCUMENT["collaterals"]["certificates"]["SGX-PCK-Certificate-Issuer-Chain"]["PLATFORM"]
NAME: Final = PCKName(
    qe_id=bytes.fromhex(ENTRY["qe_id"]),
    encrypted_ppid=None,
    cpu_svn=bytes.fromhex(ENTRY["cpu_svn"]),
    pce_svn=platform().model.pce_svn,
    pce_id=bytes(2),
)
FILE: Final = f"{ENTRY['qe_id']}_0000".lower()
NOT_AVAILABLE: Final = {**CERTS[0], "cert": "Not available"}


def cache_file(
    *, cpu_svn: str = ENTRY["cpu_svn"], tcb_info: str = TCB_INFO, chain: str = CHAIN, certs: Any = CERTS
) -> bytes:
    """As `pcsclient.py cache` writes it."""
    raw = struct.pack("<HIQ", 1, 4, 2_000_000_000)
    for text in (cpu_svn, tcb_info, chain, json.dumps(certs)):
        raw += struct.pack("<I", len(text)) + text.encode()
    return raw


def stored(folder: Path, raw: bytes, name: str = FILE) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(raw)
    return folder


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        (FILE, cache_file()),
        (FILE, cache_file(certs=[NOT_AVAILABLE, *CERTS])),
        # Of whom it does not know, the tool makes one file for all, with a CPU SVN above every other.
        (ANY_PLATFORM, cache_file(cpu_svn="f" * 32)),
    ],
)
def test_the_certificate_and_its_issuers_come_from_the_file(tmp_path: Path, name: str, raw: bytes) -> None:
    leaf, ca, root = parse_pem_chain(read_pck_chain(stored(tmp_path, raw, name), NAME))
    assert PCKCertificate.parse(leaf).fmspc == platform().model.fmspc
    assert root == platform().root_der
    assert ca not in (leaf, root)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        cache_file()[:13],
        cache_file()[:-1],
        cache_file(cpu_svn="f" * 30),
        cache_file(cpu_svn="z" * 32),
        cache_file(tcb_info="{}"),
        cache_file(tcb_info="nonsense"),
        cache_file(certs={}),
        cache_file(certs=[1]),
        cache_file(certs=[]),
        cache_file(certs=[NOT_AVAILABLE]),
        cache_file(certs=[{**CERTS[0], "cert": "nonsense"}]),
        # A platform below all of its certificates.
        cache_file(cpu_svn="0" * 32),
        cache_file() + bytes(MAX_CACHE_FILE),
    ],
)
def test_a_file_that_cannot_be_used_is_no_certificate_and_tells_nobody_the_machine(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(Unavailable) as caught:
        read_pck_chain(stored(tmp_path, raw), NAME)
    assert caught.value.reason is Reason.COLLATERAL_NOT_FOUND
    assert ENTRY["qe_id"].lower() not in str(caught.value).lower()


def test_another_platform_has_none(tmp_path: Path) -> None:
    folder = stored(tmp_path, cache_file())
    for name in (replace(NAME, qe_id=bytes(16)), replace(NAME, pce_id=b"\1\0")):
        with pytest.raises(Unavailable):
            read_pck_chain(folder, name)


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"AZDCAP_CACHE": "/a", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/a"),
        ({"AZDCAP_CACHE": "", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x"),
        ({"HOME": "/h", "TMPDIR": "/t"}, "/h"),
        ({"TMPDIR": "/t"}, "/t"),
        ({}, "/tmp"),
    ],
)
def test_the_folder_is_the_one_that_intel_s_library_uses(environ: Mapping[str, str], folder: str) -> None:
    assert default_cache_folder(environ) == Path(folder) / ".dcap-qcnl"


@pytest.mark.parametrize("text", ['{"local_cache_only": true}', "LOCAL_CACHE_ONLY=TRUE\n"])
def test_a_configuration_leads_there_in_both_of_its_forms(tmp_path: Path, text: str) -> None:
    (tmp_path / "qcnl.conf").write_text(text)
    stored(tmp_path / ".dcap-qcnl", cache_file())
    environ = {"QCNL_CONF_PATH": str(tmp_path / "qcnl.conf"), "HOME": str(tmp_path)}
    source: Any = open_source(pccs=None, ca_file=None, file=None, environ=environ)
    assert source.fetch_pck_chain(NAME).startswith(platform().pck_pem.rstrip())
