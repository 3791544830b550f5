"""`inclavared`: attester and relay on every node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import click

from eaa import __version__
from eaa.aio.limits import ServiceLimits
from eaa.errors import Misuse, Reason
from eaa.identity import LegacyIdentity
from eaa.inclavared.service import PROGRAM, Relay, fetch_once, serve
from eaa.inclavared.settings import (
    DEFAULT_WORKLOAD,
    JUDGEMENT_LIFETIME,
    MAX_WARM_CHANNELS,
    WARM_CHANNELS,
    OnBadVerdict,
)
from eaa.inclavared.wish import Doors, Fixed, Opened, Wish, WorkloadWish, default_among, wished_workloads
from eaa.program.address import ADDRESS, Address, NamedAddressType, NamedPathType
from eaa.program.config import (
    ConfiguredCommand,
    check_config_option,
    config_tables,
    is_reading_again,
    print_plan,
    reader_again,
)
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
from eaa.program.run import run
from eaa.program.workers import supervise, this_worker, workers_option
from eaa.tls.certificate import Format
from eaa.verifier import wall_clock


@click.command(
    cls=ConfiguredCommand,
    tables=("workload",),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
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
@click.option(
    "--default-workload",
    metavar="NAME",
    help="Which workload is meant by a client that names none. Default: `default`, or the only one.",
)
@click.option(
    "--workload-policy",
    "workload_policies",
    type=NamedPathType(),
    multiple=True,
    metavar="NAME=FILE",
    help="Judge this workload by an appraisal policy of its own, in place of --policy.",
)
@click.option(
    "--workload-reference-values",
    "workload_values",
    type=NamedPathType(),
    multiple=True,
    metavar="NAME=FILE",
    help="Compare this workload with reference values of its own, in place of --reference-values.",
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
@click.option(
    "--warm-channels",
    type=click.IntRange(0, MAX_WARM_CHANNELS),
    default=WARM_CHANNELS,
    show_default=True,
    metavar="N",
    help="Keep so many attested channels to each workload ready for clients to come. 0 for none.",
)
@click.option(
    "--judgement-lifetime",
    type=click.IntRange(1, 86400),
    default=JUDGEMENT_LIFETIME,
    show_default=True,
    metavar="SECONDS",
    help="How long a judgement is relied upon: older warm channels are replaced, live sessions are judged again.",
)
@click.option(
    "--on-bad-verdict",
    type=click.Choice([each.value for each in OnBadVerdict]),
    default=OnBadVerdict.CUT.value,
    show_default=True,
    help="What becomes of live sessions whose workload is acceptable no more: cut at once, or after --grace.",
)
@binding_options(serves=True)
@attesting_options(enclave_names=("-e", "--enclave"))
@judging_options(of_peers=True)
@click.option("--tls", metavar="NAME", help="openssl, the only engine.")
@click.option("--crypto", metavar="NAME", help="openssl, the only engine.")
@workers_option
@grace_option
@limits_options
@metrics_option
@log_level_option("info")
@check_config_option
@click.option("--json", "as_json", is_flag=True, help="With --connect or --check-config: print one JSON object.")
def cli(
    *,
    listen: Address | None,
    xfer: tuple[tuple[str, Address], ...],
    default_workload: str | None,
    workload_policies: tuple[tuple[str, Path], ...],
    workload_values: tuple[tuple[str, Path], ...],
    connect: Address | None,
    legacy_listen: Address | None,
    mutual: bool,
    attest_clients: bool,
    warm_channels: int,
    judgement_lifetime: int,
    on_bad_verdict: str,
    binding: Binding,
    attesting: Attesting,
    judging: Judging,
    tls: str | None,
    crypto: str | None,
    grace: float,
    limits: ServiceLimits,
    metrics: Address | None,
    log_level: str,
    check_config: bool,
    as_json: bool,
    workers: int,
) -> int | Wish:
    """Relay attested sessions between Shelter and the workloads of this node.

    Inclavared shows its own evidence to Shelter, judges the workloads, and then only moves bytes: Shelter's own
    session ends in the workload, and no key of it is ever here. SIGHUP reads files again, SIGTERM drains.
    """
    if not is_reading_again():
        set_up_logging(PROGRAM, log_level)
    reference_engine(tls, crypto)
    doors = Doors(listen=listen, legacy=legacy_listen, metrics=metrics)
    _refuse_contradictions(doors, connect, judging, attest_clients=attest_clients)
    workloads = wished_workloads(xfer, workload_policies, workload_values, config_tables())
    wish = Wish(
        fixed=Fixed(
            doors=doors,
            mutual=mutual,
            attest_clients=attest_clients,
            attesting=attesting,
            limits=limits,
            workers=workers,
            log_level=log_level,
        ),
        judging=judging,
        binding=binding,
        workloads=workloads,
        default=default_among(workloads, default_workload),
        warm_channels=warm_channels,
        judgement_lifetime=judgement_lifetime,
        on_bad_verdict=OnBadVerdict(on_bad_verdict),
        grace=grace,
    )
    if check_config or connect is not None:
        return _answer(wish, None if check_config else connect, as_json=as_json)
    return wish if is_reading_again() else _serve(wish)


def _refuse_contradictions(doors: Doors, connect: Address | None, judging: Judging, *, attest_clients: bool) -> None:
    if (connect is None) == (doors.listen is None and doors.legacy is None):
        raise Misuse(
            Reason.USAGE,
            "there is nothing to do",
            hint="--listen ADDRESS with --xfer ADDRESS serves, --connect ADDRESS asks once",
        )
    if doors.metrics is not None and connect is not None:
        raise Misuse(
            Reason.USAGE, "--metrics is for a relay that serves, and --connect asks once", hint="leave one out"
        )
    if judging.judges_nobody and (doors.legacy or connect or attest_clients):
        raise Misuse(
            Reason.USAGE,
            "--legacy-listen, --connect and --attest-clients report what was verified; nullverifier verifies nothing",
            hint="leave --verifier nullverifier out",
        )


def _answer(wish: Wish, address: Address | None, *, as_json: bool) -> int:
    return _check(wish, as_json=as_json) if address is None else _ask_once(wish, address, as_json=as_json)


def _check(wish: Wish, *, as_json: bool) -> int:
    Opened.of(wish)
    wish.fixed.attesting.check()
    print_plan(wish.plan(), as_json=as_json)
    return 0


def _ask_once(wish: Wish, address: Address, *, as_json: bool) -> int:
    asked = replace(wish, workloads={DEFAULT_WORKLOAD: WorkloadWish(address=address)}, default=DEFAULT_WORKLOAD)
    relay = _make_relay(asked)
    return fetch_once(relay, relay.settings.target(DEFAULT_WORKLOAD), as_json=as_json)


def _serve(wish: Wish) -> int:
    if wish.fixed.workers > 1 and this_worker() is None:
        return _supervise(wish)
    return serve(_make_relay(wish), reader_again())


def _supervise(wish: Wish) -> int:
    # What is wrong in a file is said once, and not by each worker.
    Opened.of(wish)
    doors = wish.fixed.doors
    addresses = [address for address in (doors.listen, doors.legacy) if address is not None]
    return supervise(wish.fixed.workers, program=PROGRAM, addresses=addresses, metrics=doors.metrics, grace=wish.grace)


def _make_relay(wish: Wish) -> Relay:
    opened = Opened.of(wish)
    attesting = wish.fixed.attesting
    attester = attesting.open(default="sgx_ecdsa")
    # Clients of 2021 read no other certificate than theirs, and it is made only for them: it wants an RSA key.
    v1 = None
    if wish.fixed.doors.legacy:
        v1 = LegacyIdentity(attester, format=Format.ENCLAVE_TLS_V1, clock=wall_clock)
    identity = attesting.identity(attester, stapled_by=opened.verifier)
    return Relay(opened, identity=identity, legacy_identity=v1)


def main() -> NoReturn:
    """Run `inclavared`."""
    run(cli, PROGRAM)
