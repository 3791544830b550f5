"""One upload as bytes and back: what a bundle carries.

Every signed document stands in it as it was signed, and what names a platform as it was reported. The same upload has
the same bytes: members and lists have one order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from eaa.collateral.intel import PCKCertificate
from eaa.collateral.x509 import parse_pem_chain
from eaa.errors import MalformedInput, Reason
from eaa.pccs.policies import AppraisalPolicy
from eaa.pccs.schema import STORED_CERTIFICATE, STORED_PLATFORM, STORED_TCB, require
from eaa.pccs.uploads import RawTCB, Upload, UploadedDocument, UploadedPlatform, read_chain
from eaa.pccs.wire import Refusal
from eaa.sources.selection import Candidate

MAX_PART: Final = 32 * 1024 * 1024
"""Bytes of one part of a bundle."""
MAX_ITEMS: Final = 10_000
"""Platforms, documents or certificates of one part."""
_ROOT: Final = re.compile(r"[0-9a-f]{64}")
_CHAINS: Final = frozenset({"PROCESSOR", "PLATFORM", "TCB_INFO", "IDENTITY"})
_UPDATE: Final = re.compile(r"STANDARD|EARLY|#[0-9]{1,10}")
_NAME: Final = re.compile(r"[0-9A-F]{12}|QE|QVE|TD_QE")

Levels = Mapping[str, dict[str, Any]]
"""By FMSPC the parsed inner object of the SGX TCB Info by which certificates are chosen."""


def encode_part(upload: Upload) -> bytes:
    """Return an upload as bytes, ASCII JSON."""
    document = {
        "api_version": upload.api_version,
        "root": upload.root,
        "chains": dict(upload.chains),
        "pck_crls": {ca: crl.hex() for ca, crl in upload.pck_crls.items()},
        "root_crl": None if upload.root_crl is None else upload.root_crl.hex(),
        "root_crl_uri": upload.root_crl_uri,
        "tcb_infos": sorted(map(_document, upload.tcb_infos), key=_order),
        "identities": sorted(map(_document, upload.identities), key=_order),
        "platforms": [_platform(each) for each in sorted(upload.platforms, key=lambda one: (one.qe_id, one.pce_id))],
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def encode_policies(policies: Sequence[AppraisalPolicy]) -> bytes:
    """Return appraisal policies as a part; they belong to no PKI."""
    listed = [{"fmspc": each.fmspc, "is_default": each.is_default, "policy": each.text} for each in policies]
    return json.dumps({"policies": listed}, sort_keys=True, separators=(",", ":")).encode()


def _document(document: UploadedDocument) -> dict[str, str]:
    return {
        "name": document.name,
        "tee": document.tee,
        "update": document.update,
        "text": document.text.decode("utf-8", "surrogateescape"),
    }


def _order(document: dict[str, str]) -> tuple[str, ...]:
    return document["name"], document["tee"], document["update"], document["text"]


def _platform(platform: UploadedPlatform) -> dict[str, Any]:
    return {
        "qe_id": platform.qe_id,
        "pce_id": platform.pce_id,
        "fmspc": platform.fmspc,
        "ca": platform.ca,
        "enc_ppid": platform.enc_ppid,
        "platform_manifest": platform.platform_manifest,
        "is_listed": platform.is_listed,
        "raw_tcbs": sorted([tcb.cpu_svn, tcb.pce_svn] for tcb in platform.raw_tcbs),
        "certificates": sorted([each.tcbm, each.pem] for each in platform.certificates),
    }


def decode_part(raw: bytes, *, levels: Levels) -> Upload | tuple[AppraisalPolicy, ...]:
    """Read a part of a bundle, an upload or appraisal policies; all that is verified yet is that it hangs together.

    Args:
        raw: at most MAX_PART bytes.
        levels: of the models whose platforms may be in it.

    Raises:
        MalformedInput: BUNDLE_MALFORMED.
    """
    if len(raw) > MAX_PART:
        raise malformed(f"a part has {len(raw)} bytes, the limit is {MAX_PART}")
    try:
        document = json.loads(raw)
        if set(document) == {"policies"}:
            return tuple(AppraisalPolicy.parse(json.dumps(each).encode()) for each in _items(document["policies"]))
        return _upload(document, levels)
    except Refusal as error:
        raise malformed(error.cause) from error
    except MalformedInput as error:
        raise malformed(error.message) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise malformed("a part is not of the form that this program writes") from error


def _upload(document: dict[str, Any], levels: Levels) -> Upload:
    chains = {_of(name, _CHAINS): _text(chain) for name, chain in document["chains"].items()}
    root = _match(_ROOT, document["root"])
    # What a part says of its root has to be true: by it, documents are told apart.
    if any(read_chain(chain)[-1].fingerprint.hex() != root for chain in chains.values()):
        raise malformed("a part's chains do not end in the root that it names")
    root_crl = document["root_crl"]
    uri = document["root_crl_uri"]
    return Upload(
        api_version=_of(document["api_version"], frozenset({3, 4})),
        root=root,
        platforms=tuple(_uploaded_platform(each, levels) for each in _items(document["platforms"])),
        tcb_infos=tuple(map(_uploaded_document, _items(document["tcb_infos"]))),
        identities=tuple(map(_uploaded_document, _items(document["identities"]))),
        pck_crls={_of(ca, _CHAINS): bytes.fromhex(crl) for ca, crl in document["pck_crls"].items()},
        chains=chains,
        root_crl=None if root_crl is None else bytes.fromhex(root_crl),
        root_crl_uri=None if uri is None else _text(uri),
    )


def _uploaded_document(entry: dict[str, Any]) -> UploadedDocument:
    return UploadedDocument(
        name=_match(_NAME, entry["name"]),
        tee=_of(entry["tee"], frozenset({"SGX", "TDX"})),
        update=_match(_UPDATE, entry["update"]),
        text=_text(entry["text"]).encode("utf-8", "surrogateescape"),
    )


def _uploaded_platform(entry: dict[str, Any], levels: Levels) -> UploadedPlatform:
    require(entry, STORED_PLATFORM, where="a platform of a part")
    fmspc = entry["fmspc"]
    if fmspc not in levels:
        raise malformed(f"a part has a platform of FMSPC {fmspc}, and there is no SGX TCB Info for it")
    certificates = tuple(_candidate(*pair) for pair in _items(entry["certificates"]))
    if not certificates or any(each.certificate.fmspc.hex().upper() != fmspc for each in certificates):
        raise malformed(f"a platform of FMSPC {fmspc} has no certificate, or that of another model")
    return UploadedPlatform(
        qe_id=entry["qe_id"],
        pce_id=entry["pce_id"],
        fmspc=fmspc,
        ca=entry["ca"],
        enc_ppid=_hex(entry["enc_ppid"]),
        platform_manifest=_hex(entry["platform_manifest"]),
        is_listed=bool(entry["is_listed"]),
        raw_tcbs=tuple(_raw_tcb(*pair) for pair in _items(entry["raw_tcbs"])),
        certificates=certificates,
        tcb_info=levels[fmspc],
    )


def _raw_tcb(cpu_svn: Any, pce_svn: Any) -> RawTCB:
    require({"cpu_svn": cpu_svn, "pce_svn": pce_svn}, STORED_TCB, where="a TCB of a part")
    return RawTCB(cpu_svn=cpu_svn, pce_svn=pce_svn)


def _candidate(tcbm: Any, pem: Any) -> Candidate:
    require({"tcbm": tcbm}, STORED_CERTIFICATE, where="a certificate of a part")
    (der,) = parse_pem_chain(_text(pem).encode(), maximum=1)
    return Candidate(tcbm=tcbm, pem=pem, certificate=PCKCertificate.parse(der))


def _items(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        raise malformed(f"a part has a list that is none, or of more than {MAX_ITEMS} items")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise malformed("a part has something that is not text where text has to be")
    return value


def _hex(value: Any) -> str:
    bytes.fromhex(_text(value))
    return str(value)


def _match(pattern: re.Pattern[str], value: Any) -> str:
    if not pattern.fullmatch(_text(value)):
        raise malformed("a part has a name that is none")
    return str(value)


def _of(value: Any, allowed: frozenset[Any]) -> Any:
    if isinstance(value, bool) or value not in allowed:
        raise malformed("a part has a word that is not known")
    return value


def malformed(why: str) -> MalformedInput:
    """Return what is raised where a bundle is not one."""
    return MalformedInput(
        Reason.BUNDLE_MALFORMED, f"the bundle cannot be used: {why}", hint="`eaa-pccs export` writes bundles"
    )
