"""The tables of the first version, which kept each kind of document in a table of its own."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _pki_table(name: str, *columns: sa.Column[Any]) -> None:
    op.create_table(
        name,
        *columns,
        sa.Column("root", sa.String(64), primary_key=True),
        sa.Column("updated", sa.Integer, nullable=False),
    )


def _key(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True)


def upgrade() -> None:
    """Make them."""
    document = (sa.Column("document", sa.LargeBinary, nullable=False), sa.Column("chain", sa.Text))
    versioned = (_key("api_version", sa.Integer()), _key("update_type", sa.String(8)))
    platform = (_key("qe_id", sa.String(260)), _key("pce_id", sa.String(4)))
    raw_tcb = (_key("cpu_svn", sa.String(32)), _key("pce_svn", sa.String(4)))

    def fresh(*columns: sa.Column[Any]) -> list[sa.Column[Any]]:
        return [column._copy() for column in columns]  # noqa: SLF001  a column belongs to one table

    op.create_table("schema_info", sa.Column("version", sa.Integer, primary_key=True))
    op.create_table(
        "pkis",
        sa.Column("root", sa.String(64), primary_key=True),
        sa.Column("uploads", sa.Integer, nullable=False),
        sa.Column("updated", sa.Integer, nullable=False),
    )
    _pki_table(
        "platforms",
        *fresh(*platform),
        sa.Column("fmspc", sa.String(12), nullable=False, index=True),
        sa.Column("ca", sa.String(9), nullable=False),
        sa.Column("enc_ppid", sa.Text, nullable=False),
        sa.Column("platform_manifest", sa.Text, nullable=False),
    )
    _pki_table("platform_tcbs", *fresh(*platform, *raw_tcb), sa.Column("tcbm", sa.String(36), nullable=False))
    _pki_table("pck_certs", *fresh(*platform), _key("tcbm", sa.String(36)), sa.Column("pem", sa.Text, nullable=False))
    _pki_table("tcb_infos", _key("fmspc", sa.String(12)), _key("tee", sa.String(3)), *fresh(*versioned, *document))
    _pki_table("identities", _key("name", sa.String(5)), *fresh(*versioned, *document))
    _pki_table("pck_crls", _key("ca", sa.String(9)), *fresh(*document))
    _pki_table("chains", _key("name", sa.String(9)), sa.Column("chain", sa.Text, nullable=False))
    _pki_table("root_crls", sa.Column("crl", sa.LargeBinary, nullable=False))
    _pki_table("crls", _key("uri", sa.String(2048)), sa.Column("crl", sa.LargeBinary, nullable=False))
    op.create_table(
        "registrations",
        *fresh(*platform, *raw_tcb),
        sa.Column("platform_manifest", sa.Text, nullable=False),
        sa.Column("enc_ppid", sa.Text, nullable=False),
        sa.Column("state", sa.Integer, nullable=False, index=True),
        sa.Column("updated", sa.Integer, nullable=False),
    )
    op.create_table(
        "policies",
        _key("id", sa.String(96)),
        sa.Column("fmspc", sa.String(12), nullable=False, index=True),
        sa.Column("kind", sa.Integer, nullable=False),
        sa.Column("is_default", sa.Boolean, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("updated", sa.Integer, nullable=False),
    )
