"""What several processes count together that serve together, so that a limit is one for all of them.

They map the same memory, and nothing in it is locked. A process writes how many peers it has into a part of its own,
and reads all parts; whoever comes is counted first and looked at then, so that of two processes that let in the last
one at once neither takes the other's for its own. What a process had that has died is cleared by who buries it.

Addresses are strangers', and any number of them may come. So they are counted in cells, each address in two that only
these processes can work out, and the lower count is taken for its own: it is never too low, and too high only where
others share both of its cells.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
from collections import Counter
from collections.abc import MutableSequence, Sequence
from typing import Any, Final, NamedTuple, Protocol

CELLS: Final = 8192
"""Of a row. Two addresses share both of their cells once in 67 million times."""
_ROWS: Final = 2
_SECRET_SIZE: Final = 32
_COUNT: Final = 4
_MOMENT: Final = 8
_COUNTS: Final = 1 + _ROWS * CELLS
"""Of one tally: how many in all, and in each cell."""
_RATES: Final = 2
_TALLIES: Final = 2


Counts = MutableSequence[int]
"""Memory that is read as such; so far mypy knows memory as bytes alone."""
Moments = MutableSequence[float]


class Origin(NamedTuple):
    """Whom limits for one address are for: an IPv4 address, an IPv6 network of 64 bits, or a user of this machine."""

    kind: str
    value: str


class Tally(Protocol):
    """Who is there."""

    def add(self, origin: Origin) -> None:
        """Count one more."""

    def remove(self, origin: Origin) -> None:
        """Count one less."""

    def of(self, origin: Origin) -> int:
        """Return how many an address has."""

    @property
    def total(self) -> int:
        """How many there are."""


class Rate(Protocol):
    """How often somebody may come."""

    def take(self, origin: Origin | None, now: float) -> bool:
        """Take a token of an address, or of all, if there is one."""


class OwnTally:
    """Who is there, in this process alone."""

    def __init__(self) -> None:
        self._of: Counter[Origin] = Counter()
        self._total = 0

    def __len__(self) -> int:
        """Return how many addresses have any."""
        return len(self._of)

    def add(self, origin: Origin) -> None:
        """Count one more."""
        self._total += 1
        self._of[origin] += 1

    def remove(self, origin: Origin) -> None:
        """Count one less."""
        self._total -= 1
        self._of[origin] -= 1
        if not self._of[origin]:
            del self._of[origin]

    def of(self, origin: Origin) -> int:
        """Return how many an address has."""
        return self._of[origin]

    @property
    def total(self) -> int:
        """How many there are."""
        return self._total


class CommonTally:
    """Who is there, in all processes; this one adds to its own part."""

    def __init__(self, board: Board, mine: Counts, parts: Sequence[Counts]) -> None:
        self._board = board
        self._mine = mine
        self._parts = parts

    def add(self, origin: Origin) -> None:
        """Count one more."""
        for cell in (0, *self._board.cells_of(origin)):
            self._mine[cell] += 1

    def remove(self, origin: Origin) -> None:
        """Count one less."""
        for cell in (0, *self._board.cells_of(origin)):
            self._mine[cell] -= 1

    def of(self, origin: Origin) -> int:
        """Return how many an address has, or somewhat more."""
        return min(sum(part[cell] for part in self._parts) for cell in self._board.cells_of(origin))

    @property
    def total(self) -> int:
        """How many there are."""
        return sum(part[0] for part in self._parts)


class CommonRate:
    """A token bucket for each address, as the moment at which it would be full again, that all processes move.

    Two that move one at the same instant may move it once: a token, once in very many.
    """

    def __init__(self, board: Board, moments: Moments, per_second: float, burst: int) -> None:
        self._board = board
        self._moments = moments
        self._interval = 1 / per_second
        self._depth = (burst - 1) * self._interval

    def take(self, origin: Origin | None, now: float) -> bool:
        """Take a token, if there is one. The clock has to be the same for all: CLOCK_MONOTONIC is."""
        cells = (0,) if origin is None else self._board.cells_of(origin)
        if max(min(self._moments[cell] for cell in cells), now) - now > self._depth:
            return False
        for cell in cells:
            self._moments[cell] = max(self._moments[cell], now) + self._interval
        return True


class Board:
    """The memory, as one process sees it."""

    def __init__(self, descriptor: int, *, number: int, count: int) -> None:
        """Map it.

        Args:
            descriptor: of `new_board`; it may be closed then.
            number: which process this is, from 1; 0 for who counts nobody and buries the others.
            count: how many there are besides.
        """
        self.count = count
        self._number = number
        self._memory = memoryview(mmap.mmap(descriptor, _size(count)))
        self._secret = bytes(self._memory[:_SECRET_SIZE])

    def connections(self) -> CommonTally:
        """Return the tally of connections."""
        return self._tally(0)

    def quotes(self) -> CommonTally:
        """Return the tally of peers that wait for a quote."""
        return self._tally(1)

    def rate_of_all(self, per_second: float, burst: int) -> CommonRate:
        """Return the rate at which anybody comes."""
        return CommonRate(self, self._moments(0), per_second, burst)

    def rate_of_each(self, per_second: float, burst: int) -> CommonRate:
        """Return the rate at which an address comes."""
        return CommonRate(self, self._moments(1), per_second, burst)

    def clear(self, number: int) -> None:
        """Count nobody any more whom a process had that is no more."""
        for tally in range(_TALLIES):
            begin = _begin(number, tally)
            part = slice(begin, begin + _COUNTS * _COUNT, 1)
            self._memory[part] = bytes(_COUNTS * _COUNT)

    def cells_of(self, origin: Origin) -> tuple[int, int]:
        """Return the cells of an address, one of each row."""
        digest = hashlib.blake2b("/".join(origin).encode(), key=self._secret, digest_size=8).digest()
        first, second = int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:], "big")
        return 1 + first % CELLS, 1 + CELLS + second % CELLS

    def _tally(self, tally: int) -> CommonTally:
        parts = [self._part(number, tally) for number in range(1, self.count + 1)]
        return CommonTally(self, parts[self._number - 1], parts)

    def _part(self, number: int, tally: int) -> Counts:
        begin = _begin(number, tally)
        part: Any = self._memory[begin : begin + _COUNTS * _COUNT].cast("I")
        return part  # type: ignore[no-any-return]

    def _moments(self, rate: int) -> Moments:
        begin = _SECRET_SIZE + rate * _COUNTS * _MOMENT
        part: Any = self._memory[begin : begin + _COUNTS * _MOMENT].cast("d")
        return part  # type: ignore[no-any-return]


def new_board(count: int) -> int:
    """Return the descriptor of memory for so many processes, for them to map. Nobody else can open it."""
    descriptor = os.memfd_create("limits")
    os.ftruncate(descriptor, _size(count))
    os.pwrite(descriptor, secrets.token_bytes(_SECRET_SIZE), 0)
    return descriptor


def _begin(number: int, tally: int) -> int:
    rates = _SECRET_SIZE + _RATES * _COUNTS * _MOMENT
    return rates + ((number - 1) * _TALLIES + tally) * _COUNTS * _COUNT


def _size(count: int) -> int:
    return _begin(count + 1, 0)
