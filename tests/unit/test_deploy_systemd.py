"""The units: what they start exists, with these flags, and has nothing that it does not need."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Final

import click
import pytest

from eaa.inclavared.cli import cli as inclavared
from eaa.pccs.cli import cli as eaa_pccs
from eaa.program.lifecycle import MAX_GRACE
from eaa.workload.cli import cli as enclave_tls_server
from support.system import BIN
from support.vectors import require

FOLDER: Final = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
UNITS: Final = {"inclavared": inclavared, "enclave-tls-server": enclave_tls_server, "eaa-pccs": eaa_pccs}
HARDENED: Final = {
    "DynamicUser": "yes",
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "CapabilityBoundingSet": "",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "SystemCallArchitectures": "native",
}


class Unit:
    """A unit file, whose keys may be there more than once."""

    def __init__(self, program: str) -> None:
        self.path = FOLDER / f"{program}.service"
        parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
        parser.optionxform = str  # type: ignore[method-assign, assignment]  # keys have capitals
        parser.read_string(self.path.read_text())
        self.service = dict(parser["Service"])

    def commands(self) -> list[list[str]]:
        return [
            shlex.split(line.partition("=")[2])
            for line in self.path.read_text().splitlines()
            if line.startswith(("ExecStart=", "ExecStartPre="))
        ]


def test_there_is_a_unit_for_each_service() -> None:
    assert {path.stem for path in FOLDER.glob("*.service")} == set(UNITS)


@pytest.mark.parametrize("program", UNITS)
def test_a_unit_starts_what_there_is_with_flags_that_there_are(program: str) -> None:
    for command in Unit(program).commands():
        assert Path(command[0]).name == program
        assert (BIN / program).exists()
        found: click.Command = UNITS[program]
        arguments = command[1:]
        if isinstance(found, click.Group):
            verb = found.get_command(click.Context(found), arguments.pop(0))
            assert verb is not None
            found = verb
        known = {opt for option in found.params for opt in (*option.opts, *option.secondary_opts)}
        assert {word for word in arguments if word.startswith("-")} <= known


@pytest.mark.parametrize("program", UNITS)
def test_a_unit_gives_nothing_away(program: str) -> None:
    service = Unit(program).service
    assert {key: service.get(key) for key in HARDENED} == HARDENED
    filters = re.findall(r"^SystemCallFilter=(.*)", Unit(program).path.read_text(), re.MULTILINE)
    assert filters[:2] == ["@system-service", "~@privileged @resources"]


@pytest.mark.parametrize("program", UNITS)
def test_a_unit_waits_for_those_who_tell_when_they_are_ready(program: str) -> None:
    """A manager that waits for what never comes would take the service for dead."""
    package = {"inclavared": "inclavared", "enclave-tls-server": "workload", "eaa-pccs": "pccs"}[program]
    files = (FOLDER.parents[1] / "src" / "eaa" / package).glob("*.py")
    notifies = any(
        re.search(r"program\.(notify|lifecycle) import .*\b(Notifier|live)\b", file.read_text()) for file in files
    )
    assert (Unit(program).service["Type"] == "notify") == notifies


def test_the_manager_waits_for_longer_than_the_grace() -> None:
    unit = Unit("inclavared")
    (command,) = [command for command in unit.commands() if "--grace" in command]
    grace = float(command[command.index("--grace") + 1])
    assert grace < int(unit.service["TimeoutStopSec"]) < MAX_GRACE


@pytest.mark.parametrize("program", UNITS)
def test_systemd_reads_a_unit_without_complaint(program: str, tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    require("systemd-analyze", available=tool is not None, how="Debian has it in the package systemd")
    assert tool is not None
    unit = tmp_path / f"{program}.service"
    # The manager looks whether the programs are there.
    unit.write_text(Unit(program).path.read_text().replace("/opt/eaa/bin", str(BIN)))
    done = subprocess.run(
        [tool, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
