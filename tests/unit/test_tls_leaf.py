"""A peer's leaf in a handshake: what is refused of it before anybody looks at its evidence."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from eaa.errors import EAAError, Reason
from eaa.tls.certificate import ENDORSEMENTS_OID, EVIDENCE_OID, LEGACY_QUOTE_OID, MAX_EXTENSION_SIZE, Format
from eaa.tls.leaf import read_leaf
from support import odd_certificates as odd
from support.tls_world import HOUR, NOW

KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=3072)
DAY = timedelta(days=1)


def refused(raw: bytes) -> Reason:
    with pytest.raises(EAAError) as caught:
        read_leaf(raw, now=NOW)
    return caught.value.reason


@pytest.mark.parametrize(
    ("raw", "version"),
    [
        (odd.plain(KEY), 3),
        (odd.plain(KEY, evidence=None), 3),
        (odd.changed(odd.plain(KEY), KEY, odd.version_4), 4),
        (odd.changed(odd.plain(KEY), KEY, odd.null_beside_ecdsa), 3),
        (odd.changed(odd.plain(KEY), KEY, lambda fields: odd.version_4(odd.null_beside_ecdsa(fields))), 4),
        (odd.changed(odd.plain(RSA_KEY, evidence=None, format=Format.ENCLAVE_TLS_V1), RSA_KEY, odd.version_4), 4),
        (odd.two_formats(KEY), 3),
    ],
    ids=["plain", "without-evidence", "version-4", "null-beside-ecdsa", "both-mistakes", "of-2021", "two-formats"],
)
def test_what_peers_really_send_is_read(raw: bytes, version: int) -> None:
    """Twice: the second time it is known."""
    assert read_leaf(raw, now=NOW).version == version
    assert read_leaf(raw, now=NOW) is read_leaf(raw, now=NOW)


def _renamed(oid: str) -> Callable[[odd.Fields], odd.Fields]:
    return odd.with_extensions(odd.extension(oid, b"\x30\x00"))


@pytest.mark.parametrize(
    "change",
    [
        odd.compressed_point(KEY),
        lambda fields: {**fields, "algorithm": odd.element(0x30, odd.ECDSA_SHA256, odd.NULL, odd.NULL)},
        lambda fields: {**fields, "algorithm": odd.element(0x30, odd.ECDSA_SHA256, b"\x02\x01\x00")},
        lambda fields: {**fields, "subject": odd.element(0x30, b"\x31\x00")},
        lambda fields: {**fields, "spki": odd.element(0x30, fields["spki"][2:], b"\x05\x00")},
    ],
    ids=["compressed-point", "two-nulls", "a-number-beside-ecdsa", "empty-name", "something-behind-the-key"],
)
def test_what_two_libraries_read_differently_is_refused(change: Callable[[odd.Fields], odd.Fields]) -> None:
    assert refused(odd.changed(odd.plain(KEY), KEY, change)) in (Reason.CERTIFICATE_AMBIGUOUS, Reason.DER_MALFORMED)


def test_a_key_that_openssl_would_hash_to_something_else_is_refused() -> None:
    """The handshake would prove a key, and the evidence name other bytes for it."""
    raw = odd.changed(odd.plain(KEY), KEY, odd.compressed_point(KEY))
    assert refused(raw) is Reason.CERTIFICATE_AMBIGUOUS


def test_a_certificate_that_only_we_can_read_is_refused() -> None:
    spki = odd.element(0x30, odd.element(0x30, odd.encoded_oid("1.2.3.4")), odd.element(3, b"\0key"))
    raw = odd.changed(odd.plain(KEY), KEY, lambda fields: {**fields, "spki": spki})
    assert refused(raw) is Reason.CERTIFICATE_AMBIGUOUS


@pytest.mark.parametrize("content", odd.BOMBS.values(), ids=odd.BOMBS.keys())
@pytest.mark.parametrize("oid", [EVIDENCE_OID, ENDORSEMENTS_OID])
def test_bombs_do_not_go_off(content: bytes, oid: str) -> None:
    assert refused(odd.bombed(KEY, content, oid=oid)) is Reason.EVIDENCE_MALFORMED


@pytest.mark.parametrize("oid", [EVIDENCE_OID, ENDORSEMENTS_OID, LEGACY_QUOTE_OID, "1.2.3.4"])
@pytest.mark.parametrize("size", [MAX_EXTENSION_SIZE + 1, 60_000])
def test_a_huge_extension_is_refused_whatever_it_is(oid: str, size: int) -> None:
    """The reference client of 2021 dies of one of 60,000 bytes."""
    assert refused(odd.padded(KEY, size, oid=oid)) is Reason.CERTIFICATE_MALFORMED


def test_thousands_of_extensions_are_refused() -> None:
    assert refused(odd.crowded(KEY, 5000)) is Reason.DER_MALFORMED


@pytest.mark.parametrize("oid", [EVIDENCE_OID, LEGACY_QUOTE_OID, "1.2.3.4"])
def test_an_extension_that_stands_there_twice_is_refused(oid: str) -> None:
    assert refused(odd.duplicated(KEY, oid=oid)) is Reason.CERTIFICATE_MALFORMED


def test_critical_extensions_that_nobody_knows_are_refused() -> None:
    raw = odd.changed(odd.plain(KEY), KEY, odd.with_extensions(odd.extension("1.2.3.4", b"x", critical=True)))
    assert refused(raw) is Reason.CERTIFICATE_MALFORMED


@pytest.mark.parametrize(
    ("serial", "reason"), [(b"\x00", Reason.CERTIFICATE_MALFORMED), (b"\xff", Reason.DER_MALFORMED)]
)
def test_a_serial_number_is_positive(serial: bytes, reason: Reason) -> None:
    raw = odd.changed(odd.plain(KEY), KEY, lambda fields: {**fields, "serial": odd.element(2, serial)})
    assert refused(raw) is reason


def test_evidence_in_two_formats_that_differ_is_refused() -> None:
    assert refused(odd.two_formats(KEY, mr_enclave=bytes(32))) is Reason.EVIDENCE_AMBIGUOUS


@pytest.mark.parametrize(
    ("now", "reason"),
    [(NOW - DAY, Reason.CERTIFICATE_NOT_YET_VALID), (NOW + 2 * DAY, Reason.CERTIFICATE_EXPIRED)],
)
def test_dates_are_judged_also_of_a_leaf_that_is_known(now: object, reason: Reason) -> None:
    raw = odd.plain(KEY)
    read_leaf(raw, now=NOW)
    with pytest.raises(EAAError) as caught:
        read_leaf(raw, now=now)  # type: ignore[arg-type]
    assert caught.value.reason is reason
    read_leaf(raw, now=NOW - HOUR - timedelta(minutes=1), early=timedelta(minutes=5))
