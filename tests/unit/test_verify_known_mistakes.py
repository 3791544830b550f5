"""Mistakes that verifiers of these quotes have made, each as a world in which the mistake would accept or crash.

The names are those of docs/manual/lessons.md, which tells the stories; the last test holds that page against the tests.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eaa.appraise.appraisal import appraise
from eaa.appraise.policy import Policy
from eaa.appraise.reference_values import ReferenceValues
from eaa.appraise.result import Rejected, Role
from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import PCKCertificate, QEIdentity, TCBInfo
from eaa.collateral.x509 import Certificate, parse_pem_chain
from eaa.errors import EAAError, MalformedInput, Reason, VerificationError
from eaa.evidence.quote import Quote, QuoteHeader, TEEType
from eaa.evidence.tdx import TDReport15
from eaa.verify.dcap import INTEL, VerifiedQuote, verify_collateral, verify_quote
from eaa.verify.tcb import TCBStatus
from support.dcap_world import NOW, SGXExtension, World, compact, pem, raw_public, tlv
from support.named_tests import texts_by_test
from support.vectors import cases, vector

ROOT = Path(__file__).resolve().parents[2]
SECOND = timedelta(seconds=1)
Break = Callable[[World], object]
MEMBERS = [field.name for field in dataclasses.fields(Collateral) if field.init]
"""Of a collateral."""


def sgx() -> World:
    return World()


def tdx() -> World:
    return World(tee=TEEType.TDX, version=4)


def refusal(world: World) -> Reason:
    with pytest.raises(EAAError) as caught:
        world.verify()
    assert caught.value.exit_code == 3
    return caught.value.reason


def parse_refusal(raw: bytes) -> Reason:
    with pytest.raises(MalformedInput) as caught:
        Quote.parse(raw)
    return caught.value.reason


# --- the quoting enclave's identity


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(
            lambda w: setattr(w, "qe_identity_signed_by", "foreign"), Reason.QE_IDENTITY_SIGNATURE, id="signature"
        ),
        pytest.param(lambda w: w.qe_chain.reverse(), Reason.ROOT_UNTRUSTED, id="chain"),
        pytest.param(lambda w: w.qe_identity.update(isvprodid=2), Reason.QE_IDENTITY_MISMATCH, id="ISVPRODID"),
        pytest.param(lambda w: w.qe_identity.update(mrsigner="11" * 32), Reason.QE_IDENTITY_MISMATCH, id="MRSIGNER"),
        pytest.param(lambda w: w.qe_identity.update(miscselect="01000000"), Reason.QE_IDENTITY_MISMATCH, id="MISC"),
        pytest.param(
            lambda w: w.qe_identity.update(attributes="15" + "00" * 15), Reason.QE_IDENTITY_MISMATCH, id="ATTR"
        ),
        pytest.param(lambda w: w.qe_identity.update(tcbLevels=[]), Reason.TCB_NOT_SUPPORTED, id="ISVSVN"),
    ],
)
def test_a_qe_identity_is_verified_and_not_only_fetched(change: Break, reason: Reason) -> None:
    """CVE-2026-22696, GHSA-796p-j2gh-9m2q: any enclave on a genuine machine could have signed quotes."""
    world = sgx()
    change(world)
    assert refusal(world) is reason


@pytest.mark.parametrize("identity", [b"", b"junk", b"{}"])
def test_a_missing_qe_identity_is_no_permission(identity: bytes) -> None:
    """Open Enclave issue #2208: the identity was optional, with constants in its place."""
    world = sgx()
    world.respell_qe_identity = lambda _: identity
    assert refusal(world) is Reason.QE_IDENTITY_MALFORMED


@pytest.mark.parametrize(
    "status", ["ConfigurationNeeded", "SWHardeningNeeded", "OutOfDateConfigurationNeeded", "Bogus"]
)
def test_a_qe_status_that_is_none_is_not_up_to_date(status: str) -> None:
    world = sgx()
    world.qe_identity["tcbLevels"][0]["tcbStatus"] = status
    assert refusal(world) is Reason.QE_IDENTITY_MALFORMED


# --- who may sign what


