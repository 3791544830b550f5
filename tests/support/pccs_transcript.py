"""Requests to a PCCS in OFFLINE mode, in the order in which they are sent, and what Intel's service answers to each.

The table was compared, answer by answer, with Intel's PCCS 1.27; where we differ on purpose, docs/manual/pccs.md says
so, and the row says what we answer. `{...}` in a target names a fact of the simulated platform.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from eaa.pccs.wire import entity_tag
from eaa.simulator.pki import SimulatedPKI
from eaa.simulator.platform import Platform
from support.pccs import NOW, TOKEN, USER_TOKEN, V3, V4, encode, platform, upload_document, with_tdx
from support.pccs import TDX as T4

HTML: Final = "text/html; charset=utf-8"
JSON: Final = "application/json; charset=utf-8"
ADMIN: Final = {"admin-token": TOKEN}
USER: Final = {"user-token": USER_TOKEN}
WRONG: Final = "nobody's token"
CDP: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
PCK_CDP: Final = "https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca=platform&encoding=der"
V3_WARNING: Final = (
    '299 - "PCS API version 3 is no longer available. Cached collateral downloaded from API version 3 is deprecated, '
    'will not be refreshed, and may expire. Please migrate to API version 4."'
)
SAYS: Final = {
    200: "Operation successful.",
    400: "Invalid request parameters.",
    401: "Authentication failed.",
    404: "No cache data for this platform.",
    413: "Content too large.",
    500: "Internal server error occurred.",
    460: "The integrity of the data can't be verified.",
    461: "The platform was not found in the cache.",
    503: "Server is currently unable to process the request.",
}
SGX_CLASS: Final = "3123ec35-8d38-4ea5-87a5-d6c48b567570"


Headers = Mapping[str, str | Callable[[], str]]


@functools.cache
def uploaded() -> dict[str, Any]:
    """What is uploaded: SGX and TDX, standard."""
    return with_tdx(upload_document())


def collaterals() -> dict[str, Any]:
    found: dict[str, Any] = uploaded()["collaterals"]
    return found


def facts() -> dict[str, str]:
    """What `{...}` stands for."""
    entry = uploaded()["platforms"][0]
    return {
        "fmspc": platform().model.fmspc.hex().upper(),
        "qeid": entry["qe_id"],
        "ppid": entry["enc_ppid"],
        "cpusvn": entry["cpu_svn"],
        "pcesvn": entry["pce_svn"],
        "pceid": entry["pce_id"],
        "cdp": quote(CDP, safe=""),
        "pck": "encrypted_ppid={enc_ppid}&cpusvn={cpu_svn}&pcesvn={pce_svn}&pceid={pce_id}".format(**entry),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One request and its answer."""

    method: str = "GET"
    target: str
    sends: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    status: int = 200
    says: bytes | Callable[[], bytes] | None = None
    """The body; where nothing is said, the sentence of the status, as HTML."""
    has: Headers = field(default_factory=dict)
    """Headers, lower case; every other one but the usual must be missing."""
    ours: bool = False
    """Whether Intel's service answers otherwise, and section 10 of its faults, or our manual, says why."""


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def get(target: str, status: int = 200, **more: Any) -> Row:
    return Row(target=target, status=status, **more)


def put(target: str, body: bytes, status: int, **more: Any) -> Row:
    sends = {"content-type": "application/json", **ADMIN, **more.pop("sends", {})}
    return Row(method="PUT", target=target, body=body, status=status, sends=sends, **more)


def post(target: str, body: bytes, status: int, **more: Any) -> Row:
    sends = {"content-type": "application/json", **USER, **more.pop("sends", {})}
    return Row(method="POST", target=target, body=body, status=status, sends=sends, **more)


# --- what the documents look like


def chain(name: str) -> Callable[[], str]:
    def found() -> str:
        value: str = collaterals()["certificates"][name]
        return value

    return found


def ca_chain() -> str:
    found: str = collaterals()["certificates"]["SGX-PCK-Certificate-Issuer-Chain"]["PLATFORM"]
    return found


def tcb(member: str) -> Callable[[], bytes]:
    return lambda: _compact(collaterals()["tcbinfos"][0][member])


def identity(member: str) -> Callable[[], bytes]:
    return lambda: bytes(collaterals()[member].encode())


