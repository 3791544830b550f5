"""Collateral carried from one cache to another by hand: out as a bundle or in Intel's form, and in again, verified."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import IO, Any, Final

from eaa.errors import EAAError, MalformedInput, Misuse, Reason, VerificationError
from eaa.pccs.admission import admit
from eaa.pccs.bundle import PrivateKey, PublicKey, read_bundle, write_bundle
from eaa.pccs.intel_form import write_platform_collaterals
from eaa.pccs.parts import MAX_PART, decode_part, encode_part, encode_policies
from eaa.pccs.records import Carried
from eaa.pccs.store import Store
from eaa.pccs.uploads import Upload, parse_upload
from eaa.pccs.wire import Refusal, Status
from eaa.verifier import TrustAnchors

POLICIES: Final = 100
"""Appraisal policies of one part."""
_TEE: Final = "SGX"


def roots_of(store: Store, prefix: str) -> tuple[str, ...]:
    """Return the PKIs in a store whose root's fingerprint begins so. Raises Misuse where there is none."""
    found = tuple(pki.root for pki in store.pkis() if pki.root.startswith(prefix.lower()))
    if not found:
        what = f"whose root begins with {prefix}" if prefix else "at all"
        raise Misuse(
            Reason.COLLATERAL_NOT_FOUND, f"the database has no collateral {what}", hint="`eaa-pccs check` lists it"
        )
    return found


def export_bundle(store: Store, stream: IO[bytes], *, roots: tuple[str, ...], key: PrivateKey, scratch: Path) -> int:
    """Write everything of these PKIs, and where they are all there are, appraisal policies; return how many parts.

    Args:
        store: what is written; no more of it than one part is in memory at once.
        stream: binary.
        roots: fingerprints, hex.
        key: signs it.
        scratch: a folder with room for all of it once more: a bundle begins with what its parts have to be.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".eaa-pccs-") as folder:
        parts: list[Path] = []
        for raw in _parts(store, roots):
            parts.append(Path(folder) / str(len(parts)))
            parts[-1].write_bytes(raw)
        write_bundle(stream, parts, key)
    return len(parts)


def _parts(store: Store, roots: tuple[str, ...]) -> Iterator[bytes]:
    for upload in _in_order(store, roots):
        yield from _small_enough(upload)
    policies = store.all_policies() if {pki.root for pki in store.pkis()} == set(roots) else []
    for start in range(0, len(policies), POLICIES):
        yield encode_policies(policies[start : start + POLICIES])


def _small_enough(upload: Upload) -> Iterator[bytes]:
    """Yield an upload as parts that are taken in again, halved as often as it takes."""
    raw, half = encode_part(upload), len(upload.platforms) // 2
    if len(raw) <= MAX_PART or not half:
        yield raw
        return
    for platforms in (upload.platforms[:half], upload.platforms[half:]):
        yield from _small_enough(replace(upload, platforms=platforms))


def _in_order(store: Store, roots: tuple[str, ...]) -> Iterator[Upload]:
    """Yield the contents of PKIs, in an order that depends on nothing else, the default one last: so it stays that."""
    default = [pki.root for pki in store.pkis() if pki.is_default]
    for root in sorted(roots, key=lambda each: (each in default, each)):
        found = iter(store.contents(root))
        yield next(found)
        documents: list[Upload] = []
        for upload in found:
            if upload.platforms:
                found = chain((upload,), found)
                break
            documents.append(upload)
        yield from sorted(documents, key=encode_part)
        yield from found


def export_intel_form(store: Store, stream: IO[bytes], *, root: str, scratch: Path) -> None:
    """Write platform_collaterals.json of one PKI; `scratch` is a folder with room for its certificates once more."""
    with tempfile.TemporaryFile(dir=scratch) as later:
        write_platform_collaterals(stream, store.contents(root), later=later)


def import_bundle(
    stream: IO[bytes], store: Store, *, key: PublicKey, trust_anchors: TrustAnchors, now: datetime
) -> Carried:
    """Store what is in a bundle. What does not verify is refused, and the rest stored.

    It is read twice: nothing is stored of one that is cut off or changed anywhere.

    Raises:
        MalformedInput, VerificationError: it is no bundle, or not signed by this key; see `read_bundle`.
    """
    begin = stream.tell()
    for _ in read_bundle(stream, key=key):
        pass
    stream.seek(begin)
    carried, levels = Carried(), _KnownLevels(store)
    for raw in read_bundle(stream, key=key):
        part = decode_part(raw, levels=levels.known)
        if isinstance(part, Upload):
            levels.learn(part)
            _admit(part, store, carried, trust_anchors=trust_anchors, now=now)
            continue
        for policy in part:
            store.put_policy(policy, now=now)
            carried.policies += 1
    return carried


def import_intel_form(body: bytes, store: Store, *, trust_anchors: TrustAnchors, now: datetime) -> Carried:
    """Store platform_collaterals.json, whole or not at all.

    Raises:
        MalformedInput, VerificationError: it does not hang together, or does not verify.
    """
    try:
        stored = admit(parse_upload(body, api_version=4), store, trust_anchors=trust_anchors, now=now)
    except Refusal as refusal:
        raise error_of(refusal) from refusal
    return Carried(
        documents=stored.tcb_infos + stored.identities, platforms=stored.platforms, kept_newer=stored.kept_newer
    )


def error_of(refusal: Refusal) -> EAAError:
    """Return what a refusal is where no client waits for a status."""
    kind = VerificationError if refusal.status is Status.INTEGRITY_ERROR else MalformedInput
    return kind(
        Reason.COLLATERAL_MALFORMED,
        f"the collateral is refused: {refusal.cause}",
        hint="--trust-anchor names a root other than Intel's; what is past its time has to be fetched anew",
    )


def _admit(upload: Upload, store: Store, carried: Carried, *, trust_anchors: TrustAnchors, now: datetime) -> None:
    try:
        stored = admit(upload, store, trust_anchors=trust_anchors, now=now)
    except Refusal as refusal:
        carried.refused.append(refusal.cause)
        return
    carried.documents += stored.tcb_infos + stored.identities + len(upload.pck_crls) + (upload.root_crl is not None)
    carried.platforms += stored.platforms
    carried.kept_newer += stored.kept_newer


class _KnownLevels:
    """By which TCB levels certificates are chosen: those that have passed by, or are in the store."""

    def __init__(self, store: Store) -> None:
        self.known: dict[str, dict[str, Any]] = {}
        for document in store.catalogue():
            key = document.key
            if (key.kind, key.tee, key.api_version) == ("TCB_INFO", _TEE, 4):
                self._add(key.name, key.update_type, document.body)

    def learn(self, upload: Upload) -> None:
        """Take what an upload brings."""
        for document in upload.tcb_infos if upload.api_version == 4 else ():
            if document.tee == _TEE:
                self._add(document.name, document.update, document.text)

    def _add(self, fmspc: str, update: str, text: bytes) -> None:
        if update == "EARLY" or fmspc not in self.known:
            try:
                self.known[fmspc] = json.loads(text)["tcbInfo"]
            except (ValueError, KeyError, TypeError, RecursionError):
                # It is refused when it is verified, and says why.
                return
