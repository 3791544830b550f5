"""A relay in production: configured by a file, reloaded, drained, and without a workload for a while."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from eaa.aio.net import CONNECT_TIMEOUT
from eaa.aio.stream import AttestedStream
from eaa.errors import EAAError, Misuse, Reason
from eaa.inclavared.cli import cli
from support.flow import free_port
from support.relay_sessions import echo_application, echoes, how_it_ends, metrics_at, session, verifier_at
from support.system import Running, Site, run, running


@dataclass
class Node:
    """A relay that is configured by a file. The workloads `one` and `two` are the same process under two names."""

    site: Site
    folder: Path
    relay: Running
    address: str
    metrics: str

    @property
    def config(self) -> Path:
        return self.folder / "relay.toml"

    @property
    def values(self) -> Path:
        return self.folder / "values.toml"

    def reload(self) -> str:
        """Have everything read again; return the line that says how that went."""
        self.relay.process.send_signal(signal.SIGHUP)
        return self.relay.wait_for(r".*(reloaded|nothing is reloaded).*").group()

    def forget_workloads(self) -> None:
        """Take the reference value of the workloads away, and leave the relay's."""
        text = self.site.values.read_text()
        self.values.write_text(re.sub(r"\[workload\].*?(?=\n\[|\Z)", "", text, flags=re.DOTALL))

    def remember_workloads(self) -> None:
        self.values.write_text(self.site.values.read_text())

    def numbers(self) -> Counter[str]:
        return Counter(metrics_at(self.metrics))

    @asynccontextmanager
    async def session(self, workload: str = "default") -> AsyncIterator[AttestedStream]:
        """A session with a workload, whose application answers."""
        stream = await session(verifier_at(self.site), self.address, workload)
        try:
            assert await echoes(stream)
            yield stream
        finally:
            stream.abort()

    async def is_refused(self, workload: str = "default") -> tuple[Reason, float]:
        """Why a session is refused, and how long that takes."""
        began = time.monotonic()
        with pytest.raises(EAAError) as caught:
            async with self.session(workload):
                pass
        return caught.value.reason, time.monotonic() - began


def config_text(site: Site, workload: str, *more: str) -> str:
    return "\n".join(
        [
            'listen = "127.0.0.1:0"',
            'metrics = "127.0.0.1:0"',
            "mutual = true",
            'attester = "sgx_sim"',
            f'simulator = "{site.tee}"',
            f'enclave = "{site.image("relay")}"',
            f'trust-anchor = ["{site.root}"]',
            f'collateral = "{site.collateral}"',
            'reference-values = "values.toml"',
            'default-workload = "one"',
            *more,
            f'[workload.one]\naddress = "{workload}"',
            f'[workload.two]\naddress = "{workload}"',
            "",
        ]
    )


@contextmanager
def node(site: Site, folder: Path, workload: str, *more: str) -> Iterator[Node]:
    """Run a relay."""
    (folder / "values.toml").write_text(site.values.read_text())
    (folder / "relay.toml").write_text(config_text(site, workload, *more))
    with running("inclavared", "--config", folder / "relay.toml") as relay:
        found = relay.wait_for(r"listening on (\S+), (\S+) \(metrics\)")
        yield Node(site, folder, relay, found[1], found[2])


@pytest.fixture(scope="module")
def workload(site: Site) -> Iterator[str]:
    """The address of a workload with an echo behind it."""
    with echo_application() as application, site.workload("--app", application) as workload:
        yield workload.address()


