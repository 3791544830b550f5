"""Explaining files: what each says of itself, what stands in for the parts that cannot be read, and nothing judged."""

from __future__ import annotations

import base64
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from eaa.appraise.result import BindingLevel
from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import join_signed_document
from eaa.errors import MalformedInput, Misuse, Reason
from eaa.evidence.ppid import PPID_SIZES, PPIDCertification
from eaa.evidence.quote import CertificationDataType, Quote
from eaa.evidence.tagged import Endorsements, TaggedEvidence, claims_report_data, encode_claims
from eaa.evidence.tdx import TDReport
from eaa.identity import Identity
from eaa.measure.sgx import measure_sgxs
from eaa.measure.sigstruct import SIGSTRUCT
from eaa.protocol.messages import Accept, Attest, Evidence, Open, encode
from eaa.shelter.inspect.pem import quote_from_text
from eaa.shelter.inspect.result import printable
from eaa.shelter.inspection import inspect
from eaa.simulator.platform import Platform
from eaa.tls.certificate import RATLSCertificate, create_certificate
from support.ccel import BOOT, REGISTERS
from support.facts import DEBUG, enclave_report, quote_of, td_report
from support.simulated import NOW, REPORT_DATA, sample_enclave
from support.vectors import vector


@pytest.fixture(scope="module")
def platform() -> Platform:
    return Platform.create(now=NOW, ca="platform")


@pytest.fixture(scope="module")
def quote(platform: Platform) -> bytes:
    return platform.launch(*sample_enclave()).quote(REPORT_DATA)


@pytest.fixture(scope="module")
def collateral(platform: Platform) -> Collateral:
    return platform.collateral(now=NOW)


# --- quotes


def test_a_quote_is_told_field_by_field(quote: bytes) -> None:
    found = inspect(quote)
    assert (found.format, found.problem) == ("quote", None)
    assert (found.facts["version"], found.facts["tee"], found.facts["padding"]) == (3, "sgx", 0)
    assert found.facts["report"]["mr_enclave"] == measure_sgxs(sample_enclave()[0]).mr_enclave.hex()
    assert found.facts["report"]["report_data"] == REPORT_DATA.hex()
    assert found.facts["report"]["debug"] is False
    names = [certificate["subject"] for certificate in found.facts["certification_data"]["certificates"]]
    assert [name.rpartition("CN=")[2] for name in names] == [
        "Intel SGX PCK Certificate",
        "Intel SGX PCK Platform CA",
        "Intel SGX Root CA",
    ]


def test_what_singles_out_one_machine_is_not_shown(platform: Platform, quote: bytes) -> None:
    parsed = Quote.parse(quote)
    told = json.dumps(inspect(quote).facts)
    instance = platform.entropy.take(16, "platform instance id")
    for secret in (platform.ppid, instance, parsed.header.user_data[:16]):
        assert any(secret)
        assert secret.hex() not in told


@pytest.mark.parametrize(
    ("behind", "padding", "trailing"), [(b"", 0, 0), (bytes(70), 70, 0), (b"junk", 0, 4), (b"\0\0\1", 0, 3)]
)
def test_what_follows_a_quote_is_counted(quote: bytes, behind: bytes, padding: int, trailing: int) -> None:
    facts = inspect(quote + behind).facts
    assert (facts["padding"], facts["trailing_bytes"]) == (padding, trailing)


def test_a_trust_domain_is_told_by_its_registers() -> None:
    found = inspect(quote_of(td_report(rtmr2=b"\x07" * 48)).encode())
    assert (found.facts["version"], found.facts["tee"]) == (4, "tdx")
    assert found.facts["report"]["rtmr2"] == "07" * 48
    assert found.facts["report"]["mr_td"] == td_report().mr_td.hex()


def test_debug_and_unusual_fields_are_named() -> None:
    report = enclave_report(attributes=(0x87 | 1 << 40).to_bytes(8, "little") + bytes(8), config_svn=5)
    facts = inspect(quote_of(report).encode()).facts["report"]
    assert facts["attributes"] == ["INIT", "DEBUG", "MODE64BIT", "KSS", "bit 40"]
    assert (facts["debug"], facts["config_svn"]) == (True, 5)
    assert "isv_family_id" not in facts
    assert inspect(quote_of(enclave_report(attributes=DEBUG)).encode()).facts["report"]["debug"] is True


