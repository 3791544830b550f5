"""Storing an upload, whole or not at all, inside one transaction; what is older than what is there stays out.

Writers come one after the other (`eaa.pccs.engines.writing`), so that what is read here is still true when the
transaction ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import sqlalchemy as sa

from eaa.errors import EAAError
from eaa.pccs.engines import MAX_ROWS, upsert
from eaa.pccs.freshness import Freshness
from eaa.pccs.pem import packed
from eaa.pccs.records import DocumentKey, Kind, Stored
from eaa.pccs.tables import chains, crl_uris, documents, pck_certs, pkis, platform_tcbs, platforms
from eaa.pccs.uploads import IDENTITY, TCB_INFO, RawTCB, Upload, UploadedDocument, UploadedPlatform
from eaa.pccs.wire import Refusal, Status


class _Named(Protocol):
    @property
    def qe_id(self) -> str: ...
    @property
    def pce_id(self) -> str: ...


def of_platform(table: sa.Table, root: str, platform: _Named) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions that pick a platform's rows."""
    return (table.c.qe_id == platform.qe_id, table.c.pce_id == platform.pce_id, table.c.root == root)


def apply(connection: sa.Connection, upload: Upload, *, now: datetime, becomes_default: bool) -> Stored:
    """Store an upload. Raises Refusal (400) where it does not hang together; see `Store.apply`."""
    order = (pkis.c.preferred.desc(), pkis.c.uploads.desc())
    default = connection.scalar(sa.select(pkis.c.root).order_by(*order).limit(1))
    root = upload.root or default
    if root is None and upload.is_empty:
        return Stored(root="", replaces=None, platforms=0, tcb_infos=0, identities=0, kept_newer=0)
    if root is None:
        raise Refusal(Status.INVALID_REQUEST, "the upload has no issuer chain, so that its PKI is not known")
    writer = _Writer(connection=connection, root=root, updated=int(now.timestamp()))
    writer.upload(upload)
    writer.mark(becomes_default=becomes_default)
    return Stored(
        root=root,
        replaces=default if becomes_default and default != root else None,
        platforms=len(upload.platforms),
        tcb_infos=len(upload.tcb_infos),
        identities=len(upload.identities),
        kept_newer=len(writer.refused),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Writer:
    """Writes rows of one PKI inside one transaction."""

    connection: sa.Connection
    root: str
    updated: int
    refused: list[DocumentKey] = field(default_factory=list)
    """Of what a newer one is there."""

    def put(self, table: sa.Table, rows: Iterable[dict[str, Any]]) -> None:
        upsert(self.connection, table, [{**row, "root": self.root, "updated": self.updated} for row in rows])

    def upload(self, upload: Upload) -> None:
        self.platforms(upload.platforms)
        self.put(chains, ({"name": name, "chain": chain} for name, chain in upload.chains.items()))
        for key, body, chain in _documents(upload):
            self.document(key, body, chain)
        if (upload.root_crl is not None or upload.pck_crls) and upload.root_crl_uri is not None:
            self.put(crl_uris, [{"uri": upload.root_crl_uri}])

    def document(self, key: DocumentKey, body: bytes, chain: str | None) -> None:
        """Put a document in place of the one with the same key, unless it is older."""
        try:
            freshness = Freshness.of_crl(body) if key.kind.endswith("CRL") else Freshness.of_json(body)
        except EAAError as error:
            raise Refusal(Status.INVALID_REQUEST, f"{key.kind} {key.name}: {error.message}") from error
        known = self.known(key)
        if known is not None and freshness.is_older_than(known):
            self.refused.append(key)
            return
        said = {
            "number": str(freshness.number),
            "issued": int(freshness.issued.timestamp()),
            "expires": int(freshness.expires.timestamp()),
        }
        self.put(documents, [{**asdict(key), **said, "document": body, "chain": chain}])

    def known(self, key: DocumentKey) -> Freshness | None:
        """Return how new the document is that is there."""
        same = [documents.c[name] == value for name, value in asdict(key).items()]
        query = sa.select(documents.c.number, documents.c.issued, documents.c.expires)
        row = self.connection.execute(query.where(*same, documents.c.root == self.root)).first()
        if row is None:
            return None
        try:
            moments = {name: datetime.fromtimestamp(getattr(row, name), UTC) for name in ("issued", "expires")}
            return Freshness(number=int(row.number), **moments)
        except (TypeError, ValueError, OverflowError, OSError):
            # Somebody has changed the row: whatever comes is better.
            return None

    def platforms(self, uploaded: tuple[UploadedPlatform, ...]) -> None:
        """Put platforms' certificates in place of those that were there, and choose anew for every known TCB."""
        last = {(platform.qe_id, platform.pce_id): platform for platform in uploaded}
        entries = list(last.values())
        known = self.known_tcbs(entries)
        certificates, tcbs, listed = [], [], []
        for platform in entries:
            key = {"qe_id": platform.qe_id, "pce_id": platform.pce_id}
            pems = {candidate.tcbm: candidate.pem for candidate in platform.certificates}
            certificates += [{**key, "tcbm": tcbm, "certificate": packed(pem)} for tcbm, pem in pems.items()]
            earlier = known.get((platform.qe_id, platform.pce_id), ())
            tcbs += [
                {**key, "cpu_svn": raw.cpu_svn, "pce_svn": raw.pce_svn, "tcbm": platform.best(raw).tcbm}
                for raw in dict.fromkeys((*earlier, *platform.raw_tcbs))
            ]
            if platform.is_listed:
                listed.append({**key, **_described(platform)})
        for platform in self.with_certificates(entries):
            self.connection.execute(pck_certs.delete().where(*of_platform(pck_certs, self.root, platform)))
        self.put(pck_certs, certificates)
        self.put(platform_tcbs, tcbs)
        self.put(platforms, listed)

    def with_certificates(self, entries: list[UploadedPlatform]) -> list[UploadedPlatform]:
        """Return those that have certificates already: of very many that are new, none is looked at twice."""
        found: set[str] = set()
        for start in range(0, len(entries), MAX_ROWS):
            names = [platform.qe_id for platform in entries[start : start + MAX_ROWS]]
            query = sa.select(pck_certs.c.qe_id).where(pck_certs.c.qe_id.in_(names), pck_certs.c.root == self.root)
            found.update(self.connection.scalars(query))
        return [platform for platform in entries if platform.qe_id in found]

    def known_tcbs(self, entries: list[UploadedPlatform]) -> dict[tuple[str, str], list[RawTCB]]:
        """Return the TCBs that these platforms ever reported."""
        table = platform_tcbs
        found: dict[tuple[str, str], list[RawTCB]] = {}
        for start in range(0, len(entries), MAX_ROWS):
            names = [platform.qe_id for platform in entries[start : start + MAX_ROWS]]
            query = sa.select(table).where(table.c.qe_id.in_(names), table.c.root == self.root)
            for row in self.connection.execute(query):
                raw = RawTCB(cpu_svn=row.cpu_svn, pce_svn=row.pce_svn)
                found.setdefault((row.qe_id, row.pce_id), []).append(raw)
        return found

    def mark(self, *, becomes_default: bool) -> None:
        """Say that this PKI has changed, and whether it is the default one from now on."""
        latest = self.connection.scalar(sa.select(sa.func.max(pkis.c.uploads))) or 0
        preferred = self.connection.scalar(sa.select(pkis.c.preferred).where(pkis.c.root == self.root)) or 0
        row = {
            "root": self.root,
            "uploads": latest + 1,
            "preferred": latest + 1 if becomes_default else preferred,
            "updated": self.updated,
        }
        upsert(self.connection, pkis, [row])


def _described(platform: UploadedPlatform) -> dict[str, Any]:
    ppid, manifest = bytes.fromhex(platform.enc_ppid), bytes.fromhex(platform.platform_manifest)
    return {"fmspc": platform.fmspc, "ca": platform.ca, "enc_ppid": ppid, "platform_manifest": manifest}


def _documents(upload: Upload) -> Iterable[tuple[DocumentKey, bytes, str | None]]:
    """Yield every signed document of an upload with its key and the chain it came with."""
    for document in upload.tcb_infos:
        yield _key(Kind.TCB_INFO, document, upload, document.tee), document.text, upload.chains.get(TCB_INFO)
    for document in upload.identities:
        yield _key(Kind.IDENTITY, document, upload, ""), document.text, upload.chains.get(IDENTITY)
    for ca, crl in upload.pck_crls.items():
        yield DocumentKey(kind=Kind.PCK_CRL, name=ca), crl, upload.chains.get(ca)
    if upload.root_crl is not None:
        yield DocumentKey(kind=Kind.ROOT_CRL, name=""), upload.root_crl, None


def _key(kind: Kind, document: UploadedDocument, upload: Upload, tee: str) -> DocumentKey:
    return DocumentKey(
        kind=kind, name=document.name, tee=tee, api_version=upload.api_version, update_type=document.update
    )
