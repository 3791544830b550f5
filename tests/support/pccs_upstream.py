"""What a PCCS is filled from: replies of Intel's service about a simulated machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from eaa.simulator.platform import Platform
from support.pccs import NOW, TDX, V4
from support.scripted_http import Reply

Replies = dict[str, Sequence[Reply]]


def upstream_of(machine: Platform, *, now: datetime = NOW) -> Replies:
    """What Intel's service would answer about a machine; only standard documents, and none for TDX but its QE's."""
    document = json.loads(machine.platform_collaterals(now=now))["collaterals"]
    chains, tcb = document["certificates"], document["tcbinfos"][0]["sgx_tcbinfo"]
    ca_chain = chains["SGX-PCK-Certificate-Issuer-Chain"]["PLATFORM"]
    identity_chain = (("SGX-Enclave-Identity-Issuer-Chain", chains["SGX-Enclave-Identity-Issuer-Chain"]),)
    return {
        f"{V4}/tcb": [
            Reply(
                headers=(("TCB-Info-Issuer-Chain", chains["TCB-Info-Issuer-Chain"]),),
                body=json.dumps(tcb, separators=(",", ":")).encode(),
            )
        ],
        f"{V4}/qe/identity": [Reply(headers=identity_chain, body=document["qeidentity"].encode())],
        f"{V4}/qve/identity": [Reply(headers=identity_chain, body=document["qveidentity"].encode())],
        f"{TDX}/qe/identity": [Reply(headers=identity_chain, body=document["tdqeidentity"].encode())],
        f"{V4}/pckcrl": [
            Reply(
                headers=(("SGX-PCK-CRL-Issuer-Chain", ca_chain),),
                body=bytes.fromhex(document["pckcacrl"]["platformCrl"]),
            )
        ],
        f"{V4}/rootcacrl": [Reply(body=document["rootcacrl"].encode())],
        f"{V4}/pckcerts": [
            Reply(
                headers=(
                    ("SGX-PCK-Certificate-Issuer-Chain", ca_chain),
                    ("SGX-PCK-Certificate-CA-Type", "platform"),
                    ("SGX-FMSPC", machine.model.fmspc.hex()),
                ),
                body=json.dumps(document["pck_certs"][0]["certs"]).encode(),
            )
        ],
    }
