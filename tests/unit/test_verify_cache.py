"""A cache of verification: it spares work, and nothing else can be told apart from a verifier without one."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any, Final

import pytest

from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import PCKCertificate, pck_certificate_of
from eaa.collateral.x509 import Certificate
from eaa.errors import Misuse, Reason
from eaa.evidence.quote import CertificationDataType, Quote, TEEType
from eaa.evidence.tdx import TDReport15
from eaa.verify import cache as cache_room
from eaa.verify import chain, dcap, documents
from eaa.verify.cache import VerificationCache
from eaa.verify.chain import TrustAnchors
from eaa.verify.dcap import VerifiedQuote
from support.cache_world import DAY, MINUTE, NOW, Answer, Machine, Vendor, agree, edit_body, flip_signature
from support.dcap_world import World

SECOND: Final = timedelta(seconds=1)
SGX: Final = TEEType.SGX
TDX: Final = TEEType.TDX
STAGES: Final = (
    "verify_collateral",
    "verify_pck_ca",
    "verify_pck_chain",
    "verify_qe_report",
    "evaluate_quote",
    "verify_quote_signature",
)


@pytest.fixture
def vendor() -> Vendor:
    return Vendor("A")


@pytest.fixture
def machine(vendor: Vendor) -> Machine:
    return Machine(vendor, 1)


@pytest.fixture
def domain_host(vendor: Vendor) -> Machine:
    return Machine(vendor, 1, tee=TDX)


@pytest.fixture
def collateral(vendor: Vendor) -> Collateral:
    return vendor.publish(SGX, now=NOW)


@pytest.fixture
def cache(vendor: Vendor) -> VerificationCache:
    return VerificationCache(vendor.anchors)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each stage was gone through."""
    done: Counter[str] = Counter()
    for name in STAGES:
        monkeypatch.setattr(dcap, name, counted(name, getattr(dcap, name), done))
    return done


def counted(name: str, act: Callable[..., Any], done: Counter[str]) -> Callable[..., Any]:
    def counting(*arguments: Any, **more: Any) -> Any:
        done[name] += 1
        return act(*arguments, **more)

    return counting


def reason_of(answer: Answer) -> str | None:
    return None if isinstance(answer, VerifiedQuote) else answer[1]


# --- what is spared


def test_the_first_quote_goes_the_whole_way(
    cache: VerificationCache, machine: Machine, collateral: Collateral, work: Counter[str]
) -> None:
    cache.verify_quote(machine.quote(), collateral, now=NOW)
    assert work == dict.fromkeys(STAGES, 1)
    assert cache.sizes == {"collaterals": 1, "platforms": 1, "attestation_keys": 1, "quotes": 0}


@dataclass(frozen=True)
class Spared:
    """What is left to do for a second quote."""

    second: Callable[[Machine], Quote]
    left: tuple[str, ...]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Spared(lambda machine: machine.quote(nonce=1), ("verify_quote_signature",)), id="the same key"),
        pytest.param(
            Spared(
                lambda machine: machine.quote(attestation_key="another"), ("verify_qe_report", "verify_quote_signature")
            ),
            id="another key of the same platform",
        ),
        pytest.param(
            Spared(
                lambda machine: Machine(machine.vendor, 2).quote(),
                ("verify_pck_chain", "verify_qe_report", "verify_quote_signature"),
            ),
            id="another platform of the same model and TCB",
        ),
        pytest.param(
            Spared(
                lambda machine: Machine(machine.vendor, 2, svn=4).quote(),
                ("verify_pck_chain", "verify_qe_report", "evaluate_quote", "verify_quote_signature"),
            ),
            id="another platform at another TCB",
        ),
    ],
)
def test_what_was_established_is_spared_the_second_time(
    cache: VerificationCache, machine: Machine, collateral: Collateral, work: Counter[str], case: Spared
) -> None:
    cache.verify_quote(machine.quote(), collateral, now=NOW)
    work.clear()
    cache.verify_quote(case.second(machine), collateral, now=NOW)
    assert work == dict.fromkeys(case.left, 1)


