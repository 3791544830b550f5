"""`shelter record`: write down a reference value, from an image, from a digest, or from a running node."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from eaa.appraise.reference_values import ReferenceValue, ReferenceValues, append_value
from eaa.appraise.result import Attests, Role
from eaa.errors import EAAError, Misuse, Reason, Rejection
from eaa.program.address import ADDRESS, Address
from eaa.program.files import read_text_if_there, write_whole
from eaa.program.options import Judging, default_reference_values, judging_options, parse_digest
from eaa.program.output import json_option, print_failure, print_json
from eaa.shelter.images import measure_file
from eaa.shelter.measuring import require_signed


@click.command("record")
@click.argument("name")
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True)
@click.option(
    "--attests",
    type=click.Choice([word.value for word in Attests]),
    default=Attests.PROCESS.value,
    show_default=True,
    help="What matching evidence speaks for: the process itself, or (a report-only enclave) only its platform.",
)
@click.option("--image", type=click.Path(path_type=Path), metavar="FILE", help="Measure this enclave image.")
@click.option(
    "--sigstruct", type=click.Path(path_type=Path), metavar="FILE", help="Its SIGSTRUCT, to pin the signer too."
)
@click.option("--mrenclave", metavar="HEX", help="Record this measurement.")
@click.option(
    "--from",
    "node",
    type=ADDRESS,
    metavar="ADDRESS",
    help="Take it from this node, after everything else was verified.",
)
@click.option("--workload", metavar="NAME", default="", help="With --from and --role workload: which workload.")
@click.option("--expect", metavar="HEX", help="With --from: record only this measurement, and do not ask.")
@click.option("--replace", is_flag=True, help="Replace a value of this name.")
@judging_options()
@json_option
def record_command(
    *, name: str, role: str, attests: str, replace: bool, judging: Judging, as_json: bool, **given: Any
) -> int:
    """Record the reference value NAME: a measurement that you expect, its role, and the root it was seen under."""
    source = _Source(**given)
    source.require_one(Role(role))
    value = ReferenceValue(
        name=name,
        role=Role(role),
        attests=Attests(attests),
        trust_anchor=_single_anchor(judging),
        mr_enclave=bytes(32),
    )
    path = judging.reference_values or default_reference_values()
    recorded = ReferenceValues.parse(_recorded(path))
    _require_free(recorded, name, may_replace=replace)
    try:
        value = source.fill(value, judging, recorded)
        # Read again: asking a person takes long enough for somebody else to record another value.
        write_whole(path, append_value(_recorded(path), value, replace=replace).encode())
    except EAAError as error:
        return print_failure(error, as_json=as_json)
    _print(value, path, as_json=as_json)
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Where the measurement comes from."""

    image: Path | None
    sigstruct: Path | None
    mrenclave: str | None
    node: Address | None
    workload: str
    expect: str | None

    def require_one(self, role: Role) -> None:
        if sum(source is not None for source in (self.image, self.mrenclave, self.node)) != 1:
            raise Misuse(Reason.USAGE, "give exactly one of --image, --mrenclave and --from")
        if self.expect is not None and self.node is None:
            raise Misuse(Reason.USAGE, "--expect goes with --from")
        if self.workload and (self.node is None or role is not Role.WORKLOAD):
            raise Misuse(Reason.USAGE, "--workload goes with --from and --role workload")
        if self.node is not None and role is Role.CLIENT:
            raise Misuse(
                Reason.USAGE,
                "a node shows its relay and its workload, no client",
                hint="take a client's measurement from its --image, or give it with --mrenclave",
            )
        if self.sigstruct is not None and self.image is None:
            raise Misuse(Reason.USAGE, "--sigstruct goes with --image")

    def fill(self, value: ReferenceValue, judging: Judging, recorded: ReferenceValues) -> ReferenceValue:
        if self.mrenclave is not None:
            return replace(value, mr_enclave=parse_digest("--mrenclave", self.mrenclave))
        if self.image is not None:
            return _from_image(value, self.image, self.sigstruct)
        assert self.node is not None
        expected = None if self.expect is None else parse_digest("--expect", self.expect)
        if expected is None:
            _require_terminal()
        mr_enclave, mr_signer = _seen_at(
            self.node, role=value.role, workload=self.workload, judging=judging, recorded=recorded
        )
        _require_confirmed(f"{value.role} at {self.node}", mr_enclave, mr_signer, expected)
        return replace(value, mr_enclave=mr_enclave, mr_signer=mr_signer)


def _from_image(value: ReferenceValue, image: Path, sigstruct: Path | None) -> ReferenceValue:
    measured = measure_file(image, sigstruct=sigstruct)
    if measured.sigstruct is None:
        return replace(value, mr_enclave=measured.measurement.mr_enclave)
    require_signed(measured)
    return replace(value, mr_enclave=measured.measurement.mr_enclave, mr_signer=measured.sigstruct.mr_signer)


def _seen_at(node: Address, **visit: Any) -> tuple[bytes, bytes]:
    """Attest the node at level fresh; every check but the measurement must pass."""
    # Imported here: everything else of this command works without a network.
    from eaa.shelter.remote import observe_measurement  # noqa: PLC0415

    return observe_measurement(node, **visit)


def _require_terminal() -> None:
    # A stream is None where the caller closed it (`shelter … <&-`).
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr)):
        raise Misuse(
            Reason.NOT_CONFIRMED,
            "there is no terminal on which the measurement could be confirmed",
            hint="give the measurement you expect with --expect HEX",
        )


def _require_confirmed(who: str, mr_enclave: bytes, mr_signer: bytes, expected: bytes | None) -> None:
    """Raise unless it is what was expected, or what a person says is expected after having seen it."""
    if expected is not None and mr_enclave != expected:
        raise Rejection(
            Reason.MEASUREMENT_MISMATCH,
            f"the {who} measures to {mr_enclave.hex()}, expected was {expected.hex()}",
            hint="nothing was recorded",
        )
    click.echo(f"{who}\n  mr enclave: {mr_enclave.hex()}\n  mr signer:  {mr_signer.hex()}", err=True)
    if expected is None and not click.confirm("Is this what you built and expect?", err=True):
        raise Misuse(Reason.NOT_CONFIRMED, "the measurement was not confirmed, nothing was recorded")


def _single_anchor(judging: Judging) -> bytes:
    fingerprints = judging.anchors(judging.policy_file(None)).fingerprints
    if len(fingerprints) != 1:
        raise Misuse(
            Reason.USAGE,
            f"a reference value is recorded under one root, {len(fingerprints)} are trusted here",
            hint="name it with --trust-anchor",
        )
    return next(iter(fingerprints))


def _recorded(path: Path) -> str:
    return read_text_if_there(path, what="the reference-value file") or ""


def _require_free(recorded: ReferenceValues, name: str, *, may_replace: bool) -> None:
    """Refuse a taken name before any work is done for it."""
    if not may_replace and any(value.name == name for value in recorded):
        raise Misuse(
            Reason.REFERENCE_VALUE_EXISTS,
            f"a reference value named {name} is there already",
            hint="choose another name, or say --replace",
        )


def _print(value: ReferenceValue, path: Path, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "name": value.name,
                "role": value.role.value,
                "attests": value.attests.value,
                "trust_anchor": value.trust_anchor.hex(),
                "mr_enclave": value.measurement.hex(),
                "mr_signer": value.mr_signer.hex() if value.mr_signer else None,
                "file": str(path),
            }
        )
        return
    click.echo(f"recorded {value.name} ({value.role}): mr enclave {value.measurement.hex()}\nin {path}")
