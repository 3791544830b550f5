"""The demonstration as command lines: what an operator would type, in order."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Final

TEE: Final = "tee"
"""The software TEE's folder."""
TAMPERED: Final = "tampered"
"""A copy of it in an attacker's hands."""
TOKEN_FILE: Final = "admin-token"  # noqa: S105  the name of a file
COLLATERAL_FILE: Final = "collateral.json"
PROGRAMS: Final = ("eaa", "eaa-pccs", "enclave-tls-server", "inclavared", "shelter")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where everything listens. Files lie in the current folder, which should be an empty one."""

    pccs: str
    """HOST:PORT."""
    workload: str
    """The workload's address."""
    relay: str
    """Inclavared's address."""

    def image(self, name: str) -> str:
        """Return the path of a sample enclave image."""
        return f"{TEE}/{name}.sgxs"

    # --- preparing ------------------------------------------------------------------------------------------------

    def create_platform(self, *images: str) -> list[str]:
        """Make the software TEE and its sample images."""
        return ["eaa", "simulator", "create", TEE, *(part for name in images for part in ("--image", name))]

    def make_token(self) -> list[str]:
        """Make the PCCS's admin token: there is no default one."""
        return ["sh", "-c", f"umask 077 && head -c 24 /dev/urandom | base64 > {TOKEN_FILE}"]

    def serve_pccs(self) -> list[str]:
        """Start the PCCS."""
        options = ("--listen", self.pccs, "--plain-http", "--db", "pccs.sqlite", "--admin-token-file", TOKEN_FILE)
        return ["eaa-pccs", "serve", *options, "--trust-anchor", f"{TEE}/root.pem"]

    def issue_collateral(self) -> list[str]:
        """Have the platform's vendor issue its collateral."""
        return ["eaa", "simulator", "collateral", TEE, "--output", COLLATERAL_FILE]

    def upload_collateral(self) -> list[str]:
        """Put it into the PCCS."""
        options = ("--url", f"http://{self.pccs}", "--admin-token-file", TOKEN_FILE)
        return ["eaa-pccs", "upload", COLLATERAL_FILE, *options]

    def measure(self, name: str) -> list[str]:
        """Compute the launch measurement of an image."""
        return ["shelter", "measure", self.image(name), "--sigstruct", self.sigstruct(name)]

    def sigstruct(self, name: str) -> str:
        """Return the path of a sample image's SIGSTRUCT."""
        return f"{TEE}/{name}.sigstruct"

    def record(self, name: str, role: str) -> list[str]:
        """Record it as what is expected in a role."""
        image = ("--image", self.image(name), "--sigstruct", self.sigstruct(name))
        return ["shelter", "record", name, "--role", role, *image, *self._trust]

    # --- running --------------------------------------------------------------------------------------------------

    def serve_workload(self, enclave: str = "workload") -> list[str]:
        """Start the workload in its enclave."""
        host, port = self.workload.removeprefix("tcp://").rsplit(":", 1)
        return [
            "enclave-tls-server",
            "--ip",
            host,
            "--port",
            port,
            "--mutual",
            *self._attested(enclave),
            *self._judging,
        ]

    def serve_relay(self) -> list[str]:
        """Start the relay in its enclave."""
        listen = self.relay.removeprefix("tcp://")
        xfer = self.workload.removeprefix("tcp://")
        options = ("--listen", listen, "--xfer", xfer)
        verifier = ("--verifier", "sgx_ecdsa_qve", "--mutual")
        return ["inclavared", *options, *self._attested("relay"), *verifier, *self._judging]

    def attest(self, workload: str | None = None) -> list[str]:
        """Have Shelter judge both: the reference command line, and what the software TEE needs."""
        named = ("--workload", workload) if workload else ()
        reference = ("--verifier", "sgx_ecdsa", "--tls", "openssl", "--crypto", "openssl", f"--addr={self.relay}")
        return ["shelter", "remoteattestation", *reference, *named, *self._judging]

    # --- attacking ------------------------------------------------------------------------------------------------

    def tamper(self) -> list[str]:
        """Copy the platform, and break its quotes."""
        return ["eaa", "simulator", "tamper", TEE, TAMPERED, "--fault", "FLIP_QUOTE_SIGNATURE"]

    def serve_attackers_relay(self, *names: str) -> list[str]:
        """Start a relay whose operator takes every workload: its configuration is the attacker's."""
        options = ["--listen", self.relay.removeprefix("tcp://")]
        for name in names:
            options += ["--xfer", f"{name}={self.attackers_socket(name)}"]
        nobody = ("--verifier", "nullverifier", "--dangerous-accept-no-evidence", "--mutual")
        return ["inclavared", *options, *self._attested("relay"), *nobody]

    def serve_attackers_workload(self, name: str, enclave: str | None, *, tee: str = TEE) -> list[str]:
        """Start a workload that is not what the owner expects; without an enclave it has no evidence at all."""
        attester = ["--attester", "nullattester"]
        if enclave is not None:
            attester = ["--attester", "sgx_sim", "--simulator", tee, "--enclave", self.image(enclave)]
        return ["enclave-tls-server", "--listen", self.attackers_socket(name), *attester]

    def attackers_socket(self, name: str) -> str:
        """Return the address of one of the attacker's workloads."""
        return f"unix://{name}.sock"

    def _attested(self, enclave: str) -> tuple[str, ...]:
        return ("--attester", "sgx_sim", "--simulator", TEE, "--enclave", self.image(enclave))

    @property
    def _judging(self) -> tuple[str, ...]:
        return (*self._trust, "--pccs", f"http://{self.pccs}")

    @property
    def _trust(self) -> tuple[str, ...]:
        return ("--trust-anchor", f"{TEE}/root.pem", "--reference-values", "reference-values.toml")


def shown(command: list[str]) -> str:
    """Return a command as it would be typed."""
    if command[:2] == ["sh", "-c"]:
        return command[2]
    return shlex.join(command)


BY_HAND = Setting(pccs="127.0.0.1:8081", workload="127.0.0.1:1234", relay="tcp://127.0.0.1:1236")
"""The addresses of the reference system."""


def by_hand() -> list[tuple[str, list[list[str]]]]:
    """Return the honest part of the demonstration by terminal: a title, and the commands to type there."""
    hand = BY_HAND
    return [
        (
            "Terminal 1, in an empty folder: a software TEE with two enclave images, and a PCCS",
            [hand.create_platform("workload", "relay"), hand.make_token(), hand.serve_pccs()],
        ),
        (
            "Terminal 2, in the same folder: its collateral into the PCCS, expected measurements, then the workload",
            [
                hand.issue_collateral(),
                hand.upload_collateral(),
                hand.record("workload", "workload"),
                hand.record("relay", "relay"),
                hand.serve_workload(),
            ],
        ),
        ("Terminal 3, in the same folder: the relay", [hand.serve_relay()]),
        ("Terminal 4, in the same folder: attest", [hand.attest()]),
    ]
