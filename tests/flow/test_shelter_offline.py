"""Shelter without a network, as real processes: every command that needs none, every answer held by its schema."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from eaa.appraise.reference_values import ReferenceValues
from eaa.appraise.result import Attests, Role
from eaa.program.files import read_trust_anchor
from eaa.simulator.platform import Platform
from support.flow import answer_of
from support.system import BIN, Done, Site, run
from support.vectors import AVAILABLE, ROOT, cases, vector

INTEL_ROOT: Final = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
SUCCESS: Final = "Remote attestation is successful."
IN_THIS_RELEASE: Final = ("sgx-v3", "tdx-v4")
EMPTY: Final = "/dev/null"
"""A quote for commands that are refused before they look at it."""
REPORT_DATA: Final = bytes(range(64))


def case_of(case_id: str) -> dict[str, Any]:
    vector("cases.json")
    return next(case for case in cases() if case["id"] == case_id)


def on(case: dict[str, Any]) -> tuple[str, ...]:
    """The arguments that verify one golden case."""
    quote, collateral = vector(case["quote"]), vector(case["collateral"])
    return (str(quote), "--collateral", str(collateral), "--at", case["at"])


def verify(*options: str | Path) -> Done:
    return run("shelter", "verify", *options)


SGX: Final = "dcap-qvl__sgx_quote__tcb2025-06-19_ev17_v3"
TDX: Final = "dcap-qvl__tdx_quote__tcb2025-06-19_ev17_v3"
TDX_OUT_OF_DATE: Final = "go-tdx-guest__cos-113-tdx-quote__tcb2026-06-12_ev21_v3"
TRAILING: Final = "go-tdx-guest__tdx_prod_quote_SPR_E4__tcb2023-06-18_ev15_v3"


def intel_value(case_id: str, folder: Path, **changes: str) -> Path:
    """A reference-value file with one value for the quote of a golden case."""
    raw = vector(case_of(case_id)["quote"]).read_bytes()
    is_sgx = case_of(case_id)["kind"].startswith("sgx")
    name, measurement = ("mr_enclave", raw[112:144]) if is_sgx else ("mr_td", raw[184:232])
    fields = {"role": "workload", "attests": "process", "trust_anchor": INTEL_ROOT, name: measurement.hex()} | changes
    path = folder / "values.toml"
    path.write_text("[real]\n" + "".join(f'{field} = "{value}"\n' for field, value in fields.items()))
    return path


# --- verify: the facts of every golden case


@pytest.mark.parametrize(
    "case", [case for case in cases() if case["kind"] in IN_THIS_RELEASE], ids=lambda case: case["id"]
)
def test_facts_of_a_real_quote(case: dict[str, Any]) -> None:
    """Intel's own verifier said the same, or refused it for the same reason."""
    options = ["--facts", "--json", *(["--trim-trailing"] if case["id"] == TRAILING else [])]
    done = verify(*on(case), *options)
    answer = answer_of(done)
    expected = case["expect"]
    if "error" in expected:
        assert (done.code, answer["verdict"]) == (3, "unverifiable")
        assert expected["error"] in ("TCB_NOT_SUPPORTED", answer["reason"])
        assert answer["reason"] == "TCB_NOT_SUPPORTED"
        return
    assert (done.code, answer["verdict"], answer["reason"]) == (0, "verified", None)
    assert answer["tcb_status"] == expected["tcb_status"]
    assert answer["advisory_ids"] == sorted(expected["advisory_ids"])
    assert answer["launch_advisory_ids"] == sorted(expected["launch_advisory_ids"])
    assert (answer["simulated"], answer["trust_anchor"]) == (False, INTEL_ROOT)
    assert answer["tee"] == case["kind"].partition("-")[0]
    assert answer["checks"] == []
    assert (answer["mr_enclave"] is None) != (answer["mr_td"] is None)


def test_facts_in_words_are_no_success() -> None:
    done = verify(*on(case_of(SGX)), "--facts")
    assert done.code == 0
    assert done.stdout.startswith("verified: ")
    assert SUCCESS not in done.stdout
    assert "error" not in done.stderr


def test_a_domain_of_tdx_1_5_is_verified() -> None:
    """Its quote is of version 5; one of these platforms is older than every level of its TCB Info."""
    found = [case for case in cases() if case["kind"] == "tdx-v5-body3"] if AVAILABLE else [case_of(TDX)]
    for expected, code in (("UpToDate", 0), ("TCB_NOT_SUPPORTED", 3)):
        case = next(case for case in found if expected in (case["expect"]["tcb_status"], case["expect"].get("error")))
        done = verify(*on(case), "--facts", "--json")
        answer = answer_of(done)
        assert (done.code, expected) == (code, answer["reason"] or answer["tcb_status"])


