"""Old collateral, stapled: the attacker's machine has fallen from grace, and he brings the vendor's word from before.

His evidence is genuine, and so is what he staples: the vendor signed it, and its dates have not come. By it his machine
is up to date, or not revoked yet. Who judges by what a peer brings accepts him. Who compares it with what he has
verified himself judges by the newer word.

Real sessions over real sockets, a real PCCS client, and the attacker at either end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest

from eaa.aio.attestation import Judge
from eaa.aio.sessions import Endpoint, judge_by, judge_now_by
from eaa.aio.stream import Judgement as AnyJudgement
from eaa.appraise.policy import Policy, PolicyFile
from eaa.appraise.reference_values import ReferenceValues
from eaa.appraise.result import Role
from eaa.collateral.bundle import Collateral
from eaa.errors import EAAError, Reason
from eaa.identity import Identity
from eaa.program.files import read_trust_anchor
from eaa.protocol.exchange import Terms
from eaa.simulator.faults import Fault
from eaa.simulator.platform import Platform
from eaa.sources import CollateralSource
from eaa.sources.pccs import PCCSSource
from eaa.verifier import Judgement, TrustAnchors, Verifier, wall_clock
from support.aio_world import tcp_pair
from support.machines import platform_of
from support.peers import attester_of, eventually, verifier_of
from support.scripted_http import scripted
from support.scripted_pccs import served
from support.system import Site

AGO: Final = timedelta(days=5)
AT_LEAST_22: Final = PolicyFile(default=Policy(minimum_evaluation_number=22))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fall:
    """What the vendor said of the attacker's machine, and what it says now."""

    old: Collateral
    new: Collateral
    reason: Reason


def outdated(machine: Platform, now: datetime) -> Fall:
    """A TCB recovery: the same machine, and a higher evaluation number by which it is out of date."""
    recovered = machine.revised(tcb_status="OutOfDate", tcb_evaluation_data_number=22, advisory_ids=("INTEL-SA-1",))
    return Fall(
        old=machine.collateral(now=now - AGO), new=recovered.collateral(now=now), reason=Reason.TCB_STATUS_NOT_ALLOWED
    )


def revoked(machine: Platform, now: datetime) -> Fall:
    """Its PCK certificate stands on the PCK CRL that was issued since."""
    listing = machine.collateral(now=now, faults=frozenset({Fault.LEAF_REVOKED}))
    return Fall(old=machine.collateral(now=now - AGO), new=listing, reason=Reason.CERTIFICATE_REVOKED)


def outdated_with_a_new_crl(machine: Platform, now: datetime) -> Fall:
    """Documents are signed one by one: the old TCB Info comes with lists of today."""
    fall = outdated(machine, now)
    mixed = replace(fall.old, pck_crl=fall.new.pck_crl, root_ca_crl=fall.new.root_ca_crl)
    return replace(fall, old=mixed)


def revoked_with_a_new_tcb_info(machine: Platform, now: datetime) -> Fall:
    """The other way round: everything is of today but the list in which the machine stands."""
    fall = revoked(machine, now)
    return replace(fall, old=replace(fall.new, pck_crl=fall.old.pck_crl))


FALLS: Final[dict[str, Callable[[Platform, datetime], Fall]]] = {
    "old-tcb-info": outdated,
    "old-crl": revoked,
    "old-tcb-info-with-a-new-crl": outdated_with_a_new_crl,
    "old-crl-with-a-new-tcb-info": revoked_with_a_new_tcb_info,
}


@pytest.fixture(params=list(FALLS))
def fall(site: Site, request: pytest.FixtureRequest) -> Fall:
    """One way to fall, of the attacker's machine."""
    return FALLS[request.param](platform_of(site.tee), datetime.now(UTC))


class Naive:
    """A source for who believes what a peer brings: whatever it was is all there is."""

    def __init__(self, stapled: Collateral) -> None:
        self._stapled = stapled

    def fetch(self, **_: object) -> Collateral:
        return self._stapled


@pytest.fixture
def verifier(site: Site, fall: Fall) -> Iterator[Verifier]:
    """Ours, whose PCCS serves what the vendor says now."""
    with scripted(served(fall.new)) as pccs:
        verifier = verifier_of(site, source=PCCSSource(pccs.url))
        yield verifier
        verifier.close()


async def meet(site: Site, stapled: Collateral, verifier: Verifier, *, victim_serves: bool) -> Judgement | Reason:
    """Let the attacker meet a victim who judges by this verifier; return what the victim made of it."""
    one, other = tcp_pair()
    role = Role.RELAY if victim_serves else Role.WORKLOAD
    attacker = Identity(attester_of(site, role.value), collateral=stapled.to_json)
    relay_terms, workload_terms = Terms.relay_to_workload(), Terms.workload_to_relay(judges=victim_serves)
    if victim_serves:
        host = Identity(attester_of(site, "workload"))
        victim = Endpoint(host, server_side=True, clock=wall_clock, demand_client_certificate=True)
        ends = (
            attest(victim, other, workload_terms, judge_now_by(verifier, role)),
            attest(Endpoint(attacker, server_side=False, clock=wall_clock), one, relay_terms, None),
        )
    else:
        ends = (
            attest(Endpoint(None, server_side=False, clock=wall_clock), one, relay_terms, judge_by(verifier, role)),
            attest(Endpoint(attacker, server_side=True, clock=wall_clock), other, workload_terms, None),
        )
    outcome, _ = await asyncio.gather(*ends, return_exceptions=True)
    if isinstance(outcome, EAAError):
        return outcome.reason
    assert isinstance(outcome, Judgement), outcome
    return outcome


