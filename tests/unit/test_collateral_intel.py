"""TCB Info, QE identity, PCK certificates: read strictly, from the very bytes that are signed."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import pytest

from eaa.collateral.intel import (
    MAX_ADVISORIES,
    MAX_DOCUMENT_DEPTH,
    MAX_LEVELS,
    MAX_MODULE_IDENTITIES,
    MAX_SIGNED_DOCUMENT_SIZE,
    PCKCertificate,
    QEIdentity,
    SignedMember,
    TCBInfo,
    TCBStatus,
    join_signed_document,
    pck_certificate_of,
    split_signed_document,
)
from eaa.errors import MalformedInput, Reason
from eaa.evidence.quote import TEEType
from support.dcap_world import FMSPC, SGXExtension, World, compact, integer, pem, qe_identity, tcb_info, tlv

Change = Callable[[dict[str, Any]], object]


def refused(action: Callable[[], object], *reasons: Reason) -> None:
    with pytest.raises(MalformedInput) as caught:
        action()
    assert caught.value.reason in reasons


def nested(depth: int) -> Any:
    """An array inside an array, `depth` times."""
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def version_2(document: dict[str, Any]) -> dict[str, Any]:
    """Respell TCB Info for SGX as version 2 spells it."""
    document = {name: value for name, value in document.items() if name != "id"} | {"version": 2}
    for level in document["tcbLevels"]:
        components = level["tcb"].pop("sgxtcbcomponents")
        level["tcb"] |= {f"sgxtcbcomp{index:02}svn": item["svn"] for index, item in enumerate(components, 1)}
    return document


# --- TCB Info


def test_tcb_info_for_sgx_is_read() -> None:
    body = compact(tcb_info(TEEType.SGX))
    info = TCBInfo.parse(body)
    assert info.body == body
    assert (info.id, info.version, info.fmspc, info.pce_id) == ("SGX", 3, FMSPC, bytes(2))
    assert (info.issue_date, info.next_update) == (datetime(2026, 5, 20, tzinfo=UTC), datetime(2026, 6, 19, tzinfo=UTC))
    assert info.tcb_evaluation_data_number == 18
    assert (info.tdx_module, info.tdx_module_identities) == (None, ())
    first, second, third = info.tcb_levels
    assert (first.sgx_components, first.pce_svn, first.tdx_components) == ((5,) * 16, 11, None)
    assert (first.tcb_status, first.advisory_ids) == (TCBStatus.UP_TO_DATE, ())
    assert (second.tcb_status, second.advisory_ids) == (TCBStatus.OUT_OF_DATE, ("INTEL-SA-00001",))
    assert (third.tcb_status, third.tcb_date) == (TCBStatus.REVOKED, datetime(2019, 1, 9, tzinfo=UTC))


def test_tcb_info_for_tdx_is_read() -> None:
    info = TCBInfo.parse(compact(tcb_info(TEEType.TDX)))
    assert info.id == "TDX"
    assert info.tdx_module is not None
    assert (info.tdx_module.mr_signer, info.tdx_module.attributes) == (bytes(48), bytes(8))
    assert [identity.id for identity in info.tdx_module_identities] == ["TDX_03", "TDX_01"]
    assert [level.isv_svn for level in info.tdx_module_identities[0].tcb_levels] == [5, 4, 2]
    assert info.tcb_levels[0].tdx_components == (0, 0, *(5,) * 14)


def test_tcb_info_of_version_2_is_for_sgx() -> None:
    info = TCBInfo.parse(compact(version_2(tcb_info(TEEType.SGX))))
    assert (info.id, info.version) == ("SGX", 2)
    assert info.tcb_levels == TCBInfo.parse(compact(tcb_info(TEEType.SGX))).tcb_levels


def test_module_identities_may_be_absent() -> None:
    document = tcb_info(TEEType.TDX)
    del document["tdxModuleIdentities"]
    assert TCBInfo.parse(compact(document)).tdx_module_identities == ()


def test_case_of_hex_and_of_module_names_does_not_matter() -> None:
    document = tcb_info(TEEType.TDX)
    document["fmspc"] = document["fmspc"].lower()
    document["tdxModuleIdentities"][0]["id"] = "tdx_0a"
    info = TCBInfo.parse(compact(document))
    assert info.fmspc == FMSPC
    assert info.tdx_module_identities[0].id == "TDX_0A"


def test_members_that_are_not_known_are_no_reason_to_refuse() -> None:
    """Intel adds members; they are signed, and nothing here reads them."""
    document = tcb_info(TEEType.SGX) | {"note": {"ratio": 1.5, "list": [None, True, '\\"{[']}}
    TCBInfo.parse(compact(document))


def level_0(change: Change) -> Change:
    return lambda document: change(document["tcbLevels"][0])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda d: d.pop("version"), id="no version"),
        pytest.param(lambda d: d.update(version=1), id="version 1"),
        pytest.param(lambda d: d.update(version=4), id="version 4"),
        pytest.param(lambda d: d.update(version="3"), id="version as text"),
        pytest.param(lambda d: d.update(version=True), id="version as truth"),
        pytest.param(lambda d: d.update(version=3.0), id="version as fraction"),
        pytest.param(lambda d: d.pop("id"), id="no id"),
        pytest.param(lambda d: d.update(id="QE"), id="another id"),
        pytest.param(lambda d: d.update(id="sgx"), id="id in another case"),
        pytest.param(lambda d: d.pop("tcbType"), id="no tcbType"),
        pytest.param(lambda d: d.update(tcbType=1), id="tcbType 1"),
        pytest.param(lambda d: d.update(fmspc="00A06D0800"), id="short FMSPC"),
        pytest.param(lambda d: d.update(fmspc="00A06D08000000"), id="long FMSPC"),
        pytest.param(lambda d: d.update(fmspc="00 A06D 0800"), id="FMSPC with spaces"),
        pytest.param(lambda d: d.update(fmspc="00A06D08000G"), id="FMSPC that is no hex"),
        pytest.param(lambda d: d.update(fmspc=42), id="FMSPC as number"),
        pytest.param(lambda d: d.update(pceId="00"), id="short PCE-ID"),
        pytest.param(lambda d: d.update(issueDate="2026-05-20"), id="date without time"),
        pytest.param(lambda d: d.update(issueDate="2026-05-20T00:00:00"), id="date without zone"),
        pytest.param(lambda d: d.update(issueDate="2026-05-20T00:00:00+00:00"), id="date with another zone"),
        pytest.param(lambda d: d.update(issueDate="2026-5-2T0:0:0Z"), id="date with single digits"),
        pytest.param(lambda d: d.update(issueDate="2026-02-30T00:00:00Z"), id="date that is not"),
        pytest.param(lambda d: d.update(issueDate="\uff12026-05-20T00:00:00Z"), id="digits of another script"),
        pytest.param(lambda d: d.pop("nextUpdate"), id="no nextUpdate"),
        pytest.param(lambda d: d.update(nextUpdate=0), id="nextUpdate as number"),
        pytest.param(lambda d: d.update(tcbEvaluationDataNumber=-1), id="negative number"),
        pytest.param(lambda d: d.update(tcbEvaluationDataNumber=1 << 32), id="huge number"),
        pytest.param(lambda d: d.pop("tcbLevels"), id="no levels"),
        pytest.param(lambda d: d.update(tcbLevels={}), id="levels as object"),
        pytest.param(lambda d: d.update(tcbLevels=[1]), id="a level that is no object"),
        pytest.param(lambda d: d.update(tcbLevels=[{}] * (MAX_LEVELS + 1)), id="too many levels"),
        pytest.param(lambda d: d["tcbLevels"].append(d["tcbLevels"][0]), id="a level twice"),
        pytest.param(level_0(lambda x: x.pop("tcb")), id="level without tcb"),
        pytest.param(level_0(lambda x: x.update(tcb=[])), id="tcb that is no object"),
        pytest.param(level_0(lambda x: x.pop("tcbDate")), id="level without date"),
        pytest.param(level_0(lambda x: x.pop("tcbStatus")), id="level without status"),
        pytest.param(level_0(lambda x: x.update(tcbStatus="uptodate")), id="status in another case"),
        pytest.param(level_0(lambda x: x.update(tcbStatus="UpToDate ")), id="status with a space"),
        pytest.param(level_0(lambda x: x.update(tcbStatus="TDRelaunchAdvised")), id="status of no level"),
        pytest.param(level_0(lambda x: x.update(advisoryIDs="INTEL-SA-00001")), id="advisories as text"),
        pytest.param(level_0(lambda x: x.update(advisoryIDs=[1])), id="an advisory that is a number"),
        pytest.param(level_0(lambda x: x.update(advisoryIDs=["\x1b[2J"])), id="an advisory that clears screens"),
        pytest.param(level_0(lambda x: x.update(advisoryIDs=["A"] * (MAX_ADVISORIES + 1))), id="too many advisories"),
        pytest.param(level_0(lambda x: x["tcb"].pop("pcesvn")), id="no pcesvn"),
        pytest.param(level_0(lambda x: x["tcb"].update(pcesvn=1 << 16)), id="huge pcesvn"),
        pytest.param(level_0(lambda x: x["tcb"]["sgxtcbcomponents"].pop()), id="15 components"),
        pytest.param(level_0(lambda x: x["tcb"]["sgxtcbcomponents"].append({"svn": 0})), id="17 components"),
        pytest.param(level_0(lambda x: x["tcb"]["sgxtcbcomponents"][3].pop("svn")), id="component without svn"),
        pytest.param(level_0(lambda x: x["tcb"]["sgxtcbcomponents"][3].update(svn=256)), id="component of 256"),
        pytest.param(level_0(lambda x: x["tcb"]["sgxtcbcomponents"][3].update(svn=-1)), id="component of -1"),
        pytest.param(lambda d: d.update(note=nested(MAX_DOCUMENT_DEPTH)), id="too deep"),
    ],
)
def test_odd_tcb_info_is_refused(change: Change) -> None:
    document = tcb_info(TEEType.SGX)
    change(document)
    refused(lambda: TCBInfo.parse(json.dumps(document, ensure_ascii=False).encode()), Reason.TCB_INFO_MALFORMED)


def identity_0(change: Change) -> Change:
    return lambda document: change(document["tdxModuleIdentities"][0])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda d: d.pop("tdxModule"), id="no module"),
        pytest.param(lambda d: d["tdxModule"].update(mrsigner="00"), id="short module signer"),
        pytest.param(lambda d: d["tdxModule"].pop("attributes"), id="no module attributes"),
        pytest.param(lambda d: d["tdxModule"].pop("attributesMask"), id="no module mask"),
        pytest.param(lambda d: d.update(tdxModuleIdentities={}), id="identities as object"),
        pytest.param(
            lambda d: d.update(tdxModuleIdentities=[{}] * (MAX_MODULE_IDENTITIES + 1)), id="too many identities"
        ),
        pytest.param(lambda d: d["tdxModuleIdentities"].append(d["tdxModuleIdentities"][0]), id="an identity twice"),
        pytest.param(identity_0(lambda x: x.pop("id")), id="identity without id"),
        pytest.param(identity_0(lambda x: x.update(id="tdx_01")), id="an identity twice but for its case"),
        pytest.param(identity_0(lambda x: x["tcbLevels"].append(x["tcbLevels"][0])), id="a module level twice"),
        pytest.param(
            identity_0(lambda x: x["tcbLevels"][0].update(tcbStatus="Bogus")), id="a module status that is none"
        ),
        pytest.param(level_0(lambda x: x["tcb"].pop("tdxtcbcomponents")), id="no TDX components"),
        pytest.param(level_0(lambda x: x["tcb"]["tdxtcbcomponents"].pop()), id="15 TDX components"),
        pytest.param(lambda d: d.update(version=2), id="version 2"),
    ],
)
def test_odd_tcb_info_for_tdx_is_refused(change: Change) -> None:
    document = tcb_info(TEEType.TDX)
    change(document)
    refused(lambda: TCBInfo.parse(compact(document)), Reason.TCB_INFO_MALFORMED)


def test_version_2_wants_every_component() -> None:
    document = version_2(tcb_info(TEEType.SGX))
    del document["tcbLevels"][1]["tcb"]["sgxtcbcomp16svn"]
    refused(lambda: TCBInfo.parse(compact(document)), Reason.TCB_INFO_MALFORMED)


@pytest.mark.parametrize(
    "respell",
    [
        pytest.param(lambda _: b"", id="nothing"),
        pytest.param(lambda _: b"[]", id="an array"),
        pytest.param(lambda _: b"null", id="null"),
        pytest.param(lambda body: body[:-1], id="cut off"),
        pytest.param(lambda body: body + b"XYZ", id="text behind"),
        pytest.param(lambda body: body + body, id="twice"),
        pytest.param(lambda body: body.replace(b'"version":3', b'"version":3,"version":3'), id="a member twice"),
        pytest.param(
            lambda body: body.replace(b'"UpToDate"', b'"Revoked","tcb\\u0053tatus":"UpToDate"', 1),
            id="a member twice, once with an escape",
        ),
        pytest.param(lambda body: body.replace(b'"version":3', b'"version":3,"x":NaN'), id="NaN"),
        pytest.param(lambda body: body.replace(b'"version":3', b'"version":3,"x":Infinity'), id="Infinity"),
        pytest.param(lambda body: body.replace(b'"version":3', b'"version":' + b"9" * 5000), id="5000 digits"),
        pytest.param(lambda body: b"\xef\xbb\xbf" + body, id="a byte order mark"),
        pytest.param(lambda body: body.decode().encode("utf-16"), id="UTF-16"),
        pytest.param(lambda body: body.replace(b'"SGX"', b'"S\xffX"'), id="no UTF-8"),
        pytest.param(lambda body: body.replace(b'"SGX"', b"'SGX'"), id="other quotes"),
        pytest.param(lambda body: body + b" " * MAX_SIGNED_DOCUMENT_SIZE, id="too long"),
    ],
)
def test_text_that_is_not_one_json_object_is_refused(respell: Callable[[bytes], bytes]) -> None:
    body = respell(compact(tcb_info(TEEType.SGX)))
    refused(lambda: TCBInfo.parse(body), Reason.TCB_INFO_MALFORMED)


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(b"[" * MAX_SIGNED_DOCUMENT_SIZE, id="opening brackets"),
        pytest.param(b'{"a":' * (MAX_SIGNED_DOCUMENT_SIZE // 5), id="objects in objects"),
        pytest.param(b'"' + b'\\"' * (MAX_SIGNED_DOCUMENT_SIZE // 2 - 1), id="a text without an end"),
        pytest.param(b"\\" * MAX_SIGNED_DOCUMENT_SIZE, id="escapes"),
        pytest.param(b'"' * MAX_SIGNED_DOCUMENT_SIZE, id="quotes"),
        pytest.param(b'{"tcbInfo":' + b" " * (MAX_SIGNED_DOCUMENT_SIZE - 20), id="spaces"),
        pytest.param(b'{"tcbInfo":{},' + b" " * (MAX_SIGNED_DOCUMENT_SIZE - 20), id="spaces before the signature"),
    ],
)
def test_hostile_text_is_refused_in_no_time(hostile: bytes) -> None:
    """Linear: the largest document takes milliseconds, where a quadratic reader would take hours."""
    start = time.process_time()
    refused(lambda: TCBInfo.parse(hostile), Reason.TCB_INFO_MALFORMED)
    refused(lambda: split_signed_document(hostile, "tcbInfo"), Reason.TCB_INFO_MALFORMED)
    assert time.process_time() - start < 5


# --- QE identity


def test_qe_identity_is_read() -> None:
    body = compact(qe_identity(TEEType.SGX))
    identity = QEIdentity.parse(body)
    assert identity.body == body
    assert (identity.id, identity.version, identity.tcb_evaluation_data_number) == ("QE", 2, 17)
    assert (identity.misc_select, identity.misc_select_mask) == (bytes(4), b"\xff" * 4)
    assert (identity.attributes[0], identity.attributes_mask[0]) == (0x11, 0xFB)
    assert (identity.mr_signer, identity.isv_prod_id) == (b"\x8c" * 32, 1)
    assert [level.isv_svn for level in identity.tcb_levels] == [5, 4, 2]


@pytest.mark.parametrize("kind", ["QE", "TD_QE", "QVE"])
def test_every_kind_of_enclave_is_read(kind: str) -> None:
    assert QEIdentity.parse(compact(qe_identity(TEEType.SGX) | {"id": kind})).id == kind


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda d: d.update(version=1), id="version 1"),
        pytest.param(lambda d: d.update(version=3), id="version 3"),
        pytest.param(lambda d: d.update(id="PCE"), id="another id"),
        pytest.param(lambda d: d.pop("issueDate"), id="no issueDate"),
        pytest.param(lambda d: d.pop("nextUpdate"), id="no nextUpdate"),
        pytest.param(lambda d: d.pop("tcbEvaluationDataNumber"), id="no evaluation number"),
        pytest.param(lambda d: d.pop("miscselect"), id="no miscselect"),
        pytest.param(lambda d: d.update(miscselectMask="FF"), id="short miscselectMask"),
        pytest.param(lambda d: d.update(attributes="11"), id="short attributes"),
        pytest.param(lambda d: d.pop("attributesMask"), id="no attributesMask"),
        pytest.param(lambda d: d.update(mrsigner="8C"), id="short mrsigner"),
        pytest.param(lambda d: d.update(isvprodid=1 << 16), id="huge isvprodid"),
        pytest.param(lambda d: d.pop("tcbLevels"), id="no levels"),
        pytest.param(level_0(lambda x: x["tcb"].pop("isvsvn")), id="level without isvsvn"),
        pytest.param(lambda d: d["tcbLevels"].append(d["tcbLevels"][0]), id="a level twice"),
        pytest.param(level_0(lambda x: x.update(tcbStatus="ConfigurationNeeded")), id="ConfigurationNeeded"),
        pytest.param(level_0(lambda x: x.update(tcbStatus="SWHardeningNeeded")), id="SWHardeningNeeded"),
        pytest.param(level_0(lambda x: x.update(tcbStatus="Bogus")), id="a status that is none"),
    ],
)
def test_odd_qe_identity_is_refused(change: Change) -> None:
    document = qe_identity(TEEType.SGX)
    change(document)
    refused(lambda: QEIdentity.parse(compact(document)), Reason.QE_IDENTITY_MALFORMED)


@pytest.mark.parametrize("body", [b"", b"junk", b"[]", compact(qe_identity(TEEType.SGX)) + b"XYZ"])
def test_text_that_is_no_qe_identity_is_refused(body: bytes) -> None:
    refused(lambda: QEIdentity.parse(body), Reason.QE_IDENTITY_MALFORMED)


# --- signed documents as a PCS serves them


@pytest.mark.parametrize("member", ["tcbInfo", "enclaveIdentity"])
def test_a_signed_document_is_taken_apart_and_put_together(member: SignedMember) -> None:
    body, signature = b'{"a":"}{\\"]","b":[{}]}', bytes(range(64))
    joined = join_signed_document(member, body, signature)
    assert joined == b'{"%b":%b,"signature":"%b"}' % (member.encode(), body, signature.hex().encode())
    assert split_signed_document(joined, member) == (body, signature)


def test_the_body_keeps_every_byte_of_its_spelling() -> None:
    body = b'{ "b" : 1,\n"a":"\\u0041\\/"\t}'
    raw = b'\n{ "tcbInfo" :  ' + body + b' ,\r\n "signature" : "' + b"aB" * 64 + b'" }\n'
    assert split_signed_document(raw, "tcbInfo") == (body, b"\xab" * 64)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{}", id="an empty object"),
        pytest.param(b'{"enclaveIdentity":{},"signature":"' + b"00" * 64 + b'"}', id="the other member"),
        pytest.param(b'{"tcbInfo":"{}","signature":"' + b"00" * 64 + b'"}', id="a text"),
        pytest.param(b'{"tcbInfo":[],"signature":"' + b"00" * 64 + b'"}', id="an array"),
        pytest.param(b'{"tcbInfo":{}', id="no end"),
        pytest.param(b'{"tcbInfo":{', id="no end of the body"),
        pytest.param(b'{"tcbInfo":{}}', id="no signature"),
        pytest.param(b'{"tcbInfo":{},"signature":"' + b"00" * 63 + b'"}', id="a short signature"),
        pytest.param(b'{"tcbInfo":{},"signature":"' + b"0g" * 64 + b'"}', id="a signature that is no hex"),
        pytest.param(b'{"tcbInfo":{},"signature":"' + b"00" * 64 + b'"}x', id="text behind"),
        pytest.param(b'{"tcbInfo":{},"signature":"' + b"00" * 64 + b'","more":1}', id="another member"),
        pytest.param(b'{"tcbInfo":{},"tcbInfo":{},"signature":"' + b"00" * 64 + b'"}', id="two bodies"),
        pytest.param(b"\xff", id="no UTF-8"),
    ],
)
def test_a_document_in_another_form_is_refused(raw: bytes) -> None:
    refused(lambda: split_signed_document(raw, "tcbInfo"), Reason.TCB_INFO_MALFORMED)


def test_a_refusal_names_the_document_that_was_wanted() -> None:
    refused(lambda: split_signed_document(b"", "enclaveIdentity"), Reason.QE_IDENTITY_MALFORMED)


# --- PCK certificates


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def extension(world: World) -> SGXExtension:
    assert world.pck.sgx is not None
    return world.pck.sgx


def test_a_pck_certificate_is_read(world: World) -> None:
    pck = PCKCertificate.parse(world.pck.der())
    assert pck.ca == "platform"
    assert (pck.ppid, pck.platform_instance_id) == (bytes(range(16)), bytes(range(16, 32)))
    assert (pck.tcb_components, pck.cpu_svn, pck.pce_svn) == ((5,) * 16, bytes([5] * 16), 13)
    assert (pck.fmspc, pck.pce_id, pck.sgx_type) == (FMSPC, bytes(2), 1)
    assert (pck.dynamic_platform, pck.cached_keys, pck.smt_enabled) == (True, False, True)
    assert pck.record.serial_number == world.pck.serial_number


def test_a_pck_certificate_does_not_show_its_machine(world: World) -> None:
    pck = PCKCertificate.parse(world.pck.der())
    shown = repr(dataclasses.replace(pck, cpu_svn=b""))
    assert repr(pck.ppid) not in shown
    assert repr(pck.platform_instance_id) not in shown


def test_a_processor_ca_certifies_no_platform(world: World, extension: SGXExtension) -> None:
    world.pck_ca.common_name = "Intel SGX PCK Processor CA"
    del extension.fields[6,]
    extension.configuration.clear()
    extension.fields[5,] = tlv(0x0A, b"\0")
    pck = PCKCertificate.parse(world.pck.der())
    assert (pck.ca, pck.sgx_type, pck.platform_instance_id) == ("processor", 0, None)
    assert (pck.dynamic_platform, pck.cached_keys, pck.smt_enabled) == (None, None, None)


def test_components_up_to_255_are_read(world: World, extension: SGXExtension) -> None:
    extension.components = [255, 128, 127, 0, *range(12)]
    assert PCKCertificate.parse(world.pck.der()).tcb_components == tuple(extension.components)


def test_fields_that_are_not_known_are_no_reason_to_refuse(world: World, extension: SGXExtension) -> None:
    extension.fields[8,] = tlv(0x04, b"later")
    assert PCKCertificate.parse(world.pck.der()).fmspc == FMSPC


def field(arcs: tuple[int, ...], value: bytes) -> Callable[[SGXExtension], object]:
    return lambda extension: extension.fields.update({arcs: value})


@pytest.mark.parametrize(
    "change",
    [
        *[pytest.param(lambda e, arc=arc: e.fields.pop((arc,)), id=f"without .{arc}") for arc in (1, 3, 4, 5)],
        pytest.param(field((1,), tlv(0x04, bytes(15))), id="short PPID"),
        pytest.param(field((1,), tlv(0x02, bytes(16))), id="PPID of another type"),
        pytest.param(field((3,), tlv(0x04, bytes(3))), id="long PCE-ID"),
        pytest.param(field((4,), tlv(0x04, bytes(7))), id="long FMSPC"),
        pytest.param(field((4,), tlv(0x04, bytes(5))), id="short FMSPC"),
        pytest.param(field((5,), tlv(0x0A, b"\3")), id="unknown SGX type"),
        pytest.param(field((5,), tlv(0x02, b"\1")), id="SGX type as integer"),
        pytest.param(field((6,), tlv(0x04, bytes(15))), id="short platform instance id"),
        pytest.param(lambda e: e.configuration.update({1: b"\1"}), id="a boolean of another spelling"),
        pytest.param(lambda e: setattr(e, "components", [5] * 15), id="15 components"),
        pytest.param(
            lambda e: e.__dict__.update(components=[5] * 15 + [256], cpu_svn=bytes(16)), id="component of 256"
        ),
        pytest.param(lambda e: setattr(e, "cpu_svn", bytes([5] * 15 + [4])), id="CPUSVN differs from the components"),
        pytest.param(lambda e: setattr(e, "cpu_svn", bytes([5] * 17)), id="long CPUSVN"),
        pytest.param(lambda e: setattr(e, "pce_svn", 1 << 16), id="huge PCESVN"),
        pytest.param(lambda e: setattr(e, "extra", e.pair((1,), tlv(0x04, bytes(16)))), id="a field twice"),
        pytest.param(lambda e: setattr(e, "extra", tlv(0x30, b"\6\1\x2a\5\0")), id="a field of another arc"),
        pytest.param(lambda e: setattr(e, "extra", tlv(0x30, b"\5\0\5\0")), id="a field without a name"),
        pytest.param(lambda e: setattr(e, "extra", tlv(0x31, b"")), id="a field that is no sequence"),
        pytest.param(lambda e: setattr(e, "extra", e.pair((9,), b"\5\0\5\0")), id="a field with two values"),
        pytest.param(lambda e: setattr(e, "extra", e.pair((9,), b"")), id="a field without a value"),
        pytest.param(lambda e: setattr(e, "extra", e.pair((9,), b"\5\0") * 40), id="too many fields"),
    ],
)
def test_an_odd_sgx_extension_is_refused(
    world: World, extension: SGXExtension, change: Callable[[SGXExtension], object]
) -> None:
    change(extension)
    refused(lambda: PCKCertificate.parse(world.pck.der()), Reason.SGX_EXTENSION_MALFORMED, Reason.DER_MALFORMED)


def test_a_negative_component_is_refused(world: World, extension: SGXExtension) -> None:
    of_component_16 = extension.pair((2, 16), integer(5))
    negative = world.pck.der().replace(of_component_16, of_component_16[:-1] + b"\xfb")
    refused(lambda: PCKCertificate.parse(negative), Reason.DER_MALFORMED)


def test_a_certificate_without_the_extension_is_no_pck(world: World) -> None:
    refused(lambda: PCKCertificate.parse(world.tcb_signer.der()), Reason.SGX_EXTENSION_MALFORMED)


def test_a_pck_certificate_of_another_issuer_is_refused(world: World) -> None:
    world.pck.issuer_name = "Intel SGX Root CA"
    refused(lambda: PCKCertificate.parse(world.pck.der()), Reason.CERTIFICATE_MALFORMED)


def test_the_pck_certificate_of_a_chain_is_the_one_with_the_sgx_extension(world: World) -> None:
    ders = [certificate.der() for certificate in world.quote_chain]
    for order in permutations(ders):
        assert pck_certificate_of(pem(*order)) == PCKCertificate.parse(world.pck.der())
    refused(lambda: pck_certificate_of(pem(*ders[1:])), Reason.SGX_EXTENSION_MALFORMED)


def test_the_pck_certificate_of_a_quote_is_its_first(world: World) -> None:
    data = world.quote().certification_data
    assert pck_certificate_of(data) == PCKCertificate.parse(world.pck.der())
    assert pck_certificate_of(data, certification_data_type=5).fmspc == FMSPC
    leaf = pem(world.pck.der())
    assert pck_certificate_of(leaf, certification_data_type=4) == PCKCertificate.parse(world.pck.der())
    refused(lambda: pck_certificate_of(data, certification_data_type=4), Reason.CERTIFICATE_MALFORMED)


@pytest.mark.parametrize("kind", [1, 2, 3, 6, 7])
def test_other_certification_data_holds_no_chain(world: World, kind: int) -> None:
    data = world.quote().certification_data
    refused(lambda: pck_certificate_of(data, certification_data_type=kind), Reason.CERTIFICATION_DATA_UNSUPPORTED)


def test_a_chain_of_four_is_no_pck_chain(world: World) -> None:
    chain = pem(world.pck.der(), world.pck_ca.der(), world.pck_ca.der(), world.root.der())
    refused(lambda: pck_certificate_of(chain), Reason.CERTIFICATE_MALFORMED)
