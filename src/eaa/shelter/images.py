"""Enclave images and their SIGSTRUCTs as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

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


class _Integer(click.ParamType[int]):
    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return a decimal or 0x-prefixed number that fits 64 bits."""
        try:
            number = value if isinstance(value, int) else int(value, 0)
        except ValueError:
            number = -1
        if not 0 <= number < 1 << 64:
            self.fail(f"{value!r} is no unsigned 64-bit number", param, ctx)
        return number


def flat_options(function: Any) -> Any:
    """Add what the measurement of a flat image depends on, beside its bytes."""
    options = (
        click.option("--xfrm", type=_Integer(), metavar="N", help="XFRM. Default: the SIGSTRUCT's, else 3."),
        click.option(
            "--miscselect", type=_Integer(), metavar="N", help="MISCSELECT. Default: the SIGSTRUCT's, else 0."
        ),
        click.option("--mmap-min-addr", type=_Integer(), metavar="N", help="Default: the image's own metadata."),
    )
    for option in reversed(options):
        function = option(function)
    return function
