"""`shelter doctor`: is the quote provider configuration sound, and the collateral service behind it?

One line for each thing that was looked at, and a remedy for each that is not well. Nothing is trusted that is found out
here, and nothing is changed.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import click
from cryptography import x509

from eaa.errors import Misuse, Reason, Unavailable, VerificationError
from eaa.program.files import read_bytes, read_trust_anchor
from eaa.program.output import json_option, print_json
from eaa.program.run import say
from eaa.shelter.findings import Finding, Status, failed, odd, well
from eaa.shelter.served import CollateralService, look_at_documents
from eaa.sources.local_cache import default_cache_folder
from eaa.sources.pccs import BaseURL
from eaa.sources.probe import Probed, tls_context
from eaa.sources.qcnl import MAX_QCNL_SIZE, QCNLConfig, default_qcnl_path, is_json, load_qcnl
from eaa.sources.qcnl_lint import oddities
from eaa.verifier import INTEL, TrustAnchors, wall_clock

CERTIFICATE_ENDS_SOON: Final = timedelta(days=14)
MAX_SKEW: Final = timedelta(seconds=60)


@click.command("doctor")
@click.option("--pccs", metavar="URL", help="The service to look at, in place of that of the configuration file.")
@click.option("--pccs-ca", type=click.Path(path_type=Path), metavar="FILE", help="The CA (PEM) of its TLS certificate.")
@click.option("--fmspc", "fmspcs", multiple=True, metavar="HEX", help="Look for TCB Info of this model. Repeatable.")
@click.option(
    "--trust-anchor",
    "trust_anchors",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="The root certificate (PEM) that its documents are to end in, in place of Intel's. Repeatable.",
)
@json_option
def doctor_command(
    *, pccs: str | None, pccs_ca: Path | None, fmspcs: tuple[str, ...], trust_anchors: tuple[Path, ...], as_json: bool
) -> int:
    """Look at sgx_default_qcnl.conf, and at the collateral service that it names.

    Is the file what it seems to be, is the service reached and its certificate trusted, which versions does it speak,
    which documents has it, do their signatures hold and for how long, and does this machine's clock agree? Each line
    that is not `ok` has a remedy. Exit code 0 where nothing failed, otherwise that of the first failure.
    """
    for fmspc in fmspcs:
        if len(fmspc) != 12 or not all(digit in "0123456789abcdefABCDEF" for digit in fmspc):
            raise Misuse(Reason.USAGE, f"{fmspc!r} is no FMSPC: 12 hex digits", hint="`shelter inspect QUOTE` shows it")
    roots = frozenset(read_trust_anchor(path) for path in trust_anchors)
    findings: list[Finding] = []
    for finding in examine(
        pccs=pccs,
        ca_file=pccs_ca,
        fmspcs=fmspcs,
        trust_anchors=TrustAnchors(roots) if roots else INTEL,
        environ=dict(os.environ),
        clock=wall_clock,
    ):
        findings.append(finding)
        if not as_json:
            _print(finding)
    failures = [finding for finding in findings if finding.error is not None]
    if as_json:
        checks = [finding.to_json() for finding in findings]
        counts = {str(status): sum(finding.status is status for finding in findings) for status in Status}
        print_json({"healthy": not failures, **counts, "checks": checks})
    elif failures:
        say("shelter", f"{len(failures)} of {len(findings)} checks failed")
    return 0 if not failures or failures[0].error is None else failures[0].error.exit_code


def _print(finding: Finding) -> None:
    click.echo(f"{finding.status:<8} {finding.name}: {finding.message}")
    if finding.remedy:
        click.echo(f"         remedy: {finding.remedy}")


def examine(
    *,
    pccs: str | None,
    ca_file: Path | None,
    fmspcs: tuple[str, ...],
    trust_anchors: TrustAnchors = INTEL,
    environ: dict[str, str],
    clock: Callable[[], datetime],
) -> Iterator[Finding]:
    """Yield what is found, one thing after the other, as far as one can get.

    1. The configuration.
    2. The service: reached, its certificate, its clock.
    3. Versions.
    4. Documents.
    5. The other services that the configuration names: reached, their certificates.
    """
    # 1.
    config = QCNLConfig() if pccs is not None else None
    if config is None:
        path = default_qcnl_path(environ)
        try:
            config = load_qcnl(path)
        except Misuse as error:
            yield failed("configuration", error)
            return
        yield from _lint(path, config)
        if config.local_cache_only:
            yield _local_cache(default_cache_folder(environ))
    url = pccs or config.collateral_service
    try:
        base = BaseURL.parse(url)
        service = CollateralService(
            base=base,
            context=_context(base, ca_file, config),
            now=clock,
            update=config.tcb_update_type,
            crl_by_address=config.pccs_api_version == "3.1",
        )
    except Misuse as error:
        yield failed("service", error)
        return
    # 2.
    try:
        first = service.identity("sgx")
    except Unavailable as error:
        yield _unreached(service, error, ca_file)
    else:
        yield well("service", f"{base.root} answers with status {first.status}")
        yield from _transport(service, first)
        yield from _skew(first, clock())
        # 3. and 4.
        yield from _versions(service, first)
        yield from look_at_documents(service, fmspcs, first, trust_anchors=trust_anchors)
    # 5.
    if pccs is None:
        yield from _others(service, config, ca_file)


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


def _lint(path: Path, config: QCNLConfig) -> Iterator[Finding]:
    text = read_bytes(path, what="the configuration", maximum=MAX_QCNL_SIZE).decode("utf-8-sig")
    form = "JSON" if is_json(text) else "KEY=VALUE"
    yield well("configuration", f"{path} is sound ({form}); collateral comes from {config.collateral_service}")
    for oddity in oddities(text, config):
        yield odd("configuration", oddity.what, oddity.remedy)


def _local_cache(folder: Path) -> Finding:
    try:
        count = sum(file.is_file() for file in folder.iterdir())
    except OSError as error:
        count, why = 0, f"{folder} cannot be read: {error.strerror}"
    else:
        why = f"{folder} holds {count} files"
    if count:
        return well("local cache", why)
    return odd(
        "local cache", why, "put the files there that Intel's `pcsclient.py cache` makes, or unset local_cache_only"
    )


def _unreached(service: CollateralService, error: Unavailable, ca_file: Path | None) -> Finding:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = f"the TLS certificate of {service.base.root} is not trusted: {error.message}"
        remedy = "name its CA with --pccs-ca FILE, or add it to this machine's (update-ca-certificates)"
        if ca_file is not None:
            remedy = f"{ca_file} has to hold the CA of that certificate, and the URL the name that it is valid for"
        return failed("certificate", Unavailable(Reason.PCCS_UNREACHABLE, why, hint=remedy))
    if isinstance(cause, ssl.SSLError):
        why, remedy = f"what listens at {service.base.root} does not speak TLS as expected", "try http:// in its URL"
    else:
        why = f"{service.base.root} cannot be reached: {error.message}"
        remedy = "check the address, the network and the proxy, and that a PCCS listens there (`eaa-pccs serve`)"
    return failed("service", Unavailable(Reason.PCCS_UNREACHABLE, why, hint=remedy))


def _transport(service: CollateralService, answer: Probed) -> Iterator[Finding]:
    if answer.certificate is None:
        yield odd("certificate", "the service speaks plain http", "serve https, and write https:// in its URL")
        return
    if service.context is not None and service.context.verify_mode is ssl.CERT_NONE:
        yield odd("certificate", "it was not verified: use_secure_cert is false", "set use_secure_cert to true")
    ends = x509.load_der_x509_certificate(answer.certificate).not_valid_after_utc
    left = ends - service.now()
    message = f"it ends at {ends:%Y-%m-%dT%H:%MZ}, in {left.days} days ({answer.tls_version})"
    if left < CERTIFICATE_ENDS_SOON:
        yield odd("certificate", message, "renew it on the service's machine")
    else:
        yield well("certificate", message)


def _skew(answer: Probed, now: datetime) -> Iterator[Finding]:
    try:
        said = parsedate_to_datetime(answer.headers["date"])
    except (KeyError, ValueError):
        yield odd("clock", "the service does not say what time it is", "compare this machine's clock by hand")
        return
    skew = now - (said if said.tzinfo else said.replace(tzinfo=UTC))
    seconds = round(skew.total_seconds())
    if abs(skew) > MAX_SKEW:
        yield failed(
            "clock",
            VerificationError(
                Reason.CLOCK_SKEW,
                f"this machine's clock is {abs(seconds)} s {'ahead of' if seconds > 0 else 'behind'} the service's",
                hint="find out which of the two is wrong, and have it follow NTP (`timedatectl`)",
            ),
        )
    else:
        yield well("clock", f"it agrees with the service's within {abs(seconds) + 1} seconds")


def _versions(service: CollateralService, first: Probed) -> Iterator[Finding]:
    version = service.base.version
    if first.status in (200, 304):
        yield well("version", f"version {version.removeprefix('v')} is served")
    else:
        yield failed(
            "version",
            Unavailable(
                Reason.PCCS_ERROR,
                f"the QE identity was answered with status {first.status}",
                hint="fill the cache (`eaa-pccs upload`, a refresh); the URL has to end in /sgx/certification/v4/",
            ),
        )
    if "no longer available" in first.headers.get("warning", ""):
        yield odd("version", "the service says that this version has ended", "write v4 in the URL")
    elif version == "v4" and not service.base.is_intel_pcs:
        yield from _older_version(service)


def _older_version(service: CollateralService) -> Iterator[Finding]:
    try:
        is_served = service.get("sgx", "rootcacrl", version="v3").status == 200
    except Unavailable:
        return
    yield well("version", f"version 3 is {'served as well' if is_served else 'not served'}; Intel has ended it")


def _others(service: CollateralService, config: QCNLConfig, ca_file: Path | None) -> Iterator[Finding]:
    """Look at where PCK certificates come from, if that is another service."""
    seen = {service.base.root}
    for key, url in (("pccs_url", config.pccs_url), ("local_pck_url", config.local_pck_url)):
        base = None if url is None else BaseURL.parse(url)
        if base is None or base.root in seen:
            continue
        seen.add(base.root)
        other = replace(service, base=base, context=_context(base, ca_file, config))
        try:
            answer = other.get("sgx", "rootcacrl")
        except Unavailable as error:
            yield _named(key, _unreached(other, error, ca_file))
            continue
        yield _named(key, well("service", f"{base.root} answers with status {answer.status}"))
        for finding in _transport(other, answer):
            yield _named(key, finding)


def _named(key: str, finding: Finding) -> Finding:
    return replace(finding, name=f"{finding.name} ({key})")
