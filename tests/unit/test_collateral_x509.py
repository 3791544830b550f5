"""Certificates and CRLs of Intel's profile: what is read, and every deviation refused while reading."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from eaa.collateral.x509 import CRL, MAX_CERTIFICATE_SIZE, MAX_CRL_SIZE, MAX_PEM_SIZE, Certificate, parse_pem_chain
from eaa.errors import MalformedInput, Reason
from support.dcap_world import CRLTemplate, SGXExtension, World, key, key_id, name_of, pem, tlv
from support.vectors import vector

UNKNOWN_CRITICAL = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)


@pytest.fixture
def world() -> World:
    return World()


def refused(action: Callable[[], object], *reasons: Reason) -> None:
    with pytest.raises(MalformedInput) as caught:
        action()
    assert caught.value.reason in reasons


# --- certificates


def test_a_certificate_is_taken_apart(world: World) -> None:
    certificate = Certificate.parse(world.pck.der())
    assert certificate.common_name == "Intel SGX PCK Certificate"
    assert certificate.issuer_common_name == "Intel SGX PCK Platform CA"
    assert certificate.serial_number == world.pck.serial_number
    assert (certificate.not_before, certificate.not_after) == (world.pck.not_before, world.pck.not_after)
    assert certificate.public_key.public_numbers() == key("pck").public_key().public_numbers()
    assert certificate.subject_key_id == key_id("pck")
    assert certificate.authority_key_id == key_id("pck_ca")
    assert (certificate.is_ca, certificate.path_length) == (False, None)
    assert certificate.key_usage == frozenset({"digitalSignature"})
    assert certificate.sgx_extension == SGXExtension().encode()


def test_a_ca_certificate_is_taken_apart(world: World) -> None:
    certificate = Certificate.parse(world.root.der())
    assert (certificate.is_ca, certificate.path_length) == (True, 1)
    assert certificate.key_usage == frozenset({"keyCertSign", "cRLSign"})
    assert certificate.subject == certificate.issuer == name_of("Intel SGX Root CA").public_bytes()
    assert certificate.sgx_extension is None


def test_what_is_absent_is_none(world: World) -> None:
    world.pck.is_ca, world.pck.usage, world.pck.sgx = None, None, None
    world.pck.authority_key_id = world.pck.subject_key_id = b""
    world.pck.extra.append((UNKNOWN_CRITICAL[0], False))
    certificate = Certificate.parse(world.pck.der())
    assert (certificate.is_ca, certificate.key_usage, certificate.sgx_extension) == (None, None, None)
    assert (certificate.authority_key_id, certificate.subject_key_id) == (None, None)


def test_a_certificate_without_extensions_is_refused(world: World) -> None:
    world.pck.is_ca, world.pck.usage, world.pck.sgx = None, None, None
    world.pck.authority_key_id = world.pck.subject_key_id = b""
    refused(lambda: Certificate.parse(world.pck.der()), Reason.CERTIFICATE_MALFORMED)


def test_certificates_with_one_issuer_and_serial_are_not_equal(world: World) -> None:
    """Three signing certificates of Intel's share one serial; equality is of bytes, and so is the fingerprint."""
    first = Certificate.parse(world.tcb_signer.der())
    world.tcb_signer.not_after = datetime(2030, 1, 1, tzinfo=UTC)
    second = Certificate.parse(world.tcb_signer.der())
    assert (first.issuer, first.serial_number) == (second.issuer, second.serial_number)
    assert first != second
    assert first.fingerprint != second.fingerprint


def test_real_certificates_are_read() -> None:
    for path in sorted(vector("certs").glob("*.pem")):
        for raw in parse_pem_chain(path.read_bytes()):
            assert Certificate.parse(raw).common_name.startswith("Intel SGX ")