@pytest.mark.parametrize("document", ["tcb_info", "qe_identity"])
@pytest.mark.parametrize("signer", ["pck with its chain", "pck", "pck_ca", "another name", "with SGX extension"])
def test_a_pck_key_cannot_sign_collateral(document: str, signer: str) -> None:
    """Whoever extracts one PCK key could otherwise call every platform up to date."""
    world = sgx()
    chain: dict[str, tuple[list[Any], str]] = {
        "pck with its chain": (list(world.quote_chain), "pck"),
        "pck": ([world.pck, world.root], "pck"),
        "pck_ca": ([world.pck_ca, world.root], "pck_ca"),
        "another name": (
            [dataclasses.replace(world.tcb_signer, common_name="Intel SGX Signing"), world.root],
            "tcb_signer",
        ),
        "with SGX extension": ([dataclasses.replace(world.tcb_signer, sgx=SGXExtension()), world.root], "tcb_signer"),
    }
    setattr(world, "tcb_chain" if document == "tcb_info" else "qe_chain", chain[signer][0])
    setattr(world, f"{document}_signed_by", chain[signer][1])
    assert refusal(world) in (Reason.CERTIFICATE_CHAIN, Reason.CERTIFICATE_ROLE)


@pytest.mark.parametrize("authority_key_id", [None, b"", b"\1" * 20], ids=["right AKI", "no AKI", "another AKI"])
@pytest.mark.parametrize("name", ["pck", "pck_ca", "tcb_signer"])
def test_a_signature_is_checked_whatever_the_key_identifier_says(name: str, authority_key_id: bytes | None) -> None:
    """A chain loop that skips certificates whose AKI does not fit leaves them unsigned, and accepted."""
    world = sgx()
    certificate = getattr(world, name)
    certificate.authority_key_id = authority_key_id
    certificate.signed_by = "foreign"
    assert refusal(world) in (Reason.CERTIFICATE_SIGNATURE, Reason.CERTIFICATE_CHAIN)


def test_empty_key_identifiers_do_not_match_each_other() -> None:
    world = sgx()
    world.pck.authority_key_id = b""
    world.pck_ca.subject_key_id = b""
    assert refusal(world) in (Reason.CERTIFICATE_ROLE, Reason.CERTIFICATE_CHAIN)


def test_the_root_of_a_quote_is_pinned() -> None:
    """A chain that is whole proves nothing: anybody can make one."""
    world = sgx()
    with pytest.raises(VerificationError) as caught:
        verify_quote(world.quote(), world.collateral(), trust_anchors=INTEL, now=NOW)
    assert caught.value.reason is Reason.ROOT_UNTRUSTED


def test_certificates_with_one_serial_are_different_certificates() -> None:
    """Three signing certificates of Intel's share issuer, serial and key; one of them has expired."""
    signers = [Certificate.parse(parse_pem_chain(path.read_bytes())[0]) for path in vector("certs").glob("tcb_*.pem")]
    assert len(signers) == 3
    assert len({(signer.issuer, signer.serial_number, signer.spki) for signer in signers}) == 1
    assert len({signer.fingerprint for signer in signers}) == len(set(map(repr, signers))) == 3
    world = sgx()
    old = dataclasses.replace(world.tcb_signer, not_after=NOW - SECOND)
    assert old.serial_number == world.tcb_signer.serial_number
    world.verify()
    world.qe_chain[0] = old
    assert refusal(world) is Reason.CERTIFICATE_EXPIRED


# --- TCB Info belongs to this platform


def test_the_pce_id_is_compared() -> None:
    world = sgx()
    world.tcb_info["pceId"] = "0001"
    assert refusal(world) is Reason.TCB_INFO_MISMATCH


def test_a_report_of_one_product_line_does_not_go_with_the_documents_of_another() -> None:
    """A report and an endorsement that are both genuine need not belong together."""
    world = sgx()
    world.tcb_info["fmspc"] = "00606A000000"
    assert refusal(world) is Reason.TCB_INFO_MISMATCH


def test_the_identity_of_another_enclave_of_the_vendor_does_not_vouch_for_quotes() -> None:
    """rats-tls PR #140, PR #100: how another enclave of Intel's is verified was mixed up with how quotes are."""
    world = sgx()
    world.qe_identity["id"] = "QVE"
    assert refusal(world) is Reason.QE_IDENTITY_MISMATCH


@pytest.mark.parametrize("make", [sgx, tdx])
def test_documents_of_the_other_tee_do_not_fit(make: Callable[[], World]) -> None:
    world, other = make(), (tdx if make is sgx else sgx)()
    world.tcb_info = other.tcb_info
    assert refusal(world) is Reason.TCB_INFO_MISMATCH
    world, other = make(), (tdx if make is sgx else sgx)()
    world.qe_identity = other.qe_identity
    assert refusal(world) is Reason.QE_IDENTITY_MISMATCH


