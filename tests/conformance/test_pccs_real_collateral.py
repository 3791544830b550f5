"""Intel's own documents go through the cache without losing a byte, however their upload was laid out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

import pytest

from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import TCBInfo, join_signed_document, parse_pem_chain
from eaa.sources.pccs import PCCSSource
from support.pccs import RunningPCCS, running_pccs
from support.vectors import cases, vector

FILES: Final = sorted({case["collateral"] for case in cases() if case.get("collateral")})
TDX: Final = 0x81
FIELDS: Final = tuple(field for field in Collateral.__dataclass_fields__ if field != "pck_certificate_chain")


@pytest.fixture(scope="module")
def pccs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPCCS]:
    with running_pccs(tmp_path_factory.mktemp("pccs")) as running:
        yield running


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
@pytest.mark.parametrize("name", [name for name in FILES if "_v2." not in name])
def test_real_collateral_comes_back_as_it_was_published(pccs: RunningPCCS, name: str) -> None:
    collateral = Collateral.from_json(vector(name).read_bytes())
    info, ca = TCBInfo.parse(collateral.tcb_info), ca_of(collateral)
    is_tdx = info.id == "TDX"
    for spaces in (False, True):
        assert pccs.put(upload_of(collateral, tdx=is_tdx, ca=ca, spaces=spaces)).status == 200
        served = PCCSSource(pccs.url).fetch(tee=TDX if is_tdx else 0, fmspc=info.fmspc, ca=ca)
        assert documents_of(served) == documents_of(collateral)


def documents_of(collateral: Collateral) -> dict[str, bytes]:
    return {field: getattr(collateral, field) for field in FIELDS}
