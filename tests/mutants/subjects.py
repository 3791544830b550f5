"""What is mutated: real quotes with real collateral, simulated machines, and worlds that can be signed anew.

Every subject is accepted by both judges before anything is changed.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from random import Random
from typing import Any, Final

from eaa.collateral.bundle import Collateral
from eaa.evidence.quote import TEEType
from eaa.evidence.tdx import TDReport, TDReport15, TDReport15Extended
from eaa.simulator.cpu import EnclaveIdentity
from eaa.simulator.pki import CAType
from eaa.simulator.platform import Enclave, Platform
from eaa.verify.dcap import VerifiedQuote
from mutants.judges import Exhibit, Ours, judge_ours
from mutants.layout import QuoteMap, ders_of, map_quote
from support.dcap_world import World, pem
from support.simulated import NOW, SEED
from support.vectors import ROOT as VECTORS
from support.vectors import cases

_INTEL_ROOT: Final = "certs/intel_sgx_root_ca.der"
_MACHINES: Final[dict[CAType, str]] = {"platform": "UpToDate", "processor": "SWHardeningNeeded"}
_IDENTITY: Final = EnclaveIdentity(
    mr_enclave=hashlib.sha256(b"an enclave").digest(),
    mr_signer=hashlib.sha256(b"a signer").digest(),
    attributes=bytes.fromhex("0500000000000000e700000000000000"),
    isv_prod_id=7,
    isv_svn=3,
)


class Authority(Enum):
    """Who could have made a mutant, and so what an acceptance of it may mean."""

    NOBODY = "nobody signed the change: accepted only if it means the same as before"
    IMPOSTOR = "signed with a key that has no right to: never accepted"
    VENDOR = "signed by whom it may concern: another world, judged alike by both"
    GENUINE = "put together from genuine documents, or seen at another time: judged alike by both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Something good to break."""

    name: str
    tee: TEEType
    quote: bytes = field(repr=False)
    collateral: Collateral = field(repr=False)
    root: bytes = field(repr=False)
    now: datetime
    facts: VerifiedQuote = field(repr=False)
    """What our verifier says of it."""
    forge: Callable[[], World] | None = field(default=None, repr=False)
    """Makes the same world anew, to be changed before it is signed."""

    @property
    def map(self) -> QuoteMap:
        """The fields of its quote."""
        return map_of(self.quote)

    @property
    def pck_chain(self) -> list[bytes]:
        """DER of the chain in the quote."""
        span = self.map["certification.data"]
        return ders_of(self.quote[span.start : span.end])

    @property
    def is_real(self) -> bool:
        """Whether Intel signed it."""
        return self.forge is None and not self.facts.simulated


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One changed exhibit."""

    field_class: str
    subject: Subject
    authority: Authority
    what: str
    exhibit: Exhibit


map_of = functools.lru_cache(maxsize=256)(map_quote)


@functools.cache
def subjects() -> tuple[Subject, ...]:
    """Return every subject, in an order that does not change."""
    return (*real_subjects(), *simulated_subjects(), *forged_subjects())


def exhibit_of(
    subject: Subject,
    *,
    quote: bytes | None = None,
    collateral: Collateral | bytes | None = None,
    now: datetime | None = None,
) -> Exhibit:
    """Return the subject as an exhibit, some parts of it replaced."""
    shown = subject.collateral if collateral is None else collateral
    return Exhibit(
        quote=subject.quote if quote is None else quote,
        collateral=shown if isinstance(shown, bytes) else to_file(shown),
        root=subject.root,
        now=now or subject.now,
    )


def to_file(collateral: Collateral) -> bytes:
    """Return the collateral file, also where a member is no text: then nobody can read it."""
    document: dict[str, str] = {}
    for item in dataclasses.fields(collateral):
        value = getattr(collateral, item.name)
        is_hex = item.name.endswith(("_crl", "_signature"))
        if value is not None:
            document[item.name] = value.hex() if is_hex else value.decode("utf-8", "surrogateescape")
    return json.dumps(document).encode()


@functools.cache
def real_subjects() -> tuple[Subject, ...]:
    """Return the cases of the vectors that both judges accept; none where the vectors are absent."""
    found = []
    for case in cases():
        quote, collateral = (VECTORS / case["quote"]).read_bytes(), (VECTORS / case["collateral"]).read_bytes()
        exhibit = Exhibit(
            quote=quote,
            collateral=collateral,
            root=(VECTORS / _INTEL_ROOT).read_bytes(),
            now=datetime.fromisoformat(case["at"]),
        )
        ours = judge_ours(exhibit)
        # What the other judge has to say against a genuine case is appraisal here: nothing to mutate.
        if ours.facts and "status" in case["expect"]["dcap_qvl_0_7_0"]:
            found.append(_subject(case["id"], exhibit, ours))
    return tuple(found)


@functools.cache
def simulated_subjects() -> tuple[Subject, ...]:
    """Return machines of the simulator, one for each PCK CA."""
    found = []
    for ca, status in _MACHINES.items():
        platform = Platform.create(now=NOW, seed=SEED, ca=ca, tcb_status=status, advisory_ids=("INTEL-SA-00615",))
        exhibit = Exhibit(
            quote=Enclave(platform=platform, identity=_IDENTITY).quote(bytes(range(64))),
            collateral=platform.collateral(now=NOW).to_json(),
            root=platform.root_der,
            now=NOW,
        )
        found.append(_subject(f"simulated {ca}", exhibit, judge_ours(exhibit)))
    return tuple(found)


@functools.cache
def forged_subjects() -> tuple[Subject, ...]:
    """Return a world of each kind that both judges accept."""
    found = []
    for name, forge in FORGES.items():
        exhibit = exhibit_of_world(forge())
        found.append(_subject(name, exhibit, judge_ours(exhibit), forge))
    return tuple(found)


def exhibit_of_world(world: World) -> Exhibit:
    """Sign everything anew, and show it."""
    return Exhibit(
        quote=world.quote().encode(), collateral=to_file(world.collateral()), root=world.root.der(), now=world.now
    )


def _subject(name: str, exhibit: Exhibit, ours: Ours, forge: Callable[[], World] | None = None) -> Subject:
    assert ours.facts is not None, f"{name}: {ours}"
    return Subject(
        name=name,
        tee=ours.facts.tee,
        quote=exhibit.quote,
        collateral=Collateral.from_json(exhibit.collateral),
        root=exhibit.root,
        now=exhibit.now,
        facts=ours.facts,
        forge=forge,
    )


# --- worlds


def _domain(body: type[TDReport], version: int) -> Callable[[], World]:
    def forge() -> World:
        world = World(tee=TEEType.TDX, version=version)
        plain = {name: getattr(world.body, name) for name, _ in TDReport.LAYOUT}
        more: dict[str, Any] = {name: bytes(length) for name, length in body.LAYOUT[len(TDReport.LAYOUT) :]}
        if "tee_tcb_svn_2" in more:
            more["tee_tcb_svn_2"] = plain["tee_tcb_svn"]
        world.body = body(**plain, **more)
        return world

    return forge


FORGES: Final[dict[str, Callable[[], World]]] = {
    "forged SGX v3": lambda: World(tee=TEEType.SGX, version=3),
    "forged TD 1.0 v4": _domain(TDReport, 4),
    "forged TD 1.0 v5": _domain(TDReport, 5),
    "forged TD 1.5 v5": _domain(TDReport15, 5),
    "forged TD 1.5 extended v5": _domain(TDReport15Extended, 5),
}


def chain_pem(*ders: bytes) -> bytes:
    """Return a PEM chain that the library can read; see `layout.pem_of` for those that it cannot."""
    return pem(*ders)


def pick(rng: Random, wanted: Callable[[Subject], bool] = lambda _: True) -> Subject:
    """Return one subject that is wanted."""
    return rng.choice([subject for subject in subjects() if wanted(subject)])
