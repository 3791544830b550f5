"""Of whom certificates are cached, and until when the one lasts that ends first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from eaa.errors import Reason
from eaa.pccs import census
from eaa.pccs.census import Census, Certificates
from eaa.pccs.check_command import _lines, _trouble, as_document
from eaa.pccs.metrics import pck_certificate_metrics
from eaa.pccs.status import FleetPage, status_page
from eaa.pccs.store import Store
from eaa.pccs.survey import State, Survey, survey
from eaa.pccs.uploads import parse_upload
from support.pccs import NOW, anchors, platform, upload_body

FMSPC = platform().model.fmspc.hex().upper()
DAY = timedelta(days=1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Three platforms."""
    opened = Store.open(tmp_path / "pccs.sqlite")
    upload = parse_upload(upload_body(), api_version=4)
    (one,) = upload.platforms
    many = tuple(replace(one, qe_id=f"machine-{number}") for number in range(3))
    opened.apply(replace(upload, platforms=many), now=NOW)
    yield opened
    opened.close()


def lasting(until: datetime, encoding: serialization.Encoding = serialization.Encoding.DER) -> bytes:
    """A certificate until then: of anybody, since nothing but its end is read."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW - 10 * DAY, until)
    return builder.sign(key, hashes.SHA256()).public_bytes(encoding)


def put(store: Store, name: str, certificate: bytes) -> None:
    with store._engine.begin() as connection:
        sql = "UPDATE pck_certs SET certificate = ? WHERE qe_id = ?"
        assert connection.exec_driver_sql(sql, (certificate, name)).rowcount == 1


def counted(store: Store) -> Certificates:
    (found,) = Census.take(store).certificates.values()
    return found


def looked_at(store: Store) -> Survey:
    return survey(store, trust_anchors=anchors(), now=NOW)


def test_the_end_is_that_of_the_certificate_that_ends_first(store: Store) -> None:
    whole = counted(store)
    assert (whole.count, whole.read) == (3, 3)
    assert whole.ends is not None
    assert whole.ends > NOW + 2000 * DAY
    put(store, "machine-1", lasting(NOW + 20 * DAY))
    put(store, "machine-2", lasting(NOW + 9 * DAY, serialization.Encoding.PEM))
    found = counted(store)
    assert found == Certificates(count=3, read=3, ends=NOW + 9 * DAY)
    assert found.days_left(NOW) == 9
    assert found.days_left(NOW + 10 * DAY) == -1


def test_no_more_certificates_are_read_than_that(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack on the service's time: a million certificates read at each change."""
    monkeypatch.setattr(census, "MAX_CERTIFICATES_READ", 2)
    found = counted(store)
    assert (found.count, found.read) == (3, 2)
    assert " of 2 that were read has " in "\n".join(_lines(looked_at(store)))


def test_certificates_are_counted_without_reading_them(store: Store) -> None:
    """A million certificates are more than a gigabyte, and the index of their names a tenth of it."""
    plans: list[str] = []

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT platforms.root"):
            rows = connection.connection.driver_connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(row[3] for row in rows)

    sa.event.listen(store._engine, "before_cursor_execute", explain)
    store.certificate_counts()
    read = [plan for plan in plans if plan.startswith(("SCAN", "SEARCH"))]
    assert len(read) == 2
    assert all("COVERING INDEX" in plan for plan in read)


def test_small_models_leave_the_rest_to_large_ones(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "MAX_CERTIFICATES_READ", 7)
    counts = {("r", "large"): 9, ("r", "small"): 1, ("r", "middle"): 3}
    monkeypatch.setattr(store, "certificate_counts", lambda: counts)
    monkeypatch.setattr(store, "certificates", lambda *_, limit: [lasting(NOW)] * limit)
    found = Census.take(store).certificates
    assert {fmspc: each.read for (_, fmspc), each in found.items()} == {"small": 1, "middle": 3, "large": 3}


@pytest.mark.parametrize(
    ("until", "state", "reason"),
    [
        (30 * DAY, State.VALID, None),
        (6 * DAY, State.ENDS_SOON, Reason.COLLATERAL_ENDS_SOON),
        (-DAY, State.EXPIRED, Reason.CERTIFICATE_EXPIRED),
    ],
)
def test_a_certificate_that_ends_is_a_trouble(
    store: Store, until: timedelta, state: State, reason: Reason | None
) -> None:
    put(store, "machine-2", lasting(NOW + until))
    found = looked_at(store)
    (own,) = found.certificates.values()
    trouble = _trouble(found)
    assert found.state_of(own) is state
    assert (trouble and trouble.reason) == reason
    (model,) = as_document(found)["models"]
    assert (model["certificates"], model["certificates_read"], model["days_left"]) == (3, 3, until.days)
    (line,) = [line for line in _lines(found) if "platforms of" in line]
    assert line.startswith(f"  3 platforms of {FMSPC}: 3 PCK certificates, the first has {until.days} days until ")
    assert line.endswith(state.upper()) == (state is not State.VALID)
    page = status_page(found, FleetPage(number=1, pages=1, platforms=())).body.decode()
    assert f'<span class="{state.replace(" ", "-")}">{until.days}</span>' in page
    read = {metric.name: metric.read for metric in pck_certificate_metrics(lambda: found)}
    assert read["eaa_pccs_pck_certificates"]() == 3
    assert read["eaa_pccs_pck_certificate_expiry_timestamp_seconds"]() == (NOW + until).timestamp()


def test_certificates_that_cannot_be_read_are_no_end_and_are_said(store: Store) -> None:
    put(store, "machine-0", b"")
    assert counted(store).read == 2
    for name, odd in (("machine-0", b"\x30\x82"), ("machine-1", b"x"), ("machine-2", b"\x30" * 900)):
        put(store, name, odd)
    found = looked_at(store)
    (own,) = found.certificates.values()
    assert own == Certificates(count=3, read=0, ends=None)
    assert found.state_of(own) is State.REFUSED
    trouble = _trouble(found)
    assert trouble is not None
    assert trouble.reason is Reason.CERTIFICATE_MALFORMED
    assert "REFUSED: none can be read" in "\n".join(_lines(found))
    read = {metric.name: metric.read for metric in pck_certificate_metrics(lambda: found)}
    assert read["eaa_pccs_pck_certificate_expiry_timestamp_seconds"]() is None


def test_a_platform_without_certificates_is_still_a_platform(store: Store) -> None:
    with store._engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM pck_certs")
    found = looked_at(store)
    assert _trouble(found) is None
    (model,) = as_document(found)["models"]
    assert (model["platforms"], model["certificates"], model["ends"], model["days_left"]) == (3, 0, None, None)
    assert f"  3 platforms of {FMSPC}: 0 PCK certificates" in list(_lines(found))
    assert b'<span class="valid">-</span>' in status_page(found, FleetPage(number=1, pages=1, platforms=())).body
