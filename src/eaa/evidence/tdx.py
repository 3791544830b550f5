"""The TD report: what a trust domain is, as the TDX module measured it. Versions 1.0, 1.5 and 1.5 extended."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, ClassVar, Final, Self

from eaa.errors import MalformedInput, Reason
from eaa.records import filler

TD_REPORT_10_SIZE: Final = 584
"""Bytes of a TD report 1.0: the body of a version 4 quote of a trust domain, and body type 2 of version 5."""
TD_REPORT_15_SIZE: Final = 648
"""Bytes of a TD report 1.5, body type 3 of version 5."""
TD_REPORT_15_EXTENDED_SIZE: Final = 885
"""Bytes of an extended TD report 1.5, body type 4 of version 5."""

_Layout = tuple[tuple[str, int], ...]
_FIELDS_10: Final[_Layout] = (
    ("tee_tcb_svn", 16),
    ("mr_seam", 48),
    ("mr_signer_seam", 48),
    ("seam_attributes", 8),
    ("td_attributes", 8),
    ("xfam", 8),
    ("mr_td", 48),
    ("mr_config_id", 48),
    ("mr_owner", 48),
    ("mr_owner_config", 48),
    ("rtmr0", 48),
    ("rtmr1", 48),
    ("rtmr2", 48),
    ("rtmr3", 48),
    ("report_data", 64),
)
_FIELDS_15: Final[_Layout] = (*_FIELDS_10, ("tee_tcb_svn_2", 16), ("mr_service_td", 48))
_FIELDS_15_EXTENDED: Final[_Layout] = (
    *_FIELDS_15,
    ("vm_id", 1),
    ("td_id", 32),
    ("device_info", 48),
    ("init_service_td_hash", 48),
    ("init_service_td_attributes", 8),
    ("init_cpu_svn", 16),
    ("init_tee_tcb_svn", 16),
    ("init_tee_fmspc", 12),
    ("current_service_td_hash", 48),
    ("current_service_td_attributes", 8),
)


class TDAttribute(IntFlag):
    """TDATTRIBUTES by bit. The lowest byte, of which DEBUG is bit 0, is the untrusted group (TUD).

    Source: Intel TDX Module Base Architecture Specification, "TD Attributes".
    """

    DEBUG = 1 << 0
    ICSSD = 1 << 16
    LASS = 1 << 27
    SEPT_VE_DISABLE = 1 << 28
    MIGRATABLE = 1 << 29
    PKS = 1 << 30
    KEY_LOCKER = 1 << 31
    TPA = 1 << 62
    PERFMON = 1 << 63


_UNTRUSTED: Final = 0xFF
_KNOWN: Final = sum(TDAttribute)


@dataclass(frozen=True, slots=True, kw_only=True)
class TDReport:
    """A TD report 1.0, 584 bytes. Source: Intel TDX DCAP Quoting Library API, "TD Quote Body"."""

    LAYOUT: ClassVar[_Layout] = _FIELDS_10
    SIZE: ClassVar[int] = TD_REPORT_10_SIZE

    tee_tcb_svn: bytes
    """16 bytes: [0] TDX module minor SVN, [1] TDX module major version, then plain SVNs. As of the domain's launch."""
    mr_seam: bytes
    """48 bytes, the measurement of the TDX module."""
    mr_signer_seam: bytes
    """48 bytes, all zero for Intel's module."""
    seam_attributes: bytes
    """8 bytes, must be zero."""
    td_attributes: bytes
    """8 bytes, little-endian, see TDAttribute."""
    xfam: bytes
    """8 bytes, the extended features the domain may use."""
    mr_td: bytes
    """48 bytes, the measurement of the domain's initial memory."""
    mr_config_id: bytes
    """48 bytes, chosen by the owner."""
    mr_owner: bytes
    """48 bytes, chosen by the owner."""
    mr_owner_config: bytes
    """48 bytes, chosen by the owner."""
    rtmr0: bytes
    """48 bytes, run-time measurement register 0."""
    rtmr1: bytes
    """48 bytes, run-time measurement register 1."""
    rtmr2: bytes
    """48 bytes, run-time measurement register 2."""
    rtmr3: bytes
    """48 bytes, run-time measurement register 3."""
    report_data: bytes
    """64 bytes chosen by the domain."""

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raise MalformedInput unless `raw` is exactly one report of this version."""
        if len(raw) != cls.SIZE:
            raise MalformedInput(Reason.QUOTE_MALFORMED, f"this TD report has {cls.SIZE} bytes, {len(raw)} were given")
        layout, fill = _READERS[cls]
        made: Self = fill(layout.unpack(raw))
        return made

    def encode(self) -> bytes:
        """Return the bytes of this report."""
        return b"".join([getattr(self, name) for name, _ in self.LAYOUT])

    @property
    def attributes(self) -> TDAttribute:
        """The attributes that have a name."""
        return TDAttribute(self._attribute_bits & _KNOWN)

    @property
    def unknown_attributes(self) -> int:
        """The attribute bits without a name outside of TUD, u64; zero unless the module is newer than this code."""
        return self._attribute_bits & ~_KNOWN & ~_UNTRUSTED

    @property
    def tud_bits(self) -> int:
        """The lowest byte of the attributes. Bit 0 is DEBUG, the others are reserved and must be zero."""
        return self.td_attributes[0]

    @property
    def is_debug(self) -> bool:
        """Whether any bit of the untrusted group TUD is set: such a domain's host can look inside."""
        return self.td_attributes[0] != 0

    @property
    def disables_sept_ve(self) -> bool:
        """SEPT_VE_DISABLE: the host cannot inject exceptions by taking memory away from the domain."""
        return self._has(TDAttribute.SEPT_VE_DISABLE)

    @property
    def is_migratable(self) -> bool:
        """MIGRATABLE: a migration domain can move this one, memory and all, to another machine."""
        return self._has(TDAttribute.MIGRATABLE)

    @property
    def uses_pks(self) -> bool:
        """PKS: the domain may use supervisor protection keys."""
        return self._has(TDAttribute.PKS)

    @property
    def uses_key_locker(self) -> bool:
        """KL: the domain may use Key Locker."""
        return self._has(TDAttribute.KEY_LOCKER)

    @property
    def uses_perfmon(self) -> bool:
        """PERFMON: the domain may use the performance monitor, which the host then cannot watch it with."""
        return self._has(TDAttribute.PERFMON)

    @property
    def has_service_td(self) -> bool | None:
        """Whether another domain (a migration domain, for instance) is bound to this one; None: 1.0 cannot tell."""
        return None

    @property
    def _attribute_bits(self) -> int:
        return int.from_bytes(self.td_attributes, "little")

    def _has(self, attribute: TDAttribute) -> bool:
        # As a number: the operators of an enumeration make members, which takes long.
        return bool(self._attribute_bits & int(attribute))


