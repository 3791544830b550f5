"""Live sessions are judged again, from the evidence with which they began, and end when it is acceptable no more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from eaa.appraise.appraisal import SessionBinding
from eaa.appraise.policy import Policy, PolicyFile
from eaa.appraise.reference_values import ReferenceValue, ReferenceValues
from eaa.appraise.result import Attests, BindingLevel, Role
from eaa.collateral.bundle import Collateral
from eaa.errors import EAAError, Reason, Unavailable
from eaa.inclavared.counters import RelayCounters
from eaa.inclavared.judged import Judged, Witness
from eaa.inclavared.live import LiveSessions, Session
from eaa.inclavared.settings import OnBadVerdict, Settings, Target
from eaa.measure.sgx import measure_sgxs
from eaa.program.address import TCPAddress
from eaa.protocol.exchange import EvidenceReceived
from eaa.simulator.faults import Fault
from eaa.simulator.platform import Platform
from eaa.verifier import Judgement, TrustAnchors, Verifier
from support.aio_world import run, until
from support.simulated import NOW, REPORT_DATA, sample_enclave


@pytest.fixture(scope="module")
def platform() -> Platform:
    return Platform.create(now=NOW)


@pytest.fixture(scope="module")
def evidence(platform: Platform) -> bytes:
    return platform.launch(*sample_enclave()).quote(REPORT_DATA)


@dataclass
class Source:
    """Where collateral comes from, unless it is away."""

    platform: Platform
    faults: frozenset[Fault] = frozenset()
    is_away: bool = False
    is_local = True

    def fetch(self, *, tee: int, fmspc: bytes, ca: str) -> Collateral:
        del tee, fmspc, ca
        if self.is_away:
            raise Unavailable(Reason.PCCS_UNREACHABLE, "the PCCS does not answer")
        return self.platform.collateral(now=NOW, faults=self.faults)


@dataclass
class World:
    """A relay's settings, which a test changes, and one live session."""

    platform: Platform
    evidence: bytes
    moment: datetime = NOW
    settings: Settings = field(default_factory=Settings)
    counters: RelayCounters = field(default_factory=RelayCounters)

    def __post_init__(self) -> None:
        self.live = LiveSessions(lambda: self.settings, self.counters)

    def verifier(
        self, source: Source | None = None, *, role: Role = Role.WORKLOAD, accepts: bool = True, **policy: object
    ) -> Verifier:
        """A verifier that accepts the workload, or has no value that does."""
        value = ReferenceValue(
            name="sample",
            role=role,
            attests=Attests.PROCESS,
            trust_anchor=self.anchor,
            mr_enclave=measure_sgxs(sample_enclave()[0]).mr_enclave,
        )
        return Verifier(
            source or Source(self.platform),
            trust_anchors=TrustAnchors(frozenset({self.anchor})),
            reference_values=ReferenceValues((value,) if accepts else ()),
            policy=PolicyFile(default=Policy(**policy)),  # type: ignore[arg-type]
            clock=lambda: self.moment,
        )

    @property
    def anchor(self) -> bytes:
        import hashlib  # noqa: PLC0415  once

        return hashlib.sha256(self.platform.root_der).digest()

    def judge_by(self, verifier: Verifier | None, *, how: OnBadVerdict = OnBadVerdict.CUT, **changes: object) -> None:
        """Take settings over in which the workload is judged so."""
        target = Target(name="web", address=TCPAddress("127.0.0.1", 1), verifier=verifier, on_bad_verdict=how)
        self.settings = Settings(targets={"web": target}, **changes)  # type: ignore[arg-type]

    async def judged(self, verifier: Verifier, role: Role = Role.WORKLOAD) -> Judged:
        """What is kept of a verdict."""
        session = SessionBinding(evidence=self.evidence, report_data=REPORT_DATA, level=BindingLevel.FRESH)

        async def judge(_shown: EvidenceReceived) -> Judgement:
            return verifier.judge(self.evidence, role=role, session=session)

        witness = Witness(judge, verifier=verifier, role=role)
        shown = EvidenceReceived(evidence=self.evidence, report_data=REPORT_DATA, level=BindingLevel.FRESH)
        await witness(shown)
        assert witness.judged is not None
        return witness.judged

    @asynccontextmanager
    async def session(self, *judged: Judged) -> AsyncIterator[Session]:
        """A session that is being relayed."""
        task = asyncio.create_task(asyncio.sleep(3600))
        session = Session(peer="a client", workload="web", judged=judged, task=task)
        try:
            with self.live.entered(session):
                yield session
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def verdict(self, session: Session) -> EAAError | None:
        """Judge again whatever is due; return why the session ends, None where it goes on."""
        await self.live.reappraise()
        await asyncio.sleep(0)
        assert session.task.done() == (session.verdict is not None)
        return session.verdict


