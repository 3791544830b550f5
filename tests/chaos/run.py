"""Chaos: a node whose clients, workload and application hang up at every step of the protocol.

An unmodified Inclavared stands between clients of Shelter's own code in this process and an `enclave-tls-server --app`
with a gremlin in it. Every round is one session with bytes of its own; half of them are cut by this side or the
application, at each step in turn, and of the others the gremlin cuts some. What has to hold:

1. each side was cut at every step;
2. whatever arrived, here and at the application, is the beginning of what was sent: nothing lost in the middle, nothing
   twice, and nothing at all of a session that was cut before its verdict;
3. afterwards descriptors, tasks and memory of the relay and the workload are what they were;
4. a last transfer through `shelter connect` comes back whole.

    python tests/chaos/run.py --rounds 3000 --seed 1
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from chaos import gremlin  # noqa: E402  after the path
from chaos.gremlin import STEPS_OF_CLIENT, STEPS_OF_WORKLOAD, Armed, armed  # noqa: E402
from eaa.aio.stream import AttestedStream  # noqa: E402
from eaa.appraise.policy import PolicyFile  # noqa: E402
from eaa.appraise.result import BindingLevel  # noqa: E402
from eaa.errors import EAAError  # noqa: E402
from eaa.program.address import parse_address  # noqa: E402
from eaa.program.loop import loop_factory  # noqa: E402
from eaa.program.options import Binding  # noqa: E402
from eaa.shelter.visiting import DEFAULT_WORKLOAD, Seen, Visit, Visitor  # noqa: E402
from support.applications import Mood, application, journal_of, pattern  # noqa: E402
from support.nodes import resident  # noqa: E402
from support.peers import verifier_of  # noqa: E402
from support.system import Running, Site, running  # noqa: E402

AT_ONCE: Final = 8
MAX_PAYLOAD: Final = 300_000
PIECE: Final = 16 * 1024
ROUND_PATIENCE: Final = 60.0
SETTLING_PATIENCE: Final = 60.0
SETTLING: Final = 0.5
"""Seconds in which nothing changes where nothing is under way."""
WARMING_UP: Final = 40
NUMBERS_OF_WARM_UP: Final = 10**9
FINAL_TRANSFER: Final = 16 << 20
MAX_GROWTH: Final = 8 << 20
"""Bytes that a process may have grown: 2 MiB in the first hundreds of rounds, and nearly nothing after. Sessions
that are over and wait for the garbage collector are six times that."""
ALL_STEPS_FROM: Final = 300
"""Rounds from which on every step has to have been hit."""
MORE_TIMES: Final = 10
"""How often steps that chance has left out are tried once more, each several times."""

STEPS_OF_TALK: Final = (
    "sends its first bytes",
    "sends half of its bytes",
    "sends its last byte",
    "says goodbye",
    "hears its first bytes",
    "hears half of its bytes",
    "hears its last byte",
)
"""What a client goes through once it talks to the application."""
CLIENT: Final = tuple(f"client {step}" for step in (*STEPS_OF_CLIENT, *STEPS_OF_TALK))
WORKLOAD: Final = tuple(f"workload {step}" for step in STEPS_OF_WORKLOAD)
APPLICATION: Final = {
    "application when it is connected": Mood.AT_ONCE,
    "application halfway": Mood.HALFWAY,
    "application before its goodbye": Mood.AT_THE_END,
}
STEPS: Final = (*CLIENT, *WORKLOAD, *APPLICATION)
UNDISTURBED: Final = "undisturbed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One session."""

    number: int
    step: str
    """Where it is cut by this side or the application, or UNDISTURBED; the workload's gremlin has its own mind."""
    payload: bytes

    @property
    def sent(self) -> bytes:
        """What the application is to get, whole: its mood, the round, and the bytes."""
        return APPLICATION.get(self.step, Mood.NEVER).value + self.number.to_bytes(8, "big") + self.payload


