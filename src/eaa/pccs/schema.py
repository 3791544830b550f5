"""The shapes of bodies that are written (PUT /platformcollateral above all), and a small validator for them.

The validator knows the part of JSON Schema that the shape needs, and names the place that is wrong, which an operator
can find; the answer to the client is one sentence whatever is wrong.

Source: Intel SGX PCCS 1.27, "Platform Collateral" (members, patterns, bounds). Members that are not listed may stand
anywhere: clients add their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from eaa.pccs.wire import Refusal, Status

Schema = Mapping[str, Any]

_KINDS: Final[Mapping[str, type]] = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
_DATE_TIME: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:[Zz]|[+-]\d{2}(?::?\d{2})?)", re.ASCII
)


def violations(value: Any, schema: Schema, *, where: str = "the upload") -> Iterator[str]:
    """Yield what is wrong with a parsed JSON value, outermost first; nothing where it fits."""
    if value is None and schema.get("nullable"):
        return
    kind = schema.get("type")
    if kind is not None and not _is_kind(value, kind):
        yield f"{where} is not of type {kind}"
        return
    if "const" in schema and (value != schema["const"] or isinstance(value, bool)):
        yield f"{where} is not {schema['const']!r}"
    yield from _bounds(value, schema, where)
    if isinstance(value, dict):
        yield from _members(value, schema, where)
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from violations(item, schema.get("items", {}), where=f"{where}[{index}]")


def require(value: Any, schema: Schema, *, where: str = "the upload") -> None:
    """Raise Refusal (400) with the first thing that is wrong."""
    problem = next(violations(value, schema, where=where), None)
    if problem:
        raise Refusal(Status.INVALID_REQUEST, problem)


def _is_kind(value: Any, kind: str) -> bool:
    if isinstance(value, float):
        return kind == "integer" and value.is_integer()
    return isinstance(value, _KINDS[kind]) and isinstance(value, bool) is (kind == "boolean")


def _bounds(value: Any, schema: Schema, where: str) -> Iterator[str]:
    if isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            yield f"{where} has {len(value)} characters"
        if "pattern" in schema and not re.fullmatch(schema["pattern"], value):
            yield f"{where} does not match {schema['pattern']}"
        if schema.get("format") == "date-time" and not _is_date_time(value):
            yield f"{where} is no date and time"
    elif isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{where} is out of range"


def _is_date_time(text: str) -> bool:
    if not _DATE_TIME.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text.upper())
    except ValueError:
        return False
    return True


def _members(value: dict[str, Any], schema: Schema, where: str) -> Iterator[str]:
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{where} has no member {name}"
    for name, inner in schema.get("properties", {}).items():
        if name in value:
            yield from violations(value[name], inner, where=f"{where}.{name}")


def _object(properties: Schema, *required: str) -> Schema:
    return {"type": "object", "properties": properties, "required": required}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _hex(digits: int, *, optional: bool = False) -> Schema:
    empty = "|" if optional else ""
    return {"type": "string", "pattern": f"[a-fA-F0-9]{{{digits}}}{empty}"}


_TEXT: Final = {"type": "string"}
_INTEGER: Final = {"type": "integer"}
_DATE: Final = {"type": "string", "format": "date-time"}
_SVN: Final = {"type": "integer", "minimum": 0, "maximum": 255}
_QE_ID: Final = {"type": "string", "minLength": 1, "maxLength": 260}
_SVN_NAMES: Final = tuple(f"sgxtcbcomp{index:02d}svn" for index in range(1, 17))
_IDENTITY: Final = {
    "qe_id": _QE_ID,
    "pce_id": _hex(4),
    "enc_ppid": _hex(768, optional=True),
    "platform_manifest": {"type": "string", "nullable": True},
}
_PLATFORM: Final = _object(
    {**_IDENTITY, "cpu_svn": _hex(32, optional=True), "pce_svn": _hex(4, optional=True)}, "qe_id", "pce_id"
)
_CERTIFICATE: Final = _object(
    {
        "tcb": _object({**dict.fromkeys(_SVN_NAMES, _SVN), "pcesvn": {**_INTEGER, "minimum": 0, "maximum": 65535}}),
        "tcbm": _hex(36),
        "cert": _TEXT,
    },
    "tcb",
    "tcbm",
    "cert",
)
_PCK_CERTS: Final = _object({**_IDENTITY, "certs": _array(_CERTIFICATE)}, "qe_id", "pce_id", "enc_ppid", "certs")
_COMPONENTS: Final = _array(_object({"svn": _INTEGER, "category": _TEXT, "type": _TEXT}, "svn"))
_LEVEL_TCB_V4: Final = _object(
    {"sgxtcbcomponents": _COMPONENTS, "tdxtcbcomponents": _COMPONENTS, "pcesvn": _INTEGER}, "sgxtcbcomponents"
)
_LEVEL_TCB_V3: Final = _object({**dict.fromkeys(_SVN_NAMES, _SVN), "pcesvn": _INTEGER})


def _tcb_info(level_tcb: Schema, **more: Schema) -> Schema:
    level = _object(
        {"tcb": level_tcb, "tcbDate": _DATE, "tcbStatus": _TEXT, "advisoryIDs": _array(_TEXT)},
    )
    inner = {
        **more,
        "version": _INTEGER,
        "issueDate": _DATE,
        "nextUpdate": _DATE,
        "fmspc": _hex(12),
        "pceId": _hex(4),
        "tcbType": _INTEGER,
        "tcbEvaluationDataNumber": _INTEGER,
        "tcbLevels": _array(level),
    }
    return _object({"tcbInfo": _object(inner), "signature": _TEXT}, "tcbInfo", "signature")


def _upload(tcb_infos: Schema, chain_name: str, *required: str, **more: Schema) -> Schema:
    chains = {"SGX-PCK-Certificate-Issuer-Chain": _object({"PROCESSOR": _TEXT, "PLATFORM": _TEXT}), chain_name: _TEXT}
    collaterals = {
        **more,
        "pck_certs": _array(_PCK_CERTS),
        "tcbinfos": _array(_object({"fmspc": _TEXT, **tcb_infos}, "fmspc")),
        "pckcacrl": _object({"processorCrl": _TEXT, "platformCrl": _TEXT}),
        **dict.fromkeys(IDENTITY_MEMBERS, _TEXT),
        "certificates": _object(
            {**chains, "SGX-Enclave-Identity-Issuer-Chain": _TEXT}, "SGX-PCK-Certificate-Issuer-Chain"
        ),
        "rootcacrl": _TEXT,
        "rootcacrl_cdp": _TEXT,
    }
    return _object(
        {"platforms": _array(_PLATFORM), "collaterals": _object(collaterals, *required)}, "platforms", "collaterals"
    )


IDENTITY_MEMBERS: Final = (
    "qeidentity",
    "qeidentity_early",
    "tdqeidentity",
    "tdqeidentity_early",
    "qveidentity",
    "qveidentity_early",
)
_SGX: Final = _tcb_info(_LEVEL_TCB_V4, id={"const": "SGX"})
_TDX: Final = _tcb_info(_LEVEL_TCB_V4, id={"const": "TDX"})
_V3: Final = _tcb_info(_LEVEL_TCB_V3)

UPLOAD_V4: Final = _upload(
    {"sgx_tcbinfo": _SGX, "sgx_tcbinfo_early": _SGX, "tdx_tcbinfo": _TDX, "tdx_tcbinfo_early": _TDX},
    "TCB-Info-Issuer-Chain",
    "version",
    "pck_certs",
    "tcbinfos",
    "certificates",
    version={"const": 4},
)
"""What PUT under a v4 path takes."""
UPLOAD_V3: Final = _upload(
    {"tcbinfo": _V3, "tcbinfo_early": _V3},
    "SGX-TCB-Info-Issuer-Chain",
    "pck_certs",
    "tcbinfos",
    "certificates",
)
"""What PUT under a v3 path takes."""

REGISTRATION: Final = _object(
    {**_IDENTITY, "enc_ppid": _hex(768), "cpu_svn": _hex(32), "pce_svn": _hex(4)}, "qe_id", "pce_id"
)
"""What POST /platforms takes; without a manifest the other members are required as well.

An empty manifest is none, as the reference's own tool writes it.
"""
_STORABLE: Final = {"type": "string", "pattern": r"[^\x00\ud800-\udfff]{1,260}"}
"""Every database takes it."""
STORED_PLATFORM: Final = _object(
    {
        "qe_id": _STORABLE,
        "pce_id": _hex(4),
        "fmspc": _hex(12),
        "ca": {"type": "string", "pattern": "PROCESSOR|PLATFORM"},
    },
    "qe_id",
    "pce_id",
    "fmspc",
    "ca",
)
"""What names a platform where it comes out of a file, in place of a request."""
STORED_TCB: Final = _object({"cpu_svn": _hex(32), "pce_svn": _hex(4)}, "cpu_svn", "pce_svn")
"""A TCB that such a platform reported."""
STORED_CERTIFICATE: Final = _object({"tcbm": _hex(36)}, "tcbm")
"""Under what such a platform's certificate is kept."""
POLICY: Final = _object(
    {"is_default": {"type": "boolean"}, "fmspc": _hex(12), "policy": _TEXT}, "is_default", "fmspc", "policy"
)
"""What PUT /appraisalpolicy takes."""
