"""Changes that a signer makes before signing: of documents, certificates, CRLs and quotes of a forged world."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from cryptography import x509

from eaa.evidence.quote import TEEType
from eaa.evidence.tdx import TDReport
from mutants.spoil import RESPELLINGS, Respelling
from mutants.subjects import Authority
from support.dcap_world import CertificateTemplate, SGXExtension, World, integer, pem, raw_public, tlv

Edit = Callable[[World, Random], str]
"""Changes a world; returns what was done."""
Document = dict[str, Any]

_STATUSES: Final = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
    "TDRelaunchAdvised",
    "Splendid",
    "",
)
_DATES: Final = (
    "2026-05-20T00:00:00Z",
    "2026-06-01T12:00:00Z",
    "2026-06-01T12:00:01Z",
    "2026-06-01T11:59:59Z",
    "2027-01-01T00:00:00Z",
    "2018-01-01T00:00:00Z",
    "2026-06-19T00:00:00+00:00",
    "2026-06-19T00:00:00.5Z",
    "2026-06-19 00:00:00Z",
    "2026-06-19",
    "2026-02-30T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "",
)
_NUMBERS: Final[tuple[Any, ...]] = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    17,
    255,
    256,
    0xFFFF,
    0x10000,
    1 << 32,
    1 << 64,
    -1,
    5.0,
    "5",
    None,
    True,
    [],
)
_TEXTS: Final = ("", "x", "00", None, 0, True, ["00"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One kind of change, for worlds of one kind of TEE or of both."""

    edit: Edit
    authority: Authority = Authority.VENDOR
    tee: TEEType | None = None


def _number(rng: Random) -> Any:
    return rng.choice(_NUMBERS) if rng.random() < 0.5 else rng.randrange(256)


def _hex_of(old: str, rng: Random) -> Any:
    if rng.random() < 0.3:
        return rng.choice(_TEXTS)
    if rng.random() < 0.3:
        return old.lower() if rng.random() < 0.5 else old.upper()
    at = rng.randrange(len(old))
    new = old[:at] + rng.choice("0123456789ABCDEF") + old[at + 1 :]
    return rng.choice([new, old + "00", old[:-2], old[:-1]]) if rng.random() < 0.3 else new


# --- documents


def _document(world: World, name: str) -> Document:
    document: Document = getattr(world, name)
    return document


def _set(name: str, member: str, choose: Callable[[Any, Random], Any]) -> Edit:
    def edit(world: World, rng: Random) -> str:
        document = _document(world, name)
        document[member] = choose(document.get(member), rng)
        return f"{member} is {document[member]!r:.60}"

    return edit


def _without(name: str, rng_of: Callable[[World, Random], Document]) -> Edit:
    def edit(world: World, rng: Random) -> str:
        target = rng_of(world, rng)
        member = rng.choice(sorted(target))
        del target[member]
        return f"{name} without {member}"

    return edit


def _levels_of(world: World, name: str, rng: Random) -> list[Document]:
    """The levels of a document; for `modules`, those of one of its TDX modules."""
    if name == "modules":
        levels: list[Document] = rng.choice(world.tcb_info["tdxModuleIdentities"])["tcbLevels"]
        return levels
    found: list[Document] = _document(world, name)["tcbLevels"]
    return found


def _copied(world: World) -> None:
    """The levels of World are shared constants in places: make them this world's own."""
    for name in ("tcb_info", "qe_identity"):
        setattr(world, name, _deep(_document(world, name)))


def _deep(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _deep(item) for name, item in value.items()}
    return [_deep(item) for item in value] if isinstance(value, list) else value


def _level(name: str, choose: Callable[[Document, Random], str]) -> Edit:
    def edit(world: World, rng: Random) -> str:
        levels = _levels_of(world, name, rng)
        index = rng.randrange(len(levels))
        return f"level {index}: {choose(levels[index], rng)}"

    return edit


def _status(level: Document, rng: Random) -> str:
    level["tcbStatus"] = rng.choice(_STATUSES)
    return f"status {level['tcbStatus']!r}"


def _date(level: Document, rng: Random) -> str:
    level["tcbDate"] = rng.choice(_DATES)
    return f"date {level['tcbDate']!r}"


def _advisories(level: Document, rng: Random) -> str:
    choices: list[Any] = [[], ["INTEL-SA-00999"], ["INTEL-SA-00002"] * 2, ["INTEL-SA-00007", "INTEL-SA-00001"]]
    odd: list[Any] = [[""], ["a b"], ["x" * 65], [1], "INTEL-SA-00001", None, ["A"] * 300]
    level["advisoryIDs"] = rng.choice(choices if rng.random() < 0.6 else odd)
    return f"advisories {level['advisoryIDs']!r:.60}"


def _isv_svn(level: Document, rng: Random) -> str:
    level["tcb"]["isvsvn"] = _number(rng)
    return f"isvsvn {level['tcb']['isvsvn']!r}"


