"""Whatever happens in whatever order, a cache of verification answers as a verifier without one, after every step.

What happens: quotes are made, good and bad; vendors publish, revoke and change their minds of a TCB; time passes, and
is set back; relying parties change their trust anchors, their grace and their policy; collateral is replaced, and old
collateral comes back.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from eaa.appraise.appraisal import Appraiser, appraise
from eaa.appraise.policy import Policy
from eaa.appraise.reference_values import ReferenceValue, ReferenceValues
from eaa.appraise.result import Attests, Role
from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import TCBStatus
from eaa.errors import Reason
from eaa.evidence.quote import Quote, TEEType
from eaa.verify import cache as cache_room
from eaa.verify.cache import VerificationCache
from eaa.verify.chain import TrustAnchors
from eaa.verify.dcap import VerifiedQuote
from support.cache_world import DAY, NOW, Answer, Machine, Vendor, agree, flip_signature
from support.dcap_world import World, enclave_report, td_report

STEPS: Final = 2_000
STEPS_OF_ONE_LIFE: Final = 50
ASKED_AFTER_EACH_STEP: Final = 3
_LONGEST_AGO: Final = NOW - 100 * DAY
_LATEST: Final = NOW + 500 * DAY

ANCHORS: Final[tuple[tuple[str, ...], ...]] = (("A", "B"), ("A",), ("B",))
GRACES: Final = (timedelta(0), 20 * DAY, 40 * DAY)
POLICIES: Final = (
    Policy(),
    Policy(allowed_tcb_statuses=(TCBStatus.UP_TO_DATE, TCBStatus.OUT_OF_DATE, TCBStatus.SW_HARDENING_NEEDED)),
    Policy(collateral_grace=20 * DAY, minimum_evaluation_number=18),
)
STATUSES: Final = ("UpToDate", "OutOfDate", "SWHardeningNeeded", "Revoked")


def foreign_key(world: World) -> None:
    """Sign with a key for which the quoting enclave never vouched."""
    world.quote_signed_by = "nobody's"


def foreign_report(world: World) -> None:
    """Let another machine's PCK sign the quoting enclave's report."""
    world.qe_report_signed_by = "nobody's"


DEFECTS: Final[dict[str, Callable[[World], None] | None]] = {
    "none": None,
    "none again": None,
    "flipped signature": flip_signature,
    "foreign attestation key": foreign_key,
    "foreign QE report": foreign_report,
}


@functools.cache
def quote_of(vendor: str, kind: int, number: int, key: str, module: tuple[int, int], nonce: int, defect: str) -> Quote:
    """A quote, made once: what a machine is does not depend on what happens later."""
    change = DEFECTS[defect] or (lambda _: None)
    machine = machine_of(Vendor(vendor), kind, number)
    return machine.quote(nonce=nonce, attestation_key=key, module=module, change=change)


def machine_of(vendor: Vendor, kind: int, number: int) -> Machine:
    """Machines of several kinds: SGX or TDX, up to date or behind, under either CA certificate, one soon over."""
    kinds: tuple[dict[str, Any], ...] = (
        {},
        {"svn": 4},
        {"under_renewed_ca": True},
        {"tee": TEEType.TDX},
        {"good_for": 12 * DAY},
        {"tee": TEEType.TDX, "under_renewed_ca": True, "svn": 4},
    )
    return Machine(vendor, kind * 10 + number, **kinds[kind])


@functools.cache
def anchors_of(names: tuple[str, ...]) -> TrustAnchors:
    return TrustAnchors(frozenset().union(*(Vendor(name).anchors.fingerprints for name in names)))


@functools.cache
def reference_values() -> ReferenceValues:
    """Both vendors' workloads, so that some evidence is accepted."""
    measured: list[dict[str, Any]] = [{"mr_enclave": enclave_report().mr_enclave}, {"mr_td": td_report().mr_td}]
    pairs = itertools.product("AB", measured)
    return ReferenceValues(
        tuple(
            ReferenceValue(
                name=f"value-{number}",
                role=Role.WORKLOAD,
                attests=Attests.PROCESS,
                trust_anchor=next(iter(Vendor(vendor).anchors.fingerprints)),
                **measurement,
            )
            for number, (vendor, measurement) in enumerate(pairs)
        )
    )


vendors = st.sampled_from("AB")
tees = st.sampled_from([TEEType.SGX, TEEType.TDX])