@pytest.mark.parametrize(
    ("make", "document", "members", "reason"),
    [
        pytest.param(sgx, "tcb_info", {"tcbType": 1}, Reason.TCB_INFO_MALFORMED, id="tcbType 1"),
        pytest.param(sgx, "tcb_info", {"version": 4}, Reason.TCB_INFO_MALFORMED, id="TCB Info 4"),
        pytest.param(tdx, "qe_identity", {"version": 3}, Reason.QE_IDENTITY_MALFORMED, id="TD_QE identity 3"),
        pytest.param(sgx, "qe_identity", {"version": 1}, Reason.QE_IDENTITY_MALFORMED, id="QE identity 1"),
        pytest.param(tdx, "tcb_info", {"version": 2}, Reason.TCB_INFO_MALFORMED, id="TCB Info 2 for TDX"),
    ],
)
def test_a_document_of_an_unknown_version_is_not_read_as_a_known_one(
    make: Callable[[], World], document: str, members: dict[str, Any], reason: Reason
) -> None:
    world = make()
    getattr(world, document).update(members)
    assert refusal(world) is reason


# --- the TDX module


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        pytest.param({"mr_signer_seam": b"\1" * 48}, Reason.TDX_MODULE_MISMATCH, id="MRSIGNERSEAM"),
        pytest.param({"seam_attributes": b"\1" + bytes(7)}, Reason.TDX_MODULE_MISMATCH, id="SEAMATTRIBUTES"),
        pytest.param({"tee_tcb_svn": bytes((5, 9, *(5,) * 14))}, Reason.TDX_MODULE_MISMATCH, id="unknown version"),
        pytest.param({"tee_tcb_svn": bytes((1, 1, *(5,) * 14))}, Reason.TCB_NOT_SUPPORTED, id="SVN below all"),
        pytest.param({"tee_tcb_svn": bytes((3, 1, *(5,) * 14))}, Reason.TCB_REVOKED, id="revoked"),
    ],
)
def test_the_tdx_module_is_judged(report: dict[str, Any], reason: Reason) -> None:
    """dcap-qvl issue #124: members that a parser does not know were dropped, the module's identities among them."""
    world = tdx()
    world.body = dataclasses.replace(world.body, **report)
    assert refusal(world) is reason


@pytest.mark.parametrize("case", [case for case in cases() if "cos-113" in case["id"]], ids=lambda case: case["id"])
def test_components_of_a_versioned_module_are_compared_from_the_third(case: dict[str, Any]) -> None:
    """Comparing from the first gave ten of ninety-two real quotes another status than Intel gives."""
    quote = Quote.parse(vector(case["quote"]).read_bytes())
    collateral = Collateral.from_json(vector(case["collateral"]).read_bytes())
    facts = verify_quote(quote, collateral, trust_anchors=INTEL, now=datetime.fromisoformat(case["at"]))
    assert facts.tcb_status == case["expect"]["tcb_status"]


def test_a_module_that_was_updated_since_does_not_wash_the_launch_clean() -> None:
    """A verifier that looks at the module of today only calls such a domain up to date."""
    world = World(tee=TEEType.TDX, version=5)
    assert isinstance(world.body, TDReport15)
    world.body = dataclasses.replace(world.body, tee_tcb_svn=bytes((4, 1, *(5,) * 14)))
    facts = world.verify()
    assert facts.tcb.current.tcb_status is TCBStatus.UP_TO_DATE
    assert facts.tcb_status is TCBStatus.TD_RELAUNCH_ADVISED


# --- TCB levels


@pytest.mark.parametrize("make", [sgx, tdx])
def test_the_order_of_levels_is_not_taken_as_given(make: Callable[[], World]) -> None:
    """dcap-qvl issue #126."""
    world = make()
    world.tcb_info["tcbLevels"].reverse()
    world.qe_identity["tcbLevels"].reverse()
    for identity in world.tcb_info.get("tdxModuleIdentities", []):
        identity["tcbLevels"] = identity["tcbLevels"][::-1]
    assert world.verify().tcb_status is TCBStatus.UP_TO_DATE


@pytest.mark.parametrize("name", ["sgxtcbcomponents", "tdxtcbcomponents"])
@pytest.mark.parametrize("count", [0, 1, 15, 17])
def test_svn_arrays_of_unequal_length_are_refused(name: str, count: int) -> None:
    """dcap-qvl GHSA-6q6c-vvf9-fj3w, issue #139, PR #164."""
    world = tdx()
    components = world.tcb_info["tcbLevels"][0]["tcb"][name]
    world.tcb_info["tcbLevels"][0]["tcb"][name] = (components * 2)[:count]
    assert refusal(world) is Reason.TCB_INFO_MALFORMED


