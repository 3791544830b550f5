"""What the store hands out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from eaa.pccs.freshness import Freshness, newer_crl
from eaa.pccs.uploads import Upload


class Kind(StrEnum):
    """What a signed document is."""

    TCB_INFO = "TCB_INFO"
    IDENTITY = "IDENTITY"
    PCK_CRL = "PCK_CRL"
    ROOT_CRL = "ROOT_CRL"


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentKey:
    """What one document is looked up by, within its PKI."""

    kind: Kind
    name: str
    """Of TCB Info the FMSPC; of an identity QE, QVE or TD_QE; of a PCK CA's CRL PROCESSOR or PLATFORM; else empty."""
    tee: str = ""
    """Of TCB Info SGX or TDX."""
    api_version: int = 0
    """Of TCB Info and identities 3 or 4."""
    update_type: str = ""
    """Of TCB Info and identities STANDARD, EARLY, or `#` and the evaluation number that it was fetched by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A signed document with its issuer chain."""

    key: DocumentKey
    root: str
    """SHA-256 of the root that its PKI is known by, hex."""
    body: bytes = field(repr=False)
    chain: str | None = field(repr=False)
    """Percent-encoded PEM; None for the root's CRL."""
    freshness: Freshness

    @property
    def issued(self) -> datetime:
        """When it was signed."""
        return self.freshness.issued

    @property
    def expires(self) -> datetime:
        """When it is over; the certificates above it may be sooner."""
        return self.freshness.expires

    @property
    def number(self) -> int:
        """The evaluation number, or a CRL's."""
        return self.freshness.number


@dataclass(frozen=True, slots=True, kw_only=True)
class PKI:
    """All that one root vouches for."""

    root: str
    is_default: bool
    """Whether it is the one that answers where a request does not say whose document it wants."""
    updated: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """One platform that is known."""

    root: str
    qe_id: str = field(repr=False)
    pce_id: str
    fmspc: str
    ca: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetEntry:
    """One platform as it may be shown."""

    root: str
    fmspc: str
    ca: str
    pseudonym: str
    """16 hex digits, made of its ids with a salt that stays in this database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Supplement:
    """Of one PKI, what vouches for its documents: chains by name, percent-encoded PEM, and CRLs, DER."""

    chains: Mapping[str, str] = field(repr=False)
    pck_crls: Mapping[str, bytes] = field(repr=False)
    root_crl: bytes | None = field(repr=False)

    def with_upload(self, upload: Upload) -> Supplement:
        """Return what vouches once this upload is stored: of two CRLs the newer. Raises MalformedInput."""
        crls = {
            ca: newer_crl(upload.pck_crls.get(ca), self.pck_crls.get(ca))
            for ca in upload.pck_crls.keys() | self.pck_crls.keys()
        }
        return Supplement(
            chains={**upload.chains, **{name: self.chains[name] for name in self.chains.keys() - upload.chains.keys()}},
            pck_crls={ca: crl for ca, crl in crls.items() if crl is not None},
            root_crl=newer_crl(upload.root_crl, self.root_crl),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What an upload changed, for the log."""

    root: str
    replaces: str | None
    """The root that was the default until now, where it was another one."""
    platforms: int
    tcb_infos: int
    identities: int
    kept_newer: int
    """Documents that were not stored, because a newer one was there."""


@dataclass(slots=True, kw_only=True)
class Carried:
    """What came of an import."""

    documents: int = 0
    """TCB Infos, identities and CRLs."""
    platforms: int = 0
    policies: int = 0
    registrations: int = 0
    kept_newer: int = 0
    """Documents that were not stored, because a newer one was there."""
    refused: list[str] = field(default_factory=list)
    """Why what was refused was."""
