"""`enclave-tls-client`: the sample client of `enclave-tls-server`, on the address a relay would use."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, NoReturn

import click

from eaa import __version__
from eaa.aio.client import patiently
from eaa.aio.net import connect
from eaa.aio.sessions import Endpoint, enter_workload, judge_by
from eaa.aio.stream import AttestedStream
from eaa.aio.workers import with_workers
from eaa.appraise.result import Role
from eaa.errors import EAAError
from eaa.identity import Identity
from eaa.program.address import ADDRESS, Address, TCPAddress
from eaa.program.judged import verdict_of_judgement, verdict_of_refusal
from eaa.program.logs import log_level_option, set_up_logging
from eaa.program.options import (
    NULL_ATTESTER,
    Attesting,
    Binding,
    Judging,
    attesting_options,
    binding_options,
    judging_options,
    reference_engine,
)
from eaa.program.output import SUCCESS, json_option, print_reply, print_verdict
from eaa.program.reference import refuse_debug_enclave, refuse_endorsements, refuse_verdictd
from eaa.program.run import run
from eaa.program.verdict import ACCEPTED, verdict_of_nobody
from eaa.protocol.exchange import Levels, Terms
from eaa.protocol.legacy import GREETING
from eaa.verifier import Judgement, Verifier, wall_clock
from eaa.workload.legacy import (
    LegacySide,
    legacy_options,
    make_legacy_identity,
    open_legacy_judge,
    refuse_options_of_the_other,
    visit_legacy,
)

PROGRAM: Final = "enclave-tls-client"
MAX_REPLY: Final = 255


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, "-V", "--version", prog_name=PROGRAM)
@click.option("-i", "--ip", default="127.0.0.1", show_default=True, metavar="HOST", help="The server's host.")
@click.option("-p", "--port", type=click.IntRange(1, 0xFFFF), default=1234, show_default=True, help="And its port.")
@click.option("--addr", type=ADDRESS, metavar="ADDRESS", help="Its address instead: tcp://HOST:PORT or unix://PATH.")
@click.option("-m", "--mutual", is_flag=True, help="Show this side's evidence too, in the role of a relay.")
@binding_options(serves=False)
@attesting_options(attester_names=("-a", "--attester"))
@judging_options(verifier_names=("-v", "--verifier"), of_peers=True)
@click.option("-t", "--tls", metavar="NAME", help="openssl, the only engine.")
@click.option("-c", "--crypto", metavar="NAME", help="openssl, the only engine.")
@click.option("-P", "--product-enclave", is_flag=True, help="Accepted: enclaves run for production unless -D is given.")
@click.option("-D", "--debug-enclave", is_flag=True, help="Not implemented: an enclave under debug proves nothing.")
@click.option("-e", "--endorsements", is_flag=True, help="With --legacy: carry collateral along in the certificate.")
@click.option("-E", "--verdictd", is_flag=True, help="With --legacy: have a Verdictd server echo a text.")
@legacy_options
@log_level_option("error", "-l", "--log-level")
@json_option
def cli(
    *,
    ip: str,
    port: int,
    addr: Address | None,
    mutual: bool,
    binding: Binding,
    attesting: Attesting,
    judging: Judging,
    tls: str | None,
    crypto: str | None,
    product_enclave: bool,
    debug_enclave: bool,
    endorsements: bool,
    verdictd: bool,
    legacy: bool,
    legacy_certificate: str,
    log_level: str,
    as_json: bool,
) -> int:
    """Attest an enclave-tls-server directly, say hello to its application, and print one verdict."""
    del product_enclave
    set_up_logging(PROGRAM, log_level)
    reference_engine(tls, crypto)
    refuse_debug_enclave(asked=debug_enclave)
    refuse_options_of_the_other(legacy=legacy)
    address = addr or TCPAddress(ip, port)
    if legacy:
        source = judging.source() if endorsements and mutual else None
        attester = attesting.open(default="sgx_ecdsa" if mutual else NULL_ATTESTER)
        side = LegacySide(
            judge=open_legacy_judge(judging, Role.WORKLOAD, serving=False),
            identity=make_legacy_identity(attester, certificate=legacy_certificate, endorsed_by=source)
            if mutual
            else None,
            demands_certificate=False,
            dangerous_accept_no_evidence=judging.dangerous_accept_no_evidence,
        )
        return _answer(visit_legacy(address, side, verdictd=verdictd), as_json=as_json)
    refuse_endorsements(asked=endorsements)
    refuse_verdictd(asked=verdictd)
    verifier = judging.open(Role.WORKLOAD, flags_for=Role.WORKLOAD, level=binding.level)
    # An attester that is named is opened even where it will not be used: a wrong name is never ignored.
    attester = attesting.open(default="sgx_ecdsa" if mutual else NULL_ATTESTER)
    identity = attesting.identity(attester if mutual else None)
    return _answer(_visit(address, identity, verifier, binding), as_json=as_json)


def _answer(visit: Coroutine[Any, Any, tuple[Judgement | None, str]], *, as_json: bool) -> int:
    """Run a visit, print what came of it, and return the exit code."""
    try:
        judgement, reply = asyncio.run(with_workers(visit))
        verdict = verdict_of_nobody("server") if judgement is None else verdict_of_judgement(judgement)
    except EAAError as error:
        verdict, reply = verdict_of_refusal(error), ""
    print_verdict(verdict, program=PROGRAM, as_json=as_json)
    if verdict.exit_code == 0 and not as_json:
        print_reply(reply)
    if verdict.verdict == ACCEPTED and not as_json:
        click.echo(SUCCESS)
    return verdict.exit_code


async def _visit(
    address: Address, identity: Identity, verifier: Verifier, binding: Binding
) -> tuple[Judgement | None, str]:
    judge = judge_by(verifier, Role.WORKLOAD)
    endpoint = Endpoint(identity, server_side=False, clock=wall_clock)
    levels: Levels = {"level": binding.level, "maximum_epoch": binding.maximum_epoch}

    async def attempt() -> AttestedStream:
        channel = await endpoint.secure(await connect(address), Terms.relay_to_workload(**levels), judge)
        try:
            await channel.complete()
        except BaseException:
            channel.stream.abort()
            raise
        return channel.stream

    channel = await patiently(attempt)
    try:
        inner = await enter_workload(channel, judge=judge, clock=wall_clock, **levels)
        await inner.write(GREETING.encode())
        reply = await inner.read(MAX_REPLY)
        await inner.close()
    finally:
        channel.abort()
    assert isinstance(inner.judgement, Judgement)
    return inner.judgement, reply.decode(errors="replace")


def main() -> NoReturn:
    """Run `enclave-tls-client`."""
    run(cli, PROGRAM)
