"""Visiting a node: judge its relay, have it open a channel, and judge the workload at the other end of that."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

import click

from eaa.aio.attestation import Judge
from eaa.aio.client import patiently
from eaa.aio.net import connect
from eaa.aio.sessions import Endpoint, enter_workload, inner_endpoint, judge_by
from eaa.aio.stream import AttestedStream
from eaa.appraise.result import Role
from eaa.errors import EAAError, Rejection
from eaa.identity import Identity
from eaa.program.address import ADDRESS, Address
from eaa.program.judged import verdict_of_judgement
from eaa.program.options import Binding
from eaa.program.verdict import ACCEPTED, Verdict, verdict_of_error
from eaa.protocol.exchange import EvidenceReceived, Levels, Terms
from eaa.verifier import Judgement, Verifier, wall_clock

DEFAULT_ADDRESS: Final = "tcp://127.0.0.1:1236"
DEFAULT_WORKLOAD: Final = "default"


def node_options(function: Any) -> Any:
    """Add `--addr` and `--workload`: which node, and which workload there."""
    function = click.option(
        "--workload", default=DEFAULT_WORKLOAD, show_default=True, metavar="NAME", help="Which workload there."
    )(function)
    return click.option(
        "--addr",
        type=ADDRESS,
        default=DEFAULT_ADDRESS,
        show_default=True,
        metavar="ADDRESS",
        help="The node's Inclavared: tcp://HOST:PORT or unix://PATH.",
    )(function)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """Whom to visit, and how strictly."""

    address: Address
    workload: str
    binding: Binding

    @property
    def levels(self) -> Levels:
        """What is asked of both, and how long their epochs may last."""
        return {"level": self.binding.level, "maximum_epoch": self.binding.maximum_epoch}


@dataclass(slots=True)
class Seen:
    """What was judged on the way, in order, refused evidence too."""

    judgements: list[Judgement] = field(default_factory=list)

    def judge(self, verifier: Verifier, role: Role) -> Judge:
        """Return a judge whose judgements are kept here."""
        strict = judge_by(verifier, role)

        async def judge(shown: EvidenceReceived) -> Judgement:
            judgement = await strict(shown)
            assert isinstance(judgement, Judgement)
            self.judgements.append(judgement)
            return judgement

        return judge


class Visitor:
    """Visits one node, any number of times. Who visits, whom they believe, and their TLS contexts are made once."""

    def __init__(self, visit: Visit, verifier: Verifier, identity: Identity | None) -> None:
        self._visit = visit
        self._verifier = verifier
        self._outer = Endpoint(identity, server_side=False, clock=wall_clock)
        self._inner = inner_endpoint(wall_clock)

    async def enter(self, seen: Seen) -> AttestedStream:
        """Return a stream that ends in the workload, after both verdicts. Raises EAAError; `seen` has what was judged.

        A node that says that it is still fetching collateral for this side is tried again for a few seconds.
        """
        relay = await patiently(lambda: self._open(seen))
        try:
            return await enter_workload(
                relay,
                judge=seen.judge(self._verifier, Role.WORKLOAD),
                clock=wall_clock,
                endpoint=self._inner,
                **self._visit.levels,
            )
        except BaseException:
            relay.abort()
            raise

    async def _open(self, seen: Seen) -> AttestedStream:
        # What was judged in an attempt that came to nothing is judged again in the next.
        seen.judgements.clear()
        attestation = await self._outer.secure(
            await connect(self._visit.address),
            Terms.shelter_to_relay(judges=True, **self._visit.levels),
            seen.judge(self._verifier, Role.RELAY),
        )
        try:
            await attestation.open(self._visit.workload)
        except BaseException:
            attestation.stream.abort()
            raise
        return attestation.stream


def combine(seen: Seen, failure: EAAError | None) -> Verdict:
    """Return one verdict: accepted only where relay and workload both were."""
    entries = [verdict_of_judgement(judgement) for judgement in seen.judgements]
    evidence = tuple(entry.to_json() for entry in entries)
    if entries and (failure is None or (isinstance(failure, Rejection) and entries[-1].verdict != ACCEPTED)):
        return replace(entries[-1], evidence=evidence)
    assert failure is not None
    return replace(verdict_of_error(failure), evidence=evidence)