def pck_crl(*, as_hex: bool) -> Callable[[], bytes]:
    def found() -> bytes:
        text: str = collaterals()["pckcacrl"]["platformCrl"]
        return text.lower().encode() if as_hex else bytes.fromhex(text)

    return found


def root_crl(*, as_hex: bool) -> Callable[[], bytes]:
    def found() -> bytes:
        text: str = collaterals()["rootcacrl"]
        return text.lower().encode() if as_hex else bytes.fromhex(text)

    return found


def pem() -> bytes:
    return platform().pck_pem


def weak_tag(body: Callable[[], bytes]) -> Callable[[], str]:
    return lambda: entity_tag(body())


TCB_HEADERS: Final[Headers] = {"content-type": JSON, "tcb-info-issuer-chain": chain("TCB-Info-Issuer-Chain")}
IDENTITY_HEADERS: Final[Headers] = {
    "content-type": JSON,
    "sgx-enclave-identity-issuer-chain": chain("SGX-Enclave-Identity-Issuer-Chain"),
}
PEM_CRL: Final[Headers] = {
    "content-type": "application/x-pem-file; charset=utf-8",
    "sgx-pck-crl-issuer-chain": ca_chain,
}
DER_CRL: Final[Headers] = {"content-type": "application/pkix-crl", "sgx-pck-crl-issuer-chain": ca_chain}
PCK_HEADERS: Final[Headers] = {
    "content-type": "application/x-pem-file",
    "sgx-tcbm": lambda: "{cpusvn}{pcesvn}".format(**facts()).upper(),
    "sgx-fmspc": lambda: facts()["fmspc"],
    "sgx-pck-certificate-ca-type": "PLATFORM",
    "sgx-pck-certificate-issuer-chain": ca_chain,
}
HEX_ROOT_CRL: Final = {"content-type": "application/pkix-crl; charset=utf-8"}
EXPRESS: Final = {
    "content-type": HTML,
    "content-security-policy": "default-src 'none'",
    "x-content-type-options": "nosniff",
}


