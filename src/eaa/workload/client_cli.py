"""`enclave-tls-client`: the sample client of `enclave-tls-server`, on the address a relay would use."""

from __future__ import annotations

import asyncio
from typing import Final, NoReturn

import click

from eaa import __version__
from eaa.aio.net import connect
from eaa.aio.sessions import Endpoint, enter_workload, judge_by
from eaa.aio.workers import with_workers
from eaa.appraise.result import Role
from eaa.attesters import Attester
from eaa.errors import EAAError
from eaa.identity import Identity
from eaa.program.address import ADDRESS, Address, TCPAddress
from eaa.program.judged import verdict_of_judgement, verdict_of_refusal
from eaa.program.logs import log_level_option, set_up_logging
from eaa.program.options import (
    NULL_ATTESTER,
    Attesting,
    Judging,
    attesting_options,
    judging_options,
    reference_engine,
)
from eaa.program.output import SUCCESS, json_option, print_verdict
from eaa.program.reference import refuse_debug_enclave, refuse_endorsements, refuse_verdictd
from eaa.program.run import run
from eaa.program.verdict import ACCEPTED
from eaa.protocol.exchange import Terms
from eaa.protocol.legacy import GREETING
from eaa.verifier import Judgement, Verifier, wall_clock

PROGRAM: Final = "enclave-tls-client"
MAX_REPLY: Final = 255


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, "-V", "--version", prog_name=PROGRAM)
@click.option("-i", "--ip", default="127.0.0.1", show_default=True, metavar="HOST", help="The server's host.")
@click.option("-p", "--port", type=click.IntRange(1, 0xFFFF), default=1234, show_default=True, help="And its port.")
@click.option("--addr", type=ADDRESS, metavar="ADDRESS", help="Its address instead: tcp://HOST:PORT or unix://PATH.")
@click.option("-m", "--mutual", is_flag=True, help="Show this side's evidence too, in the role of a relay.")
@attesting_options(attester_names=("-a", "--attester"))
@judging_options(verifier_names=("-v", "--verifier"))
@click.option("-t", "--tls", metavar="NAME", help="openssl, the only engine.")
@click.option("-c", "--crypto", metavar="NAME", help="openssl, the only engine.")
@click.option("-P", "--product-enclave", is_flag=True, help="Accepted: enclaves run for production unless -D is given.")
@click.option("-D", "--debug-enclave", is_flag=True, help="Not implemented: an enclave under debug proves nothing.")
@click.option("-e", "--endorsements", is_flag=True, help="Not implemented yet: staple endorsements to the certificate.")
@click.option("-E", "--verdictd", is_flag=True, help="Not implemented: the echo command of a Verdictd server.")
@log_level_option("error", "-l", "--log-level")
@json_option
def cli(
    *,
    ip: str,
    port: int,
    addr: Address | None,
    mutual: bool,
    attesting: Attesting,
    judging: Judging,
    tls: str | None,
    crypto: str | None,
    product_enclave: bool,
    debug_enclave: bool,
    endorsements: bool,
    verdictd: bool,
    log_level: str,
    as_json: bool,
) -> int:
    """Attest an enclave-tls-server directly, say hello to its application, and print one verdict."""
    del product_enclave
    set_up_logging(PROGRAM, log_level)
    reference_engine(tls, crypto)
    refuse_debug_enclave(asked=debug_enclave)
    refuse_endorsements(asked=endorsements)
    refuse_verdictd(asked=verdictd)
    verifier = judging.open(Role.WORKLOAD, flags_for=Role.WORKLOAD)
    # An attester that is named is opened even where it will not be used: a wrong name is never ignored.
    attester = attesting.open(default="sgx_ecdsa" if mutual else NULL_ATTESTER)
    try:
        judgement, reply = asyncio.run(
            with_workers(_visit(addr or TCPAddress(ip, port), attester if mutual else None, verifier))
        )
        verdict = verdict_of_judgement(judgement)
    except EAAError as error:
        verdict, reply = verdict_of_refusal(error), ""
    print_verdict(verdict, program=PROGRAM, as_json=as_json)
    if verdict.verdict == ACCEPTED and not as_json:
        click.echo(f"Server: {reply.rstrip()}\n{SUCCESS}")
    return verdict.exit_code


async def _visit(address: Address, attester: Attester | None, verifier: Verifier) -> tuple[Judgement, str]:
    judge = judge_by(verifier, Role.WORKLOAD)
    endpoint = Endpoint(Identity(attester), server_side=False, clock=wall_clock)
    channel = await endpoint.secure(await connect(address), Terms.relay_to_workload(), judge)
    try:
        await channel.complete()
        inner = await enter_workload(channel.stream, judge=judge, clock=wall_clock)
        await inner.write(GREETING.encode())
        reply = await inner.read(MAX_REPLY)
        await inner.close()
    finally:
        channel.stream.abort()
    assert isinstance(inner.judgement, Judgement)
    return inner.judgement, reply.decode(errors="replace")


def main() -> NoReturn:
    """Run `enclave-tls-client`."""
    run(cli, PROGRAM)
