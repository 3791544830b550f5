"""Where the database is: a SQLite file in WAL mode, or PostgreSQL; what differs between them stays in this file."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError

from eaa.errors import EAAError, Misuse, Reason, Unavailable

BUSY_TIMEOUT: Final = 5.0
"""Seconds that a write waits for another process's."""
CONNECT_TIMEOUT: Final = 5
"""Seconds until PostgreSQL has to answer."""
POOL: Final = 8
"""Connections that are kept."""
MAX_ROWS: Final = 500
"""Rows of one statement: SQLite counts the values."""
Where = Path | str
"""A SQLite file, or `postgresql://USER@HOST/DATABASE`."""

_WRITES: Final = "eaa_writes"
_WRITE_LOCK: Final = 0x6561612D70636373
"""Which advisory lock of PostgreSQL is ours: the bytes of `eaa-pccs`."""
_PASSWORD: Final = re.compile(r"(://[^/@:]*):[^@/]*@")
_POSTGRES: Final = "postgresql"


def shown(where: Where) -> str:
    """Return it as it may be printed: without a password."""
    return _PASSWORD.sub(r"\1:***@", str(where))


def open_engine(where: Where) -> sa.Engine:
    """Return an engine; nothing but a missing SQLite file (mode 0600, and its folder) is made.

    Raises:
        Misuse: DATABASE_INVALID, what is named cannot be a database of ours, or a driver is missing.
        Unavailable: PERMISSION_DENIED.
    """
    if isinstance(where, str) and "://" in where:
        return _open_url(where)
    path = Path(where)
    _create_private(path)
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)), connect_args={"timeout": BUSY_TIMEOUT}, pool_size=POOL
    )
    _configure_sqlite(engine)
    return engine


def _open_url(where: str) -> sa.Engine:
    try:
        url = sa.make_url(where)
    except ArgumentError as error:
        raise _unknown(where) from error
    if url.drivername == "sqlite" and url.database:
        return open_engine(Path(url.database))
    if url.drivername.partition("+")[0] not in (_POSTGRES, "postgres"):
        raise _unknown(where)
    try:
        engine = sa.create_engine(
            url.set(drivername=f"{_POSTGRES}+psycopg"),
            connect_args={"connect_timeout": CONNECT_TIMEOUT, "application_name": "eaa-pccs"},
            pool_size=POOL,
            pool_pre_ping=True,
        )
    except ImportError as error:
        raise Misuse(
            Reason.DATABASE_INVALID,
            f"{shown(where)} needs a package that is not installed: {error.name}",
            hint="`pip install 'inclavare-eaa[postgresql]'` installs it",
        ) from error
    _configure_postgres(engine)
    return engine


def _unknown(where: str) -> Misuse:
    return Misuse(
        Reason.DATABASE_INVALID,
        f"{shown(where)} is neither a file nor a PostgreSQL database",
        hint="name a file, or postgresql://USER@HOST/DATABASE; a password is best kept in ~/.pgpass",
    )


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that writes; they come one after the other, whichever process or machine begins them."""
    with engine.connect().execution_options(**{_WRITES: True}) as connection, connection.begin():
        yield connection


@contextmanager
def snapshot(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that reads all rows as they were at one moment, and holds no more of them than it is asked for."""
    options: dict[str, Any] = {"stream_results": True}
    if engine.dialect.name == _POSTGRES:
        # SQLite's transactions are such by themselves.
        options["isolation_level"] = "REPEATABLE READ"
    with engine.connect().execution_options(**options) as connection, connection.begin():
        yield connection


def bytewise(engine: sa.Engine, column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Return a text column in the order of its bytes, whatever language a database was made for."""
    return sa.collate(column, "C" if engine.dialect.name == _POSTGRES else "BINARY")


def upsert(connection: sa.Connection, table: sa.Table, rows: Iterable[Mapping[str, Any]]) -> None:
    """Put rows, each in place of the one with the same key; no two of them may have one."""
    listed = list(rows)
    keys = [column.name for column in table.primary_key.columns]
    values = [column.name for column in table.columns if not column.primary_key]
    statement = _insert(connection, table)
    changed = {name: statement.excluded[name] for name in values}
    on_conflict = (
        statement.on_conflict_do_update(index_elements=keys, set_=changed)
        if changed
        else statement.on_conflict_do_nothing(index_elements=keys)
    )
    for start in range(0, len(listed), MAX_ROWS):
        connection.execute(on_conflict, listed[start : start + MAX_ROWS])


def _insert(connection: sa.Connection, table: sa.Table) -> Any:
    # Imported late: a dialect that is not used costs a start its milliseconds.
    if connection.dialect.name == _POSTGRES:
        from sqlalchemy.dialects.postgresql import insert  # noqa: PLC0415
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]  # noqa: PLC0415
    return insert(table)


# --- what goes wrong


def will_pass(error: SQLAlchemyError) -> bool:
    """Whether the database cannot do it now and may again: held by others, its disk full, its server down."""
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
    return isinstance(error, OperationalError) and (code is None or code & 0xFF != sqlite3.SQLITE_ERROR)


def cannot_open(where: Where, error: DBAPIError) -> EAAError:
    """Return the error of ours for one of the driver's that came while a database was opened."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_NOTADB:
        return not_ours(where, "it is no SQLite file")
    if code is not None and code & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
        return _denied(where)
    cause = " ".join(str(error.orig).split())
    return Unavailable(
        Reason.DATABASE_UNAVAILABLE,
        f"the database {shown(where)} cannot be used: {cause}",
        hint="another process may hold it, the disk may be full, or its server may be down",
    )


def not_ours(where: Where, why: str) -> Misuse:
    """Return the error for a database that belongs to somebody else, or to a later version."""
    return Misuse(
        Reason.DATABASE_INVALID,
        f"{shown(where)} is no database of eaa-pccs: {why}",
        hint="name another one with --db",
    )


def _denied(where: Where) -> Unavailable:
    return Unavailable(
        Reason.PERMISSION_DENIED,
        f"the database {where} cannot be opened: permission denied",
        hint="name a file in a folder of your own with --db FILE",
    )


# --- SQLite


def _configure_sqlite(engine: sa.Engine) -> None:
    """Take transactions into our own hands: the driver's habit of beginning them late is no isolation."""

    @sa.event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A write takes its lock at once: one that begins as a read may be refused later, waiting or not.
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _create_private(path: Path) -> None:
    """Make the database file with mode 0600 before SQLite does with another; its side files follow that mode."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except PermissionError as error:
        raise _denied(path) from error
    except OSError as error:
        if error.errno == errno.EROFS:
            raise _denied(path) from error
        raise Misuse(
            Reason.DATABASE_INVALID,
            f"the database {path} cannot be made: {error.strerror}",
            hint="name a file in a folder of your own with --db FILE",
        ) from error


# --- PostgreSQL


def _configure_postgres(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # One writer at a time, as SQLite has it: generations are counted, and what is older is refused, by reading
        # first.
        if connection.get_execution_options().get(_WRITES):
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{round(BUSY_TIMEOUT * 1000)}ms'")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITE_LOCK})")