def foreign_certificate(
    *,
    private_key: Any = None,
    algorithm: Any = None,
    subject: x509.Name | None = None,
    serial: int = 77,
) -> bytes:
    private_key = private_key or key("foreign")
    builder = x509.CertificateBuilder(
        subject_name=subject or name_of("Intel SGX TCB Signing"),
        issuer_name=name_of("Intel SGX Root CA"),
        public_key=private_key.public_key(),
        serial_number=serial,
        not_valid_before=datetime(2020, 1, 1, tzinfo=UTC),
        not_valid_after=datetime(2030, 1, 1, tzinfo=UTC),
    ).add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return builder.sign(private_key, algorithm or SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(lambda: foreign_certificate(private_key=rsa.generate_private_key(65537, 2048)), id="an RSA key"),
        pytest.param(lambda: foreign_certificate(private_key=ec.generate_private_key(ec.SECP384R1())), id="P-384"),
        pytest.param(lambda: foreign_certificate(algorithm=SHA384()), id="signed over SHA-384"),
        pytest.param(lambda: foreign_certificate(subject=name_of(["Intel SGX TCB Signing"] * 2)), id="two names"),
        pytest.param(
            lambda: foreign_certificate(subject=x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "US")])),
            id="no name",
        ),
        pytest.param(lambda: foreign_certificate(subject=name_of("Intel\x1b[2J")), id="a name that clears screens"),
        pytest.param(
            lambda: foreign_certificate(
                subject=x509.Name(
                    [x509.NameAttribute(NameOID.COMMON_NAME, "Intel", _type=x509.name._ASN1Type.BMPString)]
                )
            ),
            id="a name in two-byte characters",
        ),
    ],
)
def test_a_certificate_outside_the_profile_is_refused(raw: Callable[[], bytes]) -> None:
    refused(lambda: Certificate.parse(raw()), Reason.CERTIFICATE_MALFORMED)


def replaced(raw: bytes, old: bytes, new: bytes) -> bytes:
    assert raw.count(old) >= 1
    assert len(old) == len(new)
    return raw.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("a003020102", "a003020100", id="version 1"),
        pytest.param("a003020102", "a003020103", id="version 4"),
        pytest.param("02014d", "020100", id="serial 0"),
        pytest.param("02014d", "0201ff", id="a negative serial"),
        pytest.param("02014d", "04014d", id="a serial that is no number"),
        pytest.param("2a8648ce3d03010703420004", "2a8648ce3d03010703420005", id="a point in another form"),
        pytest.param("300a06082a8648ce3d040302", "300a06082a8648ce3d040303", id="another signature algorithm"),
        pytest.param("17", "13", id="dates that are no dates"),
        pytest.param("0603550403", "0603550480", id="a name of a type that does not end"),
        pytest.param("0c15496e74656c", "0c15ff6e74656c", id="a name that is no UTF-8"),
    ],
)
def test_a_certificate_with_one_odd_field_is_refused(old: str, new: str) -> None:
    raw = replaced(foreign_certificate(), bytes.fromhex(old), bytes.fromhex(new))
    refused(lambda: Certificate.parse(raw), Reason.CERTIFICATE_MALFORMED, Reason.DER_MALFORMED)


ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")


def test_both_names_of_the_algorithm_count(world: World) -> None:
    """One stands inside of what is signed and one outside."""
    other = ECDSA_WITH_SHA256[:-1] + b"\3"
    for raw, parse, reason in (
        (world.pck.der(), Certificate.parse, Reason.CERTIFICATE_MALFORMED),
        (world.pck_crl.der(), CRL.parse, Reason.CRL_MALFORMED),
    ):
        inside = raw.replace(ECDSA_WITH_SHA256, other, 1)
        outside = other.join(raw.rsplit(ECDSA_WITH_SHA256, 1))
        for changed in (inside, outside):
            with pytest.raises(MalformedInput) as caught:
                parse(changed)
            assert caught.value.reason is reason


def test_a_key_off_the_curve_is_refused() -> None:
    raw = foreign_certificate()
    at = raw.index(bytes.fromhex("03420004")) + 4
    refused(lambda: Certificate.parse(raw[:at] + b"\1" * 64 + raw[at + 64 :]), Reason.CERTIFICATE_MALFORMED)


def test_an_attribute_with_three_parts_is_refused() -> None:
    raw = foreign_certificate()
    common_name = tlv(0x30, bytes.fromhex("0603550403") + tlv(0x0C, b"Intel SGX TCB Signing"))
    longer = tlv(0x30, bytes.fromhex("0603550403") + tlv(0x0C, b"Intel SGX TCB Signi") + b"\5\0")
    refused(lambda: Certificate.parse(replaced(raw, common_name, longer)), Reason.CERTIFICATE_MALFORMED)


