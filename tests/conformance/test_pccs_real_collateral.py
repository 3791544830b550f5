"""Intel's own documents go through the cache without losing a byte, however their upload was laid out."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest

from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import TCBInfo, join_signed_document, parse_pem_chain
from eaa.pccs.service import Service
from eaa.verifier import INTEL, TrustAnchors
from support.pccs import TDX, V4, get, put, service
from support.vectors import cases, vector

VALID: Final = {
    case["collateral"]: datetime.fromisoformat(case["collateral_valid"][0]) + timedelta(minutes=1)
    for case in cases()
    if case.get("collateral") and case.get("collateral_valid")
}
"""Each published collateral, and a moment at which all of it was valid."""


def upload_of(collateral: Collateral, *, tdx: bool, ca: str, spaces: bool) -> bytes:
    """One collateral as an upload, compact or as `json.dump` writes it."""
    tcb = json.loads(join_signed_document("tcbInfo", collateral.tcb_info, collateral.tcb_info_signature))
    identity = join_signed_document("enclaveIdentity", collateral.qe_identity, collateral.qe_identity_signature)
    document = {
        "platforms": [],
        "collaterals": {
            "version": 4,
            "pck_certs": [],
            "tcbinfos": [{"fmspc": tcb["tcbInfo"]["fmspc"], "tdx_tcbinfo" if tdx else "sgx_tcbinfo": tcb}],
            "pckcacrl": {f"{ca}Crl": collateral.pck_crl.hex()},
            "tdqeidentity" if tdx else "qeidentity": identity.decode(),
            "certificates": {
                "SGX-PCK-Certificate-Issuer-Chain": {ca.upper(): encoded(collateral.pck_crl_issuer_chain)},
                "TCB-Info-Issuer-Chain": encoded(collateral.tcb_info_issuer_chain),
                "SGX-Enclave-Identity-Issuer-Chain": encoded(collateral.qe_identity_issuer_chain),
            },
            "rootcacrl": collateral.root_ca_crl.hex(),
        },
    }
    separators = (", ", ": ") if spaces else (",", ":")
    return json.dumps(document, separators=separators, ensure_ascii=False).encode()


def encoded(chain: bytes) -> str:
    return quote(chain.decode(), safe="")


def ca_of(collateral: Collateral) -> str:
    return "platform" if b"Platform" in parse_pem_chain(collateral.pck_crl_issuer_chain)[0] else "processor"


# TCB Info of version 2 belongs to an API version that has ended.
@pytest.mark.parametrize("name", [name for name in VALID if "_v2." not in name])
def test_real_collateral_comes_back_as_it_was_published(tmp_path: Path, name: str) -> None:
    """At a time when it was valid: at any other it would be refused."""
    collateral = Collateral.from_json(vector(name).read_bytes())
    info, ca = TCBInfo.parse(collateral.tcb_info), ca_of(collateral)
    is_tdx = info.id == "TDX"
    anchors = TrustAnchors(frozenset({hashlib.sha256(parse_pem_chain(collateral.pck_crl_issuer_chain)[-1]).digest()}))
    with service(tmp_path, trust_anchors=anchors, clock=lambda: VALID[name]) as served:
        for spaces in (False, True):
            assert put(served, upload_of(collateral, tdx=is_tdx, ca=ca, spaces=spaces)).status == 200
            assert answers(served, info, ca) == published(collateral)


@pytest.mark.parametrize("name", [name for name in list(VALID)[:2] if "_v2." not in name])
def test_what_intel_published_long_ago_is_refused_today(tmp_path: Path, name: str) -> None:
    collateral = Collateral.from_json(vector(name).read_bytes())
    is_tdx = TCBInfo.parse(collateral.tcb_info).id == "TDX"
    with service(tmp_path, trust_anchors=INTEL) as served:
        assert put(served, upload_of(collateral, tdx=is_tdx, ca=ca_of(collateral), spaces=False)).status == 460


def answers(served: Service, info: TCBInfo, ca: str) -> list[tuple[bytes, str]]:
    base = TDX if info.id == "TDX" else V4
    targets = {
        f"{base}/tcb?fmspc={info.fmspc.hex()}": "TCB-Info-Issuer-Chain",
        f"{base}/qe/identity": "SGX-Enclave-Identity-Issuer-Chain",
        f"{V4}/pckcrl?ca={ca}&encoding=der": "SGX-PCK-CRL-Issuer-Chain",
    }
    found = [(response.body, dict(response.headers)[name]) for target, name in targets.items()
             if (response := get(served, target))]  # fmt: skip
    return [*found, (get(served, f"{V4}/rootcacrl").body, "")]


def published(collateral: Collateral) -> list[tuple[bytes, str]]:
    tcb_info = join_signed_document("tcbInfo", collateral.tcb_info, collateral.tcb_info_signature)
    identity = join_signed_document("enclaveIdentity", collateral.qe_identity, collateral.qe_identity_signature)
    return [
        (tcb_info, encoded(collateral.tcb_info_issuer_chain)),
        (identity, encoded(collateral.qe_identity_issuer_chain)),
        (collateral.pck_crl, encoded(collateral.pck_crl_issuer_chain)),
        (collateral.root_ca_crl.hex().encode(), ""),
    ]
