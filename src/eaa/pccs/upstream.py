"""The service that this cache is filled from: Intel's PCS, or another PCCS.

One request has one deadline and a bounded answer. What is worth another try (no connection, a broken one, 429, 5xx) is
tried again after a pause that doubles, with jitter, or that the service asks for.

Source: Intel SGX PCS v4 API; `Ocp-Apim-Subscription-Key` opens the routes for PCK certificates.
"""

from __future__ import annotations

import logging
import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import urllib3
from urllib3.exceptions import HTTPError

from eaa.errors import Misuse, Reason
from eaa.pccs.wire import Refusal, Status
from eaa.sources.deadline import Deadline, watched_pool
from eaa.sources.pccs import INTEL_ROOT_CRL_URL, BaseURL

MAX_ANSWER: Final = 1024 * 1024
"""Bytes of one answer: a platform's list of certificates is the longest."""
TIMEOUT: Final = 10.0
"""Seconds for one request, from connecting to the last byte."""
RETRIES: Final = 2
FIRST_PAUSE: Final = 0.5
MAX_PAUSE: Final = 8.0
"""Seconds that are waited between two tries: clients wait as well."""
MAX_CLOSED: Final = 60.0
"""Seconds for which a service is left alone that asks for more than that; until then nothing is sent to it."""
_RETRIED: Final = frozenset({429, 500, 502, 503, 504})
_MISSING: Final = frozenset({400, 404, 461})
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the upstream answered with status 200. Header names in lower case."""

    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def header(self, name: str) -> str:
        """Return a header that has to be there. Raises Refusal (502)."""
        value = self.headers.get(name.lower())
        if not value:
            raise Refusal(Status.BAD_GATEWAY, f"the upstream's answer has no header {name}", alarms=True)
        return value


class Absent(Refusal):
    """The upstream has no such document (404)."""


class _Failed(Exception):
    """One try came to nothing; another may not."""

    def __init__(self, why: str, *, pause: float | None = None) -> None:
        super().__init__(why)
        self.pause = pause


class Upstream:
    """A client of one upstream. Thread-safe."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        ca_file: Path | None = None,
        root_crl_url: str | None = None,
        timeout: float = TIMEOUT,
        sleep: Callable[[float], object] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a client; nothing is sent yet. Raises Misuse (ADDRESS_INVALID, FILE_UNREADABLE)."""
        self._base = BaseURL.parse(base_url)
        if root_crl_url is not None:
            BaseURL.parse(root_crl_url)
        self._root_crl_url = root_crl_url
        self._api_key = api_key
        self._timeout = timeout
        self._sleep = sleep
        self._monotonic = monotonic
        self._closed_until = -MAX_CLOSED
        self._random = random.Random()  # noqa: S311  spreads clients over time, guards nothing
        self._pool = watched_pool(_context(ca_file) if self._base.root.startswith("https") or ca_file else None)

    def get(self, product: str, route: str, parameters: Mapping[str, str]) -> Answer:
        """Return what a route answers.

        Raises:
            Refusal: 404, the upstream has no such document; 502, it fails, or is not reached.
        """
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        headers = {"Ocp-Apim-Subscription-Key": self._api_key} if self._api_key and route == "pckcerts" else {}
        return self._request("GET", f"{self._base.of(product)}{route}?{query}", headers=headers)

    def certificates_of_manifest(self, manifest: str, pce_id: str) -> Answer:
        """Return the PCK certificates of a platform that is known by its manifest. Raises as `get`."""
        headers = {"Content-Type": "application/json"}
        if self._api_key:
            headers["Ocp-Apim-Subscription-Key"] = self._api_key
        body = f'{{"platformManifest":"{manifest}","pceid":"{pce_id}"}}'.encode()
        return self._request("POST", f"{self._base.of('sgx')}pckcerts", headers=headers, body=body)

    def root_crl(self) -> bytes:
        """Return the root's CRL, DER: Intel publishes it beside its service, a cache on a route. Raises as `get`.

        What stands before Intel's service under another name has that route no more than Intel's.
        """
        if self._root_crl_url is not None or self._base.is_intel_pcs:
            body = self._request("GET", self._root_crl_url or INTEL_ROOT_CRL_URL).body
        else:
            try:
                body = self._request("GET", f"{self._base.of('sgx')}rootcacrl").body
            except Absent:
                body = self._request("GET", INTEL_ROOT_CRL_URL).body
        try:
            return bytes.fromhex(body.decode("ascii"))
        except ValueError:
            return body

    def _request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        # A log gets no parameters: they name platforms.
        shown = f"{method} {url.partition('?')[0]}"
        left = self._closed_until - self._monotonic()
        if left > 0:
            raise Refusal(Status.BAD_GATEWAY, f"{shown}: the upstream asked to be left alone for {left:.0f} s more")
        pause = FIRST_PAUSE
        for attempt in range(RETRIES + 1):
            try:
                return self._once(method, url, shown, headers=headers or {}, body=body)
            except _Failed as failure:
                if failure.pause is not None and failure.pause > MAX_PAUSE:
                    self._closed_until = self._monotonic() + min(failure.pause, MAX_CLOSED)
                if attempt == RETRIES or self._closed_until > self._monotonic():
                    raise Refusal(Status.BAD_GATEWAY, f"{shown}: {failure}", alarms=True) from failure
                wait = min(failure.pause or pause * self._random.uniform(0.5, 1.5), MAX_PAUSE)
                _log.info("%s: %s; trying again in %.1f s", shown, failure, wait)
                self._sleep(wait)
                pause *= 2
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _once(self, method: str, url: str, shown: str, *, headers: Mapping[str, str], body: bytes | None) -> Answer:
        with Deadline(self._timeout) as deadline:
            try:
                response = self._pool.request(
                    method,
                    url,
                    body=body,
                    headers=dict(headers),
                    timeout=urllib3.Timeout(total=self._timeout),
                    retries=False,
                    redirect=False,
                    preload_content=False,
                )
                try:
                    content = _bounded(response)
                finally:
                    response.close()
            except (HTTPError, OSError) as error:
                raise _Failed("no answer in time" if deadline.expired else f"no answer: {error}") from error
        if deadline.expired:
            raise _Failed("no answer in time")
        if response.status in _RETRIED:
            raise _Failed(f"status {response.status}", pause=_asked_for(response.headers.get("Retry-After")))
        if response.status in _MISSING:
            raise Absent(Status.NO_CACHE_DATA, f"{shown}: the upstream has none, status {response.status}")
        if response.status != 200:
            raise Refusal(Status.BAD_GATEWAY, f"{shown}: status {response.status}", alarms=True)
        return Answer(headers={name.lower(): value for name, value in response.headers.items()}, body=content)


def _bounded(response: urllib3.BaseHTTPResponse) -> bytes:
    content = bytearray()
    while chunk := response.read1(64 * 1024, decode_content=True):
        content += chunk
        if len(content) > MAX_ANSWER:
            raise Refusal(Status.BAD_GATEWAY, f"the upstream sent more than {MAX_ANSWER} bytes", alarms=True)
    return bytes(content)


def _asked_for(retry_after: str | None) -> float | None:
    """Return the seconds that the upstream asks for: a number, or a date by this machine's clock; None for neither."""
    text = (retry_after or "").strip()[:64]
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        # OverflowError: a year of more digits than a machine counts.
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise Misuse(
            Reason.FILE_UNREADABLE,
            f"the CA file {ca_file} of the upstream cannot be used: {error.strerror or error}",
            hint="it has to hold PEM certificates",
        ) from error
