"""The processor in software: what EINIT refuses, what EREPORT writes, and whose keys open what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from eaa.errors import EAAError, MalformedInput, Misuse, Reason, VerificationError
from eaa.evidence.sgx import SGXAttribute
from eaa.measure.sgx import measure_sgxs
from eaa.measure.sigstruct import SIGSTRUCT
from eaa.simulator.cpu import EnclaveIdentity, LocalReport, Processor, TargetInfo
from eaa.simulator.entropy import Entropy
from eaa.simulator.images import sample_image
from support.simulated import NOW, REPORT_DATA, SEED, sample_enclave, signer_key

CPU_SVN = bytes(range(16))


@pytest.fixture(scope="module")
def processor() -> Processor:
    return Processor.create(Entropy.create(SEED), cpu_svn=CPU_SVN)


@pytest.fixture(scope="module")
def enclave(processor: Processor) -> EnclaveIdentity:
    return processor.launch(*sample_enclave())


def signed(**changes: Any) -> bytes:
    """The sample's SIGSTRUCT with something else in it, signed again."""
    sigstruct = SIGSTRUCT.parse(sample_enclave()[1])
    return replace(sigstruct, **changes).sign(signer_key()).encode()


def attributes(flags: int, xfrm: int = 3) -> bytes:
    return flags.to_bytes(8, "little") + xfrm.to_bytes(8, "little")


# --- EINIT


def test_a_launched_enclave_is_what_its_signer_said(enclave: EnclaveIdentity) -> None:
    image, raw = sample_enclave()
    sigstruct = SIGSTRUCT.parse(raw)
    assert enclave.mr_enclave == measure_sgxs(image).mr_enclave == sigstruct.enclave_hash
    assert enclave.mr_signer == sigstruct.mr_signer
    assert (enclave.isv_prod_id, enclave.isv_svn) == (sigstruct.isv_prod_id, sigstruct.isv_svn)
    assert enclave.attributes == attributes(SGXAttribute.INIT | SGXAttribute.MODE64BIT)


@pytest.mark.parametrize(
    ("sigstruct", "options", "reason"),
    [
        pytest.param(lambda: signed(enclave_hash=bytes(32)), {}, Reason.ENCLAVE_LAUNCH, id="another measurement"),
        pytest.param(lambda: signed(reserved_992=b"\1" * 16), {}, Reason.ENCLAVE_LAUNCH, id="reserved bytes set"),
        pytest.param(lambda: signed(attributes=attributes(5)), {}, Reason.ENCLAVE_LAUNCH, id="INIT before EINIT"),
        pytest.param(lambda: signed(attributes=attributes(4, 1)), {}, Reason.ENCLAVE_LAUNCH, id="XFRM without SSE"),
        pytest.param(signed, {"attributes": attributes(6)}, Reason.ENCLAVE_LAUNCH, id="debug, which he forbids"),
        pytest.param(signed, {"attributes": attributes(4, 7)}, Reason.ENCLAVE_LAUNCH, id="AVX, the same"),
        pytest.param(signed, {"misc_select": 1}, Reason.ENCLAVE_LAUNCH, id="a MISCSELECT that he forbids"),
        pytest.param(lambda: flipped(signed(), 516), {}, Reason.SIGSTRUCT_SIGNATURE, id="a bad signature"),
        pytest.param(lambda: flipped(signed(), 1040), {}, Reason.SIGSTRUCT_SIGNATURE, id="a bad Q1"),
        pytest.param(lambda: flipped(signed(), 1026), {}, Reason.SIGSTRUCT_SIGNATURE, id="another SVN"),
    ],
)
def test_einit_refuses(
    processor: Processor, sigstruct: Callable[[], bytes], options: dict[str, Any], reason: Reason
) -> None:
    with pytest.raises(VerificationError) as caught:
        processor.launch(sample_enclave()[0], sigstruct(), **options)
    assert caught.value.reason is reason


