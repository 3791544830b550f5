"""An independent verifier judges our bytes: dcap-qvl, which shares no line with this project.

It accepts the simulator's quotes with exactly the status that was simulated, and refuses what the faults broke. Every
test here fails, and does not skip, where dcap-qvl is not installed: without it nothing outside our own code would have
seen these bytes.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from datetime import timedelta
from typing import Any, Final

import pytest

from eaa.simulator.faults import Fault
from eaa.simulator.model import QE_STATUSES, TCB_STATUSES, PlatformOptions
from eaa.simulator.pki import CA_TYPES, CAType, SimulatedPKI
from eaa.simulator.platform import Platform
from eaa.simulator.quoting import QuoteLayout
from eaa.simulator.world import TDXWorld, World
from support.simulated import NOW, REPORT_DATA, SEED, sample_enclave

PLATFORMS: Final = list(itertools.product(CA_TYPES, TCB_STATUSES, QE_STATUSES))
_WORSE: Final = {
    "UpToDate": "OutOfDate",
    "SWHardeningNeeded": "OutOfDate",
    "ConfigurationNeeded": "OutOfDateConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded": "OutOfDateConfigurationNeeded",
    "OutOfDate": "OutOfDate",
    "OutOfDateConfigurationNeeded": "OutOfDateConfigurationNeeded",
}
"""Platform status -> status together with a quoting enclave that is out of date."""
_LENIENT: Final = frozenset(
    {
        # It takes the root as given and looks neither at its dates nor at its constraints.
        *("ROOT_COMMON_NAME", "ROOT_EXPIRED", "ROOT_NOT_YET_VALID", "ROOT_NOT_SELF_SIGNED", "ROOT_NOT_A_CA"),
        *("ROOT_PATH_LENGTH_ZERO", "PCK_CRL_CHAIN_FOREIGN_ROOT", "CHAIN_WITHOUT_ROOT", "CHAIN_WITH_EXTRA"),
        *("TCB_INFO_CHAIN_FOREIGN_ROOT", "TCB_INFO_CHAIN_WITHOUT_ROOT"),
        *("QE_IDENTITY_CHAIN_FOREIGN_ROOT", "QE_IDENTITY_CHAIN_WITHOUT_ROOT"),
        # It does not look at the role of a certificate: a PCK may sign TCB Info.
        *("SIGNER_COMMON_NAME", "SIGNER_WITH_SGX_EXTENSION", "CA_COMMON_NAME", "LEAF_COMMON_NAME"),
        *("TCB_INFO_SIGNED_BY_LEAF", "QE_IDENTITY_SIGNED_BY_LEAF"),
        *("LEAF_SGX_EXTENSION_15_COMPONENTS", "LEAF_CPU_SVN_DIFFERS"),
        *("QE_REPORT_DATA_TAIL", "AUTH_DATA_SLACK", "TRAILING_BYTES"),
        *("ROOT_CRL_NOT_YET_VALID", "ROOT_CRL_WITHOUT_NUMBER", "ROOT_CRL_WITHOUT_AKI"),
        *("PCK_CRL_NOT_YET_VALID", "PCK_CRL_WITHOUT_NUMBER", "PCK_CRL_WITHOUT_AKI"),
        *("TCB_INFO_PCE_ID", "TCB_INFO_TYPE", "TCB_INFO_VERSION", "TCB_INFO_DUPLICATE_LEVEL", "TCB_INFO_DEEP"),
        *("QE_IDENTITY_STATUS_NOT_FOR_ENCLAVES", "QE_IDENTITY_STATUS_OUT_OF_DATE_CONFIGURATION"),
    }
)
"""Faults that this judge lets pass; our own verifier refuses them (tests/unit/test_simulator_verify.py)."""
_STRICT: Final = frozenset(
    {
        # Authentication data of another length than 32.
        *(Fault.HARMLESS_EMPTY_QE_AUTH_DATA, Fault.HARMLESS_LONG_QE_AUTH_DATA),
        # Intel's verifier finds the certificates of a chain by their names, this one takes the first for the leaf.
        Fault.HARMLESS_CHAIN_REVERSED,
    }
)
"""What this judge refuses although Intel's verifier does not."""
_STATUSES: Final = {
    # It takes the levels of an identity in the order in which they stand.
    Fault.HARMLESS_LEVELS_ASCENDING: "OutOfDate",
    Fault.OUTDATED_COMPONENT: "OutOfDate",
    Fault.OUTDATED_TD_COMPONENT: "OutOfDate",
    Fault.OUTDATED_TD_MODULE: "OutOfDate",
    Fault.RELAUNCH_TD_MODULE: "TDRelaunchAdvised",
}
"""What it says where it accepts and does not say UpToDate."""


