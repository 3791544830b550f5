"""Reading everything again while a service runs: all of it, or nothing at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from eaa.errors import EAAError, Misuse, Reason
from eaa.program.exposition import Metric
from eaa.verifier import wall_clock

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Reloads:
    """How often it was done."""

    done: int = 0
    refused: int = 0
    last: datetime = field(default_factory=wall_clock)
    """When settings were last taken over, the start included."""

    def metrics(self) -> list[Metric]:
        """Return the numbers."""
        return [
            Metric(
                name="eaa_reloads_total",
                kind="counter",
                meaning="How often SIGHUP was answered, by result.",
                read=lambda: {(("result", "done"),): self.done, (("result", "refused"),): self.refused},
            ),
            Metric(
                name="eaa_last_reload_timestamp_seconds",
                kind="gauge",
                meaning="When settings were last taken over, the start included.",
                read=lambda: _timestamp(self.last),
            ),
        ]


def _timestamp(moment: datetime) -> float:
    return moment.timestamp()


class Reload(Generic[T]):
    """Reads everything again when it is called. What is bad in any part changes nothing at all."""

    def __init__(self, reloads: Reloads, *, read: Callable[[], T], adopt: Callable[[T], str]) -> None:
        """Make one.

        Args:
            reloads: is kept up to date.
            read: reads and opens all files; on a thread of its own, and it may change nothing. Raises EAAError.
            adopt: takes it over, in between two steps of the event loop, and returns what is worth saying of it.
        """
        self._reloads = reloads
        self._read = read
        self._adopt = adopt

    async def __call__(self) -> None:
        """Take other settings over, or say why not. Raises nothing that operators can cause."""
        try:
            # Files may lie on a network; live connections must not wait for it.
            read = await asyncio.to_thread(self._read)
        except BaseException as error:
            self._reloads.refused += 1
            if not isinstance(error, EAAError):
                raise
            logger.error(  # noqa: TRY400  one line, and no trace of where a file is wrong
                "nothing is reloaded, all is as it was: %s [%s]",
                "; ".join(filter(None, (error.message, error.hint))),
                error.reason,
                extra={"event": "service.reload_failed"},
            )
            return
        said = self._adopt(read)
        self._reloads.done += 1
        self._reloads.last = wall_clock()
        logger.info("reloaded: %s", said, extra={"event": "service.reloaded"})


def refuse_changes(before: Any, now: Any, *, names: Mapping[str, str]) -> None:
    """Raise Misuse where a field differs of two records of what only a restart can change.

    Args:
        before: a dataclass.
        now: another of the same kind.
        names: what operators know a field by, where that is not its own name.
    """
    for name in before.__dataclass_fields__:
        if getattr(before, name) != getattr(now, name):
            raise Misuse(
                Reason.CONFIG_INVALID,
                f"{names.get(name, name.replace('_', '-'))} cannot change while the service runs",
                hint="restart it, or take the change back",
            )
