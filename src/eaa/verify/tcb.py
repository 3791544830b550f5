"""How current a platform's trusted computing base is: level matching and convergence, as Intel defines them.

Source: Intel's quote verification library, "EvaluateTcb", "TcbLevelCheck" and "TDRelaunchCheck"; Intel PCS API
documentation, "TCB Level".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import ge
from typing import Final

from eaa.collateral.intel import (
    QEIdentity,
    SVNLevel,
    TCBInfo,
    TCBLevel,
    TCBStatus,
    TDXModule,
    TDXModuleIdentity,
)
from eaa.errors import Reason, VerificationError
from eaa.records import quick

__all__ = [
    "PlatformMatch",
    "SVNMatch",
    "Shortfall",
    "TCBEvaluation",
    "TCBFacts",
    "TCBStatus",
    "compare_with_launch",
    "converge",
    "evaluate_tcb",
    "match_platform_level",
    "match_svn_level",
    "select_tdx_module",
]

_OUT_OF_DATE: Final[Mapping[TCBStatus, TCBStatus]] = {
    TCBStatus.UP_TO_DATE: TCBStatus.OUT_OF_DATE,
    TCBStatus.SW_HARDENING_NEEDED: TCBStatus.OUT_OF_DATE,
    TCBStatus.CONFIGURATION_NEEDED: TCBStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TCBStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: TCBStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TCBStatus.OUT_OF_DATE: TCBStatus.OUT_OF_DATE,
    TCBStatus.OUT_OF_DATE_CONFIGURATION_NEEDED: TCBStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
}
"""What a platform's status becomes when a component of it is out of date. It is not "the worse of the two"."""
_COMPONENT_STATUSES: Final = (TCBStatus.UP_TO_DATE, TCBStatus.OUT_OF_DATE, TCBStatus.REVOKED)
_LAUNCHED_TOO_OLD: Final = frozenset({TCBStatus.OUT_OF_DATE, TCBStatus.OUT_OF_DATE_CONFIGURATION_NEEDED})
_NEEDS_CONFIGURATION: Final = frozenset(
    {
        TCBStatus.CONFIGURATION_NEEDED,
        TCBStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        TCBStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    }
)
_FROM_BEST: Final = tuple(TCBStatus)
"""The enumeration stands in this order on purpose; only `next_level` depends on it, and no status."""
_MAX_NAMED: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """One SVN that keeps a platform below a level."""

    component: str
    """What has that SVN: `SGX component 3`, counted from 1 as in Intel's documents, with its kind where told."""
    actual: int
    needed: int

    def __str__(self) -> str:
        return f"{self.component} is {self.actual}, {self.needed} is needed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformMatch:
    """Where a platform stands among the TCB levels of its model."""

    tcb_components: tuple[int, ...]
    """16 SVNs, of the PCK certificate."""
    pce_svn: int
    tee_tcb_svn: bytes | None
    """16 bytes, of the TD report; None for SGX."""
    level: TCBLevel
    """The highest that the platform reaches."""
    tcb_info: TCBInfo = field(repr=False)
    """With all levels, in the document's order."""

    @property
    def next_level(self) -> TCBLevel | None:
        """The nearest level above with a better status; None where updates do not lead to a better one."""
        rank, status = _rank(self.level), _FROM_BEST.index(self.level.tcb_status)
        better = [
            level
            for level in self.tcb_info.tcb_levels
            if _rank(level) > rank and _FROM_BEST.index(level.tcb_status) < status
        ]
        return min(better, key=_rank, default=None)

    @property
    def shortfalls(self) -> tuple[Shortfall, ...]:
        """What keeps the platform below `next_level`; empty where there is none."""
        level = self.next_level
        if level is None:
            return ()
        return _shortfalls(self.tcb_info, level, self.tcb_components, self.pce_svn, self.tee_tcb_svn)

    @property
    def behind_since(self) -> datetime | None:
        """The date of the first level that the platform missed; None where there is none above it."""
        rank = _rank(self.level)
        return _behind_since(self.level, [level for level in self.tcb_info.tcb_levels if _rank(level) > rank])


