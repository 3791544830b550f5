"""`eaa-pccs fetch`: collateral from Intel's service or another PCCS into a file, on a machine that reaches it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from eaa.errors import EAAError, Misuse, Reason, Unavailable
from eaa.pccs.options import (
    answering_errors,
    read_token,
    trust_anchor_option,
    upstream_options,
)
from eaa.program.files import read_bytes, read_trust_anchor, write_whole, writing_whole
from eaa.program.output import json_option, print_json

MAX_QUOTE: Final = 1024 * 1024
_FMSPC: Final = re.compile(r"[0-9a-fA-F]{12}")
_UPDATES: Final = ("STANDARD", "EARLY")


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--fmspc", "fmspcs", multiple=True, metavar="HEX", help="A platform model, 12 hex digits. Repeatable.")
@click.option(
    "--from-quote",
    "quotes",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="A quote of a platform of the model that is wanted. Repeatable.",
)
@click.option(
    "--key", type=click.Path(path_type=Path), metavar="FILE", help="The private key (PEM) that signs a bundle."
)
@upstream_options("Intel's PCS or another PCCS.")
@trust_anchor_option("A root certificate (PEM) whose documents are taken as well as Intel's. Repeatable.")
@json_option
def fetch(
    *,
    output: Path,
    fmspcs: tuple[str, ...],
    quotes: tuple[Path, ...],
    key: Path | None,
    upstream: str,
    upstream_ca: Path | None,
    upstream_root_crl: str | None,
    api_key_file: Path | None,
    trust_anchors: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Fetch all that verifies the quotes of platform models, and write it to OUTPUT.

    With --key OUTPUT is a bundle, for `eaa-pccs import` where no network reaches. Without, it is a folder, with a file
    for each model, TEE and CA, for `shelter --collateral`. Everything is verified before it is written. A quote that
    names its platform and carries no PCK certificate has the platform's certificates fetched as well.
    """
    from eaa.pccs.upstream import Upstream  # noqa: PLC0415  --help has no use for an HTTP client

    with answering_errors(as_json=as_json, written=False):
        if not fmspcs and not quotes:
            raise Misuse(Reason.USAGE, "which models are wanted is not said", hint="--fmspc HEX or --from-quote FILE")
        named = [_named_by(path) for path in quotes]
        written, missing = _fetch(
            tuple(dict.fromkeys([*map(_fmspc, fmspcs), *(each for each in named if isinstance(each, str))])),
            tuple(each for each in named if not isinstance(each, str)),
            output,
            key=key,
            upstream=Upstream(
                upstream,
                api_key=None if api_key_file is None else read_token(api_key_file, of="subscription"),
                ca_file=upstream_ca,
                root_crl_url=upstream_root_crl,
            ),
            roots=frozenset(read_trust_anchor(path) for path in trust_anchors),
        )
    if as_json:
        print_json(
            {"written": True, "files": written, "missing": missing, "reason": None, "message": None, "hint": None}
        )
        return
    for name in written:
        click.echo(f"{name} is written")
    for name in missing:
        click.echo(f"not there: {name}")


def _fmspc(text: str) -> str:
    if not _FMSPC.fullmatch(text):
        raise Misuse(Reason.USAGE, f"{text!r} is no FMSPC: 12 hex digits", hint="`shelter inspect QUOTE` shows it")
    return text.upper()


def _named_by(path: Path) -> Any:
    """Return the FMSPC of a quote's PCK certificate, or where it carries none, the platform that it names."""
    from eaa.collateral.intel import pck_certificate_of  # noqa: PLC0415
    from eaa.evidence.ppid import PPID_SIZES  # noqa: PLC0415
    from eaa.evidence.quote import Quote  # noqa: PLC0415
    from eaa.pccs.registration import Registration  # noqa: PLC0415
    from eaa.verifier.platforms import pck_name  # noqa: PLC0415

    quote, _ = Quote.parse_prefix(read_bytes(path, what="the quote", maximum=MAX_QUOTE))
    kind = quote.certification_data_type
    if kind not in PPID_SIZES:
        return pck_certificate_of(quote.certification_data, certification_data_type=kind).fmspc.hex().upper()
    name = pck_name(quote)
    if name.encrypted_ppid is None:
        raise Misuse(
            Reason.USAGE,
            f"the quote {path} names its platform in a form by which no service gives its certificate",
            hint="name the model with --fmspc",
        )
    return Registration(
        qe_id=name.qe_id.hex().upper(),
        pce_id=name.pce_id.hex().upper(),
        cpu_svn=name.cpu_svn.hex().upper(),
        pce_svn=name.pce_svn.to_bytes(2, "little").hex().upper(),
        platform_manifest="",
        enc_ppid=name.encrypted_ppid.hex(),
    )


