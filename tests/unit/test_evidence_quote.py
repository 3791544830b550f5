"""Quotes, enclave reports and TD reports: the layout, field by field, and each refusal by its reason."""

from __future__ import annotations

import pytest

from eaa.errors import MalformedInput, Reason
from eaa.evidence.ppid import PPIDCertification
from eaa.evidence.quote import (
    INTEL_QE_VENDOR_ID,
    MAX_CERTIFICATION_DATA,
    BodyType,
    CertificationDataType,
    Quote,
    QuoteHeader,
    TEEType,
)
from eaa.evidence.sgx import EnclaveReport, SGXAttribute
from eaa.evidence.tdx import TDAttribute, TDReport, TDReport15, TDReport15Extended
from support.dcap_world import World, raw_public, td_report, td_report_15
from support.vectors import vector

REPORT_OFFSETS = {
    "cpu_svn": (0, 16),
    "isv_ext_prod_id": (32, 16),
    "attributes": (48, 16),
    "mr_enclave": (64, 32),
    "mr_signer": (128, 32),
    "config_id": (192, 64),
    "isv_family_id": (304, 16),
    "report_data": (320, 64),
}
REPORT_NUMBERS = {"misc_select": (16, 4), "isv_prod_id": (256, 2), "isv_svn": (258, 2), "config_svn": (260, 2)}
TD_OFFSETS = {
    "tee_tcb_svn": (0, 16),
    "mr_seam": (16, 48),
    "mr_signer_seam": (64, 48),
    "seam_attributes": (112, 8),
    "td_attributes": (120, 8),
    "xfam": (128, 8),
    "mr_td": (136, 48),
    "mr_config_id": (184, 48),
    "mr_owner": (232, 48),
    "mr_owner_config": (280, 48),
    "rtmr0": (328, 48),
    "rtmr1": (376, 48),
    "rtmr2": (424, 48),
    "rtmr3": (472, 48),
    "report_data": (520, 64),
}
TD_15_OFFSETS = TD_OFFSETS | {"tee_tcb_svn_2": (584, 16), "mr_service_td": (600, 48)}
TD_15_EXTENDED_OFFSETS = TD_15_OFFSETS | {
    "vm_id": (648, 1),
    "td_id": (649, 32),
    "device_info": (681, 48),
    "init_service_td_hash": (729, 48),
    "init_service_td_attributes": (777, 8),
    "init_cpu_svn": (785, 16),
    "init_tee_tcb_svn": (801, 16),
    "init_tee_fmspc": (817, 12),
    "current_service_td_hash": (829, 48),
    "current_service_td_attributes": (877, 8),
}
TD_REPORTS = {TDReport: (584, TD_OFFSETS), TDReport15: (648, TD_15_OFFSETS)}
TD_REPORTS |= {TDReport15Extended: (885, TD_15_EXTENDED_OFFSETS)}


