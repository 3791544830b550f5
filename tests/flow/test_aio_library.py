"""`eaa.aio` as a programmer uses it: real evidence, real sockets, servers that go on whatever a client does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import eaa.aio
from eaa.aio import AttestedServer, AttestedStream, TCPAddress, UnixAddress, net, open_attested_connection, sessions
from eaa.aio import start_attested_server as start
from eaa.aio.client import MAX_ENDPOINTS, _endpoint_of, to_address
from eaa.appraise.policy import PolicyFile
from eaa.appraise.reference_values import ReferenceValues
from eaa.appraise.result import Accepted, BindingLevel, Rejected, Role
from eaa.collateral.bundle import Collateral
from eaa.errors import EAAError, Misuse, PeerMisbehaved, Reason, Rejection, Unavailable
from eaa.identity import Identity
from eaa.program.loop import loop_factory
from eaa.sources.files import FileSource
from eaa.tls.connection import make_context
from eaa.verifier import Verifier
from support.peers import attester_of, verifier_of
from support.system import Site

PATIENCE = 60.0
ANYWHERE = "tcp://127.0.0.1:0"
LEVELS = (BindingLevel.CERT, BindingLevel.SESSION, BindingLevel.FRESH)


class World:
    """A software TEE's identities and a verifier, for one test."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.verifier = verifier_of(site)

    def identity(self, enclave: str | None) -> Identity:
        return Identity(None if enclave is None else attester_of(self.site, enclave))

    @contextlib.asynccontextmanager
    async def server(
        self, handler: Callable[[AttestedStream], Awaitable[None]], *, enclave: str = "workload", **options: Any
    ) -> AsyncIterator[AttestedServer]:
        async with await start(handler, ANYWHERE, identity=self.identity(enclave), **options) as server:
            yield server

    async def connect(self, server: AttestedServer, **options: Any) -> AttestedStream:
        return await open_attested_connection(server.addresses[0], **{"verifier": self.verifier, **options})


@pytest.fixture
def world(site: Site) -> World:
    return World(site)


