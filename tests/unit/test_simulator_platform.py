"""A simulated machine: its dates, its files, its quotes, and what a PCCS is given of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import unquote

import jsonschema
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from eaa.collateral.intel import PCKCertificate, QEIdentity, TCBInfo, split_signed_document
from eaa.errors import MalformedInput, Misuse, Reason, VerificationError
from eaa.evidence.quote import BodyType, CertificationDataType, Quote, TEEType
from eaa.evidence.tdx import TDReport15Extended
from eaa.simulator.certificates import ROOT_CRL_URL, to_der, years_after
from eaa.simulator.cpu import TargetInfo
from eaa.simulator.entropy import Entropy
from eaa.simulator.faults import Fault, Stage
from eaa.simulator.pki import CA_TYPES, CAType, SimulatedPKI
from eaa.simulator.platform import MAX_FILE, ROOT_FILE, SECRETS_FILE, Enclave, Platform
from eaa.simulator.quoting import QuoteLayout
from eaa.simulator.tdx import TrustDomain
from eaa.simulator.world import World
from support.simulated import NOW, REPORT_DATA, SEED, sample_enclave


@pytest.fixture(scope="module")
def machine() -> Platform:
    return Platform.create(now=NOW, seed=SEED)


@pytest.fixture(scope="module")
def enclave(machine: Platform) -> Enclave:
    return machine.launch(*sample_enclave())


def refusal(act: Callable[[], object]) -> Reason:
    with pytest.raises(Misuse) as caught:
        act()
    return caught.value.reason


# --- creation


def test_the_same_seed_makes_the_same_world_byte_for_byte() -> None:
    one, other = (World.create(now=NOW, enclave=sample_enclave(), seed=SEED) for _ in range(2))
    assert one.quote == other.quote
    assert one.collateral == other.collateral
    assert one.trust_anchor == other.trust_anchor
    assert one.platform.to_files() == other.platform.to_files()


def test_without_a_seed_every_world_is_new() -> None:
    one, other = (Platform.create(now=NOW) for _ in range(2))
    assert one.root_pem != other.root_pem
    assert one.ppid != other.ppid
    assert one.quoting_enclave.qe_id != other.quoting_enclave.qe_id


def test_machines_of_one_vendor_share_its_root_and_nothing_else() -> None:
    pki = SimulatedPKI.create(now=NOW)
    one, other = (Platform.create(now=NOW, pki=pki) for _ in range(2))
    assert one.root_pem == other.root_pem
    assert one.pck_certificate.serial_number != other.pck_certificate.serial_number
    assert one.ppid != other.ppid


@pytest.mark.parametrize("ca", CA_TYPES)
def test_the_pck_certificate_says_what_was_asked_for(ca: CAType) -> None:
    options: dict[str, Any] = {
        "fmspc": b"FMSPC!",
        "cpu_svn": bytes(range(16)),
        "pce_svn": 300,
        "pce_id": b"\x01\x02",
        "sgx_type": 2,
        "dynamic_platform": True,
        "cached_keys": False,
        "smt_enabled": True,
    }
    made = Platform.create(now=NOW, ca=ca, **options)
    pck = PCKCertificate.parse(to_der(made.pck_certificate))
    assert (pck.ca, pck.fmspc, pck.cpu_svn, pck.tcb_components) == (ca, b"FMSPC!", bytes(range(16)), tuple(range(16)))
    assert (pck.pce_svn, pck.pce_id, pck.sgx_type, pck.ppid) == (300, b"\x01\x02", 2, made.ppid)
    if ca == "platform":
        assert (pck.dynamic_platform, pck.cached_keys, pck.smt_enabled) == (True, False, True)
        assert pck.platform_instance_id == made.entropy.take(16, "platform instance id")
    else:
        assert pck.platform_instance_id is None


@pytest.mark.parametrize(
    "options",
    [
        {"fmspc": b"12345"},
        {"cpu_svn": bytes(15)},
        {"pce_id": bytes(3)},
        {"ca": "intermediate"},
        {"tcb_status": "Splendid"},
        {"tcb_status": "uptodate"},
        {"qe_status": "SWHardeningNeeded"},
        {"tdx_module_status": "SWHardeningNeeded"},
        {"tee_tcb_svn": bytes(15)},
        {"tee_tcb_svn": bytes(16)},
        {"tee_tcb_svn": b"\xff" * 16},
        {"pce_svn": 0xFFFF},
        {"pce_svn": -1},
        {"qe_svn": 1},
        {"seed": b"short"},
        {"faults": frozenset({Fault.FLIP_QUOTE_SIGNATURE})},
    ],
)
def test_a_machine_that_cannot_be_is_not_made(options: dict[str, Any]) -> None:
    assert refusal(lambda: Platform.create(now=NOW, **options)) is Reason.SIMULATOR_INVALID


def test_a_time_without_a_zone_is_the_callers_fault() -> None:
    assert refusal(lambda: Platform.create(now=datetime(2026, 1, 1))) is Reason.USAGE  # noqa: DTZ001


def test_another_zone_is_the_same_time() -> None:
    east = timezone(timedelta(hours=8))
    moved = Platform.create(now=NOW.astimezone(east), seed=SEED)
    assert moved.to_files() == Platform.create(now=NOW, seed=SEED).to_files()


# --- dates


def test_certificates_live_as_long_as_intels(machine: Platform) -> None:
    begin = NOW - timedelta(days=1)
    pck, pck_ca, root = machine.pck_chain
    signer = machine.pki.tcb_signer.certificate
    assert {certificate.not_valid_before_utc for certificate in (pck, pck_ca, root, signer)} == {begin}
    assert root.not_valid_after_utc == datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert pck_ca.not_valid_after_utc == begin.replace(year=begin.year + 15)
    assert pck.not_valid_after_utc == signer.not_valid_after_utc == begin.replace(year=begin.year + 7)


def test_a_machine_of_the_far_future_outlives_intels_root() -> None:
    later = datetime(2048, 3, 1, tzinfo=UTC)
    root = Platform.create(now=later).pck_chain[2]
    assert root.not_valid_after_utc == datetime(2063, 2, 28, tzinfo=UTC)


@pytest.mark.parametrize(
    ("start", "years", "expected"), [("2024-02-29", 7, "2031-02-28"), ("2024-02-28", 4, "2028-02-28")]
)
def test_a_leap_day_has_an_anniversary(start: str, years: int, expected: str) -> None:
    assert years_after(datetime.fromisoformat(start), years) == datetime.fromisoformat(expected)


def test_documents_are_an_hour_old_and_live_as_long_as_intels(machine: Platform) -> None:
    collateral = machine.collateral(now=NOW)
    issued = NOW - timedelta(hours=1)
    info, identity = TCBInfo.parse(collateral.tcb_info), QEIdentity.parse(collateral.qe_identity)
    pck_crl, root_crl = (x509.load_der_x509_crl(raw) for raw in (collateral.pck_crl, collateral.root_ca_crl))
    assert info.issue_date == identity.issue_date == pck_crl.last_update_utc == root_crl.last_update_utc == issued
    assert info.next_update == identity.next_update == pck_crl.next_update_utc == issued + timedelta(days=30)
    assert root_crl.next_update_utc == issued + timedelta(days=379)


def test_collateral_follows_the_time_it_is_asked_for(machine: Platform) -> None:
    later = NOW + timedelta(days=100)
    assert TCBInfo.parse(machine.collateral(now=later).tcb_info).issue_date == later - timedelta(hours=1)


# --- identifiers


def test_authorities_are_numbered_by_their_key_and_pck_certificates_are_not(machine: Platform) -> None:
    pki = machine.pki
    for certificate in (pki.root.certificate, pki.tcb_signer.certificate, pki.cas["platform"].certificate):
        named = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        assert certificate.serial_number == int.from_bytes(named, "big")
    named = machine.pck_certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert machine.pck_certificate.serial_number != int.from_bytes(named, "big")


def test_each_certificate_names_the_key_that_signed_it(machine: Platform) -> None:
    pck, pck_ca, root = machine.pck_chain
    for certificate, issuer in (
        (pck, pck_ca),
        (pck_ca, root),
        (root, root),
        (machine.pki.tcb_signer.certificate, root),
    ):
        authority = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        subject = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        assert authority.key_identifier == subject.digest
        certificate.verify_directly_issued_by(issuer)


# --- opinion


def test_a_vendor_may_change_its_mind_about_the_same_machine(machine: Platform) -> None:
    revised = machine.revised(tcb_status="OutOfDate", advisory_ids=("INTEL-SA-00615",), tcb_evaluation_data_number=22)
    assert revised.pck_certificate == machine.pck_certificate
    info = TCBInfo.parse(revised.collateral(now=NOW).tcb_info)
    own = next(level for level in info.tcb_levels if level.advisory_ids == ("INTEL-SA-00615",))
    assert (own.tcb_status, info.tcb_evaluation_data_number) == ("OutOfDate", 22)
    assert Platform.from_files(revised.to_files()).model == revised.model


def test_a_machine_does_not_change_by_opinion(machine: Platform) -> None:
    assert refusal(lambda: machine.revised(fmspc=bytes(6))) is Reason.SIMULATOR_INVALID


# --- files


def test_a_machine_is_stored_and_loaded(machine: Platform) -> None:
    files = machine.to_files()
    assert set(files) == {ROOT_FILE, SECRETS_FILE}
    loaded = Platform.from_files({**files, "README": b"left alone"})
    assert loaded.to_files() == files
    assert loaded.pck_chain == machine.pck_chain
    assert loaded.collateral(now=NOW) == machine.collateral(now=NOW)
    assert loaded.launch(*sample_enclave()).quote(REPORT_DATA) == machine.launch(*sample_enclave()).quote(REPORT_DATA)


def test_only_the_certificate_of_the_root_is_public(machine: Platform) -> None:
    root = x509.load_pem_x509_certificate(machine.to_files()[ROOT_FILE])
    assert to_der(root) == machine.root_der
    assert b"PRIVATE" not in machine.to_files()[ROOT_FILE]


def test_a_broken_machine_is_stored_broken() -> None:
    broken = Platform.create(now=NOW, faults=frozenset({Fault.CA_EXPIRED, Fault.LEAF_COMMON_NAME}))
    loaded = Platform.from_files(broken.to_files())
    assert loaded.pck_chain == broken.pck_chain
    assert loaded.faults == {Fault.LEAF_COMMON_NAME}
    assert loaded.pki.faults == {Fault.CA_EXPIRED}


def with_document(machine: Platform, **changes: Any) -> dict[str, bytes]:
    files = machine.to_files()
    document = {**json.loads(files[SECRETS_FILE]), **changes}
    return {**files, SECRETS_FILE: json.dumps(document).encode()}


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(lambda _: {}, id="nothing"),
        pytest.param(lambda m: {SECRETS_FILE: m.to_files()[SECRETS_FILE]}, id="no root"),
        pytest.param(lambda m: {ROOT_FILE: m.root_pem}, id="no secrets"),
        pytest.param(lambda m: {**m.to_files(), ROOT_FILE: Platform.create(now=NOW).root_pem}, id="another root"),
        pytest.param(lambda m: {**m.to_files(), SECRETS_FILE: b"{"}, id="no JSON"),
        pytest.param(lambda m: {**m.to_files(), SECRETS_FILE: b"[]"}, id="no object"),
        pytest.param(lambda m: {**m.to_files(), SECRETS_FILE: b"[" * 60000}, id="deep"),
        pytest.param(lambda m: {**m.to_files(), SECRETS_FILE: b" " * (MAX_FILE + 1)}, id="too large"),
        pytest.param(lambda m: with_document(m, version=2), id="another version"),
        pytest.param(lambda m: with_document(m, format="x"), id="another format"),
        pytest.param(lambda m: with_document(m, seed="00"), id="a short seed"),
        pytest.param(lambda m: with_document(m, seed="xx"), id="a seed that is no hex"),
        pytest.param(lambda m: with_document(m, seed=7), id="a seed that is a number"),
        pytest.param(lambda m: with_document(m, created="now"), id="no date"),
        pytest.param(lambda m: with_document(m, created="2026-01-01T00:00:00"), id="a date without a zone"),
        pytest.param(lambda m: with_document(m, created="0001-01-01T00:00:00+00:00"), id="a date before dates"),
        pytest.param(lambda m: with_document(m, faults=["NONE"]), id="an unknown fault"),
        pytest.param(lambda m: with_document(m, model={}), id="no model"),
        pytest.param(lambda m: with_document(m, model=7), id="a model that is a number"),
        pytest.param(lambda m: with_document(m, pki=None), id="no vendor"),
    ],
)
def test_files_of_no_machine_are_refused(machine: Platform, files: Callable[[Platform], dict[str, bytes]]) -> None:
    assert refusal(lambda: Platform.from_files(files(machine))) is Reason.SIMULATOR_INVALID


def test_secrets_do_not_show(machine: Platform) -> None:
    shown = repr(machine) + repr(machine.processor) + repr(machine.quoting_enclave)
    for secret in (SEED, machine.pki.entropy.seed, machine.processor.secret):
        assert secret.hex() not in shown
        assert repr(secret) not in shown


# --- quotes


def test_a_quote_has_the_layout_of_intels_quoting_enclave(machine: Platform, enclave: Enclave) -> None:
    raw = enclave.quote(REPORT_DATA)
    quote = Quote.parse(raw)
    assert quote.encode() == raw
    assert raw[8:12] == b"\x08\x00\x0d\x00", "QE SVN, then PCE SVN"
    assert quote.header.user_data == machine.quoting_enclave.qe_id + bytes(4)
    assert quote.qe_auth_data == bytes(range(32))
    assert quote.certification_data_type == CertificationDataType.PCK_CHAIN
    assert quote.certification_data.count(b"BEGIN CERTIFICATE") == 3
    assert quote.certification_data.endswith(b"-----END CERTIFICATE-----\n\0")
    assert quote.body.report_data == REPORT_DATA
    assert (quote.padding, quote.signed_bytes) == (0, raw[:432])


@pytest.mark.parametrize(
    "layout",
    [
        QuoteLayout(),
        QuoteLayout(version=4),
        QuoteLayout(version=5),
        QuoteLayout(chain_terminator=False),
        QuoteLayout(qe_auth_data=b""),
        QuoteLayout(padding=4000),
    ],
)
def test_other_layouts_are_offered(enclave: Enclave, layout: QuoteLayout) -> None:
    raw = enclave.quote(REPORT_DATA, layout=layout)
    quote = Quote.parse(raw)
    assert (quote.header.version, quote.qe_auth_data, quote.padding) == (
        layout.version,
        layout.qe_auth_data,
        layout.padding,
    )
    assert quote.certification_data.endswith(b"\0") is layout.chain_terminator
    assert quote.encode() + bytes(layout.padding) == raw


@pytest.mark.parametrize("layout", [{"version": 2}, {"version": 6}, {"qe_auth_data": bytes(65536)}, {"padding": -1}])
def test_a_layout_that_no_quote_has_is_refused(layout: dict[str, Any]) -> None:
    assert refusal(lambda: QuoteLayout(**layout)) is Reason.USAGE


def test_a_trust_domain_reports_what_it_was_launched_with(machine: Platform) -> None:
    domain = TrustDomain(platform=machine, name="d", attributes=5, rtmrs=(b"\1" * 48,) * 4, mr_service_td=b"\2" * 48)
    report = domain.report(REPORT_DATA, kind=BodyType.TD_REPORT_15_EXTENDED)
    assert isinstance(report, TDReport15Extended)
    assert (report.mr_td, report.td_attributes, report.rtmr3) == (domain.mr_td, b"\5" + bytes(7), b"\1" * 48)
    assert report.tee_tcb_svn == report.tee_tcb_svn_2 == report.init_tee_tcb_svn == machine.model.tee_tcb_svn
    assert (report.mr_service_td, report.init_cpu_svn) == (b"\2" * 48, machine.model.cpu_svn)
    assert domain.mr_td != TrustDomain(platform=machine, name="another").mr_td


def test_a_trust_domains_quote_is_of_the_first_version_that_holds_its_report(machine: Platform) -> None:
    domain = TrustDomain(platform=machine)
    versions = {kind: Quote.parse(domain.quote(REPORT_DATA, kind=kind)).header.version for kind in TD_REPORTS}
    assert list(versions.values()) == [4, 5, 5]
    quote = Quote.parse(domain.quote(REPORT_DATA))
    enclave = machine.td_quoting_enclave
    assert quote.qe_report.mr_signer == enclave.identity.mr_signer != machine.quoting_enclave.identity.mr_signer
    assert (quote.qe_report.isv_prod_id, quote.header.user_data[:16]) == (2, enclave.qe_id)


TD_REPORTS = [kind for kind in BodyType if kind is not BodyType.SGX_REPORT]


@pytest.mark.parametrize(
    "attempt",
    [
        pytest.param(lambda d: d.quote(bytes(63)), id="too little report data"),
        pytest.param(lambda d: d.quote(REPORT_DATA, kind=BodyType.SGX_REPORT), id="an enclave's report"),
        pytest.param(lambda d: d.quote(REPORT_DATA, layout=QuoteLayout(version=3)), id="version 3"),
        pytest.param(
            lambda d: d.quote(REPORT_DATA, kind=BodyType.TD_REPORT_15, layout=QuoteLayout(version=4)),
            id="TD report 1.5 in version 4",
        ),
        pytest.param(
            lambda d: d.platform.quoting_enclave.quote_body(d.report(REPORT_DATA), layout=QuoteLayout(version=4)),
            id="by the other quoting enclave",
        ),
    ],
)
def test_a_quote_that_no_trust_domain_has_is_refused(
    machine: Platform, attempt: Callable[[TrustDomain], object]
) -> None:
    assert refusal(lambda: attempt(TrustDomain(platform=machine))) is Reason.USAGE


def test_faults_of_trust_domains_are_refused_with_enclaves(machine: Platform, enclave: Enclave) -> None:
    quote_fault, document_fault = frozenset({Fault.TD_SEAM_SIGNER}), frozenset({Fault.TD_TCB_INFO_ID_SGX})
    assert refusal(lambda: enclave.quote(REPORT_DATA, faults=quote_fault)) is Reason.SIMULATOR_INVALID
    assert refusal(lambda: machine.collateral(now=NOW, faults=document_fault)) is Reason.SIMULATOR_INVALID
    assert machine.collateral(now=NOW, faults=document_fault, tee=TEEType.TDX)


def test_a_platform_from_before_there_was_tdx_is_loaded(machine: Platform) -> None:
    files = machine.to_files()
    document = json.loads(files[SECRETS_FILE])
    for name in ("tee_tcb_svn", "tdx_module_status", "tdx_module_advisory_ids"):
        del document["model"][name]
    assert Platform.from_files({**files, SECRETS_FILE: json.dumps(document).encode()}).model == machine.model


def test_only_reports_made_for_the_quoting_enclave_are_quoted(machine: Platform, enclave: Enclave) -> None:
    target = machine.quoting_enclave.target_info.encode()
    assert (
        Quote.parse(machine.quoting_enclave.quote(enclave.report(target, REPORT_DATA))).body.report_data == REPORT_DATA
    )
    for report in (enclave.report(enclave.target_info, REPORT_DATA), bytes(432)):
        with pytest.raises(VerificationError) as caught:
            machine.quoting_enclave.quote(report)
        assert caught.value.reason is Reason.REPORT_MAC


def test_only_reports_of_this_machine_are_quoted(machine: Platform) -> None:
    stranger = Platform.create(now=NOW).launch(*sample_enclave())
    report = stranger.report(machine.quoting_enclave.target_info.encode(), REPORT_DATA)
    with pytest.raises(VerificationError) as caught:
        machine.quoting_enclave.quote(report)
    assert caught.value.reason is Reason.REPORT_MAC


def test_enclaves_of_one_machine_attest_to_each_other_locally(machine: Platform, enclave: Enclave) -> None:
    other = machine.launch(*sample_enclave("other"))
    assert TargetInfo.parse(other.target_info).mr_enclave == other.identity.mr_enclave
    report = enclave.report(other.target_info, REPORT_DATA)
    assert report[64:96] == enclave.identity.mr_enclave


def test_a_report_for_junk_is_refused(enclave: Enclave) -> None:
    with pytest.raises(MalformedInput) as caught:
        enclave.report(b"junk", REPORT_DATA)
    assert caught.value.reason is Reason.EVIDENCE_MALFORMED


@pytest.mark.parametrize("length", [0, 32, 65])
def test_a_quote_is_over_64_bytes(enclave: Enclave, length: int) -> None:
    assert refusal(lambda: enclave.quote(bytes(length))) is Reason.USAGE


# --- faults


def test_a_fault_is_refused_where_it_could_have_no_effect(machine: Platform, enclave: Enclave) -> None:
    late, early = frozenset({Fault.LEAF_EXPIRED}), frozenset({Fault.FLIP_QUOTE_SIGNATURE})
    assert refusal(lambda: enclave.quote(REPORT_DATA, faults=late)) is Reason.SIMULATOR_INVALID
    assert refusal(lambda: machine.collateral(now=NOW, faults=early)) is Reason.SIMULATOR_INVALID
    assert refusal(lambda: SimulatedPKI.create(now=NOW, faults=late)) is Reason.SIMULATOR_INVALID
    pki_fault = frozenset({Fault.CA_EXPIRED})
    assert refusal(lambda: Platform.create(now=NOW, pki=machine.pki, faults=pki_fault)) is Reason.SIMULATOR_INVALID


def test_every_stage_has_faults_and_every_fault_an_explanation() -> None:
    assert {fault.stage for fault in Fault} == set(Stage)
    assert all((fault.what and fault.what[0] != fault.what[0].upper()) or fault.what[0] in "TC" for fault in Fault)


def test_faults_can_be_combined() -> None:
    world = World.create(
        now=NOW, enclave=sample_enclave(), faults=[Fault.TRAILING_BYTES, Fault.LEAF_REVOKED, Fault.CA_EXPIRED]
    )
    assert world.quote.endswith(b"\x01" * 16)
    revoked = x509.load_der_x509_crl(world.collateral.pck_crl)
    assert revoked.get_revoked_certificate_by_serial_number(world.platform.pck_certificate.serial_number)
    assert world.platform.pck_chain[1].not_valid_after_utc < NOW


# --- for a PCCS

HEX = {"type": "string", "pattern": "^[0-9a-fA-F]+$"}


def hex_of(length: int) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^[0-9a-fA-F]{{{length}}}$"}


def exactly(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def listed(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


PEM_IN_HEADER = {"type": "string", "pattern": "^-----BEGIN%20CERTIFICATE-----%0A[A-Za-z0-9%-]+-----%0A$"}
SVNS = {f"sgxtcbcomp{i:02}svn": {"type": "integer", "minimum": 0, "maximum": 255} for i in range(1, 17)}
PCE_SVN = {"type": "integer", "minimum": 0, "maximum": 65535}
KEY = {"qe_id": hex_of(32), "pce_id": hex_of(4)}
PPID = {"enc_ppid": hex_of(768), "platform_manifest": {"const": ""}}
UPLOAD = exactly(
    platforms=listed(exactly(**KEY, cpu_svn=hex_of(32), pce_svn=hex_of(4), **PPID)),
    collaterals=exactly(
        version={"const": 4},
        pck_certs=listed(
            exactly(
                **KEY,
                **PPID,
                certs=listed(exactly(tcb=exactly(**SVNS, pcesvn=PCE_SVN), tcbm=hex_of(36), cert=PEM_IN_HEADER)),
            )
        ),
        tcbinfos=listed(
            exactly(fmspc=hex_of(12), sgx_tcbinfo=exactly(tcbInfo={"type": "object"}, signature=hex_of(128)))
        ),
        pckcacrl=exactly(processorCrl=HEX, platformCrl=HEX),
        qeidentity={"type": "string"},
        tdqeidentity={"type": "string"},
        qveidentity={"type": "string"},
        certificates=exactly(
            **{
                "SGX-PCK-Certificate-Issuer-Chain": exactly(PROCESSOR=PEM_IN_HEADER, PLATFORM=PEM_IN_HEADER),
                "TCB-Info-Issuer-Chain": PEM_IN_HEADER,
                "SGX-Enclave-Identity-Issuer-Chain": PEM_IN_HEADER,
            }
        ),
        rootcacrl=HEX,
        rootcacrl_cdp={"const": ROOT_CRL_URL},
    ),
)


@pytest.fixture(scope="module", params=CA_TYPES)
def uploaded(request: pytest.FixtureRequest) -> tuple[Platform, dict[str, Any]]:
    made = Platform.create(now=NOW, ca=request.param, tcb_status="SWHardeningNeeded", advisory_ids=("INTEL-SA-00615",))
    document: dict[str, Any] = json.loads(made.platform_collaterals(now=NOW))
    return made, document


Uploaded = tuple[Platform, dict[str, Any]]


def test_an_upload_has_the_schema_of_intels_pccs(uploaded: Uploaded) -> None:
    jsonschema.validate(uploaded[1], UPLOAD)


def signer_verifies(platform: Platform, body: bytes, signature: bytes) -> None:
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    key = platform.pki.tcb_signer.certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(encode_dss_signature(r, s), body, ec.ECDSA(SHA256()))


def test_tcb_info_survives_being_parsed_and_written_again(uploaded: Uploaded) -> None:
    """Intel's PCCS stores what JSON.stringify makes of the parsed document, and serves that under the old signature."""
    platform, document = uploaded
    stored = document["collaterals"]["tcbinfos"][0]["sgx_tcbinfo"]
    body = json.dumps(stored["tcbInfo"], separators=(",", ":"), ensure_ascii=False).encode()
    assert body == platform.collateral(now=NOW).tcb_info
    signer_verifies(platform, body, bytes.fromhex(stored["signature"]))


