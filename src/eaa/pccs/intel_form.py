"""What Intel's tools read and write: platform_collaterals.json, the body of PUT /platformcollateral.

Source: Intel SGX PCCS 1.27, "Platform Collateral", API version 4.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterable
from typing import IO, Any, Final
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
    """Return what `write_platform_collaterals` writes."""
    stream = io.BytesIO()
    write_platform_collaterals(stream, uploads, later=io.BytesIO())
    return stream.getvalue()


def write_platform_collaterals(stream: IO[bytes], uploads: Iterable[Upload], *, later: IO[bytes]) -> None:
    """Write one body of all that these uploads of one PKI have, as far as this form has a place for it.

    It has none for documents of API version 3 and for TCB Info that was fetched by its evaluation number.

    Args:
        stream: binary.
        uploads: no more than one of them has to be in memory.
        later: empty, to be written and read: certificates come after all platforms.
    """
    documents = _Documents()
    listed, certified = _List(stream), _List(later)
    stream.write(b'{"platforms":[')
    for upload in uploads:
        documents.add(upload)
        for platform in upload.platforms:
            certified.add(_certificates(platform))
            for entry in _listed(platform):
                listed.add(entry)
    stream.write(b'],"collaterals":{"version":4,"pck_certs":[')
    later.seek(0)
    shutil.copyfileobj(later, stream)
    stream.write(b"]," + _encode(documents.members()).encode()[1:] + b"}")


class _List:
    """The items of a JSON list, written one after the other."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._comma = b""

    def add(self, item: Any) -> None:
        self._stream.write(self._comma + _encode(item).encode())
        self._comma = b","


class _Documents:
    """All that uploads bring beside platforms."""

    def __init__(self) -> None:
        self._tcb_infos: dict[str, dict[str, _Verbatim]] = {}
        self._rest: dict[str, Any] = {}
        self._crls: dict[str, str] = {}
        self._chains: dict[str, str] = {}

    def add(self, upload: Upload) -> None:
        self._chains |= upload.chains
        self._crls |= {ca: crl.hex() for ca, crl in upload.pck_crls.items()}
        if upload.root_crl is not None:
            self._rest["rootcacrl"] = upload.root_crl.hex()
        if upload.root_crl_uri is not None:
            self._rest["rootcacrl_cdp"] = upload.root_crl_uri
        if upload.api_version != 4:
            return
        for document in upload.tcb_infos:
            member = _TCB_INFO_MEMBERS.get((document.tee, document.update))
            if member is not None:
                self._tcb_infos.setdefault(document.name, {})[member] = _Verbatim(document.text.decode())
        for document in upload.identities:
            member = _IDENTITY_MEMBERS.get((document.name, document.update))
            if member is not None:
                self._rest[member] = document.text.decode()

    def members(self) -> dict[str, Any]:
        """Return the members of `collaterals` but for its version and certificates."""
        chains, crls = self._chains, self._crls
        return {
            "tcbinfos": [{"fmspc": fmspc, **found} for fmspc, found in sorted(self._tcb_infos.items())],
            "pckcacrl": {f"{ca.lower()}Crl": crls[ca] for ca in CAS if ca in crls},
            **dict(sorted(self._rest.items())),
            "certificates": {
                "SGX-PCK-Certificate-Issuer-Chain": {ca: chains[ca] for ca in CAS if ca in chains},
                **({"TCB-Info-Issuer-Chain": chains[TCB_INFO]} if TCB_INFO in chains else {}),
                **({"SGX-Enclave-Identity-Issuer-Chain": chains[IDENTITY]} if IDENTITY in chains else {}),
            },
        }


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
