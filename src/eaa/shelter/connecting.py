"""`shelter connect`: a local port whose bytes reach an application only inside a session that ends in the workload."""

from __future__ import annotations

import ipaddress
import logging
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import click

from eaa.aio.net import Service
from eaa.aio.plain import PlainStream
from eaa.aio.relay import IDLE_TIMEOUT, Limits, Relayed, pump
from eaa.aio.stream import AttestedStream
from eaa.aio.workers import with_workers
from eaa.appraise.result import Role
from eaa.errors import EAAError, Misuse, Reason
from eaa.program.address import ADDRESS, Address
from eaa.program.config import ConfiguredCommand, check_config_option, print_plan
from eaa.program.lifecycle import grace_option, live
from eaa.program.logs import log_level_option, set_up_logging
from eaa.program.loop import run_service
from eaa.program.options import (
    NULL_ATTESTER,
    Attesting,
    Binding,
    Judging,
    attesting_options,
    binding_options,
    judging_options,
)
from eaa.program.output import answer_line, json_option, print_json
from eaa.program.run import say
from eaa.program.verdict import Verdict
from eaa.shelter.visiting import Seen, Visit, Visitor, combine, node_options
from eaa.verifier import Verifier

MAX_CONNECTIONS: Final = 256
"""Local connections at once, each with a session of its own."""
_RESET: Final = struct.pack("ii", 1, 0)
"""Linux's struct linger: close at once, and let the other end see a reset."""
_NO_RESET: Final = struct.pack("ii", 0, 0)

logger = logging.getLogger(__name__)


@click.command("connect", cls=ConfiguredCommand)
@click.option(
    "--listen",
    type=ADDRESS,
    required=True,
    metavar="ADDRESS",
    help="The local end: tcp://127.0.0.1:PORT, or unix://PATH, which no other user can open.",
)
@node_options
@click.option(
    "--max-connections",
    type=click.IntRange(1, 65_536),
    default=MAX_CONNECTIONS,
    show_default=True,
    metavar="N",
    help="Local connections at once; one more is closed at once.",
)
@click.option(
    "--idle-timeout",
    type=click.FloatRange(min=1, max=86_400),
    default=IDLE_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="Close a session in which no byte has moved for so long.",
)
@binding_options(serves=False)
@judging_options(of_peers=True)
@click.option("--mutual", is_flag=True, help="Show evidence of this side too, where the node asks for it.")
@attesting_options()
@click.option(
    "--dangerous-listen-beyond-this-machine",
    is_flag=True,
    help="Let --listen name an address that other machines reach. What they send there is not protected on its way.",
)
@grace_option
@log_level_option("info")
@check_config_option
@json_option
def connect_command(
    *,
    listen: Address,
    addr: Address,
    workload: str,
    max_connections: int,
    idle_timeout: float,
    binding: Binding,
    judging: Judging,
    mutual: bool,
    attesting: Attesting,
    dangerous_listen_beyond_this_machine: bool,
    grace: float,
    log_level: str,
    check_config: bool,
    as_json: bool,
) -> int:
    """Give any client a local port that leads to an application inside a TEE.

    Each local connection gets a session of its own that ends in the workload. Nothing is read from it before relay and
    workload have both been accepted; where one is refused it is reset. With --json each connection's verdict is one
    line on standard output.
    """
    set_up_logging("shelter", log_level)
    verifier = judging.open(Role.RELAY, Role.WORKLOAD, flags_for=Role.WORKLOAD, level=binding.level)
    if check_config:
        attesting.check()
        print_plan({"listen": str(listen), "addr": str(addr), "workload": workload, "mutual": mutual}, as_json=as_json)
        return 0
    attester = attesting.open(default="sgx_ecdsa" if mutual else NULL_ATTESTER)
    identity = attesting.identity(attester) if mutual else None
    visitor = Visitor(Visit(address=addr, workload=workload, binding=binding), verifier, identity)
    port = LocalPort(visitor=visitor, tell=_print_verdict if as_json else _log_verdict, idle_timeout=idle_timeout)
    service = Service(max_connections=max_connections)

    def bind() -> list[str]:
        names = service.listen(listen, port.handle)
        if not dangerous_listen_beyond_this_machine:
            _refuse_other_machines(service.sockets)
        return names

    return run_service(with_workers(_serve(service, bind, verifier, grace)))


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPort:
    """What a local connection is served with."""

    visitor: Visitor
    tell: Callable[[str, Verdict], None]
    """Is told of each connection's verdict; the first argument names the connection."""
    idle_timeout: float = IDLE_TIMEOUT

    async def handle(self, sock: socket.socket, peer: str) -> None:
        """Serve one local connection: a session of its own, its verdict, then raw bytes."""
        # Until a session has ended well, whatever ends this connection is a reset: nobody shall take it for an answer.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        session = await self._enter(peer)
        if session is None:
            return
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_RESET)
            _report(peer, await pump(PlainStream(sock), session, limits=Limits(idle=self.idle_timeout)))
        finally:
            session.abort()

    async def _enter(self, peer: str) -> AttestedStream | None:
        """Return a session after both verdicts, None where there is none."""
        seen = Seen()
        try:
            session = await self.visitor.enter(seen)
        except EAAError as error:
            self.tell(peer, combine(seen, error))
            return None
        try:
            self.tell(peer, combine(seen, None))
        except BaseException:
            session.abort()
            raise
        return session


def _log_verdict(peer: str, verdict: Verdict) -> None:
    if verdict.exit_code == 0:
        logger.info("%s: %s", peer, answer_line(verdict))
    else:
        logger.warning("%s: %s", peer, "; ".join(filter(None, (answer_line(verdict), verdict.hint))))


def _print_verdict(peer: str, verdict: Verdict) -> None:
    print_json(verdict.to_json())
    _log_verdict(peer, verdict)


def _report(peer: str, relayed: Relayed) -> None:
    amount = f"{relayed.forth} bytes to the application, {relayed.back} back"
    if relayed.failure is None:
        logger.info("%s: done: %s", peer, amount)
    else:
        logger.warning("%s: ended after %s: %s [%s]", peer, amount, relayed.failure.message, relayed.failure.reason)


def _refuse_other_machines(sockets: Iterable[socket.socket]) -> None:
    """Raise Misuse where a TCP socket is bound to what is not loopback."""
    for sock in sockets:
        if sock.family != socket.AF_UNIX and not ipaddress.ip_address(sock.getsockname()[0]).is_loopback:
            raise Misuse(
                Reason.USAGE,
                f"other machines reach {sock.getsockname()[0]}, and what they send there is not protected on its way",
                hint="listen on 127.0.0.1, [::1] or a unix socket, or say --dangerous-listen-beyond-this-machine",
            )


async def _serve(service: Service, bind: Callable[[], list[str]], verifier: Verifier, grace: float) -> int:
    try:
        names = bind()
        return await live(
            service, announce=lambda: say("shelter", f"listening on {', '.join(names)}", kind="info"), grace=grace
        )
    finally:
        service.close()
        verifier.close(timeout=0)