def _pce_svn(level: Document, rng: Random) -> str:
    level["tcb"]["pcesvn"] = _number(rng)
    return f"pcesvn {level['tcb']['pcesvn']!r}"


def _component(member: str) -> Callable[[Document, Random], str]:
    def choose(level: Document, rng: Random) -> str:
        index = rng.randrange(16)
        level["tcb"][member][index]["svn"] = _number(rng)
        return f"{member} {index} is {level['tcb'][member][index]['svn']!r}"

    return choose


def _component_count(member: str) -> Callable[[Document, Random], str]:
    def choose(level: Document, rng: Random) -> str:
        components = level["tcb"][member]
        count = rng.choice([0, 1, 15, 17, 32])
        level["tcb"][member] = (components * 2)[:count]
        return f"{count} {member}"

    return choose


def _kind(level: Document, rng: Random) -> str:
    words = ["BIOS", "", "x" * 65, "a\x1bb", None, 5, "é"]
    level["tcb"]["sgxtcbcomponents"][rng.randrange(16)][rng.choice(["category", "type"])] = rng.choice(words)
    return "a component's kind"


def _level_list(name: str) -> Edit:
    def edit(world: World, rng: Random) -> str:
        levels = _levels_of(world, name, rng)
        action = rng.choice(
            ["reversed", "shuffled", "one dropped", "one twice", "one twice with another status", "none"]
        )
        if action == "reversed":
            levels.reverse()
        elif action == "shuffled":
            rng.shuffle(levels)
        elif action == "one dropped":
            del levels[rng.randrange(len(levels))]
        elif action == "none":
            levels.clear()
        else:
            again = _deep(rng.choice(levels))
            if action != "one twice":
                again["tcbStatus"] = rng.choice(_STATUSES[:6])
            levels.insert(rng.randrange(len(levels) + 1), again)
        return f"levels: {action}"

    return edit


def _respelled(name: str, respelling: Respelling) -> Edit:
    def edit(world: World, rng: Random) -> str:
        # The spelling is chosen once: the same text is signed and shown.
        state = rng.getrandbits(64)
        setattr(world, f"respell_{name}", lambda text: respelling(text, Random(state)))
        return "respelled, then signed"

    return edit


def _reordered(name: str) -> Edit:
    def edit(world: World, rng: Random) -> str:
        setattr(world, name, _shuffled(_document(world, name), rng))
        return "members in another order"

    return edit


def _shuffled(value: Any, rng: Random) -> Any:
    if isinstance(value, dict):
        names = list(value)
        rng.shuffle(names)
        return {name: _shuffled(value[name], rng) for name in names}
    return [_shuffled(item, rng) for item in value] if isinstance(value, list) else value


def _both_dates(name: str) -> Edit:
    def edit(world: World, rng: Random) -> str:
        issued = world.now + timedelta(seconds=rng.choice([0, 1, -1, 86400, -86400 * 31, -86400]))
        ends = issued + timedelta(days=rng.choice([0, 1, 30, -1, 4000]))
        document = _document(world, name)
        document["issueDate"], document["nextUpdate"] = f"{issued:%Y-%m-%dT%H:%M:%SZ}", f"{ends:%Y-%m-%dT%H:%M:%SZ}"
        return f"issued {document['issueDate']}, next update {document['nextUpdate']}"

    return edit


_KEYS: Final = ("pck", "pck_ca", "root", "attestation", "stranger")


def _signed_by(name: str) -> Edit:
    def edit(world: World, rng: Random) -> str:
        who = rng.choice(_KEYS)
        setattr(world, f"{name}_signed_by", who)
        chains = {
            "pck": [world.pck, world.pck_ca, world.root],
            "pck_ca": [world.pck_ca, world.root],
            "root": [world.root, world.root],
        }
        chain = chains.get(who)
        if who == "pck" and rng.random() < 0.5:
            chain = [world.pck, world.root]
        if chain is not None:
            setattr(world, "tcb_chain" if name == "tcb_info" else "qe_chain", chain)
        return f"signed by {who}, with its chain"

    return edit


def _misnamed_signer(name: str) -> Edit:
    """A genuine key under the root, but not the one that may sign documents."""

    def edit(world: World, rng: Random) -> str:
        common_name = rng.choice(
            ["Intel SGX Some Signing", "Intel SGX PCK Certificate", "TCB Signing", "Intel SGX Root CA"]
        )
        signer = dataclasses.replace(world.tcb_signer, common_name=common_name, key="other_signer", serial=77)
        setattr(world, f"{name}_signed_by", "other_signer")
        setattr(world, "tcb_chain" if name == "tcb_info" else "qe_chain", [signer, world.root])
        return f"signed by {common_name!r} under the root"

    return edit


