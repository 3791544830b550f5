"""DCAP quote verification: one good world, one thing broken per row, each broken link named by its own reason."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import dcap_qvl
import pytest

from eaa.collateral.bundle import Collateral
from eaa.errors import EAAError, MalformedInput, Misuse, Reason, VerificationError
from eaa.evidence.ppid import PPIDCertification
from eaa.evidence.quote import CertificationDataType, Quote, TEEType
from eaa.evidence.tdx import TDReport
from eaa.verify.dcap import (
    INTEL,
    TrustAnchors,
    parse_pck_chain,
    verify_collateral,
    verify_evidence,
    verify_pck_chain,
    verify_quote,
    verify_revocation_lists,
    verify_tcb_info,
)
from eaa.verify.tcb import Shortfall, TCBStatus
from support.dcap_world import (
    FMSPC,
    LEVELS,
    NOW,
    CertificateTemplate,
    SGXExtension,
    World,
    ca_template,
    pem,
    sgx_tcb_level,
    tcb_info,
    td_report_15,
    tlv,
)

Break = Callable[[World], object]
SECOND = timedelta(seconds=1)
SGX_3, SGX_4, SGX_5 = (TEEType.SGX, 3), (TEEType.SGX, 4), (TEEType.SGX, 5)
TDX_4, TDX_5 = (TEEType.TDX, 4), (TEEType.TDX, 5)


def refusal(world: World, **keywords: Any) -> Reason:
    with pytest.raises(EAAError) as caught:
        world.verify(**keywords)
    assert isinstance(caught.value, MalformedInput | VerificationError | Misuse)
    return caught.value.reason


def put(path: str, value: Any) -> Break:
    """Return a change that sets one attribute, as in `pck.sgx.pce_svn`."""

    def change(world: World) -> None:
        *parents, name = path.split(".")
        target: Any = world
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, name, value)

    return change


def both(*changes: Break) -> Break:
    """Return a change that makes several, where one alone would not show."""
    return lambda world: [change(world) for change in changes]


def document(path: str, **members: Any) -> Break:
    """Return a change to members of one JSON document."""
    return lambda world: getattr(world, path).update(members)


def with_fields(record: Any, **fields: Any) -> Any:
    """A record with other fields, as dataclasses.replace, where a test does not know the fields' types."""
    return dataclasses.replace(record, **fields)


def flip(field: str, at: int) -> Break:
    """Return a change to one bit of a field of the finished quote."""

    def change(quote: Quote) -> Any:
        value = bytearray(getattr(quote, field))
        value[at] ^= 1
        return with_fields(quote, **{field: bytes(value)})

    return put("change_quote", change)


# --- good worlds


@pytest.mark.parametrize(("tee", "version"), [SGX_3, SGX_4, SGX_5, TDX_4, TDX_5])
def test_a_good_world_is_verified(tee: TEEType, version: int) -> None:
    world = World(tee=tee, version=version)
    facts = world.verify()
    assert facts.tee is tee
    assert (facts.tcb_status, facts.advisory_ids, facts.launch_advisory_ids) == (TCBStatus.UP_TO_DATE, (), ())
    assert facts.tcb_date == datetime(2026, 2, 11, tzinfo=UTC)
    assert (facts.fmspc, facts.pce_id, facts.ca) == (FMSPC, bytes(2), "platform")
    assert (facts.ppid, facts.platform_instance_id) == (bytes(range(16)), bytes(range(16, 32)))
    assert (facts.tcb_info_evaluation_number, facts.qe_identity_evaluation_number) == (18, 17)
    assert facts.tcb_evaluation_data_number == 17
    assert facts.qe_isv_svn == 5
    assert facts.certification_data_type == 5
    assert (facts.pck_certificate_from, facts.padding) == ("quote", 0)
    assert (facts.cpu_svn, facts.pce_svn, facts.sgx_type) == (bytes([5] * 16), 13, 1)
    assert (facts.dynamic_platform, facts.cached_keys, facts.smt_enabled) == (True, False, True)
    assert (facts.root_crl_number, facts.pck_crl_number) == (1, 1)
    assert facts.quoting_enclave == world.quote().qe_report
    assert facts.shortfalls == ()
    assert facts.report_data == facts.body.report_data == bytes(range(64))
    assert facts.quote == Quote.parse(facts.quote.encode())


@pytest.mark.parametrize("tee", list(TEEType))
def test_another_verifier_accepts_the_same_world(tee: TEEType) -> None:
    """The world that tests break is good by somebody else's judgement as well."""
    world = World(tee=tee, version=4 if tee is TEEType.TDX else 3)
    collateral = dcap_qvl.QuoteCollateralV3.from_json(world.collateral().to_json().decode())
    moment = int(world.now.timestamp())
    report = dcap_qvl.verify_with_root_ca(world.quote().encode(), collateral, world.root.der(), moment)
    assert report.status == world.verify().tcb_status == "UpToDate"


def test_every_document_stands_with_its_end() -> None:
    facts = World().verify()
    assert dict(facts.expirations) == {
        "root certificate": World().root.not_after,
        "root CRL": NOW + timedelta(days=300),
        "PCK CRL issuer certificate": World().pck_ca.not_after,
        "PCK CRL": NOW + timedelta(days=20),
        "PCK CA certificate": World().pck_ca.not_after,
        "PCK certificate": World().pck.not_after,
        "TCB Info signing certificate": World().tcb_signer.not_after,
        "TCB Info": datetime(2026, 6, 19, tzinfo=UTC),
        "QE identity signing certificate": World().qe_signer.not_after,
        "QE identity": datetime(2026, 6, 20, tzinfo=UTC),
    }
    assert facts.earliest_expiration == datetime(2026, 6, 19, tzinfo=UTC)
    assert facts.collateral_expired == ()
    assert [name for name, _ in facts.issued] == [name for name, _ in facts.expirations]
    assert dict(facts.issued)["TCB Info"] == datetime(2026, 5, 20, tzinfo=UTC)
    assert dict(facts.issued)["PCK CRL"] == NOW - timedelta(days=10)


def test_the_certification_path_is_told() -> None:
    world = World()
    path = world.verify().certification_path
    assert [name for name, _ in path] == [
        "Intel SGX PCK Certificate",
        "Intel SGX PCK Platform CA",
        "Intel SGX Root CA",
    ]
    ders = (world.pck.der(), world.pck_ca.der(), world.root.der())
    assert [digest for _, digest in path] == [hashlib.sha256(der).digest() for der in ders]


