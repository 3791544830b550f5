"""Verified facts for tests of judgement: what `verify` would establish, without the signatures it would check."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from eaa.appraise.reference_values import ReferenceValue
from eaa.appraise.result import Attests, Role
from eaa.collateral.intel import SVNLevel, TCBInfo, TCBLevel, TCBStatus
from eaa.evidence.quote import ECDSA_P256, Quote, QuoteHeader, TEEType
from eaa.evidence.sgx import EnclaveReport
from eaa.evidence.tdx import TDReport
from eaa.verify.dcap import VerifiedQuote
from eaa.verify.tcb import PlatformMatch, SVNMatch, TCBEvaluation, TCBFacts

NOW: Final = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ROOT: Final = b"\x0a" * 32
OTHER_ROOT: Final = b"\x0b" * 32
MR_ENCLAVE: Final = b"\x01" * 32
MR_SIGNER: Final = b"\x02" * 32
MR_TD: Final = b"\x03" * 48
REPORT_DATA: Final = bytes(range(64))

PRODUCTION: Final = bytes.fromhex("05000000000000000300000000000000")
DEBUG: Final = bytes.fromhex("07000000000000000300000000000000")
SEPT_VE_DISABLE: Final = bytes.fromhex("0000001000000000")
"""The attributes of a domain that nobody can take memory from."""


def enclave_report(**changes: Any) -> EnclaveReport:
    """A report of a production enclave."""
    report = EnclaveReport(
        cpu_svn=bytes(16),
        misc_select=0,
        attributes=PRODUCTION,
        mr_enclave=MR_ENCLAVE,
        mr_signer=MR_SIGNER,
        isv_prod_id=7,
        isv_svn=3,
        report_data=REPORT_DATA,
    )
    return replace(report, **changes)


def td_report(**changes: Any) -> TDReport:
    """A report of a trust domain that is not under debug."""
    measurements = dict.fromkeys(("mr_config_id", "mr_owner", "mr_owner_config"), bytes(48))
    registers = dict.fromkeys(("rtmr0", "rtmr1", "rtmr2", "rtmr3"), bytes(48))
    report = TDReport(
        tee_tcb_svn=bytes(16),
        mr_seam=bytes(48),
        mr_signer_seam=bytes(48),
        seam_attributes=bytes(8),
        td_attributes=SEPT_VE_DISABLE,
        xfam=bytes(8),
        mr_td=MR_TD,
        report_data=REPORT_DATA,
        **measurements,
        **registers,
    )
    return replace(report, **changes)


def quote_of(body: EnclaveReport | TDReport) -> Quote:
    """A quote with this body; its signatures are zeros."""
    is_sgx = isinstance(body, EnclaveReport)
    header = QuoteHeader(
        version=3 if is_sgx else 4,
        attestation_key_type=ECDSA_P256,
        tee_type=TEEType.SGX if is_sgx else TEEType.TDX,
    )
    return Quote(
        header=header,
        body=body,
        signature=bytes(64),
        attestation_key=bytes(64),
        qe_report=enclave_report(),
        qe_report_signature=bytes(64),
        qe_auth_data=bytes(32),
        certification_data_type=5,
        certification_data=b"chain",
        signed_bytes=header.encode() + body.encode(),
    )


def tcb_facts(**changes: Any) -> TCBFacts:
    """The only level there is was reached, by everything."""
    components = (0,) * 16
    shared: dict[str, Any] = {"tcb_date": NOW, "tcb_status": TCBStatus.UP_TO_DATE, "advisory_ids": ()}
    level = TCBLevel(sgx_components=components, pce_svn=13, tdx_components=None, **shared)
    info = TCBInfo(
        body=b"",
        id="SGX",
        version=3,
        issue_date=NOW,
        next_update=NOW,
        fmspc=bytes(6),
        pce_id=bytes(2),
        tcb_evaluation_data_number=17,
        tdx_module=None,
        tdx_module_identities=(),
        tcb_levels=(level,),
    )
    platform = PlatformMatch(tcb_components=components, pce_svn=13, tee_tcb_svn=None, level=level, tcb_info=info)
    qe_level = SVNLevel(isv_svn=8, **shared)
    qe = SVNMatch(what="quoting enclave", svn=8, level=qe_level, levels=(qe_level,))
    evaluation = TCBEvaluation(platform=platform, quoting_enclave=qe, tdx_module=None, **shared)
    facts = TCBFacts(tcb_status=TCBStatus.UP_TO_DATE, tcb_date=NOW, current=evaluation, launch=evaluation)
    return replace(facts, **changes)


def verified(body: EnclaveReport | TDReport | None = None, **changes: Any) -> VerifiedQuote:
    """The facts of an up-to-date platform."""
    quote = quote_of(body or enclave_report())
    facts = VerifiedQuote(
        quote=quote,
        tee=quote.header.tee_type,
        tcb_status=TCBStatus.UP_TO_DATE,
        advisory_ids=(),
        launch_advisory_ids=(),
        tcb_date=NOW,
        tcb=tcb_facts(),
        fmspc=bytes(6),
        pce_id=bytes(2),
        ppid=bytes(16),
        platform_instance_id=None,
        cpu_svn=bytes(16),
        pce_svn=13,
        sgx_type=0,
        dynamic_platform=None,
        cached_keys=None,
        smt_enabled=None,
        ca="processor",
        pck_certificate_from="quote",
        certification_path=(("PCK", bytes(32)), ("PCK CA", bytes(32)), ("root", ROOT)),
        trust_anchor=ROOT,
        simulated=True,
        tcb_evaluation_data_number=17,
        tcb_info_evaluation_number=17,
        qe_identity_evaluation_number=17,
        qe_isv_svn=8,
        root_crl_number=1,
        pck_crl_number=1,
        issued=(("TCB Info", NOW),),
        earliest_expiration=NOW,
        expirations=(("TCB Info", NOW),),
        collateral_expired=(),
        verified_at=NOW,
    )
    return replace(facts, **changes)


def reference_value(name: str = "app", **changes: Any) -> ReferenceValue:
    """The value that fits `verified()` in the role of a workload."""
    value = ReferenceValue(
        name=name, role=Role.WORKLOAD, attests=Attests.PROCESS, trust_anchor=ROOT, mr_enclave=MR_ENCLAVE
    )
    return replace(value, **changes)
