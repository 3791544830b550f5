"""The manual's page on the protocol is compared with the code: every field, claim, class, limit and example."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from eaa.appraise.result import BindingLevel, Role
from eaa.errors import Reason
from eaa.evidence import cbor
from eaa.evidence.epoch import (
    EPOCH_LABEL,
    STATEMENT_LABEL,
    EpochClaims,
    encode_session_key,
    is_signed_by,
    session_statement,
)
from eaa.evidence.quote import MAX_QUOTE_SIZE
from eaa.evidence.tagged import MAX_CLAIMS_SIZE, TaggedEvidence, encode_claims, pubkey_hash_claim
from eaa.identity import EPOCH_LIFETIME, EPOCH_TOLERANCE
from eaa.protocol import legacy, messages
from eaa.protocol.exchange import (
    ALPN,
    ALPN_INNER,
    ATTEST_LABEL,
    CLAIMS,
    MAX_EARLY_BYTES,
    MAX_EPOCH,
    EvidenceReceived,
    Exchange,
    Session,
    Terms,
    expected_claims,
)
from eaa.protocol.messages import MESSAGE_FIELDS, Message, RejectClass
from eaa.tls.certificate import ENDORSEMENTS_OID, EVIDENCE_OID, LEGACY_QUOTE_OID, MAX_CERTIFICATE_SIZE
from eaa.tls.connection import EXPORTER_LABEL, MAX_CONTROL_BYTES
from support.epochs import MadeEpoch

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "manual" / "protocol.md"
NONCE: Final = bytes(range(32))


@cache
def section(heading: str) -> str:
    """The text of one section, its heading left out."""
    found = re.search(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert found is not None, heading
    return found[1]


def rows(text: str, first: str) -> list[list[str]]:
    """The cells of the table whose first column has this name; the name of a group is carried down its rows."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"| {first} |"))
    table: list[list[str]] = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
        table.append([cells[0] or table[-1][0], *cells[1:]])
    return table


def code(cell: str) -> str:
    """The words of a cell that stand in backticks, joined."""
    return "".join(re.findall(r"`([^`]*)`", cell)).replace(" ", "")


def test_every_message_and_its_keys() -> None:
    documented: dict[str, tuple[str, ...]] = {}
    for kind, key, *_ in rows(section("The messages"), "`type`"):
        documented[code(kind)] = documented.get(code(kind), ()) + ((code(key),) if code(key) else ())
    assert documented == dict(MESSAGE_FIELDS)


@pytest.mark.parametrize(
    "message",
    [
        messages.Attest(nonce=NONCE, level=BindingLevel.FRESH),
        messages.Evidence(),
        messages.Accept(),
        messages.Reject(reason_class=RejectClass.POLICY),
        messages.Open(workload="web"),
        messages.Opened(),
    ],
)
def test_every_example_is_what_is_sent(message: Message) -> None:
    examples = [bytes.fromhex(code(cell)) for _, cell in rows(section("The messages"), "message")]
    assert messages.encode(message) in examples
    assert len(examples) == len(MESSAGE_FIELDS)


def test_every_claim_of_every_level() -> None:
    documented: dict[str, list[str]] = {}
    for level, claim, _ in rows(section("Evidence and its claims"), "level"):
        documented.setdefault(code(level), []).append(code(claim))
    assert documented == {level.label: list(names) for level, names in CLAIMS.items()}


def encoded_claims(level: BindingLevel) -> bytes:
    """The claims of evidence at that level, some values made up."""
    if level is BindingLevel.SESSION:
        return MadeEpoch.of(b"a", Role.WORKLOAD).claims
    claims = expected_claims(
        level, attester_spki=b"a", other_spki=b"b", nonce=NONCE, exporter=NONCE, role=Role.WORKLOAD
    )
    return encode_claims(claims)


@pytest.mark.parametrize("level", CLAIMS)
def test_the_claims_byte_for_byte(level: BindingLevel) -> None:
    """Each row's fixed bytes, then as many as the row says, are the encoding; nothing is left over."""
    raw = encoded_claims(level)
    text = section("Evidence and its claims")
    at_level = text[text.index(f"At `{level.label}`, {len(raw)} bytes") :]
    at = 0
    for cell, _ in rows(at_level, "bytes"):
        layout, _, _ = cell.partition(", or")
        fixed = bytes.fromhex(code(layout))
        assert raw[at:].startswith(fixed), cell
        variable = re.search(r"\+ (\d+)", layout)
        at += len(fixed) + (int(variable[1]) if variable else 0)
    assert at == len(raw)


def test_the_labels_the_exporter_and_the_protocol_names() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for label in (ATTEST_LABEL, EPOCH_LABEL, STATEMENT_LABEL):
        assert f"the {len(label)} bytes `{label.decode()}`" in page
    assert f"`{EXPORTER_LABEL.decode()}`" in page
    assert {code(row[1]) for row in rows(section("Where it runs"), "hop")} == {ALPN.decode(), ALPN_INNER.decode()}


