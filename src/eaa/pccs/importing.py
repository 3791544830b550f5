"""The database of Intel's own service, taken over: verified row by row like an upload, with what can be used kept.

What does not verify is left out and counted, because the reference keeps documents for ever, and checks none. The file
is opened to be read only; nothing in it is changed.

Source: Intel SGX PCCS 1.27, migrations 00 to 05 and the models over them (SQLite).
"""

from __future__ import annotations

import json
import logging
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from eaa.errors import EAAError, Misuse, Reason
from eaa.pccs.admission import admit
from eaa.pccs.policies import AppraisalPolicy
from eaa.pccs.query import MAX_URI
from eaa.pccs.records import Carried
from eaa.pccs.registration import Registration, Waiting
from eaa.pccs.schema import STORED_CERTIFICATE, STORED_PLATFORM, STORED_TCB, require
from eaa.pccs.store import Store
from eaa.pccs.uploads import (
    EMPTY_UPLOAD,
    IDENTITY,
    TCB_INFO,
    RawTCB,
    Upload,
    UploadedDocument,
    UploadedPlatform,
    read_candidate,
    read_chain,
)
from eaa.pccs.wire import Refusal, Status
from eaa.sources.selection import Candidate
from eaa.verifier import TrustAnchors

BATCH: Final = 500
"""Platforms that are stored in one transaction."""
MAX_VALUE: Final = 2 * 1024 * 1024
"""Bytes of one value in the file; a longer one counts as none."""
_ROOT, _SIGNER = 1, 3
_CAS: Final = {"PROCESSOR": 2, "PLATFORM": 4}
_TEES: Final = {0: "SGX", 1: "TDX"}
_IDENTITIES: Final = {1: "QE", 2: "QVE", 3: "TD_QE"}
_COLUMNS: Final = {
    "pcs_certificates": ("id", "cert", "crl"),
    "crl_cache": ("cdp_url", "crl"),
    "pck_crl": ("ca", "pck_crl"),
    "fmspc_tcbs": ("fmspc", "type", "version", "update_type", "tcbinfo"),
    "enclave_identities": ("id", "version", "update_type", "identity"),
    "platforms": ("qe_id", "pce_id", "fmspc", "ca", "enc_ppid", "platform_manifest"),
    "platform_tcbs": ("cpu_svn", "pce_svn"),
    "pck_cert": ("tcbm", "pck_cert"),
    "appraisal_policies": ("is_default", "fmspc", "policy"),
    "platforms_registered": ("qe_id", "pce_id", "cpu_svn", "pce_svn", "enc_ppid", "platform_manifest", "state"),
}
"""What is read of which table."""
_TABLES: Final = frozenset({"platforms", "platform_tcbs", "pck_cert", "fmspc_tcbs", "enclave_identities", "pck_crl"})
_UPDATES: Final = ("STANDARD", "EARLY")
_FMSPC: Final = re.compile(r"[0-9A-F]{12}")
_ODD: Final = (Refusal, EAAError, TypeError, ValueError)
"""What comes of a row that holds something else than the reference writes: columns have no types in SQLite."""
_QUEUED: Final = (Waiting.NEW, Waiting.NOT_AVAILABLE)
_log = logging.getLogger(__name__)
T = TypeVar("T")


def is_intel_database(path: Path) -> bool:
    """Whether a file is a SQLite database with the tables of Intel's service. Raises OSError."""
    with path.open("rb") as stream:
        if stream.read(16) != b"SQLite format 3\0":
            return False
    try:
        with closing(_connect(path)) as connection:
            return {name for (name,) in connection.execute("SELECT name FROM sqlite_master")} >= _TABLES
    except sqlite3.Error:
        return False


def import_intel_sqlite(path: Path, store: Store, *, trust_anchors: TrustAnchors, now: datetime) -> Carried:
    """Take over Intel's database (`pckcache.db`).

    Raises:
        Misuse: FILE_UNREADABLE, it is no such database.
        Unavailable: the store cannot be written.
    """
    try:
        is_one = is_intel_database(path)
    except OSError as error:
        raise _unreadable(path, error.strerror or "it cannot be read") from error
    if not is_one:
        raise _unreadable(path, "it is no SQLite database of Intel's service")
    with closing(_connect(path)) as connection:
        reader = _Import(connection=connection, store=store, trust_anchors=trust_anchors, now=now)
        try:
            reader.run()
        except sqlite3.Error as error:
            raise _unreadable(path, str(error)) from error
    return reader.done


