"""`eaa`: the whole system on one machine, with a software TEE."""

from __future__ import annotations

from typing import Final, NoReturn

import click

from eaa import __version__
from eaa.program.lazy import LazyGroup
from eaa.program.run import run

COMMANDS: Final = {
    "demo": ("eaa.demo.demonstration:demo_command", "Attest a workload end to end, and watch four attacks refused."),
    "simulator": ("eaa.demo.simulator:simulator_group", "Make software TEEs and sample enclave images."),
}


@click.group(
    cls=LazyGroup,
    commands_at=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.version_option(__version__, "-V", "--version", prog_name="eaa")
def cli() -> None:
    """The Enclave Attestation Architecture on one machine: a demonstration, and software TEEs to try things with."""


def main() -> NoReturn:
    """Run `eaa`."""
    run(cli, "eaa")
