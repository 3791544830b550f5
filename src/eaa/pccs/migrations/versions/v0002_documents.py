"""One table for all signed documents, with number and dates; certificates as DER; leases and settings.

With number and dates beside a document an older one can be refused, and what is about to expire be listed, without
reading every document. DER and bytes take two thirds of PEM and hex, which counts with a million platforms.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

from eaa.errors import EAAError
from eaa.pccs import tables
from eaa.pccs.freshness import Freshness
from eaa.pccs.pem import packed

revision = "0002"
down_revision = "0001"

_GONE = ("tcb_infos", "identities", "pck_crls", "root_crls", "crls", "schema_info")
_KINDS = {"tcb_infos": "TCB_INFO", "identities": "IDENTITY", "pck_crls": "PCK_CRL", "root_crls": "ROOT_CRL"}
_REBUILT = ("pkis", "chains", "platforms", "platform_tcbs", "pck_certs", "registrations", "policies")
_BATCH = 500


def upgrade() -> None:
    """Copy everything into the new tables."""
    connection = op.get_bind()
    old = {name: _old(connection, name) for name in (*_GONE, *_REBUILT)}
    for name in _REBUILT:
        for index in sa.inspect(connection).get_indexes(f"old_{name}"):
            op.drop_index(str(index["name"]), f"old_{name}")
    tables.metadata.create_all(connection)
    _copy(connection, old["pkis"], tables.pkis, lambda row: {**row, "preferred": row["uploads"]})
    for name in ("chains", "platform_tcbs", "registrations", "policies"):
        _copy(connection, old[name], tables.metadata.tables[name], dict)
    _copy(connection, old["platforms"], tables.platforms, _platform)
    _copy(connection, old["pck_certs"], tables.pck_certs, _certificate)
    _copy(connection, old["crls"], tables.crl_uris, lambda row: {key: row[key] for key in ("uri", "root", "updated")})
    for name, kind in _KINDS.items():
        _copy(connection, old[name], tables.documents, lambda row, kind=kind: _document(row, kind))
    for table in old.values():
        op.drop_table(table.name)


def _old(connection: sa.Connection, name: str) -> sa.Table:
    """Get a table out of the way."""
    op.rename_table(name, f"old_{name}")
    if connection.dialect.name == "postgresql":
        # A renamed table keeps the name of its key, which the new one wants.
        key = sa.inspect(connection).get_pk_constraint(f"old_{name}")["name"]
        if key:
            op.execute(f'ALTER TABLE "old_{name}" RENAME CONSTRAINT "{key}" TO "old_{name}_pkey"')
    return sa.Table(f"old_{name}", sa.MetaData(), autoload_with=connection)


def _copy(connection: sa.Connection, old: sa.Table, new: sa.Table, convert: Any) -> None:
    for rows in _batches(connection, old):
        converted = [row for row in (convert(dict(each)) for each in rows) if row is not None]
        if converted:
            connection.execute(new.insert(), converted)


def _batches(connection: sa.Connection, table: sa.Table) -> Iterator[list[Any]]:
    result = connection.execute(sa.select(table)).mappings()
    while batch := result.fetchmany(_BATCH):
        yield list(batch)


def _platform(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, **{name: bytes.fromhex(row[name]) for name in ("enc_ppid", "platform_manifest")}}


def _certificate(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "certificate": packed(row.pop("pem"))}


def _document(row: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """Return its row; None for what cannot be read any more, which nobody could have used either."""
    body = row.get("document") or row["crl"]
    try:
        freshness = Freshness.of_crl(body) if kind.endswith("CRL") else Freshness.of_json(body)
    except EAAError:
        return None
    return {
        "kind": kind,
        "name": row.get("fmspc") or row.get("name") or row.get("ca") or "",
        "tee": row.get("tee") or "",
        "api_version": row.get("api_version") or 0,
        "update_type": row.get("update_type") or "",
        "document": body,
        "chain": row.get("chain"),
        "number": str(freshness.number),
        "issued": int(freshness.issued.timestamp()),
        "expires": int(freshness.expires.timestamp()),
        "root": row["root"],
        "updated": row["updated"],
    }
