"""A cache that is filled from an upstream: each document once, verified, and what happens when the upstream is bad."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest

from eaa.pccs import flights
from eaa.pccs.filling import Filler, Mode
from eaa.pccs.flights import Flights, SharedFlights
from eaa.pccs.service import Service
from eaa.pccs.store import Store
from eaa.pccs.upstream import MAX_ANSWER, RETRIES, Upstream
from eaa.pccs.wire import Refusal
from eaa.simulator.pki import SimulatedPKI
from eaa.simulator.platform import Platform
from support.pccs import (
    NOW,
    TDX,
    TOKEN,
    USER_TOKEN,
    V3,
    V4,
    anchors,
    get,
    opened_by,
    pckcert_query,
    platform,
    put,
    send,
    upload_document,
)
from support.pccs_upstream import Replies, upstream_of
from support.scripted_http import Reply, Script, scripted

FMSPC: Final = platform().model.fmspc.hex().upper()
TCB: Final = f"{V4}/tcb?fmspc={FMSPC}"
ROOT_CRL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
PCKCERT: Final = f"{V4}/pckcert?{pckcert_query(upload_document())}"


class Pauses(list[float]):
    """Sleeps without sleeping, and remembers how long."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@contextmanager
def filled(
    folder: Path,
    replies: Replies,
    *,
    mode: Mode = Mode.LAZY,
    clock: Any = None,
    pauses: Any = None,
) -> Iterator[tuple[Service, Script]]:
    """A service in this mode over a new database, in front of this upstream."""
    clock = clock or Clock()
    store = Store.open(folder / "pccs.sqlite")
    try:
        with scripted(replies) as script:
            upstream = Upstream(script.url, api_key="a key", timeout=60, sleep=Pauses() if pauses is None else pauses)
            filler = Filler(upstream, store, trust_anchors=anchors(), clock=clock)
            yield (
                Service(
                    store,
                    admin_token=opened_by(TOKEN),
                    user_token=opened_by(USER_TOKEN),
                    trust_anchors=anchors(),
                    mode=mode,
                    filler=filler,
                    clock=clock,
                ),
                script,
            )
    finally:
        store.close()


def paths(script: Script) -> list[str]:
    """What was asked for, without parameters, sorted."""
    return sorted(target.partition("?")[0] for target in script.requests)


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        (TCB, [f"{V4}/rootcacrl", f"{V4}/tcb"]),
        (f"{V4}/qe/identity", [f"{V4}/qe/identity", f"{V4}/rootcacrl"]),
        (f"{TDX}/qe/identity", [f"{V4}/rootcacrl", f"{TDX}/qe/identity"]),
        (f"{V4}/qve/identity", [f"{V4}/qve/identity", f"{V4}/rootcacrl"]),
        (f"{V4}/pckcrl?ca=platform", [f"{V4}/pckcrl", f"{V4}/rootcacrl"]),
    ],
)
def test_a_miss_is_fetched_once_and_stays(tmp_path: Path, target: str, asked: list[str]) -> None:
    with filled(tmp_path, upstream_of(platform())) as (served, script):
        first = get(served, target)
        assert first.status == 200
        assert get(served, target).body == first.body
        assert paths(script) == asked


@pytest.mark.parametrize(
    "target",
    [f"{V4}/rootcacrl", f"{V4}/crl?uri=https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"],
)
def test_the_root_s_crl_is_fetched_with_a_chain_that_names_the_root(tmp_path: Path, target: str) -> None:
    with filled(tmp_path, upstream_of(platform())) as (served, _):
        assert get(served, target).status == 200


def test_a_platform_is_fetched_with_the_key_and_everything_that_vouches_for_it(tmp_path: Path) -> None:
    with filled(tmp_path, upstream_of(platform())) as (served, script):
        response = get(served, PCKCERT)
        assert response.status == 200
        assert response.body == platform().pck_pem
        assert get(served, TCB).status == 200
        keys = [named.get("ocp-apim-subscription-key") for named in script.headers]
        assert [bool(key) for key in keys] == ["pckcerts" in target for target in script.requests]


