"""The vendor's public-key infrastructure in software: root, both PCK CAs, TCB signing, and what they issue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, get_args

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from eaa.errors import Misuse, Reason
from eaa.simulator.certificates import (
    PCK_CRL_URL,
    PCK_NAME,
    PLATFORM_CA_NAME,
    PROCESSOR_CA_NAME,
    ROOT_NAME,
    SERIAL_BITS,
    TCB_SIGNING_NAME,
    CertificateSpec,
    CRLSpec,
    certifiable_key,
    key_id,
    to_der,
    whole_second,
    years_after,
)
from eaa.simulator.entropy import Entropy
from eaa.simulator.faults import NO_FAULTS, Fault, Faults, Stage, require_stage
from eaa.simulator.sgx_extension import SGXExtension

CAType = Literal["platform", "processor"]
CA_TYPES: Final[tuple[CAType, ...]] = get_args(CAType)

ISSUED_BEFORE: Final = timedelta(days=1)
"""Certificates begin this long before the world does, so that a clock a little behind is no fault."""
ROOT_NOT_AFTER: Final = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)
CA_YEARS: Final = 15
LEAF_YEARS: Final = 7
ROOT_CRL_VALIDITY: Final = timedelta(days=379)
PCK_CRL_VALIDITY: Final = timedelta(days=30)

_CA_NAMES: Final[dict[CAType, str]] = {"platform": PLATFORM_CA_NAME, "processor": PROCESSOR_CA_NAME}


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """A certificate with its private key."""

    common_name: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate

    @property
    def key_id(self) -> bytes:
        """20 bytes, its subject key identifier."""
        return key_id(self.key.public_key())


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedPKI:
    """The vendor. One can issue for many platforms; its root is all that a verifier has to be told."""

    entropy: Entropy
    created: datetime
    faults: Faults
    root: Issuer
    cas: Mapping[CAType, Issuer]
    tcb_signer: Issuer
    trust_anchor: x509.Certificate
    """The root, unless FOREIGN_ROOT: then the genuine one, which signed nothing here."""

    @classmethod
    def create(cls, *, now: datetime, seed: bytes | None = None, faults: Faults = NO_FAULTS) -> SimulatedPKI:
        """Found a vendor at `now`.

        Args:
            now: aware; everything is valid from a day before it.
            seed: 32 bytes that decide every key; secret and random where None.
            faults: of stage PKI.
        """
        faults = require_stage(faults, Stage.PKI)
        entropy = Entropy.create(seed)
        created = whole_second(now)
        root = _issue_root(entropy, created, faults)
        cas = {ca: _issue_ca(ca, root, entropy, created, faults) for ca in CA_TYPES}
        return cls(
            entropy=entropy,
            created=created,
            faults=faults,
            root=root,
            cas=cas,
            tcb_signer=_issue_signer(root, entropy, created, faults),
            trust_anchor=foreign_root(root, entropy).certificate if Fault.FOREIGN_ROOT in faults else root.certificate,
        )

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` makes the same vendor from. Secret."""
        return {
            "created": self.created.isoformat(),
            "seed": self.entropy.seed.hex(),
            "faults": sorted(fault.name for fault in self.faults),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> SimulatedPKI:
        """Return the vendor of `to_json`. Raises ValueError, KeyError or TypeError for anything else."""
        return cls.create(
            now=datetime.fromisoformat(document["created"]),
            seed=bytes.fromhex(document["seed"]),
            faults=frozenset(Fault[name] for name in document["faults"]),
        )

    def issue_pck(
        self,
        *,
        ca: CAType,
        key: ec.EllipticCurvePrivateKey,
        serial: int,
        now: datetime,
        extension: SGXExtension,
        faults: Faults = NO_FAULTS,
    ) -> x509.Certificate:
        """Return a PCK certificate for `key`; `faults` are of stage PLATFORM."""
        issuer = self.cas[ca]
        begin = whole_second(now) - ISSUED_BEFORE
        good = CertificateSpec(
            common_name=PCK_NAME,
            public_key=key.public_key(),
            issuer_name=issuer.common_name,
            signing_key=issuer.key,
            authority_key_id=issuer.key_id,
            serial=serial,
            not_before=begin,
            not_after=years_after(begin, LEAF_YEARS),
            is_ca=False,
            signs_certificates=False,
            crl_url=PCK_CRL_URL.format(ca=ca),
            sgx_extension=extension.encode(),
        )
        return _broken(good, _LEAF_EDITS, faults, self.entropy).issue()

    def root_crl(self, *, now: datetime, revoked: tuple[int, ...] = ()) -> CRLSpec:
        """Return the root's CRL at `now`, not signed yet."""
        return _crl(self.root, now, ROOT_CRL_VALIDITY, revoked)

    def pck_crl(self, *, ca: CAType, now: datetime, revoked: tuple[int, ...] = ()) -> CRLSpec:
        """Return a PCK CA's CRL at `now`, not signed yet."""
        return _crl(self.cas[ca], now, PCK_CRL_VALIDITY, revoked)

    @property
    def trust_anchor_der(self) -> bytes:
        """What a verifier pins."""
        return to_der(self.trust_anchor)


def require_ca(ca: str) -> CAType:
    """Return `ca`; raise Misuse where it names no PCK CA."""
    for known in CA_TYPES:
        if ca == known:
            return known
    raise Misuse(Reason.SIMULATOR_INVALID, f"{ca!r} is no PCK CA; there are {' and '.join(CA_TYPES)}")


def random_serial(entropy: Entropy, serial_name: str) -> int:
    """Return a serial number as Intel gives PCK certificates: random, as long as the library allows."""
    return int.from_bytes(entropy.take(20, serial_name), "big") % (1 << SERIAL_BITS) | 1


def foreign_root(root: Issuer, entropy: Entropy) -> Issuer:
    """Return another root of the same name and dates, with another key."""
    key, serial = certifiable_key(entropy, "foreign root")
    genuine = root.certificate
    spec = CertificateSpec(
        common_name=root.common_name,
        public_key=key.public_key(),
        issuer_name=root.common_name,
        signing_key=key,
        authority_key_id=key_id(key.public_key()),
        serial=serial,
        not_before=genuine.not_valid_before_utc,
        not_after=genuine.not_valid_after_utc,
        is_ca=True,
        path_length=1,
        signs_certificates=True,
    )
    return Issuer(common_name=root.common_name, key=key, certificate=spec.issue())


def other_key(entropy: Entropy) -> ec.EllipticCurvePrivateKey:
    """Return the key of nobody in this world."""
    return entropy.key("other")


# --- good certificates --------------------------------------------------------------------------------------------


def _issue_root(entropy: Entropy, created: datetime, faults: Faults) -> Issuer:
    key, serial = certifiable_key(entropy, "root")
    begin = created - ISSUED_BEFORE
    good = CertificateSpec(
        common_name=ROOT_NAME,
        public_key=key.public_key(),
        issuer_name=ROOT_NAME,
        signing_key=key,
        authority_key_id=key_id(key.public_key()),
        serial=serial,
        not_before=begin,
        not_after=max(ROOT_NOT_AFTER, years_after(begin, CA_YEARS)),
        is_ca=True,
        path_length=1,
        signs_certificates=True,
    )
    return _issuer(_broken(good, _ROOT_EDITS, faults, entropy), key)


def _issue_ca(ca: CAType, root: Issuer, entropy: Entropy, created: datetime, faults: Faults) -> Issuer:
    key, serial = certifiable_key(entropy, f"{ca} CA")
    begin = created - ISSUED_BEFORE
    good = CertificateSpec(
        common_name=_CA_NAMES[ca],
        public_key=key.public_key(),
        issuer_name=root.common_name,
        signing_key=root.key,
        authority_key_id=root.key_id,
        serial=serial,
        not_before=begin,
        not_after=years_after(begin, CA_YEARS),
        is_ca=True,
        path_length=0,
        signs_certificates=True,
    )
    return _issuer(_broken(good, _CA_EDITS, faults, entropy), key)


def _issue_signer(root: Issuer, entropy: Entropy, created: datetime, faults: Faults) -> Issuer:
    key, serial = certifiable_key(entropy, "TCB signing")
    begin = created - ISSUED_BEFORE
    good = CertificateSpec(
        common_name=TCB_SIGNING_NAME,
        public_key=key.public_key(),
        issuer_name=root.common_name,
        signing_key=root.key,
        authority_key_id=root.key_id,
        serial=serial,
        not_before=begin,
        not_after=years_after(begin, LEAF_YEARS),
        is_ca=False,
        signs_certificates=False,
    )
    return _issuer(_broken(good, _SIGNER_EDITS, faults, entropy), key)


def _issuer(spec: CertificateSpec, key: ec.EllipticCurvePrivateKey) -> Issuer:
    return Issuer(common_name=spec.common_name, key=key, certificate=spec.issue())


def _crl(issuer: Issuer, now: datetime, validity: timedelta, revoked: tuple[int, ...]) -> CRLSpec:
    this_update = whole_second(now)
    return CRLSpec(
        issuer_name=issuer.common_name,
        signing_key=issuer.key,
        authority_key_id=issuer.key_id,
        this_update=this_update,
        next_update=this_update + validity,
        revoked=revoked,
    )


# --- broken ones --------------------------------------------------------------------------------------------------

_Edit = Callable[[CertificateSpec, ec.EllipticCurvePrivateKey], CertificateSpec]
_Edits = Mapping[Fault, _Edit]


def _broken(spec: CertificateSpec, edits: _Edits, faults: Faults, entropy: Entropy) -> CertificateSpec:
    for fault, edit in edits.items():
        if fault in faults:
            spec = edit(spec, other_key(entropy))
    return spec


def _renamed(common_name: str) -> _Edit:
    def edit(spec: CertificateSpec, _: ec.EllipticCurvePrivateKey) -> CertificateSpec:
        self_signed = spec.issuer_name == spec.common_name
        return replace(spec, common_name=common_name, issuer_name=common_name if self_signed else spec.issuer_name)

    return edit


def _misattributed(issuer_name: str) -> _Edit:
    return lambda spec, _: replace(spec, issuer_name=issuer_name)


def _expired(spec: CertificateSpec, _: ec.EllipticCurvePrivateKey) -> CertificateSpec:
    # It ends when it should have begun, and so before the world did.
    return replace(spec, not_before=spec.not_before - timedelta(days=365), not_after=spec.not_before)


def _not_yet_valid(spec: CertificateSpec, _: ec.EllipticCurvePrivateKey) -> CertificateSpec:
    return replace(spec, not_before=spec.not_after - timedelta(days=365))


def _signed_by_other_key(spec: CertificateSpec, other: ec.EllipticCurvePrivateKey) -> CertificateSpec:
    return replace(spec, signing_key=other)


def _signed_and_identified_by_other_key(spec: CertificateSpec, other: ec.EllipticCurvePrivateKey) -> CertificateSpec:
    return replace(spec, signing_key=other, authority_key_id=key_id(other.public_key()))


def _signed_by_other_key_unidentified(spec: CertificateSpec, other: ec.EllipticCurvePrivateKey) -> CertificateSpec:
    return replace(spec, signing_key=other, authority_key_id=None)


def _not_a_ca(spec: CertificateSpec, _: ec.EllipticCurvePrivateKey) -> CertificateSpec:
    return replace(spec, is_ca=False, path_length=None)


def _is_a_ca(spec: CertificateSpec, _: ec.EllipticCurvePrivateKey) -> CertificateSpec:
    return replace(spec, is_ca=True, path_length=0)


def _edited_extension(edit: Callable[[bytes], bytes]) -> _Edit:
    return lambda spec, _: replace(spec, sgx_extension=edit(spec.sgx_extension) if spec.sgx_extension else None)


def _component_renumbered(extension: bytes) -> bytes:
    # The last component (arc 2.16) becomes a second first one (arc 2.1): 15 of 16 are there.
    arc = bytes.fromhex("2a864886f84d010d0102")
    return extension.replace(arc + b"\x10", arc + b"\x01", 1)


def _cpu_svn_altered(extension: bytes) -> bytes:
    # Arc 2.18, an OCTET STRING of 16 bytes; the last of them changes.
    last = extension.index(bytes.fromhex("2a864886f84d010d0102120410")) + 28
    return extension[:last] + bytes([extension[last] ^ 1]) + extension[last + 1 :]


_ANY_EXTENSION: Final = SGXExtension(
    ppid=bytes(16),
    tcb_components=(0,) * 16,
    pce_svn=0,
    cpu_svn=bytes(16),
    pce_id=bytes(2),
    fmspc=bytes(6),
    sgx_type=0,
    platform_instance_id=None,
    dynamic_platform=False,
    cached_keys=False,
    smt_enabled=False,
)
_ROOT_EDITS: Final[_Edits] = {
    Fault.ROOT_COMMON_NAME: _renamed("Some Other Root"),
    Fault.ROOT_EXPIRED: _expired,
    Fault.ROOT_NOT_YET_VALID: _not_yet_valid,
    Fault.ROOT_NOT_SELF_SIGNED: _signed_by_other_key,
    Fault.ROOT_PATH_LENGTH_ZERO: lambda spec, _: replace(spec, path_length=0),
    Fault.ROOT_NOT_A_CA: _not_a_ca,
}
_CA_EDITS: Final[_Edits] = {
    Fault.CA_COMMON_NAME: _renamed("Intel SGX Some Other CA"),
    Fault.CA_EXPIRED: _expired,
    Fault.CA_NOT_YET_VALID: _not_yet_valid,
    Fault.CA_SIGNED_BY_OTHER_KEY: _signed_by_other_key,
    Fault.CA_ISSUER_NAME: _misattributed("Intel SGX Some Other Root CA"),
    Fault.CA_NOT_A_CA: _not_a_ca,
    Fault.CA_WITHOUT_CERT_SIGN: lambda spec, _: replace(spec, signs_certificates=False),
}
_SIGNER_EDITS: Final[_Edits] = {
    Fault.SIGNER_COMMON_NAME: _renamed("Intel SGX Some Other Signing"),
    Fault.SIGNER_EXPIRED: _expired,
    Fault.SIGNER_NOT_YET_VALID: _not_yet_valid,
    Fault.SIGNER_SIGNED_BY_OTHER_KEY: _signed_by_other_key,
    Fault.SIGNER_IS_A_CA: _is_a_ca,
    Fault.SIGNER_WITH_SGX_EXTENSION: lambda spec, _: replace(spec, sgx_extension=_ANY_EXTENSION.encode()),
}
_LEAF_EDITS: Final[_Edits] = {
    Fault.LEAF_COMMON_NAME: _renamed("Intel SGX Some Other Certificate"),
    Fault.LEAF_EXPIRED: _expired,
    Fault.LEAF_NOT_YET_VALID: _not_yet_valid,
    Fault.LEAF_SIGNED_BY_OTHER_KEY: _signed_by_other_key,
    Fault.LEAF_SIGNED_BY_OTHER_KEY_AND_AKI: _signed_and_identified_by_other_key,
    Fault.LEAF_SIGNED_BY_OTHER_KEY_WITHOUT_AKI: _signed_by_other_key_unidentified,
    Fault.LEAF_ISSUER_NAME: _misattributed("Intel SGX PCK Some Other CA"),
    Fault.LEAF_IS_A_CA: _is_a_ca,
    Fault.LEAF_WITHOUT_SGX_EXTENSION: lambda spec, _: replace(spec, sgx_extension=None),
    Fault.LEAF_SGX_EXTENSION_TRUNCATED: _edited_extension(lambda extension: extension[:-1]),
    Fault.LEAF_SGX_EXTENSION_15_COMPONENTS: _edited_extension(_component_renumbered),
    Fault.LEAF_CPU_SVN_DIFFERS: _edited_extension(_cpu_svn_altered),
}
