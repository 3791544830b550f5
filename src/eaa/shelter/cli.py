"""`shelter`: the on-premises Verifier. Knows the launch measurements, judges, prints one verdict."""

from __future__ import annotations

from typing import NoReturn

import click

from eaa import __version__
from eaa.program.run import run
from eaa.shelter.inspection import inspect_command
from eaa.shelter.measuring import measure_command, mrverify_command
from eaa.shelter.recording import record_command
from eaa.shelter.remote import remoteattestation_command
from eaa.shelter.verification import verify_command


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Exit codes: 0 accepted or done, 1 rejected, 2 misuse, 3 unverifiable or misbehaving peer, 4 unavailable, "
    "70 a bug of ours, 130 interrupted, 143 terminated.",
)
@click.version_option(__version__, "-V", "--version", prog_name="shelter")
@click.option(
    "--verbose", is_flag=True, help="Accepted as in the reference program; --log-level says how much is said."
)
def cli(*, verbose: bool) -> None:
    """Prove that a workload runs in a genuine TEE with the measurement you expect."""
    del verbose


for command in (
    remoteattestation_command,
    verify_command,
    inspect_command,
    measure_command,
    mrverify_command,
    record_command,
):
    cli.add_command(command)


def main() -> NoReturn:
    """Run `shelter`."""
    run(cli, "shelter")
