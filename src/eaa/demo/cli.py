"""`eaa`: the whole system on one machine, with a software TEE."""

from __future__ import annotations

from typing import NoReturn

import click

from eaa import __version__
from eaa.demo.demonstration import demo_command
from eaa.demo.simulator import simulator_group
from eaa.program.run import run


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, "-V", "--version", prog_name="eaa")
def cli() -> None:
    """The Enclave Attestation Architecture on one machine: a demonstration, and software TEEs to try things with."""


cli.add_command(demo_command)
cli.add_command(simulator_group)


def main() -> NoReturn:
    """Run `eaa`."""
    run(cli, "eaa")
