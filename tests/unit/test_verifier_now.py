"""Judging without waiting: what is missing is pending, what a peer brings may help, and nobody evicts what is sound."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from eaa.appraise.policy import Policy
from eaa.appraise.result import Role
from eaa.errors import EAAError, MalformedInput, Reason, Unavailable
from eaa.evidence.quote import CertificationDataType, Quote, TEEType
from eaa.sources.files import FileSource
from eaa.verifier import COLLATERAL_LIFETIME, Judgement, Model, Verifier
from eaa.verifier.fetching import FIRST_RETRY, MAX_PENDING, RENEW_AFTER, SOONEST_HASTE
from eaa.verifier.stapled import MAX_MARKS, MAX_STAPLED_SIZE, HighWaterMarks, Mark
from support.cache_world import DAY, NOW, Machine, Vendor, flip_signature
from support.dcap_world import FMSPC, SGXExtension, World, tlv
from support.stapling_world import VENDOR, Clock, Edition, Source, edition_of, fetch_due, quote_of, verifier_of

SGX: Final = Model(0, FMSPC, "platform")
QUOTE: Final = quote_of()
OLD, NEW = Edition(evaluation=17, crl=4, issued=NOW - 3 * DAY), Edition()


def judge_now(verifier: Verifier, quote: bytes = QUOTE, *, stapled: bytes | None = None) -> Judgement:
    return verifier.judge_now(quote, role=Role.WORKLOAD, session=None, stapled=stapled)


def judge(verifier: Verifier, quote: bytes = QUOTE, *, stapled: bytes | None = None) -> Judgement:
    return verifier.judge(quote, role=Role.WORKLOAD, session=None, stapled=stapled)


def used(judgement: Judgement) -> tuple[int, int]:
    assert judgement.verified is not None
    return edition_of(judgement.verified)


def refusal(verifier: Verifier, quote: bytes = QUOTE, *, stapled: bytes | None = None) -> EAAError:
    with pytest.raises(EAAError) as caught:
        judge_now(verifier, quote, stapled=stapled)
    return caught.value


def staple(edition: Edition, tee: TEEType = TEEType.SGX, vendor: Vendor = VENDOR) -> bytes:
    return edition.collateral(tee, vendor).to_json()


# --- never waiting


def test_when_what_is_kept_ends_is_known_by_document() -> None:
    source = Source(NEW)
    verifier = verifier_of(source, Clock())
    assert verifier.collateral_expirations() == {}
    judge(verifier)
    ends = verifier.collateral_expirations()
    assert {"root CRL", "PCK CRL", "TCB Info", "QE identity", "root certificate"} < set(ends)
    assert all(end > NOW for end in ends.values())


def test_what_is_missing_is_pending_and_fetched_behind_the_scenes() -> None:
    source = Source(NEW)
    verifier = verifier_of(source, Clock())
    for _ in range(3):
        error = refusal(verifier)
        assert isinstance(error, Unavailable)
        assert error.reason is Reason.COLLATERAL_PENDING
    assert source.asked == 0, "whoever asks fetches nothing"
    fetch_due(verifier)
    assert used(judge_now(verifier)) == (18, 5)
    assert source.asked == 1
    assert (verifier.counters.misses, verifier.counters.fetches) == (3, 1)


def test_a_source_that_is_down_and_comes_back_needs_nobody_to_do_anything() -> None:
    source, clock = Source(None), Clock()
    verifier = verifier_of(source, clock)
    refusal(verifier)
    fetch_due(verifier)
    error = refusal(verifier)
    assert error.reason is Reason.COLLATERAL_PENDING
    assert Reason.PCCS_UNREACHABLE in error.message
    assert "start it" in (error.hint or "")
    source.edition = NEW
    clock.now += FIRST_RETRY
    fetch_due(verifier)
    assert used(judge_now(verifier)) == (18, 5)


def test_fetched_collateral_that_does_not_verify_is_no_collateral() -> None:
    """Whoever waits for it is told why there is none."""
    source, clock = Source(replace(NEW, issued=NOW - 90 * DAY)), Clock()
    verifier = verifier_of(source, clock)
    refusal(verifier)
    fetch_due(verifier)
    assert Reason.CRL_EXPIRED in refusal(verifier).message
    assert verifier.counters.failures == 1


def test_collateral_is_renewed_while_it_is_used() -> None:
    source, clock = Source(OLD), Clock()
    verifier = verifier_of(source, clock)
    verifier.prefetch([SGX])
    fetch_due(verifier)
    assert used(judge_now(verifier)) == (17, 4)
    source.edition = NEW
    clock.now += RENEW_AFTER
    assert verifier.collateral_generation == 0
    fetch_due(verifier)
    assert used(judge_now(verifier)) == (18, 5)
    # Whoever keeps judgements has to make them again.
    assert verifier.collateral_generation == 1
    clock.now += RENEW_AFTER
    fetch_due(verifier)
    # The same once more is no other collateral.
    assert verifier.collateral_generation == 1


def test_a_verifier_that_judges_at_leisure_and_at_once_fetches_once() -> None:
    source = Source(NEW)
    verifier = verifier_of(source, Clock())
    judge(verifier)
    judge_now(verifier)
    verifier.prefetch([SGX])
    fetch_due(verifier)
    assert source.asked == 1


def test_no_evidence_is_a_rejection_at_once() -> None:
    judgement = verifier_of(Source(None), Clock()).judge_now(None, role=Role.RELAY, session=None)
    assert (judgement.accepted, judgement.verified) == (False, None)


def test_prefetched_for_its_own_machine_a_server_refuses_nobody_like_it() -> None:
    source = Source(NEW)
    verifier = verifier_of(source, Clock())
    verifier.prefetch_for(quote_of(Machine(VENDOR, 7)))
    fetch_due(verifier)
    assert used(judge_now(verifier)) == (18, 5)
    assert verifier.counters.misses == 0


def test_nothing_is_prefetched_for_a_machine_of_nobody_s() -> None:
    source = Source(NEW)
    verifier = verifier_of(source, Clock())
    verifier.prefetch_for(quote_of(Machine(Vendor("B"), 1)))
    fetch_due(verifier)
    assert source.asked == 0
    with pytest.raises(MalformedInput):
        verifier.prefetch_for(b"junk")


@pytest.mark.parametrize("patient", [True, False])
def test_files_on_this_machine_are_no_network(tmp_path: Path, *, patient: bool) -> None:
    """Neither is anybody refused for them, nor is there a thread."""
    (tmp_path / "collateral.json").write_bytes(staple(NEW))
    verifier = Verifier(FileSource(tmp_path / "collateral.json"), trust_anchors=VENDOR.anchors, clock=Clock())
    verifier.prefetch([SGX])
    verifier.prefetch_for(QUOTE)
    verifier.start_refreshing()
    assert used((judge if patient else judge_now)(verifier)) == (18, 5)
    assert verifier.collateral_json(QUOTE) == staple(NEW)
    assert not verifier._supply._models.renews
    verifier.close()


# --- strangers


def test_a_model_that_no_vendor_certified_is_not_fetched_for() -> None:
    """A stranger's own certificates can name a million models; none of them costs us a request, nor anybody a place."""
    source = Source(NEW)
    verifier = verifier_of(source, Clock())
    stranger = Vendor("B")
    for number in range(MAX_PENDING + 1):
        assert refusal(verifier, quote_of(Machine(stranger, number))).reason is Reason.ROOT_UNTRUSTED
    fetch_due(verifier)
    assert source.asked == 0
    assert refusal(verifier).reason is Reason.COLLATERAL_PENDING


