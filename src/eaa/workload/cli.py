"""`enclave-tls-server`: the confidential container's server. Answers with its own evidence."""

from __future__ import annotations

from typing import NoReturn

import click
from click.core import ParameterSource

from eaa import __version__
from eaa.aio.relay import IDLE_TIMEOUT
from eaa.appraise.result import Role
from eaa.errors import Misuse, Reason
from eaa.program.address import ADDRESS, Address, TCPAddress
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
from eaa.program.run import run
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

PROGRAM = "enclave-tls-server"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
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
@click.option(
    "--idle-timeout",
    type=click.FloatRange(min=1, max=86_400),
    default=IDLE_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="With --app: close a session in which no byte has moved for so long.",
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
@metrics_option
@log_level_option("info", "-l", "--log-level")
def cli(
    *,
    ip: str,
    port: int,
    listen: Address | None,
    app: Address | None,
    idle_timeout: float,
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
    metrics: Address | None,
    log_level: str,
) -> int:
    """Serve an application behind attested TLS, with this enclave's own evidence.

    The application is any server in the same TEE, unmodified (--app). It is sent nothing before a client has accepted
    this workload. Every client gets evidence bound to its own session. With --mutual only a relay is served whose
    evidence the reference values of role relay accept.
    """
    del product_enclave
    set_up_logging(PROGRAM, log_level)
    reference_engine(tls, crypto)
    refuse_debug_enclave(asked=debug_enclave)
    refuse_options_of_the_other(legacy=legacy)
    judging.require_known_verifier()
    address = listen or TCPAddress(ip, port)
    if legacy:
        side = LegacySide(
            judge=open_legacy_judge(judging, Role.RELAY, serving=True) if mutual else None,
            identity=make_legacy_identity(
                attesting.open(default="sgx_ecdsa"),
                certificate=legacy_certificate,
                endorsed_by=judging.source() if endorsements else None,
            ),
            demands_certificate=mutual,
            dangerous_accept_no_evidence=judging.dangerous_accept_no_evidence,
        )
        return serve_legacy(address, side)
    refuse_endorsements(asked=endorsements)
    judges = mutual and not judging.judges_nobody
    verifier = judging.open(Role.RELAY, flags_for=Role.RELAY) if judges else None
    # Who judges nobody may still have been told where the collateral is that clients will want.
    stapled_by = verifier or (judging.stapler() if judging.names_a_source else None)
    identity = attesting.identity(attesting.open(default="sgx_ecdsa"), stapled_by=stapled_by)
    _refuse_idle_timeout_without(app)
    application = Greeting() if app is None else Forwarding(address=app, idle_timeout=idle_timeout)
    return serve(
        address, identity=identity, verifier=verifier, binding=binding, application=application, metrics=metrics
    )


def _refuse_idle_timeout_without(app: Address | None) -> None:
    source = click.get_current_context().get_parameter_source("idle_timeout")
    if app is None and source not in (None, ParameterSource.DEFAULT):
        raise Misuse(Reason.USAGE, "--idle-timeout is for an application, and there is none", hint="name it with --app")


def main() -> NoReturn:
    """Run `enclave-tls-server`."""
    run(cli, PROGRAM)
