"""PCK certificates from the files of Intel's own tool: all that there is where a configuration says `local_cache_only`.

`pcsclient.py cache` makes one file for each platform on a machine that has a network, and an operator carries it to the
folder into which Intel's library looks. A file is a header (little-endian: version u16, kind u32, end u64 in seconds
since 1970), then four texts, each behind its length (u32): the platform's CPU SVN in hex, its model's SGX TCB Info, the
issuer chain, and a JSON list of certificates, the last two percent-encoded. That end is not looked at: certificates
have one of their own, which the verifier judges.

Source: QuoteGeneration/qcnl (local_cache.h, certification_provider.cpp) and PcsClientTool of Intel SGX DCAP.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from eaa.collateral.intel import COMPONENTS, PCKCertificate
from eaa.collateral.x509 import parse_pem_chain
from eaa.errors import MalformedInput, Reason, Unavailable
from eaa.sources import PCKName
from eaa.sources.selection import TCB, Candidate, Levels, SelectionError, select

MAX_CACHE_FILE: Final = 4 * 1024 * 1024
"""Bytes."""
FOLDER: Final = ".dcap-qcnl"
ANY_PLATFORM: Final = "0000000000000000_0000"
"""The file that serves a platform which has none of its own."""
_HEADER: Final = struct.Struct("<HIQ")
"""Version, kind, end."""
_LENGTH: Final = struct.Struct("<I")
_TEXTS: Final = 4
_NOT_AVAILABLE: Final = "not available"


def default_cache_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder that Intel's library uses: below the first of these variables that is set, else below /tmp."""
    named = (environ.get(name) for name in ("AZDCAP_CACHE", "XDG_CACHE_HOME", "HOME", "TMPDIR"))
    return Path(next(filter(None, named), "/tmp")) / FOLDER  # noqa: S108  Intel's own choice; it is only read


def read_pck_chain(folder: Path, name: PCKName) -> bytes:
    """Return a platform's PCK certificate for its TCB with its issuers: PEM, unverified.

    Args:
        folder: where the files lie.
        name: the platform. It is told to nobody: neither are file names.

    Raises:
        Unavailable: COLLATERAL_NOT_FOUND, there is no file, it is broken, or no certificate in it fits.
    """
    raw = _read(folder, name)
    try:
        cpu_svn, tcb_info, chain, entries = _texts(raw[_HEADER.size :])
        candidates = [_candidate(entry) for entry in json.loads(entries) if entry["cert"].lower() != _NOT_AVAILABLE]
        best = select(
            TCB(_components(cpu_svn), name.pce_svn),
            candidates,
            pce_id=name.pce_id.hex().upper(),
            levels=Levels.parse(tcb_info),
        )
    except SelectionError as error:
        raise _missing(folder, f"no certificate of this platform fits: {error}") from error
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError, MalformedInput) as error:
        raise _missing(folder, "the file of this platform is none that Intel's tool makes") from error
    return best.pem.encode("ascii").rstrip() + b"\n" + unquote_to_bytes(chain)


def _read(folder: Path, name: PCKName) -> bytes:
    for file in (f"{name.qe_id.hex()}_{name.pce_id.hex()}", ANY_PLATFORM):
        try:
            with (folder / file).open("rb") as stream:
                raw = stream.read(MAX_CACHE_FILE + 1)
        except OSError:
            continue
        if len(raw) <= MAX_CACHE_FILE:
            return raw
    raise _missing(folder, "there is no file for this platform")


def _texts(raw: bytes) -> Iterator[bytes]:
    at = 0
    for _ in range(_TEXTS):
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if length > len(raw) - at:
            raise ValueError("a text is cut off")
        yield raw[at : at + length]
        at += length


def _components(cpu_svn: bytes) -> tuple[int, ...]:
    found = tuple(bytes.fromhex(cpu_svn.decode("ascii")))
    if len(found) != COMPONENTS:
        raise ValueError("a CPU SVN has 16 components")
    return found


def _candidate(entry: Mapping[str, Any]) -> Candidate:
    pem = unquote_to_bytes(entry["cert"])
    (der,) = parse_pem_chain(pem, maximum=1)
    return Candidate(tcbm=entry["tcbm"].upper(), pem=pem.decode("ascii"), certificate=PCKCertificate.parse(der))


def _missing(folder: Path, why: str) -> Unavailable:
    return Unavailable(
        Reason.COLLATERAL_NOT_FOUND,
        f"the quote provider configuration says local_cache_only, and in {folder} {why}",
        hint="put the file there that Intel's `pcsclient.py cache` makes of this platform, let the quoting host put "
        "its PCK chain into its quotes, or set local_cache_only to false",
    )
