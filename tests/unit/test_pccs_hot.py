"""Answers that are ready leave at once, and never past their document's life, a change of the store, or a blind eye."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from eaa.pccs.hot import LOOKED_WITHIN, MAX_KEY, MAX_READY, HotAnswers, new_request_id
from eaa.pccs.wire import Request, Response

ENDS = 1_800_000_000.0
REQUEST = Request(method="GET", path="/sgx/certification/v4/tcb", query="fmspc=00906ED50000")
RESPONSE = Response(
    status=200,
    headers=(("Request-ID", "of another answer"), ("ETag", 'W/"x"'), ("Content-Length", "4")),
    body=b"body",
    keep_until=datetime.fromtimestamp(ENDS, UTC),
)


@dataclass
class Store:
    generation: int = 1


@dataclass
class Scope:
    method: str = "GET"
    path: str = REQUEST.path
    query_string: str = REQUEST.query
    http_version: str = "1.1"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Sent:
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        assert len(dict(headers)) == len(headers)
        self.answers.append((status, dict(headers), body))


def ready(store: Store, *, now: float = ENDS - 1) -> HotAnswers:
    made = HotAnswers(store, clock=lambda: now)
    made.looked()
    made.keep(REQUEST, RESPONSE, generation=store.generation, route="tcb")
    return made


def given(hot: HotAnswers, scope: Any = None, *, is_closing: bool = False) -> dict[str, str] | None:
    sent = Sent()
    if not hot.give(scope or Scope(), sent, is_closing=is_closing):
        assert sent.answers == []
        return None
    ((status, headers, body),) = sent.answers
    assert (status, body) == (200, b"body")
    return headers


def test_the_same_request_gets_the_answer_with_an_id_of_its_own() -> None:
    hot = ready(Store())
    one, other = given(hot), given(hot)
    assert one is not None
    assert other is not None
    assert one["request-id"] != other["request-id"] != "of another answer"
    assert (one["connection"], one["keep-alive"], one["server"]) == ("keep-alive", "timeout=60", "eaa-pccs")
    assert hot.given == {"tcb": 2}


def test_nothing_is_given_past_the_document_s_life() -> None:
    assert given(ready(Store(), now=ENDS - 0.001)) is not None
    assert given(ready(Store(), now=ENDS)) is None


def test_nothing_is_given_after_a_change_of_the_store() -> None:
    store = Store()
    hot = ready(store)
    store.generation += 1
    assert given(hot) is None


def test_nothing_is_given_where_nobody_looks_for_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    hot = ready(Store())
    later = time.monotonic() + LOOKED_WITHIN + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert given(hot) is None
    assert hot.was_asked


@pytest.mark.parametrize(
    "scope",
    [
        Scope(method="HEAD"),
        Scope(method="PUT"),
        Scope(query_string="fmspc=00906ED50001"),
        Scope(path="/tdx/certification/v4/tcb"),
        Scope(headers={"if-none-match": 'W/"x"'}),
        Scope(headers={"content-length": "5"}),
        Scope(headers={"transfer-encoding": "chunked"}),
    ],
)
def test_any_other_request_goes_the_long_way(scope: Scope) -> None:
    assert given(ready(Store()), scope) is None


@pytest.mark.parametrize(
    ("scope", "connection"),
    [(Scope(http_version="1"), None), (Scope(headers={"connection": "Close"}), None), (Scope(), "close")],
)
def test_a_connection_that_ends_is_not_announced_as_kept(scope: Scope, connection: str | None) -> None:
    headers = given(ready(Store()), scope, is_closing=connection is not None)
    assert headers is not None
    assert headers.get("connection") == connection
    assert "keep-alive" not in headers


@pytest.mark.parametrize(
    ("request_", "response", "generation"),
    [
        (replace(REQUEST, method="HEAD"), RESPONSE, 1),
        (REQUEST, replace(RESPONSE, status=404), 1),
        (REQUEST, replace(RESPONSE, status=304), 1),
        (REQUEST, replace(RESPONSE, keep_until=None), 1),
        (REQUEST, RESPONSE, 0),
        (replace(REQUEST, query="x" * MAX_KEY), RESPONSE, 1),
    ],
)
def test_what_may_not_be_given_again_is_not_kept(request_: Request, response: Response, generation: int) -> None:
    hot = HotAnswers(Store(), clock=lambda: 0.0)
    hot.keep(request_, response, generation=generation, route="tcb")
    assert not hot._answers


def test_there_is_an_end_to_keeping() -> None:
    store = Store()
    hot = HotAnswers(store, clock=lambda: 0.0)
    for number in range(MAX_READY + 10):
        hot.keep(replace(REQUEST, query=str(number)), RESPONSE, generation=1, route="tcb")
    assert len(hot._answers) == MAX_READY
    store.generation = 2
    hot.sweep()
    assert not hot._answers


def test_ids_look_like_random_uuids() -> None:
    ids = {new_request_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(each) == 32 and each[12] == "4" and each[16] in "89ab" for each in ids)