_COMMON_MEMBERS: Final[dict[str, Callable[[Any, Random], Any]]] = {
    "issueDate": lambda _, rng: rng.choice(_DATES),
    "nextUpdate": lambda _, rng: rng.choice(_DATES),
    "tcbEvaluationDataNumber": lambda _, rng: _number(rng),
}
_TCB_INFO_MEMBERS: Final[dict[str, Callable[[Any, Random], Any]]] = {
    **_COMMON_MEMBERS,
    "id": lambda _, rng: rng.choice(["SGX", "TDX", "QVE", "sgx", "", None, 3]),
    "version": lambda _, rng: rng.choice([2, 3, 4, 0, -3, "3", None]),
    "fmspc": _hex_of,
    "pceId": _hex_of,
    "tcbType": lambda _, rng: rng.choice([0, 1, 2, -1, "0", None]),
}
_QE_IDENTITY_MEMBERS: Final[dict[str, Callable[[Any, Random], Any]]] = {
    **_COMMON_MEMBERS,
    "id": lambda _, rng: rng.choice(["QE", "TD_QE", "QVE", "qe", "", None]),
    "version": lambda _, rng: rng.choice([1, 2, 3, 0, "2", None]),
    "miscselect": _hex_of,
    "miscselectMask": _hex_of,
    "attributes": _hex_of,
    "attributesMask": _hex_of,
    "mrsigner": _hex_of,
    "isvprodid": lambda _, rng: _number(rng),
}


def _module_member(world: World, rng: Random) -> str:
    module = rng.choice([world.tcb_info["tdxModule"], *world.tcb_info["tdxModuleIdentities"]])
    member = rng.choice(["mrsigner", "attributes", "attributesMask"])
    module[member] = _hex_of(module[member], rng)
    return f"a module's {member} is {module[member]!r:.40}"


def _module_id(world: World, rng: Random) -> str:
    module = rng.choice(world.tcb_info["tdxModuleIdentities"])
    module["id"] = rng.choice(["TDX_01", "tdx_01", "TDX_02", "TDX_1", "TDX_001", "TDX_", "", None, "TDX_0A"])
    return f"a module's id is {module['id']!r}"


def _modules(world: World, rng: Random) -> str:
    action = rng.choice(["absent", "empty", "reversed", "no tdxModule", "one twice"])
    info = world.tcb_info
    if action == "absent":
        del info["tdxModuleIdentities"]
    elif action == "empty":
        info["tdxModuleIdentities"] = []
    elif action == "reversed":
        info["tdxModuleIdentities"].reverse()
    elif action == "one twice":
        info["tdxModuleIdentities"].append(_deep(rng.choice(info["tdxModuleIdentities"])))
    else:
        del info["tdxModule"]
    return f"modules: {action}"


def _as_version_2(world: World, rng: Random) -> str:
    info = world.tcb_info
    for member in ("id", "tdxModule", "tdxModuleIdentities"):
        info.pop(member, None)
    info["version"] = 2
    for level in info["tcbLevels"]:
        components = level["tcb"].pop("sgxtcbcomponents")
        level["tcb"].update({f"sgxtcbcomp{at:02}svn": item["svn"] for at, item in enumerate(components, 1)})
    if rng.random() < 0.3:
        del rng.choice(info["tcbLevels"])["tcb"]["sgxtcbcomp16svn"]
        return "version 2, one component missing"
    return "version 2"


def _document_changes(name: str, members: dict[str, Callable[[Any, Random], Any]]) -> dict[str, Change]:
    return {
        **{f"{name}.{member}": Change(edit=_set(name, member, choose)) for member, choose in members.items()},
        f"{name}.member_missing": Change(edit=_without(name, lambda world, _: _document(world, name))),
        f"{name}.level_member_missing": Change(
            edit=_without(name, lambda world, rng: rng.choice(_levels_of(world, name, rng)))
        ),
        f"{name}.levels": Change(edit=_level_list(name)),
        f"{name}.level.status": Change(edit=_level(name, _status)),
        f"{name}.level.date": Change(edit=_level(name, _date)),
        f"{name}.level.advisories": Change(edit=_level(name, _advisories)),
        f"{name}.validity": Change(edit=_both_dates(name)),
        f"{name}.reordered": Change(edit=_reordered(name)),
        f"{name}.signer": Change(edit=_signed_by(name), authority=Authority.IMPOSTOR),
        f"{name}.signer_name": Change(edit=_misnamed_signer(name), authority=Authority.IMPOSTOR),
        **{f"{name}.{how}": Change(edit=_respelled(name, respelling)) for how, respelling in RESPELLINGS.items()},
    }


_TDX: Final = TEEType.TDX
_SGX: Final = TEEType.SGX

