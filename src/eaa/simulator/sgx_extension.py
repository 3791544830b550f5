"""The SGX extension of a PCK certificate, written as Intel writes it.

Source: Intel SGX PCK Certificate and CRL Profile Specification, "SGX extensions".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SGX_EXTENSION_OID: Final = "1.2.840.113741.1.13.1"

# The DER content of 1.2.840.113741.1.13.1; arcs below it are single bytes.
_SGX_ARC: Final = bytes.fromhex("2a864886f84d010d01")
_INTEGER, _OCTETS, _OID, _ENUMERATED, _BOOLEAN, _SEQUENCE = 0x02, 0x04, 0x06, 0x0A, 0x01, 0x30


@dataclass(frozen=True, slots=True, kw_only=True)
class SGXExtension:
    """What a PCK certificate says of its platform."""

    ppid: bytes
    """16 bytes."""
    tcb_components: tuple[int, ...]
    """16 SVNs, 0 to 255."""
    pce_svn: int
    cpu_svn: bytes
    """16 bytes."""
    pce_id: bytes
    """2 bytes."""
    fmspc: bytes
    """6 bytes."""
    sgx_type: int
    """0 standard, 1 scalable, 2 scalable with integrity."""
    platform_instance_id: bytes | None
    """16 bytes. None for the Processor CA, and then the three below are left out too."""
    dynamic_platform: bool
    cached_keys: bool
    smt_enabled: bool

    def encode(self) -> bytes:
        """Return the DER of the extension's value."""
        components = [_pair((2, i), _integer(svn)) for i, svn in enumerate(self.tcb_components, 1)]
        tcb = [*components, _pair((2, 17), _integer(self.pce_svn)), _pair((2, 18), _der(_OCTETS, self.cpu_svn))]
        members = [
            _pair((1,), _der(_OCTETS, self.ppid)),
            _pair((2,), _sequence(tcb)),
            _pair((3,), _der(_OCTETS, self.pce_id)),
            _pair((4,), _der(_OCTETS, self.fmspc)),
            _pair((5,), _der(_ENUMERATED, bytes([self.sgx_type]))),
        ]
        if self.platform_instance_id is not None:
            flags = (self.dynamic_platform, self.cached_keys, self.smt_enabled)
            configuration = [_pair((7, i), _boolean(value=flag)) for i, flag in enumerate(flags, 1)]
            members.append(_pair((6,), _der(_OCTETS, self.platform_instance_id)))
            members.append(_pair((7,), _sequence(configuration)))
        return _sequence(members)


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def _sequence(members: list[bytes]) -> bytes:
    return _der(_SEQUENCE, b"".join(members))


def _pair(arc: tuple[int, ...], value: bytes) -> bytes:
    return _sequence([_der(_OID, _SGX_ARC + bytes(arc)), value])


def _integer(number: int) -> bytes:
    return _der(_INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _boolean(*, value: bool) -> bytes:
    return _der(_BOOLEAN, b"\xff" if value else b"\0")
