"""Certification data that names a platform instead of certifying it: types 1, 2 and 3 of a quote.

Whoever verifies such a quote has to fetch the PCK certificate that belongs to these values.

Source: Intel SGX ECDSA QuoteLib Reference, "QE Certification Data", and "PPID, CPUSVN, PCESVN, PCEID".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from eaa.errors import MalformedInput, Reason
from eaa.evidence.layout import Reader
from eaa.evidence.quote import CertificationDataType

PPID_SIZES: Final = {
    CertificationDataType.PPID_PLAIN: 16,
    CertificationDataType.PPID_RSA_2048: 256,
    CertificationDataType.PPID_RSA_3072: 384,
}
"""Bytes of the PPID by type; encrypted to Intel's key (RSA-OAEP) in the last two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PPIDCertification:
    """Which platform at which TCB signed the report of the quoting enclave."""

    kind: CertificationDataType
    ppid: bytes = field(repr=False)
    """16 bytes in clear, or 256 or 384 that only Intel can read. Identifies one machine: never to be shown."""
    cpu_svn: bytes
    """16 bytes."""
    pce_svn: int
    """u16."""
    pce_id: bytes
    """2 bytes."""

    @classmethod
    def parse(cls, raw: bytes, *, kind: int) -> PPIDCertification:
        """Parse certification data of type `kind`.

        Raises:
            MalformedInput: QUOTE_MALFORMED; CERTIFICATION_DATA_UNSUPPORTED where `kind` is none of 1, 2 and 3.
        """
        known = {int(member): member for member in PPID_SIZES}
        if kind not in known:
            raise MalformedInput(
                Reason.CERTIFICATION_DATA_UNSUPPORTED, f"certification data of type {kind} does not hold a PPID"
            )
        reader = Reader(raw, what="the certification data", reason=Reason.QUOTE_MALFORMED)
        ppid = reader.take(PPID_SIZES[known[kind]], "the PPID")
        cpu_svn = reader.take(16, "the CPUSVN")
        pce_svn = reader.uint(2, "the PCE SVN")
        pce_id = reader.take(2, "the PCE-ID")
        reader.end()
        return cls(kind=known[kind], ppid=ppid, cpu_svn=cpu_svn, pce_svn=pce_svn, pce_id=pce_id)

    def encode(self) -> bytes:
        """Return the bytes of this certification data."""
        return self.ppid + self.cpu_svn + self.pce_svn.to_bytes(2, "little") + self.pce_id

    @property
    def plain_ppid(self) -> bytes | None:
        """16 bytes, or None where only Intel could read it."""
        return self.ppid if self.kind is CertificationDataType.PPID_PLAIN else None