@pytest.fixture
def world(platform: Platform, evidence: bytes) -> World:
    return World(platform, evidence)


def test_a_session_goes_on_where_nothing_has_changed(world: World) -> None:
    async def main() -> None:
        verifier = world.verifier()
        world.judge_by(verifier)
        async with world.session(await world.judged(verifier)) as session:
            assert await world.verdict(session) is None
        assert world.counters.reappraisals == {}

    run(main())


def test_an_old_judgement_is_made_again(world: World) -> None:
    async def main() -> None:
        verifier = world.verifier()
        world.judge_by(verifier, judgement_lifetime=0.01)
        async with world.session(await world.judged(verifier)) as session:
            before = session.since
            await until(lambda: time.monotonic() - before > 0.01)
            assert await world.verdict(session) is None
            assert session.since > before
        assert world.counters.reappraisals == {"accepted": 1}
        assert world.counters.last_good_verdict == NOW

    run(main())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"accepts": False}, Reason.NO_REFERENCE_VALUE),
        ({"mr_enclaves": (bytes(32),)}, Reason.MEASUREMENT_MISMATCH),
        ({"minimum_isv_svn": 60_000}, Reason.SVN_TOO_LOW),
    ],
)
def test_a_reload_that_accepts_the_workload_no_more_cuts_its_sessions(
    world: World, changes: dict[str, object], reason: Reason
) -> None:
    async def main() -> None:
        former = world.verifier()
        world.judge_by(former)
        async with world.session(await world.judged(former)) as session:
            world.judge_by(world.verifier(**changes))  # type: ignore[arg-type]
            verdict = await world.verdict(session)
            assert verdict is not None
            assert verdict.reason is reason
        assert world.counters.cut == {reason: 1}

    run(main())


def test_that_is_so_too_where_the_new_judge_has_no_collateral_yet(world: World) -> None:
    """The facts are those of before, and it is they that have to be accepted."""

    async def main() -> None:
        former = world.verifier()
        world.judge_by(former)
        away = Source(world.platform, is_away=True)
        async with world.session(await world.judged(former)) as session:
            world.judge_by(world.verifier(away))
            assert await world.verdict(session) is None
            assert world.counters.reappraisals == {"pending": 1}
            # It is not tried all the time.
            assert await world.verdict(session) is None
            assert world.counters.reappraisals == {"pending": 1}
            session.again = 0.0
            world.judge_by(world.verifier(away, accepts=False))
            verdict = await world.verdict(session)
            assert verdict is not None
            assert verdict.reason is Reason.NO_REFERENCE_VALUE

    run(main())


def test_what_nobody_can_judge_stands_until_its_documents_end(world: World) -> None:
    async def main() -> None:
        former = world.verifier()
        world.judge_by(former)
        judged = await world.judged(former)
        async with world.session(judged) as session:
            world.judge_by(world.verifier(Source(world.platform, is_away=True)))
            assert await world.verdict(session) is None
            session.again = 0.0
            world.moment = judged.expires - timedelta(seconds=1)
            assert await world.verdict(session) is None
            session.again = 0.0
            world.moment = judged.expires
            verdict = await world.verdict(session)
            assert verdict is not None
            # By the old collateral its facts are no facts any more, by any other nobody knows.
            assert verdict.reason in {Reason.COLLATERAL_EXPIRED, Reason.TCB_INFO_EXPIRED, Reason.CRL_EXPIRED}

    run(main())


