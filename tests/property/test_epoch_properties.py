"""Properties of an epoch: one encoding, and no bit of evidence, claims or signature that may be another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaa.appraise.result import BindingLevel, Role
from eaa.errors import EAAError, MalformedInput, VerificationError
from eaa.evidence.epoch import EpochClaims
from eaa.evidence.tagged import parse_claims
from eaa.protocol import messages
from eaa.protocol.exchange import EvidenceWanted
from support.epochs import MadeEpoch
from support.exchange_world import HOPS, SERVER_KEY, client_of, server_of

HOP = HOPS["shelter-workload"].at(BindingLevel.SESSION)
EPOCH = MadeEpoch.of(SERVER_KEY, Role.WORKLOAD)
U64 = st.integers(min_value=0, max_value=2**64 - 1)


def good_message() -> messages.Evidence:
    server = server_of(HOP)
    (wanted,) = server.receive(client_of(HOP).data_to_send())
    assert isinstance(wanted, EvidenceWanted)
    return messages.Evidence(evidence=EPOCH.evidence, epoch=EPOCH.answer(wanted).signature)


GOOD = good_message()


@given(
    st.builds(
        EpochClaims,
        label=st.binary(max_size=20),
        pubkey_hash=st.binary(max_size=40),
        session_key=st.just(EPOCH.said.session_key),
        role=st.binary(max_size=10),
        not_before=U64,
        not_after=U64,
    )
)
def test_the_claims_of_an_epoch_come_back_as_they_were(said: EpochClaims) -> None:
    assert EpochClaims.from_claims(parse_claims(said.encode(), tolerant=False)) == said


@given(st.data(), st.sampled_from(["evidence", "epoch"]))
def test_no_bit_of_an_answer_may_be_another(data: st.DataObject, part: str) -> None:
    """The quote's own bits included: the signature covers all of the epoch's evidence."""
    raw = bytearray(getattr(GOOD, part))
    bit = data.draw(st.integers(min_value=0, max_value=8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    changed = {"evidence": GOOD.evidence, "epoch": GOOD.epoch, part: bytes(raw)}
    client = client_of(HOP)
    with pytest.raises((VerificationError, MalformedInput)):
        client.receive(messages.encode(messages.Evidence(**changed)))
    with pytest.raises(EAAError):
        client.accept()