def counted(length: int) -> bytes:
    """Bytes of which no four are like another four."""
    return b"".join(index.to_bytes(2, "big") for index in range(length // 2 + 1))[:length]


@pytest.mark.parametrize(("field", "place"), REPORT_OFFSETS.items())
def test_an_enclave_report_has_its_fields_where_intel_puts_them(field: str, place: tuple[int, int]) -> None:
    raw, (at, length) = counted(384), place
    assert getattr(EnclaveReport.parse(raw), field) == raw[at : at + length]


@pytest.mark.parametrize(("field", "place"), REPORT_NUMBERS.items())
def test_an_enclave_report_has_its_numbers_little_endian(field: str, place: tuple[int, int]) -> None:
    raw, (at, length) = counted(384), place
    assert getattr(EnclaveReport.parse(raw), field) == int.from_bytes(raw[at : at + length], "little")


@pytest.mark.parametrize(
    ("report", "size", "field", "place"),
    [(report, size, *item) for report, (size, offsets) in TD_REPORTS.items() for item in offsets.items()],
)
def test_a_td_report_has_its_fields_where_intel_puts_them(
    report: type[TDReport], size: int, field: str, place: tuple[int, int]
) -> None:
    raw, (at, length) = counted(size), place
    assert getattr(report.parse(raw), field) == raw[at : at + length]


@pytest.mark.parametrize(("report", "size"), [(report, size) for report, (size, _) in TD_REPORTS.items()])
def test_a_td_report_keeps_all_its_bytes(report: type[TDReport], size: int) -> None:
    assert report.parse(counted(size)).encode() == counted(size)
    for wrong in (size - 1, size + 1):
        with pytest.raises(MalformedInput) as caught:
            report.parse(bytes(wrong))
        assert caught.value.reason is Reason.QUOTE_MALFORMED


@pytest.mark.parametrize("length", [0, 383, 385, 584])
def test_an_enclave_report_has_its_length(length: int) -> None:
    with pytest.raises(MalformedInput) as caught:
        EnclaveReport.parse(bytes(length))
    assert caught.value.reason is Reason.QUOTE_MALFORMED


@pytest.mark.parametrize("length", [0, 384, 583, 585, 648])
def test_a_td_report_has_its_length(length: int) -> None:
    with pytest.raises(MalformedInput) as caught:
        TDReport.parse(bytes(length))
    assert caught.value.reason is Reason.QUOTE_MALFORMED


def test_debug_of_an_enclave_is_bit_1_of_its_attributes() -> None:
    raw = bytearray(384)
    raw[48] = 0x05
    assert EnclaveReport.parse(bytes(raw)).flags == SGXAttribute.INIT | SGXAttribute.MODE64BIT
    assert not EnclaveReport.parse(bytes(raw)).is_debug
    raw[48] = 0x07
    assert EnclaveReport.parse(bytes(raw)).is_debug


@pytest.mark.parametrize(("bit", "expected"), [(0, True), (1, True), (7, True), (8, False), (28, False), (63, False)])
def test_debug_of_a_domain_is_its_lowest_byte(bit: int, expected: object) -> None:
    raw = bytearray(584)
    raw[120:128] = (1 << bit).to_bytes(8, "little")
    assert TDReport.parse(bytes(raw)).is_debug is expected


def with_attributes(*bits: int) -> TDReport:
    raw = bytearray(584)
    raw[120:128] = sum(1 << bit for bit in bits).to_bytes(8, "little")
    return TDReport.parse(bytes(raw))


@pytest.mark.parametrize(
    ("bit", "attribute", "told_by"),
    [
        (28, TDAttribute.SEPT_VE_DISABLE, "disables_sept_ve"),
        (29, TDAttribute.MIGRATABLE, "is_migratable"),
        (30, TDAttribute.PKS, "uses_pks"),
        (31, TDAttribute.KEY_LOCKER, "uses_key_locker"),
        (63, TDAttribute.PERFMON, "uses_perfmon"),
    ],
)
def test_each_attribute_of_a_domain_is_one_bit(bit: int, attribute: TDAttribute, told_by: str) -> None:
    assert (with_attributes(bit).attributes, getattr(with_attributes(bit), told_by)) == (attribute, True)
    others = with_attributes(*(set(range(64)) - {bit}))
    assert not getattr(others, told_by)
    assert attribute not in others.attributes


@pytest.mark.parametrize(("bits", "tud", "unknown"), [((), 0, 0), ((0, 3, 28), 9, 0), ((8, 61), 0, (1 << 61) + 256)])
def test_bits_without_a_name_are_told_too(bits: tuple[int, ...], tud: int, unknown: int) -> None:
    assert (with_attributes(*bits).tud_bits, with_attributes(*bits).unknown_attributes) == (tud, unknown)


def test_a_service_domain_is_told_from_1_5_on() -> None:
    assert td_report().has_service_td is None
    assert td_report_15(td_report()).has_service_td is False
    assert td_report_15(td_report(), mr_service_td=bytes(47) + b"\1").has_service_td is True


# --- quotes


def test_a_quote_of_version_3_has_its_parts_where_intel_puts_them() -> None:
    raw = vector("automata/quotev3.bin").read_bytes()
    quote = Quote.parse(raw)
    assert (quote.header.version, quote.header.tee_type) == (3, TEEType.SGX)
    assert quote.header.qe_vendor_id == INTEL_QE_VENDOR_ID == raw[12:28]
    assert quote.header.user_data == raw[28:48]
    assert quote.signed_bytes == raw[:432]
    assert (quote.signature, quote.attestation_key) == (raw[436:500], raw[500:564])
    assert (quote.qe_report.encode(), quote.qe_report_signature) == (raw[564:948], raw[948:1012])
    assert quote.qe_auth_data == raw[1014:1046]
    assert quote.certification_data_type == CertificationDataType.PCK_CHAIN
    assert raw[1052:].startswith(quote.certification_data)


def test_a_quote_of_version_4_has_its_parts_where_intel_puts_them() -> None:
    raw = vector("dcap-qvl/tdx_quote").read_bytes()
    quote = Quote.parse(raw)
    assert (quote.header.version, quote.header.tee_type) == (4, TEEType.TDX)
    assert isinstance(quote.body, TDReport)
    assert quote.signed_bytes == raw[:632]
    assert (quote.signature, quote.attestation_key) == (raw[636:700], raw[700:764])
    assert raw[764:766] == b"\6\0"
    assert quote.qe_report.encode() == raw[770:1154]
    assert quote.padding == 70


@pytest.mark.parametrize("name", ["go-tdx-guest/quote_v5_sample.dat", "automata/alibaba_quote_5.dat"])
def test_a_quote_of_version_5_has_its_parts_where_intel_puts_them(name: str) -> None:
    raw = vector(name).read_bytes()
    quote = Quote.parse(raw)
    assert (quote.header.version, quote.header.tee_type, quote.body_type) == (5, TEEType.TDX, BodyType.TD_REPORT_15)
    assert raw[48:54] == b"\3\0" + (648).to_bytes(4, "little")
    assert isinstance(quote.body, TDReport15)
    assert quote.body.encode() == raw[54:702]
    assert quote.signed_bytes == quote.encode_signed_part() == raw[:702]
    assert (quote.signature, quote.attestation_key) == (raw[706:770], raw[770:834])
    assert quote.qe_report.encode() == raw[840:1224]
    assert raw.startswith(quote.encode())


BODIES = {
    BodyType.SGX_REPORT: World().body,
    BodyType.TD_REPORT_10: td_report(),
    BodyType.TD_REPORT_15: td_report_15(td_report()),
    BodyType.TD_REPORT_15_EXTENDED: TDReport15Extended.parse(counted(885)),
}


def version_5(kind: BodyType) -> bytes:
    world = World(version=5, tee=TEEType.SGX if kind is BodyType.SGX_REPORT else TEEType.TDX)
    world.body = BODIES[kind]
    return world.quote().encode()


@pytest.mark.parametrize("kind", BodyType)
def test_a_quote_of_version_5_tells_what_it_quotes(kind: BodyType) -> None:
    raw = version_5(kind)
    assert raw[48:54] == int(kind).to_bytes(2, "little") + len(BODIES[kind].encode()).to_bytes(4, "little")
    assert (Quote.parse(raw).body, Quote.parse(raw).body_type) == (BODIES[kind], kind)
    assert Quote.parse(raw).encode() == raw


@pytest.mark.parametrize(
    ("kind", "at", "value", "reason"),
    [
        pytest.param(BodyType.TD_REPORT_15, 48, b"\0\0", Reason.QUOTE_BODY_UNSUPPORTED, id="type 0"),
        pytest.param(BodyType.TD_REPORT_15, 48, b"\5\0", Reason.QUOTE_BODY_UNSUPPORTED, id="type 5"),
        pytest.param(BodyType.TD_REPORT_15, 48, b"\1\0", Reason.QUOTE_MALFORMED, id="an SGX report of TDX"),
        pytest.param(BodyType.SGX_REPORT, 48, b"\2\0", Reason.QUOTE_MALFORMED, id="a TD report of SGX"),
        pytest.param(BodyType.SGX_REPORT, 4, b"\x81", Reason.QUOTE_MALFORMED, id="another TEE"),
        pytest.param(BodyType.TD_REPORT_15, 48, b"\2\0", Reason.QUOTE_MALFORMED, id="another type's size"),
        pytest.param(BodyType.TD_REPORT_15, 50, b"\xff" * 4, Reason.QUOTE_MALFORMED, id="4 GiB of body"),
        pytest.param(BodyType.TD_REPORT_15, 50, bytes(4), Reason.QUOTE_MALFORMED, id="no body"),
    ],
)
def test_a_body_is_what_its_descriptor_says(kind: BodyType, at: int, value: bytes, reason: Reason) -> None:
    with pytest.raises(MalformedInput) as caught:
        Quote.parse(changed(version_5(kind), at, value))
    assert caught.value.reason is reason


def changed(raw: bytes, at: int, value: bytes) -> bytes:
    return raw[:at] + value + raw[at + len(value) :]


@pytest.mark.parametrize(
    ("version", "at", "value", "reason"),
    [
        pytest.param(3, 0, b"\2\0", Reason.QUOTE_VERSION_UNSUPPORTED, id="version 2"),
        pytest.param(3, 0, b"\6\0", Reason.QUOTE_VERSION_UNSUPPORTED, id="version 6"),
        pytest.param(3, 0, b"\5\0", Reason.QUOTE_BODY_UNSUPPORTED, id="version 3 as version 5"),
        pytest.param(5, 0, b"\4\0", Reason.QUOTE_MALFORMED, id="version 5 as version 4"),
        pytest.param(3, 2, b"\3\0", Reason.ATTESTATION_KEY_TYPE_UNSUPPORTED, id="P-384"),
        pytest.param(3, 4, b"\x81", Reason.TEE_TYPE_UNSUPPORTED, id="TDX in version 3"),
        pytest.param(4, 4, b"\7", Reason.TEE_TYPE_UNSUPPORTED, id="unknown TEE"),
        pytest.param(3, 12, bytes(16), Reason.QE_VENDOR_UNKNOWN, id="another vendor"),
        pytest.param(3, 432, b"\0\0\0\0", Reason.QUOTE_MALFORMED, id="no authentication data"),
        pytest.param(3, 432, b"\xff\xff\xff\xff", Reason.QUOTE_MALFORMED, id="4 GiB of authentication data"),
        pytest.param(3, 1012, b"\xff\xff", Reason.QUOTE_MALFORMED, id="QE authentication data beyond the end"),
        pytest.param(3, 1048, b"\xff\xff\xff\xff", Reason.QUOTE_MALFORMED, id="4 GiB of certification data"),
        pytest.param(3, 1048, (MAX_CERTIFICATION_DATA + 1).to_bytes(4, "little"), Reason.QUOTE_MALFORMED, id="64 KiB"),
        pytest.param(4, 564, b"\5\0", Reason.QUOTE_MALFORMED, id="outer type 5"),
        pytest.param(4, 566, b"\xff\xff\xff\xff", Reason.QUOTE_MALFORMED, id="4 GiB of outer data"),
        pytest.param(4, 566, b"\0\0\0\0", Reason.QUOTE_MALFORMED, id="no outer data"),
    ],
)
def test_one_odd_field_is_refused(version: int, at: int, value: bytes, reason: Reason) -> None:
    raw = World(version=version).quote().encode()
    with pytest.raises(MalformedInput) as caught:
        Quote.parse(changed(raw, at, value))
    assert caught.value.reason is reason


def test_a_domain_is_quoted_from_version_4_on() -> None:
    header = QuoteHeader(version=3, attestation_key_type=2, tee_type=TEEType.TDX)
    with pytest.raises(MalformedInput) as caught:
        QuoteHeader.parse(header.encode())
    assert caught.value.reason is Reason.TEE_TYPE_UNSUPPORTED


def test_a_parsed_quote_holds_what_was_put_into_it() -> None:
    made = World().quote()
    parsed = Quote.parse(made.encode())
    assert parsed == made
    assert parsed.attestation_key == raw_public("attestation")


@pytest.mark.parametrize("trailing", [b"", bytes(70), bytes(3065)])
def test_zeros_behind_a_quote_are_padding(trailing: bytes) -> None:
    raw = World().quote().encode()
    assert Quote.parse(raw + trailing).padding == len(trailing)
    assert Quote.parse(raw + trailing).encode() == raw


def test_anything_else_behind_a_quote_is_for_the_caller_to_judge() -> None:
    raw = World().quote().encode()
    with pytest.raises(MalformedInput) as caught:
        Quote.parse(raw + bytes(30) + b"claims")
    assert caught.value.reason is Reason.QUOTE_TRAILING_BYTES
    quote, trailing = Quote.parse_prefix(raw + bytes(30) + b"claims")
    assert (quote.encode(), quote.padding, trailing) == (raw, 0, bytes(30) + b"claims")


# --- certification data that names a platform


@pytest.mark.parametrize(("kind", "size"), [(1, 36), (2, 276), (3, 404)])
def test_a_platform_is_named_by_ppid_cpusvn_pcesvn_and_pceid(kind: int, size: int) -> None:
    raw = counted(size)
    named = PPIDCertification.parse(raw, kind=kind)
    assert (named.ppid, named.cpu_svn) == (raw[: size - 20], raw[size - 20 : size - 4])
    assert (named.pce_svn, named.pce_id) == (int.from_bytes(raw[-4:-2], "little"), raw[-2:])
    assert named.encode() == raw
    assert named.plain_ppid == (raw[:16] if kind == 1 else None)
    assert repr(named.ppid) not in repr(named)


@pytest.mark.parametrize(("kind", "size"), [(1, 35), (1, 37), (2, 275), (3, 276), (3, 405)])
def test_a_name_of_another_length_is_none(kind: int, size: int) -> None:
    with pytest.raises(MalformedInput) as caught:
        PPIDCertification.parse(bytes(size), kind=kind)
    assert caught.value.reason is Reason.QUOTE_MALFORMED


@pytest.mark.parametrize("kind", [0, 4, 5, 6, 7])
def test_other_certification_data_names_no_platform(kind: int) -> None:
    with pytest.raises(MalformedInput) as caught:
        PPIDCertification.parse(bytes(36), kind=kind)
    assert caught.value.reason is Reason.CERTIFICATION_DATA_UNSUPPORTED


def test_a_real_quote_of_type_3_names_its_platform() -> None:
    quote = Quote.parse(vector("oasis-core/quote_v3_ecdsa_p256_eppid.bin").read_bytes())
    named = PPIDCertification.parse(quote.certification_data, kind=quote.certification_data_type)
    assert (named.cpu_svn, named.pce_svn, named.pce_id) == (quote.body.encode()[:16], 12, bytes(2))