def test_a_ca_certificate_is_verified_apart_from_its_leaves(
    vendor: Vendor, collateral: Collateral, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued: list[str] = []
    verify_issued = chain.verify_issued

    def noting(certificate: Certificate, *, issuer: Certificate) -> None:
        issued.append(certificate.common_name)
        verify_issued(certificate, issuer=issuer)

    for module in (dcap, documents):
        monkeypatch.setattr(module, "verify_issued", noting)
    cache = VerificationCache(vendor.anchors)
    for number in range(3):
        agree_quietly = Machine(vendor, number, under_renewed_ca=True).quote()
        cache.verify_quote(agree_quietly, collateral, now=NOW)
    # Once as the issuer of the PCK CRL, once in its renewed form, and never again.
    assert Counter(issued)["Intel SGX PCK Platform CA"] == 2
    assert Counter(issued)["Intel SGX PCK Certificate"] == 3


def test_two_launches_under_two_modules_are_two_tcbs(
    cache: VerificationCache, domain_host: Machine, work: Counter[str]
) -> None:
    collateral = domain_host.vendor.publish(TDX, now=NOW)
    old, new = domain_host.quote(module=(4, 5)), domain_host.quote(module=(5, 5))
    statuses = [cache.verify_quote(quote, collateral, now=NOW).tcb_status for quote in (old, new, old, new)]
    assert statuses == ["TDRelaunchAdvised", "UpToDate"] * 2
    assert (work["evaluate_quote"], work["verify_qe_report"]) == (2, 2)


def test_sgx_and_tdx_of_one_machine_do_not_disturb_each_other(
    cache: VerificationCache, machine: Machine, domain_host: Machine, work: Counter[str]
) -> None:
    shown = [(machine.quote(), machine.vendor.publish(SGX, now=NOW))]
    shown.append((domain_host.quote(), machine.vendor.publish(TDX, now=NOW)))
    for quote, collateral in shown * 3:
        assert reason_of(agree(cache, quote, collateral, now=NOW)) is None
    for quote, collateral in (shown[0], (shown[0][0], shown[1][1]), (shown[1][0], shown[0][1])):
        agree(cache, quote, collateral, now=NOW)


# --- what is answered


def test_facts_are_of_the_quote_that_was_asked_about_and_of_the_time(
    cache: VerificationCache, machine: Machine, collateral: Collateral
) -> None:
    for nonce in range(3):
        quote, now = machine.quote(nonce=nonce), NOW + nonce * SECOND
        facts = agree(cache, quote, collateral, now=now)
        assert isinstance(facts, VerifiedQuote)
        assert (facts.quote, facts.quote.raw) == (quote, quote.raw)
        assert facts.report_data == nonce.to_bytes(64, "big")
        assert facts.verified_at == now


BODY_FIELDS: Final = sorted({item.name for item in fields(TDReport15)})


@pytest.mark.parametrize("name", BODY_FIELDS)
def test_every_field_of_a_domain_counts_on_a_hit_as_without(name: str, domain_host: Machine) -> None:
    """A domain that differs in one field only, genuinely signed, after the cache has seen the other."""
    collateral = domain_host.vendor.publish(TDX, now=NOW)
    cache = VerificationCache(domain_host.vendor.anchors)
    agree(cache, domain_host.quote(), collateral, now=NOW)
    original = getattr(domain_host.quote().body, name)
    for position in (0, 1, -1):
        changed = bytearray(original)
        changed[position] ^= 1
        other = domain_host.quote(change=edit_body(**{name: bytes(changed)}))
        first = agree(cache, other, collateral, now=NOW)
        assert agree(cache, other, collateral, now=NOW) == first
    assert reason_of(agree(cache, domain_host.quote(), collateral, now=NOW)) is None


def test_platforms_that_differ_in_one_svn_are_told_apart(cache: VerificationCache, machine: Machine) -> None:
    """Levels are kept for platforms of one TCB; another PCE or quoting enclave is another TCB."""
    vendor, collateral = machine.vendor, machine.vendor.publish(SGX, now=NOW)
    shown = [
        machine.quote(),
        Machine(vendor, 2, pce_svn=10).quote(),
        Machine(vendor, 3).quote(change=lambda world: change_qe(world, isv_svn=4)),
        Machine(vendor, 4, svn=4).quote(),
    ]
    told = [agree(cache, quote, collateral, now=NOW) for quote in shown]
    statuses = [answer.tcb_status if isinstance(answer, VerifiedQuote) else answer[1] for answer in told]
    assert statuses == ["UpToDate", Reason.TCB_NOT_SUPPORTED, "OutOfDate", "OutOfDate"]


def change_qe(world: World, **changes: Any) -> None:
    world.qe_report = replace(world.qe_report, **changes)


def change_quote(**changes: Any) -> Callable[[World], None]:
    def change(world: World) -> None:
        world.change_quote = lambda quote: replace(quote, **{name: edit(quote) for name, edit in changes.items()})

    return change


def flipped(name: str) -> Callable[[Quote], bytes]:
    def flip(quote: Quote) -> bytes:
        value: bytes = getattr(quote, name)
        return value[:-1] + bytes([value[-1] ^ 1])

    return flip


BROKEN: Final = [
    pytest.param(flip_signature, Reason.QUOTE_SIGNATURE, id="another quote signature"),
    pytest.param(change_quote(attestation_key=flipped("attestation_key")), Reason.QE_REPORT_BINDING, id="another key"),
    pytest.param(
        change_quote(qe_report_signature=flipped("qe_report_signature")), Reason.QE_REPORT_SIGNATURE, id="QE signature"
    ),
    pytest.param(change_quote(qe_auth_data=flipped("qe_auth_data")), Reason.QE_REPORT_BINDING, id="QE auth data"),
    pytest.param(
        change_quote(qe_report=lambda quote: replace(quote.qe_report, isv_svn=6)),
        Reason.QE_REPORT_SIGNATURE,
        id="QE report",
    ),
    pytest.param(
        change_quote(certification_data=lambda quote: quote.certification_data.replace(b"MII", b"MIJ", 1)),
        Reason.DER_MALFORMED,
        id="PCK certificate",
    ),
    pytest.param(lambda world: change_qe(world, mr_signer=bytes(32)), Reason.QE_IDENTITY_MISMATCH, id="another QE"),
    pytest.param(
        change_quote(certification_data_type=lambda _: 6), Reason.CERTIFICATION_DATA_UNSUPPORTED, id="data of a QE"
    ),
    pytest.param(change_quote(signature=lambda _: bytes(64)), Reason.QUOTE_SIGNATURE, id="no signature at all"),
]


@pytest.mark.parametrize(("change", "reason"), BROKEN)
def test_a_bad_quote_after_a_good_one_is_refused_and_leaves_nothing(
    cache: VerificationCache,
    machine: Machine,
    collateral: Collateral,
    change: Callable[[World], None],
    reason: Reason,
) -> None:
    agree(cache, machine.quote(), collateral, now=NOW)
    before = cache.sizes
    for _ in range(2):
        assert reason_of(agree(cache, machine.quote(change=change), collateral, now=NOW)) == reason
    assert cache.sizes == before
    assert reason_of(agree(cache, machine.quote(), collateral, now=NOW)) is None


@pytest.mark.parametrize(("change", "reason"), BROKEN)
def test_a_bad_quote_that_comes_first_is_refused_as_well(
    cache: VerificationCache,
    machine: Machine,
    collateral: Collateral,
    change: Callable[[World], None],
    reason: Reason,
) -> None:
    assert reason_of(agree(cache, machine.quote(change=change), collateral, now=NOW)) == reason
    assert cache.sizes["attestation_keys"] == 0


def test_a_record_that_was_put_together_is_never_taken_from_the_cache(
    cache: VerificationCache, machine: Machine, collateral: Collateral, work: Counter[str]
) -> None:
    parsed = machine.quote()
    agree(cache, parsed, collateral, now=NOW)
    work.clear()
    put_together = replace(parsed)
    assert reason_of(agree(cache, put_together, collateral, now=NOW)) is None
    # The bytes of key and report move by one between fields: their row is the same, their meaning is not.
    moved = replace(
        parsed,
        attestation_key=parsed.attestation_key + parsed.qe_report.cpu_svn[:1],
        qe_report=replace(parsed.qe_report, cpu_svn=parsed.qe_report.cpu_svn[1:]),
    )
    assert reason_of(agree(cache, moved, collateral, now=NOW)) is not None
    liar = replace(parsed, body=replace(parsed.body, report_data=bytes(range(64))))
    assert reason_of(agree(cache, liar, collateral, now=NOW)) == Reason.QUOTE_MALFORMED


# --- how what is kept dies


def ends(name: str, attribute: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        setattr(getattr(world, name), attribute, SOON)

    return change


def document_ends(name: str) -> Callable[[World], None]:
    return lambda world: getattr(world, name).update(nextUpdate=f"{SOON:%Y-%m-%dT%H:%M:%SZ}")


SOON: Final = NOW + 2 * DAY


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(ends("root", "not_after"), Reason.CERTIFICATE_EXPIRED, id="root"),
        pytest.param(ends("pck_ca", "not_after"), Reason.CERTIFICATE_EXPIRED, id="PCK CA"),
        pytest.param(ends("pck", "not_after"), Reason.CERTIFICATE_EXPIRED, id="PCK"),
        pytest.param(ends("tcb_signer", "not_after"), Reason.CERTIFICATE_EXPIRED, id="signer of TCB Info"),
        pytest.param(ends("qe_signer", "not_after"), Reason.CERTIFICATE_EXPIRED, id="signer of the QE identity"),
        pytest.param(ends("root_crl", "next_update"), Reason.CRL_EXPIRED, id="root CRL"),
        pytest.param(ends("pck_crl", "next_update"), Reason.CRL_EXPIRED, id="PCK CRL"),
        pytest.param(document_ends("tcb_info"), Reason.TCB_INFO_EXPIRED, id="TCB Info"),
        pytest.param(document_ends("qe_identity"), Reason.QE_IDENTITY_EXPIRED, id="QE identity"),
    ],
)
def test_an_entry_ends_with_the_first_document_that_it_rests_on(
    change: Callable[[World], None], reason: Reason, work: Counter[str]
) -> None:
    world = World()
    change(world)
    quote, collateral = Quote.parse(world.quote().encode()), world.collateral()
    cache = VerificationCache(world.trust_anchors)
    cache.verify_quote(quote, collateral, now=NOW)
    work.clear()
    cache.verify_quote(quote, collateral, now=SOON)
    assert work == {"verify_quote_signature": 1}
    assert reason_of(agree(cache, quote, collateral, now=SOON + SECOND)) == reason
    assert cache.sizes["attestation_keys"] == 0
    assert reason_of(agree(cache, quote, collateral, now=NOW)) is None


