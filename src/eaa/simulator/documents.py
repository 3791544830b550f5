"""TCB Info and enclave identities as the vendor writes them: compact JSON in Intel's member order.

Some verifiers check the signature over what they parsed and wrote again, so the text has to be what any compact JSON
writer makes of it: ASCII, no floats, no escapes, members in this order.

Source: Intel PCS API, "TCBInfo V3" and "EnclaveIdentity V2".
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from typing import Any, Final

from eaa.collateral.intel import TCBStatus
from eaa.simulator.model import PlatformModel

Document = dict[str, Any]

DOCUMENT_VALIDITY: Final = timedelta(days=30)
QE_MR_SIGNER: Final = hashlib.sha256(b"EAA simulated quoting enclave signer").digest()
QE_PROD_ID: Final = 1
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


def tcb_info(model: PlatformModel, *, issued: datetime) -> Document:
    """Return TCB Info version 3 for SGX, issued at `issued`."""
    return {
        "id": "SGX",
        "version": 3,
        **_dates(issued),
        "fmspc": model.fmspc.hex().upper(),
        "pceId": model.pce_id.hex().upper(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": model.tcb_evaluation_data_number,
        "tcbLevels": _platform_levels(model),
    }


def qe_identity(model: PlatformModel, *, issued: datetime) -> Document:
    """Return the identity of the SGX quoting enclave, version 2."""
    levels = [_enclave_level(model.qe_svn, model.qe_status, list(model.qe_advisory_ids), date=_CURRENT_DATE)]
    if model.qe_status == TCBStatus.UP_TO_DATE:
        levels[0]["tcbDate"] = _LATEST_DATE
    else:
        levels.insert(0, _enclave_level(model.qe_svn + 1, TCBStatus.UP_TO_DATE, [], date=_LATEST_DATE))
    levels.append(_enclave_level(1, TCBStatus.OUT_OF_DATE, _EVERY_ADVISORY, date=_OLDEST_DATE))
    return _identity("QE", model, issued, mr_signer=QE_MR_SIGNER, prod_id=QE_PROD_ID, levels=levels)


def td_qe_identity(model: PlatformModel, *, issued: datetime) -> Document:
    """Return the identity of the TD quoting enclave, version 2."""
    signer = hashlib.sha256(b"EAA simulated TD quoting enclave signer").digest()
    levels = [_enclave_level(4, TCBStatus.UP_TO_DATE, [], date=_LATEST_DATE)]
    return _identity("TD_QE", model, issued, mr_signer=signer, prod_id=2, levels=levels)


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
    kinds = (*_COMPONENT_KINDS, *({} for _ in components[len(_COMPONENT_KINDS) :]))
    tcb = [{"svn": svn, **kind} for svn, kind in zip(components, kinds, strict=True)]
    return _level({"sgxtcbcomponents": tcb, "pcesvn": pce_svn}, status, advisories, date)


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
