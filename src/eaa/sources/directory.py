"""Collateral from a folder: one file for each platform model, found by what it is for and not by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import PCKCertificate, QEIdentity, TCBInfo, parse_pem_chain
from eaa.collateral.x509 import CRL, Certificate
from eaa.errors import MalformedInput, Misuse, Reason, Unavailable
from eaa.sources import PCKName
from eaa.sources.files import read_collateral

MAX_FILES: Final = 16_384
"""Files `*.json` of one folder that are looked at."""
_TEE_WORDS: Final = {"SGX": 0x00, "TDX": 0x81}
_CAS: Final = ("processor", "platform")

_Model = tuple[int, bytes, str]
"""TEE type, FMSPC and CA."""


@dataclass(frozen=True, slots=True)
class _Found:
    path: Path
    evaluation_number: int
    issue_date: datetime
    """Of its TCB Info."""
    begins: datetime
    """The first time at which all of its documents were issued."""
    ends: datetime
    """The last time at which none of them is past its nextUpdate."""
    platform: tuple[bytes, int, bytes] | None
    """CPUSVN, PCE SVN and PCE-ID of the PCK certificate in it, where there is one."""


class DirectorySource:
    """Serves the collateral files of a folder, `*.json`, to whichever platform each of them is for.

    The files are read once, when this is made, to find out what they are for; nothing that they say is trusted. Of two
    files for one model the one with the higher evaluation number counts, then the one that was issued later. What is
    not current at the time for which evidence is verified counts only where nothing else does.
    """

    is_local = True
    """Asking it never waits for a network."""

    def __init__(self, folder: Path, *, clock: Callable[[], datetime] | None = None) -> None:
        """Look at the files.

        Args:
            folder: with the files.
            clock: the time for which evidence is verified, aware; where it is left out, whatever is newest counts.

        Raises:
            Misuse: FILE_UNREADABLE.
        """
        self._folder = folder
        self._clock = clock
        self._found: dict[_Model, list[_Found]] = {}
        self._chains: dict[tuple[bytes, int, bytes], list[Path]] = {}
        self._others = 0
        for path in _files_of(folder):
            self._add(path)

    def fetch(self, *, tee: int, fmspc: bytes, ca: str) -> Collateral:
        """Return the collateral for one platform model. Raises Unavailable (COLLATERAL_NOT_FOUND)."""
        found = self._found.get((int(tee), fmspc, ca))
        if found is None:
            others = f", and {self._others} files that are none" if self._others else ""
            name = next((name for name, word in _TEE_WORDS.items() if word == tee), f"TEE {tee:#x}")
            raise Unavailable(
                Reason.COLLATERAL_NOT_FOUND,
                f"the folder {self._folder} holds no collateral for {name}, FMSPC {fmspc.hex()} and the {ca} CA; "
                f"it holds {len(self._found)} for others{others}",
                hint="`shelter inspect` says what a collateral file is for",
            )
        now = None if self._clock is None else self._clock()
        issued = [one for one in found if now is None or one.begins <= now]
        current = [one for one in issued if now is None or now <= one.ends]
        return Collateral.from_json(read_collateral(max(current or issued or found, key=_newness).path))

    def fetch_pck_chain(self, name: PCKName) -> bytes | None:
        """Return the PCK chain of the one file whose certificate fits; None where there is none, or more than one."""
        paths = self._chains.get((name.cpu_svn, name.pce_svn, name.pce_id), [])
        return Collateral.from_json(read_collateral(paths[0])).pck_certificate_chain if len(paths) == 1 else None

    def _add(self, path: Path) -> None:
        try:
            collateral = Collateral.from_json(read_collateral(path))
            info = TCBInfo.parse(collateral.tcb_info)
            model = (_TEE_WORDS[info.id], info.fmspc, _ca_of(collateral))
            begins, ends = _dates_of(collateral, info)
            found = _Found(
                path=path,
                evaluation_number=info.tcb_evaluation_data_number,
                issue_date=info.issue_date,
                begins=begins,
                ends=ends,
                platform=_platform_of(collateral),
            )
        except MalformedInput:
            self._others += 1
            return
        if found.platform is not None:
            self._chains.setdefault(found.platform, []).append(path)
        self._found.setdefault(model, []).append(found)


def _newness(found: _Found) -> tuple[int, datetime]:
    return found.evaluation_number, found.issue_date


def _dates_of(collateral: Collateral, info: TCBInfo) -> tuple[datetime, datetime]:
    """Return from when on and until when all documents are current."""
    identity = QEIdentity.parse(collateral.qe_identity)
    lists = [CRL.parse(raw) for raw in (collateral.pck_crl, collateral.root_ca_crl)]
    begins = max(info.issue_date, identity.issue_date, *(one.this_update for one in lists))
    return begins, min(info.next_update, identity.next_update, *(one.next_update for one in lists))


def _ca_of(collateral: Collateral) -> str:
    issuer = Certificate.parse(parse_pem_chain(collateral.pck_crl_issuer_chain)[0]).common_name
    for ca in _CAS:
        if ca in issuer.lower():
            return ca
    raise MalformedInput(Reason.COLLATERAL_MALFORMED, f"the PCK CRL is of {issuer!r}, which is no PCK CA")


def _platform_of(collateral: Collateral) -> tuple[bytes, int, bytes] | None:
    if collateral.pck_certificate_chain is None:
        return None
    pck = PCKCertificate.parse(parse_pem_chain(collateral.pck_certificate_chain)[0])
    return pck.cpu_svn, pck.pce_svn, pck.pce_id


def _files_of(folder: Path) -> Iterator[Path]:
    """Yield the folder's files in the order of their names."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json" and path.is_file())
    except OSError as error:
        raise Misuse(
            Reason.FILE_UNREADABLE,
            f"the folder of collateral {folder} cannot be read: {error.strerror}",
            hint="check the path and its permissions",
        ) from error
    if len(paths) > MAX_FILES:
        raise Misuse(
            Reason.FILE_UNREADABLE, f"the folder of collateral {folder} holds {len(paths)} files, at most {MAX_FILES}"
        )
    yield from paths
