"""The flat image format: where pages lie, how large the enclave is, and which images are none."""

from __future__ import annotations

import hashlib
from datetime import date

import pytest

from eaa.errors import EAAError, MalformedInput, Misuse, Reason
from eaa.measure import sgx
from eaa.measure.sgx import ImageFormat, identify_image, measure_flat, measure_image
from eaa.measure.sigstruct import SIGSTRUCT, bcd_date

PAGE = 4096
AVX, AVX_512, PKRU, AMX = 0x4, 0xE0, 0x200, 0x60000


def flat(
    *,
    content: bytes = b"code",
    to_map: int = 0,
    protected: int = 0,
    address: int = 0,
    frames: int = 1,
    entry: int = PAGE,
) -> bytes:
    """A flat image: TCS page, `content`, metadata."""
    tcs = bytearray(PAGE)
    tcs[28:32] = frames.to_bytes(4, "little")
    tcs[32:40] = entry.to_bytes(8, "little")
    metadata = to_map.to_bytes(8, "little") + bytes([protected]) + address.to_bytes(8, "little")
    return bytes(tcs) + content + metadata


def by_hand(image: bytes, *, ssa: int, offset: int, mapped: int, size: int) -> bytes:
    """MRENCLAVE by the rules of the format, written down a second time."""
    file_size = -(-len(image) // PAGE) * PAGE
    memory = bytearray(image.ljust(mapped, b"\0"))
    memory[16:24] = (offset + file_size).to_bytes(8, "little")
    memory[32:40] = (int.from_bytes(memory[32:40], "little") + offset).to_bytes(8, "little")
    digest = hashlib.sha256(b"ECREATE\0" + ssa.to_bytes(4, "little") + size.to_bytes(8, "little") + bytes(44))
    for at in range(0, mapped, PAGE):
        flags = 0x100 if at == 0 else 0x207
        digest.update(b"EADD\0\0\0\0" + (offset + at).to_bytes(8, "little") + flags.to_bytes(8, "little") + bytes(40))
        for chunk in range(at, at + PAGE, 256):
            digest.update(b"EEXTEND\0" + (offset + chunk).to_bytes(8, "little") + bytes(48))
            digest.update(memory[chunk : chunk + 256])
    return digest.digest()


@pytest.mark.parametrize(
    ("image", "offset", "mapped", "size"),
    [
        pytest.param(flat(), 0, 3 * PAGE, 4 * PAGE, id="as needed"),
        pytest.param(flat(to_map=8 * PAGE), 0, 8 * PAGE, 8 * PAGE, id="a size to map"),
        pytest.param(flat(to_map=7 * PAGE + 1), 0, 8 * PAGE, 8 * PAGE, id="a size to map that is no page multiple"),
        pytest.param(flat(address=65536), 0, 3 * PAGE, 4 * PAGE, id="an address, no protection"),
        pytest.param(flat(address=123), 0, 3 * PAGE, 4 * PAGE, id="an odd address that nobody uses"),
        pytest.param(flat(protected=1, address=65536), 65536, 3 * PAGE, 131072, id="protected"),
        pytest.param(flat(protected=1), 16 << 20, 3 * PAGE, 32 << 20, id="protected, no address"),
    ],
)
def test_offset_and_size_follow_from_the_metadata(image: bytes, offset: int, mapped: int, size: int) -> None:
    measurement = measure_flat(image, xfrm=3, misc_select=0)
    assert (measurement.offset, measurement.pages * PAGE, measurement.enclave_size) == (offset, mapped, size)
    assert measurement.mr_enclave == by_hand(image, ssa=1, offset=offset, mapped=mapped, size=size)


@pytest.mark.parametrize(
    ("xfrm", "misc_select", "ssa_pages"),
    [
        pytest.param(3, 0, 1, id="SSE"),
        pytest.param(3, 1, 1, id="SSE and EXINFO"),
        pytest.param(3 | AVX | AVX_512 | PKRU, 1, 1, id="AVX-512"),
        pytest.param(3 | AVX | AMX, 0, 3, id="AMX"),
    ],
)
def test_the_state_save_frame_grows_with_xfrm(xfrm: int, misc_select: int, ssa_pages: int) -> None:
    measurement = measure_flat(flat(), xfrm=xfrm, misc_select=misc_select)
    assert measurement.ssa_frame_size == ssa_pages
    assert (measurement.xfrm, measurement.misc_select) == (xfrm, misc_select)


def test_xfrm_and_misc_select_come_from_the_sigstruct_unless_given() -> None:
    sigstruct = SIGSTRUCT(
        raw_date=bcd_date(date(2026, 1, 1)),
        misc_select=1,
        attributes=bytes(8) + (3 | AVX | AMX).to_bytes(8, "little"),
        attributes_mask=bytes(16),
        enclave_hash=bytes(32),
    )
    measured = measure_image(flat(), sigstruct=sigstruct)
    assert (measured.xfrm, measured.misc_select, measured.ssa_frame_size) == (3 | AVX | AMX, 1, 3)
    given = measure_image(flat(), sigstruct=sigstruct, xfrm=3, misc_select=0)
    assert (given.xfrm, given.misc_select, given.ssa_frame_size) == (3, 0, 1)


def test_a_given_lowest_address_stands_for_the_files_own() -> None:
    image = flat(protected=1, address=65536)
    moved = measure_image(image, mmap_min_addr=2 * 65536)
    assert (moved.offset, moved.mmap_min_addr) == (2 * 65536, 2 * 65536)
    assert moved.mr_enclave == by_hand(image, ssa=1, offset=2 * 65536, mapped=3 * PAGE, size=262144)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        pytest.param(flat(to_map=PAGE), Reason.IMAGE_MALFORMED, id="maps less than the file"),
        pytest.param(flat(to_map=1 << 62), Reason.IMAGE_MALFORMED, id="maps more than anybody hashes"),
        pytest.param(flat(protected=1, address=123), Reason.IMAGE_MALFORMED, id="an address inside a page"),
        pytest.param(flat(protected=1, address=1 << 62), Reason.IMAGE_MALFORMED, id="an address out of reach"),
        pytest.param(flat(protected=2), Reason.IMAGE_MALFORMED, id="a flag that is neither set nor clear"),
        pytest.param(flat(frames=0), Reason.IMAGE_MALFORMED, id="no state save frame"),
        pytest.param(flat()[:4000], Reason.IMAGE_MALFORMED, id="not even one page"),
    ],
)
def test_an_image_that_contradicts_itself_is_refused(image: bytes, reason: Reason) -> None:
    with pytest.raises(MalformedInput) as caught:
        measure_flat(image, xfrm=3, misc_select=0)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"xfrm": 1 << 40 | 3}, id="a state component of unknown size"),
        pytest.param({"mmap_min_addr": 4097}, id="an address inside a page"),
        pytest.param({"mmap_min_addr": 1 << 40}, id="an address out of reach"),
    ],
)
def test_an_argument_that_cannot_be_is_the_callers_fault(arguments: dict[str, int]) -> None:
    with pytest.raises(Misuse) as caught:
        measure_image(flat(), **arguments)  # type: ignore[arg-type]
    assert caught.value.reason is Reason.USAGE


def test_an_image_is_bounded_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sgx, "MAX_IMAGE_SIZE", 100)
    with pytest.raises(MalformedInput) as caught:
        measure_flat(flat(), xfrm=3, misc_select=0)
    assert caught.value.reason is Reason.IMAGE_MALFORMED


def test_a_flat_image_is_recognised_by_its_first_page_and_its_metadata() -> None:
    assert identify_image(flat()) is ImageFormat.FLAT


@pytest.mark.parametrize("raw", [b"", b"\x7fELF" + bytes(8192), bytes(8192), b"junk" * 4096, flat(frames=0)])
def test_other_files_are_of_no_known_format(raw: bytes) -> None:
    with pytest.raises(EAAError) as caught:
        identify_image(raw)
    assert caught.value.reason is Reason.UNKNOWN_FORMAT
