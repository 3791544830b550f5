"""Fetching what is missing: from the upstream, verified, into the store, each document once however many ask for it.

Nothing goes from the upstream to a client: a document is fetched, verified and stored as an upload would be, and then
served from the store like any other. So a lying upstream can do no more than one that is down.
"""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, Final, TypeVar

from eaa.errors import EAAError
from eaa.pccs.registration import Registration, Waiting
from eaa.pccs.store import Store
from eaa.pccs.uploads import (
    CAS,
    IDENTITY,
    TCB_INFO,
    RawTCB,
    Upload,
    UploadedDocument,
    UploadedPlatform,
    read_candidate,
    read_chain,
)
from eaa.pccs.upstream import Answer, Upstream
from eaa.pccs.verification import Vouched, told, verify_upload
from eaa.pccs.wire import Refusal, Status
from eaa.verifier import TrustAnchors

IDENTITIES: Final[Mapping[str, tuple[str, str]]] = {
    "QE": ("sgx", "qe/identity"),
    "QVE": ("sgx", "qve/identity"),
    "TD_QE": ("tdx", "qe/identity"),
}
"""Where each identity lies upstream."""
MAX_WAIT: Final = 120.0
"""Seconds that a client waits for a fetch which another one began."""
_NOT_AVAILABLE: Final = "not available"
_EMPTY: Final = Upload(
    api_version=4,
    root=None,
    platforms=(),
    tcb_infos=(),
    identities=(),
    pck_crls={},
    chains={},
    root_crl=None,
    root_crl_uri=None,
)
_log = logging.getLogger(__name__)
T = TypeVar("T")


class Mode(StrEnum):
    """When the upstream is asked."""

    OFFLINE = "OFFLINE"
    """Never."""
    REQ = "REQ"
    """When a platform reports itself, and for a refresh."""
    LAZY = "LAZY"
    """For a read that misses, too."""