def test_only_the_vendors_root_is_not_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what a certificate says of itself: the fingerprint decides."""
    world = World()
    facts = world.verify()
    (root,) = world.trust_anchors.fingerprints
    assert (facts.trust_anchor, facts.simulated) == (root, True)
    monkeypatch.setattr("eaa.verify.chain.INTEL_ROOTS", frozenset({root}))
    assert not world.verify().simulated


def test_facts_do_not_show_the_machine() -> None:
    facts = World().verify()
    assert repr(facts.ppid) not in repr(facts)
    assert repr(facts.platform_instance_id) not in repr(facts)
    assert repr(facts.certification_path[0][1]) not in repr(facts)


def certify_again(world: World) -> None:
    """Intel certified the key of one of its CAs twice, with one serial and other dates."""
    world.crl_chain[0] = dataclasses.replace(world.pck_ca, not_before=datetime(2021, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(put("qe_auth_data", b""), id="no QE auth data"),
        pytest.param(put("qe_auth_data", bytes(65535)), id="most QE auth data"),
        pytest.param(certify_again, id="the PCK CA certified twice"),
        pytest.param(put("pck_crl.entry_extra", []), id="CRL entries without reasons"),
        pytest.param(put("now", datetime(2026, 6, 19, tzinfo=UTC)), id="the last second of TCB Info"),
        pytest.param(put("now", datetime(2026, 5, 23, tzinfo=UTC)), id="early in the life of the CRLs"),
        pytest.param(lambda world: world.tcb_info["tcbLevels"].reverse(), id="levels ascending"),
        pytest.param(lambda world: world.qe_identity["tcbLevels"].reverse(), id="QE levels ascending"),
        pytest.param(document("tcb_info", fmspc=FMSPC.hex()), id="FMSPC in lower case"),
        pytest.param(
            put("header", dataclasses.replace(World().header, qe_svn_and_pce_svn=b"\xff" * 4)), id="other header SVNs"
        ),
    ],
)
def test_what_varies_in_real_worlds_is_accepted(change: Break) -> None:
    world = World()
    change(world)
    assert world.verify().tcb_status is TCBStatus.UP_TO_DATE


# --- one fault per row: chain and CRLs


def other_root(world: World) -> CertificateTemplate:
    """A root of the same name, not pinned."""
    return dataclasses.replace(world.root, key="other_root")


def revoke(world: World, certificate: str, crl: str) -> None:
    getattr(world, crl).revoked.append(getattr(world, certificate).serial_number)


def replace_crl(world: World, der: bytes) -> None:
    world.change_collateral = lambda collateral: dataclasses.replace(collateral, pck_crl=der)


def crl_of_the_other_ca(world: World) -> None:
    """Genuine and fresh, by the CA that did not issue this PCK certificate."""
    other = ca_template("Intel SGX PCK Processor CA", "processor_ca", world.root, path_length=0)
    world.crl_chain[0] = other
    world.pck_crl.issuer = other


def crl_of_the_same_name(world: World) -> None:
    """By a CA of the same name with another key: were names enough, its CRL would hide revocations."""
    other = dataclasses.replace(world.pck_ca, key="another_ca")
    world.crl_chain[0] = other
    world.pck_crl.issuer = other


FAULTS_OF_THE_CHAIN = [
    pytest.param(put("certification_data_type", 0), Reason.CERTIFICATION_DATA_UNSUPPORTED, id="certification data 0"),
    pytest.param(put("certification_data_type", 6), Reason.CERTIFICATION_DATA_UNSUPPORTED, id="a QE report inside"),
    pytest.param(put("certification_data_type", 7), Reason.CERTIFICATION_DATA_UNSUPPORTED, id="platform manifest"),
    pytest.param(lambda w: w.quote_chain.pop(), Reason.CERTIFICATE_CHAIN, id="chain of two"),
    pytest.param(lambda w: w.quote_chain.append(w.root), Reason.CERTIFICATE_CHAIN, id="chain of four"),
    pytest.param(
        lambda w: w.quote_chain.__setitem__(2, other_root(w)), Reason.ROOT_UNTRUSTED, id="another root of that name"
    ),
    pytest.param(put("root.common_name", "Intel Root"), Reason.CERTIFICATE_ROLE, id="root of another name"),
    pytest.param(put("root.signed_by", "foreign"), Reason.CERTIFICATE_SIGNATURE, id="root not signed by itself"),
    pytest.param(put("root.path_length", 0), Reason.CERTIFICATE_ROLE, id="root without a level below"),
    pytest.param(put("pck_ca.common_name", "Intel SGX CA"), Reason.CERTIFICATE_ROLE, id="CA of another name"),
    pytest.param(
        both(put("pck_ca.is_ca", None), put("pck_ca.path_length", None)), Reason.CERTIFICATE_ROLE, id="CA that is none"
    ),
    pytest.param(put("pck_ca.signed_by", "foreign"), Reason.CERTIFICATE_SIGNATURE, id="CA not signed by the root"),
    pytest.param(put("pck_ca.authority_key_id", b""), Reason.CERTIFICATE_CHAIN, id="CA without AKI"),
    pytest.param(put("pck.common_name", "Intel SGX TCB Signing"), Reason.CERTIFICATE_ROLE, id="PCK of another name"),
    pytest.param(put("pck.sgx", None), Reason.CERTIFICATE_ROLE, id="PCK without SGX extension"),
    pytest.param(put("pck.signed_by", "foreign"), Reason.CERTIFICATE_SIGNATURE, id="PCK not signed by the CA"),
    pytest.param(put("pck.authority_key_id", bytes(20)), Reason.CERTIFICATE_CHAIN, id="PCK with another AKI"),
    pytest.param(put("pck.issuer_name", "Intel SGX PCK Other CA"), Reason.CERTIFICATE_CHAIN, id="PCK of another CA"),
    pytest.param(put("pck.sgx.cpu_svn", bytes(16)), Reason.SGX_EXTENSION_MALFORMED, id="CPUSVN not the components"),
    pytest.param(lambda w: w.pck.sgx.fields.pop((4,)), Reason.SGX_EXTENSION_MALFORMED, id="PCK without FMSPC"),
    pytest.param(put("root.not_before", NOW + SECOND), Reason.CERTIFICATE_NOT_YET_VALID, id="root not yet valid"),
    pytest.param(put("root.not_after", NOW - SECOND), Reason.CERTIFICATE_EXPIRED, id="root expired"),
    pytest.param(put("pck_ca.not_before", NOW + SECOND), Reason.CERTIFICATE_NOT_YET_VALID, id="CA not yet valid"),
    pytest.param(put("pck_ca.not_after", NOW - SECOND), Reason.CERTIFICATE_EXPIRED, id="CA expired"),
    pytest.param(put("pck.not_before", NOW + SECOND), Reason.CERTIFICATE_NOT_YET_VALID, id="PCK not yet valid"),
    pytest.param(put("pck.not_after", NOW - SECOND), Reason.CERTIFICATE_EXPIRED, id="PCK expired"),
]

FAULTS_OF_THE_CRLS = [
    pytest.param(lambda w: revoke(w, "root", "root_crl"), Reason.CERTIFICATE_REVOKED, id="root revoked by itself"),
    pytest.param(lambda w: revoke(w, "pck_ca", "root_crl"), Reason.CERTIFICATE_REVOKED, id="CA revoked"),
    pytest.param(lambda w: revoke(w, "pck", "pck_crl"), Reason.CERTIFICATE_REVOKED, id="PCK revoked"),
    pytest.param(lambda w: revoke(w, "tcb_signer", "root_crl"), Reason.CERTIFICATE_REVOKED, id="signer revoked"),
    pytest.param(put("root_crl.signed_by", "foreign"), Reason.CRL_SIGNATURE, id="root CRL signed by another"),
    pytest.param(put("pck_crl.signed_by", "foreign"), Reason.CRL_SIGNATURE, id="PCK CRL signed by another"),
    pytest.param(put("root_crl.issuer_name", "Intel"), Reason.CRL_ISSUER, id="root CRL of another"),
    pytest.param(put("pck_crl.issuer_name", "Intel"), Reason.CRL_ISSUER, id="PCK CRL of another"),
    pytest.param(put("root_crl.authority_key_id", bytes(20)), Reason.CRL_ISSUER, id="root CRL with another AKI"),
    pytest.param(put("pck_crl.authority_key_id", bytes(20)), Reason.CRL_ISSUER, id="PCK CRL with another AKI"),
    pytest.param(put("pck_crl.authority_key_id", b""), Reason.CRL_MALFORMED, id="PCK CRL without AKI"),
    pytest.param(put("root_crl.number", None), Reason.CRL_MALFORMED, id="root CRL without number"),
    pytest.param(put("root_crl.next_update", NOW - SECOND), Reason.CRL_EXPIRED, id="root CRL expired"),
    pytest.param(put("pck_crl.next_update", NOW - SECOND), Reason.CRL_EXPIRED, id="PCK CRL expired"),
    pytest.param(put("root_crl.this_update", NOW + SECOND), Reason.CRL_NOT_YET_VALID, id="root CRL of tomorrow"),
    pytest.param(put("pck_crl.this_update", NOW + SECOND), Reason.CRL_NOT_YET_VALID, id="PCK CRL of tomorrow"),
    pytest.param(lambda w: w.crl_chain.pop(), Reason.CERTIFICATE_CHAIN, id="CRL chain of one"),
    pytest.param(put("crl_chain", []), Reason.CERTIFICATE_MALFORMED, id="no CRL chain"),
    pytest.param(lambda w: w.crl_chain.insert(1, w.pck_ca), Reason.CERTIFICATE_CHAIN, id="CRL chain of three"),
    pytest.param(
        lambda w: w.crl_chain.__setitem__(0, w.tcb_signer), Reason.CERTIFICATE_ROLE, id="CRL chain of the TCB signer"
    ),
    pytest.param(lambda w: replace_crl(w, b""), Reason.CRL_MALFORMED, id="no PCK CRL"),
    pytest.param(lambda w: replace_crl(w, w.root_crl.der()), Reason.CRL_ISSUER, id="the root CRL in its place"),
    pytest.param(crl_of_the_other_ca, Reason.CRL_ISSUER, id="PCK CRL of the other CA"),
    pytest.param(crl_of_the_same_name, Reason.CRL_ISSUER, id="PCK CRL of another key of that name"),
]


@pytest.mark.parametrize(("change", "reason"), [*FAULTS_OF_THE_CHAIN, *FAULTS_OF_THE_CRLS])
@pytest.mark.parametrize(("tee", "version"), [SGX_3, TDX_4], ids=["sgx", "tdx"])
def test_one_fault_of_chain_or_crl_is_named(tee: TEEType, version: int, change: Break, reason: Reason) -> None:
    world = World(tee=tee, version=version)
    change(world)
    assert refusal(world) is reason


# --- one fault per row: TCB Info and QE identity


def respelled(path: str, change: Callable[[bytes], bytes]) -> Break:
    """Return a change to a document after it was signed."""

    def apply(collateral: Collateral) -> Collateral:
        return dataclasses.replace(collateral, **{path: change(getattr(collateral, path))})

    return put("change_collateral", apply)


def flip_last(value: bytes) -> bytes:
    return value[:-1] + bytes((value[-1] ^ 1,))


def revoke_signer(world: World, chain: str) -> None:
    signer = getattr(world, chain)[0]
    signer.serial = 0x5EC0
    world.root_crl.revoked.append(signer.serial)


def wrong_signers(chain: str, signed_by: str) -> list[Any]:
    """Every certificate that Intel's root stands behind, in the signer's place."""
    return [
        pytest.param(
            both(lambda w: setattr(w, chain, list(w.quote_chain)), put(signed_by, "pck")),
            Reason.CERTIFICATE_CHAIN,
            id=f"{chain}: a PCK certificate with its chain",
        ),
        pytest.param(
            both(lambda w: setattr(w, chain, [w.pck, w.root]), put(signed_by, "pck")),
            Reason.CERTIFICATE_ROLE,
            id=f"{chain}: a PCK certificate",
        ),
        pytest.param(
            both(lambda w: setattr(w, chain, [w.pck_ca, w.root]), put(signed_by, "pck_ca")),
            Reason.CERTIFICATE_ROLE,
            id=f"{chain}: the PCK CA",
        ),
        pytest.param(
            both(lambda w: setattr(w, chain, [w.root, w.root]), put(signed_by, "root")),
            Reason.CERTIFICATE_ROLE,
            id=f"{chain}: the root",
        ),
        pytest.param(
            lambda w: setattr(getattr(w, chain)[0], "sgx", SGXExtension()),
            Reason.CERTIFICATE_ROLE,
            id=f"{chain}: a signer with SGX extension",
        ),
        pytest.param(
            lambda w: setattr(getattr(w, chain)[0], "common_name", "Intel SGX Attestation Report Signing"),
            Reason.CERTIFICATE_ROLE,
            id=f"{chain}: a signer of another name",
        ),
        pytest.param(
            lambda w: getattr(w, chain).__setitem__(1, other_root(w)),
            Reason.ROOT_UNTRUSTED,
            id=f"{chain}: another root",
        ),
        pytest.param(lambda w: getattr(w, chain).pop(), Reason.CERTIFICATE_CHAIN, id=f"{chain}: no root"),
        pytest.param(
            lambda w: setattr(getattr(w, chain)[0], "signed_by", "foreign"),
            Reason.CERTIFICATE_SIGNATURE,
            id=f"{chain}: a signer not signed by the root",
        ),
        pytest.param(
            lambda w: setattr(getattr(w, chain)[0], "not_after", NOW - SECOND),
            Reason.CERTIFICATE_EXPIRED,
            id=f"{chain}: a signer expired",
        ),
        pytest.param(
            lambda w: setattr(getattr(w, chain)[0], "not_before", NOW + SECOND),
            Reason.CERTIFICATE_NOT_YET_VALID,
            id=f"{chain}: a signer not yet valid",
        ),
        pytest.param(
            lambda w: revoke_signer(w, chain), Reason.CERTIFICATE_REVOKED, id=f"{chain}: a signer of its own, revoked"
        ),
    ]


FAULTS_OF_TCB_INFO = [
    *wrong_signers("tcb_chain", "tcb_info_signed_by"),
    pytest.param(put("tcb_info_signed_by", "foreign"), Reason.TCB_INFO_SIGNATURE, id="TCB Info signed by another"),
    pytest.param(respelled("tcb_info_signature", flip_last), Reason.TCB_INFO_SIGNATURE, id="TCB Info signature bit"),
    pytest.param(respelled("tcb_info_signature", lambda _: b""), Reason.TCB_INFO_SIGNATURE, id="TCB Info unsigned"),
    pytest.param(respelled("tcb_info_signature", lambda _: bytes(64)), Reason.TCB_INFO_SIGNATURE, id="TCB Info r=s=0"),
    pytest.param(respelled("tcb_info", lambda body: body + b" "), Reason.TCB_INFO_SIGNATURE, id="a space behind"),
    pytest.param(
        respelled("tcb_info", lambda body: body.replace(b'"version":3', b'"version": 3')),
        Reason.TCB_INFO_SIGNATURE,
        id="a space inside",
    ),
    pytest.param(
        respelled("tcb_info", lambda body: body.replace(b'"OutOfDate"', b'"UpToDate"')),
        Reason.TCB_INFO_SIGNATURE,
        id="another status",
    ),
    pytest.param(
        put("respell_tcb_info", lambda body: body + b"XYZ"), Reason.TCB_INFO_MALFORMED, id="text behind, signed"
    ),
    pytest.param(document("tcb_info", version=4), Reason.TCB_INFO_MALFORMED, id="TCB Info of version 4"),
    pytest.param(document("tcb_info", tcbType=1), Reason.TCB_INFO_MALFORMED, id="tcbType 1"),
    pytest.param(document("tcb_info", fmspc="00A06D080001"), Reason.TCB_INFO_MISMATCH, id="another FMSPC"),
    pytest.param(document("tcb_info", pceId="0100"), Reason.TCB_INFO_MISMATCH, id="another PCE-ID"),
    pytest.param(
        document("tcb_info", nextUpdate="2026-06-01T11:59:59Z"), Reason.TCB_INFO_EXPIRED, id="TCB Info expired"
    ),
    pytest.param(
        document("tcb_info", issueDate="2026-06-01T12:00:01Z"),
        Reason.TCB_INFO_NOT_YET_VALID,
        id="TCB Info of tomorrow",
    ),
    pytest.param(document("tcb_info", tcbLevels=[]), Reason.TCB_NOT_SUPPORTED, id="no levels"),
]

FAULTS_OF_QE_IDENTITY = [
    *wrong_signers("qe_chain", "qe_identity_signed_by"),
    pytest.param(put("qe_identity_signed_by", "foreign"), Reason.QE_IDENTITY_SIGNATURE, id="identity by another"),
    pytest.param(respelled("qe_identity_signature", flip_last), Reason.QE_IDENTITY_SIGNATURE, id="signature bit"),
    pytest.param(respelled("qe_identity", lambda body: b" " + body), Reason.QE_IDENTITY_SIGNATURE, id="a space before"),
    pytest.param(respelled("qe_identity", lambda _: b"junk"), Reason.QE_IDENTITY_SIGNATURE, id="junk"),
    pytest.param(
        put("respell_qe_identity", lambda body: body + b"XYZ"), Reason.QE_IDENTITY_MALFORMED, id="text behind, signed"
    ),
    pytest.param(document("qe_identity", version=3), Reason.QE_IDENTITY_MALFORMED, id="identity of version 3"),
    pytest.param(document("qe_identity", id="QVE"), Reason.QE_IDENTITY_MISMATCH, id="identity of the QVE"),
    pytest.param(
        document("qe_identity", nextUpdate="2026-06-01T11:59:59Z"), Reason.QE_IDENTITY_EXPIRED, id="identity expired"
    ),
    pytest.param(
        document("qe_identity", issueDate="2026-06-01T12:00:01Z"),
        Reason.QE_IDENTITY_NOT_YET_VALID,
        id="identity of tomorrow",
    ),
    pytest.param(document("qe_identity", tcbLevels=[]), Reason.TCB_NOT_SUPPORTED, id="identity without levels"),
    pytest.param(document("qe_identity", mrsigner="00" * 32), Reason.QE_IDENTITY_MISMATCH, id="identity of another"),
]


@pytest.mark.parametrize(("change", "reason"), [*FAULTS_OF_TCB_INFO, *FAULTS_OF_QE_IDENTITY])
@pytest.mark.parametrize(("tee", "version"), [SGX_3, TDX_4], ids=["sgx", "tdx"])
def test_one_fault_of_a_document_is_named(tee: TEEType, version: int, change: Break, reason: Reason) -> None:
    world = World(tee=tee, version=version)
    change(world)
    assert refusal(world) is reason


@pytest.mark.parametrize("tee", list(TEEType))
def test_the_document_of_the_other_tee_does_not_fit(tee: TEEType) -> None:
    world = World(tee=tee, version=4)
    other = TEEType.TDX if tee is TEEType.SGX else TEEType.SGX
    world.tcb_info = tcb_info(other)
    assert refusal(world) is Reason.TCB_INFO_MISMATCH


@pytest.mark.parametrize(("tee", "kind"), [(TEEType.SGX, "TD_QE"), (TEEType.TDX, "QE")])
def test_the_identity_of_the_other_enclave_does_not_fit(tee: TEEType, kind: str) -> None:
    world = World(tee=tee, version=4)
    world.qe_identity["id"] = kind
    assert refusal(world) is Reason.QE_IDENTITY_MISMATCH


# --- one fault per row: the quote


def tail_of_qe_report(world: World) -> None:
    quote = world.quote()
    world.qe_report_data = quote.qe_report.report_data[:32] + bytes(31) + b"\1"


def qe_report(world: World, **fields: Any) -> None:
    world.qe_report = dataclasses.replace(world.qe_report, **fields)


def qe_attributes(world: World, flags: int) -> None:
    qe_report(world, attributes=bytes((flags,)) + world.qe_report.attributes[1:])


def platform(world: World, components: list[int]) -> None:
    assert world.pck.sgx is not None
    world.pck.sgx.components = components


FAULTS_OF_THE_QUOTE = [
    pytest.param(put("qe_report_signed_by", "foreign"), Reason.QE_REPORT_SIGNATURE, id="QE report by another"),
    pytest.param(flip("qe_report_signature", 63), Reason.QE_REPORT_SIGNATURE, id="QE report signature bit"),
    pytest.param(put("qe_report_data", bytes(64)), Reason.QE_REPORT_BINDING, id="key not bound"),
    pytest.param(tail_of_qe_report, Reason.QE_REPORT_BINDING, id="something behind the binding"),
    pytest.param(flip("qe_auth_data", 0), Reason.QE_REPORT_BINDING, id="auth data bit"),
    pytest.param(flip("attestation_key", 0), Reason.QE_REPORT_BINDING, id="attestation key bit"),
    pytest.param(put("attestation_key", bytes(64)), Reason.QUOTE_MALFORMED, id="attestation key 0, bound"),
    pytest.param(put("attestation_key", b"\1" * 64), Reason.QUOTE_MALFORMED, id="attestation key off the curve, bound"),
    pytest.param(put("attestation_key", b"\xff" * 64), Reason.QUOTE_MALFORMED, id="attestation key too big, bound"),
    pytest.param(put("quote_signed_by", "foreign"), Reason.QUOTE_SIGNATURE, id="quote by another"),
    pytest.param(flip("signature", 0), Reason.QUOTE_SIGNATURE, id="quote signature bit"),
    pytest.param(
        put("change_quote", lambda quote: dataclasses.replace(quote, signature=bytes(64))),
        Reason.QUOTE_SIGNATURE,
        id="r and s are 0",
    ),
    pytest.param(
        put("change_quote", lambda quote: dataclasses.replace(quote, signature=b"\xff" * 64)),
        Reason.QUOTE_SIGNATURE,
        id="r and s beyond the order",
    ),
    pytest.param(
        put(
            "change_quote",
            lambda quote: dataclasses.replace(
                quote, body=dataclasses.replace(quote.body, report_data=b"\1" + quote.body.report_data[1:])
            ),
        ),
        Reason.QUOTE_SIGNATURE,
        id="report data bit",
    ),
    pytest.param(
        put(
            "change_quote",
            lambda quote: dataclasses.replace(quote, header=dataclasses.replace(quote.header, user_data=b"\1" * 20)),
        ),
        Reason.QUOTE_SIGNATURE,
        id="header bit",
    ),
    pytest.param(lambda w: qe_report(w, mr_signer=bytes(32)), Reason.QE_IDENTITY_MISMATCH, id="QE of another signer"),
    pytest.param(lambda w: qe_report(w, isv_prod_id=2), Reason.QE_IDENTITY_MISMATCH, id="QE of another product"),
    pytest.param(lambda w: qe_report(w, misc_select=1), Reason.QE_IDENTITY_MISMATCH, id="QE with MISCSELECT"),
    pytest.param(lambda w: qe_attributes(w, 0x17), Reason.QE_IDENTITY_MISMATCH, id="QE under debug"),
    pytest.param(lambda w: qe_attributes(w, 0x05), Reason.QE_IDENTITY_MISMATCH, id="QE without provisioning key"),
    pytest.param(lambda w: qe_report(w, isv_svn=3), Reason.TCB_REVOKED, id="QE revoked"),
    pytest.param(lambda w: qe_report(w, isv_svn=1), Reason.TCB_NOT_SUPPORTED, id="QE below all levels"),
    pytest.param(lambda w: platform(w, [3] * 16), Reason.TCB_REVOKED, id="platform revoked"),
    pytest.param(lambda w: platform(w, [1] * 16), Reason.TCB_NOT_SUPPORTED, id="platform below all levels"),
    pytest.param(put("pck.sgx.pce_svn", 10), Reason.TCB_NOT_SUPPORTED, id="PCE below all levels"),
    pytest.param(
        lambda w: w.pck.sgx.fields.update({(4,): tlv(0x04, bytes(6))}), Reason.TCB_INFO_MISMATCH, id="PCK of another"
    ),
]


@pytest.mark.parametrize(("change", "reason"), FAULTS_OF_THE_QUOTE)
@pytest.mark.parametrize(
    ("tee", "version"),
    [SGX_3, SGX_4, TDX_4, TDX_5],
    ids=["sgx-v3", "sgx-v4", "tdx-v4", "tdx-v5"],
)
def test_one_fault_of_the_quote_is_named(tee: TEEType, version: int, change: Break, reason: Reason) -> None:
    world = World(tee=tee, version=version)
    change(world)
    assert refusal(world) is reason


def td(**fields: Any) -> Break:
    return lambda world: setattr(world, "body", dataclasses.replace(world.body, **fields))


def module(**members: str) -> Break:
    return lambda world: world.tcb_info["tdxModuleIdentities"][1].update(members)


FAULTS_OF_THE_MODULE = [
    pytest.param(td(mr_signer_seam=b"\1" * 48), Reason.TDX_MODULE_MISMATCH, id="another signer"),
    pytest.param(td(seam_attributes=b"\1" + bytes(7)), Reason.TDX_MODULE_MISMATCH, id="attributes"),
    pytest.param(td(tee_tcb_svn=bytes((5, 2, *(5,) * 14))), Reason.TDX_MODULE_MISMATCH, id="unknown major version"),
    pytest.param(
        lambda w: w.tcb_info.pop("tdxModuleIdentities"), Reason.TDX_MODULE_MISMATCH, id="no module identities"
    ),
    pytest.param(module(mrsigner="11" * 48), Reason.TDX_MODULE_MISMATCH, id="identity of another signer"),
    pytest.param(
        both(td(seam_attributes=b"\1" + bytes(7)), module(attributes="01" + "00" * 7)),
        Reason.TDX_MODULE_MISMATCH,
        id="attributes that the identity names",
    ),
    pytest.param(
        both(td(seam_attributes=b"\1" + bytes(7)), module(attributesMask="00" * 8)),
        Reason.TDX_MODULE_MISMATCH,
        id="attributes that the mask hides",
    ),
    pytest.param(td(tee_tcb_svn=bytes((3, 1, *(5,) * 14))), Reason.TCB_REVOKED, id="revoked"),
    pytest.param(td(tee_tcb_svn=bytes((1, 1, *(5,) * 14))), Reason.TCB_NOT_SUPPORTED, id="below all levels"),
    pytest.param(td(tee_tcb_svn=bytes((5, 1, *(3,) * 14))), Reason.TCB_REVOKED, id="components revoked"),
    pytest.param(td(tee_tcb_svn=bytes((5, 1, *(1,) * 14))), Reason.TCB_NOT_SUPPORTED, id="components below all"),
]


@pytest.mark.parametrize(("change", "reason"), FAULTS_OF_THE_MODULE)
def test_one_fault_of_the_tdx_module_is_named(change: Break, reason: Reason) -> None:
    world = World(tee=TEEType.TDX, version=4)
    change(world)
    assert refusal(world) is reason


def test_a_module_without_a_version_is_judged_by_the_document() -> None:
    world = World(tee=TEEType.TDX, version=4)
    td(tee_tcb_svn=bytes((5, 0, *(5,) * 14)))(world)
    assert world.verify().tcb_status is TCBStatus.UP_TO_DATE
    world.tcb_info["tdxModule"]["mrsigner"] = "11" * 48
    assert refusal(world) is Reason.TDX_MODULE_MISMATCH


# --- certification data without a chain


PPID_DATA = PPIDCertification(
    kind=CertificationDataType.PPID_PLAIN,
    ppid=bytes(range(16)),
    cpu_svn=bytes([5] * 16),
    pce_svn=13,
    pce_id=bytes(2),
)
PPID_SIZES_BY_TYPE = {1: 16, 2: 256, 3: 384}


def chain_of(world: World) -> bytes:
    return pem(*(certificate.der() for certificate in (world.pck, world.pck_ca, world.root)))


def without_chain(world: World, kind: int, **changes: Any) -> World:
    """The world in which the quote only names its platform, and the collateral has the chain."""
    world.certification_data_type = kind
    if kind == 4:
        world.certification_data = pem(world.pck.der())
    else:
        ppid = bytes(range(16)) if kind == 1 else b"\xee" * PPID_SIZES_BY_TYPE[kind]
        world.certification_data = with_fields(PPID_DATA, ppid=ppid, **changes).encode()
    world.change_collateral = lambda c: dataclasses.replace(c, pck_certificate_chain=chain_of(world))
    return world


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
@pytest.mark.parametrize(("tee", "version"), [SGX_3, TDX_4, TDX_5])
def test_a_quote_without_a_chain_is_verified_with_the_collaterals(tee: TEEType, version: int, kind: int) -> None:
    facts = without_chain(World(tee=tee, version=version), kind).verify()
    assert (facts.tcb_status, facts.pck_certificate_from) == (TCBStatus.UP_TO_DATE, "collateral")
    assert (facts.certification_data_type, facts.fmspc) == (kind, FMSPC)
    assert "PCK certificate" in dict(facts.expirations)


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_without_a_chain_anywhere_there_is_nothing_to_believe(kind: int) -> None:
    world = without_chain(World(), kind)
    world.change_collateral = lambda collateral: collateral
    assert refusal(world) is Reason.PCK_CERTIFICATE_MISSING


def test_a_quotes_own_chain_needs_no_other() -> None:
    """Collateral files are made for platforms, and may hold the chain of another quote."""
    world = World()
    other = dataclasses.replace(world.pck, serial=7)
    foreign = pem(other.der(), world.pck_ca.der(), world.root.der())
    world.change_collateral = lambda c: dataclasses.replace(c, pck_certificate_chain=foreign)
    assert world.verify().pck_certificate_from == "quote"


@pytest.mark.parametrize("kind", [1, 2, 3])
@pytest.mark.parametrize(
    "changes",
    [{"cpu_svn": bytes([6] * 16)}, {"pce_svn": 12}, {"pce_id": b"\1\0"}],
    ids=["CPUSVN", "PCE SVN", "PCE-ID"],
)
def test_a_pck_certificate_of_another_tcb_is_refused(kind: int, changes: dict[str, Any]) -> None:
    assert refusal(without_chain(World(), kind, **changes)) is Reason.PCK_CERTIFICATE_MISMATCH


def test_a_pck_certificate_of_another_machine_is_refused() -> None:
    world = without_chain(World(), 1)
    assert world.pck.sgx is not None
    world.pck.sgx.fields[1,] = tlv(0x04, bytes(16))
    assert refusal(world) is Reason.PCK_CERTIFICATE_MISMATCH


def test_an_encrypted_ppid_is_bound_by_the_signature_of_the_qe_report() -> None:
    """Nobody but Intel can compare it; but a certificate of another machine has not signed this enclave's report."""
    world = without_chain(World(), 3)
    world.pck.key = "another machine"
    assert refusal(world) is Reason.QE_REPORT_SIGNATURE


