"""Who may vouch for what: pinned roots, certificate roles, issuance, CRLs, signatures and dates.

Each function establishes one thing or raises, and none of them looks anything up: certificates are compared by their
bytes, never by issuer and serial, because Intel has issued different certificates under one serial.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from eaa import der
from eaa.collateral.x509 import CRL, Certificate, parse_pem_chain
from eaa.errors import MalformedInput, Misuse, Reason, VerificationError
from eaa.records import quick

INTEL_ROOTS: Final = frozenset(
    {bytes.fromhex("44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3")}  # Intel SGX Root CA, 2018-2049
)
"""SHA-256 of the DER of each root that Intel has published."""
_EARLIER_INTEL_ROOT: Final = bytes.fromhex("fc64f8076d79a4fee9d1d473d74c89eb8d8fd55c5abafeabeba7366d20429404")
"""That root's first certificate: key, name and serial are the same, and it ends in 2033. Chains until 2020 have it.

No anchor: whoever shows evidence could change the one for the other in every chain, and what is remembered of one root,
a floor below evaluation numbers for instance, would not hold under the other.
"""

_P256_ORDER: Final = bytes.fromhex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551")
_ZERO: Final = bytes(32)
_ECDSA_OF_SHA256: Final = ECDSA(Prehashed(SHA256()))
_FINGERPRINT_SIZE: Final = 32
_CA_USAGE: Final = frozenset({"keyCertSign", "cRLSign"})
_MAX_ANCHORS: Final = 64
_FETCH_CHAIN: Final = "they do not belong together: fetch the chain anew, or take the quote as it was made"
_FORGED: Final = "it was changed or forged: trust nothing that rests on it, and fetch it anew"


@dataclass(frozen=True, slots=True)
class TrustAnchors:
    """The roots that a verifier believes, by the SHA-256 of their DER."""

    fingerprints: frozenset[bytes]
    roots: tuple[Certificate, ...] = field(default=(), init=False, compare=False, repr=False)
    """Those of them that were read, and verified to be roots, when they were named; `from_pem` does so."""

    def __post_init__(self) -> None:
        if not self.fingerprints:
            raise Misuse(Reason.TRUST_ANCHOR_INVALID, "no trust anchor is given, so nothing could be verified")
        if any(len(fingerprint) != _FINGERPRINT_SIZE for fingerprint in self.fingerprints):
            raise Misuse(Reason.TRUST_ANCHOR_INVALID, "a trust anchor is named by the 32 bytes of a SHA-256")

    @classmethod
    def from_pem(cls, pem: bytes) -> TrustAnchors:
        """Trust every certificate of a PEM file. Raises Misuse (TRUST_ANCHOR_INVALID) unless all are roots."""
        try:
            roots = [Certificate.parse(raw) for raw in parse_pem_chain(pem, maximum=_MAX_ANCHORS)]
            for root in roots:
                verify_root(root)
        except (MalformedInput, VerificationError) as error:
            raise Misuse(
                Reason.TRUST_ANCHOR_INVALID,
                f"the trust anchor is no root certificate: {error.message}",
                hint="name the root.pem of a simulator directory, or the vendor's root certificate in PEM",
            ) from error
        anchors = cls(frozenset(root.fingerprint for root in roots))
        object.__setattr__(anchors, "roots", tuple(roots))
        return anchors

    def trusts(self, root: Certificate) -> bool:
        """Whether `root` is one of these anchors."""
        return root.fingerprint in self.fingerprints

    @staticmethod
    def is_vendor(fingerprint: bytes) -> bool:
        """Whether the fingerprint is of a vendor's root; evidence under any other root is simulated."""
        return fingerprint in INTEL_ROOTS


INTEL: Final = TrustAnchors(INTEL_ROOTS)
"""What a verifier believes unless its operator says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRole:
    """What a certificate of Intel's PKI must look like to do its job; one that fits a role fits no other."""

    name: str
    phrases: tuple[str, ...]
    """One of them stands in the common name."""
    is_ca: bool
    minimum_path_length: int = 0
    carries_sgx_extension: bool = False