# --- verify: a verdict


@pytest.mark.parametrize("case_id", [SGX, TDX])
def test_without_values_and_policy_it_is_a_rejection_that_says_so(case_id: str) -> None:
    done = verify(*on(case_of(case_id)), "--json")
    answer = answer_of(done)
    assert (done.code, answer["verdict"], answer["reason"]) == (1, "rejected", "NO_REFERENCE_VALUE")
    assert "record" in answer["hint"]


def test_even_an_enclave_under_debug_is_first_of_all_one_that_nobody_recorded() -> None:
    debug = [case for case in cases() if case["quote"] == "trustee/occlum_quote.dat"]
    done = verify(*on(debug[0] if debug else case_of(SGX)), "--json")
    answer = answer_of(done)
    assert answer["reason"] == "NO_REFERENCE_VALUE"
    assert "DEBUG_ENCLAVE" in [check["reason"] for check in answer["checks"]]


def test_a_real_quote_is_accepted(tmp_path: Path) -> None:
    done = verify(*on(case_of(TDX)), "--reference-values", intel_value(TDX, tmp_path), "--json")
    answer = answer_of(done)
    assert (done.code, answer["verdict"], answer["reference_value"]) == (0, "accepted", "real")
    assert (answer["simulated"], answer["binding"], answer["attests"]) == (False, "none", "process")
    assert all(check["passed"] for check in answer["checks"])


def test_a_status_is_accepted_only_where_it_is_named(tmp_path: Path) -> None:
    common = (*on(case_of(TDX_OUT_OF_DATE)), "--reference-values", str(intel_value(TDX_OUT_OF_DATE, tmp_path)))
    refused = verify(*common, "--json")
    assert (refused.code, answer_of(refused)["reason"]) == (1, "TCB_STATUS_NOT_ALLOWED")
    assert answer_of(verify(*common, "--accept-tcb-status", "OutOfDate", "--json"))["verdict"] == "accepted"
    policy = tmp_path / "policy.toml"
    policy.write_text('allowed_tcb_statuses = ["OutOfDate"]\n')
    assert answer_of(verify(*common, "--policy", str(policy), "--json"))["verdict"] == "accepted"


@pytest.mark.parametrize(
    ("changes", "options", "reason"),
    [
        ({"role": "relay"}, (), "ROLE_MISMATCH"),
        ({"trust_anchor": "00" * 32}, (), "TRUST_ANCHOR_MISMATCH"),
        ({"mr_td": "00" * 48}, (), "MEASUREMENT_MISMATCH"),
        ({}, ("--mr-enclave", "00" * 32), "MEASUREMENT_MISMATCH"),
        ({}, ("--minimum-evaluation-number", "10000"), "EVALUATION_NUMBER_TOO_LOW"),
        ({}, ("--report-data", "00" * 32), "REPORT_DATA_MISMATCH"),
    ],
)
def test_what_was_not_asked_for_is_rejected(
    tmp_path: Path, changes: dict[str, str], options: tuple[str, ...], reason: str
) -> None:
    values = intel_value(TDX, tmp_path, **changes)
    done = verify(*on(case_of(TDX)), "--reference-values", values, *options, "--json")
    answer = answer_of(done)
    assert (done.code, answer["verdict"], answer["reason"]) == (1, "rejected", reason)
    assert answer["checks"]


def test_explaining_prints_every_check_in_words(tmp_path: Path) -> None:
    values = intel_value(TDX_OUT_OF_DATE, tmp_path)
    done = verify(*on(case_of(TDX_OUT_OF_DATE)), "--reference-values", values, "--explain")
    assert done.code == 1
    assert "  ok   measurement: " in done.stdout
    assert "  FAIL tcb_status: OutOfDate" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("[TCB_STATUS_NOT_ALLOWED]")


def test_explaining_tells_every_step_of_the_verification(tmp_path: Path) -> None:
    raw = bytearray(vector(case_of(TDX)["quote"]).read_bytes())
    raw[600] ^= 1
    changed = tmp_path / "changed.quote"
    changed.write_bytes(raw)
    options = on(case_of(TDX))[1:]
    done = verify(str(changed), *options, "--explain")
    lines = done.stdout.splitlines()
    assert done.code == 3
    assert lines[1:3] == [" root cause", "  FAIL quote_signature: the quote is not signed by its attestation key"]
    assert "  ok   attestation_key: vouched for" in lines
    assert "  --   tcb_level: not reached" in lines
    told = answer_of(verify(str(changed), *options, "--explain", "--json"))["verification"]
    assert [step["name"] for step in told if step["reason"]] == ["quote_signature"]


