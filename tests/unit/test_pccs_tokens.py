"""Tokens: slow and salted when they are kept, cheap for whoever has one."""

from __future__ import annotations

import hashlib

import pytest

from eaa.errors import Misuse, Reason
from eaa.pccs.tokens import MAX_OFFERED, MAX_REMEMBERED, Token, hash_token

TOKEN = "a token of some length"


@pytest.fixture(scope="module")
def line() -> str:
    return hash_token(TOKEN)


def test_a_hash_opens_for_its_token_only(line: str) -> None:
    assert TOKEN not in line
    for kept in (Token.of(line), Token.of(TOKEN), Token.of("sha512$" + hashlib.sha512(TOKEN.encode()).hexdigest())):
        assert kept.is_set
        assert kept.opens(TOKEN)
        assert not kept.opens(TOKEN + " ")
        assert not kept.opens("")
        assert not kept.opens(None)
        assert not kept.opens("x" * (MAX_OFFERED + 1))
        assert not kept.opens(line)


def test_two_hashes_of_one_token_differ(line: str) -> None:
    assert hash_token(TOKEN) != line


def test_without_a_token_nothing_opens() -> None:
    assert not Token().is_set
    assert not Token().opens(TOKEN)
    assert Token().is_known(TOKEN)


def test_a_token_is_hashed_once_right_or_wrong(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Token.of(line)
    assert not kept.is_known(TOKEN)
    assert kept.opens(TOKEN)
    assert not kept.opens("wrong")
    monkeypatch.setattr(hashlib, "scrypt", None)
    assert kept.is_known(TOKEN)
    assert kept.opens(TOKEN)
    assert not kept.opens("wrong")


def test_what_is_remembered_of_guesses_is_bounded() -> None:
    kept = Token.of("sha512$" + hashlib.sha512(TOKEN.encode()).hexdigest())
    for number in range(MAX_REMEMBERED + 10):
        assert not kept.opens(str(number))
    assert not kept.is_known("0")
    assert len(kept._seen) == MAX_REMEMBERED


@pytest.mark.parametrize(
    "broken",
    [
        "scrypt$",
        "scrypt$16384$8$1$AAAA$AAAA",
        "scrypt$2$8$1$" + "A" * 24 + "$" + "A" * 44,
        "scrypt$9999999$8$1$" + "A" * 22 + "==$" + "A" * 43 + "=",
        "scrypt$16384$99$99$" + "A" * 22 + "==$" + "A" * 43 + "=",
        "sha512$00",
    ],
)
def test_a_hash_that_is_cut_off_weak_or_unaffordable_is_refused(broken: str) -> None:
    with pytest.raises(Misuse) as caught:
        Token.of(broken)
    assert caught.value.reason is Reason.FILE_UNREADABLE