def test_a_serial_of_21_bytes_is_refused(world: World) -> None:
    world.tcb_signer.serial = 1 << 158
    Certificate.parse(world.tcb_signer.der())
    old = tlv(0x02, (1 << 158).to_bytes(20, "big"))
    raw = world.tcb_signer.der()
    longer = raw.replace(old, tlv(0x02, b"\1" + bytes(20)))
    outer_length = len(longer) - 4
    tbs_length = int.from_bytes(longer[6:8], "big") + 1
    patched = longer[:2] + outer_length.to_bytes(2, "big") + longer[4:6] + tbs_length.to_bytes(2, "big") + longer[8:]
    refused(lambda: Certificate.parse(patched), Reason.CERTIFICATE_MALFORMED)


def test_an_unknown_critical_extension_is_refused(world: World) -> None:
    world.pck.extra.append(UNKNOWN_CRITICAL)
    refused(lambda: Certificate.parse(world.pck.der()), Reason.CERTIFICATE_MALFORMED)


def test_an_extension_that_stands_twice_is_refused(world: World) -> None:
    """A parser that takes the first and one that takes the last would see two platforms."""
    raw = world.tcb_signer.der()
    subject_key_id, authority = bytes.fromhex("0603551d0e"), bytes.fromhex("0603551d23")
    refused(lambda: Certificate.parse(replaced(raw, authority, subject_key_id)), Reason.CERTIFICATE_MALFORMED)


@pytest.mark.parametrize("raw", [b"", b"\x30\x00", b"junk", bytes(100), b"\x30\x03\x02\x01\x05"])
def test_junk_is_no_certificate(raw: bytes) -> None:
    refused(lambda: Certificate.parse(raw), Reason.CERTIFICATE_MALFORMED, Reason.DER_MALFORMED)


def test_bytes_behind_a_certificate_are_refused(world: World) -> None:
    refused(lambda: Certificate.parse(world.pck.der() + b"\0"), Reason.DER_MALFORMED)


def test_an_oversized_certificate_is_refused_unread() -> None:
    refused(lambda: Certificate.parse(bytes(MAX_CERTIFICATE_SIZE + 1)), Reason.CERTIFICATE_MALFORMED)


def test_an_issuer_named_by_a_negative_serial_is_refused_without_a_word(world: World) -> None:
    """The library would warn on stderr; no peer and no PCCS makes our programs speak."""
    identifier = tlv(0x80, key_id("pck_ca"))
    for parse, raw, reason in (
        (Certificate.parse, world.pck.der(), Reason.CERTIFICATE_MALFORMED),
        (CRL.parse, world.pck_crl.der(), Reason.CRL_MALFORMED),
    ):
        changed = replaced(raw, identifier, tlv(0x82, b"\xff" + key_id("pck_ca")[1:]))
        with pytest.raises(MalformedInput) as caught:
            parse(changed)
        assert caught.value.reason is reason


def test_an_extension_of_nothing_is_refused(world: World) -> None:
    for odd in ("301f0503551d23", "301f041d551d23"):
        raw = replaced(world.tcb_signer.der(), bytes.fromhex("301f0603551d23"), bytes.fromhex(odd))
        with pytest.raises(MalformedInput) as caught:
            Certificate.parse(raw)
        assert caught.value.reason in (Reason.CERTIFICATE_MALFORMED, Reason.DER_MALFORMED)


def with_unused_bits(raw: bytes, signature: bytes, count: int) -> bytes:
    at = raw.index(signature) - 1
    assert raw[at] == 0
    return raw[:at] + bytes((count,)) + raw[at + 1 :]


@pytest.mark.parametrize("count", [1, 7, 255])
def test_a_signature_is_of_whole_bytes(world: World, count: int) -> None:
    """The count of unused bits is outside of what is signed: free, it would give one certificate many fingerprints."""
    certificate = Certificate.parse(world.pck.der())
    changed = with_unused_bits(certificate.der, certificate.signature, count)
    refused(lambda: Certificate.parse(changed), Reason.CERTIFICATE_MALFORMED)
    crl = CRL.parse(world.pck_crl.der())
    changed_crl = with_unused_bits(crl.der, crl.signature, count)
    refused(lambda: CRL.parse(changed_crl), Reason.CRL_MALFORMED)


