"""`shelter record` for trust domains, from quotes, with every assumption of a flat image, and by two people at once."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from eaa.evidence.quote import TEEType
from eaa.evidence.tdx import TDAttribute
from eaa.simulator.platform import Platform
from eaa.simulator.tdx import DEFAULT_ATTRIBUTES, TrustDomain
from support.ccel import REGISTERS
from support.flow import answer_of
from support.system import BIN, Done, Site, run
from support.vectors import vector

REPORT_DATA: Final = bytes(range(64))


@dataclass(frozen=True, slots=True)
class Machine:
    """A simulated TDX machine as files, and one owner's reference values."""

    folder: Path
    platform: Platform

    @classmethod
    def create(cls, folder: Path) -> Machine:
        now = datetime.now(UTC)
        platform = Platform.create(now=now)
        (folder / "root.pem").write_bytes(platform.root_pem)
        (folder / "collateral.json").write_bytes(platform.collateral(now=now, tee=TEEType.TDX).to_json())
        return cls(folder, platform)

    @property
    def values(self) -> Path:
        return self.folder / "values.toml"

    @property
    def judging(self) -> tuple[str, ...]:
        paths = {"--trust-anchor": "root.pem", "--collateral": "collateral.json", "--reference-values": "values.toml"}
        return tuple(str(part) for option, name in paths.items() for part in (option, self.folder / name))

    def quote(self, name: str = "shop", **changes: Any) -> Path:
        domain = TrustDomain(platform=self.platform, name=name, **({"rtmrs": REGISTERS} | changes))
        path = self.folder / f"{name}.quote"
        path.write_bytes(domain.quote(REPORT_DATA))
        return path

    def record(self, name: str, *options: str | Path) -> Done:
        return run("shelter", "record", name, "--role", "workload", *self.judging, *options)

    def verify(self, quote: Path, *options: str) -> dict[str, Any]:
        return answer_of(run("shelter", "verify", quote, *self.judging, *options, "--json"))

    def recorded(self) -> Mapping[str, Any]:
        return tomllib.loads(self.values.read_text()) if self.values.exists() else {}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine.create(tmp_path)


def mr_td(path: Path) -> str:
    return path.read_bytes()[184:232].hex()


def test_a_domain_is_recorded_by_its_digits_and_then_accepted(machine: Machine) -> None:
    quote = machine.quote()
    registers = {f"--rtmr{number}": digest.hex() for number, digest in enumerate(REGISTERS)}
    done = machine.record("shop", "--mrtd", mr_td(quote), *(part for pair in registers.items() for part in pair))
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.startswith(f"recorded shop (workload): mr td {mr_td(quote)}\n")
    assert machine.verify(quote)["reference_value"] == "shop"
    other = machine.verify(machine.quote("shop", rtmrs=(REGISTERS[0], bytes(48), REGISTERS[2], bytes(48))))
    assert (other["verdict"], other["reason"]) == ("rejected", "MEASUREMENT_MISMATCH")
    assert [check["name"] for check in other["checks"] if not check["passed"]] == ["reference_rtmr1"]


def test_firmware_alone_is_recorded_with_a_word_of_warning(machine: Machine) -> None:
    done = machine.record("shop", "--mrtd", "ab" * 48)
    assert done.code == 0
    assert "hint: an MRTD is that of the firmware" in done.stderr
    assert machine.record("node", "--mrtd", "ab" * 48, "--attests", "platform").stderr == ""
    answer = machine.record("again", "--mrtd", "ab" * 48, "--rtmr2", "cd" * 48, "--json").answer
    assert (answer["mr_td"], answer["rtmr2"], answer["mr_enclave"], answer["rtmr1"]) == (
        "ab" * 48,
        "cd" * 48,
        None,
        None,
    )


def test_a_quote_is_recorded_with_all_that_its_owner_decides(machine: Machine) -> None:
    quote = machine.quote(mr_config_id=b"\x07" * 48)
    done = machine.record("shop", "--from-quote", quote, "--expect", mr_td(quote))
    assert done.code == 0, done
    value = machine.recorded()["shop"]
    assert (value["mr_td"], value["mr_config_id"]) == (mr_td(quote), "07" * 48)
    assert [value[f"rtmr{number}"] for number in range(4)] == [register.hex() for register in REGISTERS]
    assert "mr_seam" not in value
    assert machine.verify(quote)["verdict"] == "accepted"


def test_another_boot_of_a_known_firmware_is_new(machine: Machine) -> None:
    first = machine.quote()
    assert machine.record("first", "--from-quote", first, "--expect", mr_td(first)).code == 0
    second = machine.quote(rtmrs=(REGISTERS[0], b"\x01" * 48, REGISTERS[2], REGISTERS[3]))
    assert machine.record("second", "--from-quote", second, "--expect", mr_td(second)).code == 0
    assert machine.verify(second)["reference_value"] == "second"


