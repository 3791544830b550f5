"""Collateral from somewhere: a PCCS, Intel's PCS, or a file. Nothing returned here has been verified."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

from eaa.collateral.bundle import Collateral
from eaa.errors import Misuse, Reason

__all__ = ["CollateralSource", "LocalSource", "PCKCertificateSource", "PCKName", "open_source"]


class CollateralSource(Protocol):
    """Where the endorsements of a platform model come from."""

    def fetch(self, *, tee: int, fmspc: bytes, ca: str) -> Collateral:
        """Return the collateral for one platform model, unverified.

        Args:
            tee: the TEE type word of a quote header, 0 for SGX, 0x81 for TDX.
            fmspc: 6 bytes, the platform model.
            ca: "processor" or "platform", which of the two PCK CAs signed the platform's certificate.

        Raises:
            Unavailable: it could not be had; the reason tells a dead server from one that does not have it.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PCKName:
    """What a quote without certificates says of its PCK certificate."""

    qe_id: bytes = field(repr=False)
    """16 bytes. Identifies one machine, as the next: never to be logged or shown."""
    encrypted_ppid: bytes | None = field(repr=False)
    """384 bytes, RSA-3072; None where the quote has it in another form."""
    cpu_svn: bytes
    """16 bytes."""
    pce_svn: int
    """u16."""
    pce_id: bytes
    """2 bytes."""


@runtime_checkable
class PCKCertificateSource(Protocol):
    """A source that has the PCK certificates of single platforms as well."""

    def fetch_pck_chain(self, name: PCKName) -> bytes | None:
        """Return the PCK certificate with its issuers, PEM, unverified; None where this source has none for anybody.

        Raises:
            Unavailable: it could not be had.
        """
        ...


@runtime_checkable
class LocalSource(Protocol):
    """A source that has what it has on this machine: asking it never waits for a network."""

    is_local: bool


def open_source(
    *,
    pccs: str | None,
    ca_file: Path | None,
    file: Path | None,
    environ: Mapping[str, str],
    clock: Callable[[], datetime] | None = None,
) -> CollateralSource:
    """Return the source that the operator named, or the one of sgx_default_qcnl.conf when none was.

    Args:
        pccs: the base URL of a PCCS.
        ca_file: PEM, the only CA to trust for that PCCS's TLS certificate.
        file: a collateral file, or a folder of them, in place of any PCCS.
        environ: the process's environment; QCNL_CONF_PATH names the configuration file.
        clock: the time for which evidence is verified; of a folder's files, those count that were issued by then.

    Raises:
        Misuse: what was named cannot be used; there is never a fallback to another source.
    """
    # Imported late: urllib3 takes longer to load than most programs need to answer --help.
    if file is not None:
        if pccs is not None:
            raise Misuse(Reason.USAGE, "a PCCS and a collateral file were both named", hint="choose one of the two")
        if file.is_dir():
            from eaa.sources.directory import DirectorySource  # noqa: PLC0415

            return DirectorySource(file, clock=clock)
        from eaa.sources.files import FileSource  # noqa: PLC0415

        return FileSource(file)
    from eaa.sources.pccs import PCCSSource  # noqa: PLC0415

    if pccs is not None:
        return PCCSSource(pccs, ca_file=ca_file)
    from eaa.sources.configured import ConfiguredSource  # noqa: PLC0415
    from eaa.sources.local_cache import default_cache_folder  # noqa: PLC0415
    from eaa.sources.qcnl import default_qcnl_path, load_qcnl  # noqa: PLC0415

    config = load_qcnl(default_qcnl_path(environ))
    return ConfiguredSource(config, ca_file=ca_file, cache_folder=default_cache_folder(environ))
