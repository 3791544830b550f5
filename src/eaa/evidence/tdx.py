"""The TD report: what a trust domain is, as the TDX module measured it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from eaa.errors import MalformedInput, Reason

TD_REPORT_10_SIZE: Final = 584
"""Bytes of a TD report 1.0, the body of a version 4 quote of a trust domain."""

_UNTRUSTED_BITS = 0xFF
_FIELDS: Final = (
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TDReport:
    """A TD report 1.0, 584 bytes. Source: Intel TDX DCAP Quoting Library API, "TD Quote Body"."""

    tee_tcb_svn: bytes
    """16 bytes: [0] TDX module minor SVN, [1] TDX module major version, then plain SVNs."""
    mr_seam: bytes
    """48 bytes, the measurement of the TDX module."""
    mr_signer_seam: bytes
    """48 bytes, all zero for Intel's module."""
    seam_attributes: bytes
    """8 bytes, must be zero."""
    td_attributes: bytes
    """8 bytes, little-endian; the lowest byte (TUD) must be zero for a domain that is not under debug."""
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
    def parse(cls, raw: bytes) -> TDReport:
        """Raise MalformedInput unless `raw` is exactly one TD report 1.0."""
        if len(raw) != TD_REPORT_10_SIZE:
            raise MalformedInput(
                Reason.QUOTE_MALFORMED, f"a TD report has {TD_REPORT_10_SIZE} bytes, {len(raw)} were given"
            )
        values: dict[str, bytes] = {}
        at = 0
        for name, length in _FIELDS:
            values[name] = raw[at : at + length]
            at += length
        return cls(**values)

    def encode(self) -> bytes:
        """Return the 584 bytes of this report."""
        return b"".join(getattr(self, name) for name, _ in _FIELDS)

    @property
    def is_debug(self) -> bool:
        """Whether any bit of the untrusted group TUD is set: such a domain's host can look inside."""
        return bool(int.from_bytes(self.td_attributes, "little") & _UNTRUSTED_BITS)