def another_leaf(world: World) -> bytes:
    return pem(dataclasses.replace(world.pck, serial=7).der())


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        pytest.param(4, another_leaf, Reason.PCK_CERTIFICATE_MISMATCH, id="another leaf"),
        pytest.param(4, chain_of, Reason.CERTIFICATE_MALFORMED, id="a chain as a leaf"),
        pytest.param(4, lambda _: b"", Reason.CERTIFICATE_MALFORMED, id="no leaf"),
        pytest.param(1, lambda _: PPID_DATA.encode()[:-1], Reason.QUOTE_MALFORMED, id="PPID data cut off"),
        pytest.param(1, lambda _: PPID_DATA.encode() + b"\0", Reason.QUOTE_MALFORMED, id="PPID data too long"),
        pytest.param(2, lambda _: PPID_DATA.encode(), Reason.QUOTE_MALFORMED, id="a plain PPID as an encrypted one"),
        pytest.param(3, lambda _: bytes(276), Reason.QUOTE_MALFORMED, id="RSA-2048 as RSA-3072"),
    ],
)
def test_certification_data_is_what_its_type_says(kind: int, data: Callable[[World], bytes], reason: Reason) -> None:
    world = without_chain(World(), kind)
    world.certification_data = data(world)
    assert refusal(world) is reason


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
@pytest.mark.parametrize("kind", [3, 5])
def test_a_pck_chain_may_come_in_any_order(order: tuple[int, ...], kind: int) -> None:
    """Intel's verifier finds its certificates by their names, and quotes of 2020 have the root in the middle."""
    world = World() if kind == 5 else without_chain(World(), kind)
    chain = pem(*(world.quote_chain[index].der() for index in order))
    if kind == 5:
        world.certification_data = chain
    else:
        world.change_collateral = lambda c: dataclasses.replace(c, pck_certificate_chain=chain)
    facts, expected = world.verify(), World().verify()
    assert (facts.certification_path, facts.expirations) == (expected.certification_path, expected.expirations)
    assert (facts.fmspc, facts.tcb_status) == (expected.fmspc, expected.tcb_status)


