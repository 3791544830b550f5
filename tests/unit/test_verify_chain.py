"""Roots, roles, issuance, CRLs, raw signatures and dates, each alone."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from eaa.collateral.x509 import CRL, Certificate
from eaa.errors import EAAError, Misuse, Reason, VerificationError
from eaa.verify import documents
from eaa.verify.chain import (
    INTEL,
    INTEL_ROOTS,
    PCK,
    PCK_CA,
    ROOT,
    TCB_SIGNER,
    CertificateRole,
    TrustAnchors,
    certificate_window,
    crl_window,
    pin_root,
    raw_signature_is_valid,
    verify_crl,
    verify_dates,
    verify_issued,
    verify_not_revoked,
    verify_role,
    verify_root,
)
from eaa.verify.dcap import verify_collateral, verify_quote
from support.dcap_world import NOW, SGXExtension, World, key, pem, raw_sign

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
SECOND = timedelta(seconds=1)


@pytest.fixture
def world() -> World:
    return World()


def parsed(world: World, name: str) -> Certificate:
    return Certificate.parse(getattr(world, name).der())


# --- trust anchors


def test_intels_root_is_pinned_by_its_published_fingerprint() -> None:
    assert {root.hex() for root in INTEL_ROOTS} == {"44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"}
    assert INTEL.fingerprints == INTEL_ROOTS
    assert all(TrustAnchors.is_vendor(root) for root in INTEL_ROOTS)
    assert not TrustAnchors.is_vendor(bytes(32))


def test_an_earlier_certificate_of_intels_root_is_no_anchor_and_is_told_apart(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same key signed both; two anchors for one key would have two floors, and a choice between them."""
    root = Certificate.parse(world.root.der())
    with pytest.raises(VerificationError) as stranger:
        pin_root(root, INTEL)
    monkeypatch.setattr("eaa.verify.chain._EARLIER_INTEL_ROOT", root.fingerprint)
    with pytest.raises(VerificationError) as earlier:
        pin_root(root, INTEL)
    assert stranger.value.reason is earlier.value.reason is Reason.ROOT_UNTRUSTED
    assert stranger.value.hint is not None
    assert earlier.value.hint is not None
    assert ("simulated" in stranger.value.hint, "renew" in earlier.value.hint) == (True, True)


def test_an_anchor_is_read_from_pem(world: World) -> None:
    root = parsed(world, "root")
    anchors = TrustAnchors.from_pem(pem(root.der))
    assert anchors.fingerprints == {root.fingerprint}
    assert anchors.trusts(root)
    pin_root(root, anchors)


