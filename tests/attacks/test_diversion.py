"""Diversion: the attacker leads a connection to another genuine machine, on which the same code runs.

Nothing about that machine's evidence is wrong. Its measurement is the right one, it is bound to this very session, and
no level of binding tells it from the machine that was meant. Only naming the machine does. Each test makes the attack
succeed without a name, and fail with one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from eaa.errors import Reason
from support.flow import answer_of, evidence_of
from support.machines import another_machine, ppid_of
from support.system import Done, Site, running

LEVELS = {"fresh": (), "cert": ("--level", "cert", "--minimum-binding", "cert")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """Two of one vendor, each with a genuine workload and a genuine relay of the same images."""

    site: Site
    meant: Path
    """The folder of the machine that its owner means."""
    other: Path
    relay: str
    """On the machine that is meant, with its workload behind it."""
    other_relay: str
    """All of it on the other machine: where the attacker leads whoever asks for the first."""
    mixed_relay: str
    """On the machine that is meant, with the other machine's workload behind it."""
    other_workload: str


@pytest.fixture(scope="module")
def machines(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    other = another_machine(site, tmp_path_factory.mktemp("machines") / "other")
    elsewhere = ("enclave-tls-server", "--listen", "tcp://127.0.0.1:0", "--mutual", *site.judging)
    with site.workload() as workload, running(*elsewhere, *site.attested("workload", tee=other)) as other_workload:
        here, there = workload.address(), other_workload.address()
        hops = ("inclavared", "--listen", "tcp://127.0.0.1:0", "--mutual", *site.judging)
        with (
            site.relay(here) as relay,
            site.relay(there) as mixed_relay,
            running(*hops, "--xfer", there, *site.attested("relay", tee=other)) as other_relay,
        ):
            yield Machines(
                site=site,
                meant=site.tee,
                other=other,
                relay=relay.address(),
                other_relay=other_relay.address(),
                mixed_relay=mixed_relay.address(),
                other_workload=there,
            )


def refused_for_its_machine(done: Done) -> bool:
    return (done.code, answer_of(done)["reason"]) == (1, Reason.PLATFORM_NOT_PINNED)


@pytest.mark.parametrize("level", LEVELS)
def test_a_listed_machine_is_not_replaced_by_another_one(machines: Machines, level: str) -> None:
    ask = (*LEVELS[level], "--json")
    named = ("--platform", ppid_of(machines.meant), *ask)
    assert machines.site.shelter(machines.other_relay, *ask).code == 0, "no binding stops it"
    assert refused_for_its_machine(machines.site.shelter(machines.other_relay, *named))
    assert machines.site.shelter(machines.relay, *named).code == 0


def test_a_workload_elsewhere_behind_the_right_relay_is_refused(machines: Machines) -> None:
    """A relay's evidence says nothing of where the workload behind it runs."""
    named = ("--platform", ppid_of(machines.meant), "--json")
    assert machines.site.shelter(machines.mixed_relay, "--json").code == 0, "no binding stops it"
    done = machines.site.shelter(machines.mixed_relay, *named)
    assert refused_for_its_machine(done)
    answer = answer_of(done)
    assert evidence_of(answer, "relay")["verdict"] == "accepted"
    assert evidence_of(answer, "workload")["verdict"] == "rejected"


def test_the_machine_that_was_seen_first_is_not_replaced_later(machines: Machines, tmp_path: Path) -> None:
    pins = ("--pin-platforms", str(tmp_path / "pins.json"), "--json")
    assert machines.site.shelter(machines.other_relay, "--json").code == 0, "no binding stops it"
    first = machines.site.shelter(machines.relay, *pins)
    assert first.code == 0
    assert first.stderr.count("shelter: warning: ") == 2, "the relay's machine and the workload's"
    later = machines.site.shelter(machines.other_relay, *pins)
    assert refused_for_its_machine(later)
    assert "warning" not in later.stderr
    again = machines.site.shelter(machines.relay, *pins)
    assert (again.code, again.stderr) == (0, "")


def test_whoever_diverts_the_first_visit_is_the_first(machines: Machines, tmp_path: Path) -> None:
    """What trust on first use does not stop; it tells the machine's name for whoever wants to compare."""
    pins = ("--pin-platforms", str(tmp_path / "pins.json"), "--json")
    first = machines.site.shelter(machines.other_relay, *pins)
    assert first.code == 0
    assert ppid_of(machines.other) in first.stderr
    assert refused_for_its_machine(machines.site.shelter(machines.relay, *pins))


def test_a_relay_that_names_its_workload_s_machine_gives_no_channel_to_another(machines: Machines) -> None:
    """And whoever asks it learns that there is no workload now, not which machine was expected."""
    named = ("--platform", ppid_of(machines.meant))
    with machines.site.relay(machines.other_workload, *named) as relay:
        done = machines.site.shelter(relay.address(), "--json")
        assert answer_of(done)["verdict"] == "unavailable"
        for machine in (machines.meant, machines.other):
            assert ppid_of(machine).removeprefix("ppid:") not in done.stdout + done.stderr
        relay.wait_for(Reason.PLATFORM_NOT_PINNED.value)


def test_a_workload_that_names_its_relay_s_machine_serves_no_other(machines: Machines) -> None:
    site = machines.site
    with site.workload("--platform", ppid_of(machines.meant)) as workload:
        address = workload.address()
        with site.relay(address) as here:
            assert site.shelter(here.address(), "--json").code == 0
        hops = ("inclavared", "--listen", "tcp://127.0.0.1:0", "--xfer", address, "--mutual", *site.judging)
        with running(*hops, *site.attested("relay", tee=machines.other)) as relay:
            assert answer_of(site.shelter(relay.address(), "--json"))["verdict"] == "unavailable"
            workload.wait_for(Reason.PLATFORM_NOT_PINNED.value)
            # The log of whoever was refused: what it was told holds no id.
            assert not any("ppid:" in line for line in relay.lines)
