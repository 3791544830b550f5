"""Measurements and SIGSTRUCTs of others: an independent measurer's answers, and files that real signing tools wrote."""

from __future__ import annotations

import json
from datetime import date

import pytest

from eaa.errors import EAAError, Misuse, Reason
from eaa.measure.sgx import ImageFormat, identify_image, measure_flat, measure_image, measure_sgxs
from eaa.measure.sigstruct import DEBUG_SIGSTRUCT, INTEL_VENDOR, SIGSTRUCT
from support.simulated import signer_key
from support.vectors import AVAILABLE, ROOT, vector

MINIREP = "99a4e53532fd7d0edc6231f54d9f4d85fe9dd6f406ff12973d577a70e38c6ddd"
FLAT = json.loads((ROOT / "mrenclave/flat/expected.json").read_text()) if AVAILABLE else []
SIGSTRUCTS = {
    "alibaba/hello-world.sig": "7470ffc919e823e0f6a9592e05fe523b228b491865aadf0cfe7ce5ddd31412b5",
    "fortanix/test_enclave.sig": "784acfd7d5096a8f0fbd3265760bff21b120f62407a9a9e5ba31aa3c8ed198fc",
    "intel/le_prod_css.bin": "7881af9f9def547da9908c008f29cde9bd78064e36ac7e14c83c294ca4806150",
    "own/linux-selftest.sigstruct": "448056b228b1f2451de97918e5290d488395838f513bb5554b27d51906d5509b",
    "own/minirep.sigstruct": MINIREP,
}


def read(name: str) -> bytes:
    return vector(f"mrenclave/{name}").read_bytes()


def test_a_page_stream_measures_to_what_its_builder_says() -> None:
    measurement = measure_sgxs(read("own/minirep.sgxs"))
    assert measurement.mr_enclave.hex() == MINIREP
    assert (measurement.enclave_size, measurement.ssa_frame_size, measurement.pages) == (0x8000, 1, 5)
    assert SIGSTRUCT.parse(read("own/minirep.sigstruct")).enclave_hash == measurement.mr_enclave


@pytest.mark.parametrize("row", FLAT, ids=lambda row: row["file"])
def test_a_flat_image_measures_to_what_an_independent_measurer_says(row: dict[str, object]) -> None:
    image = read(f"flat/{row['file']}")
    measurement = measure_flat(image, xfrm=3, misc_select=0)
    assert measurement.mr_enclave.hex() == row["mr_enclave"]
    assert measurement.offset == row["offset"]
    assert measurement.enclave_size == row["enclave_size"]
    assert measurement.ssa_frame_size == row["ssa_pages"]
    assert measure_image(image) == measurement, "XFRM 3 and MISCSELECT 0 are the defaults"


def test_both_flat_images_are_there() -> None:
    assert len(json.loads(read("flat/expected.json"))) == 2


def test_the_files_own_lowest_address_can_be_given_again() -> None:
    image = read("flat/flat1.bin")
    assert measure_flat(image, xfrm=3, misc_select=0, mmap_min_addr=65536) == measure_image(image)
    assert measure_flat(image, xfrm=3, misc_select=0, mmap_min_addr=0).offset == 16 << 20


def test_an_image_without_null_dereference_protection_starts_at_zero_whatever_the_lowest_address() -> None:
    image = read("flat/flat0.bin")
    moved = measure_flat(image, xfrm=3, misc_select=0, mmap_min_addr=1 << 20)
    assert (moved.offset, moved.mr_enclave) == (0, measure_image(image).mr_enclave)


@pytest.mark.parametrize(
    ("name", "image_format"), [("own/minirep.sgxs", ImageFormat.SGXS), ("flat/flat0.bin", ImageFormat.FLAT)]
)
def test_images_are_recognised_by_their_bytes(name: str, image_format: ImageFormat) -> None:
    assert identify_image(read(name)) is image_format


@pytest.mark.parametrize("name", ["own/minirep.elf", "own/minirep.S", "own/minirep.sigstruct", "flat/expected.json"])
def test_what_is_no_image_of_ours_is_said_to_be_none(name: str) -> None:
    with pytest.raises(EAAError) as caught:
        identify_image(read(name))
    assert caught.value.reason is Reason.UNKNOWN_FORMAT


@pytest.mark.parametrize(("name", "mr_enclave"), SIGSTRUCTS.items())
def test_every_sigstruct_parses_verifies_and_encodes_to_itself(name: str, mr_enclave: str) -> None:
    raw = read(name)
    sigstruct = SIGSTRUCT.parse(raw)
    sigstruct.verify_signature()
    assert sigstruct.enclave_hash.hex() == mr_enclave
    assert sigstruct.encode() == raw
    assert sigstruct.reserved_is_zero


def test_intels_launch_enclave_reads_as_intel_signed_it() -> None:
    sigstruct = SIGSTRUCT.parse(read("intel/le_prod_css.bin"))
    assert sigstruct.mr_signer.hex() == "acb77012053e05a63d413b8bbae8fb6c5d73b3f2996d91c43bbbf90959c0f8d4"
    assert sigstruct.vendor == INTEL_VENDOR
    assert sigstruct.build_date == date(2024, 8, 11)
    assert (sigstruct.isv_prod_id, sigstruct.isv_svn) == (32, 7)
    assert not sigstruct.header_type & DEBUG_SIGSTRUCT
    assert not sigstruct.is_debug
    assert sigstruct.xfrm == 3


def test_a_date_that_is_no_bcd_is_accepted_but_never_written() -> None:
    """The signer of this file wrote the year as a number: no tool may refuse it, and ours does not make another."""
    sigstruct = SIGSTRUCT.parse(read("alibaba/hello-world.sig"))
    sigstruct.verify_signature()
    assert sigstruct.build_date is None
    assert sigstruct.is_debug
    with pytest.raises(Misuse) as caught:
        sigstruct.sign(signer_key())
    assert caught.value.reason is Reason.USAGE
