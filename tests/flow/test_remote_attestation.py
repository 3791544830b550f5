"""Three hops, real processes: Shelter and Inclavared, Inclavared and workload, Shelter and workload inside the pipe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from eaa.errors import Reason
from support.flow import NOBODY, answer_of, evidence_of, filled_pccs, has_ipv6
from support.system import Done, Site, run, running
from support.vectors import vector

SUCCESS: Final = "Remote attestation is successful."
SHELTER: Final = ("shelter", "remoteattestation", f"--addr={NOBODY}")
RELAY: Final = ("inclavared", "--listen", "tcp://127.0.0.1:0", "--xfer", NOBODY)
WORKLOAD: Final = ("enclave-tls-server", "--listen", "tcp://127.0.0.1:0", "--mutual")
CLIENT: Final = ("enclave-tls-client", "--addr", NOBODY)
JUDGES: Final = (SHELTER, RELAY, WORKLOAD, CLIENT)


@pytest.fixture(scope="module")
def node(site: Site) -> Iterator[str]:
    """An honest node that stands for many tests: none of them may be able to spoil it for the next."""
    with site.node() as address:
        yield address


@pytest.fixture(scope="module")
def pccs(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PCCS that has the site's collateral."""
    with filled_pccs(site, tmp_path_factory.mktemp("pccs")) as url:
        yield url


def assert_success(done: Done, site: Site) -> None:
    """The answer of a good end, on stdout, and nothing that looks like an error."""
    assert done.code == 0, done
    assert done.stderr == ""
    assert f"App Enclave mrenclave: {site.mr_enclaves['workload']}" in done.stdout
    assert done.stdout.splitlines()[-1] == SUCCESS


def assert_refused(done: Done, reason: Reason, *, code: int) -> None:
    """One reason, its exit code, and no word of success."""
    assert (done.code, done.reason) == (code, reason), done
    assert SUCCESS not in done.stdout


# --- the same by hand


def test_reference_command_line_attests_relay_and_workload(site: Site) -> None:
    """The seed's flags, all of them, mean what they meant."""
    reference = ("--verifier", "sgx_ecdsa", "--tls", "openssl", "--crypto", "openssl")
    with site.node("--verifier", "sgx_ecdsa_qve", "--tls", "openssl", "--crypto", "openssl") as node:
        done = site.shelter(node, *reference)
    assert_success(done, site)


def test_short_flags_of_the_reference_programs(site: Site) -> None:
    """-i -p -m -a -v -t -c -l -P on the workload, -l -x -m on the relay: every one of them is taken."""
    named = ("-v", "sgx_ecdsa", "-t", "openssl", "-c", "openssl", "-l", "debug", "-P")
    attested = ("-a", *site.attested("workload")[1:])
    with running(
        "enclave-tls-server", "-i", "127.0.0.1", "-p", "0", "-m", *attested, *named, *site.judging
    ) as workload:
        xfer = workload.address().removeprefix("tcp://")
        hops = ("-l", "127.0.0.1:0", "-x", xfer, "-m")
        with running("inclavared", *hops, *site.attested("relay"), *site.judging) as relay:
            assert_success(site.shelter(relay.address()), site)


def _addresses(kind: str, folder: Path) -> tuple[str, str]:
    """Where workload and relay listen."""
    if kind == "unix":
        return f"unix://{folder}/w.sock", f"unix://{folder}/r.sock"
    if kind == "path":
        return f"{folder}/w.sock", f"{folder}/r.sock"
    return f"{kind}:0", f"{kind}:0"


@pytest.mark.parametrize("kind", ["unix", "path", "tcp://[::1]", "localhost"])
def test_every_form_of_address_works_on_every_hop(site: Site, tmp_path: Path, kind: str) -> None:
    if "::1" in kind and not has_ipv6():
        pytest.skip("this machine's loopback speaks no IPv6")
    workload_at, relay_at = _addresses(kind, tmp_path)
    with (
        site.workload(listen=workload_at) as workload,
        site.relay(_named(kind, workload.address()), listen=relay_at) as relay,
    ):
        assert_success(site.shelter(_named(kind, relay.address())), site)
    assert list(tmp_path.iterdir()) == []


