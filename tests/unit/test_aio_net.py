"""Sockets for addresses, and a service that nobody brings down: bind rules, limits, and what is said of whom."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import resource
import signal
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import uvloop

from eaa.aio import net
from eaa.aio.counters import COUNTERS, Limit
from eaa.aio.limits import ServiceLimits
from eaa.aio.net import TLS_OVERLOADED, Service, bind, bound_name, connect
from eaa.errors import EAAError, PeerMisbehaved, Reason, Unavailable
from eaa.program.address import TCPAddress, UnixAddress, parse_address
from support.aio_world import run, until

LOOPBACK = TCPAddress("127.0.0.1", 0)
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@contextlib.contextmanager
def bound(address: TCPAddress | UnixAddress) -> Iterator[list[socket.socket]]:
    sockets = bind(address)
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def reason_of(operation: Callable[[], object]) -> Reason:
    with pytest.raises(EAAError) as caught:
        operation()
    assert caught.value.hint is not None
    return caught.value.reason


def address_of(sock: socket.socket) -> TCPAddress:
    return TCPAddress(*sock.getsockname()[:2])


# --- listening on TCP


def test_a_port_that_the_system_chose_is_named() -> None:
    with bound(LOOPBACK) as (sock,):
        assert bound_name(sock) == f"tcp://127.0.0.1:{sock.getsockname()[1]}"
        assert not sock.getblocking()


def test_a_name_stands_for_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    both = [
        (socket.AF_INET, *kind, ("127.0.0.1", 0)),
        (socket.AF_INET6, *kind, ("::1", 0, 0, 0)),
        (socket.AF_INET, *kind, ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    try:
        with bound(TCPAddress("localhost", 0)) as sockets:
            assert [sock.family for sock in sockets] == [socket.AF_INET, socket.AF_INET6]
            assert bound_name(sockets[1]).startswith("tcp://[::1]:")
            # A socket of IPv6 takes no IPv4: each address of the name has its own.
            assert sockets[1].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    except Unavailable:
        pytest.skip("this machine's loopback speaks no IPv6")


def test_where_one_address_of_a_name_is_taken_none_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with bound(LOOPBACK) as (taken,):
        kind = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        found = [(socket.AF_INET, *kind, ("127.0.0.1", 0)), (socket.AF_INET, *kind, taken.getsockname())]
        made: list[socket.socket] = []
        create = socket.socket

        def remembered(*arguments: Any) -> socket.socket:
            made.append(create(*arguments))
            return made[-1]

        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        monkeypatch.setattr(socket, "socket", remembered)
        assert reason_of(lambda: bind(TCPAddress("two", 0))) is Reason.ADDRESS_IN_USE
        assert [sock.fileno() for sock in made] == [-1, -1]


def test_whoever_is_accepted_is_sent_at_once_what_is_written() -> None:
    async def handler(sock: socket.socket, _: str) -> None:
        sock.send(b"%d" % sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    async def main(*, adopted: bool) -> None:
        with contextlib.ExitStack() as stack:
            service = Service()
            if adopted:
                listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                service.adopt([listening], handler)
            else:
                service.listen(LOOPBACK, handler)
            service.start()
            with contextlib.closing(await connect(address_of(service.sockets[0]))) as sock:
                assert await asyncio.get_running_loop().sock_recv(sock, 1) == b"1"
            await service.stop()

    for adopted in (False, True):
        run(main(adopted=adopted))


def test_a_taken_port() -> None:
    with bound(LOOPBACK) as (sock,):
        assert reason_of(lambda: bind(address_of(sock))) is Reason.ADDRESS_IN_USE


def test_a_port_is_free_again_at_once() -> None:
    """Connections of the service before may still linger in the system."""
    with bound(LOOPBACK) as (sock,):
        address = address_of(sock)
        peer = socket.create_connection(sock.getsockname())
        sock.settimeout(5)
        served, _ = sock.accept()
        served.close()
    peer.close()
    with bound(address):
        pass


def test_a_name_that_does_not_resolve() -> None:
    address = TCPAddress("no-such-host.invalid", 1)
    assert reason_of(lambda: bind(address)) is Reason.ADDRESS_UNRESOLVED
    assert reason_of(lambda: asyncio.run(connect(address))) is Reason.ADDRESS_UNRESOLVED


def test_an_address_of_somebody_else_s() -> None:
    """TEST-NET-1 is nobody's."""
    assert reason_of(lambda: bind(TCPAddress("192.0.2.1", 0))) is Reason.CONNECTION_FAILED


