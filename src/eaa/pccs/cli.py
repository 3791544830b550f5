"""eaa-pccs: a provisioning certificate caching service, and the upload to any of them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import click

from eaa import __version__
from eaa.aio.address import unavailable_from_os_error
from eaa.errors import EAAError, Misuse, Reason
from eaa.program.address import ADDRESS, Address, TCPAddress
from eaa.program.files import read_bytes, read_trust_anchor
from eaa.program.logs import log_level_option, set_up_logging
from eaa.program.run import EXIT_INTERRUPTED, EXIT_TERMINATED, run

MAX_TOKEN: Final = 1024
"""Bytes of a token file."""
SHORT_TOKEN: Final = 16
"""Characters below which a token can be guessed over the network, and is warned of."""
_LOOPBACK: Final = ("127.", "::1", "localhost")
_log = logging.getLogger(__name__)


class _DefaultServe(click.Group):
    """A group whose verb `serve` may be left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if not args or (args[0].startswith("-") and args[0] not in own):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_DefaultServe, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """A provisioning certificate caching service (PCCS) with Intel's own REST API.

    `eaa-pccs` alone is `eaa-pccs serve`. Stopped by SIGTERM (exit code 143) or Ctrl-C (130) it lets
    requests in progress finish first.
    """


@cli.command()
@click.option(
    "--listen",
    type=ADDRESS,
    default="127.0.0.1:8081",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to serve. Port 0 takes a free one; the line `listening on` names it.",
)
@click.option(
    "--db",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The database. Default: eaa/pccs.sqlite in the user's data folder; made where it is missing.",
)
@click.option(
    "--admin-token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Holds the token that uploads must carry, or its hash. There is no default: without one, they get 401.",
)
@click.option(
    "--user-token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Holds the token with which platforms report themselves. There is no default: without one, they get 401.",
)
@click.option(
    "--mode",
    type=click.Choice(["OFFLINE", "REQ", "LAZY"], case_sensitive=False),
    default="OFFLINE",
    show_default=True,
    help="When to ask the upstream: never, when a platform reports itself, or for every miss.",
)
@click.option(
    "--upstream",
    default="https://api.trustedservices.intel.com/sgx/certification/v4/",
    show_default=True,
    metavar="URL",
    help="What to fill from in the modes REQ and LAZY: Intel's PCS or another PCCS.",
)
@click.option("--upstream-ca", type=click.Path(path_type=Path), metavar="FILE", help="The CA (PEM) of the upstream.")
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Holds the subscription key with which Intel's PCS gives PCK certificates.",
)
@click.option(
    "--refresh-hours",
    type=click.IntRange(0, 24 * 30),
    default=24,
    show_default=True,
    help="How often to fetch anew what is stored, in the modes REQ and LAZY. 0: only when asked to.",
)
@click.option(
    "--trust-anchor",
    "trust_anchors",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="A root certificate (PEM) whose documents are stored and served as well as Intel's. Repeatable.",
)
@click.option("--tls-cert", type=click.Path(path_type=Path), metavar="FILE", help="Serve https with this chain (PEM).")
@click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="The key of --tls-cert (PEM).")
@click.option(
    "--tls-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Serve https with a certificate of our own in this folder, made on the first start. Clients need its ca.pem.",
)
@click.option(
    "--tls-name",
    "tls_names",
    multiple=True,
    metavar="NAME",
    help="A host name or address that the certificate in --tls-dir is to be valid for. Repeatable.",
)
@log_level_option("info")
def serve(
    *,
    listen: Address,
    db: Path | None,
    admin_token_file: Path | None,
    user_token_file: Path | None,
    trust_anchors: tuple[Path, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_dir: Path | None,
    tls_names: tuple[str, ...],
    log_level: str,
    **filling: Any,
) -> int:
    """Serve what was uploaded, and in the modes REQ and LAZY what the upstream has.

    Everything is verified before it is stored and before it is served, up to Intel's root or one that --trust-anchor
    names.
    """
    set_up_logging("eaa-pccs", log_level)
    if not isinstance(listen, TCPAddress):
        raise Misuse(Reason.ADDRESS_INVALID, f"{listen} is no HOST:PORT", hint="PCCS clients speak http over TCP only")
    if (tls_cert is None) != (tls_key is None):
        raise Misuse(Reason.USAGE, "--tls-cert and --tls-key go together")
    if (tls_cert and tls_dir) or (tls_names and not tls_dir):
        raise Misuse(Reason.USAGE, "--tls-dir makes a certificate, with --tls-name; --tls-cert names one that is there")
    token = None if admin_token_file is None else read_token(admin_token_file)
    user_token = None if user_token_file is None else read_token(user_token_file, of="user")
    roots = frozenset(read_trust_anchor(path) for path in trust_anchors)
    database = db or default_database(os.environ)
    # Imported late: --help has no use for an HTTP engine and a database.
    try:
        from eaa.pccs.server import TLSFiles  # noqa: PLC0415
    except ImportError as error:
        raise Misuse(
            Reason.USAGE,
            f"serving needs packages that are not installed: {error.name}",
            hint="`pip install 'inclavare-eaa[pccs]'` installs them",
        ) from error

    if tls_dir is not None:
        tls_cert, tls_key = _own_certificate(tls_dir, listen.host, tls_names)
    tls = None if tls_cert is None or tls_key is None else TLSFiles(certificate=tls_cert, key=tls_key)
    return _serve(
        _Plan(
            listen=listen,
            database=database,
            tls=tls,
            token=token,
            user_token=user_token,
            roots=roots,
            filling=_Filling(**filling),
        )
    )


def _own_certificate(folder: Path, host: str, names: tuple[str, ...]) -> tuple[Path, Path]:
    from eaa.pccs.certificates import own_certificate  # noqa: PLC0415
    from eaa.verifier import wall_clock  # noqa: PLC0415

    everywhere = ("0.0.0.0", "::")  # noqa: S104  compared with, not bound to
    wanted = dict.fromkeys(("localhost", "127.0.0.1", "::1", *names, *((host,) if host not in everywhere else ())))
    own = own_certificate(folder, names=tuple(wanted), now=wall_clock())
    if own.made:
        _log.info("a TLS certificate for %s was made; clients trust %s", ", ".join(wanted), own.ca)
    return own.certificate, own.key


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filling:
    """Where what is missing comes from."""

    mode: str
    upstream: str
    upstream_ca: Path | None
    api_key_file: Path | None
    refresh_hours: int

    def open(self, store: Any, trust_anchors: Any) -> Any:
        """Return a filler of this store; None in OFFLINE mode."""
        from eaa.pccs.filling import Filler, Mode  # noqa: PLC0415
        from eaa.pccs.upstream import Upstream  # noqa: PLC0415
        from eaa.verifier import wall_clock  # noqa: PLC0415

        if self.mode == Mode.OFFLINE:
            return None
        key = None if self.api_key_file is None else read_token(self.api_key_file, of="subscription")
        upstream = Upstream(self.upstream, api_key=key, ca_file=self.upstream_ca)
        return Filler(upstream, store, trust_anchors=trust_anchors, clock=wall_clock)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What to serve, and where."""

    listen: TCPAddress
    database: Path
    tls: Any
    token: str | None = field(repr=False)
    user_token: str | None = field(repr=False)
    roots: frozenset[bytes]
    filling: _Filling


def _serve(plan: _Plan) -> int:
    from eaa.pccs import server  # noqa: PLC0415

    if plan.tls is not None:
        plan.tls.require_usable()
    try:
        listener = server.bind(plan.listen.host, plan.listen.port)
    except OSError as error:
        raise unavailable_from_os_error(error, doing=f"listening on {plan.listen}") from error
    with listener, contextlib.ExitStack() as stack:
        service = _open_service(plan, stack)
        _say_what_is_open(plan.listen, plan.token, is_tls=plan.tls is not None)
        stopped_by = server.serve(service, listener, tls=plan.tls, ready=_announce)
    code = EXIT_TERMINATED if stopped_by is signal.SIGTERM else EXIT_INTERRUPTED
    server.leave_if_engine_lingers(code)
    return code


def _open_service(plan: _Plan, stack: contextlib.ExitStack) -> Any:
    from eaa.pccs.filling import Mode, Refresher  # noqa: PLC0415
    from eaa.pccs.service import Service  # noqa: PLC0415
    from eaa.pccs.store import Store  # noqa: PLC0415
    from eaa.pccs.tokens import Token  # noqa: PLC0415
    from eaa.verifier import INTEL, TrustAnchors  # noqa: PLC0415

    store = Store.open(plan.database)
    stack.callback(store.close)
    anchors = TrustAnchors(INTEL.fingerprints | plan.roots)
    filler = plan.filling.open(store, anchors)
    if filler is not None and plan.filling.refresh_hours:
        stack.callback(Refresher(filler, every=timedelta(hours=plan.filling.refresh_hours)).close)
    return Service(
        store,
        admin_token=Token() if plan.token is None else Token.of(plan.token),
        user_token=Token() if plan.user_token is None else Token.of(plan.user_token),
        trust_anchors=anchors,
        mode=Mode(plan.filling.mode),
        filler=filler,
    )


def _announce(url: str) -> None:
    # Not a log line: whoever started us waits for it, whatever the log level is.
    click.echo(f"eaa-pccs: listening on {url}", err=True)


def _say_what_is_open(listen: TCPAddress, token: str | None, *, is_tls: bool) -> None:
    if token is None:
        _log.warning("no administrator token is set: uploads are answered 401 (--admin-token-file sets one)")
    if not is_tls and not listen.host.startswith(_LOOPBACK):
        _log.warning("serving plain http beyond this machine: an upload's token can be read on the way (--tls-cert)")


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--url", required=True, metavar="URL", help="The PCCS, with or without /sgx/certification/v4/.")
@click.option(
    "--admin-token-file",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Holds the token that the PCCS was started with.",
)
@click.option("--ca", type=click.Path(path_type=Path), metavar="FILE", help="The CA (PEM) of the PCCS's certificate.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON object.")
def upload(file: Path, url: str, admin_token_file: Path, ca: Path | None, as_json: bool) -> None:  # noqa: FBT001  click's
    """Store the platforms and collateral of FILE (platform_collaterals.json) in a PCCS, ours or another."""
    try:
        from eaa.pccs.uploads import MAX_UPLOAD  # noqa: PLC0415
        from eaa.sources.pccs import upload as put  # noqa: PLC0415

        body = read_bytes(file, what="the collateral file", maximum=MAX_UPLOAD)
        put(url, body, read_token(admin_token_file), ca_file=ca)
    except EAAError as error:
        if as_json:
            _print_json(stored=False, reason=str(error.reason), message=error.message, hint=error.hint)
        raise
    if as_json:
        _print_json(stored=True, reason=None, message=f"{file} is stored at {url}", hint=None)
    else:
        click.echo(f"{file} is stored at {url}")


@cli.command("hash-token")
@click.argument("file", type=click.Path(path_type=Path))
def hash_token(file: Path) -> None:
    """Print the salted, slow hash (scrypt) of the token in FILE, one line: a token file may hold it instead."""
    from eaa.pccs.tokens import hash_token as hashed  # noqa: PLC0415

    click.echo(hashed(read_token(file)))


def _print_json(**answer: Any) -> None:
    click.echo(json.dumps(answer))


def read_token(path: Path, *, of: str = "administrator") -> str:
    """Return the token in a file, without the spaces and line ends around it. Raises Misuse (FILE_UNREADABLE)."""
    raw = read_bytes(path, what=f"the {of} token file", maximum=MAX_TOKEN)
    token = raw.decode("ascii", "replace").strip()
    if not token or not token.isascii() or not token.isprintable():
        raise Misuse(
            Reason.FILE_UNREADABLE,
            f"the {of} token file {path} holds no token: printable ASCII characters on one line",
            hint="`openssl rand -hex 32 > FILE` makes one; keep it readable by its owner only",
        )
    if len(token) < SHORT_TOKEN:
        _log.warning("the %s token has %d characters; whoever reaches this service can guess", of, len(token))
    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        _log.warning("the %s token file %s is readable by others than its owner", of, path)
    return token


def default_database(environ: Mapping[str, str]) -> Path:
    """Return where the database lies unless it is named: in the user's data folder."""
    base = environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "eaa" / "pccs.sqlite"


def main() -> None:
    """Run the program."""
    run(cli, "eaa-pccs")