def test_a_root_that_was_read_as_an_anchor_is_verified_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is named, and never again; a root that only its fingerprint names is verified with each collateral."""
    named, by_fingerprint = TrustAnchors.from_pem(pem(world.root.der())), world.trust_anchors
    assert named == by_fingerprint
    verified: list[Certificate] = []
    monkeypatch.setattr(documents, "verify_root", verified.append)
    for anchors, roots in ((named, 0), (by_fingerprint, 1)):
        verified.clear()
        verify_collateral(world.collateral(), trust_anchors=anchors, now=world.now)
        verify_quote(world.quote(), world.collateral(), trust_anchors=anchors, now=world.now)
        assert len(verified) == 2 * roots


def test_nobody_says_of_a_root_that_it_was_verified(world: World) -> None:
    """Only reading it does; whoever leaves the word out has the root verified."""
    make: Any = TrustAnchors
    with pytest.raises(TypeError):
        make(world.trust_anchors.fingerprints, (parsed(world, "root"),))
    world.root.common_name = "Somebody Else"
    root = parsed(world, "root")
    with pytest.raises(VerificationError) as caught:
        documents.verify_root_crl(world.root_crl.der(), root=root)
    assert caught.value.reason is Reason.CERTIFICATE_ROLE


def test_a_root_beside_one_that_was_read_is_not_trusted(world: World) -> None:
    """Another certificate of the same name and key is another root."""
    anchors = TrustAnchors.from_pem(pem(world.root.der()))
    world.root.serial += 1
    with pytest.raises(VerificationError) as caught:
        verify_collateral(world.collateral(), trust_anchors=anchors, now=world.now)
    assert caught.value.reason is Reason.ROOT_UNTRUSTED


@pytest.mark.parametrize("name", ["pck", "pck_ca", "tcb_signer"])
def test_an_anchor_is_a_root(world: World, name: str) -> None:
    with pytest.raises(Misuse) as caught:
        TrustAnchors.from_pem(pem(getattr(world, name).der()))
    assert caught.value.reason is Reason.TRUST_ANCHOR_INVALID


@pytest.mark.parametrize("junk", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nanVuaw==\n-----END CERTIFICATE-----\n"])
def test_junk_is_no_anchor(junk: bytes) -> None:
    with pytest.raises(Misuse) as caught:
        TrustAnchors.from_pem(junk)
    assert caught.value.reason is Reason.TRUST_ANCHOR_INVALID


@pytest.mark.parametrize("fingerprints", [frozenset(), frozenset({b"short"}), frozenset({bytes(32), bytes(20)})])
def test_anchors_are_fingerprints_and_not_none(fingerprints: frozenset[bytes]) -> None:
    with pytest.raises(Misuse) as caught:
        TrustAnchors(fingerprints)
    assert caught.value.reason is Reason.TRUST_ANCHOR_INVALID


def test_another_root_of_the_same_name_is_not_trusted(world: World) -> None:
    with pytest.raises(VerificationError) as caught:
        pin_root(parsed(world, "root"), INTEL)
    assert caught.value.reason is Reason.ROOT_UNTRUSTED


# --- roles

ROLES = {"root": ROOT, "pck_ca": PCK_CA, "pck": PCK, "tcb_signer": TCB_SIGNER}


@pytest.mark.parametrize("name", ROLES)
@pytest.mark.parametrize("role", ROLES.values(), ids=lambda role: role.name)
def test_a_certificate_has_one_role(world: World, name: str, role: CertificateRole) -> None:
    certificate = parsed(world, name)
    if ROLES[name] is role:
        verify_role(certificate, role)
        return
    with pytest.raises(VerificationError) as caught:
        verify_role(certificate, role)
    assert caught.value.reason is Reason.CERTIFICATE_ROLE


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        pytest.param("root", "common_name", "Intel SGX", id="root of another name"),
        pytest.param("root", "is_ca", None, id="root without basicConstraints"),
        pytest.param("root", "path_length", 0, id="root that may have no CA below it"),
        pytest.param("root", "usage", {"key_cert_sign"}, id="root that may not sign CRLs"),
        pytest.param("root", "subject_key_id", b"", id="root without key identifier"),
        pytest.param("pck_ca", "common_name", "Intel SGX PCK Other CA", id="CA of another name"),
        pytest.param("pck_ca", "is_ca", None, id="CA without basicConstraints"),
        pytest.param("pck_ca", "usage", None, id="CA without keyUsage"),
        pytest.param("pck_ca", "usage", {"crl_sign"}, id="CA that may not sign certificates"),
        pytest.param("pck_ca", "usage", {"digital_signature"}, id="CA that may sign data only"),
        pytest.param("pck_ca", "sgx", SGXExtension(), id="CA with SGX extension"),
        pytest.param("pck", "common_name", "Intel SGX Certificate", id="PCK of another name"),
        pytest.param("pck", "sgx", None, id="PCK without SGX extension"),
        pytest.param("pck", "is_ca", None, id="PCK without basicConstraints"),
        pytest.param("pck", "is_ca", True, id="PCK that is a CA"),
        pytest.param("pck", "usage", None, id="PCK without keyUsage"),
        pytest.param("pck", "usage", {"digital_signature", "key_cert_sign"}, id="PCK that may sign certificates"),
        pytest.param("pck", "usage", {"key_agreement"}, id="PCK that may not sign data"),
        pytest.param("tcb_signer", "common_name", "Intel SGX", id="signer of another name"),
        pytest.param("tcb_signer", "sgx", SGXExtension(), id="signer with SGX extension"),
        pytest.param("tcb_signer", "is_ca", True, id="signer that is a CA"),
        pytest.param("tcb_signer", "usage", {"digital_signature", "crl_sign"}, id="signer that may sign CRLs"),
    ],
)
def test_a_certificate_that_does_not_look_its_role_is_refused(
    world: World, name: str, field: str, value: object
) -> None:
    setattr(getattr(world, name), field, value)
    with pytest.raises(VerificationError) as caught:
        verify_role(parsed(world, name), ROLES[name])
    assert caught.value.reason is Reason.CERTIFICATE_ROLE


@pytest.mark.parametrize(
    ("name", "field", "value", "told"),
    [
        ("pck_ca", "is_ca", None, "its basicConstraints do not allow that"),
        ("pck_ca", "usage", None, "its keyUsage does not allow that"),
        ("root", "subject_key_id", b"", "it has no subject key identifier"),
        ("pck", "sgx", None, "it lacks the SGX extension"),
        ("tcb_signer", "sgx", SGXExtension(), "it carries the SGX extension"),
    ],
)
def test_a_refusal_says_what_speaks_against_the_role(
    world: World, name: str, field: str, value: object, told: str
) -> None:
    setattr(getattr(world, name), field, value)
    with pytest.raises(VerificationError) as caught:
        verify_role(parsed(world, name), ROLES[name])
    assert caught.value.message.endswith(f": {told}")


@pytest.mark.parametrize("kind", ["Processor", "Platform"])
def test_both_pck_cas_are_known(world: World, kind: str) -> None:
    world.pck_ca.common_name = f"Intel SGX PCK {kind} CA"
    verify_role(parsed(world, "pck_ca"), PCK_CA)


def test_a_root_needs_no_path_length(world: World) -> None:
    world.root.path_length = None
    verify_root(parsed(world, "root"))


# --- issuance


def test_the_good_chain_is_issued(world: World) -> None:
    verify_root(parsed(world, "root"))
    verify_issued(parsed(world, "pck_ca"), issuer=parsed(world, "root"))
    verify_issued(parsed(world, "pck"), issuer=parsed(world, "pck_ca"))


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        pytest.param("issuer_name", "Intel SGX Root CA", Reason.CERTIFICATE_CHAIN, id="another name"),
        pytest.param("authority_key_id", b"", Reason.CERTIFICATE_CHAIN, id="no key identifier"),
        pytest.param("authority_key_id", bytes(20), Reason.CERTIFICATE_CHAIN, id="another key identifier"),
        pytest.param("signed_by", "foreign", Reason.CERTIFICATE_SIGNATURE, id="another signature"),
    ],
)
def test_name_key_identifier_and_signature_are_separate(
    world: World, field: str, value: object, reason: Reason
) -> None:
    setattr(world.pck, field, value)
    with pytest.raises(VerificationError) as caught:
        verify_issued(parsed(world, "pck"), issuer=parsed(world, "pck_ca"))
    assert caught.value.reason is reason


def test_missing_identifiers_on_both_sides_are_not_equal(world: World) -> None:
    world.pck.authority_key_id = b""
    world.pck_ca.subject_key_id = b""
    with pytest.raises(VerificationError) as caught:
        verify_issued(parsed(world, "pck"), issuer=parsed(world, "pck_ca"))
    assert caught.value.reason is Reason.CERTIFICATE_CHAIN


def test_a_root_signs_itself(world: World) -> None:
    world.root.signed_by = "foreign"
    with pytest.raises(VerificationError) as caught:
        verify_root(parsed(world, "root"))
    assert caught.value.reason is Reason.CERTIFICATE_SIGNATURE


# --- CRLs


def test_the_good_crl_is_issued(world: World) -> None:
    verify_crl(CRL.parse(world.pck_crl.der()), issuer=parsed(world, "pck_ca"), name="PCK CRL")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        pytest.param("issuer_name", "Intel SGX PCK Processor CA", Reason.CRL_ISSUER, id="another name"),
        pytest.param("authority_key_id", bytes(20), Reason.CRL_ISSUER, id="another key identifier"),
        pytest.param("signed_by", "foreign", Reason.CRL_SIGNATURE, id="another signature"),
    ],
)
def test_a_crl_of_somebody_else_is_refused(world: World, field: str, value: object, reason: Reason) -> None:
    setattr(world.pck_crl, field, value)
    with pytest.raises(VerificationError) as caught:
        verify_crl(CRL.parse(world.pck_crl.der()), issuer=parsed(world, "pck_ca"), name="PCK CRL")
    assert caught.value.reason is reason


def test_a_listed_serial_is_revoked(world: World) -> None:
    certificate = parsed(world, "pck")
    verify_not_revoked(certificate, crl=CRL.parse(world.pck_crl.der()))
    world.pck_crl.revoked = [certificate.serial_number]
    with pytest.raises(VerificationError) as caught:
        verify_not_revoked(certificate, crl=CRL.parse(world.pck_crl.der()))
    assert caught.value.reason is Reason.CERTIFICATE_REVOKED


# --- raw signatures


def test_a_raw_signature_is_verified() -> None:
    public_key = key("attestation").public_key()
    signature = raw_sign("attestation", b"a message")
    assert raw_signature_is_valid(signature, b"a message", public_key)
    assert not raw_signature_is_valid(signature, b"another message", public_key)
    assert not raw_signature_is_valid(signature, b"a message", key("foreign").public_key())
    assert not raw_signature_is_valid(signature[32:] + signature[:32], b"a message", public_key)


@pytest.mark.parametrize("length", [0, 63, 65, 128])
def test_a_raw_signature_has_64_bytes(length: int) -> None:
    signature = (raw_sign("attestation", b"a message") * 2)[:length]
    assert not raw_signature_is_valid(signature, b"a message", key("attestation").public_key())


@pytest.mark.parametrize("value", [0, ORDER, ORDER + 1, (1 << 256) - 1], ids=["0", "n", "n+1", "max"])
@pytest.mark.parametrize("part", [0, 1], ids=["r", "s"])
def test_r_and_s_lie_between_0_and_the_order(value: int, part: int) -> None:
    halves = [raw_sign("attestation", b"a message")[:32], raw_sign("attestation", b"a message")[32:]]
    halves[part] = value.to_bytes(32, "big")
    assert not raw_signature_is_valid(b"".join(halves), b"a message", key("attestation").public_key())


def test_s_and_the_order_minus_s_are_one_signature() -> None:
    """ECDSA is malleable: nothing may take the bytes of a signature for the identity of what is signed."""
    signature = raw_sign("attestation", b"a message")
    other = (ORDER - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")
    assert raw_signature_is_valid(signature[:32] + other, b"a message", key("attestation").public_key())


class Listener:
    """A public key that only takes down what it is asked."""

    def verify(self, signature: bytes, *_: object) -> None:
        self.signature = signature


NUMBERS = (1, 0x7F, 0x80, 0x81, 0x80 << 240, 0xFF << 240, 1 << 248, 0x7F << 248, 0x80 << 248, 0x81 << 248, ORDER - 1)


@pytest.mark.parametrize("r", NUMBERS)
@pytest.mark.parametrize("s", [1, 0x80 << 248])
def test_a_raw_signature_is_written_in_der_as_the_library_writes_it(r: int, s: int) -> None:
    listener: Any = Listener()
    assert raw_signature_is_valid(r.to_bytes(32, "big") + s.to_bytes(32, "big"), b"a message", listener)
    assert listener.signature == encode_dss_signature(r, s)


# --- dates


def refused_at(moment: datetime, world: World, *, grace: timedelta = timedelta(0), what: str) -> Reason | None:
    windows = {
        "certificate": certificate_window(parsed(world, "pck"), name="PCK certificate"),
        "crl": crl_window(CRL.parse(world.pck_crl.der()), name="PCK CRL"),
    }
    try:
        verify_dates([windows[what]], now=moment, grace=grace)
    except EAAError as error:
        return error.reason
    return None


def test_a_certificate_is_valid_at_both_ends_and_not_beyond(world: World) -> None:
    first, last = world.pck.not_before, world.pck.not_after
    assert refused_at(first, world, what="certificate") is None
    assert refused_at(last, world, what="certificate") is None
    assert refused_at(first - SECOND, world, what="certificate") is Reason.CERTIFICATE_NOT_YET_VALID
    assert refused_at(last + SECOND, world, what="certificate") is Reason.CERTIFICATE_EXPIRED


def test_a_crl_is_valid_at_both_ends_and_not_beyond(world: World) -> None:
    first, last = world.pck_crl.this_update, world.pck_crl.next_update
    assert refused_at(first, world, what="crl") is None
    assert refused_at(last, world, what="crl") is None
    assert refused_at(first - SECOND, world, what="crl") is Reason.CRL_NOT_YET_VALID
    assert refused_at(last + SECOND, world, what="crl") is Reason.CRL_EXPIRED


def test_grace_extends_the_end_of_collateral_only(world: World) -> None:
    grace = timedelta(days=7)
    last = world.pck_crl.next_update
    assert refused_at(last + grace, world, grace=grace, what="crl") is None
    assert refused_at(last + grace + SECOND, world, grace=grace, what="crl") is Reason.CRL_EXPIRED
    early = world.pck_crl.this_update - SECOND
    assert refused_at(early, world, grace=grace, what="crl") is Reason.CRL_NOT_YET_VALID
    late = world.pck.not_after + SECOND
    assert refused_at(late, world, grace=grace, what="certificate") is Reason.CERTIFICATE_EXPIRED


def test_the_end_of_time_does_not_overflow(world: World) -> None:
    window = certificate_window(parsed(world, "root"), name="root certificate")
    for_ever = dataclasses.replace(window, not_after=datetime.max.replace(tzinfo=UTC), is_collateral=True)
    verify_dates([for_ever], now=NOW, grace=timedelta.max)


def test_now_may_be_of_another_zone(world: World) -> None:
    elsewhere = timezone(timedelta(hours=-11))
    last = world.pck.not_after.astimezone(elsewhere)
    assert refused_at(last, world, what="certificate") is None
    assert refused_at(last + SECOND, world, what="certificate") is Reason.CERTIFICATE_EXPIRED