def test_a_port_without_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: TCPAddress, **__: bool) -> list[socket.socket]:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(net, "_bind_tcp", refuse)
    assert reason_of(lambda: bind(TCPAddress("127.0.0.1", 80))) is Reason.PERMISSION_DENIED


# --- listening on unix sockets


def test_a_unix_socket_is_its_owner_s(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    before = os.umask(0)
    try:
        with bound(UnixAddress(path)) as (sock,):
            assert bound_name(sock) == f"unix://{path}"
            assert stat.S_IMODE(path.lstat().st_mode) == 0o600
            assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_a_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with bound(UnixAddress(path)):
        pass
    assert path.is_socket()
    with bound(UnixAddress(path)) as (sock,), socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
        sock.accept()[0].close()


def test_a_socket_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with bound(UnixAddress(path)):
        assert reason_of(lambda: bind(UnixAddress(path))) is Reason.ADDRESS_IN_USE
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))


def test_a_socket_whose_owner_is_busy_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as stack:
        busy.bind(str(path))
        busy.listen(0)
        fill_backlog(path, stack)
        assert reason_of(lambda: bind(UnixAddress(path))) is Reason.ADDRESS_IN_USE
        assert path.is_socket()


def test_nothing_else_is_ever_unlinked(tmp_path: Path) -> None:
    """A file, a folder, a link to a socket: whatever it is, it is not ours."""
    file, folder, link = tmp_path / "file", tmp_path / "folder", tmp_path / "link"
    file.write_text("precious")
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    link.symlink_to(tmp_path / "dead")
    for path in (file, folder, link):
        assert reason_of(lambda path=path: bind(UnixAddress(path))) is Reason.ADDRESS_IN_USE  # type: ignore[misc]
    assert file.read_text() == "precious"
    assert folder.is_dir()
    assert link.is_symlink()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert reason_of(lambda: bind(UnixAddress(tmp_path / "none" / "socket"))) is Reason.CONNECTION_FAILED


