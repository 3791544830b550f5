"""Files that operators hand to a program: read with a bound, written whole or not at all."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from eaa.errors import Misuse, Reason, Unavailable

MAX_INPUT: Final = 64 * 1024 * 1024
"""Bytes of a file given on the command line; enclave images are the largest."""
LOCK_TIMEOUT: Final = 10.0
"""Seconds; who holds a lock has only to read and write one small file."""
_LOCK_PAUSE: Final = 0.02


def read_bytes(path: Path, *, what: str, maximum: int = MAX_INPUT) -> bytes:
    """Return the file's bytes. Raises Misuse (FILE_UNREADABLE)."""
    try:
        with path.open("rb") as file:
            raw = file.read(maximum + 1)
    except OSError as error:
        raise Misuse(
            Reason.FILE_UNREADABLE,
            f"{what} {path} cannot be read: {error.strerror}",
            hint="check the path and its permissions",
        ) from error
    if len(raw) > maximum:
        raise Misuse(Reason.FILE_UNREADABLE, f"{what} {path} has more than {maximum} bytes")
    return raw


def read_text(path: Path, *, what: str) -> str:
    """Return the file's text, UTF-8. Raises Misuse (FILE_UNREADABLE)."""
    try:
        return read_bytes(path, what=what, maximum=4 * 1024 * 1024).decode()
    except UnicodeDecodeError as error:
        raise Misuse(Reason.FILE_UNREADABLE, f"{what} {path} is not UTF-8 text") from error


def read_text_if_there(path: Path, *, what: str) -> str | None:
    """Return the file's text, or None where there is no such file. Raises as `read_text` for every other defect."""
    try:
        return read_text(path, what=what)
    except Misuse as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


@contextmanager
def writing_whole(path: Path, *, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """Replace a file atomically by what is written in this block, making its folder where it is missing.

    Raises:
        Unavailable: PERMISSION_DENIED, the disk is full for instance; the file that was there stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
            Path(name).chmod(mode)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise Unavailable(
            Reason.PERMISSION_DENIED,
            f"{path} cannot be written: {error.strerror}",
            hint="check the folder's permissions, and that its disk has room",
        ) from error


def write_whole(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace a file atomically, making its folder where it is missing. Raises Unavailable (PERMISSION_DENIED)."""
    with writing_whole(path, mode=mode) as file:
        file.write(content)


def stamp_of(path: Path) -> tuple[int, ...] | None:
    """Return what tells one state of a file that `write_whole` writes from another, its inode too; None without one."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


@contextmanager
def locked(path: Path, *, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Keep other programs of ours from changing a file in this block, the file that is about to be replaced.

    The lock is a file beside it that stays: the file itself is another one after every change.

    Raises:
        Unavailable: FILE_LOCKED, PERMISSION_DENIED.
    """
    beside = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(
            Reason.PERMISSION_DENIED,
            f"{beside} cannot be opened: {error.strerror}",
            hint="check the folder's permissions",
        ) from error
    try:
        _wait_for_lock(descriptor, path, timeout)
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, path: Path, timeout: float) -> None:
    end = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() < end:
                time.sleep(_LOCK_PAUSE)
                continue
            raise Unavailable(
                Reason.FILE_LOCKED,
                f"another program has been changing {path} for {timeout:g} seconds",
                hint="try again; `fuser` on the lock beside the file names the program",
            ) from error
        return


def read_trust_anchor(path: Path) -> bytes:
    """Return the SHA-256 of the one PEM certificate in the file. Raises Misuse (TRUST_ANCHOR_INVALID)."""
    raw = read_bytes(path, what="the trust anchor", maximum=64 * 1024)
    try:
        certificates = x509.load_pem_x509_certificates(raw)
    except ValueError as error:
        raise Misuse(
            Reason.TRUST_ANCHOR_INVALID,
            f"the trust anchor {path} holds no PEM certificate",
            hint="name the root certificate itself, root.pem of a simulator directory for instance",
        ) from error
    if len(certificates) != 1:
        raise Misuse(
            Reason.TRUST_ANCHOR_INVALID,
            f"the trust anchor {path} holds {len(certificates)} certificates, one is wanted",
        )
    return certificates[0].fingerprint(hashes.SHA256())


def config_home(environ: os._Environ[str] | dict[str, str] | None = None) -> Path:
    """Return the folder of the user's configuration files for this project."""
    variables = os.environ if environ is None else environ
    base = variables.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "eaa"