@pytest.mark.parametrize("order", [(0, 2, 1), (2, 1, 0)], ids=str)
def test_the_order_of_a_chain_lets_nobody_else_in(order: tuple[int, ...]) -> None:
    for change, reason in (
        (put("pck.signed_by", "foreign"), Reason.CERTIFICATE_SIGNATURE),
        (put("pck_ca.signed_by", "foreign"), Reason.CERTIFICATE_SIGNATURE),
        (lambda w: revoke(w, "pck", "pck_crl"), Reason.CERTIFICATE_REVOKED),
        (put("pck.common_name", "Somebody"), Reason.CERTIFICATE_ROLE),
    ):
        world = World()
        change(world)
        world.quote_chain = [world.quote_chain[index] for index in order]
        assert refusal(world) is reason


FAULTS_OF_A_CHAIN_FROM_COLLATERAL = [
    pytest.param(lambda w: pem(w.pck.der(), w.pck_ca.der()), Reason.CERTIFICATE_CHAIN, id="no root"),
    pytest.param(lambda w: pem(w.pck.der()), Reason.CERTIFICATE_CHAIN, id="the leaf alone"),
    pytest.param(
        lambda w: pem(w.pck.der(), w.pck_ca.der(), other_root(w).der()), Reason.ROOT_UNTRUSTED, id="another root"
    ),
    pytest.param(
        lambda w: pem(w.pck.der(), w.tcb_signer.der(), w.root.der()), Reason.CERTIFICATE_ROLE, id="another CA"
    ),
    pytest.param(lambda w: pem(w.tcb_signer.der(), w.pck_ca.der(), w.root.der()), Reason.CERTIFICATE_ROLE, id="no PCK"),
    pytest.param(lambda _: b"", Reason.CERTIFICATE_MALFORMED, id="empty"),
    pytest.param(lambda _: b"junk", Reason.CERTIFICATE_MALFORMED, id="junk"),
]


