"""RA-TLS certificates: which format, which claims, and whether the quote speaks for the certificate's own key."""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from eaa.errors import EAAError, MalformedInput, Reason
from eaa.evidence.quote import Quote
from eaa.evidence.tagged import PUBKEY_HASH, TaggedEvidence, parse_claims, pubkey_hash_matches
from eaa.shelter.inspect.certificates import (
    LIBRARY_ERRORS,
    certificate_facts,
    certificates_of,
    spki_key_name,
)
from eaa.shelter.inspect.documents import endorsement_facts
from eaa.shelter.inspect.quotes import quote_facts
from eaa.shelter.inspect.result import Facts, Inspection, moment
from eaa.tls.certificate import Format, RATLSCertificate

_ABOUT_EVIDENCE: Final = (Reason.EVIDENCE_MALFORMED, Reason.TEE_TYPE_UNSUPPORTED)


def inspect_certificate(raw: bytes) -> Inspection | None:
    """Explain one certificate, with its evidence where it carries any; or a chain of certificates."""
    found = certificates_of(raw)
    if not found:
        return None
    if len(found) > 1:
        return Inspection(
            format="certificate-chain", facts={"certificates": [certificate_facts(item) for item in found]}
        )
    facts = certificate_facts(found[0])
    is_readable = "unreadable" not in facts
    try:
        certificate = RATLSCertificate.parse(found[0])
    except MalformedInput as error:
        if error.reason in _ABOUT_EVIDENCE:
            return Inspection(format="ra-tls-certificate", facts=facts, problem=error)
        # Version 1 has no room for evidence, and is still a certificate.
        return Inspection(format="certificate", facts=facts, problem=None if is_readable else error)
    if not is_readable:
        facts = _tolerant_facts(certificate, found[0])
    facts["evidence_format"] = certificate.format.value
    if not certificate.has_evidence:
        return Inspection(format="certificate", facts=facts)
    return Inspection(format="ra-tls-certificate", facts=facts | _evidence_facts(certificate))


def _tolerant_facts(certificate: RATLSCertificate, content: bytes) -> Facts:
    """Return what a certificate says that stricter readers refuse, those of 2021 for instance."""
    return {
        "subject": f"CN={certificate.subject}",
        "x509_version": certificate.version,
        "serial_number": f"{certificate.serial_number:x}",
        "not_before": moment(certificate.not_before),
        "not_after": moment(certificate.not_after),
        "key": spki_key_name(certificate.spki_der),
        "sha256": hashlib.sha256(content).hexdigest(),
        "remark": "strict X.509 libraries refuse this certificate",
    }


def _evidence_facts(certificate: RATLSCertificate) -> Facts:
    evidence: list[Facts] = []
    if certificate.tagged is not None:
        evidence.append(_tagged_facts(certificate.tagged, certificate.spki_der))
    if certificate.legacy_quote is not None:
        evidence.append(_legacy_facts(certificate))
    facts: Facts = {"extensions": list(certificate.extension_oids), "evidence": evidence}
    if certificate.unknown_critical:
        facts["unknown_critical_extensions"] = list(certificate.unknown_critical)
    if certificate.endorsements is not None:
        facts["endorsements"] = endorsement_facts(certificate.endorsements)
    return facts


def _tagged_facts(tagged: TaggedEvidence, spki: bytes) -> Facts:
    facts: Facts = {"format": Format.INTEROPERABLE.value, "tag": tagged.tag}
    try:
        claims = parse_claims(tagged.claims, tolerant=True)
        facts["claims"] = {name: value.hex() for name, value in claims.items()}
        claim = claims.get(PUBKEY_HASH)
        facts["claims_name_this_key"] = claim is not None and pubkey_hash_matches(claim, spki)
    except MalformedInput as error:
        facts["claims"] = {"unreadable": error.message}
        facts["claims_name_this_key"] = False
    return facts | quote_and_match(tagged.evidence, {"SHA-256 of the claims": tagged.report_data})


def _legacy_facts(certificate: RATLSCertificate) -> Facts:
    """Explain a bare quote. Its two writers hash the key in two ways, so both are tried."""
    quote = certificate.legacy_quote or b""
    spki = certificate.spki_der
    candidates = {"SHA-256 of the SubjectPublicKeyInfo": _digest(spki)}
    if (pkcs1 := _pkcs1(spki)) is not None:
        candidates["SHA-256 of the PKCS#1 key"] = _digest(pkcs1)
    facts = quote_and_match(quote, candidates)
    is_v1 = facts["report_data_is"] == "SHA-256 of the PKCS#1 key" or certificate.format is Format.ENCLAVE_TLS_V1
    return {"format": (Format.ENCLAVE_TLS_V1 if is_v1 else Format.GRAMINE_LEGACY).value, **facts}


def quote_and_match(raw: bytes, candidates: dict[str, bytes]) -> Facts:
    """Explain a quote, and say which of the candidates its report data is, 64 bytes each by what they are."""
    try:
        quote, trailing = Quote.parse_prefix(raw)
    except EAAError as error:
        return {"report_data_matches": False, "report_data_is": None, "quote": {"unreadable": error.message}}
    matching = [name for name, expected in candidates.items() if expected == quote.body.report_data]
    return {
        "report_data_matches": bool(matching),
        "report_data_is": matching[0] if matching else None,
        "quote": quote_facts(quote, trailing),
    }


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest().ljust(64, b"\0")


def _pkcs1(spki: bytes) -> bytes | None:
    try:
        key = load_der_public_key(spki)
    except LIBRARY_ERRORS:
        return None
    return key.public_bytes(Encoding.DER, PublicFormat.PKCS1) if isinstance(key, rsa.RSAPublicKey) else None