class CachedVerification(RuleBasedStateMachine):
    """One life of a relying party, its vendors and their machines."""

    seen: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.now: datetime = NOW
        self.grace = GRACES[0]
        self.policy = POLICIES[0]
        self.names = ANCHORS[0]
        self.vendors = {name: Vendor(name) for name in "AB"}
        self.published: dict[tuple[str, TEEType], list[Collateral]] = {}
        self.quotes: list[tuple[str, TEEType, Quote]] = []
        self.turn = 0

    @initialize(size=st.sampled_from([2, 100]))
    def begin(self, size: int) -> None:
        """Caches of all trust anchors live side by side; small ones drop what they soon need again."""
        self.caches = {
            names: VerificationCache(anchors_of(names), max_platforms=size, max_collaterals=size) for names in ANCHORS
        }
        self.appraisers = {
            policy: Appraiser(policy=policy, reference_values=reference_values(), role=Role.WORKLOAD)
            for policy in POLICIES
        }
        for name, tee in itertools.product("AB", (TEEType.SGX, TEEType.TDX)):
            self.publish(name, tee, days=30)
        for name, kind in itertools.product("AB", (0, 3)):
            self.make_quote(name, kind, 0, "attestation", (4, 5), 0, "none")

    # --- machines

    @rule(
        vendor=vendors,
        kind=st.integers(0, 5),
        number=st.integers(0, 2),
        key=st.sampled_from(["attestation", "renewed attestation"]),
        module=st.sampled_from([(5, 5), (4, 5), (5, 4), (1, 1)]),
        nonce=st.integers(0, 3),
        defect=st.sampled_from(sorted(DEFECTS)),
    )
    def make_quote(
        self, vendor: str, kind: int, number: int, key: str, module: tuple[int, int], nonce: int, defect: str
    ) -> None:
        tee = machine_of(self.vendors[vendor], kind, number).tee
        quote = quote_of(vendor, kind, number, key, module if tee is TEEType.TDX else (5, 5), nonce, defect)
        self.quotes.append((vendor, tee, quote))

    # --- vendors

    @rule(vendor=vendors, tee=tees, days=st.sampled_from([1, 7, 30]))
    def publish(self, vendor: str, tee: TEEType, days: int) -> None:
        collateral = self.vendors[vendor].publish(tee, now=self.now, days=days)
        self.published.setdefault((vendor, tee), []).append(collateral)

    @rule(vendor=vendors, what=st.sampled_from(["machine", "CA", "renewed CA", "signer"]), kind=st.integers(0, 5))
    def revoke(self, vendor: str, what: str, kind: int) -> None:
        revoking = self.vendors[vendor]
        serial = {
            "machine": lambda: machine_of(revoking, kind, 0).certificate.serial_number,
            "CA": lambda: revoking.ca_serial(renewed=False),
            "renewed CA": lambda: revoking.ca_serial(renewed=True),
            "signer": lambda: revoking.signer_serial,
        }[what]()
        # A vendor that takes everything back would leave a dull world: a second revocation replaces the first.
        revoking.revoked = {serial} if revoking.revoked != {serial} else set()
        for tee in (TEEType.SGX, TEEType.TDX):
            self.publish(vendor, tee, days=30)

    @rule(vendor=vendors, level=st.integers(0, 1), status=st.sampled_from(STATUSES), number=st.integers(16, 19))
    def change_mind(self, vendor: str, level: int, status: str, number: int) -> None:
        changing = self.vendors[vendor]
        changing.statuses[level] = status
        changing.evaluation_number = number
        for tee in (TEEType.SGX, TEEType.TDX):
            self.publish(vendor, tee, days=30)

    # --- time

    @rule(hours=st.sampled_from([0.01, 1, 25, 8 * 24, 35 * 24]))
    def let_time_pass(self, hours: float) -> None:
        self.now = min(self.now + timedelta(hours=hours), _LATEST)

    @rule(hours=st.sampled_from([0.02, 2, 24, 9 * 24]))
    def set_the_clock_back(self, hours: float) -> None:
        self.now = max(self.now - timedelta(hours=hours), _LONGEST_AGO)

    @rule(
        which=st.integers(0, 20), seconds=st.sampled_from([-1, 0, 1]), edge=st.sampled_from(["issued", "expirations"])
    )
    def go_to_an_edge(self, which: int, seconds: int, edge: str) -> None:
        """Go to when a document that was just used begins or ends, a second before it or after."""
        facts = self.ask(self.turn)
        if isinstance(facts, VerifiedQuote):
            edges: tuple[tuple[str, datetime], ...] = getattr(facts, edge)
            moment = edges[which % len(edges)][1] + timedelta(seconds=seconds)
            self.now = max(_LONGEST_AGO, min(moment, _LATEST))

    # --- the relying party

    @rule(names=st.sampled_from([ANCHORS[0], *ANCHORS]))
    def change_trust_anchors(self, names: tuple[str, ...]) -> None:
        self.names = names

    @rule(grace=st.sampled_from(GRACES), policy=st.sampled_from(POLICIES))
    def change_policy(self, grace: timedelta, policy: Policy) -> None:
        self.grace, self.policy = grace, policy

    @rule(vendor=vendors, tee=tees, age=st.integers(0, 3))
    def forget(self, vendor: str, tee: TEEType, age: int) -> None:
        self.caches[self.names].forget(self.collateral(vendor, tee, age))

    @rule(which=st.integers(0, 1000), age=st.integers(0, 3), vendor=vendors, tee=tees)
    def show_with_any_collateral(self, which: int, age: int, vendor: str, tee: TEEType) -> None:
        self.judge(self.quotes[which % len(self.quotes)][2], self.collateral(vendor, tee, age))

    # --- both agree

    @invariant()
    def both_agree(self) -> None:
        CachedVerification.seen["steps"] += 1
        for _ in range(ASKED_AFTER_EACH_STEP):
            self.turn += 1
            self.ask(self.turn)

    def ask(self, turn: int) -> Answer | None:
        """Show one of the quotes with the newest collateral there is for it, the latest quotes most often."""
        if not self.quotes:
            return None
        vendor, tee, quote = self.quotes[-1 - turn % min(len(self.quotes), 7)]
        return self.judge(quote, self.collateral(vendor, tee, 0))

    def judge(self, quote: Quote, collateral: Collateral) -> Answer:
        cache, recurs = self.caches[self.names], self.turn % 3 > 0
        answer = agree(cache, quote, collateral, now=self.now, grace=self.grace, recurs=recurs)
        CachedVerification.seen["accepted" if isinstance(answer, VerifiedQuote) else answer[1]] += 1
        if isinstance(answer, VerifiedQuote):
            if recurs and answer.quote is cache.recall(answer.quote.encode()):
                CachedVerification.seen["expected"] += 1
            CachedVerification.seen[f"status {answer.tcb_status}"] += 1
            if answer.collateral_expired:
                CachedVerification.seen["in grace"] += 1
            judged = self.appraisers[self.policy].appraise(answer, session=None)
            values = reference_values()
            fresh = appraise(answer, policy=self.policy, reference_values=values, role=Role.WORKLOAD, session=None)
            assert judged == fresh
        return answer

    def collateral(self, vendor: str, tee: TEEType, age: int) -> Collateral:
        published = self.published[vendor, tee]
        return published[-1 - age % len(published)]