def test_before_it_begins_an_entry_is_not_used_and_not_lost(
    cache: VerificationCache, machine: Machine, collateral: Collateral, work: Counter[str]
) -> None:
    quote = machine.quote()
    agree(cache, quote, collateral, now=NOW)
    assert reason_of(agree(cache, quote, collateral, now=NOW - DAY)) == Reason.CRL_NOT_YET_VALID
    work.clear()
    cache.verify_quote(quote, collateral, now=NOW)
    assert work == {"verify_quote_signature": 1}


def test_what_only_a_grace_period_lets_pass_is_never_kept(cache: VerificationCache, machine: Machine) -> None:
    collateral = machine.vendor.publish(SGX, now=NOW, days=1)
    late = NOW + 3 * DAY
    for _ in range(2):
        facts = agree(cache, machine.quote(), collateral, now=late, grace=5 * DAY)
        assert isinstance(facts, VerifiedQuote)
        assert facts.collateral_expired
    assert cache.sizes == {"collaterals": 0, "platforms": 0, "attestation_keys": 0, "quotes": 0}
    # Nor does what was kept in time hide that a document has expired since.
    agree(cache, machine.quote(), collateral, now=NOW)
    assert agree(cache, machine.quote(), collateral, now=late, grace=5 * DAY) == facts
    assert reason_of(agree(cache, machine.quote(), collateral, now=late)) == Reason.CRL_EXPIRED


