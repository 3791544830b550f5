"""`eaa-pccs migrate`: bring a database up to date, apart from any start."""

from __future__ import annotations

import os
from pathlib import Path

import click

from eaa.pccs.options import answering_errors, db_option, default_database
from eaa.program.output import json_option, print_json


@click.command()
@db_option
@json_option
def migrate(*, db: Path | str | None, as_json: bool) -> None:
    """Bring the database to the schema of this version; a start does the same by itself.

    For operators who want it done before processes of the new version start, or by a user with more rights. Processes
    of an older version refuse a newer database.
    """
    with answering_errors(as_json=as_json, migrated=False):
        from eaa.pccs.migrations import migrate as bring_up_to_date  # noqa: PLC0415

        before, after = bring_up_to_date(db or default_database(os.environ))
    if as_json:
        print_json({"migrated": True, "before": before, "after": after, "reason": None, "message": None, "hint": None})
    else:
        click.echo(f"the schema was of version {before or 'none'}, and is of version {after}")
