"""`eaa-pccs export`: what a cache holds, as a file for another one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from eaa.errors import Misuse, Reason
from eaa.pccs.options import answering_errors, db_option, default_database, is_there
from eaa.program.files import writing_whole
from eaa.program.output import json_option, print_json


@click.command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@db_option
@click.option(
    "--key", type=click.Path(path_type=Path), metavar="FILE", help="The private key (PEM) that signs a bundle."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["bundle", "intel"]),
    default="bundle",
    show_default=True,
    help="A signed bundle of everything, or Intel's platform_collaterals.json of one PKI.",
)
@click.option("--root", default="", metavar="HEX", help="Only the PKI whose root has a SHA-256 that begins so.")
@json_option
def export(*, file: Path, db: Path | str | None, key: Path | None, form: str, root: str, as_json: bool) -> None:
    """Write what the database holds into FILE: for a cache that no network reaches, or for Intel's tools.

    A bundle of the same content, signed by the same key, has the same bytes. It names platforms, as uploads do, so that
    it is written with mode 0600. The service may be running.
    """
    with answering_errors(as_json=as_json, written=False):
        if (form == "bundle") != (key is not None):
            raise Misuse(
                Reason.USAGE,
                "a bundle is signed with --key, and Intel's form is not signed",
                hint="`openssl genpkey -algorithm ed25519 -out bundle.key` makes a key",
            )
        from eaa.pccs.store import Store  # noqa: PLC0415

        where = db or default_database(os.environ)
        if not is_there(where):
            raise Misuse(
                Reason.COLLATERAL_NOT_FOUND, f"there is no database {where}", hint="--db names the one of the service"
            )
        store = Store.open(where)
        try:
            size = _export(store, file, key, root)
        finally:
            store.close()
    if as_json:
        print_json({"written": True, "file": str(file), "bytes": size, "reason": None, "message": None, "hint": None})
    else:
        click.echo(f"{file} holds {size:,} bytes")


def _export(store: Any, file: Path, key: Path | None, root: str) -> int:
    """Write the file, whatever is in it never in memory at once; return how many bytes it has."""
    from eaa.pccs.bundle import read_private_key  # noqa: PLC0415
    from eaa.pccs.transfer import export_bundle, export_intel_form, roots_of  # noqa: PLC0415

    roots = roots_of(store, root)
    if key is None and len(roots) > 1:
        raise Misuse(
            Reason.USAGE,
            f"the database has {len(roots)} PKIs, and Intel's form has a place for one",
            hint=f"--root names it: {', '.join(each[:16] for each in roots)}",
        )
    private = None if key is None else read_private_key(key)
    with writing_whole(file) as stream:
        if private is None:
            export_intel_form(store, stream, root=roots[0], scratch=file.absolute().parent)
        else:
            export_bundle(store, stream, roots=roots, key=private, scratch=file.absolute().parent)
        return stream.tell()