MUST_BE_SEEN: Final = {
    *("accepted", "hit", "expected", "status UpToDate", "status TDRelaunchAdvised"),
    *(Reason.ROOT_UNTRUSTED, Reason.CERTIFICATE_REVOKED, Reason.QUOTE_SIGNATURE, Reason.QE_REPORT_SIGNATURE),
    *(Reason.CRL_EXPIRED, Reason.CRL_NOT_YET_VALID, Reason.CERTIFICATE_EXPIRED),
}


@pytest.mark.timeout(900)
def test_cached_and_uncached_verification_agree_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = CachedVerification.seen = Counter()
    facts_of = cache_room._facts_of

    def counting(*arguments: Any, **more: Any) -> VerifiedQuote:
        seen["hit"] += 1
        return facts_of(*arguments, **more)

    monkeypatch.setattr(cache_room, "_facts_of", counting)
    run_state_machine_as_test(
        CachedVerification,
        settings=settings(
            max_examples=STEPS // STEPS_OF_ONE_LIFE + 10,
            stateful_step_count=STEPS_OF_ONE_LIFE,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    # A world in which nothing happens would agree as well.
    assert seen["steps"] >= STEPS
    assert not MUST_BE_SEEN - set(seen)
    assert seen["hit"] >= STEPS / 20
