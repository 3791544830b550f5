"""A PCCS that answers as it is told: the replies by which it serves one collateral."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import join_signed_document
from support.scripted_http import Reply

ROUTES = ("pckcrl", "tcb", "qe/identity", "rootcacrl")
CRL, TCB, IDENTITY, ROOT_CRL = (f"/sgx/certification/v4/{route}" for route in ROUTES)
Replies = dict[str, Sequence[Reply]]


def served(collateral: Collateral) -> Replies:
    """What a PCCS answers."""
    tcb = join_signed_document("tcbInfo", collateral.tcb_info, collateral.tcb_info_signature)
    identity = join_signed_document("enclaveIdentity", collateral.qe_identity, collateral.qe_identity_signature)
    chains = {
        CRL: ("SGX-PCK-CRL-Issuer-Chain", collateral.pck_crl_issuer_chain),
        TCB: ("TCB-Info-Issuer-Chain", collateral.tcb_info_issuer_chain),
        IDENTITY: ("SGX-Enclave-Identity-Issuer-Chain", collateral.qe_identity_issuer_chain),
    }
    bodies = {CRL: collateral.pck_crl, TCB: tcb, IDENTITY: identity, ROOT_CRL: collateral.root_ca_crl.hex().encode()}
    headers = {path: ((name, quote(pem.decode(), safe="")),) for path, (name, pem) in chains.items()}
    return {path: (Reply(headers=headers.get(path, ()), body=body),) for path, body in bodies.items()}
