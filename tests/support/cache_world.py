"""Two vendors, their machines and everything that befalls these: the world in which caching is tested.

A vendor publishes, revokes, and changes its mind of a TCB; a machine makes quotes, good ones and bad ones. `agree` asks
a cache and a verifier without one the same question, and compares all of their answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from eaa.collateral.bundle import Collateral
from eaa.errors import EAAError
from eaa.evidence.quote import Quote, TEEType
from eaa.evidence.tdx import TDReport, TDReport15
from eaa.verify.cache import VerificationCache
from eaa.verify.chain import TrustAnchors
from eaa.verify.dcap import VerifiedQuote, verify_quote
from support.dcap_world import (
    LEVELS,
    NOW,
    CertificateTemplate,
    CRLTemplate,
    SGXExtension,
    World,
    raw_public,
    tlv,
)

VENDORS: Final = ("A", "B")
MINUTE: Final = timedelta(minutes=1)
DAY: Final = timedelta(days=1)

Answer = VerifiedQuote | tuple[type[EAAError], str, str]


@dataclass
class Vendor:
    """One root with what it certifies. Keys are its own; names are those of every vendor, as they must be."""

    name: str
    revoked: set[int] = field(default_factory=set)
    statuses: list[str] = field(default_factory=lambda: [str(level["status"]) for level in LEVELS])
    evaluation_number: int = 18

    def world(self, tee: TEEType = TEEType.SGX, *, version: int = 3) -> World:
        """A world of this vendor, to be changed and then asked for quotes or collateral."""
        world = World(tee=tee, version=version)
        for template in (world.root, world.pck_ca, world.pck, world.tcb_signer, world.qe_signer):
            template.key = f"{template.key} of {self.name}"
        world.tcb_info_signed_by = world.qe_identity_signed_by = world.tcb_signer.key
        world.qe_report_signed_by = world.pck.key
        return world

    @property
    def anchors(self) -> TrustAnchors:
        return self.world().trust_anchors

    def publish(self, tee: TEEType, *, now: datetime, days: float = 30) -> Collateral:
        """Collateral issued a minute before `now`, of which all but the root's CRL is good for so many days."""
        world = self.world(tee)
        issued, over = now - MINUTE, now + timedelta(days=days)
        for crl, ends in ((world.root_crl, now + 10 * timedelta(days=days)), (world.pck_crl, over)):
            crl.this_update, crl.next_update = issued, ends
            crl.revoked = sorted(self.revoked)
        for document in (world.tcb_info, world.qe_identity):
            document.update(issueDate=_written(issued), nextUpdate=_written(over))
            document["tcbEvaluationDataNumber"] = self.evaluation_number
        for level, status in zip(world.tcb_info["tcbLevels"], self.statuses, strict=True):
            level["tcbStatus"] = status
        return world.collateral()

    @property
    def signer_serial(self) -> int:
        return self.world().tcb_signer.serial_number

    def ca_serial(self, *, renewed: bool) -> int:
        ca = self.world().pck_ca
        return (_renewed(ca) if renewed else ca).serial_number


@dataclass(frozen=True)
class Machine:
    """One platform of a vendor."""

    vendor: Vendor
    number: int
    svn: int = 5
    pce_svn: int = 13
    tee: TEEType = TEEType.SGX
    under_renewed_ca: bool = False
    """Whether its certificate came with another certificate of the same CA key."""
    good_for: timedelta = timedelta(days=400)
    """How long after NOW its certificate is valid."""

    @property
    def certificate(self) -> CertificateTemplate:
        world = self.vendor.world()
        extension = SGXExtension(components=[self.svn] * 16, pce_svn=self.pce_svn)
        extension.fields[1,] = tlv(0x04, hashlib.sha256(b"PPID %d" % self.number).digest()[:16])
        return CertificateTemplate(
            "Intel SGX PCK Certificate",
            f"pck {self.number} of {self.vendor.name}",
            _renewed(world.pck_ca) if self.under_renewed_ca else world.pck_ca,
            sgx=extension,
            not_after=(NOW + self.good_for).replace(microsecond=0),
        )

    def quote(
        self,
        *,
        nonce: int = 0,
        attestation_key: str = "attestation",
        module: tuple[int, int] = (5, 5),
        change: Callable[[World], object] = lambda _: None,
    ) -> Quote:
        """A quote as it arrives.

        Args:
            nonce: what the report data says.
            attestation_key: by which of the machine's attestation keys.
            module: for TDX, the SVN of the module at launch and of the one that runs now.
            change: what is wrong with it.
        """
        is_tdx = self.tee is TEEType.TDX
        world = self.vendor.world(self.tee, version=5 if is_tdx else 3)
        certificate = self.certificate
        world.quote_chain = [certificate, certificate.issuer or world.pck_ca, world.root]
        world.qe_report_signed_by = certificate.key
        world.quote_signed_by = f"{attestation_key} of machine {self.number} of {self.vendor.name}"
        world.attestation_key = raw_public(world.quote_signed_by)
        changes: dict[str, Any] = {"report_data": nonce.to_bytes(64, "big")}
        if isinstance(world.body, TDReport15):
            launch, current = (bytes((svn, 1, *(5,) * 14)) for svn in module)
            changes |= {"tee_tcb_svn": launch, "tee_tcb_svn_2": current}
        world.body = replace(world.body, **changes)
        change(world)
        return Quote.parse(world.quote().encode())


def _renewed(ca: CertificateTemplate) -> CertificateTemplate:
    """Another certificate of the same CA: as good as the first, and of other bytes."""
    return replace(ca, serial=4242, not_after=ca.not_after - DAY)


def _written(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def answer_of(act: Callable[[], VerifiedQuote]) -> Answer:
    """What somebody answered: the facts, or the error with every word of it."""
    try:
        return act()
    except EAAError as error:
        return type(error), error.reason, error.message


def agree(
    cache: VerificationCache,
    quote: Quote,
    collateral: Collateral,
    *,
    now: datetime,
    grace: timedelta = timedelta(0),
    recurs: bool = False,
) -> Answer:
    """The answer on which a cache and a verifier without one agree."""
    alone = answer_of(lambda: verify_quote(quote, collateral, trust_anchors=cache.trust_anchors, now=now, grace=grace))
    shown = quote if quote.raw is None else cache.recall(quote.raw) if recurs else cache.parse(quote.raw)
    cached = answer_of(lambda: cache.verify_quote(shown, collateral, now=now, grace=grace, recurs=recurs))
    assert cached == alone
    return cached


def flip_signature(world: World) -> None:
    """Break the quote's own signature."""

    def change(quote: Quote) -> Quote:
        return replace(quote, signature=quote.signature[:-1] + bytes([quote.signature[-1] ^ 1]))

    world.change_quote = change


def edit_body(**changes: Any) -> Callable[[World], None]:
    """Change fields of the quoted report, and sign it as the machine would have."""

    def change(world: World) -> None:
        world.body = replace(world.body, **changes)

    return change


__all__ = [
    "DAY",
    "MINUTE",
    "NOW",
    "VENDORS",
    "Answer",
    "CRLTemplate",
    "Machine",
    "TDReport",
    "Vendor",
    "agree",
    "answer_of",
    "edit_body",
    "flip_signature",
]
