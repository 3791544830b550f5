"""`eaa demo`: five outcomes, each as expected; and the same by hand, line by line as it is printed."""

from __future__ import annotations

import os
import re
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from eaa.errors import Reason
from support.flow import ROOT, free_port
from support.system import BIN, Done, run, running
from support.vectors import require

ATTACKS: Final = (
    (Reason.MEASUREMENT_MISMATCH, 1),
    (Reason.QUOTE_SIGNATURE, 3),
    (Reason.NO_EVIDENCE, 1),
    (Reason.ROLE_MISMATCH, 1),
)
SUCCESS: Final = "Remote attestation is successful."
BY_HAND: Final = "<!-- demo: by hand -->"
OUTPUT: Final = re.compile(r"<!-- demo: output -->\n```console\n(.*?)\n```", re.DOTALL)
TERMINAL: Final = re.compile(r"# Terminal (\d+)")


def test_the_demonstration_shows_five_outcomes_as_expected() -> None:
    """One run, which is not cheap: the honest node is attested, and then every attack is refused with its reason."""
    done = run("eaa", "demo")
    assert done.code == 0, done
    assert done.stderr == ""
    honest, *attacks = re.split(r"^Attack \d", done.stdout, flags=re.MULTILINE)
    assert f"  {SUCCESS}\n" in honest
    assert "SIMULATED" in honest
    assert done.stdout.count("  as expected: ") == 1 + len(ATTACKS)
    for attack, (reason, code) in zip(attacks, ATTACKS, strict=True):
        assert f"[{reason}]" in attack
        assert "  shelter: hint: " in attack
        assert f"refused with {reason}, exit code {code}" in attack
        assert SUCCESS not in attack
    assert_commands_are_shown(done)
    assert alike(done.stdout) == alike(readme_output())


def readme_output() -> str:
    """What README says that the demonstration prints."""
    found = OUTPUT.search((ROOT / "README.md").read_text())
    assert found
    return found[1]


def alike(text: str) -> str:
    """Leave out what differs each time: ports, signers, seconds."""
    text = re.sub(r"(127\.0\.0\.1:)\d+", r"\1PORT", text)
    text = re.sub(r"((?:mr signer|mrsigner): )[0-9a-f]{64}", r"\1SIGNER", text)
    return re.sub(r"\(\d+\.\d s\)", "(N s)", text).strip()


def assert_commands_are_shown(done: Done) -> None:
    """What is shown can be typed: the reference command line is among it."""
    commands = [shlex.split(line.removeprefix("$ ")) for line in done.stdout.splitlines() if line.startswith("$ ")]
    reference = ["shelter", "remoteattestation", "--verifier", "sgx_ecdsa", "--tls", "openssl", "--crypto", "openssl"]
    assert sum(command[: len(reference)] == reference for command in commands) == 1 + len(ATTACKS)
    assert {command[0] for command in commands} >= {"eaa", "eaa-pccs", "enclave-tls-server", "inclavared", "shelter"}


# --- by hand


def printed() -> str:
    done = run("eaa", "demo", "--print-commands")
    assert done.code == 0
    return done.stdout


def terminals(text: str) -> dict[int, list[str]]:
    """The lines to type, by terminal."""
    lines: dict[int, list[str]] = {}
    for line in text.splitlines():
        if title := TERMINAL.match(line):
            current = lines.setdefault(int(title[1]), [])
        elif line.strip():
            current.append(line)
    return lines


def test_the_readme_shows_what_is_printed() -> None:
    readme = (ROOT / "README.md").read_text()
    require("the three commands by hand in README.md", available=BY_HAND in readme, how=f"a block after {BY_HAND}")
    block = re.match(r"\s*```\w*\n(.*?)\n```", readme.partition(BY_HAND)[2], flags=re.DOTALL)
    assert block is not None
    assert block[1].strip() == printed().strip()


def test_the_addresses_by_hand_are_those_of_the_reference_system() -> None:
    assert "--ip 127.0.0.1 --port 1234 --mutual" in printed()
    assert "127.0.0.1:1236" in printed()
    assert sorted(terminals(printed())) == [1, 2, 3, 4]


def test_what_is_printed_works_line_by_line(tmp_path: Path) -> None:
    """Each terminal types its lines in order; the last line of every terminal but the last one goes on running."""
    text = printed()
    for port in ("8081", "1234", "1236"):
        text = re.sub(rf"\b{port}\b", str(free_port()), text)
    *services, (_, last) = sorted(terminals(text).items())
    with ExitStack() as stack:
        for _, lines in services:
            for line in lines[:-1]:
                assert typed(line, tmp_path).code == 0, line
            stack.enter_context(running(*in_shell(f"exec {lines[-1]}", tmp_path), env=path())).address()
        *preparing, attest = last
        assert [typed(line, tmp_path).code for line in preparing] == [0] * len(preparing)
        done = typed(attest, tmp_path)
    assert done.code == 0, done
    assert done.stdout.splitlines()[-1] == SUCCESS


def path() -> dict[str, str]:
    """As after `. .venv/bin/activate`."""
    return {"PATH": f"{BIN}:{os.environ['PATH']}"}


def in_shell(line: str, folder: Path) -> tuple[str, ...]:
    return ("/bin/sh", "-c", f"cd {shlex.quote(str(folder))} && {line}")


def typed(line: str, folder: Path) -> Done:
    return run(*in_shell(line, folder), env=path())