def test_every_role() -> None:
    found = [row[2] for row in rows(section("Evidence and its claims"), "level") if code(row[1]) == "role"]
    assert len(found) == 2
    for role in found:
        assert set(re.findall(r"`(\w+)`", role)) == {member.value for member in Role}


def test_what_the_key_of_an_epoch_signs() -> None:
    text = section("Evidence and its claims")
    signed = text[text.index("### What the key of an epoch signs") :]
    label, digest, rest = [row[0] for row in rows(signed, "bytes")]
    assert bytes.fromhex(code(label)) == STATEMENT_LABEL
    claims = encoded_claims(BindingLevel.FRESH)
    statement = session_statement(bytes(int(digest)), claims)
    assert statement == STATEMENT_LABEL + bytes(32) + claims
    assert rest == "rest"
    assert f"\n{len(statement)} bytes for a `workload` whose peer has a certificate" in signed
    named = set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", " ".join(row[1] for row in rows(signed, "what"))))
    assert {member for member in Reason if member.startswith("EPOCH_")} < {Reason(name) for name in named}


def test_the_numbers_that_are_said_of_epochs() -> None:
    text = section("Evidence and its claims")
    assert f"ends {EPOCH_LIFETIME.total_seconds():g} seconds after it" in text
    assert EPOCH_TOLERANCE.total_seconds() == 60
    assert "begins a minute before its quote" in text
    assert f"which is {MAX_EPOCH.total_seconds():g} seconds unless" in text


def test_the_example_of_level_session() -> None:
    """From the made-up values of its first rows follow all others; the signature is one of many, and is verified."""
    text = section("Evidence and its claims")
    example = [bytes.fromhex(code(row[1])) for row in rows(text[text.index("An example.") :], "what")]
    leaf, other, nonce, exporter, private, quote, epoch, session, statement, signature, message = example
    key = ec.derive_private_key(int.from_bytes(private, "big"), ec.SECP256R1())
    made = EpochClaims(
        pubkey_hash=pubkey_hash_claim(leaf),
        session_key=encode_session_key(key.public_key()),
        role=b"workload",
        not_before=int(datetime(2026, 6, 1, 11, 40, tzinfo=UTC).timestamp()),
        not_after=int(datetime(2026, 6, 1, 11, 46, tzinfo=UTC).timestamp()),
    )
    assert epoch == made.encode()
    evidence = TaggedEvidence(evidence=quote, claims=epoch).encode()
    ends = {"attester_spki": leaf, "other_spki": other, "nonce": nonce, "exporter": exporter}
    assert session == encode_claims(expected_claims(BindingLevel.SESSION, **ends, role=Role.WORKLOAD))
    assert statement == session_statement(hashlib.sha256(evidence).digest(), session)
    assert is_signed_by(made.session_key, signature, statement)
    assert message == messages.encode(messages.Evidence(evidence=evidence, epoch=signature))


def test_the_example_of_level_session_is_accepted_by_the_exchange() -> None:
    text = section("Evidence and its claims")
    example = [bytes.fromhex(code(row[1])) for row in rows(text[text.index("An example.") :], "what")]
    leaf, other, nonce, exporter, *_, message = example
    exchange = Exchange(
        session=Session(exporter=exporter, own_spki=other, peer_spki=leaf),
        terms=Terms.relay_to_workload(level=BindingLevel.SESSION),
        nonce=nonce,
        now=datetime(2026, 6, 1, 11, 45, tzinfo=UTC),
    )
    (event,) = exchange.receive(message)
    assert isinstance(event, EvidenceReceived)
    assert event.evidence == example[5]


def test_every_class_of_refusal() -> None:
    assert [code(row[0]) for row in rows(section("Refusals"), "class")] == [member.value for member in RejectClass]


def test_every_limit() -> None:
    assert [int(row[1]) for row in rows(section("Limits"), "what")] == [
        messages.MAX_MESSAGE,
        MAX_EARLY_BYTES,
        MAX_CONTROL_BYTES,
        messages.MAX_STAPLED_COLLATERAL,
        MAX_QUOTE_SIZE,
        MAX_CLAIMS_SIZE,
        MAX_CERTIFICATE_SIZE,
        cbor.MAX_ITEMS,
    ]
    assert str(messages.MAX_MESSAGE) in section("A message")
    assert f"1 to {messages.MAX_WORKLOAD_NAME}" in section("The messages")


def test_the_extensions_of_a_certificate() -> None:
    documented = [code(row[0]) for row in rows(section("The certificate"), "object identifier")]
    assert documented == [EVIDENCE_OID, ENDORSEMENTS_OID, LEGACY_QUOTE_OID]


def test_the_exchange_of_2021() -> None:
    text = section("Peers of 2021")
    assert legacy.GET_ENCLAVE_INFO.decode() in text
    answer = legacy.encode_enclave_info(mr_enclave=bytes(32), mr_signer=bytes(32)).decode()
    assert answer.replace("00" * 32, "<64 hex>") in text
