"""The simulator's bytes against Intel's own: the same rules applied to Intel's inputs have to give Intel's bytes.

Where a real document can be rebuilt from its own values, it is, and the result compared byte for byte; the rest is
compared in structure.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import PCKCertificate, parse_pem_chain
from eaa.evidence.quote import Quote
from eaa.simulator import certificates
from eaa.simulator.certificates import SERIAL_BITS, CertificateSpec, CRLSpec, key_id
from eaa.simulator.documents import compact
from eaa.simulator.platform import Platform
from eaa.simulator.sgx_extension import SGX_EXTENSION_OID, SGXExtension
from support.simulated import NOW, REPORT_DATA, SEED, sample_enclave
from support.vectors import AVAILABLE, ROOT, cases, vector

SGX_CASES = [case for case in cases() if case["kind"] == "sgx-v3"]
PCK_CASES = [case for case in cases() if case["kind"] in ("sgx-v3", "tdx-v4")]
CERTIFICATES = sorted(path.name for path in (ROOT / "certs").glob("*.pem")) if AVAILABLE else []
INTEL = "Intel Corporation"


def real_certificate(name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(vector(f"certs/{name}").read_bytes())


def real_collateral(case: dict[str, Any]) -> Collateral:
    return Collateral.from_json(vector(case["collateral"]).read_bytes())


def real_pck(case: dict[str, Any]) -> x509.Certificate:
    raw = Path(vector(case["quote"])).read_bytes()
    return x509.load_der_x509_certificate(parse_pem_chain(Quote.parse_prefix(raw)[0].certification_data)[0])


def crl_url(certificate: x509.Certificate) -> str:
    location = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value[0].full_name
    assert location is not None
    return str(location[0].value)


def public_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def common_name(name: x509.Name) -> str:
    return str(name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


def rebuilt(real: x509.Certificate) -> x509.Certificate:
    """The same certificate by the simulator's rules, from the values alone, signed by somebody else."""
    extensions = real.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    sgx = [item.value for item in extensions if item.oid.dotted_string == SGX_EXTENSION_OID]
    return CertificateSpec(
        common_name=common_name(real.subject),
        public_key=public_key(real),
        issuer_name=common_name(real.issuer),
        signing_key=ec.generate_private_key(ec.SECP256R1()),
        authority_key_id=extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier,
        serial=real.serial_number,
        not_before=real.not_valid_before_utc,
        not_after=real.not_valid_after_utc,
        is_ca=constraints.ca,
        path_length=constraints.path_length,
        signs_certificates=constraints.ca,
        crl_url=crl_url(real),
        sgx_extension=sgx[0].value if sgx and isinstance(sgx[0], x509.UnrecognizedExtension) else None,
    ).issue()


@pytest.fixture
def as_intel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write Intel's own Organization, for comparison only."""
    monkeypatch.setattr(certificates, "ORGANIZATION", INTEL)


def representable(certificate: x509.Certificate) -> bool:
    """Whether the library can write this serial number: Intel's have 160 bits, it allows 159."""
    return certificate.serial_number < 1 << SERIAL_BITS


@pytest.mark.usefixtures("as_intel")
@pytest.mark.parametrize("name", [name for name in CERTIFICATES if representable(real_certificate(name))])
def test_a_real_certificate_is_rebuilt_byte_for_byte(name: str) -> None:
    real = real_certificate(name)
    assert rebuilt(real).tbs_certificate_bytes == real.tbs_certificate_bytes


@pytest.mark.usefixtures("as_intel")
def test_real_pck_certificates_are_rebuilt_byte_for_byte() -> None:
    real = [certificate for case in PCK_CASES if representable(certificate := real_pck(case))]
    for certificate in real:
        assert rebuilt(certificate).tbs_certificate_bytes == certificate.tbs_certificate_bytes
    if AVAILABLE:
        assert real


@pytest.mark.parametrize("name", CERTIFICATES)
def test_intel_names_a_key_by_the_hash_of_its_whole_key_info_and_so_do_we(name: str) -> None:
    real = real_certificate(name)
    named = real.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert key_id(public_key(real)) == named
    assert real.serial_number.to_bytes(20, "big") == named, "Intel's CAs and signers are numbered by their key"


@pytest.mark.parametrize("case", PCK_CASES, ids=lambda case: case["id"])
def test_the_sgx_extension_of_a_real_pck_certificate_is_rebuilt_byte_for_byte(case: dict[str, Any]) -> None:
    certificate = real_pck(case)
    pck = PCKCertificate.parse(certificate.public_bytes(Encoding.DER))
    extension = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(SGX_EXTENSION_OID)).value
    assert isinstance(extension, x509.UnrecognizedExtension)
    rebuilt_extension = SGXExtension(
        ppid=pck.ppid,
        tcb_components=pck.tcb_components,
        pce_svn=pck.pce_svn,
        cpu_svn=pck.cpu_svn,
        pce_id=pck.pce_id,
        fmspc=pck.fmspc,
        sgx_type=pck.sgx_type,
        platform_instance_id=pck.platform_instance_id,
        dynamic_platform=bool(pck.dynamic_platform),
        cached_keys=bool(pck.cached_keys),
        smt_enabled=bool(pck.smt_enabled),
    )
    assert rebuilt_extension.encode() == extension.value


@pytest.mark.usefixtures("as_intel")
@pytest.mark.parametrize("case", SGX_CASES, ids=lambda case: case["id"])
def test_a_real_root_crl_is_rebuilt_byte_for_byte(case: dict[str, Any]) -> None:
    real = x509.load_der_x509_crl(real_collateral(case).root_ca_crl)
    assert real.next_update_utc is not None
    issued = CRLSpec(
        issuer_name=common_name(real.issuer),
        signing_key=ec.generate_private_key(ec.SECP256R1()),
        authority_key_id=real.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier,
        this_update=real.last_update_utc,
        next_update=real.next_update_utc,
        number=real.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number,
        revoked=tuple(entry.serial_number for entry in real),
    ).issue()
    assert x509.load_der_x509_crl(issued).tbs_certlist_bytes == real.tbs_certlist_bytes