def test_components_are_not_compared_as_one_long_number() -> None:
    world = sgx()
    assert world.pck.sgx is not None
    world.pck.sgx.components = [255, 4, *[5] * 14]
    assert world.verify().tcb_status is TCBStatus.OUT_OF_DATE


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda w: w.tcb_info["tcbLevels"][0].update(tcbStatus="Revoked"), id="platform"),
        pytest.param(lambda w: w.qe_identity["tcbLevels"][0].update(tcbStatus="Revoked"), id="quoting enclave"),
        pytest.param(
            lambda w: w.tcb_info["tdxModuleIdentities"][1].update(
                tcbLevels=[
                    level | {"tcbStatus": "Revoked"} for level in w.tcb_info["tdxModuleIdentities"][1]["tcbLevels"]
                ]
            ),
            id="TDX module",
        ),
    ],
)
def test_revoked_is_an_error_and_no_status_that_a_caller_could_overlook(change: Break) -> None:
    world = tdx()
    change(world)
    assert refusal(world) is Reason.TCB_REVOKED


def test_an_old_component_does_not_hide_what_the_platform_needs() -> None:
    """Taking the worse of two statuses gives OutOfDate; Intel gives OutOfDateConfigurationNeeded."""
    world = sgx()
    world.tcb_info["tcbLevels"][0]["tcbStatus"] = "ConfigurationNeeded"
    world.qe_identity["tcbLevels"][0]["tcbStatus"] = "OutOfDate"
    assert world.verify().tcb_status is TCBStatus.OUT_OF_DATE_CONFIGURATION_NEEDED


def test_a_status_is_told_and_never_folded_into_success() -> None:
    """Open Enclave #3969: the same result code stood for SWHardeningNeeded as for UpToDate."""
    world = sgx()
    world.tcb_info["tcbLevels"][0]["tcbStatus"] = "SWHardeningNeeded"
    assert world.verify().tcb_status is TCBStatus.SW_HARDENING_NEEDED


# --- revocation


@pytest.mark.parametrize(
    ("certificate", "crl"),
    [("pck", "pck_crl"), ("pck_ca", "root_crl"), ("tcb_signer", "root_crl"), ("root", "root_crl")],
)
def test_every_certificate_is_looked_up_in_the_list_of_its_issuer(certificate: str, crl: str) -> None:
    world = sgx()
    getattr(world, crl).revoked = [getattr(world, certificate).serial_number]
    assert refusal(world) is Reason.CERTIFICATE_REVOKED


@pytest.mark.parametrize("crl", ["pck_crl", "root_ca_crl"])
def test_a_missing_crl_is_no_permission(crl: str) -> None:
    world = sgx()
    world.change_collateral = lambda collateral: Collateral(**{**as_dict(collateral), crl: b""})
    assert refusal(world) is Reason.CRL_MALFORMED


def as_dict(collateral: Collateral) -> dict[str, Any]:
    return {name: getattr(collateral, name) for name in MEMBERS}


def test_the_crl_of_the_other_pck_ca_does_not_speak_for_this_one() -> None:
    world = sgx()
    other = dataclasses.replace(world.pck_ca, common_name="Intel SGX PCK Processor CA", key="processor_ca")
    world.crl_chain[0] = world.pck_crl.issuer = other
    assert refusal(world) is Reason.CRL_ISSUER


@pytest.mark.parametrize("crl", ["pck_crl", "root_crl"])
def test_a_crl_that_somebody_supplies_is_verified(crl: str) -> None:
    world = sgx()
    getattr(world, crl).signed_by = "foreign"
    assert refusal(world) is Reason.CRL_SIGNATURE


@pytest.mark.parametrize("crl", ["pck_crl", "root_crl"])
def test_a_crl_of_tomorrow_is_refused(crl: str) -> None:
    world = sgx()
    getattr(world, crl).this_update = NOW + SECOND
    assert refusal(world) is Reason.CRL_NOT_YET_VALID


def test_a_platform_whose_key_is_known_to_others_is_refused_once_it_is_revoked() -> None:
    """arXiv 2605.12990, of another vendor's keys: whoever has the key signs what he likes, and every signature fits.

    Then a list of what was revoked is all that is left; it names this machine, and no other of its kind.
    """
    world, sound = sgx(), sgx()
    for one in (world, sound):
        one.pck_crl.revoked = [0xBAD]
    world.pck.serial = 0xBAD
    assert refusal(world) is Reason.CERTIFICATE_REVOKED
    assert sound.verify().tcb_status is TCBStatus.UP_TO_DATE