def test_a_certificate_that_only_looks_like_the_vendor_s_is_not_fetched_for() -> None:
    def forge(world: World) -> None:
        extension = SGXExtension()
        extension.fields[4,] = tlv(0x04, b"madeup")
        world.quote_chain[0] = replace(world.quote_chain[0], sgx=extension, signed_by="pck 1 of A")

    source = Source(NEW)
    verifier = verifier_of(source, Clock())
    forged = Machine(VENDOR, 1).quote(change=forge).encode()
    assert refusal(verifier, forged).reason is Reason.CERTIFICATE_SIGNATURE
    fetch_due(verifier)
    assert source.asked == 0


def test_a_bad_quote_makes_no_good_peer_wait() -> None:
    """What is sound stays, whatever a stranger shows."""
    verifier = fetching(Source(NEW), Clock())
    bad = Machine(VENDOR, 1).quote(change=flip_signature).encode()
    for _ in range(3):
        assert refusal(verifier, bad).reason is Reason.QUOTE_SIGNATURE
    assert used(judge_now(verifier)) == (18, 5)
    verifier.close()


def test_a_bad_quote_has_what_is_kept_fetched_again_soon() -> None:
    """The fault may lie in what we keep, and be mended since; not more than once in a minute, whatever strangers do."""
    source, clock = Naming(NEW), Clock()
    verifier = verifier_of(source, clock)
    verifier.prefetch_for(leaf_only())
    fetch_due(verifier)
    for cache in (verifier._supply._models, verifier._supply._chains):
        cache._thread = object()  # type: ignore[assignment]
    bad = leaf_only(Machine(VENDOR, 1).quote(change=flip_signature))
    for _ in range(3):
        clock.now += SOONEST_HASTE
        for _ in range(5):
            assert refusal(verifier, bad).reason is Reason.QUOTE_SIGNATURE
            fetch_due(verifier)
    assert source.asked == 2 * (1 + 3), "a chain and a collateral, at first and three times since"


