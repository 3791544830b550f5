"""The exchange and its hops under attack: which goals fail, at which level, when what has leaked.

docs/manual/model.md explains goals, leaks and bounds, and says what such a search does not prove.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest

from eaa.appraise.result import BindingLevel
from eaa.evidence.epoch import EPOCH_LABEL, STATEMENT_LABEL
from eaa.protocol.binding import ATTEST_LABEL, CLAIMS, SESSION_CLAIMS
from eaa.protocol.exchange import ALPN, ALPN_INNER
from eaa.protocol.terms import Terms
from model.search import Cell, ModelError, Outcome, explore, vocabulary
from support.vectors import require

# Each search has its own limit; a row of them may be slow where other tests run beside it.
pytestmark = pytest.mark.timeout(300)

MANUAL: Final = Path(__file__).resolve().parents[2] / "docs" / "manual" / "model.md"

LEVELS: Final = ("cert", "session", "fresh")
LEAKS: Final[dict[str, tuple[str, ...]]] = {
    "L0": (),
    "L1": ("tls(i1)",),
    "L2": ("tls(w1)",),
    "L1+L2": ("tls(i1)", "tls(w1)"),
    "L3": ("old-epoch(i1)", "old-epoch(w1)"),
    "L1+L2+L3": ("tls(i1)", "tls(w1)", "old-epoch(i1)", "old-epoch(w1)"),
    "L4": ("epoch(i1)", "epoch(w1)"),
    "L1+L4 of I": ("tls(i1)", "epoch(i1)"),
    "L2+L4 of W": ("tls(w1)", "epoch(w1)"),
    "L1+L2+L4": ("tls(i1)", "tls(w1)", "epoch(i1)", "epoch(w1)"),
    "L5 attacker's": ("quoting(m2)",),
    "L5 pinned": ("quoting(m1)",),
}
TABLE: Final[dict[str, dict[str, str]]] = {
    level: dict(zip(LEAKS, digits.split(), strict=True))
    for level, digits in {
        "cert": "457 34567 12457 1234567 457 1234567 457 34567 12457 1234567 1234567 1234567",
        "session": "57 57 57 57 57 57 57 3567 1257 123567 123567 123567",
        "fresh": "57 57 57 57 57 57 57 57 57 57 123567 123567",
    }.items()
}
"""The digits of the goals that fail, with the same level on every hop."""

LEAKS_OF_CLIENTS: Final[dict[str, tuple[str, ...]]] = {
    "L0": (),
    "L1 of S": ("tls(shelter)",),
    "L1+L3 of S": ("tls(shelter)", "old-epoch(shelter)"),
    "L4 of S": ("epoch(shelter)",),
    "L1+L4 of S": ("tls(shelter)", "epoch(shelter)"),
    "L5 attacker's": ("quoting(m2)",),
}
TABLE_OF_CLIENTS: Final[dict[str, dict[str, str]]] = {
    level: dict(zip(LEAKS_OF_CLIENTS, digits.split(), strict=True))
    for level, digits in {
        "cert": "457 4578 4578 457 4578 12345678",
        "session": "57 57 57 57 578 1235678",
        "fresh": "57 57 57 57 57 1235678",
    }.items()
}
"""The same where Shelter has evidence and is judged."""


@pytest.fixture(autouse=True)
def _maude() -> None:
    require("maude", available=find_spec("maude") is not None, how="install the extra dev; wheels are not everywhere")


def cell(
    level: str, leak: str, *, options: tuple[str, ...] = (), without: tuple[str, ...] = (), outer: str = ""
) -> Cell:
    leaks = (LEAKS | LEAKS_OF_CLIENTS)[leak]
    return Cell(outer=outer or level, inner=level, leaks=leaks, options=options, without=without)


def row(
    level: str,
    *,
    leaks: Iterable[str] = LEAKS,
    options: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
    outer: str = "",
) -> dict[str, Cell]:
    return {leak: cell(level, leak, options=options, without=without, outer=outer) for leak in leaks}


def failing(*rows: dict[str, Cell]) -> list[dict[str, str]]:
    """Search rows, and see that an honest run can finish in each of their cells."""
    found = explore([cell for row in rows for cell in row.values()])
    for row in rows:
        assert {leak: found[cell].finished for leak, cell in row.items()} == dict.fromkeys(row, True)
    return [{leak: found[cell].failing for leak, cell in row.items()} for row in rows]


def search(cell: Cell) -> Outcome:
    outcome = explore([cell])[cell]
    assert outcome.finished
    return outcome


def joined(*digits: str) -> str:
    return "".join(sorted(set("".join(digits))))


def minus(digits: str, goals: str) -> str:
    return "".join(digit for digit in digits if digit not in goals)


# --- the table


@pytest.mark.parametrize("level", LEVELS)
def test_the_goals_that_fail_at_a_level(level: str) -> None:
    """Shelter connects twice, to a site of two relays and two workloads."""
    assert failing(row(level, options=("two-shelters",))) == [TABLE[level]]


def test_leaked_tls_keys_at_level_cert_are_the_published_attack() -> None:
    """Relay and diversion (CVE-2026-33697): a certificate's quote says nothing of the connection it is shown in."""
    relay, workload = search(cell("cert", "L1")), search(cell("cert", "L2"))
    # Shelter takes the attacker for the relay, and a workload does: his certificate has the quote of i1.
    (first,) = relay.traces["G6"]
    assert first == (
        "connect: link(outer(first), shelter-relay, shelter, no-key,"
        " shelter-relay, attacker, tls(i1), network, certificate, unjudged)"
    )
    assert "G3" in relay.traces
    # Shelter's secret goes to him, who has the certificate of w1 and a relay that was configured to reach him.
    *_, last = workload.traces["G1"]
    assert last == (
        "connect: link(inner(first), shelter-workload, shelter, no-key,"
        " shelter-workload, attacker, tls(w1), network, certificate, unjudged)"
    )
    assert {"1", "2"} <= set(workload.failing)