@pytest.mark.parametrize(
    "serial",
    [
        pytest.param(lambda machine: machine.certificate.serial_number, id="PCK"),
        pytest.param(lambda machine: machine.vendor.ca_serial(renewed=True), id="the CA certificate of this leaf"),
        pytest.param(lambda machine: machine.vendor.ca_serial(renewed=False), id="the CA certificate of the CRL"),
        pytest.param(lambda machine: machine.vendor.signer_serial, id="TCB signing"),
    ],
)
def test_no_entry_outlives_a_revocation(vendor: Vendor, serial: Callable[[Machine], int]) -> None:
    machine = Machine(vendor, 1, under_renewed_ca=True)
    cache = VerificationCache(vendor.anchors)
    quote, before = machine.quote(), vendor.publish(SGX, now=NOW)
    agree(cache, quote, before, now=NOW)
    vendor.revoked.add(serial(machine))
    after = vendor.publish(SGX, now=NOW)
    assert reason_of(agree(cache, quote, after, now=NOW)) == Reason.CERTIFICATE_REVOKED
    # The old lists still say what they said; a cache is no memory of newer ones.
    assert reason_of(agree(cache, quote, before, now=NOW)) is None
    assert reason_of(agree(cache, quote, after, now=NOW)) == Reason.CERTIFICATE_REVOKED


def test_another_opinion_of_a_tcb_is_told_at_once(cache: VerificationCache, machine: Machine) -> None:
    quote, vendor = machine.quote(), machine.vendor
    told = []
    for status in ("UpToDate", "OutOfDate", "Revoked", "UpToDate"):
        vendor.statuses[0] = status
        answer = agree(cache, quote, vendor.publish(SGX, now=NOW), now=NOW)
        told.append(answer.tcb_status if isinstance(answer, VerifiedQuote) else answer[1])
    assert told == ["UpToDate", "OutOfDate", Reason.TCB_REVOKED, "UpToDate"]


MEMBERS: Final = sorted(item.name for item in fields(Collateral) if item.init and item.type == "bytes")


@pytest.mark.parametrize("member", MEMBERS)
def test_any_byte_of_a_collateral_makes_it_another(
    member: str, cache: VerificationCache, machine: Machine, collateral: Collateral, work: Counter[str]
) -> None:
    agree(cache, machine.quote(), collateral, now=NOW)
    value = getattr(collateral, member)
    for other in (value + b"\n", value[:-1], value[:-1] + bytes([value[-1] ^ 1])):
        another = replace(collateral, **{member: other})
        assert another.digest != collateral.digest
        work.clear()
        agree(cache, machine.quote(), another, now=NOW)
        assert work["verify_collateral"] >= 1


