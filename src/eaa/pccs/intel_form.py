"""What Intel's tools read and write: platform_collaterals.json, the body of PUT /platformcollateral.

Source: Intel SGX PCCS 1.27, "Platform Collateral", API version 4.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

from eaa.pccs.uploads import CAS, IDENTITY, TCB_INFO, Upload, UploadedPlatform

_TCB_INFO_MEMBERS: Final = {
    ("SGX", "STANDARD"): "sgx_tcbinfo",
    ("SGX", "EARLY"): "sgx_tcbinfo_early",
    ("TDX", "STANDARD"): "tdx_tcbinfo",
    ("TDX", "EARLY"): "tdx_tcbinfo_early",
}
_IDENTITY_MEMBERS: Final = {
    ("QE", "STANDARD"): "qeidentity",
    ("QE", "EARLY"): "qeidentity_early",
    ("TD_QE", "STANDARD"): "tdqeidentity",
    ("TD_QE", "EARLY"): "tdqeidentity_early",
    ("QVE", "STANDARD"): "qveidentity",
    ("QVE", "EARLY"): "qveidentity_early",
}


class _Verbatim(str):
    """A JSON text that has to stand as it is: a signature covers it."""

    __slots__ = ()


def platform_collaterals(uploads: Iterable[Upload]) -> bytes:
    """Return one body of all that these uploads of one PKI have, as far as this form has a place for it.

    It has none for documents of API version 3 and for TCB Info that was fetched by its evaluation number.
    """
    platforms: list[UploadedPlatform] = []
    tcb_infos: dict[str, dict[str, _Verbatim]] = {}
    rest: dict[str, Any] = {}
    crls: dict[str, str] = {}
    chains: dict[str, str] = {}
    for upload in uploads:
        chains |= upload.chains
        crls |= {ca: crl.hex() for ca, crl in upload.pck_crls.items()}
        platforms += upload.platforms
        if upload.root_crl is not None:
            rest["rootcacrl"] = upload.root_crl.hex()
        if upload.root_crl_uri is not None:
            rest["rootcacrl_cdp"] = upload.root_crl_uri
        if upload.api_version != 4:
            continue
        for document in upload.tcb_infos:
            member = _TCB_INFO_MEMBERS.get((document.tee, document.update))
            if member is not None:
                tcb_infos.setdefault(document.name, {})[member] = _Verbatim(document.text.decode())
        for document in upload.identities:
            member = _IDENTITY_MEMBERS.get((document.name, document.update))
            if member is not None:
                rest[member] = document.text.decode()
    collaterals = {
        "version": 4,
        "pck_certs": [_certificates(platform) for platform in platforms],
        "tcbinfos": [{"fmspc": fmspc, **found} for fmspc, found in sorted(tcb_infos.items())],
        "pckcacrl": {f"{ca.lower()}Crl": crls[ca] for ca in CAS if ca in crls},
        **dict(sorted(rest.items())),
        "certificates": {
            "SGX-PCK-Certificate-Issuer-Chain": {ca: chains[ca] for ca in CAS if ca in chains},
            **({"TCB-Info-Issuer-Chain": chains[TCB_INFO]} if TCB_INFO in chains else {}),
            **({"SGX-Enclave-Identity-Issuer-Chain": chains[IDENTITY]} if IDENTITY in chains else {}),
        },
    }
    listed = [entry for platform in platforms for entry in _listed(platform)]
    return _encode({"platforms": listed, "collaterals": collaterals}).encode()


def _identity(platform: UploadedPlatform) -> dict[str, str]:
    return {
        "qe_id": platform.qe_id,
        "pce_id": platform.pce_id,
        "enc_ppid": platform.enc_ppid,
        "platform_manifest": platform.platform_manifest,
    }


def _listed(platform: UploadedPlatform) -> list[dict[str, str]]:
    named = _identity(platform)
    tcbs = [{**named, "cpu_svn": tcb.cpu_svn, "pce_svn": tcb.pce_svn} for tcb in platform.raw_tcbs]
    return tcbs or [{**named, "cpu_svn": "", "pce_svn": ""}]


def _certificates(platform: UploadedPlatform) -> dict[str, Any]:
    certs = []
    for candidate in sorted(platform.certificates, key=lambda each: each.tcbm):
        svns = candidate.certificate.tcb_components
        components = {f"sgxtcbcomp{index:02d}svn": svn for index, svn in enumerate(svns, 1)}
        tcb = {**components, "pcesvn": candidate.certificate.pce_svn}
        certs.append({"tcb": tcb, "tcbm": candidate.tcbm, "cert": quote(candidate.pem, safe="")})
    return {**_identity(platform), "certs": certs}


def _encode(value: Any) -> str:
    """Return JSON, compact, with the signed documents as they were signed."""
    match value:
        case _Verbatim():
            return str(value)
        case dict():
            return "{" + ",".join(f"{json.dumps(name)}:{_encode(inner)}" for name, inner in value.items()) + "}"
        case list():
            return "[" + ",".join(map(_encode, value)) + "]"
        case _:
            return json.dumps(value)
