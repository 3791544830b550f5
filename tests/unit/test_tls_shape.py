"""Certificates of one shape: what is read of them by places is what two libraries read of them, or nothing."""

from __future__ import annotations

import statistics
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from eaa.errors import EAAError
from eaa.tls import leaf
from eaa.tls import shape as shape_module
from eaa.tls.certificate import Format, RATLSCertificate
from eaa.tls.shape import Shapes
from support import odd_certificates as odd
from support.tls_world import NOW

KEY = ec.generate_private_key(ec.SECP256R1())
MANY = [odd.plain(KEY) for _ in range(30)]
PLAIN = next(raw for raw in MANY if len(raw) == statistics.mode(len(raw) for raw in MANY))
"""Of the size that most of them have: that of a signature differs by a byte or two, and seldom by more."""


def shapes_of(*certificates: bytes) -> Shapes:
    shapes = Shapes()
    for raw in certificates:
        shapes.learn(raw, RATLSCertificate.parse(raw))
    return shapes


SHAPES = shapes_of(PLAIN)


def read_twice(raw: bytes) -> RATLSCertificate | None:
    """What both libraries read, None where either refuses."""
    try:
        return leaf._read_twice(raw)
    except EAAError:
        return None


def test_another_certificate_of_the_same_maker_is_read_by_places() -> None:
    """Sizes of signatures differ by a byte or two, so a few certificates are tried."""
    others = [odd.plain(ec.generate_private_key(ec.SECP256R1())) for _ in range(50)]
    alike = [raw for raw in others if len(raw) == len(PLAIN)]
    assert alike
    for raw in alike:
        assert SHAPES.read(raw) == RATLSCertificate.parse(raw) == read_twice(raw)


def test_of_another_size_nothing_is_read() -> None:
    assert SHAPES.read(PLAIN + b"\0") is None
    assert SHAPES.read(b"") is None


def test_whichever_byte_is_changed_what_is_read_by_places_two_libraries_read_as_well() -> None:
    """Every byte in front of the evidence and behind it, to what differs little and to what differs much."""
    evidence = RATLSCertificate.parse(PLAIN).evidence
    assert evidence is not None
    begin = PLAIN.index(evidence)
    places = [at for at in range(len(PLAIN)) if not begin + 8 < at < begin + len(evidence) - 8]
    taken = 0
    for at in places:
        for value in {PLAIN[at] ^ 1, PLAIN[at] ^ 0x80, 0, 0x30, 0xFF} - {PLAIN[at]}:
            raw = PLAIN[:at] + bytes([value]) + PLAIN[at + 1 :]
            found = SHAPES.read(raw)
            if found is not None:
                taken += 1
                assert found == read_twice(raw), (at, value)
    # Serial number, dates, identifiers and signature may be others; a point that is on the curve is not hit by chance.
    assert 200 < taken < 5 * len(places)


@given(st.data())
def test_whatever_is_changed_what_is_read_by_places_two_libraries_read_as_well(data: st.DataObject) -> None:
    raw = bytearray(PLAIN)
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(raw) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=8))[: len(raw) - begin]
        raw[begin : begin + len(piece)] = piece
    found = SHAPES.read(bytes(raw))
    assert found is None or found == read_twice(bytes(raw))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"serial", bytes(20)),
        (b"serial", b"\xff" * 20),
        (b"dates", b"991399999999Z"),
        (b"point", bytes(64)),
        (b"point", b"\xff" * 64),
    ],
)
def test_a_value_that_is_none_is_read_the_long_way(before: bytes, after: bytes) -> None:
    read = RATLSCertificate.parse(PLAIN)
    known = {
        b"serial": read.serial_number.to_bytes(20, "big"),
        b"dates": read.not_before.strftime("%y%m%d%H%M%SZ").encode(),
        b"point": read.spki_der[-64:],
    }[before]
    if known not in PLAIN:
        pytest.skip("a serial number of fewer bytes than most")
    assert SHAPES.read(PLAIN.replace(known, after, 1)) is None