def test_a_chain_that_cannot_be_read_does_not_hide_the_rest() -> None:
    facts = inspect(quote_of(enclave_report()).encode()).facts
    assert facts["certification_data"]["type"] == 5
    assert "unreadable" in facts["certification_data"]
    assert facts["report"]["isv_prod_id"] == 7


@pytest.mark.parametrize(("kind", "content"), [(3, "encrypted"), (4, "PCK certificate"), (99, "unknown")])
def test_other_certification_data_is_named(quote: bytes, kind: int, content: str) -> None:
    odd = replace(Quote.parse(quote), certification_data_type=kind, certification_data=b"x").encode()
    assert content in inspect(odd).facts["certification_data"]["content"]


@pytest.mark.parametrize("kind", list(PPID_SIZES))
def test_a_quote_that_names_its_platform_tells_all_but_the_platform_s_id(
    quote: bytes, kind: CertificationDataType
) -> None:
    named = PPIDCertification(
        kind=kind,
        ppid=b"\x99" * PPID_SIZES[kind],
        cpu_svn=b"\x07" * 16,
        pce_svn=11,
        pce_id=bytes(2),
    )
    odd = replace(Quote.parse(quote), certification_data_type=kind, certification_data=named.encode()).encode()
    facts = inspect(odd).facts["certification_data"]
    assert (facts["cpu_svn"], facts["pce_svn"], facts["pce_id"]) == ("07" * 16, 11, "0000")
    assert "99" * 16 not in json.dumps(facts)


def test_certification_data_that_is_too_short_is_told_as_such(quote: bytes) -> None:
    odd = replace(Quote.parse(quote), certification_data_type=1, certification_data=b"x").encode()
    assert "unreadable" in inspect(odd).facts["certification_data"]


# --- event logs


def test_an_event_log_is_told_event_by_event() -> None:
    found = inspect(BOOT + bytes(1000))
    assert (found.format, found.problem, found.facts["events"]) == ("event-log", None, 6)
    assert found.facts["replayed"] == {f"rtmr{number}": digest.hex() for number, digest in enumerate(REGISTERS)}
    told = [(event["register"], event.get("says"), event["digest_is_of_the_data"]) for event in found.facts["log"]]
    assert told == [
        ("none", "the specification again", False),
        ("RTMR0", "firmware configuration", True),
        ("RTMR0", None, True),
        ("RTMR1", "boot loader", True),
        ("RTMR2", "kernel command line", True),
        ("RTMR2", "initial file system", True),
    ]


def test_an_event_log_that_was_cut_off_is_one_with_a_problem() -> None:
    found = inspect(BOOT[:-3])
    assert found.format == "event-log"
    assert found.problem is not None
    assert found.problem.reason is Reason.EVENT_LOG_MALFORMED


@pytest.mark.parametrize(("size", "facts_left"), [(48, "attestation_key_type"), (300, "tee"), (1000, "version")])
def test_a_quote_that_was_cut_off_is_still_a_quote(quote: bytes, size: int, facts_left: str) -> None:
    found = inspect(quote[:size])
    assert found.format == "quote"
    assert facts_left in found.facts
    assert found.problem is not None
    assert found.problem.reason is Reason.QUOTE_MALFORMED


def test_a_quote_with_an_odd_header_is_a_quote_with_a_problem(quote: bytes) -> None:
    vendor = inspect(quote[:12] + bytes(16) + quote[28:])
    key_type = inspect(quote[:2] + b"\x09\x00" + quote[4:])
    tee = inspect(quote[:4] + b"\x42\x00\x00\x00" + quote[8:])
    reasons = [found.problem and found.problem.reason for found in (vendor, key_type, tee)]
    assert reasons == [
        Reason.QE_VENDOR_UNKNOWN,
        Reason.ATTESTATION_KEY_TYPE_UNSUPPORTED,
        Reason.TEE_TYPE_UNSUPPORTED,
    ]
    assert key_type.facts["attestation_key_type"] == "unknown (9)"
    assert tee.facts["tee"] == "unknown (0x42)"


def version_5(body_type: int, body: bytes, *, tee: int = 0x81, size: int | None = None) -> bytes:
    """A version 5 quote of any body, right or wrong; what signs it is zeros."""
    header = (5).to_bytes(2, "little") + quote_of(td_report()).encode()[2:4] + tee.to_bytes(4, "little")
    header += quote_of(td_report()).encode()[8:48]
    descriptor = body_type.to_bytes(2, "little") + (len(body) if size is None else size).to_bytes(4, "little")
    return header + descriptor + body + quote_of(td_report()).encode()[48 + TDReport.SIZE :]