def test_a_service_removes_its_own_socket_and_no_other(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    service = Service()
    for path in (ours, theirs):
        service.listen(UnixAddress(path), ignore)
    theirs.unlink()
    theirs.write_text("somebody else's by now")
    gone = tmp_path / "gone"
    service.listen(UnixAddress(gone), ignore)
    gone.unlink()
    service.close()
    assert not ours.exists()
    assert theirs.read_text() == "somebody else's by now"


async def ignore(_: socket.socket, __: str) -> None: ...


def fill_backlog(path: Path, stack: contextlib.ExitStack) -> None:
    """Connect until there is no room for one more."""
    with contextlib.suppress(BlockingIOError):
        while True:
            peer = stack.enter_context(socket.socket(socket.AF_UNIX))
            peer.settimeout(0)
            peer.connect(str(path))


# --- connecting


def test_a_connection_is_made_and_does_not_block() -> None:
    async def main() -> None:
        with bound(LOOPBACK) as (sock,):
            made = await connect(address_of(sock))
            assert not made.getblocking()
            assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            made.close()

    run(main())


def test_nobody_listens() -> None:
    with bound(LOOPBACK) as (sock,):
        address = address_of(sock)
    assert reason_of(lambda: asyncio.run(connect(address))) is Reason.CONNECTION_FAILED


def test_who_has_no_descriptor_left_to_connect_with_may_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    async def main() -> None:
        monkeypatch.setattr(net, "_targets", lambda _: answered([(socket.AF_INET, ("127.0.0.1", 1))]))
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", exhausted)
            await connect(TCPAddress("127.0.0.1", 1))

    assert reason_of(lambda: asyncio.run(main())) is Reason.OVERLOADED


def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with bound(LOOPBACK) as (dead,):
            nobody = dead.getsockname()
        with bound(LOOPBACK) as (sock,):
            targets = [(socket.AF_INET, nobody), (socket.AF_INET, sock.getsockname())]
            monkeypatch.setattr(net, "_targets", lambda _: answered(targets))
            made = await connect(TCPAddress("two", 1))
            assert made.getpeername() == sock.getsockname()
            made.close()

    run(main())


async def answered(value: Any) -> Any:
    return value


def test_an_address_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts nothing: its backlog is full, and stays so."""
    monkeypatch.setattr(net, "CONNECT_TIMEOUT", 0.05)
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as stack:
        busy.bind(str(path))
        busy.listen(0)
        fill_backlog(path, stack)
        with pytest.raises(Unavailable) as caught:
            asyncio.run(connect(UnixAddress(path)))
    assert caught.value.reason is Reason.CONNECTION_FAILED
    assert "no answer" in caught.value.message


def test_a_full_backlog_of_a_unix_socket_is_waited_for(tmp_path: Path) -> None:
    """It is EAGAIN there, which is no connection in the making: what would be sent on it goes nowhere."""
    path = tmp_path / "socket"

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as stack:
            busy.bind(str(path))
            busy.listen(0)
            fill_backlog(path, stack)
            connecting = asyncio.create_task(connect(UnixAddress(path)))
            await asyncio.sleep(2 * net.BACKLOG_PAUSE)
            assert not connecting.done()
            busy.settimeout(0)
            while not connecting.done():
                with contextlib.suppress(BlockingIOError):
                    busy.accept()[0].close()
                await asyncio.sleep(0)
            made = await connecting
            assert made.getpeername() == str(path)
            made.close()

    run(main())


def test_a_connection_attempt_that_is_given_up_leaves_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as stack:
            busy.bind(str(path))
            busy.listen(0)
            fill_backlog(path, stack)
            # What others have left open is not closed in the middle of it.
            gc.collect()
            before = descriptors()
            connecting = asyncio.create_task(connect(UnixAddress(path)))
            await until(lambda: descriptors() == before + 1)
            connecting.cancel()
            await asyncio.wait([connecting])
            assert descriptors() == before

    run(main())


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- serving


Handler = Callable[[socket.socket, str], Awaitable[None]]


class Serving:
    """A service in the test's own process and event loop."""

    def __init__(self, handler: Handler, *, address: TCPAddress | UnixAddress = LOOPBACK, **options: Any) -> None:
        self.service = Service(**options)
        (self.name,) = self.service.listen(address, handler)
        self.address = address if isinstance(address, UnixAddress) else address_of(self.service._listeners[0].sock)
        self.running: asyncio.Task[int] | None = None

    async def __aenter__(self) -> Self:
        ready = asyncio.Event()
        self.running = asyncio.create_task(self.service.run(ready.set))
        await ready.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.running
        if not self.running.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait([self.running])

    async def visit(self) -> socket.socket:
        return await connect(self.address)

    async def hear(self, sock: socket.socket) -> bytes:
        return await asyncio.get_running_loop().sock_recv(sock, 100)


async def echo(sock: socket.socket, _: str) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(sock, 100):
        await loop.sock_sendall(sock, data)


async def is_echoed(serving: Serving) -> bool:
    loop = asyncio.get_running_loop()
    with contextlib.closing(await serving.visit()) as sock:
        await loop.sock_sendall(sock, b"x")
        return await loop.sock_recv(sock, 1) == b"x"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == net.__name__]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_service_with_its_code(number: signal.Signals, code: int) -> None:
    async def main() -> None:
        async with Serving(echo) as serving:
            assert await is_echoed(serving)
            os.kill(os.getpid(), number)
            # A second one changes nothing.
            os.kill(os.getpid(), signal.SIGTERM)
            assert serving.running
            assert await serving.running == code
            with pytest.raises(Unavailable):
                await serving.visit()

    run(main())


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("farewell", [b"", b"no"], ids=["served", "refused"])
def test_who_comes_while_a_service_stops_waits_for_nobody(farewell: bytes, kind: str) -> None:
    """Whatever turn of the loop the service is stopped in, the connection ends, also without a garbage collector."""

    async def stop_after(turns: int) -> None:
        service = Service(max_connections=1, farewell=farewell)
        (name,) = service.listen(LOOPBACK, echo)
        service.start()
        address = parse_address(name)
        assert isinstance(address, TCPAddress)
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(socket.create_connection((address.host, address.port)))] if farewell else []
            await until(lambda: service.live == len(held))
            sock = stack.enter_context(socket.create_connection((address.host, address.port)))
            for _ in range(turns):
                await asyncio.sleep(0)
            await service.stop(grace=0)
            await asyncio.sleep(0)
            sock.settimeout(5)
            with contextlib.suppress(ConnectionError):
                assert sock.recv(100) in (b"", farewell)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
        for turns in range(8):
            await stop_after(turns)

    troubles: list[dict[str, Any]] = []
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
            runner.run(main())
    finally:
        gc.enable()
    assert troubles == []