# --- verify: dates


@pytest.mark.parametrize(
    "at",
    [
        "2025-07-04T10:16:31+00:00",
        "2025-07-04T12:16:31+02:00",
        "2025-07-04T10:16:31",
        "2025-07-04 10:16:31",
        "20250704T101631Z",
        "2025-07-04",
    ],
)
def test_a_time_can_be_written_in_several_ways(at: str) -> None:
    quote, collateral = vector(case_of(TDX)["quote"]), vector(case_of(TDX)["collateral"])
    assert verify(quote, "--collateral", collateral, "--at", at, "--facts").code == 0


@pytest.mark.parametrize("at", ["yesterday", "", "2025-13-01", "1720088191", "0001-01-01T00:00:00+14:00"])
def test_what_is_no_time_is_misuse(at: str) -> None:
    done = verify(EMPTY, "--at", at)
    assert (done.code, done.reason, done.stdout) == (2, "USAGE", "")


@pytest.mark.parametrize(
    ("at", "reasons"),
    [
        ("2027-01-01T00:00:00Z", {"TCB_INFO_EXPIRED", "QE_IDENTITY_EXPIRED", "CRL_EXPIRED"}),
        ("2020-01-01T00:00:00Z", {"TCB_INFO_NOT_YET_VALID", "CRL_NOT_YET_VALID", "CERTIFICATE_NOT_YET_VALID"}),
        ("0001-01-01T00:00:00Z", {"TCB_INFO_NOT_YET_VALID", "CRL_NOT_YET_VALID", "CERTIFICATE_NOT_YET_VALID"}),
        ("9999-12-31T23:59:59Z", {"TCB_INFO_EXPIRED", "QE_IDENTITY_EXPIRED", "CRL_EXPIRED", "CERTIFICATE_EXPIRED"}),
    ],
)
def test_outside_of_its_dates_collateral_proves_nothing(at: str, reasons: set[str]) -> None:
    quote, collateral = vector(case_of(TDX)["quote"]), vector(case_of(TDX)["collateral"])
    done = verify(quote, "--collateral", collateral, "--at", at, "--facts", "--json")
    answer = answer_of(done)
    assert (done.code, answer["verdict"]) == (3, "unverifiable")
    assert answer["reason"] in reasons


def test_a_grace_is_asked_for_and_shows(tmp_path: Path) -> None:
    quote, collateral = vector(case_of(TDX)["quote"]), vector(case_of(TDX)["collateral"])
    values = intel_value(TDX, tmp_path)
    common = (quote, "--collateral", collateral, "--at", "2025-07-20T00:00:00Z", "--reference-values", values, "--json")
    assert answer_of(verify(*common))["verdict"] == "unverifiable"
    answer = answer_of(verify(*common, "--collateral-grace", "24"))
    assert answer["verdict"] == "accepted"
    assert answer["collateral_expired"]


# --- verify: what follows a quote, and junk


def test_zero_padding_is_trimmed_and_told() -> None:
    answer = answer_of(verify(*on(case_of(TDX)), "--facts", "--json"))
    assert answer["padding"] == 70


def test_other_bytes_behind_a_quote_are_refused_unless_told_to_trim() -> None:
    case = case_of(TRAILING)
    refused = verify(*on(case), "--facts", "--json")
    assert (refused.code, answer_of(refused)["reason"]) == (3, "QUOTE_TRAILING_BYTES")
    assert "--trim-trailing" in answer_of(refused)["hint"]
    assert answer_of(verify(*on(case), "--facts", "--trim-trailing", "--json"))["reason"] == "TCB_NOT_SUPPORTED"