@pytest.mark.parametrize(
    ("body_type", "tee", "body", "name"),
    [
        (1, 0, enclave_report().encode(), "SGX enclave report"),
        (2, 0x81, td_report().encode(), "TD report 1.0"),
        (3, 0x81, td_report().encode() + b"\x05" * 64, "TD report 1.5"),
        (4, 0x81, td_report().encode() + b"\x05" * 301, "TD report 1.5, extended"),
    ],
)
def test_a_version_5_quote_is_told_field_by_field(body_type: int, tee: int, body: bytes, name: str) -> None:
    found = inspect(version_5(body_type, body, tee=tee) + bytes(3))
    assert (found.format, found.problem) == ("quote", None)
    assert (found.facts["version"], found.facts["body_type"]) == (5, name)
    assert (found.facts["certification_data"]["type"], found.facts["padding"]) == (5, 3)
    expected = {3: {"tee_tcb_svn_2", "mr_service_td"}, 4: {"tee_tcb_svn_2", "td_id", "init_tee_fmspc"}}
    assert expected.get(body_type, set()) <= set(found.facts["report"])
    assert all(found.facts["report"][field].strip("05") == "" for field in expected.get(body_type, ()))


@pytest.mark.parametrize(
    ("raw", "reason", "name", "has_report"),
    [
        pytest.param(version_5(9, b"x" * 10), Reason.QUOTE_BODY_UNSUPPORTED, "unknown (9)", False, id="unknown body"),
        pytest.param(version_5(2, b"short"), Reason.QUOTE_MALFORMED, "TD report 1.0", True, id="another size"),
        pytest.param(
            version_5(2, td_report().encode())[:700], Reason.QUOTE_MALFORMED, "TD report 1.0", True, id="cut off"
        ),
        pytest.param(
            version_5(2, td_report().encode())[:100], Reason.QUOTE_MALFORMED, "TD report 1.0", False, id="cut short"
        ),
        pytest.param(version_5(2, b"", size=1 << 31)[:60], Reason.QUOTE_MALFORMED, "TD report 1.0", False, id="2 GiB"),
    ],
)
def test_a_version_5_quote_is_told_as_far_as_it_goes(
    raw: bytes, reason: Reason, name: str, *, has_report: bool
) -> None:
    found = inspect(raw)
    assert found.problem is not None
    assert found.problem.reason is reason
    assert found.facts["body_type"] == name
    assert ("report" in found.facts) is has_report


def test_what_a_domain_may_is_told_by_name() -> None:
    attributes = ((1 << 0) + (1 << 28) + (1 << 40) + (1 << 63)).to_bytes(8, "little")
    report = inspect(quote_of(td_report(td_attributes=attributes)).encode()).facts["report"]
    assert (report["attributes"], report["debug"]) == (["DEBUG", "SEPT_VE_DISABLE", "bit 40", "PERFMON"], True)


# --- certificates


def test_our_own_certificate_is_told_with_its_evidence(platform: Platform) -> None:
    certificate = Identity(_Enclave(platform), clock=lambda: NOW).credentials().certificate
    found = inspect(certificate)
    assert (found.format, found.problem) == ("ra-tls-certificate", None)
    assert found.facts["evidence_format"] == "interoperable RA-TLS"
    (evidence,) = found.facts["evidence"]
    assert (evidence["claims_name_this_key"], evidence["report_data_matches"]) == (True, True)
    assert evidence["report_data_is"] == "SHA-256 of the claims"
    assert list(evidence["claims"]) == ["pubkey-hash"]
    assert inspect(pem("CERTIFICATE", certificate)).facts == found.facts


class _Enclave:
    name = "sgx_sim"
    tee = "sgx"

    def __init__(self, platform: Platform) -> None:
        self._enclave = platform.launch(*sample_enclave())

    def quote(self, report_data: bytes) -> bytes:
        return self._enclave.quote(report_data)


def test_evidence_of_another_key_is_told_as_such(platform: Platform) -> None:
    """Somebody put evidence that he found into a certificate of his own."""
    found = Identity(_Enclave(platform), clock=lambda: NOW).credentials()
    thief = create_certificate(
        ec.generate_private_key(ec.SECP256R1()),
        evidence=found.evidence,
        not_before=NOW,
        not_after=NOW.replace(year=2027),
    )
    (evidence,) = inspect(thief).facts["evidence"]
    assert (evidence["claims_name_this_key"], evidence["report_data_matches"]) == (False, True)