@pytest.mark.parametrize("target", [f"{V4}/rootcacrl", f"{V4}/crl?uri={ROOT_CRL}"])
def test_a_cold_cache_asks_once_for_the_root_s_crl(tmp_path: Path, target: str) -> None:
    with filled(tmp_path, upstream_of(platform())) as (served, script):
        assert get(served, target).status == 200
        assert paths(script) == [f"{V4}/qe/identity", f"{V4}/rootcacrl"]


def test_the_root_s_crl_may_be_published_elsewhere(tmp_path: Path) -> None:
    replies = upstream_of(platform())
    der = bytes.fromhex(replies.pop(f"{V4}/rootcacrl")[0].body.decode())
    replies["/IntelSGXRootCA.der"] = [Reply(body=der)]
    store = Store.open(tmp_path / "pccs.sqlite")
    try:
        with scripted(replies) as script:
            upstream = Upstream(script.url, root_crl_url=f"{script.url}/IntelSGXRootCA.der")
            filler = Filler(upstream, store, trust_anchors=anchors(), clock=Clock())
            filler.tcb_info(tee="SGX", fmspc=FMSPC, update="STANDARD")
            assert paths(script) == ["/IntelSGXRootCA.der", f"{V4}/tcb"]
    finally:
        store.close()


def test_who_had_a_certificate_fetched_gets_it_with_a_charset(tmp_path: Path) -> None:
    """The reference's own: it sends what it fetched as text, and what it has stored as bytes."""
    with filled(tmp_path, upstream_of(platform())) as (served, _):
        fetched, stored = get(served, PCKCERT), get(served, PCKCERT)
        assert fetched.body == stored.body
        assert [dict(answer.headers)["Content-Type"] for answer in (fetched, stored)] == [
            "application/x-pem-file; charset=utf-8",
            "application/x-pem-file",
        ]


def test_a_platform_that_gave_a_manifest_is_asked_for_by_it(tmp_path: Path) -> None:
    entry = upload_document()["platforms"][0]
    with filled(tmp_path, upstream_of(platform()), mode=Mode.REQ) as (served, script):
        by_manifest = {"qe_id": entry["qe_id"], "pce_id": entry["pce_id"], "platform_manifest": "AB" * 100}
        for report in (by_manifest, entry):
            assert send(served, "POST", f"{V4}/platforms", report, user_token=USER_TOKEN).status == 200
        asked = [body for body in script.bodies if body]
        # It need not repeat it: the cache knows it.
        assert asked == [f'{{"platformManifest":"{"ab" * 100}","pceid":"0000"}}'.encode()] * 2


def test_one_refresh_fetches_a_platform_once_and_its_model_s_documents_once(tmp_path: Path) -> None:
    entry = upload_document()["platforms"][0]
    with filled(tmp_path, upstream_of(platform())) as (served, script):
        for qe_id in ("01", "02"):
            for cpu_svn in (entry["cpu_svn"], "ff" * 16):
                report = {**entry, "qe_id": qe_id, "cpu_svn": cpu_svn}
                assert send(served, "POST", f"{V4}/platforms", report, user_token=USER_TOKEN).status == 200
        script.requests.clear()
        assert get(served, f"{V4}/refresh?type=certs&fmspc=", admin_token=TOKEN).status == 200
        assert paths(script) == [f"{V4}/pckcerts"] * 2 + [f"{V4}/tcb"] * 2 + [f"{TDX}/tcb"] * 2


def test_a_refresh_asks_in_the_reference_s_order(tmp_path: Path) -> None:
    entry = upload_document()["platforms"][0]
    with filled(tmp_path, upstream_of(platform())) as (served, script):
        assert send(served, "POST", f"{V4}/platforms", entry, user_token=USER_TOKEN).status == 200
        script.requests.clear()
        assert get(served, f"{V4}/refresh", admin_token=TOKEN).status == 200
        order = [target.partition("?")[0].removeprefix(V4) for target in script.requests]
        assert list(dict.fromkeys(order)) == [
            *("/pckcrl", "/tcb", "/qe/identity", "/qve/identity", f"{TDX}/qe/identity", "/rootcacrl")
        ]