@pytest.mark.parametrize(("chain", "reason"), FAULTS_OF_A_CHAIN_FROM_COLLATERAL)
@pytest.mark.parametrize("kind", [3, 4])
def test_a_chain_from_collateral_is_verified_as_strictly(
    kind: int, chain: Callable[[World], bytes], reason: Reason
) -> None:
    world = without_chain(World(), kind)
    world.change_collateral = lambda c: dataclasses.replace(c, pck_certificate_chain=chain(world))
    assert refusal(world) is reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda w: revoke(w, "pck", "pck_crl"), Reason.CERTIFICATE_REVOKED, id="PCK revoked"),
        pytest.param(put("pck.not_after", NOW - SECOND), Reason.CERTIFICATE_EXPIRED, id="PCK expired"),
        pytest.param(put("pck.signed_by", "foreign"), Reason.CERTIFICATE_SIGNATURE, id="PCK not signed by the CA"),
        pytest.param(crl_of_the_other_ca, Reason.CRL_ISSUER, id="PCK CRL of the other CA"),
    ],
)
def test_no_check_of_a_pck_certificate_is_left_out_for_one_from_collateral(change: Break, reason: Reason) -> None:
    world = without_chain(World(), 3)
    change(world)
    assert refusal(world) is reason


# --- TD 1.5: launched under one module, running under another


