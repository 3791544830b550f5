"""The cache's database, read: SQLAlchemy Core over SQLite or PostgreSQL; every row belongs to the PKI of one root.

PKIs, Intel's and a simulated one say, lie side by side without touching. A look-up goes through all of them, the
default one first: the PKI of the latest upload. A document keeps the issuer chain it came with, so that a new signing
certificate changes nothing for older documents.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa

from eaa.pccs import migrations
from eaa.pccs.engines import Where, open_engine, snapshot, upsert, writing
from eaa.pccs.freshness import Freshness
from eaa.pccs.pem import as_bytes, unpacked
from eaa.pccs.policies import AppraisalPolicy
from eaa.pccs.records import PKI, Document, DocumentKey, FleetEntry, Kind, Platform, Stored, Supplement
from eaa.pccs.registration import QUEUE_ORDER, Registration, Waiting
from eaa.pccs.tables import (
    chains,
    crl_uris,
    documents,
    leases,
    pck_certs,
    pkis,
    platform_tcbs,
    platforms,
    registrations,
    settings,
)
from eaa.pccs.tables import policies as policies_table
from eaa.pccs.uploads import IDENTITY, TCB_INFO, RawTCB, Upload
from eaa.pccs.writing import apply, of_platform

MAX_FLEET: Final = 10_000
"""Platforms that are shown at once."""
MAX_TCBS: Final = 16
"""Raw TCBs of one platform that are remembered because somebody asked: anybody may ask."""
PlatformKey = tuple[str, str, str]
"""QE id, PCE id and root: what the index of platforms is in the order of. It names a machine, and is never shown."""
_PLATFORM_KEY: Final = (platforms.c.qe_id, platforms.c.pce_id, platforms.c.root)
_BATCH: Final = 500
"""Rows that are read at once where there may be many."""
_SALT: Final = "pseudonym-salt"
_PSEUDONYM: Final = 16
_log = logging.getLogger(__name__)
_CHAIN_NAMES: Final = {Kind.TCB_INFO: TCB_INFO, Kind.IDENTITY: IDENTITY}


class Store:
    """The database. Thread-safe; several processes, or machines, may share one."""

    def __init__(self, engine: sa.Engine) -> None:
        """Use an engine whose schema is there."""
        self._engine = engine
        self._salt: bytes | None = None

    @classmethod
    def open(cls, where: Where) -> Store:
        """Open a SQLite file, made with mode 0600 where it is missing, or `postgresql://…`; bring it up to date.

        Raises:
            Misuse: DATABASE_INVALID, it is something else.
            Unavailable: PERMISSION_DENIED or DATABASE_UNAVAILABLE.
        """
        engine = open_engine(where)
        try:
            migrations.prepare(engine, where)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def _write(self) -> AbstractContextManager[sa.Connection]:
        return writing(self._engine)

    # --- documents: of all PKIs, the default one first, or of those whose root begins with `scope`

    def find(self, key: DocumentKey, *, scope: str = "") -> tuple[Document, ...]:
        """Return the document of this key from each PKI that has one."""
        conditions = [documents.c[name] == value for name, value in asdict(key).items()]
        return self._documents(*conditions, documents.c.root.startswith(scope))

    def numbered(self, *, fmspc: str, tee: str, api_version: int, number: int, scope: str = "") -> tuple[Document, ...]:
        """Return the TCB Info of a model that has this evaluation number, whatever it was fetched as."""
        same = {"kind": Kind.TCB_INFO, "name": fmspc, "tee": tee, "api_version": api_version, "number": str(number)}
        conditions = [documents.c[name] == value for name, value in same.items()]
        return self._documents(*conditions, documents.c.root.startswith(scope))

    def catalogue(self, *, root: str = "") -> tuple[Document, ...]:
        """Return every document there is, or those of PKIs whose root begins so."""
        return self._documents(documents.c.root.startswith(root))

    def _documents(self, *conditions: sa.ColumnElement[bool]) -> tuple[Document, ...]:
        """Return what matches; a document that needs an issuer chain and has none cannot be used."""
        by_kind = sa.case(
            {str(kind): name for kind, name in _CHAIN_NAMES.items()}, value=documents.c.kind, else_=documents.c.name
        )
        latest = sa.select(chains.c.chain).where(chains.c.name == by_kind, chains.c.root == documents.c.root)
        chain = sa.func.coalesce(documents.c.chain, latest.scalar_subquery()).label("chain")
        columns = [column for column in documents.c if column.name not in ("chain", "updated")]
        query = (
            sa.select(*columns, chain)
            .join(pkis, pkis.c.root == documents.c.root)
            .where(*conditions)
            .order_by(*_PREFERENCE, documents.c.kind, documents.c.name)
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        found = (_document(row) for row in rows)
        return tuple(each for each in found if each and (each.chain is not None or each.key.kind is Kind.ROOT_CRL))

    def crls_at(self, uri: str, *, ca: str | None = None, scope: str = "") -> tuple[Document, ...]:
        """Return the CRLs, of the roots or of a PCK CA, that were uploaded or fetched as what lies at this address."""
        roots = sa.select(crl_uris.c.root).where(crl_uris.c.uri == uri)
        kind = Kind.ROOT_CRL if ca is None else Kind.PCK_CRL
        named = (documents.c.kind == kind, documents.c.name == (ca or ""))
        return self._documents(*named, documents.c.root.in_(roots), documents.c.root.startswith(scope))

    def crl_addresses(self, root: str) -> tuple[str, ...]:
        """Return the addresses under which a root's CRL was uploaded or asked for."""
        with self._engine.connect() as connection:
            return tuple(connection.scalars(sa.select(crl_uris.c.uri).where(crl_uris.c.root == root)))

    def supplement(self, root: str | None = None) -> Supplement:
        """Return what vouches for a PKI's documents; for those of the default one where no root is named."""
        with self._engine.connect() as connection:
            root = root or connection.scalar(default_query())
            known = connection.execute(sa.select(chains.c.name, chains.c.chain).where(chains.c.root == root))
            crls = connection.execute(
                sa.select(documents.c.kind, documents.c.name, documents.c.document).where(
                    documents.c.root == root, documents.c.kind.in_((Kind.PCK_CRL, Kind.ROOT_CRL))
                )
            ).all()
            return Supplement(
                chains={row.name: as_bytes(row.chain).decode("ascii", "replace") for row in known},
                pck_crls={row.name: as_bytes(row.document) for row in crls if row.kind == Kind.PCK_CRL},
                root_crl=next((as_bytes(row.document) for row in crls if row.kind == Kind.ROOT_CRL), None),
            )

    def chain(self, *, name: str, root: str) -> str | None:
        """Return the latest chain of a CA or signer of a PKI, percent-encoded PEM."""
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(chains.c.chain).where(chains.c.name == name, chains.c.root == root))

    def pkis(self) -> tuple[PKI, ...]:
        """Return the PKIs there are, the default one first."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(pkis.c.root, pkis.c.updated).order_by(*_PREFERENCE)).all()
        return tuple(
            PKI(root=row.root, is_default=index == 0, updated=datetime.fromtimestamp(row.updated, UTC))
            for index, row in enumerate(rows)
        )

    def generation(self) -> int:
        """Return a number that every change raises, whichever process makes it."""
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.max(pkis.c.uploads))) or 0

    def is_ready(self) -> bool:
        """Whether the database answers, and has the schema that this program knows."""
        with self._engine.connect() as connection:
            return migrations.current(connection)

    # --- platforms

    def platforms(self, *, qe_id: str, pce_id: str, scope: str = "") -> tuple[Platform, ...]:
        """Return a platform by its QE id and PCE id, from each PKI that knows it."""
        table = platforms
        query = (
            sa.select(table.c.root, table.c.qe_id, table.c.pce_id, table.c.fmspc, table.c.ca)
            .join(pkis, pkis.c.root == table.c.root)
            .where(table.c.qe_id == qe_id, table.c.pce_id == pce_id, table.c.root.startswith(scope))
            .order_by(*_PREFERENCE)
        )
        with self._engine.connect() as connection:
            return tuple(Platform(**row) for row in connection.execute(query).mappings())

    def tcbm(self, platform: Platform, raw: RawTCB) -> str | None:
        """Return which certificate was chosen for this raw TCB when it was uploaded."""
        table = platform_tcbs
        query = sa.select(table.c.tcbm).where(
            *of_platform(table, platform.root, platform), table.c.cpu_svn == raw.cpu_svn, table.c.pce_svn == raw.pce_svn
        )
        with self._engine.connect() as connection:
            return connection.scalar(query)

    def remember_tcb(self, platform: Platform, raw: RawTCB, tcbm: str, *, now: datetime) -> None:
        """Keep which certificate was chosen for a raw TCB, as long as the platform has not reported too many."""
        table = platform_tcbs
        own = of_platform(table, platform.root, platform)
        row: dict[str, Any] = {"qe_id": platform.qe_id, "pce_id": platform.pce_id, "root": platform.root, "tcbm": tcbm}
        row |= {"cpu_svn": raw.cpu_svn, "pce_svn": raw.pce_svn, "updated": int(now.timestamp())}
        with self._write() as connection:
            if (connection.scalar(sa.select(sa.func.count()).where(*own)) or 0) < MAX_TCBS:
                upsert(connection, table, [row])

    def pck_certificates(self, platform: Platform) -> dict[str, str]:
        """Return a platform's certificates, PEM by TCBm."""
        table = pck_certs
        query = sa.select(table.c.tcbm, table.c.certificate).where(*of_platform(table, platform.root, platform))
        with self._engine.connect() as connection:
            return {row.tcbm: unpacked(row.certificate) for row in connection.execute(query)}

    def cached_platforms(self, fmspcs: Collection[str], *, root: str | None = None) -> list[dict[str, str]]:
        """Return the platforms of these models with each TCB they reported; of all models where none is named."""
        named, tcbs = platforms.c, platform_tcbs.c
        same = (named.qe_id == tcbs.qe_id, named.pce_id == tcbs.pce_id, named.root == tcbs.root)
        columns = (named.qe_id, named.pce_id, tcbs.cpu_svn, tcbs.pce_svn, named.enc_ppid, named.platform_manifest)
        query = sa.select(*columns).where(*same)
        if root is not None:
            query = query.where(named.root == root)
        if fmspcs:
            query = query.where(named.fmspc.in_(fmspcs))
        with self._engine.connect() as connection:
            return [
                {name: value.hex().upper() if isinstance(value, bytes) else value for name, value in row.items()}
                for row in connection.execute(query).mappings()
            ]

    def manifest_of(self, registration: Registration) -> str:
        """Return the manifest that a platform was stored with, lower-case hex; empty where there is none."""
        named = platforms.c
        same = (named.qe_id == registration.qe_id, named.pce_id == registration.pce_id)
        with self._engine.connect() as connection:
            found = connection.scalars(sa.select(named.platform_manifest).where(*same))
            return next((manifest.hex() for manifest in found if manifest), "")

    def is_cached(self, registration: Registration) -> bool:
        """Whether nothing is missing for a platform that reports itself."""
        named, tcbs = platforms.c, platform_tcbs.c
        query = sa.select(sa.literal(1)).where(named.qe_id == registration.qe_id, named.pce_id == registration.pce_id)
        if registration.platform_manifest:
            query = query.where(named.platform_manifest == bytes.fromhex(registration.platform_manifest))
        else:
            same = (tcbs.qe_id == named.qe_id, tcbs.pce_id == named.pce_id, tcbs.root == named.root)
            raw = (tcbs.cpu_svn == registration.cpu_svn, tcbs.pce_svn == registration.pce_svn)
            query = query.where(*same, *raw)
        with self._engine.connect() as connection:
            return connection.execute(query).first() is not None

    def fleet(self, *, since: PlatformKey | None = None, until: PlatformKey | None = None) -> tuple[FleetEntry, ...]:
        """Return platforms as they may be shown, MAX_FLEET at most: those from this key on, up to and without that one.

        The order among them tells nothing of their ids.
        """
        named = platforms.c
        query = sa.select(named.root, named.fmspc, named.ca, named.qe_id, named.pce_id)
        if since is not None:
            query = query.where(sa.tuple_(*_PLATFORM_KEY) >= since)
        if until is not None:
            query = query.where(sa.tuple_(*_PLATFORM_KEY) < until)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(*_PLATFORM_KEY).limit(MAX_FLEET)).all()
        salt = self._pseudonym_salt()
        entries = [
            FleetEntry(root=row.root, fmspc=row.fmspc, ca=row.ca, pseudonym=_pseudonym(salt, row.qe_id, row.pce_id))
            for row in rows
        ]
        return tuple(sorted(entries, key=lambda entry: (entry.root, entry.fmspc, entry.pseudonym)))

    def fleet_starts(self, *, page: int) -> tuple[PlatformKey, ...]:
        """Return the first key of each page of so many platforms: the index of keys is read once, from end to end."""
        place = sa.func.row_number().over(order_by=_PLATFORM_KEY).label("place")
        placed = sa.select(*_PLATFORM_KEY, place).subquery()
        query = sa.select(placed).where((placed.c.place - 1) % page == 0).order_by(placed.c.place)
        with self._engine.connect() as connection:
            return tuple((row.qe_id, row.pce_id, row.root) for row in connection.execute(query))

    def fleet_size(self) -> dict[tuple[str, str], int]:
        """Return how many platforms there are, by root and FMSPC."""
        counted = sa.select(platforms.c.root, platforms.c.fmspc, sa.func.count()).group_by(
            platforms.c.root, platforms.c.fmspc
        )
        with self._engine.connect() as connection:
            return {(root, fmspc): count for root, fmspc, count in connection.execute(counted)}

    def certificate_counts(self) -> dict[tuple[str, str], int]:
        """Return how many PCK certificates platforms have, by root and FMSPC."""
        columns = (platforms.c.root, platforms.c.fmspc)
        # Outer, so that SQLite begins with platforms and needs nothing but two indexes: the certificates' own table is
        # more than a gigabyte of a million of them.
        joined = platforms.outerjoin(pck_certs, sa.and_(*_same_platform(pck_certs)))
        counted = sa.select(*columns, sa.func.count(pck_certs.c.tcbm)).select_from(joined).group_by(*columns)
        with self._engine.connect() as connection:
            return {(root, fmspc): count for root, fmspc, count in connection.execute(counted)}

    def certificates(self, root: str, fmspc: str, *, limit: int) -> Iterator[bytes]:
        """Yield some of the PCK certificates of a model, as they are kept (see `eaa.pccs.pem`), one after the other."""
        model = (platforms.c.root == root, platforms.c.fmspc == fmspc)
        query = sa.select(pck_certs.c.certificate).where(*_same_platform(pck_certs), *model).limit(limit)
        with snapshot(self._engine) as connection:
            for rows in connection.execute(query).partitions(_BATCH):
                yield from (as_bytes(row.certificate) for row in rows)

    def fleet_tcbs(self, root: str) -> dict[str, dict[str, int]]:
        """Return by FMSPC how many TCBs that platforms reported have a certificate of which TCBm."""
        columns = (platforms.c.fmspc, platform_tcbs.c.tcbm)
        own = (*_same_platform(platform_tcbs), platforms.c.root == root)
        counted = sa.select(*columns, sa.func.count()).where(*own).group_by(*columns)
        found: dict[str, dict[str, int]] = {}
        with self._engine.connect() as connection:
            for fmspc, tcbm, count in connection.execute(counted):
                found.setdefault(fmspc, {})[tcbm] = count
        return found

    def _pseudonym_salt(self) -> bytes:
        if self._salt is None:
            self._salt = bytes.fromhex(self.setting(_SALT, otherwise=secrets.token_hex(32)))
        return self._salt

    def setting(self, name: str, *, otherwise: str) -> str:
        """Return what all processes on this database agree on; the first that asks for it decides."""
        query = sa.select(settings.c.value).where(settings.c.name == name)
        with self._engine.connect() as connection:
            found = connection.scalar(query)
        if found is not None:
            return str(found)
        with self._write() as connection:
            found = connection.scalar(query)
            if found is None:
                connection.execute(settings.insert().values(name=name, value=otherwise))
            return otherwise if found is None else str(found)

    # --- the queue and policies

    def register(self, registration: Registration, *, state: Waiting, now: datetime) -> None:
        """Put a platform into the queue, or change its state there."""
        table = registrations
        values = registration.to_json()
        key = [table.c[name] == values[name] for name in ("qe_id", "pce_id", "cpu_svn", "pce_svn")]
        with self._write() as connection:
            connection.execute(table.delete().where(*key))
            connection.execute(table.insert().values(**values, state=state, updated=int(now.timestamp())))

    def registered(self, *, state: Waiting, take: bool) -> list[dict[str, str]]:
        """Return who waits in this state; with `take` they wait no longer."""
        table = registrations
        columns = (table.c[name] for name in QUEUE_ORDER)
        waiting = table.c.state == state
        with self._write() if take else self._engine.connect() as connection:
            found = [dict(row) for row in connection.execute(sa.select(*columns).where(waiting)).mappings()]
            if take and found:
                connection.execute(table.update().where(waiting).values(state=Waiting.TAKEN))
        return found

    def policies(self, *, fmspc: str) -> list[str]:
        """Return the default appraisal policies of a model."""
        table = policies_table
        query = sa.select(table.c.text).where(table.c.fmspc == fmspc, table.c.is_default)
        with self._engine.connect() as connection:
            return list(connection.scalars(query))

    def all_policies(self) -> list[AppraisalPolicy]:
        """Return every appraisal policy, by model and id."""
        columns = [policies_table.c[name] for name in AppraisalPolicy.__dataclass_fields__]
        with self._engine.connect() as connection:
            found = [AppraisalPolicy(**row) for row in connection.execute(sa.select(*columns)).mappings()]
        return sorted(found, key=lambda each: (each.fmspc, each.id))

    def put_policy(self, policy: AppraisalPolicy, *, now: datetime) -> None:
        """Keep an appraisal policy; a new default of a model takes the place of the old one."""
        table = policies_table
        with self._write() as connection:
            if policy.is_default:
                connection.execute(table.update().where(table.c.fmspc == policy.fmspc).values(is_default=False))
            connection.execute(table.delete().where(table.c.id == policy.id))
            connection.execute(table.insert().values(**asdict(policy), updated=int(now.timestamp())))

    # --- uploads, and who works on what

    def apply(self, upload: Upload, *, now: datetime, becomes_default: bool = True) -> Stored:
        """Store an upload whole, or nothing of it, and nothing that is older than what is there.

        Args:
            upload: verified; see `eaa.pccs.admission`.
            now: written beside its rows.
            becomes_default: whether its PKI answers from now on where a request does not say whose document it wants.

        Raises:
            Refusal: 400, it does not hang together.
        """
        with self._write() as connection:
            return apply(connection, upload, now=now, becomes_default=becomes_default)

    def lease(self, name: str, owner: str, *, now: datetime, until: datetime) -> bool:
        """Take a piece of work for all processes on this database, until then; False while another one has it."""
        free = sa.or_(leases.c.until <= int(now.timestamp()), leases.c.owner == owner)
        with self._write() as connection:
            connection.execute(leases.delete().where(leases.c.name == name, free))
            if connection.scalar(sa.select(leases.c.owner).where(leases.c.name == name)) is not None:
                return False
            connection.execute(leases.insert().values(name=name, owner=owner, until=int(until.timestamp())))
        return True

    def is_leased(self, name: str, *, now: datetime) -> bool:
        """Whether anybody has this piece of work."""
        query = sa.select(leases.c.owner).where(leases.c.name == name, leases.c.until > int(now.timestamp()))
        with self._engine.connect() as connection:
            return connection.scalar(query) is not None

    def release(self, name: str, owner: str) -> None:
        """Give a piece of work back."""
        with self._write() as connection:
            connection.execute(leases.delete().where(leases.c.name == name, leases.c.owner == owner))

    def contents(self, root: str, *, batch: int = 500) -> Iterator[Upload]:
        """Return everything of a PKI as uploads: documents, then platforms, so many at once."""
        from eaa.pccs.contents import contents  # noqa: PLC0415  only exports need it

        return contents(self._engine, self, root, batch=batch)