@pytest.fixture
def collateral(site: Site) -> Path:
    return site.collateral


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "QUOTE_MALFORMED"),
        (b"junk", "QUOTE_VERSION_UNSUPPORTED"),
        (bytes(5000), "QUOTE_VERSION_UNSUPPORTED"),
        (bytes(1 << 20), "QUOTE_MALFORMED"),
    ],
)
def test_junk_is_unverifiable(tmp_path: Path, collateral: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "junk"
    path.write_bytes(content)
    done = verify(path, "--collateral", collateral, "--json")
    answer = answer_of(done)
    assert (done.code, answer["verdict"], answer["reason"]) == (3, "unverifiable", reason)
    assert done.stderr == ""
    words = verify(path, "--collateral", collateral)
    assert (words.code, words.reason) == (3, reason)
    assert words.stdout.startswith("unverifiable: ")


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"{}", b"[]", b'{"tcb_info": "\\ud800"}', b"{" * 10_000, bytes(3 << 20)]
)
def test_collateral_of_junk_is_unverifiable(site: Site, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "collateral.json"
    path.write_bytes(content)
    quote = simulated_quote(site, tmp_path)
    done = verify(quote, "--collateral", path, "--trust-anchor", site.root, "--json")
    answer = answer_of(done)
    assert (done.code, answer["verdict"], answer["reason"]) == (3, "unverifiable", "COLLATERAL_MALFORMED")


# --- verify: files that cannot be used


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "FILE_UNREADABLE"),
        (b"", "POLICY_INVALID"),
        (b"# nothing\n", "POLICY_INVALID"),
        (b"minimum_svn = 1\n", "POLICY_INVALID"),
        (b"\xff\xfe", "FILE_UNREADABLE"),
    ],
)
def test_a_policy_that_cannot_be_used_stops_everything(
    tmp_path: Path, collateral: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "policy.toml"
    if content is not None:
        path.write_bytes(content)
    for options in ((), ("--json",)):
        done = verify(EMPTY, "--collateral", collateral, "--policy", path, *options)
        assert (done.code, done.reason, done.stdout) == (2, reason, "")


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--reference-values", "FILE_UNREADABLE"),
        ("--trust-anchor", "FILE_UNREADABLE"),
        ("--collateral", "FILE_UNREADABLE"),
    ],
)
def test_a_file_that_is_named_must_be_there(tmp_path: Path, collateral: Path, option: str, reason: str) -> None:
    given = {"--collateral": str(collateral)} | {option: str(tmp_path / "absent")}
    done = verify(EMPTY, *(part for pair in given.items() for part in pair))
    assert (done.code, done.reason) == (2, reason)


def test_a_quote_that_is_not_there_is_misuse(tmp_path: Path, collateral: Path) -> None:
    done = verify(tmp_path / "absent", "--collateral", collateral, "--json")
    assert (done.code, done.reason, done.stdout) == (2, "FILE_UNREADABLE", "")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--verifier", "sgx_la"), "NOT_IMPLEMENTED_VALUE"),
        (("--verifier", "nullverifier"), "USAGE"),
        (("--verifier", "nullverifier", "--dangerous-accept-no-evidence"), "NOT_IMPLEMENTED_VALUE"),
        (("--accept-tcb-status", "Revoked"), "USAGE"),
        (("--accept-tcb-status", "uptodate"), "USAGE"),
        (("--collateral-grace", "721"), "USAGE"),
        (("--collateral-grace", "999999999999"), "USAGE"),
        (("--minimum-binding", "none"), "USAGE"),
        (("--mr-enclave", "00"), "USAGE"),
        (("--report-data", "00"), "USAGE"),
        (("--facts", "--report-data", "00" * 64), "USAGE"),
        (("--pccs", "http://127.0.0.1:1"), "USAGE"),
        (("--role", "server"), "USAGE"),
    ],
)
def test_an_option_that_cannot_be_is_misuse(collateral: Path, options: tuple[str, ...], reason: str) -> None:
    done = verify(EMPTY, "--collateral", collateral, *options)
    assert (done.code, done.reason, done.stdout) == (2, reason, "")


# --- verify: a software TEE


def simulated_quote(site: Site, folder: Path, name: str = "workload") -> Path:
    """A quote of one of the site's images, as a file."""
    platform = Platform.from_files({path.name: path.read_bytes() for path in site.tee.iterdir()})
    image, sigstruct = site.image(name).read_bytes(), site.image(name).with_suffix(".sigstruct").read_bytes()
    path = folder / f"{name}.quote"
    path.write_bytes(platform.launch(image, sigstruct).quote(REPORT_DATA))
    return path


def test_a_software_tee_is_accepted_only_by_name_and_then_says_simulated(site: Site, tmp_path: Path) -> None:
    quote = simulated_quote(site, tmp_path)
    answer = answer_of(verify(quote, *site.judging, "--report-data", REPORT_DATA.hex(), "--json"))
    assert (answer["verdict"], answer["simulated"]) == ("accepted", True)
    assert answer["mr_enclave"] == site.mr_enclaves["workload"]
    assert "SIMULATED" in verify(quote, *site.judging).stdout
    refused = verify(quote, "--collateral", site.collateral, "--reference-values", site.values, "--json")
    assert (refused.code, answer_of(refused)["reason"]) == (3, "ROOT_UNTRUSTED")


