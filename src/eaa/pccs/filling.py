"""Fetching what is missing: from the upstream, verified, into the store, each document once however many ask for it.

Nothing goes from the upstream to a client: a document is fetched, verified and stored as an upload would be, and then
served from the store like any other. So a lying upstream can do no more than one that is down.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache, partial
from typing import Any, Final, TypeVar

from eaa.errors import EAAError
from eaa.pccs.admission import admit
from eaa.pccs.flights import Missing, SharedFlights
from eaa.pccs.freshness import Freshness
from eaa.pccs.observing import Nobody, Observer
from eaa.pccs.records import DocumentKey, Kind
from eaa.pccs.registration import Registration, Waiting
from eaa.pccs.store import Store
from eaa.pccs.uploads import (
    CAS,
    EMPTY_UPLOAD,
    IDENTITY,
    TCB_INFO,
    RawTCB,
    Upload,
    UploadedDocument,
    UploadedPlatform,
    read_candidate,
    read_chain,
)
from eaa.pccs.upstream import Absent, Answer, Upstream
from eaa.pccs.verification import Vouched, told
from eaa.pccs.wire import Refusal, Status
from eaa.verifier import TrustAnchors

IDENTITIES: Final[Mapping[str, tuple[str, str]]] = {
    "QE": ("sgx", "qe/identity"),
    "QVE": ("sgx", "qve/identity"),
    "TD_QE": ("tdx", "qe/identity"),
}
"""Where each identity lies upstream."""
RENEW_CRL: Final = timedelta(days=7)
"""How long before its end a CRL that vouches is fetched anew, with whatever is fetched below it."""
_NOT_AVAILABLE: Final = "not available"
_USUAL: Final = "STANDARD"
_log = logging.getLogger(__name__)
T = TypeVar("T")
_TCBInfos = Callable[[str], tuple[tuple[UploadedDocument, ...], str]]


class Mode(StrEnum):
    """When the upstream is asked."""

    OFFLINE = "OFFLINE"
    """Never."""
    REQ = "REQ"
    """When a platform reports itself, and for a refresh."""
    LAZY = "LAZY"
    """For a read that misses, too."""


class Filler:
    """Brings documents from the upstream into the store. Thread-safe."""

    def __init__(
        self,
        upstream: Upstream,
        store: Store,
        *,
        trust_anchors: TrustAnchors,
        clock: Callable[[], datetime],
        observer: Observer | None = None,
    ) -> None:
        """Fill this store from this upstream, with what the trust anchors vouch for, and tell the observer."""
        self._observer = observer or Nobody()
        self._upstream = upstream
        self._store = store
        self._trust_anchors = trust_anchors
        self._clock = clock
        self._flights = SharedFlights(store, clock=clock)
        self._missing = Missing()
        self._root: str | None = None

    def once(self, name: str, work: Callable[[], T]) -> T:
        """Do something once for all who ask for it at the same time, here or in another process on this database."""
        return self._flights.run(name, work)

    def takes_turn(self, name: str, *, length: timedelta) -> bool:
        """Whether no other process on this database has done it for so long; then it is this one's."""
        return self._flights.take(name, length=length)

    def fetch(self, name: str, work: Callable[[], None]) -> None:
        """Do the work of a fetch, unless the upstream had not a moment ago what it would bring.

        Raises:
            Refusal: as the work.
        """
        if name in self._missing:
            raise Refusal(Status.NO_CACHE_DATA, "the upstream had none a moment ago")
        try:
            self.observed(name, work)
        except Absent:
            # Only what the upstream said: what a client got wrong must not stand in the way of the next one.
            self._missing.add(name)
            raise

    def observed(self, name: str, work: Callable[[], None]) -> None:
        """Do the work of a fetch and tell the observer what came of it. Raises as the work."""
        route = name.partition("/")[0]
        try:
            work()
        except Refusal as refusal:
            outcome = "missing" if refusal.status is Status.NO_CACHE_DATA else "failed"
            self._observer.fetched(route, "lied" if isinstance(refusal, Lie) else outcome)
            raise
        self._observer.fetched(route, "ok")

    # Each of these raises Refusal: 404, the upstream has none; 502, it fails, or what it sends does not verify.

    def tcb_info(self, *, tee: str, fmspc: str, update: str) -> None:
        """Fetch TCB Info of a model (12 hex digits), SGX or TDX; STANDARD, EARLY, or # and an evaluation number."""
        document, chain = self._tcb_info(tee, fmspc, update)
        self._keep(replace(EMPTY_UPLOAD, tcb_infos=(document,), chains={TCB_INFO: chain}))

    def identity(self, *, name: str, update: str) -> None:
        """Fetch the identity of QE, QVE or TD_QE."""
        self._keep(self._identity(name, update))

    def pck_crl(self, *, ca: str, uri: str | None = None) -> None:
        """Fetch the CRL of the PROCESSOR or PLATFORM CA, and remember the address by which a client knows it."""
        answer = self._upstream.get("sgx", "pckcrl", {"ca": ca.lower(), "encoding": "der"})
        chain = answer.header("SGX-PCK-CRL-Issuer-Chain")
        self._keep(replace(EMPTY_UPLOAD, pck_crls={ca: answer.body}, chains={ca: chain}, root_crl_uri=uri))

    def root_crl(self, *, uri: str | None = None) -> None:
        """Fetch the root's CRL; with it, where no document has named the upstream's root yet, the QE identity."""
        chains = {} if self._root is None else self._store.supplement(self._root).chains
        named = replace(EMPTY_UPLOAD, chains=dict(list(chains.items())[:1])) if chains else self._identity("QE", _USUAL)
        self._keep(replace(named, root_crl=self._upstream.root_crl(), root_crl_uri=uri))

    def platform(
        self, platform: Registration, *, raises_queue: bool = False, tcb_infos: _TCBInfos | None = None
    ) -> None:
        """Fetch the certificates of a platform, and all TCB Info of its model.

        Args:
            platform: with an encrypted PPID or a manifest.
            raises_queue: remember for which TCBs the vendor has no certificate.
            tcb_infos: fetches all TCB Info of a model, once for many platforms.
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
        documents, chain = (tcb_infos or self._tcb_infos)(fmspc)
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
        fitting = _fitting(fetched, platform)
        # Where a better certificate may come, a report that is repeated has to ask for it, unless it is queued.
        may_improve = len(available) < len(entries) and not raises_queue
        fetched = replace(fetched, raw_tcbs=() if may_improve else fitting)
        root = _believed(lambda: read_chain(chain))[-1].fingerprint.hex()
        if not self._has_crl(root, ca=ca):
            self.once(f"ca crl/{ca}", partial(self._add_ca_crl, root, ca))
        chains = {TCB_INFO: chain, ca: answer.header("SGX-PCK-Certificate-Issuer-Chain")}
        self._keep(replace(EMPTY_UPLOAD, platforms=(fetched,), tcb_infos=documents, chains=chains))
        if platform.cpu_svn and platform.pce_svn and not fitting:
            raise Refusal(Status.NO_CACHE_DATA, "the vendor has no certificate for the TCB that the platform reports")

    def refresh(self) -> int:
        """Fetch anew whatever is in the store, but for certificates; return how many documents could not be."""
        failures = 0
        for name, fetch in self._everything():
            try:
                self.observed(name, fetch)
            except Refusal as refusal:
                failures += 1
                _log.warning("not refreshed: %s", refusal.cause, extra={"event": "pccs.not_refreshed"})
        self._observer.refreshed(failures)
        return failures

    def refresh_platforms(self, fmspcs: tuple[str, ...]) -> int:
        """Fetch anew the certificates of all platforms of these models, or of all; return how many could not be."""
        failures = 0
        rows = self._store.cached_platforms(fmspcs, root=self._upstream_root())
        # A platform stands there once for each TCB that it reported; which certificate is for which is chosen anew.
        once = {(row["qe_id"], row["pce_id"]): row for row in rows}
        tcb_infos = cache(self._tcb_infos)
        for row in once.values():
            platform = Registration(
                **{**row, **{name: row[name].lower() for name in ("enc_ppid", "platform_manifest")}}
            )
            try:
                self.platform(platform, tcb_infos=tcb_infos)
            except Refusal as refusal:
                failures += 1
                _log.warning("the certificates of a platform are not refreshed: %s", refusal.cause)
        return failures

    def complete(self, updates: tuple[str, ...]) -> None:
        """Fetch what a verifier needs beside TCB Info, as far as it is missing: CRLs and identities."""
        for ca in CAS:
            if not self._store.find(DocumentKey(kind=Kind.PCK_CRL, name=ca)):
                fetch = partial(self.once, f"pckcrl/{ca}", partial(self.pck_crl, ca=ca))
                self._optional(fetch, is_optional=True)
        for name in IDENTITIES:
            for update in updates:
                key = DocumentKey(kind=Kind.IDENTITY, name=name, api_version=4, update_type=update)
                if not self._store.find(key):
                    fetch = partial(self.identity, name=name, update=update)
                    self._optional(
                        partial(self.once, f"identity/{name}/{update}", fetch),
                        is_optional=update == "EARLY" or name != "QE",
                    )

    def _optional(self, fetch: Callable[[], None], *, is_optional: bool) -> None:
        try:
            fetch()
        except Refusal as refusal:
            if not is_optional or refusal.status is not Status.NO_CACHE_DATA:
                raise

    def _everything(self) -> list[tuple[str, Callable[[], None]]]:
        """Return, by name, what fetches each document of the upstream's PKI anew, in the reference's order.

        A CRL that vouches and is near its end is fetched with whatever comes first.
        """
        root = self._upstream_root()
        keys = [document.key for document in self._store.catalogue(root=root)] if root else []
        names = {kind: [key for key in keys if key.kind is kind] for kind in Kind}
        current = [key for kind in (Kind.TCB_INFO, Kind.IDENTITY) for key in names[kind] if key.api_version == 4]
        return [
            *(("pckcrl", partial(self.pck_crl, ca=key.name)) for key in names[Kind.PCK_CRL]),
            *(
                ("tcb", partial(self.tcb_info, tee=key.tee, fmspc=key.name, update=key.update_type))
                if key.kind is Kind.TCB_INFO
                else ("identity", partial(self.identity, name=key.name, update=key.update_type))
                for key in current
            ),
            *([("rootcacrl", self.root_crl)] if names[Kind.ROOT_CRL] else []),
        ]

    def _upstream_root(self) -> str | None:
        """Return by which root the upstream's documents are known: as the last one said, or the only PKI there is."""
        if self._root is None:
            known = self._store.pkis()
            if len(known) != 1:
                if known:
                    self._optional(partial(self.identity, name="QE", update=_USUAL), is_optional=True)
                return self._root
            return known[0].root
        return self._root

    def _identity(self, name: str, update: str) -> Upload:
        product, route = IDENTITIES[name]
        answer = self._upstream.get(product, route, {"update": update.lower()})
        document = UploadedDocument(name=name, tee=product.upper(), update=update, text=answer.body)
        chain = answer.header("SGX-Enclave-Identity-Issuer-Chain")
        return replace(EMPTY_UPLOAD, identities=(document,), chains={IDENTITY: chain})

    def _tcb_info(self, tee: str, fmspc: str, update: str) -> tuple[UploadedDocument, str]:
        which = {"tcbEvaluationDataNumber": update[1:]} if update.startswith("#") else {"update": update.lower()}
        answer = self._upstream.get(tee.lower(), "tcb", {"fmspc": fmspc, **which})
        if update.startswith("#") and _believed(lambda: Freshness.of_json(answer.body)).number != int(update[1:]):
            # Kept under the number that was asked for, it would let any client fill the store with one row a number.
            raise Absent(Status.NO_CACHE_DATA, "the upstream answered with TCB Info of another evaluation number")
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
        if upload.root_crl is None and not self._has_crl(root, spare=RENEW_CRL):
            self.once(f"root crl/{root}", lambda: self._add_root_crl(upload, root))
        _believed(
            lambda: admit(
                upload, self._store, trust_anchors=self._trust_anchors, now=self._clock(), becomes_default=False
            )
        )
        self._root = root

    def _has_crl(self, root: str, *, ca: str | None = None, spare: timedelta = timedelta(0)) -> bool:
        """Whether the CRL of a root, or of a PCK CA below it, is there, current, and so for a while."""
        try:
            vouched = Vouched.under(self._store.supplement(root), trust_anchors=self._trust_anchors)
            verified = vouched.root if ca is None else vouched.ca(ca)
            verified.require_current(now=self._clock())
        except (Refusal, EAAError):
            return False
        return verified.expires - spare > self._clock()

    def _add_ca_crl(self, root: str, ca: str) -> None:
        if not self._has_crl(root, ca=ca):
            self.pck_crl(ca=ca)

    def _add_root_crl(self, upload: Upload, root: str) -> None:
        if self._has_crl(root, spare=RENEW_CRL):
            return
        name, chain = next(iter(upload.chains.items()))
        try:
            self._keep(replace(EMPTY_UPLOAD, chains={name: chain}, root_crl=self._upstream.root_crl()))
        except Refusal as refusal:
            # One that still holds for a while will do.
            if not self._has_crl(root):
                raise
            _log.warning("the root's CRL is not renewed: %s", refusal.cause)


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


class Lie(Refusal):
    """The upstream sent what does not hold."""


def _lie(why: str) -> Lie:
    return Lie(Status.BAD_GATEWAY, f"what the upstream sent is not kept: {why}", alarms=True)
