"""A relay in production: configured by a file, reloaded, drained, and without a workload for a while."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eaa.errors import EAAError, Reason
from support.relay_sessions import echo_application, echoes, how_it_ends, metrics_at, session, verifier_at
from support.system import Running, Site, run, running


@dataclass
class Node:
    """A relay that is configured by a file, and one workload or two."""

    site: Site
    folder: Path
    relay: Running
    address: str
    metrics: str
    workloads: dict[str, Running]

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

    def numbers(self) -> dict[str, float]:
        return metrics_at(self.metrics)

    @asynccontextmanager
    async def session(self, workload: str = "default") -> AsyncIterator[Any]:
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


def config_text(site: Site, workloads: dict[str, str], *more: str) -> str:
    tables = [f'[workload.{name}]\naddress = "{address}"' for name, address in workloads.items()]
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
            *more,
            *tables,
            "",
        ]
    )


@contextmanager
def node(site: Site, folder: Path, *more: str, names: tuple[str, ...] = ("web",)) -> Iterator[Node]:
    """Run a workload for each name, an echo behind each, and a relay."""
    with echo_application() as application:
        workloads = {}
        stack = []
        try:
            for name in names:
                workload = site.workload("--app", application)
                workloads[name] = workload.__enter__()
                stack.append(workload)
            (folder / "values.toml").write_text(site.values.read_text())
            addresses = {name: workload.address() for name, workload in workloads.items()}
            (folder / "relay.toml").write_text(config_text(site, addresses, *more))
            with running("inclavared", "--config", folder / "relay.toml") as relay:
                found = relay.wait_for(r"listening on (\S+), (\S+) \(metrics\)")
                yield Node(site, folder, relay, found[1], found[2], workloads)
        finally:
            for workload in stack:
                workload.__exit__(None, None, None)


def eventually(condition: Callable[[], bool], *, within: float = 30.0) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


# --- reloading


def test_a_reference_value_that_is_taken_away_ends_what_rests_on_it(site: Site, tmp_path: Path) -> None:
    """The attack: a measurement turns out to be bad. SIGHUP cuts live sessions, and no warm channel outlives it."""
    with node(site, tmp_path) as here:

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
        assert any("the session with the workload web is cut" in line for line in here.relay.lines)
        numbers = here.numbers()
        assert sum(count for name, count in numbers.items() if name.startswith("eaa_sessions_cut_total")) == 1
        assert numbers['eaa_reloads_total{result="done"}'] == 2


def test_sessions_may_be_drained_in_place_of_being_cut(site: Site, tmp_path: Path) -> None:
    with node(site, tmp_path, 'on-bad-verdict = "drain"', "grace = 3600") as here:

        async def main() -> None:
            async with here.session() as live:
                here.forget_workloads()
                here.reload()
                here.relay.wait_for("cut if it has not ended in 3600 seconds")
                assert (await here.is_refused())[0] is Reason.WORKLOAD_UNAVAILABLE
                # What is there goes on.
                assert await echoes(live)
                config = here.config.read_text()
                here.config.write_text(config.replace("grace = 3600", "grace = 0"))
                here.reload()
            async with asyncio.timeout(30):
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


def test_a_bad_file_changes_nothing_at_all(site: Site, tmp_path: Path) -> None:
    """Each is said with its reason and counted; what was there before goes on, in every part."""
    with node(site, tmp_path) as here:
        good, values = here.config.read_text(), here.values.read_text()

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
                    async with here.session():
                        pass
                    here.config.write_text(good)
                    here.values.write_text(values)
                assert "reloaded" in here.reload()
                assert await echoes(live)

        asyncio.run(main())
        assert here.numbers()['eaa_reloads_total{result="refused"}'] == len(BAD)


def test_each_workload_has_a_policy_of_its_own(site: Site, tmp_path: Path) -> None:
    """What is asked of one is not asked of the other; a change for one leaves the other's sessions alone."""
    (tmp_path / "strict.toml").write_text(f'[workload]\nmr_enclaves = ["{"00" * 32}"]\n')
    with node(site, tmp_path, 'default-workload = "one"', names=("one", "two")) as here:

        async def main() -> None:
            async with here.session("one") as one, here.session("two") as two:
                here.config.write_text(
                    here.config.read_text().replace("[workload.two]", '[workload.two]\npolicy = "strict.toml"')
                )
                here.reload()
                assert isinstance(await how_it_ends(two), EAAError)
                assert await echoes(one)
            for name, works in (("one", True), ("default", True), ("two", False)):
                if works:
                    async with here.session(name):
                        pass
                else:
                    assert (await here.is_refused(name))[0] is Reason.WORKLOAD_UNAVAILABLE

        asyncio.run(main())
        assert any("workload two is cut" in line and "[MEASUREMENT_MISMATCH]" in line for line in here.relay.lines)
        assert not any("workload one is cut" in line for line in here.relay.lines)