@pytest.mark.parametrize("leak", [leak for leak in LEAKS if "L5" not in leak])
def test_at_fresh_nothing_but_a_quoting_key_takes_the_secret(leak: str) -> None:
    assert set(TABLE["fresh"][leak]) <= set("57")


# --- variants of the site


@pytest.mark.parametrize("level", LEVELS)
def test_the_relays_verdict_adds_that_the_relay_is_genuine_and_nothing_else(level: str) -> None:
    """With the attacker in the relay's place, whom Shelter does not judge."""
    (found,) = failing(row(level, options=("no-relay-verdict",)))
    assert found == {leak: minus(digits, "6") for leak, digits in TABLE[level].items()}


@pytest.mark.parametrize("level", LEVELS)
def test_a_pinned_platform_is_the_one_that_was_meant(level: str) -> None:
    """A quoting key of another machine no longer helps against Shelter; that of the pinned one does."""
    (found,) = failing(row(level, options=("pinned", "no-relay-verdict")))
    expected = {leak: minus(digits, "56") for leak, digits in TABLE[level].items()}
    expected["L5 attacker's"] = minus(expected["L5 attacker's"], "12")
    assert found == expected


@pytest.mark.parametrize("level", LEVELS)
def test_a_workload_that_is_reached_directly_serves_whom_no_relay_brought(level: str) -> None:
    """The relay is admission, not access control. What Shelter relies on is as before."""
    (found,) = failing(row(level, options=("direct",)))
    assert found == {leak: joined(minus(digits, "6"), "3") for leak, digits in TABLE[level].items()}


@pytest.mark.parametrize(
    ("inner", "outer"), [("fresh", "cert"), ("session", "cert"), ("cert", "fresh"), ("fresh", "session")]
)
def test_what_shelter_relies_on_depends_on_the_inner_level_alone(inner: str, outer: str) -> None:
    """G1, G2, G5, G7 follow the level of the inner session, G3 and G6 that of the outer hops; G4 needs both."""
    (found,) = failing(row(inner, outer=outer))
    assert found == {leak: joined(minus(TABLE[inner][leak], "36"), minus(TABLE[outer][leak], "1257")) for leak in LEAKS}