def test_a_digest_tells_members_apart(collateral: Collateral) -> None:
    swapped = replace(collateral, root_ca_crl=collateral.pck_crl, pck_crl=collateral.root_ca_crl)
    moved = replace(
        collateral,
        root_ca_crl=collateral.root_ca_crl + collateral.pck_crl[:1],
        pck_crl=collateral.pck_crl[1:],
    )
    assert len({swapped.digest, moved.digest, collateral.digest}) == 3
    assert replace(collateral, pck_certificate_chain=b"of one platform").digest == collateral.digest
    assert Collateral.from_json(collateral.to_json()).digest == collateral.digest


def test_a_replaced_collateral_takes_along_what_rests_on_it(cache: VerificationCache, vendor: Vendor) -> None:
    old, other = vendor.publish(SGX, now=NOW), vendor.publish(TDX, now=NOW)
    for number in range(3):
        cache.verify_quote(Machine(vendor, number).quote(), old, now=NOW)
    cache.verify_quote(Machine(vendor, 9, tee=TDX).quote(), other, now=NOW)
    cache.forget(old)
    assert cache.sizes == {"collaterals": 1, "platforms": 1, "attestation_keys": 1, "quotes": 0}


# --- whose it is


def test_a_cache_belongs_to_one_set_of_trust_anchors(machine: Machine, collateral: Collateral) -> None:
    quote, other = machine.quote(), Vendor("B")
    trusting, strict = VerificationCache(machine.vendor.anchors), VerificationCache(other.anchors)
    for _ in range(2):
        assert reason_of(agree(trusting, quote, collateral, now=NOW)) is None
        assert reason_of(agree(strict, quote, collateral, now=NOW)) == Reason.ROOT_UNTRUSTED
    assert strict.sizes == {"collaterals": 0, "platforms": 0, "attestation_keys": 0, "quotes": 0}


def test_a_cache_that_trusts_two_vendors_mixes_nothing_of_them() -> None:
    vendors = Vendor("A"), Vendor("B")
    both = TrustAnchors(vendors[0].anchors.fingerprints | vendors[1].anchors.fingerprints)
    cache = VerificationCache(both)
    quotes = [Machine(vendor, 1).quote() for vendor in vendors]
    collaterals = [vendor.publish(SGX, now=NOW) for vendor in vendors]
    for _ in range(2):
        reasons = [reason_of(agree(cache, quote, given, now=NOW)) for quote in quotes for given in collaterals]
        assert reasons == [None, Reason.ROOT_UNTRUSTED, Reason.ROOT_UNTRUSTED, None]


# --- what it costs to keep


def test_stores_are_bounded_and_what_was_used_last_stays(vendor: Vendor, work: Counter[str]) -> None:
    cache = VerificationCache(vendor.anchors, max_platforms=3, max_collaterals=2)
    collateral = vendor.publish(SGX, now=NOW)
    quotes = [Machine(vendor, number).quote() for number in range(8)]
    for quote in quotes:
        cache.verify_quote(quotes[0], collateral, now=NOW)
        cache.verify_quote(quote, collateral, now=NOW)
        assert max(cache.sizes["platforms"], cache.sizes["attestation_keys"]) <= 3
    work.clear()
    cache.verify_quote(quotes[0], collateral, now=NOW)
    assert work == {"verify_quote_signature": 1}
    cache.verify_quote(quotes[3], collateral, now=NOW)
    assert work["verify_pck_chain"] == 1
    for days in range(1, 6):
        cache.verify_quote(quotes[0], vendor.publish(SGX, now=NOW, days=days), now=NOW)
        assert cache.sizes["collaterals"] <= 2


def test_what_is_over_makes_room_for_what_is_new(cache: VerificationCache, machine: Machine) -> None:
    cache.verify_quote(machine.quote(), machine.vendor.publish(SGX, now=NOW, days=1), now=NOW)
    later = NOW + 2 * DAY
    cache.verify_quote(machine.quote(), machine.vendor.publish(SGX, now=later, days=1), now=later)
    assert cache.sizes["collaterals"] == 1


def test_many_ca_certificates_and_tcbs_are_no_more_than_slow(
    vendor: Vendor, collateral: Collateral, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_room, "MAX_PCK_CAS", 0)
    monkeypatch.setattr(cache_room, "MAX_LEVELS", 0)
    cache = VerificationCache(vendor.anchors)
    for number in range(3):
        assert reason_of(agree(cache, Machine(vendor, number).quote(), collateral, now=NOW)) is None


