"""The cache's database: SQLAlchemy Core over SQLite in WAL mode; every row belongs to the PKI of one root.

Two PKIs, Intel's and a simulated one say, lie side by side without touching; what is served is the PKI of the latest
upload. A document keeps the issuer chain it came with, so that a new signing certificate changes nothing for older
documents.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from eaa.errors import EAAError, Misuse, Reason, Unavailable
from eaa.pccs.policies import AppraisalPolicy
from eaa.pccs.registration import Registration, Waiting
from eaa.pccs.uploads import IDENTITY, TCB_INFO, RawTCB, Upload, UploadedDocument, UploadedPlatform
from eaa.pccs.wire import Refusal, Status

SCHEMA_VERSION: Final = 1
BUSY_TIMEOUT: Final = 5.0
"""Seconds that a write waits for another process's."""

_ROOT: Final = 64
"""Hex digits of the SHA-256 of a root certificate."""
_WRITES: Final = "eaa_writes"
T = TypeVar("T", bytes, str)

metadata = sa.MetaData()
_schema_info = sa.Table("schema_info", metadata, sa.Column("version", sa.Integer, primary_key=True))
_pkis = sa.Table(
    "pkis",
    metadata,
    sa.Column("root", sa.String(_ROOT), primary_key=True),
    sa.Column("uploads", sa.Integer, nullable=False),  # the number of its latest upload, counted over all PKIs
    sa.Column("updated", sa.Integer, nullable=False),
)


def _table(name: str, *columns: sa.Column[Any]) -> sa.Table:
    """Return a table whose rows belong to a PKI and know when they were written, in seconds since 1970."""
    return sa.Table(
        name,
        metadata,
        *columns,
        sa.Column("root", sa.String(_ROOT), primary_key=True),
        sa.Column("updated", sa.Integer, nullable=False),
    )


def _key(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True)