DOCUMENT_CHANGES: Final[dict[str, Change]] = {
    **_document_changes("tcb_info", _TCB_INFO_MEMBERS),
    **_document_changes("qe_identity", _QE_IDENTITY_MEMBERS),
    "tcb_info.as_version_2": Change(edit=_as_version_2),
    "tcb_info.level.pcesvn": Change(edit=_level("tcb_info", _pce_svn)),
    "tcb_info.level.sgx_component": Change(edit=_level("tcb_info", _component("sgxtcbcomponents"))),
    "tcb_info.level.sgx_component_count": Change(edit=_level("tcb_info", _component_count("sgxtcbcomponents"))),
    "tcb_info.level.component_kind": Change(edit=_level("tcb_info", _kind)),
    "tcb_info.level.tdx_component": Change(edit=_level("tcb_info", _component("tdxtcbcomponents")), tee=_TDX),
    "tcb_info.level.tdx_component_count": Change(
        edit=_level("tcb_info", _component_count("tdxtcbcomponents")), tee=_TDX
    ),
    "tcb_info.module.member": Change(edit=_module_member, tee=_TDX),
    "tcb_info.module.id": Change(edit=_module_id, tee=_TDX),
    "tcb_info.modules": Change(edit=_modules, tee=_TDX),
    "tcb_info.module.levels": Change(edit=_level_list("modules"), tee=_TDX),
    "tcb_info.module.level.status": Change(edit=_level("modules", _status), tee=_TDX),
    "tcb_info.module.level.isvsvn": Change(edit=_level("modules", _isv_svn), tee=_TDX),
    "tcb_info.module.level.advisories": Change(edit=_level("modules", _advisories), tee=_TDX),
    "qe_identity.level.isvsvn": Change(edit=_level("qe_identity", _isv_svn)),
}


# --- certificates and CRLs

_CERTIFICATES: Final = ("root", "pck_ca", "pck", "tcb_signer", "qe_signer")


def _certificate(world: World, rng: Random) -> tuple[str, CertificateTemplate]:
    name = rng.choice(_CERTIFICATES)
    template: CertificateTemplate = getattr(world, name)
    return name, template


def _on_certificate(choose: Callable[[CertificateTemplate, World, Random], str]) -> Edit:
    def edit(world: World, rng: Random) -> str:
        name, template = _certificate(world, rng)
        return f"{name}: {choose(template, world, rng)}"

    return edit


def _common_name(template: CertificateTemplate, _: World, rng: Random) -> str:
    names: list[str | list[str]] = [
        "Intel SGX Root CA",
        "Intel SGX PCK Platform CA",
        "Intel SGX PCK Processor CA",
        "Intel SGX PCK Certificate",
        "Intel SGX TCB Signing",
        "Somebody",
        ["Intel SGX TCB Signing", "Somebody"],
        [],
    ]
    template.common_name = rng.choice(names)
    return f"common name {template.common_name!r}"


def _not_before(template: CertificateTemplate, world: World, rng: Random) -> str:
    template.not_before = world.now + timedelta(seconds=rng.choice([0, 1, -1, 86400]))
    return f"valid from {template.not_before}"


def _not_after(template: CertificateTemplate, world: World, rng: Random) -> str:
    template.not_after = world.now + timedelta(seconds=rng.choice([0, 1, -1, -86400]))
    return f"valid until {template.not_after}"


def _is_ca(template: CertificateTemplate, _: World, rng: Random) -> str:
    template.is_ca = rng.choice([None, True, False])
    template.path_length = None
    return f"CA: {template.is_ca}"


def _path_length(template: CertificateTemplate, _: World, rng: Random) -> str:
    template.path_length = rng.choice([None, 0, 1, 2]) if template.is_ca else None
    return f"path length {template.path_length}"


def _usage(template: CertificateTemplate, _: World, rng: Random) -> str:
    choices = [None, set(), {"digital_signature"}, {"key_cert_sign"}, {"crl_sign"}, {"key_cert_sign", "crl_sign"}]
    more = [{"digital_signature", "key_cert_sign"}, {"key_agreement"}]
    template.usage = rng.choice([*choices, *more])
    return f"usage {sorted(template.usage or ())}"


def _key_id(member: str) -> Callable[[CertificateTemplate, World, Random], str]:
    def choose(template: CertificateTemplate, _: World, rng: Random) -> str:
        value = rng.choice([b"", b"x", bytes(20), bytes(64)])
        setattr(template, member, value)
        return f"{member} {value.hex()!r}"

    return choose


def _serial(template: CertificateTemplate, _: World, rng: Random) -> str:
    template.serial = rng.choice([1, 127, 128, 4711, (1 << 159) - 1])
    return f"serial {template.serial}"


def _unknown_extension(template: CertificateTemplate, _: World, rng: Random) -> str:
    critical = rng.random() < 0.5
    oid = rng.choice(["1.2.3.4", "2.5.29.32", "2.5.29.37"])
    content = bytes.fromhex("30063004060255" + "00") if oid == "2.5.29.32" else b"\x05\x00"
    value = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), content)
    template.extra = [(value, critical)]
    return f"extension {oid}, critical: {critical}"