def module_at(svn: int, components: int = 5) -> bytes:
    return bytes((svn, 1, *(components,) * 14))


def with_modules(world: World, launch: bytes, current: bytes) -> World:
    assert isinstance(world.body, TDReport)
    world.body = td_report_15(world.body, tee_tcb_svn=launch, tee_tcb_svn_2=current)
    return world


def config_needed(world: World) -> None:
    world.tcb_info["tcbLevels"][0]["tcbStatus"] = "ConfigurationNeeded"


def qe_out_of_date(world: World) -> None:
    world.qe_identity["tcbLevels"][0] |= {"tcbStatus": "OutOfDate", "advisoryIDs": ["INTEL-SA-00615"]}


OLD_MODULE, NEW_MODULE = module_at(4), module_at(5)


@pytest.mark.parametrize(
    ("launch", "current", "change", "expected"),
    [
        pytest.param(NEW_MODULE, NEW_MODULE, None, "UpToDate", id="nothing changed"),
        pytest.param(OLD_MODULE, OLD_MODULE, None, "OutOfDate", id="old and still old"),
        pytest.param(OLD_MODULE, NEW_MODULE, None, "TDRelaunchAdvised", id="updated under a running domain"),
        pytest.param(
            OLD_MODULE, NEW_MODULE, config_needed, "TDRelaunchAdvisedConfigurationNeeded", id="and a configuration"
        ),
        pytest.param(OLD_MODULE, NEW_MODULE, qe_out_of_date, "OutOfDate", id="but the quoting enclave is old"),
        pytest.param(NEW_MODULE, OLD_MODULE, None, "UpToDate", id="an older one than at launch"),
        pytest.param(NEW_MODULE, bytes(16), None, "UpToDate", id="one without a version"),
        pytest.param(module_at(5, 4), NEW_MODULE, None, "TDRelaunchAdvised", id="by the platform's components"),
    ],
)
def test_a_domain_is_judged_by_its_launch_and_by_what_runs_now(
    launch: bytes, current: bytes, change: Break | None, expected: str
) -> None:
    world = with_modules(World(tee=TEEType.TDX, version=5), launch, current)
    if not current[1]:
        world.tcb_info["tcbLevels"].append(sgx_tcb_level(LEVELS[1] | {"svn": 0}, tdx=True))
    if change is not None:
        change(world)
    assert world.verify().tcb_status == expected


