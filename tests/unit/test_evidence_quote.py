"""Quotes, enclave reports and TD reports: the layout, field by field, and each refusal by its reason."""

from __future__ import annotations

import pytest

from eaa.errors import MalformedInput, Reason
from eaa.evidence.quote import (
    INTEL_QE_VENDOR_ID,
    MAX_CERTIFICATION_DATA,
    CertificationDataType,
    Quote,
    QuoteHeader,
    TEEType,
)
from eaa.evidence.sgx import EnclaveReport, SGXAttribute
from eaa.evidence.tdx import TDReport
from support.dcap_world import World, raw_public
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


def counted(length: int) -> bytes:
    """Bytes of which no four are like another four."""
    return b"".join(index.to_bytes(2, "big") for index in range(length // 2))


@pytest.mark.parametrize(("field", "place"), REPORT_OFFSETS.items())
def test_an_enclave_report_has_its_fields_where_intel_puts_them(field: str, place: tuple[int, int]) -> None:
    raw, (at, length) = counted(384), place
    assert getattr(EnclaveReport.parse(raw), field) == raw[at : at + length]


@pytest.mark.parametrize(("field", "place"), REPORT_NUMBERS.items())
def test_an_enclave_report_has_its_numbers_little_endian(field: str, place: tuple[int, int]) -> None:
    raw, (at, length) = counted(384), place
    assert getattr(EnclaveReport.parse(raw), field) == int.from_bytes(raw[at : at + length], "little")


@pytest.mark.parametrize(("field", "place"), TD_OFFSETS.items())
def test_a_td_report_has_its_fields_where_intel_puts_them(field: str, place: tuple[int, int]) -> None:
    raw, (at, length) = counted(584), place
    assert getattr(TDReport.parse(raw), field) == raw[at : at + length]


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


def changed(raw: bytes, at: int, value: bytes) -> bytes:
    return raw[:at] + value + raw[at + len(value) :]


@pytest.mark.parametrize(
    ("version", "at", "value", "reason"),
    [
        pytest.param(3, 0, b"\2\0", Reason.QUOTE_VERSION_UNSUPPORTED, id="version 2"),
        pytest.param(3, 0, b"\5\0", Reason.QUOTE_VERSION_UNSUPPORTED, id="version 5"),
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