def run(main: Awaitable[None], *, factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await main
        await until(lambda: len(asyncio.all_tasks()) == 1)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  nobody announces these conditions
            await asyncio.sleep(0.005)


async def echo(stream: AttestedStream) -> None:
    while data := await stream.read():
        await stream.write(data)


async def reason_of(operation: Awaitable[object]) -> Reason:
    with pytest.raises(EAAError) as caught:
        await operation
    return caught.value.reason


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of peers."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- both ends


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.label)
def test_a_client_knows_whom_it_talks_to(world: World, level: BindingLevel) -> None:
    async def main() -> None:
        async with world.server(echo) as server:
            if level is not BindingLevel.FRESH:
                # Whoever wants less than the policy's minimum says so in the policy.
                assert await reason_of(world.connect(server, level=level)) is Reason.BINDING_TOO_WEAK
                return
            async with await world.connect(server, level=level) as stream:
                peer = stream.peer
                assert isinstance(peer.verdict, Accepted)
                assert (peer.verdict.reference_value, peer.verdict.role) == ("workload", Role.WORKLOAD)
                assert all(check.passed for check in peer.verdict.checks)
                assert peer.facts.quote.body.mr_enclave.hex() == world.site.mr_enclaves["workload"]
                assert peer.level is peer.verdict.binding is level
                assert peer.certificate == stream.connection.peer_certificate
                assert stream.relay is None
                await stream.write(b"hello")
                assert await stream.read() == b"hello"

    run(main())


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.label)
def test_a_server_knows_whom_it_talks_to_where_it_asks(
    world: World, level: BindingLevel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    seen: list[AttestedStream] = []

    async def handler(stream: AttestedStream) -> None:
        seen.append(stream)
        await stream.write(stream.export("EXPERIMENTAL-x", 32))

    async def main() -> None:
        verifier = verifier_of(world.site, policy=PolicyFile.parse(f'minimum_binding = "{level.label}"\n'))
        async with (
            world.server(handler, verifier=verifier, level=level) as server,
            await world.connect(server, identity=world.identity("client")) as stream,
        ):
            assert await stream.readexactly(32) == stream.export("EXPERIMENTAL-x", 32)

    run(main())
    (stream,) = seen
    assert stream.peer.verdict is not None
    assert (stream.peer.verdict.reference_value, stream.peer.level) == ("client", level)
    assert stream.peer.facts.quote.body.mr_enclave.hex() == world.site.mr_enclaves["client"]
    said = f"a client accepted as client at level {level.label}; this side's evidence shown at level fresh"
    assert any(said in record.getMessage() for record in caplog.records)


@pytest.mark.skipif(loop_factory() is None, reason="uvloop is not installed")
def test_it_runs_on_uvloop_as_well(world: World) -> None:
    async def main() -> None:
        async with (
            world.server(echo, verifier=world.verifier) as server,
            await world.connect(server, identity=world.identity("client")) as stream,
        ):
            data = os.urandom(2_000_000)
            stream.write(data)
            assert await stream.readexactly(len(data)) == data
            reading = asyncio.create_task(stream.read())
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
            await stream.write(b"still here")
            assert await stream.read() == b"still here"

    run(main(), factory=loop_factory())


def test_a_unix_socket_does_as_well(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        address = UnixAddress(tmp_path / "socket")
        async with await start(echo, address, identity=world.identity("workload")) as server:
            assert server.addresses == (f"unix://{tmp_path}/socket",)
            async with await open_attested_connection(f"{tmp_path}/socket", verifier=world.verifier) as stream:
                await stream.write(b"x")
                assert await stream.read() == b"x"
        assert not (tmp_path / "socket").exists()

    run(main())


def test_the_last_byte_arrives_after_the_other_side_has_said_that_it_sends_no_more(world: World) -> None:
    async def count(stream: AttestedStream) -> None:
        total = 0
        while data := await stream.read():
            total += len(data)
        stream.write(b"%d" % total + bytes(1_000_000) + b"!")

    async def main() -> None:
        async with world.server(count) as server, await world.connect(server) as stream:
            stream.write(bytes(1_000_000))
            await stream.finish()
            answer = b"".join([piece async for piece in pieces(stream)])
            assert (answer[:7], answer[-1:], len(answer)) == (b"1000000", b"!", 1_000_008)

    run(main())


async def pieces(stream: AttestedStream) -> AsyncIterator[bytes]:
    while data := await stream.read():
        yield data


# --- refusals: this side learns the whole, the other one the class


def test_a_server_with_another_measurement_is_refused_with_every_check(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with world.server(echo, enclave="impostor") as server:
            with pytest.raises(Rejection) as caught:
                await world.connect(server)
            assert caught.value.reason is Reason.MEASUREMENT_MISMATCH
            judgement: Any = caught.value.result
            assert isinstance(judgement.result, Rejected)
            assert [check.name for check in judgement.result.checks if not check.passed]
            await until(lambda: len(lines(caplog)) == 1)

    run(main())
    assert "[PEER_REJECTED_US]" in lines(caplog)[0]


@pytest.mark.parametrize(
    ("enclave", "at_server", "at_client", "says"),
    [
        ("impostor", Reason.MEASUREMENT_MISMATCH, Reason.PEER_REJECTED_US, "policy"),
        (None, Reason.NO_EVIDENCE, Reason.PEER_REJECTED_US, "no-evidence"),
        ("nobody", Reason.TLS_HANDSHAKE, Reason.TLS_HANDSHAKE, "demands a TLS client certificate"),
    ],
)
def test_a_client_that_is_refused_is_told_of_it(
    world: World, enclave: str | None, at_server: Reason, at_client: Reason, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        identity = None if enclave == "nobody" else world.identity(enclave)
        async with world.server(echo, verifier=world.verifier) as server:
            with pytest.raises(EAAError) as caught:
                await world.connect(server, identity=identity)
            assert caught.value.reason is at_client
            assert says in caught.value.message
            await until(lambda: len(lines(caplog)) == 1)
            async with await world.connect(server, identity=world.identity("client")) as stream:
                await stream.write(b"x")
                assert await stream.read() == b"x"

    run(main())
    assert [line.endswith(f"[{at_server}]") for line in lines(caplog)] == [True]


def test_a_server_shows_its_evidence_at_no_weaker_level_than_its_own_minimum(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with world.server(echo, minimum_level=BindingLevel.FRESH) as server:
            assert await reason_of(world.connect(server, level=BindingLevel.CERT)) is Reason.PEER_REJECTED_US
            await (await world.connect(server)).close()

    run(main())
    assert [Reason.LEVEL_NOT_OFFERED in line for line in lines(caplog)] == [True]


def verifier_without(world: World, role: str) -> Verifier:
    """A verifier that knows another measurement for one role."""
    mine, other = (world.site.mr_enclaves[name] for name in (role, "impostor"))
    return world.verifier.with_reference_values(
        ReferenceValues.parse(world.site.values.read_text().replace(mine, other))
    )


class SlowSource:
    """A source of collateral on a network, which answers when a test lets it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.asked = 0
        self.failing = True

    def fetch(self, *, tee: int, fmspc: bytes, ca: str) -> Collateral:
        self.asked += 1
        if self.failing:
            self.failing = False
            raise Unavailable(Reason.PCCS_UNREACHABLE, "not yet")
        return FileSource(self._site.collateral).fetch(tee=tee, fmspc=fmspc, ca=ca)


def test_a_client_whose_collateral_is_still_fetched_waits_and_is_served(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The server fetches nothing while a stranger waits, and the user sees no hiccup."""
    source = SlowSource(world.site)
    verifier = verifier_of(world.site, source=source)

    async def main() -> None:
        async with (
            world.server(echo, verifier=verifier) as server,
            await world.connect(server, identity=world.identity("client")) as stream,
        ):
            await stream.write(b"x")
            assert await stream.read() == b"x"
        verifier.close()

    run(main())
    assert source.asked >= 2


# --- through a relay


def test_through_a_relay_both_are_judged(world: World) -> None:
    async def main(relay: str) -> None:
        async with await open_attested_connection(relay=relay, verifier=world.verifier) as stream:
            assert stream.relay is not None
            assert stream.relay.verdict is not None
            assert stream.peer.verdict is not None
            verdicts = (stream.relay.verdict, stream.peer.verdict)
            assert [verdict.reference_value for verdict in verdicts] == ["relay", "workload"]
            assert stream.relay.level is stream.peer.level is BindingLevel.FRESH
            await stream.write(b"hello")
            assert (await stream.read()).startswith(b"Hello")
            assert await stream.read() == b""
        other = open_attested_connection(relay=relay, workload="other", verifier=world.verifier)
        assert await reason_of(other) is Reason.WORKLOAD_UNAVAILABLE
        stranger = open_attested_connection(relay, verifier=world.verifier)
        # A relay is no server of the inner protocol.
        assert await reason_of(stranger) is Reason.TLS_HANDSHAKE

    with world.site.node() as relay:
        run(main(relay))


@pytest.mark.parametrize("impostor", ["relay", "workload"])
def test_through_a_relay_either_may_be_refused(world: World, impostor: str) -> None:
    role = {"relay": Role.RELAY, "workload": Role.WORKLOAD}[impostor]

    async def main(relay: str) -> None:
        with pytest.raises(Rejection) as caught:
            await open_attested_connection(relay=relay, verifier=verifier_without(world, impostor))
        judgement: Any = caught.value.result
        assert judgement.result.role is role

    with world.site.node() as relay:
        run(main(relay))


def test_through_a_relay_that_judges_its_clients_as_well(world: World) -> None:
    async def main(relay: str) -> None:
        options: dict[str, Any] = {"relay": relay, "verifier": world.verifier}
        assert await reason_of(open_attested_connection(**options)) is Reason.TLS_HANDSHAKE
        impostor = world.identity("impostor")
        assert await reason_of(open_attested_connection(**options, identity=impostor)) is Reason.PEER_REJECTED_US
        async with await open_attested_connection(**options, identity=world.identity("client")) as stream:
            await stream.write(b"hello")
            assert (await stream.read()).startswith(b"Hello")

    with world.site.node("--attest-clients") as relay:
        run(main(relay))


# --- servers


def test_an_application_that_fails_costs_its_connection(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(stream: AttestedStream) -> None:
        match await stream.readline():
            case b"bug\n":
                raise ZeroDivisionError
            case b"refuse\n":
                raise Misuse(Reason.USAGE, "no such command")
            case line:
                await stream.write(line)

    async def main() -> None:
        async with world.server(handler) as server:
            for word in (b"bug\n", b"refuse\n"):
                stream = await world.connect(server)
                await stream.write(word)
                # Without a goodbye: an answer that never came is no empty answer.
                assert await reason_of(stream.read()) is Reason.PEER_CLOSED
                await stream.close()
            async with await world.connect(server) as stream:
                await stream.write(b"good\n")
                assert await stream.readline() == b"good\n"
                assert await stream.read() == b""

    run(main())
    assert [line.rpartition(" ")[2] for line in lines(caplog)] == ["[INTERNAL]", "[USAGE]"]
    assert caplog.records[-2].exc_info or caplog.records[-1].exc_info


@pytest.mark.parametrize(
    ("handle", "sent", "reason"),
    [
        (lambda stream: stream.readexactly(10), b"half", Reason.PEER_CLOSED),
        (lambda stream: stream.readuntil(b";"), b"half", Reason.PEER_CLOSED),
        (lambda stream: stream.readline(), bytes(70_000), Reason.MESSAGE_TOO_LARGE),
        (lambda stream: asyncio.wait_for(stream.read(), 0.01), b"", Reason.PEER_TIMEOUT),
    ],
)
def test_a_client_that_does_not_keep_to_the_application_s_rules_is_one_line(
    world: World,
    handle: Callable[[AttestedStream], Awaitable[None]],
    sent: bytes,
    reason: Reason,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with world.server(handle) as server, await world.connect(server) as stream:
            stream.write(sent)
            if sent:
                await stream.finish()
            assert await reason_of(stream.read()) is Reason.PEER_CLOSED

    run(main())
    assert [line.rpartition(" ")[2] for line in lines(caplog)] == [f"[{reason}]"]
    assert [record.exc_info for record in caplog.records if record.exc_info] == []


def test_a_server_that_is_closed_lets_its_clients_finish(world: World) -> None:
    async def main() -> None:
        async with world.server(echo) as server:
            stream = await world.connect(server)
            assert server.is_serving()
            assert server.sockets
            server.close()
            server.close()
            await until(lambda: not server.sockets)
            assert not server.is_serving()
            assert await reason_of(world.connect(server)) is Reason.CONNECTION_FAILED
            await stream.write(b"x")
            assert await stream.read() == b"x"
            await stream.close()
            await server.wait_closed()

    run(main())


def test_clients_that_do_not_finish_are_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net, "DRAIN", 0.05)

    async def main() -> None:
        async with world.server(echo) as server:
            stream = await world.connect(server)
        assert await reason_of(stream.read()) is Reason.PEER_CLOSED
        await stream.close()

    run(main())


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_serving_for_ever_ends_when_it_is_told_to(world: World, how: str) -> None:
    async def main() -> None:
        async with world.server(echo) as server:
            serving = asyncio.create_task(server.serve_forever())
            await (await world.connect(server)).close()
            if how == "cancel":
                serving.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await serving
            else:
                server.close()
                await serving
            assert not server.is_serving()

    run(main())


def test_one_connection_more_than_a_server_takes_is_refused(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with world.server(echo, max_connections=2) as server:
            held = [await world.connect(server) for _ in range(2)]
            try:
                assert await reason_of(world.connect(server)) is Reason.OVERLOADED
            finally:
                # Else a failure here is one of another test as well, in which the sockets are collected.
                for stream in held:
                    await stream.close()
            # The client's end comes first, and who is served to the end is counted until then.
            await until(lambda: len(asyncio.all_tasks()) == 2)
            async with await world.connect(server) as stream:
                await stream.write(b"x")
                assert await stream.read() == b"x"

    run(main())
    assert Reason.OVERLOADED in lines(caplog)[0]


def test_contexts_are_made_for_credentials_and_not_for_connections(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def make_and_count(**options: Any) -> Any:
        made.append(options)
        return make_context(**options)

    monkeypatch.setattr(sessions, "make_context", make_and_count)

    async def main() -> None:
        identity = world.identity("client")
        async with world.server(echo, verifier=world.verifier) as server:
            for _ in range(5):
                await (await world.connect(server, identity=identity)).close()
        assert len(made) == 2
        kept = {id(_endpoint_of(world.verifier, None, b"%d" % number)) for number in range(2 * MAX_ENDPOINTS)}
        assert len(kept) > MAX_ENDPOINTS
        assert id(_endpoint_of(world.verifier, None, b"%d" % number)) in kept

    number = 2 * MAX_ENDPOINTS - 1
    run(main())


# --- addresses, cancellation and time


def test_addresses_are_given_in_any_form() -> None:
    assert (
        to_address(("::1", 80)) == TCPAddress("::1", 80) == to_address("[::1]:80") == to_address(TCPAddress("::1", 80))
    )
    assert to_address("unix:///run/x") == UnixAddress(Path("/run/x"))
    wrong: tuple[Any, ...] = ("nowhere", 80, ("host", "80"))
    for address in wrong:
        with pytest.raises(Misuse) as caught:
            to_address(address)
        assert caught.value.reason is Reason.ADDRESS_INVALID


@pytest.mark.parametrize("arguments", [{}, {"address": "h:1", "relay": "h:2"}])
def test_either_an_address_or_a_relay_is_named(world: World, arguments: dict[str, str]) -> None:
    opening = open_attested_connection(**arguments, verifier=world.verifier)  # type: ignore[arg-type]
    assert asyncio.run(reason_of(opening)) is Reason.USAGE


def test_nobody_is_there(world: World) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            address = closed.getsockname()
        assert await reason_of(open_attested_connection(address, verifier=world.verifier)) is Reason.CONNECTION_FAILED
        async with world.server(echo) as server:
            again = start(echo, server.addresses[0], identity=world.identity(None))
            assert await reason_of(again) is Reason.ADDRESS_IN_USE

    run(main())


def test_a_server_that_says_nothing_is_not_waited_for(world: World) -> None:
    """By the argument, by asyncio's own timeout, and by a cancellation; nothing is left of any of them."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = silent.getsockname()
            before = descriptors()
            with pytest.raises(PeerMisbehaved) as caught:
                await open_attested_connection(address, verifier=world.verifier, timeout=0.05)
            assert caught.value.reason is Reason.PEER_TIMEOUT
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await open_attested_connection(address, verifier=world.verifier)
            opening = asyncio.create_task(open_attested_connection(address, verifier=world.verifier))
            await until(lambda: descriptors() > before)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            assert descriptors() == before

    run(main())


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_who_is_cancelled_at_any_moment_of_connecting_leaves_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with world.server(echo, verifier=world.verifier) as server:
            identity = world.identity("client")
            await (await world.connect(server, identity=identity)).close()
            await until(lambda: len(asyncio.all_tasks()) == 2)
            before = descriptors()
            for turns in range(0, 60, 3):
                opening = asyncio.create_task(world.connect(server, identity=identity))
                for _ in range(turns):
                    await asyncio.sleep(0)
                opening.cancel()
                (outcome,) = await asyncio.gather(opening, return_exceptions=True)
                if isinstance(outcome, AttestedStream):
                    outcome.abort()
            await until(lambda: len(asyncio.all_tasks()) == 2)
            assert descriptors() == before
            async with await world.connect(server, identity=identity) as stream:
                await stream.write(b"x")
                assert await stream.read() == b"x"

    run(main())
    assert [line for line in lines(caplog) if "INTERNAL" in line or "Traceback" in line] == []


def test_the_names_of_the_library_are_loaded_when_they_are_used() -> None:
    script = """
import sys, eaa.aio
assert not {"asyncio", "ssl", "OpenSSL", "cryptography"} & set(sys.modules)
from eaa.aio import *
assert {"asyncio", "OpenSSL"} <= set(sys.modules)
print(*sorted(name for name in eaa.aio.__all__ if name in globals() and name in dir(eaa.aio)))
try:
    eaa.aio.no_such_name
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    names, error = done.stdout.splitlines()
    assert names.split() == sorted(eaa.aio.__all__)
    assert "no_such_name" in error


def test_alerts_of_a_handshake_reach_the_other_side(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """What was wrong is said by TLS itself, and our client says it in words."""
    yesterday = Identity(attester_of(world.site, "client"), clock=lambda: datetime.now(UTC) - timedelta(days=3))

    async def main() -> None:
        async with world.server(echo, verifier=world.verifier) as server:
            address = server.addresses[0]
            with pytest.raises(PeerMisbehaved) as expired:
                await open_attested_connection(address, verifier=world.verifier, identity=yesterday)
            assert "alert certificate expired" in expired.value.message
            assert expired.value.hint == "check both clocks"
            await until(lambda: len(lines(caplog)) == 1)
            with pytest.raises(PeerMisbehaved) as outer:
                await open_attested_connection(relay=address, verifier=world.verifier)
            assert "alert no application protocol" in outer.value.message
            assert outer.value.hint
            await until(lambda: len(lines(caplog)) == 2)

    run(main())
    assert [line.rpartition(" ")[2] for line in lines(caplog)] == ["[CERTIFICATE_EXPIRED]", "[TLS_HANDSHAKE]"]


def test_a_verifier_is_its_own_clock(world: World) -> None:
    verifier: Verifier = world.verifier
    assert verifier.now().tzinfo is not None
