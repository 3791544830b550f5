"""Each answer of a long transcript, as Intel's service gives it: status, every header, and body to the byte."""

from __future__ import annotations

import http.client
import os
import ssl
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import pytest

from support.pccs import USER_TOKEN, Answer, running_pccs
from support.pccs_transcript import HTML, SAYS, Row, facts, rows

USUAL: Final = frozenset({"request-id", "etag", "date", "connection", "keep-alive", "content-length", "server"})
ROWS: Final = rows()
REFERENCE: Final = os.environ.get("EAA_REFERENCE_PCCS", "")
"""The URL of another PCCS, empty and with our tokens, to hold the table against: Intel's, to see that it is true."""


def target_of(row: Row) -> str:
    target = row.target
    for name, value in facts().items():
        target = target.replace(f"{{{name}}}", value)
    return target


def ask(url: str, row: Row) -> Answer:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection: http.client.HTTPConnection = (
        http.client.HTTPSConnection(parts.hostname, parts.port, context=ssl._create_unverified_context())
        if parts.scheme == "https"
        else http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    )
    try:
        connection.request(row.method, target_of(row), body=row.body, headers=dict(row.sends))
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(status=response.status, headers=named, body=response.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Answer]]:
    """The whole transcript, sent once in its order."""
    if REFERENCE:
        yield [ask(REFERENCE, row) for row in ROWS]
        return
    folder = tmp_path_factory.mktemp("transcript")
    user_token = folder / "user"
    user_token.touch(mode=0o600)
    user_token.write_text(USER_TOKEN)
    with running_pccs(folder, "--user-token-file", str(user_token)) as pccs:
        yield [ask(pccs.url, row) for row in ROWS]


def name_of(index: int) -> str:
    row = ROWS[index]
    return f"{index}-{row.method}-{row.target.partition('?')[0]}-{row.status}"


@pytest.mark.parametrize("index", range(len(ROWS)), ids=name_of)
def test_the_answer_is_the_reference_s(answers: list[Answer], index: int) -> None:
    row, answer = ROWS[index], answers[index]
    if REFERENCE and row.ours:
        pytest.skip("here the reference is wrong, see docs/manual/pccs.md")
    said = SAYS.get(row.status, "").encode() if row.says is None else row.says
    headers = {name: value if isinstance(value, str) else value() for name, value in row.has.items()}
    assert (answer.status, answer.body) == (row.status, said if isinstance(said, bytes) else said())
    assert {name: answer.headers[name] for name in answer.headers.keys() - USUAL} == headers or (
        not headers and answer.headers["content-type"] == HTML
    )


@pytest.mark.parametrize("index", range(len(ROWS)), ids=name_of)
def test_every_answer_has_the_usual_headers(answers: list[Answer], index: int) -> None:
    row, answer = ROWS[index], answers[index]
    assert {"request-id", "date"} <= answer.headers.keys()
    assert len(answer.headers["request-id"]) == 32
    assert (answer.headers["connection"], answer.headers["keep-alive"]) == ("keep-alive", "timeout=60")
    is_express_page = "content-security-policy" in answer.headers
    assert ("etag" in answer.headers) is not is_express_page
    if row.method != "HEAD" and row.status != 304:
        assert answer.headers["content-length"] == str(len(answer.body))


def test_no_answer_has_the_request_id_of_another(answers: list[Answer]) -> None:
    assert len({answer.headers["request-id"] for answer in answers}) == len(ROWS) >= 105