ROOT: Final = CertificateRole(name="root", phrases=("SGX Root CA",), is_ca=True, minimum_path_length=1)
PCK_CA: Final = CertificateRole(name="PCK CA", phrases=("SGX PCK Processor CA", "SGX PCK Platform CA"), is_ca=True)
PCK: Final = CertificateRole(name="PCK", phrases=("SGX PCK Certificate",), is_ca=False, carries_sgx_extension=True)
TCB_SIGNER: Final = CertificateRole(name="TCB signing", phrases=("SGX TCB Signing",), is_ca=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """When one document is valid, both ends included, and what to raise outside."""

    name: str
    not_before: datetime
    not_after: datetime
    too_early: Reason
    too_late: Reason
    is_collateral: bool
    """Whether a grace period may extend it. Certificates have none."""


new_window: Final = quick(Window)
"""Makes one."""


def certificate_window(certificate: Certificate, *, name: str) -> Window:
    """Return when a certificate is valid."""
    return new_window(
        name=name,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        too_early=Reason.CERTIFICATE_NOT_YET_VALID,
        too_late=Reason.CERTIFICATE_EXPIRED,
        is_collateral=False,
    )


def crl_window(crl: CRL, *, name: str) -> Window:
    """Return when a CRL is valid."""
    return new_window(
        name=name,
        not_before=crl.this_update,
        not_after=crl.next_update,
        too_early=Reason.CRL_NOT_YET_VALID,
        too_late=Reason.CRL_EXPIRED,
        is_collateral=True,
    )


def verify_dates(windows: Iterable[Window], *, now: datetime, grace: timedelta) -> None:
    """Raise VerificationError with the window's own reason where `now` lies outside one of them.

    `grace` extends collateral only, and only at its end.
    """
    for window in windows:
        if now < window.not_before:
            raise VerificationError(
                window.too_early,
                f"the {window.name} is valid only from {_minute(window.not_before)}, checked at {_minute(now)}",
                hint="check this machine's clock",
            )
        allowed = grace if window.is_collateral else timedelta(0)
        # A difference cannot overflow as a date in the year 9999 plus a grace would.
        if now - window.not_after > allowed:
            raise VerificationError(
                window.too_late,
                f"the {window.name} expired at {_minute(window.not_after)}, checked at {_minute(now)}",
                hint="refresh the PCCS cache, or check this machine's clock"
                if window.is_collateral
                else "get a platform and collateral with current certificates, or check this machine's clock",
            )


def pin_root(root: Certificate, trust_anchors: TrustAnchors) -> None:
    """Raise VerificationError (ROOT_UNTRUSTED) unless `root` is an anchor."""
    if not trust_anchors.trusts(root):
        raise VerificationError(
            Reason.ROOT_UNTRUSTED,
            f"the chain ends in a root that is no trust anchor here: {root.common_name!r}, "
            f"SHA-256 {root.fingerprint.hex()}",
            hint="this is an earlier certificate of Intel's root: have the quoting host renew its PCK certificate chain"
            if root.fingerprint == _EARLIER_INTEL_ROOT
            else "a simulated platform is trusted only where its root.pem is named as trust anchor",
        )


def verify_root(root: Certificate) -> None:
    """Raise VerificationError unless `root` has the role of a root and signed itself."""
    verify_role(root, ROOT)
    # A vendor's root is known to the last bit. That it signed itself is as well, and no longer a question.
    if root.fingerprint not in INTEL_ROOTS:
        verify_issued(root, issuer=root)


def verify_role(certificate: Certificate, role: CertificateRole) -> None:
    """Raise VerificationError (CERTIFICATE_ROLE) unless the certificate may do this job.

    Without this, whoever extracts the key of one PCK certificate could sign TCB Info that calls every platform
    up to date.
    """
    problem = _role_problem(certificate, role)
    if problem is not None:
        raise VerificationError(
            Reason.CERTIFICATE_ROLE,
            f"the certificate {certificate.common_name!r} cannot be a {role.name} certificate: {problem}",
            hint=_FETCH_CHAIN,
        )


def _role_problem(certificate: Certificate, role: CertificateRole) -> str | None:
    """Return the first thing that speaks against the role."""
    usage = certificate.key_usage or frozenset()
    usage_fits = usage >= _CA_USAGE if role.is_ca else "digitalSignature" in usage and not usage & _CA_USAGE
    path_fits = certificate.path_length is None or certificate.path_length >= role.minimum_path_length
    has_extension = certificate.sgx_extension is not None
    if not [phrase for phrase in role.phrases if phrase in certificate.common_name]:
        return f"its common name does not say {' or '.join(role.phrases)}"
    if certificate.is_ca is not role.is_ca or not path_fits:
        return "its basicConstraints do not allow that"
    if not usage_fits:
        return "its keyUsage does not allow that"
    if certificate.subject_key_id is None:
        return "it has no subject key identifier"
    if has_extension is not role.carries_sgx_extension:
        return "it carries the SGX extension" if has_extension else "it lacks the SGX extension"
    return None


def verify_issued(certificate: Certificate, *, issuer: Certificate) -> None:
    """Raise VerificationError unless `issuer` issued `certificate`: by name, by key identifier and by signature.

    The three are separate on purpose: a name or key identifier that fits never replaces the signature.
    """
    if certificate.issuer != issuer.subject:
        raise VerificationError(
            Reason.CERTIFICATE_CHAIN,
            f"{certificate.common_name!r} names {certificate.issuer_common_name!r} as its issuer, "
            f"the chain offers {issuer.common_name!r}",
            hint=_FETCH_CHAIN,
        )
    if not certificate.authority_key_id or certificate.authority_key_id != issuer.subject_key_id:
        raise VerificationError(
            Reason.CERTIFICATE_CHAIN,
            f"{certificate.common_name!r} does not carry the key identifier of {issuer.common_name!r}",
            hint=_FETCH_CHAIN,
        )
    if not _signed(certificate.tbs_bytes, certificate.signature, issuer.public_key):
        raise VerificationError(
            Reason.CERTIFICATE_SIGNATURE,
            f"{certificate.common_name!r} is not signed by {issuer.common_name!r}",
            hint=_FORGED,
        )


def verify_crl(crl: CRL, *, issuer: Certificate, name: str) -> None:
    """Raise VerificationError (CRL_ISSUER, CRL_SIGNATURE) unless `issuer` issued this CRL."""
    if crl.issuer != issuer.subject or crl.authority_key_id != issuer.subject_key_id:
        raise VerificationError(
            Reason.CRL_ISSUER,
            f"the {name} is not by {issuer.common_name!r}",
            hint="each PCK CA has its own CRL: fetch that of the CA which issued the PCK certificate",
        )
    if not _signed(crl.tbs_bytes, crl.signature, issuer.public_key):
        raise VerificationError(
            Reason.CRL_SIGNATURE, f"the {name} is not signed by {issuer.common_name!r}", hint=_FORGED
        )


def verify_not_revoked(certificate: Certificate, *, crl: CRL) -> None:
    """Raise VerificationError (CERTIFICATE_REVOKED) if `crl`, which must be of its issuer, lists the certificate."""
    if crl.lists(certificate):
        raise VerificationError(
            Reason.CERTIFICATE_REVOKED,
            f"{certificate.common_name!r} with serial {certificate.serial_number:x} was revoked by its issuer",
            hint="trust nothing that rests on it; a platform can be certified anew only by Intel",
        )


def raw_signature_is_valid(signature: bytes, message: bytes, public_key: EllipticCurvePublicKey) -> bool:
    """Whether 64 bytes r||s are a P-256 signature of SHA-256 of `message`; r and s from 1 to the order minus 1."""
    if len(signature) != 64:
        return False
    r, s = signature[:32], signature[32:]
    # Of one length, numbers compare as their bytes do.
    if not (_ZERO < r < _P256_ORDER and _ZERO < s < _P256_ORDER):
        return False
    r, s = _der_integer(r), _der_integer(s)
    return _signed(message, b"%c%c%b%b" % (der.SEQUENCE, len(r) + len(s), r, s), public_key)


def _der_integer(number: bytes) -> bytes:
    """Return a number above zero as an INTEGER in DER."""
    digits = number.lstrip(b"\0")
    sign = b"" if digits[0] < 0x80 else b"\0"
    return b"%c%c%b%b" % (der.INTEGER, len(sign) + len(digits), sign, digits)


def _signed(message: bytes, signature: bytes, public_key: EllipticCurvePublicKey) -> bool:
    # Hashed here: the library looks at the classes of an algorithm longer than this takes.
    try:
        public_key.verify(signature, hashlib.sha256(message).digest(), _ECDSA_OF_SHA256)
    except InvalidSignature:
        return False
    return True


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%MZ}"