def test_a_platform_that_is_revoked_meanwhile_is_cut(world: World) -> None:
    async def main() -> None:
        former = world.verifier()
        world.judge_by(former)
        async with world.session(await world.judged(former)) as session:
            revoked = Source(world.platform, faults=frozenset({Fault.LEAF_REVOKED}))
            world.judge_by(world.verifier(revoked))
            verdict = await world.verdict(session)
            assert verdict is not None
            assert verdict.reason is Reason.CERTIFICATE_REVOKED

    run(main())


def test_with_drain_a_session_may_finish_first(world: World) -> None:
    async def main() -> None:
        former = world.verifier()
        world.judge_by(former)
        async with world.session(await world.judged(former)) as session:
            world.judge_by(world.verifier(accepts=False), how=OnBadVerdict.DRAIN, grace=0.05)
            await world.live.reappraise()
            assert session.verdict is not None
            assert not session.task.done()
            await until(session.task.done)
        assert sum(world.counters.cut.values()) == 1
        async with world.session(await world.judged(former)) as session:
            await world.live.reappraise()
        # It has finished: there is nothing left to be cut.
        await asyncio.sleep(0.1)
        assert sum(world.counters.cut.values()) == 1

    run(main())


def test_a_client_that_is_judged_is_judged_again_too(world: World) -> None:
    async def main() -> None:
        verifier, of_clients = world.verifier(), world.verifier(role=Role.CLIENT)
        world.judge_by(verifier, clients_verifier=of_clients)
        judged = await world.judged(verifier), await world.judged(of_clients, Role.CLIENT)
        async with world.session(*judged) as session:
            assert await world.verdict(session) is None
            world.judge_by(verifier, clients_verifier=world.verifier(accepts=False))
            verdict = await world.verdict(session)
            assert verdict is not None
            assert "client" in verdict.message

    run(main())


def test_a_workload_that_is_configured_no_more_is_judged_as_before(world: World) -> None:
    async def main() -> None:
        verifier = world.verifier()
        world.judge_by(verifier)
        async with world.session(await world.judged(verifier)) as session:
            world.settings = Settings()
            assert await world.verdict(session) is None

    run(main())


def test_a_bug_of_ours_in_a_verdict_is_no_acceptance(world: World, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Verifier):
        def judge_now(self, *_args: object, **_more: object) -> Judgement:
            raise ZeroDivisionError

    async def main() -> None:
        former = world.verifier()
        world.judge_by(former)
        async with world.session(await world.judged(former)) as session:
            world.judge_by(Broken(Source(world.platform), clock=lambda: NOW))
            verdict = await world.verdict(session)
            assert verdict is not None
            assert verdict.reason is Reason.INTERNAL

    run(main())
    assert "ZeroDivisionError" in caplog.text


def test_the_watch_finds_by_itself_what_has_changed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eaa.inclavared.live.TICK", 0.01)
    ticks: list[None] = []

    async def main() -> None:
        former = world.verifier()
        world.judge_by(former)
        watch = asyncio.create_task(world.live.watch(lambda: ticks.append(None)))
        async with world.session(await world.judged(former)) as session:
            await until(lambda: len(ticks) > 2)
            world.judge_by(world.verifier(accepts=False))
            await until(session.task.done)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)

    run(main())


def test_a_session_that_begins_while_settings_change_is_judged_by_the_new_ones(world: World) -> None:
    """The reload falls between the verdict and the first byte."""

    async def main() -> None:
        former = world.verifier()
        world.judge_by(former)
        judged = await world.judged(former)
        watch = asyncio.create_task(world.live.watch(lambda: None))
        world.judge_by(world.verifier(accepts=False))
        async with world.session(judged) as session:
            await until(session.task.done)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)

    run(main())
