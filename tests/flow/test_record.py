"""`shelter record --from`: a measurement is taken from a running node only after everything else about it was right."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from eaa.errors import Reason
from support.flow import NOBODY
from support.system import BIN, COMMAND_TIMEOUT, Done, Site, run, running

ANYBODY: Final = ("--verifier", "nullverifier", "--dangerous-accept-no-evidence")
ROLES: Final = ("relay", "workload")


@pytest.fixture(scope="module")
def node(site: Site) -> Iterator[str]:
    """An honest node, of which this owner has recorded nothing yet."""
    with site.node() as address:
        yield address


@dataclass(frozen=True, slots=True)
class Owner:
    """Somebody who begins: a trust anchor, collateral, and no reference value."""

    site: Site
    folder: Path

    @property
    def values(self) -> Path:
        return self.folder / "values.toml"

    def judging(self, tee: Path | None = None, collateral: Path | None = None) -> tuple[str, ...]:
        anchor, source = (tee or self.site.tee) / "root.pem", collateral or self.site.collateral
        paths = {"--trust-anchor": anchor, "--collateral": source, "--reference-values": self.values}
        return tuple(str(part) for pair in paths.items() for part in pair)

    def record(self, name: str, role: str, node: str, *options: str, judging: tuple[str, ...] | None = None) -> Done:
        judging = judging or self.judging()
        return run("shelter", "record", name, "--role", role, "--from", node, *judging, *options)

    def recorded(self) -> dict[str, Any]:
        return tomllib.loads(self.values.read_text()) if self.values.exists() else {}


@pytest.fixture
def owner(site: Site, tmp_path: Path) -> Owner:
    return Owner(site, tmp_path)


def assert_refused(done: Done, reason: Reason, *, code: int, owner: Owner) -> None:
    """It says why, and records nothing."""
    assert (done.code, done.reason) == (code, reason), done
    assert owner.recorded() == {}


# --- with the measurement at hand


def test_what_was_expected_is_recorded_and_then_accepted(site: Site, owner: Owner, node: str) -> None:
    for role in ROLES:
        done = owner.record(f"my-{role}", role, node, "--expect", site.mr_enclaves[role])
        assert done.code == 0, done
    for role in ROLES:
        value = owner.recorded()[f"my-{role}"]
        assert (value["role"], value["mr_enclave"]) == (role, site.mr_enclaves[role])
        assert len(value["mr_signer"]) == 64
    attested = run("shelter", "remoteattestation", "--addr", node, *owner.judging())
    assert attested.code == 0, attested


@pytest.mark.parametrize("role", ROLES)
def test_another_measurement_than_expected_is_not_recorded(site: Site, owner: Owner, node: str, role: str) -> None:
    done = owner.record("mine", role, node, "--expect", site.mr_enclaves["impostor"])
    assert_refused(done, Reason.MEASUREMENT_MISMATCH, code=1, owner=owner)


def test_a_name_is_not_taken_over_without_a_word(site: Site, owner: Owner, node: str) -> None:
    expected = ("--expect", site.mr_enclaves["relay"])
    assert owner.record("mine", "relay", node, *expected).code == 0
    again = owner.record("mine", "relay", node, *expected)
    assert (again.code, again.reason) == (2, Reason.REFERENCE_VALUE_EXISTS)
    assert owner.record("mine", "relay", node, *expected, "--replace").code == 0


def test_a_node_that_is_down_is_unavailable(site: Site, owner: Owner) -> None:
    done = owner.record("mine", "relay", NOBODY, "--expect", site.mr_enclaves["relay"])
    assert_refused(done, Reason.CONNECTION_FAILED, code=4, owner=owner)


# --- with somebody to ask


def test_without_a_terminal_nobody_can_be_asked(owner: Owner, node: str) -> None:
    assert_refused(owner.record("mine", "relay", node), Reason.NOT_CONFIRMED, code=2, owner=owner)


def test_without_any_standard_input_nobody_can_be_asked(owner: Owner, node: str) -> None:
    command = [str(BIN / "shelter"), "record", "mine", "--role", "relay", "--from", node, *owner.judging()]
    done = run("/bin/sh", "-c", 'exec "$@" <&-', "sh", *command)
    assert_refused(done, Reason.NOT_CONFIRMED, code=2, owner=owner)


def answered(answer: str, *command: str) -> tuple[int, str]:
    """Run shelter on a terminal, answer its question, and return the exit code and all that the terminal showed."""
    terminal, inside = pty.openpty()
    process = subprocess.Popen([str(BIN / "shelter"), *command], stdin=inside, stdout=inside, stderr=inside)
    os.close(inside)
    shown = b""
    with closing(os.fdopen(terminal, "r+b", buffering=0)) as screen:
        while b"[y/N]" not in shown:
            shown += screen.read(1024)
        screen.write(answer.encode())
        try:
            while data := screen.read(1024):
                shown += data
        except OSError:
            # Linux tells the end of the other side so.
            pass
    return process.wait(COMMAND_TIMEOUT), shown.decode()


@pytest.mark.parametrize("role", ROLES)
def test_a_person_says_yes(site: Site, owner: Owner, node: str, role: str) -> None:
    code, shown = answered("y\n", "record", "mine", "--role", role, "--from", node, *owner.judging())
    assert code == 0, shown
    question, _, _ = shown.partition("[y/N]")
    # Shown before the question, not after it.
    assert site.mr_enclaves[role] in question
    assert owner.recorded()["mine"]["mr_enclave"] == site.mr_enclaves[role]


@pytest.mark.parametrize("answer", ["n\n", "\n", "\x04"], ids=["no", "nothing", "end of input"])
def test_a_person_who_does_not_say_yes(owner: Owner, node: str, answer: str) -> None:
    code, shown = answered(answer, "record", "mine", "--role", "relay", "--from", node, *owner.judging())
    assert code != 0, shown
    assert owner.recorded() == {}


# --- everything else must be right


@pytest.fixture(scope="module")
def worse(site: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A platform that its vendor calls out of date, and its collateral."""
    folder = tmp_path_factory.mktemp("worse")
    created = run("eaa", "simulator", "create", folder / "tee", "--tcb-status", "OutOfDate")
    assert created.code == 0, created
    issued = run("eaa", "simulator", "collateral", folder / "tee", "--format", "file", "-o", folder / "collateral.json")
    assert issued.code == 0, issued
    return folder / "tee", folder / "collateral.json"


