"""Every real file is explained for what it is, or said to be unknown; none of them is a fault of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from eaa.errors import MalformedInput, Reason
from eaa.evidence.ppid import PPIDCertification
from eaa.evidence.quote import Quote
from eaa.shelter.inspection import inspect
from support.vectors import AVAILABLE, ROOT, cases, require, vector

RATLS: Final = {
    "ccc-gramine.der": ["interoperable RA-TLS", "Gramine, legacy"],
    "ccc-intel-sgxsdk.der": ["interoperable RA-TLS"],
    "ccc-rats-tls.der": ["interoperable RA-TLS"],
    "enclave-tls-nullattester-client.der": [],
    "enclave-tls-nullattester.der": [],
    "enclave-tls-sgx_ecdsa.der": ["enclave-tls v1 (2021)"],
    "hw-enclave-tls-v1-rats-tls-cert-openssl-sample.der": ["enclave-tls v1 (2021)"],
    "hw-enclave-tls-v1-rats-tls-cert-sample.der": ["enclave-tls v1 (2021)"],
    "rats-tls-nullattester-client.der": [],
    "rats-tls-nullattester.der": [],
    "rats-tls-sgx_ecdsa-endorsements-libcbor0.8.der": ["interoperable RA-TLS"],
    "rats-tls-sgx_ecdsa-endorsements.der": ["interoperable RA-TLS"],
    "rats-tls-sgx_ecdsa-libcbor0.8.der": ["interoperable RA-TLS"],
    "rats-tls-sgx_ecdsa.der": ["interoperable RA-TLS"],
}
"""Certificate -> the formats of the evidence in it."""

KINDS: Final = {
    "sgx-v3": "quote",
    "tdx-v4": "quote",
    "tdx-v5-body3": "quote",
    "crl": "crl",
    "snp-report": "snp-report",
    "snp-report-vlek": "snp-report",
    "az-hcl-report (SNP report at offset 0x20)": "snp-report",
    "snp-vcek-der": "certificate",
    "snp-vlek-der": "certificate",
    "snp-vcek-invalid-der": "certificate",
    "snp-ask-ark-pem": "certificate-chain",
    "snp-asvk-ark-pem": "certificate-chain",
    "snp-ca-pem": "certificate-chain",
}


def catalogue() -> list[dict[str, Any]]:
    if not AVAILABLE:
        return []
    listed: list[dict[str, Any]] = json.loads((ROOT / "files.json").read_text())
    return listed


def facts_of(name: str) -> dict[str, Any]:
    return inspect(vector(name).read_bytes()).facts


def format_of(path: Path) -> str:
    """The format of a file, or the reason for which it has none."""
    try:
        found = inspect(path.read_bytes())
    except MalformedInput as error:
        return error.reason.value
    assert found.problem is None, path
    assert json.dumps(found.facts)
    return found.format


def test_no_file_of_the_folder_is_a_fault_of_ours() -> None:
    require("the folder of vectors", available=AVAILABLE, how="set EAA_VECTORS to it")
    formats = {path: format_of(path) for path in ROOT.rglob("*") if path.is_file()}
    unknown = {path.suffix for path, name in formats.items() if name == Reason.UNKNOWN_FORMAT}
    # Notes, lists and sources of ours; an executable; and hex of hex of a file that holds several documents.
    assert unknown <= {".md", ".txt", ".json", ".lds", ".S", ".elf", ".hex"}


@pytest.mark.parametrize("entry", [entry for entry in catalogue() if entry["kind"] in KINDS], ids=lambda e: e["file"])
def test_a_file_is_what_the_catalogue_says(entry: dict[str, Any]) -> None:
    found = inspect(vector(entry["file"]).read_bytes())
    assert (found.format, found.problem) == (KINDS[entry["kind"]], None)
    if found.format == "quote":
        tee, version = entry["kind"].split("-")[:2]
        assert (found.facts["tee"], f"v{found.facts['version']}") == (tee, version)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case["id"])
def test_collateral_tells_when_it_expires(case: dict[str, Any]) -> None:
    found = inspect(vector(case["collateral"]).read_bytes())
    assert (found.format, found.problem) == ("collateral", None)
    valid_until = case["collateral_valid"][1]
    assert found.facts["earliest_expiration"] == valid_until
    assert found.facts["tcb_info"]["levels"]
    assert found.facts["tcb_info"]["id"] == ("SGX" if case["kind"].startswith("sgx") else "TDX")


@pytest.mark.parametrize(("name", "formats"), RATLS.items())
def test_a_certificate_s_evidence_is_told_for_every_stack(name: str, formats: list[str]) -> None:
    found = inspect(vector(f"certs-ratls/{name}").read_bytes())
    assert found.problem is None
    assert found.format == ("ra-tls-certificate" if formats else "certificate")
    assert [evidence["format"] for evidence in found.facts.get("evidence", [])] == formats
    if not formats:
        assert found.facts["evidence_format"] == "no evidence"
    for evidence in found.facts.get("evidence", []):
        assert evidence["report_data_matches"] is True
        assert evidence.get("claims_name_this_key", True) is True
        assert evidence["quote"]["report"]["mr_enclave"]
    assert ("endorsements" in found.facts) == ("endorsements" in name)


def test_every_certificate_of_the_folder_is_in_the_table() -> None:
    folder = vector("certs-ratls")
    assert {path.name for path in folder.glob("*.der")} == set(RATLS)


@pytest.mark.parametrize(
    "name", ["rats-tls-sgx_ecdsa-endorsements.der", "rats-tls-sgx_ecdsa-endorsements-libcbor0.8.der"]
)
def test_endorsements_are_told(name: str) -> None:
    endorsements = facts_of(f"certs-ratls/{name}")["endorsements"]
    assert endorsements["version"] == "3.1"
    assert endorsements["tcb_info"]["fmspc"] == "00606a000000"
    assert isinstance(endorsements["pck_crl"]["crl_number"], int)


def test_claims_of_a_rats_tls_peer_are_told() -> None:
    (evidence,) = facts_of("certs-ratls/rats-tls-sgx_ecdsa-libcbor0.8.der")["evidence"]
    assert set(evidence["claims"]) == {"pubkey-hash", "key_0", "key_1"}


def test_a_certificate_of_2021_is_told_though_strict_libraries_refuse_it() -> None:
    facts = facts_of("certs-ratls/enclave-tls-nullattester.der")
    assert (facts["x509_version"], facts["subject"], facts["key"]) == (4, "CN=Enclave TLS", "RSA 3072")


@pytest.mark.parametrize(
    ("name", "padding", "trailing"),
    [
        ("oasis-core/quote_v4_tdx_ecdsa_p256.bin", 0, 0),
        ("dcap-qvl/tdx_quote", 70, 0),
        ("go-tdx-guest/cos-113-tdx-quote.dat", 3065, 0),
        ("go-tdx-guest/tdx_prod_quote_SPR_E4.dat", 0, 39),
    ],
)
def test_what_follows_a_real_quote_is_counted(name: str, padding: int, trailing: int) -> None:
    facts = facts_of(name)
    assert (facts["padding"], facts["trailing_bytes"]) == (padding, trailing)


@pytest.mark.parametrize(
    ("name", "mr_enclave"),
    [
        ("intel/le_prod_css.bin", "7881af9f9def547da9908c008f29cde9bd78064e36ac7e14c83c294ca4806150"),
        ("own/minirep.sigstruct", "99a4e53532fd7d0edc6231f54d9f4d85fe9dd6f406ff12973d577a70e38c6ddd"),
        ("fortanix/test_enclave.sig", None),
        ("own/linux-selftest.sigstruct", None),
        ("alibaba/hello-world.sig", None),
    ],
)
def test_a_real_sigstruct_s_own_signature_holds(name: str, mr_enclave: str | None) -> None:
    facts = facts_of(f"mrenclave/{name}")
    assert facts["signature_holds"] is True
    assert mr_enclave in (None, facts["mr_enclave"])


def test_a_date_that_is_no_date_is_told_as_it_stands() -> None:
    facts = facts_of("mrenclave/alibaba/hello-world.sig")
    assert (facts["date"], facts["raw_date"]) == (None, "070a07e3")


def test_a_page_stream_is_told_by_its_measurement() -> None:
    facts = facts_of("mrenclave/own/minirep.sgxs")
    assert facts["mr_enclave"] == "99a4e53532fd7d0edc6231f54d9f4d85fe9dd6f406ff12973d577a70e38c6ddd"


def test_a_platform_id_in_a_quote_is_not_shown() -> None:
    """Certification data of type 3 is an encrypted PPID: it names one machine for good."""
    raw = vector("oasis-core/quote_v3_ecdsa_p256_eppid.bin").read_bytes()
    facts = inspect(raw).facts["certification_data"]
    assert (facts["type"], set(facts)) == (3, {"type", "content", "size", "cpu_svn", "pce_svn", "pce_id"})
    named = PPIDCertification.parse(Quote.parse(raw).certification_data, kind=3)
    assert (facts["cpu_svn"], facts["pce_svn"]) == (named.cpu_svn.hex(), named.pce_svn)
    assert named.ppid[:16].hex() not in json.dumps(inspect(raw).facts)


@pytest.mark.parametrize("path", sorted(ROOT.glob("certs/*")), ids=lambda path: path.name)
def test_intel_s_certificates_are_told(path: Path) -> None:
    found = inspect(path.read_bytes())
    assert (found.format, found.problem) == ("certificate", None)
    assert "Intel SGX" in found.facts["subject"]
