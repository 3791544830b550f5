"""DCAP quote verification, one broken link a row: each is named by its own reason."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Any, Final

import pytest

from eaa.collateral.intel import TCBStatus
from eaa.errors import EAAError, Reason
from eaa.evidence.quote import BodyType, CertificationDataType, Quote, TEEType
from eaa.simulator.faults import Fault, Stage
from eaa.simulator.pki import CA_TYPES, CAType
from eaa.simulator.quoting import QuoteLayout
from eaa.simulator.world import TDXWorld, World
from eaa.verify.chain import INTEL, TrustAnchors
from eaa.verify.dcap import VerifiedQuote, verify_quote
from support.simulated import NOW, REPORT_DATA, SEED, sample_enclave

REASONS: Final = {
    # The vendor's certificates.
    Fault.FOREIGN_ROOT: Reason.ROOT_UNTRUSTED,
    Fault.ROOT_COMMON_NAME: Reason.CERTIFICATE_ROLE,
    Fault.ROOT_EXPIRED: Reason.CERTIFICATE_EXPIRED,
    Fault.ROOT_NOT_YET_VALID: Reason.CERTIFICATE_NOT_YET_VALID,
    Fault.ROOT_NOT_SELF_SIGNED: Reason.CERTIFICATE_SIGNATURE,
    Fault.ROOT_NOT_A_CA: Reason.CERTIFICATE_ROLE,
    Fault.ROOT_PATH_LENGTH_ZERO: Reason.CERTIFICATE_ROLE,
    Fault.CA_COMMON_NAME: Reason.CERTIFICATE_ROLE,
    Fault.CA_EXPIRED: Reason.CERTIFICATE_EXPIRED,
    Fault.CA_NOT_YET_VALID: Reason.CERTIFICATE_NOT_YET_VALID,
    Fault.CA_SIGNED_BY_OTHER_KEY: Reason.CERTIFICATE_SIGNATURE,
    Fault.CA_ISSUER_NAME: Reason.CERTIFICATE_CHAIN,
    Fault.CA_NOT_A_CA: Reason.CERTIFICATE_ROLE,
    Fault.CA_WITHOUT_CERT_SIGN: Reason.CERTIFICATE_ROLE,
    Fault.SIGNER_COMMON_NAME: Reason.CERTIFICATE_ROLE,
    Fault.SIGNER_EXPIRED: Reason.CERTIFICATE_EXPIRED,
    Fault.SIGNER_NOT_YET_VALID: Reason.CERTIFICATE_NOT_YET_VALID,
    Fault.SIGNER_SIGNED_BY_OTHER_KEY: Reason.CERTIFICATE_SIGNATURE,
    Fault.SIGNER_IS_A_CA: Reason.CERTIFICATE_ROLE,
    Fault.SIGNER_WITH_SGX_EXTENSION: Reason.CERTIFICATE_ROLE,
    # The platform's certificate.
    Fault.LEAF_COMMON_NAME: Reason.CERTIFICATE_ROLE,
    Fault.LEAF_EXPIRED: Reason.CERTIFICATE_EXPIRED,
    Fault.LEAF_NOT_YET_VALID: Reason.CERTIFICATE_NOT_YET_VALID,
    Fault.LEAF_SIGNED_BY_OTHER_KEY: Reason.CERTIFICATE_SIGNATURE,
    Fault.LEAF_SIGNED_BY_OTHER_KEY_AND_AKI: Reason.CERTIFICATE_CHAIN,
    Fault.LEAF_SIGNED_BY_OTHER_KEY_WITHOUT_AKI: Reason.CERTIFICATE_CHAIN,
    Fault.LEAF_ISSUER_NAME: Reason.CERTIFICATE_CHAIN,
    Fault.LEAF_IS_A_CA: Reason.CERTIFICATE_ROLE,
    Fault.LEAF_WITHOUT_SGX_EXTENSION: Reason.CERTIFICATE_ROLE,
    Fault.LEAF_SGX_EXTENSION_TRUNCATED: Reason.DER_MALFORMED,
    Fault.LEAF_SGX_EXTENSION_15_COMPONENTS: Reason.SGX_EXTENSION_MALFORMED,
    Fault.LEAF_CPU_SVN_DIFFERS: Reason.SGX_EXTENSION_MALFORMED,
    # The quote.
    Fault.FLIP_QUOTE_SIGNATURE: Reason.QUOTE_SIGNATURE,
    Fault.ZERO_QUOTE_SIGNATURE: Reason.QUOTE_SIGNATURE,
    Fault.QUOTE_SIGNED_BY_OTHER_KEY: Reason.QUOTE_SIGNATURE,
    Fault.REPORT_ALTERED: Reason.QUOTE_SIGNATURE,
    Fault.HEADER_ALTERED: Reason.QUOTE_SIGNATURE,
    Fault.FOREIGN_ATTESTATION_KEY: Reason.QE_REPORT_BINDING,
    Fault.ATTESTATION_KEY_OFF_CURVE: Reason.QUOTE_MALFORMED,
    Fault.QE_AUTH_DATA_ALTERED: Reason.QE_REPORT_BINDING,
    Fault.QE_REPORT_DATA_TAIL: Reason.QE_REPORT_BINDING,
    Fault.QE_REPORT_ALTERED: Reason.QE_REPORT_SIGNATURE,
    Fault.QE_REPORT_SIGNED_BY_OTHER_KEY: Reason.QE_REPORT_SIGNATURE,
    Fault.QE_MR_SIGNER: Reason.QE_IDENTITY_MISMATCH,
    Fault.QE_PROD_ID: Reason.QE_IDENTITY_MISMATCH,
    Fault.QE_MISC_SELECT: Reason.QE_IDENTITY_MISMATCH,
    Fault.QE_DEBUG: Reason.QE_IDENTITY_MISMATCH,
    Fault.QE_SVN_BELOW_ALL: Reason.TCB_NOT_SUPPORTED,
    Fault.UNKNOWN_VERSION: Reason.QUOTE_VERSION_UNSUPPORTED,
    Fault.UNKNOWN_ATTESTATION_KEY_TYPE: Reason.ATTESTATION_KEY_TYPE_UNSUPPORTED,
    Fault.UNKNOWN_TEE_TYPE: Reason.TEE_TYPE_UNSUPPORTED,
    Fault.TDX_IN_VERSION_3: Reason.TEE_TYPE_UNSUPPORTED,
    Fault.UNKNOWN_QE_VENDOR: Reason.QE_VENDOR_UNKNOWN,
    Fault.AUTH_DATA_TOO_SHORT: Reason.QUOTE_MALFORMED,
    Fault.AUTH_DATA_TOO_LONG: Reason.QUOTE_MALFORMED,
    Fault.AUTH_DATA_HUGE: Reason.QUOTE_MALFORMED,
    Fault.AUTH_DATA_SLACK: Reason.QUOTE_MALFORMED,
    Fault.TRAILING_BYTES: Reason.QUOTE_TRAILING_BYTES,
    Fault.CERTIFICATION_DATA_PPID: Reason.PCK_CERTIFICATE_MISSING,
    Fault.CERTIFICATION_DATA_LEAF_ONLY: Reason.PCK_CERTIFICATE_MISSING,
    Fault.CERTIFICATION_DATA_UNKNOWN: Reason.CERTIFICATION_DATA_UNSUPPORTED,
    Fault.CHAIN_WITHOUT_ROOT: Reason.CERTIFICATE_CHAIN,
    Fault.CHAIN_WITHOUT_CA: Reason.CERTIFICATE_CHAIN,
    Fault.CHAIN_WITH_EXTRA: Reason.CERTIFICATE_CHAIN,
    Fault.CHAIN_JUNK: Reason.CERTIFICATE_MALFORMED,
    Fault.OUTER_CERTIFICATION_TYPE: Reason.QUOTE_MALFORMED,
    Fault.OUTER_CERTIFICATION_TOO_LONG: Reason.QUOTE_MALFORMED,
    Fault.UNKNOWN_BODY_TYPE: Reason.QUOTE_BODY_UNSUPPORTED,
    # Revocation.
    Fault.LEAF_REVOKED: Reason.CERTIFICATE_REVOKED,
    Fault.CA_REVOKED: Reason.CERTIFICATE_REVOKED,
    Fault.SIGNER_REVOKED: Reason.CERTIFICATE_REVOKED,
    Fault.ROOT_REVOKED: Reason.CERTIFICATE_REVOKED,
    Fault.ROOT_CRL_EXPIRED: Reason.CRL_EXPIRED,
    Fault.ROOT_CRL_NOT_YET_VALID: Reason.CRL_NOT_YET_VALID,
    Fault.ROOT_CRL_SIGNED_BY_OTHER_KEY: Reason.CRL_SIGNATURE,
    Fault.ROOT_CRL_OF_OTHER_ISSUER: Reason.CRL_ISSUER,
    Fault.ROOT_CRL_MISSING: Reason.CRL_MALFORMED,
    Fault.ROOT_CRL_WITHOUT_NUMBER: Reason.CRL_MALFORMED,
    Fault.ROOT_CRL_WITHOUT_AKI: Reason.CRL_MALFORMED,
    Fault.PCK_CRL_EXPIRED: Reason.CRL_EXPIRED,
    Fault.PCK_CRL_NOT_YET_VALID: Reason.CRL_NOT_YET_VALID,
    Fault.PCK_CRL_SIGNED_BY_OTHER_KEY: Reason.CRL_SIGNATURE,
    Fault.PCK_CRL_OF_OTHER_CA: Reason.CRL_ISSUER,
    Fault.PCK_CRL_MISSING: Reason.CRL_MALFORMED,
    Fault.PCK_CRL_WITHOUT_NUMBER: Reason.CRL_MALFORMED,
    Fault.PCK_CRL_WITHOUT_AKI: Reason.CRL_MALFORMED,
    Fault.PCK_CRL_CHAIN_FOREIGN_ROOT: Reason.ROOT_UNTRUSTED,
    # TCB Info.
    Fault.TCB_INFO_SIGNED_BY_OTHER_KEY: Reason.TCB_INFO_SIGNATURE,
    Fault.TCB_INFO_SIGNED_BY_LEAF: Reason.CERTIFICATE_CHAIN,
    Fault.TCB_INFO_SIGNED_BY_LEAF_UNDER_ROOT: Reason.CERTIFICATE_ROLE,
    Fault.TCB_INFO_SIGNED_BY_CA: Reason.CERTIFICATE_ROLE,
    Fault.TCB_INFO_CHAIN_FOREIGN_ROOT: Reason.ROOT_UNTRUSTED,
    Fault.TCB_INFO_CHAIN_WITHOUT_ROOT: Reason.CERTIFICATE_CHAIN,
    Fault.TCB_INFO_ALTERED: Reason.TCB_INFO_SIGNATURE,
    Fault.TCB_INFO_STATUS_ALTERED: Reason.TCB_INFO_SIGNATURE,
    Fault.TCB_INFO_WHITESPACE: Reason.TCB_INFO_SIGNATURE,
    Fault.TCB_INFO_DUPLICATE_MEMBER: Reason.TCB_INFO_MALFORMED,
    Fault.TCB_INFO_TRAILING_TEXT: Reason.TCB_INFO_MALFORMED,
    Fault.TCB_INFO_DEEP: Reason.TCB_INFO_MALFORMED,
    Fault.TCB_INFO_EXPIRED: Reason.TCB_INFO_EXPIRED,
    Fault.TCB_INFO_NOT_YET_VALID: Reason.TCB_INFO_NOT_YET_VALID,
    Fault.TCB_INFO_FMSPC: Reason.TCB_INFO_MISMATCH,
    Fault.TCB_INFO_PCE_ID: Reason.TCB_INFO_MISMATCH,
    Fault.TCB_INFO_TYPE: Reason.TCB_INFO_MALFORMED,
    Fault.TCB_INFO_VERSION: Reason.TCB_INFO_MALFORMED,
    Fault.TCB_INFO_ID_TDX: Reason.TCB_INFO_MISMATCH,
    Fault.TCB_INFO_ID_UNKNOWN: Reason.TCB_INFO_MALFORMED,
    Fault.TCB_INFO_STATUS_UNKNOWN: Reason.TCB_INFO_MALFORMED,
    Fault.TCB_INFO_15_COMPONENTS: Reason.TCB_INFO_MALFORMED,
    Fault.TCB_INFO_17_COMPONENTS: Reason.TCB_INFO_MALFORMED,
    Fault.TCB_INFO_SVN_OUT_OF_RANGE: Reason.TCB_INFO_MALFORMED,
    Fault.TCB_INFO_DUPLICATE_LEVEL: Reason.TCB_INFO_MALFORMED,
    Fault.TCB_INFO_NO_LEVELS: Reason.TCB_NOT_SUPPORTED,
    Fault.TCB_BELOW_ALL_LEVELS: Reason.TCB_NOT_SUPPORTED,
    Fault.PCE_SVN_BELOW_ALL_LEVELS: Reason.TCB_NOT_SUPPORTED,
    # QE identity.
    Fault.QE_IDENTITY_SIGNED_BY_OTHER_KEY: Reason.QE_IDENTITY_SIGNATURE,
    Fault.QE_IDENTITY_SIGNED_BY_LEAF: Reason.CERTIFICATE_CHAIN,
    Fault.QE_IDENTITY_SIGNED_BY_LEAF_UNDER_ROOT: Reason.CERTIFICATE_ROLE,
    Fault.QE_IDENTITY_SIGNED_BY_CA: Reason.CERTIFICATE_ROLE,
    Fault.QE_IDENTITY_CHAIN_FOREIGN_ROOT: Reason.ROOT_UNTRUSTED,
    Fault.QE_IDENTITY_CHAIN_WITHOUT_ROOT: Reason.CERTIFICATE_CHAIN,
    Fault.QE_IDENTITY_ALTERED: Reason.QE_IDENTITY_SIGNATURE,
    Fault.QE_IDENTITY_WHITESPACE: Reason.QE_IDENTITY_SIGNATURE,
    Fault.QE_IDENTITY_DUPLICATE_MEMBER: Reason.QE_IDENTITY_MALFORMED,
    Fault.QE_IDENTITY_TRAILING_TEXT: Reason.QE_IDENTITY_MALFORMED,
    Fault.QE_IDENTITY_EXPIRED: Reason.QE_IDENTITY_EXPIRED,
    Fault.QE_IDENTITY_NOT_YET_VALID: Reason.QE_IDENTITY_NOT_YET_VALID,
    Fault.QE_IDENTITY_ID_TD_QE: Reason.QE_IDENTITY_MISMATCH,
    Fault.QE_IDENTITY_ID_QVE: Reason.QE_IDENTITY_MISMATCH,
    Fault.QE_IDENTITY_VERSION_1: Reason.QE_IDENTITY_MALFORMED,
    Fault.QE_IDENTITY_VERSION_3: Reason.QE_IDENTITY_MALFORMED,
    Fault.QE_IDENTITY_STATUS_NOT_FOR_ENCLAVES: Reason.QE_IDENTITY_MALFORMED,
    Fault.QE_IDENTITY_STATUS_SW_HARDENING: Reason.QE_IDENTITY_MALFORMED,
    Fault.QE_IDENTITY_STATUS_OUT_OF_DATE_CONFIGURATION: Reason.QE_IDENTITY_MALFORMED,
    Fault.QE_IDENTITY_NO_LEVELS: Reason.TCB_NOT_SUPPORTED,
    # Trust domains.
    Fault.TD_IN_VERSION_3: Reason.TEE_TYPE_UNSUPPORTED,
    Fault.TD_SEAM_SIGNER: Reason.TDX_MODULE_MISMATCH,
    Fault.TD_SEAM_ATTRIBUTES: Reason.TDX_MODULE_MISMATCH,
    Fault.TD_MODULE_UNKNOWN: Reason.TDX_MODULE_MISMATCH,
    Fault.TD_MODULE_BELOW_ALL: Reason.TCB_NOT_SUPPORTED,
    Fault.TD_CURRENT_MODULE_BELOW_ALL: Reason.TCB_NOT_SUPPORTED,
    Fault.TD_MODULE_IDENTITIES_MISSING: Reason.TDX_MODULE_MISMATCH,
    Fault.TD_MODULE_STATUS_NOT_FOR_MODULES: Reason.TCB_NOT_SUPPORTED,
    Fault.TD_TCB_INFO_ID_SGX: Reason.TCB_INFO_MISMATCH,
    Fault.TD_TCB_INFO_VERSION_2: Reason.TCB_INFO_MALFORMED,
    Fault.TD_TCB_INFO_15_COMPONENTS: Reason.TCB_INFO_MALFORMED,
    Fault.TD_QE_IDENTITY_ID_QE: Reason.QE_IDENTITY_MISMATCH,
    Fault.TD_COMPONENTS_BELOW_ALL: Reason.TCB_NOT_SUPPORTED,
}
STATUSES: Final = {
    Fault.OUTDATED_COMPONENT: TCBStatus.OUT_OF_DATE,
    Fault.OUTDATED_TD_COMPONENT: TCBStatus.OUT_OF_DATE,
    Fault.OUTDATED_TD_MODULE: TCBStatus.OUT_OF_DATE,
    Fault.RELAUNCH_TD_MODULE: TCBStatus.TD_RELAUNCH_ADVISED,
}
"""Faults that change what the verifier says, and nothing that it refuses."""
HARMLESS: Final = [fault for fault in Fault if fault.is_harmless]
CONVERGED: Final = {
    TCBStatus.UP_TO_DATE: TCBStatus.OUT_OF_DATE,
    TCBStatus.SW_HARDENING_NEEDED: TCBStatus.OUT_OF_DATE,
    TCBStatus.CONFIGURATION_NEEDED: TCBStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TCBStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: TCBStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TCBStatus.OUT_OF_DATE: TCBStatus.OUT_OF_DATE,
    TCBStatus.OUT_OF_DATE_CONFIGURATION_NEEDED: TCBStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
}


def world(*faults: Fault, **options: Any) -> World:
    return World.create(now=NOW, enclave=sample_enclave(), faults=faults, seed=SEED, **options)


def domain_world(*faults: Fault, **options: Any) -> TDXWorld:
    return TDXWorld.create(now=NOW, faults=faults, seed=SEED, **options)


def world_of(fault: Fault) -> World | TDXWorld:
    return domain_world(fault) if fault.is_tdx else world(fault)


def anchors(of: World | TDXWorld) -> TrustAnchors:
    return TrustAnchors(frozenset({hashlib.sha256(of.trust_anchor).digest()}))


def verify(of: World | TDXWorld, *, now: datetime = NOW, grace: timedelta = timedelta(0)) -> VerifiedQuote:
    return verify_quote(Quote.parse(of.quote), of.collateral, trust_anchors=anchors(of), now=now, grace=grace)


def reason_of(of: World | TDXWorld, **arguments: Any) -> Reason:
    with pytest.raises(EAAError) as caught:
        verify(of, **arguments)
    assert caught.value.exit_code == 3
    return caught.value.reason


def test_every_fault_has_its_row() -> None:
    assert set(REASONS) | set(STATUSES) | set(HARMLESS) == set(Fault)
    assert set(STATUSES) == {fault for fault in Fault if fault.is_outdated}


@pytest.mark.parametrize(("fault", "reason"), REASONS.items(), ids=lambda value: getattr(value, "name", None))
def test_verification_names_the_one_link_that_is_broken(fault: Fault, reason: Reason) -> None:
    assert reason_of(world_of(fault)) is reason


@pytest.mark.parametrize(("fault", "status"), STATUSES.items(), ids=lambda value: getattr(value, "name", None))
def test_what_is_old_is_named_and_not_refused(fault: Fault, status: TCBStatus) -> None:
    verified = verify(world_of(fault))
    assert verified.tcb_status is status
    launch, current = verified.tcb.launch.shortfalls, verified.tcb.current.shortfalls
    assert bool(launch)
    assert (launch == current) is (status is TCBStatus.OUT_OF_DATE)


@pytest.mark.parametrize(
    "fault",
    [
        fault
        for fault, reason in REASONS.items()
        if fault.stage is Stage.COLLATERAL and fault not in (Fault.TCB_INFO_ID_TDX, Fault.QE_IDENTITY_ID_TD_QE)
    ],
    ids=lambda fault: fault.name,
)
def test_a_trust_domains_documents_are_held_to_the_same(fault: Fault) -> None:
    assert reason_of(domain_world(fault)) is REASONS[fault]


@pytest.mark.parametrize("fault", HARMLESS, ids=lambda fault: fault.name)
def test_what_is_unusual_but_right_verifies(fault: Fault) -> None:
    verified = verify(world_of(fault))
    assert verified.tcb_status is TCBStatus.UP_TO_DATE
    assert verified.padding == (70 if fault is Fault.HARMLESS_TRAILING_ZEROS else 0)


def test_different_evaluation_numbers_are_facts() -> None:
    verified = verify(world(Fault.HARMLESS_EVALUATION_NUMBERS))
    assert (verified.tcb_info_evaluation_number, verified.qe_identity_evaluation_number) == (5, 21)
    assert verified.tcb_evaluation_data_number == 5


@pytest.mark.parametrize("ca", CA_TYPES)
@pytest.mark.parametrize("qe_status", ["UpToDate", "OutOfDate"])
@pytest.mark.parametrize("tcb_status", CONVERGED)
def test_the_simulated_status_is_the_verified_one(tcb_status: TCBStatus, qe_status: str, ca: CAType) -> None:
    options = {"advisory_ids": ("INTEL-SA-00001",), "qe_advisory_ids": ("INTEL-SA-00002",)}
    verified = verify(world(ca=ca, tcb_status=tcb_status, qe_status=qe_status, **options))
    assert verified.tcb_status is (tcb_status if qe_status == "UpToDate" else CONVERGED[tcb_status])
    assert verified.advisory_ids == ("INTEL-SA-00001", "INTEL-SA-00002")
    assert verified.ca == ca


@pytest.mark.parametrize("options", [{"tcb_status": "Revoked"}, {"qe_status": "Revoked"}])
def test_a_revoked_tcb_is_an_error(options: dict[str, str]) -> None:
    assert reason_of(world(**options)) is Reason.TCB_REVOKED


def test_the_facts_are_those_of_the_platform() -> None:
    good = world()
    verified = verify(good)
    model = good.platform.model
    assert (verified.fmspc, verified.pce_id, verified.ppid) == (model.fmspc, model.pce_id, good.platform.ppid)
    assert verified.qe_isv_svn == model.qe_svn
    assert verified.trust_anchor == hashlib.sha256(good.trust_anchor).digest()
    assert verified.simulated
    assert verified.report_data == REPORT_DATA


def test_a_simulated_quote_is_nothing_under_intels_root() -> None:
    good = world()
    with pytest.raises(EAAError) as caught:
        verify_quote(Quote.parse(good.quote), good.collateral, trust_anchors=INTEL, now=NOW)
    assert caught.value.reason is Reason.ROOT_UNTRUSTED


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("certification", CertificationDataType, ids=lambda kind: kind.name)
def test_an_enclaves_quote_verifies_in_every_version(version: int, certification: CertificationDataType) -> None:
    good = world(layout=QuoteLayout(version=version, certification=certification))
    verified = verify(good)
    assert verified.tcb_status is TCBStatus.UP_TO_DATE
    assert (verified.quote.header.version, verified.certification_data_type) == (version, certification)
    assert verified.ppid == good.platform.ppid


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        (4, BodyType.TD_REPORT_10),
        (5, BodyType.TD_REPORT_10),
        (5, BodyType.TD_REPORT_15),
        (5, BodyType.TD_REPORT_15_EXTENDED),
    ],
)
@pytest.mark.parametrize("certification", CertificationDataType, ids=lambda kind: kind.name)
def test_a_trust_domains_quote_verifies_in_every_version(
    version: int, kind: BodyType, certification: CertificationDataType
) -> None:
    good = domain_world(kind=kind, layout=QuoteLayout(version=version, certification=certification))
    verified = verify(good)
    assert (verified.tee, verified.tcb_status) == (TEEType.TDX, TCBStatus.UP_TO_DATE)
    assert (verified.quote.header.version, verified.quote.body_type) == (version, kind)
    assert verified.body == good.domain.report(REPORT_DATA, kind=kind)


@pytest.mark.parametrize(
    ("days", "reason"),
    [(-2, Reason.CERTIFICATE_NOT_YET_VALID), (31, Reason.CRL_EXPIRED), (9000, Reason.CERTIFICATE_EXPIRED)],
)
def test_a_good_world_is_good_for_thirty_days(days: int, reason: Reason) -> None:
    assert verify(world(), now=NOW + timedelta(days=29)).tcb_status is TCBStatus.UP_TO_DATE
    assert reason_of(world(), now=NOW + timedelta(days=days)) is reason


def test_grace_is_for_documents_and_shows() -> None:
    verified = verify(world(), now=NOW + timedelta(days=31), grace=timedelta(days=2))
    assert {name for name, _ in verified.collateral_expired} == {"PCK CRL", "TCB Info", "QE identity"}


def test_two_worlds_do_not_mix() -> None:
    """Collateral of another vendor is not believed, even if it says the same."""
    one, other = world(), World.create(now=NOW, enclave=sample_enclave())
    with pytest.raises(EAAError) as caught:
        verify_quote(Quote.parse(one.quote), other.collateral, trust_anchors=anchors(one), now=NOW)
    assert caught.value.reason is Reason.ROOT_UNTRUSTED