@dataclass(slots=True)
class Figures:
    """What a run has shown."""

    rounds: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    whole: int = 0
    undisturbed: int = 0
    failures: list[str] = field(default_factory=list)
    before: dict[str, Vitals] = field(default_factory=dict)
    after: dict[str, Vitals] = field(default_factory=dict)
    on_the_way: dict[str, list[int]] = field(default_factory=dict)
    """Resident bytes after a third of the rounds, and after two: what only fills caches grows no more then."""
    digest: str = ""
    seconds: float = 0.0

    @property
    def never_hit(self) -> list[str]:
        """Steps at which nobody was cut."""
        return [step for step in STEPS if not self.hits[step]]

    def lines(self) -> Iterator[str]:
        """What is printed."""
        yield f"{self.rounds} rounds in {self.seconds:.0f} s"
        for step in STEPS:
            yield f"resets: {step}: {self.hits[step]}"
        yield f"{self.whole} of {self.undisturbed} rounds that this side left alone came back whole"
        for name, before in self.before.items():
            on_the_way = " and ".join(f"{size / 2**20:.1f}" for size in self.on_the_way[name])
            yield f"{name}: before {before}; after each third RSS {on_the_way} MiB; after {self.after[name]}"
        yield f"final transfer of {FINAL_TRANSFER} bytes and back: SHA-256 {self.digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What a process holds."""

    descriptors: int
    tasks: int
    resident: int
    """Bytes."""

    @classmethod
    def of(cls, service: Running) -> Vitals:
        """Ask a process that runs under `support.observed`."""
        pid = service.process.pid
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        service.process.send_signal(signal.SIGUSR1)
        tasks = int(service.wait_for(r"^tasks: (\d+)$")[1])
        return cls(descriptors=descriptors, tasks=tasks, resident=resident(pid))

    def __str__(self) -> str:
        return f"{self.descriptors} descriptors, {self.tasks} tasks, RSS {self.resident / 2**20:.1f} MiB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The processes of a run."""

    relay: Running
    workload: Running
    address: str
    gremlins: Path
    application: Path

    def services(self) -> dict[str, Running]:
        """Those whose vitals count."""
        return {"relay": self.relay, "workload": self.workload}


@contextmanager
def serving(site: Site, folder: Path, seed: int) -> Iterator[Node]:
    """Run application, workload with a gremlin, and relay."""
    env = {"PYTHONPATH": str(ROOT / "tests")}
    hops = ("--listen", "tcp://127.0.0.1:0", "--mutual")
    python = (sys.executable, "-m")
    with application("moody", folder) as (_, app):
        gremlins = folder / "gremlins"
        workload = (*python, "chaos.gremlin", str(seed), gremlins, "enclave-tls-server", *hops, "--app", app)
        with running(*workload, *site.attested("workload"), *site.judging, env=env) as server:
            to = ("--xfer", server.address())
            relay = (*python, "support.observed", "inclavared", *hops, *to, *site.attested("relay"), *site.judging)
            with running(*relay, env=env) as inclavared:
                yield Node(
                    relay=inclavared,
                    workload=server,
                    address=inclavared.address(),
                    gremlins=gremlins,
                    application=folder,
                )