def _unreadable(path: Path, why: str) -> Misuse:
    return Misuse(
        Reason.FILE_UNREADABLE, f"{path} cannot be imported: {why}", hint="name the file pckcache.db of Intel's service"
    )


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    # What is no UTF-8 is an odd value of one row, and no error of the whole file.
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    return connection


@dataclass(slots=True, kw_only=True)
class _Import:
    """One run."""

    connection: sqlite3.Connection
    store: Store
    trust_anchors: TrustAnchors
    now: datetime
    done: Carried = field(default_factory=Carried)
    vouching: Upload = EMPTY_UPLOAD
    """The chains and CRLs; what is missing in the store comes from here."""
    levels: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By FMSPC the SGX TCB Info by which certificates are chosen."""

    def run(self) -> None:
        """What vouches comes first, then documents, then platforms, then what nobody signs."""
        self.vouching = self.read_vouching()
        if not self.admit_vouching():
            return
        self.done.documents += self.vouching.root_crl is not None
        for what, upload in self.read_documents():
            if self.admit(what, upload):
                self.done.documents += 1
                self.take_levels(upload)
        batch: list[UploadedPlatform] = []
        for platform in self.read_platforms():
            batch.append(platform)
            if len(batch) >= BATCH:
                self.admit_platforms(batch)
                batch = []
        self.admit_platforms(batch)
        self.copy("policies", "appraisal_policies", self.policy)
        self.copy("registrations", "platforms_registered", self.registration)

    def admit_vouching(self) -> bool:
        """Store each chain with the root's CRL, then its own: one that is over keeps none of the others out."""
        stored = False
        for name, chain in self.vouching.chains.items():
            alone = replace(self.vouching, chains={name: chain}, pck_crls={})
            if not self.admit(f"the chain {name} with the root's CRL", alone):
                continue
            stored = True
            crl = self.vouching.pck_crls.get(name)
            if crl is not None:
                with_crl = replace(alone, pck_crls={name: crl}, root_crl=None)
                self.done.documents += self.admit(f"the CRL of the {name} CA", with_crl)
        return stored

    def admit(self, what: str, upload: Upload) -> bool:
        """Verify and store; whether it was good."""
        try:
            stored = admit(upload, self.store, trust_anchors=self.trust_anchors, now=self.now)
        except (Refusal, EAAError) as error:
            self.refuse(what, error)
            return False
        self.done.kept_newer += stored.kept_newer
        return True

    def admit_platforms(self, batch: list[UploadedPlatform]) -> None:
        """Store many at once; where one of them is bad, each alone."""
        if not batch:
            return
        whole = replace(EMPTY_UPLOAD, root=self.vouching.root, platforms=tuple(batch))
        try:
            admit(whole, self.store, trust_anchors=self.trust_anchors, now=self.now)
        except Refusal:
            for platform in batch:
                one = replace(whole, platforms=(platform,))
                self.done.platforms += self.admit(f"a platform of FMSPC {platform.fmspc}", one)
        else:
            self.done.platforms += len(batch)

    def refuse(self, what: str, why: object) -> None:
        """Take note of a row that is left out."""
        self.done.refused.append(f"{what}: {why}")
        _log.warning("%s: not imported: %s", what, why)

    # --- reading

    def read_vouching(self) -> Upload:
        """Read chains and CRLs: certificate 1 is the root, 2 and 4 the CAs, 3 the signer."""
        certificates = {row["id"]: row for row in self.rows("pcs_certificates")}
        root = certificates.get(_ROOT)
        if root is None or not root["cert"]:
            raise _unreadable(Path("the database"), "it holds no root certificate")
        names = {**_CAS, TCB_INFO: _SIGNER, IDENTITY: _SIGNER}
        chains = {
            name: _text(certificates[number]["cert"]) + _text(root["cert"])
            for name, number in names.items()
            if number in certificates and certificates[number]["cert"]
        }
        addresses = ((row["cdp_url"], row["crl"]) for row in self.rows("crl_cache"))
        known = ((uri, crl) for uri, crl in addresses if isinstance(uri, str) and 0 < len(uri) <= MAX_URI)
        cached = [uri for uri, crl in known if _bytes(crl) == _bytes(root["crl"])]
        crls = {row["ca"]: _bytes(row["pck_crl"]) for row in self.rows("pck_crl") if row["pck_crl"]}
        roots = {}
        for name, chain in chains.items():
            try:
                roots[name] = read_chain(chain)[-1].fingerprint.hex()
            except Refusal as refusal:
                self.refuse(f"the chain {name}", refusal.cause)
        chains = {name: chains[name] for name in roots}
        if len(set(roots.values())) != 1:
            raise _unreadable(Path("the database"), "its chains do not end in one root")
        return replace(
            EMPTY_UPLOAD,
            root=next(iter(roots.values())),
            chains=chains,
            pck_crls={ca: crl for ca, crl in crls.items() if ca in chains},
            root_crl=_bytes(root["crl"]) or None,
            root_crl_uri=cached[0] if cached else None,
        )

    def read_documents(self) -> Iterator[tuple[str, Upload]]:
        """Read TCB Infos and identities, each an upload of its own: one bad one keeps none of the others out."""
        base = replace(EMPTY_UPLOAD, root=self.vouching.root)
        for row in self.rows("fmspc_tcbs"):
            name, tee = _folded(row["fmspc"]), _TEES.get(row["type"], "")
            if self.is_odd(row, "TCB Info", tee and isinstance(name, str) and _FMSPC.fullmatch(name)):
                continue
            document = UploadedDocument(name=name, tee=tee, update=row["update_type"], text=_bytes(row["tcbinfo"]))
            yield (
                f"{tee} TCB Info for {name}",
                replace(base, api_version=row["version"], tcb_infos=(document,), chains=self.chain_of(TCB_INFO)),
            )
        for row in self.rows("enclave_identities"):
            name = _IDENTITIES.get(row["id"], "")
            if self.is_odd(row, "an identity", name):
                continue
            tee = "TDX" if name == "TD_QE" else "SGX"
            document = UploadedDocument(name=name, tee=tee, update=row["update_type"], text=_bytes(row["identity"]))
            yield (
                f"the {name} identity",
                replace(base, api_version=row["version"], identities=(document,), chains=self.chain_of(IDENTITY)),
            )

    def is_odd(self, row: sqlite3.Row, what: str, name: object) -> bool:
        """Whether a document's row says of no document what it is; that is noted."""
        if name and row["version"] in (3, 4) and row["update_type"] in _UPDATES:
            return False
        self.refuse(f"a row with {what}", "its type, version or update is none that there is")
        return True

    def take_levels(self, upload: Upload) -> None:
        """Choose certificates by this TCB Info, which verifies; by the early one where there is one."""
        for document in upload.tcb_infos:
            is_better = document.update == "EARLY" or document.name not in self.levels
            if (document.tee, upload.api_version) == ("SGX", 4) and is_better:
                self.levels[document.name] = json.loads(document.text)["tcbInfo"]

    def chain_of(self, name: str) -> dict[str, str]:
        """Return the chain of a signer, as an upload carries it."""
        chains = self.vouching.chains
        return {name: chains[name]} if name in chains else {}

    def read_platforms(self) -> Iterator[UploadedPlatform]:
        """Read platforms with their certificates and the TCBs that they reported."""
        for row in self.rows("platforms"):
            try:
                platform = self.platform(row)
            except _ODD as error:
                self.refuse(f"a platform of FMSPC {row['fmspc']}", error)
                continue
            yield platform

    def platform(self, row: sqlite3.Row) -> UploadedPlatform:
        """Read one. Raises Refusal."""
        named = {name: _folded(row[name]) for name in ("qe_id", "pce_id", "fmspc", "ca")}
        require(named, STORED_PLATFORM, where="it")
        key = (row["qe_id"], row["pce_id"])
        certificates = tuple(self.of_platform("pck_cert", key, _certificate))
        if not certificates:
            raise Refusal(Status.INVALID_REQUEST, "it has no certificate")
        return UploadedPlatform(
            **named,
            enc_ppid=_bytes(row["enc_ppid"]).hex().upper(),
            platform_manifest=_bytes(row["platform_manifest"]).hex().upper(),
            is_listed=True,
            raw_tcbs=tuple(self.of_platform("platform_tcbs", key, _raw_tcb)),
            certificates=certificates,
            tcb_info=self.levels.get(named["fmspc"], {}),
        )

    def of_platform(self, table: str, key: tuple[str, str], read: Callable[[sqlite3.Row], T]) -> Iterator[T]:
        """Read what a table has of a platform."""
        for row in self.rows(table, " WHERE qe_id = ? AND pce_id = ?", key):
            try:
                found = read(row)
            except _ODD as error:
                self.refuse(f"a row of {table}", error)
            else:
                yield found

    # --- what nobody signs

    def copy(self, counted: str, table: str, take: Callable[[sqlite3.Row], bool]) -> None:
        """Take over the rows of a table that older versions of the service do not have."""
        for row in self.rows(table):
            try:
                setattr(self.done, counted, getattr(self.done, counted) + take(row))
            except _ODD as error:
                self.refuse(f"a row of {table}", error)

    def policy(self, row: sqlite3.Row) -> bool:
        """Keep an appraisal policy."""
        members = {"is_default": bool(row["is_default"]), "fmspc": row["fmspc"], "policy": row["policy"]}
        self.store.put_policy(AppraisalPolicy.parse(json.dumps(members).encode()), now=self.now)
        return True

    def registration(self, row: sqlite3.Row) -> bool:
        """Keep who still waits."""
        if row["state"] not in _QUEUED:
            return False
        members = {name: row[name] or "" for name in ("qe_id", "pce_id", "cpu_svn", "pce_svn")}
        members |= {name: _bytes(row[name]).hex() for name in ("enc_ppid", "platform_manifest")}
        registration = Registration.parse(json.dumps(members).encode())
        self.store.register(registration, state=Waiting(row["state"]), now=self.now)
        return True

    def rows(self, table: str, where: str = "", values: tuple[str, ...] = ()) -> Iterator[sqlite3.Row]:
        """Yield the rows of a table, if it is there; NULL stands for columns that are not, and for values too long."""
        there = {row["name"] for row in self.connection.execute(f"PRAGMA table_info({table})")}
        if not there:
            return
        columns = ", ".join(
            f"CASE WHEN length(CAST({name} AS BLOB)) <= {MAX_VALUE} THEN {name} END AS {name}"
            if name in there
            else f"NULL AS {name}"
            for name in _COLUMNS[table]
        )
        yield from self.connection.execute(f"SELECT {columns} FROM {table}{where}", values)  # noqa: S608  our names


def _folded(value: object) -> Any:
    """Return text in upper case, as names are compared; anything else as it is."""
    return value.upper() if isinstance(value, str) else value


def _certificate(row: sqlite3.Row) -> Candidate:
    require({"tcbm": row["tcbm"]}, STORED_CERTIFICATE, where="it")
    return read_candidate({"tcbm": row["tcbm"], "cert": _text(row["pck_cert"])})


def _raw_tcb(row: sqlite3.Row) -> RawTCB:
    named = {name: _folded(row[name]) for name in ("cpu_svn", "pce_svn")}
    require(named, STORED_TCB, where="it")
    return RawTCB(**named)


def _bytes(value: object) -> bytes:
    """Return a BLOB; versions of the service differ in whether they keep bytes or their hex."""
    if value is None:
        return b""
    raw = value if isinstance(value, bytes) else str(value).encode()
    if raw[:1] in (b"{", b"\x30", b"-") and raw[:2] != b"30":
        return raw
    try:
        return bytes.fromhex(raw.decode("ascii"))
    except ValueError:
        return raw


def _text(value: object) -> str:
    raw = value if isinstance(value, bytes) else str(value).encode()
    return raw.decode("ascii", "replace")
