"""A small world of our own to break: certificates, CRLs, documents and a quote, every field of which a test may change.

It is written apart from the simulator on purpose, with another library's builders where there are some: a mistake that
verifier and simulator share does not hide here. `World()` is a good world; change one thing, then `verify()`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from eaa.collateral.bundle import Collateral
from eaa.evidence.quote import Quote, QuoteHeader, TEEType
from eaa.evidence.sgx import EnclaveReport
from eaa.evidence.tdx import TDReport, TDReport15
from eaa.verify.chain import TrustAnchors
from eaa.verify.dcap import VerifiedQuote, verify_quote

NOW: Final = datetime(2026, 6, 1, 12, tzinfo=UTC)
FMSPC: Final = bytes.fromhex("00a06d080000")
SGX_ARC: Final = bytes.fromhex("2a864886f84d010d01")
LEVELS: Final = (
    {"svn": 5, "status": "UpToDate", "date": "2026-02-11T00:00:00Z", "advisories": []},
    {"svn": 4, "status": "OutOfDate", "date": "2024-03-13T00:00:00Z", "advisories": ["INTEL-SA-00001"]},
    {"svn": 2, "status": "Revoked", "date": "2019-01-09T00:00:00Z", "advisories": ["INTEL-SA-00002"]},
)


@functools.cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    """The key of that name, the same in every run: who mutates this world can show a mutant again."""
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(name.encode()).digest()) >> 1, ec.SECP256R1())


def raw_public(name: str) -> bytes:
    numbers = key(name).public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def raw_sign(name: str, message: bytes) -> bytes:
    r, s = decode_dss_signature(key(name).sign(message, ec.ECDSA(SHA256(), deterministic_signing=True)))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def key_id(name: str) -> bytes:
    return x509.SubjectKeyIdentifier.from_public_key(key(name).public_key()).digest


def tlv(tag: int, content: bytes) -> bytes:
    """One DER element."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def integer(value: int) -> bytes:
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def name_of(common_name: str | list[str]) -> x509.Name:
    names = [common_name] if isinstance(common_name, str) else common_name
    return x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names]
        + [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A world of tests")]
    )


@dataclass
class SGXExtension:
    """The SGX extension of a PCK certificate, each field as the DER of its value."""

    components: list[int] = field(default_factory=lambda: [5] * 16)
    pce_svn: int = 13
    cpu_svn: bytes | None = None
    fields: dict[tuple[int, ...], bytes] = field(
        default_factory=lambda: {
            (1,): tlv(0x04, bytes(range(16))),
            (3,): tlv(0x04, bytes(2)),
            (4,): tlv(0x04, FMSPC),
            (5,): tlv(0x0A, b"\x01"),
            (6,): tlv(0x04, bytes(range(16, 32))),
        }
    )
    configuration: dict[int, bytes] = field(
        default_factory=lambda: {1: b"\xff", 2: b"\x00", 3: b"\xff"},
    )
    extra: bytes = b""

    @staticmethod
    def pair(arcs: tuple[int, ...], value: bytes) -> bytes:
        return tlv(0x30, tlv(0x06, SGX_ARC + bytes(arcs)) + value)

    def tcb(self) -> bytes:
        cpu_svn = bytes(self.components) if self.cpu_svn is None else self.cpu_svn
        rows = [self.pair((2, index), integer(svn)) for index, svn in enumerate(self.components, 1)]
        return b"".join(rows) + self.pair((2, 17), integer(self.pce_svn)) + self.pair((2, 18), tlv(0x04, cpu_svn))

    def encode(self) -> bytes:
        rows = {**self.fields, (2,): tlv(0x30, self.tcb())}
        configuration = b"".join(self.pair((7, arc), tlv(0x01, flag)) for arc, flag in self.configuration.items())
        if configuration:
            rows[7,] = tlv(0x30, configuration)
        return tlv(0x30, b"".join(self.pair(arcs, rows[arcs]) for arcs in sorted(rows)) + self.extra)