def _fetch(
    models: tuple[str, ...],
    platforms: tuple[Any, ...],
    output: Path,
    *,
    key: Path | None,
    upstream: Any,
    roots: frozenset[bytes],
) -> tuple[list[str], list[str]]:
    """Fetch into a database of a moment, which verifies; write from there. Return what was written, and was missing."""
    from eaa.pccs.filling import Filler  # noqa: PLC0415
    from eaa.pccs.store import Store  # noqa: PLC0415
    from eaa.verifier import INTEL, TrustAnchors, wall_clock  # noqa: PLC0415

    anchors = TrustAnchors(INTEL.fingerprints | roots)
    with tempfile.TemporaryDirectory(prefix="eaa-pccs-") as folder:
        store = Store.open(Path(folder) / "pccs.sqlite")
        try:
            filler = Filler(upstream, store, trust_anchors=anchors, clock=wall_clock)
            for platform in platforms:
                _fetched("a platform's PCK certificate", partial(filler.platform, platform), is_needed=True)
            known = {fmspc for _, fmspc in store.fleet_size()}
            missing = _fill(filler, tuple(dict.fromkeys([*models, *sorted(known)])))
            if key is not None:
                return _write_bundle(store, output, key), missing
            return _write_folder(store, output), missing
        finally:
            store.close()


def _fill(filler: Any, models: tuple[str, ...]) -> list[str]:
    """Fetch everything there is for these models; return what the upstream has not."""
    work: list[tuple[str, bool, Callable[[], None]]] = []
    for name in ("QE", "TD_QE", "QVE"):
        for update in _UPDATES:
            is_needed = (name, update) == ("QE", "STANDARD")
            fetch_one = partial(filler.identity, name=name, update=update)
            work.append((f"the {name} identity, {update.lower()}", is_needed, fetch_one))
    cas = ("PROCESSOR", "PLATFORM")
    work += [(f"the CRL of the {ca} CA", False, partial(filler.pck_crl, ca=ca)) for ca in cas]
    for fmspc in models:
        for tee in ("SGX", "TDX"):
            for update in _UPDATES:
                fetch_one = partial(filler.tcb_info, tee=tee, fmspc=fmspc, update=update)
                is_needed = (tee, update) == ("SGX", "STANDARD")
                work.append((f"{tee} TCB Info for FMSPC {fmspc}, {update.lower()}", is_needed, fetch_one))
    return [name for name, is_needed, fetch_one in work if not _fetched(name, fetch_one, is_needed=is_needed)]


def _fetched(name: str, fetch_one: Callable[[], None], *, is_needed: bool) -> bool:
    from eaa.pccs.wire import Refusal, Status  # noqa: PLC0415

    try:
        fetch_one()
    except Refusal as refusal:
        if refusal.status is Status.NO_CACHE_DATA and not is_needed:
            return False
        raise _unavailable(name, refusal) from refusal
    return True


def _unavailable(name: str, refusal: Any) -> EAAError:
    from eaa.pccs.wire import Status  # noqa: PLC0415

    is_missing = refusal.status is Status.NO_CACHE_DATA
    return Unavailable(
        Reason.COLLATERAL_NOT_FOUND if is_missing else Reason.PCCS_ERROR,
        f"{name} could not be fetched: {refusal.cause}",
        hint="check the model" if is_missing else "check --upstream, --upstream-ca and --trust-anchor",
    )


def _write_bundle(store: Any, output: Path, key: Path) -> list[str]:
    from eaa.pccs.bundle import read_private_key  # noqa: PLC0415
    from eaa.pccs.transfer import export_bundle, roots_of  # noqa: PLC0415

    private = read_private_key(key)
    with writing_whole(output) as stream:
        export_bundle(store, stream, roots=roots_of(store, ""), key=private, scratch=output.absolute().parent)
    return [str(output)]


def _write_folder(store: Any, output: Path) -> list[str]:
    from eaa.pccs.single import collaterals  # noqa: PLC0415

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misuse(Reason.FILE_UNREADABLE, f"{output} is no folder: {error.strerror}", hint="name another") from error
    written = []
    for name, collateral in collaterals(store):
        path = output / name
        write_whole(path, collateral.to_json())
        written.append(str(path))
    return written
