"""`inclavared`: attester and relay on every node."""

from __future__ import annotations

from typing import NoReturn

import click

from eaa import __version__
from eaa.appraise.result import Role
from eaa.errors import Misuse, Reason
from eaa.identity import LegacyIdentity
from eaa.inclavared.service import DEFAULT_WORKLOAD, Doors, Relay, fetch_once, serve
from eaa.program.address import ADDRESS, Address, NamedAddressType
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
from eaa.program.run import run
from eaa.tls.certificate import Format
from eaa.verifier import wall_clock

PROGRAM = "inclavared"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, "-V", "--version", prog_name=PROGRAM)
@click.option("-l", "--listen", type=ADDRESS, metavar="ADDRESS", help="Listen for Shelter here.")
@click.option(
    "-x",
    "--xfer",
    type=NamedAddressType(DEFAULT_WORKLOAD),
    multiple=True,
    metavar="[NAME=]ADDRESS",
    help="Relay to the workload here; repeat with names for more. Without a name it is `default`.",
)
@click.option("-c", "--connect", type=ADDRESS, metavar="ADDRESS", help="Attest this workload once, print it, and end.")
@click.option(
    "--legacy-listen",
    type=ADDRESS,
    metavar="ADDRESS",
    help="Answer the JSON exchange of 2021 here, for clients that know nothing better. Not bound to any session.",
)
@click.option("-m", "--mutual", is_flag=True, help="Show this relay's own evidence to the workload as well.")
@click.option("--attest-clients", is_flag=True, help="Judge Shelter too: serve only clients with accepted evidence.")
@binding_options(serves=True)
@attesting_options(enclave_names=("-e", "--enclave"))
@judging_options(of_peers=True)
@click.option("--tls", metavar="NAME", help="openssl, the only engine.")
@click.option("--crypto", metavar="NAME", help="openssl, the only engine.")
@metrics_option
@log_level_option("info")
@click.option("--json", "as_json", is_flag=True, help="With --connect: print the verdict as one JSON object.")
def cli(
    *,
    listen: Address | None,
    xfer: tuple[tuple[str, Address], ...],
    connect: Address | None,
    legacy_listen: Address | None,
    mutual: bool,
    attest_clients: bool,
    binding: Binding,
    attesting: Attesting,
    judging: Judging,
    tls: str | None,
    crypto: str | None,
    metrics: Address | None,
    log_level: str,
    as_json: bool,
) -> int:
    """Relay attested sessions between Shelter and the workload of this node.

    Inclavared shows its own evidence to Shelter, judges the workload, and then only moves bytes: Shelter's own
    session ends in the workload, and no key of it is ever here.
    """
    set_up_logging(PROGRAM, log_level)
    reference_engine(tls, crypto)
    judging.require_known_verifier()
    if (connect is None) == (listen is None and legacy_listen is None):
        raise Misuse(
            Reason.USAGE,
            "there is nothing to do",
            hint="--listen ADDRESS with --xfer ADDRESS serves, --connect ADDRESS asks once",
        )
    if metrics is not None and connect is not None:
        raise Misuse(
            Reason.USAGE, "--metrics is for a relay that serves, and --connect asks once", hint="leave one out"
        )
    if judging.judges_nobody and (legacy_listen or connect or attest_clients):
        raise Misuse(
            Reason.USAGE,
            "--legacy-listen, --connect and --attest-clients report what was verified; nullverifier verifies nothing",
            hint="leave --verifier nullverifier out",
        )
    workloads = dict(xfer)
    if len(workloads) != len(xfer):
        raise Misuse(Reason.USAGE, "--xfer names a workload twice", hint="give each its own NAME=ADDRESS")
    roles = [role for role, judged in ((Role.WORKLOAD, xfer or connect), (Role.CLIENT, attest_clients)) if judged]
    verifier = None if judging.judges_nobody else judging.open(*roles, flags_for=Role.WORKLOAD)
    attester = attesting.open(default="sgx_ecdsa")
    # Clients of 2021 read no other certificate than theirs, and it is made only for them: it wants an RSA key.
    v1 = LegacyIdentity(attester, format=Format.ENCLAVE_TLS_V1, clock=wall_clock) if legacy_listen else None
    relay = Relay.create(
        identity=attesting.identity(attester, stapled_by=verifier),
        verifier=verifier,
        legacy_identity=v1,
        mutual=mutual,
        attest_clients=attest_clients,
        binding=binding,
    )
    if connect is not None:
        return fetch_once(relay, connect, as_json=as_json)
    return serve(relay, Doors(listen=listen, legacy=legacy_listen, metrics=metrics), workloads)


def main() -> NoReturn:
    """Run `inclavared`."""
    run(cli, PROGRAM)