def flipped(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def test_einit_refuses_an_image_that_was_changed(processor: Processor) -> None:
    image, sigstruct = sample_enclave()
    with pytest.raises(VerificationError) as caught:
        processor.launch(flipped(image, image.index(b"EAA sample")), sigstruct)
    assert caught.value.reason is Reason.ENCLAVE_LAUNCH


@pytest.mark.parametrize(
    ("image", "sigstruct", "reason"),
    [(b"junk", None, Reason.UNKNOWN_FORMAT), (None, b"junk", Reason.SIGSTRUCT_MALFORMED)],
)
def test_what_is_no_enclave_is_not_launched(
    processor: Processor, image: bytes | None, sigstruct: bytes | None, reason: Reason
) -> None:
    good_image, good_sigstruct = sample_enclave()
    with pytest.raises(MalformedInput) as caught:
        processor.launch(image or good_image, sigstruct or good_sigstruct)
    assert caught.value.reason is reason


def test_a_signer_may_leave_debug_to_the_host(processor: Processor) -> None:
    """What is outside the mask is the loader's choice, and shows in the report."""
    open_to_debug = signed(attributes_mask=b"\xfd" + b"\xff" * 15)
    image = sample_enclave()[0]
    assert not processor.launch(image, open_to_debug).attributes[0] & SGXAttribute.DEBUG
    assert processor.launch(image, open_to_debug, attributes=attributes(6)).attributes[0] & SGXAttribute.DEBUG


def test_attributes_of_another_length_are_the_callers_fault(processor: Processor) -> None:
    with pytest.raises(Misuse) as caught:
        processor.launch(*sample_enclave(), attributes=b"\x04")
    assert caught.value.reason is Reason.USAGE


def test_the_ids_of_key_separation_show_only_in_an_enclave_that_asks_for_it(processor: Processor) -> None:
    ids = {"isv_family_id": b"F" * 16, "isv_ext_prod_id": b"E" * 16}
    with_kss = SGXAttribute.MODE64BIT | SGXAttribute.KSS
    image = sample_enclave()[0]
    plain = processor.launch(image, signed(**ids))
    separated = processor.launch(image, signed(**ids, attributes=attributes(with_kss)))
    assert (plain.isv_family_id, plain.isv_ext_prod_id) == (bytes(16), bytes(16))
    assert (separated.isv_family_id, separated.isv_ext_prod_id) == (b"F" * 16, b"E" * 16)


# --- EREPORT


def test_a_report_has_each_field_where_the_processor_writes_it(processor: Processor, enclave: EnclaveIdentity) -> None:
    raw = processor.report(enclave, target=enclave.target_info, report_data=REPORT_DATA).encode()
    assert len(raw) == 432
    assert raw[0:16] == CPU_SVN
    assert raw[48:64] == enclave.attributes
    assert raw[64:96] == enclave.mr_enclave
    assert raw[128:160] == enclave.mr_signer
    assert raw[256:260] == b"\x01\x00\x01\x00"
    assert raw[320:384] == REPORT_DATA
    assert raw[384:416] == processor.key_id
    assert LocalReport.parse(raw).encode() == raw


def test_the_mac_is_cmac_under_the_targets_key(processor: Processor, enclave: EnclaveIdentity) -> None:
    report = processor.report(enclave, target=enclave.target_info, report_data=REPORT_DATA)
    mac = CMAC(AES(processor._report_key(enclave.target_info, processor.key_id)))
    mac.update(report.encode()[:384])
    assert report.mac == mac.finalize()


def test_the_target_verifies_its_report(processor: Processor, enclave: EnclaveIdentity) -> None:
    other = processor.launch(*sample_enclave("other"))
    report = processor.report(enclave, target=other.target_info, report_data=REPORT_DATA)
    assert processor.verify_report(other, report) == report.body
    with pytest.raises(VerificationError) as caught:
        processor.verify_report(enclave, report)
    assert caught.value.reason is Reason.REPORT_MAC


@pytest.mark.parametrize("at", [0, 16, 48, 64, 128, 256, 320, 383, 384, 415, 416, 431])
def test_a_changed_report_is_noticed(processor: Processor, enclave: EnclaveIdentity, at: int) -> None:
    raw = processor.report(enclave, target=enclave.target_info, report_data=REPORT_DATA).encode()
    with pytest.raises(VerificationError) as caught:
        processor.verify_report(enclave, LocalReport.parse(flipped(raw, at)))
    assert caught.value.reason is Reason.REPORT_MAC


@pytest.mark.parametrize("name", ["secret", "owner_epoch", "cpu_svn"])
def test_another_platform_epoch_or_tcb_has_other_keys(
    processor: Processor, enclave: EnclaveIdentity, name: str
) -> None:
    report = processor.report(enclave, target=enclave.target_info, report_data=REPORT_DATA)
    another: dict[str, Any] = {name: bytes(len(getattr(processor, name)))}
    with pytest.raises(VerificationError) as caught:
        replace(processor, **another).verify_report(enclave, report)
    assert caught.value.reason is Reason.REPORT_MAC


def test_a_report_survives_a_reset_because_it_names_its_key(processor: Processor, enclave: EnclaveIdentity) -> None:
    report = processor.report(enclave, target=enclave.target_info, report_data=REPORT_DATA)
    assert replace(processor, key_id=bytes(32)).verify_report(enclave, report) == report.body


@pytest.mark.parametrize(
    "change",
    [
        {"mr_enclave": bytes(32)},
        {"attributes": bytes(16)},
        {"misc_select": 1},
        {"config_svn": 1},
        {"config_id": b"\1" * 64},
    ],
)
def test_every_field_of_the_target_changes_the_key(
    processor: Processor, enclave: EnclaveIdentity, change: dict[str, Any]
) -> None:
    target = replace(enclave.target_info, **change)
    with pytest.raises(VerificationError) as caught:
        processor.verify_report(enclave, processor.report(enclave, target=target, report_data=REPORT_DATA))
    assert caught.value.reason is Reason.REPORT_MAC


@pytest.mark.parametrize("length", [0, 63, 65])
def test_report_data_has_64_bytes(processor: Processor, enclave: EnclaveIdentity, length: int) -> None:
    with pytest.raises(Misuse) as caught:
        processor.report(enclave, target=enclave.target_info, report_data=bytes(length))
    assert caught.value.reason is Reason.USAGE


# --- layouts


def test_a_target_info_has_each_field_where_ereport_reads_it() -> None:
    target = TargetInfo(
        mr_enclave=b"M" * 32, attributes=b"A" * 16, misc_select=0x01020304, config_svn=0x0506, config_id=b"C" * 64
    )
    raw = target.encode()
    assert raw == b"M" * 32 + b"A" * 16 + bytes(2) + b"\6\5" + b"\4\3\2\1" + bytes(8) + b"C" * 64 + bytes(384)
    assert len(raw) == 512
    assert TargetInfo.parse(raw) == target


@pytest.mark.parametrize("at", [48, 49, 56, 63, 128, 511])
def test_reserved_bytes_of_a_target_info_are_zero(at: int) -> None:
    raw = TargetInfo(mr_enclave=bytes(32), attributes=bytes(16)).encode()
    with pytest.raises(MalformedInput) as caught:
        TargetInfo.parse(flipped(raw, at))
    assert caught.value.reason is Reason.EVIDENCE_MALFORMED


@pytest.mark.parametrize(("parse", "length"), [(TargetInfo.parse, 512), (LocalReport.parse, 432)])
@pytest.mark.parametrize("difference", [-1, 1, -400])
def test_layouts_are_exact(parse: Callable[[bytes], object], length: int, difference: int) -> None:
    with pytest.raises(MalformedInput):
        parse(bytes(length + difference))
    assert parse(bytes(length))


# --- sample images


def test_a_sample_image_is_named_by_its_measurement() -> None:
    image, sigstruct = sample_image("a", now=NOW, signer_key=signer_key(), prod_id=7, svn=9)
    again, _ = sample_image("a", now=NOW, signer_key=signer_key())
    other, _ = sample_image("b", now=NOW, signer_key=signer_key())
    assert image == again
    assert measure_sgxs(image).mr_enclave != measure_sgxs(other).mr_enclave
    parsed = SIGSTRUCT.parse(sigstruct)
    parsed.verify_signature()
    assert (parsed.isv_prod_id, parsed.isv_svn, parsed.build_date) == (7, 9, NOW.date())


def test_another_signer_changes_mr_signer_and_nothing_else() -> None:
    image, sigstruct = sample_image("sample", now=NOW)
    assert image == sample_enclave()[0]
    assert SIGSTRUCT.parse(sigstruct).mr_signer != SIGSTRUCT.parse(sample_enclave()[1]).mr_signer


def test_a_debug_sample_launches_as_a_debug_enclave(processor: Processor) -> None:
    launched = processor.launch(*sample_enclave("debugged", debug=True))
    assert launched.attributes[0] & SGXAttribute.DEBUG


@pytest.mark.parametrize("name", ["", "x" * 257])
def test_a_samples_name_is_bounded(name: str) -> None:
    with pytest.raises(EAAError) as caught:
        sample_image(name, now=NOW, signer_key=signer_key())
    assert caught.value.reason is Reason.USAGE