@dataclass(frozen=True, slots=True, kw_only=True)
class SVNMatch:
    """Where a quoting enclave or a TDX module stands among its levels."""

    what: str
    """`quoting enclave` or `TDX module`."""
    svn: int
    level: SVNLevel
    """The highest that it reaches."""
    levels: tuple[SVNLevel, ...] = field(repr=False)
    """All of them, in the document's order."""

    @property
    def next_level(self) -> SVNLevel | None:
        """The nearest level above with a better status; None where there is no better one."""
        status = _FROM_BEST.index(self.level.tcb_status)
        better = [
            level
            for level in self.levels
            if level.isv_svn > self.level.isv_svn and _FROM_BEST.index(level.tcb_status) < status
        ]
        return min(better, key=lambda level: level.isv_svn, default=None)

    @property
    def shortfalls(self) -> tuple[Shortfall, ...]:
        """What keeps it below `next_level`; empty where there is none."""
        level = self.next_level
        return () if level is None else (Shortfall(component=self.what, actual=self.svn, needed=level.isv_svn),)

    @property
    def behind_since(self) -> datetime | None:
        """The date of the first level that it missed; None where there is none above its own."""
        return _behind_since(self.level, [level for level in self.levels if level.isv_svn > self.level.isv_svn])


@dataclass(frozen=True, slots=True, kw_only=True)
class TCBEvaluation:
    """The status of platform, quoting enclave and TDX module together."""

    tcb_status: TCBStatus
    """Never Revoked: that is an error."""
    tcb_date: datetime
    """The oldest date of the levels that matched."""
    advisory_ids: tuple[str, ...]
    """Of all levels that matched, sorted."""
    platform: PlatformMatch
    quoting_enclave: SVNMatch
    tdx_module: SVNMatch | None
    """None for SGX, and for modules without a major version: the platform's level is theirs too."""

    @property
    def shortfalls(self) -> tuple[Shortfall, ...]:
        """Every SVN that an update would have to raise for a better status."""
        module = () if self.tdx_module is None else self.tdx_module.shortfalls
        return (*self.platform.shortfalls, *self.quoting_enclave.shortfalls, *module)

    @property
    def behind_since(self) -> datetime | None:
        """The earliest date since which anything here is behind; None where it is told of none, or not of all."""
        matches = [match for match in (self.platform, self.quoting_enclave, self.tdx_module) if match is not None]
        return _earliest([match.behind_since for match in matches if match.level.tcb_status != TCBStatus.UP_TO_DATE])


@dataclass(frozen=True, slots=True, kw_only=True)
class TCBFacts:
    """What a quote tells of its TCB: under which it was launched, and which runs now. The same where it tells one."""

    tcb_status: TCBStatus
    """Of both together. Never Revoked."""
    tcb_date: datetime
    """The oldest date of all levels that matched."""
    current: TCBEvaluation
    launch: TCBEvaluation

    @property
    def advisory_ids(self) -> tuple[str, ...]:
        """Sorted; of the TCB that runs now."""
        return self.current.advisory_ids

    @property
    def launch_advisory_ids(self) -> tuple[str, ...]:
        """Sorted; of the TCB under which the domain was launched."""
        return self.launch.advisory_ids

    @property
    def behind_since(self) -> datetime | None:
        """The earliest date since which either of the two is behind; None where that is not known of all that is."""
        behind = [each for each in (self.launch, self.current) if each.tcb_status != TCBStatus.UP_TO_DATE]
        return _earliest([evaluation.behind_since for evaluation in behind])


_new_platform_match: Final = quick(PlatformMatch)
_new_svn_match: Final = quick(SVNMatch)
_new_evaluation: Final = quick(TCBEvaluation)
_new_facts: Final = quick(TCBFacts)


def evaluate_tcb(
    tcb_info: TCBInfo,
    qe_identity: QEIdentity,
    *,
    tcb_components: tuple[int, ...],
    pce_svn: int,
    qe_isv_svn: int,
    tee_tcb_svn: bytes | None,
) -> TCBEvaluation:
    """Evaluate one TCB: `tee_tcb_svn` is None for SGX.

    1. The platform's level, from the SVNs of its PCK certificate and, for TDX, of the TD report.
    2. The quoting enclave's level.
    3. For a TDX module with a major version: the module's level.
    4. Convergence of the three, oldest date, all advisories.

    A report that carries a launch and a current TCB is two evaluations, see `compare_with_launch`.

    Raises:
        VerificationError: TCB_NOT_SUPPORTED where no level matches, TCB_REVOKED, TDX_MODULE_MISMATCH.
    """
    # 1.
    platform = _new_platform_match(
        tcb_components=tcb_components,
        pce_svn=pce_svn,
        tee_tcb_svn=tee_tcb_svn,
        level=match_platform_level(tcb_info, tcb_components=tcb_components, pce_svn=pce_svn, tee_tcb_svn=tee_tcb_svn),
        tcb_info=tcb_info,
    )
    # 2.
    quoting_enclave = _match_svn(qe_identity.tcb_levels, svn=qe_isv_svn, what="quoting enclave")
    # 3.
    module = None if tee_tcb_svn is None else _match_module(tcb_info, tee_tcb_svn)
    # 4.
    matched = [quoting_enclave] if module is None else [quoting_enclave, module]
    levels: tuple[TCBLevel | SVNLevel, ...] = (platform.level, *(match.level for match in matched))
    return _new_evaluation(
        tcb_status=converge(platform.level.tcb_status, {match.what: match.level.tcb_status for match in matched}),
        tcb_date=min(level.tcb_date for level in levels),
        advisory_ids=tuple(sorted({advisory for level in levels for advisory in level.advisory_ids})),
        platform=platform,
        quoting_enclave=quoting_enclave,
        tdx_module=module,
    )


