"""What a service says of itself to Prometheus: a listener of its own, off unless an operator names its address.

Names are a closed set and there are no labels: nothing that a peer has said is ever in an answer.

Source: the Prometheus text format, version 0.0.4.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import click

from eaa.aio.address import Address
from eaa.aio.net import Service
from eaa.identity import Identity
from eaa.program.address import ADDRESS
from eaa.verifier import Verifier

MAX_REQUEST: Final = 8 * 1024
"""Bytes of a request, headers included."""
MAX_UNREAD: Final = 64 * 1024
"""Bytes past that which are dropped while the answer is on its way."""
REQUEST_TIMEOUT: Final = 5.0
"""Seconds for a request and its answer."""
MAX_SCRAPERS: Final = 16
"""Connections at once."""


def metrics_option(function: Any) -> Any:
    """Add `--metrics`: where this service's metrics are served."""
    return click.option(
        "--metrics",
        type=ADDRESS,
        metavar="ADDRESS",
        help="Serve metrics for Prometheus here, over plain HTTP at /metrics. Off by default.",
    )(function)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number."""

    name: str
    kind: Literal["counter", "gauge"]
    meaning: str
    read: Callable[[], float | None]
    """Returns the number; None where there is none yet, which leaves the metric out."""


def service_metrics(identities: Sequence[Identity], verifier: Verifier | None) -> list[Metric]:
    """Return what a service that has evidence, and perhaps judges, says of itself. Times are seconds since 1970."""
    metrics = [
        Metric(
            name="eaa_renewal_failures_total",
            kind="counter",
            meaning="How often renewing a certificate or an epoch has failed.",
            read=lambda: sum(identity.renewal_failures for identity in identities),
        ),
        Metric(
            name="eaa_next_renewal_timestamp_seconds",
            kind="gauge",
            meaning="When a certificate or an epoch is renewed next, or that is tried again.",
            read=lambda: min(identity.next_renewal for identity in identities).timestamp(),
        ),
        Metric(
            name="eaa_certificate_expiry_timestamp_seconds",
            kind="gauge",
            meaning="When the certificate in use ends.",
            read=lambda: min(identity.expires for identity in identities).timestamp(),
        ),
    ]
    return metrics if verifier is None else [*metrics, *_collateral_metrics(verifier)]


def _collateral_metrics(verifier: Verifier) -> list[Metric]:
    def last_success() -> float | None:
        moment = verifier.counters.last_success
        return None if moment is None else moment.timestamp()

    return [
        Metric(
            name="eaa_collateral_fetches_total",
            kind="counter",
            meaning="How often collateral was asked for, failures included.",
            read=lambda: verifier.counters.fetches,
        ),
        Metric(
            name="eaa_collateral_fetch_failures_total",
            kind="counter",
            meaning="How often it could not be had.",
            read=lambda: verifier.counters.failures,
        ),
        Metric(
            name="eaa_collateral_last_success_timestamp_seconds",
            kind="gauge",
            meaning="When collateral was last had.",
            read=last_success,
        ),
    ]


def exposition(metrics: Iterable[Metric]) -> str:
    """Return the numbers in Prometheus's text format."""
    lines = []
    for metric in metrics:
        value = metric.read()
        if value is not None:
            lines += [f"# HELP {metric.name} {metric.meaning}", f"# TYPE {metric.name} {metric.kind}"]
            lines.append(f"{metric.name} {value:.15g}")
    return "".join(line + "\n" for line in lines)


@contextlib.asynccontextmanager
async def serving_metrics(address: Address | None, metrics: Sequence[Metric]) -> AsyncIterator[list[str]]:
    """Serve metrics for the duration of a block, if an address is named; yield the names that it is bound to.

    Raises:
        Unavailable: it cannot be had.
    """
    if address is None:
        yield []
        return
    # A service of its own, so that a flood of peers does not hide what it does.
    service = Service(max_connections=MAX_SCRAPERS)
    names = service.listen(address, _Scraped(metrics).handle)
    service.start()
    try:
        yield [f"{name} (metrics)" for name in names]
    finally:
        await service.stop()


class _Scraped:
    """Answers whoever asks."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    async def handle(self, sock: socket.socket, _peer: str) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            # A scraper that stalls hears nothing: it costs its own connection.
            async with asyncio.timeout(REQUEST_TIMEOUT):
                await loop.sock_sendall(sock, self._answer(await _read_request(sock)))
                await _part(sock)

    def _answer(self, request: bytes) -> bytes:
        words = request.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response("400 Bad Request", "this is no request of HTTP/1\n")
        if words[1].split(b"?")[0] != b"/metrics":
            return _response("404 Not Found", "metrics are at /metrics\n")
        if words[0] != b"GET":
            return _response("405 Method Not Allowed", "metrics can be read, and nothing else\n", "Allow: GET\r\n")
        return _response("200 OK", exposition(self._metrics))


async def _read_request(sock: socket.socket) -> bytes:
    """Return what came up to the end of the headers, MAX_REQUEST bytes at most."""
    request = b""
    while b"\r\n\r\n" not in request and len(request) < MAX_REQUEST:
        data = await asyncio.get_running_loop().sock_recv(sock, MAX_REQUEST - len(request))
        if not data:
            break
        request += data
    return request if b"\r\n\r\n" in request else b""


async def _part(sock: socket.socket) -> None:
    """Say no more, and drop what still comes: closing over unread bytes would take the answer from who sent them."""
    sock.shutdown(socket.SHUT_WR)
    dropped = 0
    while dropped < MAX_UNREAD and (data := await asyncio.get_running_loop().sock_recv(sock, MAX_REQUEST)):
        dropped += len(data)


def _response(status: str, body: str, more: str = "") -> bytes:
    kind = "text/plain; version=0.0.4; charset=utf-8"
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}Connection: close\r\n\r\n"
    )
    return (head + body).encode()