def _issuer_name(template: CertificateTemplate, _: World, rng: Random) -> str:
    template.issuer_name = rng.choice(["Somebody", "Intel SGX Root CA", "Intel SGX PCK Processor CA"])
    return f"issuer {template.issuer_name!r}"


def _sgx_of_anybody(template: CertificateTemplate, _: World, rng: Random) -> str:
    template.sgx = None if template.sgx else SGXExtension()
    return f"SGX extension: {template.sgx is not None}"


def _certificate_key(template: CertificateTemplate, _: World, rng: Random) -> str:
    template.signed_by = rng.choice(["stranger", "pck", "tcb_signer", "attestation"])
    return f"signed by {template.signed_by}"


def _foreign_key(world: World, rng: Random) -> str:
    """Another key in a certificate that its issuer signed: what the old key signed holds no more."""
    name = rng.choice(["pck", "tcb_signer", "qe_signer"])
    getattr(world, name).key = "stranger"
    return f"{name}: another key"


def _extension_edit(choose: Callable[[SGXExtension, Random], str]) -> Edit:
    def edit(world: World, rng: Random) -> str:
        assert world.pck.sgx is not None
        return choose(world.pck.sgx, rng)

    return edit


def _components(sgx: SGXExtension, rng: Random) -> str:
    index = rng.randrange(16)
    sgx.components[index] = rng.choice([0, 1, 3, 4, 5, 6, 255])
    return f"component {index} is {sgx.components[index]}"


def _cpu_svn(sgx: SGXExtension, rng: Random) -> str:
    index = rng.randrange(16)
    sgx.cpu_svn = bytes(6 if at == index else svn for at, svn in enumerate(sgx.components))
    return f"CPUSVN differs from component {index}"


def _extension_pce_svn(sgx: SGXExtension, rng: Random) -> str:
    sgx.pce_svn = rng.choice([0, 10, 11, 12, 255, 256, 0xFFFF, 0x10000])
    return f"PCE SVN {sgx.pce_svn}"


def _extension_field(sgx: SGXExtension, rng: Random) -> str:
    arc = rng.choice([1, 3, 4, 5, 6])
    tag = rng.choice([0x02, 0x04, 0x0A]) if rng.random() < 0.3 else sgx.fields[arc,][0]
    old = sgx.fields[arc,][2:]
    content = rng.choice([old[:-1], old + b"\0", bytes(len(old)), bytes([*old[:-1], old[-1] ^ 1]), b""])
    sgx.fields[arc,] = tlv(tag, content)
    return f"field {arc} is {sgx.fields[arc,].hex()}"


def _extension_field_missing(sgx: SGXExtension, rng: Random) -> str:
    arc = rng.choice(sorted(sgx.fields))
    del sgx.fields[arc]
    return f"field {arc[0]} is missing"


def _configuration(sgx: SGXExtension, rng: Random) -> str:
    sgx.configuration[rng.randrange(1, 5)] = rng.choice([b"\0", b"\xff", b"\x01", b"", b"\0\0"])
    return f"configuration {sgx.configuration}"


def _extension_extra(sgx: SGXExtension, rng: Random) -> str:
    extras = {
        "an unknown field": SGXExtension.pair((9,), integer(1)),
        "the FMSPC twice": SGXExtension.pair((4,), tlv(0x04, bytes(6))),
        "the TCB twice": SGXExtension.pair((2,), tlv(0x30, b"")),
        "a field of somebody else": tlv(0x30, tlv(0x06, b"\x2a\x03") + integer(1)),
        "an integer": integer(1),
        "a field without a value": tlv(0x30, tlv(0x06, b"\x2a\x86\x48\x86\xf8\x4d\x01\x0d\x01\x09")),
    }
    what = rng.choice(sorted(extras))
    sgx.extra = extras[what]
    return what


def _crl_dates(world: World, rng: Random) -> str:
    name = rng.choice(["root_crl", "pck_crl"])
    crl = getattr(world, name)
    begin = timedelta(seconds=rng.choice([-86400, -1, 0, 1, 86400]))
    crl.this_update = world.now + begin
    crl.next_update = max(crl.this_update + timedelta(seconds=1), world.now + timedelta(seconds=rng.choice([-1, 0, 1])))
    return f"{name}: from {crl.this_update} to {crl.next_update}"


