"""Sessions that are being relayed, and whether their peers are still acceptable.

A verdict is given once, a session may go on for hours. So its evidence is judged again: after a reload, when collateral
has changed or ended, and when the judgement has grown old. If it is not acceptable any more, the session is cut, or
drained where the operator prefers that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from eaa.appraise.result import Role
from eaa.errors import EAAError, Reason, Unavailable
from eaa.inclavared.counters import RelayCounters
from eaa.inclavared.judged import Judged, judge_again, outlives
from eaa.inclavared.settings import OnBadVerdict, Settings, Target
from eaa.verifier import Verifier

TICK: Final = 1.0
"""Seconds between two looks at whether anything has changed."""
PENDING_PAUSE: Final = 5.0
"""Seconds after which what could not be judged is tried again."""
JUDGED_IN_A_ROW: Final = 8
"""Sessions before other tasks have their turn; each takes about a millisecond."""

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class Session:
    """One session that is being relayed."""

    peer: str
    """The client, for logs."""
    workload: str
    """The name by which it was configured."""
    judged: tuple[Judged, ...]
    """The workload's judgement, and the client's where it was judged."""
    task: asyncio.Task[object]
    """Is cancelled to end it."""
    said: int = 0
    """Bytes of the client that the workload was sent before this began."""
    again: float = 0.0
    """Not before this moment of the monotonic clock is it tried again, where nobody could tell."""
    verdict: EAAError | None = None
    """Why it is ended."""

    @property
    def since(self) -> float:
        """When the oldest of its judgements was made."""
        return min((judged.since for judged in self.judged), default=float("inf"))

    def cut(self) -> None:
        """End it at once."""
        self.task.cancel()


class LiveSessions:
    """The sessions of one relay."""

    def __init__(self, settings: Callable[[], Settings], counters: RelayCounters) -> None:
        self._settings = settings
        self._counters = counters
        self._sessions: set[Session] = set()
        self._asked = asyncio.Event()
        self._known: object = None
        self._oldest = float("inf")

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._sessions)

    @contextlib.contextmanager
    def entered(self, session: Session) -> Iterator[None]:
        """Keep an eye on a session for the duration of a block, which is left by cancellation where it is cut."""
        self._sessions.add(session)
        self._counters.sessions += 1
        self._counters.live = len(self._sessions)
        self._oldest = min(self._oldest, session.since)
        if any(self._reason(session, judged) for judged in session.judged):
            # Something has changed between the verdict and now.
            self._asked.set()
        try:
            yield
        finally:
            self._sessions.discard(session)
            self._counters.live = len(self._sessions)

    def ask(self) -> None:
        """Judge again at once whatever is due."""
        self._asked.set()

    async def watch(self, at_each_tick: Callable[[], object]) -> None:
        """Judge sessions again whenever that is due, and call `at_each_tick` each time it looks. Never returns."""
        while True:
            at_each_tick()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK):
                    await self._asked.wait()
            if self._asked.is_set() or self._is_due():
                self._asked.clear()
                await self.reappraise()

    def _is_due(self) -> bool:
        """Whether any session may be due, without looking at all of them once a second."""
        state = self._state()
        changed, self._known = state != self._known, state
        return changed or time.monotonic() - self._oldest >= self._settings().judgement_lifetime

    def _state(self) -> object:
        """Return what differs when sessions have to be judged again for another reason than their age."""
        settings = self._settings()
        verifiers = [*(target.verifier for target in settings.targets.values()), settings.clients_verifier]
        return [(id(each), each.collateral_generation) for each in verifiers if each is not None]

    async def reappraise(self) -> None:
        """Judge again whatever is due, and cut or drain what is not acceptable any more."""
        oldest = float("inf")
        for number, session in enumerate(list(self._sessions)):
            if number % JUDGED_IN_A_ROW == 0:
                await asyncio.sleep(0)
            if session in self._sessions and session.verdict is None:
                self._reappraise(session)
                oldest = min(oldest, max(session.since, session.again - self._settings().judgement_lifetime))
        self._oldest = oldest

    def _reappraise(self, session: Session) -> None:
        try:
            session.judged = tuple(self._judge(session, judged) for judged in session.judged)
        except EAAError as error:
            self._end(session, error)
        except Exception:
            # Unknown means no; and the others have to be judged as well.
            logger.exception("%s: a bug of ours kept a session from being judged again", session.peer)
            self._end(session, EAAError(Reason.INTERNAL, "nobody can tell whether the peers are still acceptable"))

    def _judge(self, session: Session, judged: Judged) -> Judged:
        """Return the judgement as it is now. Raises EAAError where there is none any more."""
        verifier = self._verifier(session, judged)
        if verifier is None or not self._reason(session, judged) or time.monotonic() < session.again:
            return judged
        try:
            renewed = judge_again(judged, verifier)
        except Unavailable as error:
            outlives(judged, error, now=verifier.now())
            session.again = time.monotonic() + PENDING_PAUSE
            self._counters.reappraisals["pending"] += 1
            return judged
        self._counters.reappraisals["accepted"] += 1
        if judged.role is Role.WORKLOAD:
            self._counters.last_good_verdict = verifier.now()
        return renewed

    def _reason(self, session: Session, judged: Judged) -> str | None:
        verifier = self._verifier(session, judged)
        if verifier is None:
            return None
        lifetime = self._settings().judgement_lifetime
        return judged.is_due(verifier, lifetime=lifetime, monotonic=time.monotonic(), now=verifier.now())

    def _verifier(self, session: Session, judged: Judged) -> Verifier | None:
        """Return who judges this peer by the settings of now; None where nobody does any more."""
        settings = self._settings()
        if judged.role is not Role.WORKLOAD:
            return settings.clients_verifier
        target = settings.targets.get(session.workload)
        # A workload that is configured no more has no policy of its own any more; what it was judged by goes on.
        return judged.by if target is None else target.verifier

    def _end(self, session: Session, error: EAAError) -> None:
        settings = self._settings()
        how = _on_bad_verdict(settings.targets.get(session.workload))
        session.verdict = error
        self._counters.reappraisals[error.reason] += 1
        logger.warning(
            "%s: the session with the workload %s is %s: %s [%s]",
            session.peer,
            session.workload,
            "cut" if how is OnBadVerdict.CUT else f"cut if it has not ended in {settings.grace:g} seconds",
            error.message,
            error.reason,
            extra={"event": "session.bad_verdict", "workload": session.workload},
        )
        if how is OnBadVerdict.CUT:
            self._cut(session)
        else:
            asyncio.get_running_loop().call_later(settings.grace, self._cut, session)

    def _cut(self, session: Session) -> None:
        if session in self._sessions:
            assert session.verdict is not None
            self._counters.cut[session.verdict.reason] += 1
            session.cut()


def _on_bad_verdict(target: Target | None) -> OnBadVerdict:
    return OnBadVerdict.CUT if target is None else target.on_bad_verdict