def test_the_relay_s_evidence_is_no_workload(site: Site, tmp_path: Path) -> None:
    quote = simulated_quote(site, tmp_path, "relay")
    done = verify(quote, *site.judging, "--json")
    assert (done.code, answer_of(done)["reason"]) == (1, "ROLE_MISMATCH")
    assert answer_of(verify(quote, *site.judging, "--role", "relay", "--json"))["verdict"] == "accepted"


def test_a_policy_file_names_its_trust_anchor_relative_to_itself(site: Site, tmp_path: Path) -> None:
    quote = simulated_quote(site, tmp_path)
    policy = site.tee / "policy.toml"
    policy.write_text('trust_anchors = ["root.pem"]\n')
    try:
        options = ("--collateral", site.collateral, "--reference-values", site.values, "--policy", policy)
        assert answer_of(verify(quote, *options, "--json"))["verdict"] == "accepted"
    finally:
        policy.unlink()


def test_simulated_and_real_roots_are_not_mixed_by_accident(site: Site, tmp_path: Path) -> None:
    intel = vector("certs/intel_sgx_root_ca.pem")
    options = (EMPTY, "--collateral", site.collateral, "--trust-anchor", site.root, "--trust-anchor", intel)
    assert (verify(*options).code, verify(*options).reason) == (2, "TRUST_ANCHORS_MIXED")
    mixed = verify(simulated_quote(site, tmp_path), *options[1:], "--dangerous-mix-trust-anchors", "--facts", "--json")
    assert answer_of(mixed)["simulated"] is True


@pytest.mark.parametrize("content", ["leaf", "junk"])
def test_a_trust_anchor_is_a_root_certificate(site: Site, tmp_path: Path, content: str) -> None:
    path = tmp_path / "anchor.pem"
    path.write_bytes(b"junk" if content == "junk" else site.root.read_bytes() * 2)
    done = verify(EMPTY, "--collateral", site.collateral, "--trust-anchor", path)
    assert (done.code, done.reason) == (2, "TRUST_ANCHOR_INVALID")


# --- measure, mrverify


FLAT: Final = json.loads((ROOT / "mrenclave/flat/expected.json").read_text()) if AVAILABLE else []
MINIREP: Final = "99a4e53532fd7d0edc6231f54d9f4d85fe9dd6f406ff12973d577a70e38c6ddd"


@pytest.mark.parametrize("entry", FLAT, ids=lambda entry: entry["file"])
def test_a_flat_image_measures_as_an_independent_measurer_says(entry: dict[str, Any]) -> None:
    done = run("shelter", "measure", vector(f"mrenclave/flat/{entry['file']}"), "--json")
    answer = done.answer
    assert (done.code, answer["mr_enclave"]) == (0, entry["mr_enclave"])
    assert (answer["format"], answer["enclave_size"]) == ("flat", entry["enclave_size"])
    # What was assumed is part of the answer.
    assert (answer["xfrm"], answer["misc_select"]) == (entry["xfrm"], entry["miscselect"])
    words = run("shelter", "measure", vector(f"mrenclave/flat/{entry['file']}")).stdout
    assert f"mr enclave: {entry['mr_enclave']}\n" in words
    assert "xfrm: 3\n" in words


def test_a_flat_image_measures_otherwise_with_other_assumptions() -> None:
    image = vector("mrenclave/flat/flat0.bin")
    answers = [
        run("shelter", "measure", image, "--json", *options).answer["mr_enclave"]
        for options in ((), ("--xfrm", "0x600e7"))
    ]
    assert answers[0] == FLAT[0]["mr_enclave"]
    assert answers[1] != answers[0], "the state of AMX takes more than one page"
    odd = run("shelter", "measure", image, "--xfrm", "0x8000000000000003")
    assert (odd.code, odd.reason) == (2, "USAGE")


def test_a_page_stream_measures_as_its_hardware_says() -> None:
    image, sigstruct = vector("mrenclave/own/minirep.sgxs"), vector("mrenclave/own/minirep.sigstruct")
    alone = run("shelter", "measure", image, "--json").answer
    assert (alone["mr_enclave"], alone["mr_signer"], alone["format"]) == (MINIREP, None, "sgxs")
    signed = run("shelter", "measure", image, "--sigstruct", sigstruct, "--json").answer
    assert len(bytes.fromhex(signed["mr_signer"])) == 32