class Clients:
    """Everybody who visits the node."""

    def __init__(self, site: Site, node: Node, figures: Figures) -> None:
        self._figures = figures
        self.heard: dict[int, int] = {}
        """Bytes that a round has heard back, all of them right."""
        verifier = verifier_of(site, policy=PolicyFile.parse('minimum_binding = "session"\n'))
        self._visitors = [
            Visitor(
                Visit(
                    address=parse_address(node.address),
                    workload=DEFAULT_WORKLOAD,
                    binding=Binding(level=level, maximum_epoch=timedelta(seconds=300)),
                ),
                verifier,
                None,
            )
            for level in (BindingLevel.SESSION, BindingLevel.FRESH)
        ]

    async def run(self, this: Round) -> None:
        """Run one round; every end is good but a wrong byte, a bug, and no end at all."""
        plan = Armed(this.step.removeprefix("client "), lambda _: self._figures.hits.update([this.step]))
        armed.set(plan)
        self.heard[this.number] = 0
        try:
            async with asyncio.timeout(ROUND_PATIENCE):
                stream = await self._visitors[this.number % 2].enter(Seen())
                try:
                    await self._talk(stream, this, plan)
                finally:
                    stream.abort()
        except EAAError:
            # A client that is cut off, or a node that has no channel just now.
            pass
        except BaseException as error:  # noqa: BLE001  counted, and told at the end
            self._figures.failures.append(f"round {this.number}, {this.step}: {error!r}")
        else:
            if this.step == UNDISTURBED:
                self._figures.whole += 1
            else:
                self._figures.failures.append(f"round {this.number} was to be cut: {this.step}, and came back whole")

    async def _talk(self, stream: AttestedStream, this: Round, plan: Armed) -> None:
        both = [asyncio.create_task(half(stream, this, plan)) for half in (self._send, self._hear)]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in both:
                task.cancel()
            outcomes = await asyncio.gather(*both, return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        # What is no failure of a peer's is the one to be told.
        for failure in sorted(failures, key=lambda failure: isinstance(failure, EAAError)):
            raise failure

    async def _send(self, stream: AttestedStream, this: Round, plan: Armed) -> None:
        sent = this.sent
        for start in range(0, len(sent), PIECE):
            await stream.write(sent[start : start + PIECE])
            if not start:
                plan.reach("sends its first bytes")
            if start <= len(sent) // 2 < start + PIECE:
                plan.reach("sends half of its bytes")
        plan.reach("sends its last byte")
        await stream.finish()
        plan.reach("says goodbye")

    async def _hear(self, stream: AttestedStream, this: Round, plan: Armed) -> None:
        expected = this.sent
        while data := await stream.read():
            heard = self.heard[this.number]
            if data != expected[heard : heard + len(data)]:
                raise ValueError(f"byte {heard} and what follows came back as something else")
            self.heard[this.number] += len(data)
            plan.reach("hears its first bytes")
            if 2 * self.heard[this.number] >= len(expected):
                plan.reach("hears half of its bytes")
            if self.heard[this.number] == len(expected):
                plan.reach("hears its last byte")
        if self.heard[this.number] != len(expected):
            raise ValueError(f"a good end after {self.heard[this.number]} of {len(expected)} bytes")


def rounds_of(count: int, seed: int) -> Iterator[Round]:
    """Every step of this side and the application's in turn, and as many rounds that are left to the workload."""
    chance = random.Random(seed)
    steps: list[str] = []
    for number in range(count):
        if not steps:
            steps = [*CLIENT, *APPLICATION, *[UNDISTURBED] * (len(CLIENT) + len(APPLICATION))]
            chance.shuffle(steps)
        size = chance.choice((1, 100, PIECE, chance.randrange(1, MAX_PAYLOAD)))
        step = steps.pop()
        if step not in (UNDISTURBED, *CLIENT[: len(STEPS_OF_CLIENT)]):
            # Long enough to have a half.
            size += 5 * PIECE
        yield Round(number=number, step=step, payload=pattern(size, seed=seed + number))


def rounds_for(steps: list[str], seed: int, *, first: int) -> Iterator[Round]:
    """More rounds for some steps; the gremlin chooses its own among rounds that are left alone."""
    for offset in range(2 * AT_ONCE if steps else 0):
        step = steps[offset % len(steps)]
        number = first + offset
        payload = pattern(6 * PIECE, seed=seed + number)
        yield Round(number=number, step=UNDISTURBED if step in WORKLOAD else step, payload=payload)


def verify_journal(entries: list[dict[str, object]], rounds: dict[int, Round], figures: Figures) -> None:
    """Hold what the application got against what was sent: each time the beginning of one round, and once."""
    seen: Counter[int] = Counter()
    for entry in entries:
        count, head = int(str(entry["bytes"])), bytes.fromhex(str(entry["head"]))
        if not count:
            continue
        number = int.from_bytes(head[1:9], "big")
        if len(head) < 9 or number >= NUMBERS_OF_WARM_UP:
            # A cut in the very first bytes: of which round is not known. Or before anything counted.
            continue
        this = rounds.get(number)
        if this is None or hashlib.sha256(this.sent[:count]).hexdigest() != entry["sha256"] or count > len(this.sent):
            figures.failures.append(f"the application was sent what nobody has sent: {entry}")
            continue
        seen[this.number] += 1
        figures.hits[this.step] += this.step in APPLICATION and entry["how"] == "hung up"
        if this.step in CLIENT[: len(STEPS_OF_CLIENT)]:
            figures.failures.append(f"round {this.number} was cut before its verdict, and {count} bytes came through")
    figures.failures += [f"round {number} was delivered {times} times" for number, times in seen.items() if times > 1]


def _hits_of_gremlin(node: Node) -> list[str]:
    return [f"workload {step}" for step in node.gremlins.read_text().splitlines()] if node.gremlins.exists() else []


def _never_hit(node: Node, rounds: dict[int, Round], figures: Figures) -> list[str]:
    """The steps at which nobody has been cut so far."""
    so_far = Figures(hits=figures.hits + Counter(_hits_of_gremlin(node)))
    verify_journal(journal_of(node.application), rounds, so_far)
    return so_far.never_hit


async def vitals(node: Node) -> dict[str, Vitals]:
    """Ask both services."""
    return {name: await asyncio.to_thread(Vitals.of, service) for name, service in node.services().items()}


async def settle(node: Node, good: Callable[[dict[str, Vitals], dict[str, Vitals]], bool]) -> dict[str, Vitals]:
    """Wait until what a moment ago was and what is now are good, and return what is in the end."""
    end = time.monotonic() + SETTLING_PATIENCE
    now = await vitals(node)
    while True:
        await asyncio.sleep(SETTLING)
        before, now = now, await vitals(node)
        if time.monotonic() > end or good(before, now):
            return now


def _is_same(before: dict[str, Vitals], now: dict[str, Vitals]) -> bool:
    return all((now[name].descriptors, now[name].tasks) == (was.descriptors, was.tasks) for name, was in before.items())


async def turn(node: Node, state: str) -> None:
    """Wake the gremlin, or put it to sleep."""
    node.workload.process.send_signal(signal.SIGUSR2)
    await asyncio.to_thread(node.workload.wait_for, f"gremlin: {state}")


def _is_back(now: Vitals, before: Vitals) -> bool:
    return now.descriptors <= before.descriptors and now.tasks <= before.tasks


async def torment(site: Site, node: Node, count: int, seed: int) -> Figures:
    """Run all rounds."""
    figures = Figures(rounds=count)
    clients = Clients(site, node, figures)
    for this in rounds_of(WARMING_UP, seed=-1):
        await asyncio.create_task(
            clients.run(Round(number=10**9 + this.number, step=UNDISTURBED, payload=this.payload))
        )
    figures = clients._figures = Figures(rounds=count)
    figures.before = await settle(node, _is_same)
    await turn(node, "awake")
    began = time.monotonic()
    rounds = {this.number: this for this in rounds_of(count, seed)}

    async def one_after_the_other(waiting: Iterator[Round]) -> None:
        for this in waiting:
            figures.undisturbed += this.step == UNDISTURBED
            if this.number in (count // 3, 2 * count // 3):
                for name, service in node.services().items():
                    figures.on_the_way.setdefault(name, []).append(resident(service.process.pid))
            # A task of its own: what is armed is this round's.
            await asyncio.create_task(clients.run(this))

    async def all_of(some: Iterable[Round]) -> None:
        waiting = iter(some)
        await asyncio.gather(*(one_after_the_other(waiting) for _ in range(AT_ONCE)))

    await all_of(rounds.values())
    for _ in range(MORE_TIMES if count >= ALL_STEPS_FROM else 0):
        # Who is cut earlier by the other side does not come to its own step: chance decides how often.
        more = list(rounds_for(_never_hit(node, rounds, figures), seed, first=len(rounds)))
        if not more:
            break
        rounds.update((this.number, this) for this in more)
        await all_of(more)
    figures.rounds = len(rounds)
    figures.seconds = time.monotonic() - began
    await turn(node, "calm")
    # The same and not less: a relay that still waits before it makes its channels again refuses whoever comes.
    before = figures.before
    figures.after = await settle(node, lambda _, now: _is_same(before, now))
    figures.hits.update(_hits_of_gremlin(node))
    verify_journal(journal_of(node.application), rounds, figures)
    return figures


def transfer(site: Site, node: Node) -> str:
    """Send bytes through `shelter connect` and back; return their SHA-256 where they are the same, else raise."""
    sent = Mood.NEVER.value + pattern(FINAL_TRANSFER - 1)
    command = ("shelter", "connect", "--listen", "tcp://127.0.0.1:0", "--addr", node.address, *site.judging)
    with running(*command) as shelter:
        host, _, port = shelter.address().removeprefix("tcp://").partition(":")
        with socket.create_connection((host, int(port)), timeout=ROUND_PATIENCE) as client:
            received = asyncio.run(_there_and_back(client, sent))
    if received != hashlib.sha256(sent).hexdigest():
        raise ValueError(f"{received} came back; {shelter.lines[-2:]}")
    return received


async def _there_and_back(client: socket.socket, sent: bytes) -> str:
    """Send and receive at once; return the SHA-256 of what came back, or how it ended."""
    client.setblocking(False)  # noqa: FBT003  the standard library's signature
    loop = asyncio.get_running_loop()
    received = hashlib.sha256()

    async def send() -> None:
        await loop.sock_sendall(client, sent)
        client.shutdown(socket.SHUT_WR)

    sending = asyncio.create_task(send())
    try:
        while data := await loop.sock_recv(client, 1 << 16):
            received.update(data)
    except OSError as error:
        return str(error)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    return received.hexdigest()


def judge(figures: Figures) -> None:
    """Add to the failures what does not hold."""
    if figures.rounds >= ALL_STEPS_FROM:
        figures.failures += [f"nobody was cut at: {step}" for step in figures.never_hit]
    for name, before in figures.before.items():
        after = figures.after[name]
        if not _is_back(after, before):
            figures.failures.append(f"{name} holds more than before: {before}; {after}")
        if after.resident - before.resident > MAX_GROWTH:
            figures.failures.append(f"{name} has grown by {(after.resident - before.resident) / 2**20:.1f} MiB")


def run(count: int, seed: int) -> Figures:
    """Make a site, torment it, and look at what is left."""
    gremlin.install()
    with tempfile.TemporaryDirectory(prefix="eaa-chaos-") as name:
        folder = Path(name)
        site = Site.create(folder)
        with serving(site, folder, seed) as node:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                figures = runner.run(torment(site, node, count, seed))
            try:
                figures.digest = transfer(site, node)
            except ValueError as error:
                figures.failures.append(f"the final transfer did not come back whole: {error}")
            bugs = [line for line in (*node.relay.lines, *node.workload.lines) if "INTERNAL" in line or "Trace" in line]
            figures.failures += bugs[:10]
    judge(figures)
    return figures


def main() -> int:
    """Return 0 where everything held."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    figures = run(arguments.rounds, arguments.seed)
    for line in (*figures.lines(), *(f"FAILURE: {failure}" for failure in figures.failures[:20])):
        print(f"chaos: {line}")
    print(f"chaos: {'FAILED' if figures.failures else 'passed'}")
    return 1 if figures.failures else 0


if __name__ == "__main__":
    sys.exit(main())
