"""Everything of one PKI as uploads again, for whoever carries it elsewhere; there it is verified once more."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from eaa.collateral.intel import PCKCertificate
from eaa.collateral.x509 import parse_pem_chain
from eaa.errors import MalformedInput
from eaa.pccs.engines import bytewise, snapshot
from eaa.pccs.pem import as_bytes, unpacked
from eaa.pccs.records import Document, Kind
from eaa.pccs.tables import pck_certs, platform_tcbs, platforms
from eaa.pccs.uploads import EMPTY_UPLOAD, IDENTITY, TCB_INFO, RawTCB, Upload, UploadedDocument, UploadedPlatform
from eaa.sources.selection import Candidate

if TYPE_CHECKING:
    from eaa.pccs.store import Store

_Name = tuple[str, str]
_Levels = dict[str, dict[str, Any]]
_log = logging.getLogger(__name__)
_CHAIN_NAMES = {Kind.TCB_INFO: TCB_INFO, Kind.IDENTITY: IDENTITY}


def contents(engine: sa.Engine, store: Store, root: str, *, batch: int) -> Iterator[Upload]:
    """Yield one upload for each API version and set of chains, then the platforms in batches.

    Platforms come in the order of their names' bytes, as they were at one moment.
    """
    documents = store.catalogue(root=root)
    yield from _document_uploads(documents, store, root)
    levels = _levels(documents)
    order = [bytewise(engine, platforms.c[name]) for name in ("qe_id", "pce_id")]
    query = sa.select(platforms).where(platforms.c.root == root).order_by(*order)
    with snapshot(engine) as connection:
        for rows in connection.execute(query).mappings().partitions(batch):
            known = [row for row in rows if row["fmspc"] in levels]
            certificates, tcbs = (_rows_of(connection, table, root, known) for table in (pck_certs, platform_tcbs))
            found = tuple(_readable(known, certificates, tcbs, levels))
            if found:
                yield replace(EMPTY_UPLOAD, root=root, platforms=found)


def _document_uploads(documents: tuple[Document, ...], store: Store, root: str) -> Iterator[Upload]:
    """What vouches comes first, then each document with the very chain it is kept with."""
    supplement = store.supplement(root)
    uris = store.crl_addresses(root)
    chains = dict(supplement.chains)
    yield replace(
        EMPTY_UPLOAD,
        root=root,
        chains=chains,
        root_crl=supplement.root_crl,
        root_crl_uri=uris[0] if uris else None,
        pck_crls=dict(supplement.pck_crls),
    )
    for document in documents:
        name = _CHAIN_NAMES.get(document.key.kind)
        if name is None or document.chain is None:
            continue
        key = document.key
        kept = UploadedDocument(
            name=key.name,
            tee="TDX" if key.name == "TD_QE" else key.tee or "SGX",
            update=key.update_type,
            text=document.body,
        )
        member = "tcb_infos" if key.kind is Kind.TCB_INFO else "identities"
        own: dict[str, Any] = {member: (kept,), "chains": {name: document.chain}}
        yield replace(EMPTY_UPLOAD, root=root, api_version=key.api_version, **own)


def _levels(documents: tuple[Document, ...]) -> _Levels:
    """Return by FMSPC the SGX TCB Info by which certificates are chosen, the early one where there is one."""
    found: _Levels = {}
    for update in ("STANDARD", "EARLY"):
        for document in documents:
            key = document.key
            if (key.kind, key.tee, key.api_version, key.update_type) == (Kind.TCB_INFO, "SGX", 4, update):
                with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                    # What somebody has changed is refused where it is taken in, and is nothing to choose by.
                    found[key.name] = json.loads(document.body)["tcbInfo"]
    return found


def _rows_of(connection: sa.Connection, table: sa.Table, root: str, named: Sequence[Any]) -> dict[_Name, list[Any]]:
    """Return the rows of a table that belong to these platforms, by platform."""
    query = sa.select(table).where(table.c.root == root, table.c.qe_id.in_({row["qe_id"] for row in named}))
    found: dict[_Name, list[Any]] = {}
    for row in connection.execute(query):
        found.setdefault((row.qe_id, row.pce_id), []).append(row)
    return found


def _readable(
    rows: Sequence[Any], certificates: dict[_Name, list[Any]], tcbs: dict[_Name, list[Any]], levels: _Levels
) -> Iterator[UploadedPlatform]:
    """Yield platforms, but those without a certificate: they are of no use, and would spoil a part for its reader."""
    for row in rows:
        try:
            yield _platform(row, certificates, tcbs, levels)
        except (KeyError, MalformedInput):
            _log.warning("a platform of FMSPC %s is left out: it has no certificate that can be read", row["fmspc"])


def _platform(
    row: Any, certificates: dict[_Name, list[Any]], tcbs: dict[_Name, list[Any]], levels: _Levels
) -> UploadedPlatform:
    name = (row["qe_id"], row["pce_id"])
    return UploadedPlatform(
        qe_id=row["qe_id"],
        pce_id=row["pce_id"],
        fmspc=row["fmspc"],
        ca=row["ca"],
        enc_ppid=as_bytes(row["enc_ppid"]).hex().upper(),
        platform_manifest=as_bytes(row["platform_manifest"]).hex().upper(),
        is_listed=True,
        raw_tcbs=tuple(RawTCB(cpu_svn=each.cpu_svn, pce_svn=each.pce_svn) for each in tcbs.get(name, ())),
        certificates=tuple(_candidate(each.tcbm, unpacked(each.certificate)) for each in certificates[name]),
        tcb_info=levels[row["fmspc"]],
    )


def _candidate(tcbm: str, pem: str) -> Candidate:
    (der,) = parse_pem_chain(pem.encode(), maximum=1)
    return Candidate(tcbm=tcbm, pem=pem, certificate=PCKCertificate.parse(der))