def load_judge() -> Any:
    """The judge's module; a failure, and no skip, where it is not installed."""
    try:
        return importlib.import_module("dcap_qvl")
    except ImportError as error:
        pytest.fail(f"the independent judge is not installed ({error}): pip install dcap-qvl")


@pytest.fixture(scope="module")
def dcap_qvl() -> Any:
    return load_judge()


def test_independent_judge_cannot_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dcap_qvl", None)
    with pytest.raises(pytest.fail.Exception):
        load_judge()


def judge(dcap_qvl: Any, world: World | TDXWorld, *, quote: bytes | None = None) -> Any:
    """The judge's report on a world's quote; ValueError where it refuses."""
    collateral = dcap_qvl.QuoteCollateralV3.from_json(world.collateral.to_json().decode())
    seconds = int(world.now.timestamp())
    return dcap_qvl.verify_with_root_ca(quote or world.quote, collateral, world.trust_anchor, seconds)


@pytest.mark.parametrize(("ca", "tcb_status", "qe_status"), PLATFORMS)
def test_independent_judge_sees_the_status_that_was_simulated(
    dcap_qvl: Any, ca: CAType, tcb_status: str, qe_status: str
) -> None:
    world = World.create(
        now=NOW,
        seed=SEED,
        enclave=sample_enclave(),
        ca=ca,
        tcb_status=tcb_status,
        qe_status=qe_status,
        advisory_ids=("INTEL-SA-00615", "INTEL-SA-00657"),
        qe_advisory_ids=("INTEL-SA-00828",),
    )
    if "Revoked" in (tcb_status, qe_status):
        with pytest.raises(ValueError, match="Revoked"):
            judge(dcap_qvl, world)
        return
    report = judge(dcap_qvl, world)
    assert report.status == (_WORSE[tcb_status] if qe_status == "OutOfDate" else tcb_status)
    assert set(report.advisory_ids) == {"INTEL-SA-00615", "INTEL-SA-00657", "INTEL-SA-00828"}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(PlatformOptions(fmspc=bytes.fromhex("00a067110000"), ca="processor"), id="an FMSPC of E3"),
        pytest.param(PlatformOptions(cpu_svn=bytes(16), pce_svn=0), id="the first TCB there ever was"),
        pytest.param(PlatformOptions(cpu_svn=b"\xff" * 16, tcb_status="OutOfDate"), id="every component at 255"),
        pytest.param(PlatformOptions(pce_id=b"\x01\x02", pce_svn=0x7FFF), id="another PCE"),
        pytest.param(PlatformOptions(qe_svn=300, tcb_evaluation_data_number=255), id="other numbers"),
        pytest.param(PlatformOptions(sgx_type=2), id="scalable with integrity"),
        pytest.param(
            PlatformOptions(dynamic_platform=False, cached_keys=False, smt_enabled=False), id="no configuration flag"
        ),
    ],
)
def test_independent_judge_takes_every_kind_of_platform(dcap_qvl: Any, options: PlatformOptions) -> None:
    world = World.create(now=NOW, seed=SEED, enclave=sample_enclave(), **options)
    assert judge(dcap_qvl, world).status == options.get("tcb_status", "UpToDate")


def test_independent_judge_reads_what_we_wrote(dcap_qvl: Any) -> None:
    world = World.create(now=NOW, seed=SEED, enclave=sample_enclave(), report_data=REPORT_DATA)
    quote = dcap_qvl.parse_quote(world.quote)
    assert quote.report.report_data == REPORT_DATA
    assert quote.report.mr_enclave == world.enclave.identity.mr_enclave
    assert quote.report.mr_signer == world.enclave.identity.mr_signer
    assert quote.header.user_data == world.platform.quoting_enclave.qe_id + bytes(4)
    pck = dcap_qvl.parse_pck_extension_from_pem(world.platform.pck_pem)
    model = world.platform.model
    assert (pck.fmspc, pck.cpu_svn, pck.pce_svn, pck.pce_id) == (
        model.fmspc,
        model.cpu_svn,
        model.pce_svn,
        model.pce_id,
    )
    assert (pck.ppid, pck.sgx_type, len(pck.platform_instance_id)) == (world.platform.ppid, 1, 16)


