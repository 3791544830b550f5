"""Which PCK certificate fits a platform's present TCB best.

A platform is issued one certificate for each TCB level that it has passed. Its raw TCB lies at or above some of them,
and the best is the one in the highest level of TCB Info.

Source: Intel SGX PCK Certificate Selection Library, as the reference service does it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from eaa.collateral.intel import COMPONENTS, PCKCertificate

MAX_TCB_LEVELS: Final = 256
"""Levels of one TCB Info; Intel's have under 30."""


class SelectionError(Exception):
    """No certificate fits, or the documents do not belong together; the message says which."""


@dataclass(frozen=True, slots=True)
class TCB:
    """16 component SVNs and the PCE's, compared one by one: of two, neither may be the higher."""

    components: tuple[int, ...]
    pce_svn: int

    @classmethod
    def raw(cls, cpu_svn: str, pce_svn: str) -> TCB:
        """Read a raw TCB: 32 hex digits, and 4 in little-endian order."""
        return cls(tuple(bytes.fromhex(cpu_svn)), int.from_bytes(bytes.fromhex(pce_svn), "little"))

    def covers(self, other: TCB) -> bool:
        """Whether every part is at least that of `other`."""
        return all(own >= others for own, others in zip(self._parts, other._parts, strict=True))

    @property
    def _parts(self) -> tuple[int, ...]:
        return (*self.components, self.pce_svn)


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """What TCB Info says that selection needs."""

    fmspc: str
    pce_id: str
    tcb_type: int
    levels: tuple[TCB, ...]

    @classmethod
    def parse(cls, document: bytes) -> Levels:
        """Read them from `{"tcbInfo":{...},...}`. Raises SelectionError."""
        try:
            return cls.of(json.loads(document)["tcbInfo"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise SelectionError("the TCB Info cannot be read") from error

    @classmethod
    def of(cls, tcb_info: dict[str, Any]) -> Levels:
        """Read them from the parsed inner object. Raises SelectionError."""
        try:
            levels = tcb_info["tcbLevels"]
            if not 0 < len(levels) <= MAX_TCB_LEVELS:
                raise SelectionError(f"the TCB Info has {len(levels)} levels")
            return cls(
                fmspc=tcb_info["fmspc"].upper(),
                pce_id=tcb_info["pceId"].upper(),
                tcb_type=tcb_info["tcbType"],
                levels=tuple(_level(level["tcb"]) for level in levels),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise SelectionError("the TCB Info is incomplete") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One PCK certificate of a platform."""

    tcbm: str
    """36 hex digits, upper case: its TCB, as the header SGX-TCBm gives it."""
    pem: str
    certificate: PCKCertificate

    @property
    def own_tcbm(self) -> str:
        """The same as the certificate says it: CPU SVN, and the PCE's SVN in little-endian order."""
        return (self.certificate.cpu_svn + self.certificate.pce_svn.to_bytes(2, "little")).hex().upper()

    @property
    def tcb(self) -> TCB:
        """The TCB in the certificate itself, which alone counts."""
        return TCB(self.certificate.tcb_components, self.certificate.pce_svn)


def select(raw: TCB, candidates: Sequence[Candidate], *, pce_id: str, levels: Levels) -> Candidate:
    """Return the best certificate for a raw TCB. Raises SelectionError where there is none."""
    _require_consistency(candidates, pce_id=pce_id, levels=levels)
    buckets: list[tuple[TCB, list[Candidate]]] = [(level, []) for level in _descending(levels.levels)]
    unmatched: list[Candidate] = []
    for candidate in candidates:
        bucket = next((content for level, content in buckets if candidate.tcb.covers(level)), unmatched)
        _insert(bucket, candidate, keep_order=bucket is unmatched)
    for bucket in (*(content for _, content in buckets), unmatched):
        for candidate in bucket:
            if raw.covers(candidate.tcb):
                return candidate
    raise SelectionError("every certificate of this platform is for a higher TCB than its own")


def _insert(bucket: list[Candidate], candidate: Candidate, *, keep_order: bool) -> None:
    """Put a certificate before the first that it covers, so that the best comes first."""
    below = (at for at, other in enumerate(bucket) if candidate.tcb.covers(other.tcb))
    bucket.insert(len(bucket) if keep_order else next(below, len(bucket)), candidate)


def _descending(levels: Sequence[TCB]) -> list[TCB]:
    def compare(left: TCB, right: TCB) -> int:
        # Two that cannot be compared keep their order.
        return right.covers(left) - left.covers(right)

    return sorted(levels, key=functools.cmp_to_key(compare))


def _require_consistency(candidates: Sequence[Candidate], *, pce_id: str, levels: Levels) -> None:
    if levels.tcb_type != 0:
        raise SelectionError(f"the TCB Info is of type {levels.tcb_type}, only 0 is defined")
    if levels.pce_id != pce_id:
        raise SelectionError("the TCB Info is for another PCE id than the platform's")
    if not all(candidate.certificate.pce_id.hex().upper() == pce_id for candidate in candidates):
        raise SelectionError("a certificate is for another PCE id than the platform's")
    if not all(candidate.certificate.fmspc.hex().upper() == levels.fmspc for candidate in candidates):
        raise SelectionError("a certificate is for another FMSPC than the TCB Info")
    if len({candidate.certificate.ppid for candidate in candidates}) > 1:
        raise SelectionError("the certificates are for several platforms: their PPIDs differ")


def _level(tcb: dict[str, Any]) -> TCB:
    components = tuple(component["svn"] for component in tcb["sgxtcbcomponents"])
    pce_svn = tcb["pcesvn"]
    if len(components) != COMPONENTS or not all(_is_count(number) for number in (*components, pce_svn)):
        raise SelectionError("a level of the TCB Info has no 16 components and PCE SVN")
    return TCB(components, pce_svn)


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0
