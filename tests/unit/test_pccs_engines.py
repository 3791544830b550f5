"""Where the database is: what is named, what cannot be opened, and what passes by itself."""

from __future__ import annotations

import socket
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError, ProgrammingError

from eaa.errors import Misuse, Reason, Unavailable
from eaa.pccs import engines
from eaa.pccs.pem import packed, unpacked
from eaa.pccs.store import Store
from support.pccs import platform


@pytest.mark.parametrize(
    "where", ["mysql://user@localhost/pccs", "postgresql:/nothing", "://", "redis://localhost", "sqlite://"]
)
def test_what_is_neither_a_file_nor_postgresql_is_refused(where: str) -> None:
    with pytest.raises(Misuse) as refused:
        engines.open_engine(where if "://" in where else f"{where}://")
    assert refused.value.reason is Reason.DATABASE_INVALID


def test_a_server_that_is_not_there_is_unavailable_and_no_password_is_told() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Unavailable) as refused:
        Store.open(f"postgresql://pccs:a%20secret@127.0.0.1:{port}/pccs")
    assert refused.value.reason is Reason.DATABASE_UNAVAILABLE
    assert "secret" not in str(refused.value)
    assert "pccs:***@127.0.0.1" in refused.value.message


def test_a_file_may_be_named_by_its_url(tmp_path: Path) -> None:
    Store.open(f"sqlite:///{tmp_path}/pccs.sqlite").close()
    assert (tmp_path / "pccs.sqlite").exists()


def failure(code: int) -> OperationalError:
    original = sqlite3.OperationalError("so")
    original.sqlite_errorcode = code
    return OperationalError("SELECT 1", {}, original)


@pytest.mark.parametrize(
    ("code", "passes"),
    [
        (sqlite3.SQLITE_FULL, True),
        (sqlite3.SQLITE_BUSY, True),
        (sqlite3.SQLITE_IOERR_WRITE, True),
        (sqlite3.SQLITE_ERROR, False),
    ],
)
def test_what_may_pass_by_itself_is_told_from_what_is_wrong(code: int, passes: bool) -> None:  # noqa: FBT001  a column
    assert engines.will_pass(failure(code)) is passes
    assert not engines.will_pass(ProgrammingError("SELECT 1", {}, sqlite3.ProgrammingError("so")))


@pytest.mark.parametrize("change", [lambda pem: pem, lambda pem: pem.replace("\n", "\r\n"), lambda pem: pem.strip()])
def test_a_certificate_comes_out_as_it_went_in(change: object) -> None:
    assert callable(change)
    pem = change(platform().pck_pem.decode())
    assert unpacked(packed(pem)) == pem


def test_a_certificate_that_anybody_would_write_so_takes_less_room() -> None:
    pem = platform().pck_pem.decode()
    assert len(packed(pem)) < len(pem) * 3 / 4
    assert packed("no certificate") == b"no certificate"
