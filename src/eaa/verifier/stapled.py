"""Collateral that a peer brings along, and what it has to be better than.

A vendor signs collateral, so an untrusted peer may carry it. What a peer could do is choose: an older TCB Info, by
which its platform is still up to date, or an older CRL, in which its certificate does not stand yet, while their
signatures hold and their dates have not come. So a verifier keeps the highest number and the latest date of every
document that it has verified, whoever brought it, and uses what a peer brings only where nothing in it is behind.

Documents are compared each with its own kind: the root's CRL is the same one for all platforms, a PCK CRL for all of
its CA, the identity of a quoting enclave for all of a kind of TEE. A peer on a model that is seen for the first time
cannot bring an older CRL than the one that came with another model. What there is nothing to compare with is not used
either, unless an operator takes that upon himself.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, NamedTuple

from eaa.collateral.bundle import Collateral
from eaa.errors import MalformedInput, Reason, VerificationError
from eaa.verifier.platforms import Model
from eaa.verify.cache import VerificationCache
from eaa.verify.dcap import VerifiedCollateral

MAX_STAPLED_SIZE: Final = 96 * 1024
"""Bytes of a stapled collateral file; real ones have under 32 KiB."""
STAPLES_REMEMBERED: Final = 16
"""Stapled collateral files that are not parsed again."""
MAX_MARKS: Final = 4096
"""Documents whose numbers are remembered; a vendor has a few for each of some hundred platform models."""
_TEE_IDS: Final = {0x00: "SGX", 0x81: "TDX"}

Document = tuple[str, bytes]
"""A kind of document, and what tells those of a kind apart."""


class Mark(NamedTuple):
    """How new a document is."""

    number: int
    """Evaluation number or CRL number."""
    issued: datetime

    def reaches(self, other: Mark) -> bool:
        """Whether this is behind the other in nothing."""
        return self.number >= other.number and self.issued >= other.issued

    def raised_to(self, other: Mark) -> Mark:
        """Return what reaches both."""
        return Mark(max(self.number, other.number), max(self.issued, other.issued))


def marks_of(documents: VerifiedCollateral) -> dict[Document, Mark]:
    """Return how new each document of a verified collateral is."""
    lists, info, identity = documents.lists, documents.tcb_info, documents.qe_identity
    root = lists.root.fingerprint
    ca = hashlib.sha256(lists.pck_ca.spki).digest()
    return {
        ("root CRL", root): Mark(lists.root_crl.number, lists.root_crl.this_update),
        ("PCK CRL", root + ca): Mark(lists.pck_crl.number, lists.pck_crl.this_update),
        (f"{info.id} TCB Info", root + info.fmspc): Mark(info.tcb_evaluation_data_number, info.issue_date),
        (f"{identity.id} identity", root): Mark(identity.tcb_evaluation_data_number, identity.issue_date),
    }


class HighWaterMarks:
    """The highest number and the latest date of every document that was verified. They only rise. Thread-safe."""

    def __init__(self) -> None:
        self._marks: dict[Document, Mark] = {}
        self._guard = threading.Lock()

    def raise_to(self, marks: Mapping[Document, Mark]) -> None:
        """Remember what was verified."""
        with self._guard:
            for document, mark in marks.items():
                known = self._marks.pop(document, None)
                self._marks[document] = mark if known is None else known.raised_to(mark)
            while len(self._marks) > MAX_MARKS:
                del self._marks[next(iter(self._marks))]

    def behind(self, marks: Mapping[Document, Mark]) -> list[str]:
        """Return the kinds of document that are behind what was verified before."""
        known = self._marks
        return [document[0] for document, mark in marks.items() if not mark.reaches(known.get(document, mark))]

    def unknown(self, marks: Mapping[Document, Mark]) -> list[str]:
        """Return the kinds of document of which none was verified before, so that there is nothing to compare with."""
        return [document[0] for document in marks if document not in self._marks]


@dataclass(frozen=True, slots=True, kw_only=True)
class Staple:
    """A peer's collateral whose signatures and dates hold: the vendor's word, and perhaps not his last."""

    collateral: Collateral
    documents: VerifiedCollateral
    marks: Mapping[Document, Mark]


@functools.lru_cache(maxsize=STAPLES_REMEMBERED)
def parse_staple(raw: bytes) -> Collateral:
    """Parse what a peer has stapled; peers of one fleet staple the same, so the last few are not parsed again.

    Raises:
        MalformedInput: COLLATERAL_MALFORMED.
    """
    if len(raw) > MAX_STAPLED_SIZE:
        raise MalformedInput(
            Reason.COLLATERAL_MALFORMED, f"stapled collateral has {len(raw)} bytes, at most {MAX_STAPLED_SIZE} are read"
        )
    # A PCK certificate is no part of what a model's platforms share, and comes from where all others come from.
    return replace(Collateral.from_json(raw), pck_certificate_chain=None)


def verify_staple(collateral: Collateral, *, model: Model, cache: VerificationCache, now: datetime) -> Staple:
    """Verify what a peer has stapled for its own platform model. There is no grace for it.

    Raises:
        MalformedInput, VerificationError: it is no collateral, not the vendor's, not valid now, or for another model.
    """
    documents = cache.verify_collateral(collateral, now=now)
    info, ca = documents.tcb_info, documents.lists.pck_ca.common_name
    if (info.id, info.fmspc) != (_TEE_IDS.get(model.tee), model.fmspc) or model.ca not in ca.lower():
        raise VerificationError(
            Reason.TCB_INFO_MISMATCH,
            f"stapled collateral is for {info.id} {info.fmspc.hex()} under {ca!r}, the evidence is of {model}",
        )
    return Staple(collateral=collateral, documents=documents, marks=marks_of(documents))
