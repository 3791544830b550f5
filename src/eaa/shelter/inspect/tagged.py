"""Evidence and endorsements as CBOR, as certificates and messages carry them, cut out of both."""

from __future__ import annotations

from typing import Final

from eaa.errors import MalformedInput
from eaa.evidence.tagged import Endorsements, TaggedEvidence, parse_claims
from eaa.shelter.inspect.documents import endorsement_facts
from eaa.shelter.inspect.ratls import quote_and_match
from eaa.shelter.inspect.result import Facts, Inspection

_TAG_SIZE: Final = 3
_TAGS: Final = b"\xd9\xea"
"""How CBOR's tags from 59904 on begin: 60000 for what is read here, and those after it for evidence of other kinds."""
_ENDORSEMENTS: Final = frozenset(range(0x88, 0x8A))
"""Arrays of a version and seven or eight members; evidence is an array of two."""


def inspect_tagged(raw: bytes) -> Inspection | None:
    """Explain tagged evidence or endorsements."""
    if not raw.startswith(_TAGS) or len(raw) <= _TAG_SIZE:
        return None
    return _endorsements(raw) if raw[_TAG_SIZE] in _ENDORSEMENTS else _evidence(raw)


def _endorsements(raw: bytes) -> Inspection:
    try:
        return Inspection(format="endorsements", facts=endorsement_facts(Endorsements.parse(raw)))
    except MalformedInput as error:
        return Inspection(format="endorsements", problem=error)


def _evidence(raw: bytes) -> Inspection:
    try:
        tagged = TaggedEvidence.parse_certificate_extension(raw)
    except MalformedInput as error:
        return Inspection(format="tagged-evidence", problem=error)
    facts: Facts = {"tag": tagged.tag}
    try:
        claims = parse_claims(tagged.claims, tolerant=True)
        facts["claims"] = {name: value.hex() for name, value in claims.items()}
    except MalformedInput as error:
        facts["claims"] = {"unreadable": error.message}
    facts |= quote_and_match(tagged.evidence, {"SHA-256 of the claims": tagged.report_data})
    return Inspection(format="tagged-evidence", facts=facts)