@dataclass(slots=True)
class Flights:
    """Work in progress by what it is for: whoever asks for the same waits for it and shares its outcome."""

    _futures: dict[Hashable, Future[Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, key: Hashable, work: Callable[[], T]) -> T:
        """Return what `work` returns, or raise what it raises, done once for all who ask at the time."""
        with self._lock:
            future = self._futures.get(key)
            is_first = future is None
            if future is None:
                future = self._futures[key] = Future()
        if not is_first:
            result: T = future.result(timeout=MAX_WAIT)
            return result
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._futures[key]
        done: T = future.result()
        return done


class Filler:
    """Brings documents from the upstream into the store. Thread-safe."""

    def __init__(
        self, upstream: Upstream, store: Store, *, trust_anchors: TrustAnchors, clock: Callable[[], datetime]
    ) -> None:
        """Fill this store from this upstream, with what the trust anchors vouch for."""
        self._upstream = upstream
        self._store = store
        self._trust_anchors = trust_anchors
        self._clock = clock
        self._flights = Flights()

    def once(self, key: Hashable, work: Callable[[], T]) -> T:
        """Do something once for all who ask for it at the same time."""
        return self._flights.run(key, work)

    # Each of these raises Refusal: 404, the upstream has none; 502, it fails, or what it sends does not verify.

    def tcb_info(self, *, tee: str, fmspc: str, update: str) -> None:
        """Fetch TCB Info of a model (12 hex digits), SGX or TDX, STANDARD or EARLY."""
        document, chain = self._tcb_info(tee, fmspc, update)
        self._keep(replace(_EMPTY, tcb_infos=(document,), chains={TCB_INFO: chain}))

    def identity(self, *, name: str, update: str) -> None:
        """Fetch the identity of QE, QVE or TD_QE."""
        product, route = IDENTITIES[name]
        answer = self._upstream.get(product, route, {"update": update.lower()})
        document = UploadedDocument(name=name, tee=product.upper(), update=update, text=answer.body)
        chain = answer.header("SGX-Enclave-Identity-Issuer-Chain")
        self._keep(replace(_EMPTY, identities=(document,), chains={IDENTITY: chain}))

    def pck_crl(self, *, ca: str) -> None:
        """Fetch the CRL of the PROCESSOR or PLATFORM CA."""
        answer = self._upstream.get("sgx", "pckcrl", {"ca": ca.lower(), "encoding": "der"})
        chain = answer.header("SGX-PCK-CRL-Issuer-Chain")
        self._keep(replace(_EMPTY, pck_crls={ca: answer.body}, chains={ca: chain}))

    def root_crl(self, *, uri: str | None = None) -> None:
        """Fetch the root's CRL, and with it, where no chain names the root yet, the QE identity."""
        if not self._store.supplement().chains:
            self.identity(name="QE", update="STANDARD")
        chains = self._store.supplement().chains
        name, chain = next(iter(chains.items()))
        self._keep(replace(_EMPTY, chains={name: chain}, root_crl=self._upstream.root_crl(), root_crl_uri=uri))

    def platform(self, platform: Registration, *, raises_queue: bool = False) -> None:
        """Fetch the certificates of a platform, and all TCB Info of its model.

        Args:
            platform: with an encrypted PPID or a manifest.
            raises_queue: remember for which TCBs the vendor has no certificate.
        """
        if not platform.platform_manifest and not platform.enc_ppid:
            raise Refusal(Status.INVALID_REQUEST, "a platform is fetched by its encrypted PPID or its manifest")
        if not platform.platform_manifest and not platform.enc_ppid.strip("0"):
            raise Refusal(Status.NO_CACHE_DATA, "the encrypted PPID is all zeros, which no platform has")
        if platform.platform_manifest:
            answer = self._upstream.certificates_of_manifest(platform.platform_manifest, platform.pce_id)
        else:
            parameters = {"encrypted_ppid": platform.enc_ppid, "pceid": platform.pce_id}
            answer = self._upstream.get("sgx", "pckcerts", parameters)
        entries = _certificate_entries(answer)
        if raises_queue:
            self._queue_missing(platform, entries)
        available = [entry for entry in entries if entry["cert"].lower() != _NOT_AVAILABLE]
        if not available:
            raise Refusal(Status.NO_CACHE_DATA, "the vendor has no certificate for any TCB of this platform")
        candidates = _believed(lambda: tuple(read_candidate(entry) for entry in available))
        fmspc = candidates[0].certificate.fmspc.hex().upper()
        ca = candidates[0].certificate.ca.upper()
        documents, chain = self._tcb_infos(fmspc)
        inner = json.loads(next(each.text for each in documents if each.tee == "SGX"))["tcbInfo"]
        fetched = UploadedPlatform(
            qe_id=platform.qe_id,
            pce_id=platform.pce_id,
            fmspc=fmspc,
            ca=ca,
            enc_ppid=platform.enc_ppid.upper(),
            platform_manifest=platform.platform_manifest.upper(),
            is_listed=True,
            raw_tcbs=(),
            certificates=candidates,
            tcb_info=inner,
        )
        fetched = replace(fetched, raw_tcbs=_fitting(fetched, platform))
        if not self._has_crl(None, ca=ca):
            self.once(("pckcrl", ca), partial(self.pck_crl, ca=ca))
        chains = {TCB_INFO: chain, ca: answer.header("SGX-PCK-Certificate-Issuer-Chain")}
        self._keep(replace(_EMPTY, platforms=(fetched,), tcb_infos=documents, chains=chains))

    def refresh(self) -> int:
        """Fetch anew whatever is in the store, but for certificates; return how many documents could not be."""
        failures = 0
        for fetch in self._everything():
            try:
                fetch()
            except Refusal as refusal:
                failures += 1
                _log.warning("not refreshed: %s", refusal.cause)
        return failures

    def refresh_platforms(self, fmspcs: tuple[str, ...]) -> int:
        """Fetch anew the certificates of all platforms of these models, or of all; return how many could not be."""
        failures = 0
        for row in self._store.cached_platforms(fmspcs):
            platform = Registration(**{name: row[name] for name in Registration.__dataclass_fields__})
            try:
                self.platform(platform)
            except Refusal as refusal:
                failures += 1
                _log.warning("the certificates of a platform are not refreshed: %s", refusal.cause)
        return failures

    def complete(self, updates: tuple[str, ...]) -> None:
        """Fetch what a verifier needs beside TCB Info, as far as it is missing: CRLs and identities."""
        for ca in CAS:
            if self._store.pck_crl(ca=ca) is None:
                fetch = partial(self.once, ("pckcrl", ca), partial(self.pck_crl, ca=ca))
                self._optional(fetch, is_optional=True)
        for name in IDENTITIES:
            for update in updates:
                if self._store.identity(name=name, api_version=4, update=update) is None:
                    self._optional(
                        partial(self.identity, name=name, update=update),
                        is_optional=update == "EARLY" or name != "QE",
                    )

    def _optional(self, fetch: Callable[[], None], *, is_optional: bool) -> None:
        try:
            fetch()
        except Refusal as refusal:
            if not is_optional or refusal.status is not Status.NO_CACHE_DATA:
                raise

    def _everything(self) -> list[Callable[[], None]]:
        kept = self._store.documents()
        return [
            *(partial(self.pck_crl, ca=ca) for ca in kept.cas),
            *(partial(self.root_crl, uri=uri) for uri in kept.crl_uris or (None,)),
            *(partial(self.tcb_info, tee=tee, fmspc=fmspc, update=update) for fmspc, tee, update in kept.tcb_infos),
            *(partial(self.identity, name=name, update=update) for name, update in kept.identities),
        ]

    def _tcb_info(self, tee: str, fmspc: str, update: str) -> tuple[UploadedDocument, str]:
        answer = self._upstream.get(tee.lower(), "tcb", {"fmspc": fmspc, "update": update.lower()})
        document = UploadedDocument(name=fmspc, tee=tee, update=update, text=answer.body)
        return document, answer.header("TCB-Info-Issuer-Chain")

    def _tcb_infos(self, fmspc: str) -> tuple[tuple[UploadedDocument, ...], str]:
        """Return all TCB Info of a model, in the reference's order; only the standard one for SGX must be there."""
        found: list[UploadedDocument] = []
        chains: list[str] = []
        for tee, update in (("SGX", "EARLY"), ("SGX", "STANDARD"), ("TDX", "EARLY"), ("TDX", "STANDARD")):
            try:
                document, chain = self._tcb_info(tee, fmspc, update)
            except Refusal as refusal:
                if (tee, update) == ("SGX", "STANDARD") or refusal.status is not Status.NO_CACHE_DATA:
                    raise
                continue
            found.append(document)
            chains.append(chain)
        if len(set(chains)) > 1:
            raise _lie("the upstream signs one model's TCB Info with several chains")
        return tuple(found), chains[0]

    def _queue_missing(self, platform: Registration, entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            tcbm = entry["tcbm"].upper()
            if entry["cert"].lower() == _NOT_AVAILABLE and len(tcbm) == 36:
                missing = replace(platform, cpu_svn=tcbm[:32], pce_svn=tcbm[32:])
                self._store.register(missing, state=Waiting.NOT_AVAILABLE, now=self._clock())

    def _keep(self, upload: Upload) -> None:
        """Verify and store what was fetched; the root's CRL is fetched with it where there is none yet."""
        certificates = _believed(lambda: [read_chain(chain) for chain in upload.chains.values()])
        roots = {chain[-1].fingerprint.hex() for chain in certificates}
        if len(roots) != 1:
            raise _lie("the upstream's chains end in several roots")
        (root,) = roots
        upload = replace(upload, root=root)
        if upload.root_crl is None and not self._has_crl(root):
            self.once(("root crl", root), lambda: self._add_root_crl(upload, root))
        now = self._clock()
        known = self._store.supplement(root)
        _believed(lambda: verify_upload(upload, known, trust_anchors=self._trust_anchors, now=now))
        _believed(lambda: self._store.apply(upload, now=now))

    def _has_crl(self, root: str | None, *, ca: str | None = None) -> bool:
        """Whether the CRL of a root, or of a PCK CA below it, is there and current."""
        try:
            vouched = Vouched.under(self._store.supplement(root), trust_anchors=self._trust_anchors)
            (vouched.root if ca is None else vouched.ca(ca)).require_current(now=self._clock())
        except (Refusal, EAAError):
            return False
        return True

    def _add_root_crl(self, upload: Upload, root: str) -> None:
        if not self._has_crl(root):
            name, chain = next(iter(upload.chains.items()))
            self._keep(replace(_EMPTY, chains={name: chain}, root_crl=self._upstream.root_crl()))


def _certificate_entries(answer: Answer) -> list[dict[str, Any]]:
    try:
        entries = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise _lie("the upstream's list of certificates is not JSON") from error
    is_list = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    if not is_list or not all(isinstance(entry.get(name), str) for entry in entries for name in ("tcbm", "cert")):
        raise _lie("the upstream's list of certificates is none")
    found: list[dict[str, Any]] = entries
    return found


def _fitting(fetched: UploadedPlatform, platform: Registration) -> tuple[RawTCB, ...]:
    """Return the TCB that the platform reported, unless none of its certificates is for it."""
    if not (platform.cpu_svn and platform.pce_svn):
        return ()
    raw = RawTCB(cpu_svn=platform.cpu_svn, pce_svn=platform.pce_svn)
    try:
        fetched.best(raw)
    except Refusal:
        return ()
    return (raw,)


def _believed(work: Callable[[], T]) -> T:
    """Return what reading or verifying the upstream's documents returns; where they are bad, the upstream is."""
    try:
        return work()
    except Refusal as refusal:
        raise _lie(refusal.cause) from refusal
    except EAAError as error:
        raise _lie(told(error)) from error


def _lie(why: str) -> Refusal:
    return Refusal(Status.BAD_GATEWAY, f"what the upstream sent is not kept: {why}", alarms=True)


class Refresher:
    """A thread that refreshes the store every so often, until it is closed; whoever reads waits for none of it."""

    def __init__(self, filler: Filler, *, every: timedelta) -> None:
        """Start it. The first refresh comes after one interval, give or take a tenth: not all caches at once."""
        self._filler = filler
        self._seconds = every.total_seconds()
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="refresh", daemon=True).start()

    def close(self) -> None:
        """Begin no other refresh."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self._seconds * random.uniform(0.9, 1.1)):  # noqa: S311  spreads load
            try:
                failures = self._filler.refresh()
            except Exception:  # noqa: BLE001  the next one may do better, and operators read of this one
                _log.exception("the refresh failed")
            else:
                _log.log(logging.WARNING if failures else logging.INFO, "refreshed, but for %d documents", failures)