@pytest.mark.parametrize(
    ("current", "reason"),
    [
        pytest.param(module_at(1), Reason.TCB_NOT_SUPPORTED, id="module below all levels"),
        pytest.param(module_at(5, 1), Reason.TCB_NOT_SUPPORTED, id="components below all levels"),
        pytest.param(module_at(2), Reason.TCB_REVOKED, id="module revoked"),
        pytest.param(bytes((5, 9, *(5,) * 14)), Reason.TDX_MODULE_MISMATCH, id="unknown module"),
    ],
)
def test_a_module_that_runs_now_is_judged_however_good_the_launch_was(current: bytes, reason: Reason) -> None:
    assert refusal(with_modules(World(tee=TEEType.TDX, version=5), NEW_MODULE, current)) is reason
    assert refusal(with_modules(World(tee=TEEType.TDX, version=5), current, NEW_MODULE)) is reason


def test_both_sets_of_advisories_are_told_and_the_oldest_date() -> None:
    world = with_modules(World(tee=TEEType.TDX, version=5), OLD_MODULE, NEW_MODULE)
    facts = world.verify()
    assert (facts.advisory_ids, facts.launch_advisory_ids) == ((), ("INTEL-SA-00001",))
    assert facts.tcb_date == datetime(2024, 3, 13, tzinfo=UTC)
    assert (facts.tcb.launch.tcb_status, facts.tcb.current.tcb_status) == (TCBStatus.OUT_OF_DATE, TCBStatus.UP_TO_DATE)
    assert facts.tcb.launch.shortfalls == (Shortfall(component="TDX module", actual=4, needed=5),)
    assert facts.shortfalls == ()


# --- statuses are facts

EVERY_STATUS = [
    ("UpToDate", "UpToDate", "UpToDate"),
    ("UpToDate", "OutOfDate", "OutOfDate"),
    ("SWHardeningNeeded", "UpToDate", "SWHardeningNeeded"),
    ("SWHardeningNeeded", "OutOfDate", "OutOfDate"),
    ("ConfigurationNeeded", "UpToDate", "ConfigurationNeeded"),
    ("ConfigurationNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"),
    ("ConfigurationAndSWHardeningNeeded", "UpToDate", "ConfigurationAndSWHardeningNeeded"),
    ("ConfigurationAndSWHardeningNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"),
    ("OutOfDate", "UpToDate", "OutOfDate"),
    ("OutOfDate", "OutOfDate", "OutOfDate"),
    ("OutOfDateConfigurationNeeded", "UpToDate", "OutOfDateConfigurationNeeded"),
    ("OutOfDateConfigurationNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"),
]


@pytest.mark.parametrize(("platform_status", "qe_status", "expected"), EVERY_STATUS)
@pytest.mark.parametrize("tee", list(TEEType))
def test_every_status_is_a_fact(tee: TEEType, platform_status: str, qe_status: str, expected: str) -> None:
    world = World(tee=tee, version=4)
    world.tcb_info["tcbLevels"][0] |= {"tcbStatus": platform_status, "advisoryIDs": ["INTEL-SA-00828"]}
    world.qe_identity["tcbLevels"][0] |= {"tcbStatus": qe_status, "advisoryIDs": ["INTEL-SA-00615"]}
    facts = world.verify()
    assert facts.tcb_status == expected
    assert facts.advisory_ids == ("INTEL-SA-00615", "INTEL-SA-00828")


def test_debug_is_a_fact_and_not_an_error() -> None:
    """Whether a relying party accepts it is appraisal, which refuses it by default."""
    world = World()
    world.body = with_fields(world.body, attributes=b"\x07" + bytes(15))
    assert world.verify().body.is_debug


# --- time and grace


@pytest.mark.parametrize(
    ("change", "name", "reason"),
    [
        pytest.param(
            document("tcb_info", nextUpdate="2026-06-01T11:00:00Z"), "TCB Info", Reason.TCB_INFO_EXPIRED, id="TCB Info"
        ),
        pytest.param(
            document("qe_identity", nextUpdate="2026-06-01T11:00:00Z"),
            "QE identity",
            Reason.QE_IDENTITY_EXPIRED,
            id="QE identity",
        ),
        pytest.param(
            put("root_crl.next_update", NOW - timedelta(hours=1)), "root CRL", Reason.CRL_EXPIRED, id="root CRL"
        ),
        pytest.param(put("pck_crl.next_update", NOW - timedelta(hours=1)), "PCK CRL", Reason.CRL_EXPIRED, id="PCK CRL"),
    ],
)
def test_grace_is_explicit_and_shows(change: Break, name: str, reason: Reason) -> None:
    world = World()
    change(world)
    assert refusal(world) is reason
    assert refusal(world, grace=timedelta(minutes=59)) is reason
    facts = world.verify(grace=timedelta(hours=1))
    assert facts.collateral_expired == ((name, NOW - timedelta(hours=1)),)
    assert facts.earliest_expiration == NOW - timedelta(hours=1)


def test_grace_that_is_not_needed_does_not_show() -> None:
    assert World().verify(grace=timedelta(days=30)).collateral_expired == ()


