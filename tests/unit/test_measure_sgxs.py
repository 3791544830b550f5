"""SGXS page streams: what is hashed, what is not, and what no processor could have measured."""

from __future__ import annotations

import hashlib

import pytest

from eaa.errors import MalformedInput, Reason
from eaa.measure import sgx
from eaa.measure.sgx import ImageFormat, identify_image, measure_image, measure_sgxs

PAGE = 4096
REG_RW, TCS = 0x203, 0x100


def record(tag: bytes, *words: tuple[int, int]) -> bytes:
    """One 64-byte record: a tag, then (value, length) little-endian."""
    return (tag.ljust(8, b"\0") + b"".join(value.to_bytes(length, "little") for value, length in words)).ljust(
        64, b"\0"
    )


def ecreate(size: int = 0x8000, ssa: int = 1) -> bytes:
    return record(b"ECREATE", (ssa, 4), (size, 8))


def eadd(offset: int, flags: int = REG_RW) -> bytes:
    return record(b"EADD", (offset, 8), (flags, 8))


def eextend(offset: int, content: bytes = bytes(256)) -> bytes:
    return record(b"EEXTEND", (offset, 8)) + content


def unmeasured(offset: int, content: bytes = bytes(256)) -> bytes:
    return record(b"UNMEASRD", (offset, 8)) + content


def refused(stream: bytes) -> Reason:
    with pytest.raises(MalformedInput) as caught:
        measure_sgxs(stream)
    return caught.value.reason


def test_the_measurement_is_sha_256_of_the_records() -> None:
    stream = ecreate() + eadd(0, TCS) + eextend(0, b"a" * 256) + eadd(PAGE) + eextend(PAGE + 256, b"b" * 256)
    measurement = measure_sgxs(stream)
    assert measurement.mr_enclave == hashlib.sha256(stream).digest()
    assert (measurement.enclave_size, measurement.ssa_frame_size, measurement.pages) == (0x8000, 1, 2)
    assert measurement.image_format is ImageFormat.SGXS
    assert (measurement.xfrm, measurement.misc_select, measurement.mmap_min_addr) == (None, None, None)


def test_unmeasured_content_is_not_hashed() -> None:
    head, middle, tail = ecreate() + eadd(0), eextend(256, b"b" * 256), eextend(768, b"d" * 256)
    stream = head + unmeasured(0, b"a" * 256) + middle + unmeasured(512, b"c" * 256) + tail
    assert measure_sgxs(stream).mr_enclave == hashlib.sha256(head + middle + tail).digest()


def test_an_enclave_of_unmeasured_pages_has_the_measurement_of_its_additions() -> None:
    stream = ecreate() + eadd(0) + eadd(PAGE)
    assert measure_sgxs(stream).mr_enclave == hashlib.sha256(stream).digest()


def test_xfrm_and_the_lowest_address_change_nothing_about_a_page_stream() -> None:
    stream = ecreate() + eadd(0) + eextend(0)
    assert measure_image(stream, xfrm=7, misc_select=1, mmap_min_addr=PAGE) == measure_sgxs(stream)


def test_an_unsized_stream_is_recognised_and_has_no_measurement_yet() -> None:
    stream = record(b"UNSIZED", (1, 4), (0, 8)) + eadd(0)
    assert identify_image(stream) is ImageFormat.SGXS
    assert refused(stream) is Reason.IMAGE_MALFORMED


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(ecreate()[:63], id="half an ECREATE"),
        pytest.param(eadd(0), id="no ECREATE"),
        pytest.param(ecreate() + ecreate(), id="two ECREATE"),
        pytest.param(ecreate(size=0x7000), id="a size that is no power of two"),
        pytest.param(ecreate(size=0), id="no size"),
        pytest.param(ecreate(size=2048), id="half a page"),
        pytest.param(ecreate(ssa=0), id="no state save frame"),
        pytest.param(ecreate(ssa=1000), id="a state save frame of 4 MB"),
        pytest.param(ecreate()[:63] + b"\1", id="reserved bytes in ECREATE"),
        pytest.param(ecreate() + eadd(0)[:10], id="half an EADD"),
        pytest.param(ecreate() + eadd(0)[:63] + b"\1", id="reserved bytes in EADD"),
        pytest.param(ecreate() + eadd(128), id="a page inside a page"),
        pytest.param(ecreate() + eadd(0x8000), id="a page behind the enclave"),
        pytest.param(ecreate() + eadd(PAGE) + eadd(0), id="pages descending"),
        pytest.param(ecreate() + eadd(0) + eadd(0), id="a page twice"),
        pytest.param(ecreate() + eextend(0), id="content without a page"),
        pytest.param(ecreate() + eadd(0) + eextend(PAGE), id="content of another page"),
        pytest.param(ecreate() + eadd(PAGE) + eextend(0), id="content of an earlier page"),
        pytest.param(ecreate() + eadd(0) + eextend(1), id="content at an odd offset"),
        pytest.param(ecreate() + eadd(0) + eextend(0) + eextend(0), id="content twice"),
        pytest.param(ecreate() + eadd(0) + eextend(0) + unmeasured(0), id="content twice, once unmeasured"),
        pytest.param(ecreate() + eadd(0) + eextend(0)[:200], id="half the content"),
        pytest.param(ecreate() + eadd(0) + record(b"EEXTEND", (0, 8), (1, 8)) + bytes(256), id="reserved in EEXTEND"),
        pytest.param(ecreate() + record(b"EREMOVE"), id="an unknown record"),
    ],
)
def test_a_stream_that_no_processor_could_have_measured_is_refused(stream: bytes) -> None:
    assert refused(stream) is Reason.IMAGE_MALFORMED


def test_an_image_is_bounded_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sgx, "MAX_IMAGE_SIZE", 100)
    assert refused(ecreate() + eadd(0)) is Reason.IMAGE_MALFORMED


def test_the_encoder_writes_what_the_measurer_reads() -> None:
    pages = [(0, TCS, bytes(PAGE)), (2 * PAGE, REG_RW, b"x" * PAGE)]
    stream = sgx.encode_sgxs(pages, ssa_frame_size=1, enclave_size=0x4000)
    assert len(stream) == 64 + 2 * (64 + 16 * 320)
    assert measure_sgxs(stream).pages == 2
    assert measure_sgxs(stream).mr_enclave == hashlib.sha256(stream).digest()
