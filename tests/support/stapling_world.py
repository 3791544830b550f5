"""Editions of one vendor's collateral, a source that serves one of them, and verifiers that are offered others."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from eaa.appraise.policy import Policy, PolicyFile
from eaa.collateral.bundle import Collateral
from eaa.errors import Reason, Unavailable
from eaa.evidence.quote import TEEType
from eaa.verifier import Verifier
from eaa.verify.dcap import VerifiedQuote
from support.cache_world import DAY, NOW, Machine, Vendor

VENDOR: Final = Vendor("A")


@dataclass(frozen=True, slots=True, kw_only=True)
class Edition:
    """What a vendor published one day."""

    evaluation: int = 18
    crl: int = 5
    issued: datetime = NOW - DAY
    good_for: timedelta = 30 * DAY
    revoked: tuple[int, ...] = ()
    status: str = "UpToDate"
    """Of the level that machines have."""

    def collateral(self, tee: TEEType = TEEType.SGX, vendor: Vendor = VENDOR) -> Collateral:
        """The edition for one kind of TEE, signed."""
        world = vendor.world(tee)
        over = self.issued + self.good_for
        for crl in (world.root_crl, world.pck_crl):
            crl.this_update, crl.next_update, crl.number = self.issued, over, self.crl
        world.pck_crl.revoked = list(self.revoked)
        for document in (world.tcb_info, world.qe_identity):
            document.update(issueDate=f"{self.issued:%Y-%m-%dT%H:%M:%SZ}", nextUpdate=f"{over:%Y-%m-%dT%H:%M:%SZ}")
            document["tcbEvaluationDataNumber"] = self.evaluation
        world.tcb_info["tcbLevels"][0]["tcbStatus"] = self.status
        return world.collateral()

    def is_behind(self, other: Edition) -> bool:
        """Whether anything in it is older than in the other."""
        return self.evaluation < other.evaluation or self.crl < other.crl or self.issued < other.issued


@dataclass
class Clock:
    """A clock that a test sets."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Source:
    """Serves one edition, or is down."""

    edition: Edition | None = None
    asked: int = 0
    vendor: Vendor = field(default_factory=lambda: VENDOR)

    def fetch(self, *, tee: int, fmspc: bytes, ca: str) -> Collateral:
        del fmspc, ca
        self.asked += 1
        if self.edition is None:
            raise Unavailable(Reason.PCCS_UNREACHABLE, "the PCCS is down", hint="start it")
        return self.edition.collateral(TEEType(tee), self.vendor)


def verifier_of(
    source: Source,
    clock: Clock,
    *,
    policy: Policy | None = None,
    threaded: bool = False,
    accept_stapled_collateral: bool = False,
) -> Verifier:
    """A verifier of that vendor, whose thread does nothing but in `fetch_due`."""
    verifier = Verifier(
        source,
        trust_anchors=VENDOR.anchors,
        policy=PolicyFile() if policy is None else PolicyFile(default=policy),
        clock=clock,
        accept_stapled_collateral=accept_stapled_collateral,
    )
    if not threaded:
        for cache in (verifier._supply._models, verifier._supply._chains):
            cache.start = lambda: None  # type: ignore[method-assign]
    return verifier


def fetch_due(verifier: Verifier) -> None:
    """Do what the thread would have done by now."""
    verifier._supply._chains.fetch_due()
    verifier._supply._models.fetch_due()


def edition_of(facts: VerifiedQuote) -> tuple[int, int]:
    """Evaluation and CRL number on which facts rest."""
    return facts.tcb_evaluation_data_number, facts.pck_crl_number


def quote_of(machine: Machine | None = None) -> bytes:
    """A quote as it arrives."""
    raw = (machine or Machine(VENDOR, 1)).quote().encode()
    assert isinstance(raw, bytes)
    return raw
