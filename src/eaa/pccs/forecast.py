"""What the next TCB recovery changes: the vendor publishes it as `early` documents months before it counts.

Of each model the standard and the early TCB Info are compared level by level, and the platforms that are cached are
placed in both by the TCB of their certificate. What comes out is who falls from which status to which, and by which
component. A TD's own modules are not in a PCK certificate: of TDX only the levels are compared.

Source: Intel SGX PCS v4, `update=early`; "TCB level matching" of Intel's DCAP verification.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from eaa.collateral.intel import COMPONENTS
from eaa.errors import MalformedInput, Reason

MAX_SHOWN: Final = 64
"""Changed levels of one document that are listed."""
NO_LEVEL: Final = "no level"
"""The status of a platform that is below every level: it is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level of TCB Info or of an identity."""

    svns: tuple[int, ...]
    """Of TCB Info the 16 components, the PCE's, then the 16 of TDX where it has them; of an identity its own."""
    status: str
    date: str
    """As it stands in the document."""
    advisories: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A level whose status will be another; before or after is None where it is not in that document."""

    svns: tuple[int, ...]
    before: str | None
    after: str | None
    date: str
    advisories: tuple[str, ...]
    """That are new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fall:
    """Platforms of one TCB, and what becomes of them."""

    tcbm: str
    count: int
    before: str
    after: str
    short: tuple[str, ...]
    """What they lack of the best level of tomorrow."""
    raised_by: str
    """The date of the level that they have to reach, as the document gives it: microcode of then or later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What the early document of one model, or enclave, changes."""

    root: str
    what: str
    """For people."""
    kind: str
    """TCB_INFO or IDENTITY."""
    name: str
    """FMSPC, or QE, QVE, TD_QE."""
    tee: str
    number: int
    next_number: int
    changes: tuple[Change, ...]
    platforms: tuple[Fall, ...]

    @property
    def falling(self) -> int:
        """How many platforms will have another status."""
        return sum(fall.count for fall in self.platforms if fall.before != fall.after)


def levels_of(document: bytes) -> tuple[int, tuple[Level, ...]]:
    """Return the evaluation number and the levels, highest first. Raises MalformedInput."""
    try:
        whole = json.loads(document)
        inner = whole.get("tcbInfo") or whole["enclaveIdentity"]
        levels = tuple(_level(entry) for entry in inner["tcbLevels"])
        return int(inner["tcbEvaluationDataNumber"]), levels
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MalformedInput(Reason.TCB_INFO_MALFORMED, "a document has no levels that can be compared") from error


def _level(entry: dict[str, Any]) -> Level:
    tcb = entry["tcb"]
    if "sgxtcbcomponents" in tcb:
        sgx = [int(each["svn"]) for each in tcb["sgxtcbcomponents"]]
        tdx = [int(each["svn"]) for each in tcb.get("tdxtcbcomponents", ())]
        svns = (*sgx, int(tcb["pcesvn"]), *tdx)
    else:
        svns = (int(tcb["isvsvn"]),)
    return Level(
        svns=svns,
        status=str(entry["tcbStatus"]),
        date=str(entry["tcbDate"])[:10],
        advisories=tuple(map(str, entry.get("advisoryIDs", ()))),
    )


def compare(before: Sequence[Level], after: Sequence[Level]) -> tuple[Change, ...]:
    """Return the levels that are new, gone, or of another status, highest first."""
    old, new = ({level.svns: level for level in levels} for levels in (before, after))
    return tuple(_changes(old, new))[:MAX_SHOWN]


def _changes(old: Mapping[tuple[int, ...], Level], new: Mapping[tuple[int, ...], Level]) -> Iterator[Change]:
    for svns in dict.fromkeys([*new, *old]):
        was, will = old.get(svns), new.get(svns)
        known = (was.status if was else None, will.status if will else None)
        if known[0] == known[1]:
            continue
        added = set(will.advisories if will else ()) - set(was.advisories if was else ())
        shown = will or was
        yield Change(
            svns=svns,
            before=known[0],
            after=known[1],
            date=shown.date if shown else "",
            advisories=tuple(sorted(added)),
        )


def place(tcbm: str, levels: Sequence[Level]) -> Level | None:
    """Return the level of a platform whose certificate is of this TCB (36 hex digits); None below all."""
    svns = _svns(tcbm)
    return next((level for level in levels if all(map(int.__ge__, svns, level.svns[: len(svns)]))), None)


def fall(tcbm: str, count: int, before: Sequence[Level], after: Sequence[Level]) -> Fall:
    """Return what becomes of platforms of one TCB."""
    was, will = place(tcbm, before), place(tcbm, after)
    best = after[0] if after else None
    return Fall(
        tcbm=tcbm,
        count=count,
        before=was.status if was else NO_LEVEL,
        after=will.status if will else NO_LEVEL,
        short=() if best is None or best is will else tuple(_short(_svns(tcbm), best.svns)),
        raised_by="" if best is None else best.date,
    )


def _short(svns: tuple[int, ...], wanted: tuple[int, ...]) -> Iterator[str]:
    for index, (own, least) in enumerate(zip(svns, wanted, strict=False)):
        if own < least:
            yield f"{'PCE SVN' if index == COMPONENTS else f'component {index + 1}'} is {own}, {least} is wanted"


def _svns(tcbm: str) -> tuple[int, ...]:
    raw = bytes.fromhex(tcbm)
    return (*raw[:COMPONENTS], int.from_bytes(raw[COMPONENTS : COMPONENTS + 2], "little"))


def forecast(
    *,
    root: str,
    kind: str,
    name: str,
    tee: str,
    standard: bytes,
    early: bytes,
    tcbms: Mapping[str, int],
) -> Forecast | None:
    """Compare a model's, or enclave's, standard document with its early one; None where both are of one number.

    Args:
        root: SHA-256 of the root, hex.
        kind: TCB_INFO or IDENTITY.
        name: FMSPC, or the enclave.
        tee: SGX or TDX.
        standard: the document that counts today.
        early: the one that will.
        tcbms: how many platforms have a certificate of which TCB.

    Raises:
        MalformedInput: a document cannot be read.
    """
    number, before = levels_of(standard)
    next_number, after = levels_of(early)
    if next_number <= number:
        return None
    placed = kind == "TCB_INFO" and tee == "SGX"
    falls = tuple(fall(tcbm, count, before, after) for tcbm, count in sorted(tcbms.items()) if placed)
    what = f"{tee} TCB Info of {name}" if kind == "TCB_INFO" else f"the {name} identity"
    return Forecast(
        root=root,
        what=what,
        kind=kind,
        name=name,
        tee=tee,
        number=number,
        next_number=next_number,
        changes=compare(before, after),
        platforms=falls,
    )