@dataclass
class CertificateTemplate:
    """One certificate to be issued. Names are those of keys; `issuer` is another template."""

    common_name: str | list[str]
    key: str
    issuer: CertificateTemplate | None = None
    """None: itself."""
    signed_by: str | None = None
    """None: the issuer's key."""
    issuer_name: str | None = None
    """None: the issuer's name."""
    serial: int = 0
    """0: one made from the name and key."""
    not_before: datetime = datetime(2020, 1, 1, tzinfo=UTC)
    not_after: datetime = datetime(2033, 1, 1, tzinfo=UTC)
    is_ca: bool | None = False
    path_length: int | None = None
    usage: set[str] | None = field(default_factory=lambda: {"digital_signature", "content_commitment"})
    subject_key_id: bytes | None = None
    """None: of the key; empty: no such extension."""
    authority_key_id: bytes | None = None
    """None: of the issuer's key; empty: no such extension."""
    sgx: SGXExtension | None = None
    extra: list[tuple[x509.ExtensionType, bool]] = field(default_factory=list)

    @property
    def serial_number(self) -> int:
        return self.serial or int.from_bytes(hashlib.sha256(f"{self.common_name}{self.key}".encode()).digest()[:15])

    def der(self) -> bytes:
        issuer = self.issuer or self
        builder = x509.CertificateBuilder(
            subject_name=name_of(self.common_name),
            issuer_name=name_of(self.issuer_name or issuer.common_name),
            public_key=key(self.key).public_key(),
            serial_number=self.serial_number,
            not_valid_before=self.not_before,
            not_valid_after=self.not_after,
        )
        for extension, critical in self._extensions(issuer):
            builder = builder.add_extension(extension, critical=critical)
        # Deterministic: a certificate that is issued twice must be the same certificate.
        certificate = builder.sign(key(self.signed_by or issuer.key), SHA256(), ecdsa_deterministic=True)
        return certificate.public_bytes(Encoding.DER)

    def _extensions(self, issuer: CertificateTemplate) -> list[tuple[x509.ExtensionType, bool]]:
        extensions: list[tuple[x509.ExtensionType, bool]] = []
        authority = key_id(issuer.key) if self.authority_key_id is None else self.authority_key_id
        if authority:
            extensions.append((x509.AuthorityKeyIdentifier(authority, None, None), False))
        subject = key_id(self.key) if self.subject_key_id is None else self.subject_key_id
        if subject:
            extensions.append((x509.SubjectKeyIdentifier(subject), False))
        if self.usage is not None:
            extensions.append((key_usage(self.usage), True))
        if self.is_ca is not None:
            extensions.append((x509.BasicConstraints(ca=self.is_ca, path_length=self.path_length), True))
        if self.sgx is not None:
            oid = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
            extensions.append((x509.UnrecognizedExtension(oid, self.sgx.encode()), False))
        return [*extensions, *self.extra]


def ca_template(
    common_name: str, key_name: str, issuer: CertificateTemplate | None, *, path_length: int
) -> CertificateTemplate:
    return CertificateTemplate(
        common_name,
        key_name,
        issuer,
        is_ca=True,
        path_length=path_length,
        usage={"key_cert_sign", "crl_sign"},
    )


def key_usage(names: set[str]) -> x509.KeyUsage:
    known = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    more = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: name in names for name in (*known, *more)})


@dataclass
class CRLTemplate:
    """One CRL to be issued."""

    issuer: CertificateTemplate
    signed_by: str | None = None
    issuer_name: str | None = None
    this_update: datetime = NOW - timedelta(days=10)
    next_update: datetime = NOW + timedelta(days=20)
    revoked: list[int] = field(default_factory=list)
    number: int | None = 1
    authority_key_id: bytes | None = None
    """None: of the issuer's key; empty: no such extension."""
    extra: list[tuple[x509.ExtensionType, bool]] = field(default_factory=list)
    entry_extra: list[tuple[x509.ExtensionType, bool]] = field(
        default_factory=lambda: [(x509.CRLReason(x509.ReasonFlags.key_compromise), False)]
    )

    def der(self) -> bytes:
        builder = x509.CertificateRevocationListBuilder(
            issuer_name=name_of(self.issuer_name or self.issuer.common_name),
            last_update=self.this_update,
            next_update=self.next_update,
        )
        # A list that never names anybody would not show whether entries are read.
        for serial in (4711, *self.revoked):
            entry = x509.RevokedCertificateBuilder(serial_number=serial, revocation_date=self.this_update)
            for extension, critical in self.entry_extra:
                entry = entry.add_extension(extension, critical=critical)
            builder = builder.add_revoked_certificate(entry.build())
        if self.number is not None:
            builder = builder.add_extension(x509.CRLNumber(self.number), critical=False)
        authority = key_id(self.issuer.key) if self.authority_key_id is None else self.authority_key_id
        if authority:
            builder = builder.add_extension(x509.AuthorityKeyIdentifier(authority, None, None), critical=False)
        for extension, critical in self.extra:
            builder = builder.add_extension(extension, critical=critical)
        signed = builder.sign(key(self.signed_by or self.issuer.key), SHA256(), ecdsa_deterministic=True)
        return signed.public_bytes(Encoding.DER)


def pem(*ders: bytes) -> bytes:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders)