def test_reloads_under_load_drop_nobody(site: Site, tmp_path: Path) -> None:
    with node(site, tmp_path) as here:

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
                crowd = [asyncio.create_task(visits(until)) for _ in range(4)]
                for number in range(10):
                    assert "reloaded" in await asyncio.to_thread(here.reload)
                    assert await echoes(standing, b"%d" % number)
                until.set()
                assert min(await asyncio.gather(*crowd)) > 0

        asyncio.run(main())
        assert here.numbers()['eaa_reloads_total{result="done"}'] == 10


# --- warm channels


def test_sessions_begin_on_warm_channels_and_each_has_its_own(site: Site, tmp_path: Path) -> None:
    with node(site, tmp_path) as here:
        ready = 'eaa_channels_ready{workload="web"}'
        eventually(lambda: here.numbers().get(ready) == 2)

        async def main() -> None:
            async with here.session() as one, here.session() as two:
                assert await echoes(one, b"one")
                assert await echoes(two, b"two")

        asyncio.run(main())
        numbers = here.numbers()
        assert numbers['eaa_channels_handed_out_total{workload="web"}'] == 2
        eventually(lambda: here.numbers()[ready] == 2)
        assert here.numbers()['eaa_channels_opened_total{workload="web"}'] == 4


def test_a_workload_that_restarts_is_ridden_out(site: Site, tmp_path: Path) -> None:
    """Clients hear at once that it is not there, and are served again when it is."""
    with node(site, tmp_path) as here, echo_application() as application:
        found = re.search(r'address = "(.*)"', here.config.read_text())
        assert found is not None

        async def gone() -> None:
            eventually(lambda: here.numbers()['eaa_channels_ready{workload="web"}'] == 0)
            for _ in range(5):
                reason, seconds = await here.is_refused()
                assert reason is Reason.WORKLOAD_UNAVAILABLE
                assert seconds < 5, "a busy machine apart, this takes milliseconds"

        here.workloads["web"].stop(signal.SIGKILL)
        asyncio.run(gone())
        assert any(
            re.search(r"has been unavailable since .*\[CONNECTION_FAILED\]; the next attempt", line)
            for line in here.relay.lines
        )
        assert "eaa_workload_unavailable_since_timestamp_seconds" in "".join(here.numbers())
        with site.workload("--app", application, listen=found[1]):
            eventually(lambda: here.numbers()['eaa_channels_ready{workload="web"}'] == 2)

            async def back() -> None:
                async with here.session():
                    pass

            asyncio.run(back())
        assert any("available again" in line for line in here.relay.lines)


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_relay_that_is_told_to_stop_lets_sessions_finish(site: Site, tmp_path: Path, number: signal.Signals) -> None:
    with node(site, tmp_path, "grace = 600") as here:
        asyncio.run(drained(here, number))
        assert here.relay.process.wait(30) == 128 + number