def _same_platform(table: sa.Table) -> list[sa.ColumnElement[bool]]:
    """Return what joins rows of a table to their platforms."""
    return [column == table.c[column.name] for column in _PLATFORM_KEY]


def default_query() -> sa.Select[Any]:
    """Ask for the root of the default PKI."""
    return sa.select(pkis.c.root).order_by(*_PREFERENCE).limit(1)


_PREFERENCE: Final = (pkis.c.preferred.desc(), pkis.c.uploads.desc())


def _document(row: Any) -> Document | None:
    """Read a row; None for one that nobody of us wrote: whoever changed the database must not take the rest with it."""
    try:
        moments = {name: datetime.fromtimestamp(row[name], UTC) for name in ("issued", "expires")}
        return Document(
            key=DocumentKey(
                kind=Kind(row["kind"]),
                name=row["name"],
                tee=row["tee"],
                api_version=int(row["api_version"]),
                update_type=row["update_type"],
            ),
            root=row["root"],
            body=as_bytes(row["document"]),
            chain=None if row["chain"] is None else as_bytes(row["chain"]).decode("ascii", "replace"),
            freshness=Freshness(number=int(row["number"]), **moments),
        )
    except (TypeError, ValueError, OverflowError, OSError) as error:
        _log.warning("a row with a %s of %s cannot be read: %s", row["kind"], row["name"], error)
        return None


def _pseudonym(salt: bytes, qe_id: str, pce_id: str) -> str:
    return hmac.digest(salt, f"{qe_id}/{pce_id}".encode(), hashlib.sha256).hex()[:_PSEUDONYM]