def test_collateral_that_went_bad_is_not_kept() -> None:
    clock = Clock()
    verifier = fetching(Source(Edition(issued=NOW - DAY, good_for=DAY + timedelta(minutes=30))), clock)
    clock.now += timedelta(minutes=31)
    assert refusal(verifier).reason is Reason.CRL_EXPIRED
    assert refusal(verifier).reason is Reason.COLLATERAL_PENDING
    verifier.close()


def fetching(source: Source, clock: Clock) -> Verifier:
    """A verifier that has fetched, and whose thread runs."""
    verifier = verifier_of(source, clock, threaded=True)
    judge(verifier)
    verifier.start_refreshing()
    return verifier


# --- what a peer brings


@pytest.mark.parametrize("newer", [{"evaluation": 19}, {"crl": 6}, {"issued": NOW - DAY / 2}])
def test_what_is_newer_is_used(newer: dict[str, object]) -> None:
    edition = replace(NEW, **newer)  # type: ignore[arg-type]
    verifier = verifier_of(Source(NEW), Clock())
    judge(verifier)
    for judging in (judge, judge_now):
        judgement = judging(verifier, stapled=staple(edition))
        assert used(judgement) == (edition.evaluation, edition.crl)
        assert judgement.stapled
    # For the one who brought it: what others are judged by is what we fetched ourselves.
    assert not judge(verifier).stapled
    assert used(judge(verifier)) == (18, 5)


@pytest.mark.parametrize(
    "older",
    [
        {"evaluation": 17},
        {"crl": 4},
        {"issued": NOW - 2 * DAY},
        {"evaluation": 19, "crl": 4},
        {"evaluation": 17, "crl": 9},
        {"crl": 9, "issued": NOW - 2 * DAY},
    ],
)
def test_what_is_older_in_anything_is_ignored(older: dict[str, object]) -> None:
    verifier = verifier_of(Source(NEW), Clock())
    judge(verifier)
    for judging in (judge, judge_now):
        judgement = judging(verifier, stapled=staple(replace(NEW, **older)))  # type: ignore[arg-type]
        assert (used(judgement), judgement.stapled) == ((18, 5), False)


def test_what_is_the_same_is_our_own() -> None:
    verifier = verifier_of(Source(NEW), Clock())
    judge(verifier)
    assert not judge_now(verifier, stapled=staple(NEW)).stapled


def test_what_a_peer_brings_stands_in_for_what_cannot_be_fetched() -> None:
    """And not for what will be here in a moment: old collateral would serve an attacker at each start of a server."""
    source, clock = Source(None), Clock()
    verifier = verifier_of(source, clock, accept_stapled_collateral=True)
    assert refusal(verifier, stapled=staple(OLD)).reason is Reason.COLLATERAL_PENDING
    fetch_due(verifier)
    judgement = judge_now(verifier, stapled=staple(OLD))
    assert (used(judgement), judgement.stapled) == ((17, 4), True)
    source.edition = NEW
    clock.now += FIRST_RETRY
    fetch_due(verifier)
    judgement = judge_now(verifier, stapled=staple(OLD))
    assert (used(judgement), judgement.stapled) == ((18, 5), False)


def test_whoever_can_wait_fetches_first_and_then_compares() -> None:
    verifier = verifier_of(Source(NEW), Clock())
    assert used(judge(verifier, stapled=staple(OLD))) == (18, 5)


