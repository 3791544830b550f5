"""How new a document is, by what its signer wrote into it: an older one never takes the place of a newer one.

Whoever may upload, or answers in the upstream's place, can repeat what was once signed. Without this comparison a
revoked certificate, or a TCB that has fallen since, would come back with a signature that holds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from eaa.collateral.x509 import CRL
from eaa.errors import MalformedInput, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """What a signed document says of its place among others of its kind."""

    number: int
    """The evaluation number, or a CRL's."""
    issued: datetime
    expires: datetime

    @classmethod
    def of_json(cls, document: bytes) -> Freshness:
        """Read it from `{"tcbInfo":{...},...}` or `{"enclaveIdentity":{...},...}`. Raises MalformedInput."""
        try:
            outer = json.loads(document)
            inner = outer.get("tcbInfo") or outer["enclaveIdentity"]
            return cls(
                number=int(inner["tcbEvaluationDataNumber"]),
                issued=_moment(inner["issueDate"]),
                expires=_moment(inner["nextUpdate"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise MalformedInput(Reason.TCB_INFO_MALFORMED, "a signed document has no number and dates") from error

    @classmethod
    def of_crl(cls, der: bytes) -> Freshness:
        """Read it from a CRL. Raises MalformedInput."""
        crl = CRL.parse(der)
        return cls(number=crl.number, issued=crl.this_update, expires=crl.next_update)

    def is_older_than(self, other: Freshness) -> bool:
        """Whether either the number or the date has gone back."""
        return self.number < other.number or self.issued < other.issued


def newer_crl(one: bytes | None, other: bytes | None) -> bytes | None:
    """Return the newer of two CRLs (DER) of one issuer, the first where they are equal. Raises MalformedInput."""
    if one is None or other is None:
        return other if one is None else one
    return other if Freshness.of_crl(one).is_older_than(Freshness.of_crl(other)) else one


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