def test_a_report_is_repeated_until_the_vendor_has_the_better_certificate(tmp_path: Path) -> None:
    """In LAZY mode, where nothing is queued: what is not available now may be later."""
    entry = upload_document()["platforms"][0]
    replies = upstream_of(platform())
    (whole,) = replies[f"{V4}/pckcerts"]
    certificates = json.loads(whole.body)
    lacking = [{**certificates[0], "cert": "Not available", "tcbm": "F" * 36}, *certificates]
    replies[f"{V4}/pckcerts"] = [replace(whole, body=json.dumps(lacking).encode()), whole]
    with filled(tmp_path, replies) as (served, script):
        for _ in range(3):
            assert send(served, "POST", f"{V4}/platforms", entry, user_token=USER_TOKEN).status == 200
        assert paths(script).count(f"{V4}/pckcerts") == 2


@pytest.mark.parametrize(("ppid", "status"), [("0" * 768, 404), (None, 400)])
def test_a_platform_without_a_ppid_never_goes_upstream(tmp_path: Path, ppid: str | None, status: int) -> None:
    with filled(tmp_path, upstream_of(platform())) as (served, script):
        query = pckcert_query(upload_document(), encrypted_ppid=ppid or "x")
        target = f"{V4}/pckcert?{query}" if ppid else f"{V4}/pckcert?{query.replace('&encrypted_ppid=x', '')}"
        assert get(served, target).status == status
        assert script.requests == []


def test_what_one_client_got_wrong_does_not_stand_in_the_way_of_the_next(tmp_path: Path) -> None:
    with filled(tmp_path, upstream_of(platform())) as (served, _):
        for ppid in ("0" * 768, "ab" * 384):
            get(served, f"{V4}/pckcert?{pckcert_query(upload_document(), encrypted_ppid=ppid, qeid='77')}")
        assert get(served, PCKCERT.replace("qeid=", "qeid=9")).status in (200, 404)
        assert get(served, f"{V4}/pckcert?{pckcert_query(upload_document(), encrypted_ppid='0' * 768)}").status == 404
        assert get(served, PCKCERT).status == 200


def test_fifty_cold_clients_make_one_fetch_of_each_document(tmp_path: Path) -> None:
    with filled(tmp_path, upstream_of(platform())) as (served, script), ThreadPoolExecutor(50) as pool:
        barrier = threading.Barrier(50)

        def ask(target: str) -> int:
            barrier.wait()
            return get(served, target).status

        assert list(pool.map(ask, [TCB, f"{V4}/qe/identity"] * 25)) == [200] * 50
        assert paths(script) == [f"{V4}/qe/identity", f"{V4}/rootcacrl", f"{V4}/tcb"]


def test_version_3_has_ended(tmp_path: Path) -> None:
    with filled(tmp_path, upstream_of(platform())) as (served, script):
        assert get(served, f"{V3}/tcb?fmspc={FMSPC}").status == 410
        assert get(served, f"{V3}/qe/identity").status == 410
        assert script.requests == []


@pytest.mark.parametrize("mode", [Mode.OFFLINE, Mode.REQ])
def test_only_a_lazy_cache_asks_for_a_read(tmp_path: Path, mode: Mode) -> None:
    with filled(tmp_path, upstream_of(platform()), mode=mode) as (served, script):
        assert get(served, TCB).status == 404
        assert get(served, PCKCERT).status == 461
        assert script.requests == []