@pytest.mark.parametrize(
    ("image", "options", "code", "reason"),
    [
        ("mrenclave/own/minirep.elf", (), 3, "UNKNOWN_FORMAT"),
        ("README.md", (), 3, "UNKNOWN_FORMAT"),
        ("absent", (), 2, "FILE_UNREADABLE"),
        ("mrenclave/own/minirep.sgxs", ("--sigstruct", "README.md"), 3, "SIGSTRUCT_MALFORMED"),
        ("mrenclave/own/minirep.sgxs", ("--xfrm", "-1"), 2, "USAGE"),
        ("mrenclave/own/minirep.sgxs", ("--xfrm", "three"), 2, "USAGE"),
    ],
)
def test_what_cannot_be_measured_is_named(image: str, options: tuple[str, ...], code: int, reason: str) -> None:
    named = [str(vector(part)) if part == "README.md" else part for part in options]
    done = run("shelter", "measure", vector(image), *named)
    assert (done.code, done.reason, done.stdout) == (code, reason, "")
    as_json = run("shelter", "measure", vector(image), *named, "--json")
    assert as_json.code == code
    if code == 3:
        assert answer_of(as_json)["reason"] == reason


def test_an_image_is_compared_with_its_sigstruct() -> None:
    image, sigstruct = vector("mrenclave/own/minirep.sgxs"), vector("mrenclave/own/minirep.sigstruct")
    done = run("shelter", "mrverify", image, sigstruct)
    assert done.code == 0
    assert done.stdout.splitlines()[-1] == "new mrEnclave match the vallue in sigstruct file successfully."
    answer = answer_of(run("shelter", "mrverify", image, sigstruct, "--json"))
    assert (answer["verdict"], answer["mr_enclave"]) == ("accepted", MINIREP)


def test_another_image_is_refused() -> None:
    done = run("shelter", "mrverify", vector("mrenclave/own/minirep.sgxs"), vector("mrenclave/intel/le_prod_css.bin"))
    assert (done.code, done.reason) == (1, "MEASUREMENT_MISMATCH")
    flat = run(
        "shelter", "mrverify", vector("mrenclave/flat/flat0.bin"), vector("mrenclave/own/minirep.sigstruct"), "--json"
    )
    assert (flat.code, answer_of(flat)["reason"]) == (1, "MEASUREMENT_MISMATCH")


@pytest.mark.parametrize(
    ("damage", "code", "reason"),
    [
        (lambda raw: raw[:1026] + b"\x63" + raw[1027:], 3, "SIGSTRUCT_SIGNATURE"),
        (lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), 3, "SIGSTRUCT_SIGNATURE"),
        (lambda raw: raw[:-1], 3, "SIGSTRUCT_MALFORMED"),
        (lambda raw: raw * 3, 3, "SIGSTRUCT_MALFORMED"),
        (lambda raw: raw[:0], 3, "SIGSTRUCT_MALFORMED"),
    ],
)
def test_a_sigstruct_that_was_changed_is_refused(tmp_path: Path, damage: Any, code: int, reason: str) -> None:
    """The reference program compares the measurement only."""
    path = tmp_path / "changed.sigstruct"
    path.write_bytes(damage(vector("mrenclave/own/minirep.sigstruct").read_bytes()))
    done = run("shelter", "mrverify", vector("mrenclave/own/minirep.sgxs"), path, "--json")
    assert (done.code, answer_of(done)["reason"]) == (code, reason)


# --- record


@pytest.fixture
def values(tmp_path: Path) -> Path:
    return tmp_path / "config" / "values.toml"


def record(values: Path, name: str, *options: str | Path, role: str = "workload") -> Done:
    return run("shelter", "record", name, "--role", role, "--reference-values", values, *options)


def recorded(values: Path) -> dict[str, Any]:
    return {value.name: value for value in ReferenceValues.parse(values.read_text())}


def test_an_image_is_recorded_with_its_signer(site: Site, values: Path) -> None:
    image = site.image("workload")
    done = record(
        values,
        "shop",
        *("--image", image, "--sigstruct", image.with_suffix(".sigstruct"), "--trust-anchor", site.root, "--json"),
    )
    assert done.code == 0
    value = recorded(values)["shop"]
    assert value.mr_enclave.hex() == site.mr_enclaves["workload"] == done.answer["mr_enclave"]
    assert (value.role, value.attests) == (Role.WORKLOAD, Attests.PROCESS)
    assert value.trust_anchor == read_trust_anchor(site.root)
    assert done.answer["mr_signer"] == value.mr_signer.hex()
    assert done.answer["file"] == str(values)
    assert values.stat().st_mode & 0o777 == 0o600


