"""Enclave images and their SIGSTRUCTs as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eaa.measure.sgx import ImageFormat, Measurement, identify_image, measure_image
from eaa.measure.sigstruct import SIGSTRUCT
from eaa.program.files import read_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredImage:
    """An image, what it measures to, and the SIGSTRUCT that was given with it."""

    image_format: ImageFormat
    measurement: Measurement
    sigstruct: SIGSTRUCT | None

    def to_json(self) -> dict[str, Any]:
        """Return what `shelter measure` prints; assumptions of the measurement are part of the answer."""
        measurement = self.measurement
        document: dict[str, Any] = {
            "mr_enclave": measurement.mr_enclave.hex(),
            "mr_signer": None if self.sigstruct is None else self.sigstruct.mr_signer.hex(),
            "format": self.image_format.value,
            "enclave_size": measurement.enclave_size,
            "pages": measurement.pages,
        }
        assumed = {
            "xfrm": measurement.xfrm,
            "misc_select": measurement.misc_select,
            "mmap_min_addr": measurement.mmap_min_addr,
        }
        document.update({name: value for name, value in assumed.items() if value is not None})
        return document


def read_sigstruct(path: Path) -> SIGSTRUCT:
    """Return the SIGSTRUCT in a file. Raises Misuse or MalformedInput (SIGSTRUCT_MALFORMED)."""
    return SIGSTRUCT.parse(read_bytes(path, what="the SIGSTRUCT"))


def measure_file(
    image: Path,
    *,
    sigstruct: Path | None = None,
    xfrm: int | None = None,
    misc_select: int | None = None,
    mmap_min_addr: int | None = None,
) -> MeasuredImage:
    """Measure an image file. Raises Misuse or MalformedInput."""
    raw = read_bytes(image, what="the enclave image")
    signed = None if sigstruct is None else read_sigstruct(sigstruct)
    measurement = measure_image(raw, sigstruct=signed, xfrm=xfrm, misc_select=misc_select, mmap_min_addr=mmap_min_addr)
    return MeasuredImage(image_format=identify_image(raw), measurement=measurement, sigstruct=signed)
