"""`shelter remoteattestation`: judge a node's relay, then the workload, in a session that ends in the workload."""

from __future__ import annotations

import asyncio
from typing import Final

import click

from eaa.aio.attestation import Judge
from eaa.aio.net import connect
from eaa.aio.sessions import Endpoint, enter_workload, judge_by
from eaa.aio.stream import AttestedStream
from eaa.aio.workers import with_workers
from eaa.appraise.reference_values import ReferenceValues
from eaa.appraise.result import Role
from eaa.errors import EAAError, PeerMisbehaved, Reason
from eaa.identity import Identity
from eaa.program.address import Address
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
from eaa.program.verdict import ACCEPTED, Verdict
from eaa.protocol.exchange import EvidenceReceived, Terms
from eaa.shelter.first_sight import as_if_recorded, may_be_new, recordable, strictly
from eaa.shelter.visiting import DEFAULT_WORKLOAD, Seen, Visit, Visitor, combine, node_options
from eaa.verifier import Judgement, Verifier, wall_clock

HELLO: Final = b"hello from shelter"
MAX_REPLY: Final = 2047
"""Bytes of an application's reply that are shown, as in the reference program."""
REPLY_TIMEOUT: Final = 30.0


@click.command("remoteattestation")
@node_options
@binding_options(serves=False)
@judging_options(of_peers=True)
@click.option(
    "--no-greeting", is_flag=True, help="Send nothing to the application: for one that is not the reference greeting."
)
@click.option("--mutual", is_flag=True, help="Show evidence of this side too, where the node asks for it.")
@attesting_options()
@click.option("--tls", metavar="NAME", help="openssl, the only engine.")
@click.option("--crypto", metavar="NAME", help="openssl, the only engine.")
@log_level_option("error")
@click.option("--explain", is_flag=True, help="Print every check, and what each hop is worth.")
@json_option
def remoteattestation_command(
    *,
    addr: Address,
    workload: str,
    binding: Binding,
    judging: Judging,
    no_greeting: bool,
    mutual: bool,
    attesting: Attesting,
    tls: str | None,
    crypto: str | None,
    log_level: str,
    explain: bool,
    as_json: bool,
) -> int:
    """Attest the relay and the workload of a node, and print one verdict.

    Both show their own evidence, each bound to the session in which it is shown. Nobody's word is taken for a
    measurement, and the relay sees no byte of what is said to the workload.
    """
    set_up_logging("shelter", log_level)
    reference_engine(tls, crypto)
    verifier = judging.open(Role.RELAY, Role.WORKLOAD, flags_for=Role.WORKLOAD, level=binding.level)
    # An attester that is named is opened even where it will not be used: a wrong name is never ignored.
    attester = attesting.open(default="sgx_ecdsa" if mutual else NULL_ATTESTER)
    identity = attesting.identity(attester) if mutual else None
    visit = Visit(address=addr, workload=workload, binding=binding)
    verdict, reply = asyncio.run(with_workers(_attest(visit, verifier, identity, greets=not no_greeting)))
    _print(verdict, None if no_greeting else reply, as_json=as_json, explain=explain)
    return verdict.exit_code


async def _attest(
    visit: Visit, verifier: Verifier, identity: Identity | None, *, greets: bool
) -> tuple[Verdict, bytes]:
    """Visit a node; whatever happens on the way becomes part of one verdict."""
    seen = Seen()
    failure: EAAError | None = None
    reply = b""
    try:
        workload = await Visitor(visit, verifier, identity).enter(seen)
        try:
            if greets:
                reply = await _greet(workload)
            else:
                await workload.close()
        finally:
            workload.abort()
    except EAAError as error:
        failure = error
    return combine(seen, failure), reply


async def _greet(workload: AttestedStream) -> bytes:
    """Say hello to the application; this is the first application byte, and both verdicts came before it."""
    try:
        async with asyncio.timeout(REPLY_TIMEOUT):
            await workload.write(HELLO)
            # Any server may be there, and one that waits for the rest of a request shall not wait for long.
            await workload.finish()
            reply = await workload.read(MAX_REPLY)
            await workload.close()
    except TimeoutError as error:
        raise PeerMisbehaved(
            Reason.PEER_TIMEOUT,
            f"the application behind the workload gave no answer in {REPLY_TIMEOUT:g} seconds",
            hint="the workload was attested; look at its application",
        ) from error
    return reply


def _print(verdict: Verdict, reply: bytes | None, *, as_json: bool, explain: bool) -> None:
    print_verdict(verdict, program="shelter", as_json=as_json, explain=explain)
    if as_json or verdict.verdict != ACCEPTED:
        return
    if reply is not None:
        print_reply(reply.decode(errors="replace"))
    # The reference program's lines; a trust domain has neither measurement, and its MRTD stands in the verdict.
    for name, value in (("mrenclave", verdict.mr_enclave), ("mrsigner", verdict.mr_signer)):
        if value is not None:
            click.echo(f"App Enclave {name}: {value}")
    if explain:
        click.echo(WORTH)
    click.echo(SUCCESS)


WORTH: Final = """\
What this is worth: the workload's verdict holds for the session it was given in, which ends in that workload.
The relay's verdict says what runs on its node; it protects no secret of the workload, and does not prove that the
workload sits behind it. The workload serves any client: a relay's yes is admission, not access control."""


def observe_measurement(
    node: Address, *, role: Role, workload: str, judging: Judging, recorded: ReferenceValues
) -> dict[str, bytes]:
    """Return what is to be recorded of a node's relay or workload, after every other check has passed at level fresh.

    Raises:
        Rejection: a check other than the measurement failed, or the enclave is under debug.
        EAAError: the evidence is not genuine, or the node cannot be reached.
    """
    verifier = strictly(judging).open(flags_for=role, values=recorded)
    visit = Visit(address=node, workload=workload or DEFAULT_WORKLOAD, binding=Binding())
    return asyncio.run(with_workers(_observe(visit, verifier, role)))


async def _observe(visit: Visit, verifier: Verifier, role: Role) -> dict[str, bytes]:
    seen = Seen()
    sock = await connect(visit.address)
    endpoint = Endpoint(None, server_side=False, clock=wall_clock)
    attestation = await endpoint.secure(
        sock, Terms.shelter_to_relay(judges=True), _first_sight(seen, verifier, Role.RELAY)
    )
    try:
        if role is Role.RELAY:
            await attestation.judge_only()
        else:
            await attestation.open(visit.workload)
            await enter_workload(
                attestation.stream, judge=_first_sight(seen, verifier, Role.WORKLOAD), clock=wall_clock
            )
    finally:
        attestation.stream.abort()
    judgement = seen.judgements[-1]
    assert judgement.verified is not None
    return recordable(judgement.verified)


def _first_sight(seen: Seen, verifier: Verifier, role: Role) -> Judge:
    """Return a judge that lets an unknown measurement pass, and nothing else: it is about to be shown to a person."""
    strict = judge_by(verifier, role)

    async def judge(shown: EvidenceReceived) -> Judgement:
        judgement = await strict(shown)
        assert isinstance(judgement, Judgement)
        if may_be_new(judgement):
            assert judgement.verified is not None
            known = as_if_recorded(judgement.verified, role)
            judged_again = await judge_by(verifier.with_reference_values(known), role)(shown)
            assert isinstance(judged_again, Judgement)
            judgement = judged_again
        seen.judgements.append(judgement)
        return judgement

    return judge
