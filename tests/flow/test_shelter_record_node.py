"""Recording from a node that runs: everything but the measurement has to hold, and somebody has to say yes."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from eaa.appraise.reference_values import ReferenceValues
from eaa.appraise.result import Role
from eaa.program.files import read_trust_anchor
from eaa.simulator.images import sample_image
from support.flow import NOBODY, answer_of
from support.system import BIN, Done, Site, run


@pytest.fixture(scope="module")
def node(site: Site) -> Iterator[str]:
    with site.node() as address:
        yield address


@pytest.fixture
def values(tmp_path: Path) -> Path:
    return tmp_path / "values.toml"


def command(site: Site, node: str, values: Path, *options: str, role: str = "relay") -> list[str]:
    trusted = ("--trust-anchor", site.root, "--collateral", site.collateral, "--reference-values", values)
    return [str(part) for part in ("record", "seen", "--role", role, "--from", node, *trusted, *options)]


def on_a_terminal(arguments: list[str], answer: bytes) -> tuple[Done, str]:
    """Run shelter as somebody who sits before it; return also what he saw."""
    keyboard, screen = pty.openpty()
    with subprocess.Popen(
        [str(BIN / "shelter"), *arguments], stdin=screen, stdout=subprocess.PIPE, stderr=screen
    ) as process:
        os.close(screen)
        os.write(keyboard, answer)
        assert process.stdout is not None
        stdout = process.stdout.read().decode()
        process.wait(60)
    seen = b""
    try:
        while chunk := os.read(keyboard, 4096):
            seen += chunk
    except OSError:  # the other end is gone, which is how a terminal ends
        pass
    os.close(keyboard)
    return Done(process.returncode, stdout, seen.decode()), seen.decode()


@pytest.mark.parametrize("role", ["relay", "workload"])
def test_the_expected_measurement_is_recorded_without_asking(site: Site, node: str, values: Path, role: str) -> None:
    done = run("shelter", *command(site, node, values, "--expect", site.mr_enclaves[role], role=role))
    assert done.code == 0, done
    (value,) = ReferenceValues.parse(values.read_text())
    assert (value.name, value.role, value.mr_enclave.hex() if value.mr_enclave else None) == (
        "seen",
        Role(role),
        site.mr_enclaves[role],
    )
    assert value.trust_anchor == read_trust_anchor(site.root)
    assert value.mr_signer is not None


def test_another_measurement_than_expected_is_not_recorded(site: Site, node: str, values: Path) -> None:
    done = run("shelter", *command(site, node, values, "--expect", "00" * 32, "--json"))
    answer = answer_of(done)
    assert (done.code, answer["verdict"], answer["reason"]) == (1, "rejected", "MEASUREMENT_MISMATCH")
    assert site.mr_enclaves["relay"] in answer["message"]
    assert not values.exists()


def test_without_a_terminal_nobody_can_say_yes(site: Site, node: str, values: Path) -> None:
    done = run("shelter", *command(site, node, values))
    assert (done.code, done.reason) == (2, "NOT_CONFIRMED")
    assert "--expect" in done.stderr
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", str(BIN / "shelter"), *command(site, node, values)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (closed.returncode, "[NOT_CONFIRMED]" in closed.stderr) == (2, True)
    assert not values.exists()


@pytest.mark.parametrize(("typed", "code"), [(b"y\n", 0), (b"n\n", 2), (b"\n", 2), (b"\x04", 130)])
def test_somebody_sees_the_measurement_and_decides(
    site: Site, node: str, values: Path, typed: bytes, code: int
) -> None:
    done, seen = on_a_terminal(command(site, node, values), typed)
    assert done.code == code, (done, seen)
    assert values.exists() == (code == 0)
    assert site.mr_enclaves["relay"] in seen
    assert "Is this what you built and expect?" in seen


def test_an_enclave_under_debug_is_never_recorded(site: Site, values: Path) -> None:
    """Not even where somebody accepts such enclaves otherwise: its host could have changed what it measures."""
    image, sigstruct = sample_image("under debug", now=datetime.now(UTC), debug=True)
    (site.tee / "debug.sgxs").write_bytes(image)
    (site.tee / "debug.sigstruct").write_bytes(sigstruct)
    expected = ("--expect", sigstruct[960:992].hex(), "--dangerous-accept-debug-enclaves")
    with site.relay(NOBODY, enclave="debug") as relay:
        done = run("shelter", *command(site, relay.address(), values, *expected, "--json"))
    answer = answer_of(done)
    assert (done.code, answer["verdict"], answer["reason"]) == (1, "rejected", "DEBUG_ENCLAVE")
    assert not values.exists()


def test_every_other_check_has_to_pass(site: Site, node: str, values: Path) -> None:
    strict = ("--expect", site.mr_enclaves["relay"], "--minimum-isv-svn", "9", "--json")
    done = run("shelter", *command(site, node, values, *strict))
    assert (done.code, answer_of(done)["reason"]) == (1, "SVN_TOO_LOW")
    real = [part for part in command(site, node, values, *strict) if part not in ("--trust-anchor", str(site.root))]
    assert answer_of(run("shelter", *real))["reason"] == "ROOT_UNTRUSTED"
    assert not values.exists()


@pytest.mark.parametrize(
    ("role", "options"), [("client", ()), ("relay", ("--workload", "x"))], ids=["a client", "a workload of a relay"]
)
def test_what_has_no_address_cannot_be_recorded_from_one(
    site: Site, values: Path, role: str, options: tuple[str, ...]
) -> None:
    done = run("shelter", *command(site, NOBODY, values, "--expect", "00" * 32, *options, role=role))
    assert (done.code, done.reason) == (2, "USAGE")


def test_nobody_at_home_is_unavailable(site: Site, values: Path) -> None:
    done = run("shelter", *command(site, NOBODY, values, "--expect", "00" * 32, "--json"))
    answer = answer_of(done)
    assert (done.code, answer["verdict"], answer["reason"]) == (4, "unavailable", "CONNECTION_FAILED")
    assert not values.exists()
