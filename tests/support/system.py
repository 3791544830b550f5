"""Real processes on loopback: the programs as an operator starts them, and a software TEE for them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eaa.simulator.images import create_signer_key, sample_image
from eaa.simulator.platform import Platform

BIN = Path(sys.executable).parent
READY_TIMEOUT = 90.0
"""Generous: a loaded machine must not fail a test. A service that dies is noticed at once."""
COMMAND_TIMEOUT = 180.0
STOP_TIMEOUT = 60.0
_LISTENING = re.compile(r"listening on (\S+)")


def run(*command: str | Path, env: Mapping[str, str] | None = None, stdin: str | None = None) -> Done:
    """Run one of our programs to its end."""
    program, *arguments = [str(part) for part in command]
    done = subprocess.run(
        [str(BIN / program), *arguments],
        capture_output=True,
        text=True,
        input=stdin or "",
        timeout=COMMAND_TIMEOUT,
        env={**os.environ, **(env or {})},
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def reason(self) -> str | None:
        """The code of the root cause, as printed for people."""
        found = re.findall(r"\[([A-Z_]+)\]", self.stdout + self.stderr)
        return found[0] if found else None

    @property
    def answer(self) -> dict[str, Any]:
        """The one JSON object that `--json` printed."""
        lines = self.stdout.splitlines()
        assert len(lines) == 1, self
        loaded: dict[str, Any] = json.loads(lines[0])
        return loaded


class Running:
    """A service process; its stderr is read to the end, so that it never blocks on it."""

    def __init__(self, *command: str | Path, env: Mapping[str, str] | None = None) -> None:
        program, *arguments = [str(part) for part in command]
        self.lines: list[str] = []
        self._unclaimed: list[str] = []
        self._ended = False
        self._said = threading.Condition()
        self.process = subprocess.Popen(
            [program if "/" in program else str(BIN / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, pattern: str | re.Pattern[str]) -> re.Match[str]:
        """Return the first match of a line of its stderr that no earlier call returned.

        A service does several things at once, and what it says of them comes in no order: a line that was said before
        the one somebody waited for is still there for whoever waits for it next.
        """
        seen = 0
        end = time.monotonic() + READY_TIMEOUT
        with self._said:
            while True:
                for index, line in enumerate(self._unclaimed[seen:], seen):
                    if found := re.search(pattern, line):
                        del self._unclaimed[index]
                        return found
                seen = len(self._unclaimed)
                assert not self._ended, f"it ended with {self.process.wait()}, {pattern!r} was not said: {self.lines}"
                assert self._said.wait(end - time.monotonic()), f"{pattern!r} was not said in time: {self.lines}"

    def address(self) -> str:
        """Wait until it listens; return the (first) address it announces."""
        return self.wait_for(_LISTENING)[1].rstrip(",/")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.process.wait()
            # To the last line, also where a process that it has started says it.
            self._reader.join(STOP_TIMEOUT)
            assert not self._reader.is_alive(), f"somebody still holds its stderr: {self.lines}"
            assert self.process.stderr is not None
            self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._say(line.rstrip())
        with self._said:
            self._ended = True
            self._said.notify_all()

    def _say(self, line: str) -> None:
        with self._said:
            self.lines.append(line)
            self._unclaimed.append(line)
            self._said.notify_all()


@contextmanager
def running(*command: str | Path, env: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Run a service for the duration of a block."""
    service = Running(*command, env=env)
    try:
        yield service
    finally:
        service.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A software TEE as a folder, sample images, collateral as a file, and recorded reference values.

    Images: `workload` and `relay` are recorded in these roles, `client` as a client, `impostor` not at all.
    """

    folder: Path
    mr_enclaves: Mapping[str, str]

    @classmethod
    def create(cls, folder: Path, *, names: Sequence[str] = ("workload", "relay", "client", "impostor")) -> Site:
        """Make one; takes about a second."""
        now = datetime.now(UTC)
        tee = folder / "tee"
        tee.mkdir(mode=0o700)
        platform = Platform.create(now=now)
        for name, content in platform.to_files().items():
            (tee / name).write_bytes(content)
        (folder / "collateral.json").write_bytes(platform.collateral(now=now).to_json())
        key = create_signer_key()
        measured = {}
        for name in names:
            image, sigstruct = sample_image(name, now=now, signer_key=key)
            (tee / f"{name}.sgxs").write_bytes(image)
            (tee / f"{name}.sigstruct").write_bytes(sigstruct)
            measured[name] = sigstruct[960:992].hex()
        site = cls(folder=folder, mr_enclaves=measured)
        site._write_values(platform)
        return site

    def _write_values(self, platform: Platform) -> None:
        anchor = hashlib.sha256(platform.root_der).hexdigest()
        lines = []
        for role in ("workload", "relay", "client"):
            lines += [f"[{role}]", f'role = "{role}"', 'attests = "process"', f'trust_anchor = "{anchor}"']
            lines += [f'mr_enclave = "{self.mr_enclaves[role]}"', ""]
        self.values.write_text("\n".join(lines))

    @property
    def tee(self) -> Path:
        """The platform's folder."""
        return self.folder / "tee"

    @property
    def root(self) -> Path:
        """The trust anchor."""
        return self.tee / "root.pem"

    @property
    def collateral(self) -> Path:
        """A collateral file."""
        return self.folder / "collateral.json"

    @property
    def values(self) -> Path:
        """The reference-value file."""
        return self.folder / "reference-values.toml"

    def image(self, name: str) -> Path:
        """An enclave image."""
        return self.tee / f"{name}.sgxs"

    @property
    def judging(self) -> tuple[str, ...]:
        """Options with which a program judges evidence of this site's platform, without a PCCS."""
        paths = {"--trust-anchor": self.root, "--reference-values": self.values, "--collateral": self.collateral}
        return tuple(str(part) for pair in paths.items() for part in pair)

    def attested(self, enclave: str, *, tee: Path | None = None) -> tuple[str, ...]:
        """Options with which a program has evidence of one of this site's images."""
        return ("--attester", "sgx_sim", "--simulator", str(tee or self.tee), "--enclave", str(self.image(enclave)))

    @contextmanager
    def workload(
        self, *options: str, enclave: str = "workload", listen: str = "tcp://127.0.0.1:0"
    ) -> Iterator[Running]:
        """Run `enclave-tls-server --mutual` in a block."""
        command = ("enclave-tls-server", "--listen", listen, "--mutual", *self.attested(enclave), *self.judging)
        with running(*command, *options) as service:
            yield service

    @contextmanager
    def relay(
        self, workload: str, *options: str, enclave: str = "relay", listen: str = "tcp://127.0.0.1:0"
    ) -> Iterator[Running]:
        """Run `inclavared --mutual` in a block."""
        hops = ("--listen", listen, "--xfer", workload, "--mutual")
        with running("inclavared", *hops, *self.attested(enclave), *self.judging, *options) as service:
            yield service

    @contextmanager
    def node(self, *relay_options: str) -> Iterator[str]:
        """Run a workload and its relay; yield the relay's address."""
        with self.workload() as workload, self.relay(workload.address(), *relay_options) as relay:
            yield relay.address()

    def shelter(self, address: str, *options: str) -> Done:
        """Run `shelter remoteattestation` against a relay."""
        return run("shelter", "remoteattestation", f"--addr={address}", *self.judging, *options)
