"""One collateral as a file: everything that verifies the quotes of one platform model, still untrusted.

The file format is the JSON object that dcap-qvl reads and writes: PEM chains leaf-most first, CRLs as hex DER,
the exact signed text of TCB Info and QE identity with their raw signatures as hex r||s. Intel's own structure
(`sgx_ql_qve_collateral_t`) has the same members but the signatures, which are inside of its documents: read as well.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final

from eaa.collateral.intel import SignedMember, split_signed_document
from eaa.errors import MalformedInput, Reason

MAX_COLLATERAL_SIZE: Final = 2 * 1024 * 1024
"""Bytes of a collateral file; real ones have under 32 KiB."""
MAX_DOCUMENT_SIZE: Final = 512 * 1024
"""Bytes of one member."""

_TEXT: Final = ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "tcb_info", "qe_identity_issuer_chain", "qe_identity")
_BEGINNING: Final = 64
"""Characters of a document within which it names its first member."""
_HEX_DIGITS: Final = re.compile(r"(?:[0-9A-Fa-f]{2})*+")
_HEX: Final = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")
_SIGNED: Final[dict[str, SignedMember]] = {"tcb_info": "tcbInfo", "qe_identity": "enclaveIdentity"}
"""The documents, and the member in which Intel serves them with their signature."""


_UPLOADED: Final = frozenset(("platforms", "collaterals"))
"""The members of Intel's platform_collaterals.json, which people mistake for this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collateral:
    """Endorsements of one platform model, as served. Nothing here has been verified."""

    pck_crl_issuer_chain: bytes
    """PEM, the PCK CA first, the root last."""
    root_ca_crl: bytes
    """DER."""
    pck_crl: bytes
    """DER."""
    tcb_info_issuer_chain: bytes
    """PEM, the TCB signing certificate first, the root last."""
    tcb_info: bytes
    """The exact bytes that the signature covers."""
    tcb_info_signature: bytes
    """64 bytes, r||s."""
    qe_identity_issuer_chain: bytes
    """PEM."""
    qe_identity: bytes
    """The exact bytes that the signature covers."""
    qe_identity_signature: bytes
    """64 bytes, r||s."""
    pck_certificate_chain: bytes | None = None
    """PEM, for quotes that do not carry their own chain."""
    _digest: bytes | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 of every byte that verifies the quotes of a platform model, 32 bytes.

        Two collaterals that differ in a byte have different digests, `pck_certificate_chain` apart: that is of one
        platform, and no part of what a model's platforms share. Worked out once for each record; a record never
        changes.
        """
        if self._digest is not None:
            return self._digest
        members: tuple[bytes, ...] = _members_of(self)
        # The sizes in front tell where each begins.
        digest = hashlib.sha256(b"%d:" * len(members) % tuple(map(len, members)) + b"".join(members)).digest()
        object.__setattr__(self, "_digest", digest)
        return digest

    @classmethod
    def from_json(cls, raw: bytes) -> Collateral:
        """Parse a collateral file. Raises MalformedInput (COLLATERAL_MALFORMED)."""
        if len(raw) > MAX_COLLATERAL_SIZE:
            raise _malformed(f"the collateral file has {len(raw)} bytes, the limit is {MAX_COLLATERAL_SIZE}")
        document = _load_object(raw)
        if document.keys() >= _UPLOADED:
            raise _malformed(
                "this is the collateral of many platforms, as a PCCS takes it, and no collateral file",
                hint="`eaa-pccs upload` stores it, and --pccs reads from there; "
                "`eaa simulator collateral DIR --format file` writes a collateral file of a software TEE",
            )
        _take_signatures_out(document)
        values: dict[str, Any] = {name: _text(document, name).encode() for name in _TEXT}
        values.update({name: _hex(document, name) for name in _HEX})
        if document.get("pck_certificate_chain") is not None:
            values["pck_certificate_chain"] = _text(document, "pck_certificate_chain").encode()
        return cls(**values)

    def to_json(self) -> bytes:
        """Return the collateral file, ASCII JSON with a final newline."""
        document = {name: getattr(self, name).decode() for name in _TEXT}
        document.update({name: getattr(self, name).hex() for name in _HEX})
        if self.pck_certificate_chain is not None:
            document["pck_certificate_chain"] = self.pck_certificate_chain.decode()
        return json.dumps(document, indent=1).encode() + b"\n"


_members_of: Final = attrgetter(*_TEXT, *_HEX)
_HINT: Final = 'docs/manual/protocol.md, "Stapled collateral", describes the format'


def _malformed(message: str, *, hint: str = _HINT) -> MalformedInput:
    return MalformedInput(Reason.COLLATERAL_MALFORMED, message, hint=hint)


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise _malformed("the collateral file names a member twice")
    return dict(pairs)


def _load_object(raw: bytes) -> dict[str, Any]:
    try:
        # As text: from bytes, json would take UTF-16 and a byte order mark as well.
        document = json.loads(raw.decode(), object_pairs_hook=_refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise _malformed("the collateral file is not JSON") from error
    if not isinstance(document, dict):
        raise _malformed("the collateral file is not a JSON object")
    return document


def _take_signatures_out(document: dict[str, Any]) -> None:
    """Put documents that hold their signature in the form in which it stands beside them. Raises MalformedInput."""
    for name, member in _SIGNED.items():
        if f"{name}_signature" not in document and f'"{member}"' in _text(document, name)[:_BEGINNING]:
            body, signature = split_signed_document(_text(document, name).encode(), member)
            document |= {name: body.decode(), f"{name}_signature": signature.hex()}


def _text(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str):
        raise _malformed(f"the collateral file has no text member {name}")
    if len(value) > MAX_DOCUMENT_SIZE:
        raise _malformed(f"{name} has {len(value)} characters, the limit is {MAX_DOCUMENT_SIZE}")
    # JSON can spell half of a surrogate pair, which is no text and has no bytes.
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _malformed(f"{name} is not text")
    return value


def _hex(document: dict[str, Any], name: str) -> bytes:
    value = _text(document, name)
    # fromhex alone would skip over whitespace.
    if not _HEX_DIGITS.fullmatch(value):
        raise _malformed(f"{name} is not hex")
    return bytes.fromhex(value)
