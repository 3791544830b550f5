"""Measurement over all inputs: it never crashes, and notices every byte that counts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from eaa.errors import MalformedInput, Reason
from eaa.measure.sgx import ImageFormat, Measurement, encode_sgxs, identify_image, measure_image, measure_sgxs
from eaa.measure.sigstruct import SIGSTRUCT
from support.simulated import sample_enclave

PAGE = 4096
IMAGE = encode_sgxs([(0, 0x100, bytes(PAGE)), (PAGE, 0x203, b"x" * PAGE)], ssa_frame_size=1, enclave_size=2 * PAGE)
BOUNDARIES = {64, *(64 + page * 5184 + 64 + chunk * 320 for page in range(2) for chunk in range(17)), 64 + 5184}
_FIELDS = {
    **dict.fromkeys(("header_type", "vendor", "raw_date", "software_defined", "misc_select", "misc_mask"), 4),
    **dict.fromkeys(("isv_prod_id", "isv_svn"), 2),
    **dict.fromkeys(("cet_attributes", "cet_attributes_mask"), 1),
}
_BYTES = {
    **dict.fromkeys(("modulus", "signature", "q1", "q2"), 384),
    **dict.fromkeys(("isv_family_id", "attributes", "attributes_mask", "isv_ext_prod_id", "reserved_992"), 16),
    "enclave_hash": 32,
    "reserved_44": 84,
    "reserved_910": 2,
    "reserved_1028": 12,
}
sigstructs = st.builds(
    SIGSTRUCT,
    **{name: st.integers(0, (1 << 8 * size) - 1) for name, size in _FIELDS.items()},
    **{name: st.binary(min_size=size, max_size=size) for name, size in _BYTES.items()},
)


@given(sigstructs)
def test_a_sigstruct_survives_a_round_trip(sigstruct: SIGSTRUCT) -> None:
    assert SIGSTRUCT.parse(sigstruct.encode()) == sigstruct
    assert len(sigstruct.signed_bytes) == 256


def outcome(look: Callable[[bytes], object], raw: bytes) -> object:
    """What `look` makes of `raw`, or the reason why it refuses it as malformed."""
    try:
        return look(raw)
    except MalformedInput as error:
        return error.reason


@given(st.integers(0, len(sample_enclave()[1]) - 1))
def test_every_strict_prefix_of_a_sigstruct_is_refused(length: int) -> None:
    assert outcome(SIGSTRUCT.parse, sample_enclave()[1][:length]) is Reason.SIGSTRUCT_MALFORMED


@given(st.integers(0, len(IMAGE) - 1))
def test_a_prefix_of_a_page_stream_is_refused_unless_it_ends_with_a_record(length: int) -> None:
    measured = outcome(measure_sgxs, IMAGE[:length])
    if length in BOUNDARIES:
        assert isinstance(measured, Measurement)
        assert measured.mr_enclave == hashlib.sha256(IMAGE[:length]).digest()
    else:
        assert measured is Reason.IMAGE_MALFORMED


@given(st.integers(0, len(IMAGE) - 1), st.integers(1, 255))
def test_every_byte_of_a_page_stream_counts(at: int, change: int) -> None:
    altered = IMAGE[:at] + bytes([IMAGE[at] ^ change]) + IMAGE[at + 1 :]
    measured = outcome(measure_sgxs, altered)
    if isinstance(measured, Measurement):
        assert measured.mr_enclave != measure_sgxs(IMAGE).mr_enclave
    else:
        assert measured is Reason.IMAGE_MALFORMED


@given(st.binary(max_size=300) | st.binary(max_size=200).map(lambda tail: IMAGE[:64] + tail))
def test_junk_is_refused_and_never_crashes(raw: bytes) -> None:
    known = {Reason.UNKNOWN_FORMAT, Reason.IMAGE_MALFORMED, Reason.SIGSTRUCT_MALFORMED}
    for look in (identify_image, measure_image, measure_sgxs, SIGSTRUCT.parse):
        found = outcome(look, raw)
        assert found in known or isinstance(found, Measurement | ImageFormat)