def test_neither_quotes_nor_certificates_are_kept(
    cache: VerificationCache, machine: Machine, collateral: Collateral
) -> None:
    """They are most of the bytes, and hold what no later answer needs."""
    cache.verify_quote(machine.quote(), collateral, now=NOW)
    for store in (cache._platforms, cache._attestation_keys):
        reached, waiting = set[int](), list[Any](store._entries.values())
        while waiting:
            item = waiting.pop()
            if id(item) not in reached and not isinstance(item, type):
                reached.add(id(item))
                assert not isinstance(item, Quote | Certificate | PCKCertificate)
                waiting += gc.get_referents(item)


# --- what it is asked besides


def test_the_model_of_a_platform_is_known_once_it_was_verified(
    cache: VerificationCache, machine: Machine, collateral: Collateral
) -> None:
    quote = machine.quote()
    assert cache.model_of(quote) is None
    facts = cache.verify_quote(quote, collateral, now=NOW)
    assert cache.model_of(machine.quote(nonce=5)) == (facts.fmspc, facts.ca)
    assert cache.model_of(Machine(machine.vendor, 2).quote()) is None


def only_ppid(machine: Machine, *, pce_svn: int = 13) -> Quote:
    """A quote that names its platform instead of carrying its PCK chain."""

    def change(world: World) -> None:
        sgx = machine.certificate.sgx
        assert sgx is not None
        world.certification_data_type = CertificationDataType.PPID_PLAIN
        world.certification_data = sgx.fields[1,][2:] + bytes([5] * 16) + pce_svn.to_bytes(2, "little") + bytes(2)

    return machine.quote(change=change)


def test_a_chain_that_comes_with_the_collateral_is_told_apart_from_others(
    cache: VerificationCache, machine: Machine, collateral: Collateral, work: Counter[str]
) -> None:
    """One collateral serves a model; the chain beside it is of one platform, and decides as the quote's own would."""
    other = Machine(machine.vendor, 2)
    chains = [item.quote().certification_data for item in (machine, other)]
    with_chain, with_other = (replace(collateral, pck_certificate_chain=chain) for chain in chains)
    quote, liar = only_ppid(machine), only_ppid(machine, pce_svn=14)
    for _ in range(2):
        assert reason_of(agree(cache, liar, with_chain, now=NOW)) == Reason.PCK_CERTIFICATE_MISMATCH
        assert reason_of(agree(cache, quote, with_chain, now=NOW)) is None
        assert reason_of(agree(cache, quote, with_other, now=NOW)) == Reason.PCK_CERTIFICATE_MISMATCH
        assert reason_of(agree(cache, quote, collateral, now=NOW)) == Reason.PCK_CERTIFICATE_MISSING
        assert reason_of(agree(cache, only_ppid(other), with_other, now=NOW)) is None
    assert cache.sizes == {"collaterals": 1, "platforms": 2, "attestation_keys": 2, "quotes": 0}
    assert cache.model_of(quote) is None
    assert cache.model_of(quote, pck_certificate_chain=chains[1]) is None
    work.clear()
    facts = cache.verify_quote(quote, replace(with_chain), now=NOW)
    assert work == {"verify_quote_signature": 1}
    assert facts.pck_certificate_from == "collateral"
    assert cache.model_of(quote, pck_certificate_chain=chains[0]) == (facts.fmspc, facts.ca)


def test_a_known_certificate_spares_parsing_and_never_stands_for_another(
    vendor: Vendor, collateral: Collateral, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = Machine(vendor, 1).quote(), Machine(vendor, 2).quote()
    known = pck_certificate_of(one.certification_data)
    read: list[Certificate] = []
    from_certificate = PCKCertificate.from_certificate

    def noting(certificate: Certificate) -> PCKCertificate:
        read.append(certificate)
        return from_certificate(certificate)

    monkeypatch.setattr(PCKCertificate, "from_certificate", noting)
    cache = VerificationCache(vendor.anchors)
    facts = cache.verify_quote(one, collateral, now=NOW, known=known)
    assert not read
    others = cache.verify_quote(other, collateral, now=NOW, known=known)
    assert [certificate.der for certificate in read] == [Machine(vendor, 2).certificate.der()]
    assert facts == agree(cache, one, collateral, now=NOW)
    assert others == agree(cache, other, collateral, now=NOW)
    assert facts.ppid != others.ppid


def test_a_time_without_a_zone_and_a_negative_grace_are_misuse_each_time(
    cache: VerificationCache, machine: Machine, collateral: Collateral
) -> None:
    quote = machine.quote()
    cache.verify_quote(quote, collateral, now=NOW)
    for wrong in ({"now": NOW.replace(tzinfo=None)}, {"now": NOW, "grace": -SECOND}):
        arguments: dict[str, Any] = wrong
        with pytest.raises(Misuse):
            cache.verify_quote(quote, collateral, **arguments)


# --- threads


def test_threads_share_a_cache_under_a_guard(vendor: Vendor, collateral: Collateral) -> None:
    cache = VerificationCache(vendor.anchors, max_platforms=3, guard=threading.Lock())
    shown = [(Machine(vendor, number), nonce) for number in range(6) for nonce in range(4)]
    quotes = [machine.quote(nonce=nonce) for machine, nonce in shown]
    bad = Machine(vendor, 0).quote(change=flip_signature)

    def ask(number: int) -> str | None:
        if number % 7 == 0:
            return reason_of(agree(cache, bad, collateral, now=NOW))
        if number % 11 == 0:
            cache.forget(collateral)
        return reason_of(agree(cache, quotes[number % len(quotes)], collateral, now=NOW))

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(160)))
    assert Counter(answers) == {None: 137, Reason.QUOTE_SIGNATURE: 23}
    assert cache.sizes["platforms"] <= 3


