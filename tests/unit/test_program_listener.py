"""The listener for metrics and health, and whoever knocks at that door."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import pytest

from eaa.aio.address import parse_address
from eaa.errors import Reason, Unavailable
from eaa.program import health as health_module
from eaa.program import listener
from eaa.program.exposition import Metric
from eaa.program.health import Health
from eaa.program.listener import MAX_REQUEST, MAX_SCRAPERS, Page, serving_metrics
from support.aio_world import run

ANSWER = 42
GOOD = [Metric(name="eaa_answer_total", kind="counter", meaning="An answer.", read=lambda: ANSWER)]
ANYWHERE = parse_address("tcp://127.0.0.1:0")


async def page(query: str) -> Page:
    return Page(content_type="text/html", body=f"<p>{query}".encode(), headers=(("X-A", "b"),), status="203 Odd")


PAGES = {"/": page}


@contextlib.asynccontextmanager
async def serving(health: Health | None = None) -> AsyncIterator[int]:
    async with serving_metrics(ANYWHERE, GOOD, health=health, pages=PAGES) as names:
        (port,) = re.findall(r"tcp://127\.0\.0\.1:(\d+) \(metrics\)", names[0])
        yield int(port)


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await writer.drain()
    answer = await reader.read()
    writer.close()
    return answer


def asked(request: bytes, health: Health | None = None) -> bytes:
    """What comes back for these bytes."""

    async def main() -> bytes:
        async with serving(health) as port:
            return await ask(port, request)

    return run(main())


def get(path: str, *headers: str) -> bytes:
    return "".join(f"{line}\r\n" for line in (f"GET {path} HTTP/1.1", "Host: x", *headers, "")).encode()


def test_a_scraper_gets_them() -> None:
    for target in ("/metrics", "/metrics?name[]=x"):
        head, _, body = asked(get(target)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        assert b"eaa_answer_total 42\n" in body
        assert b"eaa_ready 1\n" in body


@pytest.mark.parametrize(
    ("accept", "version"),
    [
        ("text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3", "1.0.0"),
        ("application/openmetrics-text;version=1.0.0,text/plain; version=0.0.4", "0.0.4"),
        ("*/*", "0.0.4"),
    ],
)
def test_a_scraper_that_knows_the_newer_version_is_told_that_it_is_that(accept: str, version: str) -> None:
    head = asked(get("/metrics", f"Accept: {accept}")).partition(b"\r\n\r\n")[0].decode()
    assert f"Content-Type: text/plain; version={version}; charset=utf-8" in head


@pytest.mark.parametrize("path", ["/livez", "/healthz/live", "/readyz", "/healthz/ready"])
def test_health_is_said_in_a_status(path: str) -> None:
    live = path in ("/livez", "/healthz/live")
    bad = Health(live=lambda: ["loop"] if live else [], ready=lambda: [] if live else ["evidence", "collateral"])
    assert asked(get(path)).startswith(b"HTTP/1.1 200 OK")
    answer = asked(get(path), bad)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert (b"loop" if live else b"evidence, collateral") in answer


def test_a_loop_that_stands_still_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "MAX_PAUSE", -1.0)
    answer = asked(get("/livez"))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"event_loop" in answer


def test_there_may_be_other_pages() -> None:
    head, _, body = asked(get("/")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 203 Odd\r\nContent-Type: text/html\r\n")
    assert b"X-A: b" in head
    assert body == b"<p>"


@pytest.mark.parametrize(
    ("target", "query"), [("/?", b""), ("/?a=1", b"a=1"), ("/?a?b=%41&\xe9", "a?b=%41&é".encode())]
)
def test_a_page_is_told_the_query_as_it_came(target: str, query: bytes) -> None:
    asking = get(target).decode().encode("latin-1")
    assert asked(asking).endswith(b"\r\n\r\n<p>" + query)


def test_a_text_of_several_processes_is_waited_for() -> None:
    async def texts() -> str:
        await asyncio.sleep(0)
        return "x 1\n"

    async def main() -> bytes:
        async with serving_metrics(ANYWHERE, texts) as names:
            return await ask(int(re.findall(r":(\d+) ", names[0])[0]), get("/metrics"))

    assert run(main()).endswith(b"\r\n\r\nx 1\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /x HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics/../x HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /\xff\x00\x1b[31m HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"405"),
        (b"POST /readyz HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"405"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"GET  /metrics HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/2\r\n\r\n", b"400"),
        (b"\x16\x03\x01" + bytes(200) + b"\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * MAX_REQUEST, b"400"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_anything_else_is_told_what_is_there(request_: bytes, status: bytes) -> None:
    answer = asked(request_)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"eaa_answer_total" not in answer
    assert b"\x1b" not in answer


def test_a_scraper_that_stalls_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "REQUEST_TIMEOUT", 0.05)
    assert asked(b"GET /metrics HTTP/1.1\r\n") == b""


def test_slow_scrapers_keep_nobody_out() -> None:
    """Slowloris: more connections than there is room for, each of which says a little now and then."""

    async def main() -> None:
        async with serving() as port, contextlib.AsyncExitStack() as stack:
            slow = []
            for _ in range(3 * MAX_SCRAPERS):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                stack.callback(writer.close)
                writer.write(b"GET /metrics HTTP/1.1\r\nX-")
                slow.append((reader, writer))
            for path in ("/metrics", "/livez", "/readyz"):
                async with asyncio.timeout(listener.REQUEST_TIMEOUT / 2):
                    assert (await ask(port, get(path))).startswith(b"HTTP/1.1 200 OK")
            # The eldest had to make room for them; none of them was ever more than a nuisance.
            assert await slow[0][0].read() == b""

    run(main())


def test_no_address_is_no_listener() -> None:
    async def main() -> None:
        async with serving_metrics(None, GOOD) as names:
            assert names == []

    run(main())


def test_an_address_that_cannot_be_had_is_named() -> None:
    async def main() -> None:
        async with serving_metrics(ANYWHERE, GOOD) as names:
            taken = names[0].split()[0]
            with pytest.raises(Unavailable) as caught:
                async with serving_metrics(parse_address(taken), GOOD):
                    pass
            assert caught.value.reason is Reason.ADDRESS_IN_USE

    run(main())
