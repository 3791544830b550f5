"""A PostgreSQL of our own for tests: a temporary cluster on a unix socket, run by an unprivileged user."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

from support.vectors import require

_USERS: Final = ("postgres", "nobody")
_NUMBERS: Final = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One that runs."""

    folder: Path
    programs: Path
    user: str
    made: list[str] = field(default_factory=list)

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"pccs{next(_NUMBERS)}"
        self.run("createdb", "--host", str(self.folder), "--username", self.user, name)
        self.made.append(name)
        return f"postgresql://{self.user}@/{name}?host={quote(str(self.folder), safe='')}"

    def run(self, program: str, *arguments: str) -> None:
        """One of PostgreSQL's programs, as its user."""
        command = [*as_user(self.user), str(self.programs / program), *arguments]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, cwd=self.folder)
        assert finished.returncode == 0, finished.stderr or finished.stdout

    def stop(self) -> None:
        """Stop the server at once."""
        self.run("pg_ctl", "--pgdata", str(self.folder / "data"), "--mode", "immediate", "stop")

    def start(self) -> None:
        """Start the server: no port, one socket in the folder."""
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off -c max_connections=60"
        log = str(self.folder / "log")
        self.run("pg_ctl", "--pgdata", str(self.folder / "data"), "--log", log, "--options", options, "--wait", "start")


def as_user(user: str) -> list[str]:
    """PostgreSQL does not run as root."""
    if os.geteuid():
        return []
    return ["setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--clear-groups"]


def programs() -> Path | None:
    """Where Debian, or the PATH, has them."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("initdb")
    return next((folder for folder in folders if (folder / "initdb").exists()), Path(found).parent if found else None)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Make one and start it; it is gone afterwards."""
    folder = programs()
    how = "RUNLEVEL=1 apt-get install --no-install-recommends postgresql"
    require("PostgreSQL", available=folder is not None, how=how)
    assert folder is not None
    known = {entry.pw_name for entry in pwd.getpwall()}
    user = next(name for name in _USERS if name in known) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    # A path of a socket has at most 107 characters: pytest's folders are too deep.
    place = Path(tempfile.mkdtemp(prefix="eaa-pg-"))
    made = Cluster(folder=place, programs=folder, user=user)
    try:
        if os.geteuid() == 0:
            shutil.chown(place, user)
        made.run("initdb", "--pgdata", str(place / "data"), "--auth", "trust", "--no-sync", "--username", user)
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(place)
