"""The database's schema, step by step: Alembic, run by the program itself before it serves.

Each start looks at the version, which is one query; Alembic is loaded only where there is something to do. Processes
that start together on one database take turns: the step is a write like any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from eaa.pccs import tables
from eaa.pccs.engines import Where, cannot_open, not_ours, open_engine, writing

VERSIONS: Final = ("0001", "0002")
"""Every version there ever was, in order."""
LATEST: Final = VERSIONS[-1]
_VERSION_TABLE: Final = "alembic_version"
_BEFORE_ALEMBIC: Final = "schema_info"
_FOLDER: Final = Path(__file__).parent


def version_of(connection: sa.Connection) -> str | None:
    """Return the version of a database, "" for an empty one, None for one that is not ours."""
    tables = set(sa.inspect(connection).get_table_names())
    if _VERSION_TABLE in tables and "pkis" in tables:
        return str(connection.scalar(sa.text(f"SELECT version_num FROM {_VERSION_TABLE}")) or "")  # noqa: S608  ours
    if _BEFORE_ALEMBIC in tables:
        number = connection.scalar(sa.text(f"SELECT version FROM {_BEFORE_ALEMBIC}"))  # noqa: S608  ours
        return f"{number:04d}"
    return None if tables else ""


def current(connection: sa.Connection) -> bool:
    """Whether a database of ours has the latest version."""
    return bool(connection.scalar(sa.text(f"SELECT version_num FROM {_VERSION_TABLE}")) == LATEST)  # noqa: S608  ours


def migrate(where: Where) -> tuple[str, str]:
    """Bring a database to the latest version; return the version before ("" for a new one) and after.

    Raises:
        Misuse: DATABASE_INVALID, it is somebody else's, or a later program's.
        Unavailable: PERMISSION_DENIED or DATABASE_UNAVAILABLE.
    """
    engine = open_engine(where)
    try:
        return prepare(engine, where)
    finally:
        engine.dispose()


def prepare(engine: sa.Engine, where: Where) -> tuple[str, str]:
    """Do the same with an engine that is open."""
    try:
        with engine.connect() as connection:
            if version_of(connection) == LATEST:
                return LATEST, LATEST
        with writing(engine) as connection:
            before = version_of(connection)
            if before is None:
                raise not_ours(where, "it belongs to another program")
            if before and before not in VERSIONS:
                raise not_ours(where, f"its schema has version {before}, this program knows {LATEST}")
            if not before:
                _create(connection)
            elif before != LATEST:
                upgrade(connection, before)
    except DBAPIError as error:
        raise cannot_open(where, error) from error
    return before, LATEST


def _create(connection: sa.Connection) -> None:
    """Make the tables as the steps would leave them, without loading what takes the steps; a test compares both."""
    tables.metadata.create_all(connection)
    version = sa.Table(_VERSION_TABLE, sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True))
    version.create(connection)
    connection.execute(version.insert().values(version_num=LATEST))


def upgrade(connection: sa.Connection, before: str, *, to: str = LATEST) -> None:
    """Take the steps from a version ("": from nothing) to another, inside the caller's transaction."""
    # Imported late: a start that finds its tables has no use for it.
    from alembic.migration import MigrationContext  # noqa: PLC0415
    from alembic.operations import Operations  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    scripts = ScriptDirectory(str(_FOLDER))

    def steps(revision: object, _context: MigrationContext) -> object:
        return scripts._upgrade_revs(to, revision)  # type: ignore[arg-type]  # noqa: SLF001  what its own command does

    context = MigrationContext.configure(connection, opts={"fn": steps, "transactional_ddl": True})
    if before and context.get_current_revision() is None:
        context.stamp(scripts, before)
    with Operations.context(context):
        context.run_migrations()