def test_claims_and_quotes_that_are_junk_are_told_as_such() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    tagged = Identity(None, clock=lambda: NOW).credentials().evidence
    assert tagged is None
    raw = _certificate(key, "2.23.133.5.4.9", bytes.fromhex("d9ea6082") + b"\x43abc" + b"\x43xyz")
    (evidence,) = inspect(raw).facts["evidence"]
    assert "unreadable" in evidence["claims"]
    assert "unreadable" in evidence["quote"]
    assert (evidence["claims_name_this_key"], evidence["report_data_matches"]) == (False, False)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"junk", Reason.EVIDENCE_MALFORMED),
        (bytes.fromhex("d9ea6182") + b"\x41a\x41b", Reason.TEE_TYPE_UNSUPPORTED),
    ],
)
def test_evidence_that_cannot_be_read_is_a_problem_of_an_ra_tls_certificate(content: bytes, reason: Reason) -> None:
    found = inspect(_certificate(ec.generate_private_key(ec.SECP256R1()), "2.23.133.5.4.9", content))
    assert found.format == "ra-tls-certificate"
    assert found.problem is not None
    assert found.problem.reason is reason
    assert found.facts["subject"] == "CN=x"


def _certificate(key: Any, oid: str | None = None, content: bytes = b"", *, common_name: str = "x") -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
        .public_key(key.public_key())
    )
    if oid is not None:
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), content)
        builder = builder.add_extension(extension, critical=True)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.DER)


def test_a_certificate_of_anybody_is_told() -> None:
    found = inspect(_certificate(ed25519.Ed25519PrivateKey.generate()))
    assert (found.format, found.problem) == ("certificate", None)
    assert found.facts["evidence_format"] == "no evidence"
    assert found.facts["key"] == "Ed25519"
    assert (found.facts["not_before"], found.facts["is_ca"]) == ("2026-01-01T00:00:00Z", False)


def test_a_critical_extension_that_nobody_knows_is_named(platform: Platform) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    found = inspect(_certificate(key, "1.2.840.113741.1337.6", b"junk"))
    assert found.facts["evidence_format"] == "Gramine, legacy"
    odd = inspect(_certificate(key, "1.2.3.4"))
    assert odd.format == "certificate"


def test_names_cannot_speak_to_the_terminal() -> None:
    subject = inspect(_certificate(ec.generate_private_key(ec.SECP256R1()), common_name="a\x1b[2Jb")).facts["subject"]
    assert "\x1b" not in subject
    assert "\\x1b" in subject


def test_a_pck_certificate_tells_its_platform(platform: Platform) -> None:
    found = inspect(platform.pck_pem)
    assert found.format == "certificate"
    assert found.facts["platform"]["fmspc"] == platform.model.fmspc.hex()
    assert found.facts["platform"]["ca"] == "platform"


def test_a_chain_is_told_certificate_by_certificate(platform: Platform) -> None:
    found = inspect(platform.pck_pem + platform.root_pem)
    assert found.format == "certificate-chain"
    assert [("platform" in item, item["is_ca"]) for item in found.facts["certificates"]] == [
        (True, False),
        (False, True),
    ]


def test_a_certificate_that_cannot_be_read_is_a_certificate_with_a_problem() -> None:
    whole = _certificate(ec.generate_private_key(ec.SECP256R1()))
    broken = whole.replace(bytes.fromhex("170d323630313031"), bytes.fromhex("170d3236ff3031ff"))
    found = inspect(broken)
    assert found.format == "certificate"
    assert found.problem is not None
    assert found.problem.reason is Reason.CERTIFICATE_MALFORMED


def pem(label: str, content: bytes) -> bytes:
    text = base64.encodebytes(content).decode()
    return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n".encode()


# --- collateral


def test_collateral_is_told_document_by_document(platform: Platform, collateral: Collateral) -> None:
    found = inspect(collateral.to_json())
    assert (found.format, found.problem) == ("collateral", None)
    facts = found.facts
    assert facts["tcb_info"]["fmspc"] == platform.model.fmspc.hex()
    assert facts["tcb_info"]["levels"][0]["tcb_status"]
    assert facts["qe_identity"]["id"] == "QE"
    assert isinstance(facts["root_ca_crl"]["crl_number"], int)
    ends = [entry["at"] for entry in facts["expirations"]]
    assert ends == sorted(ends)
    assert facts["earliest_expiration"] == ends[0]
    assert {entry["document"] for entry in facts["expirations"]} == {
        *("tcb_info", "qe_identity", "root_ca_crl", "pck_crl"),
        *("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain"),
    }


