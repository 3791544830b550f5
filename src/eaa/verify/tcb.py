"""How current a platform's trusted computing base is: level matching and convergence, as Intel defines them.

Source: Intel's quote verification library, "EvaluateTcb" and "TcbLevelCheck"; Intel PCS API documentation, "TCB Level".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
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

__all__ = [
    "TCBEvaluation",
    "TCBStatus",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TCBEvaluation:
    """The status of platform, quoting enclave and TDX module together."""

    tcb_status: TCBStatus
    """Never Revoked: that is an error."""
    tcb_date: datetime
    """The oldest date of the levels that matched."""
    advisory_ids: tuple[str, ...]
    """Of all levels that matched, sorted."""


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

    A report that carries a launch and a current TCB is two evaluations, and their comparison on top.

    Raises:
        VerificationError: TCB_NOT_SUPPORTED where no level matches, TCB_REVOKED.
    """
    # 1.
    platform = match_platform_level(tcb_info, tcb_components=tcb_components, pce_svn=pce_svn, tee_tcb_svn=tee_tcb_svn)
    matched: dict[str, SVNLevel] = {}
    # 2.
    matched["quoting enclave"] = match_svn_level(qe_identity.tcb_levels, svn=qe_isv_svn, what="quoting enclave")
    # 3.
    if tee_tcb_svn is not None:
        module = select_tdx_module(tcb_info, tee_tcb_svn=tee_tcb_svn)
        if isinstance(module, TDXModuleIdentity):
            matched["TDX module"] = match_svn_level(module.tcb_levels, svn=tee_tcb_svn[0], what="TDX module")
    # 4.
    levels: tuple[TCBLevel | SVNLevel, ...] = (platform, *matched.values())
    components = {what: level.tcb_status for what, level in matched.items()}
    return TCBEvaluation(
        tcb_status=converge(platform.tcb_status, components),
        tcb_date=min(level.tcb_date for level in levels),
        advisory_ids=tuple(sorted({advisory for level in levels for advisory in level.advisory_ids})),
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
        Reason.TDX_MODULE_MISMATCH, f"TCB Info for FMSPC {tcb_info.fmspc.hex()} does not know the TDX module {wanted}"
    )


def match_platform_level(
    tcb_info: TCBInfo, *, tcb_components: tuple[int, ...], pce_svn: int, tee_tcb_svn: bytes | None
) -> TCBLevel:
    """Return the highest level that the platform reaches in every component.

    Raises:
        VerificationError: TCB_NOT_SUPPORTED.
    """
    # Intel's verifier keeps the levels in a sorted set: document order is not part of the contract.
    for level in sorted(tcb_info.tcb_levels, key=_rank, reverse=True):
        if not _reaches(tcb_components, level.sgx_components) or pce_svn < level.pce_svn:
            continue
        if tee_tcb_svn is None or _tdx_reaches(tee_tcb_svn, level):
            return level
    raise VerificationError(
        Reason.TCB_NOT_SUPPORTED,
        f"TCB Info for FMSPC {tcb_info.fmspc.hex()} has no level that this platform reaches",
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
                Reason.TCB_REVOKED, f"Intel has revoked the TCB of this {what}", hint=f"update the {what}'s firmware"
            )
    return _OUT_OF_DATE[platform] if TCBStatus.OUT_OF_DATE in components.values() else platform


def _rank(level: TCBLevel) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    return level.sgx_components, level.pce_svn, level.tdx_components or ()


def _reaches(actual: tuple[int, ...] | bytes, wanted: tuple[int, ...]) -> bool:
    return all(have >= need for have, need in zip(actual, wanted, strict=True))


def _tdx_reaches(tee_tcb_svn: bytes, level: TCBLevel) -> bool:
    """Components 0 and 1 of a module with a major version are judged by its identity, not here."""
    if level.tdx_components is None:
        return False
    start = 2 if tee_tcb_svn[1] > 0 else 0
    return _reaches(tee_tcb_svn[start:], level.tdx_components[start:])