async def attest(endpoint: Endpoint, sock: object, terms: Terms, judge: Judge | None) -> AnyJudgement | None:
    attestation = await endpoint.secure(sock, terms, judge)  # type: ignore[arg-type]
    try:
        await attestation.complete()
        return attestation.stream.judgement
    finally:
        attestation.stream.abort()


def attack(site: Site, fall: Fall, verifier: Verifier, *, victim_serves: bool) -> Judgement | Reason:
    return asyncio.run(meet(site, fall.old, verifier, victim_serves=victim_serves))


@pytest.mark.parametrize("victim_serves", [False, True], ids=["shelter", "server"])
def test_old_collateral_that_a_peer_staples_is_ignored(
    site: Site, fall: Fall, verifier: Verifier, *, victim_serves: bool
) -> None:
    """Whoever judges by it is deceived; we judge by the newer word."""
    source: CollateralSource = Naive(fall.old)
    deceived = attack(site, fall, verifier_of(site, source=source), victim_serves=False)
    assert isinstance(deceived, Judgement)
    assert deceived.accepted, "what the attack is worth where it succeeds"
    if victim_serves:
        verifier.prefetch_for(attester_of(site, "workload").quote(bytes(64)))
        eventually(lambda: verifier.counters.kept == 1, what="collateral that is fetched ahead")
    assert attack(site, fall, verifier, victim_serves=victim_serves) is fall.reason


def test_a_server_that_has_just_started_is_not_deceived(site: Site, fall: Fall, verifier: Verifier) -> None:
    """It has nothing to compare with yet, so it fetches, and whoever came first comes again."""
    assert attack(site, fall, verifier, victim_serves=True) is Reason.COLLATERAL_PENDING
    eventually(lambda: verifier.counters.kept == 1, what="the fetch that the first visit began")
    assert attack(site, fall, verifier, victim_serves=True) is fall.reason


def test_nobody_can_bring_what_there_is_nothing_to_compare_with(site: Site, fall: Fall) -> None:
    """An attacker who keeps a server from its PCCS gains nothing by it."""
    verifier = verifier_of(site, source=PCCSSource("http://127.0.0.1:1", retries=0))
    for stapled in (fall.new, fall.old):
        outcome = asyncio.run(meet(site, stapled, verifier, victim_serves=True))
        assert outcome is Reason.COLLATERAL_PENDING
        eventually(lambda: verifier.counters.failures > 0, what="a fetch that fails")
    assert attack(site, fall, verifier, victim_serves=False) is Reason.PCCS_UNREACHABLE
    verifier.close()


def accepting(site: Site, policy: PolicyFile) -> Verifier:
    """A verifier of an operator who accepts stapled collateral on first sight, and whose PCCS is down."""
    return Verifier(
        PCCSSource("http://127.0.0.1:1", retries=0),
        trust_anchors=TrustAnchors(frozenset({read_trust_anchor(site.root)})),
        reference_values=ReferenceValues.parse(site.values.read_text()),
        policy=policy,
        accept_stapled_collateral=True,
    )


def test_what_others_brought_counts_where_nothing_can_be_fetched(site: Site, fall: Fall) -> None:
    """An honest peer has brought the newer word: the older one comes too late."""
    verifier = accepting(site, PolicyFile())
    honest = replace(fall, old=fall.new)
    assert attack(site, honest, verifier, victim_serves=True) is Reason.COLLATERAL_PENDING
    eventually(lambda: verifier.counters.failures > 0, what="a fetch that fails")
    assert attack(site, honest, verifier, victim_serves=True) is fall.reason
    assert attack(site, fall, verifier, victim_serves=True) is Reason.COLLATERAL_PENDING
    verifier.close()


@pytest.mark.parametrize("policy", [PolicyFile(), AT_LEAST_22], ids=["no-number", "a-number"])
def test_who_accepts_it_on_first_sight_bounds_it_by_the_policy(site: Site, policy: PolicyFile) -> None:
    """What that option costs: without a lowest evaluation number, collateral serves for as long as its dates allow."""
    fall = outdated(platform_of(site.tee), datetime.now(UTC))
    verifier = accepting(site, policy)
    assert attack(site, fall, verifier, victim_serves=True) is Reason.COLLATERAL_PENDING
    eventually(lambda: verifier.counters.failures > 0, what="a fetch that fails")
    outcome = attack(site, fall, verifier, victim_serves=True)
    if policy is AT_LEAST_22:
        assert outcome is Reason.COLLATERAL_PENDING
    else:
        assert isinstance(outcome, Judgement)
        assert (outcome.accepted, outcome.stapled) == (True, True)
    verifier.close()