# --- dates


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda w: w.tcb_info.update(nextUpdate="2026-06-01T11:59:59Z"), Reason.TCB_INFO_EXPIRED, id="TCB"),
        pytest.param(
            lambda w: w.qe_identity.update(nextUpdate="2026-06-01T11:59:59Z"), Reason.QE_IDENTITY_EXPIRED, id="identity"
        ),
        pytest.param(lambda w: setattr(w.pck_crl, "next_update", NOW - SECOND), Reason.CRL_EXPIRED, id="PCK CRL"),
        pytest.param(lambda w: setattr(w.root_crl, "next_update", NOW - SECOND), Reason.CRL_EXPIRED, id="root CRL"),
        pytest.param(lambda w: setattr(w.pck, "not_after", NOW - SECOND), Reason.CERTIFICATE_EXPIRED, id="PCK"),
        pytest.param(
            lambda w: setattr(w.tcb_signer, "not_after", NOW - SECOND), Reason.CERTIFICATE_EXPIRED, id="signer"
        ),
    ],
)
def test_expired_collateral_is_an_error_and_no_remark(change: Break, reason: Reason) -> None:
    """rats-tls PR #140: expiry was a second result, which callers did not look at."""
    world = sgx()
    change(world)
    assert refusal(world) is reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(
            lambda w: w.tcb_info.update(issueDate="2026-06-01T12:00:01Z"), Reason.TCB_INFO_NOT_YET_VALID, id="TCB Info"
        ),
        pytest.param(
            lambda w: w.qe_identity.update(issueDate="2026-06-01T12:00:01Z"),
            Reason.QE_IDENTITY_NOT_YET_VALID,
            id="QE identity",
        ),
        *[
            pytest.param(
                lambda w, name=name: setattr(getattr(w, name), "not_before", NOW + SECOND),
                Reason.CERTIFICATE_NOT_YET_VALID,
                id=name,
            )
            for name in ("root", "pck_ca", "pck", "tcb_signer")
        ],
    ],
)
def test_what_is_not_yet_valid_is_refused(change: Break, reason: Reason) -> None:
    world = sgx()
    change(world)
    assert refusal(world) is reason


# --- signed text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b'"version":3', b'"version": 3', id="a space"),
        pytest.param(b'"version":3', b'"version":3\n', id="a line break"),
        pytest.param(b'"SGX"', b'"\\u0053GX"', id="an escape"),
        pytest.param(b"00A06D080000", b"00a06d080000", id="another case of hex"),
    ],
)
def test_the_signature_covers_the_bytes_and_not_their_meaning(old: bytes, new: bytes) -> None:
    world = sgx()
    body = compact(world.tcb_info)
    assert TCBInfo.parse(body.replace(old, new)).tcb_levels == TCBInfo.parse(body).tcb_levels

    def respell(collateral: Collateral) -> Collateral:
        return dataclasses.replace(collateral, tcb_info=collateral.tcb_info.replace(old, new))

    world.change_collateral = respell
    assert refusal(world) is Reason.TCB_INFO_SIGNATURE


def test_a_member_that_stands_twice_is_refused_even_if_it_is_signed() -> None:
    world = sgx()
    world.respell_tcb_info = lambda body: body.replace(b'"UpToDate"', b'"Revoked","tcbStatus":"UpToDate"', 1)
    assert json.loads(world.respell_tcb_info(compact(world.tcb_info)))
    assert refusal(world) is Reason.TCB_INFO_MALFORMED


@pytest.mark.parametrize("trailing", [b"XYZ", b"{}", b"\0"])
def test_text_behind_a_document_is_refused_even_if_it_is_signed(trailing: bytes) -> None:
    world = sgx()
    world.respell_tcb_info = lambda body: body + trailing
    assert refusal(world) is Reason.TCB_INFO_MALFORMED
    world = sgx()
    world.respell_qe_identity = lambda body: body + trailing
    assert refusal(world) is Reason.QE_IDENTITY_MALFORMED


# --- bytes that are not what they claim


@pytest.mark.parametrize("behind", [b"\1", bytes(30) + b"claims", bytes(70) + b"\1"])
def test_bytes_behind_a_quote_are_not_ignored(behind: bytes) -> None:
    assert parse_refusal(sgx().quote().encode() + behind) is Reason.QUOTE_TRAILING_BYTES


