"""A TLS certificate of our own: made once, kept, renewed in time, under the CA that clients were given."""

from __future__ import annotations

import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store

from eaa.errors import Misuse, Reason
from eaa.pccs.certificates import CA_LIFE, LEAF_LIFE, RENEW_BEFORE, own_certificate
from support.pccs import NOW

NAMES = ("localhost", "127.0.0.1", "pccs.example.org")


def test_it_is_made_on_the_first_start_and_kept(tmp_path: Path) -> None:
    own = own_certificate(tmp_path / "tls", names=NAMES, now=NOW)
    assert own.made
    leaf, ca = x509.load_pem_x509_certificates(own.certificate.read_bytes())
    assert own.ca.read_bytes() == x509.load_pem_x509_certificate(own.ca.read_bytes()).public_bytes(Encoding.PEM)
    verifier = PolicyBuilder().store(Store([ca])).time(NOW).build_server_verifier(x509.DNSName("pccs.example.org"))
    assert len(verifier.verify(leaf, [])) == 2
    assert own.key.stat().st_mode & 0o777 == 0o600
    assert own.ca.with_name("ca.key").stat().st_mode & 0o777 == 0o600
    assert own.key.parent.stat().st_mode & 0o777 == 0o700
    again = own_certificate(tmp_path / "tls", names=NAMES[:2], now=NOW + timedelta(days=300))
    assert not again.made


@pytest.mark.parametrize(
    ("names", "later"), [(NAMES, LEAF_LIFE - RENEW_BEFORE + timedelta(days=1)), ((*NAMES, "other"), timedelta(0))]
)
def test_it_is_renewed_before_its_end_and_for_a_new_name_under_the_same_ca(
    tmp_path: Path, names: tuple[str, ...], later: timedelta
) -> None:
    first = own_certificate(tmp_path, names=NAMES, now=NOW)
    ca, leaf = first.ca.read_bytes(), first.certificate.read_bytes()
    renewed = own_certificate(tmp_path, names=names, now=NOW + later)
    assert renewed.made
    assert renewed.ca.read_bytes() == ca
    assert renewed.certificate.read_bytes() != leaf


def test_a_ca_that_would_end_before_its_leaf_is_replaced(tmp_path: Path) -> None:
    ca = own_certificate(tmp_path, names=NAMES, now=NOW).ca.read_bytes()
    assert own_certificate(tmp_path, names=NAMES, now=NOW + CA_LIFE).ca.read_bytes() != ca


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    own_certificate(tmp_path, names=NAMES, now=NOW)
    (tmp_path / "server.pem").write_text("something else")
    with pytest.raises(Misuse) as caught:
        own_certificate(tmp_path, names=NAMES, now=NOW)
    assert caught.value.reason is Reason.FILE_UNREADABLE
    assert (tmp_path / "server.pem").read_text() == "something else"


def test_processes_that_start_together_make_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: own_certificate(tmp_path / "tls", names=("localhost",), now=NOW), range(8)))
    assert [each.made for each in made].count(True) == 1
    context = ssl.create_default_context(cafile=str(made[0].ca))
    context.load_cert_chain(made[0].certificate, made[0].key)
