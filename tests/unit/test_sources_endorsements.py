"""Collateral that certificates carry: from ours to theirs and back, in every way that CRLs are written."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from eaa.collateral.bundle import Collateral
from eaa.errors import EAAError, MalformedInput, Reason
from eaa.evidence.quote import CertificationDataType
from eaa.evidence.tagged import Endorsements
from eaa.sources.endorsements import VERSION, collateral_of, fetch_for, members_of, stapled_collateral
from eaa.sources.files import FileSource
from support.dcap_world import World

COLLATERAL = World().collateral()
WRITTEN = Endorsements(version=VERSION, **members_of(COLLATERAL))
CARRIED = Endorsements.parse(WRITTEN.encode())
"""As a peer reads it: without the final NULs of C strings."""


def pem(crl: bytes) -> bytes:
    body = base64.encodebytes(crl).decode()
    return f"-----BEGIN X509 CRL-----\n{body}-----END X509 CRL-----\n\0".encode()


def test_what_is_carried_is_read_back() -> None:
    assert collateral_of(CARRIED) == COLLATERAL
    assert Collateral.from_json(stapled_collateral(CARRIED)) == COLLATERAL


def test_text_is_carried_as_c_strings_and_crls_are_der() -> None:
    """The C programs hand these members on to a library that takes strings."""
    members = members_of(COLLATERAL)
    assert {name for name, value in members.items() if value.endswith(b"\0")} == {
        *("tcb_info", "tcb_info_issuer_chain", "pck_crl_issuer_chain", "qe_identity", "qe_identity_issuer_chain"),
    }
    assert members["pck_crl"] == COLLATERAL.pck_crl
    assert members["tcb_info"].startswith(b'{"tcbInfo":{')
    assert members["qe_identity"].startswith(b'{"enclaveIdentity":{')
    assert VERSION == 0x00010003


@pytest.mark.parametrize(
    "written",
    [lambda crl: crl, lambda crl: crl.hex().encode(), lambda crl: crl.hex().upper().encode() + b"\n", pem],
    ids=["3.1-der", "3.0-hex", "upper-case", "1.0-pem"],
)
def test_crls_are_read_in_every_form(written: Callable[[bytes], bytes]) -> None:
    carried = replace(CARRIED, pck_crl=written(COLLATERAL.pck_crl), root_ca_crl=written(COLLATERAL.root_ca_crl))
    assert collateral_of(Endorsements.parse(carried.encode())) == COLLATERAL


@pytest.mark.parametrize(
    ("member", "value", "reason"),
    [
        ("pck_crl", b"zz", Reason.COLLATERAL_MALFORMED),
        ("pck_crl", b"\xff\xfe", Reason.COLLATERAL_MALFORMED),
        ("root_ca_crl", b"-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----", Reason.COLLATERAL_MALFORMED),
        ("root_ca_crl", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----", Reason.COLLATERAL_MALFORMED),
        ("tcb_info_issuer_chain", b"\xff", Reason.COLLATERAL_MALFORMED),
        ("qe_identity_issuer_chain", b"\xc3\xa9", Reason.COLLATERAL_MALFORMED),
        ("pck_crl_issuer_chain", b"\x80", Reason.COLLATERAL_MALFORMED),
        ("tcb_info", b"{}", Reason.TCB_INFO_MALFORMED),
        ("qe_identity", b'{"tcbInfo":{},"signature":""}', Reason.QE_IDENTITY_MALFORMED),
    ],
)
def test_what_is_no_collateral_is_refused(member: str, value: bytes, reason: Reason) -> None:
    with pytest.raises(MalformedInput) as caught:
        stapled_collateral(replace(CARRIED, **{member: value}))  # type: ignore[arg-type]
    assert caught.value.reason is reason


def test_the_collateral_of_a_quote_s_platform_is_found(tmp_path: Path) -> None:
    path = tmp_path / "collateral.json"
    path.write_bytes(COLLATERAL.to_json())
    quote, source = World().quote(), FileSource(path)
    asked = {"tee": 0, "certification_data": quote.certification_data, "kind": quote.certification_data_type}
    assert fetch_for(source, **asked) == COLLATERAL  # type: ignore[arg-type]
    with pytest.raises(EAAError) as caught:
        fetch_for(source, tee=0, certification_data=bytes(404), kind=CertificationDataType.PPID_RSA_3072)
    assert caught.value.reason is Reason.CERTIFICATION_DATA_UNSUPPORTED
