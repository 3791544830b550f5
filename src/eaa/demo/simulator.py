"""`eaa simulator`: software TEEs as folders, and sample enclave images to launch in them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from eaa.errors import Misuse, Reason, Unavailable
from eaa.measure.sgx import measure_sgxs
from eaa.program.files import read_bytes, write_whole
from eaa.program.output import json_option, print_json
from eaa.simulator.faults import Fault, Stage
from eaa.simulator.images import create_signer_key, sample_image
from eaa.simulator.platform import MAX_FILE, ROOT_FILE, SECRETS_FILE, Platform

IMAGE_SUFFIX: Final = ".sgxs"
SIGSTRUCT_SUFFIX: Final = ".sigstruct"
_PATH: Final = click.Path(path_type=Path)


@click.group("simulator")
def simulator_group() -> None:
    """Make software TEEs: byte-exact evidence under a root of its own.

    A verifier trusts such a platform only where its operator names DIR/root.pem as --trust-anchor, and then says
    SIMULATED. Every other file of DIR is secret.
    """


@simulator_group.command("create")
@click.argument("folder", type=_PATH, metavar="DIR")
@click.option("--ca", type=click.Choice(["platform", "processor"]), default="platform", show_default=True)
@click.option("--fmspc", metavar="HEX", help="The platform model, 12 hex digits.")
@click.option(
    "--tcb-status", metavar="STATUS", help="What TCB Info says of it, in Intel's spelling. Default: UpToDate."
)
@click.option("--advisory", "advisory_ids", multiple=True, metavar="ID", help="An advisory of that level; repeatable.")
@click.option("--evaluation-number", type=click.IntRange(0, 10_000), metavar="N")
@click.option(
    "--vendor-of",
    type=_PATH,
    metavar="DIR",
    help="Make another machine of the vendor of this platform. Default: a vendor of its own.",
)
@click.option("--image", "images", multiple=True, metavar="NAME", help="Also make the sample image DIR/NAME.sgxs.")
@json_option
def create_command(
    *, folder: Path, images: tuple[str, ...], vendor_of: Path | None, as_json: bool, **given: Any
) -> None:
    """Make a platform in DIR, which must not hold one yet."""
    if (folder / SECRETS_FILE).exists():
        raise Misuse(
            Reason.SIMULATOR_INVALID, f"{folder} holds a platform already", hint="choose another folder, or remove it"
        )
    now = datetime.now(UTC)
    vendor = None if vendor_of is None else _read_platform(vendor_of).pki
    platform = Platform.create(now=now, pki=vendor, **_options(**given))
    _write_platform(folder, platform)
    # One signer for all of them, as of one vendor; making its key takes longer than all the rest.
    key = create_signer_key() if images else None
    made = [_write_image(folder / f"{name}{IMAGE_SUFFIX}", name, now=now, signer_key=key) for name in images]
    _show({"platform": str(folder), "root": str(folder / ROOT_FILE), "images": made}, as_json=as_json)


def _options(
    *, ca: str, fmspc: str | None, tcb_status: str | None, advisory_ids: tuple[str, ...], evaluation_number: int | None
) -> dict[str, Any]:
    options: dict[str, Any] = {"ca": ca}
    if fmspc is not None:
        try:
            options["fmspc"] = bytes.fromhex(fmspc)
        except ValueError as error:
            raise Misuse(Reason.USAGE, f"--fmspc takes 12 hex digits, {fmspc!r} is something else") from error
    if tcb_status is not None:
        options["tcb_status"] = tcb_status
    if advisory_ids:
        options["advisory_ids"] = advisory_ids
    if evaluation_number is not None:
        options["tcb_evaluation_data_number"] = evaluation_number
    return options


@simulator_group.command("image")
@click.argument("path", type=_PATH, metavar="IMAGE")
@click.option("--name", help="Part of the enclave's data, so that another name is another MRENCLAVE. Default: IMAGE's.")
@click.option("--prod-id", type=click.IntRange(0, 0xFFFF), default=1, show_default=True)
@click.option("--svn", type=click.IntRange(0, 0xFFFF), default=1, show_default=True)
@click.option("--debug", is_flag=True, help="Sign it for a debug enclave, whose memory its host can read.")
@json_option
def image_command(*, path: Path, name: str | None, prod_id: int, svn: int, debug: bool, as_json: bool) -> None:
    """Make a sample enclave IMAGE (an SGXS page stream) and its SIGSTRUCT beside it."""
    made = _write_image(path, name or path.stem, now=datetime.now(UTC), prod_id=prod_id, svn=svn, debug=debug)
    _show({"images": [made]}, as_json=as_json)


@simulator_group.command("collateral")
@click.argument("folder", type=_PATH, metavar="DIR")
@click.option("-o", "--output", type=_PATH, metavar="FILE", help="Write it here. Default: stdout.")
@click.option(
    "--format",
    "layout",
    type=click.Choice(["upload", "file"]),
    default="upload",
    show_default=True,
    help="upload: the body for `eaa-pccs upload`. file: for `shelter --collateral`.",
)
@click.option(
    "--fault", "faults", multiple=True, metavar="NAME", help="Break one link of it (file only); see `faults`."
)
def collateral_command(*, folder: Path, output: Path | None, layout: str, faults: tuple[str, ...]) -> None:
    """Issue the collateral of the platform in DIR, as its vendor would today."""
    platform, now = _read_platform(folder), datetime.now(UTC)
    if layout == "upload":
        if faults:
            raise Misuse(Reason.USAGE, "--fault goes with --format file: a PCCS takes only what verifies")
        body = platform.platform_collaterals(now=now)
    else:
        body = platform.collateral(now=now, faults=_faults(faults, Stage.COLLATERAL)).to_json()
    if output is None:
        click.echo(body, nl=False)
    else:
        write_whole(output, body)


@simulator_group.command("tamper")
@click.argument("folder", type=_PATH, metavar="DIR")
@click.argument("copy", type=_PATH, metavar="COPY")
@click.option("--fault", "faults", multiple=True, required=True, metavar="NAME", help="See `faults`; repeatable.")
def tamper_command(*, folder: Path, copy: Path, faults: tuple[str, ...]) -> None:
    """Make a COPY of the platform in DIR whose quotes have something wrong with them: an attacker's machine."""
    platform = _read_platform(folder)
    _write_platform(copy, platform.with_quote_faults(_faults(faults, Stage.QUOTE)))