# --- PEM chains


def test_a_pem_chain_keeps_its_order(world: World) -> None:
    ders = (world.pck.der(), world.pck_ca.der(), world.root.der())
    assert parse_pem_chain(pem(*ders)) == ders


@pytest.mark.parametrize(
    "respell",
    [
        pytest.param(lambda chain: chain + b"\0", id="a C string"),
        pytest.param(lambda chain: chain + b"\0\0\0", id="several zeros"),
        pytest.param(lambda chain: chain.replace(b"\n", b"\r\n"), id="carriage returns"),
        pytest.param(lambda chain: b"\n" + chain.rstrip(), id="no final newline"),
        pytest.param(lambda chain: chain.replace(b"-----\n-----", b"----------"), id="nothing between"),
    ],
)
def test_spellings_of_a_pem_chain_that_occur_are_read(world: World, respell: Callable[[bytes], bytes]) -> None:
    ders = (world.tcb_signer.der(), world.root.der())
    assert parse_pem_chain(respell(pem(*ders))) == ders


@pytest.mark.parametrize(
    "respell",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda _: b"\0", id="an empty C string"),
        pytest.param(lambda chain: b"text\n" + chain, id="text before"),
        pytest.param(lambda chain: chain + b"text", id="text behind"),
        pytest.param(lambda chain: chain.replace(b"-----\n-----", b"-----\ntext\n-----"), id="text between"),
        pytest.param(lambda chain: chain[:-30], id="cut off"),
        pytest.param(lambda chain: chain.replace(b"MII", b"M*I", 1), id="no base64"),
        pytest.param(lambda chain: chain.replace(b"MII", b"MI", 1), id="too little base64"),
        pytest.param(lambda chain: chain.replace(b"CERTIFICATE", b"PRIVATE KEY"), id="something else"),
        pytest.param(lambda chain: chain + b"\0text", id="text behind the end of the C string"),
    ],
)
def test_a_broken_pem_chain_is_refused(world: World, respell: Callable[[bytes], bytes]) -> None:
    chain = pem(world.tcb_signer.der(), world.root.der())
    refused(lambda: parse_pem_chain(respell(chain)), Reason.CERTIFICATE_MALFORMED)


def test_a_pem_chain_is_bounded(world: World) -> None:
    chain = pem(*[world.root.der()] * 4)
    assert len(parse_pem_chain(chain, maximum=4)) == 4
    refused(lambda: parse_pem_chain(chain, maximum=3), Reason.CERTIFICATE_MALFORMED)
    refused(lambda: parse_pem_chain(b"\n" * (MAX_PEM_SIZE + 1)), Reason.CERTIFICATE_MALFORMED)


def test_base64_of_a_pem_chain_is_only_decoded() -> None:
    """What stands inside is the certificate parser's business."""
    block = b"-----BEGIN CERTIFICATE-----\n%b\n-----END CERTIFICATE-----\n"
    assert parse_pem_chain(block % base64.b64encode(b"junk")) == (b"junk",)


# --- CRLs


def test_a_crl_is_taken_apart(world: World) -> None:
    world.pck_crl.revoked = [99, 1 << 150]
    crl = CRL.parse(world.pck_crl.der())
    assert crl.issuer == name_of("Intel SGX PCK Platform CA").public_bytes()
    assert (crl.number, crl.authority_key_id) == (1, key_id("pck_ca"))
    assert (crl.this_update, crl.next_update) == (world.pck_crl.this_update, world.pck_crl.next_update)
    assert crl.revoked_serials == {4711, 99, 1 << 150}


def test_a_crl_lists_by_serial(world: World) -> None:
    world.pck_crl.revoked = [world.pck.serial_number]
    crl = CRL.parse(world.pck_crl.der())
    assert crl.lists(Certificate.parse(world.pck.der()))
    assert not crl.lists(Certificate.parse(world.pck_ca.der()))


def test_an_entry_without_a_reason_revokes_as_well(world: World) -> None:
    world.pck_crl.entry_extra = []
    assert CRL.parse(world.pck_crl.der()).revoked_serials == {4711}