def _revoked(world: World, rng: Random) -> str:
    name, template = _certificate(world, rng)
    crl = world.pck_crl if name == "pck" else world.root_crl
    crl.revoked = [template.serial_number]
    reasons: list[list[tuple[x509.ExtensionType, bool]]] = [
        [],
        [(x509.CRLReason(x509.ReasonFlags.remove_from_crl), False)],
        [(x509.CRLReason(x509.ReasonFlags.certificate_hold), False)],
        [(x509.CRLReason(x509.ReasonFlags.key_compromise), True)],
        [(x509.InvalidityDate(datetime(2030, 1, 1, tzinfo=UTC).replace(tzinfo=None)), False)],
    ]
    crl.entry_extra = rng.choice(reasons)
    return f"{name} is revoked"


def _revoked_by_wrong_list(world: World, rng: Random) -> str:
    """A serial on the list of another issuer revokes nothing."""
    name = rng.choice(["tcb_signer", "pck"])
    crl = world.root_crl if name == "pck" else world.pck_crl
    crl.revoked = [getattr(world, name).serial_number]
    return f"the serial of {name} stands on the list of another issuer"


def _crl_member(world: World, rng: Random) -> str:
    name = rng.choice(["root_crl", "pck_crl"])
    crl = getattr(world, name)
    action = rng.choice(["number", "authority", "issuer", "extension", "critical"])
    if action == "number":
        crl.number = rng.choice([None, 0, 1 << 64])
    elif action == "authority":
        crl.authority_key_id = rng.choice([b"", b"x", bytes(20)])
    elif action == "issuer":
        crl.issuer_name = "Somebody"
    else:
        value = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
        crl.extra = [(value, action == "critical")]
    return f"{name}: {action}"


def _crl_signer(world: World, rng: Random) -> str:
    name = rng.choice(["root_crl", "pck_crl"])
    who = rng.choice(["stranger", "tcb_signer", "pck", "pck_ca" if name == "root_crl" else "root"])
    getattr(world, name).signed_by = who
    return f"{name} signed by {who}"


def _crl_swap(world: World, rng: Random) -> str:
    name = rng.choice(["both", "root_crl", "pck_crl"])
    root_crl, pck_crl = world.root_crl, world.pck_crl
    world.root_crl = pck_crl if name != "pck_crl" else root_crl
    world.pck_crl = root_crl if name != "root_crl" else pck_crl
    return f"{name}: the other list in its place"


def _chain_list(world: World, rng: Random) -> str:
    name = rng.choice(["quote_chain", "crl_chain", "tcb_chain", "qe_chain"])
    chain: list[CertificateTemplate] = list(getattr(world, name))
    everybody = [world.root, world.pck_ca, world.pck, world.tcb_signer]
    action = rng.choice(["dropped", "twice", "shuffled", "added", "replaced"])
    at = rng.randrange(len(chain))
    if action == "dropped":
        del chain[at]
    elif action == "twice":
        chain.insert(at, chain[at])
    elif action == "shuffled":
        rng.shuffle(chain)
    elif action == "added":
        chain.insert(at, rng.choice(everybody))
    else:
        chain[at] = rng.choice([item for item in everybody if item is not chain[at]])
    setattr(world, name, chain)
    return f"{name}: {action} at {at}"


CERTIFICATE_CHANGES: Final[dict[str, Change]] = {
    "certificate.common_name": Change(edit=_on_certificate(_common_name)),
    "certificate.not_before": Change(edit=_on_certificate(_not_before)),
    "certificate.not_after": Change(edit=_on_certificate(_not_after)),
    "certificate.is_ca": Change(edit=_on_certificate(_is_ca)),
    "certificate.path_length": Change(edit=_on_certificate(_path_length)),
    "certificate.usage": Change(edit=_on_certificate(_usage)),
    "certificate.subject_key_id": Change(edit=_on_certificate(_key_id("subject_key_id"))),
    "certificate.authority_key_id": Change(edit=_on_certificate(_key_id("authority_key_id"))),
    "certificate.serial": Change(edit=_on_certificate(_serial)),
    "certificate.unknown_extension": Change(edit=_on_certificate(_unknown_extension)),
    "certificate.issuer_name": Change(edit=_on_certificate(_issuer_name), authority=Authority.VENDOR),
    "certificate.sgx_extension": Change(edit=_on_certificate(_sgx_of_anybody)),
    "certificate.signed_by": Change(edit=_on_certificate(_certificate_key), authority=Authority.IMPOSTOR),
    "certificate.key": Change(edit=_foreign_key, authority=Authority.IMPOSTOR),
    "sgx_extension.component": Change(edit=_extension_edit(_components)),
    "sgx_extension.cpu_svn": Change(edit=_extension_edit(_cpu_svn)),
    "sgx_extension.pce_svn": Change(edit=_extension_edit(_extension_pce_svn)),
    "sgx_extension.field": Change(edit=_extension_edit(_extension_field)),
    "sgx_extension.field_missing": Change(edit=_extension_edit(_extension_field_missing)),
    "sgx_extension.configuration": Change(edit=_extension_edit(_configuration)),
    "sgx_extension.extra": Change(edit=_extension_edit(_extension_extra)),
    "crl.dates": Change(edit=_crl_dates),
    "crl.revoked": Change(edit=_revoked),
    "crl.revoked_by_wrong_list": Change(edit=_revoked_by_wrong_list),
    "crl.member": Change(edit=_crl_member),
    "crl.signed_by": Change(edit=_crl_signer, authority=Authority.IMPOSTOR),
    "crl.swapped": Change(edit=_crl_swap),
    "chain.list": Change(edit=_chain_list),
}


