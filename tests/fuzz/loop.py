"""A small fuzzer for where atheris is not: seeds, changed a little and at random, the same for the same seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from fuzz.targets import Target, call

MAX_INPUT: Final = 64 * 1024
"""Bytes of an input; the biggest parser takes more, and does with it what it does with these."""
MAX_SECONDS: Final = 10.0
"""Processor time for one input, traced or not: thousands of times what the slowest parser takes for a good one."""
_INTERESTING: Final = (
    *(b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f"),
    *(b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", b"\xbf\xff", b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff"),
    *(
        b"[" * 100,
        b"{" * 100,
        b'"\\ud800"',
        b"-----BEGIN CERTIFICATE-----",
        b"1" * 5000,
        b"NaN",
        b"1e999",
        b"\xed\xa0\x80",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An input that did what it must not."""

    target: str
    data: bytes
    problem: str


def mutate(data: bytes, others: list[bytes], rng: Random) -> bytes:
    """Return `data`, changed in one to four places."""
    for _ in range(rng.randrange(1, 5)):
        data = rng.choice(_CHANGES)(data, others, rng)
    return data[:MAX_INPUT]


def _flipped(data: bytes, _: list[bytes], rng: Random) -> bytes:
    at = rng.randrange(len(data) or 1)
    return data[:at] + bytes(octet ^ 1 << rng.randrange(8) for octet in data[at : at + 1]) + data[at + 1 :]


def _inserted(data: bytes, _: list[bytes], rng: Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice([rng.randbytes(rng.randrange(1, 9)), rng.choice(_INTERESTING)]) + data[at:]


def _overwritten(data: bytes, _: list[bytes], rng: Random) -> bytes:
    at, new = rng.randrange(len(data) + 1), rng.choice(_INTERESTING)
    return data[:at] + new + data[at + len(new) :]


def _removed(data: bytes, _: list[bytes], rng: Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.randrange(1, 64) :]


def _repeated(data: bytes, _: list[bytes], rng: Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at : at + rng.randrange(1, 512)] * rng.randrange(1, 20) + data[at:]


def _truncated(data: bytes, _: list[bytes], rng: Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _crossed(data: bytes, others: list[bytes], rng: Random) -> bytes:
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


_CHANGES: Final[tuple[Callable[[bytes, list[bytes], Random], bytes], ...]] = (
    _flipped,
    _flipped,
    _inserted,
    _overwritten,
    _removed,
    _repeated,
    _truncated,
    _crossed,
)


def inputs(target: Target, rng: Random) -> Iterator[bytes]:
    """Yield every seed as it is, then changed ones without an end."""
    seeds = target.seeds()
    yield b""
    yield from seeds
    while True:
        yield mutate(rng.choice(seeds), seeds, rng)


def examine(target: Target, data: bytes) -> Finding | None:
    """Run one input; return what is wrong with that, or None."""
    begin = time.process_time()
    try:
        call(target, data)
    except RecursionError:
        return Finding(target=target.name, data=data, problem="RecursionError")
    except Exception as error:  # noqa: BLE001 - any other end is a finding, whatever it is
        return Finding(target=target.name, data=data, problem=f"{type(error).__name__}: {error}")
    took = time.process_time() - begin
    if took > MAX_SECONDS:
        return Finding(target=target.name, data=data, problem=f"{took:.1f} s for {len(data)} bytes")
    return None