def _named(kind: str, address: str) -> str:
    """Write the address a service announced in the form that is tried."""
    if kind == "path":
        return address.removeprefix("unix://")
    return address if kind == "unix" else f"{kind}:{address.rpartition(':')[2]}"


def test_reference_port_flags_take_ipv6_too(site: Site) -> None:
    if not has_ipv6():
        pytest.skip("this machine's loopback speaks no IPv6")
    with running("enclave-tls-server", "--ip", "::1", "--port", "0", *site.attested("workload")) as workload:
        port = workload.address().rpartition(":")[2]
        done = run("enclave-tls-client", "--ip", "::1", "--port", port, *site.judging)
    assert done.code == 0, done


def test_a_workload_that_is_not_mutual_takes_any_relay(site: Site) -> None:
    """Without --mutual neither side of that hop judges or shows more than the reference system did."""
    with running("enclave-tls-server", "--port", "0", *site.attested("workload")) as workload:
        hops = ("--listen", "tcp://127.0.0.1:0", "--xfer", workload.address())
        with running("inclavared", *hops, *site.attested("relay"), *site.judging) as relay:
            assert_success(site.shelter(relay.address()), site)


def test_a_mutual_workload_refuses_a_relay_that_shows_nothing(site: Site) -> None:
    with site.workload() as workload:
        hops = ("--listen", "tcp://127.0.0.1:0", "--xfer", workload.address())
        with running("inclavared", *hops, *site.attested("relay"), *site.judging) as relay:
            assert_refused(site.shelter(relay.address()), Reason.WORKLOAD_UNAVAILABLE, code=4)
            relay.wait_for(Reason.PEER_REJECTED_US)
        workload.wait_for(Reason.NO_EVIDENCE)


def test_a_mutual_workload_refuses_another_relay(site: Site) -> None:
    with site.workload() as workload:
        channel = workload.address()
        with site.relay(channel, enclave="impostor") as relay:
            # Shelter judges the relay itself, and leaves before that has its channel.
            assert_refused(site.shelter(relay.address()), Reason.MEASUREMENT_MISMATCH, code=1)
        once = ("inclavared", "--connect", channel, "--mutual", *site.attested("impostor"))
        assert_refused(run(*once, *site.judging), Reason.PEER_REJECTED_US, code=1)
        workload.wait_for(Reason.MEASUREMENT_MISMATCH)


def test_a_relay_refuses_another_workload(site: Site) -> None:
    with site.workload(enclave="impostor") as workload, site.relay(workload.address()) as relay:
        assert_refused(site.shelter(relay.address()), Reason.WORKLOAD_UNAVAILABLE, code=4)
        relay.wait_for(Reason.MEASUREMENT_MISMATCH)


# --- what is said


def test_simulated_evidence_is_said_to_be_simulated(site: Site, node: str) -> None:
    done = site.shelter(node)
    assert_success(done, site)
    assert "SIMULATED" in done.stdout


def test_json_has_one_entry_for_each_attester(site: Site, node: str) -> None:
    done = site.shelter(node, "--json")
    answer = answer_of(done)
    assert done.code == 0
    assert (answer["verdict"], answer["reason"], answer["binding"]) == ("accepted", None, "fresh")
    assert answer["mr_enclave"] == site.mr_enclaves["workload"]
    assert [entry["role"] for entry in answer["evidence"]] == ["relay", "workload"]
    for role in ("relay", "workload"):
        entry = evidence_of(answer, role)
        assert (entry["verdict"], entry["simulated"], entry["attests"]) == ("accepted", True, "process")
        assert entry["mr_enclave"] == site.mr_enclaves[role]
        assert entry["reference_value"] == role
        assert entry["checks"]
    assert answer["simulated"] is True


