"""Vendor documents one by one, verified for those who keep and pass them on, and judge no quote with them.

Each function establishes who signed, under a root that is trusted, and that nobody on the way was revoked. Dates are a
question of their own, asked of the result: a keeper asks them again whenever it serves a document.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from eaa.collateral.intel import PCKCertificate, QEIdentity, TCBInfo, split_signed_document
from eaa.collateral.x509 import CRL, Certificate, parse_pem_chain
from eaa.verify import documents
from eaa.verify.chain import (
    PCK,
    PCK_CA,
    TCB_SIGNER,
    CertificateRole,
    TrustAnchors,
    Window,
    certificate_window,
    crl_window,
    pin_root,
    verify_dates,
    verify_issued,
    verify_not_revoked,
    verify_role,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedDocument:
    """Something whose signatures hold; whether its time has come, or gone, is asked with `require_current`."""

    windows: tuple[Window, ...] = field(repr=False)
    """When the document and each certificate above it are valid."""

    @property
    def expires(self) -> datetime:
        """The first moment at which a part of it is over; valid up to and including it."""
        return min(window.not_after for window in self.windows)

    def require_current(self, *, now: datetime) -> None:
        """Raise VerificationError with the reason of the first part that is not valid at `now`."""
        verify_dates(self.windows, now=now, grace=timedelta(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedRoot(VerifiedDocument):
    """A trusted root and its own CRL."""

    root: Certificate
    crl: CRL


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedCA(VerifiedDocument):
    """A PCK CA below a trusted root, and its CRL."""

    ca: Certificate
    crl: CRL


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedTCBInfo(VerifiedDocument):
    """TCB Info and what it says."""

    tcb_info: TCBInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedIdentity(VerifiedDocument):
    """An enclave's identity and what it says."""

    identity: QEIdentity


def verify_root_crl(root: Certificate, root_crl: bytes, *, trust_anchors: TrustAnchors) -> VerifiedRoot:
    """Verify a root and its CRL (DER).

    Raises:
        VerificationError: ROOT_UNTRUSTED, CERTIFICATE_ROLE, CRL_ISSUER, CRL_SIGNATURE, CERTIFICATE_REVOKED.
        MalformedInput: CRL_MALFORMED.
    """
    pin_root(root, trust_anchors)
    crl = documents.verify_root_crl(root_crl, root=root)
    windows = (crl_window(crl, name="root CRL"), certificate_window(root, name="root certificate"))
    return VerifiedRoot(windows=windows, root=root, crl=crl)


def verify_ca_chain(issuer_chain: bytes, *, root: VerifiedRoot) -> VerifiedDocument:
    """Verify the chain (PEM, the root last) of a PCK CA. Raises VerificationError or MalformedInput."""
    ca = _issuer(issuer_chain, PCK_CA, root=root, what="PCK CA")
    return VerifiedDocument(windows=_windows(ca, root, name="PCK CA certificate"))


def verify_signer_chain(issuer_chain: bytes, *, root: VerifiedRoot) -> VerifiedDocument:
    """Verify the chain (PEM, the root last) of who signs TCB Info or identities. Raises as `verify_ca_chain`."""
    signer = _issuer(issuer_chain, TCB_SIGNER, root=root, what="TCB signer")
    return VerifiedDocument(windows=_windows(signer, root, name="TCB signing certificate"))


def verify_pck_crl(pck_crl: bytes, issuer_chain: bytes, *, root: VerifiedRoot) -> VerifiedCA:
    """Verify the CRL (DER) of a PCK CA under its chain (PEM, the root last). Raises as `verify_root_crl`."""
    ca = _issuer(issuer_chain, PCK_CA, root=root, what="PCK CRL")
    crl = documents.verify_pck_crl(pck_crl, ca=ca)
    windows = (crl_window(crl, name="PCK CRL"), *_windows(ca, root, name="PCK CRL issuer certificate"))
    return VerifiedCA(windows=windows, ca=ca, crl=crl)


def verify_pck_certificate(der: bytes, *, ca: VerifiedCA, root: VerifiedRoot) -> VerifiedDocument:
    """Verify a PCK certificate under its CA. Raises VerificationError, or MalformedInput for what is none."""
    certificate = PCKCertificate.parse(der).record
    verify_role(certificate, PCK)
    verify_issued(certificate, issuer=ca.ca)
    verify_not_revoked(certificate, crl=ca.crl)
    own = certificate_window(certificate, name="PCK certificate")
    return VerifiedDocument(windows=(own, *_windows(ca.ca, root, name="PCK CA certificate")))


def verify_tcb_info(document: bytes, issuer_chain: bytes, *, root: VerifiedRoot) -> VerifiedTCBInfo:
    """Verify `{"tcbInfo":{...},"signature":"..."}` under its chain (PEM, the root last).

    Raises:
        VerificationError: TCB_INFO_SIGNATURE, or as `verify_root_crl` of the chain.
        MalformedInput: TCB_INFO_MALFORMED.
    """
    signer = _issuer(issuer_chain, TCB_SIGNER, root=root, what="TCB Info")
    info = documents.verify_tcb_info_signature(*split_signed_document(document, "tcbInfo"), signer=signer)
    windows = (documents.tcb_info_window(info), *_windows(signer, root, name="TCB Info signing certificate"))
    return VerifiedTCBInfo(windows=windows, tcb_info=info)


def verify_identity(document: bytes, issuer_chain: bytes, *, root: VerifiedRoot) -> VerifiedIdentity:
    """Verify `{"enclaveIdentity":{...},"signature":"..."}` under its chain (PEM, the root last).

    Raises:
        VerificationError: QE_IDENTITY_SIGNATURE, or as `verify_root_crl` of the chain.
        MalformedInput: QE_IDENTITY_MALFORMED.
    """
    signer = _issuer(issuer_chain, TCB_SIGNER, root=root, what="identity")
    found = documents.verify_identity_signature(*split_signed_document(document, "enclaveIdentity"), signer=signer)
    own = documents.identity_window(found, name=f"{found.id} identity")
    windows = (own, *_windows(signer, root, name="identity signing certificate"))
    return VerifiedIdentity(windows=windows, identity=found)


def _issuer(chain: bytes, role: CertificateRole, *, root: VerifiedRoot, what: str) -> Certificate:
    """Return who issued, after verifying that it may and that `root`, to the last bit, says so."""
    certificates = [Certificate.parse(der) for der in parse_pem_chain(chain)]
    documents.require_issuer_chain(len(certificates), what=what)
    issuer, its_root = certificates
    documents.require_same_root(its_root, root.root, what=what)
    documents.verify_issuer(issuer, role, root=root.root, root_crl=root.crl)
    return issuer


def _windows(issuer: Certificate, root: VerifiedRoot, *, name: str) -> tuple[Window, ...]:
    return (certificate_window(issuer, name=name), certificate_window(root.root, name="root certificate"))