def test_independent_judge_refuses_a_debug_enclave(dcap_qvl: Any) -> None:
    """Debug is appraisal for us, but the bytes must say it: this judge refuses them by default."""
    world = World.create(now=NOW, seed=SEED, enclave=sample_enclave("debugged", debug=True))
    with pytest.raises(ValueError, match="Debug mode"):
        judge(dcap_qvl, world)


def test_independent_judge_trusts_nothing_of_ours_under_intels_root(dcap_qvl: Any) -> None:
    world = World.create(now=NOW, seed=SEED, enclave=sample_enclave())
    collateral = dcap_qvl.QuoteCollateralV3.from_json(world.collateral.to_json().decode())
    with pytest.raises(ValueError, match="Verification failed"):
        dcap_qvl.verify(world.quote, collateral, int(NOW.timestamp()))


@pytest.mark.parametrize("layout", [QuoteLayout(), QuoteLayout(chain_terminator=False), QuoteLayout(padding=70)])
def test_independent_judge_takes_every_layout_of_version_3(dcap_qvl: Any, layout: QuoteLayout) -> None:
    world = World.create(now=NOW, seed=SEED, enclave=sample_enclave())
    quote = world.enclave.quote(REPORT_DATA, layout=layout)
    assert judge(dcap_qvl, world, quote=quote).status == "UpToDate"


def test_independent_judge_takes_a_platform_that_was_stored_and_loaded(dcap_qvl: Any) -> None:
    stored = Platform.create(now=NOW, seed=SEED, ca="processor", tcb_status="SWHardeningNeeded").to_files()
    platform = Platform.from_files(stored)
    later = NOW + timedelta(days=200)
    enclave = platform.launch(*sample_enclave())
    world = World(
        now=later,
        platform=platform,
        enclave=enclave,
        quote=enclave.quote(REPORT_DATA),
        collateral=platform.collateral(now=later),
    )
    assert judge(dcap_qvl, world).status == "SWHardeningNeeded"


def test_independent_judge_takes_two_platforms_of_one_vendor_under_one_root(dcap_qvl: Any) -> None:
    pki = SimulatedPKI.create(now=NOW, seed=SEED)
    for ca in CA_TYPES:
        platform = Platform.create(now=NOW, pki=pki, seed=SEED, ca=ca)
        enclave = platform.launch(*sample_enclave())
        world = World(
            now=NOW,
            platform=platform,
            enclave=enclave,
            quote=enclave.quote(REPORT_DATA),
            collateral=platform.collateral(now=NOW),
        )
        assert world.trust_anchor == pki.trust_anchor_der
        assert judge(dcap_qvl, world).status == "UpToDate"


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name)
def test_independent_judge_sees_the_faults_that_it_looks_for(dcap_qvl: Any, fault: Fault) -> None:
    """Each fault is real: an outsider trips over it too, unless it is one of those that he is known not to look for."""
    world: World | TDXWorld
    if fault.is_tdx:
        world = TDXWorld.create(now=NOW, seed=SEED, faults=[fault])
    else:
        layout = QuoteLayout(version=5 if fault is Fault.UNKNOWN_BODY_TYPE else 3)
        world = World.create(now=NOW, seed=SEED, enclave=sample_enclave(), faults=[fault], layout=layout)
    if ((fault.is_harmless or fault.is_outdated) and fault not in _STRICT) or fault.name in _LENIENT:
        assert judge(dcap_qvl, world).status == _STATUSES.get(fault, "UpToDate")
    else:
        with pytest.raises(ValueError, match=r"."):
            judge(dcap_qvl, world)


def test_independent_judge_is_asked_about_at_least_twenty_platforms_of_every_kind() -> None:
    assert len(PLATFORMS) >= 20
    assert {ca for ca, _, _ in PLATFORMS} == {"platform", "processor"}
    assert {tcb_status for _, tcb_status, _ in PLATFORMS} == set(TCB_STATUSES)
