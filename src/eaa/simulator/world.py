"""A whole world for one verification: machine, enclave, quote, collateral, trust anchor; each fault in its place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Unpack

from eaa.collateral.bundle import Collateral
from eaa.evidence.quote import BodyType, CertificationDataType, TEEType
from eaa.simulator.faults import Fault, Stage, faults_of
from eaa.simulator.model import PlatformOptions
from eaa.simulator.platform import Enclave, Platform
from eaa.simulator.quoting import QuoteLayout
from eaa.simulator.tdx import DEFAULT_ATTRIBUTES, TrustDomain

DEFAULT_REPORT_DATA: Final = bytes(range(64))


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a verifier of an enclave gets to see, and who made it."""

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
        layout: QuoteLayout | None = None,
        seed: bytes | None = None,
        **options: Unpack[PlatformOptions],
    ) -> World:
        """Make a world, good but for `faults` of any stage.

        Args:
            now: when it is made, and when everything in it is valid.
            enclave: image and SIGSTRUCT, as `sample_image` returns them.
            faults: the broken links.
            report_data: 64 bytes.
            layout: of the quote. Where it leaves the certificate chain out, the collateral has it.
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
            quote=launched.quote(report_data, layout=layout, faults=faults_of(broken, Stage.QUOTE)),
            collateral=_collateral(platform, now, broken, TEEType.SGX, layout),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TDXWorld:
    """What a verifier of a trust domain gets to see, and who made it."""

    now: datetime
    platform: Platform
    domain: TrustDomain
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
        faults: Iterable[Fault] = (),
        kind: BodyType = BodyType.TD_REPORT_15,
        attributes: int = DEFAULT_ATTRIBUTES,
        mr_service_td: bytes = bytes(48),
        layout: QuoteLayout | None = None,
        seed: bytes | None = None,
        **options: Unpack[PlatformOptions],
    ) -> TDXWorld:
        """Make a world, good but for `faults` of any stage.

        Args:
            now: when it is made, and when everything in it is valid.
            faults: the broken links.
            kind: which report the domain shows.
            attributes: of the domain, u64.
            mr_service_td: of the domain, 48 bytes.
            layout: of the quote. Where it leaves the certificate chain out, the collateral has it.
            seed: 32 bytes that decide everything; random where None.
            **options: fields of PlatformModel.
        """
        broken = frozenset(faults)
        platform = Platform.create(now=now, seed=seed, faults=faults_of(broken, Stage.PKI, Stage.PLATFORM), **options)
        domain = TrustDomain(platform=platform, attributes=attributes, mr_service_td=mr_service_td)
        quote_faults = faults_of(broken, Stage.QUOTE)
        return cls(
            now=now,
            platform=platform,
            domain=domain,
            quote=domain.quote(DEFAULT_REPORT_DATA, kind=kind, layout=layout, faults=quote_faults),
            collateral=_collateral(platform, now, broken, TEEType.TDX, layout),
        )


def _collateral(
    platform: Platform, now: datetime, faults: frozenset[Fault], tee: TEEType, layout: QuoteLayout | None
) -> Collateral:
    has_chain = layout is None or layout.certification is CertificationDataType.PCK_CHAIN
    return platform.collateral(now=now, faults=faults_of(faults, Stage.COLLATERAL), tee=tee, pck_chain=not has_chain)