@pytest.fixture(scope="module")
def shared(site: Site, workload: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(site, tmp_path_factory.mktemp("node"), workload) as node_:
        yield node_


@pytest.fixture
def here(shared: Node) -> Iterator[Node]:
    """A relay that is as it was at its start, whatever the test before has written."""
    good = shared.config.read_text()
    try:
        yield shared
    finally:
        shared.config.write_text(good)
        shared.remember_workloads()
        assert "reloaded" in shared.reload()


def eventually(condition: Callable[[], bool], *, within: float = 60.0) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


# --- reloading


def test_a_reference_value_that_is_taken_away_ends_what_rests_on_it(here: Node) -> None:
    """The attack: a measurement turns out to be bad. SIGHUP cuts live sessions, and no warm channel outlives it."""
    before = here.numbers()

    async def main() -> None:
        async with here.session() as live:
            here.forget_workloads()
            assert "reloaded" in here.reload()
            # Not a goodbye: nobody shall take what was cut for what was finished.
            assert isinstance(await how_it_ends(live), EAAError)
        assert (await here.is_refused())[0] is Reason.WORKLOAD_UNAVAILABLE
        here.remember_workloads()
        assert "reloaded" in here.reload()
        async with here.session() as live:
            assert await echoes(live)

    asyncio.run(main())
    eventually(lambda: any("the session with the workload one is cut" in line for line in here.relay.lines))
    gained = here.numbers() - before
    assert sum(count for name, count in gained.items() if name.startswith("eaa_sessions_cut_total")) == 1
    assert gained['eaa_reloads_total{result="done"}'] == 2


def test_sessions_may_be_drained_in_place_of_being_cut(here: Node) -> None:
    good = here.config.read_text()

    async def main() -> None:
        async with here.session() as live:
            here.config.write_text(f'on-bad-verdict = "drain"\ngrace = 3600\n{good}')
            here.forget_workloads()
            here.reload()
            here.relay.wait_for("cut if it has not ended in 3600 seconds")
            assert (await here.is_refused())[0] is Reason.WORKLOAD_UNAVAILABLE
            # What is there goes on.
            assert await echoes(live)
        here.config.write_text(f'on-bad-verdict = "drain"\ngrace = 0.1\n{good}')
        here.remember_workloads()
        here.reload()
        async with here.session() as live:
            here.forget_workloads()
            here.reload()
            assert isinstance(await how_it_ends(live), EAAError)

    asyncio.run(main())


BAD: list[tuple[str, Callable[[Node], object], str]] = [
    ("the configuration", lambda here: here.config.write_text("grace = ["), "CONFIG_INVALID"),
    ("an unknown key", lambda here: here.config.write_text(f"gracee = 1\n{here.config.read_text()}"), "CONFIG_INVALID"),
    ("no configuration", lambda here: here.config.unlink(), "FILE_UNREADABLE"),
    ("the values", lambda here: here.values.write_text("[workload"), "REFERENCE_VALUES_INVALID"),
    ("no values", lambda here: here.values.unlink(), "FILE_UNREADABLE"),
    (
        "a policy",
        lambda here: here.config.write_text(f'policy = "nothing.toml"\n{here.config.read_text()}'),
        "FILE_UNREADABLE",
    ),
    (
        "another address",
        lambda here: here.config.write_text(here.config.read_text().replace("127.0.0.1:0", "127.0.0.1:9", 1)),
        "CONFIG_INVALID",
    ),
]


def test_a_bad_file_changes_nothing_at_all(here: Node) -> None:
    """Each is said with its reason and counted; what was there before goes on, in every part."""
    good, values = here.config.read_text(), here.values.read_text()
    before = here.numbers()

    async def main() -> None:
        async with here.session() as live:
            for what, spoil, reason in BAD:
                # What would be taken over, were it not for the bad part.
                here.forget_workloads()
                here.config.write_text(good + "\n[workload.more]\naddress = '127.0.0.1:1'\n")
                spoil(here)
                said = here.reload()
                assert "nothing is reloaded" in said, what
                assert f"[{reason}]" in said, what
                assert await echoes(live), what
                here.config.write_text(good)
                here.values.write_text(values)
            async with here.session():
                pass
            assert "reloaded" in here.reload()
            assert await echoes(live)

    asyncio.run(main())
    assert (here.numbers() - before)['eaa_reloads_total{result="refused"}'] == len(BAD)


def test_each_workload_has_a_policy_of_its_own(here: Node) -> None:
    """What is asked of one is not asked of the other; a change for one leaves the other's sessions alone."""
    (here.folder / "strict.toml").write_text(f'[workload]\nmr_enclaves = ["{"00" * 32}"]\n')

    async def main() -> None:
        async with here.session("one") as one, here.session("two") as two:
            text = here.config.read_text()
            here.config.write_text(text.replace("[workload.two]", '[workload.two]\npolicy = "strict.toml"'))
            here.reload()
            assert isinstance(await how_it_ends(two), EAAError)
            assert await echoes(one)
        for name in ("one", "default"):
            async with here.session(name):
                pass
        assert (await here.is_refused("two"))[0] is Reason.WORKLOAD_UNAVAILABLE

    asyncio.run(main())
    cut = re.compile(r"workload two is cut.*\[MEASUREMENT_MISMATCH\]")
    eventually(lambda: any(cut.search(line) for line in here.relay.lines))
    assert not any(
        "workload one is cut: the workload's evidence fails the check mr_enclave" in line for line in here.relay.lines
    )


def test_reloads_under_load_drop_nobody(here: Node) -> None:
    before = here.numbers()

    async def visits(until: asyncio.Event) -> int:
        count = 0
        while not until.is_set():
            async with here.session() as live:
                assert await echoes(live, bytes(100_000))
                count += 1
        return count

    async def main() -> None:
        until = asyncio.Event()
        async with here.session() as standing:
            crowd = [asyncio.create_task(visits(until)) for _ in range(3)]
            for number in range(5):
                assert "reloaded" in await asyncio.to_thread(here.reload)
                assert await echoes(standing, b"%d" % number)
            until.set()
            assert min(await asyncio.gather(*crowd)) > 0

    asyncio.run(main())
    assert (here.numbers() - before)['eaa_reloads_total{result="done"}'] == 5


# --- warm channels


def test_sessions_begin_on_warm_channels_and_each_has_its_own(here: Node) -> None:
    ready = 'eaa_channels_ready{workload="two"}'
    eventually(lambda: here.numbers()[ready] == 2)
    before = here.numbers()

    async def main() -> None:
        async with here.session("two") as one, here.session("two") as two:
            assert await echoes(one, b"one")
            assert await echoes(two, b"two")

    asyncio.run(main())
    assert (here.numbers() - before)['eaa_channels_handed_out_total{workload="two"}'] == 2
    eventually(lambda: here.numbers()[ready] == 2)
    assert (here.numbers() - before)['eaa_channels_opened_total{workload="two"}'] == 2


def test_a_workload_that_restarts_is_ridden_out(site: Site, here: Node) -> None:
    """Clients hear at once that it is not there, and are served again when it is."""

    async def gone() -> None:
        for _ in range(5):
            reason, seconds = await here.is_refused("two")
            assert reason is Reason.WORKLOAD_UNAVAILABLE
            assert seconds < CONNECT_TIMEOUT, "a busy machine apart, this takes milliseconds"

    async def back() -> None:
        async with here.session("two"):
            pass

    with echo_application() as application:
        # A port that the system gives to nobody else while nobody listens there.
        with site.workload("--app", application, listen=f"tcp://127.0.0.1:{free_port()}") as workload:
            address = workload.address()
            (head, tail) = here.config.read_text().split("[workload.two]")
            here.config.write_text(f'{head}[workload.two]\naddress = "{address}"\n')
            assert tail
            here.reload()
            eventually(lambda: here.numbers()['eaa_channels_ready{workload="two"}'] == 2)
            workload.stop(signal.SIGKILL)
        eventually(lambda: here.numbers()['eaa_channels_ready{workload="two"}'] == 0)
        asyncio.run(gone())
        outage = re.compile(r"has been unavailable since .*\[CONNECTION_FAILED\]; the next attempt")
        eventually(lambda: any(outage.search(line) for line in here.relay.lines))
        assert 'eaa_workload_unavailable_since_timestamp_seconds{workload="two"}' in here.numbers()
        with site.workload("--app", application, listen=address):
            eventually(lambda: here.numbers()['eaa_channels_ready{workload="two"}'] == 2)
            asyncio.run(back())
    eventually(lambda: any("available again" in line for line in here.relay.lines))


# --- the end


def _is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


async def drained(here: Node, number: signal.Signals) -> None:
    async with here.session() as live:
        here.relay.process.send_signal(number)
        here.relay.wait_for("draining")
        # No new ones, and those that are there go on.
        port = int(here.address.rsplit(":", 1)[1])
        eventually(lambda: not _is_open(port))
        assert await echoes(live, bytes(1_000_000))
        assert here.relay.process.poll() is None
        await live.close()


def test_a_relay_that_is_told_to_stop_lets_sessions_finish(site: Site, workload: str, tmp_path: Path) -> None:
    with node(site, tmp_path, workload, "grace = 600") as here:
        asyncio.run(drained(here, signal.SIGTERM))
        assert here.relay.process.wait(30) == 143


def test_told_twice_it_ends_at_once(site: Site, workload: str, tmp_path: Path) -> None:
    with node(site, tmp_path, workload, "grace = 600") as here:

        async def main() -> None:
            async with here.session() as live:
                for number in (signal.SIGINT, signal.SIGTERM):
                    here.relay.process.send_signal(number)
                    if number is signal.SIGINT:
                        here.relay.wait_for("draining")
                assert isinstance(await how_it_ends(live), EAAError)

        asyncio.run(main())
        assert here.relay.process.wait(30) == 130


# --- the service manager


def test_the_manager_is_told_what_goes_on_and_after_the_grace_nobody_is_waited_for(
    site: Site, workload: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = tmp_path / "notify"
        manager.bind(str(path))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        with node(site, tmp_path, workload, "grace = 0.2") as here:
            assert manager.recv(4096).startswith(b"READY=1")
            before = time.monotonic_ns() // 1000
            here.reload()
            reloading = dict(line.split(b"=") for line in manager.recv(4096).splitlines())
            assert reloading[b"RELOADING"] == b"1"
            assert 0 <= int(reloading[b"MONOTONIC_USEC"]) - before < 60_000_000
            assert manager.recv(4096).startswith(b"READY=1")

            async def main() -> None:
                async with here.session() as live:
                    here.relay.process.send_signal(signal.SIGTERM)
                    assert isinstance(await how_it_ends(live), EAAError)

            asyncio.run(main())
            assert manager.recv(4096).startswith(b"STOPPING=1")
            assert here.relay.process.wait(30) == 143


# --- what would run


def test_a_configuration_is_checked_without_running_it(site: Site, tmp_path: Path) -> None:
    (tmp_path / "values.toml").write_text(site.values.read_text())
    config = tmp_path / "relay.toml"
    config.write_text(config_text(site, "unix:///run/web", "warm-channels = 5"))
    done = run("inclavared", "--config", config, "--check-config", "--json")
    assert done.code == 0, done
    assert done.answer["workloads"]["two"] == {
        "address": "unix:///run/web",
        "policy": None,
        "reference-values": str(tmp_path / "values.toml"),
        "warm-channels": 5,
        "on-bad-verdict": "cut",
    }
    assert done.answer["listen"] == "tcp://127.0.0.1:0"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("graze = 1", Reason.CONFIG_INVALID),
        ('policy = "not-there.toml"', Reason.FILE_UNREADABLE),
        ("warm-channels = 1000", Reason.CONFIG_INVALID),
        ('default_workload = "other"', Reason.CONFIG_INVALID),
        ('workload-policy = ["other=policy.toml"]', Reason.USAGE),
        ('xfer = ["one=127.0.0.1:1", "one=127.0.0.1:2"]', Reason.USAGE),
        ("[workload.bad]", Reason.CONFIG_INVALID),
        ('[workload.bad]\naddress = "127.0.0.1:1"\npolici = "x"', Reason.CONFIG_INVALID),
        ('[workload.bad]\naddress = "127.0.0.1:1"\non_bad_verdict = "ignore"', Reason.CONFIG_INVALID),
        ('[workload.bad]\naddress = "127.0.0.1:1"\nwarm-channels = 65', Reason.CONFIG_INVALID),
        ('[workload."bad name"]\naddress = "127.0.0.1:1"', Reason.CONFIG_INVALID),
    ],
)
def test_a_bad_configuration_is_told_before_anything_runs(
    site: Site, tmp_path: Path, more: str, reason: Reason
) -> None:
    (tmp_path / "values.toml").write_text(site.values.read_text())
    config = tmp_path / "relay.toml"
    options, tables = ("", more) if "workload." in more else (more, "")
    config.write_text(config_text(site, "127.0.0.1:1", options) + tables)
    result = CliRunner().invoke(cli, ["--config", str(config), "--check-config"])
    assert isinstance(result.exception, Misuse)
    assert result.exception.reason is reason


def test_a_program_says_which_file_is_wrong_and_ends_with_2(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "relay.toml"
    config.write_text(config_text(site, "127.0.0.1:1"))
    done = run("inclavared", "--config", config, "--check-config")
    assert (done.code, done.reason) == (2, Reason.FILE_UNREADABLE), done
    assert "values.toml" in done.stderr