@pytest.mark.parametrize("kind", LOOPS)
def test_a_crowd_that_comes_at_once_leaves_others_their_turn(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net, "ACCEPTS_IN_A_ROW", 4)

    async def main() -> None:
        service = Service()
        (name,) = service.listen(LOOPBACK, echo)
        address = parse_address(name)
        assert isinstance(address, TCPAddress)
        with contextlib.ExitStack() as stack:
            for _ in range(32):
                stack.enter_context(socket.create_connection((address.host, address.port)))
            service.start()
            most = before = 0
            while service.accepted < 32:
                await asyncio.sleep(0)
                most, before = max(most, service.accepted - before), service.accepted
            assert most <= 4
        await service.stop(grace=0)

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        runner.run(main())


def test_connections_that_end_soon_are_let_finish() -> None:
    finished = []

    async def main() -> None:
        release = asyncio.Event()

        async def handler(_: socket.socket, __: str) -> None:
            await release.wait()
            finished.append(True)

        async with Serving(handler) as serving:
            with contextlib.closing(await serving.visit()):
                await until(lambda: bool(serving.service._tasks))
                os.kill(os.getpid(), signal.SIGTERM)
                await until(lambda: not serving.service._listeners)
                release.set()

    run(main())
    assert finished == [True]


def test_connections_that_do_not_end_are_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(net, "DRAIN", 0.05)

    async def main() -> None:
        async with Serving(echo) as serving:
            sock = await serving.visit()
            await until(lambda: bool(serving.service._tasks))
            os.kill(os.getpid(), signal.SIGTERM)
            assert await serving.hear(sock) == b""
            sock.close()

    run(main())
    assert lines(caplog) == []