@pytest.mark.parametrize("mode", [Mode.REQ, Mode.LAZY])
def test_a_platform_that_reports_itself_is_provisioned_whole(tmp_path: Path, mode: Mode) -> None:
    with filled(tmp_path, upstream_of(platform()), mode=mode) as (served, script):
        entry = upload_document()["platforms"][0]
        replies = script.replies
        replies[f"{V4}/pckcrl"] = [*replies[f"{V4}/pckcrl"], Reply(status=404)]
        response = send(served, "POST", f"{V4}/platforms", entry, user_token=USER_TOKEN)
        # That this upstream lacks the other CA's CRL is no failure: the platform does without.
        assert response.status == 200
        assert get(served, PCKCERT).status == 200
        queued = get(served, f"{V4}/platforms", admin_token=TOKEN)
        assert queued.body == b"[]"


# --- bad upstreams


def with_tcb(reply: Reply, *more: Reply) -> Replies:
    return {**upstream_of(platform()), f"{V4}/tcb": [reply, *more]}


def good_tcb() -> Reply:
    return upstream_of(platform())[f"{V4}/tcb"][0]


STRANGER: Final = Platform.create(now=NOW, pki=SimulatedPKI.create(now=NOW, seed=bytes(32)))
LIES: Final = {
    "another signature": Reply(headers=good_tcb().headers, body=good_tcb().body.replace(b"UpToDate", b"OutOfDate")),
    "cut off": Reply(headers=good_tcb().headers, body=good_tcb().body[:-10]),
    "no chain": Reply(body=good_tcb().body),
    "a chain that is none": Reply(headers=(("TCB-Info-Issuer-Chain", "x"),), body=good_tcb().body),
    "another vendor": upstream_of(STRANGER)[f"{V4}/tcb"][0],
    "out of date": upstream_of(platform(), now=NOW - timedelta(days=40))[f"{V4}/tcb"][0],
    "huge": Reply(headers=good_tcb().headers, body=b" " * (MAX_ANSWER + 1)),
    "not JSON": Reply(headers=good_tcb().headers, body=b"<html>"),
    "moved": Reply(status=302, headers=(("Location", "http://127.0.0.1:1/"),)),
    "forbidden": Reply(status=403),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_what_a_lying_upstream_sends_is_neither_kept_nor_served(tmp_path: Path, lie: Reply) -> None:
    with filled(tmp_path, with_tcb(lie, good_tcb())) as (served, _):
        response = get(served, TCB)
        assert (response.status, response.body) == (502, b"Unable to retrieve the collateral from the Intel SGX PCS.")
        assert get(served, TCB).status == 200


def test_tcb_info_of_another_model_is_a_lie(tmp_path: Path) -> None:
    with filled(tmp_path, with_tcb(good_tcb())) as (served, _):
        assert get(served, f"{V4}/tcb?fmspc=000000000000").status == 502


def test_what_the_upstream_has_not_is_a_miss(tmp_path: Path) -> None:
    with filled(tmp_path, with_tcb(Reply(status=404))) as (served, script):
        assert get(served, TCB).status == 404
        assert len(script.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_failure_that_passes_is_tried_again_with_growing_pauses(tmp_path: Path, status: int) -> None:
    pauses = Pauses()
    with filled(tmp_path, with_tcb(Reply(status=status), Reply(status=status), good_tcb()), pauses=pauses) as (
        served,
        _,
    ):
        assert get(served, TCB).status == 200
    first, second = pauses
    assert 0.25 <= first <= 0.75
    assert 0.5 <= second <= 1.5


def test_an_upstream_that_throttles_says_for_how_long(tmp_path: Path) -> None:
    pauses = Pauses()
    throttled = Reply(status=429, headers=(("Retry-After", "3"),))
    with filled(tmp_path, with_tcb(throttled, good_tcb()), pauses=pauses) as (served, _):
        assert get(served, TCB).status == 200
    assert pauses == [3.0]


@pytest.mark.parametrize("asked", ["40", "99999", "Fri, 31 Dec 9999 23:59:59 GMT", "Fri, 31 Dec 9999 23:59:59 -2359"])
def test_an_upstream_that_wants_to_be_left_alone_is_within_reason_and_nobody_waits(tmp_path: Path, asked: str) -> None:
    throttled = Reply(status=429, headers=(("Retry-After", asked),))
    pauses, moment = Pauses(), [0.0]
    with scripted(with_tcb(throttled, good_tcb())) as script:
        upstream = Upstream(script.url, sleep=pauses, monotonic=lambda: moment[0])
        for _ in range(3):
            with pytest.raises(Refusal) as refused:
                upstream.get("sgx", "tcb", {"fmspc": FMSPC})
            assert refused.value.status == 502
        assert (len(script.requests), pauses) == (1, [])
        moment[0] = 60.0
        assert upstream.get("sgx", "tcb", {"fmspc": FMSPC}).body


@pytest.mark.parametrize("asked", ["Fri, 31 Dec 99999999999 23:59:59 GMT", "soon", "-1", "1e999", ""])
def test_what_is_neither_seconds_nor_a_date_does_not_say_for_how_long(tmp_path: Path, asked: str) -> None:
    pauses = Pauses()
    throttled = Reply(status=429, headers=(("Retry-After", asked),))
    with filled(tmp_path, with_tcb(throttled, good_tcb()), pauses=pauses) as (served, _):
        assert get(served, TCB).status == 200
    (pause,) = pauses
    assert 0.25 <= pause <= 0.75


def test_what_the_upstream_has_not_is_not_asked_for_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled(tmp_path, with_tcb(Reply(status=404), good_tcb())) as (served, script):
        assert [get(served, TCB).status for _ in range(3)] == [404] * 3
        assert len(script.requests) == 1
        monkeypatch.setattr(flights, "NEGATIVE", -1.0)
        other = TCB.replace(FMSPC, "000000000000")
        assert [get(served, other).status for _ in range(2)] == [502, 502]


@pytest.mark.parametrize("failure", [Reply(hangs_up=True), Reply(status=503), Reply(stalls=5)])
def test_an_upstream_that_is_down_is_a_502_and_does_not_surface_while_documents_are_valid(
    tmp_path: Path, failure: Reply, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    replies = upstream_of(platform())
    with filled(tmp_path, replies, clock=clock) as (served, script):
        assert get(served, TCB).status == 200
        script.replies.update({path: [failure] for path in replies})
        assert served._filler is not None
        monkeypatch.setattr(served._filler._upstream, "_timeout", 1)
        assert get(served, f"{V4}/qe/identity").status == 502
        assert get(served, TCB).status == 200
        assert get(served, f"{V4}/refresh", method="POST", admin_token=TOKEN).status == 503
        assert get(served, TCB).status == 200
        clock.now += timedelta(days=31)
        assert get(served, TCB).status == 502


def test_tries_are_counted(tmp_path: Path) -> None:
    with filled(tmp_path, with_tcb(Reply(status=503))) as (served, script):
        assert get(served, TCB).status == 502
        assert len(script.requests) == RETRIES + 1


# --- refreshing


def test_a_refresh_brings_what_is_new_and_an_expired_document_is_fetched_again(tmp_path: Path) -> None:
    clock = Clock()
    with filled(tmp_path, upstream_of(platform()), clock=clock) as (served, script):
        before = [get(served, target).body for target in (TCB, f"{V4}/qe/identity", f"{V4}/pckcrl?ca=platform")]
        clock.now += timedelta(days=10)
        script.replies.update(upstream_of(platform(), now=clock.now))
        assert get(served, f"{V4}/refresh", admin_token=TOKEN).status == 200
        after = [get(served, target).body for target in (TCB, f"{V4}/qe/identity", f"{V4}/pckcrl?ca=platform")]
        assert all(new != old for new, old in zip(after, before, strict=True))
        clock.now += timedelta(days=31)
        script.replies.update(upstream_of(platform(), now=clock.now))
        assert get(served, TCB).status == 200


def test_certificates_are_refreshed_when_they_are_named(tmp_path: Path) -> None:
    with filled(tmp_path, upstream_of(platform())) as (served, script):
        send(served, "POST", f"{V4}/platforms", upload_document()["platforms"][0], user_token=USER_TOKEN)
        script.requests.clear()
        for named in (FMSPC, "all", f"[{FMSPC}]"):
            assert get(served, f"{V4}/refresh?type=certs&fmspc={named}", admin_token=TOKEN).status == 200
        assert paths(script).count(f"{V4}/pckcerts") == 3


def test_an_upload_still_works_beside_it(tmp_path: Path) -> None:
    with filled(tmp_path, {}) as (served, script):
        assert put(served, platform().platform_collaterals(now=NOW)).status == 200
        assert get(served, TCB).status == 200
        assert script.requests == []


# --- one flight


def test_whoever_asks_at_the_same_time_shares_the_outcome() -> None:
    flights, begun, go = Flights(), threading.Event(), threading.Event()
    count = 0

    def work() -> int:
        nonlocal count
        count += 1
        begun.set()
        assert go.wait(60)
        raise Refusal(502, "down")  # type: ignore[arg-type]

    def ask() -> int:
        with pytest.raises(Refusal):
            flights.run("key", work)
        return 1

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask)
        assert begun.wait(60)
        rest = [pool.submit(ask) for _ in range(7)]
        while sum(future.running() for future in rest) < 7:
            pass
        go.set()
        assert first.result() + sum(future.result() for future in rest) == 8
    assert count <= 8
    assert flights.run("key", lambda: 5) == 5


# --- ahead of time


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def number_of(served: Service, target: str) -> int:
    response = get(served, target)
    assert response.status == 200
    found: int = json.loads(response.body)["tcbInfo"]["tcbEvaluationDataNumber"]
    return found


def revised(now: datetime) -> Replies:
    machine = platform().revised(tcb_evaluation_data_number=platform().model.tcb_evaluation_data_number + 1)
    return upstream_of(machine, now=now)


def test_a_document_that_is_read_near_its_end_is_renewed_and_nobody_waits_for_it(tmp_path: Path) -> None:
    clock = Clock()
    with filled(tmp_path, upstream_of(platform()), clock=clock) as (served, script):
        first = number_of(served, TCB)
        clock.now += timedelta(days=21)
        may_answer = threading.Event()
        held = {path: [replace(reply[0], held=may_answer)] for path, reply in revised(clock.now).items()}
        script.replies.update(held)
        # Whoever waited for the upstream would wait for ever.
        assert number_of(served, TCB) == first
        may_answer.set()
        wait_until(lambda: number_of(served, TCB) == first + 1)


def test_a_document_that_is_young_is_not_asked_for(tmp_path: Path) -> None:
    clock = Clock()
    with filled(tmp_path, upstream_of(platform()), clock=clock) as (served, script):
        number_of(served, TCB)
        clock.now += timedelta(days=15)
        script.requests.clear()
        assert get(served, f"{TCB}&a=b").status == 200
        assert script.requests == []


def test_a_renewal_that_fails_is_tried_again_and_what_is_valid_is_served(tmp_path: Path) -> None:
    clock = Clock()
    with filled(tmp_path, upstream_of(platform()), clock=clock) as (served, script):
        first = number_of(served, TCB)
        clock.now += timedelta(days=25)
        script.replies.update({path: [Reply(hangs_up=True)] for path in script.replies})
        script.requests.clear()
        answer = get(served, TCB)
        assert answer.status == 200
        assert "expires at" in dict(answer.headers)["Warning"]
        wait_until(lambda: len(script.requests) == RETRIES + 1)
        script.replies.update(revised(clock.now))
        clock.now += timedelta(minutes=2)
        wait_until(lambda: number_of(served, TCB) == first + 1)


def test_an_upstream_that_repeats_an_old_document_does_not_take_back_a_newer_one(tmp_path: Path) -> None:
    clock = Clock()
    with filled(tmp_path, revised(NOW), clock=clock) as (served, script):
        newer = number_of(served, TCB)
        script.replies.update(upstream_of(platform(), now=NOW - timedelta(days=1)))
        assert get(served, f"{V4}/refresh", method="POST", admin_token=TOKEN).status == 200
        assert number_of(served, TCB) == newer


def test_tcb_info_is_fetched_by_its_evaluation_number_and_found_by_it(tmp_path: Path) -> None:
    number = platform().model.tcb_evaluation_data_number
    with filled(tmp_path, upstream_of(platform())) as (served, script):
        target = f"{TCB}&tcbEvaluationDataNumber={number}"
        assert number_of(served, target) == number
        assert f"fmspc={FMSPC}&tcbEvaluationDataNumber={number}" in script.requests[0]
        script.requests.clear()
        assert number_of(served, target) == number
        assert script.requests == []


def test_an_upstream_that_answers_with_another_number_fills_nothing(tmp_path: Path) -> None:
    """Intel's PCCS ignores the number: a row for each that anybody names would fill the store."""
    number = platform().model.tcb_evaluation_data_number
    with filled(tmp_path, upstream_of(platform())) as (served, _):
        generation = served.generation
        asked = [f"{TCB}&tcbEvaluationDataNumber={other}" for other in range(number + 1, number + 4)]
        assert [get(served, target).status for target in asked] == [404] * 3
        assert served.look() == max(generation, 0)


def test_the_crl_of_a_pck_ca_is_fetched_by_its_address(tmp_path: Path) -> None:
    uri = "https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca=platform&encoding=der"
    with filled(tmp_path, upstream_of(platform())) as (served, _):
        answer = get(served, f"{V4}/crl?uri={quote(uri, safe='')}")
        assert answer.status == 200
        assert answer.body == get(served, f"{V4}/pckcrl?ca=platform&encoding=der").body
        # As Intel's library sends it, with its parameters loose.
        assert get(served, f"{V4}/crl?uri={uri}").body == answer.body


def test_a_fetch_that_lasts_keeps_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process must not ask a slow upstream for the same once more."""
    monkeypatch.setattr(flights, "RENEW_LEASE", 0.01)
    clock, store = Clock(), Store.open(tmp_path / "pccs.sqlite")
    ours, theirs = SharedFlights(store, clock=clock), SharedFlights(store, clock=clock)

    def last_long() -> bool:
        clock.now += flights.LEASE * 2
        wait_until(lambda: store.is_leased("tcb", now=clock.now))
        return theirs.take("tcb", length=flights.LEASE)

    assert not ours.run("tcb", last_long)
    assert theirs.take("tcb", length=flights.LEASE)
    store.close()


def test_whoever_waits_too_long_for_another_s_fetch_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights, "MAX_WAIT", 0.01)
    shared, begun, go = Flights(), threading.Event(), threading.Event()

    def stall() -> None:
        begun.set()
        go.wait(60)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(shared.run, "tcb", stall)
        assert begun.wait(60)
        with pytest.raises(Refusal) as refused:
            shared.run("tcb", stall)
        go.set()
    assert refused.value.status == 502


def test_two_caches_on_one_database_fetch_each_document_once(tmp_path: Path) -> None:
    clock = Clock()
    with scripted(upstream_of(platform())) as script:
        stores = [Store.open(tmp_path / "pccs.sqlite") for _ in range(2)]
        caches = []
        for store in stores:
            filler = Filler(Upstream(script.url), store, trust_anchors=anchors(), clock=clock)
            admin = opened_by(TOKEN)
            caches.append(
                Service(store, admin_token=admin, trust_anchors=anchors(), mode=Mode.LAZY, filler=filler, clock=clock)
            )
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda index: get(caches[index % 2], PCKCERT).status, range(16)))
        assert answers == [200] * 16
        assert len(script.requests) == len(set(script.requests))
        for store in stores:
            store.close()