def test_what_there_is_nothing_to_compare_with_serves_only_who_says_so() -> None:
    """It may be as old as its dates allow, and a peer chooses it."""
    for judging, reason in ((judge, Reason.PCCS_UNREACHABLE), (judge_now, Reason.COLLATERAL_PENDING)):
        verifier = offline(accept_stapled_collateral=False)
        with pytest.raises(Unavailable) as caught:
            judging(verifier, stapled=staple(NEW))
        assert caught.value.reason is reason


def test_what_was_seen_before_is_something_to_compare_with() -> None:
    """A PCCS that is down for hours: a peer that brings what is at least as new goes on being judged."""
    source, clock = Source(NEW), Clock()
    verifier = verifier_of(source, clock)
    judge(verifier)
    source.edition = None
    clock.now += COLLATERAL_LIFETIME
    refusal(verifier)
    fetch_due(verifier)
    assert refusal(verifier, stapled=staple(OLD)).reason is Reason.COLLATERAL_PENDING
    assert used(judge_now(verifier, stapled=staple(NEW))) == (18, 5)


def test_where_nothing_can_be_fetched_a_peer_s_serves() -> None:
    source = Source(None)
    verifier = verifier_of(source, Clock(), accept_stapled_collateral=True)
    judgement = judge(verifier, stapled=staple(NEW))
    assert (used(judgement), judgement.stapled) == ((18, 5), True)
    with pytest.raises(Unavailable) as caught:
        judge(verifier)
    assert caught.value.reason is Reason.PCCS_UNREACHABLE


def test_what_one_peer_brought_no_other_goes_behind() -> None:
    """Even where nothing was ever fetched."""
    verifier = offline()
    judge_now(verifier, stapled=staple(NEW))
    assert refusal(verifier, stapled=staple(OLD)).reason is Reason.COLLATERAL_PENDING
    assert used(judge_now(verifier, stapled=staple(NEW))) == (18, 5)


def test_an_older_crl_does_not_come_in_with_another_model() -> None:
    """The CRLs are the same ones for all models, so the first one of a model is compared as well."""
    source = Source(NEW)
    verifier = verifier_of(source, Clock(), accept_stapled_collateral=True)
    judge(verifier)
    source.edition = None
    domain = quote_of(Machine(VENDOR, 2, tee=TEEType.TDX))
    refusal(verifier, domain)
    fetch_due(verifier)
    older = staple(replace(NEW, evaluation=99, crl=4), TEEType.TDX)
    assert refusal(verifier, domain, stapled=older).reason is Reason.COLLATERAL_PENDING
    assert used(judge_now(verifier, domain, stapled=staple(replace(NEW, evaluation=1), TEEType.TDX))) == (1, 5)


def test_a_revocation_that_a_peer_brings_counts() -> None:
    verifier = verifier_of(Source(NEW), Clock())
    judge(verifier)
    revoking = replace(NEW, crl=6, revoked=(Machine(VENDOR, 1).certificate.serial_number,))
    assert refusal(verifier, stapled=staple(revoking)).reason is Reason.CERTIFICATE_REVOKED


def test_something_newer_makes_us_fetch_soon() -> None:
    source, clock = Source(NEW), Clock()
    verifier = verifier_of(source, clock)
    verifier.prefetch([SGX])
    fetch_due(verifier)
    verifier._supply._models._thread = object()  # type: ignore[assignment]
    clock.now += timedelta(minutes=2)
    source.edition = replace(NEW, crl=6)
    judge_now(verifier, stapled=staple(source.edition))
    fetch_due(verifier)
    assert used(judge_now(verifier)) == (18, 6)


def offline(policy: Policy | None = None, *, accept_stapled_collateral: bool = True) -> Verifier:
    """A verifier that has found out that nothing can be fetched."""
    verifier = verifier_of(Source(None), Clock(), policy=policy, accept_stapled_collateral=accept_stapled_collateral)
    refusal(verifier)
    fetch_due(verifier)
    return verifier


def test_a_peer_s_serves_where_what_was_fetched_is_over() -> None:
    """A PCCS that serves what has expired is as good as one that is down, and no better."""
    over = Source(Edition(issued=NOW - 40 * DAY))
    assert used(judge(verifier_of(over, Clock(), accept_stapled_collateral=True), stapled=staple(NEW))) == (18, 5)
    with pytest.raises(EAAError) as caught:
        judge(verifier_of(over, Clock()), stapled=staple(NEW))
    assert caught.value.reason is Reason.CRL_EXPIRED


