"""The service described for machines: OpenAPI 3.0, published at /openapi.json, made of one table of routes.

The shapes of bodies are those by which bodies are read. A test holds the table against the routes that are served, and
another asks the running service for whatever the description allows, and more.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from eaa import __version__
from eaa.pccs.hot import new_request_id
from eaa.pccs.query import MAX_QE_ID, MAX_URI
from eaa.pccs.schema import POLICY, REGISTRATION, UPLOAD_V3, UPLOAD_V4
from eaa.pccs.wire import JSON, Request, Response, Status, cannot, finish, options

OPENAPI: Final = "/openapi.json"
V3: Final = "/sgx/certification/v3"
V4: Final = "/sgx/certification/v4"
TDX: Final = "/tdx/certification/v4"
_ENDED: Final = 410
_PEM: Final = "application/x-pem-file"
_CRL: Final = "application/pkix-crl"
_BINARY: Final = {"type": "string", "format": "binary"}
_TEXT: Final = {"type": "string"}


def _hex(digits: int, *, optional: bool = False) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^[0-9a-fA-F]{{{digits}}}$" + ("|^$" if optional else "")}


_FMSPC: Final = _hex(12)
_UPDATE: Final = {"type": "string", "enum": ["standard", "early"], "default": "standard"}
_SIGNED_TCB_INFO: Final = {
    "type": "object",
    "required": ["tcbInfo", "signature"],
    "properties": {"tcbInfo": {"type": "object"}, "signature": _hex(128)},
}
_SIGNED_IDENTITY: Final = {
    "type": "object",
    "required": ["enclaveIdentity", "signature"],
    "properties": {"enclaveIdentity": {"type": "object"}, "signature": _hex(128)},
}
_HEALTH: Final = {
    "type": "object",
    "required": ["status", "timestamp"],
    "properties": {"status": {"type": "string", "enum": ["UP", "DOWN", "STARTED", "STARTING"]}, "timestamp": _TEXT},
}
_PLATFORMS: Final = {"type": "array", "items": {"type": "object"}}
_SENTENCE_CONTENT: Final = {"text/html": _TEXT}
_HEALTH_CONTENT: Final = {"application/json": _HEALTH}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a query."""

    name: str
    schema: Mapping[str, Any]
    required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path."""

    path: str
    method: str
    summary: str
    content: Mapping[str, Mapping[str, Any]]
    """Of status 200: content type to schema."""
    statuses: tuple[int, ...] = ()
    """Others than 200 and 500."""
    parameters: tuple[Parameter, ...] = ()
    body: Mapping[str, Any] | None = None
    guard: str | None = None
    """Which token opens it, if any: admin or user."""
    headers: tuple[str, ...] = ()
    """Of status 200."""


def _optional(name: str, schema: Mapping[str, Any]) -> Parameter:
    return Parameter(name=name, schema=schema, required=False)


_TCB_QUERY: Final = (
    Parameter(name="fmspc", schema=_FMSPC),
    _optional("update", _UPDATE),
    _optional("tcbEvaluationDataNumber", {"type": "integer", "minimum": 0, "maximum": 4294967295}),
)
_MISSES: Final = (400, 404, 502, 503)


def _documents(base: str) -> list[Route]:
    """Return what the vendor has signed of SGX, under either version."""
    ended = (_ENDED,) if base == V3 else ()
    chain = "SGX-TCB-Info-Issuer-Chain" if base == V3 else "TCB-Info-Issuer-Chain"
    identity: dict[str, Any] = {
        "content": {"application/json": _SIGNED_IDENTITY},
        "statuses": (*_MISSES, *ended),
        "parameters": (_optional("update", _UPDATE),),
        "headers": ("SGX-Enclave-Identity-Issuer-Chain",),
    }
    return [
        Route(
            path=f"{base}/tcb",
            method="get",
            summary="TCB Info of a platform model, as it was signed",
            content={"application/json": _SIGNED_TCB_INFO},
            statuses=(*_MISSES, *ended),
            parameters=_TCB_QUERY,
            headers=(chain,),
        ),
        Route(path=f"{base}/qe/identity", method="get", summary="The QE's identity, as it was signed", **identity),
        Route(path=f"{base}/qve/identity", method="get", summary="The QvE's identity, as it was signed", **identity),
    ]


def _reading(base: str) -> list[Route]:
    """Return what else a read of SGX's may ask for, under either version."""
    return [
        Route(
            path=f"{base}/pckcert",
            method="get",
            summary="The best PCK certificate for a platform's TCB",
            content={_PEM: _TEXT},
            statuses=(*_MISSES, 461),
            parameters=(
                Parameter(name="qeid", schema={"type": "string", "minLength": 1, "maxLength": MAX_QE_ID}),
                Parameter(name="cpusvn", schema=_hex(32)),
                Parameter(name="pcesvn", schema=_hex(4)),
                Parameter(name="pceid", schema=_hex(4)),
                _optional("encrypted_ppid", _hex(768)),
            ),
            headers=("SGX-TCBm", "SGX-FMSPC", "SGX-PCK-Certificate-CA-Type", "SGX-PCK-Certificate-Issuer-Chain"),
        ),
        Route(
            path=f"{base}/pckcrl",
            method="get",
            summary="The CRL of a PCK CA: hex, or DER with encoding=der",
            content={_PEM: _TEXT, _CRL: _BINARY},
            statuses=_MISSES,
            parameters=(
                Parameter(name="ca", schema={"type": "string", "enum": ["processor", "platform"]}),
                _optional("encoding", {"type": "string", "enum": ["der", "pem"]}),
            ),
            headers=("SGX-PCK-CRL-Issuer-Chain",),
        ),
        Route(
            path=f"{base}/rootcacrl",
            method="get",
            summary="The root's CRL, hex",
            content={_CRL: _TEXT},
            statuses=_MISSES,
        ),
        Route(
            path=f"{base}/crl",
            method="get",
            summary="The CRL that is published at an address, DER",
            content={_CRL: _BINARY},
            statuses=_MISSES,
            parameters=(Parameter(name="uri", schema={"type": "string", "minLength": 1, "maxLength": MAX_URI}),),
        ),
        Route(
            path=f"{base}/appraisalpolicy",
            method="get",
            summary="The default appraisal policies of a platform model",
            content={"text/html": _TEXT},
            statuses=(400, 404, 503),
            parameters=(Parameter(name="fmspc", schema=_FMSPC),),
        ),
    ]