@pytest.mark.parametrize(("member", "id_"), [("qeidentity", "QE"), ("tdqeidentity", "TD_QE"), ("qveidentity", "QVE")])
def test_identities_are_the_signed_text(uploaded: Uploaded, member: str, id_: str) -> None:
    platform, document = uploaded
    body, signature = split_signed_document(document["collaterals"][member].encode(), "enclaveIdentity")
    assert QEIdentity.parse(body).id == id_
    signer_verifies(platform, body, signature)


def test_the_platform_is_found_by_what_its_quotes_say(uploaded: Uploaded) -> None:
    platform, document = uploaded
    quote = Quote.parse(platform.launch(*sample_enclave()).quote(REPORT_DATA))
    row = document["platforms"][0]
    assert bytes.fromhex(row["qe_id"]) == quote.header.user_data[:16]
    certificate = document["collaterals"]["pck_certs"][0]["certs"][0]
    assert certificate["tcbm"] == (platform.model.cpu_svn + b"\x0d\x00").hex().upper()
    assert row["cpu_svn"] + row["pce_svn"] == certificate["tcbm"].lower()
    assert x509.load_pem_x509_certificate(unquote(certificate["cert"]).encode()) == platform.pck_certificate


def test_chains_end_in_one_root_and_crls_are_signed_by_them(uploaded: Uploaded) -> None:
    platform, document = uploaded
    collaterals = document["collaterals"]
    certificates = collaterals["certificates"]
    by_ca = certificates["SGX-PCK-Certificate-Issuer-Chain"]
    chains = [
        *by_ca.values(),
        certificates["TCB-Info-Issuer-Chain"],
        certificates["SGX-Enclave-Identity-Issuer-Chain"],
    ]
    for text in chains:
        issuer, root = x509.load_pem_x509_certificates(unquote(text).encode())
        assert to_der(root) == platform.root_der
        issuer.verify_directly_issued_by(root)
    for ca, member in (("PROCESSOR", "processorCrl"), ("PLATFORM", "platformCrl")):
        issuer, _ = x509.load_pem_x509_certificates(unquote(by_ca[ca]).encode())
        crl = x509.load_der_x509_crl(bytes.fromhex(collaterals["pckcacrl"][member]))
        assert crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    root_crl = x509.load_der_x509_crl(bytes.fromhex(collaterals["rootcacrl"]))
    assert root_crl.is_signature_valid(platform.pki.root.certificate.public_key())  # type: ignore[arg-type]


# --- randomness


def test_names_give_independent_values() -> None:
    entropy = Entropy.create(SEED)
    assert entropy.take(100, "a")[:32] == entropy.take(32, "a")
    assert entropy.take(32, "a") != entropy.take(32, "b")
    assert entropy.take(32, "a") != replace(entropy, seed=bytes(32)).take(32, "a")
    assert entropy.take(0, "a") == b""