def test_json_of_a_refusal_has_the_refused_evidence(site: Site) -> None:
    with site.workload(enclave="impostor") as workload:
        anybody = ("--verifier", "nullverifier", "--dangerous-accept-no-evidence")
        with site.relay(workload.address(), *anybody) as relay:
            done = site.shelter(relay.address(), "--json")
    answer = answer_of(done)
    assert (done.code, answer["verdict"], answer["reason"]) == (1, "rejected", Reason.MEASUREMENT_MISMATCH)
    assert answer["hint"]
    assert evidence_of(answer, "relay")["verdict"] == "accepted"
    refused = evidence_of(answer, "workload")
    assert refused["mr_enclave"] == site.mr_enclaves["impostor"]
    assert [check["name"] for check in refused["checks"] if not check["passed"]] == ["measurement"]


@pytest.mark.parametrize(
    ("options", "code", "verdict", "reason", "relay"),
    [
        (("--workload", "unknown"), 4, "unavailable", Reason.WORKLOAD_UNAVAILABLE, "accepted"),
        # Identity flags speak of the workload; the relay is judged by its reference values alone.
        (("--mr-enclave", "00" * 32), 1, "rejected", Reason.MEASUREMENT_MISMATCH, "accepted"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_json_is_complete_however_it_ends(
    site: Site, node: str, options: tuple[str, ...], code: int, verdict: str, reason: Reason, relay: str
) -> None:
    done = site.shelter(node, "--json", *options)
    answer = answer_of(done)
    assert (done.code, answer["verdict"], answer["reason"]) == (code, verdict, reason)
    assert evidence_of(answer, "relay")["verdict"] == relay


def test_explain_lists_every_check_of_both(site: Site, node: str) -> None:
    names = [
        check["name"] for entry in answer_of(site.shelter(node, "--json"))["evidence"] for check in entry["checks"]
    ]
    done = site.shelter(node, "--explain")
    assert_success(done, site)
    lines = [line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("  ok  ")]
    assert lines == names


def test_explain_names_clause_and_remedy_of_what_fails(site: Site, node: str) -> None:
    done = site.shelter(node, "--explain", "--mr-enclave", "00" * 32)
    assert_refused(done, Reason.MEASUREMENT_MISMATCH, code=1)
    assert [line for line in done.stdout.splitlines() if line.startswith("  FAIL ")]


# --- how strongly evidence is bound


def test_evidence_of_the_key_alone_is_refused_by_default(site: Site, node: str) -> None:
    """It is not even asked for: nothing that the policy accepts could come back."""
    assert_refused(site.shelter(node, "--level", "cert"), Reason.BINDING_TOO_WEAK, code=2)


@pytest.mark.parametrize("how", ["policy", "flag"])
def test_evidence_of_the_key_alone_is_accepted_where_policy_allows_it(
    site: Site, node: str, tmp_path: Path, how: str
) -> None:
    (tmp_path / "policy.toml").write_text('minimum_binding = "cert"\n')
    allowed = ("--policy", str(tmp_path / "policy.toml")) if how == "policy" else ("--minimum-binding", "cert")
    done = site.shelter(node, "--level", "cert", *allowed, "--json")
    answer = answer_of(done)
    assert done.code == 0
    assert [entry["binding"] for entry in answer["evidence"]] == ["cert", "cert"]
    assert answer["binding"] == "cert"


# --- the other ways in


def test_the_sample_client_attests_a_workload_directly(site: Site) -> None:
    with site.workload() as workload:
        done = run(
            "enclave-tls-client", "--addr", workload.address(), "--mutual", *site.attested("relay"), *site.judging
        )
    assert done.code == 0, done
    assert done.stdout.splitlines()[-1] == SUCCESS
    assert site.mr_enclaves["workload"] in done.stdout


@pytest.mark.parametrize("enclave", [None, "workload"], ids=["shows nothing", "shows another enclave's evidence"])
def test_the_sample_client_is_refused_by_a_mutual_workload(site: Site, enclave: str | None) -> None:
    shown = ("--mutual", *site.attested(enclave)) if enclave else ()
    with site.workload() as workload:
        done = run("enclave-tls-client", "--addr", workload.address(), *shown, *site.judging)
    assert_refused(done, Reason.PEER_REJECTED_US, code=1)


def test_the_sample_client_refuses_another_workload(site: Site) -> None:
    with running("enclave-tls-server", "--port", "0", *site.attested("impostor")) as workload:
        done = run("enclave-tls-client", "--addr", workload.address(), *site.judging, "--json")
    answer = answer_of(done)
    assert (done.code, answer["verdict"], answer["reason"]) == (1, "rejected", Reason.MEASUREMENT_MISMATCH)


def test_the_relay_can_ask_a_workload_once(site: Site) -> None:
    with site.workload() as workload:
        done = run("inclavared", "--connect", workload.address(), "--mutual", *site.attested("relay"), *site.judging)
    assert done.code == 0, done
    assert site.mr_enclaves["workload"] in done.stdout


@pytest.mark.parametrize(
    ("attester", "reason"),
    [("impostor", Reason.MEASUREMENT_MISMATCH), ("relay", Reason.ROLE_MISMATCH), (None, Reason.NO_EVIDENCE)],
)
def test_asking_a_workload_once_names_why_it_is_refused(site: Site, attester: str | None, reason: Reason) -> None:
    shown = site.attested(attester) if attester else ("--attester", "nullattester")
    with running("enclave-tls-server", "--port", "0", *shown) as workload:
        done = run("inclavared", "--connect", workload.address(), *site.attested("relay"), *site.judging)
    assert_refused(done, reason, code=1)


@pytest.fixture(scope="module")
def tampered(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A workload in a TEE whose quotes have one bit of their signature flipped."""
    tee = tmp_path_factory.mktemp("tampered") / "tee"
    done = run("eaa", "simulator", "tamper", site.tee, tee, "--fault", "FLIP_QUOTE_SIGNATURE")
    assert done.code == 0, done
    with running("enclave-tls-server", "--port", "0", *site.attested("workload", tee=tee)) as workload:
        yield workload.address()


@pytest.mark.parametrize(("program", "to"), [("enclave-tls-client", "--addr"), ("inclavared", "--connect")])
def test_asking_once_answers_in_json_however_it_ends(site: Site, tampered: str, program: str, to: str) -> None:
    command = (program, *site.attested("relay"), to)
    with running("enclave-tls-server", "--port", "0", *site.attested("workload")) as workload:
        honest = workload.address()
        ends = {
            honest: (0, "accepted", None),
            tampered: (3, "unverifiable", Reason.QUOTE_SIGNATURE),
            NOBODY: (4, "unavailable", Reason.CONNECTION_FAILED),
        }
        for address, expected in ends.items():
            done = run(*command, address, *site.judging, "--json")
            answer = answer_of(done)
            assert (done.code, answer["verdict"], answer["reason"]) == expected


@pytest.fixture(scope="module")
def guarded(site: Site) -> Iterator[str]:
    """A node whose relay judges its clients."""
    with site.node("--attest-clients") as address:
        yield address


def test_a_relay_that_judges_clients_serves_one_it_knows(site: Site, guarded: str) -> None:
    done = site.shelter(guarded, "--mutual", *site.attested("client"))
    assert_success(done, site)


@pytest.mark.parametrize("enclave", ["impostor", "workload"])
def test_a_relay_that_judges_clients_refuses_another(site: Site, guarded: str, enclave: str) -> None:
    done = site.shelter(guarded, "--mutual", *site.attested(enclave))
    assert_refused(done, Reason.PEER_REJECTED_US, code=1)


def test_a_relay_that_judges_clients_refuses_one_without_evidence(site: Site, guarded: str) -> None:
    done = site.shelter(guarded, "--mutual", "--attester", "nullattester")
    assert_refused(done, Reason.PEER_REJECTED_US, code=1)


def test_a_relay_that_judges_clients_refuses_one_without_a_certificate(site: Site, guarded: str) -> None:
    done = site.shelter(guarded)
    assert_refused(done, Reason.TLS_HANDSHAKE, code=3)
    assert "--mutual" in done.stderr


# --- what is not there


def test_a_workload_of_another_name_is_not_served(site: Site, node: str) -> None:
    assert_refused(site.shelter(node, "--workload", "unknown"), Reason.WORKLOAD_UNAVAILABLE, code=4)
    assert_success(site.shelter(node, "--workload", "default"), site)


def test_workloads_are_served_by_their_names(site: Site) -> None:
    with site.workload() as one, site.workload(enclave="impostor") as two:
        named = ("--xfer", f"one={one.address()}", "--xfer", f"two={two.address()}")
        with running(
            "inclavared", "--listen", "tcp://127.0.0.1:0", *named, "--mutual", *site.attested("relay"), *site.judging
        ) as relay:
            node = relay.address()
            assert_success(site.shelter(node, "--workload", "one"), site)
            for other in ("two", "default"):
                assert_refused(site.shelter(node, "--workload", other), Reason.WORKLOAD_UNAVAILABLE, code=4)


def test_what_is_no_name_is_no_answer_about_a_node(site: Site, node: str) -> None:
    assert_refused(site.shelter(node, "--workload", "no name!", "--json"), Reason.USAGE, code=2)


def test_a_workload_that_is_down_is_unavailable(site: Site) -> None:
    with site.relay(NOBODY) as relay:
        done = site.shelter(relay.address(), "--json")
    answer = answer_of(done)
    assert (done.code, answer["reason"]) == (4, Reason.WORKLOAD_UNAVAILABLE)
    assert evidence_of(answer, "relay")["verdict"] == "accepted"


def test_a_relay_without_a_workload_serves_none(site: Site) -> None:
    with running("inclavared", "--listen", "tcp://127.0.0.1:0", *site.attested("relay"), *site.judging) as relay:
        assert_refused(site.shelter(relay.address()), Reason.WORKLOAD_UNAVAILABLE, code=4)


def test_a_relay_that_is_down_is_unavailable(site: Site, tmp_path: Path) -> None:
    """There is no silent fallback to another address either."""
    assert_refused(site.shelter(NOBODY), Reason.CONNECTION_FAILED, code=4)
    assert_refused(site.shelter(f"unix://{tmp_path}/absent"), Reason.CONNECTION_FAILED, code=4)
    assert_refused(site.shelter("tcp://no-such-host.invalid:1236"), Reason.ADDRESS_UNRESOLVED, code=4)


@pytest.mark.parametrize(
    ("command", "missing"),
    [(SHELTER, "relay"), (SHELTER, "workload"), (RELAY, "workload"), (WORKLOAD, "relay"), (CLIENT, "workload")],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_without_a_reference_value_nothing_starts(
    site: Site, tmp_path: Path, command: tuple[str, ...], missing: str
) -> None:
    """A program that must judge a role and has no value of it says which command records one."""
    other = "workload" if missing == "relay" else "relay"
    values = tmp_path / "values.toml"
    values.write_text(
        f'[other]\nrole = "{other}"\nattests = "process"\ntrust_anchor = "{"00" * 32}"\nmr_enclave = "{"00" * 32}"\n'
    )
    judging = ("--reference-values", values, "--trust-anchor", site.root, "--collateral", site.collateral)
    done = run(*command, *_attested(site, command), *judging)
    assert_refused(done, Reason.NO_VALUE_FOR_ROLE, code=2)
    assert f"shelter record NAME --role {missing}" in done.stderr


def _attested(site: Site, command: tuple[str, ...]) -> tuple[str, ...]:
    images = {"inclavared": "relay", "enclave-tls-server": "workload"}
    return site.attested(images[command[0]]) if command[0] in images else ()


def test_values_of_the_users_own_file_are_found(site: Site, node: str, tmp_path: Path) -> None:
    (tmp_path / "eaa").mkdir()
    (tmp_path / "eaa" / "reference-values.toml").write_text(site.values.read_text())
    anchored = ("--trust-anchor", site.root, "--collateral", site.collateral)
    done = run("shelter", "remoteattestation", "--addr", node, *anchored, env={"XDG_CONFIG_HOME": str(tmp_path)})
    assert_success(done, site)


# --- what we do not do is refused, never ignored

_NOT_IMPLEMENTED: Final = {
    "shelter": (
        "--tls nulltls",
        "--crypto nullcrypto",
        "--attester sgx_la",
        "--verifier sgx_la",
        "--verifier tdx_ecdsa",
    ),
    "inclavared": ("--tls nulltls", "--crypto nullcrypto", "--attester sgx_la", "--verifier sgx_la"),
    "enclave-tls-server": ("-t nulltls", "-c nullcrypto", "-a sgx_la", "-v sgx_la", "-a sev_snp", "-D", "-e"),
    "enclave-tls-client": ("-t nulltls", "-c nullcrypto", "-a sgx_la", "-v sgx_la", "-D", "-e", "-E"),
}
_ROWS: Final = [(command, option) for command in JUDGES for option in _NOT_IMPLEMENTED[command[0]]]


@pytest.mark.parametrize(("command", "option"), _ROWS, ids=[f"{command[0]} {option}" for command, option in _ROWS])
def test_a_value_that_is_not_implemented_is_refused(site: Site, command: tuple[str, ...], option: str) -> None:
    own = () if option.startswith(("-a", "--attester")) else _attested(site, command)
    done = run(*command, *own, *site.judging, *option.split())
    assert_refused(done, Reason.NOT_IMPLEMENTED_VALUE, code=2)


@pytest.mark.parametrize("command", JUDGES, ids=lambda command: command[0])
def test_judging_nobody_takes_a_second_word(site: Site, command: tuple[str, ...]) -> None:
    done = run(*command, *_attested(site, command), *site.judging, "--verifier", "nullverifier")
    assert (done.code, done.reason) in {(2, Reason.USAGE), (2, Reason.NOT_IMPLEMENTED_VALUE)}, done


@pytest.mark.parametrize("command", [SHELTER, CLIENT], ids=lambda command: command[0])
def test_who_is_there_to_verify_never_judges_nobody(site: Site, command: tuple[str, ...]) -> None:
    done = run(*command, *site.judging, "--verifier", "nullverifier", "--dangerous-accept-no-evidence")
    assert_refused(done, Reason.NOT_IMPLEMENTED_VALUE, code=2)


@pytest.mark.parametrize("command", [(*SHELTER, "--mutual"), RELAY, WORKLOAD], ids=lambda command: command[0])
@pytest.mark.parametrize("named", [("--attester", "sgx_ecdsa"), ()], ids=["named", "by default"])
def test_hardware_evidence_without_hardware_says_what_was_looked_for(
    site: Site, command: tuple[str, ...], named: tuple[str, ...]
) -> None:
    done = run(*command, *site.judging, *named)
    assert_refused(done, Reason.TEE_NOT_FOUND, code=4)
    for looked_for in ("/dev/attestation", "/dev/sgx", "sgx_sim"):
        assert looked_for in done.stderr


# --- trust anchors


def test_intels_roots_refuse_simulated_evidence(site: Site, node: str) -> None:
    """A simulated root counts only where an operator names it."""
    judging = ("--reference-values", site.values, "--collateral", site.collateral)
    assert_refused(run("shelter", "remoteattestation", "--addr", node, *judging), Reason.ROOT_UNTRUSTED, code=3)


@pytest.mark.parametrize("command", JUDGES, ids=lambda command: command[0])
def test_trust_anchors_of_both_kinds_are_not_mixed(site: Site, command: tuple[str, ...]) -> None:
    intel = vector("certs/intel_sgx_root_ca.pem")
    done = run(*command, *_attested(site, command), *site.judging, "--trust-anchor", intel)
    assert_refused(done, Reason.TRUST_ANCHORS_MIXED, code=2)


def test_mixed_trust_anchors_take_a_word_for_the_danger(site: Site, node: str) -> None:
    intel = vector("certs/intel_sgx_root_ca.pem")
    done = site.shelter(node, "--trust-anchor", str(intel), "--dangerous-mix-trust-anchors", "--json")
    answer = answer_of(done)
    assert (done.code, answer["verdict"], answer["simulated"]) == (0, "accepted", True)


def test_another_platforms_root_refuses_this_one(site: Site, node: str, tmp_path: Path) -> None:
    assert run("eaa", "simulator", "create", tmp_path / "tee").code == 0
    judging = ("--reference-values", site.values, "--collateral", site.collateral)
    anchor = ("--trust-anchor", tmp_path / "tee" / "root.pem")
    done = run("shelter", "remoteattestation", "--addr", node, *judging, *anchor)
    assert_refused(done, Reason.ROOT_UNTRUSTED, code=3)


# --- where collateral comes from


def _trusting(site: Site) -> tuple[str, ...]:
    return ("--trust-anchor", str(site.root), "--reference-values", str(site.values))


def _qcnl(form: str, url: str) -> str:
    if form == "json":
        return json.dumps({"pccs_url": f"{url}/sgx/certification/v4/", "use_secure_cert": False})
    return f"# the older form\nPCCS_URL={url}/sgx/certification/v4/\nUSE_SECURE_CERT=FALSE\n"


@pytest.mark.parametrize("form", ["json", "lines", "flag"])
def test_collateral_of_a_running_pccs_end_to_end(site: Site, pccs: str, tmp_path: Path, form: str) -> None:
    """All three programs take it from the PCCS: by the configuration of Intel's library, or by the flag."""
    (tmp_path / "qcnl.conf").write_text(_qcnl("json" if form == "flag" else form, NOBODY if form == "flag" else pccs))
    env = {"QCNL_CONF_PATH": str(tmp_path / "qcnl.conf")}
    judging = (*_trusting(site), *(("--pccs", pccs) if form == "flag" else ()))
    listen = ("--listen", "tcp://127.0.0.1:0", "--mutual")
    with running("enclave-tls-server", *listen, *site.attested("workload"), *judging, env=env) as workload:
        hops = (*listen, "--xfer", workload.address())
        with running("inclavared", *hops, *site.attested("relay"), *judging, env=env) as relay:
            done = run("shelter", "remoteattestation", "--addr", relay.address(), *judging, env=env)
    assert_success(done, site)


def test_a_pccs_that_is_not_there_is_named(site: Site, node: str) -> None:
    done = run(
        "shelter", "remoteattestation", "--addr", node, *_trusting(site), "--pccs", "http://127.0.0.1:1", "--json"
    )
    answer = answer_of(done)
    assert (done.code, answer["verdict"], answer["reason"]) == (4, "unavailable", Reason.PCCS_UNREACHABLE)


def test_a_pccs_that_has_no_such_platform_is_told_apart(site: Site, node: str, tmp_path: Path) -> None:
    serve = ("serve", "--plain-http", "--listen", "127.0.0.1:0", "--db", tmp_path / "empty.sqlite")
    with running("eaa-pccs", *serve) as service:
        url = service.address()
        done = run("shelter", "remoteattestation", "--addr", node, *_trusting(site), "--pccs", url)
    assert_refused(done, Reason.COLLATERAL_NOT_FOUND, code=4)


@pytest.mark.parametrize("form", ["json", "lines"])
@pytest.mark.parametrize("command", JUDGES, ids=lambda command: command[0])
def test_a_placeholder_in_the_pccs_address_is_refused(
    site: Site, tmp_path: Path, command: tuple[str, ...], form: str
) -> None:
    """Clouds document an address that still has to be completed; it is no address."""
    (tmp_path / "qcnl.conf").write_text(_qcnl(form, "https://sgx-dcap-server-vpc.<Region-ID>.example/"))
    env = {"QCNL_CONF_PATH": str(tmp_path / "qcnl.conf")}
    done = run(*command, *_attested(site, command), *_trusting(site), env=env)
    assert_refused(done, Reason.QCNL_INVALID, code=2)


def test_no_pccs_is_ever_guessed(site: Site, tmp_path: Path) -> None:
    done = run(*SHELTER, *_trusting(site), env={"QCNL_CONF_PATH": str(tmp_path / "absent.conf")})
    assert_refused(done, Reason.FILE_UNREADABLE, code=2)