def _operating(base: str) -> list[Route]:
    """Return what takes a token, under either version."""
    refresh: dict[str, Any] = {
        "content": _SENTENCE_CONTENT,
        "statuses": (400, 401, 502, 503),
        "parameters": (
            _optional("type", {"type": "string", "enum": ["certs"]}),
            _optional("fmspc", {"type": "string", "maxLength": 4096}),
        ),
        "guard": "admin",
    }
    return [
        Route(
            path=f"{base}/platforms",
            method="post",
            summary="A platform reports itself",
            content=_SENTENCE_CONTENT,
            statuses=(400, 401, 404, 413, 502, 503),
            parameters=(_optional("update", {"type": "string", "enum": ["standard", "early", "all"]}),),
            body=REGISTRATION,
            guard="user",
        ),
        Route(
            path=f"{base}/platforms",
            method="get",
            summary="Who waits in the queue, or which platforms are cached",
            content={"application/json": _PLATFORMS},
            statuses=(400, 401, 503),
            parameters=(_optional("source", {"type": "string", "maxLength": 4096}),),
            guard="admin",
            headers=("platform-count",),
        ),
        Route(
            path=f"{base}/platformcollateral",
            method="put",
            summary="Store platforms and collateral, as Intel's tools write them",
            content=_SENTENCE_CONTENT,
            statuses=(400, 401, 413, 460, 503),
            body=UPLOAD_V3 if base == V3 else UPLOAD_V4,
            guard="admin",
        ),
        Route(path=f"{base}/refresh", method="post", summary="Fetch anew what is stored", **refresh),
        Route(path=f"{base}/refresh", method="get", summary="The same, as older tools ask for it", **refresh),
        Route(
            path=f"{base}/appraisalpolicy",
            method="put",
            summary="Store an appraisal policy; answers its id",
            content={"text/html": _TEXT},
            statuses=(400, 401, 413, 503),
            body=POLICY,
            guard="admin",
        ),
    ]


