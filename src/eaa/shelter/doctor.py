"""`shelter doctor`: is the quote provider configuration sound, and the collateral service behind it?

One line for each thing that was looked at, and a remedy for each that is not well. Nothing is trusted that is found out
here, and nothing is changed.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import click
from cryptography import x509

from eaa.collateral.x509 import CRL
from eaa.errors import EAAError, MalformedInput, Misuse, Reason, Unavailable, VerificationError
from eaa.program.files import read_bytes
from eaa.program.output import json_option, print_json
from eaa.program.run import say
from eaa.sources.pccs import INTEL_ROOT_CRL_URL, BaseURL
from eaa.sources.probe import Probed, probe, tls_context
from eaa.sources.qcnl import MAX_QCNL_SIZE, QCNLConfig, default_qcnl_path, load_qcnl
from eaa.sources.qcnl_lint import oddities
from eaa.verifier import wall_clock

ENDS_SOON: Final = timedelta(days=7)
CERTIFICATE_ENDS_SOON: Final = timedelta(days=14)
MAX_SKEW: Final = timedelta(seconds=60)
_NEW_ENOUGH: Final = ("TLSv1.2", "TLSv1.3")


class Status(StrEnum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    status: Status
    message: str
    remedy: str | None = None
    error: EAAError | None = field(default=None, repr=False)
    """Where it failed: decides the exit code."""

    def to_json(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        reason = None if self.error is None else str(self.error.reason)
        return {
            "name": self.name,
            "status": str(self.status),
            "reason": reason,
            "message": self.message,
            "remedy": self.remedy,
        }


@click.command("doctor")
@click.option("--pccs", metavar="URL", help="The service to look at, in place of that of the configuration file.")
@click.option("--pccs-ca", type=click.Path(path_type=Path), metavar="FILE", help="The CA (PEM) of its TLS certificate.")
@click.option("--fmspc", "fmspcs", multiple=True, metavar="HEX", help="Look for TCB Info of this model. Repeatable.")
@json_option
def doctor_command(*, pccs: str | None, pccs_ca: Path | None, fmspcs: tuple[str, ...], as_json: bool) -> int:
    """Look at sgx_default_qcnl.conf, and at the collateral service that it names.

    Is the file what it seems to be, is the service reached and its certificate trusted, which versions does it speak,
    which documents has it and for how long, and does this machine's clock agree? Each line that is not `ok` has a
    remedy. Exit code 0 where nothing failed, otherwise that of the first failure.
    """
    for fmspc in fmspcs:
        if len(fmspc) != 12 or not all(digit in "0123456789abcdefABCDEF" for digit in fmspc):
            raise Misuse(Reason.USAGE, f"{fmspc!r} is no FMSPC: 12 hex digits", hint="`shelter inspect QUOTE` shows it")
    findings: list[Finding] = []
    for finding in examine(pccs=pccs, ca_file=pccs_ca, fmspcs=fmspcs, environ=dict(os.environ), clock=wall_clock):
        findings.append(finding)
        if not as_json:
            _print(finding)
    failed = [finding for finding in findings if finding.error is not None]
    if as_json:
        checks = [finding.to_json() for finding in findings]
        counts = {str(status): sum(finding.status is status for finding in findings) for status in Status}
        print_json({"healthy": not failed, **counts, "checks": checks})
    elif failed:
        say("shelter", f"{len(failed)} of {len(findings)} checks failed")
    return 0 if not failed or failed[0].error is None else failed[0].error.exit_code


def _print(finding: Finding) -> None:
    click.echo(f"{finding.status:<8} {finding.name}: {finding.message}")
    if finding.remedy:
        click.echo(f"         remedy: {finding.remedy}")


def examine(
    *,
    pccs: str | None,
    ca_file: Path | None,
    fmspcs: tuple[str, ...],
    environ: dict[str, str],
    clock: Callable[[], datetime],
) -> Iterator[Finding]:
    """Yield what is found, one thing after the other, as far as one can get.

    1. The configuration.
    2. The service: reached, its certificate, its clock.
    3. Versions.
    4. Documents.
    """
    # 1.
    config = QCNLConfig() if pccs is not None else None
    if config is None:
        path = default_qcnl_path(environ)
        try:
            config = load_qcnl(path)
        except Misuse as error:
            yield _failed("configuration", error)
            return
        yield from _lint(path, config)
    url = pccs or config.collateral_service
    try:
        base = BaseURL.parse(url)
        service = _Service(base=base, context=_context(base, ca_file, config), now=clock)
    except Misuse as error:
        yield _failed("service", error)
        return
    # 2.
    try:
        first = service.get("sgx", "qe/identity?update=standard")
    except Unavailable as error:
        yield _unreached(service, error, ca_file)
        return
    yield _ok("service", f"{base.root} answers with status {first.status}")
    yield from _transport(service, first)
    yield from _skew(first, clock())
    # 3. and 4.
    yield from _versions(service, first)
    yield from _documents(service, fmspcs, first)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Service:
    base: BaseURL
    context: ssl.SSLContext | None
    now: Callable[[], datetime]

    def get(self, product: str, route: str, *, version: str | None = None) -> Probed:
        """Ask for one of its routes. Raises Unavailable."""
        return probe(
            self.base, f"/{product}/certification/{version or self.base.version}/{route}", context=self.context
        )


def _context(base: BaseURL, ca_file: Path | None, config: QCNLConfig) -> ssl.SSLContext | None:
    if not base.root.startswith("https"):
        return None
    try:
        return tls_context(ca_file, verify=config.use_secure_cert)
    except (OSError, ssl.SSLError) as error:
        raise Misuse(
            Reason.FILE_UNREADABLE,
            f"the CA file {ca_file} cannot be used: {error.strerror or error}",
            hint="it has to hold PEM certificates",
        ) from error


def _ok(name: str, message: str) -> Finding:
    return Finding(name=name, status=Status.OK, message=message)


def _warning(name: str, message: str, remedy: str) -> Finding:
    return Finding(name=name, status=Status.WARNING, message=message, remedy=remedy)


def _failed(name: str, error: EAAError) -> Finding:
    return Finding(
        name=name, status=Status.FAILED, message=f"{error.message} [{error.reason}]", remedy=error.hint, error=error
    )


def _lint(path: Path, config: QCNLConfig) -> Iterator[Finding]:
    text = read_bytes(path, what="the configuration", maximum=MAX_QCNL_SIZE).decode("utf-8-sig")
    form = "JSON" if config != QCNLConfig() and "{" in text else "KEY=VALUE" if "{" not in text else "JSON"
    yield _ok("configuration", f"{path} is sound ({form}); collateral comes from {config.collateral_service}")
    for oddity in oddities(text, config):
        yield _warning("configuration", oddity.what, oddity.remedy)


def _unreached(service: _Service, error: Unavailable, ca_file: Path | None) -> Finding:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = f"the TLS certificate of {service.base.root} is not trusted: {error.message}"
        remedy = "name its CA with --pccs-ca FILE, or add it to this machine's (update-ca-certificates)"
        if ca_file is not None:
            remedy = f"{ca_file} has to hold the CA of that certificate, and the URL the name that it is valid for"
        return _failed("certificate", Unavailable(Reason.PCCS_UNREACHABLE, why, hint=remedy))
    if isinstance(cause, ssl.SSLError):
        why, remedy = f"what listens at {service.base.root} does not speak TLS as expected", "try http:// in its URL"
    else:
        why = f"{service.base.root} cannot be reached: {error.message}"
        remedy = "check the address, the network and the proxy, and that a PCCS listens there (`eaa-pccs serve`)"
    return _failed("service", Unavailable(Reason.PCCS_UNREACHABLE, why, hint=remedy))


def _transport(service: _Service, answer: Probed) -> Iterator[Finding]:
    if answer.certificate is None:
        yield _warning("certificate", "the service speaks plain http", "serve https, and write https:// in its URL")
        return
    if service.context is not None and service.context.verify_mode is ssl.CERT_NONE:
        yield _warning("certificate", "it was not verified: use_secure_cert is false", "set use_secure_cert to true")
    ends = x509.load_der_x509_certificate(answer.certificate).not_valid_after_utc
    left = ends - service.now()
    message = f"it ends at {ends:%Y-%m-%dT%H:%MZ}, in {left.days} days ({answer.tls_version})"
    if left < CERTIFICATE_ENDS_SOON:
        yield _warning("certificate", message, "renew it on the service's machine")
    else:
        yield _ok("certificate", message)


def _skew(answer: Probed, now: datetime) -> Iterator[Finding]:
    try:
        said = parsedate_to_datetime(answer.headers["date"])
    except (KeyError, ValueError):
        yield _warning("clock", "the service does not say what time it is", "compare this machine's clock by hand")
        return
    skew = now - (said if said.tzinfo else said.replace(tzinfo=UTC))
    seconds = round(skew.total_seconds())
    if abs(skew) > MAX_SKEW:
        yield _failed(
            "clock",
            VerificationError(
                Reason.CLOCK_SKEW,
                f"this machine's clock is {abs(seconds)} s {'ahead of' if seconds > 0 else 'behind'} the service's",
                hint="find out which of the two is wrong, and have it follow NTP (`timedatectl`)",
            ),
        )
    else:
        yield _ok("clock", f"it agrees with the service's within {abs(seconds) + 1} seconds")


def _versions(service: _Service, first: Probed) -> Iterator[Finding]:
    if first.status in (200, 304):
        yield _ok("version", f"version {service.base.version.removeprefix('v')} is served")
    else:
        yield _failed(
            "version",
            Unavailable(
                Reason.PCCS_ERROR,
                f"the QE identity was answered with status {first.status}",
                hint="fill the cache (`eaa-pccs upload`, a refresh); the URL has to end in /sgx/certification/v4/",
            ),
        )
    if "no longer available" in first.headers.get("warning", ""):
        yield _warning("version", "the service says that this version has ended", "write v4 in the URL")


def _documents(service: _Service, fmspcs: tuple[str, ...], first: Probed) -> Iterator[Finding]:
    yield _document(service, "QE identity", first, _json_end)
    yield from _asked(service, "TD QE identity", "tdx", "qe/identity?update=standard", _json_end, is_needed=False)
    for ca in ("processor", "platform"):
        route = f"pckcrl?ca={ca}&encoding=der"
        yield from _asked(service, f"CRL of the {ca} CA", "sgx", route, _crl_end, is_needed=False)
    if service.base.is_intel_pcs:
        yield _ok("CRL of the root", f"Intel publishes it at {INTEL_ROOT_CRL_URL}")
    else:
        yield from _asked(service, "CRL of the root", "sgx", "rootcacrl", _crl_end)
    for fmspc in fmspcs:
        for product in ("sgx", "tdx"):
            route = f"tcb?fmspc={fmspc.upper()}&update=standard"
            name = f"{product.upper()} TCB Info of {fmspc.upper()}"
            yield from _asked(service, name, product, route, _json_end, is_needed=product == "sgx")


def _asked(
    service: _Service,
    name: str,
    product: str,
    route: str,
    end_of: Callable[[bytes], datetime],
    *,
    is_needed: bool = True,
) -> Iterator[Finding]:
    try:
        answer = service.get(product, route)
    except Unavailable as error:
        yield _failed(name, Unavailable(error.reason, error.message, hint="try again; the service did answer before"))
        return
    if answer.status == 404 and not is_needed:
        yield _warning(name, "it is not there, which hurts only whose platforms need it", "fill the cache")
        return
    yield _document(service, name, answer, end_of)


def _document(service: _Service, name: str, answer: Probed, end_of: Callable[[bytes], datetime]) -> Finding:
    if answer.status != 200:
        said = answer.headers.get("warning", "")[:200]
        why = f"it was answered with status {answer.status}{f' ({said})' if said else ''}"
        remedy = "fill the cache: `eaa-pccs upload`, `eaa-pccs import`, a refresh, or register the platform"
        return _failed(name, Unavailable(Reason.COLLATERAL_NOT_FOUND, why, hint=remedy))
    try:
        ends = end_of(answer.body)
    except (MalformedInput, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _failed(
            name, MalformedInput(Reason.COLLATERAL_MALFORMED, "what came is no such document", hint="look at its log")
        )
    left = ends - service.now()
    message = f"it ends at {ends:%Y-%m-%dT%H:%MZ}, in {left.days} days"
    remedy = "have the service refresh it, and look at its log"
    if left < timedelta(0):
        return _failed(name, VerificationError(Reason.COLLATERAL_EXPIRED, f"{message}: past its end", hint=remedy))
    return _warning(name, message, remedy) if left < ENDS_SOON else _ok(name, message)


def _json_end(body: bytes) -> datetime:
    document = json.loads(body)
    inner = document.get("tcbInfo") or document["enclaveIdentity"]
    moment = datetime.fromisoformat(inner["nextUpdate"])
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _crl_end(body: bytes) -> datetime:
    return CRL.parse(body if body[:1] == b"\x30" else bytes.fromhex(body.decode("ascii"))).next_update
