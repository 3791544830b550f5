"""`shelter measure` and `shelter mrverify`: launch measurements of images, computed here and not believed."""

from __future__ import annotations

from pathlib import Path

import click

from eaa.errors import EAAError, MalformedInput, Reason, Rejection, VerificationError
from eaa.program.output import json_option, print_failure, print_json, print_record, print_verdict
from eaa.program.verdict import Verdict, verdict_of_error
from eaa.shelter.images import MeasuredImage, flat_options, measure_file

MATCHES = "new mrEnclave match the vallue in sigstruct file successfully."
"""The reference program's own words, spelling included: scripts look for them."""


@click.command("measure")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--sigstruct", type=click.Path(path_type=Path), metavar="FILE", help="Also print its MRSIGNER.")
@flat_options
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
@flat_options
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
