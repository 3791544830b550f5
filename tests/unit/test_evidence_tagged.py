"""Tagged evidence, claims and endorsements: exact bytes, strict for our peers, tolerant for others' certificates."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaa.errors import MalformedInput, Reason
from eaa.evidence import cbor
from eaa.evidence.quote import MAX_QUOTE_SIZE
from eaa.evidence.tagged import (
    MAX_CLAIMS_SIZE,
    MAX_ENDORSEMENTS_SIZE,
    MAX_TAGGED_EVIDENCE_SIZE,
    PUBKEY_HASH,
    QUOTE_TAG,
    Endorsements,
    TaggedEvidence,
    encode_claims,
    parse_claims,
    pubkey_hash_claim,
    pubkey_hash_matches,
)

SPKI = b"a SubjectPublicKeyInfo"
DIGEST = hashlib.sha256(SPKI).digest()
CLAIMS = b"\xa1\x6bpubkey-hash\x58\x24\x82\x01\x58\x20" + DIGEST
TAGGED = TaggedEvidence(evidence=b"quote", claims=CLAIMS)
ENDORSEMENTS = Endorsements(
    version=0x00010003,
    tcb_info=b'{"tcbInfo":{}}',
    tcb_info_issuer_chain=b"-----BEGIN",
    pck_crl=b"\x30\x02\x05\x00",
    root_ca_crl=b"\x30\x02\x05\x00",
    pck_crl_issuer_chain=b"-----BEGIN",
    qe_identity=b'{"enclaveIdentity":{}}',
    qe_identity_issuer_chain=b"-----BEGIN",
)


def tag(value: object, number: int = QUOTE_TAG) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(number, value))


# --- evidence


def test_tagged_evidence_is_these_bytes() -> None:
    """spec: head d9 ea60, array of two; the single claim makes 51 bytes."""
    assert encode_claims({PUBKEY_HASH: pubkey_hash_claim(SPKI)}) == CLAIMS
    assert len(CLAIMS) == 51
    assert TAGGED.encode() == b"\xd9\xea\x60\x82\x45quote\x58\x33" + CLAIMS
    assert TaggedEvidence.parse(TAGGED.encode()) == TAGGED


def test_report_data_is_the_hash_of_the_claims_as_they_stand() -> None:
    assert TAGGED.report_data == hashlib.sha256(CLAIMS).digest() + bytes(32)
    padded = replace(TAGGED, claims=CLAIMS + b"heap")
    assert padded.report_data == hashlib.sha256(CLAIMS + b"heap").digest() + bytes(32)


def test_a_certificate_s_padding_is_tolerated_and_a_message_s_is_not() -> None:
    padded = TAGGED.encode() + b"whatever the heap held"
    assert TaggedEvidence.parse_certificate_extension(padded) == TAGGED
    with pytest.raises(MalformedInput) as caught:
        TaggedEvidence.parse(padded)
    assert caught.value.reason is Reason.EVIDENCE_MALFORMED


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xd9\xea\x60",
        cbor2.dumps([b"quote", CLAIMS]),
        cbor2.dumps(QUOTE_TAG),
        tag([b"quote"]),
        tag([b"quote", CLAIMS, b""]),
        tag([b"quote", {}]),
        tag(["quote", CLAIMS]),
        tag({1: 2}),
        tag(tag([b"quote", CLAIMS])),
        tag(cbor2.CBORTag(QUOTE_TAG, [b"quote", CLAIMS])),
        tag([b"quote", CLAIMS], 59999),
        tag([b"quote", CLAIMS], 36),
        tag([1.5, CLAIMS]),
        b"\xd9\xea\x60\x9f\x41x\x41y\xff",
        b"\xd9\xea\x60\x82\x5f\x41x\xff\x41y",
        b"\xd9\xea\x60\x82\x41x\x5b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xd9\xea\x60\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xd9\xea\x60" * 10_000,
    ],
    ids=lambda raw: raw[:12].hex(),
)
def test_what_is_no_tagged_evidence(raw: bytes) -> None:
    for parse in (TaggedEvidence.parse, TaggedEvidence.parse_certificate_extension):
        with pytest.raises(MalformedInput) as caught:
            parse(raw)
        assert caught.value.reason is Reason.EVIDENCE_MALFORMED


@pytest.mark.parametrize(
    "raw",
    [
        b"\xda\x00\x00\xea\x60\x82\x41x\x41y",
        b"\xd9\xea\x60\x98\x02\x41x\x41y",
        b"\xd9\xea\x60\x82\x58\x01x\x41y",
    ],
)
def test_heads_longer_than_due_are_for_certificates_only(raw: bytes) -> None:
    assert TaggedEvidence.parse_certificate_extension(raw).evidence == b"x"
    with pytest.raises(MalformedInput):
        TaggedEvidence.parse(raw)


@pytest.mark.parametrize("number", [60001, 60002, 0x1A7504, 0x1A7505, 0x1A7506])
def test_evidence_of_a_known_kind_that_is_not_read_is_named(number: int) -> None:
    with pytest.raises(MalformedInput) as caught:
        TaggedEvidence.parse(tag([b"evidence", CLAIMS], number))
    assert caught.value.reason is Reason.TEE_TYPE_UNSUPPORTED


def test_sizes_are_bounded() -> None:
    for raw in (
        bytes(MAX_TAGGED_EVIDENCE_SIZE + 1),
        tag([bytes(MAX_QUOTE_SIZE + 1), b""]),
        tag([b"", bytes(MAX_CLAIMS_SIZE + 1)]),
    ):
        with pytest.raises(MalformedInput):
            TaggedEvidence.parse(raw)
    biggest = TaggedEvidence(evidence=bytes(MAX_QUOTE_SIZE), claims=bytes(MAX_CLAIMS_SIZE))
    assert TaggedEvidence.parse(biggest.encode()) == biggest
    with pytest.raises(MalformedInput):
        Endorsements.parse(bytes(MAX_ENDORSEMENTS_SIZE + 1))
    with pytest.raises(MalformedInput):
        parse_claims(bytes(MAX_CLAIMS_SIZE + 1), tolerant=True)


# --- claims


def test_claims_are_sorted_when_we_write_and_taken_in_any_order_from_others() -> None:
    other_order = b"\xa2\x6bpubkey-hash\x41x\x65key_0\x41y"
    assert parse_claims(other_order, tolerant=True) == {"pubkey-hash": b"x", "key_0": b"y"}
    with pytest.raises(MalformedInput):
        parse_claims(other_order, tolerant=False)
    ours = encode_claims({"pubkey-hash": b"x", "key_0": b"y"})
    assert parse_claims(ours, tolerant=False) == {"pubkey-hash": b"x", "key_0": b"y"}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x80",
        b"\x41x",
        b"\xa1\x01\x41x",
        b"\xa1\x41k\x41x",
        b"\xa1\x61k\x61x",
        b"\xa1\x61k\x01",
        b"\xa1\x61k\x81\x01",
        b"\xa2\x61k\x41x\x61k\x41y",
        b"\xbf\x61k\x41x\xff",
        b"\xa1\x61k\xf6",
        b"\xa1\x61k",
        b"\xb8\x40" + b"".join(b"\x62" + b"%02d" % number + b"\x40" for number in range(64)),
    ],
    ids=lambda raw: raw[:12].hex(),
)
@pytest.mark.parametrize("tolerant", [True, False])
def test_what_are_no_claims(raw: bytes, tolerant: bool) -> None:  # noqa: FBT001 - a parameter of the row
    with pytest.raises(MalformedInput) as caught:
        parse_claims(raw, tolerant=tolerant)
    assert caught.value.reason is Reason.EVIDENCE_MALFORMED


@pytest.mark.parametrize(
    ("claim", "matches"),
    [
        (pubkey_hash_claim(SPKI), True),
        (pubkey_hash_claim(SPKI) + bytes(28), True),
        (cbor2.dumps([7, hashlib.sha384(SPKI).digest()]), True),
        (cbor2.dumps([8, hashlib.sha512(SPKI).digest()]), True),
        (pubkey_hash_claim(b"another key"), False),
        (cbor2.dumps([0, DIGEST]), False),
        (cbor2.dumps([2, DIGEST]), False),
        (cbor2.dumps([7, DIGEST]), False),
        (cbor2.dumps([1, DIGEST[:31]]), False),
        (cbor2.dumps([1, DIGEST, 1]), False),
        (cbor2.dumps({1: DIGEST}), False),
        (cbor2.dumps(DIGEST), False),
        (DIGEST, False),
        (b"", False),
    ],
)
def test_a_claim_matches_the_key_it_names(claim: bytes, matches: bool) -> None:  # noqa: FBT001 - a parameter of the row
    assert pubkey_hash_matches(claim, SPKI) is matches


# --- endorsements


def test_endorsements_write_the_version_in_four_bytes() -> None:
    """rats-tls demands the head 1a, also for 3.0, which deterministic CBOR would write as 03."""
    raw = replace(ENDORSEMENTS, version=3).encode()
    assert raw[:9] == b"\xd9\xea\x60\x88\x1a\x00\x00\x00\x03"
    assert Endorsements.parse(raw) == replace(ENDORSEMENTS, version=3)


@pytest.mark.parametrize("created", [None, b"2026-01-01T00:00:00Z"])
def test_endorsements_come_back_as_they_were(created: bytes | None) -> None:
    endorsements = replace(ENDORSEMENTS, creation_datetime=created)
    assert Endorsements.parse(endorsements.encode()) == endorsements
    assert Endorsements.parse(endorsements.encode() + bytes(100)) == endorsements


def test_final_nuls_of_c_strings_are_dropped_and_der_is_left_alone() -> None:
    padded = replace(ENDORSEMENTS, tcb_info=ENDORSEMENTS.tcb_info + b"\0", pck_crl=ENDORSEMENTS.pck_crl + b"\0")
    parsed = Endorsements.parse(padded.encode())
    assert parsed.tcb_info == ENDORSEMENTS.tcb_info
    assert parsed.pck_crl == padded.pck_crl


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        cbor2.dumps([3, *[b""] * 7]),
        tag([3, *[b""] * 6]),
        tag([3, *[b""] * 9]),
        tag([b"", *[b""] * 7]),
        tag([3, *[b""] * 6, "text"]),
        tag([1 << 32, *[b""] * 7]),
        tag({}),
        tag([3, *[b""] * 7], 60001),
    ],
    ids=lambda raw: raw[:12].hex(),
)
def test_what_are_no_endorsements(raw: bytes) -> None:
    with pytest.raises(MalformedInput) as caught:
        Endorsements.parse(raw)
    assert caught.value.reason is Reason.EVIDENCE_MALFORMED


# --- CBOR


def test_the_reader_refuses_by_counting_before_it_builds_anything() -> None:
    nested: object = b""
    for _ in range(cbor.MAX_DEPTH):
        nested = [nested]
    assert cbor.decode(cbor2.dumps(nested), what="a test")
    for raw in (cbor2.dumps([nested]), cbor2.dumps([0] * cbor.MAX_ITEMS), b"\x9a\xff\xff\xff\xff"):
        with pytest.raises(MalformedInput):
            cbor.decode(raw, what="a test")


@pytest.mark.parametrize("raw", [b"\x18", b"\x19\x00", b"\x1b\x00\x00\x00\x00\x00\x00\x00", b"\x58", b"\x62a"])
def test_a_head_or_a_string_cut_off(raw: bytes) -> None:
    with pytest.raises(MalformedInput):
        cbor.decode_first(raw, what="a test")


# --- encodings that cbor2 is not asked for


@given(st.dictionaries(st.text(max_size=40), st.binary(max_size=300), max_size=30))
def test_claims_are_encoded_as_cbor2_does(claims: dict[str, bytes]) -> None:
    assert encode_claims(claims) == cbor2.dumps(claims, canonical=True)


@pytest.mark.parametrize("size", [0, 23, 24, 255, 256, 5000, 65535, 65536])
def test_strings_of_every_size_are_encoded_as_cbor2_does(size: int) -> None:
    tagged = TaggedEvidence(evidence=bytes(size), claims=bytes(size // 8))
    item = cbor2.CBORTag(QUOTE_TAG, [tagged.evidence, tagged.claims])
    assert cbor.byte_string(tagged.evidence) == cbor2.dumps(tagged.evidence)
    assert tagged.encode() == cbor2.dumps(item, canonical=True)
    assert TaggedEvidence.parse(tagged.encode()) == tagged


@given(st.data())
def test_evidence_that_is_split_at_once_is_what_is_parsed(data: st.DataObject) -> None:
    """Whatever is changed in it: nothing is taken that the whole way would refuse, or read otherwise."""
    raw = bytearray(TaggedEvidence(evidence=bytes(300), claims=CLAIMS).encode())
    at = data.draw(st.sampled_from([*range(12), *range(len(raw) - len(CLAIMS) - 4, len(raw))]))
    raw[at] = data.draw(st.integers(0, 255))
    shown = bytes(raw) + data.draw(st.sampled_from([b"", b"\0"]))
    found = TaggedEvidence._split(shown)
    if found is not None:
        item = cbor.decode(shown, what="it", tags=frozenset({QUOTE_TAG}))
        assert found == TaggedEvidence._from_item(item)
