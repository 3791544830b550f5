"""`eaa-pccs serve`: from a command line to a service on the wire."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click

from eaa.aio.address import unavailable_from_os_error
from eaa.errors import Misuse, Reason
from eaa.pccs.options import data_folder, db_option, default_database, read_token, trust_anchor_option, upstream_options
from eaa.program.address import ADDRESS, Address, TCPAddress
from eaa.program.config import ConfiguredCommand, check_config_option, print_plan
from eaa.program.files import read_trust_anchor
from eaa.program.logs import log_level_option, set_up_logging, speaks_json
from eaa.program.notify import Notifier
from eaa.program.run import EXIT_INTERRUPTED, EXIT_TERMINATED, say

_LOOPBACK: Final = ("127.", "::1", "localhost")
_EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104  compared with, not bound to
_log = logging.getLogger(__name__)


@click.command(cls=ConfiguredCommand)
@click.option(
    "--listen",
    type=ADDRESS,
    default="127.0.0.1:8081",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to serve. Port 0 takes a free one; the line `listening on` names it.",
)
@db_option
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
@upstream_options("What to fill from in the modes REQ and LAZY: Intel's PCS or another PCCS.")
@click.option(
    "--refresh-hours",
    type=click.IntRange(0, 24 * 30),
    default=24,
    show_default=True,
    help="How often to fetch anew what is stored, in the modes REQ and LAZY. 0: only when asked to.",
)
@click.option(
    "--refresh-schedule",
    metavar="SCHEDULE",
    help="When to do so in place of --refresh-hours: an interval (90m, 24h, 7d), or a cron expression in UTC of five "
    "fields, or six with seconds first.",
)
@click.option(
    "--crl-host",
    "crl_hosts",
    multiple=True,
    metavar="HOST[:PORT]",
    help="A host beside Intel's whose CRLs the route `crl` may be asked for. Repeatable.",
)
@trust_anchor_option("A root certificate (PEM) whose documents are stored and served as well as Intel's. Repeatable.")
@click.option("--tls-cert", type=click.Path(path_type=Path), metavar="FILE", help="Serve https with this chain (PEM).")
@click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="The key of --tls-cert (PEM).")
@click.option(
    "--tls-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the certificate lies that is made on the first start, unless --tls-cert names one. Clients need its "
    "ca.pem. Default: eaa/pccs-tls in the user's data folder.",
)
@click.option(
    "--tls-name",
    "tls_names",
    multiple=True,
    metavar="NAME",
    help="A host name or address that the certificate in --tls-dir is to be valid for. Repeatable.",
)
@click.option("--plain-http", is_flag=True, help="Serve http and not https.")
@click.option(
    "--admin",
    type=ADDRESS,
    metavar="ADDRESS",
    help="Serve a status page, metrics and health here, over plain HTTP, to be read only. Off by default.",
)
@log_level_option("info")
@check_config_option
@click.option("--json", "as_json", is_flag=True, help="With --check-config: print one JSON object.")
def serve(
    *,
    listen: Address,
    db: Path | str | None,
    admin_token_file: Path | None,
    user_token_file: Path | None,
    trust_anchors: tuple[Path, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_dir: Path | None,
    tls_names: tuple[str, ...],
    plain_http: bool,
    admin: Address | None,
    crl_hosts: tuple[str, ...],
    log_level: str,
    check_config: bool,
    as_json: bool,
    **filling: Any,
) -> int:
    """Serve what was uploaded, and in the modes REQ and LAZY what the upstream has.

    Everything is verified before it is stored and before it is served, up to Intel's root or one that --trust-anchor
    names. It is served over https unless --plain-http is said. A certificate that is replaced, or that SIGHUP says was,
    is taken without losing a request.
    """
    set_up_logging("eaa-pccs", log_level)
    if not isinstance(listen, TCPAddress):
        raise Misuse(Reason.ADDRESS_INVALID, f"{listen} is no HOST:PORT", hint="PCCS clients speak http over TCP only")
    tls = _TLS(cert=tls_cert, key=tls_key, folder=tls_dir, names=tls_names, plain=plain_http)
    tls.require_sense()
    _require_packages()
    plan = _Plan(
        listen=listen,
        database=db or default_database(os.environ),
        tls=tls,
        token=None if admin_token_file is None else read_token(admin_token_file),
        user_token=None if user_token_file is None else read_token(user_token_file, of="user"),
        roots=frozenset(read_trust_anchor(path) for path in trust_anchors),
        filling=_Filling(**filling),
        admin=admin,
        crl_hosts=frozenset(host.lower() for host in crl_hosts),
    )
    if check_config:
        plan.check()
        print_plan(plan.told(), as_json=as_json)
        return 0
    return _serve(plan)


def _require_packages() -> None:
    # Imported late: --help has no use for an HTTP engine and a database.
    try:
        import eaa.pccs.server  # noqa: F401, PLC0415
    except ImportError as error:
        raise Misuse(
            Reason.USAGE,
            f"serving needs packages that are not installed: {error.name}",
            hint="`pip install 'inclavare-eaa[pccs]'` installs them",
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _TLS:
    """Which certificate is served, as the command line has it."""

    cert: Path | None
    key: Path | None
    folder: Path | None
    names: tuple[str, ...]
    plain: bool

    def require_sense(self) -> None:
        """Raise Misuse where options contradict each other."""
        if (self.cert is None) != (self.key is None):
            raise Misuse(Reason.USAGE, "--tls-cert and --tls-key go together")
        if self.cert and (self.folder or self.names):
            raise Misuse(
                Reason.USAGE, "--tls-dir makes a certificate, with --tls-name; --tls-cert names one that is there"
            )
        if self.plain and (self.cert or self.folder or self.names):
            raise Misuse(Reason.USAGE, "--plain-http serves without a certificate, and others options name one")

    def check(self) -> None:
        """Raise Misuse where a given certificate cannot be served. One of our own is made when it is needed."""
        from eaa.pccs.http_engine import TLSFiles  # noqa: PLC0415

        if self.cert is not None and self.key is not None:
            TLSFiles(certificate=self.cert, key=self.key).require_usable()

    def told(self, environ: Mapping[str, str]) -> str:
        """Return where the certificate is, for people."""
        if self.plain:
            return "none, plain http"
        return str(self.cert or self._folder(environ))

    def _folder(self, environ: Mapping[str, str]) -> Path:
        return self.folder or data_folder(environ) / "pccs-tls"

    def open(self, host: str) -> Any:
        """Return the certificate to serve, made where it is missing; None for plain http."""
        from eaa.pccs.rotation import GivenCertificate, OwnCertificate  # noqa: PLC0415
        from eaa.verifier import wall_clock  # noqa: PLC0415

        if self.plain:
            return None
        if self.cert is not None and self.key is not None:
            return GivenCertificate(certificate=self.cert, key=self.key)
        own_host = (host,) if host not in _EVERYWHERE else ()
        names = tuple(dict.fromkeys(("localhost", "127.0.0.1", "::1", *self.names, *own_host)))
        return OwnCertificate(folder=self._folder(os.environ), names=names, clock=wall_clock)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filling:
    """Where what is missing comes from."""

    mode: str
    upstream: str
    upstream_ca: Path | None
    upstream_root_crl: str | None
    api_key_file: Path | None
    refresh_hours: int
    refresh_schedule: str | None

    def schedule(self) -> Any:
        """Return when to refresh; None for never. Raises Misuse (USAGE)."""
        from eaa.pccs.refresh import Schedule  # noqa: PLC0415

        text = self.refresh_schedule or (f"{self.refresh_hours}h" if self.refresh_hours else "")
        return Schedule.parse(text) if text else None

    def source(self) -> Any:
        """Return the upstream; None in OFFLINE mode. Raises Misuse."""
        from eaa.pccs.filling import Mode  # noqa: PLC0415
        from eaa.pccs.upstream import Upstream  # noqa: PLC0415

        if self.mode == Mode.OFFLINE:
            return None
        key = None if self.api_key_file is None else read_token(self.api_key_file, of="subscription")
        return Upstream(self.upstream, api_key=key, ca_file=self.upstream_ca, root_crl_url=self.upstream_root_crl)

    def open(self, store: Any, trust_anchors: Any, observer: Any) -> Any:
        """Return a filler of this store; None in OFFLINE mode."""
        from eaa.pccs.filling import Filler  # noqa: PLC0415
        from eaa.verifier import wall_clock  # noqa: PLC0415

        upstream = self.source()
        if upstream is None:
            return None
        return Filler(upstream, store, trust_anchors=trust_anchors, clock=wall_clock, observer=observer)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What to serve, and where."""

    listen: TCPAddress
    database: Path | str
    tls: _TLS
    token: str | None = field(repr=False)
    user_token: str | None = field(repr=False)
    roots: frozenset[bytes]
    filling: _Filling
    admin: Address | None
    crl_hosts: frozenset[str]

    def check(self) -> None:
        """Read what no option's type has read yet. Raises Misuse."""
        self.tls.check()
        self.filling.schedule()
        self.filling.source()

    def told(self) -> dict[str, Any]:
        """Return what would run, for `--check-config`; of secrets, whether there are any."""
        from eaa.pccs.engines import shown  # noqa: PLC0415

        filling, is_filled = self.filling, self.filling.mode != "OFFLINE"
        every = filling.refresh_schedule or f"{filling.refresh_hours}h"
        return {
            "listen": str(self.listen),
            "db": shown(self.database),
            "tls": self.tls.told(os.environ),
            "admin": None if self.admin is None else str(self.admin),
            "admin-token": self.token is not None,
            "user-token": self.user_token is not None,
            "trust-anchors": len(self.roots),
            "mode": filling.mode,
            "upstream": filling.upstream if is_filled else None,
            "refresh": every if is_filled else None,
            "crl-hosts": sorted(self.crl_hosts),
        }