def test_the_qe_vendor_is_looked_at() -> None:
    """dcap-qvl issue #127."""
    world = sgx()
    world.header = QuoteHeader(version=3, attestation_key_type=2, tee_type=TEEType.SGX, qe_vendor_id=bytes(16))
    assert refusal(world) is Reason.QE_VENDOR_UNKNOWN


AUTH_LENGTH, QE_AUTH_LENGTH, CERT_LENGTH_V3 = 432, 1012, 1048


@pytest.mark.parametrize(
    ("at", "declared"),
    [
        pytest.param(AUTH_LENGTH, b"\xff" * 4, id="authentication data of 4 GiB"),
        pytest.param(QE_AUTH_LENGTH, b"\xff" * 2, id="QE authentication data of 64 KiB"),
        pytest.param(CERT_LENGTH_V3, b"\xff" * 4, id="certification data of 4 GiB"),
    ],
)
def test_a_declared_length_costs_nothing_before_it_is_checked(at: int, declared: bytes) -> None:
    """dcap-qvl issue #129, PR #135."""
    raw = sgx().quote().encode()
    assert parse_refusal(raw[:at] + declared + raw[at + len(declared) :]) is Reason.QUOTE_MALFORMED


def test_deep_nesting_costs_nothing() -> None:
    deep = b"\5\0"
    for _ in range(3000):
        deep = tlv(0x30, deep)
    world = sgx()
    assert world.pck.sgx is not None
    world.pck.sgx.extra = deep
    with pytest.raises(MalformedInput) as caught:
        PCKCertificate.parse(world.pck.der())
    assert caught.value.reason in (Reason.SGX_EXTENSION_MALFORMED, Reason.DER_MALFORMED)
    for document in (b"[" * 500_000, b'{"a":' * 100_000):
        with pytest.raises(MalformedInput) as caught:
            QEIdentity.parse(document)
        assert caught.value.reason is Reason.QE_IDENTITY_MALFORMED


def test_truncated_input_never_ends_in_a_crash() -> None:
    raw = tdx().quote().encode()
    for length in range(0, len(raw), 7):
        assert parse_refusal(raw[:length]) in (Reason.QUOTE_MALFORMED, Reason.QUOTE_VERSION_UNSUPPORTED)


def test_the_outer_certification_data_of_version_4_is_of_type_6() -> None:
    raw = tdx().quote().encode()
    at = 632 + 4 + 64 + 64
    assert raw[at : at + 2] == b"\6\0"
    assert parse_refusal(raw[:at] + b"\5\0" + raw[at + 2 :]) is Reason.QUOTE_MALFORMED


@pytest.mark.parametrize("make", [sgx, tdx])
def test_no_byte_is_left_over_inside_the_authentication_data(make: Callable[[], World]) -> None:
    raw = make().quote().encode()
    at = 432 if make is sgx else 632
    length = int.from_bytes(raw[at : at + 4], "little") + 1
    assert parse_refusal(raw[:at] + length.to_bytes(4, "little") + raw[at + 4 :] + b"\0") is Reason.QUOTE_MALFORMED


# --- bindings


def test_something_behind_the_hash_in_the_qe_report_is_refused() -> None:
    world = sgx()
    world.qe_report_data = world.quote().qe_report.report_data[:63] + b"\1"
    assert refusal(world) is Reason.QE_REPORT_BINDING


@pytest.mark.parametrize("length", [0, 1, 31, 33, 64, 1000])
def test_qe_authentication_data_of_any_length_is_bound(length: int) -> None:
    world = sgx()
    world.qe_auth_data = bytes(length)
    world.verify()
    unbound = dataclasses.replace(world.quote(), qe_auth_data=bytes(length + 1))
    world.change_quote = lambda _: unbound
    assert refusal(world) is Reason.QE_REPORT_BINDING


@pytest.mark.parametrize(
    "value",
    [bytes(64), b"\xff" * 64, raw_public("attestation")[:63] + b"\0"],
    # Keys are new in each process, and would be part of the names that parallel processes have to agree on.
    ids=["zero", "too big", "another y"],
)
def test_an_attestation_key_off_the_curve_is_refused(value: bytes) -> None:
    world = sgx()
    world.attestation_key = value
    assert refusal(world) is Reason.QUOTE_MALFORMED


@pytest.mark.parametrize(
    "signature",
    [bytes(64), bytes(32) + b"\1" * 32, b"\1" * 32 + bytes(32), b"\xff" * 64],
    ids=["both zero", "r zero", "s zero", "too big"],
)
@pytest.mark.parametrize("field", ["signature", "qe_report_signature"])
def test_r_and_s_are_never_zero_or_beyond_the_order(field: str, signature: bytes) -> None:
    world = sgx()
    changes: dict[str, Any] = {field: signature}
    world.change_quote = lambda quote: dataclasses.replace(quote, **changes)
    assert refusal(world) in (Reason.QUOTE_SIGNATURE, Reason.QE_REPORT_SIGNATURE)


