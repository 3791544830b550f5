"""The claims that name a session, written around what is new in each: the same bytes as written whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eaa.appraise.result import BindingLevel, Role
from eaa.evidence import cbor
from eaa.evidence.tagged import encode_claims
from eaa.protocol.binding import EXPORTER_SIZE, Ends, encode_expected, expected_claims
from eaa.protocol.messages import NONCE_SIZE

NONCE_KEY = cbor.encode("nonce") + cbor.head_of_byte_string(NONCE_SIZE)


@given(
    level=st.sampled_from([level for level in BindingLevel if level]),
    attester=st.binary(min_size=1, max_size=91),
    other=st.none() | st.binary(min_size=1, max_size=91),
    nonce=st.binary(min_size=NONCE_SIZE, max_size=NONCE_SIZE),
    exporter=st.binary(min_size=EXPORTER_SIZE, max_size=EXPORTER_SIZE),
    role=st.sampled_from(Role),
)
def test_the_claims_of_a_session_have_one_encoding(
    level: BindingLevel, attester: bytes, other: bytes | None, nonce: bytes, exporter: bytes, role: Role
) -> None:
    ends: Ends = {
        "attester_spki": attester,
        "other_spki": other,
        "nonce": nonce,
        "exporter": exporter,
        "role": role,
    }
    claims = expected_claims(level, **ends)
    assert encode_expected(level, **ends) == encode_claims(claims) == cbor.encode(claims)


def test_a_map_is_cut_where_its_blanks_stand_and_not_where_something_looks_like_them() -> None:
    """What stands before the nonce may be a peer's choice."""
    values = {"peer": NONCE_KEY * 8, "nonce": b"n" * NONCE_SIZE, "last-of-all": b"", "label": b"l" * 300}
    begin, middle, end = cbor.around_byte_strings(values, "nonce", "last-of-all")
    assert begin + values["nonce"] + middle + values["last-of-all"] + end == cbor.encode(values)
    assert end == b""


def test_a_map_without_blanks_is_one_piece() -> None:
    assert cbor.around_byte_strings({"a": b"b"}) == (cbor.encode({"a": b"b"}),)