def test_a_relay_on_an_outdated_platform_is_not_recorded(site: Site, owner: Owner, worse: tuple[Path, Path]) -> None:
    attested = site.attested("relay", tee=worse[0])
    expected = ("--expect", site.mr_enclaves["relay"])
    with running("inclavared", "--listen", "tcp://127.0.0.1:0", *attested, *site.judging) as relay:
        address = relay.address()
        done = owner.record("mine", "relay", address, *expected, judging=owner.judging(*worse))
        assert_refused(done, Reason.TCB_STATUS_NOT_ALLOWED, code=1, owner=owner)
        accepted = ("--accept-tcb-status", "OutOfDate")
        done = owner.record("mine", "relay", address, *expected, *accepted, judging=owner.judging(*worse))
        assert done.code == 0, done


def test_a_relay_of_an_unknown_root_is_not_recorded(
    site: Site, owner: Owner, node: str, worse: tuple[Path, Path]
) -> None:
    judging = owner.judging(worse[0], site.collateral)
    done = owner.record("mine", "relay", node, "--expect", site.mr_enclaves["relay"], judging=judging)
    assert_refused(done, Reason.ROOT_UNTRUSTED, code=3, owner=owner)


@pytest.fixture(scope="module")
def debug_node(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A node whose workload runs under debug, behind a relay that takes anybody; and that workload's measurement."""
    image = tmp_path_factory.mktemp("debug") / "workload.sgxs"
    made = run("eaa", "simulator", "image", image, "--debug", "--json")
    assert made.code == 0, made
    attested = ("--attester", "sgx_sim", "--simulator", str(site.tee), "--enclave", str(image))
    with (
        running("enclave-tls-server", "--port", "0", *attested) as workload,
        site.relay(workload.address(), *ANYBODY) as relay,
    ):
        yield relay.address(), made.answer["images"][0]["mr_enclave"]


@pytest.mark.parametrize("word", [(), ("--dangerous-accept-debug-enclaves",)], ids=["strict", "dangerous"])
def test_an_enclave_under_debug_is_never_recorded(
    owner: Owner, debug_node: tuple[str, str], word: tuple[str, ...]
) -> None:
    """Not even for somebody who accepts such enclaves elsewhere: a debug measurement is no measurement to expect."""
    address, measured = debug_node
    done = owner.record("mine", "workload", address, "--expect", measured, *word)
    assert_refused(done, Reason.DEBUG_ENCLAVE, code=1, owner=owner)


def test_a_measurement_of_another_role_is_not_recorded(site: Site, owner: Owner, node: str) -> None:
    """Whoever has recorded the relay must not be shown its evidence as the workload's."""
    owner.values.write_text(site.values.read_text().replace('role = "relay"', 'role = "client"'))
    before = owner.recorded()
    done = owner.record("mine", "relay", node, "--expect", site.mr_enclaves["relay"])
    assert (done.code, done.reason) == (1, Reason.ROLE_MISMATCH), done
    assert owner.recorded() == before


_STALE: Final = """
from eaa.identity import Identity

def stale(identity, report_data):
    '''Whatever is asked for, show the evidence of the certificate again.'''
    made = identity.credentials_at_hand() if hasattr(identity, "_credentials") else None
    return made.quote if made else quote(identity, report_data)

quote = Identity.quote
Identity.quote = Identity.quote_at_hand = stale
from eaa.inclavared.cli import main
main()
"""


@pytest.mark.parametrize("word", [(), ("--minimum-binding", "cert")], ids=["strict", "weak"])
def test_only_evidence_made_for_this_very_session_is_recorded(site: Site, owner: Owner, word: tuple[str, ...]) -> None:
    options = ("--listen", "tcp://127.0.0.1:0", *site.attested("relay"), *site.judging)
    with running(sys.executable, "-c", _STALE, *options) as relay:
        done = owner.record("mine", "relay", relay.address(), "--expect", site.mr_enclaves["relay"], *word)
    assert_refused(done, Reason.REPORT_DATA_MISMATCH, code=1, owner=owner)


# --- what makes no sense


@pytest.mark.parametrize(
    ("role", "options"),
    [
        ("client", ("--expect", "00" * 32)),
        ("relay", ("--expect", "00" * 32, "--workload", "default")),
        ("relay", ("--expect", "00" * 31)),
        ("relay", ("--expect", "00" * 32, "--mrenclave", "00" * 32)),
    ],
    ids=["a node is no client", "a relay has no workload name", "short digest", "two sources"],
)
def test_what_makes_no_sense_is_misuse(owner: Owner, role: str, options: tuple[str, ...]) -> None:
    assert_refused(owner.record("mine", role, NOBODY, *options), Reason.USAGE, code=2, owner=owner)
