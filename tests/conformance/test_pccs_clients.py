"""Clients that nobody here wrote, or that replay what Intel's client sends, get from eaa-pccs what they need."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from eaa.collateral.bundle import Collateral
from eaa.evidence.quote import Quote
from eaa.sources.pccs import PCCSSource
from eaa.verify.chain import TrustAnchors
from eaa.verify.dcap import verify_quote
from support.pccs import NOW, TDX, V3, V4, RunningPCCS, platform, quote, running_pccs, upload_body, upload_document
from support.tls_files import make_ca
from support.vectors import require

FMSPC: Final = platform().model.fmspc.hex().upper()
ROOT_CRL_URI: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"

# A process of its own that ends without cleaning up: this library sometimes dies when its interpreter exits.
GET_COLLATERAL: Final = """
import asyncio, json, os, sys
from pathlib import Path
import dcap_qvl

async def fetch():
    return await dcap_qvl.get_collateral(sys.argv[1], raw)

raw, root = Path(sys.argv[2]).read_bytes(), Path(sys.argv[3]).read_bytes()
collateral = asyncio.run(fetch())
report = dcap_qvl.verify_with_root_ca(raw, collateral, root, int(sys.argv[4]))
print(json.dumps({"status": str(report.status), "collateral": json.loads(collateral.to_json())}), flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module", params=["platform", "processor"])
def ca(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def pccs(ca: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPCCS]:
    with running_pccs(tmp_path_factory.mktemp("pccs")) as running:
        assert running.put(upload_body(ca)).status == 200
        yield running


def fetch_with_dcap_qvl(url: str, ca: str, folder: Path, **environment: str) -> dict[str, object]:
    require("dcap-qvl", available=importlib.util.find_spec("dcap_qvl") is not None, how="pip install dcap-qvl")
    (folder / "quote").write_bytes(quote(ca))
    (folder / "root").write_bytes(platform(ca).root_der)
    arguments = [url, str(folder / "quote"), str(folder / "root"), str(int(NOW.timestamp()))]
    outcome = subprocess.run(
        [sys.executable, "-c", GET_COLLATERAL, *arguments],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert outcome.stdout, outcome.stderr
    answer: dict[str, object] = json.loads(outcome.stdout)
    return answer


@pytest.mark.parametrize("suffix", ["", "sgx/certification/v4", "sgx/certification/v4/"])
def test_dcap_qvl_fetches_collateral_that_verifies(pccs: RunningPCCS, ca: str, suffix: str, tmp_path: Path) -> None:
    answer = fetch_with_dcap_qvl(pccs.url + suffix, ca, tmp_path)
    assert answer["status"] == "UpToDate"


def test_dcap_qvl_fetches_it_over_https(tmp_path: Path) -> None:
    """Its TLS library takes a CA with a leaf, and no certificate that signs itself."""
    files = make_ca(tmp_path)
    with running_pccs(tmp_path, *files.options) as running:
        context = files.client_context()
        body = upload_body()
        token = {"admin-token": running.token_file.read_text().strip(), "content-type": "application/json"}
        put = running.request("PUT", f"{V4}/platformcollateral", body=body, headers=token, context=context)
        assert put.status == 200
        answer = fetch_with_dcap_qvl(running.url, "platform", tmp_path, SSL_CERT_FILE=str(files.ca))
    assert answer["status"] == "UpToDate"


def test_our_own_client_fetches_the_same_and_it_verifies(pccs: RunningPCCS, ca: str, tmp_path: Path) -> None:
    ours = PCCSSource(pccs.url).fetch(tee=0, fmspc=bytes.fromhex(FMSPC), ca=ca)
    theirs = json.dumps(fetch_with_dcap_qvl(pccs.url, ca, tmp_path)["collateral"])
    # It adds the chain that the quote itself carries.
    assert ours == replace(Collateral.from_json(theirs.encode()), pck_certificate_chain=None)
    anchors = TrustAnchors(frozenset({hashlib.sha256(platform(ca).root_der).digest()}))
    verified = verify_quote(Quote.parse(quote(ca)), ours, trust_anchors=anchors, now=NOW)
    assert (verified.tcb_status, verified.simulated) == ("UpToDate", True)


# --- the requests of Intel's quote provider library, in each of its configurations


SGX_3_1: Final = (
    f"{V4}/pckcrl?ca=platform&encoding=der",
    f"{V4}/tcb?fmspc={FMSPC}&update=standard",
    f"{V4}/qe/identity?update=standard",
    f"{V4}/crl?uri={ROOT_CRL_URI}",
)
SGX_3_0: Final = (f"{V4}/pckcrl?ca=platform", *SGX_3_1[1:3], f"{V4}/rootcacrl")


@pytest.mark.parametrize("sequence", [SGX_3_1, SGX_3_0])
def test_each_request_of_intel_s_client_is_answered(pccs: RunningPCCS, ca: str, sequence: tuple[str, ...]) -> None:
    published = upload_document(ca)["collaterals"]
    crl, tcb, identity, root_crl = answers = [pccs.get(target, accept="*/*") for target in sequence]
    for answer in answers:
        # An empty body is an error for it, and every body with its chain must stay below 64 KiB.
        assert answer.status == 200
        assert 0 < len(answer.body) + sum(map(len, answer.headers.values())) < 64 * 1024
    read = bytes.hex if sequence is SGX_3_1 else bytes.decode
    assert read(crl.body) == published["pckcacrl"]["platformCrl"]
    assert read(root_crl.body) == published["rootcacrl"]
    assert crl.headers["sgx-pck-crl-issuer-chain"]
    assert tcb.headers["tcb-info-issuer-chain"]
    assert identity.headers["sgx-enclave-identity-issuer-chain"]


def test_its_request_for_a_pck_certificate_is_answered(pccs: RunningPCCS, ca: str) -> None:
    """With an encrypted PPID of zeros, when it knows none, and with an operator's own parameters behind it."""
    entry = upload_document(ca)["platforms"][0]
    answer = pccs.get(
        f"{V4}/pckcert?qeid={entry['qe_id']}&encrypted_ppid={'0' * 768}&cpusvn={entry['cpu_svn']}"
        f"&pcesvn={entry['pce_svn']}&pceid={entry['pce_id']}&param1=value1"
    )
    assert answer.status == 200
    assert len(answer.headers["sgx-tcbm"]) == 36
    assert answer.headers["sgx-tcbm"] == answer.headers["sgx-tcbm"].upper()
    assert answer.headers["sgx-pck-certificate-issuer-chain"]
    assert answer.body.startswith(b"-----BEGIN CERTIFICATE-----")


def test_its_request_for_the_identity_of_the_verifying_enclave_is_answered(pccs: RunningPCCS) -> None:
    assert b'"id":"QVE"' in pccs.get(f"{V4}/qve/identity?update=standard").body


def test_tdx_documents_lie_under_tdx_and_the_rest_under_sgx(pccs: RunningPCCS) -> None:
    assert b'"id":"TD_QE"' in pccs.get(f"{TDX}/qe/identity?update=standard").body
    assert pccs.get(f"{TDX}/tcb?fmspc={FMSPC}&update=standard").status == 404


def test_a_base_of_version_3_still_gets_the_crl_and_no_tcb_info(pccs: RunningPCCS) -> None:
    assert pccs.get(f"{V3}/pckcrl?ca=platform").status == 200
    assert pccs.get(f"{V3}/tcb?fmspc={FMSPC}").status == 404