@dataclass(frozen=True, slots=True, kw_only=True)
class TDReport15(TDReport):
    """A TD report 1.5, 648 bytes: a module may be updated under a running domain, so there are two TCBs."""

    LAYOUT: ClassVar[_Layout] = _FIELDS_15
    SIZE: ClassVar[int] = TD_REPORT_15_SIZE

    tee_tcb_svn_2: bytes
    """16 bytes, as `tee_tcb_svn`, of the module that runs now."""
    mr_service_td: bytes
    """48 bytes, the measurement of the service domains that are bound to this one; zero where there is none."""

    @property
    def has_service_td(self) -> bool | None:
        """Whether another domain (a migration domain, for instance) is bound to this one."""
        return any(self.mr_service_td)


@dataclass(frozen=True, slots=True, kw_only=True)
class TDReport15Extended(TDReport15):
    """An extended TD report 1.5, 885 bytes. Source: Intel's quote verification library, "TDReport15Ex"."""

    LAYOUT: ClassVar[_Layout] = _FIELDS_15_EXTENDED
    SIZE: ClassVar[int] = TD_REPORT_15_EXTENDED_SIZE

    vm_id: bytes
    """1 byte: which of the virtual machines in a partitioned domain, 0 for the domain itself."""
    td_id: bytes
    """32 bytes."""
    device_info: bytes
    """48 bytes, of the devices that are assigned to the domain."""
    init_service_td_hash: bytes
    """48 bytes, of the service domains at launch."""
    init_service_td_attributes: bytes
    """8 bytes."""
    init_cpu_svn: bytes
    """16 bytes, of the machine on which the domain was launched."""
    init_tee_tcb_svn: bytes
    """16 bytes, of the module on which the domain was launched."""
    init_tee_fmspc: bytes
    """12 bytes, of the machine on which the domain was launched."""
    current_service_td_hash: bytes
    """48 bytes, of the service domains now."""
    current_service_td_attributes: bytes
    """8 bytes."""


def _reader_of(kind: type[TDReport]) -> tuple[struct.Struct, Any]:
    layout = struct.Struct("".join(f"{length}s" for _, length in kind.LAYOUT))
    return layout, filler(kind, [name for name, _ in kind.LAYOUT])


_READERS: Final = {kind: _reader_of(kind) for kind in (TDReport, TDReport15, TDReport15Extended)}
"""Where the fields of a report stand, and what makes a record of them."""
