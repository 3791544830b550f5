"""A look at all that is cached: what it is, for whom, until when it may be served, and what is about to change.

Every document is verified as it would be before it is served, so that what is said here is what clients meet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from eaa.errors import EAAError, MalformedInput, Reason
from eaa.pccs.census import Census, Certificates, Model
from eaa.pccs.forecast import Forecast, forecast
from eaa.pccs.records import Document, DocumentKey, Kind
from eaa.pccs.store import Store
from eaa.pccs.verification import Vouched
from eaa.pccs.wire import Refusal
from eaa.verifier import TrustAnchors

ENDS_SOON: Final = timedelta(days=7)


class State(StrEnum):
    """What becomes of who asks for a document."""

    VALID = "valid"
    ENDS_SOON = "ends soon"
    EXPIRED = "expired"
    REFUSED = "refused"
    """It does not verify."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One document."""

    root: str
    key: DocumentKey
    what: str
    """For people."""
    kind: str
    """For machines, of a closed set; see KINDS."""
    number: int
    issued: datetime
    ends: datetime
    """Until when it may be served: the earliest end among it and the certificates and CRLs above it."""
    state: State
    reason: Reason | None
    why: str
    """What is wrong with it; empty where nothing is."""

    def days_left(self, now: datetime) -> int:
        """How many whole days it may still be served; negative past its end."""
        return math.floor((self.ends - now) / timedelta(days=1))


KINDS: Final = (
    "sgx_tcb_info",
    "tdx_tcb_info",
    "qe_identity",
    "qve_identity",
    "td_qe_identity",
    "processor_crl",
    "platform_crl",
    "root_crl",
)
"""What documents are counted as."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Everything, as it was at one moment."""

    at: datetime
    default_root: str | None
    entries: tuple[Entry, ...]
    platforms: Mapping[Model, int]
    """How many there are."""
    certificates: Mapping[Model, Certificates]
    """PCK certificates of them."""
    ends_soon: timedelta
    """How long before its end something counts as what ends soon."""
    forecasts: tuple[Forecast, ...]

    @property
    def troubles(self) -> tuple[Entry, ...]:
        """What is not served, or not for long."""
        return tuple(entry for entry in self.entries if entry.state is not State.VALID)

    def state_of(self, certificates: Certificates) -> State:
        """What becomes of who asks for the one of these certificates that ends first."""
        if certificates.ends is None:
            return State.REFUSED if certificates.count else State.VALID
        if certificates.ends <= self.at:
            return State.EXPIRED
        return State.ENDS_SOON if certificates.ends - self.at < self.ends_soon else State.VALID


def survey(
    store: Store,
    *,
    trust_anchors: TrustAnchors,
    now: datetime,
    ends_soon: timedelta = ENDS_SOON,
    census: Census | None = None,
) -> Survey:
    """Look at a store.

    Args:
        store: of whichever process.
        trust_anchors: the roots below which anything is served.
        now: the present.
        ends_soon: how long before its end a document counts as one that ends soon.
        census: of platforms, where it was taken since the store has changed.
    """
    known = store.pkis()
    census = census or Census.take(store)
    entries: list[Entry] = []
    forecasts: list[Forecast] = []
    for pki in known:
        documents = store.catalogue(root=pki.root)
        entries += _entries(store, pki.root, documents, trust_anchors, now, ends_soon)
        forecasts += _forecasts(pki.root, documents, census.tcbms.get(pki.root, {}))
    return Survey(
        at=now,
        default_root=next((pki.root for pki in known if pki.is_default), None),
        entries=tuple(entries),
        platforms=census.platforms,
        certificates=census.certificates,
        ends_soon=ends_soon,
        forecasts=tuple(forecasts),
    )


def _entries(
    store: Store,
    root: str,
    documents: tuple[Document, ...],
    trust_anchors: TrustAnchors,
    now: datetime,
    ends_soon: timedelta,
) -> Iterator[Entry]:
    vouched: Vouched | EAAError | Refusal
    try:
        vouched = Vouched.under(store.supplement(root), trust_anchors=trust_anchors)
    except (EAAError, Refusal) as error:
        vouched = error
    for document in sorted(documents, key=_order):
        yield _entry(document, vouched, now, ends_soon)


def _order(document: Document) -> tuple[object, ...]:
    key = document.key
    return (
        list(Kind).index(key.kind),
        key.name,
        key.tee,
        -key.api_version,
        key.update_type != "STANDARD",
        key.update_type,
    )


def _entry(document: Document, vouched: Vouched | EAAError | Refusal, now: datetime, ends_soon: timedelta) -> Entry:
    ends, state, reason, why = document.expires, State.REFUSED, None, ""
    try:
        if not isinstance(vouched, Vouched):
            raise vouched
        verified = vouched.document(document)
        ends, state = verified.expires, State.EXPIRED
        verified.require_current(now=now)
        state = State.ENDS_SOON if ends - now < ends_soon else State.VALID
    except EAAError as error:
        reason, why = error.reason, error.message
    except Refusal as refusal:
        reason, why = Reason.COLLATERAL_MALFORMED, refusal.cause
    if state is State.ENDS_SOON:
        reason = Reason.COLLATERAL_ENDS_SOON
        why = f"it ends at {ends:%Y-%m-%dT%H:%MZ}"
    return Entry(
        root=document.root,
        key=document.key,
        what=_what(document.key),
        kind=_kind(document.key),
        number=document.number,
        issued=document.issued,
        ends=ends,
        state=state,
        reason=reason,
        why=why,
    )


def _what(key: DocumentKey) -> str:
    update = "" if key.update_type in ("", "STANDARD") else f", {key.update_type.lower()}"
    version = ", v3" if key.api_version == 3 else ""
    match key.kind:
        case Kind.TCB_INFO:
            return f"{key.tee} TCB Info of {key.name}{update}{version}"
        case Kind.IDENTITY:
            return f"{key.name} identity{update}{version}"
        case Kind.PCK_CRL:
            return f"CRL of the {key.name} CA"
        case Kind.ROOT_CRL:
            return "CRL of the root"


def _kind(key: DocumentKey) -> str:
    match key.kind:
        case Kind.TCB_INFO:
            return f"{key.tee.lower()}_tcb_info"
        case Kind.IDENTITY:
            return f"{key.name.lower()}_identity"
        case Kind.PCK_CRL:
            return f"{key.name.lower()}_crl"
        case Kind.ROOT_CRL:
            return "root_crl"


def _forecasts(
    root: str, documents: tuple[Document, ...], tcbms: Mapping[str, Mapping[str, int]]
) -> Iterator[Forecast]:
    current = [each for each in documents if each.key.api_version == 4]
    early = {_subject(each.key): each for each in current if each.key.update_type == "EARLY"}
    for standard in sorted(current, key=_order):
        key = standard.key
        next_one = early.get(_subject(key))
        if key.update_type != "STANDARD" or next_one is None:
            continue
        tee = "TDX" if key.name == "TD_QE" else key.tee or "SGX"
        try:
            found = forecast(
                root=root,
                kind=str(key.kind),
                name=key.name,
                tee=tee,
                standard=standard.body,
                early=next_one.body,
                tcbms=tcbms.get(key.name, {}),
            )
        except MalformedInput:
            # It is listed as what is refused.
            continue
        if found is not None:
            yield found


def _subject(key: DocumentKey) -> tuple[str, str, str]:
    return str(key.kind), key.name, key.tee
