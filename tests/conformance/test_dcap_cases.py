"""Real Intel quotes with real collateral: our facts are those of Intel's own verifier."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from typing import Any

import pytest

from eaa.collateral.bundle import Collateral
from eaa.errors import EAAError, Reason, VerificationError
from eaa.evidence.quote import BodyType, Quote, TEEType
from eaa.verify.dcap import INTEL, INTEL_ROOTS, VerifiedQuote, verify_collateral, verify_quote
from support.vectors import AVAILABLE, cases, require, vector

Case = dict[str, Any]
FORMAT_OF_KIND = {
    "sgx-v3": (TEEType.SGX, 3, BodyType.SGX_REPORT),
    "tdx-v4": (TEEType.TDX, 4, BodyType.TD_REPORT_10),
    "tdx-v5-body3": (TEEType.TDX, 5, BodyType.TD_REPORT_15),
}
WITH_STATUS = [case for case in cases() if case["expect"]["tcb_status"] is not None]
WITH_ERROR = [case for case in cases() if case["expect"]["tcb_status"] is None]


def case_id(case: Case) -> str:
    return str(case["id"])


def at(case: Case) -> datetime:
    return datetime.fromisoformat(case["at"])


def collateral_of(case: Case) -> Collateral:
    return Collateral.from_json(vector(case["collateral"]).read_bytes())


def verify(case: Case, *, now: datetime | None = None, grace: timedelta = timedelta(0)) -> VerifiedQuote:
    # One file has a text behind its quote; what follows a quote is not what these cases are about.
    quote, _ = Quote.parse_prefix(vector(case["quote"]).read_bytes())
    return verify_quote(quote, collateral_of(case), trust_anchors=INTEL, now=now or at(case), grace=grace)


def test_the_vectors_cover_what_is_claimed() -> None:
    require("the folder of vectors", available=AVAILABLE, how="set EAA_VECTORS to it")
    assert len(cases()) == len(WITH_STATUS) + len(WITH_ERROR) == 42
    for kind in FORMAT_OF_KIND:
        assert [case for case in WITH_STATUS if case["kind"] == kind], kind
    assert WITH_ERROR


@pytest.mark.parametrize("case", WITH_STATUS, ids=case_id)
def test_status_and_advisories_are_intels(case: Case) -> None:
    facts = verify(case)
    expected = case["expect"]
    assert facts.tcb_status == expected["tcb_status"]
    assert list(facts.advisory_ids) == expected["advisory_ids"]
    assert list(facts.launch_advisory_ids) == expected["launch_advisory_ids"]


@pytest.mark.parametrize("case", WITH_STATUS, ids=case_id)
def test_facts_are_those_of_the_vendors_root(case: Case) -> None:
    facts = verify(case)
    assert facts.trust_anchor in INTEL_ROOTS
    assert not facts.simulated
    assert (facts.tee, facts.quote.header.version, facts.quote.body_type) == FORMAT_OF_KIND[case["kind"]]
    assert facts.collateral_expired == ()
    assert facts.earliest_expiration == datetime.fromisoformat(case["collateral_valid"][1])
    assert facts.earliest_expiration in [moment for _, moment in facts.expirations]


@pytest.mark.parametrize("case", WITH_ERROR, ids=case_id)
def test_an_error_of_intels_is_an_error_here(case: Case) -> None:
    with pytest.raises(VerificationError) as caught:
        verify(case)
    assert caught.value.reason == Reason[case["expect"]["error"]]


@pytest.mark.parametrize("case", WITH_STATUS, ids=case_id)
def test_what_a_better_status_asks_for_is_told(case: Case) -> None:
    """A next level exists just where something falls short of it, and raising all of that reaches it."""
    evaluation = verify(case).tcb.current
    for match in (evaluation.platform, evaluation.quoting_enclave, evaluation.tdx_module):
        if match is None:
            continue
        assert (match.next_level is None) is (match.shortfalls == ())
        assert all(shortfall.actual < shortfall.needed for shortfall in match.shortfalls)
    if case["expect"]["tcb_status"] == "UpToDate":
        assert evaluation.shortfalls == ()


@pytest.mark.parametrize("case", cases(), ids=case_id)
def test_collateral_alone_verifies(case: Case) -> None:
    verified = verify_collateral(collateral_of(case), trust_anchors=INTEL, now=at(case))
    assert min(moment for _, moment in verified.expirations) == datetime.fromisoformat(case["collateral_valid"][1])


@pytest.mark.parametrize("case", WITH_STATUS, ids=case_id)
def test_collateral_is_valid_to_its_last_second_and_no_longer(case: Case) -> None:
    end = datetime.fromisoformat(case["collateral_valid"][1])
    verify(case, now=end)
    with pytest.raises(VerificationError) as caught:
        verify(case, now=end + timedelta(seconds=1))
    expired = {Reason.TCB_INFO_EXPIRED, Reason.QE_IDENTITY_EXPIRED, Reason.CRL_EXPIRED}
    assert caught.value.reason in expired
    facts = verify(case, now=end + timedelta(seconds=1), grace=timedelta(days=1))
    assert [moment for _, moment in facts.collateral_expired]
    assert all(moment == end for _, moment in facts.collateral_expired)


@pytest.mark.parametrize("case", WITH_STATUS[:3], ids=case_id)
def test_a_clock_in_the_past_is_refused(case: Case) -> None:
    with pytest.raises(VerificationError) as caught:
        verify(case, now=datetime.fromisoformat("2010-01-01T00:00:00Z"))
    assert caught.value.reason is Reason.CERTIFICATE_NOT_YET_VALID


@pytest.mark.parametrize("case", WITH_STATUS, ids=case_id)
def test_a_real_quote_keeps_its_bytes(case: Case) -> None:
    raw = vector(case["quote"]).read_bytes()
    quote, trailing = Quote.parse_prefix(raw)
    assert quote.encode() + trailing == raw
    assert quote.padding in (0, len(trailing))


def test_the_type_3_quote_waits_for_its_pck_certificate() -> None:
    """A real quote whose certification data is an encrypted PPID: nothing in it vouches for its keys."""
    quote = Quote.parse(vector("oasis-core/quote_v3_ecdsa_p256_eppid.bin").read_bytes())
    case = next(case for case in WITH_STATUS if case["quote"] == "automata/quotev3.bin")
    collateral = collateral_of(case)
    chain, _ = Quote.parse_prefix(vector(case["quote"]).read_bytes())
    others = dataclasses.replace(collateral, pck_certificate_chain=chain.certification_data)
    for offered, reason in (
        (collateral, Reason.PCK_CERTIFICATE_MISSING),
        (others, Reason.PCK_CERTIFICATE_MISMATCH),
    ):
        with pytest.raises(VerificationError) as caught:
            verify_quote(quote, offered, trust_anchors=INTEL, now=at(case))
        assert caught.value.reason is reason


def test_a_real_quote_of_type_4_verifies_with_its_chain_from_the_collateral() -> None:
    """The same quote, its chain moved to where hosts with small quotes leave it: nothing else changes."""
    case = next(case for case in WITH_STATUS if case["kind"] == "sgx-v3")
    quote, _ = Quote.parse_prefix(vector(case["quote"]).read_bytes())
    chain = quote.certification_data
    leaf, end, _ = chain.partition(b"-----END CERTIFICATE-----")
    small = dataclasses.replace(quote, certification_data_type=4, certification_data=leaf + end)
    collateral = dataclasses.replace(collateral_of(case), pck_certificate_chain=chain)
    facts = verify_quote(Quote.parse(small.encode()), collateral, trust_anchors=INTEL, now=at(case))
    assert facts.pck_certificate_from == "collateral"
    assert dataclasses.replace(facts, quote=quote, pck_certificate_from="quote") == verify(case)


@pytest.mark.parametrize("case", WITH_STATUS[:2], ids=case_id)
def test_another_platforms_collateral_is_refused(case: Case) -> None:
    other = next(item for item in WITH_STATUS if item["kind"] != case["kind"])
    quote, _ = Quote.parse_prefix(vector(case["quote"]).read_bytes())
    with pytest.raises(EAAError) as caught:
        verify_quote(quote, collateral_of(other), trust_anchors=INTEL, now=at(other))
    assert caught.value.reason in (Reason.TCB_INFO_MISMATCH, Reason.CRL_ISSUER)
