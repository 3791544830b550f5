"""The tables of the cache's database, as the latest migration leaves them; see `eaa.pccs.migrations`.

Every row about collateral belongs to the PKI of one root certificate, known by the SHA-256 of its DER in hex. Moments
are seconds since 1970.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

ROOT_DIGITS: Final = 64
"""Hex digits of the SHA-256 of a root certificate."""
MAX_NAME: Final = 12
"""Characters of a document's name: an FMSPC is the longest."""
MAX_LEASE: Final = 300
"""Characters of the name of a lease."""

metadata = sa.MetaData()


def _table(name: str, *columns: sa.Column[Any], large_rows: bool = False) -> sa.Table:
    """Return a table whose rows belong to a PKI and know when they were written.

    Without SQLite's row ids, which would keep the long keys a second time, in an index of their own; but for rows of
    more than a thousand bytes, which would each take a page of their own without them.
    """
    root = sa.Column("root", sa.String(ROOT_DIGITS), primary_key=True)
    updated = sa.Column("updated", sa.BigInteger, nullable=False)
    return sa.Table(name, metadata, *columns, root, updated, sqlite_with_rowid=large_rows)


def _key(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True)


pkis = sa.Table(
    "pkis",
    metadata,
    _key("root", sa.String(ROOT_DIGITS)),
    sa.Column("uploads", sa.Integer, nullable=False),  # the number of its latest change, counted over all PKIs
    sa.Column("preferred", sa.Integer, nullable=False),  # the number of the latest upload that an operator made
    sa.Column("updated", sa.BigInteger, nullable=False),
)
documents = _table(
    "documents",
    _key("kind", sa.String(8)),  # TCB_INFO, IDENTITY, PCK_CRL, ROOT_CRL
    _key("name", sa.String(MAX_NAME)),  # FMSPC; QE, QVE, TD_QE; PROCESSOR, PLATFORM; empty
    _key("tee", sa.String(3)),  # SGX or TDX for TCB Info
    _key("api_version", sa.Integer()),
    _key("update_type", sa.String(MAX_NAME)),  # STANDARD, EARLY, or # and the evaluation number it was asked for by
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("chain", sa.Text),
    sa.Column("number", sa.String(50), nullable=False),  # evaluation or CRL number, decimal: a CRL's has 20 bytes
    sa.Column("issued", sa.BigInteger, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    large_rows=True,
)
chains = _table("chains", _key("name", sa.String(9)), sa.Column("chain", sa.Text, nullable=False))
crl_uris = _table("crl_uris", _key("uri", sa.String(2048)))
platforms = _table(
    "platforms",
    _key("qe_id", sa.String(260)),
    _key("pce_id", sa.String(4)),
    sa.Column("fmspc", sa.String(12), nullable=False, index=True),
    sa.Column("ca", sa.String(9), nullable=False),
    sa.Column("enc_ppid", sa.LargeBinary, nullable=False),
    sa.Column("platform_manifest", sa.LargeBinary, nullable=False),
)
platform_tcbs = _table(
    "platform_tcbs",
    _key("qe_id", sa.String(260)),
    _key("pce_id", sa.String(4)),
    _key("cpu_svn", sa.String(32)),
    _key("pce_svn", sa.String(4)),
    sa.Column("tcbm", sa.String(36), nullable=False),
)
pck_certs = _table(
    "pck_certs",
    _key("qe_id", sa.String(260)),
    _key("pce_id", sa.String(4)),
    _key("tcbm", sa.String(36)),
    sa.Column("certificate", sa.LargeBinary, nullable=False),  # DER where its PEM is what anybody would write, or PEM
    large_rows=True,
)
registrations = sa.Table(
    "registrations",
    metadata,
    _key("qe_id", sa.String(260)),
    _key("pce_id", sa.String(4)),
    _key("cpu_svn", sa.String(32)),
    _key("pce_svn", sa.String(4)),
    sa.Column("platform_manifest", sa.Text, nullable=False),
    sa.Column("enc_ppid", sa.Text, nullable=False),
    sa.Column("state", sa.Integer, nullable=False, index=True),
    sa.Column("updated", sa.BigInteger, nullable=False),
)
policies = sa.Table(
    "policies",
    metadata,
    _key("id", sa.String(96)),
    sa.Column("fmspc", sa.String(12), nullable=False, index=True),
    sa.Column("kind", sa.Integer, nullable=False),
    sa.Column("is_default", sa.Boolean, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("updated", sa.BigInteger, nullable=False),
)
leases = sa.Table(
    "leases",
    metadata,
    _key("name", sa.String(MAX_LEASE)),
    sa.Column("owner", sa.String(32), nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
)
settings = sa.Table("settings", metadata, _key("name", sa.String(64)), sa.Column("value", sa.Text, nullable=False))