BROKEN: Final = {
    "junk": b"junk",
    "empty": b"",
    "too long": staple(replace(NEW, crl=6)) + b" " * MAX_STAPLED_SIZE,
    "expired": staple(Edition(evaluation=19, crl=6, issued=NOW - DAY, good_for=DAY / 2)),
    "not yet valid": staple(Edition(evaluation=19, crl=6, issued=NOW + DAY)),
    "of another vendor": staple(replace(NEW, crl=6), vendor=Vendor("B")),
    "of another kind of TEE": staple(replace(NEW, crl=6), TEEType.TDX),
    "of a signature that is none": replace(
        replace(NEW, crl=6).collateral(), tcb_info_signature=replace(NEW, crl=6).collateral().qe_identity_signature
    ).to_json(),
}


@pytest.mark.parametrize("stapled", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("here", [True, False])
def test_what_is_no_collateral_is_as_if_it_had_not_come(stapled: bytes, *, here: bool) -> None:
    """Neither is it used, nor does it keep anybody from being judged, nor is its number remembered."""
    if here:
        verifier = verifier_of(Source(NEW), Clock())
        judge(verifier)
        assert used(judge_now(verifier, stapled=stapled)) == (18, 5)
    else:
        verifier = offline()
        assert refusal(verifier, stapled=stapled).reason is Reason.COLLATERAL_PENDING
    assert used(judge_now(verifier, stapled=staple(NEW))) == (18, 5)


def test_there_is_no_grace_for_what_a_peer_brings() -> None:
    """A grace is for those who cannot fetch. Whoever staples can staple what is valid."""
    expired = Edition(evaluation=19, crl=6, issued=NOW - DAY, good_for=DAY / 2)
    policy = Policy(collateral_grace=10 * DAY)
    verifier = offline(policy)
    assert refusal(verifier, stapled=staple(expired)).reason is Reason.COLLATERAL_PENDING
    assert used(judge(verifier_of(Source(expired), Clock(), policy=policy))) == (19, 6)


def test_what_the_policy_would_refuse_is_not_taken_from_a_peer() -> None:
    """On a first sight there is nothing to compare with but the policy; the peer then waits, and is not rejected."""
    verifier = offline(Policy(minimum_evaluation_number=18))
    assert refusal(verifier, stapled=staple(replace(NEW, evaluation=17))).reason is Reason.COLLATERAL_PENDING
    assert used(judge_now(verifier, stapled=staple(NEW))) == (18, 5)


# --- what we staple


def test_what_is_kept_for_our_own_machine_can_be_stapled() -> None:
    source, clock = Source(NEW), Clock()
    verifier = verifier_of(source, clock)
    assert verifier.collateral_json(QUOTE) is None
    verifier.prefetch_for(QUOTE)
    fetch_due(verifier)
    stapled = verifier.collateral_json(QUOTE)
    assert stapled == staple(NEW)
    assert verifier.collateral_json(QUOTE) is stapled
    clock.now += COLLATERAL_LIFETIME
    assert verifier.collateral_json(QUOTE) is None
    assert verifier.collateral_json(b"junk") is None


def test_each_machine_s_own_is_stapled() -> None:
    verifier = verifier_of(Source(NEW), Clock())
    domain = quote_of(Machine(VENDOR, 2, tee=TEEType.TDX))
    for quote in (QUOTE, domain):
        verifier.prefetch_for(quote)
    fetch_due(verifier)
    for _ in range(2):
        assert verifier.collateral_json(QUOTE) == staple(NEW)
        assert verifier.collateral_json(domain) == staple(NEW, TEEType.TDX)


def test_what_is_too_long_to_be_read_is_not_stapled_either() -> None:
    newer = staple(replace(NEW, crl=6))
    verifier = verifier_of(Source(NEW), Clock())
    judge(verifier)
    longest = newer.ljust(MAX_STAPLED_SIZE)
    assert used(judge_now(verifier, stapled=longest)) == (18, 6)
    assert used(judge_now(verifier, stapled=longest + b" ")) == (18, 5)


def test_the_log_tells_what_became_of_a_staple(caplog: pytest.LogCaptureFixture) -> None:
    """Which nobody else hears of: the peer is not told."""
    caplog.set_level("INFO", logger="eaa.verifier.supply")
    verifier = verifier_of(Source(NEW), Clock())
    judge(verifier)
    for stapled, said in (
        (b"junk", Reason.COLLATERAL_MALFORMED.value),
        (staple(replace(NEW, crl=4)), "CRL is older"),
        (staple(replace(NEW, crl=6)), "is used"),
    ):
        caplog.clear()
        judge_now(verifier, stapled=stapled)
        assert said in caplog.text


# --- quotes that do not carry their certificates


class Naming(Source):
    """A source that has PCK certificates too."""

    def fetch_pck_chain(self, name: object) -> bytes:
        del name
        self.asked += 1
        return Quote.parse(QUOTE).certification_data


def test_a_quote_that_only_names_its_platform_is_pending_once() -> None:
    """Its chain and then its collateral are fetched in one go: who tries again a moment later is judged."""
    source = Naming(NEW)
    verifier = verifier_of(source, Clock())
    named = leaf_only()
    assert refusal(verifier, named).reason is Reason.COLLATERAL_PENDING
    fetch_due(verifier)
    assert used(judge_now(verifier, named)) == (18, 5)
    assert source.asked == 2


def test_prefetching_for_such_a_machine_fetches_both() -> None:
    source = Naming(NEW)
    verifier = verifier_of(source, Clock())
    verifier.prefetch_for(leaf_only())
    fetch_due(verifier)
    assert used(judge_now(verifier, leaf_only())) == (18, 5)
    assert verifier.counters.misses == 0


def test_a_machine_whose_quotes_carry_their_chain_needs_none() -> None:
    source = Naming(NEW)
    verifier = verifier_of(source, Clock())
    verifier.prefetch_for(QUOTE)
    fetch_due(verifier)
    assert source.asked == 1
    assert used(judge_now(verifier)) == (18, 5)


@pytest.mark.parametrize("named", [True, False])
def test_what_is_fetched_for_our_own_machine_stays_fresh_whether_it_is_used_or_not(*, named: bool) -> None:
    source, clock = Naming(NEW), Clock()
    verifier = verifier_of(source, clock)
    verifier.prefetch_for(leaf_only() if named else QUOTE)
    fetch_due(verifier)
    for _ in range(3):
        clock.now += RENEW_AFTER
        fetch_due(verifier)
    assert used(judge_now(verifier, leaf_only() if named else QUOTE)) == (18, 5)
    assert verifier.counters.misses == 0


def test_what_was_fetched_for_a_stranger_is_not_kept_fresh_for_ever() -> None:
    source, clock = Naming(NEW), Clock()
    verifier = verifier_of(source, clock)
    refusal(verifier, leaf_only())
    fetch_due(verifier)
    clock.now += COLLATERAL_LIFETIME
    fetch_due(verifier)
    assert (source.asked, verifier.counters.kept) == (2, 0)


def leaf_only(quote: Quote | None = None) -> bytes:
    """A quote that carries its PCK certificate and no chain."""
    quote = quote or Quote.parse(QUOTE)
    end = b"-----END CERTIFICATE-----\n"
    leaf = quote.certification_data.partition(end)[0] + end
    changed = replace(quote, certification_data_type=CertificationDataType.PCK_LEAF, certification_data=leaf)
    return changed.encode()


# --- marks


def test_marks_only_rise() -> None:
    marks = HighWaterMarks()
    document = ("root CRL", b"root")
    marks.raise_to({document: Mark(5, NOW)})
    marks.raise_to({document: Mark(4, NOW + DAY)})
    assert marks.behind({document: Mark(5, NOW)}) == ["root CRL"]
    assert marks.behind({document: Mark(4, NOW + DAY)}) == ["root CRL"]
    assert marks.behind({document: Mark(5, NOW + DAY)}) == []
    assert marks.behind({("root CRL", b"another"): Mark(0, NOW - DAY)}) == []
    assert marks.unknown({document: Mark(5, NOW), ("PCK CRL", b""): Mark(5, NOW)}) == ["PCK CRL"]


def test_marks_are_bounded() -> None:
    marks = HighWaterMarks()
    for number in range(MAX_MARKS + 3):
        marks.raise_to({("TCB Info", number.to_bytes(4, "big")): Mark(number, NOW)})
    assert len(marks._marks) == MAX_MARKS
