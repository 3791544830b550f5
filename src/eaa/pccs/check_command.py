"""`eaa-pccs check`: what is cached, for whom, for how long, and what the next TCB recovery changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from eaa.errors import Reason, Unavailable, VerificationError
from eaa.pccs.options import (
    answering_errors,
    db_option,
    default_database,
    is_there,
    trust_anchor_option,
)
from eaa.program.files import read_trust_anchor
from eaa.program.output import json_option, print_json


@click.command()
@db_option
@trust_anchor_option("A root certificate (PEM) whose documents are served as well as Intel's. Repeatable.")
@click.option(
    "--within",
    type=click.IntRange(0, 3650),
    default=7,
    show_default=True,
    metavar="DAYS",
    help="What ends within so many days is a trouble.",
)
@json_option
def check(*, db: Path | str | None, trust_anchors: tuple[Path, ...], within: int, as_json: bool) -> None:
    """Say what the database holds: documents with their ends, platforms and certificates by model, and a forecast.

    Every document is verified as it is before it is served; of PCK certificates the first end is read. The forecast
    compares the documents that count with the early ones, where they are cached: which evaluation number comes next,
    which platforms fall from which status to which, and what they lack. Exit code 0 where all is well, 3 where
    something is refused, past its end or about to be, 4 where there is nothing. No network is used, and the service may
    be running.
    """
    with answering_errors(as_json=as_json, documents=[], models=[], forecasts=[]):
        where = db or default_database(os.environ)
        found = _survey(where, trust_anchors, timedelta(days=within)) if is_there(where) else None
        if found is None or not found.entries:
            raise Unavailable(
                Reason.COLLATERAL_NOT_FOUND,
                "the database holds no collateral",
                hint="`eaa-pccs upload`, `eaa-pccs import` or --mode LAZY fill it",
            )
    trouble = _trouble(found)
    if as_json:
        error: dict[str, str | None] = {"reason": None, "message": None, "hint": None}
        if trouble is not None:
            error = {"reason": str(trouble.reason), "message": trouble.message, "hint": trouble.hint}
        print_json({**as_document(found), **error})
    else:
        for line in _lines(found):
            click.echo(line)
    if trouble is not None:
        raise trouble


def _survey(where: Path | str, trust_anchors: tuple[Path, ...], within: timedelta) -> Any:
    from eaa.pccs.store import Store  # noqa: PLC0415
    from eaa.pccs.survey import survey  # noqa: PLC0415
    from eaa.verifier import INTEL, TrustAnchors, wall_clock  # noqa: PLC0415

    anchors = TrustAnchors(INTEL.fingerprints | frozenset(read_trust_anchor(path) for path in trust_anchors))
    store = Store.open(where)
    try:
        return survey(store, trust_anchors=anchors, now=wall_clock(), ends_soon=within)
    finally:
        store.close()


_RENEWAL = "a refresh (--mode LAZY or REQ, POST /refresh), an upload or an import brings newer ones"


def _trouble(found: Any) -> VerificationError | None:
    troubles = found.troubles
    if not troubles:
        return _trouble_of_certificates(found)
    first = min(troubles, key=lambda entry: entry.ends)
    return VerificationError(
        first.reason,
        f"{len(troubles)} of {len(found.entries)} documents are not served, or not for long; the first: "
        f"{first.what}: {first.why}",
        hint=_RENEWAL,
    )


def _trouble_of_certificates(found: Any) -> VerificationError | None:
    for (_, fmspc), own in sorted(found.certificates.items()):
        state = found.state_of(own)
        if state != "valid":
            reasons = {"ends soon": Reason.COLLATERAL_ENDS_SOON, "expired": Reason.CERTIFICATE_EXPIRED}
            reason = reasons.get(state, Reason.CERTIFICATE_MALFORMED)
            what = f"the first to end does at {_moment(own.ends)}" if own.ends else "none can be read"
            return VerificationError(reason, f"of {own.count:,} PCK certificates of {fmspc} {what}", hint=_RENEWAL)
    return None


def as_document(found: Any) -> dict[str, Any]:
    """Return a survey as what `--json` prints."""
    return {
        "at": _moment(found.at),
        "default_root": found.default_root,
        "documents": [
            {
                "root": entry.root,
                "kind": entry.kind,
                "name": entry.key.name,
                "update": entry.key.update_type.lower() or None,
                "api_version": entry.key.api_version or None,
                "what": entry.what,
                "number": entry.number,
                "issued": _moment(entry.issued),
                "ends": _moment(entry.ends),
                "days_left": entry.days_left(found.at),
                "state": str(entry.state),
                "reason": None if entry.reason is None else str(entry.reason),
                "message": entry.why or None,
            }
            for entry in found.entries
        ],
        "models": [_model(model, found) for model in sorted(found.platforms)],
        "forecasts": [_forecast(each) for each in found.forecasts],
    }


def _model(model: tuple[str, str], found: Any) -> dict[str, Any]:
    own = found.certificates.get(model)
    return {
        "root": model[0],
        "fmspc": model[1],
        "platforms": found.platforms[model],
        "certificates": own.count if own else 0,
        "certificates_read": own.read if own else 0,
        "ends": _moment(own.ends) if own and own.ends else None,
        "days_left": own.days_left(found.at) if own else None,
    }


def _forecast(each: Any) -> dict[str, Any]:
    return {
        "root": each.root,
        "what": each.what,
        "name": each.name,
        "tee": each.tee,
        "number": each.number,
        "next_number": each.next_number,
        "changes": [
            {
                "date": change.date,
                "before": change.before,
                "after": change.after,
                "new_advisories": list(change.advisories),
                "svns": list(change.svns),
            }
            for change in each.changes
        ],
        "platforms": [
            {
                "tcbm": fall.tcbm,
                "count": fall.count,
                "before": fall.before,
                "after": fall.after,
                "short": list(fall.short),
                "raised_by": fall.raised_by or None,
            }
            for fall in each.platforms
        ],
    }


def _moment(moment: Any) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _lines(found: Any) -> Iterator[str]:
    for root in dict.fromkeys(entry.root for entry in found.entries):
        entries = [entry for entry in found.entries if entry.root == root]
        yield f"root {root[:16]}{', the default' if root == found.default_root else ''}"
        width = max(len(entry.what) for entry in entries)
        for entry in entries:
            left = entry.days_left(found.at)
            state = "" if entry.state == "valid" else f"  {entry.state.upper()}: {entry.why} [{entry.reason}]"
            yield f"  {entry.what:<{width}}  {left:>5} days  until {_moment(entry.ends)}  number {entry.number}{state}"
        for model in sorted(found.platforms):
            if model[0] == root:
                yield _model_line(model, found)
        for each in found.forecasts:
            if each.root == root:
                yield from _forecast_lines(each)


def _model_line(model: tuple[str, str], found: Any) -> str:
    own = found.certificates.get(model)
    line = f"  {found.platforms[model]:,} platforms of {model[1]}: {own.count if own else 0:,} PCK certificates"
    if own is None or own.ends is None:
        return f"{line}  REFUSED: none can be read" if own and own.count else line
    read = "" if own.read == own.count else f" of {own.read:,} that were read"
    state = found.state_of(own)
    said = "" if state == "valid" else f"  {state.upper()}"
    return f"{line}, the first{read} has {own.days_left(found.at):,} days until {_moment(own.ends)}{said}"


def _forecast_lines(each: Any) -> Iterator[str]:
    yield f"  next: {each.what}: evaluation number {each.number} becomes {each.next_number}"
    for fall in each.platforms:
        same = fall.before == fall.after
        becomes = f"stay {fall.after}" if same else f"fall from {fall.before} to {fall.after}"
        yield f"    {fall.count:,} TCBs {fall.tcbm} {becomes}"
        for lack in fall.short if not same else ():
            yield f"      {lack}; the level of {fall.raised_by} has it"
    for change in each.changes:
        advisories = f", {' '.join(change.advisories)}" if change.advisories else ""
        statuses = f"{change.before or 'not there'}, then {change.after or 'gone'}"
        yield f"    the level of {change.date}: {statuses}{advisories}"
