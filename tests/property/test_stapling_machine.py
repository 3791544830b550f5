"""Whatever a source serves and peers staple, in whatever order: nobody is judged by less than was known before.

Verifiers live the same life: one is offered staples and takes them on first sight too, one is offered them and does
not, one is never offered any. After every judgement:

- What rests on a staple is behind nothing that the verifier has verified before, from anywhere.
- Whoever would have been judged without his staple is judged with it, by numbers that are at least those.
- What a peer has stapled changes nothing for those who staple nothing.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import ClassVar, Final

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from eaa.appraise.result import Role
from eaa.errors import EAAError, Reason
from eaa.evidence.quote import TEEType
from eaa.verifier import Judgement
from support.cache_world import DAY, NOW, Machine
from support.stapling_world import VENDOR, Clock, Edition, Source, fetch_due, quote_of, verifier_of

LIVES: Final = 40
STEPS: Final = 30
TEES: Final = (TEEType.SGX, TEEType.TDX)
QUOTES: Final = {tee: quote_of(Machine(VENDOR, 1, tee=tee)) for tee in TEES}
EDITIONS: Final = [
    Edition(evaluation=evaluation, crl=crl, issued=NOW - days * DAY)
    for evaluation in (17, 18)
    for crl in (4, 5)
    for days in (2, 1)
]
FILES: Final = {(edition, tee): edition.collateral(tee).to_json() for edition in EDITIONS for tee in TEES}
BY_FILE: Final = {file: edition for (edition, _), file in FILES.items()}

editions = st.sampled_from(EDITIONS)
tees = st.sampled_from(TEES)

Answer = Judgement | Reason


class Stapling(RuleBasedStateMachine):
    """A source that goes forth and back, and peers who staple what they like."""

    seen: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.source = Source(None)
        self.plain = verifier_of(self.source, self.clock)
        self.stapled = verifier_of(self.source, self.clock, accept_stapled_collateral=True)
        self.strict = verifier_of(self.source, self.clock)
        self.fetched: set[int] = set()
        self.highest: dict[tuple[str, TEEType | None], tuple[object, ...]] = {}

    @rule(edition=st.one_of(st.none(), editions))
    def serve(self, edition: Edition | None) -> None:
        self.source.edition = edition

    @rule(minutes=st.sampled_from([1, 20, 50]))
    def wait(self, minutes: int) -> None:
        self.clock.now += timedelta(minutes=minutes)

    @rule()
    def fetch(self) -> None:
        """What the threads do when their time has come."""
        for verifier in (self.stapled, self.strict, self.plain):
            fetch_due(verifier)
        self.note_what_is_kept()

    @rule(tee=tees, edition=st.one_of(st.none(), editions), patient=st.booleans())
    def judge(self, tee: TEEType, edition: Edition | None, *, patient: bool) -> None:
        brought = None if edition is None else FILES[edition, tee]
        without = ask(self.plain, tee, None, patient=patient)
        answer = ask(self.stapled, tee, brought, patient=patient)
        strict = ask(self.strict, tee, brought, patient=patient)
        self.note_what_is_kept()
        if isinstance(strict, Judgement) and strict.stapled:
            # Who takes none on a first sight takes one only where there is something of our own to compare it with.
            assert tee in self.fetched
            Stapling.seen["strict"] += 1
        if not isinstance(answer, Judgement) or not answer.stapled:
            # As if nothing had come.
            assert facts_of(answer) == facts_of(without)
            Stapling.seen["pending" if answer is Reason.COLLATERAL_PENDING else "own"] += 1
            return
        assert edition is not None
        assert facts_of(answer) == (edition.evaluation, edition.crl)
        self.assert_behind_nothing(edition, tee)
        self.note(edition, tee)
        if isinstance(without, Judgement):
            Stapling.seen["newer"] += 1
            assert all(own >= theirs for own, theirs in zip(facts_of(answer), facts_of(without), strict=True))
        else:
            Stapling.seen["instead of none"] += 1

    def note_what_is_kept(self) -> None:
        """Everything that was fetched counts, whichever model it was fetched for."""
        self.fetched |= {model.tee for model, entry in self.strict._supply._models._entries.items() if entry.kept}
        for tee in TEES:
            for model, entry in self.stapled._supply._models._entries.items():
                if entry.kept and model.tee == tee:
                    self.note(BY_FILE[entry.kept.value.to_json()], tee)

    def note(self, edition: Edition, tee: TEEType) -> None:
        for document, mark in documents(edition, tee).items():
            known = self.highest.get(document, mark)
            self.highest[document] = tuple(max(pair) for pair in zip(known, mark, strict=True))  # type: ignore[type-var]

    def assert_behind_nothing(self, edition: Edition, tee: TEEType) -> None:
        for document, mark in documents(edition, tee).items():
            for own, known in zip(mark, self.highest.get(document, mark), strict=True):
                assert own >= known, document  # type: ignore[operator]


def documents(edition: Edition, tee: TEEType) -> dict[tuple[str, TEEType | None], tuple[object, ...]]:
    """What an edition consists of: lists are for both kinds of TEE, the rest is for one."""
    return {
        ("lists", None): (edition.crl, edition.issued),
        ("documents", tee): (edition.evaluation, edition.issued),
    }


def ask(verifier: object, tee: TEEType, stapled: bytes | None, *, patient: bool) -> Answer:
    judging = verifier.judge if patient else verifier.judge_now  # type: ignore[attr-defined]
    try:
        answer = judging(QUOTES[tee], role=Role.WORKLOAD, session=None, stapled=stapled)
    except EAAError as error:
        return error.reason
    assert isinstance(answer, Judgement)
    return answer


def facts_of(answer: Answer) -> tuple[int, int]:
    """The numbers on which a judgement rests; none are the lowest."""
    if not isinstance(answer, Judgement):
        return (-1, -1)
    assert answer.verified is not None
    return answer.verified.tcb_evaluation_data_number, answer.verified.pck_crl_number


@pytest.mark.timeout(300)
def test_staples_never_lead_back_and_never_do_harm() -> None:
    seen = Stapling.seen = Counter()
    run_state_machine_as_test(
        Stapling,
        settings=settings(
            max_examples=LIVES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # The same lives each time: that some staple was of use is asked of them below.
            derandomize=True,
            database=None,
        ),
    )
    # A world in which no staple was ever of use would say nothing.
    assert min(seen[kind] for kind in ("own", "newer", "instead of none", "pending", "strict")) > 0, seen
