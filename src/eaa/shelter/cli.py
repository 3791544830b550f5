"""`shelter`: the on-premises Verifier. Knows the launch measurements, judges, prints one verdict."""

from __future__ import annotations

from typing import Final, NoReturn

import click

from eaa import __version__
from eaa.program.lazy import LazyGroup
from eaa.program.run import run

COMMANDS: Final = {
    "remoteattestation": (
        "eaa.shelter.remote:remoteattestation_command",
        "Attest the relay and the workload of a node.",
    ),
    "connect": ("eaa.shelter.connecting:connect_command", "Give a local port that leads to a workload's application."),
    "verify": ("eaa.shelter.verification:verify_command", "Verify a quote from a file, and appraise it."),
    "inspect": ("eaa.shelter.inspection:inspect_command", "Explain a file without judging it."),
    "doctor": (
        "eaa.shelter.doctor:doctor_command",
        "Look at the configuration of collateral, and at the service behind it.",
    ),
    "measure": ("eaa.shelter.measuring:measure_command", "Compute the MRENCLAVE of an enclave image."),
    "mrverify": ("eaa.shelter.measuring:mrverify_command", "Compare an image with its SIGSTRUCT."),
    "record": ("eaa.shelter.recording:record_command", "Record a measurement that you expect."),
}


@click.group(
    cls=LazyGroup,
    commands_at=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Exit codes: 0 accepted or done, 1 rejected, 2 misuse, 3 unverifiable or misbehaving peer, 4 unavailable, "
    "70 a bug of ours, 130 interrupted, 143 terminated.",
)
@click.version_option(__version__, "-V", "--version", prog_name="shelter")
@click.option(
    "--verbose", is_flag=True, help="Accepted as in the reference program; --log-level says how much is said."
)
def cli(*, verbose: bool) -> None:
    """Prove that a workload runs in a genuine TEE with the measurement you expect.

    Exit codes are 0 for accepted or done, 1 rejected, 2 misuse, 3 unverifiable or a misbehaving peer, 4 unavailable,
    70 a bug of ours, 130 interrupted, 143 terminated.
    """
    del verbose


def main() -> NoReturn:
    """Run `shelter`."""
    run(cli, "shelter")