@pytest.mark.parametrize("level", LEVELS)
def test_relays_and_workloads_of_one_image_are_told_apart_by_their_roles(level: str) -> None:
    """A certificate has no role: there, one leaked TLS key of either is good for both."""
    expected = dict(TABLE[level])
    if level == "cert":
        expected |= dict.fromkeys(("L1", "L2", "L1+L4 of I", "L2+L4 of W"), "1234567")
    assert failing(row(level, options=("one-image",))) == [expected]


@pytest.mark.parametrize("level", ["session", "fresh"])
def test_an_epoch_lasts_as_long_as_the_attesters_host_says(level: str) -> None:
    """Whose clock was ahead while an epoch was quoted, its key lives on. Level fresh asks no clock."""
    expected = dict(TABLE[level])
    if level == "session":
        expected["L1+L2+L3"] = expected["L1+L2+L4"]
    assert failing(row(level, options=("clock-ahead",))) == [expected]


@pytest.mark.parametrize("level", ["session", "fresh"])
def test_tls_keys_of_one_machine_and_live_epoch_keys_of_another_do_not_add_up(level: str) -> None:
    leaks = ("tls(i1)", "tls(w1)", "epoch(i2)", "epoch(w2)")
    assert search(Cell(outer=level, inner=level, leaks=leaks)).failing == "57"


@pytest.mark.parametrize(
    ("level", "leaks"),
    [
        ("session", ("tls(i1)", "tls(w1)", "old-epoch(i1)", "old-epoch(w1)", "epoch(i2)", "epoch(w2)")),
        ("session", ("epoch(i1)", "epoch(w1)")),
        ("fresh", ("tls(i1)", "tls(w1)", "old-epoch(i1)", "old-epoch(w1)", "epoch(i1)", "epoch(w1)")),
    ],
)
def test_wider_bounds_find_no_more(level: str, leaks: tuple[str, ...]) -> None:
    """All that a level withstands at once, with two channels for each relay."""
    assert search(Cell(outer=level, inner=level, leaks=leaks, options=("two-channels",))).failing == "57"


@pytest.mark.parametrize("level", LEVELS)
def test_who_judges_clients_is_protected_as_they_are(level: str) -> None:
    """With mutual attestation to the end: Shelter shows evidence in the role of a client, outside and inside."""
    (found,) = failing(row(level, leaks=LEAKS_OF_CLIENTS, options=("mutual",)))
    assert found == TABLE_OF_CLIENTS[level]


# --- checks that are left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A verifier without some checks, and where that shows."""

    without: tuple[str, ...]
    level: str
    leak: str
    added: str
    """The goals that fail besides those that fail with all checks."""
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"without {' and '.join(self.without)}, {self.level} {self.leak}"

    def cell(self, without: tuple[str, ...]) -> Cell:
        return cell(self.level, self.leak, options=self.options, without=without)


CAUGHT: Final = (
    Mutant(without=("certificate / pubkey-hash",), level="cert", leak="L0", added="1236"),
    Mutant(without=("epoch / pubkey-hash",), level="session", leak="L4", added="1236"),
    Mutant(without=("epoch / session-key",), level="session", leak="L1+L2", added="1236"),
    Mutant(without=("epoch / role",), level="session", leak="L1+L4 of I", added="12", options=("one-image",)),
    Mutant(
        without=("epoch / not-before",), level="session", leak="L1+L2+L3", added="1236", options=("clock-far-ahead",)
    ),
    Mutant(without=("epoch / not-after",), level="session", leak="L1+L2+L3", added="1236"),
    Mutant(without=("session-key-apart",), level="session", leak="L1+L2", added="1236", options=("one-key",)),
    Mutant(without=("outer / tls-exporter",), level="fresh", leak="L1", added="6"),
    Mutant(without=("outer / tls-exporter",), level="fresh", leak="L1+L2", added="346"),
    Mutant(without=("outer / role",), level="fresh", leak="L0", added="4"),
    Mutant(without=("inner / tls-exporter",), level="fresh", leak="L2", added="12"),
    Mutant(without=("level",), level="fresh", leak="L1+L2", added="12346"),
    Mutant(without=("vendor-signature",), level="fresh", leak="L0", added="1236"),
    Mutant(without=("measurement",), level="fresh", leak="L0", added="1236"),
    Mutant(without=("platform",), level="fresh", leak="L0", added="5", options=("pinned",)),
    Mutant(without=("platform",), level="fresh", leak="L5 attacker's", added="125", options=("pinned",)),
    Mutant(without=("alpn",), level="fresh", leak="L0", added="4"),
    Mutant(without=("workload-judges-relay",), level="fresh", leak="L0", added="3"),
    Mutant(without=("shelter-judges-workload",), level="fresh", leak="L0", added="12"),
    Mutant(without=("workload-judges-client",), level="fresh", leak="L0", added="8", options=("mutual",)),
)
"""Checks that carry weight: each is missed where it says."""