# --- quotes


def _header(member: str, choose: Callable[[Random], Any]) -> Edit:
    def edit(world: World, rng: Random) -> str:
        value = choose(rng)
        world.header = dataclasses.replace(world.header, **{member: value})
        return f"{member} is {value.hex() if isinstance(value, bytes) else value}"

    return edit


def _version(world: World, rng: Random) -> str:
    world.version = rng.choice([0, 1, 2, 3, 4, 5, 6, 0xFFFF])
    world.header = dataclasses.replace(world.header, version=world.version)
    return f"version {world.version}"


def _tee(world: World, rng: Random) -> str:
    word = rng.choice([0, 0x81, 1, 0x80, 0x82, 0x8100, 0xFFFFFFFF])
    world.header = dataclasses.replace(world.header, tee_type=word)  # type: ignore[arg-type]
    return f"TEE type {word:#x}"


def _body_field(world: World, rng: Random) -> str:
    layout = world.body.LAYOUT if isinstance(world.body, TDReport) else _ENCLAVE_FIELDS
    name, length = rng.choice([row for row in layout if row[0] not in _DOMAIN_FIELDS])
    changed: dict[str, Any] = {name: rng.randbytes(length)}
    world.body = dataclasses.replace(world.body, **changed)
    return f"another {name}"


_DOMAIN_FIELDS: Final = ("td_attributes", "tee_tcb_svn", "tee_tcb_svn_2", "mr_signer_seam", "seam_attributes")
_ENCLAVE_FIELDS: Final = (("mr_enclave", 32), ("mr_signer", 32), ("cpu_svn", 16), ("report_data", 64))


def _attributes(world: World, rng: Random) -> str:
    body = world.body
    if isinstance(body, TDReport):
        bits = 1 << rng.choice([0, 1, 5, 7, 8, 12, 27, 28, 29, 30, 31, 33, 62, 63])
        value = int.from_bytes(body.td_attributes, "little") ^ bits
        world.body = dataclasses.replace(body, td_attributes=value.to_bytes(8, "little"))
        return f"TD attributes {value:#x}"
    bits = 1 << rng.randrange(64)
    value = int.from_bytes(body.attributes[:8], "little") ^ bits
    world.body = dataclasses.replace(body, attributes=value.to_bytes(8, "little") + body.attributes[8:])
    return f"attributes {value:#x}"


def _tcb_svn(world: World, rng: Random) -> str:
    assert isinstance(world.body, TDReport)
    names = [name for name, _ in world.body.LAYOUT if name.startswith("tee_tcb_svn")]
    name = rng.choice(names)
    old = bytearray(getattr(world.body, name))
    index = rng.choice([0, 0, 1, 1, rng.randrange(16)])
    old[index] = rng.choice([0, 1, 2, 3, 4, 5, 6, 255])
    world.body = dataclasses.replace(world.body, **{name: bytes(old)})
    return f"{name} {index} is {old[index]}"


def _module(world: World, rng: Random) -> str:
    assert isinstance(world.body, TDReport)
    name, length = rng.choice([("mr_signer_seam", 48), ("seam_attributes", 8)])
    value = bytearray(length)
    value[rng.randrange(length)] = 1 << rng.randrange(8)
    world.body = dataclasses.replace(world.body, **{name: bytes(value)})
    return f"another {name}"


def _qe_report(world: World, rng: Random) -> str:
    changes: list[tuple[str, Any]] = [
        ("misc_select", 1 << rng.randrange(32)),
        ("mr_signer", rng.randbytes(32)),
        ("mr_enclave", rng.randbytes(32)),
        ("isv_prod_id", rng.choice([0, 2, 0xFFFF])),
        ("isv_svn", rng.choice([0, 1, 2, 3, 4, 6, 0xFFFF])),
        ("cpu_svn", rng.randbytes(16)),
    ]
    name, value = rng.choice(changes)
    world.qe_report = dataclasses.replace(world.qe_report, **{name: value})
    return f"QE {name} is {value.hex() if isinstance(value, bytes) else value}"


def _qe_attributes(world: World, rng: Random) -> str:
    bit = rng.randrange(128)
    value = int.from_bytes(world.qe_report.attributes, "little") ^ 1 << bit
    world.qe_report = dataclasses.replace(world.qe_report, attributes=value.to_bytes(16, "little"))
    return f"bit {bit} of the QE's attributes"


