"""`eaa-pccs hash-token`: what a token file may hold in place of the token."""

from __future__ import annotations

from pathlib import Path

import click

from eaa.pccs.options import read_token


@click.command("hash-token")
@click.argument("file", type=click.Path(path_type=Path))
def hash_token(file: Path) -> None:
    """Print the salted, slow hash (scrypt) of the token in FILE, one line: a token file may hold it instead."""
    from eaa.pccs.tokens import hash_token as hashed  # noqa: PLC0415

    click.echo(hashed(read_token(file)))
