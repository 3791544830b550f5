"""What every answer of the service has in common, by the rules of the Express application that clients know."""

from __future__ import annotations

import pytest

from eaa.pccs.wire import (
    SENTENCES,
    Refusal,
    Request,
    Response,
    Status,
    cannot,
    entity_tag,
    finish,
    json_answer,
    named_headers,
    options,
    sentence,
)

HELLO = Response(status=200, headers=(("Content-Type", "text/plain"), ("SGX-FMSPC", "00")), body=b"hello")


def request(method: str = "GET", path: str = "/", query: str = "", **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method=method, path=path, query=query, headers=named)


def names(response: Response) -> list[str]:
    return [name.lower() for name, _ in response.headers]


def test_the_entity_tag_is_that_of_express() -> None:
    """Length in hex, then 27 characters of the SHA-1 in base64; the value for no bytes is known to every user of it."""
    assert entity_tag(b"") == 'W/"0-2jmj7l5rSw0yVb/vlWAYkK/YBwk"'
    assert entity_tag(b"x" * 300).startswith('W/"12c-')


def test_an_answer_leaves_with_tag_and_length() -> None:
    response = finish(request(), HELLO)
    assert response.body == b"hello"
    assert dict(response.headers)["ETag"] == entity_tag(b"hello")
    assert dict(response.headers)["Content-Length"] == "5"


def test_head_has_the_headers_of_get_and_no_body() -> None:
    response = finish(request("HEAD"), HELLO)
    assert (response.body, response.headers) == (b"", finish(request(), HELLO).headers)


TAG = entity_tag(b"hello")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if_none_match": TAG}, 304),
        ({"if_none_match": TAG.removeprefix("W/")}, 304),
        ({"if_none_match": f'"other", {TAG}'}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": 'W/"other"'}, 200),
        ({"if_none_match": ""}, 200),
        ({"if_none_match": TAG, "cache_control": "no-cache"}, 200),
        ({"if_none_match": TAG, "cache_control": "max-age=0, No-Cache"}, 200),
        ({"if_none_match": TAG, "cache_control": "x-no-cache"}, 304),
        ({"if_none_match": TAG, "if_modified_since": "Mon, 23 Nov 2026 05:00:00 GMT"}, 200),
        ({}, 200),
    ],
)
def test_a_client_that_has_the_answer_is_told_so(headers: dict[str, str], status: int) -> None:
    assert finish(request(**headers), HELLO).status == status
    assert finish(request("HEAD", **headers), HELLO).status == status


def test_a_304_keeps_the_headers_but_those_of_the_body() -> None:
    response = finish(request(if_none_match=TAG), HELLO)
    assert response.body == b""
    assert names(response) == ["sgx-fmspc", "etag"]


def test_only_answers_to_get_and_only_good_ones_are_conditional() -> None:
    assert finish(request("PUT", if_none_match="*"), HELLO).status == 200
    assert finish(request(if_none_match="*"), sentence(Status.NO_CACHE_DATA)).status == 404


@pytest.mark.parametrize("status", list(Status))
def test_an_error_is_a_plain_sentence_labelled_as_html(status: Status) -> None:
    response = sentence(status)
    assert response.body.decode() == SENTENCES[status]
    assert dict(response.headers)["Content-Type"] == "text/html; charset=utf-8"


def test_the_sentences_are_those_of_the_reference() -> None:
    assert SENTENCES[Status.OK] == "Operation successful."
    assert SENTENCES[Status.INVALID_REQUEST] == "Invalid request parameters."
    assert SENTENCES[Status.UNAUTHORIZED] == "Authentication failed."
    assert SENTENCES[Status.NO_CACHE_DATA] == "No cache data for this platform."
    assert SENTENCES[Status.CONTENT_TOO_LARGE] == "Content too large."
    assert SENTENCES[Status.INTEGRITY_ERROR] == "The integrity of the data can't be verified."
    assert SENTENCES[Status.PLATFORM_UNKNOWN] == "The platform was not found in the cache."
    assert SENTENCES[Status.INTERNAL_ERROR] == "Internal server error occurred."


def test_options_names_the_methods_twice() -> None:
    response = options("GET", "HEAD")
    assert dict(response.headers)["Allow"] == "GET,HEAD"
    assert response.body == b"GET,HEAD"


def test_an_unknown_path_gets_express_s_page() -> None:
    response = finish(request("DELETE", "/no such/<path>&'"), cannot(request("DELETE", "/no such/<path>&'")))
    assert response.status == 404
    assert response.body == (
        b'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Error</title>\n</head>\n'
        b"<body>\n<pre>Cannot DELETE /no%20such/%3Cpath%3E&amp;&#39;</pre>\n</body>\n</html>\n"
    )
    assert "etag" not in names(response)
    assert dict(response.headers)["Content-Security-Policy"] == "default-src 'none'"
    assert dict(response.headers)["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("a=1", "1"),
        ("a=1&a=2", "1"),
        ("b=0&a=1&b=2&a=3", "1"),
        ("a=", ""),
        ("a", ""),
        ("a=%41+b%2F", "A b/"),
        ("b=1", None),
        ("", None),
        ("a[]=1", "1"),
        ("a%5B%5D=1&a=2", "1"),
        ("a[0]=1", "1"),
        ("a[][]=1", "1"),
        ("a[x]=1", None),
    ],
)
def test_the_first_value_of_a_parameter_counts(query: str, value: str | None) -> None:
    assert request(query=query).parameters().get("a") == value


@pytest.mark.parametrize(
    ("name", "values", "value"),
    [
        ("Admin-Token", ["one"], "one"),
        ("admin-token", ["one", "two"], "one, two"),
        ("If-None-Match", ['"a"', '"b"'], '"a", "b"'),
        ("Content-Type", ["application/json", "text/plain"], "application/json"),
    ],
)
def test_the_values_of_a_repeated_header_are_one_list(name: str, values: list[str], value: str) -> None:
    """A right token beside a wrong one opens nothing; a body has one type."""
    assert named_headers((name, each) for each in values) == {name.lower(): value}


def test_json_is_utf_8_without_escapes() -> None:
    assert json_answer({"qe_id": "É"}).body == '{"qe_id":"É"}'.encode()


@pytest.mark.parametrize(
    ("method", "path", "shown"),
    [
        ("GET", "/sgx/certification/v4/tcb", "GET /sgx/certification/v4/tcb"),
        ("GET", "/\r\neaa-pccs: error: forged\x1b[2J", "GET /%0D%0Aeaa-pccs:%20error:%20forged%1B%5B2J"),
        ("G\nT", "/", "? /"),
        ("GET", "/" + "x" * 10_000, "GET /" + "x" * 199),
    ],
)
def test_a_request_is_logged_in_one_line_without_its_parameters(method: str, path: str, shown: str) -> None:
    assert str(request(method, path, "qeid=00")) == shown


@pytest.mark.parametrize("query", ["a=" + "x" * 20_000, "&".join(f"p{index}=1" for index in range(1001))])
def test_a_query_is_bounded(query: str) -> None:
    with pytest.raises(Refusal) as refused:
        request(query=query).parameters()
    assert refused.value.status is Status.INVALID_REQUEST