def page(method: str, path: str) -> bytes:
    """Express's page."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Error</title>\n</head>\n'
        f"<body>\n<pre>Cannot {method} {path}</pre>\n</body>\n</html>\n"
    ).encode()


def no_route(method: str, path: str, **more: Any) -> Row:
    shown = path.partition("?")[0]
    return Row(method=method, target=path, status=404, says=page(method, shown), has=EXPRESS, **more)


def allowed(route: str, methods: str) -> Row:
    """What OPTIONS says."""
    has: Headers = {"content-type": HTML, "allow": methods}
    return Row(method="OPTIONS", target=f"{V4}/{route}", says=methods.encode(), has=has)


# --- the bodies


def without(name: str) -> bytes:
    document = json.loads(json.dumps(uploaded()))
    del document["collaterals"][name]
    return encode(document)


def changed(**members: Any) -> bytes:
    document = json.loads(json.dumps(uploaded()))
    document["collaterals"].update(members)
    return encode(document)


@functools.cache
def of_two_roots() -> bytes:
    other = Platform.create(now=NOW, pki=SimulatedPKI.create(now=NOW, seed=bytes(32)))
    theirs = json.loads(other.platform_collaterals(now=NOW))["collaterals"]["certificates"]
    mixed = {**collaterals()["certificates"], "TCB-Info-Issuer-Chain": theirs["TCB-Info-Issuer-Chain"]}
    return changed(certificates=mixed)


REPORT: Final = {
    "enc_ppid": "ab" * 384,
    "pce_id": "0000",
    "cpu_svn": "0f" * 16,
    "pce_svn": "0d00",
    "qe_id": "cd" * 16,
    "platform_manifest": "",
}
TOOL_REPORT: Final = "{" + " ,".join(f'"{name}": "{value}"' for name, value in REPORT.items()) + " }"
"""As the PCK ID retrieval tool writes it, spaces and all."""
QUEUED: Final = {
    "enc_ppid": "ab" * 384,
    "platform_manifest": "",
    "qe_id": "CD" * 16,
    "pce_id": "0000",
    "cpu_svn": "0F" * 16,
    "pce_svn": "0D00",
}
MANIFEST: Final = {"qe_id": "ef" * 16, "pce_id": "0000", "platform_manifest": "AB" * 100}
QUEUED_MANIFEST: Final = {
    "enc_ppid": "",
    "platform_manifest": "ab" * 100,
    "qe_id": "EF" * 16,
    "pce_id": "0000",
    "cpu_svn": "",
    "pce_svn": "",
}
JSON_COUNT: Final = {"content-type": JSON}


def policy(*, fmspc: str = "00606A000000", is_default: Any = True, class_id: str = SGX_CLASS) -> bytes:
    inner = json.dumps({"policy_array": [{"environment": {"class_id": class_id}}]})
    payload = base64.urlsafe_b64encode(json.dumps({"policy_payload": inner}).encode()).decode().rstrip("=")
    return _json({"is_default": is_default, "fmspc": fmspc, "policy": f"eyJhbGciOiJub25lIn0.{payload}."})


def policy_text() -> bytes:
    text: str = json.loads(policy())["policy"]
    return text.encode()


def policy_id() -> bytes:
    return hashlib.sha384(policy_text()).hexdigest().encode()


def cached() -> bytes:
    """The platform with the TCB it reported and the one that was asked for."""
    entry = uploaded()["platforms"][0]
    row = {name: entry[name].upper() for name in ("qe_id", "pce_id", "cpu_svn", "pce_svn", "enc_ppid")}
    rows = ({**row, "platform_manifest": ""}, {**row, "cpu_svn": "FF" * 16, "pce_svn": "FFFF", "platform_manifest": ""})
    return _compact(rows)


WITHOUT_PPID: Final = f"{V4}/pckcert?qeid={{qeid}}&cpusvn={{cpusvn}}&pcesvn={{pcesvn}}&pceid={{pceid}}"
PCKCERT: Final = f"{V4}/pckcert?qeid={{qeid}}&{{pck}}"
TCB: Final = f"{V4}/tcb?fmspc={{fmspc}}"
NOTHING: Final = {
    "platforms": [],
    "collaterals": {
        "version": 4,
        "pck_certs": [],
        "tcbinfos": [],
        "certificates": {"SGX-PCK-Certificate-Issuer-Chain": {}},
    },
}
REFUSED_UPLOADS: Final = (
    put(f"{V4}/platformcollateral", b"{", 400),
    put(f"{V4}/platformcollateral", b"{}", 400),
    put(f"{V4}/platformcollateral", b"[]", 400),
)


def rows() -> list[Row]:
    """The whole transcript."""
    parts = (_cold, _closed, _uploads, _reads, _wrong, _express, _conditional, _queue, _policies, _v3)
    return [row for part in parts for row in part()]


def _cold() -> list[Row]:
    return [
        get(PCKCERT, 461),
        get(f"{V4}/pckcrl?ca=platform", 404),
        get(f"{V4}/pckcrl?ca=processor&encoding=der", 404),
        get(TCB, 404),
        get(f"{TCB}&update=early", 404),
        get(f"{T4}/tcb?fmspc={{fmspc}}", 404),
        get(f"{V4}/qe/identity", 404),
        get(f"{V4}/qve/identity?update=standard", 404),
        get(f"{T4}/qe/identity", 404),
        get(f"{V4}/rootcacrl", 404),
        get(f"{V4}/crl?uri={CDP}", 404),
        get(f"{V4}/appraisalpolicy?fmspc={{fmspc}}", 404),
        Row(method="POST", target=f"{V4}/refresh", sends=ADMIN, status=503),
        Row(target=f"{V4}/refresh", sends=ADMIN, status=503),
        Row(target=f"{V4}/refresh?type=certs&fmspc={{fmspc}}", sends=ADMIN, status=503),
        get(f"{V4}/platforms", sends=ADMIN, says=b"[]", has={**JSON_COUNT, "platform-count": "0"}),
    ]


def _closed() -> list[Row]:
    body = b"{}"
    return [
        Row(method="PUT", target=f"{V4}/platformcollateral", body=body, status=401),
        put(f"{V4}/platformcollateral", body, 401, sends={"admin-token": WRONG}),
        Row(method="PUT", target=f"{V4}/platformcollateral", body=body, sends=USER, status=401),
        get(f"{V4}/platformcollateral", 401),
        Row(method="OPTIONS", target=f"{V4}/platformcollateral", status=401),
        Row(method="POST", target=f"{V4}/platforms", body=body, status=401),
        Row(method="POST", target=f"{V4}/platforms", body=body, sends=ADMIN, status=401),
        get(f"{V4}/platforms", 401),
        get(f"{V4}/platforms", 401, sends=USER),
        Row(method="POST", target=f"{V4}/refresh", status=401),
        Row(method="DELETE", target=f"{V4}/refresh/x", status=401),
        Row(method="PUT", target=f"{V4}/appraisalpolicy", body=body, status=401),
        Row(target=f"{V4}/platforms", sends={"admin-token": ""}, status=401),
        Row(target=f"{V4}/platforms", sends={"admin-token": f"{TOKEN}, {TOKEN}"}, status=401),
        Row(target=f"{V4}/platforms/", status=401),
        Row(target=f"{V4}/PLATFORMS", status=401),
        Row(method="PUT", target=f"{V4}/refresh", status=401),
        Row(method="OPTIONS", target=f"{V4}/refresh", status=401),
        Row(method="GET", target=f"{V4}/platformcollateral/x", status=401),
        Row(
            method="PUT",
            target=f"{V3}/platformcollateral",
            body=body,
            status=401,
            has={"content-type": HTML, "warning": V3_WARNING},
        ),
    ]


def _uploads() -> list[Row]:
    target = f"{V4}/platformcollateral"
    return [
        *REFUSED_UPLOADS,
        put(target, changed(version=3), 400),
        put(target, b"null", 400),
        put(target, b"", 400),
        put(target, encode(NOTHING), 200),
        put(target, encode(uploaded()), 400, sends={"content-type": "text/plain"}),
        put(target, encode(uploaded()), 500, sends={"content-type": "application/json; charset=latin1"}),
        put(target, encode(uploaded()), 500, sends={"content-encoding": "compress"}),
        put(target, changed(tcbinfos=[]), 400),
        put(target, changed(pck_certs=[{**collaterals()["pck_certs"][0], "certs": []}]), 400),
        put(target, without("certificates"), 400),
        put(target, without("tcbinfos"), 400),
        put(target, of_two_roots(), 460),
        put(target, b'{"x":"' + b"x" * (2 * 1024 * 1024) + b'"}', 413),
        put(target, encode(uploaded()), 200),
        put(f"{target}/", encode(uploaded()), 200),
        put(target, gzip.compress(encode(uploaded())), 200, sends={"content-encoding": "gzip"}),
        put(
            target,
            json.dumps(uploaded(), indent=4).encode(),
            200,
            sends={"content-type": "application/JSON;charset=UTF-8"},
        ),
        get(target, 404, sends=ADMIN, says=page("GET", target), has=EXPRESS),
    ]


def _reads() -> list[Row]:
    return [
        get(PCKCERT, says=pem, has=PCK_HEADERS),
        get(PCKCERT.replace("qeid={qeid}", "qeid=" + facts()["qeid"].lower()), says=pem, has=PCK_HEADERS),
        get(WITHOUT_PPID, says=pem, has=PCK_HEADERS),
        get(f"{V4}/pckcert?qeid={{qeid}}&cpusvn={'ff' * 16}&pcesvn=ffff&pceid={{pceid}}", says=pem, has=PCK_HEADERS),
        get(f"{V4}/pckcert?qeid={{qeid}}&cpusvn={'00' * 16}&pcesvn=0000&pceid={{pceid}}", 404),
        get(f"{V4}/pckcert?qeid=another&cpusvn={{cpusvn}}&pcesvn={{pcesvn}}&pceid={{pceid}}", 461),
        get(f"{V4}/pckcert?qeid={{qeid}}&{{pck}}&param1=value1", says=pem, has=PCK_HEADERS),
        get(PCKCERT.replace("pckcert", "PckCert/"), says=pem, has=PCK_HEADERS),
        Row(method="HEAD", target=PCKCERT, says=b"", has=PCK_HEADERS),
        get(f"{V4}/pckcrl?ca=platform", says=pck_crl(as_hex=True), has=PEM_CRL),
        get(f"{V4}/pckcrl?ca=platform&encoding=", says=pck_crl(as_hex=True), has=PEM_CRL),
        get(f"{V4}/pckcrl?ca=platform&encoding=der&encoding=pem", says=pck_crl(as_hex=False), has=DER_CRL),
        get(f"{V4}/pckcrl?ca=%70latform&encoding=%64er", says=pck_crl(as_hex=False), has=DER_CRL),
        get(f"{TCB}&tcbEvaluationDataNumber=", says=tcb("sgx_tcbinfo"), has=TCB_HEADERS),
        get(f"{TCB}&customParameter=1&FMSPC=x", says=tcb("sgx_tcbinfo"), has=TCB_HEADERS),
        get(f"{V4}/tcb/?fmspc=%30%30606A000000&update=%73tandard", says=tcb("sgx_tcbinfo"), has=TCB_HEADERS),
        get(f"{V4}/tcb?&&fmspc={{fmspc}}&&update=EARLY", 404),
        get(f"{V4}/tcb?fmspc[0]={{fmspc}}", says=tcb("sgx_tcbinfo"), has=TCB_HEADERS),
        get(f"{V4}/pckcrl?ca=PLATFORM&encoding=pem", says=pck_crl(as_hex=True), has=PEM_CRL),
        get(f"{V4}/pckcrl?ca=Platform&encoding=DER", says=pck_crl(as_hex=False), has=DER_CRL),
        get(TCB, says=tcb("sgx_tcbinfo"), has=TCB_HEADERS),
        get(f"{V4}/tcb?fmspc={facts()['fmspc'].lower()}&update=STANDARD", says=tcb("sgx_tcbinfo"), has=TCB_HEADERS),
        get(f"{TCB}&update=early", 404),
        get(f"{T4}/tcb?fmspc={{fmspc}}&update=standard", says=tcb("tdx_tcbinfo"), has=TCB_HEADERS),
        get(f"{V4}/tcb?fmspc=000000000000", 404),
        get(f"{V4}/qe/identity?update=standard", says=identity("qeidentity"), has=IDENTITY_HEADERS),
        get(f"{T4}/qe/identity", says=identity("tdqeidentity"), has=IDENTITY_HEADERS),
        get(f"{V4}/qve/identity", says=identity("qveidentity"), has=IDENTITY_HEADERS),
        get(f"{V4}/rootcacrl", says=root_crl(as_hex=True), has=HEX_ROOT_CRL),
        get(f"{V4}/crl?uri={CDP}", says=root_crl(as_hex=False), has={"content-type": "application/pkix-crl"}),
        get(f"{V4}/crl?uri={{cdp}}", says=root_crl(as_hex=False), has={"content-type": "application/pkix-crl"}),
        get(f"{V4}/crl?uri={quote(PCK_CDP, safe='')}", 404),
    ]


def _wrong() -> list[Row]:
    return [
        get(f"{V4}/pckcert", 400),
        get(f"{V4}/pckcert?qeid=&{{pck}}", 400),
        get(f"{V4}/pckcert?qeid={'a' * 261}&{{pck}}", 400),
        get(f"{V4}/pckcert?qeid={{qeid}}&cpusvn=00&pcesvn={{pcesvn}}&pceid={{pceid}}", 400),
        get(f"{V4}/pckcert?qeid={{qeid}}&cpusvn={{cpusvn}}&pcesvn=0&pceid={{pceid}}", 400),
        get(f"{V4}/pckcert?qeid={{qeid}}&cpusvn={{cpusvn}}&pcesvn={{pcesvn}}&pceid=xxxx", 400),
        get(f"{V4}/pckcert?qeid={{qeid}}&encrypted_ppid=00&cpusvn={{cpusvn}}&pcesvn={{pcesvn}}&pceid={{pceid}}", 400),
        get(f"{V4}/pckcrl", 400),
        get(f"{V4}/pckcrl?ca=root", 400),
        get(f"{V4}/tcb", 400),
        get(f"{V4}/tcb?fmspc=00606A", 400),
        get(f"{V4}/tcb?fmspc=00606A00000G", 400),
        get(f"{TCB}&update=all", 400),
        get(f"{V4}/qe/identity?update=late", 400),
        get(f"{V4}/crl", 400),
        get(f"{V4}/crl?uri=https://example.org/IntelSGXRootCA.der", 400),
        get(f"{V4}/crl?uri=http://certificates.trustedservices.intel.com/IntelSGXRootCA.der", 400),
        get(f"{V4}/appraisalpolicy?fmspc=1", 400),
        get(f"{TCB}&update=", 400),
        get(f"{V4}/tcb?fmspc={{fmspc}}%20", 400),
        get(f"{V4}/tcb?FMSPC={{fmspc}}", 400),
        get(f"{V4}/tcb?fmspc[x]={{fmspc}}", 400),
        get(f"{V4}/pckcrl?ca=platform%20", 400),
        get(f"{V4}/crl?uri={'a' * 2049}", 400),
        get(f"{V4}/crl?uri=", 400),
        Row(target=f"{V4}/platforms?source=[{{fmspc}},%20{{fmspc}}]", sends=ADMIN, status=400),
        Row(target=f"{V4}/platforms?source=[{{fmspc}},]", sends=ADMIN, status=400),
        Row(target=f"{V4}/refresh?type=certs", sends=ADMIN, status=400),
        Row(target=f"{V4}/refresh?type=certs&fmspc=x", sends=ADMIN, status=400),
        # What the reference's own tool makes of `refresh -f all`: understood here, and nothing is refreshed in OFFLINE.
        Row(target=f"{V4}/refresh?type=certs&fmspc=", sends=ADMIN, status=503, ours=True),
        get(f"{TCB}&fmspc=1&update=standard&update=late", says=tcb("sgx_tcbinfo"), has=TCB_HEADERS),
        get(f"{V4}/tcb?fmspc=1&fmspc={{fmspc}}", 400),
        get(f"{V4}/tcb?fmspc[]={{fmspc}}&fmspc=1", says=tcb("sgx_tcbinfo"), has=TCB_HEADERS),
        get(f"{V4}/qe/identity?update[]=late", 400),
        Row(target=f"{V4}//platforms", status=401, ours=True),
        Row(target=f"{V4}//refresh", status=401, ours=True),
        Row(target=f"{V4}/refresh?type=everything", sends=ADMIN, status=400),
    ]


def _express() -> list[Row]:
    return [
        no_route("GET", "/"),
        no_route("GET", f"{V4}/"),
        no_route("GET", f"{V4}/unknown"),
        no_route("GET", f"{V4}/pckcerts"),
        no_route("GET", f"{V4}/fmspcs"),
        no_route("GET", f"{V4}/qae/identity"),
        no_route("GET", f"{V4}/tcbevaluationdatanumbers"),
        no_route("GET", f"{T4}/pckcrl?ca=platform"),
        no_route("GET", f"{T4}/qve/identity"),
        no_route("GET", "/tdx/certification/v3/tcb"),
        no_route("GET", "/sgx/certification/v2/tcb"),
        no_route("POST", f"{V4}/tcb"),
        no_route("DELETE", f"{V4}/rootcacrl"),
        get(f"{V4}//tcb", 400),
        get(f"{V4.upper()}/QE/Identity", says=identity("qeidentity"), has=IDENTITY_HEADERS, ours=True),
        get(f"{V4}/RootCACrl/", says=root_crl(as_hex=True), has=HEX_ROOT_CRL),
        allowed("tcb", "GET,HEAD"),
        Row(
            method="OPTIONS",
            target=f"{V4}/platforms",
            says=b"POST,GET,HEAD",
            has={"content-type": HTML, "allow": "POST,GET,HEAD"},
        ),
        Row(
            method="OPTIONS",
            target=f"{V4}/appraisalpolicy",
            says=b"PUT,GET,HEAD",
            has={"content-type": HTML, "allow": "PUT,GET,HEAD"},
        ),
    ]


def _conditional() -> list[Row]:
    body = tcb("sgx_tcbinfo")
    rest: Headers = {"tcb-info-issuer-chain": chain("TCB-Info-Issuer-Chain")}
    tag = weak_tag(body)()
    return [
        Row(method="HEAD", target=TCB, says=b"", has=TCB_HEADERS),
        Row(method="HEAD", target=f"{V4}/tcb?fmspc=000000000000", status=404, says=b"", has={"content-type": HTML}),
        get(TCB, 304, sends={"if-none-match": tag}, says=b"", has=rest),
        get(TCB, 304, sends={"if-none-match": f'"x", {tag}'}, says=b"", has=rest),
        get(TCB, 304, sends={"if-none-match": "*"}, says=b"", has=rest),
        get(TCB, sends={"if-none-match": '"x"'}, says=body, has=TCB_HEADERS),
        get(TCB, sends={"if-none-match": tag, "cache-control": "no-cache"}, says=body, has=TCB_HEADERS),
        get(TCB, 304, sends={"if-none-match": tag, "cache-control": "max-age=0"}, says=b"", has=rest),
        get(TCB, 304, sends={"if-none-match": tag, "cache-control": "x-no-cache"}, says=b"", has=rest),
        get(TCB, 304, sends={"if-none-match": tag.removeprefix("W/")}, says=b"", has=rest),
        Row(method="HEAD", target=TCB, status=304, sends={"if-none-match": tag}, says=b"", has=rest),
        get(TCB, sends={"range": "bytes=0-3", "accept": "text/plain"}, says=body, has=TCB_HEADERS),
    ]


def _queue() -> list[Row]:
    target = f"{V4}/platforms"
    count = {**JSON_COUNT, "platform-count": "1"}
    two = {**JSON_COUNT, "platform-count": "2"}
    none = {**JSON_COUNT, "platform-count": "0"}
    lacking = {name: value for name, value in REPORT.items() if name != "cpu_svn"}
    return [
        post(target, b"not json", 400),
        post(target, _json(lacking), 400),
        post(target, _json({**REPORT, "enc_ppid": "00"}), 400),
        post(f"{target}?update=late", _json(REPORT), 400),
        post(f"{target}?update=all", TOOL_REPORT.encode(), 200),
        get(f"{target}?source=reg_na", sends=ADMIN, says=b"[]", has=none),
        get(f"{target}?source=reg", sends=ADMIN, says=_compact([QUEUED]), has=count),
        get(target, sends=ADMIN, says=b"[]", has=none),
        post(target, _json(MANIFEST), 200),
        get(target, sends=ADMIN, says=_compact([QUEUED_MANIFEST]), has=count),
        post(target, _json({**MANIFEST, "platform_manifest": "ABCz"}), 200),
        get(target, sends=ADMIN, says=_compact([{**QUEUED_MANIFEST, "platform_manifest": "ab"}]), has=count),
        post(target, gzip.compress(_json({**REPORT, "qe_id": "é"})), 200, sends={"content-encoding": "gzip"}),
        get(
            target,
            sends=ADMIN,
            says="[{}]".format(
                json.dumps({**QUEUED, "qe_id": "É"}, ensure_ascii=False, separators=(",", ":"))
            ).encode(),
            has=count,
        ),
        post(target, _json({**REPORT, "platform_manifest": None, "x": 1}), 200),
        get(target, sends=ADMIN, says=_compact([QUEUED]), has=count),
        post(target, _json({**REPORT, "pce_id": 0}), 400),
        post(target, _json(REPORT), 400, sends={"content-type": "application/x-www-form-urlencoded"}),
        get(f"{target}?source=[]", sends=ADMIN, says=cached, has=two),
        get(
            f"{target}?source=[{{fmspc}},000000000000]",
            sends=ADMIN,
            says=cached,
            has={**JSON_COUNT, "platform-count": "2"},
        ),
        get(f"{target}?source=[000000000000]", sends=ADMIN, says=b"[]", has=none),
        get(f"{target}?source=[1]", 400, sends=ADMIN),
        get(f"{target}?source=everything", 400, sends=ADMIN),
    ]


def _policies() -> list[Row]:
    target = f"{V4}/appraisalpolicy"
    html = {"content-type": HTML}
    return [
        put(target, _json({}), 400),
        put(target, policy(fmspc="1"), 400),
        put(target, policy(is_default="yes"), 400),
        put(target, policy(class_id="11111111-0000-0000-0000-000000000000"), 400),
        put(target, policy(), 200, says=policy_id, has=html),
        get(f"{target}?fmspc={{fmspc}}", says=policy_text, has=html),
    ]


def _v3() -> list[Row]:
    warned = {"warning": V3_WARNING}
    return [
        get(f"{V3}/pckcrl?ca=platform", says=pck_crl(as_hex=True), has={**PEM_CRL, **warned}),
        get(
            f"{V3}/rootcacrl",
            says=root_crl(as_hex=True),
            has={**HEX_ROOT_CRL, **warned},
        ),
        get(f"{V3}/tcb?fmspc={{fmspc}}", 404, has={"content-type": HTML, **warned}),
        get(f"{V3}/qe/identity", 404, has={"content-type": HTML, **warned}),
        get(f"{V3}/pckcert?qeid={{qeid}}&{{pck}}", says=pem, has={**PCK_HEADERS, **warned}),
    ]