def _qe_auth_data(world: World, rng: Random) -> str:
    length = rng.choice([0, 1, 31, 32, 33, 64, 1000])
    world.qe_auth_data = rng.randbytes(length)
    return f"{length} bytes of QE authentication data"


def _qe_report_data(world: World, rng: Random) -> str:
    digest = hashlib.sha256(raw_public("attestation") + world.qe_auth_data).digest()
    tail = bytearray(32)
    tail[rng.randrange(32)] = 1 << rng.randrange(8)
    world.qe_report_data = digest + bytes(tail)
    return "something stands behind the digest in the QE's report data"


def _qe_report_data_elsewhere(world: World, rng: Random) -> str:
    world.qe_report_data = rng.choice([bytes(64), rng.randbytes(64), bytes(32) + rng.randbytes(32)])
    return "the QE's report data binds no key"


def _attestation_key(world: World, rng: Random) -> str:
    off_curve = (5).to_bytes(32, "big") + (7).to_bytes(32, "big")
    world.attestation_key = rng.choice([off_curve, bytes(64), b"\xff" * 64])
    return "an attestation key off the curve, vouched for"


def _quote_signer(world: World, rng: Random) -> str:
    name = rng.choice(["quote_signed_by", "qe_report_signed_by"])
    setattr(world, name, rng.choice(["stranger", "root", "tcb_signer", "pck_ca"]))
    return f"{name} {getattr(world, name)}"


def _named_platform(world: World, rng: Random) -> str:
    """The quote only names its platform; the collateral brings the chain, and the name is right or not."""
    kind = rng.choice([1, 2, 3, 4])
    assert world.pck.sgx is not None
    right = rng.random() < 0.5
    cpu_svn = bytes(world.pck.sgx.components if right or rng.random() < 0.5 else [6] * 16)
    pce_svn = world.pck.sgx.pce_svn if right or rng.random() < 0.5 else 1
    ppid = {1: bytes(range(16)) if right else bytes(16), 2: bytes(256), 3: bytes(384)}.get(kind, b"")
    named = ppid + cpu_svn + pce_svn.to_bytes(2, "little") + bytes(2)
    leaf = pem((world.pck if right else world.tcb_signer).der())
    world.certification_data_type = kind
    world.certification_data = leaf if kind == 4 else named
    chain = pem(*(template.der() for template in world.quote_chain))
    world.change_collateral = lambda collateral: dataclasses.replace(collateral, pck_certificate_chain=chain)
    return f"certification data of type {kind}, {'right' if right else 'wrong'}"


def _certification_type(world: World, rng: Random) -> str:
    world.certification_data_type = rng.choice([0, 1, 2, 3, 4, 6, 7, 8, 0xFFFF])
    return f"certification data type {world.certification_data_type}"


QUOTE_CHANGES: Final[dict[str, Change]] = {
    "quote.version": Change(edit=_version),
    "quote.attestation_key_type": Change(
        edit=_header("attestation_key_type", lambda rng: rng.choice((0, 1, 3, 4, 0xFFFF)))
    ),
    "quote.tee_type": Change(edit=_tee),
    "quote.svns": Change(edit=_header("qe_svn_and_pce_svn", lambda rng: rng.randbytes(4))),
    "quote.qe_vendor_id": Change(edit=_header("qe_vendor_id", lambda rng: rng.choice((bytes(16), rng.randbytes(16))))),
    "quote.user_data": Change(edit=_header("user_data", lambda rng: rng.randbytes(20))),
    "quote.body_field": Change(edit=_body_field),
    "quote.attributes": Change(edit=_attributes),
    "quote.tee_tcb_svn": Change(edit=_tcb_svn, tee=_TDX),
    "quote.module": Change(edit=_module, tee=_TDX),
    "quote.qe_report": Change(edit=_qe_report),
    "quote.qe_attributes": Change(edit=_qe_attributes),
    "quote.qe_auth_data": Change(edit=_qe_auth_data),
    "quote.qe_report_data": Change(edit=_qe_report_data),
    "quote.qe_report_data_elsewhere": Change(edit=_qe_report_data_elsewhere, authority=Authority.IMPOSTOR),
    "quote.attestation_key": Change(edit=_attestation_key, authority=Authority.IMPOSTOR),
    "quote.signed_by": Change(edit=_quote_signer, authority=Authority.IMPOSTOR),
    "quote.certification_type": Change(edit=_certification_type),
    "quote.certification_names_platform": Change(edit=_named_platform),
}

CHANGES: Final[dict[str, Change]] = {**DOCUMENT_CHANGES, **CERTIFICATE_CHANGES, **QUOTE_CHANGES}


def prepare(world: World) -> World:
    """Make a world's templates and documents its own, so that a change of one is a change of one."""
    _copied(world)
    assert world.pck.sgx is not None
    return world