def test_a_second_word_ends_connections_that_had_more_time() -> None:
    async def main() -> None:
        service = Service()
        service.listen(LOOPBACK, echo)
        service.start()
        hurry: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with contextlib.closing(await connect(address_of(service.sockets[0]))) as sock:
            await until(lambda: service.live == 1)
            stopping = asyncio.create_task(service.stop(grace=3600, hurry=hurry))
            await until(lambda: not service.sockets)
            assert not stopping.done()
            hurry.set_result(None)
            await stopping
            assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""

    run(main())


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (PeerMisbehaved(Reason.PEER_CLOSED, "it left"), "it left [PEER_CLOSED]"),
        (PeerMisbehaved(Reason.PEER_CLOSED, "it left", hint="ask it"), "it left; ask it [PEER_CLOSED]"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "Connection reset by peer [PEER_CLOSED]"),
        (OSError("odd"), "odd [PEER_CLOSED]"),
        (ZeroDivisionError(), "a bug of ours ended this connection [INTERNAL]"),
    ],
)
def test_what_a_connection_ends_with_is_one_line_and_costs_nobody_else(
    failure: Exception, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    failing = [failure]

    async def handler(sock: socket.socket, peer: str) -> None:
        if failing:
            raise failing.pop()
        await echo(sock, peer)

    async def main() -> str:
        async with Serving(handler) as serving:
            with contextlib.closing(await serving.visit()) as sock:
                assert await serving.hear(sock) == b""
                name = "{}:{}".format(*sock.getsockname())
            assert await is_echoed(serving)
            return name

    name = run(main())
    assert lines(caplog) == [f"{name}: {line}"]


def test_one_connection_more_than_are_served_is_closed_and_the_flood_is_two_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(net, "MAX_CONNECTIONS", 2)

    async def main() -> None:
        async with Serving(echo) as serving:
            held = [await serving.visit() for _ in range(2)]
            await until(lambda: len(serving.service._tasks) == 2)
            for _ in range(5):
                with contextlib.closing(await serving.visit()) as refused:
                    assert await serving.hear(refused) == b""
            for sock in held:
                sock.close()
            await until(lambda: not serving.service._tasks)
            assert await is_echoed(serving)

    run(main())
    said = lines(caplog)
    assert [line.endswith(f"[{Reason.OVERLOADED}]") for line in said] == [True, True]
    assert said[1].startswith("4 more connections")


def test_a_system_with_nothing_left_to_accept_with_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(net, "ACCEPT_PAUSE", 0.001)
    failures = [OSError(errno.EMFILE, "Too many open files") for _ in range(3)]

    async def main() -> None:
        accept = net.accept

        def accepted(sock: socket.socket) -> Any:
            if failures:
                raise failures.pop()
            return accept(sock)

        monkeypatch.setattr(net, "accept", accepted)
        async with Serving(echo) as serving:
            assert await is_echoed(serving)

    run(main())
    assert failures == []
    assert lines(caplog) == [f"cannot accept: Too many open files [{Reason.OVERLOADED}]", "accepting again"]


def test_who_waits_while_nothing_can_be_accepted_is_told_so_with_a_spare_descriptor(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(net, "ACCEPT_PAUSE", 0.001)
    monkeypatch.setattr(net, "ACCEPT_PATIENCE", 0.01)
    caplog.set_level("INFO")
    exhausted = [True]
    before = COUNTERS.refused[Limit.DESCRIPTORS]

    async def main() -> None:
        accept = net.accept

        def accepted(sock: socket.socket) -> Any:
            if exhausted:
                raise OSError(errno.EMFILE, "Too many open files")
            return accept(sock)

        monkeypatch.setattr(net, "accept", accepted)
        async with Serving(echo, farewell=b"no") as serving:
            for _ in range(3):
                with contextlib.closing(await serving.visit()) as refused:
                    assert await serving.hear(refused) == b"no"
            exhausted.clear()
            assert await is_echoed(serving)

    run(main())
    assert COUNTERS.refused[Limit.DESCRIPTORS] == before + 3
    # One line for it, one for those who were refused first and one for the others, and one when it is over.
    assert len(lines(caplog)) == 4


# --- refusing


def test_who_is_refused_hears_why_whatever_it_has_sent_or_will_send() -> None:
    """Closing over unread bytes would reset the connection, and take the answer with it."""

    async def main() -> None:
        limits = ServiceLimits.of_connections(1)
        async with Serving(echo, limits=limits, farewell=TLS_OVERLOADED) as serving:
            with contextlib.closing(await serving.visit()):
                await until(lambda: serving.service.live == 1)
                loop = asyncio.get_running_loop()
                for early in (True, False):
                    with contextlib.closing(await serving.visit()) as refused:
                        if early:
                            await loop.sock_sendall(refused, b"x" * 300)
                        assert await serving.hear(refused) == TLS_OVERLOADED
                        if not early:
                            await loop.sock_sendall(refused, b"x" * 300)
                        assert await serving.hear(refused) == b""
            await until(lambda: serving.service.live == 0)
            assert await is_echoed(serving)

    run(main())


def test_those_who_were_refused_hold_nothing_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net, "PARTING_TIMEOUT", 0.02)
    monkeypatch.setattr(net, "MAX_PARTING", 3)

    async def main() -> None:
        async with Serving(
            echo, limits=ServiceLimits(max_connections=0, max_connections_per_address=0), farewell=b"no"
        ) as serving:
            # They say nothing and do not hang up.
            held = [await serving.visit() for _ in range(10)]
            for sock in held:
                assert await serving.hear(sock) == b"no"
            assert len(serving.service._parting) <= 3
            await until(lambda: not serving.service._parting)
            for sock in held:
                sock.close()

    run(main())


def test_a_flood_of_refusals_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(net, "REFUSALS_SAID_EVERY", 0.05)

    async def main() -> None:
        async with Serving(echo, limits=ServiceLimits(max_connections=0, max_connections_per_address=0)) as serving:
            for _ in range(4):
                with contextlib.closing(await serving.visit()) as sock:
                    assert await serving.hear(sock) == b""
            await until(lambda: len(lines(caplog)) >= 2)
            await until(lambda: serving.service._refusals._timer is None)

    run(main())
    # Whoever is refused after a pause is the first one again, and is told of by itself.
    counts = [1 if line.startswith("connections are refused") else int(line.split()[0]) for line in lines(caplog)]
    assert sum(counts) == 4


def test_a_service_promises_no_more_than_the_system_allows(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(net, "_allow_descriptors", lambda _: net.DESCRIPTORS_KEPT + 3 * net.DESCRIPTORS_EACH)

    async def main() -> None:
        async with Serving(echo, limits=ServiceLimits()) as serving:
            held = [await serving.visit() for _ in range(3)]
            await until(lambda: serving.service.live == 3)
            with contextlib.closing(await serving.visit()) as refused:
                assert await serving.hear(refused) == b""
            for sock in held:
                sock.close()

    run(main())
    assert "enough for 3 connections" in lines(caplog)[0]


def test_a_service_serves_on_sockets_that_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "socket"

    async def main() -> None:
        with bound(UnixAddress(path)) as sockets:
            service = Service()
            assert service.adopt([sock.dup() for sock in sockets], echo) == [f"unix://{path}"]
            service.start()
            accepting = [service.is_accepting]
            with contextlib.closing(await connect(UnixAddress(path))) as sock:
                await asyncio.get_running_loop().sock_sendall(sock, b"x")
                assert await asyncio.get_running_loop().sock_recv(sock, 1) == b"x"
            await service.stop()
            assert [*accepting, service.is_accepting] == [True, False]
            # Whoever bound it unlinks it.
            assert path.is_socket()

    run(main())


def test_several_sockets_share_a_port_where_that_is_asked_for() -> None:
    with contextlib.ExitStack() as stack:
        (first,) = bind(LOOPBACK, reuse_port=True)
        stack.callback(first.close)
        (second,) = bind(address_of(first), reuse_port=True)
        stack.callback(second.close)
        assert reason_of(lambda: bind(address_of(first))) is Reason.ADDRESS_IN_USE


def test_a_service_that_has_gone_deaf_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A bug in accepting: no service at all is better than one that only looks alive."""
    path = tmp_path / "socket"

    async def main() -> None:
        def accepted(_: socket.socket) -> Any:
            raise ZeroDivisionError

        monkeypatch.setattr(net, "accept", accepted)
        service = Service()
        service.listen(UnixAddress(path), echo)
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ZeroDivisionError):
            await service.run(lambda: client.connect(str(path)))

    run(main())
    assert not path.exists()


def test_peers_are_told_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(_: socket.socket, peer: str) -> None:
        logging.getLogger(net.__name__).warning(peer)

    async def main(address: TCPAddress | UnixAddress) -> None:
        async with Serving(handler, address=address) as serving:
            for _ in range(2):
                with contextlib.closing(await serving.visit()) as sock:
                    assert await serving.hear(sock) == b""

    run(main(UnixAddress(tmp_path / "socket")))
    assert lines(caplog) == [f"unix peer {number} (process {os.getpid()})" for number in (1, 2)]
    caplog.clear()
    run(main(LOOPBACK))
    assert len(set(lines(caplog))) == 2
    closed = socket.socket()
    closed.close()
    assert net._peer_name(closed, "", 7) == "unix peer 7"
    assert net._peer_name(closed, ("::1", 80, 0, 0), 7) == "[::1]:80"


def test_a_service_allows_itself_the_descriptors_that_it_may_need(monkeypatch: pytest.MonkeyPatch) -> None:
    hard = 2**20
    for soft, limit, after in (
        (1024, hard, net.DESCRIPTORS),
        (1024, 2048, 2048),
        (hard, hard, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None),
        (1024, resource.RLIM_INFINITY, net.DESCRIPTORS),
    ):
        asked: list[tuple[int, int]] = []
        monkeypatch.setattr(resource, "getrlimit", lambda _, now=(soft, limit): now)
        monkeypatch.setattr(resource, "setrlimit", lambda _, wanted, asked=asked: asked.append(wanted))
        allowed = net._allow_descriptors()
        assert asked == ([] if after is None else [(after, limit)])
        assert allowed == (after or (net.DESCRIPTORS if soft == resource.RLIM_INFINITY else soft))


@pytest.mark.parametrize("failure", [PermissionError(errno.EPERM, "no"), OSError(errno.ENOSYS, "no"), ValueError("no")])
def test_a_system_that_lets_nobody_raise_limits_is_lived_with(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(resource, "setrlimit", fail)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 2**20))
    assert net._allow_descriptors() == 1024
    # A library OS may know no such limit at all.
    monkeypatch.setattr(resource, "getrlimit", fail)
    assert net._allow_descriptors(20_000) == 20_000
