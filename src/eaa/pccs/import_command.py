"""`eaa-pccs import`: a bundle, Intel's platform_collaterals.json or the database of Intel's service, verified."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import click

from eaa.errors import Misuse, Reason, VerificationError
from eaa.pccs.options import answering_errors, db_option, default_database, trust_anchor_option
from eaa.program.files import read_bytes, read_trust_anchor
from eaa.program.output import json_option, print_json

SQLITE: Final = b"SQLite format 3\0"
MAX_INTEL: Final = 256 * 1024 * 1024
"""Bytes of platform_collaterals.json, which is read whole: some ten thousand platforms."""


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@db_option
@click.option(
    "--key", type=click.Path(path_type=Path), metavar="FILE", help="The public key (PEM) of who made a bundle."
)
@trust_anchor_option("A root certificate (PEM) whose documents are taken as well as Intel's. Repeatable.")
@json_option
def import_file(
    *, file: Path, db: Path | str | None, key: Path | None, trust_anchors: tuple[Path, ...], as_json: bool
) -> None:
    """Store what is in FILE: a bundle, Intel's platform_collaterals.json, or the SQLite database of Intel's service.

    A bundle's signature is verified by --key, and whatever the file is, every document in it by the trust anchors, like
    an upload. What is older than what is there is not stored. Nothing is spoken to; a service that runs on this
    database takes notice within a second.
    """
    with answering_errors(as_json=as_json, stored=False):
        carried = _import(file, db or default_database(os.environ), key, trust_anchors)
        if carried.refused and not (carried.documents or carried.platforms or carried.policies):
            raise _refused(carried)
    answer = {
        name: getattr(carried, name) for name in ("documents", "platforms", "policies", "registrations", "kept_newer")
    }
    if as_json:
        reason = str(Reason.COLLATERAL_MALFORMED) if carried.refused else None
        print_json(
            {"stored": True, **answer, "refused": carried.refused, "reason": reason, "message": None, "hint": None}
        )
    else:
        click.echo(f"{file}: stored {carried.documents} documents and {carried.platforms} platforms")
        if carried.policies or carried.registrations:
            click.echo(f"and {carried.policies} appraisal policies and {carried.registrations} platforms that wait")
        if carried.kept_newer:
            click.echo(f"{carried.kept_newer} documents were not stored: newer ones are there")
        for cause in carried.refused:
            click.echo(f"refused: {cause}")
    if carried.refused:
        raise _refused(carried)


def _refused(carried: Any) -> VerificationError:
    return VerificationError(
        Reason.COLLATERAL_MALFORMED,
        f"{len(carried.refused)} parts were refused, the first because: {carried.refused[0]}",
        hint="--trust-anchor names a root other than Intel's; what is past its time has to be fetched anew",
    )


def _import(file: Path, where: Path | str, key: Path | None, trust_anchors: tuple[Path, ...]) -> Any:
    from eaa.pccs.bundle import read_public_key  # noqa: PLC0415
    from eaa.pccs.importing import import_intel_sqlite  # noqa: PLC0415
    from eaa.pccs.store import Store  # noqa: PLC0415
    from eaa.pccs.transfer import import_bundle, import_intel_form  # noqa: PLC0415
    from eaa.verifier import INTEL, TrustAnchors, wall_clock  # noqa: PLC0415

    begin = _begin(file)
    anchors = TrustAnchors(INTEL.fingerprints | frozenset(read_trust_anchor(path) for path in trust_anchors))
    judged: dict[str, Any] = {"trust_anchors": anchors, "now": wall_clock()}
    is_bundle = begin.startswith(b"manifest.json\0")
    if is_bundle != (key is not None):
        why = "a bundle is verified with --key" if is_bundle else "--key verifies a bundle, and this is none"
        raise Misuse(Reason.USAGE, f"{file}: {why}", hint="the public key comes from whoever exported the bundle")
    public = None if key is None else read_public_key(key)
    store = Store.open(where)
    try:
        if public is not None:
            with file.open("rb") as stream:
                return import_bundle(stream, store, key=public, **judged)
        if begin == SQLITE:
            return import_intel_sqlite(file, store, **judged)
        return import_intel_form(read_bytes(file, what="the collateral file", maximum=MAX_INTEL), store, **judged)
    finally:
        store.close()


def _begin(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(len(SQLITE))
    except OSError as error:
        raise Misuse(
            Reason.FILE_UNREADABLE,
            f"{file} cannot be read: {error.strerror}",
            hint="check the path and its permissions",
        ) from error