def test_told_twice_it_ends_at_once(site: Site, tmp_path: Path) -> None:
    with node(site, tmp_path, "grace = 600") as here:

        async def main() -> None:
            async with here.session() as live:
                here.relay.process.send_signal(signal.SIGTERM)
                here.relay.wait_for("draining")
                here.relay.process.send_signal(signal.SIGTERM)
                assert isinstance(await how_it_ends(live), EAAError)

        asyncio.run(main())
        assert here.relay.process.wait(30) == 143


def test_after_the_grace_nobody_is_waited_for(site: Site, tmp_path: Path) -> None:
    with node(site, tmp_path, "grace = 0.5") as here:

        async def main() -> None:
            async with here.session() as live:
                here.relay.process.send_signal(signal.SIGTERM)
                assert isinstance(await how_it_ends(live), EAAError)

        asyncio.run(main())
        assert here.relay.process.wait(30) == 143


# --- the service manager


def test_the_service_manager_is_told_what_goes_on(site: Site, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = tmp_path / "notify"
        manager.bind(str(path))
        manager.settimeout(30)
        config = tmp_path / "relay.toml"
        (tmp_path / "values.toml").write_text(site.values.read_text())
        config.write_text(config_text(site, {"web": "127.0.0.1:1"}))
        with running("inclavared", "--config", config, env={"NOTIFY_SOCKET": str(path)}) as relay:
            assert manager.recv(4096).startswith(b"READY=1")
            relay.process.send_signal(signal.SIGHUP)
            before = time.monotonic_ns() // 1000
            reloading = dict(line.split(b"=") for line in manager.recv(4096).splitlines())
            assert reloading[b"RELOADING"] == b"1"
            assert abs(int(reloading[b"MONOTONIC_USEC"]) - before) < 60_000_000
            assert manager.recv(4096).startswith(b"READY=1")
            relay.process.send_signal(signal.SIGTERM)
            assert manager.recv(4096).startswith(b"STOPPING=1")


# --- what would run


def test_a_configuration_is_checked_without_running_it(site: Site, tmp_path: Path) -> None:
    (tmp_path / "values.toml").write_text(site.values.read_text())
    config = tmp_path / "relay.toml"
    config.write_text(config_text(site, {"web": "127.0.0.1:1", "db": "unix:///run/db"}, "warm-channels = 5"))
    done = run("inclavared", "--config", config, "--check-config", "--json")
    assert done.code == 0, done
    assert done.answer["workloads"]["db"] == {
        "address": "unix:///run/db",
        "policy": None,
        "reference-values": str(tmp_path / "values.toml"),
        "warm-channels": 5,
        "on-bad-verdict": "cut",
    }
    assert done.answer["listen"] == "tcp://127.0.0.1:0"
    assert "The configuration is valid." in run("inclavared", "--config", config, "--check-config").stdout


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("graze = 1", Reason.CONFIG_INVALID),
        ('policy = "not-there.toml"', Reason.FILE_UNREADABLE),
        ("warm-channels = 1000", Reason.CONFIG_INVALID),
        ('default-workload = "other"', Reason.USAGE),
        ("[workload.bad]", Reason.CONFIG_INVALID),
        ('[workload.bad]\naddress = "127.0.0.1:1"\npolici = "x"', Reason.CONFIG_INVALID),
        ('[workload.bad]\naddress = "127.0.0.1:1"\non_bad_verdict = "ignore"', Reason.CONFIG_INVALID),
        ('[workload."bad name"]\naddress = "127.0.0.1:1"', Reason.CONFIG_INVALID),
    ],
)
def test_a_bad_configuration_is_told_before_anything_runs(
    site: Site, tmp_path: Path, more: str, reason: Reason
) -> None:
    (tmp_path / "values.toml").write_text(site.values.read_text())
    config = tmp_path / "relay.toml"
    options, tables = ("", more) if "workload." in more else (more, "")
    config.write_text(config_text(site, {"web": "127.0.0.1:1"}, options) + tables)
    done = run("inclavared", "--config", config, "--check-config")
    assert (done.code, done.reason) == (2, reason), done