@pytest.mark.parametrize("mutant", CAUGHT, ids=str)
def test_a_check_that_is_left_out_is_missed(mutant: Mutant) -> None:
    complete, mutated = mutant.cell(()), mutant.cell(mutant.without)
    found = explore([complete, mutated])
    assert minus(found[mutated].failing, found[complete].failing) == mutant.added
    assert found[complete].finished
    assert found[mutated].finished


REDUNDANT: Final = {
    "epoch / label": "no other quote has claims of the same names, and names are compared",
    "epoch-digest": "a session key belongs to one epoch",
    "signature-prefix": "a session key signs nothing but sessions",
    "outer / label": "no other evidence has claims of the same names, and names are compared",
    "outer / pubkey-hash": "the exporter names the session, and with it both keys",
    "outer / peer": "the exporter names the session, and with it both keys",
    "outer / nonce": "the exporter is as fresh",
    "inner / label": "no other evidence has claims of the same names, and names are compared",
    "inner / pubkey-hash": "the exporter names the session, and with it both keys",
    "inner / peer": "the exporter names the session, and with it both keys",
    "inner / nonce": "the exporter is as fresh",
    "inner / role": "ALPN keeps inner sessions with workloads, and the images differ",
    "client-certificate": "ALPN keeps clients without a certificate from a workload's outer listener",
    "relay-judges-workload": "the attacker writes a relay's configuration; it protects who writes it himself",
}
"""Checks without which no goal fails that did not fail before, within the bounds; what stands in for each."""

SECOND_LAYER: Final = (
    Mutant(without=("outer / tls-exporter", "outer / pubkey-hash"), level="fresh", leak="L0", added="6"),
    Mutant(without=("outer / tls-exporter", "outer / peer"), level="fresh", leak="L1", added="34"),
    Mutant(without=("outer / tls-exporter", "outer / nonce"), level="fresh", leak="L1", added="3"),
    Mutant(without=("inner / tls-exporter", "inner / pubkey-hash"), level="fresh", leak="L0", added="12"),
    Mutant(without=("inner / tls-exporter", "inner / peer"), level="fresh", leak="L2", added="4"),
    Mutant(
        without=("inner / tls-exporter", "inner / peer"), level="fresh", leak="L1 of S", added="48", options=("mutual",)
    ),
    Mutant(
        without=("inner / tls-exporter", "inner / nonce"), level="fresh", leak="L1 of S", added="8", options=("mutual",)
    ),
    Mutant(without=("alpn", "inner / role"), level="fresh", leak="L0", added="2", options=("one-image",)),
    Mutant(
        without=("alpn", "relay-judges-workload", "workload-judges-relay", "client-certificate"),
        level="fresh",
        leak="L0",
        added="4",
    ),
)
"""Where the last check that is left out is redundant by itself, and is missed when the others are gone."""


@pytest.mark.parametrize("check", REDUNDANT)
def test_a_redundant_check_is_not_missed(check: str) -> None:
    """Nor where relays and workloads share an image, nor with evidence of clients."""
    without = (check,)
    few = ("L0", "L1", "L2")
    rows = [(row("cert", leaks=few, without=without), {leak: TABLE["cert"][leak] for leak in few})]
    for level in ("session", "fresh"):
        rows += [
            (row(level, without=without), TABLE[level]),
            (row(level, without=without, options=("one-image",)), TABLE[level]),
            (row(level, without=without, options=("mutual",), leaks=LEAKS_OF_CLIENTS), TABLE_OF_CLIENTS[level]),
        ]
    assert failing(*(cells for cells, _ in rows)) == [expected for _, expected in rows]