@pytest.mark.parametrize("name", ["root", "pck_ca", "pck", "tcb_signer", "qe_signer"])
def test_no_certificate_has_grace(name: str) -> None:
    world = World()
    getattr(world, name).not_after = NOW - SECOND
    assert refusal(world, grace=timedelta(days=30)) is Reason.CERTIFICATE_EXPIRED


def test_no_document_of_tomorrow_has_grace() -> None:
    world = World()
    world.tcb_info["issueDate"] = "2026-06-01T12:00:01Z"
    assert refusal(world, grace=timedelta(days=30)) is Reason.TCB_INFO_NOT_YET_VALID


def test_a_time_without_a_zone_is_misuse() -> None:
    world = World(now=datetime(2026, 6, 1, 12))  # noqa: DTZ001 - that is the point
    assert refusal(world) is Reason.USAGE


def test_a_negative_grace_is_misuse() -> None:
    assert refusal(World(), grace=-SECOND) is Reason.USAGE


# --- records made by hand, mixed roots, stages


def test_a_record_that_contradicts_its_signed_bytes_is_refused() -> None:
    """The signature is over bytes, the facts are read from fields: nobody may bring them apart."""
    world = World()
    quote = world.quote()
    forged = dataclasses.replace(quote, body=dataclasses.replace(quote.body, report_data=bytes(64)))
    with pytest.raises(MalformedInput) as caught:
        verify_quote(forged, world.collateral(), trust_anchors=world.trust_anchors, now=world.now)
    assert caught.value.reason is Reason.QUOTE_MALFORMED


def mixed_worlds() -> tuple[World, World, TrustAnchors]:
    one, other = World(), World()
    other.root.key = "other_root"
    return one, other, TrustAnchors(one.trust_anchors.fingerprints | other.trust_anchors.fingerprints)


def test_two_trusted_roots_do_not_vouch_for_each_other() -> None:
    """With a simulator's root trusted beside the vendor's, its collateral must not judge real hardware."""
    one, other, both = mixed_worlds()
    for world in (one, other):
        verify_quote(world.quote(), world.collateral(), trust_anchors=both, now=NOW)
    with pytest.raises(VerificationError) as caught:
        verify_quote(one.quote(), other.collateral(), trust_anchors=both, now=NOW)
    assert caught.value.reason is Reason.ROOT_UNTRUSTED


@pytest.mark.parametrize(
    "fields",
    [
        ("tcb_info", "tcb_info_signature", "tcb_info_issuer_chain"),
        ("qe_identity", "qe_identity_signature", "qe_identity_issuer_chain"),
        ("pck_crl", "pck_crl_issuer_chain"),
        ("root_ca_crl",),
    ],
    ids=["TCB Info", "QE identity", "PCK CRL", "root CRL"],
)
def test_no_part_of_a_collateral_is_of_another_trusted_root(fields: tuple[str, ...]) -> None:
    one, other, both = mixed_worlds()
    foreign = other.collateral()
    mixed = dataclasses.replace(one.collateral(), **{name: getattr(foreign, name) for name in fields})
    with pytest.raises(VerificationError) as caught:
        verify_quote(one.quote(), mixed, trust_anchors=both, now=NOW)
    assert caught.value.reason in (Reason.ROOT_UNTRUSTED, Reason.CRL_ISSUER)


def test_intels_root_is_the_only_one_unless_an_operator_says_otherwise() -> None:
    world = World()
    with pytest.raises(VerificationError) as caught:
        verify_quote(world.quote(), world.collateral(), trust_anchors=INTEL, now=NOW)
    assert caught.value.reason is Reason.ROOT_UNTRUSTED


def test_a_collateral_is_verified_alone() -> None:
    world = World()
    verified = verify_collateral(world.collateral(), trust_anchors=world.trust_anchors, now=NOW)
    assert verified.tcb_info.fmspc == FMSPC
    assert verified.qe_identity.id == "QE"
    assert min(moment for _, moment in verified.expirations) == datetime(2026, 6, 19, tzinfo=UTC)
    assert hashlib.sha256(verified.lists.root.der).digest() in world.trust_anchors.fingerprints


@pytest.mark.parametrize(
    ("change", "reason"), [*FAULTS_OF_TCB_INFO[:12], *FAULTS_OF_QE_IDENTITY[:12], *FAULTS_OF_THE_CRLS[4:16]]
)
def test_a_collateral_alone_is_verified_as_strictly(change: Break, reason: Reason) -> None:
    world = World()
    change(world)
    with pytest.raises(EAAError) as caught:
        verify_collateral(world.collateral(), trust_anchors=world.trust_anchors, now=NOW)
    assert caught.value.reason is reason


def test_a_collateral_alone_has_a_pinned_root_and_a_time() -> None:
    collateral = World().collateral()
    with pytest.raises(VerificationError) as caught:
        verify_collateral(collateral, trust_anchors=INTEL, now=NOW)
    assert caught.value.reason is Reason.ROOT_UNTRUSTED
    with pytest.raises(Misuse):
        verify_collateral(collateral, trust_anchors=INTEL, now=NOW, grace=-SECOND)


def test_stages_hold_for_other_quotes_of_one_platform() -> None:
    """What a cache will keep: chain and documents once, quotes many times."""
    world = World()
    chain = parse_pck_chain(world.quote())
    lists = verify_revocation_lists(world.collateral(), root=chain.root)
    pck = verify_pck_chain(chain, lists)
    collateral = verify_collateral(world.collateral(), trust_anchors=world.trust_anchors, now=NOW)
    for report_data in (bytes(64), b"\1" * 64):
        world.body = dataclasses.replace(world.body, report_data=report_data)
        result = verify_evidence(world.quote(), pck.document, collateral.tcb_info, collateral.qe_identity)
        assert result.tcb_status is TCBStatus.UP_TO_DATE


def test_a_pck_chain_of_another_root_does_not_fit_the_lists() -> None:
    one, other, _ = mixed_worlds()
    lists = verify_revocation_lists(one.collateral(), root=parse_pck_chain(one.quote()).root)
    with pytest.raises(VerificationError) as caught:
        verify_pck_chain(parse_pck_chain(other.quote()), lists)
    assert caught.value.reason is Reason.ROOT_UNTRUSTED
    with pytest.raises(VerificationError) as caught:
        verify_tcb_info(other.collateral(), lists)
    assert caught.value.reason is Reason.ROOT_UNTRUSTED


def test_there_is_no_option_that_skips_a_step() -> None:
    parameters = inspect.signature(verify_quote).parameters
    assert set(parameters) == {"quote", "collateral", "trust_anchors", "now", "grace"}
    assert parameters["grace"].default == timedelta(0)


def test_padding_is_a_fact() -> None:
    world = World()
    quote = Quote.parse(world.quote().encode() + bytes(70))
    facts = verify_quote(quote, world.collateral(), trust_anchors=world.trust_anchors, now=NOW)
    assert facts.padding == 70


def test_a_malleable_signature_is_still_one_quote() -> None:
    """Both spellings of s verify, so the bytes of a quote are never the name of a session."""
    world = World()
    quote = world.quote()
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    s = order - int.from_bytes(quote.signature[32:], "big")
    world.change_quote = lambda _: dataclasses.replace(quote, signature=quote.signature[:32] + s.to_bytes(32, "big"))
    assert world.verify().body == quote.body
