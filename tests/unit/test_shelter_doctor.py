"""`shelter doctor`: one line each, a remedy for each that is not well, and an exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from eaa.errors import Reason
from eaa.evidence.quote import TEEType
from eaa.shelter.doctor import doctor_command, examine
from eaa.shelter.findings import Finding, Status
from eaa.shelter.inspect.uploads import inspect_upload
from eaa.simulator.pki import SimulatedPKI
from eaa.simulator.platform import Platform
from eaa.verifier import INTEL, TrustAnchors
from support.pccs import NOW, anchors, platform, root_file, upload_body, upload_document
from support.scripted_http import Reply, Script, scripted
from support.scripted_pccs import CRL, IDENTITY, ROOT_CRL, TCB, served
from support.tls_files import make_ca

FMSPC = platform().model.fmspc.hex()
COLLATERAL = platform().collateral(now=NOW)
TDX_COLLATERAL = platform().collateral(now=NOW, tee=TEEType.TDX)
QVE_IDENTITY = "/sgx/certification/v4/qve/identity"
TD_IDENTITY = "/tdx/certification/v4/qe/identity"
TDX_TCB = "/tdx/certification/v4/tcb"


def replies() -> dict[str, Sequence[Reply]]:
    found, tdx = served(COLLATERAL), served(TDX_COLLATERAL)
    qve = replace(found[IDENTITY][0], body=upload_document()["collaterals"]["qveidentity"].encode())
    return {**found, TD_IDENTITY: tdx[IDENTITY], TDX_TCB: tdx[TCB], QVE_IDENTITY: (qve,)}


def look(
    script: Script | None = None,
    *,
    config: Path | None = None,
    ca: Path | None = None,
    fmspcs: tuple[str, ...] = (FMSPC,),
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    url: str | None = None,
    trust_anchors: TrustAnchors | None = None,
) -> list[Finding]:
    pccs = url or (script.url if script else None)
    environ = {"QCNL_CONF_PATH": str(config)} if config else {}
    return list(
        examine(
            pccs=pccs,
            ca_file=ca,
            fmspcs=fmspcs,
            environ=environ,
            clock=clock,
            trust_anchors=trust_anchors or anchors(),
        )
    )


def failures(findings: list[Finding]) -> dict[str, Reason]:
    return {finding.name: finding.error.reason for finding in findings if finding.error}


def warnings(findings: list[Finding]) -> list[str]:
    return [finding.name for finding in findings if finding.status is Status.WARNING]


def test_a_sound_service_is_all_ok(tmp_path: Path) -> None:
    files = make_ca(tmp_path)
    with scripted(replies(), tls=(files.chain, files.key)) as script:
        findings = look(script, ca=files.ca)
    assert failures(findings) == {}
    # The test's certificate lasts a day.
    assert warnings(findings) == ["certificate"]
    assert {finding.name for finding in findings} >= {
        "service",
        "certificate",
        "clock",
        "version",
        "root",
        "QE identity",
        "TD QE identity",
        "QVE identity",
        "CRL of the root",
        "CRL of the processor CA",
        "CRL of the platform CA",
        f"SGX TCB Info of {FMSPC.upper()}",
        f"TDX TCB Info of {FMSPC.upper()}",
    }
    assert all(finding.remedy for finding in findings if finding.status is not Status.OK)


def test_plain_http_is_worth_a_warning() -> None:
    with scripted(replies()) as script:
        assert warnings(look(script)) == ["certificate"]


def test_a_certificate_that_is_not_trusted_is_told_from_a_dead_service(tmp_path: Path) -> None:
    files = make_ca(tmp_path)
    (tmp_path / "other").mkdir()
    with scripted(replies(), tls=(files.chain, files.key)) as script:
        assert failures(look(script)) == {"certificate": Reason.PCCS_UNREACHABLE}
        assert failures(look(script, ca=make_ca(tmp_path / "other").ca)) == {"certificate": Reason.PCCS_UNREACHABLE}
        assert failures(look(script, ca=tmp_path / "none")) == {"service": Reason.FILE_UNREADABLE}
        url = script.url.replace("https", "http")
        assert failures(look(url=url)) == {"service": Reason.PCCS_UNREACHABLE}
    assert failures(look(url="http://127.0.0.1:1")) == {"service": Reason.PCCS_UNREACHABLE}
    assert failures(look(url="nonsense")) == {"service": Reason.ADDRESS_INVALID}
    with scripted(replies()) as script:
        secure = script.url.replace("http", "https")
        assert failures(look(url=secure)) == {"service": Reason.PCCS_UNREACHABLE}


@pytest.mark.parametrize("skew", [timedelta(minutes=5), -timedelta(hours=2)])
def test_a_clock_that_is_wrong_is_found(skew: timedelta) -> None:
    with scripted(replies()) as script:
        findings = look(script, clock=lambda: datetime.now(UTC) + skew)
    assert failures(findings) == {"clock": Reason.CLOCK_SKEW}


@pytest.mark.parametrize(
    ("path", "reply", "reason", "name"),
    [
        (ROOT_CRL, Reply(status=404, body=b"none"), Reason.COLLATERAL_NOT_FOUND, "CRL of the root"),
        (ROOT_CRL, Reply(body=b"junk"), Reason.COLLATERAL_MALFORMED, "CRL of the root"),
        (TCB, Reply(status=404, body=b"none"), Reason.COLLATERAL_NOT_FOUND, f"SGX TCB Info of {FMSPC.upper()}"),
        (TCB, Reply(body=b'{"tcbInfo":{}}'), Reason.COLLATERAL_MALFORMED, f"SGX TCB Info of {FMSPC.upper()}"),
        (IDENTITY, Reply(status=404, body=b"none"), Reason.PCCS_ERROR, "version"),
    ],
)
def test_one_document_that_is_not_well_is_named(path: str, reply: Reply, reason: Reason, name: str) -> None:
    with scripted({**replies(), path: (reply,)}) as script:
        assert failures(look(script))[name] is reason


def test_what_is_not_everybodys_is_a_warning() -> None:
    missing = (Reply(status=404, body=b"none"),)
    with scripted({**replies(), TD_IDENTITY: missing, TDX_TCB: missing, CRL: missing}) as script:
        findings = look(script)
    assert failures(findings) == {}
    assert sorted(warnings(findings)) == sorted(
        ["certificate", "TD QE identity", f"TDX TCB Info of {FMSPC.upper()}"]
        + [f"CRL of the {ca} CA" for ca in ("processor", "platform")]
    )


@pytest.mark.parametrize(
    ("days", "status", "reason"),
    [(25, Status.WARNING, None), (40, Status.FAILED, Reason.COLLATERAL_EXPIRED)],
)
def test_what_ends_is_told_before_and_after(days: int, status: Status, reason: Reason | None) -> None:
    with scripted(replies()) as script:
        findings = look(script, clock=lambda: datetime.now(UTC) + timedelta(days=days))
    (found,) = [finding for finding in findings if finding.name == "QE identity"]
    assert found.status is status
    assert (found.error and found.error.reason) == reason


# --- do they hold?


def changed(path: str, old: bytes, new: bytes) -> dict[str, Sequence[Reply]]:
    (reply,) = replies()[path]
    assert old in reply.body
    return {**replies(), path: (replace(reply, body=reply.body.replace(old, new)),)}


@pytest.mark.parametrize(
    ("answers", "name", "reason"),
    [
        (changed(IDENTITY, b"UpToDate", b"OutOfDate"), "QE identity", Reason.QE_IDENTITY_SIGNATURE),
        (changed(TCB, b"UpToDate", b"OutOfDate"), f"SGX TCB Info of {FMSPC.upper()}", Reason.TCB_INFO_SIGNATURE),
        ({**replies(), TDX_TCB: replies()[TCB]}, f"TDX TCB Info of {FMSPC.upper()}", Reason.COLLATERAL_MALFORMED),
        ({**replies(), TD_IDENTITY: replies()[IDENTITY]}, "TD QE identity", Reason.COLLATERAL_MALFORMED),
        ({**replies(), CRL: (replace(replies()[CRL][0], body=COLLATERAL.root_ca_crl),)}, "CRL of the platform CA",
         Reason.CRL_ISSUER),
        ({**replies(), ROOT_CRL: (Reply(body=COLLATERAL.pck_crl),)}, "CRL of the root", Reason.CRL_ISSUER),
        ({**replies(), TCB: (replace(replies()[TCB][0], headers=()),)}, f"SGX TCB Info of {FMSPC.upper()}",
         Reason.CERTIFICATE_MALFORMED),
    ],
)  # fmt: skip
def test_a_document_that_verifiers_would_refuse_is_found(
    answers: dict[str, Sequence[Reply]], name: str, reason: Reason
) -> None:
    with scripted(answers) as script:
        findings = look(script)
    assert failures(findings)[name] is reason
    assert all(finding.remedy for finding in findings if finding.status is not Status.OK)


def test_documents_of_two_vendors_are_told_apart() -> None:
    other = served(Platform.create(now=NOW, pki=SimulatedPKI.create(now=NOW, seed=bytes(32))).collateral(now=NOW))
    with scripted({**replies(), TCB: other[TCB]}) as script:
        assert failures(look(script)) == {f"SGX TCB Info of {FMSPC.upper()}": Reason.ROOT_UNTRUSTED}


def test_a_root_that_is_not_believed_is_worth_one_warning() -> None:
    with scripted(replies()) as script:
        findings = look(script, trust_anchors=INTEL)
    assert failures(findings) == {}
    assert warnings(findings) == ["certificate", "root"]


def test_without_the_root_s_crl_nothing_can_be_verified_and_that_is_said() -> None:
    with scripted({**replies(), ROOT_CRL: (Reply(status=404, body=b"none"),)}) as script:
        findings = look(script)
    assert failures(findings) == {"CRL of the root": Reason.COLLATERAL_NOT_FOUND}
    assert "QE identity" in warnings(findings)


# --- the configuration


@pytest.mark.parametrize(("update", "version"), [("standard", "3.0"), ("early", "3.1")])
def test_the_service_is_asked_as_the_file_has_clients_ask(tmp_path: Path, update: str, version: str) -> None:
    path = tmp_path / "qcnl.conf"
    with scripted(replies()) as script:
        text = {"pccs_url": f"{script.url}/", "tcb_update_type": update, "pccs_api_version": version}
        path.write_text(json.dumps(text))
        look(config=path)
        asked = script.requests
    assert {target.rpartition("update=")[2] for target in asked if "update=" in target} == {update}
    assert any("/crl?uri=https://certificates" in target for target in asked) is (version == "3.1")


def test_where_pck_certificates_come_from_is_looked_at_as_well(tmp_path: Path) -> None:
    path = tmp_path / "qcnl.conf"
    with scripted(replies()) as script, scripted({}) as other:
        keys = {"collateral_service": script.url, "pccs_url": other.url, "local_pck_url": "http://127.0.0.1:1/"}
        path.write_text(json.dumps(keys))
        findings = look(config=path)
    assert {finding.name for finding in findings} >= {"service (pccs_url)", "certificate (pccs_url)"}
    assert failures(findings) == {"service (local_pck_url)": Reason.PCCS_UNREACHABLE}


def test_the_files_of_local_cache_only_are_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "qcnl.conf"
    path.write_text('{"pccs_url": "http://127.0.0.1:1/", "local_cache_only": true}')
    environ = {"QCNL_CONF_PATH": str(path), "HOME": str(tmp_path)}
    statuses = []
    for _ in range(2):
        found = examine(pccs=None, ca_file=None, fmspcs=(), environ=environ, clock=lambda: datetime.now(UTC))
        statuses += [finding.status for finding in found if finding.name == "local cache"]
        (tmp_path / ".dcap-qcnl").mkdir(exist_ok=True)
        (tmp_path / ".dcap-qcnl" / "0000000000000000_0000").write_bytes(b"any")
    assert statuses == [Status.WARNING, Status.OK]


def test_an_older_version_is_named_where_it_is_served() -> None:
    (root_crl,) = replies()[ROOT_CRL]
    for answers, said in (({}, "not served"), ({ROOT_CRL.replace("v4", "v3"): (root_crl,)}, "served as well")):
        with scripted({**replies(), **answers}) as script:
            assert [each for each in look(script) if each.name == "version" and said in each.message]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"pccs_url": "https://h:1/" "use_secure_cert": true}', Reason.QCNL_INVALID),
        ('{"pccs_url": "https://<Region-ID>/"}', Reason.QCNL_INVALID),
        (None, Reason.FILE_UNREADABLE),
    ],
)
def test_a_file_that_cannot_be_used_is_the_end(tmp_path: Path, text: str | None, reason: Reason) -> None:
    path = tmp_path / "qcnl.conf"
    if text is not None:
        path.write_text(text)
    findings = look(config=path)
    assert failures(findings) == {"configuration": reason}
    assert len(findings) == 1


@pytest.mark.parametrize("form", ["json", "legacy"])
def test_oddities_of_a_sound_file_are_told(tmp_path: Path, form: str) -> None:
    path = tmp_path / "qcnl.conf"
    keys = {
        "pccs_url": "http://pccs.invalid/sgx/certification/v3",
        "collateral_service": "http://127.0.0.1:1/sgx/certification/v4/",
        "pck_cache_expire_hours": 5000,
        "colateral_service": "x",
    }
    if form == "json":
        text = json.dumps({**keys, "use_secure_cert": False, "local_cache_only": True})
    else:
        lines = [f"{key.upper()}={value}" for key, value in keys.items()]
        text = "\n".join(["# comment", *lines, "USE_SECURE_CERT=FALSE", "LOCAL_CACHE_ONLY=TRUE"])
    path.write_text(text)
    said = [finding.message for finding in look(config=path) if finding.status is Status.WARNING]
    for part in (
        "slash",
        "version 3",
        "plain http",
        "use_secure_cert",
        "2160",
        "no key that is known",
        "local_cache_only",
    ):
        assert [message for message in said if part in message], part


def test_the_shipped_form_of_the_file_has_no_oddity(tmp_path: Path) -> None:
    path = tmp_path / "qcnl.conf"
    with scripted(replies()) as script:
        path.write_text(f'{{ // comment\n "pccs_url": "{script.url}/sgx/certification/v4/", "use_secure_cert": true }}')
        findings = look(config=path)
    assert [finding.message for finding in findings if finding.name == "configuration"][1:] == []
    assert findings[0].status is Status.OK


# --- the command


def test_the_answer_is_lines_or_one_object_and_an_exit_code(tmp_path: Path) -> None:
    with scripted(replies()) as script:
        arguments = ["--pccs", script.url, "--trust-anchor", str(root_file(tmp_path))]
        lines = CliRunner().invoke(doctor_command, arguments, standalone_mode=False)
        answer = CliRunner().invoke(doctor_command, [*arguments, "--json"], standalone_mode=False)
    assert (lines.return_value, answer.return_value) == (0, 0)
    assert "ok       service: " in lines.output
    assert "         remedy: " in lines.output
    document = json.loads(answer.output)
    assert (document["healthy"], document["failed"], document["warning"]) == (True, 0, 1)
    dead = CliRunner().invoke(doctor_command, ["--pccs", "http://127.0.0.1:1", "--json"], standalone_mode=False)
    assert dead.return_value == 4
    assert json.loads(dead.output)["checks"][0]["reason"] == "PCCS_UNREACHABLE"


def test_headers_of_strangers_are_cut() -> None:
    long = (("Warning", "x" * 5000),)
    with scripted({**replies(), ROOT_CRL: (Reply(status=404, headers=long, body=b"no"),)}) as script:
        (found,) = [finding for finding in look(script) if finding.name == "CRL of the root"]
    assert len(found.message) < 500
    assert quote("x")


# --- what an upload holds


def test_intels_file_of_many_platforms_is_explained_without_telling_a_machine() -> None:
    found = inspect_upload(upload_body())
    assert found is not None
    assert (found.format, found.problem) == ("platform-collaterals", None)
    assert found.facts["platforms"] == 1
    (info,) = found.facts["tcb_infos"]
    assert (info["fmspc"], info["tee"], info["update"]) == (FMSPC, "SGX", "standard")
    assert set(found.facts["crls"]) == {"processorCrl", "platformCrl", "rootcacrl"}
    assert upload_document()["platforms"][0]["qe_id"] not in json.dumps(found.facts)
    document = upload_document()
    document["collaterals"]["tcbinfos"][0]["sgx_tcbinfo"] = 7
    broken = inspect_upload(json.dumps(document).encode())
    assert broken is not None
    assert broken.problem is not None
    assert broken.problem.reason is Reason.COLLATERAL_MALFORMED
    assert inspect_upload(b'{"platforms": []}') is None
