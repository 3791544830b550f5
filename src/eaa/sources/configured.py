"""Collateral as sgx_default_qcnl.conf says: every key of that file means here what it means to Intel's library.

| key | here |
|---|---|
| `pccs_url`, `local_pck_url` | where PCK certificates come from, the local one first |
| `collateral_service` | where everything else comes from |
| `use_secure_cert`, `tcb_update_type`, `retry_times`, `retry_delay` | as they say |
| `pccs_api_version` | 3.0 asks for CRLs in hex and the root's at `rootcacrl`; 3.1 for DER, and at `crl?uri=` |
| `pck_cache_expire_hours`, `verify_collateral_cache_expire_hours` | how long answers are kept, in this process only |
| `local_cache_only` | PCK certificates come from the files of Intel's own tool, and from nowhere else |
| `custom_request_options` | goes along with requests for PCK certificates |

Source: QuoteGeneration/qcnl of Intel SGX DCAP.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Final, Generic, TypeVar

from eaa.collateral.bundle import Collateral
from eaa.errors import Unavailable
from eaa.sources import PCKName
from eaa.sources.local_cache import default_cache_folder, read_pck_chain
from eaa.sources.pccs import BaseURL, PCCSSource, PCKOptions
from eaa.sources.qcnl import QCNLConfig

MAX_KEPT: Final = 4096
"""Answers of one kind."""
_HOUR: Final = 3600.0
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class _Kept(Generic[_T]):
    """Answers that are given again for a while. Thread-safe."""

    def __init__(self, hours: float, clock: Callable[[], float]) -> None:
        self._seconds = hours * _HOUR
        self._clock = clock
        self._answers: OrderedDict[Hashable, tuple[float, _T]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, fetch: Callable[[], _T]) -> _T:
        """Return what is kept, or fetch it. With no hours nothing is kept."""
        if not self._seconds:
            return fetch()
        with self._lock:
            found = self._answers.get(key)
            if found is not None and self._clock() < found[0]:
                return found[1]
        answer = fetch()
        with self._lock:
            self._answers[key] = self._clock() + self._seconds, answer
            self._answers.move_to_end(key)
            if len(self._answers) > MAX_KEPT:
                self._answers.popitem(last=False)
        return answer


class ConfiguredSource:
    """Collateral and PCK certificates from where a quote provider configuration says. Thread-safe."""

    def __init__(
        self,
        config: QCNLConfig,
        *,
        ca_file: Path | None = None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        cache_folder: Path | None = None,
    ) -> None:
        """Prepare it; nothing is sent yet.

        Args:
            config: what the file says.
            ca_file: PEM, trusted in place of the system's CAs.
            sleep: how to wait.
            clock: monotonic, seconds.
            cache_folder: where the files of `local_cache_only` lie.

        Raises:
            Misuse: a URL or the CA file cannot be used.
        """
        if not config.use_secure_cert:
            _log.warning("use_secure_cert is false in the quote provider configuration")
        self._config = config
        self._cache_folder = default_cache_folder({}) if cache_folder is None else cache_folder

        def source(url: str) -> PCCSSource:
            return PCCSSource(
                url,
                ca_file=ca_file,
                dangerous_skip_tls_verification=not config.use_secure_cert,
                update=config.tcb_update_type,
                retries=config.retry_times,
                retry_delay=config.retry_delay,
                sleep=sleep,
                api_version=config.pccs_api_version,
                pck_options=PCKOptions(headers=config.get_cert_headers, params=config.get_cert_params),
            )

        self._collateral = source(config.collateral_service)
        # Most programs never ask for one: their quotes carry it.
        self._sources = {config.collateral_service: self._collateral}
        self._source = source
        self._kept_collateral: _Kept[Collateral] = _Kept(config.verify_collateral_cache_expire_hours, clock)
        self._kept_chains: _Kept[bytes] = _Kept(config.pck_cache_expire_hours, clock)

    @property
    def base_url(self) -> BaseURL:
        """Where verification collateral comes from."""
        return self._collateral.base_url

    def fetch(self, *, tee: int, fmspc: bytes, ca: str) -> Collateral:
        """Return the collateral for one platform model. Raises Unavailable, as `PCCSSource.fetch`."""
        fetch = self._collateral.fetch
        return self._kept_collateral.get((int(tee), fmspc, ca), lambda: fetch(tee=tee, fmspc=fmspc, ca=ca))

    def fetch_pck_chain(self, name: PCKName) -> bytes:
        """Return the PCK certificate of one platform at one TCB, and its issuers: PEM. Raises Unavailable."""
        if self._config.local_cache_only:
            return read_pck_chain(self._cache_folder, name)
        # Of a machine only a digest is kept.
        parts = (name.qe_id, name.encrypted_ppid or b"", name.cpu_svn, name.pce_svn.to_bytes(2, "big"), name.pce_id)
        key = hashlib.sha256(b"".join(b"%d:" % len(part) + part for part in parts)).digest()
        return self._kept_chains.get(key, lambda: self._fetch_pck_chain(name))

    def _fetch_pck_chain(self, name: PCKName) -> bytes:
        if self._config.local_pck_url is not None:
            try:
                return self._source_at(self._config.local_pck_url).fetch_pck_chain(name)
            except Unavailable as error:
                _log.info("the local PCK service has no certificate, asking the next: %s", error.message)
        return self._source_at(self._config.pccs_url).fetch_pck_chain(name)

    def _source_at(self, url: str) -> PCCSSource:
        if url not in self._sources:
            self._sources[url] = self._source(url)
        return self._sources[url]
