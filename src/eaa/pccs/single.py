"""The collateral of single platform models, as verifiers read it from files."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import split_signed_document
from eaa.pccs.records import Document, Kind
from eaa.pccs.store import Store


def collaterals(store: Store) -> Iterator[tuple[str, Collateral]]:
    """Yield a file name and the collateral for each model, TEE, CA and PKI that is whole, of standard documents."""
    documents = store.catalogue()
    for tcb in documents:
        key = tcb.key
        if (key.kind, key.api_version, key.update_type) != (Kind.TCB_INFO, 4, "STANDARD"):
            continue
        same = [each for each in documents if each.root == tcb.root]
        identity = _find(same, Kind.IDENTITY, "QE" if key.tee == "SGX" else "TD_QE")
        root_crl = _find(same, Kind.ROOT_CRL, "")
        for ca in ("PROCESSOR", "PLATFORM"):
            crl = _find(same, Kind.PCK_CRL, ca)
            if identity is not None and root_crl is not None and crl is not None:
                yield (
                    f"{key.tee}-{key.name}-{ca}-{tcb.root[:8]}.json".lower(),
                    _collateral(tcb, identity, crl, root_crl),
                )


def _find(documents: list[Document], kind: Kind, name: str) -> Document | None:
    for document in documents:
        key = document.key
        if key.kind is kind and key.name == name and key.update_type in ("", "STANDARD") and key.api_version in (0, 4):
            return document
    return None


def _collateral(tcb: Document, identity: Document, crl: Document, root_crl: Document) -> Collateral:
    tcb_info, tcb_info_signature = split_signed_document(tcb.body, "tcbInfo")
    qe_identity, qe_identity_signature = split_signed_document(identity.body, "enclaveIdentity")
    return Collateral(
        pck_crl_issuer_chain=unquote_to_bytes(crl.chain or ""),
        root_ca_crl=root_crl.body,
        pck_crl=crl.body,
        tcb_info_issuer_chain=unquote_to_bytes(tcb.chain or ""),
        tcb_info=tcb_info,
        tcb_info_signature=tcb_info_signature,
        qe_identity_issuer_chain=unquote_to_bytes(identity.chain or ""),
        qe_identity=qe_identity,
        qe_identity_signature=qe_identity_signature,
    )