def test_what_was_recorded_is_then_accepted(site: Site, tmp_path: Path, values: Path) -> None:
    record(values, "shop", "--image", site.image("workload"), "--trust-anchor", site.root)
    options = ("--collateral", site.collateral, "--trust-anchor", site.root, "--reference-values", values, "--json")
    answer = answer_of(verify(simulated_quote(site, tmp_path), *options))
    assert (answer["verdict"], answer["reference_value"]) == ("accepted", "shop")


def test_a_measurement_is_recorded_by_its_digits(values: Path) -> None:
    done = record(values, "relay", "--mrenclave", "AB" * 32, "--attests", "platform", role="relay")
    assert done.code == 0
    assert done.stdout.startswith("recorded relay (relay): ")
    value = recorded(values)["relay"]
    assert (value.role, value.attests, value.mr_signer) == (Role.RELAY, Attests.PLATFORM, None)
    assert value.trust_anchor.hex() == INTEL_ROOT


def test_the_file_lies_in_the_user_s_folder_by_default(tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert run("shelter", "record", "a", "--role", "relay", "--mrenclave", "00" * 32, env=env).code == 0
    assert set(recorded(tmp_path / "eaa" / "reference-values.toml")) == {"a"}


def test_a_name_is_never_overwritten_unless_asked_for(values: Path) -> None:
    record(values, "a", "--mrenclave", "00" * 32)
    values.write_text("# by hand\n" + values.read_text())
    before = values.read_text()
    again = record(values, "a", "--mrenclave", "11" * 32)
    assert (again.code, again.reason, again.stdout) == (2, "REFERENCE_VALUE_EXISTS", "")
    assert values.read_text() == before
    assert record(values, "a", "--mrenclave", "11" * 32, "--replace").code == 0
    assert recorded(values)["a"].mr_enclave == b"\x11" * 32
    assert values.read_text().startswith("# by hand\n")


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        ((), 2, "USAGE"),
        (("--mrenclave", "00" * 32, "--from", "tcp://127.0.0.1:1"), 2, "USAGE"),
        (("--mrenclave", "00" * 31), 2, "USAGE"),
        (("--mrenclave", "00" * 32, "--expect", "00" * 32), 2, "USAGE"),
        (("--mrenclave", "00" * 32, "--sigstruct", "x"), 2, "USAGE"),
        (("--mrenclave", "00" * 32, "--workload", "x"), 2, "USAGE"),
        (("--image", "/dev/null"), 3, "UNKNOWN_FORMAT"),
        (("--image", "/nonexistent"), 2, "FILE_UNREADABLE"),
        (("--from", "tcp://127.0.0.1:1"), 2, "NOT_CONFIRMED"),
        (("--from", "tcp://127.0.0.1:1", "--expect", "zz"), 2, "USAGE"),
        (("--from", "nowhere"), 2, "ADDRESS_INVALID"),
    ],
)
def test_what_cannot_be_recorded_leaves_no_file(values: Path, options: tuple[str, ...], code: int, reason: str) -> None:
    done = record(values, "a", *options)
    assert (done.code, done.reason, done.stdout) == (code, reason, "")
    assert not values.exists()


@pytest.mark.parametrize("name", ["with space", "", "-a", "ü", "x" * 65])
def test_a_name_has_a_form(values: Path, name: str) -> None:
    done = run(
        "shelter", "record", "--role", "relay", "--reference-values", values, "--mrenclave", "00" * 32, "--", name
    )
    assert (done.code, done.reason) == (2, "REFERENCE_VALUES_INVALID")
    assert not values.exists()


def test_an_image_that_its_sigstruct_was_not_made_for_is_not_recorded(site: Site, values: Path) -> None:
    options = ("--image", site.image("workload"), "--sigstruct", site.image("relay").with_suffix(".sigstruct"))
    done = record(values, "a", *options)
    assert (done.code, done.reason) == (1, "MEASUREMENT_MISMATCH")
    assert answer_of(record(values, "a", *options, "--json"))["reason"] == "MEASUREMENT_MISMATCH"
    assert not values.exists()


def test_a_broken_file_is_left_alone(values: Path) -> None:
    values.parent.mkdir()
    values.write_text("[a\n")
    done = record(values, "b", "--mrenclave", "00" * 32)
    assert (done.code, done.reason) == (2, "REFERENCE_VALUES_INVALID")
    assert values.read_text() == "[a\n"


def test_two_trust_anchors_are_one_too_many(site: Site, tmp_path: Path, values: Path) -> None:
    second = tmp_path / "second.pem"
    second.write_bytes(Platform.create(now=datetime.now(UTC)).root_pem)
    done = record(values, "a", "--mrenclave", "00" * 32, "--trust-anchor", site.root, "--trust-anchor", second)
    assert (done.code, done.reason) == (2, "USAGE")