def test_a_serial_number_of_one_byte_may_not_be_zero() -> None:
    raw = odd.changed(PLAIN, KEY, lambda fields: {**fields, "serial": odd.element(2, b"\x05")})
    shapes = shapes_of(raw)
    assert shapes.read(raw) is not None
    assert shapes.read(raw.replace(b"\x02\x01\x05\x30", b"\x02\x01\x00\x30", 1)) is None


@pytest.mark.parametrize(
    "raw",
    [
        odd.plain(KEY, evidence=None),
        odd.changed(PLAIN, KEY, odd.version_4),
        odd.two_formats(KEY),
        odd.plain(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        odd.plain(
            rsa.generate_private_key(public_exponent=65537, key_size=3072), evidence=None, format=Format.ENCLAVE_TLS_V1
        ),
    ],
    ids=["without-evidence", "version-4", "two-formats", "rsa", "of-2021"],
)
def test_rare_certificates_are_always_read_the_long_way(raw: bytes) -> None:
    assert shapes_of(raw).read(raw) is None


def test_dates_and_identifiers_of_other_forms_are_no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not have its usual form is common to a shape, so that another one is another shape."""
    identifier = odd.extension("2.5.29.14", b"\x04\x02ab")
    key = RATLSCertificate.parse(PLAIN)
    assert key.tagged is not None
    evidence = odd.extension("2.23.133.5.4.9", key.tagged.encode())
    raw = odd.changed(PLAIN, KEY, odd.with_extensions(identifier, evidence))
    shapes = shapes_of(raw)
    assert shapes.read(raw) == RATLSCertificate.parse(raw)
    assert shapes.read(raw.replace(b"\x04\x02ab", b"\x04\x02cd", 1)) is None


def test_evidence_that_is_padded_is_one_value() -> None:
    """As old C peers write it. What is in it is read anew each time, so that another size of the quote is none."""
    tagged = RATLSCertificate.parse(PLAIN).tagged
    assert tagged is not None
    padded = tagged.encode() + b"\xff" * 40
    raw = odd.changed(PLAIN, KEY, odd.with_extensions(odd.extension("2.23.133.5.4.9", padded)))
    shapes = shapes_of(raw)
    assert shapes.read(raw) == RATLSCertificate.parse(raw)
    other = raw.replace(padded, bytes(len(padded)))
    assert shapes.read(other) is None


def test_the_encoding_of_evidence_is_of_the_shape() -> None:
    """A quote that says to be longer, and claims that say to be shorter, are read the long way."""
    tagged = RATLSCertificate.parse(PLAIN).tagged
    assert tagged is not None
    begin = PLAIN.index(tagged.evidence)
    for at in (*range(begin - 8, begin), begin + len(tagged.evidence), begin + len(tagged.evidence) + 1):
        assert SHAPES.read(PLAIN[:at] + bytes([PLAIN[at] ^ 1]) + PLAIN[at + 1 :]) is None


def test_shapes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape_module, "MAX_SHAPES", 3)
    made = [odd.changed(PLAIN, KEY, odd.with_extensions(*_extensions(size))) for size in range(6)]
    shapes = shapes_of(*made)
    assert sum(shapes.read(raw) is not None for raw in made) <= 3
    assert shapes.read(made[-1]) is not None


def _extensions(size: int) -> tuple[bytes, bytes]:
    tagged = RATLSCertificate.parse(PLAIN).tagged
    assert tagged is not None
    return odd.extension("2.23.133.5.4.9", tagged.encode()), odd.extension("1.2.3.4", bytes(size))


def test_a_leaf_of_a_known_shape_is_judged_by_its_dates() -> None:
    for _ in range(20):
        raw = odd.plain(ec.generate_private_key(ec.SECP256R1()))
        leaf.read_leaf(raw, now=NOW)
        with pytest.raises(EAAError):
            leaf.read_leaf(raw, now=NOW + timedelta(days=400))
