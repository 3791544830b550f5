"""A whole world for one verification: machine, enclave, quote, collateral, trust anchor; each fault in its place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Unpack

from eaa.collateral.bundle import Collateral
from eaa.simulator.faults import Fault, Stage, faults_of
from eaa.simulator.model import PlatformOptions
from eaa.simulator.platform import Enclave, Platform

DEFAULT_REPORT_DATA: Final = bytes(range(64))


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a verifier gets to see, and who made it."""

    now: datetime
    platform: Platform
    enclave: Enclave
    quote: bytes
    collateral: Collateral

    @property
    def trust_anchor(self) -> bytes:
        """The root that a verifier has to trust, DER."""
        return self.platform.root_der

    @classmethod
    def create(
        cls,
        *,
        now: datetime,
        enclave: tuple[bytes, bytes],
        faults: Iterable[Fault] = (),
        report_data: bytes = DEFAULT_REPORT_DATA,
        seed: bytes | None = None,
        **options: Unpack[PlatformOptions],
    ) -> World:
        """Make a world, good but for `faults` of any stage.

        Args:
            now: when it is made, and when everything in it is valid.
            enclave: image and SIGSTRUCT, as `sample_image` returns them.
            faults: the broken links.
            report_data: 64 bytes.
            seed: 32 bytes that decide everything; random where None.
            **options: fields of PlatformModel.
        """
        broken = frozenset(faults)
        platform = Platform.create(now=now, seed=seed, faults=faults_of(broken, Stage.PKI, Stage.PLATFORM), **options)
        launched = platform.launch(*enclave)
        return cls(
            now=now,
            platform=platform,
            enclave=launched,
            quote=launched.quote(report_data, faults=faults_of(broken, Stage.QUOTE)),
            collateral=platform.collateral(now=now, faults=faults_of(broken, Stage.COLLATERAL)),
        )