@simulator_group.command("faults")
@json_option
def faults_command(*, as_json: bool) -> None:
    """List every link that can be broken."""
    for fault in Fault:
        # Platforms in folders launch enclaves only.
        if fault.is_tdx:
            continue
        if as_json:
            print_json({"name": fault.name, "stage": fault.stage.value, "what": fault.what})
        else:
            click.echo(f"{fault.name} ({fault.stage.value}): {fault.what}")


def _faults(names: tuple[str, ...], stage: Stage) -> frozenset[Fault]:
    known = {fault.name: fault for fault in Fault if fault.stage is stage and not fault.is_tdx}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise Misuse(
            Reason.USAGE,
            f"{', '.join(unknown)}: no fault of a {stage.value}",
            hint="`eaa simulator faults` lists them all",
        )
    return frozenset(known[name] for name in names)


def _write_platform(folder: Path, platform: Platform) -> None:
    """Write a platform: the folder 0700, its files 0600."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise Unavailable(
            Reason.PERMISSION_DENIED, f"{folder} cannot be made: {error.strerror}", hint="choose another folder"
        ) from error
    for name, content in platform.to_files().items():
        write_whole(folder / name, content)


def _read_platform(folder: Path) -> Platform:
    names = (ROOT_FILE, SECRETS_FILE)
    return Platform.from_files(
        {name: read_bytes(folder / name, what="the platform's", maximum=MAX_FILE) for name in names}
    )


def _write_image(path: Path, name: str, *, now: datetime, **options: Any) -> dict[str, str]:
    image, sigstruct = sample_image(name, now=now, **options)
    write_whole(path, image)
    write_whole(path.with_suffix(SIGSTRUCT_SUFFIX), sigstruct)
    return {
        "image": str(path),
        "sigstruct": str(path.with_suffix(SIGSTRUCT_SUFFIX)),
        "mr_enclave": measure_sgxs(image).mr_enclave.hex(),
    }


def _show(document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    if "platform" in document:
        click.echo(f"platform: {document['platform']} (trust anchor {document['root']})")
    for made in document["images"]:
        click.echo(f"image: {made['image']} (mr enclave {made['mr_enclave']})")
