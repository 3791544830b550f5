"""`enclave-tls-server`: the confidential container's server. Answers with its own evidence."""

from __future__ import annotations

from typing import NoReturn

import click

from eaa import __version__
from eaa.aio.limits import ServiceLimits
from eaa.aio.relay import Limits
from eaa.appraise.result import Role
from eaa.program.address import ADDRESS, Address, TCPAddress
from eaa.program.config import ConfiguredCommand, check_config_option, is_reading_again, print_plan, reader_again
from eaa.program.lifecycle import grace_option
from eaa.program.limits import limits_options
from eaa.program.logs import log_level_option, set_up_logging
from eaa.program.metrics import metrics_option
from eaa.program.options import (
    Attesting,
    Binding,
    Judging,
    attesting_options,
    binding_options,
    judging_options,
    reference_engine,
)
from eaa.program.reference import refuse_debug_enclave, refuse_endorsements
from eaa.program.run import run, say
from eaa.workload.application import Forwarding, Greeting
from eaa.workload.legacy import (
    LegacySide,
    legacy_options,
    make_legacy_identity,
    open_legacy_judge,
    refuse_options_of_the_other,
    serve_legacy,
)
from eaa.workload.service import serve
from eaa.workload.wish import Fixed, Opened, Source, Wish

PROGRAM = "enclave-tls-server"


@click.command(
    cls=ConfiguredCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.version_option(__version__, "-V", "--version", prog_name=PROGRAM)
@click.option("-i", "--ip", default="127.0.0.1", show_default=True, metavar="HOST", help="Listen on this host.")
@click.option("-p", "--port", type=click.IntRange(0, 0xFFFF), default=1234, show_default=True, help="And this port.")
@click.option("--listen", type=ADDRESS, metavar="ADDRESS", help="Listen here instead: tcp://HOST:PORT or unix://PATH.")
@click.option(
    "--app",
    type=ADDRESS,
    metavar="ADDRESS",
    help="Serve the application that listens here, tcp://HOST:PORT or unix://PATH: a connection of its own for each "
    "session. Without it, sessions get the reference greeting.",
)
@click.option("-m", "--mutual", is_flag=True, help="Also judge the relay: demand its evidence and appraise it.")
@binding_options(serves=True)
@attesting_options(attester_names=("-a", "--attester"))
@judging_options(verifier_names=("-v", "--verifier"), of_peers=True)
@click.option("-t", "--tls", metavar="NAME", help="openssl, the only engine.")
@click.option("-c", "--crypto", metavar="NAME", help="openssl, the only engine.")
@click.option("-P", "--product-enclave", is_flag=True, help="Accepted: enclaves run for production unless -D is given.")
@click.option("-D", "--debug-enclave", is_flag=True, help="Not implemented: an enclave under debug proves nothing.")
@click.option("-e", "--endorsements", is_flag=True, help="With --legacy: carry collateral along in the certificate.")
@legacy_options
@grace_option
@limits_options
@metrics_option
@log_level_option("info", "-l", "--log-level")
@check_config_option
@click.option("--json", "as_json", is_flag=True, help="With --check-config: print one JSON object.")
def cli(
    *,
    ip: str,
    port: int,
    listen: Address | None,
    app: Address | None,
    mutual: bool,
    binding: Binding,
    attesting: Attesting,
    judging: Judging,
    tls: str | None,
    crypto: str | None,
    product_enclave: bool,
    debug_enclave: bool,
    endorsements: bool,
    legacy: bool,
    legacy_certificate: str,
    grace: float,
    limits: ServiceLimits,
    metrics: Address | None,
    log_level: str,
    check_config: bool,
    as_json: bool,
) -> int | Wish:
    """Serve an application behind attested TLS, with this enclave's own evidence.

    The application is any server in the same TEE, unmodified (--app). It is sent nothing before a client has accepted
    this workload. Every client gets evidence bound to its own session. With --mutual only a relay is served whose
    evidence the reference values of role relay accept. SIGHUP reads files again, SIGTERM drains.
    """
    del product_enclave
    if not is_reading_again():
        set_up_logging(PROGRAM, log_level)
    reference_engine(tls, crypto)
    refuse_debug_enclave(asked=debug_enclave)
    refuse_options_of_the_other(legacy=legacy)
    judging.require_known_verifier()
    address = listen or TCPAddress(ip, port)
    if legacy:
        _warn_of_idle_options(judging, mutual=mutual)
        side = _legacy_side(judging, attesting, legacy_certificate, mutual=mutual, endorsements=endorsements)
        return serve_legacy(address, side)
    refuse_endorsements(asked=endorsements)
    wish = Wish(
        fixed=Fixed(
            address=address,
            app=app,
            metrics=metrics,
            mutual=mutual,
            attesting=attesting,
            limits=limits,
            log_level=log_level,
            source=Source.of(judging),
        ),
        judging=judging,
        binding=binding,
        grace=grace,
    )
    return wish if is_reading_again() else _run(wish, checks_only=check_config, as_json=as_json)


def _run(wish: Wish, *, checks_only: bool, as_json: bool) -> int:
    fixed, judging = wish.fixed, wish.judging
    _warn_of_idle_options(judging, mutual=fixed.mutual)
    opened = Opened.of(wish)
    if checks_only:
        fixed.attesting.check()
        print_plan(wish.plan(), as_json=as_json)
        return 0
    # Who judges nobody may still have been told where the collateral is that clients will want.
    stapled_by = opened.verifier or (judging.stapler() if judging.names_a_source else None)
    identity = fixed.attesting.identity(fixed.attesting.open(default="sgx_ecdsa"), stapled_by=stapled_by)
    return serve(opened, _application(fixed.app, fixed.limits), identity=identity, read_again=reader_again())


def _warn_of_idle_options(judging: Judging, *, mutual: bool) -> None:
    """Say that nobody is judged where options look as if somebody were. The same flags of 2021 did not judge either."""
    if not mutual and (idle := judging.idle_options):
        say(
            PROGRAM,
            f"every client is served, and none is judged: without --mutual there is no use for {', '.join(idle)}",
            kind="warning",
            hint="say --mutual to judge the relay, or leave these options out",
        )


def _application(app: Address | None, limits: ServiceLimits) -> Greeting | Forwarding:
    if app is None:
        return Greeting()
    return Forwarding(address=app, limits=Limits(idle=limits.idle_timeout, lifetime=limits.max_lifetime))


def _legacy_side(
    judging: Judging, attesting: Attesting, certificate: str, *, mutual: bool, endorsements: bool
) -> LegacySide:
    return LegacySide(
        judge=open_legacy_judge(judging, Role.RELAY, serving=True) if mutual else None,
        identity=make_legacy_identity(
            attesting.open(default="sgx_ecdsa"),
            certificate=certificate,
            endorsed_by=judging.source() if endorsements else None,
        ),
        demands_certificate=mutual,
        dangerous_accept_no_evidence=judging.dangerous_accept_no_evidence,
    )


def main() -> NoReturn:
    """Run `enclave-tls-server`."""
    run(cli, PROGRAM)