def test_header_svns_are_not_used() -> None:
    """They are the host's word; the PCK certificate's SVNs are signed."""
    world = sgx()
    world.header = dataclasses.replace(world.header, qe_svn_and_pce_svn=b"\xff" * 4)
    assert world.pck.sgx is not None
    world.pck.sgx.pce_svn = 10
    assert refusal(world) is Reason.TCB_NOT_SUPPORTED


# --- how facts are told


@pytest.mark.parametrize("flags", [(True, False, False), (False, True, False), (False, False, True)])
def test_what_a_platform_allows_is_not_told_the_wrong_way_round(flags: tuple[bool, bool, bool]) -> None:
    """A check of platform information was inverted: a policy against SMT let just the machines with SMT pass."""
    world = sgx()
    assert world.pck.sgx is not None
    world.pck.sgx.configuration = {arc: b"\xff" if flag else b"\0" for arc, flag in enumerate(flags, 1)}
    facts = world.verify()
    assert (facts.dynamic_platform, facts.cached_keys, facts.smt_enabled) == flags


def test_what_a_certificate_does_not_say_is_not_a_no() -> None:
    world = sgx()
    assert world.pck.sgx is not None
    world.pck.sgx.configuration = {}
    facts = world.verify()
    assert (facts.dynamic_platform, facts.cached_keys, facts.smt_enabled) == (None, None, None)


@pytest.mark.parametrize(
    ("make", "change"),
    [
        pytest.param(sgx, {"attributes": b"\7" + bytes(15)}, id="enclave"),
        pytest.param(tdx, {"td_attributes": b"\1" + bytes(7)}, id="domain"),
        pytest.param(tdx, {"td_attributes": b"\x80" + bytes(7)}, id="domain, a reserved bit of that byte"),
    ],
)
def test_debug_is_not_overlooked_by_default(make: Callable[[], World], change: dict[str, bytes]) -> None:
    """go-tdx-guest #81, #92: whether a domain is under debug was looked at only where somebody asked for it."""
    world = make()
    changes: dict[str, Any] = dict(change)
    world.body = dataclasses.replace(world.body, **changes)
    assert Reason.DEBUG_ENCLAVE in failed(world.verify())
    assert Reason.DEBUG_ENCLAVE not in failed(make().verify())


def test_report_data_that_does_not_match_is_no_remark() -> None:
    """cmcp PR #389, PR #390: it was compared, and the answer was VERIFIED all the same."""
    facts = sgx().verify()
    assert Reason.REPORT_DATA_MISMATCH in failed(facts, expected_report_data=bytes(64))
    assert Reason.REPORT_DATA_MISMATCH not in failed(facts, expected_report_data=facts.report_data)


def failed(facts: VerifiedQuote, **keywords: Any) -> set[Reason]:
    """What a policy of defaults has against these facts."""
    result = appraise(
        facts, policy=Policy(), reference_values=ReferenceValues(), role=Role.WORKLOAD, session=None, **keywords
    )
    assert isinstance(result, Rejected)
    return {check.reason for check in result.checks if not check.passed}


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_a_quote_without_a_chain_is_not_verified(kind: int) -> None:
    """cmcp PR #389, PR #390: a chain was optional, and the answer was VERIFIED without it."""
    world = sgx()
    world.certification_data_type = kind
    assert refusal(world) is Reason.PCK_CERTIFICATE_MISSING


@pytest.mark.parametrize("member", [member for member in MEMBERS if member != "pck_certificate_chain"])
def test_nothing_has_to_be_asked_for_to_be_verified(member: str) -> None:
    """go-tdx-guest #81, #92: collateral and revocation were looked at only where somebody asked for it."""
    document = json.loads(sgx().collateral().to_json())
    del document[member]
    raw = json.dumps(document).encode()
    with pytest.raises(MalformedInput) as caught:
        Collateral.from_json(raw)
    assert caught.value.reason is Reason.COLLATERAL_MALFORMED