def compare_with_launch(launch: TCBEvaluation, current: TCBEvaluation) -> TCBFacts:
    """Return the facts of a domain that was launched under one TCB and runs under another now.

    A domain keeps what an outdated module did at its launch, however new the module is that runs it now: it has to be
    launched again. The other way round, a newer launch than the module that runs now, Intel's verifier reports
    nothing; both evaluations are among the facts.
    """
    status = launch.tcb_status
    if launch.tcb_status in _LAUNCHED_TOO_OLD and current.tcb_status not in _LAUNCHED_TOO_OLD:
        needs_configuration = {launch.tcb_status, current.tcb_status} & _NEEDS_CONFIGURATION
        status = (
            TCBStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED if needs_configuration else TCBStatus.TD_RELAUNCH_ADVISED
        )
    return _new_facts(
        tcb_status=status, tcb_date=min(launch.tcb_date, current.tcb_date), current=current, launch=launch
    )


def select_tdx_module(tcb_info: TCBInfo, *, tee_tcb_svn: bytes) -> TDXModule:
    """Return what the TDX module must be: by its major version, or the one entry that serves modules without one.

    Raises:
        VerificationError: TDX_MODULE_MISMATCH where the document does not know the module.
    """
    major = tee_tcb_svn[1]
    if major == 0 and tcb_info.tdx_module is not None:
        return tcb_info.tdx_module
    wanted = f"TDX_{major:02X}"
    for identity in tcb_info.tdx_module_identities:
        if major > 0 and identity.id == wanted:
            return identity
    raise VerificationError(
        Reason.TDX_MODULE_MISMATCH,
        f"TCB Info for FMSPC {tcb_info.fmspc.hex()} does not know the TDX module {wanted}",
        hint="fetch newer TCB Info: a module may have been published since",
    )


def match_platform_level(
    tcb_info: TCBInfo, *, tcb_components: tuple[int, ...], pce_svn: int, tee_tcb_svn: bytes | None
) -> TCBLevel:
    """Return the highest level that the platform reaches in every component.

    Raises:
        VerificationError: TCB_NOT_SUPPORTED.
    """
    reached = [
        level
        for level in tcb_info.tcb_levels
        if pce_svn >= level.pce_svn
        and _reaches(tcb_components, level.sgx_components)
        and (tee_tcb_svn is None or _tdx_reaches(tee_tcb_svn, level))
    ]
    # Intel's verifier keeps the levels in a sorted set: document order is not part of the contract.
    if reached:
        return max(reached, key=_rank)
    ordered = sorted(tcb_info.tcb_levels, key=_rank)
    lowest = _shortfalls(tcb_info, ordered[0], tcb_components, pce_svn, tee_tcb_svn) if ordered else ()
    raise VerificationError(
        Reason.TCB_NOT_SUPPORTED,
        f"TCB Info for FMSPC {tcb_info.fmspc.hex()} has no level that this platform reaches{_listed(lowest)}",
        hint="the platform's microcode or TDX module is older than any that Intel still lists: update its firmware",
    )


def match_svn_level(levels: tuple[SVNLevel, ...], *, svn: int, what: str) -> SVNLevel:
    """Return the highest level of an enclave or module that `svn` reaches.

    Raises:
        VerificationError: TCB_NOT_SUPPORTED where there is none, or one with a status that `what` cannot have.
    """
    for level in sorted(levels, key=lambda level: level.isv_svn, reverse=True):
        if svn >= level.isv_svn:
            if level.tcb_status in _COMPONENT_STATUSES:
                return level
            break
    raise VerificationError(
        Reason.TCB_NOT_SUPPORTED,
        f"the {what} has SVN {svn}, for which its identity has no level",
        hint=f"update the {what} of this platform",
    )


