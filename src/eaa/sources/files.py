"""Collateral from a file: for machines without a network, and for evidence of another day."""

from __future__ import annotations

from pathlib import Path

from eaa.collateral.bundle import MAX_COLLATERAL_SIZE, Collateral
from eaa.errors import Misuse, Reason
from eaa.sources import PCKName


class FileSource:
    """Serves the one collateral that its file holds, whichever platform is asked for.

    A file for another model is not found out here: verification compares the FMSPC and names both.
    """

    is_local = True
    """Asking it never waits for a network."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises Misuse (FILE_UNREADABLE) and MalformedInput (COLLATERAL_MALFORMED)."""
        self._collateral = Collateral.from_json(read_collateral(path))

    def fetch(self, *, tee: int, fmspc: bytes, ca: str) -> Collateral:
        """Return the file's collateral."""
        del tee, fmspc, ca
        return self._collateral

    def fetch_pck_chain(self, name: PCKName) -> bytes | None:
        """Return the file's PCK certificate chain; verification finds out whose it is."""
        del name
        return self._collateral.pck_certificate_chain


def read_collateral(path: Path) -> bytes:
    """Return a file's bytes, at most one more than a collateral may have. Raises Misuse (FILE_UNREADABLE)."""
    try:
        with path.open("rb") as file:
            # One byte more than allowed, so that the parser sees, and says, that it is too long.
            return file.read(MAX_COLLATERAL_SIZE + 1)
    except OSError as error:
        raise Misuse(
            Reason.FILE_UNREADABLE,
            f"the collateral file {path} cannot be read: {error.strerror}",
            hint="check the path and its permissions",
        ) from error
