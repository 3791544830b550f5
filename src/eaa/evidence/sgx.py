"""The SGX report body: what an enclave is, as its CPU measured it."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntFlag
from typing import ClassVar, Final

from eaa.errors import MalformedInput, Reason
from eaa.records import quick

REPORT_SIZE: Final = 384
"""Bytes of an SGX report body."""
_LAYOUT: Final = struct.Struct("<16s I 12s 16s 16s 32s 32s 32s 32s 64s H H H 42s 16s 64s")


class SGXAttribute(IntFlag):
    """The flags half of ATTRIBUTES. Source: Intel SDM vol. 3D, "ATTRIBUTES"."""

    INIT = 0x01
    DEBUG = 0x02
    MODE64BIT = 0x04
    PROVISIONKEY = 0x10
    EINITTOKENKEY = 0x20
    KSS = 0x80


_DEBUG: Final = int(SGXAttribute.DEBUG)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveReport:
    """An SGX report body, 384 bytes, little-endian.

    Source: Intel SGX ECDSA QuoteLib Reference, "Enclave Report Body"; with KSS, the fields that were reserved before.
    """

    SIZE: ClassVar[int] = REPORT_SIZE

    cpu_svn: bytes
    """16 bytes, one SVN per component; compare component by component, not as a number."""
    misc_select: int
    """u32."""
    isv_ext_prod_id: bytes = bytes(16)
    """16 bytes, KSS only."""
    attributes: bytes
    """16 bytes: u64 flags (see SGXAttribute), then u64 XFRM."""
    mr_enclave: bytes
    """32 bytes, the measurement of the enclave."""
    mr_signer: bytes
    """32 bytes, SHA-256 of the signer's modulus."""
    config_id: bytes = bytes(64)
    """64 bytes, KSS only."""
    isv_prod_id: int
    """u16."""
    isv_svn: int
    """u16."""
    config_svn: int = 0
    """u16, KSS only."""
    isv_family_id: bytes = bytes(16)
    """16 bytes, KSS only."""
    report_data: bytes
    """64 bytes chosen by the enclave."""
    reserved: tuple[bytes, bytes, bytes, bytes] = field(
        default=(bytes(12), bytes(32), bytes(32), bytes(42)), repr=False
    )
    """Bytes at 20, 96, 160 and 262, kept so that `encode` returns exactly what was parsed."""

    @classmethod
    def parse(cls, raw: bytes) -> EnclaveReport:
        """Raise MalformedInput unless `raw` is exactly one report body."""
        if len(raw) != REPORT_SIZE:
            raise MalformedInput(
                Reason.QUOTE_MALFORMED, f"an SGX report body has {REPORT_SIZE} bytes, {len(raw)} were given"
            )
        (
            cpu_svn,
            misc_select,
            after_misc,
            isv_ext_prod_id,
            attributes,
            mr_enclave,
            after_enclave,
            mr_signer,
            after_signer,
            config_id,
            isv_prod_id,
            isv_svn,
            config_svn,
            after_config_svn,
            isv_family_id,
            report_data,
        ) = _LAYOUT.unpack(raw)
        return _new_report(
            cpu_svn=cpu_svn,
            misc_select=misc_select,
            isv_ext_prod_id=isv_ext_prod_id,
            attributes=attributes,
            mr_enclave=mr_enclave,
            mr_signer=mr_signer,
            config_id=config_id,
            isv_prod_id=isv_prod_id,
            isv_svn=isv_svn,
            config_svn=config_svn,
            isv_family_id=isv_family_id,
            report_data=report_data,
            reserved=(after_misc, after_enclave, after_signer, after_config_svn),
        )

    def encode(self) -> bytes:
        """Return the 384 bytes of this report body."""
        after_misc, after_enclave, after_signer, after_config_svn = self.reserved
        return b"".join(
            (
                self.cpu_svn,
                self.misc_select.to_bytes(4, "little"),
                after_misc,
                self.isv_ext_prod_id,
                self.attributes,
                self.mr_enclave,
                after_enclave,
                self.mr_signer,
                after_signer,
                self.config_id,
                self.isv_prod_id.to_bytes(2, "little"),
                self.isv_svn.to_bytes(2, "little"),
                self.config_svn.to_bytes(2, "little"),
                after_config_svn,
                self.isv_family_id,
                self.report_data,
            )
        )

    @property
    def flags(self) -> SGXAttribute:
        """The flags half of the attributes."""
        return SGXAttribute(int.from_bytes(self.attributes[:8], "little"))

    @property
    def is_debug(self) -> bool:
        """Whether the host can read and change this enclave's memory."""
        return bool(self.attributes[0] & _DEBUG)


_new_report: Final = quick(EnclaveReport)