def test_the_platform_s_own_chain_may_be_there(platform: Platform, collateral: Collateral) -> None:
    with_chain = replace(collateral, pck_certificate_chain=platform.pck_pem)
    facts = inspect(with_chain.to_json()).facts
    assert len(facts["pck_certificate_chain"]["certificates"]) == 1


def test_a_revocation_list_of_an_issuer_with_an_odd_name_is_told_without_a_warning() -> None:
    """A name that breaks the profile is a fact of the file and nothing for standard error."""
    with pytest.warns(UserWarning, match="length"):
        odd = x509.NameAttribute(x509.NameOID.COUNTRY_NAME, "nowhere", _validate=False)
    builder = x509.CertificateRevocationListBuilder(issuer_name=x509.Name([odd]), last_update=NOW, next_update=NOW)
    crl = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert inspect(crl.public_bytes(Encoding.DER)).facts["issuer"] == "C=nowhere"


@pytest.mark.parametrize("name", ["tcb_info", "qe_identity", "root_ca_crl", "pck_crl", "tcb_info_issuer_chain"])
def test_one_damaged_document_does_not_hide_the_others(collateral: Collateral, name: str) -> None:
    facts = inspect(replace(collateral, **{name: b"{"}).to_json()).facts
    assert "unreadable" in facts[name]
    intact = {"tcb_info", "qe_identity", "root_ca_crl", "pck_crl", "tcb_info_issuer_chain"} - {name}
    assert all("unreadable" not in facts[other] for other in intact)


def test_a_damaged_collateral_file_is_one_with_a_problem(collateral: Collateral) -> None:
    document = json.loads(collateral.to_json())
    del document["pck_crl"]
    found = inspect(json.dumps(document).encode())
    assert found.format == "collateral"
    assert found.problem is not None
    assert found.problem.reason is Reason.COLLATERAL_MALFORMED


@pytest.mark.parametrize(
    ("member", "body", "format_"),
    [("tcbInfo", "tcb_info", "tcb-info"), ("enclaveIdentity", "qe_identity", "qe-identity")],
)
def test_a_document_is_told_as_it_is_served_and_by_itself(
    collateral: Collateral, member: Any, body: str, format_: str
) -> None:
    content = getattr(collateral, body)
    served = inspect(join_signed_document(member, content, getattr(collateral, f"{body}_signature")))
    alone = inspect(content)
    assert (served.format, alone.format) == (format_, format_)
    assert {**alone.facts, "signature": served.facts["signature"]} == served.facts
    broken = inspect(b'{"%b":{"version":9},"signature":"00"}' % member.encode())
    assert broken.format == format_
    assert broken.problem is not None
    assert broken.problem.exit_code == 3


@pytest.mark.parametrize("spell", [bytes, lambda raw: raw.hex().encode(), lambda raw: pem("X509 CRL", raw)])
def test_a_crl_is_told_in_every_spelling(collateral: Collateral, spell: Callable[[bytes], bytes]) -> None:
    found = inspect(spell(collateral.pck_crl))
    assert (found.format, found.problem) == ("crl", None)
    assert found.facts["revoked"] == len(found.facts["revoked_serial_numbers"])
    assert found.facts["next_update"].endswith("Z")


def test_a_crl_that_cannot_be_read_is_one_with_a_problem() -> None:
    assert (found := inspect(pem("X509 CRL", bytes.fromhex("300d30030201013003060100030100")))).format == "crl"
    assert found.problem is not None
    assert found.problem.reason is Reason.CRL_MALFORMED


