"""The pages of platforms: all of them can be reached, each once, and nobody is told who they are."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from eaa.pccs import admin
from eaa.pccs.admin import Admin
from eaa.pccs.metrics import Observer
from eaa.pccs.status import page_number
from eaa.pccs.store import Store
from eaa.pccs.uploads import parse_upload
from eaa.program.listener import Page
from support.pccs import NOW, anchors, upload_body

PAGE = 10


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(admin, "FLEET_PAGE", PAGE)
    opened = Store.open(tmp_path / "pccs.sqlite")
    yield opened
    opened.close()


def add(store: Store, *names: str) -> None:
    upload = parse_upload(upload_body(), api_version=4)
    (one,) = upload.platforms
    store.apply(replace(upload, platforms=tuple(replace(one, qe_id=name) for name in names)), now=NOW)


def looked_at(store: Store) -> Admin:
    found = Admin(store, trust_anchors=anchors(), observer=Observer(clock=lambda: NOW), clock=lambda: NOW)
    found._take_survey(is_changed=True)
    return found


def ask(found: Admin, query: str = "") -> Page:
    return asyncio.run(found.page(query))


def shown(page: Page) -> list[str]:
    """The pseudonyms on a page."""
    return re.findall(r"<code>([0-9a-f]{16})</code></td></tr>", page.body.decode())


def walked(found: Admin) -> list[list[str]]:
    """What is met by following `next`."""
    pages = [ask(found)]
    while following := re.search(r'<a href="\?(platforms=\d+)">next</a>', pages[-1].body.decode()):
        pages.append(ask(found, following[1]))
    return [shown(page) for page in pages]


@pytest.mark.parametrize(("count", "pages"), [(0, 1), (1, 1), (PAGE, 1), (PAGE + 1, 2), (3 * PAGE, 3), (35, 4)])
def test_every_platform_is_on_one_page(store: Store, count: int, pages: int) -> None:
    add(store, *(f"machine-{number:03}" for number in range(count)))
    met = walked(looked_at(store))
    assert len(met) == pages
    assert {len(page) for page in met[:-1]} <= {PAGE}
    names = [name for page in met for name in page]
    assert len(names) == len(set(names)) == count
    assert set(names) == {entry.pseudonym for entry in store.fleet()}


def test_a_page_links_to_those_around_it_and_names_no_machine(store: Store) -> None:
    add(store, *(f"machine-{number:03}" for number in range(35)))
    text = ask(looked_at(store), "platforms=2").body.decode()
    links = re.findall(r'<a href="([^"]*)">([^<]*)</a>', text.partition("<table")[0])
    assert links == [
        ("./", "All that is cached"),
        ("?platforms=1", "first"),
        ("?platforms=1", "previous"),
        ("?platforms=3", "next"),
        ("?platforms=4", "last"),
    ]
    assert "Page 2 of 4, of 35 platforms" in text
    assert "<script" not in text
    assert "machine-" not in text


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("", 1),
        ("platforms=1", 1),
        ("platforms=20", 20),
        ("platforms=999999", 999_999),
        ("platforms=1000000", None),
        ("platforms=" + "9" * 5000, None),
        ("platforms=0", None),
        ("platforms=01", None),
        ("platforms=-1", None),
        ("platforms=%31", None),
        ("platforms=\u0661", None),
        ("platforms=\xb2", None),
        ("platforms=1 ", None),
        ("platforms=1\n", None),
        ("platforms=", None),
        ("platforms=1&platforms=2", None),
        ("platforms=' OR 1=1", None),
        ("Platforms=1", None),
        ("x", None),
    ],
)
def test_a_page_is_asked_for_by_a_small_number(query: str, number: int | None) -> None:
    assert page_number(query) == number


@pytest.mark.parametrize("query", ["platforms=5", "platforms=999999", "platforms=x", "y=1"])
def test_there_is_no_other_page(store: Store, query: str) -> None:
    add(store, *(f"machine-{number:03}" for number in range(35)))
    page = ask(looked_at(store), query)
    assert page.status == "404 Not Found"
    assert b"platforms=1 to 4 are" in page.body
    assert not shown(page)


def test_what_comes_between_two_looks_pushes_nothing_off_its_page(store: Store) -> None:
    add(store, *(f"machine-{number:03}" for number in range(35)))
    found = looked_at(store)
    before = walked(found)
    add(store, *(f"machine-012-{number}" for number in range(7)))
    after = walked(found)
    assert set(before[1]) < set(after[1])
    assert [*after[:1], *after[2:]] == [*before[:1], *before[2:]]


def test_a_page_reads_no_more_than_itself(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack on the service's time: whoever reads pages has a million platforms counted for each."""
    add(store, *(f"machine-{number:03}" for number in range(35)))
    found = looked_at(store)
    for name in ("fleet_size", "fleet_tcbs", "fleet_starts", "catalogue"):
        monkeypatch.setattr(store, name, None)
    assert len(shown(ask(found, "platforms=3"))) == PAGE


def no_answer(store: Store) -> None:
    with store._engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE platforms")


@pytest.mark.parametrize(("harm", "status"), [(lambda _: None, "200 OK"), (no_answer, "503 Service Unavailable")])
def test_a_database_that_fails_is_said(store: Store, harm: Callable[[Store], None], status: str) -> None:
    add(store, *(f"machine-{number:03}" for number in range(35)))
    found = looked_at(store)
    harm(store)
    assert ask(found, "platforms=2").status == status
    assert ask(found).status == "200 OK"


def test_before_the_first_look_every_page_says_so(store: Store) -> None:
    found = Admin(store, trust_anchors=anchors(), observer=Observer(clock=lambda: NOW), clock=lambda: NOW)
    for query in ("", "platforms=1", "platforms=2"):
        assert b"Nothing was looked at yet" in ask(found, query).body