@pytest.mark.parametrize(
    "break_it",
    [
        pytest.param(lambda crl: setattr(crl, "number", None), id="no number"),
        pytest.param(lambda crl: setattr(crl, "authority_key_id", b""), id="no authority key id"),
        pytest.param(lambda crl: crl.extra.append(UNKNOWN_CRITICAL), id="an unknown critical extension"),
        pytest.param(
            lambda crl: crl.extra.append((x509.DeltaCRLIndicator(1), True)), id="a list of changes, not of all"
        ),
        pytest.param(
            lambda crl: crl.entry_extra.append(
                (x509.CertificateIssuer([x509.DirectoryName(name_of("somebody else"))]), True)
            ),
            id="entries for another issuer",
        ),
    ],
)
def test_a_crl_that_does_not_tell_all_is_refused(world: World, break_it: Callable[[CRLTemplate], None]) -> None:
    break_it(world.pck_crl)
    refused(lambda: CRL.parse(world.pck_crl.der()), Reason.CRL_MALFORMED)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("020101300a", "020102300a", id="version 3"),
        pytest.param("300a06082a8648ce3d040302", "300a06082a8648ce3d040303", id="another signature algorithm"),
        pytest.param("170d", "130d", id="dates that are no dates"),
    ],
)
def test_a_crl_with_one_odd_field_is_refused(world: World, old: str, new: str) -> None:
    raw = replaced(world.pck_crl.der(), bytes.fromhex(old), bytes.fromhex(new))
    refused(lambda: CRL.parse(raw), Reason.CRL_MALFORMED)


@pytest.mark.parametrize("dates", [b"", tlv(0x17, b"260501000000Z")], ids=["no date", "no next date"])
def test_a_crl_without_an_end_is_refused(dates: bytes) -> None:
    """A list that names no next one would be good for ever."""
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    authority = tlv(0x30, bytes.fromhex("0603551d23") + tlv(0x04, tlv(0x30, tlv(0x80, key_id("root")))))
    number = tlv(0x30, bytes.fromhex("0603551d14") + tlv(0x04, b"\2\1\1"))
    tbs = tlv(
        0x30,
        b"\2\1\1"
        + algorithm
        + name_of("Intel SGX Root CA").public_bytes()
        + dates
        + tlv(0xA0, tlv(0x30, number + authority)),
    )
    signature = key("root").sign(tbs, ec.ECDSA(SHA256()))
    raw = tlv(0x30, tbs + algorithm + tlv(0x03, b"\0" + signature))
    assert not dates or x509.load_der_x509_crl(raw).next_update_utc is None
    refused(lambda: CRL.parse(raw), Reason.CRL_MALFORMED)


@pytest.mark.parametrize("raw", [b"", b"\x30\x00", b"junk", bytes(100), bytes(MAX_CRL_SIZE + 1)])
def test_junk_is_no_crl(raw: bytes) -> None:
    refused(lambda: CRL.parse(raw), Reason.CRL_MALFORMED, Reason.DER_MALFORMED)


def test_a_certificate_is_no_crl(world: World) -> None:
    refused(lambda: CRL.parse(world.root.der()), Reason.CRL_MALFORMED)


def test_a_crl_that_is_cut_short_is_refused(world: World) -> None:
    refused(lambda: CRL.parse(tlv(0x30, b"\x30\x00")), Reason.CRL_MALFORMED)
    refused(lambda: CRL.parse(world.root_crl.der()[:-1]), Reason.DER_MALFORMED)


def test_the_fields_of_a_crl_may_be_any_number_of_any_kind(world: World) -> None:
    """Nothing but our own error comes of any row of fields."""
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    name = name_of("Intel SGX Root CA").public_bytes()
    date, extensions = tlv(0x17, b"260501000000Z"), tlv(0xA0, tlv(0x30, b""))
    fields = (b"\2\1\1", algorithm, name, date, date, tlv(0x30, b""), extensions)
    for chosen in range(1 << len(fields)):
        row = b"".join(field for at, field in enumerate(fields) if chosen >> at & 1)
        raw = tlv(0x30, tlv(0x30, row) + algorithm + tlv(0x03, b"\0" + bytes(8)))
        refused(lambda raw=raw: CRL.parse(raw), Reason.CRL_MALFORMED)  # type: ignore[misc]