_platforms = _table(
    "platforms",
    _key("qe_id", sa.String(260)),
    _key("pce_id", sa.String(4)),
    sa.Column("fmspc", sa.String(12), nullable=False, index=True),
    sa.Column("ca", sa.String(9), nullable=False),
    sa.Column("enc_ppid", sa.Text, nullable=False),
    sa.Column("platform_manifest", sa.Text, nullable=False),
)
_platform_tcbs = _table(
    "platform_tcbs",
    _key("qe_id", sa.String(260)),
    _key("pce_id", sa.String(4)),
    _key("cpu_svn", sa.String(32)),
    _key("pce_svn", sa.String(4)),
    sa.Column("tcbm", sa.String(36), nullable=False),
)
_pck_certs = _table(
    "pck_certs",
    _key("qe_id", sa.String(260)),
    _key("pce_id", sa.String(4)),
    _key("tcbm", sa.String(36)),
    sa.Column("pem", sa.Text, nullable=False),
)
_tcb_infos = _table(
    "tcb_infos",
    _key("fmspc", sa.String(12)),
    _key("tee", sa.String(3)),
    _key("api_version", sa.Integer()),
    _key("update_type", sa.String(8)),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("chain", sa.Text),
)
_identities = _table(
    "identities",
    _key("name", sa.String(5)),
    _key("api_version", sa.Integer()),
    _key("update_type", sa.String(8)),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("chain", sa.Text),
)
_pck_crls = _table(
    "pck_crls",
    _key("ca", sa.String(9)),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("chain", sa.Text),
)
_chains = _table("chains", _key("name", sa.String(9)), sa.Column("chain", sa.Text, nullable=False))
_root_crls = _table("root_crls", sa.Column("crl", sa.LargeBinary, nullable=False))
_crls = _table("crls", _key("uri", sa.String(2048)), sa.Column("crl", sa.LargeBinary, nullable=False))
_registrations = sa.Table(
    "registrations",
    metadata,
    _key("qe_id", sa.String(260)),
    _key("pce_id", sa.String(4)),
    _key("cpu_svn", sa.String(32)),
    _key("pce_svn", sa.String(4)),
    sa.Column("platform_manifest", sa.Text, nullable=False),
    sa.Column("enc_ppid", sa.Text, nullable=False),
    sa.Column("state", sa.Integer, nullable=False, index=True),
    sa.Column("updated", sa.Integer, nullable=False),
)
_policies = sa.Table(
    "policies",
    metadata,
    _key("id", sa.String(96)),
    sa.Column("fmspc", sa.String(12), nullable=False, index=True),
    sa.Column("kind", sa.Integer, nullable=False),
    sa.Column("is_default", sa.Boolean, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("updated", sa.Integer, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Something that is served with its issuer chain."""

    body: bytes = field(repr=False)
    chain: str = field(repr=False)
    """Percent-encoded PEM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """One platform that is known."""

    root: str
    qe_id: str = field(repr=False)
    pce_id: str
    fmspc: str
    ca: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Supplement:
    """Of one PKI, what vouches for its documents: chains by name, percent-encoded PEM, and CRLs, DER."""

    chains: Mapping[str, str] = field(repr=False)
    pck_crls: Mapping[str, bytes] = field(repr=False)
    root_crl: bytes | None = field(repr=False)

    def with_upload(self, upload: Upload) -> Supplement:
        """Return what vouches once this upload is stored."""
        return Supplement(
            chains={**upload.chains, **{name: self.chains[name] for name in self.chains.keys() - upload.chains.keys()}},
            pck_crls={**self.pck_crls, **upload.pck_crls},
            root_crl=self.root_crl if upload.root_crl is None else upload.root_crl,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Which documents of API version 4 there are."""

    tcb_infos: tuple[tuple[str, str, str], ...]
    """FMSPC, SGX or TDX, STANDARD or EARLY."""
    identities: tuple[tuple[str, str], ...]
    """QE, QVE or TD_QE; STANDARD or EARLY."""
    cas: tuple[str, ...]
    """Whose CRL there is."""
    crl_uris: tuple[str, ...]
    """Under which addresses the root's CRL is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What an upload changed, for the log."""

    root: str
    replaces: str | None
    """The root that was served until now, where it was another one."""
    platforms: int
    tcb_infos: int
    identities: int


class Store:
    """The database. Thread-safe; several processes may share one file."""

    def __init__(self, engine: sa.Engine) -> None:
        """Use an engine whose schema is there."""
        self._engine = engine

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open the database file, making it (mode 0600) and its folder where they are missing.

        Raises:
            Misuse: DATABASE_INVALID, the file is something else.
            Unavailable: PERMISSION_DENIED or DATABASE_UNAVAILABLE.
        """
        _create_private(path)
        engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(path)), connect_args={"timeout": BUSY_TIMEOUT}, pool_size=8
        )
        _configure(engine)
        store = cls(engine)
        try:
            store._prepare(path)
        except DBAPIError as error:
            raise _cannot_open(path, error) from error
        return store

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def _prepare(self, path: Path) -> None:
        with self._write() as connection:
            tables = set(sa.inspect(connection).get_table_names())
            if tables and _schema_info.name not in tables:
                raise _not_ours(path, "it belongs to another program")
            metadata.create_all(connection)
            version = connection.scalar(sa.select(_schema_info.c.version))
            if version is None:
                connection.execute(_schema_info.insert().values(version=SCHEMA_VERSION))
            elif version != SCHEMA_VERSION:
                raise _not_ours(path, f"its schema has version {version}, this program knows {SCHEMA_VERSION}")

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with self._engine.connect().execution_options(**{_WRITES: True}) as connection, connection.begin():
            yield connection

    # --- reading: always from the PKI that is served

    def tcb_info(self, *, fmspc: str, tee: str, api_version: int, update: str) -> Document | None:
        """Return TCB Info with its chain."""
        table = _tcb_infos
        return self._document(
            table,
            TCB_INFO,
            table.c.fmspc == fmspc,
            table.c.tee == tee,
            table.c.api_version == api_version,
            table.c.update_type == update,
        )

    def identity(self, *, name: str, api_version: int, update: str) -> Document | None:
        """Return the identity of the QE, QVE or TD_QE with its chain."""
        table = _identities
        return self._document(
            table,
            IDENTITY,
            table.c.name == name,
            table.c.api_version == api_version,
            table.c.update_type == update,
        )

    def pck_crl(self, *, ca: str) -> Document | None:
        """Return the CRL of a PCK CA, DER, with its chain."""
        return self._document(_pck_crls, ca, _pck_crls.c.ca == ca)

    def supplement(self, root: str | None = None) -> Supplement:
        """Return what vouches for a PKI's documents; for those of the PKI that is served where no root is named."""
        with self._engine.connect() as connection:
            root = root or connection.scalar(_served_query())
            chains = connection.execute(sa.select(_chains.c.name, _chains.c.chain).where(_chains.c.root == root))
            crls = connection.execute(sa.select(_pck_crls.c.ca, _pck_crls.c.document).where(_pck_crls.c.root == root))
            return Supplement(
                chains={row.name: row.chain for row in chains},
                pck_crls={row.ca: row.document for row in crls},
                root_crl=connection.scalar(sa.select(_root_crls.c.crl).where(_root_crls.c.root == root)),
            )

    def generation(self) -> int:
        """Return a number that every upload raises, whichever process stores it."""
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.max(_pkis.c.uploads))) or 0

    def root_crl(self) -> bytes | None:
        """Return the root's CRL, DER."""
        return self._value(bytes, sa.select(_root_crls.c.crl).where(_root_crls.c.root == _served()))

    def crl(self, *, uri: str) -> bytes | None:
        """Return the CRL that was published at this address, DER."""
        return self._value(bytes, sa.select(_crls.c.crl).where(_crls.c.uri == uri, _crls.c.root == _served()))

    def chain(self, *, name: str) -> str | None:
        """Return the latest chain of a CA or signer, percent-encoded PEM."""
        return self._value(str, sa.select(_chains.c.chain).where(_chains.c.name == name, _chains.c.root == _served()))

    def platform(self, *, qe_id: str, pce_id: str) -> Platform | None:
        """Return a platform by its QE id and PCE id."""
        table = _platforms
        query = sa.select(table.c.root, table.c.qe_id, table.c.pce_id, table.c.fmspc, table.c.ca).where(
            table.c.qe_id == qe_id, table.c.pce_id == pce_id, table.c.root == _served()
        )
        with self._engine.connect() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else Platform(**row)

    def tcbm(self, platform: Platform, raw: RawTCB) -> str | None:
        """Return which certificate was chosen for this raw TCB when it was uploaded."""
        table = _platform_tcbs
        return self._value(
            str,
            sa.select(table.c.tcbm).where(
                *_of_platform(table, platform.root, platform),
                table.c.cpu_svn == raw.cpu_svn,
                table.c.pce_svn == raw.pce_svn,
            ),
        )

    def pck_certificates(self, platform: Platform) -> dict[str, str]:
        """Return a platform's certificates, PEM by TCBm."""
        table = _pck_certs
        query = sa.select(table.c.tcbm, table.c.pem).where(*_of_platform(table, platform.root, platform))
        with self._engine.connect() as connection:
            return {row.tcbm: row.pem for row in connection.execute(query)}

    def _document(self, table: sa.Table, chain_name: str, *conditions: sa.ColumnElement[bool]) -> Document | None:
        """Return the one row that matches; one whose issuer chain is not known cannot be served."""
        latest = sa.select(_chains.c.chain).where(_chains.c.name == chain_name, _chains.c.root == table.c.root)
        query = sa.select(table.c.document, sa.func.coalesce(table.c.chain, latest.scalar_subquery())).where(
            *conditions, table.c.root == _served()
        )
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        return None if row is None or row[1] is None else Document(body=row[0], chain=row[1])

    def _value(self, kind: type[T], query: sa.Select[Any]) -> T | None:
        with self._engine.connect() as connection:
            value = connection.scalar(query)
        return None if value is None else kind(value)

    def cached_platforms(self, fmspcs: Collection[str]) -> list[dict[str, str]]:
        """Return the platforms of these models with each TCB they reported; of all models where none is named."""
        platforms, tcbs = _platforms.c, _platform_tcbs.c
        same = (platforms.qe_id == tcbs.qe_id, platforms.pce_id == tcbs.pce_id, platforms.root == tcbs.root)
        named = (platforms.qe_id, platforms.pce_id, tcbs.cpu_svn, tcbs.pce_svn)
        query = sa.select(*named, platforms.enc_ppid, platforms.platform_manifest).where(
            *same, platforms.root == _served()
        )
        if fmspcs:
            query = query.where(platforms.fmspc.in_(fmspcs))
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def is_cached(self, registration: Registration) -> bool:
        """Whether nothing is missing for a platform that reports itself."""
        platforms, tcbs = _platforms.c, _platform_tcbs.c
        known = (platforms.qe_id == registration.qe_id, platforms.pce_id == registration.pce_id)
        query = sa.select(sa.literal(1)).where(*known, platforms.root == _served())
        if registration.platform_manifest:
            query = query.where(platforms.platform_manifest == registration.platform_manifest.upper())
        else:
            same = (tcbs.qe_id == platforms.qe_id, tcbs.pce_id == platforms.pce_id, tcbs.root == platforms.root)
            raw = (tcbs.cpu_svn == registration.cpu_svn, tcbs.pce_svn == registration.pce_svn)
            query = query.where(*same, *raw)
        with self._engine.connect() as connection:
            return connection.execute(query).first() is not None

    def documents(self) -> Kept:
        """Return what there is of the PKI that is served."""
        infos, identities = _tcb_infos.c, _identities.c
        with self._engine.connect() as connection:

            def rows(*columns: sa.Column[Any], versioned: bool = False) -> tuple[Any, ...]:
                table = columns[0].table
                query = sa.select(*columns).where(table.c.root == _served())
                if versioned:
                    query = query.where(table.c.api_version == 4)
                return tuple(tuple(row) for row in connection.execute(query))

            return Kept(
                tcb_infos=rows(infos.fmspc, infos.tee, infos.update_type, versioned=True),
                identities=rows(identities.name, identities.update_type, versioned=True),
                cas=tuple(ca for (ca,) in rows(_pck_crls.c.ca)),
                crl_uris=tuple(uri for (uri,) in rows(_crls.c.uri)),
            )

    def policies(self, *, fmspc: str) -> list[str]:
        """Return the default appraisal policies of a model."""
        query = sa.select(_policies.c.text).where(_policies.c.fmspc == fmspc, _policies.c.is_default)
        with self._engine.connect() as connection:
            return list(connection.scalars(query))

    def is_ready(self) -> bool:
        """Whether the database answers."""
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(_schema_info.c.version)) == SCHEMA_VERSION

    # --- writing

    def register(self, registration: Registration, *, state: Waiting, now: datetime) -> None:
        """Put a platform into the queue, or change its state there."""
        table = _registrations
        values = registration.to_json()
        key = [table.c[name] == values[name] for name in ("qe_id", "pce_id", "cpu_svn", "pce_svn")]
        with self._write() as connection:
            connection.execute(table.delete().where(*key))
            connection.execute(table.insert().values(**values, state=state, updated=int(now.timestamp())))

    def registered(self, *, state: Waiting, take: bool) -> list[dict[str, str]]:
        """Return who waits in this state; with `take` they wait no longer."""
        table = _registrations
        columns = (table.c[name] for name in Registration.__dataclass_fields__)
        waiting = table.c.state == state
        with self._write() if take else self._engine.connect() as connection:
            found = [dict(row) for row in connection.execute(sa.select(*columns).where(waiting)).mappings()]
            if take and found:
                connection.execute(table.update().where(waiting).values(state=Waiting.TAKEN))
        return found

    def put_policy(self, policy: AppraisalPolicy, *, now: datetime) -> None:
        """Keep an appraisal policy; a new default of a model takes the place of the old one."""
        table = _policies
        with self._write() as connection:
            if policy.is_default:
                connection.execute(table.update().where(table.c.fmspc == policy.fmspc).values(is_default=False))
            connection.execute(table.delete().where(table.c.id == policy.id))
            connection.execute(table.insert().values(**asdict(policy), updated=int(now.timestamp())))

    def apply(self, upload: Upload, *, now: datetime) -> Stored:
        """Store an upload whole, or nothing of it. Raises Refusal (400) where it does not hang together."""
        with self._write() as connection:
            served = connection.scalar(_served_query())
            root = upload.root or served
            if root is None:
                raise Refusal(Status.INVALID_REQUEST, "the upload has no issuer chain, so that its PKI is not known")
            _Writer(connection=connection, root=root, updated=int(now.timestamp())).upload(upload)
        return Stored(
            root=root,
            replaces=served if served != root else None,
            platforms=len(upload.platforms),
            tcb_infos=len(upload.tcb_infos),
            identities=len(upload.identities),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Writer:
    """Writes rows of one PKI inside one transaction."""

    connection: sa.Connection
    root: str
    updated: int

    def upload(self, upload: Upload) -> None:
        """Write everything of an upload, and serve its PKI from now on."""
        for platform in upload.platforms:
            self.platform(platform)
        for name, chain in upload.chains.items():
            self.replace(_chains, {"name": name}, chain=chain)
        for tcb_info in upload.tcb_infos:
            self.tcb_info(tcb_info, upload)
        for identity in upload.identities:
            self.identity(identity, upload)
        for ca, crl in upload.pck_crls.items():
            self.replace(_pck_crls, {"ca": ca}, document=crl, chain=upload.chains.get(ca))
        if upload.root_crl is not None:
            self.replace(_root_crls, {}, crl=upload.root_crl)
            if upload.root_crl_uri is not None:
                self.replace(_crls, {"uri": upload.root_crl_uri}, crl=upload.root_crl)
        self.serve()

    def replace(self, table: sa.Table, key: dict[str, Any], **values: Any) -> None:
        """Put one row in place of the one with the same key."""
        same = [table.c[name] == value for name, value in key.items()]
        self.connection.execute(table.delete().where(*same, table.c.root == self.root))
        self.connection.execute(table.insert().values(**key, **values, root=self.root, updated=self.updated))

    def platform(self, platform: UploadedPlatform) -> None:
        """Put a platform's certificates in place of those that were there, and choose anew for every known TCB."""
        key = {"qe_id": platform.qe_id, "pce_id": platform.pce_id}
        self.connection.execute(_pck_certs.delete().where(*_of_platform(_pck_certs, self.root, platform)))
        for candidate in platform.certificates:
            self.replace(_pck_certs, {**key, "tcbm": candidate.tcbm}, pem=candidate.pem)
        for raw in dict.fromkeys((*self._known_tcbs(platform), *platform.raw_tcbs)):
            chosen = platform.best(raw)
            self.replace(_platform_tcbs, {**key, "cpu_svn": raw.cpu_svn, "pce_svn": raw.pce_svn}, tcbm=chosen.tcbm)
        if platform.is_listed:
            self.replace(
                _platforms,
                key,
                fmspc=platform.fmspc,
                ca=platform.ca,
                enc_ppid=platform.enc_ppid,
                platform_manifest=platform.platform_manifest,
            )

    def _known_tcbs(self, platform: UploadedPlatform) -> list[RawTCB]:
        table = _platform_tcbs
        query = sa.select(table.c.cpu_svn, table.c.pce_svn).where(*_of_platform(table, self.root, platform))
        return [RawTCB(cpu_svn=row.cpu_svn, pce_svn=row.pce_svn) for row in self.connection.execute(query)]

    def tcb_info(self, document: UploadedDocument, upload: Upload) -> None:
        """Put TCB Info in place of the same model's, of the same version and update type."""
        key = {
            "fmspc": document.name,
            "tee": document.tee,
            "api_version": upload.api_version,
            "update_type": document.update,
        }
        self.replace(_tcb_infos, key, document=document.text, chain=upload.chains.get(TCB_INFO))

    def identity(self, document: UploadedDocument, upload: Upload) -> None:
        """Put an identity in place of the same enclave's, of the same version and update type."""
        key = {"name": document.name, "api_version": upload.api_version, "update_type": document.update}
        self.replace(_identities, key, document=document.text, chain=upload.chains.get(IDENTITY))

    def serve(self) -> None:
        """Make this PKI the one that is served."""
        latest = self.connection.scalar(sa.select(sa.func.max(_pkis.c.uploads))) or 0
        self.connection.execute(_pkis.delete().where(_pkis.c.root == self.root))
        self.connection.execute(_pkis.insert().values(root=self.root, uploads=latest + 1, updated=self.updated))


def _served_query() -> sa.Select[Any]:
    return sa.select(_pkis.c.root).order_by(_pkis.c.uploads.desc()).limit(1)


def _served() -> sa.ScalarSelect[Any]:
    return _served_query().scalar_subquery()


def _of_platform(
    table: sa.Table, root: str, platform: Platform | UploadedPlatform
) -> tuple[sa.ColumnElement[bool], ...]:
    return (table.c.qe_id == platform.qe_id, table.c.pce_id == platform.pce_id, table.c.root == root)


# --- SQLite


def _configure(engine: sa.Engine) -> None:
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
        raise Misuse(
            Reason.DATABASE_INVALID,
            f"the database {path} cannot be made: {error.strerror}",
            hint="name a file in a folder of your own with --db FILE",
        ) from error


def _denied(path: Path) -> Unavailable:
    return Unavailable(
        Reason.PERMISSION_DENIED,
        f"the database {path} cannot be opened: permission denied",
        hint="name a file in a folder of your own with --db FILE",
    )


def _not_ours(path: Path, why: str) -> Misuse:
    return Misuse(
        Reason.DATABASE_INVALID, f"{path} is no database of eaa-pccs: {why}", hint="name another file with --db FILE"
    )


def _cannot_open(path: Path, error: DBAPIError) -> EAAError:
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_NOTADB:
        return _not_ours(path, "it is no SQLite file")
    if code is not None and code & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
        return _denied(path)
    return Unavailable(
        Reason.DATABASE_UNAVAILABLE,
        f"the database {path} cannot be used: {error.orig}",
        hint="another process may hold it, or the disk may be full",
    )