# --- quotes that are expected again


def test_a_quote_that_recurs_is_verified_once(
    cache: VerificationCache, machine: Machine, collateral: Collateral, work: Counter[str]
) -> None:
    raw = machine.quote().encode()
    first = cache.verify_quote(cache.recall(raw), collateral, now=NOW, recurs=True)
    work.clear()
    again = cache.verify_quote(cache.recall(raw), collateral, now=NOW + MINUTE, recurs=True)
    assert not work
    assert again.quote is first.quote
    assert (again.verified_at, replace(again, verified_at=NOW)) == (NOW + MINUTE, first)


def test_a_quote_that_is_not_expected_again_is_verified_again(
    cache: VerificationCache, machine: Machine, collateral: Collateral, work: Counter[str]
) -> None:
    quote = machine.quote()
    cache.verify_quote(quote, collateral, now=NOW)
    assert cache.sizes["quotes"] == 0
    cache.verify_quote(quote, collateral, now=NOW, recurs=True)
    work.clear()
    cache.verify_quote(quote, collateral, now=NOW)
    assert work == {"verify_quote_signature": 1}


def test_every_byte_of_a_quote_that_recurs_counts(
    cache: VerificationCache, machine: Machine, collateral: Collateral
) -> None:
    raw = machine.quote().encode()
    cache.verify_quote(cache.recall(raw), collateral, now=NOW, recurs=True)
    for at in (400, 450, 600, 1000, len(raw) - 5):
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        answer = agree(cache, Quote.parse(changed), collateral, now=NOW, recurs=True)
        assert not isinstance(answer, VerifiedQuote)


def test_a_quote_that_recurs_dies_with_its_collateral(
    cache: VerificationCache, vendor: Vendor, machine: Machine, collateral: Collateral
) -> None:
    quote = machine.quote()
    cache.verify_quote(quote, collateral, now=NOW, recurs=True)
    vendor.revoked = {machine.certificate.serial_number}
    revoked = vendor.publish(machine.tee, now=NOW)
    assert reason_of(agree(cache, quote, revoked, now=NOW, recurs=True)) == Reason.CERTIFICATE_REVOKED
    assert cache.sizes["quotes"] == 0
    cache.verify_quote(quote, collateral, now=NOW, recurs=True)
    cache.forget(collateral)
    assert cache.sizes["quotes"] == 0


def test_a_quote_that_recurs_dies_with_what_it_rests_on(work: Counter[str]) -> None:
    world = World()
    document_ends("tcb_info")(world)
    quote, collateral = Quote.parse(world.quote().encode()), world.collateral()
    cache = VerificationCache(world.trust_anchors)
    cache.verify_quote(quote, collateral, now=NOW, recurs=True)
    work.clear()
    cache.verify_quote(quote, collateral, now=SOON, recurs=True)
    assert not work
    late = SOON + SECOND
    assert reason_of(agree(cache, quote, collateral, now=late, recurs=True)) == Reason.TCB_INFO_EXPIRED
    assert cache.sizes["quotes"] == 0
    # What a grace lets pass is not kept.
    agree(cache, quote, collateral, now=late, grace=DAY, recurs=True)
    assert cache.sizes["quotes"] == 0


def test_quotes_that_recur_make_room_for_each_other(
    machine: Machine, collateral: Collateral, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_room, "MAX_QUOTES", 2)
    cache = VerificationCache(vendor.anchors)
    quotes = [machine.quote(nonce=nonce) for nonce in range(3)]
    for quote in quotes:
        cache.verify_quote(quote, collateral, now=NOW, recurs=True)
    assert cache.sizes["quotes"] == 2
    kept = [cache.recall(quote.encode()) is quote for quote in quotes]
    assert kept == [False, True, True]


