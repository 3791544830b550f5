"""`eaa-pccs upload`: store collateral in a PCCS, ours or another."""

from __future__ import annotations

from pathlib import Path

import click

from eaa.pccs.options import answering_errors, read_token
from eaa.program.files import read_bytes
from eaa.program.output import json_option, print_json


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--url", required=True, metavar="URL", help="The PCCS, with or without /sgx/certification/v4/.")
@click.option(
    "--admin-token-file",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Holds the token that the PCCS was started with.",
)
@click.option("--ca", type=click.Path(path_type=Path), metavar="FILE", help="The CA (PEM) of the PCCS's certificate.")
@json_option
def upload(file: Path, url: str, admin_token_file: Path, ca: Path | None, as_json: bool) -> None:  # noqa: FBT001  click's
    """Store the platforms and collateral of FILE (platform_collaterals.json) in a PCCS, ours or another."""
    with answering_errors(as_json=as_json, stored=False):
        from eaa.pccs.uploads import MAX_UPLOAD  # noqa: PLC0415
        from eaa.sources.pccs import upload as put  # noqa: PLC0415

        body = read_bytes(file, what="the collateral file", maximum=MAX_UPLOAD)
        put(url, body, read_token(admin_token_file), ca_file=ca)
    if as_json:
        print_json({"stored": True, "reason": None, "message": f"{file} is stored at {url}", "hint": None})
    else:
        click.echo(f"{file} is stored at {url}")