def test_endorsements_in_a_certificate_are_told(platform: Platform, collateral: Collateral) -> None:
    endorsements = Endorsements(
        version=0x00010003,
        tcb_info=join_signed_document("tcbInfo", collateral.tcb_info, collateral.tcb_info_signature),
        tcb_info_issuer_chain=collateral.tcb_info_issuer_chain,
        pck_crl=collateral.pck_crl.hex().encode(),
        root_ca_crl=pem("X509 CRL", collateral.root_ca_crl),
        pck_crl_issuer_chain=collateral.pck_crl_issuer_chain,
        qe_identity=b"junk",
        qe_identity_issuer_chain=collateral.qe_identity_issuer_chain,
    )
    key = ec.generate_private_key(ec.SECP256R1())
    evidence = Identity(_Enclave(platform), clock=lambda: NOW).credentials().evidence
    raw = create_certificate(
        key, evidence=evidence, not_before=NOW, not_after=NOW.replace(year=2027), endorsements=endorsements
    )
    assert RATLSCertificate.parse(raw).endorsements is not None
    told = inspect(raw).facts["endorsements"]
    assert told["version"] == "3.1"
    assert told["tcb_info"]["fmspc"] == platform.model.fmspc.hex()
    assert told["pck_crl"]["issuer"] != told["root_ca_crl"]["issuer"]
    assert "unreadable" in told["qe_identity"]
    assert told["earliest_expiration"]


# --- enclaves


def test_a_sigstruct_is_told_with_its_own_signature() -> None:
    image, sigstruct = sample_enclave()
    found = inspect(sigstruct)
    assert (found.format, found.problem) == ("sigstruct", None)
    assert found.facts["mr_enclave"] == measure_sgxs(image).mr_enclave.hex()
    assert (found.facts["signature_holds"], found.facts["debug"]) == (True, False)
    assert found.facts["mr_signer"] == SIGSTRUCT.parse(sigstruct).mr_signer.hex()
    assert found.facts["date"] == f"{NOW:%Y-%m-%d}"


def test_a_sigstruct_that_was_changed_says_so() -> None:
    sigstruct = SIGSTRUCT.parse(sample_enclave()[1])
    changed = replace(sigstruct, isv_svn=99, raw_date=0x070A07E3, isv_family_id=b"\x01" * 16, vendor=0x8086)
    facts = inspect(changed.encode()).facts
    assert (facts["signature_holds"], facts["isv_svn"], facts["date"]) == (False, 99, None)
    assert (facts["isv_family_id"], facts["vendor"]) == ("01" * 16, "Intel")


def test_a_sigstruct_that_was_cut_off_is_one_with_a_problem() -> None:
    found = inspect(sample_enclave()[1][:1000])
    assert found.format == "sigstruct"
    assert found.problem is not None
    assert found.problem.reason is Reason.SIGSTRUCT_MALFORMED


def test_an_image_is_told_by_what_it_measures_to() -> None:
    image = sample_enclave()[0]
    found = inspect(image)
    assert (found.format, found.problem) == ("enclave-image", None)
    assert found.facts["mr_enclave"] == measure_sgxs(image).mr_enclave.hex()
    assert not any(name.startswith("assumed") for name in found.facts)


def test_an_image_that_was_cut_off_is_one_with_a_problem() -> None:
    found = inspect(sample_enclave()[0][:-1])
    assert (found.format, found.facts["image_format"]) == ("enclave-image", "sgxs")
    assert found.problem is not None
    assert found.problem.reason is Reason.IMAGE_MALFORMED


FLAT: Final = (bytes(28) + b"\x01" + bytes(4096 - 29) + b"code").ljust(8192, b"\0") + bytes(17)


def test_what_a_flat_image_s_measurement_depends_on_is_told() -> None:
    facts = inspect(FLAT).facts
    assert (facts["image_format"], facts["assumed_xfrm"], facts["assumed_misc_select"]) == ("flat", "0x3", "0x0")


# --- AMD


def snp(version: int = 2, policy: int = 0x30000) -> bytes:
    report = bytearray(1184)
    report[0:4] = version.to_bytes(4, "little")
    report[0x08:0x10] = policy.to_bytes(8, "little")
    report[0x34] = 1
    report[0x90:0xC0] = b"\x0c" * 48
    report[0x1A0:0x1E0] = b"\x0d" * 64
    return bytes(report)


@pytest.mark.parametrize("container", [b"", b"HCLA" + bytes(28)])
def test_a_report_of_amd_is_recognised_and_said_to_be_not_supported(container: bytes) -> None:
    found = inspect(container + snp(policy=1 << 19))
    assert (found.format, found.problem) == ("snp-report", None)
    assert "not supported yet" in found.facts["support"]
    assert (found.facts["measurement"], found.facts["debug"]) == ("0c" * 48, True)
    assert "0d" * 64 not in json.dumps(found.facts)


