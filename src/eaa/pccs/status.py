"""The status page: everything that is cached, to be read by people; without scripts, or anything from elsewhere.

A platform is shown by its model and a pseudonym, never by anything that would tell the machine: no PPID, no QE id, no
manifest.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from typing import Final

from eaa import __version__
from eaa.pccs.census import NO_CERTIFICATES, Model
from eaa.pccs.forecast import Forecast
from eaa.pccs.records import FleetEntry
from eaa.pccs.survey import Entry, State, Survey
from eaa.program.listener import Page

FLEET_PAGE: Final = 1_000
"""Platforms on one page."""
_PAGE_QUERY: Final = re.compile(r"platforms=([1-9][0-9]{0,5})", re.ASCII)
"""So many digits are a thousand million platforms."""
_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1a1a1a;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}
.valid{color:#0a6b2d}.ends-soon{color:#8a5a00;font-weight:600}.expired,.refused{color:#b00020;font-weight:600}
code{font:13px ui-monospace,monospace}
p.sum{font-size:1.05rem}
@media (prefers-color-scheme:dark){body{color:#e6e6e6;background:#16181c}th,td{border-color:#33363d}
.valid{color:#5fd38a}.ends-soon{color:#f0b95a}.expired,.refused{color:#ff7a8a}}
"""
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEAD: Final = (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    f"<title>eaa-pccs</title><style>{_STYLE}</style></head><body><h1>eaa-pccs {escape(__version__)}</h1>"
)
HEADERS: Final = (
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPage:
    """Some of the platforms."""

    number: int
    """From 1 on."""
    pages: int
    """How many there are, 1 at least."""
    platforms: tuple[FleetEntry, ...]


def page_number(query: str) -> int | None:
    """Return which page of platforms a query asks for, the first one where it is empty; None of what is no number."""
    if not query:
        return 1
    asked = _PAGE_QUERY.fullmatch(query)
    return int(asked[1]) if asked else None


def status_page(survey: Survey | None, fleet: FleetPage | None) -> Page:
    """Return the page: all that is cached with the first of the platforms, or more of the platforms.

    Args:
        survey: the last one; None where there was none yet.
        fleet: platforms as they may be shown; None before the first survey.
    """
    body: Iterable[str] = ["<p>Nothing was looked at yet: load this page again.</p>"]
    if survey is not None and fleet is not None:
        body = _body(survey, fleet) if fleet.number == 1 else _more(survey, fleet)
    return _page(body)


def no_page(status: str, why: str) -> Page:
    """Return what is shown in place of a page of platforms.

    Args:
        status: of HTTP, as `404 Not Found`.
        why: a sentence.
    """
    return _page([f'<p>{escape(why)} <a href="./">All that is cached</a></p>'], status=status)


def _page(body: Iterable[str], *, status: str = "200 OK") -> Page:
    text = "".join([_HEAD, *body, "</body></html>\n"])
    return Page(content_type="text/html; charset=utf-8", body=text.encode(), headers=HEADERS, status=status)


def _more(survey: Survey, fleet: FleetPage) -> Iterator[str]:
    yield f'<p>As of <time>{survey.at:%Y-%m-%dT%H:%M:%SZ}</time>. <a href="./">All that is cached</a></p>'
    yield "<h2>Platforms</h2>"
    yield from _fleet(survey, fleet)


def _fleet(survey: Survey, fleet: FleetPage) -> Iterator[str]:
    """Yield platforms, between links to those before and after them."""
    rows = ((_code(one.root[:16]), _code(one.fmspc), escape(one.ca), _code(one.pseudonym)) for one in fleet.platforms)
    table = _table("fleet", ("root", "FMSPC", "CA", "pseudonym"), rows)
    if fleet.pages == 1:
        yield from table
        return
    links = "".join(_links(survey, fleet))
    yield links
    yield from table
    yield links


def _links(survey: Survey, fleet: FleetPage) -> Iterator[str]:
    targets = {
        "first": 1 if fleet.number > 1 else None,
        "previous": fleet.number - 1 or None,
        "next": fleet.number + 1 if fleet.number < fleet.pages else None,
        "last": fleet.pages if fleet.number < fleet.pages else None,
    }
    yield f'<p class="pages">Page {fleet.number:,} of {fleet.pages:,}'
    yield f", of {sum(survey.platforms.values()):,} platforms:"
    for name, number in targets.items():
        yield f" {name}" if number is None else f' <a href="?platforms={number}">{name}</a>'
    yield "</p>"


def _body(survey: Survey, fleet: FleetPage) -> Iterator[str]:
    troubles, total = len(survey.troubles), len(survey.entries)
    said = f"All {total} documents are valid." if not troubles else f"{troubles} of {total} documents need attention."
    if not total:
        said = "Nothing is cached."
    yield f'<p class="sum {"expired" if troubles else "valid"}" id="summary">{escape(said)}</p>'
    yield f"<p>As of <time>{survey.at:%Y-%m-%dT%H:%M:%SZ}</time>.</p>"
    for root in dict.fromkeys(entry.root for entry in survey.entries):
        entries = [entry for entry in survey.entries if entry.root == root]
        mark = ", the default" if root == survey.default_root else ""
        yield f"<h2>Documents under root <code>{root[:16]}</code>{mark}</h2>"
        head = ("document", "number", "issued", "served until", "days left", "state")
        yield from _table("documents", head, (_row(entry, survey) for entry in entries))
    for each in survey.forecasts:
        yield from _forecast(each)
    yield "<h2>Platforms</h2>"
    columns = ("root", "FMSPC", "platforms", "PCK certificates", "the first ends", "days left")
    yield from _table("models", columns, (_model_row(model, survey) for model in sorted(survey.platforms)))
    yield from _fleet(survey, fleet)


def _model_row(model: Model, survey: Survey) -> tuple[str, ...]:
    root, fmspc = model
    own = survey.certificates.get(model, NO_CERTIFICATES)
    ends = f"{own.ends:%Y-%m-%dT%H:%M:%SZ}" if own.ends else "-"
    if own.ends and own.read < own.count:
        ends += f" (of {own.read:,} that were read)"
    days = own.days_left(survey.at)
    css = survey.state_of(own).replace(" ", "-")
    left = f'<span class="{css}">{"-" if days is None else f"{days:,}"}</span>'
    return _code(root[:16]), _code(fmspc), f"{survey.platforms[model]:,}", f"{own.count:,}", ends, left


def _row(entry: Entry, survey: Survey) -> tuple[str, ...]:
    css = entry.state.replace(" ", "-")
    state = f'<span class="{css}">{escape(entry.state)}</span>'
    if entry.state is not State.VALID:
        state += f" {escape(entry.why)} <code>{escape(str(entry.reason))}</code>"
    return (
        escape(entry.what),
        str(entry.number),
        f"{entry.issued:%Y-%m-%d}",
        f"{entry.ends:%Y-%m-%dT%H:%M:%SZ}",
        str(entry.days_left(survey.at)),
        state,
    )


def _forecast(each: Forecast) -> Iterator[str]:
    yield f"<h2>Next: {escape(each.what)}, evaluation number {each.number} becomes {each.next_number}</h2>"
    rows = (
        (
            _code(fall.tcbm),
            f"{fall.count:,}",
            escape(fall.before),
            escape(fall.after),
            escape("; ".join(fall.short)) + (f" (level of {escape(fall.raised_by)})" if fall.short else ""),
        )
        for fall in each.platforms
    )
    if each.platforms:
        yield from _table("falls", ("TCB of the certificate", "TCBs", "today", "then", "short of the best level"), rows)
    changes = (
        (
            escape(change.date),
            escape(change.before or "-"),
            escape(change.after or "-"),
            escape(" ".join(change.advisories)),
        )
        for change in each.changes
    )
    yield from _table("changes", ("level of", "today", "then", "new advisories"), changes)


def _table(name: str, head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    yield f'<table class="{name}"><thead><tr>{"".join(f"<th>{cell}</th>" for cell in head)}</tr></thead><tbody>'
    for row in rows:
        yield f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
    yield "</tbody></table>"


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"