@pytest.mark.parametrize("case", SGX_CASES, ids=lambda case: case["id"])
def test_real_documents_are_rewritten_byte_for_byte(case: dict[str, Any]) -> None:
    real = real_collateral(case)
    for body in (real.tcb_info, real.qe_identity):
        assert compact(json.loads(body)) == body


@pytest.mark.parametrize("ca", ["platform", "processor"])
def test_our_documents_have_the_members_of_real_ones_in_their_order(ca: Any) -> None:
    ours = Platform.create(
        now=NOW, seed=SEED, ca=ca, tcb_status="OutOfDate", advisory_ids=("INTEL-SA-00615",)
    ).collateral(now=NOW)
    version_3 = [real for case in SGX_CASES if json.loads((real := real_collateral(case)).tcb_info)["version"] == 3]
    for real in version_3:
        for member in ("tcb_info", "qe_identity"):
            assert order(json.loads(getattr(ours, member))) == order(json.loads(getattr(real, member)))


def order(document: dict[str, Any]) -> list[str]:
    """Member names of a document and of its second level, in order: the first has no advisories everywhere."""
    level = document["tcbLevels"][1]
    return [*document, *level, *level["tcb"]]


@pytest.mark.parametrize("ca", ["platform", "processor"])
def test_our_certificates_have_the_shape_of_intels(ca: Any) -> None:
    platform = Platform.create(now=NOW, seed=SEED, ca=ca)
    pck, pck_ca, root = platform.pck_chain
    vector("certs")
    # Older ones name version 3 of the service in their distribution point.
    real_leaf = next(pck for pck in map(real_pck, PCK_CASES) if f"v4/pckcrl?ca={ca}" in crl_url(pck))
    real_ca = real_certificate("platform_ca_22eb770d.pem" if ca == "platform" else "processor_ca_13b2dcce.pem")
    real_signer = real_certificate("tcb_signing_20250506_20320506.pem")
    pairs = [
        (root, real_certificate("intel_sgx_root_ca.pem")),
        (pck_ca, real_ca),
        (platform.pki.tcb_signer.certificate, real_signer),
        (pck, real_leaf),
    ]
    for ours, real in pairs:
        assert shape(ours) == shape(real)
        assert common_name(ours.subject) == common_name(real.subject)
        assert common_name(ours.issuer) == common_name(real.issuer)


def shape(certificate: x509.Certificate) -> list[object]:
    """Everything about a certificate that does not depend on whose it is."""
    extensions = certificate.extensions
    free = (x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier, x509.UnrecognizedExtension)
    lifetime = certificate.not_valid_after_utc.year - certificate.not_valid_before_utc.year
    return [
        certificate.version,
        certificate.signature_algorithm_oid,
        [(item.oid, item.critical) for item in extensions],
        [item.value for item in extensions if not isinstance(item.value, free)],
        [(attribute.oid, attribute._type) for attribute in (*certificate.subject, *certificate.issuer)],
        # The root's last second is the same whenever it was made.
        certificate.not_valid_after_utc if certificate.subject == certificate.issuer else lifetime,
    ]


def test_every_certificate_says_that_it_is_a_simulation_and_keeps_intels_common_name() -> None:
    platform = Platform.create(now=NOW, seed=SEED)
    pki = platform.pki
    issued = [*platform.pck_chain, pki.tcb_signer.certificate, *(issuer.certificate for issuer in pki.cas.values())]
    for certificate in issued:
        for name in (certificate.subject, certificate.issuer):
            organization = name.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)[0].value
            assert str(organization).startswith("SIMULATED")
            assert common_name(name).startswith("Intel SGX ")


@pytest.mark.parametrize("case", SGX_CASES, ids=lambda case: case["id"])
def test_our_quotes_have_the_layout_of_real_ones(case: dict[str, Any]) -> None:
    real, _ = Quote.parse_prefix(vector(case["quote"]).read_bytes())
    ours = Quote.parse(Platform.create(now=NOW, seed=SEED).launch(*sample_enclave()).quote(REPORT_DATA))
    assert ours.header.attestation_key_type == real.header.attestation_key_type
    assert ours.header.qe_vendor_id == real.header.qe_vendor_id
    assert ours.header.user_data[16:] == real.header.user_data[16:] == bytes(4)
    assert ours.qe_report.attributes == real.qe_report.attributes
    assert ours.qe_report.misc_select == real.qe_report.misc_select
    assert ours.qe_report.isv_prod_id == real.qe_report.isv_prod_id
    assert ours.qe_report.report_data[32:] == real.qe_report.report_data[32:] == bytes(32)
    assert ours.certification_data_type == real.certification_data_type


def test_most_real_hosts_end_the_chain_with_a_nul_and_count_the_authentication_data_up() -> None:
    quotes = [Quote.parse_prefix(vector(case["quote"]).read_bytes())[0] for case in SGX_CASES]
    ours = Quote.parse(Platform.create(now=NOW, seed=SEED).launch(*sample_enclave()).quote(REPORT_DATA))
    assert ours.certification_data.endswith(b"-----END CERTIFICATE-----\n\0")
    assert ours.qe_auth_data == bytes(range(32))
    if AVAILABLE:
        assert any(quote.certification_data.endswith(b"\n\0") for quote in quotes)
        assert any(quote.qe_auth_data == bytes(range(32)) for quote in quotes)