ROUTES: Final[tuple[Route, ...]] = (
    *(route for base in (V4, V3) for route in (*_documents(base), *_reading(base), *_operating(base))),
    Route(
        path=f"{TDX}/tcb",
        method="get",
        summary="TCB Info of a platform model for TDX, as it was signed",
        content={"application/json": _SIGNED_TCB_INFO},
        statuses=_MISSES,
        parameters=_TCB_QUERY,
        headers=("TCB-Info-Issuer-Chain",),
    ),
    Route(
        path=f"{TDX}/qe/identity",
        method="get",
        summary="The identity of the QE for TDX, as it was signed",
        content={"application/json": _SIGNED_IDENTITY},
        statuses=_MISSES,
        parameters=(_optional("update", _UPDATE),),
        headers=("SGX-Enclave-Identity-Issuer-Chain",),
    ),
    Route(path="/healthz/live", method="get", summary="Whether the process lives", content=_HEALTH_CONTENT),
    Route(
        path="/healthz/ready",
        method="get",
        summary="Whether the database answers",
        content=_HEALTH_CONTENT,
        statuses=(503,),
    ),
    Route(path="/healthz/startup", method="get", summary="Whether it has started", content=_HEALTH_CONTENT),
)
"""Everything that is served, but for this description."""


@functools.cache
def description() -> bytes:
    """Return the description, JSON."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method] = _operation(route)
    document = {
        "openapi": "3.0.3",
        "info": {
            "title": "eaa-pccs",
            "version": __version__,
            "description": "A provisioning certificate caching service with the REST API of Intel's. Paths are matched "
            "in any case and with or without a final slash; HEAD and OPTIONS are answered everywhere.",
            "license": {"name": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                name: {"type": "apiKey", "in": "header", "name": f"{name}-token"} for name in ("admin", "user")
            }
        },
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _operation(route: Route) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": "There it is", "content": _content(route.content)}}
    if route.headers:
        responses["200"]["headers"] = {name: {"schema": {"type": "string"}} for name in route.headers}
    for status in (*route.statuses, Status.INTERNAL_ERROR):
        content = route.content if route.path.startswith("/healthz") else _SENTENCE_CONTENT
        responses[str(int(status))] = {"description": _meaning(status), "content": _content(content)}
    found: dict[str, Any] = {"summary": route.summary, "responses": responses}
    if route.parameters:
        found["parameters"] = [
            {"name": each.name, "in": "query", "required": each.required, "schema": each.schema}
            for each in route.parameters
        ]
    if route.body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": _schema(route.body)}}}
    if route.guard is not None:
        found["security"] = [{route.guard: []}]
    return found


def _content(content: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {kind: {"schema": schema} for kind, schema in content.items()}


def _meaning(status: int) -> str:
    return {_ENDED: "Version 3 has ended"}.get(status, Status(status).name.replace("_", " ").capitalize())


def _schema(value: Any) -> Any:
    """Return one of our shapes as OpenAPI has it: patterns have to match whole, and a constant is a choice of one."""
    if isinstance(value, Mapping):
        made = {name: _schema(inner) for name, inner in value.items() if name != "const"}
        if "const" in value:
            made["enum"] = [value["const"]]
        if isinstance(value.get("pattern"), str):
            made["pattern"] = "^(?:" + value["pattern"] + ")$"
        return made
    return [_schema(inner) for inner in value] if isinstance(value, list | tuple) else value


def described(request: Request) -> Response:
    """Return the answer to a request for the description, finished."""
    if request.method == "OPTIONS":
        answer = options("GET", "HEAD")
    elif request.method in ("GET", "HEAD"):
        answer = Response(status=Status.OK, headers=(("Content-Type", JSON),), body=description())
    else:
        answer = cannot(request)
    headers = (("Request-ID", new_request_id()), *answer.headers)
    return finish(request, Response(status=answer.status, headers=headers, body=answer.body, tagged=answer.tagged))
