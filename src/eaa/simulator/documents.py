"""TCB Info and enclave identities as the vendor writes them: compact JSON in Intel's member order.

Some verifiers check the signature over what they parsed and wrote again, so the text has to be what any compact JSON
writer makes of it: ASCII, no floats, no escapes, members in this order.

Source: Intel PCS API, "TCBInfo V3" and "EnclaveIdentity V2".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from eaa.collateral.intel import TCBStatus
from eaa.simulator.model import PlatformModel

Document = dict[str, Any]

DOCUMENT_VALIDITY: Final = timedelta(days=30)
QE_MR_SIGNER: Final = hashlib.sha256(b"EAA simulated quoting enclave signer").digest()
QE_PROD_ID: Final = 1
TD_QE_MR_SIGNER: Final = hashlib.sha256(b"EAA simulated TD quoting enclave signer").digest()
TD_QE_PROD_ID: Final = 2
MODULE_VERSIONS: Final = (1, 3)
"""Major versions of TDX modules that TCB Info knows, besides modules without one."""
OLDEST_MODULE: Final = 1
"""The SVN of a module's lowest level, which is out of date."""
QE_ATTRIBUTES: Final = bytes.fromhex("1500000000000000e700000000000000")
"""INIT, MODE64BIT, PROVISIONKEY; not DEBUG."""

_LATEST_DATE: Final = "2026-02-11T00:00:00Z"
_CURRENT_DATE: Final = "2024-11-13T00:00:00Z"
_OLDEST_DATE: Final = "2018-08-15T00:00:00Z"
_EVERY_ADVISORY: Final = ["INTEL-SA-00161", "INTEL-SA-00233"]
_COMPONENT_KINDS: Final = (
    {"category": "BIOS", "type": "Early Microcode Update"},
    {"category": "OS/VMM", "type": "SGX Late Microcode Update"},
    {"category": "OS/VMM", "type": "TXT SINIT"},
    {"category": "BIOS"},
)
_TDX_COMPONENT_KINDS: Final = (
    {"category": "OS/VMM", "type": "TDX Module"},
    {"category": "OS/VMM", "type": "TDX Module"},
    {"category": "OS/VMM", "type": "TDX Late Microcode Update"},
)


def tcb_info(model: PlatformModel, *, issued: datetime) -> Document:
    """Return TCB Info version 3 for SGX, issued at `issued`."""
    return {"id": "SGX", **_tcb_info_head(model, issued), "tcbLevels": _platform_levels(model)}


def tdx_tcb_info(model: PlatformModel, *, issued: datetime) -> Document:
    """Return TCB Info version 3 for TDX, with the identities of its modules, issued at `issued`."""
    identities = [
        {"id": f"TDX_{version:02X}", **_module(), "tcbLevels": _module_levels(model)} for version in MODULE_VERSIONS
    ]
    return {
        "id": "TDX",
        **_tcb_info_head(model, issued),
        "tdxModule": _module(),
        "tdxModuleIdentities": identities,
        "tcbLevels": _domain_levels(model),
    }


def qe_identity(model: PlatformModel, *, issued: datetime) -> Document:
    """Return the identity of the SGX quoting enclave, version 2."""
    levels = _qe_levels(model)
    return _identity("QE", model, issued, mr_signer=QE_MR_SIGNER, prod_id=QE_PROD_ID, levels=levels)


def td_qe_identity(model: PlatformModel, *, issued: datetime) -> Document:
    """Return the identity of the TD quoting enclave, version 2."""
    levels = _qe_levels(model)
    return _identity("TD_QE", model, issued, mr_signer=TD_QE_MR_SIGNER, prod_id=TD_QE_PROD_ID, levels=levels)


def qve_identity(model: PlatformModel, *, issued: datetime) -> Document:
    """Return the identity of the quote verification enclave, version 2."""
    levels = [_enclave_level(3, TCBStatus.UP_TO_DATE, [], date=_LATEST_DATE)]
    return _identity("QVE", model, issued, mr_signer=QE_MR_SIGNER, prod_id=2, levels=levels)


def compact(document: Document) -> bytes:
    """Return the text that is signed."""
    return json.dumps(document, separators=(",", ":")).encode()


