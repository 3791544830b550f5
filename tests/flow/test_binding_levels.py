"""Real processes at each binding level, on every hop and in both directions; what each says it has reached."""

from __future__ import annotations

import itertools
import time
from typing import Final

import pytest

from eaa.errors import Reason
from support.flow import answer_of, evidence_of
from support.system import Done, Running, Site, run, running

LEVELS: Final = ("cert", "session", "fresh")
SUCCESS: Final = "Remote attestation is successful."


def at(level: str, minimum: str | None = None) -> tuple[str, ...]:
    """Ask at this level, and accept it."""
    return ("--level", level, "--minimum-binding", minimum or level)


def said(service: Running, *words: str) -> None:
    """Wait for a line with all these words, in order."""
    service.wait_for(".*".join(words))


@pytest.mark.parametrize("level", LEVELS)
def test_every_hop_is_attested_both_ways_at_the_level_that_was_asked_for(site: Site, level: str) -> None:
    """Relay and workload judge each other, Shelter judges both, the relay judges Shelter: five times the same level."""
    client = ("--mutual", *site.attested("client"))
    with (
        site.workload(*at(level)) as workload,
        site.relay(workload.address(), "--attest-clients", *at(level)) as relay,
    ):
        done = site.shelter(relay.address(), "--json", *client, *at(level))
        answer = answer_of(done)
        assert (done.code, answer["binding"]) == (0, level), done
        assert [(entry["role"], entry["binding"]) for entry in answer["evidence"]] == [
            ("relay", level),
            ("workload", level),
        ]
        said(relay, f"this relay to the client {level}", f"the client {level}", f"the workload {level}")
        said(workload, f"relay accepted at level {level}", f"shown at level {level}")
        said(workload, "a client accepts", f"shown at level {level}")


def test_one_quote_an_epoch_serves_all_sessions(site: Site) -> None:
    with site.workload(*at("session")) as workload, site.relay(workload.address(), *at("session")) as relay:
        node, digests = relay.address(), set()
        for _ in range(3):
            answer = answer_of(site.shelter(node, "--json", *at("session")))
            assert answer["verdict"] == "accepted"
            checks = {check["name"]: check["actual"] for check in evidence_of(answer, "workload")["checks"]}
            digests.add(checks["report_data"])
        assert len(digests) == 1


@pytest.mark.parametrize(("asked", "minimum"), list(itertools.pairwise(LEVELS)))
def test_a_server_that_demands_a_level_refuses_weaker_questions(site: Site, asked: str, minimum: str) -> None:
    """A relay of Shelter, and a workload of relays and of clients."""
    demands = ("--minimum-level", minimum)
    with site.workload(*demands) as workload:
        channel = workload.address()
        with site.relay(channel, *demands, *at(minimum)) as relay:
            node = relay.address()
            refused = site.shelter(node, *at(asked))
            assert _reason(refused) is Reason.PEER_REJECTED_US
            assert "the relay refused this side (level)" in refused.stdout
            relay.wait_for(Reason.LEVEL_NOT_OFFERED)
            assert site.shelter(node, *at(minimum)).code == 0
        command = ("enclave-tls-client", "--addr", channel, "--mutual", *site.attested("relay"), *site.judging)
        assert _reason(run(*command, *at(asked))) is Reason.PEER_REJECTED_US
        workload.wait_for(Reason.LEVEL_NOT_OFFERED)


def _reason(done: Done) -> Reason:
    assert done.code != 0
    assert done.reason is not None
    return Reason(done.reason)


@pytest.mark.parametrize("level", ["cert", "session"])
def test_the_policy_sets_the_minimum_and_it_is_fresh_by_default(site: Site, level: str) -> None:
    """Nobody is asked for what would be refused in any case."""
    done = site.shelter("tcp://127.0.0.1:1", "--level", level)
    assert (done.code, done.reason) == (2, Reason.BINDING_TOO_WEAK)


@pytest.mark.parametrize("program", ["workload", "relay", "client"])
def test_who_asks_for_less_than_its_policy_accepts_does_not_start(site: Site, program: str) -> None:
    nowhere = "tcp://127.0.0.1:1"
    commands = {
        "workload": ("enclave-tls-server", "--listen", nowhere, "--mutual", *site.attested("workload")),
        "relay": ("inclavared", "--listen", nowhere, "--xfer", nowhere, *site.attested("relay")),
        "client": ("enclave-tls-client", "--addr", nowhere),
    }
    done = run(*commands[program], *site.judging, "--level", "session")
    assert (done.code, done.reason) == (2, Reason.BINDING_TOO_WEAK), done


@pytest.mark.long
def test_sessions_go_on_from_one_epoch_to_the_next(site: Site) -> None:
    """Epochs of ten seconds, the shortest: clients come all the time, and none is refused where one ends."""
    epochs = (*at("session"), "--epoch", "10")
    with site.workload(*epochs) as workload, site.relay(workload.address(), *epochs) as relay:
        node, seen, end = relay.address(), set[str](), time.monotonic() + 60
        while len(seen) < 2 and time.monotonic() < end:
            done = site.shelter(node, "--json", *at("session"), "--maximum-epoch", "10")
            assert done.code == 0, done
            checks = evidence_of(answer_of(done), "workload")["checks"]
            seen.update(check["actual"] for check in checks if check["name"] == "report_data")
    assert len(seen) == 2


def test_a_server_that_is_told_whom_to_accept_and_judges_nobody_says_so(site: Site) -> None:
    command = ("enclave-tls-server", "--listen", "tcp://127.0.0.1:0", *site.attested("workload"), *site.judging)
    with running(*command) as workload:
        said(workload, "warning: every client is served, and none is judged", "--reference-values")


def test_an_epoch_longer_than_twice_a_verifier_s_maximum_is_refused(site: Site) -> None:
    with site.workload("--epoch", "300") as workload, site.relay(workload.address()) as relay:
        done = site.shelter(relay.address(), *at("session"), "--maximum-epoch", "100")
        assert (done.code, done.reason) == (3, Reason.EPOCH_TOO_LONG), done


@pytest.mark.parametrize("level", LEVELS)
def test_the_sample_client_reaches_each_level(site: Site, level: str) -> None:
    with site.workload(*at(level)) as workload:
        command = ("enclave-tls-client", "--addr", workload.address(), "--mutual", *site.attested("relay"))
        done = run(*command, *site.judging, "--json", *at(level))
    answer = answer_of(done)
    assert (done.code, answer["verdict"], answer["binding"]) == (0, "accepted", level), done


def test_a_peer_s_own_collateral_serves_only_who_says_so(site: Site) -> None:
    """No PCCS can be reached, and both peers staple what they have."""
    trusting = (
        "--trust-anchor",
        str(site.root),
        "--reference-values",
        str(site.values),
        "--pccs",
        "http://127.0.0.1:1",
    )
    with site.node() as node:
        command = ("shelter", "remoteattestation", f"--addr={node}", *trusting)
        done = run(*command)
        assert (done.code, done.reason) == (4, Reason.PCCS_UNREACHABLE), done
        done = run(*command, "--accept-stapled-collateral")
        assert (done.code, done.stdout.splitlines()[-1]) == (0, SUCCESS), done