def _serve(plan: _Plan) -> int:
    from eaa.pccs import server  # noqa: PLC0415

    notifier = Notifier()
    try:
        listener = server.bind(plan.listen.host, plan.listen.port)
    except OSError as error:
        raise unavailable_from_os_error(error, doing=f"listening on {plan.listen}") from error
    with listener, contextlib.ExitStack() as stack:
        service, admin = _open_service(plan, stack)
        certificate = plan.tls.open(plan.listen.host)
        _say_what_is_open(plan.listen, plan.token, is_tls=certificate is not None)
        stopped_by = server.serve(
            service,
            listener,
            tls=None if certificate is None else certificate.files,
            ready=functools.partial(_announce, notifier),
            leaving=notifier.stopping,
            beside=lambda serving: _beside(serving, certificate, admin, plan.admin, notifier),
        )
    code = EXIT_TERMINATED if stopped_by is signal.SIGTERM else EXIT_INTERRUPTED
    server.leave_if_engine_lingers(code)
    return code


@contextlib.asynccontextmanager
async def _beside(
    serving: Any, certificate: Any, admin: Any, address: Address | None, notifier: Notifier
) -> AsyncIterator[None]:
    """Watch the certificate, and tell operators what they ask, for the duration of a block."""
    from eaa.pccs.rotation import watching  # noqa: PLC0415
    from eaa.program.lifecycle import showing_life  # noqa: PLC0415  an event loop is no use to --help

    async with watching(serving, certificate), showing_life(notifier):
        if admin is None:
            yield
            return
        async with admin.serving(address, serving, lambda: None if certificate is None else certificate.files):
            yield


