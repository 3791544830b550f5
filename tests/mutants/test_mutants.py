"""Real quotes and forged worlds, changed field by field, before this project and an independent judge.

`make mutants N=10000 SEED=1` is the long run of the same; here stands a short one, and what makes either worth
anything: that no field is left out, that a mutant can be made again, and that nothing is explained away.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from random import Random
from typing import Any, Final

import pytest

from eaa.errors import MalformedInput, Reason, VerificationError
from eaa.evidence.sgx import EnclaveReport
from eaa.evidence.tdx import TDReport15Extended
from eaa.verify.dcap import VerifiedQuote
from mutants import run
from mutants.judges import OtherJudge, Ours, Theirs, agree, judge_ours
from mutants.layout import map_certificate, map_crl, map_quote, resize
from mutants.makers import makers
from mutants.rules import BOTH_ACCEPT, BOTH_REFUSE, OTHER, REFUSALS, RULES, Outcome, classify
from mutants.spoil import leaves
from mutants.subjects import Authority, Mutant, Subject, exhibit_of, subjects
from support.vectors import AVAILABLE, require

SHORT_RUN: Final = 600
SEED: Final = 1


@pytest.fixture(scope="module")
def account() -> run.Account:
    require("the folder of vectors", available=AVAILABLE, how="set EAA_VECTORS to it")
    return run.account_for(range(SHORT_RUN), seed=SEED)


def test_no_answer_is_without_an_explanation(account: run.Account) -> None:
    assert list(account.others.values()) == []


def test_every_field_class_had_a_mutant(account: run.Account) -> None:
    assert account.silent == []
    assert account.rules.total() == SHORT_RUN


def test_both_judges_were_of_one_mind_and_of_two(account: run.Account) -> None:
    """A judge that refuses or accepts everything would explain nothing."""
    assert account.rules[BOTH_ACCEPT] > SHORT_RUN / 20
    assert account.rules[BOTH_REFUSE] > SHORT_RUN / 3
    assert len(account.rules) > 12


def test_the_report_names_each_rule_with_its_count_and_an_example(account: run.Account) -> None:
    text = "\n".join(run.report(account))
    for rule, count in account.rules.items():
        assert f"{count:6}  {rule}" in text
    assert f"{SHORT_RUN} mutants of {len(makers())} field classes" in text
    assert "0 other" in text


# --- what is changed


def test_subjects_are_of_every_format() -> None:
    require("the folder of vectors", available=AVAILABLE, how="set EAA_VECTORS to it")
    formats = {(subject.facts.quote.header.version, subject.facts.quote.body_type.name) for subject in subjects()}
    assert formats == {
        (3, "SGX_REPORT"),
        (4, "TD_REPORT_10"),
        (5, "TD_REPORT_10"),
        (5, "TD_REPORT_15"),
        (5, "TD_REPORT_15_EXTENDED"),
    }
    assert {subject.is_real for subject in subjects()} == {True, False}


def test_both_judges_accept_what_is_not_changed_yet() -> None:
    judge = OtherJudge()
    for subject in subjects():
        theirs = judge.judge(exhibit_of(subject))
        assert theirs.report is not None, subject.name
        assert agree(subject.facts, theirs.report), subject.name
    judge.close()


def test_every_named_field_of_a_report_has_its_class() -> None:
    domain = {f"quote.td.{name}" for name, _ in TDReport15Extended.LAYOUT}
    enclave = {f"quote.{where}.{name}" for where in ("sgx", "qe_report") for name in _named(EnclaveReport)}
    assert domain | enclave <= makers().keys()


def _named(record: type[EnclaveReport]) -> set[str]:
    return {item.name for item in dataclasses.fields(record)} - {"reserved"}


@pytest.mark.parametrize("subject", subjects(), ids=lambda subject: subject.name)
def test_the_map_of_a_quote_leaves_no_byte_out(subject: Subject) -> None:
    spans = map_quote(subject.quote).spans
    assert [span.start for span in spans] == [0, *(span.end for span in spans[:-1])]
    assert spans[-1].end == len(subject.quote)
    field = map_quote(subject.quote)["certification.data"]
    assert resize(subject.quote, certification_data=subject.quote[field.start : field.end]) == subject.quote


def test_the_map_of_a_certificate_and_a_crl_names_what_is_in_them() -> None:
    subject = subjects()[-1]
    assert {"not_after", "sgx.fmspc", "key_usage", "signature"} <= {
        span.name for span in map_certificate(subject.pck_chain[0])
    }
    assert {"next_update", "revoked", "crl_number"} <= {span.name for span in map_crl(subject.collateral.pck_crl)}


def test_leaves_of_a_json_text_are_found_with_their_places() -> None:
    text = '{"a":{"b":[{"c":"x"},{"c":7}]},"d":"","e":[1,2]}'
    values, names = leaves(text)
    shown = [(leaf.path, text[leaf.span.start : leaf.span.end]) for leaf in values]
    assert shown == [("a.b.c", "x"), ("a.b.c", "7"), ("e", "1"), ("e", "2")]
    assert [text[leaf.span.start : leaf.span.end] for leaf in names] == ["a", "b", "c", "c", "d", "e"]


def test_a_number_and_a_seed_make_the_same_mutant_again() -> None:
    def digest(seed: int) -> list[str]:
        made = [maker(Random(f"{seed}:{number}")) for number, maker in enumerate(makers().values())]
        return [hashlib.sha256(repr(mutant.exhibit).encode()).hexdigest() for mutant in made[::7]]

    assert digest(1) == digest(1)
    assert digest(1) != digest(2)


def test_the_result_does_not_depend_on_the_number_of_processes() -> None:
    one, two = (run.account_in_parallel(40, seed=3, jobs=jobs) for jobs in (1, 2))
    assert (one.rules, one.classes, one.examples) == (two.rules, two.classes, two.examples)
    assert len(one.silent) == len(makers()) - 40


# --- what is made of the answers


SUBJECT = subjects()[-1]
FACTS = SUBJECT.facts
REPORT: Final[dict[str, Any]] = {
    "status": str(FACTS.tcb_status),
    "advisory_ids": list(FACTS.advisory_ids),
    "ppid": FACTS.ppid.hex(),
    "report": {"a report": {"all of it": FACTS.quote.body.encode().hex()}},
}
ACCEPTED, THEY_ACCEPT, THEY_REFUSE = Ours(facts=FACTS), Theirs(report=REPORT), Theirs(message="no")


def judged(ours: Ours, theirs: Theirs, authority: Authority = Authority.NOBODY, field_class: str = "x") -> str:
    mutant = Mutant(
        field_class=field_class, subject=SUBJECT, authority=authority, what="changed", exhibit=exhibit_of(SUBJECT)
    )
    return classify(Outcome(mutant=mutant, ours=ours, theirs=theirs))


def changed(**facts: Any) -> VerifiedQuote:
    return dataclasses.replace(FACTS, **facts)


REFUSED = Ours(error=VerificationError(Reason.QUOTE_SIGNATURE, "no"))


@pytest.mark.parametrize(
    ("ours", "theirs", "authority", "expected"),
    [
        pytest.param(ACCEPTED, THEY_ACCEPT, Authority.NOBODY, BOTH_ACCEPT, id="the same facts"),
        pytest.param(REFUSED, THEY_REFUSE, Authority.NOBODY, BOTH_REFUSE, id="both refuse"),
        pytest.param(ACCEPTED, THEY_ACCEPT, Authority.IMPOSTOR, OTHER, id="an impostor is accepted"),
        pytest.param(Ours(facts=changed(pce_svn=1)), THEY_ACCEPT, Authority.NOBODY, OTHER, id="another meaning"),
        pytest.param(Ours(facts=changed(ppid=bytes(16))), THEY_ACCEPT, Authority.VENDOR, OTHER, id="other facts"),
        pytest.param(ACCEPTED, Theirs(report=REPORT | {"status": "x"}), Authority.VENDOR, OTHER, id="another status"),
        pytest.param(REFUSED, THEY_ACCEPT, Authority.NOBODY, OTHER, id="we refuse, and no rule says why"),
        pytest.param(ACCEPTED, THEY_REFUSE, Authority.VENDOR, OTHER, id="we accept, and no rule says why"),
    ],
)
def test_what_no_rule_explains_is_other(ours: Ours, theirs: Theirs, authority: Authority, expected: str) -> None:
    assert judged(ours, theirs, authority) == expected


@pytest.mark.parametrize("reason", sorted({reason for rule in REFUSALS for reason in rule.reasons}))
def test_a_reason_alone_explains_little(reason: Reason) -> None:
    """Where nothing was changed, only bytes behind a quote, which we have looked at, stay explained."""
    ours = Ours(error=MalformedInput(reason, "we do not say why"))
    expected = "bytes behind the quote" if reason is Reason.QUOTE_TRAILING_BYTES else OTHER
    assert judged(ours, THEY_ACCEPT) == expected


def test_every_rule_says_why_in_a_sentence() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.statement and not rule.statement.endswith(".") for rule in RULES)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda account: account.others.update({7: "somebody's bytes"}), id="an answer under other"),
        pytest.param(lambda account: account.classes.pop(next(iter(account.classes))), id="a field left out"),
    ],
)
def test_a_run_fails_for_each_of_its_two_reasons(
    spoil: Callable[[run.Account], object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fake(count: int, *, seed: int, jobs: int) -> run.Account:
        account = run.Account()
        account.classes.update(makers().keys())
        spoil(account)
        return account

    monkeypatch.setattr(run, "account_in_parallel", fake)
    monkeypatch.setattr("sys.argv", ["run.py", "--count", "1"])
    assert run.main() == 1
    assert "no mutant:" in (printed := capsys.readouterr().out) or "other: #7" in printed


def test_our_own_bug_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is neither facts nor a documented error ends the run."""

    def broken(*_: object, **__: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr("mutants.judges.verify_quote", broken)
    with pytest.raises(KeyError):
        judge_ours(exhibit_of(SUBJECT))
