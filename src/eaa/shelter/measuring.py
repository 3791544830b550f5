"""`shelter measure` and `shelter mrverify`: launch measurements of images, computed here and not believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from eaa.errors import EAAError, MalformedInput, Reason, Rejection, VerificationError
from eaa.program.output import json_option, print_failure, print_json, print_record, print_verdict
from eaa.program.verdict import Verdict, verdict_of_error
from eaa.shelter.images import MeasuredImage, measure_file

MATCHES = "new mrEnclave match the vallue in sigstruct file successfully."
"""The reference program's own words, spelling included: scripts look for them."""


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


def _flat_options(function: Any) -> Any:
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


@click.command("measure")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--sigstruct", type=click.Path(path_type=Path), metavar="FILE", help="Also print its MRSIGNER.")
@_flat_options
@json_option
def measure_command(
    *,
    image: Path,
    sigstruct: Path | None,
    xfrm: int | None,
    miscselect: int | None,
    mmap_min_addr: int | None,
    as_json: bool,
) -> int:
    """Compute the MRENCLAVE of an enclave IMAGE (SGXS page stream, or the flat skeleton format)."""
    try:
        measured = measure_file(
            image, sigstruct=sigstruct, xfrm=xfrm, misc_select=miscselect, mmap_min_addr=mmap_min_addr
        )
    except EAAError as error:
        return print_failure(error, as_json=as_json)
    if as_json:
        print_json(measured.to_json())
    else:
        print_record({name: value for name, value in measured.to_json().items() if value is not None})
    return 0


@click.command("mrverify")
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("sigstruct", type=click.Path(path_type=Path))
@_flat_options
@json_option
def mrverify_command(
    *,
    image: Path,
    sigstruct: Path,
    xfrm: int | None,
    miscselect: int | None,
    mmap_min_addr: int | None,
    as_json: bool,
) -> int:
    """Compare the measurement of IMAGE with its SIGSTRUCT, and check the SIGSTRUCT's own signature."""
    try:
        measured = measure_file(
            image, sigstruct=sigstruct, xfrm=xfrm, misc_select=miscselect, mmap_min_addr=mmap_min_addr
        )
        require_signed(measured)
    except (MalformedInput, VerificationError, Rejection) as error:
        verdict = verdict_of_error(error)
    else:
        verdict = _matching(measured)
    if verdict.exit_code == 0 and not as_json:
        click.echo(f"mr enclave: {verdict.mr_enclave}\nmr signer: {verdict.mr_signer}\n{MATCHES}")
    else:
        print_verdict(verdict, program="shelter", as_json=as_json)
    return verdict.exit_code


def require_signed(measured: MeasuredImage) -> None:
    """Raise unless the SIGSTRUCT is intact and signs exactly this image.

    Raises:
        VerificationError: SIGSTRUCT_SIGNATURE.
        Rejection: MEASUREMENT_MISMATCH.
    """
    sigstruct = measured.sigstruct
    assert sigstruct is not None
    sigstruct.verify_signature()
    if sigstruct.enclave_hash != measured.measurement.mr_enclave:
        raise Rejection(
            Reason.MEASUREMENT_MISMATCH,
            f"the image measures to {measured.measurement.mr_enclave.hex()}, "
            f"the SIGSTRUCT was made for {sigstruct.enclave_hash.hex()}",
            hint="the image was changed after it was signed, or XFRM, MISCSELECT or mmap-min-addr are not the signer's",
        )


def _matching(measured: MeasuredImage) -> Verdict:
    assert measured.sigstruct is not None
    return Verdict(
        verdict="accepted",
        message="the SIGSTRUCT is intact and signs exactly this image",
        tee="sgx",
        mr_enclave=measured.measurement.mr_enclave.hex(),
        mr_signer=measured.sigstruct.mr_signer.hex(),
    )