@pytest.mark.parametrize("mutant", SECOND_LAYER, ids=str)
def test_a_redundant_check_is_a_second_layer(mutant: Mutant) -> None:
    *others, last = mutant.without
    assert last in REDUNDANT
    before, after = mutant.cell(tuple(others)), mutant.cell(mutant.without)
    found = explore([before, after])
    assert minus(found[after].failing, found[before].failing) == mutant.added
    assert found[after].finished


def test_every_check_is_either_missed_or_redundant() -> None:
    missed = {mutant.without[0] for mutant in CAUGHT}
    assert missed.isdisjoint(REDUNDANT)
    assert missed | REDUNDANT.keys() == set(words()["checks"])


# --- model and code


@cache
def words() -> dict[str, Any]:
    """What the model has in common with the code, as Maude has read it."""
    return vocabulary()


@pytest.mark.parametrize(
    ("statement", "claims"),
    [
        ("certificate", CLAIMS[BindingLevel.CERT]),
        ("epoch", CLAIMS[BindingLevel.SESSION]),
        ("statement", CLAIMS[BindingLevel.FRESH]),
        ("statement", SESSION_CLAIMS),
    ],
)
def test_the_claims_of_the_model_are_those_of_the_code(statement: str, claims: tuple[str, ...]) -> None:
    assert list(words()["claims"][statement]) == list(claims)


def test_the_levels_of_the_model_are_those_of_the_code() -> None:
    assert set(LEVELS) == {level.label for level in CLAIMS}


def test_the_labels_of_the_model_are_those_of_the_code() -> None:
    claims = words()["claims"]
    assert claims["statement"]["label"] == ATTEST_LABEL.decode()
    assert claims["epoch"]["label"] == EPOCH_LABEL.decode()
    assert words()["signature_prefix"] == STATEMENT_LABEL.decode()


def test_the_hops_of_the_model_are_those_of_the_code() -> None:
    assert words()["alpn"] == {
        "shelter-relay": ALPN.decode(),
        "relay-workload": ALPN.decode(),
        "shelter-workload": ALPN_INNER.decode(),
    }
    ends = {
        "shelter-relay": (Terms.shelter_to_relay(judges=True), Terms.relay_to_shelter(judges=False)),
        "relay-workload": (Terms.relay_to_workload(), Terms.workload_to_relay(judges=True)),
        "shelter-workload": (Terms.shelter_to_workload(), Terms.workload_to_shelter()),
    }
    for hop, (client, server) in ends.items():
        assert words()["roles"][hop] == [client.own_role.value, server.own_role.value]
        assert (client.peer_role, server.peer_role) == (server.own_role, client.own_role)
        assert client.judges
        assert server.judges is (hop == "relay-workload")


# --- the tool


def test_an_equation_that_does_not_parse_is_a_failure() -> None:
    """Maude itself only warns, and goes on without the equation."""
    with pytest.raises(ModelError, match="no parse for statement"):
        explore([cell("fresh", "L0")], more_source="fmod MORE is protecting NAMES . eq alpn(shelter) = alpn . endfm")


def test_a_search_that_takes_too_long_is_stopped() -> None:
    with pytest.raises(ModelError, match="longer than 1 s"):
        explore([cell("cert", "L1+L2+L4", options=("two-channels",))], seconds=1)


def test_a_term_that_the_model_does_not_have_is_a_failure() -> None:
    with pytest.raises(ModelError):
        search(Cell(outer="fresh", inner="fresh", leaks=("tls(i3)",)))


# --- the manual


def table(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, its head first."""
    text = MANUAL.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").replace("`", "").split("|")] for line in lines]
    return [cells[0], *cells[2:]]


def test_the_manual_has_the_table() -> None:
    assert table("What was found") == [
        ["level", *LEAKS],
        *([level, *digits.values()] for level, digits in TABLE.items()),
    ]


def test_the_manual_names_every_check() -> None:
    _, *missed = table("Checks that carry weight")
    assert [(check, where.split(", ")[:2], goals) for check, where, goals in missed] == [
        (mutant.without[0], [mutant.level, mutant.leak], mutant.added) for mutant in CAUGHT
    ]
    _, *redundant = table("Checks that are a second layer")
    assert dict(redundant) == REDUNDANT
