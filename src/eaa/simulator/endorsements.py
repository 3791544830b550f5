"""What the vendor publishes of a platform: CRLs, signed TCB Info, signed identities; as a collateral, and for a PCCS.

Everything is drafted good, the faults change the draft, and then it is issued: so each document is signed again over
what the fault made of it, unless the fault is about exactly that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from eaa.collateral.bundle import Collateral
from eaa.evidence.quote import TEEType
from eaa.simulator.certificates import ROOT_CRL_URL, CRLSpec, to_header, to_pem, whole_second
from eaa.simulator.documents import (
    DOCUMENT_VALIDITY,
    Document,
    compact,
    date_text,
    qe_identity,
    qve_identity,
    tcb_info,
    td_qe_identity,
    tdx_tcb_info,
)
from eaa.simulator.entropy import sign_raw
from eaa.simulator.faults import NO_FAULTS, Edits, Fault, Faults, Stage, apply_faults, require_stage, require_tee
from eaa.simulator.model import PlatformModel
from eaa.simulator.pki import CA_TYPES, CAType, SimulatedPKI, foreign_root, other_key

PUBLISHED_BEFORE: Final = timedelta(hours=1)
"""Documents are dated this long before they are asked for, so that a clock a little behind is no fault."""
_FUTURE: Final = timedelta(days=2)

_Chain = tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedDocument:
    """TCB Info or an identity: the document, and who signs it."""

    document: Document
    signing_key: ec.EllipticCurvePrivateKey = field(repr=False)
    chain: _Chain
    spoil_text: Callable[[bytes], bytes] = field(default=lambda text: text, repr=False)
    """Applied before the signature."""
    spoil_signed: Callable[[bytes], bytes] = field(default=lambda text: text, repr=False)
    """Applied after it."""

    def issue(self) -> tuple[bytes, bytes]:
        """Return the text and its signature r||s."""
        text = self.spoil_text(compact(self.document))
        return self.spoil_signed(text), sign_raw(self.signing_key, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endorser:
    """The vendor, asked about one platform."""

    pki: SimulatedPKI
    model: PlatformModel
    pck_key: ec.EllipticCurvePrivateKey = field(repr=False)
    pck_certificate: x509.Certificate

    def collateral(
        self, *, now: datetime, faults: Faults = NO_FAULTS, tee: TEEType = TEEType.SGX, pck_chain: bool = False
    ) -> Collateral:
        """Return the platform's collateral for one kind of TEE as it is published at `now`.

        Args:
            now: aware.
            faults: of stage COLLATERAL, else Misuse.
            tee: whose TCB Info and QE identity.
            pck_chain: add the PCK certificate chain, for quotes that do not carry it.
        """
        faults = require_tee(require_stage(faults, Stage.COLLATERAL), tee)
        issued = whole_second(now) - PUBLISHED_BEFORE
        info, identity = self._tcb_info(issued, faults, tee), self._qe_identity(issued, faults, tee)
        info_text, info_signature = info.issue()
        identity_text, identity_signature = identity.issue()
        return Collateral(
            pck_crl_issuer_chain=to_pem(*self._pck_crl_chain(faults)),
            root_ca_crl=b"" if Fault.ROOT_CRL_MISSING in faults else self._root_crl(issued, faults).issue(),
            pck_crl=b"" if Fault.PCK_CRL_MISSING in faults else self._pck_crl(issued, faults).issue(),
            tcb_info_issuer_chain=to_pem(*info.chain),
            tcb_info=info_text,
            tcb_info_signature=info_signature,
            qe_identity_issuer_chain=to_pem(*identity.chain),
            qe_identity=identity_text,
            qe_identity_signature=identity_signature,
            pck_certificate_chain=to_pem(*self._pck_chain) if pck_chain else None,
        )

    def published(self, *, now: datetime) -> dict[str, Any]:
        """Return the `collaterals` member of a PCCS upload, API version 4, without the PCK certificates."""
        issued = whole_second(now) - PUBLISHED_BEFORE
        signer_chain = to_header(*self._signer_chain)
        ca_chains = {ca: (self.pki.cas[ca].certificate, self.pki.root.certificate) for ca in CA_TYPES}
        info = tcb_info(self.model, issued=issued)
        return {
            "version": 4,
            "tcbinfos": [
                {
                    "fmspc": info["fmspc"],
                    "sgx_tcbinfo": {"tcbInfo": info, "signature": self._signer_signature(compact(info)).hex()},
                }
            ],
            "pckcacrl": {
                f"{ca}Crl": self.pki.pck_crl(ca=ca, now=issued).issue().hex() for ca in ("processor", "platform")
            },
            "qeidentity": self._signed_text(qe_identity(self.model, issued=issued)),
            "tdqeidentity": self._signed_text(td_qe_identity(self.model, issued=issued)),
            "qveidentity": self._signed_text(qve_identity(self.model, issued=issued)),
            "certificates": {
                "SGX-PCK-Certificate-Issuer-Chain": {ca.upper(): to_header(*ca_chains[ca]) for ca in CA_TYPES},
                "TCB-Info-Issuer-Chain": signer_chain,
                "SGX-Enclave-Identity-Issuer-Chain": signer_chain,
            },
            "rootcacrl": self.pki.root_crl(now=issued).issue().hex(),
            "rootcacrl_cdp": ROOT_CRL_URL,
        }

    @property
    def _ca(self) -> CAType:
        return self.model.ca

    @property
    def _signer_chain(self) -> _Chain:
        return self.pki.tcb_signer.certificate, self.pki.root.certificate

    def _signer_signature(self, text: bytes) -> bytes:
        return sign_raw(self.pki.tcb_signer.key, text)

    def _signed_text(self, identity: Document) -> str:
        text = compact(identity)
        signature = self._signer_signature(text).hex()
        return f'{{"enclaveIdentity":{text.decode()},"signature":"{signature}"}}'

    @property
    def _pck_chain(self) -> _Chain:
        return self.pck_certificate, self.pki.cas[self._ca].certificate, self.pki.root.certificate

    def _tcb_info(self, issued: datetime, faults: Faults, tee: TEEType) -> SignedDocument:
        document = tdx_tcb_info if tee is TEEType.TDX else tcb_info
        draft = self._signed(document(self.model, issued=issued), _TCB_INFO_SIGNERS, faults)
        return apply_faults(draft, {**_TCB_INFO_EDITS, **_HARMLESS_EDITS}, faults)

    def _qe_identity(self, issued: datetime, faults: Faults, tee: TEEType) -> SignedDocument:
        document = td_qe_identity if tee is TEEType.TDX else qe_identity
        draft = self._signed(document(self.model, issued=issued), _QE_IDENTITY_SIGNERS, faults)
        return apply_faults(draft, {**_QE_IDENTITY_EDITS, **_HARMLESS_EDITS}, faults)

    def _signed(self, document: Document, signers: Mapping[Fault, str], faults: Faults) -> SignedDocument:
        """Choose who signs, and which chain is shown for it."""
        root, ca = self.pki.root.certificate, self.pki.cas[self._ca]
        signer = self.pki.tcb_signer
        good = (signer.key, self._signer_chain)
        known: dict[str, tuple[ec.EllipticCurvePrivateKey, _Chain]] = {
            "other key": (other_key(self.pki.entropy), self._signer_chain),
            "leaf": (self.pck_key, self._pck_chain),
            "leaf under root": (self.pck_key, (self.pck_certificate, root)),
            "CA": (ca.key, (ca.certificate, root)),
            "foreign root": (signer.key, (signer.certificate, self._foreign_root)),
            "no root": (signer.key, (signer.certificate,)),
        }
        chosen = [known[who] for fault, who in signers.items() if fault in faults]
        key, chain = chosen[0] if chosen else good
        return SignedDocument(document=document, signing_key=key, chain=chain)

    @property
    def _foreign_root(self) -> x509.Certificate:
        return foreign_root(self.pki.root, self.pki.entropy).certificate

    def _pck_crl_chain(self, faults: Faults) -> _Chain:
        ca = _other_ca(self._ca) if Fault.PCK_CRL_OF_OTHER_CA in faults else self._ca
        root = self._foreign_root if Fault.PCK_CRL_CHAIN_FOREIGN_ROOT in faults else self.pki.root.certificate
        return self.pki.cas[ca].certificate, root

    def _root_crl(self, issued: datetime, faults: Faults) -> CRLSpec:
        serials = {
            Fault.CA_REVOKED: self.pki.cas[self._ca].certificate.serial_number,
            Fault.SIGNER_REVOKED: self.pki.tcb_signer.certificate.serial_number,
            Fault.ROOT_REVOKED: self.pki.root.certificate.serial_number,
            Fault.HARMLESS_OTHERS_REVOKED: 0x1234,
        }
        revoked = tuple(serial for fault, serial in serials.items() if fault in faults)
        spec = self.pki.root_crl(now=issued, revoked=revoked)
        if Fault.ROOT_CRL_OF_OTHER_ISSUER in faults:
            spec = self.pki.pck_crl(ca=self._ca, now=issued)
        if Fault.ROOT_CRL_SIGNED_BY_OTHER_KEY in faults:
            spec = replace(spec, signing_key=other_key(self.pki.entropy))
        return apply_faults(spec, _ROOT_CRL_EDITS, faults)

    def _pck_crl(self, issued: datetime, faults: Faults) -> CRLSpec:
        serials = {
            Fault.LEAF_REVOKED: self.pck_certificate.serial_number,
            Fault.HARMLESS_OTHERS_REVOKED: 0x1234,
        }
        revoked = tuple(serial for fault, serial in serials.items() if fault in faults)
        ca = _other_ca(self._ca) if Fault.PCK_CRL_OF_OTHER_CA in faults else self._ca
        spec = self.pki.pck_crl(ca=ca, now=issued, revoked=revoked)
        if Fault.PCK_CRL_SIGNED_BY_OTHER_KEY in faults:
            spec = replace(spec, signing_key=other_key(self.pki.entropy))
        return apply_faults(spec, _PCK_CRL_EDITS, faults)


def _other_ca(ca: CAType) -> CAType:
    return "processor" if ca == "platform" else "platform"


# --- faults -------------------------------------------------------------------------------------------------------

_DocumentEdit = Callable[[SignedDocument], SignedDocument]


def _crl_expired(crl: CRLSpec) -> CRLSpec:
    return replace(crl, this_update=crl.this_update - timedelta(days=31), next_update=crl.this_update)


def _crl_of_the_future(crl: CRLSpec) -> CRLSpec:
    return replace(crl, this_update=crl.this_update + _FUTURE, next_update=crl.next_update + _FUTURE)


_ROOT_CRL_EDITS: Final[Edits[CRLSpec]] = {
    Fault.ROOT_CRL_EXPIRED: _crl_expired,
    Fault.ROOT_CRL_NOT_YET_VALID: _crl_of_the_future,
    Fault.ROOT_CRL_WITHOUT_NUMBER: lambda crl: replace(crl, number=None),
    Fault.ROOT_CRL_WITHOUT_AKI: lambda crl: replace(crl, authority_key_id=None),
}
_PCK_CRL_EDITS: Final[Edits[CRLSpec]] = {
    Fault.PCK_CRL_EXPIRED: _crl_expired,
    Fault.PCK_CRL_NOT_YET_VALID: _crl_of_the_future,
    Fault.PCK_CRL_WITHOUT_NUMBER: lambda crl: replace(crl, number=None),
    Fault.PCK_CRL_WITHOUT_AKI: lambda crl: replace(crl, authority_key_id=None),
}


def _members(**values: object) -> _DocumentEdit:
    return lambda draft: replace(draft, document={**draft.document, **values})


def _moved(by: timedelta) -> _DocumentEdit:
    def edit(draft: SignedDocument) -> SignedDocument:
        issued = datetime.fromisoformat(draft.document["issueDate"]) + by
        dates = {"issueDate": date_text(issued), "nextUpdate": date_text(issued + DOCUMENT_VALIDITY)}
        return replace(draft, document={**draft.document, **dates})

    return edit


def _levels(edit: Callable[[list[Document]], list[Document]]) -> _DocumentEdit:
    return lambda draft: replace(draft, document={**draft.document, "tcbLevels": edit(draft.document["tcbLevels"])})


def _tcb(edit: Callable[[Document], Document]) -> _DocumentEdit:
    """Edit what each level says of the TCB."""
    return _levels(lambda levels: [{**level, "tcb": edit(level["tcb"])} for level in levels])


def _components(edit: Callable[[list[Document]], list[Document]], *, name: str = "sgxtcbcomponents") -> _DocumentEdit:
    return _tcb(lambda tcb: {**tcb, name: edit(tcb[name])})


def _first_level(edit: Callable[[Document], Document]) -> _DocumentEdit:
    return _levels(lambda levels: [*map(edit, levels[:1]), *levels[1:]])


def _status_of_first(status: str) -> _DocumentEdit:
    return _first_level(lambda level: {**level, "tcbStatus": status})


def _raised_in_first(name: str, index: int, by: int) -> _DocumentEdit:
    """Let the highest level ask for more of one component."""

    def edit(level: Document) -> Document:
        components = list(level["tcb"][name])
        components[index] = {**components[index], "svn": components[index]["svn"] + by}
        return {**level, "tcb": {**level["tcb"], name: components}}

    return _first_level(edit)


def _modules(edit: Callable[[list[Document]], list[Document]]) -> _DocumentEdit:
    """Edit the levels of every TDX module."""

    def apply(draft: SignedDocument) -> SignedDocument:
        identities = [{**item, "tcbLevels": edit(item["tcbLevels"])} for item in draft.document["tdxModuleIdentities"]]
        return replace(draft, document={**draft.document, "tdxModuleIdentities": identities})

    return apply


def _without(name: str) -> _DocumentEdit:
    def edit(draft: SignedDocument) -> SignedDocument:
        return replace(draft, document={key: value for key, value in draft.document.items() if key != name})

    return edit


def _text(edit: Callable[[bytes], bytes]) -> _DocumentEdit:
    return lambda draft: replace(draft, spoil_text=edit)


def _signed_text(edit: Callable[[bytes], bytes]) -> _DocumentEdit:
    return lambda draft: replace(draft, spoil_signed=edit)


def _raised(component: Document) -> Document:
    return {**component, "svn": 255}


def _named_twice(text: bytes) -> bytes:
    return text.replace(b'"version":', b'"version":0,"version":', 1)


def _space_added(text: bytes) -> bytes:
    return text.replace(b",", b", ", 1)


def _renumbered(text: bytes) -> bytes:
    return text.replace(b'"tcbEvaluationDataNumber":', b'"tcbEvaluationDataNumber":1', 1)


def _status_spoilt(text: bytes) -> bytes:
    return text.replace(b'"tcbStatus":"', b'"tcbStatus":" ', 1)


def _for_enclaves(draft: SignedDocument) -> SignedDocument:
    levels = [
        {**level, "tcb": {name: tcb for name, tcb in level["tcb"].items() if name != "tdxtcbcomponents"}}
        for level in draft.document["tcbLevels"]
    ]
    kept = {name: value for name, value in draft.document.items() if not name.startswith("tdx")}
    return replace(draft, document={**kept, "id": "SGX", "tcbLevels": levels})


def _for_trust_domains(draft: SignedDocument) -> SignedDocument:
    module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    components = [{"svn": 0} for _ in range(16)]
    members = _members(id="TDX", tdxModule=module, tdxModuleIdentities=[])
    return members(_tcb(lambda tcb: {**tcb, "tdxtcbcomponents": components})(draft))


def _lower_hex(draft: SignedDocument) -> SignedDocument:
    names = ("fmspc", "mrsigner", "attributes", "attributesMask", "miscselectMask")
    lowered = {name: draft.document[name].lower() for name in names if name in draft.document}
    return replace(draft, document={**draft.document, **lowered})


def _deep(draft: SignedDocument) -> SignedDocument:
    deep: Any = json.loads("[" * 900 + "]" * 900)
    return replace(draft, document={**draft.document, "deep": deep})


_TCB_INFO_SIGNERS: Final = {
    Fault.TCB_INFO_SIGNED_BY_OTHER_KEY: "other key",
    Fault.TCB_INFO_SIGNED_BY_LEAF: "leaf",
    Fault.TCB_INFO_SIGNED_BY_LEAF_UNDER_ROOT: "leaf under root",
    Fault.TCB_INFO_SIGNED_BY_CA: "CA",
    Fault.TCB_INFO_CHAIN_FOREIGN_ROOT: "foreign root",
    Fault.TCB_INFO_CHAIN_WITHOUT_ROOT: "no root",
}
_QE_IDENTITY_SIGNERS: Final = {
    Fault.QE_IDENTITY_SIGNED_BY_OTHER_KEY: "other key",
    Fault.QE_IDENTITY_SIGNED_BY_LEAF: "leaf",
    Fault.QE_IDENTITY_SIGNED_BY_LEAF_UNDER_ROOT: "leaf under root",
    Fault.QE_IDENTITY_SIGNED_BY_CA: "CA",
    Fault.QE_IDENTITY_CHAIN_FOREIGN_ROOT: "foreign root",
    Fault.QE_IDENTITY_CHAIN_WITHOUT_ROOT: "no root",
}
_HARMLESS_EDITS: Final[Edits[SignedDocument]] = {
    Fault.HARMLESS_LEVELS_ASCENDING: _levels(lambda levels: levels[::-1]),
    Fault.HARMLESS_LOWER_CASE_HEX: _lower_hex,
}
_TCB_INFO_EDITS: Final[Edits[SignedDocument]] = {
    Fault.TCB_INFO_ALTERED: _signed_text(_renumbered),
    Fault.TCB_INFO_STATUS_ALTERED: _signed_text(_status_spoilt),
    Fault.TCB_INFO_WHITESPACE: _signed_text(_space_added),
    Fault.TCB_INFO_DUPLICATE_MEMBER: _text(_named_twice),
    Fault.TCB_INFO_TRAILING_TEXT: _text(lambda text: text + b"XYZ"),
    Fault.TCB_INFO_DEEP: _deep,
    Fault.TCB_INFO_EXPIRED: _moved(-DOCUMENT_VALIDITY),
    Fault.TCB_INFO_NOT_YET_VALID: _moved(_FUTURE),
    Fault.TCB_INFO_FMSPC: _members(fmspc="FFFFFFFFFFFF"),
    Fault.TCB_INFO_PCE_ID: _members(pceId="FFFF"),
    Fault.TCB_INFO_TYPE: _members(tcbType=1),
    Fault.TCB_INFO_VERSION: _members(version=4),
    Fault.TCB_INFO_ID_TDX: _for_trust_domains,
    Fault.TCB_INFO_ID_UNKNOWN: _members(id="QVE"),
    Fault.TCB_INFO_STATUS_UNKNOWN: _levels(lambda levels: [{**level, "tcbStatus": "Splendid"} for level in levels]),
    Fault.TCB_INFO_15_COMPONENTS: _components(lambda components: components[:15]),
    Fault.TCB_INFO_17_COMPONENTS: _components(lambda components: [*components, {"svn": 0}]),
    Fault.TCB_INFO_SVN_OUT_OF_RANGE: _components(lambda components: [*components[:15], {"svn": 256}]),
    Fault.TCB_INFO_DUPLICATE_LEVEL: _levels(lambda levels: [*levels[:1], *levels]),
    Fault.TCB_INFO_NO_LEVELS: _levels(lambda _: []),
    Fault.TCB_BELOW_ALL_LEVELS: _components(lambda components: [*components[:15], *map(_raised, components[15:])]),
    Fault.PCE_SVN_BELOW_ALL_LEVELS: _tcb(lambda tcb: {**tcb, "pcesvn": 0xFFFF}),
    Fault.TD_MODULE_STATUS_NOT_FOR_MODULES: _modules(
        lambda levels: [{**level, "tcbStatus": "SWHardeningNeeded"} for level in levels]
    ),
    Fault.TD_TCB_INFO_VERSION_2: _members(version=2),
    Fault.TD_TCB_INFO_15_COMPONENTS: _components(lambda components: components[:15], name="tdxtcbcomponents"),
    Fault.TD_COMPONENTS_BELOW_ALL: _components(
        lambda components: [*components[:15], *map(_raised, components[15:])], name="tdxtcbcomponents"
    ),
    Fault.OUTDATED_COMPONENT: _raised_in_first("sgxtcbcomponents", 0, 1),
    Fault.OUTDATED_TD_COMPONENT: _raised_in_first("tdxtcbcomponents", 2, 1),
    Fault.HARMLESS_TD_MODULES_COMPONENT: _raised_in_first("tdxtcbcomponents", 0, 2),
    Fault.HARMLESS_TCB_LEVELS_ASCENDING: _levels(lambda levels: levels[::-1]),
    Fault.HARMLESS_EVALUATION_NUMBERS: _members(tcbEvaluationDataNumber=5),
    Fault.HARMLESS_LAST_SECOND: _moved(PUBLISHED_BEFORE - DOCUMENT_VALIDITY),
    # Last: what the others edit is gone then.
    Fault.TD_MODULE_IDENTITIES_MISSING: _without("tdxModuleIdentities"),
    Fault.TD_TCB_INFO_ID_SGX: _for_enclaves,
}
_QE_IDENTITY_EDITS: Final[Edits[SignedDocument]] = {
    Fault.QE_IDENTITY_ALTERED: _signed_text(_renumbered),
    Fault.QE_IDENTITY_WHITESPACE: _signed_text(_space_added),
    Fault.QE_IDENTITY_DUPLICATE_MEMBER: _text(_named_twice),
    Fault.QE_IDENTITY_TRAILING_TEXT: _text(lambda text: text + b"XYZ"),
    Fault.QE_IDENTITY_EXPIRED: _moved(-DOCUMENT_VALIDITY),
    Fault.QE_IDENTITY_NOT_YET_VALID: _moved(_FUTURE),
    Fault.QE_IDENTITY_ID_TD_QE: _members(id="TD_QE"),
    Fault.QE_IDENTITY_ID_QVE: _members(id="QVE"),
    Fault.QE_IDENTITY_VERSION_1: _members(version=1),
    Fault.QE_IDENTITY_VERSION_3: _members(version=3),
    Fault.QE_IDENTITY_STATUS_NOT_FOR_ENCLAVES: _status_of_first("ConfigurationNeeded"),
    Fault.QE_IDENTITY_STATUS_SW_HARDENING: _status_of_first("SWHardeningNeeded"),
    Fault.QE_IDENTITY_STATUS_OUT_OF_DATE_CONFIGURATION: _status_of_first("OutOfDateConfigurationNeeded"),
    Fault.TD_QE_IDENTITY_ID_QE: _members(id="QE"),
    Fault.QE_IDENTITY_NO_LEVELS: _levels(lambda _: []),
}