def test_a_quote_without_its_own_chain_is_not_expected_again(
    cache: VerificationCache, machine: Machine, collateral: Collateral
) -> None:
    """All of its bytes are not all there is to know: the chain comes with the collateral."""
    with_chain = replace(collateral, pck_certificate_chain=machine.quote().certification_data)
    assert isinstance(agree(cache, only_ppid(machine), with_chain, now=NOW, recurs=True), VerifiedQuote)
    assert cache.sizes["quotes"] == 0


# --- the shape of an enclave's quotes


def kept_shapes(cache: VerificationCache) -> int:
    """How many enclaves the cache knows the quotes of."""
    return len(cache._enclaves)


def test_quotes_of_an_enclave_are_parsed_as_the_first_one_was(
    cache: VerificationCache, machine: Machine, collateral: Collateral, monkeypatch: pytest.MonkeyPatch
) -> None:
    quotes = [machine.quote(nonce=nonce) for nonce in range(4)]
    # The first proves the attestation key, and the second that the enclave comes again.
    for quote in quotes[:2]:
        cache.verify_quote(quote, collateral, now=NOW)
    raws = [quote.encode() for quote in quotes]
    monkeypatch.setattr(Quote, "parse", None)
    assert [cache.parse(raw) for raw in raws] == quotes
    monkeypatch.undo()
    for quote in quotes:
        assert isinstance(agree(cache, quote, collateral, now=NOW), VerifiedQuote)


def test_only_what_was_verified_gives_a_shape(
    cache: VerificationCache, machine: Machine, collateral: Collateral
) -> None:
    cache.verify_quote(machine.quote(), collateral, now=NOW)
    raw = bytearray(machine.quote(nonce=1).encode())
    raw[450] ^= 1  # of the signature
    for _ in range(3):
        assert reason_of(agree(cache, Quote.parse(bytes(raw)), collateral, now=NOW)) == Reason.QUOTE_SIGNATURE
    assert kept_shapes(cache) == 0


def test_every_byte_of_a_quote_of_a_known_enclave_counts(
    cache: VerificationCache, machine: Machine, collateral: Collateral
) -> None:
    for nonce in range(3):
        cache.verify_quote(machine.quote(nonce=nonce), collateral, now=NOW)
    assert kept_shapes(cache) == 1
    raw = machine.quote(nonce=9).encode()
    for at in (50, 120, 367, 400, 450, 510, 600, 1000, len(raw) - 5):
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        assert not isinstance(agree(cache, Quote.parse(changed), collateral, now=NOW), VerifiedQuote), at


def test_a_shape_outlives_no_verdict(
    cache: VerificationCache, vendor: Vendor, machine: Machine, collateral: Collateral
) -> None:
    for nonce in range(3):
        cache.verify_quote(machine.quote(nonce=nonce), collateral, now=NOW)
    vendor.revoked = {machine.certificate.serial_number}
    revoked = vendor.publish(machine.tee, now=NOW)
    assert reason_of(agree(cache, machine.quote(nonce=7), revoked, now=NOW)) == Reason.CERTIFICATE_REVOKED


def test_enclaves_make_room_once_many_others_have_come_by(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_room, "MAX_ENCLAVES", 2)
    monkeypatch.setattr(cache_room, "MAX_NEWCOMERS", 3)
    cache, collateral = VerificationCache(vendor.anchors), vendor.publish(SGX, now=NOW)
    kept = []
    for number in range(5):
        # The first time proves the attestation key; the other two are those of an enclave that comes again.
        for nonce in range(3):
            quote = Machine(vendor, number).quote(nonce=nonce)
            assert isinstance(agree(cache, quote, collateral, now=NOW), VerifiedQuote)
            kept.append(kept_shapes(cache))
    assert kept == [0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2]


def test_an_enclave_is_noted_once(cache: VerificationCache, machine: Machine, collateral: Collateral) -> None:
    kept = []
    for nonce in range(4):
        cache.verify_quote(machine.quote(nonce=nonce), collateral, now=NOW)
        kept.append(list(cache._enclaves.values()))
    assert [len(each) for each in kept] == [0, 1, 1, 1]
    assert kept[1][0] is kept[3][0]


def test_a_shape_stands_for_no_chain(cache: VerificationCache, vendor: Vendor, machine: Machine) -> None:
    """Where the chain comes with the collateral, the same bytes may be of another platform, or of none."""
    collateral = vendor.publish(SGX, now=NOW)
    other = Machine(vendor, 2).quote().certification_data
    with_chain = replace(collateral, pck_certificate_chain=machine.quote().certification_data)
    quote = Quote.parse(only_ppid(machine).encode())
    for _ in range(3):
        assert isinstance(agree(cache, quote, with_chain, now=NOW), VerifiedQuote)
    assert kept_shapes(cache) == 1
    for without in (collateral, replace(collateral, pck_certificate_chain=other)):
        assert not isinstance(agree(cache, quote, without, now=NOW), VerifiedQuote)
