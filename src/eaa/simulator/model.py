"""What kind of platform is simulated, and what its vendor thinks of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, TypedDict

from eaa.collateral.intel import COMPONENTS, LEVEL_STATUSES, TCBStatus
from eaa.errors import Misuse, Reason
from eaa.simulator.pki import CAType, require_ca

TCB_STATUSES: Final = LEVEL_STATUSES
QE_STATUSES: Final = (TCBStatus.UP_TO_DATE, TCBStatus.OUT_OF_DATE, TCBStatus.REVOKED)
"""What an enclave's level can be."""

_BYTES: Final = {"fmspc": 6, "pce_id": 2, "cpu_svn": COMPONENTS, "tee_tcb_svn": COMPONENTS}
_OF_TDX: Final = frozenset({"tee_tcb_svn", "tdx_module_status", "tdx_module_advisory_ids"})
_TUPLES: Final = ("advisory_ids", "qe_advisory_ids", "tdx_module_advisory_ids")
_MAX_U8: Final = 0xFF
_MAX_U16: Final = 0xFFFF


class PlatformOptions(TypedDict, total=False):
    """The fields of PlatformModel, as keywords; each may be left out."""

    fmspc: bytes
    ca: CAType
    cpu_svn: bytes
    pce_svn: int
    pce_id: bytes
    tcb_status: str
    advisory_ids: tuple[str, ...]
    qe_svn: int
    qe_status: str
    qe_advisory_ids: tuple[str, ...]
    tee_tcb_svn: bytes
    tdx_module_status: str
    tdx_module_advisory_ids: tuple[str, ...]
    tcb_evaluation_data_number: int
    sgx_type: int | None
    dynamic_platform: bool
    cached_keys: bool
    smt_enabled: bool


REVISABLE: Final = frozenset(
    {
        *("tcb_status", "advisory_ids", "qe_status", "qe_advisory_ids", "tdx_module_status", "tdx_module_advisory_ids"),
        "tcb_evaluation_data_number",
    }
)
"""What a vendor changes its mind about while the machine stays as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformModel:
    """One platform model at one TCB level, and the vendor's opinion of that level."""

    fmspc: bytes = bytes.fromhex("00606a000000")
    """6 bytes."""
    ca: CAType = "platform"
    """Which PCK CA issues: `platform` for multi-socket machines, `processor` for single-socket ones."""
    cpu_svn: bytes = bytes.fromhex("0e0e0303ffff01000000000000000000")
    """16 bytes, one SVN a component."""
    pce_svn: int = 13
    pce_id: bytes = bytes(2)
    """2 bytes."""
    tcb_status: str = TCBStatus.UP_TO_DATE
    """Intel's spelling, one of TCB_STATUSES: what TCB Info says of exactly this level."""
    advisory_ids: tuple[str, ...] = ()
    qe_svn: int = 8
    qe_status: str = TCBStatus.UP_TO_DATE
    """One of QE_STATUSES: what the identity of the quoting enclave, SGX's or TDX's, says of exactly `qe_svn`."""
    qe_advisory_ids: tuple[str, ...] = ()
    tee_tcb_svn: bytes = bytes.fromhex("07010a00000000000000000000000000")
    """16 bytes, of the TDX module that runs: [0] its SVN, [1] its major version, the rest one SVN a component."""
    tdx_module_status: str = TCBStatus.UP_TO_DATE
    """One of QE_STATUSES: what the module's identity says of exactly its SVN."""
    tdx_module_advisory_ids: tuple[str, ...] = ()
    tcb_evaluation_data_number: int = 21
    sgx_type: int | None = None
    """0 standard, 1 scalable, 2 scalable with integrity; by the CA where None."""
    dynamic_platform: bool = True
    cached_keys: bool = True
    smt_enabled: bool = True

    def __post_init__(self) -> None:
        """Refuse what no machine or document could have."""
        require_ca(self.ca)
        for name, length in _BYTES.items():
            if len(getattr(self, name)) != length:
                raise _invalid(f"{name} has {length} bytes, {len(getattr(self, name))} were given")
        _require_status("tcb_status", self.tcb_status, TCB_STATUSES)
        _require_status("qe_status", self.qe_status, QE_STATUSES)
        _require_status("tdx_module_status", self.tdx_module_status, QE_STATUSES)
        if not 0 <= self.pce_svn < _MAX_U16 or not 1 < self.qe_svn < _MAX_U16:
            raise _invalid(f"PCE SVN {self.pce_svn} or QE SVN {self.qe_svn} leaves no room for a level above or below")
        if not 1 < self.tee_tcb_svn[0] < _MAX_U8:
            raise _invalid(f"module SVN {self.tee_tcb_svn[0]} leaves no room for a level above or below")

    @property
    def effective_sgx_type(self) -> int:
        """The SGX type in the PCK certificate."""
        if self.sgx_type is not None:
            return self.sgx_type
        return 1 if self.ca == "platform" else 0

    @property
    def better_tcb(self) -> tuple[tuple[int, ...], int]:
        """The next TCB level above this one: 16 components and the PCE SVN."""
        return tuple(self.cpu_svn), self.pce_svn + 1

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values, bytes as hex."""
        return {field.name: _to_value(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> PlatformModel:
        """Return the model of `to_json`. Raises ValueError, KeyError, TypeError or Misuse for anything else."""
        # Platforms that were stored before there was TDX lack its fields, and have the defaults.
        given = {field.name for field in fields(cls) if field.name in document or field.name not in _OF_TDX}
        values = {name: document[name] for name in given}
        values.update({name: bytes.fromhex(values[name]) for name in _BYTES if name in given})
        values.update({name: tuple(values[name]) for name in _TUPLES if name in given})
        return cls(**values)


def _to_value(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    return list(value) if isinstance(value, tuple) else value


def _require_status(name: str, status: str, known: tuple[TCBStatus, ...]) -> None:
    if status not in known:
        raise _invalid(f"{name} {status!r} is none of {', '.join(known)}")


def _invalid(message: str) -> Misuse:
    return Misuse(Reason.SIMULATOR_INVALID, f"the simulated platform cannot be: {message}")
