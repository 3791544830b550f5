"""`shelter record`: write down a reference value, from an image, a digest, a quote, or a running node."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import click

from eaa.appraise.reference_values import DIGESTS, ReferenceValue, ReferenceValues, append_value
from eaa.appraise.result import Attests, Rejected, Role
from eaa.errors import EAAError, Misuse, Reason, Rejection
from eaa.evidence.quote import Quote
from eaa.program.address import ADDRESS, Address
from eaa.program.files import locked, read_bytes, read_text_if_there, write_whole
from eaa.program.options import Judging, default_reference_values, judging_options, parse_digest
from eaa.program.output import json_option, print_failure, print_json
from eaa.program.run import say
from eaa.shelter.first_sight import as_if_recorded, may_be_new, recordable, strictly
from eaa.shelter.images import flat_options, measure_file
from eaa.shelter.measuring import require_signed

_REGISTERS: Final = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")
_FLAT: Final = ("xfrm", "miscselect", "mmap_min_addr")


def _register_options(function: Any) -> Any:
    for name in reversed(_REGISTERS):
        function = click.option(f"--{name}", metavar="HEX", help=f"With --mrtd: pin {name.upper()} too.")(function)
    return function


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
@flat_options
@click.option("--mrenclave", metavar="HEX", help="Record this measurement of an enclave.")
@click.option("--mrtd", metavar="HEX", help="Record this measurement of a trust domain.")
@_register_options
@click.option(
    "--from-quote",
    "quote",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Take it from this quote, after everything else was verified.",
)
@click.option(
    "--from",
    "node",
    type=ADDRESS,
    metavar="ADDRESS",
    help="Take it from this node, after everything else was verified.",
)
@click.option("--workload", metavar="NAME", default="", help="With --from and --role workload: which workload.")
@click.option(
    "--expect", metavar="HEX", help="With --from or --from-quote: record only this measurement, and do not ask."
)
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
        # Read again, and alone: asking a person takes long enough for somebody else to record another value.
        with locked(path):
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
    xfrm: int | None
    miscselect: int | None
    mmap_min_addr: int | None
    mrenclave: str | None
    mrtd: str | None
    rtmr0: str | None
    rtmr1: str | None
    rtmr2: str | None
    rtmr3: str | None
    quote: Path | None
    node: Address | None
    workload: str
    expect: str | None

    def require_one(self, role: Role) -> None:
        sources = (self.image, self.mrenclave, self.mrtd, self.quote, self.node)
        if sum(source is not None for source in sources) != 1:
            raise Misuse(Reason.USAGE, "give exactly one of --image, --mrenclave, --mrtd, --from-quote and --from")
        if self.expect is not None and self.node is None and self.quote is None:
            raise Misuse(Reason.USAGE, "--expect goes with --from or --from-quote")
        if self.workload and (self.node is None or role is not Role.WORKLOAD):
            raise Misuse(Reason.USAGE, "--workload goes with --from and --role workload")
        if self.node is not None and role is Role.CLIENT:
            raise Misuse(
                Reason.USAGE,
                "a node shows its relay and its workload, no client",
                hint="take a client's measurement from its --image, or give it with --mrenclave",
            )
        for names, owner in ((("sigstruct", *_FLAT), "image"), (_REGISTERS, "mrtd")):
            stray = [name for name in names if getattr(self, name) is not None and getattr(self, owner) is None]
            if stray:
                raise Misuse(Reason.USAGE, f"--{stray[0].replace('_', '-')} goes with --{owner}")

    def fill(self, value: ReferenceValue, judging: Judging, recorded: ReferenceValues) -> ReferenceValue:
        if self.mrenclave is not None:
            return replace(value, mr_enclave=parse_digest("--mrenclave", self.mrenclave))
        if self.mrtd is not None:
            given = {name: getattr(self, name) for name in _REGISTERS if getattr(self, name) is not None}
            registers = {name: parse_digest(f"--{name}", text, 48) for name, text in given.items()}
            return _with(value, {"mr_td": parse_digest("--mrtd", self.mrtd, 48), **registers})
        if self.image is not None:
            return self._from_image(value, self.image)
        expected = None if self.expect is None else _measurement("--expect", self.expect)
        if expected is None:
            _require_terminal()
        if self.quote is not None:
            where, seen = str(self.quote), _seen_in(self.quote, value.role, judging, recorded)
        else:
            assert self.node is not None
            where, seen = (
                str(self.node),
                _seen_at(self.node, role=value.role, workload=self.workload, judging=judging, recorded=recorded),
            )
        _require_confirmed(f"{value.role} at {where}", seen, expected)
        return _with(value, seen)

    def _from_image(self, value: ReferenceValue, image: Path) -> ReferenceValue:
        measured = measure_file(
            image,
            sigstruct=self.sigstruct,
            xfrm=self.xfrm,
            misc_select=self.miscselect,
            mmap_min_addr=self.mmap_min_addr,
        )
        if measured.sigstruct is None:
            return replace(value, mr_enclave=measured.measurement.mr_enclave)
        require_signed(measured)
        return replace(value, mr_enclave=measured.measurement.mr_enclave, mr_signer=measured.sigstruct.mr_signer)


def _with(value: ReferenceValue, digests: dict[str, bytes]) -> ReferenceValue:
    """Return the value with exactly these digests."""
    empty: dict[str, Any] = dict.fromkeys(DIGESTS)
    return replace(value, **(empty | digests))


def _measurement(option: str, text: str) -> bytes:
    return parse_digest(option, text, 48 if len(text) == 96 else 32)


def _seen_at(node: Address, **visit: Any) -> dict[str, bytes]:
    """Attest the node at level fresh; every check but the measurement must pass."""
    # Imported here: everything else of this command works without a network.
    from eaa.shelter.remote import observe_measurement  # noqa: PLC0415

    return observe_measurement(node, **visit)


def _seen_in(path: Path, role: Role, judging: Judging, recorded: ReferenceValues) -> dict[str, bytes]:
    """Verify and appraise a quote; every check but the measurement must pass."""
    quote = Quote.parse(read_bytes(path, what="the quote"))
    verifier = strictly(judging).open(flags_for=role, values=recorded)
    verified = verifier.verify(quote, role=role)
    judgement = verifier.appraise(verified, role=role, session=None)
    if may_be_new(judgement):
        known = verifier.with_reference_values(as_if_recorded(verified, role))
        judgement = known.appraise(verified, role=role, session=None)
    match judgement.result:
        case Rejected(root_cause=cause) as result:
            raise Rejection(
                cause.reason,
                f"the quote fails the check {cause.name}: expected {cause.expected}, it is {cause.actual}",
                hint=cause.hint,
                result=result,
            )
    return recordable(verified)


def _require_terminal() -> None:
    # A stream is None where the caller closed it (`shelter … <&-`).
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr)):
        raise Misuse(
            Reason.NOT_CONFIRMED,
            "there is no terminal on which the measurement could be confirmed",
            hint="give the measurement you expect with --expect HEX",
        )


def _require_confirmed(who: str, seen: dict[str, bytes], expected: bytes | None) -> None:
    """Raise unless it is what was expected, or what a person says is expected after having seen it."""
    measurement = next(iter(seen.values()))
    if expected is not None and measurement != expected:
        raise Rejection(
            Reason.MEASUREMENT_MISMATCH,
            f"the {who} measures to {measurement.hex()}, expected was {expected.hex()}",
            hint="nothing was recorded",
        )
    width = max(len(name) for name in seen) + 1
    lines = [f"  {name.replace('_', ' ') + ':':<{width}} {digest.hex()}" for name, digest in seen.items()]
    click.echo("\n".join([who, *lines]), err=True)
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
    digests = {name: getattr(value, name) for name in DIGESTS}
    if as_json:
        print_json(
            {
                "name": value.name,
                "role": value.role.value,
                "attests": value.attests.value,
                "trust_anchor": value.trust_anchor.hex(),
                **{name: None if digest is None else digest.hex() for name, digest in digests.items()},
                "file": str(path),
            }
        )
        return
    kind = "mr enclave" if value.mr_td is None else "mr td"
    click.echo(f"recorded {value.name} ({value.role}): {kind} {value.measurement.hex()}\nin {path}")
    if value.mr_td is not None and value.attests is Attests.PROCESS and not {"rtmr1", "rtmr2"} <= value.pins.keys():
        say(
            "shelter",
            "an MRTD is that of the firmware: pin RTMR1 and RTMR2 too, or whatever it boots is accepted",
            kind="hint",
        )
