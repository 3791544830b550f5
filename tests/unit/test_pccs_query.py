"""The parameters of the read routes: one good request, one thing wrong in each row."""

from __future__ import annotations

import pytest

from eaa.pccs import query
from eaa.pccs.wire import Refusal, Status

ROOT_CRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
PCK_CRL = "https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca=processor&encoding=der"


@pytest.mark.parametrize("text", ["00606a000000", "00606A000000"])
def test_hex_is_compared_in_upper_case(text: str) -> None:
    assert query.hex_parameter({"fmspc": text}, "fmspc", 12) == "00606A000000"


@pytest.mark.parametrize("text", ["", "00606A00000", "00606A0000000", "00606A00000G", "00606A00000\n", "\uff10" * 12])
def test_anything_but_so_many_hex_digits_is_refused(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        query.hex_parameter({"fmspc": text}, "fmspc", 12)
    assert refused.value.status is Status.INVALID_REQUEST


def test_a_missing_parameter_is_refused() -> None:
    for read in (query.qe_id, query.certificate_authority, query.crl_uri):
        with pytest.raises(Refusal):
            read({})


def test_a_qe_id_need_not_be_hex() -> None:
    assert query.qe_id({"qeid": "a platform's name"}) == "A PLATFORM'S NAME"
    assert len(query.qe_id({"qeid": "q" * 260})) == 260
    with pytest.raises(Refusal):
        query.qe_id({"qeid": "q" * 261})


@pytest.mark.parametrize(("text", "expected"), [("standard", "STANDARD"), ("Early", "EARLY"), (None, "STANDARD")])
def test_the_update_type_may_be_written_in_any_case(text: str | None, expected: str) -> None:
    assert query.update_type({} if text is None else {"update": text}) == expected


@pytest.mark.parametrize("text", ["", "all", "late"])
def test_another_update_type_is_refused(text: str) -> None:
    with pytest.raises(Refusal):
        query.update_type({"update": text})


@pytest.mark.parametrize("text", ["processor", "PROCESSOR", "Processor"])
def test_the_ca_may_be_written_in_any_case(text: str) -> None:
    assert query.certificate_authority({"ca": text}) == "PROCESSOR"


@pytest.mark.parametrize("text", ["", "root", "processor "])
def test_another_ca_is_refused(text: str) -> None:
    with pytest.raises(Refusal):
        query.certificate_authority({"ca": text})


@pytest.mark.parametrize(
    "uri",
    [
        ROOT_CRL,
        "https://sbx-certificates.trustedservices.intel.com/IntelSGXRootCA.crl",
        "https://certprx.adsdcsp.com/IntelSGXRootCA.crl",
        PCK_CRL,
        "https://sbx.api.trustedservices.intel.com/sgx/certification/v3/pckcrl?ca=platform",
        "https://abc.az.sgxprod.adsdcsp.com/sgx/certification/v4/pckcrl?ca=platform",
    ],
)
def test_these_are_places_where_intel_publishes_crls(uri: str) -> None:
    assert query.is_known_crl(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "http://certificates.trustedservices.intel.com/IntelSGXRootCA.der",
        "https://example.org/IntelSGXRootCA.der",
        "https://certificates.trustedservices.intel.com/IntelSGXRootCAder",
        "https://certificates.trustedservices.intel.com.example.org/IntelSGXRootCA.der",
        "https://example.org/?https://certificates.trustedservices.intel.com/IntelSGXRootCA.der",
        "https://api.trustedservices.intel.com/sgx/certification/v0/pckcrl?ca=processor",
        "https://api.trustedservices.intel.com/sgx/certification/v04/pckcrl?ca=processor",
        "https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl",
        ROOT_CRL + "\n",
    ],
)
def test_these_are_not(uri: str) -> None:
    assert not query.is_known_crl(uri)
    with pytest.raises(Refusal):
        query.crl_uri({"uri": "x" * 2049})
