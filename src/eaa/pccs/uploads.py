"""An upload, read: from the body of PUT /platformcollateral to records that can be stored as they are.

1. The body is JSON of the expected shape.
2. PCK certificates are decoded and read; each platform's say which model (FMSPC) and CA it belongs to.
3. TCB Info and identities are cut out of the body as they were signed.
4. The issuer chains are decoded; all must end in one root, which names the PKI.

Nothing is verified here: that is the next step, see `eaa.pccs.verification`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from eaa.collateral.intel import PCKCertificate
from eaa.collateral.x509 import CRL, Certificate, parse_pem_chain
from eaa.errors import MalformedInput
from eaa.pccs.schema import IDENTITY_MEMBERS, UPLOAD_V3, UPLOAD_V4, violations
from eaa.pccs.verbatim import as_signed, elements, members
from eaa.pccs.wire import Refusal, Status
from eaa.sources.selection import TCB, Candidate, Levels, SelectionError, select

MAX_UPLOAD: Final = 2 * 1024 * 1024
"""Bytes of a body, as in the reference."""
MAX_ENCODED_CHAIN: Final = 32 * 1024
"""Characters of one issuer chain: it travels in a header."""
TCB_INFO: Final = "TCB_INFO"
"""The chain that signs TCB Info, beside those of the CAs PROCESSOR and PLATFORM."""
IDENTITY: Final = "IDENTITY"
"""The chain that signs identities."""
CAS: Final = ("PROCESSOR", "PLATFORM")
"""The PCK CAs, and the names of their chains."""

_HEX_BYTES: Final = re.compile(r"(?:[0-9a-fA-F]{2})*")
_HEADER_SAFE: Final = re.compile(r"[A-Za-z0-9%._~!*'()-]+")
_ENCODED_BEGIN: Final = "-----BEGIN%20CERTIFICATE-----"
_IDENTITY_NAMES: Final = {"qeidentity": "QE", "qveidentity": "QVE", "tdqeidentity": "TD_QE"}
_TCB_INFO_MEMBERS: Final = {
    3: ("tcbinfo", "tcbinfo_early"),
    4: ("sgx_tcbinfo", "sgx_tcbinfo_early", "tdx_tcbinfo", "tdx_tcbinfo_early"),
}
_CHAIN_NAMES: Final = {3: "SGX-TCB-Info-Issuer-Chain", 4: "TCB-Info-Issuer-Chain"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTCB:
    """A TCB that a platform reported, as it did: 32 and 4 hex digits, upper case."""

    cpu_svn: str
    pce_svn: str

    @property
    def tcb(self) -> TCB:
        """The same, comparable."""
        return TCB.raw(self.cpu_svn, self.pce_svn)


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadedPlatform:
    """One platform with all of its certificates, which replace those that were there."""

    qe_id: str = field(repr=False)
    pce_id: str
    fmspc: str
    ca: str
    """PROCESSOR or PLATFORM."""
    enc_ppid: str = field(repr=False)
    platform_manifest: str = field(repr=False)
    is_listed: bool
    """Whether the upload's list of platforms names it; certificates of others are stored too."""
    raw_tcbs: tuple[RawTCB, ...]
    certificates: tuple[Candidate, ...] = field(repr=False)
    tcb_info: dict[str, Any] = field(repr=False)
    """The parsed inner object of its SGX TCB Info, early where there is one: certificates are chosen by it."""

    def best(self, raw: RawTCB) -> Candidate:
        """Return the certificate for a raw TCB. Raises Refusal (400): the upload does not hang together."""
        try:
            return select(raw.tcb, self.certificates, pce_id=self.pce_id, levels=Levels.of(self.tcb_info))
        except SelectionError as error:
            raise _invalid(f"no certificate can be chosen for a platform of FMSPC {self.fmspc}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadedDocument:
    """TCB Info or an identity, with what it is looked up by."""

    name: str
    """For TCB Info the FMSPC, for an identity QE, QVE or TD_QE."""
    tee: str
    """SGX or TDX."""
    update: str
    """STANDARD or EARLY."""
    text: bytes = field(repr=False)
    """Exactly as signed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """Everything that one PUT stores."""

    api_version: int
    root: str | None
    """SHA-256 of the root's DER, hex; None where the upload has no chain."""
    platforms: tuple[UploadedPlatform, ...]
    tcb_infos: tuple[UploadedDocument, ...]
    identities: tuple[UploadedDocument, ...]
    pck_crls: dict[str, bytes]
    """DER by CA."""
    chains: dict[str, str]
    """Percent-encoded PEM by PROCESSOR, PLATFORM, TCB_INFO and IDENTITY, as the header carries it."""
    root_crl: bytes | None
    root_crl_uri: str | None
    """At which address clients know the root's CRL, or where there is none, the PCK CA's."""

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing that anybody signed."""
        return not (
            self.platforms or self.tcb_infos or self.identities or self.pck_crls or self.chains or self.root_crl
        )


EMPTY_UPLOAD: Final = Upload(
    api_version=4,
    root=None,
    platforms=(),
    tcb_infos=(),
    identities=(),
    pck_crls={},
    chains={},
    root_crl=None,
    root_crl_uri=None,
)
"""Begins one that is put together from elsewhere than a body."""


def parse_upload(body: bytes, *, api_version: int) -> Upload:
    """Read an upload. Raises Refusal: 400 for what is wrong with it, 460 for chains of several roots."""
    # 1.
    text, document = load_json(body, what="the upload")
    problem = next(violations(document, UPLOAD_V3 if api_version == 3 else UPLOAD_V4), None)
    if problem:
        raise _invalid(problem)
    collaterals = document["collaterals"]
    # 2.
    platforms = _platforms(document, api_version)
    for platform in platforms:
        for raw in platform.raw_tcbs:
            # The reference chooses before it looks at anything else, and its clients know which status comes first.
            platform.best(raw)
    # 4. comes before 3., which needs the signer's certificate.
    chains, certificates = _chains(collaterals["certificates"], api_version)
    roots = {parsed[-1].fingerprint.hex() for parsed in certificates.values()}
    if len(roots) > 1:
        raise Refusal(Status.INTEGRITY_ERROR, f"the issuer chains end in {len(roots)} different roots")
    # 3.
    signer = certificates[TCB_INFO][0] if TCB_INFO in certificates else None
    return Upload(
        api_version=api_version,
        root=next(iter(roots), None),
        platforms=platforms,
        tcb_infos=tuple(_tcb_infos(text, collaterals["tcbinfos"], api_version, signer)),
        identities=tuple(_identities(collaterals)),
        pck_crls=_pck_crls(collaterals.get("pckcacrl", {})),
        chains=chains,
        root_crl=_crl(collaterals["rootcacrl"], "rootcacrl") if collaterals.get("rootcacrl") else None,
        root_crl_uri=collaterals.get("rootcacrl_cdp") or None,
    )


def _invalid(cause: str) -> Refusal:
    return Refusal(Status.INVALID_REQUEST, cause)


def load_json(body: bytes, *, what: str) -> tuple[str, Any]:
    """Return a body as text and parsed. Raises Refusal (400), also for what parsers read differently."""

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise _invalid(f"an object of {what} names a member twice")
        return found

    def refuse_constant(name: str) -> None:
        raise _invalid(f"{what} holds {name}, which is not JSON")

    try:
        text = body.decode()
        document = json.loads(text, object_pairs_hook=refuse_duplicates, parse_constant=refuse_constant)
        if "\\u" in text:
            # Escapes can spell what is no text: half a character, which has no bytes, and NUL, which databases refuse.
            if "\\u0000" in text:
                raise _invalid(f"{what} holds a NUL")
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise _invalid(f"{what} is not JSON: {error}") from error
    return text, document


def leading_bytes(text: str) -> str:
    """Return hex up to where it is none any more: a manifest is any text, and the reference keeps these bytes of it."""
    match = _HEX_BYTES.match(text)
    return match[0] if match else ""


def _platforms(document: dict[str, Any], api_version: int) -> tuple[UploadedPlatform, ...]:
    collaterals = document["collaterals"]
    tcb_infos = {info["fmspc"].upper(): info for info in reversed(collaterals["tcbinfos"])}
    listed: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for platform in document["platforms"]:
        listed.setdefault(_key(platform), []).append(platform)
    return tuple(
        _platform(entry, listed.get(_key(entry), []), tcb_infos, api_version) for entry in collaterals["pck_certs"]
    )


def _key(entry: dict[str, Any]) -> tuple[str, str]:
    return entry["qe_id"].upper(), entry["pce_id"].upper()


def _platform(
    entry: dict[str, Any], listed: list[dict[str, Any]], tcb_infos: dict[str, Any], api_version: int
) -> UploadedPlatform:
    qe_id, pce_id = _key(entry)
    certificates = tuple(read_candidate(cert) for cert in entry["certs"])
    if not certificates:
        raise _invalid("a platform of the upload has no PCK certificates")
    first = certificates[0].certificate
    fmspc = first.fmspc.hex().upper()
    # Where a platform is listed several times, with several raw TCBs, the last entry's identity stands.
    named = listed[-1] if listed else {}
    return UploadedPlatform(
        qe_id=qe_id,
        pce_id=pce_id,
        fmspc=fmspc,
        ca=first.ca.upper(),
        enc_ppid=(named.get("enc_ppid") or "").upper(),
        platform_manifest=leading_bytes(named.get("platform_manifest") or "").upper(),
        is_listed=bool(listed),
        raw_tcbs=tuple(
            RawTCB(cpu_svn=item["cpu_svn"].upper(), pce_svn=item["pce_svn"].upper())
            for item in listed
            if item.get("cpu_svn") and item.get("pce_svn")
        ),
        certificates=certificates,
        tcb_info=_tcb_info_of(tcb_infos.get(fmspc, {}), fmspc, api_version),
    )


def read_candidate(entry: dict[str, Any]) -> Candidate:
    """Read one of a platform's certificates, `{"tcbm":…,"cert":…}`. Raises Refusal (400)."""
    pem = _unquoted(entry["cert"], "a PCK certificate")
    try:
        (der,) = parse_pem_chain(pem, maximum=1)
        certificate = PCKCertificate.parse(der)
    except MalformedInput as error:
        raise _invalid(f"a PCK certificate cannot be read: {error.message}") from error
    return Candidate(tcbm=entry["tcbm"].upper(), pem=pem.decode("ascii"), certificate=certificate)


def _tcb_info_of(entry: dict[str, Any], fmspc: str, api_version: int) -> dict[str, Any]:
    standard, early = _TCB_INFO_MEMBERS[api_version][:2]
    found = entry.get(early) or entry.get(standard)
    if not found:
        raise _invalid(f"the upload has PCK certificates of FMSPC {fmspc}, and no SGX TCB Info for it")
    inner: dict[str, Any] = found["tcbInfo"]
    return inner


def _chains(entries: dict[str, Any], api_version: int) -> tuple[dict[str, str], dict[str, tuple[Certificate, ...]]]:
    """Return each chain as it was sent, and read. One signer's chain will do: Intel signs both kinds with one key."""
    pck = entries["SGX-PCK-Certificate-Issuer-Chain"]
    of_tcb_info = entries.get(_CHAIN_NAMES[api_version])
    of_identities = entries.get("SGX-Enclave-Identity-Issuer-Chain")
    named = {
        "PROCESSOR": pck.get("PROCESSOR"),
        "PLATFORM": pck.get("PLATFORM"),
        TCB_INFO: of_tcb_info or of_identities,
        IDENTITY: of_identities or of_tcb_info,
    }
    chains = {name: chain for name, chain in named.items() if chain}
    return chains, {name: read_chain(chain) for name, chain in chains.items()}


def read_chain(encoded: str) -> tuple[Certificate, ...]:
    """Read an issuer chain as a header carries it, percent-encoded PEM. Raises Refusal (400)."""
    if len(encoded) > MAX_ENCODED_CHAIN or not _HEADER_SAFE.fullmatch(encoded) or _ENCODED_BEGIN not in encoded:
        raise _invalid("an issuer chain is not percent-encoded PEM")
    try:
        return tuple(Certificate.parse(der) for der in parse_pem_chain(_unquoted(encoded, "an issuer chain")))
    except MalformedInput as error:
        raise _invalid(f"an issuer chain cannot be read: {error.message}") from error


def _unquoted(encoded: str, what: str) -> bytes:
    raw = unquote_to_bytes(encoded)
    if not raw.isascii():
        raise _invalid(f"{what} is not PEM")
    return raw


def _tcb_infos(
    text: str, entries: list[dict[str, Any]], api_version: int, signer: Certificate | None
) -> list[UploadedDocument]:
    start, _ = members(text, members(text)["collaterals"][0])["tcbinfos"]
    found = []
    for entry, begin in zip(entries, elements(text, start), strict=True):
        places = members(text, begin)
        found += [
            UploadedDocument(
                name=entry["fmspc"].upper(),
                tee="TDX" if member.startswith("tdx") else "SGX",
                update="EARLY" if member.endswith("_early") else "STANDARD",
                text=as_signed(text[slice(*places[member])], "tcbInfo", signer),
            )
            for member in _TCB_INFO_MEMBERS[api_version]
            if entry.get(member)
        ]
    return found


def _identities(collaterals: dict[str, Any]) -> list[UploadedDocument]:
    return [
        UploadedDocument(
            name=_IDENTITY_NAMES[member.removesuffix("_early")],
            tee="TDX" if member.startswith("td") else "SGX",
            update="EARLY" if member.endswith("_early") else "STANDARD",
            text=collaterals[member].encode(),
        )
        for member in IDENTITY_MEMBERS
        if collaterals.get(member)
    ]


def _pck_crls(entries: dict[str, Any]) -> dict[str, bytes]:
    named = {"PROCESSOR": entries.get("processorCrl"), "PLATFORM": entries.get("platformCrl")}
    return {ca: _crl(crl, f"the CRL of the {ca} CA") for ca, crl in named.items() if crl}


def _crl(encoded: str, what: str) -> bytes:
    try:
        return CRL.parse(bytes.fromhex(encoded)).der
    except (ValueError, MalformedInput) as error:
        raise _invalid(f"{what} is no CRL in hex: {error}") from error