def _open_service(plan: _Plan, stack: contextlib.ExitStack) -> tuple[Any, Any]:
    """Return the service, and what tells operators of it; None where nobody may ask."""
    from eaa.pccs.filling import Mode  # noqa: PLC0415
    from eaa.pccs.metrics import Observer  # noqa: PLC0415
    from eaa.pccs.refresh import Refresher  # noqa: PLC0415
    from eaa.pccs.service import Service  # noqa: PLC0415
    from eaa.pccs.store import Store  # noqa: PLC0415
    from eaa.pccs.tokens import Token  # noqa: PLC0415
    from eaa.verifier import INTEL, TrustAnchors, wall_clock  # noqa: PLC0415

    schedule = plan.filling.schedule()
    store = Store.open(plan.database)
    stack.callback(store.close)
    anchors = TrustAnchors(INTEL.fingerprints | plan.roots)
    observer = Observer(clock=wall_clock)
    filler = plan.filling.open(store, anchors, observer)
    if filler is not None and schedule is not None:
        stack.callback(Refresher(filler, schedule=schedule).close)
    service = Service(
        store,
        admin_token=Token() if plan.token is None else Token.of(plan.token),
        user_token=Token() if plan.user_token is None else Token.of(plan.user_token),
        trust_anchors=anchors,
        mode=Mode(plan.filling.mode),
        filler=filler,
        crl_hosts=plan.crl_hosts,
        observer=observer,
    )
    stack.callback(service.close)
    if plan.admin is None:
        return service, None
    from eaa.pccs.admin import Admin  # noqa: PLC0415  what it needs takes a while to load

    return service, Admin(store, trust_anchors=anchors, observer=observer, clock=wall_clock)


def _announce(notifier: Notifier, url: str) -> None:
    # Not a log line: whoever started us waits for it, whatever the log level is.
    if speaks_json():
        say("eaa-pccs", f"listening on {url}", kind="info", event="service.listening", addresses=[url])
    else:
        click.echo(f"eaa-pccs: listening on {url}", err=True)
    notifier.ready("Serving")


def _say_what_is_open(listen: TCPAddress, token: str | None, *, is_tls: bool) -> None:
    if token is None:
        _log.warning("no administrator token is set: uploads are answered 401 (--admin-token-file sets one)")
    if not is_tls and not listen.host.startswith(_LOOPBACK):
        _log.warning("serving plain http beyond this machine: an upload's token can be read on the way")
