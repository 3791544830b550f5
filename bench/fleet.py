"""What is measured: real quotes where the vectors are, and a simulated fleet of as many machines as asked for."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from eaa.collateral.bundle import Collateral
from eaa.collateral.x509 import parse_pem_chain
from eaa.evidence.quote import Quote
from eaa.simulator.entropy import sign_raw
from eaa.simulator.images import create_signer_key, sample_image
from eaa.simulator.pki import SimulatedPKI
from eaa.simulator.platform import Platform
from eaa.verify.chain import INTEL, TrustAnchors

VECTORS: Final = Path(os.environ.get("EAA_VECTORS", Path(__file__).resolve().parents[2] / "shared" / "vectors"))
_HEADER: Final = 48
_SIGNED_SGX: Final = _HEADER + 384
_REPORT_DATA: Final = slice(_HEADER + 320, _HEADER + 384)
_SIGNATURE: Final = slice(_SIGNED_SGX + 4, _SIGNED_SGX + 68)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One quote with what verifies it."""

    name: str
    evidence: bytes
    collateral: Collateral
    root: bytes | None
    """The root certificate, DER; None for Intel's."""
    now: datetime

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the root under which it is verified."""
        return hashlib.sha256(self.root or parse_pem_chain(self.collateral.pck_crl_issuer_chain)[-1]).digest()

    @property
    def trust_anchors(self) -> TrustAnchors:
        """What its verifier believes: Intel, or the file that names the simulated root."""
        if self.root is None:
            return INTEL
        body = base64.encodebytes(self.root).decode()
        return TrustAnchors.from_pem(f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n".encode())


def real_subjects(*, passes: Callable[[Subject], bool]) -> Iterator[Subject]:
    """Yield one real quote of each version and kind of TEE, the first that `passes`; none without the vectors."""
    if not (VECTORS / "cases.json").is_file():
        return
    seen: set[str] = set()
    for case in json.loads((VECTORS / "cases.json").read_text(encoding="utf-8")):
        evidence = (VECTORS / case["quote"]).read_bytes()
        header = Quote.parse_prefix(evidence)[0].header
        name = f"real {header.tee_type.name} v{header.version}"
        subject = Subject(
            name=name,
            evidence=evidence,
            collateral=Collateral.from_json((VECTORS / case["collateral"]).read_bytes()),
            root=None,
            now=datetime.fromisoformat(case["at"]),
        )
        if name not in seen and passes(subject):
            seen.add(name)
            yield subject


@dataclass(frozen=True, slots=True)
class Machine:
    """One simulated machine with a first quote, from which others follow by their report data and signature."""

    evidence: bytes
    key: ec.EllipticCurvePrivateKey

    def quote(self, nonce: int) -> bytes:
        """Another quote of the same enclave."""
        changed = bytearray(self.evidence)
        changed[_REPORT_DATA] = nonce.to_bytes(64, "big")
        changed[_SIGNATURE] = sign_raw(self.key, bytes(changed[:_SIGNED_SGX]))
        return bytes(changed)


class Fleet:
    """Machines of one model and vendor, each with its own PCK certificate and attestation key."""

    def __init__(self, *, now: datetime) -> None:
        """Found the vendor."""
        self.now = now
        self._pki = SimulatedPKI.create(now=now)
        self._image = sample_image("sample", now=now, signer_key=create_signer_key())
        first = Platform.create(now=now, pki=self._pki)
        self.root = first.root_der
        self.root_pem = first.root_pem
        self.collateral = first.collateral(now=now)

    def machines(self, count: int) -> Iterator[Machine]:
        """Yield so many machines, each made when it is asked for."""
        for _ in range(count):
            platform = Platform.create(now=self.now, pki=self._pki)
            evidence = platform.launch(*self._image).quote(bytes(64))
            yield Machine(evidence, platform.quoting_enclave.attestation_key)

    def subjects(self) -> Iterator[Subject]:
        """Yield one simulated quote of SGX."""
        for machine in self.machines(1):
            yield Subject(
                name="simulated SGX v3",
                evidence=machine.evidence,
                collateral=self.collateral,
                root=self.root,
                now=self.now,
            )


def write_quotes(folder: Path, machines: list[Machine], count: int) -> list[Path]:
    """Write so many quotes, a file each, in folders of a thousand; return the paths."""
    paths = []
    for number in range(count):
        within = folder / f"{number // 1000:03}"
        if number % 1000 == 0:
            within.mkdir()
        path = within / f"{number % 1000:03}.quote"
        path.write_bytes(machines[number % len(machines)].quote(number))
        paths.append(path)
    return paths
