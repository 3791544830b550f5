"""The simulator over all inputs: whatever it makes, the evidence room reads back exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import QEIdentity, TCBInfo, pck_certificate_of
from eaa.errors import MalformedInput, Misuse, Reason
from eaa.evidence.quote import BodyType, Quote
from eaa.simulator.cpu import LocalReport, TargetInfo
from eaa.simulator.documents import compact
from eaa.simulator.faults import Fault, Stage
from eaa.simulator.model import QE_STATUSES, TCB_STATUSES, PlatformModel
from eaa.simulator.pki import CA_TYPES
from eaa.simulator.platform import SECRETS_FILE, Platform
from eaa.simulator.quoting import QuoteLayout
from eaa.simulator.world import TDXWorld, World
from support.simulated import NOW, REPORT_DATA, SEED, sample_enclave

MACHINE = Platform.create(now=NOW, seed=SEED)
ENCLAVE = MACHINE.launch(*sample_enclave())
QUOTE = ENCLAVE.quote(REPORT_DATA)

models = st.fixed_dictionaries(
    {
        "fmspc": st.binary(min_size=6, max_size=6),
        "ca": st.sampled_from(CA_TYPES),
        "cpu_svn": st.binary(min_size=16, max_size=16),
        "pce_svn": st.integers(0, 0xFFFE),
        "pce_id": st.binary(min_size=2, max_size=2),
        "tcb_status": st.sampled_from(TCB_STATUSES),
        "qe_svn": st.integers(2, 0xFFFE),
        "qe_status": st.sampled_from(QE_STATUSES),
        "tee_tcb_svn": st.binary(min_size=16, max_size=16).filter(lambda svn: 1 < svn[0] < 255),
        "tdx_module_status": st.sampled_from(QE_STATUSES),
        "tdx_module_advisory_ids": st.lists(st.just("INTEL-SA-00999"), max_size=1).map(tuple),
        "tcb_evaluation_data_number": st.integers(0, 1000),
        "sgx_type": st.sampled_from([None, 0, 1, 2]),
        "dynamic_platform": st.booleans(),
        "cached_keys": st.booleans(),
        "smt_enabled": st.booleans(),
    }
)
layouts = st.builds(
    QuoteLayout,
    version=st.sampled_from([3, 4]),
    chain_terminator=st.booleans(),
    qe_auth_data=st.binary(max_size=100),
    padding=st.integers(0, 100),
)


@given(st.binary(min_size=64, max_size=64), layouts)
def test_every_quote_is_read_back_exactly(report_data: bytes, layout: QuoteLayout) -> None:
    raw = ENCLAVE.quote(report_data, layout=layout)
    quote = Quote.parse(raw)
    assert quote.encode() + bytes(quote.padding) == raw
    assert quote.body.report_data == report_data
    assert quote.body.encode() == raw[48:432]


@given(st.integers(0, len(QUOTE) - 1))
def test_every_strict_prefix_of_a_simulated_quote_is_malformed(length: int) -> None:
    try:
        Quote.parse(QUOTE[:length])
    except MalformedInput:
        return
    raise AssertionError(length)


@settings(max_examples=30)
@given(models)
def test_every_machine_is_endorsed_as_it_was_made(options: dict[str, Any]) -> None:
    world = World.create(now=NOW, seed=SEED, enclave=sample_enclave(), **options)
    quote, model = Quote.parse(world.quote), world.platform.model
    pck = pck_certificate_of(quote.certification_data)
    info, identity = TCBInfo.parse(world.collateral.tcb_info), QEIdentity.parse(world.collateral.qe_identity)
    assert (pck.fmspc, pck.cpu_svn, pck.pce_svn, pck.ca) == (model.fmspc, model.cpu_svn, model.pce_svn, model.ca)
    assert (info.fmspc, info.pce_id) == (model.fmspc, model.pce_id)
    own = [
        level
        for level in info.tcb_levels
        if (level.sgx_components, level.pce_svn) == (tuple(model.cpu_svn), model.pce_svn)
    ]
    assert [level.tcb_status for level in own] == [model.tcb_status]
    assert {level.tcb_status for level in identity.tcb_levels if level.isv_svn == model.qe_svn} == {model.qe_status}
    assert Collateral.from_json(world.collateral.to_json()) == world.collateral


@given(models)
def test_every_model_is_stored_and_loaded(options: dict[str, Any]) -> None:
    model = PlatformModel(**options)
    assert PlatformModel.from_json(model.to_json()) == model


@settings(max_examples=60)
@given(st.sets(st.sampled_from(list(Fault)), max_size=len(Fault)), st.sampled_from(BodyType))
def test_any_faults_together_still_make_a_world(faults: set[Fault], kind: BodyType) -> None:
    world: World | TDXWorld
    if kind is BodyType.SGX_REPORT:
        faults = {fault for fault in faults if not fault.is_tdx}
        world = World.create(now=NOW, seed=SEED, enclave=sample_enclave(), faults=faults)
    else:
        faults = {fault for fault in faults if fault is not Fault.TCB_INFO_ID_TDX}
        world = TDXWorld.create(now=NOW, seed=SEED, faults=faults, kind=kind)
    assert world.quote
    assert world.platform.faults | world.platform.pki.faults == {
        fault for fault in faults if fault.stage in (Stage.PKI, Stage.PLATFORM)
    }


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_junk_is_no_machine(raw: bytes) -> None:
    try:
        Platform.from_files({**MACHINE.to_files(), SECRETS_FILE: raw})
    except Misuse as error:
        found = error.reason
    assert found is Reason.SIMULATOR_INVALID


@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFFFF),
    st.binary(min_size=64, max_size=64),
)
def test_a_target_info_survives_a_round_trip(
    mr_enclave: bytes, attributes: bytes, misc_select: int, config_svn: int, config_id: bytes
) -> None:
    target = TargetInfo(
        mr_enclave=mr_enclave,
        attributes=attributes,
        misc_select=misc_select,
        config_svn=config_svn,
        config_id=config_id,
    )
    assert TargetInfo.parse(target.encode()) == target


@given(st.binary(min_size=432, max_size=432))
def test_a_local_report_survives_a_round_trip(raw: bytes) -> None:
    report = LocalReport.parse(raw)
    assert report.encode() == raw
    assert replace(report, mac=bytes(16)).encode() == raw[:416] + bytes(16)


@given(st.dictionaries(st.text("abc", max_size=3), st.integers() | st.text("xyz"), max_size=5))
def test_documents_are_ascii_without_spaces(document: dict[str, Any]) -> None:
    text = compact(document)
    assert text.isascii()
    assert b" " not in text
