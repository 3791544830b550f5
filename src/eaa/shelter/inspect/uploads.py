"""Intel's platform_collaterals.json, the collateral of many platforms: what it holds, and for how long.

Nothing that singles a machine out is told: platforms are counted.
"""

from __future__ import annotations

import json
from typing import Any, Final

from eaa.collateral.bundle import MAX_COLLATERAL_SIZE
from eaa.collateral.intel import QEIdentity, TCBInfo
from eaa.collateral.x509 import CRL
from eaa.errors import MalformedInput, Reason
from eaa.shelter.inspect.result import Facts, Inspection, moment

FORMAT: Final = "platform-collaterals"
MAX_LISTED: Final = 1000
"""TCB Infos, or platforms, of one file."""
_MEMBERS: Final = frozenset({"platforms", "collaterals"})
_IDENTITIES: Final = ("qeidentity", "tdqeidentity", "qveidentity")
_TCB_INFOS: Final = ("sgx_tcbinfo", "tdx_tcbinfo")


def inspect_upload(raw: bytes) -> Inspection | None:
    """Explain a platform_collaterals.json."""
    if raw.lstrip()[:1] != b"{" or len(raw) > MAX_COLLATERAL_SIZE:
        return None
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or not document.keys() >= _MEMBERS:
        return None
    try:
        return Inspection(format=FORMAT, facts=_facts(document))
    except MalformedInput as error:
        problem = error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        problem = MalformedInput(
            Reason.COLLATERAL_MALFORMED,
            "this looks like the collateral of many platforms, and is not of that form",
            hint="Intel's tools write it, and `eaa-pccs export --format intel`",
        )
    return Inspection(format=FORMAT, facts={"size": len(raw)}, problem=problem)


def _facts(document: dict[str, Any]) -> Facts:
    collaterals = document["collaterals"]
    crls = {name: value for name, value in collaterals.get("pckcacrl", {}).items() if value}
    if collaterals.get("rootcacrl"):
        crls["rootcacrl"] = collaterals["rootcacrl"]
    return {
        "version": collaterals.get("version"),
        "platforms": len(document["platforms"]),
        "platforms_with_certificates": len(collaterals.get("pck_certs", ())),
        "certificates": sum(len(entry["certs"]) for entry in collaterals.get("pck_certs", ())),
        "tcb_infos": [fact for entry in collaterals.get("tcbinfos", ())[:MAX_LISTED] for fact in _tcb_infos(entry)],
        "identities": [
            _identity(collaterals[name], update)
            for base in _IDENTITIES
            for name, update in ((base, "standard"), (f"{base}_early", "early"))
            if collaterals.get(name)
        ],
        "crls": {name: _crl(value) for name, value in crls.items()},
    }


def _tcb_infos(entry: dict[str, Any]) -> list[Facts]:
    found = []
    for base in _TCB_INFOS:
        for name, update in ((base, "standard"), (f"{base}_early", "early")):
            if entry.get(name):
                info = TCBInfo.parse(json.dumps(entry[name]["tcbInfo"], separators=(",", ":")).encode())
                found.append(
                    {
                        "fmspc": info.fmspc.hex(),
                        "tee": info.id,
                        "update": update,
                        "tcb_evaluation_data_number": info.tcb_evaluation_data_number,
                        "issue_date": moment(info.issue_date),
                        "next_update": moment(info.next_update),
                    }
                )
    return found


def _identity(text: str, update: str) -> Facts:
    inner = json.loads(text)["enclaveIdentity"]
    identity = QEIdentity.parse(json.dumps(inner, separators=(",", ":")).encode())
    return {
        "id": identity.id,
        "update": update,
        "tcb_evaluation_data_number": identity.tcb_evaluation_data_number,
        "issue_date": moment(identity.issue_date),
        "next_update": moment(identity.next_update),
    }


def _crl(text: str) -> Facts:
    crl = CRL.parse(bytes.fromhex(text))
    return {"number": crl.number, "this_update": moment(crl.this_update), "next_update": moment(crl.next_update)}