def test_verifications_at_the_same_time_do_not_disturb_each_other() -> None:
    """A chain that was remembered for all was changed by one thread while another read it."""
    good, revoked, old = sgx(), sgx(), sgx()
    revoked.pck_crl.revoked = [revoked.pck.serial_number]
    old.tcb_info["tcbLevels"][0]["tcbStatus"] = "OutOfDate"
    anchors = good.trust_anchors
    made = [(world.quote(), world.collateral()) for world in (good, revoked, old)]

    def answer(index: int) -> str:
        quote, collateral = made[index % 3]
        try:
            return verify_quote(quote, collateral, trust_anchors=anchors, now=NOW).tcb_status
        except EAAError as error:
            return error.reason

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(answer, range(60)))
    assert answers == ["UpToDate", "CERTIFICATE_REVOKED", "OutOfDate"] * 20


# --- everything at once


def test_no_single_call_says_yes_while_another_would_say_no() -> None:
    """Intel's library answers in four calls, of which the quote's is content with collateral that the others refuse."""
    for change in (
        lambda w: setattr(w, "tcb_info_signed_by", "foreign"),
        lambda w: setattr(w.pck_crl, "next_update", NOW - SECOND),
        lambda w: w.root_crl.revoked.append(w.pck_ca.serial_number),
    ):
        world = sgx()
        change(world)
        refusal(world)
        with pytest.raises(VerificationError):
            verify_collateral(world.collateral(), trust_anchors=world.trust_anchors, now=NOW)


def test_a_real_quote_with_worthless_collateral_is_refused() -> None:
    """Zero signatures, another FMSPC, junk for an identity and old CRLs at once: one verifier returned True."""
    vector("cases.json")
    case = next(case for case in cases() if case["kind"] == "sgx-v3")
    quote = Quote.parse(vector(case["quote"]).read_bytes())
    good = Collateral.from_json(vector(case["collateral"]).read_bytes())
    worthless: dict[str, Any] = {
        "tcb_info": good.tcb_info.replace(b'"fmspc":"', b'"fmspc":"F', 1),
        "tcb_info_signature": bytes(64),
        "qe_identity": b"junk",
        "qe_identity_signature": bytes(64),
    }
    now = datetime.fromisoformat(case["at"])
    assert verify_quote(quote, good, trust_anchors=INTEL, now=now)
    for names in (*([name] for name in worthless), list(worthless)):
        bad = dataclasses.replace(good, **{name: worthless[name] for name in names})
        with pytest.raises(VerificationError):
            verify_quote(quote, bad, trust_anchors=INTEL, now=now)
    with pytest.raises(VerificationError):
        verify_quote(quote, good, trust_anchors=INTEL, now=datetime(2030, 1, 1, tzinfo=UTC))


def test_a_pem_chain_of_one_signer_is_not_completed_from_elsewhere() -> None:
    world = sgx()
    world.tcb_chain.pop()
    assert pem(world.tcb_signer.der()) == world.collateral().tcb_info_issuer_chain
    assert refusal(world) is Reason.CERTIFICATE_CHAIN


# --- the page that tells of them

NUMBERED = re.compile(
    r"^\| (?P<number>\d+) \| (?P<mistake>[^|]+) \| (?P<known>[^|]*) \| (?P<tests>[^|]+) \|$", re.MULTILINE
)
IDENTIFIER = re.compile(r"CVE-\d|GHSA-|#\d|arXiv")
PRODUCTS = re.compile(
    r"dcap-qvl|go-tdx-guest|go-sev-guest|Open Enclave|rats-tls|Automata|intel-sgx-ra|trustee|cmcp|QVL|TEE-Attestation"
)


def test_each_of_the_31_mistakes_has_its_test() -> None:
    page = (ROOT / "docs" / "manual" / "lessons.md").read_text(encoding="utf-8")
    rows = list(NUMBERED.finditer(page))
    assert [int(row["number"]) for row in rows] == list(range(1, 32))
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row["tests"])
        assert named, row["number"]
        assert set(named) <= texts_by_test().keys()


def test_a_product_is_named_where_a_public_identifier_is() -> None:
    lessons = (ROOT / "docs" / "manual" / "lessons.md").read_text(encoding="utf-8")
    for line in lessons.splitlines():
        if line.startswith("|") and PRODUCTS.search(line):
            assert IDENTIFIER.search(line), line


def test_the_lessons_name_tests_that_exist() -> None:
    page = (ROOT / "docs" / "manual" / "lessons.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    assert named - texts_by_test().keys() == set()
    own = {
        node.name
        for node in ast.parse(Path(__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    about_the_page = {
        "test_the_lessons_name_tests_that_exist",
        "test_each_of_the_31_mistakes_has_its_test",
        "test_a_product_is_named_where_a_public_identifier_is",
    }
    assert {name for name in own if name.startswith("test_")} - named == about_the_page
