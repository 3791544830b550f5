"""Vendor documents one by one: who may sign each, and what of it is signed. No dates, and nothing is looked up.

`eaa.verify.dcap` puts them together for a quote; who keeps and hands them on verifies them one at a time.
"""

from __future__ import annotations

from typing import Final

from eaa.collateral.intel import QEIdentity, TCBInfo
from eaa.collateral.x509 import CRL, Certificate
from eaa.errors import Reason, VerificationError
from eaa.verify.chain import (
    CertificateRole,
    Window,
    new_window,
    raw_signature_is_valid,
    verify_crl,
    verify_issued,
    verify_not_revoked,
    verify_role,
    verify_root,
)

ISSUER_CHAIN_LENGTH: Final = 2
"""Certificates of every issuer chain: who signs, and the root."""
_CHANGED_DOCUMENT: Final = "it was changed after it was signed: fetch it anew, from a PCCS that hands on exact bytes"


def verify_root_crl(root_crl: bytes, *, root: Certificate, is_verified: bool = False) -> CRL:
    """Return the CRL (DER) of a root that the caller has pinned, and that did not revoke itself.

    Args:
        root_crl: DER.
        root: the root.
        is_verified: whether the root was verified to be one before, when it was named as a trust anchor.

    Raises:
        MalformedInput: CRL_MALFORMED.
        VerificationError: CERTIFICATE_ROLE, CERTIFICATE_REVOKED, CRL_ISSUER, CRL_SIGNATURE; of the root too.
    """
    if not is_verified:
        verify_root(root)
    crl = CRL.parse(root_crl)
    verify_crl(crl, issuer=root, name="root CRL")
    # Intel's verifier does not look for the root in its own list. A root that revoked itself is over all the same.
    verify_not_revoked(root, crl=crl)
    return crl


def verify_pck_crl(pck_crl: bytes, *, ca: Certificate) -> CRL:
    """Return the CRL (DER) of a PCK CA that is verified. Raises as `verify_root_crl`."""
    crl = CRL.parse(pck_crl)
    verify_crl(crl, issuer=ca, name="PCK CRL")
    return crl


def require_issuer_chain(count: int, *, what: str) -> None:
    """Raise VerificationError (CERTIFICATE_CHAIN) unless a chain has as many certificates as an issuer chain has."""
    if count != ISSUER_CHAIN_LENGTH:
        raise VerificationError(
            Reason.CERTIFICATE_CHAIN,
            f"the issuer chain of the {what} has {count} certificates; signer and root make {ISSUER_CHAIN_LENGTH}",
            hint="fetch the chain anew, with its root",
        )


def require_same_root(actual: Certificate, pinned: Certificate, *, what: str) -> None:
    """Raise VerificationError (ROOT_UNTRUSTED) unless a chain ends in the very root that is pinned."""
    # Equal bytes, not "trusted as well": else a simulator could vouch for hardware wherever both are trusted.
    if actual != pinned:
        raise VerificationError(
            Reason.ROOT_UNTRUSTED,
            f"the chain of the {what} ends in another root, SHA-256 {actual.fingerprint.hex()}",
            hint="quote and collateral must come from one vendor, or from one simulator",
        )


def verify_issuer(issuer: Certificate, role: CertificateRole, *, root: Certificate, root_crl: CRL) -> None:
    """Raise VerificationError unless a root lets `issuer` do its job: role, issuance, revocation."""
    verify_role(issuer, role)
    verify_issued(issuer, issuer=root)
    verify_not_revoked(issuer, crl=root_crl)


def verify_tcb_info_signature(body: bytes, signature: bytes, *, signer: Certificate) -> TCBInfo:
    """Return TCB Info that a verified signer has signed. Raises TCB_INFO_SIGNATURE, TCB_INFO_MALFORMED."""
    # The signature is checked before the document is read, and over the bytes as served: no second spelling passes.
    if not raw_signature_is_valid(signature, body, signer.public_key):
        raise VerificationError(
            Reason.TCB_INFO_SIGNATURE, f"TCB Info is not signed by {signer.common_name!r}", hint=_CHANGED_DOCUMENT
        )
    return TCBInfo.parse(body)


def verify_identity_signature(body: bytes, signature: bytes, *, signer: Certificate) -> QEIdentity:
    """Return an identity that a verified signer has signed. Raises QE_IDENTITY_SIGNATURE, QE_IDENTITY_MALFORMED."""
    if not raw_signature_is_valid(signature, body, signer.public_key):
        raise VerificationError(
            Reason.QE_IDENTITY_SIGNATURE,
            f"the QE identity is not signed by {signer.common_name!r}",
            hint=_CHANGED_DOCUMENT,
        )
    return QEIdentity.parse(body)


def tcb_info_window(tcb_info: TCBInfo) -> Window:
    """Return when TCB Info is valid."""
    return new_window(
        name="TCB Info",
        not_before=tcb_info.issue_date,
        not_after=tcb_info.next_update,
        too_early=Reason.TCB_INFO_NOT_YET_VALID,
        too_late=Reason.TCB_INFO_EXPIRED,
        is_collateral=True,
    )


def identity_window(identity: QEIdentity, *, name: str = "QE identity") -> Window:
    """Return when an identity is valid."""
    return new_window(
        name=name,
        not_before=identity.issue_date,
        not_after=identity.next_update,
        too_early=Reason.QE_IDENTITY_NOT_YET_VALID,
        too_late=Reason.QE_IDENTITY_EXPIRED,
        is_collateral=True,
    )