def compact(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def sgx_tcb_level(level: dict[str, Any], *, tdx: bool) -> dict[str, Any]:
    tcb: dict[str, Any] = {"sgxtcbcomponents": [{"svn": level["svn"]} for _ in range(16)], "pcesvn": 11}
    if tdx:
        tcb["tdxtcbcomponents"] = [{"svn": svn} for svn in (0, 0, *(level["svn"],) * 14)]
    return with_status({"tcb": tcb}, level)


def svn_level(level: dict[str, Any]) -> dict[str, Any]:
    return with_status({"tcb": {"isvsvn": level["svn"]}}, level)


def with_status(document: dict[str, Any], level: dict[str, Any]) -> dict[str, Any]:
    document |= {"tcbDate": level["date"], "tcbStatus": level["status"]}
    return document | ({"advisoryIDs": list(level["advisories"])} if level["advisories"] else {})


def module_fields() -> dict[str, str]:
    return {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}


def tcb_info(tee: TEEType) -> dict[str, Any]:
    tdx = tee is TEEType.TDX
    document: dict[str, Any] = {
        "id": tee.name,
        "version": 3,
        "issueDate": "2026-05-20T00:00:00Z",
        "nextUpdate": "2026-06-19T00:00:00Z",
        "fmspc": FMSPC.hex().upper(),
        "pceId": "0000",
        "tcbType": 0,
        "tcbEvaluationDataNumber": 18,
    }
    if tdx:
        levels = [svn_level(level) for level in LEVELS]
        identities = [{"id": identity, **module_fields(), "tcbLevels": levels} for identity in ("TDX_03", "TDX_01")]
        document |= {"tdxModule": module_fields(), "tdxModuleIdentities": identities}
    return document | {"tcbLevels": [sgx_tcb_level(level, tdx=tdx) for level in LEVELS]}


def qe_identity(tee: TEEType) -> dict[str, Any]:
    return {
        "id": "TD_QE" if tee is TEEType.TDX else "QE",
        "version": 2,
        "issueDate": "2026-05-21T00:00:00Z",
        "nextUpdate": "2026-06-20T00:00:00Z",
        "tcbEvaluationDataNumber": 17,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": "8C" * 32,
        "isvprodid": 1,
        "tcbLevels": [svn_level(level) for level in LEVELS],
    }


@dataclass
class World:
    """One platform, its vendor and one quote. A good one until a test changes it."""

    tee: TEEType = TEEType.SGX
    version: int = 3
    now: datetime = NOW

    def __post_init__(self) -> None:
        self.root = ca_template("Intel SGX Root CA", "root", None, path_length=1)
        self.pck_ca = ca_template("Intel SGX PCK Platform CA", "pck_ca", self.root, path_length=0)
        self.pck = CertificateTemplate("Intel SGX PCK Certificate", "pck", self.pck_ca, sgx=SGXExtension())
        self.tcb_signer = CertificateTemplate("Intel SGX TCB Signing", "tcb_signer", self.root)
        self.qe_signer = dataclasses.replace(self.tcb_signer)
        self.root_crl = CRLTemplate(self.root, next_update=NOW + timedelta(days=300))
        self.pck_crl = CRLTemplate(self.pck_ca)
        self.quote_chain = [self.pck, self.pck_ca, self.root]
        self.crl_chain = [self.pck_ca, self.root]
        self.tcb_chain = [self.tcb_signer, self.root]
        self.qe_chain = [self.qe_signer, self.root]
        self.tcb_info = tcb_info(self.tee)
        self.qe_identity = qe_identity(self.tee)
        self.tcb_info_signed_by = "tcb_signer"
        self.qe_identity_signed_by = "tcb_signer"
        self.respell_tcb_info: Callable[[bytes], bytes] = lambda body: body
        """Applied before the signature is made."""
        self.respell_qe_identity: Callable[[bytes], bytes] = lambda body: body
        self.qe_report = EnclaveReport(
            cpu_svn=bytes([5] * 16),
            misc_select=0,
            attributes=bytes.fromhex("1500000000000000e700000000000000"),
            mr_enclave=hashlib.sha256(b"a quoting enclave").digest(),
            mr_signer=b"\x8c" * 32,
            isv_prod_id=1,
            isv_svn=5,
            report_data=bytes(64),
        )
        self.qe_report_data: bytes | None = None
        """None: what binds the attestation key."""
        self.qe_report_signed_by = "pck"
        self.qe_auth_data = bytes(range(32))
        self.attestation_key: bytes | None = None
        """None: the key that signs."""
        self.quote_signed_by = "attestation"
        self.body: EnclaveReport | TDReport = td_report() if self.tee is TEEType.TDX else enclave_report()
        if self.version == 5 and isinstance(self.body, TDReport):
            self.body = td_report_15(self.body)
        self.header = QuoteHeader(version=self.version, attestation_key_type=2, tee_type=self.tee)
        self.certification_data_type = 5
        self.certification_data: bytes | None = None
        """None: the chain."""
        self.change_quote: Callable[[Quote], Quote] = lambda quote: quote
        """Applied to the finished quote."""
        self.change_collateral: Callable[[Collateral], Collateral] = lambda collateral: collateral
        """Applied to the finished collateral."""

    def quote(self) -> Quote:
        attestation_key = raw_public("attestation") if self.attestation_key is None else self.attestation_key
        digest = hashlib.sha256(attestation_key + self.qe_auth_data).digest()
        report_data = digest + bytes(32) if self.qe_report_data is None else self.qe_report_data
        qe_report = dataclasses.replace(self.qe_report, report_data=report_data)
        chain = pem(*(certificate.der() for certificate in self.quote_chain)) + b"\0"
        unsigned = Quote(
            header=self.header,
            body=self.body,
            signature=bytes(64),
            attestation_key=attestation_key,
            qe_report=qe_report,
            qe_report_signature=raw_sign(self.qe_report_signed_by, qe_report.encode()),
            qe_auth_data=self.qe_auth_data,
            certification_data_type=self.certification_data_type,
            certification_data=chain if self.certification_data is None else self.certification_data,
            signed_bytes=self.signed_bytes(),
        )
        signature = raw_sign(self.quote_signed_by, unsigned.signed_bytes)
        return self.change_quote(dataclasses.replace(unsigned, signature=signature))

    def signed_bytes(self) -> bytes:
        """Header and body; between them, from version 5 on, the body's type and size."""
        kind = {584: 2, 648: 3, 885: 4}.get(len(self.body.encode()), 1)
        descriptor = kind.to_bytes(2, "little") + len(self.body.encode()).to_bytes(4, "little")
        return self.header.encode() + (descriptor if self.version == 5 else b"") + self.body.encode()

    def collateral(self) -> Collateral:
        info = self.respell_tcb_info(compact(self.tcb_info))
        identity = self.respell_qe_identity(compact(self.qe_identity))
        return self.change_collateral(
            Collateral(
                pck_crl_issuer_chain=pem(*(certificate.der() for certificate in self.crl_chain)),
                root_ca_crl=self.root_crl.der(),
                pck_crl=self.pck_crl.der(),
                tcb_info_issuer_chain=pem(*(certificate.der() for certificate in self.tcb_chain)),
                tcb_info=info,
                tcb_info_signature=raw_sign(self.tcb_info_signed_by, info),
                qe_identity_issuer_chain=pem(*(certificate.der() for certificate in self.qe_chain)),
                qe_identity=identity,
                qe_identity_signature=raw_sign(self.qe_identity_signed_by, identity),
            )
        )

    @property
    def trust_anchors(self) -> TrustAnchors:
        return TrustAnchors(frozenset({hashlib.sha256(self.root.der()).digest()}))

    def verify(self, *, grace: timedelta = timedelta(0)) -> VerifiedQuote:
        """Encode, parse and verify the quote, as a relying party does."""
        return verify_quote(
            Quote.parse(self.quote().encode()),
            self.collateral(),
            trust_anchors=self.trust_anchors,
            now=self.now,
            grace=grace,
        )


def enclave_report() -> EnclaveReport:
    return EnclaveReport(
        cpu_svn=bytes([5] * 16),
        misc_select=0,
        attributes=bytes.fromhex("0500000000000000e700000000000000"),
        mr_enclave=hashlib.sha256(b"an enclave").digest(),
        mr_signer=hashlib.sha256(b"a signer").digest(),
        isv_prod_id=7,
        isv_svn=3,
        report_data=bytes(range(64)),
    )


def td_report() -> TDReport:
    registers = {f"rtmr{index}": hashlib.sha384(bytes((index,))).digest() for index in range(4)}
    return TDReport(
        tee_tcb_svn=bytes((5, 1, *(5,) * 14)),
        mr_seam=hashlib.sha384(b"a module").digest(),
        mr_signer_seam=bytes(48),
        seam_attributes=bytes(8),
        td_attributes=bytes.fromhex("0000001000000000"),
        xfam=bytes.fromhex("e702060000000000"),
        mr_td=hashlib.sha384(b"a domain").digest(),
        mr_config_id=bytes(48),
        mr_owner=bytes(48),
        mr_owner_config=bytes(48),
        **registers,
        report_data=bytes(range(64)),
    )


def td_report_15(report: TDReport, **changes: Any) -> TDReport15:
    """The same domain, as a newer module reports it."""
    fields = {name: getattr(report, name) for name, _ in TDReport.LAYOUT}
    values = {**fields, "tee_tcb_svn_2": report.tee_tcb_svn, "mr_service_td": bytes(48), **changes}
    return TDReport15(**values)