# --- nothing known


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0", id="one zero"),
        pytest.param(bytes(432), id="zeros"),
        pytest.param(b"hello, world\n", id="words"),
        pytest.param(b"{}", id="an empty object"),
        pytest.param(b'{"a":1}', id="another object"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{" * 100_000, id="brackets"),
        pytest.param(b'{"a":' * 50_000, id="deep JSON"),
        pytest.param(b"\x7fELF" + bytes(5000), id="an executable"),
        pytest.param(b"\x30\x80" + bytes(50), id="DER without a length"),
        pytest.param(b"\x30\x00", id="an empty sequence"),
        pytest.param(b"30" * 40, id="hex of zeros in disguise"),
        pytest.param(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", id="somebody's key"),
        pytest.param(b"-----BEGIN CERTIFICATE-----\n****\n-----END CERTIFICATE-----\n", id="PEM of nothing"),
        pytest.param(bytes.fromhex("0300020000000000") + bytes(20), id="less than a header"),
        pytest.param("ü".encode("latin-1") * 100, id="text in another encoding"),
    ],
)
def test_what_is_not_known_is_said_in_one_sentence(raw: bytes) -> None:
    with pytest.raises(MalformedInput) as caught:
        inspect(raw)
    assert caught.value.reason is Reason.UNKNOWN_FORMAT
    assert caught.value.hint
    assert not isinstance(caught.value, Misuse)


def test_a_key_is_never_shown() -> None:
    with pytest.raises(MalformedInput) as caught:
        inspect(pem("PRIVATE KEY", b"secret" * 40))
    assert base64.b64encode(b"secret" * 6)[:20].decode() not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("plain text ü", "plain text ü"),
        ("a\nb", "a\\nb"),
        ("\x9b31m", "\\x9b31m"),
        ("\ud800", "\\ud800"),
        ("\u202e", "\\u202e"),
        ({"\x07": ["\x07", 1, None, True]}, {"\\x07": ["\\x07", 1, None, True]}),
    ],
)
def test_nothing_that_a_terminal_acts_upon_is_passed_on(value: Any, told: Any) -> None:
    assert printable(value) == told


# --- what stands in certificates and messages, cut out of them


def test_tagged_evidence_is_told_with_its_claims(platform: Platform) -> None:
    claims = encode_claims({"label": b"eaa/2 attest", "nonce": bytes(32)})
    raw = platform.launch(*sample_enclave()).quote(claims_report_data(claims))
    found = inspect(TaggedEvidence(evidence=raw, claims=claims).encode())
    assert (found.format, found.problem) == ("tagged-evidence", None)
    assert found.facts["claims"] == {"label": b"eaa/2 attest".hex(), "nonce": "00" * 32}
    assert (found.facts["report_data_matches"], found.facts["report_data_is"]) == (True, "SHA-256 of the claims")
    assert found.facts["quote"]["tee"] == "sgx"


def test_tagged_evidence_for_other_claims_is_told_to_be(quote: bytes) -> None:
    found = inspect(TaggedEvidence(evidence=quote, claims=encode_claims({"nonce": b"1"})).encode())
    assert (found.facts["report_data_matches"], found.facts["report_data_is"]) == (False, None)


def test_claims_that_are_none_stand_beside_what_can_be_read(quote: bytes) -> None:
    found = inspect(TaggedEvidence(evidence=quote, claims=b"\x81").encode())
    assert "unreadable" in found.facts["claims"]
    assert found.facts["quote"]["version"] == 3


@pytest.mark.parametrize(
    ("raw", "format_", "reason"),
    [
        (b"\xd9\xea\x60\x82", "tagged-evidence", Reason.EVIDENCE_MALFORMED),
        (b"\xd9\xea\x61\x82\x40\x40", "tagged-evidence", Reason.TEE_TYPE_UNSUPPORTED),
        (b"\xd9\xea\x60\x88\x00", "endorsements", Reason.EVIDENCE_MALFORMED),
        (b"\xd9\xea\x60\x89", "endorsements", Reason.EVIDENCE_MALFORMED),
    ],
)
def test_cbor_that_breaks_off_says_what_it_began_as(raw: bytes, format_: str, reason: Reason) -> None:
    found = inspect(raw)
    assert found.problem is not None
    assert (found.format, found.problem.reason) == (format_, reason)