def test_an_enclave_s_quote_is_recorded_with_its_signer(site: Site, tmp_path: Path) -> None:
    platform = Platform.from_files({path.name: path.read_bytes() for path in site.tee.iterdir()})
    image = site.image("impostor")
    quote = tmp_path / "quote"
    quote.write_bytes(
        platform.launch(image.read_bytes(), image.with_suffix(".sigstruct").read_bytes()).quote(REPORT_DATA)
    )
    values = tmp_path / "values.toml"
    done = run(
        *("shelter", "record", "mine", "--role", "workload", "--trust-anchor", site.root),
        *("--collateral", site.collateral, "--reference-values", values, "--from-quote", quote),
        *("--expect", site.mr_enclaves["impostor"]),
    )
    assert done.code == 0, done
    value = tomllib.loads(values.read_text())["mine"]
    assert (value["mr_enclave"], len(value["mr_signer"])) == (site.mr_enclaves["impostor"], 64)


@pytest.mark.parametrize(
    ("changes", "options", "code", "reason"),
    [
        pytest.param({}, ("--expect", "00" * 48), 1, "MEASUREMENT_MISMATCH", id="another measurement"),
        pytest.param({}, (), 2, "NOT_CONFIRMED", id="nobody to ask"),
        pytest.param(
            {"attributes": DEFAULT_ATTRIBUTES | 1}, ("--expect", "MRTD"), 1, "DEBUG_ENCLAVE", id="under debug"
        ),
        pytest.param(
            {"attributes": DEFAULT_ATTRIBUTES | 1},
            ("--expect", "MRTD", "--dangerous-accept-debug-enclaves"),
            1,
            "DEBUG_ENCLAVE",
            id="under debug, which nobody can ask for",
        ),
        pytest.param(
            {"attributes": DEFAULT_ATTRIBUTES | TDAttribute.PERFMON},
            ("--expect", "MRTD"),
            1,
            "TD_ATTRIBUTE_NOT_ALLOWED",
            id="another attribute",
        ),
        pytest.param(
            {}, ("--expect", "MRTD", "--minimum-evaluation-number", "9999"), 1, "EVALUATION_NUMBER_TOO_LOW", id="old"
        ),
        pytest.param({}, ("--rtmr0", "00" * 48), 2, "USAGE", id="a register beside a quote"),
        pytest.param({}, ("--mrtd", "00" * 48), 2, "USAGE", id="two sources"),
    ],
)
def test_a_quote_that_is_not_all_right_is_not_recorded(
    machine: Machine, changes: dict[str, Any], options: tuple[str, ...], code: int, reason: str
) -> None:
    quote = machine.quote(**changes)
    done = machine.record(
        "shop", "--from-quote", quote, *(mr_td(quote) if part == "MRTD" else part for part in options)
    )
    assert (done.code, done.reason) == (code, reason), done
    assert machine.recorded() == {}


def test_a_quote_that_was_changed_is_not_recorded(machine: Machine) -> None:
    quote = machine.quote()
    raw = bytearray(quote.read_bytes())
    raw[200] ^= 1
    quote.write_bytes(raw)
    done = machine.record("shop", "--from-quote", quote, "--expect", mr_td(quote), "--json")
    assert (done.code, answer_of(done)["reason"]) == (3, "QUOTE_SIGNATURE")
    assert machine.recorded() == {}


@pytest.mark.parametrize(
    "options",
    [
        ("--mrtd", "00" * 32),
        ("--mrtd", "00" * 48, "--rtmr1", "00" * 32),
        ("--mrenclave", "00" * 32, "--rtmr1", "00" * 48),
        ("--mrtd", "00" * 48, "--expect", "00" * 48),
        ("--mrtd", "00" * 48, "--sigstruct", "x"),
        ("--mrenclave", "00" * 32, "--xfrm", "3"),
        ("--mrenclave", "00" * 32, "--mmap-min-addr", "0"),
    ],
)
def test_what_does_not_go_together_is_misuse(machine: Machine, options: tuple[str, ...]) -> None:
    done = machine.record("shop", *options)
    assert (done.code, done.reason, machine.recorded()) == (2, "USAGE", {})


def test_a_flat_image_is_recorded_under_the_assumptions_that_were_given(machine: Machine) -> None:
    image = vector("mrenclave/flat/flat0.bin")
    for name, options in {
        "plain": (),
        "amx": ("--xfrm", "0x600e7", "--miscselect", "0", "--mmap-min-addr", "0x10000"),
    }.items():
        measured = run("shelter", "measure", image, *options, "--json").answer["mr_enclave"]
        assert machine.record(name, "--image", image, *options).code == 0
        assert machine.recorded()[name]["mr_enclave"] == measured
    assert machine.recorded()["plain"]["mr_enclave"] != machine.recorded()["amx"]["mr_enclave"]


def test_two_people_who_record_at_once_lose_nothing(tmp_path: Path) -> None:
    values = tmp_path / "values.toml"
    command = [str(BIN / "shelter"), "record", "--role", "relay", "--reference-values", str(values)]
    running = [
        subprocess.Popen([*command, f"v{number}", "--mrenclave", f"{number:02x}" * 32], stdout=subprocess.DEVNULL)
        for number in range(6)
    ]
    assert [process.wait(60) for process in running] == [0] * 6
    assert set(tomllib.loads(values.read_text())) == {f"v{number}" for number in range(6)}