def date_text(moment: datetime) -> str:
    """Return a date as these documents write it."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _dates(issued: datetime) -> Document:
    return {"issueDate": date_text(issued), "nextUpdate": date_text(issued + DOCUMENT_VALIDITY)}


def _tcb_info_head(model: PlatformModel, issued: datetime) -> Document:
    return {
        "version": 3,
        **_dates(issued),
        "fmspc": model.fmspc.hex().upper(),
        "pceId": model.pce_id.hex().upper(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": model.tcb_evaluation_data_number,
    }


def _module() -> Document:
    """Return what a TDX module must be: Intel's own, which has a signer of zeros."""
    return {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}


def _module_levels(model: PlatformModel) -> list[Document]:
    status, advisories = model.tdx_module_status, list(model.tdx_module_advisory_ids)
    return _svn_levels(model.tee_tcb_svn[0], status, advisories, oldest=OLDEST_MODULE)


def _qe_levels(model: PlatformModel) -> list[Document]:
    return _svn_levels(model.qe_svn, model.qe_status, list(model.qe_advisory_ids), oldest=1)


def _svn_levels(svn: int, status: str, advisories: list[str], *, oldest: int) -> list[Document]:
    """Return the levels, highest first: one above `svn` unless it is up to date, its own, and the oldest."""
    levels = [_enclave_level(svn, status, advisories, date=_CURRENT_DATE)]
    if status == TCBStatus.UP_TO_DATE:
        levels[0]["tcbDate"] = _LATEST_DATE
    else:
        levels.insert(0, _enclave_level(svn + 1, TCBStatus.UP_TO_DATE, [], date=_LATEST_DATE))
    return [*levels, _enclave_level(oldest, TCBStatus.OUT_OF_DATE, _EVERY_ADVISORY, date=_OLDEST_DATE)]


def _domain_levels(model: PlatformModel) -> list[Document]:
    """Return the platform's levels with the components of TDX: none in the oldest, the module's own in the others."""
    levels = _platform_levels(model)
    # Component 1 is the module's major version, of which no level says anything.
    own = (model.tee_tcb_svn[0], 0, *model.tee_tcb_svn[2:])
    for level in levels:
        components = (0,) * len(own) if level["tcbDate"] == _OLDEST_DATE else own
        level["tcb"]["tdxtcbcomponents"] = _with_kinds(components, _TDX_COMPONENT_KINDS)
    return levels


def _platform_levels(model: PlatformModel) -> list[Document]:
    """Return the levels, highest first: one above the platform unless it is up to date, its own, and the oldest."""
    own = (tuple(model.cpu_svn), model.pce_svn)
    advisories = list(model.advisory_ids)
    if model.tcb_status == TCBStatus.UP_TO_DATE:
        levels = [_platform_level(*own, TCBStatus.UP_TO_DATE, advisories, date=_LATEST_DATE)]
    else:
        levels = [
            _platform_level(*model.better_tcb, TCBStatus.UP_TO_DATE, [], date=_LATEST_DATE),
            _platform_level(*own, model.tcb_status, advisories, date=_CURRENT_DATE),
        ]
    oldest = ((0,) * len(model.cpu_svn), 0)
    if own != oldest:
        levels.append(_platform_level(*oldest, TCBStatus.OUT_OF_DATE, _EVERY_ADVISORY, date=_OLDEST_DATE))
    return levels


def _platform_level(
    components: tuple[int, ...], pce_svn: int, status: str, advisories: list[str], *, date: str
) -> Document:
    tcb = {"sgxtcbcomponents": _with_kinds(components, _COMPONENT_KINDS), "pcesvn": pce_svn}
    return _level(tcb, status, advisories, date)


def _with_kinds(components: Sequence[int], kinds: Sequence[dict[str, str]]) -> list[Document]:
    padded = (*kinds, *({} for _ in components[len(kinds) :]))
    return [{"svn": svn, **kind} for svn, kind in zip(components, padded, strict=True)]


def _enclave_level(isv_svn: int, status: str, advisories: list[str], *, date: str) -> Document:
    return _level({"isvsvn": isv_svn}, status, advisories, date)


def _level(tcb: Document, status: str, advisories: list[str], date: str) -> Document:
    level: Document = {"tcb": tcb, "tcbDate": date, "tcbStatus": status}
    if advisories:
        level["advisoryIDs"] = list(advisories)
    return level


def _identity(
    identity: str, model: PlatformModel, issued: datetime, *, mr_signer: bytes, prod_id: int, levels: list[Document]
) -> Document:
    return {
        "id": identity,
        "version": 2,
        **_dates(issued),
        "tcbEvaluationDataNumber": model.tcb_evaluation_data_number,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": mr_signer.hex().upper(),
        "isvprodid": prod_id,
        "tcbLevels": levels,
    }