def converge(platform: TCBStatus, components: Mapping[str, TCBStatus]) -> TCBStatus:
    """Return the status of a platform whose quoting enclave and module have the given statuses.

    Raises:
        VerificationError: TCB_REVOKED where any of them is.
    """
    for what, status in {"platform": platform, **components}.items():
        if status is TCBStatus.REVOKED:
            raise VerificationError(
                Reason.TCB_REVOKED,
                f"Intel has revoked the TCB of this {what}",
                hint=f"update the {what}; until then trust nothing that it says",
            )
    return _OUT_OF_DATE[platform] if TCBStatus.OUT_OF_DATE in components.values() else platform


def _match_svn(levels: tuple[SVNLevel, ...], *, svn: int, what: str) -> SVNMatch:
    return _new_svn_match(what=what, svn=svn, level=match_svn_level(levels, svn=svn, what=what), levels=levels)


def _match_module(tcb_info: TCBInfo, tee_tcb_svn: bytes) -> SVNMatch | None:
    module = select_tdx_module(tcb_info, tee_tcb_svn=tee_tcb_svn)
    if not isinstance(module, TDXModuleIdentity):
        return None
    return _match_svn(module.tcb_levels, svn=tee_tcb_svn[0], what="TDX module")


def _rank(level: TCBLevel) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    return level.sgx_components, level.pce_svn, level.tdx_components or ()


def _behind_since(reached: TCBLevel | SVNLevel, above: Sequence[TCBLevel | SVNLevel]) -> datetime | None:
    """Return the date of the first level above that is newer, or as new and better.

    Not that of the best level: who has missed two updates has been behind since the first of them.
    """
    status = _FROM_BEST.index(reached.tcb_status)
    missed = [
        level.tcb_date
        for level in above
        if level.tcb_date > reached.tcb_date
        or (level.tcb_date == reached.tcb_date and _FROM_BEST.index(level.tcb_status) < status)
    ]
    return min(missed, default=None)


def _earliest(dates: Sequence[datetime | None]) -> datetime | None:
    """Return the earliest; None where there is none, or one is not known."""
    known = [date for date in dates if date is not None]
    return min(known) if known and len(known) == len(dates) else None


def _reaches(actual: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(actual) == len(wanted) and all(map(ge, actual, wanted))


def _tdx_reaches(tee_tcb_svn: bytes, level: TCBLevel) -> bool:
    if level.tdx_components is None:
        return False
    start = _first_compared(tee_tcb_svn)
    return _reaches(tee_tcb_svn[start:], level.tdx_components[start:])


def _first_compared(tee_tcb_svn: bytes) -> int:
    """Components 0 and 1 of a module with a major version are judged by its identity, and by no platform level."""
    return 2 if tee_tcb_svn[1] > 0 else 0


def _shortfalls(
    tcb_info: TCBInfo, level: TCBLevel, tcb_components: tuple[int, ...], pce_svn: int, tee_tcb_svn: bytes | None
) -> tuple[Shortfall, ...]:
    """Return what keeps a platform below `level`."""
    found = _short("SGX", tcb_components, level.sgx_components, tcb_info.sgx_component_kinds)
    if pce_svn < level.pce_svn:
        found.append(Shortfall(component="PCE", actual=pce_svn, needed=level.pce_svn))
    if tee_tcb_svn is not None and level.tdx_components is not None:
        first = _first_compared(tee_tcb_svn)
        found += _short("TDX", tee_tcb_svn, level.tdx_components, tcb_info.tdx_component_kinds, first=first)
    return tuple(found)


def _short(
    family: str, actual: Sequence[int], needed: Sequence[int], kinds: Sequence[str], *, first: int = 0
) -> list[Shortfall]:
    compared = list(zip(actual, needed, kinds, strict=True))[first:]
    return [
        Shortfall(component=f"{family} component {number}" + (f" ({kind})" if kind else ""), actual=have, needed=need)
        for number, (have, need, kind) in enumerate(compared, first + 1)
        if have < need
    ]


def _listed(shortfalls: Sequence[Shortfall]) -> str:
    """Return the shortfalls as the end of a sentence, the first few of them."""
    if not shortfalls:
        return ""
    more = ", and more" if len(shortfalls) > _MAX_NAMED else ""
    return f"; even for the lowest, {', '.join(map(str, shortfalls[:_MAX_NAMED]))}{more}"