# --- inspect


def test_a_file_is_explained_in_words_and_nothing_is_judged() -> None:
    done = run("shelter", "inspect", vector("mrenclave/alibaba/hello-world.sig"))
    assert done.code == 0
    assert done.stdout.startswith("format: sigstruct\n")
    assert "signature holds: yes" in done.stdout
    assert "Nothing was judged" in done.stdout.splitlines()[-1]
    assert SUCCESS not in done.stdout


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("dcap-qvl/sgx_quote", "quote"),
        ("trustee/tdx_quote_5.dat", "quote"),
        ("certs-ratls/ccc-gramine.der", "ra-tls-certificate"),
        ("certs-ratls/enclave-tls-nullattester.der", "certificate"),
        ("cases/dcap-qvl__sgx_quote__tcb2025-06-19_ev17_v3.collateral.json", "collateral"),
        ("mrenclave/own/minirep.sgxs", "enclave-image"),
    ],
)
def test_a_file_is_explained_as_one_object(name: str, format_: str) -> None:
    done = run("shelter", "inspect", vector(name), "--json")
    assert (done.code, done.stderr) == (0, "")
    assert set(done.answer) == {"format", "judged", "facts", "reason", "message", "hint"}
    assert (done.answer["format"], done.answer["judged"], done.answer["reason"]) == (format_, False, None)
    assert done.answer["facts"]


def inspect_bytes(raw: bytes, *options: str) -> Done:
    finished = subprocess.run(
        [str(BIN / "shelter"), "inspect", "-", *options], input=raw, capture_output=True, timeout=60, check=False
    )
    return Done(finished.returncode, finished.stdout.decode(), finished.stderr.decode())


def test_standard_input_can_be_explained() -> None:
    raw = vector("dcap-qvl/sgx_quote").read_bytes()
    assert inspect_bytes(raw, "--json").answer["facts"]["report"]["mr_enclave"] == raw[112:144].hex()


@pytest.mark.parametrize(
    "raw", [b"", random.Random(1000).randbytes(1000), b"\0" * 5000, b"{", b"\x30\x82\xff\xff" + bytes(100)]
)
def test_junk_is_one_clear_sentence(raw: bytes) -> None:
    words = inspect_bytes(raw)
    assert (words.code, words.reason, words.stdout) == (3, "UNKNOWN_FORMAT", "")
    assert [line.split(":")[1] for line in words.stderr.splitlines()] == [" error", " hint"]
    answer = inspect_bytes(raw, "--json")
    assert (answer.code, answer.stderr) == (3, "")
    assert (answer.answer["format"], answer.answer["reason"]) == ("unknown", "UNKNOWN_FORMAT")


def test_a_damaged_file_is_explained_as_far_as_it_goes() -> None:
    raw = vector("dcap-qvl/sgx_quote").read_bytes()[:600]
    words = inspect_bytes(raw)
    assert (words.code, words.reason) == (3, "QUOTE_MALFORMED")
    assert words.stdout.startswith("format: quote\n")
    answer = inspect_bytes(raw, "--json")
    assert (answer.code, answer.answer["format"], answer.answer["reason"]) == (3, "quote", "QUOTE_MALFORMED")


@pytest.mark.parametrize("path", ["/nonexistent", "/", "/dev/zero"])
def test_what_cannot_be_read_is_misuse(path: str) -> None:
    done = run("shelter", "inspect", path)
    assert (done.code, done.reason) == (2, "FILE_UNREADABLE")


def test_a_closed_standard_input_is_misuse() -> None:
    finished = subprocess.run(
        ["sh", "-c", f"{BIN / 'shelter'} inspect - <&-"], capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 2
    assert "[FILE_UNREADABLE]" in finished.stderr


# --- voices


def test_the_help_is_written_for_people() -> None:
    for command in ((), ("verify",), ("inspect",), ("measure",), ("mrverify",), ("record",)):
        done = run("shelter", *command, "--help")
        assert (done.code, done.stderr) == (0, "")
        assert "\\b" not in done.stdout
        assert done.stdout.startswith("Usage: shelter ")


def test_an_answer_that_nobody_reads_is_no_acceptance(site: Site, tmp_path: Path) -> None:
    command = [str(BIN / "shelter"), "verify", str(simulated_quote(site, tmp_path)), *site.judging, "--json"]
    read, write = os.pipe()
    os.close(read)
    finished = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(write)
    assert (finished.returncode, finished.stderr) == (128 + signal.SIGPIPE, b"")
