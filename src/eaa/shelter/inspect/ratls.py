"""RA-TLS certificates: which format, which claims, and whether the quote speaks for the certificate's own key."""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from eaa.errors import EAAError, MalformedInput
from eaa.evidence.quote import Quote
from eaa.evidence.tagged import PUBKEY_HASH, Endorsements, TaggedEvidence, parse_claims, pubkey_hash_matches
from eaa.shelter.inspect.certificates import (
    LIBRARY_ERRORS,
    certificate_facts,
    certificates_of,
    spki_key_name,
)
from eaa.shelter.inspect.documents import endorsement_facts
from eaa.shelter.inspect.quotes import quote_facts
from eaa.shelter.inspect.result import Facts, Inspection, moment
from eaa.tls.certificate import (
    ENDORSEMENTS_OID,
    EVIDENCE_OID,
    LEGACY_QUOTE_OID,
    Format,
    RATLSCertificate,
)

_OURS: Final = frozenset({EVIDENCE_OID, ENDORSEMENTS_OID, LEGACY_QUOTE_OID})


def inspect_ratls_certificate(raw: bytes) -> Inspection | None:
    """Explain a certificate that carries evidence, or one that only a tolerant reader can read."""
    found = certificates_of(raw)
    if len(found) != 1:
        return None
    facts = certificate_facts(found[0])
    try:
        certificate = RATLSCertificate.parse(found[0])
    except MalformedInput as error:
        # Where the strict library reads it, and no evidence is in it, it is a certificate like any other.
        mentions_evidence = any(_encoded(oid) in found[0] for oid in _OURS)
        return Inspection(format="ra-tls-certificate", facts=facts, problem=error) if mentions_evidence else None
    if not certificate.has_evidence:
        return _without_evidence(certificate, facts)
    return Inspection(format="ra-tls-certificate", facts=_own_facts(certificate, facts) | _evidence_facts(certificate))