def test_endorsements_are_told_document_by_document(collateral: Collateral) -> None:
    members = {
        name: getattr(collateral, name)
        for name in (
            "tcb_info_issuer_chain",
            "pck_crl",
            "root_ca_crl",
            "pck_crl_issuer_chain",
            "qe_identity_issuer_chain",
        )
    }
    endorsements = Endorsements(
        version=0x00010003,
        tcb_info=join_signed_document("tcbInfo", collateral.tcb_info, collateral.tcb_info_signature),
        qe_identity=join_signed_document("enclaveIdentity", collateral.qe_identity, collateral.qe_identity_signature),
        **members,
    )
    found = inspect(endorsements.encode())
    assert (found.format, found.problem) == ("endorsements", None)
    assert found.facts["version"] == "3.1"
    assert found.facts["tcb_info"]["fmspc"]
    assert found.facts["pck_crl"]["issuer"]


@pytest.mark.parametrize("raw", [b"\xd9\xea", b"\xd9\xea\x60"], ids=["the tag cut off", "the tag alone"])
def test_the_beginning_of_a_tag_is_nothing_yet(raw: bytes) -> None:
    with pytest.raises(MalformedInput) as caught:
        inspect(raw)
    assert caught.value.reason is Reason.UNKNOWN_FORMAT


# --- quotes as text


SPELLINGS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "hex digits": lambda raw: raw.hex().encode(),
    "hex digits in lines": lambda raw: b"0x" + raw.hex(" ", 32).upper().replace(" ", "\r\n").encode() + b"\n",
    "base64": base64.b64encode,
    "base64 in lines": base64.encodebytes,
    "base64 of URLs, without its end": lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"="),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_quote_may_be_spelled_as_text(spelling: str) -> None:
    raw = vector("dcap-qvl/tdx_quote").read_bytes()
    text = SPELLINGS[spelling](raw)
    assert quote_from_text(text) == raw
    found = inspect(text)
    assert (found.format, found.facts["encoding"]) == ("quote", "base64" if "base64" in spelling else "hex digits")


def test_what_spells_no_quote_stays_as_it_is() -> None:
    raw = vector("dcap-qvl/tdx_quote").read_bytes()
    text = raw.hex().encode()
    for other in (b"", raw, text[2:], text[1:], text * 20, b"0" * 9999, base64.b64encode(raw)[1:], b"word " * 100):
        assert quote_from_text(other) == other


# --- what passes between programs, and what configures Intel's


def test_messages_of_the_exchange_are_told_one_by_one() -> None:
    raw = encode(Attest(nonce=bytes(32), level=BindingLevel.FRESH)) + encode(Evidence(evidence=b"x" * 900))
    found = inspect(raw + encode(Accept())[:-1])
    asked, shown = found.facts["messages"]
    assert (found.format, asked["type"], asked["level"], shown["evidence"]) == (
        "messages",
        "attest",
        "fresh",
        "900 bytes",
    )
    assert found.facts["bytes_behind"] == len(encode(Accept())) - 1


def test_a_message_that_cannot_be_read_ends_what_is_told() -> None:
    good = encode(Open(workload="default"))
    found = inspect(good + good.replace(b"default", b"-efault"))
    assert [message["workload"] for message in found.facts["messages"]] == ["default"]
    assert found.problem is not None
    assert found.problem.reason is Reason.MESSAGE_MALFORMED


@pytest.mark.parametrize(
    "text",
    [
        '{\n  // where from\n  "pccs_url": "https://pccs.example:8081/sgx/certification/v4/"\n}\n',
        "# where from\nPCCS_URL=https://pccs.example:8081/sgx/certification/v4/\nUSE_SECURE_CERT=FALSE\n",
    ],
)
def test_intels_configuration_is_told(text: str) -> None:
    found = inspect(text.encode())
    assert (found.format, found.problem) == ("qcnl", None)
    assert found.facts["pccs_url"] == "https://pccs.example:8081/sgx/certification/v4/"


def test_keys_in_intels_configuration_are_not_shown() -> None:
    options = {"get_cert": {"headers": {"X-Key": "very secret"}, "params": {"token": "secret too"}}}
    found = inspect(json.dumps({"pccs_url": "https://pccs.example/", "custom_request_options": options}).encode())
    assert "secret" not in json.dumps(found.facts)
    assert (found.facts["get_cert_headers"], found.facts["get_cert_params"]) == (["X-Key"], ["token"])


def test_a_configuration_with_a_mistake_is_known_as_one() -> None:
    found = inspect(b'{"pccs_url": "https://pccs.example/" "retry_times": 6}')
    assert found.format == "qcnl"
    assert found.problem is not None
    assert found.problem.reason is Reason.QCNL_INVALID
